//! The endpoints that show or keep house: shapes, types, and the few things they do.

use serde_json::Value;

use crate::harness::{Fixture, post};

fn json(fixture: &Fixture, target: &str) -> Value {
    let response = fixture.get(target);
    assert_eq!(response.status, 200, "{target}: {}", response.text());
    assert_eq!(response.header("Content-Type"), Some("application/json; charset=utf-8"));
    serde_json::from_slice(&response.body).unwrap()
}

const STRINGS: &[&str] = &[
    "/build/version",
    "/build/rq",
    "/build/commit",
    "/build/build_time",
    "/build/compiler_toolchain",
    "/build/compiler_command",
    "/node/start_time",
    "/node/current_time",
    "/node/uptime",
    "/os/executable",
    "/os/hostname",
    "/runtime/GOARCH",
    "/runtime/GOOS",
    "/runtime/version",
    "/http/bind_addr",
    "/http/auth",
    "/http/cluster/local_node_addr",
    "/http/cluster/timeout",
    "/http/queue/_default/timeout",
    "/http/tls/enabled",
    "/cluster/addr",
    "/cluster/api_addr",
    "/cluster/https",
    "/extensions/dir",
    "/mux/addr",
    "/mux/timeout",
    "/mux/tls",
    "/store/node_id",
    "/store/addr",
    "/store/dir",
    "/store/dir_size_friendly",
    "/store/leader/node_id",
    "/store/leader/addr",
    "/store/nodes/0/id",
    "/store/nodes/0/addr",
    "/store/nodes/0/suffrage",
    "/store/fsm_update_time",
    "/store/leader_appended_at_time",
    "/store/apply_timeout",
    "/store/heartbeat_timeout",
    "/store/election_timeout",
    "/store/commit_timeout",
    "/store/snapshot_interval",
    "/store/snapshot_store/dir",
    "/store/reap_timeout",
    "/store/reap_read_only_timeout",
    "/store/raft/state",
    "/store/raft/latest_configuration",
    "/store/raft/log_size_friendly",
    "/store/raft/config/LocalID",
    "/store/sqlite3/version",
    "/store/sqlite3/path",
    "/store/sqlite3/db_size_friendly",
    "/store/sqlite3/last_modified",
    "/store/sqlite3/rw_dsn",
    "/store/sqlite3/ro_dsn",
    "/store/sqlite3/pragmas/rw/synchronous",
    "/store/sqlite3/pragmas/ro/journal_mode",
];

const NUMBERS: &[&str] = &[
    "/os/pid",
    "/os/ppid",
    "/os/page_size",
    "/runtime/GOMAXPROCS",
    "/runtime/num_cpu",
    "/runtime/num_goroutine",
    "/http/queue/_default/max_size",
    "/http/queue/_default/batch_size",
    "/http/queue/_default/sequence_number",
    "/store/dir_size",
    "/store/fsm_index",
    "/store/fsm_term",
    "/store/db_applied_index",
    "/store/strong_read_term",
    "/store/snapshot_threshold",
    "/store/snapshot_store/dir_size",
    "/store/trailing_logs",
    "/store/request_marshaler/compression_size",
    "/store/request_marshaler/compression_batch",
    "/store/observer/observed",
    "/store/observer/dropped",
    "/store/raft/term",
    "/store/raft/last_log_index",
    "/store/raft/last_log_term",
    "/store/raft/commit_index",
    "/store/raft/applied_index",
    "/store/raft/fsm_pending",
    "/store/raft/last_snapshot_index",
    "/store/raft/last_snapshot_term",
    "/store/raft/last_contact",
    "/store/raft/num_peers",
    "/store/raft/latest_configuration_index",
    "/store/raft/protocol_version",
    "/store/raft/log_size",
    "/store/raft/config/HeartbeatTimeout",
    "/store/sqlite3/size",
    "/store/sqlite3/wal_size",
    "/store/sqlite3/db_size",
    "/store/sqlite3/mem_stats/page_count",
    "/store/sqlite3/mem_stats/page_size",
    "/store/sqlite3/mem_stats/freelist_count",
    "/store/sqlite3/mem_stats/cache_size",
    "/store/sqlite3/conn_pool_stats/ro/in_use",
];

const BOOLEANS: &[&str] = &[
    "/runtime/kubernetes_hint",
    "/store/ready",
    "/store/no_freelist_sync",
    "/store/request_marshaler/force_compression",
    "/store/cdc/enabled",
    "/store/raft/voter",
    "/store/db_conf/fk_constraints",
    "/store/sqlite3/transaction/rw",
];

const OBJECTS: &[&str] =
    &["/store/open", "/store/raft/bolt", "/store/raft/transport", "/network/interfaces"];

const ARRAYS: &[&str] = &[
    "/extensions/names",
    "/store/nodes",
    "/store/snapshot_store/snapshots",
    "/store/sqlite3/compile_options",
    "/store/sqlite3/extensions",
    "/store/impairments",
];

#[test]
fn status_has_every_key_with_its_type() {
    let fixture = Fixture::start(|_| {});
    let status = json(&fixture, "/status");
    let check = |paths: &[&str], is: fn(&Value) -> bool| {
        for path in paths {
            let value = status.pointer(path);
            assert!(value.is_some_and(is), "{path} is {value:?}");
        }
    };
    check(STRINGS, Value::is_string);
    check(NUMBERS, Value::is_number);
    check(BOOLEANS, Value::is_boolean);
    check(OBJECTS, Value::is_object);
    check(ARRAYS, Value::is_array);
    assert_eq!(status["store"]["leader"]["node_id"], "n1");
    assert_eq!(status["store"]["raft"]["state"], "Leader");
    assert_eq!(status["http"]["bind_addr"], fixture.address.to_string());
    assert_eq!(status["store"]["sqlite3"]["mem_stats"]["page_size"], 4096);
}

#[test]
fn parts_of_status_are_selected() {
    let fixture = Fixture::start(|_| {});
    fixture.get("/status?key=store.leader.node_id").expect(200, "\"n1\"");
    fixture.get("/status?key=store.none").expect(200, "{}");
    fixture.get("/status?key=store.open").expect(200, "{}");
    fixture.get("/status?key=http.tls").expect(200, r#"{"enabled":"false"}"#);
    assert!(fixture.get("/status?pretty").text().starts_with("{\n    \"build\": {\n"));
}

#[test]
fn nodes_are_listed_in_both_forms() {
    let fixture = Fixture::start(|_| {});
    for (target, node) in [("/nodes", "/n1"), ("/nodes?ver=2", "/nodes/0"), ("/leader", "")] {
        let body = json(&fixture, target);
        let node = body.pointer(node).unwrap_or_else(|| panic!("{body}"));
        assert_eq!(node["id"], "n1");
        assert_eq!(node["api_addr"], "http://node.example:4001");
        assert_eq!(node["addr"], "node.example:4002");
        assert_eq!(node["version"], "v10.2.7");
        for flag in ["voter", "reachable", "leader"] {
            assert_eq!(node[flag], true, "{flag}");
        }
        assert!(node["time"].as_f64().is_some_and(|time| time > 0.0));
        assert!(node["time_s"].is_string());
        assert!(node.get("error").is_none());
    }
}

#[test]
fn a_member_is_removed_by_exactly_one_id() {
    let fixture = Fixture::start(|_| {});
    let delete = |body: &str| {
        let length = body.len();
        let head = format!("DELETE /remove HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n");
        fixture.send(format!("{head}\r\n{body}"))
    };
    for bad in ["", "{}", "[]", "x", "{\"id\":1}", "{\"id\":\"a\",\"x\":1}", "{\"Id\":\"a\"}"] {
        let refused = delete(bad);
        refused.expect(400, "");
        assert_eq!(refused.header("X-Rq-Error"), Some("invalid_request; outcome=not-done"));
    }
    let unknown = delete("{\"id\":\"nobody\"}");
    unknown.expect(200, "");
    assert_eq!(unknown.header("X-Rqlite-Served-By"), Some("node.example:4001"));
    delete("{\"id\":\"n1\"}")
        .expect_text_error(500, "need at least one voter in configuration: {[]}");
    let unopened = Fixture::start_without_node(|_| {});
    let request = "DELETE /remove HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{\"id\":\"a\"}";
    unopened.send(request).expect_text_error(503, "store not open");
}

#[test]
fn leadership_of_one_cannot_be_handed_over() {
    let fixture = Fixture::start(|_| {});
    let quiet = fixture.post("/leader", "");
    quiet.expect(200, "");
    assert_eq!(quiet.header("X-Rqlite-Served-By"), Some("node.example:4001"));
    fixture.post("/leader?wait", "").expect_text_error(500, "stepdown: cannot find peer");
    let named = |body: &str, content_type: &str| {
        let request = post("/leader", body);
        fixture.send(request.replacen(
            "Host: x\r\n",
            &format!("Host: x\r\nContent-Type: {content_type}\r\n"),
            1,
        ))
    };
    named(r#"{"id":"n1"}"#, "application/json")
        .expect_text_error(500, "stepdown: cannot step down to the current Leader");
    named(r#"{"id":"n7"}"#, "application/json")
        .expect_text_error(500, "stepdown: node not found in cluster");
    named(r#"{"id":"n7"}"#, "application/json; charset=utf-8").expect(200, "");
    let bad = named("{", "application/json");
    assert_eq!(bad.status, 400);
    assert!(bad.text().starts_with("invalid JSON: "), "{}", bad.text());
}

#[test]
fn readiness_is_proved() {
    let fixture = Fixture::start(|_| {});
    fixture.get("/readyz").expect(200, "[+]node ok\n[+]leader ok\n[+]store ok\n[+]db ok");
    let synced = fixture.get("/readyz?sync");
    synced.expect(200, "[+]node ok\n[+]leader ok\n[+]store ok\n[+]sync ok\n[+]db ok");
    assert_eq!(synced.header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(fixture.counter("http", "num_readyz"), 2);
}

#[test]
fn a_snapshot_is_made_only_if_there_is_something_new() {
    let fixture = Fixture::start(|_| {});
    fixture.post("/db/execute", "[\"CREATE TABLE t(a)\"]");
    let done = fixture.post("/snapshot", "");
    done.expect(200, "");
    assert_eq!(done.header("Content-Type"), None);
    fixture.post("/snapshot", "").expect(204, "");
    fixture.post("/db/execute", "[\"INSERT INTO t VALUES(1)\"]");
    fixture.post("/snapshot?trailing_logs=-1", "").expect(200, "");
    fixture.post("/reap", "").expect(200, "{\"snapshots_reaped\":0,\"wals_checkpointed\":0}\n");
    assert_eq!(fixture.counter("http", "user_snapshots"), 3);
    assert_eq!(fixture.counter("store", "num_user_snapshots"), 3);
}

#[test]
fn counters_are_all_there() {
    let fixture = Fixture::start(|_| {});
    let vars = json(&fixture, "/debug/vars");
    for (map, keys) in [
        ("http", &["executions", "queued_executions_ok", "auth_fail", "tls_cert_fetched"][..]),
        ("store", &["num_snapshots", "num_restores_start_skipped", "nodes_reaped_ok"]),
        ("db", &["executions", "checkpoints", "commit_hooks"]),
        ("db.wal", &["compact_frames_ratio"]),
        ("snapshot", &["persist_size"]),
        ("snapshot.plan", &["checkpoint_duration_ms"]),
        ("cluster", &["num_join_req"]),
        ("proxy", &["remote_executions_failed"]),
        ("queue", &["objects_rx"]),
        ("proto", &["num_requests"]),
        ("mux", &["num_connections_handled"]),
        ("uploader", &["num_uploads_ok"]),
        ("downloader", &["download_bytes"]),
        ("cdc.service", &["fifo_size"]),
        ("sql.processor", &["num_parser_panics"]),
        ("memstats", &["Alloc", "HeapInuse", "NumGC"]),
    ] {
        for key in keys {
            assert!(vars[map][key].is_number(), "{map}.{key} is {}", vars[map][key]);
        }
    }
    assert!(vars["cmdline"][0].is_string());
    fixture.get("/debug/vars?key=none").expect(200, "{\n\n}\n");
    assert_eq!(fixture.send("BREW /debug/vars HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
}

#[test]
fn counters_count() {
    let fixture = Fixture::start(|_| {});
    fixture.post("/db/execute", "[\"CREATE TABLE t(a)\",\"INSERT INTO t VALUES(1)\"]");
    fixture.get("/db/query?q=SELECT+1");
    fixture.post("/db/request", "[\"SELECT 1\",\"SELECT 2\",\"SELECT 3\"]");
    for (key, expected) in [
        ("executions", 1),
        ("execute_stmts_rx", 2),
        ("queries", 1),
        ("query_stmts_rx", 1),
        ("requests", 1),
        ("request_stmts_rx", 3),
    ] {
        assert_eq!(fixture.counter("http", key), expected, "{key}");
    }
}

#[test]
fn sql_is_shown_as_it_is_with_sqlites_opinion() {
    let fixture = Fixture::start(|_| {});
    fixture.get("/db/sql").expect_text_error(400, "query not specified");
    fixture
        .get("/db/sql?q=select+++1")
        .expect(200, r#"{"results":[{"original":"select   1","rewritten":"select   1"}]}"#);
    let response = fixture.post("/db/sql", r#"["SELECT random()","SELEC 1"]"#);
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(body["results"][0]["rewritten"], "SELECT random()");
    assert_eq!(body["results"][1]["original"], "SELEC 1");
    assert_eq!(body["results"][1]["error"], "near \"SELEC\": syntax error");
    assert!(body["results"][1].get("rewritten").is_none());
    assert!(json(&fixture, "/db/sql?q=SELECT+1&timings")["time"].is_number());
}

#[test]
fn the_console_and_the_licence_are_served() {
    let fixture = Fixture::start_without_node(|_| {});
    let root = fixture.get("/");
    assert_eq!((root.status, root.header("Location")), (302, Some("/console/")));
    let page = fixture.get("/console/");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("node.example:4001") && !page.text().contains("{{"));
    let index = fixture.get("/console/index.html");
    assert_eq!((index.status, index.header("Location")), (301, Some("./")));
    fixture.get("/console/none").expect_text_error(404, "404 page not found");
    fixture.get("/debug/pprof/heap").expect_text_error(404, "Unknown profile");
    let licence = fixture.get("/licenses");
    assert!(licence.text().contains("Apache License") && licence.text().contains("MIT"));
}
