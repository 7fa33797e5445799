//! What the disk of this node lets it do, and what follows for leadership.
//!
//! | the disk | this node | while it leads |
//! |---|---|---|
//! | has room | stands for election | |
//! | is below the floor of free space: clients' writes are refused | stands, because reads need a leader | hands over to a member that has room |
//! | takes nothing: the log waits for space, applying stands still, or nothing becomes durable | stands only if nobody else does for a while | hands over to any member that fares better |
//!
//! Disks of one cluster fill up together. Leadership goes only to who fares better, so among equals it stays where it is.
//!
//! A task of its own, because whoever else looks after the cluster waits for entries to be committed, which is just
//! what a disk that does not answer may prevent.

use std::{sync::Weak, time::Duration};

use futures_util::future::join_all;
use rq_storage::LogState;
use tokio::time::Instant;

use crate::{OtherEngine, node::Inner, raft::change::RaftMember};

/// How often it is looked. What that and the election timeout add up to leaves time for the election of another leader.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A member that answered this recently can take leadership.
const RECENT: Duration = Duration::from_secs(1);
/// A member this many entries behind can take leadership: what it lacks is on its way.
const CLOSE_ENTRIES: u64 = 64;
/// How long a member may take to say how its disk fares. Short, because a disk that hangs has taken its time already.
const ASK_TIMEOUT: Duration = Duration::from_millis(400);
/// The least time between a handover and the next one. Short, because leadership may be given back to a node whose disk hangs
/// again a moment later.
const HANDOVER_PAUSE: Duration = Duration::from_secs(1);
/// What that doubles to from one handover to the next. Two nodes whose disks hang in turn must not pass leadership to and fro
/// all the time: every election costs them writes, too.
const HANDOVER_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A handover so long after the pause after the last one has nothing to do with it: the pause is short again.
const HANDOVER_FORGOTTEN: Duration = Duration::from_secs(5);
/// The time between two searches for a member that fares better.
const SEARCH_INTERVAL: Duration = Duration::from_millis(500);
/// After so many election timeouts without a leader a node stands whatever its disk does.
const LEADERLESS_ELECTIONS: u32 = 4;

/// What the disk of a node lets it do; the later, the less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DiskState {
    /// Everything.
    #[default]
    Roomy,
    /// Free space is below the floor; clients' writes are refused.
    Short,
    /// Nothing is stored or applied at the moment.
    Stuck,
}

impl DiskState {
    /// The state as a number, for other nodes.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Roomy => 0,
            Self::Short => 1,
            Self::Stuck => 2,
        }
    }

    /// The state of a number; what a newer program may say besides is no better than the worst known here.
    pub(crate) fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Roomy,
            1 => Self::Short,
            _ => Self::Stuck,
        }
    }
}

/// Watches until the node ends.
pub(crate) async fn watch(inner: Weak<Inner>) {
    let mut watch = DiskWatch::default();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(node) = inner.upgrade() else { return };
        if node.progress.is_stopping() {
            return;
        }
        node.look_at_disk(&mut watch).await;
    }
}

/// What was seen of the disk, and what was done about it.
#[derive(Default)]
struct DiskWatch {
    flushes: u64,
    /// Since when bytes wait and nothing becomes durable.
    stuck_since: Option<Instant>,
    told: DiskState,
    keeps_still: bool,
    leaderless_since: Option<Instant>,
    leaderless_told: bool,
    handovers: Handovers,
}

/// When leadership may be handed over.
#[derive(Default)]
struct Handovers {
    last: Option<Instant>,
    /// How long the last one keeps the next one from following.
    pause: Duration,
    /// When somebody who fares better was last looked for in vain.
    searched: Option<Instant>,
}

impl Handovers {
    fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now >= last + self.pause)
            && self.searched.is_none_or(|searched| now >= searched + SEARCH_INTERVAL)
    }

    /// Notes one.
    fn note(&mut self, now: Instant) {
        let forgotten = |last| now >= last + self.pause + HANDOVER_FORGOTTEN;
        self.pause = if self.last.is_none_or(forgotten) {
            HANDOVER_PAUSE
        } else {
            (self.pause * 2).min(HANDOVER_PAUSE_MAX)
        };
        self.last = Some(now);
    }
}

impl DiskWatch {
    /// Whether the disk has not answered for longer than `limit` although it was asked.
    fn is_stuck(&mut self, state: &LogState, limit: Duration) -> bool {
        if state.unflushed_bytes == 0 || state.flushes != self.flushes {
            self.flushes = state.flushes;
            self.stuck_since = (state.unflushed_bytes > 0).then(Instant::now);
            return false;
        }
        self.stuck_since.get_or_insert_with(Instant::now).elapsed() > limit
    }

    /// Whether nobody has led for longer than `limit`.
    fn is_leaderless(&mut self, leader_known: bool, limit: Duration) -> bool {
        if leader_known {
            self.leaderless_since = None;
            return false;
        }
        self.leaderless_since.get_or_insert_with(Instant::now).elapsed() > limit
    }

    /// Says once that nobody leads and why this node does not stand: its log may be the only one that is long enough.
    fn tell_who_cannot_lead(&mut self, leaderless: bool, other: Option<OtherEngine>) {
        let Some(other) = other else { return };
        if leaderless && !self.leaderless_told {
            tracing::warn!(
                component = "store",
                "nobody leads, and this node must not: if the others that are up lack entries it has, only the right \
                 program can help ({other})"
            );
        }
        self.leaderless_told = leaderless;
    }

    /// Says once what has become of the disk.
    fn tell(&mut self, state: DiskState) {
        if std::mem::replace(&mut self.told, state) == state {
            return;
        }
        match state {
            DiskState::Roomy => {
                tracing::info!(component = "store", "the disk has room and answers again");
            }
            DiskState::Short => tracing::warn!(
                component = "store",
                "free space is below the floor: writes are refused, reads go on"
            ),
            DiskState::Stuck => tracing::warn!(
                component = "store",
                "the disk takes nothing: this node does not stand for election while others do"
            ),
        }
    }
}

impl Inner {
    async fn look_at_disk(&self, watch: &mut DiskWatch) {
        let election = self.options.timing.election_timeout;
        let stuck = watch.is_stuck(&self.log.state(), election);
        let state = if stuck || self.progress.takes_nothing() {
            DiskState::Stuck
        } else if self.progress.is_short_of_space() {
            DiskState::Short
        } else {
            DiskState::Roomy
        };
        self.progress.set_disk(state);
        watch.tell(state);
        let leader_known = self.consensus.leader().is_some();
        let leaderless = watch.is_leaderless(leader_known, election * LEADERLESS_ELECTIONS);
        watch.tell_who_cannot_lead(leaderless, self.progress.other_engine());
        let keeps_still = state == DiskState::Stuck && !leaderless;
        if keeps_still != watch.keeps_still {
            watch.keeps_still = keeps_still;
            self.consensus.set_may_stand(!keeps_still);
        }
        let now = Instant::now();
        let due = watch.handovers.is_due(now);
        if state == DiskState::Roomy || !due || !self.consensus.leads() {
            return;
        }
        let Some(to) = self.who_fares_better(state).await else {
            watch.handovers.searched = Some(now);
            return;
        };
        watch.handovers.note(now);
        tracing::warn!(
            component = "store",
            "leadership goes to node {}: the disk here is full or does not answer",
            to.peer.name
        );
        let term = self.consensus.term();
        match self.consensus.transfer(to.raft_id).await {
            // With any other disk what was proposed may be answered yet.
            Ok(()) if state == DiskState::Stuck => self.consensus.give_away(term),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(component = "store", "it could not be handed over: {error}");
            }
        }
    }

    /// The voter whose disk fares best, if better than this one's; among equals the one that is farthest. One that lags
    /// cannot be elected: handing over to it would only cost an election.
    async fn who_fares_better(&self, own: DiskState) -> Option<RaftMember> {
        let last = self.log.state().last.map_or(0, |last| last.index);
        let others = self.consensus.members().into_iter().filter(|member| {
            member.voter
                && member.raft_id != self.raft_id
                && member.silent_for.is_some_and(|silent| silent < RECENT)
                && member.matched.is_some_and(|matched| matched + CLOSE_ENTRIES >= last)
        });
        let asked = others.map(|member| async move {
            let answer = self.client.metadata(&member.peer.raft_addr, ASK_TIMEOUT).await;
            match answer {
                // It must not lead.
                Ok(metadata) if metadata.other_engine.is_some() => None,
                Ok(metadata) if metadata.raft_id == member.raft_id => Some((metadata.disk, member)),
                // One that is alive and says nothing may still store more than one that cannot.
                _ => Some((DiskState::Short, member)),
            }
        });
        let answers = join_all(asked).await.into_iter().flatten();
        let better = answers.filter(|(disk, _)| *disk < own);
        let best = better.min_by_key(|(disk, member)| (*disk, std::cmp::Reverse(member.matched)));
        best.map(|(_, member)| member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a node hands over that would do so at any time, in seconds, until then.
    fn handovers(handovers: &mut Handovers, begin: Instant, until: u64) -> Vec<u64> {
        let due = (0..until).filter(|second| {
            let now = begin + Duration::from_secs(*second);
            let is_due = handovers.is_due(now);
            if is_due {
                handovers.note(now);
            }
            is_due
        });
        due.collect()
    }

    #[test]
    fn leadership_is_handed_over_less_and_less_often_until_there_was_peace() {
        let (mut history, begin) = (Handovers::default(), Instant::now());
        assert_eq!(handovers(&mut history, begin, 40), [0, 1, 3, 7, 15, 25, 35]);
        let later = begin + Duration::from_secs(35) + HANDOVER_PAUSE_MAX + HANDOVER_FORGOTTEN;
        assert_eq!(handovers(&mut history, later, 4), [0, 1, 3]);
    }

    #[test]
    fn a_node_that_is_given_leadership_back_hands_it_over_again_at_once() {
        let (mut history, begin) = (Handovers::default(), Instant::now());
        for second in (0..100).step_by(7) {
            let now = begin + Duration::from_secs(second);
            assert!(history.is_due(now), "after {second} s");
            history.note(now);
        }
    }
}
