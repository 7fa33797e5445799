//! The receiving side: one transfer at a time, answered call by call.
//!
//! A call may come late, twice or from a sender that has been replaced; it names its transfer and its
//! round, and is refused if another is current. Calls of one transfer are answered at the same time, which
//! is safe because they concern different pages. Finishing shuts all others out: nobody writes to a file
//! that is about to become the database.
//!
//! The staging file stays when a transfer breaks off; [`Receiver::discard`] removes it. A disk that fails
//! or is full removes it at once.
//!
//! # Locks
//! Whoever works on the staging file holds its read lock, and looks only then whether its call is current. A
//! held round begins, and a file is finished or removed, under the write lock: so what was late is over by
//! then, and what comes later is refused. Who takes both locks takes the session's second. Files are worked on under the
//! staging file's lock alone: the session is looked at where nobody may wait for a disk.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rq_sqlite::{Arrival, EntryId, Replacer, checksum_of_page};
use rq_storage::{Execution, Files};
use tokio::time::Instant;

use super::{
    CHUNK_BYTES_MAX, Received, Refusal, SILENCE, blocking, compare,
    message::{Announcement, Answer, Body, Finish, Offer, Pages, Request, TransferId},
    staging::{self, Staging},
};
use crate::progress::lock;

/// What becomes of what was received; the node's business.
pub(crate) trait Landing: Send + Sync + 'static {
    /// Whether an offer with this header is for this node, and wanted.
    ///
    /// # Errors
    /// Why not.
    fn admit(&self, header: &[u8]) -> Result<(), String>;

    /// Installs the snapshot. `closing` is what the sender's caller gave as
    /// [`Cargo::closing`](super::Cargo::closing); the answer goes back to it. When this returns, the
    /// received file has another name or is removed. Runs to its end, even if the sender is gone.
    ///
    /// # Errors
    /// Why it was not installed.
    fn install(
        &self,
        closing: Bytes,
        received: Received,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// The receiving side of a node; cheap to clone.
#[derive(Clone)]
pub(crate) struct Receiver {
    shared: Arc<Shared>,
}

/// A transfer under way, as its receiver sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Receiving {
    /// The applied index of the sender when it offered.
    pub(crate) index: u64,
    /// The round, from 1; 0 before the first.
    pub(crate) round: u32,
    /// Pages of the database when it was offered.
    pub(crate) page_count: u32,
    /// Pages compared in all rounds that need not be sent.
    pub(crate) pages_kept: u64,
    /// Pages received in all rounds.
    pub(crate) pages_received: u64,
    /// Whether all has arrived, and it is being installed.
    pub(crate) installing: bool,
}

struct Shared {
    files: Arc<dyn Files>,
    scratch: PathBuf,
    replacer: Replacer,
    execution: Execution,
    landing: Box<dyn Landing>,
    session: Mutex<Option<Session>>,
    /// Written to under the read lock; taken, replaced or removed under the write lock.
    staging: RwLock<Option<Staging>>,
    /// How far the databases reach that members have said this node needs. Never less: what was applied there is
    /// committed, and arrives here in one way or another.
    needed: AtomicU64,
    /// Whether a file could not be removed.
    leftover: AtomicBool,
}

/// The current transfer.
struct Session {
    transfer: TransferId,
    header: Bytes,
    term: u64,
    last_heard: Instant,
    /// The round that is held, of so many pages.
    held: Option<(u32, u32)>,
    told: Receiving,
}

/// Why a call was not done.
type Refused = (Refusal, String);

impl Receiver {
    /// Receives into files in `scratch`, on the file system of the database.
    pub(crate) fn new(
        files: Arc<dyn Files>,
        scratch: PathBuf,
        replacer: Replacer,
        execution: Execution,
        landing: Box<dyn Landing>,
    ) -> Self {
        let (session, staging) = (Mutex::default(), RwLock::default());
        let (needed, leftover) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Shared {
            files,
            scratch,
            replacer,
            execution,
            landing,
            session,
            staging,
            needed,
            leftover,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Answers one call of a sender.
    pub(crate) fn answer(&self, request: Bytes) -> BoxFuture<'static, Bytes> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let answered = match Request::decode(request) {
                Ok(Request { transfer, round, body: Body::Finish(finish) }) => {
                    shared.finish(transfer, round, finish).await
                }
                Ok(request) => shared.answer(request).await,
                Err(reason) => Err((Refusal::Failed, format!("the request: {reason}"))),
            };
            match answered {
                Ok(answer) => answer,
                Err((refusal, reason)) => Answer::refused(refusal, reason),
            }
            .encode()
        })
    }

    /// The transfer under way; `None` if nothing was heard of one for a while.
    pub(crate) fn status(&self) -> Option<Receiving> {
        let session = lock(&self.shared.session);
        let active = session.as_ref().filter(|session| session.is_active());
        active.map(|session| session.told)
    }

    /// Whether a node that has applied so much still lacks a database that another member has, or is installing one.
    pub(crate) fn is_needed(&self, applied: u64) -> bool {
        applied < self.shared.needed.load(Ordering::Relaxed)
            || lock(&self.shared.session).as_ref().is_some_and(|session| session.told.installing)
    }

    /// Removes what an abandoned transfer left, if nothing was heard of it for `idle`. To be called now and then.
    pub(crate) async fn discard(&self, idle: Duration) {
        let shared = Arc::clone(&self.shared);
        let due = match &*lock(&shared.session) {
            Some(session) => session.is_abandoned(idle),
            None => shared.leftover.load(Ordering::Relaxed),
        };
        if due {
            let execution = shared.execution;
            let remove = move || shared.remove_staging(|session| session.is_abandoned(idle));
            blocking(execution, remove).await;
        }
    }
}

impl Session {
    fn is_active(&self) -> bool {
        self.told.installing || self.last_heard.elapsed() < SILENCE
    }

    fn is_abandoned(&self, idle: Duration) -> bool {
        !self.told.installing && self.last_heard.elapsed() >= idle
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request) -> Result<Answer, Refused> {
        let Request { transfer, round, body } = request;
        let execution = self.execution;
        blocking(execution, move || match body {
            Body::Announce(Announcement { header, index }) => {
                self.need(&header, index).map(|()| Answer::Done)
            }
            Body::Offer(offer) => self.begin(transfer, offer),
            Body::Hold { page_count } => self.hold(transfer, round, page_count),
            Body::Compare { first, checksums } => self.compare(transfer, round, first, &checksums),
            Body::Pages(pages) => self.store(transfer, round, &pages),
            Body::Finish(_) => Err(unknown()),
        })
        .await
    }

    /// Notes what a member says that this node needs.
    fn need(&self, header: &[u8], index: u64) -> Result<(), Refused> {
        self.landing.admit(header).map_err(|reason| (Refusal::NotAdmitted, reason))?;
        self.needed.fetch_max(index, Ordering::Relaxed);
        Ok(())
    }

    fn begin(&self, transfer: TransferId, offer: Offer) -> Result<Answer, Refused> {
        self.need(&offer.header, offer.index)?;
        let own = compare::own_pages(self.replacer.readers(), offer.page_size);
        // Whoever begins, finishes or removes a transfer has this lock.
        let mut place = self.staging.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &*lock(&self.session) {
            let same = current.transfer == transfer || current.header == offer.header;
            let gives_way = same || current.term < offer.term || !current.is_active();
            if current.told.installing || !gives_way {
                return Err((Refusal::Busy, "another transfer is under way".to_owned()));
            }
        }
        if place.as_ref().is_some_and(|staging| staging.page_size() != offer.page_size) {
            *place = None;
        }
        let staged = self.make_room(&mut place, &offer).map_err(|error| {
            *place = None;
            self.failed(&error)
        })?;
        let Offer { header, term, page_count, index, .. } = offer;
        let told = Receiving { index, page_count, ..Receiving::default() };
        let last_heard = Instant::now();
        let session = Session { transfer, header, term, last_heard, held: None, told };
        *lock(&self.session) = Some(session);
        Ok(Answer::Ready { pages: staged.max(own) })
    }

    /// Begins a staging file if there is none, makes sure that there is room for it, and tells how many
    /// pages it has.
    fn make_room(&self, place: &mut Option<Staging>, offer: &Offer) -> io::Result<u32> {
        let staging = match place {
            Some(staging) => staging,
            None => place.insert(Staging::create(&self.files, &self.scratch, offer.page_size)?),
        };
        let staged = staging.page_count()?;
        let missing = u64::from(offer.page_count.saturating_sub(staged));
        let needed = missing * u64::from(offer.page_size);
        if self.files.free_space(&self.scratch)? < needed {
            let reason = format!("{needed} bytes more are needed");
            return Err(io::Error::new(io::ErrorKind::StorageFull, reason));
        }
        Ok(staged)
    }

    fn hold(&self, transfer: TransferId, round: u32, page_count: u32) -> Result<Answer, Refused> {
        let result = {
            let place = self.staging.write().unwrap_or_else(PoisonError::into_inner);
            let staging = place.as_ref().ok_or_else(unknown)?;
            self.check(transfer, round, |session| session.held = Some((round, page_count)))?;
            staging.hold(page_count).map_err(|error| self.failed(&error))
        };
        self.abandon_if_failed(transfer, result.map(|()| Answer::Done))
    }

    fn compare(
        &self,
        transfer: TransferId,
        round: u32,
        first: u32,
        checksums: &[u128],
    ) -> Result<Answer, Refused> {
        self.with_staging(transfer, |staging| {
            let held = self.check(transfer, round, |_| {})?;
            let last = first + (u32::try_from(checksums.len()).unwrap_or(u32::MAX) - 1);
            check_reach(held, last)?;
            let own = self.replacer.readers();
            let compared = compare::compare(staging, own, first, checksums, held.is_some())
                .map_err(|error| self.failed(&error))?;
            self.check(transfer, round, |session| session.told.pages_kept += compared.kept)?;
            Ok(Answer::Differ { bitmap: compared.bitmap.into() })
        })
    }

    fn store(&self, transfer: TransferId, round: u32, pages: &Pages) -> Result<Answer, Refused> {
        self.with_staging(transfer, |staging| {
            let held = self.check(transfer, round, |_| {})?;
            check_reach(held, pages.numbers.last().copied().unwrap_or_default())?;
            let size = usize::try_from(staging.page_size()).expect("32 bits fit");
            let data = unpack(pages, size)?;
            let numbered = pages.numbers.iter().zip(data.chunks_exact(size));
            let sums: Vec<u128> =
                numbered.map(|(number, page)| checksum_of_page(*number, page)).collect();
            if sums.iter().fold(0, |sum: u128, one| sum.wrapping_add(*one)) != pages.checksum {
                let reason = "pages arrived that are not what was sent";
                return Err((Refusal::Damaged, reason.to_owned()));
            }
            let mut stored = staging.write(&pages.numbers, &data);
            if held.is_some() && stored.is_ok() {
                stored = staging.note(&pages.numbers, &sums);
            }
            stored.map_err(|error| self.failed(&error))?;
            let count = pages.numbers.len() as u64;
            self.check(transfer, round, |session| session.told.pages_received += count)?;
            Ok(Answer::Done)
        })
    }

    async fn finish(
        self: Arc<Self>,
        transfer: TransferId,
        round: u32,
        finish: Finish,
    ) -> Result<Answer, Refused> {
        let work = async move {
            let (this, execution) = (Arc::clone(&self), self.execution);
            let Finish { checksum, applied, closing } = finish;
            let verify = move || this.verify(transfer, round, checksum, applied);
            let received = blocking(execution, verify).await?;
            let installed = self.landing.install(closing, received).await;
            let clear = move || self.remove_staging(|session| session.transfer == transfer);
            blocking(execution, clear).await;
            match installed {
                Ok(response) => Ok(Answer::Installed { response }),
                Err(reason) => Err((Refusal::Failed, reason)),
            }
        };
        // Goes on when the call is given up: an install cannot be left half-way.
        match tokio::spawn(work).await {
            Ok(finished) => finished,
            Err(error) => Err((Refusal::Failed, error.to_string())),
        }
    }

    /// Compares the file with what was sent, syncs and inspects it, and lets nobody write to it any more.
    fn verify(
        &self,
        transfer: TransferId,
        round: u32,
        checksum: u128,
        applied: EntryId,
    ) -> Result<Received, Refused> {
        let mut place = self.staging.write().unwrap_or_else(PoisonError::into_inner);
        let held = self.check(transfer, round, |session| session.told.installing = true)?;
        let verified = match held {
            Some(_) => self.verify_file(&mut place, checksum, applied),
            None => Err((Refusal::Mismatch, "no round was held".to_owned())),
        };
        if verified.is_err()
            && let Some(session) = &mut *lock(&self.session)
        {
            session.told.installing = false;
        }
        drop(place);
        self.abandon_if_failed(transfer, verified)
    }

    fn verify_file(
        &self,
        place: &mut Option<Staging>,
        checksum: u128,
        applied: EntryId,
    ) -> Result<Received, Refused> {
        let staging = place.as_ref().ok_or_else(unknown)?;
        let mismatch = |reason: String| (Refusal::Mismatch, reason);
        let path = staging.path();
        let sum = staging.sum().and_then(|sum| staging.sync().map(|()| sum));
        match sum.map_err(|error| self.failed(&error))? {
            Some(sum) if sum == checksum => {}
            Some(_) => return Err(mismatch("the pages are not those that were sent".to_owned())),
            None => return Err(mismatch("pages are missing".to_owned())),
        }
        let state = self.replacer.inspect(&path).map_err(|error| mismatch(error.to_string()))?;
        if state.applied != Some(applied) {
            return Err(mismatch(format!("it holds {:?}, not {applied:?}", state.applied)));
        }
        // Whoever writes has the lock and this handle.
        *place = None;
        let arrival = Arrival { path, applied };
        Ok(Received { arrival, membership: state.membership })
    }

    /// Does something with the staging file, beside others.
    fn with_staging(
        &self,
        transfer: TransferId,
        work: impl FnOnce(&Staging) -> Result<Answer, Refused>,
    ) -> Result<Answer, Refused> {
        let result = {
            let place = self.staging.read().unwrap_or_else(PoisonError::into_inner);
            work(place.as_ref().ok_or_else(unknown)?)
        };
        self.abandon_if_failed(transfer, result)
    }

    /// What this node cannot store it does not keep.
    fn abandon_if_failed<T>(
        &self,
        transfer: TransferId,
        result: Result<T, Refused>,
    ) -> Result<T, Refused> {
        if let Err((Refusal::NoSpace | Refusal::Failed, _)) = &result {
            self.remove_staging(|session| session.transfer == transfer && !session.told.installing);
        }
        result
    }

    /// Whether a call belongs to the current transfer and round; returns the pages of a held round.
    fn check(
        &self,
        transfer: TransferId,
        round: u32,
        note: impl FnOnce(&mut Session),
    ) -> Result<Option<u32>, Refused> {
        let mut session = lock(&self.session);
        let session = session
            .as_mut()
            .filter(|session| session.transfer == transfer)
            .filter(|session| session.told.round <= round && !session.told.installing)
            .ok_or_else(unknown)?;
        session.told.round = round;
        session.last_heard = Instant::now();
        note(session);
        Ok(session.held.filter(|(held, _)| *held == round).map(|(_, pages)| pages))
    }

    /// Says what failed here, once.
    fn failed(&self, error: &io::Error) -> Refused {
        tracing::warn!(component = "snapshot", "a snapshot could not be received: {error}");
        let full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let refusal = if full { Refusal::NoSpace } else { Refusal::Failed };
        (refusal, format!("storing the snapshot failed: {error}"))
    }

    /// Ends the session and removes the file, if there is no session or it is one of these.
    fn remove_staging(&self, these: impl FnOnce(&Session) -> bool) {
        let mut place = self.staging.write().unwrap_or_else(PoisonError::into_inner);
        {
            let mut session = lock(&self.session);
            if !session.as_ref().is_none_or(these) {
                return;
            }
            *session = None;
        }
        *place = None;
        let removed = staging::remove(&*self.files, &self.scratch);
        self.leftover.store(removed.is_err(), Ordering::Relaxed);
        if let Err(error) = removed {
            // It is tried again, and the next transfer and the next start do so as well.
            tracing::debug!(component = "snapshot", "cannot remove a staging file: {error}");
        }
    }
}

fn unknown() -> Refused {
    (Refusal::Unknown, "this transfer is not known here, or is over".to_owned())
}

/// In a held round there are no pages beyond the last.
fn check_reach(held: Option<u32>, last: u32) -> Result<(), Refused> {
    match held {
        Some(pages) if last > pages => {
            Err((Refusal::Mismatch, format!("page {last} of a database of {pages}")))
        }
        _ => Ok(()),
    }
}

/// The pages as they are.
fn unpack(pages: &Pages, page_size: usize) -> Result<Bytes, Refused> {
    let length = pages.numbers.len() * page_size;
    let damaged = |reason: String| (Refusal::Damaged, reason);
    if length > CHUNK_BYTES_MAX {
        return Err(damaged(format!("{length} bytes of pages at once")));
    }
    let data = if pages.compressed {
        let data = zstd::bulk::decompress(&pages.data, length);
        data.map_err(|error| damaged(error.to_string()))?.into()
    } else {
        pages.data.clone()
    };
    if data.len() == length {
        return Ok(data);
    }
    Err(damaged(format!("{} bytes where {length} belong", data.len())))
}
