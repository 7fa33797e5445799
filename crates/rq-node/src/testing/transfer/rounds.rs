//! How many rounds there are: one if little is written meanwhile, however large the database is, and otherwise
//! another for what was written.

use std::sync::Arc;

use rq_storage::{Execution, FaultFiles, FaultHook, Operation, Verdict};

use super::world::{Disk, Fate, Party, TO, Wires, check, send_with, small, transfers};
use crate::{
    internode::Network, testing::crash::scratch_directory, transfer::TransferError,
    transfer::TransferOptions,
};

/// Pages that the content below takes at least.
const PAGES_MIN: u64 = 9_000;

/// Messages that are neither so small that there are thousands, nor so large that there are few.
fn medium() -> TransferOptions {
    TransferOptions { chunk_bytes: 64 * 4096, ..TransferOptions::default() }
}

/// Small rows before and behind so much content that nobody takes it for little.
fn large() -> Party {
    let party = Party::new();
    party.grow(100);
    party.apply(&[
        "INSERT INTO t (id, x) VALUES (1000, randomblob(40000000))",
        "INSERT INTO t (id, x) SELECT id + 2000, randomblob(1000) FROM t WHERE id <= 100",
    ]);
    party
}

/// Changes a row on a page that is sent early, and one on a page that is sent late.
const CHANGE: [&str; 1] = ["UPDATE t SET x = randomblob(1000) WHERE id IN (7, 2007)"];

#[tokio::test(start_paused = true)]
async fn all_of_a_large_database_is_of_one_moment_if_little_is_written_meanwhile() {
    let (source, target) = (Arc::new(large()), Party::new());
    let before = source.image();
    let wires = Wires::to(&target);
    let writer = Arc::clone(&source);
    wires.decide(move |number, _| {
        if [5, 60].contains(&number) {
            writer.apply(&CHANGE);
            // Folded back as far as it goes, beside the reader.
            let fold = writer.durability.with_checkpointer(rq_sqlite::Checkpointer::fold);
            fold.expect("it is open").unwrap();
        }
        Fate::Arrives
    });
    let sent = send_with(&source, &wires, medium()).await.unwrap();
    check(&source, &target, &sent);
    assert!(wires.calls() > 60 && sent.page_count > PAGES_MIN, "{sent:?}");
    assert_eq!((sent.rounds, sent.pages_sent), (1, sent.page_count));
    assert_eq!(Some(sent.applied), before.applied, "what came later is not in it");
    assert_eq!(target.image(), before);
}

/// Sends while these are written, one after the other, so much that the first round lets go. Returns how many pages
/// were sent again.
async fn sent_again(source: &Arc<Party>, writes: [&'static str; 2]) -> u64 {
    let target = Party::new();
    let wires = Wires::to(&target);
    let writer = Arc::clone(source);
    wires.decide(move |number, _| {
        // Late, when the pages written to have been sent.
        let write = number.checked_sub(30).and_then(|at| writes.get(usize::try_from(at).unwrap()));
        if let Some(sql) = write {
            writer.apply(&[sql]);
        }
        Fate::Arrives
    });
    let options = TransferOptions { wal_growth_max: 20_000, ..small() };
    let sent = send_with(source, &wires, options).await.unwrap();
    check(source, &target, &sent);
    assert!(sent.rounds > 1, "{sent:?}");
    sent.pages_sent - sent.page_count
}

#[tokio::test(start_paused = true)]
async fn what_changed_after_it_was_sent_is_sent_again_and_what_changed_back_is_not() {
    let source = Arc::new(Party::new());
    source.fill(800);
    source.apply(&["CREATE TABLE kept AS SELECT id, x FROM t WHERE id < 60"]);
    let away = "UPDATE t SET x = zeroblob(1000) WHERE id < 60";
    let back = "UPDATE t SET x = (SELECT x FROM kept WHERE kept.id = t.id) WHERE id < 60";
    let changed = sent_again(&source, [away, away]).await;
    assert!((15..40).contains(&changed), "{changed}");
    source.apply(&[back]);
    let changed_back = sent_again(&source, [away, back]).await;
    assert!(changed_back < 5, "{changed_back}");
}

/// However much a later round may hold.
#[tokio::test(start_paused = true)]
async fn the_first_round_lets_go_before_the_wal_is_large() {
    let (source, target) = (Arc::new(large()), Party::new());
    let wires = Wires::to(&target);
    let writer = Arc::clone(&source);
    wires.decide(move |number, _| {
        if number == 10 || number == 20 {
            writer.apply(&["UPDATE t SET x = randomblob(40000000) WHERE id = 1000"]);
        }
        Fate::Arrives
    });
    let options = medium();
    assert!(options.wal_growth_max > 100_000_000);
    let sent = send_with(&source, &wires, options).await.unwrap();
    check(&source, &target, &sent);
    assert!(sent.rounds > 1, "{sent:?}");
}

/// On a slow link it would keep the WAL from starting over for long, and a second round costs little there.
#[tokio::test(start_paused = true)]
async fn a_first_round_that_takes_long_lets_go_sooner_but_not_for_nothing() {
    let source = Arc::new(Party::new());
    source.fill(1500);
    let options = TransferOptions { bytes_per_second: 50_000, ..small() };
    let mut rounds = Vec::new();
    for writes in [false, true] {
        let target = Party::new();
        let wires = Wires::to(&target);
        let writer = Arc::clone(&source);
        wires.decide(move |number, _| {
            if writes && number > 0 && number < 60 {
                writer.apply(&["UPDATE t SET x = randomblob(1000) WHERE id <= 200"]);
            }
            Fate::Arrives
        });
        let began = tokio::time::Instant::now();
        let sent = send_with(&source, &wires, options).await.unwrap();
        check(&source, &target, &sent);
        assert!(began.elapsed().as_secs() > 20, "{sent:?}");
        rounds.push(sent.rounds);
    }
    // What was written is far less than a short round may hold.
    assert_eq!(rounds, [1, 2]);
}

/// A disk on which everything is done.
struct Roomy;

impl FaultHook for Roomy {
    fn before(&self, _operation: &Operation<'_>) -> Verdict {
        Verdict::Proceed
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_cut_transfer_left_counts_as_far_as_it_came() {
    let source = Party::new();
    source.fill(400);
    let files = FaultFiles::new(Arc::new(Roomy));
    let disk = Disk { files: Arc::new(files.clone()), database: None };
    let target = Party::on(disk, Execution::Inline, scratch_directory());
    let wires = Wires::to(&target);
    let network = Arc::clone(&wires) as Arc<dyn Network>;
    wires.decide(|number, _| if number < 9 { Fate::Arrives } else { Fate::Lost });
    let end =
        transfers(small()).send(&network, TO, source.cargo(), std::future::pending::<()>()).await;
    assert!(matches!(end, Err(TransferError::Network(_))), "{end:?}");
    // Room for what has come, and not for what is missing.
    files.set_free_space(Some(200_000));
    wires.decide(|_, _| Fate::Arrives);
    let refused = send_with(&source, &wires, small()).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("bytes more are needed")));
    assert_eq!(wires.calls(), 1);
    files.set_free_space(None);
    let sent = send_with(&source, &wires, small()).await.unwrap();
    check(&source, &target, &sent);
}
