//! What arrives is what was sent.

use std::sync::Arc;

use rq_storage::Execution;

use super::world::{Disk, Fate, Party, TO, Wires, check, send, send_with, small, transfers};
use crate::{
    environment::Seeded,
    internode::Network,
    testing::crash::scratch_directory,
    transfer::{TransferOptions, Transfers},
};

#[tokio::test(start_paused = true)]
async fn an_empty_node_receives_all_pages_once_and_goes_on_from_there() {
    let (source, target) = (Party::new(), Party::new());
    source.fill(300);
    source.apply(&["CREATE TABLE gone AS SELECT randomblob(90000)"]);
    source.apply(&["DROP TABLE gone"]);
    let wires = Wires::to(&target);
    let sent = send(&source, &wires).await.unwrap();
    check(&source, &target, &sent);
    assert_eq!((sent.rounds, sent.pages_sent), (1, sent.page_count));
    // Both go on with the same entries, and stay equal.
    for party in [&source, &target] {
        party.apply(&["INSERT INTO t (x) VALUES (randomblob(5000))"]);
    }
    assert_eq!(source.image(), target.image());
    let again = send(&source, &wires).await.unwrap();
    check(&source, &target, &again);
    assert_eq!(again.pages_sent, 0, "everything is there");
}

#[tokio::test(start_paused = true)]
async fn only_what_differs_from_the_receivers_own_database_travels() {
    let (source, target) = (Party::new(), Party::new());
    source.fill(500);
    let wires = Wires::to(&target);
    let first = send(&source, &wires).await.unwrap();
    for id in [3, 200, 400] {
        source.apply(&[&format!("UPDATE t SET x = randomblob(1000) WHERE id = {id}")]);
    }
    let sent = send(&source, &wires).await.unwrap();
    check(&source, &target, &sent);
    assert!((3..20).contains(&sent.pages_sent), "{sent:?}");
    assert!(first.pages_sent > 100, "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn the_sender_writes_shrinks_and_grows_while_it_sends() {
    let (source, target) = (Arc::new(Party::new()), Party::new());
    source.fill(500);
    let wires = Wires::to(&target);
    let writer = Arc::clone(&source);
    wires.decide(move |number, _| {
        match number {
            10 => writer.apply(&["DELETE FROM t WHERE id % 3"]),
            20 => writer.vacuum(),
            30 => writer.fill(400),
            40 => writer.apply(&["CREATE INDEX by_x ON t (x)"]),
            60 => writer.apply(&["DELETE FROM t"]),
            61 => writer.vacuum(),
            _ if number < 100 => writer.apply(&["INSERT INTO t (x) VALUES (randomblob(3000))"]),
            _ => {}
        }
        Fate::Arrives
    });
    // So little that a held round lets go again.
    let options = TransferOptions { wal_growth_max: 40_000, ..small() };
    let sent = send_with(&source, &wires, options).await.unwrap();
    check(&source, &target, &sent);
    assert!(sent.rounds > 2, "{sent:?}");
    assert!(wires.calls() > 61);
}

#[tokio::test(start_paused = true)]
async fn a_held_round_is_of_one_moment_whatever_is_written_meanwhile() {
    let (source, target) = (Arc::new(Party::new()), Party::new());
    source.fill(300);
    let wires = Wires::to(&target);
    let before = source.image();
    let writer = Arc::clone(&source);
    wires.decide(move |_, _| {
        writer.apply(&["UPDATE t SET x = randomblob(900)"]);
        Fate::Arrives
    });
    let sent = send(&source, &wires).await.unwrap();
    check(&source, &target, &sent);
    assert_eq!(sent.rounds, 1);
    // The first call is the offer, and the round begins behind it.
    assert_eq!(sent.applied.index, before.applied.unwrap().index + 1);
}

#[tokio::test(start_paused = true)]
async fn compressed_pages_arrive_as_they_were_and_take_fewer_bytes() {
    let source = Party::new();
    source.fill(100);
    source.apply(&["INSERT INTO t (x) SELECT printf('%01000d', id) FROM t"]);
    let mut bytes = Vec::new();
    for compression in [None, Some(1), Some(3)] {
        let target = Party::new();
        let wires = Wires::to(&target);
        let options = TransferOptions { compression, ..small() };
        let sent = send_with(&source, &wires, options).await.unwrap();
        check(&source, &target, &sent);
        bytes.push(sent.bytes_sent);
    }
    assert!(bytes[1] < bytes[0] / 4 * 3 && bytes[2] < bytes[0] / 4 * 3, "{bytes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_on_threads_while_sender_and_receiver_serve() {
    let party = || Party::on(Disk::real(), Execution::Threads, scratch_directory());
    let (source, target) = (Arc::new(party()), party());
    source.fill(2000);
    let wires = Wires::to(&target);
    let network = Arc::clone(&wires) as Arc<dyn Network>;
    let entropy = Arc::new(Seeded::new(3, 0));
    let transfers = Transfers::new(small(), Execution::Threads, entropy);
    let writer = Arc::clone(&source);
    let writing = tokio::task::spawn_blocking(move || {
        for _ in 0..40 {
            writer.apply(&["UPDATE t SET x = randomblob(1000) WHERE id % 50 = 7"]);
        }
    });
    let never = std::future::pending::<()>();
    let sent = transfers.send(&network, TO, source.cargo(), never).await.unwrap();
    writing.await.unwrap();
    let (target_image, expected) = (target.image(), source.image_at(sent.applied));
    assert_eq!(target_image, expected);
    assert_eq!(transfers.counters().done, 1);
    assert_eq!(transfers.oldest_index(), None);
    drop(target.close());
}

#[tokio::test(start_paused = true)]
async fn a_transfer_under_way_shows_itself_on_both_sides() {
    let (source, target) = (Arc::new(Party::new()), Arc::new(Party::new()));
    source.fill(300);
    let wires = Wires::to(&target);
    let sender = Arc::new(transfers(small()));
    let (seen, seeing) = std::sync::mpsc::channel();
    let (watched, receiver) = (Arc::clone(&sender), target.receiver.clone());
    wires.decide(move |_, _| {
        seen.send((watched.status(), watched.oldest_index(), receiver.status())).unwrap();
        Fate::Arrives
    });
    let network = Arc::clone(&wires) as Arc<dyn Network>;
    let never = std::future::pending::<()>();
    let sent = sender.send(&network, TO, source.cargo(), never).await.unwrap();
    let seen: Vec<_> = seeing.try_iter().collect();
    let (sending, oldest, receiving) = &seen[seen.len() - 2];
    assert_eq!(sending[0].to, TO);
    assert_eq!((sending[0].page_count, sending[0].round), (sent.page_count, 1));
    assert!(sending[0].pages_sent > 0 && sending[0].bytes_sent > 0);
    assert_eq!(*oldest, Some(sent.applied.index));
    let receiving = receiving.unwrap();
    assert_eq!(u64::from(receiving.page_count), sent.page_count);
    assert!(receiving.pages_received > 0 && !receiving.installing);
    assert_eq!((sender.status().len(), sender.oldest_index()), (0, None));
    let counters = sender.counters();
    assert_eq!((counters.begun, counters.done, counters.pages), (1, 1, sent.pages_sent));
    assert_eq!(source.wal_size().bytes(), source.cargo().wal.bytes());
}
