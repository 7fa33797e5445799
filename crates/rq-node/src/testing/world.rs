//! The one world that log files and database files share: a common count of operations, and what
//! happens at one of them.
//!
//! The crates beneath know nothing of each other, so each has a disk that fails on command of its own. A
//! [`World`] is the hook of both. When it stops, it stops for both, until [`Disks`] says what
//! became of the machine: the process was killed, or the power was cut and what was not synced may be gone.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rq_sqlite::{FaultDisk, FileKind};
use rq_storage::FaultFiles;

use super::simulated;
use crate::{Environment, environment::Seeded, progress::lock};

/// What happens at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The world stops before it.
    Stop,
    /// The world stops after so many bytes of a write.
    Torn(u16),
    /// It fails, once.
    Fail,
    /// It and so many after it find the disk full, as far as they write.
    Full(u64),
}

/// The hook of both disks.
#[derive(Debug, Default)]
pub(super) struct World {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    operations: u64,
    plan: Option<(u64, Event)>,
    happened: Option<Event>,
    stopped: bool,
    database_full: bool,
    no_new_files: bool,
    root: PathBuf,
    trace: Option<Vec<String>>,
}

/// What the world answers an operation.
#[derive(Clone, Copy)]
enum Answer {
    Proceed,
    Stopped,
    Torn(u16),
    Fail,
    Full,
}

impl World {
    /// Lets `event` happen after so many more operations.
    pub(super) fn arm(&self, after: u64, event: Event) {
        let mut state = lock(&self.state);
        state.plan = Some((state.operations + after, event));
        state.happened = None;
    }

    /// From now on, or no longer: writes of database files find the disk full.
    pub(super) fn fill_database(&self, full: bool) {
        lock(&self.state).database_full = full;
    }

    /// From now on, or no longer: there is no room for another file of the log.
    pub(super) fn fill_log(&self, full: bool) {
        lock(&self.state).no_new_files = full;
    }

    /// Lets nothing happen any more.
    pub(super) fn disarm(&self) {
        let mut state = lock(&self.state);
        state.plan = None;
        state.happened = None;
    }

    /// Lets nothing more happen, but for what has happened already.
    pub(super) fn disarm_unless_stopped(&self) {
        let mut state = lock(&self.state);
        if !state.stopped {
            state.plan = None;
        }
    }

    /// What has happened since it was armed.
    pub(super) fn happened(&self) -> Option<Event> {
        lock(&self.state).happened
    }

    /// Whether nothing succeeds any more.
    pub(super) fn has_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    /// Operations so far.
    pub(super) fn operations(&self) -> u64 {
        lock(&self.state).operations
    }

    /// Begins to write down all operations, with paths relative to `root`.
    pub(super) fn trace(&self, root: &Path) {
        let mut state = lock(&self.state);
        root.clone_into(&mut state.root);
        state.trace = Some(Vec::new());
    }

    /// What was written down.
    pub(super) fn traced(&self) -> Vec<String> {
        lock(&self.state).trace.take().unwrap_or_default()
    }

    fn before(&self, writes: bool, path: &Path, what: &dyn std::fmt::Debug) -> Answer {
        let mut state = lock(&self.state);
        state.operations += 1;
        let path = path.strip_prefix(&state.root).unwrap_or(path).to_owned();
        if let Some(trace) = &mut state.trace {
            trace.push(format!("{} {what:?}", path.display()));
        }
        if state.stopped {
            return Answer::Stopped;
        }
        let Some((at, event)) = state.plan.filter(|(at, _)| state.operations > *at) else {
            return Answer::Proceed;
        };
        state.happened = Some(event);
        match event {
            Event::Stop => state.stopped = true,
            Event::Torn(_) => state.stopped = true,
            Event::Fail => state.plan = None,
            Event::Full(length) if state.operations > at + length => state.plan = None,
            Event::Full(_) => {}
        }
        match event {
            Event::Stop => Answer::Stopped,
            Event::Torn(bytes) => Answer::Torn(bytes),
            Event::Fail => Answer::Fail,
            Event::Full(_) if writes && state.plan.is_some() => Answer::Full,
            Event::Full(_) => Answer::Proceed,
        }
    }
}

impl rq_storage::FaultHook for World {
    fn before(&self, operation: &rq_storage::Operation<'_>) -> rq_storage::Verdict {
        use rq_storage::{OperationKind, Verdict};
        let rq_storage::Operation { kind, path, offset, length } = *operation;
        let writes = matches!(
            kind,
            OperationKind::Create | OperationKind::Write | OperationKind::CreateDirectory
        );
        let full = kind == OperationKind::Create && lock(&self.state).no_new_files;
        match self.before(writes, path, &(kind, offset, length)) {
            Answer::Proceed if full => Verdict::Fail(std::io::ErrorKind::StorageFull),
            Answer::Proceed => Verdict::Proceed,
            Answer::Stopped => Verdict::Crash,
            Answer::Torn(bytes) => Verdict::Torn(bytes.into()),
            Answer::Fail => Verdict::Fail(std::io::ErrorKind::Other),
            Answer::Full => Verdict::Fail(std::io::ErrorKind::StorageFull),
        }
    }
}

impl rq_sqlite::FaultHook for World {
    fn before(&self, operation: &rq_sqlite::FileOperation<'_>) -> rq_sqlite::Verdict {
        use rq_sqlite::{OperationKind, Verdict};
        let writes = matches!(operation.kind, OperationKind::Create | OperationKind::Write { .. });
        // SQLite draws the names of temporary files from the machine's randomness.
        let path = match operation.file {
            FileKind::Temporary => Path::new("temporary"),
            _ => operation.path,
        };
        let full = writes && lock(&self.state).database_full;
        match self.before(writes, path, &operation.kind) {
            Answer::Proceed if full => Verdict::DiskFull,
            Answer::Proceed => Verdict::Proceed,
            // Not `Crash`: that would last, and a process that was only killed goes on with the
            // same disk.
            Answer::Stopped | Answer::Fail => Verdict::Fail,
            Answer::Torn(bytes) => Verdict::Torn(bytes.into()),
            Answer::Full => Verdict::DiskFull,
        }
    }
}

/// The disks of one machine.
#[derive(Debug)]
pub(super) struct Disks {
    pub(super) world: Arc<World>,
    pub(super) files: FaultFiles,
    database: Arc<FaultDisk>,
}

impl Disks {
    pub(super) fn new() -> Self {
        let world = Arc::new(World::default());
        let files = FaultFiles::new(Arc::clone(&world) as _);
        let database = FaultDisk::new(Arc::clone(&world) as _);
        Self { world, files, database }
    }

    /// A simulated machine with these disks.
    pub(super) fn environment(&self, seed: u64) -> Environment {
        Environment {
            files: Arc::new(self.files.clone()),
            database_files: Some(Arc::clone(&self.database)),
            ..simulated(seed)
        }
    }

    /// Lets nothing succeed from now on.
    pub(super) fn stop(&self) {
        lock(&self.world.state).stopped = true;
        self.files.crash();
    }

    /// Goes on after the death of the process alone: what was written stays, synced or not. All
    /// parts of the node are dropped.
    pub(super) fn restart_process(&mut self) {
        assert!(!self.database.is_crashed(), "a torn write is a matter of power cuts");
        self.files.restart();
        self.resume();
    }

    /// Goes on after a power cut: an arbitrary part of what was not synced is gone. All parts of the
    /// node are dropped.
    pub(super) fn cut_power(&mut self, chance: &Seeded) {
        // Everything, nothing, or each sector by chance.
        let survivors = [0, 2, 2, 3, 4][usize::try_from(chance.next() % 5).unwrap()];
        let mut survives = |_: &rq_sqlite::UnsyncedEffect<'_>| chance.next() % 4 < survivors;
        self.database.lose_unsynced(&mut survives).unwrap();
        self.files.lose_unsynced(&mut || chance.next()).unwrap();
        self.database = FaultDisk::new(Arc::clone(&self.world) as _);
        self.resume();
    }

    fn resume(&self) {
        let mut state = lock(&self.world.state);
        state.stopped = false;
        state.plan = None;
        state.happened = None;
    }
}
