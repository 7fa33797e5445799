//! How a connection is doing: bytes in both directions, and whether it is still alive.
//!
//! Readers and writers count, a [`Watchdog`] looks now and then. That way no read and no write needs a timer of
//! its own, and what counts as life are bytes, not frames: a large frame on a slow link is no silence.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, interval},
};

use super::{
    counters::LaneCounters,
    limits::{FRAME_PACE_BYTES, FRAME_TIME_MAX, LOOK_INTERVAL, PING_AFTER, WRITE_STALL_MAX},
};

/// What the two halves of a connection count.
#[derive(Debug)]
pub(crate) struct Meter {
    lane: Arc<LaneCounters>,
    received: AtomicU64,
    sent: AtomicU64,
    is_writing: AtomicBool,
    frame_due: Mutex<Option<Instant>>,
}

impl Meter {
    pub(crate) fn new(lane: Arc<LaneCounters>) -> Self {
        Self {
            lane,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            is_writing: AtomicBool::new(false),
            frame_due: Mutex::new(None),
        }
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.lane.bytes_received.add(bytes as u64);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.lane.bytes_sent.add(bytes as u64);
    }

    /// All bytes sent so far.
    pub(crate) fn sent_total(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether the other side was heard at all.
    pub(crate) fn has_received(&self) -> bool {
        self.received.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn write_began(&self) {
        self.is_writing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn write_ended(&self) {
        self.is_writing.store(false, Ordering::Relaxed);
    }

    /// A frame's header came, and so many bytes are to follow.
    pub(crate) fn frame_began(&self, length: usize) {
        let seconds = length as u64 / u64::from(FRAME_PACE_BYTES);
        let due = Instant::now() + FRAME_TIME_MAX + Duration::from_secs(seconds);
        *self.frame_due.lock().unwrap_or_else(PoisonError::into_inner) = Some(due);
    }

    /// The frame is complete.
    pub(crate) fn frame_ended(&self) {
        *self.frame_due.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_frame_overdue(&self, now: Instant) -> bool {
        let due = *self.frame_due.lock().unwrap_or_else(PoisonError::into_inner);
        due.is_some_and(|due| due < now)
    }
}

/// What decides that a connection is dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// The longest silence of the other side.
    pub(crate) silence: Duration,
    /// Whether getting rid of bytes counts as hearing the other side, whose machine took them.
    pub(crate) sending_is_life: bool,
}

/// Looks after one connection.
#[derive(Debug)]
pub(crate) struct Watchdog<'a> {
    meter: &'a Meter,
    patience: Patience,
    /// Told to the writer when the other side should be asked for a sign of life.
    ping: Option<(&'a AtomicBool, &'a Notify)>,
}

impl<'a> Watchdog<'a> {
    pub(crate) fn new(meter: &'a Meter, patience: Patience) -> Self {
        Self { meter, patience, ping: None }
    }

    /// Has pings sent when nothing is heard.
    pub(crate) fn with_pings(self, is_due: &'a AtomicBool, writer: &'a Notify) -> Self {
        Self { ping: Some((is_due, writer)), ..self }
    }

    /// Watches until the connection must be given up, and says why.
    pub(crate) async fn watch(self) -> String {
        let Self { meter, patience, ping } = self;
        let start = Instant::now();
        let (mut heard_at, mut alive_at, mut sent_at, mut pinged_at) = (start, start, start, start);
        let (mut received, mut sent) = (0, 0);
        let mut ticks = interval(LOOK_INTERVAL);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let is_writing = meter.is_writing.load(Ordering::Relaxed);
            let (received_now, sent_now) =
                (meter.received.load(Ordering::Relaxed), meter.sent.load(Ordering::Relaxed));
            if received_now != received {
                received = received_now;
                (heard_at, alive_at) = (now, now);
            }
            if sent_now != sent || !is_writing {
                if is_writing && patience.sending_is_life {
                    alive_at = now;
                }
                sent = sent_now;
                sent_at = now;
            }
            if now - alive_at > patience.silence {
                return format!("nothing was heard for {} s", patience.silence.as_secs());
            }
            if now - sent_at > WRITE_STALL_MAX {
                return format!("nothing could be sent for {} s", WRITE_STALL_MAX.as_secs());
            }
            if meter.is_frame_overdue(now) {
                return "a frame took too long to arrive".to_owned();
            }
            if let Some((is_due, writer)) = ping
                && now - heard_at.max(pinged_at) >= PING_AFTER
            {
                pinged_at = now;
                is_due.store(true, Ordering::Relaxed);
                writer.notify_one();
            }
        }
    }
}
