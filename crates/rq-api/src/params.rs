//! The query string: decoding, validation, and the typed parameters.
//!
//! Validation is the same for every path. Of a repeated key the first value counts; unknown keys
//! are ignored; a flag is true when its key is present, whatever its value.

use std::borrow::Cow;

use crate::{duration::GoDuration, json};

/// All parameters of a request.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent switch of the API")]
pub struct Params {
    /// Indent JSON answers.
    pub pretty: bool,
    /// Report how long things took.
    pub timings: bool,
    /// Run all statements in one transaction.
    pub transaction: bool,
    /// Queue the writes and answer at once.
    pub queue: bool,
    /// Wait for the queue, or for the transfer of leadership.
    pub wait: bool,
    /// Do without a leader.
    pub noleader: bool,
    /// Answer 301 instead of forwarding.
    pub redirect: bool,
    /// Rows as objects instead of arrays.
    pub associative: bool,
    /// BLOBs as arrays of integers.
    pub blob_array: bool,
    /// Column names with the names of their tables.
    pub qualify_columns: bool,
    /// Report the index of the log entry.
    pub raft_index: bool,
    /// Accepted for compatibility; has no effect.
    pub noparse: bool,
    /// Accepted for compatibility; has no effect.
    pub norwrandom: bool,
    /// Accepted for compatibility; has no effect.
    pub norwtime: bool,
    /// Accepted for compatibility; has no effect.
    pub bypass: bool,
    /// Refuse stale reads also by what the leader appended; needs `freshness`.
    pub freshness_strict: bool,
    /// Include nodes without a vote.
    pub nonvoters: bool,
    /// Wait until this node has caught up.
    pub sync: bool,
    /// Vacuum the copy.
    pub vacuum: bool,
    /// Compress the copy with gzip.
    pub compress: bool,
    /// How long to wait for other nodes and for the queue; zero and less expire at once.
    pub timeout: GoDuration,
    /// How old a read at level none may be; zero means any age.
    pub freshness: GoDuration,
    /// The time limit of the SQL; zero and less mean none.
    pub db_timeout: GoDuration,
    /// How long a linearizable read waits for the state machine.
    pub linearizable_timeout: GoDuration,
    /// How often to try a forwarded request over pooled connections.
    pub retries: i64,
    /// Log entries a snapshot leaves; zero means the configured number.
    pub trailing_logs: i64,
    /// The log index that must be applied before reading.
    pub min_index: Option<u64>,
    /// The read level.
    pub level: Level,
    /// The statement of a GET request; never empty.
    pub query: Option<String>,
    /// Whether the statement came with bytes that are not UTF-8, and stands here with U+FFFD in their place.
    pub is_query_broken: bool,
    /// The part of a status document that is wanted; empty for all.
    pub key: String,
    /// The form of the list of nodes.
    pub nodes_version: NodesVersion,
    /// The form of a backup.
    pub backup_format: BackupFormat,
    /// The tables a dump is limited to; empty for all.
    pub tables: Vec<String>,
}

/// How consistent a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Level {
    /// This node's database as it is.
    None,
    /// The leader's database, without asking whether it still leads. Also what is not understood.
    #[default]
    Weak,
    /// Behind everything acknowledged before the read began.
    Linearizable,
    /// As linearizable, through the log.
    Strong,
    /// Weak on a voter, none elsewhere.
    Auto,
}

/// The form of the list of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NodesVersion {
    /// An object keyed by node id.
    #[default]
    Legacy,
    /// An array in an object; `ver=2`.
    Two,
}

/// The form of a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackupFormat {
    /// The database file. Also what is not understood.
    #[default]
    Binary,
    /// A text of SQL.
    Sql,
    /// The database file in rollback-journal mode.
    Delete,
}

/// Why a query string is refused. Displays as the text of the 400 answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// A `%` without two hexadecimal digits behind it.
    #[error("invalid URL escape {}", quote(.0))]
    Escape(Vec<u8>),
    /// A raw `;`.
    #[error("invalid semicolon separator in query")]
    Semicolon,
    /// `freshness_strict` without `freshness`.
    #[error("freshness_strict requires freshness")]
    FreshnessStrict,
    /// Not a duration.
    #[error("{0} is not a valid duration")]
    Duration(&'static str),
    /// Not an integer.
    #[error("{0} is not a valid integer")]
    Integer(&'static str),
    /// `q` is there but empty.
    #[error("query parameter not set")]
    EmptyQuery,
}

/// How long to wait for other nodes unless `timeout` says otherwise.
pub const TIMEOUT: GoDuration = GoDuration::from_seconds(30);
/// How long `/db/query` waits for the state machine unless `linearizable_timeout` says otherwise.
pub const LINEARIZABLE_TIMEOUT: GoDuration = GoDuration::from_seconds(10);

impl Default for Params {
    /// The parameters of a request without a query string.
    fn default() -> Self {
        Self {
            pretty: false,
            timings: false,
            transaction: false,
            queue: false,
            wait: false,
            noleader: false,
            redirect: false,
            associative: false,
            blob_array: false,
            qualify_columns: false,
            raft_index: false,
            noparse: false,
            norwrandom: false,
            norwtime: false,
            bypass: false,
            freshness_strict: false,
            nonvoters: false,
            sync: false,
            vacuum: false,
            compress: false,
            timeout: TIMEOUT,
            freshness: GoDuration::ZERO,
            db_timeout: GoDuration::ZERO,
            linearizable_timeout: LINEARIZABLE_TIMEOUT,
            retries: 0,
            trailing_logs: 0,
            min_index: None,
            level: Level::default(),
            query: None,
            is_query_broken: false,
            key: String::new(),
            nodes_version: NodesVersion::default(),
            backup_format: BackupFormat::default(),
            tables: Vec::new(),
        }
    }
}

impl Params {
    /// Decodes and validates a query string, the part of the target behind `?`.
    ///
    /// Bytes that are not UTF-8 after decoding become U+FFFD, as in JSON bodies. What that makes of `q` is not to be
    /// run: see [`Params::is_query_broken`].
    ///
    /// # Errors
    /// The first violation, in a fixed order: semicolons, escapes from left to right,
    /// `freshness_strict`, durations, integers, `q`.
    pub fn parse(query: &str) -> Result<Self, ParamsError> {
        let mut params = Self::default();
        if query.is_empty() {
            return Ok(params);
        }
        let values = Values::decode(query)?;
        if values.has("freshness_strict") && !values.has("freshness") {
            return Err(ParamsError::FreshnessStrict);
        }
        values.duration("timeout", &mut params.timeout)?;
        values.duration("freshness", &mut params.freshness)?;
        values.duration("db_timeout", &mut params.db_timeout)?;
        values.duration("linearizable_timeout", &mut params.linearizable_timeout)?;
        values.integer("retries", &mut params.retries)?;
        values.integer("trailing_logs", &mut params.trailing_logs)?;
        if let Some(text) = values.get("min_index") {
            let index = text.parse().map_err(|_| ParamsError::Integer("min_index"))?;
            params.min_index = Some(index);
        }
        if let Some(query) = values.get("q") {
            if query.is_empty() {
                return Err(ParamsError::EmptyQuery);
            }
            params.query = Some(query.to_owned());
            // Few have the character at all, so that only they are decoded once more.
            params.is_query_broken = query.contains('\u{fffd}') && is_broken(values.raw("q"))?;
        }
        params.set_flags(&values);
        params.set_choices(&values);
        Ok(params)
    }

    fn set_flags(&mut self, values: &Values<'_>) {
        self.pretty = values.has("pretty");
        self.timings = values.has("timings");
        self.transaction = values.has("transaction");
        self.queue = values.has("queue");
        self.wait = values.has("wait");
        self.noleader = values.has("noleader");
        self.redirect = values.has("redirect");
        self.associative = values.has("associative");
        self.blob_array = values.has("blob_array");
        self.qualify_columns = values.has("qualify_columns");
        self.raft_index = values.has("raft_index");
        self.noparse = values.has("noparse");
        self.norwrandom = values.has("norwrandom");
        self.norwtime = values.has("norwtime");
        self.bypass = values.has("bypass");
        self.freshness_strict = values.has("freshness_strict");
        self.nonvoters = values.has("nonvoters");
        self.sync = values.has("sync");
        self.vacuum = values.has("vacuum");
        self.compress = values.has("compress");
    }

    fn set_choices(&mut self, values: &Values<'_>) {
        let is = |key: &str, wanted: &str| {
            values.get(key).is_some_and(|value| value.eq_ignore_ascii_case(wanted))
        };
        self.level = [Level::None, Level::Strong, Level::Linearizable, Level::Auto]
            .into_iter()
            .find(|level| is("level", level.name()))
            .unwrap_or_default();
        self.backup_format = if is("fmt", "sql") {
            BackupFormat::Sql
        } else if is("fmt", "delete") {
            BackupFormat::Delete
        } else {
            BackupFormat::Binary
        };
        if values.get("ver") == Some("2") {
            self.nodes_version = NodesVersion::Two;
        }
        values.get("key").unwrap_or_default().clone_into(&mut self.key);
        let tables = values.get("tables").unwrap_or_default();
        let tables = tables.split(',').map(str::trim).filter(|table| !table.is_empty());
        self.tables = tables.map(str::to_owned).collect();
    }
}

impl Level {
    /// The name, as in the parameter.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Weak => "weak",
            Self::Linearizable => "linearizable",
            Self::Strong => "strong",
            Self::Auto => "auto",
        }
    }
}

/// The decoded pairs of a query string, in order.
struct Values<'a>(Vec<Pair<'a>>);

/// Key and value, and the value as it was sent.
type Pair<'a> = (Cow<'a, str>, Cow<'a, str>, &'a str);

impl<'a> Values<'a> {
    fn decode(query: &'a str) -> Result<Self, ParamsError> {
        // A semicolon anywhere is reported before a bad escape anywhere.
        if query.contains(';') {
            return Err(ParamsError::Semicolon);
        }
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(key)?, decode(value)?, value));
        }
        Ok(Self(pairs))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(found, _, _)| found == key).map(|(_, value, _)| value.as_ref())
    }

    /// The value as it was sent.
    fn raw(&self, key: &str) -> &'a str {
        let found = self.0.iter().find(|(found, _, _)| found == key);
        found.map(|(_, _, raw)| *raw).unwrap_or_default()
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn duration(&self, key: &'static str, value: &mut GoDuration) -> Result<(), ParamsError> {
        if let Some(text) = self.get(key) {
            *value = text.parse().map_err(|_| ParamsError::Duration(key))?;
        }
        Ok(())
    }

    fn integer(&self, key: &'static str, value: &mut i64) -> Result<(), ParamsError> {
        if let Some(text) = self.get(key) {
            *value = text.parse().map_err(|_| ParamsError::Integer(key))?;
        }
        Ok(())
    }
}

/// Decodes one key or value: `+` is a space, `%XX` a byte.
fn decode(text: &str) -> Result<Cow<'_, str>, ParamsError> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    Ok(Cow::Owned(match String::from_utf8(unescape(text)?) {
        Ok(decoded) => decoded,
        Err(error) => json::replace_invalid(error.as_bytes()),
    }))
}

/// Whether a value is not UTF-8 once it is decoded.
fn is_broken(text: &str) -> Result<bool, ParamsError> {
    Ok(std::str::from_utf8(&unescape(text)?).is_err())
}

fn unescape(text: &str) -> Result<Vec<u8>, ParamsError> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while let Some(&byte) = bytes.get(position) {
        position += 1;
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let digit =
                    |index: usize| bytes.get(index).and_then(|&byte| char::from(byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(position), digit(position + 1)) else {
                    let end = bytes.len().min(position + 2);
                    return Err(ParamsError::Escape(bytes[position - 1..end].to_vec()));
                };
                decoded.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits"));
                position += 2;
            }
            _ => decoded.push(byte),
        }
    }
    Ok(decoded)
}

/// Quotes as Go does: what is not printable in hexadecimal.
fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                '\x07' => quoted.push_str("\\a"),
                '\x08' => quoted.push_str("\\b"),
                '\x0b' => quoted.push_str("\\v"),
                '\x0c' => quoted.push_str("\\f"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
                c => quoted.push(c),
            }
        }
        for byte in chunk.invalid() {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}
