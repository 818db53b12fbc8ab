//! Writes every log line to stderr.
//!
//! The reader of stderr may be slow or hang, and then a write blocks. So requests do not write. They append lines to a
//! bounded buffer under a short lock, and the thread `log` writes the buffer, whole lines only. It writes access lines
//! in batches and any other line at once. When the buffer is full, lines are dropped and counted. The next batch
//! reports the loss.

use std::io::{self, Write};
use std::mem;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{SECOND_BYTES, second_text, since_epoch, three_digits};
use crate::observe::metrics::LOG;
use crate::sync::lock;
use crate::thread::spawn;

/// The buffer size above which access lines are dropped, in bytes.
const ACCESS_LIMIT_BYTES: usize = 1024 * 1024;

/// The buffer size above which other lines are dropped. So a flood of access lines leaves room for errors.
const LIMIT_BYTES: usize = ACCESS_LIMIT_BYTES + 256 * 1024;

/// A batch is written early if the buffer has this many bytes.
const EARLY_BYTES: usize = ACCESS_LIMIT_BYTES / 4;

/// How long access lines are collected after a write.
const BATCH_TIME: Duration = Duration::from_millis(10);

/// A larger buffer is freed.
const KEEP_BYTES: usize = 2 * EARLY_BYTES;

static BUFFER: Buffer =
    Buffer { state: Mutex::new(LogState::new()), appended: Condvar::new(), written: Condvar::new() };

struct Buffer {
    state: Mutex<LogState>,
    /// Notified when the thread must wake up.
    appended: Condvar,
    /// Notified after each write.
    written: Condvar,
}

struct LogState {
    lines: Vec<u8>,
    /// True if the lines must be written without waiting for more.
    is_urgent: bool,
    thread: ThreadState,
    access_dropped: u64,
    other_dropped: u64,
    /// The second that `second_text` shows. It is formatted once and reused.
    second: u64,
    second_text: [u8; SECOND_BYTES],
}

/// The state of the thread. `notify_one` makes a system call even when no thread waits, so we call it only when needed.
#[derive(PartialEq, Eq)]
enum ThreadState {
    WaitsForAnyLine,
    WaitsForUrgentLine,
    /// The thread was notified, but does not have the lock yet.
    Wakes,
    Writes,
}

impl LogState {
    const fn new() -> Self {
        Self {
            lines: Vec::new(),
            is_urgent: false,
            thread: ThreadState::Wakes,
            access_dropped: 0,
            other_dropped: 0,
            second: u64::MAX,
            second_text: [b'0'; SECOND_BYTES],
        }
    }

    fn push_time(&mut self, now: Duration) {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.second_text = second_text(self.second);
        }
        self.lines.extend_from_slice(&self.second_text);
        let [first, second, third] = three_digits(now.subsec_millis());
        self.lines.extend_from_slice(&[b'.', first, second, third, b'Z', b' ']);
    }

    fn report_loss(&mut self) {
        let (access, other) = (mem::take(&mut self.access_dropped), mem::take(&mut self.other_dropped));
        if access + other == 0 {
            return;
        }
        self.push_time(since_epoch());
        let line = format!(
            "WARN  {access} access lines and {other} other log lines were dropped: stderr was not read fast enough\n"
        );
        self.lines.extend_from_slice(line.as_bytes());
    }
}

/// Starts the thread that writes the log.
///
/// # Errors
/// The operating system cannot start another thread.
pub fn start() -> io::Result<()> {
    LazyLock::force(&LOG);
    spawn("log", || BUFFER.write_batches()).map(drop)
}

/// Logs an access line of at most `max_bytes` without blocking. `append` writes its text, without time and newline.
pub fn access_line(max_bytes: usize, append: impl FnOnce(&mut Vec<u8>)) {
    let now = since_epoch();
    let mut state = lock(&BUFFER.state);
    if state.lines.len() + max_bytes > ACCESS_LIMIT_BYTES {
        state.access_dropped += 1;
        LOG.access_dropped.inc();
        return;
    }
    state.push_time(now);
    append(&mut state.lines);
    state.lines.push(b'\n');
    let is_urgent = state.lines.len() >= EARLY_BYTES;
    BUFFER.wake_thread(state, is_urgent);
}

/// The target of all other log lines. Each write is one or more whole lines and does not block.
#[derive(Debug)]
pub struct Lines;

impl Write for Lines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut state = lock(&BUFFER.state);
        if state.lines.len() + lines.len() > LIMIT_BYTES {
            state.other_dropped += 1;
            LOG.other_dropped.inc();
        } else {
            state.lines.extend_from_slice(lines);
            BUFFER.wake_thread(state, true);
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until all lines are written, at most `timeout`. For the end of a process.
pub fn flush(timeout: Duration) {
    let mut state = lock(&BUFFER.state);
    state.is_urgent = true;
    BUFFER.appended.notify_one();
    let is_unwritten = |state: &mut LogState| state.thread == ThreadState::Writes || !state.lines.is_empty();
    drop(BUFFER.written.wait_timeout_while(state, timeout, is_unwritten));
}

impl Buffer {
    fn wake_thread(&self, mut state: MutexGuard<'_, LogState>, is_urgent: bool) {
        state.is_urgent |= is_urgent;
        let must_wake = match state.thread {
            ThreadState::WaitsForAnyLine => true,
            ThreadState::WaitsForUrgentLine => state.is_urgent,
            ThreadState::Wakes | ThreadState::Writes => false,
        };
        if must_wake {
            state.thread = ThreadState::Wakes;
            drop(state);
            self.appended.notify_one();
        }
    }

    fn write_batches(&self) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.await_batch();
            state.thread = ThreadState::Writes;
            state.is_urgent = false;
            state.report_loss();
            mem::swap(&mut batch, &mut state.lines);
            drop(state); // never hold the lock during I/O
            // We cannot report a failure of stderr anywhere else.
            let _ = io::stderr().lock().write_all(&batch);
            batch.clear();
            batch.shrink_to(KEEP_BYTES);
        }
    }

    /// Waits until a batch is due or a line is urgent. If the buffer is then empty, it waits for a first line.
    fn await_batch(&self) -> MutexGuard<'_, LogState> {
        let mut state = lock(&self.state);
        state.thread = ThreadState::WaitsForUrgentLine;
        self.written.notify_all();
        let waited = self.appended.wait_timeout_while(state, BATCH_TIME, |state| !state.is_urgent);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.thread = ThreadState::WaitsForAnyLine;
        let waited = self.appended.wait_while(state, |state| state.lines.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}
