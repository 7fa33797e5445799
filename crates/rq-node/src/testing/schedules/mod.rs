//! A whole cluster in one process, from one seed: thousands of schedules of what can happen to it.
//!
//! Nodes run on one thread with simulated disks ([`machine`]), a simulated network ([`air`]) and simulated time; clients
//! ([`clients`]) write and read through any of them. A [`story`] lets nodes be cut off, paused, killed, emptied, joined and
//! removed by chance, at any operation on a disk and at any message. All the while, and whenever everything works
//! again ([`checks`]):
//!
//! - a term has one leader, a member one vote a term, an index one entry;
//! - acknowledged writes are there once, refused ones never were, unknown ones are done as a whole or not at all;
//! - linearizable and strong reads see everything acknowledged before they began, and what earlier ones saw;
//! - all members agree who is one, and each name is one once;
//! - images at the same index are equal to each other, and to an engine that never crashed;
//! - the cluster serves again, and no request is left without an end.
//!
//! `RQ_SCHEDULES` sets how many are run, `RQ_SCHEDULE_SEED` the first one's seed; a failing one prints its own and what
//! was done to the cluster.

mod air;
mod checks;
mod clients;
mod machine;
mod scenarios;
mod story;
mod trace;
mod witness;

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
};

use self::{
    story::{Story, Tally},
    trace::Trace,
};
use super::simulated_runtime;

/// Schedules, if nothing else is asked for.
const SCHEDULES: u64 = 20;
/// With as many everything that can happen does.
const MANY: u64 = 100;

#[test]
fn clusters_survive_what_happens_to_them() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
    };
    let schedules = number("RQ_SCHEDULES").unwrap_or(SCHEDULES);
    let first = number("RQ_SCHEDULE_SEED").unwrap_or(u64::from(std::process::id()) << 20);
    if let Ok(told) = std::env::var("RQ_LOG") {
        let level = if told == "debug" { tracing::Level::DEBUG } else { tracing::Level::INFO };
        drop(tracing_subscriber::fmt().with_max_level(level).try_init());
    }
    let mut tally = Tally::default();
    for seed in first..first + schedules {
        tally.add(&run(seed, Trace::default()));
        if tally.schedules.is_multiple_of(MANY) {
            eprintln!("up to seed {seed}: {tally:?}");
        }
    }
    eprintln!("schedules from seed {first}: {tally:?}");
    if schedules >= MANY {
        tally.check();
    }
}

#[test]
fn a_seed_is_a_schedule() {
    for seed in [3, 4] {
        let (first, second) = (Trace::keeping(), Trace::keeping());
        let tallies = (run(seed, first.clone()), run(seed, second.clone()));
        let digests = (first.digest(), second.digest());
        let (first, second) = (first.kept(), second.kept());
        assert!(first.len() > 1000, "{} events", first.len());
        let step = first.iter().zip(&second).position(|(one, other)| one != other);
        let other = step.map(|step| (&first[step], &second[step]));
        assert_eq!(other, None, "seed {seed}: event {step:?} is another");
        assert_eq!(first.len(), second.len(), "seed {seed}");
        assert_eq!(digests.0, digests.1, "seed {seed}");
        assert_eq!(tallies.0, tallies.1, "seed {seed}");
    }
    let digest = |seed| {
        let trace = Trace::default();
        run(seed, trace.clone());
        trace.digest()
    };
    assert_ne!(digest(5), digest(6));
}

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Whether anything has panicked on this thread since the schedule began, be it in a task that takes its panic with
/// it: the program would have ended.
fn has_panicked() -> bool {
    PANICKED.get()
}

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told_before = take_hook();
        set_hook(Box::new(move |panic| {
            PANICKED.set(true);
            told_before(panic);
        }));
    });
    PANICKED.set(false);
}

fn run(seed: u64, trace: Trace) -> Tally {
    watch_panics();
    let runtime = simulated_runtime();
    let told = trace.clone();
    let ran = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut story = Story::new(seed, trace);
            story.run().await;
            story.tally
        })
    }));
    ran.unwrap_or_else(|_| {
        panic!(
            "failed: repeat with RQ_SCHEDULE_SEED={seed} RQ_SCHEDULES=1\nwhat happened:\n{}",
            told.steps()
        )
    })
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.cuts += other.cuts;
        self.pauses += other.pauses;
        self.crashes += other.crashes;
        self.faults += other.faults;
        self.joins += other.joins;
        self.removals += other.removals;
        self.lost_disks += other.lost_disks;
        self.handovers += other.handovers;
        self.purges += other.purges;
        self.installs += other.installs;
        self.terms += other.terms;
        self.clients.acknowledged += other.clients.acknowledged;
        self.clients.refused += other.clients.refused;
        self.clients.unknown += other.clients.unknown;
        self.clients.reads += other.clients.reads;
        self.clients.linearizable += other.clients.linearizable;
    }

    fn check(&self) {
        let rare = [self.joins, self.removals, self.lost_disks, self.handovers, self.pauses];
        assert!(rare.iter().all(|count| *count > 0), "{self:?}");
        assert!(
            self.cuts > 0 && self.crashes > 0 && self.faults > 0 && self.installs > 0,
            "{self:?}"
        );
        assert!(self.terms > self.schedules * 2, "{self:?}");
        let clients = self.clients;
        assert!(clients.acknowledged > self.schedules * 20, "{self:?}");
        assert!(clients.refused > 0 && clients.unknown > 0, "{self:?}");
        assert!(clients.linearizable > self.schedules, "{self:?}");
    }
}
