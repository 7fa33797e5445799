//! Encoders of results, as a request asks for them, and the replies made of them.

use rq_api::{
    error::Outcome,
    results::{Envelope, Limits, Options, Results},
};

use rq_node::{Level, Served, Written};

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
}

impl Done {
    /// Nothing was asked for.
    pub(crate) fn nothing() -> Self {
        Self { index: None, by: ServedBy::ThisNode, level: None }
    }
}

impl From<Written> for Done {
    fn from(written: Written) -> Self {
        Self { index: Some(written.index), by: written.served_by.into(), level: None }
    }
}

impl From<Served> for Done {
    fn from(served: Served) -> Self {
        // What went through the log saw everything before it, whatever was asked for.
        let level = if served.index.is_some() { Level::Strong } else { served.level };
        Self { index: served.index, by: served.served_by.into(), level: Some(level) }
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
    Results::new(options, limits)
}

/// The reply that holds the results.
pub(crate) fn reply(call: &Call<'_>, results: Results, done: Done) -> Reply {
    let Done { index, by, level } = done;
    let envelope = Envelope {
        elapsed: Some(call.began.elapsed()),
        raft_index: index.filter(|_| call.params.raft_index),
        ..Envelope::default()
    };
    match results.finish(&envelope) {
        Ok(answer) => Reply {
            // What never went through the log had no effect, whatever its code says in general.
            error: answer.code.map(|code| match index {
                None => code.header_value_with(Outcome::NotDone),
                Some(_) => code.header_value(),
            }),
            level,
            ..Reply::json(answer.body).served(by)
        },
        Err(unrepresentable) => error::unrepresentable_reply(&unrepresentable.to_string()),
    }
}
