//! Errors of the engine: SQLite's codes read once, and sorted by what they mean for replication.
//!
//! A failing statement is one of two things. Either every node sees the same failure (a constraint,
//! a missing table, a budget): then it is a *result* and becomes a [`SqlError`]. Or it is a failure
//! of this node alone (disk full, I/O, memory): then it is a [`LocalError`] and must never become
//! part of a result. [`SqliteError::is_local`] is the only place where this is decided.
//!
//! Out of memory is this node's failure, whether SQLite says `SQLITE_NOMEM` or, from its files,
//! `SQLITE_IOERR_NOMEM`: more memory or another try helps. Only a size that SQLite refuses before it asks
//! the allocator is a result, and files never ask for such sizes, so for them there is no exception. On a
//! reader either ends the read transaction, and the statements behind it say so.

use std::{
    ffi::c_int,
    fmt,
    path::{Path, PathBuf},
};

use rq_sql::{ErrorKind, Origin, SqlError};
use rusqlite::ffi;
use thiserror::Error;

use crate::memory;

/// Why a database could not be opened. Nothing was changed.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The SQLite library in this program is not the one the engine was built for.
    #[error("this program was built wrongly: {0}")]
    Build(String),
    /// The file is not a database, or is damaged.
    #[error("{path} cannot be read as a SQLite database: {message}")]
    NotADatabase {
        /// The database file.
        path: PathBuf,
        /// SQLite's message.
        message: String,
    },
    /// The file is a database, but not one this program made.
    #[error(
        "{path} is a SQLite database that was not made by this program ({reason}); \
         move it out of the data directory, where only a database of this program may lie"
    )]
    Foreign {
        /// The database file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The state table was written by a program with a newer format.
    #[error(
        "{path} was written by a newer version of this program (state format {found}, this program \
         knows {known}); install that version"
    )]
    NewerFormat {
        /// The database file.
        path: PathBuf,
        /// The format found.
        found: i64,
        /// The newest format this program reads.
        known: i64,
    },
    /// The database belongs to another engine epoch.
    #[error(
        "{path} belongs to engine epoch {found}, this program computes epoch {known}; start the \
         program version whose engine epoch is {found}"
    )]
    Epoch {
        /// The database file.
        path: PathBuf,
        /// The epoch found.
        found: i64,
        /// This program's epoch.
        known: i64,
    },
    /// The state table lacks something or holds what it cannot.
    #[error("the state table in {path} is damaged: {reason}")]
    State {
        /// The database file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Something of this node failed: permissions, disk, memory.
    #[error("{path}: {source}")]
    Local {
        /// The database file or directory.
        path: PathBuf,
        /// What failed.
        source: LocalError,
    },
}

/// A failure of this node, not of the SQL: the same statement may succeed elsewhere or later.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{doing}: {message} (SQLite code {code})")]
pub struct LocalError {
    /// What kind of failure.
    pub kind: LocalKind,
    /// What was being done, as a phrase: "applying entry 12".
    pub doing: String,
    /// SQLite's message.
    pub message: String,
    /// SQLite's extended result code.
    pub code: i32,
}

/// What kind of failure of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalKind {
    /// No space left on the device, or a quota.
    DiskFull,
    /// Reading, writing or syncing failed.
    Io,
    /// Memory could not be allocated.
    Memory,
    /// The file is not what SQLite wrote.
    Corrupt,
    /// A file may not be read or written, or cannot be opened.
    Permission,
    /// Another process or connection holds a lock, or the connection was misused. A defect or a
    /// foreign process.
    Busy,
}

/// What SQLite reported: the extended result code and the message of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SqliteError {
    /// The extended result code.
    pub(crate) code: c_int,
    /// The message, verbatim.
    pub(crate) message: String,
}

impl SqliteError {
    /// The primary result code.
    pub(crate) fn primary(&self) -> c_int {
        self.code & 0xff
    }

    /// Whether this failure is this node's alone and must not become a result.
    pub(crate) fn is_local(&self) -> bool {
        self.local_kind().is_some()
    }

    /// The kind of local failure, if it is one. `SQLITE_FULL` counts as local; a page budget
    /// exceeded reports it too, and whoever sets such a limit tells the two apart. So does
    /// `SQLITE_NOMEM`; see [`with_refused_size`](Self::with_refused_size).
    pub(crate) fn local_kind(&self) -> Option<LocalKind> {
        match self.primary() {
            ffi::SQLITE_FULL => Some(LocalKind::DiskFull),
            ffi::SQLITE_IOERR if self.code == ffi::SQLITE_IOERR_NOMEM => Some(LocalKind::Memory),
            ffi::SQLITE_IOERR => Some(LocalKind::Io),
            ffi::SQLITE_NOMEM => Some(LocalKind::Memory),
            // A virtual table (FTS, R*Tree) reports content a user damaged by writing its shadow
            // tables with this extended code; every node then sees the same.
            ffi::SQLITE_CORRUPT if self.code == ffi::SQLITE_CORRUPT_VTAB => None,
            ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => Some(LocalKind::Corrupt),
            ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM => Some(LocalKind::Permission),
            ffi::SQLITE_BUSY | ffi::SQLITE_PROTOCOL | ffi::SQLITE_NOLFS | ffi::SQLITE_MISUSE => {
                Some(LocalKind::Busy)
            }
            _ => None,
        }
    }

    /// The failure of what was begun when [`memory::failed_allocations`] gave `failed_before`: out of
    /// memory although the allocator never failed is a size SQLite refuses, on all nodes alike.
    pub(crate) fn with_refused_size(self, failed_before: u64) -> Self {
        if self.primary() != ffi::SQLITE_NOMEM || memory::ran_out_since(failed_before) {
            return self;
        }
        memory::refused()
    }

    /// What kind of failure this is to a client.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self.primary() {
            // A refused function has no code of its own.
            ffi::SQLITE_ERROR if self.message.starts_with("not authorized") => {
                ErrorKind::NotAuthorized
            }
            ffi::SQLITE_ERROR => ErrorKind::Sql,
            ffi::SQLITE_CONSTRAINT | ffi::SQLITE_MISMATCH => ErrorKind::Constraint,
            ffi::SQLITE_AUTH => ErrorKind::NotAuthorized,
            ffi::SQLITE_READONLY => ErrorKind::ReadOnly,
            ffi::SQLITE_RANGE => ErrorKind::Parameters,
            ffi::SQLITE_INTERRUPT => ErrorKind::Cancelled,
            ffi::SQLITE_TOOBIG => ErrorKind::TooBig,
            _ => ErrorKind::Other,
        }
    }

    /// As the failure of a statement, with SQLite's message verbatim.
    pub(crate) fn into_sql_error(self, origin: Origin) -> SqlError {
        SqlError { kind: self.kind(), message: self.message, origin }
    }

    /// As the reason why the database at `path` cannot be opened.
    pub(crate) fn into_open_error(self, path: &Path, doing: &str) -> OpenError {
        let path = path.to_owned();
        match self.primary() {
            ffi::SQLITE_NOTADB | ffi::SQLITE_CORRUPT => {
                OpenError::NotADatabase { path, message: self.message }
            }
            _ => OpenError::Local { path, source: self.into_local(doing) },
        }
    }

    /// As a failure of this node while `doing` something.
    pub(crate) fn into_local(self, doing: impl Into<String>) -> LocalError {
        LocalError {
            kind: self.local_kind().unwrap_or(LocalKind::Busy),
            doing: doing.into(),
            message: self.message,
            code: self.code,
        }
    }
}

impl fmt::Display for SqliteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLite code {})", self.message, self.code)
    }
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(failure, message) => Self {
                code: failure.extended_code,
                message: message.unwrap_or_else(|| failure.to_string()),
            },
            rusqlite::Error::SqlInputError { error, msg, .. } => {
                Self { code: error.extended_code, message: msg }
            }
            other => Self { code: ffi::SQLITE_MISUSE, message: other.to_string() },
        }
    }
}
