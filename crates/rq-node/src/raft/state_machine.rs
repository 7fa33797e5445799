//! Committed entries on their way to the engine, and what openraft calls a snapshot.
//!
//! A snapshot is not a copy here: it is the statement that the database file is durable up to some
//! entry. Building one means syncing the WAL; its "data" is the file itself. What another node sent is
//! a file too, complete and durable, which takes the place of the database (`applier`).

use std::{
    io,
    sync::{Arc, Mutex},
};

use futures_util::{Stream, StreamExt as _};
use openraft::{
    EntryPayload, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta},
    type_config::alias::{EntryOf, SnapshotMetaOf, SnapshotOf},
};
use rq_sqlite::{Applied, Arrival, Readers};

use super::{
    LogId, TypeConfig, entry_id,
    log::LogStore,
    log_id,
    membership::{self, Stored},
};
use crate::{
    applier::{Applier, Content, Job, Later},
    durability::Durability,
    progress::{Progress, lock},
};

/// Bytes of commands, and entries, that are handed to the applier at once; a larger entry goes alone. There may be any
/// number to apply after a start, and others need the writer in between.
const RUN_BYTES_MAX: usize = 4 * 1024 * 1024;
pub(crate) const RUN_ENTRIES_MAX: usize = 1024;

/// The data of a snapshot.
#[derive(Clone, Debug)]
pub(crate) enum DurableFile {
    /// The database of this node, through which its pages can be read. It may be further on than the
    /// snapshot says.
    Own(Readers),
    /// What another node sent.
    Received(Arrival),
}

/// The state machine as openraft sees it; cheap to clone.
#[derive(Clone)]
pub(crate) struct StateMachine {
    applier: Arc<Applier>,
    progress: Arc<Progress>,
    durability: Arc<Durability>,
    memberships: Arc<Mutex<Memberships>>,
    log: LogStore,
    /// What is being applied later, if that was said last.
    later: Arc<Mutex<Option<Arc<Stretch>>>>,
    /// Whether anything was ever applied: index 0 alone does not tell.
    applied_any: bool,
}

/// The membership in force and the one before it: a snapshot must not know one that is newer than
/// the entry it reaches.
struct Memberships {
    previous: Stored,
    current: Stored,
}

impl StateMachine {
    pub(crate) fn new(
        applier: Arc<Applier>,
        progress: Arc<Progress>,
        durability: Arc<Durability>,
        log: LogStore,
        membership: Stored,
        applied_any: bool,
    ) -> Self {
        let memberships = Memberships { previous: Stored::default(), current: membership };
        let memberships = Arc::new(Mutex::new(memberships));
        let later = Arc::default();
        Self { applier, progress, durability, memberships, log, later, applied_any }
    }

    fn applied_log_id(&self) -> Option<LogId> {
        self.applied_any.then(|| log_id(self.progress.applied()))
    }

    /// Applies the entries from `first` to `last`, or leaves them to the applier if it is behind.
    async fn apply_run(
        &mut self,
        run: Vec<EntryResponder<TypeConfig>>,
        first: u64,
        last: u64,
    ) -> Result<(), io::Error> {
        self.applied_any = true;
        let is_behind = self.progress.applied().index + 1 < first;
        if is_behind && let Some(reason) = self.progress.stopped() {
            return Err(io::Error::other(reason));
        }
        if is_behind && run.iter().all(|(_, responder)| responder.is_none()) {
            return self.apply_later(first, last);
        }
        *lock(&self.later) = None;
        let mut jobs = Vec::with_capacity(run.len());
        for (entry, responder) in run {
            let id = entry_id(&entry.log_id);
            let content = content(entry, &self.memberships)?;
            let respond = responder.map(|responder| {
                Box::new(move |applied: Applied| responder.send(applied))
                    as Box<dyn FnOnce(_) + Send>
            });
            jobs.push(Job { id, content, respond });
        }
        self.applier.apply(jobs, is_behind).await.map_err(io::Error::other)
    }

    /// Leaves entries that nobody waits for to the applier, which is busy with others for longer: it reads them from the
    /// log when it comes to them.
    fn apply_later(&self, first: u64, last: u64) -> Result<(), io::Error> {
        let mut later = lock(&self.later);
        if later.as_ref().is_some_and(|stretch| stretch.extend(last)) {
            return Ok(());
        }
        let stretch = Arc::new(Stretch {
            log: self.log.clone(),
            memberships: Arc::clone(&self.memberships),
            reach: Mutex::new(Reach { next: first, last, over: false }),
        });
        *later = Some(Arc::clone(&stretch));
        self.applier.apply_later(stretch).map_err(io::Error::other)
    }

    fn own_file(&self) -> DurableFile {
        DurableFile::Own(self.applier.readers().clone())
    }

    /// The snapshot up to which the file is known to be durable.
    fn durable_snapshot(&self) -> Option<SnapshotMetaOf<TypeConfig>> {
        let durable = self.durability.durable()?;
        let memberships = lock(&self.memberships);
        let newer = |stored: &Stored| {
            membership::origin(stored).is_some_and(|origin| origin.index > durable.index)
        };
        let membership = if newer(&memberships.current) {
            memberships.previous.clone()
        } else {
            memberships.current.clone()
        };
        Some(SnapshotMeta { last_log_id: Some(log_id(durable)), last_membership: membership })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = DurableFile;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Stored), io::Error> {
        Ok((self.applied_log_id(), lock(&self.memberships).current.clone()))
    }

    async fn apply<Entries>(&mut self, mut entries: Entries) -> Result<(), io::Error>
    where
        Entries: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        if self.progress.other_engine().is_some() {
            return pass_over(entries).await;
        }
        loop {
            let run = next_run(&mut entries).await?;
            let [(first, _), ..] = &run[..] else { return Ok(()) };
            let (first, last) = (first.log_id.index(), run[run.len() - 1].0.log_id.index());
            self.apply_run(run, first, last).await?;
        }
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: DurableFile,
    ) -> Result<(), io::Error> {
        let arrival = match snapshot {
            DurableFile::Received(arrival) => arrival,
            DurableFile::Own(_) => {
                let reason = "a database that is in place cannot be installed";
                return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
            }
        };
        if let Some(other) = self.progress.other_engine() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, other.to_string()));
        }
        if meta.last_log_id != Some(log_id(arrival.applied)) {
            let reason = format!("a snapshot of {:?} came with {:?}", meta, arrival.applied);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let installed = self.applier.install(arrival, &self.durability).await;
        let state = installed.map_err(io::Error::other)?;
        let membership = membership::stored(state.membership.as_ref()).map_err(io::Error::other)?;
        self.applied_any = true;
        *lock(&self.memberships) =
            Memberships { previous: membership.clone(), current: membership };
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, DurableFile>>, io::Error> {
        Ok(self.durable_snapshot().map(|meta| Snapshot { meta, snapshot: self.own_file() }))
    }
}

/// The next entries, as many as are applied at once; none at the end.
///
/// # Errors
/// They cannot be read.
async fn next_run<Entries>(
    entries: &mut Entries,
) -> Result<Vec<EntryResponder<TypeConfig>>, io::Error>
where
    Entries: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
{
    let (mut run, mut bytes) = (Vec::new(), 0);
    while run.len() < RUN_ENTRIES_MAX && bytes < RUN_BYTES_MAX {
        let Some(item) = entries.next().await else { break };
        let (entry, responder) = item?;
        if let EntryPayload::Normal(payload) = &entry.payload {
            bytes += payload.bytes().len();
        }
        run.push((entry, responder));
    }
    Ok(run)
}

/// What the applier is to do for an entry. A membership is noted.
///
/// # Errors
/// It holds a command that makes no sense.
fn content(
    entry: EntryOf<TypeConfig>,
    memberships: &Mutex<Memberships>,
) -> Result<Content, io::Error> {
    Ok(match entry.payload {
        EntryPayload::Blank => Content::Blank,
        EntryPayload::Normal(payload) => {
            let command = payload.command().map_err(|error| {
                io::Error::other(format!("entry {}: {error}", entry.log_id.index()))
            })?;
            Content::Command(command)
        }
        EntryPayload::Membership(new) => {
            let bytes = membership::encode(&new);
            let mut memberships = lock(memberships);
            let new = Stored::new(Some(entry.log_id), new);
            memberships.previous = std::mem::replace(&mut memberships.current, new);
            Content::Membership(bytes)
        }
    })
}

/// Entries of the log that are applied later, one after the other. It may grow until its end was reached.
struct Stretch {
    log: LogStore,
    memberships: Arc<Mutex<Memberships>>,
    reach: Mutex<Reach>,
}

/// How far a stretch was read, and how far it goes.
struct Reach {
    next: u64,
    last: u64,
    over: bool,
}

impl Stretch {
    /// Whether the entries up to `last` are applied with it; not if it is over.
    fn extend(&self, last: u64) -> bool {
        let mut reach = lock(&self.reach);
        if !reach.over {
            reach.last = last;
        }
        !reach.over
    }
}

impl Later for Stretch {
    fn next(&self) -> Result<Vec<Job>, String> {
        let (next, last) = {
            let mut reach = lock(&self.reach);
            reach.over = reach.next > reach.last;
            (reach.next, reach.last)
        };
        if next > last {
            return Ok(Vec::new());
        }
        let some = last.min(next + RUN_ENTRIES_MAX as u64 - 1);
        let entries = self.log.some(next, some).map_err(|error| error.to_string())?;
        let jobs = entries.into_iter().map(|entry| {
            let id = entry_id(&entry.log_id);
            content(entry, &self.memberships).map(|content| Job { id, content, respond: None })
        });
        let jobs = jobs.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        let reached = jobs.last().ok_or_else(|| format!("entry {next} is not in the log"))?;
        lock(&self.reach).next = reached.id.index + 1;
        Ok(jobs)
    }
}

/// Leaves entries to a later start with the right program (`engine`). To Raft they count as applied, because whoever waits
/// for their application holds up storing and voting before long; what is really applied, `Progress` knows.
async fn pass_over<Entries>(mut entries: Entries) -> Result<(), io::Error>
where
    Entries: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
{
    while let Some(item) = entries.next().await {
        item?;
    }
    Ok(())
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = DurableFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, DurableFile>, io::Error> {
        self.durability.make_durable().await.map_err(io::Error::other)?;
        let meta = self.durable_snapshot().unwrap_or_else(|| SnapshotMeta {
            last_log_id: None,
            last_membership: Stored::default(),
        });
        Ok(Snapshot { meta, snapshot: self.own_file() })
    }
}
