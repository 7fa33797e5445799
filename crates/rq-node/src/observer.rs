//! What this node sees happen in its cluster: who leads, where members are, the end of Raft.
//!
//! One task looks at Raft when its metrics have changed. It decides nothing; it tells the log, and keeps what others read: how
//! long this node has led, and where members are to be dialled.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use crate::{
    node::Inner,
    progress::lock,
    raft::{Peer, consensus::Glance},
    status::Member,
};

/// How long storing this node's new address may take.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Observes until the node or its Raft has ended.
pub(crate) async fn observe(inner: Weak<Inner>) {
    let Some(mut changes) = inner.upgrade().map(|inner| inner.consensus.changes()) else { return };
    let mut seen = Seen::default();
    loop {
        match inner.upgrade() {
            Some(inner) if !inner.consensus.has_ended() => seen.look(&inner),
            Some(inner) => return tell_end(&inner),
            None => return,
        }
        if !changes.next_at_leisure().await {
            return;
        }
    }
}

/// What was seen last.
#[derive(Default)]
struct Seen {
    glance: Option<Glance>,
    leader: Option<Member>,
    /// Where the members are, by their numbers.
    addresses: BTreeMap<u64, String>,
}

impl Seen {
    fn look(&mut self, inner: &Arc<Inner>) {
        let glance = inner.consensus.glance();
        if self.glance == Some(glance) {
            return;
        }
        self.glance = Some(glance);
        inner.note_office(&glance);
        self.follow_moves(inner);
        let leader = inner.consensus.leader();
        if leader != self.leader {
            inner.metrics.leader_changes.add(1);
            tell_leader(inner, leader.as_ref());
            self.leader = leader;
            if glance.leads {
                let inner = Arc::clone(inner);
                tokio::spawn(async move { inner.refresh_addresses().await });
            }
        }
    }

    /// Notes where members have moved to: connections that are open already go on to dial where they were.
    fn follow_moves(&mut self, inner: &Inner) {
        let members = inner.consensus.members().into_iter();
        let addresses = members.map(|member| (member.raft_id, member.peer.raft_addr)).collect();
        let before = std::mem::replace(&mut self.addresses, addresses);
        for (id, address) in &self.addresses {
            if before.get(id).is_some_and(|before| before != address) {
                inner.cluster.note_address(*id, address);
            }
        }
    }
}

impl Inner {
    fn note_office(&self, glance: &Glance) {
        let mut office = lock(&self.office);
        match *office {
            // Until now there was a leader: this node.
            Some(_) if !glance.leads => {
                *office = None;
                self.progress.hear_leader(None, None);
            }
            None if !glance.leads => {}
            Some((term, _)) if term == glance.term => {}
            _ => *office = Some((glance.term, tokio::time::Instant::now())),
        }
    }

    /// Writes this node's addresses into the membership, if it leads and they differ from what stands there.
    pub(crate) async fn refresh_addresses(&self) {
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

fn tell_end(inner: &Inner) {
    let Some(reason) = inner.consensus.view().ended else { return };
    let is_on_purpose =
        inner.retired.load(Ordering::Acquire) || inner.progress.given_up().is_some();
    if !inner.progress.is_stopping() && !is_on_purpose {
        inner.progress.set_stopped(reason);
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
