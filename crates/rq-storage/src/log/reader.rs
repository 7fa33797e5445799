//! Reading synced records back from a segment.
//!
//! Every record read is checked again (checksum, salt, index), so that a disk that changes data
//! while the node runs gives an error and never a wrong record. A reader holds no lock; the caller
//! finds out afterwards whether the log was truncated meanwhile, which looks like damage from here.

use std::ops::Range;

use super::{
    record::{self, Defect, Found, Position, RECORD_HEADER_BYTES, Record},
    shared::{ReadBudget, SegmentView},
};
use crate::{Error, files::read_full};

/// Bytes read at once, unless a record is larger.
const CHUNK_BYTES: usize = 128 * 1024;

/// Reads records of one segment, until the range or the budget ends. The second value tells
/// whether the budget did.
pub(super) fn read(
    view: &SegmentView,
    range: &Range<u64>,
    budget: &mut ReadBudget,
) -> Result<(Vec<Record>, bool), Error> {
    let mut records = Vec::new();
    let mut cursor = Cursor::before(view, range.start);
    while cursor.index < range.end.min(view.next_index) {
        let wanted = cursor.index >= range.start;
        let found = cursor.next()?;
        if wanted {
            let record = found.to_record();
            if !budget.take(&record) {
                return Ok((records, true));
            }
            records.push(record);
        }
    }
    Ok((records, false))
}

/// Returns where the record `index` begins.
pub(super) fn locate(view: &SegmentView, index: u64) -> Result<u64, Error> {
    let mut cursor = Cursor::before(view, index);
    while cursor.index < index {
        cursor.next()?;
    }
    Ok(cursor.offset)
}

/// Returns the position of the last record of a segment that has one.
pub(super) fn last_position(view: &SegmentView) -> Result<Position, Error> {
    let last = view.next_index - 1;
    let mut cursor = Cursor::before(view, last);
    while cursor.index < last {
        cursor.next()?;
    }
    Ok(cursor.next()?.position)
}

/// A place in a segment, always at the beginning of a record or at the end.
struct Cursor<'a> {
    view: &'a SegmentView,
    /// The record that comes next.
    index: u64,
    /// Where it begins in the file.
    offset: u64,
    buffer: Vec<u8>,
    /// Where it begins in the buffer.
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the noted record nearest before `index`.
    fn before(view: &'a SegmentView, index: u64) -> Self {
        let (index, offset) =
            view.checkpoints.before(index).unwrap_or((view.first_index, view.first_offset()));
        Self { view, index, offset, buffer: Vec::new(), at: 0 }
    }

    fn next(&mut self) -> Result<Found<'_>, Error> {
        self.fill(RECORD_HEADER_BYTES)?;
        let header =
            record::header(&self.buffer[self.at..]).ok_or_else(|| self.bad(Defect::Length))?;
        let stored_bytes = record::stored_bytes(&header);
        self.fill(stored_bytes)?;
        let (start, offset, index) = (self.at, self.offset, self.index);
        self.at += stored_bytes;
        self.offset += stored_bytes as u64;
        self.index += 1;
        let found = record::decode(&self.buffer[start..], self.view.salt).and_then(|found| {
            if found.position.index == index { Ok(found) } else { Err(Defect::Order) }
        });
        found.map_err(|defect| {
            Error::corrupt(&self.view.path, offset, format!("{defect} (record {index})"))
        })
    }

    /// Makes sure that the buffer holds `bytes` of the next record.
    fn fill(&mut self, bytes: usize) -> Result<(), Error> {
        if self.buffer.len() - self.at >= bytes {
            return Ok(());
        }
        let left = self.view.end.saturating_sub(self.offset);
        if bytes as u64 > left {
            return Err(self.bad(Defect::Length));
        }
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES.max(bytes));
        self.buffer.clear();
        self.buffer.resize(wanted, 0);
        self.at = 0;
        let count = read_full(&*self.view.file, &mut self.buffer, self.offset)
            .map_err(|error| Error::io("read", &self.view.path, error))?;
        self.buffer.truncate(count);
        if count < bytes { Err(self.bad(Defect::Length)) } else { Ok(()) }
    }

    fn bad(&self, defect: Defect) -> Error {
        let problem = format!("{defect} (record {})", self.index);
        Error::corrupt(&self.view.path, self.offset, problem)
    }
}
