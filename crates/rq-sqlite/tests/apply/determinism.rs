//! Engines that are fed equal entries hold equal images, whatever else happens to them.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rq_sql::{Column, End, ResultSink, SinkError, Statement, ValueRef};
use rq_sqlite::{
    Applied, ApplyError, FaultDisk, FaultHook, FileOperation, Options, Query, ResultLimits,
    Verdict, WriterOptions,
};

use crate::{
    harness::{Engine, Item, UNLIMITED, Work, execute, transaction},
    hostile::{self, Dice},
};

/// Images are compared after as many entries.
const IMAGE_EVERY: u64 = 50;

/// Entries of one run; with `RQ_SOAK` many times as many. A multiple of [`IMAGE_EVERY`].
const ENTRIES: u64 = 400;

/// A disk that now and then fails an operation: a failure of the node, so the entry is tried again.
struct Unreliable {
    dice: AtomicU64,
    one_in: u64,
    /// How often it may still fail, so that an entry of many writes gets through at last.
    patience: AtomicU64,
}

impl FaultHook for Unreliable {
    fn before(&self, _: &FileOperation<'_>) -> Verdict {
        let mut dice = Dice::new(self.dice.load(Ordering::Relaxed));
        self.dice.store(dice.next(), Ordering::Relaxed);
        let verdict = match dice.below(self.one_in) {
            0 => Verdict::DiskFull,
            1 => Verdict::Fail,
            _ => return Verdict::Proceed,
        };
        let left = self.patience.load(Ordering::Relaxed);
        self.patience.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 { Verdict::Proceed } else { verdict }
    }
}

/// Where the machine's time zone and clock may show: processes of their own with other ones.
#[test]
fn processes_in_other_time_zones_and_at_other_times_hold_equal_images() {
    /// Set for such a process: it prints its image's checksum.
    const CHILD: &str = "RQ_PRINT_IMAGE";
    if env::var_os(CHILD).is_some() {
        let mut run = Run::new(1);
        run.feed(IMAGE_EVERY * 3);
        println!("image {:032x}", run.lasting.image().checksum());
        return;
    }
    let child = |zone: &str| {
        let name =
            "determinism::processes_in_other_time_zones_and_at_other_times_hold_equal_images";
        let output = std::process::Command::new(env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .env("TZ", zone)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.split_once("image "));
        line.unwrap_or_else(|| panic!("no image in {text}")).1.to_owned()
    };
    let images: Vec<String> =
        ["UTC", "Asia/Kathmandu", "<-13:45>13:45"].into_iter().map(child).collect();
    assert!(images.iter().all(|image| *image == images[0]), "{images:?}");
}

#[test]
fn hostile_entries_leave_equal_images() {
    let soak = env::var_os("RQ_SOAK").is_some();
    let first = env::var("RQ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let (seeds, entries) = if soak { (20, ENTRIES * 10) } else { (2, ENTRIES) };
    for seed in first..first + seeds {
        println!("seed {seed}");
        Run::new(seed).run(entries);
    }
}

struct Run {
    dice: Dice,
    /// Lives through everything.
    lasting: Engine,
    /// Closed, opened and checkpointed at random; results limited, hardly a statement cached. Most entries it tries
    /// first with fewer steps than they may need.
    restless: Engine,
    /// How often that was enough, and how often it was not.
    tries: [u64; 2],
    /// On a disk that fails, and nobody wants its results.
    unlucky: Engine,
    unlucky_options: Options,
    disk: Arc<Unreliable>,
    /// What the disk's failures looked like.
    failures: Vec<String>,
    /// A read of the restless engine under way.
    reading: Option<std::thread::JoinHandle<()>>,
}

/// Takes results and forgets them.
struct Nobody;

impl ResultSink for Nobody {
    fn columns(&mut self, _columns: &[Column]) {}

    fn row(&mut self, _row: &[ValueRef<'_>]) -> Result<(), SinkError> {
        Ok(())
    }

    fn end(&mut self, _end: End, _elapsed: std::time::Duration) {}

    fn reset(&mut self) {}
}

impl Run {
    fn new(seed: u64) -> Self {
        let small = WriterOptions {
            results: ResultLimits { rows: 100_000, bytes: 100_000_000 },
            cached_statements: 2,
        };
        let mut unlucky = Engine::with(small);
        let disk = Arc::new(Unreliable {
            dice: AtomicU64::new(seed),
            one_in: 800,
            patience: AtomicU64::new(0),
        });
        let hook: Arc<dyn FaultHook> = Arc::<Unreliable>::clone(&disk);
        let unlucky_options =
            Options { faults: Some(FaultDisk::new(hook)), ..unlucky.database_options() };
        let schema = Item::new(Work::Batch(vec![execute(hostile::SCHEMA)]));
        let (mut lasting, mut restless) = (Engine::new(), Engine::with(small));
        for engine in [&mut lasting, &mut restless, &mut unlucky] {
            engine.apply(&schema);
        }
        let dice = Dice::new(seed);
        Self {
            dice,
            lasting,
            restless,
            tries: [0; 2],
            unlucky,
            unlucky_options,
            disk,
            failures: Vec::new(),
            reading: None,
        }
    }

    fn run(mut self, entries: u64) {
        // To find the entry that makes the difference: compare after each one from here on.
        let closely: Option<u64> =
            env::var("RQ_COMPARE_FROM").ok().and_then(|from| from.parse().ok());
        self.feed_and(entries, |run, number, item| {
            if number % IMAGE_EVERY == 0 || closely.is_some_and(|from| number >= from) {
                run.compare(number, item);
            }
        });
        assert!(!self.failures.is_empty(), "the disk never failed");
        assert!(
            self.tries.iter().all(|count| *count > 0),
            "tried in vain or not: {:?}",
            self.tries
        );
    }

    fn feed(&mut self, entries: u64) {
        self.feed_and(entries, |_, _, _| {});
    }

    /// Feeds entries to all engines, and does something after each.
    fn feed_and(&mut self, entries: u64, mut after: impl FnMut(&mut Self, u64, &Item)) {
        for number in 1..=entries {
            let item = hostile::item(&mut self.dice);
            self.disturb();
            let applied = without_times(self.lasting.apply(&item));
            let again = without_times(self.apply_restlessly(&item));
            assert_eq!(applied, again, "results of entry {number} differ: {item:?}");
            self.try_until_it_works(&item);
            if number == IMAGE_EVERY {
                while self.unlucky.try_reopen_with(&self.unlucky_options).is_err() {}
            }
            after(self, number, &item);
        }
        self.stop_reading();
    }

    fn disturb(&mut self) {
        if self.dice.chance(10) {
            self.stop_reading();
            self.restless.reopen();
        }
        if self.dice.chance(20) {
            self.read_for_a_while();
        }
        if self.dice.chance(10) {
            self.restless.checkpoint();
        }
        if self.dice.chance(5) {
            self.lasting.checkpoint();
        }
        if self.dice.chance(10)
            && let Err(error) = self.unlucky.try_checkpoint()
        {
            self.failures.push(error.to_string());
        }
    }

    fn apply_restlessly(&mut self, item: &Item) -> Applied {
        if self.dice.chance(80) {
            let steps = self.dice.below(4) * 1000;
            let applied = self.restless.apply_within(item, steps);
            self.tries[usize::from(applied.is_none())] += 1;
            if let Some(applied) = applied {
                return applied;
            }
        }
        self.restless.apply(item)
    }

    /// The unlucky engine is opened on a sound disk and then meets a bad one. After a failure it
    /// tries again as it is, or is opened anew.
    fn try_until_it_works(&mut self, item: &Item) {
        self.disk.patience.store(4, Ordering::Relaxed);
        loop {
            match self.unlucky.try_apply(item, false) {
                Ok(_) => return,
                Err(ApplyError::Local(error)) => self.failures.push(error.to_string()),
                Err(ApplyError::Fatal(reason)) => panic!("{reason}: {item:?}"),
            }
            if self.dice.chance(30) {
                while let Err(error) = self.unlucky.try_reopen_with(&self.unlucky_options) {
                    self.failures.push(error.to_string());
                }
            }
        }
    }

    /// Keeps a read transaction of the restless engine open beside what is applied.
    fn read_for_a_while(&mut self) {
        const SLOW: &str = "SELECT count(*) FROM sqlite_schema, (WITH RECURSIVE n (i) AS \
            (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) SELECT i FROM n)";
        self.stop_reading();
        let readers = self.restless.parts().readers.clone();
        self.reading = Some(std::thread::spawn(move || {
            let statements = [Statement::new("SELECT * FROM sqlite_schema"), Statement::new(SLOW)];
            let query = Query { statements: &statements, transaction: true, ..Query::default() };
            // What it reads does not matter, nor whether it succeeds.
            drop(readers.query(&query, &mut Nobody));
        }));
    }

    fn stop_reading(&mut self) {
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
    }

    fn compare(&mut self, number: u64, item: &Item) {
        let image = self.lasting.image();
        for (name, engine) in [("restless", &mut self.restless), ("unlucky", &mut self.unlucky)] {
            let other = engine.image();
            assert_eq!(image.applied, other.applied);
            let differing = image.differing_pages(&other);
            assert!(
                differing.is_empty(),
                "{name}: pages {differing:?} differ after entry {number}, {item:?}; \
                 the disk's last failures: {:?}",
                &self.failures[self.failures.len().saturating_sub(6)..]
            );
        }
    }
}

fn without_times(mut applied: Applied) -> Applied {
    for request in &mut applied.requests {
        for result in &mut request.results {
            result.elapsed = std::time::Duration::ZERO;
        }
    }
    applied
}

#[test]
fn spilled_pages_of_a_rolled_back_transaction_do_not_count() {
    let (mut lasting, mut reopened) = (Engine::new(), Engine::new());
    let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 12000) \
                INSERT INTO t SELECT i, random() || printf('%.*c', 4000, 'x') FROM n";
    let items = [
        execute(&["CREATE TABLE t (a, b)", fill]),
        transaction(&[
            "DELETE FROM t",
            fill,
            "UPDATE t SET b = random() || printf('%.*c', 3000, 'y')",
            "gibberish",
        ]),
        execute(&["DELETE FROM t WHERE a % 2", "INSERT INTO t VALUES (1, zeroblob(100000))"]),
    ];
    for request in items {
        let item = Item { settings: UNLIMITED, ..Item::requests(vec![request]) };
        lasting.apply(&item);
        reopened.reopen();
        reopened.apply(&item);
        assert!(lasting.image().differing_pages(&reopened.image()).is_empty());
    }
}
