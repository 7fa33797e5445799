//! A receiver that dies, or whose disk fails, at any operation of a transfer and its install.

use std::sync::Arc;

use rq_storage::Execution;

use super::world::{Disk, Party, Wires, send};
use crate::{
    environment::Seeded,
    testing::{
        crash::scratch_directory,
        world::{Disks, Event},
    },
};

/// What becomes of the machine.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Kill,
    PowerCut,
}

fn disk(disks: &Disks) -> Disk {
    let environment = disks.environment(1);
    Disk { files: environment.files, database: environment.database_files }
}

/// Whether the transfer has more than `after` operations on the receiver's disk. Whatever happens there,
/// the receiver opens with its old database or the new one.
async fn survives(source: &Party, event: Event, fate: Fate, after: u64) -> bool {
    let mut disks = Disks::new();
    let target = Party::on(disk(&disks), Execution::Inline, scratch_directory());
    target.fill(20);
    target.apply(&["UPDATE t SET x = randomblob(2000)"]);
    target.durability.make_durable().await.unwrap();
    let (before, expected) = (target.image(), source.image());
    let operations = disks.world.operations();
    disks.world.arm(after, event);
    let sent = send(source, &Wires::to(&target)).await;
    let happened = disks.world.happened().is_some();
    let case = format!("{event:?} at {after} of {}", disks.world.operations() - operations);
    assert!(happened || sent.is_ok(), "{case}: {sent:?}");
    disks.stop();
    let directory = target.close();
    match fate {
        Fate::Kill => disks.restart_process(),
        Fate::PowerCut => disks.cut_power(&Seeded::new(after, 0)),
    }
    let root = directory.path().to_owned();
    let environment = disks.environment(2);
    let opened = rq_storage::DataDirectory::open(environment.files, &root, Some("name"));
    drop(opened.unwrap());
    let again = Party::on(disk(&disks), Execution::Inline, directory);
    assert_eq!(again.scratch(), Vec::<String>::new(), "{case}");
    let image = again.image();
    assert!(image == before || image == expected, "{case} {fate:?}: {:?}", image.applied);
    if sent.is_ok() {
        assert_eq!(image, expected, "{case} {fate:?}");
    }
    let end = send(source, &Wires::to(&again)).await;
    assert!(end.is_ok(), "{case} {fate:?}: {end:?}");
    assert_eq!(again.image(), expected, "{case} {fate:?}");
    drop(again.close());
    happened
}

#[tokio::test(start_paused = true)]
async fn a_receiver_may_die_or_fail_at_each_operation_of_a_transfer() {
    let source = Arc::new(Party::new());
    source.fill(40);
    for (event, fate) in [
        (Event::Stop, Fate::Kill),
        (Event::Stop, Fate::PowerCut),
        (Event::Torn(1000), Fate::PowerCut),
        (Event::Fail, Fate::PowerCut),
        (Event::Full(1), Fate::Kill),
    ] {
        let mut operations = 0;
        while survives(&source, event, fate, operations).await {
            operations += 1;
        }
        assert!((20..400).contains(&operations), "{event:?}: {operations} operations");
    }
}
