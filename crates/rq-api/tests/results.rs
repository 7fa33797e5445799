//! Answers of execute, query and request, byte for byte.

use std::{sync::Arc, time::Duration};

use rq_api::{
    error::Code,
    results::{Answer, Envelope, Limits, Options, Results, Room},
};
use rq_sql::{Column, End, ErrorKind, Origin, ResultSink as _, Rows, SqlError, Value};

/// A column: its name, and its declared type or `-`.
fn column(name: &str, declared_type: &str) -> Column {
    Column {
        name: name.into(),
        declared_type: Some(declared_type.into()).filter(|declared| declared != "-"),
        table: None,
    }
}

fn columns(list: &[(&str, &str)]) -> Vec<Column> {
    list.iter().map(|(name, declared_type)| column(name, declared_type)).collect()
}

fn push(results: &mut Results, columns: &[Column], rows: Vec<Vec<Value>>) {
    let rows = Rows { columns: columns.to_vec(), rows };
    rq_sql::Outcome::Rows(rows).replay(Duration::ZERO, results);
}

fn done(last_insert_id: i64, rows_affected: u64) -> End {
    End::Done { last_insert_id: Some(last_insert_id), rows_affected: Some(rows_affected) }
}

fn failure(kind: ErrorKind, origin: Origin) -> End {
    End::Error(SqlError { kind, message: "no <such> table: t".into(), origin })
}

fn finish(results: Results) -> Answer {
    results.finish(&Envelope::default()).expect("representable")
}

fn text(results: Results) -> String {
    String::from_utf8(finish(results).body).expect("UTF-8")
}

/// The answer to one result with these columns and rows.
fn answer(options: Options, list: &[(&str, &str)], rows: Vec<Vec<Value>>) -> String {
    let mut results = Results::new(options, Limits::default());
    push(&mut results, &columns(list), rows);
    let text = text(results);
    text.strip_prefix("{\"results\":[")
        .and_then(|rest| rest.strip_suffix("]}"))
        .expect("an envelope")
        .to_owned()
}

/// The value of one column as answered.
fn value(declared_type: &str, value: Value) -> String {
    let answer = answer(Options::default(), &[("c", declared_type)], vec![vec![value]]);
    let (_, values) = answer.split_once("\"values\":[[").unwrap_or(("", &answer));
    values.strip_suffix("]]}").unwrap_or(values).to_owned()
}

fn blob(bytes: &[u8]) -> Value {
    Value::Blob(bytes.to_vec())
}

const ASSOCIATIVE: Options = Options {
    associative: true,
    timings: false,
    blob_array: false,
    qualify_columns: false,
    pretty: false,
    codes: false,
    fail_on_infinity: false,
};

#[test]
fn results_have_their_form() {
    let ends: [(End, &str, &str); 10] = [
        (
            done(3, 2),
            r#"{"last_insert_id":3,"rows_affected":2}"#,
            r#"{"last_insert_id":3,"rows_affected":2,"rows":null}"#,
        ),
        (done(0, 2), r#"{"rows_affected":2}"#, r#"{"rows_affected":2,"rows":null}"#),
        (done(-1, 0), r#"{"last_insert_id":-1}"#, r#"{"last_insert_id":-1,"rows":null}"#),
        (done(0, 0), "{}", r#"{"rows":null}"#),
        (End::Done { last_insert_id: None, rows_affected: None }, "{}", r#"{"rows":null}"#),
        (End::Empty, "{}", r#"{"rows":[]}"#),
        (End::Rows, "{}", r#"{"rows":[]}"#),
        (
            failure(ErrorKind::Sql, Origin::Write),
            r#"{"error":"no \u003csuch\u003e table: t"}"#,
            r#"{"error":"no \u003csuch\u003e table: t"}"#,
        ),
        (
            failure(ErrorKind::Sql, Origin::Read),
            r#"{"error":"no \u003csuch\u003e table: t"}"#,
            r#"{"rows":[],"error":"no \u003csuch\u003e table: t"}"#,
        ),
        (End::Empty, "{}", r#"{"rows":[]}"#),
    ];
    let mut default = Results::new(Options::default(), Limits::default());
    let mut associative = Results::new(ASSOCIATIVE, Limits::default());
    for (end, ..) in &ends {
        default.end(end.clone(), Duration::from_secs(1));
        associative.end(end.clone(), Duration::from_secs(1));
    }
    let join = |form: fn(&(End, &'static str, &'static str)) -> &'static str| {
        format!("{{\"results\":[{}]}}", ends.iter().map(form).collect::<Vec<_>>().join(","))
    };
    assert_eq!(text(default), join(|(_, default, _)| default));
    assert_eq!(text(associative), join(|(_, _, associative)| associative));
}

#[test]
fn rows_have_their_form() {
    let list = [("id", "INTEGER"), ("name", "Text")];
    let rows =
        || vec![vec![Value::Integer(1), Value::text("a")], vec![Value::Integer(2), Value::Null]];
    assert_eq!(
        answer(Options::default(), &list, rows()),
        r#"{"columns":["id","name"],"types":["integer","text"],"values":[[1,"a"],[2,null]]}"#
    );
    assert_eq!(
        answer(ASSOCIATIVE, &list, rows()),
        r#"{"types":{"id":"integer","name":"text"},"rows":[{"id":1,"name":"a"},{"id":2,"name":null}]}"#
    );
    assert_eq!(
        answer(Options::default(), &list, vec![]),
        r#"{"columns":["id","name"],"types":["integer","text"]}"#
    );
    assert_eq!(
        answer(ASSOCIATIVE, &list, vec![]),
        r#"{"types":{"id":"integer","name":"text"},"rows":[]}"#
    );
}

#[test]
fn associative_keys_are_sorted_and_the_last_of_equals_counts() {
    let list = [("b", "TEXT"), ("a\"", "-"), ("B", "X"), ("b", "INT"), ("é", "-"), ("a", "-")];
    let row = (1..=6).map(Value::Integer).collect();
    assert_eq!(
        answer(ASSOCIATIVE, &list, vec![row]),
        r#"{"types":{"B":"x","a":"integer","a\"":"integer","b":"int","é":"integer"},"rows":[{"B":3,"a":6,"a\"":2,"b":4,"é":5}]}"#
    );
}

#[test]
fn types_are_declared_or_inferred_from_the_first_row() {
    let types = |list: &[(&str, &str)], rows| {
        let answer = answer(Options::default(), list, rows);
        let types = answer.split_once("\"types\":").expect("types").1;
        types.split_once(']').expect("an array").0.to_owned() + "]"
    };
    let declared = [("a", "VARCHAR(10)"), ("b", "Decimal(10,2)"), ("c", "ÄTYP")];
    assert_eq!(types(&declared, vec![]), r#"["varchar(10)","decimal(10,2)","ätyp"]"#);
    let row =
        || vec![Value::Integer(1), Value::Real(1.0), Value::text("x"), blob(b"x"), Value::Null];
    let blank = [("a", "-"), ("b", "-"), ("c", "-"), ("d", "-"), ("e", "-")];
    assert_eq!(types(&blank, vec![row()]), r#"["integer","real","text","text",""]"#);
    assert_eq!(types(&blank, vec![]), r#"["","","","",""]"#);
    let mut reversed = row();
    reversed.reverse();
    assert_eq!(types(&blank, vec![reversed, row()]), r#"["","text","text","real","integer"]"#);
    // Inference does not leak into the next result.
    let mut results = Results::new(Options::default(), Limits::default());
    push(&mut results, &columns(&[("a", "-")]), vec![vec![Value::Integer(1)]]);
    push(&mut results, &columns(&[("a", "-")]), vec![]);
    assert_eq!(
        text(results),
        r#"{"results":[{"columns":["a"],"types":["integer"],"values":[[1]]},{"columns":["a"],"types":[""]}]}"#
    );
}

#[test]
fn values_have_their_form() {
    for (declared_type, stored, answered) in [
        ("INTEGER", Value::Integer(i64::MAX), "9223372036854775807"),
        ("INTEGER", Value::Integer(i64::MIN), "-9223372036854775808"),
        ("REAL", Value::Real(1.0), "1"),
        ("REAL", Value::Real(1e21), "1e+21"),
        ("REAL", Value::Real(-0.0), "-0"),
        ("TEXT", Value::text("<é\u{2028}\0\u{7f}>"), "\"\\u003cé\\u2028\\u0000\u{7f}\\u003e\""),
        ("TEXT", Value::Text(b"\xffa".to_vec()), r#""\ufffda""#),
        ("TEXT", Value::Null, "null"),
        ("BLOB", Value::text("plain"), r#""plain""#),
        ("TEXT", Value::Integer(5), "5"),
        // BLOBs: text in textual columns, base64 elsewhere.
        ("BLOB", blob(b"\x00\xff"), r#""AP8=""#),
        ("BLOB", blob(b""), r#""""#),
        ("blob", blob(b"abc"), r#""YWJj""#),
        ("char(5)", blob(b"ab"), r#""YWI=""#),
        ("character(20)", blob(b"a"), r#""YQ==""#),
        ("NUMERIC", blob(b"a"), r#""YQ==""#),
        ("TEXT", blob(b"a\xff"), r#""a\ufffd""#),
        ("text(5)", blob(b"a"), r#""YQ==""#),
        ("JSON", blob(b"a"), r#""a""#),
        ("-", blob(b"a"), r#""a""#),
        ("VARCHAR(10)", blob(b"a"), r#""a""#),
        ("VARYING CHARACTER(10)", blob(b"a"), r#""a""#),
        ("nchar(5)", blob(b"a"), r#""a""#),
        ("native character(5)", blob(b"a"), r#""a""#),
        ("NVARCHAR(5)", blob(b"a"), r#""a""#),
        ("CLOB", blob(b"a"), r#""a""#),
        // Booleans.
        ("BOOLEAN", Value::Integer(1), "true"),
        ("Boolean", Value::Integer(2), "true"),
        ("boolean", Value::Integer(0), "false"),
        ("boolean", Value::Integer(-1), "false"),
        ("boolean", Value::text("true"), r#""true""#),
        ("boolean", Value::Real(1.0), "1"),
        ("boolean", Value::Null, "null"),
        ("bool", Value::Integer(1), "1"),
        // Dates.
        ("DATE", Value::Integer(1_577_934_245), r#""2020-01-02T03:04:05Z""#),
        ("DateTime", Value::Integer(1_577_934_245_123), r#""2020-01-02T03:04:05.123Z""#),
        ("timestamp", Value::text("2020-01-02 03:04:05+05:30"), r#""2020-01-02T03:04:05+05:30""#),
        ("date", Value::text("now"), r#""0001-01-01T00:00:00Z""#),
        ("date", Value::Real(1.5), "1.5"),
        ("date", blob(b"a"), r#""YQ==""#),
        ("date", Value::Null, "null"),
        ("DATETIME(6)", Value::Integer(5), "5"),
        ("TIME", Value::Integer(5), "5"),
        ("TIMESTAMPTZ", Value::text("2020-01-02"), r#""2020-01-02""#),
    ] {
        assert_eq!(value(declared_type, stored.clone()), answered, "{stored:?} as {declared_type}");
    }
}

#[test]
fn later_blobs_follow_the_inferred_type() {
    let after = |first| {
        let answer = answer(Options::default(), &[("c", "-")], vec![vec![first], vec![blob(b"a")]]);
        answer.rsplit_once(",[").expect("two rows").1.to_owned()
    };
    assert_eq!(after(Value::Integer(1)), r#""YQ=="]]}"#);
    assert_eq!(after(Value::Real(1.0)), r#""YQ=="]]}"#);
    assert_eq!(after(Value::text("x")), r#""a"]]}"#);
    assert_eq!(after(Value::Null), r#""a"]]}"#);
}

#[test]
fn blobs_are_arrays_on_request() {
    let options = Options { blob_array: true, ..Options::default() };
    let rows = vec![vec![blob(b"\x00\xff"), blob(b"a")], vec![blob(b""), blob(b"")]];
    assert_eq!(
        answer(options, &[("b", "BLOB"), ("t", "TEXT")], rows),
        r#"{"columns":["b","t"],"types":["blob","text"],"values":[[[0,255],"a"],[[],""]]}"#
    );
}

#[test]
fn columns_are_qualified_on_request() {
    let mut list = columns(&[("z", "INTEGER"), ("1+1", "-")]);
    list[0].table = Some("e1".into());
    for (qualify_columns, associative, expected) in [
        (
            true,
            false,
            r#"{"columns":["e1.z","1+1"],"types":["integer","integer"],"values":[[1,2]]}"#,
        ),
        (false, false, r#"{"columns":["z","1+1"],"types":["integer","integer"],"values":[[1,2]]}"#),
        (true, true, r#"{"types":{"1+1":"integer","e1.z":"integer"},"rows":[{"1+1":2,"e1.z":1}]}"#),
    ] {
        let options = Options { qualify_columns, associative, ..Options::default() };
        let mut results = Results::new(options, Limits::default());
        push(&mut results, &list, vec![vec![Value::Integer(1), Value::Integer(2)]]);
        assert_eq!(text(results), format!("{{\"results\":[{expected}]}}"));
    }
}

#[test]
fn the_envelope_leaves_out_what_is_empty() {
    let all = Envelope {
        error: Some("disallowed & pragma"),
        elapsed: Some(Duration::from_micros(1500)),
        sequence_number: Some(1_700_000_000_000_000_001),
        raft_index: Some(7),
    };
    let nothing = Envelope {
        error: Some(""),
        elapsed: Some(Duration::ZERO),
        sequence_number: Some(0),
        raft_index: Some(0),
    };
    let timed = Options { timings: true, ..Options::default() };
    for (options, envelope, expected) in [
        (
            timed,
            all,
            r#"{"results":[],"error":"disallowed \u0026 pragma","time":0.0015,"sequence_number":1700000000000000001,"raft_index":7}"#,
        ),
        (
            Options::default(),
            all,
            r#"{"results":[],"error":"disallowed \u0026 pragma","sequence_number":1700000000000000001,"raft_index":7}"#,
        ),
        (timed, nothing, r#"{"results":[]}"#),
        (timed, Envelope::default(), r#"{"results":[]}"#),
    ] {
        let answer = Results::new(options, Limits::default()).finish(&envelope).unwrap();
        assert_eq!(String::from_utf8(answer.body).unwrap(), expected);
    }
}

#[test]
fn timings_are_reported_per_result_but_not_for_errors() {
    let elapsed = Duration::from_nanos(378_200);
    for (associative, expected) in [
        (
            false,
            r#"{"results":[{"last_insert_id":1,"rows_affected":1,"time":0.0003782},{"time":0.0003782},{"error":"no \u003csuch\u003e table: t"},{"columns":["a"],"types":[""],"time":0.0003782},{"time":0.0003782}]}"#,
        ),
        (
            true,
            r#"{"results":[{"last_insert_id":1,"rows_affected":1,"time":0.0003782,"rows":null},{"time":0.0003782,"rows":null},{"rows":[],"error":"no \u003csuch\u003e table: t"},{"types":{"a":""},"rows":[],"time":0.0003782},{"rows":[],"time":0.0003782}]}"#,
        ),
    ] {
        let options = Options { timings: true, associative, ..Options::default() };
        let mut results = Results::new(options, Limits::default());
        results.end(done(1, 1), elapsed);
        results.end(done(0, 0), elapsed);
        results.end(failure(ErrorKind::Sql, Origin::Read), elapsed);
        results.columns(&columns(&[("a", "-")]));
        results.end(End::Rows, elapsed);
        results.end(End::Empty, elapsed);
        assert_eq!(text(results), expected);
    }
}

#[test]
fn answers_are_indented_on_request() {
    let options = Options { pretty: true, ..Options::default() };
    let mut results = Results::new(options, Limits::default());
    push(&mut results, &columns(&[("a", "INT")]), vec![vec![Value::Integer(1)]]);
    results.end(done(0, 0), Duration::ZERO);
    let expected = r#"{
    "results": [
        {
            "columns": [
                "a"
            ],
            "types": [
                "int"
            ],
            "values": [
                [
                    1
                ]
            ]
        },
        {}
    ]
}"#;
    assert_eq!(text(results), expected);
}

#[test]
fn an_answer_knows_whether_anything_in_it_stands() {
    let failed = |kind| failure(kind, Origin::Write);
    for (ends, has_effect) in [
        (vec![], false),
        (vec![End::Empty], false),
        (vec![failed(ErrorKind::Constraint), failed(ErrorKind::Sql)], false),
        (vec![failed(ErrorKind::Constraint), done(1, 1)], true),
        (vec![done(1, 1), failed(ErrorKind::Constraint)], true),
        (vec![failed(ErrorKind::ConstraintKept)], true),
        (vec![failed(ErrorKind::Sql), failed(ErrorKind::ResultTooLarge)], true),
    ] {
        let mut results = Results::new(Options::default(), Limits::default());
        for end in ends.clone() {
            results.end(end, Duration::ZERO);
        }
        assert_eq!(finish(results).has_effect, has_effect, "{ends:?}");
    }
}

#[test]
fn rows_before_an_error_are_dropped() {
    for associative in [false, true] {
        let options = Options { associative, ..Options::default() };
        let mut results = Results::new(options, Limits::default());
        results.end(done(1, 0), Duration::ZERO);
        results.columns(&columns(&[("a", "INT")]));
        results.row(&[rq_sql::ValueRef::Integer(1)]).unwrap();
        results.row(&[rq_sql::ValueRef::Real(f64::INFINITY)]).unwrap();
        results.end(failure(ErrorKind::Constraint, Origin::Write), Duration::ZERO);
        results.end(failure(ErrorKind::Timeout, Origin::Read), Duration::ZERO);
        let answer = finish(results);
        // The infinite number went with the rows.
        assert_eq!(answer.code, Some(Code::ConstraintViolation));
        let body = String::from_utf8(answer.body).unwrap();
        let (first, last) = if associative { (",\"rows\":null", "\"rows\":[],") } else { ("", "") };
        let error = r#""error":"no \u003csuch\u003e table: t""#;
        assert_eq!(
            body,
            format!(
                r#"{{"results":[{{"last_insert_id":1{first}}},{{{error}}},{{{last}{error}}}]}}"#
            )
        );
    }
}

#[test]
fn strict_requests_get_codes() {
    let options = Options { codes: true, ..ASSOCIATIVE };
    let mut results = Results::new(options, Limits::default());
    results.end(failure(ErrorKind::ReadOnly, Origin::Read), Duration::ZERO);
    results.end(failure(ErrorKind::Sql, Origin::Write), Duration::ZERO);
    assert_eq!(results.first_code(), Some(Code::ReadOnly));
    assert_eq!(
        text(results),
        r#"{"results":[{"rows":[],"error":"no \u003csuch\u003e table: t","code":"read_only"},{"error":"no \u003csuch\u003e table: t","code":"sql_error"}]}"#
    );
}

#[test]
fn infinity_is_null_with_a_code_or_fails_the_answer() {
    for (real, message) in [
        (
            f64::INFINITY,
            "json: error calling MarshalJSON for type *http.DBResults: json: unsupported value: +Inf",
        ),
        (
            f64::NEG_INFINITY,
            "json: error calling MarshalJSON for type *http.DBResults: json: unsupported value: -Inf",
        ),
    ] {
        for fail_on_infinity in [false, true] {
            let options = Options { fail_on_infinity, ..Options::default() };
            let mut results = Results::new(options, Limits::default());
            push(
                &mut results,
                &columns(&[("a", "-")]),
                vec![vec![Value::Real(real)], vec![Value::Real(-real)]],
            );
            results.end(failure(ErrorKind::Sql, Origin::Read), Duration::ZERO);
            assert_eq!(results.first_code(), Some(Code::ValueNotRepresentable));
            match results.finish(&Envelope::default()) {
                Ok(answer) => {
                    assert!(!fail_on_infinity);
                    assert_eq!(
                        String::from_utf8(answer.body).unwrap(),
                        r#"{"results":[{"columns":["a"],"types":["real"],"values":[[null],[null]]},{"error":"no \u003csuch\u003e table: t"}]}"#
                    );
                }
                Err(error) => {
                    assert!(fail_on_infinity);
                    assert_eq!(error.to_string(), message);
                }
            }
        }
    }
}

#[test]
fn a_date_that_cannot_be_written_fails_its_statement() {
    let rows = vec![vec![Value::Integer(0)], vec![Value::Integer(999_999_999_999)]];
    assert_eq!(
        answer(Options::default(), &[("d", "date")], rows),
        r#"{"error":"Time.MarshalText: year outside of range [0,9999]"}"#
    );
}

#[test]
fn results_beyond_a_limit_fail_alone() {
    let rows = |count: i64| (0..count).map(|index| vec![Value::Integer(index)]).collect();
    let list = columns(&[("a", "INT")]);
    let limits = Limits { rows_max: 2, ..Limits::default() };
    let mut results = Results::new(Options::default(), limits);
    push(&mut results, &list, rows(3));
    push(&mut results, &list, rows(2));
    let Answer { body, code, .. } = finish(results);
    assert_eq!(code, Some(Code::ResultTooLarge));
    assert_eq!(
        String::from_utf8(body).unwrap(),
        r#"{"results":[{"error":"result too large: more than 2 rows"},{"columns":["a"],"types":["int"],"values":[[0],[1]]}]}"#
    );

    let limits = Limits { bytes_max: 60, ..Limits::default() };
    for long in [Value::text("x".repeat(40)), Value::Real(-1.234_567_890_123_456e-300)] {
        let mut results = Results::new(Options::default(), limits);
        push(&mut results, &list, vec![vec![Value::Integer(1)], vec![long]]);
        results.end(done(1, 1), Duration::ZERO);
        assert_eq!(
            text(results),
            r#"{"results":[{"error":"result too large: answer longer than 60 bytes"},{"last_insert_id":1,"rows_affected":1}]}"#
        );
    }
    // A value far beyond the limit is refused before it is copied.
    let mut results = Results::new(Options::default(), limits);
    results.columns(&list);
    let blob = vec![0; 1 << 20];
    assert!(results.row(&[rq_sql::ValueRef::Blob(&blob)]).is_err());
}

#[test]
fn reset_forgets_everything() {
    let options = Options { fail_on_infinity: true, ..Options::default() };
    let mut results = Results::new(options, Limits::default());
    push(&mut results, &columns(&[("a", "-")]), vec![vec![Value::Real(f64::INFINITY)]]);
    results.columns(&columns(&[("a", "-")]));
    assert!(!results.is_empty());
    results.reset();
    assert!(results.is_empty());
    results.end(done(0, 1), Duration::ZERO);
    let answer = finish(results);
    assert_eq!(answer.body, br#"{"results":[{"rows_affected":1}]}"#);
    assert_eq!((answer.code, answer.has_effect), (None, true));
}

#[test]
fn answers_share_a_room_until_they_are_dropped() {
    let list = columns(&[("a", "blob")]);
    let room = Room::new(4 << 20);
    let make = |length: usize| {
        let mut results =
            Results::new(Options::default(), Limits::default()).within(Arc::clone(&room));
        push(&mut results, &list, vec![vec![Value::Blob(vec![0; length])]]);
        finish(results)
    };
    let small = make(10_000);
    assert!(small.share.is_none() && room.taken() == 0);
    let first = make(1_500_000);
    assert!(!first.lacked_room && first.code.is_none());
    assert_eq!(room.taken(), first.body.len());
    let second = make(1_500_000);
    assert!(second.lacked_room);
    assert_eq!(second.code, Some(Code::ResultTooLarge));
    // What was refused takes nothing.
    assert_eq!(room.taken(), first.body.len());
    drop(first);
    assert_eq!(room.taken(), 0);
    assert!(!make(1_500_000).lacked_room);
    assert_eq!(room.taken(), 0);
    // Many small rows take it step by step.
    let rows = || (0..100).map(|_| vec![Value::Blob(vec![0; 10_000])]).collect::<Vec<_>>();
    let mut results = Results::new(Options::default(), Limits::default()).within(Arc::clone(&room));
    push(&mut results, &list, rows());
    assert!(room.taken() >= 1_000_000, "{}", room.taken());
    let answer = finish(results);
    assert_eq!(room.taken(), answer.body.len());
}
