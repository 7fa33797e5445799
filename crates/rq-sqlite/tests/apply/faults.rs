//! Failures of the node are no results: nothing changes, and the same entry can be tried again.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rq_sql::{ErrorKind, Outcome};
use rq_sqlite::{
    ApplyError, Budget, FaultDisk, FaultHook, FileKind, FileOperation, Image, LocalKind,
    Maintenance, OperationKind, Options, Settings, Verdict,
};

use crate::harness::{Engine, Item, Work, execute, transaction};

/// Answers one operation of the chosen kind of file with a verdict, all others with "proceed".
struct Once {
    file: FileKind,
    verdict: Verdict,
    /// Operations until then; far away while disarmed.
    countdown: AtomicU64,
}

impl Once {
    fn new(file: FileKind, verdict: Verdict) -> Arc<Self> {
        Arc::new(Self { file, verdict, countdown: AtomicU64::new(u64::MAX) })
    }

    fn arm(&self, operations: u64) {
        self.countdown.store(operations, Ordering::Relaxed);
    }

    fn is_spent(&self) -> bool {
        self.countdown.load(Ordering::Relaxed) == u64::MAX
    }
}

impl FaultHook for Once {
    fn before(&self, operation: &FileOperation<'_>) -> Verdict {
        let left = self.countdown.load(Ordering::Relaxed);
        let changes = matches!(operation.kind, OperationKind::Write { .. });
        if left == u64::MAX || operation.file != self.file || !changes {
            return Verdict::Proceed;
        }
        if left == 0 {
            self.arm(u64::MAX);
            return self.verdict;
        }
        self.countdown.store(left - 1, Ordering::Relaxed);
        Verdict::Proceed
    }
}

/// An engine on a disk that fails once, and a twin on a sound one; both hold some rows.
fn twins(hook: &Arc<Once>) -> (Engine, Engine) {
    let (mut twin, mut engine) = (Engine::new(), Engine::new());
    let hook: Arc<dyn FaultHook> = Arc::<Once>::clone(hook);
    let options = Options { faults: Some(FaultDisk::new(hook)), ..engine.database_options() };
    engine.reopen_with(&options);
    for engine in [&mut twin, &mut engine] {
        engine.execute(&["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, zeroblob(20000))"]);
    }
    (engine, twin)
}

fn images(engine: &mut Engine, twin: &mut Engine) -> (Image, Image) {
    (engine.image(), twin.image())
}

/// What came of an entry while the disk failed at each of its writes in turn.
#[derive(Debug, Default)]
struct Failures {
    /// Of what kind they were, in order.
    kinds: Vec<LocalKind>,
    /// Failures after which pages were not as before.
    that_changed_pages: usize,
    /// What the entry gave when the disk failed no more, on both.
    outcomes: [Vec<Outcome>; 2],
    /// Pages that differed in the end.
    differing_pages: Vec<usize>,
}

impl Failures {
    /// Whether the disk failed, each time as `kind`, and nothing else came of it.
    fn were_harmless(&self, kind: LocalKind) -> bool {
        let [outcome, expected] = &self.outcomes;
        !self.kinds.is_empty()
            && self.kinds.iter().all(|found| *found == kind)
            && outcome == expected
            && self.differing_pages.is_empty()
    }
}

/// Feeds `item` to both while the disk of the first fails at each of its writes in turn.
fn fail_every_write(file: FileKind, verdict: Verdict, item: &Item) -> Failures {
    let hook = Once::new(file, verdict);
    fail_writes(&hook, twins(&hook), 1, item)
}

/// The same for every `stride`th write.
fn fail_writes(
    hook: &Once,
    (mut engine, mut twin): (Engine, Engine),
    stride: usize,
    item: &Item,
) -> Failures {
    let mut failures = Failures::default();
    for write in (0..).step_by(stride) {
        let before = engine.image();
        hook.arm(write);
        match engine.try_apply(item, true) {
            Ok(applied) => {
                failures.outcomes = [show(&applied), show(&twin.apply(item))];
                break;
            }
            Err(ApplyError::Local(error)) => {
                let changed = !before.differing_pages(&engine.image()).is_empty();
                failures.kinds.push(error.kind);
                failures.that_changed_pages += usize::from(changed);
            }
            Err(ApplyError::Fatal(reason)) => panic!("{reason}"),
        }
    }
    assert!(!hook.is_spent(), "the last attempt met the disk's failure too");
    let (image, expected) = images(&mut engine, &mut twin);
    failures.differing_pages = image.differing_pages(&expected);
    failures
}

fn show(applied: &rq_sqlite::Applied) -> Vec<Outcome> {
    let results = applied.requests.iter().flat_map(|request| &request.results);
    results.map(|result| result.outcome.clone()).collect()
}

fn writes() -> Item {
    let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 60) \
                INSERT INTO t SELECT i, random() || printf('%.*c', 2000, 'x') FROM n";
    let budget = Budget { steps: 0, pages: 500 };
    let item = Item::requests(vec![
        execute(&[fill, "CREATE INDEX i ON t (b)"]),
        transaction(&["DELETE FROM t WHERE a % 2", "gibberish"]),
        execute(&["DELETE FROM t WHERE a % 3 = 0"]),
    ]);
    Item { settings: Settings { foreign_keys: false, budget }, ..item }
}

#[test]
fn a_full_disk_is_no_result_even_under_a_page_budget() {
    let failures = fail_every_write(FileKind::Wal, Verdict::DiskFull, &writes());
    assert!(failures.were_harmless(LocalKind::DiskFull), "{failures:?}");
    assert_eq!(failures.that_changed_pages, 0);
}

#[test]
fn an_io_error_is_no_result() {
    let failures = fail_every_write(FileKind::Wal, Verdict::Fail, &writes());
    assert!(failures.were_harmless(LocalKind::Io), "{failures:?}");
    assert_eq!(failures.that_changed_pages, 0);
}

#[test]
fn a_vacuum_that_finds_no_space_is_tried_again() {
    let vacuum = Maintenance::Vacuum { page_size: None, auto_vacuum: Some(1) };
    let item = Item::new(Work::Maintenance(vacuum));
    let failures = fail_every_write(FileKind::Wal, Verdict::DiskFull, &item);
    assert!(failures.were_harmless(LocalKind::DiskFull), "{failures:?}");
}

#[test]
fn a_vacuum_that_finds_no_space_for_temporary_files_is_tried_again() {
    let hook = Once::new(FileKind::Temporary, Verdict::DiskFull);
    let (mut engine, mut twin) = twins(&hook);
    // More than the page cache, which the temporary database's is as large as, holds.
    let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 11000) \
                INSERT INTO t SELECT i, printf('%.*c', 4000, 'x') FROM n";
    engine.execute(&[fill]);
    twin.execute(&[fill]);
    let vacuum = Maintenance::Vacuum { page_size: None, auto_vacuum: None };
    let item = Item::new(Work::Maintenance(vacuum));
    let failures = fail_writes(&hook, (engine, twin), 1500, &item);
    assert!(failures.were_harmless(LocalKind::DiskFull), "{failures:?}");
}

#[test]
fn a_vacuum_interrupted_by_a_crash_happens_once() {
    let mut twin = Engine::new();
    let vacuum = Maintenance::Vacuum { page_size: None, auto_vacuum: None };
    let item = Item::new(Work::Maintenance(vacuum));
    let prepare = |engine: &mut Engine| {
        engine.execute(&[
            "CREATE TABLE t (a, b)",
            "INSERT INTO t VALUES (1, zeroblob(60000)), (2, zeroblob(60000)), (3, 'x')",
            "DELETE FROM t WHERE a = 1",
        ]);
    };
    prepare(&mut twin);
    twin.apply(&item);
    let expected = twin.image();
    let mut crashes = 0;
    for write in 0.. {
        let mut engine = Engine::new();
        prepare(&mut engine);
        let hook = Once::new(FileKind::Wal, Verdict::Crash);
        let disk = FaultDisk::new(Arc::<Once>::clone(&hook));
        engine.reopen_with(&Options { faults: Some(disk), ..engine.database_options() });
        hook.arm(write);
        let finished = engine.try_apply(&item, true).is_ok();
        engine.reopen();
        if !finished {
            crashes += 1;
            assert_eq!(engine.next_index, 2, "the entry is not applied before its last step");
            engine.apply(&item);
        }
        assert_eq!(engine.image().differing_pages(&expected), Vec::<usize>::new());
        if finished {
            break;
        }
    }
    assert!(crashes > 3, "{crashes} crashes");
}

#[test]
fn entries_out_of_order_are_refused() {
    let mut engine = Engine::new();
    engine.execute(&["CREATE TABLE t (a)"]);
    for index in [1, 3, 100] {
        engine.next_index = index;
        let error = engine.try_apply(&Item::new(Work::Blank), true).unwrap_err();
        assert!(matches!(error, ApplyError::Fatal(_)), "{error:?}");
    }
    engine.next_index = 2;
    engine.execute(&["INSERT INTO t VALUES (1)"]);
}

#[test]
fn a_budget_of_pages_is_no_full_disk() {
    let mut engine = Engine::new();
    let item = Item::requests(vec![execute(&[
        "CREATE TABLE t (a)",
        "INSERT INTO t VALUES (zeroblob(100000))",
        "INSERT INTO t VALUES (1)",
    ])]);
    let budget = Budget { steps: 0, pages: 5 };
    let item = Item { settings: Settings { foreign_keys: false, budget }, ..item };
    let outcomes = show(&engine.apply(&item));
    let Outcome::Error(error) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert_eq!(error.kind, ErrorKind::Budget);
    assert!(error.message.contains('5'), "{error}");
    assert!(matches!(outcomes[2], Outcome::Done { rows_affected: Some(1), .. }));
}
