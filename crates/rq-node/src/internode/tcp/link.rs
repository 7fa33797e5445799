//! The way to one node on one lane: the calls that wait, and the connections that carry them.
//!
//! - A call is in exactly one place: waiting here, or taken by one connection. While it waits it can be given
//!   up without a trace; once taken its bytes may have left.
//! - Calls are taken in the order in which they were made.
//! - At most one connection is being made at a time; who calls meanwhile waits, each for its own time.
//! - Nothing is dialled for a call that nobody waits for any more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Shared,
    connection::{self, Ended},
    dial,
    limits::{BACKOFF_MAX, BACKOFF_MIN, WAITING_BYTES_MAX, WAITING_CALLS_MAX, connections_max},
};
use crate::internode::{CallError, Lane};

/// What becomes of a call.
pub(crate) type Outcome = Result<Bytes, CallError>;

/// The way to one node on one lane.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) to: String,
    pub(crate) lane: Lane,
    me: Weak<Self>,
    state: Mutex<State>,
    /// Told when there is something to take.
    pub(crate) ready: Notify,
    /// Changes when a revocable call that was taken is given up.
    pub(crate) given_up: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    next_call: u64,
    waiting: BTreeMap<u64, Waiting>,
    waiting_bytes: usize,
    /// Connections that exist or are being made.
    workers: usize,
    /// Those that could take a call at once.
    idle: usize,
    /// Whether one is being made.
    is_dialling: bool,
    /// Attempts that failed since the last one that did not.
    failures: u32,
    /// No attempt is made before this.
    not_before: Option<Instant>,
}

/// A call that waits.
#[derive(Debug)]
struct Waiting {
    request: Bytes,
    revocable: bool,
    outcome: oneshot::Sender<Outcome>,
}

/// A call that a connection has taken.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) call: u64,
    pub(crate) request: Bytes,
    /// Whether it is taken back when nobody waits for it any more.
    pub(crate) revocable: bool,
    pub(crate) outcome: oneshot::Sender<Outcome>,
}

/// The caller's end of a call. Dropping it gives the call up.
#[derive(Debug)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    link: Arc<Link>,
    call: u64,
    outcome: oneshot::Receiver<Outcome>,
    revocable: bool,
    is_over: bool,
}

/// Counts a connection as idle for as long as it exists.
#[derive(Debug)]
pub(crate) struct Idle<'a>(&'a Link);

impl Link {
    pub(crate) fn new(to: String, lane: Lane) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            to,
            lane,
            me: Weak::clone(me),
            state: Mutex::default(),
            ready: Notify::new(),
            given_up: watch::Sender::new(()),
        })
    }

    /// Adds a call at the end of the queue, and has a connection made if none could take it. The order of calls
    /// is that of these calls.
    pub(crate) fn submit(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        request: Bytes,
        revocable: bool,
    ) -> Result<Ticket, CallError> {
        let mut state = self.lock();
        let is_full = state.waiting.len() >= WAITING_CALLS_MAX
            || state.waiting_bytes.saturating_add(request.len()) > WAITING_BYTES_MAX;
        if is_full && !state.waiting.is_empty() {
            let reason = format!("{}: too many calls wait to be sent", self.to);
            return Err(CallError::NotSent(reason));
        }
        // Zero is for frames that are about no call.
        state.next_call += 1;
        let call = state.next_call;
        let (sender, outcome) = oneshot::channel();
        state.waiting_bytes += request.len();
        state.waiting.insert(call, Waiting { request, revocable, outcome: sender });
        self.call_for_hands(&mut state, shared);
        drop(state);
        let (shared, link) = (Arc::clone(shared), Arc::clone(self));
        Ok(Ticket { shared, link, call, outcome, revocable, is_over: false })
    }

    /// Takes calls for as long as `wants` says so of the next one's size. If there are none the connection
    /// counts as idle.
    pub(crate) fn take(
        &self,
        shared: &Arc<Shared>,
        mut wants: impl FnMut(usize) -> bool,
        taken: &mut Vec<Taken>,
    ) -> Option<Idle<'_>> {
        let mut state = self.lock();
        let mut has_room = true;
        while let Some(entry) = state.waiting.first_entry() {
            if !wants(entry.get().request.len()) {
                has_room = false;
                break;
            }
            let (call, Waiting { request, revocable, outcome }) = entry.remove_entry();
            state.waiting_bytes -= request.len();
            taken.push(Taken { call, request, revocable, outcome });
        }
        if !has_room {
            self.call_for_hands(&mut state, shared);
        }
        if taken.is_empty() && has_room {
            state.idle += 1;
            return Some(Idle(self));
        }
        None
    }

    /// Tells a connection that could take a call at once, or has one made if there may be another.
    fn call_for_hands(&self, state: &mut State, shared: &Arc<Shared>) {
        if state.idle > 0 {
            self.ready.notify_one();
        } else if !state.is_dialling
            && state.workers < connections_max(self.lane)
            && let Some(me) = self.me.upgrade()
        {
            state.workers += 1;
            state.is_dialling = true;
            drop(shared.runtime.spawn(me.work(Arc::clone(shared))));
        }
    }

    /// Whether nothing waits and nobody works.
    pub(crate) fn is_unused(&self) -> bool {
        let state = self.lock();
        state.workers == 0 && state.waiting.is_empty()
    }

    /// Makes connections and lets them carry calls, as long as there are calls.
    async fn work(self: Arc<Self>, shared: Arc<Shared>) {
        let mut stop = shared.stop.subscribe();
        let stopped = async move { drop(stop.wait_for(|is_stopping| *is_stopping).await) };
        tokio::select! {
            () = self.carry(&shared) => {}
            () = stopped => self.give_up("this node is stopping"),
        }
    }

    async fn carry(&self, shared: &Arc<Shared>) {
        loop {
            let pause = self.lock().not_before;
            if let Some(pause) = pause {
                sleep_until(pause).await;
            }
            // Who called may have lost patience during the pause.
            if self.retire() {
                return;
            }
            match dial::dial(shared, &self.to, self.lane).await {
                Err(error) => self.failed(&format!("{}: {error}", self.to)),
                Ok(stream) => {
                    self.connected(shared);
                    let ended = connection::carry(shared, self, stream).await;
                    if !self.ended(shared, &ended) {
                        return;
                    }
                }
            }
        }
    }

    /// Notes that an attempt did not fail.
    fn connected(&self, shared: &Shared) {
        let mut state = self.lock();
        state.is_dialling = false;
        let failures = state.failures;
        drop(state);
        if failures > 0 {
            shared.notices.reached(&self.to);
        }
    }

    /// Ends the work of one that is about to connect, if no call waits.
    fn retire(&self) -> bool {
        let mut state = self.lock();
        if !state.waiting.is_empty() {
            return false;
        }
        state.is_dialling = false;
        state.workers -= 1;
        true
    }

    /// Notes a failed attempt, and fails who waited for it unless another connection may take the calls.
    fn failed(&self, reason: &str) {
        let mut state = self.lock();
        state.back_off();
        if state.workers == 1 {
            state.fail_all(reason);
        }
    }

    /// Notes the end of a connection, and says whether another is to be made at once.
    fn ended(&self, shared: &Shared, ended: &Ended) -> bool {
        let mut state = self.lock();
        if ended.was_heard {
            state.failures = 0;
            state.not_before = None;
        } else {
            state.back_off();
        }
        if let Some(trouble) = &ended.trouble {
            shared.counters.dropped.add(1);
            shared.notices.unreachable(&self.to, trouble);
        }
        if !state.waiting.is_empty() && state.idle == 0 && !state.is_dialling {
            state.is_dialling = true;
            return true;
        }
        state.workers -= 1;
        // The notice of a call may have gone to the connection that ended.
        if !state.waiting.is_empty() {
            self.ready.notify_one();
        }
        false
    }

    fn give_up(&self, reason: &str) {
        let reason = format!("{}: {reason}", self.to);
        let mut state = self.lock();
        state.workers -= 1;
        state.fail_all(&reason);
    }

    /// Takes a call back if it still waits.
    fn withdraw(&self, call: u64) -> bool {
        let mut state = self.lock();
        let waiting = state.waiting.remove(&call);
        if let Some(waiting) = &waiting {
            state.waiting_bytes -= waiting.request.len();
        }
        waiting.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn back_off(&mut self) {
        let doubled = BACKOFF_MIN * 2_u32.pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + doubled.min(BACKOFF_MAX));
    }

    fn fail_all(&mut self, reason: &str) {
        self.waiting_bytes = 0;
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            // Who does not listen any more needs no reason.
            drop(waiting.outcome.send(Err(CallError::NotSent(reason.to_owned()))));
        }
    }
}

impl Ticket {
    /// Waits for the answer.
    pub(crate) async fn outcome(mut self, deadline: Instant) -> Outcome {
        match timeout_at(deadline, &mut self.outcome).await {
            Ok(Ok(outcome)) => {
                self.is_over = true;
                return outcome;
            }
            Ok(Err(_)) => {}
            Err(_) => {
                let to = &self.link.to;
                if self.link.withdraw(self.call) {
                    self.shared.counters.timeouts_unsent.add(1);
                    return Err(CallError::NotSent(format!("{to}: not sent in time")));
                }
                // It may have come this very moment.
                if let Ok(outcome) = self.outcome.try_recv() {
                    return outcome;
                }
                self.shared.counters.timeouts_unanswered.add(1);
                return Err(CallError::Unanswered(format!("{to}: no answer in time")));
            }
        }
        Err(CallError::Unanswered(format!("{}: the connection was closed", self.link.to)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // So that whoever has taken it sees that nobody listens.
        self.outcome.close();
        if !self.is_over && !self.link.withdraw(self.call) && self.revocable {
            self.link.given_up.send_replace(());
        }
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.lock().idle -= 1;
    }
}
