//! Lines of the log that a stranger can cause at will, such as "closed: not JSON": said, and in a flood only counted.
//!
//! Each kind of line is said so often for each address within a while; what comes beyond is counted, and the next
//! line that is said has the number. So ten thousand bad packets are seen in the log, and do not fill a disk.

use std::collections::HashMap;
use std::fmt::Arguments;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use log::Level;

use crate::sync::lock;

/// How many lines of one kind are said for one address within a window.
pub const LINES: u32 = 100;

/// How long a window is.
pub const WINDOW: Duration = Duration::from_secs(10);

/// For how many kinds and addresses is counted. Beyond it all addresses count as one.
const MAX_WINDOWS: usize = 1024;

/// Stands for all addresses when there are too many of them.
const ANYBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

static SAID: LazyLock<Mutex<Said>> = LazyLock::new(Mutex::default);

/// Says a line of this kind that somebody at this address has caused, unless there were too many.
pub(crate) fn say(level: Level, kind: &'static str, from: IpAddr, line: Arguments<'_>) {
    if !log::log_enabled!(level) {
        return;
    }
    let permit = lock(&SAID).permit(kind, from, Instant::now());
    match permit {
        Permit::Say(0) => log::log!(level, "{line}"),
        Permit::Say(counted) => {
            log::log!(level, "{line} (before it, {counted} such lines were only counted)");
        }
        Permit::Last => {
            let seconds = WINDOW.as_secs();
            log::log!(level, "{line} (more such lines from {from} within {seconds} s are only counted)");
        }
        Permit::Count => {}
    }
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Permit {
    /// It is said, and so many were not, before it.
    Say(u64),
    /// It is said, and says that it is the last for now.
    Last,
    /// It is counted.
    Count,
}

#[derive(Debug, Default)]
struct Said {
    windows: HashMap<(&'static str, IpAddr), Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    said: u32,
    counted: u64,
}

impl Said {
    fn permit(&mut self, kind: &'static str, from: IpAddr, now: Instant) -> Permit {
        let is_over = |window: &Window| now.saturating_duration_since(window.began) >= WINDOW;
        let mut key = (kind, from);
        if self.windows.len() >= MAX_WINDOWS && !self.windows.contains_key(&key) {
            self.windows.retain(|_, window| !is_over(window));
            if self.windows.len() >= MAX_WINDOWS {
                key.1 = ANYBODY;
            }
        }
        let window = self.windows.entry(key).or_insert(Window { began: now, said: 0, counted: 0 });
        let counted = if is_over(window) {
            let counted = window.counted;
            *window = Window { began: now, said: 0, counted: 0 };
            counted
        } else {
            0
        };
        window.said = window.said.saturating_add(1);
        match window.said {
            ..LINES => Permit::Say(counted),
            LINES => Permit::Last,
            _ => {
                window.counted += 1;
                Permit::Count
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_flood_is_said_a_hundred_times_and_then_counted_and_the_next_line_has_the_number() {
        let (mut said, now) = (Said::default(), Instant::now());
        assert!((1..LINES).all(|_| said.permit("closed", HERE, now) == Permit::Say(0)));
        assert_eq!(said.permit("closed", HERE, now), Permit::Last);
        assert!((0..9_900).all(|_| said.permit("closed", HERE, now) == Permit::Count));
        assert_eq!(said.permit("gone", HERE, now), Permit::Say(0), "another kind");
        let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(said.permit("closed", other, now), Permit::Say(0), "another address");
        assert_eq!(said.permit("closed", HERE, now + WINDOW / 2), Permit::Count);
        assert_eq!(said.permit("closed", HERE, now + WINDOW), Permit::Say(9_901));
        assert_eq!(said.permit("closed", HERE, now + WINDOW), Permit::Say(0));
    }

    #[test]
    fn floods_from_everywhere_take_no_more_room_than_from_many_places() {
        let (mut said, now) = (Said::default(), Instant::now());
        let address = |number: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number));
        let lines =
            (0..100_000).filter(|number| said.permit("closed", address(*number), now) != Permit::Count);
        assert_eq!(lines.count(), MAX_WINDOWS + LINES as usize);
        assert!(said.windows.len() <= MAX_WINDOWS + 1);
        assert_eq!(said.permit("closed", HERE, now + WINDOW), Permit::Say(0), "there is room again");
        assert_eq!(said.windows.len(), 1);
    }
}
