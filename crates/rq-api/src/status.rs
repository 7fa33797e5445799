//! Documents of status: `/status`, and the framing of `/debug/vars`.
//!
//! What they contain is the business of those who know it; here they get their form: keys sorted
//! by bytes, numbers in full precision, parts selected by a path of keys.

use serde_json::Value;

use crate::json;

/// Encodes a document, or the part of it that `key` selects. Only a whole document is indented.
///
/// `key` is a path of keys joined by dots, empty for all. A key that is missing gives `{}`. A path
/// that goes on below something that is no object gives that something.
pub fn encode(document: &Value, key: &str, pretty: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if key.is_empty() {
        json::write_value(&mut out, document);
        return json::finish(out, pretty);
    }
    match select(document, key) {
        Some(part) => json::write_value(&mut out, part),
        None => out.extend_from_slice(b"{}"),
    }
    out
}

/// The part of a document at a path of keys; `None` if a key is missing.
fn select<'a>(document: &'a Value, key: &str) -> Option<&'a Value> {
    let mut part = document;
    for name in key.split('.') {
        let Value::Object(entries) = part else { break };
        part = entries.get(name)?;
    }
    Some(part)
}

/// Encodes the maps of counters of `/debug/vars`, one a line, sorted by name. A key that is not
/// empty keeps only the map of that name.
pub fn encode_vars<'a>(vars: impl IntoIterator<Item = (&'a str, &'a Value)>, key: &str) -> Vec<u8> {
    let mut wanted: Vec<_> =
        vars.into_iter().filter(|(name, _)| key.is_empty() || *name == key).collect();
    wanted.sort_by_key(|(name, _)| name.as_bytes());
    let mut out = b"{\n".to_vec();
    for (index, (name, value)) in wanted.into_iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b",\n");
        }
        json::write_string(&mut out, name.as_bytes());
        out.extend_from_slice(b": ");
        json::write_value(&mut out, value);
    }
    out.extend_from_slice(b"\n}\n");
    out
}

/// A number of bytes for people: `512 B`, `4.1 kB`, `83 MB`. Thousands, one decimal below ten.
pub fn friendly_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut scale: u64 = 1;
    while bytes / scale >= 1000 && unit + 1 < UNITS.len() {
        unit += 1;
        scale *= 1000;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    // Tenths, rounded half up; in 128 bits because the sum can pass 64.
    let tenths = (u128::from(bytes) * 20 + u128::from(scale)) / (u128::from(scale) * 2);
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        // Rounded again, half to even: so the original form comes about.
        let (whole, rest) = (tenths / 10, tenths % 10);
        let up = rest > 5 || (rest == 5 && whole % 2 == 1);
        format!("{} {}", whole + u128::from(up), UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn paths_select_parts() {
        let document = json!({
            "node": {"uptime": "1s", "start": null},
            "b": [1, {"c": 2}],
            "a": {"z": 18_446_744_073_709_551_615_u64, "y": 1_700_000_000_000_000_001_i64, "x": 1.0, "w": -5},
            "": {"": 7},
        });
        for (key, expected) in [
            ("a", r#"{"w":-5,"x":1,"y":1700000000000000001,"z":18446744073709551615}"#),
            ("a.y", "1700000000000000001"),
            ("a.none", "{}"),
            ("none.a", "{}"),
            ("node.uptime", r#""1s""#),
            ("node.uptime.x.y", r#""1s""#),
            ("node.start", "null"),
            ("b.1", r#"[1,{"c":2}]"#),
            ("A", "{}"),
            ("a.", "{}"),
            (".", "7"),
        ] {
            assert_eq!(text(encode(&document, key, true)), expected, "{key:?}");
        }
        assert!(text(encode(&document, "", false)).starts_with(r#"{"":{"":7},"a":{"w":-5,"#));
        assert!(text(encode(&document, "", true)).starts_with("{\n    \"\": {\n        \"\": 7\n"));
    }

    #[test]
    fn counters_are_framed_one_map_a_line() {
        let (store, http) = (json!({"b": 1, "a": 0}), json!({"n": 2}));
        let vars = [("store", &store), ("http", &http)];
        assert_eq!(
            text(encode_vars(vars, "")),
            "{\n\"http\": {\"n\":2},\n\"store\": {\"a\":0,\"b\":1}\n}\n"
        );
        assert_eq!(text(encode_vars(vars, "http")), "{\n\"http\": {\"n\":2}\n}\n");
        assert_eq!(text(encode_vars(vars, "none")), "{\n\n}\n");
    }

    #[test]
    fn sizes_are_rounded_for_people() {
        for (bytes, friendly) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (4096, "4.1 kB"),
            (9949, "9.9 kB"),
            (9950, "10 kB"),
            (12_300, "12 kB"),
            (82_854_982, "83 MB"),
            (999_999, "1000 kB"),
            (1_000_000, "1.0 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(friendly_bytes(bytes), friendly, "{bytes}");
        }
    }
}
