//! `/debug/vars`: every counter map and key an existing dashboard may look for, and `/debug/pprof`.
//!
//! What has no meaning here is there as zero, so that one scrape configuration works everywhere.

use std::collections::BTreeMap;

use rq_node::{CounterMaps, Node};
use serde_json::{Value, json};

use crate::{error, process, respond::Reply, service::Call};

/// Every map upstream has, with its keys.
const MAPS: [(&str, &[&str]); 15] = [
    (
        "cdc.service",
        &[
            "dropped_failed_to_send",
            "retries",
            "num_events_tx_ok",
            "num_event_tx_failed",
            "num_bytes_tx",
            "snapshot_sync",
            "batcher_writes",
            "batcher_events_write",
            "batcher_reads",
            "batcher_write_ignored",
            "fifo_enqueue_ignored",
            "hwm_ignored",
            "fifo_size",
        ],
    ),
    (
        "cluster",
        &[
            "num_get_node_api_req",
            "num_get_node_api_resp",
            "num_get_node_api_req_local",
            "num_get_node_api_req_retries",
            "num_execute_req",
            "num_query_req",
            "num_request_req",
            "num_backup_req",
            "num_load_req",
            "num_remove_node_req",
            "num_notify_req",
            "num_join_req",
            "num_stepdown_req",
            "num_broadcast_hwm_req",
            "num_hwm_update_dropped",
            "num_conn_rejected",
            "num_client_retries",
            "num_client_load_retries",
            "num_client_execute_retries",
            "num_client_query_retries",
            "num_client_request_retries",
            "num_client_read_timeouts",
            "num_client_write_timeouts",
            "num_client_force_new_conn",
        ],
    ),
    (
        "db",
        &[
            "open_duration_ms",
            "checkpoints",
            "checkpoint_errors",
            "checkpointed_moves",
            "checkpoint_duration_ms",
            "create_compacted_wal_duration_ms",
            "precompact_wal_size",
            "compacted_wal_size",
            "checkpoint_total",
            "checkpoint_busy_errors",
            "checkpoint_invariant_errors",
            "checkpoint_partial",
            "checkpoint_wal_truncated",
            "executions",
            "execution_errors",
            "executions_force_queries",
            "queries",
            "query_errors",
            "requests",
            "execute_transactions",
            "query_transactions",
            "request_transactions",
            "backup_step_errors",
            "backup_step_dones",
            "backup_sleeps",
            "preupdates",
            "preupdates_errors",
            "preupdates_callback_errors",
            "update_hooks",
            "update_hooks_callback_errors",
            "update_hooks_errors",
            "commit_hooks",
            "dropped_cdc_events",
        ],
    ),
    (
        "db.wal",
        &[
            "compact_scan_duration_ms",
            "compact_write_duration_ms",
            "compact_frames_input",
            "compact_frames_output",
            "compact_scan_errors",
            "compact_frames_ratio",
        ],
    ),
    ("downloader", &["num_downloads_ok", "num_downloads_fail", "download_bytes"]),
    (
        "http",
        &[
            "leader_not_found",
            "ui",
            "executions",
            "execute_stmts_rx",
            "queued_executions",
            "queued_executions_ok",
            "queued_executions_num_stmts_rx",
            "queued_executions_num_stmts_tx",
            "queued_executions_no_leader",
            "queued_executions_not_leader",
            "queued_executions_leadership_lost",
            "queued_executions_unknown_error",
            "queued_executions_failed",
            "queued_executions_wait",
            "queued_executions_wait_timeout",
            "queries",
            "query_stmts_rx",
            "requests",
            "request_stmts_rx",
            "num_readyz",
            "num_status",
            "backups",
            "loads",
            "boot",
            "user_snapshots",
            "user_reaps",
            "sql_analyze",
            "auth_ok",
            "auth_fail",
            "tls_cert_fetched",
        ],
    ),
    ("mux", &["num_connections_handled", "num_unregistered_handlers", "num_tls_cert_fetched"]),
    (
        "proto",
        &[
            "num_requests",
            "num_compressed_requests",
            "num_uncompressed_requests",
            "num_compressed_bytes",
            "num_uncompressed_bytes",
            "num_compression_misses",
            "num_precompressed_bytes",
        ],
    ),
    (
        "proxy",
        &[
            "remote_remove_node",
            "remote_backups",
            "remote_loads",
            "remote_stepdowns",
            "remote_executions",
            "remote_executions_failed",
            "remote_queries",
            "remote_queries_failed",
            "remote_requests",
            "remote_requests_failed",
        ],
    ),
    ("queue", &["objects_rx", "objects_tx", "num_timeout", "num_flush"]),
    (
        "snapshot",
        &[
            "persist_size",
            "persist_duration_ms",
            "sink_full_total",
            "sink_incremental_total",
            "sink_errors",
            "sink_full_crc32_duration_ms",
            "auto_reap_duration_ms",
            "reap_execute_duration_ms",
            "reap_total",
            "reap_errors",
            "reap_snapshots",
            "reap_wals",
            "reap_plan_recovered",
            "read_timeout_total",
            "upgrade_ok",
            "upgrade_fail",
        ],
    ),
    ("snapshot.plan", &["checkpoint_duration_ms", "calc_crc32_duration_ms"]),
    ("sql.processor", &["num_rewritten_stmts", "num_parser_panics"]),
    (
        "store",
        &[
            "num_snapshots",
            "num_snapshots_failed",
            "num_user_snapshots",
            "num_user_snapshots_failed",
            "num_wal_snapshots",
            "num_wal_snapshots_failed",
            "num_snapshots_full",
            "num_snapshots_incremental",
            "num_auto_vacuums",
            "num_auto_vacuums_failed",
            "auto_vacuum_duration",
            "num_auto_optimizes",
            "num_auto_optimizes_failed",
            "auto_optimize_duration",
            "num_boots",
            "num_backups",
            "num_loads",
            "num_restores",
            "num_restores_failed",
            "num_restores_start",
            "num_restores_start_skipped",
            "num_auto_restores",
            "num_auto_restores_skipped",
            "num_auto_restores_failed",
            "num_recoveries",
            "num_provider_checks",
            "num_provider_provides",
            "num_provider_provides_fail",
            "num_uncompressed_commands",
            "num_compressed_commands",
            "num_joins",
            "num_ignored_joins",
            "num_removed_before_joins",
            "num_db_stats_errors",
            "num_verify_leader",
            "num_verify_leader_failed",
            "verify_leader_duration",
            "fsm_apply_duration_us",
            "snapshot_create_duration",
            "snapshot_sync_duration",
            "num_snapshot_persists",
            "num_snapshot_persists_failed",
            "snapshot_persist_duration",
            "snapshot_crc32_create_duration",
            "leader_changes_observed",
            "leader_changes_dropped",
            "failed_heartbeat_observed",
            "nodes_reaped_ok",
            "nodes_reaped_failed",
        ],
    ),
    (
        "uploader",
        &[
            "num_uploads_ok",
            "num_uploads_fail",
            "num_uploads_skipped",
            "num_uploads_skipped_id",
            "num_sum_get_fail",
            "total_upload_bytes",
            "last_upload_bytes",
        ],
    ),
];

/// `/debug/vars`.
pub(crate) fn vars(call: &Call<'_>) -> Reply {
    let service = call.service;
    let mut maps: CounterMaps = MAPS
        .iter()
        .map(|(name, keys)| (*name, keys.iter().map(|key| (*key, 0)).collect()))
        .collect();
    let node = service.slot.get().map(Node::counters).unwrap_or_default();
    for (name, counters) in node.into_iter().chain(service.metrics.maps()) {
        maps.entry(name).or_default().extend(counters);
    }
    let network = service.options.cluster.network.as_ref().map(|network| network.counters());
    for (name, counters) in network.into_iter().flatten() {
        maps.entry(name).or_default().extend(counters);
    }
    if let Some(tls) = &service.options.tls {
        let fetched = i64::try_from(tls.counts().fetched).unwrap_or(i64::MAX);
        maps.entry("http").or_default().insert("tls_cert_fetched", fetched);
    }
    let cmdline: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut vars: BTreeMap<&str, Value> =
        maps.iter().map(|(name, counters)| (*name, json!(counters))).collect();
    vars.insert("cmdline", json!(cmdline));
    vars.insert("memstats", process::memory());
    let vars = vars.iter().map(|(name, value)| (*name, value));
    Reply::json(rq_api::status::encode_vars(vars, &call.params.key))
}

/// `/debug/pprof`: profiles are taken by other means here.
pub(crate) fn pprof() -> Reply {
    error::nothing_there("Unknown profile")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_http_map_that_is_counted_is_either_upstreams_or_new() {
        let (_, known) = MAPS.iter().find(|(name, _)| *name == "http").unwrap();
        let counted = crate::metrics::Metrics::default().maps();
        for key in *known {
            let elsewhere = *key == "tls_cert_fetched";
            assert!(elsewhere || counted["http"].contains_key(key), "{key} is never counted");
        }
    }
}
