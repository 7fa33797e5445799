//! [`FaultFiles`]: real files with a hook before every change and a memory of what is not durable.
//!
//! For tests and simulations only. A [`FaultHook`] is asked before each operation and may let it
//! fail, tear it, or stop the world ([`Verdict::Crash`]): from then on every operation through
//! files opened so far fails. Afterwards the test chooses what happened to the machine:
//!
//! - [`FaultFiles::restart`]: only the process died, the page cache lives on;
//! - [`FaultFiles::lose_unsynced`]: the power went. Of everything not synced an arbitrary part is
//!   taken back on the real files: for each 512-byte sector any earlier version may be what
//!   reached the disk, now and then torn within the sector; lengths too; and for each name in a
//!   directory any earlier state.
//!
//! Syncs are only bookkeeping here and never reach the machine's disk, so that thousands of crashes
//! take seconds. What must never be relied on: that this is kinder than a real disk in any way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::files::{DirectoryEntry, File, Files, RealFiles, read_full};

/// What survives a power cut does so in units of this many bytes.
const SECTOR_BYTES: u64 = 512;

/// An operation about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// What it does.
    pub kind: OperationKind,
    /// The file or directory; the old name of a rename.
    pub path: &'a Path,
    /// Where a write begins, in bytes; else 0.
    pub offset: u64,
    /// How many bytes are written; else 0.
    pub length: u64,
}

/// The operations a hook is asked about: all that change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// A file is created.
    Create,
    /// A file is written.
    Write,
    /// A file is cut or extended.
    SetLength,
    /// A file is synced.
    Sync,
    /// A file is renamed.
    Rename,
    /// A file or a tree is removed.
    Remove,
    /// A directory is created.
    CreateDirectory,
    /// A directory is synced.
    SyncDirectory,
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Proceed,
    /// It fails with this error and without effect. A failed sync leaves its writes unsynced.
    Fail(io::ErrorKind),
    /// The world stops before it.
    Crash,
    /// The world stops after so many bytes of a write; for other operations like `Crash`.
    Torn(u64),
}

/// Decides about operations. Called from whatever thread does them.
pub trait FaultHook: Send + Sync {
    /// Decides about the operation that comes next.
    fn before(&self, operation: &Operation<'_>) -> Verdict;
}

/// Real files with faults. Clones share everything.
#[derive(Clone)]
pub struct FaultFiles {
    hook: Arc<dyn FaultHook>,
    journal: Arc<Mutex<Journal>>,
}

impl fmt::Debug for FaultFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FaultFiles").field("crashed", &self.has_crashed()).finish()
    }
}

/// What is known about effects that are not durable.
#[derive(Debug, Default)]
struct Journal {
    crashed: bool,
    /// Raised by every restart; files opened before stay dead.
    life: u64,
    free_space: Option<u64>,
    next_file: u64,
    names: HashMap<PathBuf, FileId>,
    writes: BTreeMap<FileId, Vec<Write>>,
    changes: BTreeMap<PathBuf, Vec<Change>>,
}

/// A file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct FileId(u64);

/// An unsynced write, with what stood there before.
#[derive(Debug)]
struct Write {
    offset: u64,
    new: Vec<u8>,
    old: Vec<u8>,
    old_length: u64,
}

/// An unsynced change of a directory, with what it takes to undo it.
#[derive(Debug)]
enum Change {
    Created(PathBuf),
    CreatedDirectory(PathBuf),
    Renamed { from: PathBuf, to: PathBuf, replaced: Option<Removed> },
    Removed(Removed),
}

#[derive(Debug)]
struct Removed {
    path: PathBuf,
    content: Vec<u8>,
    file: FileId,
}

impl FaultFiles {
    /// Wraps the machine's files.
    pub fn new(hook: Arc<dyn FaultHook>) -> Self {
        Self { hook, journal: Arc::new(Mutex::new(Journal::default())) }
    }

    /// Stops the world now, whatever the hook says.
    pub fn crash(&self) {
        self.lock().crashed = true;
    }

    /// Tells whether the world stands still.
    pub fn has_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Lets [`Files::free_space`] answer this; `None`: the truth.
    pub fn set_free_space(&self, bytes: Option<u64>) {
        self.lock().free_space = bytes;
    }

    /// Goes on after the death of a process: files opened so far stay dead, nothing is lost, and
    /// what was unsynced still is.
    pub fn restart(&self) {
        let mut journal = self.lock();
        journal.crashed = false;
        journal.life += 1;
    }

    /// Goes on after a power cut: like [`restart`](Self::restart), but an arbitrary part of what
    /// was unsynced is taken back on the real files. `choose` gives random numbers.
    pub fn lose_unsynced(&self, choose: &mut dyn FnMut() -> u64) -> io::Result<()> {
        let mut journal = self.lock();
        journal.crashed = false;
        journal.life += 1;
        let changes = std::mem::take(&mut journal.changes);
        // The deepest first: taking back the creation of a directory takes all in it.
        for (_, changes) in changes.into_iter().rev() {
            journal.take_back_changes(changes, choose)?;
        }
        let names: BTreeMap<_, _> =
            journal.names.iter().map(|(path, &file)| (path.clone(), file)).collect();
        let mut writes = std::mem::take(&mut journal.writes);
        for (path, file) in names {
            if let Some(writes) = writes.remove(&file)
                && path.is_file()
            {
                fs::write(&path, survivors(fs::read(&path)?, &writes, choose))?;
            }
        }
        journal.names.clear();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the hook, and takes the journal for an operation that may go on.
    fn admit(
        &self,
        kind: OperationKind,
        path: &Path,
        life: Option<u64>,
    ) -> io::Result<MutexGuard<'_, Journal>> {
        let operation = Operation { kind, path, offset: 0, length: 0 };
        match self.ask(&operation, life)? {
            None => Ok(self.lock()),
            Some(_) => Err(stopped()),
        }
    }

    /// Asks the hook; an answer is the number of bytes after which a write is torn.
    fn ask(&self, operation: &Operation<'_>, life: Option<u64>) -> io::Result<Option<u64>> {
        self.check_alive(life)?;
        match self.hook.before(operation) {
            Verdict::Proceed => Ok(None),
            Verdict::Fail(kind) => Err(io::Error::new(kind, "an injected fault")),
            Verdict::Crash => {
                self.crash();
                Err(stopped())
            }
            Verdict::Torn(bytes) => {
                self.crash();
                Ok(Some(bytes))
            }
        }
    }

    fn check_alive(&self, life: Option<u64>) -> io::Result<()> {
        let journal = self.lock();
        let dead = journal.crashed || life.is_some_and(|life| life != journal.life);
        if dead { Err(stopped()) } else { Ok(()) }
    }

    fn handle(&self, journal: &mut Journal, path: &Path, inner: fs::File) -> Arc<dyn File> {
        let file = journal.file_at(path);
        let path = path.to_owned();
        Arc::new(FaultFile { files: self.clone(), inner, path, file, life: journal.life })
    }
}

impl Files for FaultFiles {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.check_alive(None)?;
        let inner = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(self.handle(&mut self.lock(), path, inner))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut journal = self.admit(OperationKind::Create, path, None)?;
        let inner = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        journal.names.remove(path);
        journal.note(path, Change::Created(path.to_owned()));
        Ok(self.handle(&mut journal, path, inner))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.check_alive(None)?;
        RealFiles.list(directory)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.check_alive(None)?;
        RealFiles.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut journal = self.admit(OperationKind::Rename, from, None)?;
        assert_eq!(from.parent(), to.parent(), "renames stay in their directory");
        let replaced = if to.exists() { Some(journal.removed(to)?) } else { None };
        fs::rename(from, to)?;
        let file = journal.file_at(from);
        journal.names.remove(from);
        journal.names.insert(to.to_owned(), file);
        journal.note(from, Change::Renamed { from: from.to_owned(), to: to.to_owned(), replaced });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut journal = self.admit(OperationKind::Remove, path, None)?;
        let removed = journal.removed(path)?;
        fs::remove_file(path)?;
        journal.names.remove(path);
        journal.note(path, Change::Removed(removed));
        Ok(())
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        let _journal = self.admit(OperationKind::Remove, path, None)?;
        RealFiles.remove_tree(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut journal = self.admit(OperationKind::CreateDirectory, path, None)?;
        RealFiles.create_directory(path)?;
        journal.note(path, Change::CreatedDirectory(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut journal = self.admit(OperationKind::SyncDirectory, path, None)?;
        journal.changes.remove(path);
        Ok(())
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.check_alive(None)?;
        let told = self.lock().free_space;
        told.map_or_else(|| RealFiles.free_space(path), Ok)
    }
}

/// An open file with faults.
#[derive(Debug)]
struct FaultFile {
    files: FaultFiles,
    inner: fs::File,
    path: PathBuf,
    file: FileId,
    life: u64,
}

impl File for FaultFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.files.check_alive(Some(self.life))?;
        File::read_at(&self.inner, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let length = bytes.len() as u64;
        let path = &self.path;
        let operation = Operation { kind: OperationKind::Write, path, offset, length };
        let torn = self.files.ask(&operation, Some(self.life))?;
        let kept = torn.map_or(bytes.len(), |torn| {
            usize::try_from(torn).unwrap_or(usize::MAX).min(bytes.len())
        });
        let mut journal = self.files.lock();
        let mut old = vec![0; kept];
        let count = read_full(&self.inner, &mut old, offset)?;
        old.truncate(count);
        let write =
            Write { offset, new: bytes[..kept].to_vec(), old, old_length: self.inner.length()? };
        self.inner.write_all_at(&bytes[..kept], offset)?;
        journal.writes.entry(self.file).or_default().push(write);
        if torn.is_some() { Err(stopped()) } else { Ok(()) }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut journal =
            self.files.admit(OperationKind::SetLength, &self.path, Some(self.life))?;
        let old_length = self.inner.length()?;
        // A write of nothing at the new end, which knows what was cut off there.
        let mut old = vec![0; position(old_length.saturating_sub(length))];
        read_full(&self.inner, &mut old, length)?;
        let offset = length.min(old_length);
        self.inner.set_len(length)?;
        let write = Write { offset, new: Vec::new(), old, old_length };
        journal.writes.entry(self.file).or_default().push(write);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut journal = self.files.admit(OperationKind::Sync, &self.path, Some(self.life))?;
        journal.writes.remove(&self.file);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        self.files.check_alive(Some(self.life))?;
        self.inner.length()
    }
}

impl Journal {
    fn file_at(&mut self, path: &Path) -> FileId {
        let next = &mut self.next_file;
        *self.names.entry(path.to_owned()).or_insert_with(|| {
            *next += 1;
            FileId(*next)
        })
    }

    fn note(&mut self, path: &Path, change: Change) {
        let directory = path.parent().expect("files stand in a directory").to_owned();
        self.changes.entry(directory).or_default().push(change);
    }

    fn removed(&mut self, path: &Path) -> io::Result<Removed> {
        let content = fs::read(path)?;
        Ok(Removed { path: path.to_owned(), content, file: self.file_at(path) })
    }

    /// Undoes changes of one directory, the newest first, each by chance. A change stays if a
    /// later one of the same names stayed.
    fn take_back_changes(
        &mut self,
        changes: Vec<Change>,
        choose: &mut dyn FnMut() -> u64,
    ) -> io::Result<()> {
        let mut kept = BTreeSet::new();
        for change in changes.into_iter().rev() {
            let names = change.names();
            if names.iter().any(|name| kept.contains(name)) || choose().is_multiple_of(2) {
                kept.extend(names);
            } else {
                self.undo(change)?;
            }
        }
        Ok(())
    }

    fn undo(&mut self, change: Change) -> io::Result<()> {
        match change {
            Change::Created(path) => {
                self.names.remove(&path);
                fs::remove_file(path)
            }
            Change::CreatedDirectory(path) => fs::remove_dir_all(path),
            Change::Renamed { from, to, replaced } => {
                fs::rename(&to, &from)?;
                if let Some(file) = self.names.remove(&to) {
                    self.names.insert(from, file);
                }
                replaced.map_or(Ok(()), |removed| self.bring_back(removed))
            }
            Change::Removed(removed) => self.bring_back(removed),
        }
    }

    fn bring_back(&mut self, removed: Removed) -> io::Result<()> {
        fs::write(&removed.path, removed.content)?;
        self.names.insert(removed.path, removed.file);
        Ok(())
    }
}

impl Change {
    fn names(&self) -> Vec<PathBuf> {
        match self {
            Self::Created(path) | Self::CreatedDirectory(path) => vec![path.clone()],
            Self::Renamed { from, to, .. } => vec![from.clone(), to.clone()],
            Self::Removed(removed) => vec![removed.path.clone()],
        }
    }
}

/// Returns what a power cut leaves of a file with unsynced writes.
fn survivors(current: Vec<u8>, writes: &[Write], choose: &mut dyn FnMut() -> u64) -> Vec<u8> {
    let luck = choose() % 4;
    if luck == 0 {
        return current;
    }
    let mut lengths = vec![current.len()];
    let mut image = current;
    for write in writes.iter().rev() {
        let start = position(write.offset);
        let end = start + write.old.len();
        image.resize(image.len().max(end), 0);
        image[start..end].copy_from_slice(&write.old);
        image.truncate(position(write.old_length));
        lengths.push(image.len());
    }
    if luck == 1 {
        return image;
    }
    let length = lengths[position(choose() % lengths.len() as u64)];
    let longest = lengths.iter().copied().max().unwrap_or_default();
    image.resize(longest, 0);
    let sectors: BTreeSet<u64> = writes.iter().flat_map(Write::sectors).collect();
    for sector in sectors {
        let here: Vec<_> =
            writes.iter().filter(|write| write.sectors().contains(&sector)).collect();
        let survived = position(choose() % (here.len() as u64 + 1));
        for write in &here[..survived] {
            write.apply(&mut image, sector, SECTOR_BYTES);
        }
        if let Some(torn) = here.get(survived).filter(|_| choose().is_multiple_of(8)) {
            torn.apply(&mut image, sector, choose() % SECTOR_BYTES);
        }
    }
    image.truncate(length);
    image
}

impl Write {
    fn sectors(&self) -> std::ops::Range<u64> {
        self.offset / SECTOR_BYTES..(self.offset + self.new.len() as u64).div_ceil(SECTOR_BYTES)
    }

    /// Writes the part that falls into the first `bytes` of a sector.
    fn apply(&self, image: &mut [u8], sector: u64, bytes: u64) {
        let start = self.offset.max(sector * SECTOR_BYTES);
        let end = (self.offset + self.new.len() as u64).min(sector * SECTOR_BYTES + bytes);
        if start < end {
            let (from, to) = (position(start - self.offset), position(end - self.offset));
            image[position(start)..position(end)].copy_from_slice(&self.new[from..to]);
        }
    }
}

fn position(bytes: u64) -> usize {
    usize::try_from(bytes).expect("files of tests fit into memory")
}

fn stopped() -> io::Error {
    io::Error::other("the world has stopped (injected crash)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Countdown, Hook, Random, quiet_files};

    #[test]
    fn synced_bytes_and_names_survive_and_others_may_not() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("file");
            let files = quiet_files();
            let file = files.create(&path).unwrap();
            file.write_at(&[1; 2048], 0).unwrap();
            file.sync_data().unwrap();
            files.sync_directory(root.path()).unwrap();
            file.write_at(&[2; 1024], 512).unwrap();
            files.lose_unsynced(&mut || random.next()).unwrap();
            assert!(file.write_at(&[3], 0).is_err(), "files of the old life are dead");
            let found = fs::read(&path).unwrap();
            assert_eq!(found.len(), 2048, "seed {seed}");
            assert!(found[..512].iter().chain(&found[1536..]).all(|&byte| byte == 1));
            assert!(found[512..1536].iter().all(|byte| [1, 2].contains(byte)));
            seen.insert((found[512], found[1535]));
        }
        assert_eq!(seen.len(), 4, "all combinations happen: {seen:?}");
    }

    #[test]
    fn what_was_cut_off_may_come_back_with_its_bytes_until_it_is_synced() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("file");
            let files = quiet_files();
            let file = files.create(&path).unwrap();
            file.write_at(&[1; 2000], 0).unwrap();
            file.sync_data().unwrap();
            files.sync_directory(root.path()).unwrap();
            file.set_length(700).unwrap();
            if seed % 2 == 0 {
                file.sync_data().unwrap();
            }
            file.set_length(900).unwrap();
            files.lose_unsynced(&mut || random.next()).unwrap();
            let found = fs::read(&path).unwrap();
            assert!(found[..700].iter().all(|&byte| byte == 1), "seed {seed}");
            if seed % 2 == 0 {
                assert!([700, 900].contains(&found.len()), "seed {seed}");
                assert!(found[700..].iter().all(|&byte| byte == 0), "seed {seed}");
            }
            seen.insert(found.len());
        }
        assert_eq!(seen, BTreeSet::from([700, 900, 2000]));
    }

    #[test]
    fn unsynced_names_may_be_taken_back() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let root = tempfile::tempdir().unwrap();
            let [a, b, c] = ["a", "b", "c"].map(|name| root.path().join(name));
            let files = quiet_files();
            for path in [&a, &b] {
                let file = files.create(path).unwrap();
                file.write_at(path.as_os_str().as_encoded_bytes(), 0).unwrap();
                file.sync_data().unwrap();
            }
            files.sync_directory(root.path()).unwrap();
            files.rename(&a, &b).unwrap();
            files.create(&c).unwrap();
            files.lose_unsynced(&mut || random.next()).unwrap();
            let renamed = fs::read(&b).unwrap() == a.as_os_str().as_encoded_bytes();
            assert_eq!(a.exists(), !renamed, "a rename is done or not");
            seen.insert((renamed, c.exists()));
        }
        assert_eq!(seen.len(), 4, "all combinations happen: {seen:?}");
    }

    #[test]
    fn a_removed_file_may_come_back_with_its_bytes() {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("file");
            let files = quiet_files();
            let file = files.create(&path).unwrap();
            file.write_at(b"kept", 0).unwrap();
            file.sync_data().unwrap();
            files.sync_directory(root.path()).unwrap();
            files.remove(&path).unwrap();
            files.lose_unsynced(&mut || random.next()).unwrap();
            if path.exists() {
                assert_eq!(fs::read(&path).unwrap(), b"kept");
            }
            seen.insert(path.exists());
        }
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_crash_stops_everything_and_a_restart_loses_nothing() {
        let root = tempfile::tempdir().unwrap();
        let hook = Countdown::never();
        let files = FaultFiles::new(Arc::clone(&hook) as _);
        let path = root.path().join("file");
        let file = files.create(&path).unwrap();
        hook.arm(1, Verdict::Torn(2));
        file.write_at(b"whole", 0).unwrap();
        assert!(file.write_at(b"torn", 5).is_err());
        assert!(files.has_crashed());
        assert!(file.length().is_err() && files.exists(&path).is_err());
        assert!(files.open(&path).is_err());
        files.restart();
        assert!(file.length().is_err());
        let mut bytes = [0; 9];
        let count = files.open(&path).unwrap().read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes[..count], b"wholeto");
    }

    #[test]
    fn a_failed_sync_leaves_its_writes_unsynced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        let hook = Hook(|operation: &Operation<'_>| {
            if operation.kind == OperationKind::Sync {
                Verdict::Fail(io::ErrorKind::Other)
            } else {
                Verdict::Proceed
            }
        });
        let files = FaultFiles::new(Arc::new(hook));
        let file = files.create(&path).unwrap();
        files.sync_directory(root.path()).unwrap();
        file.write_at(b"lost", 0).unwrap();
        assert!(file.sync_data().is_err());
        // 1: nothing that is not synced survives.
        files.lose_unsynced(&mut || 1).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn free_space_can_be_told() {
        let root = tempfile::tempdir().unwrap();
        let files = quiet_files();
        assert!(files.free_space(root.path()).unwrap() > 0);
        files.set_free_space(Some(7));
        assert_eq!(files.free_space(root.path()).unwrap(), 7);
    }
}
