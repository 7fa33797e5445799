//! Tells memory that really ran out from a size SQLite refuses to allocate.
//!
//! SQLite reports one and the same `SQLITE_NOMEM` when the allocator has no memory left (a failure
//! of this node) and when a single allocation would exceed 2³¹ − 257 bytes (a result, equal on all
//! nodes, which would otherwise be tried again for ever). Only the first comes out of the allocator.
//! So SQLite's allocator is called through here, and calls that gave no memory are counted for the
//! thread that made them. Nothing else about them is changed.

#![expect(unsafe_code, reason = "replaces SQLite's allocator by one that counts its failures")]

use std::{
    cell::Cell,
    ffi::{c_int, c_void},
    ptr,
    sync::OnceLock,
};

use rusqlite::ffi;

thread_local! {
    static FAILED_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// How many allocations of this thread's SQLite calls failed so far. Compare two of them.
pub(crate) fn failed_allocations() -> u64 {
    FAILED_ALLOCATIONS.get()
}

/// Whether memory was really lacking since [`failed_allocations`] gave `before`. Without the
/// counting allocator that is not known and assumed, because the node then tries again.
pub(crate) fn ran_out_since(before: u64) -> bool {
    !matches!(ORIGINAL.get(), Some(Some(_))) || failed_allocations() != before
}

type Allocate = unsafe extern "C" fn(c_int) -> *mut c_void;
type Resize = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;

/// SQLite's own allocator; `None` if it could not be replaced.
static ORIGINAL: OnceLock<Option<(Allocate, Resize)>> = OnceLock::new();

/// Makes the process' SQLite count. Must come before any other call into SQLite; later it leaves
/// everything as it is. Further calls do nothing.
pub(crate) fn install() {
    ORIGINAL.get_or_init(|| {
        // SAFETY: a structure of function pointers, all of which may be null.
        let mut methods: ffi::sqlite3_mem_methods = unsafe { std::mem::zeroed() };
        // SAFETY: SQLite fills in the structure this option asks for.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods) };
        let original = (methods.xMalloc?, methods.xRealloc?);
        methods.xMalloc = Some(count_allocate);
        methods.xRealloc = Some(count_resize);
        if code != ffi::SQLITE_OK {
            return None;
        }
        // SAFETY: SQLite copies the structure; it refuses if it is already in use.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods) };
        (code == ffi::SQLITE_OK).then_some(original)
    });
}

unsafe extern "C" fn count_allocate(bytes: c_int) -> *mut c_void {
    let Some(Some((allocate, _))) = ORIGINAL.get() else { return ptr::null_mut() };
    // SAFETY: SQLite's own argument is handed on to its own allocator.
    let memory = unsafe { allocate(bytes) };
    note(memory)
}

unsafe extern "C" fn count_resize(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(Some((_, resize))) = ORIGINAL.get() else { return ptr::null_mut() };
    // SAFETY: as above.
    let memory = unsafe { resize(memory, bytes) };
    note(memory)
}

fn note(memory: *mut c_void) -> *mut c_void {
    if memory.is_null() {
        FAILED_ALLOCATIONS.set(FAILED_ALLOCATIONS.get() + 1);
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_without_memory_are_counted_and_they_stay_failures_of_the_node() {
        let before = failed_allocations();
        let mut something = 0_u8;
        note((&raw mut something).cast());
        assert_eq!(failed_allocations(), before);
        note(ptr::null_mut());
        assert_eq!(failed_allocations(), before + 1);
        assert!(ran_out_since(before));
    }
}
