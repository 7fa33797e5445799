//! What a client's statement may do on the writer, and what it turns out to be.
//!
//! SQLite asks the authorizer while it compiles a statement. It is installed once for the life of
//! the writer connection; a [`Phase`] switches it: our own statements pass unseen, a client's are
//! judged and described ([`Facts`]), and what virtual tables compile while a client's statement runs
//! is judged with a little more freedom. Whatever could see or change something that is not equal on
//! all nodes is refused, with a sentence that says what.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use rusqlite::{
    Connection,
    hooks::{AuthAction, AuthContext, Authorization, TransactionOperation},
};

use crate::{
    error::SqliteError,
    facts::{Control, Facts, Insert, Pragma, Schema},
    functions::DENIED_FUNCTIONS,
    pragma::{self, Verdict},
    state::STATE_TABLE,
};

/// On whose behalf SQLite compiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Our own statements: everything is allowed, nothing recorded.
    Internal = 0,
    /// A client's statement is being compiled.
    Compile = 1,
    /// A client's statement runs; virtual tables may compile statements of their own.
    Run = 2,
}

/// Why ATTACH is refused, on readers too.
pub(crate) const ATTACH_REFUSED: &str = "ATTACH: the database is one replicated file";

/// Why DETACH is refused, on readers too.
pub(crate) const DETACH_REFUSED: &str = "DETACH: the database is one replicated file";

/// The virtual table modules a client may create tables with.
const MODULES: &[&str] =
    &["fts3", "fts4", "fts4aux", "fts5", "fts5vocab", "geopoly", "rtree", "rtree_i32"];

/// Tables that show files, pages or memory of this node.
const TABLES_OF_THIS_NODE: &[&str] = &["dbstat", "sqlite_dbpage", "sqlite_stmt", "bytecode"];

/// Tables that show the names of columns, also those of views.
const TABLES_OF_COLUMN_NAMES: &[&str] = &["pragma_table_info", "pragma_table_xinfo"];

/// The authorizer's memory, shared between it and the writer.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    phase: AtomicU8,
    seen: Mutex<Seen>,
    /// The names of the schema's virtual tables, in lower case.
    virtual_tables: Mutex<HashSet<String>>,
}

/// What was seen since the last [`Watch::begin`].
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The facts so far.
    pub(crate) facts: Facts,
    /// Why something was refused; SQLite then fails, with a message of its own.
    pub(crate) refusal: Option<String>,
}

impl Watch {
    /// Installs an authorizer on `writer`. It begins in [`Phase::Internal`].
    ///
    /// # Errors
    /// SQLite without memory.
    pub(crate) fn install(writer: &mut Connection) -> Result<Arc<Self>, SqliteError> {
        let watch = Arc::new(Self::default());
        let judge = Arc::clone(&watch);
        writer.authorizer(Some(move |context: AuthContext<'_>| judge.judge(&context)))?;
        Ok(watch)
    }

    /// Forgets what was seen and enters `phase`.
    pub(crate) fn begin(&self, phase: Phase) {
        *self.seen() = Seen::default();
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Returns to [`Phase::Internal`] and hands over what was seen.
    pub(crate) fn end(&self) -> Seen {
        self.phase.store(Phase::Internal as u8, Ordering::Relaxed);
        std::mem::take(&mut *self.seen())
    }

    /// Tells the virtual tables of the schema from other tables, from now on.
    pub(crate) fn know_virtual_tables(&self, names: &[String]) {
        *locked(&self.virtual_tables) =
            names.iter().map(|name| name.to_ascii_lowercase()).collect();
    }

    fn is_virtual_table(&self, name: &str) -> bool {
        let known = locked(&self.virtual_tables);
        !known.is_empty() && known.contains(&name.to_ascii_lowercase())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        locked(&self.seen)
    }

    fn judge(&self, context: &AuthContext<'_>) -> Authorization {
        let phase = self.phase.load(Ordering::Relaxed);
        if phase == Phase::Internal as u8 {
            return Authorization::Allow;
        }
        let seen = &mut *self.seen();
        if let AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } = context.action
        {
            seen.facts.uses_virtual_tables |=
                self.is_virtual_table(table_name) || pragma::is_table(table_name);
        }
        let judgement = if phase == Phase::Compile as u8 {
            judge_client(context, &mut seen.facts)
        } else {
            judge_running(context, &mut seen.facts)
        };
        match judgement {
            Ok(authorization) => authorization,
            Err(reason) => {
                seen.refusal.get_or_insert(reason);
                Authorization::Deny
            }
        }
    }
}

/// A poisoned lock only says that a statement panicked; what is guarded has no invariant to lose.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Judges and describes what the client's statement itself asks for.
fn judge_client(context: &AuthContext<'_>, facts: &mut Facts) -> Result<Authorization, String> {
    match context.action {
        AuthAction::Transaction { operation } => {
            facts.control = Some(match operation {
                TransactionOperation::Begin => Control::Begin,
                TransactionOperation::Rollback => Control::Rollback,
                // SQLite says "COMMIT", for which the library has no name.
                _ => Control::Commit,
            });
        }
        AuthAction::Savepoint { operation, savepoint_name } => {
            let name = savepoint_name.to_owned();
            facts.control = Some(match operation {
                TransactionOperation::Release => Control::Release(name),
                TransactionOperation::Rollback => Control::RollbackTo(name),
                _ => Control::Savepoint(name),
            });
        }
        AuthAction::Pragma { pragma_name, pragma_value } => {
            facts.pragma = Some(Pragma::Plain);
            // Checking the integrity looks into virtual tables.
            facts.uses_virtual_tables = true;
            match pragma::judge(pragma_name, pragma_value) {
                Verdict::Run => {}
                Verdict::Shrinks => facts.pragma = Some(Pragma::Shrinks),
                Verdict::UntilRequestEnds(setting) => {
                    facts.setting = Some(setting);
                    // SQLite then compiles a statement that does nothing.
                    return Ok(Authorization::Ignore);
                }
                Verdict::Refused(reason) => {
                    return Err(format!("PRAGMA {pragma_name}: {reason}"));
                }
            }
        }
        AuthAction::Insert { table_name } if context.accessor.is_none() => {
            judge_common(context)?;
            // A statement inserts into one table; what follows are foreign key actions.
            facts
                .insert
                .get_or_insert_with(|| Insert { table: table_name.to_owned(), has_rowids: false });
        }
        AuthAction::Update { table_name, .. } if context.accessor.is_none() => {
            check_write(table_name)?;
            facts.updates = true;
        }
        AuthAction::Delete { table_name } if context.accessor.is_none() => {
            check_write(table_name)?;
            facts.deletes = true;
        }
        AuthAction::CreateTable { table_name } => facts.creates_table = Some(table_name.to_owned()),
        AuthAction::Select => facts.selects = true,
        AuthAction::Read { table_name, .. } => {
            judge_common(context)?;
            facts.reads_column_names |= is_among(TABLES_OF_COLUMN_NAMES, table_name);
        }
        _ => judge_common(context)?,
    }
    describe_schema(&context.action, facts);
    Ok(Authorization::Allow)
}

/// Judges what virtual tables compile while a client's statement runs, and a statement compiled
/// again. What kind of statement the client sent is known by then.
fn judge_running(context: &AuthContext<'_>, facts: &mut Facts) -> Result<Authorization, String> {
    match context.action {
        AuthAction::Pragma { pragma_name, pragma_value } => {
            let verdict = pragma::judge(pragma_name, pragma_value);
            if verdict != Verdict::Run && !pragma::serves_virtual_tables(pragma_name) {
                return Err(format!("PRAGMA {pragma_name} within another statement"));
            }
        }
        _ => judge_common(context)?,
    }
    describe_schema(&context.action, facts);
    Ok(Authorization::Allow)
}

/// Judges what is refused to the client's statement and to what virtual tables compile for it.
fn judge_common(context: &AuthContext<'_>) -> Result<(), String> {
    match context.action {
        AuthAction::Attach { .. } => Err(ATTACH_REFUSED.to_owned()),
        AuthAction::Detach { .. } => Err(DETACH_REFUSED.to_owned()),
        // However it is spelled, and whatever SQLite asks for else (for `CREATE TRIGGER temp.x` it
        // asks as for one of the main database), the object is written into the temporary schema.
        AuthAction::Insert { .. } if is_temporary(context) => {
            Err("a temporary object: it would exist on one node only".to_owned())
        }
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } => check_write(table_name),
        AuthAction::Read { table_name, .. } => check_read(table_name, context.accessor),
        AuthAction::Function { function_name } => check_function(function_name),
        AuthAction::CreateVtable { module_name, .. } if !is_among(MODULES, module_name) => {
            Err(format!("virtual tables of module {module_name}"))
        }
        AuthAction::Unknown { code, .. } => {
            Err(format!("an action this program does not know (SQLite's code {code})"))
        }
        _ => Ok(()),
    }
}

/// Whether the temporary database of the connection is meant.
fn is_temporary(context: &AuthContext<'_>) -> bool {
    context.database_name.is_some_and(|name| name.eq_ignore_ascii_case("temp"))
}

fn check_write(table: &str) -> Result<(), String> {
    if table.eq_ignore_ascii_case(STATE_TABLE) {
        return Err(format!("writing table {table}: it belongs to the database engine"));
    }
    if is_among(TABLES_OF_THIS_NODE, table) {
        return Err(format!("table {table}: it shows this node's files"));
    }
    Ok(())
}

fn check_read(table: &str, accessor: Option<&str>) -> Result<(), String> {
    if let Some(accessor) = accessor
        && table.eq_ignore_ascii_case(STATE_TABLE)
    {
        return Err(format!(
            "reading table {table} in {accessor}: it belongs to the database engine"
        ));
    }
    if is_among(TABLES_OF_THIS_NODE, table) || pragma::is_refused_table(table) {
        return Err(format!("table {table}: its content would be that of one node"));
    }
    Ok(())
}

fn check_function(function: &str) -> Result<(), String> {
    let denied = DENIED_FUNCTIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(function));
    denied.map_or(Ok(()), |(name, reason)| Err(format!("function {name}(): {reason}")))
}

/// Records what touches the schema, or what a connection remembers beside it.
fn describe_schema(action: &AuthAction<'_>, facts: &mut Facts) {
    facts.defines |= matches!(
        action,
        AuthAction::CreateIndex { .. }
            | AuthAction::CreateTable { .. }
            | AuthAction::CreateTrigger { .. }
            | AuthAction::CreateView { .. }
            | AuthAction::CreateVtable { .. }
            | AuthAction::AlterTable { .. }
    );
    match action {
        AuthAction::CreateIndex { .. }
        | AuthAction::CreateTable { .. }
        | AuthAction::CreateTrigger { .. }
        | AuthAction::CreateView { .. }
        | AuthAction::CreateVtable { .. }
        | AuthAction::DropIndex { .. }
        | AuthAction::DropTable { .. }
        | AuthAction::DropTrigger { .. }
        | AuthAction::DropView { .. }
        | AuthAction::DropVtable { .. }
        | AuthAction::AlterTable { .. }
        | AuthAction::Analyze { .. }
        | AuthAction::Reindex { .. } => facts.touch(Schema::Definition),
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
            if is_statistics(table_name) =>
        {
            facts.touch(Schema::Statistics);
        }
        _ => {}
    }
}

/// Whether the planner reads this table when a connection loads the schema.
fn is_statistics(table: &str) -> bool {
    is_among(&["sqlite_stat1", "sqlite_stat3", "sqlite_stat4"], table)
}

fn is_among(names: &[&str], name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}
