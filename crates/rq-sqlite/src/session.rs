//! The writer connection with everything that hangs on it, and the few things done with it.
//!
//! Nothing here knows of entries, requests or results. It keeps one promise: at the start of each
//! request the connection is what a connection opened just now would be (schema, statistics,
//! counters, settings), so that no result depends on what it did before.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use rusqlite::{Connection, config::DbConfig, hooks::Action};

use crate::{
    ambient::Ambient,
    authorizer::{Phase, Seen, Watch},
    budget::{PageLimit, StepBudget},
    connection::Guarded,
    entry::{Budget, Settings},
    error::SqliteError,
    facts::Schema,
    foreign_keys,
    functions::RequestStart,
    memory::{self, Charge},
    prepared::Prepared,
    prng::Determined,
    sql_text::SqlText,
    statements::{ClientStatement, ClientStatements, Refused},
    work::{Counted, Meter},
};

/// The writer connection. Statements come before the connection, so that they are dropped first.
#[derive(Debug)]
pub(crate) struct Session {
    statements: ClientStatements,
    internal: InternalStatements,
    request_start: RequestStart,
    watch: Arc<Watch>,
    steps: Arc<StepBudget>,
    pages: PageLimit,
    /// What the page limit is while a client's statement runs, if it is to be exact.
    request_page_limit: Option<u64>,
    /// Clock and randomness.
    pub(crate) ambient: Arc<Ambient>,
    /// In bytes; it never changes.
    page_size: u32,
    foreign_keys: ForeignKeys,
    /// The connection may remember another schema or other statistics than a fresh one would read,
    /// and will read them again when the next request begins.
    schema_is_stale: bool,
    /// A statement used a virtual table since the schema was read.
    virtual_tables_are_warm: bool,
    /// The running transaction touched the schema, so rolling back makes the memory stale.
    transaction_touched_schema: bool,
    connection: Guarded,
}

/// How foreign keys are treated now.
#[derive(Clone, Copy, Debug)]
struct ForeignKeys {
    /// They are enforced.
    enforced: bool,
    /// `defer_foreign_keys` is on.
    deferred: bool,
}

#[derive(Debug)]
struct InternalStatements {
    begin: Prepared,
    commit: Prepared,
    rollback: Prepared,
    savepoint_unit: Prepared,
    release_unit: Prepared,
    rollback_to_unit: Prepared,
    page_count: Prepared,
}

impl InternalStatements {
    /// Names that begin with `rq_` are ours: what clients name is never executed as they name it.
    fn new(connection: &Connection) -> Result<Self, SqliteError> {
        let prepare = |sql| Prepared::internal(connection, sql);
        Ok(Self {
            begin: prepare("BEGIN IMMEDIATE")?,
            commit: prepare("COMMIT")?,
            rollback: prepare("ROLLBACK")?,
            savepoint_unit: prepare("SAVEPOINT rq_unit")?,
            release_unit: prepare("RELEASE rq_unit")?,
            rollback_to_unit: prepare("ROLLBACK TO rq_unit")?,
            page_count: prepare("PRAGMA page_count")?,
        })
    }
}

/// What was seen while a client's statement ran.
#[derive(Debug)]
pub(crate) struct RunSeen {
    /// What it did to the schema through what virtual tables compiled.
    pub(crate) schema: Schema,
    /// What the authorizer refused.
    pub(crate) refusal: Option<String>,
    /// Whether it was stopped because it needed too many steps.
    pub(crate) steps_exceeded: bool,
    /// How many steps it used, if it was limited.
    pub(crate) steps_used: u64,
}

/// What an upsert did: whether it inserted, and the rowid it inserted last.
#[derive(Debug, Default)]
pub(crate) struct InsertProbe {
    inserted: AtomicBool,
    rowid: AtomicI64,
}

impl InsertProbe {
    /// Whether the last row inserted into the table watched has this rowid.
    pub(crate) fn saw(&self, rowid: i64) -> bool {
        self.inserted.load(Ordering::Relaxed) && self.rowid.load(Ordering::Relaxed) == rowid
    }
}

impl Session {
    /// Takes over a connection that was opened as the writer and whose state table exists.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn new(
        mut connection: Guarded,
        ambient: Arc<Ambient>,
        request_start: RequestStart,
        cached_statements: usize,
    ) -> Result<Self, SqliteError> {
        let watch = Watch::install(&mut connection)?;
        let steps = StepBudget::install(&mut connection)?;
        let enforced = connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)?;
        watch.know_virtual_tables(&connect_virtual_tables(&connection)?);
        let page_size: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        Ok(Self {
            statements: ClientStatements::new(cached_statements),
            internal: InternalStatements::new(&connection)?,
            request_start,
            watch,
            steps,
            pages: PageLimit::new(),
            request_page_limit: None,
            ambient,
            page_size,
            foreign_keys: ForeignKeys { enforced, deferred: false },
            schema_is_stale: false,
            virtual_tables_are_warm: false,
            transaction_touched_schema: false,
            connection,
        })
    }

    /// The connection. Our own statements pass the authorizer.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Begins the transaction of an entry. Virtual tables forget what they have cached: how many
    /// steps their own statements take depends on it, and those count against budgets.
    pub(crate) fn begin(&mut self) -> Result<(), SqliteError> {
        self.schema_is_stale |= self.virtual_tables_are_warm;
        self.transaction_touched_schema = false;
        run(&mut self.internal.begin)
    }

    /// Commits it.
    pub(crate) fn commit(&mut self) -> Result<(), SqliteError> {
        run(&mut self.internal.commit)?;
        self.transaction_touched_schema = false;
        Ok(())
    }

    /// Whether a transaction is open.
    pub(crate) fn is_in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// Rolls everything back and restores the connection, whatever state it is in.
    pub(crate) fn abandon(&mut self) -> Result<(), SqliteError> {
        self.steps.disarm();
        self.steps.allow_all();
        self.watch.end();
        self.statements.clear();
        if self.is_in_transaction() {
            run(&mut self.internal.rollback)?;
        }
        self.schema_is_stale |= self.transaction_touched_schema;
        self.transaction_touched_schema = false;
        self.set_defers(false)
    }

    /// Begins request `number` of an entry, inside its transaction.
    pub(crate) fn begin_request(
        &mut self,
        number: u64,
        settings: Settings,
    ) -> Result<(), SqliteError> {
        self.request_page_limit = None;
        if self.schema_is_stale {
            self.reload_schema()?;
        }
        self.restore(settings)?;
        self.request_start.begin_request(&self.connection, &self.ambient, number)
    }

    /// Undoes what a request set for itself.
    pub(crate) fn restore(&mut self, settings: Settings) -> Result<(), SqliteError> {
        self.set_foreign_keys(settings.foreign_keys)?;
        self.set_defers(false)
    }

    /// Limits the statements of a request that begins now, but not our own beneath it, to exactly
    /// the pages it may add.
    pub(crate) fn limit_pages(&mut self, budget: Budget) -> Result<(), SqliteError> {
        self.pages.lift(&self.connection)?;
        if budget.pages > 0 {
            self.request_page_limit = Some(self.page_count()?.saturating_add(budget.pages));
        }
        Ok(())
    }

    /// Makes sure that the page limit is not above what any request of the entry may reach.
    pub(crate) fn guard_pages(&mut self, budget: Budget) -> Result<(), SqliteError> {
        let pages = if budget.pages == 0 { 0 } else { self.page_count()? };
        self.pages.guard(&self.connection, pages, budget.pages)
    }

    /// Takes the page limit away.
    pub(crate) fn lift_page_limit(&mut self) -> Result<(), SqliteError> {
        self.pages.lift(&self.connection)
    }

    /// The size of the database in pages, as the running transaction sees it.
    pub(crate) fn page_count(&mut self) -> Result<u64, SqliteError> {
        let statement = &mut self.internal.page_count;
        let count = match statement.step() {
            Ok(true) => match statement.value(0) {
                rq_sql::ValueRef::Integer(count) => Ok(u64::try_from(count).unwrap_or_default()),
                _ => Ok(0),
            },
            Ok(false) => Ok(0),
            Err(error) => Err(error),
        };
        statement.reset();
        count
    }

    /// Whether the database keeps what `PRAGMA incremental_vacuum` needs.
    pub(crate) fn has_auto_vacuum(&self) -> Result<bool, SqliteError> {
        let mode: i64 =
            self.connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
        Ok(mode != 0)
    }

    /// Opens the savepoint of a transaction unit.
    pub(crate) fn open_unit(&mut self) -> Result<(), SqliteError> {
        run(&mut self.internal.savepoint_unit)
    }

    /// Ends a transaction unit and keeps its effect.
    pub(crate) fn keep_unit(&mut self) -> Result<(), SqliteError> {
        run(&mut self.internal.release_unit)
    }

    /// Ends a transaction unit and undoes its effect.
    pub(crate) fn undo_unit(&mut self) -> Result<(), SqliteError> {
        run(&mut self.internal.rollback_to_unit)?;
        run(&mut self.internal.release_unit)
    }

    /// Opens a savepoint of a client at a depth of its own stack.
    pub(crate) fn open_savepoint(&mut self, depth: usize) -> Result<(), SqliteError> {
        Ok(self.connection.execute_batch(&format!("SAVEPOINT rq_client_{depth}"))?)
    }

    /// Ends the savepoint at `depth` and those above it, and keeps their effect.
    pub(crate) fn release_savepoint(&mut self, depth: usize) -> Result<(), SqliteError> {
        Ok(self.connection.execute_batch(&format!("RELEASE rq_client_{depth}"))?)
    }

    /// Undoes what happened since the savepoint at `depth`, which stays open.
    pub(crate) fn roll_back_to_savepoint(&mut self, depth: usize) -> Result<(), SqliteError> {
        Ok(self.connection.execute_batch(&format!("ROLLBACK TO rq_client_{depth}"))?)
    }

    /// Whether the transaction could not be committed as it is.
    pub(crate) fn has_deferred_violations(&self) -> bool {
        foreign_keys::has_deferred_violations(&self.connection)
    }

    /// Turns the enforcement of foreign keys on or off, also inside a transaction, where the PRAGMA
    /// of that name does nothing.
    pub(crate) fn set_foreign_keys(&mut self, on: bool) -> Result<(), SqliteError> {
        if self.foreign_keys.enforced != on {
            self.statements.clear();
            self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, on)?;
            self.foreign_keys.enforced = on;
        }
        Ok(())
    }

    /// Defers all foreign keys, or not.
    pub(crate) fn set_defers(&mut self, on: bool) -> Result<(), SqliteError> {
        if self.foreign_keys.deferred != on {
            self.statements.clear();
            let value = i32::from(on);
            self.connection.execute_batch(&format!("PRAGMA defer_foreign_keys={value}"))?;
            self.foreign_keys.deferred = on;
        }
        Ok(())
    }

    /// Compiles the first statement of what is left of `text` under a client's rights.
    pub(crate) fn compile(&mut self, text: &mut SqlText<'_>) -> Result<ClientStatement, Refused> {
        let tries = self.steps.has_allowance();
        let taken = self.statements.take(&self.connection, &self.watch, text, tries);
        if tries && taken.is_err() && memory::has_refused() {
            self.steps.overdraw();
        }
        taken
    }

    /// Takes a client's statement back after it ran. `sql` is what it was compiled from.
    pub(crate) fn finished(&mut self, statement: ClientStatement, sql: &str) {
        if statement.facts.schema == Schema::Untouched {
            // What is compiled between a change of the schema and the end of its request may refer
            // to what is rolled back yet.
            if !self.schema_is_stale {
                self.statements.put(statement, sql);
            }
        } else {
            drop(statement);
            self.schema_changed();
        }
    }

    /// Says that a statement uses a virtual table.
    pub(crate) fn warm_virtual_tables(&mut self) {
        self.virtual_tables_are_warm = true;
    }

    /// Says that the schema or the statistics changed by other ways than a client's statement.
    pub(crate) fn schema_changed(&mut self) {
        self.statements.clear();
        self.schema_is_stale = true;
        self.transaction_touched_schema = true;
    }

    /// Switches to running a client's statement, under a budget of steps; 0 is no limit.
    pub(crate) fn begin_steps(
        &mut self,
        prepared: &mut Prepared,
        steps: u64,
    ) -> Result<(), SqliteError> {
        if let Some(limit) = self.request_page_limit {
            self.pages.set(&self.connection, limit)?;
        }
        prepared.reset_steps();
        self.watch.begin(Phase::Run);
        self.steps.arm(steps);
        Ok(())
    }

    /// Allows what runs from now on about so many steps together; `None` is without limit.
    pub(crate) fn allow_steps(&self, steps: Option<u64>) {
        match steps {
            Some(steps) => self.steps.allow(steps),
            None => self.steps.allow_all(),
        }
    }

    /// Whether something was stopped for want of allowed steps; see [`StepBudget::is_overdrawn`].
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.steps.is_overdrawn()
    }

    /// What functions do within one step of statements counts against their budgets until the value returned
    /// is dropped.
    pub(crate) fn count_work(&self) -> Counted {
        Counted::by(Arc::clone(&self.steps) as Arc<dyn Meter>)
    }

    /// What a statement that runs is charged in memory.
    pub(crate) fn values_charge(&self) -> Charge {
        Charge::values(self.page_size as usize)
    }

    /// What SQLite draws for itself follows from the entry until the value returned is dropped.
    pub(crate) fn determine_draws(&self) -> Determined<'_> {
        let ambient = &self.ambient;
        Determined::begin(&self.connection, ambient.engine_key(), ambient.total_changes_before())
    }

    /// Switches back to our own statements.
    pub(crate) fn end_steps(&mut self, prepared: &Prepared) -> Result<RunSeen, SqliteError> {
        memory::return_much();
        let steps_exceeded = self.steps.disarm();
        let steps_used = self.steps.used(prepared.steps());
        let Seen { facts, refusal } = self.watch.end();
        if self.request_page_limit.is_some() {
            self.pages.lift(&self.connection)?;
        }
        Ok(RunSeen { schema: facts.schema, refusal, steps_exceeded, steps_used })
    }

    /// Watches what is inserted into `table` until [`unwatch_inserts`](Self::unwatch_inserts).
    pub(crate) fn watch_inserts(&mut self, table: &str) -> Result<Arc<InsertProbe>, SqliteError> {
        let probe = Arc::new(InsertProbe::default());
        let (seen, watched) = (Arc::clone(&probe), table.to_owned());
        self.connection.update_hook(Some(move |action, _: &str, table: &str, rowid| {
            if action == Action::SQLITE_INSERT && table == watched {
                seen.rowid.store(rowid, Ordering::Relaxed);
                seen.inserted.store(true, Ordering::Relaxed);
            }
        }))?;
        Ok(probe)
    }

    /// Ends the watch.
    pub(crate) fn unwatch_inserts(&mut self) -> Result<(), SqliteError> {
        Ok(self.connection.update_hook(None::<fn(Action, &str, &str, i64)>)?)
    }

    /// Makes the connection read schema and statistics again, as a fresh one would. A long-lived
    /// connection otherwise keeps statistics of rows that were changed by hand, of dropped indexes
    /// or of a rolled back ANALYZE, and plans differently from one opened later.
    fn reload_schema(&mut self) -> Result<(), SqliteError> {
        if self.is_in_transaction() {
            // Full-text tables keep rows in memory until a savepoint or the commit. The reload gives
            // later statements new table objects; two of them must not hold rows at once.
            self.connection.execute_batch("SAVEPOINT rq_flush; RELEASE rq_flush")?;
        }
        self.statements.clear();
        self.connection.execute_batch("PRAGMA writable_schema=RESET")?;
        self.watch.know_virtual_tables(&connect_virtual_tables(&self.connection)?);
        self.schema_is_stale = false;
        self.virtual_tables_are_warm = false;
        Ok(())
    }
}

/// Makes the objects of all virtual tables. They would otherwise be made when a client's statement
/// first names them, and what they compile then would be taken for the client's.
/// Returns their names.
fn connect_virtual_tables(connection: &Connection) -> Result<Vec<String>, SqliteError> {
    let mut names = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0")?;
    let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for name in &names {
        let sql = format!("SELECT 1 FROM \"{}\"", name.replace('"', "\"\""));
        match Prepared::internal(connection, &sql) {
            // What is wrong with the table is for the client to hear who uses it.
            Err(error) if error.is_local() => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(names)
}

/// Runs one of our own statements to its end.
fn run(statement: &mut Prepared) -> Result<(), SqliteError> {
    let result = loop {
        match statement.step() {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    statement.reset();
    result
}
