//! The events of the main thread, and the reasons to stop.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

/// How long the end of a child waits for an explanation. A terminal also sends Ctrl-C to the children. A child may end
/// before our own [`Event::Interrupt`] arrives; then it obeyed the signal and did not fail.
pub const SAME_MOMENT: Duration = Duration::from_millis(300);

/// Every event outside the main thread. `id` is the number with which its process was started.
#[derive(Debug)]
pub enum Event {
    /// A process wrote a line.
    Line { id: usize, source: Source, text: String },
    /// A process reported on stdout that it serves, and at which address.
    Ready { id: usize, address: SocketAddr },
    /// A process ended, and its last lines were sent before this. `None`: the system did not report the status.
    Exited { id: usize, status: Option<ExitStatus> },
    /// The user typed a line.
    Typed(String),
    /// Ctrl-C, or a signal that stops this process.
    Interrupt,
}

/// The output to which a process wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The output on which a service reports that it is ready.
    Stdout,
    /// The output on which a service logs.
    Stderr,
}

/// The reason why everything stops.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The user requested it, which is a success.
    Interrupted,
    /// A failure, with a sentence that describes it.
    Failed(String),
}
