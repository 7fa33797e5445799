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

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::internode::{
        Lane,
        tcp::{
            counters::Counters,
            limits::{ACCEPTED_SILENCE_MAX, SILENCE_MAX},
        },
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn meter() -> Meter {
        Meter::new(Arc::clone(Counters::default().lane(Lane::Append)))
    }

    fn patience(silence: Duration) -> Patience {
        Patience { silence, sending_is_life: true }
    }

    /// Does something each second for an hour while the watchdog watches; gives its reason and when.
    async fn watched(
        meter: &Meter,
        patience: Patience,
        each_second: impl Fn(),
    ) -> Option<(String, Duration)> {
        let start = Instant::now();
        let ticking = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                each_second();
            }
        };
        tokio::select! {
            reason = Watchdog::new(meter, patience).watch() => Some((reason, start.elapsed())),
            () = ticking => None,
            () = sleep(HOUR) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_and_bytes_keep_it() {
        for silence in [SILENCE_MAX, ACCEPTED_SILENCE_MAX] {
            let meter = meter();
            let (reason, after) = watched(&meter, patience(silence), || {}).await.unwrap();
            assert!(reason.contains("nothing was heard"), "{reason}");
            assert!(after > silence && after < silence + Duration::from_secs(1), "{after:?}");
        }
        let meter = meter();
        assert_eq!(watched(&meter, patience(SILENCE_MAX), || meter.received(1)).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn getting_rid_of_a_large_frame_is_life_but_a_ping_is_not() {
        let large = meter();
        large.write_began();
        assert_eq!(watched(&large, patience(SILENCE_MAX), || large.sent(1000)).await, None);
        let pings = meter();
        let each_second = || {
            pings.write_began();
            pings.sent(24);
            pings.write_ended();
        };
        assert!(watched(&pings, patience(SILENCE_MAX), each_second).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_gets_rid_of_nothing_ends_the_connection_although_it_hears() {
        let meter = meter();
        meter.write_began();
        let watched = watched(&meter, patience(SILENCE_MAX), || meter.received(24)).await;
        let (reason, after) = watched.unwrap();
        assert!(reason.contains("nothing could be sent"), "{reason}");
        assert!(after > WRITE_STALL_MAX && after < WRITE_STALL_MAX + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_trickles_ends_the_connection_in_time_for_its_length() {
        for (length, seconds) in [(10, 60), (64 * 1024 * 100, 160)] {
            let meter = meter();
            meter.frame_began(length);
            let watched = watched(&meter, patience(SILENCE_MAX), || meter.received(1)).await;
            let (reason, after) = watched.unwrap();
            assert!(reason.contains("too long to arrive"), "{reason}");
            assert_eq!(after.as_secs(), seconds);
        }
        let meter = meter();
        meter.frame_began(10);
        meter.frame_ended();
        assert_eq!(watched(&meter, patience(SILENCE_MAX), || meter.received(1)).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn pings_are_asked_for_only_while_nothing_is_heard() {
        let (is_due, writer, meter) = (AtomicBool::new(false), Notify::new(), meter());
        let watchdog = Watchdog::new(&meter, patience(HOUR)).with_pings(&is_due, &writer);
        let scene = async {
            timeout(PING_AFTER * 2, writer.notified()).await.expect("asked for");
            assert!(is_due.swap(false, Ordering::Relaxed));
            for _ in 0..20 {
                meter.received(1);
                sleep(PING_AFTER / 2).await;
            }
            assert!(!is_due.load(Ordering::Relaxed));
        };
        tokio::select! {
            () = scene => {}
            reason = watchdog.watch() => panic!("{reason}"),
        }
    }
}
