//! Tells a disk that is really full from everything else SQLite calls `SQLITE_FULL`.
//!
//! SQLite reports one and the same code for a device without space (a failure of this node), for
//! `max_page_count` reached (the page budget of a request: a result, equal on all nodes) and for a
//! table whose rowids are used up (a result too). Only the first comes out of a write to a file. So
//! the writes of SQLite's Unix file systems pass through here, and those that found no space are
//! counted for the thread that made them.
//!
//! For the same reason this is the place where *temporary files* are bounded: sorts, materialized
//! views and undo information of one statement spill into them, and without a limit one statement
//! could fill the disk, wait for space as a failure of the node, and fill it again. While an
//! [`Allowance`] lives, its thread may write so many bytes to temporary files; the write beyond fails as
//! on a full disk but is not counted as one, so that the statement ends as one beyond its page budget.
//! How much a statement spills depends on the statement, the data and the fixed cache, so the limit
//! is met at the same place on every node. A request for reads has such an allowance too, so that it
//! cannot take the space the node itself needs.

#![expect(unsafe_code, reason = "replaces system calls of SQLite's file system by name")]

use std::{
    cell::Cell,
    ffi::{CStr, c_char, c_void},
    io, mem, ptr,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
};

use rusqlite::ffi;

thread_local! {
    static REFUSED_WRITES: Cell<u64> = const { Cell::new(0) };
    static TEMPORARY_LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// What the names of our temporary files begin with.
pub(crate) const TEMPORARY_PREFIX: &str = "temporary-";

/// File descriptors that are watched; temporary files with greater ones are not limited. No process
/// with the limits of this program comes near.
const DESCRIPTORS: usize = 1 << 16;

/// A bit for each descriptor of an open temporary file.
static TEMPORARY: [AtomicU64; DESCRIPTORS / 64] = [const { AtomicU64::new(0) }; DESCRIPTORS / 64];

/// Limits what this thread writes to temporary files, until it is dropped.
pub(crate) struct Allowance(());

impl Allowance {
    /// Allows so many bytes; 0 is no limit.
    pub(crate) fn of(bytes: u64) -> Self {
        TEMPORARY_LEFT.set(if bytes == 0 { u64::MAX } else { bytes });
        Self(())
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        TEMPORARY_LEFT.set(u64::MAX);
    }
}

/// How many writes of this thread found no space so far. Compare two of them.
pub(crate) fn refused_writes() -> u64 {
    REFUSED_WRITES.get()
}

/// Counts a write that found no space; for file systems that simulate one.
pub(crate) fn note_refused_write() {
    REFUSED_WRITES.set(REFUSED_WRITES.get() + 1);
}

/// Makes the process' SQLite count. Further calls do nothing.
pub(crate) fn install() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        // SAFETY: a null name asks for the default file system.
        let vfs = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        // SAFETY: a file system that was found is registered for the life of the process.
        let replace = unsafe { vfs.as_ref() }.and_then(|vfs| vfs.xSetSystemCall);
        let Some(replace) = replace else { return };
        // SAFETY: SQLite calls it with this signature, whose last argument is promoted as in C.
        let open = unsafe { mem::transmute::<Open, SystemCall>(marking_open) };
        // SAFETY: the name ends with a NUL byte; the function lives for ever.
        unsafe { replace(vfs, c"open".as_ptr(), Some(open)) };
        // SAFETY: SQLite calls it with the signature of `close`, which it has.
        let close = unsafe { mem::transmute::<Close, SystemCall>(unmarking_close) };
        // SAFETY: as above.
        unsafe { replace(vfs, c"close".as_ptr(), Some(close)) };
        // SAFETY: SQLite calls it with the signature of `write`, which it has.
        let write = unsafe { mem::transmute::<Write, SystemCall>(counting_write) };
        // SAFETY: the name ends with a NUL byte; the function lives for ever.
        unsafe { replace(vfs, c"write".as_ptr(), Some(write)) };
        // SAFETY: SQLite calls it with the signature of `pwrite`, which it has.
        let pwrite = unsafe { mem::transmute::<Pwrite, SystemCall>(counting_pwrite) };
        // SAFETY: as above. Builds without `pwrite` do not know the name and leave it at that.
        unsafe { replace(vfs, c"pwrite".as_ptr(), Some(pwrite)) };
    });
}

type SystemCall = unsafe extern "C" fn();
type Open = unsafe extern "C" fn(*const c_char, libc::c_int, libc::c_int) -> libc::c_int;
type Close = unsafe extern "C" fn(libc::c_int) -> libc::c_int;
type Write = unsafe extern "C" fn(libc::c_int, *const c_void, usize) -> isize;
type Pwrite = unsafe extern "C" fn(libc::c_int, *const c_void, usize, libc::off_t) -> isize;

unsafe extern "C" fn marking_open(
    path: *const c_char,
    flags: libc::c_int,
    mode: libc::c_int,
) -> libc::c_int {
    // SAFETY: SQLite's own arguments are handed on.
    let file = unsafe { libc::open(path, flags, mode) };
    // SAFETY: a path SQLite opened ends with a NUL byte.
    let path = unsafe { CStr::from_ptr(path) };
    let name = path.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    mark(file, name.starts_with(TEMPORARY_PREFIX.as_bytes()));
    file
}

unsafe extern "C" fn unmarking_close(file: libc::c_int) -> libc::c_int {
    mark(file, false);
    // SAFETY: SQLite's own argument is handed on.
    unsafe { libc::close(file) }
}

fn mark(file: libc::c_int, temporary: bool) {
    let Some((word, bit)) = place(file) else { return };
    if temporary {
        word.fetch_or(bit, Ordering::Relaxed);
    } else {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

fn place(file: libc::c_int) -> Option<(&'static AtomicU64, u64)> {
    let file = usize::try_from(file).ok()?;
    Some((TEMPORARY.get(file / 64)?, 1 << (file % 64)))
}

/// Whether this write goes beyond what its thread may write to temporary files.
fn beyond_allowance(file: libc::c_int, count: usize) -> bool {
    let left = TEMPORARY_LEFT.get();
    if left == u64::MAX
        || place(file).is_none_or(|(word, bit)| word.load(Ordering::Relaxed) & bit == 0)
    {
        return false;
    }
    let count = count as u64;
    TEMPORARY_LEFT.set(left.saturating_sub(count));
    count > left
}

/// Fails as a full disk does, without being one.
fn no_space() -> isize {
    #[cfg(target_os = "macos")]
    // SAFETY: the address of this thread's error number is always valid.
    let number = unsafe { libc::__error() };
    #[cfg(not(target_os = "macos"))]
    // SAFETY: the address of this thread's error number is always valid.
    let number = unsafe { libc::__errno_location() };
    // SAFETY: as above, and nobody else writes it now.
    unsafe { *number = libc::ENOSPC };
    -1
}

unsafe extern "C" fn counting_write(
    file: libc::c_int,
    bytes: *const c_void,
    count: usize,
) -> isize {
    if beyond_allowance(file, count) {
        return no_space();
    }
    // SAFETY: SQLite's own arguments are handed on.
    let written = unsafe { libc::write(file, bytes, count) };
    note(written, count);
    written
}

unsafe extern "C" fn counting_pwrite(
    file: libc::c_int,
    bytes: *const c_void,
    count: usize,
    offset: libc::off_t,
) -> isize {
    if beyond_allowance(file, count) {
        return no_space();
    }
    // SAFETY: SQLite's own arguments are handed on.
    let written = unsafe { libc::pwrite(file, bytes, count, offset) };
    note(written, count);
    written
}

/// Judges as SQLite does: no space is said by `ENOSPC`, or by nothing written at all.
fn note(written: isize, count: usize) {
    let refused = match written {
        0 => count > 0,
        1.. => false,
        _ => io::Error::last_os_error().raw_os_error() == Some(libc::ENOSPC),
    };
    if refused {
        note_refused_write();
    }
}
