//! Frames: what follows the handshake, in both directions, until the connection ends.
//!
//! ```text
//! kind u8 | 0 u8 | 0 u16 | length u32 | call u64 | checksum of payload u32 | checksum of the 20 bytes before u32
//! payload, `length` bytes
//! ```
//! Numbers are little-endian, checksums CRC-32C. What comes in may be anything: the header is checked before
//! anything is made of it, and memory is taken for bytes that came, not for bytes that were announced.

use std::{collections::VecDeque, io, io::IoSlice};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{
    limits::{COPIED_BYTES_MAX, READ_BYTES, REASON_BYTES_MAX, TRUSTED_BYTES_MAX},
    meter::Meter,
};

/// The bytes of a frame before its payload.
pub(crate) const HEADER_BYTES: usize = 24;
/// A payload beyond this many bytes shares its memory with nothing else.
const LARGE_BYTES: usize = 4 * READ_BYTES;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call, from the side that dialled.
    Request,
    /// The answer to one.
    Answer,
    /// There will be no answer; the payload is a [`Refusal`] and a reason for people.
    Refusal,
    /// The dialler wants to hear something.
    Ping,
    /// Something, to be heard.
    Pong,
    /// The dialler does not wait for the answer to a call any more, and takes none.
    Cancel,
}

/// Why there will be no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nobody has looked at the request.
    NotBegun,
    /// The request was looked at and may have been carried out.
    Begun,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    /// Which call of the connection it is about; zero for none.
    pub(crate) call: u64,
    pub(crate) payload: Bytes,
}

/// Which frames a side may receive, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    /// Whether calls are expected, or answers.
    pub(crate) side: Side,
    /// The most bytes of a request or an answer.
    pub(crate) payload_bytes_max: usize,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The side that dialled.
    Dialler,
    /// The side that was dialled.
    Accepter,
}

/// Why a connection is of no use any more.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    /// The other side closed the connection between two frames.
    #[error("the other side closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The other side sent what no version of the protocol sends.
    #[error("the other side sent something that is not a frame: {0}")]
    Nonsense(&'static str),
    /// The other side announced more than is taken on this lane.
    #[error("the other side announced a frame of {length} bytes, more than the {max} of this lane")]
    TooLong {
        /// What was announced.
        length: usize,
        /// What is taken.
        max: usize,
    },
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Answer => 2,
            Self::Refusal => 3,
            Self::Ping => 4,
            Self::Pong => 5,
            Self::Cancel => 6,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Request,
            2 => Self::Answer,
            3 => Self::Refusal,
            4 => Self::Ping,
            5 => Self::Pong,
            6 => Self::Cancel,
            _ => return None,
        })
    }
}

impl Frame {
    /// Makes a frame without a payload.
    pub(crate) fn empty(kind: Kind) -> Self {
        Self { kind, call: 0, payload: Bytes::new() }
    }

    /// Makes what takes a call back.
    pub(crate) fn cancel(call: u64) -> Self {
        Self { call, ..Self::empty(Kind::Cancel) }
    }

    /// Makes a refusal of a call.
    pub(crate) fn refusal(call: u64, refusal: Refusal, reason: &str) -> Self {
        let mut end = reason.len().min(REASON_BYTES_MAX - 1);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut payload = BytesMut::with_capacity(end + 1);
        payload.put_u8(match refusal {
            Refusal::NotBegun => 1,
            Refusal::Begun => 2,
        });
        payload.put_slice(&reason.as_bytes()[..end]);
        Self { kind: Kind::Refusal, call, payload: payload.freeze() }
    }

    /// Takes a refusal apart. What is not known counts as begun, as that promises less.
    pub(crate) fn refused(&self) -> (Refusal, String) {
        let refusal = match self.payload.first() {
            Some(1) => Refusal::NotBegun,
            _ => Refusal::Begun,
        };
        let reason = String::from_utf8_lossy(self.payload.get(1..).unwrap_or_default());
        (refusal, reason.chars().filter(|character| !character.is_control()).collect())
    }

    /// The bytes it takes on the wire.
    pub(crate) fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let length = u32::try_from(self.payload.len()).expect("lanes take less than 4 GiB");
        let mut header = [0; HEADER_BYTES];
        header[0] = self.kind.code();
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8..16].copy_from_slice(&self.call.to_le_bytes());
        header[16..20].copy_from_slice(&crc32c::crc32c(&self.payload).to_le_bytes());
        let checksum = crc32c::crc32c(&header[..20]);
        header[20..].copy_from_slice(&checksum.to_le_bytes());
        header
    }
}

/// A header that was checked.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: Kind,
    call: u64,
    length: usize,
    checksum: u32,
}

impl Header {
    fn parse(bytes: &[u8], accepted: Accepted) -> Result<Self, FrameError> {
        let number =
            |at: usize| bytes[at..at + 4].iter().rev().fold(0, |n, b| n << 8 | u32::from(*b));
        if crc32c::crc32c(&bytes[..20]) != number(20) {
            return Err(FrameError::Nonsense("its header has a wrong checksum"));
        }
        if bytes[1..4] != [0; 3] {
            return Err(FrameError::Nonsense("its header has unknown marks"));
        }
        let kind = Kind::from_code(bytes[0]).ok_or(FrameError::Nonsense("its kind is unknown"))?;
        let call = u64::from(number(8)) | u64::from(number(12)) << 32;
        let length = usize::try_from(number(4)).unwrap_or(usize::MAX);
        let max = match (kind, accepted.side) {
            (Kind::Request, Side::Accepter) | (Kind::Answer, Side::Dialler) => {
                accepted.payload_bytes_max
            }
            (Kind::Refusal, Side::Dialler) => REASON_BYTES_MAX,
            (Kind::Ping | Kind::Cancel, Side::Accepter) | (Kind::Pong, Side::Dialler) => 0,
            _ => return Err(FrameError::Nonsense("its kind belongs to the other direction")),
        };
        if length > max {
            return Err(FrameError::TooLong { length, max });
        }
        Ok(Self { kind, call, length, checksum: number(16) })
    }
}

/// Reads frames.
///
/// - [`FrameReader::next`] may be given up and called again; nothing is lost.
/// - The memory held is at most about three times what was received of the frame at hand, or once what the largest
///   frame before it had, up to [`TRUSTED_BYTES_MAX`]: pages come in many frames of one length.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    source: R,
    accepted: Accepted,
    buffer: BytesMut,
    header: Option<Header>,
    /// The bytes of the largest payload that has come whole, up to [`TRUSTED_BYTES_MAX`].
    trusted: usize,
    /// Whether the meter was told of the frame at hand.
    is_timed: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(source: R, accepted: Accepted) -> Self {
        Self {
            source,
            accepted,
            buffer: BytesMut::new(),
            header: None,
            trusted: 0,
            is_timed: false,
        }
    }

    /// Waits for a whole frame. After an error nothing more can be read.
    pub(crate) async fn next(&mut self, meter: &Meter) -> Result<Frame, FrameError> {
        loop {
            if let Some(frame) = self.parse(meter)? {
                return Ok(frame);
            }
            self.make_room();
            let count = self.source.read_buf(&mut self.buffer).await?;
            meter.received(count);
            if count == 0 {
                let is_between = self.buffer.is_empty() && self.header.is_none();
                return Err(if is_between {
                    FrameError::Closed
                } else {
                    FrameError::Broken(io::ErrorKind::UnexpectedEof.into())
                });
            }
        }
    }

    /// The memory taken, in bytes.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    fn parse(&mut self, meter: &Meter) -> Result<Option<Frame>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None if self.buffer.len() < HEADER_BYTES => return Ok(None),
            None => {
                let header = Header::parse(&self.buffer[..HEADER_BYTES], self.accepted)?;
                self.buffer.advance(HEADER_BYTES);
                *self.header.insert(header)
            }
        };
        if self.buffer.len() < header.length {
            if !self.is_timed {
                self.is_timed = true;
                meter.frame_began(header.length);
            }
            return Ok(None);
        }
        let payload = self.buffer.split_to(header.length).freeze();
        self.header = None;
        self.trusted = self.trusted.max(header.length.min(TRUSTED_BYTES_MAX));
        if self.is_timed {
            self.is_timed = false;
            meter.frame_ended();
        }
        if header.length > LARGE_BYTES {
            // What is left would keep the memory of this payload alive.
            self.buffer = BytesMut::from(&*self.buffer);
        }
        if crc32c::crc32c(&payload) != header.checksum {
            return Err(FrameError::Nonsense("its payload has a wrong checksum"));
        }
        Ok(Some(Frame { kind: header.kind, call: header.call, payload }))
    }

    /// Makes room for what is missing, but never for more than has already come of it, or of a frame before.
    fn make_room(&mut self) {
        let needed = self.header.map_or(HEADER_BYTES, |header| header.length);
        let missing = needed.saturating_sub(self.buffer.len());
        let room = missing.min(self.buffer.len().max(self.trusted)).max(READ_BYTES);
        let spare = self.buffer.capacity() - self.buffer.len();
        let enough = if self.header.is_some() { missing.min(room) } else { READ_BYTES / 4 };
        if spare < enough {
            self.buffer.reserve(room);
        }
    }
}

/// Frames on their way out, in order, as pieces that need not be copied together.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// Small frames that are still being gathered, behind all pieces.
    gathered: BytesMut,
    bytes: usize,
}

impl Outgoing {
    /// Adds a frame at the end.
    pub(crate) fn push(&mut self, frame: Frame) {
        self.bytes += frame.wire_bytes();
        self.gathered.put_slice(&frame.header());
        if frame.payload.len() <= COPIED_BYTES_MAX {
            self.gathered.put_slice(&frame.payload);
        } else {
            self.close_piece();
            self.pieces.push_back(frame.payload);
        }
    }

    /// The bytes not yet written.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    fn close_piece(&mut self) {
        if !self.gathered.is_empty() {
            self.pieces.push_back(self.gathered.split().freeze());
        }
    }

    /// Writes everything. After an error [`Outgoing::len`] tells how much did not go.
    pub(crate) async fn write_to<W>(&mut self, sink: &mut W, meter: &Meter) -> io::Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        self.close_piece();
        let written = self.write_pieces(sink, meter).await;
        meter.write_ended();
        written
    }

    async fn write_pieces<W>(&mut self, sink: &mut W, meter: &Meter) -> io::Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        meter.write_began();
        while self.has_remaining() {
            let count = sink.write_buf(self).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            meter.sent(count);
        }
        sink.flush().await
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if piece.len() > count {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
        assert_eq!(count, 0, "nobody writes more than there is");
    }
}
