//! Who this node is: the stored identity, or a new one for a new data directory.

use std::sync::Arc;

use rq_storage::{DataDirectory, Identity, NodeIdentity};

use crate::{OpenError, environment::Environment, options::Options};

/// What the rest of the node needs to know.
#[derive(Debug)]
pub(crate) struct Who {
    /// The operator's name for the node.
    pub(crate) name: String,
    /// Its number in Raft, fresh per data directory.
    pub(crate) raft_id: u64,
}

/// Locks the data directory and finds out, or decides, who this node is.
///
/// # Errors
/// Another process holds it, it is another node's, its parts do not belong together, it cannot be
/// read or written.
pub(crate) fn open(
    options: &Options,
    environment: &Environment,
) -> Result<(DataDirectory, Who), OpenError> {
    let files = Arc::clone(&environment.files);
    let mut directory = DataDirectory::open(files, &options.directory, options.node_id.as_deref())?;
    let known = match directory.identity() {
        Identity::Known(identity) => Some(identity.clone()),
        Identity::New => None,
        Identity::Doubtful { doubt, .. } => {
            return Err(OpenError::Doubtful {
                directory: options.directory.clone(),
                doubt: doubt.to_string(),
            });
        }
    };
    if let Some(identity) = known {
        let who = Who { name: identity.node_id, raft_id: identity.incarnation };
        return Ok((directory, who));
    }
    let identity = NodeIdentity {
        node_id: options.node_id.clone().unwrap_or_else(|| options.raft_addr.clone()),
        cluster_id: Some(format!("{:016x}", random(environment))),
        incarnation: random(environment),
        created_ms: environment.clock.now_ms(),
    };
    directory.store_identity(identity.clone())?;
    let who = Who { name: identity.node_id, raft_id: identity.incarnation };
    Ok((directory, who))
}

/// Says who is about to be opened.
pub(crate) fn tell(options: &Options, who: &Who) {
    tracing::info!(
        component = "store",
        "opening store with node ID {}, listening on {}",
        who.name,
        options.raft_addr
    );
    tracing::info!(
        component = "store",
        "ensuring data directory exists at {}",
        options.directory.display()
    );
}

/// A random number that is not 0 and fits a signed integer, which some tools print.
fn random(environment: &Environment) -> u64 {
    let mut bytes = [0; 8];
    environment.entropy.fill(&mut bytes);
    (u64::from_le_bytes(bytes) >> 1).max(1)
}
