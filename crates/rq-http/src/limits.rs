//! How much the HTTP server takes on, and what it answers beyond that.
//!
//! Every limit of this crate is a field here; `rqd` sets them from its `-limit-*` and `-http-*` flags.
//! A limit of zero is switched off, except where its sentence says otherwise.

use std::time::Duration;

/// The limits of the HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request line and its headers. Beyond: 431. At least 8 KiB.
    pub head_bytes_max: usize,
    /// Bytes of a request body. Beyond: 413, and the connection is closed.
    pub body_bytes_max: u64,
    /// Bytes of the bodies of all requests worked on at one moment, small ones (64 KiB) not counted.
    /// A body counts from its first byte until its request is answered. Beyond: 503 with `Retry-After`.
    pub bodies_bytes_max: u64,
    /// Statements of one request. Beyond: 400.
    pub statements_max: usize,
    /// Parameters of all statements of one request. Beyond: 400.
    pub parameters_max: usize,
    /// Rows of one result. Beyond: an error in place of that result.
    pub result_rows_max: u64,
    /// Bytes of one answer. Beyond: an error in place of the result that does not fit.
    pub result_bytes_max: usize,
    /// Bytes of all answers being made or sent at one moment, small ones (64 KiB) not counted. Beyond: 503 with
    /// `Retry-After`; of a write that is done an error in place of the result.
    pub results_bytes_max: usize,
    /// Requests being worked on at one moment; those whose body has not come yet are not. Beyond: 503 with
    /// `Retry-After`, except for `/status` and `/readyz`, which have as many places of their own.
    pub requests_max: usize,
    /// Open connections, and HTTP/2 streams whose body has not come yet. Beyond: 503 (over TLS nothing), and the
    /// connection is closed; of a stream 503.
    pub connections_max: usize,
    /// Time from the first byte of a request's head to its last, and for a TLS handshake.
    /// Beyond: the connection is closed.
    pub head_time_max: Duration,
    /// Time the next piece of a request's body may take to come. Beyond: 408, and the connection is closed.
    pub body_pause_max: Duration,
    /// Time a request with statements waits for the store while it is being opened. Beyond, and at once if
    /// this is zero: it is told that it is not.
    pub opening_time_max: Duration,
    /// Time a connection may wait for its next request. Beyond: it is closed.
    pub idle_time_max: Duration,
    /// Time from the end of a request's head to the answer, and again for the client to take the answer.
    /// Beyond: 408 if the body has not arrived, 503 if the work has not ended; a client that does not
    /// take its answer loses the connection.
    pub request_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 1 << 20,
            body_bytes_max: 1 << 30,
            bodies_bytes_max: 2 << 30,
            statements_max: 1_000_000,
            parameters_max: 4_000_000,
            result_rows_max: 10_000_000,
            result_bytes_max: 256 << 20,
            results_bytes_max: 1 << 30,
            requests_max: 4096,
            connections_max: 8192,
            head_time_max: Duration::from_secs(10),
            body_pause_max: Duration::from_secs(30),
            opening_time_max: Duration::from_secs(2),
            idle_time_max: Duration::from_secs(300),
            request_time_max: Duration::from_secs(600),
        }
    }
}

/// Bytes up to which a body is not counted against [`Limits::bodies_bytes_max`]: the connection limit
/// bounds the sum of small ones.
pub(crate) const SMALL_BODY_BYTES: u64 = 64 << 10;

/// How long a client that has closed its sending half still gets an answer. Beyond: its work is
/// cancelled, because it most likely hung up. (The two cannot be told apart without sending.)
pub(crate) const HALF_CLOSED_GRACE: Duration = Duration::from_secs(1);

/// How long, and for how many bytes, the rest of a refused request is read and thrown away, so that
/// the client sees the answer instead of a reset connection. Beyond: the connection is closed.
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(2);
/// See [`LINGER_TIME`].
pub(crate) const LINGER_BYTES: usize = 64 << 20;

/// Concurrent streams of one HTTP/2 connection. Beyond: the client must wait, as HTTP/2 has it.
pub(crate) const HTTP2_STREAMS: u32 = 256;

/// How often a quiet HTTP/2 connection is asked whether it lives. Beyond twice that: it is closed.
pub(crate) const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);

/// The least that [`Limits::head_bytes_max`] can be.
pub(crate) const HEAD_BYTES_LEAST: usize = 8 << 10;

/// Bytes of statements that may wait in the queue of writes. Beyond: the client waits for room.
pub(crate) const QUEUE_BYTES: usize = 64 << 20;
