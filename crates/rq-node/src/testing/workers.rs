//! Async workers stay free, whatever reads do: who serves `/status` needs one of them.
//!
//! A read stands still for as long as a test wants: its sink waits at the first row. That is what a
//! single step of SQLite's machine over a large value looks like, which no allowance of steps ends.
//! The tests themselves run on a thread of their own, so that blocked workers are found and not joined.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use rq_sql::{Column, End, ResultSink, SinkError, Statement, Value, ValueRef};
use tempfile::{TempDir, tempdir};
use tokio::{runtime::Runtime, task::JoinHandle};

use super::{PATIENCE, done, open, options, reading};
use crate::{Error, Level, Node, Options, Read, Served, progress::lock, read::Collected};

/// Where reads stand still until the gate is dropped.
struct Gate {
    reached: mpsc::Receiver<()>,
    reach: mpsc::Sender<()>,
    /// Held while the gate is closed.
    closed: Arc<Mutex<()>>,
}

/// The sink of a read that stands still at its first row.
struct Standstill {
    reach: mpsc::Sender<()>,
    closed: Arc<Mutex<()>>,
    rows: usize,
}

impl Gate {
    fn new() -> Self {
        let (reach, reached) = mpsc::channel();
        Self { reached, reach, closed: Arc::default() }
    }

    fn sink(&self) -> Standstill {
        Standstill { reach: self.reach.clone(), closed: Arc::clone(&self.closed), rows: 0 }
    }

    /// Waits until so many reads stand still; false if they do not come.
    fn full(&self, count: usize) -> bool {
        (0..count).all(|_| self.reached.recv_timeout(PATIENCE).is_ok())
    }
}

impl ResultSink for Standstill {
    fn columns(&mut self, _: &[Column]) {}

    fn row(&mut self, _: &[ValueRef<'_>]) -> Result<(), SinkError> {
        self.rows += 1;
        // The test may have ended.
        let _ = self.reach.send(());
        drop(lock(&self.closed));
        Ok(())
    }

    fn end(&mut self, _: End, _: Duration) {}

    fn reset(&mut self) {
        self.rows = 0;
    }
}

/// A node on a runtime with so many workers.
fn start(workers: usize, change: impl FnOnce(&mut Options)) -> (TempDir, Runtime, Node) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap();
    let directory = tempdir().unwrap();
    let mut options = options(directory.path());
    change(&mut options);
    let node = runtime.block_on(async {
        let node = open(options).await;
        done(&node, &["CREATE TABLE t (x)", "INSERT INTO t VALUES (1)"]).await;
        node
    });
    (directory, runtime, node)
}

/// Whether a worker takes up what comes from outside, and finds the status of the node there.
fn a_worker_is_free(runtime: &Runtime, node: &Node) -> bool {
    let (answer, answered) = mpsc::channel();
    let node = node.clone();
    runtime.spawn(async move {
        // Timers are turned by workers as well.
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(answer.send(node.status()));
    });
    answered.recv_timeout(PATIENCE).is_ok()
}

fn stand_still(
    runtime: &Runtime,
    node: &Node,
    gate: &Gate,
) -> JoinHandle<Result<(Standstill, Served), Error>> {
    let (node, sink) = (node.clone(), gate.sink());
    runtime.spawn(async move { node.query(reading("SELECT x FROM t", Level::Weak), sink).await })
}

#[test]
fn reads_that_stand_still_leave_a_worker_free() {
    const READS: usize = 6;
    for workers in [1, 2, 3] {
        let (_directory, runtime, node) = start(workers, |_| {});
        let gate = Gate::new();
        let closed = gate.closed.lock().unwrap();
        let reads: Vec<_> = (0..READS).map(|_| stand_still(&runtime, &node, &gate)).collect();
        let all_run = gate.full(READS);
        let free = a_worker_is_free(&runtime, &node);
        // Before any verdict, or the runtime could never end.
        drop(closed);
        assert!(all_run, "{workers} workers: every read runs");
        assert!(free, "{workers} workers: one of them is free");
        for read in reads {
            let (sink, _) = runtime.block_on(read).unwrap().unwrap();
            assert_eq!(sink.rows, 1);
        }
        runtime.block_on(node.shutdown());
    }
}

#[test]
fn mixed_requests_that_wait_for_a_connection_to_be_classified_leave_the_workers_free() {
    let (_directory, runtime, node) = start(1, |options| options.readers_max = Some(1));
    let gate = Gate::new();
    let closed = gate.closed.lock().unwrap();
    let held = stand_still(&runtime, &node, &gate);
    let held_runs = gate.full(1);
    let requests: Vec<_> = (0..6)
        .map(|key| {
            let node = node.clone();
            let write = format!("INSERT INTO t VALUES ({})", 10 + key);
            let statements = vec![Statement::new(write), Statement::new("SELECT max(x) FROM t")];
            let read = Read { statements, ..Read::default() };
            runtime.spawn(async move { node.request(read, Collected::default()).await })
        })
        .collect();
    let hasty = {
        let node = node.clone();
        let timeout = Some(Duration::from_millis(50));
        let read = Read { timeout, ..reading("SELECT 1", Level::None) };
        runtime.spawn(async move { node.request(read, Collected::default()).await })
    };
    let (hasty_end, ended) = mpsc::channel();
    runtime.spawn(async move { drop(hasty_end.send(hasty.await.unwrap())) });
    let free = a_worker_is_free(&runtime, &node);
    let hasty_end = ended.recv_timeout(PATIENCE);
    let waits = requests.iter().all(|request| !request.is_finished());
    drop(closed);
    assert!(held_runs, "the only connection is taken");
    assert!(free, "the only worker is free");
    assert!(waits, "there is nobody to ask what they are");
    let error = hasty_end.expect("its time is up").map(|(found, _)| found.values).unwrap_err();
    assert_eq!(error, Error::DeadlineExceeded);
    runtime.block_on(held).unwrap().unwrap();
    for (key, request) in (0..).zip(requests) {
        let (found, served) = runtime.block_on(request).unwrap().unwrap();
        assert_eq!(found.error, None);
        let own = |value: &Value| matches!(value, Value::Integer(max) if *max >= 10 + key);
        assert!(found.values.iter().all(own) && !found.values.is_empty(), "{:?}", found.values);
        assert!(served.index.is_some(), "it went through the log");
    }
    runtime.block_on(node.shutdown());
}
