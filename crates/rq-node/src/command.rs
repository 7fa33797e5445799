//! What stands in a log entry: the format, and the only constructor.
//!
//! A *command* is what the leader proposes: one batch of requests, or one piece of maintenance,
//! with everything that could differ between nodes already decided (clock, seed, settings). It is
//! encoded once, when it is proposed; log, network and applier share those bytes.
//!
//! # Format
//!
//! ```text
//! byte 0      format version, 1
//! byte 1      0 = plain, 1 = zstd
//! bytes 2–9   only if compressed: length of the plain message, little-endian
//! rest        the protobuf message `CommandMessage`
//! ```
//!
//! Field numbers are never reused. Reserved for later issues: 8 entry groups, 9 checks, 10 engine
//! switch, 11 idempotency keys.
//!
//! # Invariants
//! - [`Stamper::stamp`] is the only way to make a command that is not read back from bytes, so
//!   nothing undetermined enters the log.
//! - A decoded command equals the one that was encoded.
//! - Bytes that are no command are an error, never a panic, and never take more memory than
//!   [`PLAIN_BYTES_MAX`].

use std::{fmt, path::PathBuf, sync::Arc};

use bytes::Bytes;
use prost::Message as _;
use rq_sql::{Parameter, Statement, Value};
use rq_sqlite::{Budget, Entry, EntryId, Maintenance, Mode, Operation, Request, Settings, WalSize};

use crate::environment::Environment;

/// Commands beyond this many encoded bytes are compressed.
const COMPRESS_FROM_BYTES: usize = 16 * 1024;
/// A compressed command may unpack to this many bytes; more is refused as damage.
const PLAIN_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// zstd's level: 1 costs about 2 ms a megabyte and finds nearly all repetition of SQL text.
const COMPRESSION_LEVEL: i32 = 1;
/// Pages a request may add however little room there is, so that small writes wait for space like the rest
/// instead of failing.
const LEAST_PAGES: u64 = 256;
/// How much of a statement is told in a line of the log, in characters.
const EXCERPT_CHARACTERS: usize = 200;
/// The format of commands this program writes, and the newest it reads.
pub(crate) const FORMAT: u8 = 1;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// A command: the content of a log entry of kind normal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    clock_ms: i64,
    seed: [u8; 16],
    settings: Settings,
    work: Work,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Work {
    /// Runs requests, each independent of the others' failures.
    Batch(Vec<Request>),
    /// Housekeeping of the whole database.
    Maintenance(Maintenance),
}

/// An encoded command, and the command itself where it was made or has been decoded here.
#[derive(Clone)]
pub(crate) struct Payload {
    bytes: Bytes,
    command: Option<Arc<Command>>,
}

/// Bytes that are no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Written by a newer program.
    #[error("entry format {0} is not known to this program; a newer rqd wrote it")]
    Format(u8),
    /// The bytes make no sense.
    #[error("entry is damaged: {0}")]
    Damaged(String),
}

/// Makes commands: stamps work with clock, seed and settings.
#[derive(Clone, Debug)]
pub(crate) struct Stamper {
    environment: Environment,
    settings: Settings,
    room: Room,
}

/// Where the pages go that a request adds.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// The data directory.
    pub(crate) directory: PathBuf,
    /// Tells how large a page is.
    pub(crate) wal: WalSize,
}

impl Room {
    /// A limit of pages, lowered to what the disk has room for: an entry that finds none stops the node until there
    /// is some. The limit stands in the entry, so all nodes refuse the same statement.
    fn limit(&self, pages: u64, environment: &Environment) -> u64 {
        let Ok(free) = environment.files.free_space(&self.directory) else { return pages };
        let affordable = affordable_pages(free, self.wal.frame_bytes());
        if pages == 0 { affordable } else { pages.min(affordable) }
    }
}

/// How many pages a request may add with so many bytes free. A page stands in the WAL before it stands in the
/// database, and as much again is left to what is under way besides. Rounded down to a power of two, so that it
/// seldom changes.
fn affordable_pages(free: u64, page_bytes: u64) -> u64 {
    let pages = free / (4 * page_bytes.max(1));
    let rounded = pages.checked_ilog2().map_or(0, |power| 1 << power);
    rounded.max(LEAST_PAGES)
}

impl Stamper {
    pub(crate) fn new(environment: Environment, settings: Settings, room: Room) -> Self {
        Self { environment, settings, room }
    }

    /// The one place where time and chance enter the log.
    pub(crate) fn stamp(&self, work: Work) -> Payload {
        let mut seed = [0; 16];
        self.environment.entropy.fill(&mut seed);
        let clock_ms = self.environment.clock.now_ms();
        let mut settings = self.settings;
        settings.budget.pages = self.room.limit(settings.budget.pages, &self.environment);
        let command = Command { clock_ms, seed, settings, work };
        Payload { bytes: command.encode(), command: Some(Arc::new(command)) }
    }
}

impl Payload {
    /// A payload read back from the log or received.
    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Self { bytes, command: None }
    }

    /// The encoded command, shared.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The command, decoded now if it was not yet.
    pub(crate) fn command(&self) -> Result<Arc<Command>, CommandError> {
        match &self.command {
            Some(command) => Ok(Arc::clone(command)),
            None => Command::decode(&self.bytes).map(Arc::new),
        }
    }
}

/// A rough count of a request's bytes, encoded and not compressed.
pub(crate) fn estimate(request: &Request) -> usize {
    let statement = |statement: &Statement| {
        let values: usize = statement
            .parameters
            .iter()
            .map(|parameter| match &parameter.value {
                Value::Text(bytes) | Value::Blob(bytes) => bytes.len() + 8,
                _ => 12,
            })
            .sum();
        statement.sql.len() + values + 8
    };
    request.statements.iter().map(statement).sum::<usize>() + 8
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.bytes.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl Command {
    /// The entry that the engine applies for this command.
    pub(crate) fn entry(&self, id: EntryId) -> Entry<'_> {
        let operation = match &self.work {
            Work::Batch(requests) => Operation::Batch(requests),
            Work::Maintenance(maintenance) => Operation::Maintenance(maintenance),
        };
        Entry { id, clock_ms: self.clock_ms, seed: self.seed, settings: self.settings, operation }
    }

    /// The leader's clock when it proposed this.
    pub(crate) fn clock_ms(&self) -> i64 {
        self.clock_ms
    }

    /// The requests of a batch.
    pub(crate) fn requests(&self) -> Option<&[Request]> {
        match &self.work {
            Work::Batch(requests) => Some(requests),
            Work::Maintenance(_) => None,
        }
    }

    /// What it does, in a line for the log: the beginning of its first statement, without parameters.
    pub(crate) fn excerpt(&self) -> String {
        let requests = match &self.work {
            Work::Batch(requests) => requests,
            Work::Maintenance(maintenance) => return format!("{maintenance:?}"),
        };
        let mut statements = requests.iter().flat_map(|request| &request.statements);
        let first = statements.next().map_or("", |statement| statement.sql.as_str());
        let mut excerpt: String = first.chars().take(EXCERPT_CHARACTERS).collect();
        if excerpt.len() < first.len() {
            excerpt.push('…');
        }
        let excerpt = excerpt.split_whitespace().collect::<Vec<_>>().join(" ");
        match statements.count() {
            0 => excerpt,
            more => format!("{excerpt}; and {more} more"),
        }
    }

    fn encode(&self) -> Bytes {
        let message = CommandMessage::from(self);
        let length = message.encoded_len();
        let mut plain = Vec::with_capacity(length + 2);
        plain.extend_from_slice(&[FORMAT, PLAIN]);
        message.encode_raw(&mut plain);
        if length < COMPRESS_FROM_BYTES {
            return plain.into();
        }
        match zstd::bulk::compress(&plain[2..], COMPRESSION_LEVEL) {
            Ok(compressed) if compressed.len() + 8 < length => {
                let mut bytes = Vec::with_capacity(compressed.len() + 10);
                bytes.extend_from_slice(&[FORMAT, ZSTD]);
                bytes.extend_from_slice(&(length as u64).to_le_bytes());
                bytes.extend_from_slice(&compressed);
                bytes.into()
            }
            // Incompressible, or out of memory for the compressor: the plain form is as good.
            Ok(_) | Err(_) => plain.into(),
        }
    }

    /// Decodes a command.
    ///
    /// # Errors
    /// A newer format, or bytes that are no command.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        let damaged = |what: &str| CommandError::Damaged(what.to_owned());
        let (&format, rest) = bytes.split_first().ok_or_else(|| damaged("it is empty"))?;
        if format != FORMAT {
            return Err(CommandError::Format(format));
        }
        let (&packing, rest) = rest.split_first().ok_or_else(|| damaged("it ends early"))?;
        let message = match packing {
            PLAIN => CommandMessage::decode(rest),
            ZSTD => {
                let (length, rest) =
                    rest.split_first_chunk::<8>().ok_or_else(|| damaged("it ends early"))?;
                let length = u64::from_le_bytes(*length);
                if length > PLAIN_BYTES_MAX {
                    return Err(damaged("its stated length is absurd"));
                }
                let length = usize::try_from(length).map_err(|_| damaged("it is too long"))?;
                let plain = zstd::bulk::decompress(rest, length)
                    .map_err(|error| CommandError::Damaged(error.to_string()))?;
                CommandMessage::decode(plain.as_slice())
            }
            _ => return Err(damaged("its packing is unknown")),
        };
        message.map_err(|error| CommandError::Damaged(error.to_string()))?.try_into()
    }
}

/// Decodes arbitrary bytes as a command; for fuzzing.
///
/// # Errors
/// Bytes that are no command.
pub fn decode_command(bytes: &[u8]) -> Result<(), CommandError> {
    Command::decode(bytes).map(drop)
}

// The wire messages. They live here and nowhere else: internal types are not serialisable.

#[derive(Clone, PartialEq, prost::Message)]
struct CommandMessage {
    /// Which database of the cluster; always 0 until there are several.
    #[prost(uint64, tag = "1")]
    database: u64,
    #[prost(sint64, tag = "2")]
    clock_ms: i64,
    #[prost(bytes = "vec", tag = "3")]
    seed: Vec<u8>,
    #[prost(bool, tag = "4")]
    foreign_keys: bool,
    #[prost(uint64, tag = "5")]
    budget_steps: u64,
    #[prost(uint64, tag = "12")]
    budget_pages: u64,
    #[prost(message, repeated, tag = "6")]
    requests: Vec<RequestMessage>,
    #[prost(message, optional, tag = "7")]
    maintenance: Option<MaintenanceMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestMessage {
    #[prost(uint32, tag = "1")]
    mode: u32,
    #[prost(bool, tag = "2")]
    transaction: bool,
    #[prost(message, repeated, tag = "3")]
    statements: Vec<StatementMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StatementMessage {
    #[prost(string, tag = "1")]
    sql: String,
    #[prost(message, repeated, tag = "2")]
    parameters: Vec<ParameterMessage>,
}

impl StatementMessage {
    /// The number of the field of parameters.
    pub(crate) const PARAMETERS: u32 = 2;
}

#[derive(Clone, PartialEq, prost::Message)]
struct ParameterMessage {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(oneof = "ValueMessage", tags = "2, 3, 4, 5")]
    value: Option<ValueMessage>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum ValueMessage {
    #[prost(sint64, tag = "2")]
    Integer(i64),
    #[prost(double, tag = "3")]
    Real(f64),
    #[prost(bytes, tag = "4")]
    Text(Vec<u8>),
    #[prost(bytes, tag = "5")]
    Blob(Vec<u8>),
}

#[derive(Clone, PartialEq, prost::Message)]
struct MaintenanceMessage {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, optional, tag = "2")]
    target: Option<String>,
    #[prost(uint32, optional, tag = "3")]
    page_size: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    auto_vacuum: Option<u32>,
}

impl ValueMessage {
    /// A value as a field; NULL is an absent one.
    pub(crate) fn write(value: Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::Integer(integer) => Some(Self::Integer(integer)),
            Value::Real(real) => Some(Self::Real(real)),
            Value::Text(text) => Some(Self::Text(text)),
            Value::Blob(blob) => Some(Self::Blob(blob)),
        }
    }

    /// A value from its field.
    pub(crate) fn read(field: Option<Self>) -> Value {
        match field {
            None => Value::Null,
            Some(Self::Integer(integer)) => Value::Integer(integer),
            Some(Self::Real(real)) => Value::Real(real),
            Some(Self::Text(text)) => Value::Text(text),
            Some(Self::Blob(blob)) => Value::Blob(blob),
        }
    }
}

const MODE_EXECUTE: u32 = 0;
const MODE_UNIFIED: u32 = 1;
const KIND_VACUUM: u32 = 1;
const KIND_ANALYZE: u32 = 2;
const KIND_OPTIMIZE: u32 = 3;
const KIND_REINDEX: u32 = 4;

impl From<&Command> for CommandMessage {
    fn from(command: &Command) -> Self {
        let (requests, maintenance) = match &command.work {
            Work::Batch(requests) => (requests.iter().map(Into::into).collect(), None),
            Work::Maintenance(maintenance) => (Vec::new(), Some(maintenance.into())),
        };
        Self {
            database: 0,
            clock_ms: command.clock_ms,
            seed: command.seed.to_vec(),
            foreign_keys: command.settings.foreign_keys,
            budget_steps: command.settings.budget.steps,
            budget_pages: command.settings.budget.pages,
            requests,
            maintenance,
        }
    }
}

impl From<&Request> for RequestMessage {
    fn from(request: &Request) -> Self {
        Self {
            mode: match request.mode {
                Mode::Execute => MODE_EXECUTE,
                Mode::Unified => MODE_UNIFIED,
            },
            transaction: request.transaction,
            statements: request.statements.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Statement> for StatementMessage {
    fn from(statement: &Statement) -> Self {
        let parameters = statement
            .parameters
            .iter()
            .map(|parameter| ParameterMessage {
                name: parameter.name.clone(),
                value: ValueMessage::write(parameter.value.clone()),
            })
            .collect();
        Self { sql: statement.sql.clone(), parameters }
    }
}

impl From<&Maintenance> for MaintenanceMessage {
    fn from(maintenance: &Maintenance) -> Self {
        let empty = Self { kind: 0, target: None, page_size: None, auto_vacuum: None };
        match maintenance {
            Maintenance::Vacuum { page_size, auto_vacuum } => Self {
                kind: KIND_VACUUM,
                page_size: *page_size,
                auto_vacuum: auto_vacuum.map(u32::from),
                ..empty
            },
            Maintenance::Analyze { target } => {
                Self { kind: KIND_ANALYZE, target: target.clone(), ..empty }
            }
            Maintenance::Optimize => Self { kind: KIND_OPTIMIZE, ..empty },
            Maintenance::Reindex { target } => {
                Self { kind: KIND_REINDEX, target: target.clone(), ..empty }
            }
        }
    }
}

impl TryFrom<CommandMessage> for Command {
    type Error = CommandError;

    fn try_from(message: CommandMessage) -> Result<Self, CommandError> {
        let damaged = |what: &str| CommandError::Damaged(what.to_owned());
        if message.database != 0 {
            return Err(damaged("it is for another database"));
        }
        let seed = message.seed.try_into().map_err(|_| damaged("its seed is not 16 bytes long"))?;
        let work = match message.maintenance {
            Some(maintenance) if message.requests.is_empty() => {
                Work::Maintenance(maintenance.try_into()?)
            }
            Some(_) => return Err(damaged("it is both batch and maintenance")),
            None => Work::Batch(
                message.requests.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            ),
        };
        let budget = Budget { steps: message.budget_steps, pages: message.budget_pages };
        let settings = Settings { foreign_keys: message.foreign_keys, budget };
        Ok(Self { clock_ms: message.clock_ms, seed, settings, work })
    }
}

impl TryFrom<RequestMessage> for Request {
    type Error = CommandError;

    fn try_from(message: RequestMessage) -> Result<Self, CommandError> {
        let mode = match message.mode {
            MODE_EXECUTE => Mode::Execute,
            MODE_UNIFIED => Mode::Unified,
            _ => return Err(CommandError::Damaged("its mode is unknown".to_owned())),
        };
        let statements = message.statements.into_iter().map(Into::into).collect();
        Ok(Self { mode, transaction: message.transaction, statements })
    }
}

impl From<StatementMessage> for Statement {
    fn from(message: StatementMessage) -> Self {
        let parameters = message
            .parameters
            .into_iter()
            .map(|parameter| Parameter {
                name: parameter.name,
                value: ValueMessage::read(parameter.value),
            })
            .collect();
        Self { sql: message.sql, parameters }
    }
}

impl TryFrom<MaintenanceMessage> for Maintenance {
    type Error = CommandError;

    fn try_from(message: MaintenanceMessage) -> Result<Self, CommandError> {
        let damaged = |what: &str| CommandError::Damaged(what.to_owned());
        Ok(match message.kind {
            KIND_VACUUM => Self::Vacuum {
                page_size: message.page_size,
                auto_vacuum: message
                    .auto_vacuum
                    .map(u8::try_from)
                    .transpose()
                    .map_err(|_| damaged("its auto_vacuum mode is unknown"))?,
            },
            KIND_ANALYZE => Self::Analyze { target: message.target },
            KIND_OPTIMIZE => Self::Optimize,
            KIND_REINDEX => Self::Reindex { target: message.target },
            _ => return Err(damaged("its kind of maintenance is unknown")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(work: Work) -> Command {
        let budget = Budget { steps: 10_000_000_000, pages: 0 };
        let settings = Settings { foreign_keys: true, budget };
        Command { clock_ms: -5, seed: [7; 16], settings, work }
    }

    #[test]
    fn an_excerpt_is_the_beginning_of_the_first_statement_in_one_line() {
        let of = |statements: &[&str]| {
            let statements = statements.iter().map(|sql| Statement::new(*sql)).collect();
            let request = Request { mode: Mode::Execute, transaction: false, statements };
            command(Work::Batch(vec![request])).excerpt()
        };
        assert_eq!(of(&["UPDATE t\n  SET a = 1"]), "UPDATE t SET a = 1");
        assert_eq!(of(&["BEGIN", "SELECT 1", "COMMIT"]), "BEGIN; and 2 more");
        assert_eq!(of(&[&"é".repeat(300)]), format!("{}…", "é".repeat(200)));
        assert_eq!(of(&[]), "");
        assert_eq!(command(Work::Maintenance(Maintenance::Optimize)).excerpt(), "Optimize");
    }

    #[test]
    fn the_limit_of_pages_leaves_room_for_wal_database_and_others() {
        for (free, page_bytes, expected) in [
            (0, 4120, LEAST_PAGES),
            (4 * 4120 * 4095, 4120, 2048),
            (4 * 4120 * 4096, 4120, 4096),
            (4 * 65560 * 4096, 65560, 4096),
            (600 << 20, 4120, 32_768),
            (u64::MAX, 0, 1 << 61),
        ] {
            assert_eq!(affordable_pages(free, page_bytes), expected, "{free} of {page_bytes}");
        }
    }

    fn requests() -> Vec<Request> {
        let values = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(-0.0),
            Value::text("π"),
            Value::Text(vec![0xff]),
            Value::Blob(Vec::new()),
        ];
        let mut statement = Statement::with("INSERT INTO t VALUES (?,?,?,?,?,?)", values);
        statement.parameters[1].name = Some("id".to_owned());
        statement.parameters[2].name = Some(String::new());
        vec![
            Request { mode: Mode::Execute, transaction: true, statements: vec![statement] },
            Request { mode: Mode::Unified, transaction: false, statements: Vec::new() },
        ]
    }

    #[test]
    fn a_decoded_command_equals_the_encoded_one() {
        let vacuum = Maintenance::Vacuum { page_size: Some(8192), auto_vacuum: Some(2) };
        let works = [
            Work::Batch(requests()),
            Work::Batch(Vec::new()),
            Work::Maintenance(vacuum),
            Work::Maintenance(Maintenance::Optimize),
            Work::Maintenance(Maintenance::Analyze { target: Some("t".to_owned()) }),
            Work::Maintenance(Maintenance::Reindex { target: None }),
        ];
        for work in works {
            let command = command(work);
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
    }

    #[test]
    fn large_commands_are_compressed_and_come_back() {
        let statement = Statement::new("SELECT 1 -- ".to_owned() + &"x".repeat(1_000_000));
        let request =
            Request { mode: Mode::Execute, transaction: false, statements: vec![statement] };
        let command = command(Work::Batch(vec![request]));
        let bytes = command.encode();
        assert!(bytes.len() < 10_000, "{} bytes", bytes.len());
        assert_eq!(Command::decode(&bytes), Ok(command));
    }

    #[test]
    fn every_truncation_and_many_mutations_are_refused_or_decoded_but_never_panic() {
        let bytes = command(Work::Batch(requests())).encode();
        for length in 0..bytes.len() {
            drop(Command::decode(&bytes[..length]));
        }
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut mutated = bytes.to_vec();
                mutated[position] ^= 1 << bit;
                drop(Command::decode(&mutated));
            }
        }
        assert_eq!(Command::decode(&[2, 0]), Err(CommandError::Format(2)));
        let absurd = [&[1, 1][..], &u64::MAX.to_le_bytes(), &[0; 8]].concat();
        assert!(matches!(Command::decode(&absurd), Err(CommandError::Damaged(_))));
    }
}
