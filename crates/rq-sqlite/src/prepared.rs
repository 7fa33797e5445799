//! A compiled statement, and the cache of them that readers use. (The writer's, in `statements`, obeys
//! stricter rules; see there.)
//!
//! A thin, safe wrapper of `sqlite3_stmt` for what the engine needs and `rusqlite` does not offer
//! together: the tail of a multi-statement string, values without copies, column descriptions that
//! are kept with the statement, and statements stored beside their connection.
//!
//! Invariant of this crate: a [`Prepared`] lives in the same value as the connection that compiled
//! it, so both are always used by one thread at a time, and it is dropped first. (Dropped later it
//! would keep the connection open: `sqlite3_close` refuses while statements exist, so nothing
//! dangles.)

#![expect(unsafe_code, reason = "wraps sqlite3_stmt, see the module's documentation")]

use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_int, c_void},
    fmt, ptr,
    ptr::NonNull,
    slice,
};

use rq_sql::{Column, ValueRef};
use rusqlite::{Connection, ffi};

use crate::{error::SqliteError, memory, sql_text::SqlText};

/// SQL texts longer than this are compiled anew each time, so that a cache cannot hold much memory.
const LONGEST_CACHED_TEXT: usize = 16 * 1024;

/// A statement for which more than this many bytes were allocated is compiled anew each time, for the
/// same reason.
const MOST_CACHED_MEMORY: u64 = 1 << 20;

/// A function of SQLite that tells a text about a column.
type ColumnText = unsafe extern "C" fn(*mut ffi::sqlite3_stmt, c_int) -> *const c_char;

/// A compiled statement.
pub(crate) struct Prepared {
    statement: NonNull<ffi::sqlite3_stmt>,
    /// Slots for parameters; fixed by the text.
    parameters: usize,
    /// The slots by their names; made when first asked for.
    names: Option<HashMap<Box<[u8]>, usize>>,
    /// The columns as they were when the statement had been recompiled `described` times.
    columns: Vec<Column>,
    described: Option<c_int>,
}

// SAFETY: SQLite's objects are not bound to a thread, only to one thread at a time; a `Prepared`
// stays beside its connection (the module's invariant), so both move together.
unsafe impl Send for Prepared {}

/// The first statement of a text, compiled, and where the text goes on.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// The whole text it was compiled from, if it may be cached.
    text: Option<Box<str>>,
    /// Whether it takes so much memory that it must not be cached.
    pub(crate) is_heavy: bool,
    /// The statement; `None` if the text begins with nothing but blanks and comments up to `tail`.
    pub(crate) statement: Option<Prepared>,
    /// The offset in bytes behind the statement.
    pub(crate) tail: usize,
}

impl Compiled {
    /// Compiles the first statement of what is left of `text`, and moves nothing. What that takes is charged
    /// to the thread's [`Account`](memory::Account).
    ///
    /// # Errors
    /// Whatever SQLite says to the text; a NUL byte in it.
    pub(crate) fn new(
        connection: &Connection,
        text: &mut SqlText<'_>,
    ) -> Result<Self, SqliteError> {
        let rest = text.rest();
        let cacheable = rest.len() <= LONGEST_CACHED_TEXT;
        let charged = memory::charged();
        let (statement, tail) = Prepared::new(connection, text)?;
        let is_heavy = memory::charged().saturating_sub(charged) > MOST_CACHED_MEMORY;
        let text = (cacheable && !is_heavy).then(|| rest.into());
        Ok(Self { text, is_heavy, statement, tail })
    }
}

impl Prepared {
    /// Compiles the first statement of what is left of `text` and returns the offset of what follows it.
    fn new(
        connection: &Connection,
        text: &mut SqlText<'_>,
    ) -> Result<(Option<Self>, usize), SqliteError> {
        let sql = text.terminated()?;
        debug_assert_eq!(sql.last(), Some(&0), "SQLite copies what does not end in a NUL byte");
        let Ok(length) = c_int::try_from(sql.len()) else {
            let message = "statement too long".to_owned();
            return Err(SqliteError { code: ffi::SQLITE_TOOBIG, message });
        };
        // Then all memory comes from the allocator, which counts it, and none from what the connection keeps
        // for small things (lookaside): how much of that is free depends on what it did before.
        let flags = ffi::SQLITE_PREPARE_PERSISTENT;
        // SAFETY: the handle is used for this call alone while the connection is borrowed.
        let database = unsafe { connection.handle() };
        let mut statement = ptr::null_mut();
        let mut tail = ptr::null();
        let start = sql.as_ptr().cast::<c_char>();
        // SAFETY: `start` is valid for `length` bytes, both results are written before the return.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(
                database,
                start,
                length,
                flags,
                &raw mut statement,
                &raw mut tail,
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(error_of(database, code));
        }
        // An end within the text always lies behind a whole token, hence at a character boundary.
        let tail = (tail as usize).saturating_sub(start as usize).min(sql.len() - 1);
        let Some(statement) = NonNull::new(statement) else { return Ok((None, tail)) };
        // SAFETY: the statement was just made.
        let parameters = unsafe { ffi::sqlite3_bind_parameter_count(statement.as_ptr()) };
        let parameters = usize::try_from(parameters).unwrap_or_default();
        let names = None;
        Ok((
            Some(Self { statement, parameters, names, columns: Vec::new(), described: None }),
            tail,
        ))
    }

    /// Compiles a text that is known to be exactly one statement, kept for the connection's life.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub(crate) fn internal(connection: &Connection, sql: &str) -> Result<Self, SqliteError> {
        let (statement, _) = Self::new(connection, &mut SqlText::new(sql))?;
        statement.ok_or_else(|| SqliteError {
            code: ffi::SQLITE_MISUSE,
            message: format!("not a statement: {sql}"),
        })
    }

    /// How many parameter slots the statement has: the highest index in it.
    pub(crate) fn parameter_count(&self) -> usize {
        self.parameters
    }

    /// The slot of the parameter written as `name` (with its prefix character), counted from 1.
    pub(crate) fn parameter_index(&mut self, name: &str) -> Option<usize> {
        if self.names.is_none() {
            self.names = Some(self.parameter_names());
        }
        self.names.as_ref()?.get(name.as_bytes()).copied()
    }

    /// All names at once: SQLite looks through all of them for each that it is asked for.
    fn parameter_names(&self) -> HashMap<Box<[u8]>, usize> {
        let name = |slot: usize| {
            let index = c_int::try_from(slot).ok()?;
            // SAFETY: the statement is alive; a slot without a name is answered with null.
            let name = unsafe { ffi::sqlite3_bind_parameter_name(self.raw(), index) };
            // SAFETY: the name lives as long as the statement and ends with a NUL byte.
            let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })?;
            Some((name.to_bytes().into(), slot))
        };
        (1..=self.parameters).filter_map(name).collect()
    }

    /// Binds a value (copied) to a slot, counted from 1. The statement must not be running.
    ///
    /// # Errors
    /// No such slot; a text or blob longer than SQLite's limit.
    pub(crate) fn bind(&mut self, index: usize, value: ValueRef<'_>) -> Result<(), SqliteError> {
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        let statement = self.raw();
        let code = match value {
            // SAFETY: the statement is alive; SQLite checks the index.
            ValueRef::Null => unsafe { ffi::sqlite3_bind_null(statement, index) },
            // SAFETY: as above.
            ValueRef::Integer(integer) => unsafe {
                ffi::sqlite3_bind_int64(statement, index, integer)
            },
            // SAFETY: as above.
            ValueRef::Real(real) => unsafe { ffi::sqlite3_bind_double(statement, index, real) },
            ValueRef::Text(text) => bind_text(statement, index, text),
            // SAFETY: as above. An empty slice's pointer would be bound as NULL or is dangling.
            ValueRef::Blob([]) => unsafe { ffi::sqlite3_bind_zeroblob(statement, index, 0) },
            ValueRef::Blob(blob) => bind_blob(statement, index, blob),
        };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.error(code)) }
    }

    /// Makes all slots NULL.
    pub(crate) fn clear_bindings(&mut self) {
        // SAFETY: the statement is alive. The call cannot fail.
        unsafe { ffi::sqlite3_clear_bindings(self.raw()) };
    }

    /// Runs to the next row (`true`) or to the end (`false`).
    ///
    /// # Errors
    /// The failure of the statement, which is then over.
    pub(crate) fn step(&mut self) -> Result<bool, SqliteError> {
        // SAFETY: the statement is alive and its connection is used by this thread.
        match unsafe { ffi::sqlite3_step(self.raw()) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            code => Err(self.error(code)),
        }
    }

    /// Ends the run, if one is going on. (The return code only repeats the error of the last step.)
    pub(crate) fn reset(&mut self) {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_reset(self.raw()) };
    }

    /// How many columns the statement yields; 0 for one that yields none.
    pub(crate) fn column_count(&self) -> usize {
        // SAFETY: the statement is alive.
        usize::try_from(unsafe { ffi::sqlite3_column_count(self.raw()) }).unwrap_or_default()
    }

    /// Describes the columns. After a change of the schema the first step recompiles the statement,
    /// so ask after it.
    pub(crate) fn columns(&mut self) -> &[Column] {
        let recompiled = self.status(ffi::SQLITE_STMTSTATUS_REPREPARE, false);
        if self.described != Some(recompiled) {
            self.columns = (0..self.column_count()).map(|index| self.describe(index)).collect();
            self.described = Some(recompiled);
        }
        &self.columns
    }

    /// The value of a column of the current row.
    pub(crate) fn value(&self, column: usize) -> ValueRef<'_> {
        let column = c_int::try_from(column).unwrap_or(c_int::MAX);
        let statement = self.raw();
        // SAFETY: the statement is alive; out of range or without a row SQLite answers NULL.
        match unsafe { ffi::sqlite3_column_type(statement, column) } {
            ffi::SQLITE_INTEGER => {
                // SAFETY: as above.
                let integer = unsafe { ffi::sqlite3_column_int64(statement, column) };
                ValueRef::Integer(integer)
            }
            ffi::SQLITE_FLOAT => {
                // SAFETY: as above.
                let real = unsafe { ffi::sqlite3_column_double(statement, column) };
                ValueRef::Real(real)
            }
            ffi::SQLITE_TEXT => {
                // SAFETY: as above.
                let text = unsafe { ffi::sqlite3_column_text(statement, column) };
                ValueRef::Text(self.bytes(text.cast(), column))
            }
            ffi::SQLITE_BLOB => {
                // SAFETY: as above.
                let blob = unsafe { ffi::sqlite3_column_blob(statement, column) };
                ValueRef::Blob(self.bytes(blob, column))
            }
            _ => ValueRef::Null,
        }
    }

    /// Reads so many columns of the current row, for what it does to them: SQLite fills a blob of zeros, for
    /// instance, when it is first asked for.
    pub(crate) fn read_row(&self, columns: usize) {
        for column in 0..columns {
            self.value(column);
        }
    }

    /// Whether SQLite says that the statement does not change the database file by itself.
    pub(crate) fn is_read_only(&self) -> bool {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_readonly(self.raw()) != 0 }
    }

    /// Whether the statement is EXPLAIN or EXPLAIN QUERY PLAN.
    pub(crate) fn is_explain(&self) -> bool {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_isexplain(self.raw()) != 0 }
    }

    /// Sets the counter of VM steps to 0. A progress handler counts from it, so a budget is only
    /// exact if this is called before the statement runs.
    pub(crate) fn reset_steps(&mut self) {
        self.status(ffi::SQLITE_STMTSTATUS_VM_STEP, true);
    }

    /// How many VM steps were taken since [`reset_steps`](Self::reset_steps), modulo 2³².
    pub(crate) fn steps(&self) -> u64 {
        u64::from(self.status(ffi::SQLITE_STMTSTATUS_VM_STEP, false).cast_unsigned())
    }

    fn status(&self, counter: c_int, reset: bool) -> c_int {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_status(self.raw(), counter, c_int::from(reset)) }
    }

    fn describe(&self, index: usize) -> Column {
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        let statement = self.raw();
        let text = |call: ColumnText| {
            // SAFETY: the statement is alive; out of range SQLite answers null.
            let text = unsafe { call(statement, index) };
            // SAFETY: the string lives until the statement is recompiled or finalized.
            unsafe { owned(text) }
        };
        let name = text(ffi::sqlite3_column_name);
        let declared_type = text(ffi::sqlite3_column_decltype);
        let table = text(ffi::sqlite3_column_table_name);
        Column { name: name.unwrap_or_default(), declared_type, table }
    }

    /// The bytes behind a pointer SQLite gave for a column, valid until the statement goes on.
    fn bytes(&self, start: *const c_void, column: c_int) -> &[u8] {
        // SAFETY: the statement is alive; asked after the pointer, as SQLite demands.
        let length = unsafe { ffi::sqlite3_column_bytes(self.raw(), column) };
        let length = usize::try_from(length).unwrap_or_default();
        if start.is_null() || length == 0 {
            return &[];
        }
        // SAFETY: SQLite says that `length` bytes stand there; the borrow of `self` keeps anybody
        // from stepping or resetting the statement meanwhile.
        unsafe { slice::from_raw_parts(start.cast(), length) }
    }

    fn error(&self, code: c_int) -> SqliteError {
        // SAFETY: the statement is alive.
        let database = unsafe { ffi::sqlite3_db_handle(self.raw()) };
        error_of(database, code)
    }

    fn raw(&self) -> *mut ffi::sqlite3_stmt {
        self.statement.as_ptr()
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // SAFETY: the statement is alive and not used after this.
        unsafe { ffi::sqlite3_finalize(self.raw()) };
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("parameters", &self.parameters).finish_non_exhaustive()
    }
}

fn bind_text(statement: *mut ffi::sqlite3_stmt, index: c_int, text: &[u8]) -> c_int {
    let (start, length) = (text.as_ptr().cast(), text.len() as u64);
    // SAFETY: SQLite copies `length` bytes before it returns; a slice's pointer is never null.
    unsafe {
        ffi::sqlite3_bind_text64(
            statement,
            index,
            start,
            length,
            ffi::SQLITE_TRANSIENT(),
            TEXT_ENCODING,
        )
    }
}

/// `SQLITE_UTF8` in the type the call wants.
#[expect(clippy::cast_possible_truncation, reason = "the constant is 1")]
const TEXT_ENCODING: u8 = ffi::SQLITE_UTF8 as u8;

fn bind_blob(statement: *mut ffi::sqlite3_stmt, index: c_int, blob: &[u8]) -> c_int {
    let (start, length) = (blob.as_ptr().cast(), blob.len() as u64);
    // SAFETY: SQLite copies `length` bytes before it returns.
    unsafe { ffi::sqlite3_bind_blob64(statement, index, start, length, ffi::SQLITE_TRANSIENT()) }
}

/// Copies a string SQLite owns.
///
/// # Safety
/// `text` is null or ends with a NUL byte and stays valid during the call.
unsafe fn owned(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

/// The error a connection has just reported.
fn error_of(database: *mut ffi::sqlite3, code: c_int) -> SqliteError {
    // SAFETY: the handle is alive; it may be null, SQLite then answers "out of memory".
    let message = unsafe { ffi::sqlite3_errmsg(database) };
    // SAFETY: the message ends with a NUL byte and is valid until the next call on the connection.
    let message = unsafe { owned(message) }.unwrap_or_default();
    // SAFETY: as above.
    let extended = unsafe { ffi::sqlite3_extended_errcode(database) };
    let code = if extended & 0xff == code & 0xff { extended } else { code };
    SqliteError { code, message }
}

/// Compiled statements of one connection by their text; the least recently used makes room.
pub(crate) struct StatementCache {
    kept: HashMap<Box<str>, Kept>,
    capacity: usize,
    uses: u64,
}

struct Kept {
    statement: Option<Prepared>,
    tail: usize,
    last_use: u64,
}

impl StatementCache {
    /// An empty cache that keeps at most `capacity` statements.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { kept: HashMap::new(), capacity, uses: 0 }
    }

    /// Takes the first statement of what is left of `text` out of the cache, or compiles it. Give it back with
    /// [`put`](Self::put) to have it cached.
    ///
    /// # Errors
    /// As [`Compiled::new`].
    pub(crate) fn take(
        &mut self,
        connection: &Connection,
        text: &mut SqlText<'_>,
    ) -> Result<Compiled, SqliteError> {
        // What cannot be there is not looked for: that would take time for all that is left.
        let known = Some(text.rest()).filter(|rest| rest.len() <= LONGEST_CACHED_TEXT);
        match known.and_then(|rest| self.kept.remove_entry(rest)) {
            Some((text, Kept { statement, tail, .. })) => {
                Ok(Compiled { text: Some(text), is_heavy: false, statement, tail })
            }
            None => Compiled::new(connection, text),
        }
    }

    /// Takes a statement back after use: it is reset and its bindings are dropped.
    pub(crate) fn put(&mut self, compiled: Compiled) {
        let Compiled { text: Some(text), mut statement, tail, .. } = compiled else { return };
        if let Some(statement) = &mut statement {
            statement.reset();
            statement.clear_bindings();
        }
        if self.kept.len() >= self.capacity {
            self.forget_oldest();
        }
        self.uses += 1;
        self.kept.insert(text, Kept { statement, tail, last_use: self.uses });
    }

    /// A scan of a few dozen entries, only when a new text arrives at a full cache.
    fn forget_oldest(&mut self) {
        let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.last_use);
        if let Some(text) = oldest.map(|(text, _)| text.clone()) {
            self.kept.remove(&text);
        }
    }
}

impl fmt::Debug for StatementCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatementCache").field("kept", &self.kept.len()).finish_non_exhaustive()
    }
}
