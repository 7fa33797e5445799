//! Collects the rows of statements on the writer, within limits on the answer.
//!
//! A statement is always stepped to its end, because its effect, and what follows from a failure on
//! its way, must be the same on nodes that collect nothing. Only the answer is cut.

use rq_sql::{ErrorKind, Origin, Outcome, Rows, SqlError, ValueRef};

use crate::{error::SqliteError, prepared::Prepared};

/// How large the results of one request may be together. Beyond, the results of statements that
/// follow are replaced by an error that says so; the statements run all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultLimits {
    /// Rows.
    pub rows: u64,
    /// Bytes: of text and blobs their length, of anything else 8.
    pub bytes: u64,
}

impl Default for ResultLimits {
    /// A million rows, 64 MiB.
    fn default() -> Self {
        Self { rows: 1_000_000, bytes: 64 << 20 }
    }
}

/// Collects the results of one request.
#[derive(Debug)]
pub(crate) struct Collector {
    limits: ResultLimits,
    rows: u64,
    bytes: u64,
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
    /// Of a request that begins.
    pub(crate) fn new(limits: ResultLimits) -> Self {
        Self { limits, rows: 0, bytes: 0 }
    }

    /// Steps a statement to its end.
    ///
    /// # Errors
    /// The statement's.
    pub(crate) fn collect(&mut self, prepared: &mut Prepared) -> Result<Collected, SqliteError> {
        let mut rows = Vec::new();
        let mut too_large = None;
        let columns = prepared.column_count();
        while prepared.step()? {
            if too_large.is_some() {
                continue;
            }
            too_large = self.count(prepared, columns);
            if too_large.is_some() {
                rows = Vec::new();
                continue;
            }
            rows.push((0..columns).map(|column| prepared.value(column).to_owned()).collect());
        }
        let writes = !prepared.is_read_only();
        Ok(Collected::Rows(match too_large {
            None => Outcome::Rows(Rows { columns: prepared.columns().to_vec(), rows }),
            Some(limit) => Outcome::Error(too_large_error(&limit, writes)),
        }))
    }

    /// Counts the current row, and says which limit it exceeds.
    fn count(&mut self, prepared: &Prepared, columns: usize) -> Option<String> {
        self.rows += 1;
        self.bytes += (0..columns).map(|column| size_of(prepared.value(column))).sum::<u64>();
        let ResultLimits { rows, bytes } = self.limits;
        if self.rows > rows {
            return Some(format!("{rows} rows"));
        }
        (self.bytes > bytes).then(|| format!("{bytes} bytes"))
    }
}

/// What a value without bytes of its own counts.
const FIXED_SIZE: u64 = 8;

fn size_of(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() as u64,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => FIXED_SIZE,
    }
}

fn too_large_error(limit: &str, writes: bool) -> SqlError {
    let message = if writes {
        format!("done, but its result is left out: the request's results exceed {limit}")
    } else {
        format!("result too large: the request's results exceed {limit}")
    };
    let origin = if writes { Origin::Write } else { Origin::Read };
    SqlError { kind: ErrorKind::ResultTooLarge, message, origin }
}
