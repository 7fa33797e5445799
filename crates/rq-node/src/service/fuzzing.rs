//! What nodes ask of each other besides Raft, for generated input.

use std::time::Duration;

use bytes::Bytes;
use rq_security::Credentials;
use rq_sql::{Column, ErrorKind, Origin, Outcome, Rows, SqlError, Statement, Value};

use super::{
    envelope::{Most, Sealed},
    message::{Answer, Ask, Metadata, Newcomer, Request},
};
use crate::{Error, Level, Member, Read, TimedOutcome, Write, fuzzing::Decoder};

pub(crate) const DECODERS: [Decoder; 3] = [
    Decoder {
        name: "who asks the service for what",
        memory_factor: 4,
        again: outside,
        samples: requests,
    },
    Decoder {
        name: "a request of the service",
        memory_factor: 160,
        again: request,
        samples: requests,
    },
    Decoder {
        name: "an answer of the service",
        memory_factor: 160,
        again: answer,
        samples: answers,
    },
];

/// What a client may send unless its operator wants otherwise.
const MOST: Most = Most { statements: 1_000_000, parameters: 4_000_000 };

/// What is done before the caller is known to be allowed to ask.
fn outside(bytes: &Bytes) -> Result<Bytes, String> {
    Sealed::decode(bytes.clone()).map(|_| bytes.clone())
}

fn request(bytes: &Bytes) -> Result<Bytes, String> {
    let Sealed { request, statements } = Sealed::decode(bytes.clone())?;
    let Request { cluster, credentials, time_left, ask } = request;
    let ask = statements.open(ask, MOST)?;
    Ok(Request { cluster, credentials, time_left, ask }.encode().split_off(1))
}

fn answer(bytes: &Bytes) -> Result<Bytes, String> {
    Answer::decode(bytes.clone()).map(Answer::encode)
}

fn statements() -> Vec<Statement> {
    let values = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(-0.5),
        Value::text("é"),
        Value::Blob(vec![0, 255]),
    ];
    let mut named = Statement::with("INSERT INTO t VALUES (?, ?, ?, ?, :n)", values);
    named.parameters[4].name = Some("n".to_owned());
    vec![Statement::new("SELECT 1"), named, Statement::new("")]
}

fn newcomer() -> Newcomer {
    Newcomer {
        name: "n".to_owned(),
        raft_id: 9,
        raft_addr: "n:4002".to_owned(),
        api_url: "http://n:4001".to_owned(),
        replica: true,
        epoch: -1,
        format: 1,
        cluster: Some("c".to_owned()),
        process: Some(10),
    }
}

fn requests() -> Vec<Bytes> {
    let read = Read {
        statements: statements(),
        transaction: true,
        level: Level::Linearizable,
        freshness: Some(Duration::from_secs(1)),
        freshness_strict: true,
        linearizable_timeout: Duration::from_secs(2),
        timeout: Some(Duration::from_secs(3)),
        min_index: Some(4),
    };
    let timeout = Some(Duration::from_secs(5));
    [
        Ask::Metadata,
        Ask::Execute(Write { statements: statements(), transaction: true, timeout }),
        Ask::Query(read.clone()),
        Ask::Unified(read),
        Ask::ReadIndex,
        Ask::Join(newcomer()),
        Ask::Notify(newcomer()),
        Ask::Found {
            founder: newcomer(),
            cluster: "c".to_owned(),
            name: "b".to_owned(),
            raft_id: 2,
        },
        Ask::Remove("n".to_owned()),
        Ask::StepDown(Some("n".to_owned())),
        Ask::StepDown(None),
    ]
    .map(|ask| {
        let cluster = Some("0123456789abcdef".to_owned());
        let credentials = Credentials::new("user".to_owned(), "password".to_owned());
        let time_left = Some(Duration::from_secs(30));
        Request { cluster, credentials, time_left, ask }.encode().split_off(1)
    })
    .into()
}

fn outcomes() -> Vec<TimedOutcome> {
    let column = |name: &str| Column {
        name: name.to_owned(),
        declared_type: Some("INTEGER".to_owned()),
        table: Some("t".to_owned()),
    };
    let rows =
        vec![vec![Value::Integer(1), Value::Null], vec![Value::Real(f64::MAX), Value::text("x")]];
    let error = SqlError {
        kind: ErrorKind::Constraint,
        message: "UNIQUE constraint failed: t.a".to_owned(),
        origin: Origin::Write,
    };
    [
        Outcome::Empty,
        Outcome::Done { last_insert_id: Some(-1), rows_affected: Some(2) },
        Outcome::Rows(Rows { columns: vec![column("a"), column("b")], rows }),
        Outcome::Error(error),
    ]
    .map(|outcome| TimedOutcome { outcome, elapsed: Duration::from_micros(7) })
    .into()
}

fn answers() -> Vec<Bytes> {
    let leader = Member {
        id: "n".to_owned(),
        raft_addr: "n:4002".to_owned(),
        api_url: "http://n:4001".to_owned(),
        voter: true,
    };
    let metadata = Metadata {
        name: "n".to_owned(),
        raft_id: 9,
        cluster: Some("c".to_owned()),
        api_url: "http://n:4001".to_owned(),
        version: "v10".to_owned(),
        commit_index: 5,
        leads: true,
        last_log: (3, 8),
        disk: crate::disk_watch::DiskState::Short,
        other_engine: Some(crate::OtherEngine { database: 1, program: -2 }),
        process: Some(11),
    };
    [
        Answer::Metadata(metadata),
        Answer::Results { results: outcomes(), level: Level::Strong, index: Some(8) },
        Answer::Index(u64::MAX),
        Answer::Joined { cluster: "c".to_owned(), already: true },
        Answer::Done,
        Answer::Excluded("it is a copy".to_owned()),
        Answer::Failed(Error::NotLeader { leader: Some(leader) }),
        Answer::Failed(Error::DiskFull { free: 1, floor: 2 }),
        Answer::Failed(Error::OtherEngine(crate::OtherEngine { database: 1, program: -2 })),
        Answer::Failed(Error::OutcomeUnknown("the connection broke".to_owned())),
    ]
    .map(Answer::encode)
    .into()
}
