//! Timeouts of Raft and the relations they must keep.
//!
//! rqlited's Raft library checks these when the store is opened, and dies with its own
//! sentences. We check them before anything is opened, and say the same.

use std::time::Duration;

use crate::{cli::RaftFlags, config::Problem, goflag::GoDuration};

const MILLISECOND: i64 = 1_000_000;

/// What a zero on the command line stands for.
const HEARTBEAT: GoDuration = GoDuration::from_nanoseconds(1_000 * MILLISECOND);
const ELECTION: GoDuration = GoDuration::from_nanoseconds(1_000 * MILLISECOND);
const LEASE: GoDuration = GoDuration::from_nanoseconds(500 * MILLISECOND);
const COMMIT: GoDuration = GoDuration::from_nanoseconds(50 * MILLISECOND);
const SNAPSHOT_INTERVAL: GoDuration = GoDuration::from_nanoseconds(120_000 * MILLISECOND);

/// The shortest time that is not too low; of commits a fifth of it.
const MIN: GoDuration = GoDuration::from_nanoseconds(5 * MILLISECOND);
const COMMIT_MIN: GoDuration = GoDuration::from_nanoseconds(MILLISECOND);

/// Timeouts that keep a leader in office, as the operator stated them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTiming {
    /// How long a follower waits for a word of the leader.
    pub heartbeat_timeout: Duration,
    /// How long a candidate waits for votes; not shorter than the heartbeat timeout.
    pub election_timeout: Duration,
    /// How long a leader stays one without a majority; not longer than the heartbeat timeout.
    pub leader_lease_timeout: Duration,
    /// How long a leader may be idle before it tells followers what is committed.
    pub commit_timeout: Duration,
}

impl RaftTiming {
    /// Checks the timeouts against each other.
    pub(crate) fn check(flags: &RaftFlags) -> Result<Self, Problem> {
        let heartbeat = flags.raft_heartbeat_timeout.or(HEARTBEAT);
        let election = flags.raft_election_timeout.or(ELECTION);
        let lease = flags.raft_leader_lease_timeout.or(LEASE);
        let commit = flags.raft_commit_timeout.or(COMMIT);
        let timing = Self {
            heartbeat_timeout: at_least(MIN, heartbeat, "HeartbeatTimeout")?,
            election_timeout: at_least(MIN, election, "ElectionTimeout")?,
            commit_timeout: at_least(COMMIT_MIN, commit, "CommitTimeout")?,
            leader_lease_timeout: at_least(MIN, lease, "LeaderLeaseTimeout")?,
        };
        if lease > heartbeat {
            return Err(refused(&format!(
                "LeaderLeaseTimeout ({lease}) cannot be larger than heartbeat timeout ({heartbeat})"
            )));
        }
        if election < heartbeat {
            return Err(refused(&format!(
                "ElectionTimeout ({election}) must be equal or greater than Heartbeat Timeout \
                 ({heartbeat})"
            )));
        }
        Ok(timing)
    }
}

/// Checks the time between two looks whether a snapshot is due.
pub(crate) fn snapshot_interval(flags: &RaftFlags) -> Result<Duration, Problem> {
    at_least(MIN, flags.raft_snap_int.or(SNAPSHOT_INTERVAL), "SnapshotInterval")
}

impl GoDuration {
    /// Replaces zero.
    fn or(self, default: Self) -> Self {
        if self == Self::default() { default } else { self }
    }
}

fn at_least(min: GoDuration, duration: GoDuration, name: &str) -> Result<Duration, Problem> {
    duration
        .to_std()
        .filter(|_| duration >= min)
        .ok_or_else(|| refused(&format!("{name} is too low")))
}

fn refused(reason: &str) -> Problem {
    Problem::Logged(format!("failed to open store: creating the raft system failed: {reason}"))
}
