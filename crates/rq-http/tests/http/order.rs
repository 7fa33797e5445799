//! The order of checks, which clients know: options, query string, route, permission, method, body.

use std::{fs, sync::Arc};

use rq_security::Users;
use tempfile::TempDir;

use crate::harness::{Fixture, post};

/// A credentials file of one user who may only read.
fn reader_only(directory: &TempDir) -> Arc<Users> {
    let path = directory.path().join("auth.json");
    fs::write(
        &path,
        r#"[{"username":"bob","password":"secret","perms":["query"]},
            {"username":"eve","password":"secret","perms":["execute"]},
            {"username":"mia","password":"secret","perms":["execute","query"]},
            {"username":"*","perms":["ready"]}]"#,
    )
    .unwrap();
    Arc::new(Users::open(path).unwrap())
}

const BOB: &str = "Authorization: Basic Ym9iOnNlY3JldA==\r\n";
const EVE: &str = "Authorization: Basic ZXZlOnNlY3JldA==\r\n";
const MIA: &str = "Authorization: Basic bWlhOnNlY3JldA==\r\n";
const BOB_WRONG: &str = "Authorization: Basic Ym9iOndyb25n\r\n";

#[test]
fn options_comes_before_everything() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::start_without_node(|options| options.users = reader_only(&directory));
    for target in ["/", "/nope", "/db/execute?timeout=x", "*"] {
        let response = fixture.send(format!("OPTIONS {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        response.expect(200, "");
        assert_eq!(response.header("Access-Control-Allow-Methods"), Some("OPTIONS, GET, POST"));
    }
}

#[test]
fn the_query_string_comes_before_route_and_permission() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::start_without_node(|options| options.users = reader_only(&directory));
    for target in ["/", "/nope", "/db/execute"] {
        let response = fixture.get(&format!("{target}?timeout=5"));
        response.expect_text_error(400, "timeout is not a valid duration");
        let response = fixture.get(&format!("{target}?a=%zz"));
        response.expect_text_error(400, "invalid URL escape \"%zz\"");
    }
}

#[test]
fn the_route_comes_before_permission() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::start_without_node(|options| options.users = reader_only(&directory));
    let response = fixture.get("/nope");
    response.expect(404, "");
    assert_eq!(response.header("Content-Type"), None);
    fixture.get("/").expect(302, "<a href=\"/console/\">Found</a>.\n\n");
    fixture.get("/console").expect(301, "<a href=\"/console/\">Moved Permanently</a>.\n\n");
}

#[test]
fn permission_comes_before_method_and_method_before_body() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::start_without_node(|options| options.users = reader_only(&directory));
    let put = |authorization: &str| {
        fixture.send(format!(
            "PUT /db/query HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: 3\r\n\r\n???"
        ))
    };
    for denied in [put(""), put(EVE), put(BOB_WRONG), put("Authorization: Bearer x\r\n")] {
        denied.expect(401, "");
        assert_eq!(denied.header("Content-Type"), Some("application/json; charset=utf-8"));
        assert_eq!(denied.header("X-Rqlite-Served-By"), None);
    }
    let wrong_method = put(BOB);
    wrong_method.expect(405, "");
    assert_eq!(wrong_method.header("Allow"), None);
    assert_eq!(wrong_method.header("Content-Type"), Some("application/json; charset=utf-8"));
    let bad_body = fixture
        .send(format!("POST /db/query HTTP/1.1\r\nHost: x\r\n{BOB}Content-Length: 3\r\n\r\n???"));
    bad_body.expect_text_error(400, "invalid JSON body");
}

#[test]
fn the_unified_endpoint_needs_both_permissions() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::start_without_node(|options| options.users = reader_only(&directory));
    let statuses: Vec<u16> = [BOB, EVE, MIA, ""]
        .iter()
        .map(|authorization| {
            let request = post("/db/request", "[\"SELECT 1\"]");
            fixture
                .send(request.replacen("Host: x\r\n", &format!("Host: x\r\n{authorization}"), 1))
                .status
        })
        .collect();
    assert_eq!(statuses, [401, 401, 200, 401]);
}

#[test]
fn what_everybody_may_do_needs_no_right_password() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::start_without_node(|options| options.users = reader_only(&directory));
    let ready = |authorization: &str| {
        fixture.send(format!("GET /readyz HTTP/1.1\r\nHost: x\r\n{authorization}\r\n")).status
    };
    assert_eq!((ready(""), ready(BOB_WRONG)), (503, 503));
}

#[test]
fn paths_of_later_issues_are_known_but_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let guarded = Fixture::start_without_node(|options| options.users = reader_only(&directory));
    let open = Fixture::start_without_node(|_| {});
    for (method, other, path) in
        [("GET", "POST", "/db/backup"), ("POST", "GET", "/db/load"), ("POST", "GET", "/boot")]
    {
        let request = |method: &str| format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        guarded.send(request(method)).expect(401, "");
        open.send(request(other)).expect(405, "");
        let response = open.send(request(method));
        assert_eq!(response.status, 501, "{path}");
        assert!(response.text().contains("not available in this version"), "{}", response.text());
        assert_eq!(response.header("X-Rq-Error"), Some("not_implemented; outcome=not-done"));
    }
}
