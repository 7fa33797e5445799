//! What is done to a database's files outside of SQLite, when no connection is open.
//!
//! With a [`FaultDisk`] each operation asks it first, as SQLite's own do. Nothing here may open the
//! database file or the WAL: closing the descriptor would drop the locks of connections.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use super::faults::{FaultDisk, FileKind, FileOperation, OperationKind};

/// Makes the content of an incoming file durable.
pub(crate) fn sync_incoming(path: &Path, faults: Option<&FaultDisk>) -> io::Result<()> {
    let operation = FileOperation { kind: OperationKind::Sync, file: FileKind::Incoming, path };
    let sync = || File::open(path)?.sync_all();
    match faults {
        // Whoever wrote it has synced it: a simulated disk need not wait for the real one.
        Some(disk) => disk.outside(&operation, |_| Ok(()), || Ok(())),
        None => sync(),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path, file: FileKind, faults: Option<&FaultDisk>) -> io::Result<()> {
    let operation = FileOperation { kind: OperationKind::Delete, file, path };
    let remove = || match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    match faults {
        Some(disk) => disk.outside(&operation, |unsynced| unsynced.delete(path, false), remove),
        None => remove(),
    }
}

/// Gives the incoming file the name of the database.
pub(crate) fn rename(
    incoming: &Path,
    database: &Path,
    faults: Option<&FaultDisk>,
) -> io::Result<()> {
    let kind = OperationKind::Rename;
    let operation = FileOperation { kind, file: FileKind::Incoming, path: database };
    let rename = || fs::rename(incoming, database);
    match faults {
        Some(disk) => {
            disk.outside(&operation, |unsynced| unsynced.rename(incoming, database), rename)
        }
        None => rename(),
    }
}

/// Makes durable which files the directories of these files have.
pub(crate) fn sync_directories(paths: &[&Path], faults: Option<&FaultDisk>) -> io::Result<()> {
    for path in paths {
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let kind = OperationKind::SyncDirectory;
        let operation = FileOperation { kind, file: FileKind::Directory, path: directory };
        match faults {
            Some(disk) => disk.outside(
                &operation,
                |unsynced| {
                    unsynced.sync_directory();
                    Ok(())
                },
                || Ok(()),
            )?,
            None => File::open(directory)?.sync_all()?,
        }
    }
    Ok(())
}
