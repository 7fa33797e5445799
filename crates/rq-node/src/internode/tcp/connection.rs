//! One connection, seen from the side that dialled: calls out, answers in.
//!
//! - A call's bytes are written at most once, on one connection.
//! - However the connection ends, each call it took gets an outcome: not sent if not one of its bytes was
//!   handed over, unanswered otherwise.
//! - A call that was given up keeps its place among the unanswered ones, as the other side works on it, until it
//!   is answered or, if it is revocable, taken back.
//! - If all places are taken by calls that nobody waits for any more, the connection is given up; never while
//!   somebody waits.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncWrite, split},
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use super::{
    Shared, Stream,
    frame::{Accepted, Frame, FrameError, FrameReader, Kind, Outgoing, Refusal, Side},
    limits::{BATCH_BYTES, IDLE_TIME_MAX, SILENCE_MAX, UNANSWERED_BYTES_MAX, unanswered_max},
    link::{Link, Outcome, Taken},
    meter::{Meter, Patience, Watchdog},
};
use crate::internode::CallError;

/// How a connection ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Whether the other side ever said anything after the handshake.
    pub(crate) was_heard: bool,
    /// What was wrong; `None` for an end that is nothing to write home about.
    pub(crate) trouble: Option<String>,
}

/// The calls a connection has taken.
#[derive(Debug, Default)]
struct Calls(Mutex<Unanswered>);

#[derive(Debug, Default)]
struct Unanswered {
    calls: HashMap<u64, Call>,
    /// The calls and those about to be among them.
    places: usize,
    /// The bytes of their requests.
    bytes: usize,
}

#[derive(Debug)]
struct Call {
    outcome: oneshot::Sender<Outcome>,
    revocable: bool,
    bytes: usize,
    /// Its place in all the bytes of the connection. Once more than these were handed over, some of its own
    /// may arrive.
    begins_at: u64,
}

/// What the two halves of a connection share.
#[derive(Debug)]
struct Halves<'a> {
    shared: &'a Arc<Shared>,
    link: &'a Link,
    calls: &'a Calls,
    meter: &'a Meter,
    /// Told when an answer made room, or a ping is due.
    room: &'a Notify,
    ping_is_due: &'a AtomicBool,
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// Nobody needs it.
    Idle,
    /// The other side closed it, or it broke.
    Lost(String),
    /// It is closed because of what the other side does, or does not do.
    Dropped(String),
}

/// Carries calls of the link over a fresh connection until that ends.
pub(crate) async fn carry(shared: &Arc<Shared>, link: &Link, stream: Box<dyn Stream>) -> Ended {
    let meter = Meter::new(shared.counters.lane(link.lane).clone());
    let (calls, room, ping_is_due) = (Calls::default(), Notify::new(), AtomicBool::new(false));
    let (source, sink) = split(stream);
    let halves = Halves {
        shared,
        link,
        calls: &calls,
        meter: &meter,
        room: &room,
        ping_is_due: &ping_is_due,
    };
    let patience = Patience { silence: SILENCE_MAX, sending_is_life: true };
    let watchdog = Watchdog::new(&meter, patience).with_pings(&ping_is_due, &room);
    let end = tokio::select! {
        end = halves.read(source) => end,
        end = halves.write(sink) => end,
        reason = watchdog.watch() => End::Dropped(reason),
    };
    let (reason, trouble) = match end {
        End::Idle => ("it was idle".to_owned(), None),
        End::Lost(reason) => (reason, None),
        End::Dropped(reason) => (reason.clone(), Some(reason)),
    };
    calls.fail_all(&format!("{}: {reason}", link.to), meter.sent_total());
    Ended { was_heard: meter.has_received(), trouble }
}

impl Halves<'_> {
    async fn read(&self, source: impl AsyncRead + Unpin) -> End {
        let accepted =
            Accepted { side: Side::Dialler, payload_bytes_max: self.link.lane.request_bytes_max() };
        let mut reader = FrameReader::new(source, accepted);
        loop {
            let frame = match reader.next(self.meter).await {
                Ok(frame) => frame,
                Err(error @ (FrameError::Closed | FrameError::Broken(_))) => {
                    return End::Lost(error.to_string());
                }
                Err(error @ (FrameError::Nonsense(_) | FrameError::TooLong { .. })) => {
                    return End::Dropped(error.to_string());
                }
            };
            match frame.kind {
                Kind::Answer => self.calls.finish(frame.call, Ok(frame.payload)),
                Kind::Refusal => {
                    let (refusal, reason) = frame.refused();
                    let reason = format!("{}: {reason}", self.link.to);
                    let error = match refusal {
                        Refusal::NotBegun => CallError::NotSent(reason),
                        Refusal::Begun => CallError::Unanswered(reason),
                    };
                    self.calls.finish(frame.call, Err(error));
                }
                Kind::Pong | Kind::Ping | Kind::Request | Kind::Cancel => continue,
            }
            self.room.notify_one();
        }
    }

    async fn write(&self, mut sink: impl AsyncWrite + Unpin) -> End {
        let mut outgoing = Outgoing::default();
        let mut last_call_at = Instant::now();
        let mut given_up = self.link.given_up.subscribe();
        loop {
            let gathered = self.gather(&mut outgoing, &mut last_call_at, &mut given_up);
            if let Some(end) = gathered.await {
                return end;
            }
            if let Err(error) = outgoing.write_to(&mut sink, self.meter).await {
                return End::Lost(format!("the connection broke: {error}"));
            }
        }
    }

    /// Waits for something to send, or for a reason to end the connection.
    async fn gather(
        &self,
        outgoing: &mut Outgoing,
        last_call_at: &mut Instant,
        given_up: &mut watch::Receiver<()>,
    ) -> Option<End> {
        loop {
            if given_up.has_changed().unwrap_or(false) {
                given_up.mark_unchanged();
                for call in self.calls.take_back() {
                    outgoing.push(Frame::cancel(call));
                }
            }
            let mut taken = Vec::new();
            let (idle, is_unused, is_stuck) = {
                let mut unanswered = self.calls.lock();
                let mut batch_bytes = 0;
                let limit = unanswered_max(self.link.lane);
                let idle = self.link.take(
                    self.shared,
                    |bytes| unanswered.reserve(&mut batch_bytes, bytes, limit),
                    &mut taken,
                );
                let is_stuck = idle.is_none() && taken.is_empty() && unanswered.is_given_up();
                (idle, unanswered.places == 0, is_stuck)
            };
            if self.ping_is_due.swap(false, Ordering::Relaxed) {
                outgoing.push(Frame::empty(Kind::Ping));
            }
            for call in taken {
                let begins_at = self.meter.sent_total() + outgoing.len() as u64;
                outgoing.push(self.calls.add(call, begins_at));
            }
            if !is_unused {
                *last_call_at = Instant::now();
            }
            if outgoing.len() > 0 {
                return None;
            }
            if is_stuck {
                return Some(End::Dropped("too many calls were never answered".to_owned()));
            }
            // Pings keep this loop turning.
            if is_unused && last_call_at.elapsed() >= IDLE_TIME_MAX {
                return Some(End::Idle);
            }
            tokio::select! {
                () = self.link.ready.notified(), if idle.is_some() => {}
                () = self.room.notified() => {}
                _ = given_up.changed() => given_up.mark_changed(),
            }
        }
    }
}

impl Calls {
    /// Notes a call for which a place was reserved, and gives its frame.
    fn add(&self, taken: Taken, begins_at: u64) -> Frame {
        let Taken { call, request, revocable, outcome } = taken;
        self.lock()
            .calls
            .insert(call, Call { outcome, revocable, bytes: request.len(), begins_at });
        Frame { kind: Kind::Request, call, payload: request }
    }

    /// Gives a call its outcome. An answer to no call is ignored: nobody can be misled by it.
    fn finish(&self, call: u64, outcome: Outcome) {
        let mut unanswered = self.lock();
        let Some(call) = unanswered.calls.remove(&call) else { return };
        unanswered.places -= 1;
        unanswered.bytes -= call.bytes;
        drop(unanswered);
        // The caller may have given up.
        drop(call.outcome.send(outcome));
    }

    /// Gives up the places of all revocable calls that nobody waits for, and names them.
    fn take_back(&self) -> Vec<u64> {
        let mut unanswered = self.lock();
        let is_abandoned = |call: &Call| call.revocable && call.outcome.is_closed();
        let abandoned: Vec<_> = unanswered.calls.extract_if(|_, call| is_abandoned(call)).collect();
        unanswered.places -= abandoned.len();
        unanswered.bytes -= abandoned.iter().map(|(_, call)| call.bytes).sum::<usize>();
        abandoned.into_iter().map(|(call, _)| call).collect()
    }

    /// Gives every call the outcome it has when the connection ends with so many bytes sent.
    fn fail_all(&self, reason: &str, sent: u64) {
        let mut unanswered = self.lock();
        for (_, call) in unanswered.calls.drain() {
            let error = if call.begins_at < sent {
                CallError::Unanswered(reason.to_owned())
            } else {
                CallError::NotSent(reason.to_owned())
            };
            drop(call.outcome.send(Err(error)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Unanswered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unanswered {
    /// Reserves a place for a call, if there is one and the batch is not large enough already.
    fn reserve(&mut self, batch_bytes: &mut usize, bytes: usize, places_max: usize) -> bool {
        let is_over = self.bytes.saturating_add(bytes) > UNANSWERED_BYTES_MAX && self.places > 0;
        if is_over || self.places >= places_max || *batch_bytes >= BATCH_BYTES {
            return false;
        }
        self.places += 1;
        self.bytes += bytes;
        *batch_bytes += bytes;
        true
    }

    /// Whether there are calls, and nobody waits for any of them.
    fn is_given_up(&self) -> bool {
        !self.calls.is_empty() && self.calls.values().all(|call| call.outcome.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn only_calls_of_which_a_byte_was_handed_over_may_have_arrived() {
        // Three calls of a hundred bytes, one behind the other.
        let outcomes_after = |sent| {
            let calls = Calls::default();
            let receivers = [1, 2, 3].map(|call| {
                let (outcome, receiver) = oneshot::channel();
                calls.add(
                    Taken { call, request: Bytes::new(), revocable: false, outcome },
                    (call - 1) * 100,
                );
                receiver
            });
            calls.fail_all("gone", sent);
            receivers.map(|mut receiver| match receiver.try_recv().unwrap() {
                Err(CallError::NotSent(_)) => false,
                Err(CallError::Unanswered(_)) => true,
                Ok(answer) => panic!("{answer:?}"),
            })
        };
        assert_eq!(outcomes_after(0), [false, false, false]);
        assert_eq!(outcomes_after(1), [true, false, false]);
        assert_eq!(outcomes_after(100), [true, false, false]);
        assert_eq!(outcomes_after(101), [true, true, false]);
        assert_eq!(outcomes_after(300), [true, true, true]);
    }

    #[test]
    fn places_and_bytes_are_bounded_but_one_call_of_any_size_is_taken() {
        let reserve = |unanswered: &mut Unanswered, bytes| unanswered.reserve(&mut 0, bytes, 3);
        let mut unanswered = Unanswered::default();
        assert!(reserve(&mut unanswered, UNANSWERED_BYTES_MAX * 2));
        assert!(!reserve(&mut unanswered, 0));
        let mut unanswered = Unanswered::default();
        assert!(reserve(&mut unanswered, 1));
        assert!(!reserve(&mut unanswered, UNANSWERED_BYTES_MAX));
        assert!(reserve(&mut unanswered, UNANSWERED_BYTES_MAX - 1));
        assert!(reserve(&mut unanswered, 0));
        assert!(!reserve(&mut unanswered, 0), "three places");
        let mut batch_bytes = 0;
        let mut unanswered = Unanswered::default();
        assert!(unanswered.reserve(&mut batch_bytes, BATCH_BYTES, 3));
        assert!(!unanswered.reserve(&mut batch_bytes, 0, 3), "the batch is full");
    }
}
