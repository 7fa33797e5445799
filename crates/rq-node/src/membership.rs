//! Who belongs to the cluster: joining, removing, promoting, handing leadership over. All of it happens on the
//! leader; other nodes pass it on (`forward`).
//!
//! # Rules
//! - A name has one member. A node that comes under a known name with another number in Raft has lost its disk: it is
//!   a new member that replaces the old one, unless the old one still answers.
//! - A newcomer follows the log first without a vote, so that joining never costs availability. The
//!   keeper, a task of the leader, promotes it once it has caught up, if it is to vote.
//! - A member that is a voter stays one, whatever it says when it comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Weak,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{
    Error, OtherEngine,
    disk_watch::DiskState,
    node::Inner,
    raft::{Peer, change::RaftMember},
    service::message::{Answer, Newcomer},
};

/// How long a change of the membership may take to be committed.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an old member of a name, or one that is to lead, is given to say that it is still alive.
const ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long handing leadership over may take.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a member may take to say which engine it runs, before leadership is handed to it.
const ENGINE_TIMEOUT: Duration = Duration::from_millis(400);
/// How often a handover and the keeper look.
const GLANCE: Duration = Duration::from_millis(20);
/// The keeper looks this often, and whenever Raft reports a change.
const KEEPER_INTERVAL: Duration = Duration::from_millis(250);
/// The longest name and the longest address a node may have, in bytes; one with more is refused.
const WORD_BYTES_MAX: usize = 1024;
/// The longest URL of an API, in bytes; a node with a longer one is refused.
const URL_BYTES_MAX: usize = 4096;
/// A member this many entries behind counts as caught up: the rest arrives while it is being promoted.
const CAUGHT_UP_ENTRIES: u64 = 64;

impl Inner {
    /// Takes a newcomer into the cluster, on behalf of somebody who `may` let nodes join.
    ///
    /// # Errors
    /// This node does not lead, or the newcomer cannot belong to this cluster.
    pub(crate) async fn join(&self, newcomer: Newcomer, may: MayJoin) -> Result<Answer, Error> {
        if !self.consensus.leads() {
            return Err(self.not_leader());
        }
        let cluster = self.cluster.id().ok_or(Error::LeaderNotFound)?;
        check_newcomer(&newcomer, &cluster, self.engine_epoch(), &self.consensus.members())?;
        let is_there = |member: &RaftMember| {
            member.raft_id == newcomer.raft_id && member.peer.raft_addr == newcomer.raft_addr
        };
        if !self.consensus.members().iter().any(is_there) {
            self.client.resolve(&newcomer.raft_addr).await?;
        }
        let _one_at_a_time = self.joins.lock().await;
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        let members = self.consensus.members();
        let peer = Peer {
            name: newcomer.name.clone(),
            raft_addr: newcomer.raft_addr.clone(),
            api_url: newcomer.api_url.clone(),
            replica: newcomer.replica,
        };
        let same_address = members.iter().find(|member| {
            member.peer.raft_addr == peer.raft_addr && member.peer.name != peer.name
        });
        if same_address.is_some() {
            return Err(Error::Membership(format!(
                "found duplicate address in configuration: {}",
                peer.raft_addr
            )));
        }
        // openraft would leave the other one as it is, and say that it is done.
        if let Some(other) = members
            .iter()
            .find(|member| member.raft_id == newcomer.raft_id && member.peer.name != peer.name)
        {
            return Err(Error::Membership(format!(
                "node {} is a member under the name {}",
                peer.name, other.peer.name
            )));
        }
        let known = members.iter().find(|member| member.peer.name == peer.name);
        let votes = |known: &RaftMember| known.voter || !known.peer.replica;
        if may == MayJoin::Replicas && (!peer.replica || known.is_some_and(votes)) {
            return Err(Error::Unauthorized("join".to_owned()));
        }
        match known {
            Some(known) if known.raft_id == newcomer.raft_id => {
                self.rejoin(known, &newcomer, peer, deadline).await
            }
            known => {
                if let Some(known) = known {
                    self.replace(known, &members, deadline).await?;
                }
                self.consensus.add(newcomer.raft_id, peer.clone(), deadline).await?;
                self.metrics.joins.add(1);
                tracing::info!(
                    component = "store",
                    "node with ID {}, at {}, joined successfully as {}",
                    peer.name,
                    peer.raft_addr,
                    if peer.replica {
                        "read replica"
                    } else {
                        "voter; it votes once it has caught up"
                    }
                );
                Ok(Answer::Joined { cluster, already: false })
            }
        }
    }

    /// A member that is one already, perhaps at another address.
    async fn rejoin(
        &self,
        known: &RaftMember,
        newcomer: &Newcomer,
        peer: Peer,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        if let Some(reason) = self.find_double(newcomer, &known.peer).await {
            return Ok(Answer::Excluded(reason));
        }
        if let Some(reason) = self.find_lost(newcomer).await {
            return Ok(Answer::Excluded(reason));
        }
        let cluster = self.cluster.id().ok_or(Error::LeaderNotFound)?;
        // A member stays what it is; to change that it is removed and joins again.
        let peer = Peer { replica: known.peer.replica, ..peer };
        // Whatever it said of its address before.
        self.cluster.note_address(known.raft_id, &peer.raft_addr);
        if peer == known.peer {
            self.metrics.ignored_joins.add(1);
            tracing::info!(
                component = "store",
                "node {} at {} already member of cluster, ignoring join request",
                peer.name,
                peer.raft_addr
            );
            return Ok(Answer::Joined { cluster, already: true });
        }
        tracing::info!(
            component = "store",
            "node {} moved from {} to {}",
            peer.name,
            known.peer.raft_addr,
            peer.raft_addr
        );
        self.consensus.readdress(known.raft_id, peer, deadline).await?;
        Ok(Answer::Joined { cluster, already: false })
    }

    /// Removes the old member of a name whose node lost its disk.
    async fn replace(
        &self,
        old: &RaftMember,
        members: &[RaftMember],
        deadline: Instant,
    ) -> Result<(), Error> {
        let name = &old.peer.name;
        if let Some(address) = self.find_alive(old).await {
            return Err(Error::Membership(format!(
                "node {name} is a live member at {address}; two nodes cannot have one id"
            )));
        }
        let voters = members.iter().filter(|member| member.voter).count();
        if old.voter && voters == 1 {
            return Err(Error::Membership(format!(
                "node {name} is the only voter and has lost its data"
            )));
        }
        tracing::info!(
            component = "store",
            "node {name} came back without its data; its former self is removed"
        );
        self.metrics.removed_before_joins.add(1);
        self.consensus.remove(old, deadline).await
    }

    /// Where a member answers: where the membership has it, or where it said to be since.
    async fn find_alive(&self, member: &RaftMember) -> Option<String> {
        let known = &member.peer.raft_addr;
        if member.raft_id == self.raft_id {
            return Some(known.clone());
        }
        let dialled = self.cluster.address(member.raft_id, known);
        let addresses = BTreeSet::from([known.clone(), dialled]);
        let looks = addresses.into_iter().map(|address| async move {
            let metadata = self.client.metadata(&address, ALIVE_TIMEOUT).await.ok()?;
            (metadata.raft_id == member.raft_id).then_some(address)
        });
        join_all(looks).await.into_iter().flatten().next()
    }

    /// Removes the member of this name; a name nobody has is fine.
    ///
    /// # Errors
    /// This node does not lead, or it is the last voter.
    pub(crate) async fn remove_here(&self, name: &str) -> Result<(), Error> {
        if !self.consensus.leads() {
            return Err(self.not_leader());
        }
        let _one_at_a_time = self.joins.lock().await;
        let members = self.consensus.members();
        match members.iter().find(|member| member.peer.name == name) {
            Some(member) => self.remove_member(member, &members).await,
            None => Ok(()),
        }
    }

    /// Removes a member. Called with `joins` held.
    async fn remove_member(
        &self,
        member: &RaftMember,
        members: &[RaftMember],
    ) -> Result<(), Error> {
        let voters = members.iter().filter(|member| member.voter).count();
        if member.voter && voters == 1 {
            return Err(Error::Membership(
                "need at least one voter in configuration: {[]}".to_owned(),
            ));
        }
        self.consensus.remove(member, Instant::now() + CHANGE_TIMEOUT).await?;
        tracing::info!(component = "store", "node {} removed successfully", member.peer.name);
        Ok(())
    }

    /// Hands leadership over, and waits until the named node leads, or without a name any other.
    ///
    /// # Errors
    /// This node does not lead, or there is nobody to lead: nothing was done. Nobody took over in time, or another than was
    /// named did: [`Error::OutcomeUnknown`], because this node has given its leadership up.
    pub(crate) async fn step_down_here(&self, target: Option<&str>) -> Result<(), Error> {
        if !self.consensus.leads() {
            return Err(self.not_leader());
        }
        let to = self.successor(target).await?;
        let term = self.consensus.view().term;
        let deadline = Instant::now() + HANDOVER_TIMEOUT;
        self.consensus.transfer(to.raft_id).await?;
        loop {
            let view = self.consensus.view();
            if !view.leads
                && view.term > term
                && let Some(leader) = view.leader
            {
                if target.is_none_or(|target| leader.id == target) {
                    return Ok(());
                }
                return Err(Error::OutcomeUnknown(format!(
                    "node {} did not take leadership over, node {} did",
                    to.peer.name, leader.id
                )));
            }
            if Instant::now() >= deadline {
                return Err(Error::OutcomeUnknown(format!(
                    "node {} did not take leadership over in time",
                    to.peer.name
                )));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Who is to lead next: the one named, or the voter that is farthest. Never one of another engine epoch.
    ///
    /// # Errors
    /// There is none.
    async fn successor(&self, target: Option<&str>) -> Result<RaftMember, Error> {
        let refuse = |reason: &str| Err(Error::Membership(reason.to_owned()));
        let mut members = self.consensus.members();
        if let Some(target) = target {
            if target == self.node_id {
                return refuse("cannot step down to the current Leader");
            }
            let named = members.into_iter().find(|member| member.peer.name == target);
            return match named {
                None => refuse("node not found in cluster"),
                Some(member) if !member.voter => refuse("node does not vote"),
                Some(member) => self.check_successor(&member).await.map(|()| member),
            };
        }
        members.retain(|member| member.voter && member.raft_id != self.raft_id);
        let asked = members.into_iter().map(|member| async move {
            let other = self.other_engine_of(&member).await;
            other.is_none().then_some(member)
        });
        let members = join_all(asked).await.into_iter().flatten();
        let farthest = members.max_by_key(|member| {
            // One that has not answered for a while is the last choice.
            (answered_lately(member), member.matched)
        });
        farthest.map_or_else(|| refuse("cannot find peer"), Ok)
    }

    /// Whether a member that is to lead is there and can. One that does not answer would cost an election that another one
    /// wins.
    ///
    /// # Errors
    /// Why not.
    async fn check_successor(&self, member: &RaftMember) -> Result<(), Error> {
        let Peer { name, raft_addr, .. } = &member.peer;
        let refuse =
            |reason: &str| Err(Error::Membership(format!("node {name} cannot lead: {reason}")));
        match self.client.metadata(raft_addr, ALIVE_TIMEOUT).await {
            Ok(metadata) if metadata.raft_id != member.raft_id => {
                refuse(&format!("another node answers at {raft_addr}"))
            }
            Ok(metadata) if metadata.disk == DiskState::Stuck => {
                refuse("it has stopped, or its disk takes nothing")
            }
            Ok(metadata) => match metadata.other_engine {
                Some(other) => refuse(&other.to_string()),
                None => Ok(()),
            },
            Err(error) => refuse(&format!("it does not answer: {error}")),
        }
    }

    /// What a member says of its engine, if it is another one than its database's. Who has been silent is not asked.
    async fn other_engine_of(&self, member: &RaftMember) -> Option<OtherEngine> {
        if !answered_lately(member) {
            return None;
        }
        let metadata = self.client.metadata(&member.peer.raft_addr, ENGINE_TIMEOUT).await.ok()?;
        metadata.other_engine
    }
}

/// Whether a member has answered this leader within the last second.
fn answered_lately(member: &RaftMember) -> bool {
    member.silent_for.is_some_and(|time| time < Duration::from_secs(1))
}

/// Who may be let in on whose behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MayJoin {
    /// Whoever comes.
    Everybody,
    /// Read replicas, but not under the name of a node that votes: they would take its place.
    Replicas,
}

/// Whether a node can be a member of this cluster.
///
/// # Errors
/// Why not.
fn check_newcomer(
    newcomer: &Newcomer,
    cluster: &str,
    epoch: i64,
    members: &[RaftMember],
) -> Result<(), Error> {
    check_words(newcomer)?;
    if let Some(theirs) = &newcomer.cluster
        && theirs != cluster
    {
        let name = &newcomer.name;
        return Err(Error::Membership(format!(
            "node {name} holds data of cluster {theirs}, this is cluster {cluster}; start it with an \
             empty data directory if its data is not needed"
        )));
    }
    // One that is a member already votes and stores, whatever it computes.
    if members.iter().all(|member| member.raft_id != newcomer.raft_id) {
        check_engine(newcomer, epoch)?;
    }
    check_format(newcomer)
}

/// Whether a node says who and where it is, and not too much.
///
/// # Errors
/// What is wrong.
pub(crate) fn check_words(newcomer: &Newcomer) -> Result<(), Error> {
    let Newcomer { name, raft_id, raft_addr, api_url, cluster, .. } = newcomer;
    let refuse = |reason: &str| Err(Error::Membership(reason.to_owned()));
    if name.is_empty() || raft_addr.is_empty() || *raft_id == 0 {
        return refuse("a node that joins needs an id, a number and an address");
    }
    let cluster_bytes = cluster.as_ref().map_or(0, String::len);
    if name.len().max(raft_addr.len()).max(cluster_bytes) > WORD_BYTES_MAX {
        return refuse(&format!("ids and addresses of nodes have at most {WORD_BYTES_MAX} bytes"));
    }
    if api_url.len() > URL_BYTES_MAX {
        return refuse(&format!("the URL of a node's API has at most {URL_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// Whether a node runs a program that can be of one cluster with this one: it computes the same results and reads
/// what is written here.
///
/// # Errors
/// What to do.
pub(crate) fn check_program(newcomer: &Newcomer, epoch: i64) -> Result<(), Error> {
    check_engine(newcomer, epoch)?;
    check_format(newcomer)
}

fn check_engine(newcomer: &Newcomer, epoch: i64) -> Result<(), Error> {
    if newcomer.epoch == epoch {
        return Ok(());
    }
    Err(Error::Membership(format!(
        "node {} runs engine epoch {}, this cluster epoch {epoch}; use the program the other nodes run",
        newcomer.name, newcomer.epoch
    )))
}

fn check_format(newcomer: &Newcomer) -> Result<(), Error> {
    let name = &newcomer.name;
    if newcomer.format < u32::from(crate::command::FORMAT) {
        return Err(Error::Membership(format!(
            "node {name} understands log entries up to format {}, this cluster writes format {}; use a \
             newer program there",
            newcomer.format,
            crate::command::FORMAT
        )));
    }
    Ok(())
}

/// Whether a member is to get its vote now: it wants one, has caught up up to the `last` entry, and is there.
fn is_to_vote_now(member: &RaftMember, last: u64, silence_max: Duration) -> bool {
    let caught_up =
        member.matched.is_some_and(|matched| matched > 0 && matched + CAUGHT_UP_ENTRIES >= last);
    let is_there = member.silent_for.is_some_and(|silent| silent <= silence_max);
    !member.voter && !member.peer.replica && caught_up && is_there
}

/// The keeper: on the leader it finishes what an earlier one left half done, promotes members that have caught up, removes
/// those that were gone for too long, and says who fell silent.
pub(crate) async fn keep(inner: Weak<Inner>) {
    let Some(mut changes) = inner.upgrade().map(|inner| inner.consensus.changes()) else { return };
    let mut roll = Roll::default();
    let mut next_look = Instant::now();
    loop {
        let Some(node) = inner.upgrade() else { return };
        if node.progress.is_stopping() {
            return;
        }
        let leads = node.consensus.leads();
        if leads {
            node.promote_caught_up().await;
        }
        if Instant::now() >= next_look {
            next_look = Instant::now() + KEEPER_INTERVAL;
            if leads {
                let silences =
                    roll.call(node.consensus.members(), node.leading_since(), Instant::now());
                node.tell_silent(&silences, &mut roll.silent);
                node.reap(&silences).await;
            }
        }
        drop(node);
        if tokio::time::timeout(KEEPER_INTERVAL, changes.next_at_leisure()).await == Ok(false) {
            return;
        }
    }
}

/// What a leader remembers of the members from one look to the next.
#[derive(Debug, Default)]
struct Roll {
    /// Who was said to be silent.
    silent: BTreeSet<u64>,
    /// Since when each has been known here.
    known_since: BTreeMap<u64, Instant>,
    /// Who has answered this leader.
    answered: BTreeSet<u64>,
}

impl Roll {
    /// How long each member has been silent to this leader, which has been in `office` for so long. The clock of a member
    /// starts when its leader took office, or when the member was seen first: who has only just joined has not
    /// answered yet. Nor has one that was removed and has joined again since the last look.
    fn call(
        &mut self,
        members: Vec<RaftMember>,
        office: Duration,
        now: Instant,
    ) -> Vec<(RaftMember, Duration)> {
        let ids: BTreeSet<u64> = members.iter().map(|member| member.raft_id).collect();
        self.known_since.retain(|id, _| ids.contains(id));
        self.answered.retain(|id| ids.contains(id));
        let silence = |member: RaftMember| {
            if member.silent_for.is_some() {
                self.answered.insert(member.raft_id);
            } else if self.answered.remove(&member.raft_id) {
                self.known_since.remove(&member.raft_id);
            }
            let known_since = *self.known_since.entry(member.raft_id).or_insert(now);
            let longest = office.min(now.saturating_duration_since(known_since));
            let silent_for = member.silent_for.map_or(longest, |silent| silent.min(longest));
            (member, silent_for)
        };
        members.into_iter().map(silence).collect()
    }
}

impl Inner {
    /// A member that has not answered for longer counts as silent.
    fn silence_max(&self) -> Duration {
        self.options.timing.election_timeout.max(KEEPER_INTERVAL) * 2
    }

    /// Says once when a member falls silent, and once when it is back.
    fn tell_silent(&self, silences: &[(RaftMember, Duration)], silent: &mut BTreeSet<u64>) {
        let limit = self.silence_max();
        for (member, silent_for) in silences {
            let Peer { name, raft_addr, .. } = &member.peer;
            let quiet = member.raft_id != self.raft_id && *silent_for > limit;
            if quiet && silent.insert(member.raft_id) {
                // Where it said to be it is not; perhaps it never was.
                self.cluster.note_address(member.raft_id, raft_addr);
                self.metrics.failed_heartbeats.add(1);
                tracing::warn!(
                    component = "store",
                    "node {name} at {raft_addr} does not answer; it is tried again and again"
                );
            } else if !quiet && silent.remove(&member.raft_id) {
                tracing::info!(component = "store", "node {name} at {raft_addr} answers again");
            }
        }
    }
}

impl Inner {
    async fn promote_caught_up(&self) {
        if let Err(error) = self.consensus.finish_change(Instant::now() + CHANGE_TIMEOUT).await {
            tracing::warn!(
                component = "store",
                "a change of the voters could not be finished, trying again: {error}"
            );
            return;
        }
        let last = self.log.state().last.map_or(0, |last| last.index);
        let silence_max = self.silence_max();
        for member in self.consensus.members() {
            let due = is_to_vote_now(&member, last, silence_max);
            if !due {
                continue;
            }
            let deadline = Instant::now() + CHANGE_TIMEOUT;
            match self.consensus.promote(member.raft_id, deadline).await {
                Ok(()) => tracing::info!(
                    component = "store",
                    "node {} has caught up and votes now",
                    member.peer.name
                ),
                Err(error) => {
                    tracing::warn!(
                        component = "store",
                        "node {} could not be given its vote, trying again: {error}",
                        member.peer.name
                    );
                    return;
                }
            }
        }
    }

    /// Removes members that have been silent longer than `-raft-reap-…-timeout` allows.
    pub(crate) async fn reap(&self, silences: &[(RaftMember, Duration)]) {
        for (member, silent_for) in silences {
            let limit = if member.peer.replica {
                self.options.reap.replicas_after
            } else {
                self.options.reap.voters_after
            };
            if limit.is_zero() || member.raft_id == self.raft_id || *silent_for < limit {
                continue;
            }
            let name = &member.peer.name;
            match self.remove_if_silent(member, limit).await {
                Ok(false) => {}
                Ok(true) => {
                    self.metrics.nodes_reaped.add(1);
                    tracing::info!(
                        component = "store",
                        "node {name} was silent for {silent_for:?} and has been removed"
                    );
                }
                Err(error) => {
                    self.metrics.nodes_reaped_failed.add(1);
                    tracing::warn!(component = "store", "node {name} could not be reaped: {error}");
                }
            }
        }
    }

    /// Removes the member of this number, which was silent for longer than `limit` when it was looked at, unless it has
    /// answered or joined again since: other changes of the membership came first, and took their time. Its name may be
    /// another member's by now. Says whether it was removed.
    async fn remove_if_silent(&self, seen: &RaftMember, limit: Duration) -> Result<bool, Error> {
        let _one_at_a_time = self.joins.lock().await;
        if !self.consensus.leads() {
            return Err(self.not_leader());
        }
        let members = self.consensus.members();
        let Some(member) = members.iter().find(|member| member.raft_id == seen.raft_id) else {
            return Ok(false);
        };
        let has_joined_again = seen.silent_for.is_some() && member.silent_for.is_none();
        if has_joined_again || member.silent_for.is_some_and(|silent| silent < limit) {
            return Ok(false);
        }
        self.remove_member(member, &members).await.map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_caught_up_gets_its_vote_if_it_is_there() {
        let limit = Duration::from_secs(2);
        let here = Some(Duration::from_millis(100));
        let rows = [
            (false, false, Some(1000), here, true),
            (false, false, Some(1000 - CAUGHT_UP_ENTRIES), here, true),
            (false, false, Some(999 - CAUGHT_UP_ENTRIES), here, false),
            (false, false, Some(1000), Some(limit * 2), false),
            (false, false, Some(1000), None, false),
            (false, false, Some(0), here, false),
            (false, false, None, here, false),
            (false, true, Some(1000), here, false),
            (true, false, Some(1000), here, false),
        ];
        for (voter, replica, matched, silent_for, expected) in rows {
            let peer = Peer { replica, ..Peer::default() };
            let member = RaftMember { raft_id: 1, peer, voter, matched, silent_for };
            assert_eq!(is_to_vote_now(&member, 1000, limit), expected, "{member:?}");
        }
    }

    #[test]
    fn the_clock_of_a_member_starts_when_its_leader_sees_it_first() {
        let second = Duration::from_secs;
        let (mut roll, begin) = (Roll::default(), Instant::now());
        let mut silences = |members: &[(u64, Option<u64>)], office: u64, at: u64| -> Vec<u64> {
            let members = members.iter().map(|(raft_id, silent)| RaftMember {
                raft_id: *raft_id,
                peer: Peer::default(),
                voter: true,
                matched: None,
                silent_for: silent.map(second),
            });
            let silences = roll.call(members.collect(), second(office), begin + second(at));
            silences.into_iter().map(|(_, silent_for)| silent_for.as_secs()).collect()
        };
        assert_eq!(silences(&[(1, Some(0)), (2, None)], 0, 0), [0, 0]);
        assert_eq!(silences(&[(1, Some(1)), (2, None)], 50, 50), [1, 50]);
        // The third has joined just now, and has not answered yet.
        assert_eq!(silences(&[(1, Some(0)), (2, Some(60)), (3, None)], 90, 90), [0, 60, 0]);
        assert_eq!(silences(&[(1, Some(0)), (2, Some(70)), (3, None)], 100, 100), [0, 70, 10]);
        // Removed, and back before the next look.
        assert_eq!(silences(&[(1, Some(0)), (2, None), (3, None)], 101, 101), [0, 0, 11]);
        assert_eq!(silences(&[(1, Some(0)), (2, None), (3, None)], 104, 104), [0, 3, 14]);
        // Another leader: nobody was silent to it before.
        assert_eq!(silences(&[(1, Some(0)), (2, None), (3, None)], 5, 110), [0, 5, 5]);
        // Removed, and back.
        assert_eq!(silences(&[(1, Some(0))], 200, 300), [0]);
        assert_eq!(silences(&[(1, Some(0)), (3, None)], 210, 310), [0, 0]);
    }
}
