//! One SQLite database file: execute, query, checkpoint, deterministic engine. The only crate with unsafe code.

mod ambient;
mod bind;
mod connection;
mod entry;
mod error;
mod functions;
mod prepared;
mod state;

pub use connection::ENGINE_EPOCH;
pub use entry::{
    Applied, Budget, Entry, EntryId, Maintenance, Mode, Operation, Request, RequestOutcome,
    Settings, TimedOutcome,
};
pub use error::{LocalError, LocalKind, OpenError};
pub use state::{PendingVacuum, StoredState};
