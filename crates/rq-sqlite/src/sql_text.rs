//! A text of SQL statements being worked through, one statement after the other.
//!
//! SQLite is handed one buffer that ends in a NUL byte, at growing offsets. Without the NUL it would copy
//! all that is left of the text for each statement, and a text of many statements would take time in
//! proportion to its square. So what is done here for each statement must not depend on how much is
//! left; the text as a whole is looked through and copied once, when its first statement is compiled.

use std::ffi::CString;

use rusqlite::ffi;

use crate::{connection::LONGEST_VALUE, error::SqliteError};

/// A text and how far it is worked through.
#[derive(Debug)]
pub(crate) struct SqlText<'a> {
    text: &'a str,
    position: usize,
    /// What was left of the text when it was first wanted, with a NUL byte behind it.
    terminated: Option<Terminated>,
}

#[derive(Debug)]
struct Terminated {
    copy: CString,
    /// Where in the text it begins.
    start: usize,
}

impl<'a> SqlText<'a> {
    /// Of a text of which nothing is done yet.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, position: 0, terminated: None }
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or_default()
    }

    /// Whether nothing is left.
    pub(crate) fn is_at_end(&self) -> bool {
        self.position >= self.text.len()
    }

    /// Whether something of it is done.
    pub(crate) fn is_begun(&self) -> bool {
        self.position > 0
    }

    /// Moves on by some bytes of what is left.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.position = self.position.saturating_add(bytes).min(self.text.len());
    }

    /// What is left, with the only NUL byte at its end. (No `CStr`: making one looks for the NUL byte.)
    ///
    /// # Errors
    /// A NUL byte in what was left at the first call; that was longer than [`LONGEST_VALUE`].
    pub(crate) fn terminated(&mut self) -> Result<&[u8], SqliteError> {
        let terminated = match self.terminated.take() {
            Some(terminated) => terminated,
            None => Terminated { copy: terminate(self.rest())?, start: self.position },
        };
        let Terminated { copy, start } = self.terminated.insert(terminated);
        Ok(&copy.as_bytes_with_nul()[self.position - *start..])
    }
}

fn terminate(text: &str) -> Result<CString, SqliteError> {
    let copy = CString::new(text).map_err(|_| SqliteError {
        code: ffi::SQLITE_ERROR,
        message: "SQL text contains a NUL character".to_owned(),
    })?;
    if text.len() > LONGEST_VALUE.unsigned_abs() as usize {
        let message = "statement too long".to_owned();
        return Err(SqliteError { code: ffi::SQLITE_TOOBIG, message });
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_text_is_handed_over_from_one_terminated_buffer() {
        let sql = "SELECT 1; SELECT 'é'; ";
        let mut text = SqlText::new(sql);
        text.advance(9);
        let first = text.terminated().unwrap();
        assert_eq!(first, " SELECT 'é'; \0".as_bytes());
        let end = first.as_ptr_range().end;
        while !text.is_at_end() {
            let left = text.rest().len();
            let bytes = text.terminated().unwrap();
            assert_eq!((bytes.len(), bytes.as_ptr_range().end), (left + 1, end), "copied again");
            let next = text.rest().chars().next().map_or(1, char::len_utf8);
            text.advance(next);
        }
        assert_eq!((text.rest(), text.terminated().unwrap()), ("", &b"\0"[..]));
    }

    #[test]
    fn a_nul_byte_anywhere_and_an_endless_text_are_refused() {
        let refusal = |sql: &str| SqlText::new(sql).terminated().unwrap_err();
        assert_eq!(refusal("SELECT 1;\0").message, "SQL text contains a NUL character");
        let longest = " ".repeat(LONGEST_VALUE.unsigned_abs() as usize);
        assert!(SqlText::new(&longest).terminated().is_ok());
        assert_eq!(refusal(&(longest + " ")).code, ffi::SQLITE_TOOBIG);
    }
}
