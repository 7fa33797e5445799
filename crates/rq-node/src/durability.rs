//! What may be forgotten from the log: only what the database file holds durably.
//!
//! Commits of the state machine are not synced; the log of a quorum is the durable copy. Before
//! anything is purged from the log, the file must be made durable up to there, and nobody but this
//! file decides whether it is.

use std::sync::{Arc, Mutex};

use rq_sqlite::{Checkpointer, EntryId};
use rq_storage::Execution;

use crate::progress::{Progress, lock};

/// The checkpoint connection and what it has made durable.
pub(crate) struct Durability {
    checkpointer: Arc<Mutex<Option<Checkpointer>>>,
    progress: Arc<Progress>,
    execution: Execution,
}

impl Durability {
    pub(crate) fn new(
        checkpointer: Checkpointer,
        progress: Arc<Progress>,
        execution: Execution,
    ) -> Self {
        Self { checkpointer: Arc::new(Mutex::new(Some(checkpointer))), progress, execution }
    }

    /// Up to here the file is known to be durable.
    pub(crate) fn durable(&self) -> Option<EntryId> {
        self.progress.durable()
    }

    /// Makes the file durable up to whatever is applied now.
    ///
    /// # Errors
    /// A failed sync; nothing may then be purged.
    pub(crate) async fn make_durable(&self) -> Result<Option<EntryId>, String> {
        let checkpointer = Arc::clone(&self.checkpointer);
        let sync = move || match lock(&checkpointer).as_mut() {
            Some(checkpointer) => checkpointer.make_durable().map_err(|error| error.to_string()),
            None => Err("the database has been closed".to_owned()),
        };
        let durable = match self.execution {
            Execution::Inline => sync()?,
            Execution::Threads => {
                tokio::task::spawn_blocking(sync).await.map_err(|error| error.to_string())??
            }
        };
        if let Some(durable) = durable {
            self.progress.set_durable(durable);
        }
        Ok(durable)
    }

    /// Makes the file durable at least up to `id`.
    ///
    /// # Errors
    /// A failed sync, or an entry that was never applied.
    pub(crate) async fn ensure(&self, id: EntryId) -> Result<(), String> {
        let reached = |durable: Option<EntryId>| durable.is_some_and(|at| at.index >= id.index);
        if reached(self.durable()) || reached(self.make_durable().await?) {
            return Ok(());
        }
        Err(format!("entry {} is to be purged from the log but is not in the database", id.index))
    }

    /// Runs `work` with the checkpoint connection; `None` once it is closed.
    pub(crate) fn with_checkpointer<R>(
        &self,
        work: impl FnOnce(&mut Checkpointer) -> R,
    ) -> Option<R> {
        lock(&self.checkpointer).as_mut().map(work)
    }

    /// Runs `work` with the place of the checkpoint connection, which may be put another one into.
    pub(crate) fn with_place<R>(&self, work: impl FnOnce(&mut Option<Checkpointer>) -> R) -> R {
        work(&mut lock(&self.checkpointer))
    }

    /// Closes the checkpoint connection.
    pub(crate) fn close(&self) {
        drop(lock(&self.checkpointer).take());
    }
}
