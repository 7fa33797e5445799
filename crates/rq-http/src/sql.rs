//! `/db/sql`: what would be run for a statement. Nothing is ever rewritten, so that is the statement itself;
//! what remains useful is SQLite's opinion of its syntax.

use http::Method;
use rq_api::statement::DecodeError;
use rq_node::Error;
use rq_sql::Statement;
use serde_json::{Map, Value, json};

use crate::{error, respond::Reply, service::Call, statements};

/// Shows each statement, and what is wrong with it.
pub(crate) async fn sql(call: &mut Call<'_>) -> Reply {
    call.service.metrics.analyses.increment();
    let statements: Vec<Statement> = if call.head.method == Method::GET {
        let Some(sql) = call.params.query.take() else {
            return error::bad_request("query not specified");
        };
        if call.params.is_query_broken {
            return error::bad_body(call, &DecodeError::InvalidUtf8);
        }
        vec![Statement::new(sql)]
    } else {
        match statements::read_all(call).await {
            Ok(statements) => statements,
            Err(refusal) => return refusal,
        }
    };
    match analyze(call, &statements).await {
        Ok(body) => Reply::json(body),
        Err(error) => error::in_json(call, &error),
    }
}

async fn analyze(call: &Call<'_>, statements: &[Statement]) -> Result<Vec<u8>, Error> {
    let node = call.service.node()?;
    let mut results = Vec::with_capacity(statements.len());
    for statement in statements {
        if statement.sql.is_empty() {
            // The parser's word for a text that ends before a statement begins.
            results.push(json!({ "original": "", "error": "EOF" }));
            continue;
        }
        results.push(match node.check(&statement.sql).await? {
            None => json!({ "original": statement.sql, "rewritten": statement.sql }),
            Some(message) => json!({ "original": statement.sql, "error": message }),
        });
    }
    let mut body = Map::new();
    body.insert("results".to_owned(), Value::Array(results));
    if call.params.timings {
        body.insert("time".to_owned(), json!(call.began.elapsed().as_secs_f64()));
    }
    Ok(rq_api::status::encode(&Value::Object(body), "", call.params.pretty))
}
