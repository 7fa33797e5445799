//! One SQLite database file: execute, query, checkpoint, deterministic engine. The only crate with unsafe code.
//!
//! The database is the state machine: a file in WAL mode that stock SQLite can read at any time. Each
//! entry of the log is one transaction in it, and the same transaction records that the entry was
//! applied, so a restart opens the file, reads how far it is, and goes on from there.
//!
//! # Parts
//!
//! [`Database::open`] hands out three, for three kinds of threads:
//!
//! - [`Writer`] applies entries: the only connection that writes.
//! - [`Readers`] answers queries: a pool of read-only connections, each reset after use.
//! - [`Checkpointer`] folds the WAL back beside the writer and makes the file durable, so that the
//!   log may be purged.
//!
//! They know each other through the file alone, but for one moment: the last step of a checkpoint is
//! the writer's ([`Writer::finish_checkpoint`]), with new reads held for a few milliseconds.
//!
//! # Equal entries, equal pages
//!
//! Statements are replicated, not pages. So nothing a statement can see on the writer may differ
//! between nodes: time comes from the entry through a file system of our own (`vfs`), randomness and
//! counters through functions of our own (`functions`), all settings are fixed (`connection`), the
//! library is checked (`compile_options`), and what would tell one node from another is refused
//! (`authorizer`). What remains is this node's own bad luck (a full disk, an I/O error): it is never
//! a result, but rolls the entry back to be tried again (`error` sorts the two). [`Image`] compares.
//!
//! # What must be durable before what
//!
//! Nothing is synced when an entry is applied: the log is the durable copy. Before the log is purged,
//! [`Checkpointer::make_durable`] syncs the WAL and says up to which entry; nothing behind that may be
//! purged. Before the WAL starts over, SQLite has synced the database file.
//!
//! # Reading order
//!
//! `entry` (the words), `database`, `connection`, `state`; `ambient`, `vfs`, `functions`; `writer` and
//! what it uses; `readers`, `query`, `bind`, `prepared`; `checkpoint`, `pages`.

mod ambient;
mod authorizer;
mod bind;
mod budget;
mod checkpoint;
mod compile_options;
mod connection;
mod database;
mod disk_full;
mod entry;
mod error;
mod execute;
mod facts;
mod foreign_keys;
mod functions;
mod maintenance;
mod pages;
mod plan;
mod pragma;
mod prepared;
mod query;
mod readers;
mod rows;
mod session;
mod state;
mod statements;
#[cfg(test)]
mod testing;
mod transaction;
mod vfs;
mod writer;

pub use checkpoint::{Checkpointer, Finish, Fold};
pub use compile_options::sqlite_version;
pub use connection::ENGINE_EPOCH;
pub use database::{DEFAULT_READERS_MAX, Database, Opened, Options};
pub use entry::{
    Applied, Budget, Entry, EntryId, Maintenance, Mode, Operation, Request, RequestOutcome,
    Settings, TimedOutcome,
};
pub use error::{LocalError, LocalKind, OpenError};
pub use pages::Image;
pub use query::{Query, QueryEnd, ReadOrWrite};
pub use readers::{CancelFlag, QueryError, Readers, ReadersStatus};
pub use rows::ResultLimits;
pub use state::{PendingVacuum, StoredState};
pub use vfs::{
    faults::{FaultDisk, FaultHook, FileKind, FileOperation, OperationKind, Verdict},
    unsynced::{Piece, UnsyncedEffect},
};
pub use writer::{ApplyError, Writer, WriterOptions};
