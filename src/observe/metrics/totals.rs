//! The sums over all routes, for people who watch.

use std::collections::HashMap;
use std::sync::OnceLock;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use serde::Serialize;

use super::RouteTable;
use crate::sync::read;

/// All answers of one kind since the start of the process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteTotals {
    /// How many answers there were.
    pub requests: u64,
    /// How many of them failed, with a status or errorcode from 500 to 599.
    pub failed: u64,
    /// For each bound, in seconds: how many answers took at most so long.
    pub seconds: Vec<(f64, u64)>,
}

impl RouteTable {
    /// The sums over all routes.
    #[must_use]
    pub fn totals(&self) -> RouteTotals {
        let mut totals = RouteTotals { requests: 0, failed: 0, seconds: Vec::new() };
        for metric in self.seconds.collect().iter().flat_map(MetricFamily::get_metric) {
            let histogram = metric.get_histogram();
            totals.requests += histogram.get_sample_count();
            let buckets = histogram.get_bucket();
            totals.seconds.resize(buckets.len(), (0.0, 0));
            for (sum, bucket) in totals.seconds.iter_mut().zip(buckets) {
                *sum = (bucket.upper_bound(), sum.1 + bucket.cumulative_count());
            }
        }
        let routes = read(&self.routes);
        let series = routes.series.values().flat_map(HashMap::values).chain(self.others.get());
        let codes = series.flat_map(|series| series.codes.iter().filter_map(OnceLock::get));
        totals.failed =
            codes.filter(|(code, _)| (500..600).contains(code)).map(|(_, count)| count.get()).sum();
        totals
    }
}
