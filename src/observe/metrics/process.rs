//! What the operating system knows of this process (Linux; elsewhere only when it began).
//!
//! The names are those that Prometheus has for every process, whatever it is written in.

use std::fs;
use std::sync::LazyLock;

use prometheus::{Counter, IntGauge};

use super::register::{gauge, registered};
use crate::clock;

/// In how many parts `/proc` cuts a second of processor time: the same on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

struct Process {
    resident: IntGauge,
    descriptors: IntGauge,
    threads: IntGauge,
    processor: Counter,
}

static PROCESS: LazyLock<Option<Process>> = LazyLock::new(|| {
    fs::metadata("/proc/self/status").ok()?;
    Some(Process {
        resident: gauge("process_resident_memory_bytes", "Resident memory size in bytes."),
        descriptors: gauge("process_open_fds", "Number of open file descriptors."),
        threads: gauge("process_threads", "Number of threads."),
        processor: registered(Counter::new(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
        )),
    })
});

/// Notes when this process began, and has the rest looked up when it is asked for.
pub(super) fn register() {
    let began = gauge("process_start_time_seconds", "Start time of the process since the Unix epoch.");
    began.set(i64::try_from(clock::since_epoch().as_secs()).unwrap_or_default());
    LazyLock::force(&PROCESS);
}

/// Looks up what changes.
pub(super) fn look() {
    let Some(process) = &*PROCESS else { return };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    process.resident.set(field(&status, "VmRSS:").saturating_mul(1024));
    process.threads.set(field(&status, "Threads:"));
    let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // Looking at the directory takes one as well.
    process.descriptors.set(i64::try_from(descriptors).unwrap_or_default().saturating_sub(1).max(0));
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    process.processor.inc_by((processor_seconds(&stat) - process.processor.get()).max(0.0));
}

fn field(status: &str, name: &str) -> i64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Fields 14 and 15; the second field is the name of the process, which may contain anything.
fn processor_seconds(stat: &str) -> f64 {
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok());
    ticks.map(f64::from).sum::<f64>() / TICKS_PER_SECOND
}
