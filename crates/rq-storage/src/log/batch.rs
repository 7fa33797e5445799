//! Records on their way into a segment: encoded together, written with one call, synced once.
//!
//! Nothing here may count a record as written, or show it to readers of the disk, before the sync
//! of its batch has succeeded.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use super::{
    record::{self, Position, Record},
    shared::{Append, Operation, SegmentView, Shared},
};
use crate::{Error, files::File};

/// The segment records are written to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    file: Arc<dyn File>,
    salt: u64,
    length: u64,
    first_index: u64,
    /// The record before the first, as the header says.
    previous: Option<Position>,
    /// Where the next record goes.
    end: u64,
    pub(super) empty: bool,
}

impl Active {
    /// Goes on in the last segment of a log. `previous` is what its header says stood before it;
    /// it only counts while there is no record in it.
    pub(super) fn new(view: &SegmentView, previous: Option<Position>) -> Self {
        Self {
            number: view.number,
            path: view.path.clone(),
            file: Arc::clone(&view.file),
            salt: view.salt,
            length: view.length,
            first_index: view.first_index,
            previous,
            end: view.end,
            empty: view.next_index == view.first_index,
        }
    }

    /// Tells whether a record may be written behind `pending_bytes` of a batch whose last record
    /// is `before`.
    fn takes(&self, record: &Record, before: Option<Position>, pending_bytes: usize) -> bool {
        let suits = !self.empty
            || pending_bytes > 0
            || (record.index == self.first_index && before == self.previous);
        let end = self.end + (pending_bytes + record.stored_bytes()) as u64;
        suits && end <= self.length
    }

    /// Writes a batch behind the last record and syncs it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        assert!(self.end + bytes.len() as u64 <= self.length, "a batch stays in its segment");
        self.file
            .write_at(bytes, self.end)
            .map_err(|error| Error::io("write", &self.path, error))?;
        self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error))?;
        self.end += bytes.len() as u64;
        self.empty = false;
        Ok(())
    }
}

/// Records about to be written to one segment with one write.
pub(super) struct Batch {
    pub(super) buffer: Vec<u8>,
    /// Index and offset of each record.
    places: Vec<(u64, u64)>,
    /// For each append touched: its place in the run, and how much of it is written afterwards.
    pub(super) written: Vec<(usize, usize)>,
    /// The index of the batch's first record.
    start: Option<u64>,
    /// The last record of the batch, or before it.
    pub(super) last: Option<Position>,
    /// The first record that does not fit.
    pub(super) overflow: Option<Record>,
}

impl Batch {
    pub(super) fn new(mut buffer: Vec<u8>, last: Option<Position>) -> Self {
        buffer.clear();
        Self { buffer, places: Vec::new(), written: Vec::new(), start: None, last, overflow: None }
    }

    /// Encodes what is left of an append, and tells whether all of it fits.
    pub(super) fn add(&mut self, active: Option<&Active>, at: usize, append: &Append) -> bool {
        let mut written = append.written;
        for record in &append.records[append.written..] {
            let fitting =
                active.filter(|active| active.takes(record, self.last, self.buffer.len()));
            let Some(active) = fitting else {
                self.overflow = Some(record.clone());
                break;
            };
            self.places.push((record.index, active.end + self.buffer.len() as u64));
            let start = *self.start.get_or_insert(record.index);
            record::encode(record, active.salt, start, &mut self.buffer);
            self.last = Some(record.position());
            written += 1;
        }
        if written > append.written {
            self.written.push((at, written));
        }
        self.overflow.is_none()
    }
}

/// Tells readers about a synced batch.
pub(super) fn publish(shared: &Shared, active: &Active, run: &VecDeque<Operation>, batch: &Batch) {
    let mut state = shared.lock();
    let view = state.segments.last_mut().expect("the active segment is among them");
    assert_eq!(view.number, active.number, "the active segment is the last");
    for &(index, offset) in &batch.places {
        view.checkpoints.note(index, offset);
        view.next_index = index + 1;
    }
    view.end = active.end;
    for &(at, _) in &batch.written {
        if let Operation::Append(append) = &run[at] {
            state.mark_flushed(append);
        }
    }
}
