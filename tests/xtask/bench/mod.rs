//! Measures a single node, or three as a cluster, beside a null server and the disk.
//!
//! - What is compared is measured in turn within one round, so that whatever else the machine does
//!   meets both.
//! - Every server and every measured generator is a process of its own.
//! - Data lies on a real disk, in a directory that is removed at the end.
//! - Nothing is asserted; what makes figures doubtful is said below the table.

pub(crate) mod load_report;
pub(crate) mod samples;

mod awake;
mod cluster;
mod disk;
mod figures;
mod outages;
mod programs;
mod restarts;
mod slow_link;
mod table;
mod throughput;

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
};

use rq_tests::{Node, binaries::workspace_root};
use rustix::fs::statfs;
use tempfile::TempDir;

use self::{figures::Figures, programs::Programs};
use crate::{
    cli::{BenchArguments, Measured},
    failure::Failure,
    output,
};

/// What `statfs` says of a file system in memory on Linux.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// How many processors may have been busy on average before figures are called doubtful.
const BUSY_PROCESSORS_MAX: f64 = 0.5;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// How often every figure is measured.
    rounds: u32,
    /// How long a rate is measured.
    seconds: u64,
    /// How long pauses are looked for.
    pause_seconds: u64,
    /// The bytes of the large database; 0 for none.
    large_bytes: u64,
    /// How often a leader is killed.
    failovers: u32,
}

impl Extent {
    fn of(arguments: &BenchArguments) -> Self {
        let mut extent = if arguments.quick {
            Self { rounds: 1, seconds: 1, pause_seconds: 3, large_bytes: 100_000_000, failovers: 3 }
        } else {
            Self {
                rounds: arguments.rounds,
                seconds: arguments.seconds,
                pause_seconds: 10,
                large_bytes: 1_000_000_000,
                failovers: 20,
            }
        };
        if arguments.skip_large {
            extent.large_bytes = 0;
        }
        extent
    }
}

/// A run in progress.
struct Bench {
    extent: Extent,
    programs: Programs,
    directory: PathBuf,
    figures: Figures,
    /// What makes figures doubtful.
    doubts: Vec<String>,
}

/// Measures everything and prints the table.
pub(crate) fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    // Before the build, which would count as others' work.
    let busy = busy_processors();
    let parent = data_parent(arguments)?;
    let scratch = TempDir::with_prefix_in("bench-", &parent)
        .map_err(Failure::system(format!("a directory in {}", parent.display())))?;
    let programs = Programs::prepare(arguments, scratch.path())?;
    let mut bench = Bench {
        extent: Extent::of(arguments),
        programs,
        directory: scratch.path().to_owned(),
        figures: Figures::default(),
        doubts: Vec::new(),
    };
    if is_memory(scratch.path()) {
        bench.doubts.push("the data lies in memory, not on a disk".to_owned());
    }
    if let Some(busy) = busy.filter(|busy| *busy > BUSY_PROCESSORS_MAX) {
        bench.doubts.push(format!("{busy} processors were busy on average before the start"));
    }
    match arguments.measured {
        Measured::Node => {
            throughput::measure(&mut bench)?;
            throughput::measure_pauses(&mut bench)?;
            restarts::measure(&mut bench)?;
        }
        Measured::Cluster => cluster::measure(&mut bench)?,
        Measured::SlowLink => slow_link::measure(&mut bench)?,
    }
    bench.report(arguments.measured);
    scratch.close().map_err(Failure::system("removing the data"))
}

impl Bench {
    /// A node with default flags on a directory of its own below the data directory.
    fn node(&self, name: &str) -> Node {
        Node::builder().program(&self.programs.rqd).directory(&self.directory.join(name)).start()
    }

    fn report(&self, measured: Measured) {
        let cores = thread::available_parallelism().map_or(0, usize::from);
        let Extent { rounds, seconds, .. } = self.extent;
        output::line(&self.figures.table());
        let extent = match measured {
            Measured::SlowLink => format!("{rounds} joins"),
            Measured::Node | Measured::Cluster => format!("each rate {rounds} × {seconds} s"),
        };
        output::line(&format!(
            "\n{extent}; {cores} cores, shared with the load generator; {}",
            self.programs.describe()
        ));
        for doubt in &self.doubts {
            output::line(&format!("doubtful: {doubt}"));
        }
    }
}

/// Where the data goes: beside what Cargo builds, because temporary directories may be in memory.
fn data_parent(arguments: &BenchArguments) -> Result<PathBuf, Failure> {
    let parent = arguments.directory.clone().unwrap_or_else(|| {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        // An absolute path stays what it is.
        workspace_root().join(target).join("tmp")
    });
    let action = format!("the directory {}", parent.display());
    fs::create_dir_all(&parent)
        .and_then(|()| fs::canonicalize(&parent))
        .map_err(Failure::system(action))
}

fn is_memory(directory: &Path) -> bool {
    statfs(directory)
        .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == TMPFS_MAGIC))
}

/// The load average of the last minute, where the system tells.
fn busy_processors() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}
