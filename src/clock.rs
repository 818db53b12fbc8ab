//! The wall clock, and the format of times: RFC 3339 in UTC, in log lines and in database rows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// The length of a formatted time up to its seconds, in bytes.
pub const SECOND_BYTES: usize = "2026-11-22T19:43:22".len();

/// The time since 1970. If the clock is set to an earlier year, this is 1970.
#[must_use]
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Formats this second since 1970 as in RFC 3339, without the `Z`. The last possible one is in the year 9999.
#[must_use]
pub fn second_text(second: u64) -> [u8; SECOND_BYTES] {
    let text = timestamp(Duration::from_secs(second)).to_string();
    text.as_bytes().first_chunk().copied().unwrap_or([b'9'; SECOND_BYTES])
}

/// Formats this time since 1970 with milliseconds: `2026-11-22T19:43:22.318Z`.
#[must_use]
pub fn rfc3339(time: Duration) -> String {
    format!("{:.3}", timestamp(time))
}

/// The last three digits of a number. Every request needs them, and the standard formatting would cost more.
#[must_use]
pub fn three_digits(number: u32) -> [u8; 3] {
    [100, 10, 1].map(|place| b'0' + u8::try_from(number / place % 10).unwrap_or_default())
}

fn timestamp(time: Duration) -> Timestamp {
    Timestamp::UNIX_EPOCH.saturating_add(time).unwrap_or(Timestamp::MAX)
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
        assert!(at(u64::MAX).starts_with("9999-12-3"), "{}", at(u64::MAX));
    }

    #[test]
    fn a_time_is_written_with_its_milliseconds() {
        assert_eq!(rfc3339(Duration::from_micros(1_795_376_602_007_900)), "2026-11-22T19:43:22.007Z");
        assert_eq!(rfc3339(Duration::from_secs(1)), "1970-01-01T00:00:01.000Z");
    }
}
