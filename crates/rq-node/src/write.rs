//! Writes: from a client's request to a proposal, and its answer.
//!
//! Refused before anything is proposed: PRAGMAs no client may set, a node that is stopping, too little
//! space. A request that is exactly one VACUUM, ANALYZE, REINDEX or `PRAGMA optimize` becomes
//! maintenance; everything else goes to the batcher as it is.

use rq_sql::{
    Statement,
    classify::{Kind, Target, kind},
};
use rq_sqlite::{Maintenance, Mode, Request};

use crate::{
    Error, Read, Write, Written,
    batcher::Proposed,
    node::{Inner, Node},
};

impl Node {
    /// Runs a write (`/db/execute`).
    ///
    /// # Errors
    /// See [`Error`]; a failing statement is a result, not an error. Dropping the future does not
    /// undo a write that is under way.
    pub async fn execute(&self, write: Write) -> Result<Written, Error> {
        let inner = self.open_inner()?;
        let Write { statements, transaction, timeout } = write;
        inner.metrics.executions.add(1);
        if transaction {
            inner.metrics.execute_transactions.add(1);
        }
        let request = Request { mode: Mode::Execute, transaction, statements };
        let proposed = inner.propose(request, timeout).await?;
        Ok(Written { results: proposed.outcome.results, index: proposed.index, served_by: None })
    }
}

impl Inner {
    /// Proposes the writing form of `/db/request`.
    pub(crate) async fn write_unified(&self, read: Read) -> Result<Proposed, Error> {
        let Read { statements, transaction, timeout, .. } = read;
        let request = Request { mode: Mode::Unified, transaction, statements };
        self.propose(request, timeout).await
    }

    async fn propose(
        &self,
        request: Request,
        timeout: Option<std::time::Duration>,
    ) -> Result<Proposed, Error> {
        refuse_disallowed(&request.statements)?;
        self.progress.admit_write()?;
        if !self.consensus.leads() {
            return Err(self.not_leader());
        }
        let proposed = match maintenance(&request) {
            Some(maintenance) => self.batcher.maintain(maintenance).await?,
            None => self.batcher.propose(request, timeout).await?,
        };
        match proposed.outcome.error {
            Some(error) => Err(Error::Request(error)),
            None => Ok(proposed),
        }
    }
}

/// Refuses a request that sets a PRAGMA no client may set.
pub(crate) fn refuse_disallowed(statements: &[Statement]) -> Result<(), Error> {
    if statements.iter().any(|statement| rq_sql::classify::is_disallowed_pragma(&statement.sql)) {
        return Err(Error::DisallowedPragma);
    }
    Ok(())
}

/// The maintenance a request asks for, if it is exactly that.
fn maintenance(request: &Request) -> Option<Maintenance> {
    let [statement] = request.statements.as_slice() else { return None };
    if request.transaction || !statement.parameters.is_empty() {
        return None;
    }
    match kind(&statement.sql) {
        Kind::Vacuum { schema, into: false }
            if schema.as_deref().is_none_or(|schema| schema.eq_ignore_ascii_case("main")) =>
        {
            Some(Maintenance::Vacuum { page_size: None, auto_vacuum: None })
        }
        Kind::Analyze { target } => {
            Some(Maintenance::Analyze { target: target.as_ref().map(quoted) })
        }
        Kind::Reindex { target } => {
            Some(Maintenance::Reindex { target: target.as_ref().map(quoted) })
        }
        Kind::PragmaOptimize { schema, argument: None }
            if schema.as_deref().is_none_or(|schema| schema.eq_ignore_ascii_case("main")) =>
        {
            Some(Maintenance::Optimize)
        }
        _ => None,
    }
}

/// The target as SQL again.
fn quoted(target: &Target<'_>) -> String {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    match &target.schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(&target.name)),
        None => quote(&target.name),
    }
}
