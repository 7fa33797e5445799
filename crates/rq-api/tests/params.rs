//! Query strings: every parameter, every check, and their order.

use rq_api::{
    duration::GoDuration,
    params::{BackupFormat, Level, NodesVersion, Params},
};

fn seconds(seconds: i64) -> GoDuration {
    GoDuration::from_seconds(seconds)
}

/// What a query string changes compared with none at all.
type Change = fn(&mut Params);

#[test]
fn each_parameter_sets_what_it_names() {
    let cases: Vec<(&str, Change)> = vec![
        ("", |_| {}),
        ("&&", |_| {}),
        ("pretty", |p| p.pretty = true),
        ("pretty=false", |p| p.pretty = true),
        ("pretty=0&timings=no", |p| (p.pretty, p.timings) = (true, true)),
        ("Pretty&PRETTY=1", |_| {}),
        ("transaction", |p| p.transaction = true),
        ("atomic", |_| {}),
        ("queue&wait", |p| (p.queue, p.wait) = (true, true)),
        ("noleader", |p| p.noleader = true),
        ("redirect", |p| p.redirect = true),
        ("associative", |p| p.associative = true),
        ("blob_array", |p| p.blob_array = true),
        ("qualify_columns", |p| p.qualify_columns = true),
        ("raft_index", |p| p.raft_index = true),
        ("noparse&norwrandom&norwtime&bypass", |p| {
            (p.noparse, p.norwrandom, p.norwtime, p.bypass) = (true, true, true, true);
        }),
        ("nonvoters", |p| p.nonvoters = true),
        ("sync", |p| p.sync = true),
        ("vacuum&compress", |p| (p.vacuum, p.compress) = (true, true)),
        ("timeout=5s", |p| p.timeout = seconds(5)),
        ("timeout=-1s", |p| p.timeout = seconds(-1)),
        ("timeout=0", |p| p.timeout = GoDuration::ZERO),
        ("timeout=1s&timeout=2s", |p| p.timeout = seconds(1)),
        ("timeout=%2B5s", |p| p.timeout = seconds(5)),
        ("freshness=1h2m3s", |p| p.freshness = seconds(3723)),
        ("freshness_strict&freshness=1s", |p| {
            (p.freshness_strict, p.freshness) = (true, seconds(1));
        }),
        ("db_timeout=0s", |p| p.db_timeout = GoDuration::ZERO),
        ("db_timeout=.5s", |p| p.db_timeout = GoDuration::from_nanoseconds(500_000_000)),
        ("linearizable_timeout=1m", |p| p.linearizable_timeout = seconds(60)),
        ("retries=3", |p| p.retries = 3),
        ("retries=-3", |p| p.retries = -3),
        ("retries=%2B3", |p| p.retries = 3),
        ("trailing_logs=9223372036854775807", |p| p.trailing_logs = i64::MAX),
        ("min_index=18446744073709551615", |p| p.min_index = Some(u64::MAX)),
        ("level=NoNe", |p| p.level = Level::None),
        ("level=weak", |p| p.level = Level::Weak),
        ("level=STRONG", |p| p.level = Level::Strong),
        ("level=linearizable", |p| p.level = Level::Linearizable),
        ("level=auto", |p| p.level = Level::Auto),
        ("level=", |p| p.level = Level::Weak),
        ("level=best", |p| p.level = Level::Weak),
        ("level=best&level=none", |p| p.level = Level::Weak),
        ("q=SELECT+1%20+2", |p| p.query = Some("SELECT 1  2".into())),
        ("q=a=b", |p| p.query = Some("a=b".into())),
        ("q=%EF%BF%BD", |p| p.query = Some("\u{fffd}".into())),
        ("%71=1", |p| p.query = Some("1".into())),
        ("q[useLeader]=true", |_| {}),
        ("key=a.b", |p| p.key = "a.b".into()),
        ("ver=2", |p| p.nodes_version = NodesVersion::Two),
        ("ver=02", |_| {}),
        ("fmt=SQL", |p| p.backup_format = BackupFormat::Sql),
        ("fmt=Delete", |p| p.backup_format = BackupFormat::Delete),
        ("fmt=zip", |p| p.backup_format = BackupFormat::Binary),
        ("tables=a,+b%20,,%2C", |p| p.tables = vec!["a".into(), "b".into()]),
        ("=x&unknown=%00", |_| {}),
    ];
    for (query, change) in cases {
        let mut expected = Params::default();
        change(&mut expected);
        assert_eq!(Params::parse(query), Ok(expected), "{query}");
    }
    assert_eq!(Params::default().timeout, seconds(30));
    assert_eq!(Params::default().linearizable_timeout, seconds(10));
}

#[test]
fn violations_are_told_in_their_order() {
    for (query, message) in [
        ("a=%zz", r#"invalid URL escape "%zz""#),
        ("%zz", r#"invalid URL escape "%zz""#),
        ("a=%", r#"invalid URL escape "%""#),
        ("a=%4", r#"invalid URL escape "%4""#),
        ("a=%\"x", r#"invalid URL escape "%\"x""#),
        ("a=%aé", r#"invalid URL escape "%a\xc3""#),
        ("a=%\u{e9}1", r#"invalid URL escape "%é""#),
        ("a;b", "invalid semicolon separator in query"),
        ("a=1;b&c=%zz", "invalid semicolon separator in query"),
        ("%zz=1&b;c", "invalid semicolon separator in query"),
        ("%zx&%zz", r#"invalid URL escape "%zx""#),
        ("%zz;b", "invalid semicolon separator in query"),
        ("freshness_strict", "freshness_strict requires freshness"),
        ("freshness_strict&timeout=x", "freshness_strict requires freshness"),
        ("timeout=5", "timeout is not a valid duration"),
        ("timeout=", "timeout is not a valid duration"),
        ("timeout", "timeout is not a valid duration"),
        ("timeout=+5s", "timeout is not a valid duration"),
        ("timeout=x&timeout=5s", "timeout is not a valid duration"),
        ("freshness=5d", "freshness is not a valid duration"),
        ("db_timeout=9223372036854775808ns", "db_timeout is not a valid duration"),
        ("linearizable_timeout=1", "linearizable_timeout is not a valid duration"),
        ("linearizable_timeout=x&db_timeout=x&freshness=x", "freshness is not a valid duration"),
        ("retries=x&db_timeout=x", "db_timeout is not a valid duration"),
        ("retries=1.5", "retries is not a valid integer"),
        ("retries=", "retries is not a valid integer"),
        ("retries=9223372036854775808", "retries is not a valid integer"),
        ("trailing_logs=0x1", "trailing_logs is not a valid integer"),
        ("trailing_logs=x&retries=x", "retries is not a valid integer"),
        ("min_index=-1", "min_index is not a valid integer"),
        ("q=", "query parameter not set"),
        ("q", "query parameter not set"),
        ("q&retries=x", "retries is not a valid integer"),
        ("q&q=1", "query parameter not set"),
    ] {
        let error = Params::parse(query).expect_err(query);
        assert_eq!(error.to_string(), message, "{query}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_told_of_the_statement_alone() {
    for (query, text, is_broken) in [
        ("q=%C3%A9%e9", "é\u{fffd}", true),
        ("q=%EF%BF%BD", "\u{fffd}", false),
        ("q=x&q=%e9&x=%e9", "x", false),
    ] {
        let params = Params::parse(query).unwrap();
        assert_eq!((params.query.as_deref(), params.is_query_broken), (Some(text), is_broken));
    }
}
