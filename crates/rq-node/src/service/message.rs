//! What nodes ask of each other besides Raft, as bytes.
//!
//! A request carries the cluster it is for, the caller's credentials (the client's own, never the node's) and
//! what is asked; the answer is what came of it or an [`Error`] in full, so that a forwarded request ends as it would
//! have ended on the leader.
//!
//! Field numbers are never reused. Bytes that make no sense are an error, never a panic.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rq_security::Credentials;
use rq_sql::{Column, ErrorKind, Origin, Outcome, Rows, SqlError, Value};

use super::failure::ErrorMessage;
pub(crate) use super::introduction::{Metadata, Newcomer};
use super::introduction::{MetadataMessage, NewcomerMessage};
use crate::{
    Error, Level, Read, TimedOutcome, Write,
    command::{StatementMessage, ValueMessage},
};

/// A request, and on whose behalf. How it is read again is `envelope`'s business.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// The cluster the sender belongs to; `None` from a node that belongs to none yet.
    pub(crate) cluster: Option<String>,
    /// Who asks, as the client said it.
    pub(crate) credentials: Option<Credentials>,
    /// How long the sender waits for the answer, counted from when it was sent.
    pub(crate) time_left: Option<Duration>,
    /// What is asked.
    pub(crate) ask: Ask,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ask {
    /// Who are you, and how far are you?
    Metadata,
    /// Run a write.
    Execute(Write),
    /// Run reads.
    Query(Read),
    /// Run a request of mixed statements.
    Unified(Read),
    /// Up to which index must I have applied to read now?
    ReadIndex,
    /// Take me as a member.
    Join(Newcomer),
    /// I am here, and would found a cluster with others.
    Notify(Newcomer),
    /// Do you found this cluster with me? Whoever agrees belongs to it.
    Found {
        /// The founder.
        founder: Newcomer,
        /// The cluster's id.
        cluster: String,
        /// The name of the node that is asked: another may be at its address by now.
        name: String,
        /// Its number in Raft.
        raft_id: u64,
    },
    /// Remove the member of this name.
    Remove(String),
    /// Hand leadership over, to the member of this name or to anyone.
    StepDown(Option<String>),
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// To [`Ask::Metadata`].
    Metadata(Metadata),
    /// Results, the level really used, and the index of the log entry if there was one.
    Results {
        /// One a statement string.
        results: Vec<TimedOutcome>,
        /// The level really used, for reads.
        level: Level,
        /// The log entry the request went through.
        index: Option<u64>,
    },
    /// An index.
    Index(u64),
    /// The newcomer is a member of this cluster.
    Joined {
        /// The cluster's id.
        cluster: String,
        /// Nothing had to be done.
        already: bool,
    },
    /// It was done.
    Done,
    /// Whoever asked is a member that must take no part any more, for this reason.
    Excluded(String),
    /// It was not, or is unknown to have been.
    Failed(Error),
}

impl Request {
    /// The request as bytes.
    pub(crate) fn encode(self) -> Bytes {
        let (username, password) = match &self.credentials {
            Some(caller) => (caller.username().to_owned(), caller.password().to_owned()),
            None => (String::new(), String::new()),
        };
        let ask = match self.ask {
            Ask::Metadata => AskMessage::Metadata(Nothing {}),
            Ask::Execute(write) => AskMessage::Execute(write.into()),
            Ask::Query(read) => AskMessage::Query(read.into()),
            Ask::Unified(read) => AskMessage::Unified(read.into()),
            Ask::ReadIndex => AskMessage::ReadIndex(Nothing {}),
            Ask::Join(newcomer) => AskMessage::Join(newcomer.into()),
            Ask::Notify(newcomer) => AskMessage::Notify(newcomer.into()),
            Ask::Found { founder, cluster, name, raft_id } => {
                let founder = Some(founder.into());
                AskMessage::Found(FoundMessage { founder, cluster, name, raft_id })
            }
            Ask::Remove(name) => AskMessage::Remove(name),
            Ask::StepDown(target) => AskMessage::StepDown(TargetMessage { target }),
        };
        let (cluster, time_left_ns) = (self.cluster, self.time_left.map(nanoseconds));
        let message = RequestMessage { cluster, username, password, ask: Some(ask), time_left_ns };
        super::tagged(super::SERVICE, &message)
    }
}

impl Answer {
    /// The answer as bytes.
    pub(crate) fn encode(self) -> Bytes {
        let answer = match self {
            Self::Metadata(metadata) => AnswerBody::Metadata(metadata.into()),
            Self::Results { results, level, index } => AnswerBody::Results(ResultsMessage {
                results: results.into_iter().map(Into::into).collect(),
                level: write_level(level),
                index,
            }),
            Self::Index(index) => AnswerBody::Index(index),
            Self::Joined { cluster, already } => {
                AnswerBody::Joined(JoinedMessage { cluster, already })
            }
            Self::Done => AnswerBody::Done(Nothing {}),
            Self::Excluded(reason) => AnswerBody::Excluded(reason),
            Self::Failed(error) => AnswerBody::Failed(error.into()),
        };
        AnswerMessage { answer: Some(answer) }.encode_to_vec().into()
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// Bytes that are none.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, String> {
        let message = AnswerMessage::decode(bytes).map_err(|error| error.to_string())?;
        Ok(match message.answer.ok_or("an answer without content")? {
            AnswerBody::Metadata(metadata) => Self::Metadata(metadata.into()),
            AnswerBody::Results(ResultsMessage { results, level, index }) => Self::Results {
                results: results.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                level: read_level(level)?,
                index,
            },
            AnswerBody::Index(index) => Self::Index(index),
            AnswerBody::Joined(JoinedMessage { cluster, already }) => {
                Self::Joined { cluster, already }
            }
            AnswerBody::Done(Nothing {}) => Self::Done,
            AnswerBody::Excluded(reason) => Self::Excluded(reason),
            AnswerBody::Failed(error) => Self::Failed(error.try_into()?),
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestMessage {
    #[prost(string, optional, tag = "1")]
    cluster: Option<String>,
    #[prost(string, tag = "2")]
    username: String,
    #[prost(string, tag = "3")]
    password: String,
    #[prost(oneof = "AskMessage", tags = "4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    ask: Option<AskMessage>,
    #[prost(uint64, optional, tag = "14")]
    time_left_ns: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AskMessage {
    #[prost(message, tag = "4")]
    Metadata(Nothing),
    #[prost(message, tag = "5")]
    Execute(WriteMessage),
    #[prost(message, tag = "6")]
    Query(ReadMessage),
    #[prost(message, tag = "7")]
    Unified(ReadMessage),
    #[prost(message, tag = "8")]
    ReadIndex(Nothing),
    #[prost(message, tag = "9")]
    Join(NewcomerMessage),
    #[prost(message, tag = "10")]
    Notify(NewcomerMessage),
    #[prost(message, tag = "11")]
    Found(FoundMessage),
    #[prost(string, tag = "12")]
    Remove(String),
    #[prost(message, tag = "13")]
    StepDown(TargetMessage),
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnswerMessage {
    #[prost(oneof = "AnswerBody", tags = "1, 2, 3, 4, 5, 6, 7")]
    answer: Option<AnswerBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnswerBody {
    #[prost(message, tag = "1")]
    Metadata(MetadataMessage),
    #[prost(message, tag = "2")]
    Results(ResultsMessage),
    #[prost(uint64, tag = "3")]
    Index(u64),
    #[prost(message, tag = "4")]
    Joined(JoinedMessage),
    #[prost(message, tag = "5")]
    Done(Nothing),
    #[prost(message, tag = "6")]
    Failed(ErrorMessage),
    #[prost(string, tag = "7")]
    Excluded(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FoundMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) founder: Option<NewcomerMessage>,
    #[prost(string, tag = "2")]
    pub(super) cluster: String,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(fixed64, tag = "4")]
    pub(super) raft_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TargetMessage {
    #[prost(string, optional, tag = "1")]
    pub(super) target: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct JoinedMessage {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(bool, tag = "2")]
    already: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WriteMessage {
    #[prost(message, repeated, tag = "1")]
    statements: Vec<StatementMessage>,
    #[prost(bool, tag = "2")]
    transaction: bool,
    #[prost(uint64, optional, tag = "3")]
    timeout_ns: Option<u64>,
}

impl From<Write> for WriteMessage {
    fn from(write: Write) -> Self {
        Self {
            statements: write.statements.iter().map(Into::into).collect(),
            transaction: write.transaction,
            timeout_ns: write.timeout.map(nanoseconds),
        }
    }
}

impl From<WriteMessage> for Write {
    fn from(message: WriteMessage) -> Self {
        Self {
            statements: message.statements.into_iter().map(Into::into).collect(),
            transaction: message.transaction,
            timeout: message.timeout_ns.map(Duration::from_nanos),
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReadMessage {
    #[prost(message, repeated, tag = "1")]
    statements: Vec<StatementMessage>,
    #[prost(bool, tag = "2")]
    transaction: bool,
    #[prost(uint32, tag = "3")]
    level: u32,
    #[prost(uint64, tag = "4")]
    linearizable_timeout_ns: u64,
    #[prost(uint64, optional, tag = "5")]
    timeout_ns: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    min_index: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    freshness_ns: Option<u64>,
    #[prost(bool, tag = "8")]
    freshness_strict: bool,
}

impl From<Read> for ReadMessage {
    fn from(read: Read) -> Self {
        Self {
            statements: read.statements.iter().map(Into::into).collect(),
            transaction: read.transaction,
            level: write_level(read.level),
            linearizable_timeout_ns: nanoseconds(read.linearizable_timeout),
            timeout_ns: read.timeout.map(nanoseconds),
            min_index: read.min_index,
            freshness_ns: read.freshness.map(nanoseconds),
            freshness_strict: read.freshness_strict,
        }
    }
}

impl TryFrom<ReadMessage> for Read {
    type Error = String;

    fn try_from(message: ReadMessage) -> Result<Self, String> {
        Ok(Self {
            statements: message.statements.into_iter().map(Into::into).collect(),
            transaction: message.transaction,
            level: read_level(message.level)?,
            freshness: message.freshness_ns.map(Duration::from_nanos),
            freshness_strict: message.freshness_strict,
            linearizable_timeout: Duration::from_nanos(message.linearizable_timeout_ns),
            timeout: message.timeout_ns.map(Duration::from_nanos),
            min_index: message.min_index,
        })
    }
}

const LEVELS: [(Level, u32); 5] = [
    (Level::None, 1),
    (Level::Weak, 2),
    (Level::Linearizable, 3),
    (Level::Strong, 4),
    (Level::Auto, 5),
];

fn write_level(level: Level) -> u32 {
    LEVELS.iter().find(|(known, _)| *known == level).map_or(0, |(_, number)| *number)
}

fn read_level(number: u32) -> Result<Level, String> {
    let known = LEVELS.iter().find(|(_, known)| *known == number);
    known.map(|(level, _)| *level).ok_or_else(|| format!("read level {number}"))
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResultsMessage {
    #[prost(message, repeated, tag = "1")]
    results: Vec<OutcomeMessage>,
    #[prost(uint32, tag = "2")]
    level: u32,
    #[prost(uint64, optional, tag = "3")]
    index: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OutcomeMessage {
    #[prost(uint64, tag = "1")]
    elapsed_ns: u64,
    #[prost(oneof = "OutcomeBody", tags = "2, 3, 4, 5")]
    outcome: Option<OutcomeBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OutcomeBody {
    #[prost(message, tag = "2")]
    Empty(Nothing),
    #[prost(message, tag = "3")]
    Done(DoneMessage),
    #[prost(message, tag = "4")]
    Rows(RowsMessage),
    #[prost(message, tag = "5")]
    Error(SqlErrorMessage),
}

#[derive(Clone, PartialEq, prost::Message)]
struct DoneMessage {
    #[prost(sint64, optional, tag = "1")]
    last_insert_id: Option<i64>,
    #[prost(uint64, optional, tag = "2")]
    rows_affected: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RowsMessage {
    #[prost(message, repeated, tag = "1")]
    columns: Vec<ColumnMessage>,
    #[prost(message, repeated, tag = "2")]
    rows: Vec<RowMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ColumnMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, optional, tag = "2")]
    declared_type: Option<String>,
    #[prost(string, optional, tag = "3")]
    table: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RowMessage {
    #[prost(message, repeated, tag = "1")]
    values: Vec<CellMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CellMessage {
    #[prost(oneof = "ValueMessage", tags = "2, 3, 4, 5")]
    value: Option<ValueMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SqlErrorMessage {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(bool, tag = "3")]
    write: bool,
}

impl From<TimedOutcome> for OutcomeMessage {
    fn from(timed: TimedOutcome) -> Self {
        let outcome = match timed.outcome {
            Outcome::Empty => OutcomeBody::Empty(Nothing {}),
            Outcome::Done { last_insert_id, rows_affected } => {
                OutcomeBody::Done(DoneMessage { last_insert_id, rows_affected })
            }
            Outcome::Rows(rows) => OutcomeBody::Rows(rows.into()),
            Outcome::Error(error) => OutcomeBody::Error(SqlErrorMessage {
                kind: write_kind(error.kind),
                message: error.message,
                write: error.origin == Origin::Write,
            }),
        };
        Self { elapsed_ns: nanoseconds(timed.elapsed), outcome: Some(outcome) }
    }
}

impl TryFrom<OutcomeMessage> for TimedOutcome {
    type Error = String;

    fn try_from(message: OutcomeMessage) -> Result<Self, String> {
        let outcome = match message.outcome.ok_or("a result without content")? {
            OutcomeBody::Empty(Nothing {}) => Outcome::Empty,
            OutcomeBody::Done(DoneMessage { last_insert_id, rows_affected }) => {
                Outcome::Done { last_insert_id, rows_affected }
            }
            OutcomeBody::Rows(rows) => Outcome::Rows(rows.try_into()?),
            OutcomeBody::Error(error) => Outcome::Error(SqlError {
                kind: read_kind(error.kind),
                message: error.message,
                origin: if error.write { Origin::Write } else { Origin::Read },
            }),
        };
        Ok(Self { outcome, elapsed: Duration::from_nanos(message.elapsed_ns) })
    }
}

impl From<Rows> for RowsMessage {
    fn from(rows: Rows) -> Self {
        let columns = rows.columns.into_iter().map(|column| {
            let Column { name, declared_type, table } = column;
            ColumnMessage { name, declared_type, table }
        });
        let row = |values: Vec<Value>| RowMessage {
            values: values
                .into_iter()
                .map(|value| CellMessage { value: ValueMessage::write(value) })
                .collect(),
        };
        Self { columns: columns.collect(), rows: rows.rows.into_iter().map(row).collect() }
    }
}

impl TryFrom<RowsMessage> for Rows {
    type Error = String;

    fn try_from(message: RowsMessage) -> Result<Self, String> {
        let columns: Vec<Column> = message
            .columns
            .into_iter()
            .map(|ColumnMessage { name, declared_type, table }| Column {
                name,
                declared_type,
                table,
            })
            .collect();
        let mut rows = Vec::with_capacity(message.rows.len());
        for RowMessage { values } in message.rows {
            if values.len() != columns.len() {
                return Err(format!("a row of {} values", values.len()));
            }
            rows.push(values.into_iter().map(|cell| ValueMessage::read(cell.value)).collect());
        }
        Ok(Self { columns, rows })
    }
}

/// Every kind of failing statement and its number. A number nobody knows is a newer node's.
const KINDS: [(ErrorKind, u32); 14] = [
    (ErrorKind::Sql, 1),
    (ErrorKind::Constraint, 2),
    (ErrorKind::NotAuthorized, 3),
    (ErrorKind::ReadOnly, 4),
    (ErrorKind::Parameters, 5),
    (ErrorKind::Budget, 6),
    (ErrorKind::ResultTooLarge, 7),
    (ErrorKind::Timeout, 8),
    (ErrorKind::Cancelled, 9),
    (ErrorKind::Value, 10),
    (ErrorKind::Transaction, 11),
    (ErrorKind::TooBig, 12),
    (ErrorKind::Other, 13),
    (ErrorKind::ConstraintKept, 14),
];

fn write_kind(kind: ErrorKind) -> u32 {
    KINDS.iter().find(|(known, _)| *known == kind).map_or(0, |(_, number)| *number)
}

fn read_kind(number: u32) -> ErrorKind {
    let known = KINDS.iter().find(|(_, known)| *known == number);
    known.map_or(ErrorKind::Other, |(kind, _)| *kind)
}
