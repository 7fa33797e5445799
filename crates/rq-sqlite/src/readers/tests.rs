//! The pool: limits, what is reset, what is closed, holding and cancelling.

use std::thread;

use rq_sql::{ErrorKind, Outcome, Statement, Value};

use super::*;
use crate::{
    query::Query,
    testing::{Bare, collect, read, single, values},
};

const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)
                       SELECT count(*) FROM c";

#[test]
fn a_leaked_transaction_does_not_outlive_its_request() {
    let bare = Bare::with("CREATE TABLE t (x)");
    let readers = &bare.parts.readers;
    read(readers, &["BEGIN", "SELECT * FROM t"]);
    read(readers, &["SAVEPOINT s", "SELECT * FROM t"]);
    bare.write("INSERT INTO t VALUES (1)");
    assert_eq!(single(&read(readers, &["SELECT count(*) FROM t"])[0]), Ok(Value::Integer(1)));
    assert_eq!(readers.status().open, 1, "the connection was used again");
}

#[test]
fn a_changed_setting_does_not_outlive_its_request() {
    let bare = Bare::with("CREATE TABLE t (x)");
    let readers = &bare.parts.readers;
    for pragma in ["foreign_keys", "case_sensitive_like", "reverse_unordered_selects"] {
        let outcomes = read(readers, &[&format!("PRAGMA {pragma} = 1")]);
        assert!(values(&outcomes[0]).is_ok(), "{pragma}");
        assert_eq!(readers.status().open, 0, "the connection was closed: {pragma}");
    }
    assert_eq!(single(&read(readers, &["PRAGMA foreign_keys"])[0]), Ok(Value::Integer(0)));
    read(readers, &["PRAGMA table_info('t')", "PRAGMA index_list(t)", "PRAGMA user_version"]);
    assert_eq!(readers.status().open, 1, "asking alone keeps it");
}

#[test]
fn a_search_index_that_was_changed_since_it_was_checked_is_not_called_damaged() {
    let bare = Bare::with("CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('a b')");
    let readers = &bare.parts.readers;
    for word in ["c", "d"] {
        for pragma in ["PRAGMA integrity_check", "PRAGMA quick_check"] {
            let ok = Ok(Value::Text(b"ok".to_vec()));
            assert_eq!(single(&read(readers, &[pragma])[0]), ok, "{pragma} after {word}");
        }
        bare.write(&format!("INSERT INTO f VALUES ('{word}')"));
    }
}

#[test]
fn no_more_connections_than_the_limit_and_waiting_ends_at_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = crate::testing::options_in(&directory);
    options.readers_max = 1;
    let parts = crate::database::open_parts(&options).unwrap();
    let loan = parts.readers.take(Patience::None, None).unwrap().unwrap();
    assert!(parts.readers.take(Patience::None, None).unwrap().is_none());
    let soon = Instant::now() + Duration::from_millis(20);
    let error = parts.readers.take(Patience::Until(soon), None).err().unwrap();
    assert_eq!(error.to_string(), "context deadline exceeded");
    let statements = [Statement::new("SELECT 1")];
    let query = Query { statements: &statements, step_allowance: Some(1000), ..Query::default() };
    let end = parts.readers.query(&query, &mut crate::testing::Collected::default());
    assert_eq!(end, Ok(crate::query::QueryEnd::Yielded), "an inline query never waits");
    assert_eq!(parts.readers.status(), ReadersStatus { limit: 1, open: 1, busy: 1 });
    let waiting = parts.readers.clone();
    let waiter = thread::spawn(move || single(&read(&waiting, &["SELECT 5"])[0]).unwrap());
    drop(loan);
    assert_eq!(waiter.join().unwrap(), Value::Integer(5));
}

#[test]
fn the_oldest_query_can_be_cancelled() {
    let bare = Bare::new();
    let readers = bare.parts.readers.clone();
    assert!(!readers.cancel_oldest(Duration::ZERO));
    let running = readers.clone();
    let long = thread::spawn(move || read(&running, &[ENDLESS, "SELECT 1"]));
    while readers.status().busy == 0 {
        thread::yield_now();
    }
    assert!(!readers.cancel_oldest(Duration::from_secs(3600)), "it is not that old");
    // The query may not have started running yet; its start forgets nothing of a revocation.
    while !long.is_finished() {
        readers.cancel_oldest(Duration::ZERO);
        thread::yield_now();
    }
    for outcome in long.join().unwrap() {
        let Outcome::Error(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.kind, ErrorKind::Cancelled);
    }
    assert_eq!(single(&read(&readers, &["SELECT 2"])[0]), Ok(Value::Integer(2)));
}

#[test]
fn a_closed_pool_ends_what_runs_and_refuses_the_rest() {
    let bare = Bare::new();
    let readers = bare.parts.readers.clone();
    let running = readers.clone();
    let long = thread::spawn(move || {
        let statements = [Statement::new(ENDLESS)];
        collect(&running, &Query { statements: &statements, ..Query::default() })
    });
    while readers.status().busy == 0 {
        thread::yield_now();
    }
    assert!(readers.close(Duration::from_secs(20)));
    let outcomes = long.join().unwrap().unwrap();
    assert!(matches!(&outcomes[0], Outcome::Error(error) if error.kind == ErrorKind::Cancelled));
    assert_eq!(readers.status().open, 0);
    let error = collect(&readers, &Query::default()).unwrap_err();
    assert_eq!(error, QueryError::Closed);
}

#[test]
fn a_hold_keeps_new_reads_waiting_and_says_whether_it_is_alone() {
    let bare = Bare::new();
    let readers = bare.parts.readers.clone();
    let hold = readers.hold(Duration::from_secs(10));
    assert!(hold.is_alone());
    assert!(readers.take(Patience::None, None).unwrap().is_none());
    let waiting = readers.clone();
    let reader = thread::spawn(move || single(&read(&waiting, &["SELECT 5"])[0]).unwrap());
    drop(hold);
    assert_eq!(reader.join().unwrap(), Value::Integer(5));
    let loan = readers.take(Patience::None, None).unwrap().unwrap();
    assert!(!readers.hold(Duration::from_millis(1)).is_alone());
    drop(loan);
}

#[test]
fn idle_connections_are_closed() {
    let bare = Bare::new();
    let readers = &bare.parts.readers;
    read(readers, &["SELECT 1"]);
    readers.close_idle();
    assert_eq!(readers.status().open, 1, "not idle for long");
    for (since, _) in &mut readers.pool.state().idle {
        *since -= IDLE;
    }
    readers.close_idle();
    assert_eq!(readers.status().open, 0);
}

#[test]
fn readers_compute_maths_as_the_writer_does() {
    let bare = Bare::new();
    let outcomes = read(&bare.parts.readers, &["SELECT quote(pow(2, 0.5) + sin(1) + ln(7))"]);
    let Ok(Value::Text(text)) = single(&outcomes[0]) else { panic!("{outcomes:?}") };
    assert_eq!(text, bare.ask("SELECT quote(pow(2, 0.5) + sin(1) + ln(7))").into_bytes());
}
