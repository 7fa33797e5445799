//! `LIKE` and `GLOB` against SQLite's own: results, plans, and that they end.

use std::time::{Duration, Instant};

use rq_sql::{ErrorKind, Outcome, Statement, Value};
use rusqlite::{
    limits::Limit,
    types::{Value as SqlValue, ValueRef},
};

use super::*;
use crate::{
    query::{Query, QueryEnd},
    testing::{Bare, Collected, SplitMix, collect, plain_connection, seed, single},
};

/// A connection with SQLite's functions and one with ours.
fn both() -> [Connection; 2] {
    let [plain, ours] = [plain_connection(), plain_connection()];
    plain.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, LONGEST_PATTERN).unwrap();
    install(&ours, false).unwrap();
    [plain, ours]
}

fn ask(connection: &Connection, sql: &str) -> Result<SqlValue, String> {
    connection.query_row(sql, [], |row| row.get(0)).map_err(|error| error.to_string())
}

/// Values of all types: wildcards, case, NUL bytes, and text that is not UTF-8.
const VALUES: &[&str] = &[
    "NULL",
    "''",
    "x''",
    "'a'",
    "'A'",
    "'abc'",
    "x'616263'",
    "'aBC'",
    "'ab_'",
    "'ab%'",
    "'a!%'",
    "'!%'",
    "'!!'",
    "'!'",
    "'%!'",
    "'%'",
    "'%%'",
    "'_'",
    "'%_'",
    "'%_b%'",
    "'_%_'",
    "'%c'",
    "'%B%'",
    "'%a%b%c%'",
    "'%!_'",
    "'a%!'",
    "'*'",
    "'?'",
    "'*?'",
    "'a*c'",
    "'*c'",
    "'*[a-c]'",
    "'*[^a-c]*'",
    "'[abc]'",
    "'[]]'",
    "'[^]]'",
    "']'",
    "'[a-]'",
    "'-'",
    "'[a-'",
    "'[-a]'",
    "'['",
    "'[^'",
    "'[]'",
    "'[^]'",
    "'^'",
    "'[c-a]'",
    "'[a-b-c]'",
    "'[!-~]bc'",
    "'@'",
    "'`'",
    "'[A-Z'",
    "'é'",
    "'É'",
    "'%é'",
    "'*é'",
    "'aéb'",
    "'%éb'",
    "'[é]'",
    "'[à-ü]'",
    "'*[à-ü]b'",
    "'😀'",
    "'%😀%'",
    "'_😀'",
    "123",
    "'1_3'",
    "'%2%'",
    "-1.5",
    "'-1%'",
    "zeroblob(2)",
    "x'610062'",
    "cast(x'610062' AS TEXT)",
    "cast(x'006162' AS TEXT)",
    "cast(x'2500' AS TEXT)",
    "cast(x'5b6100' AS TEXT)",
    "cast(x'5b61' AS TEXT)",
    "cast(x'80' AS TEXT)",
    "cast(x'25bf' AS TEXT)",
    "cast(x'c3' AS TEXT)",
    "cast(x'25c3' AS TEXT)",
    "cast(x'c0' AS TEXT)",
    "cast(x'c180' AS TEXT)",
    "cast(x'c1bf' AS TEXT)",
    "cast(x'efbfbd' AS TEXT)",
    "cast(x'25efbfbd' AS TEXT)",
    "cast(x'eda080' AS TEXT)",
    "cast(x'e0a080' AS TEXT)",
    "cast(x'f0808380' AS TEXT)",
    "cast(x'c380' AS TEXT)",
    "cast(x'e0838080' AS TEXT)",
    "cast(x'ff' AS TEXT)",
    "cast(x'ff8180808080808080' AS TEXT)",
    "cast(x'fe8380' AS TEXT)",
    "cast(x'25fe8380' AS TEXT)",
    "cast(x'f783bfbfbfbf' AS TEXT)",
    "cast(x'fb' AS TEXT)",
    "cast(x'6180808062' AS TEXT)",
    "cast(x'615f5f5f62' AS TEXT)",
    "cast(x'613f3f62' AS TEXT)",
    "cast(x'c4a1' AS TEXT)",
    "cast(x'c4a0' AS TEXT)",
];

/// What may be said behind ESCAPE, and what may not.
const ESCAPES: &[&str] = &[
    "NULL",
    "''",
    "'!'",
    "'!!'",
    "'%'",
    "'_'",
    "'a'",
    "'A'",
    "'['",
    "'é'",
    "1",
    "12",
    "x'21'",
    "cast(x'2100' AS TEXT)",
    "cast(x'0021' AS TEXT)",
    "cast(x'80' AS TEXT)",
    "cast(x'8080' AS TEXT)",
    "cast(x'c3' AS TEXT)",
    "cast(x'c38080' AS TEXT)",
    "cast(x'efbfbd' AS TEXT)",
];

#[test]
fn results_are_those_of_sqlites_own() {
    let [plain, ours] = both();
    let compare = |call: &str| {
        let sql = format!("SELECT {call}");
        assert_eq!(ask(&ours, &sql), ask(&plain, &sql), "{call}");
    };
    for pattern in VALUES {
        for text in VALUES {
            compare(&format!(
                "format('%s %s', coalesce(like({pattern}, {text}), 'x'), coalesce(glob({pattern}, {text}), 'x'))"
            ));
        }
    }
    for escape in ESCAPES {
        for pattern in VALUES {
            for text in ["NULL", "'abc'", "'ab%'", "'é'", "'a_'", "'%'", "'!'", "x'c3'"] {
                compare(&format!("{text} LIKE {pattern} ESCAPE {escape}"));
            }
        }
    }
}

#[test]
fn the_limit_of_patterns_is_that_of_the_connection() {
    let [plain, ours] = both();
    for length in [4095, 4096, 4097, 100_000] {
        let long = format!("replace(hex(zeroblob({length})), '00', 'é')");
        let half = format!("replace(hex(zeroblob({length} / 2)), '00', 'é')");
        for call in [
            format!("like(substr({long}, 1, {length}), 'x')"),
            format!("like(zeroblob({length}), NULL)"),
            format!("glob(zeroblob({length}), '')"),
            format!("like({half}, {half})"),
            format!("like({half}, {half}, '!!')"),
            format!("like({half}, {half}, NULL)"),
            format!("'x' LIKE {half} || '%'"),
        ] {
            let sql = format!("SELECT {call}");
            assert_eq!(ask(&ours, &sql), ask(&plain, &sql), "{call}");
        }
    }
}

/// Of what patterns and texts are made: each alphabet by itself, so that they often fit.
const ALPHABETS: &[&[&[u8]]] = &[
    &[b"%", b"%", b"_", b"a", b"a", b"b", b"A"],
    &[b"*", b"*", b"?", b"a", b"b", b"[", b"]", b"^", b"-", b"[a]", b"[^b]", b"[a-b]"],
    &[b"%", b"_", b"*", b"?", b"!", b"a", b"%a", b"*a", "é".as_bytes(), "É".as_bytes()],
    &[b"%", b"*", b"?", b"_", b"[", b"]", b"-", b"a", b"\0", b"\x80", b"\xbf", b"\xc3", b"\xff"],
    &[b"%", b"*", b"\xc3\xa9", b"\xe0\x83\xa9", b"\xa9", b"\xed\xa0\x80", b"\xef\xbf\xbd", b"\xfe"],
];

/// A pattern and a text, which is often the pattern with some pieces changed.
fn random_pair(random: &mut SplitMix) -> (Vec<u8>, Vec<u8>) {
    let mut index = |bound: usize| usize::try_from(random.below(bound as u64)).unwrap();
    let alphabet = ALPHABETS[index(ALPHABETS.len())];
    let pattern: Vec<_> = (0..index(9)).map(|_| alphabet[index(alphabet.len())]).collect();
    // Long texts are searched in other ways than short ones.
    let mut text =
        if index(4) == 0 { vec![alphabet[index(alphabet.len())]; index(200)] } else { Vec::new() };
    for place in 0..index(pattern.len() + 3) {
        let same = pattern.get(place).filter(|_| index(2) == 0);
        text.push(*same.unwrap_or(&alphabet[index(alphabet.len())]));
    }
    text.extend((0..[0, 0, 0, 9, 70][index(5)]).map(|_| alphabet[0]));
    (pattern.concat(), text.concat())
}

#[test]
fn random_texts_and_patterns_give_what_sqlites_own_give() {
    let seed = seed();
    let mut random = SplitMix(seed);
    for minds_case in [false, true] {
        let connections = both();
        let [plain, ours] = &connections;
        if minds_case {
            plain.pragma_update(None, "case_sensitive_like", true).unwrap();
            install(ours, true).unwrap();
        }
        let sql = "SELECT like(p, t) + 2 * glob(p, t) + 4 * like(p, t, '!') + 8 * like(p, t, '%')
                       + 16 * like(p, t, '_') + 32 * like(p, t, cast(x'c3' AS TEXT))
                   FROM (SELECT cast(?1 AS TEXT) AS p, cast(?2 AS TEXT) AS t)";
        let mut statements = connections.each_ref().map(|one| one.prepare(sql).unwrap());
        let mut fitting = 0;
        for _ in 0..40_000 {
            let (pattern, text) = random_pair(&mut random);
            let [expected, found] = statements.each_mut().map(|statement| {
                statement.query_row((&pattern, &text), |row| row.get::<_, i64>(0)).unwrap()
            });
            assert_eq!(found, expected, "seed {seed}: {pattern:02x?} and {text:02x?}");
            fitting += u32::from(found != 0);
        }
        assert!(fitting > 4_000, "{fitting} fit");
    }
}

/// What SQLite does for statements that compare: the whole program, and the plan.
fn plans(connection: &Connection) -> Vec<String> {
    connection
        .execute_batch(
            "CREATE TABLE t (a TEXT COLLATE NOCASE, b TEXT, c);
             CREATE INDEX ta ON t (a);
             CREATE INDEX tb ON t (b);
             CREATE INDEX tc ON t (c);
             CREATE VIRTUAL TABLE f USING fts5 (x, tokenize = 'trigram');
             CREATE VIRTUAL TABLE g USING fts5 (x, tokenize = 'trigram case_sensitive 1');",
        )
        .unwrap();
    let mut plans = Vec::new();
    for condition in [
        "t WHERE a LIKE 'abc%'",
        "t WHERE a LIKE 'abc%d'",
        "t WHERE a LIKE '%abc'",
        "t WHERE a LIKE 'a!%b%' ESCAPE '!'",
        "t WHERE a LIKE '!%' ESCAPE '!'",
        "t WHERE a LIKE 'a%' ESCAPE '%'",
        "t WHERE a LIKE ?1",
        "t WHERE a LIKE ?1 ESCAPE '!'",
        "t WHERE like('abc%', a)",
        "t WHERE b LIKE 'abc%'",
        "t WHERE b GLOB 'abc*'",
        "t WHERE b GLOB 'a[bc]*'",
        "t WHERE b GLOB ?1",
        "t WHERE b GLOB ?1 || '*'",
        "t WHERE c GLOB 'abc*'",
        "t WHERE c GLOB '12*'",
        "t WHERE a NOT LIKE 'abc%'",
        "t WHERE a LIKE 'x%' OR a LIKE 'y%'",
        "f WHERE x LIKE '%abc%'",
        "f WHERE x LIKE ?1",
        "f WHERE x GLOB '*abc*'",
        "g WHERE x GLOB '*abc*'",
        "g WHERE x LIKE '%abc%'",
    ] {
        for explain in ["EXPLAIN", "EXPLAIN QUERY PLAN"] {
            let sql = format!("{explain} SELECT * FROM {condition}");
            let mut statement = connection.prepare(&sql).unwrap();
            if statement.parameter_count() > 0 {
                statement.raw_bind_parameter(1, "abc%").unwrap();
            }
            let columns = statement.column_count();
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next().unwrap() {
                let cell = |column| match row.get_ref(column).unwrap() {
                    ValueRef::Integer(integer) => integer.to_string(),
                    ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    _ => "NULL".to_owned(),
                };
                let mut cells: Vec<_> = (0..columns).map(cell).collect();
                // The address of a table.
                cells.retain(|cell| !cell.starts_with("vtab:"));
                plans.push(format!("{condition}: {}", cells.join(" ")));
            }
        }
    }
    plans
}

#[test]
fn plans_are_those_of_sqlites_own() {
    let [plain, ours] = both();
    let (expected, found) = (plans(&plain), plans(&ours));
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
    let searches = found.iter().filter(|line| line.contains("SEARCH t USING INDEX")).count();
    assert!(searches >= 9, "{found:#?}");
}

#[test]
fn plans_are_those_of_sqlites_own_where_like_minds_case() {
    let [plain, ours] = [plain_connection(), plain_connection()];
    for connection in [&plain, &ours] {
        connection.pragma_update(None, "case_sensitive_like", true).unwrap();
    }
    reinstall(&ours).unwrap();
    let like = "SELECT 'a' LIKE 'A'";
    assert_eq!((ask(&ours, like), ask(&plain, like)), (Ok(0.into()), Ok(0.into())));
    // SQLite defines its own as if they gave another result each time.
    let plan = |connection| {
        let mut plans = plans(connection);
        plans.retain(|line| line.contains("SEARCH") || line.contains("SCAN"));
        plans
    };
    assert_eq!(plan(&ours), plan(&plain));
}

#[test]
fn a_function_that_is_not_as_it_was_defined_is_not_marked() {
    let [_, ours] = both();
    let data: *const Wildcards = &raw const LIKE;
    define(&ours, c"like", 2, 0, data.cast_mut().cast(), compare, None).unwrap();
    let asked = Mark::Asked { arguments: 2, flags: IS_LIKE };
    MARK.set(asked);
    assert_eq!(ask(&ours, "SELECT like(NULL, NULL)"), Ok(SqlValue::Null));
    assert_eq!(MARK.replace(Mark::None), asked);
}

/// A comparison of a text with a pattern made for it, which compares most of the pattern for each byte.
fn long(bytes: usize, function: &str) -> String {
    let (all, one) = if function == "glob" { ('*', '?') } else { ('%', '_') };
    format!(
        "SELECT {function}('{all}' || replace(hex(zeroblob(1000)), '00', 'aaa{one}') || 'b{all}',
                           replace(hex(zeroblob({bytes} / 2)), '0', 'a'))"
    )
}

#[test]
fn a_comparison_ends_at_the_deadline() {
    let bare = Bare::new();
    for function in ["like", "glob"] {
        let statements = [Statement::new(long(4_000_000, function))];
        let deadline = Some(Instant::now() + Duration::from_millis(100));
        let query = Query { statements: &statements, deadline, ..Query::default() };
        let outcomes = collect(&bare.parts.readers, &query).unwrap();
        let Outcome::Error(error) = &outcomes[0] else { panic!("{function}: {outcomes:?}") };
        assert_eq!(error.kind, ErrorKind::Timeout, "{function}");
    }
}

/// Runs statement strings that use up their allowance within one call of the last. Gives the results before it.
fn before_long(bare: &Bare, strings: &[&str]) -> Vec<Outcome> {
    let long = long(200_000, "like");
    let statements: Vec<_> =
        strings.iter().map(|sql| Statement::new(sql.replace("LONG", &long))).collect();
    let step_allowance = Some(200_000);
    let query = Query { statements: &statements, step_allowance, ..Query::default() };
    let mut sink = Collected::default();
    let end = bare.parts.readers.query(&query, &mut sink);
    assert_eq!(end, Ok(QueryEnd::Yielded), "{strings:?}");
    assert_eq!(sink.outcomes.len(), strings.len() - 1, "{strings:?}");
    sink.outcomes
}

#[test]
fn a_comparison_ends_whatever_case_means() {
    let case = "SELECT ('a' LIKE 'A') || ('a' LIKE 'a')";
    for (strings, expected) in [
        (&["PRAGMA case_sensitive_like = 1", case, "LONG"][..], "01"),
        (
            &["PRAGMA case_sensitive_like = 1; SELECT ('a' LIKE 'A') || ('a' LIKE 'a')", "LONG"],
            "01",
        ),
        (
            &["PRAGMA case_sensitive_like(yes)", "PRAGMA case_sensitive_like(no)", case, "LONG"],
            "11",
        ),
        (&["PRAGMA case_sensitive_like = 1; PRAGMA case_sensitive_like = 0", case, "LONG"], "11"),
        (&["EXPLAIN PRAGMA case_sensitive_like = 1", case, "LONG"], "01"),
        (&["BEGIN", "PRAGMA case_sensitive_like = 1", case, "LONG"], "01"),
        (&["PRAGMA case_sensitive_like = 1; SELECT missing", case, "LONG"], "01"),
        (&["PRAGMA case_sensitive_like", case, "LONG"], "11"),
        // The statement before is run when the one behind it is compiled.
        (&[case, "PRAGMA case_sensitive_like = 1; LONG"], "11"),
        (&[case, "LONG; PRAGMA case_sensitive_like = 1"], "11"),
        (&[case, "SELECT 1; PRAGMA case_sensitive_like = 1; LONG; SELECT 1"], "11"),
    ] {
        let bare = Bare::new();
        let outcomes = before_long(&bare, strings);
        assert_eq!(single(outcomes.last().unwrap()), Ok(Value::text(expected)), "{strings:?}");
        let again = before_long(&bare, &[case, "LONG"]);
        assert_eq!(single(&again[0]), Ok(Value::text("11")), "another request, after {strings:?}");
    }
}
