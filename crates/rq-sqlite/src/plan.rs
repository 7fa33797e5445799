//! What earlier attempts to apply an entry found out, for the next one.
//!
//! Some statements end the transaction of the whole entry: `OR ROLLBACK`, `RAISE(ROLLBACK)`, a
//! budget exceeded in the middle of a write. Such a *culprit* is found by running into it. Then the
//! entry is run again from its beginning, with the culprit replaced by the error it gave, until no
//! new one is found. Each node goes through the same attempts, because each attempt follows from the
//! database and the plan, and the plan from the attempts before.

use std::collections::BTreeMap;

use rq_sql::{ErrorKind, Origin, SqlError};

use crate::error::SqliteError;

/// How many statements of one request may end the entry's transaction, each of which runs the entry
/// once more. The statements behind the last are not run; each gives an error that says so.
pub(crate) const CULPRITS_MAX: usize = 16;

/// What the next attempt must know.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Each statement that is a unit of its own runs under a savepoint. (Decided by the content of
    /// entry and database: savepoints show in the layout of full-text indexes.)
    pub(crate) unit_savepoints: bool,
    /// Each request gets its exact page limit. (Decided by what the connection did before; shows in
    /// nothing.)
    pub(crate) exact_pages: bool,
    /// The entry cannot be committed for this reason: its requests fail, its index counts.
    pub(crate) void: Option<String>,
    /// By the request's place in the entry, in the order of their statements.
    culprits: BTreeMap<usize, Vec<Culprit>>,
}

/// A statement that ended the whole transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Culprit {
    /// Which statement of its request, counted from 0 over all strings.
    pub(crate) ordinal: usize,
    /// What it gave.
    pub(crate) error: SqlError,
    /// Whether a client with a connection of its own would have lost its transaction by it, as
    /// ROLLBACK conflicts do. Budgets end only the statement.
    pub(crate) ends_client_transaction: bool,
    /// How many VM steps it used, which count as used although it is not run again.
    pub(crate) steps_used: u64,
}

/// Why an attempt to apply an entry ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The plan knows more now: roll back and run the entry again.
    Again,
    /// SQLite failed in a way that cannot be a result.
    Failed(SqliteError),
}

impl From<SqliteError> for Stop {
    fn from(error: SqliteError) -> Self {
        Self::Failed(error)
    }
}

impl Plan {
    /// Records a statement that ended the transaction.
    pub(crate) fn add_culprit(&mut self, request: usize, culprit: Culprit) {
        let culprits = self.culprits.entry(request).or_default();
        debug_assert!(
            culprits.last().is_none_or(|last| last.ordinal < culprit.ordinal),
            "culprits before were not run again"
        );
        culprits.push(culprit);
    }

    /// Whether a request has culprits.
    pub(crate) fn has_culprits(&self, request: usize) -> bool {
        self.culprits.contains_key(&request)
    }

    /// What a statement gives instead of being run, if it must not run.
    pub(crate) fn failure_of(&self, request: usize, ordinal: usize) -> Option<Culprit> {
        let culprits = self.culprits.get(&request)?;
        if let Some(culprit) = culprits.iter().find(|culprit| culprit.ordinal == ordinal) {
            return Some(culprit.clone());
        }
        let last = culprits.last()?;
        (culprits.len() >= CULPRITS_MAX && ordinal > last.ordinal).then(|| Culprit {
            ordinal,
            error: too_many(),
            ends_client_transaction: false,
            steps_used: 0,
        })
    }
}

fn too_many() -> SqlError {
    SqlError {
        kind: ErrorKind::Budget,
        message: format!(
            "not run: {CULPRITS_MAX} statements of this request before this one ended the transaction"
        ),
        origin: Origin::Write,
    }
}
