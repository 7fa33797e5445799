//! Restarting one node after the other under a steady load: an upgrade on an ordinary day.
//!
//! The clients are naive ([`NaiveLoad`]). They may see no read fail, and no write a second time. How long no write is
//! acknowledged is printed here and judged by `cargo xtask bench cluster`. `RQ_CLUSTER_SECONDS` is how long each node is left
//! in peace.

use std::time::Duration;

use rq_tests::cluster::{Cluster, Forming, NaiveLoad};

use super::{ANSWER_TIME, number};

#[test]
fn one_node_after_the_other_is_restarted_under_load() {
    let peace = Duration::from_secs(number("RQ_CLUSTER_SECONDS", 2));
    let mut cluster = Cluster::builder(3).forming(Forming::Expect).start();
    cluster.node(0).execute(NaiveLoad::SCHEMA);
    let load = NaiveLoad::new(cluster.http_addrs(), ANSWER_TIME);
    let ((), seen) = load.during(|| {
        for round in 0..2 {
            println!("round {round}: all are restarted in turn");
            cluster.restart_in_turn(peace);
        }
    });
    println!(
        "{} reads, {} writes, {} of them sent twice, longest time without a write {:?}",
        seen.reads,
        seen.writes,
        seen.repeated,
        seen.longest_gap()
    );
    assert!(seen.reads >= 200 && seen.writes >= 100, "hardly anything was done");
    for (what, failed) in [("reads", &seen.failed_reads), ("writes", &seen.failed_writes)] {
        assert!(failed.is_empty(), "{} {what} failed: {failed:#?}", failed.len());
    }
    assert_eq!(cluster.node(0).value(NaiveLoad::COUNT), seen.writes, "rows of acknowledged writes");
    cluster.assert_equal_images();
}
