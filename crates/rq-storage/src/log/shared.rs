//! What callers, readers and the flusher of one log share, behind one lock.
//!
//! A caller changes the logical log here (which records exist, the in-memory tail) and queues the
//! operation that makes it durable, under one lock, so that queue and memory always agree. The
//! flusher takes operations off the queue in order and moves the *flushed* mark. Nobody holds the
//! lock while touching the disk or calling a completion.
//!
//! # Invariants
//!
//! - The log holds the records `first..next`; the tail holds `tail_first..next`, the disk at least
//!   everything below `flushed`, and `tail_first <= flushed.max(first)`.
//! - `next == first` means empty; then `last` is the purged position, or nothing.
//! - An operation's generation is that of the log when it was queued. A truncation begins a new
//!   generation; flushing a record of an older one does not move the mark, as that record's place
//!   now belongs to another.
//! - Deliberately absent: durability. What is in here is gone when the process ends.

use std::{
    collections::VecDeque,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{
    Completion, Health,
    record::{Position, RECORD_BYTES_MAX, Record},
    segment::{Checkpoints, HEADER_BYTES},
    state::Vote,
};
use crate::{Error, files::File};

/// The lock, and the signal that there is work or that it is time to stop.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) wake: Condvar,
}

/// Everything behind the lock. Fields are read by this folder only.
#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: VecDeque<Operation>,
    pub(super) closing: bool,
    pub(super) failure: Option<Arc<Error>>,
    pub(super) health: Health,

    pub(super) purged: Option<Position>,
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) last: Option<Position>,
    pub(super) tail: VecDeque<Record>,
    pub(super) tail_first: u64,
    pub(super) tail_bytes: usize,
    pub(super) cache_bytes: usize,
    pub(super) flushed: u64,
    pub(super) generation: u64,
    /// Raised when records disappear, so that a reader notices that its ground moved.
    pub(super) removals: u64,
    pub(super) unflushed_bytes: u64,
    /// Batches of records that became durable since the log was opened.
    pub(super) flushes: u64,

    pub(super) segments: Vec<SegmentView>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<Position>,
}

/// A segment's synced records, as a reader needs them.
#[derive(Clone, Debug)]
pub(super) struct SegmentView {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) salt: u64,
    pub(super) first_index: u64,
    pub(super) next_index: u64,
    /// Where the records end.
    pub(super) end: u64,
    /// The length of the file.
    pub(super) length: u64,
    pub(super) checkpoints: Checkpoints,
}

impl SegmentView {
    /// Where the first record begins.
    pub(super) fn first_offset(&self) -> u64 {
        HEADER_BYTES as u64
    }
}

/// What the flusher is asked to do, in the order of the calls.
pub(super) enum Operation {
    Append(Append),
    Truncate { after: Option<u64>, done: Completion },
    Purge { upto: Position, done: Completion },
    Reset { to: Position, done: Completion },
    Vote { vote: Vote, done: Completion },
    Committed(Position),
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Append(_) => "Append",
            Self::Truncate { .. } => "Truncate",
            Self::Purge { .. } => "Purge",
            Self::Reset { .. } => "Reset",
            Self::Vote { .. } => "Vote",
            Self::Committed(_) => "Committed",
        })
    }
}

/// Records to be made durable.
pub(super) struct Append {
    pub(super) records: Vec<Record>,
    /// How many of them are durable already: a full disk can stop the flusher in between.
    pub(super) written: usize,
    pub(super) generation: u64,
    pub(super) bytes: u64,
    pub(super) done: Completion,
}

impl Operation {
    /// Answers whoever waits for the operation.
    pub(super) fn complete(self, result: Result<(), Error>) {
        match self {
            Self::Append(Append { done, .. })
            | Self::Truncate { done, .. }
            | Self::Purge { done, .. }
            | Self::Reset { done, .. }
            | Self::Vote { done, .. } => done(result),
            Self::Committed(_) => {}
        }
    }
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), wake: Condvar::new() }
    }

    /// Takes the lock. A panic of another thread does not spread: every change below is complete
    /// before anything in it can panic.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Fails if the log accepts nothing any more.
    pub(super) fn check_usable(&self) -> Result<(), Error> {
        if let Some(failure) = &self.failure {
            return Err(Error::Failed(Arc::clone(failure)));
        }
        if self.closing { Err(Error::Closed) } else { Ok(()) }
    }

    /// Puts records at the end of the log and queues them.
    pub(super) fn append(&mut self, records: Vec<Record>, done: Completion) -> Result<(), Error> {
        self.check_usable()?;
        self.check_append(&records)?;
        if let (true, None, Some(record)) = (self.is_empty(), self.purged, records.first()) {
            // A log that never held anything begins wherever its first record says.
            self.restart_at(record.index);
        }
        let bytes = records.iter().map(|record| record.stored_bytes() as u64).sum();
        for record in &records {
            self.tail_bytes += record.stored_bytes();
            self.tail.push_back(record.clone());
        }
        if let Some(record) = records.last() {
            self.last = Some(record.position());
            self.next = record.index + 1;
        }
        self.unflushed_bytes += bytes;
        let generation = self.generation;
        self.queue.push_back(Operation::Append(Append {
            records,
            written: 0,
            generation,
            bytes,
            done,
        }));
        self.assert_invariants();
        Ok(())
    }

    /// Removes all records behind `after` and queues that. `position` is that of the record at
    /// `after`, if there is one.
    pub(super) fn truncate(
        &mut self,
        after: Option<u64>,
        position: Option<Position>,
        done: Completion,
    ) -> Result<(), Error> {
        self.check_usable()?;
        let kept = after.map_or(0, |after| after.saturating_add(1)).max(self.first);
        if let Some(purged) = self.purged
            && after.is_none_or(|after| after < purged.index)
        {
            return Err(Error::Rejected(format!(
                "truncation behind {after:?}, but record {} is purged",
                purged.index
            )));
        }
        if kept >= self.next {
            // Nothing to remove; still answered in its turn.
            self.queue.push_back(Operation::Append(Append {
                records: Vec::new(),
                written: 0,
                generation: self.generation,
                bytes: 0,
                done,
            }));
            return Ok(());
        }
        let last = if kept == self.first { self.purged } else { position };
        assert_eq!(
            last.map(|last| last.index + 1),
            (kept > self.first || self.purged.is_some()).then_some(kept),
            "the caller has looked up the record that becomes the last"
        );
        while self.tail.back().is_some_and(|record| record.index >= kept) {
            let record = self.tail.pop_back().expect("just seen");
            self.tail_bytes -= record.stored_bytes();
        }
        self.tail_first = self.tail_first.min(kept);
        self.next = kept;
        self.flushed = self.flushed.min(kept);
        self.last = last;
        self.generation += 1;
        self.removals += 1;
        self.queue.push_back(Operation::Truncate { after, done });
        self.assert_invariants();
        Ok(())
    }

    /// Removes all records up to `upto` and queues that.
    pub(super) fn purge(&mut self, upto: Position, done: Completion) -> Result<(), Error> {
        self.check_usable()?;
        if upto.index >= self.next || self.is_empty() && self.purged.is_none() {
            return self.reset(upto, done);
        }
        if upto.index + 1 < self.first && self.purged.is_none() {
            return Err(Error::Rejected(format!(
                "purging up to {}, but the log begins at {}",
                upto.index, self.first
            )));
        }
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
            self.first = upto.index + 1;
            self.flushed = self.flushed.max(self.first);
            self.removals += 1;
            while self.tail.front().is_some_and(|record| record.index <= upto.index) {
                self.forget_front();
            }
            self.tail_first = self.tail_first.max(self.first);
            if self.is_empty() {
                self.last = self.purged;
            }
        }
        self.queue.push_back(Operation::Purge { upto, done });
        self.assert_invariants();
        Ok(())
    }

    /// Replaces the whole log by a purged position and queues that.
    pub(super) fn reset(&mut self, to: Position, done: Completion) -> Result<(), Error> {
        self.check_usable()?;
        self.purged = Some(to);
        self.last = Some(to);
        self.restart_at(to.index + 1);
        self.queue.push_back(Operation::Reset { to, done });
        Ok(())
    }

    /// Moves the flushed mark behind the written records of an append and drops what the cache
    /// need not keep.
    pub(super) fn mark_flushed(&mut self, append: &Append) {
        if append.generation == self.generation
            && let Some(last) = append.written.checked_sub(1).map(|at| &append.records[at])
        {
            self.flushed = self.flushed.max(last.index + 1);
        }
        self.trim_cache();
        self.assert_invariants();
    }

    /// Drops flushed records from memory until the cache is small enough. Records not yet flushed
    /// stay whatever their size.
    pub(super) fn trim_cache(&mut self) {
        while self.tail_bytes > self.cache_bytes
            && self.tail.front().is_some_and(|record| record.index < self.flushed)
        {
            self.forget_front();
        }
    }

    /// Copies records from memory, if the range begins there.
    pub(super) fn read_tail(&self, range: &Range<u64>, budget: &mut ReadBudget) -> Vec<Record> {
        let at = |index: u64| usize::try_from(index - self.tail_first).expect("in memory");
        let mut records = Vec::new();
        for record in self.tail.range(at(range.start)..at(range.end)) {
            if !budget.take(record) {
                break;
            }
            records.push(record.clone());
        }
        records
    }

    /// Returns the segment that holds a record below `tail_first`.
    pub(super) fn segment_of(&self, index: u64) -> SegmentView {
        let behind = self.segments.partition_point(|segment| segment.first_index <= index);
        let found = behind.checked_sub(1).map(|at| &self.segments[at]);
        let found = found.filter(|segment| index < segment.next_index);
        found.expect("records that are not in memory are on disk").clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == self.next
    }

    /// Drops the oldest record from memory.
    fn forget_front(&mut self) {
        let record = self.tail.pop_front().expect("the caller has seen it");
        self.tail_bytes -= record.stored_bytes();
        self.tail_first = record.index + 1;
    }

    /// Empties the log; `index` comes next.
    fn restart_at(&mut self, index: u64) {
        self.first = index;
        self.next = index;
        self.flushed = index;
        self.tail.clear();
        self.tail_first = index;
        self.tail_bytes = 0;
        self.generation += 1;
        self.removals += 1;
    }

    /// Checks that records may follow the last one.
    fn check_append(&self, records: &[Record]) -> Result<(), Error> {
        let anywhere = self.is_empty() && self.purged.is_none();
        let mut expected = if anywhere { None } else { Some(self.next) };
        let mut term = self.last.map_or(0, |last| last.term);
        for record in records {
            let Record { index, payload, .. } = record;
            if let Some(expected) = expected.filter(|expected| expected != index) {
                let problem = format!("record {index} where record {expected} must follow");
                return Err(Error::Rejected(problem));
            }
            if record.term < term {
                let problem = format!("record {index} of term {} after term {term}", record.term);
                return Err(Error::Rejected(problem));
            }
            if payload.len() > RECORD_BYTES_MAX {
                let problem = format!("record {index} of more than {RECORD_BYTES_MAX} bytes");
                return Err(Error::Rejected(problem));
            }
            let Some(next) = index.checked_add(1) else {
                return Err(Error::Rejected("the last possible index".to_owned()));
            };
            expected = Some(next);
            term = record.term;
        }
        Ok(())
    }

    /// Checks what must always hold; a violation would make the log forget promised records.
    fn assert_invariants(&self) {
        assert!(self.first <= self.next, "first {} next {}", self.first, self.next);
        assert!(self.flushed <= self.next, "flushed {} next {}", self.flushed, self.next);
        assert!(self.tail_first <= self.next, "tail {} next {}", self.tail_first, self.next);
        assert!(
            self.tail_first <= self.flushed.max(self.first),
            "records {}..{} are neither in memory nor on disk",
            self.flushed,
            self.tail_first
        );
        assert_eq!(
            self.tail.len() as u64,
            self.next - self.tail_first,
            "the tail reaches to the end of the log"
        );
    }
}

/// How much a read may still return.
#[derive(Debug)]
pub(super) struct ReadBudget {
    left: u64,
    any: bool,
}

impl ReadBudget {
    pub(super) fn new(bytes: u64) -> Self {
        Self { left: bytes, any: false }
    }

    /// Takes a record into account, and tells whether it still belongs to the answer. The first
    /// always does, however large.
    pub(super) fn take(&mut self, record: &Record) -> bool {
        let bytes = record.stored_bytes() as u64;
        let fits = !self.any || bytes <= self.left;
        self.any = true;
        self.left = if fits { self.left.saturating_sub(bytes) } else { 0 };
        fits
    }
}
