//! The way to the other members: openraft's calls over the node's [`Network`].
//!
//! Entries travel on a lane of their own, several requests in flight, answers in order. Heartbeats and votes have
//! another, so that neither waits for the other. A snapshot is sent by `transfer`.
//!
//! openraft's own time limit for entries is a heartbeat's length, which no large entry on a slow link would
//! meet. Here an append has [`APPEND_TIMEOUT`] and the time its bytes take on a slow link; that a follower is gone
//! is for heartbeats to find out.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _,
    future::BoxFuture,
    stream::{BoxStream, FuturesOrdered},
};
use openraft::{
    EntryPayload, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
        StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
        VoteResponse,
    },
    type_config::alias::{EntryOf, LogIdOf, SnapshotOf, VoteOf},
};

use rq_sqlite::WalSize;

use super::{
    Peer, TypeConfig,
    acknowledged::Acknowledged,
    state_machine::DurableFile,
    wire::{Answer, Header, Request, decode_vote, encode_vote},
};
use crate::{
    identity::Cluster,
    internode::{Call, CallError, Lane, Network},
    notices::Notices,
    transfer::{Cargo, Refusal, TransferError, Transfers},
};

/// How long an append may take to be stored and answered, besides the time its bytes take.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The slowest link that keeps up, in bytes a second: an append may take as long as it needs for everything in flight.
const SLOWEST_LINK: u64 = 256 * 1024;
/// The time between two offers of the database to a node that refuses it: a person must do something there.
const REFUSED_PAUSE: Duration = Duration::from_secs(3);
/// Append requests in flight to one follower. The bytes of each are bounded by the log's reader.
const APPENDS_IN_FLIGHT: usize = 8;

/// Makes connections to members.
#[derive(Clone)]
pub(crate) struct Connector {
    network: Arc<dyn Network>,
    cluster: Arc<Cluster>,
    /// How long a vote may take: an election is over by then.
    vote_timeout: Duration,
    transfers: Arc<Transfers>,
    wal: WalSize,
    notices: Arc<Notices>,
    acknowledged: Arc<Acknowledged>,
    /// Whether this node leads by the word of a quorum, once Raft runs.
    leads: Arc<OnceLock<Leads>>,
}

/// Says whether this node leads and has heard of a quorum lately.
pub(super) type Leads = Box<dyn Fn() -> bool + Send + Sync>;

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// The way to one member.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    connector: Connector,
    to: u64,
    peer: Peer,
    /// Entries and what follows them, in order; heartbeats have a connection and a lane of their own.
    append_lane: Lane,
}

impl Connector {
    pub(crate) fn new(
        network: Arc<dyn Network>,
        cluster: Arc<Cluster>,
        transfers: Arc<Transfers>,
        wal: WalSize,
    ) -> Self {
        Self {
            network,
            cluster,
            vote_timeout: Duration::from_secs(1),
            transfers,
            wal,
            notices: Arc::default(),
            acknowledged: Arc::default(),
            leads: Arc::default(),
        }
    }

    /// Where to put what says whether this node leads; until then it does not.
    pub(super) fn leads(&self) -> Arc<OnceLock<Leads>> {
        Arc::clone(&self.leads)
    }

    /// What the members have acknowledged to this node.
    pub(super) fn acknowledged(&self) -> Arc<Acknowledged> {
        Arc::clone(&self.acknowledged)
    }

    /// With another limit for votes.
    pub(super) fn with_vote_timeout(self, vote_timeout: Duration) -> Self {
        Self { vote_timeout, ..self }
    }

    /// This node's number in Raft.
    pub(super) fn raft_id(&self) -> u64 {
        self.cluster.raft_id
    }
}

impl RaftNetworkFactory<TypeConfig> for Connector {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Connection {
        let (connector, peer) = (self.clone(), node.clone());
        Connection { connector, to: target, peer, append_lane: Lane::Append }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Connection {
        let client = self.new_client(target, node).await;
        Connection { append_lane: Lane::Control, ..client }
    }
}

impl Connection {
    /// Where to dial; a member may have moved.
    fn address(&self) -> String {
        self.connector.cluster.address(self.to, &self.peer.raft_addr)
    }

    fn header(&self) -> Header {
        Header {
            cluster: self.connector.cluster.id().unwrap_or_default(),
            to: self.to,
            from: self.connector.raft_id(),
            leads: self.connector.leads.get().is_some_and(|leads| leads()),
            acknowledged: None,
        }
    }

    /// The last entry that this member has acknowledged in a term in which this node leads.
    fn acknowledged(&self, term: u64) -> Option<u64> {
        self.connector.acknowledged.upto(self.to, term)
    }

    /// Makes a call; what comes back is Raft's answer.
    fn call(
        &self,
        lane: Lane,
        request: Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<Answer, RPCError<TypeConfig>>> + Send + use<> {
        let (peer, notices) = (self.peer.clone(), Arc::clone(&self.connector.notices));
        let acknowledged = match &request {
            Request::Append(request) => self.acknowledged(request.vote.leader_id.term),
            _ => None,
        };
        let header = Header { acknowledged, ..self.header() };
        let (to, request) = (self.address(), request.encode(header));
        let call = Call { to, lane, request, timeout, revocable: false };
        let answer = self.connector.network.call(call);
        async move { received(&peer, answer.await, &notices) }
    }
}

/// What an answer, or its absence, means to openraft.
fn received(
    peer: &Peer,
    answer: Result<Bytes, CallError>,
    notices: &Notices,
) -> Result<Answer, RPCError<TypeConfig>> {
    let unreachable = |reason: &str| {
        RPCError::Unreachable(Unreachable::new(&io::Error::other(format!(
            "{}: {reason}",
            peer.name
        ))))
    };
    match answer.map(Answer::decode) {
        Ok(Ok(Answer::Refused(reason))) => {
            notices.warn("raft", &format!("{peer} refuses what this node says: {reason}"));
            Err(unreachable(&reason))
        }
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(unreachable(&format!("its answer makes no sense: {error}"))),
        Err(CallError::NotSent(reason)) => Err(unreachable(&reason)),
        Err(CallError::Unanswered(reason)) => Err(RPCError::Network(NetworkError::new(
            &io::Error::other(format!("{}: {reason}", peer.name)),
        ))),
    }
}

/// An answer of another kind than was asked for.
fn mismatch(peer: &Peer) -> RPCError<TypeConfig> {
    let error = io::Error::other(format!("{peer} answered something else than was asked"));
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = DurableFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let bytes = request.entries.iter().map(size).sum();
        append(self, request, bytes).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendStream<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let pipeline = Pipeline {
            connection: self,
            input: input.fuse(),
            in_flight: FuturesOrdered::new(),
            bytes: VecDeque::new(),
            reached: None,
            ended: false,
        };
        let answers: AppendStream<'s> =
            Box::pin(futures_util::stream::unfold(pipeline, |mut pipeline| async move {
                pipeline.next().await.map(|answer| (answer, pipeline))
            }));
        Box::pin(std::future::ready(Ok(answers)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = self.connector.vote_timeout;
        match self.call(Lane::Control, Request::Vote(request), timeout).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(mismatch(&self.peer)),
        }
    }

    // The provided method grants every pre-vote; a peer that does not answer must not.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = self.connector.vote_timeout;
        match self.call(Lane::Control, Request::PreVote(request), timeout).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(mismatch(&self.peer)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, DurableFile>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreachable = |reason: &str| {
            let error = io::Error::other(format!("{}: {reason}", self.peer.name));
            StreamingError::Unreachable(Unreachable::new(&error))
        };
        let DurableFile::Own(readers) = snapshot.snapshot else {
            return Err(unreachable("only the database in place can be sent"));
        };
        let connector = &self.connector;
        let cargo = Cargo {
            readers,
            wal: connector.wal.clone(),
            header: self.header().encode(),
            term: vote.leader_id.term,
            closing: encode_vote(&vote),
        };
        let sending = format!("sending the database to {}", self.peer);
        connector.notices.tell("snapshot", &sending);
        let to = self.address();
        let mut cancel = std::pin::pin!(cancel);
        let sent = connector.transfers.send(&connector.network, &to, cargo, &mut cancel).await;
        match sent {
            Ok(sent) => {
                tracing::info!(
                    component = "snapshot",
                    "the database was sent to {} up to entry {}: {} of {} pages in {} rounds",
                    self.peer,
                    sent.applied.index,
                    sent.pages_sent,
                    sent.page_count,
                    sent.rounds
                );
                let vote = decode_vote(&sent.response).map_err(|error| unreachable(&error))?;
                Ok(SnapshotResponse::new(vote))
            }
            Err(TransferError::Cancelled) => Err(ReplicationClosed::new("cancelled").into()),
            Err(TransferError::Refused { refusal: Refusal::NotAdmitted, reason }) => {
                let name = &self.peer.name;
                let refused =
                    format!("node {name} does not take the database, it is asked again: {reason}");
                connector.notices.warn("snapshot", &refused);
                tokio::select! {
                    biased;
                    closed = &mut cancel => Err(closed.into()),
                    () = tokio::time::sleep(REFUSED_PAUSE) => Err(unreachable(&reason)),
                }
            }
            Err(error) => {
                tracing::warn!(
                    component = "snapshot",
                    "sending the database to {} failed, it goes on later: {error}",
                    self.peer.name
                );
                Err(unreachable(&error.to_string()))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = self.connector.vote_timeout;
        match self.call(Lane::Control, Request::Transfer(request), timeout).await? {
            Answer::Transfer(Ok(())) => Ok(Ok(())),
            Answer::Transfer(Err(reason)) => {
                let error = io::Error::other(format!("{}: {reason}", self.peer));
                Err(RPCError::Network(NetworkError::new(&error)))
            }
            _ => Err(mismatch(&self.peer)),
        }
    }
}

type AppendStream<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;
type Range = (Option<LogIdOf<TypeConfig>>, Option<LogIdOf<TypeConfig>>);

/// Sends one append request.
fn append(
    connection: &Connection,
    request: AppendEntriesRequest<TypeConfig>,
    bytes_in_flight: u64,
) -> impl Future<Output = Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>>> + Send + use<>
{
    let lane = connection.append_lane;
    let peer = connection.peer.clone();
    let timeout = APPEND_TIMEOUT + Duration::from_secs(bytes_in_flight / SLOWEST_LINK);
    let term = request.vote.leader_id.term;
    let previous = request.prev_log_id.map(|id| id.index());
    let last = request.entries.last().map(|entry| entry.log_id.index()).or(previous);
    // Whoever had this before the request was sent cannot lack it now.
    let held = connection.acknowledged(term).filter(|held| previous.is_some_and(|at| at <= *held));
    let (to, connector) = (connection.to, connection.connector.clone());
    let answer = connection.call(lane, Request::Append(request), timeout);
    async move {
        let Answer::Append(response) = answer.await? else { return Err(mismatch(&peer)) };
        let reached = match &response {
            AppendEntriesResponse::Success => last,
            AppendEntriesResponse::PartialSuccess(reached) => reached.map(|id| id.index()),
            AppendEntriesResponse::Conflict if let Some(held) = held => {
                return Err(lost(&peer, held, &connector.notices));
            }
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => None,
        };
        if let Some(reached) = reached {
            connector.acknowledged.note(to, term, reached);
        }
        Ok(response)
    }
}

/// A member does not have what it had acknowledged, and does not notice it itself: an older program. To openraft it is
/// not there; it would send the same again without a pause, and count its heartbeats.
fn lost(peer: &Peer, held: u64, notices: &Notices) -> RPCError<TypeConfig> {
    let reason = format!(
        "{peer} has lost entries that it had acknowledged, up to {held}, and is not counted: end it, and let it join \
         with an empty data directory"
    );
    notices.warn("raft", &reason);
    RPCError::Unreachable(Unreachable::new(&io::Error::other(reason)))
}

/// The bytes of an entry on the wire, roughly.
fn size(entry: &EntryOf<TypeConfig>) -> u64 {
    match &entry.payload {
        EntryPayload::Normal(payload) => payload.bytes().len() as u64 + 16,
        EntryPayload::Blank | EntryPayload::Membership(_) => 256,
    }
}

/// Append requests on their way to one follower.
struct Pipeline<'s, S> {
    connection: &'s mut Connection,
    input: futures_util::stream::Fuse<S>,
    in_flight: FuturesOrdered<
        BoxFuture<'static, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
    >,
    /// The bytes of each request in flight.
    bytes: VecDeque<u64>,
    /// Up to where the follower has what was sent, as it said itself.
    reached: Option<u64>,
    /// After anything but success nothing more is sent and the stream ends.
    ended: bool,
}

impl<S> Pipeline<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin,
{
    /// Sends what is to be sent while there is room, and gives the next answer.
    async fn next(
        &mut self,
    ) -> Option<Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>> {
        if self.ended {
            return None;
        }
        loop {
            let room = self.in_flight.len() < APPENDS_IN_FLIGHT && !self.input.is_done();
            if self.in_flight.is_empty() && !room {
                return None;
            }
            tokio::select! {
                biased;
                Some(answer) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    self.bytes.pop_front();
                    self.ended = !matches!(answer, Ok(Ok(_)));
                    return Some(self.in_order(answer));
                }
                request = self.input.next(), if room => {
                    if let Some(request) = request {
                        self.send(request);
                    }
                }
            }
        }
    }

    /// A request that came to the follower before an earlier one finds a gap there. By the time its answer is looked at
    /// the gap is filled; to openraft the follower would have lost what it has.
    fn in_order(
        &mut self,
        answer: Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>,
    ) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
        match &answer {
            Ok(Ok(Some(reached))) => self.reached = self.reached.max(Some(reached.index())),
            Ok(Err(StreamAppendError::Conflict(at))) if self.reached >= Some(at.index()) => {
                let reason = format!("{}: requests overtook each other", self.connection.peer);
                return Err(RPCError::Unreachable(Unreachable::new(&io::Error::other(reason))));
            }
            _ => {}
        }
        answer
    }

    fn send(&mut self, request: AppendEntriesRequest<TypeConfig>) {
        let last = request.entries.last().map(|entry| entry.log_id);
        let range: Range = (request.prev_log_id, last.or(request.prev_log_id));
        self.bytes.push_back(request.entries.iter().map(size).sum());
        let answer = append(self.connection, request, self.bytes.iter().sum());
        self.in_flight.push_back(Box::pin(async move {
            let response = answer.await?;
            let (previous, last) = range;
            Ok(response.into_stream_result(previous, last))
        }));
    }
}
