//! What the tests of this crate share: random numbers from a seed, hooks, records.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use crate::{
    Completion, Error, Execution, FaultFiles, FaultHook, Files, Log, LogOptions, Operation,
    OperationKind, Record, Recovery, Salts, Verdict,
};

/// Random numbers that repeat with their seed (`SplitMix64`).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Gives a verdict once, after a number of operations; lets everything else proceed.
#[derive(Debug)]
pub(crate) struct Countdown {
    left: AtomicI64,
    verdict: Mutex<Verdict>,
}

impl Countdown {
    pub(crate) fn never() -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(i64::MAX), verdict: Mutex::new(Verdict::Proceed) })
    }

    pub(crate) fn arm(&self, after: u64, verdict: Verdict) {
        *self.verdict.lock().unwrap() = verdict;
        self.left.store(i64::try_from(after).unwrap(), Ordering::SeqCst);
    }
}

impl FaultHook for Countdown {
    fn before(&self, _: &Operation<'_>) -> Verdict {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            *self.verdict.lock().unwrap()
        } else {
            Verdict::Proceed
        }
    }
}

/// A function as a hook.
pub(crate) struct Hook<F>(pub(crate) F);

impl<F: Fn(&Operation<'_>) -> Verdict + Send + Sync> FaultHook for Hook<F> {
    fn before(&self, operation: &Operation<'_>) -> Verdict {
        (self.0)(operation)
    }
}

/// Tells whether an operation belongs to making a segment file.
pub(crate) fn creates_segment(operation: &Operation<'_>) -> bool {
    let name = operation.path.file_name().unwrap_or_default().to_string_lossy();
    operation.kind == OperationKind::Create && name.starts_with("segment-")
}

/// Files that never fail and never sync.
pub(crate) fn quiet_files() -> Arc<FaultFiles> {
    Arc::new(FaultFiles::new(Countdown::never()))
}

/// Small segments, no threads, salts from a seed.
pub(crate) fn inline_options(seed: u64) -> LogOptions {
    LogOptions {
        segment_bytes: 8192,
        cache_bytes: 0,
        execution: Execution::Inline,
        salts: Salts::Seeded(Arc::new(AtomicU64::new(seed))),
    }
}

pub(crate) fn open_inline(files: &Arc<FaultFiles>, directory: &Path) -> (Log, Recovery) {
    open_with(files, directory, inline_options(1)).unwrap()
}

pub(crate) fn open_with(
    files: &Arc<FaultFiles>,
    directory: &Path,
    options: LogOptions,
) -> Result<(Log, Recovery), Error> {
    Log::open(Arc::clone(files) as Arc<dyn Files>, directory, options)
}

/// A record whose payload depends on everything about it.
pub(crate) fn record(index: u64, term: u64, bytes: usize) -> Record {
    let mut random = Random::new(index ^ term.rotate_left(32));
    let payload: Vec<u8> = (0..bytes).map(|_| random.next().to_le_bytes()[0]).collect();
    Record { index, term, kind: random.next().to_le_bytes()[0], payload: Bytes::from(payload) }
}

/// Consecutive records of one term.
pub(crate) fn records(indexes: std::ops::Range<u64>, term: u64, bytes: usize) -> Vec<Record> {
    indexes.map(|index| record(index, term, bytes)).collect()
}

/// A completion that must get `Ok`.
pub(crate) fn ok() -> Completion {
    Box::new(|result| result.unwrap())
}

/// What a completion got, once it was called.
pub(crate) type Answer = Arc<Mutex<Option<Result<(), Error>>>>;

/// A completion that keeps what it got.
pub(crate) fn keep() -> (Answer, Completion) {
    let answer = Answer::default();
    let kept = Arc::clone(&answer);
    let done: Completion = Box::new(move |result| {
        let before = kept.lock().unwrap().replace(result);
        assert!(before.is_none(), "a completion is called once");
    });
    (answer, done)
}

/// Everything the log holds.
pub(crate) fn all(log: &Log) -> Vec<Record> {
    log.read(0..u64::MAX).unwrap()
}
