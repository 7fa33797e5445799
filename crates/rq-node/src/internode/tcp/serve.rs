//! The accepting side: connections in, calls out to the answerer.
//!
//! - A connection is nobody's until its handshake is complete; until then it has a few seconds and costs a few
//!   hundred bytes.
//! - Calls on one connection are begun in the order in which they came: each answer is polled once before
//!   the next call is looked at.
//! - What one connection can make this node hold is bounded: calls, their bytes, and the time of each state.
//! - A connection that ends takes its unfinished calls with it, and so does a call that is taken back.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, split},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet, coop::unconstrained},
    time::{sleep, timeout},
};

use super::{
    Shared, Stream, dial,
    frame::{Accepted, Frame, FrameError, FrameReader, Kind, Outgoing, Refusal, Side},
    hello::{self, Rejection},
    limits::{
        ACCEPT_PAUSE, ACCEPTED_SILENCE_MAX, BATCH_BYTES, FAREWELL_TIME_MAX, HANDSHAKE_TIME_MAX,
        HANDSHAKES_MAX, UNANSWERED_BYTES_MAX, accepted_max, unanswered_max,
    },
    meter::{Meter, Patience, Watchdog},
    tls,
};
use crate::internode::Lane;

/// Room for answers beyond the calls a connection may have: pongs.
const PONGS_MAX: usize = 8;

/// The connections being served, by lane.
#[derive(Debug, Default)]
pub(crate) struct Admissions([AtomicUsize; 4]);

/// One place among the connections of a lane, for as long as it exists.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    lane: Lane,
}

/// Connections in their handshake, oldest first.
#[derive(Debug, Default)]
struct Newcomers {
    next: u64,
    waiting: VecDeque<(u64, AbortHandle)>,
}

/// Why a served connection ends.
#[derive(Debug)]
enum End {
    /// The other side closed it, or it broke.
    Lost,
    /// The other side does not keep to the protocol.
    Dropped(String),
}

/// An answer on its way, with the room it occupies until it is written.
type Answer = (Frame, Option<Room>);

/// A call's share of what its connection may occupy.
#[derive(Debug)]
struct Room {
    _call: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// Accepts connections until told to stop, and ends when the last of them has.
pub(crate) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let newcomers = Arc::new(Mutex::new(Newcomers::default()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|is_stopping| *is_stopping) => break,
        };
        match accepted {
            Ok((socket, peer)) => {
                shared.counters.accepted.add(1);
                admit(&mut connections, &newcomers, &shared, socket, peer);
            }
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                shared.notices.trouble(&format!("accepting connections pauses: {error}"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Whether an error of `accept` concerns a connection that has gone, not the listener.
fn is_of_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Begins the handshake of a new connection, at the cost of the oldest one if there are too many.
fn admit(
    connections: &mut JoinSet<()>,
    newcomers: &Arc<Mutex<Newcomers>>,
    shared: &Arc<Shared>,
    socket: TcpStream,
    peer: SocketAddr,
) {
    let mut waiting = newcomers.lock().unwrap_or_else(PoisonError::into_inner);
    if waiting.waiting.len() >= HANDSHAKES_MAX
        && let Some((_, oldest)) = waiting.waiting.pop_front()
    {
        oldest.abort();
        shared.counters.rejected.add(1);
        shared.notices.trouble("too many connections at once have not said who they are");
    }
    let number = waiting.next;
    waiting.next += 1;
    let task = {
        let (shared, newcomers) = (Arc::clone(shared), Arc::clone(newcomers));
        async move {
            // From then on it is told that it is welcome, and may not be sent away for others.
            let admitted = || forget(&newcomers, number);
            let hands = shake_hands(&shared, socket, admitted);
            let handshake = timeout(HANDSHAKE_TIME_MAX, hands).await;
            forget(&newcomers, number);
            match handshake {
                Ok(Ok((stream, place))) => serve(&shared, stream, peer, place).await,
                Ok(Err(rejection)) => rejected(&shared, peer, &rejection),
                Err(_) => {
                    shared.counters.handshakes_failed.add(1);
                    shared.notices.refused(peer, "it took too long to say who it is");
                }
            }
        }
    };
    let handle = connections.spawn(task);
    waiting.waiting.push_back((number, handle));
}

/// Notes that a handshake is over.
fn forget(newcomers: &Mutex<Newcomers>, number: u64) {
    let mut newcomers = newcomers.lock().unwrap_or_else(PoisonError::into_inner);
    newcomers.waiting.retain(|(other, _)| *other != number);
}

fn rejected(shared: &Shared, peer: SocketAddr, rejection: &Rejection) {
    shared.counters.handshakes_failed.add(1);
    match rejection {
        Rejection::Stranger(_) => shared.counters.strangers.add(1),
        Rejection::Refused(hello::Verdict::Busy) => shared.counters.rejected.add(1),
        Rejection::Refused(_) | Rejection::Tls(_) => {}
        // Somebody who looks whether the port is open does so often.
        Rejection::Gone => {
            tracing::debug!(component = "mux", "{peer}: {rejection}");
            return;
        }
    }
    shared.notices.refused(peer, &rejection.to_string());
}

async fn shake_hands(
    shared: &Arc<Shared>,
    socket: TcpStream,
    admitted: impl FnOnce(),
) -> Result<(Box<dyn Stream>, Place), Rejection> {
    dial::prepare(&socket);
    let secrets = shared.options.secret.as_ref().map(|secret| secret.keys());
    let (mut stream, binding) = tls::accept(shared.options.tls.as_ref(), socket).await?;
    let admit = |lane| Place::take(shared, lane).inspect(|_| admitted());
    match hello::receive(&mut stream, secrets.as_ref(), &binding, admit).await {
        Ok((_, place)) => Ok((stream, place)),
        Err(rejection) => {
            if matches!(rejection, Rejection::Refused(_)) {
                drop(timeout(FAREWELL_TIME_MAX, stream.shutdown()).await);
            }
            Err(rejection)
        }
    }
}

impl Place {
    fn take(shared: &Arc<Shared>, lane: Lane) -> Option<Self> {
        let count = shared.admissions.of(lane);
        let place = Self { shared: Arc::clone(shared), lane };
        // Dropping the place gives it back.
        (count.fetch_add(1, Ordering::Relaxed) < accepted_max(lane)).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.admissions.of(self.lane).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admissions {
    fn of(&self, lane: Lane) -> &AtomicUsize {
        let [control, append, service, bulk] = &self.0;
        match lane {
            Lane::Control => control,
            Lane::Append => append,
            Lane::Service => service,
            Lane::Bulk => bulk,
        }
    }
}

/// Serves one connection whose handshake is complete.
async fn serve(shared: &Arc<Shared>, stream: Box<dyn Stream>, peer: SocketAddr, place: Place) {
    let lane = place.lane;
    let meter = Meter::new(shared.counters.lane(lane).clone());
    let (source, sink) = split(stream);
    let (answers, to_write) = mpsc::channel(unanswered_max(lane) + PONGS_MAX);
    let patience = Patience { silence: ACCEPTED_SILENCE_MAX, sending_is_life: true };
    let ended = tokio::select! {
        ended = async {
            tokio::try_join!(
                read(shared, lane, source, answers, &meter),
                write(sink, to_write, &meter),
            )
        } => ended.map(|_| ()),
        reason = Watchdog::new(&meter, patience).watch() => Err(End::Dropped(reason)),
    };
    if let Err(End::Dropped(reason)) = ended {
        shared.counters.dropped.add(1);
        shared.notices.refused(peer, &reason);
    }
}

/// Reads calls and has them answered, until told to stop; then waits for the last answer.
async fn read(
    shared: &Shared,
    lane: Lane,
    source: impl AsyncRead + Unpin,
    answers: mpsc::Sender<Answer>,
    meter: &Meter,
) -> Result<(), End> {
    let mut stop = shared.stop.subscribe();
    let accepted = Accepted { side: Side::Accepter, payload_bytes_max: lane.request_bytes_max() };
    let mut reader = FrameReader::new(source, accepted);
    let calls = Arc::new(Semaphore::new(unanswered_max(lane)));
    let bytes = Arc::new(Semaphore::new(UNANSWERED_BYTES_MAX));
    let mut tasks = JoinSet::new();
    let mut under_way: HashMap<u64, AbortHandle> = HashMap::new();
    loop {
        let frame = tokio::select! {
            frame = reader.next(meter) => frame.map_err(|error| End::of(&error))?,
            _ = stop.wait_for(|is_stopping| *is_stopping) => break,
        };
        while tasks.try_join_next().is_some() {}
        let Frame { kind, call, payload } = frame;
        match kind {
            Kind::Request => {}
            Kind::Cancel => {
                // It may have been answered by now.
                if let Some(task) = under_way.remove(&call) {
                    task.abort();
                }
                continue;
            }
            Kind::Ping | Kind::Pong | Kind::Answer | Kind::Refusal => {
                send(&answers, (Frame::empty(Kind::Pong), None)).await?;
                continue;
            }
        }
        if under_way.len() > 2 * unanswered_max(lane) {
            under_way.retain(|_, task| !task.is_finished());
        }
        shared.counters.lane(lane).requests.add(1);
        let room = Room::take(&calls, &bytes, payload.len()).await;
        let answerer = shared.answerer();
        let Some(answerer) = answerer else {
            let reason = "it does not answer calls yet";
            let refusal = Frame::refusal(call, Refusal::NotBegun, reason);
            send(&answers, (refusal, Some(room))).await?;
            continue;
        };
        let mut answer = answerer.answer(lane, payload);
        // Without a budget that may be used up, so that this poll is a real one.
        match poll_fn(|context| Poll::Ready(unconstrained(&mut answer).poll_unpin(context))).await {
            Poll::Ready(answer) => {
                send(&answers, (answered(lane, call, answer), Some(room))).await?;
            }
            Poll::Pending => {
                let answers = answers.clone();
                let task = tasks.spawn(async move {
                    let frame = answered(lane, call, answer.await);
                    // If nobody takes it the connection is gone.
                    drop(answers.send((frame, Some(room))).await);
                });
                under_way.insert(call, task);
            }
        }
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn send(answers: &mpsc::Sender<Answer>, answer: Answer) -> Result<(), End> {
    answers.send(answer).await.map_err(|_| End::Lost)
}

/// Makes a frame of an answer. One that is too long cannot be sent, but the call was carried out.
fn answered(lane: Lane, call: u64, payload: Bytes) -> Frame {
    let max = lane.request_bytes_max();
    if payload.len() > max {
        let reason = format!("its answer has {} bytes, at most {max} can be sent", payload.len());
        return Frame::refusal(call, Refusal::Begun, &reason);
    }
    Frame { kind: Kind::Answer, call, payload }
}

/// Writes answers until there can be no more.
async fn write(
    mut sink: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Answer>,
    meter: &Meter,
) -> Result<(), End> {
    let mut outgoing = Outgoing::default();
    let mut occupied = Vec::new();
    while let Some((frame, room)) = answers.recv().await {
        outgoing.push(frame);
        occupied.extend(room);
        while outgoing.len() < BATCH_BYTES
            && let Ok((frame, room)) = answers.try_recv()
        {
            outgoing.push(frame);
            occupied.extend(room);
        }
        outgoing.write_to(&mut sink, meter).await.map_err(|_| End::Lost)?;
        occupied.clear();
    }
    drop(timeout(FAREWELL_TIME_MAX, sink.shutdown()).await);
    Ok(())
}

impl Room {
    /// Waits for room for one more call. One call of any size always finds it when it is alone.
    async fn take(calls: &Arc<Semaphore>, bytes: &Arc<Semaphore>, count: usize) -> Self {
        const NEVER_CLOSED: &str = "nobody closes these";
        let count = u32::try_from(count.min(UNANSWERED_BYTES_MAX)).unwrap_or(u32::MAX);
        let call = Arc::clone(calls).acquire_owned().await.expect(NEVER_CLOSED);
        let bytes = Arc::clone(bytes).acquire_many_owned(count).await.expect(NEVER_CLOSED);
        Self { _call: call, _bytes: bytes }
    }
}

impl End {
    fn of(error: &FrameError) -> Self {
        match error {
            FrameError::Closed | FrameError::Broken(_) => Self::Lost,
            FrameError::Nonsense(_) | FrameError::TooLong { .. } => {
                Self::Dropped(error.to_string())
            }
        }
    }
}
