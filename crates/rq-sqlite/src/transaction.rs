//! BEGIN, COMMIT, ROLLBACK, SAVEPOINT and RELEASE as clients type them.
//!
//! An entry is one transaction already, so none of them is ever run as typed. A request has a stack
//! of its own instead: each frame is a savepoint inside the entry's transaction under a name of ours.
//! What SQLite would answer to a client with a connection of its own is answered here, with its
//! words. The stack ends with the request.

use rq_sql::{ErrorKind, Origin, SqlError};

use crate::{error::SqliteError, facts::Control, session::Session};

/// How many savepoints a request may have open at once; one more is an error of its statement.
/// (SQLite's cost of opening one grows with their number.)
pub(crate) const OPEN_SAVEPOINTS_MAX: usize = 200;

/// What a request has open.
#[derive(Debug)]
pub(crate) struct ClientTransaction {
    /// From the outermost: the name of a savepoint, or `None` for a BEGIN, which is outermost.
    frames: Vec<Option<String>>,
    /// Whether the request as a whole is a transaction unit: then it cannot begin or end one, and
    /// its outermost savepoint is not a transaction.
    is_within_unit: bool,
}

/// The answer to a statement that controls transactions. The outer error is a failure of this node.
type Answer = Result<Result<(), SqlError>, SqliteError>;

impl ClientTransaction {
    /// Of a request that begins.
    pub(crate) fn new(is_within_unit: bool) -> Self {
        Self { frames: Vec::new(), is_within_unit }
    }

    /// Whether anything is open.
    pub(crate) fn is_open(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Does what `control` says.
    ///
    /// # Errors
    /// A failure of this node; an error of the statement is a result.
    pub(crate) fn control(&mut self, control: &Control, session: &mut Session) -> Answer {
        match control {
            Control::Begin => self.begin(session),
            Control::Commit => self.commit(session),
            Control::Rollback => self.roll_back(session),
            Control::Savepoint(name) => self.open(Some(name.clone()), session),
            Control::Release(name) => self.release(name, session),
            Control::RollbackTo(name) => self.roll_back_to(name, session),
        }
    }

    /// Undoes and closes everything that is open.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn abandon(&mut self, session: &mut Session) -> Result<(), SqliteError> {
        if self.is_open() {
            session.roll_back_to_savepoint(0)?;
            session.release_savepoint(0)?;
            self.frames.clear();
        }
        Ok(())
    }

    fn begin(&mut self, session: &mut Session) -> Answer {
        if self.is_within_unit || self.is_open() {
            return refuse("cannot start a transaction within a transaction");
        }
        self.open(None, session)
    }

    fn open(&mut self, name: Option<String>, session: &mut Session) -> Answer {
        if self.frames.len() >= OPEN_SAVEPOINTS_MAX {
            return refuse(format!(
                "more than {OPEN_SAVEPOINTS_MAX} open savepoints in one request"
            ));
        }
        session.open_savepoint(self.frames.len())?;
        self.frames.push(name);
        Ok(Ok(()))
    }

    fn commit(&mut self, session: &mut Session) -> Answer {
        if self.is_within_unit {
            return refuse("cannot commit - the request as a whole is one transaction");
        }
        if !self.is_open() {
            return refuse("cannot commit - no transaction is active");
        }
        self.close(0, session)
    }

    fn roll_back(&mut self, session: &mut Session) -> Answer {
        if self.is_within_unit {
            return refuse("cannot rollback - the request as a whole is one transaction");
        }
        if !self.is_open() {
            return refuse("cannot rollback - no transaction is active");
        }
        self.abandon(session)?;
        Ok(Ok(()))
    }

    fn release(&mut self, name: &str, session: &mut Session) -> Answer {
        match self.find(name) {
            Some(depth) => self.close(depth, session),
            None => refuse(format!("no such savepoint: {name}")),
        }
    }

    fn roll_back_to(&mut self, name: &str, session: &mut Session) -> Answer {
        let Some(depth) = self.find(name) else {
            return refuse(format!("no such savepoint: {name}"));
        };
        session.roll_back_to_savepoint(depth)?;
        self.frames.truncate(depth + 1);
        Ok(Ok(()))
    }

    /// Closes the frames from `depth` on. Closing the outermost one commits, unless the request is a
    /// unit: then deferred foreign keys must hold, and everything stays open if they do not.
    fn close(&mut self, depth: usize, session: &mut Session) -> Answer {
        if depth == 0 && !self.is_within_unit && session.has_deferred_violations() {
            return Ok(Err(foreign_key_violation()));
        }
        session.release_savepoint(depth)?;
        self.frames.truncate(depth);
        Ok(Ok(()))
    }

    fn find(&self, name: &str) -> Option<usize> {
        let is_it = |frame: &Option<String>| {
            frame.as_deref().is_some_and(|open| open.eq_ignore_ascii_case(name))
        };
        self.frames.iter().rposition(is_it)
    }
}

/// The failure of a unit that ends with a deferred foreign key violated.
pub(crate) fn foreign_key_violation() -> SqlError {
    SqlError {
        kind: ErrorKind::Constraint,
        message: "FOREIGN KEY constraint failed".to_owned(),
        origin: Origin::Write,
    }
}

/// The failure of a request that ends with a transaction open.
pub(crate) fn left_open() -> SqlError {
    SqlError {
        kind: ErrorKind::Transaction,
        message: "transaction rolled back: it was still open at the end of its request".to_owned(),
        origin: Origin::Write,
    }
}

fn refuse(message: impl Into<String>) -> Answer {
    Ok(Err(SqlError {
        kind: ErrorKind::Transaction,
        message: message.into(),
        origin: Origin::Write,
    }))
}
