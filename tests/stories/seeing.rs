//! What whoever runs the processes can see of them.
//!
//! | file | what it shows |
//! | --- | --- |
//! | [`metrics`] | what is counted, and that it is counted right |
//! | [`page`] | `--metrics-listen` |
//! | [`access_log`] | one line a request, and that nobody waits for whoever reads it |

#![allow(clippy::float_cmp, reason = "counts are whole numbers, and a float holds those exactly")]

mod access_log;
mod metrics;
mod page;
