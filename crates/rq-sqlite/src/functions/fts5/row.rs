//! The row an auxiliary function of FTS5 is called for: its columns, their tokens, the matches in it.
//!
//! Valid during one call. Whatever is asked for may fail with a code of SQLite's, which is to be reported
//! as the outcome of the call.

#![expect(unsafe_code, reason = "calls the functions FTS5 hands to its extensions")]

use std::{
    ffi::{c_char, c_int, c_void},
    marker::PhantomData,
    ptr, slice,
};

use rusqlite::ffi;

use super::super::reserved::Reserved;
use crate::work;

/// The first version of FTS5's interface that has all that is called here.
const OLDEST_VERSION: c_int = 4;

/// What a damaged index is reported as.
pub(super) const DAMAGED: c_int = ffi::SQLITE_CORRUPT_VTAB;

/// As how many bytes of work a byte counts that is cut into tokens.
const WORK_PER_BYTE: u64 = 8;

/// As how many bytes of work a match counts.
const WORK_PER_MATCH: u64 = 16;

/// What a match takes in memory at most: while matches are sorted and made spans.
const BYTES_PER_MATCH: usize = 48;

/// A code of SQLite's that is not `SQLITE_OK`.
pub(super) type Code = c_int;

/// Where a phrase of the query begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Match {
    /// The column, counted from 0.
    pub(super) column: c_int,
    /// The token, counted from 0.
    pub(super) token: c_int,
    /// The phrase, counted from 0.
    pub(super) phrase: c_int,
}

/// A row.
pub(super) struct Row<'a> {
    api: &'a ffi::Fts5ExtensionApi,
    context: *mut ffi::Fts5Context,
    during: PhantomData<&'a [u8]>,
}

/// What is done with a token: it gets the places of its first byte and behind its last.
pub(super) type EachToken<'a> = &'a mut dyn FnMut(usize, usize) -> Result<(), Code>;

impl<'a> Row<'a> {
    /// Of the running call.
    ///
    /// # Errors
    /// An FTS5 that is too old.
    ///
    /// # Safety
    /// Both come from FTS5, for a call that lasts as long as what is made of them.
    pub(super) unsafe fn new(
        api: *const ffi::Fts5ExtensionApi,
        context: *mut ffi::Fts5Context,
    ) -> Result<Self, Code> {
        // SAFETY: the caller's promise.
        let api = unsafe { &*api };
        if api.iVersion < OLDEST_VERSION {
            return Err(ffi::SQLITE_MISUSE);
        }
        Ok(Self { api, context, during: PhantomData })
    }

    /// How many columns the table has.
    pub(super) fn columns(&self) -> Result<c_int, Code> {
        let call = self.api.xColumnCount.ok_or(ffi::SQLITE_MISUSE)?;
        // SAFETY: the context of the running call.
        Ok(unsafe { call(self.context) })
    }

    /// How many phrases the query has.
    pub(super) fn phrases(&self) -> Result<c_int, Code> {
        let call = self.api.xPhraseCount.ok_or(ffi::SQLITE_MISUSE)?;
        // SAFETY: the context of the running call.
        Ok(unsafe { call(self.context) })
    }

    /// How many tokens a phrase has.
    pub(super) fn phrase_length(&self, phrase: c_int) -> Result<c_int, Code> {
        let call = self.api.xPhraseSize.ok_or(ffi::SQLITE_MISUSE)?;
        // SAFETY: the context of the running call; FTS5 checks the number.
        Ok(unsafe { call(self.context, phrase) })
    }

    /// The text of a column; `None` if it is NULL or the table does not keep it.
    pub(super) fn text(&self, column: c_int) -> Result<Option<&'a [u8]>, Code> {
        let call = self.api.xColumnText.ok_or(ffi::SQLITE_MISUSE)?;
        let (mut start, mut length) = (ptr::null(), 0);
        // SAFETY: the context of the running call; FTS5 checks the number.
        check(unsafe { call(self.context, column, &raw mut start, &raw mut length) })?;
        let length = usize::try_from(length).unwrap_or_default();
        // SAFETY: FTS5 says that `length` bytes stand there until the call is over.
        Ok((!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast(), length) }))
    }

    /// How many tokens a column has, by what the index knows of it.
    pub(super) fn length(&self, column: c_int) -> Result<c_int, Code> {
        let call = self.api.xColumnSize.ok_or(ffi::SQLITE_MISUSE)?;
        let mut length = 0;
        // SAFETY: the context of the running call; FTS5 checks the number.
        check(unsafe { call(self.context, column, &raw mut length) })?;
        Ok(length)
    }

    /// Goes through the tokens of a column's text. Synonyms that stand where another token does are left
    /// out.
    pub(super) fn tokens(
        &self,
        column: c_int,
        text: Option<&[u8]>,
        mut each: EachToken<'_>,
    ) -> Result<(), Code> {
        let locale_of = self.api.xColumnLocale.ok_or(ffi::SQLITE_MISUSE)?;
        let tokenize = self.api.xTokenize_v2.ok_or(ffi::SQLITE_MISUSE)?;
        let (mut locale, mut locale_length) = (ptr::null(), 0);
        // SAFETY: the context of the running call; FTS5 checks the number.
        check(unsafe { locale_of(self.context, column, &raw mut locale, &raw mut locale_length) })?;
        let Some(text) = text else { return Ok(()) };
        if !work::done(text.len() as u64 * WORK_PER_BYTE) {
            return Err(ffi::SQLITE_INTERRUPT);
        }
        let (start, length) = (text.as_ptr().cast(), c_int::try_from(text.len()));
        let length = length.map_err(|_| ffi::SQLITE_TOOBIG)?;
        let each: *mut EachToken<'_> = &raw mut each;
        // SAFETY: the text and the locale stay until the call is over; `take_token` gets `each`.
        check(unsafe {
            let each = each.cast();
            tokenize(self.context, start, length, locale, locale_length, each, Some(take_token))
        })
    }

    /// All matches, in the order of columns, tokens and phrases. Their memory stays reserved.
    pub(super) fn matches(&self, reserved: &mut Reserved) -> Result<Vec<Match>, Code> {
        let first = self.api.xPhraseFirst.ok_or(ffi::SQLITE_MISUSE)?;
        let next = self.api.xPhraseNext.ok_or(ffi::SQLITE_MISUSE)?;
        let mut matches = Vec::new();
        let mut counted = 0;
        for phrase in 0..self.phrases()? {
            let mut iterator = ffi::Fts5PhraseIter { a: ptr::null(), b: ptr::null() };
            let (mut column, mut token) = (-1, -1);
            // SAFETY: the context of the running call; all that is pointed to is written.
            check(unsafe {
                let (column, token) = (&raw mut column, &raw mut token);
                first(self.context, phrase, &raw mut iterator, column, token)
            })?;
            while column >= 0 {
                if token < 0 {
                    return Err(DAMAGED);
                }
                reserved.take(BYTES_PER_MATCH).map_err(|_| ffi::SQLITE_NOMEM)?;
                matches.push(Match { column, token, phrase });
                let (column, token) = (&raw mut column, &raw mut token);
                // SAFETY: as above.
                unsafe { next(self.context, &raw mut iterator, column, token) };
            }
            if !work::done((matches.len() - counted) as u64 * WORK_PER_MATCH) {
                return Err(ffi::SQLITE_INTERRUPT);
            }
            counted = matches.len();
        }
        // Made for what consists of sorted parts, one for each phrase.
        matches.sort();
        Ok(matches)
    }
}

fn check(code: c_int) -> Result<(), Code> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(code) }
}

unsafe extern "C" fn take_token(
    each: *mut c_void,
    flags: c_int,
    _: *const c_char,
    _: c_int,
    start: c_int,
    end: c_int,
) -> c_int {
    if flags & ffi::FTS5_TOKEN_COLOCATED != 0 {
        return ffi::SQLITE_OK;
    }
    // SAFETY: made of an `EachToken` in `tokens`, which has not returned.
    let each = unsafe { &mut *each.cast::<EachToken<'_>>() };
    let place = |offset: c_int| usize::try_from(offset).unwrap_or_default();
    each(place(start), place(end)).err().unwrap_or(ffi::SQLITE_OK)
}
