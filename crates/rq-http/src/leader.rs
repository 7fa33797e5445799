//! `/leader`: who leads, and handing leadership over.

use http::{
    Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use rq_node::{Error, Status};
use serde_json::Value;

use crate::{error, nodes, respond::Reply, routes::JSON, service::Call};

/// Why leadership cannot be handed over.
const NO_PEER: &str = "stepdown: cannot find peer";

/// `/leader`.
pub(crate) async fn leader(call: &mut Call<'_>) -> Reply {
    if call.head.method == Method::GET {
        return match nodes::leader(call) {
            Ok(body) => Reply::json(body),
            Err(error) => error::in_text(call.service, &error, ""),
        };
    }
    match hand_over(call).await {
        Ok(()) => Reply { content_type: Some(JSON), ..Reply::empty(StatusCode::OK).served() },
        Err(reply) => reply,
    }
}

/// Hands leadership over. Without `wait` only a wrong target is an error, as upstream has it.
async fn hand_over(call: &mut Call<'_>) -> Result<(), Reply> {
    let target = target(call).await?;
    let service = call.service;
    let refuse = |error: &Error| error::in_text(service, error, "stepdown: ");
    let status = service.node().map_err(|error| refuse(&error))?.status();
    let leader = status.leader.as_ref().ok_or_else(|| refuse(&Error::LeaderNotFound))?;
    if let Some(target) = target {
        check_target(&status, &leader.id, &target)?;
    }
    let has_peer = status.members.iter().any(|member| member.voter && member.id != leader.id);
    // No member but this one can be reached yet, so there is never anybody to hand over to.
    if call.params.wait || has_peer {
        return Err(failed(NO_PEER));
    }
    Ok(())
}

fn check_target(status: &Status, leader: &str, target: &str) -> Result<(), Reply> {
    if target == leader {
        return Err(failed("stepdown: cannot step down to the current Leader"));
    }
    if !status.members.iter().any(|member| member.id == target) {
        return Err(failed("stepdown: node not found in cluster"));
    }
    Ok(())
}

fn failed(message: &str) -> Reply {
    Reply::text_error(StatusCode::INTERNAL_SERVER_ERROR, message)
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
