//! Entries by the handful, and engines to feed them to.

use std::time::Duration;

use rq_sql::{Column, End, Outcome, ResultSink, SinkError, Statement, ValueRef};
use rq_sqlite::{
    Applied, ApplyError, Budget, Database, Entry, EntryId, Image, LocalError, Maintenance, Mode,
    OpenError, Operation, Options, Query, QueryEnd, Request, Settings, WriterOptions,
};
use tempfile::TempDir;

/// An operation that owns what it does.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Blank,
    Membership(Vec<u8>),
    Batch(Vec<Request>),
    Maintenance(Maintenance),
}

/// How statements ended, without their rows.
#[derive(Debug, Default)]
struct Ends(Vec<End>);

impl ResultSink for Ends {
    fn columns(&mut self, _: &[Column]) {}

    fn row(&mut self, _: &[ValueRef<'_>]) -> Result<(), SinkError> {
        Ok(())
    }

    fn end(&mut self, end: End, _: Duration) {
        self.0.push(end);
    }

    fn reset(&mut self) {
        self.0.clear();
    }
}

/// All of an entry but its place.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) clock_ms: i64,
    pub(crate) seed: [u8; 16],
    pub(crate) settings: Settings,
    pub(crate) work: Work,
}

impl Item {
    /// Work at a fixed time, without limits.
    pub(crate) fn new(work: Work) -> Self {
        Self { clock_ms: 1_700_000_000_000, seed: [7; 16], settings: UNLIMITED, work }
    }

    pub(crate) fn requests(requests: Vec<Request>) -> Self {
        Self::new(Work::Batch(requests))
    }

    /// As the entry of an index; the term changes now and then.
    fn at(&self, index: u64) -> Entry<'_> {
        Entry {
            id: EntryId { term: 1 + index / 100, index },
            clock_ms: self.clock_ms,
            seed: self.seed,
            settings: self.settings,
            operation: match &self.work {
                Work::Blank => Operation::Blank,
                Work::Membership(bytes) => Operation::Membership(bytes),
                Work::Batch(requests) => Operation::Batch(requests),
                Work::Maintenance(maintenance) => Operation::Maintenance(maintenance),
            },
        }
    }
}

pub(crate) const UNLIMITED: Settings =
    Settings { foreign_keys: false, budget: Budget { steps: 0, pages: 0 } };

/// A database in a directory of its own, with the index of the next entry.
pub(crate) struct Engine {
    directory: TempDir,
    parts: Option<Database>,
    pub(crate) next_index: u64,
    options: WriterOptions,
}

impl Engine {
    pub(crate) fn new() -> Self {
        Self::with(WriterOptions::default())
    }

    pub(crate) fn with(options: WriterOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut engine = Self { directory, parts: None, next_index: 1, options };
        engine.reopen();
        engine
    }

    pub(crate) fn database_options(&self) -> Options {
        let path = self.directory.path();
        Options::new(path.join("db.sqlite"), path.join("scratch"))
    }

    /// Closes the database and opens it again.
    pub(crate) fn reopen(&mut self) {
        self.reopen_with(&self.database_options());
    }

    pub(crate) fn reopen_with(&mut self, options: &Options) {
        self.try_reopen_with(options).unwrap();
    }

    pub(crate) fn try_reopen_with(&mut self, options: &Options) -> Result<(), OpenError> {
        self.close();
        let parts = Database::open(options, self.options)?;
        self.next_index = parts.writer.applied().map_or(1, |id| id.index + 1);
        self.parts = Some(parts);
        Ok(())
    }

    pub(crate) fn close(&mut self) {
        self.parts = None;
    }

    pub(crate) fn parts(&mut self) -> &mut Database {
        self.parts.as_mut().unwrap()
    }

    pub(crate) fn try_apply(
        &mut self,
        item: &Item,
        wants_results: bool,
    ) -> Result<Applied, ApplyError> {
        let entry = item.at(self.next_index);
        let applied = self.parts().writer.apply(&entry, wants_results)?;
        self.next_index += 1;
        Ok(applied)
    }

    /// Applies an entry if that takes few steps.
    pub(crate) fn apply_within(&mut self, item: &Item, steps: u64) -> Option<Applied> {
        let entry = item.at(self.next_index);
        let applied = self.parts().writer.try_apply(&entry, true, steps)?;
        self.next_index += 1;
        Some(applied)
    }

    pub(crate) fn apply(&mut self, item: &Item) -> Applied {
        self.try_apply(item, true).unwrap()
    }

    /// Applies an entry of one request and returns its outcomes.
    pub(crate) fn run(&mut self, request: Request) -> Vec<Outcome> {
        let mut applied = self.apply(&Item::requests(vec![request]));
        let outcome = applied.requests.remove(0);
        assert_eq!(outcome.error, None);
        outcome.results.into_iter().map(|result| result.outcome).collect()
    }

    /// How statements end on a reader.
    pub(crate) fn read(&mut self, texts: &[&str]) -> Vec<End> {
        let statements: Vec<Statement> = texts.iter().map(|sql| Statement::new(*sql)).collect();
        let query = Query { statements: &statements, ..Query::default() };
        let mut ends = Ends::default();
        let end = self.parts().readers.query(&query, &mut ends).unwrap();
        assert_eq!(end, QueryEnd::Done);
        ends.0
    }

    /// Applies statements that must succeed.
    pub(crate) fn execute(&mut self, statements: &[&str]) {
        for outcome in self.run(execute(statements)) {
            assert!(!matches!(outcome, Outcome::Error(_)), "{statements:?}: {outcome:?}");
        }
    }

    pub(crate) fn image(&mut self) -> Image {
        self.parts().checkpointer.image().unwrap()
    }

    /// Folds the WAL back completely, if it can be done now.
    pub(crate) fn checkpoint(&mut self) {
        self.try_checkpoint().unwrap();
    }

    pub(crate) fn try_checkpoint(&mut self) -> Result<(), LocalError> {
        let parts = self.parts();
        parts.checkpointer.fold()?;
        parts.writer.finish_checkpoint()?;
        Ok(())
    }
}

pub(crate) fn execute(statements: &[&str]) -> Request {
    Request {
        mode: Mode::Execute,
        transaction: false,
        statements: statements.iter().map(|sql| Statement::new(*sql)).collect(),
    }
}

pub(crate) fn transaction(statements: &[&str]) -> Request {
    Request { transaction: true, ..execute(statements) }
}

pub(crate) fn unified(statements: &[&str]) -> Request {
    Request { mode: Mode::Unified, ..execute(statements) }
}
