//! How busy a gateway is: requests per second, and how long they take. A value without sockets.
//!
//! A gateway only counts. The rates are the difference between two counts, a few seconds apart.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The rates are those of this time.
const WINDOW: Duration = Duration::from_secs(5);

/// How many counts are kept at most.
const MAX_COUNTS: usize = 64;

/// What a gateway has counted since its start.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Counts {
    pub requests: u64,
    pub failed: u64,
    /// For each bound, in seconds: how many requests took at most so long.
    pub seconds: Vec<(f64, u64)>,
}

/// What happened between two counts.
#[derive(Debug, Clone, Default)]
pub struct Difference {
    counts: Counts,
    time: Duration,
}

/// The rates of one gateway, or of all.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Rates {
    pub requests_per_second: f64,
    pub failed_per_second: f64,
    /// `None` without a request.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// The newest counts of one gateway.
#[derive(Debug, Default)]
pub struct Window(VecDeque<(Instant, Counts)>);

impl Window {
    /// Adds the counts of this moment.
    pub fn push(&mut self, now: Instant, counts: Counts) {
        // A gateway that has started again counts from 0.
        if self.0.back().is_some_and(|(_, last)| counts.requests < last.requests) {
            self.0.clear();
        }
        let is_old = |(at, _): &(Instant, Counts)| now.duration_since(*at) > WINDOW;
        while self.0.len() > 2 && self.0.get(1).is_some_and(is_old) || self.0.len() >= MAX_COUNTS {
            self.0.pop_front();
        }
        self.0.push_back((now, counts));
    }

    /// What happened within the window.
    pub fn difference(&self) -> Difference {
        let (Some((began, first)), Some((now, last))) = (self.0.front(), self.0.back()) else {
            return Difference::default();
        };
        let seconds = last.seconds.iter().enumerate().map(|(at, (bound, count))| {
            let before = first.seconds.get(at).map_or(0, |(_, count)| *count);
            (*bound, count.saturating_sub(before))
        });
        let counts = Counts {
            requests: last.requests.saturating_sub(first.requests),
            failed: last.failed.saturating_sub(first.failed),
            seconds: seconds.collect(),
        };
        Difference { counts, time: now.duration_since(*began) }
    }
}

impl Difference {
    /// Adds what happened at another gateway in the same time.
    pub fn add(&mut self, other: &Self) {
        self.counts.requests += other.counts.requests;
        self.counts.failed += other.counts.failed;
        let seconds = &mut self.counts.seconds;
        if seconds.is_empty() {
            seconds.clone_from(&other.counts.seconds);
        } else {
            seconds.iter_mut().zip(&other.counts.seconds).for_each(|(sum, (_, count))| sum.1 += count);
        }
        self.time = self.time.max(other.time);
    }

    pub fn rates(&self) -> Rates {
        let per_second = |count: u64| {
            let seconds = self.time.as_secs_f64();
            if seconds > 0.0 { to_float(count) / seconds } else { 0.0 }
        };
        Rates {
            requests_per_second: round(per_second(self.counts.requests), 10.0),
            failed_per_second: round(per_second(self.counts.failed), 10.0),
            p50_ms: self.quantile_ms(0.5),
            p99_ms: self.quantile_ms(0.99),
        }
    }

    /// The time that this part of the requests did not exceed. It is interpolated within its bucket.
    fn quantile_ms(&self, part: f64) -> Option<f64> {
        let Counts { requests, seconds, .. } = &self.counts;
        if *requests == 0 {
            return None;
        }
        let wanted = part * to_float(*requests);
        let (mut lower, mut before) = (0.0, 0);
        for (bound, count) in seconds {
            if to_float(*count) >= wanted {
                let within = (wanted - to_float(before)) / to_float((count - before).max(1));
                return Some(round((lower + (bound - lower) * within) * 1000.0, 100.0));
            }
            (lower, before) = (*bound, *count);
        }
        // Beyond the last bound, nothing more is known.
        Some(lower * 1000.0)
    }
}

/// Counts are far below the limit of 2^53, where this loses precision.
#[allow(clippy::cast_precision_loss)]
fn to_float(count: u64) -> f64 {
    count as f64
}

fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64, failed: u64, below: [u64; 3]) -> Counts {
        Counts { requests, failed, seconds: vec![(0.001, below[0]), (0.01, below[1]), (0.1, below[2])] }
    }

    #[test]
    fn rates_are_the_difference_between_two_counts() {
        let (mut window, began) = (Window::default(), Instant::now());
        window.push(began, counts(100, 1, [100, 100, 100]));
        assert_eq!(window.difference().rates(), Rates::default());
        window.push(began + Duration::from_secs(2), counts(300, 5, [200, 290, 300]));
        let rates = window.difference().rates();
        assert_eq!((rates.requests_per_second, rates.failed_per_second), (100.0, 2.0));
        assert_eq!((rates.p50_ms, rates.p99_ms), (Some(1.0), Some(82.0)));
    }

    #[test]
    fn a_gateway_that_counts_from_zero_has_started_again() {
        let (mut window, began) = (Window::default(), Instant::now());
        window.push(began, counts(1000, 0, [1000, 1000, 1000]));
        window.push(began + Duration::from_secs(1), counts(10, 0, [10, 10, 10]));
        assert_eq!(window.difference().rates(), Rates::default());
    }

    #[test]
    fn old_counts_are_forgotten() {
        let (mut window, began) = (Window::default(), Instant::now());
        for second in 0..100 {
            window.push(began + Duration::from_secs(second), counts(second * second, 0, [0, 0, 0]));
        }
        let Difference { time, .. } = window.difference();
        assert!(time >= WINDOW && time <= WINDOW + Duration::from_secs(1), "{time:?}");
    }

    #[test]
    fn the_rates_of_several_gateways_add_up() {
        let mut sum = Difference::default();
        for requests in [10, 30] {
            let one = Difference { counts: counts(requests, 0, [requests; 3]), time: Duration::from_secs(4) };
            sum.add(&one);
        }
        let (p50_ms, p99_ms) = (Some(0.5), Some(0.99));
        assert_eq!(sum.rates(), Rates { requests_per_second: 10.0, failed_per_second: 0.0, p50_ms, p99_ms });
    }
}
