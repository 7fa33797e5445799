//! A lost quorum: one of three nodes goes on, the others come back empty, and what was left out stays out.

use std::{fs, time::Duration};

use rq_tests::cluster::{Cluster, Fate};

use super::{caller, forming::assert_one_cluster};

/// How long a node that refuses may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn one_of_three_is_recovered_and_the_others_join_afresh() {
    let mut cluster = Cluster::builder(3)
        .flags(["-join-attempts=2", "-join-interval=200ms"])
        .errors_expected()
        .start();
    cluster.node(0).execute(r#"["CREATE TABLE t(x)", "INSERT INTO t VALUES(1)"]"#);
    cluster.wait_settled();
    (0..3).for_each(|member| cluster.kill(member));
    let raft = cluster.directory(0).join("raft");
    let alone = [format!("-node-id={}", Cluster::id(0))];

    fs::write(raft.join("peers.json"), "[{]").unwrap();
    cluster.launch_with(0, &alone);
    let status = cluster.node_mut(0).process().wait(PATIENCE);
    let log = cluster.node(0).log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("failed to open store: failed to read peers file: "), "{log}");
    assert!(raft.join("peers.json").exists() && !raft.join("peers.info").exists());

    let peers = format!(
        r#"[{{"id": "{}", "address": "{}", "non_voter": false}}]"#,
        Cluster::id(0),
        cluster.raft_addr(0)
    );
    fs::write(raft.join("peers.json"), &peers).unwrap();
    cluster.launch_with(0, &alone);
    cluster.wait_ready(0);
    assert_eq!(cluster.node(0).value("SELECT count(*) FROM t"), 1);
    assert_eq!(cluster.status(0).unwrap().members, [(Cluster::id(0), true)]);
    assert_eq!(fs::read_to_string(raft.join("peers.info")).unwrap(), peers);
    assert!(cluster.node(0).log().contains("node recovered successfully using "));

    // A former member that waits for its peers, and says what keeps it waiting.
    let left_out = [format!("-node-id={}", Cluster::id(2))];
    cluster.launch_with(2, &left_out);
    cluster.wait("it does not say why nobody follows it", || {
        let log = cluster.node(2).log();
        log.contains("one was recovered without the other").then_some(())
    });
    let mut client = caller(&cluster, 0);
    let insert = rq_tests::Request::post("/db/execute", r#"["INSERT INTO t VALUES(2)"]"#);
    assert!(matches!(client.call(&insert), Fate::Done(_)), "the recovered node is not disturbed");
    assert_eq!(cluster.status(2).unwrap().leader, "");
    cluster.kill(2);

    // A former member that would join; with an empty directory it may.
    let flags = cluster.flags(1);
    cluster.launch_with(1, &flags);
    let status = cluster.node_mut(1).process().wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", cluster.node(1).log());
    for member in [1, 2] {
        fs::remove_dir_all(cluster.directory(member)).unwrap();
        let flags = cluster.flags(member);
        cluster.launch_with(member, &flags);
        cluster.wait_ready(member);
    }
    assert_one_cluster(&cluster, 3, 0);
    cluster.assert_equal_images();
}
