//! Bodies: the cases of `cases/bodies.txt`, limits, nesting, and random mutations.

use rq_api::statement::{DecodeError, DecodeOptions, EncodeError, decode, decode_text, encode};
use rq_sql::{Parameter, Statement, Value};

fn render_value(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:?}"),
        Value::Text(text) => format!("'{}'", std::str::from_utf8(text).expect("UTF-8")),
        Value::Blob(blob) => {
            let digits: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{digits}'")
        }
    }
}

fn render(statements: &[Statement]) -> String {
    let rendered: Vec<String> = statements
        .iter()
        .map(|statement| {
            let mut out = statement.sql.clone();
            for (index, Parameter { name, value }) in statement.parameters.iter().enumerate() {
                out.push_str(if index == 0 { " | " } else { ", " });
                if let Some(name) = name {
                    out.extend([name, "="]);
                }
                out.push_str(&render_value(value));
            }
            out
        })
        .collect();
    if rendered.is_empty() { "-".to_owned() } else { rendered.join(" ; ") }
}

/// Replaces `%XX` by the byte it stands for.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'%' {
            let digits = std::str::from_utf8(&rest[..2]).expect("ASCII");
            bytes.push(u8::from_str_radix(digits, 16).expect("two digits behind %"));
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    bytes
}

#[test]
fn bodies_decode_as_documented() {
    let options = DecodeOptions::default();
    let mut count = 0;
    for line in include_str!("../cases/bodies.txt").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (body, refused, expected) = match line.split_once(" =>! ") {
            Some((body, expected)) => (body, true, expected),
            None => {
                let (body, expected) = line.split_once(" => ").expect(line);
                (body, false, expected)
            }
        };
        let decoded = decode(&bytes(body), &options);
        match decoded {
            Ok(statements) => {
                assert!(!refused, "{body} was accepted");
                let expected = String::from_utf8(bytes(expected)).unwrap();
                assert_eq!(render(&statements), expected, "{body}");
            }
            Err(error) => {
                assert!(refused, "{body} was refused: {error}");
                assert_eq!(error.to_string(), expected, "{body}");
            }
        }
        count += 1;
    }
    assert!(count > 130, "only {count} cases were found");
}

#[test]
fn strict_requests_keep_texts_that_look_like_blobs() {
    let options = DecodeOptions { strict: true, ..DecodeOptions::default() };
    let decoded = decode(br#"[["a", "x'00'", {"k": "X''"}, [1]]]"#, &options).unwrap();
    assert_eq!(render(&decoded), "a | 'x'00'', k='X''', x'01'");
}

#[test]
fn nesting_is_limited() {
    let body = |depth: usize| {
        format!("[[\"a\", {}{}]]", "[".repeat(depth), "]".repeat(depth)).into_bytes()
    };
    let options = DecodeOptions::default();
    let refused = |body: &[u8]| decode(body, &options).expect_err("too deep").to_string();
    assert_eq!(refused(&body(10_000)), "unsupported type []interface {}");
    assert_eq!(refused(&body(10_001)), "invalid JSON body");
    // Deeper than any stack, also where it never closes.
    assert_eq!(refused(&b"[".repeat(10_000_000)), "invalid JSON body");
    assert_eq!(refused("[[\"a\",".repeat(1_000_000).as_bytes()), "invalid JSON body");
    assert_eq!(refused("[[\"a\",{\"k\":".repeat(1_000_000).as_bytes()), "invalid JSON body");
    let objects = format!("[[\"a\",{}1{}]]", "{\"k\":".repeat(10_000), "}".repeat(10_000));
    assert_eq!(refused(objects.as_bytes()), "unsupported type map[string]interface {}");
}

#[test]
fn numbers_of_statements_and_parameters_are_limited() {
    let options =
        DecodeOptions { statements_max: 2, parameters_max: 3, ..DecodeOptions::default() };
    assert_eq!(decode(br#"["a","b",""]"#, &options).map(|list| list.len()), Ok(2));
    assert_eq!(decode(br#"["a","b","c"]"#, &options), Err(DecodeError::TooManyStatements(2)));
    assert!(decode(br#"[["a",1],["b",2,{"x":3}]]"#, &options).is_ok());
    for body in [r#"[["a",1],["b",2,{"x":3,"y":4}]]"#, r#"[["a",1,2,3,4]]"#] {
        assert_eq!(decode(body.as_bytes(), &options), Err(DecodeError::TooManyParameters(3)));
    }
}

#[test]
fn ten_thousand_parameters_decode() {
    let list: Vec<String> =
        (0..10_000).map(|index| format!("{{\"k{}\":{index}}}", index % 7)).collect();
    let body = format!("[[\"a\",{}]]", list.join(","));
    let decoded = decode(body.as_bytes(), &DecodeOptions::default()).unwrap();
    assert_eq!(decoded[0].parameters.len(), 10_000);
    // In one object, equal names collapse to the last.
    let body = format!("[[\"a\",{}]]", list.join(",").replace("},{", ","));
    let decoded = decode(body.as_bytes(), &DecodeOptions::default()).unwrap();
    let rendered = render(&decoded);
    assert_eq!(rendered, "a | k0=9996, k1=9997, k2=9998, k3=9999, k4=9993, k5=9994, k6=9995");
}

#[test]
fn plain_text_is_one_statement() {
    assert_eq!(decode_text(Vec::new()), Ok(Vec::new()));
    assert_eq!(decode_text(b"SELECT 1; \n".to_vec()), Ok(vec![Statement::new("SELECT 1; \n")]));
    let error = decode_text(b"SELECT '\xff'".to_vec()).expect_err("not UTF-8");
    assert_eq!(error.to_string(), "string field contains invalid UTF-8");
}

#[test]
fn what_would_not_arrive_is_not_encoded() {
    let text = |bytes: &[u8]| [Statement::with("a", [Value::Text(bytes.to_vec())])];
    assert_eq!(encode(&text(b"\xff"), false), Err(EncodeError::InvalidUtf8));
    assert_eq!(encode(&text(b" x'00' "), false), Err(EncodeError::LooksLikeBlob));
    assert!(encode(&text(b" x'00' "), true).is_ok());
    let infinite = [Statement::with("a", [Value::Real(f64::NEG_INFINITY)])];
    assert_eq!(encode(&infinite, false), Err(EncodeError::NotFinite));
}

/// A small generator of random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.bits() % bound as u64).expect("smaller than a usize")
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn text(&mut self) -> String {
        const CHARS: [char; 12] =
            ['a', '\'', '"', '\\', '\0', '\n', '<', 'é', '\u{2028}', '😀', '\u{fffd}', 'x'];
        (0..self.below(12)).map(|_| *self.pick(&CHARS)).collect()
    }

    fn value(&mut self) -> Value {
        match self.below(6) {
            0 => Value::Null,
            1 => Value::Integer(*self.pick(&[0, 1, -1, i64::MAX, i64::MIN, 1 << 53])),
            2 => Value::Integer(self.bits().cast_signed()),
            3 => {
                let real = f64::from_bits(self.bits());
                Value::Real(if real.is_finite() { real } else { -0.0 })
            }
            4 => Value::text(self.text()),
            _ => Value::Blob((0..self.below(20)).map(|index| index.to_le_bytes()[0]).collect()),
        }
    }

    fn statement(&mut self) -> Statement {
        let mut statement = Statement::new(format!("s{}", self.text()));
        for _ in 0..self.below(5) {
            let name = Some(format!("n{}", self.text())).filter(|_| self.below(3) == 0);
            statement.parameters.push(Parameter { name, value: self.value() });
        }
        statement
    }
}

fn seed() -> u64 {
    std::env::var("RQ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[test]
fn random_statements_arrive_as_they_were_sent() {
    let mut random = Random(seed());
    println!("seed {} (RQ_SEED)", random.0);
    for _ in 0..20_000 {
        let statements: Vec<Statement> =
            (0..1 + random.below(4)).map(|_| random.statement()).collect();
        for strict in [false, true] {
            let body = match encode(&statements, strict) {
                Ok(body) => body,
                Err(EncodeError::LooksLikeBlob) if !strict => continue,
                Err(error) => panic!("{statements:?}: {error}"),
            };
            let options = DecodeOptions { strict, ..DecodeOptions::default() };
            let decoded = decode(&body, &options).expect("what was encoded decodes");
            // Debug tells -0.0 from 0.0.
            assert_eq!(format!("{decoded:?}"), format!("{statements:?}"));
        }
    }
}

#[test]
fn random_mutations_never_panic_and_agree_with_serde() {
    let mut random = Random(seed());
    println!("seed {} (RQ_SEED)", random.0);
    let seeds: Vec<Vec<u8>> = include_str!("../cases/bodies.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" =>").map(|(body, _)| bytes(body)))
        .collect();
    let options =
        DecodeOptions { statements_max: 50, parameters_max: 50, ..DecodeOptions::default() };
    for _ in 0..100_000 {
        let mut body = random.pick(&seeds).clone();
        for _ in 0..random.below(4) {
            let at = random.below(body.len() + 1);
            match random.below(4) {
                0 => body.truncate(at),
                1 => body.insert(at, *random.pick(b"[]{}\",:\\u0189.eE-+ tfn\x00\xff\xe2")),
                2 if at < body.len() => {
                    body.remove(at);
                }
                _ => {
                    let other = random.pick(&seeds);
                    let from = random.below(other.len() + 1);
                    body.splice(at..at, other[from..].iter().copied());
                }
            }
        }
        match decode(&body, &options) {
            // What is valid JSON and nothing else must not be called invalid.
            Err(DecodeError::InvalidJson) => {
                let parsed = serde_json::from_slice::<serde_json::Value>(&body);
                assert!(parsed.is_err(), "{:?} is JSON", String::from_utf8_lossy(&body));
            }
            Ok(statements) => assert!(statements.len() <= 50),
            Err(_) => {}
        }
    }
}
