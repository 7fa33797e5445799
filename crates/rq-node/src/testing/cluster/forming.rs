//! Coming to a cluster: who founds it with whom, who is refused, and what a node belongs to from when on.

use super::{
    Cluster, Duration, Error, Formation, Node, Options, PATIENCE, Switchboard, TempDir, address,
    simulated_node, wait_ready,
};
use crate::{
    raft::{Peer, answer::admit, wire::Header},
    service::message::Newcomer,
    testing::simulated_runtime,
};

/// A cluster that somebody else founds.
const THEIRS: &str = "feedfacefeedface";

fn newcomer(name: &str, raft_id: u64) -> Newcomer {
    Newcomer {
        name: name.to_owned(),
        raft_id,
        raft_addr: address(name),
        api_url: format!("http://{name}:4001"),
        replica: false,
        epoch: rq_sqlite::ENGINE_EPOCH,
        format: crate::command::FORMAT.into(),
        cluster: None,
        process: None,
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Membership(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn together(names: &[&str], expect: usize) -> Formation {
    let addresses = names.iter().map(|name| address(name)).collect();
    Formation::Together { addresses, expect, timeout: PATIENCE, credentials: None }
}

/// A node that would found a cluster of three, and is called b.
async fn founder(cluster: &mut Cluster) -> Node {
    let node = cluster.open_with("b", |_| ()).await;
    node.inner().founding.expect(3);
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_alone_does_not_take_the_id_of_a_cluster_it_was_to_found_with_others() {
    let mut cluster = Cluster::new();
    let node = founder(&mut cluster).await;
    let meant = ("b", node.inner().raft_id);
    node.inner().agree_to_found(newcomer("a", 77), THEIRS, meant).await.unwrap();
    assert!(node.inner().cluster.is(THEIRS));
    node.form(&Formation::Alone).await.unwrap();
    wait_ready(&node).await;
    assert!(node.inner().cluster.id().is_some_and(|own| own != THEIRS));
    drop(node);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_raft_was_asked_for_one_cluster_is_not_taken_into_another() {
    let mut cluster = Cluster::new();
    let node = founder(&mut cluster).await;
    let (inner, raft_id) = (node.inner(), node.inner().raft_id);
    let agree = |id: &'static str| inner.agree_to_found(newcomer("a", 77), id, ("b", raft_id));
    agree("another").await.unwrap();
    agree(THEIRS).await.unwrap();
    // A vote comes in, and is not stored yet: Raft still says that it has no past.
    let header = Header {
        cluster: THEIRS.to_owned(),
        to: raft_id,
        from: 77,
        leads: false,
        acknowledged: None,
    };
    admit(&inner.cluster, &header).unwrap();
    assert_eq!(inner.consensus.is_initialized().await, Ok(false));
    for refused in [agree("another").await, agree("a third").await] {
        assert!(refusal(refused).contains(THEIRS));
    }
    assert!(inner.cluster.settle("another", true).is_err());
    agree(THEIRS).await.unwrap();
    let other = Header { cluster: "another".to_owned(), ..header };
    assert!(admit(&inner.cluster, &other).is_err());
    drop(node);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founding_is_agreed_to_by_whom_it_was_meant_for() {
    let mut cluster = Cluster::new();
    let node = founder(&mut cluster).await;
    let (inner, raft_id) = (node.inner(), node.inner().raft_id);
    for (name, id) in [("b", 4711), ("c", raft_id), ("", raft_id), ("b", 0)] {
        let refused = inner.agree_to_found(newcomer("a", 77), THEIRS, (name, id)).await;
        assert!(refusal(refused).contains("it is meant for node"), "{name} {id}");
    }
    for (name, at) in [("b", "elsewhere"), ("a", "b")] {
        let other = || Newcomer { raft_addr: address(at), ..newcomer(name, 77) };
        let refused = inner.agree_to_found(other(), THEIRS, ("b", raft_id)).await;
        assert!(refusal(refused).contains("node b is at b:4002 already"), "{name}");
        let refused = inner.notified(other()).await;
        assert!(refusal(refused).contains("node b is at b:4002 already"), "{name}");
    }
    assert_eq!(inner.cluster.id(), None);
    drop(node);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_run_another_engine_or_cannot_read_the_log_are_refused_everywhere() {
    let mut cluster = Cluster::new();
    let founding = founder(&mut cluster).await;
    cluster.start("a", &Formation::Alone).await;
    let leader = cluster.members[1].node.clone();
    wait_ready(&leader).await;
    let long = "n".repeat(5000);
    let right = newcomer("x", 77);
    let wrong = [
        (Newcomer { epoch: right.epoch + 1, ..right.clone() }, "runs engine epoch"),
        (Newcomer { epoch: right.epoch - 1, ..right.clone() }, "runs engine epoch"),
        (Newcomer { format: 0, ..right.clone() }, "understands log entries up to format 0"),
        (newcomer("", 77), "needs an id, a number and an address"),
        (newcomer("x", 0), "needs an id, a number and an address"),
        (Newcomer { raft_addr: String::new(), ..right.clone() }, "needs an id"),
        (newcomer(&long, 77), "at most 1024 bytes"),
        (Newcomer { raft_addr: long.clone(), ..right.clone() }, "at most 1024 bytes"),
        (Newcomer { api_url: long, ..right.clone() }, "at most 4096 bytes"),
    ];
    for (wrong, sentence) in wrong {
        let meant = ("b", founding.inner().raft_id);
        for refused in [
            leader
                .inner()
                .join(wrong.clone(), crate::membership::MayJoin::Everybody)
                .await
                .map(drop),
            founding.inner().notified(wrong.clone()).await.map(drop),
            founding.inner().agree_to_found(wrong.clone(), THEIRS, meant).await,
        ] {
            let reason = refusal(refused);
            assert!(reason.contains(sentence), "{sentence}: {reason}");
        }
    }
    assert_eq!(founding.inner().cluster.id(), None);
    assert_eq!(leader.status().members.len(), 1);
    founding.inner().notified(right).await.unwrap();
    drop((founding, leader));
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_resolved_here_is_refused() {
    let mut cluster = Cluster::new();
    cluster.start("a", &Formation::Alone).await;
    let leader = cluster.members[0].node.clone();
    wait_ready(&leader).await;
    let lost = Newcomer { raft_addr: "nosuch.invalid:4002".to_owned(), ..newcomer("x", 77) };
    let may = crate::membership::MayJoin::Everybody;
    let refused = refusal(leader.inner().join(lost, may).await);
    assert_eq!(refused, "failed to resolve nosuch.invalid: nobody has this name");
    assert_eq!(leader.status().members.len(), 1);
    drop(leader);
    cluster.close().await;
}

/// How long it takes these nodes, in simulated time, to found a cluster of three.
async fn founding_time(board: &Switchboard, names: &[&str], formation: &Formation) -> Duration {
    let directories: Vec<_> = names.iter().map(|_| TempDir::new().unwrap()).collect();
    let mut nodes = Vec::new();
    for (name, directory) in names.iter().zip(&directories) {
        nodes.push(simulated_node(board, directory, name, |_| ()).await);
    }
    let began = tokio::time::Instant::now();
    let forming = nodes.iter().map(|node| node.form(formation));
    for formed in futures_util::future::join_all(forming).await {
        formed.unwrap();
    }
    for node in &nodes {
        wait_ready(node).await;
    }
    let took = began.elapsed();
    assert!(nodes.iter().all(|node| node.status().members.len() == 3));
    for node in nodes {
        node.shutdown().await;
    }
    took
}

#[test]
fn addresses_where_nobody_answers_cost_their_time_once() {
    simulated_runtime().block_on(async {
        let board = Switchboard::default();
        let silent = ["p", "q", "r", "s"];
        let names = ["x", "y", "z"];
        for silent in silent {
            board.isolate(&address(silent), &names.map(address), true);
        }
        let all: Vec<_> = silent.into_iter().chain(names).collect();
        let took = founding_time(&board, &names, &together(&all, 3)).await;
        assert!(took < Duration::from_secs(10), "{took:?}");
    });
}

#[test]
fn a_founder_that_is_gone_is_not_waited_for() {
    simulated_runtime().block_on(async {
        let board = Switchboard::default();
        let formation = together(&["a", "b", "c", "d"], 3);
        let directory = TempDir::new().unwrap();
        let first = simulated_node(&board, &directory, "a", |_| ()).await;
        // It announces itself to a node that then waits for a third one, and is gone.
        let later = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            first.shutdown().await;
        };
        let gone = futures_util::future::select(Box::pin(later), Box::pin(first.form(&formation)));
        let founding = async {
            let second = TempDir::new().unwrap();
            let node = simulated_node(&board, &second, "b", |_| ()).await;
            let others = async {
                tokio::time::sleep(Duration::from_secs(4)).await;
                founding_time(&board, &["c", "d"], &formation).await
            };
            let (formed, took) = tokio::join!(node.form(&formation), others);
            formed.unwrap();
            node.shutdown().await;
            took
        };
        let (_, took) = tokio::join!(gone, founding);
        assert!(took < Duration::from_secs(30), "{took:?}");
    });
}

#[test]
fn a_question_of_an_earlier_round_takes_nobody_out_of_the_cluster_that_was_founded() {
    simulated_runtime().block_on(async {
        let board = Switchboard::default();
        let directories = [(); 2].map(|()| TempDir::new().unwrap());
        let x = simulated_node(&board, &directories[0], "x", |_| ()).await;
        let y = simulated_node(&board, &directories[1], "y", |_| ()).await;
        for node in [&x, &y] {
            node.inner().founding.expect(2);
        }
        let founder = x.inner().newcomer().await.unwrap();
        let round = async || {
            assert!(x.inner().hear_of_itself(founder.clone()));
            x.inner().hear(y.inner().newcomer().await.unwrap()).unwrap();
            x.inner().found_if_all_are_here(None).await
        };
        // The question is on its way for longer than it is waited for.
        board.isolate(&address("y"), &[address("x")], true);
        assert!(round().await.is_err());
        let late = x.inner().cluster.id().expect("the founder agrees first");
        board.isolate(&address("y"), &[address("x")], false);
        round().await.unwrap();
        // Until Raft is heard for the first time.
        let meant = ("y", y.inner().raft_id);
        drop(y.inner().agree_to_found(founder, &late, meant).await);
        for node in [&x, &y] {
            wait_ready(node).await;
            assert_eq!(node.inner().cluster.id().as_ref(), Some(&late));
            node.shutdown().await;
        }
    });
}

#[test]
fn a_node_that_only_joins_is_no_founder() {
    simulated_runtime().block_on(async {
        let board = Switchboard::default();
        let expecting = together(&["a", "b"], 2);
        let joining = super::join(&["a", "b"]);
        let replica = TempDir::new().unwrap();
        let directories = [(); 3].map(|()| TempDir::new().unwrap());
        let mut nodes = Vec::new();
        // The first by its name, and another that never votes.
        for (name, directory) in ["0", "a", "b"].into_iter().zip(&directories) {
            nodes.push(simulated_node(&board, directory, name, |_| ()).await);
        }
        let never_votes = |options: &mut Options| options.replica = true;
        nodes.push(simulated_node(&board, &replica, "00", never_votes).await);
        let forming = nodes.iter().zip([&joining, &expecting, &expecting, &expecting]);
        let forming = forming.map(|(node, formation)| node.form(formation));
        for formed in futures_util::future::join_all(forming).await {
            formed.unwrap();
        }
        for node in &nodes {
            wait_ready(node).await;
        }
        let members = nodes[1].status().members;
        let voters = members.iter().filter(|member| member.voter).count();
        assert_eq!((members.len(), voters), (4, 3), "{members:?}");
        for node in nodes {
            node.shutdown().await;
        }
    });
}

#[test]
fn a_member_that_is_dialled_where_it_is_not_says_so_until_it_is_found() {
    simulated_runtime().block_on(async {
        let board = Switchboard::default();
        let names = ["a", "b", "c"];
        let directories = names.map(|_| TempDir::new().unwrap());
        let mut nodes = Vec::new();
        for (name, directory) in names.into_iter().zip(&directories) {
            let node = simulated_node(&board, directory, name, |_| {}).await;
            let formation = if name == "a" { Formation::Alone } else { together(&names, 3) };
            node.form(&formation).await.unwrap();
            wait_ready(&node).await;
            nodes.push(node);
        }
        let lost = nodes[2].clone();
        let stored = |node: &Node| -> Vec<_> {
            let members = node.status().members.into_iter();
            members.filter(|member| member.id == "c").map(|c| (c.raft_addr, c.api_url)).collect()
        };
        let right = vec![(address("c"), "http://c:4001".to_owned())];
        for (raft_addr, api_url) in
            [("elsewhere:4002", "http://c:4001"), ("c:4002", "http://elsewhere:4001")]
        {
            let leader = nodes.iter().find(|node| node.is_leader()).expect("somebody leads");
            let peer = Peer {
                raft_addr: raft_addr.to_owned(),
                api_url: api_url.to_owned(),
                ..lost.inner().own_peer()
            };
            let deadline = tokio::time::Instant::now() + PATIENCE;
            let id = lost.inner().raft_id;
            leader.inner().consensus.readdress(id, peer, deadline).await.unwrap();
            // Whoever leads next knows no more than what is stored.
            leader.step_down(None, &super::route()).await.unwrap();
            let found = async {
                while nodes.iter().any(|node| stored(node) != right || !node.is_ready()) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, found).await.expect("it is found");
        }
        drop(lost);
        for node in nodes {
            node.shutdown().await;
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_removed_while_it_was_away_does_not_come_back_by_itself() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let gone = cluster.members.iter().find(|member| !member.node.is_leader()).unwrap();
    cluster.board.isolate(&address(&gone.name), &cluster.addresses(), true);
    leader.node.remove(&gone.name, &super::route()).await.unwrap();
    cluster.board.isolate(&address(&gone.name), &cluster.addresses(), false);
    // Longer than the time between two looks.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(leader.node.status().members.len(), 2);
    assert!(gone.node.leader().is_none());
    cluster.close().await;
}
