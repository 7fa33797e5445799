//! From a request to a reply: the order of checks, and the way to the endpoint.
//!
//! 1. `OPTIONS` is answered at once.
//! 2. The query string is checked, on any path.
//! 3. The path leads to a route.
//! 4. The caller's permissions are checked.
//! 5. The method is checked.
//! 6. The endpoint reads the body and works.
//!
//! Nothing may change this order: clients know it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode, header::AUTHORIZATION, request::Parts};
use jiff::Timestamp;
use rq_api::{params::Params, results::Room};
use rq_node::{Error, Node};
use rq_security::{Credentials, Users};
use tokio_rustls::rustls::ServerConfig;

use crate::{
    authorize::{self, Refusal},
    body::{self, BodyError, Inbound, Share},
    console, debug, error, execute, leader, licenses,
    limits::Limits,
    metrics::Metrics,
    nodes,
    options::Options,
    query,
    queue::Queue,
    quorum::Quorum,
    ready, remove, request,
    respond::{Envelope, Reply},
    routes::{self, Endpoint, Route},
    slot::NodeSlot,
    snapshot, sql, status,
    vitals::{Vitals, Watch},
};

/// How often another node is asked again at most, whatever the client wants.
const RETRIES_MAX: u32 = 100;

/// What a request beyond the limit is told.
const TOO_MANY: &str = "too many requests are being worked on; try again later";

/// What all requests share.
pub(crate) struct Service {
    pub(crate) options: Options,
    pub(crate) envelope: Envelope,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) slot: NodeSlot,
    pub(crate) queue: Queue,
    pub(crate) quorum: Arc<Quorum>,
    pub(crate) local_addr: SocketAddr,
    pub(crate) started_at: Timestamp,
    pub(crate) started: Instant,
    pub(crate) requests: AtomicUsize,
    /// The same of those that only ask how the node is.
    pub(crate) questions: AtomicUsize,
    /// HTTP/2 streams whose body has not come yet.
    pub(crate) streams_unread: AtomicUsize,
    pub(crate) body_bytes: AtomicU64,
    /// The memory of all answers.
    pub(crate) answers: Arc<Room>,
    pub(crate) watch: Arc<Watch>,
}

/// One request on its way through the server.
pub(crate) struct Call<'a> {
    pub(crate) service: &'a Service,
    pub(crate) head: &'a Parts,
    pub(crate) body: &'a mut Inbound,
    /// What the body counts for among all bodies. It is kept until the reply is made: the statements decoded
    /// from a body take the memory it took, and they may wait long after it was read.
    pub(crate) share: Option<Share<'a>>,
    /// Its place among the requests worked on, given back while the body is awaited.
    pub(crate) admission: Admission<'a>,
    /// The connection's vital signs; HTTP/2 streams have none.
    pub(crate) vitals: Option<&'a Vitals>,
    pub(crate) params: Params,
    /// Statements of the body, once it was read.
    pub(crate) statements: usize,
    /// The query string as it was sent.
    pub(crate) query: &'a str,
    pub(crate) began: Instant,
}

/// Counts a request being worked on; dropped when it is done.
pub(crate) struct Admission<'a> {
    lane: &'a AtomicUsize,
    most: usize,
    is_held: bool,
}

impl Service {
    /// The limits in force.
    pub(crate) fn limits(&self) -> &Limits {
        &self.options.limits
    }

    /// Who may do what.
    pub(crate) fn users(&self) -> &Arc<Users> {
        &self.options.users
    }

    /// The counters.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The node.
    ///
    /// # Errors
    /// [`Error::NotOpen`] until it is open.
    pub(crate) fn node(&self) -> Result<&Node, Error> {
        self.slot.get().ok_or(Error::NotOpen)
    }

    /// How to shake hands, if the server speaks HTTPS.
    pub(crate) fn tls_config(&self) -> Option<Arc<ServerConfig>> {
        self.options.tls.as_ref().map(|tls| tls.handshake_config())
    }

    /// Takes a request in, unless there are too many. Whoever asks how the node is has places of its own, so
    /// that it is answered when everything else is taken.
    fn admit(&self, endpoint: Option<Endpoint>) -> Option<Admission<'_>> {
        let lane = match endpoint {
            Some(Endpoint::Status | Endpoint::Ready) => &self.questions,
            _ => &self.requests,
        };
        let most = self.limits().requests_max;
        let mut admission = Admission { lane, most, is_held: false };
        admission.take().then_some(admission)
    }

    /// Takes bytes of bodies in, unless there are too many.
    pub(crate) fn hold_body_bytes(&self, bytes: u64) -> bool {
        let most = self.limits().bodies_bytes_max;
        let before = self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
        if most == 0 || before.saturating_add(bytes) <= most {
            return true;
        }
        self.release_body_bytes(bytes);
        false
    }

    /// Gives bytes of bodies back.
    pub(crate) fn release_body_bytes(&self, bytes: u64) {
        self.body_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Answers a request.
    pub(crate) async fn answer(
        &self,
        head: &Parts,
        body: &mut Inbound,
        vitals: Option<&Vitals>,
        query: &str,
    ) -> Reply {
        if head.method == Method::OPTIONS {
            return Reply::empty(StatusCode::OK);
        }
        let began = Instant::now();
        let route = routes::find(head.uri.path());
        let Some(admission) = self.admit(route.map(|route| route.endpoint)) else {
            self.metrics.overloads.increment();
            return error::overloaded(TOO_MANY);
        };
        let params = match Params::parse(query) {
            Ok(params) => params,
            Err(problem) => return error::bad_request(&problem.to_string()),
        };
        let Some(route) = route else {
            return error::not_found();
        };
        if let Err(refusal) = authorize::authorize(self, &head.headers, route.permissions).await {
            return refuse(route, refusal);
        }
        if !route.methods.allow(&head.method) {
            return Reply { content_type: route.content_type, ..error::method_not_allowed() };
        }
        if let Endpoint::Execute | Endpoint::Query | Endpoint::Request = route.endpoint
            && self.slot.get().is_none()
        {
            // A client that goes round its nodes while one restarts is served a moment later instead of refused.
            let opening_time_max = self.limits().opening_time_max;
            drop(tokio::time::timeout(opening_time_max, self.slot.filled()).await);
        }
        let call = Call {
            service: self,
            head,
            body,
            share: None,
            admission,
            vitals,
            params,
            statements: 0,
            query,
            began,
        };
        dispatch(route.endpoint, call).await
    }
}

fn refuse(route: &Route, refusal: Refusal) -> Reply {
    match refusal {
        Refusal::Denied => Reply { content_type: route.content_type, ..error::unauthorized() },
        Refusal::Busy => {
            error::overloaded("too many passwords are being verified; try again later")
        }
    }
}

/// The endpoints in the hot path run in place; the others are boxed to keep each request small.
async fn dispatch(endpoint: Endpoint, mut call: Call<'_>) -> Reply {
    match endpoint {
        Endpoint::Execute => execute::execute(&mut call).await,
        Endpoint::Query => query::query(&mut call).await,
        Endpoint::Request => Box::pin(request::request(&mut call)).await,
        Endpoint::Sql => Box::pin(sql::sql(&mut call)).await,
        Endpoint::Snapshot => Box::pin(snapshot::snapshot(&call)).await,
        Endpoint::Reap => snapshot::reap(&call),
        Endpoint::Status => status::status(&call),
        Endpoint::Nodes => Box::pin(nodes::nodes(&call)).await,
        Endpoint::Remove => Box::pin(remove::remove(&mut call)).await,
        Endpoint::Leader => Box::pin(leader::leader(&mut call)).await,
        Endpoint::Ready => Box::pin(ready::ready(&call)).await,
        Endpoint::Licenses => licenses::licenses(),
        Endpoint::DebugVars => debug::vars(&call),
        Endpoint::Pprof => debug::pprof(),
        Endpoint::Root => console::root(&call),
        Endpoint::ConsoleRoot => console::console_root(&call),
        Endpoint::Console => console::console(&call),
        Endpoint::Backup | Endpoint::Load | Endpoint::Boot => {
            error::not_implemented(call.service, endpoint)
        }
    }
}

impl Call<'_> {
    /// Reads the whole body, which counts among all bodies until the call ends.
    ///
    /// # Errors
    /// The reply to give instead: 413, 503, or 400.
    pub(crate) async fn read_body(&mut self) -> Result<Bytes, Reply> {
        // A client that sends slowly, or nothing, takes a connection and no more.
        self.admission.give_back();
        let body = body::read(self.body, self.vitals, self.service).await;
        if let Some(vitals) = self.vitals {
            vitals.body_read();
        }
        match body {
            Ok(_) if !self.admission.take() => {
                self.service.metrics.overloads.increment();
                Err(error::overloaded(TOO_MANY))
            }
            Ok(body) => {
                self.share = body.share;
                Ok(body.bytes)
            }
            Err(BodyError::TooLarge { limit }) => Err(error::body_too_large(limit)),
            Err(BodyError::Overloaded) => {
                self.service.metrics.overloads.increment();
                Err(error::overloaded("too many request bodies are held; try again later"))
            }
            Err(BodyError::Slow) => {
                self.service.metrics.timeouts.increment();
                Err(error::body_pause(self.service.limits()))
            }
            Err(BodyError::Broken) => Err(error::bad_request("the request body could not be read")),
        }
    }

    /// How the request may travel to another node, and in whose name.
    pub(crate) fn route(&self) -> rq_node::Route {
        rq_node::Route {
            credentials: self.credentials(),
            forward: !self.params.redirect,
            timeout: self.timeout(),
            retries: self.retries(),
        }
    }

    /// The client's credentials, as it sent them.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        let value = self.head.headers.get(AUTHORIZATION)?;
        Credentials::from_header(value.as_bytes())
    }

    /// How long another node may take to answer; zero and negative times expire at once.
    pub(crate) fn timeout(&self) -> Duration {
        self.params.timeout.positive().unwrap_or(Duration::ZERO)
    }

    /// How often another node is asked again.
    pub(crate) fn retries(&self) -> u32 {
        let retries = self.params.retries.clamp(0, i64::from(RETRIES_MAX));
        u32::try_from(retries).unwrap_or_default()
    }

    /// Whether the client asked for the strict forms (`X-Rq-Strict: 1`).
    pub(crate) fn is_strict(&self) -> bool {
        self.head.headers.get("x-rq-strict").is_some_and(|value| value == "1")
    }
}

impl Admission<'_> {
    /// Takes a place, unless there is none.
    fn take(&mut self) -> bool {
        let before = self.lane.fetch_add(1, Ordering::Relaxed);
        self.is_held = self.most == 0 || before < self.most;
        if !self.is_held {
            self.lane.fetch_sub(1, Ordering::Relaxed);
        }
        self.is_held
    }

    /// Gives the place back, for now or for good.
    fn give_back(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.lane.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}
