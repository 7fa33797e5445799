//! What clients see of a node with threads: batches, levels, deadlines, refusals, and stopping.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use rq_sql::{ErrorKind, Outcome, Value};
use tempfile::tempdir;

use super::{
    PATIENCE, done, number, open, options, reading, simulated, simulated_runtime, values,
    wait_ready, with_parameters, write,
};
use crate::{EffectKnown, Error, Impairment, Level, Node, Read, Write, read::Collected};

const ENDLESS: &str = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c)
     SELECT count(*) FROM c";

fn insert(key: i64) -> Write {
    let statement = with_parameters("INSERT INTO t VALUES (?)", vec![Value::Integer(key)]);
    Write { statements: vec![statement], transaction: false, timeout: None }
}

/// Waits until something holds.
pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_at_the_same_time_share_entries() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    let written = join_all((0..300).map(|key| node.execute(insert(key)))).await;
    let entries: BTreeSet<u64> = written.into_iter().map(|end| end.unwrap().index).collect();
    assert!(entries.len() < 100, "{} entries", entries.len());
    assert_eq!(number(&node, "SELECT count(DISTINCT x) FROM t").await, 300);
    node.shutdown().await;
}

#[test]
fn a_request_that_ends_the_transaction_of_its_entry_goes_alone_the_next_time() {
    let directory = tempdir().unwrap();
    simulated_runtime().block_on(async {
        let node = Node::open_alone(options(directory.path()), simulated(1)).await.unwrap();
        wait_ready(&node).await;
        let table = "CREATE TABLE t (x PRIMARY KEY ON CONFLICT ROLLBACK)";
        done(&node, &[table, "INSERT INTO t VALUES (0)"]).await;
        // What does not say so is found out the first time, what says so is never trusted.
        let unforeseen = "INSERT INTO t VALUES (0)";
        let spoken = "INSERT OR ROLLBACK INTO t VALUES (0)";
        for (first, disruptive, alone) in
            [(1, unforeseen, false), (3, unforeseen, true), (5, spoken, true)]
        {
            let group = [insert(first), write(&[disruptive]), insert(first + 1)];
            let ends = join_all(group.map(|write| node.execute(write))).await;
            let ends: Vec<_> = ends.into_iter().map(Result::unwrap).collect();
            let failed = ends.iter().map(|end| matches!(end.results[0].outcome, Outcome::Error(_)));
            assert_eq!(failed.collect::<Vec<_>>(), [false, true, false]);
            let entries: BTreeSet<u64> = ends.iter().map(|end| end.index).collect();
            assert_eq!(entries.len(), if alone { 3 } else { 1 }, "the group from {first}");
        }
        assert_eq!(number(&node, "SELECT count(*) FROM t").await, 7);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_level_sees_what_was_acknowledged_and_says_what_it_was() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    for (level, served_level) in [
        (Level::None, Level::None),
        (Level::Weak, Level::Weak),
        (Level::Auto, Level::Weak),
        (Level::Linearizable, Level::Linearizable),
        (Level::Strong, Level::Strong),
    ] {
        let before = done(&node, &["INSERT INTO t VALUES (1)"]).await.index;
        let read = reading("SELECT count(*) FROM t", level);
        let (found, served) = node.query(read, Collected::default()).await.unwrap();
        let expected = number(&node, "SELECT count(*) FROM t").await;
        assert_eq!(found.values, [Value::Integer(expected)], "{level:?}");
        assert_eq!(served.level, served_level);
        // Only a strong read goes through the log.
        assert_eq!(served.index.is_some_and(|index| index > before), level == Level::Strong);
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_waits_for_the_index_it_names() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    let index = done(&node, &["CREATE TABLE t (x)"]).await.index;
    let read =
        Read { min_index: Some(index + 1), ..reading("SELECT count(*) FROM t", Level::None) };
    let (read, written) =
        tokio::join!(node.query(read, Collected::default()), node.execute(insert(1)));
    assert_eq!(written.unwrap().index, index + 1);
    assert_eq!(read.unwrap().0.values, [Value::Integer(1)]);
    let never = Read {
        min_index: Some(1 << 40),
        linearizable_timeout: Duration::from_millis(20),
        ..reading("SELECT 1", Level::None)
    };
    let error = node.query(never, Collected::default()).await.unwrap_err();
    assert_eq!(error, Error::WaitTimeout { index: 1 << 40 });
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_statements_go_through_the_log_only_if_one_writes() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    let mixed = |statements: &[&str]| Read {
        statements: write(statements).statements,
        linearizable_timeout: PATIENCE,
        ..Read::default()
    };
    let reads = mixed(&["SELECT 1", "SELECT 2"]);
    let (found, served) = node.request(reads, Collected::default()).await.unwrap();
    assert_eq!((found.values, served.index), (vec![1.into_value(), 2.into_value()], None));
    let writes = mixed(&["INSERT INTO t VALUES (7)", "SELECT x FROM t"]);
    let (found, served) = node.request(writes, Collected::default()).await.unwrap();
    assert_eq!(found.values, [7.into_value()]);
    assert!(served.index.is_some());
    node.shutdown().await;
}

trait IntoValue {
    fn into_value(self) -> Value;
}

impl IntoValue for i64 {
    fn into_value(self) -> Value {
        Value::Integer(self)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_whose_client_has_gone_ends() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    let reader = {
        let node = node.clone();
        tokio::spawn(async move { values(&node, ENDLESS, Level::None).await })
    };
    until("it runs", || node.inner().readers.status().busy > 0).await;
    reader.abort();
    until("it ends", || node.inner().readers.status().busy == 0).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_ends_when_its_time_is_up_and_the_node_closes_over_running_ones() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    let limited =
        Read { timeout: Some(Duration::from_millis(30)), ..reading(ENDLESS, Level::None) };
    let (found, _) = node.query(limited, Collected::default()).await.unwrap();
    assert!(found.error.is_some() && found.values.is_empty());
    let endless = {
        let node = node.clone();
        tokio::spawn(async move {
            node.query(reading(ENDLESS, Level::None), Collected::default()).await
        })
    };
    until("it runs", || node.inner().readers.status().busy > 0).await;
    tokio::time::timeout(PATIENCE, node.shutdown()).await.expect("closing does not hang");
    let end = tokio::time::timeout(PATIENCE, endless).await.expect("it is cancelled").unwrap();
    assert!(end.is_err() || end.is_ok_and(|(found, _)| found.error.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_time_is_up_is_not_proposed() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    let index = done(&node, &["CREATE TABLE t (x)"]).await.index;
    let late = Write { timeout: Some(Duration::ZERO), ..insert(1) };
    let error = node.execute(late).await.unwrap_err();
    assert_eq!(error, Error::DeadlineExceeded);
    assert_eq!(error.outcome(), EffectKnown::NotDone);
    assert_eq!(done(&node, &["INSERT INTO t VALUES (2)"]).await.index, index + 1);
    assert_eq!(values(&node, "SELECT x FROM t", Level::None).await.unwrap(), [2.into_value()]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_client_may_set_is_refused_as_a_whole() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    let statements = ["INSERT INTO t VALUES (1)", "PRAGMA journal_mode = DELETE"];
    let error = node.execute(write(&statements)).await.unwrap_err();
    assert_eq!(error, Error::DisallowedPragma);
    let read = reading("PRAGMA wal_checkpoint(TRUNCATE)", Level::None);
    let error = node.query(read, Collected::default()).await.unwrap_err();
    assert_eq!(error, Error::DisallowedPragma);
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, 0);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_little_free_space_refuses_writes_and_serves_reads() {
    let directory = tempdir().unwrap();
    let mut full = options(directory.path());
    full.limits.free_bytes_min = u64::MAX;
    let node = open(full).await;
    until("it looks at the disk", || !node.status().impairments.is_empty()).await;
    let impairments = node.status().impairments;
    assert!(matches!(impairments[..], [Impairment::DiskFull { .. }]), "{impairments:?}");
    let error = node.execute(write(&["CREATE TABLE t (x)"])).await.unwrap_err();
    assert!(matches!(error, Error::DiskFull { floor: u64::MAX, .. }), "{error}");
    assert_eq!(error.outcome(), EffectKnown::NotDone);
    assert!(error.is_retryable() && error.retry_after().is_some());
    assert_eq!(number(&node, "SELECT count(*) FROM sqlite_schema WHERE name = 't'").await, 0);
    assert!(node.is_ready(), "reads go on");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_large_does_not_undo_the_write() {
    let directory = tempdir().unwrap();
    let mut small = options(directory.path());
    small.limits.result_rows_max = 3;
    let node = open(small).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    let large = write(&["INSERT INTO t VALUES (1), (2), (3), (4) RETURNING x"]);
    let written = node.execute(large).await.unwrap();
    match &written.results[0].outcome {
        Outcome::Error(error) => assert_eq!(error.kind, ErrorKind::ResultTooLarge, "{error:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, 4);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_made_once_for_what_was_applied() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    let mut index = 0;
    for _ in 0..20 {
        index = done(&node, &["CREATE TABLE IF NOT EXISTS t (x)"]).await.index;
    }
    assert_eq!(node.snapshot(Some(5)).await, Ok(true));
    assert_eq!(node.status().raft.snapshot_index, index);
    until("the log is purged", || node.status().raft.first_log_index == index - 4).await;
    assert_eq!(node.snapshot(Some(0)).await, Ok(false), "nothing new");
    done(&node, &["INSERT INTO t VALUES (1)"]).await;
    assert_eq!(node.snapshot(None).await, Ok(true));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syntax_is_checked_without_running_anything() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    assert_eq!(node.check("DELETE FROM missing").await, Ok(None), "no matter of syntax");
    let message = node.check("SELEC 1").await.unwrap().expect("it does not compile");
    assert!(message.contains("syntax error"), "{message}");
    node.sync(PATIENCE).await.unwrap();
    node.shutdown().await;
}

/// Whatever a client is told while the node stops is true after it has started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_tells_every_client_what_became_of_its_write() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let node = node.clone();
            tokio::spawn(async move {
                let mut told = Vec::new();
                for key in (client * 1_000_000).. {
                    let end = node.execute(insert(key)).await;
                    let over = end.is_err();
                    told.push((key, end.map(|written| written.index)));
                    if over {
                        return told;
                    }
                }
                unreachable!("the node stops before")
            })
        })
        .collect();
    until("writes are under way", || node.inner().progress.applied().index > 20).await;
    node.shutdown().await;
    node.shutdown().await;
    assert_eq!(node.execute(insert(-1)).await.unwrap_err(), Error::ShuttingDown);
    assert_eq!(values(&node, "SELECT 1", Level::None).await.unwrap_err(), Error::ShuttingDown);
    let told: Vec<_> = join_all(clients).await.into_iter().flat_map(Result::unwrap).collect();
    drop(node);
    let node = open(options(directory.path())).await;
    let found = values(&node, "SELECT x FROM t", Level::Strong).await.unwrap();
    let mut missing = 0;
    for (key, end) in told {
        let times = found.iter().filter(|value| **value == Value::Integer(key)).count();
        match end {
            Ok(_) => assert_eq!(times, 1, "{key} was acknowledged"),
            Err(error) if error.outcome() == EffectKnown::NotDone => {
                missing += 1;
                assert_eq!(times, 0, "{key}: {error}");
            }
            Err(_) => assert!(times <= 1, "{key} was done twice"),
        }
    }
    assert!(missing <= 16, "each client ends at its first failure");
    node.shutdown().await;
}
