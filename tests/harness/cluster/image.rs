//! The image of a database: the pages of its file and its write-ahead log together.
//!
//! Read as bytes, without SQLite, so that nothing can be repaired on the way. Masked as images are
//! compared everywhere: the change counter and the version fields of the first page, which differ by
//! when a checkpoint ran, and what is left on free pages.

use std::{collections::HashSet, fs, io, path::Path};

/// The bytes of the first page that say when it was last folded back and by what.
const MASKED: [std::ops::Range<usize>; 2] = [24..28, 92..100];

/// The bytes before the first frame of a write-ahead log, and before the page in each frame.
const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// The pages of a database, masked.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    pages: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Image").field("pages", &self.pages.len()).finish()
    }
}

impl Image {
    /// Reads the image of a database that nobody has open.
    ///
    /// # Errors
    /// A file cannot be read, or is no database.
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = fs::read(path)?;
        let mut wal_path = path.as_os_str().to_owned();
        wal_path.push("-wal");
        let wal = match fs::read(&wal_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        Self::decode(&file, &wal).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} is no database", path.display()))
        })
    }

    fn decode(file: &[u8], wal: &[u8]) -> Option<Self> {
        let wal = committed_frames(wal);
        // A database that was never folded back has its first page in the log alone.
        let size = match (&wal, file.get(16..18)) {
            (Some(wal), _) => wal.page_size,
            (None, Some(&[high, low])) => match u16::from_be_bytes([high, low]) {
                1 => 65536,
                size => usize::from(size),
            },
            (None, _) => return None,
        };
        if !size.is_power_of_two() || !(512..=65536).contains(&size) {
            return None;
        }
        let mut pages: Vec<Vec<u8>> = file.chunks_exact(size).map(<[u8]>::to_vec).collect();
        if let Some(wal) = wal {
            pages.resize(pages.len().max(wal.pages), vec![0; size]);
            for (page, bytes) in wal.frames {
                *pages.get_mut(page.checked_sub(1)?)? = bytes.to_vec();
            }
            pages.truncate(wal.pages);
        } else {
            pages.truncate(number(pages.first()?, 28)?);
        }
        let mut image = Self { pages };
        image.mask()?;
        Some(image)
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// The numbers, from 1, of the pages that two images do not have in common; at most 20 of them.
    pub fn differing_pages(&self, other: &Self) -> Vec<usize> {
        let count = self.pages.len().max(other.pages.len());
        (0..count)
            .filter(|page| self.pages.get(*page) != other.pages.get(*page))
            .map(|page| page + 1)
            .take(20)
            .collect()
    }

    fn mask(&mut self) -> Option<()> {
        for range in MASKED {
            self.pages.first_mut()?[range].fill(0);
        }
        let mut seen = HashSet::new();
        let mut trunk = number(self.pages.first()?, 32)?;
        while trunk != 0 && seen.insert(trunk) {
            let page = self.pages.get_mut(trunk - 1)?;
            let count = number(page, 4)?;
            // What a trunk says decides which page is used next, so it counts; its unused rest does not.
            page.get_mut(8 + 4 * count..)?.fill(0);
            let page = self.pages.get(trunk - 1)?;
            let leaves: Option<Vec<_>> =
                (0..count).map(|leaf| number(page, 8 + 4 * leaf)).collect();
            trunk = number(page, 0)?;
            for leaf in leaves? {
                self.pages.get_mut(leaf.checked_sub(1)?)?.fill(0);
            }
        }
        Some(())
    }
}

/// The frames of a write-ahead log up to the last commit.
struct Frames<'a> {
    page_size: usize,
    /// How many pages the database has after the last commit.
    pages: usize,
    frames: Vec<(usize, &'a [u8])>,
}

/// `None` if there is no commit in it.
fn committed_frames(wal: &[u8]) -> Option<Frames<'_>> {
    let page_size = number(wal, 8)?;
    let salts = wal.get(16..24)?;
    let big_endian = match number(wal, 0)? {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => return None,
    };
    let mut sum = checksum((0, 0), wal.get(..24)?, big_endian);
    if !matches_sum(wal.get(24..32)?, sum) {
        return None;
    }
    let mut frames = Vec::new();
    let mut committed = None;
    for frame in wal.get(WAL_HEADER..)?.chunks_exact(FRAME_HEADER + page_size) {
        let (header, page) = frame.split_at(FRAME_HEADER);
        sum = checksum(checksum(sum, &header[..8], big_endian), page, big_endian);
        if header[8..16] != *salts || !matches_sum(&header[16..], sum) {
            break;
        }
        frames.push((number(header, 0)?, page));
        let pages = number(header, 4)?;
        if pages > 0 {
            committed = Some((frames.len(), pages));
        }
    }
    let (count, pages) = committed?;
    frames.truncate(count);
    Some(Frames { page_size, pages, frames })
}

fn checksum(start: (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = bytes.try_into().expect("four of them");
        if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    bytes.chunks_exact(8).fold(start, |(first, second), pair| {
        let first = first.wrapping_add(word(&pair[..4])).wrapping_add(second);
        (first, second.wrapping_add(word(&pair[4..])).wrapping_add(first))
    })
}

fn matches_sum(bytes: &[u8], (first, second): (u32, u32)) -> bool {
    bytes == [first.to_be_bytes(), second.to_be_bytes()].concat()
}

/// A number of four bytes, big end first.
fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(bytes)).ok()
}
