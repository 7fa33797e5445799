//! Recovery of several nodes: those that are left go on, nobody else comes in, nobody goes on with less than another has.

use std::{fs, path::Path};

use super::{
    Cluster, Duration, Environment, Formation, Level, Member, Node, Options, TempDir, address,
    count, insert, join, route, wait_ready, write,
};
use crate::{OpenError, testing::PATIENCE};

/// A node that is not running.
pub(super) struct Stopped {
    pub(super) directory: TempDir,
    pub(super) name: String,
}

impl Stopped {
    /// Writes the file that names these nodes.
    fn ask_for_recovery(&self, names: &[&str]) {
        let peer = |name: &&str| format!(r#"{{"id": "{name}", "address": "{name}:4002"}}"#);
        let peers: Vec<_> = names.iter().map(peer).collect();
        fs::write(self.raft("peers.json"), format!("[{}]\n", peers.join(", "))).unwrap();
    }

    fn raft(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("raft").join(name)
    }

    /// The bytes of log and identity.
    fn content(&self) -> Vec<Vec<u8>> {
        let segments = fs::read_dir(self.directory.path().join("raft")).unwrap();
        let mut paths: Vec<_> = segments
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        paths.push(self.directory.path().join("node.json"));
        paths.push(self.raft("state"));
        paths.sort();
        let read = |path: &Path| fs::read(path).unwrap();
        // Segments prepared for later are full of zeros.
        let all = paths.iter().map(|path| read(path));
        all.filter(|bytes| bytes.iter().any(|byte| *byte != 0)).collect()
    }
}

impl Cluster {
    /// A cluster of these nodes, with a table of ten rows that all of them have.
    pub(super) async fn filled(names: &[&str]) -> Self {
        let mut cluster = Self::new();
        for (at, name) in names.iter().enumerate() {
            let formation = if at == 0 { Formation::Alone } else { join(&names[..1]) };
            cluster.start(name, &formation).await;
            wait_ready(&cluster.members[at].node).await;
        }
        let leader = cluster.leader().await.node.clone();
        let create = write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"]);
        leader.execute_routed(create, &route()).await.unwrap();
        for n in 0..10 {
            insert(&leader, n).await.unwrap();
        }
        cluster.wait_equal(names).await;
        cluster
    }

    pub(super) fn member(&self, name: &str) -> &Member {
        self.members.iter().find(|member| member.name == name).expect("it runs")
    }

    /// Waits until the logs of these nodes are equally long and applied.
    pub(super) async fn wait_equal(&self, names: &[&str]) {
        let equal = async {
            loop {
                let ends: Vec<_> = names
                    .iter()
                    .map(|name| {
                        let inner = self.member(name).node.inner();
                        (inner.metadata().last_log, inner.progress.applied().index)
                    })
                    .collect();
                if ends.iter().all(|end| *end == ends[0] && end.0.1 == end.1) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, equal).await.expect("they become equal");
    }

    pub(super) async fn stop(&mut self, name: &str) -> Stopped {
        let at = self.members.iter().position(|member| member.name == name).expect("it runs");
        let Member { node, directory, name } = self.members.remove(at);
        node.shutdown().await;
        Stopped { directory, name }
    }

    /// Cuts these off from each other and from all others, so that their logs stay as they are, and stops them.
    async fn stop_at_once(&mut self, names: &[&str]) -> Vec<Stopped> {
        for name in names {
            self.board.isolate(&address(name), &self.addresses(), true);
        }
        let all = self.addresses();
        let mut stopped = Vec::new();
        for name in names {
            stopped.push(self.stop(name).await);
        }
        for name in names {
            self.board.isolate(&address(name), &all, false);
        }
        stopped
    }

    pub(super) async fn open(&self, stopped: &Stopped) -> Result<Node, OpenError> {
        self.open_on(stopped, self.environment(&stopped.name)).await
    }

    pub(super) async fn open_on(
        &self,
        stopped: &Stopped,
        environment: Environment,
    ) -> Result<Node, OpenError> {
        let options = Self::node_options(&stopped.directory, &stopped.name);
        let options = Options {
            log: rq_storage::LogOptions { segment_bytes: 64 << 10, ..options.log },
            ..options
        };
        Node::open(options, environment).await
    }

    pub(super) fn put_back(&mut self, node: Node, stopped: Stopped) -> Node {
        let Stopped { directory, name } = stopped;
        self.members.push(Member { node: node.clone(), directory, name });
        node
    }
}

async fn names(node: &Node) -> Vec<String> {
    wait_ready(node).await;
    node.status().members.into_iter().map(|member| member.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_goes_on_and_a_former_member_stays_out() {
    let mut cluster = Cluster::filled(&["a", "b", "c"]).await;
    let [a, b, c]: [Stopped; 3] =
        cluster.stop_at_once(&["a", "b", "c"]).await.try_into().ok().unwrap();
    a.ask_for_recovery(&["a"]);
    let recovered = cluster.open(&a).await.unwrap();
    recovered.form(&Formation::Alone).await.unwrap();
    let recovered = cluster.put_back(recovered, a);
    assert_eq!(names(&recovered).await, ["a"]);
    assert_eq!(count(&recovered, Level::Linearizable).await, Ok(10));
    insert(&recovered, 10).await.unwrap();

    // Two former members are a majority of what was: they find each other, and nobody else.
    let term = recovered.status().raft.term;
    let former = cluster.open(&b).await.unwrap();
    former.form(&Formation::Alone).await.unwrap();
    let once = Formation::Join {
        addresses: vec![address("a")],
        attempts: 1,
        interval: Duration::from_millis(10),
        credentials: None,
    };
    assert!(former.form(&once).await.is_err(), "it is of another cluster");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(former.leader(), None, "it is refused by who was recovered");
    assert!(insert(&former, 99).await.is_err());
    assert!(recovered.is_leader() && recovered.status().raft.term == term, "and disturbs nobody");
    assert_eq!(former.status().members.len(), 3, "nobody tells it anything");
    former.shutdown().await;
    drop((former, b, c));

    for name in ["b", "c"] {
        cluster.start(name, &join(&["a"])).await;
        let node = cluster.member(name).node.clone();
        wait_ready(&node).await;
        assert_eq!(count(&node, Level::Linearizable).await, Ok(11));
    }
    assert_eq!(names(&recovered).await, ["a", "b", "c"]);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_five_go_on_together() {
    let mut cluster = Cluster::filled(&["a", "b", "c", "d", "e"]).await;
    let mut stopped = cluster.stop_at_once(&["a", "b", "c", "d", "e"]).await;
    stopped.truncate(2);
    stopped[0].ask_for_recovery(&["a", "b"]);
    stopped[1].ask_for_recovery(&["b", "a"]);
    let (first, second) = tokio::join!(cluster.open(&stopped[0]), cluster.open(&stopped[1]));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.inner().cluster.id(), second.inner().cluster.id());
    for node in [&first, &second] {
        node.form(&Formation::Alone).await.unwrap();
        assert_eq!(names(node).await, ["a", "b"]);
    }
    insert(&second, 10).await.unwrap();
    assert_eq!(count(&first, Level::Linearizable).await, Ok(11));
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_behind_is_not_recovered_and_comes_back_empty() {
    let mut cluster = Cluster::filled(&["a", "b", "c"]).await;
    let behind = cluster.stop("c").await;
    let leader = cluster.leader().await.node.clone();
    insert(&leader, 10).await.unwrap();
    cluster.wait_equal(&["a", "b"]).await;
    drop(leader);
    let [a, b]: [Stopped; 2] = cluster.stop_at_once(&["a", "b"]).await.try_into().ok().unwrap();
    let before = (a.content(), behind.content());

    // The two of them have no majority unless both are recovered, and they must not be.
    for stopped in [&a, &behind] {
        stopped.ask_for_recovery(&["a", "c"]);
    }
    let (first, second) = tokio::join!(cluster.open(&a), cluster.open(&behind));
    let first = first.err().unwrap().to_string();
    assert!(first.starts_with("failed to recover node: node c holds entries up to "), "{first}");
    assert!(first.contains("without it the voters in the file have no majority"), "{first}");
    let second = second.err().unwrap().to_string();
    assert!(second.starts_with("failed to recover node: node a holds entries up to "), "{second}");
    assert!(second.contains("acknowledged writes would be lost. Recover a"), "{second}");
    assert!(a.raft("peers.json").exists() && behind.raft("peers.json").exists());
    assert!((a.content(), behind.content()) == before, "nothing was changed");

    for stopped in [&a, &b, &behind] {
        stopped.ask_for_recovery(&["a", "b", "c"]);
    }
    let (first, second, third) =
        tokio::join!(cluster.open(&a), cluster.open(&b), cluster.open(&behind));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(third.is_err_and(|error| error.to_string().contains("would be lost")));
    for (node, stopped) in [(first, a), (second, b)] {
        node.form(&Formation::Alone).await.unwrap();
        let node = cluster.put_back(node, stopped);
        wait_ready(&node).await;
        assert_eq!(count(&node, Level::Linearizable).await, Ok(11));
    }

    // Later it sees that the others have gone on without it.
    let late = cluster.open(&behind).await.err().unwrap().to_string();
    assert!(late.contains("node a belongs to another cluster by now"), "{late}");
    drop(behind);
    cluster.start("c", &join(&["a", "b"])).await;
    let node = cluster.member("c").node.clone();
    assert_eq!(names(&node).await, ["a", "b", "c"]);
    assert_eq!(count(&node, Level::Linearizable).await, Ok(11));
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lives_is_not_recovered() {
    let mut cluster = Cluster::filled(&["a", "b", "c"]).await;
    let leader = cluster.leader().await.name.clone();
    let follower = ["a", "b", "c"].into_iter().find(|name| *name != leader).unwrap();
    let stopped = cluster.stop(follower).await;
    stopped.ask_for_recovery(&[follower]);
    let error = cluster.open(&stopped).await.err().unwrap().to_string();
    assert!(error.contains(&format!("node {leader} leads this cluster")), "{error}");
    fs::remove_file(stopped.raft("peers.json")).unwrap();
    let node = cluster.open(&stopped).await.unwrap();
    node.form(&Formation::Alone).await.unwrap();
    wait_ready(&node).await;
    node.shutdown().await;
    cluster.close().await;
}
