//! What other members ask of Raft here: checked whether it is meant for this node, then given to openraft.
//!
//! # Invariants
//! - Nothing reaches openraft that another cluster sent, or that is meant for another incarnation: an address may
//!   have been given to a new node, and a member of a cluster that was recovered without it may come back.
//! - What a request holds besides its header is read only once the header is admitted.
//! - Nor does what contradicts an applied entry (`divergence`), nor anything once the node takes no part any more.
//! - A node that has no cluster yet belongs to the one that first speaks to its incarnation: that number is random
//!   and known only to whom this node has told it. It does so durably, before it answers.

use std::sync::Arc;

use bytes::Bytes;
use openraft::{
    errors::{Infallible, RaftError},
    raft::{AppendEntriesRequest, AppendEntriesResponse::HigherVote},
};

use rq_storage::Log;

use super::{
    Raft, TypeConfig,
    acknowledged::sentence,
    divergence,
    wire::{Answer, Header, Request, Sealed},
};
use crate::{identity::Cluster, notices::Notices, progress::Progress};

/// Answers the other members.
pub(crate) struct RaftAnswers {
    raft: Raft,
    cluster: Arc<Cluster>,
    progress: Arc<Progress>,
    log: Log,
    notices: Notices,
}

impl RaftAnswers {
    pub(crate) fn new(
        raft: Raft,
        cluster: Arc<Cluster>,
        progress: Arc<Progress>,
        log: Log,
    ) -> Self {
        Self { raft, cluster, progress, log, notices: Notices::default() }
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Bytes) -> Bytes {
        let answer = match Sealed::decode(request) {
            Ok(sealed) => match admit(&self.cluster, &sealed.header) {
                Ok(()) => self.ask(sealed).await,
                Err(reason) => {
                    let from = sealed.header.from;
                    self.notices.warn(
                        "raft",
                        &format!("a request of member {from:016x} was refused: {reason}"),
                    );
                    Answer::Refused(reason)
                }
            },
            Err(reason) => self.makes_no_sense(&reason),
        };
        answer.encode()
    }

    fn makes_no_sense(&self, reason: &str) -> Answer {
        self.notices.warn("raft", &format!("a request makes no sense: {reason}"));
        Answer::Refused(format!("the request makes no sense: {reason}"))
    }

    async fn ask(&self, sealed: Sealed) -> Answer {
        let Header { leads, acknowledged, .. } = sealed.header;
        if let Some(reason) = self.progress.given_up() {
            return Answer::Refused(format!("the node takes no part any more: {reason}"));
        }
        let request = match sealed.open() {
            Ok(request) => request,
            Err(reason) => return self.makes_no_sense(&reason),
        };
        match request {
            Request::Append(request) if self.is_diverged_from(&request) => {
                Answer::Refused("what is applied there is not the cluster's".to_owned())
            }
            Request::Append(request) if self.has_lost(&request, acknowledged) => {
                Answer::Refused("it has lost entries that it had acknowledged".to_owned())
            }
            Request::Append(request) => {
                let entries_last = request.entries.last().map(|entry| entry.log_id.index());
                let committed = request.leader_commit.map(|id| id.index());
                let answer = self.raft.append_entries(request).await;
                let is_taken = matches!(&answer, Ok(answer) if !matches!(answer, HigherVote(_)));
                // A leader that has lost its quorum is no contact with the cluster.
                if is_taken && leads {
                    self.progress.hear_leader(entries_last, committed);
                }
                answer.map_or_else(refused, Answer::Append)
            }
            Request::Vote(request) => {
                self.raft.vote(request).await.map_or_else(refused, Answer::Vote)
            }
            Request::PreVote(request) => {
                self.raft.pre_vote(request).await.map_or_else(refused, Answer::Vote)
            }
            Request::Transfer(request)
                if *request.to_node_id() == *self.raft.node_id()
                    && let Some(other) = self.progress.other_engine() =>
            {
                Answer::Transfer(Err(other.to_string()))
            }
            Request::Transfer(request) => match self.raft.handle_transfer_leader(request).await {
                Ok(taken) => Answer::Transfer(taken.map_err(|error| error.to_string())),
                Err(fatal) => Answer::Refused(format!("Raft does not run there: {fatal}")),
            },
        }
    }
}

impl RaftAnswers {
    /// Whether a leader whose word counts has another entry in the place of the one that was applied here last. The node
    /// stops then, and its Raft ends.
    fn is_diverged_from(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        let applied = self.progress.applied();
        if !divergence::contradicts(request, applied) || self.is_old(request) {
            return false;
        }
        self.progress.set_stopped(divergence::sentence(applied));
        self.end();
        true
    }

    /// Whether this node had `acknowledged` entries to the leader that it does not have any more. It takes no part then.
    fn has_lost(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        acknowledged: Option<u64>,
    ) -> bool {
        let Some(acknowledged) = acknowledged else { return false };
        let log = self.log.state();
        let ends = [log.last, log.purged].map(|end| end.map_or(0, |end| end.index));
        // A database that was received reaches farther than the log for a moment.
        let reach = ends[0].max(ends[1]).max(self.progress.applied().index);
        if reach >= acknowledged || self.is_old(request) {
            return false;
        }
        self.progress.set_excluded(&sentence(reach, acknowledged));
        self.end();
        true
    }

    /// Whether a leader says this that was deposed since. Whatever is applied here was committed by one of no newer term
    /// than is voted for here, durably; and whoever replaces what is in the log here has that vote before. So this is
    /// looked at last.
    fn is_old(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        request.vote.leader_id.term < self.log.vote().map_or(0, |vote| vote.term)
    }

    fn end(&self) {
        let raft = self.raft.clone();
        tokio::spawn(async move { drop(raft.shutdown().await) });
    }
}

/// Whether a request is meant for this node.
///
/// # Errors
/// Why it is not.
pub(crate) fn admit(own: &Cluster, header: &Header) -> Result<(), String> {
    let Header { cluster, to, .. } = header;
    if *to != own.raft_id {
        return Err(format!(
            "it is meant for member {to:016x}; here is {} with the number {:016x}",
            own.name, own.raft_id
        ));
    }
    // From here on Raft may vote or store something for that cluster.
    if own.settle_if_of(cluster) {
        return Ok(());
    }
    if cluster.is_empty() {
        return Err("it names no cluster".to_owned());
    }
    own.settle(cluster, false).map_err(|reason| {
        format!(
            "{reason}. (Nodes that are not of one cluster any more: one was recovered without the other. Who was left \
             out comes back with an empty data directory)"
        )
    })?;
    tracing::info!(component = "store", "this node now belongs to cluster {cluster}");
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function on errors")]
fn refused(error: RaftError<TypeConfig, Infallible>) -> Answer {
    Answer::Refused(format!("Raft does not run there: {error}"))
}
