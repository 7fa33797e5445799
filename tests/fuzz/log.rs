//! The files of the log: whatever a disk makes of them, the log opens with a beginning of what was
//! written and goes on from there, or names the damaged file and the place; it never makes records up.

use std::{fs, path::Path, sync::Arc};

use proptest::{
    collection::vec,
    prelude::TestCaseError,
    prelude::{any, prop_assert, prop_assert_eq},
    sample::Index,
};
use rq_storage::{
    Completion, Error, Execution, Log, LogOptions, RealFiles, Record, Salts, Vote, decode_records,
};
use rq_tests::Random;
use tempfile::TempDir;

use super::{Mutation, fuzz, mutations};

/// Bytes of a segment, so that the sample has a few.
const SEGMENT_BYTES: u64 = 16 << 10;
/// Records synced at once.
const BATCH: usize = 4;

/// A log as it lies on the disk after its process has ended.
struct Sample {
    /// Names and contents, sorted; segments in the order of their records.
    files: Vec<(String, Vec<u8>)>,
    records: Vec<Record>,
    vote: Vote,
}

fn options() -> LogOptions {
    let salts = Salts::Seeded(Arc::default());
    let execution = Execution::Inline;
    LogOptions { segment_bytes: SEGMENT_BYTES, cache_bytes: 0, execution, salts }
}

fn open(place: &Path) -> Result<Log, Error> {
    Log::open(Arc::new(RealFiles), place, options()).map(|(log, _)| log)
}

fn expected_success() -> Completion {
    Box::new(|result| result.expect("a healthy disk"))
}

/// Enough records for some segments, in batches.
fn sample() -> Sample {
    let place = TempDir::new().unwrap();
    let mut random = Random::new(5);
    let records: Vec<_> = (1..120)
        .map(|index| {
            let length = random.index(700);
            Record { index, term: 1 + index / 10, kind: 1, payload: random.bytes(length).into() }
        })
        .collect();
    let vote = Vote { term: 12, node_id: 3, committed: true };
    let log = open(place.path()).unwrap();
    log.save_vote(Vote { term: 11, ..vote }, expected_success()).unwrap();
    log.save_vote(vote, expected_success()).unwrap();
    for batch in records.chunks(BATCH) {
        log.append(batch.to_vec(), expected_success()).unwrap();
    }
    log.close();
    drop(log);
    let mut files: Vec<_> = fs::read_dir(place.path())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    Sample { files, records, vote }
}

/// The end of what is not zero, and a little more: most damage must hit something.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 100)
}

fn damaged(bytes: &[u8], damage: &[Mutation]) -> Vec<u8> {
    let within = used(bytes);
    let mut damaged = bytes.to_vec();
    for one in damage {
        one.apply(&mut damaged, within);
    }
    damaged
}

/// The first byte that differs, or where the shorter one ends.
fn first_difference(left: &[u8], right: &[u8]) -> u64 {
    let same = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    same as u64
}

#[test]
fn a_damaged_segment_gives_a_beginning_of_what_it_held() {
    let sample = sample();
    let segments: Vec<_> = sample
        .files
        .iter()
        .map(|(_, bytes)| (bytes, decode_records(bytes).unwrap_or_default()))
        .filter(|(_, records)| !records.is_empty())
        .collect();
    assert!(segments.len() >= 3, "the sample has segments");
    let found: Vec<_> = segments.iter().flat_map(|(_, records)| records.clone()).collect();
    assert_eq!(found, sample.records, "undamaged they hold everything");
    let arbitrary = vec(any::<u8>(), 0..5000);
    fuzz(&(any::<Index>(), mutations(b"\x00\x01\xff"), arbitrary), |(which, damage, arbitrary)| {
        let (bytes, records) = which.get(&segments);
        let changed = damaged(bytes, &damage);
        match decode_records(&changed) {
            Ok(found) => prop_assert!(
                records.starts_with(&found),
                "records that were never written: {} of {}",
                found.len(),
                records.len()
            ),
            Err(Error::Corrupt { offset, .. }) => {
                prop_assert!(offset <= first_difference(bytes, &changed), "offset {}", offset);
            }
            Err(Error::NewerFormat { .. }) => {
                prop_assert!(first_difference(bytes, &changed) < 12, "only the header tells");
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
        // Bytes that are no segment at all hold nothing.
        if let Ok(found) = decode_records(&arbitrary) {
            prop_assert_eq!(found, vec![]);
        }
        Ok(())
    });
}

#[test]
fn a_log_with_a_damaged_file_opens_with_its_beginning_or_names_file_and_place() {
    let sample = sample();
    let place = TempDir::new().unwrap();
    let mut held =
        sample.files.iter().map(|(_, bytes)| decode_records(bytes).unwrap_or_default().len());
    let newest = held.rfind(|&count| count > 0).unwrap();
    assert!((BATCH..sample.records.len() / 2).contains(&newest), "{newest} in the newest segment");
    fuzz(&(any::<Index>(), mutations(b"\x00\x01\xff")), |(which, damage)| {
        for entry in fs::read_dir(place.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let which = which.index(sample.files.len());
        for (name, bytes) in &sample.files {
            fs::write(place.path().join(name), bytes).unwrap();
        }
        let (name, bytes) = &sample.files[which];
        let changed = damaged(bytes, &damage);
        let path = place.path().join(name);
        fs::write(&path, &changed).unwrap();
        let first = first_difference(bytes, &changed);
        match open(place.path()) {
            Ok(log) => {
                // Cut off or shifted, the newest segment looks as if less had been written to it.
                let flips = damage.iter().all(|one| matches!(one, Mutation::Flip(..)));
                let losable = if flips { BATCH } else { newest };
                goes_on(place.path(), log, &sample, losable)
            }
            Err(Error::Corrupt { path: named, offset, problem }) => {
                prop_assert_eq!(&named, &path);
                // Votes stand twice, and the place named is where the second is bad as well.
                let is_segment = decode_records(bytes).is_ok();
                let place = if is_segment { first } else { bytes.len() as u64 };
                prop_assert!(offset <= place, "{}: {}, changed at {}", problem, offset, first);
                prop_assert!(!problem.is_empty());
                prop_assert_eq!(fs::read(&path).unwrap(), changed, "and leaves it as it is");
                Ok(())
            }
            Err(Error::NewerFormat { path: named, .. }) => {
                prop_assert_eq!(&named, &path);
                prop_assert!(first < 12, "only the header tells");
                Ok(())
            }
            Err(error) => Err(TestCaseError::fail(format!("{name} changed at {first}: {error}"))),
        }
    });
}

/// What was opened holds a beginning of the records, at most so many short, and the last vote; what is appended to it is there the next time.
fn goes_on(place: &Path, log: Log, sample: &Sample, losable: usize) -> Result<(), TestCaseError> {
    let found = log.read(0..u64::MAX).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert!(sample.records.starts_with(&found), "records that nobody wrote");
    let lost = sample.records.len() - found.len();
    prop_assert!(lost <= losable, "{} synced records are gone without a word", lost);
    prop_assert_eq!(log.vote(), Some(sample.vote), "it votes twice");
    let index = found.len() as u64 + 1;
    let next = Record { index, term: 99, kind: 1, payload: vec![7; 50].into() };
    log.append(vec![next.clone()], expected_success()).unwrap();
    log.close();
    drop(log);
    let log = open(place).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let again = log.read(0..u64::MAX).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(again.split_last(), Some((&next, found.as_slice())));
    Ok(())
}
