//! The seam for every file operation of this crate: [`Files`], [`File`], and the machine's own.
//!
//! All code here that must survive a power cut reaches the disk through these traits, so that a
//! test can stop the world at any operation ([`FaultFiles`](crate::FaultFiles)). Files are created
//! with mode 0600 and directories with 0700. Nothing here retries, buffers or syncs by itself: a
//! write is durable only after [`File::sync_data`], a name only after
//! [`Files::sync_directory`].

use std::{
    fmt::Debug,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::Error;

/// An open file. Shared between threads; positions are explicit.
pub trait File: Debug + Send + Sync {
    /// Reads bytes at `offset`, as many as fit and exist; 0 at or behind the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`, extending the file if needed. Not durable yet.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros. Not durable yet.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes all earlier writes of this file durable, and its length. An error means that nobody
    /// knows what is durable: the caller must not retry.
    fn sync_data(&self) -> io::Result<()>;
    /// Returns the length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// A file system, as far as a node's own files need one.
pub trait Files: Debug + Send + Sync {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Creates a file that must not exist yet.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Lists a directory, sorted by name.
    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>>;
    /// Tells whether a file or directory exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Renames a file within its directory, replacing what stood under the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with everything in it. For scratch data only: a crash may leave parts.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;
    /// Creates one directory, mode 0700.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Returns the bytes an unprivileged process may still write to the file system of `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryEntry {
    /// The full path.
    pub path: PathBuf,
    /// The last part of the path; undecodable bytes are replaced, such names are never ours.
    pub name: String,
    /// Whether it is a directory (a symbolic link is not).
    pub is_directory: bool,
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(fs::OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        Ok(Arc::new(options.read(true).write(true).create_new(true).mode(0o600).open(path)?))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            entries.push(DirectoryEntry {
                path: entry.path(),
                name: entry.file_name().to_string_lossy().into_owned(),
                is_directory: entry.file_type()?.is_dir(),
            });
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let statistics = rustix::fs::statvfs(path)?;
        Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
    }
}

impl File for fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Fills `buffer` from `offset`, and returns how many bytes the file had.
pub(crate) fn read_full(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a whole small file; `None` if it does not exist. At most `limit` bytes are taken into
/// memory, so that a foreign file of that name cannot fill it: a file of that length may be longer.
///
/// # Errors
/// It cannot be opened or read.
pub fn read_small(files: &dyn Files, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, Error> {
    let file = match files.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let mut bytes = vec![0; limit];
    let length =
        read_full(&*file, &mut bytes, 0).map_err(|error| Error::io("read", path, error))?;
    bytes.truncate(length);
    Ok(Some(bytes))
}

/// Replaces a small file as a whole: after a crash it holds the old or the new bytes, and once
/// this returns, the new ones.
///
/// # Errors
/// The disk is full or refuses; the old bytes stand then.
pub fn replace_small(files: &dyn Files, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let directory = parent(path);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // Left behind by a crash, or not there: both are fine.
    if files.exists(&temporary).map_err(|error| Error::io("look for", &temporary, error))? {
        files.remove(&temporary).map_err(|error| Error::io("remove", &temporary, error))?;
    }
    let file = files.create(&temporary).map_err(|error| Error::io("create", &temporary, error))?;
    file.write_at(bytes, 0).map_err(|error| Error::io("write", &temporary, error))?;
    file.sync_data().map_err(|error| Error::io("sync", &temporary, error))?;
    files.rename(&temporary, path).map_err(|error| Error::io("replace", path, error))?;
    files.sync_directory(directory).map_err(|error| Error::io("sync", directory, error))
}

/// Returns the directory in which a path stands.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Makes the names of a directory and of all above it durable. One that we may not even open was
/// not created by us.
pub(crate) fn sync_ancestors(files: &dyn Files, directory: &Path) -> Result<(), Error> {
    let mut path = directory;
    loop {
        let above = parent(path);
        match files.sync_directory(above) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(Error::io("sync", above, error)),
        }
        if above == path || above == Path::new(".") {
            return Ok(());
        }
        path = above;
    }
}
