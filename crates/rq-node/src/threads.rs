//! Ending a thread of ours, or taking what it may hold, without waiting for ever.

use std::{
    sync::{Mutex, MutexGuard, TryLockError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often a thread is looked at.
const GLANCE: Duration = Duration::from_millis(2);

/// Waits for a thread to end, at most as long as given; false if it still runs. Such a thread is left
/// alone: the process is about to end.
pub(crate) fn join_within(thread: JoinHandle<()>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(GLANCE);
    }
    // A panic there has ended the process already (panic hook of the program).
    drop(thread.join());
    true
}

/// Locks a mutex; none if somebody else has it until the deadline.
pub(crate) fn lock_until<T>(mutex: &Mutex<T>, deadline: Instant) -> Option<MutexGuard<'_, T>> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
            Err(TryLockError::WouldBlock) => thread::sleep(GLANCE),
        }
    }
}
