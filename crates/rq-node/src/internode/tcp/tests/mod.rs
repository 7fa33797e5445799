//! Real sockets on loopback: two networks, an answerer that can be told how to behave, and strangers.

mod calls;
mod failures;
mod frames;
mod secure;
mod strangers;

use std::{
    collections::HashMap,
    fmt::Display,
    future::pending,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

use super::{TcpNetwork, TcpOptions};
use crate::internode::{Answerer, Call, CallError, Lane, Network as _};

/// More than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// What an answerer saw, and how it behaves. The first word of a request says what to do with it.
#[derive(Debug)]
struct Recorder {
    /// The requests, in the order in which they were first polled.
    seen: Mutex<Vec<(Lane, Bytes)>>,
    /// What requests beginning with `wait` need one permit of.
    gate: Semaphore,
    /// Held by each request that is being answered.
    at_work: Arc<()>,
}

impl Recorder {
    fn new() -> Arc<Self> {
        Arc::new(Self { seen: Mutex::default(), gate: Semaphore::new(0), at_work: Arc::default() })
    }

    /// How many requests are being answered.
    fn under_way(&self) -> usize {
        Arc::strong_count(&self.at_work) - 1
    }

    /// How often each request was seen.
    fn counts(&self) -> HashMap<Bytes, usize> {
        let mut counts = HashMap::new();
        for (_, request) in self.seen.lock().unwrap().iter() {
            *counts.entry(request.clone()).or_default() += 1;
        }
        counts
    }

    fn seen(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// An answerer that shares its recorder with the test.
struct Recording(Arc<Recorder>);

impl Answerer for Recording {
    fn answer(&self, lane: Lane, request: Bytes) -> BoxFuture<'static, Bytes> {
        let recorder = Arc::clone(&self.0);
        Box::pin(async move {
            let _at_work = Arc::clone(&recorder.at_work);
            recorder.seen.lock().unwrap().push((lane, request.clone()));
            if request.starts_with(b"wait") {
                recorder.gate.acquire().await.unwrap().forget();
            } else if request.starts_with(b"never") {
                pending::<()>().await;
            } else if request.starts_with(b"huge") {
                return Bytes::from(vec![0; lane.request_bytes_max() + 1]);
            } else if request.starts_with(b"close") {
                sleep(Duration::from_millis(200)).await;
            }
            request
        })
    }
}

async fn network(options: TcpOptions) -> Arc<TcpNetwork> {
    TcpNetwork::bind(&["127.0.0.1:0".to_owned()], options).await.unwrap()
}

/// A network with an answerer.
async fn node(options: TcpOptions) -> (Arc<TcpNetwork>, Arc<Recorder>) {
    let (network, recorder) = (network(options).await, Recorder::new());
    network.listen(Some(Arc::new(Recording(Arc::clone(&recorder)))));
    (network, recorder)
}

fn call(to: impl Display, lane: Lane, request: impl Into<Bytes>, timeout: Duration) -> Call {
    Call { to: to.to_string(), lane, request: request.into(), timeout, revocable: false }
}

/// What the log of a network said about others.
fn said(network: &TcpNetwork) -> Vec<String> {
    network.shared.notices.said()
}

/// Waits until the log says something.
async fn eventually_says(network: &TcpNetwork, text: &str) {
    for _ in 0..3000 {
        if said(network).iter().any(|line| line.contains(text)) {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{text:?} is not among {:?}", said(network));
}

/// A small generator of numbers that look random (xorshift).
struct Numbers(u64);

impl Numbers {
    /// Seeded by the environment or the clock; prints the seed.
    fn new() -> Self {
        let seed = match std::env::var("RQ_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => RandomState::new().hash_one("seed") >> 32,
        };
        println!("RQ_SEED={seed}");
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 32).unwrap() % end
    }
}

/// Waits until something is so; fails the test if it never is.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn not_sent(outcome: &Result<Bytes, CallError>) -> bool {
    matches!(outcome, Err(CallError::NotSent(_)))
}

fn unanswered(outcome: &Result<Bytes, CallError>) -> bool {
    matches!(outcome, Err(CallError::Unanswered(_)))
}

/// An address where nobody listens.
async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}
