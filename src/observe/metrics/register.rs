//! Creates a metric and adds it to the page.

use std::sync::LazyLock;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

pub(super) static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

pub(super) fn counter(name: &str, help: &str) -> IntCounter {
    registered(IntCounter::new(name, help))
}

pub(super) fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

pub(super) fn gauge(name: &str, help: &str) -> IntGauge {
    registered(IntGauge::new(name, help))
}

pub(super) fn histogram(name: &str, help: &str, bounds: &[f64]) -> Histogram {
    registered(Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec())))
}

pub(super) fn histograms(name: &str, help: &str, bounds: &[f64]) -> HistogramVec {
    let opts = HistogramOpts::new(name, help).buckets(bounds.to_vec());
    registered(HistogramVec::new(opts, &["method", "route"]))
}

/// Adds the metric to the page.
pub(super) fn registered<C: Collector + Clone + 'static>(made: prometheus::Result<C>) -> C {
    // Names are constants, each used once. A test creates all of them.
    let made = made.unwrap_or_else(|error| unreachable!("a metric is named wrongly: {error}"));
    if let Err(error) = REGISTRY.register(Box::new(made.clone())) {
        log::error!("a metric is not shown: {error}");
    }
    made
}
