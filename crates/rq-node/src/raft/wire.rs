//! What Raft's members say to each other, as bytes: openraft's requests and answers to protobuf and back.
//!
//! Every request states the cluster, the incarnation it is meant for and the one it comes from. Whoever
//! receives one that is meant for somebody else (an address that was given to another node, a member of a
//! cluster that was recovered without it) refuses it before openraft sees it, see `answer`.
//!
//! A request is read in two steps: [`Sealed`] knows who sends it and leaves the rest as it came, so that nobody
//! who is not admitted has memory taken for more than the bytes sent.
//!
//! Field numbers are never reused. Bytes that make no sense are an error, never a panic, and terms and indexes that
//! nobody can have reached ([`NUMBER_MAX`]) make no sense: everybody may count on from any other.

use bytes::Bytes;
use openraft::{
    entry::RaftEntry as _,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest,
        VoteResponse,
    },
    type_config::alias::{EntryOf, VoteOf},
};
use prost::Message as _;
use rq_sqlite::EntryId;

use super::{
    LogId, TypeConfig, entry_id,
    log::{pack, unpack},
    log_id,
};
use crate::service::fields::Fields;

type Vote = VoteOf<TypeConfig>;

/// The greatest term or index that is taken for one. Elections and entries of all ages come nowhere near.
const NUMBER_MAX: u64 = u64::MAX / 2;
/// The most entries of one append; more are refused. A sender stays far below ([`super::APPEND_ENTRIES`]).
const ENTRIES_MAX: usize = 4096;

/// Whom a request is meant for, and who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The cluster both belong to.
    pub(crate) cluster: String,
    /// The incarnation it is meant for.
    pub(crate) to: u64,
    /// The incarnation it comes from.
    pub(crate) from: u64,
    /// Whether the sender leads and has heard of a quorum lately. A leader that has not goes on sending heartbeats,
    /// and nobody should think better of it for them.
    pub(crate) leads: bool,
    /// The last entry that the receiver had acknowledged to the sender of entries in the same term, if any.
    pub(crate) acknowledged: Option<u64>,
}

/// A request whose content has not been looked at.
pub(crate) struct Sealed {
    /// Whom it is meant for.
    pub(crate) header: Header,
    body: Option<SealedBody>,
}

/// A request.
#[derive(Debug)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    /// The word of the leader was taken, or the reason why not.
    Transfer(Result<(), String>),
    /// Not answered by Raft: meant for somebody else, or Raft does not run.
    Refused(String),
}

impl Header {
    /// The header alone as bytes, for whoever carries it without knowing what it is.
    pub(crate) fn encode(self) -> Bytes {
        let Self { cluster, to, from, leads, acknowledged } = self;
        RequestMessage { cluster, to, from, body: None, leads, acknowledged }.encode_to_vec().into()
    }

    /// Reads a header alone.
    ///
    /// # Errors
    /// Bytes that are none.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        Sealed::decode(Bytes::copy_from_slice(bytes)).map(|sealed| sealed.header)
    }
}

impl Sealed {
    /// Reads who sends a request to whom.
    ///
    /// # Errors
    /// Bytes that are none.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, String> {
        let message = SealedMessage::decode(bytes).map_err(|error| error.to_string())?;
        let SealedMessage { cluster, to, from, body, leads, acknowledged } = message;
        Ok(Self { header: Header { cluster, to, from, leads, acknowledged }, body })
    }

    /// Reads what is asked.
    ///
    /// # Errors
    /// Bytes that are no request, and more entries than anybody sends at once.
    pub(crate) fn open(self) -> Result<Request, String> {
        let invalid = |error: prost::DecodeError| error.to_string();
        Ok(match self.body.ok_or("a request without content")? {
            SealedBody::Append(bytes) => {
                let entries = Fields::of(&bytes).filter(|field| {
                    field.as_ref().map_or(true, |field| field.number == AppendMessage::ENTRIES)
                });
                let count = entries
                    .take(ENTRIES_MAX + 1)
                    .try_fold(0, |count, field| field.map(|_| count + 1))?;
                if count > ENTRIES_MAX {
                    return Err(format!("an append of more than {ENTRIES_MAX} entries"));
                }
                Request::Append(read_append(AppendMessage::decode(bytes).map_err(invalid)?)?)
            }
            SealedBody::Vote(bytes) => {
                Request::Vote(read_vote_request(AskVoteMessage::decode(bytes).map_err(invalid)?)?)
            }
            SealedBody::PreVote(bytes) => Request::PreVote(read_vote_request(
                AskVoteMessage::decode(bytes).map_err(invalid)?,
            )?),
            SealedBody::Transfer(bytes) => {
                let message = TransferMessage::decode(bytes).map_err(invalid)?;
                Request::Transfer(TransferLeaderRequest::new(
                    read_vote(message.vote)?,
                    message.to,
                    message.last.map(read_id).transpose()?,
                ))
            }
        })
    }
}

impl Request {
    /// The request as bytes.
    pub(crate) fn encode(self, header: Header) -> Bytes {
        let body = match self {
            Self::Append(request) => RequestBody::Append(append_message(request)),
            Self::Vote(request) => RequestBody::Vote(vote_message(&request)),
            Self::PreVote(request) => RequestBody::PreVote(vote_message(&request)),
            Self::Transfer(request) => RequestBody::Transfer(TransferMessage {
                vote: Some(write_vote(request.from_leader())),
                to: *request.to_node_id(),
                last: request.last_log_id().map(write_id),
            }),
        };
        let Header { cluster, to, from, leads, acknowledged } = header;
        let message = RequestMessage { cluster, to, from, body: Some(body), leads, acknowledged };
        crate::service::tagged(crate::service::RAFT, &message)
    }
}

impl Answer {
    /// The answer as bytes.
    pub(crate) fn encode(self) -> Bytes {
        let body = match self {
            Self::Append(response) => AnswerBody::Append(write_appended(&response)),
            Self::Vote(response) => AnswerBody::Vote(VotedMessage {
                vote: Some(write_vote(&response.vote)),
                granted: response.vote_granted,
                last: response.last_log_id.as_ref().map(write_id),
            }),
            Self::Transfer(Ok(())) => AnswerBody::Transfer(String::new()),
            Self::Transfer(Err(reason)) => AnswerBody::Transfer(reason),
            Self::Refused(reason) => AnswerBody::Refused(reason),
        };
        AnswerMessage { body: Some(body) }.encode_to_vec().into()
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// Bytes that are none.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, String> {
        let message = AnswerMessage::decode(bytes).map_err(|error| error.to_string())?;
        Ok(match message.body.ok_or("an answer without content")? {
            AnswerBody::Append(message) => Self::Append(read_appended(message)?),
            AnswerBody::Vote(message) => Self::Vote(VoteResponse::new(
                read_vote(message.vote)?,
                message.last.map(read_id).transpose()?,
                message.granted,
            )),
            AnswerBody::Transfer(reason) if reason.is_empty() => Self::Transfer(Ok(())),
            AnswerBody::Transfer(reason) => Self::Transfer(Err(reason)),
            AnswerBody::Refused(reason) => Self::Refused(reason),
        })
    }
}

/// A vote as bytes, for whoever carries it without knowing what it is.
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    write_vote(vote).encode_to_vec().into()
}

/// Reads a vote.
///
/// # Errors
/// Bytes that are none.
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, String> {
    let message = VoteMessage::decode(bytes).map_err(|error| error.to_string())?;
    read_vote(Some(message))
}

fn append_message(request: AppendEntriesRequest<TypeConfig>) -> AppendMessage {
    let entries = request.entries.into_iter().map(|entry| {
        let id = entry_id(&entry.log_id);
        let (kind, payload) = pack(entry.payload);
        EntryMessage { term: id.term, index: id.index, kind: kind.into(), payload }
    });
    AppendMessage {
        vote: Some(write_vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(write_id),
        entries: entries.collect(),
        commit: request.leader_commit.as_ref().map(write_id),
    }
}

fn read_append(message: AppendMessage) -> Result<AppendEntriesRequest<TypeConfig>, String> {
    let previous = message.previous.map(read_id).transpose()?;
    let first = previous.as_ref().map_or(0, |id: &LogId| id.index() + 1);
    let mut entries: Vec<EntryOf<TypeConfig>> = Vec::new();
    for (next, entry) in (first..).zip(message.entries) {
        let EntryMessage { term, index, kind, payload } = entry;
        // openraft takes it for granted that entries follow each other.
        if index != next {
            return Err(format!("entry {index} where {next} was to come"));
        }
        let kind = u8::try_from(kind).map_err(|_| format!("entry {index} of kind {kind}"))?;
        entries.push(openraft::Entry::new(
            read_id(IdMessage { term, index })?,
            unpack(index, kind, payload)?,
        ));
    }
    Ok(AppendEntriesRequest {
        vote: read_vote(message.vote)?,
        prev_log_id: previous,
        entries,
        leader_commit: message.commit.map(read_id).transpose()?,
    })
}

fn write_appended(response: &AppendEntriesResponse<TypeConfig>) -> AppendedMessage {
    let (end, reached, vote) = match response {
        AppendEntriesResponse::Success => (APPENDED, None, None),
        AppendEntriesResponse::PartialSuccess(reached) => (APPENDED_PARTLY, reached.as_ref(), None),
        AppendEntriesResponse::Conflict => (APPEND_CONFLICT, None, None),
        AppendEntriesResponse::HigherVote(vote) => (APPEND_HIGHER_VOTE, None, Some(vote)),
    };
    AppendedMessage { end, reached: reached.map(write_id), vote: vote.map(write_vote) }
}

fn read_appended(message: AppendedMessage) -> Result<AppendEntriesResponse<TypeConfig>, String> {
    Ok(match message.end {
        APPENDED => AppendEntriesResponse::Success,
        APPENDED_PARTLY => {
            AppendEntriesResponse::PartialSuccess(message.reached.map(read_id).transpose()?)
        }
        APPEND_CONFLICT => AppendEntriesResponse::Conflict,
        APPEND_HIGHER_VOTE => AppendEntriesResponse::HigherVote(read_vote(message.vote)?),
        other => return Err(format!("an answer of kind {other}")),
    })
}

fn vote_message(request: &VoteRequest<TypeConfig>) -> AskVoteMessage {
    AskVoteMessage {
        vote: Some(write_vote(&request.vote)),
        last: request.last_log_id.as_ref().map(write_id),
        transfer: request.leadership_transfer,
    }
}

fn read_vote_request(message: AskVoteMessage) -> Result<VoteRequest<TypeConfig>, String> {
    let vote = read_vote(message.vote)?;
    let mut request = VoteRequest::new(vote, message.last.map(read_id).transpose()?);
    request.leadership_transfer = message.transfer;
    Ok(request)
}

fn write_vote(vote: &Vote) -> VoteMessage {
    let openraft::Vote { leader_id, committed } = vote;
    VoteMessage { term: leader_id.term, node: Some(leader_id.voted_for), committed: *committed }
}

fn read_vote(message: Option<VoteMessage>) -> Result<Vote, String> {
    let VoteMessage { term, node, committed } = message.ok_or("a vote is missing")?;
    let node = node.ok_or("a vote for nobody")?;
    if term > NUMBER_MAX {
        return Err(format!("a vote in term {term}"));
    }
    Ok(if committed {
        openraft::Vote::new_committed(term, node)
    } else {
        openraft::Vote::new(term, node)
    })
}

fn write_id(id: &LogId) -> IdMessage {
    let EntryId { term, index } = entry_id(id);
    IdMessage { term, index }
}

fn read_id(IdMessage { term, index }: IdMessage) -> Result<LogId, String> {
    if term > NUMBER_MAX || index > NUMBER_MAX {
        return Err(format!("entry {index} of term {term}"));
    }
    Ok(log_id(EntryId { term, index }))
}

const APPENDED: u32 = 1;
const APPENDED_PARTLY: u32 = 2;
const APPEND_CONFLICT: u32 = 3;
const APPEND_HIGHER_VOTE: u32 = 4;

#[derive(Clone, PartialEq, prost::Message)]
struct RequestMessage {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(fixed64, tag = "2")]
    to: u64,
    #[prost(fixed64, tag = "3")]
    from: u64,
    #[prost(oneof = "RequestBody", tags = "4, 5, 6, 7")]
    body: Option<RequestBody>,
    #[prost(bool, tag = "8")]
    leads: bool,
    #[prost(uint64, optional, tag = "9")]
    acknowledged: Option<u64>,
}

/// A [`RequestMessage`] whose body is left as it came.
#[derive(Clone, PartialEq, prost::Message)]
struct SealedMessage {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(fixed64, tag = "2")]
    to: u64,
    #[prost(fixed64, tag = "3")]
    from: u64,
    #[prost(oneof = "SealedBody", tags = "4, 5, 6, 7")]
    body: Option<SealedBody>,
    #[prost(bool, tag = "8")]
    leads: bool,
    #[prost(uint64, optional, tag = "9")]
    acknowledged: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum SealedBody {
    #[prost(bytes = "bytes", tag = "4")]
    Append(Bytes),
    #[prost(bytes = "bytes", tag = "5")]
    Vote(Bytes),
    #[prost(bytes = "bytes", tag = "6")]
    PreVote(Bytes),
    #[prost(bytes = "bytes", tag = "7")]
    Transfer(Bytes),
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum RequestBody {
    #[prost(message, tag = "4")]
    Append(AppendMessage),
    #[prost(message, tag = "5")]
    Vote(AskVoteMessage),
    #[prost(message, tag = "6")]
    PreVote(AskVoteMessage),
    #[prost(message, tag = "7")]
    Transfer(TransferMessage),
}

#[derive(Clone, PartialEq, prost::Message)]
struct AppendMessage {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteMessage>,
    #[prost(message, optional, tag = "2")]
    previous: Option<IdMessage>,
    #[prost(message, repeated, tag = "3")]
    entries: Vec<EntryMessage>,
    #[prost(message, optional, tag = "4")]
    commit: Option<IdMessage>,
}

impl AppendMessage {
    /// The number of the field of entries.
    const ENTRIES: u32 = 3;
}

#[derive(Clone, PartialEq, prost::Message)]
struct EntryMessage {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "4")]
    payload: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AskVoteMessage {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteMessage>,
    #[prost(message, optional, tag = "2")]
    last: Option<IdMessage>,
    #[prost(bool, tag = "3")]
    transfer: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TransferMessage {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteMessage>,
    #[prost(fixed64, tag = "2")]
    to: u64,
    #[prost(message, optional, tag = "3")]
    last: Option<IdMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnswerMessage {
    #[prost(oneof = "AnswerBody", tags = "1, 2, 3, 4")]
    body: Option<AnswerBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnswerBody {
    #[prost(message, tag = "1")]
    Append(AppendedMessage),
    #[prost(message, tag = "2")]
    Vote(VotedMessage),
    #[prost(string, tag = "3")]
    Transfer(String),
    #[prost(string, tag = "4")]
    Refused(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct AppendedMessage {
    #[prost(uint32, tag = "1")]
    end: u32,
    #[prost(message, optional, tag = "2")]
    reached: Option<IdMessage>,
    #[prost(message, optional, tag = "3")]
    vote: Option<VoteMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VotedMessage {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteMessage>,
    #[prost(bool, tag = "2")]
    granted: bool,
    #[prost(message, optional, tag = "3")]
    last: Option<IdMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VoteMessage {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(fixed64, optional, tag = "2")]
    node: Option<u64>,
    #[prost(bool, tag = "3")]
    committed: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct IdMessage {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { cluster: "c".to_owned(), to: 7, from: 8, leads: true, acknowledged: Some(5) }
    }

    fn open(body: RequestBody) -> Result<Request, String> {
        let Header { cluster, to, from, leads, acknowledged } = header();
        let message = RequestMessage { cluster, to, from, body: Some(body), leads, acknowledged };
        let sealed =
            Sealed::decode(message.encode_to_vec().into()).expect("its header can be read");
        assert_eq!(sealed.header, header());
        sealed.open()
    }

    fn vote(term: u64) -> Option<VoteMessage> {
        Some(VoteMessage { term, node: Some(8), committed: true })
    }

    fn append(previous: IdMessage, entries: Vec<EntryMessage>) -> Result<Request, String> {
        let (vote, previous) = (vote(1), Some(previous));
        open(RequestBody::Append(AppendMessage { vote, previous, entries, commit: None }))
    }

    fn entry(index: u64) -> EntryMessage {
        EntryMessage { term: 1, index, kind: 0, payload: Bytes::new() }
    }

    #[test]
    fn numbers_that_nobody_can_have_reached_are_refused() {
        for (number, fits) in
            [(5, true), (NUMBER_MAX, true), (NUMBER_MAX + 1, false), (u64::MAX, false)]
        {
            let id = |term, index| IdMessage { term, index };
            assert_eq!(append(id(1, number), vec![]).is_ok(), fits, "{number}");
            assert_eq!(append(id(number, 1), vec![]).is_ok(), fits, "{number}");
            let entries = vec![EntryMessage { term: number, ..entry(2) }];
            assert_eq!(append(id(1, 1), entries).is_ok(), fits, "{number}");
            let last = Some(id(1, number));
            let asked = AskVoteMessage { vote: vote(number), last, transfer: false };
            assert_eq!(open(RequestBody::Vote(asked.clone())).is_ok(), fits, "{number}");
            assert_eq!(open(RequestBody::PreVote(asked)).is_ok(), fits, "{number}");
            let handed = TransferMessage { vote: vote(number), to: 7, last };
            assert_eq!(open(RequestBody::Transfer(handed)).is_ok(), fits, "{number}");
            let commit = Some(id(1, number));
            let (vote, entries) = (vote(1), vec![]);
            let told = AppendMessage { vote, previous: None, entries, commit };
            assert_eq!(open(RequestBody::Append(told)).is_ok(), fits, "{number}");
        }
        let last = IdMessage { term: 1, index: NUMBER_MAX };
        assert!(append(last, vec![entry(NUMBER_MAX + 1)]).is_err());
        assert!(append(last, vec![entry(0)]).is_err());
    }

    #[test]
    fn the_entries_of_an_append_are_counted_before_they_are_read() {
        let entries = |count: u64| (1..=count).map(entry).collect();
        let before = IdMessage { term: 0, index: 0 };
        let most = ENTRIES_MAX as u64;
        assert!(append(before, entries(most)).is_ok());
        let refused = append(before, entries(most + 1)).expect_err("one too many");
        assert!(refused.contains("more than 4096 entries"), "{refused}");
        // These would be refused one by one as well, but for their memory.
        let empty =
            vec![EntryMessage { term: 0, index: 0, kind: 0, payload: Bytes::new() }; 100_000];
        let refused = append(before, empty).expect_err("there are too many");
        assert!(refused.contains("more than 4096 entries"), "{refused}");
    }
}
