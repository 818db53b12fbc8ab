//! The mesh: what any process needs to call services by `METHOD /path`.
//!
//! It follows the distributors' lists, keeps one link to each instance, knows which instance serves which route,
//! and calls the least busy one. The gateway is written on it. No call goes through a distributor.
//!
//! The list *adds* instances; a live link is the truth about the rest. An instance that a list leaves out, since
//! its distributor has just been restarted, stays in use for as long as its link lives.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, RwLock, Weak};
use std::time::Instant;

use crate::net::link::{Link, LinkLimits, Outcome, Refusal, ReplyFrame};
use crate::net::membership::{Membership, OnList};
use crate::node::Node;
use crate::packet::{Dialect, Outgoing};
use crate::routes::{Resolved, Routes, Row};
use crate::sync::{read, write};

/// A process's view of all services, and its links to them.
pub struct Mesh {
    shared: Arc<Shared>,
    membership: Membership,
}

struct Shared {
    limits: LinkLimits,
    table: RwLock<Table>,
}

/// *Invariant:* every link here has its routes in `routes`, and no route has a link that is not here.
#[derive(Default)]
struct Table {
    routes: Routes<Arc<Link>>,
    links: HashMap<String, Arc<Link>>,
    /// By distributor: the instances of its newest list, with their ids.
    listed: HashMap<usize, HashMap<String, Option<String>>>,
}

impl Mesh {
    /// Joins: registers `node` with every distributor and begins to follow their lists.
    ///
    /// # Errors
    /// If the operating system starts no further thread.
    pub fn join(distributors: &[String], node: Node, limits: LinkLimits) -> io::Result<Self> {
        let shared = Arc::new(Shared { limits, table: RwLock::new(Table::default()) });
        let following = shared.clone();
        let on_list: Arc<OnList> = Arc::new(move |place, nodes| Shared::follow(&following, place, nodes));
        let membership = Membership::join(distributors, node, limits.max_frame_bytes, &on_list)?;
        Ok(Self { shared, membership })
    }

    /// Tells the distributors that this process is about to end.
    pub fn leave(&self) {
        self.membership.leave();
    }

    /// What a method and a path mean to the route table.
    #[must_use]
    pub fn resolve<'a>(&self, method: &str, path: &'a str) -> Resolved<'a> {
        read(&self.shared.table).routes.resolve(method, path)
    }

    /// The dialect of those who serve a route, if anybody does just now.
    #[must_use]
    pub fn dialect(&self, method: &str, path: &str) -> Option<Dialect> {
        self.shared.pick(method, path, None).map(|link| link.dialect())
    }

    /// Calls a route and waits for the reply until `deadline`. A call that never left, or a GET whose link was
    /// lost, is tried once more on another instance.
    ///
    /// # Errors
    /// The [`Outcome`] that the call had instead of a reply.
    pub fn call(&self, request: &Outgoing<'_>, deadline: Instant) -> Result<ReplyFrame, Outcome> {
        let first =
            self.shared.pick(request.method, request.uri, None).ok_or(Outcome::Refused(Refusal::Down))?;
        let outcome = match first.call(request, deadline) {
            Ok(reply) => return Ok(reply),
            Err(outcome) => outcome,
        };
        let another = match outcome {
            Outcome::Refused(Refusal::Down | Refusal::Busy) => true,
            // Reading twice does no harm. Anything else may have been carried out already.
            Outcome::LinkLost => matches!(request.method, "GET" | "HEAD"),
            Outcome::Refused(Refusal::TooLarge) | Outcome::Timeout => false,
        };
        let second =
            another.then(|| self.shared.pick(request.method, request.uri, Some(first.address()))).flatten();
        match second {
            Some(second) => {
                log::info!(
                    "{} {}: {} ({outcome}); trying {}",
                    request.method,
                    request.uri,
                    first.address(),
                    second.address()
                );
                second.call(request, deadline)
            }
            None => Err(outcome),
        }
    }

    /// Sends a request to which no reply is wanted to one instance of its route.
    ///
    /// # Errors
    /// [`Outcome::Refused`] if it was not sent.
    pub fn notify(&self, request: &Outgoing<'_>) -> Result<(), Outcome> {
        let link = self.shared.pick(request.method, request.uri, None);
        link.ok_or(Outcome::Refused(Refusal::Down))?.notify(request)
    }

    /// Whether at least one route has an instance that takes requests.
    #[must_use]
    pub fn ready(&self) -> bool {
        read(&self.shared.table).routes.any(|link| link.load().is_some())
    }

    /// The route table, with the instances that take requests.
    #[must_use]
    pub fn routes(&self) -> Vec<Row> {
        read(&self.shared.table).routes.rows(|link| link.load().is_some())
    }
}

impl Shared {
    fn pick(&self, method: &str, path: &str, not: Option<&str>) -> Option<Arc<Link>> {
        let usable = |address: &str, link: &Arc<Link>| if not == Some(address) { None } else { link.load() };
        read(&self.table).routes.pick(method, path, usable)
    }

    /// Takes in a list. Nodes without routes, such as gateways, get no link.
    fn follow(self: &Arc<Self>, place: usize, nodes: Vec<Node>) {
        let nodes: Vec<Node> = nodes.into_iter().filter(|node| !node.urls.is_empty()).collect();
        let mut table = write(&self.table);
        let before = table.listed.remove(&place).unwrap_or_default();
        let now = nodes.iter().map(|node| (node.address(), node.id().map(str::to_owned))).collect();
        for node in &nodes {
            let address = node.address();
            let news = before.get(&address).map(Option::as_deref) != Some(node.id());
            self.follow_node(&mut table, node, &address, news);
        }
        table.listed.insert(place, now);
        let gone = table.drop_unlisted();
        drop(table);
        drop(gone); // links end outside the lock
    }

    fn follow_node(self: &Arc<Self>, table: &mut Table, node: &Node, address: &str, news: bool) {
        let known = table.links.get(address).filter(|link| link.dialect() == node.dialect()).cloned();
        let link = match known {
            Some(link) => {
                link.set_leaving(node.leaving());
                if news {
                    link.dial_now();
                }
                link
            }
            None if node.leaving() => return,
            None => match self.open(address, node.dialect()) {
                Ok(link) => link,
                Err(error) => return log::warn!("no link to {address}: no further thread ({error})"),
            },
        };
        let changes = table.routes.set(address, &node.name, &node.urls, &link);
        table.links.insert(address.to_owned(), link);
        log_changes(&node.name, address, &changes);
    }

    fn open(self: &Arc<Self>, address: &str, dialect: Dialect) -> io::Result<Arc<Link>> {
        // Weak: the link belongs to the table, and its thread must not keep the table alive.
        let weak: Weak<Self> = Arc::downgrade(self);
        let on_change = move |address: &str, up: bool| {
            if let Some(shared) = weak.upgrade() {
                shared.changed(address, up);
            }
        };
        Link::open(address, dialect, self.limits, Box::new(on_change)).map(Arc::new)
    }

    fn changed(&self, address: &str, up: bool) {
        if up {
            log::info!("link {address}: up");
            return;
        }
        let gone = write(&self.table).drop_unlisted();
        drop(gone);
    }
}

impl Table {
    /// Takes out the instances that no list names and whose link is down. They are returned so that they end
    /// outside the lock.
    fn drop_unlisted(&mut self) -> Vec<Arc<Link>> {
        let listed: HashSet<&str> =
            self.listed.values().flat_map(HashMap::keys).map(String::as_str).collect();
        let gone: Vec<String> = self
            .links
            .iter()
            .filter(|(address, link)| !listed.contains(address.as_str()) && !link.is_up())
            .map(|(address, _)| address.clone())
            .collect();
        let mut links = Vec::new();
        for address in gone {
            log_changes("instance", &address, &self.routes.remove(&address));
            links.extend(self.links.remove(&address));
        }
        links
    }
}

fn log_changes(name: &str, address: &str, changes: &[String]) {
    if !changes.is_empty() {
        log::info!("{name} at {address}: {}", changes.join(", "));
    }
}
