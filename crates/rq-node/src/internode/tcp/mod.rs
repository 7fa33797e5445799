//! The real network: frames over TCP or TLS, on one port.
//!
//! # The walk of a call
//! 1. [`TcpNetwork::call`](Network::call) puts it into the queue of its `link`, one for each address and
//!    lane, in the order of the calls themselves.
//! 2. A `connection` of that link takes it, made by `dial` and introduced by `hello` if there is none.
//! 3. Its bytes travel as a `frame`; `serve` on the other side gives them to the answerer.
//! 4. The answer comes back under the call's number, in whatever order.
//!
//! # Invariants
//! - A call is written at most once. "Not sent" is said only if no byte of it was handed to the socket.
//! - Nothing that comes in is believed: lengths are checked before memory is taken, and that grows with what
//!   really came. Times and counts of everything a stranger can occupy are in `limits`.
//! - No lock is held across anything that waits.

mod link;

mod connection;
mod dial;
mod serve;

mod frame;
mod hello;
mod tls;

pub(crate) mod fuzzing;

mod counters;
mod limits;
mod meter;
mod notices;
mod options;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

pub use self::options::{TcpOptions, TcpTls};
use self::{
    counters::Counters,
    dial::{Resolve, SystemResolver},
    limits::LINKS_REMEMBERED,
    link::{Link, Ticket},
    notices::Notices,
    serve::Admissions,
};
use super::{Answerer, Call, CallError, Lane, Network};
use crate::CounterMaps;

/// Longer than any call takes; stands for a deadline that cannot be told.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Why the internode port cannot be opened.
#[derive(Debug, Error)]
pub enum BindError {
    /// No candidate can be listened on; the reason is that of the last one.
    #[error("{0}")]
    Listen(#[source] io::Error),
}

/// The network of a node that has others.
///
/// It accepts connections from its start on. Until an answerer is there, calls are refused in a way that their
/// callers know were not carried out.
pub struct TcpNetwork {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// What all tasks of a network share.
struct Shared {
    options: TcpOptions,
    resolver: Arc<dyn Resolve>,
    answerer: RwLock<Option<Arc<dyn Answerer>>>,
    links: Mutex<HashMap<(String, Lane), Arc<Link>>>,
    admissions: Admissions,
    counters: Counters,
    notices: Notices,
    runtime: Handle,
    /// Becomes true once, at the end.
    stop: watch::Sender<bool>,
}

/// A connection, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl TcpNetwork {
    /// Listens on the first of the candidates (`host:port`) that can be listened on, and starts accepting.
    ///
    /// To be called within a Tokio runtime with time and I/O, which carries everything from then on.
    ///
    /// # Errors
    /// Fails if none can be listened on.
    pub async fn bind(candidates: &[String], options: TcpOptions) -> Result<Arc<Self>, BindError> {
        let mut failure = io::Error::other("there is nothing to listen on");
        for candidate in candidates {
            match TcpListener::bind(candidate).await {
                Ok(listener) => return Self::start(listener, options),
                Err(error) => failure = error,
            }
        }
        Err(BindError::Listen(failure))
    }

    /// The same with a listener that is there already.
    ///
    /// # Errors
    /// Fails if the listener has no address.
    pub fn start(listener: TcpListener, options: TcpOptions) -> Result<Arc<Self>, BindError> {
        Self::start_with(listener, options, Arc::new(SystemResolver))
    }

    fn start_with(
        listener: TcpListener,
        options: TcpOptions,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Arc<Self>, BindError> {
        let local_addr = listener.local_addr().map_err(BindError::Listen)?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            options,
            resolver,
            answerer: RwLock::new(None),
            links: Mutex::default(),
            admissions: Admissions::default(),
            counters: Counters::default(),
            notices: Notices::default(),
            runtime: Handle::current(),
            stop,
        });
        let accepting = tokio::spawn(serve::accept(listener, Arc::clone(&shared), stopped));
        Ok(Arc::new(Self { shared, local_addr, accepting: Mutex::new(Some(accepting)) }))
    }

    /// Gives the address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Gives everything counted, under the names of `/debug/vars`: the maps `mux` and `cluster`.
    pub fn counters(&self) -> CounterMaps {
        let fetched = self.shared.options.tls.as_ref().map_or(0, |tls| tls.server.counts().fetched);
        self.shared.counters.maps(fetched)
    }

    /// Stops: new calls fail unsent, no connection is accepted, no request is read any more. Requests being
    /// answered have the grace to end and their answers to leave, then everything is closed. The port is
    /// free afterwards. Does nothing the second time.
    pub async fn close(&self, grace: Duration) {
        self.shared.stop.send_replace(true);
        let accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut accepting) = accepting
            && timeout(grace, &mut accepting).await.is_err()
        {
            accepting.abort();
            // Cancelled is what it is meant to be.
            drop(accepting.await);
        }
    }
}

impl Network for TcpNetwork {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let now = Instant::now();
        let deadline = now.checked_add(call.timeout).unwrap_or_else(|| now + FOR_EVER);
        // Here and not in the future, so that the order of calls does not depend on who polls first.
        let ticket = self.submit(call);
        Box::pin(async move { ticket?.outcome(deadline).await })
    }

    fn resolve(&self, address: &str) -> BoxFuture<'static, Result<(), String>> {
        dial::resolve(&*self.shared.resolver, address)
    }

    fn listen(&self, answerer: Option<Arc<dyn Answerer>>) {
        *self.shared.answerer.write().unwrap_or_else(PoisonError::into_inner) = answerer;
    }
}

impl TcpNetwork {
    fn submit(&self, call: Call) -> Result<Ticket, CallError> {
        let Call { to, lane, request, timeout: _, revocable } = call;
        if *self.shared.stop.borrow() {
            return Err(CallError::NotSent(format!("{to}: this node is stopping")));
        }
        let max = lane.request_bytes_max();
        if request.len() > max {
            let length = request.len();
            let reason = format!("{to}: a request of {length} bytes, at most {max} can be sent");
            return Err(CallError::NotSent(reason));
        }
        self.shared.counters.lane(lane).calls.add(1);
        let mut links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() > LINKS_REMEMBERED {
            links.retain(|_, link| !link.is_unused());
        }
        let link = links.entry((to.clone(), lane)).or_insert_with(|| Link::new(to, lane));
        link.submit(&self.shared, request, revocable)
    }
}

impl Drop for TcpNetwork {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
    }
}

impl fmt::Debug for TcpNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TcpNetwork")
            .field("local_addr", &self.local_addr)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn answerer(&self) -> Option<Arc<dyn Answerer>> {
        self.answerer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}
