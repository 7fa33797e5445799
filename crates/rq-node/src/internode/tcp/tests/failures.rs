//! What is said about calls when the way to the other node fails, and that it is true.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::{FutureExt as _, future::join_all};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, timeout},
};

use super::*;
use crate::internode::tcp::{dial::Resolve, hello};

/// A listener whose queue is full: what is sent to it is dropped without a word.
async fn black_hole() -> (SocketAddr, Vec<TcpStream>, TcpListener) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queue.push(stream.unwrap());
        assert!(queue.len() < 100, "the queue never fills");
    }
    (address, queue, listener)
}

#[tokio::test]
async fn a_silent_address_costs_each_call_its_own_timeout_and_others_nothing() {
    let (hole, _queue, _listener) = black_hole().await;
    let (server, _) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    for lane in Lane::ALL {
        let calls: Vec<_> = (1..20)
            .map(|tenths| call(hole, lane, "lost", Duration::from_millis(tenths * 20)))
            .map(|call| client.call(call))
            .collect();
        let outcomes = timeout(LONG, join_all(calls)).await.unwrap();
        assert!(outcomes.iter().all(not_sent), "{outcomes:?}");
        let outcome = client.call(call(server.local_addr(), lane, "x", LONG)).await;
        assert_eq!(outcome, Ok(Bytes::from("x")));
    }
    assert_eq!(client.counters()["cluster"]["num_client_write_timeouts"], 4 * 19);
}

#[tokio::test]
async fn a_connect_timeout_ends_the_calls_that_wait_for_it() {
    let (hole, _queue, _listener) = black_hole().await;
    let options =
        TcpOptions { connect_timeout: Duration::from_millis(200), ..TcpOptions::default() };
    let client = network(options).await;
    let outcome = timeout(LONG, client.call(call(hole, Lane::Service, "x", LONG * 10))).await;
    let Ok(Err(CallError::NotSent(text))) = outcome else { panic!("{outcome:?}") };
    assert!(text.ends_with("it cannot be connected to within 200ms"), "{text}");
}

#[tokio::test]
async fn a_forwarded_request_hears_soon_that_nothing_could_be_sent() {
    let (hole, _queue, _listener) = black_hole().await;
    let client = network(TcpOptions::default()).await;
    let outcome = timeout(LONG, client.call(call(hole, Lane::Service, "x", LONG * 10))).await;
    let Ok(Err(CallError::NotSent(text))) = outcome else { panic!("{outcome:?}") };
    assert!(text.ends_with("it cannot be connected to within 2s"), "{text}");
}

#[tokio::test]
async fn the_number_of_waiting_calls_is_bounded() {
    let (hole, _queue, _listener) = black_hole().await;
    let client = network(TcpOptions::default()).await;
    let mut calls: Vec<_> =
        (0..4096).map(|_| client.call(call(hole, Lane::Service, "x", LONG))).collect();
    let outcome = client.call(call(hole, Lane::Service, "x", LONG)).now_or_never().unwrap();
    let Err(CallError::NotSent(text)) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("too many calls wait"), "{text}");
    // A call that is given up makes room.
    drop(calls.pop());
    let one = client.call(call(hole, Lane::Service, "x", LONG));
    assert!(one.now_or_never().is_none());
}

#[tokio::test]
async fn a_peer_that_dies_leaves_its_calls_unanswered_and_is_found_again() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let to = server.local_addr();
    let running: Vec<_> =
        Lane::ALL.map(|lane| tokio::spawn(client.call(call(to, lane, "never", LONG)))).into();
    eventually("all run", || recorder.seen() == 4).await;
    server.close(Duration::ZERO).await;
    for outcome in join_all(running).await {
        assert!(unanswered(&outcome.unwrap()));
    }
    assert!(not_sent(&client.call(call(to, Lane::Control, "x", LONG)).await));
    let listener = TcpListener::bind(to).await.unwrap();
    let again = TcpNetwork::start(listener, TcpOptions::default()).unwrap();
    again.listen(Some(Arc::new(Recording(Recorder::new()))));
    for lane in Lane::ALL {
        // An attempt of a moment ago may fail this call, but no further one.
        let mut outcome = client.call(call(to, lane, "x", LONG)).await;
        if not_sent(&outcome) {
            outcome = client.call(call(to, lane, "x", LONG)).await;
        }
        assert_eq!(outcome, Ok(Bytes::from("x")));
    }
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up_long_before_the_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let mute = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        hello::receive(&mut stream, None, &[], |_| Some(())).await.unwrap();
        let mut heard = Vec::new();
        drop(stream.read_to_end(&mut heard).await);
        heard
    });
    let client = network(TcpOptions::default()).await;
    let outcome = timeout(LONG, client.call(call(to, Lane::Control, "x", LONG * 10))).await;
    let Ok(Err(CallError::Unanswered(text))) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("nothing was heard for"), "{text}");
    let heard = mute.await.unwrap();
    assert_eq!(heard.iter().filter(|byte| **byte == b'x').count(), 1, "sent once");
    assert!(heard.len() > 2 * 24, "pings were sent");
}

#[tokio::test]
async fn stalled_bulk_and_large_requests_do_not_delay_heartbeats() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let to = server.local_addr();
    let mut large = b"wait".to_vec();
    large.resize(Lane::Bulk.request_bytes_max(), b'.');
    let large = Bytes::from(large);
    let bulk: Vec<_> = (0..8)
        .map(|_| tokio::spawn(client.call(call(to, Lane::Bulk, large.clone(), LONG))))
        .collect();
    let mut entry = b"wait".to_vec();
    entry.resize(100_000_000, b'.');
    let entry = tokio::spawn(client.call(call(to, Lane::Append, entry, LONG)));
    for _ in 0..100 {
        let outcome = client.call(call(to, Lane::Control, "beat", Duration::from_secs(10))).await;
        assert_eq!(outcome, Ok(Bytes::from("beat")));
    }
    assert!(bulk.iter().all(|call| !call.is_finished()) && !entry.is_finished());
    recorder.gate.add_permits(9);
    for outcome in join_all(bulk).await {
        assert_eq!(outcome.unwrap().unwrap(), large);
    }
    assert_eq!(entry.await.unwrap().unwrap().len(), 100_000_000);
}

#[tokio::test]
async fn more_calls_than_fit_on_a_connection_wait_for_their_turn() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let to = server.local_addr();
    let calls: Vec<_> = (0..600)
        .map(|number| client.call(call(to, Lane::Control, format!("wait {number}"), LONG)))
        .collect();
    let calls = tokio::spawn(join_all(calls));
    eventually("a connection's worth of calls runs", || recorder.seen() == 256).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(recorder.seen(), 256);
    recorder.gate.add_permits(600);
    assert!(calls.await.unwrap().iter().all(Result::is_ok));
    assert_eq!(client.counters()["mux"]["num_dials"], 1);
}

#[tokio::test]
async fn forwarded_requests_get_further_connections_when_one_is_full() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let to = server.local_addr();
    let calls: Vec<_> = (0..600)
        .map(|number| client.call(call(to, Lane::Service, format!("wait {number}"), LONG)))
        .collect();
    let calls = tokio::spawn(join_all(calls));
    eventually("all calls run", || recorder.seen() == 600).await;
    recorder.gate.add_permits(600);
    assert!(calls.await.unwrap().iter().all(Result::is_ok));
    assert_eq!(client.counters()["mux"]["num_dials"], 3);
}

#[tokio::test]
async fn a_connection_full_of_calls_nobody_waits_for_is_replaced() {
    let (server, _) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let to = server.local_addr();
    let stuck: Vec<_> = (0..256)
        .map(|_| client.call(call(to, Lane::Control, "never", Duration::from_millis(300))))
        .collect();
    assert!(join_all(stuck).await.iter().all(unanswered));
    let outcome = client.call(call(to, Lane::Control, "x", LONG)).await;
    assert_eq!(outcome, Ok(Bytes::from("x")));
    assert_eq!(client.counters()["mux"]["num_dials"], 2);
}

#[tokio::test]
async fn calls_nobody_waits_for_end_no_connection_while_somebody_waits_for_another() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let to = server.local_addr();
    let live = tokio::spawn(client.call(call(to, Lane::Control, "wait", LONG)));
    let stuck: Vec<_> = (0..255)
        .map(|_| client.call(call(to, Lane::Control, "never", Duration::from_millis(300))))
        .collect();
    assert!(join_all(stuck).await.iter().all(unanswered));
    let next = tokio::spawn(client.call(call(to, Lane::Control, "next", LONG)));
    // Time enough to notice that there is no room.
    sleep(Duration::from_millis(300)).await;
    recorder.gate.add_permits(1);
    assert_eq!(live.await.unwrap(), Ok(Bytes::from("wait")));
    assert_eq!(next.await.unwrap(), Ok(Bytes::from("next")));
    assert_eq!(client.counters()["mux"]["num_dials"], 1);
}

#[tokio::test]
async fn revocable_calls_nobody_waits_for_are_taken_back_and_others_have_their_room() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let to = server.local_addr();
    let live = tokio::spawn(client.call(call(to, Lane::Service, "wait", LONG)));
    eventually("it runs", || recorder.seen() == 1).await;
    // Twice as many as there are places on all connections: the second half finds those of the first.
    for round in 1..=2 {
        let calls: Vec<_> = (0..1023)
            .map(|_| Call { revocable: true, ..call(to, Lane::Service, "never", LONG) })
            .map(|call| tokio::spawn(client.call(call)))
            .collect();
        eventually("all run", || recorder.seen() == 1 + round * 1023).await;
        assert_eq!(recorder.under_way(), 1024);
        for call in &calls {
            call.abort();
        }
        eventually("the other side stops working on them", || recorder.under_way() == 1).await;
    }
    let outcome = client.call(call(to, Lane::Service, "x", LONG)).await;
    assert_eq!(outcome, Ok(Bytes::from("x")));
    // One that is not revocable is finished, whoever waits.
    live.abort();
    sleep(Duration::from_millis(300)).await;
    assert_eq!(recorder.under_way(), 1);
    recorder.gate.add_permits(1);
    eventually("it is finished", || recorder.under_way() == 0).await;
    assert_eq!(client.counters()["mux"]["num_dials"], 4);
    assert_eq!(client.counters()["mux"]["num_connections_dropped"], 0);
}

/// Passes bytes on in both directions and cuts each connection somewhere.
async fn flaky(to: SocketAddr, mut numbers: Numbers) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let (mut near_source, mut near_sink) = near.into_split();
            let (mut far_source, mut far_sink) = far.into_split();
            let there = Arc::new(AtomicUsize::new(numbers.below(20_000)));
            let back = Arc::new(AtomicUsize::new(numbers.below(20_000)));
            tokio::spawn(async move {
                tokio::select! {
                    _ = pass(&mut near_source, &mut far_sink, &there) => {}
                    _ = pass(&mut far_source, &mut near_sink, &back) => {}
                }
            });
        }
    });
    address
}

async fn pass(
    source: &mut OwnedReadHalf,
    sink: &mut OwnedWriteHalf,
    left: &AtomicUsize,
) -> io::Result<()> {
    let mut buffer = [0; 700];
    loop {
        let count = source.read(&mut buffer).await?;
        let allowed = left.load(Ordering::Relaxed).min(count);
        sink.write_all(&buffer[..allowed]).await?;
        left.fetch_sub(allowed, Ordering::Relaxed);
        if count == 0 || allowed < count {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn through_a_flaky_way_no_call_arrives_twice_and_none_that_was_not_sent() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let mut numbers = Numbers::new();
    let to = flaky(server.local_addr(), Numbers(numbers.0.rotate_left(9) | 1)).await;
    let deadline = Instant::now() + Duration::from_secs(4);
    let (mut outcomes, mut number) = (Vec::new(), 0);
    while Instant::now() < deadline && outcomes.len() < 4000 {
        let calls = (0..1 + numbers.below(20)).map(|_| {
            number += 1;
            let padding = " ".repeat(numbers.below(2000));
            let request = Bytes::from(format!("{number}{padding}"));
            let lane = Lane::ALL[numbers.below(4)];
            let answer = client.call(call(to, lane, request.clone(), Duration::from_secs(5)));
            async move { (request, answer.await) }
        });
        outcomes.extend(join_all(calls.collect::<Vec<_>>()).await);
    }
    let counts = recorder.counts();
    let (mut answered, mut unknown, mut unsent) = (0, 0, 0);
    for (request, outcome) in &outcomes {
        let count = counts.get(request).copied().unwrap_or(0);
        match outcome {
            Ok(answer) => {
                answered += 1;
                assert_eq!((answer, count), (request, 1));
            }
            Err(CallError::Unanswered(_)) => {
                unknown += 1;
                assert!(count <= 1, "{count} times");
            }
            Err(CallError::NotSent(reason)) => {
                unsent += 1;
                assert_eq!(count, 0, "{reason}");
            }
        }
    }
    println!("{answered} answered, {unknown} unknown, {unsent} not sent");
    assert!(answered > 0 && unknown > 0, "the way was not flaky enough to show anything");
}

/// Resolves any name to what the test says at the moment.
#[derive(Debug, Default)]
struct Directory(Mutex<Vec<SocketAddr>>);

impl Resolve for Directory {
    fn resolve(&self, _: &str, _: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let addresses = self.0.lock().unwrap().clone();
        async move { Ok(addresses) }.boxed()
    }
}

#[tokio::test]
async fn names_are_resolved_at_each_dial_and_all_addresses_tried() {
    let (hole, _queue, _listener) = black_hole().await;
    let directory = Arc::new(Directory::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let resolver: Arc<dyn Resolve> = Arc::<Directory>::clone(&directory);
    let client = TcpNetwork::start_with(listener, TcpOptions::default(), resolver).unwrap();
    let make = || client.call(call("node.example:1", Lane::Service, "x", LONG));
    assert!(not_sent(&make().await), "a name without addresses");

    let (first, first_recorder) = node(TcpOptions::default()).await;
    let refusing = nowhere().await.parse().unwrap();
    *directory.0.lock().unwrap() = vec![hole, refusing, first.local_addr()];
    assert!(make().await.is_ok());
    assert_eq!(first_recorder.seen(), 1);

    let (second, second_recorder) = node(TcpOptions::default()).await;
    *directory.0.lock().unwrap() = vec![second.local_addr()];
    assert!(make().await.is_ok());
    assert_eq!(first_recorder.seen(), 2, "a connection that works is kept");
    first.close(Duration::ZERO).await;
    eventually_ok(make).await;
    assert_eq!(second_recorder.seen(), 1);
}

/// Repeats a call until the end of the connection before it was noticed.
async fn eventually_ok<F>(make: impl Fn() -> F)
where
    F: Future<Output = Result<Bytes, CallError>>,
{
    for _ in 0..100 {
        if make().await.is_ok() {
            return;
        }
    }
    panic!("never");
}

#[tokio::test]
async fn the_system_resolves_localhost_and_ipv6_is_dialled() {
    let (server, _) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let to = format!("localhost:{}", server.local_addr().port());
    assert!(client.call(call(to, Lane::Service, "x", LONG)).await.is_ok());
    match TcpNetwork::bind(&["[::1]:0".to_owned()], TcpOptions::default()).await {
        Ok(server) => {
            server.listen(Some(Arc::new(Recording(Recorder::new()))));
            let to = server.local_addr().to_string();
            assert!(to.starts_with("[::1]:"));
            assert!(client.call(call(to, Lane::Service, "x", LONG)).await.is_ok());
        }
        Err(error) => println!("no IPv6 here: {error}"),
    }
}

#[tokio::test]
async fn the_first_candidate_that_can_be_listened_on_is_taken() {
    let candidates = ["nonsense".to_owned(), "127.0.0.1:0".to_owned()];
    let network = TcpNetwork::bind(&candidates, TcpOptions::default()).await.unwrap();
    assert_ne!(network.local_addr().port(), 0);
    let busy = [network.local_addr().to_string()];
    assert!(TcpNetwork::bind(&busy, TcpOptions::default()).await.is_err());
    assert!(TcpNetwork::bind(&[], TcpOptions::default()).await.is_err());
}
