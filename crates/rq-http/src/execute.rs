//! `/db/execute`: writes, at once or queued.

use rq_api::results::{Envelope, Options, Results};
use rq_node::{Error, Write};

use crate::{
    error,
    queue::{Failure, Ticket},
    respond::Reply,
    results::{self, Done, Kind, Unit},
    service::Call,
    statements,
};

/// Runs the statements of the body as one write.
pub(crate) async fn execute(call: &mut Call<'_>) -> Reply {
    if call.params.queue {
        return Box::pin(enqueue(call)).await;
    }
    let received = match statements::read(call, true).await {
        Ok(received) => received,
        Err(refusal) => return refusal,
    };
    let statements = received.statements;
    let metrics = &call.service.metrics;
    metrics.executions.increment();
    metrics.execute_statements.add(statements.len());
    let node = match call.service.node() {
        Ok(node) => node,
        Err(error) => return error::in_json(call, &error),
    };
    let mut results = results::encoder(call, Kind::Write);
    if statements.is_empty() {
        return results::reply(call, results, Done::nothing());
    }
    let unit = Unit::of(call.params.transaction, &statements);
    let write = Write {
        statements,
        transaction: call.params.transaction,
        timeout: call.params.db_timeout.positive(),
    };
    match node.execute_routed(write, &call.route()).await {
        Ok(written) => {
            for result in &written.results {
                result.outcome.replay(result.elapsed, &mut results);
            }
            results::reply(call, results, Done::written(written, unit))
        }
        Err(error) => error::in_json(call, &error),
    }
}

/// Puts the statements of the body into the queue, and waits for them if asked to.
async fn enqueue(call: &mut Call<'_>) -> Reply {
    let service = call.service;
    let has_leader = service.slot.get().is_some_and(|node| node.leader().is_some());
    if !has_leader && !call.params.noleader {
        return error::in_text(call, &Error::LeaderNotFound, "");
    }
    let received = match statements::read_queued(call).await {
        Ok(received) => received,
        Err(refusal) => return refusal,
    };
    service.metrics.queued.increment();
    service.metrics.queued_statements.add(received.statements.len());
    service.metrics.queue_received.increment();
    let credentials = call.credentials();
    let put = service.queue.put(received.statements, received.bytes, credentials);
    let ticket = match put.await {
        Ok(ticket) => ticket,
        Err(error) => return error::in_json(call, &error),
    };
    let sequence = ticket.sequence;
    if call.params.wait {
        service.metrics.queued_wait.increment();
        if let Err(reply) = wait(call, ticket).await {
            return reply;
        }
    }
    numbered(call, sequence)
}

/// Waits until a queued write has been dealt with.
async fn wait(call: &Call<'_>, ticket: Ticket) -> Result<(), Reply> {
    match tokio::time::timeout(call.timeout(), ticket.done).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(Failure::Node(error)))) => Err(error::in_json(call, &error)),
        Ok(Ok(Err(Failure::Statement(error)))) => Err(error::undone_in_json(call, &error)),
        Ok(Err(_gone)) => {
            let reason = "the queue ended without a word".to_owned();
            Err(error::in_json(call, &Error::OutcomeUnknown(reason)))
        }
        Err(_elapsed) => {
            call.service.metrics.queued_wait_timeout.increment();
            Err(error::queue_timeout())
        }
    }
}

/// The reply that tells a queued write's number.
fn numbered(call: &Call<'_>, sequence: u64) -> Reply {
    let params = &call.params;
    let options = Options { timings: params.timings, pretty: params.pretty, ..Options::default() };
    let envelope = Envelope {
        elapsed: Some(call.began.elapsed()),
        sequence_number: i64::try_from(sequence).ok(),
        ..Envelope::default()
    };
    match Results::new(options, rq_api::results::Limits::default()).finish(&envelope) {
        Ok(answer) => Reply::json(answer.body),
        Err(unrepresentable) => error::unrepresentable_reply(&unrepresentable.to_string()),
    }
}
