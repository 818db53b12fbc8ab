//! One connection of a link: its pending requests, and how it ends.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::course::CourseConnection;
use super::outbox::{Batching, Outbox};
use super::pending::PendingTable;
use crate::packet::{Cancel, Dialect, encode};

/// A connection that lasted this long, or carried a reply, was up. After its loss, the link dials again at once.
const UP_AFTER: Duration = Duration::from_secs(1);

/// One connection of a link.
#[derive(Debug)]
pub struct LinkConnection {
    /// The instance at the other end.
    pub(super) address: Arc<str>,
    pub(super) began: Instant,
    pub(super) outbox: Outbox,
    pub(super) pending: PendingTable,
    /// Present only if the instance is a course service.
    pub(super) course: Option<CourseConnection>,
    /// The connection closes as soon as nothing is pending.
    is_retiring: AtomicBool,
    /// The connection has received a reply.
    is_used: AtomicBool,
}

impl LinkConnection {
    /// A new connection to the instance at `address`.
    pub(super) fn open(stream: Arc<TcpStream>, address: &Arc<str>, dialect: Dialect) -> Arc<Self> {
        let (batching, course) = match dialect {
            Dialect::Pilcrow => (Batching::Together, None),
            Dialect::Course => (Batching::OneByOne, Some(CourseConnection::new(address.clone()))),
        };
        Arc::new(Self {
            address: address.clone(),
            began: Instant::now(),
            outbox: Outbox::new(stream, batching),
            pending: PendingTable::default(),
            course,
            is_retiring: AtomicBool::new(false),
            is_used: AtomicBool::new(false),
        })
    }

    /// Removes the waiter for this reply. True if the request was never sent and will not be.
    pub(super) fn give_up(&self, key: u64) -> bool {
        self.course.as_ref().is_some_and(|course| course.give_up(key, &self.outbox))
    }

    /// The reader of this stream has stopped. Notifies the source, unless it knows that the stream has ended.
    pub(super) fn end_stream(&self, key: u64, uri: &str) {
        self.give_up(key);
        if self.pending.remove(key) {
            self.cancel(uri, key);
        }
        self.close_if_retired();
    }

    /// Notifies the other side that the stream under this key has no reader any more.
    pub(super) fn cancel(&self, uri: &str, key: u64) {
        if self.course.is_none()
            && let Ok(frame) = encode(&Cancel::of(uri, key))
        {
            // If the send fails, the connection has ended, and the stream with it.
            let _ = self.outbox.send(&frame);
        }
    }

    /// Closes the connection as soon as nothing is pending, or now if nothing is.
    pub(super) fn retire(&self) {
        self.is_retiring.store(true, Ordering::SeqCst);
        self.close_if_retired();
    }

    pub(super) fn close_if_retired(&self) {
        if self.is_retiring.load(Ordering::SeqCst) && self.pending.close_if_idle() {
            self.outbox.close();
        }
    }

    /// Records that a reply has arrived.
    pub(super) fn set_used(&self) {
        // Callers read this cache line all the time, so we write it only once.
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
    }

    /// True if the connection was useful, so that the link should dial again at once.
    pub(super) fn was_up(&self) -> bool {
        self.is_used.load(Ordering::Relaxed) || self.began.elapsed() >= UP_AFTER
    }
}
