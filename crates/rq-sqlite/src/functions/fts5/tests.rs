//! Results compared with SQLite's own, and rows with which those would take for ever.

use rusqlite::{params_from_iter, types::Value};

use super::*;
use crate::testing::{Bare, Dice, plain_connection, read, single};

/// Ways to define a table with the columns `a` and `b`; the last but one gets texts its index does not
/// know of.
const TABLES: &[&str] = &[
    "a, b",
    "a, b, detail=column",
    "a, b, detail=none",
    "a, b, columnsize=0",
    "a, b, content=''",
    "a, b, content='', detail=none",
    "a, b, content='', columnsize=0",
    "a, b, content='', contentless_delete=1",
    "a, b UNINDEXED",
    "a, b, tokenize='porter unicode61', prefix='1 2'",
    "a, b, tokenize='trigram'",
    "a, b, tokenize='trigram case_sensitive 1', detail=none",
    "a, b, tokenize=\"unicode61 separators 'o' tokenchars '.:'\"",
    "a, b, content='texts'",
    "a, b, content='texts', columnsize=0",
];

const WORDS: &[&str] =
    &["one", "two", "three", "one", "two", "four", "five", "six", "ones", "Ölöne", "twö", "1", "x"];

fn connections() -> (Connection, Connection) {
    let (plain, ours) = (plain_connection(), plain_connection());
    install(&ours).unwrap();
    (plain, ours)
}

fn text(dice: &mut Dice) -> Value {
    const BETWEEN: &[&str] = &[
        " ", " ", " ", " ", ", ", ". ", ".", ": ", ":", ".\n\t", "   ", " .", "; ", "\r\n",
        "\u{a0}",
    ];
    let words = match dice.below(12) {
        0 => return Value::Null,
        1 => return Value::Integer(11),
        2 => 0,
        3..=5 => dice.below(6),
        6..=8 => dice.below(40),
        _ => dice.below(300),
    };
    let mut text = String::new();
    for _ in 0..words {
        text.push_str(dice.pick(BETWEEN));
        text.push_str(dice.pick(WORDS));
        if dice.chance(1) && dice.chance(20) {
            text.push('\0');
        }
    }
    text.push_str(dice.pick(&["", "", ".", " ", ". \n "]));
    Value::Text(text)
}

fn query(dice: &mut Dice, depth: usize) -> String {
    let word = |dice: &mut Dice| dice.pick(WORDS);
    match dice.below(if depth == 0 { 6 } else { 13 }) {
        0..=2 => format!("\"{}\"", word(dice)),
        3 => format!("\"{} {}\"", word(dice), word(dice)),
        4 => format!("\"{}\" *", dice.pick(&["o", "t", "on", "tw", "f", "one t", "ö"])),
        5 => format!("\"{} {} {}\"", word(dice), word(dice), word(dice)),
        6 => format!("NEAR(\"{}\" \"{}\", {})", word(dice), word(dice), dice.below(9)),
        7 => format!("{} : ({})", dice.pick(&["a", "b", "{a b}", "- a"]), query(dice, 0)),
        8 => format!("^ \"{}\"", word(dice)),
        9 => format!("({}) NOT ({})", query(dice, depth - 1), query(dice, depth - 1)),
        10 => format!("({}) AND ({})", query(dice, depth - 1), query(dice, depth - 1)),
        _ => format!("({}) OR ({})", query(dice, depth - 1), query(dice, depth - 1)),
    }
}

/// All rows of a query, or its error.
fn rows(connection: &Connection, sql: &str, bound: &[Value]) -> String {
    let ask = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(sql)?;
        let columns = statement.column_count();
        let rows = statement.query_map(params_from_iter(bound), |row| {
            (0..columns).map(|column| Ok(format!("{:?}", row.get_ref(column)?))).collect()
        })?;
        rows.collect::<rusqlite::Result<Vec<Vec<String>>>>().map(|rows| rows.concat())
    };
    ask().map_or_else(|error| error.to_string(), |rows| rows.join("\n"))
}

#[track_caller]
fn assert_equal(connections: &(Connection, Connection), sql: &str, bound: &[Value]) -> usize {
    let (plain, ours) = connections;
    let expected = rows(plain, sql, bound);
    assert_eq!(rows(ours, sql, bound), expected, "{sql} with {bound:?}");
    expected.len()
}

fn both(connections: &(Connection, Connection), sql: &str, bound: &[Value]) {
    for connection in [&connections.0, &connections.1] {
        connection.execute(sql, params_from_iter(bound)).unwrap();
    }
}

/// Defines the tables and fills them; texts of external content are other ones in some rows.
fn filled(dice: &mut Dice, documents: usize) -> (Connection, Connection) {
    let connections = connections();
    both(&connections, "CREATE TABLE texts (a, b)", &[]);
    for (number, table) in TABLES.iter().enumerate() {
        both(&connections, &format!("CREATE VIRTUAL TABLE f{number} USING fts5({table})"), &[]);
    }
    for document in 1..=documents {
        let number = Value::Integer(i64::try_from(document).unwrap());
        let bound = [number, text(dice), text(dice)];
        let insert = |table: &str, bound: &[Value]| {
            let sql = format!("INSERT INTO {table} (rowid, a, b) VALUES (?1, ?2, ?3)");
            both(&connections, &sql, bound);
        };
        (0..TABLES.len()).for_each(|number| insert(&format!("f{number}"), &bound));
        let [number, a, b] = bound;
        let shown = if dice.chance(20) { [number, text(dice), b] } else { [number, a, b] };
        insert("texts", &shown);
    }
    connections
}

/// Arguments at and beyond all borders.
fn arguments(dice: &mut Dice) -> Vec<Value> {
    let mut mark = |usual: &str| match dice.below(8) {
        0 => Value::Null,
        1 => Value::Text(String::new()),
        2 => Value::Text(format!("{usual}\0!")),
        3 => Value::Integer(9),
        _ => Value::Text(usual.to_owned()),
    };
    let [open, close, ellipsis] = ["<b>", "</b>", "..."].map(&mut mark);
    let column = dice.pick(&[-1, -1, -1, 0, 0, 1, 1, 2, -7, i64::MAX, i64::MIN]);
    let tokens = dice.pick(&[0, 1, 2, 3, 5, 8, 10, 16, 33, 63, 64, 65, -1, i64::MAX]);
    vec![Value::Integer(column), open, close, ellipsis, Value::Integer(tokens)]
}

#[test]
fn drawn_rows_and_queries_give_sqlites_results() {
    let mut dice = Dice::from_environment();
    let connections = filled(&mut dice, 40);
    let mut length = 0;
    for _ in 0..1500 {
        let table = dice.below(TABLES.len());
        let order = dice.pick(&["", "", "ORDER BY rank", "ORDER BY rowid DESC"]);
        let mut bound = arguments(&mut dice);
        bound.push(Value::Text(query(&mut dice, 2)));
        let sql = format!(
            "SELECT rowid, snippet(f{table}, ?1, ?2, ?3, ?4, ?5), highlight(f{table}, ?1, ?2, ?3)
             FROM f{table} WHERE f{table} MATCH ?6 {order}"
        );
        length += assert_equal(&connections, &sql, &bound);
    }
    println!("{length} bytes of results");
    assert!(length > 1_000_000);
}

#[test]
fn results_are_sqlites_where_there_is_no_search_and_no_such_argument() {
    let mut dice = Dice::from_environment();
    let connections = filled(&mut dice, 10);
    for (number, _) in TABLES.iter().enumerate() {
        let name = format!("f{number}");
        for (call, end) in [
            ("snippet(f, 0, '<', '>', '...', 8), highlight(f, 0, '<', '>')", ""),
            ("snippet(f, NULL, NULL, NULL, NULL, NULL), highlight(f, NULL, NULL, NULL)", ""),
            ("snippet(f, 'x', x'ff', 1.5, x'', '3'), highlight(f, '1', x'c3', 2)", "('one')"),
            ("snippet(f, 0, '<', '>', '...')", "('one')"),
            ("snippet(f)", "('one')"),
            ("highlight(f, 0, '<', '>', 1)", "('one')"),
            ("snippet(f, 0, '<', '>', '...', 8)", "WHERE rowid = 3"),
            ("bm25(f), rank", "('one OR two')"),
            ("snippet(1, 0, '<', '>', '...', 8)", "('one')"),
            ("snippet(f, -1, '<', '>', '...', 8)", "('\"\"')"),
            ("snippet(f, -1, '<', '>', '...', 8)", "('one') ORDER BY snippet(f, 0, '', '', '', 9)"),
        ] {
            let call =
                call.replace("(f,", &format!("({name},")).replace("(f)", &format!("({name})"));
            let end = end.replace("(f,", &format!("({name},"));
            assert_equal(&connections, &format!("SELECT {call} FROM {name} {end}"), &[]);
        }
    }
}

#[test]
fn fts4_keeps_its_own_snippet() {
    let (_, ours) = connections();
    ours.execute_batch("CREATE VIRTUAL TABLE f USING fts4(a); INSERT INTO f VALUES ('one two')")
        .unwrap();
    let sql = "SELECT snippet(f, '<', '>') FROM f WHERE f MATCH 'two'";
    let found: String = ours.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(found, "one <two>");
}

/// What a call gives for a document that is searched.
fn shown(table: &str, document: &str, query: &str, call: &str) -> rusqlite::Result<String> {
    let (_, ours) = connections();
    ours.execute(&format!("CREATE VIRTUAL TABLE f USING fts5({table})"), [])?;
    ours.execute("INSERT INTO f VALUES (?1)", [document])?;
    let sql = format!("SELECT {call} FROM f WHERE f MATCH ?1");
    ours.query_row(&sql, [query], |row| row.get(0))
}

#[test]
fn long_rows_take_no_longer_than_reading_them() {
    // With SQLite's own each of these takes minutes.
    let words = "word ".repeat(300_000);
    let found = shown("a", &words, "word", "snippet(f, -1, '<', '>', '...', 64)").unwrap();
    assert_eq!(found, format!("{}...", ["<word>"; 64].join(" ")));
    let marked = shown("a", &words, "word", "highlight(f, 0, '<', '>')").unwrap();
    assert_eq!(marked, "<word> ".repeat(300_000));
    let sentences = "A word. ".repeat(150_000) + "Two words. ";
    let call = "snippet(f, 0, '<', '>', '...', 4)";
    let found = shown("a", &sentences, "word OR words", call).unwrap();
    assert_eq!(found, "...A <word>. Two <words>. ");
    let blanks = format!("start.{}word", " ".repeat(600_000));
    let call = "snippet(f, 0, '<', '>', '...', 5)";
    let found = shown("a, tokenize=trigram", &blanks, "word", call).unwrap();
    assert_eq!(found, "...   <word>");
}

#[test]
fn a_result_that_would_be_too_long_is_refused() {
    let mark = "(SELECT hex(zeroblob(1000000)))";
    let call = format!("length(highlight(f, 0, {mark}, ''))");
    let refused = shown("a", &"word ".repeat(1000), "word", &call).unwrap_err();
    assert_eq!(refused.to_string(), "string or blob too big");
}

#[test]
fn writer_and_readers_have_the_functions() {
    let bare = Bare::with(
        "CREATE VIRTUAL TABLE f USING fts5(a);
         INSERT INTO f VALUES (replace(hex(zeroblob(75000)), '0', 'word '));",
    );
    // With SQLite's own this takes minutes.
    let sql = "SELECT snippet(f, 0, '', '', '...', 2) FROM f WHERE f MATCH 'word'";
    assert_eq!(bare.ask(sql), "word word...");
    let found = single(&read(&bare.parts.readers, &[sql])[0]).unwrap();
    assert_eq!(found, rq_sql::Value::text("word word..."));
}
