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
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::Level;
use serde::Serialize;
use serde_json::Value;

use crate::net::flood::say;
use crate::net::listener::{Listener, Serving};
use crate::net::peer::{Answerer, PacketServer, Peer};
use crate::net::secret::Secret;
use crate::net::spawn;
use crate::node::Node;
use crate::observe::metrics::{self, Gauge, LISTS_PUSHED};
use crate::packet::{Failure, Head, Reply, encode};
use crate::registry::{Conflict, Refused, Registry};
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
    /// Serves the registry on this port, to those who prove this secret if there is one.
    ///
    /// # Errors
    /// If the operating system starts no further thread.
    pub fn start(
        listener: Listener,
        max_connections: usize,
        max_frame_bytes: usize,
        secret: Option<&Secret>,
    ) -> io::Result<Self> {
        let (dirty, changes) = bounded(1);
        let state = Arc::new(Mutex::new(State::new(max_frame_bytes)));
        let pushed = state.clone();
        LazyLock::force(&LISTS_PUSHED);
        let counted = Arc::downgrade(&state);
        metrics::watch(Gauge::Nodes, move || {
            let state = counted.upgrade()?;
            Some(lock(&state).registry.list().len())
        });
        spawn("push", move || push_changes(&changes, &pushed))?;
        let server = PacketServer::new(Arc::new(Desk { state, dirty }), max_frame_bytes, secret);
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

struct State {
    registry: Registry,
    /// Those who registered, admitted or waiting: they are sent every change.
    registered: HashMap<u64, Arc<Peer>>,
    /// Those who registered since the last push.
    newcomers: Vec<Arc<Peer>>,
    /// Somebody has repeated its registration: the list is pushed although it is the same. Course gateways dial
    /// an instance that they have lost only when a list comes.
    repeated: bool,
}

impl State {
    fn new(max_frame_bytes: usize) -> Self {
        let registry = Registry::new(max_frame_bytes);
        Self { registry, registered: HashMap::new(), newcomers: Vec::new(), repeated: false }
    }

    /// Registers a node. Returned is the entry in words, and with which others it now has a conflict.
    fn register(&mut self, peer: &Arc<Peer>, node: Node) -> Result<(String, Vec<Conflict>), Refused> {
        let before = self.registry.get(peer.id()).cloned();
        let registered = self.registry.register(peer.id(), node, peer.address().ip()).cloned();
        if !matches!(registered, Err(Refused::TooLong { .. }))
            && self.registered.insert(peer.id(), peer.clone()).is_none()
        {
            self.newcomers.push(peer.clone());
        }
        let node = registered?;
        self.repeated |= before.as_ref() == Some(&node);
        let is_known = before.is_some_and(|before| before.name == node.name && before.urls == node.urls);
        let conflicts = if is_known { Vec::new() } else { self.registry.conflicts(peer.id()) };
        Ok((told(&node), conflicts))
    }

    /// Those whose wait is over, in words. They were sent what others were sent all the time.
    fn admitted(&mut self) -> Vec<String> {
        let admitted = self.registry.take_admitted().into_iter();
        let admitted: Vec<(u64, String)> =
            admitted.map(|(connection, node)| (connection, told(node))).collect();
        let address = |connection| self.registered.get(&connection).map(|peer| peer.address().to_string());
        let told = |(connection, told)| {
            let address = address(connection).unwrap_or_default();
            format!("{address} registered, after it had waited: {told}")
        };
        admitted.into_iter().map(told).collect()
    }
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
        announce(peer, "connected", format_args!("{} connected", peer.address()));
        let frame = list_frame(&lock(&self.state).registry);
        log_list(peer, frame.len());
        let _ = peer.outbox().send(&frame);
    }

    fn packet(&self, peer: &Arc<Peer>, head: &Head<'_>) {
        let uri = head.uri.as_deref().map(|uri| uri.trim_start_matches('/'));
        let outcome = match (head.method.as_deref(), uri) {
            (Some("POST"), Some("distributes")) => self.register(peer, head),
            // Not registered anywhere: no gateway leads here.
            (Some("GET"), Some("metrics")) => Reply::ok(metrics::text()),
            (Some("GET"), Some("distributes")) => Reply::ok(lock(&self.state).registry.list()),
            (Some(method), Some(uri)) => Err(Failure::not_found(format!(
                "a distributor answers POST and GET /distributes only, not {method} /{uri}"
            ))),
            _ => return log::debug!("{} sent what is no request; ignored", peer.address()),
        };
        if let Err(failure) = &outcome {
            let told = format_args!("{}: {failure}", peer.address());
            say(Level::Warn, "refused", peer.address().ip(), told);
        }
        // A list is a packet for `/distributes` with key 0 as well: who asks with key 0 is pushed the list, and no reply.
        if let Some(key) = head.answer_key().filter(|_| !head.is_notice()) {
            peer.answer(Some(&key), &outcome, usize::MAX);
        }
    }

    fn gone(&self, peer: &Arc<Peer>) {
        let (known, removed, admitted) = {
            let mut state = lock(&self.state);
            let known = state.registered.remove(&peer.id()).is_some();
            let removed = state.registry.remove(peer.id());
            (known, removed, state.admitted())
        };
        if let Some(node) = removed {
            log::info!("{} gone: {} at {}", peer.address(), node.name, node.address());
            let _ = self.dirty.try_send(());
        } else {
            let why = if known { "it was in no list" } else { "it had not registered" };
            announce(peer, "gone", format_args!("{} gone; {why}", peer.address()));
        }
        for told in admitted {
            log::info!("{told}");
        }
    }
}

impl Desk {
    fn register(&self, peer: &Arc<Peer>, head: &Head<'_>) -> Result<Reply, Failure> {
        let params = head.params.map_or("null", |params| params.get());
        let params: Value =
            serde_json::from_str(params).map_err(|error| Failure::bad_request(error.to_string()))?;
        let refused = |status: u16, why: String| Failure::new(status, format!("registration refused: {why}"));
        let node = Node::from_json(&params).map_err(|why| refused(400, why))?;
        let claimant = node.name.clone();
        node.trespasses().map_err(|why| refused(403, format!("{claimant}: {why}")))?;
        let (registered, admitted) = {
            let mut state = lock(&self.state);
            (state.register(peer, node), state.admitted())
        };
        // Also after a refusal: who says that it leaves is marked so, and who is new is owed a list.
        let _ = self.dirty.try_send(());
        for told in admitted {
            log::info!("{told}");
        }
        match registered {
            Ok((told, conflicts)) => {
                log::info!("{} registered: {told}", peer.address());
                for conflict in conflicts {
                    say(Level::Warn, "conflict", peer.address().ip(), format_args!("{conflict}"));
                }
            }
            Err(why @ Refused::Taken { .. }) => return Err(refused(409, format!("{claimant}: {why}"))),
            Err(why @ Refused::TooLong { .. }) => return Err(refused(413, format!("{claimant}: {why}"))),
        }
        Reply::ok("registered")
    }
}

/// Says of a peer what any stranger could have us say.
fn announce(peer: &Peer, kind: &'static str, told: std::fmt::Arguments<'_>) {
    say(Level::Info, kind, peer.address().ip(), told);
}

/// A node as the log shows it.
fn told(node: &Node) -> String {
    let leaving = if node.leaving() { ", leaving" } else { "" };
    format!("{} at {}{leaving}, routes: {}", node.name, node.address(), routes(node))
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
        let (frame, everybody, newcomers, repeated) = {
            let mut state = lock(state);
            let everybody: Vec<Arc<Peer>> = state.registered.values().cloned().collect();
            let newcomers = std::mem::take(&mut state.newcomers);
            (list_frame(&state.registry), everybody, newcomers, std::mem::take(&mut state.repeated))
        };
        // What came and went between two pushes changes nothing, but for those who have just registered: what
        // they were sent when they connected may be older.
        let peers = if frame == *last && !repeated { newcomers } else { everybody };
        last = frame.into();
        for peer in &peers {
            log_list(peer, last.len());
            peer.outbox().post_latest(last.clone());
            LISTS_PUSHED.inc();
        }
        let bytes = last.len() as u64 * peers.len() as u64;
        let rest = Duration::from_millis(bytes * 1000 / PUSH_BYTES_PER_SECOND).min(LONGEST_PAUSE);
        thread::sleep(rest);
    }
}
