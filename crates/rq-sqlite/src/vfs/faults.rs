//! A disk that fails on command, for tests and simulations.
//!
//! Every operation that changes a file asks a [`FaultHook`] first. It may fail the operation, cut a
//! write short, or stop the world: after a crash nothing succeeds any more. What was not synced by
//! then may be lost: when all connections are closed, [`FaultDisk::lose_unsynced`] leaves on the
//! real disk what a power cut could have left. Shared memory (`-shm`) is no file in this sense: it
//! does not outlive the process. A database opened without a fault disk never runs this code.

#![expect(unsafe_code, reason = "implements sqlite3_io_methods, which rusqlite does not wrap")]

use std::{
    ffi::{CStr, OsStr, c_char, c_int, c_void},
    fmt, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::ffi;

use super::unsynced::{Unsynced, UnsyncedEffect};
use crate::disk_full;

/// Decides what happens to each operation on a [`FaultDisk`].
pub trait FaultHook: Send + Sync {
    /// Called before an operation, on the thread that asks for it.
    fn before(&self, operation: &FileOperation<'_>) -> Verdict;
}

/// An operation that is about to change a file or make it durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOperation<'a> {
    /// What is done.
    pub kind: OperationKind,
    /// To what kind of file.
    pub file: FileKind,
    /// The file.
    pub path: &'a Path,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// Creates a file.
    Create,
    /// Writes bytes.
    Write {
        /// Where, in bytes from the start of the file.
        offset: u64,
        /// How many bytes.
        length: usize,
    },
    /// Cuts the file.
    Truncate {
        /// The new length in bytes.
        length: u64,
    },
    /// Makes the file durable.
    Sync,
    /// Removes the file.
    Delete,
    /// Gives the file its name, in place of the one that had it.
    Rename,
    /// Makes durable which files the directory has.
    SyncDirectory,
}

/// What SQLite uses a file for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// The database file itself.
    Database,
    /// The write-ahead log.
    Wal,
    /// A rollback journal (only while a new database is made).
    Journal,
    /// A temporary file in the scratch directory.
    Temporary,
    /// A complete database file that is to replace the one in use.
    Incoming,
    /// The directory of the database.
    Directory,
}

/// What a [`FaultHook`] decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Proceed,
    /// Do not do it, and say that the disk is full.
    DiskFull,
    /// Do not do it, and report an I/O error.
    Fail,
    /// Do not do it, and let nothing succeed from now on.
    Crash,
    /// Write only this many bytes of it, then as [`Crash`](Self::Crash). Other operations crash.
    Torn(usize),
}

/// A simulated disk: one for each run of a database, handed over in
/// [`Options::faults`](crate::Options::faults).
pub struct FaultDisk {
    hook: Arc<dyn FaultHook>,
    crashed: AtomicBool,
    /// Held during each operation, so that what is remembered and what is on disk agree.
    unsynced: Mutex<Unsynced>,
}

impl FaultDisk {
    /// A disk on which everything is durable so far.
    pub fn new(hook: Arc<dyn FaultHook>) -> Arc<Self> {
        Arc::new(Self { hook, crashed: AtomicBool::new(false), unsynced: Mutex::default() })
    }

    /// Lets nothing succeed from now on.
    pub fn crash(&self) {
        self.crashed.store(true, Ordering::SeqCst);
    }

    /// Whether nothing succeeds any more.
    pub fn is_crashed(&self) -> bool {
        self.crashed.load(Ordering::SeqCst)
    }

    /// Takes back each effect since the last sync of its file that `survives` does not choose. Call
    /// it when the database and all its parts are dropped. Files and effects come in a fixed order.
    ///
    /// # Errors
    /// The real disk's.
    pub fn lose_unsynced(
        &self,
        survives: &mut dyn FnMut(&UnsyncedEffect<'_>) -> bool,
    ) -> io::Result<()> {
        self.unsynced().lose(survives)
    }

    /// Says that the directory of the files was synced, outside of SQLite.
    pub fn directory_synced(&self) {
        self.unsynced().sync_directory();
    }

    /// Asks for an operation outside of SQLite, and notes its effect if it may be done.
    pub(super) fn outside(
        &self,
        operation: &FileOperation<'_>,
        note: impl FnOnce(&mut Unsynced) -> io::Result<()>,
        act: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        match self.ask(operation, ffi::SQLITE_IOERR) {
            Ok(_) => {}
            Err(ffi::SQLITE_FULL) => return Err(io::ErrorKind::StorageFull.into()),
            Err(_) => return Err(io::Error::other("an injected fault")),
        }
        let mut unsynced = self.unsynced();
        note(&mut unsynced)?;
        act()
    }

    fn unsynced(&self) -> MutexGuard<'_, Unsynced> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to become of an operation: `Ok` with the bytes to write at most, or SQLite's code.
    fn ask(&self, operation: &FileOperation<'_>, error: c_int) -> Result<Option<usize>, c_int> {
        if self.is_crashed() {
            return Err(error);
        }
        match self.hook.before(operation) {
            Verdict::Proceed => Ok(None),
            Verdict::DiskFull => {
                disk_full::note_refused_write();
                Err(ffi::SQLITE_FULL)
            }
            Verdict::Fail => Err(error),
            Verdict::Crash => {
                self.crash();
                Err(error)
            }
            Verdict::Torn(bytes) => {
                self.crash();
                match operation.kind {
                    OperationKind::Write { .. } => Ok(Some(bytes)),
                    _ => Err(error),
                }
            }
        }
    }
}

impl fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultDisk").field("crashed", &self.is_crashed()).finish_non_exhaustive()
    }
}

/// An open file: ours in front, the platform's behind it in the same allocation of SQLite's.
#[repr(C)]
struct Wrapped {
    base: ffi::sqlite3_file,
    /// Owned; freed on close.
    info: *mut Info,
}

struct Info {
    disk: Arc<FaultDisk>,
    path: PathBuf,
    kind: FileKind,
}

/// How many bytes SQLite must allocate for one of our files.
pub(super) fn file_size(original: c_int) -> c_int {
    let ours = c_int::try_from(size_of::<Wrapped>()).expect("the struct is small");
    ours + original
}

/// Opens a file of the platform's and puts ours in front of it.
///
/// # Safety
/// The arguments are those of `xOpen`, the name is not null, and `file` has room for
/// [`file_size`] bytes.
pub(super) unsafe fn open(
    disk: &Arc<FaultDisk>,
    original: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: the caller's promise. A file without methods is not closed by SQLite.
    unsafe { (*file).pMethods = ptr::null() };
    // SAFETY: the name ends with a NUL byte.
    let path = path_of(unsafe { CStr::from_ptr(name) });
    let kind = kind_of(flags);
    let creates = flags & ffi::SQLITE_OPEN_CREATE != 0 && !path.exists();
    if disk.is_crashed() {
        return ffi::SQLITE_CANTOPEN;
    }
    if creates {
        let operation = FileOperation { kind: OperationKind::Create, file: kind, path: &path };
        if let Err(code) = disk.ask(&operation, ffi::SQLITE_CANTOPEN) {
            return code;
        }
        if kind != FileKind::Temporary {
            disk.unsynced().create(&path);
        }
    }
    let wrapped = file.cast::<Wrapped>();
    // SAFETY: the allocation goes on behind ours.
    let inner = unsafe { wrapped.add(1) }.cast::<ffi::sqlite3_file>();
    // SAFETY: the original is registered for the life of the process.
    let Some(open) = (unsafe { (*original).xOpen }) else { return ffi::SQLITE_CANTOPEN };
    // SAFETY: `inner` has the room the original asks for.
    let code = unsafe { open(original, name, inner, flags, out_flags) };
    if code == ffi::SQLITE_OK {
        let info = Box::into_raw(Box::new(Info { disk: Arc::clone(disk), path, kind }));
        let base = ffi::sqlite3_file { pMethods: &raw const METHODS };
        // SAFETY: as above.
        unsafe { wrapped.write(Wrapped { base, info }) };
    }
    code
}

/// `xDelete` of a file system with faults.
pub(super) unsafe extern "C" fn delete(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    // SAFETY: SQLite passes the file system it was asked to use.
    let this = unsafe { super::instance(vfs) };
    // SAFETY: SQLite passes a name that ends with a NUL byte.
    let path = path_of(unsafe { CStr::from_ptr(name) });
    let Some(disk) = &this.faults else { return ffi::SQLITE_IOERR_DELETE };
    let file =
        if path.to_string_lossy().ends_with("-wal") { FileKind::Wal } else { FileKind::Journal };
    let operation = FileOperation { kind: OperationKind::Delete, file, path: &path };
    if let Err(code) = disk.ask(&operation, ffi::SQLITE_IOERR_DELETE) {
        return code;
    }
    let mut unsynced = disk.unsynced();
    if unsynced.delete(&path, sync_directory != 0).is_err() {
        return ffi::SQLITE_IOERR_DELETE;
    }
    // SAFETY: the original is registered for the life of the process.
    let Some(delete) = (unsafe { (*this.original).xDelete }) else {
        return ffi::SQLITE_IOERR_DELETE;
    };
    // SAFETY: SQLite's own arguments are handed on.
    unsafe { delete(this.original, name, sync_directory) }
}

fn path_of(name: &CStr) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name.to_bytes()))
}

fn kind_of(flags: c_int) -> FileKind {
    if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        FileKind::Database
    } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
        FileKind::Wal
    } else if flags & (ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL) != 0 {
        FileKind::Journal
    } else {
        FileKind::Temporary
    }
}

/// A pointer SQLite gave back, taken apart.
struct Parts<'a> {
    info: &'a Info,
    inner: *mut ffi::sqlite3_file,
    methods: &'a ffi::sqlite3_io_methods,
}

/// # Safety
/// `file` was opened by [`open`] and is not closed.
unsafe fn parts<'a>(file: *mut ffi::sqlite3_file) -> Parts<'a> {
    let wrapped = file.cast::<Wrapped>();
    // SAFETY: the caller's promise.
    let info = unsafe { (*wrapped).info };
    // SAFETY: as above; the information lives until the file is closed.
    let info = unsafe { &*info };
    // SAFETY: as above.
    let inner = unsafe { wrapped.add(1) }.cast::<ffi::sqlite3_file>();
    // SAFETY: the platform's file was opened successfully, so it has methods.
    let methods = unsafe { (*inner).pMethods };
    // SAFETY: as above; methods are static.
    let methods = unsafe { &*methods };
    Parts { info, inner, methods }
}

impl Parts<'_> {
    fn operation(&self, kind: OperationKind) -> FileOperation<'_> {
        FileOperation { kind, file: self.info.kind, path: &self.info.path }
    }

    fn length(&self) -> io::Result<u64> {
        let mut length = 0;
        let call = self.methods.xFileSize.ok_or_else(|| io::Error::other("no xFileSize"))?;
        // SAFETY: the platform's own method on its own file.
        let code = unsafe { call(self.inner, &raw mut length) };
        if code == ffi::SQLITE_OK {
            Ok(u64::try_from(length).unwrap_or_default())
        } else {
            Err(io::Error::other("xFileSize failed"))
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let call = self.methods.xRead.ok_or_else(|| io::Error::other("no xRead"))?;
        let length = c_int::try_from(buffer.len()).map_err(io::Error::other)?;
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: the platform's own method on its own file; the buffer has `length` bytes.
        let code = unsafe { call(self.inner, buffer.as_mut_ptr().cast(), length, offset) };
        if code == ffi::SQLITE_OK || code == ffi::SQLITE_IOERR_SHORT_READ {
            Ok(())
        } else {
            Err(io::Error::other("xRead failed"))
        }
    }

    /// Remembers what stands in `from..to` before it changes. Temporary files never outlive a crash.
    fn remember(&self, unsynced: &mut Unsynced, from: u64, to: Option<u64>) -> io::Result<()> {
        if self.info.kind == FileKind::Temporary {
            return Ok(());
        }
        let length = self.length()?;
        let to = to.unwrap_or(length);
        unsynced.change(&self.info.path, from, to, length, |at, buffer| self.read(at, buffer))
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes what it opened, once.
    let parts = unsafe { parts(file) };
    let code = match parts.methods.xClose {
        // SAFETY: the platform's own method on its own file.
        Some(call) => unsafe { call(parts.inner) },
        None => ffi::SQLITE_OK,
    };
    // SAFETY: SQLite's memory, still allocated.
    let info = unsafe { (*file.cast::<Wrapped>()).info };
    // SAFETY: made by `Box::into_raw` in `open`; the file is not used after this.
    drop(unsafe { Box::from_raw(info) });
    code
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    length: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: an open file of ours.
    let parts = unsafe { parts(file) };
    if parts.info.disk.is_crashed() {
        return ffi::SQLITE_IOERR_READ;
    }
    match parts.methods.xRead {
        // SAFETY: SQLite's own arguments are handed on.
        Some(call) => unsafe { call(parts.inner, buffer, length, offset) },
        None => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    length: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: an open file of ours.
    let parts = unsafe { parts(file) };
    let (Ok(from), Ok(count)) = (u64::try_from(offset), usize::try_from(length)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    let operation = parts.operation(OperationKind::Write { offset: from, length: count });
    let torn = match parts.info.disk.ask(&operation, ffi::SQLITE_IOERR_WRITE) {
        Ok(torn) => torn.map(|bytes| bytes.min(count)),
        Err(code) => return code,
    };
    let kept = torn.unwrap_or(count);
    let mut unsynced = parts.info.disk.unsynced();
    if parts.remember(&mut unsynced, from, Some(from + kept as u64)).is_err() {
        return ffi::SQLITE_IOERR_WRITE;
    }
    let kept = c_int::try_from(kept).unwrap_or(length);
    let code = match parts.methods.xWrite {
        // SAFETY: SQLite's own arguments are handed on, with at most as many bytes.
        Some(call) => unsafe { call(parts.inner, bytes, kept, offset) },
        None => ffi::SQLITE_IOERR_WRITE,
    };
    if torn.is_some() { ffi::SQLITE_IOERR_WRITE } else { code }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, to: ffi::sqlite3_int64) -> c_int {
    // SAFETY: an open file of ours.
    let parts = unsafe { parts(file) };
    let Ok(length) = u64::try_from(to) else { return ffi::SQLITE_IOERR_TRUNCATE };
    let operation = parts.operation(OperationKind::Truncate { length });
    if let Err(code) = parts.info.disk.ask(&operation, ffi::SQLITE_IOERR_TRUNCATE) {
        return code;
    }
    let mut unsynced = parts.info.disk.unsynced();
    if parts.remember(&mut unsynced, length, None).is_err() {
        return ffi::SQLITE_IOERR_TRUNCATE;
    }
    match parts.methods.xTruncate {
        // SAFETY: SQLite's own arguments are handed on.
        Some(call) => unsafe { call(parts.inner, to) },
        None => ffi::SQLITE_IOERR_TRUNCATE,
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: an open file of ours.
    let parts = unsafe { parts(file) };
    let operation = parts.operation(OperationKind::Sync);
    if let Err(code) = parts.info.disk.ask(&operation, ffi::SQLITE_IOERR_FSYNC) {
        return code;
    }
    let mut unsynced = parts.info.disk.unsynced();
    // A simulated disk need not wait for the real one: only what is remembered counts.
    let _ = flags;
    unsynced.sync(&parts.info.path);
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_length(
    file: *mut ffi::sqlite3_file,
    length: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: an open file of ours.
    let parts = unsafe { parts(file) };
    match parts.methods.xFileSize {
        Some(_) if parts.info.disk.is_crashed() => ffi::SQLITE_IOERR_FSTAT,
        // SAFETY: SQLite's own arguments are handed on.
        Some(call) => unsafe { call(parts.inner, length) },
        None => ffi::SQLITE_IOERR_FSTAT,
    }
}

/// Defines methods that only hand on to the platform's file: an error if it has none, or after a
/// crash if the second code is given.
macro_rules! hand_on {
    ($($name:ident => $method:ident($($argument:ident: $type:ty),*) or $missing:expr, $crashed:expr;)*) => {$(
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file, $($argument: $type),*) -> c_int {
            // SAFETY: an open file of ours.
            let parts = unsafe { parts(file) };
            let crashed: Option<c_int> = $crashed;
            if let Some(code) = crashed && parts.info.disk.is_crashed() {
                return code;
            }
            match parts.methods.$method {
                // SAFETY: SQLite's own arguments are handed on.
                Some(call) => unsafe { call(parts.inner, $($argument),*) },
                None => $missing,
            }
        }
    )*};
}

hand_on! {
    lock => xLock(level: c_int) or ffi::SQLITE_IOERR_LOCK, Some(ffi::SQLITE_IOERR_LOCK);
    unlock => xUnlock(level: c_int) or ffi::SQLITE_OK, None;
    check_reserved => xCheckReservedLock(result: *mut c_int) or ffi::SQLITE_IOERR_CHECKRESERVEDLOCK, None;
    control => xFileControl(operation: c_int, argument: *mut c_void) or ffi::SQLITE_NOTFOUND, None;
    sector_size => xSectorSize() or 0, None;
    characteristics => xDeviceCharacteristics() or 0, None;
    map => xShmMap(region: c_int, size: c_int, extend: c_int, place: *mut *mut c_void)
        or ffi::SQLITE_IOERR_SHMMAP, Some(ffi::SQLITE_IOERR_SHMMAP);
    lock_map => xShmLock(offset: c_int, count: c_int, flags: c_int) or ffi::SQLITE_IOERR_SHMLOCK, None;
    unmap => xShmUnmap(delete: c_int) or ffi::SQLITE_OK, None;
    fetch => xFetch(offset: ffi::sqlite3_int64, count: c_int, place: *mut *mut c_void)
        or ffi::SQLITE_IOERR_MMAP, Some(ffi::SQLITE_IOERR_MMAP);
    unfetch => xUnfetch(offset: ffi::sqlite3_int64, place: *mut c_void) or ffi::SQLITE_OK, None;
}

unsafe extern "C" fn barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: an open file of ours.
    let parts = unsafe { parts(file) };
    if let Some(call) = parts.methods.xShmBarrier {
        // SAFETY: the platform's own method on its own file.
        unsafe { call(parts.inner) };
    }
}

/// The methods of all wrapped files.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_length),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(map),
    xShmLock: Some(lock_map),
    xShmBarrier: Some(barrier),
    xShmUnmap: Some(unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};
