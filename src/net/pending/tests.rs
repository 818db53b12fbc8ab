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
    assert_eq!((first, second), (1, 2), "keys start at 1");
    assert_eq!(table.deliver(second, reply(r#""seq":2"#)), Delivery::Delivered);
    assert_eq!(table.deliver(first, reply(r#""seq":1"#)), Delivery::Delivered);
    assert_eq!(one.receive(Instant::now()).unwrap().seq, Some(1));
    assert_eq!(two.receive(Instant::now()).unwrap().seq, Some(2));
}

#[test]
fn a_reply_without_a_caller_is_an_orphan() {
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
    assert_eq!(one_more(), Ok(4), "no key is used twice");
}

#[test]
fn a_reader_keeps_its_key_until_the_last_reply() {
    let table = PendingTable::default();
    let (key, mut stream) = register_reader(&table);
    for more in [true, true, false] {
        assert_eq!(table.deliver(key, reply(&format!(r#""more":{more}"#))), Delivery::Delivered, "{more}");
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
fn a_closed_table_drops_all_callers_and_accepts_none() {
    let table = PendingTable::default();
    let ((_, mut mailbox), (_, mut stream)) = (register_caller(&table), register_reader(&table));
    assert!(!table.close_if_idle());
    assert!(table.close(), "a caller waited");
    assert_eq!(mailbox.receive(Instant::now()), Err(RecvTimeoutError::Disconnected));
    assert_eq!(stream.next(Instant::now()), Err(StreamEnd::LinkLost));
    assert!(!table.close(), "no request waits any more");
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
