//! Disk use stays bounded under endless small writes, also with a reader held open.

use std::{
    fs,
    path::Path,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::future::join_all;
use rq_sql::{Column, End, Outcome, ResultSink, SinkError, Statement, Value, ValueRef};
use rq_sqlite::{Query, QueryEnd, QueryError, Readers};
use tempfile::tempdir;

use super::{
    PATIENCE, done, number, open, options, simulated, simulated_runtime, wait_ready,
    with_parameters, write,
};
use crate::{Node, Write};

/// A read that stands still at its first row until it is let go.
struct Held {
    release: mpsc::Sender<()>,
    thread: JoinHandle<Result<Option<String>, QueryError>>,
}

struct Standstill {
    reached: mpsc::Sender<()>,
    released: mpsc::Receiver<()>,
    error: Option<String>,
}

impl ResultSink for Standstill {
    fn columns(&mut self, _: &[Column]) {}

    fn row(&mut self, _: &[ValueRef<'_>]) -> Result<(), SinkError> {
        // After the first row nobody listens, and it is released for good.
        if self.reached.send(()).is_ok() && self.released.recv().is_ok() {
            unreachable!("release is only ever dropped");
        }
        Ok(())
    }

    fn end(&mut self, end: End, _: Duration) {
        if let End::Error(error) = end {
            self.error = Some(error.message);
        }
    }

    fn reset(&mut self) {}
}

/// Begins a read and waits until it has its first row.
fn hold(readers: &Readers, sql: &str) -> Held {
    let (readers, statements) = (readers.clone(), [Statement::new(sql)]);
    let (reached, began) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let thread = thread::spawn(move || {
        let query = Query { statements: &statements, transaction: true, ..Query::default() };
        let mut sink = Standstill { reached, released, error: None };
        assert_eq!(readers.query(&query, &mut sink)?, QueryEnd::Done);
        Ok(sink.error)
    });
    began.recv().expect("the read has rows");
    Held { release, thread }
}

impl Held {
    /// Lets the read go on and returns the error it ends with.
    fn end(self) -> Result<Option<String>, QueryError> {
        drop(self.release);
        self.thread.join().unwrap()
    }
}

/// Bytes of all files in a directory.
fn bytes_in(directory: &Path) -> u64 {
    let length = |entry: fs::DirEntry| entry.metadata().unwrap().len();
    fs::read_dir(directory).unwrap().map(|entry| length(entry.unwrap())).sum()
}

#[test]
fn the_log_is_purged_under_small_writes_while_a_reader_is_open() {
    const SEGMENT_BYTES: u64 = 64 << 10;
    let directory = tempdir().unwrap();
    let mut small = options(directory.path());
    small.log.segment_bytes = SEGMENT_BYTES;
    small.snapshots.entries = 50;
    small.snapshots.interval = Duration::from_secs(1);
    small.snapshots.trailing_entries = 20;
    simulated_runtime().block_on(async {
        let node = Node::open_alone(small, simulated(3)).await.unwrap();
        wait_ready(&node).await;
        done(&node, &["CREATE TABLE t (x)", "INSERT INTO t VALUES (1), (2)"]).await;
        let held = hold(&node.inner().readers, "SELECT x FROM t");
        let mut written = 0;
        for _ in 0..60 {
            for _ in 0..10 {
                let insert = write(&["INSERT INTO t VALUES (hex(randomblob(8)))"]);
                let padded = with_parameters("SELECT ?", vec![Value::Blob(vec![7; 4000])]);
                let mut requests = vec![insert];
                requests[0].statements.push(padded);
                written += 4000;
                for end in join_all(requests.into_iter().map(|one| node.execute(one))).await {
                    end.unwrap();
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let bytes = bytes_in(&directory.path().join("raft"));
            assert!(bytes < 8 * SEGMENT_BYTES, "{bytes} bytes of log after {written}");
        }
        assert!(written > 30 * SEGMENT_BYTES);
        assert!(node.status().raft.first_log_index > 500);
        assert_eq!(held.end(), Ok(None), "it was not disturbed");
        assert_eq!(number(&node, "SELECT count(*) FROM t").await, 602);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_beyond_its_bytes_is_purged_whatever_the_other_thresholds_say() {
    let directory = tempdir().unwrap();
    let mut small = options(directory.path());
    small.log.segment_bytes = 64 << 10;
    small.snapshots.log_bytes_max = 256 << 10;
    small.snapshots.trailing_entries = u64::MAX;
    let node = open(small).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    let began = tokio::time::Instant::now();
    let mut purged = false;
    while !purged && began.elapsed() < PATIENCE {
        let values = vec![Value::Blob((0..9000).map(|i: u32| i.to_le_bytes()[0] ^ 91).collect())];
        let statements = vec![with_parameters("INSERT INTO t VALUES (?)", values)];
        node.execute(Write { statements, transaction: false, timeout: None }).await.unwrap();
        purged = node.status().raft.first_log_index > 2;
    }
    assert!(purged, "the log has {} bytes", node.status().raft.log_bytes);
    node.shutdown().await;
}

/// A reader that stands on an old state keeps the WAL from starting over. Beyond the cap it is
/// cancelled, and the WAL shrinks in use again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_pins_the_wal_beyond_its_cap_is_cancelled() {
    let directory = tempdir().unwrap();
    let mut small = options(directory.path());
    small.limits.wal_bytes_max = 18 << 20;
    let node = open(small).await;
    done(&node, &["CREATE TABLE t (x)", "INSERT INTO t VALUES (1), (2)"]).await;
    // Long enough to notice after its first row that it was cancelled.
    let sql = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 100000)
         SELECT i FROM t, c";
    let held = hold(&node.inner().readers, sql);
    let machinery = &node.inner().machinery;
    while machinery.wal_bytes() < 20 << 20 {
        done(&node, &["INSERT INTO t VALUES (zeroblob(1000000))"]).await;
    }
    let cancelled = || node.counters()["db"]["reads_cancelled"];
    let began = tokio::time::Instant::now();
    while cancelled() == 0 && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(cancelled() > 0, "the oldest read is cancelled");
    assert_ne!(held.end(), Ok(None));
    // The next commit after a complete checkpoint starts the WAL over.
    let began = tokio::time::Instant::now();
    while machinery.wal_bytes() > 18 << 20 && began.elapsed() < PATIENCE {
        done(&node, &["INSERT INTO t VALUES (1)"]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(machinery.wal_bytes() < 18 << 20, "{} bytes", machinery.wal_bytes());
    node.shutdown().await;
}

/// A statement that ends at its limit of pages has filled the file of the WAL, of which nothing is in use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_refused_statement_left_in_the_wal_is_given_back() {
    let directory = tempdir().unwrap();
    let mut small = options(directory.path());
    small.budget.pages = 30_000;
    let node = open(small).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    let large = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 150)
         INSERT INTO t SELECT zeroblob(1000000) FROM c";
    let machinery = &node.inner().machinery;
    let refused = node.execute(write(&[large])).await.unwrap();
    let Outcome::Error(error) = &refused.results[0].outcome else { panic!("{refused:?}") };
    assert!(error.message.contains("more than 30000 pages"), "{error:?}");
    let began = tokio::time::Instant::now();
    while node.status().database.wal_bytes > 0 && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.status().database.wal_bytes, 0);
    assert_eq!(machinery.wal_file_bytes(), 0);
    done(&node, &["INSERT INTO t VALUES (1)"]).await;
    assert!(node.status().database.wal_bytes > 0);
    node.shutdown().await;
}

#[test]
fn maintenance_and_snapshots_happen_by_their_intervals_and_sizes() {
    let directory = tempdir().unwrap();
    let mut busy = options(directory.path());
    busy.auto_vacuum_interval = Duration::from_secs(10);
    busy.auto_optimize_interval = Duration::from_secs(20);
    busy.snapshots.interval = Duration::from_secs(5);
    busy.snapshots.wal_bytes = 1;
    simulated_runtime().block_on(async {
        let node = Node::open_alone(busy, simulated(4)).await.unwrap();
        wait_ready(&node).await;
        done(&node, &["CREATE TABLE t (x)"]).await;
        tokio::time::sleep(Duration::from_secs(65)).await;
        let counters = node.counters();
        let of = |map: &str, key: &str| counters[map][key];
        assert_eq!(of("store", "num_auto_vacuums"), 6, "{counters:#?}");
        assert_eq!(of("store", "num_auto_optimizes"), 3);
        assert!(of("store", "num_wal_snapshots") > 0);
        assert!(node.status().raft.snapshot_index > 0);
    });
}
