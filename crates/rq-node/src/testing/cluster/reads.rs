//! Requests that look for their leader, and reads as fresh as they were asked for, on nodes that do not lead.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use rq_sql::{Column, End, ResultSink, SinkError, Statement, Value, ValueRef};

use super::{
    super::{PATIENCE, behaviour::until, reading, wait_ready, waiting::Busy, write},
    Cluster, Member, address, count, insert, join, route,
};
use crate::{
    Error, Formation, Level, Node, Read, Route, Served, raft::wire::Header, read::Collected,
    transfer::announcement,
};

const COUNT: &str = "SELECT count(*) FROM t";

/// Three nodes with a table of one row that all have.
async fn with_a_row() -> Cluster {
    let cluster = Cluster::of_three().await;
    fill(&cluster).await;
    cluster
}

async fn fill(cluster: &Cluster) {
    let leader = cluster.leader().await;
    leader.node.execute(write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"])).await.unwrap();
    let index = insert(&leader.node, 1).await.unwrap().index;
    for member in &cluster.members {
        until("it is applied", || member.node.inner().progress.applied().index >= index).await;
    }
}

/// One that does not lead.
fn follower(cluster: &Cluster) -> &Member {
    cluster.members.iter().find(|member| !member.node.is_leader()).unwrap()
}

async fn ask(node: &Node, read: Read, route: &Route) -> Result<(Vec<Value>, Served), Error> {
    let (found, served) = node.query_routed(read, Collected::default(), route).await?;
    assert_eq!(found.error, None);
    Ok((found.values, served))
}

async fn request(node: &Node, read: Read) -> Result<(Vec<Value>, Served), Error> {
    let (found, served) = node.request_routed(read, Collected::default(), &route()).await?;
    assert_eq!(found.error, None);
    Ok((found.values, served))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_wait_for_a_leader_that_is_gone_are_answered_by_the_next() {
    let cluster = with_a_row().await;
    let gone = cluster.leader().await;
    let asking = follower(&cluster);
    cluster.board.isolate(&address(&gone.name), &cluster.addresses(), true);
    let patient = Route { timeout: Duration::from_secs(60), ..route() };
    let linearizable = ask(&asking.node, reading(COUNT, Level::Linearizable), &patient);
    let weak = ask(&asking.node, reading(COUNT, Level::Weak), &patient);
    let answers =
        tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(linearizable, weak) });
    let (linearizable, weak) = answers.await.expect("nobody waits for one that is gone");
    assert_eq!(linearizable.unwrap().0, [Value::Integer(1)]);
    assert_eq!(weak.unwrap().0, [Value::Integer(1)]);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_just_opened_knows_its_members_and_waits_for_its_leader() {
    let mut cluster = with_a_row().await;
    let restarted = follower(&cluster).name.clone();
    let place = cluster.members.iter().position(|member| member.name == restarted).unwrap();
    for _ in 0..20 {
        let Member { node, directory, name } = cluster.members.remove(place);
        node.shutdown().await;
        drop(node);
        let options = Cluster::node_options(&directory, &name);
        let node = Node::open(options, cluster.environment(&name)).await.unwrap();
        assert!(!node.inner().consensus.is_alone(), "before anybody can ask");
        let weak = ask(&node, reading(COUNT, Level::Weak), &route()).await;
        assert_eq!(weak.expect("it waits for its leader").0, [Value::Integer(1)]);
        cluster.members.insert(place, Member { node, directory, name });
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_waits_for_the_leader_no_longer_than_it_wants_to() {
    let cluster = with_a_row().await;
    let asking = follower(&cluster);
    let leader = cluster.leader().await;
    // It hears of the leader, which it cannot ask.
    let to_leader = [(address(&asking.name), address(&leader.name))];
    cluster.board.cut_lines(&to_leader);
    let soon = Duration::from_millis(300);
    let own = Read { linearizable_timeout: soon, ..reading(COUNT, Level::Linearizable) };
    let hasty = Route { timeout: soon, ..route() };
    for (read, route) in [
        (own.clone(), route()),
        (reading(COUNT, Level::Linearizable), hasty.clone()),
        (Read { timeout: Some(soon), ..reading(COUNT, Level::Linearizable) }, route()),
    ] {
        let answer = ask(&asking.node, read, &route);
        let answer = tokio::time::timeout(Duration::from_secs(4), answer).await;
        assert_eq!(answer.expect("it ends").err(), Some(Error::DeadlineExceeded));
    }
    let answer = asking.node.request_routed(own.clone(), Collected::default(), &hasty);
    let answer = tokio::time::timeout(Duration::from_secs(4), answer).await.expect("it ends");
    assert_eq!(answer.map(|(_, served)| served).err(), Some(Error::DeadlineExceeded));
    // Nor for one that it does not know of: an election would take longer.
    cluster.board.isolate(&address(&asking.name), &cluster.addresses(), true);
    until("the leader counts as gone", || asking.node.leader().is_none()).await;
    let patient = route();
    let answer = tokio::time::timeout(Duration::from_secs(2), ask(&asking.node, own, &patient));
    assert_eq!(answer.await.expect("it ends").err(), Some(Error::LeaderNotFound));
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_did_not_reach_a_dead_leader_is_taken_by_the_next() {
    let cluster = with_a_row().await;
    let dead = cluster.leader().await;
    let asking = follower(&cluster);
    cluster.board.bury(&address(&dead.name), Duration::from_secs(4));
    cluster.board.isolate(&address(&dead.name), &cluster.addresses(), true);
    let patient = Route { timeout: Duration::from_secs(60), ..route() };
    let statement = write(&["INSERT INTO t VALUES (2)"]);
    let written = asking.node.execute_routed(statement, &patient).await.unwrap();
    let mixed = Read {
        statements: vec![Statement::new("INSERT INTO t VALUES (3)"), Statement::new(COUNT)],
        ..Read::default()
    };
    assert_eq!(request(&asking.node, mixed).await.unwrap().0, [Value::Integer(3)]);
    assert!(written.index > 0);
    cluster.close().await;
}

/// Stands still at its first row until the other end is dropped.
struct Standstill(mpsc::Receiver<()>, mpsc::Sender<()>);

impl ResultSink for Standstill {
    fn columns(&mut self, _: &[Column]) {}

    fn row(&mut self, _: &[ValueRef<'_>]) -> Result<(), SinkError> {
        self.1.send(()).expect("the test waits for it");
        // An error is the release: nothing is ever sent.
        let _ = self.0.recv();
        Ok(())
    }

    fn end(&mut self, _: End, _: Duration) {}

    fn reset(&mut self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_is_passed_on_if_leadership_is_lost_before_it_is_proposed() {
    let mut cluster = Cluster::new();
    let environment = cluster.environment("a");
    let one = |options: &mut crate::Options| options.readers_max = Some(1);
    cluster.start_with("a", &Formation::Alone, environment, one).await;
    cluster.start("b", &join(&["a"])).await;
    cluster.start("c", &join(&["a"])).await;
    for member in &cluster.members {
        wait_ready(&member.node).await;
    }
    fill(&cluster).await;
    let leader = cluster.members[0].node.clone();
    assert!(leader.is_leader());
    // The only connection is taken, so that a request waits between the look for its leader and its proposal.
    let (release, released) = mpsc::channel();
    let (reach, reached) = mpsc::channel();
    let holding = {
        let node = leader.clone();
        let sink = Standstill(released, reach);
        tokio::spawn(async move { node.query(reading(COUNT, Level::None), sink).await.map(drop) })
    };
    tokio::task::spawn_blocking(move || reached.recv()).await.unwrap().unwrap();
    let mixed = {
        let node = leader.clone();
        let statements = vec![Statement::new("INSERT INTO t VALUES (2)"), Statement::new(COUNT)];
        let read = Read { statements, ..Read::default() };
        tokio::spawn(async move { request(&node, read).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!mixed.is_finished(), "it waits for the connection");
    leader.step_down(Some("b"), &route()).await.unwrap();
    drop(release);
    let (values, served) = mixed.await.unwrap().unwrap();
    assert_eq!(values, [Value::Integer(2)]);
    assert!(served.served_by.is_some(), "another did it");
    holding.await.unwrap().unwrap();
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freshness_is_measured_by_contact_and_strictly_by_what_is_missing() {
    let cluster = with_a_row().await;
    let lagging = follower(&cluster);
    let leader = cluster.leader().await;
    let bound = Duration::from_secs(1);
    let fresh = Read { freshness: Some(bound), ..reading(COUNT, Level::None) };
    let strict = Read { freshness_strict: true, ..fresh.clone() };
    let one = [Value::Integer(1)];
    // Longer than the bound without a write: nothing is missing, so nothing is old.
    tokio::time::sleep(bound * 2).await;
    for read in [&fresh, &strict] {
        assert_eq!(ask(&lagging.node, read.clone(), &route()).await.unwrap().0, one);
    }
    let busy = Busy::keep(&lagging.node);
    let index = insert(&leader.node, 2).await.unwrap().index;
    let heard = || lagging.node.inner().consensus.view().cluster_committed >= Some(index);
    until("it hears of the write", heard).await;
    let began = Instant::now();
    loop {
        // The contact is as good as ever; the data is not.
        assert_eq!(ask(&lagging.node, fresh.clone(), &route()).await.unwrap().0, one);
        match ask(&lagging.node, strict.clone(), &route()).await {
            Err(error) => break assert_eq!(error, Error::StaleRead),
            Ok((values, _)) => assert_eq!(values, one),
        }
        assert!(began.elapsed() < PATIENCE, "data known to be old is not fresh");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(busy);
    until("it catches up", || lagging.node.inner().progress.applied().index >= index).await;
    let two = [Value::Integer(2)];
    for read in [&fresh, &strict] {
        assert_eq!(ask(&lagging.node, read.clone(), &route()).await.unwrap().0, two);
    }
    cluster.board.isolate(&address(&lagging.name), &cluster.addresses(), true);
    tokio::time::sleep(bound * 2).await;
    for read in [&fresh, &strict] {
        let answer = ask(&lagging.node, read.clone(), &route()).await;
        assert_eq!(answer.err(), Some(Error::StaleRead), "without contact");
    }
    assert_eq!(ask(&lagging.node, reading(COUNT, Level::None), &route()).await.unwrap().0, two);
    // All-read requests at `auto` are answered anywhere, without a look at the leader.
    let hasty = Some(Duration::from_nanos(1));
    let auto = Read { freshness: hasty, ..reading(COUNT, Level::Auto) };
    let (values, served) = request(&lagging.node, auto).await.unwrap();
    assert_eq!((values.as_slice(), served.level), (two.as_slice(), Level::None));
    let none = Read { freshness: hasty, ..reading(COUNT, Level::None) };
    assert_eq!(request(&lagging.node, none).await.err(), Some(Error::StaleRead));
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_answers_auto_itself_and_as_fresh_as_asked() {
    let mut cluster = Cluster::of_three().await;
    let environment = cluster.environment("r");
    let replica = |options: &mut crate::Options| options.replica = true;
    cluster.start_with("r", &join(&["a"]), environment, replica).await;
    let replica = cluster.members[3].node.clone();
    wait_ready(&replica).await;
    fill(&cluster).await;
    let auto = reading(COUNT, Level::Auto);
    let (values, served) = ask(&replica, auto.clone(), &route()).await.unwrap();
    assert_eq!((values, served.level), (vec![Value::Integer(1)], Level::None));
    assert_eq!(served.served_by, None, "nobody else was asked");
    let voter = &follower(&cluster).node;
    let (_, served) = ask(voter, auto.clone(), &route()).await.unwrap();
    assert_eq!(served.level, Level::Weak);
    assert!(served.served_by.is_some(), "a voter asks the leader");
    let bound = Duration::from_secs(1);
    let fresh = Read { freshness: Some(bound), ..auto.clone() };
    assert!(ask(&replica, fresh.clone(), &route()).await.is_ok());
    cluster.board.isolate(&address("r"), &cluster.addresses(), true);
    tokio::time::sleep(bound * 2).await;
    assert_eq!(ask(&replica, fresh, &route()).await.err(), Some(Error::StaleRead));
    assert!(ask(&replica, auto, &route()).await.is_ok());
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_an_index_sees_it_wherever_it_asks() {
    let cluster = with_a_row().await;
    let leader = cluster.leader().await;
    let lagging = follower(&cluster);
    let busy = Busy::keep(&lagging.node);
    let index = insert(&leader.node, 2).await.unwrap().index;
    let at = |min_index, wait| Read {
        min_index: Some(min_index),
        linearizable_timeout: wait,
        ..reading(COUNT, Level::None)
    };
    let short = Duration::from_millis(100);
    let early = ask(&lagging.node, at(index, short), &route()).await;
    assert_eq!(early.err(), Some(Error::WaitTimeout { index }));
    let waiting = {
        let (node, read) = (lagging.node.clone(), at(index, PATIENCE));
        tokio::spawn(async move { ask(&node, read, &route()).await })
    };
    tokio::time::sleep(short).await;
    assert!(!waiting.is_finished());
    drop(busy);
    assert_eq!(waiting.await.unwrap().unwrap().0, [Value::Integer(2)]);
    // With a write among them it goes through the leader, which has to have applied it before.
    let mixed = |min_index| Read {
        statements: vec![Statement::new("INSERT INTO t VALUES (3)"), Statement::new(COUNT)],
        ..at(min_index, short)
    };
    let later = index + 1000;
    let refused = request(&lagging.node, mixed(later)).await;
    assert_eq!(refused.err(), Some(Error::WaitTimeout { index: later }));
    assert_eq!(count(&leader.node, Level::Strong).await, Ok(2), "it was not done");
    assert_eq!(request(&lagging.node, mixed(index)).await.unwrap().0, [Value::Integer(3)]);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_needs_a_database_is_not_ready_until_it_has_what_is_in_it() {
    let cluster = with_a_row().await;
    let leader = cluster.leader().await;
    let waiting = follower(&cluster);
    assert!(waiting.node.is_ready());
    let (from, to) = (leader.node.inner(), waiting.node.inner());
    let cluster_id = to.cluster.id().unwrap();
    let header = Header {
        cluster: cluster_id,
        to: to.raft_id,
        from: from.raft_id,
        leads: true,
        acknowledged: None,
    };
    let header = header.encode();
    let needed = to.progress.applied().index + 3;
    drop(to.receiver.answer(announcement(header, needed)).await);
    assert!(!waiting.node.is_ready(), "it waits for its turn");
    for n in 2..5 {
        insert(&leader.node, n).await.unwrap();
    }
    wait_ready(&waiting.node).await;
    assert!(to.progress.applied().index >= needed);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_passes_linearizable_reads_on() {
    let cluster = with_a_row().await;
    let leader = cluster.leader().await;
    let removed = follower(&cluster);
    leader.node.remove(&removed.name, &route()).await.unwrap();
    insert(&leader.node, 2).await.unwrap();
    let began = Instant::now();
    loop {
        // It may take a moment until the removed node knows of no leader at all; what it answers is right.
        match ask(&removed.node, reading(COUNT, Level::Linearizable), &route()).await {
            Ok((values, _)) => assert_eq!(values, [Value::Integer(2)]),
            Err(error) => break assert_eq!(error, Error::LeaderNotFound),
        }
        assert!(began.elapsed() < PATIENCE, "nobody tells it who leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.close().await;
}
