//! One child process and its three threads, which send events to the main thread. Two threads read its outputs, and one
//! waits for its end.

use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::event::{Event, Source};

/// A longer line is split, so that a child cannot exhaust our memory.
const LINE_BYTES: u64 = 1024 * 1024;

/// How often we check whether a child still runs. A blocking wait would hold the lock of [`Process::terminate`].
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// How long the outputs of an ended child may stay open before its end is reported. A child of that child may hold
/// them.
const OUTPUT_TIMEOUT: Duration = Duration::from_millis(500);

/// Owns a running child. Dropping it kills the child, so no child outlives this program, even after a panic.
pub struct Process {
    child: Arc<Mutex<Child>>,
}

impl Process {
    /// Starts `command` as process number `id`. Reads its stdout, and its stderr if `command` pipes it.
    pub fn start(id: usize, name: &str, command: &mut Command, events: &Sender<Event>) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        // From here on the guard owns the child: if a thread cannot start, the child is killed.
        let process = Self { child: Arc::new(Mutex::new(child)) };
        // Nothing is ever sent on this channel. Each reader holds `open`; when the last one ends, `closed` disconnects.
        let (open, closed) = crossbeam_channel::bounded(0);
        if let Some(pipe) = stdout {
            Reader { id, source: Source::Stdout, events: events.clone(), _open: open.clone() }
                .spawn(name, pipe)?;
        }
        if let Some(pipe) = stderr {
            Reader { id, source: Source::Stderr, events: events.clone(), _open: open }.spawn(name, pipe)?;
        }
        let child = Arc::clone(&process.child);
        let events = events.clone();
        thread::Builder::new()
            .name(format!("{name}-exit"))
            .spawn(move || drop(events.send(Event::Exited { id, status: wait(&child, &closed) })))?;
        Ok(process)
    }

    /// Asks the child to shut down. Windows has no such request, so there the child is killed.
    pub fn terminate(&self) {
        let mut child = lock(&self.child);
        // The id of an ended child may belong to another process by now.
        if matches!(child.try_wait(), Ok(None)) {
            request_end(&mut child);
        }
    }

    /// Kills the child immediately.
    pub fn kill(&self) {
        // An error means that the child has already ended.
        let _ = lock(&self.child).kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[cfg(unix)]
fn request_end(child: &mut Child) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    if let Ok(pid) = i32::try_from(child.id()) {
        // An error means that the process has already ended.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

#[cfg(not(unix))]
fn request_end(child: &mut Child) {
    let _ = child.kill();
}

/// A thread that panicked with the lock left a `Child` that can still be killed.
fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns when the child has ended and its output has been read.
fn wait(child: &Mutex<Child>, outputs_closed: &Receiver<Infallible>) -> Option<ExitStatus> {
    let status = loop {
        let answer = lock(child).try_wait();
        match answer {
            Ok(None) => thread::sleep(CHECK_EVERY),
            Ok(Some(status)) => break Some(status),
            Err(_) => break None,
        }
    };
    let _ = outputs_closed.recv_timeout(OUTPUT_TIMEOUT);
    status
}

/// Turns one output of a child into events, line by line.
struct Reader {
    id: usize,
    source: Source,
    events: Sender<Event>,
    /// Dropping it signals that this output was read to its end. The child's exit thread holds the other end.
    _open: Sender<Infallible>,
}

impl Reader {
    fn spawn(self, name: &str, pipe: impl Read + Send + 'static) -> io::Result<()> {
        let name = format!("{name}-{:?}", self.source).to_lowercase();
        thread::Builder::new().name(name).spawn(move || self.read(pipe))?;
        Ok(())
    }

    /// Reads until the output is closed or the main thread has stopped receiving.
    fn read(&self, pipe: impl Read) {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            line.clear();
            if self.tell(text).is_none() {
                return;
            }
        }
    }

    /// `None` if the main thread has stopped receiving.
    fn tell(&self, text: String) -> Option<()> {
        let address = match self.source {
            Source::Stdout => ready_address(&text),
            Source::Stderr => None,
        };
        self.events.send(Event::Line { id: self.id, source: self.source, text }).ok()?;
        match address {
            Some(address) => self.events.send(Event::Ready { id: self.id, address }).ok(),
            None => Some(()),
        }
    }
}

/// The address in `users listening on 127.0.0.1:9020`.
fn ready_address(line: &str) -> Option<SocketAddr> {
    let (_name, address) = line.split_once(" listening on ")?;
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_names_an_address() {
        assert_eq!(ready_address("users listening on 127.0.0.1:9020"), Some(([127, 0, 0, 1], 9020).into()));
        assert!(ready_address("users listening on [::1]:9020").is_some_and(|address| address.is_ipv6()));
        assert_eq!(ready_address("users listening on port 9020"), None);
        assert_eq!(ready_address("hello"), None);
    }
}
