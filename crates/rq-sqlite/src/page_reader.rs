//! Reads pages of the database as they are, for a copy on another node.
//!
//! A [`PageReader`] is a connection beside the pool. Within [`begin`](PageReader::begin) and
//! [`end`](PageReader::end) all pages are of one transaction, and nothing about them can change; but
//! the WAL cannot start over meanwhile, so whoever reads ends soon. Pages are given out whole, free ones
//! too: which are free takes memory in proportion to their number to know.
//!
//! No cap on the WAL cancels a page reader. Replacing the file or closing the pool takes its
//! connection away: what is read next fails with [`PageReadError::Interrupted`].

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use rq_sql::ValueRef;
use rusqlite::OpenFlags;
use thiserror::Error;

use crate::{
    connection::{self, Guarded},
    error::{LocalError, SqliteError},
    pages::checksum_of_page,
    prepared::Prepared,
    readers::Readers,
    state::{self, StoredState},
};

/// The page cache of such a connection in KiB: no page is read twice.
const CACHE_KIB: i64 = 64;

/// Reads pages. Its connection is closed when it is dropped.
#[derive(Debug)]
pub struct PageReader {
    guest: Arc<Guest>,
}

/// What the database is in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSnapshot {
    /// What its state table holds.
    pub state: StoredState,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the database.
    pub page_count: u32,
}

/// Why pages could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PageReadError {
    /// The file is being replaced, or the database closed.
    #[error("the database is being replaced or closed")]
    Interrupted,
    /// This node failed.
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// All page readers of a pool, so that they can be sent away.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    list: Mutex<GuestList>,
}

#[derive(Debug, Default)]
struct GuestList {
    closed: bool,
    guests: Vec<Weak<Guest>>,
}

#[derive(Debug, Default)]
struct Guest {
    connection: Mutex<Option<Opened>>,
    /// Seen between two pages, so that whoever takes the connection away need not wait for long.
    unwelcome: AtomicBool,
}

/// The connection with its statements, which go first.
struct Opened {
    page: Prepared,
    page_count: Prepared,
    page_size: Prepared,
    begin: Prepared,
    rollback: Prepared,
    connection: Guarded,
}

impl Guests {
    fn admit(&self, guest: &Arc<Guest>) -> Result<(), PageReadError> {
        let mut list = self.list();
        if list.closed {
            return Err(PageReadError::Interrupted);
        }
        list.guests.retain(|guest| guest.strong_count() > 0);
        list.guests.push(Arc::downgrade(guest));
        Ok(())
    }

    /// Closes the connections of all page readers and admits no more.
    pub(crate) fn dismiss(&self) {
        let mut list = self.list();
        list.closed = true;
        let guests = std::mem::take(&mut list.guests);
        drop(list);
        for guest in guests.into_iter().filter_map(|guest| guest.upgrade()) {
            guest.unwelcome.store(true, Ordering::Relaxed);
            drop(guest.connection().take());
        }
    }

    /// Admits page readers again.
    pub(crate) fn welcome(&self) {
        self.list().closed = false;
    }

    fn list(&self) -> MutexGuard<'_, GuestList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    fn connection(&self) -> MutexGuard<'_, Option<Opened>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Readers {
    /// Opens a connection that reads pages.
    ///
    /// # Errors
    /// See [`PageReadError`].
    pub fn page_reader(&self) -> Result<PageReader, PageReadError> {
        let guest = Arc::<Guest>::default();
        let mut opened = guest.connection();
        // Once on the list it can be sent away, which then waits for the lock.
        self.guests().admit(&guest)?;
        let connection = Opened::open(self);
        let connection = connection.map_err(|error| error.into_local("opening a page reader"))?;
        *opened = Some(connection);
        drop(opened);
        Ok(PageReader { guest })
    }
}

impl PageReader {
    /// Begins a transaction: what is read until [`end`](Self::end) is of this moment. One that is open
    /// is ended.
    ///
    /// # Errors
    /// See [`PageReadError`].
    pub fn begin(&mut self) -> Result<PageSnapshot, PageReadError> {
        self.with("beginning to read pages", |opened, _| opened.begin())
    }

    /// Ends the transaction.
    pub fn end(&mut self) {
        // A connection that is gone has no transaction, and one that cannot end it is closed.
        let ended = self.with("ending to read pages", |opened, _| opened.end());
        if ended.is_err() {
            drop(self.guest.connection().take());
        }
    }

    /// Reads pages by their numbers (from 1). A number beyond the last page is passed over.
    ///
    /// # Errors
    /// See [`PageReadError`].
    pub fn read(
        &mut self,
        numbers: impl IntoIterator<Item = u32>,
        mut page: impl FnMut(u32, &[u8]),
    ) -> Result<(), PageReadError> {
        let mut interrupted = false;
        self.with("reading pages", |opened, unwelcome| {
            for number in numbers {
                if unwelcome.load(Ordering::Relaxed) {
                    interrupted = true;
                    return Ok(());
                }
                opened.page(number, &mut page)?;
            }
            Ok(())
        })?;
        if interrupted { Err(PageReadError::Interrupted) } else { Ok(()) }
    }

    /// The checksums of `count` pages from `first` on, as far as there are so many. Memory is taken for
    /// `count` of them.
    ///
    /// # Errors
    /// See [`PageReadError`].
    pub fn checksums(&mut self, first: u32, count: u32) -> Result<Vec<u128>, PageReadError> {
        let mut checksums = Vec::with_capacity(usize::try_from(count).expect("32 bits fit"));
        self.read(first..first.saturating_add(count), |number, data| {
            checksums.push(checksum_of_page(number, data));
        })?;
        Ok(checksums)
    }

    fn with<R>(
        &mut self,
        doing: &str,
        action: impl FnOnce(&mut Opened, &AtomicBool) -> Result<R, SqliteError>,
    ) -> Result<R, PageReadError> {
        let mut connection = self.guest.connection();
        let opened = connection.as_mut().ok_or(PageReadError::Interrupted)?;
        let result = action(opened, &self.guest.unwelcome);
        result.map_err(|error| PageReadError::Local(error.into_local(doing)))
    }
}

impl Opened {
    fn open(readers: &Readers) -> Result<Self, SqliteError> {
        let (path, vfs) = readers.file();
        let connection = connection::open(path, OpenFlags::SQLITE_OPEN_READ_ONLY, vfs)?;
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        let prepare = |sql| Prepared::internal(&connection, sql);
        Ok(Self {
            page: prepare("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?,
            page_count: prepare("PRAGMA page_count")?,
            page_size: prepare("PRAGMA page_size")?,
            begin: prepare("BEGIN")?,
            rollback: prepare("ROLLBACK")?,
            connection,
        })
    }

    fn begin(&mut self) -> Result<PageSnapshot, SqliteError> {
        self.end()?;
        run(&mut self.begin)?;
        // The first read fixes the moment.
        let state = state::read(&self.connection)?;
        let page_count = number(&mut self.page_count)?;
        let page_size = number(&mut self.page_size)?;
        Ok(PageSnapshot { state, page_size, page_count })
    }

    fn end(&mut self) -> Result<(), SqliteError> {
        if self.connection.is_autocommit() { Ok(()) } else { run(&mut self.rollback) }
    }

    fn page(&mut self, number: u32, give: &mut impl FnMut(u32, &[u8])) -> Result<(), SqliteError> {
        self.page.bind(1, ValueRef::Integer(number.into()))?;
        let found = self.page.step();
        if let (Ok(true), ValueRef::Blob(data)) = (&found, self.page.value(0)) {
            give(number, data);
        }
        self.page.reset();
        found.map(drop)
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("connection", &self.connection).finish_non_exhaustive()
    }
}

fn run(statement: &mut Prepared) -> Result<(), SqliteError> {
    let done = statement.step();
    statement.reset();
    done.map(drop)
}

fn number(statement: &mut Prepared) -> Result<u32, SqliteError> {
    let stepped = statement.step();
    let number = match statement.value(0) {
        ValueRef::Integer(number) => u32::try_from(number).unwrap_or_default(),
        _ => 0,
    };
    statement.reset();
    stepped.map(|_| number)
}
