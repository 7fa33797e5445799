//! However much waits to be applied, only a part of it is in memory at once, and who needs the writer gets it in between.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use openraft::{
    Entry, EntryPayload, RaftLogReader as _,
    entry::RaftEntry as _,
    storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _},
    testing::log::StoreBuilder as _,
    type_config::alias::EntryOf,
};
use rq_sqlite::EntryId;
use rq_storage::Execution;

use super::conformance::{Builder, Guard, Orderly};
use crate::{
    applier::{Content, Job, Later},
    command::Payload,
    raft::{
        LogId, TypeConfig,
        log::{LogStore, UNAPPLIED_BYTES_MAX},
        log_id,
        state_machine::RUN_ENTRIES_MAX,
    },
};

const MEBIBYTE: usize = 1 << 20;

async fn store() -> (Guard, Orderly) {
    let (guard, store, _) = Builder { execution: Execution::Threads }.build().await.unwrap();
    (guard, store)
}

fn at(index: u64) -> LogId {
    log_id(EntryId { term: 1, index })
}

/// Appends entries of a mebibyte each, which nobody is going to apply.
async fn append(log: &mut LogStore, indexes: std::ops::Range<u64>) {
    let payload = || Payload::from_bytes(Bytes::from(vec![0; MEBIBYTE]));
    let entries = indexes.map(|index| Entry::new(at(index), EntryPayload::Normal(payload())));
    log.blocking_append(entries.collect::<Vec<EntryOf<TypeConfig>>>()).await.unwrap();
}

#[tokio::test]
async fn entries_are_fetched_as_they_are_applied() {
    let (guard, store) = store().await;
    let (progress, ahead) = (Arc::clone(&guard.progress), AtomicU64::new(0));
    let some = RUN_ENTRIES_MAX as u64;
    let fetched = |index: u64| {
        ahead.fetch_max(index - progress.applied().index, Ordering::Relaxed);
        Ok((EntryOf::<TypeConfig>::new_blank(at(index)), None))
    };
    store.machine.lock().await.apply(stream::iter((0..4 * some).map(fetched))).await.unwrap();
    assert_eq!(guard.progress.applied().index, 4 * some - 1);
    let ahead = ahead.into_inner();
    assert!(ahead <= some, "{ahead} were fetched before any of them was applied");
}

#[tokio::test]
async fn the_log_is_read_as_far_as_it_is_wanted() {
    let (_guard, mut store) = store().await;
    append(&mut store.log, 0..12).await;
    let mut reader = store.log.get_log_reader().await;
    let mut entries = std::pin::pin!(reader.entries_stream(0..u64::MAX).await);
    assert_eq!(entries.next().await.unwrap().unwrap().log_id, at(0));
    append(&mut store.log, 12..13).await;
    let rest: Vec<_> = entries.map_ok(|entry| entry.log_id).try_collect().await.unwrap();
    assert_eq!(rest, (1..13).map(at).collect::<Vec<_>>(), "the last came when some were read");
}

#[tokio::test]
async fn what_is_kept_until_it_is_applied_is_bounded_in_bytes() {
    let (_guard, mut store) = store().await;
    append(&mut store.log, 0..64).await;
    let kept = store.log.unapplied_bytes();
    assert!((MEBIBYTE..=UNAPPLIED_BYTES_MAX + MEBIBYTE).contains(&kept), "{kept} bytes");
    let read = store.log.try_get_log_entries(..).await.unwrap();
    assert_eq!(read.len(), 64);
    store.log.truncate_after(Some(at(2))).await.unwrap();
    assert_eq!(store.log.unapplied_bytes(), 3 * MEBIBYTE);
    store.log.truncate_after(None).await.unwrap();
    assert_eq!(store.log.unapplied_bytes(), 0);
}

/// Blank entries, one at a time, until the writer was lent to somebody.
struct UntilLent {
    next: AtomicU64,
    lent: AtomicU64,
}

const MOST: u64 = 20_000;

impl Later for UntilLent {
    fn next(&self) -> Result<Vec<Job>, String> {
        if self.lent.load(Ordering::Relaxed) > 0 {
            return Ok(Vec::new());
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let id = EntryId { term: 1, index };
        let job = Job { id, content: Content::Blank, respond: None };
        Ok(Vec::from_iter((index < MOST).then_some(job)))
    }
}

/// A checkpoint that had to wait for the end would leave a WAL that grows until then.
#[tokio::test]
async fn the_writer_is_lent_while_much_is_applied_later() {
    let (guard, _) = store().await;
    let later = Arc::new(UntilLent { next: AtomicU64::new(0), lent: AtomicU64::new(0) });
    guard.applier.apply_later(Arc::clone(&later) as _).unwrap();
    let applier = Arc::clone(&guard.applier);
    let borrower = thread::spawn(move || {
        let reached = Arc::clone(&later);
        let lent = applier.with_writer(move |_| {
            let applied = reached.next.load(Ordering::Relaxed);
            reached.lent.store(applied.max(1), Ordering::Relaxed);
            applied
        });
        lent.expect("there is a writer")
    });
    let applied = borrower.join().unwrap();
    assert!(applied < MOST, "it was lent after all {applied}");
}
