//! `/nodes`: the members of the cluster, and what contacting each gave.

use std::time::{Duration, Instant};

use rq_api::nodes::{Contact, Node};
use rq_node::{Error, Member, Status};

use crate::{error, respond::Reply, service::Call};

/// `/nodes`.
pub(crate) fn nodes(call: &Call<'_>) -> Reply {
    let node = match call.service.node() {
        Ok(node) => node,
        Err(error) => return error::in_text(call.service, &error, "store nodes: "),
    };
    let began = Instant::now();
    let status = node.status();
    let nodes: Vec<Node> = status
        .members
        .iter()
        .filter(|member| member.voter || call.params.nonvoters)
        .map(|member| describe(call, &status, member, began))
        .collect();
    Reply::json(rq_api::nodes::encode(&nodes, call.params.nodes_version, call.params.pretty))
}

/// The leader, as `GET /leader` shows it.
pub(crate) fn leader(call: &Call<'_>) -> Result<Vec<u8>, Error> {
    let began = Instant::now();
    let status = call.service.node().map_err(|_not_open| Error::LeaderNotFound)?.status();
    let leader = status.leader.as_ref().ok_or(Error::LeaderNotFound)?;
    let node = describe(call, &status, leader, began);
    Ok(rq_api::nodes::encode_leader(&node, call.params.pretty))
}

/// This node answers for itself. There is no way yet to ask another.
fn describe(call: &Call<'_>, status: &Status, member: &Member, began: Instant) -> Node {
    let contact = if member.id == status.node_id {
        Contact::Reached {
            api_url: member.api_url.clone(),
            version: call.service.options.build.api_version.clone(),
            is_leader: status.leader.as_ref().is_some_and(|leader| leader.id == member.id),
            // Some clients insist on a time, and a time of zero would be left out.
            elapsed: began.elapsed().max(Duration::from_nanos(1)),
        }
    } else {
        Contact::Failed { error: "this node cannot reach others".to_owned() }
    };
    Node {
        id: member.id.clone(),
        address: member.raft_addr.clone(),
        is_voter: member.voter,
        contact,
    }
}
