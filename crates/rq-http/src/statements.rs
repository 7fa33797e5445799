//! From a request to its statements.

use http::header::CONTENT_TYPE;
use rq_api::statement::{DecodeError, DecodeOptions, decode, decode_text};
use rq_sql::Statement;

use crate::{error, respond::Reply, service::Call};

/// What a request brought.
pub(crate) struct Received {
    /// The statements, none of them empty.
    pub(crate) statements: Vec<Statement>,
    /// Bytes of the body they came in.
    pub(crate) bytes: usize,
}

/// Reads the statements of the body. Where `takes_text`, a plain-text body is one statement.
///
/// # Errors
/// The reply to give instead.
pub(crate) async fn read(call: &mut Call<'_>, takes_text: bool) -> Result<Received, Reply> {
    let body = call.read_body().await?;
    let bytes = body.len();
    let statements = if takes_text && is_text(call) {
        decode_text(body.to_vec())
    } else {
        decode(&body, &options(call))
    };
    match statements {
        Ok(statements) => {
            call.statements = statements.len();
            Ok(Received { statements, bytes })
        }
        Err(problem) => Err(error::bad_body(call, &problem)),
    }
}

/// Reads the statements of a body that is always JSON, also those that are empty.
///
/// # Errors
/// The reply to give instead.
pub(crate) async fn read_all(call: &mut Call<'_>) -> Result<Vec<Statement>, Reply> {
    let body = call.read_body().await?;
    let options = DecodeOptions { keep_empty: true, ..options(call) };
    decode(&body, &options).map_err(|problem| error::bad_body(call, &problem))
}

/// Reads the statements of a body that is always JSON, for a queue: there an empty list can have a meaning.
///
/// # Errors
/// The reply to give instead.
pub(crate) async fn read_queued(call: &mut Call<'_>) -> Result<Received, Reply> {
    let body = call.read_body().await?;
    let bytes = body.len();
    match decode(&body, &options(call)) {
        Ok(statements) => Ok(Received { statements, bytes }),
        Err(DecodeError::NoStatements) if call.params.wait => {
            Ok(Received { statements: Vec::new(), bytes })
        }
        Err(problem) => Err(error::bad_body(call, &problem)),
    }
}

fn options(call: &Call<'_>) -> DecodeOptions {
    let limits = call.service.limits();
    let unless_off = |limit: usize| if limit == 0 { usize::MAX } else { limit };
    DecodeOptions {
        strict: call.is_strict(),
        keep_empty: false,
        statements_max: unless_off(limits.statements_max),
        parameters_max: unless_off(limits.parameters_max),
    }
}

/// Whether the body is SQL. Upstream compares the beginning, and in lower case.
fn is_text(call: &Call<'_>) -> bool {
    let content_type = call.head.headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/plain"))
}
