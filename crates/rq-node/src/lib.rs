//! One member of the cluster: Raft, state machine, snapshots, read levels.
//!
//! # The walk of a write
//! 1. [`Node::execute`] (`write`) refuses what can be refused at once and hands the request to
//!    the `batcher`, which packs everything that waits into one `command`, stamped with clock, seed and settings.
//! 2. `raft` proposes it; openraft calls `raft::log` to append. `rq-storage` makes it durable, one
//!    fsync for everything that waits.
//! 3. Once committed, openraft calls `raft::state_machine`, which hands it to the `applier`: one
//!    entry, one SQLite transaction ([`rq_sqlite::Writer`]).
//! 4. After COMMIT each request of the entry gets its own answer.
//!
//! # The walk of a read
//! [`Node::query`] (`read`) establishes the level asked for, where needed by a shared round (`rounds`), and
//! runs the statements on a pooled reader connection.
//!
//! # Behind the scenes
//! `housekeeping` folds the WAL back, makes the database durable and purges the log (`durability`
//! decides what may be purged), watches the disk, and proposes maintenance by interval.
//!
//! # Before all of it
//! `recovery` looks for an operator's file that names who goes on after a lost quorum, when a node opens.
//!
//! # Invariants
//! - Only `raft/` names openraft.
//! - `command::Stamper` is the only place where time and chance enter the log.
//! - Nothing is purged from the log that the database file does not hold durably.
//! - A request is proposed at most once.
//! - Time, chance, files and threads come through [`Environment`], so that a node runs simulated.

mod node;

pub mod internode;

mod disk_watch;
mod formation;
mod forward;
mod founding;
mod ground;
mod membership;
mod observer;
mod peers;
mod read;
mod retirement;
mod service;
mod whereabouts;
mod write;

mod batcher;
mod command;
mod rounds;

mod applier;
mod durability;
mod engine;
mod housekeeping;
mod identity;
mod progress;
mod raft;
mod recovery;
mod transfer;

mod environment;
mod error;
mod exclusion;
mod metrics;
mod notices;
mod options;
mod report;
mod request;
mod status;
mod threads;
mod turns;

#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod testing;

pub use command::{CommandError, decode_command};
pub use engine::OtherEngine;
pub use environment::{Clock, Entropy, Environment, Seeded, SystemClock, SystemEntropy};
pub use error::{EffectKnown, Error, OpenError};
pub use formation::Formation;
pub use forward::Route;
pub use node::Node;
pub use options::{Limits, Options, Reap, Sending, Snapshots, Timing};
pub use peers::{Contact, Reached};
pub use request::{Level, Read, Served, Write, Written};
pub use rq_sqlite::{Budget, TimedOutcome, sqlite_version};
pub use rq_storage::{Execution, LogOptions};
pub use status::{
    CounterMaps, DatabaseStatus, Impairment, Member, RaftStatus, Role, SettingsStatus, Status,
    TransferStatus,
};
