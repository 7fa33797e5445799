//! Rates and latencies under load, and the pauses of a writer while checkpoints run.

use std::{thread, time::Duration};

use rq_tests::Node;

use super::{
    Bench,
    awake::Awake,
    disk::Disk,
    figures::Figure,
    load_report::LoadReport,
    programs::{NullServer, Traffic},
};
use crate::{failure::Failure, output};

/// The table of all loads.
const SCHEMA: &str = r#"["CREATE TABLE foo (id INTEGER NOT NULL PRIMARY KEY, name TEXT)"]"#;

/// An insert of one row.
pub(super) const INSERT: &str = r#"["INSERT INTO foo(name) VALUES('fiona')"]"#;

/// A read of one row by its key, at level none.
const READ_NONE: &str = "/db/query?level=none&q=SELECT%20*%20FROM%20foo%20WHERE%20id%3D1";

/// The same at level linearizable.
pub(super) const READ_LINEARIZABLE: &str =
    "/db/query?level=linearizable&q=SELECT%20*%20FROM%20foo%20WHERE%20id%3D1";

/// Where inserts go.
pub(super) const EXECUTE: &str = "/db/execute";

/// How many connections reads use, and the most that inserts use.
const CONNECTIONS_MAX: u32 = 64;

/// Connections that load the node while the pauses of another are measured.
const LOADING_CONNECTIONS: u32 = 8;

/// The bytes of a row while pauses are measured.
const PAUSE_ROW_BYTES: usize = 1024;

/// Measures rates of null server, disk and node in turn, and the node's memory.
pub(super) fn measure(bench: &mut Bench) -> Result<(), Failure> {
    let null = bench.programs.null_server()?;
    let disk = Disk::prepare(&bench.directory.join("zeros"))
        .map_err(Failure::system("a file to overwrite"))?;
    let node = bench.node("throughput");
    node.execute(SCHEMA);
    let mut inserted = 0;
    for round in 1..=bench.extent.rounds {
        output::note(&format!("rates, round {round} of {}", bench.extent.rounds));
        inserted += measure_writes(bench, &null, &node, 1)?;
        // Directly after the inserts that are compared with it; the disk's mood changes quickly.
        measure_disk(bench, &disk)?;
        inserted += measure_awake(bench, &node, &disk)?;
        for connections in [16, CONNECTIONS_MAX] {
            inserted += measure_writes(bench, &null, &node, connections)?;
        }
        measure_reads(bench, &null, &node)?;
    }
    let stored = node.value("SELECT count(*) FROM foo").as_u64().unwrap_or_default();
    if stored < inserted {
        let doubt = format!("{inserted} inserts were answered, but only {stored} rows are there");
        bench.doubts.push(doubt);
    }
    bench.figures.note(Figure::PeakMemory, node.peak_resident_bytes() as f64);
    bench.figures.note(Figure::MemoryAfterLoad, node.resident_bytes() as f64);
    Ok(())
}

fn measure_disk(bench: &mut Bench, disk: &Disk) -> Result<(), Failure> {
    let report = disk
        .measure(Duration::from_secs(bench.extent.seconds))
        .map_err(Failure::system("overwriting a file"))?;
    bench.figures.note(Figure::DiskRate, report.rate);
    bench.figures.note(Figure::DiskMedian, report.median_us);
    Ok(())
}

/// Measures one connection's inserts and the disk again, with processors that do not sleep. Returns how many inserts
/// the node answered with success.
fn measure_awake(bench: &mut Bench, node: &Node, disk: &Disk) -> Result<u64, Failure> {
    let _awake = match Awake::keep() {
        Ok(awake) => awake,
        Err(error) => {
            bench.doubts.push(format!("the processors could not be kept awake: {error}"));
            return Ok(0);
        }
    };
    let (address, seconds) = (node.http_addr(), bench.extent.seconds);
    let traffic = Traffic { address, target: EXECUTE, body: Some(INSERT), connections: 1, seconds };
    let report = bench.send("inserts, processors awake", traffic)?;
    bench.figures.note(Figure::AwakeInsertMedian, report.median_us);
    let disk = disk
        .measure(Duration::from_secs(seconds))
        .map_err(Failure::system("overwriting a file"))?;
    bench.figures.note(Figure::AwakeDiskMedian, disk.median_us);
    Ok(report.requests.saturating_sub(report.errors))
}

/// Returns how many inserts the node answered with success.
fn measure_writes(
    bench: &mut Bench,
    null: &NullServer,
    node: &Node,
    connections: u32,
) -> Result<u64, Failure> {
    let seconds = bench.extent.seconds;
    let body = Some(INSERT);
    let mut traffic =
        Traffic { address: null.address(), target: EXECUTE, body, connections, seconds };
    let report = bench.send("POST to the null server", traffic)?;
    bench.figures.note(Figure::NullPost(connections), report.rate);
    traffic.address = node.http_addr();
    let report = bench.send("inserts", traffic)?;
    bench.figures.note(Figure::Insert(connections), report.rate);
    if connections == 1 {
        bench.figures.note(Figure::InsertMedian, report.median_us);
    }
    Ok(report.requests.saturating_sub(report.errors))
}

fn measure_reads(bench: &mut Bench, null: &NullServer, node: &Node) -> Result<(), Failure> {
    let seconds = bench.extent.seconds;
    let connections = CONNECTIONS_MAX;
    let cases = [
        (Figure::NullGet, null.address(), "/"),
        (Figure::ReadNone, node.http_addr(), READ_NONE),
        (Figure::ReadLinearizable, node.http_addr(), READ_LINEARIZABLE),
    ];
    for (figure, address, target) in cases {
        if address == node.http_addr() && !node.get(target).text().contains("fiona") {
            bench.doubts.push(format!("{target} does not answer with the row"));
        }
        let traffic = Traffic { address, target, body: None, connections, seconds };
        let report = bench.send(target, traffic)?;
        bench.figures.note(figure, report.rate);
    }
    Ok(())
}

/// Measures how long one writer waits at most while others load the node and checkpoints run.
pub(super) fn measure_pauses(bench: &mut Bench) -> Result<(), Failure> {
    let row = "x".repeat(PAUSE_ROW_BYTES);
    let body = format!(r#"["INSERT INTO foo(name) VALUES('{row}')"]"#);
    for round in 1..=bench.extent.rounds {
        output::note(&format!("pauses, round {round} of {}", bench.extent.rounds));
        let node = bench.node(&format!("pauses-{round}"));
        node.execute(SCHEMA);
        let traffic = Traffic {
            address: node.http_addr(),
            target: EXECUTE,
            body: Some(&body),
            connections: LOADING_CONNECTIONS,
            seconds: bench.extent.pause_seconds,
        };
        let programs = &bench.programs;
        let (loading, writer) = thread::scope(|scope| {
            let loading = scope.spawn(|| programs.send(traffic));
            let writer = programs.send_ourselves(Traffic { connections: 1, ..traffic });
            (loading.join().expect("a generator does not panic"), writer)
        });
        let writer = writer?;
        bench.doubt_errors("inserts beside the writer", &loading?);
        bench.doubt_errors("inserts of the writer", &writer);
        bench.figures.note(Figure::Pause, writer.longest_gap_us.unwrap_or(f64::NAN));
        bench.figures.note(Figure::PauseMedian, writer.median_us);
        note_checkpoints(bench, &node);
    }
    Ok(())
}

/// What the node counted itself; without a checkpoint the pauses say nothing about them.
fn note_checkpoints(bench: &mut Bench, node: &Node) {
    let counters = node.get("/debug/vars").json();
    let counter = |name: &str| counters["db"][name].as_f64();
    match counter("checkpoints") {
        Some(checkpoints) if checkpoints > 0.0 => {
            bench.figures.note(Figure::PauseCheckpoints, checkpoints);
        }
        _ => bench.doubts.push("no checkpoint ran while pauses were measured".to_owned()),
    }
    if let Some(pause) = counter("checkpoint_pause_us_max") {
        bench.figures.note(Figure::CheckpointPause, pause);
    }
}

impl Bench {
    /// Sends traffic, and notes if answers were errors.
    pub(super) fn send(&mut self, what: &str, traffic: Traffic<'_>) -> Result<LoadReport, Failure> {
        let report = self.programs.send(traffic)?;
        self.doubt_errors(&format!("{what}, {} connections", traffic.connections), &report);
        Ok(report)
    }

    fn doubt_errors(&mut self, what: &str, report: &LoadReport) {
        if report.errors > 0 {
            let LoadReport { errors, requests, .. } = report;
            self.doubts.push(format!("{what}: {errors} errors among {requests} requests"));
        }
    }
}

/// Loads a node for a second, so that there is something to replay.
pub(super) fn load_briefly(bench: &mut Bench, node: &Node) -> Result<(), Failure> {
    let traffic = Traffic {
        address: node.http_addr(),
        target: EXECUTE,
        body: Some(INSERT),
        connections: 16,
        seconds: 1,
    };
    bench.send("inserts before a kill", traffic).map(drop)
}

/// Creates the table that [`load_briefly`] writes to.
pub(super) fn create_table(node: &Node) {
    node.execute(SCHEMA);
}
