//! The health of an instance, which a link learns from its calls ("outlier ejection").
//!
//! An instance may be alive but silent: stopped, overloaded, or behind a network that loses packets. Its link is up,
//! but every request on it times out. So a link counts consecutive timeouts and lost connections.
//!
//! - After one failure, *reads* go to other instances for 3 s.
//! - After three failures, all requests do so for 3 s. If the instance does not recover, the time doubles, up to 60 s.
//! - After that time, single reads try the instance. A read without an answer is retried on another instance.
//! - One answer in time resets everything, whatever its content.
//!
//! If no other instance exists, requests go to the one that was set aside.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::observe::metrics::CALLS;
use crate::sync::lock;

/// The number of consecutive failures that sets an instance aside.
const FAILURES: u32 = 3;

/// How long an instance is first set aside. Each repetition without an answer in between doubles it, up to the longest.
const ASIDE: Duration = Duration::from_secs(3);
const LONGEST_ASIDE: Duration = Duration::from_secs(60);

/// After the time aside, only reads may try the instance for this long. Then writes may too.
const READS_FIRST: Duration = Duration::from_secs(3);

/// The health of one instance.
#[derive(Debug, Default)]
pub struct Health {
    address: Arc<str>,
    /// True if `failures` is not empty. Every request reads only this flag, without a lock.
    has_failures: AtomicBool,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    /// How often it was set aside since its last answer.
    times_aside: u32,
    until: Option<Instant>,
}

/// The kind of a request to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Can be retried on another instance.
    Read,
    /// Must not be sent twice, so it goes to an instance that is likely to answer.
    Write,
}

/// The preference for an instance: the lowest rank gets the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthRank {
    /// No recent failure.
    Good,
    /// Its last request failed: reads go to other instances if possible.
    Doubtful,
    /// It was set aside, and the time is over: single reads try it.
    OnTrial,
    /// Set aside.
    Aside,
}

impl Health {
    /// The health of the instance at `address`, without any failure yet.
    #[must_use]
    pub fn of(address: &str) -> Self {
        Self { address: address.into(), ..Self::default() }
    }

    /// Counts an answer that came in time.
    pub fn count_answer(&self) {
        if self.record_answer() {
            log::info!("link {}: the instance answers again", self.address);
        }
    }

    /// Counts a missing answer, or a connection that was lost with pending requests.
    pub fn count_failure(&self) {
        if let Some(aside) = self.record_failure() {
            CALLS.ejections.inc();
            log::warn!(
                "link {}: no answer several times in a row; set aside for {} s, other instances are asked",
                self.address,
                aside.as_secs()
            );
        }
    }

    /// The rank of this instance for such a request now. `in_flight` requests to it are pending.
    #[must_use]
    pub fn rank(&self, intent: Intent, in_flight: usize) -> HealthRank {
        if !self.has_failures.load(Ordering::Relaxed) {
            return HealthRank::Good;
        }
        lock(&self.failures).rank(intent, in_flight, Instant::now())
    }

    /// How many requests in a row failed, and how long the instance stays set aside, if it is.
    #[must_use]
    pub fn failures(&self) -> (u32, Option<Duration>) {
        let failures = lock(&self.failures);
        let until = failures.until.filter(|_| failures.in_a_row >= FAILURES);
        (failures.in_a_row, until.map(|until| until.saturating_duration_since(Instant::now())))
    }

    /// True if it is set aside or on trial.
    #[must_use]
    pub fn is_aside(&self) -> bool {
        self.has_failures.load(Ordering::Relaxed) && lock(&self.failures).in_a_row >= FAILURES
    }

    /// Records an answer that came in time. True if the instance had been set aside.
    pub fn record_answer(&self) -> bool {
        if !self.has_failures.load(Ordering::Relaxed) {
            return false;
        }
        let mut failures = lock(&self.failures);
        let was_aside = failures.in_a_row >= FAILURES;
        *failures = Failures::default();
        self.has_failures.store(false, Ordering::Relaxed);
        was_aside
    }

    /// Records a missing answer, or a connection that was lost with pending requests. If that sets it aside, returns
    /// for how long.
    pub fn record_failure(&self) -> Option<Duration> {
        let mut failures = lock(&self.failures);
        self.has_failures.store(true, Ordering::Relaxed);
        failures.fail(Instant::now())
    }
}

impl Failures {
    fn rank(&self, intent: Intent, in_flight: usize, now: Instant) -> HealthRank {
        let Some(until) = self.until else { return HealthRank::Good };
        if self.in_a_row < FAILURES {
            let doubtful = intent == Intent::Read && now < until;
            return if doubtful { HealthRank::Doubtful } else { HealthRank::Good };
        }
        let trial = match intent {
            Intent::Read => until,
            Intent::Write => until + READS_FIRST,
        };
        match (now >= until, now >= trial && in_flight == 0) {
            (false, _) => HealthRank::Aside,
            (true, false) => HealthRank::OnTrial,
            (true, true) => HealthRank::Good,
        }
    }

    fn fail(&mut self, now: Instant) -> Option<Duration> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row < FAILURES {
            self.until = Some(now + ASIDE);
            return None;
        }
        // Requests that were pending at that moment fail later. They say nothing new about the instance.
        if self.times_aside > 0 && self.until.is_some_and(|until| now < until) {
            return None;
        }
        let aside = ASIDE.saturating_mul(1 << self.times_aside.min(8)).min(LONGEST_ASIDE);
        self.times_aside += 1;
        self.until = Some(now + aside);
        Some(aside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Intent = Intent::Read;
    const WRITE: Intent = Intent::Write;

    fn after(began: Instant, seconds: f64) -> Instant {
        began + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn one_failure_sends_reads_elsewhere_for_three_seconds_and_no_write() {
        let (mut failures, began) = (Failures::default(), Instant::now());
        assert_eq!(failures.rank(READ, 0, began), HealthRank::Good);
        assert_eq!(failures.fail(began), None);
        assert_eq!(failures.rank(READ, 0, after(began, 2.9)), HealthRank::Doubtful);
        assert_eq!(failures.rank(WRITE, 9, after(began, 2.9)), HealthRank::Good);
        assert_eq!(failures.rank(READ, 0, after(began, 3.0)), HealthRank::Good);
    }

    #[test]
    fn the_third_failure_in_a_row_sets_aside_and_each_further_time_for_twice_as_long() {
        let (mut failures, mut now) = (Failures::default(), Instant::now());
        assert_eq!((failures.fail(now), failures.fail(now)), (None, None));
        for seconds in [3, 6, 12, 24, 48, 60, 60] {
            let aside = Duration::from_secs(seconds);
            assert_eq!(failures.fail(now), Some(aside));
            assert_eq!(failures.fail(now), None, "what was under way says nothing new");
            assert_eq!(failures.rank(WRITE, 0, now), HealthRank::Aside);
            assert_eq!(failures.rank(READ, 0, now + aside / 2), HealthRank::Aside);
            now += aside;
        }
    }

    #[test]
    fn after_its_time_aside_one_read_at_a_time_tries_it_and_much_later_a_write() {
        let (mut failures, began) = (Failures::default(), Instant::now());
        for _ in 0..FAILURES {
            failures.fail(began);
        }
        let over = after(began, 3.0);
        assert_eq!(failures.rank(READ, 0, over), HealthRank::Good);
        assert_eq!(failures.rank(READ, 1, over), HealthRank::OnTrial);
        assert_eq!(failures.rank(WRITE, 0, over), HealthRank::OnTrial);
        assert_eq!(failures.rank(WRITE, 0, after(began, 6.0)), HealthRank::Good);
    }

    #[test]
    fn an_answer_makes_everything_good_and_says_whether_it_had_been_set_aside() {
        let health = Health::default();
        assert!(!health.record_answer());
        assert_eq!(health.record_failure(), None);
        assert!(!health.record_answer(), "one failure does not set aside");
        assert_eq!((health.record_failure(), health.record_failure()), (None, None));
        assert_eq!(health.record_failure(), Some(ASIDE));
        assert!(health.is_aside());
        assert_eq!(health.rank(WRITE, 0), HealthRank::Aside);
        assert!(health.record_answer());
        assert!(!health.is_aside());
        assert_eq!(health.rank(READ, 7), HealthRank::Good);
        assert_eq!((health.record_failure(), health.record_failure()), (None, None), "counting begins anew");
    }
}
