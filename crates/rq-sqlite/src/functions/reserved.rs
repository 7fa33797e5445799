//! Has memory that is not SQLite's charged as if it were.
//!
//! What SQLite allocates for a statement is counted and bounded ([`memory`](crate::memory)). A function
//! that takes memory of its own in proportion to its arguments asks SQLite for as much and does not touch
//! it, so it takes none besides. On the writer a refusal is a result: what is asked for must follow from
//! the arguments.

#![expect(unsafe_code, reason = "allocates by SQLite's allocator")]

use std::{ffi::c_void, ptr};

use rusqlite::ffi;

/// Memory is asked for in portions of so many bytes.
const PORTION: u64 = 1 << 20;

/// Memory that is charged, until this is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    memory: *mut c_void,
    asked: u64,
    taken: u64,
}

/// SQLite gives no more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

impl Reserved {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { memory: ptr::null_mut(), asked: 0, taken: 0 }
    }

    /// Takes so many bytes more. The first portion is free.
    ///
    /// # Errors
    /// There is no more memory.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Refused> {
        self.taken = self.taken.saturating_add(bytes as u64);
        let wanted = self.taken / PORTION * PORTION;
        if wanted <= self.asked {
            return Ok(());
        }
        // SAFETY: null or allocated by this function; any size may be asked for.
        let memory = unsafe { ffi::sqlite3_realloc64(self.memory, wanted) };
        if memory.is_null() {
            return Err(Refused);
        }
        (self.memory, self.asked) = (memory, wanted);
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: null or allocated by `take`, and not used after this.
        unsafe { ffi::sqlite3_free(self.memory) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Account, Charge, charged};

    #[test]
    fn what_is_taken_is_charged_and_refused_beyond_the_limit() {
        crate::database::prepare_library().unwrap();
        let _account = Account::open(Charge::Asked { most: 3 * PORTION });
        let mut reserved = Reserved::new();
        reserved.take(1000).unwrap();
        assert_eq!(charged(), 0);
        reserved.take(2_000_000).unwrap();
        assert_eq!(charged(), PORTION);
        assert_eq!(reserved.take(3_000_000), Err(Refused));
    }
}
