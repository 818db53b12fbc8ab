//! Registration: for every input, the list, the routes and the log are right.
//!
//! Input: the mode; steps, one byte each, up to a 0; then JSON, a registration or a list.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use pilcrow::node::{MAX_ROUTES_PER_NODE, Node};
use pilcrow::packet::{DEFAULT_MAX_FRAME_BYTES, encode};
use pilcrow::registry::{Registry, Rejection};
use pilcrow::routes::{Resolved, Routes};
use serde_json::{Value, json};

/// More steps find nothing new and are slow. The checks run after the last step only, since every prefix is an input
/// too.
const MAX_STEPS: usize = 16;
const MAX_NODES: usize = 7;

/// A list that is soon full.
const SHORT_LIST_BYTES: usize = 700;

const PEERS: [&str; 4] = ["127.0.0.1", "::ffff:127.0.0.1", "::1", "10.0.0.7"];
const URLS: [&str; 8] =
    ["GET/users", "POST/users", "GET/users/login", "GET/", "GET//", "/users", "G T/users", "GET/a\nb"];

fuzz_target!(|input: &[u8]| {
    let [mode, input @ ..] = input else { return };
    let (steps, json) = match input.iter().position(|byte| *byte == 0) {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (&[][..], input),
    };
    let steps = &steps[..steps.len().min(MAX_STEPS)];
    let said: Value = serde_json::from_slice(json).unwrap_or_default();
    let mut nodes = nodes_of(&said);
    nodes.truncate(MAX_NODES);
    nodes.extend([0, 0x40, 0x09, 0x49, 0x80, 0xff, 0x51].map(small_node));
    let asks_for_more = |choice| Node { urls: URLS.map(str::to_owned).into(), ..small_node(choice) };
    nodes.extend([0, 0xff].map(|choice| asks_for_more(choice).as_leaving()));
    // One of them at a time: the number of runs matters.
    if mode & 1 == 0 {
        let limit = if mode & 2 == 0 { DEFAULT_MAX_FRAME_BYTES } else { SHORT_LIST_BYTES };
        register_and_leave(steps, &nodes, limit);
    } else {
        serve_and_go(steps, &nodes);
    }
});

/// Reads nodes from JSON, as a registration or as a list. Each is within the limits. A node that is read again from its
/// own JSON stays the same.
fn nodes_of(said: &Value) -> Vec<Node> {
    let mut nodes = Node::list_from_json(said).unwrap_or_default().nodes;
    if let Some(entries) = said.as_array() {
        assert!(nodes.len() <= entries.len());
    }
    nodes.extend(Node::from_json(said));
    for node in &nodes {
        assert!(node.port != 0 && node.urls.len() <= MAX_ROUTES_PER_NODE && node.name.chars().count() <= 100);
        assert!(node.urls.iter().all(|url| url.len() <= 1024));
        let passed_on = serde_json::to_value(node).expect("a node has a JSON form");
        assert_eq!(Node::from_json(&passed_on).as_ref(), Ok(node), "passed on as it came");
        assert!(node.clone().as_leaving().is_leaving());
        let _ = (node.address(), node.dialect(), node.id(), node.advertise());
    }
    nodes
}

/// One of 256 nodes that conflict with each other.
fn small_node(choice: u8) -> Node {
    let pick = |shift: u32| usize::from(choice >> shift);
    let urls = [URLS[pick(0) % 8], URLS[pick(3) % 8]];
    let name = ["users", "goods"][pick(6) % 2];
    let port = 9020 + pick(7) % 2;
    Node::from_json(&json!({ "port": port, "name": name, "urls": urls })).expect("it is within the limits")
}

/// The node that is listed for each connection: the registry in its simplest form.
#[derive(Default)]
struct Known {
    listed: BTreeMap<u64, Node>,
}

/// Connections open, register, register again and close.
fn register_and_leave(steps: &[u8], nodes: &[Node], limit: usize) {
    let mut registry = Registry::new(limit);
    let mut known = Known::default();
    for step in steps {
        let connection = u64::from(step % 8);
        if step & 0x80 == 0 {
            known.registers(&mut registry, connection, &nodes[usize::from(step >> 3) % nodes.len()]);
        } else {
            known.goes(&mut registry, connection);
        }
    }
    known.is_in(&registry, limit);
    for connection in 0..8 {
        known.goes(&mut registry, connection);
    }
    assert_eq!(
        format!("{registry:?}"),
        format!("{:?}", Registry::new(limit)),
        "nothing is left of connections that have ended"
    );
}

impl Known {
    fn registers(&mut self, registry: &mut Registry, connection: u64, node: &Node) {
        let from: IpAddr = PEERS[usize::try_from(connection).expect("a small number") % PEERS.len()]
            .parse()
            .expect("an address");
        let registered = registry.register(connection, node.clone(), from).cloned();
        let mut node = node.clone();
        node.host = node.advertise().map_or_else(|| from.to_canonical().to_string(), str::to_owned);
        if let Some(before) = self.listed.get_mut(&connection).filter(|_| node.is_leaving()) {
            *before = before.clone().as_leaving();
        }
        match registered {
            Ok(listed) => {
                assert_eq!(listed, node);
                self.listed.insert(connection, node);
            }
            Err(Rejection::Taken { owner, .. }) => {
                assert_ne!(owner, node.name);
                assert!(self.is_taken(connection, &node));
            }
            Err(Rejection::TooLong { bytes, limit, .. }) => assert!(bytes > limit),
        }
    }

    fn goes(&mut self, registry: &mut Registry, connection: u64) {
        assert_eq!(registry.remove(connection), self.listed.remove(&connection));
    }

    /// The list has each instance once, as the newest connection describes it. The list stays within its length limit.
    /// Each route and address has one name.
    fn is_in(&self, registry: &Registry, limit: usize) {
        let mut places = BTreeSet::new();
        let newest = self.listed.values().rev().filter(|node| places.insert((&node.host, node.port)));
        let mut expected: Vec<&Node> = newest.collect();
        expected.reverse();
        assert_eq!(registry.list(), expected);
        for (connection, node) in &self.listed {
            let has_routes = routes(node).next().is_some();
            assert!(!has_routes || !self.is_taken(*connection, node), "one name for each");
            let conflicts = registry.conflicts(*connection).len();
            assert!(conflicts < self.listed.len(), "no node is in conflict with itself");
        }

        let sent = json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": expected });
        let bytes = encode(&sent).expect("a list has a JSON form").len();
        assert!(bytes <= limit, "a list of {bytes} bytes, limit {limit}");
        let arrived = Node::list_from_json(&sent["params"]).expect("a list of ours is understood").nodes;
        assert!(arrived.iter().eq(expected), "and whole");
    }

    /// Whether a node of another name has a route or the address that this node requests.
    fn is_taken(&self, connection: u64, asking: &Node) -> bool {
        self.listed.iter().any(|(other, node)| {
            let shares =
                || asking.address() == node.address() || routes(asking).any(|one| node.urls.contains(one));
            *other != connection && node.name != asking.name && routes(node).next().is_some() && shares()
        })
    }
}

/// The routes of a node. Text without a slash is skipped.
fn routes(node: &Node) -> impl Iterator<Item = &String> {
    node.urls.iter().filter(|url| url.contains('/'))
}

/// Instances arrive with their routes, change them and leave. A plain set of instances and routes checks the table.
fn serve_and_go(steps: &[u8], nodes: &[Node]) {
    let mut routes = Routes::<usize>::default();
    let mut serves: BTreeSet<(String, String, usize)> = BTreeSet::new();
    for step in steps.iter().copied() {
        let instance = usize::from(step % 4);
        let address = format!("10.0.0.1:{instance}");
        serves.retain(|(_, _, other)| *other != instance);
        if step & 0x80 == 0 {
            let node = &nodes[usize::from(step >> 2) % nodes.len()];
            plain(&routes.set(&address, "some", &node.urls, &instance));
            serves.extend(node.urls.iter().filter_map(|url| {
                let (method, path) = url.split_at(url.find('/')?);
                let is_method = method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                let is_route = is_method && !method.is_empty() && !path.contains(char::is_control);
                is_route.then(|| (method.to_owned(), path.to_owned(), instance))
            }));
        } else {
            plain(&routes.remove(&address));
        }
    }
    table_is(&routes, &serves);
    let rows = routes.rows(|_| true);
    let knows = |method: &str, path: &str| rows.iter().any(|row| row.method == method && row.path == path);
    let urls = nodes.iter().take(8).flat_map(|node| node.urls.iter().take(8)).map(String::as_str);
    for url in urls.chain(URLS) {
        let Some(slash) = url.find('/') else { continue };
        let (method, path) = url.split_at(slash);
        for path in [path, &format!("{path}/1"), &format!("{path}/")] {
            finds_what_is_there(&routes, method, path, knows);
        }
    }
}

/// The log text of a change stays on one line.
fn plain(changes: &[String]) {
    assert!(!changes.iter().any(|change| change.contains(char::is_control)), "{changes:?}");
}

fn table_is(routes: &Routes<usize>, serves: &BTreeSet<(String, String, usize)>) {
    let mut in_table = BTreeSet::new();
    let rows = routes.rows(|_| true);
    assert!(rows.is_sorted_by(|a, b| (&a.path, &a.method) < (&b.path, &b.method)));
    for row in &rows {
        for address in &row.instances {
            let instance = address.rsplit(':').next().and_then(|number| number.parse().ok());
            in_table.insert((row.method.clone(), row.path.clone(), instance.expect("as it was set")));
        }
        // Ties are broken round-robin, and an instance that cannot accept a request is skipped.
        let picked: BTreeSet<usize> = row
            .instances
            .iter()
            .filter_map(|_| routes.pick(&row.method, &row.path, |_, _| Some(1)))
            .collect();
        assert_eq!(picked.len(), row.instances.len(), "each of them in its turn");
        let least = routes.pick(&row.method, &row.path, |_, instance| Some(*instance));
        assert_eq!(least, picked.first().copied());
        assert_eq!(routes.pick(&row.method, &row.path, |_, _| None::<u8>), None);
    }
    assert_eq!(in_table, *serves);
}

/// A request finds a route exactly if it is in the table.
fn finds_what_is_there(routes: &Routes<usize>, method: &str, path: &str, knows: impl Fn(&str, &str) -> bool) {
    match routes.resolve(method, path) {
        Resolved::Route(route, None) => assert!(route == path && knows(method, path)),
        Resolved::Route(route, Some(segment)) => {
            assert!(!knows(method, path) && knows(method, route));
            assert_eq!(format!("{route}/{segment}"), path);
        }
        Resolved::MethodNotAllowed(allowed) => {
            assert!(!allowed.is_empty() && !allowed.iter().any(|known| known == method));
        }
        Resolved::NotFound => assert!(!knows(method, path)),
    }
}
