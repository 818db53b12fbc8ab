//! The table of links, and the routes of their instances.
//!
//! The list only *adds* instances; a live link shows that its instance still runs. A distributor that has just
//! restarted pushes a list that is nearly empty. So an instance that no list names stays in use while its link is up.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use crate::net::link::Link;
use crate::node::Node;
use crate::routes::Routes;

/// All links, and the routes of their instances.
///
/// *Invariant:* every link in `links` has its routes in `routes`, and every link in `routes` is in `links`.
#[derive(Default)]
pub struct LinkTable {
    pub routes: Routes<Arc<Link>>,
    pub links: HashMap<String, Arc<Link>>,
    /// For each distributor: the nodes of its newest list.
    pub lists: HashMap<usize, Vec<Node>>,
}

impl LinkTable {
    /// Applies the list of a distributor. `open` opens the link to a new instance. Nodes without routes, such as
    /// gateways, get no link.
    pub fn follow(
        &mut self,
        distributor: usize,
        nodes: Vec<Node>,
        open: impl Fn(&Node) -> io::Result<Arc<Link>>,
    ) -> DeferredWork {
        let mut deferred = DeferredWork::default();
        let before = self.lists.remove(&distributor).unwrap_or_default();
        let before: HashMap<String, Option<&str>> =
            before.iter().map(|node| (node.address(), node.id())).collect();
        for node in nodes.iter().filter(|node| !node.urls.is_empty()) {
            let is_new = before.get(&node.address()) != Some(&node.id());
            self.follow_node(node, is_new, &open, &mut deferred);
        }
        self.lists.insert(distributor, nodes);
        self.drop_unlisted_into(&mut deferred);
        deferred
    }

    fn follow_node(
        &mut self,
        node: &Node,
        is_new: bool,
        open: impl Fn(&Node) -> io::Result<Arc<Link>>,
        deferred: &mut DeferredWork,
    ) {
        let address = node.address();
        let known = self.links.get(&address).filter(|link| link.dialect() == node.dialect()).cloned();
        let link = match known {
            Some(link) => {
                link.set_leaving(node.is_leaving());
                if is_new {
                    link.dial_now();
                }
                link
            }
            None if node.is_leaving() => return,
            None => match open(node) {
                Ok(link) => link,
                Err(error) => {
                    deferred.log_lines.push(format!("no link to {address}: no further thread ({error})"));
                    return;
                }
            },
        };
        deferred.log_changes(&node.name, &address, &self.routes.set(&address, &node.name, &node.urls, &link));
        deferred.links.extend(self.links.insert(address, link));
    }

    /// Removes the instances that no list names and whose link is down.
    pub fn drop_unlisted(&mut self) -> DeferredWork {
        let mut deferred = DeferredWork::default();
        self.drop_unlisted_into(&mut deferred);
        deferred
    }

    fn drop_unlisted_into(&mut self, deferred: &mut DeferredWork) {
        let instances = self.lists.values().flatten().filter(|node| !node.urls.is_empty());
        let listed: HashSet<String> = instances.map(Node::address).collect();
        let gone: Vec<String> = self
            .links
            .iter()
            .filter(|(address, link)| !listed.contains(*address) && !link.is_up())
            .map(|(address, _)| address.clone())
            .collect();
        for address in gone {
            deferred.log_changes("instance", &address, &self.routes.remove(&address));
            deferred.links.extend(self.links.remove(&address));
        }
    }
}

/// Work that a change of the table defers until its lock is released. Requests must not wait for a log line or for a
/// link that closes.
#[derive(Default)]
#[must_use]
pub struct DeferredWork {
    links: Vec<Arc<Link>>,
    log_lines: Vec<String>,
}

impl DeferredWork {
    fn log_changes(&mut self, name: &str, address: &str, changes: &[String]) {
        if !changes.is_empty() {
            self.log_lines.push(format!("{name} at {address}: {}", changes.join(", ")));
        }
    }

    /// Does the deferred work, without the lock.
    pub fn finish(self) {
        drop(self.links);
        for line in self.log_lines {
            log::info!("{line}");
        }
    }
}
