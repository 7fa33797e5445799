//! Several nodes in one process, with threads and real time: forming, forwarding, following, changing.

mod answering;
mod backlog;
mod copies;
mod cut_off;
mod disks;
mod engine;
mod forming;
mod membership;
mod reads;
mod recovery;

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;

use super::{
    PATIENCE, options, simulated,
    switchboard::Switchboard,
    wait_ready,
    world::{Disks, World},
    write,
};
use crate::{Environment, Error, Formation, Level, Node, Options, Read, Route, Written};

/// A node and where its data lies.
struct Member {
    node: Node,
    directory: TempDir,
    name: String,
}

/// A cluster on one switchboard.
struct Cluster {
    board: Switchboard,
    members: Vec<Member>,
}

/// Shows what the nodes say, if asked to by `RQ_LOG=1`.
fn tell() {
    if std::env::var_os("RQ_LOG").is_some() {
        // Another test may have been first.
        drop(tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).try_init());
    }
}

fn address(name: &str) -> String {
    format!("{name}:4002")
}

fn route() -> Route {
    Route { credentials: None, forward: true, timeout: Duration::from_secs(5), retries: 0 }
}

fn join(addresses: &[&str]) -> Formation {
    Formation::Join {
        addresses: addresses.iter().map(|name| address(name)).collect(),
        attempts: 20,
        interval: Duration::from_millis(100),
        credentials: None,
    }
}

impl Cluster {
    fn new() -> Self {
        tell();
        Self { board: Switchboard::default(), members: Vec::new() }
    }

    fn node_options(directory: &TempDir, name: &str) -> Options {
        Options {
            node_id: Some(name.to_owned()),
            raft_addr: address(name),
            api_url: format!("http://{name}:4001"),
            ..options(directory.path())
        }
    }

    fn environment(&self, name: &str) -> Environment {
        Environment { network: self.board.line(&address(name)), ..Environment::real() }
    }

    async fn start(&mut self, name: &str, formation: &Formation) {
        self.start_on(name, formation, self.environment(name)).await;
    }

    async fn start_on(&mut self, name: &str, formation: &Formation, environment: Environment) {
        self.start_with(name, formation, environment, |_| {}).await;
    }

    async fn start_with(
        &mut self,
        name: &str,
        formation: &Formation,
        environment: Environment,
        change: impl FnOnce(&mut Options),
    ) {
        let directory = TempDir::new().unwrap();
        let mut options = Self::node_options(&directory, name);
        options.log.segment_bytes = 64 << 10;
        change(&mut options);
        let node = Node::open(options, environment).await.unwrap();
        node.form(formation).await.unwrap();
        self.members.push(Member { node, directory, name: name.to_owned() });
    }

    /// Opens a node with other options, which is then to be told how to come to a cluster.
    async fn open_with(&mut self, name: &str, adjust: impl FnOnce(&mut Options)) -> Node {
        let directory = TempDir::new().unwrap();
        let mut options = Self::node_options(&directory, name);
        adjust(&mut options);
        let node = Node::open(options, self.environment(name)).await.unwrap();
        self.members.push(Member { node: node.clone(), directory, name: name.to_owned() });
        node
    }

    async fn of_three() -> Self {
        let mut cluster = Self::new();
        cluster.start("a", &Formation::Alone).await;
        cluster.start("b", &join(&["a"])).await;
        cluster.start("c", &join(&["b"])).await;
        for member in &cluster.members {
            wait_ready(&member.node).await;
        }
        cluster
    }

    fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| address(&member.name)).collect()
    }

    async fn leader(&self) -> &Member {
        let led = async {
            loop {
                if let Some(leader) = self.members.iter().find(|member| member.node.is_leader()) {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, led).await.expect("somebody leads")
    }

    async fn close(self) {
        for member in self.members {
            member.node.shutdown().await;
        }
    }
}

/// Opens a node in simulated time, with other options.
async fn simulated_node(
    board: &Switchboard,
    directory: &TempDir,
    name: &str,
    adjust: impl FnOnce(&mut Options),
) -> Node {
    let mut options = Cluster::node_options(directory, name);
    adjust(&mut options);
    let seed = name.bytes().map(u64::from).sum();
    let environment = Environment { network: board.line(&address(name)), ..simulated(seed) };
    Node::open(options, environment).await.unwrap()
}

async fn count(node: &Node, level: Level) -> Result<i64, Error> {
    let read = Read {
        statements: vec![rq_sql::Statement::new("SELECT count(*) FROM t")],
        level,
        linearizable_timeout: Duration::from_secs(10),
        ..Read::default()
    };
    let (collected, _) =
        node.query_routed(read, crate::read::Collected::default(), &route()).await?;
    assert_eq!(collected.error, None);
    match collected.values.as_slice() {
        [rq_sql::Value::Integer(count)] => Ok(*count),
        other => panic!("{other:?}"),
    }
}

async fn insert(node: &Node, n: i64) -> Result<Written, Error> {
    node.execute_routed(write(&[&format!("INSERT INTO t VALUES ({n})")]), &route()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_and_each_takes_writes_and_linearizable_reads() {
    let cluster = Cluster::of_three().await;
    let create = write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"]);
    cluster.members[2].node.execute_routed(create, &route()).await.unwrap();
    for n in 0..30 {
        let node = &cluster.members[n % 3].node;
        let written = insert(node, i64::try_from(n).unwrap()).await.unwrap();
        assert_eq!(written.served_by.is_some(), !node.is_leader());
        for reader in &cluster.members {
            let seen = count(&reader.node, Level::Linearizable).await.unwrap();
            assert_eq!(seen, i64::try_from(n + 1).unwrap());
        }
    }
    for level in [Level::Weak, Level::Strong, Level::Auto] {
        assert_eq!(count(&cluster.members[1].node, level).await.unwrap(), 30);
    }
    let members = cluster.members[1].node.status().members;
    assert_eq!(members.iter().filter(|member| member.voter).count(), 3);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced_and_follows_when_it_is_back() {
    let cluster = Cluster::of_three().await;
    let old = cluster.leader().await;
    old.node.execute(write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"])).await.unwrap();
    cluster.board.isolate(&address(&old.name), &cluster.addresses(), true);
    let others: Vec<&Member> =
        cluster.members.iter().filter(|member| member.name != old.name).collect();
    let began = std::time::Instant::now();
    let mut acknowledged = 0;
    while acknowledged < 10 {
        assert!(began.elapsed() < PATIENCE, "the others elect a leader");
        match insert(&others[0].node, acknowledged).await {
            Ok(_) => acknowledged += 1,
            Err(error) => tracing::info!("not acknowledged: {error}"),
        }
    }
    assert!(insert(&old.node, 1000).await.is_err(), "without a quorum nothing is acknowledged");
    cluster.board.isolate(&address(&old.name), &cluster.addresses(), false);
    while count(&old.node, Level::Linearizable).await != Ok(10) {
        assert!(began.elapsed() < PATIENCE, "the old leader follows");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_expect_each_other_found_one_cluster() {
    let board = Switchboard::default();
    let mut cluster = Cluster { board, members: Vec::new() };
    let names = ["x", "y", "z"];
    let formation = Formation::Together {
        addresses: names.iter().map(|name| address(name)).collect(),
        expect: 3,
        timeout: PATIENCE,
        credentials: None,
    };
    for name in names {
        let directory = TempDir::new().unwrap();
        let options = Cluster::node_options(&directory, name);
        let node = Node::open(options, cluster.environment(name)).await.unwrap();
        cluster.members.push(Member { node, directory, name: name.to_owned() });
    }
    let forming: Vec<_> = cluster
        .members
        .iter()
        .map(|member| {
            let (node, formation) = (member.node.clone(), formation.clone());
            tokio::spawn(async move { node.form(&formation).await })
        })
        .collect();
    for formed in forming {
        formed.await.unwrap().unwrap();
    }
    for member in &cluster.members {
        wait_ready(&member.node).await;
        assert_eq!(member.node.status().members.len(), 3);
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_and_members_are_removed() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let follower = cluster.members.iter().find(|member| !member.node.is_leader()).unwrap();
    follower.node.step_down(Some(&follower.name), &route()).await.unwrap();
    assert!(follower.node.is_leader());
    let refused = leader.node.step_down(Some("nobody"), &route()).await;
    assert_eq!(refused, Err(Error::Membership("node not found in cluster".to_owned())));
    leader.node.remove(&leader.name, &route()).await.unwrap();
    assert_eq!(follower.node.status().members.len(), 2);
    let term = follower.node.status().raft.term;
    let gone = async {
        while leader.node.leader().is_some() || leader.node.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("who was removed knows no leader");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(follower.node.status().raft.term, term, "and disturbs nobody");
    assert!(follower.node.is_ready());
    follower.node.remove("nobody", &route()).await.unwrap();
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_there_is_no_leader_and_data_can_be_read() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    leader.node.execute(write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"])).await.unwrap();
    insert(&leader.node, 1).await.unwrap();
    let last = cluster.members.iter().position(|member| !member.node.is_leader()).unwrap();
    let last = cluster.members.remove(last);
    while count(&last.node, Level::None).await != Ok(1) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for member in cluster.members.drain(..) {
        member.node.shutdown().await;
    }
    let lost = async {
        while last.node.leader().is_some() || last.node.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lost).await.expect("the leader counts as gone");
    assert_eq!(insert(&last.node, 2).await.err(), Some(Error::LeaderNotFound));
    assert_eq!(count(&last.node, Level::Linearizable).await.err(), Some(Error::LeaderNotFound));
    assert_eq!(count(&last.node, Level::None).await, Ok(1));
    last.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_replaces_its_former_self() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await.name.clone();
    let position = cluster.members.iter().position(|member| member.name != leader).unwrap();
    let lost = cluster.members.remove(position);
    lost.node.shutdown().await;
    drop(lost.directory);
    cluster.start(&lost.name, &join(&[&leader])).await;
    let back = &cluster.members.last().unwrap().node;
    wait_ready(back).await;
    let members = back.status().members;
    assert_eq!(members.len(), 3, "one member a name: {members:?}");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_node_keeps_its_name_and_a_single_node_its_data() {
    let mut cluster = Cluster::of_three().await;
    let impostor = TempDir::new().unwrap();
    let options =
        Options { raft_addr: "elsewhere:4002".to_owned(), ..Cluster::node_options(&impostor, "b") };
    let environment =
        Environment { network: cluster.board.line("elsewhere:4002"), ..Environment::real() };
    let node = Node::open(options, environment).await.unwrap();
    let Formation::Join { addresses, .. } = join(&["a"]) else { unreachable!() };
    let once = Formation::Join {
        addresses,
        attempts: 1,
        interval: Duration::from_millis(10),
        credentials: None,
    };
    assert!(node.form(&once).await.is_err());
    node.shutdown().await;

    cluster.start("alone", &Formation::Alone).await;
    let alone = &cluster.members.last().unwrap().node;
    wait_ready(alone).await;
    let refused = alone.form(&once).await.unwrap_err();
    assert!(refused.starts_with("node is the only node in a single-node cluster"), "{refused}");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_needs_what_the_log_no_longer_holds_receives_the_database() {
    let mut cluster = Cluster::new();
    cluster.start("a", &Formation::Alone).await;
    let leader = cluster.members[0].node.clone();
    wait_ready(&leader).await;
    leader.execute(write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"])).await.unwrap();
    for n in 0..200 {
        insert(&leader, n).await.unwrap();
    }
    assert!(leader.snapshot(Some(0)).await.unwrap());
    let purged = async {
        while leader.status().raft.first_log_index < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, purged).await.expect("the log forgets");
    cluster.start("b", &join(&["a"])).await;
    let newcomer = cluster.members[1].node.clone();
    wait_ready(&newcomer).await;
    assert_eq!(count(&newcomer, Level::None).await.unwrap(), 200);
    insert(&newcomer, 200).await.unwrap();
    assert_eq!(count(&newcomer, Level::Linearizable).await.unwrap(), 201);
    // What was received is durable, and stands after a restart.
    let directory = cluster.members.remove(1);
    directory.node.shutdown().await;
    let options = Cluster::node_options(&directory.directory, "b");
    let again = Node::open(options, cluster.environment("b")).await.unwrap();
    again.form(&join(&["a"])).await.unwrap();
    wait_ready(&again).await;
    assert_eq!(count(&again, Level::Linearizable).await.unwrap(), 201);
    again.shutdown().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_is_none_to_anybody() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    leader.node.execute(write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"])).await.unwrap();
    // Long enough for a lease that is not renewed to end.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(leader.node.is_ready() && leader.node.is_leader(), "without load it stays the leader");
    cluster.board.isolate(&address(&leader.name), &cluster.addresses(), true);
    let waiting =
        async { tokio::join!(insert(&leader.node, 1), count(&leader.node, Level::Strong)) };
    let told = tokio::time::timeout(PATIENCE, waiting).await;
    let (proposed, strong) = told.expect("who waits is told");
    let proposed = proposed.expect_err("there is no majority");
    assert_eq!(strong, Err(Error::LeaderNotFound), "it is told as soon as the lease is over");
    assert_eq!(proposed.outcome(), crate::EffectKnown::Unknown, "{proposed}");
    let lost = async {
        while leader.node.is_leader() || leader.node.leader().is_some() || leader.node.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lost).await.expect("its lease ends");
    assert_eq!(leader.node.status().role, crate::Role::Follower);
    assert!(leader.node.last_contact().is_some(), "it knows how long it has been without");
    let impatient = Route { timeout: Duration::from_millis(100), ..route() };
    let read = Read {
        statements: vec![rq_sql::Statement::new("SELECT count(*) FROM t")],
        level: Level::Weak,
        ..Read::default()
    };
    let weak = leader.node.query_routed(read, crate::read::Collected::default(), &impatient).await;
    assert_eq!(weak.err(), Some(Error::LeaderNotFound));
    assert_eq!(count(&leader.node, Level::None).await.unwrap(), 0, "its data can still be read");
    cluster.close().await;
}

/// Three nodes, the first on disks that can be filled.
async fn with_a_small_disk() -> (Cluster, Arc<World>) {
    let mut cluster = Cluster::new();
    let disks = Disks::new();
    let environment = Environment {
        execution: rq_storage::Execution::Threads,
        network: cluster.board.line(&address("a")),
        ..disks.environment(1)
    };
    cluster.start_on("a", &Formation::Alone, environment).await;
    cluster.start("b", &join(&["a"])).await;
    cluster.start("c", &join(&["a"])).await;
    for member in &cluster.members {
        wait_ready(&member.node).await;
    }
    (cluster, Arc::clone(&disks.world))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_hands_over_and_follows_again_when_it_is_freed() {
    let (cluster, world) = with_a_small_disk().await;
    let small = cluster.members[0].node.clone();
    assert!(small.is_leader());
    small.execute(write(&["CREATE TABLE t (n INTEGER PRIMARY KEY, x)"])).await.unwrap();
    world.fill_log(true);
    let began = std::time::Instant::now();
    let mut key = 0;
    let mut acknowledged = Vec::new();
    while small.is_leader() || acknowledged.len() < 20 {
        assert!(began.elapsed() < PATIENCE, "it hands over");
        let insert = format!("INSERT INTO t VALUES ({key}, hex(randomblob(8000)))");
        let node = &cluster.members[usize::try_from(key % 3).unwrap()].node;
        if node.execute_routed(write(&[&insert]), &route()).await.is_ok() {
            acknowledged.push(key);
        }
        key += 1;
    }
    assert_eq!(count(&small, Level::None).await.map(drop), Ok(()), "reads at none go on");
    world.fill_log(false);
    while count(&small, Level::Linearizable).await.unwrap_or(0)
        < i64::try_from(acknowledged.len()).unwrap()
    {
        assert!(began.elapsed() < PATIENCE, "it follows again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_find_each_other_although_all_were_given_new_addresses() {
    for together in [false, true] {
        let cluster = Cluster::of_three().await;
        let leader = cluster.leader().await;
        leader.node.execute(write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"])).await.unwrap();
        let Cluster { board, members } = cluster;
        let mut moved = Cluster { board, members: Vec::new() };
        for Member { node, directory, name } in members {
            node.shutdown().await;
            drop(node);
            let new = format!("new-{name}:4002");
            let options =
                Options { raft_addr: new.clone(), ..Cluster::node_options(&directory, &name) };
            let environment =
                Environment { network: moved.board.line(&new), ..Environment::real() };
            let node = Node::open(options, environment).await.unwrap();
            moved.members.push(Member { node, directory, name });
        }
        let addresses: Vec<String> =
            moved.members.iter().map(|member| format!("new-{}:4002", member.name)).collect();
        let formation = if together {
            Formation::Together { addresses, expect: 3, timeout: PATIENCE, credentials: None }
        } else {
            let interval = Duration::from_millis(300);
            Formation::Join { addresses, attempts: 50, interval, credentials: None }
        };
        let forming = moved.members.iter().map(|member| member.node.form(&formation));
        for formed in futures_util::future::join_all(forming).await {
            formed.unwrap();
        }
        for member in &moved.members {
            wait_ready(&member.node).await;
        }
        let began = std::time::Instant::now();
        while insert(&moved.members[1].node, 1).await.is_err() {
            // On a busy machine there may be another election.
            assert!(began.elapsed() < PATIENCE, "it takes writes");
        }
        let stored = async {
            loop {
                let members = moved.members[2].node.status().members;
                if members.iter().all(|member| member.raft_addr.starts_with("new-")) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, stored).await.expect("the new addresses are stored");
        moved.close().await;
    }
}
