//! One SQLite database file: execute, query, checkpoint, deterministic engine. The only crate with unsafe code.

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
