//! Collects the rows of statements on the writer, within limits on the answer.
//!
//! A statement is always stepped to its end, because its effect, and what follows from a failure on
//! its way, must be the same on nodes that collect nothing. Only the answer is cut. To read a value may
//! take SQLite memory and work, so each row is read on all nodes.

use rq_sql::{ErrorKind, Origin, Outcome, Rows, SqlError, ValueRef};

use crate::{error::SqliteError, prepared::Prepared};

/// How large the results of one request, and of all requests of an entry, may be together. Beyond,
/// the results of statements that follow are replaced by an error that says so; the statements run
/// all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultLimits {
    /// Rows of one request.
    pub rows: u64,
    /// Bytes of one request, and of what is kept for all requests of an entry until it is committed:
    /// of text and blobs their length, but of each value at least 8.
    pub bytes: u64,
}

impl Default for ResultLimits {
    /// A million rows, 64 MiB.
    fn default() -> Self {
        Self { rows: 1_000_000, bytes: 64 << 20 }
    }
}

/// Collects the results of one entry, request after request.
#[derive(Debug)]
pub(crate) struct Collector {
    limits: ResultLimits,
    /// Rows of the request.
    rows: u64,
    /// Bytes of the request.
    bytes: u64,
    /// Bytes of the entry's results so far but those left out.
    kept: u64,
}

/// What a statement yielded.
#[derive(Debug)]
pub(crate) enum Collected {
    /// Nothing was asked for.
    Nothing,
    /// Its rows, or an error that says that they were too many.
    Rows(Outcome),
}

impl Collector {
    /// Of an entry that begins.
    pub(crate) fn new(limits: ResultLimits) -> Self {
        Self { limits, rows: 0, bytes: 0, kept: 0 }
    }

    /// Begins the next request.
    pub(crate) fn begin_request(&mut self) {
        self.rows = 0;
        self.bytes = 0;
    }

    /// Steps a statement to its end.
    ///
    /// # Errors
    /// The statement's.
    pub(crate) fn collect(&mut self, prepared: &mut Prepared) -> Result<Collected, SqliteError> {
        let mut rows = Vec::new();
        let mut too_large = None;
        let bytes_before = self.bytes;
        let columns = prepared.column_count();
        while prepared.step()? {
            if too_large.is_some() {
                prepared.read_row(columns);
                continue;
            }
            too_large = self.count(prepared, columns, bytes_before);
            if too_large.is_some() {
                rows = Vec::new();
                continue;
            }
            rows.push((0..columns).map(|column| prepared.value(column).to_owned()).collect());
        }
        let writes = !prepared.is_read_only();
        Ok(Collected::Rows(match too_large {
            None => {
                self.kept += self.bytes - bytes_before;
                Outcome::Rows(Rows { columns: prepared.columns().to_vec(), rows })
            }
            Some(reason) => Outcome::Error(too_large_error(&reason, writes)),
        }))
    }

    /// Counts the current row of a statement before which the request had so many bytes, and says which
    /// limit it exceeds.
    fn count(&mut self, prepared: &Prepared, columns: usize, before: u64) -> Option<String> {
        self.rows += 1;
        self.bytes += (0..columns).map(|column| size_of(prepared.value(column))).sum::<u64>();
        let ResultLimits { rows, bytes } = self.limits;
        if self.rows > rows {
            return Some(format!("the request's results exceed {rows} rows"));
        }
        if self.bytes > bytes {
            return Some(format!("the request's results exceed {bytes} bytes"));
        }
        (self.kept + self.bytes - before > bytes).then(|| {
            format!(
                "the results of the requests applied together with this one exceed {bytes} bytes"
            )
        })
    }
}

/// What a value counts at least.
const FIXED_SIZE: u64 = 8;

fn size_of(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => (bytes.len() as u64).max(FIXED_SIZE),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => FIXED_SIZE,
    }
}

fn too_large_error(reason: &str, writes: bool) -> SqlError {
    let message = if writes {
        format!("done, but its result is left out: {reason}")
    } else {
        format!("result too large: {reason}")
    };
    let origin = if writes { Origin::Write } else { Origin::Read };
    SqlError { kind: ErrorKind::ResultTooLarge, message, origin }
}
