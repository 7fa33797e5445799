//! What a node stands on: data directory, log and database, opened in this order before Raft is (`node`).
//!
//! Nothing of it is changed by an opening that fails, but for a torn tail of the log that nobody was told about.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use rq_sqlite::{Database, EntryId, ResultLimits, WriterOptions};
use rq_storage::{Execution, Log, LogOptions, LogState, Salts};

use crate::{
    OpenError,
    engine::{self, OtherEngine},
    environment::Environment,
    housekeeping::milliseconds,
    identity::{Cluster, Paths},
    metrics::Metrics,
    options::Options,
};

/// What a node stands on: everything that is opened before Raft is.
pub(crate) struct Ground {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) paths: Paths,
    pub(crate) log: Log,
    pub(crate) database: Database,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether the database is of another engine epoch than the program.
    pub(crate) other_engine: Option<OtherEngine>,
}

impl Ground {
    /// Opens it.
    ///
    /// # Errors
    /// Each says what is wrong and what to do; nothing was changed.
    pub(crate) fn open(options: &Options, environment: &Environment) -> Result<Self, OpenError> {
        let (paths, cluster) = crate::identity::open(options, environment)?;
        crate::identity::tell(options, &cluster);
        let metrics = Arc::new(Metrics::default());
        let execution = environment.execution;
        let (log, recovery) = Log::open(
            Arc::clone(&environment.files),
            &paths.raft,
            LogOptions { execution, salts: salts(environment), ..options.log.clone() },
        )?;
        tell_log(&recovery);
        let purged = recovery.purged.map(|at| at.index);
        let path = paths.database.clone();
        // Opening it would put an empty one in its place.
        if !environment.files.exists(&path).unwrap_or(true) {
            check_reach(&path, None, purged)?;
        }
        let database = open_database(options, environment, &paths, &metrics)?;
        let applied = database.opened.state.applied.map(|id| id.index);
        check_reach(&path, applied, purged)?;
        tell_cut(&recovery, applied.unwrap_or_default());
        check_agreement(&log, database.opened.state.applied)?;
        let other_engine = find_other_engine(environment, &paths, &cluster, &log, &database)?;
        Ok(Self { cluster, paths, log, database, metrics, other_engine })
    }
}

/// The entries purged from the log must be in the database: nothing else holds them.
fn check_reach(path: &Path, applied: Option<u64>, purged: Option<u64>) -> Result<(), OpenError> {
    match purged {
        Some(purged) if applied.is_none_or(|applied| applied < purged) => {
            Err(OpenError::DatabaseBehind { path: path.to_owned(), applied, purged })
        }
        _ => Ok(()),
    }
}

/// What was applied last must be what the log holds there, if it holds anything: a log may end before it, because a
/// received database has taken its place and the node ended before the log was purged.
fn check_agreement(log: &Log, applied: Option<EntryId>) -> Result<(), OpenError> {
    let Some(EntryId { term: applied, index }) = applied else { return Ok(()) };
    let LogState { first, next, .. } = log.state();
    if !(first..next).contains(&index) {
        return Ok(());
    }
    match log.read(index..index + 1)?.first() {
        Some(record) if record.term != applied => {
            Err(OpenError::Diverged { index, applied, logged: record.term })
        }
        _ => Ok(()),
    }
}

/// Whether the database is of another engine epoch than the program, which is told.
fn find_other_engine(
    environment: &Environment,
    paths: &Paths,
    cluster: &Cluster,
    log: &Log,
    database: &Database,
) -> Result<Option<OtherEngine>, OpenError> {
    let found = engine::compare(environment, &database.opened, paths, cluster, log)?;
    if let Some(other) = &found {
        tracing::error!(component = "store", "{other}");
    }
    Ok(found)
}

fn open_database(
    options: &Options,
    environment: &Environment,
    paths: &Paths,
    metrics: &Metrics,
) -> Result<Database, OpenError> {
    let began = Instant::now();
    let files = rq_sqlite::Options {
        readers_max: options.readers_max.unwrap_or(usize::MAX),
        faults: environment.database_files.clone(),
        foreign_keys: options.foreign_keys,
        engine_epoch: environment.engine_epoch,
        any_epoch: true,
        ..rq_sqlite::Options::new(paths.database.clone(), paths.scratch.clone())
    };
    let results = ResultLimits {
        rows: options.limits.result_rows_max,
        bytes: options.limits.result_bytes_max,
    };
    let database = Database::open(&files, WriterOptions { results, ..WriterOptions::default() })?;
    metrics.open_duration_ms.set(milliseconds(began.elapsed()));
    if !database.opened.created {
        metrics.restores_skipped.add(1);
    }
    Ok(database)
}

/// With simulated time and chance the salts of segments are simulated as well.
fn salts(environment: &Environment) -> Salts {
    match environment.execution {
        Execution::Threads => Salts::Random,
        Execution::Inline => {
            let mut seed = [0; 8];
            environment.entropy.fill(&mut seed);
            Salts::Seeded(Arc::new(AtomicU64::new(u64::from_le_bytes(seed))))
        }
    }
}

fn tell_log(recovery: &rq_storage::Recovery) {
    if recovery.first == recovery.next {
        tracing::info!(component = "store", "raft log is 0 bytes at open, no entries present");
    } else {
        tracing::info!(
            component = "store",
            "raft log is {} bytes, first index is {}, last index is {}",
            recovery.bytes_on_disk,
            recovery.first,
            recovery.next - 1
        );
    }
}

/// Says what was cut off the log, and what is missing from it. The database holds nothing that was not in the log, so a
/// log that ends before it has lost more than an unfinished write, unless a received database was just being put in place.
fn tell_cut(recovery: &rq_storage::Recovery, applied: u64) {
    let last = recovery.last.map_or(0, |at| at.index);
    let is_short = last < applied;
    if let Some(torn) = &recovery.torn_tail {
        let (bytes, path, offset) = (torn.bytes, torn.path.display(), torn.offset);
        if is_short {
            tracing::warn!(
                component = "store",
                "{bytes} bytes at the end of the raft log cannot be read and were cut off: {path} from byte {offset}"
            );
        } else {
            tracing::warn!(
                component = "store",
                "an unfinished write of {bytes} bytes at the end of the raft log was cut off: {path} from byte \
                 {offset}; nobody had been told that it was done"
            );
        }
    }
    if is_short {
        tracing::warn!(
            component = "store",
            "the raft log ends at entry {last}, the database holds entries up to {applied}: unless this node was \
             stopped while it received a database, the log is damaged or files of it are gone, and entries behind \
             {applied} that were acknowledged here may be missing"
        );
    }
}
