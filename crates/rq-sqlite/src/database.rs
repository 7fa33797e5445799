//! Opens a database and hands out its parts.
//!
//! The parts live on different threads: the [`Writer`] on the applier's, the
//! [`Checkpointer`] on one of its own, [`Readers`] wherever reads are answered. They know each other
//! only through the file. Closing is dropping them; no checkpoint is made then, so it is quick, and
//! the next start finds the WAL as it was.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    ambient::Ambient,
    checkpoint::{Checkpointer, WalGauge},
    compile_options,
    connection::{self, ENGINE_EPOCH, Guarded},
    disk_full,
    error::{LocalError, LocalKind, OpenError, SqliteError},
    functions::RequestStart,
    memory, prng,
    readers::Readers,
    state::{self, State, StoredState},
    vfs::{Vfs, faults::FaultDisk},
    writer::{Writer, WriterOptions},
};

/// The most read connections by default.
pub const DEFAULT_READERS_MAX: usize = 256;

/// What one request for reads may write to temporary files by default, in bytes (4 GiB). Sorts, DISTINCT
/// and materialized views beyond their cache go there.
pub const DEFAULT_READ_TEMPORARY_BYTES: u64 = 4 << 30;

/// Where a database stands and what it may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file. Its directory must exist.
    pub path: PathBuf,
    /// A directory for temporary files; created if it is missing.
    pub scratch: PathBuf,
    /// The most read connections; at least 1. Further reads wait.
    pub readers_max: usize,
    /// What one request for reads may write to temporary files, in bytes, all its statements together and
    /// each write counted; 0 is without limit. Beyond, the statement that is running fails.
    pub read_temporary_bytes: u64,
    /// A disk that fails on command, for tests and simulations.
    pub faults: Option<Arc<FaultDisk>>,
    /// What readers answer to `PRAGMA foreign_keys`; the writer takes it from each entry.
    pub foreign_keys: bool,
    /// The engine epoch that is computed here: [`ENGINE_EPOCH`], but for tests.
    pub engine_epoch: i64,
    /// Whether a database of another epoch is opened as well instead of refused. Nothing may be applied to it then.
    pub any_epoch: bool,
}

impl Options {
    /// The usual options for a file.
    pub fn new(path: impl Into<PathBuf>, scratch: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            scratch: scratch.into(),
            readers_max: DEFAULT_READERS_MAX,
            read_temporary_bytes: DEFAULT_READ_TEMPORARY_BYTES,
            faults: None,
            foreign_keys: false,
            engine_epoch: ENGINE_EPOCH,
            any_epoch: false,
        }
    }
}

/// What was found when a database was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Whether it was created just now.
    pub created: bool,
    /// The engine epoch it belongs to.
    pub epoch: i64,
    /// What its state table holds.
    pub state: StoredState,
}

/// An open database. Take it apart and give each part to its thread.
#[derive(Debug)]
pub struct Database {
    /// Applies entries.
    pub writer: Writer,
    /// Folds the WAL back and makes durable.
    pub checkpointer: Checkpointer,
    /// Answers reads.
    pub readers: Readers,
    /// What was found.
    pub opened: Opened,
}

impl Database {
    /// Opens the database, creating it if the file is missing or empty. Costs the same whatever its
    /// size, plus reading the WAL that was left.
    ///
    /// # Errors
    /// See [`OpenError`]. A file that is not ours is left as it is.
    pub fn open(options: &Options, writer: WriterOptions) -> Result<Self, OpenError> {
        let Parts { writer: parts, readers, checkpointer, opened } = open_parts(options)?;
        let writer = Writer::new(parts, writer)
            .map_err(|error| error.into_open_error(&options.path, "preparing the writer"))?;
        Ok(Self { writer, checkpointer, readers, opened })
    }
}

/// The parts of an open database, before the writer is made of its own.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) writer: WriterParts,
    pub(crate) readers: Readers,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) opened: Opened,
}

/// What a writer is made of. Statements stand before the connection, so that they are dropped first.
#[derive(Debug)]
pub(crate) struct WriterParts {
    /// Writes the state table.
    pub(crate) state: State,
    /// Begins requests.
    pub(crate) request_start: RequestStart,
    /// The clock and the randomness of SQL on the connection.
    pub(crate) ambient: Arc<Ambient>,
    /// The pool, to be held during the last step of a checkpoint.
    pub(crate) readers: Readers,
    /// What the state table holds.
    pub(crate) stored: StoredState,
    /// What the database was opened with, to open another in its place.
    pub(crate) options: Options,
    /// The size of the WAL.
    pub(crate) gauge: WalGauge,
    /// The connection: configured, in no transaction, without an authorizer.
    pub(crate) connection: Guarded,
}

/// Opens all connections but those of readers.
///
/// # Errors
/// See [`OpenError`]. A file that is not ours is left as it is.
pub(crate) fn open_parts(options: &Options) -> Result<Parts, OpenError> {
    let path = &options.path;
    prepare_library()?;
    let refuse = |error: SqliteError| error.into_open_error(path, "opening the database");
    let probe = rusqlite::Connection::open_in_memory().map_err(|error| refuse(error.into()))?;
    compile_options::check(&probe)?;
    prepare_files(options)?;
    let reader_vfs = file_system(options, None)?;
    let readers = Readers::new(options, reader_vfs);
    open_connections(options, &readers, &WalGauge::new(path))
}

/// Opens writer and checkpointer of the file that is in place, for a pool that is there.
///
/// # Errors
/// See [`OpenError`]. A file that is not ours is left as it is.
pub(crate) fn open_connections(
    options: &Options,
    readers: &Readers,
    gauge: &WalGauge,
) -> Result<Parts, OpenError> {
    let path = &options.path;
    let refuse = |error: SqliteError| error.into_open_error(path, "opening the database");
    let ambient = Ambient::new();
    let writer_vfs = file_system(options, Some(Arc::clone(&ambient)))?;
    let mut writer = connection::open_writer(path, &writer_vfs, &ambient).map_err(refuse)?;
    let found = state::inspect(&writer, path)?;
    let epoch = found.as_ref().map_or(options.engine_epoch, |found| found.epoch);
    let known = if options.any_epoch { epoch } else { options.engine_epoch };
    let found = found.map(|found| found.of_epoch(known, path)).transpose()?;
    if found.is_none() {
        connection::shape_new_database(&writer).map_err(refuse)?;
    }
    connection::use_wal(&writer).map_err(refuse)?;
    settle_directory(options)?;
    if found.is_none() {
        state::create(&writer, options.engine_epoch).map_err(refuse)?;
    }
    gauge.follow(&mut writer).map_err(refuse)?;
    let (_, reader_vfs) = readers.file();
    let checkpointer = Checkpointer::open(path, reader_vfs, gauge).map_err(refuse)?;
    let opened = Opened { created: found.is_none(), epoch, state: found.unwrap_or_default() };
    let writer = WriterParts {
        state: State::new(&writer).map_err(refuse)?,
        request_start: RequestStart::new(&writer).map_err(refuse)?,
        ambient,
        readers: readers.clone(),
        stored: opened.state.clone(),
        options: options.clone(),
        gauge: gauge.clone(),
        connection: writer,
    };
    Ok(Parts { writer, readers: readers.clone(), checkpointer, opened })
}

/// Sets up what all connections of the process share, once. Must come before SQLite is used.
///
/// # Errors
/// It was used before: then numbers it draws would differ between nodes.
pub(crate) fn prepare_library() -> Result<(), OpenError> {
    memory::install();
    if !prng::install() {
        let reason = "SQLite was used before the first database was opened".to_owned();
        return Err(OpenError::Build(reason));
    }
    disk_full::install();
    Ok(())
}

fn file_system(options: &Options, clock: Option<Arc<Ambient>>) -> Result<Arc<Vfs>, OpenError> {
    Vfs::register(&options.scratch, clock, options.faults.clone())
        .map_err(|error| io_error(&options.path, "registering a file system", &error))
}

/// Makes the scratch directory and the database file, if they are missing, for their owner alone.
/// SQLite gives the WAL and the shared memory the same rights.
fn prepare_files(options: &Options) -> Result<(), OpenError> {
    let scratch = DirBuilder::new().recursive(true).mode(0o700).create(&options.scratch);
    scratch.map_err(|error| io_error(&options.scratch, "making the scratch directory", &error))?;
    let path = &options.path;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            let synced = file.sync_all().and_then(|()| sync_directory(path));
            synced.map_err(|error| io_error(path, "creating the database", &error))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(()),
            Ok(_) => Err(OpenError::Foreign {
                path: path.clone(),
                reason: "it is not a regular file".to_owned(),
            }),
            Err(error) => Err(io_error(path, "opening the database", &error)),
        },
        Err(error) => Err(io_error(path, "creating the database", &error)),
    }
}

/// Makes durable that the journal of the switch to WAL mode is gone. Should it come back after a
/// power cut, SQLite would take it for the journal of an unfinished transaction and roll the file
/// back to what it was before: empty. Done at each opening, as the last one may have been cut short.
fn settle_directory(options: &Options) -> Result<(), OpenError> {
    let path = &options.path;
    if let Some(disk) = &options.faults {
        disk.directory_synced();
    }
    sync_directory(path).map_err(|error| io_error(path, "syncing the data directory", &error))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn io_error(path: &Path, doing: &str, error: &io::Error) -> OpenError {
    OpenError::Local { path: path.to_owned(), source: local_error(doing, error) }
}

/// A failure of this node outside of SQLite.
pub(crate) fn local_error(doing: &str, error: &io::Error) -> LocalError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LocalKind::DiskFull,
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => LocalKind::Permission,
        _ => LocalKind::Io,
    };
    let code = rusqlite::ffi::SQLITE_CANTOPEN;
    LocalError { kind, doing: doing.to_owned(), message: error.to_string(), code }
}

#[cfg(test)]
mod tests;
