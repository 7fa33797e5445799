//! `instr`, `replace` and `trim` of two arguments, in time proportional to their arguments.
//!
//! SQLite's own take time in proportion to the lengths of two arguments multiplied. A call is one
//! step of the virtual machine, which neither budgets nor cancelling interrupt, so one statement
//! could hold a connection for days. Results are SQLite's to the byte, also for text that is not
//! UTF-8 (only there `trim` may take longer, by the square root of the set's length). Databases are
//! always encoded in UTF-8; these functions rely on it.

use std::{
    collections::HashMap,
    ffi::{CStr, c_int},
    ptr, slice,
};

use memchr::memmem;
use rusqlite::{Connection, ffi};

use super::{Scalar, define};
use crate::{connection::LONGEST_VALUE, error::SqliteError, work};

/// What SQLite keeps in memory for each character of the set to be trimmed, in bytes. A set is too
/// big if this times its characters exceeds the longest value.
const BYTES_PER_TRIMMED: usize = 12;

/// Installs the functions on a connection of any kind.
///
/// # Errors
/// Whatever SQLite says.
pub(crate) fn install(connection: &Connection) -> Result<(), SqliteError> {
    let functions: [(&CStr, c_int, Scalar); 5] = [
        (c"instr", 2, instr),
        (c"replace", 3, replace),
        (c"ltrim", 2, trim_left),
        (c"rtrim", 2, trim_right),
        (c"trim", 2, trim),
    ];
    for (name, arguments, function) in functions {
        let flags = ffi::SQLITE_DETERMINISTIC;
        define(connection, name, arguments, flags, ptr::null_mut(), function, None)?;
    }
    Ok(())
}

/// An argument's place, as SQLite passes it.
pub(super) type Arguments = *mut *mut ffi::sqlite3_value;

unsafe extern "C" fn instr(context: *mut ffi::sqlite3_context, _: c_int, arguments: Arguments) {
    // SAFETY: defined with two arguments.
    let argument = |index| unsafe { argument(arguments, index) };
    let (haystack, needle) = (argument(0), argument(1));
    // SAFETY: arguments are valid during the call.
    let is_blob = |value| unsafe { ffi::sqlite3_value_type(value) } == ffi::SQLITE_BLOB;
    let counts_characters = !(is_blob(haystack) && is_blob(needle));
    // SAFETY: as above. Blobs read as text are the same bytes.
    let Some(haystack) = (unsafe { bytes(haystack, is_blob(haystack)) }) else { return };
    // SAFETY: as above.
    let Some(needle) = (unsafe { bytes(needle, is_blob(needle)) }) else { return };
    if !work::done((haystack.len() + needle.len()) as u64) {
        // SAFETY: SQLite passes the context of the running call.
        return unsafe { work::stop(context) };
    }
    let position = find(haystack, needle, counts_characters);
    let position = i64::try_from(position).unwrap_or(i64::MAX);
    // SAFETY: SQLite passes the context of the running call.
    unsafe { ffi::sqlite3_result_int64(context, position) };
}

/// Where `needle` begins, counted from 1; 0 if nowhere. A character begins at the first byte and at
/// each that continues none.
fn find(haystack: &[u8], needle: &[u8], counts_characters: bool) -> usize {
    if haystack.starts_with(needle) {
        return 1;
    }
    if counts_characters && continues(needle[0]) {
        return 0;
    }
    match memmem::find(haystack, needle) {
        None => 0,
        Some(offset) if counts_characters => {
            1 + haystack[1..=offset].iter().filter(|byte| !continues(**byte)).count()
        }
        Some(offset) => 1 + offset,
    }
}

/// Whether a byte continues a character of UTF-8.
fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

unsafe extern "C" fn replace(context: *mut ffi::sqlite3_context, _: c_int, arguments: Arguments) {
    // SAFETY: defined with three arguments.
    let argument = |index| unsafe { argument(arguments, index) };
    // SAFETY: arguments are valid during the call.
    let Some(text) = (unsafe { bytes(argument(0), false) }) else { return };
    // SAFETY: as above.
    let Some(pattern) = (unsafe { bytes(argument(1), false) }) else { return };
    if matches!(pattern, [] | [0, ..]) {
        // SAFETY: SQLite passes the context of the running call.
        return unsafe { give(context, text) };
    }
    // SAFETY: as above.
    let Some(replacement) = (unsafe { bytes(argument(2), false) }) else { return };
    if !work::done((text.len() + pattern.len()) as u64) {
        // SAFETY: as above.
        return unsafe { work::stop(context) };
    }
    let finder = memmem::Finder::new(pattern);
    let found = finder.find_iter(text).count();
    // Each found takes `pattern.len()` bytes of the text; the sum is below 2⁶⁴ as both are below 2³¹.
    let length = text.len() - found * pattern.len() + found * replacement.len();
    if length > LONGEST_VALUE.unsigned_abs() as usize {
        // SAFETY: SQLite passes the context of the running call.
        return unsafe { ffi::sqlite3_result_error_toobig(context) };
    }
    if !work::done(length as u64) {
        // SAFETY: as above.
        return unsafe { work::stop(context) };
    }
    // SAFETY: any size may be asked for.
    let memory = unsafe { ffi::sqlite3_malloc64(length as u64 + 1) }.cast::<u8>();
    if memory.is_null() {
        // SAFETY: SQLite passes the context of the running call.
        return unsafe { ffi::sqlite3_result_error_nomem(context) };
    }
    // SAFETY: just allocated, and bytes need no alignment.
    unsafe { ptr::write_bytes(memory, 0, length + 1) };
    // SAFETY: as above, and initialised.
    let mut rest = unsafe { slice::from_raw_parts_mut(memory, length) };
    let mut append =
        |piece: &[u8]| rest.split_off_mut(..piece.len()).map(|to| to.copy_from_slice(piece));
    let mut done = 0;
    for offset in finder.find_iter(text) {
        append(&text[done..offset]);
        append(replacement);
        done = offset + pattern.len();
    }
    append(&text[done..]);
    let (text, length) = (memory.cast(), length as u64);
    // SAFETY: SQLite takes the memory over and frees it.
    unsafe {
        ffi::sqlite3_result_text64(context, text, length, Some(ffi::sqlite3_free), TEXT_ENCODING);
    };
}

unsafe extern "C" fn trim_left(context: *mut ffi::sqlite3_context, _: c_int, arguments: Arguments) {
    // SAFETY: defined with two arguments.
    unsafe { trim_ends(context, arguments, true, false) };
}

unsafe extern "C" fn trim_right(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: Arguments,
) {
    // SAFETY: defined with two arguments.
    unsafe { trim_ends(context, arguments, false, true) };
}

unsafe extern "C" fn trim(context: *mut ffi::sqlite3_context, _: c_int, arguments: Arguments) {
    // SAFETY: defined with two arguments.
    unsafe { trim_ends(context, arguments, true, true) };
}

/// # Safety
/// Called by SQLite with two arguments.
unsafe fn trim_ends(
    context: *mut ffi::sqlite3_context,
    arguments: Arguments,
    left: bool,
    right: bool,
) {
    // SAFETY: the caller's promise.
    let argument = |index| unsafe { argument(arguments, index) };
    let (text, set) = (argument(0), argument(1));
    // SAFETY: arguments are valid during the call.
    let Some(mut text) = (unsafe { bytes(text, false) }) else { return };
    // SAFETY: as above.
    let Some(set) = (unsafe { bytes(set, false) }) else { return };
    if !work::done((text.len() + set.len()) as u64) {
        // SAFETY: SQLite passes the context of the running call.
        return unsafe { work::stop(context) };
    }
    let Some(set) = CharacterSet::new(set) else {
        // SAFETY: SQLite passes the context of the running call.
        return unsafe { ffi::sqlite3_result_error_toobig(context) };
    };
    if left {
        text = set.trim_left(text);
    }
    if right {
        text = set.trim_right(text);
    }
    // SAFETY: SQLite passes the context of the running call.
    unsafe { give(context, text) };
}

/// Characters with their places in the set. Of several that fit the first is trimmed, which only
/// text that is not UTF-8 can tell.
struct CharacterSet<'a> {
    places: HashMap<&'a [u8], usize>,
    /// The lengths of the characters in bytes, each once.
    lengths: Vec<usize>,
}

impl<'a> CharacterSet<'a> {
    /// Of a text up to its first NUL byte; `None` if it is too big.
    fn new(set: &'a [u8]) -> Option<Self> {
        let mut rest = &set[..memchr::memchr(0, set).unwrap_or(set.len())];
        let (mut places, mut lengths) = (HashMap::new(), Vec::new());
        let mut place = 0;
        while let Some(first) = rest.first() {
            let more = if *first >= 0xc0 { leading_continuations(&rest[1..]) } else { 0 };
            let (character, following) = rest.split_at(1 + more);
            places.entry(character).or_insert(place);
            place += 1;
            rest = following;
        }
        if place * BYTES_PER_TRIMMED > LONGEST_VALUE.unsigned_abs() as usize {
            return None;
        }
        lengths.extend(places.keys().map(|character: &&[u8]| character.len()));
        lengths.sort_unstable();
        lengths.dedup();
        Some(Self { places, lengths })
    }

    fn trim_left<'t>(&self, mut text: &'t [u8]) -> &'t [u8] {
        while let Some(first) = text.first() {
            let more = if *first >= 0xc0 { leading_continuations(&text[1..]) } else { 0 };
            let fitting = self.lengths.iter().take_while(|length| **length <= 1 + more);
            let found = fitting
                .filter_map(|length| Some((*self.places.get(&text[..*length])?, *length)))
                .min();
            let Some((_, length)) = found else { break };
            text = &text[length..];
        }
        text
    }

    fn trim_right<'t>(&self, mut text: &'t [u8]) -> &'t [u8] {
        // Where the character begins that the last byte continues; looked for once each.
        let mut start = usize::MAX;
        while let Some(last) = text.len().checked_sub(1) {
            if start > last {
                start = text.iter().rposition(|byte| !continues(*byte)).unwrap_or_default();
            }
            let mut found = self.places.get(&text[last..]).map(|place| (*place, 1));
            let length = text.len() - start;
            if length > 1 && text[start] >= 0xc0 && self.lengths.binary_search(&length).is_ok() {
                let whole = self.places.get(&text[start..]).map(|place| (*place, length));
                found = found.into_iter().chain(whole).min();
            }
            let Some((_, length)) = found else { break };
            text = &text[..text.len() - length];
        }
        text
    }
}

/// How many bytes at the beginning continue a character.
fn leading_continuations(text: &[u8]) -> usize {
    text.iter().take_while(|byte| continues(**byte)).count()
}

/// # Safety
/// `index` is the place of an argument of the running call.
pub(super) unsafe fn argument(arguments: Arguments, index: usize) -> *mut ffi::sqlite3_value {
    // SAFETY: the caller's promise.
    let place = unsafe { arguments.add(index) };
    // SAFETY: as above.
    unsafe { *place }
}

/// The bytes of an argument as a blob or as text; `None` if it is NULL, or there is no memory to
/// convert it, which SQLite remembers by itself.
///
/// # Safety
/// `value` is an argument of the running call, which is not over while the bytes are used.
pub(super) unsafe fn bytes<'a>(value: *mut ffi::sqlite3_value, is_blob: bool) -> Option<&'a [u8]> {
    let start = if is_blob {
        // SAFETY: the caller's promise.
        unsafe { ffi::sqlite3_value_blob(value) }
    } else {
        // SAFETY: as above.
        unsafe { ffi::sqlite3_value_text(value) }.cast()
    };
    // SAFETY: as above; asked after the pointer, as SQLite demands.
    let length = unsafe { ffi::sqlite3_value_bytes(value) };
    let length = usize::try_from(length).unwrap_or_default();
    match (start.is_null(), length) {
        (true, 0) if is_blob => Some(&[]),
        (true, _) => None,
        // SAFETY: SQLite says that `length` bytes stand there.
        (false, _) => Some(unsafe { slice::from_raw_parts(start.cast(), length) }),
    }
}

/// `SQLITE_UTF8` in the type the call wants.
#[expect(clippy::cast_possible_truncation, reason = "the constant is 1")]
const TEXT_ENCODING: u8 = ffi::SQLITE_UTF8 as u8;

/// Gives a copy of a text as the result.
///
/// # Safety
/// `context` is that of the running call.
pub(super) unsafe fn give(context: *mut ffi::sqlite3_context, text: &[u8]) {
    let (start, length) = (text.as_ptr().cast(), text.len() as u64);
    let destructor = ffi::SQLITE_TRANSIENT();
    // SAFETY: SQLite copies `length` bytes before it returns.
    unsafe { ffi::sqlite3_result_text64(context, start, length, destructor, TEXT_ENCODING) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::plain_connection;

    /// SQL values of all types: empty, short, repetitive, with NUL bytes, not UTF-8.
    const VALUES: &[&str] = &[
        "NULL",
        "''",
        "x''",
        "'a'",
        "x'61'",
        "'aa'",
        "'aab'",
        "'aaab'",
        "'abaabaaab'",
        "1",
        "11",
        "-1.5",
        "1121.0",
        "'é'",
        "'éa'",
        "'aéé'",
        "x'c3a9'",
        "x'a9'",
        "cast(x'a9' AS TEXT)",
        "cast(x'c3' AS TEXT)",
        "cast(x'a9a9c3a9a9' AS TEXT)",
        "cast(x'c3c3a9' AS TEXT)",
        "cast(x'c3a9a9c3' AS TEXT)",
        "cast(x'c3c3a9a9a9' AS TEXT)",
        "x'00'",
        "cast(x'00' AS TEXT)",
        "cast(x'610061' AS TEXT)",
        "x'610061'",
        "cast(x'006161' AS TEXT)",
        "zeroblob(3)",
        "'😀a😀'",
        "'😀'",
        "'b a'",
        "' '",
    ];

    fn ask(connection: &Connection, sql: &str) -> rusqlite::Result<(String, Option<Vec<u8>>)> {
        let sql = format!("SELECT typeof(v), cast(v AS BLOB) FROM (SELECT {sql} AS v)");
        connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    #[test]
    fn results_are_those_of_sqlites_own() {
        let plain = plain_connection();
        let ours = plain_connection();
        install(&ours).unwrap();
        let mut calls = Vec::new();
        for x in VALUES {
            for y in VALUES {
                let two = ["instr", "ltrim", "rtrim", "trim"];
                calls.extend(two.map(|name| format!("{name}({x}, {y})")));
                let third = ["NULL", "''", "'a'", "'aaa'", "x'c3'", "7"];
                calls.extend(third.map(|z| format!("replace({x}, {y}, {z})")));
            }
        }
        for call in calls {
            assert_eq!(ask(&ours, &call).unwrap(), ask(&plain, &call).unwrap(), "{call}");
        }
    }

    #[test]
    fn long_arguments_take_no_longer_than_reading_them() {
        let ours = plain_connection();
        install(&ours).unwrap();
        let zeros = |count: usize| format!("hex(zeroblob({count}))");
        let (long, half) = (zeros(1_500_000), zeros(750_000));
        // With SQLite's own these take minutes or hours.
        for (call, expected) in [
            (format!("instr({long}, {half} || 1)"), "0"),
            (format!("instr({long} || 1, {half} || 1)"), "1500001"),
            (format!("length(replace({long} || 1, {half} || 1, 'x'))"), "1500001"),
            (format!("length(trim({long}, replace({half}, '0', 'x') || '0'))"), "0"),
        ] {
            let found = ask(&ours, &call).unwrap().1.unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), expected, "{call}");
        }
    }

    #[test]
    fn what_would_be_too_long_is_refused() {
        let ours = plain_connection();
        install(&ours).unwrap();
        for call in [
            "replace(hex(zeroblob(10000)), '0', hex(zeroblob(10000)))",
            "trim('a', hex(zeroblob(6000000)))",
        ] {
            assert_eq!(ask(&ours, call).unwrap_err().to_string(), "string or blob too big");
        }
        let fits = ask(&ours, "length(replace(hex(zeroblob(3000)), '0', hex(zeroblob(3000))))");
        assert_eq!(fits.unwrap().1.unwrap(), b"36000000");
    }
}
