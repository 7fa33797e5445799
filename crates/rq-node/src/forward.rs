//! Requests that may be answered by another node: writes and reads of the leader, from any node.
//!
//! # Never twice
//! A request that may have an effect is sent to a leader once. If not one byte of it can have arrived, or the node asked
//! says that it does not lead, it was not done and may be sent again; if it was sent and no answer came, its outcome is
//! unknown and stays so.
//!
//! # Waiting for a leader
//! Between two leaders there is a short time without one. A request waits for the next as long as an election takes, before
//! it fails with "leader not found". Where a leader turned out not to answer, that time begins then, and a leader that
//! is known to be another one is asked as long as the request has time.

use std::time::Duration;

use rq_security::Credentials;
use rq_sql::ResultSink;
use tokio::time::Instant;

use crate::{
    Error, Level, Member, Node, Read, Served, Write, Written,
    node::Inner,
    service::{
        client::unexpected,
        message::{Answer, Ask},
    },
};

/// How long a round that finds a read index may take. Each read that waits for it has a limit of its own.
const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a request on its way looks whether another node leads; changes of Raft are seen at once.
const LEADER_GLANCE: Duration = Duration::from_millis(100);

/// How a request may travel, and on whose behalf.
#[derive(Clone, Debug)]
pub struct Route {
    /// The client's own credentials; the node that answers checks them again.
    pub credentials: Option<Credentials>,
    /// Whether it may be passed on to the leader. If not, [`Error::NotLeader`] says who leads.
    pub forward: bool,
    /// How long another node may take to answer (`timeout`).
    pub timeout: Duration,
    /// How often it is tried again if it was certainly not done (`retries`).
    pub retries: u32,
}

impl Node {
    /// Runs a write here or on the leader.
    ///
    /// # Errors
    /// As [`Node::execute`], and [`Error::OutcomeUnknown`] if the leader's answer was lost.
    pub async fn execute_routed(&self, write: Write, route: &Route) -> Result<Written, Error> {
        let inner = self.open_inner()?;
        if inner.consensus.is_alone() {
            return self.execute(write).await;
        }
        let mut attempt = inner.attempt(route);
        loop {
            let result = match inner.find_leader(&mut attempt).await? {
                Leader::Here => self.execute(write.clone()).await,
                Leader::There(leader) => {
                    inner.metrics.remote_executions.add(1);
                    let asked =
                        inner.ask_leader(&leader, Ask::Execute(write.clone()), &attempt).await;
                    asked.and_then(|answer| match answer {
                        Answer::Results { results, index, level: _ } => Ok(Written {
                            results,
                            index: index.unwrap_or_default(),
                            served_by: Some(leader.raft_addr.clone()),
                        }),
                        other => Err(unexpected(&leader.raft_addr, &other)),
                    })
                }
            };
            let error = match result {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            if !inner.goes_on(&mut attempt, &error).await {
                if attempt.forwarded {
                    inner.metrics.remote_executions_failed.add(1);
                }
                return Err(error);
            }
        }
    }

    /// Runs reads here or on the leader, as their level needs.
    ///
    /// # Errors
    /// As [`Node::query`].
    pub async fn query_routed<S>(
        &self,
        mut read: Read,
        sink: S,
        route: &Route,
    ) -> Result<(S, Served), Error>
    where
        S: ResultSink + Send + 'static,
    {
        crate::write::refuse_disallowed(&read.statements)?;
        let inner = self.open_inner()?;
        inner.metrics.queries.add(1);
        if read.transaction {
            inner.metrics.query_transactions.add(1);
        }
        read.level = inner.resolve(read.level);
        if read.level == Level::Linearizable && !route.forward && !inner.consensus.leads() {
            return Err(inner.not_leader());
        }
        let mut patience = read.linearizable_timeout;
        if !inner.consensus.leads() {
            patience = patience.min(route.timeout);
        }
        match inner.establish(&read, patience).await {
            Ok(served) => {
                let sink = inner.run(read, sink).await?;
                Ok((sink, served))
            }
            // A read that needs the leader, and this node is not (or no longer) it.
            Err(error) if inner.is_to_be_passed_on(&read, &error) => {
                self.elsewhere(read, sink, route, RequestKind::Query).await
            }
            Err(error) => Err(error),
        }
    }

    /// Runs mixed statements here or on the leader.
    ///
    /// # Errors
    /// As [`Node::request`], and [`Error::OutcomeUnknown`] if the leader's answer was lost.
    pub async fn request_routed<S>(
        &self,
        mut read: Read,
        sink: S,
        route: &Route,
    ) -> Result<(S, Served), Error>
    where
        S: ResultSink + Send + 'static,
    {
        let inner = self.open_inner()?;
        if inner.consensus.leads() {
            if inner.consensus.is_alone() {
                return self.request(read, sink).await;
            }
            return match inner.begin_request(read.clone(), route.timeout).await {
                Ok(begun) => inner.finish_request(begun, sink).await,
                Err(error) if error.leader_is_elsewhere() => {
                    self.elsewhere(read, sink, route, RequestKind::Unified).await
                }
                Err(error) => Err(error),
            };
        }
        crate::write::refuse_disallowed(&read.statements)?;
        let (read_only, same) = inner.all_read(read).await?;
        read = same;
        let local = match read.level {
            Level::None | Level::Auto => true,
            Level::Linearizable => route.forward,
            Level::Weak | Level::Strong => false,
        };
        if !(read_only && local) {
            return self.elsewhere(read, sink, route, RequestKind::Unified).await;
        }
        // Upstream answers `auto` here on every node, without a look at the leader.
        if read.level == Level::Auto {
            read.level = Level::None;
            read.freshness = None;
        }
        inner.count_request(&read);
        match inner.establish(&read, route.timeout).await {
            Ok(served) => Ok((inner.run(read, sink).await?, served)),
            Err(error) if inner.is_to_be_passed_on(&read, &error) => {
                self.elsewhere(read, sink, route, RequestKind::Unified).await
            }
            Err(error) => Err(error),
        }
    }

    async fn elsewhere<S>(
        &self,
        read: Read,
        mut sink: S,
        route: &Route,
        kind: RequestKind,
    ) -> Result<(S, Served), Error>
    where
        S: ResultSink + Send + 'static,
    {
        let inner = self.open_inner()?;
        let mut attempt = inner.attempt(route);
        loop {
            let result = match inner.find_leader(&mut attempt).await? {
                Leader::Here => match inner.begin(kind, &read, route.timeout).await {
                    Ok(begun) => return inner.finish_request(begun, sink).await,
                    Err(error) => Err(error),
                },
                Leader::There(leader) => {
                    let ask = match kind {
                        RequestKind::Query => {
                            inner.metrics.remote_queries.add(1);
                            Ask::Query(read.clone())
                        }
                        RequestKind::Unified => {
                            inner.metrics.remote_requests.add(1);
                            Ask::Unified(read.clone())
                        }
                    };
                    let asked = inner.ask_leader(&leader, ask, &attempt);
                    let asked = match kind {
                        RequestKind::Query => {
                            inner.unless_replaced(inner.one_attempt(), asked).await
                        }
                        RequestKind::Unified => asked.await,
                    };
                    asked.and_then(|answer| match answer {
                        Answer::Results { results, level, index } => {
                            for result in &results {
                                result.outcome.replay(result.elapsed, &mut sink);
                            }
                            let served_by = Some(leader.raft_addr.clone());
                            Ok(Served { level, index, served_by })
                        }
                        other => Err(unexpected(&leader.raft_addr, &other)),
                    })
                }
            };
            let error = match result {
                Ok(served) => return Ok((sink, served)),
                Err(error) => error,
            };
            if !inner.goes_on(&mut attempt, &error).await {
                match kind {
                    RequestKind::Query => inner.metrics.remote_queries_failed.add(1),
                    RequestKind::Unified => inner.metrics.remote_requests_failed.add(1),
                }
                return Err(error);
            }
        }
    }

    /// Removes a member, here or through the leader. Unknown names are fine.
    ///
    /// # Errors
    /// No leader, no permission there, the last voter, or an unknown outcome.
    pub async fn remove(&self, name: &str, route: &Route) -> Result<Option<String>, Error> {
        let inner = self.open_inner()?;
        inner.change_on_leader(route, Ask::Remove(name.to_owned()), inner.remove_here(name)).await
    }

    /// Waits until a request has to wait for a leader: somebody may soon want to know why there is none.
    pub async fn leader_missed(&self) {
        self.inner().leader_missed.notified().await;
    }

    /// Hands leadership over, to the named member or to the one that is farthest; answers once it was taken.
    ///
    /// # Errors
    /// No leader, no permission there, nobody to take it.
    pub async fn step_down(
        &self,
        target: Option<&str>,
        route: &Route,
    ) -> Result<Option<String>, Error> {
        let inner = self.open_inner()?;
        let ask = Ask::StepDown(target.map(str::to_owned));
        inner.change_on_leader(route, ask, inner.step_down_here(target)).await
    }
}

/// What a request asks of its leader.
#[derive(Clone, Copy)]
pub(crate) enum RequestKind {
    Query,
    Unified,
}

/// Where the leader is.
enum Leader {
    Here,
    There(Member),
}

/// A request on its way to a leader.
struct Attempt<'a> {
    route: &'a Route,
    /// Until when it may look for a leader.
    patience: Instant,
    deadline: Instant,
    retries: u32,
    forwarded: bool,
    /// Who was asked last.
    asked: Option<String>,
    /// Who was asked in vain last.
    failed: Option<String>,
}

impl Attempt<'_> {
    /// Whether a failed request may be sent again: it was certainly not done, or changes nothing, and there is time.
    fn may_go_on(&mut self, error: &Error, leader: Option<Member>, patience: Duration) -> bool {
        let now = Instant::now();
        let elsewhere = error.leader_is_elsewhere();
        let unreached = matches!(error, Error::Unreachable(_));
        if !(elsewhere || unreached) || now >= self.deadline {
            return false;
        }
        if unreached && self.retries > 0 {
            self.retries -= 1;
            return true;
        }
        if !self.route.forward {
            return false;
        }
        // That this leader is none is known from now on; the election may only be beginning.
        if self.failed != self.asked {
            self.failed.clone_from(&self.asked);
            self.patience = self.patience.max(now + patience).min(self.deadline);
        }
        now < self.patience || leader.is_some_and(|leader| Some(leader.id) != self.asked)
    }
}

impl Error {
    /// Whether the node asked does not lead (any more): the request was not done, another may do it.
    pub(crate) fn leader_is_elsewhere(&self) -> bool {
        matches!(self, Self::NotLeader { .. } | Self::LeaderNotFound)
    }
}

impl Inner {
    fn attempt<'a>(&self, route: &'a Route) -> Attempt<'a> {
        let now = Instant::now();
        Attempt {
            route,
            patience: now + self.election_patience().min(route.timeout),
            deadline: now + route.timeout,
            retries: route.retries,
            forwarded: false,
            asked: None,
            failed: None,
        }
    }

    /// How long it is worth waiting for a new leader: an election with one round lost. A node without peers does not wait.
    fn election_patience(&self) -> Duration {
        if self.consensus.is_alone() {
            return Duration::ZERO;
        }
        self.options.timing.election_timeout.max(Duration::from_millis(500)) * 2
    }

    /// How long one attempt to ask the leader for an index may take: a leader that needs longer may be none any more.
    pub(crate) fn one_attempt(&self) -> Duration {
        self.options.timing.election_timeout.max(Duration::from_millis(500))
    }

    /// Whether a read that could not be served here is one for the leader. A linearizable one has looked for it already,
    /// as long as it could.
    fn is_to_be_passed_on(&self, read: &Read, error: &Error) -> bool {
        let has_looked = read.level == Level::Linearizable
            && self.consensus.leader().is_none()
            && self.progress.other_engine().is_none();
        error.leader_is_elsewhere() && !has_looked
    }

    /// Whether a request that failed is to be tried again; waits a moment before, in which news of another leader may come.
    async fn goes_on(&self, attempt: &mut Attempt<'_>, error: &Error) -> bool {
        const MOMENT: Duration = Duration::from_millis(25);
        if !attempt.may_go_on(error, self.consensus.leader(), self.election_patience()) {
            return false;
        }
        tokio::time::sleep_until((Instant::now() + MOMENT).min(attempt.deadline)).await;
        true
    }

    /// Finds the leader, waiting for one if there is none just now.
    async fn find_leader(&self, attempt: &mut Attempt<'_>) -> Result<Leader, Error> {
        let found = self.look_for_leader(attempt).await?;
        attempt.asked = Some(match &found {
            Leader::Here => self.node_id.clone(),
            Leader::There(leader) => leader.id.clone(),
        });
        Ok(found)
    }

    async fn look_for_leader(&self, attempt: &mut Attempt<'_>) -> Result<Leader, Error> {
        if self.consensus.leads() {
            return Ok(Leader::Here);
        }
        // Once: what watches changes takes the first look for one.
        let mut changes = self.consensus.changes();
        loop {
            if self.consensus.leads() {
                return Ok(Leader::Here);
            }
            match self.consensus.leader() {
                Some(leader) if leader.id != self.node_id => {
                    if !attempt.route.forward {
                        return Err(Error::NotLeader { leader: Some(leader) });
                    }
                    attempt.forwarded = true;
                    return Ok(Leader::There(leader));
                }
                _ => {}
            }
            if Instant::now() >= attempt.patience {
                return Err(Error::LeaderNotFound);
            }
            self.leader_missed.notify_one();
            match tokio::time::timeout_at(attempt.patience, changes.next()).await {
                Ok(true) => {}
                // Raft is gone: nothing will ever change.
                Ok(false) => return Err(Error::ShuttingDown),
                Err(_) => return Err(Error::LeaderNotFound),
            }
        }
    }

    /// The index a linearizable read must see: confirmed here on the leader, asked for by any other node.
    ///
    /// # Errors
    /// No leader in the time an election takes, or it does not answer.
    pub(crate) async fn read_index(&self) -> Result<u64, Error> {
        // Asking changes nothing, so it is done again as long as there is a leader to ask.
        let (timeout, retries) = (READ_INDEX_TIMEOUT, u32::MAX);
        let route = Route { credentials: None, forward: true, timeout, retries };
        let mut attempt = self.attempt(&route);
        loop {
            let leader = self.find_leader(&mut attempt).await?;
            let asked = async {
                let asked = self.index_of(&leader, &attempt);
                match leader {
                    // Raft ends the round itself when another one leads.
                    Leader::Here => asked.await,
                    Leader::There(_) => self.unless_replaced(Duration::ZERO, asked).await,
                }
            };
            let found = match tokio::time::timeout(self.one_attempt(), asked).await {
                Ok(found) => found,
                Err(_) => Err(Error::Unreachable("the leader gives no index in time".to_owned())),
            };
            match found {
                Err(error) if self.goes_on(&mut attempt, &error).await => {}
                found => return found,
            }
        }
    }

    async fn index_of(&self, leader: &Leader, attempt: &Attempt<'_>) -> Result<u64, Error> {
        match leader {
            Leader::Here => self.confirm_leadership().await,
            Leader::There(leader) => {
                match self.ask_leader(leader, Ask::ReadIndex, attempt).await? {
                    Answer::Index(index) => Ok(index),
                    other => Err(unexpected(&leader.raft_addr, &other)),
                }
            }
        }
    }

    /// Waits for the answer of a leader, but not for that of one that another has replaced: it has `grace` from then.
    /// Only for what may be asked again.
    async fn unless_replaced<T>(
        &self,
        grace: Duration,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let replaced = async {
            self.another_leads().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            biased;
            answer = asked => answer,
            () = replaced => Err(Error::Unreachable("another node leads meanwhile".to_owned())),
        }
    }

    /// Waits until there is a leader that is not the one of now.
    async fn another_leads(&self) {
        let before = self.consensus.glance();
        let mut changes = self.consensus.changes();
        loop {
            if tokio::time::timeout(LEADER_GLANCE, changes.next()).await == Ok(false) {
                // Raft is gone: nothing will ever change.
                std::future::pending::<()>().await;
            }
            let now = self.consensus.glance();
            if now.leader.is_some() && (now.term, now.leader) != (before.term, before.leader) {
                return;
            }
        }
    }

    async fn ask_leader(
        &self,
        leader: &Member,
        ask: Ask,
        attempt: &Attempt<'_>,
    ) -> Result<Answer, Error> {
        let timeout = attempt.deadline.saturating_duration_since(Instant::now());
        let credentials = attempt.route.credentials.clone();
        self.client.ask(&leader.raft_addr, ask, credentials, timeout).await
    }

    /// Does here what the leader is to do if this node leads, else asks the leader; gives who did it if it was another.
    async fn change_on_leader(
        &self,
        route: &Route,
        ask: Ask,
        here: impl Future<Output = Result<(), Error>>,
    ) -> Result<Option<String>, Error> {
        let mut attempt = self.attempt(route);
        match self.find_leader(&mut attempt).await? {
            Leader::Here => here.await.map(|()| None),
            Leader::There(leader) => match self.ask_leader(&leader, ask, &attempt).await? {
                Answer::Done => Ok(Some(leader.raft_addr)),
                other => Err(unexpected(&leader.raft_addr, &other)),
            },
        }
    }

    /// The level a read gets: `auto` is weak on a voter and none on a read replica or a stranger.
    fn resolve(&self, level: Level) -> Level {
        match level {
            Level::Auto if self.consensus.view().voter => Level::Weak,
            Level::Auto => Level::None,
            other => other,
        }
    }
}
