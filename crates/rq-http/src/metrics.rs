//! What the HTTP server counts. The names under which `/debug/vars` shows them stand beside the counters.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use rq_node::CounterMaps;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// Counts `amount`.
    pub(crate) fn add(&self, amount: usize) {
        self.0.fetch_add(amount as u64, Ordering::Relaxed);
    }

    /// The count.
    pub(crate) fn get(&self) -> i64 {
        i64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident = $map:literal $key:literal;)*) => {
        /// Everything the server counts.
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
    /// Writes received that were not queued.
    executions = "http" "executions";
    /// Their statements.
    execute_statements = "http" "execute_stmts_rx";
    /// Reads received.
    queries = "http" "queries";
    /// Their statements.
    query_statements = "http" "query_stmts_rx";
    /// Unified requests received.
    requests = "http" "requests";
    /// Their statements.
    request_statements = "http" "request_stmts_rx";
    /// Writes received to be queued.
    queued = "http" "queued_executions";
    /// Their statements.
    queued_statements = "http" "queued_executions_num_stmts_rx";
    /// Statements of queued writes handed to the node.
    queued_statements_sent = "http" "queued_executions_num_stmts_tx";
    /// Batches of queued writes that were done.
    queued_ok = "http" "queued_executions_ok";
    /// Attempts at a batch that failed, whatever the reason.
    queued_failed = "http" "queued_executions_failed";
    /// Those for want of a leader.
    queued_no_leader = "http" "queued_executions_no_leader";
    /// Those because another node leads.
    queued_not_leader = "http" "queued_executions_not_leader";
    /// Those whose outcome is unknown.
    queued_leadership_lost = "http" "queued_executions_leadership_lost";
    /// Those for any other reason.
    queued_unknown_error = "http" "queued_executions_unknown_error";
    /// Queued requests given up because they can never succeed, or because their outcome is unknown.
    queued_dropped = "http" "queued_executions_dropped";
    /// Statements of queued writes that failed when run.
    queued_statements_failed = "http" "queued_executions_num_stmts_failed";
    /// Queued writes whose client waits.
    queued_wait = "http" "queued_executions_wait";
    /// Those that waited too long.
    queued_wait_timeout = "http" "queued_executions_wait_timeout";
    /// Requests for `/db/sql`.
    analyses = "http" "sql_analyze";
    /// Requests for `/readyz`.
    readyz = "http" "num_readyz";
    /// Requests for `/status`.
    status = "http" "num_status";
    /// Requests for `/snapshot`.
    snapshots = "http" "user_snapshots";
    /// Requests for `/reap`.
    reaps = "http" "user_reaps";
    /// Requests for `/db/backup`.
    backups = "http" "backups";
    /// Requests for `/db/load`.
    loads = "http" "loads";
    /// Requests for `/boot`.
    boots = "http" "boot";
    /// Answers `leader not found`.
    leader_not_found = "http" "leader_not_found";
    /// Removals that the leader did for this node.
    remote_removals = "proxy" "remote_remove_node";
    /// Handovers that the leader did for this node.
    remote_step_downs = "proxy" "remote_stepdowns";
    /// Permissions granted.
    authorized = "http" "auth_ok";
    /// Permissions denied.
    denied = "http" "auth_fail";
    /// Requests for the console.
    console = "http" "ui";
    /// Requests refused because too many were being worked on, or too many bytes held.
    overloads = "http" "requests_overloaded";
    /// Requests that took longer than allowed.
    timeouts = "http" "requests_timed_out";
    /// Requests cancelled because their client had gone.
    hang_ups = "http" "requests_hung_up";
    /// Connections accepted.
    connections = "http" "connections_accepted";
    /// Connections refused because too many were open.
    connections_refused = "http" "connections_refused";
    /// Requests put into the queue.
    queue_received = "queue" "objects_rx";
    /// Requests taken out of the queue.
    queue_sent = "queue" "objects_tx";
    /// Batches cut because their time was over.
    queue_timeouts = "queue" "num_timeout";
    /// Batches cut because they were full.
    queue_flushes = "queue" "num_flush";
}
