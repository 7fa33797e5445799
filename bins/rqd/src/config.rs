//! From what was typed to what is to be run: checked, typed, complete.
//!
//! [`Config::check`] applies the rules of rqlited in its order and with its sentences, because
//! scripts test for them; then ours. The first problem ends it. Nothing is opened, bound or
//! created here; the only look at the disk is whether paths of extensions exist.

mod address;
mod cluster;
mod limits;
mod rules;
mod timing;
mod unsupported;

use std::{
    ffi::OsString,
    fmt, io,
    path::{self, PathBuf},
    time::Duration,
};

use rq_security::{ClientCertificates, ServerTlsOptions};

pub use crate::cli::{LogFormat, LogLevel};
pub use address::HostPort;
pub use cluster::{ClusterConfig, Forming, InternodeConfig, InternodeTls, JoinAs};
pub use limits::Limits;
pub use timing::RaftTiming;

use crate::{
    cli::{Cli, QueueFlags, SqliteFlags},
    goflag::GoDuration,
};

/// How this node is to be run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory, absolute. Not looked at yet.
    pub data_directory: PathBuf,
    /// The name of this node; `None` keeps the stored one, or else takes the advertised Raft
    /// address.
    pub node_id: Option<String>,
    /// The HTTP API.
    pub http: HttpConfig,
    /// The address the internode port is bound to.
    pub raft_bind: HostPort,
    /// The address at which other nodes reach this one.
    pub raft_advertised: HostPort,
    /// How nodes reach each other.
    pub internode: InternodeConfig,
    /// How this node comes to belong to a cluster, and what it is there.
    pub cluster: ClusterConfig,
    /// The database.
    pub sqlite: SqliteConfig,
    /// When Raft acts.
    pub raft: RaftConfig,
    /// The queue of `/db/execute?queue`.
    pub queue: QueueConfig,
    /// The credentials file; `None` allows everything to everybody.
    pub credentials: Option<PathBuf>,
    /// How much the node takes on.
    pub limits: Limits,
    /// Whether an infinite number fails the whole answer, as in rqlited.
    pub strict_infinity: bool,
    /// What is logged, and how.
    pub log: LogConfig,
    /// What is accepted and has no effect: a sentence each, to be logged as warnings at start.
    pub warnings: Vec<String>,
}

/// The HTTP API.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// The address it is bound to.
    pub bind: HostPort,
    /// The address at which clients reach it.
    pub advertised: HostPort,
    /// The value of the `Access-Control-Allow-Origin` header; `None` sends none.
    pub allow_origin: Option<String>,
    /// The files of HTTPS; `None` speaks plain HTTP.
    pub tls: Option<ServerTlsOptions>,
}

/// The database.
#[derive(Clone, Copy, Debug)]
pub struct SqliteConfig {
    /// Whether foreign keys are enforced.
    pub foreign_keys: bool,
    /// The most read-only connections; `None` is no limit.
    pub read_connections_max: Option<usize>,
    /// The time between two runs of VACUUM; `None` is never.
    pub vacuum_interval: Option<Duration>,
    /// The time between two runs of `PRAGMA optimize`; `None` is never.
    pub optimize_interval: Option<Duration>,
}

/// When Raft acts. Zeros of the command line are replaced by what they stand for.
#[derive(Clone, Copy, Debug)]
pub struct RaftConfig {
    /// Timeouts that keep a leader in office.
    pub timing: RaftTiming,
    /// How many log entries make a snapshot due.
    pub snapshot_entries: u64,
    /// How many log entries are kept behind a snapshot.
    pub trailing_entries: u64,
    /// How many bytes of the WAL make a snapshot due; `None` is never.
    pub snapshot_wal_bytes: Option<u64>,
    /// The time between two checks whether a snapshot is due.
    pub snapshot_interval: Duration,
    /// How long a write may wait to be handed to Raft; `None` is no limit.
    pub apply_timeout: Option<Duration>,
}

/// The queue of `/db/execute?queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// How many requests may wait, at least one; more wait for room.
    pub capacity: usize,
    /// How many requests are written together, at least one.
    pub batch_size: usize,
    /// How long a request waits for others; `None` waits until there are enough.
    pub timeout: Option<Duration>,
    /// Whether requests written together share one transaction.
    pub transaction: bool,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// The least severe messages of everything but Raft.
    pub level: LogLevel,
    /// The least severe messages of Raft.
    pub raft_level: LogLevel,
}

/// Why a command line cannot be run. The process exits with 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Shown behind `fatal: `.
    Fatal(String),
    /// Shown as it is.
    Bare(String),
    /// Shown as a log line.
    Logged(String),
}

impl Problem {
    fn fatal(text: impl Into<String>) -> Self {
        Self::Fatal(text.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fatal(text) => write!(formatter, "fatal: {text}"),
            Self::Bare(text) | Self::Logged(text) => formatter.write_str(text),
        }
    }
}

impl Config {
    /// Checks a command line and fills in what was not said.
    ///
    /// `-version` must have been dealt with before. The order of the rules is part of the
    /// contract: of several problems it decides which one is reported.
    pub fn check(cli: &Cli) -> Result<Self, Problem> {
        rules::reap_timeouts(cli)?;
        let data_directory = data_directory(&cli.words)?;
        rules::extensions_exist(cli)?;
        rules::certificates(cli)?;
        let addresses = rules::addresses(cli)?;
        rules::cluster_formation(cli, &addresses)?;
        rules::change_capture(cli)?;
        rules::otlp(cli)?;
        rules::discovery(cli)?;
        unsupported::refuse(cli)?;
        Ok(Self {
            data_directory,
            node_id: given(&cli.general.node_id),
            http: HttpConfig {
                bind: addresses.http_bind,
                advertised: addresses.http_advertised,
                allow_origin: given(&cli.http.http_allow_origin),
                tls: https(cli),
            },
            raft_bind: addresses.raft_bind,
            raft_advertised: addresses.raft_advertised,
            internode: InternodeConfig::check(cli)?,
            cluster: ClusterConfig::check(cli)?,
            sqlite: sqlite(&cli.sqlite)?,
            queue: queue(&cli.queue)?,
            credentials: given(&cli.services.auth).map(PathBuf::from),
            limits: Limits::check(&cli.own)?,
            strict_infinity: cli.own.compat_strict_infinity.0,
            log: log(cli),
            warnings: [cluster::warnings(cli), unsupported::warnings(cli)].concat(),
            // Last, as rqlited notices these only when it opens its store.
            raft: raft(cli)?,
        })
    }

    /// Gives the URL of the HTTP API as it is advertised to others.
    pub fn api_url(&self) -> String {
        let scheme = if self.http.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.http.advertised)
    }
}

/// Finds the data directory among the words behind the flags.
fn data_directory(words: &[OsString]) -> Result<PathBuf, Problem> {
    let missing = || Problem::fatal("data directory path is required");
    let (directory, rest) = words.split_first().ok_or_else(missing)?;
    if !rest.is_empty() {
        let rest: Vec<_> = rest.iter().map(|word| word.to_string_lossy()).collect();
        return Err(Problem::Bare(format!(
            "arguments after data directory ({}) are not accepted ([{}])",
            directory.to_string_lossy(),
            rest.join(" ")
        )));
    }
    let directory = match directory.to_str() {
        Some(text) => PathBuf::from(text.trim()),
        None => PathBuf::from(directory),
    };
    if directory.as_os_str().is_empty() {
        return Err(missing());
    }
    path::absolute(&directory).map_err(|error: io::Error| {
        Problem::fatal(format!("failed to make {} absolute: {error}", directory.display()))
    })
}

fn https(cli: &Cli) -> Option<ServerTlsOptions> {
    let flags = &cli.http;
    let clients = if flags.http_verify_client.0 {
        ClientCertificates::Required {
            authority: given(&flags.http_ca_cert).map(PathBuf::from),
            common_name: given(&flags.http_verify_common_name),
        }
    } else {
        ClientCertificates::NotAsked
    };
    Some(ServerTlsOptions {
        certificate: given(&flags.http_cert)?.into(),
        key: given(&flags.http_key)?.into(),
        clients,
    })
}

fn sqlite(flags: &SqliteFlags) -> Result<SqliteConfig, Problem> {
    Ok(SqliteConfig {
        foreign_keys: flags.fk.0,
        read_connections_max: usize::try_from(flags.db_max_ro_conns)
            .ok()
            .filter(|connections| *connections > 0),
        vacuum_interval: length_or_never("auto-vacuum-int", flags.auto_vacuum_int)?,
        optimize_interval: length_or_never("auto-optimize-int", flags.auto_optimize_int)?,
    })
}

fn queue(flags: &QueueFlags) -> Result<QueueConfig, Problem> {
    let positive = |name: &str, number: i64| match usize::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Problem::fatal(format!("-{name} must be greater than 0"))),
    };
    Ok(QueueConfig {
        capacity: positive("write-queue-capacity", flags.write_queue_capacity)?,
        batch_size: positive("write-queue-batch-size", flags.write_queue_batch_size)?,
        timeout: length_or_never("write-queue-timeout", flags.write_queue_timeout)?,
        transaction: flags.write_queue_tx.0,
    })
}

fn raft(cli: &Cli) -> Result<RaftConfig, Problem> {
    /// What a Raft library knows without being told, for thresholds of zero.
    const SNAPSHOT_ENTRIES: u64 = 8192;
    const TRAILING_ENTRIES: u64 = 10_240;
    let flags = &cli.raft;
    let (snapshot_entries, trailing_entries) = match flags.raft_snap {
        0 => (SNAPSHOT_ENTRIES, TRAILING_ENTRIES),
        entries => (entries, entries.saturating_add(entries / 4)),
    };
    let by_time_alone = flags.raft_snap_int == GoDuration::default();
    Ok(RaftConfig {
        apply_timeout: length_or_never("raft-apply-timeout", flags.raft_apply_timeout)?,
        snapshot_entries,
        trailing_entries,
        // Without an interval of its own the WAL is not looked at.
        snapshot_wal_bytes: Some(flags.raft_snap_wal_size)
            .filter(|bytes| *bytes > 0 && !by_time_alone),
        snapshot_interval: timing::snapshot_interval(flags)?,
        timing: RaftTiming::check(flags)?,
    })
}

fn log(cli: &Cli) -> LogConfig {
    let raft_level = match cli.raft.raft_log_level.to_ascii_uppercase().as_str() {
        "TRACE" => LogLevel::Trace,
        "DEBUG" => LogLevel::Debug,
        "WARN" => LogLevel::Warn,
        "ERROR" => LogLevel::Error,
        "OFF" => LogLevel::Off,
        // What nobody knows is taken for INFO, as upstream has it.
        _ => LogLevel::Info,
    };
    LogConfig { format: cli.own.log_format, level: cli.own.log_level, raft_level }
}

/// Gives a text that was given: an empty one is as good as none.
fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Converts a length of time that may be zero but not negative.
fn length(flag: &str, duration: GoDuration) -> Result<Duration, Problem> {
    duration.to_std().ok_or_else(|| Problem::fatal(format!("-{flag} must not be negative")))
}

/// Converts a length of time of which zero means never.
fn length_or_never(flag: &str, duration: GoDuration) -> Result<Option<Duration>, Problem> {
    Ok(Some(length(flag, duration)?).filter(|duration| !duration.is_zero()))
}

#[cfg(test)]
mod tests;
