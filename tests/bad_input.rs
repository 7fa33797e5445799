//! Input that no proper client sends: slow, cut off, endless, malformed, too large.
//!
//! Every case ends the same way: the documented answer came, the process lives, it serves the next
//! client, its memory has not grown with the input, and the data are what they were. Cases that are
//! one request and one answer stand as scripts in `http/`; here are those that need a hand on the
//! socket or an eye on the process.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use rq_tests::{Connection, Node, Random, Request, Response};
use serde_json::{Value, json};

/// Memory a node may have gained after a case, however large the input was.
const GROWTH_MAX: u64 = 300 << 20;

/// Memory one statement may take for a moment.
const PEAK_MAX: u64 = 2 << 30;

/// How long to wait for something the node does after a limit of its own has passed.
const PATIENCE: Duration = Duration::from_secs(60);

/// An endless query.
const ENDLESS: &str =
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";

/// A node with small limits and some data, and what they looked like before the case.
struct Victim {
    node: Node,
    data: Value,
    resident: u64,
}

impl Victim {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(flags: &[&str]) -> Self {
        let node = Node::builder()
            .flags([
                "-limit-header-bytes=16384",
                "-limit-body-bytes=1000000",
                "-limit-header-time=500ms",
                "-limit-idle-time=30s",
                "-limit-request-time=5s",
                "-limit-query-time=500ms",
                "-limit-write-steps=3000000",
                "-limit-write-pages=500",
                "-limit-result-bytes=4000000",
            ])
            .flags(flags.iter().copied())
            .start();
        node.execute(r#"["CREATE TABLE kept(id INTEGER PRIMARY KEY, v)"]"#);
        node.execute(r#"["INSERT INTO kept(v) VALUES('one'), ('two'), (x'00ff')"]"#);
        let data = Self::data(&node);
        let resident = node.resident_bytes();
        Self { node, data, resident }
    }

    fn data(node: &Node) -> Value {
        json!([
            node.rows("SELECT type, name, sql FROM sqlite_schema ORDER BY name"),
            node.rows("SELECT id, quote(v) FROM kept ORDER BY id"),
            node.value("PRAGMA integrity_check"),
        ])
    }

    /// Sends raw bytes, nothing more, and returns all that comes back.
    fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let mut connection = self.node.connect();
        // A node that refuses may close before everything is sent.
        drop(connection.send_bytes(bytes));
        drop(connection.close_sending());
        connection.receive_to_end().unwrap_or_default()
    }

    fn post(&self, target: &str, statements: &[&str]) -> Value {
        self.node.post(target, json!(statements).to_string()).json()
    }

    /// What must hold after every case.
    fn check(mut self) {
        assert!(self.node.process().try_wait().is_none(), "the node died:\n{}", self.node.log());
        assert_eq!(Self::data(&self.node), self.data, "the data changed");
        let resident = self.node.resident_bytes();
        assert!(
            resident < self.resident + GROWTH_MAX,
            "memory grew from {} to {resident} bytes",
            self.resident
        );
        assert_eq!(self.node.stop(), 0, "{}", self.node.log());
    }
}

/// Waits for a condition that a limit of the node will bring about.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn status_of(bytes: &[u8]) -> Option<u16> {
    let line = bytes.split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(1)?.parse().ok()
}

fn try_request(node: &Node, bytes: &[u8]) -> io::Result<Response> {
    let mut connection = node.connect();
    connection.send_bytes(bytes)?;
    connection.receive()
}

#[test]
fn headers_beyond_the_limit_are_431() {
    let victim = Victim::start();
    let long = format!("GET /db/query?q={} HTTP/1.1\r\nHost: node\r\n\r\n", "x".repeat(20_000));
    let answer = try_request(&victim.node, long.as_bytes()).unwrap();
    assert_eq!(answer.status, 431, "{answer:?}");
    let many = format!("GET /readyz HTTP/1.1\r\n{}\r\n", "X-Name: value\r\n".repeat(2000));
    let answer = try_request(&victim.node, many.as_bytes()).unwrap();
    assert_eq!(answer.status, 431, "{answer:?}");
    victim.check();
}

#[test]
fn bodies_beyond_the_limit_are_413() {
    let victim = Victim::start();
    // Announced too long: refused before anything is sent.
    let announced =
        "POST /db/execute HTTP/1.1\r\nHost: node\r\nContent-Length: 99999999999\r\n\r\n";
    let answer = try_request(&victim.node, announced.as_bytes()).unwrap();
    assert_eq!(answer.status, 413, "{answer:?}");
    // Not announced: refused when it gets too long.
    let mut chunked =
        b"POST /db/execute HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..20 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&[b' '; 0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    let answer = victim.exchange(&chunked);
    assert_eq!(status_of(&answer), Some(413), "{}", String::from_utf8_lossy(&answer));
    // At the limit: taken.
    let mut body = br#"["INSERT INTO kept(id) SELECT 1 WHERE 0"]"#.to_vec();
    body.resize(1_000_000, b' ');
    assert_eq!(victim.node.post("/db/execute", &body).status, 200);
    body.push(b' ');
    assert_eq!(victim.node.post("/db/execute", &body).status, 413);
    victim.check();
}

#[test]
fn dripping_headers_lose_their_connection_and_disturb_nobody() {
    let victim = Victim::start();
    let mut slow: Vec<Connection> = (0..20).map(|_| victim.node.connect()).collect();
    for connection in &mut slow {
        connection.send_bytes(b"GET /readyz HTTP/1.1\r\nHost: n").unwrap();
    }
    let start = Instant::now();
    while !slow.is_empty() {
        // Others are served all the while.
        assert_eq!(victim.node.get("/readyz").status, 200);
        slow.retain_mut(|connection| connection.send_bytes(b"o").is_ok());
        assert!(start.elapsed() < PATIENCE, "{} dripping connections are kept", slow.len());
        thread::sleep(Duration::from_millis(100));
    }
    victim.check();
}

#[test]
fn a_body_that_does_not_arrive_is_408() {
    let victim = Victim::with(&["-limit-request-time=500ms"]);
    let mut connection = victim.node.connect();
    connection
        .send_bytes(
            b"POST /db/execute HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\n[\"DELETE",
        )
        .unwrap();
    let answer = connection.receive().unwrap();
    assert_eq!(answer.status, 408, "{answer:?}");
    victim.check();
}

#[test]
fn an_idle_connection_is_closed() {
    let victim = Victim::with(&["-limit-idle-time=300ms"]);
    let mut connection = victim.node.connect();
    assert_eq!(connection.request(&Request::get("/readyz")).unwrap().status, 200);
    assert_eq!(connection.receive_to_end().unwrap(), b"", "nothing but the end comes");
    victim.check();
}

#[test]
fn a_half_closed_connection_gets_its_answer() {
    let victim = Victim::start();
    let request = Request::post("/db/query", r#"["SELECT 1 AS a"]"#);
    let answer = victim.exchange(&request.encode());
    assert_eq!(status_of(&answer), Some(200), "{}", String::from_utf8_lossy(&answer));
    assert!(answer.ends_with(br#""values":[[1]]}]}"#), "{}", String::from_utf8_lossy(&answer));
    victim.check();
}

#[test]
fn cut_off_requests_change_nothing() {
    let victim = Victim::start();
    let request = Request::post("/db/execute", r#"["DELETE FROM kept"]"#).encode();
    for length in 0..request.len() {
        let mut connection = victim.node.connect();
        connection.send_bytes(&request[..length]).unwrap();
        if length % 2 == 0 {
            connection.close_sending().unwrap();
        }
        drop(connection);
    }
    victim.check();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let victim = Victim::start();
    let mut bytes = Vec::new();
    for number in 0..100 {
        bytes.extend(Request::get(&format!("/db/query?q=SELECT%20{number}%20AS%20n")).encode());
        bytes.extend(Request::post("/db/execute", "x").encode());
    }
    let mut connection = victim.node.connect();
    connection.send_bytes(&bytes).unwrap();
    for number in 0..100 {
        let answer = connection.receive().unwrap();
        assert_eq!(answer.json()["results"][0]["values"][0][0], number);
        let answer = connection.receive().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (400, "invalid JSON body\n"));
    }
    victim.check();
}

#[test]
fn chunked_bodies_are_read_and_broken_ones_refused() {
    let victim = Victim::start();
    let head = "POST /db/query HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n";
    let good = format!(
        "{head}3;ext=1\r\n[\"S\r\nD\r\nELECT 5 AS a\"\r\n1\r\n]\r\n0\r\nX-Trailer: y\r\n\r\n"
    );
    let answer = try_request(&victim.node, good.as_bytes()).unwrap();
    assert_eq!(answer.json()["results"][0]["values"], json!([[5]]), "{answer:?}");
    for bad in ["zz\r\n[]\r\n0\r\n\r\n", "5\r\n[\"x\"]--\r\n0\r\n\r\n", "ffffffffffffffffff\r\nx"] {
        let answer = victim.exchange(format!("{head}{bad}").as_bytes());
        let status = status_of(&answer);
        assert!(status.is_none_or(|status| status >= 400), "{bad:?}: {status:?}");
    }
    victim.check();
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let victim = Victim::start();
    let mut connection = victim.node.connect();
    let body = r#"["SELECT 6 AS a"]"#;
    let head = format!(
        "POST /db/query HTTP/1.1\r\nHost: node\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.send_bytes(head.as_bytes()).unwrap();
    connection.send_bytes(body.as_bytes()).unwrap();
    let answer = connection.receive().unwrap();
    assert_eq!(answer.json()["results"][0]["values"], json!([[6]]), "{answer:?}");
    victim.check();
}

#[test]
fn malformed_requests_are_refused() {
    let victim = Victim::start();
    let smuggled = "POST /db/execute HTTP/1.1\r\nHost: node\r\nContent-Length: 4\r\n\
                    Content-Length: 22\r\n\r\n[\"DELETE FROM kept\"]  ";
    let cases: &[&[u8]] = &[
        b"\r\n\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /readyz\r\n\r\n",
        b"GET /readyz HTTP/9.9\r\n\r\n",
        b"GET  /readyz HTTP/1.1\r\n\r\n",
        b"GET /read\x00yz HTTP/1.1\r\nHost: node\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost node\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\n: empty\r\n\r\n",
        b"POST /db/execute HTTP/1.1\r\nHost: node\r\nContent-Length: -1\r\n\r\n",
        b"POST /db/execute HTTP/1.1\r\nHost: node\r\nContent-Length: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        smuggled.as_bytes(),
    ];
    for case in cases {
        let answer = victim.exchange(case);
        let status = status_of(&answer);
        assert!(
            status.is_none_or(|status| (400..600).contains(&status)),
            "{:?}: {status:?}",
            String::from_utf8_lossy(case)
        );
    }
    victim.check();
}

#[test]
fn unknown_methods_are_405() {
    let victim = Victim::start();
    for method in ["BREW", "PATCH", "TRACE", "PROPFIND", "get"] {
        let answer = victim.node.request(&Request::new(method, "/db/query?q=SELECT%201", b""));
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
    }
    victim.check();
}

#[test]
fn random_bytes_on_the_socket() {
    let (mut random, seed) = Random::from_environment("RQ_BAD_INPUT_SEED", 7);
    println!("RQ_BAD_INPUT_SEED={seed}");
    let victim = Victim::start();
    let valid = Request::post("/db/execute", r#"["INSERT INTO nope VALUES(1)"]"#).encode();
    for _ in 0..200 {
        let mut bytes = valid.clone();
        for _ in 0..=random.below(4) {
            let place = random.index(bytes.len());
            match random.below(4) {
                0 => bytes[place] = random.number().to_le_bytes()[0],
                1 => drop(bytes.remove(place)),
                2 => bytes.truncate(place + 1),
                _ => {
                    let length = random.index(40);
                    bytes.splice(place..place, random.bytes(length)).for_each(drop);
                }
            }
        }
        victim.exchange(&bytes);
    }
    victim.check();
}

#[test]
fn statements_that_never_end() {
    let victim = Victim::start();
    assert_eq!(
        victim.post("/db/query", &[ENDLESS]),
        json!({"results": [{"error": "query timeout"}]})
    );
    for level in ["none", "weak", "linearizable", "strong"] {
        let answer = victim.post(&format!("/db/query?level={level}"), &[ENDLESS, "SELECT 1"]);
        assert_eq!(answer["results"][0]["error"], "query timeout", "{level}");
    }
    let writes = [
        format!("INSERT INTO kept(v) {ENDLESS}"),
        format!("CREATE TABLE t AS {ENDLESS}"),
        format!("UPDATE kept SET v = ({ENDLESS})"),
        format!("DELETE FROM kept WHERE id = ({ENDLESS})"),
    ];
    for write in &writes {
        let answer = victim.post("/db/execute", &[write]);
        assert!(answer["results"][0]["error"].is_string(), "{write}: {answer}");
        let answer = victim.post("/db/request", &[write]);
        assert!(answer["results"][0]["error"].is_string(), "{write}: {answer}");
    }
    // A trigger that feeds itself ends too.
    victim.node.execute(
        r#"["CREATE TABLE ring(a)", "CREATE TRIGGER round AFTER INSERT ON ring BEGIN INSERT INTO ring VALUES(new.a + 1); END"]"#,
    );
    let answer = victim.post("/db/execute", &["INSERT INTO ring VALUES(1)"]);
    assert_eq!(answer["results"][0], json!({"last_insert_id": 1, "rows_affected": 1}));
    victim.node.execute(r#"["DROP TABLE ring"]"#);
    victim.check();
}

#[test]
fn statements_that_fill_memory() {
    let victim = Victim::with(&["-limit-request-time=2m"]);
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
    let reads = [
        "SELECT zeroblob(2000000000)".to_owned(),
        "SELECT hex(zeroblob(900000000))".to_owned(),
        "SELECT printf('%.*c', 2000000000, 'x')".to_owned(),
        format!("{endless} SELECT length(group_concat(zeroblob(100000))) FROM c"),
        format!("{endless} SELECT x FROM c ORDER BY random()"),
        format!("{endless} SELECT DISTINCT hex(randomblob(1000)) FROM c"),
        format!("{endless} SELECT hex(zeroblob(1000)) FROM c"),
    ];
    for sql in &reads {
        let answer = victim.post("/db/query", &[sql]);
        assert!(answer["results"][0]["error"].is_string(), "{sql}: {answer}");
    }
    for sql in &reads {
        let answer = victim.post("/db/execute", &[&format!("CREATE TABLE t AS {sql}")]);
        assert!(answer["results"][0]["error"].is_string(), "{sql}: {answer}");
    }
    victim.check();
}

#[test]
fn json_beyond_what_sqlite_allocates_is_an_error_of_its_statement() {
    // SQLite reports "out of memory" here although there is plenty: on every node, each time.
    let victim = Victim::with(&["-limit-request-time=3m", "-limit-query-time=50s"]);
    let sql = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 20000) \
               SELECT length(json_group_array(hex(zeroblob(100000)))) FROM c";
    let answer = victim.post("/db/query", &[sql]);
    assert!(answer["results"][0]["error"].is_string(), "{answer}");
    let answer =
        victim.node.post("/db/execute", json!([format!("CREATE TABLE t AS {sql}")]).to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json()["results"][0]["error"].is_string(), "{answer:?}");
    // Nobody waits behind it.
    victim.node.execute(r#"["CREATE TABLE after(a)", "DROP TABLE after"]"#);
    victim.check();
}

#[test]
fn text_that_doubles_takes_neither_memory_nor_time_without_bound() {
    let victim = Victim::with(&["-limit-request-time=2m"]);
    let sql = "WITH RECURSIVE c(x) AS (SELECT 'x' UNION ALL SELECT x || x FROM c) SELECT length(x) FROM c";
    let answer = victim.post("/db/query", &[sql]);
    assert!(answer["results"][0]["error"].is_string(), "{answer}");
    let answer = victim.post("/db/execute", &[&format!("CREATE TABLE t AS {sql}")]);
    assert!(answer["results"][0]["error"].is_string(), "{answer}");
    let peak = victim.node.peak_resident_bytes();
    assert!(peak < PEAK_MAX, "one statement took {peak} bytes");
    victim.check();
}

#[test]
fn statements_that_add_pages_without_end() {
    let victim = Victim::start();
    let pages = victim.node.value("PRAGMA page_count").as_u64().unwrap();
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
    let statements = [
        format!("CREATE TABLE t AS {endless} SELECT randomblob(4000) AS v FROM c"),
        format!("INSERT INTO kept(v) {endless} SELECT zeroblob(100000) FROM c"),
        "UPDATE kept SET v = zeroblob(50000000)".to_owned(),
    ];
    for sql in &statements {
        let answer = victim.post("/db/execute", &[sql]);
        assert!(answer["results"][0]["error"].is_string(), "{sql}: {answer}");
        let answer = victim.post("/db/execute?transaction", &["SELECT 1", sql, "SELECT 1"]);
        let results = answer["results"].as_array().unwrap();
        assert!(results.len() == 2 && results[1]["error"].is_string(), "{sql}: {answer}");
    }
    let after = victim.node.value("PRAGMA page_count").as_u64().unwrap();
    assert!(after <= pages + 500, "{pages} pages became {after}");
    victim.check();
}

#[test]
fn nul_characters_in_statements() {
    let victim = Victim::start();
    for statement in ["SELECT 1\0; DELETE FROM kept", "DELETE FROM kept\0", "\0", "SELECT '\0'"] {
        for target in ["/db/query", "/db/execute", "/db/request", "/db/execute?queue&wait"] {
            if statement.starts_with("DELETE") && !target.contains("query") {
                continue;
            }
            let answer = victim.node.post(target, json!([statement]).to_string());
            assert!(answer.status == 200 || answer.status == 400, "{statement:?}: {answer:?}");
        }
    }
    victim.check();
}

#[test]
fn a_client_that_hangs_up_frees_its_reader() {
    // One reader, and no limit that would free it otherwise while the test waits.
    let victim =
        Victim::with(&["-db-max-ro-conns=1", "-limit-query-time=10m", "-limit-request-time=10m"]);
    let mut gone = victim.node.connect();
    gone.send(&Request::post("/db/query", json!([ENDLESS]).to_string())).unwrap();
    thread::sleep(Duration::from_millis(200));
    drop(gone);
    eventually("the reader is free again", || {
        let answer = victim.node.post("/db/query?db_timeout=2s", r#"["SELECT 1 AS a"]"#).json();
        answer["results"][0]["values"] == json!([[1]])
    });
    victim.check();
}

#[test]
fn many_idle_connections_disturb_nobody() {
    let victim = Victim::start();
    let idle: Vec<_> = (0..1000).map(|_| victim.node.connect()).collect();
    for _ in 0..20 {
        assert_eq!(victim.node.get("/readyz").status, 200);
        assert_eq!(victim.node.value("SELECT count(*) FROM kept"), 3);
    }
    drop(idle);
    victim.check();
}

#[test]
fn connections_beyond_the_limit_are_refused_and_recover() {
    let victim = Victim::with(&["-limit-connections=10"]);
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..30 {
        let Ok(mut connection) = victim.node.try_connect() else { continue };
        match connection.request(&Request::get("/readyz?noleader")) {
            Ok(answer) if answer.status == 200 => held.push(connection),
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{answer:?}");
                refused += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(held.len() <= 10 && refused >= 20, "{} held, {refused} refused", held.len());
    drop(held);
    eventually("connections are taken again", || {
        victim.node.try_connect().is_ok_and(|mut connection| {
            let answer = connection.request(&Request::get("/readyz?noleader"));
            answer.is_ok_and(|answer| answer.status == 200)
        })
    });
    victim.check();
}

#[test]
fn requests_beyond_the_limit_are_told_to_come_back() {
    let victim = Victim::with(&["-limit-concurrent-requests=2", "-limit-query-time=10s"]);
    let body = json!([ENDLESS]).to_string();
    let mut busy = Vec::new();
    let mut refused = None;
    eventually("a third request is refused", || {
        // Both anew each time: if the third overtook one of them, that one was refused instead.
        busy = (0..2).map(|_| victim.node.connect()).collect();
        for connection in &mut busy {
            connection.send(&Request::post("/db/query", &body)).unwrap();
        }
        let answer = victim.node.post("/db/query", r#"["SELECT 1 AS a"]"#);
        refused = (answer.status != 200).then_some(answer);
        refused.is_some()
    });
    let refused = refused.unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    drop(busy);
    eventually("requests are taken again", || {
        victim.node.post("/db/query", r#"["SELECT 1 AS a"]"#).status == 200
    });
    victim.check();
}

#[test]
fn a_large_result_is_streamed_or_refused() {
    let victim = Victim::start();
    let large = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 20) \
                 SELECT hex(zeroblob(50000)) FROM c";
    let answer = victim.node.post("/db/query", json!([large]).to_string());
    assert_eq!(answer.json()["results"][0]["values"].as_array().map(Vec::len), Some(20));
    let too_large = large.replace("LIMIT 20", "LIMIT 2000");
    let answer = victim.post("/db/query", &[&too_large, "SELECT 1 AS a"]);
    assert!(answer["results"][0]["error"].is_string(), "{answer}");
    assert_eq!(answer["results"][1]["values"], json!([[1]]));
    victim.check();
}
