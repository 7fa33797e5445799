//! Counts what is done within one step of the virtual machine.
//!
//! Budgets and deadlines look between steps. A step that calls a function over long values may do as
//! much as millions of others, so whoever does it says so here, in bytes that were looked at or written,
//! and learns whether to go on. Sixteen bytes count for one step. Who counts for the thread is whoever
//! runs a statement on it ([`Counted`]): the writer's budget of steps, or the control of a read.
//!
//! On the writer the sum decides where a statement ends, so only what follows from the statement and the
//! database may be said here: lengths of values, never times or what happens to be cached.

#![expect(unsafe_code, reason = "reports to SQLite that a function was stopped")]

use std::{
    cell::{Cell, RefCell},
    fmt,
    sync::Arc,
};

use rusqlite::ffi;

use crate::budget::STEP_QUANTUM;

/// How many bytes that are looked at count for one step.
const BYTES_PER_STEP: u64 = 16;

/// After how many bytes whoever counts is asked.
const BYTES_PER_LOOK: u64 = STEP_QUANTUM * BYTES_PER_STEP;

/// Counts for a thread while it runs a statement.
pub(crate) trait Meter: fmt::Debug + Send + Sync {
    /// So many looks' worth of steps were done within the current one; false if it must end.
    fn take(&self, looks: u64) -> bool;
}

thread_local! {
    static METER: RefCell<Option<Arc<dyn Meter>>> = const { RefCell::new(None) };
    /// Bytes that make no look yet.
    static REST: Cell<u64> = const { Cell::new(0) };
}

/// While it lives, what this thread does is counted by a meter.
pub(crate) struct Counted(());

impl Counted {
    /// Begins to count.
    pub(crate) fn by(meter: Arc<dyn Meter>) -> Self {
        METER.set(Some(meter));
        begin();
        Self(())
    }
}

/// Begins to count a statement, from 0.
pub(crate) fn begin() {
    REST.set(0);
}

impl Drop for Counted {
    fn drop(&mut self) {
        METER.set(None);
    }
}

/// Says that so many bytes were looked at or written; false if the statement must end.
pub(crate) fn done(bytes: u64) -> bool {
    let sum = REST.get().saturating_add(bytes);
    if sum < BYTES_PER_LOOK {
        REST.set(sum);
        return true;
    }
    REST.set(sum % BYTES_PER_LOOK);
    let take = |meter: &RefCell<Option<Arc<dyn Meter>>>| {
        meter.borrow().as_ref().is_none_or(|meter| meter.take(sum / BYTES_PER_LOOK))
    };
    // SQLite may free memory while its thread ends.
    METER.try_with(take).unwrap_or(true)
}

/// Ends a call that was told to end, and with it its statement.
///
/// # Safety
/// `context` is that of the running call.
pub(crate) unsafe fn stop(context: *mut ffi::sqlite3_context) {
    // SAFETY: the caller's promise.
    unsafe { ffi::sqlite3_result_error_code(context, ffi::SQLITE_INTERRUPT) };
}
