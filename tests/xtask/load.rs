//! A light load generator: one thread and one blocking connection for each client, each sending
//! its request again as soon as the answer is there.
//!
//! It prints what wrk prints, so that one reader serves for both, and besides the longest time
//! between two consecutive answers on one connection. It needs more processor time than wrk.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use rq_tests::{Connection, Request};

use crate::{bench::samples::Samples, cli::LoadArguments, failure::Failure, output};

/// What one connection saw.
#[derive(Debug, Default)]
struct Seen {
    /// From request to answer, in microseconds.
    latencies: Vec<f64>,
    /// The longest time between two consecutive answers.
    longest_gap: Duration,
    /// Answers with a status other than 200.
    refused: u64,
    /// Connections that broke; each ends its client.
    broken: u64,
}

/// Sends, and prints what came of it.
pub(crate) fn run(arguments: &LoadArguments) -> Result<(), Failure> {
    let request = arguments.body.as_ref().map_or_else(
        || Request::get(&arguments.target),
        |body| Request::post(&arguments.target, body).header("Content-Type", "application/json"),
    );
    let bytes = request.encode();
    let begin = Instant::now();
    let end = begin + Duration::from_secs(arguments.seconds);
    let seen: Vec<Seen> = thread::scope(|scope| {
        let clients: Vec<_> = (0..arguments.connections)
            .map(|_| scope.spawn(|| client(&arguments.address, &bytes, end)))
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    });
    let lines = describe(&seen, begin.elapsed()).ok_or_else(|| {
        Failure::program(
            &arguments.address,
            "answered no request, or no connection could be opened",
        )
    })?;
    output::line(&lines);
    Ok(())
}

fn client(address: &str, request: &[u8], end: Instant) -> Seen {
    let mut seen = Seen::default();
    if send_until(address, request, end, &mut seen).is_err() {
        seen.broken += 1;
    }
    seen
}

fn send_until(address: &str, request: &[u8], end: Instant, seen: &mut Seen) -> io::Result<()> {
    let mut connection = Connection::open(address)?;
    let mut last_answer: Option<Instant> = None;
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(());
        }
        connection.send_bytes(request)?;
        let answer = connection.receive()?;
        let now = Instant::now();
        if answer.status != 200 {
            seen.refused += 1;
        }
        seen.latencies.push((now - sent).as_secs_f64() * 1e6);
        let gap = last_answer.map_or(Duration::ZERO, |last| now - last);
        seen.longest_gap = seen.longest_gap.max(gap);
        last_answer = Some(now);
    }
}

/// The lines to print, or `None` without a single answer.
fn describe(seen: &[Seen], elapsed: Duration) -> Option<String> {
    let latencies: Samples = seen.iter().flat_map(|seen| seen.latencies.iter().copied()).collect();
    let count = latencies.len();
    let mut lines = vec!["  Latency Distribution".to_owned()];
    for percent in [50, 75, 90, 99] {
        let latency = latencies.percentile(percent)?;
        lines.push(format!("     {percent}%  {latency:.2}us"));
    }
    lines.push(format!("  {count} requests in {:.2}s", elapsed.as_secs_f64()));
    let refused: u64 = seen.iter().map(|seen| seen.refused).sum();
    if refused > 0 {
        lines.push(format!("  Non-2xx or 3xx responses: {refused}"));
    }
    let broken: u64 = seen.iter().map(|seen| seen.broken).sum();
    if broken > 0 {
        lines.push(format!("  Socket errors: connect 0, read {broken}, write 0, timeout 0"));
    }
    let gap = seen.iter().map(|seen| seen.longest_gap).max()?;
    lines.push(format!("Longest gap: {:.2}us", gap.as_secs_f64() * 1e6));
    lines.push(format!("Requests/sec: {:.2}", count as f64 / elapsed.as_secs_f64()));
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load_report::LoadReport;

    #[test]
    fn what_is_printed_is_read_back() {
        let seen = [
            Seen {
                latencies: vec![100.0, 300.0],
                longest_gap: Duration::from_micros(350),
                ..Seen::default()
            },
            Seen {
                latencies: vec![200.0],
                longest_gap: Duration::from_millis(70),
                refused: 2,
                broken: 1,
            },
        ];
        let lines = describe(&seen, Duration::from_secs(2)).unwrap();
        let report = LoadReport::parse(&lines).unwrap();
        assert_eq!(report.requests, 3);
        assert!((report.rate - 1.5).abs() < 1e-9);
        assert!((report.median_us - 200.0).abs() < 1e-9);
        assert_eq!(report.errors, 3);
        assert!((report.longest_gap_us.unwrap() - 70_000.0).abs() < 1e-9);
    }

    #[test]
    fn without_an_answer_there_is_nothing_to_print() {
        assert_eq!(
            describe(&[Seen { broken: 1, ..Seen::default() }], Duration::from_secs(1)),
            None
        );
    }
}
