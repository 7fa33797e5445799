//! Whose data directory this is: `node.json`, its twin in `raft/`, and the lock.
//!
//! A node's Raft id, its *incarnation*, is a fresh number per data directory. It stands twice: in
//! `node.json`, and in `raft/incarnation` beside the vote. Only if both are there and agree may the
//! node go on under it. Somebody who loses, restores or mixes up half of a directory gets a *new*
//! member, never a second voter under an old number. The rule lives in [`judge`].
//!
//! What stands in the directory:
//!
//! | name | what |
//! |---|---|
//! | `node.json` | node id, cluster id, incarnation, format version |
//! | `node.lock` | locked by the running process, holds its pid |
//! | `db.sqlite` | the database, with `-wal` and `-shm`; not touched here |
//! | `raft/` | the log and the incarnation |
//! | `scratch/` | emptied at start |
//!
//! Anything else is left alone. Opening changes nothing before it is known that it succeeds, but
//! for creating directories and the lock file.

use std::{
    fs,
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    files::{Files, parent, read_small, replace_small, sync_ancestors},
    log,
};

/// The newest format of a data directory this program reads; the one it writes.
pub const DIRECTORY_FORMAT: u32 = 1;

/// `node.json` is at most this long; more is not ours.
const NODE_JSON_BYTES_MAX: usize = 64 * 1024;

const INCARNATION_MAGIC: &[u8; 8] = b"rqd-inca";
const INCARNATION_BYTES: usize = 24;

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// The operator's name for the node.
    pub node_id: String,
    /// The cluster it belongs to; `None` until it has joined or founded one.
    pub cluster_id: Option<String>,
    /// Its Raft id: fresh for each data directory.
    pub incarnation: u64,
    /// When the directory was made, in milliseconds since 1970.
    pub created_ms: i64,
}

/// What a data directory says about its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody yet: the directory is new.
    New,
    /// This node; it may go on.
    Known(NodeIdentity),
    /// The directory has a past that must not be continued under its old incarnation: the node is
    /// a new member.
    Doubtful {
        /// Why.
        doubt: Doubt,
        /// What `node.json` says, if it is there.
        stored: Option<NodeIdentity>,
    },
}

/// Why an incarnation must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// There is a log, but no `node.json`.
    #[error("node.json is missing beside a log")]
    NodeFileMissing,
    /// There is a `node.json`, but no incarnation in `raft/`: log and vote may be gone.
    #[error("the incarnation in raft/ is missing")]
    RaftMissing,
    /// The incarnation in `raft/` cannot be read.
    #[error("the incarnation in raft/ is damaged")]
    RaftDamaged,
    /// The two incarnations differ: the parts come from different directories.
    #[error("node.json has incarnation {node}, raft/ has {raft}")]
    Differ {
        /// The one in `node.json`.
        node: u64,
        /// The one in `raft/`.
        raft: u64,
    },
}

/// `node.json`, as written.
#[derive(Serialize, Deserialize)]
struct NodeFile {
    format: u32,
    #[serde(flatten)]
    identity: NodeIdentity,
}

/// The part of `node.json` that every format has.
#[derive(Deserialize)]
struct AnyNodeFile {
    format: u32,
}

/// A data directory this process has locked. Dropping it gives the lock back.
#[derive(Debug)]
pub struct DataDirectory {
    files: Arc<dyn Files>,
    root: PathBuf,
    identity: Identity,
    _lock: Lock,
}

impl DataDirectory {
    /// Locks a data directory, creating it if needed, and finds out whose it is.
    ///
    /// `node_id` is the operator's choice; `None` takes what is stored. Fails if another process
    /// holds the directory, if it belongs to another node id, was written by a newer program, or
    /// cannot be read and written.
    pub fn open(files: Arc<dyn Files>, root: &Path, node_id: Option<&str>) -> Result<Self, Error> {
        create_with_parents(&*files, root)?;
        let lock = Lock::take(root)?;
        let identity = judge(&*files, root)?;
        if let (Some(stored), Some(given)) = (identity.stored(), node_id)
            && stored.node_id != given
        {
            return Err(Error::NodeIdDiffers {
                directory: root.to_owned(),
                stored: stored.node_id.clone(),
                given: given.to_owned(),
            });
        }
        if matches!(identity, Identity::Known(_)) {
            // A process that was killed may have left the names of both files in the page cache
            // only; what is acted upon must not be gone after a power cut.
            let raft = raft_path(root);
            files.sync_directory(&raft).map_err(|error| Error::io("sync", &raft, error))?;
            sync_ancestors(&*files, &raft)?;
        }
        let directory = Self { files, root: root.to_owned(), identity, _lock: lock };
        directory.empty_scratch()?;
        Ok(directory)
    }

    /// Returns what the directory said when it was opened, or what was stored since.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Stores who this node is, durably, in both places. The first is `raft/`, so that a crash
    /// in between leaves a directory that counts as new.
    pub fn store_identity(&mut self, identity: NodeIdentity) -> Result<(), Error> {
        let raft = self.raft();
        create_directory(&*self.files, &raft)?;
        // From here on the directory counts. Whoever created it, or one above it, may have been
        // killed before its name was durable.
        sync_ancestors(&*self.files, &raft)?;
        replace_small(
            &*self.files,
            &incarnation_path(&self.root),
            &encode_incarnation(identity.incarnation),
        )?;
        let path = node_json_path(&self.root);
        let file = NodeFile { format: DIRECTORY_FORMAT, identity: identity.clone() };
        let mut json = serde_json::to_vec_pretty(&file)
            .map_err(|error| Error::io("encode", &path, io::Error::other(error)))?;
        json.push(b'\n');
        replace_small(&*self.files, &path, &json)?;
        self.identity = Identity::Known(identity);
        Ok(())
    }

    /// Returns the directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of the database.
    pub fn database(&self) -> PathBuf {
        self.root.join("db.sqlite")
    }

    /// Returns the directory of the log.
    pub fn raft(&self) -> PathBuf {
        raft_path(&self.root)
    }

    /// Returns the directory for temporary files; it exists, and was emptied at start.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// Returns the bytes that may still be written to the directory's disk.
    pub fn free_space(&self) -> Result<u64, Error> {
        self.files
            .free_space(&self.root)
            .map_err(|error| Error::io("ask for the free space of", &self.root, error))
    }

    fn empty_scratch(&self) -> Result<(), Error> {
        let scratch = self.scratch();
        if create_directory(&*self.files, &scratch)? {
            return Ok(());
        }
        let entries =
            self.files.list(&scratch).map_err(|error| Error::io("list", &scratch, error))?;
        for entry in entries {
            let removed = if entry.is_directory {
                self.files.remove_tree(&entry.path)
            } else {
                self.files.remove(&entry.path)
            };
            removed.map_err(|error| Error::io("remove", &entry.path, error))?;
        }
        Ok(())
    }
}

impl Identity {
    /// Returns what `node.json` says, if it was there.
    pub fn stored(&self) -> Option<&NodeIdentity> {
        match self {
            Self::New => None,
            Self::Known(identity) => Some(identity),
            Self::Doubtful { stored, .. } => stored.as_ref(),
        }
    }
}

/// Finds out whose directory this is. Changes nothing.
fn judge(files: &dyn Files, root: &Path) -> Result<Identity, Error> {
    let stored = read_node_file(files, root)?;
    let raft = read_incarnation(files, root)?;
    let doubtful = |doubt, stored| Ok(Identity::Doubtful { doubt, stored });
    let Some(stored) = stored else {
        // Without a log nobody has voted or stored anything: the first start was cut short.
        return if log::exists(files, &raft_path(root))? {
            doubtful(Doubt::NodeFileMissing, None)
        } else {
            Ok(Identity::New)
        };
    };
    match raft {
        Incarnation::Missing => doubtful(Doubt::RaftMissing, Some(stored)),
        Incarnation::Damaged => doubtful(Doubt::RaftDamaged, Some(stored)),
        Incarnation::Stored(raft) if raft == stored.incarnation => Ok(Identity::Known(stored)),
        Incarnation::Stored(raft) => {
            doubtful(Doubt::Differ { node: stored.incarnation, raft }, Some(stored))
        }
    }
}

fn read_node_file(files: &dyn Files, root: &Path) -> Result<Option<NodeIdentity>, Error> {
    let path = node_json_path(root);
    let Some(bytes) = read_small(files, &path, NODE_JSON_BYTES_MAX)? else { return Ok(None) };
    let bad =
        |error: serde_json::Error| Error::corrupt(&path, 0, format!("it is not ours: {error}"));
    let AnyNodeFile { format: found } = serde_json::from_slice(&bytes).map_err(bad)?;
    if found > DIRECTORY_FORMAT {
        return Err(Error::NewerFormat { path, found, supported: DIRECTORY_FORMAT });
    }
    let file: NodeFile = serde_json::from_slice(&bytes).map_err(bad)?;
    Ok(Some(file.identity))
}

/// What `raft/incarnation` says.
enum Incarnation {
    Missing,
    Damaged,
    Stored(u64),
}

fn read_incarnation(files: &dyn Files, root: &Path) -> Result<Incarnation, Error> {
    let path = incarnation_path(root);
    let Some(bytes) = read_small(files, &path, INCARNATION_BYTES + 1)? else {
        return Ok(Incarnation::Missing);
    };
    let Ok(bytes) = <[u8; INCARNATION_BYTES]>::try_from(bytes) else {
        return Ok(Incarnation::Damaged);
    };
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if &bytes[0..8] != INCARNATION_MAGIC || word(20) != crc32c::crc32c(&bytes[..20]) {
        return Ok(Incarnation::Damaged);
    }
    let found = word(8);
    if found > DIRECTORY_FORMAT {
        return Err(Error::NewerFormat { path, found, supported: DIRECTORY_FORMAT });
    }
    Ok(Incarnation::Stored(u64::from(word(12)) | u64::from(word(16)) << 32))
}

/// Magic, format (4 bytes), incarnation (8), CRC-32C of these 20 (4); little-endian.
fn encode_incarnation(incarnation: u64) -> Vec<u8> {
    let mut bytes = INCARNATION_MAGIC.to_vec();
    bytes.extend_from_slice(&DIRECTORY_FORMAT.to_le_bytes());
    bytes.extend_from_slice(&incarnation.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn raft_path(root: &Path) -> PathBuf {
    root.join("raft")
}

fn incarnation_path(root: &Path) -> PathBuf {
    raft_path(root).join("incarnation")
}

fn node_json_path(root: &Path) -> PathBuf {
    root.join("node.json")
}

/// Creates a directory and those above it. Not durable yet.
fn create_with_parents(files: &dyn Files, directory: &Path) -> Result<(), Error> {
    let above = parent(directory);
    if above != directory
        && !files.exists(above).map_err(|error| Error::io("look for", above, error))?
    {
        create_with_parents(files, above)?;
    }
    create_directory(files, directory).map(drop)
}

/// Creates a directory if it does not exist, and tells whether it did not. Not durable yet.
fn create_directory(files: &dyn Files, directory: &Path) -> Result<bool, Error> {
    if files.exists(directory).map_err(|error| Error::io("look for", directory, error))? {
        return Ok(false);
    }
    files.create_directory(directory).map_err(|error| Error::io("create", directory, error))?;
    Ok(true)
}

/// The lock on a data directory. Not behind the file seam: a lock does not outlive its process, so
/// there is nothing to lose in a crash.
#[derive(Debug)]
struct Lock {
    _file: fs::File,
}

impl Lock {
    fn take(root: &Path) -> Result<Self, Error> {
        let path = root.join("node.lock");
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io("open", &path, error))?;
        let wish = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        match rustix::fs::flock(&file, wish) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // A pid that cannot be read is not told; the directory is in use all the same.
                let pid =
                    file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(Error::Locked { directory: root.to_owned(), pid });
            }
            Err(error) => return Err(Error::io("lock", &path, error.into())),
        }
        let write = |file: &mut fs::File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        match write(&mut file) {
            Ok(()) => {}
            // The pid is for people; on a full disk the lock must still hold.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            Err(error) => return Err(Error::io("write", &path, error)),
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests;
