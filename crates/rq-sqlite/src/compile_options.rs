//! The SQLite library the engine expects, and the comparison with the one it got.
//!
//! The flags themselves stand in `.cargo/config.toml` (`LIBSQLITE3_FLAGS`), because only the build
//! of the library can set them; [`EXPECTED`] is what that line gives. A program built without it
//! (from another directory, by a packager) would compute other results, so it must not start.

use rusqlite::Connection;

use crate::error::{OpenError, SqliteError};

/// The oldest SQLite that may checkpoint beside a writer in one process, as
/// `sqlite3_libversion_number`: earlier ones could lose a WAL reset.
const OLDEST_VERSION: i32 = 3_051_003;

/// Options that describe the machine, not the results.
const PLATFORM: &[&str] = &[
    "ATOMIC_INTRINSICS",
    "COMPILER",
    "ENABLE_LOCKING_STYLE",
    "HAVE_ISNAN",
    "MAX_MMAP_SIZE",
    "MUTEX_",
    "SYSTEM_MALLOC",
    "ZERO_MALLOC",
];

/// `PRAGMA compile_options` of the library the engine is made for, without [`PLATFORM`]'s, sorted.
///
/// What is *not* in it matters as much: no `ENABLE_MATH_FUNCTIONS` (ours are equal on every CPU), no
/// `ENABLE_STAT4` (its samples are drawn at random), no `DEFAULT_FOREIGN_KEYS` other than 0 (checked
/// by the pragma, since this list does not show its value).
const EXPECTED: &[&str] = &[
    "DEFAULT_AUTOVACUUM",
    "DEFAULT_CACHE_SIZE=-2000",
    "DEFAULT_FILE_FORMAT=4",
    "DEFAULT_FOREIGN_KEYS",
    "DEFAULT_JOURNAL_SIZE_LIMIT=-1",
    "DEFAULT_MEMSTATUS=0",
    "DEFAULT_MMAP_SIZE=0",
    "DEFAULT_PAGE_SIZE=4096",
    "DEFAULT_PCACHE_INITSZ=20",
    "DEFAULT_RECURSIVE_TRIGGERS",
    "DEFAULT_SECTOR_SIZE=4096",
    "DEFAULT_SYNCHRONOUS=2",
    "DEFAULT_WAL_AUTOCHECKPOINT=1000",
    "DEFAULT_WAL_SYNCHRONOUS=2",
    "DEFAULT_WORKER_THREADS=0",
    "DIRECT_OVERFLOW_READ",
    "DQS=3",
    "ENABLE_API_ARMOR",
    "ENABLE_COLUMN_METADATA",
    "ENABLE_DBPAGE_VTAB",
    "ENABLE_DBSTAT_VTAB",
    "ENABLE_FTS3",
    "ENABLE_FTS3_PARENTHESIS",
    "ENABLE_FTS4",
    "ENABLE_FTS5",
    "ENABLE_GEOPOLY",
    "ENABLE_LOAD_EXTENSION",
    "ENABLE_PREUPDATE_HOOK",
    "ENABLE_RTREE",
    "ENABLE_SESSION",
    "MALLOC_SOFT_LIMIT=1024",
    "MAX_ATTACHED=10",
    "MAX_COLUMN=2000",
    "MAX_COMPOUND_SELECT=500",
    "MAX_DEFAULT_PAGE_SIZE=8192",
    "MAX_EXPR_DEPTH=1000",
    "MAX_FUNCTION_ARG=1000",
    "MAX_LENGTH=1000000000",
    "MAX_LIKE_PATTERN_LENGTH=50000",
    "MAX_PAGE_COUNT=0xfffffffe",
    "MAX_PAGE_SIZE=65536",
    "MAX_SCHEMA=10000000",
    "MAX_SQL_LENGTH=1000000000",
    "MAX_TRIGGER_DEPTH=1000",
    "MAX_VARIABLE_NUMBER=32766",
    "MAX_VDBE_OP=250000000",
    "MAX_WORKER_THREADS=8",
    "SOUNDEX",
    "TEMP_STORE=1",
    "THREADSAFE=1",
    "USE_URI",
];

/// Compares the library with what the engine was made for.
///
/// # Errors
/// [`OpenError::Build`] with what differs.
pub(crate) fn check(connection: &Connection) -> Result<(), OpenError> {
    let version = rusqlite::version_number();
    if version < OLDEST_VERSION {
        return Err(OpenError::Build(format!(
            "SQLite {} is too old for checkpoints beside a writer, 3.51.3 is the oldest",
            rusqlite::version()
        )));
    }
    let found = read(connection).map_err(|error| OpenError::Build(error.to_string()))?;
    difference(&found).map_or(Ok(()), |difference| Err(OpenError::Build(difference)))
}

fn read(connection: &Connection) -> Result<Vec<String>, SqliteError> {
    let mut statement = connection.prepare("PRAGMA compile_options")?;
    let options = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut options = options.collect::<Result<Vec<_>, _>>()?;
    options.retain(|option| !PLATFORM.iter().any(|name| option.starts_with(name)));
    Ok(options)
}

/// What is missing and what is too much, if anything.
fn difference(found: &[String]) -> Option<String> {
    let missing: Vec<&str> =
        EXPECTED.iter().copied().filter(|name| !found.iter().any(|have| have == name)).collect();
    let surplus: Vec<&str> =
        found.iter().map(String::as_str).filter(|have| !EXPECTED.contains(have)).collect();
    if missing.is_empty() && surplus.is_empty() {
        return None;
    }
    Some(format!(
        "its SQLite was compiled with other options than the engine needs (missing: [{}], \
         unexpected: [{}]); build it with LIBSQLITE3_FLAGS of .cargo/config.toml",
        missing.join(", "),
        surplus.join(", ")
    ))
}

/// The version of the SQLite library in this program.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::plain_connection;

    #[test]
    fn the_library_of_this_build_is_the_expected_one() {
        let connection = plain_connection();
        check(&connection).unwrap();
        let foreign_keys: i64 =
            connection.pragma_query_value(None, "foreign_keys", |row| row.get(0)).unwrap();
        assert_eq!(foreign_keys, 0);
    }

    #[test]
    fn a_missing_and_a_surplus_option_are_named() {
        let mut found: Vec<String> = EXPECTED.iter().map(ToString::to_string).collect();
        assert_eq!(difference(&found), None);
        found.retain(|name| name != "ENABLE_FTS5");
        found.push("ENABLE_STAT4".to_owned());
        let text = difference(&found).unwrap();
        assert!(text.contains("missing: [ENABLE_FTS5]"), "{text}");
        assert!(text.contains("unexpected: [ENABLE_STAT4]"), "{text}");
    }
}
