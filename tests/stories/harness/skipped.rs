//! The list of skipped tests. `.ci/run` prints it after the tests.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::thread;

/// Notes that the running test, or a part of it, is skipped because `program` or a feature of the machine is missing.
pub fn skip(program: &str, reason: &str) {
    println!("skipped: {reason}");
    let thread = thread::current();
    let line = format!("{}: {reason} ({program})\n", thread.name().unwrap_or("a test"));
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    // One write per line, because tests run in parallel.
    let written =
        OpenOptions::new().create(true).append(true).open(file).map(|mut file| file.write(line.as_bytes()));
    assert!(matches!(written, Ok(Ok(count)) if count == line.len()), "cannot record a skipped test");
}
