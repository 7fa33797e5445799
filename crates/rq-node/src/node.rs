//! The node: opening, closing, and the parts everything else works with.
//!
//! # The order of opening, and why
//! 1. The data directory is locked and its identity read: a second process, a wrong name, a newer
//!    format end here, with nothing changed.
//! 2. The log is opened, its torn tail cut. It knows what was promised.
//! 3. The database is opened. It knows what it has applied; what was purged from the log must be in it.
//! 4. A recovery from a lost quorum is carried out, if the operator asked for one (`recovery`).
//! 5. Raft is built over both. Entries behind the applied one are applied again as soon as an entry of
//!    the new term is committed.
//! 6. Other nodes are listened to. A pristine node waits to be told how to come to a cluster (`formation`); an only voter
//!    does not wait for an election timeout: nobody else could stand.
//!
//! # The order of closing
//! New requests are refused; Raft stops proposing; what was handed to the applier is finished; the
//! database is closed; the log is flushed and closed; the lock is given back.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rq_security::Credentials;
use rq_sqlite::{
    Checkpointer, Database, LocalError, Readers, Settings, WAL_FILE_KEPT, WalSize, Writer,
};
use rq_storage::{Execution, Log};

use crate::{
    Error, OpenError, OtherEngine,
    applier::{Applier, Core},
    batcher::Batcher,
    command::{Room, Stamper},
    disk_watch,
    durability::Durability,
    environment::Environment,
    formation::Formation,
    founding::Founding,
    ground::Ground,
    housekeeping::{Housekeeper, milliseconds},
    identity::Cluster,
    internode::Network,
    membership,
    metrics::Metrics,
    notices::Notices,
    observer,
    options::Options,
    progress::{Progress, lock},
    raft::{
        self, Peer,
        consensus::{Consensus, View},
        log::LogStore,
        network::Connector,
        state_machine::StateMachine,
    },
    recovery,
    rounds::Rounds,
    service::{Service, client::Client},
    status::Member,
    transfer::{Receiver, TransferOptions, Transfers},
    turns::Turns,
    whereabouts,
};

/// How long opening waits for a leader, so that who opens a node finds it ready.
const FIRST_LEADER_PATIENCE: Duration = Duration::from_secs(2);
/// A read younger than this is not cancelled for the sake of the WAL.
const READ_CANCEL_AGE: Duration = Duration::from_secs(1);
/// Calls that find the WAL's file too large, between two tries to empty it: a second by the checkpoints' interval.
const LOOKS_BETWEEN_EMPTYING: u64 = 50;
/// How long closing waits for Raft, for the statement that is being applied and for a checkpoint, each.
/// What takes longer is abandoned, which is no worse than being killed: nothing acknowledged is lost.
const CLOSING_PATIENCE: Duration = Duration::from_millis(300);
/// How long closing waits for reads that were cancelled.
const READERS_PATIENCE: Duration = Duration::from_secs(1);

/// One member of the cluster; cheap to clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// Everything a running node consists of.
pub(crate) struct Inner {
    pub(crate) consensus: Consensus,
    pub(crate) raft_id: u64,
    /// A random number of this process: a copy of its data directory runs as another.
    pub(crate) process: u64,
    pub(crate) log: Log,
    pub(crate) readers: Readers,
    pub(crate) machinery: Arc<Machinery>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) batcher: Batcher,
    /// Rounds that confirm leadership and give the index a read must see.
    pub(crate) confirmations: Rounds<u64>,
    /// Rounds that put a barrier through the log and give its index.
    pub(crate) barriers: Rounds<u64>,
    pub(crate) execution: Execution,
    /// Told when a request begins to wait for a leader.
    pub(crate) leader_missed: tokio::sync::Notify,
    pub(crate) options: Options,
    pub(crate) node_id: String,
    pub(crate) cluster: Arc<Cluster>,
    /// Asks other nodes.
    pub(crate) client: Client,
    pub(crate) founding: Founding,
    /// On whose behalf this node came to its cluster.
    pub(crate) join_credentials: Mutex<Option<Credentials>>,
    /// Held while somebody joins or is removed.
    pub(crate) joins: tokio::sync::Mutex<()>,
    pub(crate) notices: Notices,
    /// Databases on their way to other members.
    pub(crate) transfers: Arc<Transfers>,
    /// A database on its way to this one.
    pub(crate) receiver: Receiver,
    network: Arc<dyn Network>,
    environment: Environment,
    /// Term and begin of the leadership of this node, while it leads.
    pub(crate) office: Mutex<Option<(u64, tokio::time::Instant)>>,
    /// Whether this node has applied, since it was opened, what a leader said to be committed.
    caught_up: AtomicBool,
    /// Whether Raft was ended on purpose, because this node was removed from its cluster.
    pub(crate) retired: AtomicBool,
    housekeeper: Mutex<Option<Housekeeper>>,
}

/// The parts that work on the database file besides Raft: what housekeeping uses.
pub(crate) struct Machinery {
    pub(crate) applier: Arc<Applier>,
    /// Of the reads as well.
    pub(crate) turns: Arc<Turns>,
    pub(crate) durability: Arc<Durability>,
    readers: Readers,
    wal: WalSize,
    /// How often the WAL's file was found too large.
    looks: AtomicU64,
    metrics: Arc<Metrics>,
    environment: Environment,
    directory: PathBuf,
}

impl Node {
    /// Opens the data directory and starts the node, which listens to other nodes from then on. A node that
    /// belongs to no cluster waits to be told how to come to one ([`Node::form`]). Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// Each says what is wrong and what to do; nothing was changed.
    pub async fn open(options: Options, environment: Environment) -> Result<Self, OpenError> {
        let parts = Parts::start(&options, &environment).await?;
        let cluster = Arc::clone(&parts.cluster);
        let answers = parts.consensus.answers(cluster, parts.log.clone());
        let receiver = parts.receiver.clone();
        let inner = Inner::assemble(parts, options, environment);
        // The first write must already know whether there is room for it.
        if let Some(free) = inner.machinery.free_bytes() {
            inner.progress.set_free_bytes(free);
        }
        let housekeeper =
            Housekeeper::start(&inner).map_err(|error| OpenError::Thread(error.to_string()))?;
        *lock(&inner.housekeeper) = Some(housekeeper);
        tokio::spawn(observer::observe(Arc::downgrade(&inner)));
        tokio::spawn(membership::keep(Arc::downgrade(&inner)));
        tokio::spawn(disk_watch::watch(Arc::downgrade(&inner)));
        tokio::spawn(whereabouts::watch(Arc::downgrade(&inner)));
        inner.network.listen(Some(Arc::new(Service::new(&inner, answers, receiver))));
        Ok(Self { inner })
    }

    /// Opens a node that is a cluster of its own, and waits a moment for it to lead.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub async fn open_alone(options: Options, environment: Environment) -> Result<Self, OpenError> {
        let node = Self::open(options, environment).await?;
        node.form(&Formation::Alone).await.map_err(OpenError::Raft)?;
        // A node that may lead does so within milliseconds; one that does not is opened nevertheless.
        let led = node.inner.leader_known();
        drop(tokio::time::timeout(FIRST_LEADER_PATIENCE, led).await);
        Ok(node)
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// The operator's name for this node.
    pub fn id(&self) -> &str {
        &self.inner.node_id
    }

    /// Who leads, if known.
    pub fn leader(&self) -> Option<Member> {
        self.inner.consensus.leader()
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.inner.consensus.leads()
    }

    /// Whether the node is open, has a leader, has applied what it had at start and has not stopped.
    pub fn is_ready(&self) -> bool {
        self.inner.is_ready()
    }

    /// The epochs, if this program computes another engine epoch than the database belongs to. The node votes and stores
    /// then, and does nothing else.
    pub fn other_engine(&self) -> Option<OtherEngine> {
        self.inner.progress.other_engine()
    }

    /// Waits until this node has applied what the leader had committed when asked.
    ///
    /// # Errors
    /// No leader, or the time passed.
    pub async fn sync(&self, timeout: Duration) -> Result<(), Error> {
        let inner = self.open_inner()?;
        inner.progress.admit_engine()?;
        let began = Instant::now();
        let index = tokio::time::timeout(timeout, inner.confirmations.join())
            .await
            .map_err(|_| Error::DeadlineExceeded)??;
        inner.progress.wait_applied(index, timeout.saturating_sub(began.elapsed())).await
    }

    /// Makes the state machine durable and purges the log, keeping `trailing_logs` entries (`None`: as
    /// configured). False if nothing was applied since the last time.
    ///
    /// # Errors
    /// A failed sync, or the node has stopped.
    pub async fn snapshot(&self, trailing_logs: Option<u64>) -> Result<bool, Error> {
        let inner = self.open_inner()?;
        inner.metrics.user_snapshots.add(1);
        let made = inner.snapshot(trailing_logs).await;
        if made.is_err() {
            inner.metrics.user_snapshots_failed.add(1);
        }
        made
    }

    /// Waits until the node has stopped by itself (a failed fsync, a corrupt file) and says why.
    pub async fn stopped(&self) -> String {
        loop {
            if let Some(reason) = self.inner.progress.stopped() {
                return reason;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Refuses new work, finishes what is under way, closes everything. May be called twice.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.progress.begin_stopping();
        inner.network.listen(None);
        // Raft waits for what is being applied, however long that takes.
        drop(tokio::time::timeout(CLOSING_PATIENCE, inner.consensus.shutdown()).await);
        let closing = Arc::clone(inner);
        let close = move || closing.close();
        match inner.execution {
            Execution::Inline => close(),
            Execution::Threads => {
                // The task does nothing that could be cancelled.
                drop(tokio::task::spawn_blocking(close).await);
            }
        }
    }

    pub(crate) fn open_inner(&self) -> Result<&Arc<Inner>, Error> {
        if self.inner.progress.is_stopping() {
            return Err(Error::ShuttingDown);
        }
        Ok(&self.inner)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Inner {
    fn close(&self) {
        if let Some(housekeeper) = lock(&self.housekeeper).take() {
            // Said below: what holds a checkpoint up is a statement of the applier.
            housekeeper.close(CLOSING_PATIENCE);
        }
        if !self.machinery.applier.close(CLOSING_PATIENCE) {
            tracing::warn!(
                component = "db",
                "a written statement still runs and was abandoned; the next start runs it again"
            );
        }
        self.machinery.durability.close();
        if !self.readers.close(READERS_PATIENCE) {
            tracing::warn!(component = "db", "a read did not end in time and was abandoned");
        }
        self.log.close();
        self.cluster.close();
    }

    pub(crate) fn is_ready(&self) -> bool {
        let view = self.consensus.view();
        view.leader.is_some()
            && !view.pending
            && self.progress.other_engine().is_none()
            && self.has_caught_up(&view)
            && !self.receiver.is_needed(self.progress.applied().index)
            && self.progress.given_up().is_none()
            && !self.progress.is_stopping()
    }

    /// Whether this node has applied, since it was opened, everything that was committed when it first heard
    /// of it: a leader by an entry of its own term, any other by what the leader says.
    fn has_caught_up(&self, view: &View) -> bool {
        if self.caught_up.load(Ordering::Relaxed) {
            return true;
        }
        let applied = self.progress.applied();
        let reached = if view.leads {
            applied.term == view.term
        } else {
            view.cluster_committed.is_some_and(|committed| applied.index >= committed)
        };
        if reached {
            self.caught_up.store(true, Ordering::Relaxed);
        }
        reached
    }

    /// How long this node has led; zero if it does not.
    pub(crate) fn leading_since(&self) -> Duration {
        lock(&self.office).map_or(Duration::ZERO, |(_, begin)| begin.elapsed())
    }

    pub(crate) fn own_peer(&self) -> Peer {
        Peer {
            name: self.node_id.clone(),
            raft_addr: self.options.raft_addr.clone(),
            api_url: self.options.api_url.clone(),
            replica: self.options.replica,
        }
    }

    pub(crate) fn new_cluster_id(&self) -> String {
        crate::identity::new_cluster_id(&self.environment)
    }

    /// The engine epoch that is computed here.
    pub(crate) fn engine_epoch(&self) -> i64 {
        self.environment.engine_epoch
    }

    /// A random time below `limit`.
    pub(crate) fn random_below(&self, limit: Duration) -> Duration {
        let mut bytes = [0; 4];
        self.environment.entropy.fill(&mut bytes);
        limit.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
    }

    /// Confirms by a quorum that this node still leads, and gives the index a read must see.
    ///
    /// # Errors
    /// It does not lead, or no quorum answers.
    pub(crate) async fn confirm_leadership(&self) -> Result<u64, Error> {
        self.metrics.verify_leader.add(1);
        let confirmed = self.consensus.confirm().await;
        if confirmed.is_err() {
            self.metrics.verify_leader_failed.add(1);
        }
        confirmed
    }

    pub(crate) fn not_leader(&self) -> Error {
        match self.consensus.leader() {
            // It leads by its own account, but may not at this moment; or it has just lost it.
            Some(leader) if leader.id == self.node_id => Error::LeaderNotFound,
            leader @ Some(_) => Error::NotLeader { leader },
            None => Error::LeaderNotFound,
        }
    }
}

/// What a node consists of once Raft runs.
struct Parts {
    cluster: Arc<Cluster>,
    log: Log,
    readers: Readers,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    machinery: Arc<Machinery>,
    consensus: Consensus,
    transfers: Arc<Transfers>,
    receiver: Receiver,
}

impl Parts {
    /// Opens everything and starts Raft over it.
    async fn start(options: &Options, environment: &Environment) -> Result<Self, OpenError> {
        let Ground { cluster, paths, log, database, metrics, other_engine } =
            Ground::open(options, environment)?;
        let membership = database.opened.state.membership.clone();
        let stored = raft::membership::stored(membership.as_ref()).map_err(OpenError::Log)?;
        let applied = database.opened.state.applied;
        let readers = database.readers.clone();
        let progress = Progress::new(applied, options.limits.free_bytes_min);
        let progress = Arc::new(progress.with_other_engine(other_engine));
        let machinery =
            Machinery::start(database, &progress, &metrics, environment, &options.directory)?;
        let site = recovery::Site {
            options,
            environment,
            paths: &paths,
            cluster: &cluster,
            log: &log,
            durability: &machinery.durability,
            applied,
            membership: membership.as_ref(),
        };
        if recovery::run(&site).await? {
            metrics.recoveries.add(1);
        }
        let durability = Arc::clone(&machinery.durability);
        let store = LogStore::new(log.clone(), Arc::clone(&progress), durability);
        let machine = StateMachine::new(
            Arc::clone(&machinery.applier),
            Arc::clone(&progress),
            Arc::clone(&machinery.durability),
            store.clone(),
            stored,
            applied.is_some(),
        );
        let transfers = Arc::new(transfers(options, environment));
        let connector = Connector::new(
            Arc::clone(&environment.network),
            Arc::clone(&cluster),
            Arc::clone(&transfers),
            machinery.wal.clone(),
        );
        let consensus =
            Consensus::start(connector, Arc::clone(&progress), &options.timing, store, machine)
                .await?;
        let receiver = Receiver::new(
            Arc::clone(&environment.files),
            paths.scratch,
            machinery.applier.replacer().clone(),
            environment.execution,
            Box::new(consensus.landing(Arc::clone(&cluster))),
        );
        Ok(Self {
            cluster,
            log,
            readers,
            progress,
            metrics,
            machinery,
            consensus,
            transfers,
            receiver,
        })
    }
}

impl Inner {
    fn assemble(parts: Parts, options: Options, environment: Environment) -> Arc<Self> {
        let Parts {
            cluster,
            log,
            readers,
            progress,
            metrics,
            machinery,
            consensus,
            transfers,
            receiver,
        } = parts;
        let settings = Settings { foreign_keys: options.foreign_keys, budget: options.budget };
        let batcher = Batcher::start(
            consensus.clone(),
            Stamper::new(environment.clone(), settings, machinery.room()),
            Arc::clone(&metrics),
            options.limits.backlog_bytes_max,
            options.limits.enqueue_timeout,
        );
        let network = Arc::clone(&environment.network);
        Arc::new_cyclic(|inner| Self {
            confirmations: confirmations(Weak::clone(inner)),
            barriers: barriers(consensus.clone()),
            consensus,
            raft_id: cluster.raft_id,
            process: crate::identity::random(&environment),
            client: Client::new(Arc::clone(&network), Arc::clone(&cluster)),
            network,
            founding: Founding::default(),
            join_credentials: Mutex::default(),
            joins: tokio::sync::Mutex::default(),
            notices: Notices::default(),
            transfers,
            receiver,
            execution: environment.execution,
            environment,
            office: Mutex::default(),
            caught_up: AtomicBool::new(false),
            log,
            readers,
            machinery,
            progress,
            metrics,
            batcher,
            leader_missed: tokio::sync::Notify::new(),
            node_id: cluster.name.clone(),
            cluster,
            options,
            retired: AtomicBool::new(false),
            housekeeper: Mutex::default(),
        })
    }
}

/// How databases are sent to members.
fn transfers(options: &Options, environment: &Environment) -> Transfers {
    /// zstd's fastest level: pages of a database shrink to a half or less at hundreds of megabytes a second.
    const COMPRESSION_LEVEL: i32 = 1;
    let settings = TransferOptions {
        compression: options.sending.compress.then_some(COMPRESSION_LEVEL),
        bytes_per_second: options.sending.bytes_per_second,
        ..TransferOptions::default()
    };
    Transfers::new(settings, environment.execution, Arc::clone(&environment.entropy))
}

impl Machinery {
    fn start(
        database: Database,
        progress: &Arc<Progress>,
        metrics: &Arc<Metrics>,
        environment: &Environment,
        directory: &Path,
    ) -> Result<Arc<Self>, OpenError> {
        let Database { writer, checkpointer, readers, opened: _ } = database;
        let execution = environment.execution;
        let core = Core {
            writer,
            progress: Arc::clone(progress),
            clock: Arc::clone(&environment.clock),
            metrics: Arc::clone(metrics),
        };
        let turns = Arc::new(Turns::new(tokio::runtime::Handle::current().metrics().num_workers()));
        let applier = Applier::start(core, &turns, execution)
            .map_err(|error| OpenError::Thread(error.to_string()))?;
        Ok(Arc::new(Self {
            wal: checkpointer.wal_size(),
            looks: AtomicU64::new(0),
            applier: Arc::new(applier),
            turns,
            durability: Arc::new(Durability::new(checkpointer, Arc::clone(progress), execution)),
            readers,
            metrics: Arc::clone(metrics),
            environment: environment.clone(),
            directory: directory.to_owned(),
        }))
    }

    pub(crate) fn wal_bytes(&self) -> u64 {
        self.wal.bytes()
    }

    /// Where what is written goes.
    fn room(&self) -> Room {
        Room { directory: self.directory.clone(), wal: self.wal.clone() }
    }

    pub(crate) fn free_bytes(&self) -> Option<u64> {
        self.environment.files.free_space(&self.directory).ok()
    }

    /// The bytes of the WAL's file.
    pub(crate) fn wal_file_bytes(&self) -> u64 {
        self.wal.file_bytes()
    }

    /// Folds the WAL back if it is larger than `due`, or its file than what is kept of it; cancels the oldest read
    /// if the file is larger than both that and `cap` afterwards.
    pub(crate) fn checkpoint_if_due(&self, cap: u64, due: u64) {
        if self.wal_bytes() < due && !self.is_wal_file_to_be_emptied() {
            return;
        }
        let began = Instant::now();
        self.metrics.checkpoints.add(1);
        if let Err(error) = self.checkpoint() {
            self.metrics.checkpoint_errors.add(1);
            tracing::warn!(component = "db-checkpoint", "checkpoint failed: {error}");
        }
        self.metrics.checkpoint_duration_ms.set(milliseconds(began.elapsed()));
        let too_large = self.wal_bytes() > cap || self.wal_file_bytes() > cap.max(WAL_FILE_KEPT);
        if too_large && self.readers.cancel_oldest(READ_CANCEL_AGE) {
            self.metrics.reads_cancelled.add(1);
            tracing::warn!(
                component = "db-checkpoint",
                "the oldest read was cancelled: the WAL has grown beyond {cap} bytes because of it"
            );
        }
    }

    fn checkpoint(&self) -> Result<(), LocalError> {
        let Some(fold) = self.durability.with_checkpointer(Checkpointer::fold) else {
            return Ok(());
        };
        if !fold?.nearly_done {
            return Ok(());
        }
        if let Some(finish) = self.applier.with_writer(Writer::finish_checkpoint) {
            self.metrics.checkpoint_pause_us_max.raise(micros(finish?.pause));
        }
        Ok(())
    }

    /// Whether the WAL's file is too large, at most once in [`LOOKS_BETWEEN_EMPTYING`] calls: while somebody reads
    /// from it, each try holds new reads up for nothing.
    fn is_wal_file_to_be_emptied(&self) -> bool {
        if self.wal_file_bytes() <= WAL_FILE_KEPT {
            return false;
        }
        self.looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOKS_BETWEEN_EMPTYING)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Rounds that give the index a linearizable read must see.
fn confirmations(inner: Weak<Inner>) -> Rounds<u64> {
    Rounds::start(move || {
        let inner = inner.upgrade();
        async move { inner.ok_or(Error::ShuttingDown)?.read_index().await }
    })
}

/// Rounds that put an entry through the log.
fn barriers(consensus: Consensus) -> Rounds<u64> {
    Rounds::start(move || {
        let consensus = consensus.clone();
        async move { consensus.barrier().await }
    })
}
