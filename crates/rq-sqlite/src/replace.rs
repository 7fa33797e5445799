//! Puts another, complete database file in the place of the one in use.
//!
//! A WAL is not tied to its file: SQLite would replay a stale one into whatever file has the name. So
//! no moment may exist at which the new file stands beside the old one's WAL, nor one at which the old
//! file stands without the frames that belong to it. The order:
//!
//! 1. The incoming file is inspected and synced. Until here nothing has happened.
//! 2. New reads are held, running ones end or are cancelled, all connections but one are closed.
//! 3. The WAL is emptied: the old file alone now holds the old state, durably.
//! 4. The last connection is closed and the file locked for ourselves alone: a stranger who has it
//!    open would, when closing it, delete the WAL of the new one.
//! 5. `-wal` and `-shm` are unlinked, the directory is synced.
//! 6. The incoming file is renamed, the directories are synced, everything is opened again.
//!
//! A process that dies anywhere in this leaves the old state or the new one. What fails before the
//! rename leaves the old one in use. Up to step 2 the old data is read as ever; from then on reads wait.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::{OpenFlags, ffi};
use thiserror::Error;

use crate::{
    checkpoint::{Checkpointer, WalGauge},
    connection::{self, Guarded},
    database::{Options, WriterParts, local_error, open_connections},
    entry::EntryId,
    error::{LocalError, LocalKind, OpenError, SqliteError},
    readers::Readers,
    state::{self, StoredState},
    vfs::{faults::FileKind, outside},
    writer::{Writer, WriterOptions},
};

/// How long running reads may go on before they are cancelled.
const READS_GRACE: Duration = Duration::from_millis(50);

/// How long a cancelled read may take to end. Beyond, nothing is replaced for now.
const READS_PATIENCE: Duration = Duration::from_secs(2);

/// How long another process may be in the way. Beyond, nothing is replaced for now.
const STRANGERS_PATIENCE: Duration = Duration::from_millis(500);

/// Replaces the file of one database. Clones do the same.
#[derive(Clone, Debug)]
pub struct Replacer {
    options: Options,
    writer_options: WriterOptions,
    readers: Readers,
    gauge: WalGauge,
}

/// A database file that is to take the place of the one in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The file: complete, written by nobody any more, on the file system of the database.
    pub path: PathBuf,
    /// The last entry it holds the effect of.
    pub applied: EntryId,
}

/// What a replacement did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// What the state table of the new file holds.
    pub state: StoredState,
    /// How long reads were held.
    pub pause: Duration,
}

/// Why a file was not replaced, or what came after that.
#[derive(Debug, Error)]
pub enum ReplaceError {
    /// The incoming file cannot be used. Nothing has happened.
    #[error("the received database cannot be used: {0}")]
    Unusable(OpenError),
    /// The old file is in use as before; it may be tried again.
    #[error("the database could not be replaced: {0}")]
    NotDone(LocalError),
    /// Nothing is open any more; [`Replacer::reopen`] may be tried again.
    #[error("the database could not be opened again: {source}")]
    Closed {
        /// Whether it is the new file that waits to be opened.
        replaced: bool,
        /// Why it is not open.
        source: OpenError,
    },
    /// Which file a power cut would leave is not known. Nothing is open, and nothing may be.
    #[error("a sync failed while the database was being replaced: {0}")]
    Fatal(io::Error),
}

impl Replacer {
    pub(crate) fn new(parts: &WriterParts, writer_options: WriterOptions) -> Self {
        let WriterParts { options, readers, gauge, .. } = parts;
        Self {
            options: options.clone(),
            writer_options,
            readers: readers.clone(),
            gauge: gauge.clone(),
        }
    }

    /// The pool of the database.
    pub fn readers(&self) -> &Readers {
        &self.readers
    }

    /// Puts the arrival in the place of the database. Writer and checkpointer are taken, and are those
    /// of the new file when this returns, or those of the old one; `None` if the error says that
    /// nothing is open. Must be called between two entries.
    ///
    /// # Errors
    /// See [`ReplaceError`].
    pub fn replace(
        &self,
        writer: &mut Option<Writer>,
        checkpointer: &mut Option<Checkpointer>,
        arrival: &Arrival,
    ) -> Result<Replaced, ReplaceError> {
        self.check(arrival)?;
        let Some(last) = checkpointer.as_mut() else {
            return Err(busy("replacing the database", "it is closed"));
        };
        // Most of the WAL is folded while everybody goes on.
        last.fold().map_err(ReplaceError::NotDone)?;
        let began = Instant::now();
        let Some(quiet) = self.readers.quiet(READS_GRACE, READS_PATIENCE) else {
            return Err(busy("closing the readers", "a running read does not end"));
        };
        match last.empty_wal(STRANGERS_PATIENCE) {
            Ok(true) => {}
            Ok(false) => return Err(stranger()),
            Err(error) => return Err(ReplaceError::NotDone(error.into_local("emptying the WAL"))),
        }
        drop(checkpointer.take());
        drop(writer.take());
        let exchanged = self.exchange(&arrival.path);
        if let Err(ReplaceError::Fatal(error)) = exchanged {
            return Err(ReplaceError::Fatal(error));
        }
        let replaced = exchanged.is_ok();
        let state = self
            .reopen(writer, checkpointer)
            .map_err(|source| ReplaceError::Closed { replaced, source })?;
        drop(quiet);
        exchanged.map(|()| Replaced { state, pause: began.elapsed() })
    }

    /// Opens the file in place, after [`ReplaceError::Closed`], and tells what its state table holds.
    ///
    /// # Errors
    /// It may be tried again.
    pub fn reopen(
        &self,
        writer: &mut Option<Writer>,
        checkpointer: &mut Option<Checkpointer>,
    ) -> Result<StoredState, OpenError> {
        let parts = open_connections(&self.options, &self.readers, &self.gauge)?;
        let opened = Writer::new(parts.writer, self.writer_options)
            .map_err(|error| error.into_open_error(&self.options.path, "preparing the writer"))?;
        *writer = Some(opened);
        *checkpointer = Some(parts.checkpointer);
        Ok(parts.opened.state)
    }

    /// What the state table of a file says that is nobody's yet. The file must be complete and in use
    /// by nobody; it is not changed.
    ///
    /// # Errors
    /// It is no database of ours, or of another epoch, or cannot be read.
    pub fn inspect(&self, path: &Path) -> Result<StoredState, OpenError> {
        let refuse = |error: SqliteError| error.into_open_error(path, "inspecting a database");
        let (_, vfs) = self.readers.file();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let connection = connection::open(&immutable(path), flags, vfs).map_err(refuse)?;
        let found = state::inspect(&connection, path)?.ok_or_else(|| OpenError::Foreign {
            path: path.to_owned(),
            reason: "it is empty".to_owned(),
        })?;
        found.of_epoch(self.options.engine_epoch, path)
    }

    /// Inspects and syncs the incoming file.
    fn check(&self, arrival: &Arrival) -> Result<(), ReplaceError> {
        let path = &arrival.path;
        let state = self.inspect(path).map_err(ReplaceError::Unusable)?;
        if state.applied != Some(arrival.applied) {
            let reason = format!("it holds {:?}, not {:?}", state.applied, arrival.applied);
            let path = path.clone();
            return Err(ReplaceError::Unusable(OpenError::State { path, reason }));
        }
        outside::sync_incoming(path, self.options.faults.as_deref())
            .map_err(|error| failed("syncing the received database", &error))
    }

    /// Steps 4 to 6 without the opening. No connection of ours is open.
    fn exchange(&self, incoming: &Path) -> Result<(), ReplaceError> {
        let faults = self.options.faults.as_deref();
        let database = &self.options.path;
        // Closed when the rename is done: nobody else can open the old file until then.
        let alone = self.lock_alone()?;
        let (wal, shared_memory) = (beside(database, "-wal"), beside(database, "-shm"));
        let unlinked = outside::remove(&wal, FileKind::Wal, faults)
            .and_then(|()| outside::remove(&shared_memory, FileKind::Wal, faults));
        unlinked.map_err(|error| failed("removing the old WAL", &error))?;
        outside::sync_directories(&[database], faults).map_err(ReplaceError::Fatal)?;
        outside::rename(incoming, database, faults)
            .map_err(|error| failed("renaming the received database", &error))?;
        outside::sync_directories(&[database, incoming], faults).map_err(ReplaceError::Fatal)?;
        drop(alone);
        Ok(())
    }

    /// Opens the old file for ourselves alone.
    fn lock_alone(&self) -> Result<Guarded, ReplaceError> {
        let doing = "locking the old database";
        let (path, vfs) = self.readers.file();
        let lock = || {
            let alone = connection::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, vfs)?;
            alone.busy_timeout(STRANGERS_PATIENCE)?;
            alone.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            // The lock is taken by the first read.
            let read = "SELECT count(*) FROM sqlite_schema";
            let _: i64 = alone.query_row(read, [], |row| row.get(0))?;
            Ok(alone)
        };
        lock().map_err(|error: SqliteError| match error.primary() {
            ffi::SQLITE_BUSY => stranger(),
            _ => ReplaceError::NotDone(error.into_local(doing)),
        })
    }
}

fn stranger() -> ReplaceError {
    let message = "another process has the database open; it must close it";
    busy("replacing the database", message)
}

fn busy(doing: &str, message: &str) -> ReplaceError {
    let (doing, message) = (doing.to_owned(), message.to_owned());
    ReplaceError::NotDone(LocalError {
        kind: LocalKind::Busy,
        doing,
        message,
        code: ffi::SQLITE_BUSY,
    })
}

fn failed(doing: &str, error: &io::Error) -> ReplaceError {
    ReplaceError::NotDone(local_error(doing, error))
}

/// The name of a file that SQLite keeps beside the database.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A name by which SQLite opens a file that nobody changes: without locks, WAL and shared memory.
fn immutable(path: &Path) -> PathBuf {
    let mut name = OsString::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                name.push(OsStr::from_bytes(&[*byte]));
            }
            _ => name.push(format!("%{byte:02x}")),
        }
    }
    name.push("?immutable=1");
    name.into()
}

#[cfg(test)]
mod tests;
