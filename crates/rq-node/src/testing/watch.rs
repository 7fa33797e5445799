//! A value that is watched, as `tokio::sync::watch`, whose watchers are woken in the order in which they began to wait.
//!
//! tokio draws that order from chance that no test can seed, and what is drawn decides who speaks first on the
//! network. So in tests this one stands in for it, in openraft and in `progress`.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    task::{Context, Poll, Waker},
};

use openraft::{
    OptionalSend, OptionalSync,
    rt::watch::{self, RecvError, SendError},
};

use crate::progress::lock;

/// The sending half.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The watching half, and up to which version it has looked.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// A look at the value.
pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, T>);

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    version: u64,
    senders: usize,
    receivers: usize,
    waiting: Vec<Waker>,
}

impl<T> Shared<T> {
    fn look(&self) -> Ref<'_, T> {
        Ref(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(state: &mut State) -> Vec<Waker> {
        std::mem::take(&mut state.waiting)
    }

    fn subscribe(self: &Arc<Self>) -> Receiver<T> {
        let mut state = lock(&self.state);
        state.receivers += 1;
        Receiver { shared: Arc::clone(self), seen: state.version }
    }
}

impl<T> Sender<T> {
    pub(crate) fn new(value: T) -> Self {
        let state = State { version: 0, senders: 1, receivers: 0, waiting: Vec::new() };
        Self(Arc::new(Shared { value: RwLock::new(value), state: Mutex::new(state) }))
    }

    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        self.0.look()
    }

    pub(crate) fn subscribe(&self) -> Receiver<T> {
        self.0.subscribe()
    }

    pub(crate) fn send_replace(&self, value: T) {
        self.modify(|place| {
            *place = value;
            true
        });
    }

    fn modify(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = {
            let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
            let modified = modify(&mut value);
            if modified {
                lock(&self.0.state).version += 1;
            }
            modified
        };
        if modified {
            let waiting = Shared::<T>::wake(&mut lock(&self.0.state));
            waiting.into_iter().for_each(Waker::wake);
        }
        modified
    }
}

impl<T> Receiver<T> {
    /// Waits until the value satisfies `condition`.
    ///
    /// # Errors
    /// Nobody will change it any more.
    pub(crate) async fn wait_for(
        &mut self,
        mut condition: impl FnMut(&T) -> bool,
    ) -> Result<(), RecvError> {
        loop {
            self.seen = lock(&self.shared.state).version;
            if condition(&self.shared.look()) {
                return Ok(());
            }
            self.next().await?;
        }
    }

    async fn next(&mut self) -> Result<(), RecvError> {
        std::future::poll_fn(|context| self.poll_changed(context)).await
    }

    fn poll_changed(&mut self, context: &Context<'_>) -> Poll<Result<(), RecvError>> {
        let mut state = lock(&self.shared.state);
        if state.version != self.seen {
            self.seen = state.version;
            return Poll::Ready(Ok(()));
        }
        if state.senders == 0 {
            return Poll::Ready(Err(RecvError(())));
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        lock(&self.0.state).senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = lock(&self.0.state);
            state.senders -= 1;
            if state.senders > 0 {
                return;
            }
            Shared::<T>::wake(&mut state)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        lock(&self.shared.state).receivers += 1;
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        lock(&self.shared.state).receivers -= 1;
    }
}

/// The same for openraft.
pub(crate) struct Orderly;

impl watch::Watch for Orderly {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let sender = Sender::new(init);
        let receiver = sender.subscribe();
        (sender, receiver)
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<Orderly, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if lock(&self.0.state).receivers == 0 {
            return Err(SendError(value));
        }
        self.send_replace(value);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.modify(modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        self.0.subscribe()
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<Orderly, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        self.next().await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.look()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = lock(&self.shared.state).version;
        self.shared.look()
    }
}
