//! Clients of a cluster and what they were told: writes that know what they leave behind, reads that know what they must
//! see.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use rq_sql::{Statement, Value};
use tokio::task::JoinHandle;

use super::{
    super::workload::{Fate, Workload},
    air::Host,
    trace::Trace,
};
use crate::{
    Error, Level, Node, Read, Route, Write, Written, environment::Seeded, progress::lock,
    read::Collected,
};

/// The nodes clients may turn to, by name.
pub(super) type Directory = Arc<Mutex<Vec<(Node, Arc<Host>)>>>;

/// What clients did and saw.
#[derive(Debug)]
pub(super) struct Ledger {
    workload: Workload,
    /// Keys a linearizable read that begins now must see: acknowledged, or seen by one that has ended.
    visible: BTreeSet<i64>,
    /// Keys of which a client was told that they are not there.
    refused: BTreeSet<i64>,
    /// Keys any read has seen: whatever a node has applied is committed.
    seen: BTreeSet<i64>,
    /// Whether clients are to come to an end.
    resting: bool,
    pub(super) tally: Tally,
}

/// How requests ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    pub(super) reads: u64,
    pub(super) linearizable: u64,
}

/// The ledger of a run; clones are the same.
pub(super) type Shared = Arc<Mutex<Ledger>>;

impl Ledger {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            workload: Workload::new(seed),
            visible: BTreeSet::new(),
            refused: BTreeSet::new(),
            seen: BTreeSet::new(),
            resting: false,
            tally: Tally::default(),
        }
    }

    /// Lets clients come to an end, or go on.
    pub(super) fn rest(&mut self, resting: bool) {
        self.resting = resting;
    }

    fn told(&mut self, sent: super::super::workload::Sent, end: &Result<Written, Error>) {
        self.workload.learn(sent, end);
        let tracked = self.workload.tracked.last().expect("one was just learned");
        match tracked.fate {
            Fate::Done => {
                self.tally.acknowledged += 1;
                self.visible.extend(&tracked.keys);
            }
            Fate::NotDone => {
                self.tally.refused += 1;
                self.refused.extend(&tracked.keys);
                let found: Vec<_> =
                    tracked.keys.iter().filter(|key| self.seen.contains(key)).collect();
                assert!(found.is_empty(), "{found:?} were said not to be done, but seen before");
            }
            Fate::Unknown => self.tally.unknown += 1,
        }
    }

    /// Judges what a read found.
    fn judge(&mut self, found: &BTreeMap<i64, i64>, must: &BTreeSet<i64>, strict: bool, who: &str) {
        self.tally.reads += 1;
        for (key, times) in found {
            assert_eq!(*times, 1, "{who}: key {key} is there {times} times");
            assert!(!self.refused.contains(key), "{who}: key {key} was said not to be done");
        }
        self.seen.extend(found.keys());
        if strict {
            self.tally.linearizable += 1;
            let missing: Vec<_> = must.iter().filter(|key| !found.contains_key(key)).collect();
            assert!(missing.is_empty(), "{who}: does not see {missing:?}");
            self.visible.extend(found.keys());
        }
    }

    /// Compares with all that is there at the end: what was unknown must have been done as a whole or not at all.
    pub(super) fn settle(&mut self, found: &BTreeMap<i64, i64>) {
        let missing: Vec<_> = self.seen.iter().filter(|key| !found.contains_key(key)).collect();
        assert!(missing.is_empty(), "{missing:?} were seen once and are gone");
        self.workload.check(found.clone());
    }
}

/// How a request travels; who is impatient hears of a lost answer soon.
pub(super) fn route(timeout_ms: u64) -> Route {
    let timeout = Duration::from_millis(timeout_ms);
    Route { credentials: None, forward: true, timeout, retries: 0 }
}

/// One client until it is to rest: requests one after the other, each to a node by chance.
pub(super) fn start(
    ledger: &Shared,
    directory: &Directory,
    trace: &Trace,
    seed: u64,
) -> JoinHandle<()> {
    let (ledger, directory, trace) = (Arc::clone(ledger), Arc::clone(directory), trace.clone());
    let chance = Seeded::new(seed, 0);
    tokio::spawn(async move {
        while !lock(&ledger).resting {
            tokio::time::sleep(Duration::from_millis(chance.next() % 120)).await;
            let chosen = {
                let nodes = lock(&directory);
                let count = nodes.len() as u64;
                (count > 0).then(|| nodes[usize::try_from(chance.next() % count).unwrap()].clone())
            };
            let Some((node, host)) = chosen else { continue };
            let level = match chance.next() % 10 {
                0..7 => {
                    write(&ledger, &trace, &node, &host, &chance).await;
                    continue;
                }
                7 => Level::None,
                8 => Level::Linearizable,
                _ => Level::Strong,
            };
            // Judged already.
            drop(read(&ledger, &trace, &node, &host, level).await);
        }
    })
}

async fn write(ledger: &Shared, trace: &Trace, node: &Node, host: &Arc<Host>, chance: &Seeded) {
    let sent = lock(ledger).workload.request();
    let patience = [300, 2_000, 10_000, 10_000][usize::try_from(chance.next() % 4).unwrap()];
    let end = execute(node, host, sent.write.clone(), patience).await;
    trace.note(|| format!("client of {}: {}", node.id(), told(&end)));
    lock(ledger).told(sent, &end);
}

/// Has a write done in this process; who waits in vain knows nothing.
pub(super) async fn execute(
    node: &Node,
    host: &Host,
    write: Write,
    patience_ms: u64,
) -> Result<Written, Error> {
    let unknown = |why: &str| Error::OutcomeUnknown(why.to_owned());
    let route = route(patience_ms);
    let done = host.run(node.execute_routed(write, &route));
    match tokio::time::timeout(route.timeout * 3, done).await {
        Ok(Some(end)) => end,
        Ok(None) => Err(unknown("the process died")),
        Err(_) => Err(unknown("the client gave up")),
    }
}

fn told(end: &Result<Written, Error>) -> String {
    match end {
        Ok(written) => format!("done at {}", written.index),
        Err(error) => error.to_string(),
    }
}

/// Reads all keys in this process; what it finds is judged.
pub(super) async fn read(
    ledger: &Shared,
    trace: &Trace,
    node: &Node,
    host: &Arc<Host>,
    level: Level,
) -> Option<BTreeMap<i64, i64>> {
    let must = lock(ledger).visible.clone();
    let read = Read {
        statements: vec![Statement::new("SELECT key, count(*) FROM marks GROUP BY key")],
        level,
        linearizable_timeout: Duration::from_secs(10),
        ..Read::default()
    };
    let route = route(10_000);
    let asked = host.run(node.query_routed(read, Collected::default(), &route));
    let end = tokio::time::timeout(Duration::from_secs(60), asked).await;
    let strict = matches!(level, Level::Linearizable | Level::Strong);
    let who = format!("a read of level {level:?} on {}", node.id());
    match end {
        Err(_) => panic!("{who} does not end"),
        Ok(None) => None,
        Ok(Some(Err(error))) => {
            trace.note(|| format!("{who}: {error}"));
            None
        }
        Ok(Some(Ok((collected, _)))) => {
            if let Some(error) = collected.error {
                // A newcomer that has not got the first entries yet.
                assert!(!strict && error.contains("no such table"), "{who}: {error}");
                return None;
            }
            let found = pairs(&collected.values);
            trace.note(|| format!("{who}: {} keys", found.len()));
            lock(ledger).judge(&found, &must, strict, &who);
            Some(found)
        }
    }
}

fn pairs(values: &[Value]) -> BTreeMap<i64, i64> {
    let number = |value: &Value| match value {
        Value::Integer(number) => *number,
        other => panic!("{other:?} is no number"),
    };
    values.chunks(2).map(|pair| (number(&pair[0]), number(&pair[1]))).collect()
}
