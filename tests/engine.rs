//! A member whose database says that it belongs to another engine epoch: what its operator and its clients see of it.

use std::{process::Command, time::Duration};

use rq_tests::{
    Request,
    cluster::{Caller, Cluster, Fate, Forming},
};

use crate::{Suite, chinook::need_python};

/// How long a client waits for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// The suites of this file.
pub(crate) fn suites() -> Vec<Suite> {
    vec![Suite { name: "engine::another_epoch", need: need_python, run: another_epoch }]
}

/// Puts an epoch into a database that nobody has open.
const SET_EPOCH: &str = r#"
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("UPDATE sqlite_rq_state SET value = ? WHERE name = 'engine_epoch'", (int(sys.argv[2]),))
database.commit()
"#;

fn set_epoch(cluster: &Cluster, member: usize, epoch: &str) {
    let path = cluster.directory(member).join("db.sqlite");
    let output =
        Command::new("python3").args(["-c", SET_EPOCH]).arg(path).arg(epoch).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn another_epoch() {
    const SENTENCE: &str =
        "the database of this node belongs to engine epoch 7, this program computes epoch 1";
    let mut cluster = Cluster::builder(3).forming(Forming::Expect).errors_expected().start();
    let other = cluster.a_follower();
    cluster.node(other).execute(r#"["CREATE TABLE t(x)"]"#);
    cluster.wait_settled();
    cluster.stop(other);
    set_epoch(&cluster, other, "7");
    cluster.launch_again(other);
    let ready = cluster.wait("it does not follow", || {
        let answer =
            cluster.node(other).try_connect().ok()?.request(&Request::get("/readyz")).ok()?;
        answer.text().contains("[+]leader ok").then_some(answer)
    });
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains(&format!("store not ready: {SENTENCE}")), "{}", ready.text());
    let status = cluster.node(other).get("/status").json();
    let impairments = status["store"]["impairments"].to_string();
    assert!(impairments.contains("start the program version whose engine epoch is 7"), "{status}");
    assert!(cluster.node(other).log().contains(SENTENCE), "{}", cluster.node(other).log());

    cluster.node(other).execute(r#"["INSERT INTO t VALUES(1)"]"#);
    let query = r#"["SELECT count(*) FROM t"]"#;
    for level in ["weak", "linearizable", "strong"] {
        let answer = cluster.node(other).post(&format!("/db/query?level={level}"), query).json();
        assert_eq!(answer["results"][0]["values"][0][0], 1, "{level}: {answer}");
    }
    let refused = cluster.node(other).post("/db/query?level=none", query);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert!(refused.text().contains(SENTENCE), "{}", refused.text());
    assert_eq!(refused.header("x-rq-error"), Some("other_engine; outcome=not-done"));

    // It is needed for the majority now.
    let leader = cluster.wait_leader();
    let third = (0..3).find(|member| *member != other && *member != leader).unwrap();
    cluster.kill(third);
    let insert = Request::post("/db/execute", r#"["INSERT INTO t VALUES(2)"]"#);
    let mut client = Caller::new(vec![cluster.http_addr(leader).to_owned()], 0, ANSWER_TIME);
    let fate = client.call(&insert);
    assert!(matches!(fate, Fate::Done(_)), "{fate:?}");

    cluster.stop(other);
    set_epoch(&cluster, other, "1");
    cluster.launch_again(other);
    cluster.wait_ready(other);
    let rows = cluster.node(other).post("/db/query?level=linearizable", query).json();
    assert_eq!(rows["results"][0]["values"][0][0], 2, "{rows}");
}
