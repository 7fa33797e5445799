//! The one definition of every flag: name, kind, default, heading, help.
//!
//! Parsing, usage, man page and completions all come from here. Only the form is stated, not
//! what makes sense together: that is [`crate::config`]'s. Kinds are told by the value's name
//! (`bool`, `string`, `int`, `uint`, `duration`), which is also what the usage shows.
//!
//! The first 68 flags are those of rqlited, with its names, kinds and defaults, and never
//! change; flags of our own stand in [`own`].

mod own;

use std::ffi::OsString;

use clap::{Args, CommandFactory as _, Parser};

pub use crate::goflag::{GoDuration, Switch};
use crate::goflag::{Kind, parse_int, parse_uint};
pub(crate) use own::HEADING as OWN;
pub use own::{LogFormat, LogLevel, OwnFlags};

/// What the man page says before it lists the flags.
const ABOUT: &str = "a node of a replicated SQLite database, spoken to over HTTP";
const DESCRIPTION: &str = "\
A node keeps its data in the data directory, takes SQL over HTTP, and answers a write only when \
it is safe on disk. Flags must stand before the data directory. They take one dash or two, and \
their value behind = or a space; a boolean flag takes its value behind = alone. Of several the \
last counts. Lengths of time are written like 1.5h, 2m30s or 250ms. With -h the flags are \
listed.";

/// Everything as it was typed, kinds checked, defaults filled in.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "rqd",
    version,
    about = ABOUT,
    long_about = DESCRIPTION,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true,
    override_usage = "rqd [flags] <data directory>"
)]
pub struct Cli {
    /// What concerns the process and its identity.
    #[command(flatten)]
    pub general: GeneralFlags,
    /// The HTTP API.
    #[command(flatten)]
    pub http: HttpFlags,
    /// The port on which nodes speak to each other.
    #[command(flatten)]
    pub internode: InternodeFlags,
    /// How nodes find each other.
    #[command(flatten)]
    pub cluster: ClusterFlags,
    /// The database.
    #[command(flatten)]
    pub sqlite: SqliteFlags,
    /// Raft.
    #[command(flatten)]
    pub raft: RaftFlags,
    /// The queue of `/db/execute?queue`.
    #[command(flatten)]
    pub queue: QueueFlags,
    /// Users, and what works beside the database.
    #[command(flatten)]
    pub services: ServiceFlags,
    /// Metrics over OTLP.
    #[command(flatten)]
    pub otlp: OtlpFlags,
    /// Profiles.
    #[command(flatten)]
    pub profiling: ProfilingFlags,
    /// Flags rqlited does not have.
    #[command(flatten)]
    pub own: OwnFlags,
    /// Directory that holds all data of the node; created if it does not exist
    #[arg(value_name = "data directory", value_hint = clap::ValueHint::DirPath)]
    pub words: Vec<OsString>,
}

/// Gives the definition as clap knows it.
pub fn command() -> clap::Command {
    Cli::command().mut_args(|flag| {
        let flag = match Kind::of(&flag) {
            Kind::Bool => flag.num_args(0..=1).require_equals(true).default_missing_value("true"),
            Kind::Text | Kind::Int | Kind::Uint | Kind::Duration => flag,
        };
        // As in Go, a default that is zero goes without saying.
        let is_zero = flag
            .get_default_values()
            .iter()
            .all(|value| ["", "false", "0", "0s", "0h"].iter().any(|zero| value == zero));
        flag.hide_default_value(is_zero)
    })
}

/// What concerns the process and its identity.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "General")]
pub struct GeneralFlags {
    /// Print name, version and what it was built with, then exit
    #[arg(long, value_name = "bool", default_value = "false")]
    pub version: Switch,
    /// Name of this node in the cluster, never to be changed for a data directory. If not set,
    /// the stored name counts, and at first start the advertised Raft address
    #[arg(long, value_name = "string", default_value = "")]
    pub node_id: String,
}

/// The HTTP API.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "HTTP API")]
pub struct HttpFlags {
    /// Address the HTTP API listens on. For HTTPS also set -http-cert and -http-key
    #[arg(long, value_name = "string", default_value = "localhost:4001")]
    pub http_addr: String,
    /// Address at which clients and other nodes reach the HTTP API. If not set, -http-addr
    #[arg(long, value_name = "string", default_value = "")]
    pub http_adv_addr: String,
    /// Value of the Access-Control-Allow-Origin header. If not set, there is no such header
    #[arg(long, value_name = "string", default_value = "")]
    pub http_allow_origin: String,
    /// PEM file of the authorities that may vouch for clients of the HTTP API. If not set, those
    /// the system trusts. Read again when it changes
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub http_ca_cert: String,
    /// PEM file of the certificate of the HTTP API. Read again when it changes
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub http_cert: String,
    /// PEM file of the private key that belongs to -http-cert
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub http_key: String,
    /// Require a valid certificate of every client of the HTTP API
    #[arg(long, value_name = "bool", default_value = "false")]
    pub http_verify_client: Switch,
    /// Common name that certificates of clients must carry. Needs -http-verify-client
    #[arg(long, value_name = "string", default_value = "")]
    pub http_verify_common_name: String,
}

/// The port on which nodes speak to each other.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Between nodes")]
pub struct InternodeFlags {
    /// Address on which this node listens for other nodes
    #[arg(long, value_name = "string", default_value = "localhost:4002")]
    pub raft_addr: String,
    /// Address at which other nodes reach this one. If not set, -raft-addr
    #[arg(long, value_name = "string", default_value = "")]
    pub raft_adv_addr: String,
    /// PEM file of the certificate used between nodes; turns on TLS there
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub node_cert: String,
    /// PEM file of the private key that belongs to -node-cert
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub node_key: String,
    /// PEM file of the authorities that may vouch for other nodes. If not set, those the system
    /// trusts. Read again when it changes
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub node_ca_cert: String,
    /// Do not verify the certificate of a node that is dialled
    #[arg(long, value_name = "bool", default_value = "false")]
    pub node_no_verify: Switch,
    /// Require a valid certificate of every node that dials
    #[arg(long, value_name = "bool", default_value = "false")]
    pub node_verify_client: Switch,
    /// Host name that certificates of dialled nodes must be issued for. If not set, the dialled
    /// host
    #[arg(long, value_name = "string", default_value = "")]
    pub node_verify_server_name: String,
    /// Common name that certificates of dialling nodes must carry. Needs -node-verify-client
    #[arg(long, value_name = "string", default_value = "")]
    pub node_verify_common_name: String,
    /// Time another node may take to accept a connection, TLS included
    #[arg(long, value_name = "duration", default_value = "30s")]
    pub cluster_connect_timeout: GoDuration,
    /// Compress databases on their way to nodes that lag far behind
    #[arg(long, value_name = "bool", default_value = "false")]
    pub compress_snap_transport: Switch,
}

/// How nodes find each other.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster formation")]
pub struct ClusterFlags {
    /// Raft addresses, separated by commas, of nodes through which to join a cluster
    #[arg(long, value_name = "string", default_value = "")]
    pub join: String,
    /// Number of passes over the list of -join before giving up
    #[arg(long, value_name = "int", default_value = "5", value_parser = parse_int, allow_hyphen_values = true)]
    pub join_attempts: i64,
    /// Pause between two passes over the list of -join
    #[arg(long, value_name = "duration", default_value = "3s")]
    pub join_interval: GoDuration,
    /// User of the -auth file in whose name to join. If not set, nobody's
    #[arg(long, value_name = "string", default_value = "")]
    pub join_as: String,
    /// Number of voters that must have been heard of before a new cluster is formed. 0 forms one
    /// at once
    #[arg(long, value_name = "int", default_value = "0", value_parser = parse_int, allow_hyphen_values = true)]
    pub bootstrap_expect: i64,
    /// Time in which a new cluster must have been formed
    #[arg(long, value_name = "duration", default_value = "120s")]
    pub bootstrap_expect_timeout: GoDuration,
    /// Service through which nodes find each other: consul-kv, etcd-kv, dns or dns-srv. If not
    /// set, none
    #[arg(long, value_name = "string", default_value = "")]
    pub disco_mode: String,
    /// Prefix of the keys kept in the discovery service
    #[arg(long, value_name = "string", default_value = "rqlite")]
    pub disco_key: String,
    /// Configuration of the discovery service: a JSON file, or the JSON itself
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub disco_config: String,
    /// Run as a read-only node, which does not vote
    #[arg(long, value_name = "bool", default_value = "false")]
    pub raft_non_voter: Switch,
}

/// The database.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "SQLite")]
pub struct SqliteFlags {
    /// Enforce foreign keys. Must be equal on all nodes
    #[arg(long, value_name = "bool", default_value = "false")]
    pub fk: Switch,
    /// Most read-only connections to the database. 0 is no limit
    #[arg(long, value_name = "int", default_value = "256", value_parser = parse_int, allow_hyphen_values = true)]
    pub db_max_ro_conns: i64,
    /// Time between two runs of VACUUM. 0 is never
    #[arg(long, value_name = "duration", default_value = "0s")]
    pub auto_vacuum_int: GoDuration,
    /// Time between two runs of PRAGMA optimize. 0 is never
    #[arg(long, value_name = "duration", default_value = "24h")]
    pub auto_optimize_int: GoDuration,
    /// Files, directories or archives, separated by commas, with SQLite extensions to load
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::AnyPath)]
    pub extensions_path: String,
}

/// Raft.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Raft")]
pub struct RaftFlags {
    /// Least severe messages of Raft that are logged: TRACE, DEBUG, INFO, WARN, ERROR or OFF
    #[arg(long, value_name = "string", default_value = "WARN")]
    pub raft_log_level: String,
    /// Number of log entries after which a snapshot is due
    #[arg(long, value_name = "uint", default_value = "8192", value_parser = parse_uint)]
    pub raft_snap: u64,
    /// Bytes of the SQLite WAL beyond which a snapshot is due. 0 is never
    #[arg(long, value_name = "uint", default_value = "4194304", value_parser = parse_uint)]
    pub raft_snap_wal_size: u64,
    /// Time between two checks whether a snapshot is due
    #[arg(long, value_name = "duration", default_value = "10s")]
    pub raft_snap_int: GoDuration,
    /// Time without a word of the leader after which a node gets impatient
    #[arg(long, value_name = "duration", default_value = "1s")]
    pub raft_heartbeat_timeout: GoDuration,
    /// Time a candidate waits for votes
    #[arg(long, value_name = "duration", default_value = "1s")]
    pub raft_election_timeout: GoDuration,
    /// Time without a majority after which a leader steps down. 0 is 500ms
    #[arg(long, value_name = "duration", default_value = "0s")]
    pub raft_leader_lease_timeout: GoDuration,
    /// Idle time after which a leader tells followers what is committed
    #[arg(long, value_name = "duration", default_value = "50ms")]
    pub raft_commit_timeout: GoDuration,
    /// Time a write may wait to be handed to Raft. 0 is no limit
    #[arg(long, value_name = "duration", default_value = "10s")]
    pub raft_apply_timeout: GoDuration,
    /// Shut Raft down on a leader that is removed from its cluster
    #[arg(long, value_name = "bool", default_value = "false")]
    pub raft_remove_shutdown: Switch,
    /// Leave the cluster when the node is stopped
    #[arg(long, value_name = "bool", default_value = "false")]
    pub raft_cluster_remove_shutdown: Switch,
    /// Hand over leadership before the node stops
    #[arg(long, value_name = "bool", default_value = "true")]
    pub raft_shutdown_stepdown: Switch,
    /// Time after which the leader removes a voter that cannot be reached. If not set, never
    #[arg(long, value_name = "duration")]
    pub raft_reap_node_timeout: Option<GoDuration>,
    /// Time after which the leader removes a read-only node that cannot be reached. If not set,
    /// never
    #[arg(long, value_name = "duration")]
    pub raft_reap_read_only_node_timeout: Option<GoDuration>,
}

/// The queue of `/db/execute?queue`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Queued writes")]
pub struct QueueFlags {
    /// Number of queued requests that may wait; more wait for room
    #[arg(long, value_name = "int", default_value = "1024", value_parser = parse_int, allow_hyphen_values = true)]
    pub write_queue_capacity: i64,
    /// Number of queued requests that are written together
    #[arg(long, value_name = "int", default_value = "128", value_parser = parse_int, allow_hyphen_values = true)]
    pub write_queue_batch_size: i64,
    /// Time a queued request waits for others. 0 waits until there are enough
    #[arg(long, value_name = "duration", default_value = "50ms")]
    pub write_queue_timeout: GoDuration,
    /// Write queued requests that go together in one transaction
    #[arg(long, value_name = "bool", default_value = "false")]
    pub write_queue_tx: Switch,
}

/// Users, and what works beside the database.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Services")]
pub struct ServiceFlags {
    /// JSON file of users, passwords and permissions. If not set, everybody may do everything.
    /// Read again when it changes
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub auth: String,
    /// JSON file that says where to and how often backups are uploaded. If not set, never
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub auto_backup: String,
    /// JSON file that says what a new node is restored from. If not set, it starts empty
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub auto_restore: String,
    /// Where changes of rows are sent: a URL, the word stdout, or a JSON file. If not set, nowhere
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub cdc_config: String,
}

/// Metrics over OTLP.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "OTLP metrics")]
pub struct OtlpFlags {
    /// Address, host:port, of the collector metrics are sent to. If not set, none
    #[arg(long, value_name = "string", default_value = "")]
    pub otlp_endpoint: String,
    /// Time between two reports to the collector
    #[arg(long, value_name = "duration", default_value = "30s")]
    pub otlp_interval: GoDuration,
    /// Speak to the collector without TLS
    #[arg(long, value_name = "bool", default_value = "false")]
    pub otlp_insecure: Switch,
    /// Do not verify the collector's certificate
    #[arg(long, value_name = "bool", default_value = "false")]
    pub otlp_no_verify: Switch,
    /// PEM file of the authorities that may vouch for the collector. If not set, those the
    /// system trusts
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub otlp_ca_cert: String,
    /// PEM file of the certificate presented to the collector
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub otlp_cert: String,
    /// PEM file of the private key that belongs to -otlp-cert
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub otlp_key: String,
}

/// Profiles. Accepted for the sake of existing scripts.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Profiling")]
pub struct ProfilingFlags {
    /// Accepted, with a warning that no CPU profile is written
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub cpu_profile: String,
    /// Accepted, with a warning that no memory profile is written
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub mem_profile: String,
    /// Accepted, with a warning that no trace is written
    #[arg(long, value_name = "string", default_value = "", value_hint = clap::ValueHint::FilePath)]
    pub trace_profile: String,
}
