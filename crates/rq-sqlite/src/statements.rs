//! The clients' compiled statements on the writer, each with the facts the authorizer saw.
//!
//! Only texts of exactly one statement that touches no schema are kept, and all are forgotten when
//! the schema, foreign key enforcement or statistics change. So a kept statement is never compiled
//! again behind our back, and running it is the same as compiling it now: what a connection did
//! before cannot be told from its results.
//!
//! The readers' cache ([`StatementCache`](crate::prepared::StatementCache)) is another one on purpose:
//! there SQLite may compile a kept statement again whenever the schema changed, any text is kept with
//! where it goes on, and nothing is known of a statement but itself. What the two have in common is a
//! map from texts.

use std::collections::HashMap;

use rq_sql::token::{TokenKind, tokens};
use rusqlite::{Connection, ffi};

use crate::{
    authorizer::{Phase, Watch},
    error::SqliteError,
    facts::{Facts, Insert, Schema},
    memory,
    prepared::Compiled,
    sql_text::SqlText,
    state::STATE_TABLE,
};

/// A client's statement, compiled.
#[derive(Debug)]
pub(crate) struct ClientStatement {
    /// The statement and where the text goes on.
    pub(crate) compiled: Compiled,
    /// What it is.
    pub(crate) facts: Facts,
    /// The text it was compiled from, when it comes from the cache.
    text: Option<Box<str>>,
    /// Whether the text holds nothing but this statement.
    is_whole: bool,
}

/// Why a text could not be compiled.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What SQLite said.
    pub(crate) error: SqliteError,
    /// What the authorizer refused, if it was the authorizer.
    pub(crate) refusal: Option<String>,
}

/// The cache; the least recently used make room.
#[derive(Debug)]
pub(crate) struct ClientStatements {
    kept: HashMap<Box<str>, Kept>,
    capacity: usize,
    uses: u64,
    /// For the tables inserted into: whether their rows have rowids.
    has_rowids: HashMap<String, bool>,
}

#[derive(Debug)]
struct Kept {
    statement: ClientStatement,
    last_use: u64,
}

impl ClientStatements {
    /// An empty cache for `capacity` statements.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { kept: HashMap::new(), capacity, uses: 0, has_rowids: HashMap::new() }
    }

    /// Takes the first statement of what is left of `text` out of the cache, or compiles it under a
    /// client's rights.
    ///
    /// # Errors
    /// Whatever SQLite or the authorizer say to the text.
    pub(crate) fn take(
        &mut self,
        writer: &Connection,
        watch: &Watch,
        text: &mut SqlText<'_>,
    ) -> Result<ClientStatement, Refused> {
        let sql = text.rest();
        // What cannot be there is not looked for: that would take time for all that is left.
        let known = Some(sql).filter(|sql| sql.len() <= LONGEST_KEPT_TEXT);
        if let Some((text, kept)) = known.and_then(|sql| self.kept.remove_entry(sql)) {
            return Ok(ClientStatement { text: Some(text), ..kept.statement });
        }
        watch.begin(Phase::Compile);
        let failed_allocations = memory::failed_allocations();
        let compiled = Compiled::new(writer, text);
        let seen = watch.end();
        let compiled = compiled.map_err(|error| Refused {
            error: error.with_refused_size(failed_allocations),
            refusal: seen.refusal,
        })?;
        let mut facts = seen.facts;
        if facts.defines && names_state_table(&sql[..compiled.tail]) {
            return Err(refused_definition());
        }
        if facts.counts_rows()
            && let Some(insert) = &mut facts.insert
        {
            insert.has_rowids = self.has_rowids(writer, insert);
        }
        let is_whole = is_blank(&sql[compiled.tail..]);
        Ok(ClientStatement { compiled, facts, text: None, is_whole })
    }

    /// Takes a statement back after use. `sql` is what it was compiled from.
    pub(crate) fn put(&mut self, mut statement: ClientStatement, sql: &str) {
        let keeps = statement.is_whole
            && sql.len() <= LONGEST_KEPT_TEXT
            && statement.facts.schema == Schema::Untouched
            // SQLite compiles a PRAGMA again each time it runs, at a moment when it would be taken for
            // what a virtual table compiles.
            && statement.facts.pragma.is_none()
            && statement.facts.control.is_none()
            && statement.facts.setting.is_none();
        let Some(prepared) = statement.compiled.statement.as_mut().filter(|_| keeps) else {
            return;
        };
        prepared.clear_bindings();
        if self.kept.len() >= self.capacity {
            self.forget_old();
        }
        self.uses += 1;
        let text = statement.text.take().unwrap_or_else(|| sql.into());
        self.kept.insert(text, Kept { statement, last_use: self.uses });
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.kept.clear();
        self.has_rowids.clear();
    }

    /// Forgets the less recently used half: rarely a scan instead of one with every new text.
    fn forget_old(&mut self) {
        let mut uses: Vec<u64> = self.kept.values().map(|kept| kept.last_use).collect();
        let middle = uses.len() / 2;
        let (_, median, _) = uses.select_nth_unstable(middle);
        let median = *median;
        self.kept.retain(|_, kept| kept.last_use > median);
    }

    fn has_rowids(&mut self, writer: &Connection, insert: &Insert) -> bool {
        if let Some(known) = self.has_rowids.get(&insert.table) {
            return *known;
        }
        // Asking for a view is an error of SQLite's; so is a name with a NUL byte.
        let found =
            writer.column_exists(Some("main"), insert.table.as_str(), "_rowid_").unwrap_or(false);
        if self.has_rowids.len() >= REMEMBERED_TABLES {
            self.has_rowids.clear();
        }
        self.has_rowids.insert(insert.table.clone(), found);
        found
    }
}

/// Whether a definition refers to the engine's table, whichever way it is quoted, or could by what it
/// passes to a virtual table. SQLite resolves what a view or trigger names only when it is used; by then
/// it would be there on all nodes. A foreign key to the table could keep the engine from writing it.
fn names_state_table(definition: &str) -> bool {
    tokens(definition).any(|token| match token.name() {
        Some(name) if token.kind == TokenKind::Word => name.eq_ignore_ascii_case(STATE_TABLE),
        Some(name) => name.to_ascii_lowercase().contains(STATE_TABLE),
        None => false,
    })
}

fn refused_definition() -> Refused {
    let refusal =
        format!("naming table {STATE_TABLE} in a definition: it belongs to the database engine");
    let error = SqliteError { code: ffi::SQLITE_AUTH, message: "not authorized".to_owned() };
    Refused { error, refusal: Some(refusal) }
}

/// Texts longer than this, in bytes, are compiled anew each time.
const LONGEST_KEPT_TEXT: usize = 16 * 1024;

/// For how many tables it is remembered whether they have rowids; beyond, all are asked again.
const REMEMBERED_TABLES: usize = 10_000;

/// Whether nothing follows but white space: neither a statement nor a comment nor a `;`.
pub(crate) fn is_blank(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\x0c' | b'\r'))
}
