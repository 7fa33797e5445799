//! What the suites and the task runner share: building and finding the programs, running a node as
//! a process, speaking HTTP to it byte by byte, and repeatable randomness.
//!
//! - The programs are asked for from Cargo ([`binaries`]), never guessed from paths.
//! - A [`Node`] is a real process on real ports; nothing here reaches into its memory.
//! - The HTTP client is our own ([`Connection`]), because the suites must be able to send what no
//!   proper client would.
//! - A helper that fails panics with a sentence: everything here runs on behalf of a test.

#![expect(clippy::print_stdout, reason = "what was done to a cluster is told beside its test")]

pub mod binaries;
pub mod cluster;
pub mod linearizability;

mod authority;
mod client;
mod node;
mod process;
mod random;

pub use authority::Authority;
pub use client::{Connection, Request, Response};
pub use node::{Node, NodeBuilder, free_addresses};
pub use process::{Process, peak_resident_bytes, resident_bytes};
pub use random::Random;
