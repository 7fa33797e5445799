//! Folds the WAL back into the database file, beside the running writer, and makes the file durable.
//!
//! The scheme: whenever the WAL has grown past a size of the caller's choice, [`Checkpointer::fold`]
//! copies frames on a connection and thread of its own, while the writer goes on, until few are
//! left; then the writer itself, between two entries, copies the rest ([`finish`]). Only if that
//! last step catches all frames, at a moment when no reader stands on older ones, does the WAL start
//! over with the next commit. The moment is made likely by holding new readers for a few
//! milliseconds, and never waited for longer than that: the next attempt will do.
//!
//! SQLite never shortens a WAL by itself. One statement may have made its file as large as its budget of pages, so a
//! file beyond [`WAL_FILE_KEPT`] is emptied by the last step, when nobody reads from it; again, nobody is waited for.
//!
//! Nothing here may open the database file or the WAL a second time: closing the descriptor would
//! drop SQLite's locks. Syncing goes through SQLite's own files.

#![expect(unsafe_code, reason = "checkpoints and file controls, which rusqlite does not wrap")]

use std::{
    ffi::{c_int, c_void},
    fs,
    path::{Path, PathBuf},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, ffi};

use crate::{
    connection::{self, Guarded},
    entry::EntryId,
    error::{LocalError, SqliteError},
    readers::Readers,
    state,
    vfs::Vfs,
};

/// With fewer frames than this left, the rest is the writer's: copying them takes it about 2 ms.
const FEW_FRAMES: u64 = 2_000;

/// How many rounds one call of [`Checkpointer::fold`] makes at most. A writer faster than the disk
/// would keep it busy for ever; the caller comes back.
const ROUNDS: usize = 16;

/// How long [`finish`] waits for running reads before it goes on without their end.
const READERS_PATIENCE: Duration = Duration::from_millis(3);

/// A WAL file larger than this, in bytes (64 MiB), is emptied when it is folded. Below, its space is kept for what is
/// written next.
pub const WAL_FILE_KEPT: u64 = 64 << 20;

/// Bytes of a WAL frame besides its page.
const FRAME_HEADER: u64 = 24;
/// How the WAL is made durable: on macOS an ordinary fsync leaves it in the drive's cache.
const SYNC: i32 =
    if cfg!(target_os = "macos") { ffi::SQLITE_SYNC_FULL } else { ffi::SQLITE_SYNC_NORMAL };

/// Folds the WAL back. Owns a connection; use it on a thread of its own.
#[derive(Debug)]
pub struct Checkpointer {
    pub(crate) connection: Guarded,
    gauge: WalGauge,
}

/// What [`Checkpointer::fold`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Frames in the WAL.
    pub frames: u64,
    /// Frames of them that the database file holds now, durably.
    pub folded: u64,
    /// Whether few enough are left for the writer to do the rest (`Writer::finish_checkpoint`).
    pub nearly_done: bool,
    /// Whether it stopped because a reader stands on an older frame.
    pub pinned: bool,
}

/// What the last step of a checkpoint did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Frames in the WAL.
    pub frames: u64,
    /// Whether all of them are folded and no reader is in the way: the next commit starts the WAL
    /// over.
    pub restarts: bool,
    /// Whether the file of the WAL was larger than [`WAL_FILE_KEPT`] and is empty now.
    pub emptied: bool,
    /// How long the writer and new readers were held up.
    pub pause: Duration,
}

/// The size of the WAL as of the writer's last commit, shared by writer and checkpointer. It outlives
/// them when the file is replaced.
#[derive(Clone, Debug)]
pub(crate) struct WalGauge(Arc<Gauge>);

#[derive(Debug)]
struct Gauge {
    frames: AtomicU64,
    frame_bytes: AtomicU64,
    file: PathBuf,
}

impl WalGauge {
    /// Of the WAL of this database.
    pub(crate) fn new(database: &Path) -> Self {
        let mut file = database.as_os_str().to_owned();
        file.push("-wal");
        let (frames, frame_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Gauge { frames, frame_bytes, file: file.into() }))
    }

    fn file_bytes(&self) -> u64 {
        fs::metadata(&self.0.file).map_or(0, |file| file.len())
    }

    /// Has the gauge follow the commits of a writer.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn follow(&self, writer: &mut Connection) -> Result<(), SqliteError> {
        let page_size: i64 = writer.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let (frames, _) = checkpoint(writer, ffi::SQLITE_CHECKPOINT_NOOP)?;
        self.0.frames.store(frames, Ordering::Relaxed);
        self.0.frame_bytes.store(page_size.unsigned_abs() + FRAME_HEADER, Ordering::Relaxed);
        let gauge = Arc::clone(&self.0);
        writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, frames: c_int| {
            gauge.frames.store(u64::try_from(frames).unwrap_or_default(), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(())
    }
}

/// The size of the WAL. Clones show the same WAL.
#[derive(Clone, Debug)]
pub struct WalSize {
    gauge: WalGauge,
}

impl WalSize {
    /// The bytes of the WAL in use as of the last commit. Costs nothing. The file may be larger: it is
    /// overwritten from its start, and holds what a transaction wrote that was not committed.
    pub fn bytes(&self) -> u64 {
        let Gauge { frames, frame_bytes, .. } = &*self.gauge.0;
        frames.load(Ordering::Relaxed) * frame_bytes.load(Ordering::Relaxed)
    }

    /// The bytes a page takes in the WAL, whatever database is in place now.
    pub fn frame_bytes(&self) -> u64 {
        self.gauge.0.frame_bytes.load(Ordering::Relaxed)
    }

    /// The bytes of the file, asked of the file system; 0 if there is none.
    pub fn file_bytes(&self) -> u64 {
        self.gauge.file_bytes()
    }
}

impl Checkpointer {
    /// Opens the connection. The database must be in WAL mode.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn open(path: &Path, vfs: &Arc<Vfs>, gauge: &WalGauge) -> Result<Self, SqliteError> {
        Ok(Self { connection: connection::open_checkpointer(path, vfs)?, gauge: gauge.clone() })
    }

    /// The size of the WAL, for whoever must not wait for a checkpoint to know it.
    pub fn wal_size(&self) -> WalSize {
        WalSize { gauge: self.gauge.clone() }
    }

    /// See [`WalSize::bytes`].
    pub fn wal_bytes(&self) -> u64 {
        self.wal_size().bytes()
    }

    /// Copies frames into the database file and syncs it, in rounds, until few are left, a reader is
    /// in the way, or the writer proves faster.
    ///
    /// # Errors
    /// A failure of this node (disk full, I/O). Nothing is lost: the frames are still in the WAL.
    pub fn fold(&mut self) -> Result<Fold, LocalError> {
        let mut before = None;
        for round in 1..=ROUNDS {
            let (frames, folded) = checkpoint(&self.connection, ffi::SQLITE_CHECKPOINT_PASSIVE)
                .map_err(|error| error.into_local("folding the write-ahead log back"))?;
            // Without this the writer's last step would have to wait for all that was written.
            self.sync(ffi::SQLITE_FCNTL_FILE_POINTER, "syncing the database file")?;
            let nearly_done = frames - folded < FEW_FRAMES;
            let pinned = !nearly_done && before == Some(folded);
            before = Some(folded);
            if nearly_done || pinned || round == ROUNDS {
                return Ok(Fold { frames, folded, nearly_done, pinned });
            }
        }
        unreachable!("the last round returns")
    }

    /// Makes all durable that is committed at this moment, and says which entry that is up to: the
    /// log may be purged up to it, whatever happens next. `None` if no entry was ever applied.
    ///
    /// # Errors
    /// A failure of this node: then nothing may be purged.
    pub fn make_durable(&mut self) -> Result<Option<EntryId>, LocalError> {
        let doing = "making the database durable";
        let local = |error: SqliteError| error.into_local(doing);
        // Under a read transaction the frames it sees cannot be overwritten, so what is synced below
        // is what was read.
        let transaction =
            self.connection.unchecked_transaction().map_err(|error| local(error.into()))?;
        let applied = state::read_applied(&transaction).map_err(local)?;
        // Frames already folded are synced in the database file before the WAL may start over; all
        // others are in the WAL.
        self.sync(ffi::SQLITE_FCNTL_JOURNAL_POINTER, doing)?;
        transaction.finish().map_err(|error| local(error.into()))?;
        Ok(applied)
    }

    /// Copies everything from the WAL into the database file, syncs that, and empties the WAL. False
    /// if a reader or another process is in the way for longer than `patience`; nothing is lost then.
    ///
    /// # Errors
    /// A failure of this node. Nothing is lost.
    pub(crate) fn empty_wal(&self, patience: Duration) -> Result<bool, SqliteError> {
        self.connection.busy_timeout(patience)?;
        let emptied = checkpoint(&self.connection, ffi::SQLITE_CHECKPOINT_TRUNCATE);
        self.connection.busy_timeout(connection::BUSY_TIMEOUT)?;
        // An emptied WAL has no frames; what is in the way leaves some, or it cannot be told how many.
        let remaining = checkpoint(&self.connection, ffi::SQLITE_CHECKPOINT_NOOP)?;
        Ok(emptied? == (0, 0) && remaining == (0, 0))
    }

    /// Calls `xSync` of the database file or of the WAL.
    fn sync(&self, which: c_int, doing: &str) -> Result<(), LocalError> {
        sync_file(&self.connection, which).map_err(|error| error.into_local(doing))
    }
}

/// The last step, on the writer's connection between two transactions: holds new readers for a
/// moment, waits briefly for the running ones, and copies what is left. Empties a file that is too
/// large, if it can be done at once.
///
/// # Errors
/// A failure of this node. Nothing is lost.
pub(crate) fn finish(
    writer: &Connection,
    readers: &Readers,
    gauge: &WalGauge,
) -> Result<Finish, LocalError> {
    let local = |error: SqliteError| error.into_local("folding the write-ahead log back");
    let started = Instant::now();
    let hold = readers.hold(READERS_PATIENCE);
    let (frames, folded) = checkpoint(writer, ffi::SQLITE_CHECKPOINT_PASSIVE).map_err(local)?;
    let restarts = frames == folded && hold.is_alone();
    let emptied = restarts
        && gauge.file_bytes() > WAL_FILE_KEPT
        && empty_at_once(writer, gauge).map_err(local)?;
    drop(hold);
    Ok(Finish { frames, restarts, emptied, pause: started.elapsed() })
}

/// Empties a WAL that is folded, unless somebody reads from it: other processes, and a copy being made.
fn empty_at_once(writer: &Connection, gauge: &WalGauge) -> Result<bool, SqliteError> {
    writer.busy_timeout(Duration::ZERO)?;
    let emptied = checkpoint(writer, ffi::SQLITE_CHECKPOINT_TRUNCATE);
    writer.busy_timeout(connection::BUSY_TIMEOUT)?;
    emptied?;
    let is_empty = gauge.file_bytes() == 0;
    if is_empty {
        gauge.0.frames.store(0, Ordering::Relaxed);
    }
    Ok(is_empty)
}

/// Runs a checkpoint of the kind given and returns the frames in the WAL and those folded.
/// A checkpoint of another connection running at the same time is no error: nothing is done then.
fn checkpoint(connection: &Connection, kind: c_int) -> Result<(u64, u64), SqliteError> {
    // SAFETY: the handle is used below while the connection is borrowed.
    let database = unsafe { connection.handle() };
    let (mut frames, mut folded) = (0, 0);
    // SAFETY: both results are written before the return.
    let code = unsafe {
        ffi::sqlite3_wal_checkpoint_v2(
            database,
            c"main".as_ptr(),
            kind,
            &raw mut frames,
            &raw mut folded,
        )
    };
    // SQLITE_BUSY fills the results in as well; -1 says that it could not tell.
    if code != ffi::SQLITE_OK && code & 0xff != ffi::SQLITE_BUSY {
        // SAFETY: the connection is alive.
        let code = unsafe { ffi::sqlite3_extended_errcode(database) };
        return Err(SqliteError { code, message: ffi::code_to_str(code).to_owned() });
    }
    let frames = u64::try_from(frames).unwrap_or_default();
    Ok((frames, u64::try_from(folded).unwrap_or_default().min(frames)))
}

/// Calls `xSync` of one of a connection's own files.
fn sync_file(connection: &Connection, which: c_int) -> Result<(), SqliteError> {
    let failed = |code: c_int| SqliteError { code, message: ffi::code_to_str(code).to_owned() };
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the handle is used below while the connection is borrowed.
    let database = unsafe { connection.handle() };
    let place = (&raw mut file).cast::<c_void>();
    // SAFETY: this control writes a pointer to the place given.
    let code = unsafe { ffi::sqlite3_file_control(database, c"main".as_ptr(), which, place) };
    if code != ffi::SQLITE_OK {
        return Err(failed(code));
    }
    if file.is_null() {
        return Ok(());
    }
    // SAFETY: a file of the connection, alive as long as it.
    let methods = unsafe { (*file).pMethods };
    if methods.is_null() {
        // Not opened yet, so nothing was written through any connection of this process.
        return Ok(());
    }
    // SAFETY: an open file has methods.
    let Some(sync) = (unsafe { (*methods).xSync }) else { return Ok(()) };
    // SAFETY: the file's own method; syncing takes no lock and may run beside writes.
    let code = unsafe { sync(file, SYNC) };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(failed(code)) }
}

#[cfg(test)]
mod tests;
