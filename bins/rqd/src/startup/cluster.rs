//! This node among others: the internode port, coming to a cluster, handing leadership over, leaving.

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rq_node::{
    Formation, Node, Route,
    internode::{TcpNetwork, TcpOptions, TcpTls},
};
use rq_security::{
    ClientCertificates, ClientTls, ClusterSecret, Credentials, ServerTls, StoredPassword, Users,
};
use tokio::time::{Instant, sleep, timeout};

use super::{probe, signals::Signals};
use crate::config::{Config, Forming, InternodeTls, JoinAs};

/// How long a node that may lead is given to do so before it is called available. It takes milliseconds.
const FIRST_LEADER_PATIENCE: Duration = Duration::from_secs(2);
/// How long handing leadership over may take before the node stops without.
const HANDOVER_TIME: Duration = Duration::from_millis(1500);
/// How often a node that leaves asks for it.
const LEAVE_ATTEMPTS: usize = 5;
/// The time between two of these.
const LEAVE_INTERVAL: Duration = Duration::from_millis(250);
/// How long the leader may take to let a node leave.
const LEAVE_TIME: Duration = Duration::from_secs(5);
/// How long leaving may take altogether; what stopping may take beyond its usual time.
pub(crate) const LEAVING_TIME: Duration = Duration::from_secs(9);
/// How long a node may take to answer before its address is looked at for HTTP.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// The largest password file that is read, in bytes.
const PASSWORD_BYTES_MAX: usize = 64 * 1024;

/// The internode port, open.
pub(crate) struct Internode {
    /// The port.
    pub(crate) network: Arc<TcpNetwork>,
    /// Its certificates, if it speaks TLS.
    pub(crate) tls: Option<Arc<ServerTls>>,
}

/// Opens the internode port. Who calls before the store is open is told to come back.
///
/// # Errors
/// A sentence that says what of files and address is wrong.
pub(crate) async fn listen(config: &Config) -> Result<Internode, String> {
    let internode = &config.internode;
    let tls = internode.tls.as_ref().map(open_tls).transpose()?;
    let secret = match &internode.secret {
        Some(path) => Some(Arc::new(
            ClusterSecret::open(path)
                .map_err(|error| format!("failed to read the cluster secret: {error}"))?,
        )),
        None => None,
    };
    let certificates = tls.as_ref().map(|tls| Arc::clone(&tls.server));
    let options = TcpOptions { tls, secret, connect_timeout: internode.connect_timeout };
    let network = TcpNetwork::bind(&config.raft_bind.to_bind(), options)
        .await
        .map_err(|error| format!("failed to listen on {}: {error}", config.raft_bind))?;
    tracing::info!(
        component = "mux",
        "{}mux serving on {}, advertising {}",
        if internode.tls.is_some() { "TLS " } else { "" },
        network.local_addr(),
        config.raft_advertised
    );
    let is_open = !network.local_addr().ip().is_loopback();
    let is_proved = internode
        .tls
        .as_ref()
        .is_some_and(|files| matches!(files.server.clients, ClientCertificates::Required { .. }));
    if is_open && !is_proved && internode.secret.is_none() {
        tracing::warn!(
            component = "mux",
            "everybody who can reach {} may pass for a node of the cluster: use -node-cert with \
             -node-verify-client, or -cluster-secret-file",
            network.local_addr()
        );
    }
    Ok(Internode { network, tls: certificates })
}

fn open_tls(files: &InternodeTls) -> Result<TcpTls, String> {
    let server = ServerTls::open(files.server.clone())
        .map_err(|error| format!("failed to start node mux: {error}"))?;
    let client = ClientTls::open(files.client.clone())
        .map_err(|error| format!("failed to create Raft dialer: {error}"))?;
    let (authority, mutual) = match &files.server.clients {
        ClientCertificates::NotAsked => (None, "mutual TLS disabled".to_owned()),
        ClientCertificates::Required { authority, common_name } => {
            let name = common_name
                .as_ref()
                .map(|name| format!(", required peer common name {name:?}"))
                .unwrap_or_default();
            (authority.as_ref(), format!("mutual TLS enabled{name}"))
        }
    };
    let authority =
        authority.map(|path| format!(", CA cert {}", path.display())).unwrap_or_default();
    tracing::info!(
        "enabling node-to-node encryption with cert: {}, key: {}{authority}, {mutual}",
        files.server.certificate.display(),
        files.server.key.display(),
    );
    Ok(TcpTls { server: Arc::new(server), client: Arc::new(client) })
}

/// Has the node come to its cluster, while the API answers already.
///
/// # Errors
/// A sentence for the operator; also if a signal came first.
pub(crate) async fn form(
    node: &Node,
    config: &Config,
    users: &Users,
    signals: &mut Signals,
) -> Result<(), String> {
    let forming = async {
        let credentials = credentials(&config.cluster.join_as, users)?;
        check_addresses(node, config).await?;
        node.form(&formation(config, credentials)).await?;
        // Whether or not: a node that waits for its peers is available for what needs no leader.
        drop(timeout(FIRST_LEADER_PATIENCE, node.leader_known()).await);
        Ok(())
    };
    let formed = tokio::select! {
        formed = forming => formed,
        () = signals.first() => match config.cluster.forming {
            Forming::Alone => return Ok(()),
            Forming::Together { .. } if node.leader().is_some() => return Ok(()),
            Forming::Together { .. } => Err("boot canceled".to_owned()),
            Forming::Join { .. } => {
                Err("failed to join cluster: join operation canceled".to_owned())
            }
        },
    };
    formed.map_err(|reason| format!("clustering failure: {reason}"))
}

/// Addresses of other nodes must not be addresses of APIs. Where a node answers there is nothing to find out, and
/// it would only log a stranger.
async fn check_addresses(node: &Node, config: &Config) -> Result<(), String> {
    let (Forming::Join { addresses, .. } | Forming::Together { addresses, .. }) =
        &config.cluster.forming
    else {
        return Ok(());
    };
    tracing::info!("checking that supplied join addresses don't serve HTTP(S)");
    let own = [config.raft_advertised.as_str(), config.raft_bind.as_str()];
    let others = addresses.iter().filter(|address| !own.contains(&address.as_str()));
    let looks = others.map(|address| async move {
        (!node.is_answered(address, ANSWER_TIME).await).then(|| address.clone())
    });
    let others: Vec<String> = join_all(looks).await.into_iter().flatten().collect();
    match probe::find_http(&others).await {
        Some(address) => {
            Err(format!("join address {address} appears to be serving HTTP when it should be Raft"))
        }
        None => Ok(()),
    }
}

fn formation(config: &Config, credentials: Option<Credentials>) -> Formation {
    match config.cluster.forming.clone() {
        Forming::Alone => Formation::Alone,
        Forming::Join { addresses, attempts, interval } => {
            Formation::Join { addresses, attempts, interval, credentials }
        }
        Forming::Together { addresses, expect, timeout } => {
            Formation::Together { addresses, expect, timeout, credentials }
        }
    }
}

/// Gives what the node presents to the others in its own name. A user nobody knows is nobody, as upstream has it.
///
/// # Errors
/// The password cannot be known, or not be read.
fn credentials(join_as: &JoinAs, users: &Users) -> Result<Option<Credentials>, String> {
    let Some(username) = &join_as.username else { return Ok(None) };
    if let Some(path) = &join_as.password_file {
        let password = read_password(path)?;
        return Ok(Credentials::new(username.as_str(), password));
    }
    match users.stored_password(username).map_err(|error| error.to_string())? {
        StoredPassword::Plain(credentials) => Ok(Some(credentials)),
        StoredPassword::Hashed => Err(format!(
            "the credentials file holds only a hash of the password of {username}: give the password \
             itself with -join-as-password-file"
        )),
        StoredPassword::NoUser => {
            tracing::warn!(
                "the user {username} of -join-as is not in the credentials file of this node: it \
                 speaks to other nodes in nobody's name"
            );
            Ok(None)
        }
    }
}

fn read_password(path: &Path) -> Result<String, String> {
    let failed = |reason: &dyn std::fmt::Display| {
        format!("failed to read the password file {}: {reason}", path.display())
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    if text.len() > PASSWORD_BYTES_MAX {
        return Err(failed(&format!("it is larger than {PASSWORD_BYTES_MAX} bytes")));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Hands leadership over if this node leads and another can: clients of the others need not wait for an election.
pub(crate) async fn step_down(node: &Node, config: &Config) {
    if !config.cluster.step_down_at_shutdown || !node.is_leader() {
        return;
    }
    let own = node.id();
    if !node.members().iter().any(|member| member.voter && member.id != own) {
        return;
    }
    tracing::info!(component = "store", "stepping down as Leader before shutdown");
    let route = Route { credentials: None, forward: false, timeout: HANDOVER_TIME, retries: 0 };
    match timeout(HANDOVER_TIME, node.step_down(None, &route)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(component = "store", "leadership was not handed over: {error}");
        }
        Err(_elapsed) => tracing::warn!(component = "store", "nobody took leadership over in time"),
    }
}

/// Leaves the cluster.
///
/// # Errors
/// It could not; the node is a member still.
pub(crate) async fn leave(node: &Node, config: &Config, users: &Users) -> Result<(), String> {
    let failed = |reason: String| format!("failed to remove this node from the cluster: {reason}");
    let credentials = credentials(&config.cluster.join_as, users).map_err(failed)?;
    let route = Route { credentials, forward: true, timeout: LEAVE_TIME, retries: 0 };
    let deadline = Instant::now() + LEAVING_TIME;
    let mut reason = String::new();
    for _ in 0..LEAVE_ATTEMPTS {
        match tokio::time::timeout_at(deadline, node.remove(node.id(), &route)).await {
            Ok(Ok(_)) => {
                tracing::info!(component = "cluster-remove", "this node has left the cluster");
                return Ok(());
            }
            Ok(Err(error)) => reason = error.to_string(),
            Err(_elapsed) => return Err(failed("it took too long".to_owned())),
        }
        sleep(LEAVE_INTERVAL).await;
    }
    Err(failed(reason))
}
