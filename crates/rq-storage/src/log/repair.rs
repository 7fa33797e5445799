//! Opening a log: finding out what a crash left, and making it whole again.
//!
//! The rules, in the order they are applied:
//!
//! 1. The state file must exist if any segment does.
//! 2. Segments below the purge marker's first are removed: a purge had begun.
//! 3. A truncation that had begun is carried through.
//! 4. Segments that were prepared but never begun are removed.
//! 5. All segments but the last must be complete and must follow each other; anything else is
//!    damage and named with file and offset, never skipped.
//! 6. The last segment is cut at its first bad record, if a power cut can have left it so (see
//!    [`super::record`]); the rest is overwritten with zeros, or its bytes could come to life again
//!    behind records written later.
//! 7. What was read is synced before it is believed: a killed process leaves writes that only stand
//!    in the page cache.
//!
//! # What cannot be told apart
//!
//! Damage to the very last batch looks like a power cut during it, and is cut off. Everything
//! before the last batch is vouched for by the records behind it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Recovery, TornTail,
    flusher::Opened,
    prepare,
    segment::{self, Contents, FORMAT, Scan, Tail},
    shared::SegmentView,
    state::{NAME, Purged, StateFile, Truncation},
};
use crate::{
    Error,
    files::{File, Files, parent, read_full},
};

/// A log as found and repaired.
#[derive(Debug)]
pub(super) struct Repaired {
    pub(super) opened: Opened,
    pub(super) segments: Vec<SegmentView>,
    pub(super) recovery: Recovery,
}

/// A segment file with a header.
struct Begun {
    path: PathBuf,
    file: Arc<dyn File>,
    scan: Box<Scan>,
}

/// Opens or creates the files of a log.
pub(super) fn open(files: &dyn Files, directory: &Path) -> Result<Repaired, Error> {
    ensure_directory(files, directory)?;
    let found = list(files, directory)?;
    let mut state_file = open_state(files, directory, &found)?;
    let purged = state_file.purged();
    let truncation = state_file.truncation();
    let first_segment = purged.map_or(0, |purged| purged.first_segment);
    let mut newest_number = first_segment.saturating_sub(1);
    let mut begun: Vec<Begun> = Vec::new();
    let mut unbegun: Vec<PathBuf> = Vec::new();
    for (number, path) in found {
        newest_number = newest_number.max(number);
        if number < first_segment {
            remove(files, &path)?;
            continue;
        }
        let Some(segment) = read(files, &path, number, truncation)? else {
            unbegun.push(path);
            continue;
        };
        if let Some(unbegun) = unbegun.first() {
            return Err(Error::corrupt(unbegun, 0, "it has no header, but its successor has"));
        }
        if truncation.is_some_and(|truncation| {
            truncation.after.is_none_or(|after| segment.scan.header.first_index > after)
        }) {
            remove(files, &path)?;
            continue;
        }
        if let Some(before) = begun.last() {
            check_follows(directory, before, &segment)?;
        }
        begun.push(segment);
    }
    check_first(directory, begun.first(), purged)?;
    if let Some(truncation) = truncation {
        finish_truncation(directory, &mut begun, truncation, purged)?;
    }
    for path in unbegun {
        remove(files, &path)?;
    }
    let torn_tail = mend_last(begun.last_mut())?;
    check_last(begun.last(), purged)?;
    sync_directory(files, directory)?;
    if truncation.is_some() {
        state_file.save_truncation(None)?;
    }
    Ok(describe(state_file, begun, newest_number, torn_tail))
}

/// Tells whether a directory holds a log, whole or not.
pub(super) fn exists(files: &dyn Files, directory: &Path) -> Result<bool, Error> {
    let look = |error| Error::io("look for", directory, error);
    if !files.exists(directory).map_err(look)? {
        return Ok(false);
    }
    let state = files.exists(&directory.join(NAME)).map_err(look)?;
    Ok(state || !list(files, directory)?.is_empty())
}

/// Creates the directory if needed. Its name is synced in any case: it may have been created by a
/// process that was killed before it could do so.
fn ensure_directory(files: &dyn Files, directory: &Path) -> Result<(), Error> {
    if !files.exists(directory).map_err(|error| Error::io("look for", directory, error))? {
        files.create_directory(directory).map_err(|error| Error::io("create", directory, error))?;
    }
    sync_directory(files, parent(directory))
}

fn list(files: &dyn Files, directory: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let entries = files.list(directory).map_err(|error| Error::io("list", directory, error))?;
    Ok(entries
        .into_iter()
        .filter(|entry| !entry.is_directory)
        .filter_map(|entry| Some((segment::number_of(&entry.name)?, entry.path)))
        .collect())
}

fn open_state(
    files: &dyn Files,
    directory: &Path,
    segments: &[(u64, PathBuf)],
) -> Result<StateFile, Error> {
    if let Some(state) = StateFile::open(files, directory)? {
        return Ok(state);
    }
    if segments.is_empty() {
        return StateFile::create(files, directory);
    }
    let problem = "it holds this node's vote, and the log beside it is not new".to_owned();
    Err(Error::Missing { path: directory.join(NAME), problem })
}

/// Reads a segment; `None` if it was never begun.
fn read(
    files: &dyn Files,
    path: &Path,
    number: u64,
    truncation: Option<Truncation>,
) -> Result<Option<Begun>, Error> {
    let file = files.open(path).map_err(|error| Error::io("open", path, error))?;
    let length = file.length().map_err(|error| Error::io("read", path, error))?;
    let length = usize::try_from(length)
        .map_err(|_| Error::corrupt(path, 0, "it is larger than memory can be"))?;
    let mut bytes = vec![0; length];
    let count = read_full(&*file, &mut bytes, 0).map_err(|error| Error::io("read", path, error))?;
    bytes.truncate(count);
    let until = truncation.and_then(|truncation| truncation.after);
    match segment::examine(&bytes, until) {
        Contents::Unbegun => Ok(None),
        Contents::BadHeader(problem) => Err(Error::corrupt(path, 0, problem)),
        Contents::NewerFormat(found) => {
            Err(Error::NewerFormat { path: path.to_owned(), found, supported: FORMAT })
        }
        Contents::Begun(scan) if scan.header.number != number => {
            let problem = format!("it is segment {} under another name", scan.header.number);
            Err(Error::corrupt(path, 0, problem))
        }
        Contents::Begun(scan) => Ok(Some(Begun { path: path.to_owned(), file, scan })),
    }
}

/// Checks that a segment ends where the next one says it does.
fn check_follows(directory: &Path, before: &Begun, after: &Begun) -> Result<(), Error> {
    let header = after.scan.header;
    if header.previous_number != before.scan.header.number {
        let path = segment::path(directory, header.previous_number);
        let problem = format!("{} follows it", after.path.display());
        return Err(Error::Missing { path, problem });
    }
    if before.scan.last.is_some() && before.scan.last == header.previous {
        // Whatever stands behind the last record of a full segment was never a record.
        return Ok(());
    }
    let defect = match before.scan.tail {
        Tail::Torn { defect, .. } | Tail::Lost { defect, .. } => defect.to_string(),
        Tail::Clean => "the records end".to_owned(),
    };
    let problem = format!(
        "{defect} where record {} should be; the next segment begins behind record {}",
        before.scan.next_index(),
        header.first_index.saturating_sub(1)
    );
    Err(Error::corrupt(&before.path, before.scan.end, problem))
}

/// Checks that the log begins where it may.
fn check_first(
    directory: &Path,
    first: Option<&Begun>,
    purged: Option<Purged>,
) -> Result<(), Error> {
    let Some(first) = first else { return Ok(()) };
    let header = first.scan.header;
    let complete = match purged {
        Some(purged) => header.first_index <= purged.position.index + 1,
        None => header.previous.is_none(),
    };
    if complete {
        return Ok(());
    }
    let path = segment::path(directory, header.previous_number);
    let problem = format!(
        "{} begins with record {}, the records before it are neither purged nor there",
        first.path.display(),
        header.first_index
    );
    Err(Error::Missing { path, problem })
}

/// Overwrites what a truncation had to remove from the last segment.
fn finish_truncation(
    directory: &Path,
    begun: &mut [Begun],
    truncation: Truncation,
    purged: Option<Purged>,
) -> Result<(), Error> {
    let Some(after) = truncation.after else { return Ok(()) };
    let purged = purged.is_some_and(|purged| purged.position.index >= after);
    let Some(last) = begun.last_mut() else {
        if purged {
            return Ok(());
        }
        let problem = format!("the segment of record {after}, which had been kept, is gone");
        return Err(Error::Missing { path: directory.to_owned(), problem });
    };
    if last.scan.next_index() != after + 1 && !purged {
        let problem = format!("the records end before record {after}, which had been kept");
        return Err(Error::corrupt(&last.path, last.scan.end, problem));
    }
    prepare::zero(&*last.file, last.scan.end, last.scan.header.length)
        .map_err(|error| Error::io("truncate", &last.path, error))?;
    last.scan.tail = Tail::Clean;
    Ok(())
}

/// Cuts the last segment at its first bad record, and makes what remains durable.
fn mend_last(last: Option<&mut Begun>) -> Result<Option<TornTail>, Error> {
    let Some(last) = last else { return Ok(None) };
    let torn = match last.scan.tail {
        Tail::Clean => None,
        Tail::Lost { defect, witness } => {
            let problem = format!(
                "{defect} where record {} should be, although record {witness} was written after \
                 it had been stored safely",
                last.scan.next_index()
            );
            return Err(Error::corrupt(&last.path, last.scan.end, problem));
        }
        Tail::Torn { defect, end } => {
            let offset = last.scan.end;
            tracing::warn!(file = %last.path.display(), offset, bytes = end - offset, %defect,
                "cutting off an unfinished write");
            prepare::zero(&*last.file, offset, end)
                .map_err(|error| Error::io("cut", &last.path, error))?;
            last.scan.tail = Tail::Clean;
            Some(TornTail { path: last.path.clone(), offset, bytes: end - offset })
        }
    };
    last.file.sync_data().map_err(|error| Error::io("sync", &last.path, error))?;
    Ok(torn)
}

/// Checks that the log still reaches to the purge marker.
fn check_last(last: Option<&Begun>, purged: Option<Purged>) -> Result<(), Error> {
    let (Some(last), Some(purged)) = (last, purged) else { return Ok(()) };
    if last.scan.next_index() > purged.position.index {
        return Ok(());
    }
    let problem = format!(
        "the records end at {}, but record {} had been stored",
        last.scan.next_index(),
        purged.position.index
    );
    Err(Error::corrupt(&last.path, last.scan.end, problem))
}

fn describe(
    state_file: StateFile,
    begun: Vec<Begun>,
    newest_number: u64,
    torn_tail: Option<TornTail>,
) -> Repaired {
    let purged = state_file.purged().map(|purged| purged.position);
    let beginning = begun.first().map_or(0, |first| first.scan.header.first_index);
    let first = purged.map_or(beginning, |purged| purged.index + 1);
    let next = begun.last().map_or(first, |last| last.scan.next_index());
    let newest = begun.last().and_then(|last| last.scan.last.or(last.scan.header.previous));
    let on_disk = newest.or(purged);
    let last = if next > first { newest } else { purged };
    let active_previous = begun.last().and_then(|last| last.scan.header.previous);
    let segments: Vec<_> = begun.into_iter().map(view).collect();
    let bytes_on_disk = segments.iter().map(|view| view.length).sum();
    let recovery =
        Recovery { first, next, last, purged, segments: segments.len(), bytes_on_disk, torn_tail };
    let opened = Opened { state_file, last: on_disk, active_previous, newest_number };
    Repaired { opened, segments, recovery }
}

fn view(begun: Begun) -> SegmentView {
    let Begun { path, file, scan } = begun;
    SegmentView {
        number: scan.header.number,
        path,
        file,
        salt: scan.header.salt,
        first_index: scan.header.first_index,
        next_index: scan.next_index(),
        end: scan.end,
        length: scan.header.length,
        checkpoints: scan.checkpoints,
    }
}

fn remove(files: &dyn Files, path: &Path) -> Result<(), Error> {
    files.remove(path).map_err(|error| Error::io("remove", path, error))
}

fn sync_directory(files: &dyn Files, directory: &Path) -> Result<(), Error> {
    files.sync_directory(directory).map_err(|error| Error::io("sync", directory, error))
}
