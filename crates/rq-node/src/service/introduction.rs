//! How nodes present themselves to each other, as bytes: who comes, and what a node says of itself when asked.
//!
//! Field numbers are never reused. What an older program does not say is absent.

use crate::{OtherEngine, disk_watch::DiskState};

/// A node that wants to belong to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Newcomer {
    /// Its name.
    pub(crate) name: String,
    /// Its number in Raft.
    pub(crate) raft_id: u64,
    /// Its internode address.
    pub(crate) raft_addr: String,
    /// The URL of its HTTP API.
    pub(crate) api_url: String,
    /// Whether it never wants to vote.
    pub(crate) replica: bool,
    /// Its engine epoch.
    pub(crate) epoch: i64,
    /// The newest format of log entries it understands.
    pub(crate) format: u32,
    /// The cluster it belongs to already, if it holds data.
    pub(crate) cluster: Option<String>,
    /// The random number of its process; an older program has none.
    pub(crate) process: Option<u64>,
}

/// What a node says of itself to others.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Metadata {
    /// Its name.
    pub(crate) name: String,
    /// Its number in Raft.
    pub(crate) raft_id: u64,
    /// Its cluster, if it belongs to one.
    pub(crate) cluster: Option<String>,
    /// The URL of its HTTP API.
    pub(crate) api_url: String,
    /// The level of the HTTP API it implements.
    pub(crate) version: String,
    /// The last entry it knows to be committed.
    pub(crate) commit_index: u64,
    /// Whether it leads.
    pub(crate) leads: bool,
    /// The last entry in its log.
    pub(crate) last_log: (u64, u64),
    /// What its disk lets it do.
    pub(crate) disk: DiskState,
    /// Whether its program computes another engine epoch than its database belongs to, and it must not lead.
    pub(crate) other_engine: Option<OtherEngine>,
    /// The random number of its process, while it takes part in its cluster; an older program has none.
    pub(crate) process: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NewcomerMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(fixed64, tag = "2")]
    raft_id: u64,
    #[prost(string, tag = "3")]
    raft_addr: String,
    #[prost(string, tag = "4")]
    api_url: String,
    #[prost(bool, tag = "5")]
    replica: bool,
    #[prost(sint64, tag = "6")]
    epoch: i64,
    #[prost(uint32, tag = "7")]
    format: u32,
    #[prost(string, optional, tag = "8")]
    cluster: Option<String>,
    #[prost(fixed64, optional, tag = "9")]
    process: Option<u64>,
}

impl From<Newcomer> for NewcomerMessage {
    fn from(newcomer: Newcomer) -> Self {
        let Newcomer {
            name,
            raft_id,
            raft_addr,
            api_url,
            replica,
            epoch,
            format,
            cluster,
            process,
        } = newcomer;
        Self { name, raft_id, raft_addr, api_url, replica, epoch, format, cluster, process }
    }
}

impl From<NewcomerMessage> for Newcomer {
    fn from(message: NewcomerMessage) -> Self {
        let NewcomerMessage {
            name,
            raft_id,
            raft_addr,
            api_url,
            replica,
            epoch,
            format,
            cluster,
            process,
        } = message;
        Self { name, raft_id, raft_addr, api_url, replica, epoch, format, cluster, process }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MetadataMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(fixed64, tag = "2")]
    raft_id: u64,
    #[prost(string, optional, tag = "3")]
    cluster: Option<String>,
    #[prost(string, tag = "4")]
    api_url: String,
    #[prost(string, tag = "5")]
    version: String,
    #[prost(uint64, tag = "6")]
    commit_index: u64,
    #[prost(bool, tag = "7")]
    leads: bool,
    #[prost(uint64, tag = "8")]
    last_term: u64,
    #[prost(uint64, tag = "9")]
    last_index: u64,
    #[prost(uint32, tag = "10")]
    disk: u32,
    #[prost(sint64, optional, tag = "11")]
    other_database: Option<i64>,
    #[prost(sint64, tag = "12")]
    other_program: i64,
    #[prost(fixed64, optional, tag = "13")]
    process: Option<u64>,
}

impl From<Metadata> for MetadataMessage {
    fn from(metadata: Metadata) -> Self {
        let (last_term, last_index) = metadata.last_log;
        let disk = metadata.disk.number();
        let Metadata {
            name,
            raft_id,
            cluster,
            api_url,
            version,
            commit_index,
            leads,
            other_engine,
            process,
            ..
        } = metadata;
        Self {
            name,
            raft_id,
            cluster,
            api_url,
            version,
            commit_index,
            leads,
            last_term,
            last_index,
            disk,
            other_database: other_engine.map(|other| other.database),
            other_program: other_engine.map_or(0, |other| other.program),
            process,
        }
    }
}

impl From<MetadataMessage> for Metadata {
    fn from(message: MetadataMessage) -> Self {
        let last_log = (message.last_term, message.last_index);
        let disk = DiskState::from_number(message.disk);
        let program = message.other_program;
        let other_engine = message.other_database.map(|database| OtherEngine { database, program });
        let MetadataMessage {
            name,
            raft_id,
            cluster,
            api_url,
            version,
            commit_index,
            leads,
            process,
            ..
        } = message;
        Self {
            name,
            raft_id,
            cluster,
            api_url,
            version,
            commit_index,
            leads,
            last_log,
            disk,
            other_engine,
            process,
        }
    }
}
