//! The wall clock, and how a moment is written: RFC 3339 in UTC, in log lines and in rows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a moment is when it is written up to its seconds, in bytes.
pub const SECOND_BYTES: usize = "2026-11-22T19:43:22".len();

/// What the clock shows, since 1970. A clock that is set to before then shows 1970.
#[must_use]
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// This second since 1970 as RFC 3339 writes it, without the `Z`. After the year 9999 nothing but nines.
#[must_use]
pub fn second_text(second: u64) -> [u8; SECOND_BYTES] {
    let (day, of_day) = (second / 86_400, second % 86_400);
    let (year, month, day) = date(day);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    text.as_bytes().try_into().unwrap_or([b'9'; SECOND_BYTES])
}

/// This moment since 1970, with its milliseconds: `2026-11-22T19:43:22.318Z`.
#[must_use]
pub fn rfc3339(moment: Duration) -> String {
    let mut text = String::with_capacity(SECOND_BYTES + ".318Z".len());
    for part in [&second_text(moment.as_secs())[..], b".", &three_digits(moment.subsec_millis()), b"Z"] {
        text.extend(part.iter().copied().map(char::from));
    }
    text
}

/// The last three digits of a number. By hand, since it is done for every request.
#[must_use]
pub fn three_digits(number: u32) -> [u8; 3] {
    [100, 10, 1].map(|place| b'0' + u8::try_from(number / place % 10).unwrap_or_default())
}

/// The date of a day since 1970. The years are counted from a March, so that the day which only some years have is
/// the last one.
fn date(day: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let day = day + 719_468; // from 1 March of the year 0
    let (era, day) = (day / DAYS_OF_400_YEARS, day % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_written_as_rfc_3339_has_it() {
        let at = |second: u64| String::from_utf8(second_text(second).to_vec()).unwrap();
        assert_eq!(at(0), "1970-01-01T00:00:00");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59");
        assert_eq!(at(1_795_376_602), "2026-11-22T19:43:22");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00");
    }

    #[test]
    fn a_moment_is_written_with_its_milliseconds() {
        assert_eq!(rfc3339(Duration::from_micros(1_795_376_602_007_900)), "2026-11-22T19:43:22.007Z");
    }
}
