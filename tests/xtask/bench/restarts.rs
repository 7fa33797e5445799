//! How long a node takes to be ready, new, empty and large, after `kill -9`; and its memory when
//! nobody asks it anything.
//!
//! What was written before a kill is still in the system's cache: this is a crash of the process,
//! not of the machine.

use std::{
    thread,
    time::{Duration, Instant},
};

use rq_tests::Node;

use super::{
    Bench,
    figures::Figure,
    throughput::{create_table, load_briefly},
};
use crate::{failure::Failure, output};

/// When an idle node's memory is looked at, after its start.
const IDLE: Duration = Duration::from_secs(5);

/// What one statement adds to the large database.
const STATEMENT_BYTES: u64 = 10_000_000;

/// Ten rows of a megabyte each.
const FILL: &str = r#"["INSERT INTO large(data) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT zeroblob(1000000) FROM n"]"#;

/// Measures starts and idle memory.
pub(super) fn measure(bench: &mut Bench) -> Result<(), Failure> {
    for round in 1..=bench.extent.rounds {
        output::note(&format!("starts, round {round} of {}", bench.extent.rounds));
        let begin = Instant::now();
        let mut node = bench.node(&format!("empty-{round}"));
        bench.figures.note(Figure::StartFirst, microseconds(begin));
        thread::sleep(IDLE);
        bench.figures.note(Figure::IdleMemory, node.resident_bytes() as f64);
        note_restart(bench, &mut node, Figure::StartEmpty);
    }
    if bench.extent.large_bytes > 0 {
        measure_large(bench)?;
    }
    Ok(())
}

fn measure_large(bench: &mut Bench) -> Result<(), Failure> {
    output::note(&format!("filling a database of {} MB", bench.extent.large_bytes / 1_000_000));
    let mut node = bench.node("large");
    create_table(&node);
    node.execute(r#"["CREATE TABLE large (data BLOB)"]"#);
    for _ in 0..bench.extent.large_bytes.div_ceil(STATEMENT_BYTES) {
        node.execute(FILL);
    }
    for round in 1..=bench.extent.rounds {
        output::note(&format!("large starts, round {round} of {}", bench.extent.rounds));
        load_briefly(bench, &node)?;
        note_restart(bench, &mut node, Figure::StartLarge);
    }
    let sum = node.value("SELECT sum(length(data)) FROM large").as_u64().unwrap_or_default();
    if sum < bench.extent.large_bytes {
        bench.doubts.push(format!("the large database holds {sum} bytes only"));
    }
    Ok(())
}

fn note_restart(bench: &mut Bench, node: &mut Node, figure: Figure) {
    node.kill();
    let begin = Instant::now();
    node.restart();
    bench.figures.note(figure, microseconds(begin));
}

fn microseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
