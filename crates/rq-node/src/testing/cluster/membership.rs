//! Changing a cluster: who may, where members are dialled, who is promoted, handed leadership and removed.

use std::{fs, sync::Arc};

use rq_security::{Credentials, Users};

use super::{
    Cluster, Duration, Error, Formation, Member, Node, Options, PATIENCE, Switchboard, TempDir,
    address, join, route, simulated_node, wait_ready,
};
use crate::{
    EffectKnown, Reap,
    membership::MayJoin,
    raft::change::RaftMember,
    service::message::{Answer, Ask, Newcomer},
    testing::simulated_runtime,
};

async fn wait_for(complaint: &str, mut holds: impl FnMut() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.unwrap_or_else(|_| panic!("{complaint}"));
}

impl Cluster {
    async fn leader_and_followers(&self) -> (&Member, Vec<&Member>) {
        let leader = self.leader().await;
        let followers = self.members.iter().filter(|member| member.name != leader.name);
        (leader, followers.collect())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_a_member_said_by_mistake_is_forgotten_when_it_is_back() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await.name.clone();
    let at = cluster.members.iter().position(|member| member.name != leader).unwrap();
    let Member { node, directory, name } = cluster.members.remove(at);
    let said = node.inner().newcomer().await.unwrap();
    let raft_id = said.raft_id;
    node.shutdown().await;
    drop(node);
    let mistyped = Newcomer { raft_addr: "mistyped:4002".to_owned(), ..said.clone() };
    let dialled = |member: &Member| member.node.inner().cluster.address(raft_id, &said.raft_addr);
    for member in &cluster.members {
        member.node.inner().notified(mistyped.clone()).await.unwrap();
        assert_eq!(dialled(member), "mistyped:4002");
    }
    // Without any flag for joining.
    let options = Cluster::node_options(&directory, &name);
    let node = Node::open(options, cluster.environment(&name)).await.unwrap();
    node.form(&Formation::Alone).await.unwrap();
    for member in &cluster.members {
        assert_eq!(dialled(member), said.raft_addr, "{}", member.name);
    }
    wait_ready(&node).await;
    // Or with them.
    let leader = cluster.leader().await;
    leader.node.inner().notified(mistyped).await.unwrap();
    leader.node.inner().join(said.clone(), MayJoin::Everybody).await.unwrap();
    assert_eq!(dialled(leader), said.raft_addr);
    node.shutdown().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_let_replicas_join_cannot_touch_a_voter() {
    let place = TempDir::new().unwrap();
    let file = place.path().join("users.json");
    let text = r#"[{"username": "all", "password": "p", "perms": ["all"]},
        {"username": "plain", "password": "p", "perms": ["join"]},
        {"username": "old", "password": "p", "perms": ["join-read-only"]},
        {"username": "new", "password": "p", "perms": ["join-read-replica"]}]"#;
    fs::write(&file, text).unwrap();
    let users = Arc::new(Users::open(file).unwrap());
    let credentials = |name: &str| Credentials::new(name, "p");
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        let node = cluster.open_with(name, |options| options.users = Arc::clone(&users)).await;
        let formation = match join(&["a"]) {
            Formation::Join { addresses, attempts, interval, .. } if name != "a" => {
                let credentials = credentials("all");
                Formation::Join { addresses, attempts, interval, credentials }
            }
            _ => Formation::Alone,
        };
        node.form(&formation).await.unwrap();
        wait_ready(&node).await;
    }
    let at = cluster.members.iter().position(|member| !member.node.is_leader()).unwrap();
    let voter = cluster.members.remove(at);
    let (leader, followers) = cluster.leader_and_followers().await;
    let client = &followers[0].node.inner().client;
    let ask = async |who: &str, newcomer: &Newcomer| {
        let ask = Ask::Join(newcomer.clone());
        client.ask(&address(&leader.name), ask, credentials(who), PATIENCE).await
    };
    let refused = Err(Error::Unauthorized("join".to_owned()));
    let own = voter.node.inner().newcomer().await.unwrap();
    let as_replica = Newcomer { replica: true, ..own.clone() };
    let moved = Newcomer { raft_addr: "elsewhere:4002".to_owned(), ..as_replica.clone() };
    for who in ["old", "new"] {
        for newcomer in [&own, &as_replica, &moved] {
            assert_eq!(ask(who, newcomer).await, refused, "{who}: {newcomer:?}");
        }
    }
    voter.node.shutdown().await;
    let empty = Newcomer { raft_id: 4242, cluster: None, ..moved };
    for who in ["old", "new"] {
        assert_eq!(ask(who, &empty).await, refused, "{who} would replace a voter");
        let replica = Newcomer { name: who.to_owned(), raft_id: who.len() as u64, ..empty.clone() };
        let replica = Newcomer { raft_addr: address(who), ..replica };
        let voter = Newcomer { replica: false, ..replica.clone() };
        assert_eq!(ask(who, &voter).await, refused, "{who} would add a voter");
        let replica = Newcomer { raft_id: if who == "old" { 4 } else { 5 }, ..replica };
        assert!(matches!(ask(who, &replica).await, Ok(Answer::Joined { .. })), "{who}");
    }
    let replica = Newcomer { name: "plain".to_owned(), raft_id: 6, ..empty.clone() };
    let replica = Newcomer { raft_addr: address("plain"), ..replica };
    let joined = ask("plain", &replica).await;
    assert!(matches!(joined, Ok(Answer::Joined { .. })), "who may add voters may add less");
    let renamed = Newcomer { name: "d".to_owned(), raft_addr: address("d"), ..own };
    assert!(
        matches!(ask("all", &renamed).await, Err(Error::Membership(_))),
        "one number, one name"
    );
    assert!(matches!(ask("all", &empty).await, Ok(Answer::Joined { .. })));
    let voters = leader.node.status().members.into_iter().filter(|member| member.voter);
    assert_eq!(voters.count(), 2);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_not_given_up_for_a_node_that_does_not_answer() {
    let cluster = Cluster::of_three().await;
    let (leader, followers) = cluster.leader_and_followers().await;
    let target = followers[0];
    let term = leader.node.status().raft.term;
    cluster.board.isolate(&address(&target.name), &cluster.addresses(), true);
    let handed = leader.node.step_down(Some(&target.name), &route()).await.unwrap_err();
    assert_eq!(handed.outcome(), EffectKnown::NotDone, "{handed}");
    assert!(handed.to_string().contains("does not answer"), "{handed}");
    assert!(leader.node.is_leader() && leader.node.status().raft.term == term, "nothing was done");
    cluster.board.isolate(&address(&target.name), &cluster.addresses(), false);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_that_was_given_up_is_never_called_not_done() {
    let cluster = Cluster::of_three().await;
    let (leader, followers) = cluster.leader_and_followers().await;
    // It answers, and nobody hears that it stands.
    let target = followers[0];
    let others = [leader, followers[1]];
    let pair = |other: &Member| (address(&target.name), address(&other.name));
    cluster.board.cut_lines(&others.map(pair));
    let handed = leader.node.step_down(Some(&target.name), &route()).await.unwrap_err();
    assert_eq!(handed.outcome(), EffectKnown::Unknown, "{handed}");
    assert!(!target.node.is_leader());
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_another_leader_finishes_is_not_called_not_done() {
    let cluster = Cluster::filled(&["a", "b", "c", "d"]).await;
    let (leader, followers) = cluster.leader_and_followers().await;
    let [heir, other, removed] = followers[..] else { panic!("four nodes") };
    let late = [other, removed];
    // The first of the two entries reaches the heir, which is no majority.
    for member in late {
        cluster.board.hold_entries(&address(&member.name), true);
        member.node.inner().consensus.set_may_stand(false);
    }
    let removing = {
        let (inner, name) = (leader.node.inner().clone(), removed.name.clone());
        tokio::spawn(async move { inner.remove_here(&name).await })
    };
    wait_for("it is begun", || heir.node.inner().consensus.is_between_voters()).await;
    cluster.board.isolate(&address(&leader.name), &cluster.addresses(), true);
    for member in late {
        cluster.board.hold_entries(&address(&member.name), false);
    }
    let voters = |member: &Member| {
        let members = member.node.status().members.into_iter();
        members.filter(|member| member.voter).count()
    };
    wait_for("another finishes it", || heir.node.is_leader() && voters(heir) == 3).await;
    cluster.board.isolate(&address(&leader.name), &cluster.addresses(), false);
    let answer = removing.await.unwrap().unwrap_err();
    assert_eq!(answer.outcome(), EffectKnown::Unknown, "{answer}");
    wait_for("it is done", || voters(leader) == 3).await;
    cluster.close().await;
}

#[test]
fn members_that_are_silent_for_too_long_are_removed_and_join_again() {
    simulated_runtime().block_on(async {
        let board = Switchboard::default();
        let adjust = |name: &str| {
            let replica = name.starts_with('r');
            move |options: &mut Options| {
                let (voters_after, replicas_after) =
                    (Duration::from_secs(40), Duration::from_secs(20));
                options.reap = Reap { voters_after, replicas_after };
                options.replica = replica;
            }
        };
        let names = ["a", "b", "c", "r"];
        let directories = names.map(|_| TempDir::new().unwrap());
        let mut nodes = Vec::new();
        for (name, directory) in names.into_iter().zip(&directories) {
            let node = simulated_node(&board, directory, name, adjust(name)).await;
            let formation = if name == "a" { Formation::Alone } else { join(&["a"]) };
            node.form(&formation).await.unwrap();
            wait_ready(&node).await;
            nodes.push(node);
        }
        let leads = |nodes: &[Node]| nodes.iter().find(|node| node.is_leader()).cloned();
        let leader = leads(&nodes).expect("the first one leads");
        let members = || -> Vec<_> {
            let members = leader.status().members.into_iter();
            members.map(|member| (member.id, member.voter)).collect()
        };
        let all = names.map(|name| (name.to_owned(), name != "r")).to_vec();
        assert_eq!(members(), all);
        for (lost, limit) in [(3, 20), (2, 40)] {
            let name = names[lost];
            nodes[lost].shutdown().await;
            nodes.remove(lost);
            let gone = tokio::time::Instant::now();
            wait_for("it is removed", || members().len() < all.len()).await;
            let took = gone.elapsed().as_secs();
            assert!((limit - 1..limit + 3).contains(&took), "{name} after {took} s");
            let others: Vec<_> = all.iter().filter(|(other, _)| other != name).cloned().collect();
            assert_eq!(members(), others, "and nobody else");
            let back = simulated_node(&board, &directories[lost], name, adjust(name)).await;
            back.form(&join(&["a", "b"])).await.unwrap();
            wait_ready(&back).await;
            wait_for("it is what it was", || members() == all).await;
            nodes.insert(lost, back);
        }
        drop(leader);
        for node in nodes {
            node.shutdown().await;
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_again_or_was_replaced_meanwhile_is_not_reaped() {
    reap_while_another_joins(Some(4242)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_and_has_joined_again_meanwhile_is_not_reaped() {
    reap_while_another_joins(None).await;
}

/// While a member is about to be reaped it is removed, and its name joins, with this number or its own.
async fn reap_while_another_joins(number: Option<u64>) {
    let after = Duration::from_secs(3600);
    let reap = Reap { voters_after: after, replicas_after: after };
    let mut cluster = Cluster::new();
    for (name, formation) in [("a", Formation::Alone), ("b", join(&["a"])), ("c", join(&["a"]))] {
        let node = cluster.open_with(name, |options| options.reap = reap).await;
        node.form(&formation).await.unwrap();
        wait_ready(&node).await;
    }
    let (leader, followers) = cluster.leader_and_followers().await;
    let (leader, lost) = (leader.node.inner().clone(), followers[0].name.clone());
    let seen: Vec<_> = leader.consensus.members().into_iter().map(|one| (one, after * 2)).collect();
    let ids = || -> Vec<_> { leader.consensus.members().iter().map(|one| one.raft_id).collect() };
    let before = ids();
    leader.reap(&seen).await;
    assert_eq!(ids(), before, "all of them answer");

    let at = cluster.members.iter().position(|member| member.name == lost).unwrap();
    cluster.members.remove(at).node.shutdown().await;
    // A change that comes first is under way while it is judged by what was seen before.
    let busy = leader.joins.lock().await;
    let reaping = {
        let (leader, seen) = (leader.clone(), seen.clone());
        tokio::spawn(async move { leader.reap(&seen).await })
    };
    let former = seen.iter().find(|(one, _)| one.peer.name == lost).unwrap().0.clone();
    let raft_id = number.unwrap_or(former.raft_id);
    let newcomer = RaftMember { raft_id, ..former.clone() };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    leader.consensus.remove(&former, deadline).await.unwrap();
    leader.consensus.add(newcomer.raft_id, newcomer.peer, deadline).await.unwrap();
    drop(busy);
    reaping.await.unwrap();
    let replaced = ids();
    assert!(replaced.contains(&raft_id) && replaced.len() == 3, "{replaced:?}");
    drop(leader);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namesake_of_another_cluster_is_not_taken_for_the_member() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await.node.clone();
    let at = cluster.members.iter().position(|member| member.name != leader.id()).unwrap();
    let gone = cluster.members.remove(at);
    gone.node.shutdown().await;
    cluster.start(&gone.name, &Formation::Alone).await;
    wait_ready(&cluster.members[2].node).await;
    let contacts = leader.contact_members(PATIENCE, 0).await.unwrap();
    for contact in contacts {
        match contact.reached {
            Err(reason) => {
                assert_eq!(contact.member.id, gone.name, "{reason}");
                assert!(reason.contains("answers as a node of cluster"), "{reason}");
            }
            Ok(_) => assert_ne!(contact.member.id, gone.name),
        }
    }
    cluster.close().await;
}
