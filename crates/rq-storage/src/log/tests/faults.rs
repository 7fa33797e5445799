//! Failing disks and full disks.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::super::{Health, LogOptions, Position, Vote};
use crate::{
    Error, Execution, FaultFiles, Operation, OperationKind, Verdict,
    testing::{
        Countdown, Hook, Random, all, creates_segment, inline_options, keep, ok, open_inline,
        open_with, records,
    },
};

#[test]
fn a_failed_sync_ends_the_log_and_is_not_tried_again() {
    for kind in [OperationKind::Sync, OperationKind::Write] {
        let root = tempfile::tempdir().unwrap();
        let broken = Arc::new(AtomicBool::new(false));
        let tries = Arc::new(AtomicU64::new(0));
        let (is_broken, counted) = (Arc::clone(&broken), Arc::clone(&tries));
        let hook = Hook(move |operation: &Operation<'_>| {
            if is_broken.load(Ordering::SeqCst) && operation.kind == kind {
                counted.fetch_add(1, Ordering::SeqCst);
                return Verdict::Fail(io::ErrorKind::Other);
            }
            Verdict::Proceed
        });
        let files = Arc::new(FaultFiles::new(Arc::new(hook)));
        let (log, _) = open_inline(&files, root.path());
        log.append(records(0..2, 1, 50), ok()).unwrap();
        broken.store(true, Ordering::SeqCst);
        let (answer, done) = keep();
        log.append(records(2..3, 1, 50), done).unwrap();
        let answer = answer.lock().unwrap().take().expect("the completion was called");
        assert!(matches!(answer, Err(Error::Io { .. })), "{answer:?}");
        assert_eq!((log.health(), log.unflushed_bytes()), (Health::Failed, 0));
        broken.store(false, Ordering::SeqCst);
        assert!(matches!(log.append(records(3..4, 1, 50), ok()), Err(Error::Failed(_))));
        assert!(matches!(log.save_vote(Vote::default(), ok()), Err(Error::Failed(_))));
        assert!(matches!(log.read(0..1), Err(Error::Failed(_))));
        log.poll();
        assert_eq!(tries.load(Ordering::SeqCst), 1);
    }
}

/// A process dies between the copies of a vote; the next one reads it; the power goes while it
/// writes another.
#[test]
fn a_vote_read_from_the_page_cache_is_made_durable_first() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let root = tempfile::tempdir().unwrap();
        let hook = Countdown::never();
        let files = Arc::new(FaultFiles::new(Arc::clone(&hook) as _));
        let vote = |term| Vote { term, node_id: 1, committed: false };
        let (log, _) = open_inline(&files, root.path());
        log.save_vote(vote(1), ok()).unwrap();
        // Write, sync, write, and no second sync.
        hook.arm(3, Verdict::Crash);
        log.save_vote(vote(2), keep().1).unwrap();
        assert!(files.has_crashed());
        files.restart();
        let (log, _) = open_inline(&files, root.path());
        assert_eq!(log.vote(), Some(vote(2)));
        // Checksum and part of the sequence number: enough to spoil the copy.
        hook.arm(0, Verdict::Torn(12));
        log.save_vote(vote(3), keep().1).unwrap();
        files.lose_unsynced(&mut || random.next()).unwrap();
        let (log, _) = open_inline(&files, root.path());
        assert_eq!(log.vote(), Some(vote(2)), "seed {seed}");
    }
}

/// Files whose disk has no space for new segments while the flag is set.
fn full_disk() -> (Arc<AtomicBool>, Arc<FaultFiles>) {
    let full = Arc::new(AtomicBool::new(false));
    let is_full = Arc::clone(&full);
    let hook = Hook(move |operation: &Operation<'_>| {
        if is_full.load(Ordering::SeqCst) && creates_segment(operation) {
            Verdict::Fail(io::ErrorKind::StorageFull)
        } else {
            Verdict::Proceed
        }
    });
    (full, Arc::new(FaultFiles::new(Arc::new(hook))))
}

#[test]
fn a_full_disk_makes_the_log_wait_and_nothing_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let (full, files) = full_disk();
    let (log, _) = open_inline(&files, root.path());
    full.store(true, Ordering::SeqCst);
    let (first, done) = keep();
    log.append(records(0..40, 1, 300), done).unwrap();
    let (second, done) = keep();
    log.append(records(40..41, 1, 300), done).unwrap();
    assert_eq!(log.health(), Health::WaitingForSpace);
    assert!(log.unflushed_bytes() > 0);
    assert_eq!(all(&log).len(), 41, "what waits can be read");
    log.poll();
    assert!(first.lock().unwrap().is_none() && second.lock().unwrap().is_none());
    full.store(false, Ordering::SeqCst);
    log.poll();
    assert!(first.lock().unwrap().take().unwrap().is_ok());
    assert!(second.lock().unwrap().take().unwrap().is_ok());
    assert_eq!((log.health(), log.unflushed_bytes()), (Health::Working, 0));
    drop(log);
    assert_eq!(all(&open_inline(&files, root.path()).0), records(0..41, 1, 300));
}

#[test]
fn a_purge_overtakes_appends_that_wait_for_space() {
    let root = tempfile::tempdir().unwrap();
    let (full, files) = full_disk();
    let (log, _) = open_inline(&files, root.path());
    log.append(records(0..30, 1, 300), ok()).unwrap();
    full.store(true, Ordering::SeqCst);
    let (waiting, done) = keep();
    log.append(records(30..80, 1, 300), done).unwrap();
    let before = log.state().segments;
    let (purged, done) = keep();
    log.purge(Position { term: 1, index: 25 }, done).unwrap();
    assert!(purged.lock().unwrap().take().unwrap().is_ok());
    assert!(waiting.lock().unwrap().is_none());
    assert!(log.state().segments < before);
    // This one concerns records that are not on disk yet, so it keeps its place.
    let (later, done) = keep();
    log.purge(Position { term: 1, index: 70 }, done).unwrap();
    assert!(later.lock().unwrap().is_none());
    full.store(false, Ordering::SeqCst);
    log.poll();
    assert!(waiting.lock().unwrap().take().unwrap().is_ok());
    assert!(later.lock().unwrap().take().unwrap().is_ok());
    assert_eq!(all(&log), records(71..80, 1, 300));
}

#[test]
fn closing_gives_up_on_what_waits_for_space() {
    for execution in [Execution::Inline, Execution::Threads] {
        let root = tempfile::tempdir().unwrap();
        let (full, files) = full_disk();
        full.store(true, Ordering::SeqCst);
        let options = LogOptions { execution, ..inline_options(1) };
        let (log, _) = open_with(&files, root.path(), options).unwrap();
        let (answer, done) = keep();
        log.append(records(0..3, 1, 300), done).unwrap();
        log.close();
        assert!(matches!(answer.lock().unwrap().take(), Some(Err(Error::Closed))));
        assert_eq!(log.unflushed_bytes(), 0);
    }
}

#[test]
fn the_flusher_thread_goes_on_when_the_disk_has_space_again() {
    let root = tempfile::tempdir().unwrap();
    let (full, files) = full_disk();
    full.store(true, Ordering::SeqCst);
    let options = LogOptions { execution: Execution::Threads, ..inline_options(1) };
    let (log, _) = open_with(&files, root.path(), options).unwrap();
    let done = Arc::new((Mutex::new(false), Condvar::new()));
    let signal = Arc::clone(&done);
    let completion = Box::new(move |result: Result<(), Error>| {
        result.unwrap();
        *signal.0.lock().unwrap() = true;
        signal.1.notify_all();
    });
    log.append(records(0..30, 1, 300), completion).unwrap();
    while log.health() != Health::WaitingForSpace {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!*done.0.lock().unwrap());
    full.store(false, Ordering::SeqCst);
    let guard = done.0.lock().unwrap();
    let waited = done.1.wait_timeout_while(guard, Duration::from_secs(30), |done| !*done).unwrap();
    assert!(*waited.0, "the append is completed");
    drop(waited);
    assert_eq!(log.health(), Health::Working);
    assert_eq!(all(&log), records(0..30, 1, 300));
}

#[test]
fn a_segment_that_cannot_be_prepared_for_another_reason_ends_the_log() {
    let root = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    let hook = Hook(move |operation: &Operation<'_>| {
        if is_broken.load(Ordering::SeqCst) && creates_segment(operation) {
            Verdict::Fail(io::ErrorKind::PermissionDenied)
        } else {
            Verdict::Proceed
        }
    });
    let files = Arc::new(FaultFiles::new(Arc::new(hook)));
    let (log, _) = open_inline(&files, root.path());
    broken.store(true, Ordering::SeqCst);
    let (answer, done) = keep();
    log.append(records(0..60, 1, 300), done).unwrap();
    let answer = answer.lock().unwrap().take();
    assert!(matches!(answer, Some(Err(Error::NoPermission { .. }))), "{answer:?}");
    assert_eq!(log.health(), Health::Failed);
}

#[test]
fn a_segment_that_could_not_be_made_ready_is_made_when_it_is_needed() {
    let root = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    let hook = Hook(move |operation: &Operation<'_>| {
        if creates_segment(operation) && is_broken.swap(false, Ordering::SeqCst) {
            Verdict::Fail(io::ErrorKind::PermissionDenied)
        } else {
            Verdict::Proceed
        }
    });
    let files = Arc::new(FaultFiles::new(Arc::new(hook)));
    broken.store(true, Ordering::SeqCst);
    let (log, _) = open_inline(&files, root.path());
    assert!(!broken.load(Ordering::SeqCst), "the first could not be made ready");
    let (answer, done) = keep();
    log.append(records(0..60, 1, 300), done).unwrap();
    assert!(matches!(answer.lock().unwrap().take(), Some(Ok(()))));
    assert_eq!(log.health(), Health::Working);
    assert_eq!(all(&log), records(0..60, 1, 300));
}
