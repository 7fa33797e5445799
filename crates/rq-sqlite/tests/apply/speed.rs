//! How fast single-row inserts are applied. Printed, never asserted: run with
//! `cargo test --release -p rq-sqlite --test apply speed -- --nocapture` and `RQ_BENCH` set.

use std::{env, time::Instant};

use rq_sql::{Parameter, Statement, Value};
use rq_sqlite::{Budget, Mode, Request, Settings};

use crate::harness::{Engine, Item};

fn insert(number: u64) -> Request {
    let value = Value::Integer(i64::try_from(number).unwrap());
    let parameters = vec![
        Parameter { name: None, value },
        Parameter { name: None, value: Value::text("some text of a usual length") },
    ];
    let sql = "INSERT INTO t (a, b) VALUES (?, ?)".to_owned();
    Request {
        mode: Mode::Execute,
        transaction: false,
        statements: vec![Statement { sql, parameters }],
    }
}

#[test]
fn single_row_inserts() {
    let rows: u64 = if env::var_os("RQ_BENCH").is_some() { 400_000 } else { 2_000 };
    let limits =
        Settings { foreign_keys: false, budget: Budget { steps: 1_000_000_000, pages: 1_000_000 } };
    for (name, batch, transaction, foreign_keys) in [
        ("one request an entry", 1, false, false),
        ("32 requests an entry", 32, false, false),
        ("32 transactions an entry", 32, true, false),
        ("32 requests with foreign keys on", 32, false, true),
    ] {
        let mut engine = Engine::new();
        engine.execute(&["CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)"]);
        let started = Instant::now();
        let mut number = 0;
        while number < rows {
            let requests = (0..batch).map(|_| {
                number += 1;
                Request { transaction, ..insert(number) }
            });
            let item = Item::requests(requests.collect());
            engine.apply(&Item { settings: Settings { foreign_keys, ..limits }, ..item });
        }
        let seconds = started.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
        let rate = number as f64 / seconds;
        println!("{name}: {rate:.0} inserts/s");
        assert_eq!(engine.next_index, 2 + number / batch);
    }
}
