//! A file system that fills up and is freed: writes are refused, reads go on, and everything
//! resumes by itself; whatever was acknowledged is there, also after a kill.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rq_tests::{Node, NodeBuilder, Response};
use serde_json::json;
use tempfile::TempDir;

use crate::Suite;

/// The size of the file system.
const SIZE: u64 = 256 << 20;

/// The floor of free space the node is told to keep, where it is told.
const FLOOR: u64 = 32 << 20;

/// How long a client waits for the answer to a write before it counts its fate as unknown.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// How long recovery may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The suites of this file.
pub(crate) fn suites() -> Vec<Suite> {
    vec![
        Suite { name: "full_disk::below_the_floor", need: need_mount, run: below_the_floor },
        Suite { name: "full_disk::no_byte_left", need: need_mount, run: no_byte_left },
        Suite { name: "full_disk::filled_by_its_own_writes", need: need_mount, run: own_writes },
        Suite {
            name: "full_disk::a_write_larger_than_the_disk",
            need: need_mount,
            run: large_write,
        },
        Suite { name: "full_disk::killed_while_full", need: need_mount, run: killed_while_full },
        Suite { name: "full_disk::started_while_full", need: need_mount, run: started_while_full },
        Suite { name: "full_disk::a_sort_larger_than_the_disk", need: need_mount, run: large_sort },
    ]
}

fn need_mount() -> Result<(), String> {
    Disk::mount().map(drop)
}

/// A small file system in memory, unmounted when dropped.
struct Disk {
    place: TempDir,
}

impl Disk {
    fn mount() -> Result<Self, String> {
        let place = TempDir::with_prefix("rq-disk-").map_err(|error| error.to_string())?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"])
            .arg(place.path())
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        if output.status.success() {
            return Ok(Self { place });
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("a file system cannot be mounted (root is needed): {message}"))
    }

    fn path(&self) -> &Path {
        self.place.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn free(&self) -> u64 {
        let space = rustix::fs::statvfs(self.path()).unwrap();
        space.f_bavail * space.f_frsize
    }

    /// Takes space until only this much is left.
    fn fill(&self, left: u64) {
        let mut file = File::options().create(true).append(true).open(self.filler()).unwrap();
        let chunk = vec![0; 64 << 10];
        while self.free() > left {
            let wanted = usize::try_from((self.free() - left).min(chunk.len() as u64)).unwrap();
            if file.write(&chunk[..wanted]).is_err() {
                break;
            }
        }
    }

    fn release(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// A node whose data lie here, with a table. What it logs about its trouble is no failure.
    fn node(&self, flags: &[&str]) -> Node {
        let node = self.builder(flags).start();
        node.execute(r#"["CREATE TABLE t(n INTEGER, pad BLOB)"]"#);
        node
    }

    fn builder(&self, flags: &[&str]) -> NodeBuilder {
        Node::builder()
            .directory(&self.path().join("data"))
            .flags(flags.iter().copied())
            .errors_expected()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "umount {}", self.path().display());
    }
}

/// Numbers rows, and knows which were acknowledged.
#[derive(Default)]
struct Rows {
    next: u64,
    acknowledged: Vec<u64>,
    unknown: Vec<u64>,
}

impl Rows {
    /// Inserts one row with this much padding.
    fn insert(&mut self, node: &Node, pad: u64) -> Option<Response> {
        self.next += 1;
        let body = json!([["INSERT INTO t VALUES(?, randomblob(?))", self.next, pad]]);
        let request = rq_tests::Request::post("/db/execute", body.to_string());
        // A write that meets the end of the disk while it is applied is in the log already: its
        // answer comes when there is room again, so the client gives up first.
        let answer = node.try_connect().and_then(|mut connection| {
            connection.set_read_timeout(ANSWER_TIME)?;
            connection.request(&request)
        });
        let Ok(answer) = answer else {
            self.unknown.push(self.next);
            return None;
        };
        if answer.status == 200 && !answer.text().contains("error") {
            self.acknowledged.push(self.next);
        } else if !answer.header("x-rq-error").unwrap_or_default().contains("outcome=not-done") {
            self.unknown.push(self.next);
        }
        Some(answer)
    }

    /// Every acknowledged row once, no other but those of unknown fate, and a sound file.
    fn check(&self, node: &Node) {
        let mut unseen = self.acknowledged.clone();
        for row in node.rows("SELECT n, count(*) FROM t GROUP BY n") {
            let n = row[0].as_u64().unwrap();
            assert_eq!(row[1], 1, "row {n} is there more than once");
            match unseen.iter().position(|expected| *expected == n) {
                Some(place) => drop(unseen.swap_remove(place)),
                None => assert!(self.unknown.contains(&n), "row {n} was refused and is there"),
            }
        }
        assert!(unseen.is_empty(), "acknowledged rows are missing: {unseen:?}");
        assert_eq!(node.value("PRAGMA integrity_check"), "ok");
    }

    /// Writes until a write is refused, and returns that answer.
    fn until_refused(&mut self, node: &Node, pad: u64) -> Response {
        let start = Instant::now();
        loop {
            let answer = self.insert(node, pad);
            if let Some(answer) = answer.filter(|answer| answer.status != 200) {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "no write was refused");
        }
    }

    /// Writes until a write succeeds again.
    fn until_accepted(&mut self, node: &Node) {
        let start = Instant::now();
        while self.insert(node, 10).is_none_or(|answer| answer.status != 200) {
            assert!(start.elapsed() < PATIENCE, "writes do not resume:\n{}", node.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn assert_507(answer: &Response) {
    assert_eq!(answer.status, 507, "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let code = answer.header("x-rq-error").unwrap_or_default();
    assert!(code.contains("outcome=not-done"), "{answer:?}");
}

/// Reads go on. Where an entry waits to be applied, only those that need not wait for it.
fn assert_reads(node: &Node, levels: &[&str]) {
    for level in levels {
        let answer =
            node.post(&format!("/db/query?level={level}"), r#"["SELECT count(*) FROM t"]"#);
        assert!(answer.json()["results"][0]["values"][0][0].is_u64(), "{level}: {answer:?}");
    }
    assert_eq!(node.get("/status").status, 200);
}

fn below_the_floor() {
    let disk = Disk::mount().unwrap();
    let mut node = disk.node(&[&format!("-limit-free-space={FLOOR}")]);
    let mut rows = Rows::default();
    for _ in 0..20 {
        rows.insert(&node, 100);
    }
    for _ in 0..3 {
        disk.fill(FLOOR / 2);
        assert_507(&rows.until_refused(&node, 100));
        assert_reads(&node, &["none", "weak", "linearizable"]);
        // Each way of writing says the same.
        assert_507(&node.post("/db/request", r#"["INSERT INTO t VALUES(0, 0)"]"#));
        rows.check(&node);
        disk.release();
        rows.until_accepted(&node);
    }
    rows.check(&node);
    assert_eq!(node.stop(), 0);
    node.restart();
    rows.check(&node);
    assert_eq!(node.stop(), 0);
}

fn no_byte_left() {
    let disk = Disk::mount().unwrap();
    let mut node = disk.node(&["-limit-free-space=0", "-raft-snap-int=100ms"]);
    let mut rows = Rows::default();
    for round in 0..3 {
        for _ in 0..20 {
            rows.insert(&node, 1000);
        }
        disk.fill(0);
        // Room that was taken in advance may serve some writes yet.
        let refused = rows.until_refused(&node, 300_000);
        assert!(matches!(refused.status, 503 | 507), "{refused:?}");
        assert!(
            node.process().try_wait().is_none(),
            "round {round}: the node died:\n{}",
            node.log()
        );
        assert_reads(&node, &["none", "weak"]);
        disk.release();
        rows.until_accepted(&node);
        rows.check(&node);
    }
    node.kill();
    node.restart();
    rows.check(&node);
    assert_eq!(node.stop(), 0);
}

fn own_writes() {
    let disk = Disk::mount().unwrap();
    let mut node = disk.node(&[&format!("-limit-free-space={FLOOR}")]);
    let mut rows = Rows::default();
    disk.fill(FLOOR + (8 << 20));
    let refused = rows.until_refused(&node, 500_000);
    assert_507(&refused);
    assert_reads(&node, &["none", "weak", "linearizable"]);
    disk.release();
    rows.until_accepted(&node);
    rows.check(&node);
    assert_eq!(node.stop(), 0);
}

/// The budget of pages is larger than the disk by far: the statement fails by what there is room for, and leaves
/// nothing behind that the node could not do without.
fn large_write() {
    let disk = Disk::mount().unwrap();
    let mut node = disk.node(&["-limit-free-space=0"]);
    let mut rows = Rows::default();
    rows.insert(&node, 1000);
    let large = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 100) \
                 INSERT INTO t SELECT NULL, zeroblob(10000000) FROM c";
    let request = rq_tests::Request::post("/db/execute", json!([large]).to_string());
    let answer = node.try_connect().unwrap().request(&request).unwrap();
    let text = answer.text();
    assert!(
        answer.status == 200 && text.contains("would add more than"),
        "{} {text}",
        answer.status
    );
    rows.insert(&node, 1000);
    rows.check(&node);
    node.kill();
    node.restart();
    rows.insert(&node, 1000);
    rows.check(&node);
    assert_eq!(node.stop(), 0);
}

fn killed_while_full() {
    let disk = Disk::mount().unwrap();
    let mut node = disk.node(&["-limit-free-space=0", "-raft-snap-int=100ms"]);
    let mut rows = Rows::default();
    for _ in 0..20 {
        rows.insert(&node, 1000);
    }
    disk.fill(0);
    rows.until_refused(&node, 300_000);
    node.kill();
    disk.release();
    node.restart();
    rows.check(&node);
    rows.until_accepted(&node);
    rows.check(&node);
    assert_eq!(node.stop(), 0);
}

fn started_while_full() {
    let disk = Disk::mount().unwrap();
    let mut node = disk.node(&[&format!("-limit-free-space={FLOOR}")]);
    let mut rows = Rows::default();
    for _ in 0..20 {
        rows.insert(&node, 1000);
    }
    node.kill();
    disk.fill(1 << 20);
    // It starts and reads; what it cannot do, it says.
    let mut node = disk.builder(&[&format!("-limit-free-space={FLOOR}")]).spawn();
    let start = Instant::now();
    while !node.try_connect().is_ok_and(|mut connection| {
        let read = rq_tests::Request::post("/db/query?level=none", r#"["SELECT count(*) FROM t"]"#);
        connection.request(&read).is_ok_and(|answer| {
            answer.status == 200 && answer.text().contains(r#""values":[[20]]"#)
        })
    }) {
        let ended = node.process().try_wait();
        assert!(ended.is_none(), "the node ended with {ended:?}:\n{}", node.log());
        assert!(start.elapsed() < PATIENCE, "no read is served:\n{}", node.log());
        thread::sleep(Duration::from_millis(50));
    }
    disk.release();
    rows.until_accepted(&node);
    rows.check(&node);
    assert_eq!(node.stop(), 0);
}

fn large_sort() {
    // What a statement spills into temporary files counts against what its request may use; or else
    // one statement could never be applied, here or on any node, and all writes would wait behind it.
    let disk = Disk::mount().unwrap();
    let mut node = disk.node(&["-limit-write-pages=10000", "-limit-request-time=20s"]);
    let mut rows = Rows::default();
    rows.insert(&node, 100);
    let sql = "CREATE TABLE u AS WITH c(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM c) \
               SELECT hex(zeroblob(1000)) AS v FROM c ORDER BY random()";
    let answer = node.post("/db/execute", json!([sql]).to_string());
    assert_eq!(answer.status, 200, "{answer:?}\n{}", node.log());
    assert!(answer.json()["results"][0]["error"].is_string(), "{answer:?}");
    rows.until_accepted(&node);
    rows.check(&node);
    assert_eq!(node.stop(), 0);
}
