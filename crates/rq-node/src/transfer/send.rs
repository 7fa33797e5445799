//! The sending side: one transfer from offer to install.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rq_sqlite::{EntryId, PageReadError, PageReader, PageSnapshot, Readers, WalSize};
use tokio::sync::SemaphorePermit;

use super::{
    Refusal, Running, TransferError, Transfers, blocking,
    message::{Announcement, Answer, Body, Finish, Offer, Request, TransferId},
    round::Round,
};
use crate::{
    internode::{Call, Lane, Network},
    progress::lock,
};

/// How long one message may take to arrive and be answered.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the receiver may take to sync, verify and install.
const FINISH_TIMEOUT: Duration = Duration::from_secs(600);
/// How often a message is repeated that was not answered, or arrived damaged.
const REPEATS: u32 = 5;
/// How long the first repetition waits; each further one twice as long.
const REPEAT_DELAY: Duration = Duration::from_millis(100);
/// Rounds after which a transfer gives up: its database changes faster than it can be sent.
const ROUNDS_MAX: u64 = 32;
/// Pages that a held round may find at once: at such a number it is begun.
const FEW_PAGES: u64 = 8_192;
/// A round that took no longer leaves little for a held one.
const SHORT_ROUND: Duration = Duration::from_secs(10);

/// What is sent, and what the receiver's node is told with it.
pub(crate) struct Cargo {
    /// The database.
    pub(crate) readers: Readers,
    /// Its WAL, which a held round keeps from starting over.
    pub(crate) wal: WalSize,
    /// Who sends to whom, for the receiver's [`admit`](super::Landing::admit). Transfers with the same
    /// header take each other's place.
    pub(crate) header: Bytes,
    /// The sender's term: a transfer with a higher one takes the place of one with a lower. A database
    /// with entries of a later term is not sent.
    pub(crate) term: u64,
    /// For the receiver's [`install`](super::Landing::install).
    pub(crate) closing: Bytes,
}

/// A transfer that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The last entry the receiver holds now.
    pub(crate) applied: EntryId,
    /// What the receiver's [`install`](super::Landing::install) said.
    pub(crate) response: Bytes,
    /// Rounds it took.
    pub(crate) rounds: u64,
    /// Pages sent, of this many.
    pub(crate) pages_sent: u64,
    /// Pages of the database.
    pub(crate) page_count: u64,
    /// Bytes of messages with pages.
    pub(crate) bytes_sent: u64,
}

impl Transfers {
    /// Sends a database to the node at `to` and has it installed there. Waits for its turn if enough
    /// others are under way. Ends early when `cancel` does.
    ///
    /// # Errors
    /// See [`TransferError`]; what arrived is not sent again.
    pub(crate) async fn send(
        &self,
        network: &Arc<dyn Network>,
        to: &str,
        cargo: Cargo,
        cancel: impl Future,
    ) -> Result<Sent, TransferError> {
        tokio::select! {
            biased;
            _ = cancel => Err(TransferError::Cancelled),
            sent = self.send_in_turn(network, to, cargo) => sent,
        }
    }

    async fn send_in_turn(
        &self,
        network: &Arc<dyn Network>,
        to: &str,
        cargo: Cargo,
    ) -> Result<Sent, TransferError> {
        let mut transfer = [0; 16];
        self.entropy.fill(&mut transfer);
        let wire = Wire { network: Arc::clone(network), to: to.to_owned(), transfer };
        let _turn = match self.slots.try_acquire() {
            Ok(turn) => turn,
            Err(_) => self.wait_for_turn(&wire, &cargo).await?,
        };
        let (reader, snapshot) = self.open(&cargo).await?;
        let running = self.register(to, &snapshot);
        let source = Source { reader: Some(reader), held: false };
        let (term, wal) = (cargo.term, cargo.wal.clone());
        let sending = Sending { transfers: self, wire, running, source, term, wal };
        lock(&self.counters).begun += 1;
        let sent = sending.run(&cargo, &snapshot).await?;
        lock(&self.counters).done += 1;
        Ok(sent)
    }

    /// Waits, and tells the receiver meanwhile what it lacks, so that it does not take itself for complete.
    async fn wait_for_turn(
        &self,
        wire: &Wire,
        cargo: &Cargo,
    ) -> Result<SemaphorePermit<'_>, TransferError> {
        let (_reader, snapshot) = self.open(cargo).await?;
        let announcement = Announcement { header: cargo.header.clone(), index: index(&snapshot) };
        let turn = self.slots.acquire();
        tokio::pin!(turn);
        let turn = tokio::select! {
            biased;
            turn = &mut turn => turn,
            // One that cannot be told will hear it with the offer.
            _told = wire.call(0, Body::Announce(announcement)) => turn.await,
        };
        Ok(turn.expect("the semaphore is never closed"))
    }

    /// A connection that reads the database's pages, and what the database is at this moment.
    async fn open(&self, cargo: &Cargo) -> Result<(PageReader, PageSnapshot), TransferError> {
        let readers = cargo.readers.clone();
        let opened = blocking(self.execution, move || -> Result<_, PageReadError> {
            let mut reader = readers.page_reader()?;
            let snapshot = reader.begin()?;
            reader.end();
            Ok((reader, snapshot))
        });
        Ok(opened.await?)
    }

    fn register(&self, to: &str, snapshot: &PageSnapshot) -> Arc<Running> {
        let running = Running { to: to.to_owned(), ..Running::default() };
        running.index.store(index(snapshot), Ordering::Relaxed);
        let running = Arc::new(running);
        lock(&self.running).push(Arc::downgrade(&running));
        running
    }
}

/// A transfer under way.
pub(super) struct Sending<'a> {
    pub(super) transfers: &'a Transfers,
    pub(super) wire: Wire,
    pub(super) running: Arc<Running>,
    pub(super) source: Source,
    pub(super) term: u64,
    pub(super) wal: WalSize,
}

/// The way to the receiver.
#[derive(Clone)]
pub(super) struct Wire {
    network: Arc<dyn Network>,
    to: String,
    pub(super) transfer: TransferId,
}

/// Where pages come from.
pub(super) struct Source {
    /// Away while it reads.
    pub(super) reader: Option<PageReader>,
    /// Whether it stands in a transaction from call to call.
    pub(super) held: bool,
}

impl Sending<'_> {
    async fn run(mut self, cargo: &Cargo, first: &PageSnapshot) -> Result<Sent, TransferError> {
        let comparable = self.offer(cargo, first).await?;
        let mut last: Option<Round> = None;
        for number in 1..=ROUNDS_MAX {
            let hold = may_hold(last.as_ref());
            let began = Instant::now();
            let mut round = Round::begin(&mut self, number, hold, comparable).await?;
            let before = last.map(|round| round.differing);
            round.run(&mut self).await?;
            tracing::debug!(
                component = "snapshot",
                "round {number} of a snapshot for {}: {} of {} pages differed, in {:?}",
                self.wire.to,
                round.differing,
                round.page_count,
                began.elapsed()
            );
            if round.held {
                return self.finish(cargo, &round).await;
            }
            round.shrinks = before.is_none_or(|before| round.differing < before / 4 * 3);
            round.took = began.elapsed();
            last = Some(round);
        }
        Err(TransferError::Overtaken(ROUNDS_MAX))
    }

    /// Offers the database; the answer is up to which page comparing makes sense.
    async fn offer(&self, cargo: &Cargo, snapshot: &PageSnapshot) -> Result<u32, TransferError> {
        let body = Body::Offer(Offer {
            header: cargo.header.clone(),
            term: cargo.term,
            page_size: snapshot.page_size,
            page_count: snapshot.page_count,
            index: index(snapshot),
        });
        match self.wire.call(0, body).await? {
            Answer::Ready { pages } => Ok(pages),
            other => Err(nonsense(&other)),
        }
    }

    async fn finish(mut self, cargo: &Cargo, round: &Round) -> Result<Sent, TransferError> {
        // The WAL may start over while the receiver syncs and installs.
        self.source.release();
        let checksum = round.checksum;
        let closing = cargo.closing.clone();
        let finish = Finish { checksum, applied: round.applied, closing };
        let number = u32::try_from(round.number).unwrap_or(u32::MAX);
        let response = match self.wire.call_once(number, Body::Finish(finish)).await? {
            Answer::Installed { response } => response,
            other => return Err(nonsense(&other)),
        };
        let shown = self.running.show();
        Ok(Sent {
            applied: round.applied,
            response,
            rounds: round.number,
            pages_sent: shown.pages_sent,
            page_count: round.page_count.into(),
            bytes_sent: shown.bytes_sent,
        })
    }

    /// Reads within a transaction: the one that is held, or one for this alone.
    pub(super) async fn read<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut PageReader) -> Result<T, PageReadError> + Send + 'static,
    ) -> Result<T, TransferError> {
        let mut reader = self.source.reader.take().ok_or(PageReadError::Interrupted)?;
        let held = self.source.held;
        let read = move || {
            let result = if held {
                work(&mut reader)
            } else {
                let result = reader.begin().and_then(|_| work(&mut reader));
                reader.end();
                result
            };
            (reader, result)
        };
        let (reader, result) = blocking(self.transfers.execution, read).await;
        self.source.reader = Some(reader);
        Ok(result?)
    }
}

impl Source {
    /// Ends the transaction that was held.
    pub(super) fn release(&mut self) {
        self.held = false;
        if let Some(reader) = &mut self.reader {
            reader.end();
        }
    }
}

impl Wire {
    /// Makes a call, again if it is not answered.
    pub(super) async fn call(&self, round: u32, body: Body) -> Result<Answer, TransferError> {
        let request = Request { transfer: self.transfer, round, body }.encode();
        self.call_encoded(request).await
    }

    /// Makes a call whose request is encoded already.
    pub(super) async fn call_encoded(&self, request: Bytes) -> Result<Answer, TransferError> {
        let mut delay = REPEAT_DELAY;
        for _ in 0..REPEATS {
            match self.attempt(request.clone(), CALL_TIMEOUT).await {
                Err(
                    TransferError::Network(_)
                    | TransferError::Refused { refusal: Refusal::Damaged, .. },
                ) => {}
                end => return end,
            }
            tokio::time::sleep(delay).await;
            delay *= 2;
        }
        self.attempt(request, CALL_TIMEOUT).await
    }

    /// Makes a call that must not be repeated, and may take long.
    async fn call_once(&self, round: u32, body: Body) -> Result<Answer, TransferError> {
        let request = Request { transfer: self.transfer, round, body }.encode();
        self.attempt(request, FINISH_TIMEOUT).await
    }

    pub(super) fn encode(&self, round: u32, body: Body) -> Bytes {
        Request { transfer: self.transfer, round, body }.encode()
    }

    async fn attempt(&self, request: Bytes, timeout: Duration) -> Result<Answer, TransferError> {
        let call =
            Call { to: self.to.clone(), lane: Lane::Bulk, request, timeout, revocable: false };
        let answered = self.network.call(call).await;
        let answer = answered.map_err(|error| TransferError::Network(error.to_string()))?;
        match Answer::decode(answer).map_err(TransferError::Nonsense)? {
            Answer::Refused { refusal, reason } => Err(TransferError::Refused { refusal, reason }),
            answer => Ok(answer),
        }
    }
}

/// Whether the next round may be held: the first, which is the last if little is written meanwhile, and one in which
/// little is expected to differ. Where that is wrong, the round turns into an ordinary one.
fn may_hold(last: Option<&Round>) -> bool {
    last.is_none_or(|last| last.differing <= FEW_PAGES || last.took <= SHORT_ROUND || !last.shrinks)
}

/// The applied index of a snapshot.
pub(super) fn index(snapshot: &PageSnapshot) -> u64 {
    snapshot.state.applied.map_or(0, |applied| applied.index)
}

pub(super) fn nonsense(answer: &Answer) -> TransferError {
    let kind = match answer {
        Answer::Ready { .. } => "ready",
        Answer::Done => "done",
        Answer::Differ { .. } => "pages that differ",
        Answer::Installed { .. } => "installed",
        Answer::Refused { .. } => "refused",
    };
    TransferError::Nonsense(format!("\"{kind}\" was not asked for"))
}
