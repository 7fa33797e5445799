//! Housekeeping: checkpoints, snapshots and purging, free space, maintenance by interval.
//!
//! | what | when | where |
//! |---|---|---|
//! | checkpoint | the WAL is beyond [`CHECKPOINT_WAL_BYTES`] | a thread of its own |
//! | free space, state of the log | every [`LOOK_INTERVAL`] | the same thread |
//! | snapshot (make durable, purge) | `-raft-snap*`, or the log is too large | a task |
//! | VACUUM, optimize | `-auto-vacuum-int`, `-auto-optimize-int` | the same task, through the log |
//!
//! With inline execution there is no thread: the task does its work as well, in simulated time.
//!
//! # Invariants
//! - Nothing here delays a write by more than the last step of a checkpoint does.
//! - Nothing is purged that the database does not hold durably (`durability`).

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rq_sqlite::Maintenance;
use rq_storage::{Execution, Health, Log};

use crate::{
    Error,
    node::Inner,
    options::{Limits, Snapshots},
    progress::Progress,
    threads::join_within,
};

/// The WAL is folded back when it is larger than this.
const CHECKPOINT_WAL_BYTES: u64 = 16 * 1024 * 1024;
/// How often the size of the WAL is looked at.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(20);
/// How often free space and the state of the log are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often the task looks whether something is due.
const TASK_INTERVAL: Duration = Duration::from_millis(500);

/// The thread that folds the WAL and watches the disk.
pub(crate) struct Housekeeper {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeper {
    /// Starts the thread (with threads) and the task.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(crate) fn start(inner: &Arc<Inner>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = match inner.execution {
            Execution::Inline => None,
            Execution::Threads => {
                let watch = Watch::new(inner);
                Some(
                    thread::Builder::new()
                        .name("rq-checkpoint".to_owned())
                        .spawn(move || watch.run(&stopped))?,
                )
            }
        };
        tokio::spawn(Task::new(inner).run(Arc::downgrade(inner)));
        Ok(Self { stop, thread })
    }

    /// Ends the thread; a checkpoint under way is finished first, if that takes no longer than
    /// `patience`. Says whether it ended.
    pub(crate) fn close(self, patience: Duration) -> bool {
        drop(self.stop);
        self.thread.is_none_or(|thread| join_within(thread, patience))
    }
}

/// What the thread works with.
struct Watch {
    parts: Arc<crate::node::Machinery>,
    log: Log,
    progress: Arc<Progress>,
    limits: Limits,
    /// In simulated time where there is such.
    looked: Option<tokio::time::Instant>,
}

impl Watch {
    fn new(inner: &Arc<Inner>) -> Self {
        Self {
            parts: Arc::clone(&inner.machinery),
            log: inner.log.clone(),
            progress: Arc::clone(&inner.progress),
            limits: inner.options.limits,
            looked: None,
        }
    }

    fn run(mut self, stopped: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(CHECKPOINT_INTERVAL) {
            self.look_after();
        }
    }

    fn look_after(&mut self) {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL) {
            self.looked = Some(tokio::time::Instant::now());
            look_at_disk(&self.parts, &self.log, &self.progress);
        }
        self.parts.checkpoint_if_due(self.limits.wal_bytes_max, CHECKPOINT_WAL_BYTES);
    }
}

fn look_at_disk(parts: &crate::node::Machinery, log: &Log, progress: &Progress) {
    log.poll();
    progress.set_log_waits_for_space(log.health() == Health::WaitingForSpace);
    if let Some(free) = parts.free_bytes() {
        progress.set_free_bytes(free);
    }
}

/// What the task remembers.
struct Task {
    snapshots: Snapshots,
    next_snapshot_look: tokio::time::Instant,
    vacuum: Interval,
    optimize: Interval,
    watch: Option<Watch>,
}

impl Task {
    fn new(inner: &Arc<Inner>) -> Self {
        let now = tokio::time::Instant::now();
        Self {
            snapshots: inner.options.snapshots,
            next_snapshot_look: now + inner.options.snapshots.interval,
            vacuum: Interval::new(inner.options.auto_vacuum_interval, now),
            optimize: Interval::new(inner.options.auto_optimize_interval, now),
            watch: (inner.execution == Execution::Inline).then(|| Watch::new(inner)),
        }
    }

    async fn run(mut self, inner: std::sync::Weak<Inner>) {
        loop {
            tokio::time::sleep(TASK_INTERVAL).await;
            let Some(inner) = inner.upgrade() else { return };
            if inner.progress.is_stopping() {
                return;
            }
            if let Some(watch) = &mut self.watch {
                watch.look_after();
            }
            self.snapshot_if_due(&inner).await;
            self.maintain_if_due(&inner).await;
        }
    }

    async fn snapshot_if_due(&mut self, inner: &Inner) {
        let log_bytes = inner.log.state().bytes_on_disk;
        let forced = log_bytes > self.snapshots.log_bytes_max;
        let now = tokio::time::Instant::now();
        if now < self.next_snapshot_look && !forced {
            return;
        }
        self.next_snapshot_look = now + self.snapshots.interval;
        let durable = inner.progress.durable().map_or(0, |id| id.index);
        let entries = inner.progress.applied().index.saturating_sub(durable);
        let by_entries = self.snapshots.entries > 0 && entries >= self.snapshots.entries;
        let by_wal = self.snapshots.wal_bytes > 0
            && entries > 0
            && inner.machinery.wal_bytes() >= self.snapshots.wal_bytes;
        if !(by_entries || by_wal || forced) {
            return;
        }
        if by_wal && !by_entries {
            inner.metrics.wal_snapshots.add(1);
        }
        if let Err(error) = inner.snapshot(None).await {
            inner.metrics.snapshots_failed.add(1);
            tracing::warn!(component = "snapshot", "failed to make a snapshot: {error}");
        }
    }

    async fn maintain_if_due(&mut self, inner: &Inner) {
        if !inner.consensus.leads() {
            return;
        }
        let metrics = &inner.metrics;
        if self.vacuum.is_due() {
            let vacuum = Maintenance::Vacuum { page_size: None, auto_vacuum: None };
            match timed(inner, vacuum).await {
                Ok(took) => {
                    metrics.auto_vacuums.add(1);
                    metrics.auto_vacuum_duration.set(milliseconds(took));
                    tracing::info!(component = "store", "database vacuumed in {took:?}");
                }
                Err(error) => {
                    metrics.auto_vacuums_failed.add(1);
                    tracing::warn!(component = "store", "failed to vacuum the database: {error}");
                }
            }
        }
        if self.optimize.is_due() {
            match timed(inner, Maintenance::Optimize).await {
                Ok(took) => {
                    metrics.auto_optimizes.add(1);
                    metrics.auto_optimize_duration.set(milliseconds(took));
                    tracing::info!(component = "store", "database optimized in {took:?}");
                }
                Err(error) => {
                    metrics.auto_optimizes_failed.add(1);
                    tracing::warn!(component = "store", "failed to optimize the database: {error}");
                }
            }
        }
    }
}

async fn timed(inner: &Inner, maintenance: Maintenance) -> Result<Duration, Error> {
    inner.progress.admit_write()?;
    let began = Instant::now();
    let proposed = inner.batcher.maintain(maintenance).await?;
    let failed = proposed.outcome.results.iter().find_map(|result| match &result.outcome {
        rq_sql::Outcome::Error(error) => Some(error.message.clone()),
        _ => None,
    });
    match proposed.outcome.error.or(failed) {
        Some(error) => Err(Error::Request(error)),
        None => Ok(began.elapsed()),
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Inner {
    /// Makes the state machine durable and purges the log; false if nothing was applied since the last time.
    ///
    /// # Errors
    /// A failed sync, or raft has stopped.
    pub(crate) async fn snapshot(&self, trailing_logs: Option<u64>) -> Result<bool, Error> {
        let began = Instant::now();
        let applied = self.progress.applied();
        if applied.index == 0 || self.consensus.view().snapshot.index >= applied.index {
            return Ok(false);
        }
        let snapshot = self.consensus.snapshot(applied.index).await?;
        let keep = trailing_logs.unwrap_or_else(|| self.trailing_logs());
        if let Some(upto) = snapshot.checked_sub(keep).filter(|upto| *upto > 0) {
            self.consensus.purge(upto).await?;
        }
        self.metrics.snapshots.add(1);
        self.metrics.snapshot_create_duration.set(milliseconds(began.elapsed()));
        Ok(true)
    }

    /// Entries to keep behind a snapshot: the configured number, or as many as half of the log's bound holds.
    fn trailing_logs(&self) -> u64 {
        let state = self.log.state();
        let entries = (state.next - state.first).max(1);
        let entry_bytes = (state.bytes_on_disk / entries).max(1);
        let affordable = self.options.snapshots.log_bytes_max / 2 / entry_bytes;
        self.options.snapshots.trailing_entries.min(affordable)
    }
}

/// Something that is due again and again.
struct Interval {
    every: Duration,
    next: tokio::time::Instant,
}

impl Interval {
    fn new(every: Duration, now: tokio::time::Instant) -> Self {
        Self { every, next: now + every }
    }

    fn is_due(&mut self) -> bool {
        let now = tokio::time::Instant::now();
        if self.every.is_zero() || now < self.next {
            return false;
        }
        self.next = now + self.every;
        true
    }
}
