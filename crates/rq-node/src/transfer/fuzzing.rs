//! What sender and receiver of a database say to each other, for generated input.

use bytes::Bytes;
use rq_sqlite::EntryId;

use super::message::{Announcement, Answer, Body, Finish, Offer, Pages, Refusal, Request};
use crate::fuzzing::Decoder;

pub(crate) const DECODERS: [Decoder; 2] = [
    Decoder {
        name: "a request of a transfer",
        memory_factor: 16,
        again: request,
        samples: requests,
    },
    Decoder { name: "an answer of a transfer", memory_factor: 8, again: answer, samples: answers },
];

fn request(bytes: &Bytes) -> Result<Bytes, String> {
    Request::decode(bytes.clone()).map(|request| request.encode())
}

fn answer(bytes: &Bytes) -> Result<Bytes, String> {
    Answer::decode(bytes.clone()).map(Answer::encode)
}

fn requests() -> Vec<Bytes> {
    let header = Bytes::from_static(b"who");
    let pages = Pages {
        numbers: vec![1, 2, 900],
        data: Bytes::from_static(b"pages"),
        compressed: true,
        checksum: 12,
    };
    let applied = EntryId { term: 2, index: 11 };
    let bodies = [
        Body::Announce(Announcement { header: header.clone(), index: 9 }),
        Body::Offer(Offer { header, term: 3, page_size: 4096, page_count: 7, index: 9 }),
        Body::Hold { page_count: 8 },
        Body::Compare { first: 5, checksums: vec![u128::MAX, 0, 1 << 70] },
        Body::Pages(pages),
        Body::Finish(Finish { checksum: 1, applied, closing: Bytes::from_static(b"end") }),
    ];
    bodies.map(|body| Request { transfer: [7; 16], round: 2, body }.encode()).into()
}

fn answers() -> Vec<Bytes> {
    [
        Answer::Ready { pages: 3 },
        Answer::Done,
        Answer::Differ { bitmap: Bytes::from_static(b"\x05") },
        Answer::Installed { response: Bytes::from_static(b"vote") },
        Answer::refused(Refusal::NoSpace, "a reason"),
    ]
    .map(Answer::encode)
    .into()
}
