//! One schedule: a cluster, its clients, and what happens to it by chance from one seed.
//!
//! # What is never done to a cluster
//! What no cluster survives: a disk is lost only when all others are whole, no member is removed in the same round, and
//! at most one is removed in a round. Everything else may happen at any time, and the cluster must be whole
//! again afterwards.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::{
    super::{
        crash::scratch_directory,
        history::{History, Reference},
        workload::Workload,
        world::Event,
    },
    air::{Air, Weather},
    clients::{self, Directory, Ledger, Shared, execute, route},
    machine::{Life, Machine, address},
    trace::Trace,
};
use crate::{Formation, Level, environment::Seeded, progress::lock};

/// The names machines have; as many as there are at most.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Clients at the same time.
const CLIENTS: u64 = 3;
/// Rounds of a schedule, each with a cluster that is whole at its end.
const ROUNDS: u64 = 2;
/// What happens in a round, at most.
const STEPS_MAX: u64 = 12;

/// One schedule.
pub(super) struct Story {
    chance: Seeded,
    pub(super) air: Air,
    pub(super) machines: Vec<Machine>,
    pub(super) ledger: Shared,
    pub(super) directory: Directory,
    pub(super) history: History,
    pub(super) reference: Reference,
    pub(super) trace: Trace,
    clients: Vec<JoinHandle<()>>,
    /// What administrators asked for and is under way.
    errands: Vec<JoinHandle<()>>,
    /// Whether a member is being removed or has lost its disk in this round.
    reduced: bool,
    /// How many machines were members, for sure, when all was well last: the first of them.
    settled: usize,
    pub(super) tally: Tally,
}

/// What happened, so that a suite that does nothing shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) schedules: u64,
    pub(super) cuts: u64,
    pub(super) pauses: u64,
    pub(super) crashes: u64,
    pub(super) faults: u64,
    pub(super) joins: u64,
    pub(super) removals: u64,
    pub(super) lost_disks: u64,
    pub(super) handovers: u64,
    pub(super) purges: u64,
    /// Databases sent and installed.
    pub(super) installs: u64,
    pub(super) terms: u64,
    pub(super) clients: clients::Tally,
}

impl Story {
    pub(super) fn new(seed: u64, trace: Trace) -> Self {
        crate::raft::runtime::seed_this_thread(seed ^ 0x5eed);
        let history = History::default();
        history.listen();
        Self {
            chance: Seeded::new(seed, 0),
            air: Air::new(seed ^ 0xa1, trace.clone()),
            machines: Vec::new(),
            ledger: Arc::new(std::sync::Mutex::new(Ledger::new(seed ^ 0x1ed))),
            directory: Directory::default(),
            history,
            reference: Reference::new(scratch_directory()),
            trace,
            clients: Vec::new(),
            errands: Vec::new(),
            reduced: false,
            settled: 0,
            tally: Tally { schedules: 1, ..Tally::default() },
        }
    }

    pub(super) fn below(&self, limit: u64) -> u64 {
        self.chance.next() % limit
    }

    fn index_below(&self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap()
    }

    /// The whole schedule.
    pub(super) async fn run(&mut self) {
        let nodes = [1, 2, 3, 3, 3, 3, 4, 5][self.index_below(8)];
        let together = nodes > 1 && self.below(4) == 0;
        self.found(nodes, together).await;
        for _ in 0..ROUNDS {
            self.begin_clients();
            for _ in 0..=self.below(STEPS_MAX) {
                self.step().await;
                tokio::time::sleep(Duration::from_millis(self.below(1500))).await;
                self.look_after().await;
            }
            self.heal().await;
        }
        self.settle().await;
        self.close().await;
    }

    /// Founds a cluster of so many nodes.
    pub(super) async fn found(&mut self, nodes: usize, together: bool) {
        self.trace.step(&format!("{nodes} nodes, founding together: {together}"));
        self.air.heal();
        for name in NAMES.iter().take(nodes) {
            self.add_machine(name);
            let formation = if together {
                Formation::Together {
                    addresses: NAMES.iter().take(nodes).map(|name| address(name)).collect(),
                    expect: nodes,
                    timeout: Duration::from_secs(120),
                    credentials: None,
                }
            } else if *name == NAMES[0] {
                Formation::Alone
            } else {
                joining()
            };
            self.start(self.machines.len() - 1, formation).await;
        }
        self.whole().await;
        self.settled = nodes;
        let Life { node, host, .. } = self.machines[0].life.as_ref().expect("it was started");
        execute(node, host, Workload::tables(), 10_000).await.expect("a calm cluster takes writes");
    }

    /// Lets clients work.
    pub(super) fn begin_clients(&mut self) {
        lock(&self.ledger).rest(false);
        for _ in 0..CLIENTS {
            let seed = self.chance.next();
            self.clients.push(clients::start(&self.ledger, &self.directory, &self.trace, seed));
        }
    }

    /// Lets clients come to an end.
    pub(super) async fn end_clients(&mut self) {
        lock(&self.ledger).rest(true);
        let ends = join_all(self.clients.drain(..));
        let ends = tokio::time::timeout(Duration::from_secs(120), ends).await;
        for end in ends.expect("every request ends") {
            end.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
    }

    /// Waits until what administrators asked for has ended.
    pub(super) async fn end_errands(&mut self) {
        let ends = join_all(self.errands.drain(..));
        let ends = tokio::time::timeout(Duration::from_secs(120), ends).await;
        drop(ends.expect("every errand ends"));
    }

    fn add_machine(&mut self, name: &str) {
        let machine = Machine::new(name, self.chance.next());
        if self.trace.is_keeping() {
            machine.trace_files();
        }
        self.machines.push(machine);
    }

    async fn start(&mut self, position: usize, formation: Formation) {
        let machine = &mut self.machines[position];
        self.trace.step(&format!("start {}", machine.name));
        if !machine.start(&self.air, formation).await {
            self.trace.step(&format!("{} could not start", machine.name));
        }
        self.publish();
    }

    /// Starts every process that is down.
    pub(super) async fn start_all(&mut self) {
        for position in 0..self.machines.len() {
            if self.machines[position].life.is_none() && self.machines[position].wanted {
                self.start(position, joining()).await;
            }
        }
    }

    /// Starts one process that is down.
    pub(super) async fn start_only(&mut self, position: usize) {
        self.start(position, joining()).await;
    }

    pub(super) async fn stop(&mut self, position: usize, orderly: bool) {
        let machine = &mut self.machines[position];
        if let Some(life) = &machine.life {
            self.tally.installs += life.node.inner().transfers.counters().done;
            self.trace.step(&format!("{} {}", if orderly { "stop" } else { "kill" }, machine.name));
            lock(&self.directory).retain(|(node, _)| node.id() != machine.name);
            machine.stop(orderly).await;
            self.tally.crashes += 1;
        }
        self.publish();
    }

    /// Removes what is left of a machine that is no member any more.
    pub(super) async fn discard_unwanted(&mut self) {
        while let Some(position) = self.machines.iter().position(|machine| !machine.wanted) {
            self.stop(position, false).await;
            self.machines.remove(position).tell(&self.trace);
        }
    }

    fn publish(&self) {
        let lives = self.machines.iter().filter_map(|machine| machine.life.as_ref());
        *lock(&self.directory) =
            lives.map(|life| (life.node.clone(), Arc::clone(&life.host))).collect();
    }

    /// Something happens.
    async fn step(&mut self) {
        let some = self.index_below(self.machines.len());
        let name = self.machines[some].name.clone();
        match self.below(24) {
            0..3 => self.partition(),
            3..5 => self.isolate_leader(),
            5 => self.cut_one_way(some),
            6..8 => self.change_weather(),
            8 => {
                self.trace.step("the network is whole");
                self.air.heal();
            }
            9..11 => self.pause(some),
            11..13 => self.stop(some, false).await,
            13..16 => self.arm(some),
            16 => self.stop(some, true).await,
            17 => self.start_all().await,
            18 => self.join().await,
            19 => self.remove(some),
            20 => self.lose_disk(some).await,
            21 => self.hand_over(),
            22 => {
                self.trace.step("kill all");
                for position in 0..self.machines.len() {
                    self.stop(position, false).await;
                }
            }
            _ => self.keep_house(&name, some),
        }
    }

    fn partition(&mut self) {
        let sides: Vec<bool> = self.machines.iter().map(|_| self.below(2) == 0).collect();
        self.tally.cuts += 1;
        let both_ways = self.below(4) > 0;
        let names = |side: bool| -> Vec<String> {
            let members = self.machines.iter().zip(&sides).filter(|(_, on)| **on == side);
            members.map(|(machine, _)| machine.name.clone()).collect()
        };
        let (left, right) = (names(true), names(false));
        self.trace.step(&format!("cut {left:?} from {right:?}, both ways: {both_ways}"));
        self.cut(&left, &right, both_ways);
    }

    pub(super) fn isolate_leader(&mut self) {
        let leads =
            |machine: &&Machine| machine.running().is_some_and(|life| life.node.is_leader());
        let Some(leader) = self.machines.iter().find(leads).map(|machine| machine.name.clone())
        else {
            return;
        };
        let others: Vec<String> = self
            .machines
            .iter()
            .map(|machine| machine.name.clone())
            .filter(|n| *n != leader)
            .collect();
        let both_ways = self.below(3) > 0;
        self.trace.step(&format!("isolate leader {leader}, both ways: {both_ways}"));
        self.tally.cuts += 1;
        self.cut(&[leader], &others, both_ways);
    }

    fn cut(&self, from: &[String], to: &[String], both_ways: bool) {
        for from in from {
            for to in to {
                self.air.cut(&address(from), &address(to));
                if both_ways {
                    self.air.cut(&address(to), &address(from));
                }
            }
        }
    }

    fn cut_one_way(&mut self, from: usize) {
        let to = self.index_below(self.machines.len());
        let (from, to) = (self.machines[from].name.clone(), self.machines[to].name.clone());
        if from != to {
            self.trace.step(&format!("{from} is not heard by {to}"));
            self.tally.cuts += 1;
            self.cut(&[from], &[to], false);
        }
    }

    fn change_weather(&mut self) {
        let weather = Weather {
            delay_ms: 1 << self.below(10),
            lost: [0, 10, 50, 200][self.index_below(4)],
            doubled: [0, 50, 300][self.index_below(3)],
            broken: [0, 50, 300][self.index_below(3)],
        };
        self.trace.step(&format!("{weather:?}"));
        self.air.set_weather(weather);
    }

    fn pause(&mut self, position: usize) {
        let machine = &self.machines[position];
        let Some(life) = machine.running() else { return };
        self.trace.step(&format!("pause {}", machine.name));
        self.tally.pauses += 1;
        life.host.pause.set(true);
    }

    fn resume(&self, machine: &Machine) {
        if let Some(life) = machine.life.as_ref().filter(|life| life.host.pause.is_set()) {
            self.trace.step(&format!("{} goes on", machine.name));
            life.host.pause.set(false);
        }
    }

    /// Something will happen at one of the next operations on a machine's disks.
    fn arm(&mut self, position: usize) {
        let after = self.below(8 << self.below(7));
        let event = match self.below(10) {
            0..5 => Event::Stop,
            5..8 => Event::Torn(u16::try_from(self.below(5000)).unwrap()),
            8 => Event::Fail,
            _ => Event::Full(1 + self.below(60)),
        };
        let machine = &self.machines[position];
        self.trace.step(&format!("{event:?} at {} after {after} operations", machine.name));
        machine.disks.world.arm(after, event);
        self.tally.faults += 1;
    }

    pub(super) async fn join(&mut self) {
        let taken = |name: &str| self.machines.iter().any(|machine| machine.name == name);
        let Some(name) = NAMES.into_iter().find(|name| !taken(name)) else { return };
        self.trace.step(&format!("{name} joins"));
        self.tally.joins += 1;
        self.add_machine(name);
        self.start(self.machines.len() - 1, joining()).await;
    }

    fn remove(&mut self, position: usize) {
        if self.reduced || self.settled < 3 || position >= self.settled {
            return;
        }
        let name = self.machines[position].name.clone();
        self.trace.step(&format!("remove {name}"));
        self.tally.removals += 1;
        self.reduced = true;
        self.machines[position].wanted = false;
        self.errand(move |life| {
            let (life, name) = ((life.node.clone(), Arc::clone(&life.host)), name.clone());
            Box::pin(async move {
                let route = route(10_000);
                drop(life.1.run(life.0.remove(&name, &route)).await);
            })
        });
    }

    fn hand_over(&mut self) {
        let to = self.index_below(self.machines.len() + 1);
        let to = self.machines.get(to).map(|machine| machine.name.clone());
        self.trace.step(&format!("leadership to {to:?}"));
        self.tally.handovers += 1;
        self.errand(move |life| {
            let (life, to) = ((life.node.clone(), Arc::clone(&life.host)), to.clone());
            Box::pin(async move {
                let route = route(10_000);
                drop(life.1.run(life.0.step_down(to.as_deref(), &route)).await);
            })
        });
    }

    /// Has something asked of any node.
    fn errand(&mut self, ask: impl Fn(&Life) -> futures_util::future::BoxFuture<'static, ()>) {
        let lives: Vec<&Life> =
            self.machines.iter().filter_map(|machine| machine.running()).collect();
        if !lives.is_empty() {
            let errand = ask(lives[self.index_below(lives.len())]);
            self.errands.push(tokio::spawn(errand));
        }
    }

    async fn lose_disk(&mut self, position: usize) {
        if self.reduced || self.settled < 3 || position >= self.settled {
            return;
        }
        self.reduced = true;
        self.tally.lost_disks += 1;
        self.stop(position, false).await;
        let machine = &mut self.machines[position];
        self.trace.step(&format!("{} loses its disk", machine.name));
        machine.tell(&self.trace);
        machine.lose_disk(self.trace.is_keeping());
        self.start(position, joining()).await;
    }

    fn keep_house(&mut self, name: &str, position: usize) {
        let Some(life) = self.machines[position].running() else { return };
        let keep = self.below(10);
        self.trace.step(&format!("{name} folds its WAL and keeps {keep} entries"));
        life.node.inner().machinery.checkpoint_if_due(u64::MAX, 1);
        self.tally.purges += 1;
        let (node, host) = (life.node.clone(), Arc::clone(&life.host));
        let purge = async move {
            drop(host.run(node.snapshot(Some(keep))).await);
        };
        self.errands.push(tokio::spawn(purge));
    }

    /// Buries what died, starts some of it again, lets some go on.
    pub(super) async fn look_after(&mut self) {
        for position in 0..self.machines.len() {
            if let Some(reason) = self.machines[position].trouble() {
                let name = &self.machines[position].name;
                tracing::info!("{name}: {reason}");
                self.trace.step(&format!("{name} has stopped"));
                self.stop(position, false).await;
            }
            if self.below(3) == 0 {
                self.resume(&self.machines[position]);
            }
            let down = self.machines[position].life.is_none();
            if down && self.machines[position].wanted && self.below(3) == 0 {
                self.start(position, joining()).await;
            }
        }
        self.watch();
    }

    /// What holds at any moment.
    pub(super) fn watch(&self) {
        for machine in &self.machines {
            let Some(life) = machine.running() else { continue };
            let inner = life.node.inner();
            let view = inner.consensus.view();
            if view.leads {
                self.air.witness(|witness| witness.leads(view.term, inner.raft_id, &machine.name));
            }
        }
        assert!(!super::has_panicked(), "something panicked, see above");
        let violation = self.air.witness(|witness| witness.violation().map(str::to_owned));
        assert_eq!(violation, None);
        self.history.check();
    }

    /// Everything works again: the cluster must be whole after a while, and right.
    pub(super) async fn heal(&mut self) {
        self.trace.step("heal");
        self.air.heal();
        for machine in &self.machines {
            self.resume(machine);
            machine.disks.world.disarm_unless_stopped();
        }
        // Who was paused sees only now what has become of it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        for position in 0..self.machines.len() {
            if self.machines[position].trouble().is_some() {
                self.stop(position, false).await;
            }
        }
        self.start_all().await;
        self.end_errands().await;
        self.serve_again(false).await;
        self.end_clients().await;
        self.whole().await;
        self.discard_unwanted().await;
        self.compare().await;
        self.reduced = false;
        self.settled = self.machines.len();
        self.watch();
    }

    /// The end: what was unknown becomes known.
    pub(super) async fn settle(&mut self) {
        // Whatever is on its way arrives.
        tokio::time::sleep(Duration::from_secs(30)).await;
        let mut found = None;
        for machine in &self.machines {
            let Life { node, host, .. } = machine.life.as_ref().expect("all run");
            let level = Level::Linearizable;
            found = clients::read(&self.ledger, &self.trace, node, host, level).await;
            assert!(found.is_some(), "{} reads when all is calm", machine.name);
        }
        lock(&self.ledger).settle(&found.expect("there is a machine"));
        self.compare().await;
        self.check_integrity().await;
        self.tally.terms = self.air.witness(|witness| witness.terms());
        self.tally.clients = lock(&self.ledger).tally;
    }

    async fn close(&mut self) {
        for position in 0..self.machines.len() {
            self.stop(position, true).await;
            self.machines[position].tell(&self.trace);
        }
    }
}

/// Joins through anybody, for as long as it takes.
fn joining() -> Formation {
    Formation::Join {
        addresses: NAMES.iter().map(|name| address(name)).collect(),
        attempts: 1_000_000,
        interval: Duration::from_millis(300),
        credentials: None,
    }
}
