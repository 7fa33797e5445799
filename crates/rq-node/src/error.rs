//! What can go wrong with a request, and the three questions every caller asks about it.
//!
//! A statement that fails is not an error of this kind: it is a result ([`rq_sql::Outcome::Error`]).
//! These are failures of the request as a whole. [`Error::outcome`] is promise P7: it says whether
//! the request may have taken effect.

use std::time::Duration;

use thiserror::Error;

use crate::{Member, OtherEngine};

/// The failure of a request as a whole.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Error {
    /// A statement sets a PRAGMA that clients may never set.
    #[error("disallowed pragma")]
    DisallowedPragma,
    /// The node has not opened its data yet, or has closed it.
    #[error("store not open")]
    NotOpen,
    /// The node is open, but not yet (or no longer) fit to serve.
    #[error("store not ready")]
    NotReady,
    /// No leader is known.
    #[error("leader not found")]
    LeaderNotFound,
    /// Another node leads, and the request was not to be forwarded.
    #[error("not leader")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// The data of this node is older than the request allows.
    #[error("stale read")]
    StaleRead,
    /// The time the request allowed passed before it was proposed or before a connection was free.
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    /// The write found no room in the queue of proposals within the time `-raft-apply-timeout` allows.
    #[error("timed out enqueuing operation")]
    EnqueueTimeout,
    /// The index a read waits for was not applied in time.
    #[error("index {index}: timeout waiting for fsm")]
    WaitTimeout {
        /// The index waited for.
        index: u64,
    },
    /// Too little free space for a write; reads go on.
    #[error(
        "disk full: {free} bytes free where the data lies, {floor} needed for writes; reads go on, \
         writes resume by themselves when space is freed"
    )]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// The floor below which writes are refused (`-limit-free-space`).
        floor: u64,
    },
    /// Applying stands still for a reason of this node; writes would only pile up behind it.
    #[error(
        "entry {index} cannot be applied at the moment and is tried again until it can: {reason}"
    )]
    ApplyStalled {
        /// The entry.
        index: u64,
        /// What fails.
        reason: String,
    },
    /// The request is larger than a log entry may be.
    #[error("the request has about {bytes} bytes; a log entry holds at most {max}")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The most there may be.
        max: u64,
    },
    /// More writes are waiting than the node keeps.
    #[error("too many writes are waiting; try again later")]
    Overloaded,
    /// The program computes another engine epoch than the database belongs to, and must not read it.
    #[error("{0}")]
    OtherEngine(OtherEngine),
    /// The node is stopping.
    #[error("node is shutting down")]
    ShuttingDown,
    /// The request as a whole failed when run, and had no effect: a transaction could not begin or end.
    #[error("{0}")]
    Request(String),
    /// The write was proposed, and its end was not seen: it may or may not have taken effect.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The leader did not accept the caller's credentials for what was forwarded: `Execute`, `query`, ….
    #[error("remote {0} not authorized")]
    Unauthorized(String),
    /// The leader could not be reached, or a read lost its answer on the way.
    #[error("{0}")]
    Unreachable(String),
    /// The membership cannot be changed in this way.
    #[error("{0}")]
    Membership(String),
    /// The node had to stop serving: a failed fsync, a corrupt file.
    #[error("the node has stopped: {0}")]
    Stopped(String),
}

/// Whether a failed request may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectKnown {
    /// It had no effect and never will.
    NotDone,
    /// It may have had its effect, or may still have it.
    Unknown,
}

impl Error {
    /// Whether the failed request may have taken effect.
    pub fn outcome(&self) -> EffectKnown {
        match self {
            Self::OutcomeUnknown(_) => EffectKnown::Unknown,
            Self::DisallowedPragma
            | Self::NotOpen
            | Self::NotReady
            | Self::LeaderNotFound
            | Self::NotLeader { .. }
            | Self::StaleRead
            | Self::DeadlineExceeded
            | Self::EnqueueTimeout
            | Self::WaitTimeout { .. }
            | Self::DiskFull { .. }
            | Self::ApplyStalled { .. }
            | Self::TooLarge { .. }
            | Self::Overloaded
            | Self::OtherEngine(_)
            | Self::ShuttingDown
            | Self::Request(_)
            | Self::Unauthorized(_)
            | Self::Unreachable(_)
            | Self::Membership(_)
            | Self::Stopped(_) => EffectKnown::NotDone,
        }
    }

    /// Whether the same request may succeed a little later, here or at another node, without
    /// danger of being done twice.
    pub fn is_retryable(&self) -> bool {
        self.outcome() == EffectKnown::NotDone
            && !matches!(
                self,
                Self::DisallowedPragma
                    | Self::Request(_)
                    | Self::TooLarge { .. }
                    | Self::Unauthorized(_)
                    | Self::Membership(_)
            )
    }

    /// Who leads, if this error says so.
    pub fn leader(&self) -> Option<&Member> {
        match self {
            Self::NotLeader { leader } => leader.as_ref(),
            _ => None,
        }
    }

    /// How long a client does well to wait before it tries again, if trying again makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::DiskFull { .. } | Self::ApplyStalled { .. } | Self::OtherEngine(_) => {
                Some(Duration::from_secs(5))
            }
            Self::Overloaded
            | Self::EnqueueTimeout
            | Self::NotReady
            | Self::LeaderNotFound
            | Self::Unreachable(_)
            | Self::ShuttingDown => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

/// Why a node could not be opened. Each says what to do; nothing was changed.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The data directory, its lock or its identity.
    #[error(transparent)]
    Storage(#[from] rq_storage::Error),
    /// The database file.
    #[error(transparent)]
    Database(#[from] rq_sqlite::OpenError),
    /// The parts of the data directory do not belong together.
    #[error(
        "the parts of {} do not belong together: {doubt}. A node must not go on under its old number \
         then. Bring the missing or replaced files back, or start with an empty data directory",
        directory.display()
    )]
    Doubtful {
        /// The data directory.
        directory: std::path::PathBuf,
        /// What is wrong.
        doubt: String,
    },
    /// The database does not hold what was purged from the log, because it was there once.
    #[error(
        "{} {}, but the log begins behind entry {purged}: acknowledged writes would be missing. The \
         file was removed or replaced by an older one: bring it back with its -wal file, or restore a \
         backup into an empty data directory",
        path.display(), reach(*applied)
    )]
    DatabaseBehind {
        /// The database file.
        path: std::path::PathBuf,
        /// The last entry it holds, if any.
        applied: Option<u64>,
        /// The last entry the log does not hold any more.
        purged: u64,
    },
    /// The log holds another entry where the database has applied one.
    #[error(
        "entry {index} is applied in the database as one of term {applied}, and one of term {logged} stands in the raft \
         log: this node has diverged from its cluster. Keep the data directory if its data may be needed, and come back \
         with an empty one"
    )]
    Diverged {
        /// The entry that was applied last.
        index: u64,
        /// Its term.
        applied: u64,
        /// The term of the entry in the log.
        logged: u64,
    },
    /// The Raft log holds something this program cannot have written.
    #[error("raft log: {0}")]
    Log(String),
    /// `raft/peers.json` is there and cannot be used.
    #[error("failed to read peers file: {0}")]
    PeersFile(String),
    /// The node was to be recovered from a lost quorum, and cannot or must not be.
    #[error("failed to recover node: {0}")]
    Recovery(String),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(String),
    /// Raft could not be started with these settings.
    #[error("creating the raft system failed: {0}")]
    Raft(String),
}

fn reach(applied: Option<u64>) -> String {
    match applied {
        Some(applied) => format!("holds the entries up to {applied}"),
        None => "is missing or holds nothing".to_owned(),
    }
}
