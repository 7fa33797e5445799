//! What who waits for a queued write is told when the queue ends.

use super::*;

#[path = "../../tests/http/harness/node.rs"]
mod node;

const OPTIONS: QueueOptions = QueueOptions {
    capacity: 8,
    batch_size: 1,
    timeout: Duration::from_millis(1),
    transaction: false,
};

fn statement(sql: &str) -> Vec<Statement> {
    vec![Statement::new(sql)]
}

/// How it ended for who waits, when the worker is ended in the midst of its work.
async fn ends(slot: NodeSlot, statements: [&str; 2]) -> [Failure; 2] {
    let (queue, worker) = Queue::new(OPTIONS, 0, slot, Arc::new(Metrics::default()));
    let metrics = Arc::clone(&worker.metrics);
    let working = tokio::spawn(worker.run());
    let mut tickets = Vec::new();
    for sql in statements {
        tickets.push(queue.put(statement(sql), 1, None).await.unwrap());
    }
    while metrics.queue_sent.get() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(100)).await;
    working.abort();
    let mut ends = Vec::new();
    for ticket in tickets {
        let end = ticket.done.await.expect("who waits is told");
        ends.push(end.expect_err("nothing has come of it"));
    }
    ends.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_when_the_worker_ended_is_unknown_and_the_rest_is_not_done() {
    let directory = tempfile::tempdir().unwrap();
    let node = node::open(directory.path(), 0).await;
    let write =
        Write { statements: statement("CREATE TABLE t(a)"), transaction: false, timeout: None };
    node.execute(write).await.unwrap();
    let slot = NodeSlot::new();
    assert!(slot.fill(node.clone()));
    let long = "INSERT INTO t WITH RECURSIVE c(n) AS \
                (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 20000000) SELECT max(n) FROM c";
    let [first, second] = ends(slot, [long, "INSERT INTO t VALUES(1)"]).await;
    assert!(matches!(first, Failure::Node(Error::OutcomeUnknown(_))), "{first}");
    assert_eq!(second, Failure::Node(Error::ShuttingDown));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_tried_in_vain_before_is_not_done() {
    let ends = ends(NodeSlot::new(), ["INSERT INTO t VALUES(1)"; 2]).await;
    assert_eq!(ends, [Error::ShuttingDown, Error::ShuttingDown].map(Failure::Node));
}
