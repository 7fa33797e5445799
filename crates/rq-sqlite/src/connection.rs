//! How each kind of connection is opened: the writer, readers, the checkpointer.
//!
//! Every setting that can change a result or a page is fixed here and belongs to the
//! [`ENGINE_EPOCH`]. No setting may depend on this node. All connections of a database leave the WAL
//! alone when they close (`NO_CKPT_ON_CLOSE`): checkpoints are the checkpointer's business.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rusqlite::{
    Connection, OpenFlags,
    config::DbConfig,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
};

use crate::{
    ambient::Ambient,
    authorizer::{ATTACH_REFUSED, DETACH_REFUSED},
    error::SqliteError,
    functions,
    vfs::Vfs,
};

/// The engine epoch of this program: raised only when the results or the pages of a new build differ
/// from those of the last (SQLite, its compile options, the settings below, our functions, the
/// writer's cache). Nodes of one epoch mix freely.
pub const ENGINE_EPOCH: i64 = 1;

/// The page size of a new database in bytes.
const PAGE_SIZE: i64 = 4096;

/// The memory the writer's page cache is made for, in bytes. It is there for the inner pages of trees,
/// which every change passes through: those of tables of some gigabytes fit. Leaves of a large table do
/// not fit in any case, and the operating system's cache has them at hand. A sort of the writer, as for
/// an index, takes as much again before it goes to files.
const WRITER_CACHE_BYTES: i64 = 16 << 20;

/// The largest page cache of the writer in pages, for databases with small pages: what SQLite keeps beside
/// each page would take as much as the pages themselves.
const WRITER_CACHE_MOST_PAGES: i64 = 8192;

/// What a transaction may hold in changed pages before they are written to the WAL, in KiB. Beyond the cache
/// they are memory for as long as it lasts: who fills an index in one transaction changes the same pages over
/// and over, and each that had to be written meanwhile is written again.
const WRITER_SPILL_KIB: i64 = 32 << 10;

/// The page cache of a reader in KiB. What a statement needs beyond it is read again from the
/// operating system's cache. Memory of the pool: this times its connections.
const READER_CACHE_KIB: i64 = 1024;

/// The longest text, blob, row or SQL text on any connection, in bytes (128 MiB). Beyond, SQLite says
/// `string or blob too big`. Values are held in memory several times over while they are computed,
/// stored and answered, so SQLite's own limit of a thousand million would let one statement take all
/// memory there is.
pub(crate) const LONGEST_VALUE: i32 = 128 << 20;

/// The longest pattern of LIKE and GLOB in bytes; beyond, these functions of ours and SQLite's own say so.
/// Matching may take time in proportion to the lengths of pattern and text multiplied. Ours count that as
/// work, so it ends in any case; but this is the limit clients were told.
pub(crate) const LONGEST_PATTERN: i32 = 4096;

/// How long a connection waits for a lock. Inside one process nobody holds one for long; another
/// process that reads the file may, while it recovers the WAL.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that keeps the file system it was opened through.
#[derive(Debug)]
pub(crate) struct Guarded {
    // Dropped in this order: the connection must be closed before its file system goes.
    connection: Connection,
    _vfs: Arc<Vfs>,
}

impl Deref for Guarded {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// Opens the writer of an existing (perhaps empty) file. Nothing is changed in it; the database is
/// put into WAL mode by [`use_wal`] once it is known to be ours.
///
/// # Errors
/// What SQLite says.
pub(crate) fn open_writer(
    path: &Path,
    vfs: &Arc<Vfs>,
    ambient: &Arc<Ambient>,
) -> Result<Guarded, SqliteError> {
    let writer = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, vfs)?;
    // VACUUM attaches a database of its own; for clients the authorizer refuses ATTACH.
    writer.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
    writer.pragma_update(None, "synchronous", "NORMAL")?;
    sync_to_the_platter(&writer)?;
    functions::install_on_writer(&writer, ambient)?;
    functions::install_like(&writer, false)?;
    functions::install_fts5(&writer)?;
    Ok(writer)
}

/// On macOS an ordinary fsync leaves what was written in the drive's cache.
fn sync_to_the_platter(connection: &Connection) -> Result<(), SqliteError> {
    if cfg!(target_os = "macos") {
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    }
    Ok(())
}

/// Fixes page size and encoding of a file that is still empty.
///
/// # Errors
/// What SQLite says.
pub(crate) fn shape_new_database(writer: &Connection) -> Result<(), SqliteError> {
    writer.pragma_update(None, "page_size", PAGE_SIZE)?;
    writer.pragma_update(None, "encoding", "UTF-8")?;
    writer.pragma_update(None, "auto_vacuum", "NONE")?;
    Ok(())
}

/// Puts the database into WAL mode and sizes the cache. From now on other connections may be opened.
///
/// # Errors
/// What SQLite says, also if it does not switch.
pub(crate) fn use_wal(writer: &Connection) -> Result<(), SqliteError> {
    let mode: String = {
        let mut statement = writer.prepare("PRAGMA journal_mode = WAL")?;
        let mut rows = statement.query([])?;
        let mode = rows.next()?.map_or(Ok(String::new()), |row| row.get(0))?;
        // The switch is committed behind the row: only the end of the statement tells whether it was.
        if rows.next()?.is_some() {
            return Err(rusqlite::Error::QueryReturnedMoreThanOneRow.into());
        }
        mode
    };
    if !mode.eq_ignore_ascii_case("wal") {
        let message = format!("the database stays in journal mode {mode}");
        return Err(SqliteError { code: rusqlite::ffi::SQLITE_PROTOCOL, message });
    }
    size_writer_cache(writer)
}

/// Sets the writer's page cache to the number of pages that belongs to the page size. What is spilled
/// depends on it, so it must be equal on all nodes.
///
/// # Errors
/// What SQLite says.
fn size_writer_cache(writer: &Connection) -> Result<(), SqliteError> {
    let page_size: i64 = writer.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = (WRITER_CACHE_BYTES / page_size.max(1)).min(WRITER_CACHE_MOST_PAGES);
    writer.pragma_update(None, "cache_size", pages)?;
    // In KiB, which is said by the sign: SQLite also takes the lowest byte of a number of pages for on or off.
    set_number(writer, "cache_spill", -WRITER_SPILL_KIB)
}

/// Opens the connection that folds the WAL back and reads pages for images.
///
/// # Errors
/// What SQLite says.
pub(crate) fn open_checkpointer(path: &Path, vfs: &Arc<Vfs>) -> Result<Guarded, SqliteError> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, vfs)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    sync_to_the_platter(&connection)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(connection)
}

/// What a reader's authorizer remembers.
#[derive(Debug, Default)]
pub(crate) struct ReaderWatch {
    altered: AtomicBool,
    /// A statement that was compiled put SQLite's own LIKE back.
    like_is_lost: AtomicBool,
    refusal: Mutex<Option<&'static str>>,
}

impl ReaderWatch {
    /// Whether a statement has changed a setting of the connection, which must then not be used for
    /// another request.
    pub(crate) fn is_altered(&self) -> bool {
        self.altered.load(Ordering::Relaxed)
    }

    /// Puts LIKE in its place again on the connection that is watched, where nothing may run, if a
    /// statement has put SQLite's own there since this was last called.
    ///
    /// # Errors
    /// What SQLite says; another call tries again.
    pub(crate) fn keep_like(&self, reader: &Connection) -> Result<(), SqliteError> {
        if self.like_is_lost.load(Ordering::Relaxed) {
            functions::reinstall_like(reader)?;
            self.like_is_lost.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Why it refused something since this was last asked, where there is more to say than SQLite does.
    pub(crate) fn take_refusal(&self) -> Option<&'static str> {
        self.refusal().take()
    }

    /// A poisoned lock only says that a statement panicked; what is guarded has no invariant to lose.
    fn refusal(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a reader, with what its authorizer remembers.
///
/// # Errors
/// What SQLite says.
pub(crate) fn open_reader(
    path: &Path,
    vfs: &Arc<Vfs>,
    foreign_keys: bool,
) -> Result<(Guarded, Arc<ReaderWatch>), SqliteError> {
    let mut reader = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY, vfs)?;
    reader.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, foreign_keys)?;
    reader.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    reader.pragma_update(None, "query_only", true)?;
    reader.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    functions::install_maths(&reader)?;
    functions::install_like(&reader, false)?;
    functions::install_fts5(&reader)?;
    let watch = Arc::new(ReaderWatch::default());
    let judge = Arc::clone(&watch);
    reader.authorizer(Some(move |context: AuthContext<'_>| judge_read(context.action, &judge)))?;
    Ok((reader, watch))
}

/// What all connections have in common.
pub(crate) fn open(path: &Path, mode: OpenFlags, vfs: &Arc<Vfs>) -> Result<Guarded, SqliteError> {
    let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(path, flags, vfs.name())?;
    let connection = Guarded { connection, _vfs: Arc::clone(vfs) };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
    ] {
        connection.set_db_config(setting, on)?;
    }
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, LONGEST_VALUE),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, LONGEST_PATTERN),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, most)?;
    }
    for (name, value) in [
        ("wal_autocheckpoint", 0),
        ("cell_size_check", 1),
        ("mmap_size", 0),
        ("threads", 0),
        // In files: an index build or a sort must not need the table in memory.
        ("temp_store", 1),
    ] {
        set_number(&connection, name, value)?;
    }
    connection.set_prepared_statement_cache_capacity(0);
    functions::install_text(&connection)?;
    functions::install_json_patch(&connection)?;
    Ok(connection)
}

/// Some of these answer with a row, some do not.
fn set_number(connection: &Connection, name: &str, value: i64) -> Result<(), SqliteError> {
    match connection.pragma_update_and_check(None, name, value, |_| Ok(())) {
        Ok(()) | Err(rusqlite::Error::QueryReturnedNoRows) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// PRAGMAs that take a name as argument and change nothing.
const ASKING_PRAGMAS: &[&str] = &[
    "foreign_key_check",
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// PRAGMAs after which a reader's connection is not used again: FTS5 keeps the structure of an index it has checked,
/// and would find an index that was changed since damaged.
const USED_UP_BY: &[&str] = &["integrity_check", "quick_check"];

/// PRAGMAs a reader may not set, because they would take memory, other files or locks of this
/// process, or the reader's own protection away.
const PROTECTED_PRAGMAS: &[&str] = &[
    "cache_size",
    "cache_spill",
    "cell_size_check",
    "data_store_directory",
    "default_cache_size",
    "hard_heap_limit",
    "journal_mode",
    "journal_size_limit",
    "locking_mode",
    "mmap_size",
    "page_size",
    "query_only",
    "soft_heap_limit",
    "synchronous",
    "temp_store",
    "temp_store_directory",
    "threads",
    "trusted_schema",
    "wal_autocheckpoint",
    "writable_schema",
];

/// What a reader's statement may do. Writes need no refusal here: the connection is read-only, and
/// the error of a statement that tries is the one clients know.
fn judge_read(action: AuthAction<'_>, watch: &ReaderWatch) -> Authorization {
    match action {
        AuthAction::Attach { .. } => {
            *watch.refusal() = Some(ATTACH_REFUSED);
            Authorization::Deny
        }
        AuthAction::Detach { .. } => {
            *watch.refusal() = Some(DETACH_REFUSED);
            Authorization::Deny
        }
        AuthAction::Function { function_name }
            if ["load_extension", "fts3_tokenizer", "sqlite_log"]
                .iter()
                .any(|name| function_name.eq_ignore_ascii_case(name)) =>
        {
            Authorization::Deny
        }
        AuthAction::Pragma { pragma_name, pragma_value } => {
            judge_pragma(&pragma_name.to_ascii_lowercase(), pragma_value.is_some(), watch)
        }
        _ => Authorization::Allow,
    }
}

fn judge_pragma(name: &str, has_value: bool, watch: &ReaderWatch) -> Authorization {
    if name == "wal_checkpoint" || (has_value && PROTECTED_PRAGMAS.contains(&name)) {
        return Authorization::Deny;
    }
    if USED_UP_BY.contains(&name) || (has_value && !ASKING_PRAGMAS.contains(&name)) {
        watch.altered.store(true, Ordering::Relaxed);
    }
    if has_value && name == "case_sensitive_like" {
        watch.like_is_lost.store(true, Ordering::Relaxed);
    }
    Authorization::Allow
}

#[cfg(test)]
mod tests {
    use super::size_writer_cache;
    use crate::testing::plain_connection;

    #[test]
    fn the_writers_cache_takes_no_more_memory_for_larger_pages() {
        for (page_size, pages) in [
            (512_i64, 8192),
            (1024, 8192),
            (2048, 8192),
            (4096, 4096),
            (16_384, 1024),
            (65_536, 256),
        ] {
            let writer = plain_connection();
            writer.pragma_update(None, "page_size", page_size).unwrap();
            size_writer_cache(&writer).unwrap();
            let ask = |name: &str| -> i64 {
                writer.pragma_query_value(None, name, |row| row.get(0)).unwrap()
            };
            assert_eq!(ask("cache_size"), pages, "pages of {page_size} bytes");
            // SQLite counts what it keeps beside each page.
            let spilled_from = ask("cache_spill");
            let memory = spilled_from * page_size;
            assert!(spilled_from >= pages, "pages of {page_size} bytes");
            assert!(memory > 0 && memory <= 32 << 20, "pages of {page_size} bytes: {memory}");
        }
    }
}
