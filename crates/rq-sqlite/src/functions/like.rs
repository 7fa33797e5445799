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

use std::{
    cell::Cell,
    ffi::{CStr, c_int, c_void},
    ptr,
};

use memchr::{memchr2, memchr3};
use rusqlite::{Connection, ffi};

use super::{
    Scalar, define,
    text::{Arguments, argument, bytes},
};
use crate::{connection::LONGEST_PATTERN, error::SqliteError, work};

/// How much is done between two reports, in bytes.
const BYTES_PER_REPORT: usize = 64 << 10;

/// A byte that is compared counts for so many that are skipped in search of one.
const SKIPPED_PER_COMPARED: usize = 8;

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

/// The character a text consists of up to its end or first NUL byte, if it is one.
fn only_character(text: &[u8]) -> Option<u32> {
    let mut end = 0;
    let character = read(text, &mut end);
    (character != END && byte(text, end) == 0).then_some(character)
}

/// What characters of a pattern mean, as numbers like those [`read`] gives; 0 where there is none.
#[derive(Clone, Copy, Debug)]
struct Rules {
    all: u32,
    one: u32,
    /// Begins a set, or escapes what follows.
    other: u32,
    has_sets: bool,
    folds_case: bool,
}

impl Rules {
    fn new(wildcards: &Wildcards) -> Self {
        Self {
            all: wildcards.all.into(),
            one: wildcards.one.into(),
            other: wildcards.set.into(),
            has_sets: wildcards.set != 0,
            folds_case: wildcards.folds_case != 0,
        }
    }

    /// A wildcard that escapes is none any more.
    fn escape_with(&mut self, escape: u32) {
        for wildcard in [&mut self.all, &mut self.one] {
            if *wildcard == escape {
                *wildcard = 0;
            }
        }
        self.other = escape;
    }
}

/// The call was told to end.
struct Stopped;

/// One comparison of a text with a pattern.
///
/// Of the stars only the last one reached is ever tried again further on in the text: what fits
/// somewhere behind a later star does so behind the first place where the part between the two fits.
struct Search<'a> {
    rules: Rules,
    pattern: &'a [u8],
    text: &'a [u8],
    /// What was done since the last report, in skipped bytes.
    unreported: usize,
}

/// How far a comparison came without trying anything twice.
enum Stretch {
    /// Both ended.
    Fits,
    Differs,
    /// The pattern has a star; the places behind it and in the text.
    Star(usize, usize),
}

/// What must follow after any text, and where in the pattern and in the text to look for it next.
struct Wanted {
    first: First,
    pattern: usize,
    text: usize,
}

/// The first of what must follow.
#[derive(Clone, Copy)]
enum First {
    /// A character, which the pattern's place is behind.
    Character(u32),
    /// A set, at the pattern's place.
    Set,
}

/// What stands behind a star.
enum Behind {
    /// Nothing, so any text fits.
    End,
    /// What no text fits: it is too short, or an escape at the pattern's end.
    Misfit,
    Wanted(Wanted),
}

impl<'a> Search<'a> {
    fn new(rules: Rules, pattern: &'a [u8], text: &'a [u8]) -> Self {
        Self { rules, pattern, text, unreported: 0 }
    }

    /// Whether the text fits the pattern.
    fn run(&mut self) -> Result<bool, Stopped> {
        let fits = self.fits()?;
        if work::done(self.unreported.div_ceil(SKIPPED_PER_COMPARED) as u64) {
            Ok(fits)
        } else {
            Err(Stopped)
        }
    }

    fn fits(&mut self) -> Result<bool, Stopped> {
        let (mut pattern, mut text) = (0, 0);
        let mut last_star: Option<Wanted> = None;
        loop {
            match self.follow(pattern, text)? {
                Stretch::Fits => return Ok(true),
                Stretch::Differs => {}
                Stretch::Star(pattern, text) => match self.behind_star(pattern, text)? {
                    Behind::End => return Ok(true),
                    Behind::Misfit => return Ok(false),
                    Behind::Wanted(wanted) => last_star = Some(wanted),
                },
            }
            let Some(wanted) = &mut last_star else { return Ok(false) };
            let Some(found) = self.find(wanted)? else { return Ok(false) };
            (pattern, text) = (wanted.pattern, found);
        }
    }

    /// Compares from these places on.
    fn follow(&mut self, mut pattern: usize, mut text: usize) -> Result<Stretch, Stopped> {
        let rules = self.rules;
        let mut counted = pattern + text;
        let stretch = loop {
            if pattern + text - counted > BYTES_PER_REPORT {
                self.compared(pattern + text - counted)?;
                counted = pattern + text;
            }
            let mut wanted = read(self.pattern, &mut pattern);
            if wanted == END {
                let is_end = byte(self.text, text) == 0;
                break if is_end { Stretch::Fits } else { Stretch::Differs };
            }
            if wanted == rules.all {
                break Stretch::Star(pattern, text);
            }
            let mut is_escaped = false;
            if wanted == rules.other {
                if rules.has_sets {
                    if self.is_in_set(&mut pattern, &mut text) {
                        continue;
                    }
                    break Stretch::Differs;
                }
                wanted = read(self.pattern, &mut pattern);
                if wanted == END {
                    break Stretch::Differs;
                }
                is_escaped = true;
            }
            let found = read(self.text, &mut text);
            let is_wildcard = wanted == rules.one && !is_escaped && found != END;
            if wanted != found
                && !(rules.folds_case && differ_in_case(wanted, found))
                && !is_wildcard
            {
                break Stretch::Differs;
            }
        };
        self.compared(pattern + text - counted)?;
        Ok(stretch)
    }

    /// Whether the text's next character is one of the set's, which is read from behind its bracket.
    fn is_in_set(&self, pattern: &mut usize, text: &mut usize) -> bool {
        let found = read(self.text, text);
        if found == END {
            return false;
        }
        let set = self.pattern;
        let (mut is_member, mut before) = (false, END);
        let mut member = read(set, pattern);
        let is_inverted = member == u32::from(b'^');
        if is_inverted {
            member = read(set, pattern);
        }
        // The first bracket closes nothing.
        if member == SET_END {
            is_member = found == SET_END;
            member = read(set, pattern);
        }
        while member != END && member != SET_END {
            let is_range = member == u32::from(b'-') && before != END;
            if is_range && !matches!(byte(set, *pattern), 0 | b']') {
                member = read(set, pattern);
                is_member |= (before..=member).contains(&found);
                before = END;
            } else {
                is_member |= member == found;
                before = member;
            }
            member = read(set, pattern);
        }
        member == SET_END && is_member != is_inverted
    }

    /// Reads on behind a star: what must follow it, with each wildcard for one character taking one.
    fn behind_star(&mut self, mut pattern: usize, mut text: usize) -> Result<Behind, Stopped> {
        let (rules, from) = (self.rules, pattern + text);
        let behind = loop {
            let start = pattern;
            let mut wanted = read(self.pattern, &mut pattern);
            if wanted == END {
                break Behind::End;
            }
            if wanted == rules.all {
                continue;
            }
            if wanted == rules.one {
                if read(self.text, &mut text) == END {
                    break Behind::Misfit;
                }
                continue;
            }
            if wanted == rules.other {
                if rules.has_sets {
                    break Behind::Wanted(Wanted { first: First::Set, pattern: start, text });
                }
                wanted = read(self.pattern, &mut pattern);
                if wanted == END {
                    break Behind::Misfit;
                }
            }
            break Behind::Wanted(Wanted { first: First::Character(wanted), pattern, text });
        };
        self.compared(pattern + text - from)?;
        Ok(behind)
    }

    /// The next place in the text where what is wanted may go on, and moves where to look behind it.
    fn find(&mut self, wanted: &mut Wanted) -> Result<Option<usize>, Stopped> {
        match wanted.first {
            First::Set => {
                let start = wanted.text;
                Ok((read(self.text, &mut wanted.text) != END).then_some(start))
            }
            First::Character(character) => {
                let found = match u8::try_from(character) {
                    Ok(byte) if byte.is_ascii() => self.skip_to(byte, &mut wanted.text)?,
                    _ => self.read_to(character, &mut wanted.text)?,
                };
                Ok(found.then_some(wanted.text))
            }
        }
    }

    /// Moves behind the next such byte, unless the text ends before it.
    fn skip_to(&mut self, wanted: u8, text: &mut usize) -> Result<bool, Stopped> {
        let rest = self.text.get(*text..).unwrap_or_default();
        let found = if self.rules.folds_case && wanted.is_ascii_alphabetic() {
            memchr3(wanted.to_ascii_lowercase(), wanted.to_ascii_uppercase(), 0, rest)
        } else {
            memchr2(wanted, 0, rest)
        };
        let skipped = found.unwrap_or(rest.len());
        *text += skipped + 1;
        self.skipped(skipped)?;
        Ok(found.is_some_and(|place| rest[place] != 0))
    }

    /// Moves behind the next such character, unless the text ends before it. Several sequences of bytes
    /// may stand for one character, so all are read.
    fn read_to(&mut self, wanted: u32, text: &mut usize) -> Result<bool, Stopped> {
        let mut counted = *text;
        loop {
            let found = read(self.text, text);
            if found == END || found == wanted {
                self.compared(*text - counted)?;
                return Ok(found == wanted);
            }
            if *text - counted > BYTES_PER_REPORT {
                self.compared(*text - counted)?;
                counted = *text;
            }
        }
    }

    fn compared(&mut self, bytes: usize) -> Result<(), Stopped> {
        self.skipped(bytes * SKIPPED_PER_COMPARED)
    }

    fn skipped(&mut self, bytes: usize) -> Result<(), Stopped> {
        self.unreported += bytes;
        if self.unreported < BYTES_PER_REPORT * SKIPPED_PER_COMPARED {
            return Ok(());
        }
        let compared = self.unreported / SKIPPED_PER_COMPARED;
        self.unreported %= SKIPPED_PER_COMPARED;
        if work::done(compared as u64) { Ok(()) } else { Err(Stopped) }
    }
}

/// What [`read`] gives at the end of a text, and at a NUL byte, which ends it too.
const END: u32 = 0;

/// Ends a set of characters.
const SET_END: u32 = b']' as u32;

/// What stands for characters that cannot be meant.
const REPLACEMENT: u32 = 0xfffd;

/// Reads a character and moves behind it, as SQLite does: a byte that begins none is one by itself, and any
/// number of bytes may continue one, of which the last 32 bits count.
#[inline]
fn read(text: &[u8], place: &mut usize) -> u32 {
    let first = byte(text, *place);
    *place += 1;
    if first < 0xc0 { first.into() } else { read_long(first, text, place) }
}

/// The rest of a character of more than one byte.
fn read_long(first: u8, text: &[u8], place: &mut usize) -> u32 {
    // As many of the low bits as the first byte leaves when it says how many follow.
    let mut character = u32::from(match first {
        0..0xe0 => first & 0x1f,
        0xe0..0xf0 => first & 0x0f,
        0xf0..0xf8 => first & 0x07,
        0xf8..0xfc => first & 0x03,
        0xfc..0xfe => first & 0x01,
        _ => 0,
    });
    while let next @ 0x80..0xc0 = byte(text, *place) {
        character = (character << 6) | u32::from(next & 0x3f);
        *place += 1;
    }
    match character {
        0..0x80 | 0xd800..0xe000 => REPLACEMENT,
        _ => character,
    }
}

/// The byte at a place; 0 behind the end.
#[inline]
fn byte(text: &[u8], place: usize) -> u8 {
    text.get(place).copied().unwrap_or(0)
}

/// Whether two characters are one letter of ASCII in upper and lower case.
#[inline]
fn differ_in_case(one: u32, other: u32) -> bool {
    const CASE: u32 = 0x20;
    one ^ other == CASE && (u32::from(b'a')..=u32::from(b'z')).contains(&(one | CASE))
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
