//! Housekeeping: checkpoints, snapshots and purging, free space, maintenance by interval.
//!
//! | what | when | where |
//! |---|---|---|
//! | checkpoint | the WAL is beyond [`CHECKPOINT_WAL_BYTES`] | a thread of its own |
//! | free space, state of the log | every [`LOOK_INTERVAL`] | another thread |
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
    progress::{Applying, Progress},
    threads::join_within,
};

/// The WAL is folded back when it is larger than this.
const CHECKPOINT_WAL_BYTES: u64 = 16 * 1024 * 1024;
/// How often the size of the WAL is looked at.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(20);
/// How often free space and the state of the log are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A database that nobody sends any more is removed after this time.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);
/// How often the task looks whether something is due.
const TASK_INTERVAL: Duration = Duration::from_millis(500);

/// The threads that fold the WAL and watch the disk.
pub(crate) struct Housekeeper {
    threads: Vec<(Sender<()>, JoinHandle<()>)>,
}

impl Housekeeper {
    /// Starts the threads (with threads) and the task.
    ///
    /// # Errors
    /// A thread could not be started.
    pub(crate) fn start(inner: &Arc<Inner>) -> std::io::Result<Self> {
        let mut threads = Vec::new();
        if inner.execution == Execution::Threads {
            // Two, because the last step of a checkpoint waits for the statement that is being applied.
            let checkpoints = Checkpoints::new(inner);
            threads.push(repeat("rq-checkpoint", CHECKPOINT_INTERVAL, move || {
                checkpoints.look_after();
            })?);
            let disk = Disk::new(inner);
            threads.push(repeat("rq-disk", LOOK_INTERVAL, move || disk.look())?);
        }
        tokio::spawn(Task::new(inner).run(Arc::downgrade(inner)));
        Ok(Self { threads })
    }

    /// Ends the threads; a checkpoint under way is finished first, if that takes no longer than
    /// `patience`. Says whether all ended.
    pub(crate) fn close(self, patience: Duration) -> bool {
        let mut all = true;
        for (stop, thread) in self.threads {
            drop(stop);
            all &= join_within(thread, patience);
        }
        all
    }
}

/// Does something again and again on a thread of its own, until the sender is dropped.
fn repeat(
    name: &str,
    interval: Duration,
    mut work: impl FnMut() + Send + 'static,
) -> std::io::Result<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped): (_, Receiver<()>) = channel();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
            work();
        }
    })?;
    Ok((stop, thread))
}

/// Folds the WAL when it is due.
struct Checkpoints {
    parts: Arc<crate::node::Machinery>,
    limits: Limits,
    progress: Arc<Progress>,
}

impl Checkpoints {
    fn new(inner: &Arc<Inner>) -> Self {
        let (parts, progress) = (Arc::clone(&inner.machinery), Arc::clone(&inner.progress));
        Self { parts, limits: inner.options.limits, progress }
    }

    fn look_after(&self) {
        if self.progress.other_engine().is_some() {
            // The file is another program's to write.
            return;
        }
        self.parts.checkpoint_if_due(self.limits.wal_bytes_max, CHECKPOINT_WAL_BYTES);
    }
}

/// Watches free space and the state of the log.
struct Disk {
    parts: Arc<crate::node::Machinery>,
    log: Log,
    progress: Arc<Progress>,
}

impl Disk {
    fn new(inner: &Arc<Inner>) -> Self {
        let (parts, progress) = (Arc::clone(&inner.machinery), Arc::clone(&inner.progress));
        Self { parts, log: inner.log.clone(), progress }
    }

    fn look(&self) {
        self.log.poll();
        self.progress.set_log_waits_for_space(self.log.health() == Health::WaitingForSpace);
        if let Some(free) = self.parts.free_bytes() {
            self.progress.set_free_bytes(free);
        }
    }
}

/// What the task remembers.
struct Task {
    snapshots: Snapshots,
    next_snapshot_look: tokio::time::Instant,
    vacuum: Interval,
    optimize: Interval,
    /// The bytes of a log that cannot be purged from which on there is another warning.
    next_warning_bytes: u64,
    /// The last entry of which was told that it takes long.
    slow_entry: u64,
    /// What the threads would do, where there are none.
    inline: Option<(Checkpoints, Disk)>,
}

impl Task {
    fn new(inner: &Arc<Inner>) -> Self {
        let now = tokio::time::Instant::now();
        Self {
            snapshots: inner.options.snapshots,
            next_snapshot_look: now + inner.options.snapshots.interval,
            vacuum: Interval::new(inner.options.auto_vacuum_interval, now),
            optimize: Interval::new(inner.options.auto_optimize_interval, now),
            next_warning_bytes: 0,
            slow_entry: 0,
            inline: (inner.execution == Execution::Inline)
                .then(|| (Checkpoints::new(inner), Disk::new(inner))),
        }
    }

    async fn run(mut self, inner: std::sync::Weak<Inner>) {
        loop {
            tokio::time::sleep(TASK_INTERVAL).await;
            let Some(inner) = inner.upgrade() else { return };
            if inner.progress.is_stopping() {
                return;
            }
            if let Some((checkpoints, disk)) = &self.inline {
                disk.look();
                checkpoints.look_after();
            }
            inner.receiver.discard(ABANDONED_AFTER).await;
            self.warn_of_endless_log(&inner);
            self.warn_of_slow_entry(&inner.progress);
            self.snapshot_if_due(&inner).await;
            self.maintain_if_due(&inner).await;
        }
    }

    /// Says once of each entry that takes long what it does: whoever sent it may be gone.
    fn warn_of_slow_entry(&mut self, progress: &Progress) {
        let Some((Applying { index, command, .. }, time)) = progress.slow_entry() else { return };
        if std::mem::replace(&mut self.slow_entry, index) == index {
            return;
        }
        let does = command.map_or_else(String::new, |command| format!(" ({})", command.excerpt()));
        tracing::warn!(
            component = "store",
            "entry {index}{does} has been applied for {} s, and later writes wait for it",
            time.as_secs()
        );
    }

    /// Warns when the log begins to grow without an end, and each time that it has doubled since.
    fn warn_of_endless_log(&mut self, inner: &Inner) {
        let Some(bytes) = inner.endless_log_bytes() else {
            self.next_warning_bytes = 0;
            return;
        };
        if bytes < self.next_warning_bytes {
            return;
        }
        self.next_warning_bytes = bytes.saturating_mul(2);
        tracing::warn!(
            component = "store",
            "the log has {bytes} bytes, {} are allowed, and it cannot be purged while nothing is applied here: it grows \
             until the disk is full",
            self.snapshots.log_bytes_max
        );
    }

    async fn snapshot_if_due(&mut self, inner: &Inner) {
        if inner.progress.other_engine().is_some() {
            // Nothing is applied, so nothing may be purged.
            return;
        }
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
        self.progress.admit_engine()?;
        let began = Instant::now();
        let applied = self.progress.applied();
        if applied.index == 0 || self.consensus.view().snapshot.index >= applied.index {
            return Ok(false);
        }
        let snapshot = self.consensus.snapshot(applied.index).await?;
        let keep = trailing_logs.unwrap_or_else(|| self.trailing_logs());
        let upto = snapshot.checked_sub(keep).map(|upto| match self.transfers.oldest_index() {
            // Who receives the database needs what follows it, unless that has grown too much already.
            Some(sent) if !self.log_is_too_large() => upto.min(sent),
            _ => upto,
        });
        if let Some(upto) = upto.filter(|upto| *upto > 0) {
            self.consensus.purge(upto).await?;
        }
        self.metrics.snapshots.add(1);
        self.metrics.snapshot_create_duration.set(milliseconds(began.elapsed()));
        Ok(true)
    }

    /// The bytes of the log, if it is longer than it should be and cannot be purged, because nothing is applied.
    pub(crate) fn endless_log_bytes(&self) -> Option<u64> {
        let bytes = self.log.state().bytes_on_disk;
        (bytes > self.options.snapshots.log_bytes_max && self.progress.applies_nothing())
            .then_some(bytes)
    }

    /// Whether the log has grown to twice what it is to hold.
    fn log_is_too_large(&self) -> bool {
        self.log.state().bytes_on_disk / 2 > self.options.snapshots.log_bytes_max
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
