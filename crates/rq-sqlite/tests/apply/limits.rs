//! Limits on answers, which replace the answer, never the effect; limits on what is compiled.

use rq_sql::{ErrorKind, Outcome, Parameter, Statement, Value};
use rq_sqlite::{Budget, ResultLimits, Settings, WriterOptions};

use crate::harness::{Engine, Item, execute, transaction, unified};

const FILL: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20) \
                    INSERT INTO t SELECT i FROM n RETURNING a";

fn limited(rows: u64, bytes: u64) -> Engine {
    let results = ResultLimits { rows, bytes };
    let mut engine = Engine::with(WriterOptions { results, ..WriterOptions::default() });
    engine.execute(&["CREATE TABLE t (a)"]);
    engine
}

fn count(engine: &mut Engine) -> Value {
    let mut outcomes = engine.run(unified(&["SELECT count(*) FROM t"]));
    let Outcome::Rows(rows) = outcomes.remove(0) else { panic!("{outcomes:?}") };
    rows.rows[0][0].clone()
}

fn error(outcome: &Outcome) -> (ErrorKind, &str) {
    let Outcome::Error(error) = outcome else { panic!("{outcome:?}") };
    (error.kind, &error.message)
}

#[test]
fn a_write_with_too_many_rows_is_done_all_the_same() {
    let mut engine = limited(10, u64::MAX);
    let outcomes = engine.run(execute(&[FILL, "INSERT INTO t VALUES (0)"]));
    let (kind, message) = error(&outcomes[0]);
    assert_eq!(kind, ErrorKind::ResultTooLarge);
    assert!(message.starts_with("done") && message.contains("10 rows"), "{message}");
    assert!(matches!(outcomes[1], Outcome::Done { rows_affected: Some(1), .. }));
    assert_eq!(count(&mut engine), Value::Integer(21));
}

#[test]
fn a_transaction_is_not_undone_by_a_large_answer() {
    let mut engine = limited(10, u64::MAX);
    let read =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50) SELECT i FROM n";
    let mut request = transaction(&["INSERT INTO t VALUES (1)", read, "INSERT INTO t VALUES (2)"]);
    request.mode = rq_sqlite::Mode::Unified;
    let outcomes = engine.run(request);
    assert_eq!(error(&outcomes[1]).0, ErrorKind::ResultTooLarge);
    assert!(matches!(outcomes[2], Outcome::Done { rows_affected: Some(1), .. }));
    assert_eq!(count(&mut engine), Value::Integer(2));
}

#[test]
fn bytes_are_counted_over_the_whole_request() {
    let mut engine = limited(u64::MAX, 1000);
    let read = "SELECT zeroblob(400)";
    let outcomes = engine.run(unified(&[read, read, read, "INSERT INTO t VALUES (1)"]));
    assert!(matches!(outcomes[1], Outcome::Rows(_)));
    assert_eq!(error(&outcomes[2]).0, ErrorKind::ResultTooLarge);
    assert_eq!(count(&mut engine), Value::Integer(1));
}

#[test]
fn bytes_are_bounded_over_the_requests_of_an_entry_too() {
    let mut engine = limited(u64::MAX, 1000);
    let row = "INSERT INTO t VALUES (zeroblob(400)) RETURNING a";
    let large = "SELECT zeroblob(2000)";
    let requests = vec![unified(&[large]), unified(&[row]), unified(&[row]), unified(&[row])];
    let mut applied = engine.apply(&Item::requests(requests)).requests;
    let mut outcome = |request: usize| applied[request].results.remove(0).outcome;
    // What is left out takes no room from the others.
    assert!(error(&outcome(0)).1.contains("the request's results exceed 1000 bytes"));
    assert!(matches!(outcome(1), Outcome::Rows(_)));
    assert!(matches!(outcome(2), Outcome::Rows(_)));
    let last = outcome(3);
    let (kind, message) = error(&last);
    assert_eq!(kind, ErrorKind::ResultTooLarge);
    assert!(message.starts_with("done") && message.contains("together"), "{message}");
    assert_eq!(count(&mut engine), Value::Integer(3));
}

#[test]
fn results_nobody_wants_are_not_built_and_change_nothing() {
    let (mut wanted, mut unwanted) = (limited(10, 100), limited(10, 100));
    let item = Item::requests(vec![
        unified(&[FILL, "SELECT abs(-9223372036854775807 - 1)", "SELECT random() FROM t"]),
        transaction(&["INSERT INTO t VALUES (1) RETURNING random()", "gibberish"]),
    ]);
    assert_eq!(wanted.try_apply(&item, true).unwrap().requests.len(), 2);
    assert!(unwanted.try_apply(&item, false).unwrap().requests.is_empty());
    assert!(wanted.image().differing_pages(&unwanted.image()).is_empty());
}

/// Each statement would be a copy of all that follows it, if the text were not handed over as one: 300 GB.
#[test]
fn a_text_of_very_many_statements_is_compiled_in_one_go() {
    const STATEMENTS: usize = 100_000;
    let mut engine = limited(u64::MAX, u64::MAX);
    let text = "INSERT INTO t VALUES ('a row of a dump of some database with a usual text');";
    let outcomes = engine.run(execute(&[&text.repeat(STATEMENTS)]));
    assert!(matches!(outcomes[0], Outcome::Done { rows_affected: Some(1), .. }), "{outcomes:?}");
    assert_eq!(count(&mut engine), Value::Integer(i64::try_from(STATEMENTS).unwrap()));
}

#[test]
fn compiling_is_charged_so_that_a_text_of_any_length_ends() {
    let mut engine = limited(u64::MAX, u64::MAX);
    engine.execute(&["INSERT INTO t VALUES (1)"]);
    let with = |steps, request| {
        let mut item = Item::requests(vec![request]);
        item.settings = Settings { budget: Budget { steps, pages: 0 }, ..item.settings };
        item
    };
    let delete = "DELETE FROM t WHERE 0;";
    for (sql, statements, steps) in [
        // They never run a step: their sum is what compiling counts for.
        (delete, 400, 41_000),
        ("gibberish", 1, 100),
        ("BEGIN; COMMIT;", 100, 20_200),
        ("-- only a comment\n;", 100, 10_000),
    ] {
        let text = sql.repeat(statements);
        let mut request = execute(&[&text]);
        if sql.starts_with("--") || sql == "gibberish" {
            request = execute(&vec![sql; statements]);
        }
        let message = |applied: rq_sqlite::Applied| match &applied.requests[0].results.last() {
            Some(last) => match &last.outcome {
                Outcome::Error(error) => error.message.clone(),
                _ => String::new(),
            },
            None => panic!("no result"),
        };
        let enough = message(engine.apply(&with(steps, request.clone())));
        assert!(!enough.contains("compiling"), "{sql:?} with {steps}: {enough}");
        let short = message(engine.apply(&with(steps - steps / 50, request)));
        assert!(
            short.contains("compiling the statements of its request takes more than"),
            "{sql:?}: {short:?}"
        );
    }
    assert_eq!(count(&mut engine), Value::Integer(1));
}

/// SQLite looks through all names for each it is asked for.
#[test]
fn very_many_named_parameters_are_bound_and_charged() {
    const NAMES: usize = 32_766;
    let mut engine = limited(u64::MAX, u64::MAX);
    let names: Vec<String> = (0..NAMES).map(|number| format!(":name{number}")).collect();
    let sql = format!("INSERT INTO t SELECT count(*) FROM (VALUES ({}))", names.join("),("));
    let parameter = |number: usize| Parameter {
        name: Some(format!("name{number}")),
        value: Value::Integer(i64::try_from(number).unwrap()),
    };
    let statement = Statement { sql, parameters: (0..NAMES).rev().map(parameter).collect() };
    let mut request = execute(&[]);
    request.statements = vec![statement];
    let mut item = Item::requests(vec![request]);
    item.settings.budget.steps = 200_000_000;
    let applied = engine.apply(&item);
    let outcome = &applied.requests[0].results[0].outcome;
    assert!(matches!(outcome, Outcome::Done { rows_affected: Some(1), .. }), "{outcome:?}");
    item.settings.budget.steps = 100_000_000;
    let applied = engine.apply(&item);
    let (kind, message) = error(&applied.requests[0].results[0].outcome);
    assert_eq!(kind, ErrorKind::Budget, "{message}");
    assert_eq!(count(&mut engine), Value::Integer(1));
}
