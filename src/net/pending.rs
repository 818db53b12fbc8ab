//! The pending table of one connection: it maps each key to the waiter for its reply.
//!
//! A caller registers before it sends, and gets a key. The thread that reads the connection delivers each reply by its
//! key. When the connection ends, the table closes and drops each waiter, which wakes its caller.
//!
//! *Invariant:* the table uses no socket. After it is closed, it rejects every registration.

use std::collections::HashMap;
use std::sync::Mutex;

use super::mailbox::ReplySender;
use super::reply::{Refusal, ReplyFrame};
use super::stream::StreamQueue;
use crate::sync::lock;

/// A key that no waiter has. The table assigns keys from 1 up.
pub const NOBODY: u64 = 0;

/// The pending table of one connection.
#[derive(Debug, Default)]
pub struct PendingTable {
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    waiters: HashMap<u64, Waiter>,
    last_key: u64,
    is_closed: bool,
}

/// The receiver of the replies under a key.
#[derive(Debug)]
pub enum Waiter {
    /// A caller that waits for one reply.
    Caller(ReplySender),
    /// The reader of a stream that was requested at this URI.
    Reader(StreamQueue, String),
}

/// The result of delivering a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The waiter has it.
    Delivered,
    /// The waiter has left.
    Orphan,
    /// The queue was full for the reader of the stream that was requested at this URI. The stream has ended here.
    Lagging(String),
}

impl PendingTable {
    /// Adds a waiter under a new key, if there are fewer than `limit`.
    ///
    /// # Errors
    /// The connection has ended, or the table is full.
    pub fn register(&self, waiter: Waiter, limit: usize) -> Result<u64, Refusal> {
        let mut pending = lock(&self.pending);
        if pending.is_closed {
            return Err(Refusal::Down);
        }
        if pending.waiters.len() >= limit {
            return Err(Refusal::Busy);
        }
        pending.last_key += 1;
        let key = pending.last_key;
        pending.waiters.insert(key, waiter);
        Ok(key)
    }

    /// Removes the waiter with this key. False if there is none.
    pub fn remove(&self, key: u64) -> bool {
        lock(&self.pending).waiters.remove(&key).is_some()
    }

    /// Removes the readers of streams. Returns their keys and URIs.
    pub fn remove_readers(&self) -> Vec<(u64, String)> {
        let mut removed = Vec::new();
        lock(&self.pending).waiters.retain(|key, waiter| match waiter {
            Waiter::Caller(_) => true,
            Waiter::Reader(_, uri) => {
                removed.push((*key, std::mem::take(uri)));
                false
            }
        });
        removed
    }

    /// Closes the table if it is empty. Returns true if it is closed.
    pub fn close_if_idle(&self) -> bool {
        let mut pending = lock(&self.pending);
        pending.is_closed |= pending.waiters.is_empty();
        pending.is_closed
    }

    /// Closes the table and drops all waiters. Returns true if a caller was among them.
    pub fn close(&self) -> bool {
        let waiters = {
            let mut pending = lock(&self.pending);
            pending.is_closed = true;
            std::mem::take(&mut pending.waiters)
        };
        waiters.into_values().any(|waiter| matches!(waiter, Waiter::Caller(_)))
    }

    /// Delivers a reply to the waiter with this key.
    pub fn deliver(&self, key: u64, reply: ReplyFrame) -> Delivery {
        let mut pending = lock(&self.pending);
        match pending.waiters.remove(&key) {
            None => Delivery::Orphan,
            Some(Waiter::Caller(mailbox)) => {
                drop(pending); // the caller that wakes now wants this lock next
                if mailbox.fill(reply) { Delivery::Delivered } else { Delivery::Orphan }
            }
            Some(Waiter::Reader(queue, uri)) => {
                let has_more = reply.more;
                if !queue.push(reply) {
                    return Delivery::Lagging(uri);
                }
                if has_more {
                    pending.waiters.insert(key, Waiter::Reader(queue, uri));
                }
                Delivery::Delivered
            }
        }
    }
}

#[cfg(test)]
mod tests;
