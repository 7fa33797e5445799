//! Addresses as text `host:port`, taken apart by Go's rules.
//!
//! Names are not resolved here: an advertised address is resolved by whoever dials it, at each
//! dial, and an address to bind when it is bound.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A host and a port as the operator wrote them.
///
/// - The host may be empty (every interface), a name, or an IP address; brackets are gone.
/// - The port is any text, numbers are not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    text: String,
    host: String,
    port: String,
}

impl HostPort {
    /// Takes an address apart at the last colon; `None` if that gives no host and port. A host
    /// with colons must stand in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let bare = match host.strip_prefix('[') {
            Some(inside) => inside.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        if bare.contains(['[', ']']) || port.contains(['[', ']']) {
            return None;
        }
        Some(Self { text: text.to_owned(), host: bare.to_owned(), port: port.to_owned() })
    }

    /// Gives the address as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Gives the host without brackets; empty for every interface.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Gives the port as it was written.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Lists what to bind, in the order to try: with an empty host every interface of both
    /// families, or of IPv4 where there is no IPv6. An empty port is any free one.
    pub fn to_bind(&self) -> Vec<String> {
        let port = if self.port.is_empty() { "0" } else { &self.port };
        if self.host.is_empty() {
            return vec![format!("[::]:{port}"), format!("0.0.0.0:{port}")];
        }
        let host = &self.host;
        vec![if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }]
    }

    /// Says whether only this machine can reach the address: the name localhost or a loopback
    /// address. Other names are not resolved and count as reachable from outside.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Says whether the host is the address that stands for every interface, which nobody can
    /// dial. The empty host is not meant.
    pub(crate) fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| {
            [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
                .contains(&ip.to_canonical())
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_at_the_last_colon() {
        let rows = [
            ("localhost:4001", Some(("localhost", "4001"))),
            (":4001", Some(("", "4001"))),
            ("host:", Some(("host", ""))),
            ("[::1]:4001", Some(("::1", "4001"))),
            ("[host]:x", Some(("host", "x"))),
            ("http://nonsense", Some(("http", "//nonsense"))),
            (":", Some(("", ""))),
            ("", None),
            ("host", None),
            ("::1", None),
            ("::1:4001", None),
            ("http://host:4001", None),
            ("[::1]", None),
            ("[::1]4001", None),
            ("[::1:4001", None),
            ("a]:1", None),
            ("a:[1", None),
        ];
        for (text, expected) in rows {
            let parsed = HostPort::parse(text);
            let parts = parsed.as_ref().map(|address| (address.host(), address.port()));
            assert_eq!(parts, expected, "{text:?}");
        }
    }

    #[test]
    fn what_an_address_means() {
        // Address, loopback, unspecified, what to bind.
        let rows: [(&str, bool, bool, &[&str]); 8] = [
            ("localhost:1", true, false, &["localhost:1"]),
            ("127.0.0.2:1", true, false, &["127.0.0.2:1"]),
            ("[::1]:1", true, false, &["[::1]:1"]),
            ("example.com:1", false, false, &["example.com:1"]),
            ("0.0.0.0:1", false, true, &["0.0.0.0:1"]),
            ("[::]:1", false, true, &["[::]:1"]),
            ("[::ffff:0.0.0.0]:1", false, true, &["[::ffff:0.0.0.0]:1"]),
            (":", false, false, &["[::]:0", "0.0.0.0:0"]),
        ];
        for (text, loopback, unspecified, bind) in rows {
            let address = HostPort::parse(text).unwrap();
            assert_eq!(address.is_loopback(), loopback, "{text}");
            assert_eq!(address.is_unspecified(), unspecified, "{text}");
            assert_eq!(address.to_bind(), bind, "{text}");
        }
    }
}
