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
//! # One entry, from call to commit
//!
//! 1. [`Writer::apply`] checks that the entry is the next one, and sets clock and seed (`ambient`).
//! 2. `Writer::run_batch` begins the transaction and runs each request as an `Execution`. What a
//!    request finds is what it would find on a connection opened just now (`session`).
//! 3. `Execution::run_string` takes each statement of a string from the cache or compiles it under a
//!    client's rights (`statements`); the authorizer judges it and says what it is (`facts`).
//! 4. BEGIN and its like are mapped on savepoints (`transaction`), PRAGMAs that last are executed by
//!    us, everything else is stepped under the request's budget (`budget`), which is charged what functions
//!    do within one step as well (`work`) and what large values are made (`memory`).
//! 5. A statement that ended the whole transaction, or a deferred foreign key found violated, is
//!    noted in the `Plan`, and the entry is run again from 2 with what is known now (`plan`).
//! 6. `State::set_applied`, COMMIT, and the outcomes go back.
//!
//! VACUUM cannot run inside a transaction. It is announced in one before, with the schema cookie, and
//! confirmed in one after. Applied again after a crash in between, it finds the announcement, and
//! whether the cookie has moved tells whether VACUUM itself is done (`maintenance`).
//!
//! # Equal entries, equal pages
//!
//! Statements are replicated, not pages. So nothing a statement can see on the writer may differ
//! between nodes: time comes from the entry through a file system of our own (`vfs`), randomness and
//! counters through functions of our own (`functions`), what SQLite draws for itself through a generator
//! we seed (`prng`), all settings are fixed (`connection`), the
//! library is checked (`compile_options`), and what would tell one node from another is refused
//! (`authorizer`). What remains is this node's own bad luck (a full disk, an I/O error, no memory): it
//! is never a result, but rolls the entry back to be tried again (`error` sorts the two, `disk_full`
//! and `memory` tell it what SQLite does not). [`Image`] compares.
//!
//! # What must be durable before what
//!
//! Nothing is synced when an entry is applied: the log is the durable copy. Before the log is purged,
//! [`Checkpointer::make_durable`] syncs the WAL and says up to which entry; nothing behind that may be
//! purged. Before the WAL starts over, SQLite has synced the database file.
//!
//! # Another file in its place
//!
//! [`PageReader`] reads pages for a copy on another node; there the complete copy takes the place of
//! the database ([`Replacer`]): everything that has the file open is closed for the moment, because a
//! WAL beside a file it does not belong to would be replayed into it.
//!
//! # Reading order
//!
//! `entry` (the words), `database`, `connection`, `state`; `ambient`, `vfs`, `functions`; `writer` and
//! what it uses; `readers`, `query`, `bind`, `sql_text`, `prepared`; `checkpoint`, `pages`; `page_reader`,
//! `replace`.

mod ambient;
mod authorizer;
mod bind;
mod budget;
mod checkpoint;
mod column_names;
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
mod memory;
mod page_reader;
mod pages;
mod plan;
mod pragma;
mod prepared;
mod prng;
mod query;
mod readers;
mod replace;
mod rows;
mod session;
mod sql_text;
mod state;
mod statements;
#[cfg(test)]
mod testing;
mod transaction;
mod vfs;
mod work;
mod writer;

pub use checkpoint::{Checkpointer, Finish, Fold, WAL_FILE_KEPT, WalSize};
pub use compile_options::sqlite_version;
pub use connection::ENGINE_EPOCH;
pub use database::{DEFAULT_READ_TEMPORARY_BYTES, DEFAULT_READERS_MAX, Database, Opened, Options};
pub use entry::{
    Applied, Budget, Entry, EntryId, Maintenance, Mode, Operation, Request, RequestOutcome,
    Settings, TimedOutcome,
};
pub use error::{LocalError, LocalKind, OpenError};
pub use page_reader::{PageReadError, PageReader, PageSnapshot};
pub use pages::{Image, checksum_of_page};
pub use query::{Query, QueryEnd, ReadOrWrite};
pub use readers::{CancelFlag, QueryError, Readers, ReadersStatus};
pub use replace::{Arrival, ReplaceError, Replaced, Replacer};
pub use rows::ResultLimits;
pub use state::{PendingVacuum, StoredState};
pub use vfs::{
    faults::{FaultDisk, FaultHook, FileKind, FileOperation, OperationKind, Verdict},
    unsynced::{Piece, UnsyncedEffect},
};
pub use writer::{ApplyError, Writer, WriterOptions};
