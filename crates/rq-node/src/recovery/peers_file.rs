//! `raft/peers.json`: who is to form the cluster that goes on after a lost quorum, as the operator wrote it.
//!
//! A JSON array of `{"id": …, "address": …, "non_voter": …}`, the last of which may be left out. White space, line ends of
//! any kind and a byte order mark do not matter. Nothing is changed here.

use std::{collections::BTreeSet, path::Path};

use rq_storage::{Files, read_small};
use serde::Deserialize;

use crate::OpenError;

/// A longer file is none of ours.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// A valid file, sorted by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeersFile {
    /// The nodes it names.
    pub(super) peers: Vec<ListedPeer>,
}

/// A node that the file names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct ListedPeer {
    /// The operator's name for it.
    #[serde(default)]
    pub(super) id: String,
    /// Its internode address.
    #[serde(default)]
    pub(super) address: String,
    /// Whether it is to follow without a vote.
    #[serde(default)]
    pub(super) non_voter: bool,
}

impl PeersFile {
    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read, is not valid, or names an address that cannot be one.
    pub(super) fn read(files: &dyn Files, path: &Path) -> Result<Option<Self>, OpenError> {
        let bytes = read_small(files, path, FILE_BYTES_MAX);
        match bytes.map_err(|error| OpenError::PeersFile(super::sentence(&error)))? {
            Some(bytes) => Self::parse(&bytes).map(Some),
            None => Ok(None),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, OpenError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut peers: Vec<ListedPeer> = serde_json::from_slice(bytes)
            .map_err(|error| OpenError::PeersFile(error.to_string()))?;
        check_nodes(&peers).map_err(OpenError::PeersFile)?;
        for peer in &peers {
            check_address(&peer.address).map_err(OpenError::Recovery)?;
        }
        peers.sort();
        Ok(Self { peers })
    }

    /// The content in one form, whatever the order, white space and fields left out.
    pub(super) fn canonical(&self) -> String {
        let line =
            |peer: &ListedPeer| format!("{:?} {:?} {}\n", peer.id, peer.address, peer.non_voter);
        self.peers.iter().map(line).collect()
    }
}

fn check_nodes(peers: &[ListedPeer]) -> Result<(), String> {
    let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for ListedPeer { id, address, non_voter: _ } in peers {
        if id.is_empty() {
            return Err("empty ID in configuration".to_owned());
        }
        if address.is_empty() {
            return Err("empty address in configuration".to_owned());
        }
        if !ids.insert(id) {
            return Err(format!("found duplicate ID in configuration: {id}"));
        }
        if !addresses.insert(address) {
            return Err(format!("found duplicate address in configuration: {address}"));
        }
    }
    if peers.iter().all(|peer| peer.non_voter) {
        return Err("need at least one voter in configuration".to_owned());
    }
    Ok(())
}

fn check_address(address: &str) -> Result<(), String> {
    if address.contains("://") {
        return Err(format!("protocol specified in address: {address}"));
    }
    let valid = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
        let host_is_one =
            bracketed || !host.is_empty() && !host.contains([':', '[', ']', ' ', '/']);
        host_is_one && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if valid { Ok(()) } else { Err(format!("invalid address in configuration: {address}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let ok = r#"{"id": "a", "address": "a:4002"}"#;
        let cases: &[(&str, &str)] = &[
            ("", "failed to read peers file: EOF while parsing"),
            ("{}", "failed to read peers file: invalid type: map"),
            ("[1]", "failed to read peers file: invalid type: integer"),
            (
                r#"[{"id": 1, "address": "a:1"}]"#,
                "failed to read peers file: invalid type: integer",
            ),
            (r#"[{"address": "a:1"}]"#, "failed to read peers file: empty ID in configuration"),
            (r#"[{"id": "a"}]"#, "failed to read peers file: empty address in configuration"),
            (
                r#"[OK, {"id": "a", "address": "b:1"}]"#,
                "failed to read peers file: found duplicate ID in configuration: a",
            ),
            (
                r#"[OK, {"id": "b", "address": "a:4002"}]"#,
                "failed to read peers file: found duplicate address in configuration: a:4002",
            ),
            ("[]", "failed to read peers file: need at least one voter in configuration"),
            (
                r#"[{"id": "a", "address": "a:1", "non_voter": true}]"#,
                "failed to read peers file: need at least one voter in configuration",
            ),
            ("[OK] x", "failed to read peers file: trailing characters"),
            (
                r#"[{"id": "a", "address": "http://a:1"}]"#,
                "failed to recover node: protocol specified in address: http://a:1",
            ),
            (
                r#"[{"id": "a", "address": "a"}]"#,
                "failed to recover node: invalid address in configuration: a",
            ),
            (
                r#"[{"id": "a", "address": "a:b"}]"#,
                "failed to recover node: invalid address in configuration: a:b",
            ),
            (
                r#"[{"id": "a", "address": "::1:4002"}]"#,
                "failed to recover node: invalid address in configuration: ::1:4002",
            ),
        ];
        for (text, expected) in cases {
            let text = text.replace("OK", ok);
            let error = PeersFile::parse(text.as_bytes()).expect_err(&text).to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn order_and_white_space_do_not_matter() {
        let plain =
            r#"[{"id":"a","address":"[::1]:1"},{"id":"b","address":"b:1","non_voter":true}]"#;
        let other = "\u{feff}\r\n[ {\"non_voter\": true, \"id\": \"b\",\r\n\"address\": \"b:1\"},\r\n\
                     {\"id\": \"a\", \"address\": \"[::1]:1\", \"non_voter\": false} ]\r\n";
        let parse = |text: &str| PeersFile::parse(text.as_bytes()).expect("it is valid");
        assert_eq!(parse(plain), parse(other));
        let moved = plain.replace("b:1", "b:2");
        assert_ne!(parse(plain).canonical(), parse(&moved).canonical());
    }
}
