//! The context of a request: its deadline, hops and origin. The calls for the request inherit it.
//!
//! A handler passes `request.context()` to each call, so it stops when its caller has stopped waiting. A ring of
//! services gets an error instead of a storm. A program that makes its own calls passes `Context::default()`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use crate::packet::explain::Explanation;
use crate::packet::{Origin, Outgoing};

/// The timeout of a caller without a deadline.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many services a request may pass through. A request that exceeds this is in a ring.
pub const MAX_HOPS: u32 = 8;

/// The values that the calls for a request inherit from it.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The moment until which the caller waits.
    pub deadline: Option<Instant>,
    /// The number of services that the request has passed through.
    pub hops: u32,
    /// The origin of the request, if it came through a gateway.
    pub origin: Option<Arc<Origin>>,
    /// The explanation of the request, if it is explained.
    pub explanation: Option<Arc<Explanation>>,
}

impl Context {
    /// The deadline of a call with the timeout `limit`. It never exceeds the deadline of this context.
    #[must_use]
    pub fn deadline_within(&self, limit: Duration) -> Instant {
        let latest = Instant::now() + limit;
        self.deadline.map_or(latest, |deadline| deadline.min(latest))
    }

    /// Adds a step to the explanation of the request, if it is explained. `file` does the step.
    pub fn explain(&self, file: &'static str, step: impl FnOnce() -> String) {
        if let Some(explanation) = &self.explanation {
            explanation.add(file, step());
        }
    }

    /// A request that is sent on behalf of the request with this context.
    #[must_use]
    pub fn request<'a>(&'a self, method: &'a str, uri: &'a str, params: &'a RawValue) -> Outgoing<'a> {
        let (origin, explanation) = (self.origin.as_deref(), self.explanation.as_deref());
        Outgoing { uri, method, params, hops: self.hops, origin, explanation }
    }
}
