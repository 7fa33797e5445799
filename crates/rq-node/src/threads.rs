//! Ending a thread of ours without waiting for ever.

use std::{
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
