//! Requests of many kinds, each of which knows what it must leave behind.
//!
//! Every effect is a row of the table `marks` with a key that is used once. The table has no unique
//! index, so what is done twice shows. A trigger draws from time and chance beside each row: what a replay would change
//! shows in the image.

use std::collections::BTreeMap;

use rq_sql::{Outcome, Statement, Value};

use super::{transaction, with_parameters, write};
use crate::{EffectKnown, Error, Write, Written, environment::Seeded};

/// What a request must leave behind, and what is known about it.
#[derive(Debug)]
pub(super) struct Tracked {
    /// The keys it adds if it is done: all of them, once, or none.
    pub(super) keys: Vec<i64>,
    pub(super) fate: Fate,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its client was told that it is done, or it was seen after a restart.
    Done,
    /// Its client was told that it is not done, or it was missed after a restart.
    NotDone,
    /// Nobody knows.
    Unknown,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) write: Write,
    /// The keys it adds.
    keys: Vec<i64>,
    /// Which of its statements fail; `None` if the answer has another shape.
    fails: Option<Vec<bool>>,
}

/// Makes requests from a seed and keeps account of them.
#[derive(Debug)]
pub(super) struct Workload {
    random: Seeded,
    next_key: i64,
    pub(super) tracked: Vec<Tracked>,
}

const TABLES: [&str; 7] = [
    "CREATE TABLE IF NOT EXISTS marks (key INTEGER, body)",
    "CREATE TABLE IF NOT EXISTS trail (key INTEGER, at, luck)",
    "CREATE TRIGGER IF NOT EXISTS follow AFTER INSERT ON marks BEGIN
       INSERT INTO trail VALUES (new.key, strftime('%f'), random()); END",
    "CREATE TABLE IF NOT EXISTS single (key INTEGER PRIMARY KEY)",
    "INSERT OR IGNORE INTO single VALUES (1)",
    "CREATE TABLE IF NOT EXISTS filler (body)",
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(body)",
];
const FILL: &str = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 20)
     INSERT INTO filler SELECT randomblob(1500) FROM c";
const COLLIDE: &str = "INSERT INTO single VALUES (1)";
const COLLIDE_AND_ROLL_BACK: &str = "INSERT OR ROLLBACK INTO single VALUES (1)";

impl Workload {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Seeded::new(seed, 0), next_key: 1, tracked: Vec::new() }
    }

    /// Makes the tables, if they are missing.
    pub(super) fn tables() -> Write {
        transaction(&TABLES)
    }

    /// A number below `limit`.
    pub(super) fn below(&self, limit: u64) -> u64 {
        self.random.next() % limit
    }

    /// A request of a random kind.
    pub(super) fn request(&mut self) -> Sent {
        match self.below(20) {
            0..5 => self.one_row(),
            5 => self.large_row(),
            6 => self.all_succeed(write, 3),
            7..9 => self.all_succeed(transaction, 3),
            9 => self.some_fail(COLLIDE),
            10 => self.some_fail("INSERT INTO missing VALUES (1)"),
            11 => self.some_fail(COLLIDE_AND_ROLL_BACK),
            12 => self.nothing_remains(&[COLLIDE]),
            13 => self.nothing_remains(&[COLLIDE_AND_ROLL_BACK]),
            14 => self.one_string_of_several(),
            15 => self.own_transaction(),
            16 => self.schema_change(),
            17 => self.space("DELETE FROM filler WHERE rowid % 3 = 0"),
            18 => self.space(FILL),
            _ => self.words(),
        }
    }

    /// A request that is maintenance.
    pub(super) fn maintenance(&self) -> Write {
        let kinds = ["VACUUM", "VACUUM", "ANALYZE", "REINDEX", "PRAGMA optimize"];
        write(&[kinds[usize::try_from(self.below(5)).unwrap()]])
    }

    /// Notes what a client was told.
    pub(super) fn learn(&mut self, sent: Sent, told: &Result<Written, Error>) {
        let fate = match told {
            Ok(written) => {
                check_answer(&sent, written);
                Fate::Done
            }
            Err(error) => match error.outcome() {
                EffectKnown::NotDone => Fate::NotDone,
                EffectKnown::Unknown => Fate::Unknown,
            },
        };
        self.tracked.push(Tracked { keys: sent.keys, fate });
    }

    /// Compares what is found (each key, and how often) with what must be, and learns from it what
    /// became of requests with an unknown end.
    pub(super) fn check(&mut self, mut found: BTreeMap<i64, i64>) {
        for tracked in &mut self.tracked {
            let times: Vec<i64> =
                tracked.keys.iter().map(|key| found.remove(key).unwrap_or(0)).collect();
            let (all, none) = (times.iter().all(|n| *n == 1), times.iter().all(|n| *n == 0));
            match tracked.fate {
                Fate::Done => assert!(all, "acknowledged, but found {times:?} of {tracked:?}"),
                Fate::NotDone => assert!(none, "refused, but found {times:?} of {tracked:?}"),
                Fate::Unknown => {
                    assert!(all || none, "found {times:?} of {tracked:?}");
                    tracked.fate = if all { Fate::Done } else { Fate::NotDone };
                }
            }
        }
        assert_eq!(found, BTreeMap::new(), "nobody ever wrote these");
    }

    fn key(&mut self) -> i64 {
        self.next_key += 1;
        self.next_key
    }

    fn insert(&mut self) -> (String, i64) {
        let key = self.key();
        (format!("INSERT INTO marks VALUES ({key}, hex(randomblob(20)))"), key)
    }

    fn one_row(&mut self) -> Sent {
        let key = self.key();
        let body = vec![7; usize::try_from(self.below(300)).unwrap()];
        let sql = match self.below(3) {
            0 => "INSERT INTO marks VALUES (?, ?) RETURNING rowid, random(), body",
            _ => "INSERT INTO marks VALUES (?, ?)",
        };
        let statement = with_parameters(sql, vec![Value::Integer(key), Value::Blob(body)]);
        one(statement, vec![key])
    }

    /// Larger than a segment of the log, and nothing compression could help with.
    fn large_row(&mut self) -> Sent {
        let key = self.key();
        let words = 500 + self.below(4000);
        let body = (0..words).flat_map(|_| self.random.next().to_le_bytes()).collect();
        let values = vec![Value::Integer(key), Value::Blob(body)];
        one(with_parameters("INSERT INTO marks VALUES (?, ?)", values), vec![key])
    }

    fn all_succeed(&mut self, form: fn(&[&str]) -> Write, count: usize) -> Sent {
        let (statements, keys): (Vec<_>, Vec<_>) = (0..count).map(|_| self.insert()).unzip();
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        Sent { write: form(&statements), keys, fails: Some(vec![false; count]) }
    }

    /// Statements that stand alone: the failure of one says nothing about the others.
    fn some_fail(&mut self, failing: &str) -> Sent {
        let ((first, first_key), (second, second_key)) = (self.insert(), self.insert());
        Sent {
            write: write(&[&first, failing, &second]),
            keys: vec![first_key, second_key],
            fails: Some(vec![false, true, false]),
        }
    }

    fn nothing_remains(&mut self, failing: &[&str]) -> Sent {
        let (first, _) = self.insert();
        let mut statements = vec![first.as_str()];
        statements.extend(failing);
        Sent { write: transaction(&statements), keys: Vec::new(), fails: None }
    }

    fn one_string_of_several(&mut self) -> Sent {
        let ((first, first_key), (second, second_key)) = (self.insert(), self.insert());
        let string = format!("{first}; -- and\n {second};");
        Sent { write: write(&[&string]), keys: vec![first_key, second_key], fails: None }
    }

    /// A client that types BEGIN. Only what it commits remains.
    fn own_transaction(&mut self) -> Sent {
        let ((first, key), (second, _)) = (self.insert(), self.insert());
        let statements = ["BEGIN", &first, "COMMIT", "BEGIN", &second];
        Sent { write: write(&statements), keys: vec![key], fails: None }
    }

    fn schema_change(&mut self) -> Sent {
        let (insert, key) = self.insert();
        let number = self.below(4);
        let drop = format!("DROP TABLE IF EXISTS t{number}");
        let create =
            format!("CREATE TABLE t{number} (a INTEGER PRIMARY KEY, b UNIQUE DEFAULT (random()))");
        let fill = format!("INSERT INTO t{number} (a) VALUES (1), (2), (3)");
        let index = format!("CREATE INDEX t{number}_i ON t{number} (b, a)");
        let statements = [drop.as_str(), &create, &fill, &index, &insert];
        Sent { write: transaction(&statements), keys: vec![key], fails: Some(vec![false; 5]) }
    }

    fn space(&mut self, sql: &str) -> Sent {
        let (insert, key) = self.insert();
        Sent { write: write(&[sql, &insert]), keys: vec![key], fails: Some(vec![false; 2]) }
    }

    fn words(&mut self) -> Sent {
        let (insert, key) = self.insert();
        let sql = format!("INSERT INTO words VALUES ('word{key} and ' || hex(randomblob(9)))");
        Sent { write: transaction(&[&sql, &insert]), keys: vec![key], fails: None }
    }
}

fn one(statement: Statement, keys: Vec<i64>) -> Sent {
    let write = Write { statements: vec![statement], transaction: false, timeout: None };
    Sent { write, keys, fails: Some(vec![false]) }
}

fn check_answer(sent: &Sent, written: &Written) {
    let Some(fails) = &sent.fails else { return };
    let failed: Vec<bool> =
        written.results.iter().map(|result| matches!(result.outcome, Outcome::Error(_))).collect();
    assert_eq!(failed, *fails, "{sent:?} was answered {written:?}");
}
