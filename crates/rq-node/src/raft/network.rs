//! The way to the other nodes. A single node has none: every peer is unreachable, and says so.

use std::io;

use openraft::{
    RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::{SnapshotOf, VoteOf},
};

use super::{Peer, TypeConfig, state_machine::DurableFile};

/// Makes connections to peers.
#[derive(Debug)]
pub(crate) struct Network;

/// A connection to a peer that cannot be reached.
#[derive(Debug)]
pub(crate) struct NoConnection {
    peer: String,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = NoConnection;

    async fn new_client(&mut self, _target: u64, node: &Peer) -> NoConnection {
        NoConnection { peer: node.to_string() }
    }
}

impl NoConnection {
    fn unreachable(&self) -> Unreachable<TypeConfig> {
        Unreachable::new(&io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{}: this program runs single nodes only", self.peer),
        ))
    }
}

impl RaftNetworkV2<TypeConfig> for NoConnection {
    type SnapshotData = DurableFile;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    // The provided method grants every pre-vote; an unreachable peer must not.
    async fn pre_vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<TypeConfig>,
        _snapshot: SnapshotOf<TypeConfig, DurableFile>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(self.unreachable().into())
    }
}
