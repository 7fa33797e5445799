//! Reads: results, errors, binding, multi-statement strings, limits.

use std::{thread, time::Duration};

use rq_sql::{Outcome, Parameter, Value};

use super::*;
use crate::testing::{Bare, Collected, collect, read, single, values};

const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)
                       SELECT count(*) FROM c";

fn library() -> Bare {
    Bare::with(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(10), data BLOB);
         INSERT INTO t VALUES (1, 'one', x'01'), (2, 'two', NULL), (3, 'three', x'');",
    )
}

#[test]
fn rows_carry_names_declared_types_and_real_tables() {
    let bare = library();
    let outcomes =
        read(&bare.parts.readers, &["SELECT id, name AS n, data, 1.5 FROM t AS x LIMIT 1"]);
    let Outcome::Rows(rows) = &outcomes[0] else { panic!("{outcomes:?}") };
    let columns: Vec<_> = rows
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.declared_type.as_deref(), c.table.as_deref()))
        .collect();
    assert_eq!(
        columns,
        [
            ("id", Some("INTEGER"), Some("t")),
            ("n", Some("VARCHAR(10)"), Some("t")),
            ("data", Some("BLOB"), Some("t")),
            ("1.5", None, None),
        ]
    );
    let expected = [Value::Integer(1), Value::text("one"), Value::Blob(vec![1]), Value::Real(1.5)];
    assert_eq!(rows.rows, [expected]);
}

#[test]
fn a_cached_statement_sees_a_changed_table() {
    let bare = library();
    let readers = &bare.parts.readers;
    let width = |outcome: &Outcome| match outcome {
        Outcome::Rows(rows) => rows.columns.len(),
        _ => 0,
    };
    assert_eq!(width(&read(readers, &["SELECT * FROM t WHERE id = 9"])[0]), 3);
    bare.write("ALTER TABLE t ADD COLUMN more");
    assert_eq!(width(&read(readers, &["SELECT * FROM t WHERE id = 9"])[0]), 4);
}

#[test]
fn all_statements_of_a_string_run_and_the_last_reports() {
    let bare = library();
    let one = |sql: &str| read(&bare.parts.readers, &[sql]).remove(0);
    assert_eq!(single(&one("SELECT 1; SELECT 2")), Ok(Value::Integer(2)));
    assert_eq!(single(&one("SELECT 1;")), Ok(Value::Integer(1)));
    assert_eq!(single(&one("/* a */ ;; SELECT 3; -- b")), Ok(Value::Integer(3)));
    assert_eq!(one(""), Outcome::Empty);
    assert_eq!(one(" -- nothing\n"), Outcome::Empty);
    assert_eq!(one(";"), Outcome::Empty);
    let write = "attempt to change database via query operation";
    assert_eq!(values(&one("INSERT INTO t VALUES (9, 'x', 1); SELECT 3")), Err(write));
    assert_eq!(values(&one("SELECT 1; SELECT missing")), Err("no such column: missing"));
}

#[test]
fn whatever_writes_is_refused_as_a_write_and_changes_nothing() {
    let bare = library();
    let before = bare.ask("SELECT count(*) FROM t");
    for sql in [
        "INSERT INTO t VALUES (9, 'x', NULL)",
        "UPDATE t SET name = 'x' RETURNING id",
        "DELETE FROM t",
        "CREATE TABLE u (x)",
        "CREATE TEMP TABLE u (x)",
        "DROP TABLE t",
        "PRAGMA user_version = 5",
        "VACUUM",
        "REINDEX",
    ] {
        let outcomes = read(&bare.parts.readers, &[sql, "SELECT 1"]);
        let Outcome::Error(error) = &outcomes[0] else { panic!("{sql}: {outcomes:?}") };
        assert_eq!(error.message, "attempt to change database via query operation", "{sql}");
        assert_eq!((error.kind, error.origin), (ErrorKind::ReadOnly, Origin::Read), "{sql}");
        assert_eq!(single(&outcomes[1]), Ok(Value::Integer(1)), "the next statement runs: {sql}");
    }
    assert_eq!(bare.ask("SELECT count(*) FROM t"), before);
}

#[test]
fn what_reaches_beyond_the_database_is_not_authorized() {
    let bare = library();
    for sql in [
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "PRAGMA query_only = 0",
        "PRAGMA cache_size = 1000000",
        "PRAGMA temp_store_directory = '/'",
        "PRAGMA hard_heap_limit = 1000",
        "PRAGMA wal_checkpoint",
        "SELECT sqlite_log(1, 'x')",
        "SELECT load_extension('x')",
    ] {
        let outcomes = read(&bare.parts.readers, &[sql]);
        let Outcome::Error(error) = &outcomes[0] else { panic!("{sql}: {outcomes:?}") };
        assert_eq!(error.kind, ErrorKind::NotAuthorized, "{sql}: {}", error.message);
    }
}

#[test]
fn attach_is_refused_with_the_reason() {
    let bare = library();
    let cases = [
        (
            "ATTACH ':memory:' AS other",
            "not authorized: ATTACH: the database is one replicated file",
        ),
        ("EXPLAIN ATTACH 'x' AS y", "not authorized: ATTACH: the database is one replicated file"),
        ("SELECT 1; DETACH main", "not authorized: DETACH: the database is one replicated file"),
        ("VACUUM", "attempt to change database via query operation"),
        ("PRAGMA wal_checkpoint", "not authorized"),
    ];
    for (sql, message) in cases {
        let outcomes = read(&bare.parts.readers, &[sql]);
        assert_eq!(values(&outcomes[0]), Err(message), "{sql}");
    }
}

/// Sorts a few MB more than the cache of a reader holds.
const LARGE_SORT: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 8000)
                          SELECT count(*) FROM (SELECT hex(zeroblob(500)) || x AS y FROM c ORDER BY y)
                          WHERE EXISTS (SELECT 1 FROM t) AND y > (SELECT min(z) FROM (SELECT hex(zeroblob(500)) || x AS z FROM c ORDER BY z DESC))";

#[test]
fn temporary_files_of_a_request_are_bounded() {
    let open = |read_temporary_bytes| {
        let mut bare = library();
        bare.options.read_temporary_bytes = read_temporary_bytes;
        bare.reopen()
    };
    let bounded = open(1 << 20);
    let outcomes = read(&bounded.parts.readers, &[LARGE_SORT, "SELECT count(*) FROM t"]);
    let Outcome::Error(error) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!((error.kind, error.origin), (ErrorKind::Budget, Origin::Read));
    assert!(error.message.contains("more than 1048576 bytes of temporary files"), "{error}");
    assert_eq!(single(&outcomes[1]), Ok(Value::Integer(3)), "the next statement runs");
    for bytes in [0, 1 << 30] {
        let outcomes = read(&open(bytes).parts.readers, &[LARGE_SORT]);
        assert_eq!(single(&outcomes[0]), Ok(Value::Integer(7999)), "{bytes}");
    }
}

#[test]
fn a_read_transaction_that_a_failure_ended_says_so() {
    let mut bare = library();
    bare.options.read_temporary_bytes = 1 << 20;
    let bare = bare.reopen();
    let statements = ["SELECT count(*) FROM t", LARGE_SORT, "SELECT 1", "SELECT 2"];
    let statements = statements.map(Statement::new);
    let query = Query { statements: &statements, transaction: true, ..Query::default() };
    let outcomes = collect(&bare.parts.readers, &query).unwrap();
    assert_eq!(single(&outcomes[0]), Ok(Value::Integer(3)), "what was read before stands");
    assert!(values(&outcomes[1]).is_err_and(|message| message.starts_with("query stopped")));
    for outcome in &outcomes[2..] {
        let lost = "not run: the failure of a statement before ended the read transaction";
        assert_eq!(values(outcome), Err(lost));
    }
    assert_eq!(single(&read(&bare.parts.readers, &["SELECT 3"])[0]), Ok(Value::Integer(3)));
}

#[test]
fn errors_are_those_of_sqlite() {
    let bare = library();
    let cases = [
        ("SELECT * FROM missing", "no such table: missing", ErrorKind::Sql),
        ("SELEKT 1", "near \"SELEKT\": syntax error", ErrorKind::Sql),
        ("SELECT (", "incomplete input", ErrorKind::Sql),
        ("SELECT abs(-9223372036854775808)", "integer overflow", ErrorKind::Sql),
        ("SELECT nofunc(1)", "no such function: nofunc", ErrorKind::Sql),
        ("SELECT 1\0 2", "SQL text contains a NUL character", ErrorKind::Sql),
    ];
    for (sql, message, kind) in cases {
        let outcomes = read(&bare.parts.readers, &[sql]);
        let Outcome::Error(error) = &outcomes[0] else { panic!("{sql}: {outcomes:?}") };
        assert_eq!((error.message.as_str(), error.kind), (message, kind));
    }
}

#[test]
fn an_error_at_run_time_voids_the_rows_before_it() {
    let bare = library();
    let sql = "SELECT abs(iif(id = 3, -9223372036854775808, id)) FROM t ORDER BY id";
    assert_eq!(values(&read(&bare.parts.readers, &[sql])[0]), Err("integer overflow"));
}

fn with(sql: &str, parameters: &[(&str, i64)]) -> Statement {
    let parameters = parameters
        .iter()
        .map(|(name, value)| Parameter {
            name: Some((*name).to_owned()),
            value: Value::Integer(*value),
        })
        .collect();
    Statement { sql: sql.to_owned(), parameters }
}

#[test]
fn parameters_bind_by_position_and_by_name() {
    let bare = library();
    let int = Value::Integer;
    let cases: Vec<(Statement, Result<Vec<Value>, &str>)> = vec![
        (with("SELECT ?, ?", &[("", 1), ("", 2)]), Ok(vec![int(1), int(2)])),
        (with("SELECT :a, @a, $a", &[("a", 7), ("b", 8), ("c", 9)]), Ok(vec![int(7); 3])),
        // The positional item stands at the second place of the list, so it binds to slot 2.
        (with("SELECT ?, :a", &[("a", 1), ("", 2)]), Ok(vec![Value::Null, int(2)])),
        (with("SELECT ?2, ?1", &[("", 1), ("", 2)]), Ok(vec![int(2), int(1)])),
        (with("SELECT :a", &[("A", 1)]), Ok(vec![Value::Null])),
        (with("SELECT ?", &[("", 1), ("", 2)]), Ok(vec![int(1)])),
        (with("SELECT ?, ?", &[("", 1)]), Err("not enough args to execute query: want 2 got 1")),
        (with("SELECT ?1", &[]), Err("not enough args to execute query: want 1 got 0")),
        (with("SELECT ?; SELECT ?, ?", &[("", 1), ("", 2), ("", 3)]), Ok(vec![int(2), int(3)])),
        (
            with("SELECT ?; SELECT ?", &[("", 1)]),
            Err("not enough args to execute query: want 1 got 0"),
        ),
        (with("SELECT ?; SELECT :n", &[("", 1), ("", 2), ("n", 3)]), Ok(vec![int(3)])),
        (with("SELECT 1", &[(":a", 1)]), Err("name \":a\" does not begin with a letter")),
        (with("SELECT 1", &[("é", 1)]), Ok(vec![int(1)])),
    ];
    for (statement, expected) in cases {
        let statements = [statement];
        let query = Query { statements: &statements, ..Query::default() };
        let outcomes = collect(&bare.parts.readers, &query).unwrap();
        let found = values(&outcomes[0]).map(|mut rows| rows.remove(0));
        assert_eq!(found, expected, "{statements:?}");
    }
}

#[test]
fn every_kind_of_value_survives_binding_and_reading() {
    let bare = library();
    let sent = vec![
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(-0.0),
        Value::Real(f64::INFINITY),
        Value::text(""),
        Value::text("a\0b é"),
        Value::Text(vec![0xff, b'x']),
        Value::Blob(vec![]),
        Value::Blob(vec![0, 255]),
    ];
    let statements = [Statement::with("SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?", sent.clone())];
    let query = Query { statements: &statements, ..Query::default() };
    for _ in 0..2 {
        let outcomes = collect(&bare.parts.readers, &query).unwrap();
        assert_eq!(values(&outcomes[0]), Ok(vec![sent.clone()]));
    }
    // What was bound before does not linger in the cached statement.
    let empty = [Statement::with(statements[0].sql.clone(), vec![Value::Null; 9])];
    let query = Query { statements: &empty, ..Query::default() };
    assert_eq!(
        values(&collect(&bare.parts.readers, &query).unwrap()[0]),
        Ok(vec![vec![Value::Null; 9]])
    );
}

#[test]
fn a_sink_that_refuses_a_row_ends_the_statement_with_its_error() {
    let bare = library();
    let statements = [Statement::new("SELECT id FROM t"), Statement::new("SELECT 1")];
    let mut sink = Collected { most_rows: 2, ..Collected::default() };
    let query = Query { statements: &statements, ..Query::default() };
    assert_eq!(bare.parts.readers.query(&query, &mut sink), Ok(QueryEnd::Done));
    assert_eq!(values(&sink.outcomes[0]), Err("too many rows"));
    assert_eq!(single(&sink.outcomes[1]), Ok(Value::Integer(1)));
}

#[test]
fn after_the_deadline_this_and_all_later_statements_report_it() {
    let bare = library();
    let statements = ["SELECT 1", ENDLESS, "SELECT 2"].map(Statement::new);
    let mut query = Query {
        statements: &statements,
        deadline: Some(Instant::now() + Duration::from_millis(50)),
        ..Query::default()
    };
    let outcomes = collect(&bare.parts.readers, &query).unwrap();
    assert_eq!(single(&outcomes[0]), Ok(Value::Integer(1)));
    for outcome in &outcomes[1..] {
        let Outcome::Error(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!((error.message.as_str(), error.kind), ("query timeout", ErrorKind::Timeout));
    }
    query.transaction = true;
    query.deadline = Some(Instant::now() + Duration::from_millis(50));
    let error = collect(&bare.parts.readers, &query).unwrap_err();
    assert_eq!(error.to_string(), "sql: transaction has already been committed or rolled back");
    assert_eq!(single(&read(&bare.parts.readers, &["SELECT 3"])[0]), Ok(Value::Integer(3)));
}

/// The looks of the progress handler never come: each statement takes a few steps.
#[test]
fn between_the_statements_of_a_text_deadline_cancelling_and_allowance_are_looked_at() {
    let bare = library();
    let text = Statement::new("SELECT 1;".repeat(100_000));
    let statements = [text, Statement::new("SELECT 2")];
    let query = Query { statements: &statements, ..Query::default() };
    let message = |query: &Query<'_>| {
        let outcomes = collect(&bare.parts.readers, query).unwrap();
        values(&outcomes[0]).map_err(str::to_owned).map(drop)
    };
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    assert_eq!(message(&Query { deadline, ..query.clone() }), Err("query timeout".to_owned()));
    let cancel = CancelFlag::new();
    let flag = cancel.clone();
    let canceller = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        flag.cancel();
    });
    let cancelled = message(&Query { cancel: Some(cancel), ..query.clone() });
    canceller.join().unwrap();
    assert_eq!(cancelled, Err("query cancelled by its client".to_owned()));
    assert_eq!(message(&query), Ok(()));
    // Short enough to be begun under an allowance, which 6,000 statements use up.
    let statements = [Statement::new("SELECT 1;".repeat(6_000))];
    for (allowance, expected) in [(1_000_000, QueryEnd::Yielded), (10_000_000, QueryEnd::Done)] {
        let step_allowance = Some(allowance);
        let query = Query { statements: &statements, step_allowance, ..Query::default() };
        let end = bare.parts.readers.query(&query, &mut Collected::default());
        assert_eq!(end, Ok(expected), "with {allowance}");
    }
}

#[test]
fn a_cancelled_query_ends_soon_and_the_connection_goes_on() {
    let bare = library();
    let cancel = CancelFlag::new();
    let flag = cancel.clone();
    let canceller = thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        flag.cancel();
    });
    let statements = [Statement::new(ENDLESS)];
    let query = Query { statements: &statements, cancel: Some(cancel.clone()), ..Query::default() };
    let outcomes = collect(&bare.parts.readers, &query).unwrap();
    canceller.join().unwrap();
    let Outcome::Error(error) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert_eq!(collect(&bare.parts.readers, &query), Err(QueryError::Cancelled));
    assert_eq!(single(&read(&bare.parts.readers, &["SELECT 3"])[0]), Ok(Value::Integer(3)));
}

#[test]
fn an_allowance_lets_short_queries_through_and_yields_long_ones() {
    let bare = library();
    let run = |sql: &str, allowance| {
        let statements = [Statement::new("SELECT 7"), Statement::new(sql)];
        let mut sink = Collected::default();
        let query =
            Query { statements: &statements, step_allowance: allowance, ..Query::default() };
        let end = bare.parts.readers.query(&query, &mut sink).unwrap();
        (end, sink.outcomes.len())
    };
    let limited = ENDLESS.replace("FROM c)", "FROM c LIMIT 100000)");
    assert_eq!(run("SELECT * FROM t", Some(20_000)), (QueryEnd::Done, 2));
    assert_eq!(run(&limited, Some(20_000)).0, QueryEnd::Yielded);
    assert_eq!(run(&limited, None), (QueryEnd::Done, 2));
    // Many short statements use it up as well.
    let many = vec![Statement::new("SELECT 1"); 200];
    let query = Query { statements: &many, step_allowance: Some(20_000), ..Query::default() };
    let end = bare.parts.readers.query(&query, &mut Collected::default());
    assert_eq!(end, Ok(QueryEnd::Yielded));
}

#[test]
fn a_transaction_sees_one_state_and_its_begin_is_not_doubled() {
    let bare = library();
    let statements = [
        Statement::new("SELECT count(*) FROM t"),
        Statement::new("BEGIN"),
        Statement::new("SELECT missing"),
        Statement::new("SELECT count(*) FROM t"),
    ];
    let query = Query { statements: &statements, transaction: true, ..Query::default() };
    let outcomes = collect(&bare.parts.readers, &query).unwrap();
    assert_eq!(single(&outcomes[0]), Ok(Value::Integer(3)));
    assert_eq!(values(&outcomes[1]), Err("cannot start a transaction within a transaction"));
    assert_eq!(values(&outcomes[2]), Err("no such column: missing"));
    assert_eq!(single(&outcomes[3]), Ok(Value::Integer(3)));
    let statements = [Statement::new("COMMIT")];
    let query = Query { statements: &statements, transaction: true, ..Query::default() };
    let error = collect(&bare.parts.readers, &query).unwrap_err();
    assert_eq!(error.to_string(), "cannot commit - no transaction is active");
}

#[test]
fn statements_are_classified_by_asking_sqlite() {
    let bare = library();
    let cases = [
        ("SELECT 1", ReadOrWrite::Read),
        ("  /* x */ ; SELECT 1; DELETE FROM t", ReadOrWrite::Read),
        ("EXPLAIN DELETE FROM t", ReadOrWrite::Read),
        ("", ReadOrWrite::Read),
        ("WITH x AS (SELECT 1) DELETE FROM t", ReadOrWrite::Write),
        ("INSERT INTO t VALUES (9, 'x', 1) RETURNING id", ReadOrWrite::Write),
        ("PRAGMA user_version = 3", ReadOrWrite::Write),
        ("PRAGMA user_version", ReadOrWrite::Read),
        ("VACUUM", ReadOrWrite::Write),
        ("SELEKT", ReadOrWrite::Write),
        ("ATTACH 'x' AS y", ReadOrWrite::Write),
    ];
    for (sql, expected) in cases {
        let found = bare.parts.readers.classify(&Statement::new(sql), None);
        assert_eq!(found, Ok(expected), "{sql}");
    }
}
