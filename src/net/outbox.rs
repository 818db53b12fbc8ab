//! The writing half of a packet connection.
//!
//! Many threads send over one connection. With a lock around `write` they would wait in line, with one system call
//! each. Instead they append to a queue. *The thread that finds the connection idle writes the whole queue in one
//! call.* Under load, this turns many packets into one write. An idle connection has no extra cost.
//!
//! | method | who calls it |
//! | --- | --- |
//! | [`send`](Outbox::send), [`send_with`](Outbox::send_with) | a thread that sends a request and waits for the reply |
//! | [`hold`](Outbox::hold), then [`flush`](Outbox::flush) | the thread that reads this connection, for its answers |
//! | [`post`](Outbox::post), [`post_latest`](Outbox::post_latest) | a thread that must not write: others wait for it |
//!
//! A thread that writes for others never waits for the peer. When the connection accepts no more bytes, a new thread
//! writes the rest. So a peer that does not read costs its callers only their own timeout.

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::socket_write::{send_at_once, write_by};
use super::{WRITE_TIMEOUT, is_timeout, spawn};
use crate::observe::metrics::WIRE;
use crate::packet::DELIMITER;
use crate::sync::lock;

/// How many bytes may wait for one connection. More means that the peer does not read.
pub const OUTBOX_LIMIT_BYTES: usize = 8 * 1024 * 1024;

/// How many bytes of answers may wait to share a write with later ones.
const HOLD_BYTES: usize = 256 * 1024;

/// A queue that grew beyond this size is freed once it is empty.
const KEEP_BYTES: usize = 16 * 1024;

/// Whether packets that wait together leave in one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// The whole queue in one write.
    Together,
    /// Each packet in a separate write, because course nodes need it.
    OneByOne,
}

/// How many batches one caller writes for others before another thread continues.
const MAX_BATCHES: usize = 64;

/// The sending half of one connection. All senders share it.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: Arc<TcpStream>,
    one_by_one: AtomicBool,
    state: Mutex<OutboxState>,
    /// Wakes the writer thread: a frame was posted, or the connection closed.
    wake: Condvar,
    /// Wakes callers that wait for room: the connection closed. It is separate so that they take no writer's wake-up.
    closed: Condvar,
}

#[derive(Debug, Default)]
struct OutboxState {
    queue: Vec<u8>,
    /// An empty buffer that becomes the queue during a write. So the queue need not grow again each time.
    spare: Vec<u8>,
    /// A frame that a newer one replaces while it waits, such as the distributor's list.
    latest: Option<Arc<[u8]>>,
    /// A thread is writing or is about to.
    writing: bool,
    /// A frame was posted, and the writer thread was not woken since.
    has_news: bool,
    closed: bool,
}

impl OutboxState {
    fn has_work(&self) -> bool {
        !self.closed && (!self.queue.is_empty() || self.latest.is_some())
    }
}

/// Why a packet was not accepted. It was not sent and will not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The connection has ended.
    Closed,
    /// [`OUTBOX_LIMIT_BYTES`] are already waiting: the peer does not read.
    Full,
}

/// A frame that the writer thread will send. Dropping this value wakes that thread.
///
/// A caller that posts many frames keeps these values until the last frame. Then each connection wakes up once and
/// its frames leave in one write.
#[derive(Debug)]
#[must_use = "dropping it wakes the writer thread"]
pub struct Posted(Outbox);

impl Drop for Posted {
    fn drop(&mut self) {
        let is_news = std::mem::take(&mut lock(&self.0.0.state).has_news);
        if is_news {
            self.0.0.wake.notify_one();
        }
    }
}

/// Whether other threads are about to send over the same connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Probably not: send the frame at once.
    None,
    /// Yes: they run first, and their frames share the write.
    Some,
}

/// Whether a writer waits for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Write only the bytes that the connection accepts at once.
    None,
    /// Wait for room, at most [`WRITE_TIMEOUT`].
    WriteTimeout,
}

impl Outbox {
    /// Creates an outbox for this connection.
    #[must_use]
    pub fn new(stream: Arc<TcpStream>, batching: Batching) -> Self {
        let one_by_one = AtomicBool::new(batching == Batching::OneByOne);
        let (state, wake, closed) = (Mutex::new(OutboxState::default()), Condvar::new(), Condvar::new());
        Self(Arc::new(Shared { stream, one_by_one, state, wake, closed }))
    }

    /// Sends each packet in a separate write from now on, because the peer is a course node.
    pub fn set_one_by_one(&self) {
        self.0.one_by_one.store(true, Ordering::Relaxed);
    }

    /// Sends a frame, for callers that then wait for a reply. Never waits for the peer.
    ///
    /// # Errors
    /// The frame was not accepted. A write that fails later closes the connection instead.
    pub fn send(&self, frame: &[u8]) -> Result<(), SendError> {
        self.write_queued(self.queue_copy(frame)?, Patience::None);
        Ok(())
    }

    /// Sends the frame that `write` appends to the queue: [`send`](Self::send) without a copy. `write` runs under the
    /// lock of the queue, so all other senders of this connection wait for it.
    ///
    /// # Errors
    /// `write` failed, or the frame was not accepted. Then no part of it is queued.
    pub fn send_with<E: From<SendError>>(
        &self,
        others: Others,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = self.queue(write)?;
        if others == Others::Some && !state.writing {
            state.writing = true;
            drop(state);
            thread::yield_now();
            state = lock(&self.0.state);
            state.writing = false;
        }
        self.write_queued(state, Patience::None);
        Ok(())
    }

    /// Queues a frame until [`flush`](Self::flush), for the thread that reads this connection. If many bytes already
    /// wait, the peer gets [`WRITE_TIMEOUT`] to read them.
    ///
    /// # Errors
    /// The frame was not accepted.
    pub fn hold(&self, frame: &[u8]) -> Result<(), SendError> {
        // The peer requested these answers and waits for them, so a full queue does not mean that it does not read.
        if lock(&self.0.state).queue.len() + frame.len() > HOLD_BYTES {
            self.flush();
            let _ = self.await_room(HOLD_BYTES, Instant::now() + WRITE_TIMEOUT);
        }
        self.queue_copy(frame).map(drop)
    }

    /// Writes the queue and waits for the peer, at most [`WRITE_TIMEOUT`]. For the thread that reads this connection:
    /// we need not read from a peer that does not read its answers.
    pub fn flush(&self) {
        self.write_queued(lock(&self.0.state), Patience::WriteTimeout);
    }

    /// Leaves a frame to the writer thread, for threads that must not write, such as a database writer or a pool.
    ///
    /// # Errors
    /// The frame was not accepted.
    pub fn post(&self, frame: &[u8]) -> Result<Posted, SendError> {
        self.queue_copy(frame)?.has_news = true;
        Ok(Posted(self.clone()))
    }

    /// Leaves a frame to the writer thread. It replaces the last such frame if that still waits. So a slow reader of
    /// the list skips outdated versions.
    pub fn post_latest(&self, frame: Arc<[u8]>) {
        lock(&self.0.state).latest = Some(frame);
        self.0.wake.notify_one();
    }

    /// Waits until at most `bytes` are queued, for callers that send more than a peer may read at once. False if more
    /// are queued at `deadline`, or the connection has ended.
    #[must_use]
    pub fn await_room(&self, bytes: usize, deadline: Instant) -> bool {
        let mut state = lock(&self.0.state);
        while !state.closed && state.queue.len() > bytes {
            if Instant::now() >= deadline {
                return false;
            }
            // The writer sends no wake-up after a write: few threads wait here, and each checks again soon.
            let waited = self.0.closed.wait_timeout(state, Duration::from_millis(2));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !state.closed
    }

    /// The writer thread: writes posted frames until the connection closes.
    pub fn run(&self) {
        loop {
            let mut state = lock(&self.0.state);
            while !state.closed && (state.writing || !state.has_work()) {
                state = self.0.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return;
            }
            self.write_queued(state, Patience::WriteTimeout);
        }
    }

    /// Closes the connection after all accepted frames have left, at most [`WRITE_TIMEOUT`] later.
    pub fn finish(&self) {
        let deadline = Instant::now() + WRITE_TIMEOUT;
        loop {
            let state = lock(&self.0.state);
            let done = state.closed || !(state.writing || state.has_work());
            if done || Instant::now() >= deadline {
                drop(state);
                return self.close();
            }
            if state.writing {
                drop(self.0.wake.wait_timeout(state, Duration::from_millis(10)));
            } else {
                self.write_queued(state, Patience::WriteTimeout);
            }
        }
    }

    /// Closes the connection at once, in both directions. Its reader sees the end of the stream.
    pub fn close(&self) {
        {
            let mut state = lock(&self.0.state);
            state.closed = true;
            state.queue = Vec::new();
            state.spare = Vec::new();
            state.latest = None;
        }
        self.0.wake.notify_all();
        self.0.closed.notify_all();
        // Dropping our handle would not wake a thread that reads from another handle; a shutdown does.
        let _ = self.0.stream.shutdown(Shutdown::Both);
    }

    /// Appends a frame to the queue.
    fn queue<E: From<SendError>>(
        &self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<MutexGuard<'_, OutboxState>, E> {
        let mut state = lock(&self.0.state);
        if state.closed {
            return Err(SendError::Closed.into());
        }
        let before = state.queue.len();
        let mut written = write(&mut state.queue);
        if before > 0 && state.queue.len() > OUTBOX_LIMIT_BYTES {
            WIRE.overflows.inc();
            written = Err(SendError::Full.into());
        }
        if let Err(error) = written {
            state.queue.truncate(before);
            return Err(error);
        }
        Ok(state)
    }

    fn queue_copy(&self, frame: &[u8]) -> Result<MutexGuard<'_, OutboxState>, SendError> {
        self.queue(|queue| {
            queue.extend_from_slice(frame);
            Ok(())
        })
    }

    /// Writes the queue. If another thread is writing, that thread writes it too.
    fn write_queued<'a>(&'a self, mut state: MutexGuard<'a, OutboxState>, patience: Patience) {
        if state.writing {
            return;
        }
        let mut batches = 0;
        while state.has_work() {
            state.writing = true;
            state.has_news = false;
            let spare = std::mem::take(&mut state.spare);
            let mut batch = std::mem::replace(&mut state.queue, spare);
            let latest = state.latest.take();
            drop(state); // never hold the lock during I/O: others go on queueing
            batches += 1;
            let written = match patience {
                Patience::WriteTimeout => self.0.write(&batch),
                Patience::None => match self.0.write_at_once(&batch) {
                    Ok(count) if count == batch.len() && latest.is_none() && batches < MAX_BATCHES => Ok(()),
                    Ok(count) => {
                        batch.drain(..count);
                        return self.leave_to_a_thread(batch, latest);
                    }
                    Err(error) => Err(error),
                },
            };
            let written = written.and_then(|()| latest.map_or(Ok(()), |frame| self.0.write(&frame)));
            self.close_if_failed(written);
            state = lock(&self.0.state);
            state.writing = false;
            if batch.capacity() <= KEEP_BYTES {
                batch.clear();
                state.spare = batch;
            }
        }
    }

    /// Starts a thread that writes `rest` and all frames queued meanwhile. Callers go on to wait for their replies, and
    /// no other thread writes until it is done.
    fn leave_to_a_thread(&self, rest: Vec<u8>, latest: Option<Arc<[u8]>>) {
        let outbox = self.clone();
        let port = self.0.stream.peer_addr().map_or(0, |peer| peer.port());
        let started = spawn(&format!("rest {port}"), move || {
            let written = outbox.0.write(&rest);
            drop(rest);
            let written = written.and_then(|()| latest.map_or(Ok(()), |frame| outbox.0.write(&frame)));
            outbox.close_if_failed(written);
            let mut state = lock(&outbox.0.state);
            state.writing = false;
            outbox.write_queued(state, Patience::WriteTimeout);
        });
        if let Err(error) = started {
            self.close_if_failed(Err(error));
            lock(&self.0.state).writing = false;
        }
    }

    fn close_if_failed(&self, written: io::Result<()>) {
        if let Err(error) = written {
            log::debug!("writing to {:?} failed: {error}", self.0.stream.peer_addr().ok());
            self.close();
        }
    }
}

impl Shared {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + WRITE_TIMEOUT;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(self.next_write(rest));
            write_by(&self.stream, piece, deadline)?;
            rest = after;
        }
        Ok(())
    }

    /// Writes the bytes that the connection accepts without waiting. Returns their number.
    fn write_at_once(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            let rest = &bytes[written..];
            match send_at_once(&self.stream, &rest[..self.next_write(rest)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Ok(written),
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// How many of these bytes go into one write: all, or only the first packet.
    fn next_write(&self, bytes: &[u8]) -> usize {
        if !self.one_by_one.load(Ordering::Relaxed) {
            return bytes.len();
        }
        memchr::memmem::find(bytes, &DELIMITER).map_or(bytes.len(), |at| at + DELIMITER.len())
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection has ended",
            Self::Full => "the peer does not read what it is sent",
        })
    }
}

impl std::error::Error for SendError {}

#[cfg(test)]
mod tests;
