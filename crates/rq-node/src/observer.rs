//! What this node sees happen in its cluster: who leads, where members are, the end of Raft.
//!
//! One task looks at Raft whenever its metrics change. It decides nothing; it tells the log, and keeps what others read: how
//! long this node has led, and where members are to be dialled.

use std::{
    collections::BTreeMap,
    sync::{Weak, atomic::Ordering},
    time::Duration,
};

use crate::{
    node::Inner,
    progress::lock,
    raft::{Peer, consensus::View},
    status::Member,
};

/// How long storing this node's new address may take.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// The membership as it was last seen.
#[derive(Default)]
struct SeenMembership {
    index: Option<u64>,
    addresses: BTreeMap<u64, String>,
}

/// Observes until the node or its Raft has ended.
pub(crate) async fn observe(inner: Weak<Inner>) {
    let Some(mut changes) = inner.upgrade().map(|inner| inner.consensus.changes()) else { return };
    let mut leader = None;
    let mut membership = SeenMembership::default();
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let view = inner.consensus.view();
        inner.note_office(&view);
        inner.note_moves(&mut membership);
        if let Some(reason) = view.ended {
            if !inner.progress.is_stopping() && !inner.retired.load(Ordering::Acquire) {
                inner.progress.set_stopped(reason);
            }
            return;
        }
        if view.leader != leader {
            inner.metrics.leader_changes.add(1);
            tell_leader(&inner, view.leader.as_ref());
            leader = view.leader;
            if view.leads {
                let inner = std::sync::Arc::clone(&inner);
                tokio::spawn(async move { inner.refresh_addresses().await });
            }
        }
        drop(inner);
        if !changes.next().await {
            return;
        }
    }
}

impl Inner {
    fn note_office(&self, view: &View) {
        let mut office = lock(&self.office);
        match *office {
            _ if !view.leads => *office = None,
            Some((term, _)) if term == view.term => {}
            _ => *office = Some((view.term, tokio::time::Instant::now())),
        }
    }

    /// Notes where members have moved to: connections that are open already go on to dial where they were.
    fn note_moves(&self, seen: &mut SeenMembership) {
        let index = self.consensus.membership_index();
        if index == seen.index {
            return;
        }
        let addresses: BTreeMap<u64, String> = self
            .consensus
            .members()
            .into_iter()
            .map(|member| (member.raft_id, member.peer.raft_addr))
            .collect();
        for (id, address) in &addresses {
            if seen.addresses.get(id).is_some_and(|before| before != address) {
                self.cluster.note_address(*id, address);
            }
        }
        *seen = SeenMembership { index, addresses };
    }

    /// Writes this node's addresses into the membership, if it leads and they differ from what stands there.
    async fn refresh_addresses(&self) {
        let members = self.consensus.members();
        let Some(own) = members.iter().find(|member| member.raft_id == self.raft_id) else {
            return;
        };
        let peer = Peer { replica: own.peer.replica, ..self.own_peer() };
        if own.peer == peer {
            return;
        }
        let deadline = tokio::time::Instant::now() + ADDRESS_TIMEOUT;
        if let Err(error) = self.consensus.readdress(self.raft_id, peer, deadline).await {
            tracing::warn!(component = "store", "could not store this node's new address: {error}");
        }
    }
}

fn tell_leader(inner: &Inner, leader: Option<&Member>) {
    match leader {
        Some(member) if member.id == inner.node_id => tracing::info!(
            component = "store",
            "this node (ID={}, addr={}) is now Leader",
            member.id,
            member.raft_addr
        ),
        Some(member) => tracing::info!(
            component = "store",
            "node {} at {} is now Leader",
            member.id,
            member.raft_addr
        ),
        None => tracing::info!(component = "store", "Leader is now unknown"),
    }
}
