//! The server's life: bind, accept, stop.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use jiff::Timestamp;
use rq_api::{duration::GoDuration, results::Room};
use rq_security::ClientCertificates;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    connection,
    metrics::Metrics,
    options::Options,
    queue::{Queue, Worker},
    respond::Envelope,
    service::Service,
    slot::NodeSlot,
    vitals::{Stage, Watch},
};

/// Connections the operating system keeps before they are accepted. Beyond: clients wait or are refused.
const BACKLOG: i32 = 4096;

/// Connections beyond the limit that are told so at one moment. Beyond: they are closed without a word.
const REFUSALS: usize = 256;

/// How long accepting pauses when the process is out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long clients that hold a connection are given to send one more request on it, whose answer tells them that it
/// is closed. Whoever sends while it is being closed does not learn what became of the request.
const FAREWELL_TIME: Duration = Duration::from_millis(300);

/// How long the answers to requests that did not end before a stop may take to go out.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why a server could not begin.
#[derive(Debug, Error)]
pub enum BindError {
    /// The address cannot be listened on.
    #[error("listen tcp {address}: {source}")]
    Listen {
        /// The address as configured.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// A configured value cannot be sent in a header.
    #[error("{0}")]
    Header(#[from] http::header::InvalidHeaderValue),
}

/// A server that holds its port but does not answer yet.
pub struct Bound {
    listener: TcpListener,
    local_addr: SocketAddr,
    envelope: Envelope,
    options: Options,
}

/// A running server. Dropping it does not stop it; see [`Server::stop`].
pub struct Server {
    service: Arc<Service>,
    watch: Arc<Watch>,
    stop_accepting: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    watching: JoinHandle<()>,
    queueing: JoinHandle<()>,
    looking: JoinHandle<()>,
}

/// Takes the port. Must be called within a tokio runtime.
///
/// # Errors
/// The address cannot be resolved or listened on; a configured value cannot be sent in a header.
pub async fn bind(options: Options) -> Result<Bound, BindError> {
    let listen = |source| BindError::Listen { address: options.listen.clone(), source };
    let envelope = Envelope::new(&options)?;
    let listener = listener(&options.listen).await.map_err(listen)?;
    let local_addr = listener.local_addr().map_err(listen)?;
    Ok(Bound { listener, local_addr, envelope, options })
}

impl Bound {
    /// The address really listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Begins to answer: with what can be said without a node, until the slot is filled.
    pub fn serve(self, slot: NodeSlot) -> Server {
        let Self { listener, local_addr, envelope, options } = self;
        tell(&options);
        let watch = Watch::new(&options.limits);
        let metrics = Arc::new(Metrics::default());
        let started_at = Timestamp::now();
        let epoch = u64::try_from(started_at.as_nanosecond()).unwrap_or_default();
        let (queue, worker) = Queue::new(options.queue, epoch, slot.clone(), Arc::clone(&metrics));
        let answers = Room::new(options.limits.results_bytes_max);
        let service = Arc::new(Service {
            options,
            envelope,
            metrics,
            slot,
            queue,
            quorum: Arc::default(),
            local_addr,
            started_at,
            started: Instant::now(),
            requests: AtomicUsize::new(0),
            questions: AtomicUsize::new(0),
            streams_unread: AtomicUsize::new(0),
            body_bytes: AtomicU64::new(0),
            answers,
            watch: Arc::clone(&watch),
        });
        let (stop_accepting, stopped) = watch::channel(false);
        Server {
            accepting: tokio::spawn(accept(
                listener,
                Arc::clone(&service),
                Arc::clone(&watch),
                stopped,
            )),
            watching: tokio::spawn(Arc::clone(&watch).run()),
            queueing: tokio::spawn(Worker::run(worker)),
            looking: tokio::spawn(look_for_the_missing(Arc::clone(&service))),
            service,
            watch,
            stop_accepting,
        }
    }
}

/// Asks the members who is there as soon as a request waits for a leader: when it is refused, that is to be known.
async fn look_for_the_missing(service: Arc<Service>) {
    service.slot.filled().await;
    let Some(node) = service.slot.get() else { return };
    loop {
        node.leader_missed().await;
        service.quorum.outlook(node, true);
    }
}

impl Server {
    /// The address really listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.service.local_addr
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.watch.count()
    }

    /// Stops: takes no connections any more, lets each end after the request it works on or the next one, works the
    /// queue of writes off; after `deadline` answers what is left with 503 and drops it. The node must still be running.
    ///
    /// Returns whether everything ended by itself.
    pub async fn stop(self, deadline: Duration) -> bool {
        self.stop_accepting.send_replace(true);
        self.watch.advance(Stage::Leaving);
        self.service.queue.hurry();
        let Self { service, watch, accepting, watching, mut queueing, looking, .. } = self;
        looking.abort();
        let graceful = async {
            drop(accepting.await);
            drop(tokio::time::timeout(FAREWELL_TIME, watch.all_gone()).await);
            watch.advance(Stage::Ending);
            watch.all_gone().await;
            // Only now, so that requests under way can still be queued.
            service.queue.close();
            drop((&mut queueing).await);
        };
        let ended = tokio::time::timeout(deadline, graceful).await.is_ok();
        if !ended {
            service.queue.close();
            watch.advance(Stage::Ending);
            // Whoever still waits is told that nobody knows, before the line goes dead.
            watch.time_out_all();
            drop(tokio::time::timeout(LAST_WORDS, watch.all_gone()).await);
            watch.close_all();
            queueing.abort();
            // Dropping a connection takes no longer than its task takes to be scheduled.
            drop(tokio::time::timeout(ACCEPT_PAUSE, watch.all_gone()).await);
        }
        watching.abort();
        ended
    }
}

/// Says in the log how the server runs, in lines that scripts look for.
fn tell(options: &Options) {
    if let Some(tls) = &options.tls {
        let files = tls.options();
        let clients = match &files.clients {
            ClientCertificates::NotAsked => "mutual TLS disabled".to_owned(),
            ClientCertificates::Required { authority, common_name } => {
                let authority =
                    authority.as_ref().map(|path| format!("CA cert {}, ", path.display()));
                let name =
                    common_name.as_ref().map(|name| format!(", required client CN {name:?}"));
                format!(
                    "{}mutual TLS enabled{}",
                    authority.unwrap_or_default(),
                    name.unwrap_or_default()
                )
            }
        };
        tracing::info!(
            "secure HTTPS server enabled with cert {}, key {}, {clients}",
            files.certificate.display(),
            files.key.display()
        );
    }
    let queue = &options.queue;
    tracing::info!(
        "execute queue processing started with capacity {}, batch size {}, timeout {}",
        queue.capacity,
        queue.batch_size,
        GoDuration::from(queue.timeout)
    );
}

/// Listens on the first address of a name that can be listened on: IPv4 before IPv6, as in Go; and with no
/// host on every interface.
async fn listener(address: &str) -> io::Result<TcpListener> {
    let mut candidates: Vec<SocketAddr> = match address.strip_prefix(':') {
        Some(port) => {
            let port = port.parse().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("unknown port {port:?}"))
            })?;
            vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
        }
        None => {
            let mut resolved: Vec<SocketAddr> = lookup_host(address).await?.collect();
            resolved.sort_by_key(SocketAddr::is_ipv6);
            resolved
        }
    };
    candidates.dedup();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for candidate in candidates {
        match listen(candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the process before it.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until told to stop. No error of one connection ends it.
async fn accept(
    listener: TcpListener,
    service: Arc<Service>,
    watch: Arc<Watch>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok((socket, _peer)) => admit(socket, &service, &watch),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!("accepting connections pauses: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whoever is connected already may have sent a request, which closing the port would throw away.
    for _ in 0..BACKLOG {
        let Some(Ok((socket, _peer))) = listener.accept().now_or_never() else { return };
        admit(socket, &service, &watch);
    }
}

fn admit(socket: TcpStream, service: &Arc<Service>, watch: &Arc<Watch>) {
    service.metrics.connections.increment();
    // Answers are written whole; waiting for more would only delay them. Not vital, so errors do not matter.
    drop(socket.set_nodelay(true));
    let most = service.limits().connections_max;
    let Some(watched) = watch.admit(most) else {
        service.metrics.connections_refused.increment();
        // Under a flood even refusals are bounded; beyond that the socket is closed without a word.
        if let Some(watched) = watch.admit(most.saturating_add(REFUSALS)) {
            let is_tls = service.options.tls.is_some();
            drop(tokio::spawn(connection::refuse(socket, is_tls, watched)));
        }
        return;
    };
    let service = Arc::clone(service);
    drop(tokio::spawn(connection::serve(socket, service, watched)));
}

/// Whether an error of `accept` concerns a connection that has gone, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
