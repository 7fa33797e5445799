//! The engine's own table in the database, `sqlite_rq_state`: what the file says about itself.
//!
//! Which entry was applied last, the membership (opaque here; the cluster's id is the node's to put
//! into it), the engine epoch, a VACUUM announced.
//! It is written in the same transaction as an entry's effect, so that file and state never
//! disagree. Its reserved name keeps clients from dropping, altering, indexing or triggering on it
//! (SQLite refuses that) and hides it from dumps; the writer's authorizer refuses writing it.
//!
//! Everything here is equal on all nodes at the same applied index, since it belongs to the image
//! that is compared. Nothing of this node may ever be stored in it.

use std::path::Path;

use rq_sql::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, config::DbConfig, types::ValueRef as Stored};

use crate::{
    entry::EntryId,
    error::{OpenError, SqliteError},
    prepared::Prepared,
};

/// The name of the state table.
pub(crate) const STATE_TABLE: &str = "sqlite_rq_state";

/// How the table was created; a table of the name with another text is not ours.
const CREATE: &str =
    "CREATE TABLE sqlite_rq_state(name TEXT PRIMARY KEY NOT NULL, value) WITHOUT ROWID";

/// The newest format of the rows this program reads.
const FORMAT: i64 = 1;

const ROW_FORMAT: &str = "format";
const ROW_EPOCH: &str = "engine_epoch";
const ROW_APPLIED_INDEX: &str = "applied_index";
const ROW_APPLIED_TERM: &str = "applied_term";
const ROW_MEMBERSHIP: &str = "membership";
const ROW_MEMBERSHIP_INDEX: &str = "membership_index";
const ROW_MEMBERSHIP_TERM: &str = "membership_term";
const ROW_VACUUM_INDEX: &str = "vacuum_index";
const ROW_VACUUM_TERM: &str = "vacuum_term";
const ROW_VACUUM_COOKIE: &str = "vacuum_cookie";

/// A VACUUM that had been announced when the file was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingVacuum {
    /// The entry that asks for it.
    pub id: EntryId,
    /// The schema cookie before it ran; it has run if the cookie is another one now.
    pub cookie: i64,
}

/// What the state table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredState {
    /// The last entry whose effect the database holds.
    pub applied: Option<EntryId>,
    /// The membership, opaque, and the entry it came with.
    pub membership: Option<(EntryId, Vec<u8>)>,
    /// A VACUUM announced and not confirmed.
    pub pending_vacuum: Option<PendingVacuum>,
}

/// What a database says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The engine epoch it belongs to.
    pub(crate) epoch: i64,
    /// What its state table holds besides.
    pub(crate) state: StoredState,
}

impl Found {
    /// What it holds, if it belongs to this epoch.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn of_epoch(self, known: i64, path: &Path) -> Result<StoredState, OpenError> {
        if self.epoch == known {
            return Ok(self.state);
        }
        Err(OpenError::Epoch { path: path.to_owned(), found: self.epoch, known })
    }
}

/// Reads the state of a database that may be ours, of whatever epoch, without changing anything.
///
/// `None` is an empty database.
///
/// # Errors
/// A database that is not ours, newer than us, or damaged.
pub(crate) fn inspect(connection: &Connection, path: &Path) -> Result<Option<Found>, OpenError> {
    let refuse = |error: SqliteError| error.into_open_error(path, "reading the database");
    let foreign =
        |reason: &str| OpenError::Foreign { path: path.to_owned(), reason: reason.to_owned() };
    let table = "SELECT type, sql FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
    let found: Option<(String, Option<String>)> = connection
        .query_row(table, [STATE_TABLE], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
        .map_err(|error| refuse(error.into()))?;
    match found {
        Some((kind, Some(sql))) if kind == "table" && sql == CREATE => {}
        Some(_) => return Err(foreign("it holds another object named sqlite_rq_state")),
        None => {
            let any = "SELECT EXISTS (SELECT 1 FROM sqlite_schema)";
            let any: bool = connection
                .query_row(any, [], |row| row.get(0))
                .map_err(|error| refuse(error.into()))?;
            return if any { Err(foreign("it holds tables but no state table")) } else { Ok(None) };
        }
    }
    let rows = Rows::read(connection).map_err(refuse)?;
    let damaged = |reason: String| OpenError::State { path: path.to_owned(), reason };
    let format = rows.number(ROW_FORMAT).map_err(damaged)?.unwrap_or_default();
    if format > FORMAT {
        return Err(OpenError::NewerFormat { path: path.to_owned(), found: format, known: FORMAT });
    }
    let epoch = rows.number(ROW_EPOCH).map_err(damaged)?.unwrap_or_default();
    let state = rows.state().map_err(damaged)?;
    Ok(Some(Found { epoch, state }))
}

/// Makes the state table in an empty database, which is of this epoch from then on, in one transaction.
///
/// # Errors
/// What SQLite says.
pub(crate) fn create(writer: &Connection, epoch: i64) -> Result<(), SqliteError> {
    // The reserved name is only accepted while the schema counts as writable.
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
    let created = writer.execute_batch(&format!(
        "BEGIN IMMEDIATE; {CREATE};
         INSERT INTO {STATE_TABLE} VALUES ('{ROW_FORMAT}', {FORMAT}), ('{ROW_EPOCH}', {epoch});
         COMMIT;"
    ));
    if created.is_err() && !writer.is_autocommit() {
        writer.execute_batch("ROLLBACK")?;
    }
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false)?;
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(created?)
}

/// The rows of the table as they were read.
struct Rows(Vec<(String, Row)>);

enum Row {
    Number(i64),
    Bytes(Vec<u8>),
    Other,
}

impl Rows {
    fn read(connection: &Connection) -> Result<Self, SqliteError> {
        let mut statement = connection.prepare("SELECT name, value FROM sqlite_rq_state")?;
        let rows = statement.query_map([], |row| {
            let value = match row.get_ref(1)? {
                Stored::Integer(number) => Row::Number(number),
                Stored::Blob(bytes) => Row::Bytes(bytes.to_vec()),
                _ => Row::Other,
            };
            Ok((row.get(0)?, value))
        })?;
        Ok(Self(rows.collect::<Result<_, _>>()?))
    }

    fn number(&self, name: &str) -> Result<Option<i64>, String> {
        match self.0.iter().find(|(found, _)| found == name) {
            None => Ok(None),
            Some((_, Row::Number(number))) => Ok(Some(*number)),
            Some(_) => Err(format!("{name} is not a number")),
        }
    }

    fn id(&self, term: &str, index: &str) -> Result<Option<EntryId>, String> {
        match (self.number(term)?, self.number(index)?) {
            (None, None) => Ok(None),
            (Some(term), Some(index)) => {
                Ok(Some(EntryId { term: term.cast_unsigned(), index: index.cast_unsigned() }))
            }
            _ => Err(format!("only one of {term} and {index} is there")),
        }
    }

    fn state(&self) -> Result<StoredState, String> {
        let bytes = self.0.iter().find(|(name, _)| name == ROW_MEMBERSHIP);
        let membership = match (self.id(ROW_MEMBERSHIP_TERM, ROW_MEMBERSHIP_INDEX)?, bytes) {
            (None, None) => None,
            (Some(id), Some((_, Row::Bytes(bytes)))) => Some((id, bytes.clone())),
            _ => return Err("the membership is incomplete".to_owned()),
        };
        let vacuum = self.id(ROW_VACUUM_TERM, ROW_VACUUM_INDEX)?;
        let pending_vacuum = match (vacuum, self.number(ROW_VACUUM_COOKIE)?) {
            (None, None) => None,
            (Some(id), Some(cookie)) => Some(PendingVacuum { id, cookie }),
            _ => return Err("the announced VACUUM is incomplete".to_owned()),
        };
        Ok(StoredState {
            applied: self.id(ROW_APPLIED_TERM, ROW_APPLIED_INDEX)?,
            membership,
            pending_vacuum,
        })
    }
}

/// The id of the last applied entry, read within the connection's running read transaction (or one
/// of its own).
///
/// # Errors
/// What SQLite says.
pub(crate) fn read_applied(connection: &Connection) -> Result<Option<EntryId>, SqliteError> {
    let rows = Rows::read(connection)?;
    let damaged = |message| SqliteError { code: rusqlite::ffi::SQLITE_CORRUPT, message };
    rows.id(ROW_APPLIED_TERM, ROW_APPLIED_INDEX).map_err(damaged)
}

/// All of the state, read within the connection's running read transaction.
///
/// # Errors
/// What SQLite says, also if the table is damaged.
pub(crate) fn read(connection: &Connection) -> Result<StoredState, SqliteError> {
    let damaged = |message| SqliteError { code: rusqlite::ffi::SQLITE_CORRUPT, message };
    Rows::read(connection)?.state().map_err(damaged)
}

/// Writes the state table on the writer connection, inside its running transaction.
///
/// Its statements are compiled once, when the authorizer is not yet installed, and stand outside of
/// the statement cache. A statement that SQLite compiles again (after a change of the schema) does
/// pass the authorizer, which must allow the engine's own steps.
#[derive(Debug)]
pub(crate) struct State {
    put: Prepared,
    delete: Prepared,
    cookie: Prepared,
    /// The term stored last by this writer; unknown after a transaction that was rolled back.
    stored_term: Option<u64>,
}

impl State {
    /// Compiles the statements. The table must exist.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn new(writer: &Connection) -> Result<Self, SqliteError> {
        Ok(Self {
            put: Prepared::internal(
                writer,
                &format!(
                    "INSERT INTO {STATE_TABLE} VALUES (?1, ?2) ON CONFLICT (name)
                     DO UPDATE SET value = excluded.value WHERE value IS NOT excluded.value"
                ),
            )?,
            delete: Prepared::internal(
                writer,
                &format!("DELETE FROM {STATE_TABLE} WHERE name = ?1"),
            )?,
            cookie: Prepared::internal(writer, "PRAGMA main.schema_version")?,
            stored_term: None,
        })
    }

    /// Records the entry that the running transaction completes.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn set_applied(&mut self, id: EntryId) -> Result<(), SqliteError> {
        self.put(ROW_APPLIED_INDEX, number(id.index))?;
        if self.stored_term != Some(id.term) {
            self.put(ROW_APPLIED_TERM, number(id.term))?;
            self.stored_term = Some(id.term);
        }
        Ok(())
    }

    /// Says that a transaction with a call of [`set_applied`](Self::set_applied) in it was rolled
    /// back.
    pub(crate) fn rolled_back(&mut self) {
        self.stored_term = None;
    }

    /// Records the membership and the entry it came with.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn set_membership(&mut self, id: EntryId, bytes: &[u8]) -> Result<(), SqliteError> {
        self.put(ROW_MEMBERSHIP, ValueRef::Blob(bytes))?;
        self.put(ROW_MEMBERSHIP_INDEX, number(id.index))?;
        self.put(ROW_MEMBERSHIP_TERM, number(id.term))
    }

    /// Announces a VACUUM, or forgets it.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn set_pending_vacuum(
        &mut self,
        pending: Option<PendingVacuum>,
    ) -> Result<(), SqliteError> {
        if let Some(PendingVacuum { id, cookie }) = pending {
            self.put(ROW_VACUUM_INDEX, number(id.index))?;
            self.put(ROW_VACUUM_TERM, number(id.term))?;
            return self.put(ROW_VACUUM_COOKIE, ValueRef::Integer(cookie));
        }
        for name in [ROW_VACUUM_INDEX, ROW_VACUUM_TERM, ROW_VACUUM_COOKIE] {
            run(&mut self.delete, &[ValueRef::Text(name.as_bytes())])?;
        }
        Ok(())
    }

    /// The schema cookie as the running transaction sees it.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn schema_cookie(&mut self) -> Result<i64, SqliteError> {
        self.cookie.step()?;
        let cookie = match self.cookie.value(0) {
            ValueRef::Integer(cookie) => cookie,
            _ => 0,
        };
        self.cookie.reset();
        Ok(cookie)
    }

    /// A row that is there already is overwritten in place, and one with the same value not touched:
    /// how a row comes to its value must not show in the page, because whether this is called at all
    /// may depend on when the database was opened.
    fn put(&mut self, name: &str, value: ValueRef<'_>) -> Result<(), SqliteError> {
        run(&mut self.put, &[ValueRef::Text(name.as_bytes()), value])
    }
}

/// As SQLite stores it: ids beyond 2^63 as negative numbers.
fn number(number: u64) -> ValueRef<'static> {
    ValueRef::Integer(number.cast_signed())
}

fn run(statement: &mut Prepared, values: &[ValueRef<'_>]) -> Result<(), SqliteError> {
    for (position, value) in values.iter().enumerate() {
        statement.bind(position + 1, *value)?;
    }
    let done = statement.step();
    statement.reset();
    done.map(drop)
}
