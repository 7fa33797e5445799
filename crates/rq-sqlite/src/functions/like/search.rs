//! Compares a text with a pattern of `LIKE` or `GLOB`, and counts how much it compares.
//!
//! What fits is what SQLite says fits, for any bytes. It may take time in proportion to the lengths of
//! both multiplied, so it reports to [`work`] and ends when told to. What is reported follows from text
//! and pattern alone.

use std::ops::Range;

use memchr::{memchr, memchr2};

use super::Wildcards;
use crate::work;

/// How much is done between two reports, in bytes that are compared.
const BYTES_PER_REPORT: usize = 64 << 10;

/// A byte that is compared counts for so many that are passed over in search of one.
const PASSED_PER_COMPARED: usize = 8;

/// How many times eight bytes are looked through for two in a row, before the first of them is looked for
/// alone.
const WORDS_FOR_PAIR: usize = 8;

/// What characters of a pattern mean, as numbers like those [`read`] gives; 0 where there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    all: u32,
    one: u32,
    /// Begins a set, or escapes what follows.
    other: u32,
    has_sets: bool,
    /// In what the cases of a letter may differ: a bit, or none.
    case: u8,
}

impl Rules {
    /// Of a function without an escape.
    pub(super) fn new(wildcards: &Wildcards) -> Self {
        Self {
            all: wildcards.all.into(),
            one: wildcards.one.into(),
            other: wildcards.set.into(),
            has_sets: wildcards.set != 0,
            case: if wildcards.folds_case == 0 { 0 } else { CASE },
        }
    }

    /// Makes a character escape others. A wildcard that escapes is none any more.
    pub(super) fn escape_with(&mut self, escape: u32) {
        for wildcard in [&mut self.all, &mut self.one] {
            if *wildcard == escape {
                *wildcard = 0;
            }
        }
        self.other = escape;
    }

    /// Whether a byte of a pattern is a character of ASCII that stands for itself or for any one.
    fn is_simple(&self, byte: u8) -> bool {
        let character = u32::from(byte);
        byte.is_ascii() && byte != 0 && character != self.all && character != self.other
    }

    /// Whether a byte of a pattern fits one of a text, if both are of ASCII and stand for themselves.
    fn are_equal(&self, wanted: u8, found: u8) -> bool {
        let difference = wanted ^ found;
        difference == 0 || (difference == self.case && wanted.is_ascii_alphabetic())
    }
}

/// The call was told to end.
pub(super) struct Stopped;

/// One comparison of a text with a pattern.
///
/// Of the stars only the last one reached is ever tried again further on in the text: what fits
/// somewhere behind a later star does so behind the first place where the part between the two fits.
pub(super) struct Search<'a> {
    rules: Rules,
    pattern: &'a [u8],
    text: &'a [u8],
    /// Where the text was searched without regard to its end if that is a NUL byte.
    searched: Range<usize>,
    /// What was done since the last report, in bytes passed over.
    unreported: usize,
}

/// How far a comparison came without trying anything twice.
enum Stretch {
    /// Both ended.
    Fits,
    Differs,
    /// The pattern has a star, which the pattern's place is behind.
    Star,
}

/// What must follow after any text, and where to look for it next.
struct Wanted {
    first: First,
    /// Behind the first in the pattern.
    pattern: usize,
    text: usize,
}

/// The first of what must follow.
enum First {
    /// A character of ASCII, and what comes next.
    Pair(Pair),
    /// Any other character.
    Character(u32),
    /// One of a set, whose members begin there in the pattern.
    Set(usize),
}

/// What stands behind a star.
enum Behind {
    /// Nothing, so any text fits.
    End,
    /// What no text fits: it is too short, or an escape at the pattern's end.
    Misfit,
    Wanted(Wanted),
}

/// What a search for the first of what is wanted gave.
enum Found {
    /// It is there; the text is to be looked at behind it.
    Here,
    Nowhere,
    /// Nothing so far, but enough was done to report it.
    NotYet,
}

impl<'a> Search<'a> {
    pub(super) fn new(rules: Rules, pattern: &'a [u8], text: &'a [u8]) -> Self {
        Self { rules, pattern, text, searched: 0..0, unreported: 0 }
    }

    /// Whether the text fits the pattern.
    pub(super) fn run(&mut self) -> Result<bool, Stopped> {
        let mut fits = self.fits()?;
        // Behind a NUL byte the text has no more to fit.
        if fits && !self.searched.is_empty() {
            fits = memchr(0, &self.text[self.searched.clone()]).is_none();
            self.unreported += self.searched.len();
        }
        let compared = self.unreported.div_ceil(PASSED_PER_COMPARED);
        if work::done(compared as u64) { Ok(fits) } else { Err(Stopped) }
    }

    fn fits(&mut self) -> Result<bool, Stopped> {
        let (mut pattern, mut text) = (0, 0);
        let mut last_star: Option<Wanted> = None;
        loop {
            match self.follow(&mut pattern, &mut text) {
                Stretch::Fits => return Ok(true),
                Stretch::Differs => {}
                Stretch::Star => match self.behind_star(pattern, text) {
                    Behind::End => return Ok(true),
                    Behind::Misfit => return Ok(false),
                    Behind::Wanted(wanted) => last_star = Some(wanted),
                },
            }
            let Some(wanted) = &mut last_star else { return Ok(false) };
            loop {
                if self.unreported >= BYTES_PER_REPORT * PASSED_PER_COMPARED {
                    self.report()?;
                }
                match self.find(wanted) {
                    Found::Here => break,
                    Found::Nowhere => return Ok(false),
                    Found::NotYet => {}
                }
            }
            (pattern, text) = (wanted.pattern, wanted.text);
        }
    }

    #[cold]
    fn report(&mut self) -> Result<(), Stopped> {
        let compared = self.unreported / PASSED_PER_COMPARED;
        self.unreported %= PASSED_PER_COMPARED;
        if work::done(compared as u64) { Ok(()) } else { Err(Stopped) }
    }

    /// Compares from these places on, and moves them.
    #[inline]
    fn follow(&mut self, pattern: &mut usize, text: &mut usize) -> Stretch {
        let rules = self.rules;
        // These are looked at for each byte.
        let (mut in_pattern, mut in_text) = (*pattern, *text);
        let stretch = loop {
            let (wanted, found) = (byte(self.pattern, in_pattern), byte(self.text, in_text));
            if rules.is_simple(wanted) {
                if rules.are_equal(wanted, found) {
                    (in_pattern, in_text) = (in_pattern + 1, in_text + 1);
                    continue;
                }
                if u32::from(wanted) != rules.one || found == 0 {
                    break Stretch::Differs;
                }
            }
            if wanted == 0 {
                break if found == 0 { Stretch::Fits } else { Stretch::Differs };
            }
            if u32::from(wanted) == rules.all {
                in_pattern += 1;
                break Stretch::Star;
            }
            let fits;
            (fits, in_pattern, in_text) = self.follow_character(in_pattern, in_text);
            if !fits {
                break Stretch::Differs;
            }
        };
        self.compared(in_pattern + in_text - *pattern - *text + 1);
        (*pattern, *text) = (in_pattern, in_text);
        stretch
    }

    /// Compares one character of the text with what stands for one in the pattern, which is not at its
    /// end nor at a star.
    fn follow_character(&self, mut pattern: usize, mut text: usize) -> (bool, usize, usize) {
        let rules = &self.rules;
        let mut wanted = read(self.pattern, &mut pattern);
        let is_other = wanted == rules.other;
        if is_other && rules.has_sets {
            let is_in_set = self.is_in_set(&mut pattern, &mut text);
            return (is_in_set, pattern, text);
        }
        if is_other {
            wanted = read(self.pattern, &mut pattern);
        }
        let found = read(self.text, &mut text);
        if wanted == END || found == END {
            return (false, pattern, text);
        }
        let is_wildcard = wanted == rules.one && !is_other;
        let are_equal = match (u8::try_from(wanted), u8::try_from(found)) {
            (Ok(wanted), Ok(found)) => rules.are_equal(wanted, found),
            _ => wanted == found,
        };
        (are_equal || is_wildcard, pattern, text)
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
    fn behind_star(&mut self, mut pattern: usize, mut text: usize) -> Behind {
        let (rules, from) = (self.rules, pattern + text);
        let behind = loop {
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
                    break Behind::Wanted(Wanted { first: First::Set(pattern), pattern, text });
                }
                wanted = read(self.pattern, &mut pattern);
                if wanted == END {
                    break Behind::Misfit;
                }
            }
            let first = match u8::try_from(wanted) {
                Ok(first) if first.is_ascii() => {
                    First::Pair(Pair::new(&rules, first, byte(self.pattern, pattern)))
                }
                _ => First::Character(wanted),
            };
            break Behind::Wanted(Wanted { first, pattern, text });
        };
        self.compared(pattern + text - from);
        behind
    }

    /// Looks for the first of what is wanted, and moves behind it.
    #[inline]
    fn find(&mut self, wanted: &mut Wanted) -> Found {
        match &wanted.first {
            First::Pair(pair) => {
                let start = wanted.text;
                let place = pair.find(self.text, start);
                wanted.text = place + 1;
                self.unreported += place - start;
                if place >= self.text.len() {
                    return Found::Nowhere;
                }
                let from = if self.searched.is_empty() { start } else { self.searched.start };
                self.searched = from..place;
                Found::Here
            }
            First::Character(character) => self.read_to(*character, &mut wanted.text),
            First::Set(members) => {
                let members = *members;
                self.read_to_member(members, wanted)
            }
        }
    }

    /// Moves behind the next such character. Several sequences of bytes may stand for one, so all are read.
    fn read_to(&mut self, wanted: u32, text: &mut usize) -> Found {
        let start = *text;
        let found = loop {
            if byte(self.text, *text).is_ascii() {
                *text = next_long(self.text, *text);
            }
            let found = read(self.text, text);
            if found == wanted {
                break Found::Here;
            }
            if found == END {
                break Found::Nowhere;
            }
            if *text - start > BYTES_PER_REPORT {
                break Found::NotYet;
            }
        };
        self.compared(*text - start);
        found
    }

    /// Moves behind the next character that is one of a set's.
    fn read_to_member(&mut self, members: usize, wanted: &mut Wanted) -> Found {
        let mut compared = 0;
        let found = loop {
            if byte(self.text, wanted.text) == 0 {
                break Found::Nowhere;
            }
            let start = wanted.text;
            wanted.pattern = members;
            let is_member = self.is_in_set(&mut wanted.pattern, &mut wanted.text);
            compared += wanted.pattern - members + wanted.text - start;
            if is_member {
                break Found::Here;
            }
            if compared > BYTES_PER_REPORT {
                break Found::NotYet;
            }
        };
        self.compared(compared);
        found
    }

    fn compared(&mut self, bytes: usize) {
        self.unreported += bytes * PASSED_PER_COMPARED;
    }
}

/// A byte of ASCII that is searched for, and the one behind it, as far as that is known. Each eightfold.
struct Pair {
    first: u64,
    /// In what a byte may differ from the first.
    first_case: u64,
    second: u64,
    second_case: u64,
    /// All bits if any byte may be second.
    any_second: u64,
}

impl Pair {
    /// Of a byte, and of the pattern's next one: 0 if it ends.
    fn new(rules: &Rules, first: u8, second: u8) -> Self {
        let case = |byte: u8| if byte.is_ascii_alphabetic() { rules.case } else { 0 };
        let is_known = second == 0 || (rules.is_simple(second) && u32::from(second) != rules.one);
        Self {
            first: eightfold(first | case(first)),
            first_case: eightfold(case(first)),
            second: eightfold(second | case(second)),
            second_case: eightfold(case(second)),
            any_second: if is_known { 0 } else { u64::MAX },
        }
    }

    /// Where the pair is next, or else where the text ends or behind it.
    #[inline]
    fn find(&self, text: &[u8], start: usize) -> usize {
        let mut place = start;
        loop {
            for _ in 0..WORDS_FOR_PAIR {
                let Some(bytes) = rest(text, place).first_chunk::<9>() else {
                    return self.find_in_last(text, place);
                };
                let ([here @ .., _], [_, next @ ..]) = (bytes, bytes);
                let hits = self.hits(u64::from_le_bytes(*here), u64::from_le_bytes(*next));
                if hits != 0 {
                    return place + (hits.trailing_zeros() / 8) as usize;
                }
                place += 8;
            }
            place += self.find_first(rest(text, place));
        }
    }

    /// The same where at most eight bytes are left.
    #[inline]
    fn find_in_last(&self, text: &[u8], place: usize) -> usize {
        let here = last_eight(text, place);
        let hits = self.hits(here, here >> 8);
        if hits == 0 { text.len() } else { place + (hits.trailing_zeros() / 8) as usize }
    }

    /// The highest bit of each byte that is the first of the pair.
    #[inline]
    fn hits(&self, here: u64, next: u64) -> u64 {
        let second = zeros((next | self.second_case) ^ self.second) | self.any_second;
        zeros((here | self.first_case) ^ self.first) & second
    }

    /// Where the first byte is next in what is left of a text, or else where that ends.
    fn find_first(&self, rest: &[u8]) -> usize {
        let ([first, ..], [case, ..]) = (self.first.to_le_bytes(), self.first_case.to_le_bytes());
        let found =
            if case == 0 { memchr(first, rest) } else { memchr2(first, first ^ case, rest) };
        found.unwrap_or(rest.len())
    }
}

/// Where the next byte is that is not of ASCII, or else where the text ends.
fn next_long(text: &[u8], mut place: usize) -> usize {
    loop {
        let bytes = rest(text, place).first_chunk();
        let here =
            bytes.map_or_else(|| last_eight(text, place), |bytes| u64::from_le_bytes(*bytes));
        let hits = (here & eightfold(0x80)) | zeros(here);
        if hits != 0 {
            return place + (hits.trailing_zeros() / 8) as usize;
        }
        place += 8;
    }
}

/// Eight bytes from a place on of which at most eight are left, the first one lowest; 0 behind the end.
#[inline]
fn last_eight(text: &[u8], place: usize) -> u64 {
    let rest = rest(text, place);
    match text.last_chunk() {
        Some(bytes) => {
            let behind = 64 - 8 * u32::try_from(rest.len()).unwrap_or_default();
            u64::from_le_bytes(*bytes).checked_shr(behind).unwrap_or(0)
        }
        None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// What is left of a text from a place on.
#[inline]
fn rest(text: &[u8], place: usize) -> &[u8] {
    text.get(place..).unwrap_or_default()
}

const fn eightfold(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The highest bit of each byte that is 0, and no other.
#[inline]
fn zeros(word: u64) -> u64 {
    const LOW: u64 = eightfold(0x7f);
    !(((word & LOW) + LOW) | word | LOW)
}

/// The character a text consists of up to its end or first NUL byte, if it is one.
pub(super) fn only_character(text: &[u8]) -> Option<u32> {
    let mut end = 0;
    let character = read(text, &mut end);
    (character != END && byte(text, end) == 0).then_some(character)
}

/// In what upper and lower case of a letter of ASCII differ.
const CASE: u8 = 0x20;

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
