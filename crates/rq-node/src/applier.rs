//! The applier: owner of the one writer connection, on a thread of its own, beside it, or inline.
//!
//! # The walk of a committed entry
//! 1. openraft's worker calls `raft::state_machine::apply` with a run of committed entries.
//! 2. They become [`Job`]s. Few small ones that find the applier idle are applied there and then, because waking a thread
//!    and being woken by it takes longer than they do ([`Threaded::apply_here`]). Whatever needs more ([`TURN_STEPS`]), or
//!    fails, leaves no trace and goes the way of all others: to the thread, in one message; the worker awaits the answer,
//!    so openraft's applied index runs ahead of the database only where applying stands still for a fault (4).
//! 3. Each job is one SQLite transaction ([`rq_sqlite::Writer::apply`]). After its COMMIT the applied id
//!    is published and its outcome goes back to openraft's worker, before the next job begins. The
//!    worker wakes the clients: from an async worker that is an order of magnitude cheaper than from a
//!    thread of our own, and an entry has dozens of them.
//! 4. A local fault (full disk, I/O error, out of memory) is no result: everything was rolled back, the
//!    fault is shown in status, and the same entry is tried again until it works or the node stops. Nobody waits for that:
//!    openraft, which would store and vote no more with so many entries to apply, is told that its run is done, and what
//!    follows is read from the log again when its turn comes ([`Applier::apply_later`]).
//!
//! A received snapshot takes the place of the database here too ([`Applier::install`]), between two
//! jobs: afterwards the writer is another one, and the applied id has jumped.
//!
//! # Invariants
//! - Entries are applied in the order of the log, each exactly once.
//! - Who touches the writer connection holds its lock. That is the thread, or openraft's worker while nothing it handed to
//!   the thread is left. The checkpointer borrows the connection through [`Applier::with_writer`] between two jobs. It waits
//!   for what was handed over at once, which is bounded, and not for the end of what is applied later: the WAL would grow
//!   all the while.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rq_sqlite::{
    Applied, ApplyError, Arrival, Budget, Entry, EntryId, LocalError, LocalKind, OpenError,
    Operation, Readers, ReplaceError, Replacer, Settings, StoredState, Writer,
};
use rq_storage::Execution;
use tokio::sync::{mpsc as tokio_mpsc, oneshot};

use crate::{
    command::{Command, estimate},
    durability::Durability,
    environment::Clock,
    metrics::Metrics,
    progress::{Progress, Stall, lock},
    threads::{join_within, lock_until},
    turns::{TURN_STEPS, Turns},
};

/// How long the applier waits before it tries again what a local fault stopped.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Stack of the applier's thread: SQLite's recursion (expression depth 1,000, triggers) needs far less.
const STACK_BYTES: usize = 8 * 1024 * 1024;
/// Entries that are applied where they come in, at most; more keep the thread busy for long enough to be woken.
const FEW_JOBS: usize = 4;
/// Requests of each of them, at most.
const FEW_REQUESTS: usize = 16;
/// Bytes of all requests of one of them, at most: compiling texts and copying values take no steps.
const FEW_BYTES: usize = 4 * 1024;
/// After an entry that needed more than a turn so many runs of entries go to the thread at once: such entries seldom come
/// alone, and each would run twice.
const RUNS_AFTER_HEAVY: usize = 64;

/// One committed entry to apply.
pub(crate) struct Job {
    pub(crate) id: EntryId,
    pub(crate) content: Content,
    /// Where the answer goes, if somebody waits for it here.
    pub(crate) respond: Option<Respond>,
}

impl Job {
    fn entry(&self) -> Entry<'_> {
        match &self.content {
            Content::Blank => bare(self.id, Operation::Blank),
            Content::Membership(bytes) => bare(self.id, Operation::Membership(bytes)),
            Content::Command(command) => command.entry(self.id),
        }
    }
}

/// Takes the outcome of an entry to whoever waits for it.
pub(crate) type Respond = Box<dyn FnOnce(Applied) + Send>;

/// Committed entries that are not held in memory until they are applied.
pub(crate) trait Later: Send + Sync + 'static {
    /// The next of them, as many as are read at once; none at the end, which is final.
    ///
    /// # Errors
    /// They cannot be read, or make no sense.
    fn next(&self) -> Result<Vec<Job>, String>;
}

/// What an entry holds.
pub(crate) enum Content {
    Blank,
    Membership(Vec<u8>),
    Command(Arc<Command>),
}

impl Content {
    fn is_small(&self) -> bool {
        match self {
            Self::Blank => true,
            Self::Membership(_) => false,
            Self::Command(command) => command.requests().is_some_and(|requests| {
                requests.len() <= FEW_REQUESTS
                    && requests.iter().map(estimate).sum::<usize>() <= FEW_BYTES
            }),
        }
    }
}

/// The handle. See the module's documentation.
pub(crate) struct Applier {
    driver: Driver,
    replacer: Replacer,
}

enum Driver {
    Thread(Threaded),
    Inline(Box<Mutex<Option<Worker>>>),
}

/// A worker that a thread drives, or whoever finds it idle.
struct Threaded {
    queue: Mutex<Option<mpsc::Sender<Message>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// None when it has been closed.
    worker: Arc<Mutex<Option<Worker>>>,
    /// Messages that are not dealt with yet.
    waiting: Arc<AtomicUsize>,
    turns: Arc<Turns>,
    /// How many runs still go to the thread at once.
    heavy: AtomicUsize,
}

enum Message {
    Apply(Vec<Job>, tokio_mpsc::UnboundedSender<Report>),
    Later(Arc<dyn Later>),
    Borrow(Box<dyn FnOnce(&mut Writer) + Send>),
    Install(Arrival, Arc<Durability>, oneshot::Sender<Result<StoredState, String>>),
}

/// What the thread says of a run of jobs.
enum Report {
    /// One is committed, and somebody waits for it.
    Answer(Respond, Applied),
    /// One stands still for a fault of this node.
    Stalled,
    /// All are committed, or it cannot go on.
    End(Result<(), String>),
}

/// What the applier is made of.
pub(crate) struct Core {
    pub(crate) writer: Writer,
    pub(crate) progress: Arc<Progress>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What the applier works with.
struct Worker {
    /// None only after a replacement of the file that left nothing open; the node has stopped then.
    writer: Option<Writer>,
    replacer: Replacer,
    progress: Arc<Progress>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Why nothing is applied any more: after an entry that could not be applied none may be.
    going: Result<(), String>,
}

impl Applier {
    /// Starts the applier.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(crate) fn start(
        core: Core,
        turns: &Arc<Turns>,
        execution: Execution,
    ) -> std::io::Result<Self> {
        let replacer = core.writer.replacer();
        let worker = Worker::new(core, replacer.clone());
        let driver = match execution {
            Execution::Inline => Driver::Inline(Box::new(Mutex::new(Some(worker)))),
            Execution::Threads => Driver::Thread(Threaded::start(worker, Arc::clone(turns))?),
        };
        Ok(Self { driver, replacer })
    }

    /// Applies a run of entries and returns when the last is committed, or applying stands still, or at once if it is
    /// `behind` already. Who waits for an answer gets it whenever that is.
    ///
    /// # Errors
    /// The node cannot go on; the text says why.
    pub(crate) async fn apply(&self, jobs: Vec<Job>, behind: bool) -> Result<(), String> {
        let stopped = || "the applier has stopped".to_owned();
        match &self.driver {
            Driver::Inline(worker) => {
                let mut worker = lock(worker);
                worker.as_mut().ok_or_else(stopped)?.apply(jobs, Faults::Report, &mut answer_here)
            }
            Driver::Thread(threaded) => {
                let jobs = if behind { jobs } else { threaded.apply_here(jobs) };
                if jobs.is_empty() {
                    return Ok(());
                }
                let (reports, mut said) = tokio_mpsc::unbounded_channel();
                threaded.send(Message::Apply(jobs, reports)).ok_or_else(stopped)?;
                let mut stalled = behind;
                loop {
                    if stalled {
                        tokio::spawn(answer_all(said));
                        return Ok(());
                    }
                    match said.recv().await {
                        Some(Report::Answer(respond, applied)) => respond(applied),
                        Some(Report::Stalled) => stalled = true,
                        Some(Report::End(result)) => return result,
                        None => return Err(stopped()),
                    }
                }
            }
        }
    }

    /// Has entries applied behind everything that was handed over before. Nobody hears of their ends; what makes the
    /// node stop is told to everybody.
    ///
    /// # Errors
    /// The applier has stopped.
    pub(crate) fn apply_later(&self, entries: Arc<dyn Later>) -> Result<(), String> {
        let stopped = || "the applier has stopped".to_owned();
        match &self.driver {
            Driver::Inline(worker) => {
                lock(worker).as_mut().ok_or_else(stopped)?.apply_later(&*entries, Faults::Report)
            }
            Driver::Thread(threaded) => threaded.send(Message::Later(entries)).ok_or_else(stopped),
        }
    }

    /// Puts a received database in the place of this one, between two entries, and returns what its
    /// state table holds. What fails on this node is tried again until it works or the node stops; until
    /// the file is replaced, the old one is read as before.
    ///
    /// # Errors
    /// The node cannot go on; the text says why.
    pub(crate) async fn install(
        &self,
        arrival: Arrival,
        durability: &Arc<Durability>,
    ) -> Result<StoredState, String> {
        let stopped = || "the applier has stopped".to_owned();
        match &self.driver {
            Driver::Inline(worker) => {
                let mut worker = lock(worker);
                let worker = worker.as_mut().ok_or_else(stopped)?;
                worker.install(&arrival, durability, Faults::Report)
            }
            Driver::Thread(threaded) => {
                let (done, installed) = oneshot::channel();
                let message = Message::Install(arrival, Arc::clone(durability), done);
                threaded.send(message).ok_or_else(stopped)?;
                installed.await.map_err(|_| stopped())?
            }
        }
    }

    /// What installs, and inspects what is to be installed.
    pub(crate) fn replacer(&self) -> &Replacer {
        &self.replacer
    }

    /// The pool of the database.
    pub(crate) fn readers(&self) -> &Readers {
        self.replacer.readers()
    }

    /// Runs `work` on the writer connection between two entries, and waits for it. `None` if the
    /// applier has stopped. Must not be called on an async worker.
    pub(crate) fn with_writer<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> R + Send + 'static,
    ) -> Option<R> {
        match &self.driver {
            Driver::Inline(worker) => {
                lock(worker).as_mut().and_then(|worker| worker.writer.as_mut()).map(work)
            }
            Driver::Thread(threaded) => {
                let (done, result) = mpsc::sync_channel(1);
                let message = Message::Borrow(Box::new(move |writer| {
                    // The other side may have gone; then nobody wants the result.
                    drop(done.send(work(writer)));
                }));
                threaded.send(message)?;
                result.recv().ok()
            }
        }
    }

    /// Finishes what was handed over, closes the writer connection and ends the thread. A statement
    /// that runs longer than `patience` is left alone and false returned: the process is about to end,
    /// its entry is in the log, and the next start applies it from its beginning.
    pub(crate) fn close(&self, patience: Duration) -> bool {
        match &self.driver {
            Driver::Inline(worker) => {
                drop(lock(worker).take());
                true
            }
            Driver::Thread(threaded) => threaded.close(patience),
        }
    }
}

impl Threaded {
    fn start(worker: Worker, turns: Arc<Turns>) -> std::io::Result<Self> {
        let (queue, messages) = mpsc::channel();
        let worker = Arc::new(Mutex::new(Some(worker)));
        let waiting = Arc::new(AtomicUsize::new(0));
        let thread = {
            let (worker, waiting) = (Arc::clone(&worker), Arc::clone(&waiting));
            thread::Builder::new()
                .name("rq-applier".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || run(&messages, &worker, &waiting))?
        };
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            worker,
            waiting,
            turns,
            heavy: AtomicUsize::new(0),
        })
    }

    /// Nothing if it has been closed.
    fn send(&self, message: Message) -> Option<()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        lock(&self.queue).as_ref()?.send(message).ok()
    }

    /// Applies entries on this async worker, and gives back those that are the thread's. Called by the one who hands
    /// entries over, so that none can come between.
    fn apply_here(&self, jobs: Vec<Job>) -> Vec<Job> {
        let heavy = self.heavy.load(Ordering::Relaxed);
        self.heavy.store(heavy.saturating_sub(1), Ordering::Relaxed);
        let is_idle = self.waiting.load(Ordering::Acquire) == 0;
        let are_few = jobs.len() <= FEW_JOBS && jobs.iter().all(|job| job.content.is_small());
        if heavy > 0 || !is_idle || !are_few {
            return jobs;
        }
        let Some(_turn) = self.turns.try_take() else { return jobs };
        let mut worker = match self.worker.try_lock() {
            Ok(worker) => worker,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return jobs,
        };
        let Some(worker) = worker.as_mut() else { return jobs };
        let mut jobs = jobs.into_iter();
        while let Some(job) = jobs.next() {
            let Some(applied) = worker.try_apply(&job) else {
                self.heavy.store(RUNS_AFTER_HEAVY, Ordering::Relaxed);
                return std::iter::once(job).chain(jobs).collect();
            };
            worker.note_applied(job, applied, &mut answer_here);
        }
        Vec::new()
    }

    /// See [`Applier::close`].
    fn close(&self, patience: Duration) -> bool {
        drop(lock(&self.queue).take());
        let deadline = Instant::now() + patience;
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|thread| !join_within(thread, patience)) {
            return false;
        }
        // An entry may still be applied elsewhere, on a disk that hangs.
        let Some(mut worker) = lock_until(&self.worker, deadline) else { return false };
        drop(worker.take());
        true
    }
}

/// The body of the applier's thread.
fn run(messages: &mpsc::Receiver<Message>, worker: &Mutex<Option<Worker>>, waiting: &AtomicUsize) {
    let mut put_off = VecDeque::new();
    while let Some(message) = put_off.pop_front().or_else(|| messages.recv().ok()) {
        let goes_on = lock(worker).as_mut().and_then(|worker| worker.handle(message));
        let Some(message) = goes_on else {
            waiting.fetch_sub(1, Ordering::Release);
            continue;
        };
        // Who wants the writer by now has it in between; everything else waits.
        while let Ok(message) = messages.try_recv() {
            match message {
                Message::Borrow(work) => {
                    if let Some(worker) = lock(worker).as_mut() {
                        worker.lend(work);
                    }
                    waiting.fetch_sub(1, Ordering::Release);
                }
                other => put_off.push_back(other),
            }
        }
        put_off.push_front(message);
    }
}

/// What to do with a local fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Faults {
    /// Wait and try again, until the node stops.
    Retry,
    /// Give up at once: a simulation decides itself what happens next.
    Report,
}

impl Worker {
    fn new(core: Core, replacer: Replacer) -> Self {
        let Core { writer, progress, clock, metrics } = core;
        Self { writer: Some(writer), replacer, progress, clock, metrics, going: Ok(()) }
    }

    /// Deals with a message, or with a part of it: then it is given back.
    fn handle(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::Apply(jobs, reports) => {
                // The runtime may be shut down meanwhile; then nobody waits any more.
                let tell = &mut |report| drop(reports.send(report));
                if self.going.is_ok() {
                    self.going = self.apply(jobs, Faults::Retry, tell);
                }
                if let Err(reason) = &self.going {
                    self.progress.set_stopped(reason.clone());
                }
                drop(reports.send(Report::End(self.going.clone())));
            }
            Message::Later(entries) => {
                let going = self.going.clone();
                match going.and_then(|()| self.apply_some(&*entries, Faults::Retry)) {
                    Ok(true) => return Some(Message::Later(entries)),
                    Ok(false) => {}
                    Err(reason) => {
                        if !self.progress.is_stopping() {
                            self.progress.set_stopped(reason.clone());
                        }
                        self.going = Err(reason);
                    }
                }
            }
            Message::Borrow(work) => self.lend(work),
            Message::Install(arrival, durability, done) => {
                let installed = self.going.clone();
                let result =
                    installed.and_then(|()| self.install(&arrival, &durability, Faults::Retry));
                if let Err(reason) = &result {
                    self.progress.set_stopped(reason.clone());
                }
                drop(done.send(result));
            }
        }
        None
    }

    fn lend(&mut self, work: Box<dyn FnOnce(&mut Writer) + Send>) {
        // Who waits hears that there is no writer when the work is dropped.
        if let Some(writer) = &mut self.writer {
            work(writer);
        }
    }

    /// Applies an entry if that takes no more than a turn is good for, and nothing fails.
    fn try_apply(&mut self, job: &Job) -> Option<Applied> {
        if self.going.is_err() {
            return None;
        }
        let (entry, wanted) = (job.entry(), job.respond.is_some());
        self.writer.as_mut()?.try_apply(&entry, wanted, TURN_STEPS)
    }

    fn apply(
        &mut self,
        jobs: Vec<Job>,
        faults: Faults,
        tell: &mut dyn FnMut(Report),
    ) -> Result<(), String> {
        for job in jobs {
            let applied = self.apply_one(&job, faults, tell)?;
            self.note_applied(job, applied, tell);
        }
        Ok(())
    }

    fn note_applied(&self, job: Job, applied: Applied, tell: &mut dyn FnMut(Report)) {
        let now_ms = self.clock.now_ms();
        if let Content::Command(command) = &job.content {
            self.progress.note_lag(now_ms.saturating_sub(command.clock_ms()));
        }
        self.progress.set_applied(job.id, now_ms);
        if let Some(respond) = job.respond {
            tell(Report::Answer(respond, applied));
        }
    }

    /// See [`Applier::apply_later`].
    fn apply_later(&mut self, entries: &dyn Later, faults: Faults) -> Result<(), String> {
        while self.apply_some(entries, faults)? {}
        Ok(())
    }

    /// Applies as many of them as are read at once; false at the end.
    fn apply_some(&mut self, entries: &dyn Later, faults: Faults) -> Result<bool, String> {
        if self.progress.is_stopping() {
            return Err("stopped while entries waited to be applied".to_owned());
        }
        let jobs = entries.next()?;
        let goes_on = !jobs.is_empty();
        self.apply(jobs, faults, &mut answer_here)?;
        Ok(goes_on)
    }

    fn apply_one(
        &mut self,
        job: &Job,
        faults: Faults,
        tell: &mut dyn FnMut(Report),
    ) -> Result<Applied, String> {
        let (id, wanted) = (job.id, job.respond.is_some());
        #[cfg(test)]
        crate::testing::history::note(id, &job.content);
        let entry = job.entry();
        let writer = self.writer.as_mut().ok_or("the database is not open")?;
        let command = match &job.content {
            Content::Command(command) => Some(command),
            Content::Blank | Content::Membership(_) => None,
        };
        let _applying = self.progress.begin_applying(id.index, command);
        let mut stall = Stalling::new(&self.progress, id.index);
        loop {
            match writer.apply(&entry, wanted) {
                Ok(applied) => {
                    stall.end();
                    return Ok(applied);
                }
                Err(ApplyError::Local(fault)) if faults == Faults::Retry => {
                    self.metrics.apply_retries.add(1);
                    tell(Report::Stalled);
                    stall.wait(&fault, "applying")?;
                }
                Err(error) => return Err(format!("applying entry {}: {error}", id.index)),
            }
        }
    }

    /// See [`Applier::install`].
    fn install(
        &mut self,
        arrival: &Arrival,
        durability: &Durability,
        faults: Faults,
    ) -> Result<StoredState, String> {
        let began = Instant::now();
        let index = arrival.applied.index;
        let mut stall = Stalling::new(&self.progress, index);
        let state = loop {
            let (writer, replacer) = (&mut self.writer, &self.replacer);
            match durability.with_place(|place| replacer.replace(writer, place, arrival)) {
                Ok(replaced) => {
                    tracing::info!(
                        component = "snapshot",
                        "snapshot up to index {index} installed in {:?}; reads waited {:?}",
                        began.elapsed(),
                        replaced.pause
                    );
                    break replaced.state;
                }
                Err(ReplaceError::NotDone(fault)) if faults == Faults::Retry => {
                    stall.wait(&fault, "installing a snapshot")?;
                }
                Err(ReplaceError::Closed { replaced, source }) if faults == Faults::Retry => {
                    let state = self.reopen(source, durability, &mut stall)?;
                    if replaced {
                        break state;
                    }
                }
                Err(error) => {
                    return Err(format!("installing the snapshot up to {index}: {error}"));
                }
            }
        };
        stall.end();
        self.progress.set_applied(arrival.applied, self.clock.now_ms());
        // It was synced before it took its name, and nothing was written since.
        self.progress.set_durable(arrival.applied);
        Ok(state)
    }

    /// Opens the file again that could not be opened because of `error`, until it works.
    fn reopen(
        &mut self,
        mut error: OpenError,
        durability: &Durability,
        stall: &mut Stalling,
    ) -> Result<StoredState, String> {
        loop {
            let OpenError::Local { source: fault, .. } = &error else {
                return Err(format!("opening the database again: {error}"));
            };
            stall.wait(fault, "opening the database again")?;
            let (writer, replacer) = (&mut self.writer, &self.replacer);
            match durability.with_place(|place| replacer.reopen(writer, place)) {
                Ok(state) => return Ok(state),
                Err(again) => error = again,
            }
        }
    }
}

/// Gives all answers that are still to come.
async fn answer_all(mut said: tokio_mpsc::UnboundedReceiver<Report>) {
    while let Some(report) = said.recv().await {
        answer_here(report);
    }
}

/// Gives an answer to who waits for it.
fn answer_here(report: Report) {
    if let Report::Answer(respond, applied) = report {
        respond(applied);
    }
}

/// What stands still for a fault of this node, and shows it.
struct Stalling {
    progress: Arc<Progress>,
    index: u64,
    stalled: bool,
}

impl Stalling {
    fn new(progress: &Arc<Progress>, index: u64) -> Self {
        Self { progress: Arc::clone(progress), index, stalled: false }
    }

    /// Shows the fault and waits until it may be tried again.
    ///
    /// # Errors
    /// The node is being stopped.
    fn wait(&mut self, fault: &LocalError, doing: &str) -> Result<(), String> {
        let index = self.index;
        if !self.stalled {
            tracing::error!(
                component = "store",
                "{doing} stands still at index {index}, tried again until it works: {fault}"
            );
            self.stalled = true;
        }
        self.progress.set_apply_stalled(Some(Stall {
            index,
            reason: fault.to_string(),
            disk_full: fault.kind == LocalKind::DiskFull,
        }));
        if self.progress.is_stopping() {
            return Err(format!("stopped while entry {index} waited: {fault}"));
        }
        thread::sleep(RETRY_DELAY);
        Ok(())
    }

    /// It goes on.
    fn end(self) {
        if self.stalled {
            self.progress.set_apply_stalled(None);
            tracing::info!(component = "store", "applying goes on at index {}", self.index);
        }
    }
}

/// An entry of ours that runs no SQL: clock, seed and settings do not matter.
fn bare(id: EntryId, operation: Operation<'_>) -> Entry<'_> {
    let budget = Budget { steps: 0, pages: 0 };
    let settings = Settings { foreign_keys: false, budget };
    Entry { id, clock_ms: 0, seed: [0; 16], settings, operation }
}
