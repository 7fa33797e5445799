//! `DELETE /remove`: takes a member out of the cluster, through the leader.

use http::StatusCode;
use serde_json::Value;

use crate::{
    error,
    respond::{Reply, ServedBy},
    service::Call,
};

/// `/remove`. A name nobody has is removed already.
pub(crate) async fn remove(call: &mut Call<'_>) -> Reply {
    let body = match call.read_body().await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let Some(name) = name(&body) else { return error::bad_request_without_a_word() };
    let service = call.service;
    let node = match service.node() {
        Ok(node) => node,
        Err(refusal) => return error::in_text(call, &refusal, ""),
    };
    match node.remove(&name, &call.route()).await {
        Ok(by) => {
            if by.is_some() {
                service.metrics.remote_removals.increment();
            }
            Reply::empty(StatusCode::OK).served(ServedBy::from(by))
        }
        Err(refusal) => error::in_text(call, &refusal, ""),
    }
}

/// The name in an object of exactly one key.
fn name(body: &[u8]) -> Option<String> {
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else { return None };
    match object.get("id") {
        Some(Value::String(name)) if object.len() == 1 => Some(name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_an_object_with_one_id() {
        assert_eq!(name(br#"{"id":"2"}"#).as_deref(), Some("2"));
        for bad in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"id":2}"#,
            r#"{"id":null}"#,
            r#"{"id":"1","x":1}"#,
            r#"{"ID":"1"}"#,
        ] {
            assert_eq!(name(bad.as_bytes()), None, "{bad}");
        }
    }
}
