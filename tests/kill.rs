//! `kill -9` of the real process, in a loop, while writers work.
//!
//! Each writer notes what was acknowledged. After every restart each acknowledged row is there
//! exactly once, what was sent without an answer is there at most once, and the file is sound.
//! `RQ_KILL_ROUNDS` and `RQ_KILL_SEED` stretch and repeat it (`cargo xtask soak kill`).

use std::{
    collections::HashMap,
    env,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use rq_tests::{Connection, Node, Random, Request};
use serde_json::json;

/// Writers that work at the same time.
const WRITERS: u64 = 4;

/// What is known of the rows sent.
#[derive(Debug, Default)]
struct Ledger {
    /// Answered with success.
    acknowledged: Vec<(u64, u64)>,
    /// Sent, and the connection broke before the answer.
    unknown: Vec<(u64, u64)>,
    /// Answered with an error that says nothing was done.
    refused: Vec<(u64, u64)>,
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled() {
    let (mut random, seed) = Random::from_environment("RQ_KILL_SEED", 1);
    let rounds: u64 = env::var("RQ_KILL_ROUNDS").map_or(10, |text| text.parse().unwrap());
    println!("RQ_KILL_SEED={seed} RQ_KILL_ROUNDS={rounds}");
    // Small thresholds, so that purges and checkpoints fall between the kills.
    let mut node = Node::builder()
        .flags(["-raft-snap=50", "-raft-snap-int=20ms", "-auto-vacuum-int=300ms"])
        .start();
    node.execute(r#"["CREATE TABLE w(writer INTEGER, n INTEGER, pad BLOB)"]"#);
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut next = 0;
    for round in 0..rounds {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| start_writer(&node, writer, next, random.number(), &ledger))
            .collect();
        thread::sleep(Duration::from_millis(50 + random.below(300)));
        node.kill();
        next = writers.into_iter().map(|writer| writer.join().unwrap()).max().unwrap() + 1;
        node.restart();
        check(&node, &ledger.lock().unwrap(), round);
    }
    let ledger = ledger.lock().unwrap();
    println!("{} acknowledged, {} unknown", ledger.acknowledged.len(), ledger.unknown.len());
    assert!(!ledger.acknowledged.is_empty(), "no write was acknowledged in {rounds} rounds");
    assert_eq!(node.stop(), 0);
}

/// Writes rows one after the other until the node is gone; returns the last number used.
fn start_writer(
    node: &Node,
    writer: u64,
    first: u64,
    seed: u64,
    ledger: &Arc<Mutex<Ledger>>,
) -> JoinHandle<u64> {
    let address = node.http_addr().to_owned();
    let ledger = Arc::clone(ledger);
    thread::spawn(move || {
        let mut random = Random::new(seed);
        let mut n = first;
        let Ok(mut connection) = Connection::open(&address) else { return n };
        loop {
            n += 1;
            let pad = if random.below(20) == 0 { 20_000 } else { random.below(200) };
            let insert = json!(["INSERT INTO w VALUES(?, ?, randomblob(?))", writer, n, pad]);
            let request = match random.below(10) {
                0 => Request::post("/db/execute?queue&wait", json!([insert]).to_string()),
                1 => Request::post("/db/request?transaction", json!([insert]).to_string()),
                2 => Request::post(
                    "/db/execute?transaction",
                    json!([insert, "UPDATE w SET pad = x'' WHERE n < 0"]).to_string(),
                ),
                _ => Request::post("/db/execute", json!([insert]).to_string()),
            };
            let answer = connection.request(&request);
            let mut ledger = ledger.lock().unwrap();
            match answer {
                Ok(answer) if answer.status == 200 && !answer.text().contains("error") => {
                    ledger.acknowledged.push((writer, n));
                }
                Ok(answer) => {
                    let header = answer.header("x-rq-error").unwrap_or_default().to_owned();
                    if header.contains("outcome=not-done") {
                        ledger.refused.push((writer, n));
                    } else {
                        ledger.unknown.push((writer, n));
                    }
                }
                Err(_) => {
                    ledger.unknown.push((writer, n));
                    return n;
                }
            }
        }
    })
}

fn check(node: &Node, ledger: &Ledger, round: u64) {
    assert_eq!(node.value("PRAGMA integrity_check"), "ok", "round {round}");
    let mut stored: HashMap<(u64, u64), u64> = HashMap::new();
    for row in node.rows("SELECT writer, n, count(*) FROM w GROUP BY writer, n") {
        let [writer, n, count] = [0, 1, 2].map(|column| row[column].as_u64().unwrap());
        stored.insert((writer, n), count);
    }
    for row in &ledger.acknowledged {
        assert_eq!(stored.remove(row), Some(1), "round {round}: acknowledged row {row:?}");
    }
    for row in &ledger.refused {
        assert_eq!(stored.get(row), None, "round {round}: refused row {row:?} is there");
    }
    for (row, count) in &stored {
        assert!(ledger.unknown.contains(row), "round {round}: nobody sent {row:?}");
        assert_eq!(*count, 1, "round {round}: row {row:?} is there more than once");
    }
}
