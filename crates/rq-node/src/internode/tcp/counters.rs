//! What the internode port counts, and under which names `/debug/vars` shows it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{CounterMaps, internode::Lane};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    fn get(&self) -> i64 {
        i64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    }
}

/// Everything counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Connections that were accepted, of whomever.
    pub(crate) accepted: Count,
    /// Accepted connections whose first bytes were none of ours.
    pub(crate) strangers: Count,
    /// Accepted connections that were closed before their handshake was complete, strangers included.
    pub(crate) handshakes_failed: Count,
    /// Connections refused because too many were open.
    pub(crate) rejected: Count,
    /// Connections that ended because the other side broke the protocol or fell silent.
    pub(crate) dropped: Count,
    /// Attempts to connect to another node.
    pub(crate) dials: Count,
    /// The same, failed.
    pub(crate) dials_failed: Count,
    /// Calls given up after they had been sent.
    pub(crate) timeouts_unanswered: Count,
    /// Calls given up before they could be sent.
    pub(crate) timeouts_unsent: Count,
    lanes: [Arc<LaneCounters>; 4],
}

/// What is counted for each lane.
#[derive(Debug, Default)]
pub(crate) struct LaneCounters {
    /// Calls made by this node.
    pub(crate) calls: Count,
    /// Calls received.
    pub(crate) requests: Count,
    /// Bytes received, handshakes excepted.
    pub(crate) bytes_received: Count,
    /// Bytes sent, handshakes excepted.
    pub(crate) bytes_sent: Count,
}

impl Counters {
    /// The counters of a lane.
    pub(crate) fn lane(&self, lane: Lane) -> &Arc<LaneCounters> {
        let [control, append, service, bulk] = &self.lanes;
        match lane {
            Lane::Control => control,
            Lane::Append => append,
            Lane::Service => service,
            Lane::Bulk => bulk,
        }
    }

    /// All counters by map and name.
    pub(crate) fn maps(&self, certificates_fetched: u64) -> CounterMaps {
        let mut mux = BTreeMap::from([
            ("num_connections_handled", self.accepted.get()),
            ("num_unregistered_handlers", self.strangers.get()),
            ("num_tls_cert_fetched", i64::try_from(certificates_fetched).unwrap_or(i64::MAX)),
            ("num_handshakes_failed", self.handshakes_failed.get()),
            ("num_connections_dropped", self.dropped.get()),
            ("num_dials", self.dials.get()),
            ("num_dials_failed", self.dials_failed.get()),
        ]);
        for (lane, names) in Lane::ALL.into_iter().zip(LANE_NAMES) {
            let lane = self.lane(lane);
            let counts = [&lane.calls, &lane.requests, &lane.bytes_sent, &lane.bytes_received];
            mux.extend(names.into_iter().zip(counts.map(Count::get)));
        }
        let cluster = BTreeMap::from([
            ("num_conn_rejected", self.rejected.get()),
            ("num_client_read_timeouts", self.timeouts_unanswered.get()),
            ("num_client_write_timeouts", self.timeouts_unsent.get()),
        ]);
        BTreeMap::from([("mux", mux), ("cluster", cluster)])
    }
}

/// The names of a lane's counters, in the order of [`Lane::ALL`].
const LANE_NAMES: [[&str; 4]; 4] = [
    ["control_calls", "control_requests", "control_bytes_sent", "control_bytes_received"],
    ["append_calls", "append_requests", "append_bytes_sent", "append_bytes_received"],
    ["service_calls", "service_requests", "service_bytes_sent", "service_bytes_received"],
    ["bulk_calls", "bulk_requests", "bulk_bytes_sent", "bulk_bytes_received"],
];
