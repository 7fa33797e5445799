//! Data directories that were copied or put back from a copy: one number in Raft with two histories.

use std::{fs, path::Path, time::Duration};

use super::{
    Cluster, Formation, Level, TempDir, address, count, insert, join, recovery::Stopped, route,
    wait_ready,
};
use crate::{Environment, Impairment, Node, Options, testing::PATIENCE};

impl Stopped {
    /// Its data directory, once more.
    fn copy(&self) -> Self {
        let directory = TempDir::new().unwrap();
        copy_all(self.directory.path(), directory.path());
        Self { directory, name: self.name.clone() }
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Cluster {
    /// Starts a node again that is told nothing of the others.
    async fn start_again(&mut self, stopped: Stopped) -> Node {
        let node = self.open(&stopped).await.unwrap();
        node.form(&Formation::Alone).await.unwrap();
        self.put_back(node, stopped)
    }

    /// Opens a node where nobody knows it.
    async fn open_elsewhere(&self, stopped: &Stopped) -> Node {
        let options = Options {
            raft_addr: ELSEWHERE.to_owned(),
            ..Self::node_options(&stopped.directory, &stopped.name)
        };
        let environment =
            Environment { network: self.board.line(ELSEWHERE), ..Environment::real() };
        Node::open(options, environment).await.unwrap()
    }
}

const ELSEWHERE: &str = "elsewhere:4002";

async fn wait_given_up(node: &Node) -> String {
    let given_up = async {
        loop {
            if let Some(reason) = node.given_up() {
                return reason;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, given_up).await.expect("it takes no part any more")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_applied_what_is_not_the_clusters_stops_and_never_leads() {
    let mut cluster = Cluster::filled(&["a", "b", "c"]).await;
    let b = cluster.stop("b").await;
    let older = b.copy();
    wait_ready(&cluster.start_again(b).await).await;
    let c = cluster.stop("c").await;
    insert(&cluster.leader().await.node, 10).await.unwrap();
    cluster.wait_equal(&["a", "b"]).await;
    let (a, _) = (cluster.stop("a").await, cluster.stop("b").await);

    // A majority that knows nothing of the last entry goes on.
    let b = cluster.start_again(older).await;
    let c = cluster.start_again(c).await;
    wait_ready(&b).await;
    wait_ready(&c).await;
    for n in 11..14 {
        insert(&b, n).await.unwrap();
    }

    let diverged = cluster.start_again(a).await;
    let reason = tokio::time::timeout(PATIENCE, diverged.stopped()).await.expect("it stops");
    assert!(reason.contains("which is applied here, is not the cluster's"), "{reason}");
    assert!(reason.contains("come back with an empty one"), "{reason}");
    let impairments = diverged.status().impairments;
    assert!(impairments.contains(&Impairment::Stopped { reason }), "{impairments:?}");
    assert!(!diverged.is_ready() && !diverged.is_leader());
    assert_eq!(count(&diverged, Level::None).await, Ok(11), "its data can be looked at");
    assert_eq!(count(&diverged, Level::Linearizable).await, Ok(13), "and is not the answer");
    let handed = cluster.leader().await.node.step_down(Some("a"), &route()).await;
    assert!(handed.is_err() && !diverged.is_leader(), "{handed:?}");
    assert_eq!(count(&b, Level::Linearizable).await, Ok(13), "the others go on");

    // Nor does it forget by itself what it has applied.
    let a = cluster.stop("a").await;
    let diverged = cluster.start_again(a).await;
    let again = tokio::time::timeout(PATIENCE, diverged.stopped()).await.expect("it stops again");
    assert!(again.contains("is not the cluster's"), "{again}");
    drop(cluster.stop("a").await);
    cluster.start("a", &join(&["b", "c"])).await;
    let back = cluster.member("a").node.clone();
    wait_ready(&back).await;
    assert_eq!(count(&back, Level::Linearizable).await, Ok(13));
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_takes_no_part_while_its_original_runs() {
    let mut cluster = Cluster::filled(&["a", "b", "c"]).await;
    for (original, formation) in [("c", join(&["a"])), ("a", Formation::Alone)] {
        let stopped = cluster.stop(original).await;
        let copied = stopped.copy();
        wait_ready(&cluster.start_again(stopped).await).await;
        let raft_id = cluster.member(original).node.inner().raft_id;

        let copy = cluster.open_elsewhere(&copied).await;
        let formed = copy.form(&formation).await;
        let reason = wait_given_up(&copy).await;
        let sentence = format!("node {original} runs at {original}:4002 with the same data");
        assert!(reason.starts_with(&sentence), "{reason}");
        let is_told = matches!(formation, Formation::Alone) || formed == Err(reason.clone());
        assert!(is_told, "{formed:?}");
        assert!(copy.status().impairments.contains(&Impairment::Excluded { reason }));
        assert!(!copy.is_ready() && insert(&copy, 99).await.is_err());
        for member in &cluster.members {
            let dialled = member.node.inner().cluster.address(raft_id, &address(original));
            assert_eq!(dialled, address(original), "{}", member.name);
            let members = member.node.status().members;
            assert!(members.iter().all(|member| member.raft_addr != ELSEWHERE), "{members:?}");
        }
        cluster.wait_equal(&["a", "b", "c"]).await;
        wait_ready(&cluster.member(original).node).await;
        copy.shutdown().await;
    }

    // Once the original has ended its data may go on elsewhere.
    let moved = cluster.stop("c").await;
    let node = cluster.open_elsewhere(&moved).await;
    node.form(&join(&["a", "b"])).await.unwrap();
    wait_ready(&node).await;
    node.shutdown().await;
    cluster.close().await;
}

/// A copy that was started because its original could not be reached, and was put back from too long ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_no_part_any_more_keeps_nobody_else_out() {
    let mut cluster = Cluster::filled(&["a", "b", "c"]).await;
    let stopped = cluster.stop("c").await;
    let copied = stopped.copy();
    let original = cluster.start_again(stopped).await;
    wait_ready(&original).await;
    let leader = cluster.leader().await.node.clone();
    for n in 10..20 {
        insert(&leader, n).await.unwrap();
    }
    cluster.wait_equal(&["a", "b", "c"]).await;

    let others: Vec<_> = cluster.addresses().into_iter().chain([ELSEWHERE.to_owned()]).collect();
    cluster.board.isolate(&address("c"), &others, true);
    // Until its leader has noticed that it is silent, and said so.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!original.is_ready());
    let copy = cluster.open_elsewhere(&copied).await;
    // Its Raft may have ended by then.
    drop(copy.form(&Formation::Alone).await);
    let reason = wait_given_up(&copy).await;
    assert!(reason.starts_with("it has lost entries that it had acknowledged"), "{reason}");
    let to = copy.inner().metadata();
    assert!(to.disk == crate::disk_watch::DiskState::Stuck, "and cannot lead: {to:?}");

    cluster.board.isolate(&address("c"), &others, false);
    wait_ready(&original).await;
    assert_eq!(original.given_up(), None);
    insert(&original, 20).await.unwrap();
    cluster.wait_equal(&["a", "b", "c"]).await;
    copy.shutdown().await;
    cluster.close().await;
}

/// Whoever is asked knows itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_says_where_it_is_now_is_not_its_own_copy() {
    let cluster = Cluster::filled(&["a", "b", "c"]).await;
    for said in ["b", "c", "a"] {
        let node = &cluster.member(said).node;
        let newcomer = node.inner().newcomer().await.unwrap();
        let newcomer =
            crate::service::message::Newcomer { raft_addr: ELSEWHERE.to_owned(), ..newcomer };
        let dialled = |member: &str| {
            let inner = cluster.member(member).node.inner();
            inner.cluster.address(newcomer.raft_id, &address(said))
        };
        for member in ["a", "b", "c"] {
            let inner = cluster.member(member).node.inner();
            let unknown = crate::service::message::Newcomer { process: None, ..newcomer.clone() };
            inner.notified(unknown).await.unwrap();
            assert_eq!(dialled(member), ELSEWHERE, "an older program does not say who it is");
            inner.cluster.note_address(newcomer.raft_id, &address(said));
            inner.notified(newcomer.clone()).await.unwrap();
            assert_eq!(dialled(member), ELSEWHERE);
            inner.cluster.note_address(newcomer.raft_id, &address(said));
        }
    }
    cluster.close().await;
}

/// A node with an empty disk takes a name from who has lost its own, and from nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_keeps_its_name_where_it_said_to_be() {
    let mut cluster = Cluster::filled(&["a", "b", "c"]).await;
    let leader = cluster.leader().await;
    let (leader, moves) = (leader.node.clone(), if leader.name == "c" { "b" } else { "c" });
    let stopped = cluster.stop(moves).await;
    let moved = cluster.open_elsewhere(&stopped).await;
    moved.form(&Formation::Alone).await.unwrap();
    let namesake = crate::service::message::Newcomer {
        raft_id: 77,
        raft_addr: "third:4002".to_owned(),
        cluster: None,
        process: None,
        ..moved.inner().newcomer().await.unwrap()
    };
    let may = crate::membership::MayJoin::Everybody;
    let refused = leader.inner().join(namesake, may).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("is a live member at elsewhere:4002"), "{refused}");
    wait_ready(&moved).await;
    moved.shutdown().await;
    drop(leader);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_what_it_had_acknowledged_is_not_counted_and_says_so() {
    let mut cluster = Cluster::filled(&["a", "b", "c"]).await;
    let c = cluster.stop("c").await;
    let (older, oldest) = (c.copy(), c.copy());
    wait_ready(&cluster.start_again(c).await).await;
    let leader = cluster.leader().await.node.clone();
    for n in 10..40 {
        insert(&leader, n).await.unwrap();
    }
    cluster.wait_equal(&["a", "b", "c"]).await;
    let newest = cluster.stop("c").await;

    let told_nothing = cluster.start_again(older).await;
    let reason = wait_given_up(&told_nothing).await;
    assert!(reason.starts_with("it has lost entries that it had acknowledged"), "{reason}");
    let impairments = told_nothing.status().impairments;
    assert!(impairments.contains(&Impairment::Excluded { reason }), "{impairments:?}");
    assert!(!told_nothing.is_ready());
    assert_eq!(count(&told_nothing, Level::None).await, Ok(10), "its data can be looked at");
    insert(&leader, 40).await.unwrap();
    drop(cluster.stop("c").await);

    let refused = cluster.open(&oldest).await.unwrap();
    let reason = refused.form(&join(&["a"])).await.unwrap_err();
    assert!(reason.contains("it has lost entries that it had acknowledged"), "{reason}");
    assert!(reason.contains("join with an empty one"), "{reason}");
    // It is no quorum together with the leader.
    drop(cluster.stop("b").await);
    let lost = async {
        while leader.is_leader() || leader.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lost).await.expect("there is no quorum");
    assert!(insert(&leader, 99).await.is_err(), "and nobody waits for one for ever");
    refused.shutdown().await;

    // What it had acknowledged is still there.
    let back = cluster.start_again(newest).await;
    wait_ready(&back).await;
    assert!(count(&back, Level::Linearizable).await.is_ok_and(|rows| rows >= 41));
    cluster.close().await;
}
