//! Ordinary statements give the same results through HTTP as through SQLite directly.
//!
//! The corpus is `sql_equal/*.sql`: statements, each beginning a paragraph. Each file runs on an
//! empty database, statement by statement, on both sides; the other side is the SQLite of Python,
//! which has nothing to do with ours. Compared are rows, the numbers of changed rows, whether there
//! was an error, and in the end the whole content.

use std::{fs, process::Command};

use rq_tests::{Node, binaries::tests_root};
use serde_json::Value;

use crate::{Suite, chinook::need_python};

/// The suites of this file.
pub(crate) fn suites() -> Vec<Suite> {
    vec![Suite { name: "sql_equal", need: need_python, run: compare }]
}

fn compare() {
    let folder = tests_root().join("sql_equal");
    let mut corpus: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    corpus.sort();
    let mut failed = Vec::new();
    for path in &corpus {
        let mut node = Node::start();
        let output = Command::new("python3")
            .arg(folder.join("compare.py"))
            .args([path.to_str().unwrap(), node.http_addr()])
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            eprintln!("{}\n{report}{}", path.display(), String::from_utf8_lossy(&output.stderr));
            failed.push(path.file_name().unwrap().to_owned());
        }
        eprintln!("{}: {}", path.display(), report.lines().last().unwrap_or_default());
        assert_eq!(node.value("PRAGMA integrity_check"), Value::from("ok"));
        assert_eq!(node.stop(), 0);
    }
    assert!(!corpus.is_empty() && failed.is_empty(), "differences in {failed:?}");
}
