//! What the authorizer saw while a statement was compiled: enough to know how it must be run.
//!
//! SQLite has parsed the text when it asks the authorizer, so these are facts about the statement,
//! not guesses about its text. Only what the client wrote itself counts here, not what triggers and
//! foreign keys do on its behalf, unless a field says otherwise.

/// Facts about one compiled statement.
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// It controls transactions; it is never run, but mapped on savepoints of the entry.
    pub(crate) control: Option<Control>,
    /// It sets something that lasts until the end of the request; it is never run as it is.
    pub(crate) setting: Option<Setting>,
    /// The table or view it inserts into.
    pub(crate) insert: Option<Insert>,
    /// It updates rows; an upsert both inserts and updates.
    pub(crate) updates: bool,
    /// It deletes rows.
    pub(crate) deletes: bool,
    /// It changes the schema, or what a connection remembers of it besides the file's content:
    /// definitions, and the planner's statistics (these also through triggers).
    pub(crate) schema: Schema,
    /// The table it creates.
    pub(crate) creates_table: Option<String>,
    /// It contains a SELECT.
    pub(crate) selects: bool,
    /// It, or a view in it, reads the names of columns through `pragma_table_info` or its like.
    pub(crate) reads_column_names: bool,
    /// SQLite keeps its text, or part of it, in the schema.
    pub(crate) defines: bool,
    /// It, or a trigger or view in it, uses a virtual table that is part of the schema.
    pub(crate) uses_virtual_tables: bool,
    /// It is a PRAGMA.
    pub(crate) pragma: Option<Pragma>,
}

/// What a statement does to the schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Schema {
    /// Nothing.
    #[default]
    Untouched,
    /// It writes rows of the statistics tables.
    Statistics,
    /// It creates, drops, alters, analyzes or reindexes something.
    Definition,
}

/// The target of an INSERT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Insert {
    /// Its name, as the schema spells it.
    pub(crate) table: String,
    /// Whether its rows have rowids, so that an insert sets `last_insert_rowid()`: neither a view
    /// nor a WITHOUT ROWID table.
    pub(crate) has_rowids: bool,
}

/// A statement that controls transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// BEGIN, of any kind.
    Begin,
    /// COMMIT or END.
    Commit,
    /// ROLLBACK of the whole transaction.
    Rollback,
    /// SAVEPOINT with its name.
    Savepoint(String),
    /// RELEASE of the savepoint named.
    Release(String),
    /// ROLLBACK TO the savepoint named.
    RollbackTo(String),
}

/// What a PRAGMA that SQLite runs may do besides answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pragma {
    /// Nothing, or set a value in the database file.
    Plain,
    /// Make the database smaller, if it has `auto_vacuum`.
    Shrinks,
}

/// A PRAGMA that lasts until the end of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// `foreign_keys`.
    ForeignKeys(bool),
    /// `defer_foreign_keys`.
    DeferForeignKeys(bool),
}

impl Facts {
    /// Whether it is an INSERT, REPLACE, UPDATE or DELETE, which count the rows they touch.
    pub(crate) fn counts_rows(&self) -> bool {
        self.schema != Schema::Definition && (self.insert.is_some() || self.updates || self.deletes)
    }

    /// Whether it is an INSERT with an ON CONFLICT DO UPDATE clause (or one whose REPLACE may update
    /// through a foreign key action), so that changed rows need not be inserted ones.
    pub(crate) fn may_update_instead(&self) -> bool {
        self.insert.is_some() && self.updates
    }

    /// The table it creates with the columns of a SELECT.
    pub(crate) fn table_from_select(&self) -> Option<&str> {
        self.creates_table.as_deref().filter(|_| self.selects)
    }

    /// Raises what is known about the schema.
    pub(crate) fn touch(&mut self, schema: Schema) {
        self.schema = self.schema.max(schema);
    }
}
