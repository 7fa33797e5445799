//! From failures to answers: the only place where an error becomes a status, a body and `X-Rq-Error`.
//!
//! Existing clients tell four channels apart, and so do we:
//!
//! 1. an empty body with a status (401, 404, 405);
//! 2. a text error: a status, and the message with one line feed;
//! 3. for execute, query and request: 200 with `{"results":[],"error":"…"}`, for everything below HTTP except
//!    "leader not found" and the limits of this node (413, 503, 507), which are text errors;
//!    Where another node was to do it, the error also stands in the place of each result;
//! 4. errors of single statements, which are results and none of this file's business.

use std::time::Duration;

use http::{Method, StatusCode};
use rq_api::{
    error::{Code, Outcome},
    results::{Envelope, Options, Results},
    statement::DecodeError,
};
use rq_node::{EffectKnown, Error};
use rq_sql::{End, ErrorKind, Origin, ResultSink as _, SqlError};

use crate::{
    limits::Limits,
    respond::Reply,
    routes::{self, Endpoint},
    service::{Call, Service},
};

/// The code of a failure.
pub(crate) fn code(error: &Error) -> Code {
    match error {
        Error::DisallowedPragma => Code::DisallowedPragma,
        Error::NotOpen => Code::StoreNotOpen,
        Error::NotReady | Error::ApplyStalled { .. } => Code::StoreNotReady,
        Error::OtherEngine(_) => Code::OtherEngine,
        Error::LeaderNotFound => Code::LeaderNotFound,
        Error::NotLeader { .. } => Code::NotLeader,
        Error::StaleRead => Code::StaleRead,
        Error::DeadlineExceeded | Error::EnqueueTimeout => Code::TimeoutBeforeProposal,
        Error::WaitTimeout { .. } => Code::QueryTimeout,
        Error::DiskFull { .. } => Code::DiskFull,
        Error::TooLarge { .. } => Code::BodyTooLarge,
        Error::Overloaded => Code::Overloaded,
        Error::ShuttingDown => Code::ShuttingDown,
        Error::Request(_) => Code::TransactionMisuse,
        Error::OutcomeUnknown(_) => Code::OutcomeUnknown,
        Error::Unauthorized(_) => Code::Unauthorized,
        Error::Unreachable(_) => Code::ForwardFailed,
        Error::Membership(_) => Code::Membership,
        Error::Stopped(_) => Code::Internal,
    }
}

/// The status of a failure whose channel is a text error, whatever the endpoint; `None` if that depends on it.
fn status_everywhere(error: &Error) -> Option<StatusCode> {
    match error {
        Error::LeaderNotFound
        | Error::ApplyStalled { .. }
        | Error::OtherEngine(_)
        | Error::EnqueueTimeout
        | Error::Overloaded
        | Error::ShuttingDown
        | Error::Stopped(_) => Some(StatusCode::SERVICE_UNAVAILABLE),
        Error::TooLarge { .. } => Some(StatusCode::PAYLOAD_TOO_LARGE),
        Error::Unauthorized(_) => Some(StatusCode::UNAUTHORIZED),
        Error::DiskFull { .. } => Some(StatusCode::INSUFFICIENT_STORAGE),
        Error::DisallowedPragma
        | Error::NotOpen
        | Error::NotReady
        | Error::NotLeader { .. }
        | Error::StaleRead
        | Error::DeadlineExceeded
        | Error::WaitTimeout { .. }
        | Error::Request(_)
        | Error::Unreachable(_)
        | Error::Membership(_)
        | Error::OutcomeUnknown(_) => None,
    }
}

/// The answer of execute, query and request to a failure as a whole.
pub(crate) fn in_json(call: &Call<'_>, error: &Error) -> Reply {
    if let Some(reply) = elsewhere(call, error) {
        return reply;
    }
    if let Some(status) = status_everywhere(error) {
        return with_error(call.service, Reply::text_error(status, &error.to_string()), error);
    }
    let options = Options { pretty: call.params.pretty, ..Options::default() };
    let message = error.to_string();
    let envelope = Envelope { error: Some(&message), ..Envelope::default() };
    let mut results = Results::new(options, rq_api::results::Limits::default());
    // Client libraries look at the results and pass over an error beside them: to them, no result would be a success.
    if let Error::OutcomeUnknown(_) | Error::Unreachable(_) | Error::NotLeader { .. } = error {
        for _ in 0..call.statements {
            let (kind, origin) = (ErrorKind::Other, Origin::Write);
            let error = SqlError { kind, message: message.clone(), origin };
            results.end(End::Error(error), Duration::ZERO);
        }
    }
    let body = match results.finish(&envelope) {
        Ok(answer) => answer.body,
        // There are no results, so no infinite ones.
        Err(unrepresentable) => return unrepresentable_reply(&unrepresentable.to_string()),
    };
    with_error(call.service, Reply::json(body), error)
}

/// The answer to a queued write whose transaction was undone because a statement failed.
pub(crate) fn undone_in_json(call: &Call<'_>, error: &SqlError) -> Reply {
    let options = Options { pretty: call.params.pretty, ..Options::default() };
    let envelope = Envelope { error: Some(&error.message), ..Envelope::default() };
    let results = Results::new(options, rq_api::results::Limits::default());
    match results.finish(&envelope) {
        Ok(answer) => Reply {
            error: Some(Code::from(error.kind).header_value_with(Outcome::NotDone)),
            ..Reply::json(answer.body)
        },
        // There are no results, so no infinite ones.
        Err(unrepresentable) => unrepresentable_reply(&unrepresentable.to_string()),
    }
}

/// The answer of other endpoints to a failure: a text error with `prefix` before the message.
pub(crate) fn in_text(call: &Call<'_>, error: &Error, prefix: &str) -> Reply {
    if let Some(reply) = elsewhere(call, error) {
        return reply;
    }
    let status = match error {
        Error::NotOpen | Error::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        _ => status_everywhere(error).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    };
    // A missing leader, and a permission missing there, are said in the same words everywhere.
    let is_plain = matches!(error, Error::LeaderNotFound | Error::Unauthorized(_));
    let prefix = if is_plain { "" } else { prefix };
    with_error(call.service, Reply::text_error(status, &format!("{prefix}{error}")), error)
}

/// The answer of a request that asked for a redirect instead of being passed on, if the error is about the leader.
fn elsewhere(call: &Call<'_>, error: &Error) -> Option<Reply> {
    if !call.params.redirect {
        return None;
    }
    let api_url = error.leader().map(|leader| leader.api_url.as_str()).unwrap_or_default();
    if !api_url.is_empty() {
        return Some(redirect(call, api_url));
    }
    if !matches!(error, Error::LeaderNotFound | Error::NotLeader { .. }) || !is_redirectable(call) {
        return None;
    }
    let error = &Error::LeaderNotFound;
    let reply = Reply::text_error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
    Some(with_error(call.service, reply, error))
}

/// Whether the parameter means anything to the endpoint.
fn is_redirectable(call: &Call<'_>) -> bool {
    let endpoint = routes::find(call.head.uri.path()).map(|route| route.endpoint);
    match endpoint {
        Some(Endpoint::Execute) => !call.params.queue,
        Some(Endpoint::Leader) => call.head.method == Method::POST,
        Some(Endpoint::Query | Endpoint::Request | Endpoint::Remove) => true,
        _ => false,
    }
}

/// 301 to the same target on another node. Endpoints that answer JSON say so even without a body.
fn redirect(call: &Call<'_>, api_url: &str) -> Reply {
    let query = call.head.uri.query().map(|_| format!("?{}", call.query)).unwrap_or_default();
    let location = format!("{api_url}{}{query}", call.head.uri.path());
    Reply {
        content_type: routes::find(call.head.uri.path()).and_then(|route| route.content_type),
        location: Some(location),
        ..Reply::empty(StatusCode::MOVED_PERMANENTLY)
    }
}

fn with_error(service: &Service, reply: Reply, error: &Error) -> Reply {
    let mut detail = None;
    if *error == Error::LeaderNotFound {
        service.metrics.leader_not_found.increment();
        detail = service.slot.get().map(|node| {
            let outlook = service.quorum.outlook(node, true);
            service.quorum.tell(&outlook);
            outlook.detail()
        });
    }
    let outcome = match error.outcome() {
        EffectKnown::NotDone => Outcome::NotDone,
        EffectKnown::Unknown => Outcome::Unknown,
    };
    let retry_after = error.retry_after().map(|time| time.as_secs().max(1));
    Reply {
        error: Some(code(error).header_value_with(outcome)),
        detail,
        retry_after: retry_after.filter(|_| reply.status.is_server_error()),
        ..reply
    }
}

fn named(code: Code, reply: Reply) -> Reply {
    Reply { error: Some(code.header_value()), ..reply }
}

/// 400: the request makes no sense.
pub(crate) fn bad_request(message: &str) -> Reply {
    named(Code::InvalidRequest, Reply::text_error(StatusCode::BAD_REQUEST, message))
}

/// The answer to a body that is no list of statements.
pub(crate) fn bad_body(call: &Call<'_>, problem: &DecodeError) -> Reply {
    let message = problem.to_string();
    match problem {
        DecodeError::InvalidJson
        | DecodeError::InvalidRequest
        | DecodeError::NoStatements
        | DecodeError::InvalidNumber(_)
        | DecodeError::UnsupportedType(_) => bad_request(&message),
        DecodeError::TooManyStatements(_) | DecodeError::TooManyParameters(_) => {
            named(Code::BodyTooLarge, Reply::text_error(StatusCode::BAD_REQUEST, &message))
        }
        // Upstream finds this out only below the HTTP layer.
        DecodeError::InvalidUtf8 => {
            let reply = in_json(call, &Error::Request(message));
            named(Code::InvalidRequest, reply)
        }
    }
}

/// 500: an infinite number, where the operator asked for upstream's answer to it.
pub(crate) fn unrepresentable_reply(message: &str) -> Reply {
    let reply = Reply::text_error(StatusCode::INTERNAL_SERVER_ERROR, message);
    named(Code::ValueNotRepresentable, reply)
}

/// 400, without a word.
pub(crate) fn bad_request_without_a_word() -> Reply {
    named(Code::InvalidRequest, Reply::empty(StatusCode::BAD_REQUEST))
}

/// 401, without a word.
pub(crate) fn unauthorized() -> Reply {
    named(Code::Unauthorized, Reply::empty(StatusCode::UNAUTHORIZED))
}

/// 404, without a word.
pub(crate) fn not_found() -> Reply {
    named(Code::NotFound, Reply::empty(StatusCode::NOT_FOUND))
}

/// 404 below a path that is there.
pub(crate) fn nothing_there(message: &str) -> Reply {
    named(Code::NotFound, Reply::text_error(StatusCode::NOT_FOUND, message))
}

/// 405, without a word.
pub(crate) fn method_not_allowed() -> Reply {
    named(Code::MethodNotAllowed, Reply::empty(StatusCode::METHOD_NOT_ALLOWED))
}

/// 413: the body is longer than allowed.
pub(crate) fn body_too_large(limit: u64) -> Reply {
    let message = format!("request body too large: {limit} bytes are allowed");
    named(Code::BodyTooLarge, Reply::text_error(StatusCode::PAYLOAD_TOO_LARGE, &message))
}

/// 503: there is too much to do.
pub(crate) fn overloaded(message: &str) -> Reply {
    let reply = Reply::text_error(StatusCode::SERVICE_UNAVAILABLE, message);
    named(Code::Overloaded, Reply { retry_after: Some(1), ..reply })
}

/// 408: the body did not arrive in time.
pub(crate) fn body_timeout(limits: &Limits) -> Reply {
    let seconds = limits.request_time_max.as_secs_f64();
    let message = format!("the request body did not arrive within {seconds} s");
    let reply = Reply::text_error(StatusCode::REQUEST_TIMEOUT, &message);
    named(Code::TimeoutBeforeProposal, reply)
}

/// 408: nothing more of the body came.
pub(crate) fn body_pause(limits: &Limits) -> Reply {
    let seconds = limits.body_pause_max.as_secs_f64();
    let message = format!("nothing more of the request body came for {seconds} s");
    let reply = Reply::text_error(StatusCode::REQUEST_TIMEOUT, &message);
    named(Code::TimeoutBeforeProposal, reply)
}

/// 503: the work did not end in time.
pub(crate) fn work_timeout(limits: &Limits, stopping: bool, may_have_changed: bool) -> Reply {
    let (code, outcome) = if may_have_changed {
        (Code::OutcomeUnknown, "its outcome is unknown")
    } else if stopping {
        (Code::ShuttingDown, "it was cancelled")
    } else {
        (Code::QueryTimeout, "it was cancelled")
    };
    let reason = if stopping {
        "the node is stopping and the request did not end in time".to_owned()
    } else {
        format!("the request took longer than {} s", limits.request_time_max.as_secs_f64())
    };
    let message = format!("{reason}; {outcome}");
    named(code, Reply::text_error(StatusCode::SERVICE_UNAVAILABLE, &message))
}

/// 408: a queued write was not dealt with while its client waited. It may still be.
pub(crate) fn queue_timeout() -> Reply {
    let reply = Reply::text_error(StatusCode::REQUEST_TIMEOUT, "queue wait timeout");
    named(Code::QueueTimeout, reply)
}

/// 501: a path of the API that this version does not serve.
pub(crate) fn not_implemented(service: &Service, endpoint: Endpoint) -> Reply {
    let metrics = &service.metrics;
    let what = match endpoint {
        Endpoint::Backup => {
            metrics.backups.increment();
            "backups over HTTP are not available in this version"
        }
        Endpoint::Load => {
            metrics.loads.increment();
            "loading over HTTP is not available in this version; send the statements to /db/execute"
        }
        Endpoint::Boot => {
            metrics.boots.increment();
            "booting from a SQLite file is not available in this version"
        }
        Endpoint::Root
        | Endpoint::ConsoleRoot
        | Endpoint::Console
        | Endpoint::Execute
        | Endpoint::Query
        | Endpoint::Request
        | Endpoint::Sql
        | Endpoint::Snapshot
        | Endpoint::Reap
        | Endpoint::Remove
        | Endpoint::Status
        | Endpoint::Nodes
        | Endpoint::Leader
        | Endpoint::Ready
        | Endpoint::Licenses
        | Endpoint::DebugVars
        | Endpoint::Pprof => "this is not available in this version",
    };
    named(Code::NotImplemented, Reply::text_error(StatusCode::NOT_IMPLEMENTED, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_error() -> Vec<Error> {
        vec![
            Error::DisallowedPragma,
            Error::NotOpen,
            Error::NotReady,
            Error::LeaderNotFound,
            Error::NotLeader { leader: None },
            Error::StaleRead,
            Error::DeadlineExceeded,
            Error::EnqueueTimeout,
            Error::WaitTimeout { index: 1 },
            Error::DiskFull { free: 1, floor: 2 },
            Error::ApplyStalled { index: 1, reason: "r".to_owned() },
            Error::TooLarge { bytes: 2, max: 1 },
            Error::Overloaded,
            Error::OtherEngine(rq_node::OtherEngine { database: 1, program: 2 }),
            Error::ShuttingDown,
            Error::Request("r".to_owned()),
            Error::OutcomeUnknown("u".to_owned()),
            Error::Stopped("s".to_owned()),
            Error::Unauthorized("Execute".to_owned()),
            Error::Unreachable("n".to_owned()),
            Error::Membership("m".to_owned()),
        ]
    }

    /// Where the answer of execute, query and request has a status of its own, it is a text error; else
    /// 200 with the message in the body. The seconds are those of Retry-After.
    #[test]
    fn every_error_has_its_code_its_status_and_its_advice() {
        let table = [
            ("disallowed_pragma", 200, None),
            ("store_not_open", 200, None),
            ("store_not_ready", 200, Some(1)),
            ("leader_not_found", 503, Some(1)),
            ("not_leader", 200, None),
            ("stale_read", 200, None),
            ("timeout_before_proposal", 200, None),
            ("timeout_before_proposal", 503, Some(1)),
            ("query_timeout", 200, None),
            ("disk_full", 507, Some(5)),
            ("store_not_ready", 503, Some(5)),
            ("body_too_large", 413, None),
            ("overloaded", 503, Some(1)),
            ("other_engine", 503, Some(5)),
            ("shutting_down", 503, Some(1)),
            ("transaction_misuse", 200, None),
            ("outcome_unknown", 200, None),
            ("internal", 503, None),
            ("unauthorized", 401, None),
            ("forward_failed", 200, Some(1)),
            ("membership", 200, None),
        ];
        for (error, expected) in every_error().iter().zip(table) {
            let status = status_everywhere(error).unwrap_or(StatusCode::OK).as_u16();
            let advice = error.retry_after().map(|time| time.as_secs());
            let named = code(error).header_value();
            let name = named.split(';').next().unwrap_or_default().to_owned();
            assert_eq!((name.as_str(), status, advice), expected, "{error:?}");
        }
        assert_eq!(every_error().len(), table.len());
    }

    #[test]
    fn what_is_certain_of_an_error_is_certain_of_its_code() {
        for error in every_error() {
            // Only the code of inner failures knows less than the error that has it.
            if !matches!(error, Error::Stopped(_)) {
                let is_known = code(&error).outcome() == Outcome::NotDone;
                assert_eq!(error.outcome() == EffectKnown::NotDone, is_known, "{error:?}");
            }
        }
    }
}
