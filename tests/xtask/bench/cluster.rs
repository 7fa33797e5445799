//! Three nodes on this machine: inserts, reads on leader and follower, the time without a leader
//! after a kill, outages of other kinds, and what a new node's joining costs.
//!
//! All nodes, the load generator and the null server share the machine's processors and its one
//! disk, so the figures are a floor for three machines, not a forecast.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rq_tests::{
    Node, Request,
    cluster::{Caller, Cluster, Fate, Forming},
};

use super::{
    Bench,
    figures::Figure,
    outages,
    programs::{NullServer, Traffic},
    throughput::{EXECUTE, INSERT, READ_LINEARIZABLE, create_table},
};
use crate::{failure::Failure, output};

/// The numbers of connections inserts are measured with.
const CONNECTIONS: [u32; 3] = [1, 16, 64];

/// How many connections reads use.
const READ_CONNECTIONS: u32 = 64;

/// How long a client waits for one answer while there is no leader.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// How long it waits after a refusal.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(5);

/// What one statement adds to the large database.
const STATEMENT_BYTES: u64 = 10_000_000;

/// Ten rows of a megabyte each, which no compression makes small.
const FILL: &str = r#"["INSERT INTO large(data) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT randomblob(1000000) FROM n"]"#;

/// Measures rates, failovers, other outages and joins.
pub(super) fn measure(bench: &mut Bench) -> Result<(), Failure> {
    let null = bench.programs.null_server()?;
    let mut cluster = Cluster::builder(3)
        .forming(Forming::Expect)
        .program(bench.programs.rqd.clone())
        .directories(directories(bench, "three", 3))
        .start();
    create_table(cluster.node(cluster.wait_leader()));
    for round in 1..=bench.extent.rounds {
        output::note(&format!("three nodes, round {round} of {}", bench.extent.rounds));
        measure_rates(bench, &null, &cluster)?;
    }
    for member in 0..3 {
        let peak = cluster.node(member).peak_resident_bytes();
        bench.figures.note(Figure::ClusterPeakMemory, peak as f64);
    }
    for round in 1..=bench.extent.failovers {
        output::note(&format!("failover {round} of {}", bench.extent.failovers));
        measure_failover(bench, &mut cluster)?;
    }
    outages::measure_restarts(bench, &mut cluster);
    drop(cluster);
    outages::measure_hangs(bench)?;
    if bench.extent.large_bytes > 0 {
        measure_joins(bench)?;
    }
    Ok(())
}

/// Data directories for members of a cluster.
pub(super) fn directories(bench: &Bench, name: &str, count: usize) -> Vec<PathBuf> {
    (0..count).map(|member| bench.directory.join(format!("{name}-{member}"))).collect()
}

fn measure_rates(bench: &mut Bench, null: &NullServer, cluster: &Cluster) -> Result<(), Failure> {
    let seconds = bench.extent.seconds;
    let leader = cluster.wait_leader();
    let follower = cluster.a_follower();
    for connections in CONNECTIONS {
        let body = Some(INSERT);
        let mut traffic =
            Traffic { address: null.address(), target: EXECUTE, body, connections, seconds };
        let report = bench.send("POST to the null server", traffic)?;
        bench.figures.note(Figure::NullPost(connections), report.rate);
        traffic.address = cluster.http_addr(leader);
        let report = bench.send("inserts on the leader", traffic)?;
        bench.figures.note(Figure::ClusterInsert(connections), report.rate);
    }
    let cases = [
        (Figure::NullGet, null.address(), "/"),
        (Figure::ClusterReadLeader, cluster.http_addr(leader), READ_LINEARIZABLE),
        (Figure::ClusterReadFollower, cluster.http_addr(follower), READ_LINEARIZABLE),
    ];
    for (figure, address, target) in cases {
        let connections = READ_CONNECTIONS;
        let traffic = Traffic { address, target, body: None, connections, seconds };
        let report = bench.send(target, traffic)?;
        bench.figures.note(figure, report.rate);
    }
    if cluster.leader() != Some(leader) {
        bench.doubts.push("leadership moved while rates were measured".to_owned());
    }
    Ok(())
}

/// Kills the leader and writes through another node until that is acknowledged; then starts the
/// killed one again and waits until all agree.
fn measure_failover(bench: &mut Bench, cluster: &mut Cluster) -> Result<(), Failure> {
    cluster.wait_settled();
    let leader = cluster.wait_leader();
    let others: Vec<_> = (0..3)
        .filter(|member| *member != leader)
        .map(|member| cluster.http_addr(member).to_owned())
        .collect();
    let mut caller = Caller::new(others, 0, ANSWER_TIME);
    let insert = Request::post(EXECUTE, INSERT);
    let begin = Instant::now();
    cluster.kill(leader);
    loop {
        match caller.call(&insert) {
            Fate::Done(_) => break,
            // The node that is asked may have sent it to the leader that was killed.
            Fate::NotDone(_) | Fate::Unknown(_) => thread::sleep(PAUSE_AFTER_REFUSAL),
        }
        if begin.elapsed() > ANSWER_TIME {
            return Err(Failure::program("rqd", "no write succeeds after the leader was killed"));
        }
    }
    bench.figures.note(Figure::Failover, begin.elapsed().as_secs_f64() * 1e6);
    cluster.launch_again(leader);
    cluster.wait_ready(leader);
    Ok(())
}

/// Copies the large database and lets a new node join the one that has it, in turn.
fn measure_joins(bench: &mut Bench) -> Result<(), Failure> {
    output::note(&format!("filling a database of {} MB", bench.extent.large_bytes / 1_000_000));
    let mut cluster = Cluster::builder(1)
        .replicas(1)
        .program(bench.programs.rqd.clone())
        .directories(directories(bench, "large", 2))
        .prepare();
    cluster.launch(0);
    cluster.wait_ready(0);
    cluster.node(0).execute(r#"["CREATE TABLE large (data BLOB)"]"#);
    for _ in 0..bench.extent.large_bytes.div_ceil(STATEMENT_BYTES) {
        cluster.node(0).execute(FILL);
    }
    // What was written is folded back and the log purged but for its last entry, so that a new node needs the database.
    let answer = cluster.node(0).post("/snapshot?trailing_logs=1", "");
    if answer.status != 200 {
        bench.doubts.push(format!("/snapshot answers {}", answer.status));
    }
    for round in 1..=bench.extent.rounds {
        output::note(&format!("joins, round {round} of {}", bench.extent.rounds));
        measure_copy(bench, &cluster.directory(0).join("db.sqlite"))?;
        measure_join(bench, &mut cluster)?;
    }
    note_memory(bench, cluster.node(0));
    Ok(())
}

fn measure_copy(bench: &mut Bench, database: &Path) -> Result<(), Failure> {
    let copy = bench.directory.join("copy");
    let begin = Instant::now();
    let bytes = fs::copy(database, &copy)
        .and_then(|bytes| File::open(&copy)?.sync_all().map(|()| bytes))
        .map_err(Failure::system("copying the database"))?;
    bench.figures.note(Figure::CopyRate, bytes as f64 / begin.elapsed().as_secs_f64());
    fs::remove_file(&copy).map_err(Failure::system("removing the copy"))
}

fn measure_join(bench: &mut Bench, cluster: &mut Cluster) -> Result<(), Failure> {
    let begin = Instant::now();
    cluster.launch(1);
    cluster.wait_ready(1);
    let elapsed = begin.elapsed().as_secs_f64();
    let database = cluster.directory(1).join("db.sqlite");
    let bytes =
        fs::metadata(&database).map_err(Failure::system("the joined node's database"))?.len();
    bench.figures.note(Figure::JoinRate, bytes as f64 / elapsed);
    if bytes < bench.extent.large_bytes {
        bench.doubts.push(format!("the joined node holds {bytes} bytes only when it is ready"));
    }
    if !cluster.node(1).log().contains("a database of another member was received") {
        bench.doubts.push("the joined node made its database from the log".to_owned());
    }
    note_memory(bench, cluster.node(1));
    cluster.kill(1);
    let id = Cluster::id(1);
    let request = Request::new("DELETE", "/remove", format!(r#"{{"id":"{id}"}}"#));
    let answer = cluster.node(0).request(&request);
    if answer.status != 200 {
        return Err(Failure::program("rqd", format!("/remove answers {}", answer.text())));
    }
    fs::remove_dir_all(cluster.directory(1)).map_err(Failure::system("removing the joined node"))
}

fn note_memory(bench: &mut Bench, node: &Node) {
    bench.figures.note(Figure::JoinMemory, node.peak_resident_bytes() as f64);
}
