//! The members of a distributor: the registered nodes, their connections, and the thread that pushes the list to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;
use serde::Serialize;

use crate::net::peer::Peer;
use crate::node::Node;
use crate::observe::metrics::LISTS_PUSHED;
use crate::packet::encode;
use crate::packet::masked::masked;
use crate::registry::{Conflict, Registry, Rejection};
use crate::sync::lock;

/// Changes within this time share one push.
const COALESCE: Duration = Duration::from_millis(5);

/// How many bytes per second all pushes together may send. A proportional pause follows each push.
const PUSH_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// The longest such pause. So a list is never older than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The registered nodes and their connections.
#[derive(Default)]
pub(super) struct Members {
    pub(super) registry: Registry,
    peers: HashMap<u64, Arc<Peer>>,
    /// The next push happens even if the list is unchanged. A new node may have received an older list when it
    /// connected. A node also repeats its registration so that course gateways reconnect to it. They do so only when a
    /// list arrives.
    push_unchanged: bool,
}

#[derive(Serialize)]
struct ListPacket<'a> {
    uri: &'static str,
    method: &'static str,
    key: u8,
    params: &'a [&'a Node],
}

impl Members {
    pub(super) fn new(max_frame_bytes: usize) -> Self {
        Self { registry: Registry::new(max_frame_bytes), ..Self::default() }
    }

    /// Registers a node. Returns its entry, and its conflicts if its name or its routes are new.
    pub(super) fn add(&mut self, peer: &Arc<Peer>, node: Node) -> Result<(Node, Vec<Conflict>), Rejection> {
        let before = self.registry.get(peer.id()).cloned();
        let node = self.registry.register(peer.id(), node, peer.address().ip())?.clone();
        let is_new = self.peers.insert(peer.id(), peer.clone()).is_none();
        self.push_unchanged |= is_new || before.as_ref() == Some(&node);
        let is_known = before.is_some_and(|before| before.name == node.name && before.urls == node.urls);
        let conflicts = if is_known { Vec::new() } else { self.registry.conflicts(peer.id()) };
        Ok((node, conflicts))
    }

    /// Removes a connection that has closed. Returns its registration.
    pub(super) fn remove(&mut self, peer: &Peer) -> Option<Node> {
        self.peers.remove(&peer.id());
        self.registry.remove(peer.id())
    }

    pub(super) fn list_frame(&self) -> Vec<u8> {
        let list = self.registry.list();
        let packet = ListPacket { uri: "/distributes", method: "GET", key: 0, params: &list };
        // Nodes contain only text and numbers, so encoding cannot fail.
        encode(&packet).unwrap_or_default()
    }

    /// The list and the connections that the push thread sends it to: all, or none if the list equals `last`.
    fn take_push(&mut self, last: &[u8]) -> (Vec<u8>, Vec<Arc<Peer>>) {
        let frame = self.list_frame();
        let is_due = std::mem::take(&mut self.push_unchanged) || frame != last;
        let peers = if is_due { self.peers.values().cloned().collect() } else { Vec::new() };
        (frame, peers)
    }
}

pub(super) fn log_list(peer: &Peer, frame: &[u8]) {
    log::debug!("{} ← list, key 0, {} bytes: {}", peer.address(), frame.len(), masked(frame));
}

/// The push thread. It sends the list to every registered node after a change. It ends when the last sender of `wake`
/// is dropped.
pub(super) fn push_changes(wake: &Receiver<()>, members: &Mutex<Members>) {
    let mut last: Arc<[u8]> = Members::default().list_frame().into();
    while wake.recv().is_ok() {
        // No other thread waits for this one. A plain sleep collects changes, which is its purpose.
        thread::sleep(COALESCE);
        let _ = wake.try_recv();
        let (frame, peers) = lock(members).take_push(&last);
        last = frame.into();
        for peer in &peers {
            log_list(peer, &last);
            peer.outbox().post_latest(last.clone());
            LISTS_PUSHED.inc();
        }
        let bytes = last.len() as u64 * peers.len() as u64;
        let pause = Duration::from_millis(bytes * 1000 / PUSH_BYTES_PER_SECOND).min(LONGEST_PAUSE);
        thread::sleep(pause);
    }
}
