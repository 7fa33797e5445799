//! The applier: owner of the one writer connection, on a thread of its own or inline.
//!
//! # The walk of a committed entry
//! 1. openraft's worker calls `raft::state_machine::apply` with a run of committed entries.
//! 2. They become [`Job`]s and go to the applier in one message; the worker awaits the answer, so
//!    openraft's applied index never runs ahead of the database.
//! 3. Each job is one SQLite transaction ([`rq_sqlite::Writer::apply`]). After its COMMIT the applied id
//!    is published and its outcome goes back to openraft's worker, before the next job begins. The
//!    worker wakes the clients: from an async worker that is an order of magnitude cheaper than from a
//!    thread of our own, and an entry has dozens of them.
//! 4. A local fault (full disk, I/O error, out of memory) is no result: everything was rolled back, the
//!    fault is shown in status, and the same entry is tried again until it works or the node stops.
//!
//! # Invariants
//! - Entries are applied in the order of the log, each exactly once.
//! - Nobody else touches the writer connection; the checkpointer borrows it through
//!   [`Applier::with_writer`] between two jobs.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use rq_sqlite::{
    Applied, ApplyError, Budget, Entry, EntryId, LocalKind, Operation, Settings, Writer,
};
use rq_storage::Execution;
use tokio::sync::mpsc as tokio_mpsc;

use crate::{
    command::Command,
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

/// What an entry holds.
pub(crate) enum Content {
    Blank,
    Membership(Vec<u8>),
    Command(Arc<Command>),
}

/// The handle. See the module's documentation.
pub(crate) struct Applier {
    driver: Driver,
}

enum Driver {
    Thread { queue: Mutex<Option<mpsc::Sender<Message>>>, thread: Mutex<Option<JoinHandle<()>>> },
    Inline(Box<Mutex<Option<Core>>>),
}

enum Message {
    Apply(Vec<Job>, tokio_mpsc::UnboundedSender<Report>),
    Borrow(Box<dyn FnOnce(&mut Writer) + Send>),
}

/// What the thread says of a run of jobs.
enum Report {
    /// One is committed, and somebody waits for it.
    Answer(Respond, Applied),
    /// All are committed, or it cannot go on.
    End(Result<(), String>),
}

/// What the applier works with.
pub(crate) struct Core {
    pub(crate) writer: Writer,
    pub(crate) progress: Arc<Progress>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Applier {
    /// Starts the applier.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(crate) fn start(core: Core, execution: Execution) -> std::io::Result<Self> {
        let driver = match execution {
            Execution::Inline => Driver::Inline(Box::new(Mutex::new(Some(core)))),
            Execution::Threads => {
                let (queue, messages) = mpsc::channel();
                let thread = thread::Builder::new()
                    .name("rq-applier".to_owned())
                    .stack_size(STACK_BYTES)
                    .spawn(move || core.run(&messages))?;
                Driver::Thread { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) }
            }
        };
        Ok(Self { driver })
    }

    /// Applies a run of entries and returns when the last is committed.
    ///
    /// # Errors
    /// The node cannot go on; the text says why.
    pub(crate) async fn apply(&self, jobs: Vec<Job>) -> Result<(), String> {
        let stopped = || "the applier has stopped".to_owned();
        match &self.driver {
            Driver::Inline(core) => {
                let mut core = lock(core);
                let answer = &mut |respond: Respond, applied| respond(applied);
                core.as_mut().ok_or_else(stopped)?.apply(jobs, Faults::Report, answer)
            }
            Driver::Thread { queue, .. } => {
                let (reports, mut said) = tokio_mpsc::unbounded_channel();
                let message = Message::Apply(jobs, reports);
                lock(queue).as_ref().ok_or_else(stopped)?.send(message).map_err(|_| stopped())?;
                loop {
                    match said.recv().await {
                        Some(Report::Answer(respond, applied)) => respond(applied),
                        Some(Report::End(result)) => return result,
                        None => return Err(stopped()),
                    }
                }
            }
        }
    }

    /// Runs `work` on the writer connection between two entries, and waits for it. `None` if the
    /// applier has stopped. Must not be called on an async worker.
    pub(crate) fn with_writer<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> R + Send + 'static,
    ) -> Option<R> {
        match &self.driver {
            Driver::Inline(core) => lock(core).as_mut().map(|core| work(&mut core.writer)),
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
            Driver::Inline(core) => {
                drop(lock(core).take());
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

impl Core {
    fn run(mut self, messages: &mpsc::Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Apply(jobs, reports) => {
                    // The worker may be shut down meanwhile; then nobody waits any more.
                    let answer = &mut |respond, applied| {
                        drop(reports.send(Report::Answer(respond, applied)));
                    };
                    let result = self.apply(jobs, Faults::Retry, answer);
                    if let Err(reason) = &result {
                        self.progress.set_stopped(reason.clone());
                    }
                    drop(reports.send(Report::End(result)));
                }
                Message::Borrow(work) => work(&mut self.writer),
            }
        }
    }

    fn apply(
        &mut self,
        jobs: Vec<Job>,
        faults: Faults,
        answer: &mut dyn FnMut(Respond, Applied),
    ) -> Result<(), String> {
        for job in jobs {
            let applied = self.apply_one(job.id, &job.content, job.respond.is_some(), faults)?;
            self.progress.set_applied(job.id, self.clock.now_ms());
            if let Some(respond) = job.respond {
                answer(respond, applied);
            }
        }
        Ok(())
    }

    fn apply_one(
        &mut self,
        id: EntryId,
        content: &Content,
        wanted: bool,
        faults: Faults,
    ) -> Result<Applied, String> {
        #[cfg(test)]
        crate::testing::history::note(id, content);
        let entry = match content {
            Content::Blank => bare(id, Operation::Blank),
            Content::Membership(bytes) => bare(id, Operation::Membership(bytes)),
            Content::Command(command) => command.entry(id),
        };
        let mut stalled = false;
        loop {
            match self.writer.apply(&entry, wanted) {
                Ok(applied) => {
                    if stalled {
                        self.progress.set_apply_stalled(None);
                        tracing::info!(
                            component = "store",
                            "applying goes on at index {}",
                            id.index
                        );
                    }
                    return Ok(applied);
                }
                Err(ApplyError::Local(fault)) if faults == Faults::Retry => {
                    self.metrics.apply_retries.add(1);
                    if !stalled {
                        tracing::error!(
                            component = "store",
                            "entry {} could not be applied, trying again until it can: {fault}",
                            id.index
                        );
                        stalled = true;
                    }
                    self.progress.set_apply_stalled(Some(Stall {
                        index: id.index,
                        reason: fault.to_string(),
                        disk_full: fault.kind == LocalKind::DiskFull,
                    }));
                    if self.progress.is_stopping() {
                        return Err(format!("stopped while entry {} waited: {fault}", id.index));
                    }
                    thread::sleep(RETRY_DELAY);
                }
                Err(error) => return Err(format!("applying entry {}: {error}", id.index)),
            }
        }
    }
}

/// An entry of ours that runs no SQL: clock, seed and settings do not matter.
fn bare(id: EntryId, operation: Operation<'_>) -> Entry<'_> {
    let budget = Budget { steps: 0, pages: 0 };
    let settings = Settings { foreign_keys: false, budget };
    Entry { id, clock_ms: 0, seed: [0; 16], settings, operation }
}
