//! The error codes: one table, stable, the same for the API, the tools and the documents.
//!
//! A code answers three questions of a program: what kind of failure, whether the thing was
//! certainly not done, and whether it is worth trying the same again. [`TABLE`] holds the answers.
//! Codes are never renamed or given another meaning.

use std::fmt;

use rq_sql::ErrorKind;

/// The name of the header that names the first error of an answer.
pub const HEADER: &str = "X-Rq-Error";

/// What is known about the effect of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It certainly had no effect, and will have none.
    NotDone,
    /// It may have had its effect, or may yet have it.
    Unknown,
}

/// What the table says about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// Its stable name.
    pub name: &'static str,
    /// The status of an HTTP answer that fails with it as a whole. Failures of single statements,
    /// and those the compatible API reports in a JSON body, come with 200.
    pub status: u16,
    /// What is known about the effect of the statement, or of the request that fails as a whole. Of a request
    /// whose other statements may stand without it less is known.
    pub outcome: Outcome,
    /// Whether the same request may well succeed a moment later.
    pub is_retryable: bool,
    /// What it means and what to do.
    pub sentence: &'static str,
}

/// Makes [`Code`] and [`TABLE`] from one list: variant, name, status, outcome, whether retryable,
/// sentence.
macro_rules! codes {
    ($($code:ident $name:literal $status:literal $outcome:ident $retryable:literal $sentence:literal)*) => {
        /// What kind of failure. [`Code::name`] is the stable name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $sentence] $code,)*
        }

        /// All codes, in the order of [`Code`].
        pub static TABLE: &[Entry] = &[
            $(Entry {
                code: Code::$code,
                name: $name,
                status: $status,
                outcome: Outcome::$outcome,
                is_retryable: $retryable,
                sentence: $sentence,
            },)*
        ];
    };
}

codes! {
    SqlError "sql_error" 200 NotDone false
        "SQLite refused the statement: its text, or a name in it. Correct the statement."
    ConstraintViolation "constraint_violation" 200 NotDone false
        "The statement would violate a constraint: UNIQUE, NOT NULL, CHECK, FOREIGN KEY, a RAISE, or a STRICT type."
    NotAuthorizedStatement "not_authorized_statement" 200 NotDone false
        "The statement is of a kind that is not allowed here: temporary objects, ATTACH, most PRAGMAs, internal tables."
    ReadOnly "read_only" 200 NotDone false
        "A write was sent to an endpoint that only reads. Use /db/execute or /db/request."
    BadParameters "bad_parameters" 200 NotDone false
        "The parameters do not fit the statement: too few, or a name that is none."
    BudgetExceeded "budget_exceeded" 200 NotDone false
        "The statement would take more steps or add more pages than one request may. Split it, or raise the limit."
    ResultTooLarge "result_too_large" 200 Unknown false
        "The result has more rows or bytes than one answer may. What a write did stands; only its answer is missing."
    QueryTimeout "query_timeout" 200 NotDone true
        "The time limit of a read passed before it was complete."
    Cancelled "cancelled" 200 NotDone true
        "The read was cancelled: the client went away, or the read stood in the way of a checkpoint."
    ValueNotRepresentable "value_not_representable" 200 Unknown false
        "A value has no form in JSON: an infinite number, which is answered as null, or a date beyond the year 9999. What a write did stands."
    TransactionMisuse "transaction_misuse" 200 NotDone false
        "BEGIN, COMMIT, ROLLBACK, SAVEPOINT or RELEASE stood out of place, or a transaction was left open."
    TooBig "too_big" 200 NotDone false
        "A text, value or expression is beyond a limit of SQLite."
    SqliteFailure "sqlite_failure" 200 NotDone false
        "SQLite reported another failure; its message says which."
    DisallowedPragma "disallowed_pragma" 200 NotDone false
        "A PRAGMA of the request would change how the database is kept. The whole request is refused."
    StoreNotOpen "store_not_open" 503 NotDone true
        "The node is starting and has not opened its database yet."
    StoreNotReady "store_not_ready" 503 NotDone true
        "The node is open but not ready to serve yet."
    OtherEngine "other_engine" 503 NotDone true
        "This node's program computes another engine epoch than its database belongs to: it votes and stores, and reads nothing. Ask another node."
    LeaderNotFound "leader_not_found" 503 NotDone true
        "The node knows no leader: an election is under way, or a majority is not reachable."
    NotLeader "not_leader" 503 NotDone true
        "The node that had to do it is not the leader any more."
    StaleRead "stale_read" 200 NotDone true
        "The data of this node is older than the read allows."
    DiskFull "disk_full" 507 NotDone true
        "Free space is below the floor. Reads go on; writes are accepted again when there is space."
    Overloaded "overloaded" 503 NotDone true
        "Too many requests are waiting. Wait as long as Retry-After says."
    QueueFull "queue_full" 503 NotDone true
        "The queue of writes is full. Wait as long as Retry-After says."
    QueueTimeout "queue_timeout" 408 Unknown false
        "A queued write was not processed in the time the client gave. It is still queued and may yet be done."
    BodyTooLarge "body_too_large" 413 NotDone false
        "The body of the request has more bytes, statements or parameters than one may. Split it."
    HeadersTooLarge "headers_too_large" 431 NotDone false
        "The request line or the headers are too long. Send the statement in the body."
    InvalidRequest "invalid_request" 400 NotDone false
        "The request is malformed: its query string, its body, or a parameter."
    Unauthorized "unauthorized" 401 NotDone false
        "The credentials are missing or wrong, or do not permit this."
    NotFound "not_found" 404 NotDone false
        "Nothing has this path."
    MethodNotAllowed "method_not_allowed" 405 NotDone false
        "This path does not take this method."
    NotImplemented "not_implemented" 501 NotDone false
        "This version does not offer this."
    ShuttingDown "shutting_down" 503 NotDone true
        "The node is stopping. Send the request to another."
    TimeoutBeforeProposal "timeout_before_proposal" 503 NotDone true
        "The request waited for its turn longer than it may and was dropped before it was proposed."
    OutcomeUnknown "outcome_unknown" 503 Unknown false
        "The write was proposed, but its end is not known: leadership or the connection was lost. Look before repeating it."
    ForwardFailed "forward_failed" 503 NotDone true
        "The request could not be handed to the leader; nothing of it was sent."
    Membership "membership" 500 NotDone false
        "The membership of the cluster cannot be changed in this way; the message says why."
    Internal "internal" 500 Unknown false
        "Something failed that never should. The log of the node says more."
}

impl Code {
    /// What the table says about this code.
    pub fn entry(self) -> &'static Entry {
        &TABLE[self as usize]
    }

    /// The stable name.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// The code with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|entry| entry.name == name).map(|entry| entry.code)
    }

    /// See [`Entry::status`].
    pub fn status(self) -> u16 {
        self.entry().status
    }

    /// See [`Entry::outcome`].
    pub fn outcome(self) -> Outcome {
        self.entry().outcome
    }

    /// See [`Entry::is_retryable`].
    pub fn is_retryable(self) -> bool {
        self.entry().is_retryable
    }

    /// The value of the header [`HEADER`]: `CODE; outcome=not-done` or `CODE; outcome=unknown`.
    pub fn header_value(self) -> String {
        self.header_value_with(self.outcome())
    }

    /// The same, where more or less is known about the outcome than the table says.
    pub fn header_value_with(self, outcome: Outcome) -> String {
        format!("{}; outcome={outcome}", self.name())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDone => "not-done",
            Self::Unknown => "unknown",
        })
    }
}

impl From<ErrorKind> for Code {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Sql => Self::SqlError,
            ErrorKind::Constraint | ErrorKind::ConstraintKept => Self::ConstraintViolation,
            ErrorKind::NotAuthorized => Self::NotAuthorizedStatement,
            ErrorKind::ReadOnly => Self::ReadOnly,
            ErrorKind::Parameters => Self::BadParameters,
            ErrorKind::Budget => Self::BudgetExceeded,
            ErrorKind::ResultTooLarge => Self::ResultTooLarge,
            ErrorKind::Timeout => Self::QueryTimeout,
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::Value => Self::ValueNotRepresentable,
            ErrorKind::Transaction => Self::TransactionMisuse,
            ErrorKind::TooBig => Self::TooBig,
            ErrorKind::Other => Self::SqliteFailure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete_in_order_and_without_doubles() {
        for (index, entry) in TABLE.iter().enumerate() {
            assert_eq!(entry.code as usize, index, "{}", entry.name);
            assert_eq!(Code::from_name(entry.name), Some(entry.code));
            assert!(entry.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            assert!(entry.sentence.ends_with('.'), "{}", entry.name);
            assert!((200..600).contains(&entry.status));
        }
        assert_eq!(Code::Internal as usize + 1, TABLE.len());
    }

    #[test]
    fn the_header_names_code_and_outcome() {
        assert_eq!(Code::SqlError.header_value(), "sql_error; outcome=not-done");
        assert_eq!(Code::OutcomeUnknown.header_value(), "outcome_unknown; outcome=unknown");
        assert_eq!(
            Code::Internal.header_value_with(Outcome::NotDone),
            "internal; outcome=not-done"
        );
    }

    #[test]
    fn retrying_is_advised_only_when_nothing_was_done() {
        for entry in TABLE {
            assert!(!entry.is_retryable || entry.outcome == Outcome::NotDone, "{}", entry.name);
        }
    }
}
