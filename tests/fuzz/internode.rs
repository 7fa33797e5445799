//! The internode port: whatever a stranger sends is refused or understood, without a panic and without more memory
//! than in proportion to what was sent; and what is understood is what it says when it is encoded again.

use allocation_counter::measure;
use bytes::Bytes;
use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof},
    sample::{Index, select},
    test_runner::TestCaseResult,
};
use rq_node::fuzzing::{Decoder, decoders};

use super::{fuzz, mutations};

/// Memory that anything may take, such as a buffer to read into.
const MEMORY_FREE: u64 = 80 * 1024;

/// Decodes, and decodes again what was understood.
fn check(decoder: &Decoder, bytes: Vec<u8>) -> TestCaseResult {
    let (length, bytes) = (bytes.len() as u64, Bytes::from(bytes));
    let mut decoded = Err(String::new());
    let taken = measure(|| decoded = (decoder.again)(&bytes)).bytes_max;
    prop_assert!(
        taken <= MEMORY_FREE + decoder.memory_factor * length,
        "{} takes {} bytes for {}",
        decoder.name,
        taken,
        length
    );
    match decoded {
        Ok(understood) => {
            let again = (decoder.again)(&understood);
            prop_assert_eq!(again, Ok(understood), "{}", decoder.name);
        }
        Err(reason) => prop_assert!(!reason.is_empty(), "{} gives no reason", decoder.name),
    }
    Ok(())
}

/// A message of many elements of a few bytes, within others.
fn swollen() -> impl Strategy<Value = Vec<u8>> {
    let element = prop_oneof![
        3 => (1..16_u8).prop_map(|number| vec![number << 3 | 2, 0]),
        1 => (1..16_u8, any::<u8>()).prop_map(|(number, byte)| vec![number << 3, byte & 0x7f]),
        1 => vec(any::<u8>(), 1..8),
    ];
    let outside = vec((1..16_u8).prop_map(|number| number << 3 | 2), 0..4);
    (element, 1..20_000_usize, outside).prop_map(|(element, count, outside)| {
        outside.into_iter().fold(element.repeat(count), |inside, key| {
            let mut message = vec![key];
            let mut length = inside.len();
            while length > 0x7f {
                message.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            message.push(u8::try_from(length).unwrap());
            message.extend(inside);
            message
        })
    })
}

#[test]
fn good_internode_messages_come_back_from_their_encoding() {
    let decoders = decoders();
    for decoder in &decoders {
        let samples = (decoder.samples)();
        assert!(!samples.is_empty(), "{} has samples", decoder.name);
        for sample in samples {
            assert_eq!((decoder.again)(&sample), Ok(sample), "{}", decoder.name);
        }
    }
}

#[test]
fn damaged_internode_messages_are_refused_or_understood() {
    let decoders = decoders();
    let samples: Vec<_> = decoders.iter().map(|decoder| (decoder.samples)()).collect();
    let input = (
        any::<Index>(),
        any::<Index>(),
        any::<Index>(),
        mutations(b"\x00\x01\x0a\x12\x1a\x22\x7f\x80\xff"),
    );
    fuzz(&input, |(what, which, reader, damage)| {
        let what = what.index(decoders.len());
        let mut bytes = which.get(samples[what].as_slice()).to_vec();
        for one in &damage {
            one.apply(&mut bytes, usize::MAX);
        }
        check(&decoders[what], bytes.clone())?;
        // Everything may come everywhere.
        check(reader.get(&decoders), bytes)
    });
}

#[test]
fn arbitrary_and_swollen_internode_messages_take_no_memory_out_of_proportion() {
    let input = prop_oneof![
        1 => vec(any::<u8>(), 0..2000),
        1 => vec(select(b"\x00\x01\x08\x09\x0a\x12\x1a\x22\x2a\x32\xff".as_slice()), 0..2000),
        4 => swollen(),
    ];
    let decoders = decoders();
    fuzz(&input, |bytes| {
        for decoder in &decoders {
            check(decoder, bytes.clone())?;
        }
        Ok(())
    });
}
