//! Files a node must find intact after a power cut: log segments, vote, node identity. Synchronous; knows bytes, index and term only.

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
    files::{DirectoryEntry, File, Files, RealFiles},
    identity::{DIRECTORY_FORMAT, DataDirectory, Doubt, Identity, NodeIdentity},
    log::{
        Completion, Defect, Execution, Health, Log, LogOptions, LogState, Position,
        RECORD_BYTES_MAX, RECORD_HEADER_BYTES, Record, Recovery, Salts, TornTail, Vote,
        decode_records,
    },
};
