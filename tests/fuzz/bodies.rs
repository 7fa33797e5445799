//! Bodies: what was encoded decodes to itself, and what is decoded from damaged bytes is something
//! that can be encoded again; another reader of JSON agrees about what is malformed.

use proptest::{
    collection::vec,
    num::f64::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO},
    option,
    prelude::{Just, TestCaseError},
    prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof},
};
use rq_api::statement::{DecodeError, DecodeOptions, EncodeError, decode, encode};
use rq_sql::{Parameter, Statement, Value};

use super::{fuzz, mutations, text};

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Null),
        2 => (any::<i64>(), 0..64_u32).prop_map(|(bits, shift)| Value::Integer(bits >> shift)),
        1 => (NORMAL | SUBNORMAL | ZERO | NEGATIVE | POSITIVE).prop_map(Value::Real),
        1 => vec(any::<u8>(), 0..20).prop_map(Value::Blob),
        2 => text(12).prop_map(Value::text),
        1 => "[xX]'[0-9a-fA-F]{0,4}'".prop_map(Value::text),
    ]
}

fn statement() -> impl Strategy<Value = Statement> {
    let name = option::weighted(0.3, "[a-c$]{1,2}");
    let parameter = (name, value()).prop_map(|(name, value)| Parameter { name, value });
    // The empty statement is skipped by the decoder, so it cannot come back.
    (text(12), vec(parameter, 0..5))
        .prop_map(|(text, parameters)| Statement { sql: format!("x{text}"), parameters })
}

/// As text, because 0.0 equals -0.0.
fn shown(statements: &[Statement]) -> String {
    format!("{statements:?}")
}

#[test]
fn what_was_encoded_decodes_to_itself() {
    fuzz(&(vec(statement(), 1..5), any::<bool>()), |(list, strict)| {
        let options = DecodeOptions { strict, ..DecodeOptions::default() };
        let mut body = match encode(&list, strict) {
            Ok(body) => body,
            Err(EncodeError::LooksLikeBlob) if !strict => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let printed = String::from_utf8_lossy(&body).into_owned();
        prop_assert_eq!(decode(&body, &options).map(|found| shown(&found)), Ok(shown(&list)));
        prop_assert!(serde_json::from_str::<serde_json::Value>(&printed).is_ok(), "{}", printed);
        // Whatever follows the list changes nothing.
        body.extend_from_slice(b" x");
        prop_assert_eq!(decode(&body, &options).map(|found| shown(&found)), Ok(shown(&list)));
        Ok(())
    });
}

#[test]
fn what_decodes_from_damaged_bytes_can_be_sent_again() {
    let damage = mutations(b"[]{}\",:\\ue-.0918tfnx' \n\x00\xff");
    fuzz(&(vec(statement(), 1..5), damage, any::<bool>()), |(list, damage, strict)| {
        let mut body =
            encode(&list, true).map_err(|error| TestCaseError::fail(error.to_string()))?;
        for one in &damage {
            one.apply(&mut body, usize::MAX);
        }
        let printed = String::from_utf8_lossy(&body).into_owned();
        let options = DecodeOptions { strict, ..DecodeOptions::default() };
        let decoded = decode(&body, &options);
        agrees_with_another_reader(&body, &decoded, &printed)?;
        let Ok(found) = decoded else { return Ok(()) };
        // Nothing but empty statements: a list that cannot be sent.
        if found.is_empty() {
            return Ok(());
        }
        let strict_options = DecodeOptions { strict: true, ..options };
        let again = encode(&found, true).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let back = decode(&again, &strict_options).map(|back| shown(&back));
        prop_assert_eq!(back, Ok(shown(&found)), "from {}", printed);
        Ok(())
    });
}

/// A body that is JSON is not called malformed, and what is accepted begins with a list.
fn agrees_with_another_reader(
    body: &[u8],
    decoded: &Result<Vec<Statement>, DecodeError>,
    printed: &str,
) -> Result<(), TestCaseError> {
    let is_json = serde_json::from_slice::<serde_json::Value>(body).is_ok();
    if is_json {
        prop_assert!(*decoded != Err(DecodeError::InvalidJson), "refused: {}", printed);
    } else if decoded.is_ok() {
        let mut stream = serde_json::Deserializer::from_slice(body).into_iter();
        let first: Option<Result<serde_json::Value, _>> = stream.next();
        let only_lenient = match first {
            Some(Ok(value)) => value.is_array(),
            // It refuses lone surrogates, bytes that are not UTF-8 and doubles out of range, which we
            // replace or name.
            Some(Err(error)) => !error.is_eof(),
            None => false,
        };
        prop_assert!(only_lenient, "accepted: {}", printed);
    }
    Ok(())
}
