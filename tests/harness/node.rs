//! One `rqd` process on a data directory and ports of its own.

use std::{
    ffi::OsString,
    io, iter,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Connection, Process, Request, Response, binaries, peak_resident_bytes, resident_bytes,
};

/// What a node without others logs when it can write.
const READY_LINE: &str = "node HTTP API available at";

/// How long a node may take to become ready or to stop before the test fails. Not a measurement:
/// only far enough out that nothing but a hang gets there.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first port given to nodes.
const PORT_FIRST: u16 = 20_000;

/// How many ports are given out before they are used again.
const PORT_COUNT: u16 = 12_000;

/// How many ports are looked at before a test gives up.
const PORTS_TRIED_MAX: u16 = 1000;

/// Puts its first argument in the place of the table of hosts, and becomes the program behind it.
const HOSTS_SCRIPT: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// What a node that is about to be started is given.
#[derive(Clone, Debug, Default)]
pub struct NodeBuilder {
    flags: Vec<String>,
    directory: Option<PathBuf>,
    addresses: Option<(String, String)>,
    program: Option<PathBuf>,
    variables: Vec<(String, String)>,
    namespace: Option<String>,
    hosts: Option<PathBuf>,
    errors_expected: bool,
}

impl NodeBuilder {
    /// Adds flags, such as `-fk`.
    #[must_use]
    pub fn flags<F: Into<String>>(mut self, flags: impl IntoIterator<Item = F>) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// Uses this data directory instead of a fresh temporary one, and keeps it.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Uses this program instead of the one Cargo builds.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Uses these addresses, `host:port` of the HTTP API and of the internode port, instead of free
    /// ones of this machine.
    #[must_use]
    pub fn addresses(mut self, http: &str, raft: &str) -> Self {
        self.addresses = Some((http.to_owned(), raft.to_owned()));
        self
    }

    /// Runs the node in a network namespace, whose name this is.
    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        self.namespace = Some(name.to_owned());
        self
    }

    /// Makes the node, which must be in a network namespace, resolve names with this file instead of
    /// the system's table of hosts. What changes in the file is seen at once.
    #[must_use]
    pub fn hosts(mut self, file: &Path) -> Self {
        self.hosts = Some(file.to_owned());
        self
    }

    /// Lets error lines on standard error pass; otherwise they fail the test when the node ends.
    #[must_use]
    pub fn errors_expected(mut self) -> Self {
        self.errors_expected = true;
        self
    }

    /// Starts the node and waits until it is ready.
    pub fn start(self) -> Node {
        let mut node = self.spawn();
        node.wait_ready();
        node
    }

    /// Starts the node and returns at once.
    pub fn spawn(self) -> Node {
        let (temporary, directory) = match &self.directory {
            Some(directory) => (None, directory.clone()),
            None => {
                let temporary = TempDir::with_prefix("rq-node-").expect("a temporary directory");
                let directory = temporary.path().join("data");
                (Some(temporary), directory)
            }
        };
        let (http, raft) = self.addresses.clone().unwrap_or_else(free_addresses);
        let process = launch(&self, &http, &raft, &directory);
        Node { builder: self, temporary, directory, http, raft, process, checked: false }
    }
}

/// A running node. Dropping it kills the process, removes a temporary directory, and fails the test
/// if the node logged an error or panicked.
#[derive(Debug)]
pub struct Node {
    builder: NodeBuilder,
    temporary: Option<TempDir>,
    directory: PathBuf,
    http: String,
    raft: String,
    process: Process,
    checked: bool,
}

impl Node {
    /// A node with default flags on a fresh directory, ready.
    pub fn start() -> Self {
        NodeBuilder::default().start()
    }

    /// A node to be configured first.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// `host:port` of the HTTP API.
    pub fn http_addr(&self) -> &str {
        &self.http
    }

    /// `host:port` of the internode port.
    pub fn raft_addr(&self) -> &str {
        &self.raft
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.process.id()).expect("a running process on Linux has a status file")
    }

    /// The most resident memory there ever was, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        peak_resident_bytes(self.process.id())
            .expect("a running process on Linux has a status file")
    }

    /// Opens a connection.
    pub fn connect(&self) -> Connection {
        self.try_connect()
            .unwrap_or_else(|error| panic!("connecting to {}: {error}\n{}", self.http, self.log()))
    }

    /// Opens a connection, or says why not.
    ///
    /// # Errors
    /// The node does not accept connections.
    pub fn try_connect(&self) -> io::Result<Connection> {
        Connection::open(&self.http)
    }

    /// Sends one request on a connection of its own.
    pub fn request(&self, request: &Request) -> Response {
        self.connect().request(request).unwrap_or_else(|error| {
            panic!("{} {}: {error}\n{}", request.method, request.target, self.log())
        })
    }

    /// A GET.
    pub fn get(&self, target: &str) -> Response {
        self.request(&Request::get(target))
    }

    /// A POST.
    pub fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Response {
        self.request(&Request::post(target, body))
    }

    /// Runs statements, given as a JSON body, and panics unless every one succeeds.
    pub fn execute(&self, body: &str) -> Value {
        let answer = self.post("/db/execute", body);
        let json = answer.json();
        let failed = json.get("error").is_some()
            || json["results"]
                .as_array()
                .is_none_or(|results| results.iter().any(|result| result.get("error").is_some()));
        assert!(answer.status == 200 && !failed, "{body}: {} {json}", answer.status);
        json
    }

    /// The rows of one query.
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        let body = Value::from(vec![sql]).to_string();
        let json = self.post("/db/query", body).json();
        assert!(
            json["results"][0].is_object() && json["results"][0].get("error").is_none(),
            "{sql}: {json}"
        );
        json["results"][0]["values"].as_array().cloned().unwrap_or_default()
    }

    /// The single value of one query.
    pub fn value(&self, sql: &str) -> Value {
        let rows = self.rows(sql);
        assert!(rows.len() == 1, "{sql}: {rows:?}");
        rows[0][0].clone()
    }

    /// Everything the node has logged.
    pub fn log(&self) -> String {
        self.process.stderr().join("\n")
    }

    /// Waits until `/readyz` answers 200.
    pub fn wait_ready(&mut self) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait() {
                self.checked = true;
                self.process.wait(PATIENCE);
                panic!("the node ended with {status} instead of becoming ready:\n{}", self.log());
            }
            let answer = Connection::open(&self.http)
                .and_then(|mut connection| connection.request(&Request::get("/readyz")));
            // Where even readiness needs credentials, the log has to do.
            let ready = answer.is_ok_and(|answer| match answer.status {
                200 => true,
                401 => self.log().contains(READY_LINE),
                _ => false,
            });
            if ready {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the node is not ready:\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends SIGTERM, waits for the end and returns the exit code.
    pub fn stop(&mut self) -> i32 {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(PATIENCE);
        status.code().unwrap_or_else(|| panic!("ended by a signal ({status}):\n{}", self.log()))
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(PATIENCE);
        self.check_log();
    }

    /// Starts the node again on the same directory and addresses after [`Node::stop`] or
    /// [`Node::kill`], and waits until it is ready.
    pub fn restart(&mut self) {
        self.launch_again();
        self.wait_ready();
    }

    /// As [`Node::restart`], without waiting: a member of a cluster may need others for that.
    pub fn launch_again(&mut self) {
        self.check_log();
        self.process = launch(&self.builder, &self.http, &self.raft, &self.directory);
        self.checked = false;
    }

    /// Changes addresses and flags for the next start.
    pub fn reconfigure(&mut self, addresses: Option<(String, String)>, flags: &[String]) {
        if let Some((http, raft)) = addresses {
            (self.http, self.raft) = (http, raft);
        }
        self.builder.flags = flags.to_vec();
    }

    /// As [`Node::restart`], with these flags instead of the former ones.
    pub fn restart_with(&mut self, flags: &[&str]) {
        self.builder.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.restart();
    }

    fn check_log(&mut self) {
        if self.checked {
            return;
        }
        self.checked = true;
        let bad: Vec<_> =
            self.process.stderr().into_iter().filter(|line| is_alarming(line)).collect();
        let tolerated =
            self.builder.errors_expected && !bad.iter().any(|line| line.contains("panicked at"));
        assert!(bad.is_empty() || tolerated, "the node logged errors:\n{}", bad.join("\n"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.signal(Signal::KILL);
        if thread::panicking() {
            return;
        }
        self.process.wait(PATIENCE);
        self.check_log();
        drop(self.temporary.take());
    }
}

/// Whether a log line says that something is wrong with the node itself.
fn is_alarming(line: &str) -> bool {
    ["[ERROR]", "\"level\":\"ERROR\"", "panicked at", "stack backtrace"]
        .iter()
        .any(|mark| line.contains(mark))
}

fn launch(builder: &NodeBuilder, http: &str, raft: &str, directory: &Path) -> Process {
    let program = builder.program.clone().unwrap_or_else(|| binaries::rqd().to_owned());
    let mut words: Vec<OsString> = Vec::new();
    if let Some(name) = &builder.namespace {
        words.extend(["nsenter".into(), format!("--net=/run/netns/{name}").into(), "--".into()]);
    }
    if let Some(hosts) = &builder.hosts {
        words.extend(["unshare", "--mount", "--", "sh", "-c", HOSTS_SCRIPT, "sh"].map(Into::into));
        words.push(hosts.into());
    }
    words.push(program.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command.args(["-http-addr", http, "-raft-addr", raft]).args(&builder.flags).arg(directory);
    command.envs(builder.variables.iter().map(|(name, value)| (name, value)));
    Process::start_command(command)
}

/// Two addresses of this machine that nobody listens on at the moment.
///
/// They lie below the range from which systems give ports to outgoing connections, so that no
/// client can take one between this look and the node's start.
pub fn free_addresses() -> (String, String) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(process::id() % 64).expect("below 64") * 180;
    let mut free = iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed))
        .take(usize::from(PORTS_TRIED_MAX))
        .map(|offset| format!("127.0.0.1:{}", PORT_FIRST + (spread + offset) % PORT_COUNT))
        .filter(|address| TcpListener::bind(address).is_ok());
    let mut next = || free.next().expect("two free ports among those tried");
    (next(), next())
}
