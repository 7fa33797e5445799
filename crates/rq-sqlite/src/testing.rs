//! What the tests of this crate share: databases in temporary directories, a sink that collects.
//! Compiled for tests only.

use std::{path::PathBuf, time::Duration};

use rq_sql::{Column, End, Outcome, ResultSink, Rows, SinkError, Statement, Value, ValueRef};
use tempfile::TempDir;

use crate::{
    database::{Options, Parts, open_parts, prepare_library},
    entry::EntryId,
    query::{Query, QueryEnd},
    readers::{QueryError, Readers},
};

/// A database on disk whose writer is used by plain SQL, without entries.
pub(crate) struct Bare {
    pub(crate) parts: Parts,
    pub(crate) options: Options,
    pub(crate) directory: TempDir,
}

impl Bare {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = options_in(&directory);
        Self { parts: open_parts(&options).unwrap(), options, directory }
    }

    pub(crate) fn with(sql: &str) -> Self {
        let bare = Self::new();
        bare.write(sql);
        bare
    }

    /// Runs SQL on the writer connection.
    pub(crate) fn write(&self, sql: &str) {
        self.parts.writer.connection.execute_batch(sql).unwrap();
    }

    /// Runs SQL as one transaction that also records an entry.
    pub(crate) fn apply(&mut self, index: u64, sql: &str) {
        self.write("BEGIN IMMEDIATE");
        self.write(sql);
        self.parts.writer.state.set_applied(EntryId { term: 1, index }).unwrap();
        self.write("COMMIT");
    }

    /// One value, as text, from the writer connection.
    pub(crate) fn ask(&self, sql: &str) -> String {
        let value: rusqlite::types::Value =
            self.parts.writer.connection.query_row(sql, [], |row| row.get(0)).unwrap();
        match value {
            rusqlite::types::Value::Null => "NULL".to_owned(),
            rusqlite::types::Value::Integer(integer) => integer.to_string(),
            rusqlite::types::Value::Real(real) => real.to_string(),
            rusqlite::types::Value::Text(text) => text,
            rusqlite::types::Value::Blob(blob) => format!("{blob:02x?}"),
        }
    }

    /// Closes everything and opens it again.
    pub(crate) fn reopen(self) -> Self {
        let Self { parts, options, directory } = self;
        drop(parts);
        Self { parts: open_parts(&options).unwrap(), options, directory }
    }
}

pub(crate) fn options_in(directory: &TempDir) -> Options {
    let path = |name: &str| -> PathBuf { directory.path().join(name) };
    Options::new(path("db.sqlite"), path("scratch"))
}

/// A connection without anything of ours, in memory.
pub(crate) fn plain_connection() -> rusqlite::Connection {
    prepare_library().unwrap();
    rusqlite::Connection::open_in_memory().unwrap()
}

/// Collects results as data; refuses a row beyond `most_rows` of a statement.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) running: Option<Rows>,
    pub(crate) most_rows: usize,
}

impl Default for Collected {
    fn default() -> Self {
        Self { outcomes: Vec::new(), running: None, most_rows: usize::MAX }
    }
}

impl ResultSink for Collected {
    fn columns(&mut self, columns: &[Column]) {
        assert!(self.running.is_none(), "columns twice");
        self.running = Some(Rows { columns: columns.to_vec(), rows: Vec::new() });
    }

    fn row(&mut self, row: &[ValueRef<'_>]) -> Result<(), SinkError> {
        let running = self.running.as_mut().expect("columns come first");
        assert_eq!(row.len(), running.columns.len());
        if running.rows.len() == self.most_rows {
            let kind = rq_sql::ErrorKind::ResultTooLarge;
            return Err(SinkError { kind, message: "too many rows".to_owned() });
        }
        running.rows.push(row.iter().map(|value| (*value).to_owned()).collect());
        Ok(())
    }

    fn end(&mut self, end: End, _: Duration) {
        let rows = self.running.take();
        self.outcomes.push(match end {
            End::Empty => Outcome::Empty,
            End::Done { last_insert_id, rows_affected } => {
                Outcome::Done { last_insert_id, rows_affected }
            }
            End::Rows => Outcome::Rows(rows.expect("rows have columns")),
            End::Error(error) => Outcome::Error(error),
        });
    }

    fn reset(&mut self) {
        *self = Self { most_rows: self.most_rows, ..Self::default() };
    }
}

/// Runs a query to its end and collects the results.
pub(crate) fn collect(readers: &Readers, query: &Query<'_>) -> Result<Vec<Outcome>, QueryError> {
    let mut sink = Collected::default();
    assert_eq!(readers.query(query, &mut sink)?, QueryEnd::Done);
    Ok(sink.outcomes)
}

/// Runs statement strings without parameters.
pub(crate) fn read(readers: &Readers, sql: &[&str]) -> Vec<Outcome> {
    let statements: Vec<_> = sql.iter().copied().map(Statement::new).collect();
    collect(readers, &Query { statements: &statements, ..Query::default() }).unwrap()
}

/// The values of a result, or the message of its error.
pub(crate) fn values(outcome: &Outcome) -> Result<Vec<Vec<Value>>, &str> {
    match outcome {
        Outcome::Rows(rows) => Ok(rows.rows.clone()),
        Outcome::Error(error) => Err(&error.message),
        Outcome::Empty | Outcome::Done { .. } => Ok(Vec::new()),
    }
}

/// The single value of a result.
pub(crate) fn single(outcome: &Outcome) -> Result<Value, &str> {
    values(outcome).map(|rows| rows[0][0].clone())
}

/// The seed of a randomized test, which is printed: 42, or what the environment says.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("RQ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42);
    println!("RQ_SEED={seed}");
    seed
}

/// Numbers that look random and follow from a seed.
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Choices that follow from the seed of a randomized test.
pub(crate) struct Dice(SplitMix);

impl Dice {
    pub(crate) fn from_environment() -> Self {
        Self(SplitMix(seed()))
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.0.below(bound as u64)).unwrap()
    }

    /// True in so many of a hundred cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }
}
