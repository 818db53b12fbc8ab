//! The open connections of a port, and how they end: a drain finishes requests that have begun and starts no new ones.
//!
//! This module does not accept connections; [`super::listener`] does.

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// How long a drain waits, from its start, for requests in transit to this process.
pub const SETTLE: Duration = Duration::from_millis(300);

/// How long a drain waits, from its start, for peers that were asked to close their connections.
pub const PARTING: Duration = Duration::from_secs(3);

/// How often a drain checks for idle connections, if nothing else wakes it.
const IDLE_CHECK: Duration = Duration::from_millis(50);

/// The open connections of one port.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<HashMap<u64, Open>>,
    /// Notified when a connection has ended. During a drain, also notified when one has become idle.
    changed: Condvar,
    is_draining: AtomicBool,
}

/// One accepted connection.
#[derive(Debug)]
pub struct Connection {
    /// The socket. Other owners share it to write to it or to shut it down.
    pub stream: Arc<TcpStream>,
    /// The address of the other end, in canonical form.
    pub peer: SocketAddr,
    id: u64,
    state: Arc<DrainState>,
    connections: Arc<Connections>,
}

/// A request in progress. A drain waits until this is dropped.
#[derive(Debug)]
pub struct Work {
    state: Arc<DrainState>,
    connections: Arc<Connections>,
}

/// The state of a connection that a drain needs.
#[derive(Debug)]
struct Open {
    stream: Arc<TcpStream>,
    state: Arc<DrainState>,
}

#[derive(Debug, Default)]
struct DrainState {
    /// The number of requests in progress.
    working: AtomicUsize,
    /// True if the peer was asked to close this connection.
    is_parting: AtomicBool,
}

impl DrainState {
    /// True if a drain may close the connection: no request is in progress, and none is expected.
    fn is_idle(&self, elapsed: Duration) -> bool {
        let patience = if self.is_parting.load(Ordering::SeqCst) { PARTING } else { SETTLE };
        elapsed >= patience && self.working.load(Ordering::SeqCst) == 0
    }
}

impl Connections {
    /// Adds a connection. Returns the stream if `limit` connections are already open.
    pub(super) fn add(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        id: u64,
        limit: usize,
    ) -> Result<Connection, TcpStream> {
        let mut open = lock(&self.open);
        if open.len() >= limit {
            return Err(stream);
        }
        let (stream, state) = (Arc::new(stream), Arc::<DrainState>::default());
        open.insert(id, Open { stream: stream.clone(), state: state.clone() });
        Ok(Connection { stream, peer, id, state, connections: self.clone() })
    }

    /// The number of open connections.
    pub(super) fn count(&self) -> usize {
        lock(&self.open).len()
    }

    /// Waits until a connection has ended, at most `timeout`.
    pub(super) fn await_change(&self, timeout: Duration) {
        drop(self.changed.wait_timeout(lock(&self.open), timeout));
    }

    pub(super) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Closes each connection as soon as it is idle, after [`SETTLE`] ([`PARTING`] if the peer was asked to close).
    /// Cuts off the remaining ones at `limit`. `began` is the moment when the process was asked to shut down.
    pub(super) fn drain(&self, began: Instant, limit: Duration) {
        // Connections that were accepted last get the whole time too.
        let accepted = began.elapsed();
        let mut open = lock(&self.open);
        while !open.is_empty() {
            let elapsed = began.elapsed();
            let left = limit.saturating_sub(elapsed);
            if left.is_zero() {
                break;
            }
            for idle in open.values().filter(|one| one.state.is_idle(elapsed.saturating_sub(accepted))) {
                // Its thread sees the end of the stream, and still answers the requests that it read before.
                let _ = idle.stream.shutdown(Shutdown::Read);
            }
            let pause = IDLE_CHECK.min(left);
            open = self.changed.wait_timeout(open, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        for late in open.values() {
            let _ = late.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Connection {
    /// A number that is unique among all connections of this port.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Records the start of a request. A drain waits until the returned value is dropped.
    #[must_use]
    pub fn work(&self) -> Work {
        self.state.working.fetch_add(1, Ordering::SeqCst);
        Work { state: self.state.clone(), connections: self.connections.clone() }
    }

    /// The number of this connection's requests in progress.
    #[must_use]
    pub fn working(&self) -> usize {
        self.state.working.load(Ordering::SeqCst)
    }

    /// Records that the peer was asked to close this connection. A drain gives the peer time to do so.
    pub fn part(&self) {
        self.state.is_parting.store(true, Ordering::SeqCst);
    }

    /// Waits until a connection of this port has changed, at most `limit`.
    pub(crate) fn await_change(&self, limit: Duration) {
        self.connections.await_change(limit);
    }

    /// True if the process is shutting down: finish requests that have begun, start no new ones.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.connections.is_draining()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.connections.open).remove(&self.id);
        self.connections.changed.notify_all();
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.state.working.fetch_sub(1, Ordering::SeqCst) == 1 && self.connections.is_draining() {
            self.connections.changed.notify_all();
        }
    }
}
