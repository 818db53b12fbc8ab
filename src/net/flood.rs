//! Limits the log lines that a stranger can cause at will, such as "closed: not JSON".
//!
//! Each kind of line is logged up to [`LINES`] times per address and [`WINDOW`]. Further lines are only counted, and
//! the next logged line reports their number. So ten thousand bad packets appear in the log but do not fill a disk.

use std::collections::HashMap;
use std::fmt::Arguments;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use log::Level;

use crate::sync::lock;

/// How many lines of one kind are logged per address and window.
pub const LINES: u32 = 100;

/// The length of a window.
pub const WINDOW: Duration = Duration::from_secs(10);

/// How many pairs of kind and address have a separate window. Beyond that, all addresses share one window per kind.
const MAX_WINDOWS: usize = 1024;

/// Represents all addresses when there are too many of them.
const ANY_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

static LINE_COUNTS: LazyLock<Mutex<LineCounts>> = LazyLock::new(Mutex::default);

/// Logs a line of this kind that a stranger at this address caused, unless there were too many.
pub(crate) fn say(level: Level, kind: &'static str, from: IpAddr, line: Arguments<'_>) {
    if !log::log_enabled!(level) {
        return;
    }
    let verdict = lock(&LINE_COUNTS).count(kind, from, Instant::now());
    match verdict {
        Verdict::Log { unlogged: 0 } => log::log!(level, "{line}"),
        Verdict::Log { unlogged } => {
            log::log!(level, "{line} (before it, {unlogged} such lines were only counted)");
        }
        Verdict::LogAsLast => {
            let seconds = WINDOW.as_secs();
            log::log!(level, "{line} (more such lines from {from} within {seconds} s are only counted)");
        }
        Verdict::Drop => {}
    }
}

/// The decision about a line.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Log it. `unlogged` lines before it were not logged.
    Log { unlogged: u64 },
    /// Log it as the last one of its window.
    LogAsLast,
    /// Only count it.
    Drop,
}

/// The line counts per kind and address in their current windows.
#[derive(Debug, Default)]
struct LineCounts {
    windows: HashMap<(&'static str, IpAddr), Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    unlogged: u64,
}

impl LineCounts {
    fn count(&mut self, kind: &'static str, from: IpAddr, now: Instant) -> Verdict {
        let is_over = |window: &Window| now.saturating_duration_since(window.began) >= WINDOW;
        let mut key = (kind, from);
        if self.windows.len() >= MAX_WINDOWS && !self.windows.contains_key(&key) {
            self.windows.retain(|_, window| !is_over(window));
            if self.windows.len() >= MAX_WINDOWS {
                key.1 = ANY_ADDRESS;
            }
        }
        let fresh = Window { began: now, lines: 0, unlogged: 0 };
        let window = self.windows.entry(key).or_insert(fresh);
        let unlogged = if is_over(window) { window.unlogged } else { 0 };
        if is_over(window) {
            *window = Window { began: now, lines: 0, unlogged: 0 };
        }
        window.lines = window.lines.saturating_add(1);
        match window.lines {
            ..LINES => Verdict::Log { unlogged },
            LINES => Verdict::LogAsLast,
            _ => {
                window.unlogged += 1;
                Verdict::Drop
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const LOG: Verdict = Verdict::Log { unlogged: 0 };

    #[test]
    fn a_flood_is_logged_a_hundred_times_and_then_counted_and_the_next_line_has_the_number() {
        let (mut counts, now) = (LineCounts::default(), Instant::now());
        assert!((1..LINES).all(|_| counts.count("closed", HERE, now) == LOG));
        assert_eq!(counts.count("closed", HERE, now), Verdict::LogAsLast);
        assert!((0..9_900).all(|_| counts.count("closed", HERE, now) == Verdict::Drop));
        assert_eq!(counts.count("gone", HERE, now), LOG, "another kind");
        let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(counts.count("closed", other, now), LOG, "another address");
        assert_eq!(counts.count("closed", HERE, now + WINDOW / 2), Verdict::Drop);
        assert_eq!(counts.count("closed", HERE, now + WINDOW), Verdict::Log { unlogged: 9_901 });
        assert_eq!(counts.count("closed", HERE, now + WINDOW), LOG);
    }

    #[test]
    fn floods_from_everywhere_take_no_more_memory_than_from_many_places() {
        let (mut counts, now) = (LineCounts::default(), Instant::now());
        let address = |number: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number));
        let lines =
            (0..100_000).filter(|number| counts.count("closed", address(*number), now) != Verdict::Drop);
        assert_eq!(lines.count(), MAX_WINDOWS + LINES as usize);
        assert!(counts.windows.len() <= MAX_WINDOWS + 1);
        assert_eq!(counts.count("closed", HERE, now + WINDOW), LOG, "there is room again");
        assert_eq!(counts.windows.len(), 1);
    }
}
