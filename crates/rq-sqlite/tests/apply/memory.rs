//! Values too large for SQLite's allocator or limits: results like any other, never a standstill.

use rq_sql::{End, ErrorKind, Outcome, Value};

use crate::harness::{Engine, Item, execute, transaction, unified};

/// Needs an allocation of more than 2³¹ bytes while each value in it is far below its limit. The
/// length makes the doubling buffer reach that size with half as much written as any other would.
const REFUSED: &str = "INSERT INTO t SELECT length(json_array(x, x, x)) \
                       FROM (SELECT printf('%.*c', 67108900, char(1)) AS x)";

const TOO_LARGE: &str = "out of memory: a value or intermediate result is too large";

fn error(outcome: &Outcome) -> (ErrorKind, &str) {
    let Outcome::Error(error) = outcome else { panic!("{outcome:?}") };
    (error.kind, &error.message)
}

fn done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { rows_affected: Some(1), .. })
}

#[test]
fn an_allocation_sqlite_refuses_is_an_error_of_its_statement() {
    let mut engine = Engine::new();
    engine.execute(&["CREATE TABLE t (a)"]);
    let requests = vec![
        execute(&["INSERT INTO t VALUES (1)"]),
        execute(&["INSERT INTO t VALUES (2)", REFUSED, "INSERT INTO t VALUES (3)"]),
        transaction(&["INSERT INTO t VALUES (4)", REFUSED]),
    ];
    let applied = engine.apply(&Item::requests(requests));
    let outcome = |request: usize, result: usize| -> &Outcome {
        &applied.requests[request].results[result].outcome
    };
    assert!(done(outcome(0, 0)) && done(outcome(1, 0)) && done(outcome(1, 2)));
    assert_eq!(error(outcome(1, 1)), (ErrorKind::TooBig, TOO_LARGE));
    assert_eq!(error(outcome(2, 1)), (ErrorKind::TooBig, TOO_LARGE));
    let outcomes = engine.run(unified(&["SELECT group_concat(a) FROM t"]));
    let Outcome::Rows(rows) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(rows.rows, [[Value::Text(b"1,2,3".to_vec())]]);
    // Here and not in a test of its own, because two at once would need twice the memory.
    readers_say_the_same(&mut engine);
}

fn readers_say_the_same(engine: &mut Engine) {
    let refused = REFUSED.trim_start_matches("INSERT INTO t ");
    let ends = engine.read(&[refused, "SELECT a FROM t"]);
    let [End::Error(error), End::Rows] = &ends[..] else { panic!("{ends:?}") };
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::TooBig, TOO_LARGE));
}

#[test]
fn values_end_at_128_mebibytes_and_patterns_at_4096_bytes() {
    let mut engine = Engine::new();
    let cases = [
        ("SELECT length(zeroblob(134217728))", None),
        ("SELECT length(zeroblob(134217729))", Some("string or blob too big")),
        ("SELECT 'x' LIKE printf('%.*c', 4096, 'x')", None),
        ("SELECT 'x' LIKE printf('%.*c', 4097, 'x')", Some("LIKE or GLOB pattern too complex")),
    ];
    for (sql, expected) in cases {
        let outcomes = engine.run(unified(&[sql]));
        let found = match &outcomes[0] {
            Outcome::Error(error) => Some(error.message.as_str()),
            _ => None,
        };
        assert_eq!(found, expected, "written: {sql}");
        let ends = engine.read(&[sql]);
        let found = match &ends[0] {
            End::Error(error) => Some(error.message.as_str()),
            _ => None,
        };
        assert_eq!(found, expected, "read: {sql}");
    }
}

/// Each value is within its limit, and all are in memory at once.
#[test]
fn a_row_of_many_long_values_takes_no_more_memory_than_a_statement_may() {
    let mut engine = Engine::new();
    engine.execute(&["CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"]);
    let values: Vec<_> =
        (0..300).map(|more| format!("hex(zeroblob({}))", 60_000_000 + more)).collect();
    let row = format!("SELECT max(1, {}) FROM t", values.join(", "));
    // None of them is large, but a call of a function holds its arguments.
    let arguments = vec!["hex(zeroblob(250000))"; 900].join(", ");
    let calls = (0..4).fold("1".to_owned(), |inner, _| format!("max({arguments}, {inner})"));
    let outcomes = engine.run(execute(&[
        &format!("INSERT INTO t {row}"),
        &format!(
            "INSERT INTO t SELECT length(s) FROM (SELECT {} AS s FROM t)",
            values[..3].join("||")
        ),
        &format!("INSERT INTO t SELECT {calls}"),
        "INSERT INTO t VALUES (2)",
    ]));
    assert_eq!(error(&outcomes[0]), (ErrorKind::TooBig, TOO_LARGE));
    assert_eq!(error(&outcomes[1]), (ErrorKind::TooBig, "string or blob too big"));
    assert_eq!(error(&outcomes[2]), (ErrorKind::TooBig, TOO_LARGE));
    assert!(done(&outcomes[3]));
    let ends = engine.read(&[row.as_str(), "SELECT a FROM t"]);
    let [End::Error(refused), End::Rows] = &ends[..] else { panic!("{ends:?}") };
    assert_eq!((refused.kind, refused.message.as_str()), (ErrorKind::TooBig, TOO_LARGE));
}
