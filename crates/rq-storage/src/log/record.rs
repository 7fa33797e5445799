//! One record of the log and its bytes.
//!
//! ```text
//! offset  bytes
//!      0      4  CRC-32C of: the segment's salt (8 bytes), then everything below, padding included
//!      4      4  length of the payload
//!      8      8  index
//!     16      8  term
//!     24      1  kind, opaque to this crate
//!     25      3  zero
//!     28      4  distance: index - first index of the batch this record was written in
//!     32      …  payload, then zeros up to a multiple of 8
//! ```
//!
//! All numbers are little-endian. Records follow each other without gaps from the end of the
//! segment's header ([`super::segment`]); behind the last one the segment is zeros.
//!
//! # Why a salt
//!
//! A file system may hand out blocks that hold records of an older file, whose checksums are
//! right. The salt is random per segment, so that they are wrong here.
//!
//! # Why a distance
//!
//! A batch is everything written between two syncs. When a record of batch *b* exists, all records
//! before *b* had been synced. So a valid record behind a bad one tells whether the bad one may be
//! explained by a power cut (both of one batch: writes of one batch may survive in any order) or
//! not (the good one's batch began behind the bad one: the disk lost something it had promised).
//! Nothing here panics or allocates by a length that was read.

use bytes::Bytes;

/// The largest payload of a record, in bytes. [`Log::append`](super::Log::append) refuses more.
pub const RECORD_BYTES_MAX: usize = 1 << 30;

/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 32;

/// Records begin at multiples of this many bytes.
pub(super) const ALIGNMENT: usize = 8;

/// One entry of the log, as the layer above sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The position in the log; consecutive.
    pub index: u64,
    /// The term in which a leader created it; never less than that of the record before.
    pub term: u64,
    /// What the payload is; opaque to this crate.
    pub kind: u8,
    /// The bytes; opaque to this crate, at most [`RECORD_BYTES_MAX`].
    pub payload: Bytes,
}

impl Record {
    /// Returns where in the log this record stands.
    pub fn position(&self) -> Position {
        Position { term: self.term, index: self.index }
    }

    /// Returns the bytes this record takes on disk.
    pub fn stored_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload.len().next_multiple_of(ALIGNMENT)
    }
}

/// Term and index of a record: what identifies it in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The term.
    pub term: u64,
    /// The index.
    pub index: u64,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// Only zeros: nothing was ever written here, or it never reached the disk.
    #[error("zeros instead of a record")]
    Blank,
    /// The bytes end before the record does.
    #[error("a record that does not fit into the rest of the segment")]
    Length,
    /// The checksum is wrong.
    #[error("a record with a wrong checksum")]
    Checksum,
    /// The checksum is right, but the record cannot stand at this place.
    #[error("a record with an index or term that does not follow the one before it")]
    Order,
}

/// A record found in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub(super) position: Position,
    pub(super) kind: u8,
    /// Everything before this index had been synced when the record was written.
    pub(super) batch_start: u64,
    pub(super) payload: &'a [u8],
    /// Bytes it takes, padding included.
    pub(super) stored_bytes: usize,
}

impl Found<'_> {
    pub(super) fn to_record(self) -> Record {
        Record {
            index: self.position.index,
            term: self.position.term,
            kind: self.kind,
            payload: Bytes::copy_from_slice(self.payload),
        }
    }
}

/// Appends the bytes of a record to `buffer`.
///
/// # Panics
/// If the payload is larger than [`RECORD_BYTES_MAX`] or the batch begins behind the record: the
/// log has checked both.
pub(super) fn encode(record: &Record, salt: u64, batch_start: u64, buffer: &mut Vec<u8>) {
    assert!(record.payload.len() <= RECORD_BYTES_MAX, "append refuses larger records");
    let length = u32::try_from(record.payload.len()).expect("the limit is below 4 GiB");
    let distance = record.index.checked_sub(batch_start).expect("a batch begins before its end");
    let distance = u32::try_from(distance).expect("a segment holds fewer than 4 G records");
    let start = buffer.len();
    assert!(start.is_multiple_of(ALIGNMENT), "records are aligned");
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&record.index.to_le_bytes());
    buffer.extend_from_slice(&record.term.to_le_bytes());
    buffer.extend_from_slice(&[record.kind, 0, 0, 0]);
    buffer.extend_from_slice(&distance.to_le_bytes());
    buffer.extend_from_slice(&record.payload);
    buffer.resize(start + record.stored_bytes(), 0);
    let checksum = checksum(salt, &buffer[start + 4..]);
    buffer[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads the record at the beginning of `bytes`, which reach to the end of the segment.
pub(super) fn decode(bytes: &[u8], salt: u64) -> Result<Found<'_>, Defect> {
    let header = header(bytes).ok_or(Defect::Length)?;
    if header == [0; RECORD_HEADER_BYTES] {
        return Err(Defect::Blank);
    }
    let stored_bytes = stored_bytes(&header);
    if stored_bytes > bytes.len() {
        return Err(Defect::Length);
    }
    if read_u32(&header, 0) != checksum(salt, &bytes[4..stored_bytes]) {
        return Err(Defect::Checksum);
    }
    let position = Position { index: read_u64(&header, 8), term: read_u64(&header, 16) };
    let distance = u64::from(read_u32(&header, 28));
    let batch_start = position.index.checked_sub(distance).ok_or(Defect::Order)?;
    let payload = &bytes[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload_bytes(&header)];
    Ok(Found { position, kind: header[24], batch_start, payload, stored_bytes })
}

/// Returns the first [`RECORD_HEADER_BYTES`], if there are as many.
pub(super) fn header(bytes: &[u8]) -> Option<[u8; RECORD_HEADER_BYTES]> {
    bytes.get(..RECORD_HEADER_BYTES)?.try_into().ok()
}

/// Returns the length a header claims for its record; not checked in any way.
pub(super) fn stored_bytes(header: &[u8; RECORD_HEADER_BYTES]) -> usize {
    RECORD_HEADER_BYTES + payload_bytes(header).next_multiple_of(ALIGNMENT)
}

/// Returns the index a header claims; not checked in any way.
pub(super) fn claimed_index(header: &[u8; RECORD_HEADER_BYTES]) -> u64 {
    read_u64(header, 8)
}

fn payload_bytes(header: &[u8; RECORD_HEADER_BYTES]) -> usize {
    usize::try_from(read_u32(header, 4)).expect("this crate needs 64-bit addresses")
}

fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

/// Reads a little-endian number at a fixed place of a buffer that is long enough.
pub(super) fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

/// Reads a little-endian number at a fixed place of a buffer that is long enough.
pub(super) fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(payload: &'static [u8]) -> Record {
        Record { index: 7, term: 3, kind: 9, payload: Bytes::from_static(payload) }
    }

    #[test]
    fn encoded_records_decode_to_themselves() {
        for payload in [&b""[..], b"a", b"12345678", b"123456789"] {
            let record = sample(payload);
            let mut buffer = Vec::new();
            encode(&record, 42, 5, &mut buffer);
            assert_eq!(buffer.len(), record.stored_bytes());
            let found = decode(&buffer, 42).unwrap();
            assert_eq!(found.to_record(), record);
            assert_eq!(found.batch_start, 5);
            assert_eq!(found.stored_bytes, buffer.len());
        }
    }

    #[test]
    fn no_changed_bit_passes() {
        let mut buffer = Vec::new();
        encode(&sample(b"payload of a record"), 42, 7, &mut buffer);
        for bit in 0..buffer.len() * 8 {
            let mut changed = buffer.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&changed, 42).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_salt_does_not_pass() {
        let mut buffer = Vec::new();
        encode(&sample(b"payload"), 42, 7, &mut buffer);
        assert_eq!(decode(&buffer, 43), Err(Defect::Checksum));
    }

    #[test]
    fn every_shorter_prefix_is_refused() {
        let mut buffer = Vec::new();
        encode(&sample(b"payload"), 42, 7, &mut buffer);
        for length in 0..buffer.len() {
            assert_eq!(decode(&buffer[..length], 42), Err(Defect::Length), "length {length}");
        }
    }
}
