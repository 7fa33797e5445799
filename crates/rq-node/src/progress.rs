//! What the state machine has reached, and how the node fares: shared by everybody who asks.
//!
//! Written by the applier, the flusher's watcher and housekeeping; read by reads that wait, by
//! admission and by status. Nothing here waits for the database or the disk.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use rq_sqlite::EntryId;
#[cfg(not(test))]
use tokio::sync::watch;
use tokio::time::Instant;

#[cfg(test)]
use crate::testing::watch;
use crate::{Error, Impairment, disk_watch::DiskState};

/// The shared view. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Progress {
    applied: watch::Sender<EntryId>,
    applied_at_ms: AtomicI64,
    /// Up to here the state machine's file is known to be durable.
    durable: Mutex<Option<EntryId>>,
    free_bytes: AtomicU64,
    free_bytes_min: u64,
    stopping: AtomicBool,
    health: Mutex<Health>,
    leader: Mutex<Heard>,
    /// Changes when the leader is heard for the first time or after a silence.
    heard_again: watch::Sender<u64>,
}

/// A leader that was silent for this long, and is heard again, may have counted as gone.
const SILENCE: Duration = Duration::from_millis(250);

/// What was heard of the leader by a node that follows it.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    at: Option<Instant>,
    /// The last entry it is known to have.
    last_index: u64,
    /// By how much the clock here was ahead of the leader's stamp when the last entry was applied.
    lag_ms: i64,
}

#[derive(Debug, Default)]
struct Health {
    apply_stalled: Option<Stall>,
    log_waits_for_space: bool,
    stopped: Option<String>,
    disk: DiskState,
}

/// Why applying stands still.
#[derive(Clone, Debug)]
pub(crate) struct Stall {
    /// The entry.
    pub(crate) index: u64,
    /// What fails.
    pub(crate) reason: String,
    /// Whether it is for want of disk space.
    pub(crate) disk_full: bool,
}

impl Progress {
    pub(crate) fn new(applied: Option<EntryId>, free_bytes_min: u64) -> Self {
        Self {
            applied: watch::Sender::new(applied.unwrap_or_default()),
            applied_at_ms: AtomicI64::new(0),
            durable: Mutex::default(),
            free_bytes: AtomicU64::new(u64::MAX),
            free_bytes_min,
            stopping: AtomicBool::new(false),
            health: Mutex::default(),
            leader: Mutex::default(),
            heard_again: watch::Sender::new(0),
        }
    }

    /// Notes that the leader was heard, and how far its log reaches.
    pub(crate) fn hear_leader(&self, last_index: u64) {
        let mut heard = lock(&self.leader);
        let before = heard.at.replace(Instant::now());
        heard.last_index = heard.last_index.max(last_index);
        drop(heard);
        if before.is_none_or(|before| before.elapsed() >= SILENCE) {
            let next = self.heard_again.borrow().wrapping_add(1);
            self.heard_again.send_replace(next);
        }
    }

    /// Changes whenever the leader is heard for the first time or after a silence.
    pub(crate) fn leader_heard_again(&self) -> watch::Receiver<u64> {
        self.heard_again.subscribe()
    }

    /// Notes how old an entry was when it was applied here, by the two clocks involved.
    pub(crate) fn note_lag(&self, lag_ms: i64) {
        lock(&self.leader).lag_ms = lag_ms;
    }

    /// How long ago the leader was heard; `None` for never.
    pub(crate) fn leader_silent_for(&self) -> Option<Duration> {
        lock(&self.leader).at.map(|at| at.elapsed())
    }

    /// Whether this node has not applied all it heard of, and what it applied last was older than `limit` then.
    pub(crate) fn lags_by_more_than(&self, limit: Duration) -> bool {
        let Heard { at: _, last_index, lag_ms } = *lock(&self.leader);
        let limit_ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        last_index > 0 && self.applied().index != last_index && lag_ms > limit_ms
    }

    /// Waits until an entry of this term is applied.
    ///
    /// # Errors
    /// The time passed, or the node stopped.
    pub(crate) async fn wait_term(&self, term: u64, timeout: Duration) -> Result<(), Error> {
        if self.applied().term >= term {
            return Ok(());
        }
        let mut watch = self.applied.subscribe();
        let reached = watch.wait_for(|applied| applied.term >= term);
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::ShuttingDown),
            Err(_) => Err(Error::NotReady),
        }
    }

    /// The last entry applied; `EntryId::default()` before the first.
    pub(crate) fn applied(&self) -> EntryId {
        *self.applied.borrow()
    }

    pub(crate) fn applied_at_ms(&self) -> i64 {
        self.applied_at_ms.load(Ordering::Relaxed)
    }

    /// Moves the applied id. Called by the applier alone, after COMMIT.
    pub(crate) fn set_applied(&self, id: EntryId, now_ms: i64) {
        self.applied_at_ms.store(now_ms, Ordering::Relaxed);
        self.applied.send_replace(id);
    }

    /// Waits until the entry of this index is applied.
    ///
    /// # Errors
    /// The time passed, or the node stopped.
    pub(crate) async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<(), Error> {
        if self.applied().index >= index {
            return Ok(());
        }
        let mut watch = self.applied.subscribe();
        let reached = watch.wait_for(|applied| applied.index >= index);
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::ShuttingDown),
            Err(_) => Err(Error::WaitTimeout { index }),
        }
    }

    pub(crate) fn durable(&self) -> Option<EntryId> {
        *lock(&self.durable)
    }

    /// Notes that the file is durable up to `id`; never moves back.
    pub(crate) fn set_durable(&self, id: EntryId) {
        let mut durable = lock(&self.durable);
        if durable.is_none_or(|before| before.index < id.index) {
            *durable = Some(id);
        }
    }

    pub(crate) fn set_free_bytes(&self, free: u64) {
        self.free_bytes.store(free, Ordering::Relaxed);
    }

    pub(crate) fn set_apply_stalled(&self, stalled: Option<Stall>) {
        lock(&self.health).apply_stalled = stalled;
    }

    pub(crate) fn set_log_waits_for_space(&self, waits: bool) {
        lock(&self.health).log_waits_for_space = waits;
    }

    /// The node serves no more; the first reason counts.
    pub(crate) fn set_stopped(&self, reason: String) {
        let mut health = lock(&self.health);
        if health.stopped.is_none() {
            tracing::error!(component = "store", "node has stopped: {reason}");
            health.stopped = Some(reason);
        }
    }

    pub(crate) fn stopped(&self) -> Option<String> {
        lock(&self.health).stopped.clone()
    }

    pub(crate) fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether a write may be proposed now.
    ///
    /// # Errors
    /// Stopping, stopped, or too little free space.
    pub(crate) fn admit_write(&self) -> Result<(), Error> {
        if self.is_stopping() {
            return Err(Error::ShuttingDown);
        }
        let free = self.free_bytes.load(Ordering::Relaxed);
        let health = lock(&self.health);
        if let Some(reason) = &health.stopped {
            return Err(Error::Stopped(reason.clone()));
        }
        let floor = self.free_bytes_min;
        let for_space = health.apply_stalled.as_ref().is_some_and(|stall| stall.disk_full);
        if free < floor || health.log_waits_for_space || for_space {
            return Err(Error::DiskFull { free, floor });
        }
        match &health.apply_stalled {
            Some(Stall { index, reason, .. }) => {
                Err(Error::ApplyStalled { index: *index, reason: reason.clone() })
            }
            None => Ok(()),
        }
    }

    /// Whether free space is below the floor.
    pub(crate) fn is_short_of_space(&self) -> bool {
        self.free_bytes.load(Ordering::Relaxed) < self.free_bytes_min
    }

    /// Whether the log waits for space, or applying stands still for a reason of this node.
    pub(crate) fn takes_nothing(&self) -> bool {
        let health = lock(&self.health);
        health.log_waits_for_space || health.apply_stalled.is_some()
    }

    /// What the disk lets this node do, as far as it was looked at.
    pub(crate) fn disk(&self) -> DiskState {
        lock(&self.health).disk
    }

    pub(crate) fn set_disk(&self, disk: DiskState) {
        lock(&self.health).disk = disk;
    }

    /// Everything that is wrong at the moment.
    pub(crate) fn impairments(&self) -> Vec<Impairment> {
        let mut found = Vec::new();
        let free = self.free_bytes.load(Ordering::Relaxed);
        if free < self.free_bytes_min {
            found.push(Impairment::DiskFull { free, floor: self.free_bytes_min });
        }
        let health = lock(&self.health);
        if health.log_waits_for_space {
            found.push(Impairment::LogWaitsForSpace);
        }
        if let Some(Stall { index, reason, .. }) = &health.apply_stalled {
            found.push(Impairment::ApplyStalled { index: *index, reason: reason.clone() });
        }
        if let Some(reason) = &health.stopped {
            found.push(Impairment::Stopped { reason: reason.clone() });
        }
        found
    }
}

/// Locks; a panic elsewhere while holding the lock leaves plain data that is still right.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
