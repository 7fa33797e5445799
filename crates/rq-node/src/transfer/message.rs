//! What sender and receiver say to each other: requests with their answers, as protobuf.
//!
//! Every request names the transfer and the round it belongs to, so that what was delayed is known for what
//! it is. Field numbers are never reused. Bytes that make no sense are an error; every count is checked
//! before memory is taken for it.

use bytes::Bytes;
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use rq_sqlite::EntryId;

use super::{CHUNK_BYTES_MAX, RANGE_PAGES_MAX};

/// Bytes that a request takes at most besides its pages and their numbers.
const HEAD_BYTES_MAX: usize = 128;
/// Bytes that a page's number takes at most.
const NUMBER_BYTES_MAX: usize = 5;
/// The field of a request that holds pages, and the one of these that holds their content.
const PAGES_TAG: u32 = 6;
const DATA_TAG: u32 = 2;

/// Names one transfer; drawn by its sender.
pub(super) type TransferId = [u8; 16];

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) transfer: TransferId,
    pub(super) round: u32,
    pub(super) body: Body,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// A database will be offered that reaches this entry, as soon as it is its turn. → [`Answer::Done`]
    Announce(Announcement),
    /// May this be sent? → [`Answer::Ready`]
    Offer(Offer),
    /// The held round begins, of so many pages. → [`Answer::Done`]
    Hold { page_count: u32 },
    /// Which of these pages differ? → [`Answer::Differ`]
    Compare { first: u32, checksums: Vec<u128> },
    /// These are the pages. → [`Answer::Done`]
    Pages(Pages),
    /// That was all. → [`Answer::Installed`]
    Finish(Finish),
}

/// A database that waits for its turn to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    /// Who sends, to whom; opaque here.
    pub(super) header: Bytes,
    /// The applied index.
    pub(super) index: u64,
}

/// A database that may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// Who sends, to whom; opaque here.
    pub(super) header: Bytes,
    /// The term of the sender: a higher one takes the place of a transfer under way.
    pub(super) term: u64,
    pub(super) page_size: u32,
    pub(super) page_count: u32,
    /// The applied index.
    pub(super) index: u64,
}

/// Some pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    /// Their numbers, ascending.
    pub(super) numbers: Vec<u32>,
    /// Their content one after the other, perhaps compressed.
    pub(super) data: Bytes,
    pub(super) compressed: bool,
    /// The sum of their checksums.
    pub(super) checksum: u128,
}

/// A request with pages that is made in place: their content is gathered behind room for what goes before it, and so
/// need not be copied.
pub(super) struct PagesDraft {
    room: usize,
    buffer: Vec<u8>,
}

/// The end of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finish {
    /// The sum of the checksums of all pages.
    pub(super) checksum: u128,
    /// The last entry the database holds.
    pub(super) applied: EntryId,
    /// For whoever installs it; opaque here.
    pub(super) closing: Bytes,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It may be sent; pages up to this one are worth comparing.
    Ready { pages: u32 },
    /// It is done.
    Done,
    /// One bit for each page, the first page's lowest in the first byte: set if it differs.
    Differ { bitmap: Bytes },
    /// The snapshot is installed; the words are those of who installed it.
    Installed { response: Bytes },
    /// It is not done.
    Refused { refusal: Refusal, reason: String },
}

/// What kind of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another transfer is under way.
    Busy,
    /// The receiver does not know this transfer (any more): it must be offered again.
    Unknown,
    /// What came is not what was sent; it may be sent again.
    Damaged,
    /// There is no room for it.
    NoSpace,
    /// The receiver failed.
    Failed,
    /// The receiver does not want it.
    NotAdmitted,
    /// What stands in the file is not what was sent.
    Mismatch,
}

const REFUSALS: [(u32, Refusal); 7] = [
    (1, Refusal::Busy),
    (2, Refusal::Unknown),
    (3, Refusal::Damaged),
    (4, Refusal::NoSpace),
    (5, Refusal::Failed),
    (6, Refusal::NotAdmitted),
    (7, Refusal::Mismatch),
];

impl Request {
    /// The request as bytes.
    pub(super) fn encode(&self) -> Bytes {
        let body = match &self.body {
            Body::Announce(Announcement { header, index }) => {
                BodyMessage::Announce(AnnounceMessage { header: header.clone(), index: *index })
            }
            Body::Offer(offer) => BodyMessage::Offer(OfferMessage {
                header: offer.header.clone(),
                term: offer.term,
                page_size: offer.page_size,
                page_count: offer.page_count,
                index: offer.index,
            }),
            Body::Hold { page_count } => BodyMessage::Hold(HoldMessage { page_count: *page_count }),
            Body::Compare { first, checksums } => BodyMessage::Compare(CompareMessage {
                first: *first,
                checksums: checksum_list(checksums),
            }),
            Body::Pages(pages) => BodyMessage::Pages(PagesMessage {
                numbers: pages.numbers.clone(),
                data: pages.data.clone(),
                compressed: pages.compressed,
                checksum: checksum_bytes(pages.checksum),
            }),
            Body::Finish(Finish { checksum, applied, closing }) => {
                BodyMessage::Finish(FinishMessage {
                    checksum: checksum_bytes(*checksum),
                    term: applied.term,
                    index: applied.index,
                    closing: closing.clone(),
                })
            }
        };
        let transfer = Bytes::copy_from_slice(&self.transfer);
        let message = RequestMessage { transfer, round: self.round, body: Some(body) };
        message.encode_to_vec().into()
    }

    /// The request in `bytes`.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn decode(bytes: Bytes) -> Result<Self, String> {
        let message = RequestMessage::decode(bytes).map_err(|error| error.to_string())?;
        let transfer = (&message.transfer[..]).try_into();
        let transfer = transfer.map_err(|_| "the transfer has no name".to_owned())?;
        let body = match message.body.ok_or("the request is empty")? {
            BodyMessage::Announce(AnnounceMessage { header, index }) => {
                Body::Announce(Announcement { header, index })
            }
            BodyMessage::Offer(offer) => Body::Offer(Offer {
                page_size: page_size(offer.page_size)?,
                header: offer.header,
                term: offer.term,
                page_count: offer.page_count,
                index: offer.index,
            }),
            BodyMessage::Hold(HoldMessage { page_count }) => Body::Hold { page_count },
            BodyMessage::Compare(CompareMessage { first, checksums }) => {
                let (words, rest) = checksums.as_chunks::<16>();
                let count = u32::try_from(words.len()).unwrap_or(u32::MAX);
                let fits = first.checked_add(count).is_some();
                if first == 0 || !rest.is_empty() || count > RANGE_PAGES_MAX || !fits {
                    return Err(format!("{count} checksums from page {first}"));
                }
                let checksums = words.iter().map(|word| u128::from_le_bytes(*word)).collect();
                Body::Compare { first, checksums }
            }
            BodyMessage::Pages(message) => Body::Pages(pages(message)?),
            BodyMessage::Finish(FinishMessage { checksum, term, index, closing }) => {
                let applied = EntryId { term, index };
                Body::Finish(Finish { checksum: checksum_in(&checksum)?, applied, closing })
            }
        };
        Ok(Self { transfer, round: message.round, body })
    }
}

impl PagesDraft {
    /// A draft for so many pages of so many bytes.
    pub(super) fn new(count: usize, page_size: usize) -> Self {
        let room = HEAD_BYTES_MAX + count * NUMBER_BYTES_MAX;
        let mut buffer = Vec::with_capacity(room + count * page_size);
        buffer.resize(room, 0);
        Self { room, buffer }
    }

    /// Adds content.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The content so far.
    pub(super) fn data(&self) -> &[u8] {
        &self.buffer[self.room..]
    }

    /// Has other content in the place of what there is.
    pub(super) fn replace(&mut self, data: &[u8]) {
        self.buffer.truncate(self.room);
        self.push(data);
    }

    /// The request as bytes: what [`Request::encode`] makes of the same pages, with the content at its end.
    pub(super) fn encode(
        self,
        transfer: TransferId,
        round: u32,
        numbers: Vec<u32>,
        compressed: bool,
        checksum: u128,
    ) -> Bytes {
        let Self { room, mut buffer } = self;
        let data_bytes = buffer.len() - room;
        let checksum = checksum_bytes(checksum);
        let mut pages =
            PagesMessage { numbers, data: Bytes::new(), compressed, checksum }.encode_to_vec();
        encode_key(DATA_TAG, WireType::LengthDelimited, &mut pages);
        encode_varint(data_bytes as u64, &mut pages);
        let transfer = Bytes::copy_from_slice(&transfer);
        let mut head = RequestMessage { transfer, round, body: None }.encode_to_vec();
        encode_key(PAGES_TAG, WireType::LengthDelimited, &mut head);
        encode_varint((pages.len() + data_bytes) as u64, &mut head);
        head.append(&mut pages);
        let begin = room.checked_sub(head.len()).expect("the room is for the longest head");
        buffer[begin..room].copy_from_slice(&head);
        Bytes::from(buffer).slice(begin..)
    }
}

impl Answer {
    pub(super) fn refused(refusal: Refusal, reason: impl Into<String>) -> Self {
        Self::Refused { refusal, reason: reason.into() }
    }

    /// The answer as bytes.
    pub(super) fn encode(self) -> Bytes {
        let answer = match self {
            Self::Ready { pages } => AnswerBody::Ready(ReadyMessage { pages }),
            Self::Done => AnswerBody::Done(DoneMessage {}),
            Self::Differ { bitmap } => AnswerBody::Differ(bitmap),
            Self::Installed { response } => AnswerBody::Installed(response),
            Self::Refused { refusal, reason } => {
                let known = REFUSALS.iter().find(|(_, known)| *known == refusal);
                let kind = known.map_or(0, |(kind, _)| *kind);
                AnswerBody::Refused(RefusedMessage { kind, reason })
            }
        };
        AnswerMessage { answer: Some(answer) }.encode_to_vec().into()
    }

    /// The answer in `bytes`.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn decode(bytes: Bytes) -> Result<Self, String> {
        let message = AnswerMessage::decode(bytes).map_err(|error| error.to_string())?;
        Ok(match message.answer.ok_or("the answer is empty")? {
            AnswerBody::Ready(ReadyMessage { pages }) => Self::Ready { pages },
            AnswerBody::Done(DoneMessage {}) => Self::Done,
            AnswerBody::Differ(bitmap) => Self::Differ { bitmap },
            AnswerBody::Installed(response) => Self::Installed { response },
            AnswerBody::Refused(RefusedMessage { kind, reason }) => {
                let known = REFUSALS.iter().find(|(known, _)| *known == kind);
                // A newer program's reason, which only its words explain.
                let refusal = known.map_or(Refusal::Failed, |(_, refusal)| *refusal);
                Self::Refused { refusal, reason }
            }
        })
    }
}

fn pages(message: PagesMessage) -> Result<Pages, String> {
    let PagesMessage { numbers, data, compressed, checksum } = message;
    let ascends = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let most = CHUNK_BYTES_MAX / 512;
    let from_one = numbers.first().is_some_and(|first| *first > 0);
    if !ascends || !from_one || numbers.len() > most || data.len() > CHUNK_BYTES_MAX {
        return Err(format!("{} pages in {} bytes", numbers.len(), data.len()));
    }
    Ok(Pages { numbers, data, compressed, checksum: checksum_in(&checksum)? })
}

fn page_size(bytes: u32) -> Result<u32, String> {
    if bytes.is_power_of_two() && (512..=65_536).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("pages of {bytes} bytes"))
}

/// In one allocation, as they are many.
fn checksum_list(checksums: &[u128]) -> Vec<u8> {
    let words: Vec<_> = checksums.iter().map(|checksum| checksum.to_le_bytes()).collect();
    words.into_flattened()
}

fn checksum_bytes(checksum: u128) -> Vec<u8> {
    checksum.to_le_bytes().to_vec()
}

fn checksum_in(bytes: &[u8]) -> Result<u128, String> {
    let bytes = bytes.try_into().map_err(|_| format!("a checksum of {} bytes", bytes.len()))?;
    Ok(u128::from_le_bytes(bytes))
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestMessage {
    #[prost(bytes = "bytes", tag = "1")]
    transfer: Bytes,
    #[prost(uint32, tag = "2")]
    round: u32,
    #[prost(oneof = "BodyMessage", tags = "3, 4, 5, 6, 7, 8")]
    body: Option<BodyMessage>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum BodyMessage {
    #[prost(message, tag = "3")]
    Offer(OfferMessage),
    #[prost(message, tag = "4")]
    Hold(HoldMessage),
    #[prost(message, tag = "5")]
    Compare(CompareMessage),
    #[prost(message, tag = "6")]
    Pages(PagesMessage),
    #[prost(message, tag = "7")]
    Finish(FinishMessage),
    #[prost(message, tag = "8")]
    Announce(AnnounceMessage),
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnnounceMessage {
    #[prost(bytes = "bytes", tag = "1")]
    header: Bytes,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfferMessage {
    #[prost(bytes = "bytes", tag = "1")]
    header: Bytes,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint32, tag = "3")]
    page_size: u32,
    #[prost(uint32, tag = "4")]
    page_count: u32,
    #[prost(uint64, tag = "5")]
    index: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HoldMessage {
    #[prost(uint32, tag = "1")]
    page_count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CompareMessage {
    #[prost(uint32, tag = "1")]
    first: u32,
    #[prost(bytes = "vec", tag = "2")]
    checksums: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PagesMessage {
    #[prost(uint32, repeated, tag = "1")]
    numbers: Vec<u32>,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
    #[prost(bool, tag = "3")]
    compressed: bool,
    #[prost(bytes = "vec", tag = "4")]
    checksum: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FinishMessage {
    #[prost(bytes = "vec", tag = "1")]
    checksum: Vec<u8>,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(bytes = "bytes", tag = "4")]
    closing: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnswerMessage {
    #[prost(oneof = "AnswerBody", tags = "1, 2, 3, 4, 5")]
    answer: Option<AnswerBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnswerBody {
    #[prost(message, tag = "1")]
    Ready(ReadyMessage),
    #[prost(message, tag = "2")]
    Done(DoneMessage),
    #[prost(bytes = "bytes", tag = "3")]
    Differ(Bytes),
    #[prost(bytes = "bytes", tag = "4")]
    Installed(Bytes),
    #[prost(message, tag = "5")]
    Refused(RefusedMessage),
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReadyMessage {
    #[prost(uint32, tag = "1")]
    pages: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DoneMessage {}

#[derive(Clone, PartialEq, prost::Message)]
struct RefusedMessage {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        let bodies = [
            Body::Offer(Offer {
                header: Bytes::from_static(b"who"),
                term: 3,
                page_size: 4096,
                page_count: 7,
                index: 9,
            }),
            Body::Hold { page_count: 8 },
            Body::Compare { first: 5, checksums: vec![u128::MAX, 0, 1 << 70] },
            Body::Pages(Pages {
                numbers: vec![1, 2, 9],
                data: Bytes::from_static(b"pages"),
                compressed: true,
                checksum: 12,
            }),
            Body::Finish(Finish {
                checksum: 1 << 100,
                applied: EntryId { term: 2, index: 11 },
                closing: Bytes::from_static(b"end"),
            }),
        ];
        bodies.map(|body| Request { transfer: [7; 16], round: 2, body }).into()
    }

    #[test]
    fn what_is_decoded_is_what_was_encoded() {
        for request in requests() {
            assert_eq!(Request::decode(request.encode()), Ok(request));
        }
        let refusals = REFUSALS.map(|(_, refusal)| Answer::refused(refusal, "a reason"));
        let bytes = Bytes::from_static(b"bytes");
        let answers = [
            Answer::Ready { pages: 3 },
            Answer::Done,
            Answer::Differ { bitmap: bytes.clone() },
            Answer::Installed { response: bytes },
        ];
        for answer in answers.into_iter().chain(refusals) {
            assert_eq!(Answer::decode(answer.clone().encode()), Ok(answer));
        }
    }

    #[test]
    fn a_draft_is_the_request_with_its_pages() {
        let most = CHUNK_BYTES_MAX / 512;
        let (highest, many) = (u32::MAX, u32::try_from(most).unwrap());
        let cases = [
            (vec![1], 65_536, false),
            (vec![1, 2, 9], 512, true),
            (vec![highest - 1, highest], 4096, false),
            ((highest - many + 1..=highest).collect(), 512, false),
        ];
        for (numbers, page_size, compressed) in cases {
            let mut draft = PagesDraft::new(numbers.len(), page_size);
            for number in &numbers {
                draft.push(&vec![number.to_le_bytes()[0]; page_size]);
            }
            if compressed {
                draft.replace(b"packed");
            }
            let data = Bytes::copy_from_slice(draft.data());
            let pages = Pages { numbers: numbers.clone(), data, compressed, checksum: u128::MAX };
            let request =
                Request { transfer: [255; 16], round: u32::MAX, body: Body::Pages(pages) };
            let drafted = draft.encode([255; 16], u32::MAX, numbers, compressed, u128::MAX);
            assert_eq!(Request::decode(drafted), Ok(request));
        }
    }

    #[test]
    fn damaged_messages_are_errors_or_other_messages_but_no_panics() {
        for request in requests() {
            let bytes = request.encode();
            for length in 0..bytes.len() {
                drop(Request::decode(bytes.slice(..length)));
            }
            for at in 0..bytes.len() {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 0x81;
                drop(Answer::decode(damaged.clone().into()));
                drop(Request::decode(damaged.into()));
            }
        }
    }

    #[test]
    fn counts_that_cannot_be_are_refused() {
        let refused = |body: Body| {
            let request = Request { transfer: [1; 16], round: 1, body };
            assert!(Request::decode(request.encode()).is_err(), "{request:?}");
        };
        let offer = |page_size| {
            let header = Bytes::new();
            Body::Offer(Offer { header, term: 1, page_size, page_count: 1, index: 1 })
        };
        for size in [0, 1, 511, 1000, 4097, 131_072] {
            refused(offer(size));
        }
        let most = usize::try_from(RANGE_PAGES_MAX).unwrap();
        refused(Body::Compare { first: 0, checksums: vec![1] });
        refused(Body::Compare { first: u32::MAX, checksums: vec![1] });
        refused(Body::Compare { first: 1, checksums: vec![1; most + 1] });
        let pages = |numbers, length| {
            let data = vec![0; length].into();
            Body::Pages(Pages { numbers, data, compressed: false, checksum: 0 })
        };
        refused(pages(vec![], 0));
        refused(pages(vec![0], 512));
        refused(pages(vec![2, 1], 1024));
        refused(pages(vec![2, 2], 1024));
        refused(pages(vec![1], CHUNK_BYTES_MAX + 1));
        refused(pages((1..=20_000).collect(), 512));
    }
}
