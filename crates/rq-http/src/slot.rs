//! The place where the node will be.
//!
//! The port answers before the store is open; until then the slot is empty, and every handler says so.

use std::sync::Arc;

use rq_node::Node;
use tokio::sync::SetOnce;

/// Holds the node once it is open. Clones share the place.
#[derive(Clone, Default)]
pub struct NodeSlot(Arc<SetOnce<Node>>);

impl NodeSlot {
    /// An empty slot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts the node in, from when on requests are served. The first one stays; returns whether this was it.
    pub fn fill(&self, node: Node) -> bool {
        self.0.set(node).is_ok()
    }

    /// The node, once it is open.
    pub fn get(&self) -> Option<&Node> {
        self.0.get()
    }

    /// Waits until the node is open.
    pub(crate) async fn filled(&self) {
        self.0.wait().await;
    }
}
