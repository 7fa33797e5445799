//! `json_patch` and `jsonb_patch`, in time proportional to their arguments.
//!
//! SQLite's own compare each label of the patch with all of the target, within one step of the virtual
//! machine that nothing interrupts: objects of a megabyte take minutes. Only the merge is ours. Arguments
//! are read and text is written by SQLite, on a connection without any database that is opened when it is
//! first needed, so results and errors are SQLite's to the byte, malformed JSONB included.

mod element;
mod merge;

use std::{
    ffi::{CStr, c_int, c_void},
    sync::{Arc, Mutex, PoisonError},
};

use element::Element;
use merge::{MergeError, merge};
use rq_sql::ValueRef;
use rusqlite::{Connection, ffi};

use super::{
    Scalar, define,
    text::{Arguments, argument, bytes, give},
};
use crate::{error::SqliteError, memory::Uncharged, prepared::Prepared, work};

/// As how many bytes of work a byte that is read or written counts: a merge does more with it than look.
const WORK_PER_BYTE: u64 = 16;

/// What marks a text as JSON among SQLite's functions.
const JSON_SUBTYPE: u32 = b'J' as u32;

/// Installs the functions on a connection of any kind.
///
/// # Errors
/// Whatever SQLite says.
pub(crate) fn install(connection: &Connection) -> Result<(), SqliteError> {
    let reader = Arc::new(Shared::default());
    let functions: [(&CStr, c_int, Scalar); 2] = [
        (c"json_patch", ffi::SQLITE_RESULT_SUBTYPE, patch_to_text),
        (c"jsonb_patch", 0, patch_to_jsonb),
    ];
    for (name, flags, function) in functions {
        let flags = flags | ffi::SQLITE_DETERMINISTIC;
        let data = Arc::into_raw(Arc::clone(&reader)).cast_mut().cast();
        define(connection, name, 2, flags, data, function, Some(forget))?;
    }
    Ok(())
}

/// SQLite's functions for JSON, on a connection of their own.
#[derive(Debug)]
struct JsonReader {
    // Dropped in this order: statements go before their connection.
    target: Prepared,
    patch: Prepared,
    text: Prepared,
    _connection: Connection,
}

/// What a connection's functions share; empty until the first call.
type Shared = Mutex<Option<JsonReader>>;

impl JsonReader {
    /// Opens the connection. Its limits are SQLite's, since JSONB may be longer than the text it was made
    /// of; results are measured by the connection that asked. It stays open, so it is not charged to the
    /// statement that happens to be the first.
    fn open() -> Result<Self, SqliteError> {
        let _uncharged = Uncharged::begin();
        let connection = Connection::open_in_memory()?;
        let to_jsonb = "SELECT jsonb(?1)";
        Ok(Self {
            target: Prepared::internal(&connection, to_jsonb)?,
            patch: Prepared::internal(&connection, to_jsonb)?,
            text: Prepared::internal(&connection, "SELECT json(?1)")?,
            _connection: connection,
        })
    }

    /// Merges two arguments into JSONB; `None` if one of them is NULL.
    fn merge(
        &mut self,
        target: ValueRef<'_>,
        patch: ValueRef<'_>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let Some(target) = jsonb(&mut self.target, target)? else { return Ok(None) };
        let Some(patch) = jsonb(&mut self.patch, patch)? else { return Ok(None) };
        let length = target.bytes().len() + patch.bytes().len();
        if !work::done(length as u64 * WORK_PER_BYTE) {
            return Err(Failure::Stopped);
        }
        let merged = merge(target, patch)?;
        if !work::done(merged.len() as u64 * WORK_PER_BYTE) {
            return Err(Failure::Stopped);
        }
        Ok(Some(merged))
    }

    /// Writes JSONB as text.
    fn text(&mut self, jsonb: &[u8]) -> Result<&[u8], Failure> {
        match ask(&mut self.text, ValueRef::Blob(jsonb))? {
            ValueRef::Text(text) => Ok(text),
            _ => Err(MergeError::Malformed.into()),
        }
    }

    /// Gives up the memory the last call took.
    fn clear(&mut self) {
        for statement in [&mut self.target, &mut self.patch, &mut self.text] {
            statement.reset();
            statement.clear_bindings();
        }
    }
}

/// An argument as JSONB; `None` if it is NULL.
fn jsonb<'a>(
    statement: &'a mut Prepared,
    value: ValueRef<'_>,
) -> Result<Option<Element<'a>>, Failure> {
    match ask(statement, value)? {
        ValueRef::Blob(jsonb) => Ok(Some(Element::first(jsonb).ok_or(MergeError::Malformed)?)),
        _ => Ok(None),
    }
}

fn ask<'a>(statement: &'a mut Prepared, value: ValueRef<'_>) -> Result<ValueRef<'a>, SqliteError> {
    statement.bind(1, value)?;
    statement.step()?;
    Ok(statement.value(0))
}

/// Why a call gives no result.
#[derive(Debug)]
enum Failure {
    Sqlite(SqliteError),
    Merge(MergeError),
    /// The statement must end.
    Stopped,
}

impl From<SqliteError> for Failure {
    fn from(error: SqliteError) -> Self {
        Self::Sqlite(error)
    }
}

impl From<MergeError> for Failure {
    fn from(error: MergeError) -> Self {
        Self::Merge(error)
    }
}

impl Failure {
    /// Makes it the outcome of a call.
    ///
    /// # Safety
    /// `context` is that of the running call.
    unsafe fn report(self, context: *mut ffi::sqlite3_context) {
        let message = match self {
            Self::Merge(MergeError::NoMemory) => {
                // SAFETY: the caller's promise.
                return unsafe { ffi::sqlite3_result_error_nomem(context) };
            }
            // SAFETY: the caller's promise.
            Self::Stopped => return unsafe { work::stop(context) },
            Self::Sqlite(SqliteError { code, message }) => {
                // SAFETY: as above.
                unsafe { give_error(context, &message) };
                // SAFETY: as above. It leaves the message.
                return unsafe { ffi::sqlite3_result_error_code(context, code) };
            }
            Self::Merge(MergeError::Malformed) => "malformed JSON",
            Self::Merge(MergeError::TooDeep) => "JSON nested too deep",
        };
        // SAFETY: as above.
        unsafe { give_error(context, message) };
    }
}

/// # Safety
/// `context` is that of the running call.
unsafe fn give_error(context: *mut ffi::sqlite3_context, message: &str) {
    let length = c_int::try_from(message.len()).unwrap_or(c_int::MAX);
    // SAFETY: SQLite copies `length` bytes before it returns.
    unsafe { ffi::sqlite3_result_error(context, message.as_ptr().cast(), length) };
}

unsafe extern "C" fn forget(data: *mut c_void) {
    // SAFETY: made by `Arc::into_raw`; SQLite calls this once, when the function is gone.
    drop(unsafe { Arc::from_raw(data.cast::<Shared>()) });
}

unsafe extern "C" fn patch_to_text(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: Arguments,
) {
    // SAFETY: defined with two arguments and a `Shared`.
    unsafe { patch(context, arguments, true) };
}

unsafe extern "C" fn patch_to_jsonb(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: Arguments,
) {
    // SAFETY: defined with two arguments and a `Shared`.
    unsafe { patch(context, arguments, false) };
}

/// # Safety
/// Called by SQLite with two arguments, for a function defined with a [`Shared`].
unsafe fn patch(context: *mut ffi::sqlite3_context, arguments: Arguments, as_text: bool) {
    // SAFETY: SQLite passes the context of the running call.
    let shared = unsafe { ffi::sqlite3_user_data(context) };
    // SAFETY: the caller's promise; the connection keeps the data while the function is defined.
    let shared = unsafe { &*shared.cast::<Shared>() };
    // A poisoned lock only says that a call panicked; each begins by binding what it needs.
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let reader = match &mut *shared {
        Some(reader) => reader,
        closed => match JsonReader::open() {
            Ok(reader) => closed.insert(reader),
            // SAFETY: as above.
            Err(error) => return unsafe { Failure::Sqlite(error).report(context) },
        },
    };
    let values = [0, 1].map(|index| {
        // SAFETY: defined with two arguments.
        let value = unsafe { argument(arguments, index) };
        // SAFETY: arguments are valid during the call.
        unsafe { value_of(value) }
    });
    match reader.merge(values[0], values[1]) {
        Ok(None) => {}
        Ok(Some(merged)) if as_text => match reader.text(&merged) {
            Ok(text) => {
                // SAFETY: the context of the running call.
                unsafe { give(context, text) };
                // SAFETY: as above.
                unsafe { ffi::sqlite3_result_subtype(context, JSON_SUBTYPE) };
            }
            // SAFETY: as above.
            Err(failure) => unsafe { failure.report(context) },
        },
        Ok(Some(merged)) => {
            let (start, length) = (merged.as_ptr().cast(), merged.len() as u64);
            let destructor = ffi::SQLITE_TRANSIENT();
            // SAFETY: SQLite copies `length` bytes before it returns.
            unsafe { ffi::sqlite3_result_blob64(context, start, length, destructor) };
        }
        // SAFETY: the context of the running call.
        Err(failure) => unsafe { failure.report(context) },
    }
    reader.clear();
}

/// # Safety
/// `value` is an argument of the running call, which is not over while the result is used.
unsafe fn value_of<'a>(value: *mut ffi::sqlite3_value) -> ValueRef<'a> {
    // SAFETY: the caller's promise.
    match unsafe { ffi::sqlite3_value_type(value) } {
        // SAFETY: as above.
        ffi::SQLITE_INTEGER => ValueRef::Integer(unsafe { ffi::sqlite3_value_int64(value) }),
        // SAFETY: as above.
        ffi::SQLITE_FLOAT => ValueRef::Real(unsafe { ffi::sqlite3_value_double(value) }),
        // SAFETY: as above.
        ffi::SQLITE_TEXT => unsafe { bytes(value, false) }.map_or(ValueRef::Null, ValueRef::Text),
        // SAFETY: as above.
        ffi::SQLITE_BLOB => unsafe { bytes(value, true) }.map_or(ValueRef::Null, ValueRef::Blob),
        _ => ValueRef::Null,
    }
}

#[cfg(test)]
mod tests;
