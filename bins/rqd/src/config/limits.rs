//! How much the node takes on: the limit flags, typed.

use std::time::Duration;

use crate::{
    cli::OwnFlags,
    config::{Problem, length_or_never},
};

/// The size below which no real client's headers would fit.
const HEADER_BYTES_MIN: usize = 8192;

/// How much the node takes on. `None` is no limit; what happens beyond each limit stands in the
/// help of its flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a request's line and headers; at least 8192.
    pub header_bytes: usize,
    /// The most bytes of a request's body.
    pub body_bytes: Option<u64>,
    /// The most bytes of all request bodies held at the same time.
    pub all_bodies_bytes: Option<u64>,
    /// The most statements of one request.
    pub statements: Option<usize>,
    /// The most requests worked on at the same time.
    pub concurrent_requests: Option<usize>,
    /// The most open connections.
    pub connections: Option<usize>,
    /// The longest time for a request's headers to arrive, and for a TLS handshake.
    pub header_time: Option<Duration>,
    /// The longest time for the next piece of a request's body to arrive.
    pub body_pause: Option<Duration>,
    /// The longest time a connection waits for its next request.
    pub idle_time: Option<Duration>,
    /// The longest time from a request's headers to its answer.
    pub request_time: Option<Duration>,
    /// The most rows of one result.
    pub result_rows: Option<u64>,
    /// The most bytes of one answer.
    pub result_bytes: Option<u64>,
    /// The most bytes of all answers being made or sent at the same time.
    pub all_results_bytes: Option<u64>,
    /// The longest time of a read that states none itself.
    pub query_time: Option<Duration>,
    /// The most steps of the virtual machine for one written statement.
    pub write_steps: Option<u64>,
    /// The most pages one write request may add to the database.
    pub write_pages: Option<u64>,
    /// The most bytes of writes that wait to be handed to Raft.
    pub write_backlog_bytes: Option<u64>,
    /// Bytes a second that databases on their way to other nodes may take; 0 is without limit.
    pub transfer_rate: u64,
    /// The free bytes below which writes are refused; 0 never refuses.
    pub free_space_bytes: u64,
    /// The most bytes of the SQLite WAL.
    pub wal_bytes: Option<u64>,
    /// The most bytes of the Raft log.
    pub log_bytes: Option<u64>,
}

impl Limits {
    /// Types the limit flags. Fails for negative times and for headers too small for any client.
    pub(crate) fn check(flags: &OwnFlags) -> Result<Self, Problem> {
        let header_bytes = match number(flags.limit_header_bytes) {
            Some(bytes) if bytes >= HEADER_BYTES_MIN => bytes,
            _ => {
                return Err(Problem::fatal(format!(
                    "-limit-header-bytes must be at least {HEADER_BYTES_MIN}"
                )));
            }
        };
        Ok(Self {
            header_bytes,
            body_bytes: amount(flags.limit_body_bytes),
            all_bodies_bytes: amount(flags.limit_all_bodies_bytes),
            statements: number(flags.limit_statements),
            concurrent_requests: number(flags.limit_concurrent_requests),
            connections: number(flags.limit_connections),
            header_time: length_or_never("limit-header-time", flags.limit_header_time)?,
            body_pause: length_or_never("limit-body-pause", flags.limit_body_pause)?,
            idle_time: length_or_never("limit-idle-time", flags.limit_idle_time)?,
            request_time: length_or_never("limit-request-time", flags.limit_request_time)?,
            result_rows: amount(flags.limit_result_rows),
            result_bytes: amount(flags.limit_result_bytes),
            all_results_bytes: amount(flags.limit_all_results_bytes),
            query_time: length_or_never("limit-query-time", flags.limit_query_time)?,
            write_steps: amount(flags.limit_write_steps),
            write_pages: amount(flags.limit_write_pages),
            write_backlog_bytes: amount(flags.limit_write_backlog_bytes),
            transfer_rate: flags.limit_transfer_rate,
            free_space_bytes: flags.limit_free_space,
            wal_bytes: amount(flags.limit_wal_bytes),
            log_bytes: amount(flags.limit_log_bytes),
        })
    }
}

/// Gives a limit of which zero means none.
fn amount(limit: u64) -> Option<u64> {
    Some(limit).filter(|limit| *limit > 0)
}

/// Gives a limit on what is counted in memory; more than fits there is as good as all of it.
fn number(limit: u64) -> Option<usize> {
    amount(limit).map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
