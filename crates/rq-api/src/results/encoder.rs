//! The encoder of answers: one buffer, written from front to back.
//!
//! A result that fails after rows were written is cut off the buffer and replaced by its error.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rq_sql::{Column, End, ErrorKind, Origin, ResultSink, SinkError, SqlError, ValueRef};

use super::{
    column::{Columns, Conversion},
    date,
    room::{Room, Share},
};
use crate::{error::Code, json};

/// How results are to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent switch of the API")]
pub struct Options {
    /// Rows as objects instead of arrays.
    pub associative: bool,
    /// Report how long each result and the request took.
    pub timings: bool,
    /// BLOBs as arrays of integers instead of base64.
    pub blob_array: bool,
    /// Names of columns with the names of their tables.
    pub qualify_columns: bool,
    /// Indent the answer.
    pub pretty: bool,
    /// Add the error code to each failing result (`X-Rq-Strict`).
    pub codes: bool,
    /// Let an infinite number fail the whole answer instead of writing `null`.
    pub fail_on_infinity: bool,
}

/// How much an answer may hold. Beyond it the result that would exceed it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most rows of one result.
    pub rows_max: u64,
    /// The most bytes of all results together, before indentation.
    pub bytes_max: usize,
}

impl Default for Limits {
    /// No limits.
    fn default() -> Self {
        Self { rows_max: u64::MAX, bytes_max: usize::MAX }
    }
}

/// What stands around the results.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Envelope<'a> {
    /// The error of the request as a whole.
    pub error: Option<&'a str>,
    /// How long the request took; written only with [`Options::timings`].
    pub elapsed: Option<Duration>,
    /// The number of a queued write.
    pub sequence_number: Option<i64>,
    /// The index of the log entry.
    pub raft_index: Option<u64>,
}

/// An encoded answer.
#[derive(Debug)]
pub struct Answer {
    /// The body.
    pub body: Vec<u8>,
    /// The code of the first result that failed, or that held an infinite number. The code of an
    /// error of the request as a whole is known to the caller.
    pub code: Option<Code>,
    /// Whether a statement among them may have had an effect of its own: one that gave no error, or an error that
    /// leaves it as it is.
    pub has_effect: bool,
    /// Whether a result was left out because answers took all the memory they may.
    pub lacked_room: bool,
    /// What the body takes of the memory of all answers, to be kept as long as the body; `None` if it is not counted.
    pub share: Option<Share>,
}

/// The whole answer fails, because a number is infinite. Displays as the text of the 500 answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "json: error calling MarshalJSON for type *http.DBResults: json: unsupported value: {}",
    if *negative { "-Inf" } else { "+Inf" }
)]
pub struct Unrepresentable {
    /// Whether it is negative infinity.
    pub negative: bool,
}

/// Receives results and encodes them as they come.
pub struct Results {
    options: Options,
    limits: Limits,
    out: Vec<u8>,
    columns: Columns,
    /// Where the current result begins in `out`, with the comma before it.
    result_start: usize,
    /// The rows of the current result; `None` if it has no columns.
    rows: Option<u64>,
    /// The first infinite number of the current result.
    infinity: Option<Unrepresentable>,
    failure: Option<Unrepresentable>,
    code: Option<Code>,
    has_effect: bool,
    lacked_room: bool,
    share: Option<Share>,
}

/// Most answers fit in this, so most need only one allocation.
const SMALL_ANSWER_BYTES: usize = 256;

/// Bytes of a row beyond which memory for it is taken exactly, and given back if it fails.
const LARGE_ROW_BYTES: usize = 1 << 20;

const OPENING: &[u8] = b"{\"results\":[";

impl Results {
    /// An encoder with an empty list of results.
    pub fn new(options: Options, limits: Limits) -> Self {
        let mut out = Vec::with_capacity(SMALL_ANSWER_BYTES);
        out.extend_from_slice(OPENING);
        Self {
            options,
            limits,
            out,
            columns: Columns::default(),
            result_start: OPENING.len(),
            rows: None,
            infinity: None,
            failure: None,
            code: None,
            has_effect: false,
            lacked_room: false,
            share: None,
        }
    }

    /// The same, and the answer takes its memory from a common room. Beyond it, results fail.
    #[must_use]
    pub fn within(self, room: Arc<Room>) -> Self {
        Self { share: Some(Share::new(room)), ..self }
    }

    /// The code of the first result so far that failed, or that held an infinite number.
    pub fn first_code(&self) -> Option<Code> {
        self.code
    }

    /// Whether there is no result yet.
    pub fn is_empty(&self) -> bool {
        self.out.len() == OPENING.len()
    }

    /// Closes the answer.
    ///
    /// # Errors
    /// With [`Options::fail_on_infinity`], if an infinite number was among the results.
    pub fn finish(mut self, envelope: &Envelope<'_>) -> Result<Answer, Unrepresentable> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.out.push(b']');
        if let Some(error) = envelope.error.filter(|error| !error.is_empty()) {
            self.out.extend_from_slice(b",\"error\":");
            json::write_string(&mut self.out, error.as_bytes());
        }
        self.write_time(envelope.elapsed.unwrap_or_default(), b",\"time\":");
        if let Some(number) = envelope.sequence_number.filter(|&number| number != 0) {
            self.out.extend_from_slice(b",\"sequence_number\":");
            json::write_integer(&mut self.out, number);
        }
        if let Some(index) = envelope.raft_index.filter(|&index| index != 0) {
            self.out.extend_from_slice(b",\"raft_index\":");
            json::write_unsigned(&mut self.out, index);
        }
        self.out.push(b'}');
        let body = json::finish(self.out, self.options.pretty);
        if let Some(share) = &mut self.share {
            share.settle(body.len());
        }
        Ok(Answer {
            body,
            code: self.code,
            has_effect: self.has_effect,
            lacked_room: self.lacked_room,
            share: self.share.filter(|share| !share.is_empty()),
        })
    }

    fn begin_result(&mut self) {
        self.result_start = self.out.len();
        if !self.is_empty() {
            self.out.push(b',');
        }
    }

    fn write_time(&mut self, elapsed: Duration, key: &[u8]) {
        if self.options.timings && !elapsed.is_zero() {
            self.out.extend_from_slice(key);
            json::write_real(&mut self.out, elapsed.as_secs_f64());
        }
    }

    /// Writes what stands between the names of the columns and the first value.
    fn write_types(&mut self) {
        if self.columns.is_empty() {
            self.out.extend_from_slice(if self.options.associative { b"{" } else { b"" });
            return;
        }
        if self.options.associative {
            self.out.extend_from_slice(b"{\"types\":{");
            for (position, &index) in self.columns.order().iter().enumerate() {
                if position > 0 {
                    self.out.push(b',');
                }
                self.out.extend_from_slice(self.columns.key(index));
                self.out.push(b':');
                json::write_string(&mut self.out, self.columns.type_name(index).as_bytes());
            }
            self.out.extend_from_slice(b"},");
        } else {
            self.out.extend_from_slice(b",\"types\":[");
            for index in 0..self.columns.count() {
                if index > 0 {
                    self.out.push(b',');
                }
                json::write_string(&mut self.out, self.columns.type_name(index).as_bytes());
            }
            self.out.push(b']');
        }
    }

    fn write_row(&mut self, row: &[ValueRef<'_>]) -> Result<(), SinkError> {
        if !self.options.associative {
            self.out.push(b'[');
            for (index, value) in row.iter().enumerate() {
                if index > 0 {
                    self.out.push(b',');
                }
                self.write_value(index, *value)?;
            }
            self.out.push(b']');
            return Ok(());
        }
        self.out.push(b'{');
        for position in 0..self.columns.order().len() {
            if position > 0 {
                self.out.push(b',');
            }
            let index = self.columns.order()[position];
            self.out.extend_from_slice(self.columns.key(index));
            self.out.push(b':');
            self.write_value(index, row.get(index).copied().unwrap_or(ValueRef::Null))?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn write_value(&mut self, index: usize, value: ValueRef<'_>) -> Result<(), SinkError> {
        let conversion = self.columns.conversion(index);
        let dated = match (value, conversion) {
            (ValueRef::Integer(integer), Conversion::Date) => {
                date::write_integer(&mut self.out, integer)
            }
            (ValueRef::Text(text), Conversion::Date) => date::write_text(&mut self.out, text),
            (ValueRef::Integer(integer), Conversion::Boolean) => {
                self.out.extend_from_slice(if integer > 0 { b"true" } else { b"false" });
                Ok(())
            }
            (ValueRef::Integer(integer), Conversion::Plain) => {
                json::write_integer(&mut self.out, integer);
                Ok(())
            }
            (ValueRef::Text(text), _) => {
                json::write_string(&mut self.out, text);
                Ok(())
            }
            (ValueRef::Null, _) => {
                self.out.extend_from_slice(b"null");
                Ok(())
            }
            (ValueRef::Real(real), _) => {
                if real.is_infinite() && self.infinity.is_none() {
                    self.infinity = Some(Unrepresentable { negative: real < 0.0 });
                }
                json::write_real(&mut self.out, real);
                Ok(())
            }
            (ValueRef::Blob(blob), _) => {
                self.write_blob(blob, self.columns.is_textual(index));
                Ok(())
            }
        };
        dated.map_err(|error| SinkError { kind: ErrorKind::Value, message: error.to_string() })
    }

    fn write_blob(&mut self, blob: &[u8], textual: bool) {
        if textual {
            json::write_string(&mut self.out, blob);
        } else if self.options.blob_array {
            json::write_byte_array(&mut self.out, blob);
        } else {
            self.out.push(b'"');
            let start = self.out.len();
            let length = base64::encoded_len(blob.len(), true).expect("four thirds of a slice");
            self.out.resize(start + length, 0);
            STANDARD
                .encode_slice(blob, &mut self.out[start..])
                .expect("the room was made for exactly this");
            self.out.push(b'"');
        }
    }

    /// Checks the number of rows, and the bytes written so far together with `more`.
    fn check_limits(&self, rows: u64, more: usize) -> Result<(), SinkError> {
        let message = if rows > self.limits.rows_max {
            format!("result too large: more than {} rows", self.limits.rows_max)
        } else if self.out.len().saturating_add(more) > self.limits.bytes_max {
            format!("result too large: answer longer than {} bytes", self.limits.bytes_max)
        } else {
            return Ok(());
        };
        Err(SinkError { kind: ErrorKind::ResultTooLarge, message })
    }

    /// Makes sure of the memory for a row whose values take at least `more` bytes, which SQLite holds as well.
    fn make_room(&mut self, more: usize) -> Result<(), SinkError> {
        let Some(share) = &mut self.share else { return Ok(()) };
        let copies = if self.options.pretty { 2 } else { 1 };
        let needed = self.out.len().saturating_add(more);
        if !self.lacked_room && share.hold(needed.saturating_mul(copies).saturating_add(more)) {
            if more > LARGE_ROW_BYTES {
                // Not twice as much, as a vector that grows takes otherwise.
                self.out.reserve_exact(more + more / 2);
            }
            return Ok(());
        }
        self.lacked_room = true;
        let message = "the answers of all requests take more memory than they may; try again later";
        Err(SinkError { kind: ErrorKind::ResultTooLarge, message: message.to_owned() })
    }

    fn end_rows(&mut self, elapsed: Duration) {
        let rows = self.rows.unwrap_or_default();
        if rows == 0 {
            self.write_types();
        }
        match (self.options.associative, rows) {
            (true, 0) => self.out.extend_from_slice(b"\"rows\":[]"),
            (false, 0) => {}
            (_, _) => self.out.push(b']'),
        }
        let nothing = self.columns.is_empty() && rows == 0 && !self.options.associative;
        let key: &[u8] = if nothing { b"\"time\":" } else { b",\"time\":" };
        self.write_time(elapsed, key);
        self.out.push(b'}');
    }

    fn end_done(&mut self, last_insert_id: i64, rows_affected: u64, elapsed: Duration) {
        self.begin_result();
        self.out.push(b'{');
        let start = self.out.len();
        if last_insert_id != 0 {
            self.out.extend_from_slice(b"\"last_insert_id\":");
            json::write_integer(&mut self.out, last_insert_id);
        }
        if rows_affected != 0 {
            self.separate(start);
            self.out.extend_from_slice(b"\"rows_affected\":");
            json::write_unsigned(&mut self.out, rows_affected);
        }
        if self.options.timings && !elapsed.is_zero() {
            self.separate(start);
            self.write_time(elapsed, b"\"time\":");
        }
        if self.options.associative {
            self.separate(start);
            self.out.extend_from_slice(b"\"rows\":null");
        }
        self.out.push(b'}');
    }

    /// Writes a comma unless nothing was written since `start`.
    fn separate(&mut self, start: usize) {
        if self.out.len() > start {
            self.out.push(b',');
        }
    }

    fn end_error(&mut self, error: &SqlError) {
        if self.rows.is_some() {
            self.out.truncate(self.result_start);
            if self.out.capacity() > LARGE_ROW_BYTES {
                self.out.shrink_to(self.result_start);
                if let Some(share) = &mut self.share {
                    share.settle(self.out.len());
                }
            }
        }
        self.begin_result();
        let with_rows = self.options.associative && error.origin == Origin::Read;
        self.out.extend_from_slice(if with_rows {
            b"{\"rows\":[],\"error\":"
        } else {
            b"{\"error\":"
        });
        json::write_string(&mut self.out, error.message.as_bytes());
        let code = Code::from(error.kind);
        if self.options.codes {
            self.out.extend_from_slice(b",\"code\":");
            json::write_string(&mut self.out, code.name().as_bytes());
        }
        self.out.push(b'}');
        self.code.get_or_insert(code);
    }
}

/// The bytes a value takes at least, if it can be long.
fn least_bytes(value: &ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
    }
}

impl ResultSink for Results {
    fn columns(&mut self, columns: &[Column]) {
        self.begin_result();
        self.rows = Some(0);
        self.columns.set(columns, self.options.qualify_columns, self.options.associative);
        if self.options.associative {
            return;
        }
        self.out.push(b'{');
        if !columns.is_empty() {
            self.out.extend_from_slice(b"\"columns\":[");
            for index in 0..columns.len() {
                if index > 0 {
                    self.out.push(b',');
                }
                self.out.extend_from_slice(self.columns.key(index));
            }
            self.out.push(b']');
        }
    }

    fn row(&mut self, row: &[ValueRef<'_>]) -> Result<(), SinkError> {
        let rows = self.rows.unwrap_or_default() + 1;
        // Before anything is written: one value can be far larger than the limit.
        let more = row.iter().map(least_bytes).sum();
        self.check_limits(rows, more)?;
        self.make_room(more)?;
        if rows == 1 {
            self.columns.infer(row);
            self.write_types();
            self.out.extend_from_slice(if self.options.associative {
                b"\"rows\":["
            } else if self.columns.is_empty() {
                b"\"values\":["
            } else {
                b",\"values\":["
            });
        } else {
            self.out.push(b',');
        }
        self.rows = Some(rows);
        self.write_row(row)?;
        self.check_limits(rows, 0)
    }

    fn end(&mut self, end: End, elapsed: Duration) {
        self.has_effect |= match &end {
            End::Error(error) => error.kind.may_keep_effect(),
            End::Empty => false,
            End::Done { .. } | End::Rows => true,
        };
        match end {
            End::Rows if self.rows.is_some() => {
                self.end_rows(elapsed);
                if self.infinity.is_some() {
                    self.code.get_or_insert(Code::ValueNotRepresentable);
                    if self.options.fail_on_infinity {
                        self.failure = self.failure.or(self.infinity);
                    }
                }
            }
            // A result without columns is that of an empty statement.
            End::Rows | End::Empty => {
                self.begin_result();
                self.columns.set(&[], false, false);
                self.out.extend_from_slice(if self.options.associative { b"" } else { b"{" });
                self.end_rows(elapsed);
            }
            End::Done { last_insert_id, rows_affected } => {
                let last_insert_id = last_insert_id.unwrap_or_default();
                self.end_done(last_insert_id, rows_affected.unwrap_or_default(), elapsed);
            }
            End::Error(error) => self.end_error(&error),
        }
        self.rows = None;
        self.infinity = None;
    }

    fn reset(&mut self) {
        self.out.truncate(OPENING.len());
        self.rows = None;
        self.infinity = None;
        self.failure = None;
        self.code = None;
        self.has_effect = false;
        self.lacked_room = false;
    }
}
