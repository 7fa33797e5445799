//! Applies entries of the log, one after the other, each as one SQLite transaction.
//!
//! [`Writer::apply`] has two kinds of outcome. Whatever follows from the entry and the database is a
//! result, and equal on all nodes; a failing statement is one. Whatever happens to this node alone
//! is an [`ApplyError`]; the database is then as before, and the same entry may be tried again.
//!
//! Requests of one entry share its transaction, but not their fates: see [`Plan`] for what happens
//! when one of them ends it.

use rusqlite::ffi;
use thiserror::Error;

use crate::{
    checkpoint::{self, Finish, WalGauge},
    database::WriterParts,
    disk_full,
    entry::{Applied, Entry, EntryId, Operation, Request, RequestOutcome, Settings},
    error::{LocalError, LocalKind, SqliteError},
    execute::Execution,
    memory,
    plan::{Plan, Stop},
    readers::Readers,
    replace::Replacer,
    rows::{Collector, ResultLimits},
    session::Session,
    state::{PendingVacuum, State},
};

/// How a writer is set up. Nothing here can change what entries do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// How large the results of a request and of an entry may be.
    pub results: ResultLimits,
    /// How many compiled statements of clients are kept; beyond, the least recently used go.
    pub cached_statements: usize,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { results: ResultLimits::default(), cached_statements: 256 }
    }
}

/// Why an entry was not applied. Nothing of it is in the database.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// This node failed: its disk, its memory, a lock. The same entry may be tried again.
    #[error(transparent)]
    Local(LocalError),
    /// The database is damaged, or the engine was used wrongly. Trying again does not help.
    #[error("{0}")]
    Fatal(String),
}

/// Owns the one connection that writes.
///
/// - Applies entries in the order of their indexes, without gaps, each exactly once.
/// - Between two entries no transaction is open and our own statements pass the authorizer.
/// - Never reads a clock or randomness, except to measure how long statements take.
#[derive(Debug)]
pub struct Writer {
    pub(crate) state: State,
    pub(crate) session: Session,
    pub(crate) pending_vacuum: Option<PendingVacuum>,
    readers: Readers,
    gauge: WalGauge,
    applied: Option<EntryId>,
    options: WriterOptions,
    replacer: Replacer,
}

impl Writer {
    /// Makes a writer of the parts of an opened database.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn new(parts: WriterParts, options: WriterOptions) -> Result<Self, SqliteError> {
        let replacer = Replacer::new(&parts, options);
        let WriterParts {
            state, request_start, ambient, readers, stored, gauge, connection, ..
        } = parts;
        let cached = options.cached_statements;
        Ok(Self {
            state,
            session: Session::new(connection, ambient, request_start, cached)?,
            readers,
            gauge,
            pending_vacuum: stored.pending_vacuum,
            applied: stored.applied,
            options,
            replacer,
        })
    }

    /// What puts another file in the place of the database.
    pub fn replacer(&self) -> Replacer {
        self.replacer.clone()
    }

    /// Copies what is left of the WAL into the database file, so that the next commit starts it over, and
    /// empties its file if that is large; see [`Checkpointer::fold`](crate::Checkpointer::fold), which goes before.
    ///
    /// # Errors
    /// A failure of this node. Nothing is lost.
    pub fn finish_checkpoint(&mut self) -> Result<Finish, LocalError> {
        checkpoint::finish(self.session.connection(), &self.readers, &self.gauge)
    }

    /// The last entry applied.
    pub fn applied(&self) -> Option<EntryId> {
        self.applied
    }

    /// The connection, for what is done between two entries.
    pub(crate) fn connection(&self) -> &rusqlite::Connection {
        self.session.connection()
    }

    /// Applies the next entry. Results are built only if somebody wants them; otherwise
    /// [`Applied::requests`] is empty.
    ///
    /// # Errors
    /// See [`ApplyError`]; nothing is changed then. An entry out of order is fatal.
    pub fn apply(&mut self, entry: &Entry<'_>, wants_results: bool) -> Result<Applied, ApplyError> {
        self.check_order(entry.id)?;
        self.session.ambient.begin_entry(entry.clock_ms, entry.seed);
        let applied = match entry.operation {
            Operation::Blank => self.apply_membership(entry, None),
            Operation::Membership(bytes) => self.apply_membership(entry, Some(bytes)),
            Operation::Batch(requests) => self.apply_batch(entry, requests, wants_results),
            Operation::Maintenance(maintenance) => {
                self.apply_maintenance(entry, maintenance, wants_results)
            }
        }?;
        self.applied = Some(entry.id);
        Ok(applied)
    }

    /// Applies the next entry as [`apply`](Self::apply) does, if that takes no more than about `steps` VM steps and
    /// nothing fails on this node. Otherwise nothing is changed, and `apply` is to be called: it takes as long as it
    /// takes, and says what fails.
    ///
    /// Steps are looked at by the thousand, and never within one: this bounds ordinary work, not hostile. Maintenance
    /// is nothing for it.
    pub fn try_apply(
        &mut self,
        entry: &Entry<'_>,
        wants_results: bool,
        steps: u64,
    ) -> Option<Applied> {
        if matches!(entry.operation, Operation::Maintenance(_)) {
            return None;
        }
        self.session.allow_steps(Some(steps));
        let applied = self.apply(entry, wants_results);
        self.session.allow_steps(None);
        applied.ok()
    }

    fn check_order(&self, id: EntryId) -> Result<(), ApplyError> {
        let expected = match self.applied {
            None if id.index <= 1 => return Ok(()),
            None => 1,
            Some(applied) => applied.index + 1,
        };
        if id.index == expected {
            return Ok(());
        }
        Err(ApplyError::Fatal(format!(
            "entry {} was to be applied where {expected} is next",
            id.index
        )))
    }

    fn apply_membership(
        &mut self,
        entry: &Entry<'_>,
        membership: Option<&[u8]>,
    ) -> Result<Applied, ApplyError> {
        self.attempt(entry.id, |writer| {
            writer.session.lift_page_limit()?;
            writer.session.begin()?;
            if let Some(bytes) = membership {
                writer.state.set_membership(entry.id, bytes)?;
            }
            writer.finish(entry.id)?;
            Ok(Applied::default())
        })
    }

    /// Runs requests in one transaction, as often as it takes.
    pub(crate) fn apply_batch(
        &mut self,
        entry: &Entry<'_>,
        requests: &[Request],
        wants_results: bool,
    ) -> Result<Applied, ApplyError> {
        let limits = wants_results.then_some(self.options.results);
        let mut plan = Plan::default();
        loop {
            let refused_writes = disk_full::refused_writes();
            let stop = match self.run_batch(entry, requests, &mut plan, limits) {
                Ok(requests) => return Ok(Applied { requests }),
                Err(stop) => stop,
            };
            let overdrawn = self.session.is_overdrawn();
            self.abandon(entry.id)?;
            if overdrawn {
                return Err(apply_error(used_up(), entry.id));
            }
            let Stop::Failed(error) = stop else { continue };
            let disk_is_full = disk_full::refused_writes() != refused_writes;
            let is_guard =
                error.primary() == ffi::SQLITE_FULL && !disk_is_full && !plan.exact_pages;
            if is_guard && entry.settings.budget.pages > 0 {
                // Our own statements write too; they are not limited when the limit is exact.
                plan.exact_pages = true;
                continue;
            }
            return Err(apply_error(error, entry.id));
        }
    }

    fn run_batch(
        &mut self,
        entry: &Entry<'_>,
        requests: &[Request],
        plan: &mut Plan,
        limits: Option<ResultLimits>,
    ) -> Result<Vec<RequestOutcome>, Stop> {
        let Settings { budget, .. } = entry.settings;
        let _counted = self.session.count_work();
        self.session.begin()?;
        if let Some(reason) = &plan.void {
            let void = RequestOutcome { error: Some(reason.clone()), ..RequestOutcome::default() };
            self.finish(entry.id)?;
            return Ok(requests.iter().map(|_| void.clone()).collect());
        }
        if !plan.exact_pages {
            self.session.guard_pages(budget)?;
        }
        let mut collector = limits.map(Collector::new);
        let mut outcomes = Vec::with_capacity(requests.len());
        for (number, request) in requests.iter().enumerate() {
            let session = &mut self.session;
            let collector = collector.as_mut();
            let execution =
                Execution::new(session, plan, request, number, entry.settings, collector);
            outcomes.push(execution.run()?);
        }
        // Whatever a statement made of being stopped is no result.
        if self.session.is_overdrawn() {
            return Err(used_up().into());
        }
        // A commit must not be stopped half way.
        self.session.allow_steps(None);
        self.state.set_applied(entry.id)?;
        let failed_allocations = memory::failed_allocations();
        let committed = self.session.commit();
        match committed.map_err(|error| error.with_refused_size(failed_allocations)) {
            // Full-text indexes write at the commit, and what they find may fail them: on all nodes
            // alike, so it must not stop the entries behind.
            Err(error) if !error.is_local() => {
                plan.void =
                    Some(format!("not done, nothing could be committed: {}", error.message));
                Err(Stop::Again)
            }
            Err(error) => Err(error.into()),
            Ok(()) if limits.is_some() => Ok(outcomes),
            Ok(()) => Ok(Vec::new()),
        }
    }

    /// Does something that cannot end in anything but success or a failure of this node.
    pub(crate) fn attempt<T>(
        &mut self,
        id: EntryId,
        action: impl FnOnce(&mut Self) -> Result<T, SqliteError>,
    ) -> Result<T, ApplyError> {
        match action(self) {
            Ok(value) => Ok(value),
            Err(error) => {
                self.abandon(id)?;
                Err(apply_error(error, id))
            }
        }
    }

    /// Records the entry as applied and commits.
    pub(crate) fn finish(&mut self, id: EntryId) -> Result<(), SqliteError> {
        self.state.set_applied(id)?;
        self.session.commit()
    }

    /// Rolls back whatever is open.
    fn abandon(&mut self, id: EntryId) -> Result<(), ApplyError> {
        self.state.rolled_back();
        self.session.abandon().map_err(|error| {
            ApplyError::Fatal(format!("rolling back entry {} failed: {error}", id.index))
        })
    }
}

/// The end of an attempt that needs more steps than it is allowed.
fn used_up() -> SqliteError {
    SqliteError { code: ffi::SQLITE_INTERRUPT, message: "more steps than allowed".to_owned() }
}

/// Sorts a failure that is no result: by its nature the node's own.
fn apply_error(error: SqliteError, id: EntryId) -> ApplyError {
    let local = error.into_local(format!("applying entry {}", id.index));
    match local.kind {
        LocalKind::Corrupt => ApplyError::Fatal(local.to_string()),
        LocalKind::DiskFull
        | LocalKind::Io
        | LocalKind::Memory
        | LocalKind::Permission
        | LocalKind::Busy => ApplyError::Local(local),
    }
}
