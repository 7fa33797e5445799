//! SQL functions that replace SQLite's own, because those would differ between nodes or never end.
//!
//! On the writer: randomness from the entry, counters that start at 0 with each request. On writer and
//! readers: the maths functions ([`maths`]), `LIKE` and `GLOB` ([`like`]), what shows what a full-text
//! search found ([`fts5`]). On all connections: searching and trimming text ([`text`]), merging JSON
//! ([`json_patch`]). It must never read a clock, or let any randomness of this node decide.

#![expect(unsafe_code, reason = "setters and counters of a connection that rusqlite does not wrap")]

mod fts5;
mod json_patch;
mod like;
mod maths;
mod reserved;
mod text;

use std::{
    ffi::{CStr, c_int, c_void},
    ptr, slice,
    sync::Arc,
};

use rusqlite::{Connection, ffi};

pub(crate) use fts5::install as install_fts5;
pub(crate) use json_patch::install as install_json_patch;
pub(crate) use like::{install as install_like, reinstall as reinstall_like};
pub(crate) use maths::install as install_maths;
pub(crate) use text::install as install_text;

use crate::{ambient::Ambient, connection::LONGEST_VALUE, error::SqliteError, prepared::Prepared};

/// Functions of SQLite that no statement on the writer may call, and why. The writer's authorizer
/// refuses them by name (compare without regard to case).
///
/// The rest of SQLite's functions are safe: they compute from their arguments alone, or are replaced
/// here, or take their time from the VFS. (`printf('%p')` prints a number, not an address.)
pub(crate) const DENIED_FUNCTIONS: &[(&str, &str)] = &[
    ("fts3_tokenizer", "reads and writes pointers of this process"),
    ("fts5_locale", "its value begins with random bytes of this process"),
    ("fts5_source_id", "nodes of one engine epoch may run different versions of SQLite"),
    ("load_extension", "loads code of this node"),
    ("sqlite_compileoption_get", "describes this node's program"),
    ("sqlite_compileoption_used", "describes this node's program"),
    ("sqlite_log", "writes to the log of this node"),
    ("sqlite_offset", "tells where on disk a value stands"),
    ("sqlite_source_id", "nodes of one engine epoch may run different versions of SQLite"),
    ("sqlite_version", "nodes of one engine epoch may run different versions of SQLite"),
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

/// A C implementation of a scalar function.
type Scalar = unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);

/// Installs the functions of the writer: randomness, counters and the maths functions.
///
/// # Errors
/// Whatever SQLite says.
pub(crate) fn install_on_writer(
    writer: &Connection,
    ambient: &Arc<Ambient>,
) -> Result<(), SqliteError> {
    let functions: [(&CStr, c_int, Scalar); 4] = [
        (c"random", 0, random),
        (c"randomblob", 1, random_blob),
        (c"changes", 0, changes),
        (c"total_changes", 0, total_changes),
    ];
    for (name, arguments, function) in functions {
        let world = Arc::into_raw(Arc::clone(ambient)).cast_mut().cast();
        define(writer, name, arguments, 0, world, function, Some(forget_ambient))?;
    }
    install_maths(writer)
}

/// Defines a scalar function. All are INNOCUOUS: usable in DEFAULTs, triggers and views although
/// the schema is not trusted, as the built-in ones are.
fn define(
    connection: &Connection,
    name: &CStr,
    arguments: c_int,
    flags: c_int,
    data: *mut c_void,
    function: Scalar,
    destroy: Option<unsafe extern "C" fn(*mut c_void)>,
) -> Result<(), SqliteError> {
    let flags = flags | ffi::SQLITE_UTF8 | ffi::SQLITE_INNOCUOUS;
    // SAFETY: the handle is used for the next call alone while the connection is borrowed.
    let database = unsafe { connection.handle() };
    let name = name.as_ptr();
    // SAFETY: `function` reads `data` as what it was made from; SQLite calls `destroy` in any case.
    let code = unsafe {
        ffi::sqlite3_create_function_v2(
            database,
            name,
            arguments,
            flags,
            data,
            Some(function),
            None,
            None,
            destroy,
        )
    };
    if code == ffi::SQLITE_OK {
        return Ok(());
    }
    Err(SqliteError { code, message: "defining an SQL function failed".to_owned() })
}

/// The world a function was defined with.
///
/// # Safety
/// The function was defined with an `Arc<Ambient>` as its data.
unsafe fn ambient_of<'a>(context: *mut ffi::sqlite3_context) -> &'a Ambient {
    // SAFETY: SQLite passes the context of the running call.
    let data = unsafe { ffi::sqlite3_user_data(context) };
    // SAFETY: the caller's promise; the connection keeps the data while the function is defined.
    unsafe { &*data.cast::<Ambient>() }
}

unsafe extern "C" fn forget_ambient(data: *mut c_void) {
    // SAFETY: made by `Arc::into_raw`; SQLite calls this once, when the function is gone.
    drop(unsafe { Arc::from_raw(data.cast::<Ambient>()) });
}

unsafe extern "C" fn random(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    _: *mut *mut ffi::sqlite3_value,
) {
    let mut bytes = [0; 8];
    // SAFETY: defined with an `Ambient`.
    unsafe { ambient_of(context) }.fill(&mut bytes);
    let number = without_minimum(i64::from_le_bytes(bytes));
    // SAFETY: SQLite passes the context of the running call.
    unsafe { ffi::sqlite3_result_int64(context, number) };
}

/// As SQLite's own `random()`: never the smallest integer, whose `abs()` overflows.
fn without_minimum(number: i64) -> i64 {
    if number < 0 { (number & i64::MAX).wrapping_neg() } else { number }
}

unsafe extern "C" fn random_blob(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: defined with one argument.
    let argument = unsafe { *arguments };
    // SAFETY: the argument is valid during the call; NULL and text read as SQLite reads them.
    let length = unsafe { ffi::sqlite3_value_int64(argument) }.max(1);
    if length > i64::from(LONGEST_VALUE) {
        // SAFETY: SQLite passes the context of the running call.
        unsafe { ffi::sqlite3_result_error_toobig(context) };
        return;
    }
    let length = length.unsigned_abs();
    // SAFETY: any size may be asked for.
    let memory = unsafe { ffi::sqlite3_malloc64(length) };
    if memory.is_null() {
        // SAFETY: SQLite passes the context of the running call.
        unsafe { ffi::sqlite3_result_error_nomem(context) };
        return;
    }
    let count = usize::try_from(length).expect("at most the longest value");
    // SAFETY: just allocated, and bytes need no alignment.
    unsafe { ptr::write_bytes(memory.cast::<u8>(), 0, count) };
    // SAFETY: as above, and initialised.
    let bytes = unsafe { slice::from_raw_parts_mut(memory.cast::<u8>(), count) };
    // SAFETY: defined with an `Ambient`.
    unsafe { ambient_of(context) }.fill(bytes);
    // SAFETY: SQLite takes the memory over and frees it.
    unsafe { ffi::sqlite3_result_blob64(context, memory, length, Some(ffi::sqlite3_free)) };
}

unsafe extern "C" fn changes(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    _: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite passes the context of the running call.
    let database = unsafe { ffi::sqlite3_context_db_handle(context) };
    // SAFETY: the connection that runs the call.
    let count = unsafe { ffi::sqlite3_changes64(database) };
    // SAFETY: as above.
    unsafe { ffi::sqlite3_result_int64(context, count) };
}

unsafe extern "C" fn total_changes(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    _: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite passes the context of the running call.
    let database = unsafe { ffi::sqlite3_context_db_handle(context) };
    // SAFETY: the connection that runs the call.
    let total = unsafe { ffi::sqlite3_total_changes64(database) };
    // SAFETY: defined with an `Ambient`.
    let before = unsafe { ambient_of(context) }.total_changes_before();
    // SAFETY: as above.
    unsafe { ffi::sqlite3_result_int64(context, total.saturating_sub(before)) };
}

#[cfg(test)]
mod tests;
