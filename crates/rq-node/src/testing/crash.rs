//! Crashes of a whole node at any file operation, and disks that fill, fail and recover (P1, P2, P3).
//!
//! One run is a chain of lives of one data directory. In each, a simulated node opens, everything its clients
//! were ever told is checked, and a random workload goes on until something happens at the Nth
//! operation on either disk: the world stops, a write is torn, an operation fails, the disk is full for a while. Then
//! the process is killed or the power cut, and the next life begins; also while the last one was still
//! recovering. After each opening:
//!
//! - every acknowledged write is there once, every unacknowledged one at most once, and no refused one;
//! - `integrity_check` says ok;
//! - the image equals that of an engine that never crashed and was given the same entries;
//! - no entry that was applied once has become another.
//!
//! `RQ_SOAK_POINTS` sets how many lives there are in all, `RQ_SOAK_SEED` the first run's seed; a failing
//! run prints its own.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use rq_sql::Value;
use rq_storage::LogOptions;
use tempfile::TempDir;

use super::{
    PATIENCE,
    history::{History, Reference},
    options, simulated_runtime, values,
    workload::Workload,
    world::{Disks, Event},
    write,
};
use crate::{Environment, Error, Level, Node, Options, Write, environment::Seeded};

/// Lives of all runs together, if nothing else is asked for.
const POINTS: u64 = 300;
/// Lives of one run, the last of which is undisturbed.
const LIVES: u64 = 8;
/// What a node does in one life at most.
const STEPS_MAX: u64 = 40;
/// A first start takes about fifty operations; this many are tried one by one.
const FIRST_OPERATIONS: u64 = 80;

#[test]
fn acknowledged_writes_survive_crashes_at_any_operation() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
    };
    let points = number("RQ_SOAK_POINTS").unwrap_or(POINTS);
    let first = number("RQ_SOAK_SEED").unwrap_or(u64::from(std::process::id()) << 20);
    let mut told = Tally::default();
    for seed in first..first + points.div_ceil(LIVES) {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let tally = outcome
            .unwrap_or_else(|_| panic!("failed: repeat with RQ_SOAK_SEED={seed} RQ_SOAK_POINTS=1"));
        told.add(&tally);
    }
    eprintln!("crash points from seed {first}: {told:?}");
    if points >= POINTS {
        told.check();
    }
}

/// What happened in runs, so that a suite that tests nothing shows.
#[derive(Debug, Default)]
struct Tally {
    lives: u64,
    stopped: u64,
    failed: u64,
    full: u64,
    /// Lives that ended before the node served.
    in_recovery: u64,
    operations: u64,
    acknowledged: u64,
    unknown: u64,
    refused: u64,
    purges: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.stopped += other.stopped;
        self.failed += other.failed;
        self.full += other.full;
        self.in_recovery += other.in_recovery;
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.purges += other.purges;
    }

    fn check(&self) {
        assert!(self.stopped * 3 > self.lives, "{self:?}");
        assert!(self.failed > 0 && self.full > 0 && self.in_recovery > 0, "{self:?}");
        assert!(self.acknowledged > self.lives && self.unknown > 0, "{self:?}");
        assert!(self.refused > 0 && self.purges > 0, "{self:?}");
    }
}

/// A directory in memory where there is one: nothing here may wait for a real disk.
pub(super) fn scratch_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn run(seed: u64) -> Tally {
    let mut story = Story::new(seed, STEPS_MAX);
    for _ in 1..LIVES {
        // As likely in the first operations as in the last.
        let after = story.below(32 << story.below(7));
        story.live(Some((after, story.event())));
    }
    story.live(None);
    story.tally
}

#[test]
fn a_first_start_survives_a_fault_at_each_of_its_operations() {
    for event in [Event::Stop, Event::Torn(100), Event::Fail, Event::Full(1)] {
        for after in 0..FIRST_OPERATIONS {
            let mut story = Story::new(after, 2);
            story.live(Some((after, event)));
            story.live(None);
            let tally = story.tally;
            assert_eq!(tally.stopped + tally.failed + tally.full, 1, "{event:?} at {after}");
        }
    }
}

/// Housekeeping on demand.
#[derive(Clone, Copy, Debug)]
enum Act {
    Vacuum,
    Snapshot,
    Checkpoint,
}

/// What becomes of the machine at the end of a life.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Kill,
    PowerCut,
}

#[test]
fn housekeeping_may_be_interrupted_at_each_of_its_operations() {
    for act in [Act::Vacuum, Act::Snapshot, Act::Checkpoint] {
        for (event, fate) in
            [(Event::Stop, Fate::Kill), (Event::Stop, Fate::PowerCut), (Event::Full(1), Fate::Kill)]
        {
            let operations = (0..).take_while(|after| interrupt(act, *after, event, fate)).count();
            assert!((3..300).contains(&operations), "{act:?} takes {operations} operations");
        }
    }
}

/// Tells whether `act` has that many operations.
fn interrupt(act: Act, after: u64, event: Event, fate: Fate) -> bool {
    let mut story = Story::new(1, 12);
    story.fate = Some(fate);
    story.live(None);
    story.act = Some((act, after, event));
    story.live(None);
    story.act = None;
    story.live(None);
    story.tally.stopped + story.tally.failed + story.tally.full > 0
}

struct Story {
    seed: u64,
    chance: Seeded,
    disks: Disks,
    history: History,
    reference: Reference,
    workload: Workload,
    tally: Tally,
    steps_max: u64,
    /// What a life ends with; otherwise by chance.
    fate: Option<Fate>,
    /// What is done and interrupted after the work of a life.
    act: Option<(Act, u64, Event)>,
    root: TempDir,
}

/// Why a life cannot go on.
#[derive(Debug)]
struct Over;

impl Story {
    fn new(seed: u64, steps_max: u64) -> Self {
        let story = Self {
            seed,
            chance: Seeded::new(seed, 0),
            disks: Disks::new(),
            history: History::default(),
            reference: Reference::new(scratch_directory()),
            workload: Workload::new(seed ^ 0x77),
            tally: Tally::default(),
            steps_max,
            fate: None,
            act: None,
            root: scratch_directory(),
        };
        story.history.listen();
        story
    }

    fn below(&self, limit: u64) -> u64 {
        self.chance.next() % limit
    }

    /// One life and its end; without a plan nothing happens to it but the end.
    fn live(&mut self, plan: Option<(u64, Event)>) {
        self.disks.world.disarm();
        if let Some((after, event)) = plan {
            self.disks.world.arm(after, event);
        }
        let environment = self.disks.environment(self.seed ^ (self.tally.lives << 48));
        let before = self.disks.world.operations();
        let runtime = simulated_runtime();
        let end = runtime.block_on(self.serve(environment));
        assert!(end.is_ok() || self.disks.world.happened().is_some(), "died of nothing");
        assert!(plan.is_some() || self.act.is_some() || end.is_ok());
        drop(runtime);
        self.history.check();
        self.tally.lives += 1;
        self.tally.operations += self.disks.world.operations() - before;
        let happened = self.disks.world.happened();
        match happened {
            Some(Event::Stop | Event::Torn(_)) => self.tally.stopped += 1,
            Some(Event::Fail) => self.tally.failed += 1,
            Some(Event::Full(_)) => self.tally.full += 1,
            None => {}
        }
        let torn = matches!(happened, Some(Event::Torn(_)));
        let by_chance = if torn || self.below(3) > 0 { Fate::PowerCut } else { Fate::Kill };
        match self.fate.unwrap_or(by_chance) {
            Fate::PowerCut => self.disks.cut_power(&self.chance),
            Fate::Kill => self.disks.restart_process(),
        }
    }

    fn event(&self) -> Event {
        match self.below(10) {
            0..4 => Event::Stop,
            4..6 => Event::Torn(u16::try_from(self.below(5000)).unwrap()),
            6..8 => Event::Fail,
            _ => Event::Full(1 + self.below(60)),
        }
    }

    /// Opens, checks, works. When this returns, nothing more reaches the disks.
    async fn serve(&mut self, environment: Environment) -> Result<(), Over> {
        let opened = Node::open_alone(self.options(), environment).await;
        let node = match opened {
            Ok(node) => node,
            Err(error) => {
                assert!(self.disks.world.happened().is_some(), "must start unaided: {error}");
                self.tally.in_recovery += 1;
                self.disks.stop();
                return Err(Over);
            }
        };
        let mut end = self.wait_ready(&node).await;
        if end.is_err() {
            self.tally.in_recovery += 1;
        } else {
            end = self.check(&node).await;
        }
        if end.is_ok() {
            end = self.work(&node).await;
        }
        if let Some((act, after, event)) = self.act
            && end.is_ok()
        {
            self.disks.world.arm(after, event);
            self.perform(act, &node).await;
            end = self.alive(&node);
        }
        if end.is_ok() && self.below(4) == 0 {
            let closed = tokio::time::timeout(PATIENCE, node.shutdown()).await;
            assert!(closed.is_ok(), "closing hangs");
        }
        self.disks.stop();
        end
    }

    fn options(&self) -> Options {
        let mut options = options(&self.root.path().join("data"));
        options.log = LogOptions { segment_bytes: 12 << 10, cache_bytes: 4 << 10, ..options.log };
        options
    }

    async fn wait_ready(&self, node: &Node) -> Result<(), Over> {
        let waiting = async {
            while !node.is_ready() {
                self.alive(node)?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        let ready = tokio::time::timeout(PATIENCE, waiting).await;
        ready.expect("a node becomes ready or stops")
    }

    /// Whether the node can go on.
    fn alive(&self, node: &Node) -> Result<(), Over> {
        let stopped = node.inner().progress.stopped();
        if self.disks.world.has_stopped() {
            return Err(Over);
        }
        match stopped {
            Some(reason) => {
                assert!(self.disks.world.happened().is_some(), "stopped by itself: {reason}");
                Err(Over)
            }
            None => Ok(()),
        }
    }

    /// Everything that must hold when a node serves.
    async fn check(&mut self, node: &Node) -> Result<(), Over> {
        let level = [Level::None, Level::Weak, Level::Linearizable, Level::Strong]
            [usize::try_from(self.below(4)).unwrap()];
        let found = match self
            .read(node, "SELECT name FROM sqlite_schema WHERE name = 'marks'", level)
            .await?
        {
            tables if tables.is_empty() => Vec::new(),
            _ => {
                self.read(node, "SELECT key, count(*) FROM marks GROUP BY key", Level::None).await?
            }
        };
        let numbers: Vec<i64> = found
            .iter()
            .map(|value| match value {
                Value::Integer(number) => *number,
                other => panic!("{other:?} is no number"),
            })
            .collect();
        let found: BTreeMap<i64, i64> = numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        self.workload.check(found);
        let integrity = self.read(node, "PRAGMA integrity_check", Level::None).await?;
        assert_eq!(integrity, [Value::Text(b"ok".to_vec())]);
        let image = node.inner().machinery.durability.with_checkpointer(|c| c.image());
        let image = image.expect("it is open").unwrap();
        // A new node is ready before its first entry is applied.
        let Some(applied) = image.applied else { return Ok(()) };
        assert_eq!(applied, node.inner().progress.applied());
        let expected = self.reference.image_at(&self.history, applied.index);
        assert_eq!(image.differing_pages(&expected), Vec::<usize>::new(), "at {applied:?}");
        Ok(())
    }

    async fn read(&self, node: &Node, sql: &str, level: Level) -> Result<Vec<Value>, Over> {
        let end = tokio::time::timeout(PATIENCE, values(node, sql, level)).await;
        match end.expect("a read ends") {
            Ok(values) => Ok(values),
            Err(error) => {
                assert!(self.disks.world.happened().is_some(), "{sql}: {error}");
                Err(Over)
            }
        }
    }

    async fn work(&mut self, node: &Node) -> Result<(), Over> {
        self.write(node, Workload::tables()).await;
        for _ in 0..self.below(self.steps_max) {
            self.alive(node)?;
            match self.below(16) {
                0 => self.write(node, self.workload.maintenance()).await,
                1..3 => checkpoint(node, self.below(100_000)),
                3..5 => self.snapshot(node, self.below(20)).await,
                5 => tokio::time::sleep(Duration::from_millis(self.below(2000))).await,
                6 => self.squeeze(node).await,
                _ => self.requests(node).await,
            }
        }
        self.alive(node)
    }

    async fn perform(&mut self, act: Act, node: &Node) {
        match act {
            Act::Vacuum => self.write(node, write(&["VACUUM"])).await,
            Act::Snapshot => {
                self.snapshot(node, 2).await;
                // The purge goes on behind the answer.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Act::Checkpoint => checkpoint(node, 0),
        }
    }

    /// A write that adds no keys.
    async fn write(&self, node: &Node, write: Write) {
        let end = tokio::time::timeout(PATIENCE, node.execute(write)).await;
        if let Err(error) = end.expect("a write ends") {
            self.explained(&error);
        }
    }

    /// Requests at the same time, so that they share entries.
    async fn requests(&mut self, node: &Node) {
        let count = 1 + self.below(10);
        let sent: Vec<_> = (0..count).map(|_| self.workload.request()).collect();
        let ends = join_all(sent.iter().map(|sent| node.execute(sent.write.clone())));
        let ends = tokio::time::timeout(PATIENCE, ends).await.expect("a write ends");
        for (sent, end) in sent.into_iter().zip(ends) {
            match &end {
                Ok(_) => self.tally.acknowledged += 1,
                Err(Error::OutcomeUnknown(_)) => self.tally.unknown += 1,
                Err(_) => self.tally.refused += 1,
            }
            if let Err(error) = &end {
                self.explained(error);
            }
            self.workload.learn(sent, &end);
        }
    }

    /// A node on a healthy disk fails nobody.
    fn explained(&self, error: &Error) {
        assert!(self.disks.world.happened().is_some(), "{error}");
    }

    async fn snapshot(&mut self, node: &Node, keep: u64) {
        let end = tokio::time::timeout(PATIENCE, node.snapshot(Some(keep))).await;
        match end.expect("a snapshot ends") {
            Ok(made) => self.tally.purges += u64::from(made),
            Err(error) => self.explained(&error),
        }
    }

    /// Too little free space: writes are refused, and taken again when there is more.
    async fn squeeze(&mut self, node: &Node) {
        self.disks.files.set_free_space(Some(0));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let sent = self.workload.request();
        let end = node.execute(sent.write.clone()).await;
        assert!(end.is_err(), "no space is left");
        self.tally.refused += 1;
        self.workload.learn(sent, &end);
        self.disks.files.set_free_space(None);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn checkpoint(node: &Node, due: u64) {
    node.inner().machinery.checkpoint_if_due(u64::MAX, due);
}
