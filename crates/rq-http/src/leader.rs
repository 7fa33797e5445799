//! `/leader`: who leads, and handing leadership over.

use http::{
    Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use rq_node::{Error, Node, Route};
use serde_json::Value;

use crate::{
    error, nodes,
    respond::{Reply, ServedBy},
    routes::JSON,
    service::Call,
};

/// `/leader`.
pub(crate) async fn leader(call: &mut Call<'_>) -> Reply {
    if call.head.method == Method::GET {
        return match nodes::leader(call).await {
            Ok(body) => Reply::json(body),
            Err(error) => error::in_text(call, &error, ""),
        };
    }
    match hand_over(call).await {
        Ok(by) => Reply { content_type: Some(JSON), ..Reply::empty(StatusCode::OK).served(by) },
        Err(reply) => reply,
    }
}

/// Hands leadership over. Without `wait` it is only begun, here or on the leader, and only a wrong target is an
/// error.
async fn hand_over(call: &mut Call<'_>) -> Result<ServedBy, Reply> {
    let target = target(call).await?;
    let service = call.service;
    let node = service.node().map_err(|error| refuse(call, &error))?;
    if let Some(target) = &target {
        check_target(node, target).map_err(|error| refuse(call, &error))?;
    }
    let route = call.route();
    if call.params.wait {
        let by = node.step_down(target.as_deref(), &route).await;
        let by = by.map_err(|error| refuse(call, &error))?;
        if by.is_some() {
            service.metrics.remote_step_downs.increment();
        }
        return Ok(ServedBy::from(by));
    }
    let Some(leader) = node.leader() else { return Err(refuse(call, &Error::LeaderNotFound)) };
    let is_here = leader.id == node.id();
    if !is_here && !route.forward {
        return Err(refuse(call, &Error::NotLeader { leader: Some(leader) }));
    }
    tokio::spawn(begin(node.clone(), target, route));
    Ok(if is_here { ServedBy::ThisNode } else { ServedBy::Leader(leader.raft_addr) })
}

/// Hands leadership over while nobody waits for it.
async fn begin(node: Node, target: Option<String>, route: Route) {
    if let Err(error) = node.step_down(target.as_deref(), &route).await {
        tracing::warn!(component = "http", "leadership was not handed over: {error}");
    }
}

/// Finds a target out that cannot be one, before anything is begun.
fn check_target(node: &Node, target: &str) -> Result<(), Error> {
    let members = node.members();
    let leader = node.leader().ok_or(Error::LeaderNotFound)?;
    let reason = if target == leader.id {
        "cannot step down to the current Leader"
    } else if !members.iter().any(|member| member.id == target) {
        "node not found in cluster"
    } else {
        return Ok(());
    };
    Err(Error::Membership(reason.to_owned()))
}

fn refuse(call: &Call<'_>, error: &Error) -> Reply {
    error::in_text(call, error, "stepdown: ")
}

/// The node named in the body, which is only looked at if it says that it is JSON, to the letter.
async fn target(call: &mut Call<'_>) -> Result<Option<String>, Reply> {
    let headers = &call.head.headers;
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|value| value == "application/json");
    let length: u64 = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    if !is_json || length == 0 {
        return Ok(None);
    }
    let body = call.read_body().await?;
    let value: Value = serde_json::from_slice(&body)
        .map_err(|problem| error::bad_request(&format!("invalid JSON: {problem}")))?;
    let named = match value.get("id") {
        Some(Value::String(id)) => Some(id.clone()).filter(|id| !id.is_empty()),
        None | Some(Value::Null) if value.is_object() || value.is_null() => None,
        None
        | Some(
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_),
        ) => {
            return Err(error::bad_request("invalid JSON: id must be a string in an object"));
        }
    };
    Ok(named)
}
