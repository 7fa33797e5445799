//! Damaged files: what is cut, what is refused, and that nothing wrong is ever read.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::super::{
    Log, Recovery, Vote, decode_records,
    segment::{self, HEADER_BYTES},
    state,
};
use crate::{
    Error, FaultFiles, Record,
    testing::{all, inline_options, ok, open_inline, open_with, quiet_files, record, records},
};

/// A closed log on disk that can be damaged and opened again and again.
struct Sample {
    root: tempfile::TempDir,
    files: Arc<FaultFiles>,
    content: Vec<Record>,
}

impl Sample {
    /// Each batch is appended, and synced, on its own.
    fn new(batches: &[Vec<Record>]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let files = quiet_files();
        let (log, _) = open_inline(&files, root.path());
        for batch in batches {
            log.append(batch.clone(), ok()).unwrap();
        }
        drop(log);
        Self { root, files, content: batches.concat() }
    }

    fn segment(&self, number: u64) -> PathBuf {
        segment::path(self.root.path(), number)
    }

    fn open(&self) -> Result<(Log, Recovery), Error> {
        open_with(&self.files, self.root.path(), inline_options(99))
    }

    /// Opens the log with one file replaced, then puts all files back.
    fn open_with(&self, path: &Path, bytes: &[u8]) -> Result<Vec<Record>, Error> {
        let before = self.contents();
        fs::write(path, bytes).unwrap();
        let result = self.open().map(|(log, _)| all(&log));
        for entry in fs::read_dir(self.root.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (path, bytes) in before {
            fs::write(path, bytes).unwrap();
        }
        result
    }

    fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(self.root.path()).unwrap();
        entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let bytes = fs::read(&path).unwrap();
                (path, bytes)
            })
            .collect()
    }
}

/// The end of what was written to a segment.
fn end_of(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| (last + 1).next_multiple_of(8))
}

#[test]
fn a_torn_tail_is_cut_at_every_byte_of_the_last_record() {
    let sample = Sample::new(&[records(0..3, 1, 50), vec![record(3, 1, 100)]]);
    let bytes = fs::read(sample.segment(1)).unwrap();
    let end = end_of(&bytes);
    let start = end - record(3, 1, 100).stored_bytes();
    let written = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    for cut in start..end {
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        fs::write(sample.segment(1), &torn).unwrap();
        let (log, recovery) = sample.open().unwrap();
        if cut >= written {
            assert_eq!(all(&log), sample.content);
        } else {
            assert_eq!(all(&log), sample.content[..3]);
            let torn_tail = recovery.torn_tail.map(|tail| tail.offset);
            assert_eq!(torn_tail, (cut > start).then_some(start as u64), "cut at {cut}");
            log.append(vec![record(3, 2, 100)], ok()).unwrap();
            drop(log);
            let (log, recovery) = sample.open().unwrap();
            assert_eq!(recovery.torn_tail, None);
            assert_eq!(all(&log).last(), Some(&record(3, 2, 100)));
        }
    }
}

#[test]
fn every_changed_byte_of_two_segments_is_found_or_harmless() {
    let sample = Sample::new(&[
        records(0..8, 1, 400),
        records(8..10, 1, 400),
        records(10..12, 2, 40),
        records(12..14, 2, 40),
    ]);
    let paths = [sample.segment(1), sample.segment(2)];
    for (number, path) in paths.iter().enumerate() {
        let bytes = fs::read(path).unwrap();
        let end = end_of(&bytes);
        // What is behind the records is all alike; a part of it stands for the rest.
        for at in 0..(end + 200).min(bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            let result = sample.open_with(path, &changed);
            let place = format!("segment {} byte {at}", number + 1);
            match result {
                Ok(found) => {
                    assert!(number == 1 || at >= end, "{place} goes unnoticed");
                    assert!(number == 0 || at >= HEADER_BYTES, "{place}: a header is strict");
                    let kept = if number == 1 && at < end { 12 } else { 14 };
                    assert!(found.len() >= kept, "{place}: only the last batch may be cut");
                    assert_eq!(found, sample.content[..found.len()], "{place}");
                }
                Err(Error::Corrupt { path: named, offset, .. }) => {
                    assert_eq!(&named, path, "{place}");
                    assert!(offset <= at as u64, "{place}: offset {offset}");
                }
                // A changed format number cannot be told from a newer format.
                Err(Error::NewerFormat { .. }) => assert!((8..12).contains(&at), "{place}"),
                Err(error) => panic!("{place}: {error}"),
            }
        }
    }
}

#[test]
fn damage_before_a_later_batch_is_reported_with_file_and_offset() {
    let sample = Sample::new(&[records(0..2, 1, 50), records(2..4, 1, 50), records(4..6, 1, 50)]);
    let path = sample.segment(1);
    let mut bytes = fs::read(&path).unwrap();
    let each = record(0, 1, 50).stored_bytes();
    let third = HEADER_BYTES + 2 * each;
    bytes[third + 20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = sample.open().map(drop).unwrap_err();
    let Error::Corrupt { path: named, offset, .. } = &error else { panic!("{error}") };
    assert_eq!((named, *offset), (&path, third as u64));
    let text = error.to_string();
    for part in [path.to_str().unwrap(), &third.to_string(), "record 2", "record 4", "backup"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(fs::read(&path).unwrap(), bytes, "nothing is changed");
}

#[test]
fn a_hole_within_the_last_batch_is_a_torn_write() {
    let sample = Sample::new(&[records(0..2, 1, 50), records(2..6, 1, 50)]);
    let path = sample.segment(1);
    let mut bytes = fs::read(&path).unwrap();
    let each = record(0, 1, 50).stored_bytes();
    let hole = HEADER_BYTES + 3 * each;
    bytes[hole..hole + each].fill(0);
    fs::write(&path, &bytes).unwrap();
    let (log, recovery) = sample.open().unwrap();
    assert_eq!(all(&log), sample.content[..3]);
    assert_eq!(recovery.torn_tail.unwrap().offset, hole as u64);
}

#[test]
fn bytes_behind_a_cut_do_not_come_to_life_again() {
    let sample = Sample::new(&[records(0..2, 1, 50), records(2..6, 1, 50)]);
    let path = sample.segment(1);
    let mut bytes = fs::read(&path).unwrap();
    let each = record(0, 1, 50).stored_bytes();
    bytes[HEADER_BYTES + 2 * each + 8] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (log, _) = sample.open().unwrap();
    assert_eq!(all(&log).len(), 2);
    // Exactly as long as the bad one: the old record 3 would follow it.
    log.append(vec![record(2, 1, 50)], ok()).unwrap();
    drop(log);
    let (log, recovery) = sample.open().unwrap();
    assert_eq!(all(&log), sample.content[..3]);
    assert_eq!(recovery.torn_tail, None);
}

#[test]
fn valid_records_of_another_segment_are_not_taken() {
    let sample = Sample::new(&[records(0..2, 1, 50)]);
    let other = {
        let root = tempfile::tempdir().unwrap();
        let (log, _) = open_with(&quiet_files(), root.path(), inline_options(12345)).unwrap();
        log.append(records(0..6, 1, 50), ok()).unwrap();
        fs::read(segment::path(root.path(), 1)).unwrap()
    };
    let path = sample.segment(1);
    let mut bytes = fs::read(&path).unwrap();
    let end = end_of(&bytes);
    bytes[end..].copy_from_slice(&other[end..]);
    fs::write(&path, &bytes).unwrap();
    let (log, recovery) = sample.open().unwrap();
    assert_eq!(all(&log), sample.content);
    assert_eq!(recovery.torn_tail.unwrap().offset, end as u64);
}

#[test]
fn missing_files_are_named() {
    let batches: Vec<_> = (0..6).map(|at| records(at * 5..at * 5 + 5, 1, 700)).collect();
    let three = Sample::new(&batches);
    for gone in [1, 2] {
        let path = three.segment(gone);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let error = three.open().map(drop).unwrap_err();
        let Error::Missing { path: named, .. } = &error else { panic!("{error}") };
        assert_eq!(named, &path);
        fs::write(&path, bytes).unwrap();
    }
    let state = three.root.path().join(state::NAME);
    fs::remove_file(&state).unwrap();
    let error = three.open().map(drop).unwrap_err();
    assert!(matches!(&error, Error::Missing { path, .. } if *path == state), "{error}");
    assert!(!state.exists(), "a vote is not invented");
}

#[test]
fn a_renamed_segment_is_found() {
    let sample = Sample::new(&[records(0..30, 1, 300)]);
    fs::copy(sample.segment(2), sample.segment(9)).unwrap();
    let error = sample.open().map(drop).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { path, .. } if *path == sample.segment(9)), "{error}");
}

#[test]
fn newer_formats_are_refused() {
    let sample = Sample::new(&[records(0..2, 1, 50)]);
    let path = sample.segment(1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 7;
    let error = sample.open_with(&path, &bytes).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 7, supported: 1, .. }), "{error}");

    let path = sample.root.path().join(state::NAME);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 7;
    let checksum = crc32c::crc32c(&bytes[..12]).to_le_bytes();
    bytes[12..16].copy_from_slice(&checksum);
    let error = sample.open_with(&path, &bytes).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 7, supported: 1, .. }), "{error}");
}

#[test]
fn no_damaged_byte_of_the_state_file_changes_the_vote() {
    let sample = Sample::new(&[records(0..2, 1, 50)]);
    let vote = Vote { term: 9, node_id: 4, committed: true };
    {
        let (log, _) = sample.open().unwrap();
        log.save_vote(Vote { term: 8, node_id: 3, committed: true }, ok()).unwrap();
        log.save_vote(vote, ok()).unwrap();
        // A cell that was never written has no copy to be saved by.
        log.truncate_after(Some(0), ok()).unwrap();
        log.purge(log.state().last.unwrap(), ok()).unwrap();
        log.append(records(1..2, 1, 50), ok()).unwrap();
    }
    let path = sample.root.path().join(state::NAME);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        if bytes[at] == 0 && at % 4096 > 64 {
            continue;
        }
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        match sample.open() {
            Ok((log, _)) => assert_eq!(log.vote(), Some(vote), "byte {at}"),
            Err(Error::Corrupt { path: named, .. }) => {
                assert_eq!((named, at < 4096), (path.clone(), true), "byte {at}");
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    // Both copies: the vote is lost, which must not look like "never voted".
    let mut bytes = good.clone();
    bytes[4096] ^= 1;
    bytes[8192] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(sample.open().map(drop).unwrap_err().is_corruption());
    // One of the vote and both of another cell: nothing is mended in a file that is refused.
    let mut bytes = good;
    bytes[8192] ^= 1;
    bytes[4096 * 3] ^= 1;
    bytes[4096 * 4] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(sample.open().map(drop).unwrap_err().is_corruption());
    assert!(fs::read(&path).unwrap() == bytes, "a refused file is left as it is");
}

#[test]
fn a_vote_that_was_read_once_does_not_go_back() {
    let sample = Sample::new(&[records(0..2, 1, 50)]);
    let path = sample.root.path().join(state::NAME);
    let save = |term| {
        let vote = Vote { term, node_id: 1, committed: false };
        sample.open().unwrap().0.save_vote(vote, ok()).unwrap();
        (vote, fs::read(&path).unwrap())
    };
    let (_, old) = save(8);
    let (vote, mut bytes) = save(9);
    // A power cut between the two copies.
    bytes[8192..12288].copy_from_slice(&old[8192..12288]);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(sample.open().unwrap().0.vote(), Some(vote));
    // Another one that tears the first copy while the next vote is written.
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..4096 + 20].fill(7);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(sample.open().unwrap().0.vote(), Some(vote));
}

#[test]
fn a_changed_record_is_not_read_while_the_log_is_open() {
    let sample = Sample::new(&[records(0..4, 1, 50)]);
    let (log, _) = sample.open().unwrap();
    let path = sample.segment(1);
    let mut bytes = fs::read(&path).unwrap();
    let second = HEADER_BYTES + record(0, 1, 50).stored_bytes();
    bytes[second + 40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(log.read(0..1).unwrap(), sample.content[..1]);
    let error = log.read(0..4).unwrap_err();
    assert!(matches!(error, Error::Corrupt { offset, .. } if offset == second as u64), "{error}");
}

#[test]
fn the_pure_reader_takes_any_bytes() {
    let sample = Sample::new(&[records(0..5, 1, 100)]);
    let bytes = fs::read(sample.segment(1)).unwrap();
    assert_eq!(decode_records(&bytes).unwrap(), sample.content);
    for length in (0..bytes.len()).step_by(13) {
        assert!(
            decode_records(&bytes[..length]).is_ok_and(|found| found.is_empty())
                || length >= HEADER_BYTES
        );
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] = changed[at].wrapping_add(0x7f);
        if let Ok(found) = decode_records(&changed) {
            assert_eq!(found, sample.content[..found.len()]);
        }
    }
}
