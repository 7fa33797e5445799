//! The log of a node: records that survive a power cut, in segments, plus vote and purge marker.
//!
//! [`Log`] is a handle that may be cloned and shared. Calls that *change* the log are put into
//! effect in memory at once, in the order of the calls, and made durable in the same order behind
//! the caller's back; each says so through its [`Completion`]. So a record can be read, and sent to
//! other nodes, while it is still on its way to the disk.
//!
//! | file | what |
//! |---|---|
//! | `record.rs`, `segment.rs`, `state.rs` | the bytes on disk, without any I/O in the first two |
//! | `shared.rs` | the log in memory, and the queue |
//! | `flusher.rs`, `batch.rs`, `prepare.rs`, `driver.rs` | making it durable, and on which thread |
//! | `reader.rs` | reading what is no longer in memory |
//! | `repair.rs` | opening after a crash |

mod batch;
mod driver;
mod flusher;
mod prepare;
mod reader;
mod record;
mod repair;
mod segment;
mod shared;
mod state;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use self::{
    driver::Driver,
    flusher::Flusher,
    prepare::Preparer,
    shared::{Operation, ReadBudget, Shared, State},
};
pub use self::{
    driver::Execution,
    record::{Defect, Position, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, Record},
    segment::decode_records,
    state::Vote,
};
use crate::{Error, files::Files};

/// Tells whether a directory holds a log, whole or not.
pub(crate) fn exists(files: &dyn Files, directory: &Path) -> Result<bool, Error> {
    repair::exists(files, directory)
}

/// Called exactly once when an operation is durable, or when it is known that it will not be (then
/// it may or may not have reached the disk). Runs on the flusher's thread: it must be quick and
/// must not block. Completions are called in the order of their operations. Only a purge may
/// overtake, while the log waits for disk space.
pub type Completion = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Memory for durable records, if nothing else is said: what a follower that keeps up lacks is far less, and
/// one that does not has what it lacks read from the operating system's cache.
const CACHE_BYTES: usize = 4 << 20;

/// How a log is run.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The length of a segment file, in bytes; rounded up to whole pages. A record that needs more
    /// gets a segment of its own size. The log takes at least two segments of disk space.
    pub segment_bytes: u64,
    /// Memory for records that are already durable, in bytes. Older ones are read from disk.
    /// Records that are not durable yet stay in memory beyond this limit: who appends must watch
    /// [`Log::unflushed_bytes`].
    pub cache_bytes: usize,
    /// Who does the work.
    pub execution: Execution,
    /// Where the salts of segments come from.
    pub salts: Salts,
}

impl Default for LogOptions {
    /// 16 MiB segments, 4 MiB cache, threads, random salts.
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            cache_bytes: CACHE_BYTES,
            execution: Execution::Threads,
            salts: Salts::Random,
        }
    }
}

/// A source of salts, which tell the records of a segment from older bytes in its blocks.
#[derive(Clone, Debug, Default)]
pub enum Salts {
    /// From the process's random hash keys. They guard against accidents, not against attackers.
    #[default]
    Random,
    /// From a number that is advanced each time: for simulations that must repeat.
    Seeded(Arc<AtomicU64>),
}

impl Salts {
    fn next(&self) -> u64 {
        match self {
            Self::Random => RandomState::new().hash_one(0_u8),
            Self::Seeded(seed) => seed
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_add(1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }
}

/// What a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    /// The index of the first record that can be read; equal to `next` if there is none.
    pub first: u64,
    /// The index the next record must have. (A log that never held anything takes any.)
    pub next: u64,
    /// The last record, durable or not; the purged position if there is none.
    pub last: Option<Position>,
    /// The newest record that was purged.
    pub purged: Option<Position>,
    /// The length of all segment files in use, in bytes.
    pub bytes_on_disk: u64,
    /// The bytes of records that are not durable yet.
    pub unflushed_bytes: u64,
    /// Appends that became durable since the log was opened: while this stands still and bytes wait, the disk
    /// does not answer.
    pub flushes: u64,
    /// The number of segment files in use, without the prepared one.
    pub segments: usize,
}

/// Whether a log can do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Working,
    /// The disk is full. The log tries again ten times a second; what is queued waits.
    WaitingForSpace,
    /// A write or sync failed. Nothing is accepted any more; the process must be restarted.
    Failed,
}

/// What opening a log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The index of the first record; equal to `next` if there is none.
    pub first: u64,
    /// The index behind the last record.
    pub next: u64,
    /// The last record; the purged position if there is none.
    pub last: Option<Position>,
    /// The newest record that was purged.
    pub purged: Option<Position>,
    /// The number of segment files with records.
    pub segments: usize,
    /// Their length, in bytes.
    pub bytes_on_disk: u64,
    /// The unfinished write that was cut off, if there was one.
    pub torn_tail: Option<TornTail>,
}

/// An unfinished write at the end of the log. Nobody had been told that it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The last segment.
    pub path: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// How many bytes were overwritten with zeros.
    pub bytes: u64,
}

/// A handle to an open log.
///
/// Calls that change the log belong to one writer: they may come from any thread, but two at once
/// would race for the next index, and one of them is refused. Dropping the last handle closes the
/// log.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Log").field("state", &self.state()).finish_non_exhaustive()
    }
}

struct Inner {
    shared: Arc<Shared>,
    preparer: Arc<Preparer>,
    driver: Driver,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.driver.stop(&self.shared, &self.preparer);
    }
}

impl Log {
    /// Opens the log in a directory, creating it if there is none, and repairs what a crash left.
    ///
    /// Fails with [`Error::Corrupt`] or [`Error::Missing`] if stored records are gone or changed,
    /// with [`Error::NewerFormat`] if a newer program wrote them.
    pub fn open(
        files: Arc<dyn Files>,
        directory: &Path,
        options: LogOptions,
    ) -> Result<(Self, Recovery), Error> {
        let repair::Repaired { opened, segments, recovery } = repair::open(&*files, directory)?;
        let shared = Arc::new(Shared::new(State {
            queue: VecDeque::new(),
            closing: false,
            failure: None,
            health: Health::Working,
            purged: recovery.purged,
            first: recovery.first,
            next: recovery.next,
            last: recovery.last,
            tail: VecDeque::new(),
            tail_first: recovery.next,
            tail_bytes: 0,
            cache_bytes: options.cache_bytes,
            flushed: recovery.next,
            generation: 0,
            removals: 0,
            unflushed_bytes: 0,
            flushes: 0,
            segments,
            vote: opened.state_file.vote(),
            // What was committed elsewhere before it was durable here may be gone.
            committed: opened.state_file.committed().filter(|committed| {
                recovery.last.is_some_and(|last| {
                    committed.index <= last.index && committed.term <= last.term
                })
            }),
        }));
        let preparer = Arc::new(Preparer::new(
            Arc::clone(&files),
            directory.to_owned(),
            options.segment_bytes,
        ));
        let execution = options.execution;
        let flusher = Flusher::new(
            files,
            directory,
            options,
            Arc::clone(&shared),
            Arc::clone(&preparer),
            opened,
        );
        let driver = Driver::start(execution, flusher, &shared, &preparer)
            .map_err(|error| Error::io("start a thread for", directory, error))?;
        Ok((Self { inner: Arc::new(Inner { shared, preparer, driver }) }, recovery))
    }

    /// Appends records; they can be read when this returns, and are durable when `done` is called.
    ///
    /// The first must follow the last one of the log, terms must not decrease. If this returns an
    /// error, nothing was changed and `done` is not called. That holds for all calls below.
    pub fn append(&self, records: Vec<Record>, done: Completion) -> Result<(), Error> {
        self.inner.shared.lock().append(records, done)?;
        self.kick();
        Ok(())
    }

    /// Removes all records behind `index`, or all records for `None`. Durable before any record
    /// appended later is. Purged records cannot be removed.
    pub fn truncate_after(&self, index: Option<u64>, done: Completion) -> Result<(), Error> {
        loop {
            let removals = self.inner.shared.lock().removals;
            let kept = match index {
                Some(index) => self.position_of(index)?,
                None => None,
            };
            let mut state = self.inner.shared.lock();
            if state.removals == removals {
                state.truncate(index, kept, done)?;
                break;
            }
        }
        self.kick();
        Ok(())
    }

    /// Removes all records up to `upto` and gives back the disk space of whole segments. What
    /// replaces them must be durable already. Beyond the last record this is
    /// [`reset_to`](Self::reset_to).
    pub fn purge(&self, upto: Position, done: Completion) -> Result<(), Error> {
        self.inner.shared.lock().purge(upto, done)?;
        self.kick();
        Ok(())
    }

    /// Removes all records and goes on behind `purged`: a snapshot has taken the log's place.
    pub fn reset_to(&self, purged: Position, done: Completion) -> Result<(), Error> {
        self.inner.shared.lock().reset(purged, done)?;
        self.kick();
        Ok(())
    }

    /// Stores the vote, in the order of the other calls. It must not be answered before `done`.
    pub fn save_vote(&self, vote: Vote, done: Completion) -> Result<(), Error> {
        self.enqueue(Operation::Vote { vote, done })
    }

    /// Notes how far the log is committed; a hint, written with the next batch but not waited for.
    pub fn save_committed(&self, committed: Position) -> Result<(), Error> {
        self.enqueue(Operation::Committed(committed))
    }

    /// Reads the records of a range, as far as the log holds them, in order and without gaps.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<Record>, Error> {
        self.read_limited(range, u64::MAX)
    }

    /// Reads like [`read`](Self::read), but stops before the answer takes more than `bytes_max`;
    /// the first record is always part of it.
    pub fn read_limited(&self, range: Range<u64>, bytes_max: u64) -> Result<Vec<Record>, Error> {
        loop {
            let mut budget = ReadBudget::new(bytes_max);
            let mut records = Vec::new();
            let removals = self.inner.shared.lock().removals;
            let result = self.read_once(range.clone(), &mut budget, &mut records);
            if self.inner.shared.lock().removals == removals {
                return result.map(|()| records);
            }
            // Records disappeared meanwhile: what was read may be half old, half new.
        }
    }

    /// Returns what the log holds.
    pub fn state(&self) -> LogState {
        let state = self.inner.shared.lock();
        LogState {
            first: state.first,
            next: state.next,
            last: state.last,
            purged: state.purged,
            bytes_on_disk: state.segments.iter().map(|segment| segment.length).sum(),
            unflushed_bytes: state.unflushed_bytes,
            flushes: state.flushes,
            segments: state.segments.len(),
        }
    }

    /// Returns the newest durable vote.
    pub fn vote(&self) -> Option<Vote> {
        self.inner.shared.lock().vote
    }

    /// Returns the newest noted committed position; after opening never beyond the last record.
    pub fn committed(&self) -> Option<Position> {
        self.inner.shared.lock().committed
    }

    /// Returns whether the log can do its work.
    pub fn health(&self) -> Health {
        self.inner.shared.lock().health
    }

    /// Returns the bytes of records that are not durable yet, for backpressure.
    pub fn unflushed_bytes(&self) -> u64 {
        self.inner.shared.lock().unflushed_bytes
    }

    /// With [`Execution::Inline`]: does what is queued, if the disk has space again. Otherwise
    /// nothing.
    pub fn poll(&self) {
        self.kick();
    }

    /// Makes everything queued durable, calls the completions and ends the threads. What still
    /// waits for disk space fails with [`Error::Closed`], as does every later change.
    pub fn close(&self) {
        self.inner.driver.stop(&self.inner.shared, &self.inner.preparer);
    }

    fn enqueue(&self, operation: Operation) -> Result<(), Error> {
        {
            let mut state = self.inner.shared.lock();
            state.check_usable()?;
            if let Operation::Committed(committed) = operation {
                state.committed = Some(committed);
            }
            state.queue.push_back(operation);
        }
        self.kick();
        Ok(())
    }

    fn kick(&self) {
        self.inner.driver.kick(&self.inner.shared, &self.inner.preparer);
    }

    /// Returns the position of a record, or nothing if the log does not hold it.
    fn position_of(&self, index: u64) -> Result<Option<Position>, Error> {
        let end = index.saturating_add(1);
        let records = self.read_limited(index..end, 0)?;
        Ok(records.first().map(Record::position))
    }

    fn read_once(
        &self,
        mut range: Range<u64>,
        budget: &mut ReadBudget,
        records: &mut Vec<Record>,
    ) -> Result<(), Error> {
        loop {
            let (view, end) = {
                let state = self.inner.shared.lock();
                if let Some(failure) = &state.failure {
                    return Err(Error::Failed(Arc::clone(failure)));
                }
                range = range.start.max(state.first)..range.end.min(state.next);
                if range.is_empty() {
                    return Ok(());
                }
                if range.start >= state.tail_first {
                    records.extend(state.read_tail(&range, budget));
                    return Ok(());
                }
                // The disk may still hold truncated records where memory has newer ones.
                (state.segment_of(range.start), range.end.min(state.tail_first))
            };
            let part = range.start..end.min(view.next_index);
            let (read, exhausted) = reader::read(&view, &part, budget)?;
            range.start += read.len() as u64;
            records.extend(read);
            if exhausted {
                return Ok(());
            }
        }
    }
}
