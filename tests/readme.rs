//! Executes `README.md`.
//!
//! The convention of its code blocks:
//!
//! - A `console` block holds commands, each after `$ `, and under each what it prints. All blocks
//!   are one session of `bash` in an empty directory.
//! - A command that begins with `cargo run` is executed for real, except that `--release` is left
//!   out (the test needs no second build). It gets a terminal of its own: it goes on while the later
//!   commands run and is stopped with SIGTERM at the end, unless a `kill -9` among them ended it. The
//!   session goes on when `/readyz` says so where `-http-addr` says, or on the default port. The lines under it are lines of its log, in order, others between them.
//! - In expected lines `[..]` stands for anything within the line, a line `...` for any lines.
//! - A `sh` block holds what is not executed here: the test command, one line that begins with
//!   `cargo test`. `.ci/run` reads that line from `README.md` and executes it.

use std::{
    env, fs,
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rq_tests::{Connection, Process, Request, binaries::workspace_root};
use rustix::process::Signal;
use tempfile::TempDir;

/// Where a node without flags answers.
const DEFAULT_ADDRESS: &str = "localhost:4001";

/// How long the first command may take to build and become ready.
const PATIENCE: Duration = Duration::from_secs(900);

/// A command and the lines expected under it.
#[derive(Debug)]
struct Step {
    command: String,
    expected: Vec<String>,
}

fn readme() -> String {
    fs::read_to_string(workspace_root().join("README.md")).unwrap()
}

/// The contents of all code blocks of a kind.
fn blocks(text: &str, kind: &str) -> Vec<Vec<String>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let content = lines.by_ref().take_while(|line| line.trim_start() != "```");
        let content: Vec<_> = content.map(str::to_owned).collect();
        if info == kind {
            blocks.push(content);
        }
    }
    blocks
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in blocks(text, "console").into_iter().flatten() {
        match line.strip_prefix("$ ") {
            Some(command) => {
                steps.push(Step { command: command.to_owned(), expected: Vec::new() });
            }
            None => steps.last_mut().expect("output stands under a command").expected.push(line),
        }
    }
    steps
}

#[test]
fn every_command_prints_what_it_says() {
    let steps = steps(&readme());
    assert!(
        steps.iter().any(|step| step.command.starts_with("cargo run")),
        "README.md does not start a node"
    );
    assert!(
        TcpStream::connect(DEFAULT_ADDRESS).is_err(),
        "something else answers at {DEFAULT_ADDRESS}; the commands of README.md would talk to it"
    );
    let place = TempDir::new().unwrap();
    let mut running = Vec::new();
    let mut kills = 0;
    for step in steps {
        kills += usize::from(step.command.starts_with("kill -9"));
        if step.command.starts_with("cargo run") {
            let mut process = Process::start_command(in_place(&step.command, place.path()));
            wait_ready(&mut process, &http_address(&step.command));
            check_log(&step, &process.stderr());
            running.push(process);
        } else {
            check_output(&step, place.path());
        }
    }
    let killed = |process: &mut Process| process.try_wait().is_some();
    let ended = running.iter_mut().map(killed).filter(|killed| *killed).count();
    assert_eq!(ended, kills, "every node but those killed still runs");
    for mut process in running {
        if process.try_wait().is_some() {
            continue;
        }
        process.signal(Signal::TERM);
        let status = process.wait(Duration::from_secs(60));
        assert!(status.success(), "{status}: {}", process.stderr().join("\n"));
    }
}

/// A command of the session, with `cargo` pointed at this workspace.
fn in_place(command: &str, place: &Path) -> Command {
    let command = command.strip_prefix("cargo run").map_or_else(
        || command.to_owned(),
        |rest| format!("exec cargo run{}", rest.replace(" --release", "")),
    );
    let root = workspace_root();
    let command = command.replacen(
        "cargo run",
        &format!(
            "'{}' --config '{}' run --manifest-path '{}'",
            env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()),
            root.join(".cargo/config.toml").display(),
            root.join("Cargo.toml").display()
        ),
        1,
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &command]).current_dir(place).stdin(Stdio::null());
    shell
}

/// Where the node of a command answers.
fn http_address(command: &str) -> String {
    let mut words = command.split(' ').skip_while(|word| *word != "-http-addr");
    words.nth(1).unwrap_or(DEFAULT_ADDRESS).to_owned()
}

fn wait_ready(process: &mut Process, address: &str) {
    let start = Instant::now();
    loop {
        let answer = Connection::open(address)
            .and_then(|mut connection| connection.request(&Request::get("/readyz")));
        if answer.is_ok_and(|answer| answer.status == 200) {
            return;
        }
        if let Some(status) = process.try_wait() {
            panic!("the node ended with {status}:\n{}", process.stderr().join("\n"));
        }
        assert!(start.elapsed() < PATIENCE, "not ready:\n{}", process.stderr().join("\n"));
        thread::sleep(Duration::from_millis(20));
    }
}

fn check_log(step: &Step, log: &[String]) {
    let mut lines = log.iter();
    for expected in step.expected.iter().filter(|line| !line.is_empty() && *line != "...") {
        assert!(
            lines.any(|line| matches(expected, line)),
            "{}: {expected:?} is missing in\n{}",
            step.command,
            log.join("\n")
        );
    }
}

fn check_output(step: &Step, place: &Path) {
    let output = in_place(&step.command, place).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}: {}\n{printed}{}",
        step.command,
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let expected: Vec<_> = step.expected.iter().map(|line| line.trim_end()).collect();
    let expected = expected.join("\n");
    let expected: Vec<_> = expected.trim_end().lines().collect();
    let actual: Vec<_> = printed.trim_end().lines().collect();
    assert!(
        lines_match(&expected, &actual),
        "{}\nexpected:\n{}\nprinted:\n{printed}",
        step.command,
        expected.join("\n")
    );
}

fn lines_match(expected: &[&str], actual: &[&str]) -> bool {
    match (expected.split_first(), actual.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), _) => {
            (0..=actual.len()).any(|skipped| lines_match(rest, &actual[skipped..]))
        }
        (Some((first, rest)), Some((line, others))) => {
            matches(first, line) && lines_match(rest, others)
        }
        _ => false,
    }
}

/// Whether a line is as expected, where `[..]` stands for anything.
fn matches(expected: &str, line: &str) -> bool {
    let mut parts = expected.trim_end().split("[..]");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.trim_end().strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[test]
fn the_test_command_is_the_one_the_ci_executes() {
    let commands: Vec<_> = blocks(&readme(), "sh").into_iter().flatten().collect();
    let [command] = commands.as_slice() else { panic!("one test command, not {commands:?}") };
    assert!(command.starts_with("cargo test"), "{command:?}");
    let ci = fs::read_to_string(workspace_root().join(".ci/run")).unwrap();
    assert!(ci.contains("'/^cargo test/p' README.md"), ".ci/run does not take it from README.md");
}

#[test]
fn wildcards_of_this_convention() {
    assert!(matches("a[..]c", "abc") && matches("[..]", "") && matches("x", "x "));
    assert!(!matches("a[..]c", "ab") && !matches("a", "ab") && matches("[..]b[..]d", "abcd"));
    assert!(lines_match(&["a", "...", "c"], &["a", "b", "b", "c"]));
    assert!(!lines_match(&["a", "c"], &["a", "b", "c"]));
    let text = "x\n```console\n$ one\nout\n$ two\n```\n```sh\nignored\n```\n";
    let steps = steps(text);
    assert_eq!(steps.len(), 2);
    assert_eq!(
        (steps[0].command.as_str(), steps[0].expected.as_slice()),
        ("one", &["out".to_owned()][..])
    );
    assert_eq!(blocks(text, "sh"), [["ignored"]]);
}
