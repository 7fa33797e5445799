//! Nodes among themselves: calls with bytes in and bytes out.
//!
//! Everything nodes say to each other is a *call*: one request, one answer. Raft, forwarded requests,
//! joining and snapshots all speak through [`Network`], which is a seam: `tcp` is the real one (frames
//! over TCP or TLS), simulations have one of their own with delay, loss and partitions. What the bytes mean
//! is `message`'s business, never this folder's.
//!
//! # Lanes
//! A call travels on one of four [`Lane`]s, and lanes do not share a queue or a connection: a heartbeat or a
//! vote never waits behind entries, and nothing waits behind a snapshot.
//!
//! # Order
//! Calls of one sender on [`Lane::Append`] to one address are begun in the order in which they were made
//! (their answerer is polled once, in order) as long as one connection lasts; no other lane has an order.
//!
//! # What a failed call means
//! [`CallError::NotSent`]: not one byte of the request can have reached the other side. After
//! [`CallError::Unanswered`] it may have been carried out. Nothing here ever sends a call twice.

mod tcp;

use std::{fmt::Debug, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;

pub(crate) use self::tcp::fuzzing;
pub use self::tcp::{BindError, TcpNetwork, TcpOptions, TcpTls};

/// The way to the other nodes, and from them.
pub trait Network: Send + Sync + Debug {
    /// Makes a call. Dropping the future gives the answer up, and the call if it is [`Call::revocable`].
    ///
    /// # Errors
    /// See [`CallError`].
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Looks whether the name in an address, `host:port`, can be resolved from here. A network without names knows
    /// every address.
    ///
    /// # Errors
    /// Why it cannot.
    fn resolve(&self, address: &str) -> BoxFuture<'static, Result<(), String>> {
        let _known = address;
        Box::pin(std::future::ready(Ok(())))
    }

    /// From now on calls from other nodes are given to `answerer`; `None` refuses them.
    fn listen(&self, answerer: Option<Arc<dyn Answerer>>);
}

/// Who answers the calls of other nodes.
pub trait Answerer: Send + Sync + 'static {
    /// Answers one call. The request may be anything: its sender proved at most that it knows the
    /// cluster's secret or has a certificate.
    fn answer(&self, lane: Lane, request: Bytes) -> BoxFuture<'static, Bytes>;
}

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Call {
    /// The internode address of the other node, `host:port`; a name is resolved at each dial.
    pub to: String,
    /// The lane it travels on.
    pub lane: Lane,
    /// The encoded request, of at most [`Lane::request_bytes_max`] bytes.
    pub request: Bytes,
    /// How long dialling, sending, and waiting for the answer may take together.
    pub timeout: Duration,
    /// Whether the other side may drop what it has begun once nobody waits for the answer. What is not to be left half
    /// done is no such call.
    pub revocable: bool,
}

/// What a call is about, which decides whom it may delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Heartbeats, votes, read indexes: small, and never behind anything else.
    Control,
    /// Entries of the log, in order.
    Append,
    /// Forwarded requests, joining and other work of the cluster service.
    Service,
    /// Snapshots and other bulk.
    Bulk,
}

/// Why a call has no answer, in words that begin with the address.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// Nothing of the request left this node.
    #[error("{0}")]
    NotSent(String),
    /// The request left, at least in part, and no answer came.
    #[error("{0}")]
    Unanswered(String),
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 4] = [Self::Control, Self::Append, Self::Service, Self::Bulk];

    /// The most bytes a request or an answer on this lane may have; more is refused before any memory is
    /// taken for it.
    pub fn request_bytes_max(self) -> usize {
        match self {
            Self::Control => 1024 * 1024,
            // One entry may be as large as a request may be, and entries are never split.
            Self::Append | Self::Service => 1024 * 1024 * 1024,
            Self::Bulk => 16 * 1024 * 1024,
        }
    }
}

/// The network of a node that has no other nodes: every call fails, and none comes in.
#[derive(Clone, Copy, Debug)]
pub struct NoNetwork;

impl Network for NoNetwork {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let refusal = CallError::NotSent(format!("{}: this node has no network", call.to));
        Box::pin(std::future::ready(Err(refusal)))
    }

    fn listen(&self, _answerer: Option<Arc<dyn Answerer>>) {}
}
