//! What the main thread hears about, and why it stops.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

/// How long the end of a child waits for an explanation. A terminal sends Ctrl-C to the children too, and one
/// of them may be gone before our own [`Event::Interrupt`] is heard; then it did not fail, it obeyed.
pub const SAME_MOMENT: Duration = Duration::from_millis(300);

/// Everything that happens outside the main thread. `id` is the number its process was started with.
#[derive(Debug)]
pub enum Event {
    /// A process wrote a line.
    Line { id: usize, source: Source, text: String },
    /// A process said on stdout that it serves, and where.
    Ready { id: usize, address: SocketAddr },
    /// A process ended, and its last lines were sent before this. `None`: the system would not say how.
    Exited { id: usize, status: Option<ExitStatus> },
    /// Ctrl-C, or a signal that asks this process to end.
    Interrupt,
}

/// Which of its two outputs a process wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Where a service prints that it is ready.
    Stdout,
    /// Where a service logs.
    Stderr,
}

/// Why everything stops.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody asked for it: a success.
    Interrupted,
    /// Something went wrong; the sentence says what.
    Failed(String),
}
