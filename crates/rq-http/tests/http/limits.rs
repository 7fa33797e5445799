//! Every limit, and what stands beyond it.

use std::time::Duration;

use rq_http::Limits;

use crate::harness::{ENDLESS, Fixture, eventually, post};

fn with_limits(adjust: impl FnOnce(&mut Limits)) -> Fixture {
    Fixture::start_without_node(|options| adjust(&mut options.limits))
}

#[test]
fn a_head_beyond_its_limit_is_431() {
    let fixture = with_limits(|limits| limits.head_bytes_max = 16 << 10);
    let header = |length: usize| {
        format!("GET /nope HTTP/1.1\r\nHost: x\r\nX-Filler: {}\r\n\r\n", "x".repeat(length))
    };
    assert_eq!(fixture.send(header(10 << 10)).status, 404);
    assert_eq!(fixture.send(header(20 << 10)).status, 431);
    let target = |length: usize| {
        format!("GET /db/query?level=none&x={} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(length))
    };
    assert_eq!(fixture.send(target(10 << 10)).status, 200);
    assert_eq!(fixture.send(target(20 << 10)).status, 431);
}

#[test]
fn a_request_line_may_be_as_long_as_a_head() {
    let fixture = Fixture::start(|_| {});
    let long = "x".repeat(900 << 10);
    let response = fixture.get(&format!("/db/query?q=SELECT+length('{long}')+AS+n"));
    response
        .expect(200, r#"{"results":[{"columns":["n"],"types":["integer"],"values":[[921600]]}]}"#);
    assert_eq!(fixture.get(&format!("/db/query?q={long}{long}")).status, 431);
}

#[test]
fn a_body_beyond_its_limit_is_413_and_ends_the_connection() {
    let fixture = with_limits(|limits| limits.body_bytes_max = 1000);
    let fits = format!("[\"{}\"]", " ".repeat(996));
    assert_eq!(fixture.post("/db/execute", &fits).status, 200);

    let mut announced = fixture.connect();
    announced.send(post("/db/execute", &format!("{fits} ")));
    let response = announced.receive();
    response.expect_text_error(413, "request body too large: 1000 bytes are allowed");
    assert_eq!(response.header("Connection"), Some("close"));
    assert_eq!(response.header("X-Rq-Error"), Some("body_too_large; outcome=not-done"));
    assert!(announced.is_closed());

    let mut chunked = fixture.connect();
    chunked.send("POST /db/execute HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..11 {
        chunked.send(format!("64\r\n{}\r\n", " ".repeat(100)));
    }
    assert_eq!(chunked.receive().status, 413);
    assert!(chunked.is_closed());
}

#[test]
fn a_refused_body_that_is_still_coming_does_not_cost_the_answer() {
    let fixture = with_limits(|limits| limits.body_bytes_max = 1000);
    let mut client = fixture.connect();
    let length = 8 << 20;
    client
        .send(format!("POST /db/execute HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"));
    client.send(" ".repeat(length));
    assert_eq!(client.receive().status, 413);
}

#[test]
fn statements_and_parameters_are_counted() {
    let fixture = with_limits(|limits| {
        limits.statements_max = 2;
        limits.parameters_max = 3;
    });
    let send = |body: &str| fixture.post("/db/execute", body);
    assert_eq!(send(r#"["a","b"]"#).status, 200);
    send(r#"["a","b","c"]"#).expect_text_error(400, "too many statements, the limit is 2");
    send(r#"[["a",1,2],["b",3,4]]"#).expect_text_error(400, "too many parameters, the limit is 3");
}

#[test]
fn all_bodies_together_are_limited() {
    let fixture = with_limits(|limits| limits.bodies_bytes_max = 1 << 20);
    let mut first = fixture.connect();
    first.send("POST /db/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    first.send(" ".repeat(900_000));
    let held = || fixture.get("/status?key=http.load.body_bytes").text().to_owned();
    eventually("the first body is held", || held() == "900000");
    let big = format!("[\"{}\"]", " ".repeat(400_000));
    let response = fixture.post("/db/execute", &big);
    response.expect_text_error(503, "too many request bodies are held; try again later");
    assert_eq!(response.header("Retry-After"), Some("1"));
    // Small ones are not counted.
    assert_eq!(fixture.post("/db/execute", "[\"a\"]").status, 200);
    drop(first);
    eventually("room is given back", || held() == "0");
    assert_eq!(fixture.post("/db/execute", &big).status, 200);
}

#[test]
fn a_body_counts_until_its_request_is_answered() {
    let fixture = Fixture::start(|options| options.limits.bodies_bytes_max = 1 << 20);
    let endless =
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n%2+1 FROM c) SELECT count(*) FROM c";
    let padded = |sql: &str| format!("[\"{sql}\"{}]", " ".repeat(900_000 - 4 - sql.len()));
    let mut busy = fixture.connect();
    busy.send(post("/db/query?level=none", &padded(endless)));
    let running = || fixture.slot.get().unwrap().status().database.readers_busy == 1;
    eventually("the read runs", running);
    let held = || fixture.get("/status?key=http.load.body_bytes").text().to_owned();
    assert_eq!(held(), "900000");
    for path in ["/db/query", "/db/execute", "/db/execute?queue", "/db/request", "/db/sql"] {
        let response = fixture.post(path, &padded("SELECT 1"));
        response.expect_text_error(503, "too many request bodies are held; try again later");
    }
    drop(busy);
    eventually("room is given back", || held() == "0");
    for path in ["/db/query", "/db/execute", "/db/execute?queue", "/db/request", "/db/sql"] {
        assert_eq!(fixture.post(path, &padded("SELECT 1")).status, 200, "{path}");
        assert_eq!(held(), "0", "{path}");
    }
}

#[test]
fn requests_at_one_moment_are_limited() {
    let fixture = Fixture::start(|options| options.limits.requests_max = 1);
    let mut busy = fixture.connect();
    busy.send(format!("GET {ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n"));
    // Before it runs a question could take the only place from it.
    let running = || fixture.slot.get().unwrap().status().database.readers_busy == 1;
    eventually("the read runs", running);
    eventually("there is no room for a second request", || {
        let response = fixture.get("/nope");
        if response.status == 503 {
            response
                .expect_text_error(503, "too many requests are being worked on; try again later");
            assert_eq!(response.header("Retry-After"), Some("1"));
            assert_eq!(response.header("X-Rq-Error"), Some("overloaded; outcome=not-done"));
        }
        response.status == 503
    });
    drop(busy);
    eventually("room is given back", || fixture.get("/readyz").status == 200);
}

#[test]
fn connections_are_limited() {
    let fixture = with_limits(|limits| limits.connections_max = 2);
    let mut held = [fixture.connect(), fixture.connect()];
    for client in &mut held {
        client.send("GET /nope HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.receive().status, 404);
    }
    let mut refused = fixture.connect();
    let response = refused.receive();
    response.expect_text_error(503, "too many connections are open; try again later");
    assert_eq!(response.header("Retry-After"), Some("1"));
    assert!(refused.is_closed());
    drop((refused, held));
    eventually("room is given back", || {
        let mut client = fixture.connect();
        client.try_send("GET /nope HTTP/1.1\r\nHost: x\r\n\r\n").is_ok()
            && client.try_receive().is_some_and(|response| response.status == 404)
    });
}

#[test]
fn a_head_that_comes_too_slowly_ends_the_connection() {
    let fixture = with_limits(|limits| limits.head_time_max = Duration::from_millis(300));
    let mut client = fixture.connect();
    client.send("GET /nope HTTP/1.1\r\n");
    let mut sent = 0;
    eventually("the connection is closed", || {
        sent += 1;
        std::thread::sleep(Duration::from_millis(50));
        client.try_send(format!("X-{sent}: y\r\n")).is_err()
    });
    assert!(client.is_closed());
}

#[test]
fn a_head_that_never_begins_is_idle_and_not_slow() {
    let fixture = with_limits(|limits| {
        limits.head_time_max = Duration::from_millis(100);
        limits.idle_time_max = Duration::from_secs(3600);
    });
    let mut client = fixture.connect();
    std::thread::sleep(Duration::from_millis(600));
    client.send("GET /nope HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.receive().status, 404);
}

#[test]
fn an_idle_connection_is_closed() {
    let fixture = with_limits(|limits| limits.idle_time_max = Duration::from_millis(300));
    let mut client = fixture.connect();
    client.send("GET /nope HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.receive().status, 404);
    assert!(client.is_closed());
    eventually("nothing is left of it", || fixture.connections() == 0);
}

#[test]
fn a_body_that_comes_too_slowly_is_408() {
    let fixture = with_limits(|limits| limits.request_time_max = Duration::from_millis(300));
    let mut client = fixture.connect();
    client.send("POST /db/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[");
    let response = client.receive();
    response.expect_text_error(408, "the request body did not arrive within 0.3 s");
    assert!(client.is_closed());
}

#[test]
fn a_body_that_pauses_too_long_is_408() {
    let fixture = with_limits(|limits| limits.body_pause_max = Duration::from_millis(300));
    for framing in ["Content-Length: 100\r\n\r\n[", "Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n"]
    {
        let mut client = fixture.connect();
        client.send(format!("POST /db/execute HTTP/1.1\r\nHost: x\r\n{framing}"));
        let response = client.receive();
        response.expect_text_error(408, "nothing more of the request body came for 0.3 s");
        assert_eq!(
            response.header("X-Rq-Error"),
            Some("timeout_before_proposal; outcome=not-done")
        );
        assert!(client.is_closed());
    }
}

#[test]
fn requests_whose_body_has_not_come_take_no_place() {
    let fixture = Fixture::start(|options| options.limits.requests_max = 2);
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut client = fixture.connect();
            client.send("POST /db/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[");
            client
        })
        .collect();
    eventually("all are there", || fixture.connections() >= slow.len());
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..5 {
        fixture
            .post("/db/query", r#"["SELECT 1 AS a"]"#)
            .expect(200, r#"{"results":[{"columns":["a"],"types":["integer"],"values":[[1]]}]}"#);
    }
}

#[test]
fn who_asks_how_the_node_is_has_places_of_its_own() {
    let fixture = Fixture::start(|options| options.limits.requests_max = 1);
    let mut busy = fixture.connect();
    busy.send(format!("GET {ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let running = || fixture.slot.get().unwrap().status().database.readers_busy == 1;
    eventually("the read runs", running);
    assert_eq!(fixture.get("/nodes").status, 503);
    assert_eq!(fixture.get("/status").status, 200);
    assert_eq!(fixture.get("/readyz").status, 200);
}

#[test]
fn work_that_takes_too_long_is_503_and_cancelled() {
    let fixture =
        Fixture::start(|options| options.limits.request_time_max = Duration::from_millis(500));
    let mut client = fixture.connect();
    client.send(format!("GET {ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let response = client.receive();
    response.expect_text_error(503, "the request took longer than 0.5 s; it was cancelled");
    // The connection is still good, and the reader free again.
    client.send("GET /db/query?q=SELECT+1 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.receive().status, 200);
    eventually("the read has ended", || {
        fixture.slot.get().unwrap().status().database.readers_busy == 0
    });
}

#[test]
fn a_client_that_does_not_take_its_answer_loses_the_connection() {
    // Long enough for the answer to be made: it is to end while it is taken.
    let fixture =
        Fixture::start(|options| options.limits.request_time_max = Duration::from_secs(3));
    let mut client = fixture.connect();
    client.send("GET /db/query?q=SELECT+hex(zeroblob(10000000)) HTTP/1.1\r\nHost: x\r\n\r\n");
    eventually("the request is there", || fixture.connections() == 1);
    eventually("the connection is gone", || fixture.connections() == 0);
    drop(client);
}

#[test]
fn all_answers_together_are_limited() {
    let fixture = Fixture::start(|options| options.limits.results_bytes_max = 100 << 20);
    let large = "/db/query?q=SELECT+hex(zeroblob(20000000))";
    let held = || {
        let text = fixture.get("/status?key=http.load.answer_bytes").text().to_owned();
        text.parse::<u64>().unwrap()
    };
    // Whoever does not take an answer holds its memory. (A part of it is with the kernel.)
    let mut slow = fixture.connect();
    slow.send(format!("GET {large} HTTP/1.1\r\nHost: x\r\n\r\n"));
    eventually("the answer is made", || (40_000_000..64_000_000).contains(&held()));
    let response = fixture.get(large);
    response
        .expect_text_error(503, "the answers of other requests take all memory; try again later");
    assert_eq!(response.header("Retry-After"), Some("1"));
    assert_eq!(response.header("X-Rq-Error"), Some("overloaded; outcome=not-done"));
    // A write is done all the same, and says so.
    fixture.post("/db/execute", r#"["CREATE TABLE t(a)"]"#).expect(200, r#"{"results":[{}]}"#);
    let body = r#"["INSERT INTO t VALUES(1) RETURNING hex(zeroblob(20000000))"]"#;
    let response = fixture.post("/db/execute", body);
    assert_eq!(response.status, 200);
    assert!(response.text().contains("more memory than they may"), "{}", response.text());
    assert_eq!(response.header("X-Rq-Error"), Some("result_too_large; outcome=unknown"));
    // Small ones are not counted.
    assert_eq!(fixture.get("/db/query?q=SELECT+count(*)+FROM+t").status, 200);
    assert_eq!(slow.receive().body.len(), 40_000_000 + 86);
    eventually("room is given back", || held() == 0);
    assert_eq!(fixture.get(large).body.len(), 40_000_000 + 86);
    assert_eq!(held(), 0);
}

#[test]
fn rows_and_bytes_of_a_result_are_limited() {
    let fixture = Fixture::start(|options| {
        options.limits.result_rows_max = 10;
        options.limits.result_bytes_max = 10_000;
    });
    let rows = |count: u32| {
        let response = fixture.get(&format!(
            "/db/query?q=WITH+RECURSIVE+c(n)+AS+(SELECT+1+UNION+ALL+SELECT+n%2B1+FROM+c+LIMIT+{count})+SELECT+n+FROM+c"
        ));
        response.header("X-Rq-Error").map(str::to_owned)
    };
    assert_eq!(rows(10), None);
    assert_eq!(rows(11).as_deref(), Some("result_too_large; outcome=not-done"));
    let bytes = |count: u32| {
        let response = fixture.get(&format!("/db/query?q=SELECT+hex(zeroblob({count}))"));
        response.header("X-Rq-Error").map(str::to_owned)
    };
    assert_eq!(bytes(4_000), None);
    assert_eq!(bytes(6_000).as_deref(), Some("result_too_large; outcome=not-done"));
}

#[test]
fn writes_on_a_full_disk_are_507_and_reads_go_on() {
    let fixture = Fixture::start_without_node(|_| {});
    fixture.open_node_with_floor(u64::MAX);
    let response = fixture.post("/db/execute", "[\"CREATE TABLE t(a)\"]");
    assert_eq!(response.status, 507, "{}", response.text());
    assert!(response.text().starts_with("disk full: "), "{}", response.text());
    assert_eq!(response.header("Retry-After"), Some("5"));
    assert_eq!(response.header("X-Rq-Error"), Some("disk_full; outcome=not-done"));
    assert_eq!(fixture.get("/db/query?q=SELECT+1").status, 200);
    let impairments = fixture.get("/status?key=store.impairments");
    assert!(impairments.text().contains("writes are refused"), "{}", impairments.text());
}

/// The runtime of the fixture has two workers, and its pool 16 connections.
#[test]
fn slow_reads_take_no_worker_from_everything_else() {
    let fixture = Fixture::start(|_| {});
    let node = fixture.slot.get().unwrap().clone();
    let mut busy: Vec<_> = (0..16).map(|_| fixture.connect()).collect();
    for client in &mut busy {
        client.send(format!("GET {ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n"));
    }
    eventually("all connections are taken", || node.status().database.readers_busy == 16);
    // These wait for a connection: to run, and to be told whether they only read.
    let mut waiting: Vec<_> = (0..8).map(|_| fixture.connect()).collect();
    for client in &mut waiting {
        client.send(post("/db/request?level=none", r#"["SELECT 1 AS n"]"#));
    }
    for _ in 0..20 {
        assert_eq!(fixture.get("/status").status, 200);
    }
    fixture.post("/db/execute", r#"["CREATE TABLE t(a)"]"#).expect(200, r#"{"results":[{}]}"#);
    drop(busy);
    for client in &mut waiting {
        let rows = r#"{"results":[{"columns":["n"],"types":["integer"],"values":[[1]]}]}"#;
        client.receive().expect(200, rows);
    }
}

/// The pool of the fixture has 16 connections.
#[test]
fn readiness_does_not_wait_for_a_reader_longer_than_its_timeout() {
    let fixture = Fixture::start(|_| {});
    let node = fixture.slot.get().unwrap().clone();
    let mut busy: Vec<_> = (0..16).map(|_| fixture.connect()).collect();
    for client in &mut busy {
        client.send(format!("GET {ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n"));
    }
    eventually("all connections are taken", || node.status().database.readers_busy == 16);
    let response = fixture.get("/readyz?timeout=300ms");
    response.expect(
        503,
        "[+]node ok\n[+]leader ok\n[+]store ok\n[+]db not ok: (timeout waiting for a read, [])",
    );
    drop(busy);
    eventually("it is ready again", || fixture.get("/readyz?timeout=5s").status == 200);
}
