//! Single events of which it is said exactly what must follow, in the simulated cluster.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::{simulated_runtime, write},
    clients::{self, execute, route},
    machine::{Life, address},
    story::Story,
    trace::Trace,
    watch_panics,
};
use crate::{Error, Level, progress::lock, raft::consensus::LEADERSHIP_INTERVAL};

/// Runs a scenario for two seeds, each with a cluster of three.
fn of_three(scenario: &impl AsyncFn(&mut Story)) {
    for seed in 1..=2 {
        watch_panics();
        simulated_runtime().block_on(async {
            let mut story = Story::new(seed, Trace::default());
            story.found(3, false).await;
            scenario(&mut story).await;
            story.watch();
            story.heal().await;
            story.settle().await;
        });
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

impl Story {
    fn life(&self, position: usize) -> &Life {
        self.machines[position].life.as_ref().expect("it runs")
    }

    /// The position of the node that leads, if one does.
    fn leader(&self) -> Option<usize> {
        self.machines
            .iter()
            .position(|machine| machine.running().is_some_and(|life| life.node.is_leader()))
    }

    /// How many nodes know of a change of voters that is not finished.
    fn between_voters(&self) -> usize {
        let lives = self.machines.iter().filter_map(|machine| machine.running());
        lives.filter(|life| life.node.inner().consensus.is_between_voters()).count()
    }

    async fn keys(&self, position: usize, level: Level) -> bool {
        let Life { node, host, .. } = self.life(position);
        clients::read(&self.ledger, &self.trace, node, host, level).await.is_some()
    }

    fn cut_off(&self, position: usize) {
        let name = &self.machines[position].name;
        for other in self.machines.iter().filter(|other| other.name != *name) {
            self.air.cut(&address(name), &address(&other.name));
            self.air.cut(&address(&other.name), &address(name));
        }
    }

    /// Sends a request of a client to one node.
    async fn ask(&self, position: usize, sql: &str) -> Result<(), Error> {
        let Life { node, host, .. } = self.life(position);
        execute(node, host, write(&[sql]), 5_000).await.map(drop)
    }
}

#[test]
fn a_leader_without_a_quorum_leads_no_more_and_another_takes_over() {
    of_three(&async |story| {
        let old = story.leader().expect("a cluster that takes writes has a leader");
        story.cut_off(old);
        assert!(story.ask(old, "INSERT INTO marks VALUES (-1, 'lost')").await.is_err());
        assert!(!story.keys(old, Level::Linearizable).await, "nobody confirms it");
        assert!(!story.life(old).node.is_leader(), "it knows that it has no quorum");
        assert!(!story.keys(old, Level::Weak).await, "it does not believe to lead");
        assert!(story.keys(old, Level::None).await, "its own data it still shows");
        let new = story.leader().expect("the others have elected one");
        assert!(new != old && story.keys(new, Level::Linearizable).await);
        // Goes with the entries nobody else had.
        story.air.heal();
        seconds(10).await;
        story.ask(new, "DELETE FROM marks WHERE key = -1").await.unwrap();
    });
}

/// What it has proposed may be committed yet, but it hears nothing of that: as if its disk could not store who leads now.
#[test]
fn a_leader_that_gave_leadership_away_keeps_nobody_waiting() {
    of_three(&async |story| {
        let old = story.leader().expect("a cluster that takes writes has a leader");
        story.cut_off(old);
        let consensus = &story.life(old).node.inner().consensus;
        let giving = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(consensus.leads(), "its lease is not over");
            consensus.give_away(consensus.term());
            assert!(!consensus.leads() && consensus.leader().is_none());
            Instant::now()
        };
        let writing = story.ask(old, "INSERT INTO marks VALUES (-1, 'lost')");
        let (end, given) = tokio::join!(writing, giving);
        assert!(matches!(end, Err(Error::OutcomeUnknown(_))), "{end:?}");
        let waited = given.elapsed();
        assert!(waited <= LEADERSHIP_INTERVAL, "a client waits {waited:?}");
        seconds(10).await;
        let new = story.leader().expect("the others have elected one");
        story.air.heal();
        seconds(10).await;
        story.ask(new, "DELETE FROM marks WHERE key = -1").await.unwrap();
    });
}

#[test]
fn a_removed_node_that_still_runs_disturbs_nobody() {
    of_three(&async |story| {
        let leader = story.leader().expect("a cluster that takes writes has a leader");
        let removed = (leader + 1) % 3;
        let term = story.life(leader).node.inner().consensus.term();
        let name = story.machines[removed].name.clone();
        story.life(leader).node.remove(&name, &route(5_000)).await.unwrap();
        story.machines[removed].wanted = false;
        seconds(60).await;
        assert_eq!(story.leader(), Some(leader));
        assert_eq!(story.life(leader).node.inner().consensus.term(), term, "nobody stood");
        assert!(!story.life(removed).node.is_ready(), "it is a member no more");
        assert!(!story.keys(removed, Level::Linearizable).await);
    });
}

#[test]
fn a_node_that_lost_its_disk_has_no_vote_until_it_is_a_new_member() {
    of_three(&async |story| {
        let leader = story.leader().expect("a cluster that takes writes has a leader");
        let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let number = story.life(lost).node.inner().raft_id;
        // One of three is left that knows of anything, and one that knows of nothing.
        story.stop(other, false).await;
        story.stop(lost, false).await;
        story.machines[lost].lose_disk(false);
        story.start_only(lost).await;
        seconds(60).await;
        assert_eq!(story.leader(), None, "a quorum needs one that has its disk");
        assert!(story.life(lost).node.inner().raft_id != number, "it is another member");
        story.start_only(other).await;
        seconds(20).await;
        let members = story.life(other).node.inner().consensus.members();
        assert_eq!(members.len(), 3, "{members:?}");
        assert!(members.iter().all(|member| member.raft_id != number), "{members:?}");
    });
}

/// Twice the election timeout after the last acknowledgement somebody else leads, also if it was given leadership back since.
#[test]
fn a_leader_whose_log_finds_no_room_hands_over_in_time() {
    of_three(&async |story| {
        let full = story.leader().expect("a cluster that takes writes has a leader");
        let limit = story.life(full).node.inner().options.timing.election_timeout * 2;
        for time in 1..=2 {
            story.lead(full).await;
            let took = story.fill_log_of_leader(full, time).await;
            eprintln!("time {time}: another leads {took:?} after the last acknowledgement");
            assert!(
                took <= limit,
                "time {time}: another leads {took:?} after the last acknowledgement"
            );
            story.machines[full].disks.world.fill_log(false);
            seconds(3).await;
        }
        seconds(20).await;
        let leader = story.leader().expect("somebody leads");
        story.ask(leader, "DELETE FROM marks WHERE key < 0").await.unwrap();
    });
}

impl Story {
    /// Has leadership handed to a node.
    async fn lead(&self, position: usize) {
        let began = Instant::now();
        while self.leader() != Some(position) {
            assert!(began.elapsed() < Duration::from_secs(60), "it takes leadership");
            let Life { node, host, .. } = self.life(position);
            let name = &self.machines[position].name;
            // Refused where there is no leader at the moment, or it is the one.
            drop(host.run(node.step_down(Some(name), &route(5_000))).await);
            seconds(1).await;
        }
    }

    /// Leaves the log of the leader without room, while its clients write, until somebody else leads. Returns how long after
    /// the last acknowledgement that is.
    async fn fill_log_of_leader(&self, full: usize, time: i64) -> Duration {
        let last = Arc::new(Mutex::new(Instant::now()));
        self.machines[full].disks.world.fill_log(true);
        let writing = {
            let Life { node, host, .. } = self.life(full);
            let (node, host, last) = (node.clone(), Arc::clone(host), Arc::clone(&last));
            tokio::spawn(async move {
                for key in 1.. {
                    let key = -(key + 1_000_000 * time);
                    let insert = format!("INSERT INTO marks VALUES ({key}, hex(zeroblob(4000)))");
                    if execute(&node, &host, write(&[&insert]), 60_000).await.is_err() {
                        return;
                    }
                    *lock(&last) = Instant::now();
                    if !node.is_leader() {
                        return;
                    }
                }
            })
        };
        let began = Instant::now();
        while self.leader().is_none_or(|leader| leader == full) {
            assert!(began.elapsed() < Duration::from_secs(60), "it hands over");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = lock(&last).elapsed();
        writing.abort();
        took
    }
}

#[test]
fn requests_of_a_node_without_a_leader_wait_without_work() {
    of_three(&async |story| {
        for position in 0..3 {
            story.cut_off(position);
        }
        seconds(10).await;
        // Simulated time stands still while anybody is busy: this ends only if nobody asks again and again.
        for position in 0..3 {
            let end = story.ask(position, "INSERT INTO marks VALUES (-2, 'lost')").await;
            assert_eq!(end, Err(Error::LeaderNotFound));
        }
    });
}

#[test]
fn a_change_of_voters_that_its_leader_did_not_finish_is_finished_by_the_next() {
    of_three(&async |story| {
        let leader = story.leader().expect("a cluster that takes writes has a leader");
        let removed = (leader + 1) % 3;
        story.join().await;
        let name = story.machines[removed].name.clone();
        for changed in ["promoted", "removed"] {
            let leader = story.leader().expect("a cluster that takes writes has a leader");
            if changed == "removed" {
                story.machines[removed].wanted = false;
                let Life { node, host, .. } = story.life((removed + 1) % 4);
                let (node, host, name) = (node.clone(), host.clone(), name.clone());
                tokio::spawn(async move {
                    let route = route(5_000);
                    drop(host.run(node.remove(&name, &route)).await);
                });
            }
            // On so many that whoever leads next knows of it.
            while story.between_voters() < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            story.stop(leader, false).await;
            seconds(10).await;
            // One that was removed would join again.
            if story.machines[leader].wanted {
                story.start_only(leader).await;
            }
            seconds(10).await;
            let members = if changed == "removed" { 3 } else { 4 };
            for machine in story.machines.iter().filter(|machine| machine.wanted) {
                let consensus = &machine.running().expect("it runs").node.inner().consensus;
                assert!(!consensus.is_between_voters(), "{changed}: {}", machine.name);
                assert_eq!(consensus.view().members.len(), members, "{changed}");
            }
        }
    });
}
