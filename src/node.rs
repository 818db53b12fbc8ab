//! A node: its registration, and its entry in the list.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use crate::address::join_host_port;
use crate::packet::{Dialect, PROTO};

/// The maximum length of a node's name, in characters.
const MAX_NAME_CHARS: usize = 100;

/// The maximum number of routes that one node may register.
pub const MAX_ROUTES_PER_NODE: usize = 1000;

/// The maximum length of a route (`METHOD/path`), in bytes.
const MAX_ROUTE_BYTES: usize = 1024;

/// The name of every gateway. Gateways register no routes.
pub const GATE: &str = "gate";

/// The name of the live page. It has no routes, and its port speaks HTTP, like that of a gateway.
pub const LOOK: &str = "look";

/// The paths that a gateway answers itself. No node may register them.
pub const GATEWAY_PATHS: [&str; 5] = ["/healthz", "/readyz", "/routes", "/metrics", "/journeys"];

/// The entries of a list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeList {
    /// The usable entries.
    pub nodes: Vec<Node>,
    /// For each other entry, the reason why it is unusable.
    pub skipped: Vec<String>,
}

/// One node: a registration, or an entry of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The port that it listens on.
    pub port: u16,
    /// Its service name. Instances of one service share it.
    pub name: String,
    /// Its routes, each `METHOD/path`, such as `GET/users`.
    pub urls: Vec<String>,
    /// The host where other nodes reach it. The distributor fills it in.
    pub host: String,
    /// All other fields. The distributor passes them on, because newer nodes may understand them.
    pub extra: Map<String, Value>,
}

impl Node {
    /// Our own registration, with `proto` and a stable `id`. The id distinguishes this process from a later one on the
    /// same port.
    #[must_use]
    pub fn ours(name: &str, port: u16, urls: Vec<String>, id: &str) -> Self {
        let mut extra = Map::new();
        extra.insert("proto".to_owned(), PROTO.into());
        extra.insert("id".to_owned(), id.into());
        Self { port, name: name.to_owned(), urls, host: String::new(), extra }
    }

    /// Reads a registration or an entry of a list. `port` may be a number or a string.
    ///
    /// # Errors
    /// A sentence that names the field and the rule.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let Value::Object(fields) = value else {
            return Err("a node must be an object with port, name and urls".to_owned());
        };
        let port = match fields.get("port") {
            Some(Value::Number(number)) => number.as_u64().and_then(|port| u16::try_from(port).ok()),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        let port = port.filter(|port| *port != 0).ok_or("port must be a number from 1 to 65535")?;
        let name = fields.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if name.chars().count() > MAX_NAME_CHARS {
            return Err(format!("name must have at most {MAX_NAME_CHARS} characters"));
        }
        let urls =
            fields.get("urls").and_then(Value::as_array).ok_or("urls must be an array of METHOD/path")?;
        if urls.len() > MAX_ROUTES_PER_NODE {
            return Err(format!("urls must have at most {MAX_ROUTES_PER_NODE} entries, not {}", urls.len()));
        }
        let urls: Vec<String> = urls
            .iter()
            .map(|url| url.as_str().filter(|url| url.len() <= MAX_ROUTE_BYTES).map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| format!("each of urls must be text of at most {MAX_ROUTE_BYTES} bytes"))?;
        let host = fields.get("host").and_then(Value::as_str).unwrap_or_default().to_owned();
        let known = ["port", "name", "urls", "host"];
        let mut extra = fields.clone();
        extra.retain(|field, _| !known.contains(&field.as_str()));
        Ok(Self { port, name, urls, host, extra })
    }

    /// Reads a list: an array of objects with `port` and `urls`. Only this shape counts, because some course
    /// distributors send it under another name. Skips an entry that is invalid or has no host.
    #[must_use]
    pub fn list_from_json(params: &Value) -> Option<NodeList> {
        let entries = params.as_array()?;
        let shaped = |entry: &Value| entry.get("port").is_some() && entry.get("urls").is_some();
        if !entries.iter().all(shaped) {
            return None;
        }
        let mut list = NodeList::default();
        for entry in entries {
            match Self::from_json(entry) {
                Ok(node) if node.host.is_empty() => {
                    // Some course distributors send such entries. No node can connect to `:9016`.
                    list.skipped.push(format!("{} with port {} has no host", node.name, node.port));
                }
                Ok(node) => list.nodes.push(node),
                Err(why) => list.skipped.push(why),
            }
        }
        Some(list)
    }

    /// Rejects routes that no node may register: the gateway's own paths with any method, and all routes of a node with
    /// the gateway's name.
    ///
    /// # Errors
    /// A sentence that names the route.
    pub fn check_routes(&self) -> Result<(), String> {
        if self.name == GATE && !self.urls.is_empty() {
            return Err(format!(
                "gateways have no routes, so nothing called {GATE} may register {}",
                self.urls[0]
            ));
        }
        let is_own = |url: &&String| url.split_once('/').is_some_and(|(_, path)| is_gateway_path(path));
        match self.urls.iter().find(is_own) {
            Some(url) => Err(format!("{url} is the gateway's own, under every method")),
            None => Ok(()),
        }
    }

    /// The address to connect to, `host:port`. It identifies the instance: only one process listens there at a time.
    #[must_use]
    pub fn address(&self) -> String {
        join_host_port(&self.host, self.port)
    }

    /// The dialect that this node understands.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.text("proto") {
            Some(PROTO) => Dialect::Pilcrow,
            _ => Dialect::Course,
        }
    }

    /// The id that distinguishes one run of a process from the next on the same port, if the node states one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.text("id")
    }

    /// The host where other nodes reach this node, if it differs from the host that the distributor sees.
    #[must_use]
    pub fn advertise(&self) -> Option<&str> {
        self.text("advertise").filter(|host| !host.is_empty())
    }

    /// The same node, which other nodes reach at another address than its own.
    #[must_use]
    pub fn advertised_at(mut self, host: &str, port: u16) -> Self {
        self.port = port;
        self.extra.insert("advertise".to_owned(), host.into());
        self
    }

    /// True if this node is shutting down and must get no new requests.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.extra.get("leaving") == Some(&Value::Bool(true))
    }

    /// The same node, marked as leaving.
    #[must_use]
    pub fn as_leaving(mut self) -> Self {
        self.extra.insert("leaving".to_owned(), Value::Bool(true));
        self
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.extra.get(field)?.as_str()
    }
}

/// True if a path without its first slash is one of the gateway's own.
fn is_gateway_path(path: &str) -> bool {
    GATEWAY_PATHS.iter().any(|own| own.strip_prefix('/') == Some(path))
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("port", &self.port)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("urls", &self.urls)?;
        if !self.host.is_empty() {
            map.serialize_entry("host", &self.host)?;
        }
        for (field, value) in &self.extra {
            map.serialize_entry(field, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
