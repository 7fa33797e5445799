//! The handle the rest of the node holds on Raft: propose, confirm, look, stop.
//!
//! Everything openraft says is turned here into our own words, so that nobody above knows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{
    Config, RaftMetrics, ReadPolicy, ServerState,
    errors::{ClientWriteError, RaftError},
    raft::ClientWriteResponse,
    rt::{Instant as _, WatchReceiver as _},
    type_config::alias::WatchReceiverOf,
};
use rq_sqlite::{Applied, EntryId};
use rq_storage::Log;
#[cfg(not(test))]
use tokio::sync::watch;

use super::{
    Peer, Raft, Reply, TypeConfig, acknowledged::Acknowledged, answer::RaftAnswers, entry_id,
    network::Connector,
};
use super::{landing::SnapshotLanding, log::LogStore, state_machine::StateMachine};
#[cfg(test)]
use crate::testing::watch;
use crate::{
    Error, OpenError,
    command::Payload,
    identity::Cluster,
    options::Timing,
    progress::Progress,
    status::{Member, Role},
};

/// How long a round that confirms leadership may take before its reads fail.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a barrier may take before the reads behind it fail: applying stands still.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked whether this node still leads while something waits for it.
pub(crate) const LEADERSHIP_INTERVAL: Duration = Duration::from_millis(250);
/// How much longer than lease and election a leader may be silent before it counts as gone.
const SILENCE_MARGIN: Duration = Duration::from_millis(300);
/// How often those look at Raft at most who look at it for as long as the node runs.
const GLANCE_INTERVAL: Duration = Duration::from_millis(20);
/// How long openraft may take to note a snapshot that is made already.
const SNAPSHOT_NOTE_TIMEOUT: Duration = Duration::from_secs(10);

/// The handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Consensus {
    raft: Raft,
    metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    raft_id: u64,
    /// How long a leader that hears nothing of a quorum still counts as one: nobody else can lead before that.
    lease: Duration,
    /// The last term in which this node gave leadership away and cannot store that another leads.
    given_away: Arc<AtomicU64>,
    progress: Arc<Progress>,
    acknowledged: Arc<Acknowledged>,
    /// Held while the membership is being changed.
    change: Arc<tokio::sync::Mutex<()>>,
}

/// What Raft looks like at this moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) role: Role,
    pub(crate) term: u64,
    pub(crate) commit_index: u64,
    pub(crate) snapshot: EntryId,
    pub(crate) leader: Option<Member>,
    pub(crate) leads: bool,
    pub(crate) members: Vec<Member>,
    pub(crate) membership_index: u64,
    pub(crate) peers: u64,
    pub(crate) voter: bool,
    /// Whether this node is to vote but does not yet, or is no member (any more).
    pub(crate) pending: bool,
    /// What the leader said last to be committed; `None` before it said anything since the node was opened.
    pub(crate) cluster_committed: Option<u64>,
    /// Why Raft has ended, if it has.
    pub(crate) ended: Option<String>,
}

/// The little of a [`View`] that tells whether anything has changed; cheap, because metrics change with every entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Glance {
    pub(crate) term: u64,
    pub(crate) leader: Option<u64>,
    pub(crate) leads: bool,
    pub(crate) membership_index: Option<u64>,
}

/// Waits for changes of what [`View`] shows.
pub(crate) struct Changes {
    metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    /// A leader that was silent is none, and one again when it is heard, by which Raft itself need not change.
    heard: watch::Receiver<u64>,
}

impl Consensus {
    /// Starts Raft over a log and a state machine.
    ///
    /// # Errors
    /// Timings that contradict each other; a log that does not fit the state machine.
    pub(crate) async fn start(
        connector: Connector,
        progress: Arc<Progress>,
        timing: &Timing,
        log: LogStore,
        machine: StateMachine,
    ) -> Result<Self, OpenError> {
        let may_lead = progress.other_engine().is_none();
        let config = super::configuration(timing).map_err(OpenError::Raft)?;
        let config = Config { enable_elect: may_lead, ..config };
        let raft_id = connector.raft_id();
        let vote_timeout = Duration::from_millis(config.election_timeout_max);
        let connector = connector.with_vote_timeout(vote_timeout);
        let (leads, acknowledged) = (connector.leads(), connector.acknowledged());
        let raft = Raft::new(raft_id, Arc::new(config), connector, log, machine)
            .await
            .map_err(|fatal| OpenError::Raft(fatal.to_string()))?;
        let metrics = raft.metrics();
        // Not a handle on Raft itself, which would keep itself alive by it.
        let seen = metrics.clone();
        drop(leads.set(Box::new(move || leads_by(&seen.borrow_watched(), vote_timeout))));
        // It answers when it has said for the first time who the members are. Before that a node would take itself for
        // one without peers, and refuse requests that are worth waiting for a leader.
        let told = raft.with_raft_state(|_| ()).await;
        told.map_err(|fatal| OpenError::Raft(fatal.to_string()))?;
        let (lease, given_away, change) = (vote_timeout, Arc::default(), Arc::default());
        Ok(Self { raft, metrics, raft_id, lease, given_away, progress, acknowledged, change })
    }

    /// Whether Raft holds a vote, a log or a membership: whether this node has ever been a member.
    ///
    /// # Errors
    /// Raft has ended, or is about to.
    pub(crate) async fn is_initialized(&self) -> Result<bool, Error> {
        // openraft would log an error of its own.
        if self.progress.is_stopping() {
            return Err(Error::ShuttingDown);
        }
        let asked = self.raft.is_initialized().await;
        asked.map_err(|fatal| Error::Stopped(fatal.to_string()))
    }

    /// Founds a cluster of these voters, this node among them. Each founder of the same cluster must name the
    /// same ones.
    ///
    /// # Errors
    /// Raft has ended, or this node is a member already.
    pub(crate) async fn found(&self, members: BTreeMap<u64, Peer>) -> Result<(), Error> {
        let founded = self.raft.initialize(members).await;
        founded.map_err(|error| Error::Membership(error.to_string()))
    }

    /// An only voter elects itself at once, because nobody else could stand.
    ///
    /// # Errors
    /// Raft has ended.
    pub(crate) async fn elect_if_alone(&self) -> Result<(), Error> {
        let voters: BTreeSet<u64> = self.raft.voter_ids().collect();
        let may_lead = self.progress.other_engine().is_none();
        if may_lead && voters.len() == 1 && voters.contains(&self.raft_id) {
            let elected = self.raft.trigger().elect(false).await;
            elected.map_err(|fatal| Error::Stopped(fatal.to_string()))?;
        }
        Ok(())
    }

    /// Who answers what the other members ask of Raft here.
    pub(crate) fn answers(&self, cluster: Arc<Cluster>, log: Log) -> RaftAnswers {
        RaftAnswers::new(self.raft.clone(), cluster, Arc::clone(&self.progress), log)
    }

    /// Who installs what other members send of their databases.
    pub(crate) fn landing(&self, cluster: Arc<Cluster>) -> SnapshotLanding {
        SnapshotLanding::new(self.raft.clone(), cluster, Arc::clone(&self.progress))
    }

    pub(super) fn raft(&self) -> &Raft {
        &self.raft
    }

    pub(super) fn metrics(&self) -> &WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>> {
        &self.metrics
    }

    pub(super) fn change_turn(&self) -> &tokio::sync::Mutex<()> {
        &self.change
    }

    /// Proposes an entry. `committed` is called, or dropped, when it is durable on a quorum or has
    /// failed; `end` is called exactly once, on any thread, unless Raft ends first: then it is dropped,
    /// and nobody knows.
    pub(crate) async fn propose(
        &self,
        payload: Payload,
        committed: impl FnOnce() + Send + 'static,
        end: impl FnOnce(Result<(Applied, u64), Error>) + Send + 'static,
    ) {
        let reply = Reply::new(committed, move |result: WriteResult| match result {
            Ok(response) => end(Ok((response.data, response.log_id.index()))),
            Err(error) => end(Err(refusal(error))),
        });
        if let Err(fatal) = self.raft.client_write_ff(payload, Some(reply)).await {
            tracing::debug!(component = "raft", "proposal refused: {fatal}");
        }
    }

    /// Confirms by a quorum that this node still leads, and gives the index a read must see.
    ///
    /// # Errors
    /// It does not, or the quorum does not answer.
    pub(crate) async fn confirm(&self) -> Result<u64, Error> {
        let round = self.raft.get_read_log_id(ReadPolicy::ReadIndex);
        match tokio::time::timeout(CONFIRMATION_TIMEOUT, round).await {
            Ok(Ok((read, _applied))) => Ok(read.log_id().index()),
            Ok(Err(RaftError::Fatal(fatal))) => Err(Error::Stopped(fatal.to_string())),
            Ok(Err(RaftError::APIError(_))) | Err(_) => Err(Error::LeaderNotFound),
        }
    }

    /// Puts an entry that does nothing through the log, and gives its index.
    ///
    /// # Errors
    /// This node does not lead.
    pub(crate) async fn barrier(&self) -> Result<u64, Error> {
        let lost = async {
            while !self.has_lost_leadership().await {
                tokio::time::sleep(LEADERSHIP_INTERVAL).await;
            }
        };
        let written = tokio::select! {
            biased;
            written = tokio::time::timeout(BARRIER_TIMEOUT, self.raft.write_blank()) => written,
            // One that is cut off would keep it until it is back.
            () = lost => return Err(Error::LeaderNotFound),
        };
        match written {
            Ok(Ok(response)) => Ok(response.log_id.index()),
            Ok(Err(RaftError::Fatal(fatal))) => Err(Error::Stopped(fatal.to_string())),
            Ok(Err(RaftError::APIError(error))) => Err(refusal(error)),
            // It changes nothing, whenever it comes.
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }

    /// Has the state machine made durable and waits until Raft knows; gives the index reached.
    ///
    /// # Errors
    /// A failed sync, or Raft has ended.
    pub(crate) async fn snapshot(&self, at_least: u64) -> Result<u64, Error> {
        self.raft.trigger().snapshot().await.map_err(|fatal| Error::Stopped(fatal.to_string()))?;
        let noted = |metrics: &RaftMetrics<TypeConfig>| {
            metrics.snapshot.is_some_and(|id| id.index() >= at_least)
        };
        let metrics = self
            .raft
            .wait(Some(SNAPSHOT_NOTE_TIMEOUT))
            .metrics(noted, "a snapshot of what was applied")
            .await
            .map_err(|error| Error::Request(error.to_string()))?;
        Ok(metrics.snapshot.map_or(0, |id| id.index()))
    }

    /// Has the log purged up to an index that a snapshot covers.
    ///
    /// # Errors
    /// Raft has ended.
    pub(crate) async fn purge(&self, upto: u64) -> Result<(), Error> {
        let purged = self.raft.trigger().purge_log(upto).await;
        purged.map_err(|fatal| Error::Stopped(fatal.to_string()))
    }

    /// Whether this node leads, and has heard of a quorum lately.
    pub(crate) fn leads(&self) -> bool {
        let metrics = self.metrics.borrow_watched();
        leads_by(&metrics, self.lease) && !self.has_given_away(&metrics)
    }

    /// Counts this node as one that leads no more in this term, because leadership was handed to another one. openraft
    /// proposes nothing after that, but stays a leader until it has stored the vote for the other one; which a disk that
    /// hangs does not, while clients wait.
    pub(crate) fn give_away(&self, term: u64) {
        self.given_away.fetch_max(term, Ordering::Relaxed);
    }

    fn has_given_away(&self, metrics: &RaftMetrics<TypeConfig>) -> bool {
        self.given_away.load(Ordering::Relaxed) == metrics.current_term
    }

    /// Whether this node leads no more; looks twice, because a lease may be unconfirmed for a moment.
    pub(crate) async fn has_lost_leadership(&self) -> bool {
        if self.leads() {
            return false;
        }
        if self.has_given_away(&self.metrics.borrow_watched()) {
            return true;
        }
        tokio::time::sleep(LEADERSHIP_INTERVAL).await;
        !self.leads()
    }

    /// How long ago a quorum answered this node; `None` unless openraft has it for a leader.
    pub(crate) fn quorum_silent_for(&self) -> Option<Duration> {
        self.metrics.borrow_watched().last_quorum_acked.as_ref().map(|at| at.elapsed())
    }

    /// The last committed entry that a member has acknowledged to this node, if it leads: that entry is there for good.
    pub(crate) fn acknowledged(&self, member: u64) -> Option<u64> {
        let metrics = self.metrics.borrow_watched();
        let committed = metrics.local_committed.map_or(0, |id| id.index());
        let leads = metrics.state.is_leader();
        let upto = self.acknowledged.upto(member, metrics.current_term).filter(|_| leads)?;
        Some(upto.min(committed))
    }

    /// What is committed, if this node leads and nobody else votes: then nobody else can lead, or know of more.
    pub(crate) fn committed_by_only_voter(&self) -> Option<u64> {
        let metrics = self.metrics.borrow_watched();
        (metrics.state.is_leader() && is_only_voter(&metrics))
            .then(|| metrics.local_committed.map_or(0, |id| id.index()))
    }

    /// Whether there is no other member: then nobody else could do anything.
    pub(crate) fn is_alone(&self) -> bool {
        let metrics = self.metrics.borrow_watched();
        metrics.membership_config.membership().nodes().nth(1).is_none()
    }

    /// Whether this node may stand for election. One of another engine epoch never does.
    pub(crate) fn set_may_stand(&self, may: bool) {
        self.raft.runtime_config().elect(may && self.progress.other_engine().is_none());
    }

    /// The current term.
    pub(crate) fn term(&self) -> u64 {
        self.metrics.borrow_watched().current_term
    }

    /// Who leads, if known.
    pub(crate) fn leader(&self) -> Option<Member> {
        let metrics = self.metrics.borrow_watched();
        self.leader_of(&metrics)
    }

    fn leader_of(&self, metrics: &RaftMetrics<TypeConfig>) -> Option<Member> {
        if self.is_lost(metrics.current_leader?, metrics) { None } else { leader(metrics) }
    }

    /// openraft remembers the last leader. One that was not heard of for longer than an election needs is none.
    fn is_lost(&self, leader: u64, metrics: &RaftMetrics<TypeConfig>) -> bool {
        if leader == self.raft_id {
            return !holds_lease(metrics, self.lease) || self.has_given_away(metrics);
        }
        let silent = self.progress.leader_silent_for();
        silent.is_none_or(|silent| silent > self.lease * 2 + SILENCE_MARGIN)
    }

    /// Who leads by which membership at this moment.
    pub(crate) fn glance(&self) -> Glance {
        let metrics = self.metrics.borrow_watched();
        let leader = metrics.current_leader.filter(|leader| !self.is_lost(*leader, &metrics));
        Glance {
            term: metrics.current_term,
            leader,
            leads: metrics.state.is_leader() && leader.is_some(),
            membership_index: metrics.membership_config.log_id().as_ref().map(|id| id.index),
        }
    }

    /// What Raft looks like at this moment.
    pub(crate) fn view(&self) -> View {
        let metrics = self.metrics.borrow_watched();
        let mut view = view(&metrics, self.raft_id);
        view.leader = self.leader_of(&metrics);
        view.leads &= view.leader.is_some();
        if view.role == Role::Leader && !view.leads {
            view.role = Role::Follower;
        }
        view
    }

    /// Whether Raft has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.metrics.borrow_watched().running_state.is_err()
    }

    /// Waits for changes of the view.
    pub(crate) fn changes(&self) -> Changes {
        Changes { metrics: self.metrics.clone(), heard: self.progress.leader_heard_again() }
    }

    /// Stops Raft: nothing is proposed, appended or applied any more.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(component = "raft", "raft did not stop cleanly: {error}");
        }
    }
}

impl Changes {
    /// Waits for the next change; false once Raft is gone.
    pub(crate) async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            changed = self.metrics.changed() => changed.is_ok(),
            Ok(()) = self.heard.changed() => true,
        }
    }

    /// As [`Self::next`], but not before [`GLANCE_INTERVAL`] has passed; what changes meanwhile is seen then. For whoever
    /// keeps an eye on Raft for as long as the node runs: each entry changes the metrics several times, and waking
    /// somebody costs a write more than looking does.
    pub(crate) async fn next_at_leisure(&mut self) -> bool {
        tokio::time::sleep(GLANCE_INTERVAL).await;
        self.next().await
    }
}

fn leads_by(metrics: &RaftMetrics<TypeConfig>, lease: Duration) -> bool {
    metrics.state.is_leader() && holds_lease(metrics, lease)
}

/// openraft's leader stays one without a quorum. For everybody else it is none once its lease is over.
fn holds_lease(metrics: &RaftMetrics<TypeConfig>, lease: Duration) -> bool {
    let heard = || metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() <= lease);
    // What an only voter says is a quorum.
    is_only_voter(metrics) || heard()
}

/// Whether this node votes and nobody else does, in the membership of now and in the one that is being changed to.
fn is_only_voter(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let voters = metrics.membership_config.membership().get_joint_config();
    voters.iter().all(|voters| voters.len() == 1 && voters.contains(&metrics.id))
}

type WriteResult = Result<ClientWriteResponse<TypeConfig>, ClientWriteError<TypeConfig>>;

pub(super) fn refusal(error: ClientWriteError<TypeConfig>) -> Error {
    match error {
        // openraft promises: refused before it was appended.
        ClientWriteError::ForwardToLeader(forward) => match forward.leader_node {
            Some(peer) => Error::NotLeader { leader: Some(member(&peer, true)) },
            None => Error::LeaderNotFound,
        },
        other => Error::OutcomeUnknown(other.to_string()),
    }
}

fn view(metrics: &RaftMetrics<TypeConfig>, raft_id: u64) -> View {
    let membership = metrics.membership_config.membership();
    let votes = |id: u64| membership.voter_ids().any(|voter| voter == id);
    let mut members: Vec<Member> =
        membership.nodes().map(|(id, peer)| member(peer, votes(*id))).collect();
    members.sort_by(|left, right| left.id.cmp(&right.id));
    let role = match metrics.state {
        _ if metrics.running_state.is_err() => Role::Shutdown,
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Follower | ServerState::Learner => Role::Follower,
        ServerState::Shutdown => Role::Shutdown,
    };
    View {
        role,
        term: metrics.current_term,
        commit_index: metrics.local_committed.map_or(0, |id| id.index()),
        snapshot: metrics.snapshot.as_ref().map(entry_id).unwrap_or_default(),
        leader: leader(metrics),
        leads: role == Role::Leader,
        membership_index: metrics.membership_config.log_id().map_or(0, |id| id.index()),
        peers: membership.nodes().filter(|(id, _)| **id != raft_id).count() as u64,
        voter: votes(raft_id),
        // While a change is under way the old voters alone still decide as well.
        pending: !membership.get_joint_config().iter().all(|voters| voters.contains(&raft_id))
            && membership.get_node(&raft_id).is_none_or(|own| !own.replica),
        cluster_committed: metrics.cluster_committed.map(|id| id.index()),
        members,
        ended: metrics.running_state.as_ref().err().map(ToString::to_string),
    }
}

fn leader(metrics: &RaftMetrics<TypeConfig>) -> Option<Member> {
    let leader = metrics.current_leader?;
    metrics.membership_config.membership().get_node(&leader).map(|peer| member(peer, true))
}

fn member(peer: &Peer, voter: bool) -> Member {
    Member {
        id: peer.name.clone(),
        raft_addr: peer.raft_addr.clone(),
        api_url: peer.api_url.clone(),
        voter,
    }
}
