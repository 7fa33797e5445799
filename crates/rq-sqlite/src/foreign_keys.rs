//! Whether deferred foreign keys are violated right now, which only SQLite's C interface tells.

#![expect(unsafe_code, reason = "sqlite3_db_status, which rusqlite does not wrap")]

use std::ffi::c_int;

use rusqlite::{Connection, ffi};

/// Whether the running transaction could not be committed as it is, because a deferred foreign key
/// is violated. Releasing a savepoint does not check this.
pub(crate) fn has_deferred_violations(connection: &Connection) -> bool {
    let (mut current, mut highest): (c_int, c_int) = (0, 0);
    // SAFETY: the handle is used for the next call alone while the connection is borrowed.
    let database = unsafe { connection.handle() };
    // SAFETY: the connection is alive and used by this thread; both results are places of ours.
    let code = unsafe {
        ffi::sqlite3_db_status(
            database,
            ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
            &raw mut current,
            &raw mut highest,
            0,
        )
    };
    debug_assert_eq!(code, ffi::SQLITE_OK, "the status is known to every supported SQLite");
    current != 0
}
