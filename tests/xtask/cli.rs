//! The command line of the task runner: text in, typed arguments out.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::{bench, failure::Failure, load, null_server, output, soak};

/// The project's task runner.
#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    task: Option<Task>,
}

impl Cli {
    /// Does the task; without one, prints the help.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self.task {
            None => output::line(&Self::command().render_long_help().to_string()),
            Some(Task::Bench(arguments)) => bench::run(&arguments)?,
            Some(Task::Soak(arguments)) => return soak::run(&arguments),
            Some(Task::NullServer(arguments)) => null_server::run(&arguments)?,
            Some(Task::Load(arguments)) => load::run(&arguments)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
enum Task {
    /// Measures a node, or a cluster, beside a server that does nothing and the disk it writes to.
    ///
    /// Builds rqd and this program with optimization, measures every figure several times in turn
    /// with what it is compared with, and prints a table: the median, the smallest and largest
    /// value, the ratio, the floor, and whether the floor is met: by the median, or, where the floor
    /// says "each", by every value. The exit code is 0 either way.
    Bench(BenchArguments),
    /// Runs a randomized suite for long, with optimization; the exit code is the suite's.
    Soak(SoakArguments),
    /// Serves a fixed answer to every GET and POST until it is killed (used by `bench`).
    ///
    /// Prints the address on the first line.
    NullServer(NullServerArguments),
    /// Sends one request again and again over several connections and prints what came of it, as
    /// wrk does (used by `bench` for pauses, and where wrk is missing).
    Load(LoadArguments),
}

/// Arguments of `bench`.
#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct BenchArguments {
    /// What is measured.
    #[arg(value_enum, default_value_t = Measured::Node)]
    pub(crate) measured: Measured,
    /// How often every figure is measured; the table shows the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// How long one measure of a rate lasts, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// Measures this rqd instead of building one.
    #[arg(long, value_name = "PATH")]
    pub(crate) binary: Option<PathBuf>,
    /// Builds with the profile `dist`, the one of packages, instead of `release`.
    #[arg(long)]
    pub(crate) dist: bool,
    /// One round of one second each, pauses over three seconds, three failovers, a large database of
    /// 100 MB: to see whether everything works, not to compare.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Leaves out the start with a large database.
    #[arg(long)]
    pub(crate) skip_large: bool,
    /// Uses this program, as it was built, for the null server and the load.
    #[arg(long, hide = true)]
    pub(crate) unoptimized: bool,
    /// Puts the data below this directory instead of Cargo's target directory; it must be on a disk.
    #[arg(long, value_name = "PATH")]
    pub(crate) directory: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measured {
    /// A single node.
    Node,
    /// Three nodes on this machine; making the leader's disk hang needs root.
    Cluster,
    /// A node that joins over a link of 10 MB/s while the leader takes 500 writes a second; needs root.
    SlowLink,
}

/// Arguments of `soak`.
#[derive(Clone, Debug, Args)]
pub(crate) struct SoakArguments {
    /// Which suite.
    #[arg(value_enum)]
    pub(crate) suite: Suite,
    /// Which part of the suite `cluster`; otherwise all of them, one after the other.
    #[arg(value_enum)]
    pub(crate) part: Option<ClusterPart>,
    /// How much: crash points of a node (crash), seeds (determinism, in twenties), logs of several
    /// crashes each (storage), kills (kill), schedules (schedules), runs (cluster races and images). Each
    /// suite has its own default.
    #[arg(long, visible_alias = "runs", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) points: Option<u64>,
    /// How long, in seconds: each history (cluster nemesis and histories), the peace between two
    /// restarts (cluster rolling).
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: Option<u64>,
    /// The first seed, to repeat a run; otherwise one by chance. `storage` runs this seed alone.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

/// A randomized suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Crashes of a whole simulated node at any operation on its disks.
    Crash,
    /// Equal entries leave equal images on engines that live different lives.
    Determinism,
    /// Crashes of the log alone.
    Storage,
    /// `kill -9` of the real process while writers work.
    Kill,
    /// Schedules of faults of a whole simulated cluster.
    Schedules,
    /// Clusters of real processes.
    Cluster,
}

/// A part of the suite of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClusterPart {
    /// Starting three nodes in any order, with any delay.
    Races,
    /// Every harm there is, in namespaces, while histories are recorded; needs root.
    Nemesis,
    /// Killed and stopped processes while histories are recorded.
    Histories,
    /// Restarting one node after the other under load.
    Rolling,
    /// Equal images after hostile requests, restarts and installed snapshots.
    Images,
}

/// Arguments of `null-server`.
#[derive(Clone, Debug, Args)]
pub(crate) struct NullServerArguments {
    /// The port on 127.0.0.1; 0 for any that is free.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
}

/// Arguments of `load`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArguments {
    /// Host and port.
    #[arg(long)]
    pub(crate) address: String,
    /// Path and query, as they go on the wire.
    #[arg(long)]
    pub(crate) target: String,
    /// The body of a POST; without it a GET is sent.
    #[arg(long)]
    pub(crate) body: Option<String>,
    /// How many connections send at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) connections: u32,
    /// For how many seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
}
