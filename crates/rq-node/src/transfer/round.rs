//! One round: all pages compared, or sent without, and those sent that differ.
//!
//! Several calls are in flight at once, so that reading, sending and storing overlap. Pages that are known
//! to differ go before further ranges are compared, so that what is known never piles up.

use std::{collections::VecDeque, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use rq_sqlite::{EntryId, PageReadError, PageReader, checksum_of_page};
use tokio::{task::JoinSet, time::Instant};

use super::{
    TransferError,
    message::{Answer, Body, PagesDraft},
    send::{Sending, index, nonsense},
};
use crate::progress::lock;

/// Calls in flight at once.
const CALLS_MAX: usize = 4;
/// Calls in flight at once that compare; the others send.
const COMPARES_MAX: usize = 2;
/// Bytes the WAL may grow by while the first round is held: few times what it grows by between two checkpoints. All of
/// a large database is sent in that round, and it is not worth more to spare a second.
const FIRST_WAL_GROWTH_MAX: u64 = 64 * 1024 * 1024;
/// From then on a first round takes long, and a second one beside it little: it is held only if hardly anything is
/// written.
const FIRST_HOLD_TIME: Duration = Duration::from_secs(10);
/// Bytes the WAL may grow by in such a round. Much more, and checkpoints would be tried in vain until it ends.
const LONG_WAL_GROWTH_MAX: u64 = 4 * 1024 * 1024;

/// A round and what it found.
pub(super) struct Round {
    pub(super) number: u64,
    /// Whether it runs under one read transaction. May end before the round does.
    pub(super) held: bool,
    pub(super) page_count: u32,
    /// The last entry in the database, as of the beginning.
    pub(super) applied: EntryId,
    /// Pages that were sent.
    pub(super) differing: u64,
    /// The sum of the checksums of all pages.
    pub(super) checksum: u128,
    /// Whether much less differed than in the round before.
    pub(super) shrinks: bool,
    pub(super) took: Duration,
    /// From here on pages are sent without comparing: the receiver has none.
    comparable: u32,
    /// The next page to be compared, or sent without.
    next: u64,
    wal_bytes_at_begin: u64,
    began: Instant,
    page_size: usize,
    pending: VecDeque<Differing>,
    calls: JoinSet<Result<Called, TransferError>>,
    comparing: usize,
}

/// A range with pages that are to be sent.
struct Differing {
    first: u32,
    bitmap: Bytes,
    /// Bits looked at.
    seen: u32,
    /// Whether their checksums are part of the sum already.
    summed: bool,
}

/// A call that came back.
enum Called {
    Compared { first: u32, bitmap: Bytes },
    Stored,
}

impl Round {
    /// Begins a round; with a transaction for all of it, if it is held.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub(super) async fn begin(
        sending: &mut Sending<'_>,
        number: u64,
        held: bool,
        comparable: u32,
    ) -> Result<Self, TransferError> {
        sending.source.held = true;
        let snapshot = sending.read(PageReader::begin).await?;
        if !held {
            sending.source.release();
        }
        let applied = snapshot.state.applied.unwrap_or_default();
        if applied.term > sending.term {
            return Err(TransferError::Deposed { reached: applied.term, sent: sending.term });
        }
        let running = &sending.running;
        running.index.store(index(&snapshot), Ordering::Relaxed);
        running.round.store(number, Ordering::Relaxed);
        running.page_count.store(snapshot.page_count.into(), Ordering::Relaxed);
        running.pages_seen.store(0, Ordering::Relaxed);
        let page_count = snapshot.page_count;
        let round = Self {
            number,
            held,
            page_count,
            applied,
            differing: 0,
            checksum: 0,
            shrinks: true,
            took: Duration::ZERO,
            // After the first round the receiver has all that is worth comparing.
            comparable: if number == 1 { comparable } else { u32::MAX },
            next: 1,
            wal_bytes_at_begin: sending.wal.bytes(),
            began: Instant::now(),
            page_size: usize::try_from(snapshot.page_size).expect("32 bits fit"),
            pending: VecDeque::new(),
            calls: JoinSet::new(),
            comparing: 0,
        };
        if held {
            match sending.wire.call(round.wire_number(), Body::Hold { page_count }).await? {
                Answer::Done => {}
                other => return Err(nonsense(&other)),
            }
        }
        Ok(round)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub(super) async fn run(&mut self, sending: &mut Sending<'_>) -> Result<(), TransferError> {
        loop {
            if self.calls.len() < CALLS_MAX {
                if !self.pending.is_empty() {
                    self.send_chunk(sending).await?;
                    continue;
                }
                if self.next <= u64::from(self.page_count) && self.comparing < COMPARES_MAX {
                    self.begin_range(sending).await?;
                    continue;
                }
            }
            let Some(called) = self.calls.join_next().await else { return Ok(()) };
            let called = match called {
                Ok(called) => called?,
                Err(error) => return Err(TransferError::Network(error.to_string())),
            };
            if let Called::Compared { first, bitmap } = called {
                self.comparing -= 1;
                let seen = 0;
                self.pending.push_back(Differing { first, bitmap, seen, summed: true });
            }
            self.release_if_costly(sending);
        }
    }

    /// A held round lets go if the WAL grows too much, and goes on as an ordinary one.
    fn release_if_costly(&mut self, sending: &mut Sending<'_>) {
        let grown = sending.wal.bytes().saturating_sub(self.wal_bytes_at_begin);
        let most = match self.number {
            1 if self.began.elapsed() > FIRST_HOLD_TIME => LONG_WAL_GROWTH_MAX,
            1 => FIRST_WAL_GROWTH_MAX,
            _ => u64::MAX,
        };
        if self.held && grown > most.min(sending.transfers.options.wal_growth_max) {
            self.held = false;
            sending.source.release();
        }
    }

    /// Begins the next range: has it compared, or sends all of it.
    async fn begin_range(&mut self, sending: &mut Sending<'_>) -> Result<(), TransferError> {
        let first = u32::try_from(self.next).expect("not beyond the last page");
        let left = self.page_count - first + 1;
        let known = self.comparable.saturating_sub(first - 1);
        let most = sending.transfers.range_pages_max();
        let count = left.min(most).min(if known == 0 { u32::MAX } else { known });
        self.next += u64::from(count);
        sending.running.pages_seen.fetch_add(count.into(), Ordering::Relaxed);
        if known == 0 {
            self.pending.push_back(Differing::all(first, count));
            return Ok(());
        }
        let checksums = sending.read(move |reader| reader.checksums(first, count)).await?;
        if checksums.is_empty() {
            // The database has become smaller meanwhile.
            return Ok(());
        }
        self.checksum = checksums.iter().fold(self.checksum, |sum, one| sum.wrapping_add(*one));
        let compared = checksums.len();
        let request = sending.wire.encode(self.wire_number(), Body::Compare { first, checksums });
        sending.transfers.throttle.admit(request.len()).await;
        self.comparing += 1;
        let wire = sending.wire.clone();
        self.calls.spawn(async move {
            match wire.call_encoded(request).await? {
                Answer::Differ { bitmap } if bitmap.len() == compared.div_ceil(8) => {
                    Ok(Called::Compared { first, bitmap })
                }
                other => Err(nonsense(&other)),
            }
        });
        Ok(())
    }

    /// Sends the next pages that differ.
    async fn send_chunk(&mut self, sending: &mut Sending<'_>) -> Result<(), TransferError> {
        let options = sending.transfers.options;
        let most = (sending.transfers.message_bytes_max() / self.page_size).max(1);
        let Some((numbers, summed)) = self.next_numbers(most) else { return Ok(()) };
        let (page_size, level) = (self.page_size, options.compression);
        let (transfer, round) = (sending.wire.transfer, self.wire_number());
        let chunk =
            sending.read(move |reader| read_chunk(reader, &numbers, page_size, level)).await?;
        let Some(Chunk { numbers, draft, compressed, checksum }) = chunk else { return Ok(()) };
        if !summed {
            self.checksum = self.checksum.wrapping_add(checksum);
        }
        let count = numbers.len() as u64;
        self.differing += count;
        let request = draft.encode(transfer, round, numbers, compressed, checksum);
        let bytes = request.len() as u64;
        sending.transfers.throttle.admit(request.len()).await;
        sending.running.pages_sent.fetch_add(count, Ordering::Relaxed);
        sending.running.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
        let mut counters = lock(&sending.transfers.counters);
        counters.pages += count;
        counters.bytes += bytes;
        drop(counters);
        let wire = sending.wire.clone();
        self.calls.spawn(async move {
            match wire.call_encoded(request).await? {
                Answer::Done => Ok(Called::Stored),
                other => Err(nonsense(&other)),
            }
        });
        Ok(())
    }

    /// The next numbers to be sent, from one range, and whether their checksums are part of the sum.
    fn next_numbers(&mut self, most: usize) -> Option<(Vec<u32>, bool)> {
        while let Some(differing) = self.pending.front_mut() {
            let numbers = differing.take(most);
            let summed = differing.summed;
            if differing.is_over() {
                self.pending.pop_front();
            }
            if !numbers.is_empty() {
                return Some((numbers, summed));
            }
        }
        None
    }

    fn wire_number(&self) -> u32 {
        u32::try_from(self.number).unwrap_or(u32::MAX)
    }
}

impl Differing {
    /// All pages of a range.
    fn all(first: u32, count: u32) -> Self {
        let bits = usize::try_from(count).expect("32 bits fit");
        let mut bitmap = vec![0xff; bits.div_ceil(8)];
        if let Some(last) = bitmap.last_mut() {
            *last >>= bits.next_multiple_of(8) - bits;
        }
        Self { first, bitmap: bitmap.into(), seen: 0, summed: false }
    }

    /// The next pages, at most so many.
    fn take(&mut self, most: usize) -> Vec<u32> {
        let mut numbers = Vec::new();
        while numbers.len() < most && !self.is_over() {
            let byte = self.bitmap[usize::try_from(self.seen / 8).expect("32 bits fit")];
            if byte & (1 << (self.seen % 8)) != 0 {
                numbers.push(self.first.saturating_add(self.seen));
            }
            self.seen += 1;
        }
        numbers
    }

    fn is_over(&self) -> bool {
        usize::try_from(self.seen / 8).expect("32 bits fit") >= self.bitmap.len()
    }
}

/// Pages to be sent.
struct Chunk {
    numbers: Vec<u32>,
    draft: PagesDraft,
    compressed: bool,
    /// The sum of their checksums.
    checksum: u128,
}

/// Reads pages to be sent, as far as they are there.
fn read_chunk(
    reader: &mut PageReader,
    numbers: &[u32],
    page_size: usize,
    level: Option<i32>,
) -> Result<Option<Chunk>, PageReadError> {
    let mut draft = PagesDraft::new(numbers.len(), page_size);
    let (mut found, mut checksum) = (Vec::with_capacity(numbers.len()), 0_u128);
    reader.read(numbers.iter().copied(), |number, page| {
        found.push(number);
        checksum = checksum.wrapping_add(checksum_of_page(number, page));
        draft.push(page);
    })?;
    if found.is_empty() {
        return Ok(None);
    }
    let smaller = level
        .and_then(|level| zstd::bulk::compress(draft.data(), level).ok())
        .filter(|packed| packed.len() < draft.data().len());
    if let Some(packed) = &smaller {
        draft.replace(packed);
    }
    let compressed = smaller.is_some();
    Ok(Some(Chunk { numbers: found, draft, compressed, checksum }))
}
