//! A reader of JSON values over bytes, with the leniencies of Go's streaming decoder.
//!
//! It reads values one by one and does not look at what follows them. Invalid UTF-8 and lone
//! surrogates in strings become U+FFFD. It never recurses, and allocates only for the strings it
//! returns and one bit per level of nesting.

use crate::json;

/// The deepest nesting of arrays and objects in one value.
const NESTING_MAX: usize = 10_000;

/// The text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What kind of value begins at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    String,
    Number,
    True,
    False,
    Null,
    Array,
    Object,
}

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// The next byte behind white space, without taking it.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.position) {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Some(byte);
            }
            self.position += 1;
        }
        None
    }

    /// Takes the next byte behind white space if it is this one.
    pub(super) fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.position += usize::from(found);
        found
    }

    /// Takes the next byte behind white space, which must be this one.
    pub(super) fn expect(&mut self, wanted: u8) -> Result<(), Malformed> {
        if self.take(wanted) { Ok(()) } else { Err(Malformed) }
    }

    /// What kind of value comes next, without taking it.
    pub(super) fn start(&mut self) -> Result<Start, Malformed> {
        match self.peek() {
            Some(b'"') => Ok(Start::String),
            Some(b'-' | b'0'..=b'9') => Ok(Start::Number),
            Some(b't') => Ok(Start::True),
            Some(b'f') => Ok(Start::False),
            Some(b'n') => Ok(Start::Null),
            Some(b'[') => Ok(Start::Array),
            Some(b'{') => Ok(Start::Object),
            _ => Err(Malformed),
        }
    }

    /// Takes `true`, `false` or `null`.
    pub(super) fn literal(&mut self, literal: &str) -> Result<(), Malformed> {
        let rest = &self.bytes[self.position..];
        if !rest.starts_with(literal.as_bytes()) {
            return Err(Malformed);
        }
        self.position += literal.len();
        Ok(())
    }

    /// Takes a number and gives it as written.
    pub(super) fn number(&mut self) -> Result<&'a str, Malformed> {
        let start = self.position;
        self.position += usize::from(self.bytes.get(start) == Some(&b'-'));
        match self.bytes.get(self.position) {
            // A zero stands alone; further digits are not part of the number.
            Some(b'0') => self.position += 1,
            _ => self.digits()?,
        }
        if self.bytes.get(self.position) == Some(&b'.') {
            self.position += 1;
            self.digits()?;
        }
        if matches!(self.bytes.get(self.position), Some(b'e' | b'E')) {
            self.position += 1;
            if matches!(self.bytes.get(self.position), Some(b'+' | b'-')) {
                self.position += 1;
            }
            self.digits()?;
        }
        std::str::from_utf8(&self.bytes[start..self.position]).map_err(|_| Malformed)
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let rest = &self.bytes[self.position..];
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.position += count;
        if count > 0 { Ok(()) } else { Err(Malformed) }
    }

    /// Takes a string, which must come next.
    pub(super) fn string(&mut self) -> Result<String, Malformed> {
        self.expect(b'"')?;
        let start = self.position;
        let end = self.plain_end();
        let plain = &self.bytes[start..end];
        if self.bytes.get(end) == Some(&b'"') {
            self.position = end + 1;
            return Ok(match std::str::from_utf8(plain) {
                Ok(text) => text.to_owned(),
                Err(_) => json::replace_invalid(plain),
            });
        }
        let mut decoded = plain.to_vec();
        self.position = end;
        loop {
            match self.bytes.get(self.position) {
                Some(b'"') => break,
                Some(b'\\') => self.escape(&mut decoded)?,
                // A control character, or the end.
                _ => return Err(Malformed),
            }
            let end = self.plain_end();
            decoded.extend_from_slice(&self.bytes[self.position..end]);
            self.position = end;
        }
        self.position += 1;
        Ok(String::from_utf8(decoded)
            .unwrap_or_else(|error| json::replace_invalid(error.as_bytes())))
    }

    /// Where the bytes that stand for themselves end.
    fn plain_end(&self) -> usize {
        let rest = &self.bytes[self.position..];
        let special = |&byte: &u8| byte < 0x20 || byte == b'"' || byte == b'\\';
        self.position + rest.iter().position(special).unwrap_or(rest.len())
    }

    /// Takes an escape sequence and appends what it stands for.
    fn escape(&mut self, decoded: &mut Vec<u8>) -> Result<(), Malformed> {
        let kind = *self.bytes.get(self.position + 1).ok_or(Malformed)?;
        self.position += 2;
        decoded.push(match kind {
            b'"' | b'\\' | b'/' => kind,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let c = self.unicode_escape()?;
                decoded.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(Malformed),
        });
        Ok(())
    }

    /// Takes the digits behind `\u`, and the second half of a surrogate pair if it follows.
    fn unicode_escape(&mut self) -> Result<char, Malformed> {
        let unit = self.code_unit(self.position)?;
        self.position += 4;
        if let Some(c) = char::from_u32(unit) {
            return Ok(c);
        }
        if (0xD800..0xDC00).contains(&unit)
            && self.bytes.get(self.position..self.position + 2) == Some(b"\\u")
        {
            let low = self.code_unit(self.position + 2)?;
            if (0xDC00..0xE000).contains(&low) {
                self.position += 6;
                let combined = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                return char::from_u32(combined).ok_or(Malformed);
            }
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn code_unit(&self, position: usize) -> Result<u32, Malformed> {
        let digits = self.bytes.get(position..position + 4).ok_or(Malformed)?;
        digits.iter().try_fold(0, |unit, &byte| {
            char::from(byte).to_digit(16).map(|digit| unit << 4 | digit).ok_or(Malformed)
        })
    }

    /// Takes a string without keeping it.
    fn skip_string(&mut self) -> Result<(), Malformed> {
        self.expect(b'"')?;
        loop {
            self.position = self.plain_end();
            match self.bytes.get(self.position) {
                Some(b'"') => break,
                Some(b'\\') => {}
                _ => return Err(Malformed),
            }
            match self.bytes.get(self.position + 1) {
                Some(b'u') => {
                    self.code_unit(self.position + 2)?;
                    self.position += 6;
                }
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.position += 2,
                _ => return Err(Malformed),
            }
        }
        self.position += 1;
        Ok(())
    }

    /// Takes a value of any kind without keeping it. `depth` is the nesting it already stands in.
    pub(super) fn skip_value(&mut self, depth: usize) -> Result<(), Malformed> {
        // One entry per open level: whether it is an object.
        let mut open: Vec<bool> = Vec::new();
        loop {
            match self.start()? {
                Start::String => self.skip_string()?,
                Start::Number => self.number().map(|_| ())?,
                Start::True => self.literal("true")?,
                Start::False => self.literal("false")?,
                Start::Null => self.literal("null")?,
                start @ (Start::Array | Start::Object) => {
                    let is_object = start == Start::Object;
                    if depth + open.len() >= NESTING_MAX {
                        return Err(Malformed);
                    }
                    self.position += 1;
                    if !self.take(if is_object { b'}' } else { b']' }) {
                        open.push(is_object);
                        if is_object {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
            }
            // A value is complete: close what ends here, or go on to the next value.
            loop {
                let Some(&is_object) = open.last() else { return Ok(()) };
                if self.take(b',') {
                    if is_object {
                        self.skip_key()?;
                    }
                    break;
                }
                self.expect(if is_object { b'}' } else { b']' })?;
                open.pop();
            }
        }
    }

    fn skip_key(&mut self) -> Result<(), Malformed> {
        self.skip_string()?;
        self.expect(b':')
    }
}
