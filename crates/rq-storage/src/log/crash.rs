//! Random workloads with crashes at random file operations, checked against a model.
//!
//! After each crash the log must equal the model after *some* prefix of the operations that holds
//! at least all acknowledged ones. A failing run prints its seed; run it alone with
//! `RQ_CRASH_SEED=<seed>`, and more of them with `RQ_CRASH_RUNS=<count>`.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use super::{Health, Log, Position, Record, Vote};
use crate::{
    Completion, Error, FaultFiles, LogOptions, Verdict,
    testing::{Countdown, Random, all, inline_options, open_with, record},
};

const RUNS: u64 = 700;
const CRASHES_PER_RUN: u64 = 6;
const STEPS_MAX: u64 = 60;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Record>),
    Truncate(Option<u64>),
    Purge(Position),
    Reset(Position),
    Vote(Vote),
}

/// What the log should hold.
#[derive(Clone, Default, PartialEq, Eq)]
struct Model {
    records: Vec<Record>,
    purged: Option<Position>,
    vote: Option<Vote>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let records: Vec<_> = self.records.iter().map(Record::position).collect();
        write!(formatter, "{records:?} purged {:?} vote {:?}", self.purged, self.vote)
    }
}

impl Model {
    fn of(log: &Log) -> Self {
        Self { records: all(log), purged: log.state().purged, vote: log.vote() }
    }

    fn last(&self) -> Option<Position> {
        self.records.last().map(Record::position).or(self.purged)
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(records) => self.records.extend(records.iter().cloned()),
            Step::Truncate(after) => {
                self.records.retain(|record| after.is_some_and(|after| record.index <= after));
            }
            Step::Purge(upto) => {
                self.records.retain(|record| record.index > upto.index);
                self.purged = Some(*upto);
            }
            Step::Reset(to) => {
                self.records.clear();
                self.purged = Some(*to);
            }
            Step::Vote(vote) => self.vote = Some(*vote),
        }
    }
}

/// Every state a crash may leave.
fn candidates(base: &Model, steps: &[Step], acknowledged: usize) -> Vec<Model> {
    let mut model = base.clone();
    for step in &steps[..acknowledged] {
        model.apply(step);
    }
    let mut states = vec![model.clone()];
    for step in &steps[acknowledged..] {
        if let Step::Append(records) = step {
            for record in records {
                model.records.push(record.clone());
                states.push(model.clone());
            }
        } else {
            model.apply(step);
            states.push(model.clone());
        }
    }
    states
}

/// One life of a log between two crashes.
struct Life<'a> {
    log: Log,
    files: &'a FaultFiles,
    base: Model,
    /// The model with all steps applied.
    now: Model,
    steps: Vec<Step>,
    acknowledged: Arc<Mutex<usize>>,
    random: &'a mut Random,
    term: u64,
}

impl Life<'_> {
    fn done(&self) -> Completion {
        let number = self.steps.len();
        let acknowledged = Arc::clone(&self.acknowledged);
        Box::new(move |result| {
            if result.is_ok() {
                let mut acknowledged = acknowledged.lock().unwrap();
                assert_eq!(*acknowledged, number, "completions come in order");
                *acknowledged += 1;
            }
        })
    }

    /// Submits one step; an error means that the log has failed.
    fn submit(&mut self, step: Step) -> Result<(), Error> {
        let done = self.done();
        self.now.apply(&step);
        self.steps.push(step.clone());
        match step {
            Step::Append(records) => self.log.append(records, done),
            Step::Truncate(after) => self.log.truncate_after(after, done),
            Step::Purge(upto) => self.log.purge(upto, done),
            Step::Reset(to) => self.log.reset_to(to, done),
            Step::Vote(vote) => self.log.save_vote(vote, done),
        }
    }

    fn random_step(&mut self) -> Step {
        let blocked = self.log.health() == Health::WaitingForSpace;
        let first = self.now.records.first().map(|record| record.index);
        match self.random.below(20) {
            0..2 if !blocked && first.is_some() => {
                self.term += 1;
                let at = self.random.below(self.now.records.len() as u64 + 1);
                let kept = usize::try_from(at).unwrap();
                let before = kept.checked_sub(1).map(|at| self.now.records[at].index);
                Step::Truncate(before.or(self.now.purged.map(|purged| purged.index)))
            }
            2..4 if !blocked && first.is_some() => {
                let at = usize::try_from(self.random.below(self.now.records.len() as u64)).unwrap();
                Step::Purge(self.now.records[at].position())
            }
            4 if !blocked => {
                let index = self.now.last().map_or(0, |last| last.index) + self.random.below(9);
                Step::Reset(Position { term: self.term, index })
            }
            5..7 => {
                self.term += 1;
                let node_id = self.random.next();
                Step::Vote(Vote {
                    term: self.term,
                    node_id,
                    committed: self.term.is_multiple_of(2),
                })
            }
            _ => self.random_append(),
        }
    }

    fn random_append(&mut self) -> Step {
        let start = match self.now.last() {
            Some(last) => last.index + 1,
            None => self.random.below(3),
        };
        let count = 1 + self.random.below(5);
        let records = (start..start + count)
            .map(|index| {
                let bytes = match self.random.below(30) {
                    0 => 9000,
                    1..5 => 1500,
                    _ => self.random.below(200),
                };
                record(index, self.term, usize::try_from(bytes).unwrap())
            })
            .collect();
        Step::Append(records)
    }

    /// Several steps that reach the flusher together: they are queued while it is busy with a
    /// first one, from that one's completion.
    fn burst(&mut self) -> Result<(), Error> {
        let number = self.steps.len();
        let first = Step::Vote(Vote { term: self.term, node_id: 7, committed: false });
        self.now.apply(&first);
        self.steps.push(first);
        let mut appends = Vec::new();
        for _ in 0..1 + self.random.below(5) {
            let step = self.random_append();
            let Step::Append(records) = &step else { unreachable!("it is an append") };
            appends.push((records.clone(), self.done()));
            self.now.apply(&step);
            self.steps.push(step);
        }
        let (log, acknowledged) = (self.log.clone(), Arc::clone(&self.acknowledged));
        let done: Completion = Box::new(move |result| {
            if result.is_ok() {
                let before = std::mem::replace(&mut *acknowledged.lock().unwrap(), number + 1);
                assert_eq!(before, number, "completions come in order");
                for (records, done) in appends {
                    log.append(records, done).unwrap();
                }
            }
        });
        self.log.save_vote(Vote { term: self.term, node_id: 7, committed: false }, done)
    }

    /// Works until the log fails or enough was done.
    fn work(&mut self) {
        for _ in 0..STEPS_MAX {
            let result = match self.random.below(12) {
                0 => self.burst(),
                1 => {
                    self.log.poll();
                    match self.now.last() {
                        Some(last) => self.log.save_committed(last),
                        None => Ok(()),
                    }
                }
                _ => {
                    let step = self.random_step();
                    self.submit(step)
                }
            };
            if result.is_err() || self.log.health() == Health::Failed {
                return;
            }
            self.check_reads();
        }
    }

    fn check_reads(&mut self) {
        if self.random.below(6) > 0 {
            return;
        }
        match self.log.read(0..u64::MAX) {
            Ok(records) => assert_eq!(records, self.now.records),
            Err(error) => assert!(self.files.has_crashed(), "{error}"),
        }
    }
}

/// Opens until it succeeds, with crashes in between.
fn open_somehow(
    files: &Arc<FaultFiles>,
    hook: &Countdown,
    directory: &Path,
    options: &LogOptions,
    random: &mut Random,
) -> Log {
    for attempt in 0.. {
        if attempt < 3 && random.below(3) == 0 {
            hook.arm(random.below(12), verdict(random));
        } else {
            hook.arm(1_000_000, Verdict::Proceed);
        }
        match open_with(files, directory, options.clone()) {
            Ok((log, _)) if !files.has_crashed() => return log,
            // It stopped while the next segment was prepared.
            Ok(_) => crash(files, random),
            Err(error) => {
                assert!(!error.is_corruption(), "a crash is not damage: {error}");
                assert!(attempt < 3, "nothing stands in the way of opening: {error}");
                crash(files, random);
            }
        }
    }
    unreachable!("the fourth attempt is undisturbed")
}

fn verdict(random: &mut Random) -> Verdict {
    match random.below(6) {
        0 => Verdict::Torn(random.below(3000)),
        1 => Verdict::Fail(io::ErrorKind::Other),
        2 => Verdict::Fail(io::ErrorKind::StorageFull),
        _ => Verdict::Crash,
    }
}

fn crash(files: &FaultFiles, random: &mut Random) {
    files.crash();
    if random.below(4) == 0 {
        files.restart();
    } else {
        files.lose_unsynced(&mut || random.next()).unwrap();
    }
}

fn run(seed: u64) {
    let mut random = Random::new(seed);
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("raft");
    let hook = Countdown::never();
    let files = Arc::new(FaultFiles::new(Arc::clone(&hook) as _));
    let mut options = inline_options(seed);
    options.cache_bytes = [0, 3000, 1 << 20][usize::try_from(random.below(3)).unwrap()];
    let mut allowed = vec![Model::default()];
    let mut term = 1;
    for _ in 0..CRASHES_PER_RUN {
        let log = open_somehow(&files, &hook, &directory, &options, &mut random);
        hook.arm(random.below(150), verdict(&mut random));
        // A crash while reading is not possible, so this is what the disk and the log agree on.
        let base = Model::of(&log);
        assert!(allowed.contains(&base), "found {base:?}\nallowed {allowed:#?}");
        let acknowledged = Arc::default();
        let mut life = Life {
            now: base.clone(),
            base,
            log,
            files: &files,
            steps: Vec::new(),
            acknowledged,
            random: &mut random,
            term,
        };
        life.work();
        term = life.term + 1;
        // The crash also comes if the countdown did not, in the middle of nothing.
        files.crash();
        let acknowledged = *life.acknowledged.lock().unwrap();
        allowed = candidates(&life.base, &life.steps, acknowledged);
        drop(life);
        crash(&files, &mut random);
    }
}

#[test]
fn acknowledged_operations_survive_crashes() {
    if let Ok(seed) = std::env::var("RQ_CRASH_SEED") {
        run(seed.parse().expect("RQ_CRASH_SEED is a number"));
        return;
    }
    let runs = std::env::var("RQ_CRASH_RUNS")
        .map_or(RUNS, |runs| runs.parse().expect("RQ_CRASH_RUNS is a number"));
    // Other seeds every time; a failure prints its own.
    let start = u64::from(std::process::id()) * 1_000_000;
    for seed in start..start + runs {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "failed with RQ_CRASH_SEED={seed}");
    }
}
