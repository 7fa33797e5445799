//! Housekeeping of the whole database as entries of the log: VACUUM, ANALYZE, optimize, REINDEX.
//!
//! All but VACUUM are ordinary statements in the entry's transaction, without a budget. VACUUM
//! cannot run inside one, so it is announced before and confirmed after:
//!
//! 1. a transaction stores the entry's id and the schema cookie as a pending VACUUM;
//! 2. VACUUM runs, and moves the cookie;
//! 3. a transaction forgets the pending VACUUM and stores the entry as applied.
//!
//! A node that stops in between applies the entry again when it starts. It then finds the pending
//! VACUUM; if the cookie has moved since, step 2 is done and must not be done twice, because the
//! cookie would show it. Readers see the database before or after each step, never a half of one.

use std::time::Instant;

use rq_sql::{ErrorKind, Origin, Outcome, SqlError, Statement};

use crate::{
    entry::{
        Applied, Budget, Entry, Maintenance, Mode, Request, RequestOutcome, Settings, TimedOutcome,
    },
    error::SqliteError,
    memory,
    state::PendingVacuum,
    writer::{ApplyError, Writer},
};

/// How many rows of an index [`Maintenance::Optimize`] looks at for each estimate: enough for a good
/// plan, and an effort that does not grow with the table.
const OPTIMIZE_ANALYSIS_LIMIT: u32 = 400;

/// What VACUUM is to change besides rebuilding the file.
#[derive(Clone, Copy, Debug)]
struct Vacuum {
    page_size: Option<u32>,
    auto_vacuum: Option<u8>,
}

impl Writer {
    /// Applies a maintenance entry; it gives one request with one result.
    pub(crate) fn apply_maintenance(
        &mut self,
        entry: &Entry<'_>,
        maintenance: &Maintenance,
        wants_results: bool,
    ) -> Result<Applied, ApplyError> {
        match maintenance {
            Maintenance::Vacuum { page_size, auto_vacuum } => {
                let vacuum = Vacuum { page_size: *page_size, auto_vacuum: *auto_vacuum };
                self.apply_vacuum(entry, vacuum, wants_results)
            }
            Maintenance::Analyze { target } => self.apply_statement(
                entry,
                with_target("ANALYZE", target.as_deref()),
                wants_results,
            ),
            Maintenance::Reindex { target } => self.apply_statement(
                entry,
                with_target("REINDEX", target.as_deref()),
                wants_results,
            ),
            Maintenance::Optimize => self.apply_optimize(entry, wants_results),
        }
    }

    /// Runs one statement as a request without a budget.
    fn apply_statement(
        &mut self,
        entry: &Entry<'_>,
        sql: String,
        wants_results: bool,
    ) -> Result<Applied, ApplyError> {
        let settings = Settings { budget: Budget { steps: 0, pages: 0 }, ..entry.settings };
        let entry = Entry { settings, ..*entry };
        let request = Request {
            mode: Mode::Execute,
            transaction: false,
            statements: vec![Statement::new(sql)],
        };
        self.apply_batch(&entry, &[request], wants_results)
    }

    /// ANALYZE with a limit on its effort. (`PRAGMA optimize` decides by what its connection did
    /// before, which no two nodes have in common.)
    fn apply_optimize(
        &mut self,
        entry: &Entry<'_>,
        wants_results: bool,
    ) -> Result<Applied, ApplyError> {
        self.attempt(entry.id, |writer| writer.set_analysis_limit(OPTIMIZE_ANALYSIS_LIMIT))?;
        let applied = self.apply_statement(entry, "ANALYZE".to_owned(), wants_results);
        let restored = self.set_analysis_limit(0);
        let applied = applied?;
        // The entry is committed, so this is no longer a failure that could be tried again.
        restored
            .map_err(|error| ApplyError::Fatal(format!("restoring a setting failed: {error}")))?;
        Ok(applied)
    }

    fn set_analysis_limit(&mut self, rows: u32) -> Result<(), SqliteError> {
        let pragma = format!("PRAGMA analysis_limit={rows}");
        Ok(self.connection().execute_batch(&pragma)?)
    }

    fn apply_vacuum(
        &mut self,
        entry: &Entry<'_>,
        vacuum: Vacuum,
        wants_results: bool,
    ) -> Result<Applied, ApplyError> {
        let started = Instant::now();
        let cookie = match self.pending_vacuum.filter(|pending| pending.id == entry.id) {
            Some(pending) => pending.cookie,
            None => self.attempt(entry.id, |writer| writer.announce_vacuum(entry))?,
        };
        let is_done =
            self.attempt(entry.id, |writer| Ok(writer.state.schema_cookie()? != cookie))?;
        let result =
            if is_done { Ok(()) } else { self.attempt(entry.id, |writer| writer.vacuum(vacuum))? };
        self.attempt(entry.id, |writer| {
            writer.session.begin()?;
            writer.state.set_pending_vacuum(None)?;
            writer.finish(entry.id)
        })?;
        self.pending_vacuum = None;
        if !wants_results {
            return Ok(Applied::default());
        }
        let outcome = match result {
            Ok(()) => Outcome::Done { last_insert_id: None, rows_affected: None },
            Err(error) => Outcome::Error(error),
        };
        let results = vec![TimedOutcome { outcome, elapsed: started.elapsed() }];
        Ok(Applied { requests: vec![RequestOutcome { results, ..RequestOutcome::default() }] })
    }

    /// Stores that this entry is about to run VACUUM, and returns the cookie of before.
    fn announce_vacuum(&mut self, entry: &Entry<'_>) -> Result<i64, SqliteError> {
        self.session.begin()?;
        let cookie = self.state.schema_cookie()?;
        let pending = PendingVacuum { id: entry.id, cookie };
        self.state.set_pending_vacuum(Some(pending))?;
        self.session.commit()?;
        self.pending_vacuum = Some(pending);
        Ok(cookie)
    }

    /// Runs VACUUM. The inner error is a result: what makes VACUUM fail lies in the database.
    fn vacuum(&mut self, vacuum: Vacuum) -> Result<Result<(), SqlError>, SqliteError> {
        if let Some(wanted) = vacuum.page_size
            && wanted != self.page_size()?
        {
            return Ok(Err(page_size_is_fixed(wanted)));
        }
        self.session.lift_page_limit()?;
        // Whatever was compiled or remembered before speaks of another file.
        self.session.schema_changed();
        let mode_before: u8 =
            self.connection().pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
        if let Some(mode) = vacuum.auto_vacuum {
            self.connection().execute_batch(&format!("PRAGMA auto_vacuum={mode}"))?;
        }
        let failed_allocations = memory::failed_allocations();
        let result = run_vacuum(self.connection());
        if result.is_err() && vacuum.auto_vacuum.is_some() {
            // Or the next VACUUM on this connection would make the change after all.
            self.connection().execute_batch(&format!("PRAGMA auto_vacuum={mode_before}"))?;
        }
        match result.map_err(|error| error.with_refused_size(failed_allocations)) {
            Ok(()) => Ok(Ok(())),
            Err(error) if error.is_local() => Err(error),
            Err(error) => Ok(Err(error.into_sql_error(Origin::Write))),
        }
    }

    fn page_size(&self) -> Result<u32, SqliteError> {
        Ok(self.connection().pragma_query_value(None, "page_size", |row| row.get(0))?)
    }
}

fn with_target(command: &str, target: Option<&str>) -> String {
    match target {
        Some(target) => format!("{command} {target}"),
        None => command.to_owned(),
    }
}

/// The failure of a VACUUM that is to change the page size: SQLite does that outside of WAL mode only, which
/// no node can leave while it reads. Done silently without, it would look as if it had been changed.
fn page_size_is_fixed(wanted: u32) -> SqlError {
    let message = format!(
        "VACUUM with a page size of {wanted} bytes: the page size of a database in WAL mode cannot be changed"
    );
    SqlError { kind: ErrorKind::Other, message, origin: Origin::Write }
}

fn run_vacuum(connection: &rusqlite::Connection) -> Result<(), SqliteError> {
    Ok(connection.execute_batch("VACUUM")?)
}
