//! From the checked configuration to the options of the parts.

use std::{sync::Arc, time::Duration};

use rq_http::{Build, Cluster, QueueOptions};
use rq_node::Budget;
use rq_security::{ServerTls, Users};

use super::cluster::Internode;
use crate::{config::Config, version};

/// The level of rqlite's API that is implemented.
const API_VERSION: &str = "v10.2.7";

/// Gives the options of the HTTP server.
pub(crate) fn http_options(
    config: &Config,
    users: Arc<Users>,
    tls: Option<Arc<ServerTls>>,
    internode: &Internode,
) -> rq_http::Options {
    let limits = &config.limits;
    rq_http::Options {
        listen: config.http.bind.as_str().to_owned(),
        advertised: config.http.advertised.as_str().to_owned(),
        tls,
        users,
        allow_origin: config.http.allow_origin.clone(),
        fail_on_infinity: config.strict_infinity,
        cluster: Cluster {
            network: Some(Arc::clone(&internode.network)),
            tls: internode.tls.clone(),
            secret: config.internode.secret.is_some(),
            connect_timeout: config.internode.connect_timeout,
            reap_voters_after: config.cluster.reap_voters_after.unwrap_or_default(),
            reap_replicas_after: config.cluster.reap_replicas_after.unwrap_or_default(),
            compress: config.internode.compress,
        },
        build: Build {
            api_version: API_VERSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: version::COMMIT.to_owned(),
            build_time: "unknown".to_owned(),
            toolchain: version::COMPILER.to_owned(),
            command: "rustc".to_owned(),
        },
        queue: QueueOptions {
            capacity: config.queue.capacity,
            batch_size: config.queue.batch_size,
            timeout: config.queue.timeout.unwrap_or_default(),
            transaction: config.queue.transaction,
        },
        limits: rq_http::Limits {
            head_bytes_max: limits.header_bytes,
            body_bytes_max: limits.body_bytes.unwrap_or_default(),
            bodies_bytes_max: limits.all_bodies_bytes.unwrap_or_default(),
            statements_max: limits.statements.unwrap_or_default(),
            result_rows_max: limits.result_rows.unwrap_or_default(),
            result_bytes_max: saturated(limits.result_bytes),
            results_bytes_max: saturated(limits.all_results_bytes),
            requests_max: limits.concurrent_requests.unwrap_or_default(),
            connections_max: limits.connections.unwrap_or_default(),
            head_time_max: limits.header_time.unwrap_or_default(),
            body_pause_max: limits.body_pause.unwrap_or_default(),
            idle_time_max: limits.idle_time.unwrap_or_default(),
            request_time_max: limits.request_time.unwrap_or_default(),
            ..rq_http::Limits::default()
        },
    }
}

/// A limit on bytes in memory; zero is without limit.
fn saturated(limit: Option<u64>) -> usize {
    limit.map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Gives the options of the node.
pub(crate) fn node_options(config: &Config, users: &Arc<Users>) -> rq_node::Options {
    /// Longer than any process runs.
    const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
    let limits = &config.limits;
    let timing = &config.raft.timing;
    rq_node::Options {
        directory: config.data_directory.clone(),
        node_id: config.node_id.clone(),
        raft_addr: config.raft_advertised.as_str().to_owned(),
        api_url: config.api_url(),
        api_version: API_VERSION.to_owned(),
        replica: config.cluster.replica,
        users: Arc::clone(users),
        reap: rq_node::Reap {
            voters_after: config.cluster.reap_voters_after.unwrap_or_default(),
            replicas_after: config.cluster.reap_replicas_after.unwrap_or_default(),
        },
        sending: rq_node::Sending {
            compress: config.internode.compress,
            bytes_per_second: limits.transfer_rate,
        },
        foreign_keys: config.sqlite.foreign_keys,
        readers_max: config.sqlite.read_connections_max,
        budget: Budget {
            steps: limits.write_steps.unwrap_or_default(),
            pages: limits.write_pages.unwrap_or_default(),
        },
        limits: rq_node::Limits {
            statements_max: limits.statements.unwrap_or(usize::MAX),
            parameters_max: rq_http::Limits::default().parameters_max,
            result_rows_max: limits.result_rows.unwrap_or(u64::MAX),
            result_bytes_max: limits.result_bytes.unwrap_or(u64::MAX),
            query_time_max: limits.query_time.unwrap_or_default(),
            backlog_bytes_max: limits.write_backlog_bytes.unwrap_or(u64::MAX),
            enqueue_timeout: config.raft.apply_timeout.unwrap_or(FOR_EVER),
            free_bytes_min: limits.free_space_bytes,
            wal_bytes_max: limits.wal_bytes.unwrap_or(u64::MAX),
        },
        snapshots: rq_node::Snapshots {
            entries: config.raft.snapshot_entries,
            wal_bytes: config.raft.snapshot_wal_bytes.unwrap_or_default(),
            interval: config.raft.snapshot_interval,
            trailing_entries: config.raft.trailing_entries,
            log_bytes_max: limits.log_bytes.unwrap_or(u64::MAX),
        },
        log: rq_node::LogOptions::default(),
        timing: rq_node::Timing {
            heartbeat_timeout: timing.heartbeat_timeout,
            election_timeout: timing.election_timeout,
            lease_timeout: timing.leader_lease_timeout,
            commit_timeout: timing.commit_timeout,
        },
        auto_vacuum_interval: config.sqlite.vacuum_interval.unwrap_or_default(),
        auto_optimize_interval: config.sqlite.optimize_interval.unwrap_or_default(),
    }
}
