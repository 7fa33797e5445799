//! Recovery of one node: what is refused, what an interruption leaves at any file operation, and what a file
//! that was changed in between does.

use std::{fs, path::Path, time::Duration};

use rq_sql::Value;
use rq_storage::Log;
use tempfile::TempDir;

use super::{
    PATIENCE,
    crash::scratch_directory,
    done, options, simulated, simulated_runtime, values,
    world::{Disks, Event},
};
use crate::{Environment, Level, Node, Options, environment::Seeded};

/// The address that the file gives.
const ADDRESS: &str = "10.0.0.7:4002";
/// No opening takes more operations.
const OPERATIONS_MAX: u64 = 400;

fn named(directory: &Path) -> Options {
    Options { node_id: Some("a".to_owned()), raft_addr: ADDRESS.to_owned(), ..options(directory) }
}

/// A node that is a cluster of its own, closed, in a directory of this name.
fn used() -> TempDir {
    let root = scratch_directory();
    simulated_runtime().block_on(async {
        let node = Node::open_alone(named(&root.path().join("data")), simulated(1)).await.unwrap();
        done(&node, &["CREATE TABLE t (x)", "INSERT INTO t VALUES (1), (2), (3)"]).await;
        node.shutdown().await;
    });
    root
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

/// Writes the file that names node a alone.
fn ask_for_recovery(data: &Path, address: &str) {
    let text = format!("[\r\n  {{\"id\": \"a\", \"address\": \"{address}\"}}\r\n]\r\n");
    fs::write(data.join("raft/peers.json"), text).unwrap();
}

/// What a recovered node looks like.
#[derive(Debug, PartialEq)]
struct Found {
    cluster: String,
    /// Entries of a recovery in the log.
    recoveries: usize,
    rows: Vec<Value>,
    address: String,
    files: Vec<String>,
}

async fn look(node: &Node, data: &Path) -> Found {
    let ready = async {
        while !node.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("it leads");
    let records = node.inner().log.read(0..u64::MAX).unwrap();
    let is_recovery = |pair: &[rq_storage::Record]| pair[1].term == pair[0].term + 1_000_000;
    let mut files: Vec<_> = fs::read_dir(data.join("raft"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("peers") || name.starts_with("recovery"))
        .collect();
    files.sort();
    Found {
        cluster: node.inner().cluster.id().unwrap(),
        recoveries: records.windows(2).filter(|pair| is_recovery(pair)).count(),
        rows: values(node, "SELECT count(*) FROM t", Level::Linearizable).await.unwrap(),
        address: node.status().members[0].raft_addr.clone(),
        files,
    }
}

/// Opens undisturbed and looks.
fn open_and_look(data: &Path, environment: Environment) -> Found {
    simulated_runtime().block_on(async {
        let node = Node::open_alone(named(data), environment).await.unwrap();
        let found = look(&node, data).await;
        node.shutdown().await;
        found
    })
}

fn expected(cluster: &str) -> Found {
    Found {
        cluster: cluster.to_owned(),
        recoveries: 1,
        rows: vec![Value::Integer(3)],
        address: ADDRESS.to_owned(),
        files: vec!["peers.info".to_owned()],
    }
}

#[test]
fn an_interrupted_recovery_is_undone_or_finished_once() {
    let base = used();
    let base = base.path().join("data");
    ask_for_recovery(&base, ADDRESS);
    let whole = scratch_directory();
    copy(&base, &whole.path().join("data"));
    let undisturbed = open_and_look(&whole.path().join("data"), simulated(2));
    assert_eq!(undisturbed, expected(&undisturbed.cluster));
    assert_eq!(open_and_look(&whole.path().join("data"), simulated(3)), undisturbed, "and stays");
    let mut interrupted = 0;
    for event in [Event::Stop, Event::Torn(10), Event::Fail] {
        for power in [false, true] {
            if matches!(event, Event::Torn(_)) && !power {
                continue;
            }
            let operations = (0..OPERATIONS_MAX).take_while(|after| {
                let root = scratch_directory();
                let data = root.path().join("data");
                copy(&base, &data);
                let mut disks = Disks::new();
                let happened = interrupt(&mut disks, &data, (*after, event));
                interrupted += u64::from(data.join("raft/recovery.plan").exists());
                if power {
                    disks.cut_power(&Seeded::new(*after, 0));
                } else {
                    disks.restart_process();
                }
                let found = open_and_look(&data, disks.environment(5));
                assert_eq!(found, undisturbed, "{event:?} at {after}, power cut: {power}");
                happened
            });
            let operations = operations.count();
            assert!((40..400).contains(&operations), "{operations} operations");
        }
    }
    assert!(interrupted > 20, "only {interrupted} plans were left");
}

/// Opens while something happens; tells whether it did. Nothing more reaches the disks afterwards.
fn interrupt(disks: &mut Disks, data: &Path, (after, event): (u64, Event)) -> bool {
    disks.world.arm(after, event);
    let environment = disks.environment(4);
    let runtime = simulated_runtime();
    let node = runtime.block_on(async {
        let node = Node::open_alone(named(data), environment).await;
        // Its first entries are on their way.
        tokio::time::sleep(Duration::from_secs(1)).await;
        node
    });
    disks.stop();
    drop(node);
    drop(runtime);
    disks.world.happened().is_some()
}

/// Interrupts a recovery when its entry is in the log and the file still there.
fn half_recovered(base: &Path, data: &Path) {
    for after in 0..OPERATIONS_MAX {
        if data.exists() {
            fs::remove_dir_all(data).unwrap();
        }
        copy(base, data);
        let mut disks = Disks::new();
        interrupt(&mut disks, data, (after, Event::Stop));
        let planned = data.join("raft/recovery.plan").exists();
        let asked = data.join("raft/peers.json").exists();
        let node_json = |directory: &Path| fs::read(directory.join("node.json")).unwrap();
        if planned && asked && node_json(data) != node_json(base) {
            return;
        }
    }
    panic!("no recovery was interrupted");
}

#[test]
fn a_file_that_is_changed_or_removed_in_between_undoes_what_was_begun() {
    let base = used();
    let base = base.path().join("data");
    let before = open_and_look(&base, simulated(2)).cluster;
    let root = scratch_directory();
    let (data, direct) = (root.path().join("data"), root.path().join("direct"));

    copy(&base, &direct);
    ask_for_recovery(&direct, ADDRESS);
    let wanted = open_and_look(&direct, simulated(3));
    ask_for_recovery(&base, "elsewhere:4002");
    half_recovered(&base, &data);
    ask_for_recovery(&data, ADDRESS);
    assert_eq!(open_and_look(&data, simulated(3)), wanted, "as if it had been asked for at once");

    half_recovered(&base, &data);
    fs::remove_file(data.join("raft/peers.json")).unwrap();
    let found = open_and_look(&data, simulated(3));
    assert_eq!((found.cluster, found.recoveries, found.files.len()), (before, 0, 0));
}

#[test]
fn the_file_may_be_put_back_and_the_old_files_are_kept() {
    let root = used();
    let data = root.path().join("data");
    let identity = fs::read(data.join("node.json")).unwrap();
    ask_for_recovery(&data, ADDRESS);
    let asked = fs::read(data.join("raft/peers.json")).unwrap();
    let first = open_and_look(&data, simulated(2));
    let kept: Vec<_> = fs::read_dir(data.join("raft"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("before-recovery-"))
        .collect();
    let [kept] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(fs::read(kept.join("node.json")).unwrap(), identity);
    assert_eq!(fs::read(kept.join("peers.json")).unwrap(), asked);
    assert!(kept.join("state").exists() && kept.join("incarnation").exists());
    assert_eq!(fs::read(data.join("raft/peers.info")).unwrap(), asked);
    ask_for_recovery(&data, ADDRESS);
    let second = open_and_look(&data, simulated(3));
    assert_ne!(first.cluster, second.cluster);
    assert_eq!(second, Found { recoveries: 2, ..expected(&second.cluster) });
}

/// Others may have made an entry durable, and this node may have applied it, before its own log had it.
#[test]
fn a_database_that_is_further_on_than_the_log_is_kept() {
    let root = used();
    let data = root.path().join("data");
    let (log, recovery) =
        Log::open(simulated(1).files, &data.join("raft"), options(&data).log).unwrap();
    log.truncate_after(Some(recovery.next - 2), Box::new(|done| done.unwrap())).unwrap();
    log.close();
    drop(log);
    ask_for_recovery(&data, ADDRESS);
    simulated_runtime().block_on(async {
        let node = Node::open_alone(named(&data), simulated(2)).await.unwrap();
        let found = look(&node, &data).await;
        assert_eq!(found.rows, [Value::Integer(3)]);
        let records = node.inner().log.read(0..u64::MAX).unwrap();
        assert_eq!(records[0].index, recovery.next, "behind what is applied");
        assert!(records[0].term > 1_000_000);
        node.shutdown().await;
    });
}

#[test]
fn what_cannot_be_recovered_is_refused_and_nothing_changes() {
    let root = used();
    simulated_runtime().block_on(refused(&root));
}

async fn refused(root: &TempDir) {
    let data = root.path().join("data");
    let peers = data.join("raft/peers.json");
    let before = fs::read(data.join("node.json")).unwrap();
    for (text, expected) in [
        ("[", "failed to read peers file: EOF"),
        ("[]", "failed to read peers file: need at least one voter in configuration"),
        (
            r#"[{"id": "a", "address": "tcp://a:1"}]"#,
            "failed to recover node: protocol specified in address: tcp://a:1",
        ),
        (
            r#"[{"id": "a", "address": "a:1"}, {"id": "zoe", "address": "z:1"}]"#,
            "failed to recover node: node zoe is not known here, the members are a (10.0.0.7:4002): recover with \
             known nodes, then join others afresh",
        ),
    ] {
        fs::write(&peers, text).unwrap();
        let error = Node::open(named(&data), simulated(2)).await.err().expect(text);
        assert!(error.to_string().starts_with(expected), "{text}: {error}");
        assert_eq!(fs::read_to_string(&peers).unwrap(), text, "the file is kept");
        assert_eq!(fs::read(data.join("node.json")).unwrap(), before);
        assert!(!data.join("raft/recovery.plan").exists());
    }
    let empty = scratch_directory();
    fs::create_dir(empty.path().join("raft")).unwrap();
    ask_for_recovery(empty.path(), ADDRESS);
    let error = Node::open(named(empty.path()), simulated(2)).await.err().unwrap();
    assert!(error.to_string().contains("belongs to no cluster yet"), "{error}");
    // Nobody is left who would hold the lock.
    fs::remove_file(&peers).unwrap();
    let node = Node::open_alone(named(&data), simulated(2)).await.unwrap();
    node.shutdown().await;
}
