//! Whoever comes to the port without being one of us, or without behaving like one.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::internode::tcp::{
    hello::{self, GreetError, MAGIC, Verdict},
    limits::{HANDSHAKES_MAX, accepted_max},
};

async fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

/// Connects and shakes hands as one of us.
async fn greeted(to: SocketAddr, lane: Lane) -> Result<TcpStream, GreetError> {
    let mut stream = connect(to).await;
    hello::greet(&mut stream, lane, None, &[]).await.map(|()| stream)
}

/// Everything the other side says until it closes.
async fn everything(mut stream: TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    // A reset is a way of closing.
    drop(timeout(LONG, stream.read_to_end(&mut heard)).await.expect("it closes"));
    heard
}

#[tokio::test]
async fn strangers_are_told_nothing_and_the_log_tells_who_they_are() {
    let (server, recorder) = node(TcpOptions::default()).await;
    let rows: [(&[u8], &str); 8] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "it sent HTTP"),
        (b"POST /db/execute HTTP/1.1\r\n", "it sent HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "it sent HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "it uses TLS, this node does not"),
        (b"\x01", "it seems to be a node of rqlite"),
        (b"\x02", "it seems to be a node of rqlite"),
        (b"\xf1rq-nodX", "it does not speak the internode protocol"),
        (b"\0", "it does not speak the internode protocol"),
    ];
    for (bytes, expected) in rows {
        let mut stream = connect(server.local_addr()).await;
        stream.write_all(bytes).await.unwrap();
        assert_eq!(everything(stream).await, b"", "{bytes:?}");
        eventually_says(&server, &format!("127.0.0.1: {expected}")[..]).await;
    }
    assert_eq!(server.counters()["mux"]["num_unregistered_handlers"], 8);
    assert_eq!(server.counters()["mux"]["num_handshakes_failed"], 8);
    assert_eq!(recorder.seen(), 0);
}

#[tokio::test]
async fn whoever_dawdles_over_the_handshake_is_closed() {
    let (server, _) = node(TcpOptions::default()).await;
    let silent = connect(server.local_addr()).await;
    let mut slow = connect(server.local_addr()).await;
    let slow = tokio::spawn(async move {
        for byte in MAGIC {
            if slow.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        everything(slow).await
    });
    assert_eq!(everything(silent).await, b"");
    assert_eq!(slow.await.unwrap(), b"");
    eventually_says(&server, "it took too long to say who it is").await;
    assert_eq!(server.counters()["mux"]["num_handshakes_failed"], 2);
}

#[tokio::test]
async fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let (server, _) = node(TcpOptions::default()).await;
    let client = network(TcpOptions::default()).await;
    let mut crowd = Vec::new();
    for _ in 0..HANDSHAKES_MAX + 20 {
        crowd.push(connect(server.local_addr()).await);
    }
    let outcome = client.call(call(server.local_addr(), Lane::Control, "x", LONG)).await;
    assert_eq!(outcome, Ok(Bytes::from("x")));
    assert!(server.counters()["cluster"]["num_conn_rejected"] >= 20);
}

#[tokio::test]
async fn beyond_the_connections_of_a_lane_there_are_no_more_and_other_lanes_do_not_care() {
    let (server, _) = node(TcpOptions::default()).await;
    let to = server.local_addr();
    let mut connections = Vec::new();
    for _ in 0..accepted_max(Lane::Control) {
        connections.push(greeted(to, Lane::Control).await.unwrap());
    }
    let refused = greeted(to, Lane::Control).await;
    assert!(matches!(refused, Err(GreetError::Refused(Verdict::Busy))), "{refused:?}");
    assert_eq!(server.counters()["cluster"]["num_conn_rejected"], 1);
    drop(greeted(to, Lane::Append).await.unwrap());
    drop(connections.pop());
    // The place is free as soon as the server has noticed.
    let client = network(TcpOptions::default()).await;
    let mut outcome = Err(CallError::NotSent(String::new()));
    for _ in 0..100 {
        outcome = client.call(call(to, Lane::Control, "x", LONG)).await;
        if outcome.is_ok() {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(outcome, Ok(Bytes::from("x")));
}

#[tokio::test]
async fn one_of_us_that_breaks_the_protocol_is_dropped_with_its_calls() {
    let rows: [(&[u8], &str); 2] = [
        (&[0; 24], "not a frame"),
        // A request of 0xffffffff bytes, with a right checksum.
        (
            &{
                let mut header = [0; 24];
                header[0] = 1;
                header[4..8].copy_from_slice(&[0xff; 4]);
                let checksum = crc32c::crc32c(&header[..20]);
                header[20..].copy_from_slice(&checksum.to_le_bytes());
                header
            },
            "announced a frame of 4294967295 bytes",
        ),
    ];
    for (bytes, expected) in rows {
        let (server, recorder) = node(TcpOptions::default()).await;
        let mut stream = greeted(server.local_addr(), Lane::Append).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert_eq!(everything(stream).await, b"");
        eventually_says(&server, expected).await;
        assert_eq!(recorder.seen(), 0);
        assert_eq!(server.counters()["mux"]["num_connections_dropped"], 1);
    }
}

#[tokio::test]
async fn hellos_of_other_versions_and_lanes_are_refused_with_the_reason() {
    let (server, _) = node(TcpOptions::default()).await;
    // Version, least version, lane, then the verdict.
    let rows = [
        (1_u16, 1_u16, 1_u8, 0_u8),
        (9, 1, 4, 0),
        (9, 2, 1, 1),
        (0, 0, 1, 1),
        (1, 1, 0, 2),
        (1, 1, 5, 2),
    ];
    for (version, least, lane, verdict) in rows {
        let mut stream = connect(server.local_addr()).await;
        let mut hello = [0; 48];
        hello[..8].copy_from_slice(&MAGIC);
        hello[8..10].copy_from_slice(&version.to_le_bytes());
        hello[10..12].copy_from_slice(&least.to_le_bytes());
        hello[12] = lane;
        stream.write_all(&hello).await.unwrap();
        let mut answer = [0; 48];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer[..8], answer[12]), (&MAGIC[..], verdict), "{version} {least} {lane}");
    }
    eventually_says(&server, "it speaks other versions").await;
    eventually_says(&server, "its kind of connection is unknown").await;
}

#[tokio::test]
async fn who_dials_the_wrong_port_hears_what_is_there() {
    let rows: [(&[u8], &str); 4] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it serves HTTP"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "it speaks TLS, this node does not"),
        (b"220 mail ready\r\n", "it does not speak the internode protocol"),
        (b"", "it closed the connection during the handshake"),
    ];
    for (bytes, expected) in rows {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut hello = [0; 48];
                stream.read_exact(&mut hello).await.unwrap();
                stream.write_all(bytes).await.unwrap();
            }
        });
        let client = network(TcpOptions::default()).await;
        let outcome = client.call(call(to, Lane::Service, "x", LONG)).await;
        let Err(CallError::NotSent(text)) = outcome else { panic!("{outcome:?}") };
        assert!(text.starts_with(&format!("{to}: {expected}")), "{text}");
        assert_eq!(said(&client), [text]);
    }
}
