//! Making segment files full of zeros before they are needed.
//!
//! Writing 16 MiB of zeros takes several milliseconds; done in the middle of an append it would
//! hold up every request. So the flusher asks for the next segment as soon as it begins one, and a
//! helper (a thread, or whoever drives an inline log) makes it. If it is not ready when needed, the
//! flusher waits for it or makes it itself: correct either way, only slower.
//!
//! A prepared file is complete, synced, and its name is durable, before anybody sees it here.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::segment;
use crate::{
    Error,
    files::{File, Files},
};

/// Zeros are written in pieces of this many bytes. Linux caches what one write brought in pieces as large as that,
/// and each later append walks over the whole piece it falls into: small ones make appends cheaper.
const ZEROS_BYTES: usize = 64 << 10;

/// A file full of zeros.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) length: u64,
}

/// Where the flusher and its helper meet.
#[derive(Debug)]
pub(super) struct Preparer {
    files: Arc<dyn Files>,
    directory: PathBuf,
    segment_bytes: u64,
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Debug)]
enum Slot {
    /// Nothing asked for.
    Idle,
    /// A segment of this number is asked for.
    Wanted(u64),
    /// The helper is making it.
    Working,
    /// It is made.
    Ready(Prepared),
    /// It could not be made; the number is free again. Nothing is lost by that: it is tried once more when it is needed.
    Failed(u64),
    /// The log is closed.
    Stopped,
}

impl Preparer {
    pub(super) fn new(files: Arc<dyn Files>, directory: PathBuf, segment_bytes: u64) -> Self {
        let segment_bytes = segment::length_for(0, segment_bytes);
        let slot = Mutex::new(Slot::Idle);
        Self { files, directory, segment_bytes, slot, changed: Condvar::new() }
    }

    /// Asks the helper for a segment. It must not hold one already.
    pub(super) fn request(&self, number: u64) {
        let mut slot = self.lock();
        match *slot {
            Slot::Stopped => return,
            Slot::Idle => *slot = Slot::Wanted(number),
            Slot::Wanted(_) | Slot::Working | Slot::Ready(_) | Slot::Failed(_) => {
                panic!("one segment is prepared at a time")
            }
        }
        self.changed.notify_all();
    }

    /// Takes the segment asked for, or makes it if the helper could not, or one with `number` if none was asked for.
    /// Every error but a full disk is final.
    pub(super) fn take(&self, number: u64) -> Result<Prepared, Error> {
        let mut slot = self.lock();
        while matches!(*slot, Slot::Working) {
            slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
        let number = match std::mem::replace(&mut *slot, Slot::Idle) {
            Slot::Ready(prepared) => return Ok(prepared),
            Slot::Failed(number) | Slot::Wanted(number) => number,
            Slot::Stopped => {
                *slot = Slot::Stopped;
                number
            }
            Slot::Idle | Slot::Working => number,
        };
        drop(slot);
        self.make(number)
    }

    /// Gives back a segment that could not be begun for lack of space.
    pub(super) fn put_back(&self, prepared: Prepared) {
        let mut slot = self.lock();
        if matches!(*slot, Slot::Idle) {
            *slot = Slot::Ready(prepared);
        }
    }

    /// Grows a prepared segment, for a record larger than segments are.
    pub(super) fn grow(&self, prepared: &mut Prepared, length: u64) -> Result<(), Error> {
        if length > prepared.length {
            write_zeros(prepared, prepared.length, length)?;
            prepared.length = length;
        }
        Ok(())
    }

    /// Makes the segment asked for, if one is, and tells whether it did something.
    pub(super) fn work(&self) -> bool {
        let mut slot = self.lock();
        let Slot::Wanted(number) = *slot else { return false };
        *slot = Slot::Working;
        drop(slot);
        let made = self.make(number);
        let mut slot = self.lock();
        if !matches!(*slot, Slot::Stopped) {
            *slot = match made {
                Ok(prepared) => Slot::Ready(prepared),
                Err(error) => {
                    tracing::warn!("the next segment of the log cannot be made ready: {error}");
                    Slot::Failed(number)
                }
            };
        }
        self.changed.notify_all();
        true
    }

    /// Works until [`stop`](Self::stop); the body of the helper's thread.
    pub(super) fn run(&self) {
        loop {
            while self.work() {}
            let mut slot = self.lock();
            while !matches!(*slot, Slot::Wanted(_) | Slot::Stopped) {
                slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
            }
            if matches!(*slot, Slot::Stopped) {
                return;
            }
        }
    }

    /// Ends [`run`](Self::run). A prepared segment stays on disk; opening the log removes it.
    pub(super) fn stop(&self) {
        *self.lock() = Slot::Stopped;
        self.changed.notify_all();
    }

    fn make(&self, number: u64) -> Result<Prepared, Error> {
        let path = segment::path(&self.directory, number);
        let made = self.fill(number, &path);
        if made.as_ref().is_err_and(Error::is_disk_full) {
            // What was written so far would keep others from the last bytes of the disk. If even
            // this fails, the next attempt or the next start removes the file.
            if let Err(error) = self.files.remove(&path) {
                tracing::debug!(path = %path.display(), %error, "cannot remove a partial segment");
            }
        }
        made
    }

    fn fill(&self, number: u64, path: &Path) -> Result<Prepared, Error> {
        let exists = self.files.exists(path).map_err(|error| Error::io("look for", path, error))?;
        if exists {
            self.files.remove(path).map_err(|error| Error::io("remove", path, error))?;
        }
        let file = self.files.create(path).map_err(|error| Error::io("create", path, error))?;
        let prepared = Prepared { number, path: path.to_owned(), file, length: self.segment_bytes };
        write_zeros(&prepared, 0, self.segment_bytes)?;
        self.files
            .sync_directory(&self.directory)
            .map_err(|error| Error::io("sync", &self.directory, error))?;
        Ok(prepared)
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes zeros over a part of a prepared file and makes them and the length durable.
fn write_zeros(prepared: &Prepared, from: u64, to: u64) -> Result<(), Error> {
    zero(&*prepared.file, from, to).map_err(|error| Error::io("fill", &prepared.path, error))
}

/// Writes zeros over `from..to` of a file and syncs.
pub(super) fn zero(file: &dyn File, from: u64, to: u64) -> std::io::Result<()> {
    let piece = usize::try_from(to.saturating_sub(from)).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
    let zeros = vec![0; piece];
    let mut offset = from;
    while offset < to {
        let left = usize::try_from(to - offset).unwrap_or(ZEROS_BYTES).min(zeros.len());
        file.write_at(&zeros[..left], offset)?;
        offset += left as u64;
    }
    file.sync_data()
}
