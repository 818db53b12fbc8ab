//! Whether an instance answers: what a link learns of it from its calls ("outlier ejection").
//!
//! An instance may be alive and silent: stopped, overloaded, or behind a network that swallows packets. Its link
//! stands, and whatever is sent over it ends in a time-out. So time-outs and lost connections are counted, in a
//! row: after one, *reads* go elsewhere for a moment; after three, everything does, for 3 s, and each time that it
//! does not recover for twice as long, up to 60 s. Then single reads try it again: a read that gets no answer here
//! gets it elsewhere. One answer in time, whatever it says, and all is well.
//!
//! This is a preference, not a verdict: where there is no other instance, the one that is set aside is asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::observe::metrics::CALLS;
use crate::sync::lock;

/// How many failures in a row set an instance aside.
const FAILURES: u32 = 3;

/// For how long, the first time; each further time without an answer between doubles it, up to the longest.
const ASIDE: Duration = Duration::from_secs(3);
const LONGEST_ASIDE: Duration = Duration::from_secs(60);

/// How long an instance waits for a read to try it, after its time aside, before a write may.
const READS_FIRST: Duration = Duration::from_secs(3);

/// What is known of one instance.
#[derive(Debug, Default)]
pub struct Health {
    address: Arc<str>,
    /// Whether there is anything in `troubles`: the way of every request asks only this.
    troubled: AtomicBool,
    troubles: Mutex<Troubles>,
}

#[derive(Debug, Default)]
struct Troubles {
    failures: u32,
    /// How often it has been set aside since it answered last.
    times_aside: u32,
    until: Option<Instant>,
}

/// What is asked of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Can be asked again elsewhere.
    Read,
    /// Must not be sent twice, so it goes where an answer is likely.
    Write,
}

/// How willingly an instance is given a request: the least comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthRank {
    /// As any other.
    Good,
    /// Its last request failed: reads go elsewhere if they can.
    Doubtful,
    /// It was set aside, and the time is over: to be tried with single reads.
    OnTrial,
    /// Set aside.
    Aside,
}

impl Health {
    /// The health of the instance at `address`, of which nothing bad is known.
    #[must_use]
    pub fn of(address: &str) -> Self {
        Self { address: address.into(), ..Self::default() }
    }

    /// An answer has come in time.
    pub fn count_answer(&self) {
        if self.record_answer() {
            log::info!("link {}: the instance answers again", self.address);
        }
    }

    /// No answer has come in time, or the connection was lost with requests on it.
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

    /// How willingly this instance is given such a request now. `in_flight` requests are on their way to it.
    #[must_use]
    pub fn rank(&self, intent: Intent, in_flight: usize) -> HealthRank {
        if !self.troubled.load(Ordering::Relaxed) {
            return HealthRank::Good;
        }
        lock(&self.troubles).rank(intent, in_flight, Instant::now())
    }

    /// Whether it is set aside, or on trial.
    #[must_use]
    pub fn is_aside(&self) -> bool {
        self.troubled.load(Ordering::Relaxed) && lock(&self.troubles).failures >= FAILURES
    }

    /// It has answered in time. True if it had been set aside.
    pub fn record_answer(&self) -> bool {
        if !self.troubled.load(Ordering::Relaxed) {
            return false;
        }
        let mut troubles = lock(&self.troubles);
        let was_aside = troubles.failures >= FAILURES;
        *troubles = Troubles::default();
        self.troubled.store(false, Ordering::Relaxed);
        was_aside
    }

    /// It has not answered in time, or its connection was lost with requests on it. If that sets it aside: for how
    /// long.
    pub fn record_failure(&self) -> Option<Duration> {
        let mut troubles = lock(&self.troubles);
        self.troubled.store(true, Ordering::Relaxed);
        troubles.fail(Instant::now())
    }
}

impl Troubles {
    fn rank(&self, intent: Intent, in_flight: usize, now: Instant) -> HealthRank {
        let Some(until) = self.until else { return HealthRank::Good };
        if self.failures < FAILURES {
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
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES {
            self.until = Some(now + ASIDE);
            return None;
        }
        // What was under way when it was set aside fails later, and says nothing new.
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
        let (mut troubles, began) = (Troubles::default(), Instant::now());
        assert_eq!(troubles.rank(READ, 0, began), HealthRank::Good);
        assert_eq!(troubles.fail(began), None);
        assert_eq!(troubles.rank(READ, 0, after(began, 2.9)), HealthRank::Doubtful);
        assert_eq!(troubles.rank(WRITE, 9, after(began, 2.9)), HealthRank::Good);
        assert_eq!(troubles.rank(READ, 0, after(began, 3.0)), HealthRank::Good);
    }

    #[test]
    fn the_third_failure_in_a_row_sets_aside_and_each_further_time_for_twice_as_long() {
        let (mut troubles, mut now) = (Troubles::default(), Instant::now());
        assert_eq!((troubles.fail(now), troubles.fail(now)), (None, None));
        for seconds in [3, 6, 12, 24, 48, 60, 60] {
            let aside = Duration::from_secs(seconds);
            assert_eq!(troubles.fail(now), Some(aside));
            assert_eq!(troubles.fail(now), None, "what was under way says nothing new");
            assert_eq!(troubles.rank(WRITE, 0, now), HealthRank::Aside);
            assert_eq!(troubles.rank(READ, 0, now + aside / 2), HealthRank::Aside);
            now += aside;
        }
    }

    #[test]
    fn after_its_time_aside_one_read_at_a_time_tries_it_and_much_later_a_write() {
        let (mut troubles, began) = (Troubles::default(), Instant::now());
        for _ in 0..FAILURES {
            troubles.fail(began);
        }
        let over = after(began, 3.0);
        assert_eq!(troubles.rank(READ, 0, over), HealthRank::Good);
        assert_eq!(troubles.rank(READ, 1, over), HealthRank::OnTrial);
        assert_eq!(troubles.rank(WRITE, 0, over), HealthRank::OnTrial);
        assert_eq!(troubles.rank(WRITE, 0, after(began, 6.0)), HealthRank::Good);
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
