//! The way of every log line to stderr.
//!
//! Whoever reads stderr may be slow or hang, and then a write to it waits. No request waits for that: lines are
//! appended to a bounded buffer under a short lock, and one thread, `log`, writes them, whole lines only. Access
//! lines gather for a moment and are written many at a time; any other line is written at once, with those before
//! it. When the buffer is full, lines are dropped, counted, and the loss is told as soon as there is room.

use std::io::{self, Write};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::{SECOND_BYTES, second_text, since_epoch, three_digits};
use crate::observe::metrics::LOG;
use crate::sync::lock;
use crate::thread::spawn;

/// How many bytes of lines may wait before access lines are dropped, and before others are: a flood of access lines
/// leaves room for what went wrong.
const ACCESS_LIMIT_BYTES: usize = 1024 * 1024;
const LIMIT_BYTES: usize = ACCESS_LIMIT_BYTES + 256 * 1024;

/// With so many bytes waiting, access lines gather no longer.
const HURRY_BYTES: usize = ACCESS_LIMIT_BYTES / 4;

/// How long access lines gather after a write.
const GATHER: Duration = Duration::from_millis(10);

/// A buffer that grew beyond this is given back to the allocator.
const KEEP_BYTES: usize = 2 * HURRY_BYTES;

static OUT: Out = Out { state: Mutex::new(State::new()), wake: Condvar::new(), written: Condvar::new() };

struct Out {
    state: Mutex<State>,
    /// Wakes the thread.
    wake: Condvar,
    /// Tells that all is written that had been taken.
    written: Condvar,
}

struct State {
    waiting: Vec<u8>,
    thread: Doing,
    /// What waits is to be written now.
    hurry: bool,
    /// From now on everything is.
    ending: bool,
    access_dropped: u64,
    other_dropped: u64,
    /// The second that `stamp` tells of: within one, the time is written once.
    second: u64,
    stamp: [u8; SECOND_BYTES],
}

/// What the thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// It waits for a first line.
    Wait,
    /// It has been woken, or lets lines gather.
    Gather,
    Write,
}

impl State {
    const fn new() -> Self {
        Self {
            waiting: Vec::new(),
            thread: Doing::Gather,
            hurry: false,
            ending: false,
            access_dropped: 0,
            other_dropped: 0,
            second: u64::MAX,
            stamp: [b'0'; SECOND_BYTES],
        }
    }

    fn push_stamp(&mut self, now: Duration) {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.stamp = second_text(self.second);
        }
        self.waiting.extend_from_slice(&self.stamp);
        let [first, second, third] = three_digits(now.subsec_millis());
        self.waiting.extend_from_slice(&[b'.', first, second, third, b'Z', b' ']);
    }

    /// What was lost, in a line of its own.
    fn tell_the_loss(&mut self) {
        let (access, other) = (self.access_dropped, self.other_dropped);
        if access + other == 0 {
            return;
        }
        self.push_stamp(since_epoch());
        let told = format!(
            "WARN  {access} access lines and {other} other log lines were dropped: stderr was not read fast enough\n"
        );
        self.waiting.extend_from_slice(told.as_bytes());
        (self.access_dropped, self.other_dropped) = (0, 0);
    }
}

/// Starts the thread that writes.
///
/// # Errors
/// If the operating system starts no further thread.
pub fn start() -> io::Result<()> {
    LazyLock::force(&LOG);
    spawn("log", || OUT.run()).map(drop)
}

/// Leaves an access line of at most `max_bytes`, which `append` writes, and which is given the time and its end here.
/// Never waits for whoever reads stderr.
pub fn access_line(max_bytes: usize, append: impl FnOnce(&mut Vec<u8>)) {
    let now = since_epoch();
    let mut state = lock(&OUT.state);
    if state.waiting.len() + max_bytes > ACCESS_LIMIT_BYTES {
        state.access_dropped += 1;
        LOG.access_dropped.inc();
        return;
    }
    state.push_stamp(now);
    append(&mut state.waiting);
    state.waiting.push(b'\n');
    let hurry = state.waiting.len() >= HURRY_BYTES;
    OUT.appended(state, hurry);
}

/// All other log lines, each in one write that is whole. Never waits for whoever reads stderr.
#[derive(Debug)]
pub struct Lines;

impl Write for Lines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut state = lock(&OUT.state);
        let before = state.waiting.len();
        if before + lines.len() > LIMIT_BYTES {
            state.other_dropped += 1;
            LOG.other_dropped.inc();
        } else {
            state.waiting.extend_from_slice(lines);
            OUT.appended(state, true);
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until all lines are written, at most `limit`: for the end of a process.
pub fn finish(limit: Duration) {
    let deadline = Instant::now() + limit;
    let mut state = lock(&OUT.state);
    state.ending = true;
    OUT.wake.notify_all();
    while state.thread == Doing::Write || !state.waiting.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        state = OUT.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Out {
    fn appended(&self, mut state: MutexGuard<'_, State>, hurry: bool) {
        let wake = state.thread == Doing::Wait || (hurry && !state.hurry);
        if state.thread == Doing::Wait {
            state.thread = Doing::Gather; // woken once
        }
        state.hurry |= hurry;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    fn run(&self) {
        let mut batch = Vec::new();
        loop {
            let mut state = lock(&self.state);
            while state.waiting.is_empty() {
                state.thread = Doing::Wait;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.hurry = false;
            state.thread = Doing::Write;
            state.tell_the_loss();
            std::mem::swap(&mut batch, &mut state.waiting);
            drop(state); // never hold the lock during I/O: others go on appending
            // Where it cannot be written, there is nobody to be told.
            let _ = io::stderr().lock().write_all(&batch);
            batch.clear();
            batch.shrink_to(KEEP_BYTES);
            let mut state = lock(&self.state);
            state.thread = Doing::Gather;
            self.written.notify_all();
            let deadline = Instant::now() + GATHER;
            while !state.ending && !state.hurry {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}
