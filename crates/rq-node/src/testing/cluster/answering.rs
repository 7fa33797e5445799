//! What a node answers other nodes: to whom, for how long, and what it is worth.

use bytes::Bytes;
use prost::Message as _;
use rq_sql::{ErrorKind, Outcome};

use super::*;
use crate::{
    EffectKnown, Write,
    internode::Lane,
    read::Collected,
    service::{
        RAFT, SERVICE,
        message::{Answer, Ask, Request},
    },
};

/// An address nobody has.
const NOWHERE: &str = "nowhere:4002";

impl Cluster {
    async fn of_three_and_a_replica() -> Self {
        let mut cluster = Self::of_three().await;
        let directory = TempDir::new().unwrap();
        let options = Options { replica: true, ..Self::node_options(&directory, "r") };
        let node = Node::open(options, cluster.environment("r")).await.unwrap();
        node.form(&join(&["a"])).await.unwrap();
        wait_ready(&node).await;
        cluster.members.push(Member { node, directory, name: "r".to_owned() });
        cluster
    }

    /// Gives bytes to a node as another node's call, and waits for its answer however long that takes.
    async fn given(&self, to: &Member, request: Bytes) -> Bytes {
        let answerer = self.board.answerer(&address(&to.name)).expect("it answers");
        let answer = answerer.answer(Lane::Service, request);
        tokio::time::timeout(PATIENCE, answer).await.expect("it answers in time")
    }

    async fn asked(&self, to: &Member, ask: Ask, time_left: Option<Duration>) -> Answer {
        let cluster = to.node.inner().cluster.id();
        let request = Request { cluster, credentials: None, time_left, ask };
        Answer::decode(self.given(to, request.encode()).await).unwrap()
    }
}

async fn fresh(node: &Node, freshness: Duration) -> Result<(), Error> {
    let read = Read {
        statements: vec![rq_sql::Statement::new("SELECT 1")],
        level: Level::None,
        freshness: Some(freshness),
        ..Read::default()
    };
    node.query_routed(read, Collected::default(), &route()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_its_quorum_is_no_contact_for_a_replica_that_still_hears_it() {
    let cluster = Cluster::of_three_and_a_replica().await;
    let leader = cluster.leader().await;
    let replica = &cluster.members[3].node;
    assert_eq!(fresh(replica, Duration::from_secs(1)).await, Ok(()));
    assert!(replica.leader().is_some() && replica.is_ready());
    let voters = cluster.members[..3].iter();
    for follower in voters.filter(|member| member.name != leader.name) {
        cluster.board.isolate(&address(&follower.name), &cluster.addresses(), true);
    }
    let lost = async {
        while fresh(replica, Duration::from_secs(1)).await.is_ok()
            || replica.leader().is_some()
            || replica.is_ready()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lost).await.expect("the leader counts as gone");
    assert_eq!(fresh(replica, Duration::from_secs(1)).await, Err(Error::StaleRead));
    assert_eq!(insert(replica, 1).await.err(), Some(Error::LeaderNotFound));
    for member in &cluster.members {
        cluster.board.isolate(&address(&member.name), &cluster.addresses(), false);
    }
    // Whoever waits is told when the leader is heard again.
    let found = async {
        while fresh(replica, Duration::from_secs(1)).await.is_err() || !replica.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("the leader is found again");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_for_another_node_ends_with_the_time_its_client_has() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    leader.node.execute(write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"])).await.unwrap();
    let soon = Some(Duration::from_millis(100));
    let endless = Read {
        statements: vec![rq_sql::Statement::new(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c",
        )],
        ..Read::default()
    };
    let answer = cluster.asked(leader, Ask::Query(endless.clone()), soon).await;
    assert_eq!(answer, Answer::Failed(Error::DeadlineExceeded));
    match cluster.asked(leader, Ask::Unified(endless), soon).await {
        Answer::Results { results, .. } => {
            let [crate::TimedOutcome { outcome: Outcome::Error(error), .. }] = &results[..] else {
                panic!("{results:?}")
            };
            assert_eq!(error.kind, ErrorKind::Timeout);
        }
        // Which of the two limits is noticed first is chance.
        Answer::Failed(error) => assert_eq!(error.outcome(), EffectKnown::Unknown),
        other => panic!("{other:?}"),
    }
    cluster.board.isolate(&address(&leader.name), &cluster.addresses(), true);
    let statements = vec![rq_sql::Statement::new("INSERT INTO t VALUES (1)")];
    let insert = Write { statements, transaction: false, timeout: None };
    let Answer::Failed(error) = cluster.asked(leader, Ask::Execute(insert), soon).await else {
        panic!("without a majority nothing is acknowledged")
    };
    assert_eq!(error.outcome(), EffectKnown::Unknown, "it was proposed: {error}");
    assert!(error.to_string().contains("time its client gave it"), "{error}");
    cluster.close().await;
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stranger {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(bytes = "vec", tag = "4")]
    append: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    execute: Vec<u8>,
}

fn tagged(kind: u8, message: &Stranger) -> Bytes {
    let mut bytes = vec![kind];
    message.encode_raw(&mut bytes);
    bytes.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_ask_is_refused_before_it_is_read_what_is_asked() {
    let mut cluster = Cluster::new();
    cluster.start("a", &Formation::Alone).await;
    let node = &cluster.members[0];
    wait_ready(&node.node).await;
    let id = node.node.inner().cluster.id().expect("it is a cluster");
    let execute = |cluster: &str| {
        let cluster = cluster.to_owned();
        tagged(SERVICE, &Stranger { cluster, append: vec![], execute: b"\xff\xff".to_vec() })
    };
    let refused = Answer::decode(cluster.given(node, execute("another")).await).unwrap();
    assert!(matches!(refused, Answer::Failed(Error::Membership(_))), "{refused:?}");
    let senseless = Answer::decode(cluster.given(node, execute(&id)).await).unwrap();
    assert!(matches!(senseless, Answer::Failed(Error::Request(_))), "{senseless:?}");
    let append = Stranger { cluster: id, append: b"\xff\xff".to_vec(), execute: vec![] };
    let refused = cluster.given(node, tagged(RAFT, &append)).await;
    let text = String::from_utf8_lossy(&refused);
    assert!(text.contains("it is meant for member"), "{text}");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_other_nodes_ask_is_counted_by_kind() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let follower = cluster.members.iter().find(|member| !member.node.is_leader()).unwrap();
    let counted = |key: &'static str| leader.node.counters()["cluster"][key];
    let keys = ["num_execute_req", "num_query_req", "num_read_index_req", "num_get_node_api_req"];
    let before = keys.map(counted);
    let create = write(&["CREATE TABLE t (n INTEGER PRIMARY KEY)"]);
    follower.node.execute_routed(create, &route()).await.unwrap();
    insert(&follower.node, 1).await.unwrap();
    count(&follower.node, Level::Weak).await.unwrap();
    count(&follower.node, Level::Linearizable).await.unwrap();
    let client = &follower.node.inner().client;
    client.metadata(&address(&leader.name), PATIENCE).await.unwrap();
    let after = keys.map(counted);
    let more: Vec<i64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(more, [2, 1, 1, 1]);
    assert_eq!(counted("num_join_req"), if leader.name == "a" { 2 } else { 0 });
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_names_the_address_once() {
    let mut cluster = Cluster::new();
    cluster.start("a", &Formation::Alone).await;
    let client = &cluster.members[0].node.inner().client;
    let failed = client.metadata(NOWHERE, PATIENCE).await.unwrap_err();
    assert_eq!(failed, Error::Unreachable(format!("{NOWHERE}: connection refused")));
    cluster.close().await;
}
