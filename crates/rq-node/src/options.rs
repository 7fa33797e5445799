//! How a node is to be run. Checked and complete: defaults are the caller's business.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rq_security::Users;
use rq_sqlite::Budget;

/// How a node is to be run.
#[derive(Clone)]
pub struct Options {
    /// The data directory; created if absent.
    pub directory: PathBuf,
    /// The operator's name for this node; `None` keeps the stored one, or else the internode address.
    pub node_id: Option<String>,
    /// The advertised internode address, `host:port`.
    pub raft_addr: String,
    /// The advertised URL of the HTTP API.
    pub api_url: String,
    /// The level of the HTTP API, as other nodes show it.
    pub api_version: String,
    /// Whether this node is a read replica: it follows and never votes (`-raft-non-voter`).
    pub replica: bool,
    /// Who may do what; checked again where a forwarded request arrives.
    pub users: Arc<Users>,
    /// When silent members are removed.
    pub reap: Reap,
    /// How the database is sent to members that need all of it.
    pub sending: Sending,
    /// Whether foreign keys are enforced by default (`-fk`).
    pub foreign_keys: bool,
    /// The most reader connections; `None` is without limit (`-db-max-ro-conns`).
    pub readers_max: Option<usize>,
    /// What each written statement may use (`-limit-write-steps`, `-limit-write-pages`).
    pub budget: Budget,
    /// The bounds of what a node keeps waiting, reads and answers.
    pub limits: Limits,
    /// When the state machine is made durable and the log purged.
    pub snapshots: Snapshots,
    /// The log's segments and cache; its execution and salts are the environment's.
    pub log: rq_storage::LogOptions,
    /// Raft's timing.
    pub timing: Timing,
    /// VACUUM at this interval; zero is never (`-auto-vacuum-int`).
    pub auto_vacuum_interval: Duration,
    /// Refresh statistics at this interval; zero is never (`-auto-optimize-int`).
    pub auto_optimize_interval: Duration,
}

/// When silent members are removed; zero is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reap {
    /// Members that vote or are to vote (`-raft-reap-node-timeout`).
    pub voters_after: Duration,
    /// Read replicas (`-raft-reap-read-only-node-timeout`).
    pub replicas_after: Duration,
}

/// How the database is sent to members that need all of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sending {
    /// Whether pages are compressed (`-compress-snap-transport`).
    pub compress: bool,
    /// Bytes a second that all such transfers together may send; 0 is without limit.
    pub bytes_per_second: u64,
}

/// The bounds of what a node keeps waiting, reads and answers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Statements of a request that another node passes on; more is refused before any is read. Clients meet the
    /// same limit where they send it.
    pub statements_max: usize,
    /// Parameters of all statements of such a request; more is refused likewise.
    pub parameters_max: usize,
    /// Rows of one result of a write; more replaces the answer, never the effect.
    pub result_rows_max: u64,
    /// Bytes of one result of a write; more replaces the answer, never the effect.
    pub result_bytes_max: u64,
    /// Time of a read that names none itself; zero is without limit.
    pub query_time_max: Duration,
    /// Bytes of proposals that may wait; more waits for `enqueue_timeout`, then fails.
    pub backlog_bytes_max: u64,
    /// How long a write may wait for room in the queue of proposals (`-raft-apply-timeout`).
    pub enqueue_timeout: Duration,
    /// Free bytes of the data's file system below which writes are refused.
    pub free_bytes_min: u64,
    /// Bytes of the WAL's file beyond which the oldest reads are cancelled; at least `rq_sqlite::WAL_FILE_KEPT` are
    /// always kept of a file that is not in use.
    pub wal_bytes_max: u64,
}

/// When the state machine is made durable and the log purged.
#[derive(Clone, Copy, Debug)]
pub struct Snapshots {
    /// Entries since the last snapshot (`-raft-snap`).
    pub entries: u64,
    /// Bytes of the WAL; zero is off (`-raft-snap-wal-size`).
    pub wal_bytes: u64,
    /// How often both are looked at (`-raft-snap-int`).
    pub interval: Duration,
    /// Entries kept behind a snapshot, for followers that lag a little.
    pub trailing_entries: u64,
    /// Bytes of the log beyond which entries and interval do not matter.
    pub log_bytes_max: u64,
}

/// Raft's timing, as the operator's flags state it. [`crate::raft`] maps it on openraft's.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// `-raft-heartbeat-timeout`.
    pub heartbeat_timeout: Duration,
    /// `-raft-election-timeout`.
    pub election_timeout: Duration,
    /// `-raft-leader-lease-timeout`.
    pub lease_timeout: Duration,
    /// `-raft-commit-timeout`.
    pub commit_timeout: Duration,
}
