//! Making a connection: name, address, TCP, TLS, handshake. Never under a lock.
//!
//! The name is resolved at each attempt, and all addresses are tried, each a little after the one before, so
//! that a silent address does not hide one that answers.

use std::{
    fmt::Debug,
    future::ready,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rustix::net::sockopt;
use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    Shared, Stream,
    hello::{self, GreetError},
    limits::{ADDRESS_HEAD_START, ADDRESSES_MAX, UNACKNOWLEDGED_TIME_MAX, URGENT_CONNECT_TIME_MAX},
    tls::{self, TlsError},
};
use crate::internode::Lane;

/// Finds the addresses of a name.
pub(crate) trait Resolve: Send + Sync + Debug {
    /// Gives the addresses of a host, in the order in which they are to be tried.
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug)]
pub(crate) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let host = host.to_owned();
        async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }.boxed()
    }
}

/// Why there is no connection. Nothing of any call was sent.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    /// The address is not `host:port`.
    #[error("it is not an address of the form host:port")]
    Address,
    /// The name has no address.
    #[error("its name cannot be resolved: {0}")]
    Name(io::Error),
    /// No address took the connection.
    #[error("{0}")]
    Refused(io::Error),
    /// TLS failed.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The handshake failed.
    #[error("{0}")]
    Greet(#[from] GreetError),
    /// It took too long.
    #[error("it cannot be connected to within {:?}", .0)]
    Slow(Duration),
}

/// Connects to a node for one lane.
pub(crate) async fn dial(
    shared: &Shared,
    to: &str,
    lane: Lane,
) -> Result<Box<dyn Stream>, DialError> {
    let time_max = match lane {
        Lane::Control | Lane::Append | Lane::Service => {
            shared.options.connect_timeout.min(URGENT_CONNECT_TIME_MAX)
        }
        Lane::Bulk => shared.options.connect_timeout,
    };
    shared.counters.dials.add(1);
    let dialled = match timeout(time_max, connect(shared, to, lane)).await {
        Ok(dialled) => dialled,
        Err(_) => Err(DialError::Slow(time_max)),
    };
    if let Err(error) = &dialled {
        shared.counters.dials_failed.add(1);
        shared.notices.unreachable(to, &error.to_string());
    }
    dialled
}

/// Looks whether an address can be dialled, as far as its name goes.
pub(crate) fn resolve(
    resolver: &dyn Resolve,
    address: &str,
) -> BoxFuture<'static, Result<(), String>> {
    let Some((host, port)) = split(address) else {
        return ready(Err(DialError::Address.to_string())).boxed();
    };
    if host.parse::<IpAddr>().is_ok() {
        return ready(Ok(())).boxed();
    }
    let resolving = resolver.resolve(host, port);
    async move {
        match resolving.await {
            Ok(addresses) if addresses.is_empty() => Err("its name has no address".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
    .boxed()
}

async fn connect(shared: &Shared, to: &str, lane: Lane) -> Result<Box<dyn Stream>, DialError> {
    let (host, port) = split(to).ok_or(DialError::Address)?;
    let addresses = match host.parse() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => shared.resolver.resolve(host, port).await.map_err(DialError::Name)?,
    };
    let socket = connect_any(addresses).await.map_err(DialError::Refused)?;
    prepare(&socket);
    let secrets = shared.options.secret.as_ref().map(|secret| secret.keys());
    let (mut stream, binding) = tls::connect(shared.options.tls.as_ref(), socket, host).await?;
    hello::greet(&mut stream, lane, secrets.as_ref(), &binding).await?;
    Ok(stream)
}

/// Splits an address at its last colon; an IPv6 address may have brackets.
fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok()?;
    (!host.is_empty()).then_some((host, port))
}

/// Gives the first connection any of the addresses takes, or the first failure if none does.
async fn connect_any(mut addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    addresses.truncate(ADDRESSES_MAX);
    let mut attempts = FuturesUnordered::new();
    for (position, address) in (0..).zip(addresses) {
        attempts.push(async move {
            sleep(ADDRESS_HEAD_START * position).await;
            TcpStream::connect(address).await
        });
    }
    let mut failure = None;
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::other("its name has no address")))
}

/// Sets what a connection among nodes needs; none of it is worth failing for.
pub(crate) fn prepare(socket: &TcpStream) {
    drop(socket.set_nodelay(true));
    #[cfg(target_os = "linux")]
    {
        let milliseconds = u32::try_from(UNACKNOWLEDGED_TIME_MAX.as_millis()).unwrap_or(u32::MAX);
        let _unsupported = sockopt::set_tcp_user_timeout(socket, milliseconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_at_the_last_colon() {
        let rows = [
            ("localhost:4002", Some(("localhost", 4002))),
            ("10.0.0.1:1", Some(("10.0.0.1", 1))),
            ("[::1]:4002", Some(("::1", 4002))),
            ("::1:4002", Some(("::1", 4002))),
            ("host", None),
            ("host:", None),
            ("host:x", None),
            ("host:65536", None),
            (":4002", None),
            ("", None),
        ];
        for (address, expected) in rows {
            assert_eq!(split(address), expected, "{address:?}");
        }
    }

    /// Knows one name, and one that has no address.
    #[derive(Debug)]
    struct Table;

    impl Resolve for Table {
        fn resolve(
            &self,
            host: &str,
            port: u16,
        ) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            let answer = match host {
                "known" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
                "empty" => Ok(Vec::new()),
                _ => Err(io::Error::other("nobody has this name")),
            };
            ready(answer).boxed()
        }
    }

    #[tokio::test]
    async fn only_addresses_that_can_be_dialled_are_resolved() {
        let rows = [
            ("known:4002", ""),
            ("10.0.0.1:4002", ""),
            ("[::1]:4002", ""),
            ("empty:4002", "its name has no address"),
            ("unknown:4002", "nobody has this name"),
            ("known", "it is not an address of the form host:port"),
            ("known:65536", "it is not an address of the form host:port"),
        ];
        for (address, expected) in rows {
            let resolved = resolve(&Table, address).await.err().unwrap_or_default();
            assert_eq!(resolved, expected, "{address}");
        }
    }
}
