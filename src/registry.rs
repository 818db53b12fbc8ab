//! Who is alive, and to whom which route belongs: the distributor's knowledge as a pure value, without sockets.
//!
//! A registration lives exactly as long as its connection: leaving the read loop *is* deregistration.
//!
//! What a node registers, its routes and its address, then belongs to its *name*: instances of one service share
//! both, a node of another name gets neither while one of them lives. What it asked for is kept as a *waiting
//! claim*: it is in no list, and is admitted by itself as soon as all of it is free. So nobody who came too early
//! need be restarted, and nobody who came with bad intent gets another service's requests.
//!
//! *Invariant:* at no time is one route listed under two names, or the address of whoever has one.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use crate::net::canonical;
use crate::node::Node;
use crate::packet::{COURSE_MAX_BYTES, DEFAULT_MAX_FRAME_BYTES, Dialect, encode};

/// What a list packet has around its entries, in bytes: 59, rounded up.
const ENVELOPE_BYTES: usize = 64;

/// What is added to the entry of a node that leaves.
const LEAVING: &str = r#","leaving":true"#;

/// Registrations by the number of their connection.
#[derive(Debug)]
pub struct Registry {
    listed: BTreeMap<u64, Registration>,
    waiting: BTreeMap<u64, Waiting>,
    /// Who holds what.
    owners: HashMap<Claim, BTreeSet<u64>>,
    /// Who waits for what: of all that keeps a claim waiting, one thing.
    waiting_for: HashMap<Claim, BTreeSet<u64>>,
    /// Whose wait is over, since somebody last asked.
    admitted: Vec<u64>,
    max_frame_bytes: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Registration {
    node: Node,
    /// What it takes in a list.
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    registration: Registration,
    blocked_by: Claim,
}

/// What belongs to one name at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claim {
    /// `host:port`: whoever could list it under a name of their own would take all its routes away.
    Address(String),
    /// `METHOD/path`.
    Route(String),
}

/// Why a registration is not in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It waits until this is free.
    Taken {
        /// The route or the address.
        what: String,
        /// The name to which it belongs.
        owner: String,
        /// Where an instance of the owner is.
        at: String,
    },
    /// The list would be longer than its readers can take. The registration is forgotten.
    TooLong {
        /// How long the list packet could become, in bytes.
        bytes: usize,
        /// How long a list packet may be, in bytes.
        limit: usize,
        /// Whose limit that is.
        readers: Dialect,
    },
}

/// Two instances with one name and different routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    name: String,
    /// The address of each, and the routes that the other one has not.
    sides: [(String, Vec<String>); 2],
}

impl Conflict {
    /// The most routes that one line of the log names for each side.
    const SHOWN_ROUTES: usize = 10;

    fn between(one: &Node, other: &Node) -> Option<Self> {
        let own_routes = |node: &Node, than: &Node| {
            let known: HashSet<&String> = than.urls.iter().collect();
            let own = node.urls.iter().filter(|url| !known.contains(url)).cloned().collect();
            (node.address(), own)
        };
        let sides: [(String, Vec<String>); 2] = [own_routes(one, other), own_routes(other, one)];
        let differ = sides.iter().any(|(_, own)| !own.is_empty());
        differ.then(|| Self { name: one.name.clone(), sides })
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(one, _), (other, _)] = &self.sides;
        write!(f, "{} at {one} and {} at {other} have different routes:", self.name, self.name)?;
        for (address, own) in self.sides.iter().filter(|(_, own)| !own.is_empty()) {
            write!(f, " only {address} has {}", own[..own.len().min(Self::SHOWN_ROUTES)].join(" "))?;
            match own.len().saturating_sub(Self::SHOWN_ROUTES) {
                0 => write!(f, ";")?,
                more => write!(f, " and {more} more;")?,
            }
        }
        write!(f, " this is normal during an upgrade; two different programs need two names")
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_FRAME_BYTES)
    }
}

impl Registry {
    /// A registry whose list fits in a frame of so many bytes. A longer list would cost every node its connection.
    #[must_use]
    pub fn new(max_frame_bytes: usize) -> Self {
        Self {
            listed: BTreeMap::new(),
            waiting: BTreeMap::new(),
            owners: HashMap::new(),
            waiting_for: HashMap::new(),
            admitted: Vec::new(),
            max_frame_bytes,
            bytes: 0,
        }
    }

    /// Registers the node at the other end of `connection`, in place of what that connection registered before.
    /// Its host is the one it advertises, or else the address it connected from. Returns the entry as it is
    /// listed.
    ///
    /// # Errors
    /// Why it is not listed. What the connection had registered before then stays as it was, except that a node
    /// which says that it leaves is believed in any case.
    pub fn register(&mut self, connection: u64, mut node: Node, from: IpAddr) -> Result<&Node, Refused> {
        node.host = match node.advertise() {
            Some(host) => host.to_owned(),
            None => canonical(from).to_string(),
        };
        let bytes = entry_bytes(&node);
        let registration = Registration { node, bytes };
        self.forget_waiting(connection);
        let blocked_by = self.obstacle(connection, &registration.node);
        let fits = self.check_length(connection, &registration);
        if blocked_by.is_none() && fits.is_ok() {
            let freed = self.put_in_list(connection, registration);
            self.admit_those_who_waited_for(freed);
            return Ok(&self.listed[&connection].node);
        }
        if registration.node.leaving() {
            self.mark_leaving(connection);
        }
        fits?;
        let Some(blocked_by) = blocked_by else { return Ok(&self.listed[&connection].node) };
        let refused = self.taken(&blocked_by);
        self.wait(connection, registration, blocked_by);
        Err(refused)
    }

    /// What this connection has listed.
    #[must_use]
    pub fn get(&self, connection: u64) -> Option<&Node> {
        self.listed.get(&connection).map(|one| &one.node)
    }

    /// Instances that have the name of this connection's node and other routes than it: different programs, or
    /// different versions of one. A node that leaves, or that has no routes, is in no conflict.
    #[must_use]
    pub fn conflicts(&self, connection: u64) -> Vec<Conflict> {
        let serves = |node: &Node| !node.urls.is_empty() && !node.leaving();
        let Some(node) = self.get(connection).filter(|node| serves(node)) else { return Vec::new() };
        let others = self.list().into_iter().filter(|other| other.name == node.name && serves(other));
        others
            .filter(|other| other.urls != node.urls && other.address() != node.address())
            .filter_map(|other| Conflict::between(node, other))
            .collect()
    }

    /// Forgets the node of a connection that has ended, and what it waited for; nothing if it never registered.
    pub fn remove(&mut self, connection: u64) -> Option<Node> {
        self.forget_waiting(connection);
        let gone = self.listed.remove(&connection)?;
        self.bytes -= gone.bytes;
        let freed = self.give_back(connection, held(&gone.node).collect());
        self.admit_those_who_waited_for(freed);
        Some(gone.node)
    }

    /// The nodes that waited and are now listed, since somebody last asked.
    pub fn take_admitted(&mut self) -> Vec<(u64, &Node)> {
        let admitted = std::mem::take(&mut self.admitted);
        admitted.into_iter().filter_map(|one| Some((one, &self.listed.get(&one)?.node))).collect()
    }

    /// The list, in the order in which the connections came. Several registrations of one host and port are one
    /// instance, described by the newest of them, until the last is gone.
    #[must_use]
    pub fn list(&self) -> Vec<&Node> {
        let mut seen = HashSet::new();
        let newest_first = self.listed.values().rev().map(|one| &one.node);
        let mut list: Vec<&Node> = newest_first.filter(|node| seen.insert((&node.host, node.port))).collect();
        list.reverse();
        list
    }

    /// How many claims wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether all readers can take the list with this registration in place of what its connection has listed.
    /// A longer list closes the connections of our nodes, and ends course nodes.
    fn check_length(&self, connection: u64, registration: &Registration) -> Result<(), Refused> {
        let before = self.listed.get(&connection).map_or(0, |one| one.bytes);
        let bytes = (self.bytes - before).saturating_add(registration.bytes).saturating_add(ENVELOPE_BYTES);
        let others = self.listed.iter().filter(|(other, _)| **other != connection).map(|(_, one)| one);
        let mut all = others.chain(self.waiting.values().map(|one| &one.registration)).chain([registration]);
        let (limit, readers) = if all.any(|one| one.node.dialect() == Dialect::Course) {
            (self.max_frame_bytes.min(COURSE_MAX_BYTES), Dialect::Course)
        } else {
            (self.max_frame_bytes, Dialect::Pilcrow)
        };
        if bytes <= limit { Ok(()) } else { Err(Refused::TooLong { bytes, limit, readers }) }
    }

    /// What a node asks for and another name has: the first of it.
    fn obstacle(&self, connection: u64, node: &Node) -> Option<Claim> {
        let is_taken = |claim: &Claim| {
            // All of them have one name, but one may be this very connection under the name that it gives up.
            let mut others = self.owners.get(claim).into_iter().flatten().filter(|one| **one != connection);
            others.next().is_some_and(|owner| self.listed[owner].node.name != node.name)
        };
        asked(node).find(is_taken)
    }

    fn taken(&self, claim: &Claim) -> Refused {
        let owner = self.owners.get(claim).and_then(BTreeSet::first).map(|owner| &self.listed[owner].node);
        let (owner, at) = owner.map(|node| (node.name.clone(), node.address())).unwrap_or_default();
        Refused::Taken { what: claim.to_string(), owner, at }
    }

    /// Lists a registration that nothing stands against. What others may have waited for.
    fn put_in_list(&mut self, connection: u64, registration: Registration) -> Vec<Claim> {
        self.bytes += registration.bytes;
        let now: HashSet<Claim> = held(&registration.node).collect();
        for claim in &now {
            self.owners.entry(claim.clone()).or_default().insert(connection);
        }
        let renamed = |before: &Registration| before.node.name != registration.node.name;
        let renamed = self.listed.get(&connection).is_some_and(renamed);
        let Some(before) = self.listed.insert(connection, registration) else { return Vec::new() };
        self.bytes -= before.bytes;
        let given_up = held(&before.node).filter(|claim| !now.contains(claim)).collect();
        let mut freed = self.give_back(connection, given_up);
        if renamed {
            // Those of its new name may have waited for what it keeps.
            freed.extend(now);
        }
        freed
    }

    fn mark_leaving(&mut self, connection: u64) {
        let Some(listed) = self.listed.get_mut(&connection) else { return };
        listed.node = listed.node.clone().as_leaving();
    }

    /// Takes a connection out of the owners of these claims. Those that somebody may now have: nobody holds them any
    /// more, or one alone, who may itself wait to hold them under a new name.
    fn give_back(&mut self, connection: u64, given_up: Vec<Claim>) -> Vec<Claim> {
        let mut freed = Vec::new();
        for claim in given_up {
            let Entry::Occupied(mut owners) = self.owners.entry(claim) else { continue };
            owners.get_mut().remove(&connection);
            match owners.get().len() {
                0 => freed.push(owners.remove_entry().0),
                1 => freed.push(owners.key().clone()),
                _ => {}
            }
        }
        freed
    }

    fn wait(&mut self, connection: u64, registration: Registration, blocked_by: Claim) {
        self.bytes += registration.bytes;
        self.waiting_for.entry(blocked_by.clone()).or_default().insert(connection);
        self.waiting.insert(connection, Waiting { registration, blocked_by });
    }

    fn forget_waiting(&mut self, connection: u64) -> Option<Registration> {
        let Waiting { registration, blocked_by } = self.waiting.remove(&connection)?;
        self.bytes -= registration.bytes;
        if let Entry::Occupied(mut waiting) = self.waiting_for.entry(blocked_by) {
            waiting.get_mut().remove(&connection);
            if waiting.get().is_empty() {
                waiting.remove();
            }
        }
        Some(registration)
    }

    /// Looks again at the claims that waited for these, in the order in which their connections came. Admitting
    /// one may free what others wait for, so there may be more to look at than was given.
    fn admit_those_who_waited_for(&mut self, mut freed: Vec<Claim>) {
        let mut next: BTreeSet<u64> = BTreeSet::new();
        loop {
            next.extend(freed.drain(..).filter_map(|claim| self.waiting_for.get(&claim)).flatten());
            let Some(connection) = next.pop_first() else { return };
            let Some(registration) = self.forget_waiting(connection) else { continue };
            if let Some(blocked_by) = self.obstacle(connection, &registration.node) {
                self.wait(connection, registration, blocked_by);
            } else {
                self.admitted.push(connection);
                freed = self.put_in_list(connection, registration);
            }
        }
    }
}

/// What a node takes in a list: its JSON and the comma behind it. That it leaves, it may say of itself at any time,
/// also when there is no more room: it has room for that from the beginning.
fn entry_bytes(node: &Node) -> usize {
    // Nodes are text and numbers: they always have a JSON form.
    encode(node).map_or(0, |frame| frame.len() + 1 + LEAVING.len())
}

/// What a node asks for. Text that is no route can never be asked for, so it belongs to nobody.
fn asked(node: &Node) -> impl Iterator<Item = Claim> {
    std::iter::once(Claim::Address(node.address())).chain(routes(node).cloned().map(Claim::Route))
}

/// What a node holds once it is listed. One without routes has nothing that could be taken from it.
fn held(node: &Node) -> impl Iterator<Item = Claim> {
    routes(node).next().map(|_| asked(node)).into_iter().flatten()
}

fn routes(node: &Node) -> impl Iterator<Item = &String> {
    node.urls.iter().filter(|url| url.contains('/'))
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "the address {address}"),
            Self::Route(route) => write!(f, "the route {route}"),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { what, owner, at } => write!(
                f,
                "{what} belongs to {owner} at {at}; it waits, and is admitted when nobody of another name has \
                 any of what it asks for"
            ),
            Self::TooLong { bytes, limit, readers: Dialect::Pilcrow } => write!(
                f,
                "with it the list could have {bytes} bytes, and the nodes take at most {limit}; register less, \
                 or give every node a longer --max-frame"
            ),
            Self::TooLong { bytes, limit, readers: Dialect::Course } => write!(
                f,
                "with it the list could have {bytes} bytes, and course nodes take at most {limit}; register \
                 fewer or shorter routes, or use a distributor without course nodes"
            ),
        }
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests;
