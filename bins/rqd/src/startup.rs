//! The start order an operator sees, and its reverse.
//!
//! 1. Signals are caught, so that none is lost.
//! 2. The internode port is bound. Until there are clusters every peer is refused there.
//! 3. Users and certificates are read.
//! 4. The HTTP port answers: `/status` at once, the rest with what can be said without a store.
//! 5. The store opens. 6. "node HTTP API available at …". 7. Wait for a signal.
//!
//! Stopping goes back: no new connections, running requests get [`DRAIN_TIME`], the store flushes and
//! closes. A second signal ends the process at once, and so does a stop that takes too long (see
//! [`signals`]); nothing acknowledged is lost by that.

mod lookout;
mod signals;

use std::{path::Path, process::ExitCode, sync::Arc, thread, time::Duration};

use rq_http::{Build, NodeSlot, QueueOptions, Server};
use rq_node::{Budget, Environment, Node};
use rq_security::{ServerTls, Users};
use tokio::net::TcpListener;

use self::signals::Signals;
use crate::{
    Invocation,
    config::{Config, HostPort},
    version,
};

/// How long running requests may take to end once the node is told to stop.
const DRAIN_TIME: Duration = Duration::from_millis(3500);
/// Threads of the runtime beyond one for each core.
///
/// Reads run on these threads, and for as long as SQLite is busy inside one step of a statement such a read
/// cannot give way. The node runs fewer reads at a time than there are threads, so that one is free for
/// everything else (and [`lookout`] has it wake up); the additional ones let as many reads run as there are
/// cores nevertheless.
const THREADS_BEYOND_CORES: usize = 2;
/// The least threads of the runtime, for the same reason.
const THREADS_LEAST: usize = 4;
/// The level of rqlite's API that is implemented.
const API_VERSION: &str = "v10.2.7";
/// Exit code of a process that a panic ended, as upstream's.
const PANIC_CODE: i32 = 2;

/// Gives the version of the SQLite library that is linked.
pub(crate) fn sqlite_version() -> &'static str {
    rq_node::sqlite_version()
}

/// Runs a node until it is told to stop, and gives the exit code of the process.
pub(crate) fn run(invocation: &Invocation, config: Config) -> ExitCode {
    end_process_on_panic();
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!("cannot catch signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores + THREADS_BEYOND_CORES).max(THREADS_LEAST))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = lookout::keep(runtime.handle().clone()) {
        tracing::error!("cannot start threads: {error}");
        return ExitCode::FAILURE;
    }
    let code = match runtime.block_on(serve(invocation, config, signals)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("{reason}");
            ExitCode::FAILURE
        }
    };
    // What still blocks a thread is a read that was cancelled; it holds nothing that must be kept.
    runtime.shutdown_background();
    code
}

async fn serve(
    invocation: &Invocation,
    config: Config,
    mut signals: Signals,
) -> Result<(), String> {
    tell_start(invocation, &config);
    refuse_peers(&config).await?;
    tell_state(&config);
    let users = users(config.credentials.as_deref())?;
    let tls = match &config.http.tls {
        Some(options) => Some(Arc::new(
            ServerTls::open(options.clone())
                .map_err(|error| format!("failed to start HTTP server: {error}"))?,
        )),
        None => None,
    };
    warn_if_open(&config, &users);
    let slot = NodeSlot::new();
    let bound = rq_http::bind(http_options(&config, Arc::clone(&users), tls))
        .await
        .map_err(|error| format!("failed to start HTTP server: {error}"))?;
    tracing::info!(component = "http", "service listening on {}", bound.local_addr());
    let server = bound.serve(slot.clone());
    let opening = open_store(&config, &users);
    let node = tokio::select! {
        node = opening => node?,
        () = signals.first() => {
            server.stop(Duration::ZERO).await;
            return Ok(());
        }
    };
    slot.fill(node.clone());
    tell_ready(&config);
    let outcome = tokio::select! {
        () = signals.first() => Ok(()),
        reason = node.stopped() => Err(format!("the node cannot go on: {reason}")),
    };
    tokio::select! {
        () = stop(server, &node, &config) => {}
        // A second signal ends the process by itself; one is enough if the node stops for another reason.
        () = signals.first(), if outcome.is_err() => {
            return Err("stopped before everything was finished".to_owned());
        }
    }
    tracing::info!("rqlite server stopped");
    outcome
}

/// Says whether the data directory has been used before.
fn tell_state(config: &Config) {
    let directory = &config.data_directory;
    let state = if directory.join("node.json").exists() {
        "preexisting node state detected in"
    } else {
        "no preexisting node state detected in"
    };
    tracing::info!("{state} {}", directory.display());
}

async fn open_store(config: &Config, users: &Arc<Users>) -> Result<Node, String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to open store: {error}");
    let node = Node::open_alone(node_options(config, users), Environment::real())
        .await
        .map_err(|error| failed(&Chain(&error)))?;
    tracing::info!(
        component = "store",
        "store opened with node ID {}, listening on {}",
        node.id(),
        config.raft_advertised
    );
    Ok(node)
}

async fn stop(server: Server, node: &Node, config: &Config) {
    tracing::info!(component = "http", "closing HTTP service on {}", server.local_addr());
    if !server.stop(DRAIN_TIME).await {
        tracing::warn!(component = "http", "requests that did not end in time were dropped");
    }
    node.shutdown().await;
    tracing::info!(
        component = "store",
        "store closed with node ID {}, listening on {}",
        node.id(),
        config.raft_advertised
    );
}

fn http_options(
    config: &Config,
    users: Arc<Users>,
    tls: Option<Arc<ServerTls>>,
) -> rq_http::Options {
    let limits = &config.limits;
    rq_http::Options {
        listen: config.http.bind.as_str().to_owned(),
        advertised: config.http.advertised.as_str().to_owned(),
        tls,
        users,
        allow_origin: config.http.allow_origin.clone(),
        fail_on_infinity: config.strict_infinity,
        build: Build {
            api_version: API_VERSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: version::COMMIT.to_owned(),
            build_time: "unknown".to_owned(),
            toolchain: version::COMPILER.to_owned(),
            command: "rustc".to_owned(),
        },
        queue: QueueOptions {
            capacity: config.queue.capacity,
            batch_size: config.queue.batch_size,
            timeout: config.queue.timeout.unwrap_or_default(),
            transaction: config.queue.transaction,
        },
        limits: rq_http::Limits {
            head_bytes_max: limits.header_bytes,
            body_bytes_max: limits.body_bytes.unwrap_or_default(),
            bodies_bytes_max: limits.all_bodies_bytes.unwrap_or_default(),
            statements_max: limits.statements.unwrap_or_default(),
            result_rows_max: limits.result_rows.unwrap_or_default(),
            result_bytes_max: saturated(limits.result_bytes),
            requests_max: limits.concurrent_requests.unwrap_or_default(),
            connections_max: limits.connections.unwrap_or_default(),
            head_time_max: limits.header_time.unwrap_or_default(),
            idle_time_max: limits.idle_time.unwrap_or_default(),
            request_time_max: limits.request_time.unwrap_or_default(),
            ..rq_http::Limits::default()
        },
    }
}

/// A limit on bytes in memory; zero is without limit.
fn saturated(limit: Option<u64>) -> usize {
    limit.map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

fn node_options(config: &Config, users: &Arc<Users>) -> rq_node::Options {
    /// Longer than any process runs.
    const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
    let limits = &config.limits;
    let timing = &config.raft.timing;
    rq_node::Options {
        directory: config.data_directory.clone(),
        node_id: config.node_id.clone(),
        raft_addr: config.raft_advertised.as_str().to_owned(),
        api_url: config.api_url(),
        api_version: API_VERSION.to_owned(),
        replica: false,
        users: Arc::clone(users),
        reap: rq_node::Reap::default(),
        foreign_keys: config.sqlite.foreign_keys,
        readers_max: config.sqlite.read_connections_max,
        budget: Budget {
            steps: limits.write_steps.unwrap_or_default(),
            pages: limits.write_pages.unwrap_or_default(),
        },
        limits: rq_node::Limits {
            result_rows_max: limits.result_rows.unwrap_or(u64::MAX),
            result_bytes_max: limits.result_bytes.unwrap_or(u64::MAX),
            query_time_max: limits.query_time.unwrap_or_default(),
            backlog_bytes_max: limits.write_backlog_bytes.unwrap_or(u64::MAX),
            enqueue_timeout: config.raft.apply_timeout.unwrap_or(FOR_EVER),
            free_bytes_min: limits.free_space_bytes,
            wal_bytes_max: limits.wal_bytes.unwrap_or(u64::MAX),
        },
        snapshots: rq_node::Snapshots {
            entries: config.raft.snapshot_entries,
            wal_bytes: config.raft.snapshot_wal_bytes.unwrap_or_default(),
            interval: config.raft.snapshot_interval,
            trailing_entries: config.raft.trailing_entries,
            log_bytes_max: limits.log_bytes.unwrap_or(u64::MAX),
        },
        log: rq_node::LogOptions::default(),
        timing: rq_node::Timing {
            heartbeat_timeout: timing.heartbeat_timeout,
            election_timeout: timing.election_timeout,
            lease_timeout: timing.leader_lease_timeout,
            commit_timeout: timing.commit_timeout,
        },
        auto_vacuum_interval: config.sqlite.vacuum_interval.unwrap_or_default(),
        auto_optimize_interval: config.sqlite.optimize_interval.unwrap_or_default(),
    }
}

fn users(credentials: Option<&Path>) -> Result<Arc<Users>, String> {
    let users = match credentials {
        None => Users::unrestricted(),
        Some(path) => {
            Users::open(path).map_err(|error| format!("failed to get credential store: {error}"))?
        }
    };
    Ok(Arc::new(users))
}

/// Binds the internode port and closes every connection: there are no clusters yet, and whoever
/// expects one must not wait for an answer.
async fn refuse_peers(config: &Config) -> Result<(), String> {
    let listener = bind(&config.raft_bind)
        .await
        .map_err(|error| format!("failed to listen on {}: {error}", config.raft_bind))?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(
            component = "mux",
            "mux serving on {address}, advertising {}",
            config.raft_advertised
        );
    }
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((connection, peer)) => {
                    tracing::debug!(component = "mux", "{peer} refused: this is a single node");
                    drop(connection);
                }
                // Out of file descriptors: they come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(())
}

async fn bind(address: &HostPort) -> std::io::Result<TcpListener> {
    let mut failure = None;
    for candidate in address.to_bind() {
        match TcpListener::bind(candidate).await {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| std::io::Error::other("there is nothing to listen on")))
}

fn tell_start(invocation: &Invocation, config: &Config) {
    let program = &invocation.program;
    tracing::info!(
        "{program} starting, version {}, SQLite {}, commit {}, compiler (toolchain) {}, compiler \
         (command) rustc",
        version::VERSION,
        sqlite_version(),
        version::COMMIT,
        version::COMPILER
    );
    tracing::info!(
        "{}, target architecture is {}, operating system target is {}",
        version::COMPILER,
        version::architecture(),
        version::operating_system()
    );
    let words: Vec<_> = invocation.words.iter().map(|word| word.to_string_lossy()).collect();
    tracing::info!("launch command: {}", words.join(" "));
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

fn tell_ready(config: &Config) {
    let url = config.api_url();
    tracing::info!("node HTTP API available at {url}");
    let advertised = &config.http.advertised;
    tracing::info!(
        "connect using the command-line tool via 'rqlite -H {} -p {}'",
        advertised.host(),
        advertised.port()
    );
    tracing::info!("visit the rqlite console for this node at {url}/console/");
}

fn warn_if_open(config: &Config, users: &Users) {
    if !users.is_restricted() && !config.http.bind.is_loopback() {
        tracing::warn!(
            component = "http",
            "everybody who can reach {} may read and change all data: use -auth, or bind to localhost",
            config.http.bind
        );
    }
}

/// A panic anywhere ends the process: half a node is worse than none.
fn end_process_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("panic: {panic}");
        #[expect(clippy::exit, reason = "no state of this process can be trusted any more")]
        std::process::exit(PANIC_CODE);
    }));
}

/// An error with its sources behind it.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut shown = self.0.to_string();
        let mut source = self.0.source();
        while let Some(error) = source {
            // A transparent error's source says the same again.
            let text = error.to_string();
            if text != shown {
                write!(f, ": {text}")?;
            }
            shown = text;
            source = error.source();
        }
        Ok(())
    }
}
