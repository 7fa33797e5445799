//! How each kind of connection is opened: the writer, readers, the checkpointer.
//!
//! Every setting that can change a result or a page is fixed here and belongs to the
//! [`ENGINE_EPOCH`].

use std::{path::Path, sync::Arc};

use rusqlite::{Connection, OpenFlags};

use crate::{
    ambient::Ambient,
    error::{OpenError, SqliteError},
    functions,
};

/// The engine epoch of this program: raised only when the results or the pages of a new build differ
/// from those of the last (SQLite, its compile options, the settings below, our functions,
/// [`WRITER_CACHE_PAGES`]). Nodes of one epoch mix freely.
pub const ENGINE_EPOCH: i64 = 1;

/// The writer's page cache in pages, whatever their size: what is spilled depends on it, so it must
/// be equal on all nodes.
pub(crate) const WRITER_CACHE_PAGES: i64 = 4096;

/// Opens the writer of the database at `path`.
///
/// # Errors
/// What SQLite refuses, as a failure of this node.
pub(crate) fn open_writer(path: &Path, ambient: &Arc<Ambient>) -> Result<Connection, OpenError> {
    let foreign = |error: rusqlite::Error| OpenError::Local {
        path: path.to_owned(),
        source: SqliteError::from(error).into_local("opening the database"),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let writer = Connection::open_with_flags(path, flags).map_err(foreign)?;
    writer.pragma_update(None, "journal_mode", "wal").map_err(foreign)?;
    writer.pragma_update(None, "synchronous", "normal").map_err(foreign)?;
    writer.pragma_update(None, "wal_autocheckpoint", 0).map_err(foreign)?;
    writer.pragma_update(None, "cache_size", WRITER_CACHE_PAGES).map_err(foreign)?;
    functions::install_on_writer(&writer, ambient).map_err(|error| OpenError::Local {
        path: path.to_owned(),
        source: error.into_local("installing functions"),
    })?;
    Ok(writer)
}
