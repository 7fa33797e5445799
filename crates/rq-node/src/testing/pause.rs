//! A node that stands still, as under SIGSTOP: its tasks are not polled until it goes on, however much time passes.
//!
//! A task belongs to the pause it was begun under and hands it on to the tasks openraft spawns from it. What the
//! node spawns besides goes on; it can do little without openraft and without answers.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use crate::progress::lock;

thread_local! {
    /// Whose task is being polled.
    static CURRENT: RefCell<Option<Arc<Pause>>> = const { RefCell::new(None) };
}

/// The switch of one node.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    waiting: Vec<Waker>,
}

impl Pause {
    /// Lets the node stand still, or go on.
    pub(super) fn set(&self, paused: bool) {
        let mut state = lock(&self.state);
        state.paused = paused;
        if !paused {
            state.waiting.drain(..).for_each(Waker::wake);
        }
    }

    /// Whether the node stands still.
    pub(super) fn is_set(&self) -> bool {
        lock(&self.state).paused
    }

    fn holds(&self, context: &Context<'_>) -> bool {
        let mut state = lock(&self.state);
        if state.paused {
            state.waiting.push(context.waker().clone());
        }
        state.paused
    }
}

/// A future that belongs to a node, if to any.
pub(crate) struct Held<F> {
    pause: Option<Arc<Pause>>,
    future: Pin<Box<F>>,
}

/// A future of the node whose task is being polled.
pub(crate) fn inherited<F: Future>(future: F) -> Held<F> {
    Held { pause: CURRENT.with_borrow(Clone::clone), future: Box::pin(future) }
}

/// A future of this node.
pub(super) fn held<F: Future>(pause: &Arc<Pause>, future: F) -> Held<F> {
    Held { pause: Some(Arc::clone(pause)), future: Box::pin(future) }
}

impl<F: Future> Future for Held<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(pause) = self.pause.clone() else { return self.future.as_mut().poll(context) };
        if pause.holds(context) {
            return Poll::Pending;
        }
        let outer = CURRENT.replace(Some(pause));
        let polled = self.future.as_mut().poll(context);
        CURRENT.set(outer);
        polled
    }
}
