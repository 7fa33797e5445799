//! Tells a disk that is really full from everything else SQLite calls `SQLITE_FULL`.
//!
//! SQLite reports one and the same code for a device without space (a failure of this node), for
//! `max_page_count` reached (the page budget of a request: a result, equal on all nodes) and for a
//! table whose rowids are used up (a result too). Only the first comes out of a write to a file. So
//! the writes of SQLite's Unix file systems pass through here, and those that found no space are
//! counted for the thread that made them. Nothing else about them is changed.

#![expect(unsafe_code, reason = "replaces system calls of SQLite's file system by name")]

use std::{cell::Cell, ffi::c_void, io, mem, ptr, sync::Once};

use rusqlite::ffi;

thread_local! {
    static REFUSED_WRITES: Cell<u64> = const { Cell::new(0) };
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
type Write = unsafe extern "C" fn(libc::c_int, *const c_void, usize) -> isize;
type Pwrite = unsafe extern "C" fn(libc::c_int, *const c_void, usize, libc::off_t) -> isize;

unsafe extern "C" fn counting_write(
    file: libc::c_int,
    bytes: *const c_void,
    count: usize,
) -> isize {
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
