//! Calls between two honest networks: answers, order, lanes, ends.

use futures_util::future::join_all;
use tokio::time::timeout;

use super::*;

#[tokio::test]
async fn calls_on_every_lane_are_answered() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    for lane in Lane::ALL {
        for size in [0, 1, 20_000, 300_000] {
            let request = Bytes::from(vec![b'x'; size]);
            let answer =
                client.call(call(server.local_addr(), lane, request.clone(), LONG)).await.unwrap();
            assert_eq!(answer, request);
        }
    }
    assert_eq!(recorder.seen(), 16);
    let counters = (client.counters(), server.counters());
    assert_eq!(counters.0["mux"]["num_dials"], 4, "one connection for each lane");
    assert_eq!(counters.1["mux"]["num_connections_handled"], 4);
    assert_eq!(counters.1["mux"]["bulk_requests"], 4);
    assert!(counters.0["mux"]["bulk_bytes_sent"] > 320_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_are_begun_in_the_order_of_the_calls_and_answered_in_any() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let request = |number: usize| {
        let word = if usize::is_multiple_of(number, 3) { "wait" } else { "go" };
        // Small and large ones take different paths.
        let padding = " ".repeat(number % 7 * 10_000);
        Bytes::from(format!("{word} {number}{padding}"))
    };
    let make = |number| client.call(call(server.local_addr(), Lane::Append, request(number), LONG));
    let mut calls: Vec<_> = (0..200).map(make).collect();
    // Whoever waits first has no influence.
    calls.reverse();
    let answers = tokio::spawn(join_all(calls));
    eventually("all are seen", || recorder.seen() == 200).await;
    assert!(!answers.is_finished());
    recorder.gate.add_permits(200);
    for (number, answer) in (0..200).rev().zip(answers.await.unwrap()) {
        assert_eq!(answer, Ok(request(number)));
    }
    let seen = recorder.seen.lock().unwrap();
    let expected: Vec<_> = (0..200).map(|number| (Lane::Append, request(number))).collect();
    assert_eq!(*seen, expected);
}

#[tokio::test]
async fn before_there_is_an_answerer_calls_are_not_sent() {
    let (server, client) =
        (network(TcpOptions::default()).await, network(TcpOptions::default()).await);
    let make = || client.call(call(server.local_addr(), Lane::Control, "x", LONG));
    assert!(not_sent(&make().await));
    let recorder = Recorder::new();
    server.listen(Some(Arc::new(Recording(Arc::clone(&recorder)))));
    assert_eq!(make().await, Ok(Bytes::from("x")));
    server.listen(None);
    assert!(not_sent(&make().await));
    assert_eq!(recorder.seen(), 1);
    assert_eq!(client.counters()["mux"]["num_dials"], 1, "the connection is kept");
}

#[tokio::test]
async fn refused_addresses_cost_little_and_nothing_is_sent() {
    let client = network(TcpOptions::default()).await;
    let to = nowhere().await;
    let outcome = timeout(LONG, client.call(call(&to, Lane::Service, "x", LONG * 10))).await;
    assert!(not_sent(&outcome.unwrap()));
    for to in ["", "nohost", "host:", "127.0.0.1:99999", "[::1]"] {
        assert!(not_sent(&client.call(call(to, Lane::Service, "x", LONG)).await), "{to:?}");
    }
}

#[tokio::test]
async fn a_request_too_long_for_its_lane_is_not_sent_and_such_an_answer_not_received() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let long = vec![0; Lane::Control.request_bytes_max() + 1];
    let outcome = client.call(call(server.local_addr(), Lane::Control, long, LONG)).await;
    assert!(not_sent(&outcome));
    assert_eq!(recorder.seen(), 0);
    let longest = vec![0; Lane::Control.request_bytes_max()];
    let outcome =
        client.call(call(server.local_addr(), Lane::Control, longest.clone(), LONG)).await;
    assert_eq!(outcome, Ok(Bytes::from(longest)));
    let outcome = client.call(call(server.local_addr(), Lane::Control, "huge", LONG)).await;
    assert!(unanswered(&outcome), "it was carried out: {outcome:?}");
}

#[tokio::test]
async fn a_call_without_an_answer_costs_its_timeout_and_no_other_call_anything() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let to = server.local_addr();
    let slow = client.call(call(to, Lane::Service, "never", Duration::from_millis(300)));
    let quick = client.call(call(to, Lane::Service, "quick", LONG));
    assert_eq!(quick.await, Ok(Bytes::from("quick")));
    assert!(unanswered(&slow.await));
    assert_eq!(recorder.seen(), 2);
    assert_eq!(client.counters()["cluster"]["num_client_read_timeouts"], 1);
}

#[tokio::test]
async fn after_close_nothing_is_served_or_sent_and_the_port_is_free() {
    let (server, _recorder) = node(TcpOptions::default()).await;
    let (client, _) = node(TcpOptions::default()).await;
    let to = server.local_addr();
    let running = tokio::spawn(client.call(call(to, Lane::Service, "close", LONG)));
    let stuck = tokio::spawn(client.call(call(to, Lane::Bulk, "never", LONG)));
    eventually("both run", || server.counters()["mux"]["num_connections_handled"] == 2).await;
    sleep(Duration::from_millis(50)).await;
    server.close(Duration::from_secs(2)).await;
    assert_eq!(running.await.unwrap(), Ok(Bytes::from("close")), "it had the time to end");
    assert!(unanswered(&stuck.await.unwrap()));
    assert!(not_sent(&client.call(call(to, Lane::Service, "x", LONG)).await));
    let again = TcpListener::bind(to).await;
    assert!(again.is_ok(), "{again:?}");
    let outcome = server.call(call(client.local_addr(), Lane::Service, "x", LONG)).await;
    assert!(not_sent(&outcome));
    server.close(LONG).await;
}
