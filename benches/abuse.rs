//! What is left for everybody else while somebody overdoes it: the speed of normal requests beside thousands of slow
//! clients, and what the gateway completes when it is offered twice what it can do.
//!
//! Real processes, and one client thread that holds all connections with `epoll`, so that it takes as little of the
//! machine as it can. Both share the machine, though: with few processors, what a client takes is missing elsewhere.
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

/// Set where this program is to play the service that takes its time, in a process of its own.
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
