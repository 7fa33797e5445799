//! Snapshots on their way: the pages of one node's database become the file of another's.
//!
//! # The walk of a transfer
//! 1. The sender ([`Transfers::send`]) offers its database; the receiver ([`Receiver::answer`]) begins a
//!    *staging file*, or goes on with one that an earlier transfer left, whoever sent it. A sender that must wait for
//!    its turn announces it: who was told that it lacks something is not ready until it has it.
//! 2. In *rounds* the sender reads checksums of ranges of pages, the receiver says which differ, those are
//!    sent. In an ordinary round each step has a read transaction of its own, so the WAL is never held up, but what
//!    arrives is of different moments. A page the receiver's own database has is not sent but copied from there.
//! 3. A *held* round runs under one read transaction, at one applied index. If the WAL grows too much meanwhile, it
//!    goes on as an ordinary one. The first round is held as long as that costs little: what is not written to while
//!    it is sent needs no second round, which reads everything again on both sides. Later ones are held when little
//!    differs any more.
//! 4. The sender finishes with the checksum of all pages. The receiver compares it with that of what stands
//!    in its file, syncs, inspects it through SQLite and hands it to [`Landing::install`].
//!
//! Resuming after a cut, another leader that goes on, and a receiver that restarted are nothing special:
//! whatever is there is compared.
//!
//! # Invariants
//! - Memory on both sides is a constant: a few ranges of checksums and a few chunks of pages.
//! - Nothing is believed of a file but what its pages say: checksums are made of what was read from it.
//! - The receiver's database is untouched until the install, and its staging file has no reader but this.
//! - Free pages travel as they are: to know them takes memory in proportion to their number.

mod compare;
pub(crate) mod fuzzing;
mod message;
mod receive;
mod round;
mod send;
mod staging;
mod throttle;

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rq_sqlite::{Arrival, EntryId, PageReadError};
use rq_storage::Execution;
use thiserror::Error;
use tokio::sync::Semaphore;

pub(crate) use message::Refusal;
pub(crate) use receive::{Landing, Receiver};
pub(crate) use send::Cargo;
#[cfg(test)]
pub(crate) use send::Sent;

use crate::{environment::Entropy, progress::lock};
use throttle::Throttle;

/// How transfers are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransferOptions {
    /// Bytes of pages in one message at most; at least one page. Memory of a sender and of a receiver: a few times
    /// this.
    pub(crate) chunk_bytes: usize,
    /// The level of zstd compression; `None` sends pages as they are.
    pub(crate) compression: Option<i32>,
    /// Bytes a second that all transfers of this node send together; 0 is without limit.
    pub(crate) bytes_per_second: u64,
    /// Transfers sent at once; further ones wait.
    pub(crate) concurrent: usize,
    /// Bytes the WAL may grow by while a held round runs, less in the first one; beyond, it goes on as an ordinary one.
    pub(crate) wal_growth_max: u64,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            chunk_bytes: 1024 * 1024,
            compression: None,
            bytes_per_second: 0,
            concurrent: 2,
            wal_growth_max: 256 * 1024 * 1024,
        }
    }
}

/// All transfers a node sends; share one.
pub(crate) struct Transfers {
    options: TransferOptions,
    execution: Execution,
    entropy: Arc<dyn Entropy>,
    slots: Semaphore,
    throttle: Throttle,
    running: Mutex<Vec<Weak<Running>>>,
    counters: Mutex<Counters>,
}

/// What was sent since the node was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Transfers begun.
    pub(crate) begun: u64,
    /// Transfers whose receiver installed the snapshot; the others failed, were cancelled, or go on.
    pub(crate) done: u64,
    /// Pages sent.
    pub(crate) pages: u64,
    /// Bytes of messages with pages, as sent.
    pub(crate) bytes: u64,
}

/// A transfer under way, as its sender sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sending {
    /// The internode address of the receiver.
    pub(crate) to: String,
    /// The applied index when the running round began: what the log must still hold behind it.
    pub(crate) index: u64,
    /// The round, from 1.
    pub(crate) round: u64,
    /// Pages of the database.
    pub(crate) page_count: u64,
    /// Pages of the running round that are compared, or sent without.
    pub(crate) pages_seen: u64,
    /// Pages sent in all rounds.
    pub(crate) pages_sent: u64,
    /// Bytes of messages with pages.
    pub(crate) bytes_sent: u64,
}

/// The live numbers behind [`Sending`].
#[derive(Debug, Default)]
struct Running {
    to: String,
    index: AtomicU64,
    round: AtomicU64,
    page_count: AtomicU64,
    pages_seen: AtomicU64,
    pages_sent: AtomicU64,
    bytes_sent: AtomicU64,
}

/// A complete database that was received: verified and durable, but for its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// The file, and the last entry it holds.
    pub(crate) arrival: Arrival,
    /// The membership it holds, opaque, and the entry that came from.
    pub(crate) membership: Option<(EntryId, Vec<u8>)>,
}

/// Why a transfer failed. What arrived stays with the receiver; another transfer goes on from there.
#[derive(Debug, Error)]
pub(crate) enum TransferError {
    /// It was cancelled by its caller.
    #[error("the transfer was cancelled")]
    Cancelled,
    /// Calls failed although they were repeated.
    #[error("{0}")]
    Network(String),
    /// The receiver refused.
    #[error("the receiver refused: {reason}")]
    Refused {
        /// What kind of refusal.
        refusal: Refusal,
        /// The receiver's words.
        reason: String,
    },
    /// The receiver said something that makes no sense.
    #[error("the receiver's answer makes no sense: {0}")]
    Nonsense(String),
    /// The pages could not be read.
    #[error(transparent)]
    Read(#[from] PageReadError),
    /// The database holds entries of a later term than the sender's: another node leads, and its
    /// snapshots are not this one's to send.
    #[error("the database has reached term {reached}, this node sends in the name of term {sent}")]
    Deposed {
        /// The term of the last entry applied.
        reached: u64,
        /// The term of the cargo.
        sent: u64,
    },
    /// The database changes faster than the receiver takes it.
    #[error("the database changes faster than it can be sent, after {0} rounds")]
    Overtaken(u64),
}

impl Transfers {
    pub(crate) fn new(
        options: TransferOptions,
        execution: Execution,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            options,
            execution,
            entropy,
            slots: Semaphore::new(options.concurrent.max(1)),
            throttle: Throttle::new(options.bytes_per_second),
            running: Mutex::default(),
            counters: Mutex::default(),
        }
    }

    /// The smallest index behind which the log is needed by a transfer under way. The caller decides how
    /// much log that is worth.
    pub(crate) fn oldest_index(&self) -> Option<u64> {
        self.running().iter().map(|running| running.index.load(Ordering::Relaxed)).min()
    }

    /// The transfers under way.
    pub(crate) fn status(&self) -> Vec<Sending> {
        self.running().iter().map(|running| running.show()).collect()
    }

    /// What was sent so far.
    pub(crate) fn counters(&self) -> Counters {
        *lock(&self.counters)
    }

    /// Bytes of pages in one message: so few that it takes no longer than [`MESSAGE_TIME`] at the rate allowed, because a
    /// receiver takes a long silence for the end.
    fn message_bytes_max(&self) -> usize {
        let TransferOptions { chunk_bytes, bytes_per_second, .. } = self.options;
        let most = chunk_bytes.min(CHUNK_BYTES_MAX);
        if bytes_per_second == 0 {
            return most;
        }
        let affordable = bytes_per_second.saturating_mul(MESSAGE_TIME.as_secs());
        most.min(usize::try_from(affordable).unwrap_or(usize::MAX))
    }

    /// Checksums in one message, in the same way.
    fn range_pages_max(&self) -> u32 {
        let affordable = self.message_bytes_max() / size_of::<u128>();
        u32::try_from(affordable).unwrap_or(u32::MAX).clamp(1, RANGE_PAGES_MAX)
    }

    fn running(&self) -> Vec<Arc<Running>> {
        let mut running = lock(&self.running);
        running.retain(|running| running.strong_count() > 0);
        running.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Running {
    fn show(&self) -> Sending {
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Sending {
            to: self.to.clone(),
            index: number(&self.index),
            round: number(&self.round),
            page_count: number(&self.page_count),
            pages_seen: number(&self.pages_seen),
            pages_sent: number(&self.pages_sent),
            bytes_sent: number(&self.bytes_sent),
        }
    }
}

/// What the sender of this header says while it waits for its turn.
#[cfg(test)]
pub(crate) fn announcement(header: bytes::Bytes, index: u64) -> bytes::Bytes {
    let body = message::Body::Announce(message::Announcement { header, index });
    message::Request { transfer: [0; 16], round: 0, body }.encode()
}

/// Runs what reads or writes files where it keeps no async worker from its work.
async fn blocking<T: Send + 'static>(
    execution: Execution,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    match execution {
        Execution::Inline => work(),
        Execution::Threads => match tokio::task::spawn_blocking(work).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime shuts down and will not poll this again.
                Err(_) => std::future::pending().await,
            },
        },
    }
}

/// How long a receiver waits for the next message of a transfer before another may take its place.
const SILENCE: Duration = Duration::from_secs(10);
/// How long one message may take at the rate allowed. Transfers take turns, so a receiver hears of its own every few
/// times this.
const MESSAGE_TIME: Duration = Duration::from_secs(2);
/// Checksums in one message at most: what a receiver reads and a sender holds for one answer.
const RANGE_PAGES_MAX: u32 = 16_384;
/// Bytes of pages in one message at most, whatever the options say.
const CHUNK_BYTES_MAX: usize = 8 * 1024 * 1024;
