//! How late a packet is, without a common clock.
//!
//! A request states how long its sender still waits. That is correct when the sender writes it. A stopped process or a
//! slow network can delay it until the sender has stopped waiting. If it ran then, an old write would overwrite newer
//! ones. So a request also carries its send time, on a clock that starts with its connection
//! ([`crate::packet::Timing`]). The two clocks differ by an unknown but constant amount. The smallest difference seen
//! belongs to a packet without delay. The excess of any other packet over it is that packet's delay.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// How much faster than the sender's clock ours may run, as one part in this many. The smallest difference may grow at
/// this rate. Otherwise every packet would seem late after days.
const DRIFT: i64 = 1000;

/// The clock of one connection.
#[derive(Debug)]
pub struct Lateness {
    began: Instant,
    /// The smallest difference, and when it was seen, both in milliseconds.
    smallest: Mutex<Option<(i64, i64)>>,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { began: Instant::now(), smallest: Mutex::new(None) }
    }
}

impl Lateness {
    /// The delay of a packet that arrives now and was written `sent_ms` after its connection began. The first packet of
    /// a connection counts as punctual.
    pub fn of(&self, sent_ms: u64) -> Duration {
        let now = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        Self::judge(&mut lock(&self.smallest), now, i64::try_from(sent_ms).unwrap_or(i64::MAX))
    }

    fn judge(smallest: &mut Option<(i64, i64)>, now: i64, sent: i64) -> Duration {
        let difference = now.saturating_sub(sent);
        let known = smallest
            .map_or(difference, |(least, at)| least.saturating_add((now - at) / DRIFT).min(difference));
        // Store only a new value, because the drift counts from the moment when it was seen.
        if smallest.is_none_or(|(least, _)| known != least) {
            *smallest = Some((known, now));
        }
        Duration::from_millis(u64::try_from(difference.saturating_sub(known)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(smallest: &mut Option<(i64, i64)>, now: i64, sent: i64) -> u128 {
        Lateness::judge(smallest, now, sent).as_millis()
    }

    #[test]
    fn a_packet_is_as_late_as_it_came_later_than_the_promptest() {
        let mut clock = None;
        assert_eq!(late(&mut clock, 105, 3), 0, "the first counts as punctual");
        assert_eq!(late(&mut clock, 210, 109), 0, "one that was quicker is the new measure");
        assert_eq!(late(&mut clock, 311, 209), 1);
        assert_eq!(late(&mut clock, 9_001, 300), 8_600 - 8, "the clocks may have drifted by 8 ms since");
        assert_eq!(late(&mut clock, 9_002, 8_801), 100 - 8);
    }

    #[test]
    fn clocks_that_drift_apart_make_no_packet_late() {
        let (mut clock, mut worst) = (None, 0);
        for second in 0..100_000_i64 {
            // 200 parts per million: more than any clock on the market.
            let now = second * 1000 + second / 5;
            worst = worst.max(late(&mut clock, now, second * 1000));
        }
        assert!(worst <= 1, "{worst} ms");
    }

    #[test]
    fn a_senseless_sent_ms_makes_no_peer_late_for_ever() {
        let lateness = Lateness::default();
        for sent in [0, u64::MAX, 1, u64::MAX] {
            lateness.of(sent);
        }
        let mut clock = None;
        late(&mut clock, 0, i64::MAX);
        assert!(late(&mut clock, 1, 0) > 0, "a peer that lies is late by its own account");
    }
}
