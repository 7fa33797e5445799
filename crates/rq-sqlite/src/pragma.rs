//! The PRAGMAs a statement on the writer may use: one table, everything else is refused.
//!
//! A PRAGMA is allowed if what it answers is equal on all nodes and what it sets lies in the
//! database file, or is undone at the end of the request. Many take effect while they are *compiled*,
//! so this is asked by the authorizer, before.

use crate::facts::Setting;

/// What to do with a PRAGMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// SQLite may run it.
    Run,
    /// SQLite may run it while it does nothing; it can make the database smaller.
    Shrinks,
    /// It is kept from SQLite; we execute it and undo it when the request ends.
    UntilRequestEnds(Setting),
    /// Refused; the sentence names the PRAGMA and the reason.
    Refused(&'static str),
}

/// How a PRAGMA of the table may be used.
enum Use {
    /// With and without argument: the argument only says what to read.
    Reads,
    /// Without argument, to read a value; setting it is refused for this reason.
    ReadsValue(&'static str),
    /// Read and set: the value lies in the database file.
    ReadsAndSets,
    /// Makes the database smaller, if it has `auto_vacuum`: then refused when it is to run.
    Shrinks,
    /// Read, and set until the end of the request.
    UntilRequestEnds(fn(bool) -> Setting),
    /// Never, for this reason.
    Refused(&'static str),
}

/// Why a database is not made smaller within a transaction. What is added to it behind that, SQLite puts
/// into the pages cut off, with what their places on disk held before: that of each node.
pub(crate) const SHRINKING: &str =
    "PRAGMA incremental_vacuum: what grows after it would differ between nodes; use VACUUM";

const FIXED: &str = "it is a fixed setting of the engine";
const VACUUM_ONLY: &str = "it is a parameter of VACUUM maintenance, not a statement";
const OF_THIS_NODE: &str = "its answer would be that of one node";
const UNKNOWN: &str = "it is not among those allowed on a replicated database";

/// In alphabetical order within each group.
const TABLE: &[(&str, Use)] = &[
    ("foreign_key_check", Use::Reads),
    ("foreign_key_list", Use::Reads),
    ("index_info", Use::Reads),
    ("index_list", Use::Reads),
    ("index_xinfo", Use::Reads),
    ("integrity_check", Use::Reads),
    ("quick_check", Use::Reads),
    ("table_info", Use::Reads),
    ("table_list", Use::Reads),
    ("table_xinfo", Use::Reads),
    ("application_id", Use::ReadsAndSets),
    ("user_version", Use::ReadsAndSets),
    ("incremental_vacuum", Use::Shrinks),
    ("defer_foreign_keys", Use::UntilRequestEnds(Setting::DeferForeignKeys)),
    ("foreign_keys", Use::UntilRequestEnds(Setting::ForeignKeys)),
    ("auto_vacuum", Use::ReadsValue(VACUUM_ONLY)),
    ("cache_size", Use::ReadsValue(FIXED)),
    ("encoding", Use::ReadsValue("the encoding of a database is chosen when it is created")),
    ("freelist_count", Use::ReadsValue("it cannot be set")),
    ("journal_mode", Use::ReadsValue(FIXED)),
    ("locking_mode", Use::ReadsValue(FIXED)),
    ("page_count", Use::ReadsValue("it cannot be set")),
    ("page_size", Use::ReadsValue("the page size of a database is chosen when it is created")),
    ("query_only", Use::ReadsValue(FIXED)),
    ("recursive_triggers", Use::ReadsValue(FIXED)),
    ("schema_version", Use::ReadsValue("setting it can damage the database")),
    ("secure_delete", Use::ReadsValue(FIXED)),
    ("synchronous", Use::ReadsValue(FIXED)),
    ("temp_store", Use::ReadsValue(FIXED)),
    ("wal_autocheckpoint", Use::ReadsValue(FIXED)),
    ("database_list", Use::Refused(OF_THIS_NODE)),
    ("data_version", Use::Refused(OF_THIS_NODE)),
    ("optimize", Use::Refused("it must be the only statement of its request")),
    ("wal_checkpoint", Use::Refused("the node checkpoints by itself")),
    ("writable_schema", Use::Refused("changing the schema by hand can damage the database")),
];

/// PRAGMAs that virtual tables (FTS, R*Tree) compile for their own use while a statement runs.
const FOR_VIRTUAL_TABLES: &[&str] = &["data_version", "page_size"];

/// Decides about `PRAGMA name` or, with a value, `PRAGMA name = value` and `PRAGMA name(value)`.
pub(crate) fn judge(name: &str, value: Option<&str>) -> Verdict {
    let known = TABLE.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let Some((_, usage)) = known else { return Verdict::Refused(UNKNOWN) };
    match (usage, value) {
        (Use::Reads | Use::ReadsAndSets, _)
        | (Use::ReadsValue(_) | Use::UntilRequestEnds(_), None) => Verdict::Run,
        (Use::Shrinks, _) => Verdict::Shrinks,
        (Use::UntilRequestEnds(setting), Some(value)) => {
            Verdict::UntilRequestEnds(setting(is_true(value)))
        }
        (Use::ReadsValue(reason), Some(_)) | (Use::Refused(reason), _) => Verdict::Refused(reason),
    }
}

/// Whether a PRAGMA may be compiled by a virtual table for its own use.
pub(crate) fn serves_virtual_tables(name: &str) -> bool {
    FOR_VIRTUAL_TABLES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether `table` has a name that the table-valued forms of PRAGMAs have.
pub(crate) fn is_table(table: &str) -> bool {
    pragma_of(table).is_some()
}

/// PRAGMAs whose answer may depend on what this connection has done since it was opened (a search index is checked
/// against a structure that is kept): a client may see it, a table may not.
const OF_THIS_CONNECTION: &[&str] = &["integrity_check", "quick_check"];

/// Whether `table` is the table-valued form (`pragma_x`) of a PRAGMA that is refused by name, or whose answer must
/// not be stored.
pub(crate) fn is_refused_table(table: &str) -> bool {
    let Some(name) = pragma_of(table) else { return false };
    if OF_THIS_CONNECTION.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return true;
    }
    TABLE
        .iter()
        .any(|(known, usage)| matches!(usage, Use::Refused(_)) && known.eq_ignore_ascii_case(name))
}

fn pragma_of(table: &str) -> Option<&str> {
    let (prefix, name) = table.split_at_checked("pragma_".len())?;
    prefix.eq_ignore_ascii_case("pragma_").then_some(name)
}

/// Reads a boolean as SQLite does for flags: a number (that fits 32 bits) is true unless it is 0, a
/// word if it is one of three, anything else is false.
fn is_true(value: &str) -> bool {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    if digits > 0 {
        return value[..digits].parse::<i32>().is_ok_and(|number| number != 0);
    }
    ["on", "yes", "true"].iter().any(|word| word.eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_lower_case() {
        for (index, (name, _)) in TABLE.iter().enumerate() {
            assert_eq!(*name, name.to_ascii_lowercase());
            assert!(TABLE[index + 1..].iter().all(|(other, _)| other != name), "{name} twice");
        }
    }

    #[test]
    fn booleans_are_read_as_sqlite_reads_them() {
        for yes in ["1", "on", "ON", "yes", "True", "2", "10", "007x"] {
            assert!(is_true(yes), "{yes}");
        }
        for no in ["0", "off", "no", "false", "", "maybe", "-1", "00", "full", "99999999999"] {
            assert!(!is_true(no), "{no}");
        }
    }

    #[test]
    fn a_table_valued_pragma_is_refused_with_the_pragma() {
        assert!(is_refused_table("pragma_database_list"));
        assert!(is_refused_table("PRAGMA_Data_Version"));
        assert!(!is_refused_table("pragma_table_info"));
        assert!(!is_refused_table("pragma_settings"));
        assert!(!is_refused_table("prägma"));
    }
}
