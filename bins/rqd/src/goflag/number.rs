//! Integers as Go reads them with base detection.
//!
//! `0x`, `0o` or a leading `0`, and `0b` choose the base; single underscores may stand between
//! digits and behind the prefix.

const SYNTAX: &str = "parse error";
const RANGE: &str = "value out of range";

/// Reads a signed integer; the error is the end of Go's sentence.
pub(crate) fn parse_int(text: &str) -> Result<i64, &'static str> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(parse_uint(digits)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| RANGE)
}

/// Reads an unsigned integer, which has no sign; the error is the end of Go's sentence.
pub(crate) fn parse_uint(text: &str) -> Result<u64, &'static str> {
    let (radix, digits, prefixed) = split_prefix(text);
    if digits.is_empty() {
        // A lone `0` is its own prefix.
        return if text == "0" { Ok(0) } else { Err(SYNTAX) };
    }
    let mut value: Option<u64> = Some(0);
    let mut after_digit = prefixed;
    for character in digits.chars() {
        if character == '_' {
            if !after_digit {
                return Err(SYNTAX);
            }
            after_digit = false;
            continue;
        }
        let digit = character.to_digit(radix).ok_or(SYNTAX)?;
        value = value
            .and_then(|value| value.checked_mul(u64::from(radix)))
            .and_then(|value| value.checked_add(u64::from(digit)));
        after_digit = true;
    }
    if !after_digit {
        return Err(SYNTAX);
    }
    value.ok_or(RANGE)
}

/// Gives base, digits, and whether a prefix stood before them.
fn split_prefix(text: &str) -> (u32, &str, bool) {
    let lower = text.get(..2).map(str::to_ascii_lowercase);
    match lower.as_deref() {
        Some("0x") if text.len() > 2 => (16, &text[2..], true),
        Some("0o") if text.len() > 2 => (8, &text[2..], true),
        Some("0b") if text.len() > 2 => (2, &text[2..], true),
        _ if text.starts_with('0') => (8, &text[1..], true),
        _ => (10, text, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_and_separators() {
        let rows: [(&str, Result<u64, &str>); 26] = [
            ("0", Ok(0)),
            ("8192", Ok(8192)),
            ("0x10", Ok(16)),
            ("0XfF", Ok(255)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("0b101", Ok(5)),
            ("1_000", Ok(1000)),
            ("0_7", Ok(7)),
            ("0x_ff", Ok(255)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(RANGE)),
            ("99999999999999999999999", Err(RANGE)),
            ("", Err(SYNTAX)),
            ("x", Err(SYNTAX)),
            ("-1", Err(SYNTAX)),
            ("+1", Err(SYNTAX)),
            ("08", Err(SYNTAX)),
            ("0x", Err(SYNTAX)),
            ("0b2", Err(SYNTAX)),
            ("_1", Err(SYNTAX)),
            ("1_", Err(SYNTAX)),
            ("1__0", Err(SYNTAX)),
            ("1.5", Err(SYNTAX)),
            (" 1", Err(SYNTAX)),
            ("é1", Err(SYNTAX)),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_uint(text), expected, "{text:?}");
        }
    }

    #[test]
    fn signs() {
        let rows = [
            ("5", Ok(5)),
            ("+5", Ok(5)),
            ("-0x10", Ok(-16)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err(RANGE)),
            ("--5", Err(SYNTAX)),
            ("-", Err(SYNTAX)),
            ("", Err(SYNTAX)),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_int(text), expected, "{text:?}");
        }
    }
}
