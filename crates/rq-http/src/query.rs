//! `/db/query`: reads.

use std::time::Duration;

use http::Method;
use rq_api::{params::Level as AskedLevel, statement::DecodeError};
use rq_node::{Level, Read};
use rq_sql::Statement;

use crate::{
    error,
    respond::Reply,
    results::{self, Done, Kind, Unit},
    service::Call,
    statements,
};

/// Runs the statements of the body, or the one in the query string, as reads.
pub(crate) async fn query(call: &mut Call<'_>) -> Reply {
    let statements = if call.head.method == Method::GET {
        if call.params.is_query_broken {
            return error::bad_body(call, &DecodeError::InvalidUtf8);
        }
        call.params.query.take().map(Statement::new).into_iter().collect()
    } else {
        match statements::read(call, true).await {
            Ok(received) => received.statements,
            Err(refusal) => return refusal,
        }
    };
    let metrics = &call.service.metrics;
    metrics.queries.increment();
    metrics.query_statements.add(statements.len());
    let node = match call.service.node() {
        Ok(node) => node,
        Err(error) => return error::in_json(call, &error),
    };
    let results = results::encoder(call, Kind::Read);
    if statements.is_empty() {
        return results::reply(call, results, Done::nothing());
    }
    let linearizable_timeout =
        call.params.linearizable_timeout.positive().unwrap_or(Duration::ZERO);
    let read = read(call, statements, linearizable_timeout);
    match node.query_routed(read, results, &call.route()).await {
        Ok((results, served)) => results::reply(call, results, Done::served(served, Unit::Reads)),
        Err(error) => error::in_json(call, &error),
    }
}

/// A read as the request's parameters describe it.
pub(crate) fn read(
    call: &Call<'_>,
    statements: Vec<Statement>,
    linearizable_timeout: Duration,
) -> Read {
    let params = &call.params;
    Read {
        statements,
        transaction: params.transaction,
        level: match params.level {
            AskedLevel::None => Level::None,
            AskedLevel::Weak => Level::Weak,
            AskedLevel::Linearizable => Level::Linearizable,
            AskedLevel::Strong => Level::Strong,
            AskedLevel::Auto => Level::Auto,
        },
        freshness: params.freshness.positive(),
        freshness_strict: params.freshness_strict,
        linearizable_timeout,
        timeout: params.db_timeout.positive(),
        min_index: params.min_index,
    }
}
