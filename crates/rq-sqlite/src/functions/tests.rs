//! What SQL on the writer sees of the world: the entry's clock and randomness, counters from 0.

use std::collections::HashSet;

use crate::testing::{Bare, read, single};

/// Begins an entry and its first request.
fn begin(bare: &mut Bare, clock_ms: i64, seed: u8, request: u64) {
    let writer = &mut bare.parts.writer;
    writer.ambient.begin_entry(clock_ms, [seed; 16]);
    writer.request_start.begin_request(&writer.connection, &writer.ambient, request).unwrap();
}

#[test]
fn now_is_the_entrys_clock_wherever_it_is_asked() {
    let mut bare = Bare::with(
        "CREATE TABLE t (id, at DEFAULT CURRENT_TIMESTAMP, day DEFAULT (date('now')));
         CREATE TABLE log (at);
         CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO log VALUES (unixepoch()); END;
         CREATE VIEW v AS SELECT strftime('%Y-%m-%d %H:%M:%f', 'now') AS at;",
    );
    let cases = [
        (0, "1970-01-01 00:00:00", "1970-01-01 00:00:00.000"),
        (1_700_000_000_123, "2023-11-14 22:13:20", "2023-11-14 22:13:20.123"),
        (-1, "1969-12-31 23:59:59", "1969-12-31 23:59:59.999"),
    ];
    for (clock_ms, second, exact) in cases {
        begin(&mut bare, clock_ms, 1, 0);
        bare.write("DELETE FROM t; DELETE FROM log; INSERT INTO t (id) VALUES (1)");
        assert_eq!(bare.ask("SELECT at FROM t"), second);
        assert_eq!(bare.ask("SELECT day FROM t"), second[..10]);
        assert_eq!(bare.ask("SELECT at FROM log"), clock_ms.div_euclid(1000).to_string());
        assert_eq!(bare.ask("SELECT at FROM v"), exact);
        assert_eq!(bare.ask("WITH c AS (SELECT CURRENT_TIME AS x) SELECT x FROM c"), second[11..]);
        assert_eq!(bare.ask("SELECT datetime()"), second);
        assert_eq!(bare.ask("SELECT datetime(julianday('now'))"), second);
    }
}

#[test]
fn a_reader_sees_the_real_time() {
    let bare = Bare::new();
    bare.parts.writer.ambient.begin_entry(0, [0; 16]);
    let year = single(&read(&bare.parts.readers, &["SELECT strftime('%Y') > '2000'"])[0]).unwrap();
    assert_eq!(year, rq_sql::Value::Integer(1));
}

#[test]
fn randomness_comes_from_seed_and_request_wherever_it_is_asked() {
    let mut bare = Bare::with(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, r DEFAULT (random()), b DEFAULT (randomblob(9)));
         CREATE TABLE log (r);
         CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO log VALUES (random()); END;
         CREATE TABLE many (x);
         WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 99)
         INSERT INTO many SELECT x FROM c;",
    );
    let mut run = |seed, request| {
        begin(&mut bare, 0, seed, request);
        bare.write("DELETE FROM t; DELETE FROM log; INSERT INTO t (id) VALUES (1), (2)");
        [
            bare.ask("SELECT group_concat(r || ':' || hex(b)) FROM t"),
            bare.ask("SELECT group_concat(r) FROM log"),
            bare.ask("SELECT group_concat(x) FROM (SELECT x FROM many ORDER BY random() LIMIT 9)"),
            bare.ask("SELECT hex(randomblob(20))"),
        ]
    };
    let first = run(1, 0);
    assert_eq!(first, run(1, 0));
    for (other, what) in [(run(1, 1), "request"), (run(2, 0), "seed")] {
        for (left, right) in first.iter().zip(&other) {
            assert_ne!(left, right, "another {what}");
        }
    }
}

#[test]
fn randomblob_reads_its_argument_as_sqlite_does() {
    let bare = Bare::new();
    for (argument, length) in
        [("NULL", 1), ("-5", 1), ("0", 1), ("'12 apples'", 12), ("3.9", 3), ("100", 100)]
    {
        let found = bare.ask(&format!("SELECT length(randomblob({argument}))"));
        assert_eq!(found, length.to_string(), "{argument}");
    }
    let huge =
        bare.parts
            .writer
            .connection
            .query_row("SELECT length(randomblob(134217729))", [], |row| row.get::<_, i64>(0));
    assert_eq!(huge.unwrap_err().to_string(), "string or blob too big");
}

#[test]
fn random_numbers_spread_over_the_whole_range() {
    let bare = Bare::new();
    let numbers: HashSet<String> = (0..500).map(|_| bare.ask("SELECT random()")).collect();
    assert_eq!(numbers.len(), 500);
    let negative = numbers.iter().filter(|number| number.starts_with('-')).count();
    assert!((150..350).contains(&negative), "{negative} of 500 are negative");
    assert_eq!(super::without_minimum(i64::MIN), 0);
    assert_eq!(super::without_minimum(-1), -i64::MAX);
}

#[test]
fn counters_start_at_zero_in_each_request_and_then_count_as_sqlites() {
    let mut bare = Bare::with(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x);
         CREATE TABLE log (x);
         CREATE TRIGGER r BEFORE INSERT ON t BEGIN INSERT INTO log SELECT changes(); END;
         INSERT INTO t (x) VALUES (1), (2), (3);
         DELETE FROM log;",
    );
    let counters = "SELECT changes() || ' ' || total_changes() || ' ' || last_insert_rowid()";
    begin(&mut bare, 0, 0, 0);
    assert_eq!(bare.ask(counters), "0 0 0");
    bare.write("INSERT INTO t (x) VALUES (4), (5)");
    // Two rows and one row each by the trigger; nothing of the previous request shows in it.
    assert_eq!(bare.ask(counters), "2 4 5");
    assert_eq!(bare.ask("SELECT group_concat(x) FROM log"), "0,0");
    bare.write("UPDATE t SET x = 0 WHERE id = 99");
    assert_eq!(bare.ask(counters), "0 4 5");
    begin(&mut bare, 0, 0, 1);
    assert_eq!(bare.ask(counters), "0 0 0");
}
