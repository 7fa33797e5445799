//! What an operator and a client do with three nodes, each from the outside: joining, asking any node,
//! redirects, handing over, removing, starting again with the same flags, and what is refused.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rq_tests::{
    Connection, Node, NodeBuilder, Process, Request, Response, binaries, free_addresses,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// A process that is told to stop must have done so by then.
const STOP_TIME: Duration = Duration::from_secs(6);

/// Credentials of `admin`, who may do everything, and of `eve`, who may only read.
const ADMIN: &str = "Basic YWRtaW46c2VjcmV0";
const EVE: &str = "Basic ZXZlOnNlY3JldA==";

fn member(id: &str) -> NodeBuilder {
    Node::builder().flags(["-node-id", id])
}

/// A first node, and others that join it.
fn three(flags: &[&str]) -> Vec<Node> {
    let first = member("1").flags(flags.iter().copied()).errors_expected();
    let mut nodes = vec![first.start()];
    for id in ["2", "3"] {
        let join = ["-join", nodes[0].raft_addr(), "-join-interval", "200ms"].map(str::to_owned);
        let builder = member(id).flags(join).flags(flags.iter().copied());
        nodes.push(builder.errors_expected().start());
    }
    nodes
}

fn wait(complaint: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{complaint}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn status(node: &Node, key: &str) -> Value {
    node.get(&format!("/status?key={key}")).json()
}

fn delete(node: &Node, body: &str) -> Response {
    node.request(&Request::new("DELETE", "/remove", body))
}

fn hand_over(node: &Node, target: &str, body: &str) -> Response {
    node.request(&Request::post(target, body).header("Content-Type", "application/json"))
}

fn leader_is(nodes: &[Node], id: &str) {
    for node in nodes {
        wait(&format!("{id} does not lead everywhere"), || {
            status(node, "store.leader.node_id") == id
        });
    }
}

#[test]
fn any_node_answers_and_says_who_did_it() {
    let nodes = three(&[]);
    let [first, second, _] = nodes.as_slice() else { panic!("three nodes") };
    let created = second.post("/db/execute", r#"["CREATE TABLE t(a)"]"#);
    assert_eq!((created.status, created.json()), (200, json!({ "results": [{}] })));
    assert_eq!(created.header("X-Rqlite-Served-By"), Some(first.raft_addr()));
    let own = first.post("/db/execute", r#"["INSERT INTO t VALUES(1)"]"#);
    assert_eq!(own.header("X-Rqlite-Served-By"), Some(first.http_addr()));

    // Level, who answers it on a follower, and what it is answered at.
    for (level, by, used) in [
        ("weak", first.raft_addr(), "weak"),
        ("auto", first.raft_addr(), "weak"),
        ("strong", first.raft_addr(), "strong"),
        ("linearizable", second.http_addr(), "linearizable"),
        ("none", second.http_addr(), "none"),
    ] {
        let target = format!("/db/query?level={level}");
        let answer = second.post(&target, r#"["SELECT count(*) FROM t"]"#);
        assert_eq!(answer.header("X-Rqlite-Served-By"), Some(by), "{level}");
        assert_eq!(answer.header("X-Rq-Level"), Some(used), "{level}");
        if level != "none" {
            assert_eq!(answer.json()["results"][0]["values"][0][0], 1, "{level}");
        }
    }

    let query = "q=SELECT%20a%20FROM%20t&redirect&level=weak";
    let away = second.get(&format!("/db/query?{query}"));
    assert_eq!((away.status, away.body.as_slice()), (301, &b""[..]));
    let location = format!("http://{}/db/query?{query}", first.http_addr());
    assert_eq!(away.header("Location"), Some(location.as_str()));
    assert_eq!(first.get(&format!("/db/query?{query}")).status, 200, "the leader answers");
    assert_eq!(second.post("/db/execute?redirect", r#"["SELECT 1"]"#).status, 301);
    let queued = second.post("/db/execute?queue&wait", r#"["INSERT INTO t VALUES(2)"]"#);
    assert_eq!(queued.status, 200);
    assert_eq!(first.value("SELECT count(*) FROM t"), 2);
    let vars = second.get("/debug/vars").json();
    assert!(vars["proxy"]["remote_executions"].as_i64() >= Some(2), "{}", vars["proxy"]);
    assert!(vars["mux"]["num_connections_handled"].as_i64() > Some(0), "{}", vars["mux"]);
}

#[test]
fn members_are_shown_handed_over_and_removed_through_any_node() {
    let mut nodes = three(&[]);
    wait("not everybody votes", || {
        let shown = nodes[2].get("/nodes?ver=2").json();
        shown["nodes"].as_array().is_some_and(|nodes| {
            nodes.len() == 3 && nodes.iter().all(|node| node["reachable"] == true)
        })
    });
    let shown = nodes[1].get("/nodes").json();
    assert_eq!(shown["1"]["leader"], true);
    assert_eq!(shown["2"]["api_addr"], format!("http://{}", nodes[1].http_addr()));
    assert_eq!(nodes[1].get("/leader").json()["id"], "1");
    assert_eq!(status(&nodes[0], "store.raft.num_peers"), 2);
    assert_eq!(status(&nodes[1], "store.quorum.needed"), 2);
    assert_eq!(status(&nodes[1], "store.quorum.voters"), json!(["1", "2", "3"]));
    assert_eq!(nodes[1].get("/readyz?sync").status, 200);

    let moved = hand_over(&nodes[1], "/leader?wait", r#"{"id":"3"}"#);
    assert_eq!((moved.status, moved.body.len()), (200, 0));
    assert_eq!(moved.header("X-Rqlite-Served-By"), Some(nodes[0].raft_addr()));
    leader_is(&nodes, "3");
    // Without wait it is passed on as well.
    assert_eq!(hand_over(&nodes[0], "/leader", r#"{"id":"2"}"#).status, 200);
    leader_is(&nodes, "2");
    for (body, message) in [
        (r#"{"id":"2"}"#, "stepdown: cannot step down to the current Leader\n"),
        (r#"{"id":"9"}"#, "stepdown: node not found in cluster\n"),
    ] {
        let refused = hand_over(&nodes[0], "/leader", body);
        assert_eq!((refused.status, refused.text()), (500, message.to_owned()));
    }
    let away = hand_over(&nodes[0], "/leader?wait&redirect", "{}");
    assert_eq!(away.status, 301);

    assert_eq!(delete(&nodes[0], r#"{"id":"nobody"}"#).status, 200);
    let removed = delete(&nodes[0], r#"{"id":"3"}"#);
    assert_eq!((removed.status, removed.body.len()), (200, 0));
    assert_eq!(removed.header("X-Rqlite-Served-By"), Some(nodes[1].raft_addr()));
    wait("the removed node is still a member", || {
        nodes[0].get("/nodes").json().as_object().is_some_and(|nodes| nodes.len() == 2)
    });
    wait("the removed node is still ready", || nodes[2].get("/readyz").status == 503);
    assert_eq!(nodes[2].stop(), 0);
}

#[test]
fn a_leader_that_is_removed_ends_its_part_in_raft_if_told_to() {
    let mut nodes = three(&["-raft-remove-shutdown"]);
    wait("not everybody votes", || status(&nodes[0], "store.quorum.needed") == 2);
    nodes[1].execute(r#"["CREATE TABLE t(a)"]"#);
    let removed = delete(&nodes[1], r#"{"id":"1"}"#);
    assert_eq!((removed.status, removed.text()), (200, String::new()));
    wait("Raft goes on", || status(&nodes[0], "store.raft.state") == "Shutdown");
    wait("nobody leads", || nodes[1].post("/db/execute", r#"["SELECT 1"]"#).status == 200);
    let own = nodes[0].post("/db/query?level=none", r#"["SELECT count(*) FROM t"]"#);
    assert_eq!(own.json()["results"][0]["values"][0][0], 0);
    assert_eq!(nodes[0].get("/readyz").status, 503);
    // Whoever does not lead when it is removed goes on.
    let follower = if status(&nodes[1], "store.leader.node_id") == "2" { 2 } else { 1 };
    let body = format!(r#"{{"id":"{}"}}"#, follower + 1);
    let removed = delete(&nodes[3 - follower], &body);
    assert_eq!((removed.status, removed.text()), (200, String::new()), "{:?}", removed.headers);
    thread::sleep(Duration::from_millis(300));
    assert_ne!(status(&nodes[follower], "store.raft.state"), "Shutdown");
    assert_eq!(nodes[0].stop(), 0);
}

#[test]
fn the_same_flags_again_are_harmless_and_others_are_refused() {
    let mut nodes = three(&[]);
    nodes[0].execute(r#"["CREATE TABLE t(a)"]"#);
    for position in [2, 1] {
        assert_eq!(nodes[position].stop(), 0);
        nodes[0].execute(r#"["INSERT INTO t VALUES(1)"]"#);
        nodes[position].restart();
    }
    // The leader hands over first, and is back without flags for joining.
    let begin = Instant::now();
    assert_eq!(nodes[0].stop(), 0);
    assert!(begin.elapsed() < STOP_TIME);
    assert!(nodes[0].log().contains("stepping down as Leader before shutdown"));
    nodes[1].execute(r#"["INSERT INTO t VALUES(1)"]"#);
    nodes[0].restart();
    let body = r#"["SELECT count(*) FROM t"]"#;
    let answer = nodes[0].post("/db/query?level=linearizable", body).json();
    assert_eq!(answer["results"][0]["values"][0][0], 3, "{answer}");

    let refusals: [(&[&str], &str); 4] = [
        (&["-join", nodes[0].http_addr()], "appears to be serving HTTP when it should be Raft"),
        (
            &["-join", "127.0.0.1:1", "-join-attempts", "2", "-join-interval", "10ms"],
            "clustering failure: failed to join cluster: failed to join cluster",
        ),
        (
            &["-join", nodes[0].raft_addr(), "-node-id", "2", "-join-attempts", "1"],
            "two nodes cannot have one id",
        ),
        (
            &[
                "-join",
                nodes[0].raft_addr(),
                "-raft-adv-addr",
                "nobody.invalid:4002",
                "-join-attempts",
                "1",
            ],
            "failed to resolve nobody.invalid: ",
        ),
    ];
    for (flags, sentence) in refusals {
        let (code, log) = ends(flags, &TempDir::new().unwrap());
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(sentence), "{sentence:?} not in\n{log}");
    }
    // A node that is a cluster of its own holds data; so does one of another cluster.
    let alone = TempDir::new().unwrap();
    let mut single = Node::builder().directory(alone.path()).start();
    single.execute(r#"["CREATE TABLE precious(a)"]"#);
    assert_eq!(single.stop(), 0);
    let (code, log) = ends(&["-join", nodes[0].raft_addr()], &alone);
    assert_eq!(code, Some(1), "{log}");
    let sentence =
        "node is the only node in a single-node cluster, joining other clusters not supported";
    assert!(log.contains(sentence), "{log}");
}

/// Runs a node that is to end by itself; its exit code and what it logged.
fn ends(flags: &[&str], directory: &TempDir) -> (Option<i32>, String) {
    let (http, raft) = free_addresses();
    let place = directory.path().to_str().unwrap();
    let words = [&["-http-addr", &http, "-raft-addr", &raft], flags, &[place]].concat();
    let mut process = Process::start(binaries::rqd(), &words);
    let code = process.wait(PATIENCE).code();
    (code, process.stderr().join("\n"))
}

#[test]
fn a_signal_ends_a_node_that_still_tries_to_join() {
    for (flags, sentence) in [
        (
            &["-join-attempts", "1000"][..],
            "clustering failure: failed to join cluster: join operation canceled",
        ),
        (&["-bootstrap-expect", "3"], "clustering failure: boot canceled"),
    ] {
        let mut node = Node::builder()
            .flags(["-join", "127.0.0.1:1"])
            .flags(flags.iter().copied())
            .errors_expected()
            .spawn();
        wait("HTTP does not answer", || node.try_connect().is_ok());
        wait("it does not try", || node.log().contains("checking that supplied join addresses"));
        let ready = node.get("/readyz");
        assert_eq!(ready.status, 503);
        assert_eq!(node.get("/readyz?noleader").status, 200);
        let begin = Instant::now();
        node.process().signal(Signal::TERM);
        let code = node.process().wait(PATIENCE).code();
        assert!(begin.elapsed() < STOP_TIME);
        assert_eq!(code, Some(1), "{}", node.log());
        assert!(node.log().contains(sentence), "{}", node.log());
    }
}

#[test]
fn credentials_count_on_the_way_to_the_leader() {
    let place = TempDir::new().unwrap();
    let users = place.path().join("users.json");
    fs::write(
        &users,
        r#"[{"username":"admin","password":"secret","perms":["all"]},
            {"username":"eve","password":"secret","perms":["query","status","ready"]}]"#,
    )
    .unwrap();
    let auth = ["-auth", users.to_str().unwrap()];
    let first = member("1").flags(auth).start();
    let join = ["-join", first.raft_addr(), "-join-attempts", "1"];
    let (code, log) = ends(&[&auth[..], &join].concat(), &TempDir::new().unwrap());
    assert_eq!(code, Some(1), "nobody may not join: {log}");
    assert!(log.contains("remote join not authorized (did you forget to set -join-as?)"), "{log}");
    let second = member("2").flags(auth).flags(join).flags(["-join-as", "admin"]).start();
    // A node that asks nobody for a password: the leader still does.
    let third = member("3").flags(join).flags(["-raft-non-voter"]).errors_expected();
    let mut third = third.spawn();
    assert_eq!(third.process().wait(PATIENCE).code(), Some(1), "{}", third.log());

    let send = |node: &Node, target: &str, body: &str, who: &str| {
        node.request(&Request::post(target, body).header("Authorization", who))
    };
    assert_eq!(send(&second, "/db/execute", r#"["CREATE TABLE t(a)"]"#, ADMIN).status, 200);
    assert_eq!(send(&second, "/db/execute", r#"["INSERT INTO t VALUES(1)"]"#, EVE).status, 401);
    let insert = r#"["INSERT INTO t VALUES(1)"]"#;
    assert_eq!(send(&second, "/db/execute?queue&wait", insert, ADMIN).status, 200);
    let seen = send(&second, "/db/query?level=strong", r#"["SELECT count(*) FROM t"]"#, EVE).json();
    assert_eq!(seen["results"][0]["values"][0][0], 1, "{seen}");
}

#[test]
fn a_node_joins_with_a_password_whose_hash_alone_is_in_the_credentials_file() {
    // Argon2id of "sesame", as cheap as it can be.
    const HASH: &str = "$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$\
         OQp8YeMUBvG4x+00oVFI7kWaxTZR2gt4mcips6gwLvc";
    let place = TempDir::new().unwrap();
    let users = place.path().join("users.json");
    let listed = json!([
        { "username": "node", "password": HASH, "perms": ["join", "query", "status", "ready"] },
        { "username": "*", "perms": ["status", "ready"] },
    ]);
    fs::write(&users, listed.to_string()).unwrap();
    let (right, wrong) = (place.path().join("right"), place.path().join("wrong"));
    fs::write(&right, "sesame\n").unwrap();
    fs::write(&wrong, "simsim\n").unwrap();
    let auth = ["-auth", users.to_str().unwrap()];
    let first = member("1").flags(auth).start();
    let join = ["-join", first.raft_addr(), "-join-attempts", "1", "-join-as", "node"];
    let refused = |more: &[&str], sentence: &str| {
        let (code, log) = ends(&[&auth[..], &join, more].concat(), &TempDir::new().unwrap());
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(sentence), "{sentence:?} not in\n{log}");
        assert!(!log.contains("did you forget"), "{log}");
    };
    refused(&[], "give the password itself with -join-as-password-file");
    refused(&["-join-as-password-file", wrong.to_str().unwrap()], "remote join not authorized");
    refused(&["-join-as-password-file", "/nowhere"], "failed to read the password file /nowhere");
    let file = ["-join-as-password-file", right.to_str().unwrap()];
    let second = member("2").flags(auth).flags(join).flags(file).start();
    assert_eq!(status(&second, "store.leader.node_id"), "1");
    wait("it does not vote", || status(&second, "store.quorum.voters") == json!(["1", "2"]));
}

#[test]
fn a_missing_majority_is_explained_beside_the_body_clients_know() {
    let mut nodes = three(&[]);
    nodes[0].execute(r#"["CREATE TABLE t(a)"]"#);
    wait("not everybody votes", || status(&nodes[2], "store.quorum.needed") == 2);
    nodes[0].kill();
    nodes[1].kill();
    let last = &nodes[2];
    let refused = |target: &str| {
        let answer = last.post(target, r#"["INSERT INTO t VALUES(1)"]"#);
        (answer.status, answer.text(), answer.header("X-Rq-Detail").unwrap_or_default().to_owned())
    };
    let mut first = String::new();
    wait("it is not refused", || {
        let (status, text, detail) = refused("/db/execute");
        first = detail;
        status == 503 && text == "leader not found\n"
    });
    let expected = "voters=1,2,3; reachable=3; needed=2; last-contact=";
    assert!(first.starts_with(expected), "already the first says who is there: {first}");
    assert_eq!(refused("/db/execute?redirect&timeout=100ms").0, 500);
    wait("status does not say it", || status(last, "store.quorum.reachable") == json!(["3"]));
    assert_eq!(last.get("/readyz").status, 503);
    assert_eq!(last.post("/db/query?level=none", r#"["SELECT count(*) FROM t"]"#).status, 200);
    let begin = Instant::now();
    let mut connection = Connection::open(last.http_addr()).unwrap();
    let shown = connection.request(&Request::get("/nodes?ver=2")).unwrap().json();
    assert!(begin.elapsed() < PATIENCE);
    let reachable: Vec<_> =
        shown["nodes"].as_array().unwrap().iter().map(|node| node["reachable"].clone()).collect();
    assert_eq!(reachable, [json!(false), json!(false), json!(true)], "{shown}");
}

#[test]
fn a_node_leaves_when_it_is_told_to_at_its_end() {
    let nodes = three(&["-raft-cluster-remove-shutdown"]);
    wait("not everybody votes", || status(&nodes[0], "store.quorum.needed") == 2);
    nodes[0].execute(r#"["CREATE TABLE t(a)"]"#);
    let mut nodes: Vec<_> = ["1", "2", "3"].into_iter().zip(nodes).collect();
    // A leader each time, which hands over before it leaves.
    while nodes.len() > 1 {
        let leader = status(&nodes[0].1, "store.leader.node_id");
        let position = nodes.iter().position(|(id, _)| leader == *id).unwrap();
        let (_, mut node) = nodes.remove(position);
        assert_eq!(node.stop(), 0, "{}", node.log());
        for (_, other) in &nodes {
            wait("it is still a member", || {
                status(other, "store.nodes").as_array().is_some_and(|all| all.len() == nodes.len())
            });
        }
        nodes[0].1.execute(r#"["INSERT INTO t VALUES(1)"]"#);
    }
    assert_eq!(nodes[0].1.value("SELECT count(*) FROM t"), 2);
    // The last one cannot leave, and says so; its data is closed properly nevertheless.
    let (_, mut last) = nodes.remove(0);
    last.process().signal(Signal::TERM);
    assert_eq!(last.process().wait(PATIENCE).code(), Some(1));
    let log = last.log();
    assert!(log.contains("need at least one voter in configuration"), "{log}");
    assert!(log.contains("store closed with node ID"), "{log}");
}
