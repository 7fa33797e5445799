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
    authorizer::{Phase, Seen, Watch},
    error::SqliteError,
    facts::{Facts, Insert, Schema},
    memory::{self, Account, Charge},
    prepared::{Compiled, Prepared},
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
    /// What memory compiling asked for, in bytes, if that was so much that it must be charged.
    pub(crate) costly_bytes: u64,
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
    /// client's rights. Who only `tries` gets no more memory for it than can be filled in no time.
    ///
    /// # Errors
    /// Whatever SQLite or the authorizer say to the text; too little memory.
    pub(crate) fn take(
        &mut self,
        writer: &Connection,
        watch: &Watch,
        text: &mut SqlText<'_>,
        tries: bool,
    ) -> Result<ClientStatement, Refused> {
        let sql = text.rest();
        // What cannot be there is not looked for: that would take time for all that is left.
        let known = Some(sql).filter(|sql| sql.len() <= LONGEST_KEPT_TEXT);
        if let Some((text, kept)) = known.and_then(|sql| self.kept.remove_entry(sql)) {
            return Ok(ClientStatement { text: Some(text), ..kept.statement });
        }
        let Attempt { compiled, seen, costly_bytes } = if tries {
            Attempt::with(writer, watch, text, MOST_TRIED_BYTES).0
        } else {
            Attempt::new(writer, watch, text)
        };
        let compiled = compiled.map_err(|error| Refused { error, refusal: seen.refusal })?;
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
        Ok(ClientStatement { compiled, facts, text: None, is_whole, costly_bytes })
    }

    /// Takes a statement back after use. `sql` is what it was compiled from.
    pub(crate) fn put(&mut self, mut statement: ClientStatement, sql: &str) {
        let keeps = statement.is_whole
            && !statement.compiled.is_heavy
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

/// What came of compiling the first statement of a text.
struct Attempt {
    compiled: Result<Compiled, SqliteError>,
    seen: Seen,
    /// As in [`ClientStatement`].
    costly_bytes: u64,
}

impl Attempt {
    /// Compiles under a limit of memory that is met at the same place on all nodes.
    fn new(writer: &Connection, watch: &Watch, text: &mut SqlText<'_>) -> Self {
        let most = most_compiling_bytes(text);
        let free = most / FREE_COMPILING_PART;
        let (attempt, asked) = Self::with(writer, watch, text, most + FIRST_TIME_BYTES);
        if asked <= free {
            return attempt;
        }
        // What the connection had to find out for the first time was counted too. Now it knows all that
        // lies within the limit, so what is asked for this time follows from text and schema.
        drop(attempt);
        memory::return_much();
        drop(Prepared::internal(writer, "SELECT 1 FROM sqlite_schema"));
        let (attempt, asked) = Self::with(writer, watch, text, most);
        Self { costly_bytes: if asked > free { asked } else { 0 }, ..attempt }
    }

    /// Compiles, and says what memory was asked for in bytes.
    fn with(writer: &Connection, watch: &Watch, text: &mut SqlText<'_>, most: u64) -> (Self, u64) {
        watch.begin(Phase::Compile);
        let failed_allocations = memory::failed_allocations();
        let account = Account::open(Charge::Asked { most });
        let compiled = Compiled::new(writer, text);
        let (asked, has_refused) = (memory::charged(), memory::has_refused());
        drop(account);
        let seen = watch.end();
        let compiled = match compiled {
            _ if has_refused => {
                memory::return_much();
                Err(too_complex())
            }
            compiled => compiled.map_err(|error| error.with_refused_size(failed_allocations)),
        };
        (Self { compiled, seen, costly_bytes: 0 }, asked)
    }
}

/// What compiling the first statement of what is left of `text` may ask for in memory, in bytes.
pub(crate) fn most_compiling_bytes(text: &SqlText<'_>) -> u64 {
    let for_text = text.rest().len() as u64 * COMPILING_BYTES_PER_BYTE;
    MOST_COMPILING_BYTES + for_text.min(MOST_COMPILING_BYTES_FOR_TEXT)
}

/// The failure of a statement that needs too much memory, or too long, to be compiled.
pub(crate) fn too_complex() -> SqliteError {
    let message =
        "statement too complex: compiling it takes more memory or time than a statement may take"
            .to_owned();
    SqliteError { code: ffi::SQLITE_TOOBIG, message }
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

/// What compiling one statement may ask for in memory, in bytes, whatever it gives back meanwhile, besides
/// what its text takes. Subqueries whose expressions are put into each other take twice as much with each
/// level.
const MOST_COMPILING_BYTES: u64 = 128 << 20;

/// What each byte of the text adds to that. Lists of short values take some dozen times their text, a long
/// literal is held four times.
const COMPILING_BYTES_PER_BYTE: u64 = 64;

/// What a text may add at most.
const MOST_COMPILING_BYTES_FOR_TEXT: u64 = 896 << 20;

/// What it may ask for when it is only tried.
const MOST_TRIED_BYTES: u64 = 1 << 20;

/// Up to this part of what it may ask for compiling is charged by the text alone.
const FREE_COMPILING_PART: u64 = 2;

/// More than a connection asks for to find out what it does not know yet (functions and virtual tables used
/// for the first time), in bytes. The schema is known to it before.
const FIRST_TIME_BYTES: u64 = 16 << 20;

/// For how many tables it is remembered whether they have rowids; beyond, all are asked again.
const REMEMBERED_TABLES: usize = 10_000;

/// Whether nothing follows but white space: neither a statement nor a comment nor a `;`.
pub(crate) fn is_blank(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\x0c' | b'\r'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::Bare;

    /// A connection and who watches it.
    fn writer(schema: &str) -> (Bare, Arc<Watch>) {
        let mut bare = Bare::with(schema);
        let watch = Watch::install(&mut bare.parts.writer.connection).unwrap();
        (bare, watch)
    }

    fn asked(writer: &(Bare, Arc<Watch>), sql: &str, most: u64) -> (bool, u64) {
        let (Bare { parts, .. }, watch) = writer;
        let (attempt, asked) =
            Attempt::with(&parts.writer.connection, watch, &mut SqlText::new(sql), most);
        (attempt.compiled.is_ok(), asked)
    }

    /// So that a limit of it ends compiling on all nodes or on none.
    #[test]
    fn what_compiling_asks_for_follows_from_text_and_schema_whatever_was_before() {
        let schema = "CREATE TABLE t (a INTEGER PRIMARY KEY, b UNIQUE, c DEFAULT (1));
             CREATE TABLE u (x REFERENCES t);
             CREATE VIEW v AS SELECT a + b AS s, count(*) OVER (PARTITION BY c) AS n FROM t;
             CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO u SELECT new.a; END;
             CREATE VIRTUAL TABLE f USING fts5(text);
             CREATE VIRTUAL TABLE g USING fts4(text);
             CREATE VIRTUAL TABLE h USING rtree(id, low, high);";
        let fresh = writer(schema);
        let used = writer(schema);
        let connection = &used.0.parts.writer.connection;
        let kept: Vec<_> = (0..100)
            .map(|number| connection.prepare(&format!("SELECT a + {number} FROM t, v")).unwrap())
            .collect();
        used.0.write(
            "INSERT INTO t VALUES (1, 2, 3); SELECT * FROM f('word'); SELECT json('[]');
             BEGIN; CREATE TABLE gone (x); INSERT INTO f VALUES ('one two'); ROLLBACK;",
        );
        for sql in [
            "INSERT INTO t VALUES (1, 2, 3) ON CONFLICT DO UPDATE SET c = excluded.c RETURNING *",
            "SELECT * FROM v JOIN u ON u.x = v.s WHERE n IN (SELECT value FROM json_each('[1]'))",
            "SELECT * FROM f('a b'), g('a'), h WHERE low > 1 AND f.rowid = id ORDER BY rank",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT sum(i) FROM n",
            "SELECT name FROM pragma_table_info('v') WHERE name LIKE 'a%' COLLATE NOCASE",
            "CREATE TABLE new (a PRIMARY KEY, b REFERENCES t ON DELETE CASCADE)",
            "SELECT wrong FROM t",
        ] {
            // Whatever had to be found out for the first time is found out.
            let first = asked(&fresh, sql, 1 << 30);
            asked(&used, sql, 1 << 30);
            let again = asked(&fresh, sql, 1 << 30);
            assert_eq!(again, asked(&used, sql, 1 << 30), "{sql}");
            assert!(again.1 <= first.1, "{sql}: {again:?} after {first:?}");
            let (compiles, bytes) = again;
            assert_eq!(asked(&fresh, sql, bytes), again, "{sql} with what it takes");
            if compiles {
                assert!(!asked(&fresh, sql, bytes - 1).0, "{sql} with less than it takes");
                assert!(!asked(&used, sql, bytes - 1).0, "{sql} with less than it takes");
            }
        }
        drop(kept);
    }
}
