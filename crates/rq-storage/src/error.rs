//! Everything that can go wrong with a node's files, by meaning.
//!
//! Each message names the file and, where a person can do something, says what. The text of an
//! operating system's error is the *source* of ours and not repeated in it. Errors are `Clone`,
//! because one failed write fails every append that waited for it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The failure of an operation on a node's files.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk, or the quota on it, is full.
    #[error("cannot {operation} {}: the disk is full; free some space and start again", path.display())]
    DiskFull {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// The process may not do this to the file.
    #[error("cannot {operation} {}: no permission; give the user this process runs as the right to read and write it", path.display())]
    NoPermission {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// A file does not hold what was durably written to it.
    #[error(
        "{} is damaged at byte {offset}: {problem}; the disk lost or changed data that was stored \
         safely: move the data directory away and let this node join again with an empty one, or \
         restore a backup", path.display()
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// The offset of the first damage, in bytes.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A file that must exist does not.
    #[error(
        "{} is missing: {problem}; put it back, or move the data directory away and let this node \
         join again with an empty one, or restore a backup", path.display()
    )]
    Missing {
        /// The missing file.
        path: PathBuf,
        /// Why it must exist.
        problem: String,
    },
    /// A file was written by a newer program.
    #[error(
        "{} has format {found}, this program reads up to {supported}: start the newer program that \
         wrote it", path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format this program reads.
        supported: u32,
    },
    /// The data directory belongs to another node id than the one given.
    #[error(
        "{} belongs to node id \"{stored}\", not \"{given}\": start with node id \"{stored}\" or on \
         another data directory", directory.display()
    )]
    NodeIdDiffers {
        /// The data directory.
        directory: PathBuf,
        /// The node id stored in it.
        stored: String,
        /// The node id given.
        given: String,
    },
    /// Another process uses the data directory.
    #[error(
        "{} is in use by {}: stop that process first, or start on another data directory",
        directory.display(), holder(*pid)
    )]
    Locked {
        /// The data directory.
        directory: PathBuf,
        /// The process that holds it, if it could be read.
        pid: Option<u32>,
    },
    /// The caller asked for something the log's rules forbid; nothing was changed.
    #[error("the log refuses this: {0}")]
    Rejected(String),
    /// The log failed earlier and accepts nothing any more; the process must be restarted.
    #[error("the log stopped after a failure")]
    Failed(#[source] Arc<Self>),
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
}

impl Error {
    /// Sorts an error of the operating system by what a person can do about it.
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        let kind = source.kind();
        let source = Arc::new(source);
        match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { operation, path, source }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NoPermission { operation, path, source }
            }
            _ => Self::Io { operation, path, source },
        }
    }

    /// Builds the error for damage at `offset` of a file.
    pub(crate) fn corrupt(path: &Path, offset: u64, problem: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, problem: problem.into() }
    }

    /// Tells whether freeing space on the disk cures it.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Failed(source) => source.is_disk_full(),
            _ => false,
        }
    }

    /// Tells whether stored data is gone or changed, so that starting again cannot help.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Missing { .. } => true,
            Self::Failed(source) => source.is_corruption(),
            _ => false,
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
