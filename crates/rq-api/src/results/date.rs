//! Conversion of stored dates to RFC 3339, for columns declared `date`, `datetime`, `timestamp`.

/// What a text that is no date is answered as.
const ZERO: &[u8] = b"0001-01-01T00:00:00Z";

/// Integers beyond this, either way, count milliseconds instead of seconds.
const SECONDS_MAX: u64 = 1_000_000_000_000;

/// A date that RFC 3339 cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DateError {
    #[error("Time.MarshalText: year outside of range [0,9999]")]
    Year,
    #[error("Time.MarshalText: timezone hour outside of range [0,23]")]
    ZoneHour,
}

/// Writes a number of seconds or milliseconds since 1970 as a JSON string, in UTC.
pub(super) fn write_integer(out: &mut Vec<u8>, integer: i64) -> Result<(), DateError> {
    let (seconds, milliseconds) = if integer.unsigned_abs() > SECONDS_MAX {
        (integer.div_euclid(1000), integer.rem_euclid(1000))
    } else {
        (integer, 0)
    };
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    if !(0..=9999).contains(&year) {
        return Err(DateError::Year);
    }
    let second = seconds.rem_euclid(86_400);
    out.push(b'"');
    digits(out, year, 4);
    for (separator, value) in [
        (b'-', month),
        (b'-', day),
        (b'T', second / 3600),
        (b':', second / 60 % 60),
        (b':', second % 60),
    ] {
        out.push(separator);
        digits(out, value, 2);
    }
    if milliseconds > 0 {
        out.push(b'.');
        digits(out, milliseconds, 3);
        trim_zeros(out);
    }
    out.extend_from_slice(b"Z\"");
    Ok(())
}

/// Writes a text as a JSON string with its date; `0001-01-01T00:00:00Z` if it is none.
pub(super) fn write_text(out: &mut Vec<u8>, text: &[u8]) -> Result<(), DateError> {
    let text = text.strip_suffix(b"Z").unwrap_or(text);
    out.push(b'"');
    match Parsed::read(text) {
        Some(parsed) => parsed.write(out)?,
        None => out.extend_from_slice(ZERO),
    }
    out.push(b'"');
    Ok(())
}

fn digits(out: &mut Vec<u8>, value: i64, width: u32) {
    for place in (0..width).rev() {
        let digit = value / 10_i64.pow(place) % 10;
        out.push(b'0' + u8::try_from(digit).expect("a digit of a number that is not negative"));
    }
}

fn trim_zeros(out: &mut Vec<u8>) {
    while out.last() == Some(&b'0') {
        out.pop();
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
///
/// Counts in eras of 400 years that begin on the first of March of a year divisible by 400, so
/// that the leap day is the last day of a year.
fn civil(day: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    let day = day + 719_468;
    let era = day.div_euclid(DAYS_PER_ERA);
    let day_of_era = day.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day_of_month)
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A date in one of the forms that are recognised.
///
/// - `YYYY-MM-DD`
/// - the same, spaces or `T`, `HH:MM`
/// - the same with `:SS`, perhaps with a fraction, perhaps with an offset `±HH:MM`
struct Parsed<'a> {
    /// `YYYY-MM-DD`.
    date: &'a [u8],
    hour: u32,
    minute: u32,
    second: u32,
    /// The digits behind the decimal point.
    fraction: &'a [u8],
    /// Sign, hours and minutes.
    offset: Option<(u8, u32, u32)>,
}

impl<'a> Parsed<'a> {
    fn read(text: &'a [u8]) -> Option<Self> {
        let date = text.get(..10)?;
        let [b'-', b'-'] = [date[4], date[7]] else { return None };
        let year = number(&date[..4])?;
        let (month, day) = (number(&date[5..7])?, number(&date[8..10])?);
        if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
            return None;
        }
        let mut parsed = Self { date, hour: 0, minute: 0, second: 0, fraction: b"", offset: None };
        if text.len() > date.len() {
            parsed.read_time(&text[date.len()..])?;
        }
        Some(parsed)
    }

    /// Reads what follows the date, which is not empty.
    fn read_time(&mut self, text: &'a [u8]) -> Option<()> {
        let mut rest = match text[0] {
            b'T' => &text[1..],
            b' ' => &text[text.iter().position(|&byte| byte != b' ')?..],
            _ => return None,
        };
        // The hour may have one digit.
        let hour_digits = 1 + usize::from(rest.get(1)?.is_ascii_digit());
        self.hour = number(&rest[..hour_digits]).filter(|&hour| hour < 24)?;
        rest = rest[hour_digits..].strip_prefix(b":")?;
        self.minute = number(rest.get(..2)?).filter(|&minute| minute < 60)?;
        rest = &rest[2..];
        if rest.is_empty() {
            return Some(());
        }
        rest = rest.strip_prefix(b":")?;
        self.second = number(rest.get(..2)?).filter(|&second| second < 60)?;
        rest = &rest[2..];
        if let Some((b'.' | b',', behind)) = rest.split_first() {
            let count = behind.iter().position(|byte| !byte.is_ascii_digit());
            (self.fraction, rest) = behind.split_at(count.unwrap_or(behind.len()));
            if self.fraction.is_empty() {
                return None;
            }
        }
        self.offset = match *rest {
            [] => return Some(()),
            [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
                let hour = number(&[h1, h2]).filter(|&hour| hour <= 24)?;
                let minute = number(&[m1, m2]).filter(|&minute| minute <= 60)?;
                Some((sign, hour, minute)).filter(|&(_, hour, minute)| hour + minute > 0)
            }
            _ => return None,
        };
        Some(())
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), DateError> {
        out.extend_from_slice(self.date);
        for (separator, value) in [(b'T', self.hour), (b':', self.minute), (b':', self.second)] {
            out.push(separator);
            digits(out, value.into(), 2);
        }
        let fraction = &self.fraction[..self.fraction.len().min(9)];
        if fraction.iter().any(|&digit| digit != b'0') {
            out.push(b'.');
            out.extend_from_slice(fraction);
            trim_zeros(out);
        }
        let Some((sign, hour, minute)) = self.offset else {
            out.push(b'Z');
            return Ok(());
        };
        // 60 minutes are accepted and make an hour.
        let (hour, minute) = (hour + minute / 60, minute % 60);
        if hour > 23 {
            return Err(DateError::ZoneHour);
        }
        out.push(sign);
        digits(out, hour.into(), 2);
        out.push(b':');
        digits(out, minute.into(), 2);
        Ok(())
    }
}

/// The value of at most four digits; `None` if anything else is among them.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        let mut out = Vec::new();
        match write_text(&mut out, text.as_bytes()) {
            Ok(()) => String::from_utf8(out).expect("ASCII"),
            Err(error) => error.to_string(),
        }
    }

    fn integer(integer: i64) -> String {
        let mut out = Vec::new();
        match write_integer(&mut out, integer) {
            Ok(()) => String::from_utf8(out).expect("ASCII"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn texts_become_rfc_3339() {
        for (stored, answered) in [
            ("2020-01-02", "2020-01-02T00:00:00Z"),
            ("2020-01-02Z", "2020-01-02T00:00:00Z"),
            ("2020-01-02 03:04", "2020-01-02T03:04:00Z"),
            ("2020-01-02T03:04Z", "2020-01-02T03:04:00Z"),
            ("2020-01-02   3:04:05", "2020-01-02T03:04:05Z"),
            ("2020-01-02T3:04:05", "2020-01-02T03:04:05Z"),
            ("2020-01-02 03:04:05.000", "2020-01-02T03:04:05Z"),
            ("2020-01-02 03:04:05.120", "2020-01-02T03:04:05.12Z"),
            ("2020-01-02 03:04:05,5", "2020-01-02T03:04:05.5Z"),
            ("2020-01-02 03:04:05.1234567899", "2020-01-02T03:04:05.123456789Z"),
            ("2020-01-02 03:04:05.0000000001", "2020-01-02T03:04:05Z"),
            ("2020-01-02 03:04:05+05:30", "2020-01-02T03:04:05+05:30"),
            ("2020-01-02T03:04:05.25-08:00Z", "2020-01-02T03:04:05.25-08:00"),
            ("2020-01-02 03:04:05+00:00", "2020-01-02T03:04:05Z"),
            ("2020-01-02 03:04:05-00:00", "2020-01-02T03:04:05Z"),
            ("2020-01-02 03:04:05+22:60", "2020-01-02T03:04:05+23:00"),
            ("2020-02-29", "2020-02-29T00:00:00Z"),
            ("0000-02-29", "0000-02-29T00:00:00Z"),
            ("9999-12-31 23:59:59", "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(text(stored), format!("\"{answered}\""), "{stored:?}");
        }
    }

    #[test]
    fn what_is_no_date_becomes_the_zero_time() {
        for stored in [
            "",
            "Z",
            "now",
            "2020-1-2",
            " 2020-01-02",
            "2020-01-02 ",
            "2020-01-02T",
            "03:04:05",
            "2020-01-02 03",
            "2020-01-02 03:4",
            "2020-01-02 03:04:5",
            "2020-01-02 03:04:05.",
            "2020-01-02 03:04+01:00",
            "2020-01-02 03:04:05+0530",
            "2020-01-02 03:04:05+05",
            "2020-01-02 03:04:05 +05:30",
            "2020-01-02 24:00",
            "2020-01-02 03:60",
            "2020-01-02 03:04:60",
            "2020-13-01",
            "2020-00-01",
            "2020-01-00",
            "2021-02-29",
            "1900-02-29",
            "2020-04-31",
            "2020-01-02 03:04:05ZZ",
            "2020-01-02t03:04",
            "2020-01-02 03:04:05+25:00",
            "2020-01-02 03:04:05+01:61",
            "12020-01-02",
            "é020-01-02",
        ] {
            assert_eq!(text(stored), "\"0001-01-01T00:00:00Z\"", "{stored:?}");
        }
    }

    #[test]
    fn integers_are_seconds_or_milliseconds() {
        for (stored, answered) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (1_577_934_245, "2020-01-02T03:04:05Z"),
            (1_577_934_245_123, "2020-01-02T03:04:05.123Z"),
            (1_577_934_245_120, "2020-01-02T03:04:05.12Z"),
            (1_000_000_000_001, "2001-09-09T01:46:40.001Z"),
            (-1_000_000_000_001, "1938-04-24T22:13:19.999Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (-62_167_219_200, "0000-01-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(integer(stored), format!("\"{answered}\""), "{stored}");
        }
    }

    #[test]
    fn what_rfc_3339_cannot_express_is_an_error() {
        for stored in [
            999_999_999_999,
            1_000_000_000_000,
            -62_167_219_201,
            253_402_300_800,
            i64::MAX,
            i64::MIN,
        ] {
            assert_eq!(integer(stored), DateError::Year.to_string(), "{stored}");
        }
        assert_eq!(text("2020-01-02 03:04:05+24:00"), DateError::ZoneHour.to_string());
        assert_eq!(text("2020-01-02 03:04:05-23:60"), DateError::ZoneHour.to_string());
    }
}
