//! What a power cut could undo: the effects on files since each was last synced.
//!
//! Kept as pre-images of 512-byte sectors, the unit a disk writes as a whole. After a simulated
//! crash each effect survives or not, as a caller chooses; what was synced always survives. Only
//! simulations use this; memory is proportional to what is unsynced.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// An effect that no sync has made durable yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsyncedEffect<'a> {
    /// The file it concerns.
    pub path: &'a Path,
    /// What would be lost.
    pub piece: Piece,
}

/// The part of a file that an [`UnsyncedEffect`] concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The new content of the 512-byte sector with this number.
    Sector(u64),
    /// The new length of the file.
    Length,
    /// That the file exists.
    Creation,
    /// That the file is gone.
    Deletion,
    /// That the file has its name, and the one before it is gone.
    Renaming,
}

/// The unsynced effects on all files of one simulated disk.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    files: HashMap<PathBuf, Changes>,
}

/// The unsynced effects on one file.
#[derive(Debug, Default)]
struct Changes {
    created: bool,
    /// The content at the moment of a deletion that was not synced.
    deleted: Option<Vec<u8>>,
    /// The name the file had before, and the content of the file it replaced.
    renamed: Option<(PathBuf, Vec<u8>)>,
    /// The length at the last sync.
    synced_length: u64,
    /// What stood in each changed sector at the last sync: fewer bytes than a sector at the end of
    /// the file, none beyond it.
    before: BTreeMap<u64, Vec<u8>>,
}

impl Unsynced {
    /// A file is being created.
    pub(super) fn create(&mut self, path: &Path) {
        self.files.insert(path.to_owned(), Changes { created: true, ..Changes::default() });
    }

    /// A file was synced, and with it (SQLite does so for journals and WALs) its creation.
    pub(super) fn sync(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// The directory was synced: files exist or are gone for good.
    pub(super) fn sync_directory(&mut self) {
        for changes in self.files.values_mut() {
            changes.created = false;
            changes.deleted = None;
            changes.renamed = None;
        }
    }

    /// A durable file is about to take the name of another durable one.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let renamed = Some((from.to_owned(), fs::read(to)?));
        let synced_length = fs::metadata(from)?.len();
        let changes = Changes { renamed, synced_length, ..Changes::default() };
        self.files.insert(to.to_owned(), changes);
        Ok(())
    }

    /// Bytes `from..to` of a file that is `length` long are about to change. `read` reads the file as
    /// it is.
    pub(super) fn change(
        &mut self,
        path: &Path,
        from: u64,
        to: u64,
        length: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let changes = self
            .files
            .entry(path.to_owned())
            .or_insert_with(|| Changes { synced_length: length, ..Changes::default() });
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            if changes.before.contains_key(&sector) {
                continue;
            }
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(length).min(changes.synced_length).max(start);
            let mut bytes = vec![0; usize::try_from(end - start).unwrap_or_default()];
            if !bytes.is_empty() {
                read(start, &mut bytes)?;
            }
            changes.before.insert(sector, bytes);
        }
        Ok(())
    }

    /// A file is about to be deleted; `durably` if the directory is synced with it.
    pub(super) fn delete(&mut self, path: &Path, durably: bool) -> io::Result<()> {
        let was_created = self.files.get(path).is_some_and(|changes| changes.created);
        if durably || was_created {
            self.files.remove(path);
            return Ok(());
        }
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = content.len() as u64;
        let changes = self
            .files
            .entry(path.to_owned())
            .or_insert_with(|| Changes { synced_length: length, ..Changes::default() });
        changes.deleted = Some(content);
        Ok(())
    }

    /// Takes back each effect that `survives` does not choose, in a fixed order. No connection may
    /// be open.
    pub(super) fn lose(
        &mut self,
        survives: &mut dyn FnMut(&UnsyncedEffect<'_>) -> bool,
    ) -> io::Result<()> {
        let mut files: Vec<_> = self.files.drain().collect();
        files.sort_by(|left, right| left.0.cmp(&right.0));
        for (path, changes) in files {
            lose_of_file(&path, &changes, survives)?;
        }
        Ok(())
    }
}

fn lose_of_file(
    path: &Path,
    changes: &Changes,
    survives: &mut dyn FnMut(&UnsyncedEffect<'_>) -> bool,
) -> io::Result<()> {
    if let Some((before, replaced)) = &changes.renamed
        && !survives(&UnsyncedEffect { path, piece: Piece::Renaming })
    {
        fs::rename(path, before)?;
        return fs::write(path, replaced);
    }
    if let Some(content) = &changes.deleted {
        if path.exists() || survives(&UnsyncedEffect { path, piece: Piece::Deletion }) {
            return Ok(());
        }
        fs::write(path, content)?;
    }
    if changes.created && !survives(&UnsyncedEffect { path, piece: Piece::Creation }) {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    lose_content(&file, path, changes, survives)
}

fn lose_content(
    file: &File,
    path: &Path,
    changes: &Changes,
    survives: &mut dyn FnMut(&UnsyncedEffect<'_>) -> bool,
) -> io::Result<()> {
    let length = file.metadata()?.len();
    let kept_length = if length == changes.synced_length
        || survives(&UnsyncedEffect { path, piece: Piece::Length })
    {
        length
    } else {
        changes.synced_length
    };
    file.set_len(kept_length)?;
    for (&sector, before) in &changes.before {
        let start = sector * SECTOR;
        if start >= kept_length {
            continue;
        }
        // What a lost truncation had cut off was never overwritten, so it stands there still.
        let was_cut = start >= length;
        if !was_cut && survives(&UnsyncedEffect { path, piece: Piece::Sector(sector) }) {
            continue;
        }
        let room = usize::try_from((kept_length - start).min(SECTOR)).unwrap_or_default();
        let mut bytes = before.clone();
        bytes.resize(room, 0);
        file.write_all_at(&bytes, start)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes through a plain file the way the fault VFS does.
    fn write(unsynced: &mut Unsynced, path: &Path, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        let end = offset + bytes.len() as u64;
        unsynced
            .change(path, offset, end, length, |from, buffer| file.read_exact_at(buffer, from))
            .unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    fn truncate(unsynced: &mut Unsynced, path: &Path, to: u64) {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        unsynced
            .change(path, to, length, length, |from, buffer| file.read_exact_at(buffer, from))
            .unwrap();
        file.set_len(to).unwrap();
    }

    fn file_with(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, bytes).unwrap();
        (directory, path)
    }

    #[test]
    fn losing_everything_gives_the_last_synced_content() {
        let (_directory, path) = file_with(&[1; 1300]);
        let mut unsynced = Unsynced::default();
        write(&mut unsynced, &path, 500, &[2; 100]);
        write(&mut unsynced, &path, 500, &[3; 2000]);
        truncate(&mut unsynced, &path, 40);
        write(&mut unsynced, &path, 0, &[4; 700]);
        unsynced.lose(&mut |_| false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [1; 1300]);
    }

    #[test]
    fn keeping_everything_changes_nothing() {
        let (_directory, path) = file_with(&[1; 1300]);
        let mut unsynced = Unsynced::default();
        write(&mut unsynced, &path, 500, &[3; 2000]);
        truncate(&mut unsynced, &path, 1000);
        let before = fs::read(&path).unwrap();
        unsynced.lose(&mut |_| true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn sectors_are_lost_one_by_one_and_synced_ones_never() {
        let (_directory, path) = file_with(&[1; 2048]);
        let mut unsynced = Unsynced::default();
        write(&mut unsynced, &path, 0, &[2; 512]);
        unsynced.sync(&path);
        write(&mut unsynced, &path, 512, &[3; 1024]);
        unsynced.lose(&mut |effect| effect.piece == Piece::Sector(2)).unwrap();
        let expected = [[2; 512], [1; 512], [3; 512], [1; 512]].concat();
        assert_eq!(fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn growth_can_survive_without_its_content() {
        let (_directory, path) = file_with(&[1; 512]);
        let mut unsynced = Unsynced::default();
        write(&mut unsynced, &path, 512, &[2; 512]);
        unsynced.lose(&mut |effect| effect.piece == Piece::Length).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [[1; 512], [0; 512]].concat());
    }

    #[test]
    fn an_unsynced_creation_and_deletion_can_be_undone() {
        let (directory, path) = file_with(&[7; 10]);
        let mut unsynced = Unsynced::default();
        unsynced.delete(&path, false).unwrap();
        fs::remove_file(&path).unwrap();
        let created = directory.path().join("created");
        unsynced.create(&created);
        fs::write(&created, [1]).unwrap();
        unsynced.lose(&mut |_| false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [7; 10]);
        assert!(!created.exists());
    }

    #[test]
    fn an_unsynced_renaming_can_be_undone_and_a_synced_one_never() {
        for (synced, expected) in [(false, [7; 10]), (true, [8; 10])] {
            let (directory, path) = file_with(&[7; 10]);
            let before = directory.path().join("before");
            fs::write(&before, [8; 10]).unwrap();
            let mut unsynced = Unsynced::default();
            unsynced.rename(&before, &path).unwrap();
            fs::rename(&before, &path).unwrap();
            if synced {
                unsynced.sync_directory();
            }
            unsynced.lose(&mut |_| false).unwrap();
            assert_eq!(fs::read(&path).unwrap(), expected);
            assert_eq!(before.exists(), !synced);
        }
    }
}
