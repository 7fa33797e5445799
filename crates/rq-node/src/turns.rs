//! Turns: who may have SQLite work on an async worker.
//!
//! Most reads and most writes take SQLite microseconds, less than it takes to wake a thread for them. So they are begun
//! where they come in, with an allowance of [`TURN_STEPS`]; what needs more starts over on a thread that may be
//! busy for long.
//!
//! A single step of SQLite's machine may take long nevertheless, and no allowance ends it; so may a file system that
//! hangs. There are fewer turns than workers, so that one is always left for everything else.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// VM steps that one turn is good for: about a millisecond.
pub(crate) const TURN_STEPS: u64 = 20_000;

/// How long one waits for a turn before it takes a thread: twice what those with a turn may take, unless one is stuck
/// in a single step.
const PATIENCE: Duration = Duration::from_millis(2);

/// The turns there are.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

impl Turns {
    /// Of a runtime with so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self(Semaphore::new(workers.saturating_sub(1)))
    }

    /// A turn, if one is free.
    pub(crate) fn try_take(&self) -> Option<SemaphorePermit<'_>> {
        self.0.try_acquire().ok()
    }

    /// A turn, as soon as one is free: most are over sooner than a thread is ready, which also takes a connection and
    /// memory. None if those that have one need long.
    pub(crate) async fn take(&self) -> Option<SemaphorePermit<'_>> {
        if let Some(turn) = self.try_take() {
            return Some(turn);
        }
        tokio::time::timeout(PATIENCE, self.0.acquire()).await.ok()?.ok()
    }
}
