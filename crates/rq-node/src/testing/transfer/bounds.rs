//! Limits: bandwidth, transfers at once, what the WAL may grow by.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use rq_storage::Execution;
use tokio::time::Instant;

use super::world::{Disk, Fate, Party, TO, Wires, check, send_with, small, transfers};
use crate::{
    environment::Seeded,
    internode::Network,
    progress::lock,
    testing::crash::scratch_directory,
    transfer::{TransferError, TransferOptions, Transfers},
};

#[tokio::test(start_paused = true)]
async fn bandwidth_is_bounded() {
    let (source, target) = (Party::new(), Party::new());
    source.fill(300);
    let began = Instant::now();
    let options = TransferOptions { bytes_per_second: 100_000, ..small() };
    let sent = send_with(&source, &Wires::to(&target), options).await.unwrap();
    check(&source, &target, &sent);
    let took = began.elapsed().as_millis();
    let expected = u128::from(sent.bytes_sent) / 100;
    assert!((expected * 9 / 10..expected * 11 / 10).contains(&took), "{took} of {expected}");
}

#[tokio::test(start_paused = true)]
async fn so_many_transfers_run_at_once_and_others_wait() {
    let source = Party::new();
    source.fill(100);
    let sender = Arc::new(transfers(TransferOptions { bytes_per_second: 100_000, ..small() }));
    let most = Arc::new(AtomicU64::new(0));
    let targets = [(); 4].map(|()| Party::new());
    let sends = targets.each_ref().map(|target| {
        let (wires, sender) = (Wires::to(target), Arc::clone(&sender));
        let (watched, most) = (Arc::clone(&sender), Arc::clone(&most));
        wires.decide(move |_, _| {
            most.fetch_max(watched.status().len() as u64, Ordering::Relaxed);
            Fate::Arrives
        });
        let cargo = source.cargo();
        async move {
            let network = wires as Arc<dyn Network>;
            sender.send(&network, TO, cargo, std::future::pending::<()>()).await.unwrap()
        }
    });
    for (sent, target) in futures_util::future::join_all(sends).await.iter().zip(&targets) {
        check(&source, target, sent);
    }
    assert_eq!(most.load(Ordering::Relaxed), 2);
}

/// Messages are so small that the receiver hears of its sender before it takes the silence for the end.
#[tokio::test(start_paused = true)]
async fn a_slow_rate_does_not_sound_like_the_end() {
    let source = Party::new();
    source.fill(1500);
    let options =
        TransferOptions { bytes_per_second: 30_000, concurrent: 2, ..TransferOptions::default() };
    let sender = transfers(options);
    let targets = [(); 2].map(|()| Party::new());
    let silences = Arc::new(AtomicU64::new(0));
    let sends = targets.each_ref().map(|target| {
        let (wires, receiver) = (Wires::to(target), target.receiver.clone());
        let silences = Arc::clone(&silences);
        wires.decide(move |number, _| {
            let silent = number > 0 && receiver.status().is_none();
            silences.fetch_add(silent.into(), Ordering::Relaxed);
            Fate::Arrives
        });
        let (sender, cargo) = (&sender, source.cargo());
        async move {
            let network = wires as Arc<dyn Network>;
            sender.send(&network, TO, cargo, std::future::pending::<()>()).await.unwrap()
        }
    });
    for (sent, target) in futures_util::future::join_all(sends).await.iter().zip(&targets) {
        check(&source, target, sent);
    }
    assert_eq!(silences.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_its_turn_knows_that_it_lacks_something() {
    let source = Party::new();
    source.fill(100);
    let sender = transfers(TransferOptions { concurrent: 1, ..small() });
    let [first, second] = [(); 2].map(|()| Party::new());
    let reaches = source.image().applied.unwrap().index;
    let (seen, seeing) = std::sync::mpsc::channel();
    let (to_first, to_second) = (Wires::to(&first), Wires::to(&second));
    let waiting = second.receiver.clone();
    to_first.decide(move |number, _| {
        if number > 4 {
            seen.send((waiting.is_needed(reaches - 1), waiting.status())).unwrap();
        }
        Fate::Arrives
    });
    let send = async |wires: Arc<Wires>| {
        let network = wires as Arc<dyn Network>;
        sender.send(&network, TO, source.cargo(), std::future::pending::<()>()).await.unwrap()
    };
    assert!(!second.receiver.is_needed(0));
    let (sent, then) = tokio::join!(send(to_first), send(to_second));
    for (needed, status) in seeing.try_iter() {
        assert!(needed && status.is_none(), "{status:?}");
    }
    check(&source, &first, &sent);
    check(&source, &second, &then);
    assert!(!second.receiver.is_needed(then.applied.index));
}

/// A writer that never stops: each held round lets go, and in the end the transfer gives up.
#[tokio::test(start_paused = true)]
async fn the_wal_is_let_go_when_it_grows_and_a_hopeless_transfer_ends() {
    let (source, target) = (Arc::new(Party::new()), Party::new());
    source.fill(100);
    let wires = Wires::to(&target);
    let writer = Arc::clone(&source);
    let writing = Arc::new(AtomicU64::new(u64::MAX));
    let left = Arc::clone(&writing);
    wires.decide(move |_, _| {
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
        {
            writer.apply(&["UPDATE t SET x = randomblob(1000) WHERE id < 50"]);
            let checkpointer = &writer.durability;
            checkpointer.with_checkpointer(|checkpointer| checkpointer.fold().unwrap());
            writer.applier.with_writer(|writer| writer.finish_checkpoint().unwrap());
        }
        Fate::Arrives
    });
    let options = TransferOptions { wal_growth_max: 10_000, ..small() };
    let end = send_with(&source, &wires, options).await;
    assert!(matches!(end, Err(TransferError::Overtaken(32))), "{end:?}");
    assert!(source.wal_size().bytes() < 1_000_000, "{}", source.wal_size().bytes());
    // What is there is not lost: with a pause of the writer it is done at once.
    writing.store(20, Ordering::Relaxed);
    let sent = send_with(&source, &wires, options).await.unwrap();
    check(&source, &target, &sent);
}

/// Bytes of requests in flight: what sender and receiver hold at once, whatever the size of the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_bounded_by_messages_not_by_the_database() {
    let party = || Party::on(Disk::real(), Execution::Threads, scratch_directory());
    let (source, target) = (party(), party());
    source.fill(6_000);
    let wires = Wires::to(&target);
    let largest = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&largest);
    wires.decide(move |_, call| {
        let mut largest = lock(&seen);
        *largest = call.request.len().max(*largest);
        Fate::Arrives
    });
    let options = TransferOptions { chunk_bytes: 65_536, ..TransferOptions::default() };
    let transfers = Transfers::new(options, Execution::Threads, Arc::new(Seeded::new(3, 0)));
    let network = Arc::clone(&wires) as Arc<dyn Network>;
    let never = std::future::pending::<()>();
    let sent = transfers.send(&network, TO, source.cargo(), never).await.unwrap();
    assert!(sent.bytes_sent > 6_000_000);
    let largest = *lock(&largest);
    assert!(largest < 65_536 + 1_000, "{largest}");
    drop(target.close());
}
