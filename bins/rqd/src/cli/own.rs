//! Flags rqlited does not have: logging, trust among nodes, limits, compatibility.
//!
//! Every limit says in its help what happens beyond it. 0 switches a limit off unless its help
//! says otherwise.

use clap::{Args, ValueEnum};

use crate::goflag::{GoDuration, Switch, parse_uint};

/// The heading under which help shows these flags; [`crate::usage`] sets them apart by it.
pub(crate) const HEADING: &str = "Flags rqlited does not have";

/// Flags rqlited does not have.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = HEADING)]
pub struct OwnFlags {
    /// Form of log lines: text, or json for one object a line
    #[arg(long, value_name = "string", default_value = "text", value_enum, ignore_case = true)]
    pub log_format: LogFormat,
    /// Least severe messages that are logged, those of Raft aside: trace, debug, info, warn,
    /// error or off
    #[arg(long, value_name = "string", default_value = "info", value_enum, ignore_case = true)]
    pub log_level: LogLevel,
    /// File of a secret all nodes share, of at least 16 bytes; nodes prove to each other that they
    /// know it. If not set, none is asked for. Read again when it changes
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub cluster_secret_file: String,
    /// File of the password of the user of -join-as, where the -auth file holds only its hash
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub join_as_password_file: String,
    /// Most bytes of a request's line and headers, at least 8192. Beyond: 431
    #[arg(long, value_name = "uint", default_value = "1048576", value_parser = parse_uint)]
    pub limit_header_bytes: u64,
    /// Most bytes of a request's body. Beyond: 413
    #[arg(long, value_name = "uint", default_value = "1073741824", value_parser = parse_uint)]
    pub limit_body_bytes: u64,
    /// Most bytes of the bodies of all requests that are not answered yet. Beyond: 503 with
    /// Retry-After
    #[arg(long, value_name = "uint", default_value = "2147483648", value_parser = parse_uint)]
    pub limit_all_bodies_bytes: u64,
    /// Most statements of one request. Beyond: 400
    #[arg(long, value_name = "uint", default_value = "100000", value_parser = parse_uint)]
    pub limit_statements: u64,
    /// Most requests worked on at the same time, not counted those whose body has not come yet.
    /// Beyond: 503 with Retry-After; /status and /readyz have places of their own
    #[arg(long, value_name = "uint", default_value = "1024", value_parser = parse_uint)]
    pub limit_concurrent_requests: u64,
    /// Most open connections. Beyond: 503, or nothing over TLS, and the connection is closed
    #[arg(long, value_name = "uint", default_value = "10000", value_parser = parse_uint)]
    pub limit_connections: u64,
    /// Longest time for a request's headers to arrive, and for a TLS handshake. Beyond: the
    /// connection is closed
    #[arg(long, value_name = "duration", default_value = "10s")]
    pub limit_header_time: GoDuration,
    /// Longest time for the next piece of a request's body to arrive. Beyond: 408
    #[arg(long, value_name = "duration", default_value = "30s")]
    pub limit_body_pause: GoDuration,
    /// Longest time a connection waits for its next request. Beyond: it is closed
    #[arg(long, value_name = "duration", default_value = "2m")]
    pub limit_idle_time: GoDuration,
    /// Longest time from a request's headers to its answer, and for the answer to be taken.
    /// Beyond: 408 or 503, or the connection is closed
    #[arg(long, value_name = "duration", default_value = "10m")]
    pub limit_request_time: GoDuration,
    /// Most rows of one result. Beyond: an error in place of the result; a write is done
    /// nevertheless
    #[arg(long, value_name = "uint", default_value = "10000000", value_parser = parse_uint)]
    pub limit_result_rows: u64,
    /// Most bytes of one answer. Beyond: an error in place of the result; a write is done
    /// nevertheless
    #[arg(long, value_name = "uint", default_value = "268435456", value_parser = parse_uint)]
    pub limit_result_bytes: u64,
    /// Most bytes of all answers being made or sent at the same time. Beyond: 503 with Retry-After;
    /// of a write that is done an error in place of the result
    #[arg(long, value_name = "uint", default_value = "1073741824", value_parser = parse_uint)]
    pub limit_all_results_bytes: u64,
    /// Longest time of a read that states none itself. Beyond: an error of its statement
    #[arg(long, value_name = "duration", default_value = "5m")]
    pub limit_query_time: GoDuration,
    /// Most steps SQLite's virtual machine may take for one written request. Beyond: an error of
    /// the statement, and it changes nothing
    #[arg(long, value_name = "uint", default_value = "2000000000", value_parser = parse_uint)]
    pub limit_write_steps: u64,
    /// Most pages one write request may add to the database. Beyond: an error of the statement,
    /// and it changes nothing
    #[arg(long, value_name = "uint", default_value = "1048576", value_parser = parse_uint)]
    pub limit_write_pages: u64,
    /// Most bytes of writes that are not answered yet, because the disk or the majority of the
    /// nodes is slow. Beyond: a write waits for -raft-apply-timeout, then gets 503 with
    /// Retry-After, and nothing of it is done
    #[arg(long, value_name = "uint", default_value = "67108864", value_parser = parse_uint)]
    pub limit_write_backlog_bytes: u64,
    /// Most bytes a second that databases on their way to other nodes may take together; 0 is
    /// without limit. Beyond: they take longer
    #[arg(long, value_name = "uint", default_value = "0", value_parser = parse_uint)]
    pub limit_transfer_rate: u64,
    /// Free bytes the file system of the data directory must have. Below: writes get 507, reads
    /// go on
    #[arg(long, value_name = "uint", default_value = "67108864", value_parser = parse_uint)]
    pub limit_free_space: u64,
    /// Most bytes of the SQLite WAL. Beyond: the oldest reads are cancelled
    #[arg(long, value_name = "uint", default_value = "1073741824", value_parser = parse_uint)]
    pub limit_wal_bytes: u64,
    /// Most bytes of the Raft log. Beyond: a snapshot is due, whatever -raft-snap says
    #[arg(long, value_name = "uint", default_value = "268435456", value_parser = parse_uint)]
    pub limit_log_bytes: u64,
    /// Fail an answer that contains an infinite number, as rqlited does, instead of writing null
    #[arg(long, value_name = "bool", default_value = "false")]
    pub compat_strict_infinity: Switch,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `[component] 2026/07/24 12:54:16 message`, in local time.
    Text,
    /// One JSON object a line, in UTC.
    Json,
}

/// The least severe messages that are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What helps to find a defect.
    Debug,
    /// What an operator may want to know.
    Info,
    /// What an operator should look at.
    Warn,
    /// What needs an operator.
    Error,
    /// Nothing.
    Off,
}
