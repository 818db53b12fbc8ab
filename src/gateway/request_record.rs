//! The record of one HTTP request, for the metrics and the access log.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::observe::access_log::HttpLine;
use crate::observe::metrics::HTTP;

/// The facts that are known about one request so far.
#[derive(Debug)]
pub struct RequestRecord<'a> {
    /// When the request arrived.
    pub began: Instant,
    /// Its id.
    pub id: Cow<'a, str>,
    /// The address of the client.
    pub client: IpAddr,
    /// The method. Empty if the request could not be read.
    pub method: Cow<'a, str>,
    /// The target as it arrived. Empty if the request could not be read.
    pub target: Cow<'a, str>,
    /// The route that the request reached.
    pub route: Option<Cow<'a, str>>,
    /// The instance that answered, or the last one that was asked.
    pub instance: Option<Arc<str>>,
}

impl RequestRecord<'_> {
    /// Counts the answer in the metrics.
    pub fn count(&self, status: u16, took: Duration) {
        HTTP.of(&self.method, self.route.as_deref()).answered(status, took);
    }

    /// Writes the line of the access log. `bytes` is the length of the body that was sent.
    pub fn log(&self, status: u16, bytes: usize, took: Duration) {
        HttpLine {
            id: &self.id,
            client: self.client,
            method: Some(&self.method),
            target: Some(&self.target),
            route: self.route.as_deref(),
            instance: self.instance.as_deref(),
            status,
            bytes,
            took,
        }
        .write();
    }

    /// A copy for a stream, which outlives its request.
    #[must_use]
    pub fn to_static(&self) -> RequestRecord<'static> {
        RequestRecord {
            began: self.began,
            id: Cow::Owned(self.id.to_string()),
            client: self.client,
            method: Cow::Owned(self.method.to_string()),
            target: Cow::Owned(self.target.to_string()),
            route: self.route.as_ref().map(|route| Cow::Owned(route.to_string())),
            instance: self.instance.clone(),
        }
    }
}
