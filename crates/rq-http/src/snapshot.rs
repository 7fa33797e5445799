//! `/snapshot` and `/reap`: housekeeping of this node's own files, never forwarded.

use http::StatusCode;

use crate::{error, respond::Reply, routes::JSON, service::Call};

/// Makes the state machine durable and purges the log: 200 if done, 204 if there was nothing new.
pub(crate) async fn snapshot(call: &Call<'_>) -> Reply {
    call.service.metrics.snapshots.increment();
    // Upstream takes a negative number for a huge one, and 0 for the configured one.
    let trailing_logs = match call.params.trailing_logs {
        0 => None,
        entries => Some(u64::try_from(entries).unwrap_or(u64::MAX)),
    };
    let taken = match call.service.node() {
        Ok(node) => node.snapshot(trailing_logs).await,
        Err(error) => Err(error),
    };
    match taken {
        Ok(true) => Reply::empty(StatusCode::OK),
        Ok(false) => Reply::empty(StatusCode::NO_CONTENT),
        Err(error) => error::in_text(call, &error, ""),
    }
}

/// There are no snapshot directories to tidy up, so nothing is ever reaped.
pub(crate) fn reap(call: &Call<'_>) -> Reply {
    call.service.metrics.reaps.increment();
    match call.service.node() {
        Ok(_node) => Reply {
            content_type: Some(JSON),
            ..Reply::json("{\"snapshots_reaped\":0,\"wals_checkpointed\":0}\n")
        },
        Err(error) => error::in_text(call, &error, ""),
    }
}
