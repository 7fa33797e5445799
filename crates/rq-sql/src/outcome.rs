//! What one statement string gave: as data ([`Outcome`]) or as a stream ([`ResultSink`]).
//!
//! The writer produces [`Outcome`]s, because an answer may have to cross the log or the network
//! before it is encoded. Readers push rows straight into a [`ResultSink`], normally an encoder,
//! so that a large result exists only once. [`Outcome::replay`] turns the first into the second.

use std::{error::Error, fmt, time::Duration};

use crate::{Value, ValueRef};

/// What one statement string gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A read of an empty or comment-only string: no columns, no rows, no error.
    Empty,
    /// A write that reports counters.
    Done {
        /// The rowid of the row this statement inserted last, if it inserted one.
        last_insert_id: Option<i64>,
        /// Rows inserted, changed or deleted by this statement, if it is of a kind that counts.
        rows_affected: Option<u64>,
    },
    /// A statement that yields columns: a read, `RETURNING`, `EXPLAIN`, many PRAGMAs.
    Rows(Rows),
    /// The statement failed. Its own effect is undone.
    Error(SqlError),
}

/// Columns and rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// One entry a result column.
    pub columns: Vec<Column>,
    /// One entry a row, each as long as `columns`.
    pub rows: Vec<Vec<Value>>,
}

/// A result column, as SQLite describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// The name as SQLite gives it.
    pub name: String,
    /// The declared type of the table column it comes from, verbatim; `None` for expressions.
    pub declared_type: Option<String>,
    /// The real name of the table it comes from; `None` for expressions.
    pub table: Option<String>,
}

/// Whether a failing statement was being run as a read or as a write. The wire forms differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A read (`/db/query`, or the run of a read within `/db/request`).
    Read,
    /// A write, or the compilation of a statement of `/db/request`.
    Write,
}

/// The failure of one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// What kind of failure, for programs.
    pub kind: ErrorKind,
    /// What to tell the user; SQLite's message verbatim where the error is SQLite's.
    pub message: String,
    /// How the statement was being run.
    pub origin: Origin,
}

/// Why a statement failed. Stable: the error codes of the HTTP API derive from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// SQLite refused the text or a name in it (`SQLITE_ERROR` at prepare), or a run-time error
    /// without a class of its own.
    Sql,
    /// A constraint: UNIQUE, NOT NULL, CHECK, FOREIGN KEY, RAISE, datatype of a STRICT table.
    Constraint,
    /// The same, of a statement that had changed something before: with the conflict policy FAIL that stands.
    ConstraintKept,
    /// The statement is not allowed here (authorizer, allow-list of PRAGMAs, temp objects, ATTACH).
    NotAuthorized,
    /// A write was found on a read endpoint.
    ReadOnly,
    /// Too few arguments, a bad parameter name.
    Parameters,
    /// The statement used more VM steps or added more pages than its request may.
    Budget,
    /// The result has more rows or bytes than allowed. A write's effect stands.
    ResultTooLarge,
    /// The time limit of a read passed.
    Timeout,
    /// The client went away or the server is stopping.
    Cancelled,
    /// A value could not be represented in the answer.
    Value,
    /// BEGIN, COMMIT, ROLLBACK, SAVEPOINT or RELEASE out of place.
    Transaction,
    /// Text, value or expression beyond a limit of SQLite (`SQLITE_TOOBIG` and the like).
    TooBig,
    /// Anything else SQLite reported.
    Other,
}

impl ErrorKind {
    /// Whether a statement that failed so may have had an effect nevertheless.
    pub fn may_keep_effect(self) -> bool {
        matches!(self, Self::ConstraintKept | Self::ResultTooLarge | Self::Value)
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for SqlError {}

/// How the result of one statement string ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// See [`Outcome::Empty`].
    Empty,
    /// See [`Outcome::Done`].
    Done {
        /// See [`Outcome::Done`].
        last_insert_id: Option<i64>,
        /// See [`Outcome::Done`].
        rows_affected: Option<u64>,
    },
    /// All rows were given.
    Rows,
    /// It failed; rows given before are void.
    Error(SqlError),
}

/// Why a sink refuses a row. It becomes the error of the statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkError {
    /// [`ErrorKind::ResultTooLarge`] or [`ErrorKind::Value`].
    pub kind: ErrorKind,
    /// What to tell the user.
    pub message: String,
}

/// Receives the results of a request, one statement string after the other.
///
/// Per statement string: `columns` once (only if it yields columns), `row` any number of times, then
/// `end` exactly once. Rows before an `End::Error` are void and must be dropped by the sink.
pub trait ResultSink {
    /// Begins a result that has columns.
    fn columns(&mut self, columns: &[Column]);

    /// Takes one row, as long as the columns given before.
    ///
    /// # Errors
    /// A row that does not fit, or cannot be represented; the statement then ends with that error.
    fn row(&mut self, row: &[ValueRef<'_>]) -> Result<(), SinkError>;

    /// Ends the result of one statement string, which took `elapsed`.
    fn end(&mut self, end: End, elapsed: Duration);

    /// Forgets everything received so far, because the request will be run again from its start.
    fn reset(&mut self);
}

impl Outcome {
    /// Pushes this outcome into a sink, as if it were being produced now.
    pub fn replay(&self, elapsed: Duration, sink: &mut dyn ResultSink) {
        let end = match self {
            Self::Empty => End::Empty,
            Self::Done { last_insert_id, rows_affected } => {
                End::Done { last_insert_id: *last_insert_id, rows_affected: *rows_affected }
            }
            Self::Error(error) => End::Error(error.clone()),
            Self::Rows(rows) => match rows.replay(sink) {
                Ok(()) => End::Rows,
                Err(SinkError { kind, message }) => {
                    End::Error(SqlError { kind, message, origin: Origin::Write })
                }
            },
        };
        sink.end(end, elapsed);
    }
}

impl Rows {
    fn replay(&self, sink: &mut dyn ResultSink) -> Result<(), SinkError> {
        sink.columns(&self.columns);
        let mut borrowed = Vec::with_capacity(self.columns.len());
        for row in &self.rows {
            borrowed.clear();
            borrowed.extend(row.iter().map(Value::as_ref));
            sink.row(&borrowed)?;
        }
        Ok(())
    }
}
