//! Text with the matches in it marked: all of a column, or a range of its tokens.

use std::ffi::c_int;

use rusqlite::ffi;

use super::{
    super::reserved::Reserved,
    row::{Code, Match, Row},
};
use crate::connection::LONGEST_VALUE;

/// What stands before and behind a match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks<'a> {
    /// Before.
    pub(super) open: &'a [u8],
    /// Behind.
    pub(super) close: &'a [u8],
}

/// The first and the last token to be taken over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The first.
    pub(super) first: c_int,
    /// The last.
    pub(super) last: c_int,
}

/// Text that grows up to the longest value.
#[derive(Debug)]
pub(super) struct Output {
    text: Vec<u8>,
    reserved: Reserved,
    outcome: Result<(), Code>,
}

impl Output {
    /// Empty.
    pub(super) fn new() -> Self {
        Self { text: Vec::new(), reserved: Reserved::new(), outcome: Ok(()) }
    }

    /// Appends what stands before the first NUL.
    pub(super) fn append(&mut self, piece: &[u8]) {
        let piece = &piece[..memchr::memchr(0, piece).unwrap_or(piece.len())];
        if self.outcome.is_err() {
            return;
        }
        if self.text.len() + piece.len() > LONGEST_VALUE.unsigned_abs() as usize {
            self.outcome = Err(ffi::SQLITE_TOOBIG);
        } else if self.reserved.take(piece.len()).is_err() {
            self.outcome = Err(ffi::SQLITE_NOMEM);
        } else {
            self.text.extend_from_slice(piece);
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// It would be too long, or there is not so much memory.
    pub(super) fn finish(self) -> Result<Vec<u8>, Code> {
        self.outcome.map(|()| self.text)
    }
}

/// First and last tokens of the matches in one column, those that overlap made one.
pub(super) fn spans(row: &Row<'_>, matches: &[Match]) -> Result<Vec<(c_int, c_int)>, Code> {
    let mut spans: Vec<(c_int, c_int)> = Vec::new();
    for found in matches {
        let last = found.token.saturating_add(row.phrase_length(found.phrase)?).saturating_sub(1);
        match spans.last_mut() {
            Some((_, end)) if found.token <= *end => *end = last.max(*end),
            _ => spans.push((found.token, last)),
        }
    }
    Ok(spans)
}

/// A text on its way to the output.
pub(super) struct Marker<'a> {
    text: &'a [u8],
    marks: Marks<'a>,
    spans: &'a [(c_int, c_int)],
    range: Option<Range>,
    /// The next token.
    token: c_int,
    /// How much of the text is taken over.
    done: usize,
    is_open: bool,
    output: &'a mut Output,
}

impl<'a> Marker<'a> {
    /// Of a text whose spans begin in the range, if there is one.
    pub(super) fn new(
        text: &'a [u8],
        marks: Marks<'a>,
        spans: &'a [(c_int, c_int)],
        range: Option<Range>,
        output: &'a mut Output,
    ) -> Self {
        Self { text, marks, spans, range, token: 0, done: 0, is_open: false, output }
    }

    /// Takes the next token.
    ///
    /// # Errors
    /// The output cannot grow.
    pub(super) fn take(&mut self, start: usize, end: usize) -> Result<(), Code> {
        let token = self.token;
        self.token += 1;
        if let Some(range) = self.range {
            if token < range.first || token > range.last {
                return Ok(());
            }
            if token == range.first && range.first > 0 {
                self.done = start;
            }
        }
        let span = self.spans.first().copied();
        // What follows a match closes it, unless it is part of another that begins before it.
        if span.is_none_or(|(first, _)| token <= first) && start > self.done {
            self.close();
        }
        if span.is_some_and(|(first, _)| token == first) && !self.is_open {
            self.copy_to(start);
            self.open();
            self.done = start;
        }
        if span.is_some_and(|(_, last)| token == last) {
            self.open();
            self.copy_to(end);
            self.spans = &self.spans[1..];
        }
        if self.range.is_some_and(|range| token == range.last) {
            self.end_range(token, end);
        }
        self.output.outcome
    }

    /// Takes over what is left behind the last token, or nothing of it.
    pub(super) fn finish(mut self, with_rest: bool) {
        self.close();
        if with_rest {
            self.copy_to(self.text.len());
        }
    }

    /// Ends with the last token of the range, within a match that goes on or behind one.
    fn end_range(&mut self, token: c_int, end: usize) {
        if self.is_open {
            if self.spans.first().is_some_and(|(first, _)| token >= *first) {
                self.copy_to(end);
            }
            self.close();
        }
        self.copy_to(end);
    }

    fn open(&mut self) {
        if !self.is_open {
            self.output.append(self.marks.open);
            self.is_open = true;
        }
    }

    fn close(&mut self) {
        if self.is_open {
            self.output.append(self.marks.close);
            self.is_open = false;
        }
    }

    fn copy_to(&mut self, end: usize) {
        self.output.append(self.text.get(self.done..end).unwrap_or_default());
        self.done = end;
    }
}
