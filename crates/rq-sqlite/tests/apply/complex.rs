//! Statements that would take all memory or all time there is before they run their first step.

use rq_sql::{End, ErrorKind, Outcome, Value};

use crate::harness::{Engine, Item, execute, unified};

fn with_table() -> Engine {
    let mut engine = Engine::new();
    engine.execute(&["CREATE TABLE t (a)"]);
    engine
}

fn error(outcome: &Outcome) -> (ErrorKind, &str) {
    let Outcome::Error(error) = outcome else { panic!("{outcome:?}") };
    (error.kind, &error.message)
}

/// A subquery of which each column is named twice by the one around it.
fn doubled(levels: usize) -> String {
    (0..levels).fold("SELECT a AS x FROM t".to_owned(), |inner, _| {
        format!("SELECT x + x AS x FROM ({inner})")
    })
}

const TOO_COMPLEX: &str =
    "statement too complex: compiling it takes more memory or time than a statement may take";

/// Each level doubles what compiling takes: with SQLite's own limits, thirty take all memory there is.
#[test]
fn subqueries_put_into_each_other_take_no_more_memory_than_a_statement_may() {
    let mut engine = with_table();
    engine.execute(&["INSERT INTO t VALUES (1)"]);
    let small = engine.run(execute(&[&format!("INSERT INTO t {}", doubled(10))]));
    assert!(matches!(small[0], Outcome::Done { rows_affected: Some(1), .. }), "{small:?}");
    let large = format!("INSERT INTO t {}", doubled(40));
    // Also by what a definition says, and while a transaction is open.
    let view = format!("CREATE VIEW v AS {}", doubled(40));
    engine.execute(&[&view, "CREATE TABLE u (a)"]);
    engine
        .execute(&["CREATE TRIGGER r AFTER INSERT ON u BEGIN INSERT INTO t SELECT x FROM v; END"]);
    for sql in [large.as_str(), "INSERT INTO t SELECT x FROM v", "INSERT INTO u VALUES (1)"] {
        let outcomes = engine.run(execute(&["DELETE FROM t WHERE a > 5000", sql]));
        assert_eq!(error(&outcomes[1]), (ErrorKind::TooBig, TOO_COMPLEX), "{sql}");
        let outcomes = engine.run(execute(&["BEGIN", "INSERT INTO t VALUES (7)", sql, "ROLLBACK"]));
        assert_eq!(error(&outcomes[2]), (ErrorKind::TooBig, TOO_COMPLEX), "{sql}");
    }
    let rows = &engine.run(unified(&["SELECT count(*) FROM t"]))[0];
    assert!(matches!(rows, Outcome::Rows(rows) if rows.rows == [[Value::Integer(2)]]), "{rows:?}");
    // What asks for very much is charged to the budget of compiling besides.
    let dear = format!("INSERT INTO t {} UNION ALL {}; ", doubled(17), doubled(16));
    let mut item = Item::requests(vec![execute(&[&dear.repeat(4)])]);
    item.settings.budget.steps = 20_000_000;
    let applied = engine.apply(&item);
    let (kind, message) = error(&applied.requests[0].results[0].outcome);
    assert_eq!(kind, ErrorKind::Budget, "{message}");
    assert!(message.starts_with("statement not run: compiling the statements"), "{message}");
    reads_end_as_well(&mut engine, &[&doubled(40), "SELECT * FROM v", "EXPLAIN SELECT * FROM v"]);
}

fn reads_end_as_well(engine: &mut Engine, texts: &[&str]) {
    let ends = engine.read(texts);
    assert_eq!(ends.len(), texts.len());
    for (end, sql) in ends.iter().zip(texts) {
        let End::Error(error) = end else { panic!("{sql}: {end:?}") };
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::TooBig, TOO_COMPLEX), "{sql}");
    }
}

/// SQLite compares each of them with all others, for hours if there are enough of them, and nothing stops
/// it meanwhile.
#[test]
fn parts_of_a_statement_that_are_compared_with_each_other_are_charged_before() {
    let mut engine = with_table();
    let list = |count: usize, separator: &str, item: &dyn Fn(usize) -> String| {
        (0..count).map(item).collect::<Vec<_>>().join(separator)
    };
    let cases = list(200_000, " ", &|number| format!("WHEN {number} THEN 'case {number}'"));
    let tables = list(200_000, ",", &|number| format!("c{number} AS (SELECT {number})"));
    let windows = list(5_000, ",", &|number| format!("sum(a) OVER (ORDER BY a + {number})"));
    let texts = [
        format!("SELECT CASE a {cases} END FROM t"),
        format!("WITH {tables} SELECT 1"),
        format!("SELECT max({windows}) FROM t"),
    ];
    for text in &texts {
        let mut item = Item::requests(vec![execute(&[&format!("INSERT INTO t {text}")])]);
        item.settings.budget.steps = 2_000_000_000;
        let applied = engine.apply(&item);
        let (kind, message) = error(&applied.requests[0].results[0].outcome);
        assert_eq!(kind, ErrorKind::Budget, "{message}");
        assert!(message.starts_with("statement not run: compiling the statements"), "{message}");
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    reads_end_as_well(&mut engine, &texts);
    let few = list(1_000, " ", &|number| format!("WHEN {number} THEN 'case {number}'"));
    let outcomes = engine.run(execute(&[&format!("INSERT INTO t SELECT CASE 5 {few} END")]));
    assert!(matches!(outcomes[0], Outcome::Done { .. }), "{outcomes:?}");
}

/// They are charged by their text, not by their pairs, and may take many times their text in memory.
#[test]
fn lists_of_values_may_be_long() {
    let mut engine = with_table();
    let list =
        |count: i32, item: fn(i32) -> String| (0..count).map(item).collect::<Vec<_>>().join(",");
    let rows = list(600_000, |number| format!("({number})"));
    let numbers = list(600_000, |number| number.to_string());
    let outcomes = engine.run(execute(&[
        &format!("INSERT INTO t VALUES {rows}"),
        &format!("DELETE FROM t WHERE a IN ({numbers})"),
    ]));
    for outcome in &outcomes {
        assert!(
            matches!(outcome, Outcome::Done { rows_affected: Some(600_000), .. }),
            "{outcome:?}"
        );
    }
}
