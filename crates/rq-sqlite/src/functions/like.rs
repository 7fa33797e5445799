//! `LIKE` and `GLOB`, which count what they do.
//!
//! SQLite's own take time in proportion to the lengths of text and pattern multiplied. A call is one
//! step of the virtual machine, which neither budgets nor cancelling interrupt, so one statement could
//! hold a connection for minutes. These compare in the same order, but say how far they are
//! ([`work::done`]) and end when they are told to. Results are SQLite's to the byte, also for text that
//! is not UTF-8. Databases are always encoded in UTF-8; these functions rely on it.
//!
//! SQLite searches an index for `x LIKE 'abc%'` if the function is marked for it, which only SQLite itself can
//! do to its own functions: see [`mark`].

#![expect(unsafe_code, reason = "marks the functions as SQLite marks its own")]

mod search;

use std::{
    cell::Cell,
    ffi::{CStr, c_int, c_void},
    ptr,
};

use rusqlite::{Connection, ffi};

use self::search::{Rules, Search, Stopped, only_character};
use super::{
    Scalar, define,
    text::{Arguments, argument, bytes},
};
use crate::{connection::LONGEST_PATTERN, error::SqliteError, work};

/// What wildcards there are. SQLite reads the first three where it plans a search of an index, so it is
/// laid out as SQLite's own.
#[derive(Debug)]
#[repr(C)]
struct Wildcards {
    /// Stands for any text.
    all: u8,
    /// Stands for any character.
    one: u8,
    /// Begins a set of characters; 0 if there are none.
    set: u8,
    /// Whether upper and lower case of ASCII are equal: 1 or 0.
    folds_case: u8,
}

static LIKE: Wildcards = Wildcards { all: b'%', one: b'_', set: 0, folds_case: 1 };
static LIKE_MINDING_CASE: Wildcards = Wildcards { all: b'%', one: b'_', set: 0, folds_case: 0 };
static GLOB: Wildcards = Wildcards { all: b'*', one: b'?', set: b'[', folds_case: 0 };

/// Installs the functions on a connection that runs clients' statements, and on which nothing runs now.
/// Statements compiled before are compiled again when they run next. The database file is read.
///
/// # Errors
/// Whatever SQLite says; an SQLite that is not the one expected.
pub(crate) fn install(connection: &Connection, like_minds_case: bool) -> Result<(), SqliteError> {
    let like = if like_minds_case { &LIKE_MINDING_CASE } else { &LIKE };
    let functions: [(&CStr, c_int, &'static Wildcards, &str); 3] = [
        (c"like", 2, like, "SELECT like(NULL, NULL)"),
        (c"like", 3, like, "SELECT like(NULL, NULL, NULL)"),
        (c"glob", 2, &GLOB, "SELECT glob(NULL, NULL)"),
    ];
    for (name, arguments, wildcards, call) in functions {
        let data: *const Wildcards = wildcards;
        let data = data.cast_mut().cast();
        define(connection, name, arguments, ffi::SQLITE_DETERMINISTIC, data, compare, None)?;
        let flags = if wildcards.folds_case == 0 { IS_LIKE | MINDS_CASE } else { IS_LIKE };
        MARK.set(Mark::Asked { arguments, flags });
        let called = connection.query_row(call, [], |_| Ok(()));
        let mark = MARK.replace(Mark::None);
        called?;
        if mark != Mark::Made {
            let message = "the SQLite library is not the one expected: its functions lie elsewhere";
            return Err(SqliteError { code: ffi::SQLITE_MISUSE, message: message.to_owned() });
        }
    }
    Ok(())
}

/// Puts the functions in their place again after SQLite's own came back, which `PRAGMA
/// case_sensitive_like` does when it is compiled. Case matters then if it does to those.
///
/// # Errors
/// As [`install`].
pub(crate) fn reinstall(connection: &Connection) -> Result<(), SqliteError> {
    let folds_case: bool = connection.query_row("SELECT 'a' LIKE 'A'", [], |row| row.get(0))?;
    install(connection, !folds_case)
}

/// The function in all its forms: pattern, text, and perhaps the character that escapes wildcards.
unsafe extern "C" fn compare(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    arguments: Arguments,
) {
    // SAFETY: defined with two or three arguments; who asks for the third looks at `count`.
    let argument = |index| unsafe { argument(arguments, index) };
    // SAFETY: arguments are valid during the call. Blobs are read as text.
    let pattern = unsafe { bytes(argument(0), false) };
    if pattern.is_some_and(|pattern| pattern.len() > LONGEST_PATTERN.unsigned_abs() as usize) {
        // SAFETY: SQLite passes the context of the running call.
        return unsafe { fail(context, c"LIKE or GLOB pattern too complex") };
    }
    // SAFETY: as above.
    let data = unsafe { ffi::sqlite3_user_data(context) };
    // SAFETY: defined with wildcards, which are there for the whole program.
    let mut rules = Rules::new(unsafe { &*data.cast::<Wildcards>() });
    if count == 3 {
        // SAFETY: arguments are valid during the call.
        let Some(escape) = (unsafe { bytes(argument(2), false) }) else {
            // SAFETY: SQLite passes the context of the running call.
            return unsafe { mark(context) };
        };
        let Some(escape) = only_character(escape) else {
            // SAFETY: as above.
            return unsafe { fail(context, c"ESCAPE expression must be a single character") };
        };
        rules.escape_with(escape);
    }
    // SAFETY: arguments are valid during the call.
    let (Some(pattern), Some(text)) = (pattern, unsafe { bytes(argument(1), false) }) else {
        // SAFETY: SQLite passes the context of the running call.
        return unsafe { mark(context) };
    };
    match Search::new(rules, pattern, text).run() {
        // SAFETY: as above.
        Ok(fits) => unsafe { ffi::sqlite3_result_int(context, c_int::from(fits)) },
        // SAFETY: as above.
        Err(Stopped) => unsafe { work::stop(context) },
    }
}

/// # Safety
/// `context` is that of the running call.
unsafe fn fail(context: *mut ffi::sqlite3_context, message: &CStr) {
    // SAFETY: the caller's promise; SQLite copies the message up to its NUL byte.
    unsafe { ffi::sqlite3_result_error(context, message.as_ptr(), -1) };
}

thread_local! {
    static MARK: Cell<Mark> = const { Cell::new(Mark::None) };
}

/// What a call on this thread is to do besides what it always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    None,
    /// To mark the function that is called, which was just defined with so many arguments.
    Asked {
        arguments: c_int,
        flags: u32,
    },
    /// It did. (If asked still, it is not what it should be.)
    Made,
}

/// The function's argument is the pattern of a LIKE (`SQLITE_FUNC_LIKE`).
const IS_LIKE: u32 = 0x0004;

/// Upper and lower case are different to it (`SQLITE_FUNC_CASE`).
const MINDS_CASE: u32 = 0x0008;

/// What a function has that was defined as these are: `SQLITE_UTF8`, `SQLITE_DETERMINISTIC`; that
/// it is innocuous is said by a bit that is not set.
const AS_DEFINED: u32 = 0x0801;

/// The beginning of SQLite's `sqlite3_context`.
#[repr(C)]
struct ContextHead {
    _result: *mut c_void,
    function: *mut FunctionHead,
}

/// The beginning of SQLite's `FuncDef`.
#[derive(Clone, Copy)]
#[repr(C)]
struct FunctionHead {
    arguments: i16,
    flags: u32,
    data: *mut c_void,
    _next: *mut c_void,
    call: *const c_void,
}

/// If asked to, marks the function that is called as one whose pattern SQLite may search an index for.
///
/// There is no call of SQLite for this: defining a function drops these flags, and only SQLite's own have
/// them. Without them each `x LIKE 'abc%'` would read the whole table. So they are set where they
/// stand, in the definition that the context of a call points to, once after each definition. What stands
/// there must be all that we know of it; otherwise nothing is changed and [`install`] fails.
///
/// Called where an argument is NULL: such a call has nothing else to do, and others need not look.
///
/// # Safety
/// `context` is that of the running call.
unsafe fn mark(context: *mut ffi::sqlite3_context) {
    let Mark::Asked { arguments, flags } = MARK.get() else { return };
    // SAFETY: takes nothing.
    if unsafe { ffi::sqlite3_libversion_number() } != ffi::SQLITE_VERSION_NUMBER {
        return;
    }
    // SAFETY: the caller's promise. The second word of a context has been the function since it is there.
    let function = unsafe { (*context.cast::<ContextHead>()).function };
    if function.is_null() || !function.is_aligned() {
        return;
    }
    // SAFETY: as above; the definition is as long at least, and nobody else uses the connection.
    let head = unsafe { *function };
    // SAFETY: the caller's promise.
    let data = unsafe { ffi::sqlite3_user_data(context) };
    let call: Scalar = compare;
    let is_expected = c_int::from(head.arguments) == arguments
        && head.flags == AS_DEFINED
        && ptr::eq(head.data, data)
        && ptr::eq(head.call, call as *const c_void);
    if is_expected {
        // SAFETY: as above; the number is one that SQLite reads when it compiles statements.
        unsafe { (*function).flags = AS_DEFINED | flags };
        MARK.set(Mark::Made);
    }
}

#[cfg(test)]
mod tests;
