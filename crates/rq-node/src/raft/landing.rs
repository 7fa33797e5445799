//! What a received database means to Raft: whether it is wanted, and its installation as a snapshot.

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::{
    rt::WatchReceiver as _,
    storage::{Snapshot, SnapshotMeta},
};

use super::{
    Raft, divergence, log_id, membership,
    state_machine::DurableFile,
    wire::{Header, decode_vote, encode_vote},
};
use crate::{
    identity::Cluster,
    progress::Progress,
    raft::answer::admit,
    transfer::{Landing, Received},
};

/// How often a database that waits to be installed looks whether it can be.
const APPLIED_GLANCE: Duration = Duration::from_millis(100);

/// Installs what other members send.
pub(crate) struct SnapshotLanding {
    raft: Raft,
    cluster: Arc<Cluster>,
    progress: Arc<Progress>,
}

impl SnapshotLanding {
    pub(crate) fn new(raft: Raft, cluster: Arc<Cluster>, progress: Arc<Progress>) -> Self {
        Self { raft, cluster, progress }
    }
}

impl Landing for SnapshotLanding {
    fn admit(&self, header: &[u8]) -> Result<(), String> {
        admit(&self.cluster, &Header::decode(header)?)?;
        self.progress.other_engine().map_or(Ok(()), |other| Err(other.to_string()))
    }

    fn install(
        &self,
        closing: Bytes,
        received: Received,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let (raft, progress) = (self.raft.clone(), Arc::clone(&self.progress));
        Box::pin(async move {
            let path = received.arrival.path.clone();
            let installed = install(&raft, &progress, &closing, received).await;
            // Raft may not have wanted it: another leader came, or this node is further on already.
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(
                    component = "snapshot",
                    "{} could not be removed: {error}",
                    path.display()
                );
            }
            installed
        })
    }
}

async fn install(
    raft: &Raft,
    progress: &Progress,
    closing: &[u8],
    received: Received,
) -> Result<Bytes, String> {
    let vote = decode_vote(closing)?;
    let applied = received.arrival.applied;
    // openraft takes it for granted that a leader knows nothing of terms behind its own.
    if applied.term > vote.leader_id.term {
        return Err(format!(
            "the snapshot holds an entry of term {}, its sender led in term {}",
            applied.term, vote.leader_id.term
        ));
    }
    wait_applied(raft, progress).await;
    let own = progress.applied();
    if divergence::is_contradicted_by_database(own, applied) {
        let reason = divergence::sentence(own);
        progress.set_stopped(reason.clone());
        drop(raft.shutdown().await);
        return Err(reason);
    }
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(applied)),
        last_membership: membership::stored(received.membership.as_ref())?,
    };
    let snapshot = Snapshot { meta, snapshot: DurableFile::Received(received.arrival) };
    let installed = raft.install_full_snapshot(vote, snapshot).await;
    let response = installed.map_err(|fatal| format!("Raft does not run there: {fatal}"))?;
    tracing::info!(
        component = "snapshot",
        "a database of another member was received, it reaches entry {}",
        applied.index
    );
    Ok(encode_vote(&response.vote))
}

/// Waits until all is applied that openraft takes for applied. Once it has been told to install something it stores, votes
/// and answers no more until that is done, and it is done behind everything else.
async fn wait_applied(raft: &Raft, progress: &Progress) {
    let metrics = raft.metrics();
    let is_behind = || {
        let told = metrics.borrow_watched().last_applied.map_or(0, |id| id.index());
        progress.applied().index < told
    };
    while is_behind() && !progress.is_stopping() && progress.given_up().is_none() {
        tokio::time::sleep(APPLIED_GLANCE).await;
    }
}
