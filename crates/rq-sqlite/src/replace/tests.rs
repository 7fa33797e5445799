//! Replacing the file of an open database: handles go on, reads wait, a crash leaves old or new.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use rq_sql::Value;
use tempfile::TempDir;

use super::*;
use crate::{
    Database, Entry, FaultDisk, FaultHook, FileOperation, Image, Operation, PageReadError,
    PageSnapshot, Request, Settings, Verdict,
    entry::{Budget, Mode},
    testing::{options_in, read, single},
};

/// A database whose parts may be taken away and come back.
struct Open {
    writer: Option<Writer>,
    checkpointer: Option<Checkpointer>,
    readers: Readers,
    replacer: Replacer,
    directory: TempDir,
}

impl Open {
    fn new(faults: Option<Arc<FaultDisk>>) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self::in_directory(directory, faults)
    }

    fn in_directory(directory: TempDir, faults: Option<Arc<FaultDisk>>) -> Self {
        let options = Options { faults, ..options_in(&directory) };
        let Database { writer, checkpointer, readers, .. } =
            Database::open(&options, WriterOptions::default()).unwrap();
        let replacer = writer.replacer();
        let (writer, checkpointer) = (Some(writer), Some(checkpointer));
        Self { writer, checkpointer, readers, replacer, directory }
    }

    fn apply(&mut self, sql: &[&str]) {
        let writer = self.writer.as_mut().unwrap();
        let index = writer.applied().map_or(1, |applied| applied.index + 1);
        let statements = sql.iter().copied().map(rq_sql::Statement::new).collect();
        let requests = [Request { mode: Mode::Execute, transaction: false, statements }];
        let budget = Budget { steps: 0, pages: 0 };
        let entry = Entry {
            id: EntryId { term: 1, index },
            clock_ms: 0,
            seed: [1; 16],
            settings: Settings { foreign_keys: false, budget },
            operation: Operation::Batch(&requests),
        };
        let applied = writer.apply(&entry, true).unwrap();
        assert_eq!(applied.requests[0].error, None);
    }

    /// The pages as a file, and what is in it.
    fn copy(&self) -> (TempDir, Arrival, Vec<u128>) {
        let directory = tempfile::tempdir_in(self.directory.path()).unwrap();
        let path = directory.path().join("in coming?.sqlite");
        let file = fs::File::create(&path).unwrap();
        let mut reader = self.readers.page_reader().unwrap();
        let PageSnapshot { state, page_size, page_count } = reader.begin().unwrap();
        let write = |number: u32, data: &[u8]| {
            file.write_all_at(data, u64::from(number - 1) * u64::from(page_size)).unwrap();
        };
        reader.read(1..=page_count, write).unwrap();
        let checksums = reader.checksums(1, page_count).unwrap();
        assert_eq!(checksums.len(), usize::try_from(page_count).unwrap());
        reader.end();
        (directory, Arrival { path, applied: state.applied.unwrap() }, checksums)
    }

    fn replace(&mut self, arrival: &Arrival) -> Result<Replaced, ReplaceError> {
        self.replacer.replace(&mut self.writer, &mut self.checkpointer, arrival)
    }

    fn count(&self) -> i64 {
        match single(&read(&self.readers, &["SELECT count(*) FROM t"])[0]).unwrap() {
            Value::Integer(count) => count,
            other => panic!("{other:?}"),
        }
    }

    fn image(&mut self) -> Image {
        self.checkpointer.as_mut().unwrap().image().unwrap()
    }
}

/// A database of some pages, some of them free, and some frames in the WAL.
fn old() -> Open {
    filled(None, 30)
}

fn filled(faults: Option<Arc<FaultDisk>>, rows: u64) -> Open {
    let mut open = Open::new(faults);
    fill(&mut open, rows);
    open
}

fn fill(open: &mut Open, rows: u64) {
    open.apply(&["CREATE TABLE t (id INTEGER PRIMARY KEY, x)"]);
    for _ in 0..rows {
        open.apply(&["INSERT INTO t (x) VALUES (randomblob(1500))"]);
    }
    open.apply(&["CREATE TABLE gone AS SELECT randomblob(50000)"]);
    open.apply(&["DROP TABLE gone"]);
}

/// Another node's database, further on.
struct Newer {
    file: PathBuf,
    applied: EntryId,
    image: Image,
    _directory: TempDir,
}

impl Newer {
    fn new() -> Self {
        let mut newer = filled(None, 60);
        let (copy, arrival, _) = newer.copy();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("newer");
        fs::copy(&arrival.path, &file).unwrap();
        drop(copy);
        Self { file, applied: arrival.applied, image: newer.image(), _directory: directory }
    }

    /// Moves the copy to a place where `open` can take it.
    fn bring(&self, open: &Open) -> (TempDir, Arrival) {
        let directory = tempfile::tempdir_in(open.directory.path()).unwrap();
        let path = directory.path().join("arrival");
        fs::copy(&self.file, &path).unwrap();
        (directory, Arrival { path, applied: self.applied })
    }
}

/// A newer database, and its copy where `open` can take it.
fn newer(open: &Open) -> (TempDir, Arrival, Image) {
    let newer = Newer::new();
    let (directory, arrival) = newer.bring(open);
    (directory, arrival, newer.image)
}

#[test]
fn all_handles_go_on_with_the_new_file() {
    let mut open = old();
    let size = open.checkpointer.as_ref().unwrap().wal_size();
    assert_eq!(open.count(), 30);
    let (_directory, arrival, expected) = newer(&open);
    let replaced = open.replace(&arrival).unwrap();
    assert_eq!(replaced.state.applied, Some(arrival.applied));
    assert!(!arrival.path.exists());
    assert_eq!(open.image(), expected);
    assert_eq!(open.count(), 60);
    assert_eq!(size.bytes(), 0);
    open.apply(&["INSERT INTO t (x) VALUES (randomblob(9000))"]);
    assert!(size.bytes() > 9000);
    assert_eq!(open.count(), 61);
    open.checkpointer.as_mut().unwrap().fold().unwrap();
    open.writer.as_mut().unwrap().finish_checkpoint().unwrap();
    let before = open.image();
    let Open { directory, readers, replacer, writer, checkpointer } = open;
    drop((readers, replacer, writer, checkpointer));
    let mut again = Open::in_directory(directory, None);
    assert_eq!(again.image(), before);
}

#[test]
fn reads_in_flight_end_or_are_cancelled_and_new_ones_wait() {
    let mut open = old();
    let (_directory, arrival, _) = newer(&open);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)
                       SELECT count(*) FROM c";
        let readers = open.readers.clone();
        let cancelled = scope.spawn(move || read(&readers, &[endless]));
        while open.readers.status().busy == 0 {
            thread::yield_now();
        }
        let (readers, stop) = (open.readers.clone(), &stop);
        let short = scope.spawn(move || {
            let mut counts = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                counts.push(single(&read(&readers, &["SELECT count(*) FROM t"])[0]).unwrap());
            }
            counts
        });
        open.replace(&arrival).unwrap();
        while open.readers.status().busy > 1 {
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        let told = cancelled.join().unwrap();
        let message = single(&told[0]).unwrap_err();
        assert!(message.contains("replaced"), "{message}");
        let mut counts = short.join().unwrap();
        counts.dedup();
        let (before, after) = (Value::Integer(30), Value::Integer(60));
        assert!([vec![before.clone(), after.clone()], vec![before], vec![after]].contains(&counts));
    });
    assert_eq!(open.count(), 60);
}

#[test]
fn whoever_reads_pages_is_sent_away_and_may_come_again() {
    let mut open = old();
    let (_directory, arrival, _) = newer(&open);
    let mut reader = open.readers.page_reader().unwrap();
    reader.begin().unwrap();
    open.replace(&arrival).unwrap();
    assert_eq!(reader.checksums(1, 1), Err(PageReadError::Interrupted));
    assert_eq!(reader.begin(), Err(PageReadError::Interrupted));
    let mut reader = open.readers.page_reader().unwrap();
    assert_eq!(reader.begin().unwrap().state.applied, Some(arrival.applied));
    drop((open.writer.take(), open.checkpointer.take()));
    open.readers.close(Duration::from_secs(1));
    assert_eq!(reader.begin(), Err(PageReadError::Interrupted));
    assert!(open.readers.page_reader().is_err());
}

#[test]
fn pages_are_of_one_moment_while_the_writer_goes_on() {
    let mut open = old();
    let before = open.image();
    let mut reader = open.readers.page_reader().unwrap();
    let snapshot = reader.begin().unwrap();
    assert_eq!(snapshot.state.applied, before.applied);
    open.apply(&["DELETE FROM t WHERE id % 2"]);
    open.apply(&["INSERT INTO t (x) VALUES (randomblob(90000))"]);
    let mut again = open.readers.page_reader().unwrap();
    let count = again.begin().unwrap().page_count;
    assert!(count > snapshot.page_count);
    let checksums = reader.checksums(1, count).unwrap();
    assert_eq!(checksums.len(), before.pages.len());
    let free = before.pages.iter().zip(&checksums).filter(|(one, other)| one != other).count();
    assert!((1..20).contains(&free), "only free pages count differently: {free}");
    assert_ne!(again.checksums(1, count).unwrap(), checksums);
}

#[test]
fn a_copy_of_all_pages_is_the_database() {
    let mut open = old();
    let expected = open.image();
    let (_directory, arrival, _) = open.copy();
    let bytes = fs::read(&arrival.path).unwrap();
    assert_eq!(bytes[18..20], [2, 2], "it is in WAL mode");
    let mut other = filled(None, 1);
    let arrival_path = other.directory.path().join("arrival");
    fs::copy(&arrival.path, &arrival_path).unwrap();
    other.replace(&Arrival { path: arrival_path, ..arrival }).unwrap();
    assert_eq!(other.image(), expected);
}

#[test]
fn what_cannot_be_used_changes_nothing() {
    let mut open = old();
    let before = open.image();
    let (directory, arrival, _) = newer(&open);
    let missing = directory.path().join("missing");
    let garbage = directory.path().join("garbage");
    fs::write(&garbage, [7; 8192]).unwrap();
    let foreign = directory.path().join("foreign");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
    let index = arrival.applied.index + 1;
    let wrong = Arrival { applied: EntryId { term: 1, index }, ..arrival.clone() };
    let at = |path| Arrival { path, ..arrival.clone() };
    for unusable in [at(missing), at(garbage), at(foreign), wrong] {
        let error = open.replace(&unusable).unwrap_err();
        assert!(matches!(error, ReplaceError::Unusable(_)), "{error}");
        assert_eq!(open.image(), before);
    }
    open.replace(&arrival).unwrap();
}

/// Another connection, as another process would have it.
#[test]
fn a_stranger_who_has_the_file_open_keeps_it_from_being_replaced() {
    let mut open = old();
    let mut before = open.image();
    let (_directory, arrival, expected) = newer(&open);
    let stranger = rusqlite::Connection::open(open.directory.path().join("db.sqlite")).unwrap();
    stranger.execute_batch("BEGIN; SELECT count(*) FROM t; COMMIT").unwrap();
    for transaction in ["BEGIN; SELECT count(*) FROM t", "COMMIT"] {
        stranger.execute_batch(transaction).unwrap();
        let error = open.replace(&arrival).unwrap_err();
        assert!(matches!(error, ReplaceError::NotDone(_)), "{error}");
        assert!(error.to_string().contains("another process"), "{error}");
        assert_eq!(open.image(), before, "it is as usable as before");
        open.apply(&["INSERT INTO t (x) VALUES (1)"]);
        before = open.image();
    }
    drop(stranger);
    open.replace(&arrival).unwrap();
    assert_eq!(open.image(), expected);
}

/// Stops, tears, fails or fills at the Nth operation.
#[derive(Default)]
struct Nth {
    left: AtomicU64,
    armed: Mutex<Option<Verdict>>,
    trace: Mutex<Vec<String>>,
}

impl FaultHook for Nth {
    fn before(&self, operation: &FileOperation<'_>) -> Verdict {
        let mut armed = self.armed.lock().unwrap();
        let Some(verdict) = *armed else { return Verdict::Proceed };
        self.trace.lock().unwrap().push(format!("{:?} {:?}", operation.file, operation.kind));
        if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Verdict::Proceed;
        }
        *armed = None;
        verdict
    }
}

/// Whether the replacement has more than `after` operations. Whatever happened is survived.
fn survives(newer: &Newer, verdict: Verdict, after: u64, loss: Loss) -> bool {
    let hook = Arc::new(Nth::default());
    let disk = FaultDisk::new(Arc::clone(&hook) as _);
    let mut open = filled(Some(Arc::clone(&disk)), 12);
    // Somebody stands on an old frame, so that the WAL cannot be folded before the readers are gone.
    let mut pinned = open.readers.page_reader().unwrap();
    pinned.begin().unwrap();
    open.apply(&["UPDATE t SET x = randomblob(1400)"]);
    let before = open.image();
    open.checkpointer.as_mut().unwrap().make_durable().unwrap();
    let (_kept, arrival) = newer.bring(&open);
    let expected = newer.image.clone();
    hook.left.store(after, Ordering::Relaxed);
    *hook.armed.lock().unwrap() = Some(verdict);
    let end = open.replace(&arrival);
    let happened = hook.armed.lock().unwrap().take().is_none();
    let case = || format!("{verdict:?} at {after}: {:?}", hook.trace.lock().unwrap().last());
    match &end {
        Ok(_) => assert_eq!(open.image(), expected, "{}", case()),
        Err(ReplaceError::NotDone(_)) if !disk.is_crashed() => {
            assert_eq!(open.image(), before, "{}", case());
            open.replace(&arrival).unwrap();
            assert_eq!(open.image(), expected, "{}", case());
        }
        Err(ReplaceError::Closed { replaced, .. }) if !disk.is_crashed() => {
            let state = open.replacer.reopen(&mut open.writer, &mut open.checkpointer).unwrap();
            let image = if *replaced { &expected } else { &before };
            assert_eq!(state.applied, image.applied);
            assert_eq!(open.image(), *image, "{}", case());
        }
        Err(error) => assert!(happened, "{}: {error}", case()),
    }
    let Open { directory, readers, replacer, writer, checkpointer } = open;
    drop((writer, checkpointer, readers, replacer, pinned));
    let mut chance = after;
    disk.lose_unsynced(&mut |_| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        match loss {
            Loss::Nothing => true,
            Loss::Everything => false,
            Loss::Some => chance >> 63 == 0,
        }
    })
    .unwrap();
    let mut again = Open::in_directory(directory, None);
    let image = again.image();
    assert!(image == before || image == expected, "{} {loss:?}", case());
    if end.is_ok() {
        assert_eq!(image, expected, "{} {loss:?}", case());
    }
    let checked = read(&again.readers, &["PRAGMA integrity_check"]);
    assert_eq!(single(&checked[0]), Ok(Value::Text(b"ok".to_vec())), "{}", case());
    happened
}

/// What a power cut takes of what was not synced.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Nothing,
    Everything,
    Some,
}

#[test]
fn a_crash_or_fault_at_each_operation_leaves_the_old_file_or_the_new() {
    let newer = Newer::new();
    let verdicts = [Verdict::Crash, Verdict::Torn(100), Verdict::Fail, Verdict::DiskFull];
    for verdict in verdicts {
        for loss in [Loss::Nothing, Loss::Everything, Loss::Some] {
            let operations =
                (0..).take_while(|after| survives(&newer, verdict, *after, loss)).count();
            assert!((8..200).contains(&operations), "{operations} operations");
        }
    }
}
