//! Sees to it that the runtime listens to sockets and clocks while one of its threads is held up.
//!
//! One idle thread of the runtime at a time waits for sockets and clocks on behalf of all. When a single thing
//! happens, that thread goes and sees to it, and the others sleep on. If what it does is a read that SQLite
//! cannot be interrupted in, nobody listens until the read ends. So whenever a thread has not paused for a
//! while, an empty task is given to the runtime: the thread woken for it finds nothing else and listens.
//!
//! Nothing here may wait for the runtime.

use std::{io, thread, time::Duration};

use tokio::runtime::Handle;

/// How often the threads are looked at, and with that the longest time nobody listens.
const INTERVAL: Duration = Duration::from_millis(10);

/// Begins to look at the threads of a runtime, for as long as the process lives.
///
/// # Errors
/// The operating system gives no thread.
pub(crate) fn keep(runtime: Handle) -> io::Result<()> {
    let look = move || {
        let mut seen = vec![0; runtime.metrics().num_workers()];
        loop {
            thread::sleep(INTERVAL);
            if is_held_up(&runtime, &mut seen) {
                runtime.spawn(async {});
            }
        }
    };
    thread::Builder::new().name("lookout".to_owned()).spawn(look).map(drop)
}

/// Whether a thread has been at work without a pause since `seen`, which is brought up to date.
fn is_held_up(runtime: &Handle, seen: &mut [u64]) -> bool {
    let metrics = runtime.metrics();
    let mut held_up = false;
    for (worker, before) in seen.iter_mut().enumerate() {
        // Grows by one when a thread pauses, and by one when it goes on: even while it is at work.
        let now = metrics.worker_park_unpark_count(worker);
        held_up |= now == *before && now.is_multiple_of(2);
        *before = now;
    }
    held_up
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_is_held_up_does_not_stop_the_clock() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        keep(runtime.handle().clone()).expect("a thread");
        for _ in 0..20 {
            let (release, released) = mpsc::channel::<()>();
            let (rang, has_rung) = mpsc::channel();
            runtime.spawn(async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                rang.send(()).expect("the test waits");
            });
            runtime.spawn(async move {
                // The thread that listens to the clock is the one that goes on here.
                tokio::time::sleep(Duration::from_millis(5)).await;
                let _end = released.recv();
            });
            let rung = has_rung.recv_timeout(Duration::from_secs(20));
            drop(release);
            rung.expect("the clock goes on");
        }
    }
}
