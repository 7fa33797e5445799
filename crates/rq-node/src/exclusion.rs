//! Members that must take no part in their cluster any more, because their number in Raft has two histories.
//!
//! | what happened | who notices |
//! |---|---|
//! | a data directory was copied, and runs twice | whoever is told of a new address asks at the old one: each process has a random number |
//! | a data directory was put back from an older copy | the member itself: the leader says what it had acknowledged (`raft::acknowledged`); and the leader when it joins |
//!
//! The latter is known for as long as that leader leads: the next one was told nothing.
//!
//! Either would count where it must not: the same number would vote twice. So the newcomer is told, and believes it: its
//! Raft ends, and it says so wherever it is asked, until it is started again. What it holds can still be read at level
//! none. It comes back with an empty data directory, as a new member. From then on it keeps nobody else out: the other
//! one of its number may go on.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;

use crate::{
    Node,
    node::Inner,
    raft::{Peer, acknowledged},
    service::message::Newcomer,
};

/// How long a member that is said to have moved is given to answer where it was.
const FORMER_ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a member that joins again is given to say what it holds.
const LOSS_TIMEOUT: Duration = Duration::from_secs(1);

impl Node {
    /// Why this node takes no part in its cluster any more: it has stopped by itself, or must not take part.
    pub fn given_up(&self) -> Option<String> {
        self.inner().progress.given_up()
    }
}

impl Inner {
    /// Why a member that says that it is somewhere else than it was known to be must not take part: it runs there too, as
    /// another process. An address that does not answer, or answers for another member, was left; so was one of an older
    /// program, or of one that takes no part any more, which do not say which process they are.
    pub(crate) async fn find_double(&self, newcomer: &Newcomer, known: &Peer) -> Option<String> {
        let process = newcomer.process?;
        let double = |address: &str| {
            format!(
                "node {} runs at {address} with the same data: the data directory of the one at {} is a copy, and two \
                 nodes cannot have one. End the one that is not wanted; a new node starts with an empty data directory",
                known.name, newcomer.raft_addr
            )
        };
        if newcomer.raft_id == self.raft_id {
            let is_other = process != self.process && self.progress.given_up().is_none();
            return is_other.then(|| double(&self.options.raft_addr));
        }
        let dialled = self.cluster.address(newcomer.raft_id, &known.raft_addr);
        let mut former = BTreeSet::from([known.raft_addr.clone(), dialled]);
        former.remove(&newcomer.raft_addr);
        let looks = former.into_iter().map(|address| async move {
            let metadata = self.client.metadata(&address, FORMER_ADDRESS_TIMEOUT).await.ok()?;
            let runs_there = metadata.raft_id == newcomer.raft_id
                && metadata.process.is_some_and(|other| other != process);
            runs_there.then_some(address)
        });
        let found = join_all(looks).await.into_iter().flatten().next();
        let reason = double(&found?);
        self.notices.warn("store", &reason);
        Some(reason)
    }

    /// Why a member that comes back must not take part: it does not have what it had acknowledged to this leader. One that
    /// cannot be asked is heard of soon enough.
    pub(crate) async fn find_lost(&self, newcomer: &Newcomer) -> Option<String> {
        let acknowledged = self.consensus.acknowledged(newcomer.raft_id)?;
        let metadata = self.client.metadata(&newcomer.raft_addr, LOSS_TIMEOUT).await.ok()?;
        let reach = metadata.last_log.1.max(metadata.commit_index);
        if metadata.raft_id != newcomer.raft_id || reach >= acknowledged {
            return None;
        }
        let reason = acknowledged::sentence(reach, acknowledged);
        self.notices.warn("store", &format!("node {} is refused: {reason}", newcomer.name));
        Some(reason)
    }

    /// Takes no part in Raft from now on.
    pub(crate) fn exclude_itself(&self, reason: &str) {
        if self.progress.set_excluded(reason) {
            let consensus = self.consensus.clone();
            // It waits for what is being applied.
            tokio::spawn(async move { consensus.shutdown().await });
        }
    }
}
