//! `/db/request`: reads and writes in one request.

use std::time::Duration;

use crate::{
    error, query,
    respond::Reply,
    results::{self, Done, Kind, Unit},
    service::Call,
    statements,
};

/// How long a linearizable read of this endpoint waits for the state machine; it takes no parameter for it.
const LINEARIZABLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the statements of the body, each as what it is.
pub(crate) async fn request(call: &mut Call<'_>) -> Reply {
    let statements = match statements::read(call, false).await {
        Ok(received) => received.statements,
        Err(refusal) => return refusal,
    };
    let metrics = &call.service.metrics;
    metrics.requests.increment();
    metrics.request_statements.add(statements.len());
    let node = match call.service.node() {
        Ok(node) => node,
        Err(error) => return error::in_json(call, &error),
    };
    let results = results::encoder(call, Kind::Read);
    if statements.is_empty() {
        return results::reply(call, results, Done::nothing());
    }
    let unit = Unit::of(call.params.transaction, &statements);
    let read = query::read(call, statements, LINEARIZABLE_TIMEOUT);
    match node.request_routed(read, results, &call.route()).await {
        Ok((results, served)) => results::reply(call, results, Done::served(served, unit)),
        Err(error) => error::in_json(call, &error),
    }
}
