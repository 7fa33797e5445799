//! The log as openraft sees it: entries to records and back, and promises to callbacks.
//!
//! Bytes and fsync are `rq-storage`'s. What is added here: entries keep the command they were made
//! from until it is applied, so that a leader never decodes what it encoded; and purging makes the state
//! machine durable first, always, because openraft purges forward at start without having waited; and what is applied is
//! never cut off; and however much is to be read, a part of it is in memory at once.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _, stream};
use openraft::{
    EntryPayload, LogState, RaftLogReader,
    entry::RaftEntry as _,
    storage::{IOFlushed, RaftLogStorage},
    type_config::alias::{EntryOf, VoteOf},
};
use rq_sqlite::EntryId;
use rq_storage::{Log, Position, Record};
use tokio::sync::oneshot;

use super::{LogId, TypeConfig, divergence, entry_id, log_id, membership};
use crate::{
    command::Payload,
    durability::Durability,
    progress::{Progress, lock},
};

/// What is read at once for another node or to be applied; a larger entry goes alone.
const READ_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Payloads kept until they are applied, at most. Beyond it they are read from the log and decoded again.
const UNAPPLIED_MAX: usize = 1024;
/// Bytes of these payloads beyond which no further one is kept: much may wait where applying is slow or stands still.
pub(crate) const UNAPPLIED_BYTES_MAX: usize = 16 * 1024 * 1024;

type Content = <TypeConfig as openraft::RaftTypeConfig>::Payload;

const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// The log; cheap to clone.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Log,
    progress: Arc<Progress>,
    durability: Arc<Durability>,
    unapplied: Arc<Mutex<Unapplied>>,
}

/// Payloads with their commands, of entries appended here and not applied yet; indexes ascend.
#[derive(Default)]
struct Unapplied {
    payloads: VecDeque<(u64, Payload)>,
    bytes: usize,
}

impl Unapplied {
    /// Keeps the payload of an entry behind all others, if there is room.
    fn keep(&mut self, index: u64, payload: &Payload) {
        if self.payloads.len() < UNAPPLIED_MAX && self.bytes < UNAPPLIED_BYTES_MAX {
            self.bytes += payload.bytes().len();
            self.payloads.push_back((index, payload.clone()));
        }
    }

    /// Forgets what is applied.
    fn forget(&mut self, applied: u64) {
        while let Some((index, payload)) = self.payloads.front()
            && *index <= applied
        {
            self.bytes -= payload.bytes().len();
            self.payloads.pop_front();
        }
    }

    /// Forgets what is cut off; `None`: everything.
    fn truncate_after(&mut self, last: Option<u64>) {
        while let Some((index, payload)) = self.payloads.back()
            && last.is_none_or(|last| *index > last)
        {
            self.bytes -= payload.bytes().len();
            self.payloads.pop_back();
        }
    }

    fn get(&self, index: u64) -> Option<&Payload> {
        let position = self.payloads.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(&self.payloads[position].1)
    }
}

impl LogStore {
    pub(crate) fn new(log: Log, progress: Arc<Progress>, durability: Arc<Durability>) -> Self {
        Self { log, progress, durability, unapplied: Arc::default() }
    }

    fn record(&self, entry: EntryOf<TypeConfig>, unapplied: &mut Unapplied) -> Record {
        let id = entry_id(&entry.log_id);
        if let EntryPayload::Normal(payload) = &entry.payload
            // Nobody takes them out again where nothing is applied.
            && self.progress.other_engine().is_none()
        {
            unapplied.keep(id.index, payload);
        }
        let (kind, payload) = pack(entry.payload);
        Record { index: id.index, term: id.term, kind, payload }
    }

    fn entry(&self, record: Record) -> Result<EntryOf<TypeConfig>, io::Error> {
        let Record { index, term, kind, payload } = record;
        let known =
            (kind == KIND_NORMAL).then(|| self.unapplied_payload(index, &payload)).flatten();
        let payload = match known {
            Some(payload) => EntryPayload::Normal(payload),
            None => unpack(index, kind, payload).map_err(io::Error::other)?,
        };
        Ok(openraft::Entry::new(log_id(EntryId { term, index }), payload))
    }

    /// Entries from `first` to `last`, as many as are read at once.
    ///
    /// # Errors
    /// The log cannot be read, or holds what this program does not know.
    pub(super) fn some(&self, first: u64, last: u64) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        self.part(first, last + 1)
    }

    /// Entries from `start` up to and without `end`, as many as are read at once.
    fn part(&self, start: u64, end: u64) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        let read = self.log.read_limited(start..end, READ_BYTES_MAX);
        read.map_err(io::Error::other)?.into_iter().map(|record| self.entry(record)).collect()
    }

    /// The bytes of payloads kept until they are applied.
    #[cfg(test)]
    pub(crate) fn unapplied_bytes(&self) -> usize {
        lock(&self.unapplied).bytes
    }

    fn unapplied_payload(&self, index: u64, bytes: &Bytes) -> Option<Payload> {
        let unapplied = lock(&self.unapplied);
        let payload = unapplied.get(index)?;
        // The same allocation, or else an entry that was replaced by another leader's.
        (payload.bytes().as_ptr() == bytes.as_ptr() || payload.bytes() == bytes)
            .then(|| payload.clone())
    }
}

/// An entry's content as kind and bytes, for the log and for other nodes.
pub(crate) fn pack(payload: Content) -> (u8, Bytes) {
    match payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(payload) => (KIND_NORMAL, payload.bytes().clone()),
        EntryPayload::Membership(membership) => {
            (KIND_MEMBERSHIP, membership::encode(&membership).into())
        }
    }
}

/// The content of entry `index` from its kind and bytes.
///
/// # Errors
/// A kind this program does not know, or bytes that are no membership.
pub(crate) fn unpack(index: u64, kind: u8, payload: Bytes) -> Result<Content, String> {
    match kind {
        KIND_BLANK => Ok(EntryPayload::Blank),
        KIND_NORMAL => Ok(EntryPayload::Normal(Payload::from_bytes(payload))),
        KIND_MEMBERSHIP => membership::decode(&payload)
            .map(EntryPayload::Membership)
            .map_err(|error| format!("membership in log entry {index}: {error}")),
        _ => Err(format!(
            "log entry {index} is of kind {kind}, which this program does not know; a newer rqd wrote it"
        )),
    }
}

/// The record of an entry that holds a membership.
pub(crate) fn membership_record(at: EntryId, membership: Vec<u8>) -> Record {
    let EntryId { term, index } = at;
    Record { index, term, kind: KIND_MEMBERSHIP, payload: membership.into() }
}

/// The membership in a record, if it holds one.
pub(crate) fn membership_in(record: &Record) -> Option<&[u8]> {
    (record.kind == KIND_MEMBERSHIP).then_some(&record.payload)
}

/// The first index of a range, and the one behind its last.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<Range>(
        &mut self,
        range: Range,
    ) -> Result<Vec<EntryOf<TypeConfig>>, io::Error>
    where
        Range: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        let records = self.log.read(start..end).map_err(io::Error::other)?;
        records.into_iter().map(|record| self.entry(record)).collect()
    }

    // The provided method reads everything at once: all that is to be applied again after a start.
    async fn entries_stream<Range>(
        &mut self,
        range: Range,
    ) -> impl Stream<Item = Result<EntryOf<TypeConfig>, io::Error>> + Send
    where
        Range: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (log, (start, end)) = (self.clone(), bounds(&range));
        let parts = stream::try_unfold(start, move |next| {
            let part = if next < end { log.part(next, end) } else { Ok(Vec::new()) };
            std::future::ready(part.map(|entries| {
                let reached = entries.last()?.log_id.index();
                Some((stream::iter(entries.into_iter().map(Ok::<_, io::Error>)), reached + 1))
            }))
        });
        Box::pin(parts.try_flatten())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<EntryOf<TypeConfig>>, io::Error> {
        if start < end { self.part(start, end) } else { Ok(Vec::new()) }
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<TypeConfig>>, io::Error> {
        Ok(self.log.vote().map(|vote| {
            if vote.committed {
                openraft::Vote::new_committed(vote.term, vote.node_id)
            } else {
                openraft::Vote::new(vote.term, vote.node_id)
            }
        }))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state();
        let id = |at: Position| log_id(EntryId { term: at.term, index: at.index });
        let purged = state.purged.map(id);
        Ok(LogState { last_purged_log_id: purged, last_log_id: state.last.map(id).or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> Result<(), io::Error> {
        let vote = rq_storage::Vote {
            term: vote.leader_id.term,
            node_id: vote.leader_id.voted_for,
            committed: vote.committed,
        };
        wait(|done| self.log.save_vote(vote, done)).await
    }

    async fn append<Entries>(
        &mut self,
        entries: Entries,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        Entries: IntoIterator<Item = EntryOf<TypeConfig>> + Send,
        Entries::IntoIter: Send,
    {
        let records = {
            let mut unapplied = lock(&self.unapplied);
            unapplied.forget(self.progress.applied().index);
            entries.into_iter().map(|entry| self.record(entry, &mut unapplied)).collect()
        };
        let done = move |result: Result<(), rq_storage::Error>| {
            callback.io_completed(result.map_err(io::Error::other));
        };
        self.log.append(records, Box::new(done)).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let index = last.map(|id| id.index());
        let applied = self.progress.applied();
        if applied.index > index.unwrap_or(0) {
            let reason = divergence::sentence(applied);
            self.progress.set_stopped(reason.clone());
            return Err(io::Error::other(reason));
        }
        lock(&self.unapplied).truncate_after(index);
        wait(|done| self.log.truncate_after(index, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let upto = entry_id(&upto);
        self.durability.ensure(upto).await.map_err(io::Error::other)?;
        let upto = Position { term: upto.term, index: upto.index };
        wait(|done| self.log.purge(upto, done)).await
    }
}

/// Starts an operation of the log and waits until it is durable.
///
/// # Errors
/// The log refuses it, or the disk.
pub(crate) async fn wait(
    start: impl FnOnce(rq_storage::Completion) -> Result<(), rq_storage::Error>,
) -> Result<(), io::Error> {
    let (done, durable) = oneshot::channel();
    let begun = start(Box::new(move |result| {
        // Whoever waited may have been shut down.
        drop(done.send(result));
    }));
    begun.map_err(io::Error::other)?;
    match durable.await {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("the log has been closed")),
    }
}
