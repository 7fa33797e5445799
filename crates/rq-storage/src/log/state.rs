//! The small facts beside the records: vote, purge marker, running truncation, committed position.
//!
//! They stand in one file, `state`, in cells. A cell is two copies on pages of their own, each
//! with a sequence number and a checksum. A durable cell is written copy by copy, each synced
//! before the next step, so that
//!
//! - a power cut leaves at least one copy whole, the old or the new value;
//! - once [`StateFile::save`] returns, both copies hold the new value, and damage to either cannot
//!   bring the old one back. (A vote that goes back would be a second vote in one term.)
//!
//! Opening makes both copies equal and durable again before anybody may act on a value.
//!
//! ```text
//! page 0          "rqdstate", format (4 bytes), CRC-32C of these 12 bytes
//! page 1+2c+k     copy k of cell c: CRC-32C of the rest, cell number (4), sequence (8), 5 × 8 bytes
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::record::{Position, read_u32, read_u64};
use crate::{
    Error,
    files::{File, Files, read_small, replace_small},
};

/// The newest format of the file.
const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"rqdstate";
const PAGE_BYTES: usize = 4096;
const COPY_BYTES: usize = 16 + 8 * WORDS;
const WORDS: usize = 5;
const CELLS: usize = 4;
/// The sequence number of a cell that holds nothing yet.
const NEVER: u64 = 0;
const FILE_BYTES: usize = PAGE_BYTES * (1 + 2 * CELLS);

/// The file's name.
pub(super) const NAME: &str = "state";

/// Whom this node votes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The Raft id of the candidate or leader.
    pub node_id: u64,
    /// Whether a quorum has granted it, which makes the candidate the leader.
    pub committed: bool,
}

/// How far the log is gone from the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Purged {
    pub(super) position: Position,
    /// Every segment with a smaller number is to be removed.
    pub(super) first_segment: u64,
}

/// A truncation that has begun and must be carried through: all records behind `after` go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Truncation {
    /// The last record that stays; `None`: no record stays.
    pub(super) after: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Cell {
    Vote,
    Purged,
    Truncation,
    Committed,
}

type Words = [u64; WORDS];

/// One cell's value and the sequence number of its newest write.
#[derive(Clone, Copy, Debug, Default)]
struct Current {
    sequence: u64,
    words: Option<Words>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    file: Arc<dyn File>,
    cells: [Current; CELLS],
}

impl StateFile {
    /// Creates the file with empty cells, durably.
    pub(super) fn create(files: &dyn Files, directory: &Path) -> Result<Self, Error> {
        let path = directory.join(NAME);
        let mut bytes = vec![0; FILE_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[0..12]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        for cell in [Cell::Vote, Cell::Purged, Cell::Truncation, Cell::Committed] {
            for copy in 0..2 {
                let at = usize::try_from(offset(cell, copy)).expect("a small file");
                bytes[at..at + COPY_BYTES].copy_from_slice(&encode(cell, NEVER, &[0; WORDS]));
            }
        }
        replace_small(files, &path, &bytes)?;
        let file = files.open(&path).map_err(|error| Error::io("open", &path, error))?;
        Ok(Self { path, file, cells: Default::default() })
    }

    /// Opens the file and makes what it says durable; `None` if there is none.
    pub(super) fn open(files: &dyn Files, directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(NAME);
        let Some(bytes) = read_small(files, &path, FILE_BYTES + 1)? else { return Ok(None) };
        check_header(&path, &bytes)?;
        let file = files.open(&path).map_err(|error| Error::io("open", &path, error))?;
        let mut state = Self { path, file, cells: Default::default() };
        let mut unequal = Vec::new();
        for cell in [Cell::Vote, Cell::Purged, Cell::Truncation] {
            let (current, equal) = read_durable(&state.path, &bytes, cell)?;
            state.cells[cell as usize] = current;
            if !equal {
                unequal.push((cell, current));
            }
        }
        // Only now: a file with a cell that is lost stays as it was found.
        for (cell, current) in unequal {
            state.write_both(cell, current.sequence, &current.words.unwrap_or_default())?;
        }
        let copies = [0, 1].map(|copy| read_copy(&bytes, Cell::Committed, copy).value());
        if let Some((sequence, words)) = copies.into_iter().flatten().max() {
            state.cells[Cell::Committed as usize] = Current { sequence, words: Some(words) };
        }
        // What was read may so far only stand in the page cache of a process that was killed.
        state.sync()?;
        Ok(Some(state))
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        let [term, node_id, committed, ..] = self.words(Cell::Vote)?;
        Some(Vote { term, node_id, committed: committed != 0 })
    }

    pub(super) fn purged(&self) -> Option<Purged> {
        let [term, index, first_segment, ..] = self.words(Cell::Purged)?;
        Some(Purged { position: Position { term, index }, first_segment })
    }

    pub(super) fn truncation(&self) -> Option<Truncation> {
        let [running, some, after, ..] = self.words(Cell::Truncation)?;
        (running != 0).then(|| Truncation { after: (some != 0).then_some(after) })
    }

    pub(super) fn committed(&self) -> Option<Position> {
        let [term, index, ..] = self.words(Cell::Committed)?;
        Some(Position { term, index })
    }

    /// Stores a vote; durable when this returns.
    pub(super) fn save_vote(&mut self, vote: Vote) -> Result<(), Error> {
        self.save(Cell::Vote, [vote.term, vote.node_id, u64::from(vote.committed), 0, 0])
    }

    /// Stores the purge marker; durable when this returns.
    pub(super) fn save_purged(&mut self, purged: Purged) -> Result<(), Error> {
        let Position { term, index } = purged.position;
        self.save(Cell::Purged, [term, index, purged.first_segment, 0, 0])
    }

    /// Stores that a truncation runs, or that none does; durable when this returns.
    pub(super) fn save_truncation(&mut self, truncation: Option<Truncation>) -> Result<(), Error> {
        let after = truncation.and_then(|truncation| truncation.after);
        self.save(
            Cell::Truncation,
            [
                u64::from(truncation.is_some()),
                u64::from(after.is_some()),
                after.unwrap_or_default(),
                0,
                0,
            ],
        )
    }

    /// Stores the committed position without waiting for the disk. The copies alternate, so that
    /// one of them survives a torn write; losing both loses only a hint.
    pub(super) fn save_committed(&mut self, committed: Position) -> Result<(), Error> {
        let sequence = self.cells[Cell::Committed as usize].sequence + 1;
        let words = [committed.term, committed.index, 0, 0, 0];
        self.write(Cell::Committed, sequence % 2, sequence, &words)?;
        self.cells[Cell::Committed as usize] = Current { sequence, words: Some(words) };
        Ok(())
    }

    fn words(&self, cell: Cell) -> Option<Words> {
        self.cells[cell as usize].words
    }

    fn save(&mut self, cell: Cell, words: Words) -> Result<(), Error> {
        let sequence = self.cells[cell as usize].sequence + 1;
        self.write_both(cell, sequence, &words)?;
        self.cells[cell as usize] = Current { sequence, words: Some(words) };
        Ok(())
    }

    fn write_both(&self, cell: Cell, sequence: u64, words: &Words) -> Result<(), Error> {
        for copy in 0..2 {
            self.write(cell, copy, sequence, words)?;
            self.sync()?;
        }
        Ok(())
    }

    fn write(&self, cell: Cell, copy: u64, sequence: u64, words: &Words) -> Result<(), Error> {
        self.file
            .write_at(&encode(cell, sequence, words), offset(cell, copy))
            .map_err(|error| Error::io("write", &self.path, error))
    }

    fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error))
    }
}

fn encode(cell: Cell, sequence: u64, words: &Words) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&number(cell).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    for word in words {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes[4..]);
    bytes[0..4].copy_from_slice(&checksum.to_le_bytes());
    debug_assert_eq!(bytes.len(), COPY_BYTES, "a copy has a fixed size");
    bytes
}

/// What one copy of a cell holds.
enum Copy {
    /// Not what was written. Even a cell that holds nothing yet was written as such, so zeros are damage.
    Bad,
    /// Sequence and value.
    Good(u64, Words),
}

impl Copy {
    fn value(self) -> Option<(u64, Words)> {
        match self {
            Self::Bad | Self::Good(NEVER, _) => None,
            Self::Good(sequence, words) => Some((sequence, words)),
        }
    }
}

fn check_header(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() < 16 || &bytes[0..8] != MAGIC {
        return Err(Error::corrupt(path, 0, "it does not begin like a state file"));
    }
    let found = read_u32(bytes, 8);
    if read_u32(bytes, 12) != crc32c::crc32c(&bytes[0..12]) {
        return Err(Error::corrupt(path, 8, "its header has a wrong checksum"));
    }
    if found > FORMAT {
        return Err(Error::NewerFormat { path: path.to_owned(), found, supported: FORMAT });
    }
    if bytes.len() < FILE_BYTES {
        return Err(Error::corrupt(path, bytes.len() as u64, "it ends too early"));
    }
    if bytes.len() > FILE_BYTES {
        return Err(Error::corrupt(path, FILE_BYTES as u64, "it goes on behind its end"));
    }
    Ok(())
}

/// Reads a durable cell, and tells whether both copies are equal.
///
/// Copy 0 is always written first. So a bad copy beside a good one is either the torn write of a
/// value nobody was promised, or damage to a copy whose twin holds the same value.
fn read_durable(path: &Path, bytes: &[u8], cell: Cell) -> Result<(Current, bool), Error> {
    let current =
        |sequence, words| Current { sequence, words: (sequence != NEVER).then_some(words) };
    match (read_copy(bytes, cell, 0), read_copy(bytes, cell, 1)) {
        (Copy::Good(first, words), Copy::Good(second, _)) if first >= second => {
            Ok((current(first, words), first == second))
        }
        (_, Copy::Good(sequence, words)) | (Copy::Good(sequence, words), _) => {
            Ok((current(sequence, words), false))
        }
        (Copy::Bad, Copy::Bad) => {
            let problem = format!("both copies of its {cell:?} cell are bad");
            Err(Error::corrupt(path, offset(cell, 0), problem))
        }
    }
}

fn read_copy(bytes: &[u8], cell: Cell, copy: u64) -> Copy {
    let at = usize::try_from(offset(cell, copy)).expect("a small file");
    let bytes = &bytes[at..at + COPY_BYTES];
    if read_u32(bytes, 0) != crc32c::crc32c(&bytes[4..]) || read_u32(bytes, 4) != number(cell) {
        return Copy::Bad;
    }
    let mut words = [0; WORDS];
    for (at, word) in words.iter_mut().enumerate() {
        *word = read_u64(bytes, 16 + 8 * at);
    }
    Copy::Good(read_u64(bytes, 8), words)
}

fn number(cell: Cell) -> u32 {
    match cell {
        Cell::Vote => 0,
        Cell::Purged => 1,
        Cell::Truncation => 2,
        Cell::Committed => 3,
    }
}

fn offset(cell: Cell, copy: u64) -> u64 {
    (PAGE_BYTES as u64) * (1 + 2 * u64::from(number(cell)) + copy)
}
