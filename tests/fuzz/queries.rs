//! Query strings: what is understood of a damaged one is understood again from its plain form.

use std::fmt::Write as _;

use proptest::{
    collection::vec,
    prelude::{Strategy as _, any, prop_assert_eq},
    sample::select,
};
use rq_api::{
    duration::GoDuration,
    params::{BackupFormat, NodesVersion, Params},
};

use super::{fuzz, mutations, text};

/// Every byte escaped.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        write!(out, "%{byte:02x}").expect("a String takes everything");
        out
    })
}

/// The plain form: every value that is not the default, in an order of its own.
fn plain(params: &Params) -> String {
    let mut out = String::new();
    let mut add = |key: &str, value: &str| {
        out.push_str(if out.is_empty() { "" } else { "&" });
        out.push_str(key);
        out.push('=');
        out.push_str(&escaped(value));
    };
    for (key, is_set) in [
        ("pretty", params.pretty),
        ("timings", params.timings),
        ("transaction", params.transaction),
        ("queue", params.queue),
        ("wait", params.wait),
        ("noleader", params.noleader),
        ("redirect", params.redirect),
        ("associative", params.associative),
        ("blob_array", params.blob_array),
        ("qualify_columns", params.qualify_columns),
        ("raft_index", params.raft_index),
        ("noparse", params.noparse),
        ("norwrandom", params.norwrandom),
        ("norwtime", params.norwtime),
        ("bypass", params.bypass),
        ("freshness_strict", params.freshness_strict),
        ("nonvoters", params.nonvoters),
        ("sync", params.sync),
        ("vacuum", params.vacuum),
        ("compress", params.compress),
    ] {
        if is_set {
            add(key, "");
        }
    }
    let durations: [(&str, GoDuration); 4] = [
        ("timeout", params.timeout),
        ("freshness", params.freshness),
        ("db_timeout", params.db_timeout),
        ("linearizable_timeout", params.linearizable_timeout),
    ];
    for (key, duration) in durations {
        add(key, &duration.to_string());
    }
    add("retries", &params.retries.to_string());
    add("trailing_logs", &params.trailing_logs.to_string());
    if let Some(index) = params.min_index {
        add("min_index", &index.to_string());
    }
    if let Some(query) = &params.query {
        add("q", query);
    }
    add("level", params.level.name());
    add("key", &params.key);
    if params.nodes_version == NodesVersion::Two {
        add("ver", "2");
    }
    match params.backup_format {
        BackupFormat::Binary => {}
        BackupFormat::Sql => add("fmt", "sql"),
        BackupFormat::Delete => add("fmt", "delete"),
    }
    add("tables", &params.tables.join(","));
    out
}

#[test]
fn what_is_understood_is_understood_again_from_its_plain_form() {
    const PAIRS: &[&str] = &[
        "pretty",
        "timings=1",
        "transaction",
        "queue",
        "wait",
        "noleader",
        "redirect",
        "associative",
        "blob_array",
        "raft_index=",
        "freshness_strict",
        "nonvoters",
        "sync",
        "vacuum",
        "compress",
        "timeout=1h2m3.5s",
        "timeout=-1ns",
        "freshness=.5us",
        "db_timeout=0",
        "db_timeout=9223372036s",
        "linearizable_timeout=1.5ms",
        "retries=-1",
        "retries=%2B7",
        "trailing_logs=0",
        "min_index=7",
        "min_index=18446744073709551615",
        "q=SELECT%201",
        "q=a+b%00",
        "q=a%ff",
        "level=none",
        "level=STRONG",
        "level=auto",
        "level=x",
        "key=a.b",
        "ver=2",
        "fmt=sql",
        "fmt=Delete",
        "tables=a,%20b,,c",
        "=",
    ];
    let damage = mutations(b"&=%+;,.0129nsuhm- \xff");
    fuzz(&(vec(select(PAIRS), 0..8), damage), |(pairs, damage)| {
        let mut bytes = pairs.join("&").into_bytes();
        for one in &damage {
            one.apply(&mut bytes, usize::MAX);
        }
        let query = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(params) = Params::parse(&query) {
            // The plain form holds what stands in place of broken bytes, and is whole.
            let params = Params { is_query_broken: false, ..params };
            prop_assert_eq!(Params::parse(&plain(&params)), Ok(params), "from {:?}", query);
        }
        Ok(())
    });
}

#[test]
fn every_text_can_be_asked_for_and_the_first_counts() {
    let query = text(12).prop_filter("never empty", |text| !text.is_empty());
    fuzz(&(query, text(5), any::<i64>(), any::<u64>()), |(query, key, nanoseconds, index)| {
        let timeout = GoDuration::from_nanoseconds(nanoseconds);
        let sent = format!(
            "q={}&key={}&timeout={}&min_index={index}&q=other&min_index=0",
            escaped(&query),
            escaped(&key),
            escaped(&timeout.to_string())
        );
        let expected = Params {
            query: Some(query),
            key,
            timeout,
            min_index: Some(index),
            ..Params::default()
        };
        prop_assert_eq!(Params::parse(&sent), Ok(expected), "from {}", sent);
        Ok(())
    });
}
