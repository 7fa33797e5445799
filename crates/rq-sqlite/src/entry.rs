//! What the state machine is fed: one entry of the replicated log, decoded, and what comes back.
//!
//! These are the words between the node and the engine. They know nothing of Raft but term and
//! index, nothing of the wire, and nothing of this node: two engines that are given equal entries
//! hold equal pages afterwards.

use std::time::Duration;

use rq_sql::{Outcome, Statement};

/// The position of an entry in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Its index; the first entry of a log has index 0 or 1, then without gaps.
    pub index: u64,
}

/// One entry, ready to apply.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Where it stands.
    pub id: EntryId,
    /// The leader's wall clock when it proposed the entry, in milliseconds since 1970, as it was.
    pub clock_ms: i64,
    /// The seed of all randomness in this entry.
    pub seed: [u8; 16],
    /// The settings that can change a result.
    pub settings: Settings,
    /// What to do.
    pub operation: Operation<'a>,
}

/// The settings of the leader that can change a result; they travel in the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether foreign keys are enforced unless the request says otherwise.
    pub foreign_keys: bool,
    /// What each request may use.
    pub budget: Budget,
}

/// What one request may use up before its running statement fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// VM steps of the request, over all its statements; 0 is without limit. Beyond, the statement
    /// that is running fails and those behind it are not run. As much again may go into compiling
    /// them, counted by number and length.
    pub steps: u64,
    /// Pages the request may add to the database; 0 is without limit.
    pub pages: u64,
}

/// What an entry does.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// Nothing but moving the applied index (a leader's first entry, a barrier).
    Blank,
    /// Stores the cluster's membership, opaque to the engine.
    Membership(&'a [u8]),
    /// Runs requests, each independent of the others' failures.
    Batch(&'a [Request]),
    /// Housekeeping of the whole database.
    Maintenance(&'a Maintenance),
}

/// One client's request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// How its statements are run.
    pub mode: Mode,
    /// Whether all statements are one transaction unit; otherwise each is its own.
    pub transaction: bool,
    /// The statement strings, in order; none is the empty string.
    pub statements: Vec<Statement>,
}

/// How the statements of a request are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `/db/execute`: statements report counters, or rows if they yield columns and write.
    Execute,
    /// `/db/request`: reads report rows, writes report counters or RETURNING rows.
    Unified,
}

/// Housekeeping that must happen on all nodes at the same point of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Rebuilds the file. Outside of any transaction; see the crate documentation for its replay rule.
    Vacuum {
        /// The page size in bytes, if it is to be a certain one. Asking for another one than the database
        /// has is an error: in WAL mode it cannot be changed.
        page_size: Option<u32>,
        /// A new `auto_vacuum` mode (0 none, 1 full, 2 incremental), if it is to change.
        auto_vacuum: Option<u8>,
    },
    /// Gathers statistics: the whole database, or the table or index named.
    Analyze {
        /// The argument of ANALYZE as typed, possibly schema-qualified.
        target: Option<String>,
    },
    /// Refreshes statistics within a bounded effort; the deterministic stand-in for `PRAGMA optimize`.
    Optimize,
    /// Rebuilds indexes: all, or those of the collation, table or index named.
    Reindex {
        /// The argument of REINDEX as typed, possibly schema-qualified.
        target: Option<String>,
    },
}

/// What applying an entry gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// One element a request of a batch, in order; one element for maintenance; none otherwise.
    pub requests: Vec<RequestOutcome>,
}

/// What one request gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestOutcome {
    /// One element a statement string that was run or refused, in order.
    pub results: Vec<TimedOutcome>,
    /// A failure of the request as a whole; `results` is then empty.
    pub error: Option<String>,
    /// Whether this request ended the transaction of the whole entry (`OR ROLLBACK`, `RAISE(ROLLBACK)`,
    /// a budget exceeded), so that the leader does well to give its like an entry of their own.
    pub disruptive: bool,
}

/// An outcome and how long it took on this node. The time is no part of the replicated state.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedOutcome {
    /// What the statement string gave.
    pub outcome: Outcome,
    /// How long it ran here.
    pub elapsed: Duration,
}
