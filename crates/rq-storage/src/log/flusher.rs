//! The work behind the queue: writing records, rolling over, truncating, purging, voting.
//!
//! There is one [`Flusher`] per log. Who calls it (a thread, or the caller itself) is
//! [`super::driver`]'s business; the work is the same. It takes operations strictly in order, with
//! one exception: while it waits for disk space, purges of records that are already on disk go
//! first, because they are what frees space.
//!
//! # What is durable before what
//!
//! - A segment is full of zeros, and its name durable, before its header is written; its header is
//!   durable before its first record is written; all records of a segment are durable before the
//!   header of the next is written.
//! - Records are durable before their completion is called; so are votes.
//! - A truncation is noted durably, then carried out durably, then the note is removed durably,
//!   before any later record is written. Opening carries on where it stopped.
//! - The purge marker is durable before any segment is unlinked.
//!
//! A failed write or sync ends the log: nobody knows what the disk holds then, and a second sync
//! may report success for data the first one lost.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Health, LogOptions,
    batch::{Active, Batch, publish},
    prepare::{self, Prepared, Preparer},
    reader,
    record::{Position, Record},
    segment::{self, Checkpoints, HEADER_BYTES},
    shared::{Operation, SegmentView, Shared},
    state::{Purged, StateFile, Truncation},
};
use crate::{Error, files::Files};

/// How a call of [`Flusher::drive`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything queued is done.
    Idle,
    /// The disk is full; to be called again after a while.
    WaitingForSpace,
}

/// Whether a step could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Done,
    NoSpace,
}

/// The one who writes.
pub(super) struct Flusher {
    files: Arc<dyn Files>,
    directory: PathBuf,
    options: LogOptions,
    shared: Arc<Shared>,
    preparer: Arc<Preparer>,
    state_file: StateFile,
    /// Operations taken off the queue, the oldest first.
    pending: VecDeque<Operation>,
    active: Option<Active>,
    /// The newest record on disk, or the purged position if there is none.
    last: Option<Position>,
    /// The number of the newest segment ever begun, or 0.
    newest_number: u64,
    buffer: Vec<u8>,
}

/// Memory of the write buffer kept between batches; larger batches give theirs back.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

impl Flusher {
    /// Takes over a log that was just opened: its last segment in `shared` is the active one.
    pub(super) fn new(
        files: Arc<dyn Files>,
        directory: &Path,
        options: LogOptions,
        shared: Arc<Shared>,
        preparer: Arc<Preparer>,
        opened: Opened,
    ) -> Self {
        let active =
            shared.lock().segments.last().map(|view| Active::new(view, opened.active_previous));
        preparer.request(opened.newest_number + 1);
        Self {
            files,
            directory: directory.to_owned(),
            options,
            shared,
            preparer,
            state_file: opened.state_file,
            pending: VecDeque::new(),
            active,
            last: opened.last,
            newest_number: opened.newest_number,
            buffer: Vec::new(),
        }
    }

    /// Does everything that is queued, and calls the completions in order.
    pub(super) fn drive(&mut self) -> Progress {
        loop {
            self.fetch();
            if self.pending.is_empty() {
                self.set_health(Health::Working);
                return Progress::Idle;
            }
            match self.step() {
                Ok(Step::Done) => {}
                Ok(Step::NoSpace) => match self.purge_out_of_turn() {
                    Ok(()) => {
                        self.set_health(Health::WaitingForSpace);
                        return Progress::WaitingForSpace;
                    }
                    Err(error) => self.fail(&error),
                },
                Err(error) => self.fail(&error),
            }
        }
    }

    /// Answers everything not done with an error; the log must not be used afterwards.
    pub(super) fn abandon(&mut self, error: &Error) {
        self.fetch();
        for operation in std::mem::take(&mut self.pending) {
            self.settle(&operation);
            operation.complete(Err(error.clone()));
        }
    }

    fn fetch(&mut self) {
        let mut state = self.shared.lock();
        self.pending.append(&mut state.queue);
        let failure = state.failure.clone();
        drop(state);
        if let Some(failure) = failure {
            for operation in std::mem::take(&mut self.pending) {
                self.settle(&operation);
                operation.complete(Err(Error::Failed(Arc::clone(&failure))));
            }
        }
    }

    fn set_health(&self, health: Health) {
        let mut state = self.shared.lock();
        if state.failure.is_none() && state.health != health {
            if health == Health::WaitingForSpace {
                tracing::warn!(directory = %self.directory.display(), "the disk is full: the log waits for space");
            } else {
                tracing::info!(directory = %self.directory.display(), "the log has space again");
            }
            state.health = health;
        }
    }

    /// Ends the log: every waiting and every later operation fails.
    fn fail(&mut self, error: &Error) {
        tracing::error!(%error, source = ?std::error::Error::source(error), "the log failed and stops");
        let shared_error = Arc::new(error.clone());
        {
            let mut state = self.shared.lock();
            state.health = Health::Failed;
            state.failure = Some(shared_error);
            self.pending.append(&mut state.queue);
        }
        for operation in std::mem::take(&mut self.pending) {
            self.settle(&operation);
            operation.complete(Err(error.clone()));
        }
    }

    /// Takes an append that will never be written out of the count of waiting bytes.
    fn settle(&self, operation: &Operation) {
        if let Operation::Append(append) = operation {
            let mut state = self.shared.lock();
            state.flushes += 1;
            state.unflushed_bytes = state.unflushed_bytes.saturating_sub(append.bytes);
        }
    }

    fn step(&mut self) -> Result<Step, Error> {
        if matches!(self.pending[0], Operation::Append(_) | Operation::Committed(_)) {
            return self.append_run();
        }
        let operation = self.pending.pop_front().expect("not empty");
        if let Err(error) = self.perform(&operation) {
            self.pending.push_front(operation);
            return Err(error);
        }
        operation.complete(Ok(()));
        Ok(Step::Done)
    }

    fn perform(&mut self, operation: &Operation) -> Result<(), Error> {
        match operation {
            Operation::Truncate { after, .. } => self.truncate(*after),
            Operation::Purge { upto, .. } => self.purge(*upto),
            Operation::Reset { to, .. } => self.reset(*to),
            Operation::Vote { vote, .. } => {
                self.state_file.save_vote(*vote)?;
                self.shared.lock().vote = Some(*vote);
                Ok(())
            }
            Operation::Append(_) | Operation::Committed(_) => {
                unreachable!("appends are done in runs")
            }
        }
    }

    /// Makes all appends at the front of the queue durable, with as few writes as segments are
    /// touched and one sync for each, then completes them.
    fn append_run(&mut self) -> Result<Step, Error> {
        let run = |operation: &&Operation| {
            matches!(operation, Operation::Append(_) | Operation::Committed(_))
        };
        let length = self.pending.iter().take_while(run).count();
        let later = self.pending.split_off(length);
        let mut appends = std::mem::replace(&mut self.pending, later);
        let result = self.write_run(&mut appends);
        if result.is_ok() {
            self.complete_written(&mut appends);
        }
        let done = appends.is_empty();
        assert!(done || !matches!(result, Ok(Step::Done)), "a run is written completely");
        // The others keep their place: they wait for space, or fail with everything else.
        appends.append(&mut self.pending);
        self.pending = appends;
        result
    }

    fn write_run(&mut self, run: &mut VecDeque<Operation>) -> Result<Step, Error> {
        let committed = run.iter().rev().find_map(|operation| match operation {
            Operation::Committed(committed) => Some(*committed),
            _ => None,
        });
        if let Some(committed) = committed {
            self.state_file.save_committed(committed)?;
        }
        loop {
            let Some(next) = self.write_batch(run)? else { return Ok(Step::Done) };
            if self.begin_segment(&next)? == Step::NoSpace {
                return Ok(Step::NoSpace);
            }
        }
    }

    /// Writes and syncs what fits into the active segment, and returns the first record that does
    /// not.
    fn write_batch(&mut self, run: &mut VecDeque<Operation>) -> Result<Option<Record>, Error> {
        let mut batch = Batch::new(std::mem::take(&mut self.buffer), self.last);
        for (at, operation) in run.iter().enumerate() {
            let Operation::Append(append) = operation else { continue };
            if !batch.add(self.active.as_ref(), at, append) {
                break;
            }
        }
        if let (Some(active), Some(last), false) =
            (&mut self.active, batch.last, batch.buffer.is_empty())
        {
            active.write(&batch.buffer)?;
            // Only now: an append counted as written before its sync could be answered too early.
            for &(at, written) in &batch.written {
                if let Operation::Append(append) = &mut run[at] {
                    append.written = written;
                }
            }
            self.last = Some(last);
            publish(&self.shared, active, run, &batch);
        }
        if batch.buffer.capacity() <= BUFFER_KEPT_BYTES {
            self.buffer = batch.buffer;
        }
        Ok(batch.overflow)
    }

    /// Takes a new segment into use whose first record will be `first`.
    fn begin_segment(&mut self, first: &Record) -> Result<Step, Error> {
        self.drop_empty_active()?;
        let mut prepared = match self.preparer.take(self.newest_number + 1) {
            Ok(prepared) => prepared,
            Err(error) if error.is_disk_full() => return Ok(Step::NoSpace),
            Err(error) => return Err(error),
        };
        let length = segment::length_for(first.stored_bytes(), prepared.length);
        if let Err(error) = self.preparer.grow(&mut prepared, length) {
            if !error.is_disk_full() {
                return Err(error);
            }
            self.preparer.put_back(prepared);
            return Ok(Step::NoSpace);
        }
        self.write_header(prepared, first.index)?;
        self.set_health(Health::Working);
        self.preparer.request(self.newest_number + 1);
        Ok(Step::Done)
    }

    fn write_header(&mut self, prepared: Prepared, first_index: u64) -> Result<(), Error> {
        let Prepared { number, path, file, length } = prepared;
        assert!(number > self.newest_number, "segment numbers grow");
        let salt = self.options.salts.next();
        let header = segment::Header {
            number,
            length,
            salt,
            first_index,
            previous_number: self.active.as_ref().map_or(0, |active| active.number),
            previous: self.last,
        };
        file.write_at(&header.encode(), 0).map_err(|error| Error::io("write", &path, error))?;
        file.sync_data().map_err(|error| Error::io("sync", &path, error))?;
        self.newest_number = number;
        let view = SegmentView {
            number,
            path,
            file,
            salt,
            first_index,
            next_index: first_index,
            end: HEADER_BYTES as u64,
            length,
            checkpoints: Checkpoints::default(),
        };
        self.active = Some(Active::new(&view, self.last));
        self.shared.lock().segments.push(view);
        Ok(())
    }

    /// An active segment without records that does not suit the next one goes, so that only full
    /// segments have a successor.
    fn drop_empty_active(&mut self) -> Result<(), Error> {
        let Some(active) = self.active.take_if(|active| active.empty) else { return Ok(()) };
        self.remove_segments(&[active.path])?;
        let mut state = self.shared.lock();
        state.segments.pop();
        let before = state.segments.last().cloned();
        drop(state);
        self.active = before.map(|view| Active::new(&view, None));
        Ok(())
    }

    fn truncate(&mut self, after: Option<u64>) -> Result<(), Error> {
        self.state_file.save_truncation(Some(Truncation { after }))?;
        let views = self.shared.lock().segments.clone();
        let goes = |view: &SegmentView| after.is_none_or(|after| view.first_index > after);
        let (gone, mut kept): (Vec<_>, Vec<_>) = views.into_iter().partition(goes);
        let paths: Vec<_> = gone.iter().map(|view| view.path.clone()).collect();
        self.remove_segments(&paths)?;
        let purged = self.state_file.purged().map(|purged| purged.position);
        self.last = purged;
        if let (Some(view), Some(after)) = (kept.last_mut(), after) {
            if after + 1 < view.next_index {
                let end = reader::locate(view, after + 1)?;
                prepare::zero(&*view.file, end, view.end)
                    .map_err(|error| Error::io("truncate", &view.path, error))?;
                view.end = end;
                view.next_index = after + 1;
                view.checkpoints.truncate(after + 1);
            }
            self.last = Some(reader::last_position(view)?);
        }
        self.state_file.save_truncation(None)?;
        self.active = kept.last().map(|view| Active::new(view, None));
        self.shared.lock().segments = kept;
        Ok(())
    }

    fn purge(&mut self, upto: Position) -> Result<(), Error> {
        let before = self.state_file.purged();
        if before.is_some_and(|before| before.position.index >= upto.index) {
            return Ok(());
        }
        let views = self.shared.lock().segments.clone();
        // The active segment stays even if all its records go: the next ones are written to it.
        let active = views.last().map_or(self.newest_number + 1, |view| view.number);
        let first_segment = views
            .iter()
            .find(|view| view.next_index > upto.index + 1)
            .map_or(active, |view| view.number);
        self.state_file.save_purged(Purged { position: upto, first_segment })?;
        self.remove_below(first_segment)
    }

    fn reset(&mut self, to: Position) -> Result<(), Error> {
        let first_segment = self.newest_number + 1;
        self.state_file.save_purged(Purged { position: to, first_segment })?;
        self.remove_below(first_segment)?;
        self.active = None;
        self.last = Some(to);
        Ok(())
    }

    fn remove_below(&mut self, first_segment: u64) -> Result<(), Error> {
        let mut state = self.shared.lock();
        let (gone, kept) = state.segments.drain(..).partition(|view| view.number < first_segment);
        state.segments = kept;
        drop(state);
        let gone: Vec<SegmentView> = gone;
        let paths: Vec<_> = gone.into_iter().map(|view| view.path).collect();
        self.remove_segments(&paths)
    }

    fn remove_segments(&self, paths: &[PathBuf]) -> Result<(), Error> {
        for path in paths {
            self.files.remove(path).map_err(|error| Error::io("remove", path, error))?;
        }
        if paths.is_empty() {
            return Ok(());
        }
        self.files
            .sync_directory(&self.directory)
            .map_err(|error| Error::io("sync", &self.directory, error))
    }

    /// Does the purges in the queue that concern only records on disk.
    fn purge_out_of_turn(&mut self) -> Result<(), Error> {
        let on_disk = self.last.map_or(0, |last| last.index);
        let mut at = 0;
        while at < self.pending.len() {
            match &self.pending[at] {
                Operation::Truncate { .. } | Operation::Reset { .. } => break,
                Operation::Purge { upto, .. } if upto.index <= on_disk => {
                    let upto = *upto;
                    self.purge(upto)?;
                    let operation = self.pending.remove(at).expect("just seen");
                    operation.complete(Ok(()));
                }
                _ => at += 1,
            }
        }
        Ok(())
    }

    fn complete_written(&self, run: &mut VecDeque<Operation>) {
        while let Some(operation) = run.pop_front_if(|operation| match operation {
            Operation::Append(append) => append.written == append.records.len(),
            _ => true,
        }) {
            self.settle(&operation);
            operation.complete(Ok(()));
        }
    }
}

/// What opening a log hands to its flusher.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) state_file: StateFile,
    /// The newest record on disk, or the purged position.
    pub(super) last: Option<Position>,
    /// What the header of the last segment says stood before it.
    pub(super) active_previous: Option<Position>,
    /// The number of the newest segment ever begun, or one that must not be used again.
    pub(super) newest_number: u64,
}
