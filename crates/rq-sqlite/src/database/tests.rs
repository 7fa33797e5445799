//! Opening: what is created, what is refused, what the state table withstands.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::{
    entry::EntryId,
    state::PendingVacuum,
    testing::{Bare, options_in},
};

fn refusal(options: &Options) -> OpenError {
    open_parts(options).expect_err("the database is refused")
}

#[test]
fn a_new_database_has_our_shape_and_belongs_to_its_owner() {
    let bare = Bare::new();
    assert!(bare.parts.opened.created);
    for (pragma, expected) in [
        ("journal_mode", "wal"),
        ("page_size", "4096"),
        ("encoding", "UTF-8"),
        ("auto_vacuum", "0"),
        ("synchronous", "1"),
        ("wal_autocheckpoint", "0"),
        ("temp_store", "1"),
        ("cell_size_check", "1"),
        ("trusted_schema", "0"),
        ("foreign_keys", "0"),
        ("cache_size", "4096"),
        ("mmap_size", "0"),
    ] {
        assert_eq!(bare.ask(&format!("PRAGMA {pragma}")), expected, "{pragma}");
    }
    for name in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"] {
        let mode = fs::metadata(bare.directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let mode = fs::metadata(&bare.options.scratch).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn the_state_survives_reopening_vacuum_and_is_readable_by_plain_sqlite() {
    let mut bare = Bare::with("CREATE TABLE t (x); INSERT INTO t VALUES (randomblob(9000))");
    let membership = EntryId { term: 2, index: 6 };
    let pending = PendingVacuum { id: EntryId { term: 3, index: 8 }, cookie: 17 };
    {
        let state = &mut bare.parts.writer.state;
        state.set_membership(membership, b"nodes").unwrap();
        state.set_pending_vacuum(Some(pending)).unwrap();
        state.set_applied(EntryId { term: 2, index: 7 }).unwrap();
        state.set_applied(EntryId { term: 3, index: u64::MAX }).unwrap();
    }
    bare.write("VACUUM");
    let bare = bare.reopen();
    assert!(!bare.parts.opened.created);
    let state = &bare.parts.opened.state;
    assert_eq!(state.applied, Some(EntryId { term: 3, index: u64::MAX }));
    assert_eq!(state.membership, Some((membership, b"nodes".to_vec())));
    assert_eq!(state.pending_vacuum, Some(pending));
    let plain = rusqlite::Connection::open(&bare.options.path).unwrap();
    let rows: i64 =
        plain.query_row("SELECT count(*) FROM sqlite_rq_state", [], |row| row.get(0)).unwrap();
    assert!(rows >= 9, "{rows}");
    drop(plain);
    let mut bare = bare;
    bare.parts.writer.state.set_pending_vacuum(None).unwrap();
    assert_eq!(bare.reopen().parts.opened.state.pending_vacuum, None);
}

#[test]
fn sqlite_itself_protects_the_state_table_from_ddl() {
    let bare = Bare::new();
    let plain = rusqlite::Connection::open(&bare.options.path).unwrap();
    for sql in [
        "DROP TABLE sqlite_rq_state",
        "ALTER TABLE sqlite_rq_state RENAME TO x",
        "ALTER TABLE sqlite_rq_state ADD COLUMN y",
        "CREATE INDEX i ON sqlite_rq_state (value)",
        "CREATE TRIGGER r AFTER UPDATE ON sqlite_rq_state BEGIN SELECT 1; END",
        "CREATE TABLE sqlite_rq_state (x)",
    ] {
        assert!(plain.execute_batch(sql).is_err(), "{sql}");
        assert!(bare.parts.writer.connection.execute_batch(sql).is_err(), "{sql}");
    }
}

#[test]
fn a_rolled_back_term_is_written_again() {
    let mut bare = Bare::new();
    bare.apply(1, "SELECT 1");
    bare.write("BEGIN IMMEDIATE");
    bare.parts.writer.state.set_applied(EntryId { term: 5, index: 2 }).unwrap();
    bare.write("ROLLBACK");
    bare.parts.writer.state.rolled_back();
    bare.parts.writer.state.set_applied(EntryId { term: 5, index: 2 }).unwrap();
    let state = bare.reopen().parts.opened.state;
    assert_eq!(state.applied, Some(EntryId { term: 5, index: 2 }));
}

#[test]
fn a_foreign_database_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let options = options_in(&directory);
    let plain = rusqlite::Connection::open(&options.path).unwrap();
    plain.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(plain);
    let before = fs::read(&options.path).unwrap();
    let error = refusal(&options);
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("move it out of the data directory"), "{error}");
    assert_eq!(fs::read(&options.path).unwrap(), before);
}

#[test]
fn a_users_own_object_of_that_name_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options = options_in(&directory);
    let plain = rusqlite::Connection::open(&options.path).unwrap();
    plain.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true).unwrap();
    plain.execute_batch("CREATE TABLE SQLITE_rq_state (x)").unwrap();
    drop(plain);
    let error = refusal(&options).to_string();
    assert!(error.contains("another object named sqlite_rq_state"), "{error}");
}

#[test]
fn what_is_no_database_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let options = options_in(&directory);
    fs::write(&options.path, b"this is no database, only text that is long enough").unwrap();
    let error = refusal(&options);
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error}");
    fs::remove_file(&options.path).unwrap();
    fs::create_dir(&options.path).unwrap();
    let error = refusal(&options);
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    let nowhere = Options::new("/nonexistent/directory/db.sqlite", &options.scratch);
    let error = refusal(&nowhere);
    assert!(matches!(error, OpenError::Local { .. }), "{error}");
}

#[test]
fn a_newer_format_and_another_epoch_are_refused() {
    let bare = Bare::new();
    let options = bare.options.clone();
    let set = |name: &str, value: i64| {
        let sql = format!("UPDATE sqlite_rq_state SET value = {value} WHERE name = '{name}'");
        let plain = rusqlite::Connection::open(&options.path).unwrap();
        plain.execute_batch(&sql).unwrap();
    };
    set("engine_epoch", 7);
    let error = refusal(&options);
    assert!(matches!(error, OpenError::Epoch { found: 7, known: 1, .. }), "{error}");
    let tolerant = Options { any_epoch: true, ..options.clone() };
    let database = Database::open(&tolerant, WriterOptions::default()).unwrap();
    assert_eq!((database.opened.created, database.opened.epoch), (false, 7));
    drop(database);
    let of_seven = Options { engine_epoch: 7, ..options.clone() };
    let database = Database::open(&of_seven, WriterOptions::default()).unwrap();
    assert_eq!(database.opened.epoch, 7);
    drop(database);
    set("format", 2);
    let error = refusal(&options);
    assert!(matches!(error, OpenError::NewerFormat { found: 2, known: 1, .. }), "{error}");
    drop(bare);
}

#[test]
fn a_damaged_state_table_is_named() {
    let bare = Bare::new();
    bare.write("INSERT INTO sqlite_rq_state VALUES ('applied_index', 'many')");
    let Bare { parts, options, directory: _directory } = bare;
    drop(parts);
    let error = refusal(&options);
    assert!(error.to_string().contains("applied_index is not a number"), "{error}");
}

#[test]
fn temporary_files_go_to_the_scratch_directory_and_leave_nothing() {
    let bare = Bare::with("PRAGMA cache_size = 10; CREATE TABLE t (x)");
    bare.write(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000)
         INSERT INTO t SELECT hex(randomblob(100)) FROM c;",
    );
    // A sort that does not fit into memory; without a scratch directory it cannot work.
    let sort = "CREATE INDEX i ON t (x)";
    let moved = bare.directory.path().join("moved");
    fs::rename(&bare.options.scratch, &moved).unwrap();
    assert!(bare.parts.writer.connection.execute_batch(sort).is_err());
    fs::rename(&moved, &bare.options.scratch).unwrap();
    bare.write(sort);
    assert_eq!(fs::read_dir(&bare.options.scratch).unwrap().count(), 0);
}
