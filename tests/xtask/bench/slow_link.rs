//! A node that joins a large database over a slow link while the leader goes on writing: how long it takes, what writers feel
//! of it, and what the leader keeps for its sake.
//!
//! Both nodes have a namespace of their own, between which packets pass at a limited rate; clients of the leader come another
//! way. Half of the writes are inserts, the other half change a row anywhere in the database, so that pages which were
//! sent have to be sent again.

use std::{
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rq_tests::{
    Connection, Random, Request,
    cluster::{Caller, Cluster, Fate, Link, Network},
};
use serde_json::json;

use super::{Bench, figures::Figure, samples::Samples};
use crate::{failure::Failure, output};

/// What passes between the nodes in a second, in each direction.
const LINK_BYTES: u64 = 10_000_000;

/// Writes in a second, all writers together.
const RATE: u32 = 500;

/// Writers, each with its share of the rate and a connection of its own.
const WRITERS: u32 = 16;

/// How long is written before the new node is started.
const BEFORE: Duration = Duration::from_secs(10);

/// How long the new node may take. Beyond, the figures are those of so long, and that is said.
const PATIENCE: Duration = Duration::from_secs(1200);

/// How often sizes are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a writer waits for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Bytes of a row; two of them share a page.
const ROW_BYTES: u64 = 1_900;

/// Rows that one statement of the filling adds.
const STATEMENT_ROWS: u64 = 5_000;

/// Measures joins, one a round.
pub(super) fn measure(bench: &mut Bench) -> Result<(), Failure> {
    let failed = |reason| Failure::program("the network", reason);
    let network = Network::create(2, 1).map_err(failed)?;
    let link = Link { bytes_per_second: LINK_BYTES, ..Link::default() };
    network.set_both(0, 1, link);
    let directories = ["leader", "joining"].map(|name| bench.directory.join(name));
    let mut cluster = Cluster::builder(2)
        .program(bench.programs.rqd.clone())
        .directories(directories.into())
        .network(network)
        .prepare();
    cluster.launch(0);
    cluster.wait_ready(0);
    let rows = fill(bench.extent.large_bytes, &cluster);
    for round in 1..=bench.extent.rounds {
        output::note(&format!(
            "joins over the slow link, round {round} of {}",
            bench.extent.rounds
        ));
        measure_join(bench, &mut cluster, rows)?;
    }
    Ok(())
}

/// Fills the database, and gives the number of its rows.
fn fill(bytes: u64, cluster: &Cluster) -> u64 {
    output::note(&format!("filling a database of {} MB", bytes / 1_000_000));
    let leader = cluster.node(0);
    leader.execute(r#"["CREATE TABLE large(id INTEGER PRIMARY KEY, n INTEGER, data BLOB)", "CREATE TABLE t(x TEXT)"]"#);
    let statement = format!(
        "INSERT INTO large(n, data) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {STATEMENT_ROWS}) \
         SELECT 0, randomblob({ROW_BYTES}) FROM n"
    );
    let statements = (bytes / ROW_BYTES).div_ceil(STATEMENT_ROWS).max(1);
    for _ in 0..statements {
        leader.execute(&json!([statement]).to_string());
    }
    statements * STATEMENT_ROWS
}

/// What is seen while writers write.
#[derive(Debug, Default)]
struct Seen {
    /// When a write was sent, and how long it took in microseconds.
    writes: Mutex<Vec<(Instant, f64)>>,
    refusals: Mutex<Vec<String>>,
}

fn measure_join(bench: &mut Bench, cluster: &mut Cluster, rows: u64) -> Result<(), Failure> {
    // The log is purged but for its last entry, so that the new node needs the database.
    let answer = cluster.node(0).post("/snapshot?trailing_logs=1", "");
    if answer.status != 200 {
        bench.doubts.push(format!("/snapshot answers {}", answer.status));
    }
    let (seen, ended) = (Seen::default(), AtomicBool::new(false));
    let address = cluster.http_addr(0).to_owned();
    let (began, took, largest) = thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (address, seen, ended) = (&address, &seen, &ended);
            scope.spawn(move || write(writer, address, rows, seen, ended));
        }
        thread::sleep(BEFORE);
        let before = cluster.node(0).resident_bytes();
        bench.figures.note(Figure::BeforeJoinMemory, before as f64);
        let began = Instant::now();
        cluster.launch(1);
        let largest = watch(cluster, began);
        let took = began.elapsed();
        ended.store(true, Ordering::Relaxed);
        (began, took, largest)
    });
    note(bench, &seen, began, took)?;
    bench.figures.note(Figure::SlowJoinWal, largest.wal as f64);
    bench.figures.note(Figure::SlowJoinLog, largest.log as f64);
    bench.figures.note(Figure::SlowJoinLeaderMemory, largest.memory[0] as f64);
    bench.figures.note(Figure::SlowJoinMemory, largest.memory[1] as f64);
    if !largest.ready {
        bench.doubts.push(format!("the new node was not ready after {took:?}"));
    }
    for line in cluster.node(0).log().lines().filter(|line| line.contains("the database")) {
        output::note(line);
    }
    leave(cluster)
}

/// The new node leaves, with its vote, and its data go.
fn leave(cluster: &mut Cluster) -> Result<(), Failure> {
    let request = Request::new("DELETE", "/remove", json!({"id": Cluster::id(1)}).to_string());
    let answer = cluster.node(0).request(&request);
    if answer.status != 200 {
        return Err(Failure::program("rqd", format!("/remove answers {}", answer.text())));
    }
    cluster.kill(1);
    fs::remove_dir_all(cluster.directory(1)).map_err(Failure::system("removing the joined node"))
}

/// What writers felt before and during the join.
fn note(bench: &mut Bench, seen: &Seen, began: Instant, took: Duration) -> Result<(), Failure> {
    let writes = seen.writes.lock().expect("no writer panics");
    let of = |during: bool| -> Samples {
        let these = writes.iter().filter(|(sent, _)| (*sent >= began) == during);
        these.map(|(_, latency)| *latency).collect()
    };
    let (before, during) = (of(false), of(true));
    let none = || Failure::program("rqd", "acknowledges no write");
    bench.figures.note(Figure::BeforeJoinLatency, before.percentile(99).ok_or_else(none)?);
    bench.figures.note(Figure::SlowJoinLatency, during.percentile(99).ok_or_else(none)?);
    bench.figures.note(Figure::SlowJoin, took.as_secs_f64());
    bench.figures.note(Figure::SlowJoinWrites, during.len() as f64 / took.as_secs_f64());
    let refusals = seen.refusals.lock().expect("no writer panics");
    if let Some(first) = refusals.first() {
        bench.doubts.push(format!("{} writes failed, the first: {first}", refusals.len()));
    }
    Ok(())
}

/// Sends a writer's share of the rate; what was late is made up for.
fn write(writer: u32, address: &str, rows: u64, seen: &Seen, ended: &AtomicBool) {
    let mut caller = Caller::new(vec![address.to_owned()], 0, ANSWER_TIME);
    let mut random = Random::new(u64::from(writer));
    let pause = Duration::from_secs(1) * WRITERS / RATE;
    let mut next = Instant::now() + pause * writer / WRITERS;
    for number in 0_u64.. {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next += pause;
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let statement = if number.is_multiple_of(2) {
            json!([[
                "INSERT INTO t VALUES(?)",
                "a row of about a hundred bytes, as ordinary programs write them again and again, day by day"
            ]])
        } else {
            json!([["UPDATE large SET n = n + 1 WHERE id = ?", 1 + random.below(rows)]])
        };
        let request = Request::post("/db/execute", statement.to_string());
        let sent = Instant::now();
        match caller.call(&request) {
            Fate::Done(_) => {
                let latency = sent.elapsed().as_secs_f64() * 1e6;
                seen.writes.lock().expect("no writer panics").push((sent, latency));
            }
            Fate::NotDone(text) | Fate::Unknown(text) => {
                seen.refusals.lock().expect("no writer panics").push(text);
            }
        }
    }
}

/// The largest sizes there were, and whether the new node became ready.
#[derive(Debug, Default)]
struct Largest {
    wal: u64,
    log: u64,
    /// Resident bytes of the leader and of the new node.
    memory: [u64; 2],
    ready: bool,
}

/// Looks at the leader's files and at both processes until the new node is ready.
fn watch(cluster: &Cluster, began: Instant) -> Largest {
    let mut largest = Largest::default();
    let leader = cluster.directory(0);
    while began.elapsed() < PATIENCE {
        let wal = fs::metadata(leader.join("db.sqlite-wal")).map_or(0, |found| found.len());
        largest.wal = largest.wal.max(wal);
        largest.log = largest.log.max(log_bytes(&leader));
        for (member, memory) in largest.memory.iter_mut().enumerate() {
            *memory = (*memory).max(cluster.node(member).resident_bytes());
        }
        if is_ready(cluster.http_addr(1)) {
            largest.ready = true;
            break;
        }
        thread::sleep(LOOK_INTERVAL);
    }
    largest
}

fn log_bytes(directory: &Path) -> u64 {
    let files = fs::read_dir(directory.join("raft")).into_iter().flatten();
    // A segment may be purged while it is looked at.
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn is_ready(address: &str) -> bool {
    let answer = Connection::open_within(address, Duration::from_secs(2))
        .and_then(|mut connection| connection.request(&Request::get("/readyz")));
    answer.is_ok_and(|answer| answer.status == 200)
}
