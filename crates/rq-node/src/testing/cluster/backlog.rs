//! A majority that answers and stores nothing: clients feel it as latency first, then they are refused, with advice, and
//! nothing is lost of what was accepted.

use std::time::{Duration, Instant};

use super::{
    super::{PATIENCE, waiting::padded, write},
    Cluster, Formation, Level, Options, address, count, join, wait_ready,
};
use crate::{EffectKnown, Error, Written};

/// What may wait for the majority.
const ROOM: u64 = 16 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_that_lags_is_felt_as_latency_and_then_as_refusals() {
    const PATIENT: Duration = Duration::from_millis(200);
    let mut cluster = Cluster::new();
    let environment = cluster.environment("a");
    let small = |options: &mut Options| {
        options.limits.backlog_bytes_max = ROOM;
        options.limits.enqueue_timeout = PATIENT;
    };
    cluster.start_with("a", &Formation::Alone, environment, small).await;
    for name in ["b", "c"] {
        cluster.start(name, &join(&["a"])).await;
    }
    for member in &cluster.members {
        wait_ready(&member.node).await;
    }
    let leader = cluster.members[0].node.clone();
    leader.execute(write(&["CREATE TABLE t (x, y)"])).await.unwrap();
    let hold = |held| ["b", "c"].map(|name| cluster.board.hold_entries(&address(name), held));
    let send = |key| {
        let node = leader.clone();
        tokio::spawn(async move { node.execute(padded(key)).await })
    };

    // What has room waits, longer than others would for room, and is done.
    hold(true);
    let waiting = send(0);
    tokio::time::sleep(PATIENT * 3).await;
    assert!(!waiting.is_finished(), "there is room for it");
    hold(false);
    waiting.await.unwrap().unwrap();

    hold(true);
    let sent: Vec<_> = (1..=60).map(send).collect();
    let over = |one: &tokio::task::JoinHandle<Result<Written, Error>>| one.is_finished();
    let began = Instant::now();
    while sent.iter().filter(|one| over(one)).count() < 44 {
        assert!(began.elapsed() < PATIENCE, "the others are refused");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(leader.is_leader(), "the others are there");
    assert_eq!(count(&leader, Level::Weak).await, Ok(1), "reads go on");
    hold(false);
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
    for member in &cluster.members {
        assert_eq!(count(&member.node, Level::Linearizable).await, Ok(1 + accepted));
    }
    leader.execute(padded(99)).await.unwrap();
    cluster.close().await;
}
