//! The network of a schedule: delays, losses, doubles and reorders calls by chance, and watches what is said.
//!
//! What the real network promises holds here too: calls on [`Lane::Append`] overtake each other only when a
//! connection was lost in between, [`CallError::NotSent`] means that nothing arrived, and what may have an effect is
//! never delivered twice. Raft itself must bear doubles, so its calls are sometimes doubled.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{
        pause::{Pause, held},
        watch,
        world::World,
    },
    trace::Trace,
    witness::Witness,
};
use crate::{
    environment::Seeded,
    internode::{Answerer, Call, CallError, Lane, Network},
    progress::lock,
    service::RAFT,
};

/// A connection on which nothing is heard for so long is lost, and its calls with it.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What the network does to calls, each in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    /// The longest way, in milliseconds.
    pub(super) delay_ms: u64,
    /// Requests lost, and as many answers.
    pub(super) lost: u64,
    /// Raft's calls delivered twice.
    pub(super) doubled: u64,
    /// Calls whose connection is lost: later ones may overtake them.
    pub(super) broken: u64,
}

/// One life of a node's process, as the network sees it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) pause: Arc<Pause>,
    world: Arc<World>,
    over: watch::Sender<bool>,
}

impl Host {
    pub(super) fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self { pause: Arc::default(), world, over: watch::Sender::new(false) })
    }

    /// The process ends: nothing it would still say or hear matters.
    pub(super) fn end(&self) {
        self.over.send_replace(true);
        self.pause.set(false);
    }

    /// Whether nothing that happens in it counts any more.
    pub(super) fn is_over(&self) -> bool {
        *self.over.borrow() || self.world.has_stopped()
    }

    /// Runs something in this process; `None` if it ended first.
    pub(super) async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut over = self.over.subscribe();
        let result = tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => None,
            result = held(&self.pause, work) => Some(result),
        };
        result.filter(|_| !self.is_over())
    }
}

/// The network; clones are the same.
#[derive(Clone)]
pub(super) struct Air {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

struct State {
    chance: Seeded,
    weather: Weather,
    stations: BTreeMap<String, Station>,
    cut: BTreeSet<(String, String)>,
    /// When the last call on a lane that keeps order arrives.
    last: BTreeMap<(String, String), Instant>,
    /// Held by the call that is about to be begun, on a lane that keeps order.
    turns: BTreeMap<(String, String), Arc<tokio::sync::Mutex<()>>>,
    witness: Witness,
}

/// The process at an address, and who answers there.
type Station = (Arc<Host>, Option<Arc<dyn Answerer>>);

/// One node's side of the network.
struct Line {
    air: Air,
    own: String,
    host: Arc<Host>,
}

/// What becomes of a call.
struct Plan {
    /// When it arrives; `None` for never.
    arrives: Option<Instant>,
    /// When it arrives once more.
    again: Option<Instant>,
    /// How long the answer takes; `None` if it is lost.
    back: Option<Duration>,
    /// When a loss is noticed, if it is before the time is up.
    noticed: Duration,
    /// Whether a request that does not arrive is known not to have left.
    refused: bool,
}

/// How a call on its way ends, for the sender.
enum Way {
    Answered(Bytes),
    Refused,
}

impl Air {
    pub(super) fn new(seed: u64, trace: Trace) -> Self {
        let state = State {
            chance: Seeded::new(seed, 0),
            weather: Weather::default(),
            stations: BTreeMap::new(),
            cut: BTreeSet::new(),
            last: BTreeMap::new(),
            turns: BTreeMap::new(),
            witness: Witness::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), trace }
    }

    /// The line of a process that begins at this address.
    pub(super) fn line(&self, own: &str, host: &Arc<Host>) -> Arc<dyn Network> {
        lock(&self.state).stations.insert(own.to_owned(), (Arc::clone(host), None));
        Arc::new(Line { air: self.clone(), own: own.to_owned(), host: Arc::clone(host) })
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        lock(&self.state).weather = weather;
    }

    /// Loses everything from one address to another.
    pub(super) fn cut(&self, from: &str, to: &str) {
        lock(&self.state).cut.insert((from.to_owned(), to.to_owned()));
    }

    /// Connects everybody again, in good weather.
    pub(super) fn heal(&self) {
        let mut state = lock(&self.state);
        state.cut.clear();
        state.weather = Weather { delay_ms: 2, ..Weather::default() };
    }

    /// What was seen of Raft.
    pub(super) fn witness<T>(&self, look: impl FnOnce(&mut Witness) -> T) -> T {
        look(&mut lock(&self.state).witness)
    }

    fn plan(&self, from: &str, call: &Call) -> Plan {
        let mut state = lock(&self.state);
        let State { chance, weather, cut, last, stations, witness, turns: _ } = &mut *state;
        let happens = |thousandths: u64| chance.next() % 1000 < thousandths;
        let takes = || Duration::from_millis(1 + chance.next() % weather.delay_ms.max(1));
        witness.called(from, &call.request);
        let way = (from.to_owned(), call.to.clone());
        let is_cut = cut.contains(&way);
        let now = Instant::now();
        let mut arrives = now + takes();
        // Whose connection breaks may arrive behind later ones, but no answer comes back.
        let broken = happens(weather.broken);
        if call.lane == Lane::Append && !broken {
            let before = last.entry(way).or_insert(now);
            arrives = arrives.max(*before);
            *before = arrives;
        }
        let is_raft = call.request.first() == Some(&RAFT);
        let nobody = stations.get(&call.to).is_none_or(|(host, _)| host.is_over());
        Plan {
            arrives: (!is_cut && !happens(weather.lost)).then_some(arrives),
            again: (is_raft && happens(weather.doubled)).then(|| arrives + takes() * 10),
            back: (!broken && !happens(weather.lost)).then(takes),
            noticed: if happens(500) { takes() * 10 } else { SILENCE_MAX },
            // A connection that was not there yet cannot have carried anything.
            refused: nobody || happens(300),
        }
    }

    fn turn(&self, from: &str, to: &str) -> Arc<tokio::sync::Mutex<()>> {
        let way = (from.to_owned(), to.to_owned());
        Arc::clone(lock(&self.state).turns.entry(way).or_default())
    }

    /// Lets a request arrive, and gives the answer once it was made.
    async fn deliver(self, from: String, to: String, lane: Lane, request: Bytes) -> Option<Way> {
        let (host, answerer) = {
            let state = lock(&self.state);
            if state.cut.contains(&(from.clone(), to.clone())) {
                return None;
            }
            match state.stations.get(&to) {
                Some((host, Some(answerer))) if !host.is_over() => {
                    (Arc::clone(host), Arc::clone(answerer))
                }
                _ => return Some(Way::Refused),
            }
        };
        self.trace.note(|| format!("{from} > {to} {lane:?} arrives"));
        let mut answer = answerer.answer(lane, request.clone());
        let mut turn = match lane {
            Lane::Append => Some(self.turn(&from, &to).lock_owned().await),
            _ => None,
        };
        // A node that stood still begins the calls it finds before those that come in while it wakes up.
        let begun = poll_fn(move |context| {
            let polled = answer.as_mut().poll(context);
            drop(turn.take());
            polled
        });
        let answer = host.run(begun).await?;
        drop(answerer);
        let mut state = lock(&self.state);
        state.witness.answered(&to, &request, &answer);
        (!state.cut.contains(&(to, from))).then_some(Way::Answered(answer))
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({})", self.own)
    }
}

impl Network for Line {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let (air, own, host) = (self.air.clone(), self.own.clone(), Arc::clone(&self.host));
        Box::pin(async move {
            if host.is_over() {
                tokio::time::sleep(call.timeout.min(Duration::from_secs(1))).await;
                return Err(CallError::NotSent("this process is dead".to_owned()));
            }
            let plan = air.plan(&own, &call);
            let Call { to, lane, request, timeout, revocable: _ } = call;
            air.trace.note(|| {
                let sum = crc32c::crc32c(&request);
                format!("{own} > {to} {lane:?} {} {sum:08x}", request.len())
            });
            let given_up = Instant::now() + timeout;
            let noticed = Instant::now() + plan.noticed.min(timeout);
            if let Some(again) = plan.again.filter(|_| plan.arrives.is_some()) {
                let (air, own, to) = (air.clone(), own.clone(), to.clone());
                let request = request.clone();
                tokio::spawn(async move {
                    tokio::time::sleep_until(again).await;
                    air.deliver(own, to, lane, request).await
                });
            }
            let way = match plan.arrives {
                None => {
                    tokio::time::sleep_until(noticed).await;
                    plan.refused.then_some(Way::Refused)
                }
                Some(arrives) => {
                    let on_its_way =
                        air.clone().carry(plan, arrives, (own.clone(), to.clone()), lane, request);
                    tokio::time::timeout_at(given_up, on_its_way).await.ok().flatten()
                }
            };
            let (told, result) = match way {
                Some(Way::Answered(answer)) => ("answered", Ok(answer)),
                Some(Way::Refused) => {
                    ("refused", Err(CallError::NotSent("connection refused".to_owned())))
                }
                None => {
                    tokio::time::sleep_until(noticed.min(given_up)).await;
                    ("lost", Err(CallError::Unanswered("no answer".to_owned())))
                }
            };
            air.trace.note(|| format!("{own} > {to} {lane:?} {told}"));
            result
        })
    }

    fn listen(&self, answerer: Option<Arc<dyn Answerer>>) {
        let mut state = lock(&self.air.state);
        if let Some((host, place)) = state.stations.get_mut(&self.own)
            && Arc::ptr_eq(host, &self.host)
        {
            *place = answerer;
        }
    }
}

impl Air {
    /// Carries a request there and its answer back. The other side goes on if nobody waits any more.
    async fn carry(
        self,
        plan: Plan,
        arrives: Instant,
        (from, to): (String, String),
        lane: Lane,
        request: Bytes,
    ) -> Option<Way> {
        let (done, end) = oneshot::channel();
        tokio::spawn(async move {
            tokio::time::sleep_until(arrives).await;
            let way = self.deliver(from, to, lane, request).await;
            if let Some(back) = plan.back {
                tokio::time::sleep(back).await;
                // The sender may have given up.
                drop(done.send(way));
            }
        });
        end.await.ok().flatten()
    }
}
