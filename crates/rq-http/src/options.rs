//! How the HTTP server is to be run. Checked and complete: flags and their texts are the caller's business.

use std::{sync::Arc, time::Duration};

use rq_node::internode::TcpNetwork;
use rq_security::{ServerTls, Users};

use crate::limits::Limits;

/// How the HTTP server is to be run.
#[derive(Clone)]
pub struct Options {
    /// Where to listen, `host:port` (`-http-addr`).
    pub listen: String,
    /// The advertised address, `host:port` (`-http-adv-addr`).
    pub advertised: String,
    /// Certificates, if the server is to speak HTTPS.
    pub tls: Option<Arc<ServerTls>>,
    /// Who may do what.
    pub users: Arc<Users>,
    /// The value of `Access-Control-Allow-Origin` (`-http-allow-origin`); `None` leaves the header out.
    pub allow_origin: Option<String>,
    /// How this node is among others; for status alone.
    pub cluster: Cluster,
    /// What the program is.
    pub build: Build,
    /// How queued writes are gathered.
    pub queue: QueueOptions,
    /// Whether an infinite number fails the whole answer, as upstream has it, instead of being `null`.
    pub fail_on_infinity: bool,
    /// How much is taken on.
    pub limits: Limits,
}

/// How this node is among others, as status shows it.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The internode port; `None` for a node without others.
    pub network: Option<Arc<TcpNetwork>>,
    /// The certificates of the internode port, if it speaks TLS.
    pub tls: Option<Arc<ServerTls>>,
    /// Whether nodes prove to each other that they know a secret.
    pub secret: bool,
    /// How long another node may take to accept a connection (`-cluster-connect-timeout`).
    pub connect_timeout: Duration,
    /// After what silence voters are removed (`-raft-reap-node-timeout`); zero is never.
    pub reap_voters_after: Duration,
    /// After what silence read replicas are removed (`-raft-reap-read-only-node-timeout`); zero is never.
    pub reap_replicas_after: Duration,
    /// Whether databases travel compressed (`-compress-snap-transport`).
    pub compress: bool,
}

/// What the program says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The level of the API, as `X-Rqlite-Version` and `build.version` state it: `v10.2.7`.
    pub api_version: String,
    /// The program's own version, as `Server: rqd/…` and `build.rq` state it.
    pub version: String,
    /// The commit it was built from, or `unknown`.
    pub commit: String,
    /// When it was built, or `unknown`.
    pub build_time: String,
    /// The toolchain it was built with.
    pub toolchain: String,
    /// The command it was built with.
    pub command: String,
}

/// How queued writes are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// Requests that may wait (`-write-queue-capacity`). Beyond: the client waits for room.
    pub capacity: usize,
    /// Requests merged into one write (`-write-queue-batch-size`).
    pub batch_size: usize,
    /// How long the first request of a batch waits for others (`-write-queue-timeout`); zero waits
    /// until the batch is full.
    pub timeout: Duration,
    /// Whether each batch is one transaction (`-write-queue-tx`).
    pub transaction: bool,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            capacity: 1024,
            batch_size: 128,
            timeout: Duration::from_millis(50),
            transaction: false,
        }
    }
}
