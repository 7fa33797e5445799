//! Cuts, damage, full disks and other senders: what arrived stays, what is wrong is noticed.

use std::{
    future::pending,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use rq_sqlite::PageReadError;
use rq_storage::{Execution, FaultFiles, FaultHook, Operation, OperationKind, Verdict};

use super::world::{Disk, Fate, Party, TO, Wires, check, send, small, transfers};
use crate::{
    internode::Network,
    progress::lock,
    testing::crash::scratch_directory,
    transfer::{Cargo, Refusal, TransferError},
};

fn refusal(end: Result<impl std::fmt::Debug, TransferError>) -> Refusal {
    match end {
        Err(TransferError::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_at_any_call_is_resumed_by_the_next_transfer() {
    let source = Party::new();
    source.fill(120);
    let mut resumed_with = Vec::new();
    for cut in 0.. {
        let target = Party::new();
        let wires = Wires::to(&target);
        wires.decide(move |number, _| if number < cut { Fate::Arrives } else { Fate::Lost });
        let end = send(&source, &wires).await;
        if end.is_ok() {
            break;
        }
        assert!(matches!(end, Err(TransferError::Network(_))), "{end:?}");
        wires.decide(|_, _| Fate::Arrives);
        let sent = send(&source, &wires).await.unwrap();
        check(&source, &target, &sent);
        resumed_with.push(sent.pages_sent);
    }
    assert!(resumed_with.len() > 8, "{resumed_with:?}");
    assert!(resumed_with.windows(2).all(|pair| pair[0] >= pair[1]), "{resumed_with:?}");
    assert_eq!(resumed_with.last(), Some(&0), "nothing is sent twice");
}

#[tokio::test(start_paused = true)]
async fn calls_may_be_lost_answered_in_vain_or_late() {
    let source = Party::new();
    source.fill(120);
    for fate in [Fate::Lost, Fate::Unanswered, Fate::Late] {
        for every in [2, 3, 5] {
            let target = Party::new();
            let wires = Wires::to(&target);
            let mut last = 0;
            wires.decide(move |number, call| {
                // The last call, without pages and checksums, is not repeated.
                let is_small = call.request.len() < 300 && number > 1;
                last += 1;
                if last % every == 0 && !is_small { fate } else { Fate::Arrives }
            });
            let sent = send(&source, &wires).await.unwrap();
            check(&source, &target, &sent);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn damage_on_the_way_is_noticed_wherever_it_is() {
    let source = Party::new();
    source.fill(60);
    let (mut failed, mut mismatched) = (0, 0);
    for part in (0..=255).step_by(5) {
        for call in 0..8 {
            let target = Party::new();
            target.fill(3);
            let before = target.image();
            let wires = Wires::to(&target);
            let damaged = Fate::Damaged(part);
            wires.decide(move |number, _| if number == call { damaged } else { Fate::Arrives });
            match send(&source, &wires).await {
                Ok(sent) => assert_eq!(target.image(), source.image_at(sent.applied)),
                Err(error) => {
                    failed += 1;
                    let mismatch = TransferError::Refused {
                        refusal: Refusal::Mismatch,
                        reason: "the pages are not those that were sent".to_owned(),
                    };
                    mismatched += usize::from(error.to_string() == mismatch.to_string());
                    assert_eq!(target.image(), before, "{part} of {call}");
                    let sent = send(&source, &wires).await;
                    // An offer that was taken for another's is waited for.
                    if matches!(sent, Err(TransferError::Refused { refusal: Refusal::Busy, .. })) {
                        tokio::time::sleep(Duration::from_secs(10)).await;
                        send(&source, &wires).await.unwrap();
                    } else {
                        sent.unwrap();
                    }
                    assert_eq!(target.image(), source.image());
                }
            }
        }
    }
    assert!(failed > 10 && mismatched > 3, "{failed}, {mismatched} of them by their checksum");
}

#[tokio::test(start_paused = true)]
async fn pages_that_never_arrived_are_missed() {
    let source = Party::new();
    source.fill(60);
    for lost in 0..4 {
        let target = Party::new();
        let before = target.image();
        let wires = Wires::to(&target);
        let mut with_pages = 0;
        wires.decide(move |_, call| {
            let is_lost = call.request.len() > 4096 && with_pages == lost;
            with_pages += usize::from(call.request.len() > 4096);
            if is_lost { Fate::Swallowed } else { Fate::Arrives }
        });
        assert_eq!(refusal(send(&source, &wires).await), Refusal::Mismatch, "{lost}");
        assert_eq!(target.image(), before);
        wires.decide(|_, _| Fate::Arrives);
        let sent = send(&source, &wires).await.unwrap();
        check(&source, &target, &sent);
        assert!((1..=5).contains(&sent.pages_sent), "{sent:?}");
    }
}

/// A disk without room for what this says.
struct Full(OperationKind, u64);

impl FaultHook for Full {
    fn before(&self, operation: &Operation<'_>) -> Verdict {
        let incoming = operation.path.to_string_lossy().contains("incoming.sqlite");
        if incoming && operation.kind == self.0 && operation.offset >= self.1 {
            return Verdict::Fail(std::io::ErrorKind::StorageFull);
        }
        Verdict::Proceed
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_the_transfer_and_leaves_nothing_behind() {
    let source = Party::new();
    source.fill(120);
    for (kind, offset) in [
        (OperationKind::Create, 0),
        (OperationKind::SetLength, 0),
        (OperationKind::Write, 0),
        (OperationKind::Write, 60_000),
        (OperationKind::Sync, 0),
    ] {
        let files = FaultFiles::new(Arc::new(Full(kind, offset)));
        let disk = Disk { files: Arc::new(files), database: None };
        let target = Party::on(disk, Execution::Inline, scratch_directory());
        target.fill(2);
        let before = target.image();
        let wires = Wires::to(&target);
        let refused = refusal(send(&source, &wires).await);
        assert_eq!(refused, Refusal::NoSpace, "{kind:?}");
        assert_eq!(target.image(), before);
        assert_eq!(target.receiver.status(), None);
        assert_eq!(target.scratch(), Vec::<String>::new(), "{kind:?}");
        let roomy = Party::on(Disk::real(), Execution::Inline, target.close());
        let sent = send(&source, &Wires::to(&roomy)).await.unwrap();
        check(&source, &roomy, &sent);
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_no_room_is_refused_before_it_is_sent() {
    let source = Party::new();
    source.fill(120);
    let files = FaultFiles::new(Arc::new(Full(OperationKind::CreateDirectory, 0)));
    files.set_free_space(Some(100_000));
    let disk = Disk { files: Arc::new(files.clone()), database: None };
    let target = Party::on(disk, Execution::Inline, scratch_directory());
    let wires = Wires::to(&target);
    assert_eq!(refusal(send(&source, &wires).await), Refusal::NoSpace);
    assert_eq!(wires.calls(), 1);
    files.set_free_space(None);
    check(&source, &target, &send(&source, &wires).await.unwrap());
}

/// Sends, and is given up when so many calls were made.
async fn given_up(source: &Party, wires: &Arc<Wires>, cargo: Cargo, calls: u64) {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut stop = Some(stop);
    wires.decide(move |number, _| {
        if number == calls {
            drop(stop.take());
        }
        Fate::Arrives
    });
    let network = Arc::clone(wires) as Arc<dyn Network>;
    let end = transfers(small()).send(&network, TO, cargo, stopped).await;
    assert!(matches!(end, Err(TransferError::Cancelled)), "{end:?}");
    assert_eq!(source.applier.readers().status().busy, 0);
    wires.decide(|_, _| Fate::Arrives);
}

#[tokio::test(start_paused = true)]
async fn another_sender_goes_on_where_the_first_was_given_up() {
    let (source, target) = (Party::new(), Party::new());
    source.fill(120);
    let wires = Wires::to(&target);
    let network = Arc::clone(&wires) as Arc<dyn Network>;
    given_up(&source, &wires, source.cargo(), 9).await;
    assert!(target.receiver.status().is_some());
    // One of the same term must wait until the first is certainly gone.
    let other = || Cargo { header: Bytes::from_static(b"other"), ..source.cargo() };
    let end = transfers(small()).send(&network, TO, other(), pending::<()>()).await;
    assert_eq!(refusal(end), Refusal::Busy);
    let elected = Cargo { term: 2, ..other() };
    let sent = transfers(small()).send(&network, TO, elected, pending::<()>()).await.unwrap();
    check(&source, &target, &sent);
    assert!(sent.pages_sent < sent.page_count, "{sent:?}");
    given_up(&source, &wires, Cargo { term: 9, ..source.cargo() }, 2).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(target.receiver.status(), None, "it has gone quiet");
    assert!(target.receiver.is_needed(0), "what is needed is needed");
    assert!(!target.receiver.is_needed(target.progress.applied().index));
    check(
        &source,
        &target,
        &transfers(small()).send(&network, TO, other(), pending::<()>()).await.unwrap(),
    );
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_transfer_is_removed_after_a_while() {
    let (source, target) = (Party::new(), Party::new());
    source.fill(120);
    let wires = Wires::to(&target);
    given_up(&source, &wires, source.cargo(), 9).await;
    let idle = Duration::from_secs(60);
    target.receiver.discard(idle).await;
    assert_eq!(target.scratch().len(), 2);
    tokio::time::sleep(idle).await;
    target.receiver.discard(idle).await;
    assert_eq!(target.scratch(), Vec::<String>::new());
    check(&source, &target, &send(&source, &wires).await.unwrap());
}

/// A disk that takes its time to remove a file: until it is told, or for ever in a test's measure.
struct Slow {
    asked: mpsc::Sender<()>,
    released: Mutex<mpsc::Receiver<()>>,
}

impl FaultHook for Slow {
    fn before(&self, operation: &Operation<'_>) -> Verdict {
        if operation.kind == OperationKind::Remove {
            // The test may have ended.
            let _ = self.asked.send(());
            let _ = lock(&self.released).recv_timeout(Duration::from_secs(20));
        }
        Verdict::Proceed
    }
}

/// On one thread, which would stand still with the disk.
#[tokio::test]
async fn a_slow_disk_does_not_hold_up_who_has_an_abandoned_transfer_removed() {
    let source = Party::new();
    source.fill(120);
    let (asked, asking) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let slow = Slow { asked, released: Mutex::new(released) };
    let files = Arc::new(FaultFiles::new(Arc::new(slow)));
    let disk = Disk { files, database: None };
    let target = Party::on(disk, Execution::Threads, scratch_directory());
    given_up(&source, &Wires::to(&target), source.cargo(), 9).await;
    while asking.try_recv().is_ok() {}
    let receiver = target.receiver.clone();
    let removing = tokio::spawn(async move { receiver.discard(Duration::ZERO).await });
    let began = std::time::Instant::now();
    while asking.try_recv().is_err() {
        assert!(began.elapsed() < Duration::from_secs(15), "the disk is asked, and nobody waits");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!removing.is_finished(), "the disk has not answered");
    assert!(target.receiver.status().is_none(), "and can be asked what it does");
    drop(release);
    removing.await.unwrap();
    assert_eq!(target.scratch(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn strangers_and_nonsense_are_refused() {
    let (source, target) = (Party::new(), Party::new());
    source.fill(10);
    let wires = Wires::to(&target);
    let network = Arc::clone(&wires) as Arc<dyn Network>;
    let stranger = Cargo { header: Bytes::from_static(b"stranger"), ..source.cargo() };
    let end = transfers(small()).send(&network, TO, stranger, pending::<()>()).await;
    assert_eq!(refusal(end), Refusal::NotAdmitted);
    assert_eq!(target.scratch(), Vec::<String>::new());
    for bytes in [b"".as_slice(), b"\xff\xff", b"GET / HTTP/1.1"] {
        let answer = target.receiver.answer(Bytes::from_static(bytes)).await;
        assert!(!answer.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_database_of_a_later_term_is_not_sent_in_the_name_of_an_earlier_one() {
    let (source, target) = (Party::new(), Party::new());
    source.fill(10);
    let before = target.image();
    let network = Wires::to(&target) as Arc<dyn Network>;
    let deposed = Cargo { term: 0, ..source.cargo() };
    let end = transfers(small()).send(&network, TO, deposed, pending::<()>()).await;
    assert!(matches!(end, Err(TransferError::Deposed { reached: 1, sent: 0 })), "{end:?}");
    assert_eq!(target.image(), before);
}

#[tokio::test(start_paused = true)]
async fn a_sender_whose_own_file_is_replaced_stops() {
    let (source, target) = (Arc::new(Party::new()), Party::new());
    source.fill(120);
    let newer = Party::new();
    newer.fill(10);
    newer.apply(&["INSERT INTO t (x) VALUES (1)"]);
    let wires = Wires::to(&target);
    let (sender, arrival) = (Arc::clone(&source), newer.copy_to(&source));
    wires.decide(move |number, _| {
        if number == 7 {
            let installed = sender.applier.install(arrival.clone(), &sender.durability);
            installed.now_or_never().expect("inline").unwrap();
        }
        Fate::Arrives
    });
    let end = send(&source, &wires).await;
    assert!(matches!(end, Err(TransferError::Read(PageReadError::Interrupted))), "{end:?}");
    assert!(target.scratch().len() == 2);
}
