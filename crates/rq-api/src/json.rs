//! Writing JSON byte for byte as Go's encoder does, straight into a buffer.
//!
//! Assumes that its callers put the values together in the right order; only strings, numbers and
//! indentation are its business. It must not allocate per value.

/// What [`indent`] repeats per level.
const INDENTATION: &[u8] = b"    ";

/// Writes text as a JSON string. `<`, `>`, `&`, U+2028 and U+2029 are escaped; every byte that is
/// not part of valid UTF-8 becomes `\ufffd`.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        write_escaped(out, chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}

/// Whether a byte of valid UTF-8 can need an escape. 0xE2 begins U+2028 and U+2029.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special[b'<' as usize] = true;
    special[b'>' as usize] = true;
    special[b'&' as usize] = true;
    special[0xE2] = true;
    special
};

fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut written = 0;
    for (position, &byte) in text.iter().enumerate() {
        if !SPECIAL[usize::from(byte)] {
            continue;
        }
        let separator = match text.get(position + 1..position + 3) {
            Some(&[0x80, last @ (0xA8 | 0xA9)]) if byte == 0xE2 => Some(last),
            _ if byte == 0xE2 => continue,
            _ => None,
        };
        out.extend_from_slice(&text[written..position]);
        written = position + 1;
        if let Some(last) = separator {
            out.extend_from_slice(if last == 0xA8 { b"\\u2028" } else { b"\\u2029" });
            written = position + 3;
            continue;
        }
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEXADECIMAL[usize::from(byte >> 4)]);
                out.push(HEXADECIMAL[usize::from(byte & 0xF)]);
            }
        }
    }
    out.extend_from_slice(&text[written..]);
}

const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

/// Replaces every byte that is not part of valid UTF-8 by U+FFFD.
pub(crate) fn replace_invalid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

/// Writes an integer.
pub(crate) fn write_integer(out: &mut Vec<u8>, integer: i64) {
    if integer < 0 {
        out.push(b'-');
    }
    write_unsigned(out, integer.unsigned_abs());
}

/// Writes an unsigned integer.
pub(crate) fn write_unsigned(out: &mut Vec<u8>, mut integer: u64) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(integer % 10).expect("a digit fits a byte");
        integer /= 10;
        if integer == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Writes bytes as an array of integers.
pub(crate) fn write_byte_array(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'[');
    for (index, &byte) in bytes.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_unsigned(out, byte.into());
    }
    out.push(b']');
}

/// Writes a finite double with the fewest digits that read back the same: like JavaScript, except
/// that negative zero keeps its sign. Writes `null` for what is not finite.
pub(crate) fn write_real(out: &mut Vec<u8>, real: f64) {
    if !real.is_finite() {
        out.extend_from_slice(b"null");
    } else if real == 0.0 && real.is_sign_negative() {
        out.extend_from_slice(b"-0");
    } else {
        out.extend_from_slice(ryu_js::Buffer::new().format_finite(real).as_bytes());
    }
}

/// Writes a document. Keys are sorted by bytes at every level; numbers keep their precision.
pub(crate) fn write_value(out: &mut Vec<u8>, value: &serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(unsigned), ..) => write_unsigned(out, unsigned),
            (None, Some(signed), _) => write_integer(out, signed),
            (None, None, Some(real)) => write_real(out, real),
            (None, None, None) => out.extend_from_slice(number.to_string().as_bytes()),
        },
        Value::String(text) => write_string(out, text.as_bytes()),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(out, item);
            }
            out.push(b']');
        }
        Value::Object(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| key.as_bytes());
            out.push(b'{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(out, key.as_bytes());
                out.push(b':');
                write_value(out, value);
            }
            out.push(b'}');
        }
    }
}

/// Indents compact JSON by four spaces a level. Empty objects and arrays stay on one line.
pub(crate) fn indent(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let mut depth = 0;
    let mut opened = false;
    let mut position = 0;
    while let Some(&byte) = compact.get(position) {
        if opened && !matches!(byte, b']' | b'}') {
            depth += 1;
            new_line(&mut out, depth);
        }
        position += 1;
        match byte {
            b'"' => {
                let end = position + string_length(&compact[position..]);
                out.extend_from_slice(&compact[position - 1..end]);
                position = end;
            }
            b',' => {
                out.push(byte);
                new_line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b']' | b'}' => {
                if !opened {
                    depth -= 1;
                    new_line(&mut out, depth);
                }
                out.push(byte);
            }
            _ => out.push(byte),
        }
        opened = matches!(byte, b'[' | b'{');
    }
    out
}

fn new_line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    for _ in 0..depth {
        out.extend_from_slice(INDENTATION);
    }
}

/// The length of a JSON string behind its opening quote, with the closing quote.
fn string_length(text: &[u8]) -> usize {
    let mut position = 0;
    while let Some(&byte) = text.get(position) {
        match byte {
            b'"' => return position + 1,
            b'\\' => position += 2,
            _ => position += 1,
        }
    }
    text.len()
}

/// Passes a body on, indented if wanted.
pub(crate) fn finish(compact: Vec<u8>, pretty: bool) -> Vec<u8> {
    if pretty { indent(&compact) } else { compact }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &[u8]) -> String {
        let mut out = Vec::new();
        write_string(&mut out, text);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn strings_are_escaped_as_in_go() {
        for (text, json) in [
            (&b""[..], r#""""#),
            (b"a\"\\/", r#""a\"\\/""#),
            (b"\x00\x01\x1f\x08\x0c\n\r\t\x7f", "\"\\u0000\\u0001\\u001f\\b\\f\\n\\r\\t\x7f\""),
            (b"<a>&", r#""\u003ca\u003e\u0026""#),
            ("\u{2027}\u{2028}\u{2029}\u{202a}€".as_bytes(), "\"\u{2027}\\u2028\\u2029\u{202a}€\""),
            ("é😀\u{fffd}".as_bytes(), "\"é😀\u{fffd}\""),
            (b"a\xffb", r#""a\ufffdb""#),
            (b"\xe2\x80", r#""\ufffd\ufffd""#),
            (b"\xf0\x9f\x98x", r#""\ufffd\ufffd\ufffdx""#),
            (b"\xed\xa0\x80", r#""\ufffd\ufffd\ufffd""#),
        ] {
            assert_eq!(string(text), json, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_written_as_in_go() {
        for (real, json) in [
            (1.0, "1"),
            (0.0, "0"),
            (-0.0, "-0"),
            (1e15, "1000000000000000"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (0.000_001, "0.000001"),
            (1e-7, "1e-7"),
            (1e300, "1e+300"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (-1.5, "-1.5"),
            (f64::INFINITY, "null"),
        ] {
            let mut out = Vec::new();
            write_real(&mut out, real);
            assert_eq!(String::from_utf8_lossy(&out), json);
        }
        for integer in [0, 1, -1, 10, i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            write_integer(&mut out, integer);
            assert_eq!(String::from_utf8_lossy(&out), integer.to_string());
        }
    }

    #[test]
    fn indentation_is_that_of_go() {
        let compact = br#"{"a":[],"b":{},"c":[1,{"x":"y,[{\"\\"}],"d":null}"#;
        let expected = "{\n    \"a\": [],\n    \"b\": {},\n    \"c\": [\n        1,\n        {\n            \
                        \"x\": \"y,[{\\\"\\\\\"\n        }\n    ],\n    \"d\": null\n}";
        assert_eq!(String::from_utf8_lossy(&indent(compact)), expected);
        assert_eq!(indent(b"[]"), b"[]");
    }
}
