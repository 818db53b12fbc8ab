//! Membership: keeps this node registered at the distributors and follows the lists that they push.
//!
//! A registration has key 0, so an accepted one gets no reply. The first list that contains this node confirms it.
//! If one of our distributors rejects it, the distributor sends the reason and closes the connection.

use std::collections::HashSet;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::dial::{Dialer, Redial, Session};
use super::inbound::Inbound;
use super::outbox::{Batching, Outbox};
use super::peer::wire_len;
use super::proof::asks_for_proof;
use super::secret::Secret;
use crate::node::{Node, NodeList};
use crate::observe::metrics::WIRE;
use crate::packet::frame::FrameError;
use crate::packet::masked::masked;
use crate::packet::{Dialect, Head, encode};
use crate::sync::lock;

/// The minimum pause between two repeated registrations, whatever strangers send.
pub const REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// Receives a list: the index of its distributor among the given ones, and the nodes.
pub type OnList = dyn Fn(usize, Vec<Node>) + Send + Sync;

/// The membership of this process. Dropping it closes the connections, which ends the registration.
pub struct Membership {
    me: Arc<Me>,
    _dialers: Vec<Dialer>,
}

struct Me {
    node: Mutex<Node>,
    /// The open connections, each with the address of its distributor.
    connected: Mutex<Vec<(String, Arc<Outbox>)>>,
    repeat: Mutex<Repeat>,
    /// Wakes the thread that waits before it registers again, because this node leaves.
    leaves: Condvar,
}

/// The time of the last repeated registration, whether a thread is about to repeat it, and whether the node has left.
#[derive(Default)]
struct Repeat {
    last: Option<Instant>,
    is_due: bool,
    is_over: bool,
}

/// A handle for registering this process again at its distributors.
#[derive(Clone)]
pub struct RegistrationHandle(Arc<Me>);

impl RegistrationHandle {
    /// Registers again, so that the distributors push the list. A course gateway whose connection was closed reconnects
    /// only after that. Waits until [`REPEAT_PAUSE`] has passed since the last time. Other callers return at once
    /// meanwhile, because the pending registration serves them too.
    pub fn repeat(&self) {
        let me = &self.0;
        let mut repeat = lock(&me.repeat);
        if std::mem::replace(&mut repeat.is_due, true) {
            return;
        }
        let pause = repeat.last.map_or(Duration::ZERO, |last| REPEAT_PAUSE.saturating_sub(last.elapsed()));
        let waited = me.leaves.wait_timeout_while(repeat, pause, |repeat| !repeat.is_over);
        repeat = waited.unwrap_or_else(PoisonError::into_inner).0;
        repeat.is_due = false;
        repeat.last = Some(Instant::now());
        let is_over = repeat.is_over;
        drop(repeat); // never hold the lock during I/O
        if !is_over {
            log::info!("registering again, so that course gateways connect again");
            me.register_everywhere();
        }
    }
}

impl Me {
    fn register_everywhere(&self) {
        let node = lock(&self.node).clone();
        let connected = lock(&self.connected).clone();
        for (address, outbox) in connected {
            register(&outbox, &node, &address);
        }
    }
}

impl Membership {
    /// Registers `node` at each of `distributors` (`host:port` each), now and after every reconnect. Passes each
    /// received list to `on_list`. With a secret, it accepts lists only from a distributor that proves the secret.
    ///
    /// # Errors
    /// The operating system cannot start another thread.
    pub fn join(
        distributors: &[String],
        node: Node,
        max_frame_bytes: usize,
        secret: Option<&Secret>,
        on_list: &Arc<OnList>,
    ) -> io::Result<Self> {
        let me = Arc::new(Me {
            node: Mutex::new(node),
            connected: Mutex::new(Vec::new()),
            repeat: Mutex::new(Repeat::default()),
            leaves: Condvar::new(),
        });
        let dial = |(place, address): (usize, &String)| {
            let session = Follower {
                address: address.clone(),
                place,
                me: me.clone(),
                on_list: on_list.clone(),
                max_frame_bytes,
                // A course distributor forwards the names of course nodes, but cannot prove a secret.
                dialect: if secret.is_some() { Dialect::Pilcrow } else { Dialect::Course },
                is_answered: false,
                problem: None,
                skipped: HashSet::new(),
            };
            Dialer::start(&format!("follow {address}"), address.clone(), secret, session)
        };
        let dialers = distributors.iter().enumerate().map(dial).collect::<io::Result<_>>()?;
        Ok(Self { me, _dialers: dialers })
    }

    /// Notifies every distributor that this node is leaving. Nodes that follow the list then send it no new requests.
    pub fn leave(&self) {
        {
            let mut node = lock(&self.me.node);
            *node = node.clone().as_leaving();
        }
        lock(&self.me.repeat).is_over = true;
        self.me.leaves.notify_all();
        self.me.register_everywhere();
    }

    /// The addresses of the distributors that this node is connected to now.
    #[must_use]
    pub fn connected(&self) -> Vec<String> {
        lock(&self.me.connected).iter().map(|(address, _)| address.clone()).collect()
    }

    /// A handle for code that needs to register again.
    #[must_use]
    pub fn registration(&self) -> RegistrationHandle {
        RegistrationHandle(self.me.clone())
    }

    /// The registration as a frame, for peers that this node notifies directly when it leaves.
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
    let frame = encode(&Register::of(node)).unwrap_or_default();
    match outbox.send(&frame) {
        Ok(()) => log::debug!(
            "{address} ← request POST /distributes, key 0, {} bytes: {}",
            frame.len(),
            masked(&frame)
        ),
        Err(_) => log::debug!("{address}: registration not sent; the next connection sends it again"),
    }
}

struct Follower {
    address: String,
    place: usize,
    me: Arc<Me>,
    on_list: Arc<OnList>,
    max_frame_bytes: usize,
    dialect: Dialect,
    /// This connection has shown whether the node is registered.
    is_answered: bool,
    /// The logged reason why this node is not registered. The same reason is logged once, not every 3 s.
    problem: Option<String>,
    /// The unusable entries of the last list. Each is logged once, not with every list.
    skipped: HashSet<String>,
}

impl Session for Follower {
    fn run(&mut self, stream: Arc<TcpStream>) -> Redial {
        let outbox = Arc::new(Outbox::new(stream.clone(), Batching::OneByOne));
        lock(&self.me.connected).push((self.address.clone(), outbox.clone()));
        self.is_answered = false;
        // Register before anything else: one version of the course distributor exits when a connection sends nothing.
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
                WIRE.rejected(error.reason());
                log::warn!("distributor {} lost: {error}; trying again every 3 s", self.address);
            }
        }
        Redial::Later
    }
}

impl Follower {
    /// Registers. Registers again if this node has started to leave meanwhile.
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
        let mut inbound = Inbound::new(stream, self.max_frame_bytes, self.dialect);
        while let Some(frame) = inbound.next_frame()? {
            match list_in(frame) {
                Some(NodeList { nodes, skipped }) => {
                    log::debug!(
                        "{} → list of {} nodes, {} bytes: {}",
                        self.address,
                        nodes.len(),
                        wire_len(frame),
                        masked(frame)
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
        if let Some(entry) = nodes.iter().find(|node| is_entry_of(node, &me)) {
            (self.is_answered, self.problem) = (true, None);
            log::info!("registered as {} with distributor {}", me.name, self.address);
            // Course distributors ignore the field.
            if let Some(host) = me.advertise().filter(|host| *host != entry.host) {
                let (listed, distributor) = (entry.address(), &self.address);
                log::warn!(
                    "distributor {distributor} lists this node at {listed} and not at {host}, as advertised"
                );
            }
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

/// True if the entry describes this node. Some course distributors do not forward the id, so it may be missing.
fn is_entry_of(entry: &Node, me: &Node) -> bool {
    match entry.id() {
        Some(id) => me.id() == Some(id),
        None => (&entry.name, entry.port) == (&me.name, me.port),
    }
}

/// The reason why the distributor rejects this node. A node with a secret proves it before it registers. So only a
/// node without a secret sees a request for a proof here.
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
