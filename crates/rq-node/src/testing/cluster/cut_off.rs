//! Writes that wait on a leader that is cut off from all others.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use rq_sql::Value;

use super::{
    super::{PATIENCE, wait_ready, with_parameters, write},
    Cluster, address, insert,
};
use crate::{Error, Level, Node, Read, Write, read::Collected};

fn row(n: i64) -> Write {
    let statements = vec![with_parameters("INSERT INTO t (n) VALUES (?)", vec![Value::Integer(n)])];
    Write { statements, transaction: false, timeout: None }
}

async fn rows(node: &Node) -> BTreeSet<i64> {
    let statements = vec![rq_sql::Statement::new("SELECT n FROM t")];
    let read = Read { statements, level: Level::None, ..Read::default() };
    let (found, _) = node.query(read, Collected::default()).await.unwrap();
    let number = |value| if let Value::Integer(n) = value { n } else { panic!("{value:?}") };
    found.values.into_iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_ends_and_only_what_was_under_way_may_be_done_later() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await.node.clone();
    leader.execute(write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"])).await.unwrap();
    insert(&leader, 0).await.unwrap();
    // Nobody reaches anybody, so nobody else is elected, and the entry under way is committed in the end.
    for member in &cluster.members {
        cluster.board.isolate(&address(&member.name), &cluster.addresses(), true);
    }
    let send = |n| {
        let leader = leader.clone();
        tokio::spawn(async move { leader.execute(row(n)).await })
    };
    let first = send(1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let hasty = Write { timeout: Some(Duration::from_millis(20)), ..row(2) };
    let end = leader.execute(hasty).await.err();
    // The latter if this machine is so slow that the lease is over.
    assert!(matches!(end, Some(Error::DeadlineExceeded | Error::LeaderNotFound)), "{end:?}");
    let gone = send(3);
    tokio::time::sleep(Duration::from_millis(20)).await;
    gone.abort();
    let behind: Vec<_> = (4..20).map(send).collect();
    let ends = tokio::time::timeout(PATIENCE, async { (first.await, join_all(behind).await) });
    let (first, behind) = ends.await.expect("everybody is told");
    assert!(matches!(first.unwrap(), Err(Error::OutcomeUnknown(_))), "it was proposed");
    for end in behind {
        assert_eq!(end.unwrap().err(), Some(Error::LeaderNotFound), "it was not");
    }
    for member in &cluster.members {
        cluster.board.isolate(&address(&member.name), &cluster.addresses(), false);
    }
    for member in &cluster.members {
        wait_ready(&member.node).await;
    }
    let again = cluster.leader().await.node.clone();
    while again.execute(row(100)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut found = rows(&again).await;
    // Nobody knows of this one.
    found.remove(&1);
    assert_eq!(found, BTreeSet::from([0, 100]));
    cluster.close().await;
}
