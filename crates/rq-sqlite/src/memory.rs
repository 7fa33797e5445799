//! SQLite's allocator: tells memory that really ran out from memory that is not given.
//!
//! SQLite reports one and the same `SQLITE_NOMEM` when the allocator has no memory left (a failure
//! of this node), when a single allocation would exceed 2³¹ − 257 bytes, and when a statement wants more
//! than it is given here (results, equal on all nodes, which would otherwise be tried again for ever).
//! Only the first comes out of the allocator. So SQLite's allocator is called through here, and calls
//! that gave no memory are counted for the thread that made them.
//!
//! While an [`Account`] is open, what its thread allocates is counted, and refused beyond a limit. A text
//! of some hundred bytes can otherwise take all memory there is: by nested subqueries whose expressions
//! are put into each other, or by a row of many long values, each of them allowed. On the writer a
//! refusal is a result, so there it must follow from the statement and the database alone. A statement
//! that is compiled is charged all it asks for, whatever it gives back. One that runs is charged what it
//! holds in values that are larger than a page, so that what the page cache does is left out; tables of
//! the cache may be large as well, but SQLite says that it can do without them (it calls that *benign*),
//! and those are left out too. To allocate much at once is work ([`work`]) besides.

#![expect(unsafe_code, reason = "replaces SQLite's allocator by one that counts")]

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    ffi::{c_int, c_void},
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rusqlite::ffi;

use crate::{error::SqliteError, work};

/// What the page cache allocates for a page besides the page itself is less, in bytes.
const BESIDE_A_PAGE: usize = 4096;

/// The large values of a statement that runs may take so much memory together, in bytes: eight of the
/// longest there are.
const VALUES_MOST: u64 = 1 << 30;

/// A read may allocate so much memory, in bytes, for whatever.
const READ_MOST: u64 = 1 << 30;

/// All reads together may hold so much, in bytes.
const READS_MOST: u64 = 2 << 30;

/// A read adds to what all hold in portions of so many bytes.
const READS_PORTION: u64 = 1 << 20;

/// After a statement that was charged more than this, what it gave back is given back to the system too.
const RETURNED_FROM: u64 = 32 << 20;

/// What the smallest allocation has that counts as work, in bytes. The journal of a statement, which is kept
/// in memory at first, asks for less.
const LEAST_WORK: usize = 128 << 10;

/// How many bytes of a large allocation count for one that a function looks at.
const ALLOCATED_PER_LOOKED_AT: usize = 4;

/// What all reads hold, in whole portions of each.
static READS_HELD: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static FAILED_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LEDGER: Ledger = const { Ledger::closed() };
    static HAS_MUCH_TO_RETURN: Cell<bool> = const { Cell::new(false) };
    /// The allocations charged to an account of [`Charge::Values`].
    static VALUES: RefCell<BTreeSet<usize>> = const { RefCell::new(BTreeSet::new()) };
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

/// What is charged to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// Everything that is asked for, of what grows the growth, up to so many bytes; what is given back stays
    /// charged.
    Asked {
        /// Bytes.
        most: u64,
    },
    /// What is held in large values, up to [`VALUES_MOST`].
    Values {
        /// What the smallest has, in bytes.
        large: usize,
    },
    /// What is held, up to [`READ_MOST`], and by all such accounts together, up to [`READS_MOST`].
    Held,
}

impl Charge {
    /// The large values of a statement in a database of this page size.
    pub(crate) fn values(page_size: usize) -> Self {
        Self::Values { large: page_size + BESIDE_A_PAGE }
    }
}

/// Charges what this thread's SQLite calls allocate, until it is dropped. One at a time.
pub(crate) struct Account(());

impl Account {
    /// Opens an account with nothing charged to it.
    pub(crate) fn open(charge: Charge) -> Self {
        LEDGER.with(|ledger| {
            debug_assert_eq!(ledger.charge.get(), None, "an account is open");
            ledger.charge.set(Some(charge));
            ledger.charged.set(0);
            ledger.peak.set(0);
            ledger.most.set(match charge {
                Charge::Asked { most } => most,
                Charge::Values { .. } => VALUES_MOST,
                Charge::Held => READ_MOST,
            });
            ledger.has_refused.set(false);
        });
        Self(())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        LEDGER.with(|ledger| {
            ledger.charge.set(None);
            if ledger.has_values.take() {
                VALUES.with_borrow_mut(BTreeSet::clear);
            }
            let shared = ledger.shared.take();
            if shared > 0 {
                READS_HELD.fetch_sub(shared, Ordering::Relaxed);
            }
            if ledger.peak.get() >= RETURNED_FROM {
                HAS_MUCH_TO_RETURN.set(true);
            }
        });
    }
}

/// Gives memory back to the system, if a statement of this thread took much; to be called when its values
/// are freed. The allocator would keep it for this thread otherwise.
pub(crate) fn return_much() {
    if HAS_MUCH_TO_RETURN.replace(false) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: may be called at any time.
        unsafe {
            libc::malloc_trim(0)
        };
    }
}

/// Whether memory was refused because this thread's account was used up, since it was opened or
/// [`narrowed`](Narrowed).
pub(crate) fn has_refused() -> bool {
    LEDGER.with(|ledger| ledger.has_refused.get())
}

/// The failure of a statement that was refused memory.
pub(crate) fn refused() -> SqliteError {
    let message = "out of memory: a value or intermediate result is too large".to_owned();
    SqliteError { code: ffi::SQLITE_TOOBIG, message }
}

/// Lowers the limit of this thread's account, until it is dropped.
pub(crate) struct Narrowed {
    most: u64,
}

impl Narrowed {
    /// To so many bytes more than are charged now.
    pub(crate) fn to(more: u64) -> Self {
        LEDGER.with(|ledger| {
            let most = ledger.most.get();
            ledger.most.set(most.min(ledger.charged.get().saturating_add(more)));
            ledger.has_refused.set(false);
            Self { most }
        })
    }
}

impl Drop for Narrowed {
    fn drop(&mut self) {
        LEDGER.with(|ledger| ledger.most.set(self.most));
    }
}

/// Leaves out of this thread's account what a connection keeps beyond the statement, until it is dropped.
pub(crate) struct Uncharged {
    charge: Option<Charge>,
}

impl Uncharged {
    /// Begins to leave out.
    pub(crate) fn begin() -> Self {
        Self { charge: LEDGER.with(|ledger| ledger.charge.take()) }
    }
}

impl Drop for Uncharged {
    fn drop(&mut self) {
        LEDGER.with(|ledger| ledger.charge.set(self.charge));
    }
}

/// What is charged to this thread's account, in bytes; 0 if none is open.
pub(crate) fn charged() -> u64 {
    LEDGER.with(|ledger| ledger.charge.get().map_or(0, |_| ledger.charged.get()))
}

/// The account of a thread.
struct Ledger {
    charge: Cell<Option<Charge>>,
    charged: Cell<u64>,
    /// The most that was charged.
    peak: Cell<u64>,
    most: Cell<u64>,
    /// What of it is part of [`READS_HELD`].
    shared: Cell<u64>,
    has_refused: Cell<bool>,
    /// Whether there may be some in [`VALUES`].
    has_values: Cell<bool>,
    /// Whether SQLite can do without what it asks for.
    is_benign: Cell<bool>,
}

impl Ledger {
    const fn closed() -> Self {
        Self {
            charge: Cell::new(None),
            charged: Cell::new(0),
            peak: Cell::new(0),
            most: Cell::new(0),
            shared: Cell::new(0),
            has_refused: Cell::new(false),
            has_values: Cell::new(false),
            is_benign: Cell::new(false),
        }
    }

    /// Charges an allocation that grows or shrinks from `old` to `new` bytes; false if it is refused.
    fn charge(&self, charge: Charge, old: usize, new: usize) -> bool {
        let is_compiling = matches!(charge, Charge::Asked { .. });
        let given_back = if is_compiling { old.min(new) } else { old };
        let charged = self.charged.get().saturating_sub(given_back as u64);
        let charged = charged.saturating_add(new as u64);
        let is_too_much = new > given_back && charged > self.most.get();
        if is_too_much || (charge == Charge::Held && !self.share(charged)) {
            self.has_refused.set(true);
            return false;
        }
        if new >= LEAST_WORK
            && new > old
            && !is_compiling
            && !work::done(((new - old) / ALLOCATED_PER_LOOKED_AT) as u64)
        {
            return false;
        }
        self.charged.set(charged);
        self.peak.set(self.peak.get().max(charged));
        true
    }

    /// Charges all reads together with what one holds now; false if that is too much.
    fn share(&self, charged: u64) -> bool {
        let (shared, portions) = (self.shared.get(), charged - charged % READS_PORTION);
        if portions == shared {
            return true;
        }
        if portions > shared {
            let more = portions - shared;
            if READS_HELD.fetch_add(more, Ordering::Relaxed).saturating_add(more) > READS_MOST {
                READS_HELD.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        } else {
            READS_HELD.fetch_sub(shared - portions, Ordering::Relaxed);
        }
        self.shared.set(portions);
        true
    }
}

type Allocate = unsafe extern "C" fn(c_int) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Resize = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;
type Hook = unsafe extern "C" fn();
type Size = unsafe extern "C" fn(*mut c_void) -> c_int;

/// SQLite's own allocator.
#[derive(Clone, Copy)]
struct Original {
    allocate: Allocate,
    free: Free,
    resize: Resize,
    size: Size,
}

/// It; `None` if it could not be replaced.
static ORIGINAL: OnceLock<Option<Original>> = OnceLock::new();

/// Makes the process' SQLite count. Must come before any other call into SQLite; later it leaves
/// everything as it is. Further calls do nothing.
pub(crate) fn install() {
    ORIGINAL.get_or_init(|| {
        // SAFETY: a structure of function pointers, all of which may be null.
        let mut methods: ffi::sqlite3_mem_methods = unsafe { std::mem::zeroed() };
        // SAFETY: SQLite fills in the structure this option asks for.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods) };
        let original = Original {
            allocate: methods.xMalloc?,
            free: methods.xFree?,
            resize: methods.xRealloc?,
            size: methods.xSize?,
        };
        methods.xMalloc = Some(count_allocate);
        methods.xFree = Some(count_free);
        methods.xRealloc = Some(count_resize);
        if code != ffi::SQLITE_OK {
            return None;
        }
        let hooks: (Hook, Hook) = (begin_benign, end_benign);
        let option = ffi::SQLITE_TESTCTRL_BENIGN_MALLOC_HOOKS;
        // SAFETY: the option takes two functions, which SQLite calls around what it can do without.
        unsafe { ffi::sqlite3_test_control(option, hooks.0, hooks.1) };
        // SAFETY: SQLite copies the structure; it refuses if it is already in use.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods) };
        (code == ffi::SQLITE_OK).then_some(original)
    });
}

unsafe extern "C" fn count_allocate(bytes: c_int) -> *mut c_void {
    let Some(Some(original)) = ORIGINAL.get() else { return ptr::null_mut() };
    if !charge(0, bytes) {
        return ptr::null_mut();
    }
    // SAFETY: SQLite's own argument is handed on to its own allocator.
    let memory = unsafe { (original.allocate)(bytes) };
    remember(memory, bytes);
    note(memory)
}

unsafe extern "C" fn count_free(memory: *mut c_void) {
    let Some(Some(original)) = ORIGINAL.get() else { return };
    if !matches!(LEDGER.with(|ledger| ledger.charge.get()), None | Some(Charge::Asked { .. })) {
        // SAFETY: SQLite frees what it was given by this allocator.
        charge(unsafe { charged_size(original, memory) }, 0);
    }
    // SAFETY: SQLite's own argument is handed on to its own allocator.
    unsafe { (original.free)(memory) };
}

unsafe extern "C" fn count_resize(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(Some(original)) = ORIGINAL.get() else { return ptr::null_mut() };
    // SAFETY: SQLite resizes what it was given by this allocator.
    let old = unsafe { charged_size(original, memory) };
    if !charge(old, bytes) {
        remember(memory, old);
        return ptr::null_mut();
    }
    // SAFETY: SQLite's own arguments are handed on to its own allocator.
    let memory = unsafe { (original.resize)(memory, bytes) };
    remember(memory, bytes);
    note(memory)
}

/// What an allocation was charged to this thread's account, in bytes. Of a value it is forgotten.
///
/// # Safety
/// `memory` is null or was allocated by SQLite's allocator.
unsafe fn charged_size(original: &Original, memory: *mut c_void) -> c_int {
    let charge = LEDGER.with(|ledger| ledger.charge.get());
    if memory.is_null() || charge.is_none() {
        return 0;
    }
    // SAFETY: the caller's promise.
    let size = unsafe { (original.size)(memory) };
    match charge {
        Some(Charge::Values { large }) if bytes_of(size) < large => 0,
        Some(Charge::Values { .. }) => {
            let is_charged = VALUES.with_borrow_mut(|values| values.remove(&memory.addr()));
            if is_charged { size } else { 0 }
        }
        _ => size,
    }
}

/// Remembers that an allocation was charged, if it is a large value.
fn remember(memory: *mut c_void, bytes: c_int) {
    if !memory.is_null()
        && let Some(Charge::Values { large }) = LEDGER.with(|ledger| ledger.charge.get())
        && bytes_of(bytes) >= large
        && !LEDGER.with(|ledger| ledger.is_benign.get())
    {
        VALUES.with_borrow_mut(|values| values.insert(memory.addr()));
        LEDGER.with(|ledger| ledger.has_values.set(true));
    }
}

/// Charges this thread's account, if it has one; false if memory is refused.
fn charge(old: c_int, new: c_int) -> bool {
    LEDGER.with(|ledger| match ledger.charge.get() {
        None => true,
        Some(charge @ Charge::Values { large }) => {
            let is_counted = bytes_of(new) >= large && !ledger.is_benign.get();
            ledger.charge(charge, bytes_of(old), if is_counted { bytes_of(new) } else { 0 })
        }
        Some(charge) => ledger.charge(charge, bytes_of(old), bytes_of(new)),
    })
}

fn bytes_of(size: c_int) -> usize {
    usize::try_from(size).unwrap_or_default()
}

unsafe extern "C" fn begin_benign() {
    LEDGER.with(|ledger| ledger.is_benign.set(true));
}

unsafe extern "C" fn end_benign() {
    LEDGER.with(|ledger| ledger.is_benign.set(false));
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
    use crate::testing::Bare;

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
    const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, x);
        CREATE VIRTUAL TABLE f USING fts5(x);
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300)
        INSERT INTO t (x) SELECT hex(zeroblob(i % 20 * 1000)) FROM n";

    /// The least that a statement needs to end as it does without a limit, and how it ends.
    fn least(bare: &Bare, before: &str, sql: &str) -> (u64, usize) {
        let connection = &bare.parts.writer.connection;
        let run = |most: u64| {
            connection.execute_batch(before).unwrap();
            connection.execute_batch("BEGIN").unwrap();
            let mut statement = connection.prepare(sql).unwrap();
            let account = Account::open(Charge::values(4096));
            let narrowed = Narrowed::to(most);
            let ran = statement.execute([]);
            let refused = has_refused();
            drop((narrowed, account, statement));
            // Without memory SQLite may have ended the transaction by itself.
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK").unwrap();
            }
            assert_eq!(ran.is_err(), refused, "{sql}: {ran:?}");
            ran
        };
        let rows = run(VALUES_MOST).unwrap();
        let (mut short, mut enough) = (0, VALUES_MOST);
        while enough - short > 1 {
            let middle = short.midpoint(enough);
            *(if run(middle).is_ok() { &mut enough } else { &mut short }) = middle;
        }
        (enough, rows)
    }

    #[test]
    fn what_a_connection_keeps_from_the_first_call_on_is_not_charged() {
        let bare = Bare::with(SCHEMA);
        let peak = || {
            let mut statement = bare
                .parts
                .writer
                .connection
                .prepare(
                    "SELECT json_patch('{\"a\": 1}', '{\"b\": \"' || hex(zeroblob(5000)) || '\"}')",
                )
                .unwrap();
            let account = Account::open(Charge::values(4096));
            assert!(statement.exists([]).unwrap());
            drop(account);
            LEDGER.with(|ledger| ledger.peak.get())
        };
        let first = peak();
        assert!(first > 10_000, "{first}");
        assert_eq!(first, peak());
    }

    /// So that a limit of it ends a statement on all nodes or on none.
    #[test]
    fn what_a_statement_holds_in_values_is_the_same_whatever_is_cached() {
        let (cold, warm) = (Bare::with(SCHEMA).reopen(), Bare::with(SCHEMA));
        let forget = "PRAGMA shrink_memory";
        let remember = "SELECT sum(length(x)) FROM t; BEGIN; UPDATE t SET x = x || 1; ROLLBACK";
        for sql in [
            "UPDATE t SET x = x || hex(zeroblob(300000)) WHERE id % 100 = 7",
            "INSERT INTO t (x) SELECT group_concat(x) FROM t WHERE id < 100",
            "INSERT INTO t (x) SELECT x FROM t WHERE id < 200 ORDER BY x DESC LIMIT 20",
            "INSERT INTO f (x) SELECT replace(x, '0000', 'word ') FROM t WHERE id % 50 = 9",
            "UPDATE t SET x = zeroblob(50000) WHERE id < 300",
            "DELETE FROM t",
        ] {
            let found = least(&warm, remember, sql);
            assert_eq!(found, least(&cold, forget, sql), "{sql}");
            assert!(found.0 > 10_000 || !sql.contains("zeroblob(300000)"), "{sql}: {found:?}");
        }
    }
}
