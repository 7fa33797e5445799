//! What a load generator says, read from its text: that of wrk, or of our own, which prints alike.

/// What came of sending one request again and again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoadReport {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Requests answered in a second.
    pub(crate) rate: f64,
    /// The median time from request to answer, in microseconds.
    pub(crate) median_us: f64,
    /// Answers that report failure, and connections that broke or waited too long.
    pub(crate) errors: u64,
    /// The longest time between two answers on one connection, in microseconds; wrk does not tell.
    pub(crate) longest_gap_us: Option<f64>,
}

impl LoadReport {
    /// Reads a report, or `None` if a figure that must be there is not.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let lines = || text.lines().map(str::trim);
        let after = |prefix: &str| lines().find_map(|line| line.strip_prefix(prefix));
        let refused = match after("Non-2xx or 3xx responses:") {
            Some(count) => count.trim().parse().ok()?,
            None => 0,
        };
        let broken: u64 = match after("Socket errors:") {
            Some(counts) => counts
                .split(',')
                .map(|count| count.split_whitespace().nth(1)?.parse::<u64>().ok())
                .sum::<Option<u64>>()?,
            None => 0,
        };
        Some(Self {
            requests: lines().find_map(|line| {
                line.split_once(" requests in ").and_then(|(count, _)| count.parse().ok())
            })?,
            rate: after("Requests/sec:")?.trim().parse().ok()?,
            median_us: microseconds(after("50%")?)?,
            errors: refused + broken,
            longest_gap_us: after("Longest gap:").and_then(microseconds),
        })
    }
}

/// A time as wrk writes it, such as `1.50ms`.
fn microseconds(text: &str) -> Option<f64> {
    // The longer units first, for they end in the shorter ones.
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6), ("h", 3600e6)];
    let text = text.trim();
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTHY: &str = "\
Running 3s test @ http://127.0.0.1:4001/db/execute
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.02ms    1.11ms  18.51ms   76.50%
    Req/Sec    32.50k     2.01k   36.00k    70.00%
  Latency Distribution
     50%    1.88ms
     75%    2.40ms
     90%    3.20ms
     99%    6.10ms
  97012 requests in 3.00s, 15.20MB read
Requests/sec:  32331.77
Transfer/sec:      5.07MB
";

    #[test]
    fn reads_what_wrk_prints() {
        let expected = LoadReport {
            requests: 97_012,
            rate: 32_331.77,
            median_us: 1880.0,
            errors: 0,
            longest_gap_us: None,
        };
        assert_eq!(LoadReport::parse(HEALTHY), Some(expected));
    }

    #[test]
    fn counts_errors_of_both_kinds() {
        let text = HEALTHY.replace(
            "Requests/sec:",
            "  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 10\nRequests/sec:",
        );
        assert_eq!(LoadReport::parse(&text).unwrap().errors, 17);
    }

    #[test]
    fn a_report_that_lacks_a_figure_is_none() {
        for figure in ["Requests/sec:", "50%", " requests in "] {
            assert_eq!(LoadReport::parse(&HEALTHY.replace(figure, "?")), None, "{figure}");
        }
        assert_eq!(LoadReport::parse(&HEALTHY.replace("1.88ms", "1.88")), None);
        assert_eq!(
            LoadReport::parse("unable to connect to 127.0.0.1:1 Connection refused\n"),
            None
        );
    }

    #[test]
    fn times_have_units() {
        let cases = [
            ("812.00us", Some(812.0)),
            ("1.50ms", Some(1500.0)),
            ("2.00s", Some(2e6)),
            ("1.50m", Some(90e6)),
            ("1.00h", Some(3600e6)),
            ("7", None),
            ("ms", None),
        ];
        for (text, expected) in cases {
            assert_eq!(microseconds(text), expected, "{text}");
        }
    }
}
