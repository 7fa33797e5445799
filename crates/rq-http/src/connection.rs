//! One connection from its first byte to its last: TLS or not, HTTP/1 or HTTP/2, under watch.

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    exchange::{self, Link},
    limits::{HEAD_BYTES_LEAST, HTTP2_PING_INTERVAL, HTTP2_STREAMS, LINGER_TIME, Limits},
    service::Service,
    stream::Stream,
    target::Aside,
    vitals::{Phase, Stage, Verdict, Watched},
};

/// What a client is told that speaks HTTP to an HTTPS port.
const HTTP_ON_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// What a client is told when there are too many connections.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nX-Rq-Error: overloaded; outcome=not-done\r\nRetry-After: 1\r\n\
    Content-Length: 47\r\nConnection: close\r\n\r\ntoo many connections are open; try again later\n";

/// Tells a client that there is no room for it, if that can be said without a handshake. Takes no more
/// than a moment.
pub(crate) async fn refuse(mut socket: TcpStream, is_tls: bool, watched: Watched) {
    if !is_tls {
        say_and_close(&mut socket, TOO_MANY).await;
    }
    drop(watched);
}

/// Serves a connection to its end.
pub(crate) async fn serve(socket: TcpStream, service: Arc<Service>, watched: Watched) {
    let limits = service.limits();
    let result = match service.tls_config() {
        None => http(socket, &service, &watched).await,
        Some(config) => match handshake(socket, TlsAcceptor::from(config), limits).await {
            Ok(Some(stream)) => http(stream, &service, &watched).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error.into()),
        },
    };
    if let Err(error) = result {
        // The client's doing in nearly all cases, so not worth more.
        tracing::debug!("connection ended: {error}");
    }
}

/// Does the TLS handshake; `None` if the client spoke plain HTTP, and was told so.
async fn handshake(
    mut socket: TcpStream,
    acceptor: TlsAcceptor,
    limits: &Limits,
) -> io::Result<Option<TlsStream<TcpStream>>> {
    let limit = if limits.head_time_max.is_zero() { Duration::MAX } else { limits.head_time_max };
    let handshake = async move {
        let mut first = [0];
        // A TLS record begins with a small number, an HTTP method with a letter.
        if socket.peek(&mut first).await? == 1 && first[0].is_ascii_alphabetic() {
            say_and_close(&mut socket, HTTP_ON_TLS).await;
            return Ok(None);
        }
        acceptor.accept(socket).await.map(Some)
    };
    tokio::time::timeout(limit, handshake).await?
}

/// Sends a few bytes and closes in a way that lets the client read them.
async fn say_and_close(socket: &mut TcpStream, bytes: &[u8]) {
    let farewell = async {
        socket.write_all(bytes).await?;
        socket.shutdown().await?;
        let mut scratch = [0; 4096];
        while socket.read(&mut scratch).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // It is only a courtesy: neither a timeout nor an error matters.
    drop(tokio::time::timeout(LINGER_TIME, farewell).await);
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn http<S>(stream: S, service: &Arc<Service>, watched: &Watched) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (vitals, watch) = (watched.vitals(), watched.watch());
    let aside = Arc::new(Aside::default());
    let link = Arc::new(Link {
        service: Arc::clone(service),
        vitals: Arc::clone(vitals),
        watch: Arc::clone(watch),
        aside: Arc::clone(&aside),
    });
    let head_bytes_max = head_bytes_max(service.limits());
    let stream = Stream::new(stream, Arc::clone(vitals), Arc::clone(watch), aside, head_bytes_max);
    let builder = protocols(service.limits());
    let respond = service_fn(move |request| exchange::run(Arc::clone(&link), request));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), respond));
    let mut is_ending = false;
    poll_fn(|context: &mut Context<'_>| {
        vitals.register(context.waker());
        if vitals.verdict() == Verdict::Close {
            return Poll::Ready(Ok(()));
        }
        let is_told = match watch.stage() {
            Stage::Serving => false,
            // HTTP/1 has no other way to say so than an answer; a request that crosses the close is lost.
            Stage::Leaving => vitals.phase() == Phase::Streams,
            Stage::Ending => true,
        };
        if is_told && !is_ending {
            is_ending = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(context)
    })
    .await
}

/// HTTP/1 and HTTP/2 as we speak them. Time limits are the watch's business.
fn protocols(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(head_bytes_max(limits)).title_case_headers(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(head_bytes_max(limits)).unwrap_or(u32::MAX));
    builder
}

fn head_bytes_max(limits: &Limits) -> usize {
    limits.head_bytes_max.max(HEAD_BYTES_LEAST)
}
