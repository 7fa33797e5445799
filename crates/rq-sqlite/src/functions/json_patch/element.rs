//! Elements of JSONB, SQLite's binary form of JSON, and the labels of objects.
//!
//! An element is a header, whose first byte has the kind in its low half and the size of the payload in
//! its high half or in the 1, 2, 4 or 8 bytes behind it, and a payload. A header need not be the shortest
//! for its payload. Elements come from clients and may be malformed within: only what is read here is
//! known to be sound.

use std::hash::{Hash as _, Hasher};

/// The kinds that have no payload: null, true and false are 0 to 2.
const LAST_CONSTANT: u8 = 2;

/// Text without escapes.
const TEXT: u8 = 7;

/// Text without escapes that would need some in JSON.
const TEXT_RAW: u8 = 10;

/// The kind of objects.
const OBJECT: u8 = 12;

/// The lengths a header may have in bytes; all but the first go with a high half of their own.
const HEADER_LENGTHS: [usize; 5] = [1, 2, 3, 5, 9];

/// The high half of the first byte of headers longer than one byte, as far as it says so.
const FIRST_LONG_SIZE: u8 = 12;

/// What stands for a character that is escaped wrongly.
const INVALID: u32 = 0x99999;

/// An element of JSONB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'a> {
    bytes: &'a [u8],
    header: usize,
}

impl<'a> Element<'a> {
    /// The element at the beginning of `bytes`; `None` if it does not end there.
    pub(super) fn first(bytes: &'a [u8]) -> Option<Self> {
        let size = bytes.first()? >> 4;
        if size < FIRST_LONG_SIZE {
            let bytes = bytes.get(..1 + usize::from(size))?;
            return Some(Self { bytes, header: 1 });
        }
        let header = HEADER_LENGTHS[usize::from(size - FIRST_LONG_SIZE) + 1];
        let number = bytes.get(1..header)?;
        let payload = number
            .iter()
            .try_fold(0_u32, |payload, byte| Some(payload.checked_mul(256)? | u32::from(*byte)))?;
        let length = header.checked_add(usize::try_from(payload).ok()?)?;
        Some(Self { bytes: bytes.get(..length)?, header })
    }

    /// Header and payload.
    pub(super) fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The length of the header in bytes.
    pub(super) fn header(self) -> usize {
        self.header
    }

    /// What the element holds.
    pub(super) fn payload(self) -> &'a [u8] {
        &self.bytes[self.header..]
    }

    /// Whether it is an object.
    pub(super) fn is_object(self) -> bool {
        self.kind() == OBJECT
    }

    /// Whether it is null.
    pub(super) fn is_null(self) -> bool {
        self.kind() == 0
    }

    /// Reads it as the label of a member; `None` if it is no text.
    pub(super) fn label(self) -> Option<Label<'a>> {
        let kind = self.kind();
        let is_raw = kind == TEXT || kind == TEXT_RAW;
        (TEXT..=TEXT_RAW).contains(&kind).then_some(Label { text: self.payload(), is_raw })
    }

    /// The same element made longer by a longer header; `None` where there is no such header.
    pub(super) fn widened(self, by: usize) -> Option<Box<[u8]>> {
        let header = self.header + by;
        if self.kind() <= LAST_CONSTANT || by == 0 || !HEADER_LENGTHS.contains(&header) {
            return None;
        }
        let mut bytes = Vec::with_capacity(header + self.payload().len());
        write_header(self.kind(), self.payload().len(), header, &mut bytes);
        bytes.extend_from_slice(self.payload());
        Some(bytes.into())
    }

    fn kind(self) -> u8 {
        self.bytes[0] & 0x0f
    }
}

/// Writes the header of an object with a payload of so many bytes, in a header of a length that holds it.
pub(super) fn write_object_header(payload: usize, header: usize, out: &mut Vec<u8>) {
    write_header(OBJECT, payload, header, out);
}

fn write_header(kind: u8, payload: usize, header: usize, out: &mut Vec<u8>) {
    let number = (payload as u64).to_be_bytes();
    let size = match header {
        2 => FIRST_LONG_SIZE,
        3 => 13,
        5 => 14,
        9 => 15,
        _ => number[7],
    };
    out.push(size << 4 | kind);
    out.extend_from_slice(&number[9 - header..]);
}

/// The length of the shortest header for a payload of so many bytes.
pub(super) fn shortest_header(payload: usize) -> usize {
    match payload {
        0..=11 => 1,
        12..=0xff => 2,
        0x100..=0xffff => 3,
        _ => 5,
    }
}

/// The name of a member of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label<'a> {
    text: &'a [u8],
    /// Whether a backslash in it is nothing but that.
    is_raw: bool,
}

impl<'a> Label<'a> {
    /// Whether there may be escapes in it.
    pub(super) fn is_escaped(self) -> bool {
        !self.is_raw
    }

    /// Whether two labels name the same member. Two without escapes do if they are equal to the byte;
    /// others if they are the same characters up to the first that is NUL.
    pub(super) fn names_the_same_as(self, other: Label<'_>) -> bool {
        if self.is_raw && other.is_raw {
            self.text == other.text
        } else {
            self.characters().eq(other.characters())
        }
    }

    /// Feeds what decides between labels without escapes.
    pub(super) fn hash_bytes(self, state: &mut impl Hasher) {
        (false, self.text).hash(state);
    }

    /// Feeds what decides if one of two labels has escapes.
    pub(super) fn hash_characters(self, state: &mut impl Hasher) {
        true.hash(state);
        self.characters().for_each(|character| state.write_u32(character));
    }

    fn characters(self) -> Characters<'a> {
        Characters { rest: self.text, is_raw: self.is_raw }
    }
}

/// The characters of a label up to the first NUL, as SQLite reads them: what is no UTF-8 gives numbers
/// too.
struct Characters<'a> {
    rest: &'a [u8],
    is_raw: bool,
}

impl Iterator for Characters<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (character, length) = match self.rest.first()? {
            b'\\' if !self.is_raw => unescape(self.rest),
            _ => read_utf8(self.rest),
        };
        self.rest = &self.rest[length..];
        (character != 0).then_some(character)
    }
}

/// The character at the beginning of a text that is not empty, and its length in bytes.
fn read_utf8(text: &[u8]) -> (u32, usize) {
    let first = text[0];
    let value = match first {
        0..=0xbf => return (u32::from(first), 1),
        0xc0..=0xdf => first & 0x1f,
        0xe0..=0xef => first & 0x0f,
        0xf0..=0xf7 => first & 0x07,
        0xf8..=0xfb => first & 0x03,
        0xfc..=0xfd => first & 0x01,
        0xfe..=0xff => 0,
    };
    let more = text[1..].iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80);
    more.fold((u32::from(value), 1), |(value, length), byte| {
        (value << 6 | u32::from(byte & 0x3f), length + 1)
    })
}

/// The character an escape at the beginning of a text stands for, and the length of the escape.
fn unescape(text: &[u8]) -> (u32, usize) {
    let cut_off = (INVALID, text.len());
    let Some(sign) = text.get(1) else { return cut_off };
    match sign {
        b'u' => match (hexadecimal(text, 2, 4), hexadecimal(text, 8, 4)) {
            (None, _) => cut_off,
            (Some(high @ 0xd800..=0xdbff), Some(low @ 0xdc00..=0xdfff))
                if text[6..8] == *b"\\u" =>
            {
                (((high & 0x3ff) << 10) + (low & 0x3ff) + 0x10000, 12)
            }
            (Some(value), _) => (value, 6),
        },
        b'x' => hexadecimal(text, 2, 2).map_or(cut_off, |value| (value, 4)),
        b'b' => (0x08, 2),
        b'f' => (0x0c, 2),
        b'n' => (0x0a, 2),
        b'r' => (0x0d, 2),
        b't' => (0x09, 2),
        b'v' => (0x0b, 2),
        b'0' if text.get(2).is_some_and(u8::is_ascii_digit) => (INVALID, 2),
        b'0' => (0, 2),
        b'\'' | b'"' | b'/' | b'\\' => (u32::from(*sign), 2),
        b'\r' | b'\n' | 0xe2 => match line_continuations(text) {
            0 => cut_off,
            skipped if skipped == text.len() => (0, skipped),
            skipped => {
                let behind = &text[skipped..];
                let read = if behind[0] == b'\\' { unescape } else { read_utf8 };
                let (character, length) = read(behind);
                (character, skipped + length)
            }
        },
        _ => (INVALID, 2),
    }
}

/// The number in so many hexadecimal digits; other bytes count for what SQLite makes of them.
fn hexadecimal(text: &[u8], start: usize, digits: usize) -> Option<u32> {
    let digits = text.get(start..start + digits)?;
    Some(digits.iter().fold(0, |value, digit| {
        let letter = if digit & 0x40 == 0 { 0 } else { 9 };
        value << 4 | u32::from(digit.wrapping_add(letter) & 0x0f)
    }))
}

/// How many bytes at the beginning are backslashes before ends of lines, with those ends.
fn line_continuations(text: &[u8]) -> usize {
    let mut length = 0;
    loop {
        length += match &text[length..] {
            [b'\\', b'\r', b'\n', ..] => 3,
            [b'\\', b'\r' | b'\n', ..] => 2,
            [b'\\', 0xe2, 0x80, 0xa8 | 0xa9, ..] => 4,
            _ => return length,
        };
    }
}
