//! One file of the log: its header, and what its bytes mean.
//!
//! A segment is `segment-<number, 20 digits>.log`. It is created full of zeros, synced, and only
//! then begun by writing and syncing its header; records come after that. Numbers grow and are
//! never given twice to begun segments. The header takes [`HEADER_BYTES`]:
//!
//! ```text
//! offset  bytes
//!      0      8  "rqd-log\n"
//!      8      4  format, now 1
//!     12      4  zero
//!     16      8  segment number
//!     24      8  length of the file
//!     32      8  salt
//!     40      8  index of the first record
//!     48      8  number of the segment before this one, 0: none
//!     56      8  1 if there is a record before the first one, else 0
//!     64      8  its term
//!     72      8  its index
//!     80      …  zeros
//!   4092      4  CRC-32C of everything before
//! ```
//!
//! The header has a page of its own, so that writing records never touches it. Because it is synced
//! before the first record is written, a bad header before anything but zeros is damage, never the
//! trace of a power cut. [`examine`] is a pure function of the bytes, for the fuzzer's sake.

use std::path::{Path, PathBuf};

use super::record::{self, Defect, Position, RECORD_HEADER_BYTES, Record, read_u32, read_u64};
use crate::Error;

/// Bytes of a segment before its first record.
pub(super) const HEADER_BYTES: usize = 4096;

/// The newest format this program writes and reads.
pub(super) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"rqd-log\n";
const CHECKSUM_AT: usize = HEADER_BYTES - 4;

/// A place to start reading from is noted once in this many bytes, so a read of one record touches
/// little more than that, and the notes take a quarter of a thousandth of the log's size.
const CHECKPOINT_BYTES: u64 = 64 * 1024;

/// The identity of a segment and its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    /// Length of the file, header included.
    pub(super) length: u64,
    pub(super) salt: u64,
    pub(super) first_index: u64,
    /// Number of the segment before, 0 for none.
    pub(super) previous_number: u64,
    /// The record before the first one.
    pub(super) previous: Option<Position>,
}

/// Where records begin within a segment, coarsely.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoints(Vec<(u64, u64)>);

impl Checkpoints {
    /// Notes that the record `index` begins at `offset`; called in the order of records.
    pub(super) fn note(&mut self, index: u64, offset: u64) {
        let due = self.0.last().is_none_or(|&(_, last)| offset - last >= CHECKPOINT_BYTES);
        if due {
            self.0.push((index, offset));
        }
    }

    /// Returns the noted record nearest before `index`, and its offset.
    pub(super) fn before(&self, index: u64) -> Option<(u64, u64)> {
        let behind = self.0.partition_point(|&(noted, _)| noted <= index);
        behind.checked_sub(1).map(|at| self.0[at])
    }

    /// Forgets every record from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        self.0.truncate(self.0.partition_point(|&(noted, _)| noted < index));
    }
}

/// What a segment's bytes hold.
#[derive(Clone, Debug)]
pub(super) enum Contents {
    /// No header, nothing but zeros behind it: prepared, or begun but cut off before any record.
    Unbegun,
    /// A header that was never valid with something behind it.
    BadHeader(&'static str),
    /// A header of a newer format.
    NewerFormat(u32),
    /// A header, and records up to where they end.
    Begun(Box<Scan>),
}

/// The records of a segment.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    pub(super) header: Header,
    /// The last record, if there is any.
    pub(super) last: Option<Position>,
    /// Where the records end.
    pub(super) end: u64,
    pub(super) checkpoints: Checkpoints,
    pub(super) tail: Tail,
}

impl Scan {
    /// The index the next record must have.
    pub(super) fn next_index(&self) -> u64 {
        self.last.map_or(self.header.first_index, |last| last.index + 1)
    }
}

/// What follows the last record of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Zeros.
    Clean,
    /// Bytes that a power cut in the middle of a batch can have left.
    Torn {
        /// What stands where the next record should.
        defect: Defect,
        /// The end of the bytes that are not zero.
        end: u64,
    },
    /// A record that had been synced is bad: a later batch follows it.
    Lost {
        /// What stands where the record should.
        defect: Defect,
        /// The valid record that proves it.
        witness: u64,
    },
}

/// Returns the file name of a segment.
pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("segment-{number:020}.log"))
}

/// Returns the number in a segment's file name; `None` for other names.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".log")?;
    let decimal = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if decimal { digits.parse().ok().filter(|&number| number > 0) } else { None }
}

impl Header {
    /// Returns the header's page.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; HEADER_BYTES];
        page[0..8].copy_from_slice(MAGIC);
        page[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let previous = self.previous.unwrap_or(Position { term: 0, index: 0 });
        let numbers = [
            self.number,
            self.length,
            self.salt,
            self.first_index,
            self.previous_number,
            u64::from(self.previous.is_some()),
            previous.term,
            previous.index,
        ];
        for (slot, number) in page[16..].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&page[..CHECKSUM_AT]);
        page[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Reads a header's page; `Err` holds a newer format's number, or 0 if it is no header.
    fn decode(page: &[u8]) -> Result<Self, u32> {
        if page.len() < HEADER_BYTES || &page[0..8] != MAGIC {
            return Err(0);
        }
        let format = read_u32(page, 8);
        if format > FORMAT {
            return Err(format);
        }
        if read_u32(page, CHECKSUM_AT) != crc32c::crc32c(&page[..CHECKSUM_AT]) {
            return Err(0);
        }
        let previous = (read_u64(page, 56) == 1)
            .then(|| Position { term: read_u64(page, 64), index: read_u64(page, 72) });
        Ok(Self {
            number: read_u64(page, 16),
            length: read_u64(page, 24),
            salt: read_u64(page, 32),
            first_index: read_u64(page, 40),
            previous_number: read_u64(page, 48),
            previous,
        })
    }
}

/// Finds out what the bytes of a whole segment file hold. Never panics.
///
/// `until` ends the search early: records behind that index count as zeros.
pub(super) fn examine(bytes: &[u8], until: Option<u64>) -> Contents {
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let header = match Header::decode(bytes) {
        Ok(header) => header,
        Err(0) if zeros(body) => return Contents::Unbegun,
        Err(0) => return Contents::BadHeader("no valid header before records"),
        Err(format) => return Contents::NewerFormat(format),
    };
    if header.length != bytes.len() as u64 {
        return Contents::BadHeader("the file is not as long as its header says");
    }
    let mut scan = Scan {
        header,
        last: None,
        end: HEADER_BYTES as u64,
        checkpoints: Checkpoints::default(),
        tail: Tail::Clean,
    };
    let mut offset = HEADER_BYTES;
    let defect = loop {
        if until.is_some_and(|until| scan.next_index() > until) {
            return Contents::Begun(Box::new(scan));
        }
        if offset == bytes.len() {
            return Contents::Begun(Box::new(scan));
        }
        let found = record::decode(&bytes[offset..], header.salt)
            .and_then(|found| if follows(&scan, &found) { Ok(found) } else { Err(Defect::Order) });
        match found {
            Ok(found) => {
                scan.checkpoints.note(found.position.index, offset as u64);
                scan.last = Some(found.position);
                offset += found.stored_bytes;
                scan.end = offset as u64;
            }
            Err(defect) => break defect,
        }
    };
    scan.tail = judge_tail(bytes, offset, &scan, defect);
    Contents::Begun(Box::new(scan))
}

/// Tells whether a record may be the next one of a segment.
fn follows(scan: &Scan, found: &record::Found<'_>) -> bool {
    let before = scan.last.or(scan.header.previous);
    found.position.index == scan.next_index()
        && before.is_none_or(|before| before.term <= found.position.term)
}

/// Decides what the bytes from `offset`, where no record is, can be.
fn judge_tail(bytes: &[u8], offset: usize, scan: &Scan, defect: Defect) -> Tail {
    let Some(end) = bytes[offset..].iter().rposition(|&byte| byte != 0) else {
        return Tail::Clean;
    };
    let end = offset + end + 1;
    let expected = scan.next_index();
    // A segment of n bytes holds fewer than n records; this bounds the search for the price of a
    // comparison a word.
    let limit = expected.saturating_add(bytes.len() as u64);
    for at in (offset..end).step_by(record::ALIGNMENT) {
        let Some(header) = record::header(&bytes[at..]) else { break };
        if !(expected..limit).contains(&record::claimed_index(&header)) {
            continue;
        }
        let Ok(found) = record::decode(&bytes[at..], scan.header.salt) else { continue };
        if found.batch_start > expected {
            return Tail::Lost { defect, witness: found.position.index };
        }
    }
    Tail::Torn { defect, end: end as u64 }
}

fn zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Reads the records of a segment from its bytes: the pure entry to the record reader.
///
/// Returns the records before the first bad one. Never panics, whatever the bytes; meant for fuzz
/// targets and for tools that look at a stopped node's files.
pub fn decode_records(segment: &[u8]) -> Result<Vec<Record>, Error> {
    let name = Path::new("segment");
    match examine(segment, None) {
        Contents::Unbegun => Ok(Vec::new()),
        Contents::BadHeader(problem) => Err(Error::corrupt(name, 0, problem)),
        Contents::NewerFormat(found) => {
            Err(Error::NewerFormat { path: name.to_owned(), found, supported: FORMAT })
        }
        Contents::Begun(scan) => {
            if let Tail::Lost { defect, witness } = scan.tail {
                let problem = format!("{defect}, although record {witness} follows");
                return Err(Error::corrupt(name, scan.end, problem));
            }
            Ok(records_of(segment, &scan))
        }
    }
}

fn records_of(segment: &[u8], scan: &Scan) -> Vec<Record> {
    let mut records = Vec::new();
    let mut offset = HEADER_BYTES;
    while (offset as u64) < scan.end {
        let found = record::decode(&segment[offset..], scan.header.salt)
            .expect("examine() has decoded the same bytes");
        records.push(found.to_record());
        offset += found.stored_bytes;
    }
    records
}

/// The smallest file that holds one record of `stored_bytes`, but not less than `wanted`.
pub(super) fn length_for(stored_bytes: usize, wanted: u64) -> u64 {
    let needed = (HEADER_BYTES + stored_bytes.max(RECORD_HEADER_BYTES)) as u64;
    needed.max(wanted).next_multiple_of(HEADER_BYTES as u64)
}
