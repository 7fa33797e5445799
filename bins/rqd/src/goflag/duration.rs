//! Lengths of time in Go's notation: `1.5h`, `2h45m`, `250ms`.

use std::{fmt, str::FromStr, time::Duration};

const SYNTAX: &str = "parse error";

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// A signed number of nanoseconds, read and shown as Go does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

impl GoDuration {
    /// Makes one of nanoseconds.
    pub const fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// Gives the nanoseconds.
    pub const fn nanoseconds(self) -> i64 {
        self.0
    }

    /// Converts; `None` if it is negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

impl FromStr for GoDuration {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(SYNTAX);
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (nanoseconds, behind) = part(rest)?;
            total = total.checked_add(nanoseconds).ok_or(SYNTAX)?;
            rest = behind;
        }
        let signed = if negative { -total } else { total };
        i64::try_from(signed).map(Self).map_err(|_| SYNTAX)
    }
}

/// Reads one number with its unit and gives the nanoseconds and what follows.
fn part(text: &str) -> Result<(i128, &str), &'static str> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, mut rest) = text.split_at(digits(text));
    let mut fraction = "";
    if let Some(behind) = rest.strip_prefix('.') {
        (fraction, rest) = behind.split_at(digits(behind));
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(SYNTAX);
    }
    let unit_len = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, behind) = rest.split_at(unit_len);
    let unit: u64 = match unit {
        "ns" => 1,
        // The micro sign and the Greek letter look alike; both are typed.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return Err(SYNTAX),
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| SYNTAX)? };
    let mut nanoseconds = i128::from(whole) * i128::from(unit);
    // Digits behind the fifteenth are below a nanosecond in every unit.
    let fraction = &fraction[..fraction.len().min(15)];
    if !fraction.is_empty() {
        let numerator: i128 = fraction.parse().map_err(|_| SYNTAX)?;
        let scale = fraction.bytes().fold(1_i128, |scale, _| scale * 10);
        nanoseconds += numerator * i128::from(unit) / scale;
    }
    Ok((nanoseconds, behind))
}

impl fmt::Display for GoDuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanoseconds = self.0.unsigned_abs();
        let with_fraction = |unit: u64| {
            let fraction = format!("{:09}", nanoseconds % unit * (SECOND / unit));
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            format!("{}{point}{fraction}", nanoseconds / unit)
        };
        if nanoseconds == 0 {
            return formatter.write_str("0s");
        }
        if nanoseconds < SECOND {
            let (unit, name) = match nanoseconds {
                ..1_000 => (1, "ns"),
                1_000..1_000_000 => (1_000, "µs"),
                1_000_000.. => (1_000_000, "ms"),
            };
            return write!(formatter, "{sign}{}{name}", with_fraction(unit));
        }
        formatter.write_str(sign)?;
        if nanoseconds >= HOUR {
            write!(formatter, "{}h", nanoseconds / HOUR)?;
        }
        if nanoseconds >= MINUTE {
            write!(formatter, "{}m", nanoseconds % HOUR / MINUTE)?;
        }
        let seconds = nanoseconds % MINUTE / SECOND;
        let fraction = format!("{:09}", nanoseconds % SECOND);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        write!(formatter, "{seconds}{point}{fraction}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_shown() {
        let rows = [
            ("0", "0s"),
            ("-0", "0s"),
            ("0h", "0s"),
            ("1ns", "1ns"),
            ("1500ns", "1.5µs"),
            ("7us", "7µs"),
            ("7µs", "7µs"),
            ("7μs", "7µs"),
            ("250ms", "250ms"),
            ("0.25s", "250ms"),
            ("30s", "30s"),
            ("120s", "2m0s"),
            ("1.5h", "1h30m0s"),
            ("2h45m", "2h45m0s"),
            ("24h", "24h0m0s"),
            ("1h0.5s", "1h0m0.5s"),
            (".5s", "500ms"),
            ("1.s", "1s"),
            ("-1m", "-1m0s"),
            ("+1s", "1s"),
            ("1.0000000000000000000001s", "1s"),
            ("2562047h47m16.854775807s", "2562047h47m16.854775807s"),
        ];
        for (text, shown) in rows {
            let parsed: GoDuration = text.parse().unwrap_or_else(|_| panic!("{text:?}"));
            assert_eq!(parsed.to_string(), shown, "{text:?}");
            assert_eq!(shown.parse(), Ok(parsed), "{shown:?} reads back");
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "5",
            "s",
            "1d",
            "1 s",
            " 1s",
            "1s ",
            "1.5",
            ".",
            ".s",
            "-",
            "+",
            "1s2",
            "--1s",
            "1e3s",
            "1S",
            "2562048h",
            "9223372036854775808ns",
            "99999999999999999999s",
            "é",
        ] {
            assert_eq!(text.parse::<GoDuration>(), Err(SYNTAX), "{text:?}");
        }
    }
}
