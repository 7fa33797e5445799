//! Durations as Go writes and reads them: `1m30s`, `378.2µs`, `-1.5h`, `0`.
//!
//! Used by query parameters, by flags, and in status documents. A duration is a signed number of
//! nanoseconds in 64 bits, about ±292 years; what does not fit is an error.

use std::{fmt, str::FromStr, time::Duration};

/// A signed duration with a precision of one nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration {
    nanoseconds: i64,
}

/// Why a text is not a duration. Displays as Go says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It does not have the form of a duration, or does not fit 64 bits.
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number has no unit.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// A number has a unit that does not exist.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// The magnitude of the most negative duration, in nanoseconds.
const MAGNITUDE_MAX: u64 = 1 << 63;

impl GoDuration {
    /// No time at all.
    pub const ZERO: Self = Self { nanoseconds: 0 };

    /// A duration of this many nanoseconds.
    pub const fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self { nanoseconds }
    }

    /// A duration of this many seconds.
    ///
    /// # Panics
    /// If that does not fit; meant for constants.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { nanoseconds: seconds.checked_mul(1_000_000_000).expect("fits a duration") }
    }

    /// The nanoseconds, negative for a negative duration.
    pub const fn nanoseconds(self) -> i64 {
        self.nanoseconds
    }

    /// The duration if it is greater than zero. Zero and negative durations mean "none" or "at
    /// once", depending on the place.
    pub fn positive(self) -> Option<Duration> {
        u64::try_from(self.nanoseconds).ok().filter(|&some| some > 0).map(Duration::from_nanos)
    }
}

impl From<Duration> for GoDuration {
    /// Converts; what is longer than 292 years becomes the longest duration there is.
    fn from(duration: Duration) -> Self {
        Self { nanoseconds: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX) }
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut magnitude: u64 = 0;
        while !rest.is_empty() {
            let part;
            (part, rest) = leading_part(text, rest)?;
            // Both are at most 2^63, so the sum fits.
            magnitude += part;
            if magnitude > MAGNITUDE_MAX {
                return Err(invalid());
            }
        }
        let nanoseconds = if negative {
            0_i64.checked_sub_unsigned(magnitude)
        } else {
            i64::try_from(magnitude).ok()
        };
        nanoseconds.map(Self::from_nanoseconds).ok_or_else(invalid)
    }
}

/// Reads one number with its unit; gives its nanoseconds and what follows.
fn leading_part<'a>(text: &str, rest: &'a str) -> Result<(u64, &'a str), DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (whole_digits, mut rest) = split_digits(rest);
    let mut fraction_digits = "";
    if let Some(behind_point) = rest.strip_prefix('.') {
        (fraction_digits, rest) = split_digits(behind_point);
    }
    if whole_digits.is_empty() && fraction_digits.is_empty() {
        return Err(invalid());
    }
    let whole = if whole_digits.is_empty() { Ok(0) } else { whole_digits.parse::<u64>() };
    let whole = whole.ok().filter(|&whole| whole <= MAGNITUDE_MAX).ok_or_else(invalid)?;
    let unit_end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let scale = match unit {
        "" => return Err(DurationError::MissingUnit(text.to_owned())),
        "ns" => 1,
        // The micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => {
            return Err(DurationError::UnknownUnit {
                unit: unit.to_owned(),
                text: text.to_owned(),
            });
        }
    };
    let sum = whole
        .checked_mul(scale)
        .and_then(|part| part.checked_add(fraction(fraction_digits, scale)));
    sum.filter(|&sum| sum <= MAGNITUDE_MAX).map(|sum| (sum, rest)).ok_or_else(invalid)
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The nanoseconds of a fraction of a unit. Digits beyond what 63 bits hold do not count.
fn fraction(digits: &str, scale: u64) -> u64 {
    const VALUE_MAX: u64 = (MAGNITUDE_MAX - 1) / 10;
    let mut value: u64 = 0;
    let mut divisor = 1.0_f64;
    for digit in digits.bytes() {
        if value > VALUE_MAX {
            break;
        }
        let next = value * 10 + u64::from(digit - b'0');
        if next > MAGNITUDE_MAX {
            break;
        }
        value = next;
        divisor *= 10.0;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "floating point with truncation is how the fraction is defined; it is not \
                  negative and smaller than one unit"
    )]
    let nanoseconds = (value as f64 * (scale as f64 / divisor)) as u64;
    nanoseconds
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.nanoseconds.unsigned_abs();
        let sign = if self.nanoseconds < 0 { "-" } else { "" };
        let mut fixed = |unit: u64, name: &str| {
            write!(
                f,
                "{sign}{}{}{name}",
                magnitude / unit,
                Fraction { value: magnitude % unit, unit }
            )
        };
        match magnitude {
            0 => f.write_str("0s"),
            1..MICROSECOND => fixed(1, "ns"),
            MICROSECOND..MILLISECOND => fixed(MICROSECOND, "\u{b5}s"),
            MILLISECOND..SECOND => fixed(MILLISECOND, "ms"),
            _ => {
                f.write_str(sign)?;
                if magnitude >= HOUR {
                    write!(f, "{}h", magnitude / HOUR)?;
                }
                if magnitude >= MINUTE {
                    write!(f, "{}m", magnitude % HOUR / MINUTE)?;
                }
                let value = magnitude % SECOND;
                write!(f, "{}{}s", magnitude % MINUTE / SECOND, Fraction { value, unit: SECOND })
            }
        }
    }
}

/// `value / unit`, which is less than one and whose unit is a power of ten, written from the
/// decimal point on without trailing zeros; nothing if it is zero.
struct Fraction {
    value: u64,
    unit: u64,
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value == 0 {
            return Ok(());
        }
        f.write_str(".")?;
        let (mut value, mut unit) = (self.value, self.unit);
        while value > 0 {
            unit /= 10;
            write!(f, "{}", value / unit)?;
            value %= unit;
        }
        Ok(())
    }
}

/// Quotes a text as Go does in these messages: everything but printable ASCII in hexadecimal.
fn quote(text: &str) -> String {
    use fmt::Write as _;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=0x7f => quoted.push(char::from(byte)),
            _ => write!(quoted, "\\x{byte:02x}").expect("writing to a string does not fail"),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("-0", 0),
            ("+0", 0),
            ("0s", 0),
            ("1ns", 1),
            ("1us", 1_000),
            ("1\u{b5}s", 1_000),
            ("1\u{3bc}s", 1_000),
            ("2ms", 2_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("-1s", -1_000_000_000),
            ("+5s", 5_000_000_000),
            ("1h2m3.5s", 3_723_500_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1s1s", 2_000_000_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("0.9223372036854775808h", 3_320_413_933_267),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("-9223372036.854775808s", i64::MIN),
            ("2562047h47m16.854775807s", i64::MAX),
            ("1.9ns", 1),
        ] {
            let parsed = text.parse::<GoDuration>().map(GoDuration::nanoseconds);
            assert_eq!(parsed, Ok(nanoseconds), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_as_in_go() {
        for (text, message) in [
            ("", r#"time: invalid duration """#),
            ("-", r#"time: invalid duration "-""#),
            ("5", r#"time: missing unit in duration "5""#),
            ("5d", r#"time: unknown unit "d" in duration "5d""#),
            ("1 s", r#"time: unknown unit " s" in duration "1 s""#),
            ("s", r#"time: invalid duration "s""#),
            (".s", r#"time: invalid duration ".s""#),
            (" 1s", r#"time: invalid duration " 1s""#),
            ("--1s", r#"time: invalid duration "--1s""#),
            ("1e3s", r#"time: unknown unit "e" in duration "1e3s""#),
            ("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#),
            ("-9223372036854775809ns", r#"time: invalid duration "-9223372036854775809ns""#),
            ("99999999999999999999ns", r#"time: invalid duration "99999999999999999999ns""#),
            ("2562048h", r#"time: invalid duration "2562048h""#),
            (
                "1\"\\é\n",
                r#"time: unknown unit "\"\\\xc3\xa9\x0a" in duration "1\"\\\xc3\xa9\x0a""#,
            ),
        ] {
            let error = text.parse::<GoDuration>().expect_err(text);
            assert_eq!(error.to_string(), message, "{text:?}");
        }
    }

    #[test]
    fn durations_print_as_in_go() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (999, "999ns"),
            (1_000, "1\u{b5}s"),
            (-1_500, "-1.5\u{b5}s"),
            (378_200, "378.2\u{b5}s"),
            (1_000_000, "1ms"),
            (999_999_999, "999.999999ms"),
            (1_000_000_001, "1.000000001s"),
            (61_000_000_000, "1m1s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            let duration = GoDuration::from_nanoseconds(nanoseconds);
            assert_eq!(duration.to_string(), text);
            assert_eq!(text.parse(), Ok(duration), "{text} read back");
        }
    }
}
