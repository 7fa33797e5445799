//! A real node on an empty directory.

use std::{path::Path, time::Duration};

use rq_node::{Budget, Environment, Limits, Node, Options, Snapshots, Timing};

/// Opens a node that is a cluster of its own, and refuses writes below this much free space.
pub(crate) async fn open(directory: &Path, free_bytes_min: u64) -> Node {
    let options = Options {
        directory: directory.join("data"),
        node_id: Some("n1".to_owned()),
        raft_addr: "node.example:4002".to_owned(),
        api_url: "http://node.example:4001".to_owned(),
        api_version: "v10.2.7".to_owned(),
        replica: false,
        users: std::sync::Arc::new(rq_security::Users::unrestricted()),
        reap: rq_node::Reap::default(),
        sending: rq_node::Sending::default(),
        foreign_keys: false,
        readers_max: Some(16),
        budget: Budget { steps: 0, pages: 0 },
        limits: Limits {
            statements_max: 1_000_000,
            parameters_max: 4_000_000,
            result_rows_max: 1_000_000,
            result_bytes_max: 64 << 20,
            query_time_max: Duration::from_secs(60),
            backlog_bytes_max: 64 << 20,
            enqueue_timeout: Duration::from_secs(10),
            free_bytes_min,
            wal_bytes_max: 1 << 30,
        },
        snapshots: Snapshots {
            entries: 8192,
            wal_bytes: 4 << 20,
            interval: Duration::from_secs(10),
            trailing_entries: 10_240,
            log_bytes_max: 1 << 30,
        },
        log: Default::default(),
        timing: Timing {
            heartbeat_timeout: Duration::from_secs(1),
            election_timeout: Duration::from_secs(1),
            lease_timeout: Duration::ZERO,
            commit_timeout: Duration::from_millis(50),
        },
        auto_vacuum_interval: Duration::ZERO,
        auto_optimize_interval: Duration::ZERO,
    };
    Node::open_alone(options, Environment::real()).await.expect("the node opens")
}
