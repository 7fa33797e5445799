//! Layout, components and filters of log lines.

use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// Collects what is written.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Sink {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// 24 July 2026, 12:54:16 in a zone two hours east.
fn now() -> Timestamp {
    "2026-07-24T10:54:16.000000123Z".parse().unwrap()
}

fn logged(form: LogFormat, level: LogLevel, raft_level: LogLevel, act: fn()) -> Vec<String> {
    let sink = Sink::default();
    let zone = TimeZone::fixed(jiff::tz::offset(2));
    let format = Format { program: "rqlited".to_owned(), zone, form, now };
    let layer = tracing_subscriber::fmt::layer()
        .event_format(format)
        .with_writer(sink.clone())
        .with_filter(filter(LogConfig { format: form, level, raft_level }));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
    let bytes = sink.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

fn everything() {
    tracing::info!(target: "rqd::startup", "rqlite server stopped");
    tracing::info!(target: "rq_http::server", "service listening on {}", "127.0.0.1:4001");
    tracing::info!(target: "rq_node::node", index = 7, ok = true, "opened");
    tracing::info!(target: "rq_security::tls", component = "cert-reloader", "reloading");
    tracing::warn!(target: "rq_sqlite::checkpoint", "slow\nforged \u{1b}[31m line");
    tracing::error!(target: "rq_storage::log", "bad");
    tracing::debug!(target: "rq_node::node", "detail");
    tracing::warn!(target: "openraft::core", "heartbeat timeout reached");
    tracing::info!(target: "openraft::core", "vote");
    tracing::info!(target: "hyper::server", "chatter");
    tracing::error!(target: "hyper::server", "broken");
}

#[test]
fn text_lines_have_the_known_layout() {
    let lines = logged(LogFormat::Text, LogLevel::Info, LogLevel::Warn, everything);
    let expected = [
        "[rqlited] 2026/07/24 12:54:16 rqlite server stopped",
        "[http] 2026/07/24 12:54:16 service listening on 127.0.0.1:4001",
        "[store] 2026/07/24 12:54:16 opened index=7 ok=true",
        "[cert-reloader] 2026/07/24 12:54:16 reloading",
        "[db] 2026/07/24 12:54:16 [WARN]  slow\\nforged \\u{1b}[31m line",
        "[store] 2026/07/24 12:54:16 [ERROR] bad",
        "[raft] 2026/07/24 12:54:16 [WARN]  heartbeat timeout reached",
        "[hyper] 2026/07/24 12:54:16 [ERROR] broken",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn rafts_level_and_ours_are_two() {
    let count = |level, raft_level, name: &str| {
        logged(LogFormat::Text, level, raft_level, everything)
            .iter()
            .filter(|line| line.starts_with(name))
            .count()
    };
    assert_eq!(count(LogLevel::Off, LogLevel::Info, "[raft]"), 2);
    assert_eq!(count(LogLevel::Off, LogLevel::Info, "["), 2, "and nothing else");
    assert_eq!(count(LogLevel::Debug, LogLevel::Off, "[raft]"), 0);
    assert_eq!(count(LogLevel::Debug, LogLevel::Off, "[store]"), 3);
    assert_eq!(count(LogLevel::Trace, LogLevel::Off, "[hyper]"), 1, "others only warn");
}

#[test]
fn json_lines_are_objects() {
    let lines = logged(LogFormat::Json, LogLevel::Info, LogLevel::Warn, everything);
    let objects: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 8);
    assert_eq!(
        objects[2],
        json!({
            "time": "2026-07-24T10:54:16.000000123Z",
            "level": "info",
            "component": "store",
            "message": "opened",
            "fields": {"index": 7, "ok": true},
        })
    );
    assert_eq!(objects[4]["message"], "slow\nforged \u{1b}[31m line");
    assert_eq!(objects[4]["level"], "warn");
    assert_eq!(objects[0]["component"], "rqlited");
}
