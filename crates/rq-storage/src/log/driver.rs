//! Who calls the flusher: threads of its own, or whoever queues an operation.
//!
//! [`Execution::Threads`] is for nodes. [`Execution::Inline`] does the same work in the caller,
//! before the call returns, so that a simulation on one thread sees the same file operations in the
//! same order every time. Both call [`Flusher::drive`]; there is no second path.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, TryLockError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    flusher::{Flusher, Progress},
    prepare::Preparer,
    shared::Shared,
};
use crate::Error;

/// How long the flusher waits before it looks again whether a full disk has space.
const SPACE_RETRY: Duration = Duration::from_millis(100);

/// Who does the work of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Execution {
    /// A flusher thread and a thread that prepares segments.
    #[default]
    Threads,
    /// The caller, before its call returns: no threads, and no waiting for disk space; see
    /// [`Log::poll`](super::Log::poll).
    Inline,
}

/// The chosen way, running.
pub(super) enum Driver {
    Threads(Mutex<Vec<JoinHandle<()>>>),
    Inline(Box<Mutex<Flusher>>),
}

impl Driver {
    pub(super) fn start(
        execution: Execution,
        mut flusher: Flusher,
        shared: &Arc<Shared>,
        preparer: &Arc<Preparer>,
    ) -> io::Result<Self> {
        if execution == Execution::Inline {
            preparer.work();
            return Ok(Self::Inline(Box::new(Mutex::new(flusher))));
        }
        let helper = {
            let preparer = Arc::clone(preparer);
            thread::Builder::new().name("log-preparer".to_owned()).spawn(move || preparer.run())?
        };
        let flushing = {
            let shared = Arc::clone(shared);
            let body = move || run(&mut flusher, &shared);
            thread::Builder::new().name("log-flusher".to_owned()).spawn(body)
        };
        match flushing {
            Ok(flushing) => Ok(Self::Threads(Mutex::new(vec![flushing, helper]))),
            Err(error) => {
                preparer.stop();
                join(helper);
                Err(error)
            }
        }
    }

    /// Has the queue worked off: by waking the thread, or here and now.
    pub(super) fn kick(&self, shared: &Shared, preparer: &Preparer) {
        match self {
            Self::Threads(_) => shared.wake.notify_one(),
            Self::Inline(flusher) => drive_inline(flusher, shared, preparer),
        }
    }

    /// Works off what is queued, then ends the threads. Calling it again does nothing.
    pub(super) fn stop(&self, shared: &Shared, preparer: &Preparer) {
        shared.lock().closing = true;
        match self {
            Self::Threads(handles) => {
                shared.wake.notify_all();
                let handles =
                    std::mem::take(&mut *handles.lock().unwrap_or_else(PoisonError::into_inner));
                let mut handles = handles.into_iter();
                handles.next().into_iter().for_each(join);
                preparer.stop();
                handles.for_each(join);
            }
            Self::Inline(flusher) => {
                drive_inline(flusher, shared, preparer);
                preparer.stop();
                if let Ok(mut flusher) = flusher.try_lock() {
                    flusher.abandon(&Error::Closed);
                }
            }
        }
    }
}

/// Waits for a thread to end, unless it is this one: a completion may drop the last handle.
fn join(handle: JoinHandle<()>) {
    if handle.thread().id() != thread::current().id() && handle.join().is_err() {
        tracing::error!("a thread of the log panicked");
    }
}

/// The body of the flusher's thread.
fn run(flusher: &mut Flusher, shared: &Shared) {
    let _guard = PanicGuard(shared);
    loop {
        let progress = flusher.drive();
        let mut state = shared.lock();
        match progress {
            Progress::Idle => {
                while state.queue.is_empty() && !state.closing {
                    state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.queue.is_empty() {
                    return;
                }
            }
            Progress::WaitingForSpace => {
                let until = Instant::now() + SPACE_RETRY;
                while !state.closing && Instant::now() < until {
                    let left = until.saturating_duration_since(Instant::now());
                    let waited = shared.wake.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                let closing = state.closing;
                drop(state);
                if closing {
                    flusher.abandon(&Error::Closed);
                    return;
                }
            }
        }
    }
}

/// A completion that panics must not leave callers waiting for a thread that is gone.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut state = self.0.lock();
            state.failure.get_or_insert_with(|| Arc::new(Error::Closed));
            state.health = super::Health::Failed;
        }
    }
}

/// Drives until the queue is empty. A completion that queues something finds the flusher taken;
/// the loop further out sees it in the queue.
fn drive_inline(flusher: &Mutex<Flusher>, shared: &Shared, preparer: &Preparer) {
    loop {
        let progress = match flusher.try_lock() {
            Ok(mut flusher) => flusher.drive(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().drive(),
            Err(TryLockError::WouldBlock) => return,
        };
        preparer.work();
        if progress == Progress::WaitingForSpace || shared.lock().queue.is_empty() {
            return;
        }
    }
}
