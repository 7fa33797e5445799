//! Runs one request inside the transaction of its entry.
//!
//! A request is a list of statement strings; a string holds any number of statements, which all run
//! in order until one fails, and gives one result, the last one's. What is a *transaction unit* is
//! decided here: the whole request, or each statement, or what lies between a client's BEGIN and
//! COMMIT. A failed unit leaves nothing behind, a failed statement nothing of its own.
//!
//! Everything done here must follow from the entry and the database alone. What does not (a disk
//! that is full, a limit that happens to be set lower than exact) ends the attempt through [`Stop`]
//! and never becomes a result.

use std::time::{Duration, Instant};

use rq_sql::{ErrorKind, Origin, Outcome, SqlError, Statement};
use rusqlite::ffi;

use crate::{
    bind::Arguments,
    budget, column_names,
    disk_full::{self, Allowance},
    entry::{Mode, Request, RequestOutcome, Settings, TimedOutcome},
    error::SqliteError,
    facts::{Facts, Pragma, Schema, Setting},
    memory,
    plan::{Culprit, Plan, Stop},
    pragma,
    prepared::Prepared,
    rows::{Collected, Collector},
    session::Session,
    sql_text::SqlText,
    statements::{ClientStatement, Refused, is_blank},
    transaction::{self, ClientTransaction},
    work,
};

/// What a page counts for when a statement spills into temporary files.
const SPILL_PAGE_BYTES: u64 = 4096;

/// One request being run.
pub(crate) struct Execution<'a> {
    session: &'a mut Session,
    plan: &'a mut Plan,
    request: &'a Request,
    /// Its place in the entry.
    number: usize,
    settings: Settings,
    /// How many statements were begun so far: what names a statement in the [`Plan`].
    statements_begun: usize,
    /// Of the budget, if there is one.
    steps_left: u64,
    /// The same of what compiling counts for.
    compiling_left: u64,
    transaction: ClientTransaction,
    /// `None` if nobody wants the results.
    collector: Option<&'a mut Collector>,
}

/// What a statement or statement string gave. An outcome that is an error here is a result that
/// could not be delivered; a failure is on the other side.
type Ran = Result<Outcome, SqlError>;

impl<'a> Execution<'a> {
    /// Prepares to run request `number` of the entry. Results go through `collector`, or nowhere.
    pub(crate) fn new(
        session: &'a mut Session,
        plan: &'a mut Plan,
        request: &'a Request,
        number: usize,
        settings: Settings,
        mut collector: Option<&'a mut Collector>,
    ) -> Self {
        if let Some(collector) = &mut collector {
            collector.begin_request();
        }
        Self {
            session,
            plan,
            request,
            number,
            settings,
            statements_begun: 0,
            steps_left: settings.budget.steps,
            compiling_left: settings.budget.steps,
            transaction: ClientTransaction::new(request.transaction),
            collector,
        }
    }

    /// Runs the request.
    ///
    /// # Errors
    /// The attempt to apply the entry ends; see [`Stop`].
    pub(crate) fn run(mut self) -> Result<RequestOutcome, Stop> {
        self.session.begin_request(self.number as u64, self.settings)?;
        if self.plan.exact_pages {
            self.session.limit_pages(self.settings.budget)?;
        }
        let results =
            if self.request.transaction { self.run_as_unit() } else { self.run_separately() }?;
        self.session.restore(self.settings)?;
        let disruptive = self.plan.has_culprits(self.number);
        Ok(RequestOutcome { results, error: None, disruptive })
    }

    /// All statements are one unit: the first failure undoes it and ends the request.
    fn run_as_unit(&mut self) -> Result<Vec<TimedOutcome>, Stop> {
        let mut results = Vec::with_capacity(self.request.statements.len());
        self.session.open_unit()?;
        for statement in &self.request.statements {
            let (ran, elapsed) = self.run_timed(statement)?;
            let failed = ran.is_err();
            results.push(timed(ran, elapsed));
            if failed {
                self.session.undo_unit()?;
                return Ok(results);
            }
        }
        if self.session.has_deferred_violations() {
            self.session.undo_unit()?;
            replace_last(&mut results, transaction::foreign_key_violation());
        } else {
            self.session.keep_unit()?;
        }
        Ok(results)
    }

    /// Each statement stands alone, except between a BEGIN and COMMIT of the client's.
    fn run_separately(&mut self) -> Result<Vec<TimedOutcome>, Stop> {
        let mut results = Vec::with_capacity(self.request.statements.len());
        for statement in &self.request.statements {
            let (ran, elapsed) = self.run_timed(statement)?;
            results.push(timed(ran, elapsed));
        }
        if self.transaction.is_open() {
            self.transaction.abandon(self.session)?;
            replace_last(&mut results, transaction::left_open());
        }
        Ok(results)
    }

    fn run_timed(&mut self, statement: &Statement) -> Result<(Ran, Duration), Stop> {
        let started = self.collector.is_some().then(Instant::now);
        let ran = self.run_string(statement)?;
        Ok((ran, started.map(|started| started.elapsed()).unwrap_or_default()))
    }

    /// Runs all statements of a string in order. The last one gives the result.
    fn run_string(&mut self, statement: &Statement) -> Result<Ran, Stop> {
        let mut arguments = match Arguments::new(&statement.parameters, Origin::Write) {
            Ok(arguments) => arguments,
            Err(error) => return Ok(Err(error)),
        };
        let mut text = SqlText::new(&statement.sql);
        let mut begins_with_read = None;
        loop {
            let rest = text.rest();
            let steps = budget::STEPS_PER_COMPILING.saturating_add(budget::tangle(rest));
            if let Err(error) = self.charge_compiling(steps) {
                return Ok(Err(error));
            }
            let mut compiled = match self.session.compile(&mut text) {
                Ok(compiled) => compiled,
                Err(refused) => return Ok(Err(self.refused(refused)?)),
            };
            let tail = compiled.compiled.tail;
            text.advance(tail);
            let following = text.rest();
            let steps = budget::compiling(&rest[..tail], &compiled);
            if let Err(error) = self.charge_compiling(steps) {
                return Ok(Err(error));
            }
            let Some(prepared) = &compiled.compiled.statement else {
                return Ok(Ok(self.nothing(begins_with_read.unwrap_or(true))));
            };
            begins_with_read.get_or_insert(prepared.is_read_only());
            let ran = self.run_statement(&mut compiled, &mut arguments)?;
            self.session.finished(compiled, rest);
            if ran.is_err() || is_blank(following) {
                return Ok(ran);
            }
        }
    }

    /// Counts what compiling costs. It has a budget of its own, as large as that of steps, so that
    /// a COMMIT behind statements that used up theirs is still carried out. Charged also when the
    /// cache spares it: what it holds is this node's affair.
    ///
    /// # Errors
    /// The budget is used up.
    fn charge_compiling(&mut self, steps: u64) -> Result<(), SqlError> {
        let budget = self.settings.budget.steps;
        match self.compiling_left.checked_sub(steps) {
            Some(left) => self.compiling_left = left,
            None if budget > 0 => return Err(budget::compiling_used_up(budget)),
            None => {}
        }
        Ok(())
    }

    /// The result of a string that ends in a comment or a lone `;`.
    fn nothing(&self, begins_with_read: bool) -> Outcome {
        if self.request.mode == Mode::Unified && begins_with_read {
            Outcome::Empty
        } else {
            Outcome::Done { last_insert_id: None, rows_affected: None }
        }
    }

    /// Runs one statement as a unit of its own, if it is one.
    fn run_statement(
        &mut self,
        statement: &mut ClientStatement,
        arguments: &mut Arguments<'_>,
    ) -> Result<Ran, Stop> {
        let ordinal = self.statements_begun;
        self.statements_begun += 1;
        if let Some(error) = self.recorded_failure(ordinal)? {
            return Ok(Err(error));
        }
        let Some(prepared) = &mut statement.compiled.statement else { return Ok(self.done()) };
        if let Err(error) = arguments.bind_next(prepared) {
            return Ok(Err(error));
        }
        if !prepared.is_explain() {
            if let Some(control) = &statement.facts.control {
                let answer = self.transaction.control(control, self.session)?;
                return Ok(answer.and_then(|()| self.done()));
            }
            if let Some(setting) = statement.facts.setting {
                self.set(setting)?;
                return Ok(self.done());
            }
        }
        if statement.facts.pragma == Some(Pragma::Shrinks) && self.session.has_auto_vacuum()? {
            let origin = self.origin(prepared);
            return Ok(Err(not_authorized(pragma::SHRINKING, origin)));
        }
        if statement.facts.reads_column_names
            && !prepared.is_read_only()
            && let Some(view) = column_names::view_with_drawn(self.session.connection())?
        {
            return Ok(Err(column_names::drawn_for_view(&view)));
        }
        if self.request.transaction || self.transaction.is_open() {
            return self.step_checked(statement, ordinal);
        }
        self.step_as_unit(statement, ordinal)
    }

    /// Runs a statement that is a unit of its own. SQLite undoes a failed statement by itself, so a
    /// savepoint is needed only if a deferred foreign key is violated at its end. That is found out
    /// by running the entry without savepoints first.
    fn step_as_unit(
        &mut self,
        statement: &mut ClientStatement,
        ordinal: usize,
    ) -> Result<Ran, Stop> {
        if !self.plan.unit_savepoints {
            let ran = self.step_checked(statement, ordinal)?;
            if self.session.has_deferred_violations() {
                self.plan.unit_savepoints = true;
                return Err(Stop::Again);
            }
            return Ok(ran);
        }
        self.session.open_unit()?;
        let ran = self.step_checked(statement, ordinal)?;
        if self.session.has_deferred_violations() {
            self.session.undo_unit()?;
            return Ok(Err(ran.err().unwrap_or_else(transaction::foreign_key_violation)));
        }
        self.session.keep_unit()?;
        Ok(ran)
    }

    /// Steps a statement. What it made is unmade if SQLite drew names for it.
    fn step_checked(
        &mut self,
        statement: &mut ClientStatement,
        ordinal: usize,
    ) -> Result<Ran, Stop> {
        let Some(table) = statement.facts.table_from_select().map(str::to_owned) else {
            return self.step(statement, ordinal);
        };
        self.session.open_unit()?;
        let ran = self.step(statement, ordinal)?;
        let drawn = column_names::drawn_in_table(self.session.connection(), &table)?;
        if let (Ok(_), Some(name)) = (&ran, drawn) {
            self.session.undo_unit()?;
            return Ok(Err(column_names::drawn_for_table(&name)));
        }
        self.session.keep_unit()?;
        Ok(ran)
    }

    /// Steps a statement to its end, or as far as its result needs.
    fn step(&mut self, statement: &mut ClientStatement, ordinal: usize) -> Result<Ran, Stop> {
        let ClientStatement { compiled, facts, .. } = statement;
        let Some(prepared) = &mut compiled.statement else { return Ok(self.done()) };
        let shape = Shape::of(self.request.mode, prepared, facts);
        let origin = self.origin(prepared);
        let budget = self.settings.budget;
        if budget.steps > 0 && self.steps_left == 0 {
            return Ok(Err(budget::steps_used_up(budget.steps, origin)));
        }
        let probe = match &facts.insert {
            Some(insert) if insert.has_rowids && facts.may_update_instead() => {
                Some(self.session.watch_inserts(&insert.table)?)
            }
            _ => None,
        };
        let refused_writes = disk_full::refused_writes();
        let failed_allocations = memory::failed_allocations();
        if facts.uses_virtual_tables {
            self.session.warm_virtual_tables();
        }
        self.session.begin_steps(prepared, self.steps_left)?;
        let changes_before = self.session.connection().total_changes();
        // Counted in pages of the usual size, whatever the database's is.
        let spill = Allowance::of(budget.pages.saturating_mul(SPILL_PAGE_BYTES));
        work::begin();
        let guards =
            (self.session.determine_draws(), memory::Account::open(self.session.values_charge()));
        let collected = collect(prepared, shape, self.collector.as_deref_mut());
        drop((spill, guards));
        prepared.reset();
        let seen = self.session.end_steps(prepared)?;
        self.steps_left = self.steps_left.saturating_sub(seen.steps_used);
        facts.touch(seen.schema);
        if facts.schema != Schema::Untouched {
            self.session.schema_changed();
        }
        if probe.is_some() {
            self.session.unwatch_inserts()?;
        }
        if collected.is_ok() && memory::has_refused() {
            // SQLite makes do without memory here and there, and the result may be another.
            let error = memory::refused().into_sql_error(origin);
            let steps_used = seen.steps_used;
            let culprit = Culprit { ordinal, error, ends_client_transaction: false, steps_used };
            self.plan.add_culprit(self.number, culprit);
            return Err(Stop::Again);
        }
        let failure = match collected {
            Ok(Collected::Nothing) => {
                let inserted = |rowid| probe.as_ref().is_none_or(|probe| probe.saw(rowid));
                return Ok(Ok(self.counters(facts, inserted)));
            }
            Ok(Collected::Rows(outcome)) => return Ok(Ok(outcome)),
            Err(error) => Failure {
                error: error.with_refused_size(failed_allocations),
                refusal: seen.refusal,
                steps_exceeded: seen.steps_exceeded,
                steps_used: seen.steps_used,
                disk_is_full: disk_full::refused_writes() != refused_writes,
                has_changed: self.session.connection().total_changes() != changes_before,
                origin,
            },
        };
        self.failed(failure, ordinal)
    }

    /// The counters of a statement that has just run.
    fn counters(&self, facts: &Facts, inserted: impl Fn(i64) -> bool) -> Outcome {
        if !facts.counts_rows() {
            return Outcome::Done { last_insert_id: None, rows_affected: None };
        }
        let connection = self.session.connection();
        let changes = connection.changes();
        let rowid = connection.last_insert_rowid();
        let has_rowid = facts.insert.as_ref().is_some_and(|insert| insert.has_rowids);
        let last_insert_id = (has_rowid && changes > 0 && inserted(rowid)).then_some(rowid);
        Outcome::Done { last_insert_id, rows_affected: Some(changes) }
    }

    /// Decides what a failed step is: a result, a reason to begin again, or a failure of this node.
    fn failed(&mut self, failure: Failure, ordinal: usize) -> Result<Ran, Stop> {
        let Failure { error, refusal, steps_exceeded, steps_used, .. } = failure;
        let Failure { disk_is_full, has_changed, origin, .. } = failure;
        let budget = self.settings.budget;
        let primary = error.primary();
        let ends_transaction = !self.session.is_in_transaction();
        let result = match (primary, refusal) {
            (ffi::SQLITE_FULL, _) if disk_is_full => return Err(error.into()),
            (ffi::SQLITE_FULL, _) if budget.pages > 0 && !self.plan.exact_pages => {
                self.plan.exact_pages = true;
                return Err(Stop::Again);
            }
            (ffi::SQLITE_FULL, _) if budget.pages > 0 => {
                budget::pages_exceeded(budget.pages, origin)
            }
            (ffi::SQLITE_FULL, _) => error.into_sql_error(origin),
            // To allocate much takes steps as well, and is refused when there are none.
            (ffi::SQLITE_INTERRUPT | ffi::SQLITE_TOOBIG, _) if steps_exceeded => {
                budget::steps_exceeded(budget.steps, origin)
            }
            (ffi::SQLITE_INTERRUPT, _) => return Err(error.into()),
            _ if error.is_local() => return Err(error.into()),
            (ffi::SQLITE_AUTH, Some(refusal)) => not_authorized(&refusal, origin),
            _ => error.into_sql_error(origin),
        };
        if ends_transaction {
            let ends_client_transaction = primary == ffi::SQLITE_CONSTRAINT;
            let culprit = Culprit { ordinal, error: result, ends_client_transaction, steps_used };
            self.plan.add_culprit(self.number, culprit);
            return Err(Stop::Again);
        }
        let kind = match result.kind {
            ErrorKind::Constraint if has_changed => ErrorKind::ConstraintKept,
            kind => kind,
        };
        Ok(Err(SqlError { kind, ..result }))
    }

    /// The failure an earlier attempt recorded for a statement that ended the whole transaction.
    fn recorded_failure(&mut self, ordinal: usize) -> Result<Option<SqlError>, Stop> {
        let Some(culprit) = self.plan.failure_of(self.number, ordinal) else { return Ok(None) };
        let error = culprit.error.clone();
        self.steps_left = self.steps_left.saturating_sub(culprit.steps_used);
        if culprit.ends_client_transaction && !self.request.transaction {
            self.transaction.abandon(self.session)?;
        }
        Ok(Some(error))
    }

    /// The failure of a text that could not be compiled.
    fn refused(&self, refused: Refused) -> Result<SqlError, Stop> {
        let Refused { error, refusal } = refused;
        match refusal {
            Some(refusal) => Ok(not_authorized(&refusal, Origin::Write)),
            None if error.is_local() => Err(error.into()),
            None => Ok(error.into_sql_error(Origin::Write)),
        }
    }

    fn set(&mut self, setting: Setting) -> Result<(), Stop> {
        match setting {
            Setting::ForeignKeys(on) => self.session.set_foreign_keys(on)?,
            Setting::DeferForeignKeys(on) => self.session.set_defers(on)?,
        }
        Ok(())
    }

    fn origin(&self, prepared: &Prepared) -> Origin {
        if self.request.mode == Mode::Unified && prepared.is_read_only() {
            Origin::Read
        } else {
            Origin::Write
        }
    }

    /// The result of a statement that reports nothing.
    #[expect(clippy::unused_self, reason = "reads as the other results do")]
    fn done(&self) -> Ran {
        Ok(Outcome::Done { last_insert_id: None, rows_affected: None })
    }
}

/// What is known about a step that failed.
struct Failure {
    error: SqliteError,
    refusal: Option<String>,
    steps_exceeded: bool,
    steps_used: u64,
    disk_is_full: bool,
    /// Rows were changed and may still be. (SQLite also counts what triggers did before it was undone.)
    has_changed: bool,
    origin: Origin,
}

/// How far a statement is stepped and what becomes of its rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// To the end; rows are the result.
    Rows,
    /// To the end; it yields nothing, or what nobody asked for.
    Counters,
    /// Once: a read where only writes are expected.
    Glance,
}

impl Shape {
    fn of(mode: Mode, prepared: &Prepared, facts: &Facts) -> Self {
        if prepared.column_count() == 0 {
            return Self::Counters;
        }
        match mode {
            Mode::Unified => Self::Rows,
            Mode::Execute if prepared.is_explain() => Self::Rows,
            Mode::Execute if facts.pragma.is_some() => Self::Counters,
            Mode::Execute if prepared.is_read_only() => Self::Glance,
            Mode::Execute => Self::Rows,
        }
    }
}

/// Steps a statement. Every node steps equally far, whoever wants the rows.
fn collect(
    prepared: &mut Prepared,
    shape: Shape,
    collector: Option<&mut Collector>,
) -> Result<Collected, SqliteError> {
    match (shape, collector) {
        (Shape::Glance, _) => {
            prepared.step()?;
            Ok(Collected::Nothing)
        }
        (Shape::Rows, Some(collector)) => collector.collect(prepared),
        (Shape::Rows, None) => {
            let columns = prepared.column_count();
            while prepared.step()? {
                prepared.read_row(columns);
            }
            Ok(Collected::Nothing)
        }
        (Shape::Counters, _) => {
            while prepared.step()? {}
            Ok(Collected::Nothing)
        }
    }
}

fn not_authorized(refusal: &str, origin: Origin) -> SqlError {
    SqlError {
        kind: ErrorKind::NotAuthorized,
        message: format!("not authorized: {refusal}"),
        origin,
    }
}

fn timed(ran: Ran, elapsed: Duration) -> TimedOutcome {
    TimedOutcome { outcome: ran.unwrap_or_else(Outcome::Error), elapsed }
}

fn replace_last(results: &mut [TimedOutcome], error: SqlError) {
    if let Some(last) = results.last_mut() {
        last.outcome = Outcome::Error(error);
    }
}
