//! Pilcrow's stories. Each test starts the real binaries on free ports; its name states the guarantee.
//!
//! One harness ([`harness`]) starts processes, speaks HTTP and packets, and waits for conditions. Every process is
//! ended by its id when its test ends, even if the test fails.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod abuse;
#[cfg(unix)]
mod access;
#[cfg(unix)]
mod chaos;
mod cli;
mod course;
mod course_frames;
mod course_links;
mod course_registry;
mod course_service;
mod deploy;
mod distributor;
#[cfg(target_os = "linux")]
mod documents;
#[cfg(unix)]
mod explain;
mod faults;
mod feed;
mod harness;
mod http_front;
mod invariants;
mod journeys;
#[cfg(target_os = "linux")]
mod lessons;
mod links;
mod look;
mod mesh;
mod model;
mod secret;
mod seeing;
#[cfg(unix)]
mod small;
#[cfg(target_os = "linux")]
mod switches;
#[cfg(unix)]
mod tap;
mod users_api;
