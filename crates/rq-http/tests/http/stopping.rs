//! Before the node is there, and when the server ends.

use std::time::Duration;

use crate::harness::{ENDLESS, Fixture, eventually, post};

#[test]
fn before_the_store_is_open_everything_answers() {
    let fixture =
        Fixture::start_without_node(|options| options.limits.opening_time_max = Duration::ZERO);
    let not_open = r#"{"results":[],"error":"store not open"}"#;
    for level in ["none", "weak", "strong", "linearizable", "auto"] {
        fixture.get(&format!("/db/query?q=SELECT+1&level={level}")).expect(200, not_open);
        fixture.post(&format!("/db/request?level={level}"), "[\"SELECT 1\"]").expect(200, not_open);
    }
    let response = fixture.post("/db/execute", "[\"SELECT 1\"]");
    response.expect(200, not_open);
    assert_eq!(response.header("X-Rq-Error"), Some("store_not_open; outcome=not-done"));
    fixture.get("/nodes").expect_text_error(503, "store nodes: store not open");
    fixture.get("/leader").expect_text_error(503, "leader not found");
    fixture.post("/leader", "").expect_text_error(503, "stepdown: store not open");
    fixture.get("/readyz").expect(503, "[+]node ok\n[+]leader does not exist");
    fixture.get("/readyz?noleader").expect(200, "[+]node ok");
    fixture.post("/db/execute?queue", "[\"SELECT 1\"]").expect_text_error(503, "leader not found");
    fixture.post("/snapshot", "").expect_text_error(503, "store not open");
    fixture.post("/reap", "").expect_text_error(503, "store not open");
    fixture.get("/db/sql?q=SELECT+1").expect(200, not_open);
    fixture.get("/status?key=store").expect(200, r#"{"open":false}"#);
    assert_eq!(fixture.get("/debug/vars").status, 200);
}

#[test]
fn a_request_waits_for_the_store_to_be_opened() {
    let fixture = Fixture::start_without_node(|_| {});
    let mut client = fixture.connect();
    client.send(post("/db/execute", "[\"CREATE TABLE t(a)\"]"));
    eventually("the request is there", || fixture.connections() == 1);
    std::thread::sleep(Duration::from_millis(50));
    fixture.open_node();
    client.receive().expect(200, r#"{"results":[{}]}"#);
}

#[test]
fn a_client_that_keeps_its_connection_is_told_with_its_next_answer() {
    let mut fixture = Fixture::start(|_| {});
    let mut client = fixture.connect();
    client.send("GET /readyz?noleader HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.receive().header("Connection"), None);
    let sending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        client.send(post("/db/execute", "[\"CREATE TABLE t(a)\"]"));
        (client.receive(), client.is_closed())
    });
    assert!(fixture.stop(Duration::from_secs(10)));
    let (response, is_closed) = sending.join().unwrap();
    response.expect(200, r#"{"results":[{}]}"#);
    assert_eq!(response.header("Connection"), Some("close"));
    assert!(is_closed);
}

#[test]
fn a_request_under_way_is_finished() {
    let mut fixture = Fixture::start(|_| {});
    let mut client = fixture.connect();
    client.send("POST /db/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\n\r\n");
    eventually("the connection is there", || fixture.connections() == 1);
    std::thread::sleep(Duration::from_millis(50));
    let sending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        client.send("[\"CREATE TABLE t(a)\"]");
        let response = client.receive();
        (response, client.is_closed())
    });
    assert!(fixture.stop(Duration::from_secs(10)));
    let (response, is_closed) = sending.join().unwrap();
    response.expect(200, r#"{"results":[{}]}"#);
    assert!(is_closed);
}

#[test]
fn idle_connections_do_not_hold_a_stop_up() {
    let mut fixture = Fixture::start(|_| {});
    let mut silent = fixture.connect();
    let mut idle = fixture.connect();
    idle.send("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.receive().status, 200);
    assert!(fixture.stop(Duration::from_secs(10)));
    assert!(idle.is_closed() && silent.is_closed());
}

#[test]
fn what_does_not_end_is_told_so_at_the_deadline() {
    let mut fixture = Fixture::start(|_| {});
    let mut client = fixture.connect();
    client.send(format!("GET {ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let busy = || fixture.slot.get().unwrap().status().database.readers_busy;
    eventually("the read runs", || busy() == 1);
    assert!(!fixture.stop(Duration::from_millis(300)));
    let answer = client.receive();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("X-Rq-Error"), Some("shutting_down; outcome=not-done"));
    assert!(client.is_closed());
}

#[test]
fn the_queue_is_worked_off() {
    let mut fixture = Fixture::start(|options| options.queue.timeout = Duration::from_secs(3600));
    fixture.post("/db/execute", "[\"CREATE TABLE t(a)\"]");
    for _ in 0..5 {
        let response = fixture.post("/db/execute?queue", "[\"INSERT INTO t VALUES(1)\"]");
        assert_eq!(response.status, 200);
    }
    assert!(fixture.stop(Duration::from_secs(10)));
    let node = fixture.slot.get().unwrap().clone();
    let count = fixture.runtime.block_on(async move {
        let read = rq_node::Read {
            statements: vec![rq_sql::Statement::new("SELECT count(*) FROM t")],
            ..rq_node::Read::default()
        };
        let results = rq_api::results::Results::new(
            rq_api::results::Options::default(),
            rq_api::results::Limits::default(),
        );
        let (results, _) = node.query(read, results).await.unwrap();
        results.finish(&rq_api::results::Envelope::default()).unwrap().body
    });
    assert!(String::from_utf8(count).unwrap().contains("[[5]]"));
}

#[test]
fn a_stopped_server_accepts_nothing() {
    let mut fixture = Fixture::start_without_node(|_| {});
    assert!(fixture.stop(Duration::from_secs(10)));
    assert!(std::net::TcpStream::connect(fixture.address).is_err());
}

#[test]
fn who_waits_for_the_queue_is_answered_before_the_end() {
    let mut fixture = Fixture::start(|options| options.queue.timeout = Duration::from_secs(3600));
    fixture.post("/db/execute", "[\"CREATE TABLE t(a)\"]");
    let mut client = fixture.connect();
    client.send(post("/db/execute?queue&wait", "[\"INSERT INTO t VALUES(1)\"]"));
    eventually("the write is queued", || fixture.counter("queue", "objects_rx") == 1);
    assert!(fixture.stop(Duration::from_secs(10)));
    let response = client.receive();
    assert!(response.text().contains("sequence_number"), "{}", response.text());
}
