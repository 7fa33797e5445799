//! The batcher: packs all writes that wait at this moment into one log entry.
//!
//! While one batch is being appended and replicated the next one collects, so the size of a batch
//! adapts to the load: alone, a request waits for nobody; with 64 clients one fsync serves dozens.
//! Once committed it is out of the way: applying and answering it overlaps with the next one's fsync.
//! A batch that has grown large ([`EARLY_REQUESTS`]) need not wait for the one before it: up to
//! [`PIPELINE_DEPTH`] entries are under way at once, and their order is their order. Smaller ones wait,
//! because two small entries cost two fsyncs where one would do (measured at 64 connections: twice the
//! throughput of a pipeline that is always full).
//!
//! # The walk of a write
//! 1. [`Batcher::propose`] waits for room in the backlog (bounded by bytes) and queues the request.
//! 2. The batcher's task takes the first request waiting, waits for a place in the pipeline, takes
//!    whatever else has come by then up to [`BATCH_REQUESTS_MAX`] and [`BATCH_BYTES_MAX`], drops those
//!    whose time is up, stamps the rest and proposes the entry.
//! 3. The applier answers: each request gets its own outcome.
//!
//! Requests that say ROLLBACK or are known to end the transaction of their whole entry go alone, and so
//! does maintenance. When one ended it that nobody could foresee, entries stay small for a while: each
//! such request makes its whole entry run again.
//!
//! # Those who wait too long
//! Until it is taken into an entry a request is its client's: it ends with its time, or when nobody wants its answer any
//! more ([`Stake`]). A leader that is cut off has entries under way that never end; when it is known to lead no more,
//! what waits behind them was not done, and of themselves nobody knows.
//!
//! # Invariants
//! - A request is in at most one entry: nothing is ever proposed twice.
//! - A request that fails before it is proposed was not done; one whose answer is lost afterwards is
//!   *outcome unknown*.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use rq_sqlite::{Applied, Maintenance, Request, RequestOutcome};
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};

use crate::{
    Error,
    command::{Payload, Stamper, Work, estimate},
    metrics::Metrics,
    progress::lock,
    raft::consensus::{Consensus, LEADERSHIP_INTERVAL},
};

/// Entries on their way to being committed at once.
const PIPELINE_DEPTH: usize = 4;
/// A batch of this many requests is proposed although others are under way.
const EARLY_REQUESTS: usize = 256;
/// Requests in one entry at most; more go into the next.
const BATCH_REQUESTS_MAX: usize = 1024;
/// Estimated bytes of one entry at most, unless a single request is larger.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Estimated bytes of one request at most; more is refused. An encoded entry stays below what the log
/// and a replay accept.
const REQUEST_BYTES_MAX: usize = 512 * 1024 * 1024;
/// After an unforeseen disruption this many entries hold few requests.
const CAUTIOUS_ENTRIES: usize = 64;
/// How many requests such an entry holds at most.
const CAUTIOUS_REQUESTS: usize = 8;
/// How long an entry is offered again to a leader whose lease is momentarily unconfirmed, and how often.
const LEASE_PATIENCE: Duration = Duration::from_secs(2);
const LEASE_RETRY: Duration = Duration::from_millis(10);
/// Entries remembered as under way before those that have ended are forgotten.
const UNDER_WAY_SWEEP: usize = 64;
/// The backlog is counted in units of this many bytes.
const BACKLOG_UNIT_BYTES: usize = 256;
/// Statement texts remembered as disruptive; beyond it the memory starts over.
const DISRUPTIVE_MAX: usize = 4096;

/// The handle. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Batcher {
    queue: mpsc::UnboundedSender<Proposal>,
    pipeline: Arc<Pipeline>,
    backlog: Arc<Semaphore>,
    backlog_units: u32,
    enqueue_timeout: Duration,
}

/// What waits to be proposed.
struct Proposal {
    item: Item,
    bytes: usize,
    /// When its client no longer wants it to be proposed.
    deadline: Option<Instant>,
    /// Whether it may share its entry with others.
    alone: bool,
    stake: Stake,
    waiter: Waiter,
}

/// Decides once between a request's client and its entry: who is first to claim it has it.
#[derive(Clone, Default)]
struct Stake(Arc<AtomicBool>);

impl Stake {
    fn claim(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Claims for a client that waits no more.
struct ClaimOnDrop(Stake);

impl Drop for ClaimOnDrop {
    fn drop(&mut self) {
        self.0.claim();
    }
}

/// Who waits for an answer, and the room in the backlog the request takes until then.
struct Waiter {
    answer: oneshot::Sender<Result<Proposed, Error>>,
    _room: OwnedSemaphorePermit,
}

enum Item {
    Request(Request),
    Maintenance(Maintenance),
}

/// The end of a proposal.
#[derive(Debug)]
pub(crate) struct Proposed {
    /// What the request gave.
    pub(crate) outcome: RequestOutcome,
    /// The index of its entry.
    pub(crate) index: u64,
}

impl Batcher {
    /// Starts the batcher's task.
    pub(crate) fn start(
        consensus: Consensus,
        stamper: Stamper,
        metrics: Arc<Metrics>,
        backlog_bytes_max: u64,
        enqueue_timeout: Duration,
    ) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let units = usize::try_from(backlog_bytes_max).unwrap_or(usize::MAX) / BACKLOG_UNIT_BYTES;
        let backlog_units = u32::try_from(units.clamp(1, 1 << 28)).unwrap_or(1 << 28);
        let backlog = Arc::new(Semaphore::new(backlog_units as usize));
        let pipeline = Arc::new(Pipeline::default());
        let task = Task {
            waiting,
            consensus,
            stamper,
            metrics,
            pipeline: Arc::clone(&pipeline),
            disruptive: Arc::new(Mutex::new(Disruptive::default())),
            under_way: UnderWay::default(),
            lost: Arc::default(),
        };
        let watch = Watch {
            consensus: task.consensus.clone(),
            pipeline: Arc::clone(&pipeline),
            under_way: task.under_way.clone(),
            lost: Arc::clone(&task.lost),
        };
        tokio::spawn(watch.run(queue.downgrade()));
        tokio::spawn(task.run());
        Self { queue, pipeline, backlog, backlog_units, enqueue_timeout }
    }

    /// Proposes a request and waits for its outcome.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::outcome`] says whether it may have been done.
    pub(crate) async fn propose(
        &self,
        request: Request,
        timeout: Option<Duration>,
    ) -> Result<Proposed, Error> {
        let bytes = estimate(&request);
        self.submit(Item::Request(request), bytes, timeout).await
    }

    /// Proposes maintenance and waits for its outcome.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn maintain(&self, maintenance: Maintenance) -> Result<Proposed, Error> {
        self.submit(Item::Maintenance(maintenance), BACKLOG_UNIT_BYTES, None).await
    }

    async fn submit(
        &self,
        item: Item,
        bytes: usize,
        timeout: Option<Duration>,
    ) -> Result<Proposed, Error> {
        if bytes > REQUEST_BYTES_MAX {
            let (bytes, max) = (bytes as u64, REQUEST_BYTES_MAX as u64);
            return Err(Error::TooLarge { bytes, max });
        }
        let alone = match &item {
            Item::Maintenance(_) => true,
            Item::Request(request) => says_rollback(request),
        };
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let units = u32::try_from(bytes / BACKLOG_UNIT_BYTES + 1).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.backlog).acquire_many_owned(units.min(self.backlog_units));
        let patience =
            timeout.map_or(self.enqueue_timeout, |timeout| timeout.min(self.enqueue_timeout));
        let room = match tokio::time::timeout(patience, room).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return Err(Error::ShuttingDown),
            Err(_) if patience < self.enqueue_timeout => return Err(Error::DeadlineExceeded),
            Err(_) => return Err(Error::EnqueueTimeout),
        };
        let (answer, mut outcome) = oneshot::channel();
        let waiter = Waiter { answer, _room: room };
        let stake = ClaimOnDrop(Stake::default());
        let proposal = Proposal { item, bytes, deadline, alone, stake: stake.0.clone(), waiter };
        // Before it can be taken out again, so that the count never falls below zero.
        self.pipeline.came();
        self.queue.send(proposal).map_err(|_| Error::ShuttingDown)?;
        let ended = match deadline {
            Some(deadline) => tokio::select! {
                biased;
                ended = &mut outcome => ended,
                () = tokio::time::sleep_until(deadline) => {
                    if stake.0.claim() {
                        return Err(Error::DeadlineExceeded);
                    }
                    outcome.await
                }
            },
            None => outcome.await,
        };
        ended.unwrap_or_else(|_| {
            Err(Error::OutcomeUnknown("the node stopped while the write was under way".to_owned()))
        })
    }
}

/// Counts what waits and what is under way, to decide when the next entry goes.
#[derive(Debug, Default)]
struct Pipeline {
    waiting: AtomicUsize,
    under_way: AtomicUsize,
    changed: Notify,
}

/// A place in the pipeline; given back when dropped.
struct Place(Arc<Pipeline>);

impl Pipeline {
    fn came(&self) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) + 1 == EARLY_REQUESTS {
            self.changed.notify_one();
        }
    }

    fn went(&self, requests: usize) {
        self.waiting.fetch_sub(requests, Ordering::Relaxed);
    }

    fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits until nothing is under way, or enough has come to go beside it.
    async fn place(self: &Arc<Self>) -> Place {
        loop {
            let under_way = self.under_way.load(Ordering::Acquire);
            let early = self.waiting.load(Ordering::Relaxed) >= EARLY_REQUESTS;
            if under_way == 0 || (early && under_way < PIPELINE_DEPTH) {
                self.under_way.fetch_add(1, Ordering::AcqRel);
                return Place(Arc::clone(self));
            }
            self.changed.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}

struct Task {
    waiting: mpsc::UnboundedReceiver<Proposal>,
    consensus: Consensus,
    stamper: Stamper,
    metrics: Arc<Metrics>,
    pipeline: Arc<Pipeline>,
    disruptive: Arc<Mutex<Disruptive>>,
    under_way: UnderWay,
    /// Told when this node leads no more.
    lost: Arc<Notify>,
}

impl Task {
    async fn run(mut self) {
        let mut next = None;
        loop {
            let first = match next.take() {
                Some(proposal) => proposal,
                None => match self.waiting.recv().await {
                    Some(proposal) => proposal,
                    None => return,
                },
            };
            // Waiting for a place lets the batch grow: this is where it adapts to the load.
            let Some(place) = self.place().await else {
                self.refuse(first, &mut next);
                continue;
            };
            let batch = self.collect(first, &mut next);
            self.pipeline.went(batch.len());
            self.send(batch, place).await;
        }
    }

    /// A place in the pipeline, or none if this node leads no more.
    async fn place(&self) -> Option<Place> {
        loop {
            tokio::select! {
                biased;
                place = self.pipeline.place() => return Some(place),
                // It may have been told long ago.
                () = self.lost.notified() => if !self.consensus.leads() {
                    return None;
                }
            }
        }
    }

    /// Tells everybody who waits that nothing was done.
    fn refuse(&mut self, first: Proposal, next: &mut Option<Proposal>) {
        let rest = next.take().into_iter();
        let waiting = std::iter::from_fn(|| self.waiting.try_recv().ok());
        for Proposal { stake, waiter, .. } in std::iter::once(first).chain(rest).chain(waiting) {
            self.pipeline.went(1);
            if stake.claim() {
                drop(waiter.answer.send(Err(Error::LeaderNotFound)));
            }
        }
    }

    /// Takes what waits and may share an entry with `first`; what may not is left in `next`.
    fn collect(&mut self, first: Proposal, next: &mut Option<Proposal>) -> Vec<Proposal> {
        let mut bytes = first.bytes;
        let alone = self.goes_alone(&first);
        let mut batch = vec![first];
        let most = lock(&self.disruptive).most_requests();
        while !alone && batch.len() < most && bytes < BATCH_BYTES_MAX {
            let Ok(proposal) = self.waiting.try_recv() else { break };
            if bytes + proposal.bytes > BATCH_BYTES_MAX || self.goes_alone(&proposal) {
                *next = Some(proposal);
                break;
            }
            bytes += proposal.bytes;
            batch.push(proposal);
        }
        batch
    }

    fn goes_alone(&self, proposal: &Proposal) -> bool {
        proposal.alone
            || match &proposal.item {
                Item::Maintenance(_) => true,
                Item::Request(request) => lock(&self.disruptive).contains(request),
            }
    }

    async fn send(&self, batch: Vec<Proposal>, place: Place) {
        let now = Instant::now();
        let mut requests = Vec::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        let mut work = None;
        for Proposal { item, deadline, stake, waiter, .. } in batch {
            if !stake.claim() {
                // Its client was told that its time was up, or has gone.
                continue;
            }
            if deadline.is_some_and(|deadline| deadline <= now) {
                // The client may have gone as well.
                drop(waiter.answer.send(Err(Error::DeadlineExceeded)));
                continue;
            }
            match item {
                Item::Request(request) => requests.push(request),
                Item::Maintenance(maintenance) => work = Some(Work::Maintenance(maintenance)),
            }
            answers.push(waiter);
        }
        if answers.is_empty() {
            return;
        }
        self.metrics.batches.add(1);
        self.metrics.batched_requests.add(answers.len() as u64);
        let payload = self.stamper.stamp(work.unwrap_or(Work::Batch(requests)));
        let learn = Learn { command: payload.command().ok(), memory: Arc::clone(&self.disruptive) };
        let give_up = now + LEASE_PATIENCE;
        let answers = self.under_way.enter(answers);
        let entry = EntryToPropose { payload, answers, learn, give_up };
        entry.propose(self.consensus.clone(), Some(place)).await;
    }
}

/// An entry on its way to Raft, and who waits for it.
struct EntryToPropose {
    payload: Payload,
    answers: Arc<Waiters>,
    learn: Learn,
    /// Until when it is offered again to a Raft that refuses it for want of a confirmed lease.
    give_up: Instant,
}

impl EntryToPropose {
    /// Proposes the entry. What Raft refuses was not appended; while this node leads nevertheless, its lease is only
    /// unconfirmed for a moment, and the entry is offered again.
    fn propose(self, consensus: Consensus, place: Option<Place>) -> BoxFuture<'static, ()> {
        let Self { payload, answers, learn, give_up } = self;
        let again = (consensus.clone(), payload.clone(), Handle::current());
        let end = move |end: Result<(Applied, u64), Error>| {
            let (consensus, payload, runtime) = again;
            let refused = matches!(end, Err(Error::LeaderNotFound));
            if refused && consensus.leads() && Instant::now() < give_up {
                let entry = Self { payload, answers, learn, give_up };
                runtime.spawn(async move {
                    tokio::time::sleep(LEASE_RETRY).await;
                    entry.propose(consensus, None).await;
                });
                return;
            }
            deliver(end, &answers, &learn);
        };
        Box::pin(async move { consensus.propose(payload, move || drop(place), end).await })
    }
}

/// Who waits for an entry, until they have their answer.
#[derive(Default)]
struct Waiters(Mutex<Vec<Waiter>>);

/// The entries that were proposed and have not ended.
#[derive(Clone, Default)]
struct UnderWay(Arc<Mutex<Vec<Weak<Waiters>>>>);

impl UnderWay {
    fn enter(&self, waiters: Vec<Waiter>) -> Arc<Waiters> {
        let waiters = Arc::new(Waiters(Mutex::new(waiters)));
        let mut entries = lock(&self.0);
        if entries.len() >= UNDER_WAY_SWEEP {
            entries.retain(|entry| entry.strong_count() > 0);
        }
        entries.push(Arc::downgrade(&waiters));
        waiters
    }

    /// Tells everybody that waits that nobody knows how it ended: the entries may be committed yet, or discarded.
    fn give_up(&self) {
        for waiters in lock(&self.0).drain(..).filter_map(|entry| entry.upgrade()) {
            for waiter in lock(&waiters.0).drain(..) {
                let lost = "leadership was lost while the write was under way".to_owned();
                drop(waiter.answer.send(Err(Error::OutcomeUnknown(lost))));
            }
        }
    }

    fn is_empty(&self) -> bool {
        let mut entries = lock(&self.0);
        entries.retain(|entry| entry.strong_count() > 0);
        entries.is_empty()
    }
}

/// A leader that is cut off keeps what it has proposed, and hears of its end only when it is back. Who waits is told
/// when it leads no more.
struct Watch {
    consensus: Consensus,
    pipeline: Arc<Pipeline>,
    under_way: UnderWay,
    lost: Arc<Notify>,
}

impl Watch {
    /// Watches until the batcher ends.
    async fn run(self, end: mpsc::WeakUnboundedSender<Proposal>) {
        loop {
            tokio::time::sleep(LEADERSHIP_INTERVAL).await;
            if end.upgrade().is_none() {
                return;
            }
            let anybody = self.pipeline.is_waited_for() || !self.under_way.is_empty();
            if anybody && self.consensus.has_lost_leadership().await {
                self.under_way.give_up();
                self.lost.notify_one();
            }
        }
    }
}

/// Gives each request of an entry its own answer.
fn deliver(end: Result<(Applied, u64), Error>, waiters: &Waiters, learn: &Learn) {
    let answers = std::mem::take(&mut *lock(&waiters.0));
    match end {
        Ok((Applied { requests }, index)) => {
            learn.note(&requests);
            // Whoever was told already that nobody knows is not among them.
            for (waiter, outcome) in answers.into_iter().zip(requests) {
                // A client that has gone does not need its answer.
                drop(waiter.answer.send(Ok(Proposed { outcome, index })));
            }
        }
        Err(error) => {
            for waiter in answers {
                drop(waiter.answer.send(Err(error.clone())));
            }
        }
    }
}

/// Remembers the texts of statements whose requests ended their entry's transaction.
struct Learn {
    command: Option<Arc<crate::command::Command>>,
    memory: Arc<Mutex<Disruptive>>,
}

impl Learn {
    fn note(&self, outcomes: &[RequestOutcome]) {
        if outcomes.iter().all(|outcome| !outcome.disruptive) {
            return;
        }
        let Some(requests) = self.command.as_ref().and_then(|command| command.requests()) else {
            return;
        };
        let mut memory = lock(&self.memory);
        if requests.len() > 1 {
            memory.cautious = CAUTIOUS_ENTRIES;
        }
        for (request, _) in requests.iter().zip(outcomes).filter(|(_, outcome)| outcome.disruptive)
        {
            memory.insert(request);
        }
    }
}

/// Hashes of statement texts; a false match only costs a batch its company.
#[derive(Default)]
struct Disruptive {
    hashes: HashSet<u64>,
    hasher: RandomState,
    /// Entries that still are to hold few requests.
    cautious: usize,
}

/// Whether a request may end the transaction of its whole entry by its own words.
fn says_rollback(request: &Request) -> bool {
    const WORD: &[u8] = b"rollback";
    request.statements.iter().any(|statement| {
        let bytes = statement.sql.as_bytes();
        bytes.windows(WORD.len()).any(|window| window.eq_ignore_ascii_case(WORD))
    })
}

impl Disruptive {
    /// How many requests the next entry may hold.
    fn most_requests(&mut self) -> usize {
        if self.cautious == 0 {
            return BATCH_REQUESTS_MAX;
        }
        self.cautious -= 1;
        CAUTIOUS_REQUESTS
    }

    fn contains(&self, request: &Request) -> bool {
        !self.hashes.is_empty()
            && request
                .statements
                .iter()
                .any(|statement| self.hashes.contains(&self.hash(&statement.sql)))
    }

    fn insert(&mut self, request: &Request) {
        if self.hashes.len() >= DISRUPTIVE_MAX {
            self.hashes.clear();
        }
        for statement in &request.statements {
            let hash = self.hash(&statement.sql);
            self.hashes.insert(hash);
        }
    }

    fn hash(&self, sql: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(sql.as_bytes());
        hasher.finish()
    }
}
