//! Encoders of results, as a request asks for them, and the replies made of them.

use std::sync::Arc;

use bytes::Bytes;
use rq_api::{
    error::{Code, Outcome},
    results::{Envelope, Limits, Options, Results, Share},
};

use rq_node::{Level, Served, Written};
use rq_sql::Statement;

use crate::{
    error,
    respond::{Reply, ServedBy},
    service::Call,
};

/// Whether column names may be qualified: only reads take that parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `/db/execute`.
    Write,
    /// `/db/query` and `/db/request`.
    Read,
}

/// How results came about.
#[derive(Debug)]
pub(crate) struct Done {
    /// The log entry they went through.
    pub(crate) index: Option<u64>,
    /// Who gave them.
    pub(crate) by: ServedBy,
    /// The read level really used; `None` where nothing was read.
    pub(crate) level: Option<Level>,
    /// How its statements hang together.
    pub(crate) unit: Unit,
}

/// What of a request stands when a statement of it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nothing: it only reads.
    Reads,
    /// Nothing: it is one transaction.
    Whole,
    /// The other strings, each of which is one statement.
    Strings,
    /// The other statements, also those of the same string.
    Statements,
}

impl Unit {
    /// That of a request that may write.
    pub(crate) fn of(transaction: bool, statements: &[Statement]) -> Self {
        let has_several = |statement: &Statement| {
            // Most texts need not be cut up to see that.
            let text = statement.sql.trim_end_matches([';', ' ', '\n']);
            text.contains(';')
                && rq_sql::split::statements(text).filter(|piece| !piece.is_empty).nth(1).is_some()
        };
        if transaction {
            Self::Whole
        } else if statements.iter().any(has_several) {
            Self::Statements
        } else {
            Self::Strings
        }
    }
}

impl Done {
    /// Nothing was asked for.
    pub(crate) fn nothing() -> Self {
        Self { index: None, by: ServedBy::ThisNode, level: None, unit: Unit::Reads }
    }
}

impl Done {
    /// Of a write.
    pub(crate) fn written(written: Written, unit: Unit) -> Self {
        Self { index: Some(written.index), by: written.served_by.into(), level: None, unit }
    }

    /// Of a read, or of a request that may also have written.
    pub(crate) fn served(served: Served, unit: Unit) -> Self {
        // What went through the log saw everything before it, whatever was asked for.
        let level = if served.index.is_some() { Level::Strong } else { served.level };
        Self { index: served.index, by: served.served_by.into(), level: Some(level), unit }
    }

    /// Whether the request had no effect, whatever became of its statements.
    fn is_without_effect(&self) -> bool {
        self.index.is_none() || self.unit == Unit::Reads
    }

    /// What is known about the effect of the request, of which a statement failed with `code`. `has_effect` is
    /// whether another one, or even this one, may have had its effect for all that its result says.
    fn outcome(&self, code: Code, has_effect: bool) -> Outcome {
        // What never went through the log had no effect, whatever its code says in general.
        if self.is_without_effect() {
            return Outcome::NotDone;
        }
        match self.unit {
            Unit::Reads => Outcome::NotDone,
            Unit::Whole => code.outcome(),
            Unit::Strings if !has_effect => code.outcome(),
            Unit::Strings | Unit::Statements => Outcome::Unknown,
        }
    }
}

/// An encoder as the request asks for it.
pub(crate) fn encoder(call: &Call<'_>, kind: Kind) -> Results {
    let params = &call.params;
    let options = Options {
        associative: params.associative,
        timings: params.timings,
        blob_array: params.blob_array,
        qualify_columns: params.qualify_columns && kind == Kind::Read,
        pretty: params.pretty,
        codes: call.is_strict(),
        fail_on_infinity: call.service.options.fail_on_infinity,
    };
    let limits = call.service.limits();
    let limits = Limits {
        rows_max: if limits.result_rows_max == 0 { u64::MAX } else { limits.result_rows_max },
        bytes_max: if limits.result_bytes_max == 0 { usize::MAX } else { limits.result_bytes_max },
    };
    Results::new(options, limits).within(Arc::clone(&call.service.answers))
}

/// The bytes of an answer, which count among those of all answers until they are sent.
struct Counted {
    body: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

fn counted(body: Vec<u8>, share: Option<Share>) -> Bytes {
    match share {
        Some(share) => Bytes::from_owner(Counted { body, _share: share }),
        None => body.into(),
    }
}

/// The reply that holds the results.
pub(crate) fn reply(call: &Call<'_>, results: Results, done: Done) -> Reply {
    let envelope = Envelope {
        elapsed: Some(call.began.elapsed()),
        raft_index: done.index.filter(|_| call.params.raft_index),
        ..Envelope::default()
    };
    match results.finish(&envelope) {
        // Nothing was done, so that it may well be asked again.
        Ok(answer) if answer.lacked_room && done.is_without_effect() => {
            call.service.metrics.overloads.increment();
            error::overloaded("the answers of other requests take all memory; try again later")
        }
        Ok(answer) => Reply {
            error: answer
                .code
                .map(|code| code.header_value_with(done.outcome(code, answer.has_effect))),
            level: done.level,
            ..Reply::json(counted(answer.body, answer.share)).served(done.by)
        },
        Err(unrepresentable) => error::unrepresentable_reply(&unrepresentable.to_string()),
    }
}
