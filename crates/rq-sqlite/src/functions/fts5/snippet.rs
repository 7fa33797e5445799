//! Finds the part of a row that shows most of what was searched for.
//!
//! As in SQLite, a part may begin so that a match and what follows it stand in its middle, or with the
//! sentence a match is in. It scores 1000 for each phrase it shows, 1 for each further match, and more if
//! it begins with a sentence; of equal ones the first wins. Since matches come in order, the matches of
//! one part follow from those of the part before.

use std::ffi::c_int;

use super::row::{Code, DAMAGED, Match, Row};

/// What a phrase scores where it is first seen, beyond [`SCORE_OF_MATCH`].
const SCORE_OF_PHRASE: i64 = 999;

/// What each match scores.
const SCORE_OF_MATCH: i64 = 1;

/// What a part scores that begins with a sentence.
const SCORE_OF_SENTENCE: i64 = 100;

/// What a part scores that begins with the first sentence.
const SCORE_OF_BEGINNING: i64 = 120;

/// The part that was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// The column it is in.
    pub(super) column: c_int,
    /// Its first token.
    pub(super) first: c_int,
    /// How many tokens the column has.
    pub(super) column_length: c_int,
    score: i64,
}

/// The matches of one column among those of a row.
pub(super) fn of_column(matches: &[Match], column: c_int) -> &[Match] {
    let start = matches.partition_point(|found| found.column < column);
    let end = matches.partition_point(|found| found.column <= column);
    &matches[start..end]
}

/// Finds the best part of `tokens` tokens in one column, or in all if that is negative.
///
/// # Errors
/// What FTS5 says; a match behind the end of the last column looked at.
pub(super) fn find<'r>(
    row: &'r Row<'_>,
    matches: &'r [Match],
    column: c_int,
    tokens: c_int,
) -> Result<Part, Code> {
    let mut best = Part { column: column.max(0), ..Part::default() };
    let phrases = usize::try_from(row.phrases()?).unwrap_or_default();
    let mut search =
        Search { row, tokens, at_match: Window::new(phrases), at_sentence: Window::new(phrases) };
    let mut outcome = Ok(());
    for looked_at in 0..row.columns()? {
        if column >= 0 && column != looked_at {
            continue;
        }
        let sentences = sentences(row, looked_at)?;
        let length = row.length(looked_at)?;
        let here = Part { column: looked_at, column_length: length, ..Part::default() };
        outcome = search.look_at(of_column(matches, looked_at), &sentences, here, &mut best);
    }
    outcome?;
    if best.column_length == 0 {
        best.column_length = row.length(best.column)?;
    }
    Ok(best)
}

/// The tokens that begin a sentence: the first, and those behind a full stop or a colon and a blank.
fn sentences(row: &Row<'_>, column: c_int) -> Result<Vec<c_int>, Code> {
    let text = row.text(column)?;
    let mut ends = SentenceEnds { text: text.unwrap_or_default(), looked_at: 0, last_sign: None };
    let mut sentences = Vec::new();
    let mut token = 0;
    row.tokens(column, text, &mut |start, _| {
        if token == 0 || ends.is_before(start) {
            sentences.push(token);
        }
        token += 1;
        Ok(())
    })?;
    Ok(sentences)
}

/// Looks for ends of sentences, each byte once.
struct SentenceEnds<'a> {
    text: &'a [u8],
    looked_at: usize,
    /// The place of the last byte before `looked_at` that is no blank.
    last_sign: Option<usize>,
}

impl SentenceEnds<'_> {
    fn is_before(&mut self, start: usize) -> bool {
        if start < self.looked_at {
            // Tokens come in order, else this takes longer.
            (self.looked_at, self.last_sign) = (0, None);
        }
        let new = self.text.get(self.looked_at..start).unwrap_or_default();
        if let Some(place) = new.iter().rposition(|byte| !b" \t\n\r".contains(byte)) {
            self.last_sign = Some(self.looked_at + place);
        }
        self.looked_at = start;
        self.last_sign.is_some_and(|place| {
            place + 1 < start && self.text.get(place).is_some_and(|sign| b".:".contains(sign))
        })
    }
}

/// A search for the best part.
struct Search<'r> {
    row: &'r Row<'r>,
    tokens: c_int,
    /// The part that begins with a match.
    at_match: Window<'r>,
    /// The part that begins with the sentence of that match.
    at_sentence: Window<'r>,
}

impl<'r> Search<'r> {
    /// Makes `best` the best part of a column, if there is none as good yet.
    fn look_at(
        &mut self,
        matches: &'r [Match],
        sentences: &[c_int],
        here: Part,
        best: &mut Part,
    ) -> Result<(), Code> {
        self.at_match.begin(matches);
        self.at_sentence.begin(matches);
        let length = here.column_length;
        let mut try_part = |part: Part| {
            if part.score > best.score {
                *best = part;
            }
        };
        for found in matches.chunk_by(|one, other| one.token == other.token) {
            let token = found[0].token;
            if token > length {
                return Err(DAMAGED);
            }
            self.at_match.move_to(token, self.tokens);
            let first = self.centred(length)?;
            try_part(Part { first, score: self.at_match.score(), ..here });
            if sentences.is_empty() || length <= self.tokens {
                continue;
            }
            let place = sentences.partition_point(|sentence| *sentence <= token);
            let first = sentences[place.saturating_sub(1)];
            if first < token {
                self.at_sentence.move_to(first, self.tokens);
                let more = if first == 0 { SCORE_OF_BEGINNING } else { SCORE_OF_SENTENCE };
                try_part(Part { first, score: self.at_sentence.score() + more, ..here });
            }
        }
        Ok(())
    }

    /// Where a part must begin to have the matches of the window in its middle.
    fn centred(&self, length: c_int) -> Result<c_int, Code> {
        let (first, end) = match self.at_match.matches() {
            [] => (-1, 0),
            [first, .., last] => (first.token, self.end_of(last)?),
            [only] => (only.token, self.end_of(only)?),
        };
        let spare = self.tokens.saturating_sub(end.saturating_sub(first));
        let centred = first.saturating_sub(spare / 2);
        Ok(centred.min(length.saturating_sub(self.tokens)).max(0))
    }

    fn end_of(&self, found: &Match) -> Result<c_int, Code> {
        Ok(found.token.saturating_add(self.row.phrase_length(found.phrase)?))
    }
}

/// The matches that begin in so many tokens, for a first token that only moves on.
struct Window<'r> {
    matches: &'r [Match],
    start: usize,
    end: usize,
    /// How many of each phrase there are.
    seen: Vec<u32>,
    distinct: i64,
}

impl<'r> Window<'r> {
    fn new(phrases: usize) -> Self {
        Self { matches: &[], start: 0, end: 0, seen: vec![0; phrases], distinct: 0 }
    }

    /// Stands before other matches.
    fn begin(&mut self, matches: &'r [Match]) {
        self.drop_until(self.end);
        (self.matches, self.start, self.end) = (matches, 0, 0);
    }

    fn move_to(&mut self, first: c_int, tokens: c_int) {
        let behind = first.saturating_add(tokens);
        while let Some(found) = self.matches.get(self.end).filter(|found| found.token < behind) {
            if let Some(seen) = self.seen.get_mut(place_of(found)) {
                self.distinct += i64::from(*seen == 0);
                *seen += 1;
            }
            self.end += 1;
        }
        let left = self.matches[self.start..self.end].partition_point(|found| found.token < first);
        self.drop_until(self.start + left);
    }

    fn drop_until(&mut self, start: usize) {
        for found in &self.matches[self.start..start] {
            if let Some(seen) = self.seen.get_mut(place_of(found)) {
                *seen -= 1;
                self.distinct -= i64::from(*seen == 0);
            }
        }
        self.start = start;
    }

    fn matches(&self) -> &'r [Match] {
        &self.matches[self.start..self.end]
    }

    fn score(&self) -> i64 {
        let matches = i64::try_from(self.matches().len()).unwrap_or(i64::MAX);
        self.distinct * SCORE_OF_PHRASE + matches * SCORE_OF_MATCH
    }
}

fn place_of(found: &Match) -> usize {
    usize::try_from(found.phrase).unwrap_or(usize::MAX)
}
