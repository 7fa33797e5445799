//! Results compared with SQLite's own, and sizes with which those would take for ever.

use rusqlite::types::{ToSql, Value};

use super::*;
use crate::{
    memory::{Account, Charge, has_refused},
    testing::{Dice, plain_connection},
};

fn connections() -> (Connection, Connection) {
    let (plain, ours) = (plain_connection(), plain_connection());
    install(&ours).unwrap();
    (plain, ours)
}

/// What both functions give, and whether the text counts as JSON.
fn results(connection: &Connection, target: &Value, patch: &Value) -> Vec<String> {
    ["json_patch(?1, ?2)", "hex(jsonb_patch(?1, ?2))", "json_array(json_patch(?1, ?2))"]
        .map(|call| {
            let mut statement = connection.prepare_cached(&format!("SELECT {call}")).unwrap();
            let bound: [&dyn ToSql; 2] = [target, patch];
            statement
                .query_row(bound, |row| Ok(format!("{:?}", row.get_ref(0)?)))
                .unwrap_or_else(|error| error.to_string())
        })
        .into()
}

#[track_caller]
fn assert_equal(connections: &(Connection, Connection), target: &Value, patch: &Value) {
    let (plain, ours) = connections;
    let expected = results(plain, target, patch);
    assert_eq!(results(ours, target, patch), expected, "{target:?} patched with {patch:?}");
}

#[test]
fn results_are_those_of_sqlites_own() {
    let connections = connections();
    let long = format!("{{\"a\":\"{}\", \"b\":2}}", "x".repeat(70_000));
    let texts = [
        "",
        "{}",
        "[]",
        "null",
        "1",
        "-2.5e3",
        "'a'",
        "{\"a\":1}",
        "{\"a\":null}",
        "{\"a\":1,\"a\":2,\"b\":3}",
        "{\"a\":null,\"a\":null}",
        "{\"a\":null,\"a\":{\"b\":null}}",
        "{\"a\":{\"b\":{\"c\":1}},\"d\":[1,2,{\"e\":null}]}",
        "{\"a\":{\"b\":{\"c\":null,\"d\":{}}}}",
        "{\"a\":[1]}",
        "{\"\\u0061\":5}",
        "{\"a\\u0000b\":6, 'a\\0':7}",
        "{a:1, $b:.5, 'c':+Infinity, \"\\x61\":0x1F,}",
        "{\"\\ud83d\\ude00\":1, \"😀\":2, \"\\ud83d\":3}",
        "{\"a\\\nb\":1, \"ab\":2}",
        "{\"a\":\"abcdefghijklmnop\"}",
        "{\"a\":\"abcdefgh\", \"b\":\"12345678901\"}",
        "{\"a\":\"123456789012\"}",
        "{\"a\":12345678, \"b\":true}",
        "{\"a\":",
        "{\"a\":1}x",
        "no json",
        &long,
    ];
    let mut values: Vec<Value> = texts.map(|text| Value::Text(text.to_owned())).into();
    values.extend(texts.map(|text| Value::Blob(text.as_bytes().to_vec())));
    values.extend([Value::Null, Value::Integer(7), Value::Real(1.5), Value::Blob(vec![0x0c, 0])]);
    for target in &values {
        for patch in &values {
            assert_equal(&connections, target, patch);
        }
    }
}

#[test]
fn nesting_ends_where_sqlites_does() {
    let connections = connections();
    // As JSONB, because text is not read that deep.
    let nested = |depth: usize| {
        let mut element = vec![0x17, b'x'];
        for _ in 0..depth {
            let mut payload = vec![0x17, b'a'];
            payload.append(&mut element);
            element::write_object_header(payload.len(), 5, &mut element);
            element.append(&mut payload);
        }
        Value::Blob(element)
    };
    for depth in [1, 999, 1000, 1001, 1002] {
        for target in [Value::Text("{}".to_owned()), nested(depth), nested(1500)] {
            assert_equal(&connections, &target, &nested(depth));
        }
    }
}

/// JSON of few names, with escapes, blanks, duplicates and lengths at which headers grow.
fn json(dice: &mut Dice, depth: usize) -> String {
    const LABELS: &[&str] = &[
        "\"a\"",
        "\"a\"",
        "\"b\"",
        "\"b\"",
        "\"c\"",
        "d",
        "'a'",
        "\"\\u0061\"",
        "\"\\x62\"",
        "\"\"",
        "\"a\\u0000\"",
        "\"a\\u0000b\"",
        "\"é\"",
        "\"\\u00e9\"",
        "\"a\\\n\"",
        "\"long label\"",
    ];
    match dice.below(if depth == 0 { 7 } else { 14 }) {
        0 => "null".to_owned(),
        1 => dice.pick(&["true", "false", "0", "-1", "0x1f", ".5", "1e3", "NaN"]).to_owned(),
        2 => "[]".to_owned(),
        3 => format!("[{},{}]", json(dice, 0), json(dice, 0)),
        4 => format!("\"{}\"", "y".repeat(dice.pick(&[0, 9, 12, 13, 250, 255, 256, 257, 262]))),
        5 => format!("\"{}\"", "z".repeat(dice.below(24))),
        6 => "1".repeat(1 + dice.below(18)),
        _ => {
            let members = dice.below(if depth > 2 { 24 } else { 6 });
            let members: Vec<String> = (0..members)
                .map(|_| format!("{}: {}", dice.pick(LABELS), json(dice, depth - 1)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

/// The element with headers longer than they need be, and perhaps damaged.
fn disguised(dice: &mut Dice, jsonb: &[u8]) -> Vec<u8> {
    fn rewrite(dice: &mut Dice, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while let Some(element) = Element::first(rest) {
            let mut payload = Vec::new();
            if matches!(element.bytes()[0] & 0x0f, 11 | 12) {
                rewrite(dice, element.payload(), &mut payload);
            } else {
                payload.extend_from_slice(element.payload());
            }
            let header =
                dice.pick(&[1, 1, 2, 3, 5, 9]).max(element::shortest_header(payload.len()));
            let start = out.len();
            element::write_object_header(payload.len(), header, out);
            out[start] = out[start] & 0xf0 | element.bytes()[0] & 0x0f;
            out.append(&mut payload);
            rest = &rest[element.bytes().len()..];
        }
    }
    let mut out = Vec::new();
    rewrite(dice, jsonb, &mut out);
    if dice.chance(50) {
        for _ in 0..=dice.below(2) {
            let place = dice.below(out.len());
            out[place] = dice.pick(&[
                0x00,
                0x0c,
                0x17,
                0x27,
                0xc7,
                0xd7,
                0xe7,
                0xf7,
                0xff,
                out[place] ^ 0x10,
            ]);
        }
    }
    out
}

#[test]
fn drawn_arguments_give_sqlites_results() {
    let connections = connections();
    let mut dice = Dice::from_environment();
    let mut argument = |depth| {
        let text = json(&mut dice, depth);
        let jsonb = connections.0.query_row("SELECT jsonb(?1)", [&text], |row| row.get(0));
        match (dice.below(3), jsonb) {
            (0, Ok(Value::Blob(jsonb))) => Value::Blob(disguised(&mut dice, &jsonb)),
            _ => Value::Text(text),
        }
    };
    let mut merged = 0;
    for _ in 0..6000 {
        let (target, patch) = (argument(4), argument(3));
        assert_equal(&connections, &target, &patch);
        merged += usize::from(results(&connections.0, &target, &patch)[0].starts_with("Text"));
    }
    println!("{merged} of them have a result");
}

#[test]
fn long_objects_take_no_longer_than_reading_them() {
    let ours = connections().1;
    let members =
        "WITH RECURSIVE c (x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c WHERE x < 249999)
        SELECT json_group_object('key' || x, NULL), json_group_object('key' || x, 1),
        json_group_object('\\u006bey' || x, 2) FROM c";
    let (nulls, ones, twos): (String, String, String) =
        ours.query_row(members, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let escaped = twos.replace("\\\\u", "\\u");
    let ask = |target: &str, patch: &str| -> (i64, Option<i64>) {
        let sql = "SELECT count(*), sum(iif(type = 'integer', value, 7))
            FROM json_each(json_patch(?1, ?2))";
        ours.query_row(sql, [target, patch], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    // With SQLite's own each of these takes minutes.
    assert_eq!(ask("{}", &ones), (250_000, Some(250_000)));
    assert_eq!(ask(&ones, &ones.replace("key", "other")), (500_000, Some(500_000)));
    assert_eq!(ask(&ones, &nulls), (0, None));
    assert_eq!(ask(&ones, &escaped), (250_000, Some(500_000)));
    // The same member over and over, and many of one name.
    let same = |label: &str, value: &str| {
        format!("{{{}\"z\":1}}", format!("\"{label}\":{value},").repeat(250_000))
    };
    assert_eq!(ask(&same("a", "1"), &same("a", "null")), (1, Some(1)));
    assert_eq!(ask(&format!("{{\"a\":{ones}}}"), &same("a", "{\"b\":null}")), (2, Some(8)));
}

#[test]
fn what_takes_more_memory_than_a_statement_may_is_refused() {
    let ours = connections().1;
    // Members of two bytes: an empty name and true.
    let payload = [0x07, 0x01].repeat(6_000_000);
    let mut target = Vec::new();
    element::write_object_header(payload.len(), 5, &mut target);
    target.extend(payload);
    let _account = Account::open(Charge::values(4096));
    let ask = |patch: &str| {
        let sql = "SELECT length(jsonb_patch(?1, ?2))";
        let bound: [&dyn ToSql; 2] = [&target, &patch];
        ours.query_row(sql, bound, |row| row.get::<_, i64>(0)).map_err(|error| error.to_string())
    };
    assert_eq!(ask("1"), Ok(2));
    assert_eq!(ask("{\"\":null}"), Err("out of memory".to_owned()));
    assert!(has_refused());
}
