//! The service that normal clients get while others overload the gateway. It measures the speed of normal requests next
//! to thousands of slow clients. It also measures how many requests the gateway completes at twice its capacity.
//!
//! It uses real processes, and one client thread that holds all connections with `epoll`, to use little of the machine.
//! Both share the machine, however: with few processors, the client takes time from the gateway.
//!
//! `cargo bench --bench abuse`, or one part of it: `cargo bench --bench abuse -- slow`, `-- overload`

#![allow(missing_docs, dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, clippy::pedantic)]

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[path = "abuse/client.rs"]
mod client;
#[path = "../tests/stories/harness/mod.rs"]
mod harness;
#[cfg(target_os = "linux")]
#[path = "abuse/measure.rs"]
mod measure;

/// This variable makes the program run the slow service, in a separate process.
const PLAYS: &str = "ABUSE_BENCH_PLAYS_A_SERVICE";

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    if std::env::var_os(PLAYS).is_some() {
        return measure::play_a_service();
    }
    measure::all();
    ExitCode::SUCCESS
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    println!("skipped: it waits with epoll, and looks into /proc");
    ExitCode::SUCCESS
}
