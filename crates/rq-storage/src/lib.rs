//! Files a node must find intact after a power cut: log segments, vote, node identity. Synchronous; knows bytes, index and term only.
//!
//! This is the most dangerous code of the project: an acknowledged write is in these files and,
//! until a quorum has it, nowhere else. So the rules come first, each is asserted where it could be
//! broken, and `log/crash.rs` stops the world at random file operations, loses what was not synced,
//! and compares with a model.
//!
//! # What is durable before what
//!
//! | first | then |
//! |---|---|
//! | a segment full of zeros, and its name | its header |
//! | the header | the first record in it |
//! | all records of a segment | the header of the next |
//! | records, votes, marks, removals | their completion |
//! | the note that a truncation runs | its first effect |
//! | the truncation | the end of the note, then later records |
//! | the purge marker | the first removal of a segment |
//! | `raft/incarnation` | `node.json`, then anything in the log |
//!
//! A failed write or sync is final ([`Health::Failed`]). What is read at start is synced before it
//! is believed, because a killed process leaves writes in the page cache that a later power cut can
//! still take.
//!
//! # The walk of one append
//!
//! 1. [`Log::append`] checks that the records follow the last one (`State::check_append`), puts them
//!    into the in-memory tail and queues them, under one lock (`State::append`), and returns. From
//!    now on [`Log::read`] gives them.
//! 2. The flusher wakes (`driver::run`), takes *everything* queued (`Flusher::fetch`) and finds the
//!    run of appends at the front (`Flusher::append_run`).
//! 3. The records are encoded one behind the other (`Batch::add`, `record::encode`) until they or
//!    the segment end; one write, one sync (`Active::write`). What does not fit goes into the next
//!    segment, which the helper has prepared meanwhile (`Flusher::begin_segment`, `Preparer`).
//! 4. Readers of the disk learn about the batch and the tail may forget it (`publish`,
//!    `State::mark_flushed`, `State::trim_cache`).
//! 5. The completions are called in order (`Flusher::complete_written`).
//!
//! While 3 runs, the next batch collects: alone, a record waits for nobody; under load one sync
//! serves all that came during the last.
//!
//! # What stands where
//!
//! [`Files`] and [`File`] are the seam to the disk, [`FaultFiles`] the unkind disk for tests.
//! [`Log`] is the log with vote and purge marker; its formats are described in `log/record.rs`,
//! `log/segment.rs` and `log/state.rs`, the repair after a crash in `log/repair.rs`.
//! [`DataDirectory`] is the lock, the identity and the layout of a node's directory. Not here:
//! what a payload means, when to purge, who may vote for whom.

mod files;

mod faults;

mod log;

mod identity;

mod error;

#[cfg(test)]
mod testing;

pub use crate::{
    error::Error,
    faults::{FaultFiles, FaultHook, Operation, OperationKind, Verdict},
    files::{DirectoryEntry, File, Files, RealFiles, read_small, replace_small},
    identity::{DIRECTORY_FORMAT, DataDirectory, Doubt, Identity, NodeIdentity},
    log::{
        Completion, Defect, Execution, Health, Log, LogOptions, LogState, Position,
        RECORD_BYTES_MAX, RECORD_HEADER_BYTES, Record, Recovery, Salts, TornTail, Vote,
        decode_records,
    },
};
