//! The writing half of a packet connection.
//!
//! Many threads send over one connection. A lock around `write` would make them wait in line, one system call
//! each. Instead they append to a queue, and *the thread that finds the connection idle writes everything that is
//! queued by then in one call*. Under load that turns many packets into one write, and an idle connection pays nothing.
//!
//! | method | who calls it |
//! | --- | --- |
//! | [`send`](Outbox::send), [`send_with`](Outbox::send_with) | a thread that asks something and will wait for the reply |
//! | [`hold`](Outbox::hold), then [`flush`](Outbox::flush) | the thread that reads this connection, with its answers |
//! | [`post`](Outbox::post), [`post_latest`](Outbox::post_latest) | a thread that must not write, since others wait for it |
//!
//! No thread that writes for others waits for the peer. When the connection takes no more at once, a new thread takes
//! over the rest. So a peer that does not read costs its callers their own timeout and no more.

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

/// What may wait to be written to one connection, in bytes. More means that the peer does not read.
pub const OUTBOX_LIMIT_BYTES: usize = 8 * 1024 * 1024;

/// How many bytes of answers may wait for others that leave in the same write.
const HOLD_BYTES: usize = 256 * 1024;

/// A queue that grew beyond this is given back to the allocator once it is empty.
const KEEP_BYTES: usize = 16 * 1024;

/// Whether packets that wait together leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// All that is queued in one write.
    Together,
    /// Each packet in a write of its own, as course nodes need it.
    OneByOne,
}

/// How many batches one caller writes for others before another thread takes over.
const MAX_BATCHES: usize = 64;

/// The sending half of one connection, shared by all who send on it.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: Arc<TcpStream>,
    one_by_one: AtomicBool,
    state: Mutex<OutboxState>,
    /// Wakes the writer thread: something was posted, or the connection closed.
    wake: Condvar,
    /// Wakes callers that wait for room: the connection closed. They must take no wake from the writer thread.
    closed: Condvar,
}

#[derive(Debug, Default)]
struct OutboxState {
    queue: Vec<u8>,
    /// An empty buffer that becomes the queue while the queue is written, so that it need not grow anew each time.
    spare: Vec<u8>,
    /// A frame that newer ones replace while it waits, such as the distributor's list.
    latest: Option<Arc<[u8]>>,
    /// Some thread writes, or is about to.
    writing: bool,
    /// A frame was posted, and the writer thread has not been woken since.
    has_news: bool,
    closed: bool,
}

impl OutboxState {
    fn has_work(&self) -> bool {
        !self.closed && (!self.queue.is_empty() || self.latest.is_some())
    }
}

/// Why a packet was not taken. It has not left and will not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The connection has ended.
    Closed,
    /// [`OUTBOX_LIMIT_BYTES`] are waiting already: the peer does not read.
    Full,
}

/// A frame that was left to the writer thread. Dropping it wakes that thread.
///
/// A caller that posts many frames keeps these until the last: then each connection is woken once, and its frames leave
/// in one write.
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
    /// Probably not: the frame leaves at once.
    None,
    /// They are: they run first, and what they queue leaves in the same write.
    Some,
}

/// Whether a writer waits for its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// It writes what the connection takes at once.
    None,
    /// It waits for room, at most [`WRITE_TIMEOUT`].
    WriteTimeout,
}

impl Outbox {
    /// An outbox over this connection.
    #[must_use]
    pub fn new(stream: Arc<TcpStream>, batching: Batching) -> Self {
        let one_by_one = AtomicBool::new(batching == Batching::OneByOne);
        let (state, wake, closed) = (Mutex::new(OutboxState::default()), Condvar::new(), Condvar::new());
        Self(Arc::new(Shared { stream, one_by_one, state, wake, closed }))
    }

    /// From now on each packet leaves in a write of its own. For peers that turn out to be course nodes.
    pub fn set_one_by_one(&self) {
        self.0.one_by_one.store(true, Ordering::Relaxed);
    }

    /// Sends a frame. For callers that go on to wait for a reply: never waits for the peer.
    ///
    /// # Errors
    /// If the frame was not taken. A write that fails later closes the connection instead.
    pub fn send(&self, frame: &[u8]) -> Result<(), SendError> {
        self.send_with(Others::None, |queue| {
            queue.extend_from_slice(frame);
            Ok(())
        })
    }

    /// Sends the frame that `write` appends to the queue: [`send`](Self::send) without a copy. `write` runs under the
    /// lock of the queue, so all others who send here wait for it.
    ///
    /// # Errors
    /// Those of `write`, and if the frame was not taken. Nothing of it is queued then.
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

    /// Queues a frame until [`flush`](Self::flush). For the thread that reads this connection: if much waits already,
    /// the peer gets [`WRITE_TIMEOUT`] to read it.
    ///
    /// # Errors
    /// If the frame was not taken.
    pub fn hold(&self, frame: &[u8]) -> Result<(), SendError> {
        // The peer asked for these answers, and waits for them here. It need not count as one that does not read.
        if lock(&self.0.state).queue.len() + frame.len() > HOLD_BYTES {
            self.flush();
            let _ = self.await_room(HOLD_BYTES, Instant::now() + WRITE_TIMEOUT);
        }
        self.queue_copy(frame).map(drop)
    }

    /// Writes what is queued and waits for the peer, at most [`WRITE_TIMEOUT`]. For the thread that reads this
    /// connection: a peer that does not read its answers need not be read.
    pub fn flush(&self) {
        self.write_queued(lock(&self.0.state), Patience::WriteTimeout);
    }

    /// Leaves a frame to the writer thread. For threads that must not write, such as a database writer or a pool.
    ///
    /// # Errors
    /// If the frame was not taken.
    pub fn post(&self, frame: &[u8]) -> Result<Posted, SendError> {
        self.queue_copy(frame)?.has_news = true;
        Ok(Posted(self.clone()))
    }

    /// Leaves a frame to the writer thread that replaces the last such frame, if that still waits. For the list: a slow
    /// reader skips the lists that are out of date.
    pub fn post_latest(&self, frame: Arc<[u8]>) {
        lock(&self.0.state).latest = Some(frame);
        self.0.wake.notify_one();
    }

    /// Waits until no more than `bytes` wait to be written. For callers that send more than a peer may read at once.
    /// False if more wait at `deadline`, or the connection has ended.
    #[must_use]
    pub fn await_room(&self, bytes: usize, deadline: Instant) -> bool {
        let mut state = lock(&self.0.state);
        while !state.closed && state.queue.len() > bytes {
            if Instant::now() >= deadline {
                return false;
            }
            // The writer wakes nobody when it is done: few wait here, and they look again soon.
            let waited = self.0.closed.wait_timeout(state, Duration::from_millis(2));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !state.closed
    }

    /// The writer thread: writes what others post, until the connection closes.
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

    /// Closes the connection once all that was taken has left, at most [`WRITE_TIMEOUT`] later.
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
        // Dropping our handle would not wake the thread that reads from another one; this does.
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

    /// Writes what is queued, unless another thread is writing: that one takes it along.
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

    /// Starts a thread that writes `rest` and what is queued meanwhile. Callers go on to wait for their replies, and no
    /// other thread writes until it is done.
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

    /// Writes what the connection takes without waiting. How many bytes that were.
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

    /// How many of these bytes go into one write: all, or up to the end of the first packet.
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
