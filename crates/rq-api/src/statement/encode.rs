//! From statements to a request body, for clients.

use rq_sql::{Statement, Value};

use super::blob_literal;
use crate::json;

/// Why a statement cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A text parameter is not UTF-8.
    #[error("a text parameter is not UTF-8")]
    InvalidUtf8,
    /// A number is not finite.
    #[error("a number parameter is not finite")]
    NotFinite,
    /// A text of the form `x'..'` would arrive as a BLOB, unless the request is strict.
    #[error("a text parameter of the form x'..' arrives as a BLOB unless the request is strict")]
    LooksLikeBlob,
}

/// Encodes statements as a JSON body. `strict` says that the request will carry `X-Rq-Strict: 1`.
///
/// # Errors
/// A parameter that would not arrive as it is.
pub fn encode(statements: &[Statement], strict: bool) -> Result<Vec<u8>, EncodeError> {
    let mut out = vec![b'['];
    for (index, statement) in statements.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if statement.parameters.is_empty() {
            json::write_string(&mut out, statement.sql.as_bytes());
            continue;
        }
        out.push(b'[');
        json::write_string(&mut out, statement.sql.as_bytes());
        for parameter in &statement.parameters {
            out.push(b',');
            match parameter.name.as_deref() {
                None | Some("") => write_value(&mut out, &parameter.value, strict)?,
                Some(name) => {
                    // An object for each: in one, equal names would get lost.
                    out.push(b'{');
                    json::write_string(&mut out, name.as_bytes());
                    out.push(b':');
                    write_value(&mut out, &parameter.value, strict)?;
                    out.push(b'}');
                }
            }
        }
        out.push(b']');
    }
    out.push(b']');
    Ok(out)
}

fn write_value(out: &mut Vec<u8>, value: &Value, strict: bool) -> Result<(), EncodeError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Integer(integer) => json::write_integer(out, *integer),
        Value::Real(real) if !real.is_finite() => return Err(EncodeError::NotFinite),
        // Debug always writes a point or an exponent, so it does not arrive as an integer.
        Value::Real(real) => out.extend_from_slice(format!("{real:?}").as_bytes()),
        Value::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| EncodeError::InvalidUtf8)?;
            if !strict && blob_literal(text).is_some() {
                return Err(EncodeError::LooksLikeBlob);
            }
            json::write_string(out, text.as_bytes());
        }
        Value::Blob(blob) => json::write_byte_array(out, blob),
    }
    Ok(())
}
