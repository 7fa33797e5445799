//! Appending, reading, rolling over, truncating, purging, reopening: without faults.

use std::{
    fs,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
};

use super::super::{Health, Log, LogOptions, Position, Vote, segment};
use crate::{
    Completion, Error, Execution, FaultFiles, RealFiles, Record,
    faults::{FaultHook, Operation, OperationKind, Verdict},
    testing::{
        all, inline_options, keep, ok, open_inline, open_with, quiet_files, record, records,
    },
};

fn with_log(test: impl FnOnce(Log, &Reopen<'_>)) {
    let root = tempfile::tempdir().unwrap();
    let reopen = Reopen { files: quiet_files(), directory: root.path() };
    test(reopen.open(), &reopen);
}

struct Reopen<'a> {
    files: Arc<FaultFiles>,
    directory: &'a std::path::Path,
}

impl Reopen<'_> {
    fn open(&self) -> Log {
        open_inline(&self.files, self.directory).0
    }

    fn segment_files(&self) -> usize {
        let names = fs::read_dir(self.directory).unwrap();
        names
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                segment::number_of(&name.to_string_lossy()).is_some()
            })
            .count()
    }
}

#[test]
fn records_can_be_read_at_once_and_after_reopening() {
    with_log(|log, reopen| {
        let expected = records(0..50, 1, 300);
        for chunk in expected.chunks(7) {
            log.append(chunk.to_vec(), ok()).unwrap();
        }
        assert!(log.state().segments > 2, "small segments roll over");
        assert_eq!(all(&log), expected);
        log.close();
        let log = reopen.open();
        assert_eq!(all(&log), expected);
        for start in 0..50 {
            let some = log.read(start..start + 3).unwrap();
            let end = usize::try_from(start + 3).unwrap().min(50);
            assert_eq!(some, expected[usize::try_from(start).unwrap()..end]);
        }
        log.append(records(50..51, 1, 10), ok()).unwrap();
        assert_eq!(log.state().next, 51);
    });
}

#[test]
fn a_read_ends_at_its_byte_limit_but_gives_at_least_one_record() {
    for cache_bytes in [0, 1 << 20] {
        let root = tempfile::tempdir().unwrap();
        let options = LogOptions { cache_bytes, ..inline_options(1) };
        let (log, _) = open_with(&quiet_files(), root.path(), options).unwrap();
        log.append(records(0..50, 1, 300), ok()).unwrap();
        let each = record(0, 1, 300).stored_bytes() as u64;
        for (limit, count) in [(0, 1), (each - 1, 1), (each, 1), (each * 3, 3), (each * 40, 40)] {
            assert_eq!(log.read_limited(0..50, limit).unwrap().len(), count, "limit {limit}");
        }
    }
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own_size() {
    with_log(|log, reopen| {
        let expected =
            [records(0..2, 1, 100), vec![record(2, 1, 100_000)], records(3..5, 1, 100)].concat();
        log.append(expected.clone(), ok()).unwrap();
        drop(log);
        assert_eq!(all(&reopen.open()), expected);
    });
}

#[test]
fn a_log_may_begin_at_any_index() {
    with_log(|log, reopen| {
        log.append(records(7..9, 2, 10), ok()).unwrap();
        drop(log);
        let log = reopen.open();
        assert_eq!(log.state().first, 7);
        log.truncate_after(None, ok()).unwrap();
        assert_eq!(log.state().last, None);
        log.append(records(3..5, 2, 10), ok()).unwrap();
        drop(log);
        assert_eq!(all(&reopen.open()), records(3..5, 2, 10));
    });
}

#[test]
fn truncation_removes_records_and_whole_segments() {
    for after in [None, Some(0), Some(1), Some(24), Some(25), Some(30), Some(48), Some(49)] {
        with_log(|log, reopen| {
            log.append(records(0..50, 1, 300), ok()).unwrap();
            log.truncate_after(after, ok()).unwrap();
            let next = after.map_or(0, |after| after + 1);
            let mut expected = records(0..next, 1, 300);
            assert_eq!(all(&log), expected);
            assert_eq!(log.state().last, expected.last().map(Record::position));
            log.append(records(next..next + 5, 2, 300), ok()).unwrap();
            expected.extend(records(next..next + 5, 2, 300));
            assert_eq!(all(&log), expected);
            drop(log);
            assert_eq!(all(&reopen.open()), expected, "after {after:?}");
        });
    }
}

#[test]
fn truncating_behind_the_end_does_nothing() {
    with_log(|log, _| {
        log.append(records(0..5, 1, 30), ok()).unwrap();
        log.truncate_after(Some(4), ok()).unwrap();
        log.truncate_after(Some(9), ok()).unwrap();
        assert_eq!(log.state().next, 5);
    });
}

#[test]
fn purging_gives_back_whole_segments_and_remembers_the_position() {
    with_log(|log, reopen| {
        log.append(records(0..50, 3, 300), ok()).unwrap();
        let before = log.state();
        let upto = Position { term: 3, index: 30 };
        log.purge(upto, ok()).unwrap();
        let state = log.state();
        assert!(state.bytes_on_disk < before.bytes_on_disk);
        assert_eq!(reopen.segment_files(), state.segments + 1, "one is prepared");
        assert_eq!((state.first, state.purged), (31, Some(upto)));
        assert_eq!(all(&log), records(31..50, 3, 300));
        drop(log);
        let log = reopen.open();
        assert_eq!(all(&log), records(31..50, 3, 300));
        assert_eq!(log.state().purged, Some(upto));
        let refused = log.truncate_after(Some(29), ok());
        assert!(matches!(refused, Err(Error::Rejected(_))));
    });
}

#[test]
fn purging_everything_keeps_the_last_position() {
    with_log(|log, reopen| {
        log.append(records(0..10, 3, 300), ok()).unwrap();
        let upto = Position { term: 3, index: 9 };
        log.purge(upto, ok()).unwrap();
        assert_eq!((log.state().last, log.state().next), (Some(upto), 10));
        drop(log);
        let log = reopen.open();
        assert_eq!((log.state().last, log.state().next), (Some(upto), 10));
        log.append(records(10..12, 4, 300), ok()).unwrap();
        log.truncate_after(Some(9), ok()).unwrap();
        assert_eq!(log.state().last, Some(upto));
        drop(log);
        assert_eq!(all(&reopen.open()), []);
    });
}

#[test]
fn purging_beyond_the_end_and_resetting_restart_the_log_there() {
    for beyond in [true, false] {
        with_log(|log, reopen| {
            log.append(records(0..10, 3, 300), ok()).unwrap();
            let to = Position { term: 5, index: if beyond { 20 } else { 4 } };
            if beyond {
                log.purge(to, ok()).unwrap();
            } else {
                log.reset_to(to, ok()).unwrap();
            }
            assert_eq!((log.state().last, log.state().segments), (Some(to), 0));
            let next = to.index + 1;
            assert!(log.append(records(next + 1..next + 2, 5, 10), ok()).is_err());
            log.append(records(next..next + 2, 5, 10), ok()).unwrap();
            drop(log);
            assert_eq!(all(&reopen.open()), records(next..next + 2, 5, 10));
        });
    }
}

#[test]
fn calls_against_the_rules_change_nothing() {
    with_log(|log, reopen| {
        log.append(records(5..10, 3, 30), ok()).unwrap();
        let state = log.state();
        let cases: [(&str, Result<(), Error>); 5] = [
            ("a gap", log.append(records(11..12, 3, 1), ok())),
            ("an overlap", log.append(records(9..10, 3, 1), ok())),
            ("an older term", log.append(records(10..11, 2, 1), ok())),
            ("a gap within", log.append(vec![record(10, 3, 1), record(12, 3, 1)], ok())),
            ("a purge before the beginning", log.purge(Position { term: 1, index: 2 }, ok())),
        ];
        for (name, result) in cases {
            assert!(matches!(result, Err(Error::Rejected(_))), "{name}: {result:?}");
        }
        assert_eq!(log.state(), state);
        drop(log);
        assert_eq!(all(&reopen.open()), records(5..10, 3, 30));
    });
}

#[test]
fn vote_and_committed_position_are_kept() {
    with_log(|log, reopen| {
        assert_eq!((log.vote(), log.committed()), (None, None));
        log.append(records(0..3, 1, 10), ok()).unwrap();
        for term in 1..5 {
            log.save_vote(Vote { term, node_id: term * 7, committed: term == 4 }, ok()).unwrap();
        }
        log.save_committed(Position { term: 1, index: 1 }).unwrap();
        drop(log);
        let log = reopen.open();
        assert_eq!(log.vote(), Some(Vote { term: 4, node_id: 28, committed: true }));
        assert_eq!(log.committed(), Some(Position { term: 1, index: 1 }));
        log.save_committed(Position { term: 1, index: 2 }).unwrap();
        log.truncate_after(Some(0), ok()).unwrap();
        drop(log);
        assert_eq!(reopen.open().committed(), None, "it is never beyond the last record");
    });
}

#[test]
fn foreign_files_are_left_alone() {
    with_log(|log, reopen| {
        let foreign = ["peers.json", "segment-1.log", "segment-0000000000000000000x.log"];
        for name in foreign {
            fs::write(reopen.directory.join(name), name).unwrap();
        }
        log.append(records(0..50, 1, 300), ok()).unwrap();
        log.reset_to(Position { term: 1, index: 90 }, ok()).unwrap();
        drop(log);
        drop(reopen.open());
        for name in foreign {
            assert_eq!(fs::read_to_string(reopen.directory.join(name)).unwrap(), name);
        }
    });
}

#[test]
fn a_closed_log_refuses_changes() {
    with_log(|log, _| {
        log.append(records(0..3, 1, 10), ok()).unwrap();
        log.close();
        log.close();
        assert!(matches!(log.append(records(3..4, 1, 10), ok()), Err(Error::Closed)));
        assert!(matches!(log.save_vote(Vote::default(), ok()), Err(Error::Closed)));
        assert_eq!(all(&log).len(), 3, "it can still be read");
    });
}

#[test]
fn a_completion_may_use_the_log() {
    with_log(|log, reopen| {
        let again = log.clone();
        let (answer, done) = keep();
        let first: Completion = Box::new(move |result| {
            result.unwrap();
            assert_eq!(all(&again).len(), 2);
            again.append(records(2..4, 1, 10), done).unwrap();
        });
        log.append(records(0..2, 1, 10), first).unwrap();
        assert!(answer.lock().unwrap().take().unwrap().is_ok());
        drop(log);
        assert_eq!(all(&reopen.open()), records(0..4, 1, 10));
    });
}

/// Lets syncs wait until it is opened, and counts them.
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    syncs: AtomicUsize,
}

impl FaultHook for Gate {
    fn before(&self, operation: &Operation<'_>) -> Verdict {
        if operation.kind == OperationKind::Sync {
            self.syncs.fetch_add(1, Ordering::Relaxed);
            let open = self.open.lock().unwrap();
            drop(self.opened.wait_while(open, |open| !*open).unwrap());
        }
        Verdict::Proceed
    }
}

#[test]
fn what_waits_while_the_disk_is_busy_shares_its_next_sync() {
    const WAITING: u64 = 500;
    let root = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate {
        open: Mutex::new(true),
        opened: Condvar::new(),
        syncs: AtomicUsize::new(0),
    });
    let hook: Arc<dyn FaultHook> = Arc::<Gate>::clone(&gate);
    let options = LogOptions { execution: Execution::Threads, ..LogOptions::default() };
    let (log, _) = Log::open(Arc::new(FaultFiles::new(hook)), root.path(), options).unwrap();
    *gate.open.lock().unwrap() = false;
    let (done, completed) = mpsc::channel();
    for index in 0..WAITING {
        let done = done.clone();
        let completion: Completion = Box::new(move |result| {
            result.unwrap();
            done.send(index).unwrap();
        });
        log.append(records(index..index + 1, 1, 100), completion).unwrap();
    }
    let before = gate.syncs.load(Ordering::Relaxed);
    *gate.open.lock().unwrap() = true;
    gate.opened.notify_all();
    let order: Vec<u64> = completed.iter().take(usize::try_from(WAITING).unwrap()).collect();
    assert!(order.is_sorted());
    let syncs = gate.syncs.load(Ordering::Relaxed) - before;
    assert!(syncs < 10, "{syncs} syncs for {WAITING} appends that waited for one");
    log.close();
}

#[test]
fn threads_complete_concurrent_appends_in_order() {
    const WRITERS: usize = 4;
    const APPENDS: usize = 200;
    let root = tempfile::tempdir().unwrap();
    let options = LogOptions {
        segment_bytes: 64 << 10,
        cache_bytes: 10_000,
        execution: Execution::Threads,
        ..LogOptions::default()
    };
    let files = Arc::new(RealFiles);
    let (log, _) = Log::open(files.clone(), root.path(), options.clone()).unwrap();
    let completed = Arc::new(Mutex::new(Vec::new()));
    let next = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                for _ in 0..APPENDS {
                    let mut next = next.lock().unwrap();
                    let index = *next;
                    let completed = Arc::clone(&completed);
                    let done: Completion = Box::new(move |result| {
                        result.unwrap();
                        completed.lock().unwrap().push(index);
                    });
                    log.append(records(index..index + 2, 1, 300), done).unwrap();
                    *next += 2;
                    drop(next);
                    let seen = log.read(index..index + 2).unwrap();
                    assert_eq!(seen, records(index..index + 2, 1, 300));
                }
            });
        }
    });
    log.close();
    let expected: Vec<u64> = (0..(WRITERS * APPENDS) as u64).map(|at| at * 2).collect();
    assert_eq!(*completed.lock().unwrap(), expected);
    assert_eq!((log.unflushed_bytes(), log.health()), (0, Health::Working));
    let count = expected.len() as u64 * 2;
    assert_eq!(all(&log), records(0..count, 1, 300));
    drop(log);
    let (log, recovery) = Log::open(files, root.path(), options).unwrap();
    assert_eq!(recovery.torn_tail, None);
    assert_eq!(all(&log), records(0..count, 1, 300));
}

#[test]
fn readers_beside_truncations_never_see_a_mixture() {
    let root = tempfile::tempdir().unwrap();
    let options = LogOptions { execution: Execution::Threads, ..inline_options(1) };
    let (log, _) = open_with(&quiet_files(), root.path(), options).unwrap();
    log.append(records(0..40, 1, 200), ok()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = false;
            while !last {
                // One more read after the writer is done, whatever the scheduler did before.
                last = stop.load(Ordering::Relaxed);
                let seen = log.read(0..100).unwrap();
                for (at, found) in (0..).zip(&seen) {
                    assert_eq!(*found, record(at, found.term, 200));
                }
                let terms: Vec<_> = seen.iter().skip(20).map(|record| record.term).collect();
                assert!(terms.windows(2).all(|pair| pair[0] == pair[1]), "{terms:?}");
            }
        });
        for term in 2..150 {
            log.truncate_after(Some(19), ok()).unwrap();
            log.append(records(20..40, term, 200), ok()).unwrap();
            if term % 10 == 0 {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
