//! The distributor: the service registry over TCP.
//!
//! Nodes connect and register. The distributor pushes the list of all nodes whenever it changes. Requests between
//! services do not pass through it. If it stops, the nodes continue.
//!
//! With many nodes the list is long, and every node needs every change. A separate push for each change would cost the
//! square of the number of nodes, each time. So changes that arrive together are pushed together, and the list is
//! encoded once and shared. A node that reads slowly skips lists that are out of date. A limit of bytes per second
//! applies to all pushes together.

mod members;

use std::fmt::Arguments;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use log::Level;
use serde_json::Value;

use self::members::{Members, log_list, push_changes};
use crate::net::batch::Batch;
use crate::net::flood::say;
use crate::net::listener::{Listener, Serving};
use crate::net::peer::{Answerer, PacketServer, Peer};
use crate::net::secret::Secret;
use crate::net::spawn;
use crate::node::Node;
use crate::observe::metrics::{self, Gauge, LISTS_PUSHED};
use crate::packet::{COURSE_MAX_BYTES, Dialect, Failure, Head, Reply};
use crate::registry::Rejection;
use crate::sync::lock;

/// A running distributor.
#[derive(Debug)]
pub struct Distributor {
    serving: Serving,
}

impl Distributor {
    /// Serves the registry on this port. With a secret, it serves only nodes that prove it.
    ///
    /// # Errors
    /// If the operating system starts no further thread.
    pub fn start(
        listener: Listener,
        max_connections: usize,
        max_frame_bytes: usize,
        secret: Option<&Secret>,
    ) -> io::Result<Self> {
        let (changed, wake) = bounded(1);
        let members = Arc::new(Mutex::new(Members::new(max_frame_bytes)));
        LazyLock::force(&LISTS_PUSHED);
        let counted = Arc::downgrade(&members);
        metrics::watch(Gauge::Nodes, move || {
            let members = counted.upgrade()?;
            Some(lock(&members).registry.list().len())
        });
        let pushed = members.clone();
        spawn("push", move || push_changes(&wake, &pushed))?;
        let server = PacketServer::new(Arc::new(Registrar { members, changed }), max_frame_bytes, secret);
        let serving = listener.serve("node", max_connections, Arc::new(server))?;
        Ok(Self { serving })
    }

    /// The address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.serving.address()
    }

    /// Stops it. Every node keeps its links, and registers again with the next distributor.
    pub fn stop(self, limit: Duration) {
        self.serving.drain(limit);
    }
}

/// Answers the packets of the nodes.
struct Registrar {
    members: Arc<Mutex<Members>>,
    /// A message wakes the push thread. One queued message is enough.
    changed: Sender<()>,
}

impl Answerer for Registrar {
    /// Sends the list to every new connection immediately, if a course node could read it.
    fn connected(&self, peer: &Arc<Peer>) {
        log_limited(Level::Info, "connected", peer, format_args!("{} connected", peer.address()));
        let frame = lock(&self.members).list_frame();
        // A longer list crashes a course node, and the type of a peer is unknown before it registers. A node of ours
        // gets the list when it has registered.
        if frame.len() > COURSE_MAX_BYTES {
            return;
        }
        log_list(peer, &frame);
        let _ = peer.outbox().send(&frame);
    }

    fn packet(&self, peer: &Arc<Peer>, head: &Head<'_>, _batch: Option<&Arc<Batch>>) {
        let uri = head.uri.as_deref().map(|uri| uri.trim_start_matches('/'));
        let outcome = match (head.method.as_deref(), uri) {
            (Some("POST"), Some("distributes")) => return self.register(peer, head),
            // The distributor registers no route, so no gateway routes to it.
            (Some("GET"), Some("metrics")) => Reply::ok(metrics::text()),
            (Some("GET"), Some("distributes")) => Reply::ok(lock(&self.members).registry.list()),
            (Some(method), Some(uri)) => Err(Failure::not_found(format!(
                "a distributor answers POST and GET /distributes only, not {method} /{uri}"
            ))),
            _ => return log::debug!("{} sent no request; ignored", peer.address()),
        };
        if let Err(failure) = &outcome {
            log_limited(Level::Warn, "rejected", peer, format_args!("{}: {failure}", peer.address()));
        }
        answer(peer, head, &outcome);
    }

    fn gone(&self, peer: &Arc<Peer>) {
        let removed = lock(&self.members).remove(peer);
        if let Some(node) = removed {
            log::info!("{} gone: {} at {}", peer.address(), node.name, node.address());
            let _ = self.changed.try_send(());
        } else {
            let line = format_args!("{} gone; it was not registered", peer.address());
            log_limited(Level::Info, "gone", peer, line);
        }
    }
}

impl Registrar {
    fn register(&self, peer: &Arc<Peer>, head: &Head<'_>) {
        let node = read_node(head);
        let is_ours = node.as_ref().is_ok_and(|node| node.dialect() == Dialect::Pilcrow);
        match node.and_then(|node| self.add(peer, node)) {
            Ok(()) => answer(peer, head, &Reply::ok("registered")),
            Err(failure) => self.reject(peer, head, failure, is_ours),
        }
    }

    fn add(&self, peer: &Arc<Peer>, node: Node) -> Result<(), Failure> {
        let name = node.name.clone();
        node.check_routes().map_err(|why| Failure::new(403, format!("{name}: {why}")))?;
        let added = lock(&self.members).add(peer, node);
        if let Ok((node, conflicts)) = &added {
            log::info!("{} registered: {}", peer.address(), describe(node));
            for conflict in conflicts {
                log_limited(Level::Warn, "conflict", peer, format_args!("{conflict}"));
            }
        }
        // After a rejection too: it may have marked a node that leaves.
        let _ = self.changed.try_send(());
        added.map(|_| ()).map_err(|why| {
            let status = if matches!(why, Rejection::Taken { .. }) { 409 } else { 413 };
            Failure::new(status, format!("{name}: {why}"))
        })
    }

    /// Reports to a node why its registration was rejected, and closes its connection: nodes retry every 3 s. A
    /// connection that registered before keeps its registration.
    fn reject(&self, peer: &Arc<Peer>, head: &Head<'_>, mut failure: Failure, is_ours: bool) {
        failure.errormessage = format!("registration rejected: {}", failure.errormessage);
        let stays = lock(&self.members).registry.get(peer.id()).is_some();
        let then = if stays { "its earlier registration stays" } else { "closing its connection" };
        log_limited(Level::Warn, "rejected", peer, format_args!("{}: {failure}; {then}", peer.address()));
        // A course node may crash on a packet that it did not request. Our nodes log the reason.
        if let Some(key) = head.answer_key().filter(|_| is_ours || !head.is_notice()) {
            peer.answer(Some(&key), &Err(failure), usize::MAX, None);
        }
        if !stays {
            peer.outbox().finish();
        }
    }
}

fn read_node(head: &Head<'_>) -> Result<Node, Failure> {
    let params = head.params.map_or("null", |params| params.get());
    let params: Value =
        serde_json::from_str(params).map_err(|error| Failure::bad_request(error.to_string()))?;
    Node::from_json(&params).map_err(Failure::bad_request)
}

/// Answers, unless the packet is a notice. A packet for `/distributes` with key 0 is a notice, like the list.
fn answer(peer: &Peer, head: &Head<'_>, outcome: &Result<Reply, Failure>) {
    if let Some(key) = head.answer_key().filter(|_| !head.is_notice()) {
        peer.answer(Some(&key), outcome, usize::MAX, None);
    }
}

/// Logs events that any stranger can cause, at a limited rate, so that they cannot flood the log.
fn log_limited(level: Level, kind: &'static str, peer: &Peer, line: Arguments<'_>) {
    say(level, kind, peer.address().ip(), line);
}

/// Describes a node for a log line.
fn describe(node: &Node) -> String {
    let leaving = if node.is_leaving() { ", leaving" } else { "" };
    let routes = if node.urls.is_empty() { "none".to_owned() } else { node.urls.join(" ") };
    format!("{} at {}{leaving}, routes: {routes}", node.name, node.address())
}
