//! A request as it came: who asks for what, and what stays closed until that is known to be allowed.
//!
//! Statements and their parameters take many times the memory of their bytes. So they are counted first, against
//! the limits a client of this node would meet, and not even that before the caller may ask for them.
//!
//! Bytes that make no sense are an error, never a panic.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rq_security::Credentials;
use rq_sql::Statement;

use super::{
    fields::Fields,
    introduction::NewcomerMessage,
    message::{Ask, FoundMessage, ReadMessage, Request, TargetMessage, WriteMessage},
};
use crate::{Read, Write, command::StatementMessage};

/// A request whose statements have not been looked at.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// The request. What is to be executed or queried has no content yet; everything else is there.
    pub(crate) request: Request,
    /// What is missing in it.
    pub(crate) statements: SealedStatements,
}

/// The content of what is to be executed or queried, as it came.
#[derive(Debug)]
pub(crate) struct SealedStatements(Bytes);

/// The most that one request may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    /// Statements.
    pub(crate) statements: usize,
    /// Parameters of all of them.
    pub(crate) parameters: usize,
}

impl Sealed {
    /// Reads who asks for what.
    ///
    /// # Errors
    /// Bytes that are no request.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, String> {
        let message = SealedMessage::decode(bytes).map_err(|error| error.to_string())?;
        let SealedMessage { cluster, username, password, ask, time_left_ns } = message;
        let mut statements = Bytes::new();
        let ask = match ask.ok_or("a request without content")? {
            SealedAsk::Metadata(_) => Ask::Metadata,
            SealedAsk::Execute(content) => {
                statements = content;
                Ask::Execute(Write { statements: Vec::new(), transaction: false, timeout: None })
            }
            SealedAsk::Query(content) => {
                statements = content;
                Ask::Query(Read::default())
            }
            SealedAsk::Unified(content) => {
                statements = content;
                Ask::Unified(Read::default())
            }
            SealedAsk::ReadIndex(_) => Ask::ReadIndex,
            SealedAsk::Join(bytes) => Ask::Join(open::<NewcomerMessage>(bytes)?.into()),
            SealedAsk::Notify(bytes) => Ask::Notify(open::<NewcomerMessage>(bytes)?.into()),
            SealedAsk::Found(bytes) => {
                let FoundMessage { founder, cluster, name, raft_id } = open(bytes)?;
                let founder = founder.ok_or("a founder is missing")?.into();
                Ask::Found { founder, cluster, name, raft_id }
            }
            SealedAsk::Remove(name) => Ask::Remove(name),
            SealedAsk::StepDown(bytes) => {
                let TargetMessage { target } = open(bytes)?;
                Ask::StepDown(target)
            }
        };
        let credentials = Credentials::new(username, password);
        let time_left = time_left_ns.map(Duration::from_nanos);
        let request = Request { cluster, credentials, time_left, ask };
        Ok(Self { request, statements: SealedStatements(statements) })
    }
}

impl SealedStatements {
    /// Gives what is asked its content.
    ///
    /// # Errors
    /// Bytes that make no sense, or more statements or parameters than the limits allow.
    pub(crate) fn open(self, ask: Ask, most: Most) -> Result<Ask, String> {
        Ok(match ask {
            Ask::Execute(_) => {
                let (statements, rest) = self.read(most)?;
                let write: Write = open::<WriteMessage>(rest)?.into();
                Ask::Execute(Write { statements, ..write })
            }
            Ask::Query(_) => Ask::Query(self.read_query(most)?),
            Ask::Unified(_) => Ask::Unified(self.read_query(most)?),
            complete => complete,
        })
    }

    fn read_query(&self, most: Most) -> Result<Read, String> {
        let (statements, rest) = self.read(most)?;
        let read: Read = open::<ReadMessage>(rest)?.try_into()?;
        Ok(Read { statements, ..read })
    }

    /// The statements, and the message without them.
    fn read(&self, most: Most) -> Result<(Vec<Statement>, Bytes), String> {
        let mut statements = Vec::with_capacity(self.count(most)?);
        let mut rest = Vec::new();
        for field in Fields::of(&self.0) {
            let field = field?;
            match field.content {
                Some(content) if field.number == STATEMENTS => {
                    statements.push(open::<StatementMessage>(self.0.slice_ref(content))?.into());
                }
                _ => rest.extend_from_slice(field.whole),
            }
        }
        Ok((statements, rest.into()))
    }

    /// Counts the statements.
    fn count(&self, most: Most) -> Result<usize, String> {
        let (mut statements, mut parameters) = (0, 0);
        for field in Fields::of(&self.0) {
            let field = field?;
            let Some(content) = field.content.filter(|_| field.number == STATEMENTS) else {
                continue;
            };
            statements += 1;
            if statements > most.statements {
                let max = most.statements;
                return Err(format!("more than {max} statements in one request"));
            }
            for field in Fields::of(content) {
                parameters += usize::from(field?.number == StatementMessage::PARAMETERS);
                if parameters > most.parameters {
                    let max = most.parameters;
                    return Err(format!("more than {max} parameters in one request"));
                }
            }
        }
        Ok(statements)
    }
}

fn open<M: prost::Message + Default>(bytes: Bytes) -> Result<M, String> {
    M::decode(bytes).map_err(|error| error.to_string())
}

/// The number of the field of statements, in [`WriteMessage`] as in [`ReadMessage`].
const STATEMENTS: u32 = 1;

/// A request message whose content is left as it came.
#[derive(Clone, PartialEq, prost::Message)]
struct SealedMessage {
    #[prost(string, optional, tag = "1")]
    cluster: Option<String>,
    #[prost(string, tag = "2")]
    username: String,
    #[prost(string, tag = "3")]
    password: String,
    #[prost(oneof = "SealedAsk", tags = "4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    ask: Option<SealedAsk>,
    #[prost(uint64, optional, tag = "14")]
    time_left_ns: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum SealedAsk {
    #[prost(bytes = "bytes", tag = "4")]
    Metadata(Bytes),
    #[prost(bytes = "bytes", tag = "5")]
    Execute(Bytes),
    #[prost(bytes = "bytes", tag = "6")]
    Query(Bytes),
    #[prost(bytes = "bytes", tag = "7")]
    Unified(Bytes),
    #[prost(bytes = "bytes", tag = "8")]
    ReadIndex(Bytes),
    #[prost(bytes = "bytes", tag = "9")]
    Join(Bytes),
    #[prost(bytes = "bytes", tag = "10")]
    Notify(Bytes),
    #[prost(bytes = "bytes", tag = "11")]
    Found(Bytes),
    #[prost(string, tag = "12")]
    Remove(String),
    #[prost(bytes = "bytes", tag = "13")]
    StepDown(Bytes),
}

#[cfg(test)]
mod tests {
    use rq_sql::Value;

    use super::*;
    use crate::Level;

    fn most(statements: usize, parameters: usize) -> Most {
        Most { statements, parameters }
    }

    fn request(ask: Ask) -> Request {
        Request {
            cluster: Some("c".to_owned()),
            credentials: Credentials::new("u".to_owned(), "p".to_owned()),
            time_left: Some(Duration::from_millis(1500)),
            ask,
        }
    }

    fn sealed(request: &Request) -> Sealed {
        // The first byte says that it is one.
        Sealed::decode(request.clone().encode().slice(1..)).expect("it can be read")
    }

    fn statements() -> Vec<Statement> {
        vec![
            Statement::with("SELECT ?, ?", [Value::Null, Value::Integer(7)]),
            Statement::new(""),
            Statement::with("SELECT ?", [Value::text("x")]),
        ]
    }

    #[test]
    fn requests_come_back_and_statements_only_when_they_are_asked_for() {
        let read = Read {
            statements: statements(),
            transaction: true,
            level: Level::Strong,
            timeout: Some(Duration::from_secs(3)),
            min_index: Some(9),
            ..Read::default()
        };
        let write = Write { statements: statements(), transaction: true, timeout: None };
        for ask in [Ask::Execute(write), Ask::Query(read.clone()), Ask::Unified(read)] {
            let request = request(ask);
            let Sealed { request: outside, statements } = sealed(&request);
            let Request { cluster, credentials, time_left, ask } = outside;
            assert_eq!((&cluster, &credentials), (&request.cluster, &request.credentials));
            assert_eq!(time_left, request.time_left);
            assert_ne!(ask, request.ask, "its content is still closed");
            assert_eq!(statements.open(ask, most(3, 3)), Ok(request.ask));
        }
        let found = Ask::Found {
            founder: super::super::message::Newcomer::default(),
            cluster: "x".to_owned(),
            name: "b".to_owned(),
            raft_id: 2,
        };
        for ask in [
            Ask::Metadata,
            Ask::ReadIndex,
            Ask::Remove("n".to_owned()),
            Ask::StepDown(None),
            Ask::StepDown(Some("n".to_owned())),
            found,
        ] {
            let request = request(ask);
            let Sealed { request: outside, statements } = sealed(&request);
            assert_eq!(outside, request);
            assert_eq!(statements.open(outside.ask, most(0, 0)), Ok(request.ask));
        }
    }

    #[test]
    fn more_statements_or_parameters_than_a_client_may_send_are_refused_unread() {
        let write = Write { statements: statements(), transaction: false, timeout: None };
        let open = |most: Most| {
            let Sealed { request, statements } = sealed(&request(Ask::Execute(write.clone())));
            statements.open(request.ask, most)
        };
        assert!(open(most(3, 3)).is_ok());
        assert_eq!(open(most(2, 3)), Err("more than 2 statements in one request".to_owned()));
        assert_eq!(open(most(3, 2)), Err("more than 2 parameters in one request".to_owned()));
        // What comes behind the limit is not even looked at.
        let mut bytes = b"\x2a\x06\x0a\x00\x0a\x00\xff\xff".to_vec();
        let Sealed { request, statements } =
            Sealed::decode(bytes.clone().into()).expect("the outside makes sense");
        let refused = statements.open(request.ask, most(1, 0));
        assert_eq!(refused, Err("more than 1 statements in one request".to_owned()));
        bytes.truncate(7);
        assert!(Sealed::decode(bytes.into()).is_err());
    }
}
