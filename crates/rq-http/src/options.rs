//! How the HTTP server is to be run. Checked and complete: flags and their texts are the caller's business.

use std::{sync::Arc, time::Duration};

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
    /// What the program is.
    pub build: Build,
    /// How queued writes are gathered.
    pub queue: QueueOptions,
    /// Whether an infinite number fails the whole answer, as upstream has it, instead of being `null`.
    pub fail_on_infinity: bool,
    /// How much is taken on.
    pub limits: Limits,
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
