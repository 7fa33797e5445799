//! The pool of read-only connections.
//!
//! Bounded, opened when needed, closed when idle. A connection is reset after each use: whatever a
//! client's statements left behind (an open transaction, a changed setting) does not outlive its
//! request. While the last step of a checkpoint runs, new reads are held for a moment
//! ([`Readers::hold`]); nothing else makes a read wait but the number of connections.

use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    connection::{self, Guarded, ReaderWatch},
    database::Options,
    error::{LocalError, SqliteError},
    page_reader::Guests,
    prepared::{Prepared, StatementCache},
    query::Control,
    vfs::Vfs,
};

/// Statements kept compiled on each connection.
const CACHED_STATEMENTS: usize = 64;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// How often a read that waits for a connection looks whether it was cancelled.
const GLANCE: Duration = Duration::from_millis(50);

/// VM steps between two looks at deadline, cancellation and allowance.
const STEPS_BETWEEN_LOOKS: i32 = 1000;

/// The pool. Clones are the same pool.
#[derive(Clone, Debug)]
pub struct Readers {
    pool: Arc<Pool>,
}

/// Stops a query from another thread. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

/// Why a request for reads failed as a whole. Results given before are void.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    /// The deadline passed before there was a connection.
    #[error("context deadline exceeded")]
    NoConnectionInTime,
    /// The query was cancelled before there was a connection.
    #[error("context canceled")]
    Cancelled,
    /// The pool is closed: the database is being closed or replaced.
    #[error("store not open")]
    Closed,
    /// A read transaction was asked for, and the deadline passed in it.
    #[error("sql: transaction has already been committed or rolled back")]
    TransactionOver,
    /// The read transaction could not be begun or ended; SQLite's message.
    #[error("{0}")]
    Transaction(String),
    /// No connection could be opened.
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// What the pool is doing at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadersStatus {
    /// The most connections there may be.
    pub limit: usize,
    /// Connections that are open.
    pub open: usize,
    /// Connections in use.
    pub busy: usize,
}

struct Pool {
    path: PathBuf,
    vfs: Arc<Vfs>,
    limit: usize,
    /// What `PRAGMA foreign_keys` answers.
    foreign_keys: bool,
    /// What a request may write to temporary files, in bytes; 0 is without limit.
    temporary_bytes: u64,
    state: Mutex<State>,
    /// Signalled when a connection comes back, the hold ends or the pool closes.
    changed: Condvar,
    /// Connections beside the pool that read pages.
    guests: Guests,
}

#[derive(Default)]
struct State {
    /// The most recently used last; that one is taken next, so that few stay warm.
    idle: VecDeque<(Instant, Reader)>,
    /// Those in use, and since when.
    busy: Vec<(Instant, Arc<Control>)>,
    held: bool,
    closed: bool,
    /// How many threads wait for a change. Waking is a system call, so nobody is woken for nothing.
    waiting: usize,
}

/// A connection of the pool with what belongs to it.
pub(crate) struct Reader {
    // Statements go before the connection they belong to.
    pub(crate) statements: StatementCache,
    pub(crate) begin: Prepared,
    pub(crate) commit: Prepared,
    pub(crate) rollback: Prepared,
    /// Reads nothing, but makes the connection notice a changed schema.
    pub(crate) look: Prepared,
    pub(crate) control: Arc<Control>,
    pub(crate) watch: Arc<ReaderWatch>,
    pub(crate) connection: Guarded,
}

/// A connection on loan. It goes back when dropped.
pub(crate) struct Loan<'a> {
    pool: &'a Pool,
    reader: Option<Reader>,
}

/// How long to wait for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// Until this moment.
    Until(Instant),
    /// As long as it takes.
    Endless,
}

/// New reads are held while this lives.
pub(crate) struct Hold<'a> {
    pool: &'a Pool,
    alone: bool,
}

/// The pool has no connection while this lives, and new reads are held.
pub(crate) struct Quiet<'a> {
    // Dropped in this order: who waits for the hold's end may read pages next.
    _guests: Dismissed<'a>,
    _hold: Hold<'a>,
}

/// No pages are read while this lives.
struct Dismissed<'a>(&'a Guests);

impl CancelFlag {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag: queries that carry it end soon with an error.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Readers {
    /// A pool for the database of `options`.
    pub(crate) fn new(options: &Options, vfs: Arc<Vfs>) -> Self {
        let pool = Pool {
            path: options.path.clone(),
            vfs,
            limit: options.readers_max.max(1),
            foreign_keys: options.foreign_keys,
            temporary_bytes: options.read_temporary_bytes,
            state: Mutex::default(),
            changed: Condvar::new(),
            guests: Guests::default(),
        };
        Self { pool: Arc::new(pool) }
    }

    /// What a request may write to temporary files, in bytes; 0 is without limit.
    pub(crate) fn temporary_bytes(&self) -> u64 {
        self.pool.temporary_bytes
    }

    /// The database file, and the file system it is opened through.
    pub(crate) fn file(&self) -> (&Path, &Arc<Vfs>) {
        (&self.pool.path, &self.pool.vfs)
    }

    pub(crate) fn guests(&self) -> &Guests {
        &self.pool.guests
    }

    /// How many connections are open and busy.
    pub fn status(&self) -> ReadersStatus {
        let state = self.pool.state();
        let busy = state.busy.len();
        ReadersStatus { limit: self.pool.limit, open: busy + state.idle.len(), busy }
    }

    /// Closes connections that have been idle for 30 seconds. Returning a connection does the same;
    /// call this now and then for a pool that nobody uses any more.
    pub fn close_idle(&self) {
        let expired = self.pool.state().take_expired();
        drop(expired);
    }

    /// Cancels the query that has been running longest, because the WAL cannot start over while it
    /// runs. Says whether there was one that had been running for `at_least` so long.
    pub fn cancel_oldest(&self, at_least: Duration) -> bool {
        let state = self.pool.state();
        match state.busy.iter().min_by_key(|(since, _)| *since) {
            Some((since, control)) if since.elapsed() >= at_least => {
                control.revoke();
                true
            }
            _ => false,
        }
    }

    /// Refuses new queries, cancels the running ones and closes all connections. Says whether all
    /// were closed within `patience`.
    pub fn close(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.pool.state();
        state.closed = true;
        self.pool.changed.notify_all();
        for (_, control) in &state.busy {
            control.revoke();
        }
        let idle = std::mem::take(&mut state.idle);
        while !state.busy.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self.pool.wait(state, left);
        }
        let all_closed = state.busy.is_empty();
        drop(state);
        drop(idle);
        self.pool.guests.dismiss();
        all_closed
    }

    /// Holds new reads, lets the running ones end within `grace` and cancels them then, and closes all
    /// connections, those that read pages too. `None` if a read does not end within `patience`: then
    /// all goes on as before.
    pub(crate) fn quiet(&self, grace: Duration, patience: Duration) -> Option<Quiet<'_>> {
        let hold = self.hold(grace);
        if !hold.is_alone() {
            let deadline = Instant::now() + patience;
            let mut state = self.pool.state();
            for (_, control) in &state.busy {
                control.revoke();
            }
            while !state.busy.is_empty() {
                let left = deadline.checked_duration_since(Instant::now())?;
                state = self.pool.wait(state, left);
            }
        }
        let idle = std::mem::take(&mut self.pool.state().idle);
        drop(idle);
        self.pool.guests.dismiss();
        Some(Quiet { _guests: Dismissed(&self.pool.guests), _hold: hold })
    }

    /// Holds new reads until the value returned is dropped, and waits for the running ones at most
    /// as long as given.
    pub(crate) fn hold(&self, patience: Duration) -> Hold<'_> {
        let deadline = Instant::now() + patience;
        let mut state = self.pool.state();
        state.held = true;
        while !state.busy.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self.pool.wait(state, left);
        }
        let alone = state.busy.is_empty();
        drop(state);
        Hold { pool: &self.pool, alone }
    }

    /// Takes a connection; `Ok(None)` if there is none now and no patience.
    pub(crate) fn take(
        &self,
        patience: Patience,
        cancel: Option<&CancelFlag>,
    ) -> Result<Option<Loan<'_>>, QueryError> {
        let mut state = self.pool.state();
        loop {
            if state.closed {
                return Err(QueryError::Closed);
            }
            if cancel.is_some_and(CancelFlag::is_cancelled) {
                return Err(QueryError::Cancelled);
            }
            if !state.held {
                if let Some((_, reader)) = state.idle.pop_back() {
                    state.busy.push((Instant::now(), Arc::clone(&reader.control)));
                    return Ok(Some(Loan { pool: &self.pool, reader: Some(reader) }));
                }
                if state.busy.len() < self.pool.limit {
                    return self.pool.open(state).map(Some);
                }
            }
            let wait = match patience {
                Patience::None => return Ok(None),
                Patience::Endless => GLANCE,
                Patience::Until(deadline) => deadline
                    .checked_duration_since(Instant::now())
                    .ok_or(QueryError::NoConnectionInTime)?
                    .min(GLANCE),
            };
            state = self.pool.wait(state, wait);
        }
    }
}

impl Pool {
    /// A poisoned lock only says that some thread panicked between two consistent states.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let waited = self.changed.wait_timeout(state, time);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.waiting -= 1;
        state
    }

    /// Opens one more connection. Its place is taken before the lock is released.
    fn open<'a>(&'a self, mut state: MutexGuard<'_, State>) -> Result<Loan<'a>, QueryError> {
        let control = Arc::<Control>::default();
        state.busy.push((Instant::now(), Arc::clone(&control)));
        drop(state);
        match Reader::open(self, &control) {
            Ok(reader) => Ok(Loan { pool: self, reader: Some(reader) }),
            Err(error) => {
                self.state().forget(&control);
                self.changed.notify_all();
                Err(QueryError::Local(error.into_local("opening a read connection")))
            }
        }
    }
}

impl State {
    fn forget(&mut self, control: &Arc<Control>) {
        self.busy.retain(|(_, busy)| !Arc::ptr_eq(busy, control));
    }

    fn take_expired(&mut self) -> Vec<Reader> {
        let mut expired = Vec::new();
        while self.idle.front().is_some_and(|(since, _)| since.elapsed() >= IDLE) {
            expired.extend(self.idle.pop_front().map(|(_, reader)| reader));
        }
        expired
    }
}

impl Reader {
    fn open(pool: &Pool, control: &Arc<Control>) -> Result<Self, SqliteError> {
        let (mut connection, watch) =
            connection::open_reader(&pool.path, &pool.vfs, pool.foreign_keys)?;
        let limits = Arc::clone(control);
        connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || limits.must_stop()))?;
        Ok(Self {
            statements: StatementCache::new(CACHED_STATEMENTS),
            begin: Prepared::internal(&connection, "BEGIN")?,
            commit: Prepared::internal(&connection, "COMMIT")?,
            rollback: Prepared::internal(&connection, "ROLLBACK")?,
            look: Prepared::internal(&connection, "SELECT 1 FROM sqlite_schema LIMIT 0")?,
            control: Arc::clone(control),
            watch,
            connection,
        })
    }

    /// Undoes what a request left behind. Says whether the connection may be used again.
    fn reset(&mut self) -> bool {
        self.control.clear();
        if self.watch.is_altered() {
            return false;
        }
        if !self.connection.is_autocommit() {
            let rolled_back = self.rollback.step();
            self.rollback.reset();
            return rolled_back.is_ok() && self.connection.is_autocommit();
        }
        true
    }
}

impl Loan<'_> {
    pub(crate) fn reader(&mut self) -> &mut Reader {
        self.reader.as_mut().expect("taken out only when dropped")
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let Some(mut reader) = self.reader.take() else { return };
        let control = Arc::clone(&reader.control);
        let usable = reader.reset() && !std::thread::panicking();
        let mut state = self.pool.state();
        state.forget(&control);
        // Once more: it may have been revoked since, as long as it was on the list.
        control.clear();
        let mut closing = state.take_expired();
        if usable && !state.closed {
            state.idle.push_back((Instant::now(), reader));
        } else {
            closing.push(reader);
        }
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.pool.changed.notify_all();
        }
        drop(closing);
    }
}

impl Hold<'_> {
    /// Whether no read was running any more when the wait ended.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }
}

impl Drop for Dismissed<'_> {
    fn drop(&mut self) {
        self.0.welcome();
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.pool.state().held = false;
        self.pool.changed.notify_all();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("path", &self.path)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
