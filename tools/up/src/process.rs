//! One child process and its threads. Two read its outputs and one waits for its end; they send events to the main
//! thread. If its stdin is a pipe, a fourth one writes to it.

use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
#[cfg(unix)]
use nix::sys::signal::{Signal, kill};
#[cfg(unix)]
use nix::unistd::Pid;

use crate::event::{Event, Source};

/// A longer line is split, so that a child cannot exhaust our memory.
const LINE_BYTES: u64 = 1024 * 1024;

/// How many lines may wait for a child that does not read its stdin. Further ones are dropped: this program never waits
/// for a child.
const WAITING_LINES: usize = 64;

/// How often we check whether a child still runs. A blocking wait would hold the lock of [`Process::terminate`].
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// How long the outputs of an ended child may stay open before its end is reported. A child of that child may hold
/// them.
const OUTPUT_TIMEOUT: Duration = Duration::from_millis(500);

/// Owns a running child. Dropping it kills the child, so no child outlives this program, even after a panic.
pub struct Process {
    child: Arc<Mutex<Child>>,
    /// The lines for its stdin, if that is a pipe. Its writer thread holds the other end.
    lines: Option<Sender<String>>,
}

impl Process {
    /// Starts `command` as process number `id`, and a thread for each of its pipes. Its ready line is expected on
    /// stdout, or on stderr if stdout is no pipe.
    pub fn start(id: usize, name: &str, command: &mut Command, events: &Sender<Event>) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // From here on the guard owns the child: if a thread cannot start, the child is killed.
        let mut process = Self { child: Arc::new(Mutex::new(child)), lines: None };
        if let Some(pipe) = stdin {
            let (sender, lines) = crossbeam_channel::bounded(WAITING_LINES);
            thread::Builder::new().name(format!("{name}-stdin")).spawn(move || write(pipe, &lines))?;
            process.lines = Some(sender);
        }
        // Nothing is ever sent on this channel. Each reader holds `open`; when the last one ends, `closed` disconnects.
        let (open, closed) = crossbeam_channel::bounded(0);
        let reader = |source, is_ready_here| Reader {
            id,
            source,
            is_ready_here,
            events: events.clone(),
            _open: open.clone(),
        };
        let has_stdout = stdout.is_some();
        if let Some(pipe) = stdout {
            reader(Source::Stdout, true).spawn(name, pipe)?;
        }
        if let Some(pipe) = stderr {
            reader(Source::Stderr, !has_stdout).spawn(name, pipe)?;
        }
        drop(open);
        let child = Arc::clone(&process.child);
        let events = events.clone();
        thread::Builder::new()
            .name(format!("{name}-exit"))
            .spawn(move || drop(events.send(Event::Exited { id, status: wait(&child, &closed) })))?;
        Ok(process)
    }

    /// Writes a line to the child's stdin. It is dropped if there is no such pipe, or if the child does not read.
    pub fn tell(&self, line: String) {
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(line);
        }
    }

    /// Freezes the child: it keeps its memory and its connections, and runs no more. Only Unix can do this.
    pub fn freeze(&self) {
        #[cfg(unix)]
        signal(&mut lock(&self.child), Signal::SIGSTOP);
    }

    /// Lets a frozen child run again.
    pub fn resume(&self) {
        #[cfg(unix)]
        signal(&mut lock(&self.child), Signal::SIGCONT);
    }

    /// Asks the child to shut down. Windows has no such request, so there the child is killed.
    pub fn terminate(&self) {
        #[cfg(unix)]
        {
            let mut child = lock(&self.child);
            signal(&mut child, Signal::SIGTERM);
            // A frozen child must run to obey.
            signal(&mut child, Signal::SIGCONT);
        }
        #[cfg(not(unix))]
        self.kill();
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
fn signal(child: &mut Child, signal: Signal) {
    // The id of an ended child may belong to another process by now.
    if let (Ok(None), Ok(pid)) = (child.try_wait(), i32::try_from(child.id())) {
        // An error means that the process has already ended.
        let _ = kill(Pid::from_raw(pid), signal);
    }
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
    /// Whether the ready line comes here.
    is_ready_here: bool,
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
        read_lines(pipe, |text| self.tell(text));
    }

    /// `None` if the main thread has stopped receiving.
    fn tell(&self, text: String) -> Option<()> {
        let address = ready_address(&text).filter(|_| self.is_ready_here);
        self.events.send(Event::Line { id: self.id, source: self.source, text }).ok()?;
        match address {
            Some(address) => self.events.send(Event::Ready { id: self.id, address }).ok(),
            None => Some(()),
        }
    }
}

/// Reads lines until their end, or until `tell` returns `None`.
pub fn read_lines(pipe: impl Read, tell: impl Fn(String) -> Option<()>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while matches!(pipe.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        line.clear();
        if tell(text).is_none() {
            return;
        }
    }
}

/// Writes lines until the child closes its stdin or its [`Process`] is dropped.
fn write(mut pipe: impl Write, lines: &Receiver<String>) {
    for line in lines {
        if pipe.write_all(format!("{line}\n").as_bytes()).is_err() {
            return;
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
