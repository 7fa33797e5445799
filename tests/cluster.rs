//! Three nodes as one cluster, on ports of this machine: forming, failing, coming back, and what
//! clients see of it. What needs namespaces, disks or clocks of its own stands in `nemesis.rs`.
//!
//! Every test here has a longer form, chosen by variables (`cargo xtask soak cluster`):
//! `RQ_CLUSTER_SEED` (all), `RQ_CLUSTER_RUNS` ([`forming`]'s races, [`images`]), and
//! `RQ_CLUSTER_SECONDS` ([`histories`], [`rolling`]).

/// Finding each other, in any order, once and again.
mod forming;

/// Nodes that go: one, the leader, all; nodes that come back elsewhere or empty.
mod failures;

/// A lost quorum, and a node that goes on without the others.
mod recovery;

/// Equal images after everything SQL can do, restarts and installed snapshots.
mod images;

/// Statements in which nodes could differ.
mod corpus;

/// Registers, lists and accounts at every level and node, checked.
mod histories;

/// Restarting one node after the other under load.
mod rolling;

/// Certificates between nodes.
mod tls;

use std::{env, time::Duration};

use rq_tests::{
    Random,
    cluster::{Caller, Cluster},
};

/// How long a client of these tests waits for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// The seed of a test, printed, and a generator from it.
fn seed() -> (Random, u64) {
    let (random, seed) = Random::from_environment("RQ_CLUSTER_SEED", 1);
    println!("RQ_CLUSTER_SEED={seed}");
    (random, seed)
}

/// A number from the environment, or a default.
fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A client that begins with this member.
fn caller(cluster: &Cluster, member: usize) -> Caller {
    Caller::new(cluster.http_addrs(), member, ANSWER_TIME)
}
