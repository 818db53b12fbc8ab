//! Who is alive: the distributor's knowledge as a pure value, without sockets.
//!
//! A registration lives exactly as long as its connection: leaving the read loop *is* deregistration.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use crate::net::canonical;
use crate::node::Node;

/// Registrations by the number of their connection.
#[derive(Debug, Default)]
pub struct Registry {
    nodes: BTreeMap<u64, Node>,
}

impl Registry {
    /// Registers the node at the other end of `connection`, in place of what that connection registered before.
    /// Its host is the one it advertises, or else the address it connected from. Returns the entry as it is
    /// listed.
    pub fn register(&mut self, connection: u64, mut node: Node, from: IpAddr) -> &Node {
        node.host = match node.advertise() {
            Some(host) => host.to_owned(),
            None => canonical(from).to_string(),
        };
        self.nodes.insert(connection, node);
        &self.nodes[&connection]
    }

    /// Forgets the node of a connection that has ended; nothing if it never registered.
    pub fn remove(&mut self, connection: u64) -> Option<Node> {
        self.nodes.remove(&connection)
    }

    /// The list, in the order in which the connections came. Several registrations of one host and port are one
    /// instance, described by the newest of them, until the last is gone.
    #[must_use]
    pub fn list(&self) -> Vec<&Node> {
        let mut seen = HashSet::new();
        let newest_first = self.nodes.values().rev().filter(|node| seen.insert((&node.host, node.port)));
        let mut list: Vec<&Node> = newest_first.collect();
        list.reverse();
        list
    }
}

#[cfg(test)]
mod tests;
