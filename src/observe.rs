//! What a process shows of itself: metrics, one line per request, and the writer of every log line.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`metrics`] | the counters, gauges and histograms of this process |
//! | [`access_log`] | one line for each request |
//! | [`log_writer`] | a bounded queue between log lines and standard error |
//!
//! *Invariant:* this layer knows no connection, no packet and no program. Every layer above may use it.

pub mod access_log;
pub mod log_writer;
pub mod metrics;
