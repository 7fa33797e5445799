//! The headers every answer carries.

use std::{fs, sync::Arc};

use rq_security::Users;

use crate::harness::{Fixture, post};

#[test]
fn every_answer_names_versions_and_cors() {
    let fixture = Fixture::start_without_node(|_| {});
    for target in ["/", "/nope", "/status", "/readyz", "/db/query?q=", "/db/execute", "/licenses"] {
        let response = fixture.get(target);
        for (name, value) in [
            ("X-Rqlite-Version", Some("v10.2.7")),
            ("Server", Some("rqd/0.1.0")),
            ("Access-Control-Allow-Methods", Some("OPTIONS, GET, POST")),
            ("Access-Control-Allow-Headers", Some("Content-Type")),
            ("Access-Control-Allow-Credentials", None),
            ("Access-Control-Allow-Origin", None),
            ("WWW-Authenticate", None),
            ("X-Rqlite-Served-By", None),
        ] {
            assert_eq!(response.header(name), value, "{name} of {target}");
        }
        assert!(response.header("Date").is_some());
    }
}

#[test]
fn names_are_sent_as_go_sends_them() {
    let fixture = Fixture::start_without_node(|_| {});
    let response = fixture.get("/status");
    let names: Vec<&str> = response.headers.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["X-Rqlite-Version", "Content-Type", "Content-Length", "Date"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}

#[test]
fn a_credentials_file_shows_on_every_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.json");
    fs::write(&path, r#"[{"username":"*","perms":["all"]}]"#).unwrap();
    let fixture = Fixture::start_without_node(|options| {
        options.users = Arc::new(Users::open(path).unwrap());
        options.allow_origin = Some("https://example.com".to_owned());
    });
    for target in ["/", "/nope", "/status"] {
        let response = fixture.get(target);
        for (name, value) in [
            ("WWW-Authenticate", "Basic realm=\"rqlite\""),
            ("Access-Control-Allow-Headers", "Content-Type, Authorization"),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Allow-Origin", "https://example.com"),
        ] {
            assert_eq!(response.header(name), Some(value), "{name} of {target}");
        }
    }
}

#[test]
fn served_by_stands_on_successes_of_data_endpoints_only() {
    let fixture = Fixture::start(|_| {});
    let served_by = |target: &str, body: &str| {
        fixture.post(target, body).header("X-Rqlite-Served-By").map(str::to_owned)
    };
    let own = Some("node.example:4001".to_owned());
    assert_eq!(served_by("/db/execute", "[\"CREATE TABLE t(a)\"]"), own);
    assert_eq!(served_by("/db/query", "[\"SELECT 1\"]"), own);
    assert_eq!(served_by("/db/request", "[\"SELECT 1\"]"), own);
    assert_eq!(served_by("/db/execute", "[\"bad\"]"), own, "a failing statement is a result");
    assert_eq!(served_by("/db/execute?queue", "[\"INSERT INTO t VALUES(1)\"]"), None);
    assert_eq!(served_by("/db/execute", "[\"PRAGMA synchronous=1\"]"), None);
    assert_eq!(served_by("/db/execute", "[]"), None);
    assert_eq!(fixture.get("/nodes").header("X-Rqlite-Served-By"), None);
}

#[test]
fn the_first_error_of_an_answer_has_a_code() {
    let fixture = Fixture::start(|_| {});
    let code = |target: &str, body: &str| {
        fixture.post(target, body).header("X-Rq-Error").map(str::to_owned)
    };
    assert_eq!(code("/db/query", "[\"SELECT 1\"]"), None);
    assert_eq!(
        code("/db/query", "[\"SELECT 1\",\"SELECT x\"]").as_deref(),
        Some("sql_error; outcome=not-done")
    );
    assert_eq!(
        code("/db/execute", "[\"PRAGMA synchronous=1\"]").as_deref(),
        Some("disallowed_pragma; outcome=not-done")
    );
    assert_eq!(code("/db/execute", "{").as_deref(), Some("invalid_request; outcome=not-done"));
}

#[test]
fn strict_mode_adds_codes_to_results() {
    let fixture = Fixture::start(|_| {});
    let request = post("/db/query", "[\"SELECT x\"]");
    let plain = fixture.send(&request);
    plain.expect(200, r#"{"results":[{"error":"no such column: x"}]}"#);
    let strict = fixture.send(request.replacen("Host: x\r\n", "Host: x\r\nX-Rq-Strict: 1\r\n", 1));
    strict.expect(200, r#"{"results":[{"error":"no such column: x","code":"sql_error"}]}"#);
}
