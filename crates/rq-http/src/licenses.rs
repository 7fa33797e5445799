//! The licence of the program.

use http::StatusCode;

use crate::respond::Reply;

const LICENSE: &str = include_str!("../../../LICENSE");

/// `/licenses`.
pub(crate) fn licenses() -> Reply {
    Reply::text(StatusCode::OK, LICENSE)
}
