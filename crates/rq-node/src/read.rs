//! Reads: first the level is established, then the query runs on a reader connection.
//!
//! | level | established by |
//! |---|---|
//! | none | nothing (the freshness bound, on a node that does not lead) |
//! | weak | this node believes to lead, and has applied an entry of its own term |
//! | linearizable | an index confirmed by a quorum, asked of the leader by any other node, shared by all waiting reads; then this node has applied that far |
//! | strong | an entry of its own through the log, shared by all waiting reads |
//! | auto | as weak on a voter |
//!
//! A node of another engine epoch runs no read itself (`engine`).
//!
//! # Where a query runs
//! Most reads take microseconds, so a read starts on the async worker it came in on, with an
//! allowance of [`TURN_STEPS`] VM steps. One that needs more has called nothing final by then: it
//! starts over on a blocking thread, where it may take as long as its limits say. Dropping the future
//! cancels a running read.

use std::time::{Duration, Instant};

use rq_sql::{
    Column, End, ResultSink, SinkError, Statement, Value, ValueRef,
    classify::{Kind, kind},
};
use rq_sqlite::{CancelFlag, Query, QueryEnd, QueryError, ReadOrWrite, Readers};
use rq_storage::Execution;

use crate::{
    Error, Level, Read, Served,
    batcher::Proposed,
    forward::RequestKind,
    node::{Inner, Node},
    turns::TURN_STEPS,
    write::refuse_disallowed,
};

/// How long a read that states no time itself waits for a round: as long as upstream waits for others.
const ROUND_PATIENCE: Duration = Duration::from_secs(30);
/// How long a weak read waits for a new leader to apply its first entry.
const NEW_LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// How often a read that waits for this node to catch up looks whether it can.
const LEFT_OUT_GLANCE: Duration = Duration::from_millis(250);

impl Node {
    /// Runs reads (`/db/query`) and gives their results to `sink`, which comes back.
    ///
    /// # Errors
    /// See [`Error`]; a failing statement is a result, not an error.
    pub async fn query<S>(&self, read: Read, sink: S) -> Result<(S, Served), Error>
    where
        S: ResultSink + Send + 'static,
    {
        refuse_disallowed(&read.statements)?;
        let inner = self.open_inner()?;
        inner.metrics.queries.add(1);
        if read.transaction {
            inner.metrics.query_transactions.add(1);
        }
        let served = inner.establish(&read, read.linearizable_timeout).await?;
        let sink = inner.run(read, sink).await?;
        Ok((sink, served))
    }

    /// Runs mixed statements (`/db/request`): on a reader if all of them read, through the log if not.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn request<S>(&self, read: Read, sink: S) -> Result<(S, Served), Error>
    where
        S: ResultSink + Send + 'static,
    {
        let inner = self.open_inner()?;
        let begun = inner.begin_request(read, ROUND_PATIENCE).await?;
        inner.finish_request(begun, sink).await
    }

    /// SQLite's message if the text does not compile for a reason of syntax; nothing is run.
    ///
    /// # Errors
    /// There is no connection to ask.
    pub async fn check(&self, sql: &str) -> Result<Option<String>, Error> {
        let explained = match kind(sql) {
            Kind::Explain => sql.to_owned(),
            _ => format!("EXPLAIN {sql}"),
        };
        let explained = Statement::new(explained);
        let read = Read { statements: vec![explained], level: Level::None, ..Read::default() };
        let sink = self.open_inner()?.run(read, Collected::default()).await?;
        Ok(sink.error.filter(|message| {
            ["syntax error", "incomplete input", "unrecognized token"]
                .iter()
                .any(|reason| message.contains(reason))
        }))
    }
}

/// A request that nothing can stand in the way of any more but its own statements.
pub(crate) enum Begun {
    /// Its level is established; it is still to be read.
    Reading(Read, Served),
    /// It went through the log.
    Written(Proposed, Level),
}

impl Inner {
    /// Does what needs this node to lead. What fails because it does not was not done. A round may take `patience` for
    /// mixed statements, whose time to be linearizable is for the state machine alone.
    pub(crate) async fn begin(
        &self,
        kind: RequestKind,
        read: &Read,
        patience: Duration,
    ) -> Result<Begun, Error> {
        match kind {
            RequestKind::Unified => self.begin_request(read.clone(), patience).await,
            RequestKind::Query => {
                let served = self.establish(read, read.linearizable_timeout).await?;
                Ok(Begun::Reading(read.clone(), served))
            }
        }
    }

    /// The same of mixed statements: a reader reads what only reads, the rest goes through the log.
    pub(crate) async fn begin_request(
        &self,
        read: Read,
        patience: Duration,
    ) -> Result<Begun, Error> {
        refuse_disallowed(&read.statements)?;
        self.count_request(&read);
        let (read_only, mut read) = self.all_read(read).await?;
        if read_only {
            // The level of an all-read request is honoured here on every node, also `auto`.
            let served = self.establish(&read, patience).await?;
            return Ok(Begun::Reading(read, served));
        }
        if let Some(index) = read.min_index {
            // What it reads on the way sees at least what is applied before it is proposed.
            self.progress.wait_applied(index, read.linearizable_timeout).await?;
        }
        let level = std::mem::take(&mut read.level);
        Ok(Begun::Written(self.write_unified(read).await?, level))
    }

    /// Gives the results.
    pub(crate) async fn finish_request<S>(
        &self,
        begun: Begun,
        mut sink: S,
    ) -> Result<(S, Served), Error>
    where
        S: ResultSink + Send + 'static,
    {
        match begun {
            Begun::Reading(read, served) => Ok((self.run(read, sink).await?, served)),
            Begun::Written(proposed, level) => {
                for result in &proposed.outcome.results {
                    result.outcome.replay(result.elapsed, &mut sink);
                }
                Ok((sink, Served { level, index: Some(proposed.index), served_by: None }))
            }
        }
    }

    pub(crate) fn count_request(&self, read: &Read) {
        self.metrics.requests.add(1);
        if read.transaction {
            self.metrics.request_transactions.add(1);
        }
    }

    /// Whether every statement may run on a reader. Asked on this worker if a connection is free,
    /// else where waiting for one is allowed.
    pub(crate) async fn all_read(&self, read: Read) -> Result<(bool, Read), Error> {
        match classify(&self.readers, &read, Some(Instant::now())) {
            Err(QueryError::NoConnectionInTime) => {}
            answer => return Ok((answer.map_err(read_error)?, read)),
        }
        let deadline = self.deadline(&read);
        if self.execution == Execution::Inline {
            return Ok((classify(&self.readers, &read, deadline).map_err(read_error)?, read));
        }
        let readers = self.readers.clone();
        let asked = tokio::task::spawn_blocking(move || {
            classify(&readers, &read, deadline).map(|answer| (answer, read))
        });
        asked.await.map_err(|_| Error::ShuttingDown)?.map_err(read_error)
    }

    fn deadline(&self, read: &Read) -> Option<Instant> {
        let own_limit = Some(self.options.limits.query_time_max).filter(|limit| !limit.is_zero());
        let limit = match (read.timeout, own_limit) {
            (Some(asked), Some(own)) => Some(asked.min(own)),
            (asked, own) => asked.or(own),
        };
        limit.map(|limit| Instant::now() + limit)
    }

    /// Makes sure that a read on this node now is as fresh as asked. It may take `patience` to find out what a
    /// linearizable read must see.
    pub(crate) async fn establish(&self, read: &Read, patience: Duration) -> Result<Served, Error> {
        let mut served = Served { level: read.level, index: None, served_by: None };
        match read.level {
            Level::None => {
                self.progress.admit_engine()?;
                self.check_freshness(read)?;
            }
            Level::Weak | Level::Auto => {
                served.level = Level::Weak;
                if !self.consensus.leads() {
                    return Err(self.not_leader());
                }
                self.take_over().await?;
            }
            // It would never catch up, or has applied something else.
            Level::Linearizable
                if self.progress.other_engine().is_some() || self.progress.given_up().is_some() =>
            {
                return Err(self.not_leader());
            }
            Level::Linearizable => match self.consensus.committed_by_only_voter() {
                // There is nobody to ask.
                Some(committed) => {
                    self.take_over().await?;
                    if self.progress.applied().index < committed {
                        self.progress.wait_applied(committed, read.linearizable_timeout).await?;
                    }
                }
                None => self.catch_up(read, patience).await?,
            },
            Level::Strong => {
                if !self.consensus.leads() {
                    return Err(self.not_leader());
                }
                let wait = read.timeout.unwrap_or(ROUND_PATIENCE);
                served.index = Some(in_time(read, wait, self.barriers.join()).await?);
            }
        }
        if let Some(index) = read.min_index {
            self.progress.wait_applied(index, read.linearizable_timeout).await?;
        }
        Ok(served)
    }

    /// A new leader may still have to apply what its predecessor acknowledged.
    async fn take_over(&self) -> Result<(), Error> {
        let applied = self.progress.wait_term(self.consensus.term(), NEW_LEADER_PATIENCE);
        match applied.await {
            Err(Error::NotReady) if !self.consensus.leads() => Err(self.not_leader()),
            applied => applied,
        }
    }

    /// Waits until this node has applied what a linearizable read must see.
    async fn catch_up(&self, read: &Read, patience: Duration) -> Result<(), Error> {
        // On the leader the client's time is for the state machine: a round that has its quorum takes a heartbeat.
        let least = if self.consensus.leads() { self.one_attempt() } else { Duration::ZERO };
        let limit = patience.max(least);
        let began = tokio::time::Instant::now();
        let index = in_time(read, limit, self.confirmations.join()).await;
        let index = match index {
            Err(Error::DeadlineExceeded) if self.consensus.leader().is_none() => {
                return Err(Error::LeaderNotFound);
            }
            index => index?,
        };
        if self.progress.applied().index >= index {
            return Ok(());
        }
        let left = limit.saturating_sub(began.elapsed()).min(read.linearizable_timeout);
        let deadline = tokio::time::Instant::now() + left;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let applied = self.progress.wait_applied(index, left.min(LEFT_OUT_GLANCE)).await;
            match applied {
                Err(Error::WaitTimeout { .. }) if left > LEFT_OUT_GLANCE => {}
                end => return end,
            }
            if self.is_left_out() {
                return Err(self.not_leader());
            }
        }
    }

    /// Whether nobody tells this node what is committed: it was removed, or the leader does not reach it.
    fn is_left_out(&self) -> bool {
        let silent = self.progress.leader_silent_for();
        !self.consensus.leads() && silent.is_none_or(|silent| silent > self.one_attempt())
    }

    /// A node that does not lead answers only while its last contact with the leader is recent enough.
    fn check_freshness(&self, read: &Read) -> Result<(), Error> {
        let Some(freshness) = read.freshness.filter(|freshness| !freshness.is_zero()) else {
            return Ok(());
        };
        if self.consensus.leads() {
            return Ok(());
        }
        let fresh = self.progress.leader_silent_for().is_some_and(|silent| silent <= freshness);
        if fresh && !(read.freshness_strict && self.progress.lags_by_more_than(freshness)) {
            return Ok(());
        }
        tracing::debug!(component = "store", "no contact within {freshness:?}: stale read");
        Err(Error::StaleRead)
    }

    pub(crate) async fn run<S>(&self, read: Read, mut sink: S) -> Result<S, Error>
    where
        S: ResultSink + Send + 'static,
    {
        let deadline = self.deadline(&read);
        let cancel = CancelFlag::new();
        let inline = self.execution == Execution::Inline;
        let allowance = (!inline).then_some(TURN_STEPS);
        let turn = if inline { None } else { self.machinery.turns.take().await };
        if inline || turn.is_some() {
            match self.readers.query(&query(&read, deadline, &cancel, allowance), &mut sink) {
                Ok(QueryEnd::Done) => return Ok(sink),
                Ok(QueryEnd::Yielded) => sink.reset(),
                Err(error) => return Err(read_error(error)),
            }
        }
        drop(turn);
        let readers = self.readers.clone();
        let guard = CancelOnDrop(cancel.clone());
        let task = tokio::task::spawn_blocking(move || {
            readers.query(&query(&read, deadline, &cancel, None), &mut sink).map(|_| sink)
        });
        let result = task.await;
        drop(guard);
        match result {
            Ok(Ok(sink)) => Ok(sink),
            Ok(Err(error)) => Err(read_error(error)),
            Err(_) => Err(Error::ShuttingDown),
        }
    }
}

/// Waits for a round no longer than the read allows, and not beyond `limit`, however long the round goes on.
async fn in_time(
    read: &Read,
    limit: Duration,
    round: impl Future<Output = Result<u64, Error>>,
) -> Result<u64, Error> {
    let patience = read.timeout.map_or(limit, |timeout| timeout.min(limit));
    tokio::time::timeout(patience, round).await.map_err(|_| Error::DeadlineExceeded)?
}

fn classify(readers: &Readers, read: &Read, deadline: Option<Instant>) -> Result<bool, QueryError> {
    for statement in &read.statements {
        match readers.classify(statement, deadline)? {
            ReadOrWrite::Read => {}
            ReadOrWrite::Write => return Ok(false),
        }
    }
    Ok(true)
}

fn query<'a>(
    read: &'a Read,
    deadline: Option<Instant>,
    cancel: &CancelFlag,
    step_allowance: Option<u64>,
) -> Query<'a> {
    Query {
        statements: &read.statements,
        transaction: read.transaction,
        deadline,
        cancel: Some(cancel.clone()),
        step_allowance,
    }
}

fn read_error(error: QueryError) -> Error {
    match error {
        QueryError::NoConnectionInTime => Error::DeadlineExceeded,
        QueryError::Closed => Error::NotOpen,
        error @ (QueryError::Cancelled
        | QueryError::TransactionOver
        | QueryError::Transaction(_)
        | QueryError::Local(_)) => Error::Request(error.to_string()),
    }
}

/// Cancels the read on the blocking thread when nobody waits for it any more.
struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Keeps the first error and all values, for questions of our own.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) values: Vec<Value>,
    pub(crate) error: Option<String>,
}

impl ResultSink for Collected {
    fn columns(&mut self, _columns: &[Column]) {}

    fn row(&mut self, row: &[ValueRef<'_>]) -> Result<(), SinkError> {
        self.values.extend(row.iter().copied().map(ValueRef::to_owned));
        Ok(())
    }

    fn end(&mut self, end: End, _elapsed: Duration) {
        if let End::Error(error) = end {
            self.error.get_or_insert(error.message);
        }
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}
