//! The distributor: the service registry over TCP.
//!
//! Nodes connect, register, and are sent the list of all nodes whenever it changes. No request between services
//! passes through here; a distributor that ends takes nothing down.
//!
//! With many nodes the list is long, and every change is for everybody: pushing each change by itself would cost
//! the square of the number of nodes, each time. So changes that come together are pushed together, the list is
//! written once and shared, a node that is slow to read skips lists that are out of date, and the pushes
//! together keep to a budget of bytes per second.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;
use serde_json::Value;

use crate::net::listener::{Listener, Serving};
use crate::net::peer::{Answerer, PacketServer, Peer};
use crate::net::spawn;
use crate::node::Node;
use crate::packet::{Failure, Head, Reply, encode};
use crate::registry::Registry;
use crate::sync::lock;

/// Changes within this time are one push.
const COALESCE: Duration = Duration::from_millis(5);

/// What the pushes together may send. A list that goes to many nodes is followed by a pause in proportion.
const PUSH_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// The longest such pause: news is never older than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long connections have, at the end, for packets that are on their way.
const SETTLE: Duration = Duration::from_millis(50);

/// A running distributor.
#[derive(Debug)]
pub struct Distributor {
    serving: Serving,
}

impl Distributor {
    /// Serves the registry on this port.
    ///
    /// # Errors
    /// If the operating system starts no further thread.
    pub fn start(listener: Listener, max_connections: usize, max_frame_bytes: usize) -> io::Result<Self> {
        let (dirty, changes) = bounded(1);
        let state = Arc::new(Mutex::new(State::default()));
        let pushed = state.clone();
        spawn("push", move || push_changes(&changes, &pushed))?;
        let server = PacketServer::new(Arc::new(Desk { state, dirty }), max_frame_bytes);
        let serving = listener.serve("node", max_connections, Arc::new(server))?;
        Ok(Self { serving })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.serving.address()
    }

    /// Ends it. Every node keeps the links that it has and comes back when a distributor does.
    pub fn stop(self, limit: Duration) {
        self.serving.drain(SETTLE, limit);
    }
}

#[derive(Default)]
struct State {
    registry: Registry,
    /// Those who registered: they are sent every change.
    registered: HashMap<u64, Arc<Peer>>,
    /// Those who registered since the last push.
    newcomers: Vec<Arc<Peer>>,
}

/// What the distributor does with those who come to it.
struct Desk {
    state: Arc<Mutex<State>>,
    /// A message means that the list may have changed; one that waits already says the same.
    dirty: Sender<()>,
}

#[derive(Serialize)]
struct ListPacket<'a> {
    uri: &'static str,
    method: &'static str,
    key: u8,
    params: &'a [&'a Node],
}

impl Answerer for Desk {
    /// Whoever connects is sent the list at once, unasked.
    fn connected(&self, peer: &Arc<Peer>) {
        log::info!("{} connected", peer.address());
        let frame = list_frame(&lock(&self.state).registry);
        log_list(peer, frame.len());
        let _ = peer.outbox().send(&frame);
    }

    fn packet(&self, peer: &Arc<Peer>, head: &Head<'_>) {
        let uri = head.uri.as_deref().map(|uri| uri.trim_start_matches('/'));
        let outcome = match (head.method.as_deref(), uri) {
            (Some("POST"), Some("distributes")) => self.register(peer, head),
            (Some("GET"), Some("distributes")) => Reply::ok(lock(&self.state).registry.list()),
            (Some(method), Some(uri)) => Err(Failure::not_found(format!(
                "a distributor answers POST and GET /distributes only, not {method} /{uri}"
            ))),
            _ => return log::debug!("{} sent what is no request; ignored", peer.address()),
        };
        if let Err(failure) = &outcome {
            log::warn!("{}: {failure}", peer.address());
        }
        if let Some(key) = head.answer_key() {
            peer.answer(Some(&key), &outcome, usize::MAX);
        }
    }

    fn gone(&self, peer: &Arc<Peer>) {
        let removed = {
            let mut state = lock(&self.state);
            state.registered.remove(&peer.id());
            state.registry.remove(peer.id())
        };
        match removed {
            Some(node) => {
                log::info!("{} gone: {} at {}", peer.address(), node.name, node.address());
                let _ = self.dirty.try_send(());
            }
            None => log::info!("{} gone; it had not registered", peer.address()),
        }
    }
}

impl Desk {
    fn register(&self, peer: &Arc<Peer>, head: &Head<'_>) -> Result<Reply, Failure> {
        let params = head.params.map_or("null", |params| params.get());
        let params: Value =
            serde_json::from_str(params).map_err(|error| Failure::bad_request(error.to_string()))?;
        let node = Node::from_json(&params)
            .map_err(|why| Failure::bad_request(format!("registration refused: {why}")))?;
        let told = {
            let mut state = lock(&self.state);
            if state.registered.insert(peer.id(), peer.clone()).is_none() {
                state.newcomers.push(peer.clone());
            }
            let node = state.registry.register(peer.id(), node, peer.address().ip());
            let leaving = if node.leaving() { ", leaving" } else { "" };
            format!("{} at {}{leaving}, routes: {}", node.name, node.address(), routes(node))
        };
        log::info!("{} registered: {told}", peer.address());
        let _ = self.dirty.try_send(());
        Reply::ok("registered")
    }
}

fn routes(node: &Node) -> String {
    if node.urls.is_empty() { "none".to_owned() } else { node.urls.join(" ") }
}

fn list_frame(registry: &Registry) -> Vec<u8> {
    let list = registry.list();
    let packet = ListPacket { uri: "/distributes", method: "GET", key: 0, params: &list };
    // Nodes are text and numbers: they always have a JSON form.
    encode(&packet).unwrap_or_default()
}

fn log_list(peer: &Peer, size: usize) {
    log::debug!("{} ← list, key 0, {size} bytes", peer.address());
}

/// The push thread: sends the list to everybody registered when it has changed. Ends when the desk is gone.
fn push_changes(changes: &Receiver<()>, state: &Mutex<State>) {
    let mut last: Arc<[u8]> = Arc::from(list_frame(&Registry::default()));
    while changes.recv().is_ok() {
        // Nobody waits for this thread: a plain sleep lets changes pile up, which is its purpose.
        thread::sleep(COALESCE);
        let _ = changes.try_recv();
        let (frame, everybody, newcomers) = {
            let mut state = lock(state);
            let everybody: Vec<Arc<Peer>> = state.registered.values().cloned().collect();
            (list_frame(&state.registry), everybody, std::mem::take(&mut state.newcomers))
        };
        // What came and went between two pushes changes nothing, but for those who have just registered: what
        // they were sent when they connected may be older.
        let peers = if frame == *last { newcomers } else { everybody };
        last = frame.into();
        for peer in &peers {
            log_list(peer, last.len());
            peer.outbox().post_latest(last.clone());
        }
        let bytes = last.len() as u64 * peers.len() as u64;
        let rest = Duration::from_millis(bytes * 1000 / PUSH_BYTES_PER_SECOND).min(LONGEST_PAUSE);
        thread::sleep(rest);
    }
}
