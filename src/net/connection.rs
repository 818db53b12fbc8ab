//! One connection of a link: what is pending on it, and how it ends.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::course::CourseConnection;
use super::outbox::{Batching, Outbox};
use super::pending::PendingTable;
use crate::packet::{Cancel, Dialect, encode};

/// A connection that lasted so long, or over which a reply came, was up. When it is lost, it is dialled again at once.
const UP_AFTER: Duration = Duration::from_secs(1);

/// One connection of a link.
#[derive(Debug)]
pub struct LinkConnection {
    pub(super) began: Instant,
    pub(super) outbox: Outbox,
    pub(super) pending: PendingTable,
    /// Only where the instance is a course service.
    pub(super) course: Option<CourseConnection>,
    /// Close this connection as soon as nothing is pending.
    is_retiring: AtomicBool,
    /// A reply has come.
    is_used: AtomicBool,
}

impl LinkConnection {
    /// A connection that has just been opened to the instance at `address`.
    pub(super) fn open(stream: Arc<TcpStream>, address: &Arc<str>, dialect: Dialect) -> Arc<Self> {
        let (batching, course) = match dialect {
            Dialect::Pilcrow => (Batching::Together, None),
            Dialect::Course => (Batching::OneByOne, Some(CourseConnection::new(address.clone()))),
        };
        Arc::new(Self {
            began: Instant::now(),
            outbox: Outbox::new(stream, batching),
            pending: PendingTable::default(),
            course,
            is_retiring: AtomicBool::new(false),
            is_used: AtomicBool::new(false),
        })
    }

    /// Nobody waits for this reply any more. True if the request was never sent, and will not be.
    pub(super) fn give_up(&self, key: u64) -> bool {
        self.course.as_ref().is_some_and(|course| course.give_up(key, &self.outbox))
    }

    /// The reader of this stream is gone: its source is told, if it does not know that the stream has ended.
    pub(super) fn end_stream(&self, key: u64, uri: &str) {
        self.give_up(key);
        if self.pending.remove(key) {
            self.cancel(uri, key);
        }
        self.close_if_retired();
    }

    /// Tells the other side that nobody reads the stream under this key any more.
    pub(super) fn cancel(&self, uri: &str, key: u64) {
        if self.course.is_none()
            && let Ok(frame) = encode(&Cancel::of(uri, key))
        {
            // If it does not arrive, the connection has ended, and the stream with it.
            let _ = self.outbox.send(&frame);
        }
    }

    /// Closes the connection now if nothing is pending, else as soon as that is so.
    pub(super) fn retire(&self) {
        self.is_retiring.store(true, Ordering::SeqCst);
        self.close_if_retired();
    }

    pub(super) fn close_if_retired(&self) {
        if self.is_retiring.load(Ordering::SeqCst) && self.pending.close_if_idle() {
            self.outbox.close();
        }
    }

    /// A reply has come over it.
    pub(super) fn set_used(&self) {
        // Callers read this cache line all the time, so it is written only once.
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was of use, so that a new one is worth an attempt at once.
    pub(super) fn was_up(&self) -> bool {
        self.is_used.load(Ordering::Relaxed) || self.began.elapsed() >= UP_AFTER
    }
}
