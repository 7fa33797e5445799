//! Runs the statement strings of a read request on a connection of the pool.
//!
//! The connection is read-only: a statement that tries to write fails with the error clients know.
//! All statements of a string are run, the last one reports; an error of any is the error of the
//! string. Rows go straight into the caller's sink.
//!
//! A query may be given an *allowance* of VM steps. When it is used up the query ends as
//! [`QueryEnd::Yielded`]: the caller runs short queries where it stands and the long ones again,
//! without an allowance, on a thread that may block. So a statement may run twice, which no client
//! can see, since it changes nothing.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use rq_sql::{End, ErrorKind, Origin, ResultSink, SinkError, SqlError, Statement, ValueRef};
use rusqlite::ffi;

use crate::{
    bind::Arguments,
    budget,
    disk_full::{self, Allowance},
    error::SqliteError,
    memory::{self, Account, Charge, Narrowed},
    prepared::{Compiled, Prepared},
    readers::{CancelFlag, Patience, QueryError, Reader, Readers},
    sql_text::SqlText,
    statements::{most_compiling_bytes, too_complex},
    work::{Counted, Meter},
};

/// The VM steps that each statement counts for at least, against the allowance: compiling and
/// encoding cost as well.
const STEPS_PER_STATEMENT: u64 = 500;

/// How many bytes of SQL text a query with an allowance may compile; beyond, it yields at once.
const LONGEST_ALLOWED_TEXT: usize = 64 * 1024;

/// The VM steps between two calls of the progress handler, as installed by the pool.
const STEPS_PER_LOOK: u64 = 1000;

/// A request for reads.
#[derive(Clone, Debug, Default)]
pub struct Query<'a> {
    /// The statement strings, in order.
    pub statements: &'a [Statement],
    /// Whether all see the same state of the database.
    pub transaction: bool,
    /// When the statement then running is stopped, and all later ones fail. Also bounds the wait for
    /// a connection. `None` is without limit.
    pub deadline: Option<Instant>,
    /// Stops the query when set.
    pub cancel: Option<CancelFlag>,
    /// How many VM steps all statements may take together, to a precision of a thousand. `None` is
    /// without limit; with a limit the call also never waits for a connection.
    pub step_allowance: Option<u64>,
}

impl Query<'_> {
    fn text_bytes(&self) -> usize {
        self.statements.iter().map(|statement| statement.sql.len()).sum()
    }
}

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryEnd {
    /// Each statement string has its result in the sink, errors included.
    Done,
    /// The allowance did not suffice, or there was no free connection. What the sink holds is void:
    /// reset it and run the query again without an allowance.
    Yielded,
}

/// What `/db/request` takes a statement string for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOrWrite {
    /// It may run on the pool.
    Read,
    /// It goes through the log, also because it may not compile at all.
    Write,
}

impl Readers {
    /// Runs the statements and pushes one result each into the sink.
    ///
    /// Waits for a connection if all are in use, and runs as long as the statements take: call it
    /// where blocking is allowed, or with an allowance.
    ///
    /// # Errors
    /// The request as a whole failed; what the sink holds is void.
    pub fn query(
        &self,
        query: &Query<'_>,
        sink: &mut dyn ResultSink,
    ) -> Result<QueryEnd, QueryError> {
        if query.step_allowance.is_some() && query.text_bytes() > LONGEST_ALLOWED_TEXT {
            return Ok(QueryEnd::Yielded);
        }
        let patience = match (query.step_allowance, query.deadline) {
            (Some(_), _) => Patience::None,
            (None, Some(deadline)) => Patience::Until(deadline),
            (None, None) => Patience::Endless,
        };
        let Some(mut loan) = self.take(patience, query.cancel.as_ref())? else {
            return Ok(QueryEnd::Yielded);
        };
        let reader = loan.reader();
        reader.control.start(query, self.temporary_bytes());
        let spill = Allowance::of(self.temporary_bytes());
        let counted = Counted::by(Arc::clone(&reader.control) as Arc<dyn Meter>);
        let account = Account::open(Charge::Held);
        let end = reader.run(query, sink);
        drop((spill, counted, account));
        memory::return_much();
        match reader.control.stopped() {
            Some(Stop::Allowance) => Ok(QueryEnd::Yielded),
            Some(Stop::Deadline) if query.transaction => Err(QueryError::TransactionOver),
            _ => end.map(|()| QueryEnd::Done),
        }
    }

    /// Whether a statement string of `/db/request` is a read: its first statement is read-only to
    /// SQLite, or an EXPLAIN. What does not compile counts as a write, and fails there.
    ///
    /// # Errors
    /// There is no connection (waits up to `deadline` for one).
    pub fn classify(
        &self,
        statement: &Statement,
        deadline: Option<Instant>,
    ) -> Result<ReadOrWrite, QueryError> {
        let patience = deadline.map_or(Patience::Endless, Patience::Until);
        let loan = self.take(patience, None)?;
        let mut loan = loan.ok_or(QueryError::NoConnectionInTime)?;
        let _account = Account::open(Charge::Held);
        Ok(loan.reader().classify(&statement.sql))
    }
}

impl Reader {
    fn run(&mut self, query: &Query<'_>, sink: &mut dyn ResultSink) -> Result<(), QueryError> {
        if query.transaction {
            step_once(&mut self.begin)?;
        }
        let mut is_lost = false;
        for statement in query.statements {
            let started = Instant::now();
            let end = match self.control.check() {
                Some(stop) => End::Error(stop.into_sql_error()),
                None if is_lost => End::Error(transaction_lost()),
                None => self.run_string(statement, sink).unwrap_or_else(End::Error),
            };
            if self.control.stopped() == Some(Stop::Allowance) {
                return Ok(());
            }
            // Out of memory, of space or of order on the disk, SQLite ends the whole transaction. What
            // follows would see another state of the database.
            is_lost |= query.transaction
                && matches!(end, End::Error(_))
                && self.connection.is_autocommit();
            sink.end(end, started.elapsed());
        }
        if query.transaction && !is_lost {
            step_once(&mut self.commit)?;
        }
        Ok(())
    }

    /// Runs one statement string. Each statement is compiled before the one ahead of it runs, since
    /// only the last one's rows are wanted.
    fn run_string(
        &mut self,
        statement: &Statement,
        sink: &mut dyn ResultSink,
    ) -> Result<End, SqlError> {
        let mut arguments = Arguments::new(&statement.parameters, Origin::Read)?;
        let mut text = SqlText::new(&statement.sql);
        let mut current = self.next(&mut text, &mut arguments)?;
        while let Some(mut compiled) = current {
            let next = match self.next(&mut text, &mut arguments) {
                Ok(next) => next,
                Err(error) => {
                    self.statements.put(compiled);
                    return Err(error);
                }
            };
            let wanted: Option<&mut dyn ResultSink> =
                if next.is_none() { Some(&mut *sink) } else { None };
            let end = match &mut compiled.statement {
                // SQLite makes do without memory here and there, and the result may be another.
                Some(prepared) => match self.control.run(prepared, wanted) {
                    Ok(_) if memory::has_refused() => Err(self.control.explain(memory::refused())),
                    end => end,
                },
                None => Ok(End::Empty),
            };
            self.statements.put(compiled);
            if next.is_none() || end.is_err() {
                if let Some(next) = next {
                    self.statements.put(next);
                }
                return end;
            }
            current = next;
        }
        Ok(End::Empty)
    }

    /// Compiles and binds the next statement that is not empty, and moves `text` behind it.
    fn next(
        &mut self,
        text: &mut SqlText<'_>,
        arguments: &mut Arguments<'_>,
    ) -> Result<Option<Compiled>, SqlError> {
        let watch = Arc::clone(&self.watch);
        let refusal = || watch.take_refusal();
        // Running a PRAGMA may have compiled it once more.
        self.keep_like()?;
        while !text.is_at_end() {
            // Compiling costs as well, and no progress handler looks meanwhile.
            if text.is_begun()
                && let Some(stop) = self.control.check()
            {
                return Err(stop.into_sql_error());
            }
            // VACUUM leaves one behind that is not meant.
            refusal();
            let mut compiled = self
                .compile(text)
                .map_err(|error| explain_refusal(self.control.explain(error), refusal()))?;
            if compiled.statement.as_ref().is_some_and(Prepared::is_explain) {
                compiled = self.explain_anew(text)?;
            }
            self.keep_like()?;
            text.advance(compiled.tail.max(1));
            match &mut compiled.statement {
                Some(statement) => {
                    if let Err(error) = arguments.bind_next(statement) {
                        self.statements.put(compiled);
                        return Err(error);
                    }
                    return Ok(Some(compiled));
                }
                None => self.statements.put(compiled),
            }
        }
        Ok(None)
    }

    /// Takes the next statement out of the cache or compiles it.
    fn compile(&mut self, text: &mut SqlText<'_>) -> Result<Compiled, SqliteError> {
        if budget::tangle(text.rest()) > budget::MOST_TANGLED {
            return Err(too_complex());
        }
        let narrowed = Narrowed::to(most_compiling_bytes(text));
        let compiled = self.statements.take(&self.connection, text);
        if compiled.is_err() && memory::has_refused() {
            return Err(too_complex());
        }
        drop(narrowed);
        compiled
    }

    /// Before anything runs on the connection that was compiled meanwhile.
    fn keep_like(&self) -> Result<(), SqlError> {
        self.watch.keep_like(&self.connection).map_err(|error| self.control.explain(error))
    }

    /// Compiles an EXPLAIN against the newest schema: run alone it never looks whether that changed.
    fn explain_anew(&mut self, text: &mut SqlText<'_>) -> Result<Compiled, SqlError> {
        let looked = self.look.step();
        self.look.reset();
        looked
            .and_then(|_| Compiled::new(&self.connection, text))
            .map_err(|error| self.control.explain(error))
    }

    fn classify(&mut self, sql: &str) -> ReadOrWrite {
        let mut text = SqlText::new(sql);
        while !text.is_at_end() {
            let Ok(compiled) = self.compile(&mut text) else {
                return ReadOrWrite::Write;
            };
            text.advance(compiled.tail.max(1));
            let reads = compiled
                .statement
                .as_ref()
                .map(|statement| statement.is_read_only() || statement.is_explain());
            self.statements.put(compiled);
            match reads {
                Some(true) => return ReadOrWrite::Read,
                Some(false) => return ReadOrWrite::Write,
                None => {}
            }
        }
        ReadOrWrite::Read
    }
}

/// Runs a statement of our own that yields nothing.
fn step_once(statement: &mut Prepared) -> Result<(), QueryError> {
    let done = statement.step();
    statement.reset();
    done.map(drop).map_err(|error| QueryError::Transaction(error.message))
}

/// The failure of a statement that spilled more than its request may.
fn temporary_files_exceed(bytes: u64) -> SqlError {
    let message = format!(
        "query stopped: its request needs more than {bytes} bytes of temporary files, the limit of one request"
    );
    SqlError { kind: ErrorKind::Budget, message, origin: Origin::Read }
}

/// The failure of a statement behind one with which SQLite ended the transaction of the request.
fn transaction_lost() -> SqlError {
    let message =
        "not run: the failure of a statement before ended the read transaction".to_owned();
    SqlError { kind: ErrorKind::Transaction, message, origin: Origin::Read }
}

/// A refusal with its reason, if there is more to say than SQLite does.
fn explain_refusal(mut error: SqlError, refusal: Option<&str>) -> SqlError {
    if let Some(refusal) = refusal.filter(|_| error.kind == ErrorKind::NotAuthorized) {
        error.message = format!("not authorized: {refusal}");
    }
    error
}

/// Why a query was stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its time is over.
    Deadline,
    /// Its client does not want it any more.
    Cancelled,
    /// It kept the WAL from starting over for too long, or the pool is being emptied or closed.
    Revoked,
    /// It used up its allowance.
    Allowance,
}

impl Stop {
    fn into_sql_error(self) -> SqlError {
        let (kind, message) = match self {
            Self::Deadline => (ErrorKind::Timeout, "query timeout"),
            Self::Cancelled => (ErrorKind::Cancelled, "query cancelled by its client"),
            Self::Revoked => (
                ErrorKind::Cancelled,
                "query cancelled by the server: it held up the write-ahead log for too long, or the \
                 database is being replaced or closed",
            ),
            Self::Allowance => (ErrorKind::Cancelled, "query yielded"),
        };
        SqlError { kind, message: message.to_owned(), origin: Origin::Read }
    }
}

/// What stops the query on one connection. The progress handler asks it while a statement runs.
#[derive(Debug, Default)]
pub(crate) struct Control {
    limits: Mutex<Limits>,
    revoked: AtomicBool,
}

#[derive(Debug, Default)]
struct Limits {
    deadline: Option<Instant>,
    cancel: Option<CancelFlag>,
    allowance: Option<u64>,
    stopped: Option<Stop>,
    /// How many allocations of this thread had failed when the query began.
    failed_allocations: u64,
    /// How many writes of this thread had found no space when the query began.
    refused_writes: u64,
    /// What the query may write to temporary files, in bytes; 0 is without limit.
    temporary_bytes: u64,
}

impl Control {
    /// Begins a query under its limits.
    fn start(&self, query: &Query<'_>, temporary_bytes: u64) {
        *self.limits() = Limits {
            deadline: query.deadline,
            cancel: query.cancel.clone(),
            allowance: query.step_allowance,
            stopped: None,
            failed_allocations: memory::failed_allocations(),
            refused_writes: disk_full::refused_writes(),
            temporary_bytes,
        };
    }

    /// Ends the query: the connection's next statement is under no limits.
    pub(crate) fn clear(&self) {
        *self.limits() = Limits::default();
        self.revoked.store(false, Ordering::Relaxed);
    }

    /// Stops the query from another thread.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
    }

    /// The progress handler: whether the running statement must stop.
    pub(crate) fn must_stop(&self) -> bool {
        self.look(STEPS_PER_LOOK).is_some()
    }

    /// Before a statement: whether it may begin at all.
    fn check(&self) -> Option<Stop> {
        self.look(STEPS_PER_STATEMENT)
    }

    fn stopped(&self) -> Option<Stop> {
        self.limits().stopped
    }

    fn look(&self, steps: u64) -> Option<Stop> {
        let mut limits = self.limits();
        if limits.stopped.is_none() {
            limits.stopped = if self.revoked.load(Ordering::Relaxed) {
                Some(Stop::Revoked)
            } else if limits.cancel.as_ref().is_some_and(CancelFlag::is_cancelled) {
                Some(Stop::Cancelled)
            } else if limits.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                Some(Stop::Deadline)
            } else {
                limits.spend(steps)
            };
        }
        limits.stopped
    }

    /// A poisoned lock only says that some thread panicked; the limits are consistent at any time.
    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a compiled statement to its end and pushes its rows, if they are wanted.
    fn run(
        &self,
        statement: &mut Prepared,
        sink: Option<&mut dyn ResultSink>,
    ) -> Result<End, SqlError> {
        let mut more = statement.step().map_err(|error| self.explain_start(statement, error))?;
        let Some(sink) = sink else {
            while more {
                more = statement.step().map_err(|error| self.explain(error))?;
            }
            return Ok(End::Empty);
        };
        let columns = statement.columns();
        if columns.is_empty() {
            return Ok(End::Empty);
        }
        let width = columns.len();
        sink.columns(columns);
        let mut spare: Vec<ValueRef<'static>> = Vec::with_capacity(width);
        while more {
            let mut row = recycle(spare);
            row.extend((0..width).map(|column| statement.value(column)));
            let pushed = sink.row(&row);
            spare = recycle(row);
            pushed.map_err(|SinkError { kind, message }| SqlError {
                kind,
                message,
                origin: Origin::Read,
            })?;
            more = statement.step().map_err(|error| self.explain(error))?;
        }
        Ok(End::Rows)
    }

    /// The error of a statement's first step. VACUUM begins by attaching a database, which the
    /// authorizer refuses; to the client it is a write like any other.
    fn explain_start(&self, statement: &Prepared, mut error: SqliteError) -> SqlError {
        if error.primary() == ffi::SQLITE_AUTH && !statement.is_read_only() {
            error.code = ffi::SQLITE_READONLY;
        }
        self.explain(error)
    }

    /// SQLite's error as the client is to see it.
    fn explain(&self, error: SqliteError) -> SqlError {
        // To allocate much is looked at as well, and refused to who must stop.
        if matches!(error.primary(), ffi::SQLITE_INTERRUPT | ffi::SQLITE_NOMEM)
            && let Some(stop) = self.stopped()
        {
            return stop.into_sql_error();
        }
        let limits = self.limits();
        let (failed_allocations, bytes) = (limits.failed_allocations, limits.temporary_bytes);
        let disk_is_full = limits.refused_writes != disk_full::refused_writes();
        drop(limits);
        if error.primary() == ffi::SQLITE_FULL && !disk_is_full && bytes > 0 {
            return temporary_files_exceed(bytes);
        }
        let mut error = error.with_refused_size(failed_allocations).into_sql_error(Origin::Read);
        if error.kind == ErrorKind::ReadOnly {
            "attempt to change database via query operation".clone_into(&mut error.message);
        }
        error
    }
}

impl Meter for Control {
    fn take(&self, looks: u64) -> bool {
        self.look(looks.saturating_mul(STEPS_PER_LOOK)).is_none()
    }
}

impl Limits {
    fn spend(&mut self, steps: u64) -> Option<Stop> {
        let allowance = self.allowance.as_mut()?;
        match allowance.checked_sub(steps) {
            Some(left) => {
                *allowance = left;
                None
            }
            None => Some(Stop::Allowance),
        }
    }
}

/// Empties a row and gives its memory to the next one, whose values borrow from another step.
fn recycle<'to>(mut row: Vec<ValueRef<'_>>) -> Vec<ValueRef<'to>> {
    row.clear();
    row.into_iter().map(|_| unreachable!("the row is empty")).collect()
}

#[cfg(test)]
mod tests;
