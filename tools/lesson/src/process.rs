//! A running process: a program of a learner, or one of the real programs. Its output is read, counted and forgotten
//! except for its last lines.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::children::{self, Pipe};

/// A program that prints more than this during one check is ended.
pub const MAX_OUTPUT: usize = 4 * 1024 * 1024;
/// How many of its last lines are shown after a failure.
const LAST_LINES: usize = 8;
/// How much of one line is kept.
const LINE_BYTES: usize = 500;
/// How long the last output of an ended process may take to arrive.
const OUTPUT_TIME: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A child process. Dropping it kills it.
pub struct Process {
    id: u32,
    output: Arc<Mutex<Output>>,
}

/// What a process has printed.
#[derive(Default)]
struct Output {
    lines: VecDeque<String>,
    line: Vec<u8>,
    bytes: usize,
    limit: usize,
    open_pipes: usize,
}

/// What is known about a process after a check.
pub struct State {
    /// `None` if it still ran.
    pub exit: Option<ExitStatus>,
    pub has_flooded: bool,
    pub last_lines: Vec<String>,
}

impl Process {
    /// Starts it. If it prints more than `max_output`, it is ended.
    pub fn start(command: &mut Command, max_output: usize) -> io::Result<Self> {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (id, stdout, stderr) = children::start(piped)?;
        let process =
            Self { id, output: Arc::new(Mutex::new(Output { limit: max_output, ..Output::default() })) };
        for pipe in [stdout, stderr].into_iter().flatten() {
            lock(&process.output).open_pipes += 1;
            let output = process.output.clone();
            thread::Builder::new()
                .name(format!("output-{id}"))
                .spawn(move || read_output(id, pipe, &output))?;
        }
        Ok(process)
    }

    /// Kills it, like `kill -9`.
    pub fn kill(&self) {
        children::end(self.id);
    }

    pub fn is_running(&self) -> bool {
        children::exit_status(self.id).is_none()
    }

    /// How it ended, if it did, and its last lines.
    pub fn state(&self) -> State {
        let exit = children::exit_status(self.id);
        let end = Instant::now() + OUTPUT_TIME;
        while exit.is_some() && lock(&self.output).open_pipes > 0 && Instant::now() < end {
            thread::sleep(LOOK_EVERY);
        }
        let output = lock(&self.output);
        let has_flooded = output.bytes > output.limit;
        State { exit, has_flooded, last_lines: output.lines.iter().cloned().collect() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        children::end(self.id);
    }
}

fn lock(output: &Mutex<Output>) -> MutexGuard<'_, Output> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread of one pipe.
fn read_output(id: u32, mut pipe: Pipe, output: &Mutex<Output>) {
    let mut piece = [0; 8192];
    while let Ok(count @ 1..) = pipe.read(&mut piece) {
        let mut output = lock(output);
        output.add(&piece[..count]);
        if output.bytes > output.limit {
            drop(output);
            children::end(id);
            break;
        }
    }
    let mut output = lock(output);
    output.end_line();
    output.open_pipes -= 1;
}

impl Output {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                byte if self.line.len() < LINE_BYTES => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end().to_owned();
        if line.is_empty() {
            return;
        }
        if self.lines.len() == LAST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}
