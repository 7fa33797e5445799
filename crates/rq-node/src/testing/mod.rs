//! The tests of a whole node, in threads and simulated; compiled for tests only.
//!
//! | module | shows |
//! |---|---|
//! | [`conformance`] | log and state machine are what openraft expects |
//! | [`simulation`] | one seed, one history: a node runs the same way twice |
//! | [`crash`] | promises P1, P2, P3 at crashes at any file operation |
//! | [`behaviour`], [`opening`], [`bounds`], [`full_disk`] | what clients and operators see of a node with threads |
//! | [`recovery`] | a node goes on after a lost quorum, once, whatever interrupts it |
//! | [`cluster`] | several nodes in one process form, forward, follow and change |
//! | [`schedules`] | what a whole cluster promises, through thousands of seeded schedules of faults |
//! | [`transfer`] | a snapshot on its way arrives, whatever happens to the way, the sender, the receiver |
//! | [`replay`] | what is applied late takes bounded memory and keeps nobody from the writer |
//! | [`waiting`], [`workers`] | what waits ends and is bounded, and nobody waits on an async worker |
//!
//! The rest are their instruments: [`world`] (the disk that fails), [`history`] (what was applied, and
//! an engine that never crashes), [`workload`] (requests that know what they must leave behind),
//! [`switchboard`] (lines between nodes that can be cut), [`pause`] (nodes that stand still), [`watch`] (watchers woken in order).

mod behaviour;
mod bounds;
mod cluster;
mod conformance;
mod crash;
mod full_disk;
pub(crate) mod history;
mod opening;
pub(crate) mod pause;
mod recovery;
mod replay;
mod schedules;
mod simulation;
mod switchboard;
mod transfer;
mod waiting;
pub(crate) mod watch;
mod workers;
mod workload;
mod world;

use std::{path::Path, sync::Arc, time::Duration};

use rq_sql::{Outcome, Parameter, Statement, Value};
use rq_sqlite::Budget;
use rq_storage::{LogOptions, Salts};

use crate::{
    Environment, Error, Level, Limits, Node, Options, Read, Snapshots, Timing, Write, Written,
    environment::Seeded, read::Collected,
};

/// When the simulated clock begins.
const START_MS: i64 = 1_700_000_000_000;
/// No simulated node needs longer for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Small limits, so that tests reach them.
pub(crate) fn limits() -> Limits {
    Limits {
        statements_max: 10_000,
        parameters_max: 40_000,
        result_rows_max: 10_000,
        result_bytes_max: 1 << 20,
        query_time_max: Duration::ZERO,
        backlog_bytes_max: 64 << 20,
        enqueue_timeout: Duration::from_secs(10),
        free_bytes_min: 1,
        wal_bytes_max: 1 << 30,
    }
}

/// Options with small limits, so that tests reach them.
fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        node_id: None,
        raft_addr: "127.0.0.1:4002".to_owned(),
        api_url: "http://127.0.0.1:4001".to_owned(),
        api_version: "v10.2.7".to_owned(),
        replica: false,
        users: Arc::new(rq_security::Users::unrestricted()),
        reap: crate::Reap::default(),
        sending: crate::Sending::default(),
        foreign_keys: false,
        readers_max: None,
        budget: Budget { steps: 5_000_000, pages: 10_000 },
        limits: limits(),
        snapshots: Snapshots {
            entries: 1 << 40,
            wal_bytes: 0,
            interval: Duration::from_secs(3600),
            trailing_entries: 100,
            log_bytes_max: 1 << 40,
        },
        log: LogOptions {
            segment_bytes: 1 << 20,
            cache_bytes: 1 << 20,
            salts: Salts::Random,
            ..LogOptions::default()
        },
        timing: Timing {
            heartbeat_timeout: Duration::from_secs(1),
            election_timeout: Duration::from_secs(1),
            lease_timeout: Duration::from_millis(500),
            commit_timeout: Duration::from_millis(50),
        },
        auto_vacuum_interval: Duration::ZERO,
        auto_optimize_interval: Duration::ZERO,
    }
}

/// Time and chance from one seed, work inline.
fn simulated(seed: u64) -> Environment {
    let seeded = Arc::new(Seeded::new(seed, START_MS));
    Environment {
        clock: Arc::clone(&seeded) as _,
        entropy: seeded,
        execution: rq_storage::Execution::Inline,
        ..Environment::real()
    }
}

/// A runtime on this thread, whose time moves only when everything waits for it.
fn simulated_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Opens a node with threads and waits until it serves.
async fn open(options: Options) -> Node {
    let node = Node::open_alone(options, Environment::real()).await.unwrap();
    wait_ready(&node).await;
    node
}

/// Waits until the node serves.
async fn wait_ready(node: &Node) {
    let ready = async {
        while !node.is_ready() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("the node becomes ready");
}

/// A write of statements without parameters.
fn write(statements: &[&str]) -> Write {
    let statements = statements.iter().copied().map(Statement::new).collect();
    Write { statements, transaction: false, timeout: None }
}

/// The same, all or nothing.
fn transaction(statements: &[&str]) -> Write {
    Write { transaction: true, ..write(statements) }
}

/// A statement with positional parameters.
fn with_parameters(sql: &str, values: Vec<Value>) -> Statement {
    let parameters = values.into_iter().map(|value| Parameter { name: None, value }).collect();
    Statement { parameters, ..Statement::new(sql) }
}

/// Runs a write of which every statement must succeed.
async fn done(node: &Node, statements: &[&str]) -> Written {
    let written = node.execute(write(statements)).await.unwrap();
    for result in &written.results {
        assert!(!matches!(result.outcome, Outcome::Error(_)), "{statements:?}: {result:?}");
    }
    written
}

/// A read of one statement.
fn reading(sql: &str, level: Level) -> Read {
    Read {
        statements: vec![Statement::new(sql)],
        level,
        linearizable_timeout: Duration::from_secs(10),
        ..Read::default()
    }
}

/// The values of a read, row after row.
async fn values(node: &Node, sql: &str, level: Level) -> Result<Vec<Value>, Error> {
    let (collected, _) = node.query(reading(sql, level), Collected::default()).await?;
    assert_eq!(collected.error, None, "{sql}");
    Ok(collected.values)
}

/// The number a read gives.
async fn number(node: &Node, sql: &str) -> i64 {
    match values(node, sql, Level::Strong).await.unwrap().as_slice() {
        [Value::Integer(number)] => *number,
        other => panic!("{sql}: {other:?}"),
    }
}
