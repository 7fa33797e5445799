//! `/readyz`: whether this node may be sent requests.

use std::time::Duration;

use http::StatusCode;
use rq_api::{ready::Readiness, results::Results};
use rq_node::{Error, Level, Node, Read};
use rq_sql::Statement;

use crate::{respond::Reply, service::Call};

/// How long the read that proves that the database answers may take, if the client does not state less. It
/// includes the wait for a connection: with all of them busy for longer, this node serves nobody else either.
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);

/// `/readyz`.
pub(crate) async fn ready(call: &Call<'_>) -> Reply {
    call.service.metrics.readyz.increment();
    let readiness = examine(call).await;
    let status =
        StatusCode::from_u16(readiness.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    Reply::text(status, readiness.body())
}

async fn examine(call: &Call<'_>) -> Readiness {
    if call.params.noleader {
        return Readiness::NodeOnly;
    }
    let Some(node) = call.service.slot.get() else { return Readiness::NoLeader };
    if let Some(reason) = node.given_up() {
        return Readiness::StoreUnfit { reason };
    }
    if node.leader().is_none() {
        return Readiness::NoLeader;
    }
    match node.contact_leader(call.timeout(), call.retries()).await {
        Ok(contact) => {
            if let Err(error) = contact.reached {
                return Readiness::LeaderNotContactable { error };
            }
        }
        Err(Error::LeaderNotFound) => return Readiness::NoLeader,
        Err(error) => return Readiness::LeaderNotContactable { error: error.to_string() },
    }
    if let Some(other) = node.other_engine() {
        return Readiness::StoreUnfit { reason: other.to_string() };
    }
    if !node.is_ready() {
        return Readiness::StoreNotReady;
    }
    let synced = call.params.sync;
    if synced && let Err(error) = node.sync(call.timeout()).await {
        let error = match error {
            Error::DeadlineExceeded | Error::WaitTimeout { .. } => {
                "timeout waiting for commit index".to_owned()
            }
            other => other.to_string(),
        };
        return Readiness::NotSynced { error };
    }
    match tokio::time::timeout(PROOF_TIMEOUT.min(call.timeout()), prove(node)).await {
        Ok(Ok(())) => Readiness::Ready { synced },
        Ok(Err((error, rows))) => Readiness::DatabaseFailed { synced, error, rows },
        Err(_elapsed) => {
            let error = "timeout waiting for a read".to_owned();
            Readiness::DatabaseFailed { synced, error, rows: "[]".to_owned() }
        }
    }
}

/// Reads a row. The error is that of the read, and what it gave.
async fn prove(node: &Node) -> Result<(), (String, String)> {
    const EXPECTED: &str = r#"{"results":[{"columns":["1"],"types":["integer"],"values":[[1]]}]}"#;
    let read = Read {
        statements: vec![Statement::new("SELECT 1")],
        transaction: false,
        level: Level::None,
        freshness: None,
        freshness_strict: false,
        linearizable_timeout: PROOF_TIMEOUT,
        timeout: Some(PROOF_TIMEOUT),
        min_index: None,
    };
    let results =
        Results::new(rq_api::results::Options::default(), rq_api::results::Limits::default());
    let (results, _served) =
        node.query(read, results).await.map_err(|error| (error.to_string(), "[]".to_owned()))?;
    let answer = results
        .finish(&rq_api::results::Envelope::default())
        .map_err(|error| (error.to_string(), "[]".to_owned()))?;
    if answer.body == EXPECTED.as_bytes() {
        return Ok(());
    }
    Err(("<nil>".to_owned(), String::from_utf8_lossy(&answer.body).into_owned()))
}
