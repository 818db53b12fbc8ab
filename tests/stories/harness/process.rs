//! Real processes, ended by their ids.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{Http, Metrics, PATIENCE, Packets, Program, Scratch, eventually, eventually_within, secrets};

/// A process of ours: its address and its log.
pub struct Process {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    ready_line: String,
    /// The lines on stdout after the first.
    further_lines: Receiver<String>,
}

/// A program that prints lines until it is dropped.
pub struct Watched {
    child: Expected,
    log: Arc<Mutex<Vec<String>>>,
    lines: Receiver<String>,
}

/// The result of a process that exited without a signal from us.
pub struct Output {
    /// `None` if a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The end of a process.
pub struct Ended {
    pub status: ExitStatus,
    /// The time from the signal to the exit.
    pub took: Duration,
    /// The output on stdout after the ready line.
    pub further_lines: Vec<String>,
    /// Its whole log.
    pub log: Vec<String>,
}

impl Process {
    /// A distributor with these flags.
    pub fn distributor(flags: &[&str]) -> Self {
        Program::distributor().flags(flags).start()
    }

    /// A users instance with these flags, on the database of this story.
    pub fn users(distributor: &Process, scratch: &Scratch, flags: &[&str]) -> Self {
        Program::users(distributor.address(), scratch).flags(flags).start()
    }

    /// A gateway with these flags.
    pub fn gateway(distributor: &Process, flags: &[&str]) -> Self {
        Program::gateway(distributor.address()).flags(flags).start()
    }

    /// Waits until this child prints that it is ready. Without a reader, its stderr stays in the child.
    pub(super) fn await_ready(mut child: Child, name: &str, reads_stderr: bool) -> Self {
        let stderr = if reads_stderr { child.stderr.take() } else { None };
        let log = stderr.map(collect).unwrap_or_default();
        let lines = lines(child.stdout.take().unwrap());
        let ready_line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let _ = child.kill();
            panic!("{name} was not ready; its log: {:?}", log.lock().unwrap())
        });
        let address = ready_line.rsplit(' ').next().unwrap().parse().unwrap();
        Self { child, address, log, ready_line, further_lines: lines }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its one line on stdout.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An HTTP client for it.
    pub fn http(&self) -> Http {
        Http::to(self.address)
    }

    /// A packet connection to it.
    pub fn packets(&self) -> Packets {
        Packets::to(self.address)
    }

    /// Its log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Its stderr, of which nothing has been read ([`Program::unread_stderr`]).
    pub fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("a stderr without a reader")
    }

    /// Waits until a log line contains all of these words, and returns that line.
    pub fn await_log(&self, words: &[&str]) -> String {
        eventually(&format!("a log line with {words:?}; the log is {:#?}", self.log()), || {
            self.log().into_iter().find(|line| words.iter().all(|word| line.contains(word)))
        })
    }

    /// Kills the process without a goodbye, like a crash.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its metrics, requested by a packet.
    pub fn metrics(&self) -> Metrics {
        let reply = self.packets().call("GET", "/metrics", &serde_json::json!({}), 1);
        Metrics::parse(reply["results"].as_str().unwrap_or_else(|| panic!("no metrics: {reply}")))
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(id, signal).unwrap();
    }

    /// Sends a signal to end, and waits for the exit.
    #[cfg(unix)]
    pub fn stop(mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        await_exit(&mut self.child, PATIENCE)
    }

    /// Sends a signal to end, waits for the exit, and returns the details.
    #[cfg(unix)]
    pub fn end_by(mut self, signal: nix::sys::signal::Signal) -> Ended {
        let began = Instant::now();
        self.signal(signal);
        let status = await_exit(&mut self.child, PATIENCE);
        let took = began.elapsed();
        // The readers of both pipes may finish a moment after their writer has ended.
        eventually("stderr is closed", || (Arc::strong_count(&self.log) == 1).then_some(()));
        Ended { status, took, further_lines: self.further_lines.iter().collect(), log: self.log() }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its peak resident memory in KiB (Linux).
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.ready_line, self.log().join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !thread::panicking() {
            // The pipe's reader may finish a moment after its writer has ended.
            eventually("stderr is closed", || (Arc::strong_count(&self.log) == 1).then_some(()));
            secrets::assert_no_secret_in(&self.ready_line, &self.log());
        }
    }
}

impl Output {
    /// Waits until this child exits.
    pub(super) fn of(child: Child, patience: Duration) -> Self {
        let mut child = Expected(child);
        let log = collect(child.0.stderr.take().unwrap());
        let stdout = lines(child.0.stdout.take().unwrap());
        let status = await_exit(&mut child.0, patience).code();
        let stdout: Vec<String> = stdout.iter().collect();
        // The pipe's reader may finish a moment after its writer has ended.
        eventually("stderr is closed", || (Arc::strong_count(&log) == 1).then_some(()));
        let log = log.lock().unwrap();
        secrets::assert_no_secret_in("a process that has ended", &log);
        Self { status, stdout: stdout.join("\n"), stderr: log.join("\n") }
    }
}

impl Watched {
    pub(super) fn of(child: Child) -> Self {
        let mut child = Expected(child);
        let log = collect(child.0.stderr.take().unwrap());
        let lines = lines(child.0.stdout.take().unwrap());
        Self { child, log, lines }
    }

    /// Its next line; `None` when it has ended.
    pub fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {PATIENCE:?}"),
        }
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.child.0.id()).unwrap());
        nix::sys::signal::kill(id, signal).unwrap();
    }

    /// Its next line, if there is one already.
    pub fn try_line(&mut self) -> Option<String> {
        self.lines.try_recv().ok()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.child.end();
        if !thread::panicking() {
            secrets::assert_no_secret_in("a program that was watched", &self.log.lock().unwrap());
        }
    }
}

/// A process that should exit without a signal. It is killed if it does not.
struct Expected(Child);

impl Expected {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.end();
    }
}

fn await_exit(child: &mut Child, patience: Duration) -> ExitStatus {
    eventually_within(patience, "the process has ended", || child.try_wait().unwrap())
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (line, lines) = channel();
    thread::spawn(move || {
        BufReader::new(from).lines().map_while(Result::ok).try_for_each(|read| line.send(read))
    });
    lines
}

fn collect(from: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let collected = log.clone();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            collected.lock().unwrap().push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    });
    log
}
