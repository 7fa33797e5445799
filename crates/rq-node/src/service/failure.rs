//! An [`Error`] as bytes, so that a request ends at whoever passed it on as it ended at the leader.
//!
//! Numbers are never reused. What a newer node says that this one cannot judge is an unknown outcome, which promises
//! least.

use crate::{Error, Member, OtherEngine};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ErrorMessage {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    text: String,
    #[prost(uint64, tag = "3")]
    first: u64,
    #[prost(uint64, tag = "4")]
    second: u64,
    #[prost(message, optional, tag = "5")]
    leader: Option<MemberMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MemberMessage {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    raft_addr: String,
    #[prost(string, tag = "3")]
    api_url: String,
    #[prost(bool, tag = "4")]
    voter: bool,
}

impl From<Error> for ErrorMessage {
    fn from(error: Error) -> Self {
        let empty = Self { kind: 0, text: String::new(), first: 0, second: 0, leader: None };
        let plain = |kind| Self { kind, ..empty.clone() };
        let said = |kind, text: String| Self { kind, text, ..empty.clone() };
        match error {
            Error::DisallowedPragma => plain(1),
            Error::NotOpen => plain(2),
            Error::NotReady => plain(3),
            Error::LeaderNotFound => plain(4),
            Error::NotLeader { leader } => Self {
                kind: 5,
                leader: leader.map(|Member { id, raft_addr, api_url, voter }| MemberMessage {
                    id,
                    raft_addr,
                    api_url,
                    voter,
                }),
                ..empty
            },
            Error::StaleRead => plain(6),
            Error::DeadlineExceeded => plain(7),
            Error::EnqueueTimeout => plain(8),
            Error::WaitTimeout { index } => Self { first: index, ..plain(9) },
            Error::DiskFull { free, floor } => Self { first: free, second: floor, ..plain(10) },
            Error::ApplyStalled { index, reason } => Self { first: index, ..said(11, reason) },
            Error::TooLarge { bytes, max } => Self { first: bytes, second: max, ..plain(12) },
            Error::Overloaded => plain(13),
            Error::ShuttingDown => plain(14),
            Error::Request(reason) => said(15, reason),
            Error::OutcomeUnknown(reason) => said(16, reason),
            Error::Stopped(reason) => said(17, reason),
            Error::Unauthorized(what) => said(18, what.to_owned()),
            Error::Unreachable(reason) => said(19, reason),
            Error::Membership(reason) => said(20, reason),
            Error::OtherEngine(OtherEngine { database, program }) => Self {
                first: database.cast_unsigned(),
                second: program.cast_unsigned(),
                ..plain(21)
            },
        }
    }
}

impl TryFrom<ErrorMessage> for Error {
    type Error = String;

    fn try_from(message: ErrorMessage) -> Result<Self, String> {
        let ErrorMessage { kind, text, first, second, leader } = message;
        Ok(match kind {
            1 => Self::DisallowedPragma,
            2 => Self::NotOpen,
            3 => Self::NotReady,
            4 => Self::LeaderNotFound,
            5 => Self::NotLeader {
                leader: leader.map(|MemberMessage { id, raft_addr, api_url, voter }| Member {
                    id,
                    raft_addr,
                    api_url,
                    voter,
                }),
            },
            6 => Self::StaleRead,
            7 => Self::DeadlineExceeded,
            8 => Self::EnqueueTimeout,
            9 => Self::WaitTimeout { index: first },
            10 => Self::DiskFull { free: first, floor: second },
            11 => Self::ApplyStalled { index: first, reason: text },
            12 => Self::TooLarge { bytes: first, max: second },
            13 => Self::Overloaded,
            14 => Self::ShuttingDown,
            15 => Self::Request(text),
            17 => Self::Stopped(text),
            18 => Self::Unauthorized(text),
            19 => Self::Unreachable(text),
            20 => Self::Membership(text),
            21 => Self::OtherEngine(OtherEngine {
                database: first.cast_signed(),
                program: second.cast_signed(),
            }),
            // 16, and whatever a newer node says that this one cannot judge.
            _ => Self::OutcomeUnknown(text),
        })
    }
}
