//! Opening: what is kept over a restart, what is refused, and that a refusal changes nothing.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use rq_sql::Value;
use tempfile::{TempDir, tempdir};

use super::{
    PATIENCE, done, number, open, options, simulated, simulated_runtime, values, wait_ready,
};
use crate::{Environment, Level, Node, OpenError, Options, read::Collected};

/// A data directory that was used: a table with as many rows as asked for, and closed.
async fn used(rows: usize) -> TempDir {
    let directory = tempdir().unwrap();
    let node = open(named(directory.path(), "first")).await;
    done(&node, &["CREATE TABLE t (x)"]).await;
    for _ in 0..rows {
        done(&node, &["INSERT INTO t VALUES (randomblob(100))"]).await;
    }
    node.shutdown().await;
    directory
}

fn named(directory: &Path, node_id: &str) -> Options {
    Options { node_id: Some(node_id.to_owned()), ..options(directory) }
}

/// Opens in vain; the files are as before.
async fn refusal(options: Options) -> OpenError {
    refusal_on(options, Environment::real()).await
}

async fn refusal_on(options: Options, environment: Environment) -> OpenError {
    let directory = options.directory.clone();
    let before = content(&directory);
    let Err(error) = Node::open_alone(options, environment).await else {
        panic!("the directory is refused")
    };
    let after = content(&directory);
    let changed: Vec<_> = after
        .keys()
        .chain(before.keys())
        .filter(|name| before.get(*name) != after.get(*name))
        .collect();
    assert!(changed.is_empty(), "{error}, and changed {changed:?}");
    error
}

/// Every file but the lock, the shared memory and prepared segments, which are full of zeros.
fn content(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_string_lossy().into_owned();
            if path.is_dir() {
                directories.push(path);
            } else if !name.ends_with("node.lock") && !name.ends_with("-shm") {
                let bytes = fs::read(path).unwrap();
                if bytes.iter().any(|byte| *byte != 0) {
                    files.insert(name, bytes);
                }
            }
        }
    }
    files
}

/// Nobody else could lead, so it could do nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_only_voter_of_another_engine_epoch_does_not_start() {
    let directory = used(3).await;
    let environment = Environment { engine_epoch: 2, ..Environment::real() };
    let error = refusal_on(options(directory.path()), environment).await.to_string();
    assert!(error.contains("belongs to engine epoch 1, this program computes epoch 2"), "{error}");
    assert!(error.ends_with("start the program version whose engine epoch is 1"), "{error}");
    let node = open(options(directory.path())).await;
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, 3);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_everything_and_goes_on() {
    let directory = used(30).await;
    let node = open(options(directory.path())).await;
    assert_eq!(node.id(), "first", "the stored name holds");
    assert!(node.is_leader());
    let index = node.inner().progress.applied().index;
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, 30);
    assert!(done(&node, &["INSERT INTO t VALUES (1)"]).await.index > index);
    node.shutdown().await;
    drop(node);
    let node = open(options(directory.path())).await;
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, 31);
    node.shutdown().await;
}

/// The database file may be older than the log: what is missing is applied again, and only that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_database_catches_up_from_the_log() {
    let directory = used(10).await;
    let older = tempdir().unwrap();
    let copy = |from: &Path, to: &Path| {
        for name in ["db.sqlite", "db.sqlite-wal"] {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    };
    copy(directory.path(), older.path());
    let node = open(options(directory.path())).await;
    for _ in 0..10 {
        done(&node, &["INSERT INTO t VALUES (random())"]).await;
    }
    let sum = number(&node, "SELECT sum(x % 1000) FROM t WHERE typeof(x) = 'integer'").await;
    node.shutdown().await;
    drop(node);
    copy(older.path(), directory.path());
    let node = open(options(directory.path())).await;
    assert_eq!(number(&node, "SELECT count(*) FROM t").await, 20);
    let again = number(&node, "SELECT sum(x % 1000) FROM t WHERE typeof(x) = 'integer'").await;
    assert_eq!(again, sum, "the same random numbers");
    node.shutdown().await;
}

/// A leader that has just started again answers no read before it has applied what it acknowledged
/// in its earlier life. (Level none promises nothing.)
#[test]
fn a_restarted_leader_serves_no_read_before_it_has_caught_up() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (database, wal) = (path("db.sqlite"), path("db.sqlite-wal"));
    let mut older = None;
    simulated_runtime().block_on(async {
        let node = Node::open_alone(options(directory.path()), simulated(1)).await.unwrap();
        wait_ready(&node).await;
        done(&node, &["CREATE TABLE t (x)"]).await;
        older = Some((fs::read(&database).unwrap(), fs::read(&wal).unwrap()));
        for _ in 0..200 {
            done(&node, &["INSERT INTO t VALUES (1)"]).await;
        }
        node.shutdown().await;
    });
    let (older_database, older_wal) = older.unwrap();
    for level in [Level::Weak, Level::Auto, Level::Linearizable, Level::Strong] {
        fs::write(&database, &older_database).unwrap();
        fs::write(&wal, &older_wal).unwrap();
        simulated_runtime().block_on(async {
            let node = Node::open_alone(options(directory.path()), simulated(2)).await.unwrap();
            let mut refusals = 0;
            let found = loop {
                match values(&node, "SELECT count(*) FROM t", level).await {
                    Ok(found) => break found,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
                refusals += 1;
                assert!(refusals < 10_000);
                // Time must not move between two questions, and must move in the end.
                if refusals % 100 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tokio::task::yield_now().await;
            };
            assert_eq!(found, [Value::Integer(200)], "{level:?} after {refusals} refusals");
            node.shutdown().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_address_is_stored() {
    let directory = used(0).await;
    let mut moved = options(directory.path());
    moved.raft_addr = "10.0.0.9:4002".to_owned();
    moved.api_url = "https://10.0.0.9:4001".to_owned();
    let node = open(moved).await;
    let stored = async {
        while node.status().member.raft_addr != "10.0.0.9:4002" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, stored).await.expect("the new address is stored");
    let members = node.status().members;
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].api_url, "https://10.0.0.9:4001");
    assert!(members[0].voter && members[0].id == "first");
    let index = node.status().raft.membership_index;
    node.shutdown().await;
    drop(node);
    let mut same = options(directory.path());
    same.raft_addr = "10.0.0.9:4002".to_owned();
    same.api_url = "https://10.0.0.9:4001".to_owned();
    let node = open(same).await;
    done(&node, &["INSERT INTO t VALUES (1)"]).await;
    assert_eq!(node.status().raft.membership_index, index, "nothing new is stored");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_id_is_refused() {
    let directory = used(1).await;
    let error = refusal(named(directory.path(), "second")).await.to_string();
    assert!(error.contains("belongs to node id \"first\", not \"second\""), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_refused_with_the_pid_of_the_first() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    let error = Node::open_alone(options(directory.path()), Environment::real()).await;
    let error = error.err().expect("it is in use").to_string();
    assert!(error.contains("is in use by"), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    done(&node, &["CREATE TABLE t (x)"]).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubtful_identity_is_refused() {
    for missing in ["raft", "node.json"] {
        let directory = used(1).await;
        let path = directory.path().join(missing);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        let error = refusal(options(directory.path())).await;
        assert!(matches!(error, OpenError::Doubtful { .. }), "{error}");
        assert!(error.to_string().contains("do not belong together"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_directory_is_refused() {
    let directory = used(1).await;
    let path = directory.path().join("node.json");
    let json = fs::read_to_string(&path).unwrap();
    let newer = json.replace("\"format\": 1", "\"format\": 99");
    assert_ne!(json, newer);
    fs::write(path, newer).unwrap();
    let error = refusal(options(directory.path())).await.to_string();
    assert!(error.contains("format 99"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_with_file_and_offset() {
    let directory = used(30).await;
    let raft = directory.path().join("raft");
    let segment = fs::read_dir(raft)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .min()
        .unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let text = b"INSERT INTO t";
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let error = refusal(options(directory.path())).await.to_string();
    assert!(error.contains(&segment.display().to_string()), "{error}");
    assert!(error.contains("damaged at byte"), "{error}");
}

/// With the entries purged, an empty database would make the node forget all it acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_is_refused_if_the_log_does_not_hold_everything() {
    let directory = tempdir().unwrap();
    let node = open(options(directory.path())).await;
    for _ in 0..20 {
        done(&node, &["CREATE TABLE IF NOT EXISTS t (x)"]).await;
    }
    assert_eq!(node.snapshot(Some(5)).await, Ok(true));
    let purged = async {
        while node.status().raft.first_log_index < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, purged).await.expect("the log is purged");
    node.shutdown().await;
    drop(node);
    let older = tempdir().unwrap();
    let other = open(options(older.path())).await;
    done(&other, &["CREATE TABLE t (x)"]).await;
    other.shutdown().await;
    drop(other);
    let names = ["db.sqlite", "db.sqlite-wal"];
    for name in names {
        fs::remove_file(directory.path().join(name)).unwrap();
    }
    fs::remove_file(directory.path().join("db.sqlite-shm")).unwrap();
    let error = refusal(options(directory.path())).await.to_string();
    assert!(error.contains("db.sqlite is missing or holds nothing"), "{error}");
    for name in names {
        fs::copy(older.path().join(name), directory.path().join(name)).unwrap();
    }
    let error = refusal(options(directory.path())).await.to_string();
    assert!(error.contains("holds the entries up to 2, but the log begins behind"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_database_is_refused() {
    let directory = used(1).await;
    let path = directory.path().join("db.sqlite");
    fs::remove_file(directory.path().join("db.sqlite-wal")).unwrap();
    fs::write(&path, vec![b'x'; 8192]).unwrap();
    let error = refusal(options(directory.path())).await.to_string();
    assert!(error.contains("db.sqlite"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timings_that_contradict_each_other_are_refused() {
    let directory = tempdir().unwrap();
    let mut wrong = options(directory.path());
    wrong.timing.lease_timeout = Duration::from_secs(5);
    let error = Node::open_alone(wrong, Environment::real()).await.err().expect("it is refused");
    assert!(error.to_string().contains("LeaderLeaseTimeout"), "{error}");
    // What was begun stands in nobody's way.
    let node = open(options(directory.path())).await;
    let read = super::reading("SELECT 1", Level::Strong);
    assert!(node.query(read, Collected::default()).await.is_ok());
    node.shutdown().await;
}
