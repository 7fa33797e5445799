//! A node whose disk does not let it lead: it does not stand for election, and hands leadership over.
//!
//! A task of its own, because whoever else looks after the cluster waits for entries to be committed, which is just
//! what a disk that does not answer may prevent.

use std::{sync::Weak, time::Duration};

use rq_storage::LogState;
use tokio::time::Instant;

use crate::node::Inner;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A member that answered this recently can take leadership.
const RECENT: Duration = Duration::from_secs(1);
/// The time between two attempts to hand leadership over.
const HANDOVER_INTERVAL: Duration = Duration::from_secs(10);

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

/// What was seen of the log's progress.
#[derive(Default)]
struct DiskWatch {
    flushes: u64,
    /// Since when bytes wait and nothing becomes durable.
    stuck_since: Option<Instant>,
    impaired: bool,
    next_handover: Option<Instant>,
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
}

impl Inner {
    /// A node whose disk is full or does not answer does not stand for election, and hands leadership over if
    /// another voter is there to take it.
    async fn look_at_disk(&self, watch: &mut DiskWatch) {
        let stuck = watch.is_stuck(&self.log.state(), self.options.timing.election_timeout);
        let full = self.progress.is_without_space();
        let stalled = self.progress.applies_nothing();
        let impaired = stuck || full || stalled;
        if impaired != watch.impaired {
            watch.impaired = impaired;
            self.consensus.set_may_stand(!impaired);
            if impaired {
                tracing::warn!(
                    component = "store",
                    "this node does not stand for election while {}",
                    if full { "its disk is full" } else { "its disk does not answer" }
                );
            } else {
                tracing::info!(component = "store", "the disk answers again, this node may lead");
            }
        }
        let now = Instant::now();
        let due = watch.next_handover.is_none_or(|next| now >= next);
        if !impaired || !due || !self.consensus.leads() {
            return;
        }
        if let Ok(to) = self.successor(None)
            && to.silent_for.is_some_and(|silent| silent < RECENT)
        {
            watch.next_handover = Some(now + HANDOVER_INTERVAL);
            tracing::warn!(
                component = "store",
                "leadership goes to node {}: the disk here is full or does not answer",
                to.peer.name
            );
            if let Err(error) = self.consensus.transfer(to.raft_id).await {
                tracing::warn!(component = "store", "it could not be handed over: {error}");
            }
        }
    }
}
