//! Data directories that were copied or put back from a copy: one number in Raft with two histories.

use std::{fs, path::Path};

use super::{
    Cluster, Error, Formation, Level, TempDir, count, insert, join, recovery::Stopped, route,
    wait_ready,
};
use crate::{Impairment, testing::PATIENCE};

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
    async fn start_again(&mut self, stopped: Stopped) -> crate::Node {
        let node = self.open(&stopped).await.unwrap();
        node.form(&Formation::Alone).await.unwrap();
        self.put_back(node, stopped)
    }
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
    assert!(matches!(handed, Err(Error::Membership(_))), "{handed:?}");
    assert!(!diverged.is_leader());
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
