//! The file in which a received database grows.
//!
//! It stands in the scratch directory, so a restart removes it. Beside it stands a file with the
//! checksums of the pages of a held round, 16 bytes each, zeros for those not seen yet: their sum is the
//! database's, whatever order pages came in and however often.
//!
//! Every page is taken for what it is when it is read, never for what was once written.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rq_sqlite::checksum_of_page;
use rq_storage::{File, Files};

const NAME: &str = "incoming.sqlite";
const CHECKSUMS_NAME: &str = "incoming.checksums";

/// So many bytes are read or summed up at once.
const PIECE_BYTES: usize = 256 * 1024;

/// So many written bytes are not synced at most, or syncing at the end would take the disk from
/// everybody for long.
const UNSYNCED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of a checksum.
const CHECKSUM_BYTES: u64 = 16;

/// An open staging file.
#[derive(Debug)]
pub(super) struct Staging {
    files: Arc<dyn Files>,
    scratch: PathBuf,
    page_size: u32,
    pages: Arc<dyn File>,
    checksums: Arc<dyn File>,
    unsynced: AtomicU64,
}

impl Staging {
    /// Begins an empty file, in the place of one that is there.
    pub(super) fn create(
        files: &Arc<dyn Files>,
        scratch: &Path,
        page_size: u32,
    ) -> io::Result<Self> {
        remove(&**files, scratch)?;
        let pages = files.create(&scratch.join(NAME))?;
        let checksums = files.create(&scratch.join(CHECKSUMS_NAME))?;
        Ok(Self {
            files: Arc::clone(files),
            scratch: scratch.to_owned(),
            page_size,
            pages,
            checksums,
            unsynced: AtomicU64::new(0),
        })
    }

    pub(super) fn page_size(&self) -> u32 {
        self.page_size
    }

    pub(super) fn path(&self) -> PathBuf {
        self.scratch.join(NAME)
    }

    /// Pages in the file, some of which may never have been written.
    pub(super) fn page_count(&self) -> io::Result<u32> {
        let pages = self.pages.length()? / u64::from(self.page_size);
        Ok(u32::try_from(pages).unwrap_or(u32::MAX))
    }

    /// The checksums of `count` pages from `first` on, as far as the file goes.
    pub(super) fn checksums_of(&self, first: u32, count: u32) -> io::Result<Vec<u128>> {
        let end = (self.page_count()?.saturating_add(1)).min(first.saturating_add(count));
        let size = index(self.page_size);
        let mut buffer = vec![0; (PIECE_BYTES / size).max(1) * size];
        let mut sums = Vec::new();
        let mut next = first;
        while next < end {
            let pages = index(end - next).min(buffer.len() / size);
            let piece = &mut buffer[..pages * size];
            read_exact(&*self.pages, piece, self.offset(next))?;
            for page in piece.chunks_exact(size) {
                sums.push(checksum_of_page(next, page));
                next += 1;
            }
        }
        Ok(sums)
    }

    /// Writes pages, whose numbers ascend, with as few writes as possible.
    pub(super) fn write(&self, numbers: &[u32], data: &[u8]) -> io::Result<()> {
        let size = index(self.page_size);
        let mut at = 0;
        for run in runs(numbers) {
            let bytes = &data[at * size..(at + run.len()) * size];
            self.pages.write_at(bytes, self.offset(run[0]))?;
            at += run.len();
        }
        let written = self.unsynced.fetch_add(data.len() as u64, Ordering::Relaxed);
        if written + data.len() as u64 >= UNSYNCED_BYTES_MAX {
            self.unsynced.store(0, Ordering::Relaxed);
            self.pages.sync_data()?;
        }
        Ok(())
    }

    /// Begins a held round: the file has no more than these pages, and none is seen. It is not made longer, because what
    /// was never written would count as there for a transfer that goes on from here.
    pub(super) fn hold(&self, page_count: u32) -> io::Result<()> {
        let kept = page_count.min(self.page_count()?);
        self.pages.set_length(u64::from(kept) * u64::from(self.page_size))?;
        self.checksums.set_length(0)?;
        self.checksums.set_length(u64::from(page_count) * CHECKSUM_BYTES)
    }

    /// Notes the checksums of pages, whose numbers ascend, in a held round.
    pub(super) fn note(&self, numbers: &[u32], checksums: &[u128]) -> io::Result<()> {
        let mut at = 0;
        for run in runs(numbers) {
            let sums = &checksums[at..at + run.len()];
            let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            self.checksums.write_at(&bytes, u64::from(run[0] - 1) * CHECKSUM_BYTES)?;
            at += run.len();
        }
        Ok(())
    }

    /// The sum of all checksums of the held round; `None` if a page was not seen in it.
    pub(super) fn sum(&self) -> io::Result<Option<u128>> {
        let length = self.checksums.length()?;
        if length != u64::from(self.page_count()?) * CHECKSUM_BYTES {
            return Ok(None);
        }
        let mut buffer = vec![0; PIECE_BYTES];
        let (mut offset, mut sum) = (0, 0_u128);
        while offset < length {
            let left = usize::try_from(length - offset).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let piece = &mut buffer[..left];
            read_exact(&*self.checksums, piece, offset)?;
            offset += left as u64;
            for word in piece.as_chunks::<16>().0 {
                match u128::from_le_bytes(*word) {
                    0 => return Ok(None),
                    checksum => sum = sum.wrapping_add(checksum),
                }
            }
        }
        Ok(Some(sum))
    }

    /// Makes the file and its name durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.pages.sync_data()?;
        self.files.sync_directory(&self.scratch)
    }

    fn offset(&self, number: u32) -> u64 {
        u64::from(number - 1) * u64::from(self.page_size)
    }
}

/// Removes what is there.
pub(super) fn remove(files: &dyn Files, scratch: &Path) -> io::Result<()> {
    for name in [NAME, CHECKSUMS_NAME] {
        let path = scratch.join(name);
        if files.exists(&path)? {
            files.remove(&path)?;
        }
    }
    Ok(())
}

/// Parts of ascending numbers that follow on each other.
fn runs(numbers: &[u32]) -> impl Iterator<Item = &[u32]> {
    numbers.chunk_by(|before, after| before + 1 == *after)
}

fn read_exact(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("32 bits fit")
}
