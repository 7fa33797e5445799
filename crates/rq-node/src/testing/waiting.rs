//! What has to wait ends: rounds that get no answer, writes that pile up behind a slow one, entries
//! that are kept small after a surprise.

use std::{collections::BTreeMap, sync::mpsc, thread, time::Duration};

use futures_util::future::join_all;
use rq_sql::{Outcome, Value};
use tempfile::tempdir;

use super::{
    PATIENCE, behaviour::until, done, number, open, options, reading, simulated, simulated_runtime,
    wait_ready, with_parameters, write,
};
use crate::{EffectKnown, Error, Level, Node, Read, Write, Written, read::Collected};

/// Keeps the applier busy until it is dropped, as a statement that takes long would.
pub(super) struct Busy {
    release: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Busy {
    /// Returns once the applier is busy.
    pub(super) fn keep(node: &Node) -> Self {
        let applier = node.inner().machinery.applier.clone();
        let (release, released) = mpsc::channel::<()>();
        let (begun, began) = mpsc::channel();
        let thread = thread::spawn(move || {
            let wait = move |_: &mut rq_sqlite::Writer| {
                begun.send(()).expect("the test waits for it");
                // An error is the release: the sender is only ever dropped.
                let _ = released.recv();
            };
            assert!(applier.with_writer(wait).is_some(), "the applier has not stopped");
        });
        began.recv().expect("the applier takes it up");
        Self { release: Some(release), thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it only waits");
        }
    }
}

/// A write of about a thousand bytes into `t (x, y)`.
pub(super) fn padded(key: i64) -> Write {
    let values = vec![Value::Integer(key), Value::Blob(vec![0; 1000])];
    let statements = vec![with_parameters("INSERT INTO t VALUES (?, length(?))", values)];
    Write { statements, transaction: false, timeout: None }
}

fn plain(key: i64) -> Write {
    let statements = vec![with_parameters("INSERT INTO t VALUES (?)", vec![Value::Integer(key)])];
    Write { statements, transaction: false, timeout: None }
}

/// On one thread whose time jumps when nothing else is left to do, so that the 30 s of a round pass.
#[tokio::test]
async fn a_round_that_gets_no_answer_ends_for_everybody_who_waits_for_it() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    let busy = Busy::keep(&node);
    tokio::time::pause();
    let strong = |timeout| Read { timeout, ..reading("SELECT count(*) FROM t", Level::Strong) };
    let ask = |read| node.query(read, Collected::default());
    let began = tokio::time::Instant::now();
    let hasty = ask(strong(Some(Duration::from_millis(50)))).await.map(|(found, _)| found.values);
    assert_eq!(hasty, Err(Error::DeadlineExceeded));
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(50) && waited < Duration::from_secs(1), "{waited:?}");
    let ends = join_all([None, None, None].map(|timeout| ask(strong(timeout)))).await;
    for end in ends {
        let error = end.map(|(found, _)| found.values).unwrap_err();
        assert_eq!(error, Error::DeadlineExceeded, "the default patience is bounded as well");
        assert_eq!(error.outcome(), EffectKnown::NotDone);
    }
    assert!(began.elapsed() < Duration::from_secs(70), "{:?}", began.elapsed());
    // Weaker levels ask nobody.
    let (found, _) = ask(reading("SELECT count(*) FROM t", Level::Weak)).await.unwrap();
    assert_eq!(found.values, [Value::Integer(0)]);
    tokio::time::resume();
    drop(busy);
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, 0, "later rounds are answered");
    node.shutdown().await;
}

/// A read that must see what is committed, but not applied in time, says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_ends_when_what_it_must_see_is_not_applied_in_time() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    let index = done(&node, &["CREATE TABLE t (x)"]).await.index;
    let busy = Busy::keep(&node);
    let written = {
        let node = node.clone();
        tokio::spawn(async move { node.execute(plain(1)).await })
    };
    until("it is committed", || node.inner().consensus.view().commit_index > index).await;
    let linearizable_timeout = Duration::from_millis(50);
    let read = reading("SELECT count(*) FROM t", Level::Linearizable);
    let early = Read { linearizable_timeout, ..read.clone() };
    let end = node.query(early, Collected::default()).await.map(|(found, _)| found.values);
    assert_eq!(end, Err(Error::WaitTimeout { index: index + 1 }));
    drop(busy);
    let (found, _) = node.query(read, Collected::default()).await.unwrap();
    assert_eq!(found.values, [Value::Integer(1)]);
    assert_eq!(written.await.unwrap().unwrap().index, index + 1);
    node.shutdown().await;
}

/// Room in the backlog is given back with the answer, not when an entry is committed: otherwise writes
/// would pile up without bound between log and database while a statement takes long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_and_not_applied_takes_room_in_the_backlog() {
    const ROOM: u64 = 16 << 10;
    let directory = tempdir().unwrap();
    let mut small = options(directory.path());
    small.limits.backlog_bytes_max = ROOM;
    small.limits.enqueue_timeout = Duration::from_millis(200);
    let node = open(small).await;
    let index = done(&node, &["CREATE TABLE t (x, y)"]).await.index;
    let busy = Busy::keep(&node);
    let send = |key| {
        let node = node.clone();
        tokio::spawn(async move { node.execute(padded(key)).await })
    };
    // One after the other, so that each has every chance to be committed before the next.
    let mut sent = Vec::new();
    for key in 0..60 {
        sent.push(send(key));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    until("some are committed", || node.inner().consensus.view().commit_index > index).await;
    let over = |one: &tokio::task::JoinHandle<Result<Written, Error>>| one.is_finished();
    until("the others are refused", || sent.iter().filter(|one| over(one)).count() >= 44).await;
    drop(busy);
    let mut accepted = 0;
    for end in sent {
        match tokio::time::timeout(PATIENCE, end).await.expect("it ends").unwrap() {
            Ok(_) => accepted += 1,
            Err(error) => {
                assert_eq!(error, Error::EnqueueTimeout);
                assert_eq!(error.outcome(), EffectKnown::NotDone);
                assert!(error.is_retryable() && error.retry_after().is_some());
            }
        }
    }
    assert!((8..=16).contains(&accepted), "{accepted} of about 1,000 bytes in {ROOM}");
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, accepted);
    done(&node, &["INSERT INTO t VALUES (0, 0)"]).await;
    node.shutdown().await;
}

/// How many requests each entry of a group of writes held, in the order of the log.
fn sizes(ends: Vec<Result<Written, Error>>) -> Vec<usize> {
    let mut entries = BTreeMap::new();
    for end in ends {
        *entries.entry(end.unwrap().index).or_insert(0) += 1;
    }
    entries.into_values().collect()
}

#[test]
fn after_an_unforeseen_disruption_entries_stay_small_for_a_while() {
    let directory = tempdir().unwrap();
    simulated_runtime().block_on(async {
        let node = Node::open_alone(options(directory.path()), simulated(8)).await.unwrap();
        wait_ready(&node).await;
        done(&node, &["CREATE TABLE t (x UNIQUE ON CONFLICT ROLLBACK)"]).await;
        done(&node, &["INSERT INTO t VALUES (0)"]).await;
        let mut key = 0;
        let mut group = |count: i64| {
            let first = key + 1;
            key += count;
            join_all((first..=key).map(|key| node.execute(plain(key))))
        };
        let before = sizes(group(200).await);
        assert!(before.iter().any(|size| *size > 8), "{before:?}");
        // A text of its own: `plain` itself must not become suspect.
        let company = [write(&["INSERT INTO t VALUES (0)"]), plain(-1), plain(-2)];
        let ends = join_all(company.map(|write| node.execute(write))).await;
        let ends: Vec<_> = ends.into_iter().map(Result::unwrap).collect();
        assert!(matches!(ends[0].results[0].outcome, Outcome::Error(_)), "{ends:?}");
        assert_eq!(ends[0].index, ends[2].index, "nobody foresaw it");
        let cautious = sizes(group(64 * 8 + 200).await);
        assert!(cautious.len() > 64, "{cautious:?}");
        assert!(cautious[..64].iter().all(|size| *size <= 8), "{cautious:?}");
        assert!(cautious[64..].iter().any(|size| *size > 8), "it passes: {cautious:?}");
        let everything = 1 + 200 + 2 + 64 * 8 + 200;
        assert_eq!(number(&node, "SELECT count(*) FROM t").await, everything);
    });
}
