//! Log lines on standard error.
//!
//! Text lines have the layout scripts know: `[component] 2026/07/24 12:54:16 message`, local
//! time. What is less or more severe than information carries its level before the message
//! (`[WARN]  …`), lines of Raft always do. JSON lines are objects with `time` (UTC),
//! `level`, `component`, `message` and, if there are any, `fields`.
//!
//! The component of an event is its field `component`, or else follows from the module it comes
//! from. Raft's own lines are filtered by `-raft-log-level`, ours by `-log-level`; outside
//! libraries are heard from warnings on. Control characters are escaped, so that one event is
//! one line whatever it quotes.

use std::{
    fmt::{self, Write as _},
    io,
};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer as _,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Our own crates, whose modules give components.
const OWN: [&str; 8] =
    ["rqd", "rq_api", "rq_http", "rq_node", "rq_security", "rq_sql", "rq_sqlite", "rq_storage"];
/// The Raft library.
const RAFT: &str = "openraft";

/// Parts of it that warn of an absent member several times a second, for as long as it is absent. Who is absent
/// is said by the node itself, once.
const RAFT_PER_HEARTBEAT: [&str; 5] = [
    "openraft::core::heartbeat",
    "openraft::core::raft_core",
    "openraft::engine::handler::replication_handler",
    "openraft::raft",
    "openraft::replication",
];
/// Parts of it that report an ordinary stop as an error. A Raft that ends by itself is reported by the node.
const RAFT_AT_STOP: [&str; 1] = ["openraft::raft::raft_inner"];

/// Installs the log of the process. The zone is read once, here: whoever changes `TZ` for SQLite
/// does it later. A second call has no effect.
pub fn install(program: &str, config: LogConfig) {
    let format = Format {
        program: program.to_owned(),
        zone: TimeZone::system(),
        form: config.format,
        now: Timestamp::now,
    };
    let layer = tracing_subscriber::fmt::layer()
        .event_format(format)
        .with_writer(io::stderr)
        .with_filter(filter(config));
    let subscriber = tracing_subscriber::registry().with(layer);
    // Only a test that runs the program twice in one process can meet this.
    drop(tracing::subscriber::set_global_default(subscriber));
}

/// Gives one log line of the program itself, for what is said before the log is installed.
pub fn line(program: &str, message: &str) -> String {
    let mut line = String::new();
    text_prefix(&mut line, program, Timestamp::now(), &TimeZone::system());
    push_escaped(&mut line, message);
    line.push('\n');
    line
}

fn filter(config: LogConfig) -> Targets {
    let level = level_filter(config.level);
    let raft = level_filter(config.raft_level);
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(OWN.map(|target| (target, level)))
        .with_target(RAFT, raft);
    if raft > LevelFilter::WARN {
        return targets;
    }
    targets
        .with_targets(RAFT_PER_HEARTBEAT.map(|target| (target, raft.min(LevelFilter::ERROR))))
        .with_targets(RAFT_AT_STOP.map(|target| (target, LevelFilter::OFF)))
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Off => LevelFilter::OFF,
    }
}

/// Writes events as lines.
struct Format {
    program: String,
    zone: TimeZone,
    form: LogFormat,
    now: fn() -> Timestamp,
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let line = match self.form {
            LogFormat::Text => self.text(metadata, &fields),
            LogFormat::Json => self.json(metadata, fields),
        };
        writer.write_str(&line)?;
        writer.write_char('\n')
    }
}

impl Format {
    fn text(&self, metadata: &Metadata<'_>, fields: &Fields) -> String {
        let mut line = String::new();
        let component = self.component(metadata, fields);
        text_prefix(&mut line, component, (self.now)(), &self.zone);
        if *metadata.level() != Level::INFO || component == "raft" {
            let tag = format!("[{}]", metadata.level());
            // Levels have four or five letters; messages stand below each other.
            push_escaped(&mut line, &format!("{tag:<8}"));
        }
        push_escaped(&mut line, &fields.message);
        for (name, value) in &fields.others {
            push_escaped(&mut line, &format!(" {name}={value}"));
        }
        line
    }

    fn json(&self, metadata: &Metadata<'_>, fields: Fields) -> String {
        let mut object = json!({
            "time": format!("{:.9}", (self.now)()),
            "level": metadata.level().as_str().to_ascii_lowercase(),
            "component": self.component(metadata, &fields),
            "message": fields.message,
        });
        if !fields.others.is_empty() {
            object["fields"] = Value::Object(fields.others);
        }
        object.to_string()
    }

    fn component<'a>(&'a self, metadata: &Metadata<'a>, fields: &'a Fields) -> &'a str {
        if let Some(component) = &fields.component {
            return component;
        }
        let target = metadata.target();
        let krate = target.split("::").next().unwrap_or(target);
        match krate {
            "rqd" => &self.program,
            "rq_http" | "rq_api" => "http",
            "rq_node" | "rq_storage" => "store",
            "rq_sqlite" | "rq_sql" => "db",
            "rq_security" => "auth",
            RAFT => "raft",
            outside => outside,
        }
    }
}

/// The fields of one event.
#[derive(Default)]
struct Fields {
    message: String,
    component: Option<String>,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("component", Value::String(text)) => self.component = Some(text),
            (name, value) => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

fn text_prefix(line: &mut String, component: &str, now: Timestamp, zone: &TimeZone) {
    line.push('[');
    push_escaped(line, component);
    let time = now.to_zoned(zone.clone());
    // Writing into a string cannot fail.
    let _infallible = write!(line, "] {} ", time.strftime("%Y/%m/%d %H:%M:%S"));
}

/// Appends text with control characters escaped.
fn push_escaped(line: &mut String, text: &str) {
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
}

#[cfg(test)]
mod tests;
