//! One seed, one history: a whole node, simulated twice, does the same file operations, writes the same bytes into its
//! log, gives the same answers and holds the same image.
//!
//! What is not drawn from the seed: SQLite's names of temporary files, the salts in its WAL, the times statements took. And
//! openraft's election timeouts: a single voter never waits for one, but a simulated cluster will have to
//! seed them as well.

use std::{collections::BTreeMap, path::Path, time::Duration};

use futures_util::future::join_all;
use rq_sql::Outcome;
use rq_sqlite::Image;
use rq_storage::{LogOptions, Record};
use tempfile::TempDir;

use super::{
    crash::scratch_directory, number, options, simulated_runtime, wait_ready, workload::Workload,
    world::Disks,
};
use crate::{Error, Node, Write, Written};

/// Everything of a run that must repeat.
#[derive(Debug, PartialEq)]
struct Run {
    answers: Vec<Result<(Vec<Outcome>, u64), Error>>,
    records: Vec<Record>,
    files: BTreeMap<String, Vec<u8>>,
    image: Image,
    operations: Vec<String>,
}

#[test]
fn two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not() {
    for seed in [1, 2, 3] {
        let (first, second) = (run(seed), run(seed));
        assert!(first.records.len() >= 30, "as many as were to be kept");
        assert!(first.records[0].index > 0, "and the others were purged");
        assert!(first.answers.len() > 100 && first.operations.len() > 500);
        let step = first.operations.iter().zip(&second.operations).position(|(a, b)| a != b);
        assert_eq!(step, None, "seed {seed}: the first other operation");
        assert_eq!(first.answers, second.answers, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
    }
    assert_ne!(run(4).records, run(5).records);
}

fn run(seed: u64) -> Run {
    let root = scratch_directory();
    let disks = Disks::new();
    disks.world.trace(root.path());
    let mut workload = Workload::new(seed);
    let mut answers = Vec::new();
    for life in 0..2 {
        let runtime = simulated_runtime();
        let seed = seed + (life << 32);
        runtime.block_on(live(&root, &disks, seed, &mut workload, &mut answers));
    }
    let runtime = simulated_runtime();
    let (records, image) = runtime.block_on(async {
        let node = open(root.path(), &disks, seed + (2 << 32)).await;
        let log = node.inner().log.read(0..u64::MAX).unwrap();
        let image = node.inner().machinery.durability.with_checkpointer(|c| c.image().unwrap());
        node.shutdown().await;
        (log, image.unwrap())
    });
    let operations = disks.world.traced();
    Run { answers, records, files: log_files(root.path()), image, operations }
}

async fn open(root: &Path, disks: &Disks, seed: u64) -> Node {
    let log = LogOptions { segment_bytes: 16 << 10, cache_bytes: 4 << 10, ..options(root).log };
    let options = crate::Options { log, ..options(&root.join("data")) };
    let node = Node::open_alone(options, disks.environment(seed)).await.unwrap();
    wait_ready(&node).await;
    node
}

async fn live(
    root: &TempDir,
    disks: &Disks,
    seed: u64,
    workload: &mut Workload,
    answers: &mut Vec<Result<(Vec<Outcome>, u64), Error>>,
) {
    let node = open(root.path(), disks, seed).await;
    execute(&node, Workload::tables(), answers).await;
    for _ in 0..40 {
        match workload.below(12) {
            0 => execute(&node, workload.maintenance(), answers).await,
            1 => node.inner().machinery.checkpoint_if_due(u64::MAX, 1 << 16),
            2 => drop(node.snapshot(Some(30 + workload.below(30))).await.unwrap()),
            3 => tokio::time::sleep(Duration::from_millis(workload.below(3000))).await,
            4 => drop(number(&node, "SELECT count(*) FROM marks").await),
            _ => {
                let count = 1 + workload.below(8);
                let sent: Vec<_> = (0..count).map(|_| workload.request()).collect();
                let ends = sent.iter().map(|sent| node.execute(sent.write.clone()));
                answers.extend(join_all(ends).await.into_iter().map(comparable));
            }
        }
    }
    node.shutdown().await;
}

async fn execute(node: &Node, write: Write, answers: &mut Vec<Result<(Vec<Outcome>, u64), Error>>) {
    answers.push(comparable(node.execute(write).await));
}

/// An answer without the times its statements took.
fn comparable(answer: Result<Written, Error>) -> Result<(Vec<Outcome>, u64), Error> {
    answer.map(|written| {
        let outcomes = written.results.into_iter().map(|result| result.outcome).collect();
        (outcomes, written.index)
    })
}

/// The files of the log, byte by byte.
fn log_files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(root.join("data/raft")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        drop(files.insert(name, std::fs::read(entry.path()).unwrap()));
    }
    files
}
