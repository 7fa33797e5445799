//! A member whose program computes another engine epoch than its database belongs to: it votes and stores, and does nothing
//! else, until the right program is started.

use std::{fs, time::Instant};

use rq_sqlite::ENGINE_EPOCH;

use super::{
    super::{PATIENCE, reading},
    Cluster, Duration, Environment, Error, Formation, Level, Node, count, insert, join,
    recovery::Stopped,
    route, wait_ready, write,
};
use crate::{Impairment, OtherEngine, Read, read::Collected};

/// What the node says.
const OTHER: OtherEngine = OtherEngine { database: ENGINE_EPOCH, program: ENGINE_EPOCH + 1 };

/// The names of a leader, of the member whose program is exchanged, and of the third.
struct Parts {
    leader: String,
    other: String,
    third: String,
}

/// Three nodes with ten rows.
async fn of_three() -> (Cluster, Parts) {
    let cluster = Cluster::filled(&["a", "b", "c"]).await;
    let leader = cluster.leader().await.name.clone();
    let mut followers = ["a", "b", "c"].map(str::to_owned).into_iter().filter(|n| *n != leader);
    let (other, third) = (followers.next().unwrap(), followers.next().unwrap());
    (cluster, Parts { leader, other, third })
}

impl Cluster {
    /// Starts a node again with a program of another epoch.
    async fn start_other(&mut self, stopped: Stopped, formation: &Formation) -> Node {
        let right = self.environment(&stopped.name);
        let environment = Environment { engine_epoch: OTHER.program, ..right };
        let node = self.open_on(&stopped, environment).await.unwrap();
        node.form(formation).await.unwrap();
        self.put_back(node, stopped)
    }

    /// Starts a node again with the right program.
    async fn start_right(&mut self, stopped: Stopped) -> Node {
        let node = self.open(&stopped).await.unwrap();
        node.form(&Formation::Alone).await.unwrap();
        self.put_back(node, stopped)
    }

    /// All nodes hold the same pages.
    async fn assert_equal(&self) {
        self.wait_equal(&["a", "b", "c"]).await;
        let image = |name| {
            let durability = &self.member(name).node.inner().machinery.durability;
            durability.with_checkpointer(|checkpointer| checkpointer.image()).unwrap().unwrap()
        };
        let first = image("a");
        for name in ["b", "c"] {
            assert_eq!(image(name).differing_pages(&first), Vec::<usize>::new(), "{name}");
        }
    }
}

/// The bytes of the database and of its WAL.
fn database(stopped: &Stopped) -> [Option<Vec<u8>>; 2] {
    ["db.sqlite", "db.sqlite-wal"].map(|name| fs::read(stopped.directory.path().join(name)).ok())
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect(what);
}

async fn request(node: &Node, read: Read) -> Result<(), Error> {
    node.request_routed(read, Collected::default(), &route()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_engine_epoch_stores_and_votes_and_leaves_its_database_alone() {
    let (mut cluster, Parts { leader, other, third }) = of_three().await;
    let stopped = cluster.stop(&other).await;
    let before = database(&stopped);
    let node = cluster.start_other(stopped, &Formation::Alone).await;
    until("it follows", || node.leader().is_some()).await;
    let applied = node.status().raft.applied_index;
    assert!(node.status().impairments.contains(&Impairment::OtherEngine(OTHER)));
    assert_eq!(node.other_engine(), Some(OTHER));

    // What the leader does is done through it as ever, what it would do itself is refused.
    insert(&node, 10).await.unwrap();
    for level in [Level::Weak, Level::Auto, Level::Strong, Level::Linearizable] {
        assert_eq!(count(&node, level).await, Ok(11), "{level:?}");
    }
    let refused = Err(Error::OtherEngine(OTHER));
    assert_eq!(count(&node, Level::None).await.map(drop), refused);
    assert_eq!(request(&node, reading("SELECT count(*) FROM t", Level::None)).await, refused);
    request(&node, reading("SELECT count(*) FROM t", Level::Linearizable)).await.unwrap();
    request(&node, reading("INSERT INTO t VALUES (11)", Level::None)).await.unwrap();
    assert_eq!(node.sync(PATIENCE).await, refused);
    assert_eq!(node.snapshot(None).await.map(drop), refused);

    // With it there is a quorum.
    let behind = cluster.stop(&third).await;
    let leading = cluster.member(&leader).node.clone();
    for n in 12..40 {
        insert(&leading, n).await.unwrap();
    }
    assert_eq!(node.inner().metadata().last_log, leading.inner().metadata().last_log);
    assert_eq!(node.status().raft.applied_index, applied);
    assert!(!node.is_ready());

    // It holds what was acknowledged and the third lacks: neither may lead.
    let term = node.status().raft.term;
    let led = cluster.stop(&leader).await;
    drop(leading);
    let behind = cluster.start_right(behind).await;
    until("nobody leads", || node.leader().is_none()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!node.is_leader() && !behind.is_leader());
    assert_eq!(insert(&node, 99).await.err(), Some(Error::LeaderNotFound));
    assert_eq!(node.status().raft.term, term, "it does not even stand");
    drop(behind);

    // Its vote elects who has everything.
    let leading = cluster.start_right(led).await;
    wait_ready(&leading).await;
    assert_eq!(count(&leading, Level::Linearizable).await, Ok(40));
    assert_eq!(node.status().raft.applied_index, applied);
    drop(node);

    let stopped = cluster.stop(&other).await;
    assert!(database(&stopped) == before, "nobody wrote to it");
    let node = cluster.start_right(stopped).await;
    wait_ready(&node).await;
    assert_eq!(count(&node, Level::Linearizable).await, Ok(40));
    cluster.assert_equal().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_not_handed_to_a_node_of_another_engine_epoch() {
    let (mut cluster, Parts { leader, other, third }) = of_three().await;
    let stopped = cluster.stop(&other).await;
    // It is a member, and stays one when it says so.
    let node = cluster.start_other(stopped, &join(&[&leader])).await;
    let leading = cluster.member(&leader).node.clone();
    until("it answers", || {
        let members = leading.inner().consensus.members();
        let silences = members.iter().map(|member| member.silent_for);
        silences.flatten().all(|silent| silent < Duration::from_millis(500))
            && node.leader().is_some()
    })
    .await;
    let refused = leading.step_down(Some(&other), &route()).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("node {other} cannot lead: {OTHER}")), "{refused}");
    assert!(leading.is_leader());
    insert(&leading, 10).await.unwrap();
    // Asked all the same, as by a node that does not know, it does not stand.
    leading.inner().consensus.transfer(node.inner().raft_id).await.unwrap();
    let began = Instant::now();
    while let Err(error) = insert(&leading, 11).await {
        assert!(began.elapsed() < PATIENCE, "writes go on: {error}");
    }
    assert!(!node.is_leader());
    for _ in 0..3 {
        let from = cluster.leader().await;
        from.node.step_down(None, &route()).await.unwrap();
        assert!(!node.is_leader() && cluster.leader().await.name != other);
    }
    assert!([leader, third].contains(&cluster.leader().await.name));
    drop((node, leading));
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_engine_epoch_takes_no_database_and_is_not_pestered() {
    let (mut cluster, Parts { leader, other, .. }) = of_three().await;
    let stopped = cluster.stop(&other).await;
    let before = database(&stopped);
    let leading = cluster.member(&leader).node.clone();
    for n in 10..200 {
        leading.execute(write(&[&format!("INSERT INTO t VALUES ({n})")])).await.unwrap();
    }
    assert!(leading.snapshot(Some(0)).await.unwrap());
    until("the log forgets", || leading.status().raft.first_log_index > 100).await;
    let offers = || leading.counters()["snapshot"]["num_sent_begun"];
    let (offered, began) = (offers(), Instant::now());
    let node = cluster.start_other(stopped, &Formation::Alone).await;
    until("it is offered the database", || offers() > offered).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let most = i64::try_from(began.elapsed().as_secs() / 3).unwrap() + 2;
    assert!(offers() - offered <= most, "{} offers, not more than {most}", offers() - offered);
    assert!(node.status().transfers.is_empty() && leading.is_leader());
    insert(&node, 200).await.unwrap();
    assert!(leading.status().transfers.is_empty());
    drop(node);
    let stopped = cluster.stop(&other).await;
    assert!(database(&stopped) == before, "nobody wrote to it");
    let node = cluster.start_right(stopped).await;
    wait_ready(&node).await;
    assert_eq!(count(&node, Level::None).await, Ok(201));
    drop((node, leading));
    cluster.assert_equal().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_engine_epoch_says_that_its_log_has_no_bound() {
    const ALLOWED: u64 = 128 << 10;
    let (mut cluster, Parts { other, .. }) = of_three().await;
    let Stopped { directory, name } = cluster.stop(&other).await;
    let mut options = Cluster::node_options(&directory, &name);
    options.log.segment_bytes = 64 << 10;
    options.snapshots.log_bytes_max = ALLOWED;
    let right = cluster.environment(&name);
    let environment = Environment { engine_epoch: OTHER.program, ..right };
    let node = Node::open(options, environment).await.unwrap();
    node.form(&Formation::Alone).await.unwrap();
    let node = cluster.put_back(node, Stopped { directory, name });
    let growing = || {
        let impairments = node.status().impairments.into_iter();
        let log = impairments.filter_map(|impairment| match impairment {
            Impairment::LogGrows { bytes, max } => Some((bytes, max)),
            _ => None,
        });
        log.collect::<Vec<_>>()
    };
    until("it follows", || node.leader().is_some()).await;
    assert_eq!(growing(), []);
    let leading = cluster.leader().await.node.clone();
    let mut number = 1_u64;
    for n in 10..60 {
        // What can be compressed would not make it longer.
        let text = (0..800).map(|_| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("{number:x}")
        });
        let text: String = text.collect();
        let insert = format!("INSERT INTO t VALUES ({n} + 0 * length('{text}'))");
        leading.execute(write(&[&insert])).await.unwrap();
    }
    until("it says so", || growing().iter().any(|(bytes, max)| bytes > max && *max == ALLOWED))
        .await;
    let status = leading.status().impairments;
    assert_eq!(status, [], "the others apply, and purge");
    drop((node, leading));
    cluster.close().await;
}
