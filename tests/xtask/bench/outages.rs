//! How long three nodes acknowledge no write while one after the other is restarted, and when the leader's disk hangs.
//!
//! A steady load of naive clients looks at both, the same as in the test of the rolling restart. What is promised of each single
//! outage is judged by the longest, not by the median.

use std::{
    thread,
    time::{Duration, Instant},
};

use rq_tests::cluster::{Cluster, Disk, Forming, NaiveLoad, Seen};
use serde_json::json;

use super::{Bench, figures::Figure};
use crate::{failure::Failure, output};

/// How long a client waits for one answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// How long the nodes are left in peace before and after each harm.
const PEACE: Duration = Duration::from_secs(2);

/// How long a disk hangs: longer than it may keep writes from being acknowledged.
const HANG: Duration = Duration::from_secs(5);

/// The bytes of a disk that can hang.
const DISK_BYTES: u64 = 512 << 20;

/// The member whose disk can hang.
const VICTIM: usize = 0;

/// Restarts the members of a cluster in turn, once a round, under load.
pub(super) fn measure_restarts(bench: &mut Bench, cluster: &mut Cluster) {
    cluster.node(0).execute(NaiveLoad::SCHEMA);
    let load = NaiveLoad::new(cluster.http_addrs(), ANSWER_TIME);
    for round in 1..=bench.extent.rounds {
        output::note(&format!("rolling restart, round {round} of {}", bench.extent.rounds));
        let (leaders, seen) = load.during(|| cluster.restart_in_turn(PEACE));
        note_gap(bench, Figure::RestartGap, &seen);
        if leaders == 0 {
            bench.doubts.push("no leader was among those that were restarted".to_owned());
        }
        doubt(bench, "reads failed while nodes were restarted", &seen.failed_reads);
        doubt(bench, "writes failed although they were sent twice", &seen.failed_writes);
    }
}

/// Lets the leader's disk hang, once a round, while others are asked to write. Where that is not permitted, says so.
pub(super) fn measure_hangs(bench: &mut Bench) -> Result<(), Failure> {
    match hanging_disk() {
        Ok(disk) => measure_hangs_of(bench, &disk),
        Err(reason) => {
            bench.doubts.push(format!("no disk could be made to hang: {reason}"));
            Ok(())
        }
    }
}

/// A disk that was seen to hang.
fn hanging_disk() -> Result<Disk, String> {
    let disk = Disk::create(DISK_BYTES)?;
    drop(disk.freeze()?);
    Ok(disk)
}

fn measure_hangs_of(bench: &mut Bench, disk: &Disk) -> Result<(), Failure> {
    let mut directories = super::cluster::directories(bench, "hung", 3);
    directories[VICTIM] = disk.path().join("data");
    let mut cluster = Cluster::builder(3)
        .forming(Forming::Expect)
        .program(bench.programs.rqd.clone())
        .directories(directories)
        .errors_expected()
        .start();
    cluster.node(0).execute(NaiveLoad::SCHEMA);
    for round in 1..=bench.extent.rounds {
        output::note(&format!("hung disk, round {round} of {}", bench.extent.rounds));
        lead(&mut cluster, VICTIM)?;
        let others = (0..3).filter(|member| *member != VICTIM);
        let others = others.map(|member| cluster.http_addr(member).to_owned()).collect();
        let load = NaiveLoad::new(others, ANSWER_TIME);
        let (led, seen) = load.during(|| {
            thread::sleep(PEACE);
            let led = cluster.leader() == Some(VICTIM);
            let frozen = disk.freeze().expect("it was frozen before");
            thread::sleep(HANG);
            drop(frozen);
            thread::sleep(PEACE);
            led
        });
        if !led {
            bench.doubts.push("a disk hung that was not the leader's".to_owned());
        }
        note_gap(bench, Figure::HangGap, &seen);
    }
    Ok(())
}

/// Has leadership given to a member that has all entries, unless it leads.
fn lead(cluster: &mut Cluster, member: usize) -> Result<(), Failure> {
    let begin = Instant::now();
    loop {
        cluster.wait_all_ready();
        cluster.wait_settled();
        let leader = cluster.wait_leader();
        if leader == member {
            return Ok(());
        }
        if begin.elapsed() > ANSWER_TIME {
            return Err(Failure::program("rqd", "leadership is not handed over"));
        }
        // Whoever is asked to stand may lose the election; what is answered does not matter.
        let body = json!({"id": Cluster::id(member)}).to_string();
        cluster.node(leader).post("/leader?wait", body);
    }
}

fn note_gap(bench: &mut Bench, figure: Figure, seen: &Seen) {
    let gap = seen.longest_gap();
    bench.figures.note(figure, gap.as_secs_f64() * 1e6);
    let Seen { reads, writes, repeated, .. } = seen;
    output::note(&format!(
        "{} ms without a write; {reads} reads, {writes} writes, {repeated} of them sent twice",
        gap.as_millis()
    ));
}

fn doubt(bench: &mut Bench, what: &str, failed: &[String]) {
    if let Some(first) = failed.first() {
        bench.doubts.push(format!("{} {what}, the first: {first}", failed.len()));
    }
}
