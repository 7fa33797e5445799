//! What clients ask of a node, and what they get.

use std::time::Duration;

use rq_sql::Statement;
use rq_sqlite::TimedOutcome;

/// A write: `/db/execute`.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The statement strings, none empty.
    pub statements: Vec<Statement>,
    /// All or nothing.
    pub transaction: bool,
    /// How long it may wait before it is proposed. Once proposed nothing but its end stops it.
    pub timeout: Option<Duration>,
}

/// What a write gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// One element a statement string that was run or refused, in order.
    pub results: Vec<TimedOutcome>,
    /// The index of its log entry.
    pub index: u64,
    /// The internode address of the leader that did it, if that was another node.
    pub served_by: Option<String>,
}

/// A read: `/db/query`; or a request of mixed statements: `/db/request`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// The statement strings, none empty.
    pub statements: Vec<Statement>,
    /// One read transaction over all statements (all or nothing, where there are writes).
    pub transaction: bool,
    /// How fresh the answer must be.
    pub level: Level,
    /// For level none on a node that does not lead: how old the last contact with the leader may be.
    pub freshness: Option<Duration>,
    /// With `freshness`: the age of the data counts, not that of the contact.
    pub freshness_strict: bool,
    /// How long a linearizable read may wait for the state machine.
    pub linearizable_timeout: Duration,
    /// How long connection and statements may take together (`db_timeout`); `None` is the node's own limit.
    pub timeout: Option<Duration>,
    /// Waits until the entry of this index is applied here: read-your-writes.
    pub min_index: Option<u64>,
}

/// How fresh a read must be. See `docs` of the HTTP API for what each promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Level {
    /// This node's data, whatever its age.
    None,
    /// The data of the node that believes to lead.
    #[default]
    Weak,
    /// Everything acknowledged before the read began is seen.
    Linearizable,
    /// As linearizable, by an entry through the log.
    Strong,
    /// Weak on a voter, none on a read replica.
    Auto,
}

/// What is known of a read that was served, besides the rows its sink received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The level really used.
    pub level: Level,
    /// The index of the log entry the request went through, if it did.
    pub index: Option<u64>,
    /// The internode address of the leader that answered, if that was another node.
    pub served_by: Option<String>,
}

impl Level {
    /// The level's word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Weak => "weak",
            Self::Linearizable => "linearizable",
            Self::Strong => "strong",
            Self::Auto => "auto",
        }
    }
}
