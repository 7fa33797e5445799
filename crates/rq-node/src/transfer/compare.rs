//! Comparing a range of pages with what the receiver has: its staging file, and its own database.

use std::io;

use rq_sqlite::{PageReader, Readers, checksum_of_page};

use super::staging::Staging;

/// What a range was found to be.
pub(super) struct Compared {
    /// One bit for each page: set if it must be sent.
    pub(super) bitmap: Vec<u8>,
    /// Pages that need not be sent.
    pub(super) kept: u64,
}

/// Compares pages from `first` on with the checksums given. What the own database has and the staging file
/// has not is copied. In a held round the pages that are equal are noted as seen.
///
/// # Errors
/// The staging file's.
pub(super) fn compare(
    staging: &Staging,
    own: &Readers,
    first: u32,
    checksums: &[u128],
    held: bool,
) -> io::Result<Compared> {
    let count = u32::try_from(checksums.len()).unwrap_or(u32::MAX);
    let staged = staging.checksums_of(first, count)?;
    let mut equal: Vec<bool> = checksums
        .iter()
        .enumerate()
        .map(|(at, expected)| staged.get(at) == Some(expected))
        .collect();
    if equal.contains(&false)
        && let Some(mut base) = Base::open(own, staging.page_size())
    {
        base.copy(staging, first, checksums, &mut equal)?;
    }
    let mut bitmap = vec![0_u8; checksums.len().div_ceil(8)];
    let (mut numbers, mut sums) = (Vec::new(), Vec::new());
    for ((number, is_equal), checksum) in (first..).zip(&equal).zip(checksums) {
        if *is_equal {
            numbers.push(number);
            sums.push(*checksum);
        } else {
            let at = usize::try_from(number - first).expect("32 bits fit");
            bitmap[at / 8] |= 1 << (at % 8);
        }
    }
    if held {
        staging.note(&numbers, &sums)?;
    }
    Ok(Compared { bitmap, kept: numbers.len() as u64 })
}

/// Pages of the own database that are worth comparing.
pub(super) fn own_pages(own: &Readers, page_size: u32) -> u32 {
    Base::open(own, page_size).map_or(0, |base| base.page_count)
}

/// The own database at one moment. It helps if it can be read, and is no error if not.
struct Base {
    reader: PageReader,
    page_count: u32,
}

impl Base {
    fn open(own: &Readers, page_size: u32) -> Option<Self> {
        let mut reader = own.page_reader().ok()?;
        let snapshot = reader.begin().ok()?;
        let page_count = snapshot.page_count;
        (snapshot.page_size == page_size).then_some(Self { reader, page_count })
    }

    /// Copies what is as expected.
    fn copy(
        &mut self,
        staging: &Staging,
        first: u32,
        checksums: &[u128],
        equal: &mut [bool],
    ) -> io::Result<()> {
        let last = self.page_count;
        let wanted: Vec<u32> = (first..)
            .zip(equal.iter())
            .filter(|(number, is_equal)| !**is_equal && *number <= last)
            .map(|(number, _)| number)
            .collect();
        let mut written = Ok(());
        let read = self.reader.read(wanted, |number, page| {
            let at = usize::try_from(number - first).expect("32 bits fit");
            if written.is_ok() && checksum_of_page(number, page) == checksums[at] {
                written = staging.write(&[number], page);
                equal[at] = written.is_ok();
            }
        });
        // What could not be read is sent.
        drop(read);
        written
    }
}
