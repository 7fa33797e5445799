//! A cluster in network namespaces, on disks and clocks of its own, that is cut apart, slowed down,
//! filled up, stopped and set wrong while clients work. Needs root.
//!
//! The long form is `cargo xtask soak cluster nemesis`: `RQ_CLUSTER_SEED`, `RQ_CLUSTER_SECONDS`.

use std::{
    env, fs,
    sync::{LazyLock, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use rq_tests::{
    Connection, Node, Request,
    cluster::{
        Accounts, Caller, Cluster, Counter, Disk, Done, EndsClients, Environment, FakeClock, Fate,
        Forming, Link, Lists, Nemesis, Network, Registers, Workload, assert_busy, run,
    },
    linearizability::RegisterCall,
};

use tempfile::TempDir;

use crate::Suite;

/// What each client must get done, in whatever time and on whatever machine.
const LEAST: Done = Done { reads: 20, writes: 10 };

/// Clients of one workload.
const CLIENTS: usize = 5;

/// How long a client waits for an answer before the outcome counts as unknown.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How long a client waits where waiting is expected to be in vain.
const SHORT_TIME: Duration = Duration::from_millis(700);

/// The suites of this file.
pub(crate) fn suites() -> Vec<Suite> {
    let suite = |name, run| Suite { name, need: need_network, run };
    vec![
        suite("nemesis::links", links),
        Suite { name: "nemesis::disks", need: need_disk, run: disks },
        Suite { name: "nemesis::clocks", need: need_clock, run: clocks },
        suite("nemesis::a_black_hole_beside_the_majority", black_hole),
        suite("nemesis::a_cut_off_leader", cut_off_leader),
        suite("nemesis::new_addresses_under_stable_names", new_addresses),
        suite("nemesis::stale_where_staleness_is_allowed", stale),
        suite("nemesis::a_replica_as_old_as_allowed", old_replica),
        suite("nemesis::weak_on_a_leader_that_was_replaced", replaced_leader),
        suite("nemesis::increments_through_followers_under_loss", increments),
        suite("nemesis::everything_linearizable", || everything("linearizable", seed())),
        // Another order of harms than the one before.
        suite("nemesis::everything_strong", || everything("strong", seed() + 1)),
    ]
}

fn need_network() -> Result<(), String> {
    static FOUND: LazyLock<Result<(), String>> = LazyLock::new(|| Network::create(1, 0).map(drop));
    FOUND.clone()
}

fn need_disk() -> Result<(), String> {
    Disk::create(16 << 20).map(drop)
}

fn need_clock() -> Result<(), String> {
    let directory = TempDir::new().map_err(|error| error.to_string())?;
    FakeClock::create(directory.path(), "clock").map(drop)
}

/// The seed of a test, printed.
fn seed() -> u64 {
    let seed = env::var("RQ_CLUSTER_SEED").map_or(1, |text| text.parse().unwrap());
    println!("RQ_CLUSTER_SEED={seed}");
    seed
}

/// A cluster of three voters in a network of their own.
fn three(seed: u64) -> Cluster {
    let network = Network::create(3, seed).unwrap();
    Cluster::builder(3).forming(Forming::Expect).network(network).errors_expected().start()
}

/// The links do what they are told: this is what the other tests stand on.
fn links() {
    let network = Network::create(2, 1).unwrap();
    let nodes: Vec<_> = (0..2)
        .map(|member| {
            let address = network.address(member);
            Node::builder()
                .addresses(&format!("{address}:4001"), &format!("{address}:4002"))
                .namespace(&network.namespace(member))
                .start()
        })
        .collect();
    let ask = |member: usize| {
        let mut connection = Connection::open_within(nodes[member].http_addr(), SHORT_TIME)?;
        connection.request(&Request::get("/readyz")).map(|answer| answer.status)
    };
    assert_eq!(ask(0).unwrap(), 200);
    network.set_client_side(0, Link::CUT);
    assert!(ask(0).is_err(), "a cut link carries an answer");
    assert_eq!(ask(1).unwrap(), 200, "another link was cut, too");
    network.heal();
    assert_eq!(ask(0).unwrap(), 200);

    // One direction: the request arrives, the answer does not.
    let mut connection = Connection::open_within(nodes[1].http_addr(), SHORT_TIME).unwrap();
    network.set(1, 2, Link::CUT);
    let body = r#"["CREATE TABLE t(x)"]"#;
    connection.request(&Request::post("/db/execute", body)).unwrap_err();
    network.heal();
    assert_eq!(nodes[1].value("SELECT count(*) FROM sqlite_schema WHERE name = 't'"), 1);

    let delay = Duration::from_millis(60);
    network.set_client_side(0, Link { delay, ..Link::default() });
    let begin = Instant::now();
    assert_eq!(ask(0).unwrap(), 200);
    assert!(begin.elapsed() >= 4 * delay, "connecting and asking took {:?}", begin.elapsed());
    network.heal();

    let before = network.lost_packets();
    network.set_client_side(0, Link { loss_permille: 300, ..Link::default() });
    for _ in 0..50 {
        if network.lost_packets() > before {
            break;
        }
        // It may fail, and that is the point.
        let _lost = ask(0);
    }
    assert!(network.lost_packets() > before, "nothing was lost");
    network.heal();

    // 200,000 bytes a second, and an answer of 100,000.
    network.set_client_side(0, Link { bytes_per_second: 200_000, ..Link::default() });
    let begin = Instant::now();
    let query = r#"["SELECT hex(zeroblob(50000))"]"#;
    assert_eq!(nodes[0].post("/db/query?level=none", query).status, 200);
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
}

/// Disks fill up, hang and recover as they are told.
fn disks() {
    let disk = Disk::create(256 << 20).unwrap();
    let node = Node::builder().directory(&disk.path().join("data")).errors_expected().start();
    node.execute(r#"["CREATE TABLE t(x)"]"#);
    let mut client = Caller::new(vec![node.http_addr().to_owned()], 0, SHORT_TIME);
    let insert = Request::post("/db/execute", r#"["INSERT INTO t VALUES(1)"]"#);
    let frozen = disk.freeze().unwrap();
    match client.call(&insert) {
        Fate::Unknown(_) => {}
        fate => panic!("written to a disk that hangs: {fate:?}"),
    }
    drop(frozen);
    node.execute(r#"["INSERT INTO t VALUES(2)"]"#);
    disk.fill(0);
    let begin = Instant::now();
    while matches!(client.call(&insert), Fate::Done(_)) {
        assert!(begin.elapsed() < Duration::from_secs(30), "a full disk takes everything");
    }
    disk.release();
    let begin = Instant::now();
    while !matches!(client.call(&insert), Fate::Done(_)) {
        assert!(begin.elapsed() < Duration::from_secs(60), "space is back, and nothing is written");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The wall clock of a node jumps as it is told, and nothing else of it.
fn clocks() {
    let directory = TempDir::new().unwrap();
    let clock = FakeClock::create(directory.path(), "clock").unwrap();
    let builder = clock
        .variables()
        .iter()
        .fold(Node::builder(), |builder, (name, value)| builder.variable(name, value));
    let node = builder.start();
    node.execute(r#"["CREATE TABLE t(at)"]"#);
    let mut written = Vec::new();
    for seconds in [0, 3600, -3600, 0] {
        clock.set(seconds);
        node.execute(r#"["INSERT INTO t VALUES(unixepoch('now'))"]"#);
        written.push(node.value("SELECT at FROM t ORDER BY rowid DESC LIMIT 1").as_i64().unwrap());
    }
    let jumps: Vec<_> = written.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (jump, expected) in jumps.iter().zip([3600, -7200, 3600]) {
        assert!((jump - expected).abs() < 60, "{jumps:?}");
    }
}

/// A peer that swallows packets changes nothing for requests that do not need it.
fn black_hole() {
    let cluster = three(seed());
    let leader = cluster.wait_leader();
    let hole = (leader + 1) % 3;
    let other = (leader + 2) % 3;
    cluster.node(leader).execute(r#"["CREATE TABLE t(x)"]"#);
    cluster.network().unwrap().isolate(&[hole]);
    for member in [leader, other] {
        let begin = Instant::now();
        for _ in 0..20 {
            cluster.node(member).execute(r#"["INSERT INTO t VALUES(1)"]"#);
            let target = "/db/query?level=linearizable";
            let answer = cluster.node(member).post(target, r#"["SELECT count(*) FROM t"]"#);
            assert_eq!(answer.header("x-rq-error"), None, "{}", answer.text());
        }
        println!("20 writes and reads through {} took {:?}", Cluster::id(member), begin.elapsed());
    }
    assert_eq!(cluster.leader_among(&[leader, other]), Some(leader), "leadership moved");
    let nodes = cluster.node(leader).get("/nodes?ver=2&timeout=1s").json();
    let reachable: Vec<_> =
        nodes["nodes"].as_array().unwrap().iter().map(|node| node["reachable"].clone()).collect();
    assert_eq!(reachable[hole], false, "{nodes}");
    assert_eq!(reachable[other], true, "{nodes}");
    cluster.network().unwrap().heal();
    let mut cluster = cluster;
    cluster.wait_ready(hole);
    cluster.assert_equal_images();
}

/// A leader that is cut off stops leading, refuses what it cannot promise, and loses nothing.
fn cut_off_leader() {
    let mut cluster = three(seed());
    let leader = cluster.wait_leader();
    let others: Vec<_> = (0..3).filter(|member| *member != leader).collect();
    cluster.node(leader).execute(r#"["CREATE TABLE t(x)", "INSERT INTO t VALUES('before')"]"#);
    cluster.wait_settled();
    cluster.network().unwrap().isolate(&[leader]);
    let patient = Duration::from_secs(40);
    let mut cut_off = Caller::new(vec![cluster.http_addr(leader).to_owned()], 0, patient);
    let begin = Instant::now();
    let insert = Request::post("/db/execute?timeout=3s", r#"["INSERT INTO t VALUES('lost?')"]"#);
    let fate = cut_off.call(&insert);
    assert!(!matches!(fate, Fate::Done(_)), "a leader without a majority wrote: {fate:?}");
    println!("a write through the cut-off leader, after {:?}: {fate:?}", begin.elapsed());
    assert!(!format!("{fate:?}").contains("no answer"), "the client got tired first");
    let new = cluster.wait_leader_among(&others);
    cluster.node(new).execute(r#"["INSERT INTO t VALUES('after')"]"#);
    cluster.wait("the cut-off leader still leads", || {
        cluster.status(leader).filter(|status| status.state != "Leader")
    });
    for level in ["weak", "linearizable", "strong"] {
        let target = format!("/db/query?timeout=2s&level={level}");
        let read = Request::post(&target, r#"["SELECT x FROM t"]"#);
        match cut_off.call(&read) {
            Fate::NotDone(_) => {}
            fate => panic!("{level} through a cut-off node: {fate:?}"),
        }
    }
    cluster.network().unwrap().heal();
    cluster.wait_all_ready();
    cluster.wait_settled();
    let rows = cluster.node(leader).rows("SELECT x FROM t WHERE x != 'lost?'");
    assert_eq!(rows.len(), 2, "{rows:?}");
    if matches!(fate, Fate::NotDone(_)) {
        assert_eq!(cluster.node(leader).value("SELECT count(*) FROM t WHERE x = 'lost?'"), 0);
    }
    cluster.assert_equal_images();
}

/// All members end, and come back elsewhere under the names they had.
fn new_addresses() {
    let network = Network::create(6, 1).unwrap();
    let scratch = TempDir::new().unwrap();
    let hosts = scratch.path().join("hosts");
    let tell = |first_place: usize| {
        let lines: Vec<_> = (0..3)
            .map(|member| format!("{} n{member}.test\n", network.address(first_place + member)))
            .collect();
        fs::write(&hosts, lines.concat()).unwrap();
    };
    let start = |member: usize, place: usize| {
        let address = network.address(place);
        let all: Vec<_> = (0..3).map(|member| format!("n{member}.test:4002")).collect();
        Node::builder()
            .namespace(&network.namespace(place))
            .hosts(&hosts)
            .addresses(&format!("{address}:4001"), &format!("{address}:4002"))
            .directory(&scratch.path().join(format!("n{member}")))
            .flags([
                format!("-node-id=n{member}"),
                format!("-http-adv-addr=n{member}.test:4001"),
                format!("-raft-adv-addr=n{member}.test:4002"),
                format!("-join={}", all.join(",")),
                "-bootstrap-expect=3".to_owned(),
            ])
            .spawn()
    };
    tell(0);
    let mut nodes: Vec<_> = (0..3).map(|member| start(member, member)).collect();
    nodes.iter_mut().for_each(Node::wait_ready);
    nodes[0].execute(r#"["CREATE TABLE t(x)", "INSERT INTO t VALUES('before')"]"#);
    nodes.iter_mut().for_each(Node::kill);
    tell(3);
    let mut nodes: Vec<_> = (0..3).map(|member| start(member, 3 + member)).collect();
    nodes.iter_mut().for_each(Node::wait_ready);
    for (member, node) in nodes.iter().enumerate() {
        node.execute(&format!(r#"["INSERT INTO t VALUES('{member}')"]"#));
    }
    for node in &nodes {
        let target = "/db/query?level=linearizable";
        let answer = node.post(target, r#"["SELECT count(*) FROM t"]"#).json();
        assert_eq!(answer["results"][0]["values"][0][0], 4, "{answer}");
        let members = node.get("/nodes?ver=2").json();
        let members = members["nodes"].as_array().unwrap();
        assert_eq!(members.len(), 3, "{members:?}");
        assert!(members.iter().all(|member| member["reachable"] == true), "{members:?}");
    }
}

/// A follower that hears nothing serves old data at `none`, and the check sees that; at the levels
/// that promise more it serves nothing.
fn stale() {
    for (level, is_stale) in [
        ("none", true),
        ("auto", false),
        ("weak", false),
        ("linearizable", false),
        ("strong", false),
    ] {
        let cluster = three(seed());
        let leader = cluster.wait_leader();
        let deaf = (leader + 1) % 3;
        let of =
            |member: usize| Caller::new(vec![cluster.http_addr(member).to_owned()], 0, ANSWER_TIME);
        let (mut writer, mut reader) = (of(leader), of(deaf));
        let registers = Registers::new(level, 1);
        registers.prepare(&mut writer);
        assert!(registers.call(&mut writer, 0, 0, RegisterCall::Write(1)));
        cluster.wait("the follower does not follow", || {
            let status = cluster.status(deaf)?;
            (status.applied_index == cluster.status(leader)?.applied_index).then_some(())
        });
        assert!(registers.call(&mut reader, 1, 0, RegisterCall::Read));
        assert!(!registers.verdict().is_violation(), "level {level}, before");
        cluster.network().unwrap().isolate(&[deaf]);
        assert!(registers.call(&mut writer, 0, 0, RegisterCall::Write(2)));
        let answered = registers.call(&mut reader, 1, 0, RegisterCall::Read);
        let verdict = registers.verdict();
        println!("level {level}: answered {answered}, {verdict:?}");
        assert_eq!(answered, is_stale, "level {level}");
        assert_eq!(verdict.is_violation(), is_stale, "level {level}: {verdict:?}");
    }
}

/// How often leadership is handed over at most until a weak read has returned what was replaced.
const HANDOVERS: u64 = 20;

/// A leader that was replaced and does not know it answers weak reads with what it has, and the check sees that.
///
/// Pausing a leader does not show it: its lease runs on while it is stopped, nobody else leads before that is over, and what
/// it is asked when it goes on is not answered from what it has; which is better than promised. Leadership that is handed over
/// does not wait for a lease.
fn replaced_leader() {
    let network = Network::create(3, seed()).unwrap();
    let builder = Cluster::builder(3).forming(Forming::Expect).network(network);
    // A lease that is longer than what is done meanwhile.
    let flags = ["-raft-heartbeat-timeout=1s", "-raft-election-timeout=3s"];
    let mut cluster = builder.flags(flags).errors_expected().start();
    let of = |cluster: &Cluster, member: usize| {
        Caller::new(vec![cluster.http_addr(member).to_owned()], 0, ANSWER_TIME)
    };
    let registers = Registers::new("weak", 1);
    let leader = cluster.wait_leader();
    registers.prepare(&mut of(&cluster, leader));
    assert!(registers.call(&mut of(&cluster, leader), 0, 0, RegisterCall::Write(1)));

    cluster.pause(leader);
    let next = cluster.wait_leader_among(&[(leader + 1) % 3, (leader + 2) % 3]);
    assert!(registers.call(&mut of(&cluster, next), 0, 0, RegisterCall::Write(2)));
    let mut reader = of(&cluster, leader);
    let answered = thread::scope(|scope| {
        let read = scope.spawn(|| registers.call(&mut reader, 1, 0, RegisterCall::Read));
        // It is asked before it goes on, or just then.
        thread::sleep(Duration::from_millis(50));
        cluster.resume(leader);
        read.join().unwrap()
    });
    let verdict = registers.verdict();
    println!("paused: answered {answered}, {verdict:?}");
    assert!(!verdict.is_violation(), "its lease is over: {verdict:?}");

    let seen = (0..HANDOVERS).find(|round| {
        hand_over_late(&mut cluster, &registers, 3 + 2 * round);
        let verdict = registers.verdict();
        println!("handover {round}: {verdict:?}");
        verdict.is_violation()
    });
    assert!(seen.is_some(), "an old value passes for the newest");
}

/// Hands leadership over to a node whose answers come late to the old leader; writes to the new one, and reads from the old one.
fn hand_over_late(cluster: &mut Cluster, registers: &Registers, value: u64) {
    cluster.wait_settled();
    let network = cluster.network().unwrap();
    let old = cluster.wait_leader();
    let others = [(old + 1) % 3, (old + 2) % 3];
    let of =
        |member: usize| Caller::new(vec![cluster.http_addr(member).to_owned()], 0, ANSWER_TIME);
    if !registers.call(&mut of(old), 0, 0, RegisterCall::Write(value)) {
        return;
    }
    for other in others {
        let delay = Duration::from_millis(700);
        network.set(other, old, Link { delay, ..Link::default() });
    }
    let body = format!(r#"{{"id":"{}"}}"#, Cluster::id(others[0]));
    if !matches!(of(old).call(&Request::post("/leader", &body)), Fate::Done(_)) {
        network.heal();
        return;
    }
    let begin = Instant::now();
    while cluster.leader_among(&others).is_none() && begin.elapsed() < ANSWER_TIME {}
    if let Some(new) = cluster.leader_among(&others)
        && registers.call(&mut of(new), 0, 0, RegisterCall::Write(value + 1))
    {
        registers.call(&mut of(old), 1, 0, RegisterCall::Read);
    }
    network.heal();
}

/// A read replica that hears nothing serves, at `auto` with a freshness, what is no older than that; which is not the newest,
/// and the check sees that. With a freshness that has passed it serves nothing.
fn old_replica() {
    let network = Network::create(4, seed()).unwrap();
    let builder = Cluster::builder(3).replicas(1).forming(Forming::Expect);
    let mut cluster = builder.network(network).errors_expected().start();
    let replica = 3;
    cluster.wait_ready(replica);
    let leader = cluster.wait_leader();
    let of =
        |member: usize| Caller::new(vec![cluster.http_addr(member).to_owned()], 0, ANSWER_TIME);
    let (mut writer, mut reader) = (of(leader), of(replica));
    let registers = Registers::new("auto&freshness=60s", 1);
    registers.prepare(&mut writer);
    assert!(registers.call(&mut writer, 0, 0, RegisterCall::Write(1)));
    cluster.wait("the replica does not follow", || {
        let status = cluster.status(replica)?;
        (status.applied_index == cluster.status(leader)?.applied_index).then_some(())
    });
    cluster.network().unwrap().isolate(&[replica]);
    assert!(registers.call(&mut writer, 0, 0, RegisterCall::Write(2)));
    assert!(registers.call(&mut reader, 1, 0, RegisterCall::Read), "nothing is answered");
    let verdict = registers.verdict();
    assert!(verdict.is_violation(), "an old value passes for the newest: {verdict:?}");
    let read = Request::post("/db/query?level=auto&freshness=1s", r#"["SELECT 1"]"#);
    cluster.wait("it believes itself to be fresh", || match reader.call(&read) {
        Fate::NotDone(text) => text.contains("stale read").then_some(()),
        Fate::Done(_) => None,
        Fate::Unknown(text) => panic!("{text}"),
    });
}

/// One in five packets is lost between the nodes; each raise goes through a follower.
fn increments() {
    let seed = seed();
    let cluster = three(seed);
    let counter = Counter::default();
    let leader = cluster.wait_leader();
    counter.prepare(&mut Caller::new(cluster.http_addrs(), leader, ANSWER_TIME));
    let followers: Vec<_> = (0..3)
        .filter(|member| *member != leader)
        .map(|member| cluster.http_addr(member).to_owned())
        .collect();
    cluster.network().unwrap().set_all(Link { loss_permille: 200, ..Link::default() });
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let ending = EndsClients(&ended);
        scope.spawn(|| run(&counter, &followers, 8, ANSWER_TIME, seed, &ended));
        thread::sleep(Duration::from_secs(seconds(12)));
        drop(ending);
    });
    println!("{} packets lost", cluster.network().unwrap().lost_packets());
    cluster.network().unwrap().heal();
    let mut cluster = cluster;
    cluster.wait_all_ready();
    counter.read_all(&mut Caller::new(cluster.http_addrs(), 0, ANSWER_TIME));
    println!("{}", counter.summary());
    counter.verdict().assert_linearizable("the counter");
    assert_busy(&counter, 8, Done { reads: 0, writes: 3 });
    cluster.assert_equal_images();
}

fn seconds(default: u64) -> u64 {
    env::var("RQ_CLUSTER_SECONDS").map_or(default, |text| text.parse().unwrap())
}

/// Every harm there is, while registers, lists and accounts are used through all nodes.
fn everything(level: &'static str, seed: u64) {
    let mut environment = Environment::prepare(4, seed).unwrap();
    let builder = Cluster::builder(3)
        .replicas(1)
        .forming(Forming::Expect)
        .flags(["-raft-snap=500", "-raft-snap-int=200ms"]);
    let mut cluster = environment.equip(builder).start();
    let workloads: [Box<dyn Workload>; 3] = [
        Box::new(Registers::new(level, 8)),
        Box::new(Lists::new(level, 8)),
        Box::new(Accounts::new(level, 5)),
    ];
    for workload in &workloads {
        workload.prepare(&mut Caller::new(cluster.http_addrs(), 0, ANSWER_TIME));
    }
    let ended = AtomicBool::new(false);
    let addresses = cluster.http_addrs();
    thread::scope(|scope| {
        let ending = EndsClients(&ended);
        for workload in &workloads {
            let (addresses, ended) = (&addresses, &ended);
            scope.spawn(move || run(&**workload, addresses, CLIENTS, ANSWER_TIME, seed, ended));
        }
        let duration = Duration::from_secs(seconds(40));
        let done = Nemesis::new(seed, 3).run(&mut cluster, &environment, duration);
        println!("{} harms: {done:?}", done.len());
        thread::sleep(Duration::from_secs(2));
        drop(ending);
    });
    cluster.wait_all_ready();
    for (place, workload) in workloads.iter().enumerate() {
        workload.read_all(&mut Caller::new(cluster.http_addrs(), place, ANSWER_TIME));
        println!("{}", workload.summary());
    }
    for workload in &workloads {
        assert_busy(&**workload, CLIENTS, LEAST);
        workload.verdict().assert_linearizable(&workload.summary());
    }
    cluster.assert_equal_images();
}
