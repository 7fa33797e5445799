//! Where this node is, and that its cluster knows it: for as long as the node runs, not only when it comes.
//!
//! A member tells the others where it is when it starts (`formation`). What it was at that time may be wrong later: the entry
//! of an earlier move is applied only then, or whoever was told has no say any more. So each member looks again and again:
//!
//! | it | does |
//! |---|---|
//! | knows no leader | tells the members it knows where it is: perhaps the leader dials it elsewhere |
//! | knows one, and stands in the membership with other addresses | asks the leader to store its own |
//! | leads, and stands there with other addresses | stores them |
//!
//! # Rules
//! - Only who hears a leader asks it: it is a member then. Who was removed must not come back by itself.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use rq_security::Credentials;

use crate::{
    Error,
    node::Inner,
    progress::lock,
    raft::{Peer, change::RaftMember},
    status::Member,
};

/// How often a member looks whether its cluster knows where it is, at least; a random time of up to half as much comes on top.
const LOOK_INTERVAL: Duration = Duration::from_secs(4);

/// Sees to it until the node ends.
pub(crate) async fn watch(inner: Weak<Inner>) {
    loop {
        let Some(node) = inner.upgrade() else { return };
        let random = node.random_below(LOOK_INTERVAL / 2);
        drop(node);
        tokio::time::sleep(LOOK_INTERVAL + random).await;
        let Some(node) = inner.upgrade() else { return };
        if node.progress.is_stopping() || node.progress.given_up().is_some() {
            return;
        }
        node.be_found().await;
    }
}

impl Inner {
    /// On whose behalf this node came to its cluster, for when it has moved.
    pub(crate) fn remember_credentials(&self, credentials: Option<&Credentials>) {
        *lock(&self.join_credentials) = credentials.cloned();
    }

    /// What stands in the membership of this node, if that is not where it is.
    pub(crate) fn outdated_entry(&self) -> Option<RaftMember> {
        let own = self.own_entry()?;
        let Peer { raft_addr, api_url, .. } = self.own_peer();
        let is_here = own.peer.raft_addr == raft_addr && own.peer.api_url == api_url;
        (!is_here).then_some(own)
    }

    fn own_entry(&self) -> Option<RaftMember> {
        self.consensus.members().into_iter().find(|member| member.raft_id == self.raft_id)
    }

    async fn be_found(self: Arc<Self>) {
        let Some(leader) = self.consensus.leader() else {
            if self.own_entry().is_some() && !self.consensus.is_alone() {
                let credentials = lock(&self.join_credentials).clone();
                self.announce(&[], credentials.as_ref()).await;
            }
            return;
        };
        let Some(outdated) = self.outdated_entry() else { return };
        if leader.id == self.node_id {
            self.refresh_addresses().await;
        } else if let Err(error) = self.ask_to_be_moved(&leader).await {
            let Peer { raft_addr, api_url, .. } = self.own_peer();
            self.notices.warn(
                "cluster-join",
                &format!(
                    "this node is at {raft_addr} and {api_url}, its cluster has it at {} and {}, and the leader does \
                     not change that: {error}",
                    outdated.peer.raft_addr, outdated.peer.api_url
                ),
            );
        }
    }

    async fn ask_to_be_moved(&self, leader: &Member) -> Result<(), Error> {
        let members = self.consensus.members();
        let known = members.iter().find(|member| member.peer.name == leader.id);
        let at = known.map_or_else(
            || leader.raft_addr.clone(),
            |known| self.cluster.address(known.raft_id, &known.peer.raft_addr),
        );
        let credentials = lock(&self.join_credentials).clone();
        self.join_at(&at, credentials.as_ref(), &mut BTreeSet::new()).await.map(drop)
    }
}
