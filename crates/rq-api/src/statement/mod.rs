//! Request bodies: lists of statements with their parameters, as JSON or as plain text.
//!
//! [`decode()`] accepts exactly what the API documents and reports errors in the order a parser
//! meets them that reads from left to right; [`encode()`] is its inverse.

mod decode;
mod encode;
mod reader;

pub use decode::{DecodeError, DecodeOptions, decode, decode_text};
pub use encode::{EncodeError, encode};

/// The bytes of a text of the form `x'HEX'`, which stands for a BLOB in a parameter. White space
/// around it does not count.
fn blob_literal(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().strip_prefix(['x', 'X'])?.strip_prefix('\'')?.strip_suffix('\'')?;
    if digits.len() % 2 != 0 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}
