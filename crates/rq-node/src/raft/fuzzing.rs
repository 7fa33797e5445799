//! What Raft's members say to each other, for generated input.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{
    EntryPayload, Membership,
    entry::RaftEntry as _,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest,
        VoteResponse,
    },
    type_config::alias::{EntryOf, VoteOf},
};
use rq_sqlite::EntryId;

use super::{
    LogId, Peer, TypeConfig, log_id,
    wire::{Answer, Header, Request, Sealed, decode_vote, encode_vote},
};
use crate::{command::Payload, fuzzing::Decoder};

pub(crate) const DECODERS: [Decoder; 5] = [
    Decoder {
        name: "who sends a request of Raft",
        memory_factor: 4,
        again: outside,
        samples: requests,
    },
    Decoder { name: "a request of Raft", memory_factor: 160, again: request, samples: requests },
    Decoder { name: "an answer of Raft", memory_factor: 8, again: answer, samples: answers },
    Decoder { name: "a header of Raft", memory_factor: 8, again: header, samples: headers },
    Decoder { name: "a vote", memory_factor: 8, again: vote, samples: votes },
];

/// What is done before the sender is admitted.
fn outside(bytes: &Bytes) -> Result<Bytes, String> {
    Sealed::decode(bytes.clone()).map(|_| bytes.clone())
}

fn request(bytes: &Bytes) -> Result<Bytes, String> {
    let sealed = Sealed::decode(bytes.clone())?;
    let header = sealed.header.clone();
    Ok(untagged(sealed.open()?.encode(header)))
}

fn answer(bytes: &Bytes) -> Result<Bytes, String> {
    Answer::decode(bytes.clone()).map(Answer::encode)
}

fn header(bytes: &Bytes) -> Result<Bytes, String> {
    Header::decode(bytes).map(Header::encode)
}

fn vote(bytes: &Bytes) -> Result<Bytes, String> {
    decode_vote(bytes).map(|vote| encode_vote(&vote))
}

/// Without the byte that says what kind of conversation it belongs to.
fn untagged(mut bytes: Bytes) -> Bytes {
    bytes.split_off(1)
}

fn sample_header() -> Header {
    Header {
        cluster: "0123456789abcdef".to_owned(),
        to: 7,
        from: u64::MAX,
        leads: true,
        acknowledged: Some(9),
    }
}

fn sample_vote() -> VoteOf<TypeConfig> {
    openraft::Vote::new_committed(3, u64::MAX)
}

fn at(term: u64, index: u64) -> LogId {
    log_id(EntryId { term, index })
}

fn membership() -> Membership<u64, Peer> {
    let peer = |name: &str| Peer {
        name: name.to_owned(),
        raft_addr: format!("{name}:4002"),
        api_url: format!("http://{name}:4001"),
        replica: false,
    };
    let nodes = BTreeMap::from([(1, peer("a")), (2, peer("b"))]);
    Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 2])], nodes)
        .expect("each voter has a node")
}

fn entries() -> Vec<EntryOf<TypeConfig>> {
    let command = Payload::from_bytes(Bytes::from_static(b"\x01\x00a command"));
    [EntryPayload::Blank, EntryPayload::Normal(command), EntryPayload::Membership(membership())]
        .into_iter()
        .zip(6..)
        .map(|(payload, index)| openraft::Entry::new(at(3, index), payload))
        .collect()
}

fn requests() -> Vec<Bytes> {
    let append = |prev_log_id, entries| {
        let leader_commit = Some(at(2, 5));
        let vote = sample_vote();
        Request::Append(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
    };
    let vote = VoteRequest::new(openraft::Vote::new(4, 9), Some(at(3, 8)));
    let transfer = TransferLeaderRequest::new(sample_vote(), 7, Some(at(3, 8)));
    [
        append(Some(at(2, 5)), entries()),
        append(None, Vec::new()),
        Request::Vote(vote.clone()),
        Request::PreVote(vote),
        Request::Transfer(transfer),
    ]
    .map(|request| untagged(request.encode(sample_header())))
    .into()
}

fn answers() -> Vec<Bytes> {
    [
        Answer::Append(AppendEntriesResponse::Success),
        Answer::Append(AppendEntriesResponse::PartialSuccess(Some(at(3, 7)))),
        Answer::Append(AppendEntriesResponse::Conflict),
        Answer::Append(AppendEntriesResponse::HigherVote(sample_vote())),
        Answer::Vote(VoteResponse::new(sample_vote(), Some(at(3, 7)), true)),
        Answer::Transfer(Ok(())),
        Answer::Transfer(Err("not now".to_owned())),
        Answer::Refused("it is meant for another".to_owned()),
    ]
    .map(Answer::encode)
    .into()
}

fn headers() -> Vec<Bytes> {
    vec![sample_header().encode()]
}

fn votes() -> Vec<Bytes> {
    vec![encode_vote(&sample_vote()), encode_vote(&openraft::Vote::new(0, 0))]
}
