//! A disk that fills while the node runs, and is freed: what was accepted waits and is done, new writes
//! are refused meanwhile, reads go on, and nobody has to restart anything. And a disk that fails, after
//! which nothing is promised any more.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use rq_sql::{Outcome, Value};
use tempfile::{TempDir, tempdir};
use tokio::task::JoinHandle;

use super::{
    PATIENCE,
    behaviour::until,
    done, number, options, values, wait_ready, with_parameters,
    world::{Disks, Event, World},
    write,
};
use crate::{EffectKnown, Environment, Error, Impairment, Level, Node, Options, Write, Written};

/// A node with threads on disks that can be filled.
async fn on_small_disk() -> (TempDir, Arc<World>, Node) {
    on_small_disk_with(|_| {}).await
}

async fn on_small_disk_with(change: impl FnOnce(&mut Options)) -> (TempDir, Arc<World>, Node) {
    let directory = tempdir().unwrap();
    let disks = Disks::new();
    let environment =
        Environment { execution: rq_storage::Execution::Threads, ..disks.environment(1) };
    let mut small = options(directory.path());
    small.log.segment_bytes = 64 << 10;
    change(&mut small);
    let node = Node::open_alone(small, environment).await.unwrap();
    wait_ready(&node).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    (directory, Arc::clone(&disks.world), node)
}

/// A write that cannot be compressed.
fn large(key: i64) -> Write {
    let mut state = key.unsigned_abs() + 1;
    let body = (0..20_000).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    });
    let values = vec![Value::Blob(body.collect())];
    let statements = vec![with_parameters("INSERT INTO t VALUES (?)", values)];
    Write { statements, transaction: false, timeout: None }
}

fn send(node: &Node, key: i64) -> JoinHandle<Result<Written, Error>> {
    let node = node.clone();
    tokio::spawn(async move { node.execute(large(key)).await })
}

async fn refused(node: &Node) {
    let error = node.execute(large(0)).await.unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert_eq!(error.outcome(), EffectKnown::NotDone);
}

async fn finish(node: &Node, waiting: JoinHandle<Result<Written, Error>>) {
    let end = tokio::time::timeout(PATIENCE, waiting).await.expect("it goes on by itself");
    assert!(end.unwrap().is_ok());
    until("nothing is wrong any more", || node.status().impairments.is_empty()).await;
    done(node, &["INSERT INTO t VALUES (1)"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_finds_no_room_in_the_database_waits_for_it() {
    let (_directory, world, node) = on_small_disk().await;
    world.fill_database(true);
    let waiting = send(&node, 1);
    let stalled = || {
        let impairments = node.status().impairments;
        impairments.iter().any(|one| matches!(one, Impairment::ApplyStalled { .. }))
    };
    until("applying stalls", stalled).await;
    refused(&node).await;
    assert_eq!(
        values(&node, "SELECT count(*) FROM t", Level::None).await.unwrap(),
        [Value::Integer(0)]
    );
    assert!(!waiting.is_finished());
    world.fill_database(false);
    finish(&node, waiting).await;
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, 2);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_finds_no_room_in_the_log_waits_for_it() {
    let (_directory, world, node) = on_small_disk().await;
    world.fill_log(true);
    let mut accepted = 0;
    let waiting = loop {
        let sent = send(&node, accepted);
        let stalled = || {
            let impairments = node.status().impairments;
            sent.is_finished() || impairments.contains(&Impairment::LogWaitsForSpace)
        };
        until("it is done or waits", stalled).await;
        if !sent.is_finished() {
            break sent;
        }
        assert!(sent.await.unwrap().is_ok(), "there is room in the segments that exist");
        accepted += 1;
        assert!(accepted < 100, "the log grows without files");
    };
    refused(&node).await;
    assert_eq!(
        values(&node, "SELECT count(*) FROM t", Level::None).await.unwrap(),
        [Value::Integer(accepted)]
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "nothing is acknowledged that is not durable");
    world.fill_log(false);
    finish(&node, waiting).await;
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, accepted + 2);
    node.shutdown().await;
}

/// A statement larger than the disk would fill it, and the entry be tried again for ever. It fails instead, by a limit
/// that stands in the entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_may_add_no_more_than_there_is_room_for() {
    const LARGE: &str =
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 30)
         INSERT INTO t SELECT zeroblob(1000000) FROM c";
    let directory = tempdir().unwrap();
    let disks = Disks::new();
    let environment =
        Environment { execution: rq_storage::Execution::Threads, ..disks.environment(1) };
    let node = Node::open_alone(options(directory.path()), environment).await.unwrap();
    wait_ready(&node).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    disks.files.set_free_space(Some(100_000_000));
    let refused = node.execute(write(&[LARGE, "INSERT INTO t VALUES (1)"])).await.unwrap();
    let Outcome::Error(error) = &refused.results[0].outcome else { panic!("{refused:?}") };
    assert!(error.message.contains("more than 4096 pages"), "{error:?}");
    assert!(matches!(refused.results[1].outcome, Outcome::Done { .. }), "{refused:?}");
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, 1);
    // Small writes are refused by the floor of free space alone.
    disks.files.set_free_space(Some(2));
    done(&node, &["INSERT INTO t VALUES (zeroblob(100000))"]).await;
    disks.files.set_free_space(None);
    done(&node, &[LARGE]).await;
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, 32);
    node.shutdown().await;
}

/// While nothing moves, requests wait for room among those that wait: not for ever, and not longer than
/// they want to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_room_in_the_backlog_is_refused_in_time() {
    for (timeout, expected) in
        [(None, Error::EnqueueTimeout), (Some(Duration::from_millis(20)), Error::DeadlineExceeded)]
    {
        let (_directory, world, node) = on_small_disk_with(|options| {
            options.limits.backlog_bytes_max = 1;
            options.limits.enqueue_timeout = Duration::from_millis(200);
        })
        .await;
        // More than the segments that exist can take.
        world.fill_log(true);
        let writes = (0..16).map(|key| node.execute(Write { timeout, ..large(key) }));
        let freed = async {
            tokio::time::sleep(Duration::from_millis(600)).await;
            world.fill_log(false);
        };
        let (ends, ()) = tokio::join!(join_all(writes), freed);
        assert!(ends.iter().any(|end| end.as_ref() == Err(&expected)), "{ends:?}");
        let done = ends.iter().filter(|end| end.is_ok()).count();
        let refused = ends.into_iter().filter_map(Result::err);
        assert!(refused.into_iter().all(|error| error.outcome() == EffectKnown::NotDone));
        let found = number(&node, "SELECT count(*) FROM t").await;
        assert_eq!(usize::try_from(found).unwrap(), done);
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_batch_goes_beside_one_that_is_not_committed_yet() {
    let (_directory, world, node) = on_small_disk().await;
    let batches = || node.counters()["store"]["num_batches"];
    let before = batches();
    world.fill_log(true);
    let writes: Vec<JoinHandle<_>> = (0..600).map(|key| send(&node, key)).collect();
    // The log waits for space, so nothing is committed; what waits is enough to be proposed nevertheless.
    until("a second batch goes", || batches() >= before + 2).await;
    world.fill_log(false);
    let mut done = 0;
    for write in writes {
        match write.await.unwrap() {
            Ok(_) => done += 1,
            Err(error) => assert_eq!(error.outcome(), EffectKnown::NotDone, "{error}"),
        }
    }
    assert!(done > 256, "{done} writes were done");
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, done);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_fails_stops_and_says_so() {
    let (_directory, world, node) = on_small_disk().await;
    // Preparing the next segment may meet the fault instead, which ends nothing.
    let mut failed = None;
    for key in 1..100 {
        world.arm(0, Event::Fail);
        failed = node.execute(large(key)).await.err();
        if failed.is_some() {
            break;
        }
    }
    let error = failed.expect("an append meets the fault");
    assert_eq!(error.outcome(), EffectKnown::Unknown, "{error}");
    let reason = tokio::time::timeout(PATIENCE, node.stopped()).await.expect("it stops");
    assert!(!reason.is_empty());
    assert!(!node.is_ready());
    let impairments = node.status().impairments;
    assert!(matches!(impairments[..], [Impairment::Stopped { .. }]), "{impairments:?}");
    let error = node.execute(large(1000)).await.unwrap_err();
    assert!(matches!(error, Error::Stopped(_)), "{error}");
    let read = values(&node, "SELECT count(*) FROM t", Level::None).await;
    assert!(read.is_ok(), "what was there can still be read");
    tokio::time::timeout(PATIENCE, node.shutdown()).await.expect("it closes");
}
