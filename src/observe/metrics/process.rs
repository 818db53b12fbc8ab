//! The operating system's data about this process (Linux; on other systems only the start time).
//!
//! Prometheus uses the same names for every process, in any programming language.

use std::fs;
use std::sync::LazyLock;

use prometheus::{Counter, IntGauge};

use super::register::{gauge, registered};
use crate::clock;

/// How many ticks `/proc` counts per second of processor time. It is the same on every Linux that we run on.
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

/// Records the start of this process, and registers the other values, which are read on request.
pub(super) fn register() {
    let began = gauge("process_start_time_seconds", "Start time of the process since the Unix epoch.");
    began.set(i64::try_from(clock::since_epoch().as_secs()).unwrap_or_default());
    LazyLock::force(&PROCESS);
}

/// Reads the values that change.
pub(super) fn look() {
    let Some(process) = &*PROCESS else { return };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    process.resident.set(field(&status, "VmRSS:").saturating_mul(1024));
    process.threads.set(field(&status, "Threads:"));
    let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // Reading the directory uses a descriptor too.
    process.descriptors.set(i64::try_from(descriptors).unwrap_or_default().saturating_sub(1).max(0));
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    process.processor.inc_by((processor_seconds(&stat) - process.processor.get()).max(0.0));
}

fn field(status: &str, name: &str) -> i64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Fields 14 and 15. The second field is the name of the process, which may contain any characters.
fn processor_seconds(stat: &str) -> f64 {
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok());
    ticks.map(f64::from).sum::<f64>() / TICKS_PER_SECOND
}
