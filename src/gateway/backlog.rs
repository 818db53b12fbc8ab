//! What the gateway holds for clients that are slow: long answers that they do not read, long bodies that do not end.
//!
//! Each of them alone is within its limits and its time. Thousands together would fill the memory. So there is a
//! limit to their sum, and when it is reached the one that has been held longest is cut off: a client that reads
//! and writes as it should is gone long before it is the oldest.
//!
//! What is short passes by without a lock: it is most of all that there is, and the number of connections bounds it.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use log::Level;

use crate::net::flood::say;
use crate::sync::lock;

/// What may be held for all clients together, in bytes.
pub const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;

/// What is no longer than this is not counted, in bytes.
const SHORT_BYTES: usize = 64 * 1024;

/// All that is held for clients of one port.
#[derive(Debug, Default)]
pub struct Backlog {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they came.
    held: BTreeMap<u64, Held>,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Held {
    stream: Arc<TcpStream>,
    bytes: usize,
}

/// Something that is held for one client, until this is dropped.
#[derive(Debug)]
pub struct Holding<'a> {
    backlog: &'a Backlog,
    stream: &'a Arc<TcpStream>,
    number: Option<u64>,
}

impl Backlog {
    /// Holds something, nothing so far, for the client at the other end of `stream`.
    #[must_use]
    pub fn hold<'a>(&'a self, stream: &'a Arc<TcpStream>) -> Holding<'a> {
        Holding { backlog: self, stream, number: None }
    }

    /// How many bytes are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        lock(&self.state).bytes
    }
}

impl Holding<'_> {
    /// Says how long it is by now. Beyond [`MAX_HELD_BYTES`] in all, others are cut off, the oldest first.
    pub fn grow_to(&mut self, bytes: usize) {
        if bytes <= SHORT_BYTES {
            return;
        }
        let mut cut = Vec::new();
        {
            let mut state = lock(&self.backlog.state);
            let number = *self.number.get_or_insert_with(|| state.admit(self.stream));
            state.grow(number, bytes);
            while state.bytes > MAX_HELD_BYTES
                && let Some(oldest) = state.pop_oldest()
            {
                cut.push(oldest);
            }
        }
        for stream in cut {
            if let Ok(peer) = stream.peer_addr() {
                let told =
                    format_args!("{peer} cut off: too much is held for clients that read or write slowly");
                say(Level::Warn, "cut off", peer.ip().to_canonical(), told);
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            lock(&self.backlog.state).remove(number);
        }
    }
}

impl State {
    fn admit(&mut self, stream: &Arc<TcpStream>) -> u64 {
        self.next += 1;
        self.held.insert(self.next, Held { stream: stream.clone(), bytes: 0 });
        self.next
    }

    /// What has been cut off meanwhile counts no more.
    fn grow(&mut self, number: u64, bytes: usize) {
        if let Some(held) = self.held.get_mut(&number) {
            self.bytes = self.bytes - held.bytes + bytes;
            held.bytes = bytes;
        }
    }

    fn remove(&mut self, number: u64) -> Option<Arc<TcpStream>> {
        let held = self.held.remove(&number)?;
        self.bytes -= held.bytes;
        Some(held.stream)
    }

    fn pop_oldest(&mut self) -> Option<Arc<TcpStream>> {
        let oldest = *self.held.first_key_value()?.0;
        self.remove(oldest)
    }
}

#[cfg(test)]
mod tests;
