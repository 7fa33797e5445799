//! However nodes are started, there is one cluster, with each of them in it once.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use rq_tests::cluster::{Cluster, Forming};

use super::{number, seed};

#[test]
fn one_after_the_other_by_join() {
    let cluster = Cluster::start(3);
    assert_one_cluster(&cluster, 3, 0);
}

#[test]
fn through_a_follower_and_as_a_replica() {
    let mut cluster = Cluster::builder(3).replicas(1).prepare();
    cluster.launch(0);
    cluster.wait_ready(0);
    cluster.launch(1);
    cluster.wait_ready(1);
    for (member, kind) in [(2, None), (3, Some("-raft-non-voter"))] {
        let mut flags = vec![
            format!("-node-id={}", Cluster::id(member)),
            format!("-join={}", cluster.raft_addr(1)),
        ];
        flags.extend(kind.map(str::to_owned));
        cluster.launch_with(member, &flags);
        cluster.wait_ready(member);
    }
    assert_one_cluster(&cluster, 3, 1);
    let of = |target: &str| cluster.node(3).get(target).json();
    assert_eq!(of("/nodes?ver=2")["nodes"].as_array().unwrap().len(), 3);
    let nodes = of("/nodes?ver=2&nonvoters");
    let nodes = nodes["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 4);
    assert!(nodes.iter().all(|node| node["reachable"] == true), "{nodes:?}");
    assert_eq!(nodes.iter().filter(|node| node["leader"] == true).count(), 1);
}

#[test]
fn the_same_flags_again_change_nothing() {
    for forming in [Forming::Join, Forming::Expect] {
        let mut cluster = Cluster::builder(3).forming(forming).start();
        for member in [0, 2] {
            cluster.stop(member);
            cluster.launch_again(member);
            cluster.wait_ready(member);
        }
        assert_one_cluster(&cluster, 3, 0);
    }
}

/// In any order, with any delay: `RQ_CLUSTER_RUNS` of them.
#[test]
fn races_at_the_start() {
    let (mut random, _) = seed();
    let runs = number("RQ_CLUSTER_RUNS", 4);
    for run in 0..runs {
        let forming = if run % 2 == 0 { Forming::Expect } else { Forming::Join };
        // Quick passes, because a member may be started long before the first one.
        let mut cluster = Cluster::builder(3)
            .forming(forming)
            .flags(["-join-attempts=40", "-join-interval=100ms"])
            .prepare();
        let mut members = vec![0, 1, 2];
        let mut starts = Vec::new();
        let begin = Instant::now();
        while !members.is_empty() {
            let member = members.swap_remove(random.index(members.len()));
            cluster.launch(member);
            let delay = [0, random.below(50), random.below(1500)][random.index(3)];
            starts.push((Cluster::id(member), delay));
            thread::sleep(Duration::from_millis(delay));
        }
        println!("race {run}: {forming:?}, each start and the pause after it in ms: {starts:?}");
        cluster.wait_all_ready();
        println!("race {run}: ready after {:?}", begin.elapsed());
        assert_one_cluster(&cluster, 3, 0);
    }
}

/// All know the same members and the same leader, and a write through each is seen through each.
pub(crate) fn assert_one_cluster(cluster: &Cluster, voters: usize, replicas: usize) {
    let mut expected: Vec<_> =
        (0..voters + replicas).map(|member| (Cluster::id(member), member < voters)).collect();
    expected.sort();
    let statuses = cluster.wait("the members do not know each other", || {
        let all: Option<Vec<_>> =
            (0..voters + replicas).map(|member| cluster.status(member)).collect();
        all.filter(|all| {
            all.iter().all(|status| status.members == expected && !status.leader.is_empty())
        })
    });
    let leaders: BTreeSet<_> = statuses.iter().map(|status| &status.leader).collect();
    assert_eq!(leaders.len(), 1, "{statuses:#?}");
    assert_eq!(statuses.iter().filter(|status| status.state == "Leader").count(), 1);
    cluster
        .node(0)
        .execute(r#"["CREATE TABLE IF NOT EXISTS joined(id TEXT)", "DELETE FROM joined"]"#);
    for member in 0..voters + replicas {
        cluster.node(member).execute(&format!(r#"["INSERT INTO joined VALUES('{member}')"]"#));
    }
    let sql = "SELECT count(*) FROM joined";
    for member in 0..voters + replicas {
        let target = "/db/query?level=linearizable";
        let answer = cluster.node(member).post(target, format!("[\"{sql}\"]")).json();
        assert_eq!(answer["results"][0]["values"][0][0], voters + replicas, "{member}: {answer}");
    }
}
