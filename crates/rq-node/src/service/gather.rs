//! Collects results to be carried to another node, within the limits of a result.

use std::time::Duration;

use rq_sql::{
    Column, End, ErrorKind, Origin, Outcome, ResultSink, Rows, SinkError, SqlError, Value, ValueRef,
};

use crate::{Limits, TimedOutcome};

/// Collects results. Beyond its limits a statement ends with an error; what it did stands.
#[derive(Debug)]
pub(crate) struct Gather {
    /// What was collected.
    pub(crate) outcomes: Vec<TimedOutcome>,
    open: Option<Rows>,
    rows: u64,
    bytes: u64,
    rows_max: u64,
    bytes_max: u64,
}

impl Gather {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            outcomes: Vec::new(),
            open: None,
            rows: 0,
            bytes: 0,
            rows_max: limits.result_rows_max,
            bytes_max: limits.result_bytes_max,
        }
    }
}

impl ResultSink for Gather {
    fn columns(&mut self, columns: &[Column]) {
        self.open = Some(Rows { columns: columns.to_vec(), rows: Vec::new() });
    }

    fn row(&mut self, row: &[ValueRef<'_>]) -> Result<(), SinkError> {
        let values: Vec<Value> = row.iter().copied().map(ValueRef::to_owned).collect();
        self.rows += 1;
        self.bytes += values.iter().map(size).sum::<u64>();
        if self.rows > self.rows_max || self.bytes > self.bytes_max {
            let (rows, bytes) = (self.rows_max, self.bytes_max);
            let message = format!("result too large: more than {rows} rows or {bytes} bytes");
            return Err(SinkError { kind: ErrorKind::ResultTooLarge, message });
        }
        if let Some(open) = &mut self.open {
            open.rows.push(values);
        }
        Ok(())
    }

    fn end(&mut self, end: End, elapsed: Duration) {
        let open = self.open.take();
        let outcome = match (end, open) {
            (End::Empty, _) => Outcome::Empty,
            (End::Done { last_insert_id, rows_affected }, _) => {
                Outcome::Done { last_insert_id, rows_affected }
            }
            (End::Rows, Some(rows)) => Outcome::Rows(rows),
            (End::Error(error), _) => Outcome::Error(error),
            (End::Rows, None) => Outcome::Error(SqlError {
                kind: ErrorKind::Other,
                message: "rows without columns".to_owned(),
                origin: Origin::Read,
            }),
        };
        self.outcomes.push(TimedOutcome { outcome, elapsed });
    }

    fn reset(&mut self) {
        self.outcomes.clear();
        self.open = None;
        (self.rows, self.bytes) = (0, 0);
    }
}

fn size(value: &Value) -> u64 {
    match value {
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len() as u64 + 8,
        Value::Null | Value::Integer(_) | Value::Real(_) => 8,
    }
}
