//! How this node comes to belong to a cluster, and how it speaks to the other nodes: the flags, typed.

use std::{path::PathBuf, time::Duration};

use rq_security::{
    ClientCertificates, ClientTlsOptions, PairFiles, ServerCertificates, ServerTlsOptions,
};

use crate::{
    cli::{Cli, InternodeFlags},
    config::{Problem, given, length},
    goflag::GoDuration,
};

/// How this node comes to belong to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forming {
    /// Founds one if it belongs to none; else waits for its peers.
    Alone,
    /// Joins through one of the addresses.
    Join {
        /// Internode addresses, at least one.
        addresses: Vec<String>,
        /// Passes over the addresses; with none joining fails at once.
        attempts: u64,
        /// The time between two passes.
        interval: Duration,
    },
    /// Joins the cluster there is, or founds one together with others.
    Together {
        /// Internode addresses, at least one.
        addresses: Vec<String>,
        /// How many voters found it.
        expect: usize,
        /// How long it may take.
        timeout: Duration,
    },
}

/// In whose name this node joins and leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinAs {
    /// A user of the credentials file; `None` is nobody.
    pub username: Option<String>,
    /// The file that holds the user's password; needed if the credentials file holds only its hash.
    pub password_file: Option<PathBuf>,
}

/// What this node is to its cluster.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct ClusterConfig {
    /// How it comes to belong to one.
    pub forming: Forming,
    /// In whose name.
    pub join_as: JoinAs,
    /// Whether it only follows and never votes.
    pub replica: bool,
    /// After what silence the leader removes a voter; `None` is never.
    pub reap_voters_after: Option<Duration>,
    /// After what silence the leader removes a read replica; `None` is never.
    pub reap_replicas_after: Option<Duration>,
    /// Whether leadership is handed over before the node stops.
    pub step_down_at_shutdown: bool,
    /// Whether the node leaves the cluster when it stops.
    pub leave_at_shutdown: bool,
    /// Whether a leader that was removed takes no part in Raft any more.
    pub stop_when_removed: bool,
}

/// How nodes reach each other.
#[derive(Clone, Debug)]
pub struct InternodeConfig {
    /// How long another node may take to accept a connection, TLS included.
    pub connect_timeout: Duration,
    /// The files of TLS; `None` speaks plain TCP.
    pub tls: Option<InternodeTls>,
    /// The file of the secret all nodes share; `None` asks for none.
    pub secret: Option<PathBuf>,
    /// Whether databases travel compressed.
    pub compress: bool,
}

/// Both sides of TLS among nodes.
#[derive(Clone, Debug)]
pub struct InternodeTls {
    /// For connections that are accepted.
    pub server: ServerTlsOptions,
    /// For connections that are dialled.
    pub client: ClientTlsOptions,
}

impl ClusterConfig {
    /// Types the flags; what contradicts itself among them was refused before.
    pub(crate) fn check(cli: &Cli) -> Result<Self, Problem> {
        let reap = |timeout: Option<GoDuration>| timeout.and_then(GoDuration::to_std);
        Ok(Self {
            forming: forming(cli)?,
            join_as: join_as(cli)?,
            replica: cli.cluster.raft_non_voter.0,
            reap_voters_after: reap(cli.raft.raft_reap_node_timeout),
            reap_replicas_after: reap(cli.raft.raft_reap_read_only_node_timeout),
            step_down_at_shutdown: cli.raft.raft_shutdown_stepdown.0,
            leave_at_shutdown: cli.raft.raft_cluster_remove_shutdown.0,
            stop_when_removed: cli.raft.raft_remove_shutdown.0,
        })
    }
}

impl InternodeConfig {
    /// Types the flags.
    pub(crate) fn check(cli: &Cli) -> Result<Self, Problem> {
        let flags = &cli.internode;
        Ok(Self {
            connect_timeout: length("cluster-connect-timeout", flags.cluster_connect_timeout)?,
            tls: tls(flags)?,
            secret: given(&cli.own.cluster_secret_file).map(PathBuf::from),
            compress: flags.compress_snap_transport.0,
        })
    }
}

/// Gives a sentence for each flag that has no effect without another one.
pub(crate) fn warnings(cli: &Cli) -> Vec<String> {
    let flags = &cli.internode;
    let mut warnings = Vec::new();
    if flags.node_cert.is_empty() {
        let demands = [
            ("node-verify-client", flags.node_verify_client.0),
            ("node-no-verify", flags.node_no_verify.0),
            ("node-verify-server-name", !flags.node_verify_server_name.is_empty()),
        ];
        for (name, _) in demands.iter().filter(|(_, is_given)| *is_given) {
            warnings.push(format!(
                "-{name} has no effect without -node-cert and -node-key: nodes speak plain TCP"
            ));
        }
    }
    if cli.cluster.bootstrap_expect > 0 && cli.cluster.join.is_empty() {
        warnings.push(
            "-bootstrap-expect has no effect without -join: this node forms a cluster alone"
                .to_owned(),
        );
    }
    warnings
}

fn forming(cli: &Cli) -> Result<Forming, Problem> {
    let flags = &cli.cluster;
    let Some(list) = given(&flags.join) else { return Ok(Forming::Alone) };
    let addresses = list.split(',').map(str::to_owned).collect();
    Ok(match usize::try_from(flags.bootstrap_expect) {
        Ok(expect) if expect > 0 => Forming::Together {
            addresses,
            expect,
            timeout: length("bootstrap-expect-timeout", flags.bootstrap_expect_timeout)?,
        },
        Ok(_) | Err(_) => Forming::Join {
            addresses,
            attempts: u64::try_from(flags.join_attempts).unwrap_or_default(),
            interval: length("join-interval", flags.join_interval)?,
        },
    })
}

fn join_as(cli: &Cli) -> Result<JoinAs, Problem> {
    let username = given(&cli.cluster.join_as);
    let password_file = given(&cli.own.join_as_password_file).map(PathBuf::from);
    if password_file.is_some() && username.is_none() {
        return Err(Problem::fatal("-join-as-password-file requires -join-as"));
    }
    Ok(JoinAs { username, password_file })
}

fn tls(flags: &InternodeFlags) -> Result<Option<InternodeTls>, Problem> {
    let path = |text: &str| given(text).map(PathBuf::from);
    let authority = path(&flags.node_ca_cert);
    let (Some(certificate), Some(key)) = (path(&flags.node_cert), path(&flags.node_key)) else {
        if authority.is_some() {
            return Err(Problem::Logged(
                "failed to create cluster client: -node-ca-cert requires -node-cert and -node-key"
                    .to_owned(),
            ));
        }
        return Ok(None);
    };
    let clients = if flags.node_verify_client.0 {
        ClientCertificates::Required {
            authority: authority.clone(),
            common_name: given(&flags.node_verify_common_name),
        }
    } else {
        ClientCertificates::NotAsked
    };
    let servers = if flags.node_no_verify.0 {
        ServerCertificates::Unverified
    } else {
        ServerCertificates::Verified { authority, name: given(&flags.node_verify_server_name) }
    };
    let pair = PairFiles { certificate: certificate.clone(), key: key.clone() };
    Ok(Some(InternodeTls {
        server: ServerTlsOptions { certificate, key, clients },
        client: ClientTlsOptions { pair: Some(pair), servers },
    }))
}
