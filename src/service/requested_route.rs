//! The route that a request names, for the access log and the metrics.

use std::fmt;
use std::sync::Arc;

use crate::observe::metrics::{RouteSeries, SERVICE};

/// The route that a request names, and the counter for it.
pub(super) struct RequestedRoute {
    pub(super) method: String,
    pub(super) uri: String,
    pub(super) series: Arc<RouteSeries>,
}

impl RequestedRoute {
    /// A route of this service.
    pub(super) fn known(method: &str, uri: &str) -> Arc<Self> {
        Self::new(method, uri, Some(uri))
    }

    /// A route that this service does not have. All such requests share one counter, whatever they name.
    pub(super) fn unknown(method: &str, uri: &str) -> Arc<Self> {
        Self::new(method, uri, None)
    }

    fn new(method: &str, uri: &str, route: Option<&str>) -> Arc<Self> {
        let series = SERVICE.of(method, route);
        Arc::new(Self { method: method.to_owned(), uri: uri.to_owned(), series })
    }
}

impl fmt::Debug for RequestedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.uri)
    }
}
