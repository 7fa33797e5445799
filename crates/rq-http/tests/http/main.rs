//! The HTTP server over real sockets, byte by byte. The node behind it is a real one on an empty directory.
//!
//! What the endpoints answer to which SQL is the business of the project's own corpus; here stand
//! connections, time, limits, order of checks, headers, the queue.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

mod connections;
mod endpoints;
mod headers;
mod limits;
mod order;
mod queue;
mod stopping;
mod tls;
