//! The vital signs of connections, and the one task that watches them all.
//!
//! No request arms a timer. Each connection keeps its [`Vitals`] up to date with a few relaxed stores,
//! and [`Watch::run`] looks at every connection a few times a second, which is as exact as time limits
//! of seconds need to be. A verdict is delivered by waking the connection's task.
//!
//! This file must never block, and never touch a socket.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::limits::{HALF_CLOSED_GRACE, LINGER_TIME, Limits};

/// How often the connections are looked at: the resolution of all time limits.
const TICK: Duration = Duration::from_millis(100);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Waits for a request's head, or reads it. Also HTTP/2 without a stream.
    Head = 0,
    /// The handler reads the request's body.
    Body = 1,
    /// The handler works.
    Work = 2,
    /// The answer is being written.
    Reply = 3,
    /// HTTP/2 with streams, each under a timer of its own.
    Streams = 4,
    /// The rest of a refused request is thrown away.
    Linger = 5,
}

/// What the watch has decided about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Verdict {
    /// Nothing.
    Live = 0,
    /// The connection is to be dropped.
    Close = 1,
    /// The request has taken too long; it is to be answered so.
    TimedOut = 2,
    /// The client has gone; its request is to be cancelled.
    HungUp = 3,
}

/// The vital signs of one connection. Times are ticks since the server began, 0 for "not".
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    phase: AtomicU8,
    verdict: AtomicU8,
    /// When the phase began; for `Body` and `Work`, when the request did.
    since: AtomicU32,
    head_since: AtomicU32,
    end_of_input_since: AtomicU32,
    streams: AtomicU32,
    refused: AtomicBool,
    waker: AtomicWaker,
}

impl Vitals {
    /// Makes sure the task of `waker` is woken by a verdict.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// What has been decided.
    pub(crate) fn verdict(&self) -> Verdict {
        match self.verdict.load(Ordering::Acquire) {
            1 => Verdict::Close,
            2 => Verdict::TimedOut,
            3 => Verdict::HungUp,
            _ => Verdict::Live,
        }
    }

    /// What the connection is doing.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            1 => Phase::Body,
            2 => Phase::Work,
            3 => Phase::Reply,
            4 => Phase::Streams,
            5 => Phase::Linger,
            _ => Phase::Head,
        }
    }

    /// Notes a new phase, whose time begins at `now`.
    pub(crate) fn enter(&self, phase: Phase, now: u32) {
        self.since.store(now, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Notes that the body has been read. The request's time goes on.
    pub(crate) fn body_read(&self) {
        if self.phase() == Phase::Body {
            self.phase.store(Phase::Work as u8, Ordering::Relaxed);
        }
    }

    /// Notes bytes of a head. Returns whether they are its first.
    pub(crate) fn head_bytes(&self, now: u32) -> bool {
        let begins = self.head_since.load(Ordering::Relaxed) == 0;
        if begins {
            self.head_since.store(now, Ordering::Relaxed);
        }
        begins
    }

    /// Notes that the client has closed its sending half.
    pub(crate) fn end_of_input(&self, now: u32) {
        self.end_of_input_since.store(now, Ordering::Relaxed);
    }

    /// Whether the client has closed its sending half.
    pub(crate) fn has_end_of_input(&self) -> bool {
        self.end_of_input_since.load(Ordering::Relaxed) != 0
    }

    /// Notes that the answer was given before the request had been read.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether input may be unread that makes closing lose the answer.
    pub(crate) fn wants_linger(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
            || (self.phase() == Phase::Head && self.head_since.load(Ordering::Relaxed) != 0)
    }

    /// Notes the begin of an HTTP/2 stream.
    pub(crate) fn stream_began(&self, now: u32) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.enter(Phase::Streams, now);
    }

    /// Notes the end of an HTTP/2 stream.
    pub(crate) fn stream_ended(&self, now: u32) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
    }

    fn decide(&self, verdict: Verdict) {
        if self.verdict() == Verdict::Live || verdict == Verdict::Close {
            self.verdict.store(verdict as u8, Ordering::Release);
            self.waker.wake();
        }
    }

    /// Forgets a verdict that was carried out by answering.
    pub(crate) fn acquit(&self) {
        self.verdict.store(Verdict::Live as u8, Ordering::Release);
    }

    fn examine(&self, now: u32, limits: &TickLimits) {
        let age = now.saturating_sub(self.since.load(Ordering::Relaxed));
        match self.phase() {
            Phase::Head => {
                let head_since = self.head_since.load(Ordering::Relaxed);
                if (head_since != 0 && exceeds(now.saturating_sub(head_since), limits.head))
                    || exceeds(age, limits.idle)
                {
                    self.decide(Verdict::Close);
                }
            }
            Phase::Body | Phase::Work => {
                let gone = self.end_of_input_since.load(Ordering::Relaxed);
                if gone != 0 && exceeds(now.saturating_sub(gone), limits.half_closed) {
                    self.decide(Verdict::HungUp);
                } else if exceeds(age, limits.request) {
                    self.decide(Verdict::TimedOut);
                }
            }
            Phase::Reply if exceeds(age, limits.request) => self.decide(Verdict::Close),
            Phase::Streams
                if self.streams.load(Ordering::Relaxed) == 0 && exceeds(age, limits.idle) =>
            {
                self.decide(Verdict::Close);
            }
            Phase::Linger if exceeds(age, limits.linger) => self.decide(Verdict::Close),
            Phase::Reply | Phase::Streams | Phase::Linger => {}
        }
    }
}

/// How far a server has come with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    /// It has not begun.
    Serving = 0,
    /// Each answer says that its connection is closed.
    Leaving = 1,
    /// Connections on which nothing is under way are closed.
    Ending = 2,
}

/// All open connections of a server, and its coarse clock.
#[derive(Debug)]
pub(crate) struct Watch {
    ticks: AtomicU32,
    limits: TickLimits,
    stage: AtomicU8,
    next_id: AtomicU64,
    connections: Mutex<HashMap<u64, Arc<Vitals>>>,
    all_gone: Notify,
}

/// A connection in the [`Watch`]; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    id: u64,
    watch: Arc<Watch>,
    vitals: Arc<Vitals>,
}

#[derive(Debug)]
struct TickLimits {
    head: u32,
    idle: u32,
    request: u32,
    half_closed: u32,
    linger: u32,
}

impl Watch {
    /// A watch over no connections.
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            ticks: AtomicU32::new(1),
            limits: TickLimits {
                head: ticks_of(limits.head_time_max),
                idle: ticks_of(limits.idle_time_max),
                request: ticks_of(limits.request_time_max),
                half_closed: ticks_of(HALF_CLOSED_GRACE),
                linger: ticks_of(LINGER_TIME),
            },
            stage: AtomicU8::new(Stage::Serving as u8),
            next_id: AtomicU64::new(0),
            connections: Mutex::default(),
            all_gone: Notify::new(),
        })
    }

    /// The coarse clock, in ticks.
    pub(crate) fn now(&self) -> u32 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// How far the server has come with its end.
    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Serving,
            1 => Stage::Leaving,
            _ => Stage::Ending,
        }
    }

    /// Takes a connection in, unless there are `most` already (0: no limit).
    pub(crate) fn admit(self: &Arc<Self>, most: usize) -> Option<Watched> {
        let vitals = Arc::new(Vitals::default());
        vitals.enter(Phase::Head, self.now());
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut connections = self.lock();
        if most != 0 && connections.len() >= most {
            return None;
        }
        connections.insert(id, Arc::clone(&vitals));
        drop(connections);
        Some(Watched { id, watch: Arc::clone(self), vitals })
    }

    /// How many connections are open.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Watches until the server has stopped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let begun = interval.tick().await;
        loop {
            let elapsed = interval.tick().await.duration_since(begun);
            let now = ticks_of(elapsed).saturating_add(1);
            self.ticks.store(now, Ordering::Relaxed);
            let connections = self.lock();
            for vitals in connections.values() {
                vitals.examine(now, &self.limits);
            }
        }
    }

    /// Comes to the next stage of the end, and tells every connection.
    pub(crate) fn advance(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
        for vitals in self.lock().values() {
            vitals.waker.wake();
        }
    }

    /// Has every request under way answered as one that has taken too long.
    pub(crate) fn time_out_all(&self) {
        for vitals in self.lock().values() {
            if matches!(vitals.phase(), Phase::Body | Phase::Work) {
                vitals.decide(Verdict::TimedOut);
            }
        }
    }

    /// Drops every connection.
    pub(crate) fn close_all(&self) {
        for vitals in self.lock().values() {
            vitals.decide(Verdict::Close);
        }
    }

    /// Waits until no connection is left.
    pub(crate) async fn all_gone(&self) {
        loop {
            let notified = self.all_gone.notified();
            if self.lock().is_empty() {
                return;
            }
            notified.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Vitals>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// The connection's vital signs.
    pub(crate) fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// The watch it is under.
    pub(crate) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut connections = self.watch.lock();
        connections.remove(&self.id);
        if connections.is_empty() {
            self.watch.all_gone.notify_waiters();
        }
    }
}

/// Whole ticks in a duration, at least one unless it is zero.
fn ticks_of(duration: Duration) -> u32 {
    let ticks = duration.as_millis().div_ceil(TICK.as_millis());
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// Whether an age passes a limit; zero is no limit.
fn exceeds(age: u32, limit: u32) -> bool {
    limit != 0 && age > limit
}
