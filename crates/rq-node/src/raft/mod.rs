//! The only folder that names openraft.
//!
//! Calls go both ways here. Downwards, the node proposes, confirms and looks through
//! [`consensus::Consensus`]. Upwards, openraft calls *us* through three adapters: [`log`] (append, one fsync per batch, then
//! report "flushed"), [`state_machine`] (committed: apply, remember the applied id) and
//! [`network`] (the other nodes). What the other nodes ask comes in through [`answer`]. Its tasks run on
//! [`runtime`].
//!
//! # Choices, and what they guard against
//! - Classic leader ids (one leader a term), so that a log id is a term and an index and nothing else.
//! - Snapshots are never started by openraft ([`SnapshotPolicy::Never`]): a snapshot here is a statement
//!   ("the file is durable up to …"), made by `housekeeping`.
//! - `enable_leader_restore` is off: a restarted leader must be elected again, so that it never serves
//!   a state machine that has not caught up with what it acknowledged.
//! - The committed index is not stored: the state machine's own applied id is durable enough to start
//!   from, and the rest of the log is applied as soon as a leader's first entry is committed.
//!
//! # Timing
//! openraft waits *lease* (= the longest election timeout) plus an election timeout before a follower
//! may vote for another leader. From the flags: heartbeat interval = heartbeat timeout / 8, election
//! timeout between 3/10 and 6/10 of the election timeout. With the defaults of one second: 125 ms and
//! 300–600 ms.

use std::fmt;

use openraft::{
    Config, EntryPayload, RaftTypeConfig, SnapshotPolicy, impls::leader_id_std,
    raft::responder::Responder, vote::RaftLeaderId,
};
use rq_sqlite::{Applied, EntryId};

use crate::{command::Payload, options::Timing};

pub(crate) mod acknowledged;
pub(crate) mod answer;
pub(crate) mod change;
pub(crate) mod consensus;
mod divergence;
pub(crate) mod fuzzing;
pub(crate) mod landing;
pub(crate) mod log;
pub(crate) mod membership;
pub(crate) mod network;
pub(crate) mod runtime;
pub(crate) mod state_machine;
pub(crate) mod wire;

/// The types openraft is used with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Payload;
    type R = Applied;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Payload, u64, Peer>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = runtime::Runtime;
    type Responder<T>
        = Reply<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// The most entries that are sent at once.
const APPEND_ENTRIES: u64 = 300;

/// The running Raft.
type Raft = openraft::Raft<TypeConfig, state_machine::StateMachine>;
/// A log id as openraft has it.
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;

/// How a member is reached, as the membership entry holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The operator's name for the node.
    pub(crate) name: String,
    /// Its internode address.
    pub(crate) raft_addr: String,
    /// The URL of its HTTP API.
    pub(crate) api_url: String,
    /// Whether it is never to vote. Whoever may vote is promoted once it has caught up.
    pub(crate) replica: bool,
}

/// Hears of a proposal when it is committed, and receives its end, on whatever thread that becomes
/// known.
pub(crate) struct Reply<T> {
    committed: Option<Box<dyn FnOnce() + Send>>,
    receive: Box<dyn FnOnce(T) + Send>,
}

impl<T> Reply<T> {
    pub(crate) fn new(
        committed: impl FnOnce() + Send + 'static,
        receive: impl FnOnce(T) + Send + 'static,
    ) -> Self {
        Self { committed: Some(Box::new(committed)), receive: Box::new(receive) }
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for Reply<T> {
    fn on_commit(&mut self, _log_id: LogId) {
        if let Some(committed) = self.committed.take() {
            committed();
        }
    }

    fn on_complete(self, result: T) {
        (self.receive)(result);
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.raft_addr)
    }
}

/// The position of an entry in the words of the engine.
pub(crate) fn entry_id(id: &LogId) -> EntryId {
    EntryId { term: **id.committed_leader_id(), index: id.index() }
}

/// The position of an entry in the words of openraft.
pub(crate) fn log_id(id: EntryId) -> LogId {
    LogId::new(openraft::vote::leader_id_std::CommittedLeaderId::new(id.term), id.index)
}

/// openraft's configuration for our flags.
///
/// # Errors
/// Timings that contradict each other, in the words of the flags.
fn configuration(timing: &Timing) -> Result<Config, String> {
    let milliseconds = |duration: std::time::Duration| {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 16)
    };
    let heartbeat = milliseconds(timing.heartbeat_timeout);
    let election = milliseconds(timing.election_timeout);
    check(timing)?;
    let heartbeat_interval = (heartbeat / 8).max(1);
    let election_timeout_min = (election * 3 / 10).max(heartbeat_interval + 1);
    let config = Config {
        cluster_name: "rq".to_owned(),
        heartbeat_interval,
        election_timeout_min,
        election_timeout_max: (election * 6 / 10).max(election_timeout_min + 1),
        install_snapshot_timeout: 3_600_000,
        max_payload_entries: APPEND_ENTRIES,
        snapshot_policy: SnapshotPolicy::Never,
        // What is kept behind a snapshot is decided by who asks for the purge.
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        replication_lag_threshold: 1_000_000,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

/// The relations that upstream's Raft library enforces, in its words.
fn check(timing: &Timing) -> Result<(), String> {
    const MIN_MS: u128 = 5;
    let defaulted = |given: std::time::Duration, default_ms| {
        if given.is_zero() { default_ms } else { given.as_millis() }
    };
    let heartbeat = defaulted(timing.heartbeat_timeout, 1000);
    let election = defaulted(timing.election_timeout, 1000);
    let lease = defaulted(timing.lease_timeout, 500);
    for (name, value) in [
        ("HeartbeatTimeout", heartbeat),
        ("ElectionTimeout", election),
        ("LeaderLeaseTimeout", lease),
    ] {
        if value < MIN_MS {
            return Err(format!("{name} is too low"));
        }
    }
    if !timing.commit_timeout.is_zero() && timing.commit_timeout.as_millis() < 1 {
        return Err("CommitTimeout is too low".to_owned());
    }
    if lease > heartbeat {
        return Err(format!(
            "LeaderLeaseTimeout ({lease}ms) cannot be larger than heartbeat timeout ({heartbeat}ms)"
        ));
    }
    if election < heartbeat {
        return Err(format!(
            "ElectionTimeout ({election}ms) must be equal or greater than Heartbeat Timeout \
             ({heartbeat}ms)"
        ));
    }
    Ok(())
}
