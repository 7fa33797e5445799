//! What happens to a cluster while clients work: one harm after the other, drawn from a seed.
//!
//! Each harm is undone before the next one, and everything is undone at the end. Every step is
//! printed with its time, so that a log and a history can be laid beside it.

use std::{
    env,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{Cluster, ClusterBuilder, Disk, FakeClock, Link, Network};
use crate::Random;

/// The size of a member's own disk.
const DISK_BYTES: u64 = 512 << 20;

/// What is left on a disk that is full.
const LEFT_BYTES: u64 = 64 << 10;

/// How far a clock jumps.
const JUMP_SECONDS: i64 = 3600;

/// A harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The voters fall into two parts.
    Partition,
    /// The leader hears nobody, and nobody hears it.
    LeaderIsolated,
    /// Nothing the leader sends arrives; it still hears the others.
    LeaderMute,
    /// Each of two voters hears the third one only.
    Bridge,
    /// A process is stopped and goes on.
    Pause,
    /// A process is killed and started again.
    Kill,
    /// All processes are killed and started again.
    KillAll,
    /// A process ends as asked and is started again.
    Restart,
    /// The clock of a process jumps.
    ClockJump,
    /// All links are slow.
    SlowLinks,
    /// All links lose one in five packets.
    LossyLinks,
    /// A disk has no space left.
    FullDisk,
    /// A disk does not answer.
    HungDisk,
}

/// All harms.
const FAULTS: [Fault; 13] = [
    Fault::Partition,
    Fault::LeaderIsolated,
    Fault::LeaderMute,
    Fault::Bridge,
    Fault::Pause,
    Fault::Kill,
    Fault::KillAll,
    Fault::Restart,
    Fault::ClockJump,
    Fault::SlowLinks,
    Fault::LossyLinks,
    Fault::FullDisk,
    Fault::HungDisk,
];

/// What a cluster has around it that can be harmed. What this machine lacks is left out.
#[derive(Debug, Default)]
pub struct Environment {
    network: Option<Network>,
    disks: Vec<Disk>,
    clocks: Vec<FakeClock>,
    _scratch: Option<tempfile::TempDir>,
}

impl Environment {
    /// Prepares networks, disks and clocks for this many members.
    ///
    /// # Errors
    /// The network cannot be created. Disks and clocks that cannot are left out, and said to be.
    pub fn prepare(members: usize, seed: u64) -> Result<Self, String> {
        let scratch = tempfile::TempDir::with_prefix("rq-clocks-").map_err(|e| e.to_string())?;
        let disks = (0..members).map(|_| Disk::create(DISK_BYTES)).collect::<Result<_, _>>();
        let clocks = (0..members)
            .map(|member| FakeClock::create(scratch.path(), &Cluster::id(member)))
            .collect::<Result<_, _>>();
        Ok(Self {
            network: Some(Network::create(members, seed)?),
            disks: disks.unwrap_or_else(|error| left_out("disks", &error)),
            clocks: clocks.unwrap_or_else(|error| left_out("clocks", &error)),
            _scratch: Some(scratch),
        })
    }

    /// Gives a cluster that is about to be started what was prepared.
    pub fn equip(&mut self, mut builder: ClusterBuilder) -> ClusterBuilder {
        if let Some(network) = self.network.take() {
            builder = builder.network(network);
        }
        let directories: Vec<PathBuf> =
            self.disks.iter().map(|disk| disk.path().join("data")).collect();
        let variables = self.clocks.iter().map(FakeClock::variables).collect();
        builder.directories(directories).variables(variables).errors_expected()
    }

    fn can(&self, fault: Fault, cluster: &Cluster) -> bool {
        match fault {
            Fault::ClockJump => !self.clocks.is_empty(),
            Fault::FullDisk | Fault::HungDisk => !self.disks.is_empty(),
            Fault::Pause | Fault::Kill | Fault::KillAll | Fault::Restart => true,
            _ => cluster.network().is_some(),
        }
    }
}

/// Asks a member to end. One that was about to belong to its cluster says that it gave that up.
fn stop(cluster: &mut Cluster, member: usize) {
    let node = cluster.node_mut(member);
    let code = node.stop();
    let log = node.log();
    assert!(code == 0 || log.contains("boot canceled"), "{}: {code}\n{log}", Cluster::id(member));
}

fn left_out<T>(what: &str, reason: &str) -> Vec<T> {
    let is_required = env::var_os("RQ_TEST_REQUIRE_ALL").is_some();
    assert!(!is_required, "no {what}, and RQ_TEST_REQUIRE_ALL is set: {reason}");
    println!("no {what}: {reason}");
    Vec::new()
}

/// What does the harm.
#[derive(Debug)]
pub struct Nemesis {
    random: Random,
    begin: Instant,
    voters: usize,
    faults: Vec<Fault>,
}

impl Nemesis {
    /// A nemesis of the first members of a cluster, whose steps follow from the seed.
    pub fn new(seed: u64, voters: usize) -> Self {
        let begin = Instant::now();
        Self { random: Random::new(seed), begin, voters, faults: FAULTS.to_vec() }
    }

    /// Limits it to these harms.
    #[must_use]
    pub fn only(mut self, faults: &[Fault]) -> Self {
        self.faults = faults.to_vec();
        self
    }

    /// Does harm for this long, and each harm that is possible at least once; then undoes everything. Returns the harms
    /// done.
    pub fn run(
        &mut self,
        cluster: &mut Cluster,
        environment: &Environment,
        duration: Duration,
    ) -> Vec<Fault> {
        let possible: Vec<_> =
            self.faults.iter().copied().filter(|fault| environment.can(*fault, cluster)).collect();
        assert!(!possible.is_empty(), "no harm can be done here");
        let mut done = Vec::new();
        let mut left = Vec::new();
        let end = Instant::now() + duration;
        while Instant::now() < end || done.len() < possible.len() {
            if left.is_empty() {
                left.clone_from(&possible);
            }
            let fault = left.swap_remove(self.random.index(left.len()));
            self.harm(fault, cluster, environment);
            done.push(fault);
            thread::sleep(Duration::from_millis(500 + self.random.below(1500)));
        }
        self.say("everything is undone");
        if let Some(network) = cluster.network() {
            network.heal();
        }
        done
    }

    fn say(&self, what: &str) {
        println!("nemesis {:8.3} s: {what}", self.begin.elapsed().as_secs_f64());
    }

    fn wait(&mut self, least: u64, most: u64) {
        thread::sleep(Duration::from_millis(least + self.random.below(most - least)));
    }

    fn harm(&mut self, fault: Fault, cluster: &mut Cluster, environment: &Environment) {
        let victim = self.random.index(self.voters);
        match fault {
            Fault::Pause => {
                self.say(&format!("{} is stopped", Cluster::id(victim)));
                cluster.pause(victim);
                self.wait(300, 4000);
                self.say(&format!("{} goes on", Cluster::id(victim)));
                cluster.resume(victim);
            }
            Fault::Kill => {
                self.say(&format!("{} is killed", Cluster::id(victim)));
                cluster.kill(victim);
                self.wait(0, 3000);
                self.start(cluster, victim);
            }
            Fault::KillAll => {
                self.say("all are killed");
                (0..self.voters).for_each(|member| cluster.kill(member));
                for member in 0..self.voters {
                    self.wait(0, 500);
                    self.start(cluster, member);
                }
            }
            Fault::Restart => {
                self.say(&format!("{} is asked to end", Cluster::id(victim)));
                stop(cluster, victim);
                self.wait(0, 2000);
                self.start(cluster, victim);
            }
            Fault::ClockJump => self.jump(victim, environment),
            Fault::FullDisk => {
                self.say(&format!("the disk of {} is full", Cluster::id(victim)));
                environment.disks[victim].fill(LEFT_BYTES);
                self.wait(1000, 4000);
                self.say(&format!("the disk of {} has space again", Cluster::id(victim)));
                environment.disks[victim].release();
            }
            Fault::HungDisk => {
                self.say(&format!("the disk of {} hangs", Cluster::id(victim)));
                let frozen = environment.disks[victim].freeze().expect("an answering disk");
                self.wait(1000, 4000);
                self.say(&format!("the disk of {} answers again", Cluster::id(victim)));
                drop(frozen);
            }
            _ => self.harm_network(fault, cluster),
        }
    }

    fn start(&self, cluster: &mut Cluster, member: usize) {
        self.say(&format!("{} is started", Cluster::id(member)));
        cluster.launch_again(member);
    }

    fn jump(&mut self, victim: usize, environment: &Environment) {
        let seconds = if self.random.below(2) == 0 { JUMP_SECONDS } else { -JUMP_SECONDS };
        self.say(&format!("the clock of {} jumps by {seconds} s", Cluster::id(victim)));
        environment.clocks[victim].set(seconds);
        self.wait(1000, 3000);
        self.say(&format!("the clock of {} is right again", Cluster::id(victim)));
        environment.clocks[victim].set(0);
    }

    fn harm_network(&mut self, fault: Fault, cluster: &Cluster) {
        let Some(network) = cluster.network() else { return };
        let mut voters: Vec<_> = (0..self.voters).collect();
        for place in (1..voters.len()).rev() {
            voters.swap(place, self.random.index(place + 1));
        }
        let leader = cluster.leader().unwrap_or(voters[0]);
        let name = Cluster::id(leader);
        match fault {
            Fault::Partition => {
                let minority = &voters[..self.voters / 2];
                self.say(&format!("the members {minority:?} (from 0) are cut off"));
                network.isolate(minority);
            }
            Fault::LeaderIsolated => {
                self.say(&format!("{name}, the leader, is cut off"));
                network.isolate(&[leader]);
            }
            Fault::LeaderMute => {
                self.say(&format!("{name}, the leader, is not heard"));
                for other in (0..network.members()).filter(|other| *other != leader) {
                    network.set(leader, other, Link::CUT);
                }
            }
            Fault::Bridge => {
                let (one, other) = (voters[0], voters[1]);
                let names = (Cluster::id(one), Cluster::id(other));
                self.say(&format!("{} and {} do not hear each other", names.0, names.1));
                network.set_both(one, other, Link::CUT);
            }
            Fault::SlowLinks => {
                self.say("all links are slow");
                network.set_all(Link {
                    delay: Duration::from_millis(20),
                    jitter: Duration::from_millis(20),
                    bytes_per_second: 2_000_000,
                    ..Link::default()
                });
            }
            _ => {
                self.say("all links lose packets");
                network.set_all(Link { loss_permille: 200, ..Link::default() });
            }
        }
        self.wait(1000, 5000);
        self.say("the links are whole again");
        network.heal();
    }
}
