//! The end of a leader's part in Raft when it is removed from its cluster (`-raft-remove-shutdown`).
//!
//! A node that is removed while it leads becomes an onlooker that nobody tells anything. Where the operator prefers it,
//! Raft ends on it instead, visibly; what it holds can still be read.

use std::sync::atomic::Ordering;

use crate::Node;

impl Node {
    /// Waits until this node is removed from its cluster while it leads, and then takes no part in Raft any more. Its
    /// data can still be read at level none.
    pub async fn retire_when_removed(&self) {
        let inner = self.inner();
        let mut changes = inner.consensus.changes();
        let mut led = false;
        loop {
            let view = inner.consensus.view();
            let is_member = view.members.iter().any(|member| member.id == inner.node_id);
            if led && !view.leads && !is_member {
                // Whoever asked for the removal still waits for Raft to say that it is done.
                let _done = inner.joins.lock().await;
                tracing::info!(
                    component = "store",
                    "this node was removed from its cluster while it led, shutting Raft down"
                );
                inner.retired.store(true, Ordering::Release);
                inner.consensus.shutdown().await;
                return;
            }
            // It steps down only after its removal is committed.
            led = view.leads || (led && !is_member);
            if !changes.next_at_leisure().await {
                return;
            }
        }
    }
}
