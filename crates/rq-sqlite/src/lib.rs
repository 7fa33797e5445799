//! One SQLite database file: execute, query, checkpoint, deterministic engine. The only crate with unsafe code.

mod entry;

pub use entry::{
    Applied, Budget, Entry, EntryId, Maintenance, Mode, Operation, Request, RequestOutcome, Settings,
    TimedOutcome,
};
