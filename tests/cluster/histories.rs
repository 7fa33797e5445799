//! What clients saw at levels that promise something, while processes die and are stopped, can be
//! explained by one copy; `RQ_CLUSTER_SECONDS` for each. Harm to the network stands in `nemesis.rs`.

use std::{sync::atomic::AtomicBool, thread, time::Duration};

use rq_tests::cluster::{
    Accounts, Cluster, Done, EndsClients, Environment, Fault, Forming, Lists, Nemesis, Registers,
    Workload, assert_busy, run,
};

use super::{caller, number, seed};

/// What each client must get done, in whatever time and on whatever machine.
const LEAST: Done = Done { reads: 20, writes: 10 };

/// Clients of one workload.
const CLIENTS: usize = 5;

/// How long a client waits for an answer before the outcome counts as unknown.
const ANSWER_TIME: Duration = Duration::from_secs(5);

#[test]
fn linearizable() {
    histories("linearizable", 3, 1);
}

#[test]
fn strong() {
    histories("strong", 3, 1);
}

/// The leader's own reads are as good as any where nobody else can lead.
#[test]
fn weak_on_one_node() {
    histories("weak", 1, 0);
}

/// Clients of each node, while processes of voters are harmed.
fn histories(level: &'static str, voters: usize, replicas: usize) {
    let (_, seed) = seed();
    let seconds = number("RQ_CLUSTER_SECONDS", 10);
    let mut cluster = Cluster::builder(voters)
        .replicas(replicas)
        .forming(if voters > 1 { Forming::Expect } else { Forming::Join })
        .flags(["-raft-snap=200", "-raft-snap-int=100ms"])
        .errors_expected()
        .start();
    let workloads: [Box<dyn Workload>; 3] = [
        Box::new(Registers::new(level, 6)),
        Box::new(Lists::new(level, 6)),
        Box::new(Accounts::new(level, 5)),
    ];
    for workload in &workloads {
        workload.prepare(&mut caller(&cluster, 0));
    }
    let ended = AtomicBool::new(false);
    let addresses = cluster.http_addrs();
    thread::scope(|scope| {
        let ending = EndsClients(&ended);
        for workload in &workloads {
            let (addresses, ended) = (&addresses, &ended);
            scope.spawn(move || run(&**workload, addresses, CLIENTS, ANSWER_TIME, seed, ended));
        }
        let done = Nemesis::new(seed, voters)
            .only(&[Fault::Pause, Fault::Kill, Fault::KillAll, Fault::Restart])
            .run(&mut cluster, &Environment::default(), Duration::from_secs(seconds));
        println!("{} harms", done.len());
        thread::sleep(Duration::from_secs(1));
        drop(ending);
    });
    cluster.wait_all_ready();
    for (place, workload) in workloads.iter().enumerate() {
        workload.read_all(&mut caller(&cluster, place));
        println!("{}", workload.summary());
    }
    for workload in &workloads {
        assert_busy(&**workload, CLIENTS, LEAST);
        workload.verdict().assert_linearizable(&workload.summary());
    }
    cluster.assert_equal_images();
}
