//! Disks that fill: one by one leadership goes to who has room, together it stays, and reads go on.

use std::{sync::Arc, time::Duration};

use crate::{Environment, Error, Formation, Impairment, Level, Node, Options};

use super::{
    super::{
        PATIENCE, wait_ready,
        world::{Disks, World},
        write,
    },
    Cluster, address, count, insert, join, route,
};

/// Three nodes, each on disks of its own that can be filled.
struct Tight {
    cluster: Cluster,
    disks: Vec<Disks>,
}

impl Tight {
    /// The first leads, and there is a table with a row.
    async fn new() -> Self {
        let mut tight = Self { cluster: Cluster::new(), disks: Vec::new() };
        for (seed, name) in (1..).zip(["a", "b", "c"]) {
            let disks = Disks::new();
            let environment = Environment {
                execution: rq_storage::Execution::Threads,
                network: tight.cluster.board.line(&address(name)),
                ..disks.environment(seed)
            };
            let formation = if name == "a" { Formation::Alone } else { join(&["a"]) };
            tight.cluster.start_on(name, &formation, environment).await;
            tight.disks.push(disks);
        }
        for member in &tight.cluster.members {
            wait_ready(&member.node).await;
        }
        let first = tight.node(0);
        first
            .execute_routed(write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"]), &route())
            .await
            .unwrap();
        insert(&first, 1).await.unwrap();
        tight
    }

    fn node(&self, number: usize) -> Node {
        self.cluster.members[number].node.clone()
    }

    fn world(&self, number: usize) -> &Arc<World> {
        &self.disks[number].world
    }

    /// Leaves the disk of a node with no room, or with as much as there is.
    fn fill(&self, number: usize, full: bool) {
        self.disks[number].files.set_free_space(full.then_some(0));
    }

    /// Stops a node; the others keep their numbers.
    async fn stop(&mut self, number: usize) -> usize {
        self.node(number).shutdown().await;
        number
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect(what);
}

/// Reads at a level; there may be an election.
async fn reads(node: &Node, level: Level) {
    let began = std::time::Instant::now();
    loop {
        match count(node, level).await {
            Ok(found) => return assert_eq!(found, 1, "{level:?}"),
            Err(error) => assert!(began.elapsed() < PATIENCE, "{level:?}: {error}"),
        }
    }
}

async fn refuses(node: &Node) {
    let began = std::time::Instant::now();
    loop {
        match insert(node, 2).await {
            Err(Error::DiskFull { .. }) => return,
            other => assert!(began.elapsed() < PATIENCE, "{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_fill_together_leave_a_leader_and_reads() {
    let mut tight = Tight::new().await;
    (0..3).for_each(|number| tight.fill(number, true));
    for number in 0..3 {
        until("it is told", || !tight.node(number).status().impairments.is_empty()).await;
    }
    // Not before: one that has not looked yet, and was handed leadership, would take the write.
    for number in 0..3 {
        refuses(&tight.node(number)).await;
    }
    // The first to be full may have handed over to one that was about to be.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let term = tight.node(0).status().raft.term;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(tight.node(0).status().raft.term, term, "among equals leadership stays");
    let leader = (0..3).find(|number| tight.node(*number).is_leader()).expect("there is one");
    tight.stop(leader).await;
    let left: Vec<Node> =
        (0..3).filter(|number| *number != leader).map(|number| tight.node(number)).collect();
    until("another leads", || left.iter().any(Node::is_leader)).await;
    for node in &left {
        reads(node, Level::Weak).await;
        reads(node, Level::Linearizable).await;
        refuses(node).await;
    }
    (0..3).for_each(|number| tight.fill(number, false));
    let began = std::time::Instant::now();
    while let Err(error) = insert(&left[0], 2).await {
        assert!(began.elapsed() < PATIENCE, "writes resume: {error}");
    }
    tight.cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_to_the_member_that_has_room_and_stays_there() {
    let tight = Tight::new().await;
    // The second first, so that it has said so when the leader asks.
    tight.fill(1, true);
    let second = tight.node(1);
    until("it has looked", || second.inner().progress.disk() != Default::default()).await;
    tight.fill(0, true);
    until("the third leads", || tight.node(2).is_leader()).await;
    let term = tight.node(2).status().raft.term;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(tight.node(2).is_leader() && tight.node(2).status().raft.term == term);
    insert(&second, 2).await.unwrap();
    tight.cluster.close().await;
}

/// Somebody else who waits, for whatever reason, does not keep the disk from being watched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_while_a_change_of_the_membership_waits() {
    let mut cluster = Cluster::new();
    let disks = Disks::new();
    let environment = Environment {
        execution: rq_storage::Execution::Threads,
        network: cluster.board.line(&address("a")),
        ..disks.environment(1)
    };
    let reaping = |options: &mut Options| options.reap.replicas_after = Duration::from_millis(600);
    cluster.start_with("a", &Formation::Alone, environment, reaping).await;
    cluster.start("b", &join(&["a"])).await;
    cluster.start("c", &join(&["a"])).await;
    let environment = cluster.environment("r");
    cluster.start_with("r", &join(&["a"]), environment, |options| options.replica = true).await;
    for member in &cluster.members {
        wait_ready(&member.node).await;
    }
    let leader = cluster.members[0].node.clone();
    let inner = leader.inner();
    let change = inner.joins.lock().await;
    cluster.board.isolate(&address("r"), &cluster.addresses(), true);
    // It is to be removed, which waits for the change.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    disks.files.set_free_space(Some(0));
    until("another leads", || cluster.members[1..3].iter().any(|member| member.node.is_leader()))
        .await;
    drop(change);
    cluster.close().await;
}

/// A database that takes nothing keeps a node from standing, but not for ever: somebody must lead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_leads_although_no_disk_takes_anything() {
    let mut tight = Tight::new().await;
    (0..3).for_each(|number| tight.world(number).fill_database(true));
    let leader = (0..3).find(|number| tight.node(*number).is_leader()).expect("there is one");
    let waiting = {
        let node = tight.node(leader);
        tokio::spawn(async move { insert(&node, 2).await })
    };
    for number in 0..3 {
        let node = tight.node(number);
        until("applying stalls", || node.inner().progress.takes_nothing()).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    tight.stop(leader).await;
    let left: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    until("another leads", || left.iter().any(|number| tight.node(*number).is_leader())).await;
    (0..3).for_each(|number| tight.world(number).fill_database(false));
    drop(waiting.await.unwrap());
    let node = tight.node(left[0]);
    let began = std::time::Instant::now();
    while let Err(error) = insert(&node, 3).await {
        assert!(began.elapsed() < PATIENCE, "writes resume: {error}");
    }
    assert_eq!(count(&node, Level::Linearizable).await, Ok(3));
    tight.cluster.close().await;
}

/// However many entries it has to apply: openraft itself waits with so many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_database_is_full_stores_and_votes_on() {
    const ENTRIES: i64 = 1_500;
    let mut tight = Tight::new().await;
    let leader = (0..3).find(|number| tight.node(*number).is_leader()).expect("there is one");
    let (full, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let (leading, filled) = (tight.node(leader), tight.node(full));
    let applied = filled.inner().progress.applied();
    tight.world(full).fill_database(true);
    for n in 2..ENTRIES {
        insert(&leading, n).await.unwrap();
    }
    until("applying stalls", || filled.inner().progress.takes_nothing()).await;
    assert!(filled.inner().progress.applied().index <= applied.index + 1);
    // Nobody else makes a majority with the leader now.
    tight.stop(other).await;
    insert(&leading, ENTRIES).await.unwrap();
    let stored = || filled.inner().metadata().last_log == leading.inner().metadata().last_log;
    until("everything is stored", stored).await;
    tight.world(full).fill_database(false);
    assert_eq!(count(&filled, Level::Linearizable).await, Ok(ENTRIES));
    insert(&filled, ENTRIES + 1).await.unwrap();
    assert_eq!(count(&filled, Level::Linearizable).await, Ok(ENTRIES + 1));
    let image = |node: &Node| {
        let durability = &node.inner().machinery.durability;
        durability.with_checkpointer(|checkpointer| checkpointer.image()).unwrap().unwrap()
    };
    until("both are as far", || {
        filled.inner().progress.applied() == leading.inner().progress.applied()
    })
    .await;
    assert_eq!(image(&filled).differing_pages(&image(&leading)), Vec::<usize>::new());
    drop((filled, leading));
    tight.cluster.close().await;
}

/// The same of one that led when its database was full, with writes under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_leader_whose_database_is_full_stores_and_votes_on() {
    const ENTRIES: i64 = 1_500;
    let mut tight = Tight::new().await;
    let full = (0..3).find(|number| tight.node(*number).is_leader()).expect("there is one");
    let filled = tight.node(full);
    tight.world(full).fill_database(true);
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let node = filled.clone();
            tokio::spawn(async move { insert(&node, -1 - n).await })
        })
        .collect();
    let others: Vec<usize> = (0..3).filter(|number| *number != full).collect();
    until("another leads", || others.iter().any(|number| tight.node(*number).is_leader())).await;
    let leader = others.iter().copied().find(|number| tight.node(*number).is_leader());
    let leader = leader.expect("one of the two leads");
    let leading = tight.node(leader);
    for n in 2..ENTRIES {
        insert(&leading, n).await.unwrap();
    }
    tight.stop(others.into_iter().find(|number| *number != leader).expect("there are two")).await;
    insert(&leading, ENTRIES).await.unwrap();
    tight.world(full).fill_database(false);
    for end in waiting {
        // Whatever it is, there is one.
        drop(tokio::time::timeout(PATIENCE, end).await.expect("it ends").unwrap());
    }
    let expected = count(&leading, Level::Linearizable).await.unwrap();
    assert!(expected >= ENTRIES);
    assert_eq!(count(&filled, Level::Linearizable).await, Ok(expected));
    drop((filled, leading));
    tight.cluster.close().await;
}

/// The database that was sent waits until it can take its place; Raft does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_apply_votes_on_while_a_database_waits_to_be_installed() {
    let mut tight = Tight::new().await;
    let (leader, stalled) = (tight.node(0), tight.node(2));
    assert!(leader.is_leader());
    tight.world(2).fill_database(true);
    insert(&leader, 2).await.unwrap();
    let stands_still = |one: &Impairment| matches!(one, Impairment::ApplyStalled { .. });
    until("it stands still", || stalled.status().impairments.iter().any(stands_still)).await;
    let addresses = tight.cluster.addresses();
    tight.cluster.board.isolate(&address("c"), &addresses, true);
    for n in 3..100 {
        insert(&leader, n).await.unwrap();
    }
    for node in [&leader, &tight.node(1)] {
        assert!(node.snapshot(Some(0)).await.unwrap());
        until("the log forgets", || node.status().raft.first_log_index > 50).await;
    }
    tight.cluster.board.isolate(&address("c"), &addresses, false);
    let is_received = || stalled.inner().receiver.status().is_some_and(|one| one.installing);
    until("the database is sent", is_received).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(stalled.leader().is_some(), "it hears its leader");
    tight.stop(0).await;
    until("another leads", || tight.node(1).is_leader()).await;
    tight.world(2).fill_database(false);
    until("it goes on", || stalled.is_ready()).await;
    assert_eq!(count(&stalled, Level::Linearizable).await, Ok(99));
    drop((leader, stalled));
    tight.cluster.close().await;
}
