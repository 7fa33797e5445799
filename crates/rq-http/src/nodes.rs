//! `/nodes`: the members of the cluster, and what contacting each gave.

use std::time::Duration;

use rq_api::nodes::{Contact, Node};
use rq_node::{Error, Reached};

use crate::{error, respond::Reply, service::Call};

/// `/nodes`.
pub(crate) async fn nodes(call: &Call<'_>) -> Reply {
    let contacts = match call.service.node() {
        Ok(node) => node.contact_members(call.timeout(), call.retries()).await,
        Err(error) => Err(error),
    };
    let contacts = match contacts {
        Ok(contacts) => contacts,
        Err(error) => return error::in_text(call, &error, "store nodes: "),
    };
    let nodes: Vec<Node> = contacts
        .into_iter()
        .filter(|contact| contact.member.voter || call.params.nonvoters)
        .map(describe)
        .collect();
    Reply::json(rq_api::nodes::encode(&nodes, call.params.nodes_version, call.params.pretty))
}

/// The leader, as `GET /leader` shows it.
pub(crate) async fn leader(call: &Call<'_>) -> Result<Vec<u8>, Error> {
    let node = call.service.node().map_err(|_not_open| Error::LeaderNotFound)?;
    let contact = node.contact_leader(call.timeout(), call.retries()).await?;
    Ok(rq_api::nodes::encode_leader(&describe(contact), call.params.pretty))
}

fn describe(contact: rq_node::Contact) -> Node {
    let rq_node::Contact { member, leads, reached } = contact;
    let contact = match reached {
        Ok(Reached { api_url, version, commit_index: _, elapsed }) => Contact::Reached {
            api_url,
            version,
            is_leader: leads,
            // Some clients insist on a time, and a time of zero would be left out.
            elapsed: elapsed.max(Duration::from_nanos(1)),
        },
        Err(error) => Contact::Failed { error },
    };
    Node { id: member.id, address: member.raft_addr, is_voter: member.voter, contact }
}
