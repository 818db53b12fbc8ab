//! The registered nodes: the distributor's knowledge as a pure value, without sockets.
//!
//! A registration lives exactly as long as its connection: the end of the read loop *is* the deregistration.
//!
//! A route and an address belong to the *name* that registered them. Instances of one service share both. A node of
//! another name that tries to register one of them is rejected while an instance of the owner is registered.
//!
//! *Invariant:* no list has one route under two names, or the address of a node with routes under another name.

mod conflict;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;

pub use self::conflict::Conflict;
use crate::address::canonical;
use crate::node::Node;
use crate::packet::{COURSE_MAX_BYTES, DEFAULT_MAX_FRAME_BYTES, Dialect, encode};

/// The bytes of a list packet around its entries: 59, rounded up.
const ENVELOPE_BYTES: usize = 64;

/// The bytes that a node adds to its entry when it leaves.
const LEAVING_BYTES: usize = r#","leaving":true"#.len();

/// The registrations by connection number.
#[derive(Debug)]
pub struct Registry {
    listed: BTreeMap<u64, Registration>,
    max_frame_bytes: usize,
}

#[derive(Debug)]
struct Registration {
    node: Node,
    /// Its size in a list, in bytes.
    bytes: usize,
}

/// Why a registration was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// A node of another name owns a route or the address of this one.
    Taken {
        /// The route or the address, in words.
        what: String,
        /// The name that owns it.
        owner: String,
        /// The address of an instance of the owner.
        at: String,
    },
    /// The list would exceed the limit of its readers.
    TooLong {
        /// The possible length of the list packet, in bytes.
        bytes: usize,
        /// The limit of a list packet, in bytes.
        limit: usize,
        /// The dialect of the readers with that limit.
        readers: Dialect,
    },
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_FRAME_BYTES)
    }
}

impl Registry {
    /// A registry whose list fits in a frame of this size. A longer list would cost every node its connection.
    #[must_use]
    pub fn new(max_frame_bytes: usize) -> Self {
        Self { listed: BTreeMap::new(), max_frame_bytes }
    }

    /// Registers the node at the other end of `connection` and replaces the earlier registration of that connection.
    /// Its host is the one that it advertises, or else the address that it connected from. Returns the listed entry.
    ///
    /// # Errors
    /// The reason for the rejection. An earlier registration of the connection then stays unchanged. But a node that
    /// says that it leaves is always marked as leaving.
    pub fn register(&mut self, connection: u64, mut node: Node, from: IpAddr) -> Result<&Node, Rejection> {
        node.host = match node.advertise() {
            Some(host) => host.to_owned(),
            None => canonical(from).to_string(),
        };
        let bytes = entry_bytes(&node);
        let check =
            self.check_owners(connection, &node).and_then(|()| self.check_length(connection, &node, bytes));
        if let Err(rejection) = check {
            if let Some(before) = self.listed.get_mut(&connection).filter(|_| node.is_leaving()) {
                before.node = before.node.clone().as_leaving();
            }
            return Err(rejection);
        }
        self.listed.insert(connection, Registration { node, bytes });
        Ok(&self.listed[&connection].node)
    }

    /// Removes the node of a connection that has ended. Returns `None` if it was not registered.
    pub fn remove(&mut self, connection: u64) -> Option<Node> {
        self.listed.remove(&connection).map(|one| one.node)
    }

    /// The node that this connection registered.
    #[must_use]
    pub fn get(&self, connection: u64) -> Option<&Node> {
        self.listed.get(&connection).map(|one| &one.node)
    }

    /// The list, in the order of the connections. Several registrations of one host and port are one instance. The
    /// newest of them describes it, until the last one ends.
    #[must_use]
    pub fn list(&self) -> Vec<&Node> {
        let mut seen = HashSet::new();
        let newest_first = self.listed.values().rev().map(|one| &one.node);
        let mut list: Vec<&Node> = newest_first.filter(|node| seen.insert((&node.host, node.port))).collect();
        list.reverse();
        list
    }

    /// The conflicts of this connection's node with other instances of its name. A node that leaves, or that has no
    /// routes, has none.
    #[must_use]
    pub fn conflicts(&self, connection: u64) -> Vec<Conflict> {
        let Some(node) = self.get(connection) else { return Vec::new() };
        self.list().into_iter().filter_map(|other| Conflict::between(node, other)).collect()
    }

    fn others(&self, connection: u64) -> impl Iterator<Item = &Registration> {
        self.listed.iter().filter(move |(other, _)| **other != connection).map(|(_, one)| one)
    }

    /// Checks every other node. All of them together fit in one list, so this takes a few milliseconds at most.
    fn check_owners(&self, connection: u64, node: &Node) -> Result<(), Rejection> {
        let address = node.address();
        let wanted: HashSet<&str> = routes(node).collect();
        let others = self.others(connection).map(|one| &one.node).filter(|other| other.name != node.name);
        for other in others {
            // A node without routes owns nothing.
            let Some(_) = routes(other).next() else { continue };
            let has_address = other.port == node.port && other.address() == address;
            let what = if has_address {
                format!("the address {address}")
            } else if let Some(route) = routes(other).find(|route| wanted.contains(route)) {
                format!("the route {route}")
            } else {
                continue;
            };
            return Err(Rejection::Taken { what, owner: other.name.clone(), at: other.address() });
        }
        Ok(())
    }

    /// Checks that all readers can accept the list with this node. A longer list would close the connections of our
    /// nodes, and would crash course nodes.
    fn check_length(&self, connection: u64, node: &Node, bytes: usize) -> Result<(), Rejection> {
        let bytes = self.others(connection).map(|one| one.bytes).sum::<usize>() + bytes + ENVELOPE_BYTES;
        let mut readers = self.others(connection).map(|one| &one.node).chain([node]);
        let (limit, readers) = if readers.any(|reader| reader.dialect() == Dialect::Course) {
            (self.max_frame_bytes.min(COURSE_MAX_BYTES), Dialect::Course)
        } else {
            (self.max_frame_bytes, Dialect::Pilcrow)
        };
        if bytes <= limit { Ok(()) } else { Err(Rejection::TooLong { bytes, limit, readers }) }
    }
}

/// The size of a node in a list: its JSON and the comma behind it. A node may announce that it leaves even if the list
/// is full, so each entry reserves room for that from the beginning.
fn entry_bytes(node: &Node) -> usize {
    // Nodes are text and numbers, so they always have a JSON form.
    encode(node).map_or(0, |frame| frame.len() + 1 + LEAVING_BYTES)
}

/// No request can reach a text without a slash, so it belongs to no name.
fn routes(node: &Node) -> impl Iterator<Item = &str> {
    node.urls.iter().map(String::as_str).filter(|url| url.contains('/'))
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { what, owner, at } => write!(
                f,
                "{what} belongs to {owner} at {at}; stop every instance of {owner}, or register other routes"
            ),
            Self::TooLong { bytes, limit, readers } => {
                let (nodes, advice) = match readers {
                    Dialect::Pilcrow => ("nodes", "give every node a longer --max-frame"),
                    Dialect::Course => ("course nodes", "use a distributor without course nodes"),
                };
                let list = format_args!("with it the list could have {bytes} bytes");
                write!(
                    f,
                    "{list}, and {nodes} take at most {limit}; register fewer or shorter routes, or {advice}"
                )
            }
        }
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
mod tests;
