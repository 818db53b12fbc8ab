//! The logs and metrics that operators see.
//!
//! | file | tests |
//! | --- | --- |
//! | [`metrics`] | the metrics count, and count correctly |
//! | [`page`] | `--metrics-listen` |
//! | [`access_log`] | one line per request; a slow reader of the log delays no request |

#![allow(clippy::float_cmp, reason = "counts are whole numbers, and a float holds those exactly")]

mod access_log;
mod metrics;
mod page;
