//! SQLite's own random numbers, made to follow from the entry while a client's statement runs.
//!
//! `random()` is ours on the writer, but the library also draws numbers for itself, from one generator
//! of the whole process: a rowid for a table that holds the greatest one, which is 2⁶³ − 1, and salts
//! of the WAL. The former is seen by everybody and must be equal on all nodes.
//!
//! The generator is guarded by a mutex of its own, and SQLite lets a program supply the mutexes. So
//! ours, else the platform's, tell when a thread enters that one. If the thread runs a client's
//! statement ([`Determined`]), the generator is seeded before the draw and made to forget the seed
//! after it, under that same mutex: no other connection or database of the process can come between,
//! or draw what follows from such a seed.
//!
//! A seed follows from the entry, the request and the *position*: the connection's last rowid and its
//! count of changes, one of which moves with each row that is inserted. It does not follow from the
//! draws before, since salts are drawn whenever the WAL happens to start over. Of the draws at one
//! position, [`EQUAL_DRAWS`] in a row give the same: a rowid that is taken is merely tried again, and
//! the at most two salts of a transaction do not decide which free one is found first.
//!
//! Names of columns are drawn too, but when a statement is compiled, and views remember them; see
//! `column_names` for how that is closed. Nothing here may be asked for randomness.

#![expect(unsafe_code, reason = "supplies SQLite's mutexes and seeds its generator")]

use std::{
    cell::Cell,
    ffi::c_int,
    marker::PhantomData,
    mem, ptr,
    sync::{
        OnceLock,
        atomic::{AtomicPtr, Ordering},
    },
};

use rusqlite::{Connection, ffi};

/// How many draws at one position give equal numbers; more than the salts among them, and less than the
/// hundred after which SQLite gives a table up as full.
const EQUAL_DRAWS: u32 = 16;

thread_local! {
    /// What the numbers drawn by this thread follow from, if they are determined.
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
    /// The generator is being seeded by this thread, which holds its mutex.
    static SEEDING: Cell<bool> = const { Cell::new(false) };
    /// The generator holds a seed of this thread, which holds its mutex.
    static SEEDED: Cell<bool> = const { Cell::new(false) };
}

#[derive(Clone, Copy)]
struct Running {
    database: *mut ffi::sqlite3,
    key: u64,
    /// The connection's total of changes at the zero of positions.
    changes_before: i64,
    position: (i64, i64),
    /// Draws at this position so far.
    draws: u32,
}

/// While this lives, what SQLite draws for itself on this thread follows from a key and from what the
/// connection has inserted.
pub(crate) struct Determined<'a> {
    connection: PhantomData<&'a Connection>,
}

impl<'a> Determined<'a> {
    /// Begins, for statements of `connection`. Positions count from what its total of changes was when
    /// the request began.
    pub(crate) fn begin(connection: &'a Connection, key: u64, changes_before: i64) -> Self {
        // SAFETY: the handle is used while this value, which borrows the connection, lives.
        let database = unsafe { connection.handle() };
        RUNNING.set(Some(Running { database, key, changes_before, position: (0, 0), draws: 0 }));
        Self { connection: PhantomData }
    }
}

impl Drop for Determined<'_> {
    fn drop(&mut self) {
        RUNNING.set(None);
    }
}

impl Running {
    /// The seed of the next draw, never 0.
    fn next_seed(&mut self) -> u32 {
        // SAFETY: the connection lives, and this thread is the one that uses it.
        let rowid = unsafe { ffi::sqlite3_last_insert_rowid(self.database) };
        // SAFETY: as above.
        let changes = unsafe { ffi::sqlite3_total_changes64(self.database) };
        let changes = changes.wrapping_sub(self.changes_before);
        if self.position != (rowid, changes) {
            self.position = (rowid, changes);
            self.draws = 0;
        }
        let round = u64::from(self.draws / EQUAL_DRAWS);
        self.draws = self.draws.saturating_add(1);
        let parts = [rowid.cast_unsigned(), changes.cast_unsigned(), round];
        let mixed = parts.into_iter().fold(self.key, |sum, part| mix(sum ^ mix(part)));
        let (high, low) = ((mixed >> 32) & u64::from(u32::MAX), mixed & u64::from(u32::MAX));
        u32::try_from(high ^ low).unwrap_or_default().max(1)
    }
}

/// Moves about half of the bits of the result with each bit of the number (`SplitMix64`).
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

type Use = unsafe extern "C" fn(*mut ffi::sqlite3_mutex);

/// How the platform's mutexes are entered and left; `None` if they could not be replaced.
static ORIGINAL: OnceLock<Option<(Use, Use)>> = OnceLock::new();

/// The mutex of the generator, which lives as long as the process.
static GENERATOR: AtomicPtr<ffi::sqlite3_mutex> = AtomicPtr::new(ptr::null_mut());

/// Supplies the mutexes of the process' SQLite, and says whether that was done. Must come before any
/// other use of SQLite but its configuration; later it does nothing, and nothing would be determined.
/// Further calls only answer.
pub(crate) fn install() -> bool {
    ORIGINAL.get_or_init(replace_mutexes).is_some()
}

fn replace_mutexes() -> Option<(Use, Use)> {
    // SQLite chooses its mutexes when it is first initialized, and tells them when it is not. It
    // refuses to tell, and this gives up, if somebody has been using it already.
    mutex_methods()?;
    // SAFETY: nobody uses SQLite yet.
    let code = unsafe { ffi::sqlite3_initialize() };
    if code != ffi::SQLITE_OK {
        return None;
    }
    // SAFETY: nothing of SQLite is in use: it was initialized just now, and not for anybody.
    unsafe { ffi::sqlite3_shutdown() };
    let mut methods = mutex_methods()?;
    let original = (methods.xMutexEnter?, methods.xMutexLeave?);
    methods.xMutexEnter = Some(enter);
    methods.xMutexLeave = Some(leave);
    // SAFETY: SQLite copies the structure; it refuses if it is already in use.
    let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MUTEX, &raw mut methods) };
    if code != ffi::SQLITE_OK {
        return None;
    }
    let allocate = methods.xMutexAlloc?;
    // SAFETY: static mutexes are never allocated, only named, and need no initialization before.
    let generator = unsafe { allocate(ffi::SQLITE_MUTEX_STATIC_PRNG) };
    GENERATOR.store(generator, Ordering::Relaxed);
    Some(original)
}

fn mutex_methods() -> Option<ffi::sqlite3_mutex_methods> {
    // SAFETY: a structure of function pointers, all of which may be null.
    let mut methods: ffi::sqlite3_mutex_methods = unsafe { mem::zeroed() };
    // SAFETY: SQLite fills in the structure this option asks for.
    let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMUTEX, &raw mut methods) };
    (code == ffi::SQLITE_OK).then_some(methods)
}

/// Whether this is the mutex of the generator.
fn guards_generator(mutex: *mut ffi::sqlite3_mutex) -> bool {
    ptr::eq(mutex, GENERATOR.load(Ordering::Relaxed))
}

/// The platform's way to enter and to leave. It is there whenever a mutex is used: SQLite cannot be
/// initialized by another thread before [`install`] has ended.
fn original() -> Option<(Use, Use)> {
    ORIGINAL.get().copied().flatten()
}

unsafe extern "C" fn enter(mutex: *mut ffi::sqlite3_mutex) {
    if SEEDING.get() && guards_generator(mutex) {
        return;
    }
    if let Some((enter, _)) = original() {
        // SAFETY: SQLite's own argument is handed on.
        unsafe { enter(mutex) };
    }
    if guards_generator(mutex)
        && let Some(mut running) = RUNNING.get()
    {
        seed(running.next_seed());
        SEEDED.set(true);
        RUNNING.set(Some(running));
    }
}

unsafe extern "C" fn leave(mutex: *mut ffi::sqlite3_mutex) {
    if SEEDING.get() && guards_generator(mutex) {
        return;
    }
    if guards_generator(mutex) && SEEDED.replace(false) {
        seed(0);
    }
    if let Some((_, leave)) = original() {
        // SAFETY: SQLite's own argument is handed on.
        unsafe { leave(mutex) };
    }
}

/// Makes the generator begin from this seed at the next draw; 0 is a seed of the operating system's.
/// This thread holds the generator's mutex, and SQLite would enter it once more.
fn seed(seed: u32) {
    SEEDING.set(true);
    let (seed, database): (c_int, *mut ffi::sqlite3) = (seed.cast_signed(), ptr::null_mut());
    // SAFETY: the arguments this control wants; what it changes is read only under the mutex held.
    unsafe { ffi::sqlite3_test_control(ffi::SQLITE_TESTCTRL_PRNG_SEED, seed, database) };
    SEEDING.set(false);
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::testing::plain_connection;

    fn draw() -> u64 {
        let mut number = 0_u64;
        // SAFETY: SQLite fills in eight bytes.
        unsafe { ffi::sqlite3_randomness(8, (&raw mut number).cast()) };
        number
    }

    #[test]
    fn numbers_follow_from_key_and_position_however_often_others_draw() {
        let connection = plain_connection();
        let draws = |key: u64| {
            let _determined = Determined::begin(&connection, key, 0);
            (0..EQUAL_DRAWS * 3).map(|_| draw()).collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let others = scope.spawn(|| (0..20_000).map(|_| draw()).collect::<Vec<_>>());
            let first = draws(7);
            assert_eq!(first.chunk_by(|left, right| left == right).count(), 3);
            for _ in 0..200 {
                assert_eq!(draws(7), first);
            }
            assert_ne!(draws(8)[0], first[0]);
            let mut others = others.join().unwrap();
            others.sort_unstable();
            others.dedup();
            assert_eq!(others.len(), 20_000, "another thread drew from a seed of ours");
            assert!(first.iter().all(|number| others.binary_search(number).is_err()));
        });
        let free = [draw(), draw()];
        assert_ne!(free[0], free[1], "nothing is determined any more");
    }
}
