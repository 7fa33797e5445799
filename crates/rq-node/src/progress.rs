//! What the state machine has reached, and how the node fares: shared by everybody who asks.
//!
//! Written by the applier, the flusher's watcher and housekeeping; read by reads that wait, by
//! admission and by status. Nothing here waits for the database or the disk.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
use crate::{Error, Impairment, command::Command, disk_watch::DiskState, engine::OtherEngine};

/// Entries heard of within this time count as heard of at once.
const MISSING_STEP: Duration = Duration::from_millis(10);
/// Notes kept of what is committed and not applied.
const MISSING_NOTES: usize = 4096;

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
    applying: Mutex<Option<Applying>>,
    leader: Mutex<Heard>,
    /// Changes when the leader is heard for the first time or after a silence.
    heard_again: watch::Sender<u64>,
    other_engine: Option<OtherEngine>,
}

/// A leader that was silent for this long, and is heard again, may have counted as gone.
const SILENCE: Duration = Duration::from_millis(250);

/// What was heard of the leader by a node that follows it.
#[derive(Debug, Default)]
struct Heard {
    at: Option<Instant>,
    /// The entry received last.
    last_index: u64,
    /// By how much the clock here was ahead of the leader's stamp when the last entry was applied.
    lag_ms: i64,
    /// What is committed and not applied here.
    missing: Missing,
}

/// What is known to be committed and is not applied here, and since when it is known; the oldest first.
#[derive(Debug, Default)]
struct Missing(VecDeque<(u64, Instant)>);

impl Missing {
    /// Forgets what is applied.
    fn forget(&mut self, applied: u64) {
        while self.0.front().is_some_and(|(index, _)| *index <= applied) {
            self.0.pop_front();
        }
    }

    /// Notes that entries up to this one are committed. What is heard within a short time, or beyond a number of
    /// notes, counts as heard with the note before it: rather too old than too fresh.
    fn note(&mut self, committed: u64, now: Instant) {
        let full = self.0.len() >= MISSING_NOTES;
        match self.0.back_mut() {
            Some((index, _)) if committed <= *index => {}
            Some((index, at)) if full || now.duration_since(*at) < MISSING_STEP => {
                *index = committed;
            }
            _ => self.0.push_back((committed, now)),
        }
    }

    /// Since when the oldest of it is known.
    fn since(&self) -> Option<Instant> {
        self.0.front().map(|(_, at)| *at)
    }
}

/// An entry that takes longer than this is worth to be told of.
const SLOW_ENTRY: Duration = Duration::from_secs(10);

/// The entry that is being applied.
#[derive(Clone, Debug)]
pub(crate) struct Applying {
    /// Its place.
    pub(crate) index: u64,
    /// What it does, if it does anything.
    pub(crate) command: Option<Arc<Command>>,
    since: Instant,
}

/// Until it is dropped, an entry is being applied.
pub(crate) struct WhileApplying<'a>(&'a Progress);

impl Drop for WhileApplying<'_> {
    fn drop(&mut self) {
        *lock(&self.0.applying) = None;
    }
}

#[derive(Debug, Default)]
struct Health {
    apply_stalled: Option<Stall>,
    log_waits_for_space: bool,
    stopped: Option<String>,
    excluded: Option<String>,
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
            applying: Mutex::default(),
            leader: Mutex::default(),
            heard_again: watch::Sender::new(0),
            other_engine: None,
        }
    }

    /// Of a node whose program computes another engine epoch than its database belongs to, if so.
    pub(crate) fn with_other_engine(self, other_engine: Option<OtherEngine>) -> Self {
        Self { other_engine, ..self }
    }

    /// The epochs, if the program computes another one than the database belongs to: nothing is applied or read then,
    /// and this node must not lead.
    pub(crate) fn other_engine(&self) -> Option<OtherEngine> {
        self.other_engine
    }

    /// Makes sure that what the database holds may be read by this program.
    ///
    /// # Errors
    /// It computes another engine epoch.
    pub(crate) fn admit_engine(&self) -> Result<(), Error> {
        self.other_engine.map_or(Ok(()), |other| Err(Error::OtherEngine(other)))
    }

    /// Notes that the leader was heard, the last of the entries it sent, if any, and how far it has committed.
    pub(crate) fn hear_leader(&self, received: Option<u64>, committed: Option<u64>) {
        let now = Instant::now();
        let applied = self.applied().index;
        let mut heard = lock(&self.leader);
        let before = heard.at.replace(now);
        heard.last_index = received.unwrap_or(heard.last_index);
        heard.missing.forget(applied);
        if let Some(committed) = committed.filter(|committed| *committed > applied) {
            heard.missing.note(committed, now);
        }
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

    /// Whether the data of this node is known to be older than `limit`: something committed has been missing for
    /// longer; or not all that was received is applied, and what was applied last was older than `limit` then.
    pub(crate) fn lags_by_more_than(&self, limit: Duration) -> bool {
        let applied = self.applied().index;
        let mut heard = lock(&self.leader);
        heard.missing.forget(applied);
        if heard.missing.since().is_some_and(|since| since.elapsed() > limit) {
            return true;
        }
        let limit_ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        heard.last_index > 0 && applied != heard.last_index && heard.lag_ms > limit_ms
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

    /// Notes that an entry is being applied, until the value returned is dropped.
    pub(crate) fn begin_applying(
        &self,
        index: u64,
        command: Option<&Arc<Command>>,
    ) -> WhileApplying<'_> {
        let (command, since) = (command.cloned(), Instant::now());
        *lock(&self.applying) = Some(Applying { index, command, since });
        WhileApplying(self)
    }

    /// The entry that has been applied for so long that others should hear of it, and for how long.
    pub(crate) fn slow_entry(&self) -> Option<(Applying, Duration)> {
        let applying = lock(&self.applying);
        let applying = applying.as_ref()?;
        let time = applying.since.elapsed();
        (time >= SLOW_ENTRY).then(|| (applying.clone(), time))
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

    /// The node takes no part in its cluster from now on; false if it does not anyway.
    pub(crate) fn set_excluded(&self, reason: &str) -> bool {
        let mut health = lock(&self.health);
        let is_new = health.excluded.is_none() && health.stopped.is_none();
        if is_new {
            tracing::error!(
                component = "store",
                "this node takes no part in its cluster any more: {reason}"
            );
            health.excluded = Some(reason.to_owned());
        }
        is_new
    }

    /// Why the node takes no part in its cluster any more, if so.
    pub(crate) fn given_up(&self) -> Option<String> {
        let health = lock(&self.health);
        health.stopped.clone().or_else(|| health.excluded.clone())
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
        if let Some(reason) = health.stopped.as_ref().or(health.excluded.as_ref()) {
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

    /// Whether nothing is applied at the moment, so that nothing more of the log may be purged.
    pub(crate) fn applies_nothing(&self) -> bool {
        self.other_engine.is_some() || lock(&self.health).apply_stalled.is_some()
    }

    /// What is wrong at the moment with everything but the length of the log.
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
        if health.apply_stalled.is_none()
            && let Some((Applying { index, .. }, time)) = self.slow_entry()
        {
            found.push(Impairment::SlowEntry { index, seconds: time.as_secs() });
        }
        found.extend(self.other_engine.map(Impairment::OtherEngine));
        if let Some(reason) = &health.excluded {
            found.push(Impairment::Excluded { reason: reason.clone() });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> EntryId {
        EntryId { term: 1, index }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_takes_long_is_told_of_until_it_ends() {
        let progress = Progress::new(Some(entry(10)), 0);
        let applying = progress.begin_applying(11, None);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(progress.impairments(), []);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(progress.impairments(), [Impairment::SlowEntry { index: 11, seconds: 12 }]);
        drop(applying);
        assert_eq!(progress.impairments(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn data_is_as_old_as_what_is_committed_and_missing() {
        let progress = Progress::new(Some(entry(10)), 0);
        let limit = Duration::from_secs(1);
        let pass = |milliseconds| tokio::time::advance(Duration::from_millis(milliseconds));
        assert!(!progress.lags_by_more_than(limit));
        progress.hear_leader(Some(10), Some(10));
        pass(5000).await;
        assert!(!progress.lags_by_more_than(limit), "nothing is missing");
        // What was received and is not committed is nobody's to miss.
        progress.hear_leader(Some(12), Some(10));
        pass(5000).await;
        assert!(!progress.lags_by_more_than(limit));
        progress.hear_leader(None, Some(11));
        pass(600).await;
        progress.hear_leader(None, Some(12));
        pass(600).await;
        assert!(progress.lags_by_more_than(limit), "the first is missing for 1.2 s");
        progress.set_applied(entry(11), 0);
        assert!(!progress.lags_by_more_than(limit), "the second for 0.6 s");
        pass(600).await;
        assert!(progress.lags_by_more_than(limit));
        progress.set_applied(entry(12), 0);
        assert!(!progress.lags_by_more_than(limit));
    }

    /// A node that follows closely all the time is never called old, however long that goes on.
    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_always_a_little_behind_is_not_older_than_that() {
        let progress = Progress::new(Some(entry(1)), 0);
        for index in 2..3000 {
            progress.hear_leader(Some(index), Some(index));
            assert!(!progress.lags_by_more_than(Duration::from_millis(100)));
            tokio::time::advance(Duration::from_millis(3)).await;
            progress.set_applied(entry(index - 1), 0);
        }
        assert!(lock(&progress.leader).missing.0.len() <= 1);
    }

    /// Entries of a leader that was deposed are replaced by those of the next.
    #[tokio::test(start_paused = true)]
    async fn what_was_never_committed_is_forgotten() {
        let progress = Progress::new(Some(entry(10)), 0);
        progress.hear_leader(Some(20), Some(10));
        progress.note_lag(5000);
        assert!(progress.lags_by_more_than(Duration::from_secs(1)));
        progress.hear_leader(Some(11), Some(11));
        progress.set_applied(entry(11), 0);
        assert!(!progress.lags_by_more_than(Duration::from_secs(1)));
    }
}
