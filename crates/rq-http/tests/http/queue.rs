//! Queued writes.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Fixture, eventually};

fn fixture(timeout: Duration) -> Fixture {
    let fixture = Fixture::start(|options| options.queue.timeout = timeout);
    fixture
        .post("/db/execute", "[\"CREATE TABLE t(a UNIQUE)\"]")
        .expect(200, r#"{"results":[{}]}"#);
    fixture
}

fn rows(fixture: &Fixture) -> String {
    let response = fixture
        .get("/db/query?q=SELECT+group_concat(a)+AS+a+FROM+(SELECT+a+FROM+t+ORDER+BY+rowid)");
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    value["results"][0]["values"][0][0].as_str().unwrap_or_default().to_owned()
}

fn number(fixture: &Fixture, target: &str, body: &str) -> u64 {
    let response = fixture.post(target, body);
    assert_eq!(response.status, 200, "{}", response.text());
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(value["results"], Value::Array(Vec::new()));
    value["sequence_number"].as_u64().unwrap()
}

#[test]
fn numbers_rise_by_one_and_order_is_kept() {
    let fixture = fixture(Duration::from_millis(50));
    let first = number(&fixture, "/db/execute?queue", "[[\"INSERT INTO t VALUES(?)\",0]]");
    assert!(first > 1_700_000_000_000_000_000);
    for step in 1..=20 {
        let body = format!("[[\"INSERT INTO t VALUES(?)\",{step}]]");
        assert_eq!(number(&fixture, "/db/execute?queue", &body), first + step);
    }
    number(&fixture, "/db/execute?queue&wait", "[]");
    let expected: Vec<String> = (0..=20).map(|step: u32| step.to_string()).collect();
    assert_eq!(rows(&fixture), expected.join(","));
    let status: Value =
        serde_json::from_slice(&fixture.get("/status?key=http.queue._default").body).unwrap();
    assert_eq!(status["sequence_number"].as_u64(), Some(first + 21));
    assert_eq!(fixture.counter("http", "queued_executions"), 22);
    assert_eq!(fixture.counter("http", "queued_executions_num_stmts_rx"), 21);
    assert_eq!(fixture.counter("http", "queued_executions_num_stmts_tx"), 21);
}

#[test]
fn bodies_are_checked_before_they_are_queued() {
    let fixture = fixture(Duration::from_millis(50));
    for (target, body, message) in [
        ("/db/execute?queue", "", "invalid JSON body"),
        ("/db/execute?queue", "INSERT INTO t VALUES(1)", "invalid JSON body"),
        ("/db/execute?queue", "{}", "invalid request"),
        ("/db/execute?queue", "[]", "no statements"),
        ("/db/execute?queue", "[1]", "invalid request"),
        ("/db/execute?queue&wait", "{", "invalid JSON body"),
    ] {
        if (target, body) == ("/db/execute?queue&wait", "{") {
            fixture.post(target, body).expect_text_error(400, "invalid request");
            continue;
        }
        fixture.post(target, body).expect_text_error(400, message);
    }
    let text = "POST /db/execute?queue HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 23\r\n\r\nINSERT INTO t VALUES(1)";
    fixture.send(text).expect_text_error(400, "invalid JSON body");
    assert_eq!(rows(&fixture), "");
}

#[test]
fn waiting_ends_when_the_batch_is_done() {
    let fixture = fixture(Duration::from_millis(10));
    number(&fixture, "/db/execute?queue&wait", "[\"INSERT INTO t VALUES(1)\"]");
    assert_eq!(rows(&fixture), "1");
}

#[test]
fn waiting_too_long_is_408_and_the_write_still_happens() {
    let fixture = fixture(Duration::from_millis(1500));
    let response =
        fixture.post("/db/execute?queue&wait&timeout=50ms", "[\"INSERT INTO t VALUES(1)\"]");
    response.expect_text_error(408, "queue wait timeout");
    assert_eq!(response.header("X-Rq-Error"), Some("queue_timeout; outcome=unknown"));
    assert_eq!(fixture.counter("http", "queued_executions_wait_timeout"), 1);
    eventually("the write happens", || rows(&fixture) == "1");
}

#[test]
fn a_full_batch_does_not_wait_for_its_time() {
    let fixture = Fixture::start(|options| {
        options.queue.timeout = Duration::ZERO;
        options.queue.batch_size = 3;
    });
    fixture.post("/db/execute", "[\"CREATE TABLE t(a)\"]");
    for value in [1, 2] {
        number(&fixture, "/db/execute?queue", &format!("[\"INSERT INTO t VALUES({value})\"]"));
    }
    number(&fixture, "/db/execute?queue&wait", "[\"INSERT INTO t VALUES(3)\"]");
    assert_eq!(rows(&fixture), "1,2,3");
    assert_eq!(fixture.counter("queue", "num_flush"), 1);
    assert_eq!(fixture.counter("queue", "objects_tx"), 3);
}

#[test]
fn a_failing_statement_is_counted_and_does_not_stop_the_others() {
    let fixture = fixture(Duration::from_millis(10));
    let body = r#"["INSERT INTO t VALUES(1)","INSERT INTO t VALUES(1)","INSERT INTO nope VALUES(1)","INSERT INTO t VALUES(2)"]"#;
    number(&fixture, "/db/execute?queue&wait", body);
    assert_eq!(rows(&fixture), "1,2");
    assert_eq!(fixture.counter("http", "queued_executions_num_stmts_failed"), 2);
}

#[test]
fn a_poisonous_request_takes_only_itself_down() {
    let fixture = fixture(Duration::from_millis(300));
    std::thread::scope(|scope| {
        let waiting =
            |body: &'static str| scope.spawn(|| fixture.post("/db/execute?queue&wait", body));
        let good = waiting("[\"INSERT INTO t VALUES(1)\"]");
        let poison = waiting("[\"PRAGMA synchronous=1\"]");
        let also_good = waiting("[\"INSERT INTO t VALUES(2)\"]");
        assert!(good.join().unwrap().text().contains("sequence_number"));
        assert!(also_good.join().unwrap().text().contains("sequence_number"));
        let response = poison.join().unwrap();
        response.expect(200, r#"{"results":[],"error":"disallowed pragma"}"#);
        assert_eq!(response.header("X-Rq-Error"), Some("disallowed_pragma; outcome=not-done"));
    });
    let mut seen: Vec<String> = rows(&fixture).split(',').map(str::to_owned).collect();
    seen.sort();
    assert_eq!(seen, ["1", "2"]);
    assert_eq!(fixture.counter("http", "queued_executions_dropped"), 1);
}

#[test]
fn a_transactional_batch_is_all_or_nothing() {
    let fixture = Fixture::start(|options| options.queue.transaction = true);
    fixture.post("/db/execute", "[\"CREATE TABLE t(a UNIQUE)\"]");
    let body = r#"["INSERT INTO t VALUES(1)","INSERT INTO t VALUES(1)"]"#;
    let response = fixture.post("/db/execute?queue&wait", body);
    response.expect(200, r#"{"results":[],"error":"UNIQUE constraint failed: t.a"}"#);
    assert_eq!(response.header("X-Rq-Error"), Some("constraint_violation; outcome=not-done"));
    assert_eq!(rows(&fixture), "");
}

#[test]
fn a_request_that_undoes_a_transactional_batch_takes_only_itself_down() {
    let fixture = Fixture::start(|options| {
        options.queue.transaction = true;
        options.queue.timeout = Duration::ZERO;
        options.queue.batch_size = 3;
    });
    fixture.post("/db/execute", "[\"CREATE TABLE t(a UNIQUE)\"]");
    std::thread::scope(|scope| {
        let waiting =
            |body: &'static str| scope.spawn(|| fixture.post("/db/execute?queue&wait", body));
        let good = waiting("[\"INSERT INTO t VALUES(1)\"]");
        let bad = waiting("[\"INSERT INTO t VALUES(3)\",\"INSERT INTO nope VALUES(1)\"]");
        let also_good = waiting("[\"INSERT INTO t VALUES(2)\"]");
        for good in [good, also_good] {
            let response = good.join().unwrap();
            assert!(response.text().contains("sequence_number"), "{}", response.text());
        }
        let response = bad.join().unwrap();
        response.expect(200, r#"{"results":[],"error":"no such table: nope"}"#);
        assert_eq!(response.header("X-Rq-Error"), Some("sql_error; outcome=not-done"));
    });
    let mut seen: Vec<String> = rows(&fixture).split(',').map(str::to_owned).collect();
    seen.sort();
    assert_eq!(seen, ["1", "2"]);
    assert_eq!(fixture.counter("http", "queued_executions_dropped"), 1);
    assert_eq!(fixture.counter("http", "queued_executions_num_stmts_failed"), 1);
    assert_eq!(fixture.counter("http", "queued_executions_num_stmts_tx"), 2);
}

#[test]
fn what_is_queued_before_the_store_opens_waits_for_it() {
    let fixture = Fixture::start_without_node(|_| {});
    number(&fixture, "/db/execute?queue&noleader", "[\"CREATE TABLE t(a)\"]");
    number(&fixture, "/db/execute?queue&noleader", "[\"INSERT INTO t VALUES(1)\"]");
    eventually("the queue tries", || fixture.counter("http", "queued_executions_no_leader") > 0);
    fixture.open_node();
    number(&fixture, "/db/execute?queue&wait", "[]");
    assert_eq!(rows(&fixture), "1");
}

#[test]
fn requests_of_different_callers_never_share_a_write() {
    let fixture = Fixture::start(|options| {
        options.queue.timeout = Duration::ZERO;
        options.queue.batch_size = 2;
    });
    let enqueue = |authorization: &str, value: u32| {
        let body = format!("[\"SELECT {value}\"]");
        let length = body.len();
        fixture.send(format!(
            "POST /db/execute?queue HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\
             {authorization}\r\n{body}"
        ))
    };
    // In the names of bob, bob, mia, and nobody: only the first two go together.
    for (value, authorization) in
        [(1, "Ym9iOnNlY3JldA=="), (2, "Ym9iOnNlY3JldA=="), (3, "bWlhOnNlY3JldA==")].into_iter()
    {
        let header = format!("Authorization: Basic {authorization}\r\n");
        assert_eq!(enqueue(&header, value).status, 200);
    }
    assert_eq!(enqueue("", 4).status, 200);
    assert_eq!(enqueue("", 5).status, 200);
    eventually("all are done", || fixture.counter("http", "queued_executions_num_stmts_tx") == 5);
    assert_eq!(fixture.counter("http", "queued_executions_ok"), 3);
}
