//! Events for everyone who watches: one sender, any number of readers.
//!
//! A reader never delays the sender. Its queue is bounded, and when it is full, events are lost for this reader. The
//! reader then gets an event `gap` that says how many.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::event_stream::{BATCH_BYTES, append_event};
use crate::sync::{Permit, lock};

/// How many events may wait for one reader.
const MAX_WAITING: usize = 64;

/// The sending side.
#[derive(Default)]
pub struct Broadcast {
    queues: Mutex<Vec<Queue>>,
    watchers: Arc<AtomicUsize>,
}

/// The queue of one reader.
struct Queue {
    events: Sender<Arc<[u8]>>,
    lost: Arc<AtomicU64>,
}

/// The reading side. Dropping it ends it.
pub struct Watcher {
    events: Receiver<Arc<[u8]>>,
    lost: Arc<AtomicU64>,
    _place: Permit<Arc<AtomicUsize>>,
}

impl Broadcast {
    /// How many readers there are.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    /// A new reader. It gets the events that are sent from now on. `None` if `limit` readers exist.
    #[must_use]
    pub fn watch(&self, limit: usize) -> Option<Watcher> {
        let place = Permit::take(self.watchers.clone(), limit)?;
        let (sender, events) = bounded(MAX_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        lock(&self.queues).push(Queue { events: sender, lost: lost.clone() });
        Some(Watcher { events, lost, _place: place })
    }

    /// Sends an event with this name and this JSON to every reader.
    pub fn send(&self, id: Option<u64>, name: &str, json: &str) {
        let mut event = Vec::with_capacity(json.len() + 64);
        append_event(&mut event, id, Some(name), json);
        let event: Arc<[u8]> = event.into();
        lock(&self.queues).retain(|queue| match queue.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                queue.lost.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        });
    }
}

impl Watcher {
    /// Appends the events that have arrived. Waits until `deadline` if there are none. Returns false if none came.
    pub fn append_events(&self, out: &mut Vec<u8>, deadline: Instant) -> bool {
        let Ok(first) = self.events.recv_deadline(deadline) else { return false };
        out.extend_from_slice(&first);
        while out.len() < BATCH_BYTES
            && let Ok(event) = self.events.try_recv()
        {
            out.extend_from_slice(&event);
        }
        match self.lost.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => append_event(out, None, Some("gap"), &format!(r#"{{"lost":{lost}}}"#)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(watcher: &Watcher) -> String {
        let mut out = Vec::new();
        watcher.append_events(&mut out, Instant::now());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_reader_gets_the_events_since_it_came() {
        let broadcast = Broadcast::default();
        broadcast.send(None, "early", "{}");
        let watchers = [broadcast.watch(2).unwrap(), broadcast.watch(2).unwrap()];
        broadcast.send(Some(7), "one", r#"{"a":1}"#);
        for watcher in &watchers {
            assert_eq!(read(watcher), "id: 7\nevent: one\ndata: {\"a\":1}\n\n");
            assert_eq!(read(watcher), "", "nothing more");
        }
    }

    #[test]
    fn a_slow_reader_learns_how_many_events_it_has_lost() {
        let broadcast = Broadcast::default();
        let watcher = broadcast.watch(1).unwrap();
        for _ in 0..MAX_WAITING + 3 {
            broadcast.send(None, "one", "{}");
        }
        let text = read(&watcher);
        assert_eq!(text.matches("event: one").count(), MAX_WAITING);
        assert!(text.ends_with("event: gap\ndata: {\"lost\":3}\n\n"), "{text}");
    }

    #[test]
    fn there_is_a_limit_of_readers_and_a_dropped_one_makes_room() {
        let broadcast = Broadcast::default();
        let first = broadcast.watch(1).unwrap();
        assert!(broadcast.watch(1).is_none());
        drop(first);
        assert_eq!(broadcast.watchers(), 0);
        broadcast.send(None, "one", "{}");
        assert!(lock(&broadcast.queues).is_empty(), "its queue is removed");
        assert!(broadcast.watch(1).is_some());
    }
}
