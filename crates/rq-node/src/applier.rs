//! The applier: owner of the one writer connection, on a thread of its own or inline.
//!
//! # The walk of a committed entry
//! 1. openraft's worker calls `raft::state_machine::apply` with a run of committed entries.
//! 2. They become [`Job`]s and go to the applier in one message; the worker awaits the answer, so
//!    openraft's applied index runs ahead of the database only where applying stands still for a fault (4).
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
//! - Nobody else touches the writer connection; the checkpointer borrows it through
//!   [`Applier::with_writer`] between two jobs. It waits for what was handed over at once, which is bounded, and not for
//!   the end of what is applied later: the WAL would grow all the while.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, mpsc},
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
    command::Command,
    durability::Durability,
    environment::Clock,
    metrics::Metrics,
    progress::{Progress, Stall, lock},
    threads::join_within,
};

/// How long the applier waits before it tries again what a local fault stopped.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Stack of the applier's thread: SQLite's recursion (expression depth 1,000, triggers) needs far less.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// One committed entry to apply.
pub(crate) struct Job {
    pub(crate) id: EntryId,
    pub(crate) content: Content,
    /// Where the answer goes, if somebody waits for it here.
    pub(crate) respond: Option<Respond>,
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

/// The handle. See the module's documentation.
pub(crate) struct Applier {
    driver: Driver,
    replacer: Replacer,
}

enum Driver {
    Thread { queue: Mutex<Option<mpsc::Sender<Message>>>, thread: Mutex<Option<JoinHandle<()>>> },
    Inline(Box<Mutex<Option<Worker>>>),
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
}

impl Applier {
    /// Starts the applier.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(crate) fn start(core: Core, execution: Execution) -> std::io::Result<Self> {
        let replacer = core.writer.replacer();
        let worker = Worker::new(core, replacer.clone());
        let driver = match execution {
            Execution::Inline => Driver::Inline(Box::new(Mutex::new(Some(worker)))),
            Execution::Threads => {
                let (queue, messages) = mpsc::channel();
                let thread = thread::Builder::new()
                    .name("rq-applier".to_owned())
                    .stack_size(STACK_BYTES)
                    .spawn(move || worker.run(&messages))?;
                Driver::Thread { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) }
            }
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
            Driver::Thread { queue, .. } => {
                let (reports, mut said) = tokio_mpsc::unbounded_channel();
                let message = Message::Apply(jobs, reports);
                lock(queue).as_ref().ok_or_else(stopped)?.send(message).map_err(|_| stopped())?;
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
            Driver::Thread { queue, .. } => lock(queue)
                .as_ref()
                .ok_or_else(stopped)?
                .send(Message::Later(entries))
                .map_err(|_| stopped()),
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
            Driver::Thread { queue, .. } => {
                let (done, installed) = oneshot::channel();
                let message = Message::Install(arrival, Arc::clone(durability), done);
                lock(queue).as_ref().ok_or_else(stopped)?.send(message).map_err(|_| stopped())?;
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
            Driver::Thread { queue, .. } => {
                let (done, result) = mpsc::sync_channel(1);
                let message = Message::Borrow(Box::new(move |writer| {
                    // The other side may have gone; then nobody wants the result.
                    drop(done.send(work(writer)));
                }));
                lock(queue).as_ref()?.send(message).ok()?;
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
            Driver::Thread { queue, thread } => {
                drop(lock(queue).take());
                lock(thread).take().is_none_or(|thread| join_within(thread, patience))
            }
        }
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
        Self { writer: Some(writer), replacer, progress, clock, metrics }
    }

    fn run(mut self, messages: &mpsc::Receiver<Message>) {
        // After an entry that could not be applied none may be.
        let mut going = Ok(());
        let mut waiting = VecDeque::new();
        while let Some(message) = waiting.pop_front().or_else(|| messages.recv().ok()) {
            match message {
                Message::Apply(jobs, reports) => {
                    // The worker may be shut down meanwhile; then nobody waits any more.
                    let tell = &mut |report| drop(reports.send(report));
                    going = going.and_then(|()| self.apply(jobs, Faults::Retry, tell));
                    if let Err(reason) = &going {
                        self.progress.set_stopped(reason.clone());
                    }
                    drop(reports.send(Report::End(going.clone())));
                }
                Message::Later(entries) => {
                    match going.clone().and_then(|()| self.apply_some(&*entries, Faults::Retry)) {
                        Ok(false) => {}
                        Ok(true) => {
                            self.lend_meanwhile(messages, &mut waiting);
                            waiting.push_front(Message::Later(entries));
                        }
                        Err(reason) => {
                            if !self.progress.is_stopping() {
                                self.progress.set_stopped(reason.clone());
                            }
                            going = Err(reason);
                        }
                    }
                }
                Message::Borrow(work) => self.lend(work),
                Message::Install(arrival, durability, done) => {
                    let installed = going.clone();
                    let result =
                        installed.and_then(|()| self.install(&arrival, &durability, Faults::Retry));
                    if let Err(reason) = &result {
                        self.progress.set_stopped(reason.clone());
                    }
                    drop(done.send(result));
                }
            }
        }
    }

    fn lend(&mut self, work: Box<dyn FnOnce(&mut Writer) + Send>) {
        // Who waits hears that there is no writer when the work is dropped.
        if let Some(writer) = &mut self.writer {
            work(writer);
        }
    }

    /// Lends the writer to those who want it by now; everything else waits.
    fn lend_meanwhile(
        &mut self,
        messages: &mpsc::Receiver<Message>,
        waiting: &mut VecDeque<Message>,
    ) {
        while let Ok(message) = messages.try_recv() {
            match message {
                Message::Borrow(work) => self.lend(work),
                other => waiting.push_back(other),
            }
        }
    }

    fn apply(
        &mut self,
        jobs: Vec<Job>,
        faults: Faults,
        tell: &mut dyn FnMut(Report),
    ) -> Result<(), String> {
        for job in jobs {
            let applied = self.apply_one(&job, faults, tell)?;
            let now_ms = self.clock.now_ms();
            if let Content::Command(command) = &job.content {
                self.progress.note_lag(now_ms.saturating_sub(command.clock_ms()));
            }
            self.progress.set_applied(job.id, now_ms);
            if let Some(respond) = job.respond {
                tell(Report::Answer(respond, applied));
            }
        }
        Ok(())
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
        let Job { id, content, respond } = job;
        let (id, wanted) = (*id, respond.is_some());
        #[cfg(test)]
        crate::testing::history::note(id, content);
        let entry = match content {
            Content::Blank => bare(id, Operation::Blank),
            Content::Membership(bytes) => bare(id, Operation::Membership(bytes)),
            Content::Command(command) => command.entry(id),
        };
        let writer = self.writer.as_mut().ok_or("the database is not open")?;
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
