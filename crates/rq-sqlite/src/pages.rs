//! The image of a database: its pages, file and WAL together, as of one transaction.
//!
//! Two nodes that applied the same entries hold equal images. *Equal* leaves out what says nothing
//! about the data: the change counter and the version numbers in the header (bytes 24–27 and 92–99
//! of page 1), and the content of free pages, which counts as zeros, because a page that was spilled
//! and rolled back keeps what was spilled.
//!
//! The checksum of an image is the sum of the checksums of its pages, each mixed with its page
//! number; so it can later be kept up to date by subtracting and adding what changed. It is made
//! against accidents, not against an adversary, and is equal on every CPU (XXH3, of which the page number is the seed).

use std::collections::HashSet;

use rusqlite::Connection;
use twox_hash::XxHash3_128;

use crate::{
    checkpoint::Checkpointer,
    entry::EntryId,
    error::{LocalError, SqliteError},
    state,
};

/// Bytes of page 1 that do not count: the change counter; "version valid for" and SQLite's version.
const MASKED: [std::ops::Range<usize>; 2] = [24..28, 92..100];

/// Where page 1 names the first trunk page of the list of free pages.
const FIRST_TRUNK: usize = 32;

/// The image of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The entry up to which it holds the effects.
    pub applied: Option<EntryId>,
    /// The checksum of each page, the first one's first.
    pub pages: Vec<u128>,
}

impl Image {
    /// The checksum of the whole.
    pub fn checksum(&self) -> u128 {
        self.pages.iter().fold(0, |sum, page| sum.wrapping_add(*page))
    }

    /// The numbers (from 1) of the pages that differ, or that only one of the images has.
    pub fn differing_pages(&self, other: &Self) -> Vec<usize> {
        let longest = self.pages.len().max(other.pages.len());
        (1..=longest).filter(|page| self.pages.get(page - 1) != other.pages.get(page - 1)).collect()
    }
}

impl Checkpointer {
    /// Reads all pages, in one read transaction, beside the writer. Memory: 16 bytes a page and one
    /// hash entry a free page.
    ///
    /// # Errors
    /// A failure of this node.
    pub fn image(&mut self) -> Result<Image, LocalError> {
        let image = read_image(&self.connection);
        image.map_err(|error| error.into_local("reading the pages of the database"))
    }
}

fn read_image(connection: &Connection) -> Result<Image, SqliteError> {
    let transaction = connection.unchecked_transaction()?;
    let applied = state::read_applied(&transaction)?;
    let free = free_pages(&transaction)?;
    let mut pages = Vec::new();
    {
        let mut statement = transaction.prepare("SELECT pgno, data FROM sqlite_dbpage")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let number: u32 = row.get(0)?;
            let data = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            pages.push(if free.contains(&number) {
                page_checksum(number, &vec![0; data.len()])
            } else {
                checksum_of_page(number, data)
            });
        }
    }
    transaction.finish()?;
    Ok(Image { applied, pages })
}

/// The checksum of a page as it stands, used or free, without what does not count in page 1. Sums of
/// them are checksums of many pages. Never 0 but by a chance of 1 in 2¹²⁸.
pub fn checksum_of_page(number: u32, data: &[u8]) -> u128 {
    if number != 1 {
        return page_checksum(number, data);
    }
    let mut masked = data.to_vec();
    for range in MASKED {
        if let Some(bytes) = masked.get_mut(range) {
            bytes.fill(0);
        }
    }
    page_checksum(number, &masked)
}

/// The numbers of all pages on the free list, trunk pages included.
fn free_pages(connection: &Connection) -> Result<HashSet<u32>, SqliteError> {
    let mut free = HashSet::new();
    let mut statement = connection.prepare("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?;
    let mut page = |number: u32| statement.query_row([number], |row| row.get::<_, Vec<u8>>(0));
    let mut trunk = big_endian(&page(1)?, FIRST_TRUNK);
    // A damaged list that runs in a circle ends where it meets itself.
    while trunk != 0 && free.insert(trunk) {
        let data = page(trunk)?;
        let leaves = usize::try_from(big_endian(&data, 4)).unwrap_or_default();
        let room = data.len() / 4;
        free.extend(
            (2..room.min(leaves.saturating_add(2))).map(|slot| big_endian(&data, slot * 4)),
        );
        trunk = big_endian(&data, 0);
    }
    Ok(free)
}

fn big_endian(data: &[u8], at: usize) -> u32 {
    data.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn page_checksum(number: u32, data: &[u8]) -> u128 {
    XxHash3_128::oneshot_with_seed(u64::from(number), data)
}
