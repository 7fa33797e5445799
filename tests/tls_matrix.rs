//! HTTP and internode port of three nodes, each without TLS, with it, and with client certificates: requests are passed
//! on and redirected, and certificates and authority are replaced while everything runs.

use std::{
    fmt, fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rq_tests::{
    Authority,
    cluster::{Cluster, Forming},
};

use crate::{Suite, https::need_curl};

/// How long a member may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// What nodes look at now and then: certificate, key, authorities.
const RELOAD: Duration = Duration::from_secs(3);

/// The suites of this file.
pub(crate) fn suites() -> Vec<Suite> {
    vec![Suite { name: "tls_matrix::every_combination", need: need_curl, run: every_combination }]
}

/// How a port is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    Off,
    OneSided,
    Mutual,
}

const ALL: [Tls; 3] = [Tls::Off, Tls::OneSided, Tls::Mutual];

impl Tls {
    /// The flags of a port: `http` or `node`.
    fn flags(self, port: &str, authority: &Authority) -> Vec<String> {
        let file = |flag: &str, name: &str| format!("-{port}-{flag}={}", authority.path(name));
        let mut flags = Vec::new();
        if self != Self::Off {
            flags.extend([
                file("cert", "node.pem"),
                file("key", "node.key"),
                file("ca-cert", "ca.pem"),
            ]);
        }
        if self == Self::Mutual {
            flags.push(format!("-{port}-verify-client"));
        }
        flags
    }
}

/// Three nodes and how they are spoken to.
struct Combination {
    http: Tls,
    node: Tls,
    authority: Authority,
    cluster: Cluster,
}

impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {:?}, nodes {:?}", self.http, self.node)
    }
}

/// Status, redirect target and body of an answer.
#[derive(Debug)]
struct Seen {
    status: String,
    location: String,
    body: String,
}

impl Combination {
    fn start(http: Tls, node: Tls) -> Self {
        let authority = Authority::create();
        authority.issue("node", "node");
        let flags = [http.flags("http", &authority), node.flags("node", &authority)].concat();
        let mut cluster = Cluster::builder(3).forming(Forming::Expect).flags(flags).prepare();
        (0..3).for_each(|member| cluster.launch(member));
        let this = Self { http, node, authority, cluster };
        (0..3).for_each(|member| this.wait_ready(member));
        this
    }

    fn scheme(&self) -> &'static str {
        if self.http == Tls::Off { "http" } else { "https" }
    }

    /// Sends a request with curl, and with what this combination demands.
    fn send(&self, member: usize, target: &str, body: Option<&str>) -> Result<Seen, String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "30"]);
        curl.args(["--write-out", "\n%{http_code} %{redirect_url}"]);
        if self.http != Tls::Off {
            curl.args(["--cacert", &self.authority.path("ca.pem")]);
        }
        if self.http == Tls::Mutual {
            curl.args(["--cert", &self.authority.path("node.pem")]);
            curl.args(["--key", &self.authority.path("node.key")]);
        }
        if let Some(body) = body {
            curl.args(["--header", "Content-Type: application/json", "--data-binary", body]);
        }
        let url = format!("{}://{}{target}", self.scheme(), self.cluster.http_addr(member));
        let output = curl.arg(url).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, last) = text.rsplit_once('\n').unwrap();
        let (status, location) = last.split_once(' ').unwrap();
        let [status, location, body] = [status, location, body].map(str::to_owned);
        Ok(Seen { status, location, body })
    }

    fn wait_ready(&self, member: usize) {
        let begin = Instant::now();
        loop {
            let answer = self.send(member, "/readyz", None);
            if answer.as_ref().is_ok_and(|seen| seen.status == "200") {
                return;
            }
            let logs = || self.cluster.logs();
            assert!(begin.elapsed() < PATIENCE, "{self}: not ready: {answer:?}\n{}", logs());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes through every member, one of which leads, and asks each to redirect.
    fn check(&self) {
        let insert = r#"["INSERT INTO t VALUES(1)"]"#;
        let mut redirected = 0;
        for member in 0..3 {
            let seen = self.send(member, "/db/execute", Some(insert)).unwrap();
            assert!(seen.body.contains(r#""rows_affected":1"#), "{self}: {seen:?}");
            let seen = self.send(member, "/db/execute?redirect", Some(insert)).unwrap();
            let is_redirect = seen.status == "301";
            let beginning = format!("{}://127.0.0.1:", self.scheme());
            assert!(!is_redirect || seen.location.starts_with(&beginning), "{self}: {seen:?}");
            redirected += usize::from(is_redirect);
        }
        assert_eq!(redirected, 2, "{self}: all but the leader redirect");
    }

    /// Comes to another authority in three steps, as README tells operators to.
    fn rotate(&self) {
        let new = Authority::create();
        new.issue("node", "node");
        let read = |authority: &Authority, name: &str| fs::read(authority.file(name)).unwrap();
        let replace = |name: &str, bytes: Vec<u8>| {
            fs::write(self.authority.file(name), bytes).unwrap();
        };
        replace("ca.pem", [read(&self.authority, "ca.pem"), read(&new, "ca.pem")].concat());
        thread::sleep(RELOAD);
        replace("node.pem", read(&new, "node.pem"));
        replace("node.key", read(&new, "node.key"));
        thread::sleep(RELOAD);
        replace("ca.pem", read(&new, "ca.pem"));
        thread::sleep(RELOAD);
    }
}

fn run(http: Tls, node: Tls) {
    let mut this = Combination::start(http, node);
    let seen = this.send(0, "/db/execute", Some(r#"["CREATE TABLE t(x)"]"#)).unwrap();
    assert_eq!(seen.body, r#"{"results":[{}]}"#, "{this}");
    this.check();
    if (http, node) != (Tls::Off, Tls::Off) {
        this.rotate();
        // Who starts now knows the new authority only, dials and is dialled.
        this.cluster.kill(0);
        this.cluster.launch_again(0);
        this.wait_ready(0);
        this.check();
    }
    let target = "/db/query?level=linearizable&q=SELECT%20count(*)%20FROM%20t";
    let seen = this.send(1, target, None).unwrap();
    let rows = if (http, node) == (Tls::Off, Tls::Off) { 4 } else { 8 };
    assert!(seen.body.contains(&format!("[[{rows}]]")), "{this}: {seen:?}");
}

fn every_combination() {
    for http in ALL {
        thread::scope(|scope| {
            for node in ALL {
                scope.spawn(move || run(http, node));
            }
        });
    }
}
