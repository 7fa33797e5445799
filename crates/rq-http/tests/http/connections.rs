//! HTTP/1.1 as it comes over the wire: pipelining, chunks, half-closed connections, hang-ups, odd targets.

use std::time::Duration;

use crate::harness::{ENDLESS, Fixture, eventually, post};

#[test]
fn a_connection_is_kept_alive() {
    let fixture = Fixture::start(|_| {});
    let mut client = fixture.connect();
    for _ in 0..3 {
        client.send("GET /db/query?q=SELECT+1 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.receive().status, 200);
        client.send(post("/db/query", "[\"SELECT 2\"]"));
        assert_eq!(client.receive().status, 200);
    }
    client.send("GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(client.receive().status, 200);
    assert!(client.is_closed());
}

#[test]
fn http_1_0_gets_its_answer_and_the_end() {
    let fixture = Fixture::start(|_| {});
    let mut client = fixture.connect();
    client.send("GET /readyz HTTP/1.0\r\n\r\n");
    assert_eq!(client.receive().status, 200);
    assert!(client.is_closed());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let fixture = Fixture::start(|_| {});
    let mut client = fixture.connect();
    let mut requests = String::new();
    for number in 0..20 {
        if number % 2 == 0 {
            requests += &format!("GET /db/query?q=SELECT+{number} HTTP/1.1\r\nHost: x\r\n\r\n");
        } else {
            requests += &post("/db/query", &format!("[\"SELECT {number}\"]"));
        }
    }
    client.send(requests);
    for number in 0..20 {
        let response = client.receive();
        assert!(response.text().contains(&format!("[[{number}]]")), "{}", response.text());
    }
}

#[test]
fn bodies_may_come_in_any_pieces() {
    let fixture = Fixture::start(|_| {});
    let expected = r#"{"results":[{"columns":["a"],"types":["integer"],"values":[[7]]}]}"#;
    let request = post("/db/query", "[\"SELECT 7 AS a\"]");
    let mut client = fixture.connect();
    for byte in request.as_bytes() {
        client.send([*byte]);
    }
    client.receive().expect(200, expected);
    for _ in 0..2 {
        client.send(
            "POST /db/query HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             4\r\n[\"SE\r\n5;ext=1\r\nLECT \r\n8\r\n7 AS a\"]\r\n0\r\nTrailer: x\r\n\r\n",
        );
        let response = client.receive();
        response.expect(200, expected);
        assert_eq!(response.header("Connection"), None);
    }
    // Nobody read this one.
    client.send(
        "POST /readyz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    );
    let response = client.receive();
    assert_eq!((response.status, response.header("Connection")), (405, Some("close")));
}

#[test]
fn a_client_may_wait_for_100_continue() {
    let fixture = Fixture::start(|_| {});
    let mut client = fixture.connect();
    client.send(
        "POST /db/query HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.receive().status, 100);
    client.send("[\"SELECT 1\"]");
    assert_eq!(client.receive().status, 200);
}

#[test]
fn a_client_may_close_its_sending_half_and_gets_its_answer() {
    let fixture = Fixture::start(|_| {});
    for _ in 0..20 {
        let mut client = fixture.connect();
        client.send(post("/db/execute", "[\"CREATE TABLE IF NOT EXISTS t(a)\"]"));
        client.finish();
        assert_eq!(client.receive().status, 200);
        assert!(client.is_closed());
    }
}

#[test]
fn a_client_that_hangs_up_cancels_its_read() {
    let fixture = Fixture::start(|_| {});
    let busy = || fixture.slot.get().unwrap().status().database.readers_busy;
    for half in [false, true] {
        let mut client = fixture.connect();
        client.send(format!("GET {ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n"));
        eventually("the read runs", || busy() == 1);
        if half {
            client.finish();
            eventually("the read is cancelled", || busy() == 0);
            assert!(client.try_receive().is_none());
        } else {
            drop(client);
            eventually("the read is cancelled", || busy() == 0);
        }
        eventually("the connection is gone", || fixture.connections() == 0);
    }
    assert_eq!(fixture.counter("http", "requests_hung_up"), 2);
}

/// What runs as a log entry ends the same on every node, so no client can stop it.
#[test]
fn a_client_that_hangs_up_does_not_end_its_write() {
    let fixture = Fixture::start(|_| {});
    fixture.post("/db/execute", r#"["CREATE TABLE t(a)"]"#).expect(200, r#"{"results":[{}]}"#);
    let applied = || fixture.slot.get().unwrap().status().raft.commit_index;
    let before = applied();
    let long = "INSERT INTO t SELECT count(*) FROM (WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL \
                SELECT x+1 FROM c LIMIT 2000000) SELECT x FROM c)";
    let mut client = fixture.connect();
    client.send(post("/db/execute", &format!("[\"{long}\"]")));
    eventually("the write is under way", || applied() > before);
    drop(client);
    eventually("the connection is gone", || fixture.connections() == 0);
    let rows = fixture.get("/db/query?level=strong&q=SELECT+a+FROM+t");
    assert!(rows.text().contains(r#""values":[[2000000]]"#), "{}", rows.text());
}

#[test]
fn half_a_request_does_nothing() {
    let fixture = Fixture::start(|_| {});
    fixture.post("/db/execute", "[\"CREATE TABLE t(a)\"]");
    let whole = post("/db/execute", "[\"INSERT INTO t VALUES(1)\"]");
    for length in [1, 10, 40, whole.len() - 1] {
        let mut client = fixture.connect();
        client.send(&whole[..length]);
        client.finish();
        let answer = client.try_receive();
        assert!(answer.is_none_or(|response| response.status == 400), "{length} bytes sent");
    }
    let count = fixture.get("/db/query?q=SELECT+count(*)+FROM+t");
    assert!(count.text().contains("[[0]]"), "{}", count.text());
}

#[test]
fn nonsense_is_400() {
    let fixture = Fixture::start_without_node(|_| {});
    for nonsense in [
        "hello\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/3.7\r\n\r\n",
        "GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        "POST /db/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n..",
    ] {
        let mut client = fixture.connect();
        client.send(nonsense);
        assert_eq!(client.receive().status, 400, "{nonsense:?}");
        assert!(client.is_closed());
    }
}

#[test]
fn unescaped_sql_in_a_target_is_taken() {
    let fixture = Fixture::start(|_| {});
    let mut client = fixture.connect();
    let targets = [
        (
            "/db/query?q=SELECT+1<2+AS+\"a\"",
            r#"{"columns":["a"],"types":["integer"],"values":[[1]]}"#,
        ),
        ("/db/query?q=SELECT+'#'+AS+a", r##"{"columns":["a"],"types":["text"],"values":[["#"]]}"##),
        (
            "/db/query?q=SELECT+'é>'+AS+a",
            r#"{"columns":["a"],"types":["text"],"values":[["é\u003e"]]}"#,
        ),
    ];
    for (target, expected) in targets {
        // Whole, byte by byte, and behind another request on the same connection.
        client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        client.receive().expect(200, &format!("{{\"results\":[{expected}]}}"));
        for byte in format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes() {
            client.send([*byte]);
        }
        client.receive().expect(200, &format!("{{\"results\":[{expected}]}}"));
    }
}

#[test]
fn a_head_request_has_the_headers_of_its_get() {
    let fixture = Fixture::start_without_node(|_| {});
    let mut client = fixture.connect();
    client.send("HEAD /console/ HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = client.receive_head();
    assert_eq!(head.status, 200);
    assert!(head.header("Content-Length").is_some_and(|length| length != "0"));
    client.send("HEAD /status HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.receive_head().status, 405);
}

#[test]
fn many_connections_at_once_are_served() {
    let fixture = Fixture::start(|_| {});
    fixture.post("/db/execute", "[\"CREATE TABLE t(a)\"]");
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = fixture.connect();
                for _ in 0..20 {
                    client.send(post("/db/execute", "[\"INSERT INTO t VALUES(1)\"]"));
                    assert_eq!(client.receive().status, 200);
                }
            });
        }
    });
    let count = fixture.get("/db/query?q=SELECT+count(*)+FROM+t");
    assert!(count.text().contains("[[320]]"), "{}", count.text());
    eventually("all connections are gone", || {
        std::thread::sleep(Duration::from_millis(10));
        fixture.connections() == 0
    });
}
