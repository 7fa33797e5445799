//! How fast a transfer is, beside a plain copy of the same bytes. Nothing is asserted of times.
//!
//! `RQ_SOAK_TRANSFER_BYTES` sets the size; worth something in a release build only.

use std::{
    fs::{self, File},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rq_storage::Execution;

use super::world::{Disk, Party, TO, Wires};
use crate::{
    environment::Seeded,
    internode::Network,
    transfer::{TransferOptions, Transfers},
};

/// The size, if nothing else is asked for.
const BYTES: u64 = 8 << 20;
/// Bytes of a row.
const ROW_BYTES: u64 = 1_000;
/// Rows added by one entry.
const ROWS: u64 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_beside_a_plain_copy() {
    let bytes = std::env::var("RQ_SOAK_TRANSFER_BYTES").ok();
    let bytes = bytes.map_or(BYTES, |text| text.parse().expect("RQ_SOAK_TRANSFER_BYTES"));
    let party = || {
        let directory = tempfile::tempdir().unwrap();
        Party::on(Disk::real(), Execution::Threads, directory)
    };
    let (source, target) = (party(), party());
    for _ in 0..bytes.div_ceil(ROWS * ROW_BYTES) {
        source.grow(ROWS);
        source.durability.with_checkpointer(|checkpointer| checkpointer.fold().unwrap());
        source.applier.with_writer(|writer| writer.finish_checkpoint().unwrap());
    }
    let copied = plain_copy(&source);
    let wires = Wires::to(&target);
    let network = Arc::clone(&wires) as Arc<dyn Network>;
    let transfers =
        Transfers::new(TransferOptions::default(), Execution::Threads, Arc::new(Seeded::new(3, 0)));
    let watched = AtomicBool::new(true);
    let began = Instant::now();
    let (sent, longest) = tokio::join!(
        async {
            let never = std::future::pending::<()>();
            let sent = transfers.send(&network, TO, source.cargo(), never).await.unwrap();
            watched.store(false, Ordering::Relaxed);
            sent
        },
        longest_read(&target, &watched),
    );
    let took = began.elapsed();
    let again = plain_copy(&source);
    let megabytes = |took: Duration| {
        let bytes = f64::from(u32::try_from(sent.page_count / 256).unwrap());
        bytes / took.as_secs_f64()
    };
    eprintln!(
        "{} pages in {} rounds: {:.0} MiB/s; cp and sync {:.0} and {:.0} MiB/s; longest read {:?}",
        sent.page_count,
        sent.rounds,
        megabytes(took),
        megabytes(copied),
        megabytes(again),
        longest
    );
    assert_eq!(target.image().applied, Some(sent.applied));
    assert_eq!(target.image(), source.image());
    drop(target.close());
}

/// Copies the database file as `cp` does, and syncs it.
fn plain_copy(source: &Party) -> Duration {
    let from = source.directory.path().join("db.sqlite");
    let to = source.directory.path().join("copy");
    let began = Instant::now();
    // Another process copies: opening the file here would cost the locks of SQLite.
    let done = std::process::Command::new("cp")
        .arg("--reflink=never")
        .args([&from, &to])
        .status()
        .unwrap();
    assert!(done.success());
    File::open(&to).unwrap().sync_all().unwrap();
    let took = began.elapsed();
    fs::remove_file(to).unwrap();
    took
}

/// The longest that a small read at the receiver took.
async fn longest_read(target: &Party, watched: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while watched.load(Ordering::Relaxed) {
        let readers = target.applier.readers().clone();
        let began = Instant::now();
        let read = move || {
            let statements = [rq_sql::Statement::new("SELECT count(*) FROM sqlite_schema")];
            let query = rq_sqlite::Query { statements: &statements, ..Default::default() };
            readers.query(&query, &mut crate::read::Collected::default()).unwrap();
        };
        tokio::task::spawn_blocking(read).await.unwrap();
        longest = longest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    longest
}
