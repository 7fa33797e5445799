//! A real schema and data (`data/chinook`), sent statement by statement in batches over HTTP, then
//! compared table by table with what stock SQLite, through Python, makes of the same text.

use std::{fs, process::Command};

use rq_sql::split::statements;
use rq_tests::{Node, binaries::tests_root};
use serde_json::{Value, json};

use crate::Suite;

/// Statements sent in one request.
const BATCH: usize = 4;

/// Rows the data are known to have; fewer mean that something was not read.
const ROWS_LEAST: usize = 15_000;

/// The suites of this file.
pub(crate) fn suites() -> Vec<Suite> {
    vec![Suite { name: "chinook", need: need_python, run: compare }]
}

/// Python with its SQLite module.
pub(crate) fn need_python() -> Result<(), String> {
    let output = Command::new("python3")
        .args(["-c", "import sqlite3"])
        .output()
        .map_err(|error| format!("python3: {error}"))?;
    output.status.success().then_some(()).ok_or_else(|| "python3 has no sqlite3".to_owned())
}

/// Prints the schema and, for each table, its rows as SQL literals.
const REFERENCE: &str = r#"
import json, sqlite3, sys
database = sqlite3.connect(":memory:")
database.executescript(open(sys.argv[1], encoding="utf-8-sig").read())
schema = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()
tables = {}
for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
    columns = [row[1] for row in database.execute(f'PRAGMA table_info("{name}")')]
    quoted = ", ".join(f'quote("{column}")' for column in columns)
    tables[name] = {"columns": columns, "rows": database.execute(f'SELECT rowid, {quoted} FROM "{name}" ORDER BY rowid').fetchall()}
json.dump({"schema": schema, "tables": tables}, sys.stdout)
"#;

fn compare() {
    let path = tests_root().join("data/chinook/chinook.sql");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.trim_start_matches('\u{feff}');
    let output = Command::new("python3").args(["-c", REFERENCE]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reference: Value = serde_json::from_slice(&output.stdout).unwrap();

    let mut node = Node::start();
    let list: Vec<_> =
        statements(text).filter(|piece| !piece.is_empty).map(|piece| piece.text).collect();
    for (number, batch) in list.chunks(BATCH).enumerate() {
        let flag = if number % 2 == 0 { "?transaction" } else { "" };
        let answer = node.post(&format!("/db/execute{flag}"), json!(batch).to_string()).json();
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), batch.len(), "{answer}");
        assert!(results.iter().all(|result| result.get("error").is_none()), "{answer}");
    }
    check(&node, &reference);
    // And the same after a restart from the log and the file.
    node.kill();
    node.restart();
    check(&node, &reference);
    assert_eq!(node.stop(), 0);
}

fn check(node: &Node, reference: &Value) {
    let schema = node.rows(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema \
         WHERE name <> 'sqlite_rq_state' AND tbl_name <> 'sqlite_rq_state' ORDER BY name",
    );
    assert_eq!(json!(schema), reference["schema"]);
    let mut rows = 0;
    for (name, table) in reference["tables"].as_object().unwrap() {
        let columns: Vec<_> = table["columns"].as_array().unwrap().iter().collect();
        let quoted: Vec<_> = columns
            .iter()
            .map(|column| format!("quote(\"{}\")", column.as_str().unwrap()))
            .collect();
        let sql = format!("SELECT rowid, {} FROM \"{name}\" ORDER BY rowid", quoted.join(", "));
        let found = json!(node.rows(&sql));
        assert_eq!(found, table["rows"], "table {name}");
        rows += found.as_array().unwrap().len();
    }
    assert!(rows >= ROWS_LEAST, "{rows} rows compared");
    assert_eq!(node.value("PRAGMA integrity_check"), "ok");
    assert_eq!(node.rows("PRAGMA foreign_key_check"), Vec::<Value>::new());
}
