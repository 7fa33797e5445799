//! All members hold the same image at the same index, whatever clients sent, and whatever befell
//! the members meanwhile.

use std::{fs, thread, time::Duration};

use rq_tests::{
    Node, Random, Request,
    cluster::{Caller, Cluster, Fate, Forming, Image},
};

use super::{caller, corpus, number, seed};

/// Requests in one run.
const REQUESTS: u64 = 400;

/// A member is harmed about once in so many requests.
const HARM_ONE_IN: u64 = 40;

#[test]
fn an_image_is_what_was_committed() {
    let mut node = Node::start();
    node.execute(r#"["CREATE TABLE t(x)", "INSERT INTO t VALUES(1)"]"#);
    let path = node.directory().join("db.sqlite");
    node.kill();
    let first = Image::read(&path).unwrap();
    assert!(first.pages() > 1);
    node.restart();
    // A clean end folds the log back; that is no change.
    assert_eq!(node.stop(), 0);
    let folded = Image::read(&path).unwrap();
    node.restart();
    node.execute(r#"["INSERT INTO t VALUES(2)"]"#);
    node.kill();
    let third = Image::read(&path).unwrap();
    // The engine notes the index of the entry with which the node took office again, on one page.
    assert!(first.differing_pages(&folded).len() <= 1, "{:?}", first.differing_pages(&folded));
    assert_eq!(first.pages(), folded.pages());
    assert!(folded.differing_pages(&third).len() >= 2, "an insert is not seen");
}

#[test]
fn hostile_requests_leave_equal_images() {
    let (_, seed) = seed();
    for run in 0..number("RQ_CLUSTER_RUNS", 1) {
        println!("run {run}: RQ_CLUSTER_SEED={}", seed + run);
        hostile_run(&mut Random::new(seed + run));
    }
}

fn hostile_run(random: &mut Random) {
    // Small thresholds, so that whoever was away needs a snapshot.
    let mut cluster = Cluster::builder(3)
        .forming(Forming::Expect)
        .flags(["-raft-snap=30", "-raft-snap-int=50ms", "-raft-snap-wal-size=65536"])
        .start();
    let mut client = caller(&cluster, 0);
    for statement in corpus::SCHEMA {
        send(&mut client, &corpus::single(statement));
    }
    let mut away: Option<usize> = None;
    for request in 0..REQUESTS {
        send(&mut client, &corpus::request(random));
        if random.below(HARM_ONE_IN) == 0 {
            away = harm(&mut cluster, random, away);
        }
        if request % 100 == 99 {
            println!("after {} requests: {:?}", request + 1, cluster.status(0));
        }
    }
    if let Some(member) = away {
        cluster.launch_again(member);
    }
    cluster.wait_all_ready();
    cluster.assert_equal_images();
    // What was installed or replayed must also be what the next entries are applied to.
    (0..3).for_each(|member| cluster.launch_again(member));
    cluster.wait_all_ready();
    let mut client = caller(&cluster, 1);
    for _ in 0..20 {
        send(&mut client, &corpus::request(random));
    }
    cluster.assert_equal_images();
}

/// Sends a request until a node takes it; what it makes of it is another matter.
fn send(client: &mut Caller, request: &Request) {
    for _ in 0..2000 {
        match client.call(request) {
            // Errors of statements are results like others.
            Fate::NotDone(text) if text.starts_with("200 ") && !text.contains("leader") => return,
            Fate::NotDone(text) if text.starts_with("400 ") => return,
            Fate::Done(_) | Fate::Unknown(_) => return,
            Fate::NotDone(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
    panic!("no node takes a request");
}

/// Lets one member be away for a while, or brings it back, perhaps empty; or lets one end and start
/// again at once. A majority is always there.
fn harm(cluster: &mut Cluster, random: &mut Random, away: Option<usize>) -> Option<usize> {
    if let Some(member) = away {
        if random.below(2) == 0 {
            println!("{} comes back empty", Cluster::id(member));
            fs::remove_dir_all(cluster.directory(member)).unwrap();
        } else {
            println!("{} comes back", Cluster::id(member));
        }
        cluster.launch_again(member);
        cluster.wait_ready(member);
        return None;
    }
    let member = random.index(3);
    if random.below(3) == 0 {
        println!("{} is restarted", Cluster::id(member));
        cluster.stop(member);
        cluster.launch_again(member);
        cluster.wait_ready(member);
        return None;
    }
    println!("{} is killed", Cluster::id(member));
    cluster.kill(member);
    Some(member)
}
