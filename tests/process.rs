//! The process as a shell, a supervisor or a script sees it: exit codes, streams, signals, files.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

use rq_tests::{Authority, Connection, Node, Process, Random, Request, binaries};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a process may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program that ended at once left behind.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(program: &Path, arguments: &[&str]) -> Ended {
    let mut process = Process::start(program, arguments);
    let status: ExitStatus = process.wait(PATIENCE);
    Ended {
        code: status.code(),
        stdout: process.stdout().join("\n"),
        stderr: process.stderr().join("\n"),
    }
}

fn rqd(arguments: &[&str]) -> Ended {
    run(binaries::rqd(), arguments)
}

#[test]
fn version_goes_to_stderr() {
    let ended = rqd(&["-version"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""));
    let mut words = ended.stderr.split(' ');
    assert_eq!(words.next(), Some("rqd"), "{}", ended.stderr);
    assert!(ended.stderr.contains(" sqlite3.") && ended.stderr.contains("(commit "));
    assert_eq!(ended.stderr.lines().count(), 1);
    assert_eq!(rqd(&["--version=true", "-fk"]).code, Some(0));
}

#[test]
fn the_name_it_is_called_by_is_the_name_it_says() {
    let place = TempDir::new().unwrap();
    let link = place.path().join("rqlited");
    symlink(binaries::rqd(), &link).unwrap();
    let version = run(&link, &["-version"]);
    assert!(version.stderr.starts_with("rqlited "), "{}", version.stderr);
    let usage = run(&link, &["-h"]);
    assert!(usage.stderr.contains("rqlited [flags] <data directory>"), "{}", usage.stderr);
    // And it runs under that name.
    let mut node = Node::builder().program(&link).start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    assert_eq!(node.stop(), 0);
}

#[test]
fn usage_goes_to_stderr_with_exit_code_0() {
    for flag in ["-h", "-help", "--help"] {
        let ended = rqd(&[flag]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{flag}");
        assert!(ended.stderr.starts_with('\n'), "usage begins with an empty line");
        assert!(ended.stderr.contains("rqd [flags] <data directory>"), "{}", ended.stderr);
        for line in
            ["  -http-addr string", "  -fk", "  -raft-snap uint", "  -limit-body-bytes uint"]
        {
            assert!(ended.stderr.contains(line), "{line:?} is missing:\n{}", ended.stderr);
        }
    }
}

#[test]
fn bad_command_lines_end_with_their_code_and_text() {
    let place = TempDir::new().unwrap();
    let directory = place.path().join("data");
    let dir = directory.to_str().unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        // Syntax: 2.
        (&["-nope", dir], 2, "flag provided but not defined: -nope"),
        (&["-raft-snap", "x", dir], 2, "invalid value \"x\" for flag -raft-snap: parse error"),
        (&["-raft-snap=-1", dir], 2, "invalid value \"-1\" for flag -raft-snap"),
        (
            &["-raft-snap-int", "5", dir],
            2,
            "invalid value \"5\" for flag -raft-snap-int: parse error",
        ),
        (&["-fk=maybe", dir], 2, "invalid boolean value \"maybe\" for -fk"),
        (&["-http-addr"], 2, "flag needs an argument: -http-addr"),
        (&["-raft-timeout", "1s", dir], 2, "flag provided but not defined: -raft-timeout"),
        // What it means: 1.
        (&[], 1, "missing required argument: DataPath"),
        (&["-fk"], 1, "data directory path is required"),
        (&[dir, "-fk"], 1, "are not accepted ([-fk])"),
        (&["-fk", "true", "x"], 1, "arguments after data directory"),
        (&["-http-addr", "nope", dir], 1, "fatal: HTTP bind address not valid"),
        (
            &["-http-addr", "http://x:1", dir],
            1,
            "should not include protocol (http:// or https://)",
        ),
        (&["-raft-addr", "localhost:4001", dir], 1, "fatal: HTTP and Raft addresses must differ"),
        (&["-raft-addr", "localhost:x", dir], 1, "fatal: raft bind port not valid"),
        (&["-http-addr", "0.0.0.0:4001", dir], 1, "is not routable"),
        (
            &["-http-cert", "c.pem", dir],
            1,
            "either both -http-cert and -http-key must be set, or neither",
        ),
        (
            &["-http-verify-common-name", "cn", dir],
            1,
            "-http-verify-common-name requires -http-verify-client",
        ),
        (&["-raft-reap-node-timeout=0h", dir], 1, "-raft-reap-node-timeout must be greater than 0"),
        (
            &["-disco-mode", "x", dir],
            1,
            "disco mode must be one of consul-kv, etcd-kv, dns, or dns-srv",
        ),
        (&["-otlp-interval", "0s", "-otlp-endpoint", "x:1", dir], 1, "must be greater than zero"),
        (&["-extensions-path", "/nope", dir], 1, "extension path does not exist: /nope"),
        // Features of later versions: refused with a sentence.
        (&["-disco-key", "k", dir], 1, "-disco-key"),
        (&["-auto-backup", "b.json", dir], 1, "-auto-backup"),
        (&["-cdc-config", "stdout", dir], 1, "-cdc-config"),
        // What contradicts itself about clusters.
        (&["-join", "other", dir], 1, "other is an invalid join address"),
        (&["-join", "localhost:4002", dir], 1, "node cannot join with itself unless bootstrapping"),
        (
            &["-bootstrap-expect", "3", "-raft-non-voter", dir],
            1,
            "bootstrapping only applicable to voting nodes",
        ),
        (&["-node-ca-cert", "ca.pem", dir], 1, "-node-ca-cert requires -node-cert and -node-key"),
    ];
    for (arguments, code, text) in cases {
        let ended = rqd(arguments);
        assert_eq!(ended.code, Some(*code), "{arguments:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert!(ended.stderr.contains(text), "{arguments:?}: {text:?} not in\n{}", ended.stderr);
        let usage = ended.stderr.contains("[flags] <data directory>");
        assert_eq!(usage, *code == 2, "{arguments:?}: usage follows syntax errors only");
    }
    assert!(!directory.exists(), "a refused command line creates nothing");
}

#[test]
fn flags_at_their_defaults_and_last_one_wins() {
    let mut node = Node::builder()
        .flags(["-disco-key=rqlite", "-join-attempts", "5", "--bootstrap-expect-timeout=120s"])
        .flags(["-fk=false", "-fk", "-raft-snap", "0x2000", "-compress-snap-transport=F"])
        .start();
    assert_eq!(node.get("/status?key=store.db_conf.fk_constraints").json(), true);
    let threshold = node.get("/status?key=store.snapshot_threshold").json();
    assert_eq!(threshold, 8192);
    assert_eq!(node.stop(), 0);
}

#[test]
fn profiling_flags_warn() {
    let place = TempDir::new().unwrap();
    let profile = place.path().join("cpu.pprof");
    let mut node = Node::builder().flags(["-cpu-profile", profile.to_str().unwrap()]).start();
    assert!(node.log().contains("-cpu-profile"), "{}", node.log());
    assert_eq!(node.stop(), 0);
}

#[test]
fn standard_output_stays_empty_and_the_log_tells_the_story() {
    let mut node = Node::builder().flags(["-node-id=n1"]).start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    // Who notices it does so in its own time.
    let start = Instant::now();
    while !node.log().contains("is now Leader") && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
    let (http, raft) = (node.http_addr().to_owned(), node.raft_addr().to_owned());
    let directory = node.directory().to_str().unwrap().to_owned();
    assert_eq!(node.stop(), 0);
    let log = node.process().stderr();
    assert_eq!(node.process().stdout(), Vec::<String>::new());
    let story = [
        " starting, version ".to_owned(),
        "launch command: ".to_owned(),
        format!("no preexisting node state detected in {directory}"),
        "[http] ".to_owned(),
        format!("opening store with node ID n1, listening on {raft}"),
        format!("node HTTP API available at http://{http}"),
        "received signal \"terminated\"".to_owned(),
        "server stopped".to_owned(),
    ];
    // Told by whoever notices it, before or after the node calls itself available.
    assert!(log.iter().any(|line| line.contains("is now Leader")), "{}", log.join("\n"));
    let mut lines = log.iter();
    for text in &story {
        assert!(
            lines.any(|line| line.contains(text)),
            "{text:?} is missing in\n{}",
            log.join("\n")
        );
    }
    for line in &log {
        let parts: Vec<_> = line.splitn(4, ' ').collect();
        let component = parts[0].strip_prefix('[').and_then(|part| part.strip_suffix(']'));
        assert!(component.is_some() && is_date(parts[1]) && is_time(parts[2]), "layout: {line}");
    }
    node.restart();
    assert!(node.log().contains(&format!("preexisting node state detected in {directory}")));
    assert!(!node.log().contains("no preexisting node state"));
    assert_eq!(node.stop(), 0);
}

fn is_date(text: &str) -> bool {
    shape(text) == "0000/00/00"
}

fn is_time(text: &str) -> bool {
    shape(text) == "00:00:00"
}

fn shape(text: &str) -> String {
    text.chars().map(|character| if character.is_ascii_digit() { '0' } else { character }).collect()
}

#[test]
fn log_lines_as_json() {
    let mut node = Node::builder().flags(["-log-format", "json"]).start();
    assert_eq!(node.stop(), 0);
    let log = node.process().stderr();
    assert!(!log.is_empty());
    for line in log {
        let json: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(json.is_object(), "{line}");
    }
}

#[test]
fn log_level_off_logs_nothing() {
    let mut node = Node::builder().flags(["-log-level=off", "-raft-log-level=off"]).start();
    assert_eq!(node.stop(), 0);
    assert_eq!(node.process().stderr(), Vec::<String>::new());
}

#[test]
fn beyond_loopback_without_users_it_warns() {
    let node = Node::start();
    assert!(!node.log().contains("[WARN]"), "{}", node.log());
    let port = node.http_addr().rsplit_once(':').unwrap().1.to_owned();
    drop(node);
    let place = TempDir::new().unwrap();
    let process = Process::start(
        binaries::rqd(),
        &[
            "-http-addr",
            &format!("0.0.0.0:{port}"),
            "-http-adv-addr",
            &format!("127.0.0.1:{port}"),
            "-raft-addr",
            "127.0.0.1:0",
            place.path().join("data").to_str().unwrap(),
        ],
    );
    let start = Instant::now();
    while !process.stderr().iter().any(|line| line.contains("[WARN]")) {
        assert!(start.elapsed() < PATIENCE, "no warning in\n{}", process.stderr().join("\n"));
        thread::sleep(Duration::from_millis(10));
    }
    let status = loop {
        let answer = Connection::open(&format!("127.0.0.1:{port}"))
            .and_then(|mut connection| connection.request(&Request::get("/status?key=http")));
        match answer {
            Ok(answer) => break answer.json(),
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    let warnings = status["warnings"].as_array().expect("a list");
    assert!(!warnings.is_empty(), "status says it as well: {status}");
}

/// Certificates of one side prove to who dials whom it has reached, and to nobody who dials.
#[test]
fn an_internode_port_that_anybody_may_pass_at_warns() {
    let authority = Authority::create();
    authority.issue("node", "node");
    let secret = authority.path("secret");
    fs::write(&secret, "a secret that is long enough for everybody").unwrap();
    let file = |flag: &str, name: &str| format!("-node-{flag}={}", authority.path(name));
    let tls = vec![file("cert", "node.pem"), file("key", "node.key"), file("ca-cert", "ca.pem")];
    let mutual = [tls.clone(), vec!["-node-verify-client".to_owned()]].concat();
    for (flags, warns) in [
        (Vec::new(), true),
        (tls, true),
        (mutual, false),
        (vec![format!("-cluster-secret-file={secret}")], false),
    ] {
        let place = TempDir::new().unwrap();
        let directory = place.path().join("data").display().to_string();
        let mut arguments: Vec<_> = flags.iter().map(String::as_str).collect();
        arguments.extend(["-http-addr", "127.0.0.1:0", "-raft-addr", "0.0.0.0:0"]);
        arguments.extend(["-raft-adv-addr", "127.0.0.1:4002", directory.as_str()]);
        let process = Process::start(binaries::rqd(), &arguments);
        let start = Instant::now();
        while !process.stderr().iter().any(|line| line.contains("HTTP API available")) {
            assert!(start.elapsed() < PATIENCE, "not up:\n{}", process.stderr().join("\n"));
            thread::sleep(Duration::from_millis(10));
        }
        let said =
            process.stderr().iter().any(|line| line.contains("may pass for a node of the cluster"));
        assert_eq!(said, warns, "{flags:?}:\n{}", process.stderr().join("\n"));
    }
}

/// Whoever is no node, or sends what no node sends.
#[test]
fn strangers_on_the_internode_port_get_nothing() {
    let mut node = Node::start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    let mut random = Random::new(1);
    let mut greetings =
        vec![b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), vec![0; 100], vec![0xff; 100]];
    greetings.extend((0..20_usize).map(|length| random.bytes(1 + length * length)));
    for greeting in greetings {
        let mut stranger = Connection::open(node.raft_addr()).unwrap();
        // It may have been turned away already.
        let sent = stranger.send_bytes(&greeting).and_then(|()| stranger.close_sending());
        match stranger.receive_to_end() {
            Ok(answer) => assert_eq!(answer, b"", "{greeting:?}: {sent:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    assert_eq!(node.value("SELECT count(*) FROM t"), 0);
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let mut node = Node::start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    let pid = node.process().id().to_string();
    let second = rqd(&[
        "-http-addr",
        "127.0.0.1:19998",
        "-raft-addr",
        "127.0.0.1:19999",
        node.directory().to_str().unwrap(),
    ]);
    assert_eq!(second.code, Some(1), "{}", second.stderr);
    assert!(second.stderr.contains(&pid), "{pid} is not named:\n{}", second.stderr);
    // The first one does not notice.
    node.execute(r#"["INSERT INTO t VALUES(1)"]"#);
    node.kill();
    // A kill leaves no lock behind.
    node.restart();
    assert_eq!(node.value("SELECT count(*) FROM t"), 1);
    assert_eq!(node.stop(), 0);
}

#[test]
fn another_node_id_is_refused_and_the_old_one_named() {
    let mut node = Node::builder().flags(["-node-id=first"]).start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    assert_eq!(node.stop(), 0);
    let (http, raft) = (node.http_addr().to_owned(), node.raft_addr().to_owned());
    let directory = node.directory().to_str().unwrap().to_owned();
    let before = listing(node.directory());
    let refused = rqd(&["-http-addr", &http, "-raft-addr", &raft, "-node-id=second", &directory]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("first"), "{}", refused.stderr);
    assert_eq!(listing(node.directory()), before, "a refused start changes nothing");
    // Without the flag the stored name holds.
    node.restart_with(&[]);
    assert_eq!(node.get("/status?key=store.node_id").json(), "first");
    assert_eq!(node.stop(), 0);
}

/// Names, sizes and modification times of all files but the lock, which every start takes.
fn listing(directory: &Path) -> Vec<(String, u64, i64, i64)> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let (path, metadata) = (entry.path(), entry.metadata().unwrap());
        if metadata.is_dir() {
            entries.extend(listing(&path));
        } else if !path.ends_with("node.lock") {
            let name = path.to_str().unwrap().to_owned();
            entries.push((name, metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
        }
    }
    entries.sort();
    entries
}

/// Starts a node again that was stopped, and expects it to refuse: exit code 1 and a sentence.
fn refused(node: &Node, what: &str) -> String {
    let refused = rqd(&[
        "-http-addr",
        node.http_addr(),
        "-raft-addr",
        node.raft_addr(),
        node.directory().to_str().unwrap(),
    ]);
    assert_eq!(refused.code, Some(1), "{what}: {}", refused.stderr);
    assert!(!refused.stderr.contains("panicked"), "{what}: {}", refused.stderr);
    refused.stderr
}

/// A stopped node with some rows, all of them in the log and in the file.
fn stopped_with_data() -> Node {
    let mut node = Node::builder().errors_expected().start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    for number in 0..20 {
        node.execute(&format!(r#"["INSERT INTO t VALUES({number})"]"#));
    }
    assert_eq!(node.stop(), 0);
    node
}

#[test]
fn damaged_files_are_refused_with_a_sentence_and_kept() {
    let garbage = "this is not what it should be\n".repeat(1000);
    for file in ["db.sqlite", "node.json"] {
        let mut node = stopped_with_data();
        let path = node.directory().join(file);
        // A database in WAL mode is file and WAL together; both go.
        let kept = TempDir::new().unwrap();
        let names = [file.to_owned(), format!("{file}-wal"), format!("{file}-shm")];
        for name in names.iter().filter(|name| node.directory().join(name).exists()) {
            fs::rename(node.directory().join(name), kept.path().join(name)).unwrap();
        }
        fs::write(&path, &garbage).unwrap();
        let sentence = refused(&node, file);
        assert!(sentence.contains(file), "{file} is not named in\n{sentence}");
        assert_eq!(fs::read_to_string(&path).unwrap(), garbage, "{file} was changed");
        fs::remove_file(&path).unwrap();
        for name in names.iter().filter(|name| kept.path().join(name).exists()) {
            fs::copy(kept.path().join(name), node.directory().join(name)).unwrap();
        }
        node.restart();
        assert_eq!(node.value("SELECT count(*) FROM t"), 20);
        assert_eq!(node.stop(), 0);
    }
}

#[test]
fn a_database_that_is_gone_is_not_replaced_by_an_empty_one() {
    // The log was purged, so it cannot bring back what the file held.
    let mut node = stopped_with_data();
    node.restart_with(&[]);
    assert_eq!(node.post("/snapshot?trailing_logs=1", b"").status, 200);
    let start = Instant::now();
    while node.get("/status?key=store.raft.first_log_index").json().as_u64() < Some(20) {
        assert!(start.elapsed() < PATIENCE, "the log is not purged:\n{}", node.log());
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(node.stop(), 0);
    for name in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"] {
        drop(fs::remove_file(node.directory().join(name)));
    }
    refused(&node, "a missing database");
    refused(&node, "a missing database, again");
}

#[test]
fn damage_in_the_middle_of_the_log_is_reported_never_skipped() {
    let node = stopped_with_data();
    let raft = node.directory().join("raft");
    let mut hit = None;
    for entry in fs::read_dir(&raft).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        // The text of an early statement, well before the last record.
        let text = b"INSERT INTO t VALUES(3)";
        let Some(place) = bytes.windows(text.len()).position(|window| window == text) else {
            continue;
        };
        bytes[place] ^= 0x20;
        fs::write(&path, bytes).unwrap();
        hit = Some(path);
    }
    let path = hit.expect("a segment holds the statement");
    // The file holds the rows already; without it they must come from the log.
    for name in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"] {
        drop(fs::remove_file(node.directory().join(name)));
    }
    let sentence = refused(&node, "a damaged log");
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(sentence.contains(name), "{name} is not named in\n{sentence}");
    assert!(sentence.contains("offset") || sentence.contains("byte"), "no place in\n{sentence}");
}

#[test]
fn who_has_lost_log_and_database_says_so_and_does_not_wait_for_a_leader() {
    let mut node = Node::builder().errors_expected().start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    node.kill();
    let raft = node.directory().join("raft");
    for entry in fs::read_dir(&raft).unwrap().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("segment-")) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    // Nothing was written to the database itself yet.
    for name in ["db.sqlite-wal", "db.sqlite-shm"] {
        drop(fs::remove_file(node.directory().join(name)));
    }
    let sentence = refused(&node, "a log and a database that are gone");
    assert!(sentence.contains("files of its data directory are gone"), "{sentence}");
}

#[test]
fn a_log_that_ends_before_its_database_is_no_unfinished_write() {
    let mut node = stopped_with_data();
    let raft = node.directory().join("raft");
    let path = raft.join("segment-00000000000000000001.log");
    let mut bytes = fs::read(&path).unwrap();
    let text = b"INSERT INTO t VALUES(9)";
    let place = bytes.windows(text.len()).position(|window| window == text);
    let place = place.expect("the segment holds the statement");
    bytes[place..].fill(0);
    fs::write(&path, bytes).unwrap();
    node.restart();
    let log = node.log();
    assert!(!log.contains("nobody had been told"), "{log}");
    let told = log.lines().find(|line| line.contains("the raft log ends at entry "));
    assert!(told.is_some_and(|line| line.contains("the database holds entries up to ")), "{log}");
    assert_eq!(node.value("SELECT count(*) FROM t"), 20);
    node.execute(r#"["INSERT INTO t VALUES(20)"]"#);
    node.kill();
    node.restart();
    assert_eq!(node.value("SELECT count(*) FROM t"), 21);
}

#[test]
fn a_directory_of_a_newer_format_is_refused() {
    let mut node = Node::builder().errors_expected().start();
    assert_eq!(node.stop(), 0);
    let path = node.directory().join("node.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let format = ["format_version", "format", "version"]
        .into_iter()
        .find(|key| json.get(*key).is_some_and(Value::is_number))
        .unwrap_or_else(|| panic!("node.json has no format version: {json}"));
    json[format] = json!(json[format].as_u64().unwrap() + 1000);
    fs::write(&path, json.to_string()).unwrap();
    let sentence = refused(&node, "a newer format");
    assert!(sentence.contains("newer"), "{sentence}");
}

#[test]
fn what_it_creates_is_for_its_user_alone() {
    let mut node = Node::start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    let place = node.directory().to_owned();
    check_modes(&place);
    for name in ["db.sqlite", "raft", "scratch", "node.json", "node.lock"] {
        assert!(place.join(name).exists(), "{name} is missing");
    }
    assert_eq!(node.stop(), 0);
}

fn check_modes(directory: &Path) {
    let mode = fs::metadata(directory).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700, "{}", directory.display());
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        // SQLite may remove a file between the listing and the look.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            check_modes(&path);
        } else {
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
    }
}

#[test]
fn foreign_files_are_left_alone() {
    let place = TempDir::new().unwrap();
    let directory = place.path().join("data");
    fs::create_dir_all(directory.join("lost+found")).unwrap();
    fs::write(directory.join("notes.txt"), "mine").unwrap();
    fs::write(directory.join("lost+found/x"), "mine").unwrap();
    let mut node = Node::builder().directory(&directory).start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    assert_eq!(node.stop(), 0);
    node.restart();
    assert_eq!(node.stop(), 0);
    assert_eq!(fs::read_to_string(directory.join("notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(directory.join("lost+found/x")).unwrap(), "mine");
}

#[test]
fn the_database_is_an_ordinary_file() {
    let mut node = Node::start();
    node.execute(r#"["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]"#);
    assert_eq!(node.stop(), 0);
    let header = fs::read(node.directory().join("db.sqlite")).unwrap();
    assert!(header.starts_with(b"SQLite format 3\0"));
}

#[test]
fn a_signal_stops_it_in_time_whatever_runs() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = Node::builder().flags(["-limit-query-time=10m"]).start();
        node.execute(r#"["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]"#);
        // An idle connection, a request half sent, and a read that would take for ever.
        let idle = node.connect();
        let mut half = node.connect();
        half.send_bytes(b"POST /db/execute HTTP/1.1\r\nContent-Length: 10\r\n\r\n[").unwrap();
        let mut endless = node.connect();
        let sql =
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";
        endless.send(&Request::post("/db/query", json!([sql]).to_string())).unwrap();
        thread::sleep(Duration::from_millis(200));
        node.process().signal(signal);
        let status = node.process().wait(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0), "{}", node.log());
        drop((idle, half, endless));
        node.restart();
        assert_eq!(node.value("SELECT count(*) FROM t"), 1);
        assert_eq!(node.stop(), 0);
    }
}

/// A write cannot be undone by a signal: it is abandoned, its client is told that nobody knows, and the
/// next start finishes it.
#[test]
fn a_signal_stops_it_in_time_although_a_write_runs() {
    // Some seconds of work: longer than the patience of a stop, short enough to be done again.
    let long = "INSERT INTO t SELECT count(*) FROM (WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL \
                SELECT x+1 FROM c LIMIT 30000000) SELECT x FROM c)";
    let mut node = Node::builder().flags(["-limit-write-steps=0"]).start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    let mut writer = node.connect();
    writer.send(&Request::post("/db/execute", json!([long]).to_string())).unwrap();
    thread::sleep(Duration::from_millis(300));
    // It waits behind the long one.
    let mut second = node.connect();
    let insert = json!(["INSERT INTO t VALUES(7)"]).to_string();
    second.send(&Request::post("/db/execute", insert)).unwrap();
    thread::sleep(Duration::from_millis(200));
    node.process().signal(Signal::TERM);
    let status = node.process().wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{}", node.log());
    for client in [&mut writer, &mut second] {
        let answer = client.receive().expect("an answer before the end");
        // A machine may be fast enough to have done it; otherwise nobody knows, and that is said.
        let said = (answer.status, answer.header("X-Rq-Error"));
        let unknown = (503, Some("outcome_unknown; outcome=unknown"));
        assert!(said == unknown || said == (200, None), "{said:?} {}", answer.text());
    }
    node.restart();
    assert_eq!(node.value("SELECT count(*) FROM t WHERE a = 30000000"), 1, "done, and done once");
    assert_eq!(node.value("SELECT count(*) FROM t WHERE a = 7"), 1);
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_second_signal_stops_it_at_once() {
    let mut node = Node::builder().flags(["-limit-query-time=10m"]).errors_expected().start();
    let mut endless = node.connect();
    let sql =
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";
    endless.send(&Request::post("/db/query", json!([sql]).to_string())).unwrap();
    thread::sleep(Duration::from_millis(100));
    node.process().signal(Signal::TERM);
    // Two of a kind at the same moment would be one.
    let start = Instant::now();
    while !node.log().contains("received signal \"terminated\"") {
        assert!(start.elapsed() < PATIENCE, "{}", node.log());
        thread::sleep(Duration::from_millis(5));
    }
    node.process().signal(Signal::INT);
    let status = node.process().wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(1), "not everything was finished: {}", node.log());
    assert!(node.log().contains("ending at once"), "{}", node.log());
    node.restart();
    assert_eq!(node.stop(), 0);
}

#[test]
fn http_answers_from_the_first_moment_to_the_last() {
    // Every endpoint, before, while and after the store opens: a documented answer or none.
    let mut node = Node::start();
    node.execute(r#"["CREATE TABLE t(a)"]"#);
    for _ in 0..3 {
        node.kill();
        let directory = node.directory().to_owned();
        let mut early = Process::start(
            binaries::rqd(),
            &[
                "-http-addr",
                node.http_addr(),
                "-raft-addr",
                node.raft_addr(),
                directory.to_str().unwrap(),
            ],
        );
        let start = Instant::now();
        let mut ready = false;
        while !ready {
            assert!(start.elapsed() < PATIENCE, "{}", early.stderr().join("\n"));
            ready = hammer(node.http_addr());
        }
        early.signal(Signal::TERM);
        while early.try_wait().is_none() {
            hammer(node.http_addr());
        }
        assert_eq!(early.wait(PATIENCE).code(), Some(0), "{}", early.stderr().join("\n"));
        node.restart();
    }
    assert_eq!(node.stop(), 0);
}

/// Asks every endpoint once; returns whether the node said it was ready.
fn hammer(address: &str) -> bool {
    let requests: &[(Request, &[u16])] = &[
        (Request::get("/status"), &[200]),
        (Request::get("/readyz?noleader"), &[200]),
        (Request::get("/nodes"), &[200, 503]),
        (Request::get("/leader"), &[200, 503]),
        (Request::get("/debug/vars"), &[200]),
        (Request::post("/db/execute", r#"["INSERT INTO t VALUES(1)"]"#), &[200, 503]),
        (Request::post("/db/query", r#"["SELECT count(*) FROM t"]"#), &[200, 503]),
        (Request::post("/db/query?level=none", r#"["SELECT 1"]"#), &[200, 503]),
        (Request::post("/db/request?level=strong", r#"["SELECT 1"]"#), &[200, 503]),
        (Request::post("/db/execute?queue", r#"["INSERT INTO t VALUES(2)"]"#), &[200, 503]),
        (Request::post("/snapshot", b""), &[200, 204, 500, 503]),
        (Request::get("/readyz"), &[200, 503]),
    ];
    let mut ready = false;
    for (request, statuses) in requests {
        let answer =
            Connection::open(address).and_then(|mut connection| connection.request(request));
        let Ok(answer) = answer else { continue };
        let known = statuses.contains(&answer.status);
        assert!(
            known,
            "{} {}: {} {}",
            request.method,
            request.target,
            answer.status,
            answer.text()
        );
        ready = request.target == "/readyz" && answer.status == 200;
    }
    ready
}
