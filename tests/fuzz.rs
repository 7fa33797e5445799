//! Generated input for everything that decodes what others wrote: request bodies, query strings,
//! SQL texts, segments of the log.
//!
//! Each target runs for `RQ_FUZZ_SECONDS` (a short while by default) from `RQ_FUZZ_SEED`; a failure
//! prints the seed of its case, which repeats it alone. Nothing may panic, and what can be compared
//! with something independent of the decoder is.

use std::{
    env, fs,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rq_api::{
    params::Params,
    statement::{DecodeOptions, decode, encode},
};
use rq_sql::{
    Parameter, Statement, Value, classify,
    split::{Splitter, statements},
    token::tokens,
};
use rq_storage::{Execution, Log, LogOptions, RealFiles, Record, decode_records};
use rq_tests::Random;
use tempfile::TempDir;

/// How long a target runs if nobody says otherwise.
const DEFAULT_SECONDS: u64 = 3;

/// Runs cases until the time is up, at least a few, each from a seed of its own.
fn fuzz(mut case: impl FnMut(&mut Random)) {
    let seconds = env::var("RQ_FUZZ_SECONDS").map_or(DEFAULT_SECONDS, |text| text.parse().unwrap());
    let (mut seeds, seed) = Random::from_environment("RQ_FUZZ_SEED", 1);
    let start = Instant::now();
    let mut cases = 0_u64;
    let mut seed = seed;
    while cases < 20 || start.elapsed() < Duration::from_secs(seconds) {
        let result = panic::catch_unwind(AssertUnwindSafe(|| case(&mut Random::new(seed))));
        if let Err(failure) = result {
            eprintln!("repeat with RQ_FUZZ_SEED={seed}");
            panic::resume_unwind(failure);
        }
        seed = seeds.number();
        cases += 1;
    }
    eprintln!("{cases} cases");
}

/// Changes some bytes: flips, cuts, doubles, inserts.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            bytes.push(b'[');
        }
        let place = random.index(bytes.len());
        match random.below(6) {
            0 => bytes[place] ^= 1 << random.below(8),
            1 => bytes.truncate(place),
            2 => drop(bytes.remove(place)),
            3 => bytes.insert(place, *random.pick(b"[]{}\",:\\ue-.0918tfn \n\x00\xff")),
            4 => {
                let end = place + random.index(bytes.len() - place + 1);
                let part = bytes[place..end].to_vec();
                bytes.splice(place..place, part).for_each(drop);
            }
            _ => {
                let length = random.index(9);
                bytes.splice(place..place, random.bytes(length)).for_each(drop);
            }
        }
    }
}

fn text(random: &mut Random) -> String {
    let pieces = [
        "SELECT",
        " ",
        "'",
        "\"",
        "x'00'",
        "é",
        "😀",
        "\u{2028}",
        "\0",
        "\\",
        "\n",
        "a",
        "?",
        ":n",
        ";",
        "--",
        "/*",
        "*/",
        "<&>",
        "BEGIN",
        "END",
        "CREATE TRIGGER",
        "[",
        "]",
        "`",
        "1e9",
    ];
    (0..random.below(12)).map(|_| *random.pick(&pieces)).collect()
}

fn value(random: &mut Random) -> Value {
    match random.below(6) {
        0 => Value::Null,
        1 => Value::Integer(i64::from_ne_bytes(random.number().to_ne_bytes()) >> random.below(64)),
        2 => {
            let real = f64::from_bits(random.number());
            Value::Real(if real.is_finite() { real } else { 0.5 })
        }
        3 => {
            let length = random.index(20);
            Value::Blob(random.bytes(length))
        }
        _ => Value::text(text(random)),
    }
}

fn statement(random: &mut Random) -> Statement {
    let parameters = (0..random.below(5))
        .map(|_| {
            let name = (random.below(3) == 0).then(|| format!("n{}", random.below(3)));
            Parameter { name, value: value(random) }
        })
        .collect();
    // The empty statement is skipped by the decoder, so it cannot come back.
    Statement { sql: format!("x{}", text(random)), parameters }
}

#[test]
fn request_bodies() {
    fuzz(|random| {
        let list: Vec<_> = (0..=random.below(4)).map(|_| statement(random)).collect();
        let options = DecodeOptions { strict: true, ..DecodeOptions::default() };
        let mut body = encode(&list, true).unwrap();
        assert_eq!(decode(&body, &options).unwrap(), list, "{}", String::from_utf8_lossy(&body));
        // Whatever follows the list changes nothing.
        body.extend_from_slice(b" x");
        assert_eq!(decode(&body, &options).unwrap(), list);
        for _ in 0..20 {
            mutate(&mut body, random);
            let decoded = decode(&body, &options);
            // Another reader of JSON must agree that a whole body is malformed.
            if serde_json::from_slice::<serde_json::Value>(&body).is_err() && decoded.is_ok() {
                let mut stream = serde_json::Deserializer::from_slice(&body).into_iter();
                let first: Option<Result<serde_json::Value, _>> = stream.next();
                let only_lenient = match first {
                    Some(Ok(value)) => value.is_array(),
                    // It refuses lone surrogates, bytes that are not UTF-8 and doubles out of
                    // range, which we replace or name.
                    Some(Err(error)) => !error.is_eof(),
                    None => false,
                };
                assert!(only_lenient, "accepted: {}", String::from_utf8_lossy(&body));
            }
        }
    });
}

#[test]
fn query_strings() {
    fuzz(|random| {
        let mut query =
            b"pretty&timeout=1h2m3.5s&q=SELECT%201&level=none&retries=-1&freshness=.5us".to_vec();
        for _ in 0..10 {
            mutate(&mut query, random);
            drop(Params::parse(&String::from_utf8_lossy(&query)));
        }
    });
}

#[test]
fn sql_texts() {
    fuzz(|random| {
        let mut bytes = (0..random.below(6)).map(|_| text(random)).collect::<String>().into_bytes();
        mutate(&mut bytes, random);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let tokens: String = tokens(&text).map(|token| token.text).collect();
        assert_eq!(tokens, text, "tokens lose or change text");
        let whole: Vec<_> = statements(&text)
            .map(|piece| (piece.text.to_owned(), piece.start, piece.is_empty, piece.is_complete))
            .collect();
        let joined: String = whole.iter().map(|piece| piece.0.as_str()).collect();
        assert_eq!(joined, text, "pieces lose or change text");
        for piece in &whole {
            // Whatever they say of it, they must say something.
            let _kind = classify::kind(&piece.0);
            let _keyword = classify::first_keyword(&piece.0);
            let _disallowed = classify::is_disallowed_pragma(&piece.0);
        }
        assert_eq!(in_chunks(&text, random), whole, "pieces depend on where chunks end");
    });
}

/// The pieces of a text that arrives in random chunks.
fn in_chunks(text: &str, random: &mut Random) -> Vec<(String, usize, bool, bool)> {
    let mut splitter = Splitter::new();
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.floor_char_boundary(random.index(rest.len() + 1));
        splitter.push(&rest[..end]);
        rest = &rest[end..];
        while let Some(piece) = splitter.next_piece() {
            pieces.push((piece.text.to_owned(), piece.start, piece.is_empty, piece.is_complete));
        }
    }
    if let Some(piece) = splitter.finish() {
        pieces.push((piece.text.to_owned(), piece.start, piece.is_empty, piece.is_complete));
    }
    pieces
}

#[test]
fn log_segments() {
    let place = TempDir::new().unwrap();
    let mut seed = Random::new(5);
    let records: Vec<_> = (1..40)
        .map(|index| {
            let length = seed.index(300);
            let payload = seed.bytes(length).into();
            Record { index, term: 1 + index / 10, kind: 1, payload }
        })
        .collect();
    let segment = write_segment(place.path(), &records);
    assert_eq!(decode_records(&segment).unwrap(), records);
    fuzz(|random| {
        let mut damaged = segment.clone();
        // Most of a segment is the zeroed rest; most damage must hit records.
        let used = 4096 + records.iter().map(Record::stored_bytes).sum::<usize>();
        damaged.truncate(used + random.index(200));
        mutate(&mut damaged, random);
        if let Ok(found) = decode_records(&damaged) {
            assert!(
                records.starts_with(&found),
                "a damaged segment gave records that were never written: {} of {}",
                found.len(),
                records.len()
            );
        }
        let length = random.index(5000);
        drop(decode_records(&random.bytes(length)));
    });
}

/// The bytes of the segment file that holds these records.
fn write_segment(place: &Path, records: &[Record]) -> Vec<u8> {
    let options = LogOptions {
        segment_bytes: 64 << 10,
        execution: Execution::Threads,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(Arc::new(RealFiles), place, options).unwrap();
    let (sender, receiver) = mpsc::channel();
    log.append(records.to_vec(), Box::new(move |result| drop(sender.send(result)))).unwrap();
    receiver.recv().unwrap().unwrap();
    log.close();
    drop(log);
    let needle = records[0].payload.as_ref();
    let files = fs::read_dir(place).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    files
        .into_iter()
        .find(|bytes| bytes.windows(needle.len().max(1)).any(|window| window == needle))
        .expect("a file holds the first record")
}
