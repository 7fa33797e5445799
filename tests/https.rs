//! HTTPS as an operator checks it, with `curl`: versions, HTTP/2, client certificates, reload.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rq_tests::{Authority, Node, NodeBuilder};

use crate::Suite;

/// How long a changed file may take to be noticed before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The suites of this file.
pub(crate) fn suites() -> Vec<Suite> {
    vec![
        Suite { name: "https::serves", need: need_curl, run: serves },
        Suite { name: "https::client_certificates", need: need_curl, run: client_certificates },
        Suite { name: "https::reload", need: need_curl, run: reload },
    ]
}

pub(crate) fn need_curl() -> Result<(), String> {
    let output =
        Command::new("curl").arg("--version").output().map_err(|error| format!("curl: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let missing = ["HTTP2", "SSL"].into_iter().find(|feature| !text.contains(feature));
    missing.map_or(Ok(()), |feature| Err(format!("curl lacks {feature}")))
}

/// A node with a certificate of this authority.
fn serving(authority: &Authority) -> NodeBuilder {
    Node::builder().flags([
        "-http-cert".to_owned(),
        authority.path("server.pem"),
        "-http-key".to_owned(),
        authority.path("server.key"),
    ])
}

/// Runs curl against a node; `Ok` holds what it printed.
fn curl(node: &Node, ca: &Path, arguments: &[&str]) -> Result<String, String> {
    let port = node.http_addr().rsplit_once(':').unwrap().1;
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--cacert", ca.to_str().unwrap()])
        .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
        .args(arguments)
        .arg(format!("https://localhost:{port}/readyz"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Starts a node and waits until HTTPS answers ready.
fn start(builder: NodeBuilder, authority: &Authority, arguments: &[&str]) -> Node {
    let mut node = builder.spawn();
    let begin = Instant::now();
    loop {
        let answer = curl(&node, &authority.file("ca.pem"), arguments);
        if answer.as_ref().is_ok_and(|text| text.contains("[+]db ok")) {
            return node;
        }
        let ended = node.process().try_wait();
        assert!(ended.is_none(), "the node ended with {ended:?}:\n{}", node.log());
        assert!(begin.elapsed() < PATIENCE, "not ready: {answer:?}\n{}", node.log());
        thread::sleep(Duration::from_millis(20));
    }
}

fn serves() {
    let authority = Authority::create();
    authority.issue("server", "localhost");
    let mut node = start(serving(&authority), &authority, &[]);
    let ca = authority.file("ca.pem");
    let version = "%{http_version}";
    let answer = |arguments: &[&str]| curl(&node, &ca, arguments).unwrap();
    assert!(answer(&["--http1.1", "--write-out", version]).ends_with("1.1"));
    assert!(answer(&["--http2", "--write-out", version]).ends_with('2'));
    assert!(answer(&["--tlsv1.3", "--write-out", "%{http_code}"]).ends_with("200"));
    assert!(answer(&["--tls-max", "1.2", "--write-out", "%{http_code}"]).ends_with("200"));
    curl(&node, &ca, &["--tls-max", "1.1"]).expect_err("TLS 1.1 is too old");
    // Plain HTTP on the port gets an error at most, and harms nobody.
    let plain = node.connect().request(&rq_tests::Request::get("/readyz"));
    assert!(plain.as_ref().map_or(true, |answer| answer.status == 400), "{plain:?}");
    let advertised = format!("https://{}", node.http_addr());
    let nodes = Command::new("curl")
        .args(["--silent", "--insecure", &format!("https://{}/nodes", node.http_addr())])
        .output()
        .unwrap();
    let nodes = String::from_utf8_lossy(&nodes.stdout).into_owned();
    assert!(nodes.contains(&advertised), "{advertised} is not in {nodes}");
    assert_eq!(node.stop(), 0);
}

fn client_certificates() {
    let authority = Authority::create();
    authority.issue("server", "localhost");
    authority.issue("client", "operator");
    authority.issue("other", "somebody else");
    let stranger = Authority::create();
    stranger.issue("client", "operator");
    let ca = authority.file("ca.pem");
    let flags =
        ["-http-ca-cert".to_owned(), authority.path("ca.pem"), "-http-verify-client".to_owned()];
    let with = |authority: &Authority, name: &str| {
        let (cert, key) =
            (authority.path(&format!("{name}.pem")), authority.path(&format!("{name}.key")));
        ["--cert".to_owned(), cert, "--key".to_owned(), key]
    };
    fn as_str(arguments: &[String; 4]) -> Vec<&str> {
        arguments.iter().map(String::as_str).collect()
    }
    let client = with(&authority, "client");
    let other = with(&authority, "other");
    let foreign = with(&stranger, "client");

    let mut node = start(serving(&authority).flags(flags.clone()), &authority, &as_str(&client));
    curl(&node, &ca, &as_str(&other)).unwrap();
    curl(&node, &ca, &[]).expect_err("a client without certificate");
    curl(&node, &ca, &as_str(&foreign)).expect_err("a certificate of another authority");
    assert_eq!(node.stop(), 0);

    let builder = serving(&authority).flags(flags).flags(["-http-verify-common-name", "operator"]);
    let mut node = start(builder, &authority, &as_str(&client));
    curl(&node, &ca, &as_str(&other)).expect_err("another common name");
    curl(&node, &ca, &[]).expect_err("a client without certificate");
    curl(&node, &ca, &as_str(&client)).unwrap();
    assert_eq!(node.stop(), 0);
}

fn reload() {
    let authority = Authority::create();
    authority.issue("server", "localhost");
    let mut node = start(serving(&authority).errors_expected(), &authority, &[]);
    let old_ca = authority.file("ca.pem");

    // Broken files and a pair that does not match: the old pair stays in use.
    let (certificate, key) = (
        fs::read(authority.file("server.pem")).unwrap(),
        fs::read(authority.file("server.key")).unwrap(),
    );
    let successor = Authority::create();
    successor.issue("server", "localhost");
    fs::copy(successor.file("server.pem"), authority.file("server.pem")).unwrap();
    thread::sleep(Duration::from_secs(3));
    curl(&node, &old_ca, &[]).expect("a pair that does not match is not used");
    fs::write(authority.file("server.pem"), "broken").unwrap();
    thread::sleep(Duration::from_secs(3));
    curl(&node, &old_ca, &[]).expect("a broken file is not used");
    fs::write(authority.file("server.pem"), certificate).unwrap();
    fs::write(authority.file("server.key"), key).unwrap();

    // Certificate first, key later: taken up when both are there.
    fs::copy(successor.file("server.pem"), authority.file("server.pem")).unwrap();
    thread::sleep(Duration::from_secs(1));
    fs::copy(successor.file("server.key"), authority.file("server.key")).unwrap();
    let begin = Instant::now();
    while let Err(error) = curl(&node, &successor.file("ca.pem"), &[]) {
        assert!(
            begin.elapsed() < PATIENCE,
            "the new pair is not taken up: {error}\n{}",
            node.log()
        );
        thread::sleep(Duration::from_millis(100));
    }
    curl(&node, &old_ca, &[]).expect_err("the old pair is gone");
    assert_eq!(node.stop(), 0);
}
