//! Checkpoints: the WAL stays bounded beside a writer, readers are in nobody's way.

use std::{sync::atomic::AtomicBool, thread};

use rq_sql::Value;

use super::*;
use crate::testing::{Bare, read, single};

const ROWS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 200)
                    INSERT INTO t (data) SELECT randomblob(1000) FROM c";

fn grown(transactions: u64) -> Bare {
    let mut bare = Bare::with("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)");
    for index in 1..=transactions {
        bare.apply(index, ROWS);
    }
    bare
}

#[test]
fn a_fold_and_its_finish_let_the_wal_start_over() {
    let mut bare = grown(40);
    let full = bare.parts.checkpointer.wal_bytes();
    assert!(full > 8_000_000, "{full}");
    let fold = bare.parts.checkpointer.fold().unwrap();
    assert!(fold.nearly_done && !fold.pinned, "{fold:?}");
    let parts = &bare.parts.writer;
    let finish = finish(&parts.connection, &parts.readers, &parts.gauge).unwrap();
    assert!(finish.restarts, "{finish:?}");
    bare.apply(41, ROWS);
    let after = bare.parts.checkpointer.wal_bytes();
    assert!(after < full / 10, "{after} of {full}");
    assert_eq!(bare.ask("PRAGMA integrity_check"), "ok");
}

#[test]
fn a_reader_on_an_older_frame_pins_the_wal_until_it_ends() {
    let mut bare = grown(20);
    let readers = bare.parts.readers.clone();
    let mut loan =
        readers.take(crate::readers::Patience::Endless, None).unwrap().expect("the pool is free");
    let held = &loan.reader().connection;
    held.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    for index in 21..=80 {
        bare.apply(index, ROWS);
    }
    let fold = bare.parts.checkpointer.fold().unwrap();
    assert!(fold.pinned && !fold.nearly_done && fold.folded > 0, "{fold:?}");
    let parts = &bare.parts.writer;
    let finished = finish(&parts.connection, &parts.readers, &parts.gauge).unwrap();
    assert!(!finished.restarts, "{finished:?}");
    drop(loan);
    assert!(bare.parts.checkpointer.fold().unwrap().nearly_done);
    let parts = &bare.parts.writer;
    assert!(finish(&parts.connection, &parts.readers, &parts.gauge).unwrap().restarts);
}

/// Writes more than is kept, and takes it back: the commits before need few bytes of the file.
fn blown_up() -> Bare {
    let bare = grown(2);
    bare.write("BEGIN IMMEDIATE");
    for _ in 0..16 {
        bare.write("INSERT INTO t (data) VALUES (zeroblob(9000000))");
    }
    bare.write("ROLLBACK");
    let size = bare.parts.checkpointer.wal_size();
    assert!(size.bytes() < 1 << 20 && size.file_bytes() > WAL_FILE_KEPT, "{size:?}");
    bare
}

#[test]
fn a_file_of_the_wal_that_is_too_large_is_emptied_when_it_is_folded() {
    let mut bare = blown_up();
    let size = bare.parts.checkpointer.wal_size();
    assert!(bare.parts.checkpointer.fold().unwrap().nearly_done);
    let parts = &bare.parts.writer;
    let done = finish(&parts.connection, &parts.readers, &parts.gauge).unwrap();
    assert!(done.restarts && done.emptied, "{done:?}");
    assert_eq!((size.bytes(), size.file_bytes()), (0, 0));
    bare.apply(3, ROWS);
    // What is not too large stays as it is.
    let kept = size.file_bytes();
    assert!(kept > 0);
    assert!(bare.parts.checkpointer.fold().unwrap().nearly_done);
    let parts = &bare.parts.writer;
    let done = finish(&parts.connection, &parts.readers, &parts.gauge).unwrap();
    assert!(done.restarts && !done.emptied, "{done:?}");
    assert_eq!(size.file_bytes(), kept);
    let bare = bare.reopen();
    assert_eq!(bare.ask("SELECT count(*) FROM t"), "600");
    assert_eq!(bare.ask("PRAGMA integrity_check"), "ok");
}

#[test]
fn who_reads_from_a_large_wal_is_not_waited_for() {
    let mut bare = blown_up();
    let size = bare.parts.checkpointer.wal_size();
    // As another process does: the pool knows nothing of it. Its state is in the WAL.
    let other = Connection::open(&bare.options.path).unwrap();
    other.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    assert!(bare.parts.checkpointer.fold().unwrap().nearly_done);
    let parts = &bare.parts.writer;
    let done = finish(&parts.connection, &parts.readers, &parts.gauge).unwrap();
    assert!(!done.emptied && size.file_bytes() > WAL_FILE_KEPT, "{done:?}");
    assert!(done.pause < connection::BUSY_TIMEOUT / 2, "{done:?}");
    other.execute_batch("COMMIT").unwrap();
    let parts = &bare.parts.writer;
    let done = finish(&parts.connection, &parts.readers, &parts.gauge).unwrap();
    assert!(done.emptied, "{done:?}");
    assert_eq!(bare.ask("SELECT count(*) FROM t"), "400");
}

#[test]
fn the_wal_stays_bounded_while_a_writer_and_readers_go_on() {
    const TRIGGER: u64 = 1 << 20;
    const TRANSACTIONS: u64 = 200;
    let mut bare = Bare::with(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB);
         INSERT INTO t (id, data) VALUES (1, 'x')",
    );
    let readers = bare.parts.readers.clone();
    let (stop, want_finish) = (AtomicBool::new(false), AtomicBool::new(false));
    let (largest, restarts) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let outcomes = read(&readers, &["SELECT id FROM t WHERE id = 1"]);
                assert_eq!(single(&outcomes[0]), Ok(Value::Integer(1)));
            }
        });
        let crate::database::Parts { writer, checkpointer, .. } = &mut bare.parts;
        let (stop, want_finish, largest) = (&stop, &want_finish, &largest);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                largest.fetch_max(checkpointer.wal_bytes(), Ordering::Relaxed);
                if checkpointer.wal_bytes() > TRIGGER && checkpointer.fold().unwrap().nearly_done {
                    want_finish.store(true, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        for index in 1..=TRANSACTIONS {
            writer.connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            writer.connection.execute_batch(ROWS).unwrap();
            writer.state.set_applied(EntryId { term: 1, index }).unwrap();
            writer.connection.execute_batch("COMMIT").unwrap();
            if want_finish.swap(false, Ordering::Relaxed) {
                let finish = finish(&writer.connection, &writer.readers, &writer.gauge).unwrap();
                restarts.fetch_add(u64::from(finish.restarts), Ordering::Relaxed);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let written = TRANSACTIONS * 200 * 1000;
    let largest = largest.into_inner();
    assert!(restarts.into_inner() > 0);
    assert!(largest < written / 2, "the WAL held {largest} of {written} bytes");
    assert_eq!(bare.ask("PRAGMA integrity_check"), "ok");
}

#[test]
fn what_is_durable_is_what_was_applied() {
    let mut bare = Bare::with("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)");
    assert_eq!(bare.parts.checkpointer.make_durable().unwrap(), None);
    bare.apply(7, ROWS);
    let durable = bare.parts.checkpointer.make_durable().unwrap();
    assert_eq!(durable, Some(EntryId { term: 1, index: 7 }));
    // An open transaction of the writer is not part of it.
    bare.write("BEGIN IMMEDIATE; DELETE FROM t");
    bare.parts.writer.state.set_applied(EntryId { term: 1, index: 8 }).unwrap();
    let durable = bare.parts.checkpointer.make_durable().unwrap();
    assert_eq!(durable, Some(EntryId { term: 1, index: 7 }));
}

#[test]
fn images_are_equal_wherever_the_pages_stand_and_differ_where_the_data_does() {
    let (mut left, mut right) = (grown(3), grown(3));
    // The same seed and clock, so the same random bytes.
    let before = left.parts.checkpointer.image().unwrap();
    assert_eq!(before, right.parts.checkpointer.image().unwrap());
    assert_eq!(before.applied, Some(EntryId { term: 1, index: 3 }));
    left.parts.checkpointer.fold().unwrap();
    let folded = left.parts.checkpointer.image().unwrap();
    assert_eq!(folded, before);
    assert_eq!(folded.checksum(), before.checksum());
    right.apply(4, "UPDATE t SET data = x'00' WHERE id = 1");
    left.apply(4, "UPDATE t SET data = x'01' WHERE id = 1");
    let (left, right) =
        (left.parts.checkpointer.image().unwrap(), right.parts.checkpointer.image().unwrap());
    assert_ne!(left.checksum(), right.checksum());
    assert_eq!(left.differing_pages(&right).len(), 1, "{:?}", left.differing_pages(&right));
}

#[test]
fn free_pages_and_the_change_counter_do_not_count() {
    let (mut left, mut right) = (grown(2), grown(2));
    // One spills what the other never wrote, both end with the same free pages.
    left.write("UPDATE t SET data = zeroblob(1000)");
    left.write("DELETE FROM t");
    right.write("DELETE FROM t");
    let (left, right) =
        (left.parts.checkpointer.image().unwrap(), right.parts.checkpointer.image().unwrap());
    assert_eq!(left.differing_pages(&right), Vec::<usize>::new());
    assert!(left.pages.len() > 50);
}
