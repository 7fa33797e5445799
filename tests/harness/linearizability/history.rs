//! What clients did and saw, with times of one clock.
//!
//! An operation is recorded once, by the thread that sent it, when its fate is known or given up.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<C, S> {
    /// Who sent it. A client has one operation on its way at a time.
    pub client: u64,
    /// What was asked.
    pub call: C,
    /// When it was sent, in nanoseconds of the history's clock.
    pub sent: u64,
    /// When the answer came and what it said; `None` if nobody knows whether it was done: it may
    /// have taken effect at any time after it was sent, or never.
    pub answer: Option<(u64, S)>,
}

impl<C, S> Operation<C, S> {
    /// The key of an operation whose call names one, and the operation without it.
    pub fn split<K, D>(self, apart: impl FnOnce(C) -> (K, D)) -> (K, Operation<D, S>) {
        let Self { client, call, sent, answer } = self;
        let (key, call) = apart(call);
        (key, Operation { client, call, sent, answer })
    }
}

/// The clock of a history; copies tell the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    begin: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { begin: Instant::now() }
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).expect("no test runs for centuries")
    }
}

/// A growing history, shared by the threads of all clients.
#[derive(Debug)]
pub struct History<C, S> {
    clock: Clock,
    clients: Arc<AtomicU64>,
    operations: Arc<Mutex<Vec<Operation<C, S>>>>,
}

impl<C, S> Clone for History<C, S> {
    fn clone(&self) -> Self {
        Self {
            clock: self.clock,
            clients: Arc::clone(&self.clients),
            operations: Arc::clone(&self.operations),
        }
    }
}

impl<C, S> History<C, S> {
    /// An empty history with times of this clock.
    pub fn new(clock: Clock) -> Self {
        Self { clock, clients: Arc::default(), operations: Arc::default() }
    }

    /// The clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// A number no other client has.
    pub fn new_client(&self) -> u64 {
        self.clients.fetch_add(1, Ordering::Relaxed)
    }

    /// Does an operation and records it. `run` returns `Some` with what was seen, or `None` if the
    /// outcome is unknown; `Err` if it is known that nothing was done, which leaves no record.
    ///
    /// # Errors
    /// What `run` says.
    pub fn record<E>(
        &self,
        client: u64,
        call: C,
        run: impl FnOnce(&C) -> Result<Option<S>, E>,
    ) -> Result<(), E>
    where
        C: Clone,
    {
        let sent = self.clock.now();
        let seen = run(&call)?;
        let answer = seen.map(|seen| (self.clock.now(), seen));
        let operation = Operation { client, call, sent, answer };
        self.operations.lock().expect("no client panics while it records").push(operation);
        Ok(())
    }

    /// Everything recorded so far, in the order of the records.
    pub fn operations(&self) -> Vec<Operation<C, S>>
    where
        C: Clone,
        S: Clone,
    {
        self.operations.lock().expect("no client panics while it records").clone()
    }
}
