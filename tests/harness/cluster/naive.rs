//! A steady load of naive clients: each goes round the list of nodes, takes the next one if it cannot connect, and sends a
//! write once more if the answer says that it was not done.
//!
//! One request in three is a write. A request that is late, because an answer was, is made up for. Nothing here judges what
//! was seen.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Caller, EndsClients, Fate};
use crate::Request;

/// Clients, each of which sends its share of the load.
const CLIENTS: usize = 6;

/// Requests in a second, all clients together.
const RATE: u32 = 300;

/// How long a client leaves the nodes alone before it sends a write once more.
const PAUSE_BEFORE_REPEATING: Duration = Duration::from_millis(50);

/// What the clients of a load saw.
#[derive(Debug)]
pub struct Seen {
    /// Reads that were answered.
    pub reads: u64,
    /// Writes that were acknowledged, each once.
    pub writes: u64,
    /// Writes that were sent twice, whatever became of them.
    pub repeated: u64,
    /// What reads that failed were answered.
    pub failed_reads: Vec<String>,
    /// What writes were answered whose outcome is unknown, or that were not done when they were sent twice.
    pub failed_writes: Vec<String>,
    /// When the load began, writes were acknowledged, and the load ended.
    moments: Vec<Instant>,
}

impl Seen {
    fn nothing() -> Self {
        Self {
            reads: 0,
            writes: 0,
            repeated: 0,
            failed_reads: Vec::new(),
            failed_writes: Vec::new(),
            moments: vec![Instant::now()],
        }
    }

    /// The longest time without an acknowledged write, from the beginning to the end of the load.
    pub fn longest_gap(&self) -> Duration {
        let mut moments = self.moments.clone();
        moments.sort_unstable();
        moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// A load on a list of nodes.
#[derive(Clone, Debug)]
pub struct NaiveLoad {
    addresses: Vec<String>,
    answer_time: Duration,
}

impl NaiveLoad {
    /// What must be executed on a cluster before there is a load on it.
    pub const SCHEMA: &str = r#"["CREATE TABLE naive(client INTEGER, n INTEGER)"]"#;

    /// Counts the rows that acknowledged writes left.
    pub const COUNT: &str = "SELECT count(*) FROM naive";

    /// A load on the nodes with these addresses, whose clients wait this long for an answer.
    pub fn new(addresses: Vec<String>, answer_time: Duration) -> Self {
        Self { addresses, answer_time }
    }

    /// Sends requests as long as something else is done, and waits for the last answers.
    pub fn during<T>(&self, done: impl FnOnce() -> T) -> (T, Seen) {
        let seen = Mutex::new(Seen::nothing());
        let ended = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            // Also if what is done panics: the scope waits for the clients before it lets that pass.
            let _ending = EndsClients(&ended);
            for client in 0..CLIENTS {
                let (seen, ended) = (&seen, &ended);
                scope.spawn(move || self.send_share(client, seen, ended));
            }
            let result = done();
            lock(&seen).moments.push(Instant::now());
            result
        });
        (result, seen.into_inner().expect("no client panics"))
    }

    fn send_share(&self, client: usize, seen: &Mutex<Seen>, ended: &AtomicBool) {
        let one = |address: &String| Caller::new(vec![address.clone()], 0, self.answer_time);
        let mut callers: Vec<_> = self.addresses.iter().map(one).collect();
        let clients = u32::try_from(CLIENTS).expect("a few clients");
        let pause = Duration::from_secs(1) * clients / RATE;
        let mut next = Instant::now();
        for n in 0_usize.. {
            if ended.load(Ordering::Relaxed) {
                return;
            }
            let first = (client + n) % callers.len();
            if n.is_multiple_of(3) {
                write(&mut callers, first, (client, n), seen);
            } else {
                read(&mut callers, first, seen);
            }
            next += pause;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
}

fn read(callers: &mut [Caller], first: usize, seen: &Mutex<Seen>) {
    let target = format!("/db/query?q={}", NaiveLoad::COUNT.replace(' ', "%20"));
    let (fate, _) = send(callers, first, &Request::get(&target));
    let mut seen = lock(seen);
    match fate {
        Fate::Done(_) => seen.reads += 1,
        Fate::NotDone(text) | Fate::Unknown(text) => seen.failed_reads.push(text),
    }
}

fn write(callers: &mut [Caller], first: usize, (client, n): (usize, usize), seen: &Mutex<Seen>) {
    let insert = json!([["INSERT INTO naive VALUES(?, ?)", client, n]]);
    let request = Request::post("/db/execute", insert.to_string());
    let (mut fate, reached) = send(callers, first, &request);
    let is_repeated = matches!(fate, Fate::NotDone(_));
    if is_repeated {
        thread::sleep(PAUSE_BEFORE_REPEATING);
        fate = send(callers, reached + 1, &request).0;
    }
    let mut seen = lock(seen);
    seen.repeated += u64::from(is_repeated);
    match fate {
        Fate::Done(_) => {
            seen.writes += 1;
            seen.moments.push(Instant::now());
        }
        Fate::NotDone(text) | Fate::Unknown(text) => seen.failed_writes.push(text),
    }
}

/// Sends a request to the first node from there on that accepts connections, and tells which it was.
fn send(callers: &mut [Caller], first: usize, request: &Request) -> (Fate, usize) {
    let mut last = None;
    for offset in 0..callers.len() {
        let place = (first + offset) % callers.len();
        match callers[place].call(request) {
            Fate::NotDone(text) if text.starts_with("connecting: ") => {
                last = Some((Fate::NotDone(text), place));
            }
            fate => return (fate, place),
        }
    }
    last.expect("there are nodes")
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().expect("no client panics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_moments_in_their_order() {
        let begin = Instant::now();
        let longest = |milliseconds: &[u64]| {
            let at = |at: &u64| begin + Duration::from_millis(*at);
            let moments = milliseconds.iter().map(at).collect();
            Seen { moments, ..Seen::nothing() }.longest_gap().as_millis()
        };
        assert_eq!(longest(&[7]), 0);
        assert_eq!(longest(&[900, 0, 100, 150]), 750);
    }

    #[test]
    fn a_load_on_nobody_is_one_gap_and_fails() {
        let pause = Duration::from_millis(100);
        // Nobody listens on the port for discarding.
        let load = NaiveLoad::new(vec!["127.0.0.1:9".to_owned()], pause);
        let ((), seen) = load.during(|| thread::sleep(pause));
        assert!(seen.longest_gap() >= pause, "{seen:?}");
        assert_eq!((seen.reads, seen.writes), (0, 0));
        assert!(
            seen.repeated > 0 && !seen.failed_reads.is_empty() && !seen.failed_writes.is_empty()
        );
    }
}
