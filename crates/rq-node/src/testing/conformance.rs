//! openraft's own suite for storage, run against our log and state machine.
//!
//! openraft keeps two promises that its suite does not: entries are applied without gaps, and only
//! what was applied is purged. Our engine and our log rely on both and refuse everything else, so the suite runs
//! behind [`Orderly`], which fills each gap with blank entries first and passes everything else on.
//!
//! The suite installs the snapshot of one store into another. Pages travel by `transfer`, which is not
//! tested here: `Orderly` copies them.

use std::{
    fmt::Debug, fs::File, io, ops::RangeBounds, os::unix::fs::FileExt as _, path::PathBuf,
    sync::Arc,
};

use futures_util::{Stream, StreamExt as _, stream};
use openraft::{
    LogState, OptionalSend, RaftLogReader, StorageError,
    entry::RaftEntry as _,
    storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
    type_config::alias::{EntryOf, SnapshotMetaOf, SnapshotOf, VoteOf},
};
use rq_sqlite::{Arrival, Database, EntryId, PageSnapshot, WriterOptions};
use rq_storage::{Execution, Files, Log, LogOptions, RealFiles};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{PATIENCE, options, simulated};
use crate::{
    applier::{Applier, Core},
    durability::Durability,
    metrics::Metrics,
    progress::Progress,
    raft::{
        LogId, TypeConfig, entry_id,
        log::LogStore,
        log_id, membership,
        state_machine::{DurableFile, StateMachine},
    },
    turns::Turns,
};

/// Log or state machine, with the promises of openraft's core kept.
#[derive(Clone)]
pub(super) struct Orderly {
    pub(super) log: LogStore,
    pub(super) machine: Arc<Mutex<StateMachine>>,
    directory: PathBuf,
}

impl Orderly {
    /// Copies the database of another store.
    fn receive(&self, snapshot: DurableFile) -> Arrival {
        let DurableFile::Own(source) = snapshot else {
            panic!("{snapshot:?} is in nobody's place")
        };
        let path = self.directory.join("received");
        let file = File::create(&path).unwrap();
        let mut reader = source.page_reader().unwrap();
        let PageSnapshot { state, page_size, page_count } = reader.begin().unwrap();
        let write = |number: u32, page: &[u8]| {
            file.write_all_at(page, u64::from(number - 1) * u64::from(page_size)).unwrap();
        };
        reader.read(1..=page_count, write).unwrap();
        Arrival { path, applied: state.applied.unwrap() }
    }

    /// Applies blank entries up to and with `last`, as far as they are missing.
    async fn fill(&self, last: EntryId) -> Result<(), io::Error> {
        let mut machine = self.machine.lock().await;
        let (applied, _) = machine.applied_state().await?;
        let first = applied.map_or(0, |applied| applied.index() + 1);
        let blanks = (first..=last.index).map(|index| {
            let id = log_id(EntryId { term: last.term, index });
            Ok((EntryOf::<TypeConfig>::new_blank(id), None))
        });
        machine.apply(stream::iter(blanks)).await
    }
}

impl RaftLogReader<TypeConfig> for Orderly {
    async fn try_get_log_entries<Range>(
        &mut self,
        range: Range,
    ) -> Result<Vec<EntryOf<TypeConfig>>, io::Error>
    where
        Range: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.log.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<TypeConfig>>, io::Error> {
        self.log.read_vote().await
    }
}

impl RaftLogStorage<TypeConfig> for Orderly {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.log.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> Result<(), io::Error> {
        self.log.save_vote(vote).await
    }

    async fn append<Entries>(
        &mut self,
        entries: Entries,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        Entries: IntoIterator<Item = EntryOf<TypeConfig>> + OptionalSend,
        Entries::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        self.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.fill(entry_id(&upto)).await?;
        self.log.purge(upto).await
    }
}

impl RaftStateMachine<TypeConfig> for Orderly {
    type SnapshotData = DurableFile;
    type SnapshotBuilder = StateMachine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, membership::Stored), io::Error> {
        self.machine.lock().await.applied_state().await
    }

    async fn apply<Entries>(&mut self, mut entries: Entries) -> Result<(), io::Error>
    where
        Entries:
            Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let id = entry_id(&entry.log_id);
            if let Some(before) = id.index.checked_sub(1).filter(|before| *before > 0) {
                self.fill(EntryId { index: before, ..id }).await?;
            }
            let one = stream::iter([Ok((entry, responder))]);
            self.machine.lock().await.apply(one).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> StateMachine {
        self.machine.lock().await.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: DurableFile,
    ) -> Result<(), io::Error> {
        let received = DurableFile::Received(self.receive(snapshot));
        self.machine.lock().await.install_snapshot(meta, received).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, DurableFile>>, io::Error> {
        self.machine.lock().await.get_current_snapshot().await
    }
}

/// Makes an empty store, each in a directory of its own.
pub(super) struct Builder {
    pub(super) execution: Execution,
}

/// Closes the threads of a store and removes its directory.
pub(super) struct Guard {
    pub(super) applier: Arc<Applier>,
    pub(super) progress: Arc<Progress>,
    log: Log,
    _directory: TempDir,
}

impl Drop for Guard {
    fn drop(&mut self) {
        assert!(self.applier.close(PATIENCE));
        self.log.close();
    }
}

impl StoreBuilder<TypeConfig, Orderly, Orderly, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, Orderly, Orderly), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { directory.path().join(name) };
        let raft = path("raft");
        std::fs::create_dir(&raft).unwrap();
        let files = rq_sqlite::Options::new(path("db.sqlite"), path("scratch"));
        let Database { writer, checkpointer, opened, .. } =
            Database::open(&files, WriterOptions::default()).unwrap();
        let log_options = LogOptions { execution: self.execution, ..options(directory.path()).log };
        let files = Arc::new(RealFiles) as Arc<dyn Files>;
        let (log, _) = Log::open(files, &raft, log_options).unwrap();
        let progress = Arc::new(Progress::new(opened.state.applied, 0));
        let durability =
            Arc::new(Durability::new(checkpointer, Arc::clone(&progress), self.execution));
        let core = Core {
            writer,
            progress: Arc::clone(&progress),
            clock: simulated(1).clock,
            metrics: Arc::new(Metrics::default()),
        };
        let applier =
            Arc::new(Applier::start(core, &Arc::new(Turns::new(2)), self.execution).unwrap());
        let store = LogStore::new(log.clone(), Arc::clone(&progress), Arc::clone(&durability));
        let machine = StateMachine::new(
            Arc::clone(&applier),
            Arc::clone(&progress),
            durability,
            store.clone(),
            membership::stored(None).unwrap(),
            false,
        );
        let store = Orderly {
            log: store,
            machine: Arc::new(Mutex::new(machine)),
            directory: directory.path().to_owned(),
        };
        let guard = Guard { applier, progress, log, _directory: directory };
        Ok((guard, store.clone(), store))
    }
}

async fn run_suite(execution: Execution) {
    Suite::test_all(Builder { execution }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn log_and_state_machine_conform_inline() {
    run_suite(Execution::Inline).await;
}

#[tokio::test(start_paused = true)]
async fn log_and_state_machine_conform_with_threads() {
    run_suite(Execution::Threads).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_is_not_cut_off() {
    let (_guard, mut store, _) = Builder { execution: Execution::Inline }.build().await.unwrap();
    store.fill(EntryId { term: 1, index: 5 }).await.unwrap();
    let at = |index| log_id(EntryId { term: 1, index });
    for last in [Some(at(4)), Some(at(0)), None] {
        let error = store.truncate_after(last).await.unwrap_err().to_string();
        assert!(error.contains("entry 5 of term 1, which is applied here"), "{last:?}: {error}");
    }
    store.truncate_after(Some(at(5))).await.unwrap();
}
