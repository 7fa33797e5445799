//! Reading a request's body: whole, bounded, and without a copy where it came in one piece.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use hyper::body::{Body as _, Frame, Incoming};
use tokio::time::timeout;

use crate::{limits::SMALL_BODY_BYTES, service::Service, vitals::Vitals};

/// The most that is set aside for a body because of its announced length alone.
const CAPACITY_AHEAD_BYTES: u64 = 1 << 20;

/// The body of a request on its way in. The HTTP library does not say of a chunked one that has been read that
/// nothing is left of it.
#[derive(Debug)]
pub(crate) struct Inbound {
    incoming: Incoming,
    is_read: bool,
}

impl Inbound {
    /// A body of which nothing has been read.
    pub(crate) fn new(incoming: Incoming) -> Self {
        Self { incoming, is_read: false }
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_over(&self) -> bool {
        self.is_read || self.incoming.is_end_stream()
    }
}

/// A body, and its share of the bytes all bodies together may take.
pub(crate) struct Body<'a> {
    /// The bytes.
    pub(crate) bytes: Bytes,
    /// The share, to be kept for as long as the bytes or what was made of them; small bodies have none.
    pub(crate) share: Option<Share<'a>>,
}

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is longer than allowed.
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// All bodies together are larger than allowed.
    Overloaded,
    /// Nothing more of it came for too long.
    Slow,
    /// The connection broke, or the body's framing did.
    Broken,
}

/// Reads the whole body.
pub(crate) async fn read<'a>(
    inbound: &mut Inbound,
    vitals: Option<&Vitals>,
    service: &'a Service,
) -> Result<Body<'a>, BodyError> {
    let limits = service.limits();
    let limit = if limits.body_bytes_max == 0 { u64::MAX } else { limits.body_bytes_max };
    if inbound.incoming.size_hint().lower() > limit {
        return Err(BodyError::TooLarge { limit });
    }
    let mut share = None;
    let _stream = if vitals.is_none() { Some(Stream::new(service)?) } else { None };
    let pause_max = limits.body_pause_max;
    let Some(first) = next(inbound, vitals, pause_max).await? else {
        return Ok(Body { bytes: Bytes::new(), share: None });
    };
    if inbound.is_over() {
        take_share(&mut share, service, first.len() as u64)?;
        return within(first.len() as u64, limit).map(|()| Body { bytes: first, share });
    }
    let announced = inbound.incoming.size_hint().lower().min(CAPACITY_AHEAD_BYTES);
    let mut bytes = Vec::with_capacity(first.len() + usize::try_from(announced).unwrap_or(0));
    let mut piece = Some(first);
    while let Some(data) = piece {
        let length = (bytes.len() + data.remaining()) as u64;
        within(length, limit)?;
        take_share(&mut share, service, length)?;
        bytes.extend_from_slice(&data);
        piece = next(inbound, vitals, pause_max).await?;
    }
    Ok(Body { bytes: bytes.into(), share })
}

fn within(length: u64, limit: u64) -> Result<(), BodyError> {
    if length > limit { Err(BodyError::TooLarge { limit }) } else { Ok(()) }
}

/// The next piece of data; trailers are passed over.
async fn next(
    inbound: &mut Inbound,
    vitals: Option<&Vitals>,
    pause_max: Duration,
) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = poll_fn(|context| match Pin::new(&mut inbound.incoming).poll_frame(context) {
            // HTTP is kept from seeing that nothing will come any more, see `stream`.
            Poll::Pending if vitals.is_some_and(Vitals::has_end_of_input) => {
                Poll::Ready(Err(BodyError::Broken))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(frame) => Poll::Ready(frame.transpose().map_err(|_| BodyError::Broken)),
        });
        // Arms no timer if something is there already.
        let frame = match pause_max {
            Duration::ZERO => frame.await,
            limit => timeout(limit, frame).await.unwrap_or(Err(BodyError::Slow)),
        };
        match frame?.map(Frame::into_data) {
            Some(Ok(data)) => return Ok(Some(data)),
            Some(Err(_trailers)) => {}
            None => {
                inbound.is_read = true;
                return Ok(None);
            }
        }
    }
}

/// An HTTP/2 stream whose body is awaited. A connection has many of them, so that the limit of connections alone
/// does not bound their number.
struct Stream<'a>(&'a AtomicUsize);

impl<'a> Stream<'a> {
    fn new(service: &'a Service) -> Result<Self, BodyError> {
        let most = service.limits().connections_max;
        let before = service.streams_unread.fetch_add(1, Ordering::Relaxed);
        let stream = Self(&service.streams_unread);
        if most == 0 || before < most { Ok(stream) } else { Err(BodyError::Overloaded) }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A part of [`crate::Limits::bodies_bytes_max`], given back when dropped.
pub(crate) struct Share<'a> {
    service: &'a Service,
    bytes: u64,
}

/// Makes the share `bytes` large, unless the body is small or there is no more room.
fn take_share<'a>(
    share: &mut Option<Share<'a>>,
    service: &'a Service,
    bytes: u64,
) -> Result<(), BodyError> {
    if bytes <= SMALL_BODY_BYTES {
        return Ok(());
    }
    let share = share.get_or_insert(Share { service, bytes: 0 });
    let more = bytes.saturating_sub(share.bytes);
    if !service.hold_body_bytes(more) {
        return Err(BodyError::Overloaded);
    }
    share.bytes += more;
    Ok(())
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.service.release_body_bytes(self.bytes);
    }
}
