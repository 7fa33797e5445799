//! The answers of `/nodes` and of `GET /leader`.

use std::time::Duration;

use crate::{duration::GoDuration, json, params::NodesVersion};

/// A member of the cluster, and what contacting it gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub id: String,
    /// Its internode address.
    pub address: String,
    /// Whether it votes.
    pub is_voter: bool,
    /// What contacting it gave.
    pub contact: Contact,
}

/// What contacting a node gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Contact {
    /// It answered.
    Reached {
        /// Its API address as a URL.
        api_url: String,
        /// The version it states; an empty one is answered as `unknown`.
        version: String,
        /// Whether it is the leader.
        is_leader: bool,
        /// How long it took to answer.
        elapsed: Duration,
    },
    /// It did not answer.
    Failed {
        /// Why.
        error: String,
    },
}

/// Encodes a list of nodes: an object keyed by id, or an object with a list; sorted by id in both.
pub fn encode(nodes: &[Node], version: NodesVersion, pretty: bool) -> Vec<u8> {
    let mut sorted: Vec<&Node> = nodes.iter().collect();
    sorted.sort_by_key(|node| node.id.as_bytes());
    let mut out = match version {
        NodesVersion::Legacy => b"{".to_vec(),
        NodesVersion::Two => b"{\"nodes\":[".to_vec(),
    };
    for (index, node) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if version == NodesVersion::Legacy {
            json::write_string(&mut out, node.id.as_bytes());
            out.push(b':');
        }
        write_node(&mut out, node);
    }
    out.extend_from_slice(match version {
        NodesVersion::Legacy => b"}",
        NodesVersion::Two => b"]}",
    });
    json::finish(out, pretty)
}

/// Encodes one node, as the answer of `GET /leader`.
pub fn encode_leader(node: &Node, pretty: bool) -> Vec<u8> {
    let mut out = Vec::new();
    write_node(&mut out, node);
    json::finish(out, pretty)
}

/// Writes one node. Empty texts and a time of zero are left out, except for the version.
fn write_node(out: &mut Vec<u8>, node: &Node) {
    let (api_url, version, is_leader, elapsed, error) = match &node.contact {
        Contact::Reached { api_url, version, is_leader, elapsed } => {
            let version = if version.is_empty() { "unknown" } else { version };
            (api_url.as_str(), version, *is_leader, *elapsed, "")
        }
        Contact::Failed { error } => ("", "", false, Duration::ZERO, error.as_str()),
    };
    let reached = matches!(node.contact, Contact::Reached { .. });
    out.push(b'{');
    for (key, text) in [("id", node.id.as_str()), ("api_addr", api_url), ("addr", &node.address)] {
        if !text.is_empty() {
            write_text(out, key, text);
            out.push(b',');
        }
    }
    write_text(out, "version", version);
    for (key, value) in [("voter", node.is_voter), ("reachable", reached), ("leader", is_leader)] {
        out.push(b',');
        write_key(out, key);
        out.extend_from_slice(if value { b"true" } else { b"false" });
    }
    if !elapsed.is_zero() {
        out.push(b',');
        write_key(out, "time");
        json::write_real(out, elapsed.as_secs_f64());
        out.push(b',');
        write_text(out, "time_s", &GoDuration::from(elapsed).to_string());
    }
    if !error.is_empty() {
        out.push(b',');
        write_text(out, "error", error);
    }
    out.push(b'}');
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    json::write_string(out, key.as_bytes());
    out.push(b':');
}

fn write_text(out: &mut Vec<u8>, key: &str, text: &str) {
    write_key(out, key);
    json::write_string(out, text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> [Node; 2] {
        [
            Node {
                id: "b".into(),
                address: "b:4002".into(),
                is_voter: false,
                contact: Contact::Failed { error: "connection refused".into() },
            },
            Node {
                id: "a".into(),
                address: "a:4002".into(),
                is_voter: true,
                contact: Contact::Reached {
                    api_url: "http://a:4001".into(),
                    version: "v10.2.7".into(),
                    is_leader: true,
                    elapsed: Duration::from_nanos(378_200),
                },
            },
        ]
    }

    const A: &str = r#"{"id":"a","api_addr":"http://a:4001","addr":"a:4002","version":"v10.2.7","voter":true,"reachable":true,"leader":true,"time":0.0003782,"time_s":"378.2µs"}"#;
    const B: &str = r#"{"id":"b","addr":"b:4002","version":"","voter":false,"reachable":false,"leader":false,"error":"connection refused"}"#;

    #[test]
    fn both_forms_are_sorted_and_leave_out_what_is_unknown() {
        let encoded = |version| String::from_utf8(encode(&nodes(), version, false)).expect("UTF-8");
        assert_eq!(encoded(NodesVersion::Legacy), format!(r#"{{"a":{A},"b":{B}}}"#));
        assert_eq!(encoded(NodesVersion::Two), format!(r#"{{"nodes":[{A},{B}]}}"#));
        assert_eq!(encode_leader(&nodes()[1], false), A.as_bytes());
        assert_eq!(encode(&[], NodesVersion::Legacy, true), b"{}");
        assert_eq!(encode(&[], NodesVersion::Two, false), b"{\"nodes\":[]}");
    }

    #[test]
    fn nodes_are_indented_on_request() {
        let encoded = String::from_utf8(encode_leader(&nodes()[0], true)).expect("UTF-8");
        assert!(
            encoded.starts_with("{\n    \"id\": \"b\",\n    \"addr\": \"b:4002\","),
            "{encoded}"
        );
    }
}
