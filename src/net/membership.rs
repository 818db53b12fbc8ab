//! Membership: staying registered at the distributors, and following the lists that they push.

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

/// What is done with a list: which distributor (by its place among those given) says which nodes there are.
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
            let session = Follow {
                address: address.clone(),
                place,
                me: me.clone(),
                on_list: on_list.clone(),
                max_frame_bytes,
                shut_out: false,
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

    /// What the distributors are told, as a frame, for those who are to be told directly.
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

struct Follow {
    address: String,
    place: usize,
    me: Arc<Me>,
    on_list: Arc<OnList>,
    max_frame_bytes: usize,
    /// The distributor has asked for a secret that we do not have. That is said once, not every 3 s.
    shut_out: bool,
    /// The entries of the last list that cannot be used. Each is logged once, not with every list.
    skipped: HashSet<String>,
}

impl Session for Follow {
    fn run(&mut self, stream: Arc<TcpStream>) -> Again {
        let outbox = Arc::new(Outbox::new(stream.clone(), Batching::OneByOne));
        lock(&self.me.connected).push((self.address.clone(), outbox.clone()));
        // Registered first of all: one copy of the course distributor dies of a connection that says nothing.
        self.register(&outbox);
        let ended = self.follow(stream);
        outbox.close();
        lock(&self.me.connected).retain(|(_, one)| !Arc::ptr_eq(one, &outbox));
        let leaving = lock(&self.me.node).leaving();
        match ended {
            _ if self.shut_out => log::debug!("still shut out by distributor {}", self.address),
            _ if leaving => log::debug!("left distributor {}", self.address),
            Ok(()) => log::info!("distributor {} has ended; trying again every 3 s", self.address),
            Err(error) => {
                WIRE.rejected(&error);
                log::warn!("distributor {} lost: {error}; trying again every 3 s", self.address);
            }
        }
        Again::Later
    }
}

impl Follow {
    /// Registers; once more if, meanwhile, this node has decided to leave and what was just sent is out of date.
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
        let level = if self.shut_out { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "registered as {} with distributor {}", node.name, self.address);
    }

    fn follow(&mut self, stream: Arc<TcpStream>) -> Result<(), FrameError> {
        let mut inbound = Inbound::new(stream, self.max_frame_bytes);
        while let Some(frame) = inbound.next_frame()? {
            match list_in(frame) {
                Some(NodeList { nodes, skipped }) => {
                    self.shut_out = false;
                    log::debug!(
                        "{} → list of {} nodes, {} bytes",
                        self.address,
                        nodes.len(),
                        wire_len(frame)
                    );
                    self.log_skipped(skipped);
                    (self.on_list)(self.place, nodes);
                }
                None if asks_for_proof(frame) => self.tell_shut_out(),
                None => log::debug!("{} → not a list, ignored, {} bytes", self.address, wire_len(frame)),
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

    /// Here comes only who has no secret: the others have proven theirs before they register.
    fn tell_shut_out(&mut self) {
        if !self.shut_out {
            log::warn!(
                "the distributor at {} asks for the cluster secret: set PILCROW_SECRET; trying again every 3 s",
                self.address
            );
        }
        self.shut_out = true;
    }
}

/// The list in a frame. Anything else that a distributor may say is none of our business.
fn list_in(frame: &str) -> Option<NodeList> {
    let params = Head::parse(frame).ok()?.params?;
    Node::list_from_json(&serde_json::from_str::<Value>(params.get()).ok()?)
}
