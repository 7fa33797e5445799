//! The files of one database as SQLite sees them: where temporary files go, what time it is.
//!
//! Each [`Database`](crate::Database) registers SQLite file systems of its own. They are copies of
//! the platform's, so locking, shared memory and syncing are SQLite's; three things differ:
//!
//! - **time**: on the writer "now" is the clock of the entry being applied ([`Ambient`]);
//! - **temporary files** are made in the database's own scratch directory, not where the process'
//!   environment says (an environment cannot be changed safely once there are threads);
//! - **faults**: with a [`FaultDisk`] every operation asks it first.
//!
//! Besides, [`make_local_time_utc`] switches SQLite's `localtime` to UTC for the whole process.
//!
//! A file system must outlive the connections that use it; [`Guarded`](crate::connection::Guarded)
//! sees to that. Nothing here may ever open a database file by itself: closing a second descriptor
//! would drop SQLite's locks.

#![expect(unsafe_code, reason = "implements sqlite3_vfs, which rusqlite does not wrap")]

pub(crate) mod faults;
pub(crate) mod outside;
pub(crate) mod unsynced;

use std::{
    ffi::{CStr, CString, c_char, c_int},
    fmt, io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    ptr,
    sync::{
        Arc, Once,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use rusqlite::ffi;

use crate::{ambient::Ambient, disk_full::TEMPORARY_PREFIX};
use faults::FaultDisk;

/// Milliseconds from the beginning of the Julian period to 1970, SQLite's zero of time.
const JULIAN_EPOCH_MS: i64 = 210_866_760_000_000;

/// The names temporary files go by in turn. A name is in use only for the microseconds between
/// creating and unlinking the file, so as many names as connections open at one instant suffice.
const TEMPORARY_NAMES: usize = 64;

/// How often another name is tried before opening a temporary file fails.
const TEMPORARY_ATTEMPTS: usize = 16;

/// A registered SQLite file system; unregistered when dropped.
pub(crate) struct Vfs {
    instance: *mut Instance,
}

// SAFETY: the instance is changed only through atomics after it was made, and SQLite guards its
// list of file systems with a mutex.
unsafe impl Send for Vfs {}
// SAFETY: as above.
unsafe impl Sync for Vfs {}

/// What SQLite holds a pointer to. The `base` comes first, so a pointer to the one is a pointer to
/// the other; its `pAppData` must stay what the platform's file system put there.
#[repr(C)]
struct Instance {
    base: ffi::sqlite3_vfs,
    original: *mut ffi::sqlite3_vfs,
    name: CString,
    clock: Option<Arc<Ambient>>,
    temporary: Vec<Box<[u8]>>,
    next_temporary: AtomicUsize,
    faults: Option<Arc<FaultDisk>>,
}

impl Vfs {
    /// Registers a file system under a name of its own. `clock` is given for the writer only.
    ///
    /// # Errors
    /// A scratch path with a NUL byte; SQLite without memory.
    pub(crate) fn register(
        scratch: &Path,
        clock: Option<Arc<Ambient>>,
        faults: Option<Arc<FaultDisk>>,
    ) -> io::Result<Arc<Self>> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        make_local_time_utc();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!("rq-{number}"))?;
        let temporary = (0..TEMPORARY_NAMES)
            .map(|slot| temporary_name(scratch, number, slot))
            .collect::<Result<Vec<_>, _>>()?;
        // SAFETY: a null name asks for the default.
        let original = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        if original.is_null() {
            return Err(io::Error::other("SQLite has no default file system"));
        }
        // SAFETY: the default file system is registered for the life of the process.
        let mut base = unsafe { *original };
        base.pNext = ptr::null_mut();
        base.zName = name.as_ptr();
        base.xOpen = Some(open);
        if clock.is_some() {
            base.xCurrentTime = Some(current_time);
            base.xCurrentTimeInt64 = Some(current_time_int64);
        }
        if faults.is_some() {
            base.szOsFile = faults::file_size(base.szOsFile);
            base.xDelete = Some(faults::delete);
        }
        let next_temporary = AtomicUsize::new(0);
        let instance = Instance { base, original, name, clock, temporary, next_temporary, faults };
        let instance = Box::into_raw(Box::new(instance));
        // SAFETY: the pointer is valid until `Drop`, `base` is the first field.
        let code = unsafe { ffi::sqlite3_vfs_register(instance.cast(), 0) };
        if code == ffi::SQLITE_OK {
            return Ok(Arc::new(Self { instance }));
        }
        // SAFETY: made above, and SQLite did not keep it.
        drop(unsafe { Box::from_raw(instance) });
        Err(io::Error::other(format!("SQLite did not register a file system (code {code})")))
    }

    /// The name to open connections with.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: the instance lives as long as `self`, the name is never changed.
        let instance = unsafe { &*self.instance };
        &instance.name
    }
}

impl Drop for Vfs {
    fn drop(&mut self) {
        // SAFETY: registered by `register`; no connection uses it any more (see the module).
        unsafe { ffi::sqlite3_vfs_unregister(self.instance.cast()) };
        // SAFETY: made by `Box::into_raw`, and SQLite has let go of it.
        drop(unsafe { Box::from_raw(self.instance) });
    }
}

impl fmt::Debug for Vfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vfs").field(&self.name()).finish()
    }
}

/// The name of a temporary file; SQLite wants two NUL bytes behind it, in case it is searched for
/// URI parameters.
fn temporary_name(scratch: &Path, number: u64, slot: usize) -> io::Result<Box<[u8]>> {
    let path = scratch.join(format!("{TEMPORARY_PREFIX}{}-{number}-{slot}", std::process::id()));
    let mut bytes = path.as_os_str().as_bytes().to_vec();
    if bytes.contains(&0) {
        return Err(io::Error::other("the scratch directory's path contains a NUL character"));
    }
    bytes.extend([0, 0]);
    Ok(bytes.into_boxed_slice())
}

/// The instance behind SQLite's pointer.
///
/// # Safety
/// `vfs` is a pointer this module registered and has not been unregistered.
unsafe fn instance<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Instance {
    // SAFETY: the caller's promise; `base` is the first field of a `repr(C)` struct.
    unsafe { &*vfs.cast::<Instance>() }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes the file system it was asked to use.
    let this = unsafe { instance(vfs) };
    if !name.is_null() {
        // SAFETY: SQLite's own arguments are handed on.
        return unsafe { open_named(this, name, file, flags, out_flags) };
    }
    let mut code = ffi::SQLITE_CANTOPEN;
    for _ in 0..TEMPORARY_ATTEMPTS {
        let slot = this.next_temporary.fetch_add(1, Ordering::Relaxed) % TEMPORARY_NAMES;
        let name = this.temporary[slot].as_ptr().cast();
        // SAFETY: as above; the name lives as long as the file system.
        code = unsafe { open_named(this, name, file, flags, out_flags) };
        if code & 0xff != ffi::SQLITE_CANTOPEN {
            break;
        }
    }
    code
}

/// Opens through the platform's file system, wrapped if there are faults to inject.
///
/// # Safety
/// The arguments are those of `xOpen`, the name not null and valid as long as the file.
unsafe fn open_named(
    this: &Instance,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    if let Some(disk) = &this.faults {
        // SAFETY: the caller's promise.
        return unsafe { faults::open(disk, this.original, name, file, flags, out_flags) };
    }
    // SAFETY: the original is registered for the life of the process.
    let Some(open) = (unsafe { (*this.original).xOpen }) else { return ffi::SQLITE_CANTOPEN };
    // SAFETY: the caller's promise.
    unsafe { open(this.original, name, file, flags, out_flags) }
}

unsafe extern "C" fn current_time_int64(
    vfs: *mut ffi::sqlite3_vfs,
    time: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes the file system it was asked to use.
    let now = julian_now(unsafe { instance(vfs) });
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *time = now };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, time: *mut f64) -> c_int {
    const MS_PER_DAY: f64 = 86_400_000.0;
    // SAFETY: SQLite passes the file system it was asked to use.
    let now = julian_now(unsafe { instance(vfs) });
    #[expect(clippy::cast_precision_loss, reason = "the interface wants days as a double")]
    let days = now as f64 / MS_PER_DAY;
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *time = days };
    ffi::SQLITE_OK
}

fn julian_now(this: &Instance) -> i64 {
    this.clock.as_ref().map_or(0, |clock| clock.clock_ms().saturating_add(JULIAN_EPOCH_MS))
}

/// Makes `localtime` of SQLite's date functions mean UTC, on all connections of this process and
/// whatever the environment says. Done once, before the first connection of ours is opened.
pub(crate) fn make_local_time_utc() {
    /// "Call the function given instead of `localtime`."
    const INSTEAD: c_int = 2;
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        let function: unsafe extern "C" fn(*const libc::time_t, *mut libc::tm) -> c_int = utc;
        // SAFETY: no connection of ours exists yet; SQLite keeps a pointer to a static function.
        unsafe {
            ffi::sqlite3_test_control(ffi::SQLITE_TESTCTRL_LOCALTIME_FAULT, INSTEAD, function)
        };
    });
}

/// What SQLite calls for local time: UTC, by a function that looks at no zone. Non-zero is failure.
unsafe extern "C" fn utc(time: *const libc::time_t, broken_down: *mut libc::tm) -> c_int {
    // SAFETY: SQLite passes a time and a place for the answer.
    let answer = unsafe { libc::gmtime_r(time, broken_down) };
    c_int::from(answer.is_null())
}

#[cfg(test)]
mod tests;
