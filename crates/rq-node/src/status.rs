//! What a node says of itself. Gathering it never waits for the database or for another node.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::OtherEngine;

/// A member of the cluster, as the membership entry names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The operator's name for it (`-node-id`).
    pub id: String,
    /// Its internode address, `host:port`.
    pub raft_addr: String,
    /// The URL of its HTTP API, `http://host:port` or `https://…`.
    pub api_url: String,
    /// Whether it votes.
    pub voter: bool,
}

/// The part a node plays in Raft at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Leads.
    Leader,
    /// Follows, or is a read replica.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Has stopped.
    Shutdown,
}

/// Why a node that is open may not be fit to serve everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Impairment {
    /// Free space is below the floor; writes are refused.
    DiskFull {
        /// Bytes free.
        free: u64,
        /// The floor.
        floor: u64,
    },
    /// The log waits for room for its next segment.
    LogWaitsForSpace,
    /// The state machine could not apply an entry and tries again.
    ApplyStalled {
        /// The entry.
        index: u64,
        /// What failed.
        reason: String,
    },
    /// An entry takes long to be applied; later ones wait for it.
    SlowEntry {
        /// The entry.
        index: u64,
        /// For how many seconds so far.
        seconds: u64,
    },
    /// The program computes another engine epoch than the database belongs to: another program must be started.
    OtherEngine(OtherEngine),
    /// The log is longer than it should be and cannot be purged, because nothing is applied (another of these says why); it
    /// grows until the disk is full.
    LogGrows {
        /// Its bytes.
        bytes: u64,
        /// The bytes it should have at most (`-limit-log-bytes`).
        max: u64,
    },
    /// The node must take no part in its cluster any more; it comes back with an empty data directory.
    Excluded {
        /// What happened.
        reason: String,
    },
    /// The node has stopped for good; the process must be restarted.
    Stopped {
        /// What failed.
        reason: String,
    },
}

/// A snapshot of what a node knows of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// The operator's name for this node.
    pub node_id: String,
    /// Its own entry.
    pub member: Member,
    /// Every member, sorted by id.
    pub members: Vec<Member>,
    /// Who leads, if known.
    pub leader: Option<Member>,
    /// Its role.
    pub role: Role,
    /// Whether it is open, has a leader, has applied what it had at start, and has not stopped.
    pub ready: bool,
    /// What is wrong, if anything.
    pub impairments: Vec<Impairment>,
    /// Databases on their way to members that need all of it, and one on its way to this node.
    pub transfers: Vec<TransferStatus>,
    /// Raft's view.
    pub raft: RaftStatus,
    /// The database's view.
    pub database: DatabaseStatus,
    /// The data directory.
    pub directory: PathBuf,
    /// The settings a client may want to know.
    pub settings: SettingsStatus,
}

/// A database on its way from one member to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransferStatus {
    /// The internode address of the receiver; `None` if it is this node.
    pub to: Option<String>,
    /// The entry it reached when it was offered, or when the running round began.
    pub index: u64,
    /// The round, from 1.
    pub round: u64,
    /// Pages of the database.
    pub page_count: u64,
    /// Pages of the running round that were compared.
    pub pages_compared: u64,
    /// Pages sent, or received, in all rounds.
    pub pages_sent: u64,
    /// Bytes sent; 0 at the receiver.
    pub bytes_sent: u64,
    /// Whether all has arrived and is being installed.
    pub installing: bool,
}

/// Raft's view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RaftStatus {
    /// The current term.
    pub term: u64,
    /// The last entry in the log.
    pub last_log_index: u64,
    /// Its term.
    pub last_log_term: u64,
    /// The last entry known to be committed.
    pub commit_index: u64,
    /// The last entry applied.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// When it was applied, in milliseconds since 1970; 0 before the first.
    pub applied_at_ms: i64,
    /// The index up to which the state machine is durable: the newest snapshot.
    pub snapshot_index: u64,
    /// Its term.
    pub snapshot_term: u64,
    /// The first entry still in the log.
    pub first_log_index: u64,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Segments of the log on disk.
    pub log_segments: u64,
    /// Members other than this one.
    pub peers: u64,
    /// The entry that holds the membership in force.
    pub membership_index: u64,
    /// Whether this node votes.
    pub voter: bool,
    /// Time since the last contact with the leader; `None` for never, zero on the leader.
    pub last_contact: Option<Duration>,
    /// This data directory's number in Raft.
    pub raft_id: u64,
}

/// The database's view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DatabaseStatus {
    /// The file.
    pub path: PathBuf,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of the WAL's file.
    pub wal_bytes: u64,
    /// When the file was last modified, in milliseconds since 1970.
    pub modified_at_ms: i64,
    /// SQLite's version.
    pub sqlite_version: String,
    /// SQLite's compile options.
    pub compile_options: Vec<String>,
    /// Bytes a page.
    pub page_size: u64,
    /// Pages of the database.
    pub page_count: u64,
    /// Free pages among them.
    pub freelist_count: u64,
    /// The greatest number of pages the database may have.
    pub max_page_count: u64,
    /// The page cache of the writer, in pages.
    pub cache_pages: i64,
    /// Reader connections open.
    pub readers_open: u64,
    /// Reader connections running a query.
    pub readers_busy: u64,
    /// The most reader connections there may be; 0 is without limit.
    pub readers_max: u64,
    /// Whether foreign keys are enforced by default.
    pub foreign_keys: bool,
}

/// The settings a client may want to know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SettingsStatus {
    /// `-raft-apply-timeout`.
    pub apply_timeout: Duration,
    /// `-raft-heartbeat-timeout`.
    pub heartbeat_timeout: Duration,
    /// `-raft-election-timeout`.
    pub election_timeout: Duration,
    /// `-raft-commit-timeout`.
    pub commit_timeout: Duration,
    /// `-raft-leader-lease-timeout`.
    pub lease_timeout: Duration,
    /// `-raft-snap`.
    pub snapshot_threshold: u64,
    /// `-raft-snap-int`.
    pub snapshot_interval: Duration,
    /// `-raft-snap-wal-size`.
    pub snapshot_wal_bytes: u64,
    /// Entries kept behind a snapshot.
    pub trailing_logs: u64,
    /// `-auto-vacuum-int`; zero is off.
    pub auto_vacuum_interval: Duration,
    /// `-auto-optimize-int`; zero is off.
    pub auto_optimize_interval: Duration,
}

/// Counters by map (`store`, `db`, …) and key, as `/debug/vars` shows them.
pub type CounterMaps = BTreeMap<&'static str, BTreeMap<&'static str, i64>>;
