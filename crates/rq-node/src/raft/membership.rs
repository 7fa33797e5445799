//! The membership of the cluster as bytes: in the log, and in the state table of the database.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{Membership, StoredMembership};
use prost::Message as _;
use rq_sqlite::EntryId;

use super::{LogId, Peer, TypeConfig, entry_id, log_id};

/// A membership as openraft has it.
pub(crate) type ClusterMembership = Membership<u64, Peer>;
/// A membership and the entry it came from.
pub(crate) type Stored = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;

/// A member, as a membership lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its number in Raft.
    pub(crate) raft_id: u64,
    /// How it is reached.
    pub(crate) peer: Peer,
    /// Whether it votes; in the midst of a change, whether it will.
    pub(crate) voter: bool,
}

/// The members in the bytes of a membership, ascending by number.
///
/// # Errors
/// Bytes that are none.
pub(crate) fn list(bytes: &[u8]) -> Result<Vec<Listed>, String> {
    let membership = decode(bytes)?;
    let voters = membership.get_joint_config().last();
    let members = membership.nodes().map(|(id, peer)| Listed {
        raft_id: *id,
        peer: peer.clone(),
        voter: voters.is_some_and(|voters| voters.contains(id)),
    });
    Ok(members.collect())
}

/// The bytes of a membership of these members, not in the midst of any change.
///
/// # Errors
/// Members that cannot be a cluster.
pub(crate) fn encode_list(members: &[Listed]) -> Result<Vec<u8>, String> {
    let voters = members.iter().filter(|member| member.voter).map(|member| member.raft_id);
    let nodes: BTreeMap<u64, Peer> =
        members.iter().map(|member| (member.raft_id, member.peer.clone())).collect();
    let membership = Membership::new(vec![voters.collect()], nodes);
    membership.map(|membership| encode(&membership)).map_err(|error| error.to_string())
}

/// The bytes of a membership.
pub(crate) fn encode(membership: &ClusterMembership) -> Vec<u8> {
    let voters = membership
        .get_joint_config()
        .iter()
        .map(|config| ConfigMessage { voters: config.iter().copied().collect() })
        .collect();
    let nodes = membership
        .nodes()
        .map(|(id, peer)| NodeMessage {
            id: *id,
            name: peer.name.clone(),
            raft_addr: peer.raft_addr.clone(),
            api_url: peer.api_url.clone(),
            replica: peer.replica,
        })
        .collect();
    MembershipMessage { configs: voters, nodes }.encode_to_vec()
}

/// The membership in `bytes`.
///
/// # Errors
/// Bytes that are none.
pub(crate) fn decode(bytes: &[u8]) -> Result<ClusterMembership, String> {
    let message = MembershipMessage::decode(bytes).map_err(|error| error.to_string())?;
    let configs: Vec<BTreeSet<u64>> =
        message.configs.into_iter().map(|config| config.voters.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Peer> = message
        .nodes
        .into_iter()
        .map(|node| {
            let NodeMessage { id, name, raft_addr, api_url, replica } = node;
            (id, Peer { name, raft_addr, api_url, replica })
        })
        .collect();
    Membership::new(configs, nodes).map_err(|error| error.to_string())
}

/// The membership stored in the database, or the empty one.
///
/// # Errors
/// Bytes that are none.
pub(crate) fn stored(record: Option<&(EntryId, Vec<u8>)>) -> Result<Stored, String> {
    match record {
        None => Ok(StoredMembership::default()),
        Some((id, bytes)) => Ok(StoredMembership::new(Some(log_id(*id)), decode(bytes)?)),
    }
}

/// The entry a membership came from.
pub(crate) fn origin(stored: &Stored) -> Option<EntryId> {
    stored.log_id().as_ref().map(|id: &LogId| entry_id(id))
}

#[derive(Clone, PartialEq, prost::Message)]
struct MembershipMessage {
    #[prost(message, repeated, tag = "1")]
    configs: Vec<ConfigMessage>,
    #[prost(message, repeated, tag = "2")]
    nodes: Vec<NodeMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ConfigMessage {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NodeMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    raft_addr: String,
    #[prost(string, tag = "4")]
    api_url: String,
    #[prost(bool, tag = "5")]
    replica: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoded_membership_equals_the_encoded_one_and_garbage_is_refused() {
        let peer = |name: &str| Peer { name: name.to_owned(), ..Peer::default() };
        let nodes = BTreeMap::from([(1, peer("a")), (2, peer("b")), (3, peer("c"))]);
        let configs = vec![BTreeSet::from([1]), BTreeSet::from([1, 2])];
        let membership = Membership::new(configs, nodes).expect("each voter has a node");
        assert_eq!(decode(&encode(&membership)), Ok(membership.clone()));
        assert!(decode(b"\xff\xff\xff").is_err());
        let members = list(&encode(&membership)).expect("it is one");
        assert_eq!(
            members.iter().map(|member| member.voter).collect::<Vec<_>>(),
            [true, true, false]
        );
        let uniform = decode(&encode_list(&members).expect("they can be"));
        let uniform = uniform.expect("it is one");
        assert_eq!(uniform.get_joint_config(), &vec![BTreeSet::from([1, 2])]);
        assert_eq!(uniform.nodes().count(), 3);
    }
}
