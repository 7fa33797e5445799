//! The start order an operator sees, and its reverse.
//!
//! 1. Signals are caught, so that none is lost.
//! 2. The internode port is bound. Until the store is open other nodes are told to come back.
//! 3. Users and certificates are read.
//! 4. The HTTP port answers: `/status` at once, the rest with what can be said without a store.
//! 5. The store opens. 6. The node comes to its cluster (`cluster`), which may take a while or fail.
//! 7. "node HTTP API available at …". 8. Wait for a signal.
//!
//! Stopping: leadership is handed over while everything still works; no new connections, running requests get
//! [`DRAIN_TIME`]; the node leaves the cluster if it is to; the store flushes and closes, and the internode port
//! last. A second signal ends the process at once, and so does a stop that takes too long (see [`signals`]);
//! nothing acknowledged is lost by that.

mod cluster;
mod lookout;
mod options;
mod probe;
mod signals;

use std::{path::Path, process::ExitCode, sync::Arc, thread, time::Duration};

use rq_http::{NodeSlot, Server};
use rq_node::{Environment, Node, internode::TcpNetwork};
use rq_security::{ServerTls, Users};
use tokio::time::Instant;

use self::{
    cluster::Internode,
    signals::{STOP_TIME, Signals},
};
use crate::{Invocation, config::Config, version};

/// How long handing leadership over and running requests may take together once the node is told to stop.
const DRAIN_TIME: Duration = Duration::from_millis(3500);
/// How long calls of other nodes may take to be answered once the store is closed.
const NETWORK_GRACE: Duration = Duration::from_millis(200);
/// Threads of the runtime beyond one for each core.
///
/// Reads run on these threads, and for as long as SQLite is busy inside one step of a statement such a read
/// cannot give way. The node runs fewer reads at a time than there are threads, so that one is free for
/// everything else (and [`lookout`] has it wake up); the additional ones let as many reads run as there are
/// cores nevertheless.
const THREADS_BEYOND_CORES: usize = 2;
/// The least threads of the runtime, for the same reason.
const THREADS_LEAST: usize = 4;
/// Exit code of a process that a panic ended, as upstream's.
const PANIC_CODE: i32 = 2;

/// Gives the version of the SQLite library that is linked.
pub(crate) fn sqlite_version() -> &'static str {
    rq_node::sqlite_version()
}

/// Runs a node until it is told to stop, and gives the exit code of the process.
pub(crate) fn run(invocation: &Invocation, config: Config) -> ExitCode {
    end_process_on_panic();
    let extra =
        if config.cluster.leave_at_shutdown { cluster::LEAVING_TIME } else { Duration::ZERO };
    let signals = match Signals::catch(STOP_TIME + extra) {
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
    let internode = cluster::listen(&config).await?;
    tell_state(&config);
    let users = users(config.credentials.as_deref())?;
    let server = serve_http(&config, &users, &internode).await?;
    let opening = open_store(&config, &users, &internode.network);
    let node = tokio::select! {
        node = opening => node?,
        () = signals.first() => {
            server.0.stop(Duration::ZERO).await;
            return Ok(());
        }
    };
    let (server, slot) = server;
    slot.fill(node.clone());
    let running = Running { server, node, network: internode.network, users, config };
    let mut outcome =
        cluster::form(&running.node, &running.config, &running.users, &mut signals).await;
    if outcome.is_ok() {
        if running.config.cluster.stop_when_removed {
            let node = running.node.clone();
            tokio::spawn(async move { node.retire_when_removed().await });
        }
        tell_ready(&running.config);
        outcome = tokio::select! {
            () = signals.first() => Ok(()),
            reason = running.node.stopped() => Err(format!("the node cannot go on: {reason}")),
        };
    }
    let is_failed = outcome.is_err();
    let stopped = tokio::select! {
        stopped = running.stop(is_failed) => stopped,
        // A second signal ends the process by itself; one is enough if the node stops for another reason.
        () = signals.first(), if is_failed && !signals.is_told() => {
            return Err("stopped before everything was finished".to_owned());
        }
    };
    tracing::info!("rqlite server stopped");
    outcome.and(stopped)
}

/// Everything that runs and must be stopped.
struct Running {
    server: Server,
    node: Node,
    network: Arc<TcpNetwork>,
    users: Arc<Users>,
    config: Config,
}

impl Running {
    /// Stops everything, in order.
    ///
    /// # Errors
    /// The node could not leave its cluster, though it was to.
    async fn stop(self, is_failed: bool) -> Result<(), String> {
        let Self { server, node, network, users, config } = self;
        let drained_by = Instant::now() + DRAIN_TIME;
        cluster::step_down(&node, &config).await;
        tracing::info!(component = "http", "closing HTTP service on {}", server.local_addr());
        if !server.stop(drained_by.saturating_duration_since(Instant::now())).await {
            tracing::warn!(component = "http", "requests that did not end in time were dropped");
        }
        let left = if config.cluster.leave_at_shutdown && !is_failed {
            cluster::leave(&node, &config, &users).await
        } else {
            Ok(())
        };
        node.shutdown().await;
        tracing::info!(
            component = "store",
            "store closed with node ID {}, listening on {}",
            node.id(),
            config.raft_advertised
        );
        network.close(NETWORK_GRACE).await;
        left
    }
}

async fn serve_http(
    config: &Config,
    users: &Arc<Users>,
    internode: &Internode,
) -> Result<(Server, NodeSlot), String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to start HTTP server: {error}");
    let tls = match &config.http.tls {
        Some(files) => {
            Some(Arc::new(ServerTls::open(files.clone()).map_err(|error| failed(&error))?))
        }
        None => None,
    };
    warn_if_open(config, users);
    let slot = NodeSlot::new();
    let bound = rq_http::bind(options::http_options(config, Arc::clone(users), tls, internode))
        .await
        .map_err(|error| failed(&error))?;
    tracing::info!(component = "http", "service listening on {}", bound.local_addr());
    Ok((bound.serve(slot.clone()), slot))
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

async fn open_store(
    config: &Config,
    users: &Arc<Users>,
    network: &Arc<TcpNetwork>,
) -> Result<Node, String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to open store: {error}");
    let environment = Environment { network: Arc::clone(network) as _, ..Environment::real() };
    let node = Node::open(options::node_options(config, users), environment)
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

fn users(credentials: Option<&Path>) -> Result<Arc<Users>, String> {
    let users = match credentials {
        None => Users::unrestricted(),
        Some(path) => {
            Users::open(path).map_err(|error| format!("failed to get credential store: {error}"))?
        }
    };
    Ok(Arc::new(users))
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
