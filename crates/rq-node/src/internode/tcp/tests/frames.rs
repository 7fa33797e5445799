//! The reader of frames against what may come: cut anywhere, broken anywhere, announced and never sent.

use std::{
    cmp::min,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::*;
use crate::internode::tcp::{
    counters::Counters,
    frame::{Accepted, Frame, FrameError, FrameReader, HEADER_BYTES, Kind, Outgoing, Side},
    limits::{READ_BYTES, TRUSTED_BYTES_MAX},
    meter::Meter,
};

/// The longest payload accepted here.
const PAYLOAD_MAX: usize = 300_000;
const CALLS: Accepted = Accepted { side: Side::Accepter, payload_bytes_max: PAYLOAD_MAX };

/// Gives bytes in pieces of random sizes, then ends or stays silent.
struct Pieces<'a> {
    bytes: &'a [u8],
    numbers: &'a mut Numbers,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let magnitude = [2, 30, 1000, 100_000][this.numbers.below(4)];
        let count = min(1 + this.numbers.below(magnitude), buffer.remaining());
        let (piece, rest) = this.bytes.split_at(min(count, this.bytes.len()));
        buffer.put_slice(piece);
        this.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

fn meter() -> Meter {
    Meter::new(Counters::default().lane(Lane::Append).clone())
}

async fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    let (mut outgoing, mut bytes) = (Outgoing::default(), Vec::new());
    for frame in frames {
        outgoing.push(frame.clone());
    }
    let announced = outgoing.len();
    outgoing.write_to(&mut bytes, &meter()).await.unwrap();
    assert_eq!((bytes.len(), outgoing.len()), (announced, 0));
    bytes
}

fn frames(numbers: &mut Numbers) -> Vec<Frame> {
    let count = 1 + numbers.below(20);
    (0..count)
        .map(|call| match numbers.below(5) {
            0 => Frame::empty(Kind::Ping),
            magnitude => {
                let length = numbers.below([1, 100, 20_000, PAYLOAD_MAX + 1][magnitude - 1]);
                let byte = u8::try_from(numbers.below(256)).unwrap();
                let payload = Bytes::from(vec![byte; length]);
                Frame { kind: Kind::Request, call: call as u64, payload }
            }
        })
        .collect()
}

/// Reads until the first error.
async fn read(bytes: &[u8], numbers: &mut Numbers) -> (Vec<Frame>, FrameError) {
    let mut reader = FrameReader::new(Pieces { bytes, numbers }, CALLS);
    let mut frames = Vec::new();
    loop {
        match reader.next(&meter()).await {
            Ok(frame) => frames.push(frame),
            Err(error) => return (frames, error),
        }
    }
}

#[tokio::test]
async fn frames_survive_any_cutting_and_no_damage() {
    let mut numbers = Numbers::new();
    for _ in 0..60 {
        let sent = frames(&mut numbers);
        let mut bytes = bytes_of(&sent).await;
        let (received, end) = read(&bytes, &mut numbers).await;
        assert!(matches!(end, FrameError::Closed), "{end}");
        assert_eq!(received, sent);

        let cut = numbers.below(bytes.len());
        let (received, end) = read(&bytes[..cut], &mut numbers).await;
        assert_eq!(received, sent[..received.len()]);
        assert!(matches!(end, FrameError::Closed | FrameError::Broken(_)), "{end}");

        let place = numbers.below(bytes.len());
        bytes[place] ^= 1 << numbers.below(8);
        let (received, end) = read(&bytes, &mut numbers).await;
        assert!(received.len() < sent.len());
        assert_eq!(received, sent[..received.len()]);
        assert!(matches!(end, FrameError::Nonsense(_)), "{end}");
    }
}

#[tokio::test]
async fn noise_is_refused_and_costs_no_memory() {
    let mut numbers = Numbers::new();
    for _ in 0..2000 {
        let length = numbers.below(400);
        let noise: Vec<_> = (0..length).map(|_| numbers.below(256).to_le_bytes()[0]).collect();
        let mut reader = FrameReader::new(Pieces { bytes: &noise, numbers: &mut numbers }, CALLS);
        assert!(reader.next(&meter()).await.is_err());
        assert!(reader.capacity() <= 2 * READ_BYTES);
    }
}

/// A header as a liar would write it.
fn header(kind: u8, marks: [u8; 3], length: u32) -> Vec<u8> {
    let mut bytes = vec![kind, marks[0], marks[1], marks[2]];
    bytes.extend(length.to_le_bytes());
    bytes.extend(7_u64.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    assert_eq!(bytes.len(), HEADER_BYTES);
    bytes
}

#[tokio::test]
async fn headers_that_lie_are_refused_before_anything_is_taken() {
    let mut numbers = Numbers::new();
    let max = u32::try_from(PAYLOAD_MAX).unwrap();
    let rows = [
        ("one byte too long", header(1, [0; 3], max + 1), "announced a frame of 300001 bytes"),
        ("as long as can be said", header(1, [0; 3], u32::MAX), "announced a frame of 4294967295"),
        ("a ping with a payload", header(4, [0; 3], 1), "announced a frame of 1 bytes"),
        ("an answer to the accepter", header(2, [0; 3], 0), "other direction"),
        ("a pong to the accepter", header(5, [0; 3], 0), "other direction"),
        ("no kind", header(0, [0; 3], 0), "kind is unknown"),
        ("an unknown kind", header(7, [0; 3], 0), "kind is unknown"),
        ("a cancellation with a payload", header(6, [0; 3], 1), "announced a frame of 1 bytes"),
        ("marks", header(1, [0, 1, 0], 0), "unknown marks"),
    ];
    for (name, bytes, expected) in rows {
        let (received, error) = read(&bytes, &mut numbers).await;
        assert_eq!(received, [], "{name}");
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

#[tokio::test]
async fn memory_follows_what_came_and_not_what_was_announced() {
    let mut numbers = Numbers::new();
    let huge = Accepted { side: Side::Accepter, payload_bytes_max: 1 << 30 };
    let mut bytes = header(1, [0; 3], 1 << 30);
    for sent in [0, 1, 100_000, 3_000_000] {
        bytes.resize(HEADER_BYTES + sent, 0);
        let pieces = Pieces { bytes: &bytes, numbers: &mut numbers };
        let mut reader = FrameReader::new(pieces, huge);
        assert!(reader.next(&meter()).await.is_err(), "it ends too early");
        let capacity = reader.capacity();
        assert!(capacity <= 3 * sent + 3 * READ_BYTES, "{sent} came, {capacity} taken");
    }
}

/// Pages come in many frames of one length, and need not be moved as memory grows under each of them.
#[tokio::test]
async fn memory_is_taken_at_once_for_as_much_as_came_in_one_frame_before() {
    let mut numbers = Numbers::new();
    let huge = Accepted { side: Side::Accepter, payload_bytes_max: 1 << 30 };
    for (before, announced) in [
        (1_000_000, 1_000_000_u32),
        (1_000_000, 200_000_000),
        (100_000, 90_000),
        (TRUSTED_BYTES_MAX + 1_000_000, 200_000_000),
    ] {
        let payload = Bytes::from(vec![7; before]);
        let mut bytes = bytes_of(&[Frame { kind: Kind::Request, call: 1, payload }]).await;
        bytes.extend(header(1, [0; 3], announced));
        bytes.push(0);
        let pieces = Pieces { bytes: &bytes, numbers: &mut numbers };
        let mut reader = FrameReader::new(pieces, huge);
        assert_eq!(reader.next(&meter()).await.unwrap().payload.len(), before);
        assert!(reader.capacity() <= 3 * READ_BYTES, "nothing is held between two frames");
        assert!(reader.next(&meter()).await.is_err(), "it ends too early");
        let expected = before.min(TRUSTED_BYTES_MAX).min(usize::try_from(announced).unwrap());
        let capacity = reader.capacity();
        let most = expected + 3 * READ_BYTES;
        assert!((expected..=most).contains(&capacity), "{capacity} after {before}");
    }
}

#[tokio::test]
async fn a_reader_that_is_interrupted_loses_nothing() {
    use tokio::io::AsyncWriteExt as _;
    let mut numbers = Numbers::new();
    let sent = frames(&mut numbers);
    let bytes = bytes_of(&sent).await;
    let (mut writer, source) = tokio::io::duplex(1000);
    let expected = sent.len();
    let writing = tokio::spawn(async move {
        for piece in bytes.chunks(777) {
            writer.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        writer
    });
    let mut reader = FrameReader::new(source, CALLS);
    let (meter, mut received) = (meter(), Vec::new());
    while received.len() < expected {
        tokio::select! {
            biased;
            frame = reader.next(&meter) => received.push(frame.unwrap()),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(received, sent);
    drop(writing.await.unwrap());
}

#[test]
fn refusals_say_why_within_bounds() {
    use crate::internode::tcp::{frame::Refusal, limits::REASON_BYTES_MAX};
    let long = "ä".repeat(REASON_BYTES_MAX);
    for refusal in [Refusal::NotBegun, Refusal::Begun] {
        for reason in ["", "why", &long] {
            let frame = Frame::refusal(1, refusal, reason);
            assert!(frame.payload.len() <= REASON_BYTES_MAX);
            let (kind, text) = frame.refused();
            assert_eq!(kind, refusal);
            assert!(
                reason.starts_with(&text) && text.len() >= reason.len().min(REASON_BYTES_MAX - 2)
            );
        }
    }
    let odd = Frame { kind: Kind::Refusal, call: 1, payload: Bytes::from_static(b"\x09a\nb\xff") };
    assert_eq!(odd.refused(), (Refusal::Begun, "ab\u{fffd}".to_owned()));
    let empty = Frame { kind: Kind::Refusal, call: 1, payload: Bytes::new() };
    assert_eq!(empty.refused(), (Refusal::Begun, String::new()));
}
