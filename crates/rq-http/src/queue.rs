//! Queued writes: many small requests gathered into few large ones.
//!
//! - One queue a node, in memory. What waits in it is lost with the process, except that a graceful stop
//!   works it off first.
//! - Requests are run in the order in which they were taken in. Batches never overlap.
//! - A batch that failed and certainly had no effect is tried again for as long as the failure may pass.
//!   One that can never succeed is taken apart, so that it takes only the culprit down; so is a batch that is one
//!   transaction and was undone by a statement.
//! - A batch whose outcome is unknown is never sent twice.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rq_node::{EffectKnown, Error, Route, TimedOutcome, Write, Written};
use rq_security::Credentials;
use rq_sql::{ErrorKind, Outcome, SqlError, Statement};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

use crate::{limits::QUEUE_BYTES, metrics::Metrics, options::QueueOptions, slot::NodeSlot};

/// How long the queue waits before it tries a batch again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long the leader may take to answer a batch of another node.
const FORWARD_TIME: Duration = Duration::from_secs(30);

/// Bytes of statements after which a batch is cut, so that it stays an ordinary log entry.
const BATCH_BYTES: usize = 4 << 20;

/// The unit in which waiting bytes are counted.
const SHARE_BYTES: usize = 1 << 10;

/// How the queue works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Mode {
    /// As configured.
    Open,
    /// Batches wait for nothing, and are tried once: the server is stopping.
    Hurrying,
    /// The same, and nothing is let in.
    Closed,
}

/// The clients' end of the queue.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Item>,
    /// Room for waiting bytes, in [`SHARE_BYTES`].
    room: Arc<Semaphore>,
    sequence: Mutex<u64>,
    processed: Arc<AtomicU64>,
    mode: watch::Sender<Mode>,
}

/// The other end: gathers and runs.
pub(crate) struct Worker {
    receiver: mpsc::Receiver<Item>,
    /// The request that ended a batch, because somebody else sent it.
    held: Option<Item>,
    options: QueueOptions,
    slot: NodeSlot,
    metrics: Arc<Metrics>,
    processed: Arc<AtomicU64>,
    mode: watch::Receiver<Mode>,
}

/// A request taken in.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Its number.
    pub(crate) sequence: u64,
    /// Resolves when the request has been dealt with, or never will be.
    pub(crate) done: oneshot::Receiver<Result<(), Failure>>,
}

/// Why a queued write was given up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Failure {
    /// The write failed as a whole.
    #[error("{0}")]
    Node(#[from] Error),
    /// A statement of it failed, and its transaction was undone. It had no effect.
    #[error("{0}")]
    Statement(SqlError),
}

impl Failure {
    fn outcome(&self) -> EffectKnown {
        match self {
            Self::Node(error) => error.outcome(),
            Self::Statement(_) => EffectKnown::NotDone,
        }
    }
}

#[derive(Debug)]
struct Item {
    statements: Vec<Statement>,
    bytes: usize,
    sequence: u64,
    waiter: Waiter,
    /// In whose name; requests of different callers never share a write.
    credentials: Option<Credentials>,
    _room: OwnedSemaphorePermit,
}

/// Whoever waits for a request. If the worker ends without a word, it is told what is certain.
#[derive(Debug)]
struct Waiter {
    done: Option<oneshot::Sender<Result<(), Failure>>>,
    /// Whether the request is being tried and may have been done.
    under_way: AtomicBool,
}

impl Waiter {
    fn tell(&mut self, result: Result<(), Failure>) {
        if let Some(done) = self.done.take() {
            // Nobody may be waiting.
            drop(done.send(result));
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let end = if self.under_way.load(Ordering::Relaxed) {
            let reason = "the node stopped while the queued write was under way";
            Error::OutcomeUnknown(reason.to_owned())
        } else {
            Error::ShuttingDown
        };
        self.tell(Err(end.into()));
    }
}

impl Queue {
    /// Makes a queue whose first number follows `epoch`, and the worker that must be run for it.
    pub(crate) fn new(
        options: QueueOptions,
        epoch: u64,
        slot: NodeSlot,
        metrics: Arc<Metrics>,
    ) -> (Self, Worker) {
        let (sender, receiver) = mpsc::channel(options.capacity.max(1));
        let (mode, mode_seen) = watch::channel(Mode::Open);
        let processed = Arc::new(AtomicU64::new(0));
        let queue = Self {
            sender,
            room: Arc::new(Semaphore::new(QUEUE_BYTES / SHARE_BYTES)),
            sequence: Mutex::new(epoch),
            processed: Arc::clone(&processed),
            mode,
        };
        let worker =
            Worker { receiver, held: None, options, slot, metrics, processed, mode: mode_seen };
        (queue, worker)
    }

    /// Takes a request of about `bytes` bytes in, waiting for room if there is none.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] if the queue is closed.
    pub(crate) async fn put(
        &self,
        statements: Vec<Statement>,
        bytes: usize,
        credentials: Option<Credentials>,
    ) -> Result<Ticket, Error> {
        // A request larger than the whole room waits until it has the room for itself.
        let shares = (bytes / SHARE_BYTES + 1).min(QUEUE_BYTES / SHARE_BYTES);
        let shares = u32::try_from(shares).unwrap_or(u32::MAX);
        let closed = |_| Error::ShuttingDown;
        let room = Arc::clone(&self.room).acquire_many_owned(shares).await;
        let room = room.map_err(|_closed| Error::ShuttingDown)?;
        let place = self.sender.reserve().await.map_err(closed)?;
        if *self.mode.borrow() == Mode::Closed {
            return Err(Error::ShuttingDown);
        }
        let (done, done_seen) = oneshot::channel();
        // Number and place are taken together, so that numbers rise along the queue.
        let mut last = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        let sequence = *last;
        let waiter = Waiter { done: Some(done), under_way: AtomicBool::new(false) };
        place.send(Item { statements, bytes, sequence, waiter, credentials, _room: room });
        Ok(Ticket { sequence, done: done_seen })
    }

    /// The highest number dealt with; 0 before the first.
    pub(crate) fn processed(&self) -> u64 {
        self.processed.load(Ordering::Relaxed)
    }

    /// Lets no batch wait any more: whoever waits for one is to be answered soon.
    pub(crate) fn hurry(&self) {
        self.mode.send_replace(Mode::Hurrying);
    }

    /// Lets nothing in any more. The worker ends when it has worked off what is there.
    pub(crate) fn close(&self) {
        self.mode.send_replace(Mode::Closed);
    }
}

impl Worker {
    /// Works until the queue is closed and empty.
    pub(crate) async fn run(mut self) {
        let mut mode = self.mode.clone();
        loop {
            let held = self.held.take();
            let first = tokio::select! {
                biased;
                first = std::future::ready(held), if held.is_some() => first,
                first = self.receiver.recv() => first,
                _ = mode.wait_for(|mode| *mode == Mode::Closed), if !self.receiver.is_closed() => {
                    self.receiver.close();
                    continue;
                }
            };
            let Some(first) = first else { return };
            let batch = self.gather(first).await;
            self.flush(batch).await;
        }
    }

    /// Gathers requests around the first until the batch is full or old enough.
    async fn gather(&mut self, first: Item) -> Vec<Item> {
        let size = self.options.batch_size.max(1);
        let deadline =
            (!self.options.timeout.is_zero()).then(|| Instant::now() + self.options.timeout);
        let mut mode = self.mode.clone();
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while batch.len() < size && bytes < BATCH_BYTES {
            let next = tokio::select! {
                biased;
                next = self.receiver.recv() => next,
                _ = mode.wait_for(|mode| *mode >= Mode::Hurrying) => return batch,
                () = until(deadline) => {
                    self.metrics.queue_timeouts.increment();
                    return batch;
                }
            };
            let Some(item) = next else { return batch };
            if item.credentials != batch.first().and_then(|first| first.credentials.clone()) {
                self.held = Some(item);
                return batch;
            }
            bytes += item.bytes;
            batch.push(item);
        }
        self.metrics.queue_flushes.increment();
        batch
    }

    async fn flush(&mut self, batch: Vec<Item>) {
        self.metrics.queue_sent.add(batch.len());
        match self.run_items(&batch).await {
            Err(error) if batch.len() > 1 && error.outcome() == EffectKnown::NotDone => {
                // One of them spoils it for all.
                for item in batch {
                    let result = self.run_items(std::slice::from_ref(&item)).await;
                    self.settle(item, result);
                }
            }
            result => {
                for item in batch {
                    self.settle(item, result.clone());
                }
            }
        }
    }

    /// Tells whoever waits how it ended.
    fn settle(&self, mut item: Item, result: Result<(), Failure>) {
        if let Err(error) = &result {
            self.metrics.queued_dropped.increment();
            let (sequence, statements) = (item.sequence, item.statements.len());
            if is_clients_fault(error) {
                tracing::warn!(
                    "queued write {sequence} is given up with {statements} statements: {error}"
                );
            } else {
                tracing::error!(
                    "queued write {sequence} is given up with {statements} statements: {error}"
                );
            }
        }
        self.processed.fetch_max(item.sequence, Ordering::Relaxed);
        item.waiter.tell(result);
    }

    /// Runs the statements of requests as one write, again and again while that may help.
    async fn run_items(&mut self, items: &[Item]) -> Result<(), Failure> {
        let count = items.iter().map(|item| item.statements.len()).sum();
        if count == 0 {
            return Ok(());
        }
        let mut warned = false;
        loop {
            let is_last = *self.mode.borrow() >= Mode::Hurrying;
            let mark = |under_way| {
                for item in items {
                    item.waiter.under_way.store(under_way, Ordering::Relaxed);
                }
            };
            mark(true);
            let error = match self.attempt(items).await {
                Ok(written) => {
                    if let Some(error) = self.undone_by(&written) {
                        // What was undone may be run again: by itself, if it was not alone.
                        mark(false);
                        if items.len() == 1 {
                            self.count_statement_failures(&written);
                        }
                        return Err(Failure::Statement(error));
                    }
                    self.metrics.queued_ok.increment();
                    self.metrics.queued_statements_sent.add(count);
                    self.count_statement_failures(&written);
                    return Ok(());
                }
                Err(error) => error,
            };
            mark(error.outcome() == EffectKnown::Unknown);
            self.count_failure(&error);
            if is_last || !may_pass(&error) {
                return Err(error.into());
            }
            if !warned {
                tracing::warn!("queued writes wait, trying again every second: {error}");
                warned = true;
            }
            tokio::select! {
                () = sleep(RETRY_INTERVAL) => {}
                _ = self.mode.wait_for(|mode| *mode >= Mode::Hurrying) => {}
            }
        }
    }

    /// The error that undid a batch that was one transaction.
    fn undone_by(&self, written: &Written) -> Option<SqlError> {
        if !self.options.transaction {
            return None;
        }
        written.results.iter().find_map(|result| match &result.outcome {
            // Only the answer is missing.
            Outcome::Error(SqlError {
                kind: ErrorKind::ResultTooLarge | ErrorKind::Value, ..
            }) => None,
            Outcome::Error(error) => Some(error.clone()),
            Outcome::Empty | Outcome::Done { .. } | Outcome::Rows(_) => None,
        })
    }

    async fn attempt(&self, items: &[Item]) -> Result<Written, Error> {
        let node = self.slot.get().ok_or(Error::NotOpen)?;
        let statements = items.iter().flat_map(|item| item.statements.iter().cloned()).collect();
        let transaction = self.options.transaction;
        let route = Route {
            credentials: items.first().and_then(|item| item.credentials.clone()),
            forward: true,
            timeout: FORWARD_TIME,
            retries: 0,
        };
        node.execute_routed(Write { statements, transaction, timeout: None }, &route).await
    }

    fn count_statement_failures(&self, written: &Written) {
        let failed = |result: &TimedOutcome| match &result.outcome {
            Outcome::Error(error) => Some(error.message.clone()),
            Outcome::Empty | Outcome::Done { .. } | Outcome::Rows(_) => None,
        };
        let mut failures = written.results.iter().filter_map(failed);
        if let Some(first) = failures.next() {
            let count = failures.count() + 1;
            self.metrics.queued_statements_failed.add(count);
            tracing::warn!("{count} queued statements failed, the first: {first}");
        }
    }

    fn count_failure(&self, error: &Error) {
        self.metrics.queued_failed.increment();
        let counter = match error {
            Error::LeaderNotFound | Error::NotOpen => &self.metrics.queued_no_leader,
            Error::NotLeader { .. } => &self.metrics.queued_not_leader,
            Error::OutcomeUnknown(_) => &self.metrics.queued_leadership_lost,
            Error::DisallowedPragma
            | Error::NotReady
            | Error::StaleRead
            | Error::DeadlineExceeded
            | Error::EnqueueTimeout
            | Error::WaitTimeout { .. }
            | Error::DiskFull { .. }
            | Error::ApplyStalled { .. }
            | Error::TooLarge { .. }
            | Error::Overloaded
            | Error::OtherEngine(_)
            | Error::ShuttingDown
            | Error::Request(_)
            | Error::Unauthorized(_)
            | Error::Unreachable(_)
            | Error::Membership(_)
            | Error::Stopped(_) => &self.metrics.queued_unknown_error,
        };
        counter.increment();
    }
}

/// Whether the same batch may succeed later on this node, without danger of being done twice.
fn may_pass(error: &Error) -> bool {
    error.is_retryable() && !matches!(error, Error::ShuttingDown | Error::Stopped(_))
}

/// Whether no node could ever have run it: nothing an operator has to look after.
fn is_clients_fault(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Statement(_)
            | Failure::Node(
                Error::DisallowedPragma
                    | Error::Request(_)
                    | Error::TooLarge { .. }
                    | Error::Unauthorized(_)
            )
    )
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
