//! The cluster service: what other nodes ask of this one, and what it asks of them.
//!
//! # Who may ask what
//! Whoever asks for data, for a change of it or for a change of the cluster is checked with the *client's* credentials, by
//! this node's own credentials file, as if the client had come here. Besides, requests for data must come from a member
//! of the same cluster. Anybody may ask who this node is. What would take more memory than it has bytes is not
//! decoded before all that is known (`envelope`).
//!
//! # For how long
//! Whoever asks says how long it waits. When that time is over nobody hears the answer: a read ends then, a write
//! ends unless it was proposed, and what was proposed is waited for no longer.

pub(crate) mod client;
pub(crate) mod envelope;
mod failure;
pub(crate) mod fields;
pub(crate) mod fuzzing;
mod gather;
mod introduction;
pub(crate) mod message;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rq_security::{Credentials, Decision, Permission};

use self::envelope::{Most, Sealed};
use self::gather::Gather;
use self::message::{Answer, Ask, Metadata, Newcomer, Request};
use crate::{
    Error, Level, Node,
    disk_watch::DiskState,
    internode::{Answerer, Lane},
    membership::MayJoin,
    metrics::Metrics,
    node::Inner,
    raft::answer::RaftAnswers,
    transfer::Receiver,
};

/// The first byte of a call says what kind of conversation it belongs to; [`Lane::Bulk`] carries snapshots alone.
pub(crate) const RAFT: u8 = b'R';
/// The cluster service.
pub(crate) const SERVICE: u8 = b'S';

/// A message behind the byte that says what kind it is.
pub(crate) fn tagged(kind: u8, message: &impl prost::Message) -> Bytes {
    let mut bytes = Vec::with_capacity(message.encoded_len() + 1);
    bytes.push(kind);
    message.encode_raw(&mut bytes);
    bytes.into()
}

/// Answers the calls of other nodes.
pub(crate) struct Service {
    inner: Weak<Inner>,
    raft: Arc<RaftAnswers>,
    receiver: Receiver,
}

impl Service {
    pub(crate) fn new(inner: &Arc<Inner>, raft: RaftAnswers, receiver: Receiver) -> Self {
        Self { inner: Arc::downgrade(inner), raft: Arc::new(raft), receiver }
    }
}

impl Answerer for Service {
    fn answer(&self, lane: Lane, mut request: Bytes) -> BoxFuture<'static, Bytes> {
        if lane == Lane::Bulk {
            return self.receiver.answer(request);
        }
        if request.is_empty() {
            return Box::pin(std::future::ready(Bytes::new()));
        }
        let kind = request.split_to(1)[0];
        match kind {
            RAFT => {
                let raft = Arc::clone(&self.raft);
                Box::pin(async move { raft.answer(request).await })
            }
            SERVICE => {
                let inner = self.inner.upgrade();
                Box::pin(async move {
                    let answer = match (inner, Sealed::decode(request)) {
                        (_, Err(reason)) => Answer::Failed(senseless(&reason)),
                        (None, Ok(_)) => Answer::Failed(Error::ShuttingDown),
                        (Some(inner), Ok(request)) => {
                            let answer = Node::from_inner(inner).answer(request).await;
                            answer.unwrap_or_else(Answer::Failed)
                        }
                    };
                    answer.encode()
                })
            }
            _ => Box::pin(std::future::ready(Bytes::new())),
        }
    }
}

fn senseless(reason: &str) -> Error {
    Error::Request(format!("the request makes no sense: {reason}"))
}

/// What an operation is called in "remote … not authorized", and what it needs.
struct Need {
    name: &'static str,
    permissions: &'static [Permission],
}

fn need(ask: &Ask) -> Option<Need> {
    let (name, permissions): (_, &'static [Permission]) = match ask {
        Ask::Metadata | Ask::ReadIndex => return None,
        Ask::Execute(_) => ("Execute", &[Permission::Execute]),
        Ask::Query(_) => ("query", &[Permission::Query]),
        Ask::Unified(_) => ("Request", &[Permission::Query, Permission::Execute]),
        // Which one depends on what it joins as.
        Ask::Join(_) => return None,
        Ask::Notify(_) | Ask::Found { .. } => ("notify", &[Permission::Join]),
        Ask::Remove(_) => ("remove node", &[Permission::Remove]),
        Ask::StepDown(_) => ("stepdown", &[Permission::LeaderOps]),
    };
    Some(Need { name, permissions })
}

/// Counts what is asked.
fn count(metrics: &Metrics, ask: &Ask) {
    let counter = match ask {
        Ask::Metadata => &metrics.asked_metadata,
        Ask::Execute(_) => &metrics.asked_execute,
        Ask::Query(_) => &metrics.asked_query,
        Ask::Unified(_) => &metrics.asked_unified,
        Ask::ReadIndex => &metrics.asked_read_index,
        Ask::Join(_) => &metrics.asked_join,
        Ask::Notify(_) | Ask::Found { .. } => &metrics.asked_notify,
        Ask::Remove(_) => &metrics.asked_remove,
        Ask::StepDown(_) => &metrics.asked_step_down,
    };
    counter.add(1);
}

impl Node {
    /// Answers what another node asks.
    async fn answer(&self, sealed: Sealed) -> Result<Answer, Error> {
        let Sealed { request, statements } = sealed;
        let Request { cluster, credentials, time_left, ask } = request;
        let inner = self.open_inner()?;
        count(&inner.metrics, &ask);
        if !matches!(ask, Ask::Metadata | Ask::Join(_) | Ask::Notify(_) | Ask::Found { .. }) {
            inner.check_cluster(cluster.as_deref())?;
        }
        if let Some(need) = need(&ask) {
            for permission in need.permissions {
                inner.permit(credentials.as_ref(), *permission, need.name).await?;
            }
        }
        let limits = &inner.options.limits;
        let most = Most { statements: limits.statements_max, parameters: limits.parameters_max };
        let ask = statements.open(ask, most).map_err(|reason| senseless(&reason))?;
        match time_left {
            Some(time) if ask.is_about_data() => self.carry_out_within(time, ask).await,
            _ => self.carry_out(ask, credentials).await,
        }
    }

    /// Carries out what is about data for as long as somebody waits for it.
    async fn carry_out_within(&self, time: Duration, ask: Ask) -> Result<Answer, Error> {
        let sooner = |timeout: Option<Duration>| timeout.map_or(time, |timeout| timeout.min(time));
        let (may_write, ask) = match ask {
            Ask::Execute(mut write) => {
                write.timeout = Some(sooner(write.timeout));
                (true, Ask::Execute(write))
            }
            Ask::Unified(mut read) => {
                read.timeout = Some(sooner(read.timeout));
                (true, Ask::Unified(read))
            }
            other => (false, other),
        };
        match tokio::time::timeout(time, self.carry_out(ask, None)).await {
            Ok(answer) => answer,
            // It may have been proposed just in time.
            Err(_) if may_write => {
                Err(Error::OutcomeUnknown("the time its client gave it is over".to_owned()))
            }
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }

    async fn carry_out(&self, ask: Ask, credentials: Option<Credentials>) -> Result<Answer, Error> {
        let inner = self.open_inner()?;
        match ask {
            Ask::Metadata => {
                inner.metrics.told_metadata.add(1);
                Ok(Answer::Metadata(inner.metadata()))
            }
            Ask::Execute(write) => {
                let written = self.execute(write).await?;
                Ok(Answer::Results {
                    results: written.results,
                    level: Level::Strong,
                    index: Some(written.index),
                })
            }
            Ask::Query(read) => {
                let gather = Gather::new(&inner.options.limits);
                let (collected, served) = self.query(read, gather).await?;
                let results = collected.outcomes;
                Ok(Answer::Results { results, level: served.level, index: served.index })
            }
            Ask::Unified(read) => {
                let gather = Gather::new(&inner.options.limits);
                let (collected, served) = self.request(read, gather).await?;
                let results = collected.outcomes;
                Ok(Answer::Results { results, level: served.level, index: served.index })
            }
            Ask::ReadIndex => {
                if !inner.consensus.leads() {
                    return Err(inner.not_leader());
                }
                inner.confirmations.join().await.map(Answer::Index)
            }
            Ask::Join(newcomer) => {
                let may = inner.permit_join(&newcomer, credentials.as_ref()).await?;
                inner.join(newcomer, may).await
            }
            Ask::Notify(newcomer) => inner.notified(newcomer).await,
            Ask::Found { founder, cluster, name, raft_id } => {
                let agreed = inner.agree_to_found(founder, &cluster, (&name, raft_id)).await;
                agreed.map(|()| Answer::Done)
            }
            Ask::Remove(name) => inner.remove_here(&name).await.map(|()| Answer::Done),
            Ask::StepDown(target) => {
                inner.step_down_here(target.as_deref()).await.map(|()| Answer::Done)
            }
        }
    }
}

impl Inner {
    /// Data is for members of the same cluster only.
    fn check_cluster(&self, theirs: Option<&str>) -> Result<(), Error> {
        match theirs {
            Some(theirs) if self.cluster.is(theirs) => Ok(()),
            _ => Err(Error::Membership(format!(
                "the asking node is not of the cluster of {}",
                self.node_id
            ))),
        }
    }

    /// Whether the caller may.
    ///
    /// # Errors
    /// It may not, or too many passwords are being verified.
    pub(crate) async fn permit(
        &self,
        credentials: Option<&Credentials>,
        permission: Permission,
        name: &str,
    ) -> Result<(), Error> {
        let users = &self.options.users;
        let decision = match users.check_at_once(credentials, permission) {
            Some(decision) => decision,
            None => {
                let (users, credentials) = (Arc::clone(users), credentials.cloned());
                let check = move || users.check(credentials.as_ref(), permission);
                tokio::task::spawn_blocking(check).await.unwrap_or(Decision::Deny)
            }
        };
        match decision {
            Decision::Allow => Ok(()),
            Decision::Deny => Err(Error::Unauthorized(name.to_owned())),
            Decision::Busy => Err(Error::Overloaded),
        }
    }

    /// Whom the caller may let join. For a read replica either name of its permission does.
    ///
    /// # Errors
    /// Not this newcomer, or too many passwords are being verified.
    async fn permit_join(
        &self,
        newcomer: &Newcomer,
        credentials: Option<&Credentials>,
    ) -> Result<MayJoin, Error> {
        let all = self.permit(credentials, Permission::Join, "join").await;
        if !newcomer.replica || !matches!(all, Err(Error::Unauthorized(_))) {
            return all.map(|()| MayJoin::Everybody);
        }
        let mut replicas = self.permit(credentials, Permission::JoinReadOnly, "join").await;
        if matches!(replicas, Err(Error::Unauthorized(_))) {
            replicas = self.permit(credentials, Permission::JoinReadReplica, "join").await;
        }
        replicas.map(|()| MayJoin::Replicas)
    }

    pub(crate) fn metadata(&self) -> Metadata {
        let view = self.consensus.view();
        let last = self.log.state().last;
        // Who has given up takes nothing either.
        let has_given_up = self.progress.given_up().is_some();
        let disk = if has_given_up { DiskState::Stuck } else { self.progress.disk() };
        Metadata {
            name: self.node_id.clone(),
            raft_id: self.raft_id,
            cluster: self.cluster.id(),
            api_url: self.options.api_url.clone(),
            version: self.options.api_version.clone(),
            commit_index: view.commit_index,
            leads: view.leads,
            last_log: last.map_or((0, 0), |last| (last.term, last.index)),
            disk,
            other_engine: self.progress.other_engine(),
            process: (!has_given_up).then_some(self.process),
        }
    }
}
