//! A server on a free port, and a client that sends exactly the bytes it is told to.

mod node;

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rq_http::{Build, Limits, NodeSlot, Options, QueueOptions, Server};
use rq_node::Node;
use rq_security::Users;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long a client waits for bytes before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, the node behind it, and the runtime both run on.
pub(crate) struct Fixture {
    pub(crate) runtime: Runtime,
    pub(crate) address: SocketAddr,
    pub(crate) slot: NodeSlot,
    server: Option<Server>,
    directory: TempDir,
}

impl Fixture {
    /// A server with a node.
    pub(crate) fn start(adjust: impl FnOnce(&mut Options)) -> Self {
        let fixture = Self::start_without_node(adjust);
        fixture.open_node();
        fixture
    }

    /// A server whose node is not open yet.
    pub(crate) fn start_without_node(adjust: impl FnOnce(&mut Options)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut options = options();
        adjust(&mut options);
        let slot = NodeSlot::new();
        let server =
            runtime.block_on(async { rq_http::bind(options).await.unwrap().serve(slot.clone()) });
        let address = server.local_addr();
        let directory = tempfile::tempdir().unwrap();
        Self { runtime, address, slot, server: Some(server), directory }
    }

    /// Opens the node and waits until it leads.
    pub(crate) fn open_node(&self) -> Node {
        self.open_node_with_floor(0)
    }

    /// The same, with a floor of free space for writes.
    pub(crate) fn open_node_with_floor(&self, free_bytes_min: u64) -> Node {
        let node = self.runtime.block_on(node::open(self.directory.path(), free_bytes_min));
        assert!(self.slot.fill(node.clone()));
        let until = Instant::now() + PATIENCE;
        while !node.is_ready() || node.leader().is_none() {
            assert!(Instant::now() < until, "the node does not become ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        node
    }

    /// A connection.
    pub(crate) fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    /// One request on a connection of its own.
    pub(crate) fn send(&self, request: impl AsRef<[u8]>) -> Response {
        let mut client = self.connect();
        client.send(request);
        client.receive()
    }

    /// GET.
    pub(crate) fn get(&self, target: &str) -> Response {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    /// POST.
    pub(crate) fn post(&self, target: &str, body: &str) -> Response {
        self.send(post(target, body))
    }

    /// How many connections the server has.
    pub(crate) fn connections(&self) -> usize {
        self.server.as_ref().unwrap().connections()
    }

    /// Stops the server; whether it ended by itself within the time.
    pub(crate) fn stop(&mut self, deadline: Duration) -> bool {
        let server = self.server.take().unwrap();
        self.runtime.block_on(server.stop(deadline))
    }

    /// A counter of `/debug/vars`.
    pub(crate) fn counter(&self, map: &str, key: &str) -> i64 {
        let response = self.get(&format!("/debug/vars?key={map}"));
        let vars: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        vars[map][key].as_i64().unwrap_or_else(|| panic!("{map}.{key} in {vars}"))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop(Duration::from_secs(1)));
        }
        if let Some(node) = self.slot.get() {
            self.runtime.block_on(node.shutdown());
        }
    }
}

/// Options as `rqd` has them without flags, on a free port.
pub(crate) fn options() -> Options {
    Options {
        listen: "127.0.0.1:0".to_owned(),
        advertised: "node.example:4001".to_owned(),
        tls: None,
        users: Arc::new(Users::unrestricted()),
        allow_origin: None,
        cluster: rq_http::Cluster::default(),
        build: Build {
            api_version: "v10.2.7".to_owned(),
            version: "0.1.0".to_owned(),
            commit: "unknown".to_owned(),
            build_time: "unknown".to_owned(),
            toolchain: "rustc".to_owned(),
            command: "cargo".to_owned(),
        },
        queue: QueueOptions::default(),
        fail_on_infinity: false,
        limits: Limits::default(),
    }
}

/// The bytes of a POST.
pub(crate) fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A read that does not end by itself.
pub(crate) const ENDLESS: &str = "/db/query?level=none&q=WITH+RECURSIVE+c(n)+AS+(SELECT+1+UNION+ALL+SELECT+n%2B1+FROM+c)+\
    SELECT+count(*)+FROM+c";

/// A client of one connection.
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// Names as sent, and values.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// A client on a stream.
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends bytes as far as the server lets us.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Closes the sending half.
    pub(crate) fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Receives an answer.
    pub(crate) fn receive(&mut self) -> Response {
        self.try_receive().expect("an answer")
    }

    /// Receives an answer, or the end of the connection.
    pub(crate) fn try_receive(&mut self) -> Option<Response> {
        self.receive_of(false)
    }

    /// Receives the answer to a HEAD.
    pub(crate) fn receive_head(&mut self) -> Response {
        self.receive_of(true).expect("an answer")
    }

    fn receive_of(&mut self, is_head: bool) -> Option<Response> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if !self.fill() {
                assert!(self.unread.is_empty(), "half an answer: {:?}", self.unread);
                return None;
            }
        };
        let head = String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        if (100..200).contains(&status) || status == 204 || is_head {
            return Some(response);
        }
        match response.header("Content-Length") {
            Some(length) => {
                let length: usize = length.parse().unwrap();
                while self.unread.len() < length {
                    assert!(self.fill(), "half a body");
                }
                response.body = self.unread.drain(..length).collect();
            }
            None => {
                while self.fill() {}
                response.body = std::mem::take(&mut self.unread);
            }
        }
        Some(response)
    }

    /// Whether the server closes the connection without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && !self.fill()
    }

    /// Reads some bytes; false at the end of the connection.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

impl Response {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} appears twice in {:?}", self.headers);
        value
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Asserts status and body.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16, body: &str) {
        assert_eq!((self.status, self.text()), (status, body), "{:?}", self.headers);
    }

    /// Asserts a text error.
    #[track_caller]
    pub(crate) fn expect_text_error(&self, status: u16, message: &str) {
        self.expect(status, &format!("{message}\n"));
        assert_eq!(self.header("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(self.header("X-Content-Type-Options"), Some("nosniff"));
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
