//! What a node counts. The names under which `/debug/vars` shows them stand beside the counters.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::CounterMaps;

/// A number that only grows, or holds the last observation.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Keeps the greatest value.
    pub(crate) fn raise(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    fn get(&self) -> i64 {
        i64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident = $map:literal $key:literal;)*) => {
        /// Everything a node counts.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics { $($(#[$doc])* pub(crate) $field: Counter,)* }

        impl Metrics {
            /// All counters under the names of `/debug/vars`.
            pub(crate) fn maps(&self) -> CounterMaps {
                let mut maps: CounterMaps = BTreeMap::new();
                $(maps.entry($map).or_default().insert($key, self.$field.get());)*
                maps
            }
        }
    };
}

counters! {
    /// Execute requests run by the engine.
    executions = "db" "executions";
    /// Statements of writes that failed.
    execution_errors = "db" "execution_errors";
    /// Execute requests that were transactions.
    execute_transactions = "db" "execute_transactions";
    /// Query requests run.
    queries = "db" "queries";
    /// Query requests that were transactions.
    query_transactions = "db" "query_transactions";
    /// Unified requests run.
    requests = "db" "requests";
    /// Unified requests that were transactions.
    request_transactions = "db" "request_transactions";
    /// Checkpoints begun.
    checkpoints = "db" "checkpoints";
    /// Checkpoints that failed.
    checkpoint_errors = "db" "checkpoint_errors";
    /// Milliseconds the last checkpoint took.
    checkpoint_duration_ms = "db" "checkpoint_duration_ms";
    /// Milliseconds the database took to open.
    open_duration_ms = "db" "open_duration_ms";
    /// The longest pause of the applier for a checkpoint, in microseconds.
    checkpoint_pause_us_max = "db" "checkpoint_pause_us_max";
    /// Reads cancelled because the WAL had grown beyond its cap.
    reads_cancelled = "db" "reads_cancelled";
    /// Log entries that carried requests.
    batches = "store" "num_batches";
    /// Requests carried by them.
    batched_requests = "store" "num_batched_requests";
    /// Attempts at an entry that a local fault stopped.
    apply_retries = "store" "num_apply_retries";
    /// Times the state machine was made durable and the log purged.
    snapshots = "store" "num_snapshots";
    /// The same, failed.
    snapshots_failed = "store" "num_snapshots_failed";
    /// The same, asked for by a user.
    user_snapshots = "store" "num_user_snapshots";
    /// The same, failed.
    user_snapshots_failed = "store" "num_user_snapshots_failed";
    /// The same, begun because of the WAL's size.
    wal_snapshots = "store" "num_wal_snapshots";
    /// Milliseconds the last one took.
    snapshot_create_duration = "store" "snapshot_create_duration";
    /// VACUUMs by interval.
    auto_vacuums = "store" "num_auto_vacuums";
    /// The same, failed.
    auto_vacuums_failed = "store" "num_auto_vacuums_failed";
    /// Milliseconds the last one took.
    auto_vacuum_duration = "store" "auto_vacuum_duration";
    /// Optimizes by interval.
    auto_optimizes = "store" "num_auto_optimizes";
    /// The same, failed.
    auto_optimizes_failed = "store" "num_auto_optimizes_failed";
    /// Milliseconds the last one took.
    auto_optimize_duration = "store" "auto_optimize_duration";
    /// Rounds that confirmed leadership.
    verify_leader = "store" "num_verify_leader";
    /// The same, failed.
    verify_leader_failed = "store" "num_verify_leader_failed";
    /// Changes of leader seen.
    leader_changes = "store" "leader_changes_observed";
    /// Writes passed on to the leader.
    remote_executions = "proxy" "remote_executions";
    /// The same, failed.
    remote_executions_failed = "proxy" "remote_executions_failed";
    /// Reads passed on to the leader.
    remote_queries = "proxy" "remote_queries";
    /// The same, failed.
    remote_queries_failed = "proxy" "remote_queries_failed";
    /// Unified requests passed on to the leader.
    remote_requests = "proxy" "remote_requests";
    /// The same, failed.
    remote_requests_failed = "proxy" "remote_requests_failed";
    /// Times another node asked who this one is.
    asked_metadata = "cluster" "num_get_node_api_req";
    /// Times it was told.
    told_metadata = "cluster" "num_get_node_api_resp";
    /// Writes other nodes passed on to this one.
    asked_execute = "cluster" "num_execute_req";
    /// Reads other nodes passed on to this one.
    asked_query = "cluster" "num_query_req";
    /// Unified requests other nodes passed on to this one.
    asked_unified = "cluster" "num_request_req";
    /// Times another node asked for a read index.
    asked_read_index = "cluster" "num_read_index_req";
    /// Requests of other nodes to remove a member.
    asked_remove = "cluster" "num_remove_node_req";
    /// Notices of nodes that would found a cluster, and their requests to do so.
    asked_notify = "cluster" "num_notify_req";
    /// Requests to join.
    asked_join = "cluster" "num_join_req";
    /// Requests of other nodes to hand leadership over.
    asked_step_down = "cluster" "num_stepdown_req";
    /// Members that joined.
    joins = "store" "num_joins";
    /// Joins of members that were members already.
    ignored_joins = "store" "num_ignored_joins";
    /// Former selves removed because their node came back without its data.
    removed_before_joins = "store" "num_removed_before_joins";
    /// Times a member fell silent.
    failed_heartbeats = "store" "failed_heartbeat_observed";
    /// Members removed because they were silent for too long.
    nodes_reaped = "store" "nodes_reaped_ok";
    /// The same, failed.
    nodes_reaped_failed = "store" "nodes_reaped_failed";
    /// Recoveries from a lost quorum.
    recoveries = "store" "num_recoveries";
    /// Starts that opened existing data without rebuilding anything.
    restores_skipped = "store" "num_restores_start_skipped";
}
