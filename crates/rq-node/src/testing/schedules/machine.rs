//! A machine of a schedule: its disks, which outlive the process on it, and the process, which may die.

use std::{sync::Arc, time::Duration};

use rq_storage::LogOptions;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{
    super::{
        crash::scratch_directory,
        options,
        pause::held,
        world::{Disks, Event},
    },
    air::{Air, Host},
    trace::Trace,
};
use crate::{Environment, Formation, Node, Options, Snapshots, environment::Seeded};

/// How long a node may take to open and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A name, an address, and what is behind them.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) disks: Disks,
    /// The process, while one runs.
    pub(super) life: Option<Life>,
    /// Whether it is to be a member.
    pub(super) wanted: bool,
    directory: TempDir,
    /// Whether its log is purged often, so that whoever lags behind it needs its database.
    forgetful: bool,
    /// Drawn from for whatever becomes of this machine.
    chance: Seeded,
}

/// A running process.
pub(super) struct Life {
    pub(super) node: Node,
    pub(super) host: Arc<Host>,
    /// Comes to the cluster, in the background.
    forming: JoinHandle<()>,
}

/// The internode address of a name.
pub(super) fn address(name: &str) -> String {
    format!("{name}:4002")
}

impl Machine {
    pub(super) fn new(name: &str, seed: u64) -> Self {
        let chance = Seeded::new(seed, 0);
        Self {
            name: name.to_owned(),
            disks: Disks::new(),
            life: None,
            wanted: true,
            directory: scratch_directory(),
            forgetful: chance.next().is_multiple_of(2),
            chance,
        }
    }

    pub(super) fn address(&self) -> String {
        address(&self.name)
    }

    /// Writes down all operations on its files.
    pub(super) fn trace_files(&self) {
        self.disks.world.trace(self.directory.path());
    }

    /// Tells what was written down.
    pub(super) fn tell(&self, trace: &Trace) {
        for operation in self.disks.world.traced() {
            trace.note(|| format!("{}: {operation}", self.name));
        }
    }

    fn options(&self) -> Options {
        let options = options(&self.directory.path().join("data"));
        let log = LogOptions { segment_bytes: 32 << 10, cache_bytes: 8 << 10, ..options.log };
        let snapshots = match self.forgetful {
            true => Snapshots {
                entries: 20,
                interval: Duration::from_secs(1),
                trailing_entries: 5,
                ..options.snapshots
            },
            false => options.snapshots,
        };
        Options {
            snapshots,
            node_id: Some(self.name.clone()),
            raft_addr: self.address(),
            api_url: format!("http://{}:4001", self.name),
            log,
            ..options
        }
    }

    /// Starts the process; false if it could not, because something happened to its disks.
    pub(super) async fn start(&mut self, air: &Air, formation: Formation) -> bool {
        let host = Host::new(Arc::clone(&self.disks.world));
        let environment = Environment {
            network: air.line(&self.address(), &host),
            ..self.disks.environment(self.chance.next())
        };
        let opening = held(&host.pause, Node::open(self.options(), environment));
        let opened = tokio::time::timeout(PATIENCE, opening).await.expect("opening ends");
        let node = match opened {
            Ok(node) => node,
            Err(error) => {
                assert!(
                    self.disks.world.happened().is_some(),
                    "{} must start unaided: {error}",
                    self.name
                );
                host.end();
                self.end(false);
                return false;
            }
        };
        let forming = {
            let (node, host) = (node.clone(), Arc::clone(&host));
            tokio::spawn(async move {
                if let Some(Err(reason)) = host.run(node.form(&formation)).await {
                    tracing::info!("{} does not come to the cluster: {reason}", node.id());
                }
            })
        };
        self.life = Some(Life { node, host, forming });
        true
    }

    /// Ends the process, at once or in an orderly way, and decides what its disks keep.
    pub(super) async fn stop(&mut self, orderly: bool) {
        let Some(Life { node, host, forming }) = self.life.take() else { return };
        if orderly {
            host.pause.set(false);
            let closed = tokio::time::timeout(PATIENCE, node.shutdown()).await;
            assert!(closed.is_ok(), "{} does not shut down", self.name);
        }
        host.end();
        self.disks.stop();
        drop(tokio::time::timeout(PATIENCE, node.shutdown()).await);
        forming.abort();
        let rest = Arc::downgrade(node.inner());
        drop(node);
        for _ in 0..PATIENCE.as_millis() / 20 {
            if rest.strong_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(rest.strong_count(), 0, "parts of {} outlive its end", self.name);
        self.end(orderly);
    }

    /// What becomes of the disks of a process that is gone.
    fn end(&mut self, orderly: bool) {
        let torn = matches!(self.disks.world.happened(), Some(Event::Torn(_)));
        self.disks.stop();
        if torn || (!orderly && self.chance.next().is_multiple_of(2)) {
            self.disks.cut_power(&self.chance);
        } else {
            self.disks.restart_process();
        }
    }

    /// Loses everything: the machine comes back empty, under the same name.
    pub(super) fn lose_disk(&mut self, traced: bool) {
        assert!(self.life.is_none(), "nobody writes to it");
        self.disks = Disks::new();
        self.directory = scratch_directory();
        if traced {
            self.trace_files();
        }
    }

    /// Why a process that should run does not, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        let life = self.life.as_ref()?;
        if self.disks.world.has_stopped() {
            return Some("its disks stopped".to_owned());
        }
        let reason = life.node.inner().progress.stopped()?;
        assert!(self.disks.world.happened().is_some(), "{} stopped: {reason}", self.name);
        Some(reason)
    }

    /// The process, if it runs and is not paused.
    pub(super) fn running(&self) -> Option<&Life> {
        self.life.as_ref().filter(|life| !life.host.is_over() && !life.host.pause.is_set())
    }
}
