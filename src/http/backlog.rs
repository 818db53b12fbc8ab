//! Limits the bytes that a server holds for slow clients: long answers that they do not read, and long bodies that they
//! do not finish.
//!
//! Each client stays within its limits and deadlines, but thousands of clients together could fill the memory. So the
//! sum has a limit too. Beyond it, the server disconnects the client whose bytes it has held longest. A client that
//! reads and writes at a normal pace finishes long before it is the oldest.
//!
//! Short answers and bodies are not counted and take no lock. The number of connections limits them.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use log::Level;

use crate::net::flood::say;
use crate::sync::lock;

/// The limit for the bytes held for all clients together.
pub const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;

/// Answers and bodies up to this length are not counted, in bytes.
const SHORT_BYTES: usize = 64 * 1024;

/// The bytes held for the clients of one port.
#[derive(Debug, Default)]
pub struct Backlog {
    state: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    /// The numbers increase, so the oldest comes first.
    by_number: BTreeMap<u64, Client>,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Client {
    stream: Arc<TcpStream>,
    bytes: usize,
}

/// The bytes held for one client. Dropping this releases them.
#[derive(Debug)]
pub struct HeldBytes<'a> {
    backlog: &'a Backlog,
    stream: &'a Arc<TcpStream>,
    number: Option<u64>,
}

impl Backlog {
    /// Starts to count the bytes held for the client at the other end of `stream`.
    #[must_use]
    pub fn hold<'a>(&'a self, stream: &'a Arc<TcpStream>) -> HeldBytes<'a> {
        HeldBytes { backlog: self, stream, number: None }
    }

    /// How many bytes are counted.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        lock(&self.state).bytes
    }
}

impl HeldBytes<'_> {
    /// Sets how many bytes are held for this client. Beyond [`MAX_HELD_BYTES`] in total, the oldest clients are
    /// disconnected.
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
                let line =
                    format_args!("{peer} cut off: too much is held for clients that read or write slowly");
                say(Level::Warn, "cut off", peer.ip().to_canonical(), line);
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for HeldBytes<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            lock(&self.backlog.state).remove(number);
        }
    }
}

impl Clients {
    fn admit(&mut self, stream: &Arc<TcpStream>) -> u64 {
        self.next += 1;
        self.by_number.insert(self.next, Client { stream: stream.clone(), bytes: 0 });
        self.next
    }

    /// A client that has been disconnected since is not counted.
    fn grow(&mut self, number: u64, bytes: usize) {
        if let Some(client) = self.by_number.get_mut(&number) {
            self.bytes = self.bytes - client.bytes + bytes;
            client.bytes = bytes;
        }
    }

    fn remove(&mut self, number: u64) -> Option<Arc<TcpStream>> {
        let client = self.by_number.remove(&number)?;
        self.bytes -= client.bytes;
        Some(client.stream)
    }

    fn pop_oldest(&mut self) -> Option<Arc<TcpStream>> {
        let oldest = *self.by_number.first_key_value()?.0;
        self.remove(oldest)
    }
}

#[cfg(test)]
mod tests;
