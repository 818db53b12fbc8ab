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

/// Changes within this time are one push.
const COALESCE: Duration = Duration::from_millis(5);

/// How many bytes all pushes together may send. A pause in proportion follows each push.
const PUSH_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// The longest such pause: a list is never older than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The registered nodes and their connections.
#[derive(Default)]
pub(super) struct Members {
    pub(super) registry: Registry,
    peers: HashMap<u64, Arc<Peer>>,
    /// The next push happens even if the list is the same. A new node may have been sent an older list when it
    /// connected. And a node repeats its registration so that course gateways dial it again: they do so only when a
    /// list comes.
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

    /// Forgets a connection that has ended. Returns what it had registered.
    pub(super) fn remove(&mut self, peer: &Peer) -> Option<Node> {
        self.peers.remove(&peer.id());
        self.registry.remove(peer.id())
    }

    pub(super) fn list_frame(&self) -> Vec<u8> {
        let list = self.registry.list();
        let packet = ListPacket { uri: "/distributes", method: "GET", key: 0, params: &list };
        // Nodes are text and numbers: they always have a JSON form.
        encode(&packet).unwrap_or_default()
    }

    /// The list, and the connections that the push thread sends it to: all, or none if `last` is still right.
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

/// The push thread: sends the list to every registered node when it has changed. Ends when the last sender of `wake`
/// is dropped.
pub(super) fn push_changes(wake: &Receiver<()>, members: &Mutex<Members>) {
    let mut last: Arc<[u8]> = Members::default().list_frame().into();
    while wake.recv().is_ok() {
        // Nobody waits for this thread: a plain sleep collects changes, which is its purpose.
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
