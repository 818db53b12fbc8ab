//! What a mesh knows, for people who watch it: the nodes of the lists, and the status of each link.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::Mesh;
use crate::net::link::{Link, LinkStatus};
use crate::node::Node;
use crate::sync::read;

/// The status of a link, with the service of its instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceLink {
    /// The service that the instance has registered.
    pub service: String,
    /// The link.
    #[serde(flatten)]
    pub link: LinkStatus,
}

impl Mesh {
    /// All nodes of the newest lists, sorted by address. Gateways and other nodes without routes are among them.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        let table = read(&self.table);
        let nodes = table.lists.values().flatten().map(|node| (node.address(), node));
        nodes.collect::<BTreeMap<_, _>>().into_values().cloned().collect()
    }

    /// The address of the first node with this name.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<String> {
        let table = read(&self.table);
        table.lists.values().flatten().find(|node| node.name == name).map(Node::address)
    }

    /// The status of every link, sorted by service and address.
    #[must_use]
    pub fn links(&self) -> Vec<ServiceLink> {
        let (links, rows) = {
            let table = read(&self.table);
            (table.links.values().cloned().collect::<Vec<Arc<Link>>>(), table.routes.rows(|_| true))
        };
        // Every link has its routes in the table, and each route names its service.
        let rows = rows.iter().flat_map(|row| row.instances.iter().map(|address| (&**address, &row.service)));
        let services: HashMap<&str, &String> = rows.collect();
        let with_service = |link: Arc<Link>| ServiceLink {
            service: services.get(link.address()).map_or_else(String::new, |service| (*service).clone()),
            link: link.status(),
        };
        let mut links: Vec<_> = links.into_iter().map(with_service).collect();
        links.sort_by(|a, b| (&a.service, &a.link.address).cmp(&(&b.service, &b.link.address)));
        links
    }
}
