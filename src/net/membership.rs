//! Membership: staying registered at the distributors, and following the lists that they push.
//!
//! A registration has key 0, so an accepted one gets no reply. The first list with this node in it says that it was
//! accepted. A distributor of ours that rejects it sends the reason and closes the connection.

use std::collections::HashSet;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde_json::Value;

use super::dial::{Again, Dialer, Session};
use super::inbound::Inbound;
use super::outbox::{Batching, Outbox};
use super::peer::wire_len;
use super::proof::asks_for_proof;
use super::secret::Secret;
use crate::node::{Node, NodeList};
use crate::observe::metrics::WIRE;
use crate::packet::frame::FrameError;
use crate::packet::{Head, encode};
use crate::sync::lock;

/// Takes a list: the place of its distributor among those given, and the nodes.
pub type OnList = dyn Fn(usize, Vec<Node>) + Send + Sync;

/// This process's membership. Dropping it ends the connections, and with them the registration.
pub struct Membership {
    me: Arc<Me>,
    _dialers: Vec<Dialer>,
}

struct Me {
    node: Mutex<Node>,
    /// The connections that stand, each with the address of its distributor.
    connected: Mutex<Vec<(String, Arc<Outbox>)>>,
}

impl Membership {
    /// Registers `node` with every one of `distributors` (`host:port` each), now and after every reconnect, and
    /// hands each list that comes to `on_list`. With a secret, only a distributor that proves it is believed.
    ///
    /// # Errors
    /// If the operating system starts no further thread.
    pub fn join(
        distributors: &[String],
        node: Node,
        max_frame_bytes: usize,
        secret: Option<&Secret>,
        on_list: &Arc<OnList>,
    ) -> io::Result<Self> {
        let me = Arc::new(Me { node: Mutex::new(node), connected: Mutex::new(Vec::new()) });
        let dial = |(place, address): (usize, &String)| {
            let session = Follower {
                address: address.clone(),
                place,
                me: me.clone(),
                on_list: on_list.clone(),
                max_frame_bytes,
                is_answered: false,
                problem: None,
                skipped: HashSet::new(),
            };
            Dialer::start(&format!("follow {address}"), address.clone(), secret, session)
        };
        let dialers = distributors.iter().enumerate().map(dial).collect::<io::Result<_>>()?;
        Ok(Self { me, _dialers: dialers })
    }

    /// Tells every distributor that this node is about to end: those who follow the list send it no new requests.
    pub fn leave(&self) {
        let node = {
            let mut node = lock(&self.me.node);
            *node = node.clone().as_leaving();
            node.clone()
        };
        let connected = lock(&self.me.connected).clone();
        for (address, outbox) in connected {
            register(&outbox, &node, &address);
        }
    }

    /// The registration as a frame, for peers that this node tells directly that it leaves.
    #[must_use]
    pub fn notice(&self) -> Vec<u8> {
        let node = lock(&self.me.node).clone();
        encode(&Register::of(&node)).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Register<'a> {
    uri: &'static str,
    method: &'static str,
    key: u8,
    params: &'a Node,
}

impl<'a> Register<'a> {
    fn of(node: &'a Node) -> Self {
        Self { uri: "/distributes", method: "POST", key: 0, params: node }
    }
}

fn register(outbox: &Outbox, node: &Node, address: &str) {
    match encode(&Register::of(node)).map(|frame| outbox.send(&frame).map(|()| frame.len())) {
        Ok(Ok(size)) => log::debug!("{address} ← request POST /distributes, key 0, {size} bytes"),
        _ => log::debug!("{address}: registration not sent; the next connection sends it again"),
    }
}

struct Follower {
    address: String,
    place: usize,
    me: Arc<Me>,
    on_list: Arc<OnList>,
    max_frame_bytes: usize,
    /// This connection has shown whether this node is registered.
    is_answered: bool,
    /// Why this node is not registered, as it was logged. The same reason is logged once, not every 3 s.
    problem: Option<String>,
    /// The entries of the last list that cannot be used. Each is logged once, not with every list.
    skipped: HashSet<String>,
}

impl Session for Follower {
    fn run(&mut self, stream: Arc<TcpStream>) -> Again {
        let outbox = Arc::new(Outbox::new(stream.clone(), Batching::OneByOne));
        lock(&self.me.connected).push((self.address.clone(), outbox.clone()));
        self.is_answered = false;
        // Register first of all: one copy of the course distributor ends when a connection sends nothing.
        self.register(&outbox);
        let ended = self.follow(stream);
        outbox.close();
        lock(&self.me.connected).retain(|(_, one)| !Arc::ptr_eq(one, &outbox));
        let is_leaving = lock(&self.me.node).is_leaving();
        match ended {
            _ if is_leaving => log::debug!("left distributor {}", self.address),
            _ if self.problem.is_some() => {
                log::debug!("distributor {} still rejects this node", self.address);
            }
            Ok(()) => log::info!("distributor {} has ended; trying again every 3 s", self.address),
            Err(error) => {
                WIRE.rejected(&error);
                log::warn!("distributor {} lost: {error}; trying again every 3 s", self.address);
            }
        }
        Again::Later
    }
}

impl Follower {
    /// Registers. Registers again if this node has begun to leave meanwhile.
    fn register(&self, outbox: &Outbox) {
        let mut node = lock(&self.me.node).clone();
        loop {
            register(outbox, &node, &self.address);
            let now = lock(&self.me.node).clone();
            if now == node {
                break;
            }
            node = now;
        }
    }

    fn follow(&mut self, stream: Arc<TcpStream>) -> Result<(), FrameError> {
        let mut inbound = Inbound::new(stream, self.max_frame_bytes);
        while let Some(frame) = inbound.next_frame()? {
            match list_in(frame) {
                Some(NodeList { nodes, skipped }) => {
                    log::debug!(
                        "{} → list of {} nodes, {} bytes",
                        self.address,
                        nodes.len(),
                        wire_len(frame)
                    );
                    self.log_registered(&nodes);
                    self.log_skipped(skipped);
                    (self.on_list)(self.place, nodes);
                }
                None => match problem_in(frame) {
                    Some(problem) => self.log_problem(problem),
                    None => log::debug!("{} → not a list, ignored, {} bytes", self.address, wire_len(frame)),
                },
            }
        }
        Ok(())
    }

    fn log_skipped(&mut self, skipped: Vec<String>) {
        for entry in skipped.iter().filter(|entry| !self.skipped.contains(*entry)) {
            log::warn!("{}: skipped an entry of the list: {entry}", self.address);
        }
        self.skipped = skipped.into_iter().collect();
    }

    fn log_registered(&mut self, nodes: &[Node]) {
        if self.is_answered {
            return;
        }
        let me = lock(&self.me.node).clone();
        if nodes.iter().any(|node| is_entry_of(node, &me)) {
            (self.is_answered, self.problem) = (true, None);
            log::info!("registered as {} with distributor {}", me.name, self.address);
        }
    }

    fn log_problem(&mut self, problem: String) {
        if std::mem::replace(&mut self.is_answered, true) {
            return;
        }
        if self.problem.as_ref() != Some(&problem) {
            log::warn!("the distributor at {} {problem}; trying again every 3 s", self.address);
        }
        self.problem = Some(problem);
    }
}

/// Some course distributors do not pass the id on.
fn is_entry_of(entry: &Node, me: &Node) -> bool {
    match entry.id() {
        Some(id) => me.id() == Some(id),
        None => (&entry.name, entry.port) == (&me.name, me.port),
    }
}

/// Why the distributor rejects this node. A node with a secret has proven it before it registers, so only one
/// without a secret is asked for a proof here.
fn problem_in(frame: &str) -> Option<String> {
    if asks_for_proof(frame) {
        return Some("asks for the cluster secret: set PILCROW_SECRET".to_owned());
    }
    let reply: Value = serde_json::from_str(frame).ok()?;
    let code = reply.get("errorcode")?.as_u64().filter(|code| *code != 0)?;
    Some(format!("answers {code}: {}", reply.get("errormessage")?.as_str()?))
}

fn list_in(frame: &str) -> Option<NodeList> {
    let params = Head::parse(frame).ok()?.params?;
    Node::list_from_json(&serde_json::from_str::<Value>(params.get()).ok()?)
}
