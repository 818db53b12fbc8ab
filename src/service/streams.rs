//! The answering side of streams: many replies under one key.
//!
//! Sending never blocks. The number of unread bytes per peer is limited. A subscriber that falls behind gets a last
//! reply that reports this, and may resume. No other subscriber is affected.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::net::peer::Peer;
use crate::packet::explain::{Explanation, add_to_reply};
use crate::packet::{Answer, Failure, Key, Reply};
use crate::sync::lock;

/// How many streams a service keeps open.
const MAX_STREAMS: usize = 4096;

/// How many unread bytes a peer with streams may have. Beyond this limit its streams end.
const LAG_BYTES: usize = 1024 * 1024;

/// Below this number of unread bytes, a peer has room for more replayed events.
const ROOM_BYTES: usize = 64 * 1024;

/// The open streams, by the peer's number and the text of the key.
#[derive(Debug, Default)]
pub struct StreamTable {
    open: Mutex<HashMap<(u64, String), Arc<Stream>>>,
}

/// The sending end of a stream. Dropping it ends the stream.
#[derive(Debug)]
pub struct StreamSender {
    stream: Arc<Stream>,
    /// The explanation for the first reply, if the request is explained.
    explanation: Option<Mutex<Option<Arc<Explanation>>>>,
    table: Arc<StreamTable>,
}

/// One reply for many subscribers: encoded once, sent under the key of each.
#[derive(Debug)]
pub struct SharedReply {
    /// The frame without its opening brace and key.
    rest: Vec<u8>,
}

#[derive(Debug)]
struct Stream {
    /// The peer's number, kept after the peer has disconnected.
    peer_id: u64,
    key: Key,
    /// `None` after the stream has ended, so that it keeps no connection open.
    peer: Mutex<Option<Arc<Peer>>>,
}

impl StreamTable {
    pub(super) fn open(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        key: Key,
        explanation: Option<&Arc<Explanation>>,
    ) -> Option<StreamSender> {
        let place = (peer.id(), key.json().to_owned());
        let mut open = lock(&self.open);
        if open.len() >= MAX_STREAMS || open.contains_key(&place) {
            return None;
        }
        let stream = Arc::new(Stream { peer_id: peer.id(), key, peer: Mutex::new(Some(peer.clone())) });
        open.insert(place, stream.clone());
        let explanation = explanation.map(|explanation| Mutex::new(Some(explanation.clone())));
        Some(StreamSender { stream, explanation, table: self.clone() })
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.open).len()
    }

    /// Ends the stream under this key, because the asker cancelled it.
    pub(super) fn cancel(&self, peer_id: u64, key: Option<&Key>) {
        let Some(key) = key else { return };
        if let Some(stream) = lock(&self.open).remove(&(peer_id, key.json().to_owned())) {
            stream.detach();
        }
    }

    /// Ends the streams of a peer that has disconnected.
    pub(super) fn forget(&self, peer_id: u64) {
        lock(&self.open).retain(|(peer, _), stream| {
            let stays = *peer != peer_id;
            if !stays {
                stream.detach();
            }
            stays
        });
    }

    /// Ends every stream, with this failure as its last reply.
    pub(super) fn end_all(&self, why: &Failure) {
        let streams: Vec<Arc<Stream>> = lock(&self.open).drain().map(|(_, stream)| stream).collect();
        for stream in streams {
            stream.end(why);
        }
    }
}

impl SharedReply {
    /// Encodes a reply of a stream.
    ///
    /// # Errors
    /// 500 if it has no JSON form.
    pub fn new(reply: Reply) -> Result<Self, Failure> {
        let outcome = Ok(reply);
        let frame = Answer { key: None, outcome: &outcome, more: true }.encode();
        let rest =
            frame.map_err(|error| Failure::new(500, format!("the reply has no JSON form: {error}")))?;
        Ok(Self { rest: rest.get(1..).unwrap_or_default().to_vec() })
    }
}

impl StreamSender {
    /// Sends one reply without waiting. False if the stream has ended: cancelled, disconnected, or too far behind.
    #[must_use]
    pub fn send(&self, reply: &SharedReply) -> bool {
        let Some(peer) = self.stream.peer() else { return false };
        if !peer.outbox().await_room(LAG_BYTES, Instant::now()) {
            self.end(&Failure::new(
                503,
                "you do not keep up with this stream; ask for what comes after the last",
            ));
            return false;
        }
        let mut frame = format!("{{\"key\":{},", self.stream.key.json()).into_bytes();
        frame.extend_from_slice(&reply.rest);
        if let Some(first) = self.explanation.as_ref().and_then(|explanation| lock(explanation).take()) {
            add_to_reply(&mut frame, &first);
        }
        peer.outbox().post(&frame).is_ok()
    }

    /// Waits until the peer has read most of its bytes. False if it does not within `limit`, or if it has disconnected.
    #[must_use]
    pub fn await_room(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        match self.stream.peer() {
            Some(peer) => peer.outbox().await_room(ROOM_BYTES, deadline),
            None => false,
        }
    }

    /// Whether the stream is still open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stream.peer().is_some()
    }

    /// Ends the stream, with the reason as its last reply.
    pub fn end(&self, why: &Failure) {
        self.forget();
        self.stream.end(why);
    }

    fn forget(&self) {
        let place = (self.stream.peer_id, self.stream.key.json().to_owned());
        let mut open = lock(&self.table.open);
        // The asker may have reused the key for another stream.
        if open.get(&place).is_some_and(|one| Arc::ptr_eq(one, &self.stream)) {
            open.remove(&place);
        }
    }
}

impl Drop for StreamSender {
    fn drop(&mut self) {
        self.end(&Failure::new(503, "the service has ended this stream"));
    }
}

impl Stream {
    fn peer(&self) -> Option<Arc<Peer>> {
        lock(&self.peer).clone()
    }

    fn detach(&self) {
        lock(&self.peer).take();
    }

    fn end(&self, why: &Failure) {
        let peer = lock(&self.peer).take();
        if let Some(peer) = peer {
            peer.answer(Some(&self.key), &Err(why.clone()), usize::MAX, None);
        }
    }
}
