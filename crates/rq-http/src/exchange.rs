//! One request and its answer on a connection: time limits, hang-ups, headers.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use thiserror::Error;

use crate::{
    body::Inbound,
    error,
    respond::Reply,
    routes::{self, Endpoint},
    service::Service,
    target::Aside,
    vitals::{Phase, Stage, Verdict, Vitals, Watch},
};

/// What a connection's requests share.
pub(crate) struct Link {
    /// The server.
    pub(crate) service: Arc<Service>,
    /// The connection's vital signs.
    pub(crate) vitals: Arc<Vitals>,
    /// The watch it is under.
    pub(crate) watch: Arc<Watch>,
    /// The query of the request that comes next, if the HTTP library does not take it.
    pub(crate) aside: Arc<Aside>,
}

/// The client went before its answer came; the connection is of no use.
#[derive(Debug, Error)]
#[error("the client hung up")]
pub(crate) struct HungUp;

type Outcome = Result<Response<Full<Bytes>>, HungUp>;

/// Answers one request. Its time begins with the call, not with the first poll: what comes over the connection
/// in between is already seen in the light of it.
pub(crate) fn run(
    link: Arc<Link>,
    request: Request<Incoming>,
) -> impl Future<Output = Outcome> + Send {
    let mut stream = None;
    if request.version() == Version::HTTP_2 {
        link.vitals.stream_began(link.watch.now());
        stream = Some(StreamEnd(Arc::clone(&link)));
    } else {
        let phase = if request.body().is_end_stream() { Phase::Work } else { Phase::Body };
        link.vitals.enter(phase, link.watch.now());
    }
    async move {
        match stream {
            None => run_alone(&link, request).await,
            Some(end) => Box::pin(run_stream(&link, request, end)).await,
        }
    }
}

/// HTTP/1: one request at a time, under the watch of the connection.
async fn run_alone(link: &Link, request: Request<Incoming>) -> Outcome {
    let Link { service, vitals, watch, aside } = link;
    let (head, incoming) = request.into_parts();
    let mut body = Inbound::new(incoming);
    let query = head.uri.query().unwrap_or_default();
    let kept = aside.take(query);
    let query = kept.as_deref().unwrap_or(query);
    let mut unanswered = Unanswered::new(service);
    let ended = {
        let mut answer = pin!(service.answer(&head, &mut body, Some(vitals), query));
        poll_fn(|context| match vitals.verdict() {
            Verdict::Live => answer.as_mut().poll(context).map(Ok),
            verdict @ (Verdict::Close | Verdict::TimedOut | Verdict::HungUp) => {
                Poll::Ready(Err(verdict))
            }
        })
        .await
    };
    let is_leaving = watch.stage() >= Stage::Leaving;
    let mut reply = match ended {
        Ok(reply) => reply,
        Err(Verdict::TimedOut) => {
            vitals.acquit();
            service.metrics().timeouts.increment();
            timed_out(service, vitals.phase() == Phase::Body, is_leaving, head.uri.path())
        }
        Err(Verdict::Live | Verdict::Close | Verdict::HungUp) => return Err(HungUp),
    };
    unanswered.is_answered = true;
    if !body.is_over() {
        // What is left of the request would be taken for the next one.
        vitals.refuse();
        reply.close = true;
    }
    reply.close |= is_leaving;
    vitals.enter(Phase::Reply, watch.now());
    Ok(service.envelope.seal(reply))
}

/// HTTP/2: any number of requests at a time, each under a timer of its own.
async fn run_stream(link: &Link, request: Request<Incoming>, _end: StreamEnd) -> Outcome {
    let service = &link.service;
    let (head, incoming) = request.into_parts();
    let mut body = Inbound::new(incoming);
    let limit = service.limits().request_time_max;
    let limit = if limit.is_zero() { Duration::MAX } else { limit };
    let query = head.uri.query().unwrap_or_default();
    let mut unanswered = Unanswered::new(service);
    let answer = service.answer(&head, &mut body, None, query);
    let reply = match tokio::time::timeout(limit, answer).await {
        Ok(reply) => reply,
        Err(_elapsed) => {
            service.metrics().timeouts.increment();
            timed_out(service, !body.is_over(), false, head.uri.path())
        }
    };
    unanswered.is_answered = true;
    // HTTP/2 has no such header.
    Ok(service.envelope.seal(Reply { close: false, ..reply }))
}

fn timed_out(service: &Service, reading: bool, stopping: bool, path: &str) -> Reply {
    if reading && !stopping {
        return error::body_timeout(service.limits());
    }
    let may_have_changed = routes::find(path).is_some_and(|route| match route.endpoint {
        Endpoint::Execute
        | Endpoint::Request
        | Endpoint::Load
        | Endpoint::Boot
        | Endpoint::Remove
        | Endpoint::Leader => true,
        Endpoint::Root
        | Endpoint::ConsoleRoot
        | Endpoint::Console
        | Endpoint::Query
        | Endpoint::Backup
        | Endpoint::Sql
        | Endpoint::Snapshot
        | Endpoint::Reap
        | Endpoint::Status
        | Endpoint::Nodes
        | Endpoint::Ready
        | Endpoint::Licenses
        | Endpoint::DebugVars
        | Endpoint::Pprof => false,
    });
    error::work_timeout(service.limits(), stopping, may_have_changed && !reading)
}

/// Notes the end of a stream when dropped, also if the stream was cancelled.
struct StreamEnd(Arc<Link>);

impl Drop for StreamEnd {
    fn drop(&mut self) {
        self.0.vitals.stream_ended(self.0.watch.now());
    }
}

/// Counts a request that is dropped before it is answered, because its connection is.
struct Unanswered<'a> {
    service: &'a Service,
    is_answered: bool,
}

impl<'a> Unanswered<'a> {
    fn new(service: &'a Service) -> Self {
        Self { service, is_answered: false }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.service.metrics().hang_ups.increment();
        }
    }
}
