//! Local time is UTC; simulated disks fill up, fail and crash, and lose only what was not synced.

use std::process::Command;

use super::faults::{FaultHook, FileKind, FileOperation, OperationKind, Verdict};
use crate::{
    Options,
    database::{Parts, open_parts},
    entry::EntryId,
    error::SqliteError,
    testing::{Bare, SplitMix, options_in, read, seed, single},
};

use super::*;

/// Set in the child process, whose zone is not UTC.
const CHILD: &str = "RQ_TEST_ZONE_CHILD";

#[test]
fn local_time_is_utc_whatever_the_zone_of_the_process() {
    if std::env::var_os(CHILD).is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "vfs::tests::local_time_is_utc_whatever_the_zone_of_the_process";
        let mut child = Command::new(this);
        child.args(["--exact", name]).env(CHILD, "1").env("TZ", "XYZ-7:30");
        let output = child.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let bare = Bare::new();
    let sql = "SELECT datetime(1700000000, 'unixepoch', 'localtime')";
    let utc = "2023-11-14 22:13:20";
    assert_eq!(bare.ask(sql), utc);
    assert_eq!(single(&read(&bare.parts.readers, &[sql])[0]), Ok(rq_sql::Value::text(utc)));
    assert_eq!(bare.ask("SELECT datetime('2024-02-29 12:00', 'utc')"), "2024-02-29 12:00:00");
    let plain = crate::testing::plain_connection();
    let plain: String = plain.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(plain, utc);
}

/// Fails the operations from number `from` on, `count` of them.
struct From {
    seen: AtomicU64,
    from: u64,
    count: u64,
    verdict: Verdict,
}

impl From {
    fn disk(from: u64, count: u64, verdict: Verdict) -> Arc<FaultDisk> {
        FaultDisk::new(Arc::new(Self { seen: AtomicU64::new(0), from, count, verdict }))
    }
}

impl FaultHook for From {
    fn before(&self, _: &FileOperation<'_>) -> Verdict {
        let number = self.seen.fetch_add(1, Ordering::Relaxed);
        let is_chosen = number >= self.from && number - self.from < self.count;
        if is_chosen { self.verdict } else { Verdict::Proceed }
    }
}

fn with_faults(options: &Options, disk: &Arc<FaultDisk>) -> Options {
    Options { faults: Some(Arc::clone(disk)), ..options.clone() }
}

/// Entry `index` makes as many rows as its number says, all together `index` of them.
fn apply(parts: &mut Parts, index: u64) -> Result<(), SqliteError> {
    let writer = &mut parts.writer;
    writer.connection.execute_batch("BEGIN IMMEDIATE")?;
    writer.connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, data);
         INSERT INTO t (data) VALUES (randomblob(700));
         UPDATE t SET data = randomblob(300) WHERE id % 7 = (SELECT count(*) % 7 FROM t)",
    )?;
    writer.state.set_applied(EntryId { term: 1, index })?;
    writer.connection.execute_batch("COMMIT")?;
    Ok(())
}

#[test]
fn a_full_disk_fails_the_write_and_works_again_when_freed() {
    let directory = tempfile::tempdir().unwrap();
    let options = options_in(&directory);
    drop(open_parts(&options).unwrap());
    let disk = From::disk(0, 3, Verdict::DiskFull);
    let mut parts = open_parts(&with_faults(&options, &disk)).unwrap();
    let error = apply(&mut parts, 1).unwrap_err();
    assert_eq!(error.local_kind(), Some(crate::LocalKind::DiskFull), "{error}");
    while !parts.writer.connection.is_autocommit() {
        parts.writer.connection.execute_batch("ROLLBACK").unwrap();
    }
    parts.writer.state.rolled_back();
    while apply(&mut parts, 1).is_err() {
        if !parts.writer.connection.is_autocommit() {
            parts.writer.connection.execute_batch("ROLLBACK").unwrap();
        }
        parts.writer.state.rolled_back();
    }
    drop(parts);
    let parts = open_parts(&options).unwrap();
    assert_eq!(parts.opened.state.applied, Some(EntryId { term: 1, index: 1 }));
}

#[test]
fn after_a_crash_nothing_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let options = options_in(&directory);
    let disk = From::disk(u64::MAX, 0, Verdict::Proceed);
    let mut parts = open_parts(&with_faults(&options, &disk)).unwrap();
    apply(&mut parts, 1).unwrap();
    assert!(!disk.is_crashed());
    disk.crash();
    assert!(apply(&mut parts, 2).is_err());
    assert!(parts.checkpointer.make_durable().is_err());
    assert!(open_parts(&with_faults(&options, &disk)).is_err());
}

#[test]
fn losing_all_that_was_not_synced_leaves_what_was_made_durable() {
    let directory = tempfile::tempdir().unwrap();
    let options = options_in(&directory);
    let disk = From::disk(u64::MAX, 0, Verdict::Proceed);
    let mut parts = open_parts(&with_faults(&options, &disk)).unwrap();
    for index in 1..=10 {
        apply(&mut parts, index).unwrap();
    }
    let durable = parts.checkpointer.make_durable().unwrap();
    assert_eq!(durable, Some(EntryId { term: 1, index: 10 }));
    for index in 11..=20 {
        apply(&mut parts, index).unwrap();
    }
    drop(parts);
    disk.lose_unsynced(&mut |_| false).unwrap();
    assert_eq!(open_parts(&options).unwrap().opened.state.applied, durable);
}

/// Opens, applies, folds and makes durable until the disk crashes. Returns the last durable index.
fn run_until_crash(options: &Options, random: &mut SplitMix) -> u64 {
    let Ok(mut parts) = open_parts(options) else { return 0 };
    let mut durable = 0;
    for index in parts.opened.state.applied.map_or(0, |id| id.index) + 1..=60 {
        if apply(&mut parts, index).is_err() {
            return durable;
        }
        let step = match random.below(8) {
            0 => parts.checkpointer.make_durable().map(|id| {
                durable = id.expect("entries were applied").index;
            }),
            1 => parts.checkpointer.fold().map(drop),
            2 => {
                let folded = parts.checkpointer.fold();
                let writer = &parts.writer;
                folded
                    .and(crate::checkpoint::finish(
                        &writer.connection,
                        &writer.readers,
                        &writer.gauge,
                    ))
                    .map(drop)
            }
            _ => Ok(()),
        };
        if step.is_err() {
            return durable;
        }
    }
    durable
}

#[test]
fn a_crash_at_any_operation_leaves_a_sound_database_at_least_as_new_as_promised() {
    let seed = seed();
    let mut random = SplitMix(seed);
    for point in 0..80 {
        let directory = tempfile::tempdir().unwrap();
        let options = options_in(&directory);
        let mut promised = 0;
        // Some crash more than once, so that recovery is hit as well.
        for _ in 0..=random.below(3) {
            let at = random.below(700);
            let torn = usize::try_from(random.below(4096)).unwrap();
            let verdict = if random.below(2) == 0 { Verdict::Crash } else { Verdict::Torn(torn) };
            let disk = From::disk(at, u64::MAX, verdict);
            let durable = run_until_crash(&with_faults(&options, &disk), &mut random);
            promised = durable.max(promised);
            let odds = random.below(5);
            disk.lose_unsynced(&mut |_| random.below(4) < odds).unwrap();
        }
        let parts = open_parts(&options)
            .unwrap_or_else(|error| panic!("seed {seed}, point {point}: {error}"));
        let applied = parts.opened.state.applied.map_or(0, |id| id.index);
        assert!(applied >= promised, "seed {seed}, point {point}: {applied} of {promised}");
        let ask = |sql: &str| -> String {
            parts.writer.connection.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        assert_eq!(ask("PRAGMA integrity_check"), "ok", "seed {seed}, point {point}");
        if applied > 0 {
            let rows = ask("SELECT CAST(count(*) AS TEXT) FROM t");
            assert_eq!(rows, applied.to_string(), "seed {seed}, point {point}");
        }
    }
}

#[test]
fn operations_name_their_file() {
    struct Log(std::sync::Mutex<Vec<(FileKind, OperationKind)>>);
    impl FaultHook for Log {
        fn before(&self, operation: &FileOperation<'_>) -> Verdict {
            assert!(operation.path.is_absolute());
            self.0.lock().unwrap().push((operation.file, operation.kind));
            Verdict::Proceed
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let options = options_in(&directory);
    let log = Arc::new(Log(std::sync::Mutex::default()));
    let hook: Arc<dyn FaultHook> = Arc::<Log>::clone(&log);
    let disk = FaultDisk::new(hook);
    let mut parts = open_parts(&with_faults(&options, &disk)).unwrap();
    log.0.lock().unwrap().clear();
    apply(&mut parts, 1).unwrap();
    parts.checkpointer.fold().unwrap();
    let seen = std::mem::take(&mut *log.0.lock().unwrap());
    let has = |file, matches: fn(&OperationKind) -> bool| {
        seen.iter().any(|(found, kind)| *found == file && matches(kind))
    };
    assert!(has(FileKind::Wal, |kind| matches!(kind, OperationKind::Write { length: 4096, .. })));
    assert!(has(FileKind::Wal, |kind| *kind == OperationKind::Sync));
    assert!(has(FileKind::Database, |kind| matches!(kind, OperationKind::Write { .. })));
    assert!(has(FileKind::Database, |kind| *kind == OperationKind::Sync));
}
