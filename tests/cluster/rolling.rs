//! Restarting one node after the other under a steady load: an upgrade on an ordinary day.
//!
//! The clients are naive: each goes round the list of nodes, takes the next one if it cannot
//! connect, and sends a write once more if the answer says that it was not done. It may fail no
//! read, and no write a second time. `RQ_CLUSTER_SECONDS` is how long each node is left in peace.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rq_tests::{
    Request,
    cluster::{Caller, Cluster, EndsClients, Fate, Forming},
};
use serde_json::json;

use super::{ANSWER_TIME, number};

/// Clients, each of which sends its share of the load.
const CLIENTS: usize = 6;

/// Requests in a second, all clients together.
const RATE: u32 = 300;

/// What the clients saw.
#[derive(Debug, Default)]
struct Seen {
    reads: u64,
    writes: u64,
    repeated: u64,
    failed: Vec<String>,
    /// When writes were acknowledged.
    acknowledged: Vec<Instant>,
}

#[test]
fn one_node_after_the_other_is_restarted_under_load() {
    let peace = Duration::from_secs(number("RQ_CLUSTER_SECONDS", 2));
    let mut cluster = Cluster::builder(3).forming(Forming::Expect).start();
    cluster.node(0).execute(r#"["CREATE TABLE t(client INTEGER, n INTEGER)"]"#);
    let seen = Mutex::new(Seen::default());
    let ended = AtomicBool::new(false);
    let addresses = cluster.http_addrs();
    thread::scope(|scope| {
        let ending = EndsClients(&ended);
        for client in 0..CLIENTS {
            let (addresses, seen, ended) = (&addresses, &seen, &ended);
            scope.spawn(move || load(client, addresses, seen, ended));
        }
        for round in 0..2 {
            for member in 0..3 {
                thread::sleep(peace);
                println!("round {round}: {} is restarted", Cluster::id(member));
                cluster.stop(member);
                cluster.launch_again(member);
                cluster.wait_ready(member);
            }
        }
        thread::sleep(peace);
        drop(ending);
    });
    let seen = seen.into_inner().unwrap();
    let mut times = seen.acknowledged.clone();
    times.sort_unstable();
    let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    println!(
        "{} reads, {} writes, {} of them sent twice, longest time without a write {gap:?}",
        seen.reads, seen.writes, seen.repeated
    );
    assert!(seen.reads >= 200 && seen.writes >= 100, "hardly anything was done");
    assert!(seen.failed.is_empty(), "{} failed: {:#?}", seen.failed.len(), seen.failed);
    let stored = cluster.node(0).value("SELECT count(*) FROM t");
    assert_eq!(stored, seen.writes, "rows of acknowledged writes");
    cluster.assert_equal_images();
}

fn load(client: usize, addresses: &[String], seen: &Mutex<Seen>, ended: &AtomicBool) {
    let mut callers: Vec<_> = (0..addresses.len())
        .map(|first| Caller::new(vec![addresses[first].clone()], 0, ANSWER_TIME))
        .collect();
    let pause = Duration::from_secs(1) * u32::try_from(CLIENTS).unwrap() / RATE;
    let mut next = Instant::now();
    for n in 0.. {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let (request, is_write) = if n % 3 == 0 {
            let insert = json!([["INSERT INTO t VALUES(?, ?)", client, n]]);
            (Request::post("/db/execute", insert.to_string()), true)
        } else {
            (Request::get("/db/query?q=SELECT%20count(*)%20FROM%20t"), false)
        };
        let first = (client + n) % callers.len();
        let (mut fate, reached) = send(&mut callers, first, &request);
        let mut seen_now = None;
        if let (true, Fate::NotDone(_)) = (is_write, &fate) {
            thread::sleep(Duration::from_millis(50));
            fate = send(&mut callers, reached + 1, &request).0;
            seen_now = Some(());
        }
        let mut seen = seen.lock().unwrap();
        seen.repeated += u64::from(seen_now.is_some());
        match fate {
            Fate::Done(_) if is_write => {
                seen.writes += 1;
                seen.acknowledged.push(Instant::now());
            }
            Fate::Done(_) => seen.reads += 1,
            fate => seen.failed.push(format!("{}: {fate:?}", request.target)),
        }
        drop(seen);
        next += pause;
        thread::sleep(next.saturating_duration_since(Instant::now()));
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
