//! Nodes that speak TLS with each other: one-sided, mutual, and while certificates and authority are
//! replaced.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rq_tests::{
    Authority,
    cluster::{Cluster, Forming},
};

use super::forming::assert_one_cluster;

/// How long a refusal may take to show.
const PATIENCE: Duration = Duration::from_secs(60);

/// What nodes look at now and then: certificate, key, authorities.
const RELOAD: Duration = Duration::from_secs(3);

fn flags(authority: &Authority, mutual: bool) -> Vec<String> {
    let mut flags = vec![
        format!("-node-cert={}", authority.path("node.pem")),
        format!("-node-key={}", authority.path("node.key")),
        format!("-node-ca-cert={}", authority.path("ca.pem")),
    ];
    if mutual {
        flags.push("-node-verify-client".to_owned());
    }
    flags
}

#[test]
fn nodes_speak_tls() {
    for mutual in [false, true] {
        let authority = Authority::create();
        authority.issue("node", "node");
        let mut cluster =
            Cluster::builder(3).forming(Forming::Expect).flags(flags(&authority, mutual)).start();
        assert_one_cluster(&cluster, 3, 0);
        let leader = cluster.wait_leader();
        cluster.kill(leader);
        let others: Vec<_> = (0..3).filter(|member| *member != leader).collect();
        cluster.wait_leader_among(&others);
        cluster.launch_again(leader);
        cluster.wait_ready(leader);
        assert_one_cluster(&cluster, 3, 0);
    }
}

#[test]
fn strangers_do_not_join() {
    let authority = Authority::create();
    authority.issue("node", "node");
    let stranger = Authority::create();
    stranger.issue("node", "node");
    let mut cluster = Cluster::builder(2)
        .replicas(1)
        .forming(Forming::Join)
        .flags(["-join-attempts=2", "-join-interval=200ms"])
        .errors_expected()
        .prepare();
    let with = |cluster: &Cluster, member: usize, tls: Vec<String>| {
        let mut all = cluster.flags(member);
        all.extend(tls);
        all
    };
    let all = with(&cluster, 0, flags(&authority, true));
    cluster.launch_with(0, &all);
    cluster.wait_ready(0);
    // Without TLS, and with a certificate of somebody else who trusts the right authority.
    let mut foreign = flags(&stranger, true);
    foreign[2] = format!("-node-ca-cert={}", authority.path("ca.pem"));
    for (member, tls) in [(1, Vec::new()), (2, foreign)] {
        let all = with(&cluster, member, tls);
        cluster.launch_with(member, &all);
        let status = cluster.node_mut(member).process().wait(PATIENCE);
        assert_eq!(status.code(), Some(1), "{}", cluster.node(member).log());
    }
    let status = cluster.status(0).unwrap();
    assert_eq!(status.members, [(Cluster::id(0), true)]);
    let log = cluster.node(0).log();
    assert!(log.contains("127.0.0.1"), "nobody was said to be refused:\n{log}");
}

#[test]
fn certificates_and_authority_are_replaced_while_nodes_run() {
    let (old, new) = (Authority::create(), Authority::create());
    old.issue("node", "node");
    new.issue("node", "node");
    let mut cluster = Cluster::builder(3).forming(Forming::Expect).flags(flags(&old, true)).start();
    cluster.node(0).execute(r#"["CREATE TABLE t(x)"]"#);
    let read = |authority: &Authority, name: &str| fs::read(authority.file(name)).unwrap();
    let both = [read(&old, "ca.pem"), read(&new, "ca.pem")].concat();
    let steps = [
        vec![("ca.pem", both)],
        vec![("node.pem", read(&new, "node.pem")), ("node.key", read(&new, "node.key"))],
        vec![("ca.pem", read(&new, "ca.pem"))],
    ];
    for (step, files) in steps.into_iter().enumerate() {
        for (name, bytes) in files {
            fs::write(old.file(name), bytes).unwrap();
        }
        thread::sleep(RELOAD);
        // New connections both ways: a restarted member dials and is dialled.
        cluster.kill(step);
        cluster.launch_again(step);
        cluster.wait_ready(step);
        let begin = Instant::now();
        for member in 0..3 {
            cluster.node(member).execute(r#"["INSERT INTO t VALUES(1)"]"#);
        }
        println!("step {step}: three writes took {:?}", begin.elapsed());
    }
    assert_eq!(cluster.node(0).value("SELECT count(*) FROM t"), 9);
    assert_one_cluster(&cluster, 3, 0);
}
