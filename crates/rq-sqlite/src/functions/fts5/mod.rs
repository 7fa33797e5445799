//! `snippet` and `highlight` of FTS5, in time proportional to the row and the matches in it.
//!
//! SQLite's `snippet` looks through all matches of the row for each of them, and `highlight` copies its
//! result for each match, within one step of the virtual machine that nothing interrupts: a row of some
//! megabytes takes hours. Results are SQLite's to the byte. Only a result beyond the longest value, and an
//! index that is damaged, may be reported as another error.

#![expect(unsafe_code, reason = "registers functions with FTS5 and is called by it")]

mod marked;
mod row;
mod snippet;

use std::{
    ffi::{CStr, c_int, c_void},
    ptr,
};

use marked::{Marker, Marks, Output, Range, spans};
use row::{Code, Row};
use rusqlite::{Connection, ffi};

use super::{
    reserved::Reserved,
    text::{Arguments, argument, bytes, give},
};
use crate::{error::SqliteError, work};

/// The first version of FTS5's interface that defines functions as is done here.
const OLDEST_VERSION: c_int = 2;

/// The most tokens of a snippet.
const MOST_TOKENS: i64 = 64;

/// An auxiliary function, as FTS5 calls it.
type Auxiliary = unsafe extern "C" fn(
    *const ffi::Fts5ExtensionApi,
    *mut ffi::Fts5Context,
    *mut ffi::sqlite3_context,
    c_int,
    Arguments,
);

/// Installs the functions on a connection that clients' statements run on. It reads the schema, as it is
/// read by the first statement in any case: settings that must come before that must have been made.
///
/// # Errors
/// Whatever SQLite says.
pub(crate) fn install(connection: &Connection) -> Result<(), SqliteError> {
    let refuse = |code| SqliteError { code, message: "FTS5 gives no access to it".to_owned() };
    let fts5 = interface(connection).map_err(refuse)?;
    // SAFETY: FTS5's interface lives as long as the connection.
    let version = unsafe { (*fts5).iVersion };
    // SAFETY: as above.
    let define = unsafe { (*fts5).xCreateFunction };
    let Some(define) = define.filter(|_| version >= OLDEST_VERSION) else {
        return Err(refuse(ffi::SQLITE_MISUSE));
    };
    let functions: [(&CStr, Auxiliary); 2] = [(c"snippet", snippet), (c"highlight", highlight)];
    for (name, function) in functions {
        let name = name.as_ptr();
        // SAFETY: the function needs no data. Of two functions of one name FTS5 takes the later.
        let code = unsafe { define(fts5, name, ptr::null_mut(), Some(function), None) };
        if code != ffi::SQLITE_OK {
            return Err(refuse(code));
        }
    }
    Ok(())
}

/// FTS5's interface, which an SQL function writes where a pointer says.
fn interface(connection: &Connection) -> Result<*mut ffi::fts5_api, Code> {
    // SAFETY: the handle is used for this function alone while the connection is borrowed.
    let database = unsafe { connection.handle() };
    let (sql, mut statement) = (c"SELECT fts5(?1)".as_ptr(), ptr::null_mut());
    // SAFETY: the text ends with a NUL byte, the statement is written before the return.
    let mut code =
        unsafe { ffi::sqlite3_prepare_v2(database, sql, -1, &raw mut statement, ptr::null_mut()) };
    let mut interface: *mut ffi::fts5_api = ptr::null_mut();
    if code == ffi::SQLITE_OK {
        let place: *mut c_void = (&raw mut interface).cast();
        // SAFETY: the kind is a constant; the place lives until the statement is finalized.
        code = unsafe {
            ffi::sqlite3_bind_pointer(statement, 1, place, c"fts5_api_ptr".as_ptr(), None)
        };
    }
    if code == ffi::SQLITE_OK {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_step(statement) };
    }
    // SAFETY: the statement is alive or null, and not used after this.
    code = unsafe { ffi::sqlite3_finalize(statement) }.max(code);
    match code {
        ffi::SQLITE_OK if interface.is_null() => Err(ffi::SQLITE_MISUSE),
        ffi::SQLITE_OK => Ok(interface),
        code => Err(code),
    }
}

unsafe extern "C" fn snippet(
    api: *const ffi::Fts5ExtensionApi,
    row: *mut ffi::Fts5Context,
    context: *mut ffi::sqlite3_context,
    count: c_int,
    arguments: Arguments,
) {
    if count != 5 {
        let message = c"wrong number of arguments to function snippet()";
        // SAFETY: SQLite passes the context of the running call.
        return unsafe { refuse_count(context, message) };
    }
    // SAFETY: FTS5 passes what it is called for, and there are five arguments.
    let result = unsafe { snippet_of(api, row, arguments) };
    // SAFETY: SQLite passes the context of the running call.
    unsafe { report(context, result) };
}

/// # Safety
/// Called by FTS5 with five arguments.
unsafe fn snippet_of(
    api: *const ffi::Fts5ExtensionApi,
    row: *mut ffi::Fts5Context,
    arguments: Arguments,
) -> Result<Option<Vec<u8>>, Code> {
    // SAFETY: the caller's promise.
    let row = unsafe { Row::new(api, row) }?;
    // SAFETY: as above.
    let column = unsafe { column_number(arguments) };
    // SAFETY: as above.
    let [open, close, ellipsis] = [1, 2, 3].map(|index| unsafe { text_of(arguments, index) });
    // SAFETY: as above.
    let tokens = unsafe { argument(arguments, 4) };
    // SAFETY: arguments are valid during the call.
    let tokens = unsafe { ffi::sqlite3_value_int64(tokens) }.clamp(0, MOST_TOKENS);
    let tokens = c_int::try_from(tokens).unwrap_or_default();

    let mut reserved = Reserved::new();
    let matches = row.matches(&mut reserved)?;
    let part = snippet::find(&row, &matches, column, tokens)?;
    let Some(text) = row.text(part.column)? else { return Ok(None) };
    let spans = spans(&row, snippet::of_column(&matches, part.column))?;
    let begun = spans.partition_point(|(first, _)| *first < part.first);
    let last = part.first.saturating_add(tokens) - 1;
    let range = (last >= 0).then_some(Range { first: part.first, last });
    let mut output = Output::new();
    if part.first > 0 {
        output.append(ellipsis);
    }
    let marks = Marks { open, close };
    let mut marker = Marker::new(text, marks, &spans[begun..], range, &mut output);
    row.tokens(part.column, Some(text), &mut |start, end| marker.take(start, end))?;
    let is_end = last >= part.column_length - 1;
    marker.finish(is_end);
    if !is_end {
        output.append(ellipsis);
    }
    output.finish().map(Some)
}

unsafe extern "C" fn highlight(
    api: *const ffi::Fts5ExtensionApi,
    row: *mut ffi::Fts5Context,
    context: *mut ffi::sqlite3_context,
    count: c_int,
    arguments: Arguments,
) {
    if count != 3 {
        let message = c"wrong number of arguments to function highlight()";
        // SAFETY: SQLite passes the context of the running call.
        return unsafe { refuse_count(context, message) };
    }
    // SAFETY: FTS5 passes what it is called for, and there are three arguments.
    let result = unsafe { highlight_of(api, row, arguments) };
    // SAFETY: SQLite passes the context of the running call.
    unsafe { report(context, result) };
}

/// # Safety
/// Called by FTS5 with three arguments.
unsafe fn highlight_of(
    api: *const ffi::Fts5ExtensionApi,
    row: *mut ffi::Fts5Context,
    arguments: Arguments,
) -> Result<Option<Vec<u8>>, Code> {
    // SAFETY: the caller's promise.
    let row = unsafe { Row::new(api, row) }?;
    // SAFETY: as above.
    let column = unsafe { column_number(arguments) };
    // SAFETY: as above.
    let [open, close] = [1, 2].map(|index| unsafe { text_of(arguments, index) });

    let text = match row.text(column) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        // There is no such column.
        Err(ffi::SQLITE_RANGE) => return Ok(Some(Vec::new())),
        Err(code) => return Err(code),
    };
    let mut reserved = Reserved::new();
    let matches = row.matches(&mut reserved)?;
    let spans = spans(&row, snippet::of_column(&matches, column))?;
    let mut output = Output::new();
    let mut marker = Marker::new(text, Marks { open, close }, &spans, None, &mut output);
    row.tokens(column, Some(text), &mut |start, end| marker.take(start, end))?;
    marker.finish(true);
    output.finish().map(Some)
}

/// The first argument, which may be too large for a number of a column.
///
/// # Safety
/// There is an argument.
unsafe fn column_number(arguments: Arguments) -> c_int {
    // SAFETY: the caller's promise.
    let column = unsafe { argument(arguments, 0) };
    // SAFETY: arguments are valid during the call.
    let column = unsafe { ffi::sqlite3_value_int64(column) };
    c_int::try_from(column.max(-1)).unwrap_or(c_int::MAX)
}

/// An argument as text; NULL is empty.
///
/// # Safety
/// `index` is the place of an argument of the running call, which is not over while the text is used.
unsafe fn text_of<'a>(arguments: Arguments, index: usize) -> &'a [u8] {
    // SAFETY: the caller's promise.
    let value = unsafe { argument(arguments, index) };
    // SAFETY: as above.
    unsafe { bytes(value, false) }.unwrap_or_default()
}

/// # Safety
/// `context` is that of the running call.
unsafe fn refuse_count(context: *mut ffi::sqlite3_context, message: &CStr) {
    // SAFETY: the caller's promise; SQLite copies the message.
    unsafe { ffi::sqlite3_result_error(context, message.as_ptr(), -1) };
}

/// Makes a result the outcome of a call.
///
/// # Safety
/// `context` is that of the running call.
unsafe fn report(context: *mut ffi::sqlite3_context, result: Result<Option<Vec<u8>>, Code>) {
    match result {
        Ok(None) => {}
        // SAFETY: the caller's promise.
        Ok(Some(text)) => unsafe { give(context, &text) },
        // SAFETY: as above.
        Err(ffi::SQLITE_INTERRUPT) => unsafe { work::stop(context) },
        // SAFETY: as above.
        Err(ffi::SQLITE_NOMEM) => unsafe { ffi::sqlite3_result_error_nomem(context) },
        // SAFETY: as above.
        Err(code) => unsafe { ffi::sqlite3_result_error_code(context, code) },
    }
}

#[cfg(test)]
mod tests;
