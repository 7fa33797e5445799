//! The HTTP server: routes, authorisation, queueing, status. Thin over rq-node.
//!
//! The way of a request, file by file:
//!
//! 1. `server` accepts the connection, `connection` gives it TLS and HTTP, `stream` and `vitals` watch over its time.
//!    `target` takes query strings in that the HTTP library would refuse.
//! 2. `exchange` takes one request of it; `service` checks in the order clients know: query string,
//!    `routes`, `authorize`, method.
//! 3. The endpoint's own file (`execute`, `query`, …) reads `statements` from the `body`, calls the node, and
//!    says what it means in a `respond::Reply`. Failures become replies in `error` alone.
//! 4. `respond` writes the headers; the connection sends one buffer.
//!
//! To add an endpoint: a row in `routes`, an arm in `service::dispatch`, a file. To add a limit: a field in
//! `limits`, a sentence beside it, a test in `tests/http/limits.rs`.
//!
//! No state is global, no timer is armed per request, and nothing here decides what SQL means.

mod limits;
mod options;
mod slot;

mod server;

mod connection;
mod exchange;
mod stream;
mod target;
mod vitals;

mod routes;

mod authorize;
mod service;

mod body;
mod results;
mod statements;

mod error;
mod respond;

mod execute;
mod query;
mod queue;
mod request;
mod sql;

mod console;
mod debug;
mod leader;
mod licenses;
mod nodes;
mod quorum;
mod ready;
mod remove;
mod snapshot;
mod status;

mod metrics;
mod process;

pub use limits::Limits;
pub use options::{Build, Cluster, Options, QueueOptions};
pub use server::{BindError, Bound, Server, bind};
pub use slot::NodeSlot;
