//! The context of a request, which the calls that are made for it inherit: the deadline, the hops and the origin.
//!
//! A handler takes it from its request (`request.context()`) and hands it to each call. So a service stops its work when the asker has given up. Services that call each other in a ring get an error
//! instead of a storm. A program that makes calls of its own hands over `Context::default()`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use crate::packet::{Origin, Outgoing};

/// How long a caller without a deadline waits at most.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most services that a request may pass through. A request with more of them is in a ring.
pub const MAX_HOPS: u32 = 8;

/// What the calls for a request inherit from it.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Until when the asker waits.
    pub deadline: Option<Instant>,
    /// Through how many services the request has come.
    pub hops: u32,
    /// Where the request began, if it came through a gateway.
    pub origin: Option<Arc<Origin>>,
}

impl Context {
    /// Until when a call may wait that takes at most `limit`.
    #[must_use]
    pub fn deadline_within(&self, limit: Duration) -> Instant {
        let latest = Instant::now() + limit;
        self.deadline.map_or(latest, |deadline| deadline.min(latest))
    }

    /// A request that is sent on behalf of the one with this context.
    #[must_use]
    pub fn request<'a>(&'a self, method: &'a str, uri: &'a str, params: &'a RawValue) -> Outgoing<'a> {
        Outgoing { uri, method, params, hops: self.hops, origin: self.origin.as_deref() }
    }
}
