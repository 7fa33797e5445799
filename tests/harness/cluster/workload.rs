//! What clients do to a cluster while it is harmed, recorded so that it can be checked afterwards.
//!
//! A workload is shared by all its clients. It sends each request once; what it does not know it
//! records as unknown. An error that does not tell its outcome is a failure of the test at once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Caller, Fate};
use crate::{
    Random, Request,
    linearizability::{
        Bank, BankCall, BankSeen, Clock, History, List, ListCall, ListSeen, Register, RegisterCall,
        RegisterSeen, Transfer, Verdict, search, search_by_key,
    },
};

/// How long a client waits after a request that was refused, so that a cluster without a leader is
/// not flooded.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(20);

/// What clients do.
pub trait Workload: Sync {
    /// Creates what it works on, through a node that can write.
    fn prepare(&self, caller: &mut Caller);

    /// Sends one request, and tells whether it was done.
    fn step(&self, caller: &mut Caller, client: u64, random: &mut Random) -> bool;

    /// Reads everything once more, at the workload's level, into the history.
    fn read_all(&self, caller: &mut Caller);

    /// Whether everything seen can be explained.
    fn verdict(&self) -> Verdict;

    /// Counts of what clients saw, for people.
    fn summary(&self) -> String;

    /// What each client got done.
    fn done(&self) -> BTreeMap<u64, Done>;
}

/// What a client got done: requests that were answered, and not with an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Makes sure that each of the clients got at least so much done: where nothing happens, nothing can contradict itself.
pub fn assert_busy(workload: &dyn Workload, clients: usize, least: Done) {
    let done = workload.done();
    let clients = 0..clients as u64;
    println!("{:?}", done.range(clients.clone()));
    for client in clients {
        let Done { reads, writes } = done.get(&client).copied().unwrap_or_default();
        assert!(
            reads >= least.reads && writes >= least.writes,
            "client {client} read {reads} times and wrote {writes} times, at least {least:?} was expected; {}",
            workload.summary()
        );
    }
}

/// Runs clients of a workload until `ended`: client `i` begins with node `i` of the list.
pub fn run(
    workload: &dyn Workload,
    addresses: &[String],
    clients: usize,
    answer_time: Duration,
    seed: u64,
    ended: &AtomicBool,
) {
    thread::scope(|scope| {
        for number in 0..clients {
            let mut caller = Caller::new(addresses.to_vec(), number, answer_time);
            let mut random = Random::new(seed.wrapping_add(number as u64));
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    if workload.step(&mut caller, number as u64, &mut random) {
                        thread::sleep(Duration::from_micros(random.below(4000)));
                    } else {
                        thread::sleep(PAUSE_AFTER_REFUSAL);
                    }
                }
            });
        }
    });
}

/// Tells clients to end when it is dropped, so that a test that fails does not wait for them for ever.
#[derive(Debug)]
pub struct EndsClients<'a>(pub &'a AtomicBool);

impl Drop for EndsClients<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How requests ended.
#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    refusals: Mutex<HashMap<String, u64>>,
    by_client: Mutex<BTreeMap<u64, Done>>,
}

impl Counts {
    /// Notes what a client got done.
    fn note(&self, client: u64, is_read: bool) {
        let mut by_client = self.by_client.lock().expect("no client panics while it counts");
        let Done { reads, writes } = by_client.entry(client).or_default();
        *(if is_read { reads } else { writes }) += 1;
    }

    fn by_client(&self) -> BTreeMap<u64, Done> {
        self.by_client.lock().expect("no client panics while it counts").clone()
    }

    /// The answer if the request was done; `Ok(None)` for an unknown outcome, `Err` with what was
    /// said if nothing was done.
    fn sort(&self, fate: Fate) -> Result<Option<Value>, String> {
        let (counter, text, sorted) = match fate {
            Fate::Done(answer) => (&self.done, None, Ok(Some(answer.json()))),
            Fate::NotDone(text) => (&self.refused, Some(text.clone()), Err(text)),
            Fate::Unknown(text) => {
                assert!(!text.starts_with("unexplained"), "{text}");
                (&self.unknown, Some(text), Ok(None))
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(text) = text {
            let mut refusals = self.refusals.lock().expect("no client panics while it counts");
            *refusals.entry(text).or_default() += 1;
        }
        sorted
    }

    fn summary(&self) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refusals = self.refusals.lock().expect("no client panics while it counts");
        let mut refusals: Vec<_> = refusals.iter().collect();
        refusals.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let shown: Vec<_> =
            refusals.iter().take(6).map(|(text, count)| format!("{count} × {text}")).collect();
        format!(
            "{} done, {} not done, {} unknown; {}",
            count(&self.done),
            count(&self.refused),
            count(&self.unknown),
            shown.join("; ")
        )
    }
}

/// The first value of the first row of an answer.
fn value(answer: &Value) -> Option<u64> {
    answer["results"][0]["values"][0][0].as_u64()
}

fn query(level: &str, statement: &Value) -> Request {
    Request::post(&format!("/db/query?level={level}"), json!([statement]).to_string())
}

fn execute(statement: &Value) -> Request {
    Request::post("/db/execute", json!([statement]).to_string())
}

/// Sends requests that must be done, such as those that create tables.
fn must(caller: &mut Caller, requests: &[Request]) {
    for request in requests {
        match caller.call(request) {
            Fate::Done(_) => {}
            fate => panic!("{}: {fate:?}", String::from_utf8_lossy(&request.body)),
        }
    }
}

/// Repeats a read until it is answered.
fn until_done(mut read: impl FnMut() -> bool) {
    for _ in 0..500 {
        if read() {
            return;
        }
        thread::sleep(PAUSE_AFTER_REFUSAL);
    }
    panic!("a read is not answered");
}

/// Registers: written, exchanged, read.
#[derive(Debug)]
pub struct Registers {
    level: &'static str,
    keys: u64,
    next: AtomicU64,
    history: History<(u64, RegisterCall), RegisterSeen>,
    counts: Counts,
}

impl Registers {
    /// This many registers, read at this level.
    pub fn new(level: &'static str, keys: u64) -> Self {
        Self {
            level,
            keys,
            next: AtomicU64::new(1),
            history: History::new(Clock::start()),
            counts: Counts::default(),
        }
    }

    /// Does one operation through the caller's node, and tells whether it was done.
    pub fn call(&self, caller: &mut Caller, client: u64, key: u64, call: RegisterCall) -> bool {
        let request = match call {
            RegisterCall::Read => {
                query(self.level, &json!(["SELECT v FROM registers WHERE k = ?", key]))
            }
            RegisterCall::Write(value) => {
                let sql = "INSERT INTO registers VALUES(?, ?) ON CONFLICT(k) DO UPDATE SET v = excluded.v";
                execute(&json!([sql, key, value]))
            }
            RegisterCall::Exchange(old, new) => {
                execute(&json!(["UPDATE registers SET v = ? WHERE k = ? AND v = ?", new, key, old]))
            }
        };
        let mut done = false;
        let recorded = self.history.record(client, (key, call), |_| {
            let answer = self.counts.sort(caller.call(&request))?;
            done = answer.is_some();
            Ok::<_, String>(answer.map(|answer| match call {
                RegisterCall::Read => RegisterSeen::Value(value(&answer)),
                RegisterCall::Write(_) => RegisterSeen::Written,
                RegisterCall::Exchange(..) => {
                    RegisterSeen::Exchanged(answer["results"][0]["rows_affected"] == 1)
                }
            }))
        });
        let done = recorded.is_ok() && done;
        if done {
            self.counts.note(client, matches!(call, RegisterCall::Read));
        }
        done
    }

    /// A value that was never written.
    pub fn new_value(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl Workload for Registers {
    fn prepare(&self, caller: &mut Caller) {
        let create = json!(["CREATE TABLE registers(k INTEGER PRIMARY KEY, v INTEGER)"]);
        must(caller, &[execute(&create)]);
    }

    fn step(&self, caller: &mut Caller, client: u64, random: &mut Random) -> bool {
        let key = random.below(self.keys);
        let call = match random.below(4) {
            0 => RegisterCall::Write(self.new_value()),
            1 => {
                let new = self.new_value();
                // Recent values are the ones that may still be there.
                RegisterCall::Exchange(new.saturating_sub(1 + random.below(4 * self.keys)), new)
            }
            _ => RegisterCall::Read,
        };
        self.call(caller, client, key, call)
    }

    fn read_all(&self, caller: &mut Caller) {
        for key in 0..self.keys {
            until_done(|| self.call(caller, u64::MAX, key, RegisterCall::Read));
        }
    }

    fn verdict(&self) -> Verdict {
        let keyed: Vec<_> = self
            .history
            .operations()
            .into_iter()
            .map(|operation| operation.split(|(key, call)| (key, call)))
            .collect();
        search_by_key(|_| Register, &keyed)
    }

    fn summary(&self) -> String {
        format!("registers, level {}: {}", self.level, self.counts.summary())
    }

    fn done(&self) -> BTreeMap<u64, Done> {
        self.counts.by_client()
    }
}

/// Lists that grow and are read as a whole.
#[derive(Debug)]
pub struct Lists {
    level: &'static str,
    keys: u64,
    next: AtomicU64,
    history: History<(u64, ListCall), ListSeen>,
    counts: Counts,
}

impl Lists {
    /// This many lists, read at this level.
    pub fn new(level: &'static str, keys: u64) -> Self {
        Self {
            level,
            keys,
            next: AtomicU64::new(1),
            history: History::new(Clock::start()),
            counts: Counts::default(),
        }
    }

    fn call(&self, caller: &mut Caller, client: u64, key: u64, call: ListCall) -> bool {
        let request = match call {
            ListCall::Read => query(self.level, &json!(["SELECT v FROM lists WHERE k = ?", key])),
            ListCall::Append(element) => {
                let sql = "UPDATE lists SET v = v || ? WHERE k = ?";
                execute(&json!([sql, format!("{element} "), key]))
            }
        };
        let mut done = false;
        let recorded = self.history.record(client, (key, call), |_| {
            let answer = self.counts.sort(caller.call(&request))?;
            done = answer.is_some();
            Ok::<_, String>(answer.map(|answer| match call {
                ListCall::Read => ListSeen::Elements(elements(&answer)),
                ListCall::Append(_) => ListSeen::Appended,
            }))
        });
        let done = recorded.is_ok() && done;
        if done {
            self.counts.note(client, matches!(call, ListCall::Read));
        }
        done
    }
}

/// The numbers in the text an answer holds. A list that is not there yet is empty.
fn elements(answer: &Value) -> Vec<u64> {
    let text = answer["results"][0]["values"][0][0].as_str().unwrap_or_default();
    text.split_whitespace().map(|word| word.parse().expect("numbers were appended")).collect()
}

impl Workload for Lists {
    fn prepare(&self, caller: &mut Caller) {
        let create = json!(["CREATE TABLE lists(k INTEGER PRIMARY KEY, v TEXT NOT NULL)"]);
        let fill = "WITH RECURSIVE n(k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM n WHERE k + 1 < ?) \
                    INSERT INTO lists SELECT k, '' FROM n";
        must(caller, &[execute(&create), execute(&json!([fill, self.keys]))]);
    }

    fn step(&self, caller: &mut Caller, client: u64, random: &mut Random) -> bool {
        let key = random.below(self.keys);
        let call = match random.below(2) {
            0 => ListCall::Append(self.next.fetch_add(1, Ordering::Relaxed)),
            _ => ListCall::Read,
        };
        self.call(caller, client, key, call)
    }

    fn read_all(&self, caller: &mut Caller) {
        for key in 0..self.keys {
            until_done(|| self.call(caller, u64::MAX, key, ListCall::Read));
        }
    }

    fn verdict(&self) -> Verdict {
        let keyed: Vec<_> = self
            .history
            .operations()
            .into_iter()
            .map(|operation| operation.split(|(key, call)| (key, call)))
            .collect();
        search_by_key(List::of, &keyed)
    }

    fn summary(&self) -> String {
        format!("lists, level {}: {}", self.level, self.counts.summary())
    }

    fn done(&self) -> BTreeMap<u64, Done> {
        self.counts.by_client()
    }
}

/// Accounts between which money is moved, in a transaction of two statements.
#[derive(Debug)]
pub struct Accounts {
    level: &'static str,
    bank: Bank,
    history: History<BankCall, BankSeen>,
    counts: Counts,
}

impl Accounts {
    /// This many accounts, read at this level.
    pub fn new(level: &'static str, accounts: usize) -> Self {
        Self {
            level,
            bank: Bank { accounts: vec![50; accounts] },
            history: History::new(Clock::start()),
            counts: Counts::default(),
        }
    }

    fn call(&self, caller: &mut Caller, client: u64, call: BankCall) -> bool {
        let request = match call {
            None => query(self.level, &json!(["SELECT balance FROM accounts ORDER BY id"])),
            Some(Transfer { from, to, amount }) => {
                let give =
                    json!(["UPDATE accounts SET balance = balance + ? WHERE id = ?", amount, to]);
                let take =
                    json!(["UPDATE accounts SET balance = balance - ? WHERE id = ?", amount, from]);
                Request::post("/db/execute?transaction", json!([give, take]).to_string())
            }
        };
        let mut done = false;
        let recorded = self.history.record(client, call, |_| {
            let fate = caller.call(&request);
            // That is an answer to a transfer like any other: the account holds too little.
            if let Fate::NotDone(text) = &fate
                && text.contains("CHECK constraint failed")
            {
                done = true;
                return Ok(Some(BankSeen::Moved(false)));
            }
            let answer = self.counts.sort(fate)?;
            done = answer.is_some();
            Ok::<_, String>(answer.map(|answer| match call {
                None => BankSeen::Balances(balances(&answer)),
                Some(_) => BankSeen::Moved(true),
            }))
        });
        let done = recorded.is_ok() && done;
        if done {
            self.counts.note(client, call.is_none());
        }
        done
    }
}

fn balances(answer: &Value) -> Vec<u64> {
    let rows = answer["results"][0]["values"].as_array().cloned().unwrap_or_default();
    rows.iter().map(|row| row[0].as_u64().expect("a balance is not negative")).collect()
}

impl Workload for Accounts {
    fn prepare(&self, caller: &mut Caller) {
        let create = "CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL CHECK(balance >= 0))";
        let mut requests = vec![execute(&json!([create]))];
        for (id, balance) in self.bank.accounts.iter().enumerate() {
            requests.push(execute(&json!(["INSERT INTO accounts VALUES(?, ?)", id, balance])));
        }
        must(caller, &requests);
    }

    fn step(&self, caller: &mut Caller, client: u64, random: &mut Random) -> bool {
        let count = self.bank.accounts.len();
        let from = random.index(count);
        let to = (from + 1 + random.index(count - 1)) % count;
        let amount = 1 + random.below(30);
        let call = (random.below(2) == 0).then_some(Transfer { from, to, amount });
        self.call(caller, client, call)
    }

    fn read_all(&self, caller: &mut Caller) {
        until_done(|| self.call(caller, u64::MAX, None));
    }

    fn verdict(&self) -> Verdict {
        let operations = self.history.operations();
        for operation in &operations {
            if let Some((_, BankSeen::Balances(balances))) = &operation.answer
                && balances.iter().sum::<u64>() != self.bank.total()
            {
                return Verdict::Violation(format!("money came or went: {operation:?}"));
            }
        }
        search(&self.bank, &operations)
    }

    fn summary(&self) -> String {
        format!("accounts, level {}: {}", self.level, self.counts.summary())
    }

    fn done(&self) -> BTreeMap<u64, Done> {
        self.counts.by_client()
    }
}

/// A counter that is raised by one, together with a row that says which raise it was: each acknowledged one is there once,
/// none that was refused is, and of the unknown ones each is there once or not at all.
#[derive(Debug, Default)]
pub struct Counter {
    counts: Counts,
    next: AtomicU64,
    raises: Mutex<Raises>,
}

/// The raises that were tried, by their numbers.
#[derive(Debug, Default)]
struct Raises {
    acknowledged: Vec<u64>,
    unknown: Vec<u64>,
    /// The counter and the numbers of all raises, as they were read at the end.
    stored: Option<(u64, Vec<u64>)>,
}

impl Counter {
    fn raises(&self) -> MutexGuard<'_, Raises> {
        self.raises.lock().expect("no client panics while it notes a raise")
    }
}

impl Raises {
    /// What contradicts what clients were told.
    fn contradiction(&self) -> Option<String> {
        let (counter, stored) = self.stored.as_ref().expect("the counter was read at the end");
        let mut counts = HashMap::<u64, u64>::new();
        stored.iter().for_each(|raise| *counts.entry(*raise).or_default() += 1);
        let missing = self.acknowledged.iter().find(|raise| !counts.contains_key(raise));
        let twice = counts.iter().find(|(_, count)| **count > 1).map(|(raise, _)| raise);
        let known: HashSet<_> = self.acknowledged.iter().chain(&self.unknown).collect();
        let refused = counts.keys().find(|raise| !known.contains(raise));
        if let Some(raise) = missing {
            return Some(format!("raise {raise} was acknowledged and is gone"));
        }
        if let Some(raise) = twice {
            return Some(format!("raise {raise} was done twice"));
        }
        if let Some(raise) = refused {
            return Some(format!("raise {raise} was refused and done"));
        }
        (*counter != stored.len() as u64)
            .then(|| format!("the counter stands at {counter} after {} raises", stored.len()))
    }
}

impl Workload for Counter {
    fn prepare(&self, caller: &mut Caller) {
        let tables =
            ["CREATE TABLE counter(n INTEGER NOT NULL)", "CREATE TABLE raises(number INTEGER)"];
        let mut requests: Vec<_> = tables.iter().map(|table| execute(&json!([table]))).collect();
        requests.push(execute(&json!(["INSERT INTO counter VALUES(0)"])));
        must(caller, &requests);
    }

    fn step(&self, caller: &mut Caller, client: u64, _random: &mut Random) -> bool {
        let raise = self.next.fetch_add(1, Ordering::Relaxed);
        let body =
            json!([["UPDATE counter SET n = n + 1"], ["INSERT INTO raises VALUES(?)", raise]]);
        let request = Request::post("/db/execute?transaction", body.to_string());
        match self.counts.sort(caller.call(&request)) {
            Ok(Some(_)) => {
                self.raises().acknowledged.push(raise);
                self.counts.note(client, false);
                true
            }
            Ok(None) => {
                self.raises().unknown.push(raise);
                false
            }
            Err(_) => false,
        }
    }

    fn read_all(&self, caller: &mut Caller) {
        until_done(|| {
            let both = json!([["SELECT n FROM counter"], ["SELECT number FROM raises"]]);
            let target = "/db/query?level=linearizable&transaction";
            let request = Request::post(target, both.to_string());
            let Fate::Done(answer) = caller.call(&request) else { return false };
            let answer = answer.json();
            let rows = answer["results"][1]["values"].as_array().cloned().unwrap_or_default();
            let stored = rows.iter().map(|row| row[0].as_u64().expect("a number")).collect();
            self.raises().stored = Some((value(&answer).expect("a counter"), stored));
            true
        });
    }

    fn verdict(&self) -> Verdict {
        self.raises().contradiction().map_or(Verdict::Linearizable, Verdict::Violation)
    }

    fn summary(&self) -> String {
        let stored = self.raises().stored.as_ref().map(|(counter, _)| *counter);
        format!("counter at {}: {}", stored.unwrap_or_default(), self.counts.summary())
    }

    fn done(&self) -> BTreeMap<u64, Done> {
        self.counts.by_client()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contradicts_the_answers_is_seen() {
        let with = |counter, stored: &[u64]| {
            let stored = Some((counter, stored.to_vec()));
            Raises { acknowledged: vec![0, 1], unknown: vec![2], stored }.contradiction()
        };
        assert_eq!(with(2, &[0, 1]), None);
        assert_eq!(with(3, &[0, 2, 1]), None);
        for (counter, stored, said) in [
            (1, vec![0], "raise 1 was acknowledged and is gone"),
            (3, vec![0, 1, 1], "raise 1 was done twice"),
            (4, vec![0, 1, 2, 2], "raise 2 was done twice"),
            (3, vec![0, 1, 3], "raise 3 was refused and done"),
            (3, vec![0, 1], "the counter stands at 3 after 2 raises"),
        ] {
            assert_eq!(with(counter, &stored).as_deref(), Some(said));
        }
    }
}
