//! Nodes that go and come back: nothing acknowledged is missing, and what is left goes on.

use std::{
    fs,
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant},
};

use rq_tests::{
    Connection, Random, Request,
    cluster::{
        Cluster, Counter, Done, EndsClients, Fate, Forming, Workload as _, assert_busy, run,
    },
};

use super::{ANSWER_TIME, caller, forming::assert_one_cluster, seed};

/// Writes a row through a member, which must succeed.
fn insert(cluster: &Cluster, member: usize, text: &str) {
    cluster.node(member).execute(&format!(r#"["INSERT INTO t VALUES('{text}')"]"#));
}

/// The rows of `t` as a member sees them at a level, in order.
fn texts(cluster: &Cluster, member: usize, level: &str) -> Vec<String> {
    let target = format!("/db/query?level={level}");
    let answer = cluster.node(member).post(&target, r#"["SELECT x FROM t ORDER BY x"]"#).json();
    let rows = answer["results"][0]["values"].as_array().cloned().unwrap_or_default();
    rows.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_killed_leader_is_replaced_and_comes_back() {
    let mut cluster = Cluster::start(3);
    let follower = cluster.a_follower();
    cluster.node(follower).execute(r#"["CREATE TABLE t(x TEXT)"]"#);
    insert(&cluster, follower, "a");
    let leader = cluster.wait_leader();
    cluster.kill(leader);
    let begin = Instant::now();
    let others: Vec<_> = (0..3).filter(|member| *member != leader).collect();
    let mut client = caller(&cluster, others[0]);
    let insert_b = Request::post("/db/execute", r#"["INSERT INTO t VALUES('b')"]"#);
    loop {
        match client.call(&insert_b) {
            Fate::Done(_) => break,
            // Nobody else can have done it: a refused one may be sent again.
            Fate::NotDone(_) => thread::sleep(Duration::from_millis(10)),
            Fate::Unknown(text) => panic!("{text}"),
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "no write succeeds");
    }
    println!("the next write succeeded after {:?}", begin.elapsed());
    for member in &others {
        assert_eq!(texts(&cluster, *member, "linearizable"), ["a", "b"]);
    }
    cluster.launch_again(leader);
    cluster.wait_ready(leader);
    assert_eq!(texts(&cluster, leader, "linearizable"), ["a", "b"]);
    assert_one_cluster(&cluster, 3, 0);
    cluster.assert_equal_images();
}

#[test]
fn without_a_majority_nothing_is_written_and_old_data_is_read() {
    let mut cluster = Cluster::start(3);
    let left = cluster.a_follower();
    cluster.node(left).execute(r#"["CREATE TABLE t(x TEXT)"]"#);
    insert(&cluster, left, "a");
    cluster.wait_settled();
    let others: Vec<_> = (0..3).filter(|member| *member != left).collect();
    for member in &others {
        cluster.kill(*member);
    }
    cluster.wait("the leader is not missed", || {
        cluster.status(left).filter(|status| status.leader.is_empty())
    });
    assert_eq!(texts(&cluster, left, "none"), ["a"]);
    for target in ["/db/execute?timeout=2s", "/db/query?level=linearizable&timeout=2s"] {
        let mut connection = Connection::open(cluster.http_addr(left)).unwrap();
        let body = r#"["INSERT INTO t VALUES('never')"]"#;
        let body = if target.contains("query") { r#"["SELECT x FROM t"]"# } else { body };
        let answer = connection.request(&Request::post(target, body)).unwrap();
        assert_eq!(answer.status, 503, "{target}: {}", answer.text());
        let error = answer.header("x-rq-error").unwrap_or_default();
        assert!(error.ends_with("; outcome=not-done"), "{target}: {error}");
        assert!(answer.text().starts_with("leader not found"), "{}", answer.text());
    }
    assert_eq!(cluster.node(left).get("/readyz").status, 503);
    for member in &others {
        cluster.launch_again(*member);
    }
    cluster.wait_all_ready();
    insert(&cluster, left, "b");
    assert_eq!(texts(&cluster, others[0], "strong"), ["a", "b"]);
}

#[test]
fn all_killed_at_once_under_load_and_started_again() {
    let (mut random, seed) = seed();
    let mut cluster = Cluster::builder(3).forming(Forming::Expect).start();
    let counter = Counter::default();
    counter.prepare(&mut caller(&cluster, 0));
    for round in 0..3 {
        let ended = AtomicBool::new(false);
        let addresses = cluster.http_addrs();
        thread::scope(|scope| {
            let ending = EndsClients(&ended);
            scope.spawn(|| run(&counter, &addresses, 6, ANSWER_TIME, seed + round, &ended));
            thread::sleep(Duration::from_millis(500 + random.below(500)));
            (0..3).for_each(|member| cluster.kill(member));
            drop(ending);
        });
        let mut order = vec![0, 1, 2];
        while !order.is_empty() {
            cluster.launch_again(order.swap_remove(random.index(order.len())));
            thread::sleep(Duration::from_millis(random.below(300)));
        }
        cluster.wait_all_ready();
        counter.read_all(&mut caller(&cluster, 0));
        println!("round {round}: {}", counter.summary());
        counter.verdict().assert_linearizable("the counter");
    }
    assert_busy(&counter, 6, Done { reads: 0, writes: 10 });
    assert_one_cluster(&cluster, 3, 0);
    cluster.assert_equal_images();
}

#[test]
fn members_move_to_new_addresses_one_after_the_other() {
    let mut cluster = Cluster::builder(3).forming(Forming::Expect).start();
    cluster.node(0).execute(r#"["CREATE TABLE t(x TEXT)"]"#);
    for member in 0..3 {
        insert(&cluster, member, &format!("before {member}"));
        cluster.stop(member);
        cluster.launch_at_new_addresses(member);
        cluster.wait_ready(member);
        insert(&cluster, member, &format!("moved {member}"));
    }
    let expected: Vec<_> = ["before", "moved"]
        .iter()
        .flat_map(|what| (0..3).map(move |member| format!("{what} {member}")))
        .collect();
    for member in 0..3 {
        assert_eq!(texts(&cluster, member, "linearizable"), expected);
    }
    assert_one_cluster(&cluster, 3, 0);
    let nodes = cluster.node(0).get("/nodes?ver=2").json();
    for (member, node) in nodes["nodes"].as_array().unwrap().iter().enumerate() {
        assert_eq!(node["addr"], cluster.raft_addr(member), "{nodes}");
        assert_eq!(node["api_addr"], format!("http://{}", cluster.http_addr(member)), "{nodes}");
        assert_eq!(node["reachable"], true, "{nodes}");
    }
}

#[test]
fn a_member_comes_back_with_an_empty_disk() {
    let mut cluster = Cluster::builder(3).forming(Forming::Expect).start();
    cluster.node(0).execute(r#"["CREATE TABLE t(x TEXT)"]"#);
    let empty = cluster.a_follower();
    insert(&cluster, empty, "a");
    cluster.kill(empty);
    fs::remove_dir_all(cluster.directory(empty)).unwrap();
    cluster.launch_again(empty);
    cluster.wait_ready(empty);
    insert(&cluster, empty, "b");
    for member in 0..3 {
        assert_eq!(texts(&cluster, member, "linearizable"), ["a", "b"]);
    }
    assert_one_cluster(&cluster, 3, 0);
    cluster.assert_equal_images();
}

#[test]
fn a_dead_follower_fills_nobodys_disk_and_gets_the_database_when_it_is_back() {
    /// What the log may hold, and segments that are being filled or prepared, or go next.
    const LIMIT: u64 = 32 << 20;
    const LOG_BYTES: u64 = LIMIT + 3 * (16 << 20);
    let limit = format!("-limit-log-bytes={LIMIT}");
    let mut cluster = Cluster::builder(3).flags([limit]).start();
    let leader = cluster.wait_leader();
    let dead = cluster.a_follower();
    cluster.node(leader).execute(r#"["CREATE TABLE t(n INTEGER PRIMARY KEY, x TEXT)"]"#);
    cluster.kill(dead);
    let others: Vec<_> = (0..3).filter(|member| *member != dead).collect();
    let (mut random, mut most) = (Random::new(1), 0);
    for _ in 0..110 {
        // Nothing that could be compressed, in a table that stays small: it is the log that grows.
        let row: String = random.bytes(1 << 19).iter().map(|byte| format!("{byte:02x}")).collect();
        cluster.node(leader).execute(&format!(r#"["REPLACE INTO t VALUES(1, '{row}')"]"#));
        most = others.iter().map(|member| log_bytes(&cluster, *member)).fold(most, u64::max);
    }
    println!("the log took {most} bytes at most");
    assert!(most > LIMIT, "the log was never full: {most} bytes");
    assert!(most <= LOG_BYTES, "a log of {most} bytes");
    cluster.launch_again(dead);
    cluster.wait_ready(dead);
    let log = cluster.node(dead).log();
    assert!(log.contains("a database of another member was received"), "{log}");
    cluster.assert_equal_images();
}

/// Bytes of the files a member's log lies in.
fn log_bytes(cluster: &Cluster, member: usize) -> u64 {
    let files = fs::read_dir(cluster.directory(member).join("raft")).unwrap();
    // A segment may be purged while it is looked at.
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
}
