//! Changes of the membership: one at a time, each a log entry (or two, where voters change).
//!
//! openraft refuses a change while another is under way; whoever comes second waits here for its turn, and tries
//! again while an earlier leader's change is being finished.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
    rt::{Instant as _, WatchReceiver as _},
    type_config::alias::LogIdOf,
};
use tokio::time::Instant;

use super::{Peer, TypeConfig, consensus::Consensus};
use crate::{EffectKnown, Error};

/// How often a change is tried again while another one is being finished.
const TURN_INTERVAL: Duration = Duration::from_millis(20);

/// A member, as Raft knows it.
#[derive(Clone, Debug)]
pub(crate) struct RaftMember {
    pub(crate) raft_id: u64,
    pub(crate) peer: Peer,
    /// Whether it votes.
    pub(crate) voter: bool,
    /// How far its log is known to equal the leader's; `None` unless this node leads.
    pub(crate) matched: Option<u64>,
    /// How long ago it answered the leader last; `None` if it never did or this node does not lead.
    pub(crate) silent_for: Option<Duration>,
}

impl Consensus {
    /// Every member.
    pub(crate) fn members(&self) -> Vec<RaftMember> {
        let metrics = self.metrics().borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        membership
            .nodes()
            .map(|(id, peer)| RaftMember {
                raft_id: *id,
                peer: peer.clone(),
                voter: voters.contains(id),
                matched: metrics
                    .replication
                    .as_ref()
                    .and_then(|all| all.get(id))
                    .map(|matched| matched.as_ref().map_or(0, |id| id.index())),
                silent_for: metrics
                    .heartbeat
                    .as_ref()
                    .and_then(|all| all.get(id))
                    .and_then(|at| at.as_ref())
                    .map(|at| at.elapsed()),
            })
            .collect()
    }

    /// Whether the membership is committed, so that it may be changed.
    fn is_settled(&self) -> bool {
        let metrics = self.metrics().borrow_watched();
        *metrics.membership_config.log_id() <= metrics.last_applied
    }

    /// Adds a member that does not vote.
    ///
    /// # Errors
    /// This node does not lead, or the change was not committed in time.
    pub(crate) async fn add(&self, id: u64, peer: Peer, deadline: Instant) -> Result<(), Error> {
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, peer)])), true, deadline).await
    }

    /// Lets a member vote.
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn promote(&self, id: u64, deadline: Instant) -> Result<(), Error> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true, deadline).await
    }

    /// Removes a member, voter or not.
    ///
    /// # Errors
    /// As above; the last voter cannot be removed.
    pub(crate) async fn remove(&self, member: &RaftMember, deadline: Instant) -> Result<(), Error> {
        let ids = BTreeSet::from([member.raft_id]);
        if member.voter {
            return self.change(ChangeMembers::RemoveVoters(ids), false, deadline).await;
        }
        self.change(ChangeMembers::RemoveNodes(ids), true, deadline).await
    }

    /// Writes a member's addresses into the membership.
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn readdress(
        &self,
        id: u64,
        peer: Peer,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])), true, deadline).await
    }

    /// Asks a voter to take leadership over. Returns at once; whether it did shows in the view.
    ///
    /// # Errors
    /// Raft has ended.
    pub(crate) async fn transfer(&self, to: u64) -> Result<(), Error> {
        let triggered = self.raft().trigger().transfer_leader(to).await;
        triggered.map_err(|fatal| Error::Stopped(fatal.to_string()))
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, Peer>,
        retain: bool,
        deadline: Instant,
    ) -> Result<(), Error> {
        let turn = tokio::time::timeout_at(deadline, self.change_turn().lock());
        let _turn = turn.await.map_err(|_| Error::DeadlineExceeded)?;
        self.finish(deadline).await?;
        self.step(change, retain, deadline).await
    }

    /// Finishes a change of voters that was begun and not finished, because its leader died or lost its patience
    /// in between: until then the old voters have a say as well, and who was removed is still there. Does nothing while
    /// another change is being made here.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(crate) async fn finish_change(&self, deadline: Instant) -> Result<(), Error> {
        match self.change_turn().try_lock() {
            Ok(_turn) => self.finish(deadline).await,
            Err(_) => Ok(()),
        }
    }

    /// Called in turn.
    async fn finish(&self, deadline: Instant) -> Result<(), Error> {
        if !self.is_between_voters() {
            return Ok(());
        }
        // To the voters decided on last; who is none of them was to be removed.
        self.step(ChangeMembers::AddVoterIds(BTreeSet::new()), false, deadline).await
    }

    /// Whether a change of voters has begun and is not finished.
    pub(crate) fn is_between_voters(&self) -> bool {
        let metrics = self.metrics().borrow_watched();
        metrics.membership_config.membership().get_joint_config().len() > 1
    }

    /// Makes a change, in turn. One of voters is two entries: once the first is in the log whoever leads next finishes it,
    /// whatever becomes of the second here.
    ///
    /// # Errors
    /// As [`Self::add`].
    async fn step(
        &self,
        change: ChangeMembers<u64, Peer>,
        retain: bool,
        deadline: Instant,
    ) -> Result<(), Error> {
        let mut before = None;
        let made = self.try_step(change, retain, deadline, &mut before).await;
        let has_begun = before.is_some_and(|before| before != self.membership_id());
        match made {
            Err(error) if has_begun && error.outcome() == EffectKnown::NotDone => {
                Err(Error::OutcomeUnknown(format!(
                    "the change of the membership was begun, and not finished by this node: {error}"
                )))
            }
            made => made,
        }
    }

    /// The entry that holds the membership as it is here, committed or not.
    fn membership_id(&self) -> Option<LogIdOf<TypeConfig>> {
        *self.metrics().borrow_watched().membership_config.log_id()
    }

    /// As [`Self::step`]; notes in `before` where the membership stood when the change was proposed first.
    async fn try_step(
        &self,
        change: ChangeMembers<u64, Peer>,
        retain: bool,
        deadline: Instant,
        before: &mut Option<Option<LogIdOf<TypeConfig>>>,
    ) -> Result<(), Error> {
        loop {
            // Who has removed itself leads on for a moment, and no longer has a say in who else is a member.
            if self.members().iter().all(|member| member.raft_id != *self.raft().node_id()) {
                return Err(Error::LeaderNotFound);
            }
            // openraft would refuse it, and log that as an error of its own.
            if !self.is_settled() {
                if Instant::now() >= deadline {
                    return Err(Error::DeadlineExceeded);
                }
                tokio::time::sleep(TURN_INTERVAL).await;
                continue;
            }
            before.get_or_insert_with(|| self.membership_id());
            let changing = self.raft().change_membership(change.clone(), retain);
            let changed = tokio::time::timeout_at(deadline, changing).await;
            let changed = changed.map_err(|_| {
                Error::OutcomeUnknown(
                    "the change of the membership was not committed in time".to_owned(),
                )
            })?;
            match changed {
                Ok(_) => return Ok(()),
                Err(RaftError::Fatal(fatal)) => return Err(Error::Stopped(fatal.to_string())),
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_)
                    | ChangeMembershipError::UncommittedLeaderLog(_),
                ))) if Instant::now() < deadline => tokio::time::sleep(TURN_INTERVAL).await,
                Err(RaftError::APIError(error)) => return Err(refusal(error)),
            }
        }
    }
}

fn refusal(error: ClientWriteError<TypeConfig>) -> Error {
    match error {
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::EmptyMembership(_)) => {
            // The words of hashicorp's Raft, which scripts know.
            Error::Membership("need at least one voter in configuration: {[]}".to_owned())
        }
        ClientWriteError::ChangeMembershipError(error) => Error::Membership(error.to_string()),
        other => super::consensus::refusal(other),
    }
}
