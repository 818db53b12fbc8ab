//! The status of a link, for people who watch it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::Link;

/// The status of a link at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// The instance at the other end, as `host:port`.
    pub address: String,
    /// The state as a word ([`LinkState::name`](super::LinkState::name)).
    pub state: &'static str,
    /// How many requests are in flight.
    pub in_flight: usize,
    /// How many requests in a row failed.
    pub failures: u32,
    /// How long the instance stays set aside, in milliseconds. 0 if it is not.
    pub retry_in_ms: u64,
    /// The dialect of the instance: `pilcrow` or `course`.
    pub dialect: &'static str,
}

impl Link {
    /// The status of this link now.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        let (failures, aside) = self.shared.health.failures();
        LinkStatus {
            address: self.address().to_owned(),
            state: self.state().name(),
            in_flight: self.shared.in_flight.load(Ordering::Relaxed),
            failures,
            retry_in_ms: u64::try_from(aside.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX),
            dialect: self.dialect().name(),
        }
    }
}
