//! The pending table: who waits for the reply under which key of one connection.
//!
//! A caller registers before it sends, and gets a key. The thread that reads the connection delivers each reply by its
//! key. When the connection ends, the table is closed. Each waiter is dropped, which wakes its caller.
//!
//! *Invariant:* the table uses no socket. After it was closed, it rejects every registration.

use std::collections::HashMap;
use std::sync::Mutex;

use super::mailbox::ReplySender;
use super::reply::{Refusal, ReplyFrame};
use super::stream::StreamQueue;
use crate::sync::lock;

/// A key that no waiter has: the table gives out keys from 1 up.
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

/// Who waits for the replies under a key.
#[derive(Debug)]
pub enum Waiter {
    /// A caller, for one reply.
    Caller(ReplySender),
    /// The reader of a stream, which was asked for at this URI.
    Reader(StreamQueue, String),
}

/// What became of a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Its waiter has it.
    Delivered,
    /// Nobody waits for it any more.
    Orphan,
    /// It was one too many for the reader of the stream that was asked for at this URI: the stream has ended here.
    Lagging(String),
}

impl PendingTable {
    /// Adds a waiter under a new key, if there are fewer than `limit`.
    ///
    /// # Errors
    /// That the connection has ended, or that too many wait.
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

    /// Closes the table if it is empty. Returns whether it is closed.
    pub fn close_if_idle(&self) -> bool {
        let mut pending = lock(&self.pending);
        pending.is_closed |= pending.waiters.is_empty();
        pending.is_closed
    }

    /// Closes the table and drops all waiters. Returns whether there was a caller among them.
    pub fn close(&self) -> bool {
        let waiters = {
            let mut pending = lock(&self.pending);
            pending.is_closed = true;
            std::mem::take(&mut pending.waiters)
        };
        waiters.into_values().any(|waiter| matches!(waiter, Waiter::Caller(_)))
    }

    /// Hands a reply to the waiter with this key.
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
mod tests {
    use std::time::Instant;

    use crossbeam_channel::RecvTimeoutError;

    use super::*;
    use crate::net::mailbox::{Mailbox, mailbox};
    use crate::net::stream::{ReplyStream, StreamEnd, open_queue};

    const LIMIT: usize = 3;

    fn reply(fields: &str) -> ReplyFrame {
        ReplyFrame::parse(&format!("{{{fields}}}")).unwrap()
    }

    fn register_caller(table: &PendingTable) -> (u64, Mailbox) {
        let (sender, mailbox) = mailbox();
        (table.register(Waiter::Caller(sender), LIMIT).unwrap(), mailbox)
    }

    fn register_reader(table: &PendingTable) -> (u64, ReplyStream) {
        let (queue, stream) = open_queue("127.0.0.1:9".into());
        (table.register(Waiter::Reader(queue, "the feed".to_owned()), LIMIT).unwrap(), stream)
    }

    #[test]
    fn each_caller_gets_the_reply_under_its_own_key_in_whatever_order_they_come() {
        let table = PendingTable::default();
        let ((first, mut one), (second, mut two)) = (register_caller(&table), register_caller(&table));
        assert_eq!((first, second), (1, 2), "keys are given out from 1 up");
        assert_eq!(table.deliver(second, reply(r#""seq":2"#)), Delivery::Delivered);
        assert_eq!(table.deliver(first, reply(r#""seq":1"#)), Delivery::Delivered);
        assert_eq!(one.receive(Instant::now()).unwrap().seq, Some(1));
        assert_eq!(two.receive(Instant::now()).unwrap().seq, Some(2));
    }

    #[test]
    fn a_reply_that_nobody_waits_for_is_an_orphan() {
        let table = PendingTable::default();
        let (key, _mailbox) = register_caller(&table);
        assert_eq!(table.deliver(NOBODY, reply("")), Delivery::Orphan);
        assert_eq!(table.deliver(key + 1, reply("")), Delivery::Orphan);
        assert!(table.remove(key) && !table.remove(key));
        assert_eq!(table.deliver(key, reply("")), Delivery::Orphan);
    }

    #[test]
    fn no_more_wait_than_the_limit_allows() {
        let table = PendingTable::default();
        let waiting: Vec<_> = (0..LIMIT).map(|_| register_caller(&table)).collect();
        let one_more = || table.register(Waiter::Caller(mailbox().0), LIMIT);
        assert_eq!(one_more(), Err(Refusal::Busy));
        table.remove(waiting[0].0);
        assert_eq!(one_more(), Ok(4), "no key is given out twice");
    }

    #[test]
    fn a_reader_keeps_its_key_until_the_last_reply() {
        let table = PendingTable::default();
        let (key, mut stream) = register_reader(&table);
        for more in [true, true, false] {
            assert_eq!(
                table.deliver(key, reply(&format!(r#""more":{more}"#))),
                Delivery::Delivered,
                "{more}"
            );
        }
        assert_eq!(table.deliver(key, reply("")), Delivery::Orphan);
        (0..3).for_each(|_| assert!(stream.next(Instant::now()).unwrap().is_some()));
        assert_eq!(stream.next(Instant::now()), Err(StreamEnd::Finished));
    }

    #[test]
    fn a_reader_that_does_not_keep_up_is_taken_out() {
        let table = PendingTable::default();
        let (key, _stream) = register_reader(&table);
        let long = reply(&format!(r#""results":"{}","more":true"#, "x".repeat(600_000)));
        assert_eq!(table.deliver(key, long.clone()), Delivery::Delivered);
        assert_eq!(table.deliver(key, long.clone()), Delivery::Lagging("the feed".to_owned()));
        assert_eq!(table.deliver(key, long), Delivery::Orphan);
    }

    #[test]
    fn a_table_that_is_closed_drops_everybody_and_takes_nobody() {
        let table = PendingTable::default();
        let ((_, mut mailbox), (_, mut stream)) = (register_caller(&table), register_reader(&table));
        assert!(!table.close_if_idle());
        assert!(table.close(), "a caller waited");
        assert_eq!(mailbox.receive(Instant::now()), Err(RecvTimeoutError::Disconnected));
        assert_eq!(stream.next(Instant::now()), Err(StreamEnd::LinkLost));
        assert!(!table.close(), "nobody waits any more");
        let (sender, _mailbox) = super::super::mailbox::mailbox();
        assert_eq!(table.register(Waiter::Caller(sender), LIMIT), Err(Refusal::Down));
    }

    #[test]
    fn an_idle_table_can_be_closed_and_one_with_readers_once_they_are_taken_out() {
        let table = PendingTable::default();
        let (key, mut stream) = register_reader(&table);
        assert_eq!(table.remove_readers(), [(key, "the feed".to_owned())]);
        assert_eq!(stream.next(Instant::now()), Err(StreamEnd::LinkLost));
        assert!(table.close_if_idle());
        let (sender, _mailbox) = super::super::mailbox::mailbox();
        assert_eq!(table.register(Waiter::Caller(sender), LIMIT), Err(Refusal::Down));
    }
}
