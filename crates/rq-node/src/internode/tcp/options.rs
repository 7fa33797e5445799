//! What an operator may choose about the internode port.

use std::{sync::Arc, time::Duration};

use rq_security::{ClientTls, ClusterSecret, ServerTls};

/// How nodes reach each other. All nodes of a cluster must agree about TLS and the secret.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// TLS in both directions; `None` is plain TCP.
    pub tls: Option<TcpTls>,
    /// The secret both sides must know; `None` asks for none, and refuses who brings one.
    pub secret: Option<Arc<ClusterSecret>>,
    /// How long connecting may take: resolving the name, TCP, TLS and the handshake together. For heartbeats and
    /// entries it is at most two seconds.
    pub connect_timeout: Duration,
}

/// The two sides of TLS among nodes.
#[derive(Clone, Debug)]
pub struct TcpTls {
    /// For connections that are accepted.
    pub server: Arc<ServerTls>,
    /// For connections that are dialled.
    pub client: Arc<ClientTls>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { tls: None, secret: None, connect_timeout: Duration::from_secs(30) }
    }
}
