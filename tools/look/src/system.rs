//! What the page shows of the system: processes, links, rates. A value without sockets.
//!
//! An instance or a gateway that is no longer listed stays for some minutes, so that its box stays where it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pilcrow::node::{GATE, Node};
use serde::{Deserialize, Serialize};

use crate::rates::{Counts, Difference, Rates, Window};

/// How long a process that has ended is shown.
const SHOWN_AFTER_END: Duration = Duration::from_secs(300);

/// A gateway that has sent nothing for this long is silent. It sends its status twice a second.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// How many processes that have ended are shown at most.
const MAX_ENDED: usize = 100;

/// The event `status` of a gateway.
#[derive(Debug, Default, Deserialize)]
pub struct Status {
    pub journeys: String,
    #[serde(flatten)]
    pub counts: Counts,
    pub in_flight: u64,
    pub streams: u64,
    pub links: Vec<LinkView>,
}

/// A link of a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkView {
    pub address: String,
    pub service: String,
    pub state: String,
    pub in_flight: u64,
    pub failures: u64,
    pub retry_in_ms: u64,
    pub dialect: String,
}

/// All processes.
#[derive(Debug, Default)]
pub struct System {
    distributors: Vec<DistributorView>,
    gateways: BTreeMap<String, Gateway>,
    instances: BTreeMap<String, Instance>,
    others: Vec<OtherView>,
}

#[derive(Debug, Default)]
struct Gateway {
    /// When it was missing on the list for the first time.
    unlisted: Option<Instant>,
    /// When it sent its last status over the current connection.
    heard: Option<Instant>,
    why: String,
    status: Status,
    window: Window,
}

#[derive(Debug)]
struct Instance {
    unlisted: Option<Instant>,
    node: Node,
}

#[derive(Debug, Clone, Serialize)]
struct DistributorView {
    address: String,
    state: &'static str,
}

#[derive(Debug, Clone, Serialize)]
struct OtherView {
    name: String,
    address: String,
}

#[derive(Debug, Serialize)]
struct GatewayView<'a> {
    address: &'a str,
    state: &'static str,
    why: &'a str,
    journeys: &'a str,
    #[serde(flatten)]
    rates: Rates,
    in_flight: u64,
    streams: u64,
    links: &'a [LinkView],
}

#[derive(Debug, Serialize)]
struct InstanceView<'a> {
    service: &'a str,
    address: &'a str,
    state: &'static str,
    routes: &'a [String],
    dialect: &'static str,
}

/// The system as the page gets it.
#[derive(Debug, Serialize)]
pub struct SystemView<'a> {
    distributors: &'a [DistributorView],
    gateways: Vec<GatewayView<'a>>,
    instances: Vec<InstanceView<'a>>,
    others: &'a [OtherView],
    totals: Rates,
}

impl System {
    /// Applies the newest lists. `connected` are the distributors with a connection.
    pub fn follow(&mut self, nodes: Vec<Node>, distributors: &[String], connected: &[String], now: Instant) {
        let state = |address: &String| if connected.contains(address) { "up" } else { "down" };
        let distributor =
            |address: &String| DistributorView { address: address.clone(), state: state(address) };
        self.distributors = distributors.iter().map(distributor).collect();
        self.gateways.values_mut().for_each(|one| one.unlisted = one.unlisted.or(Some(now)));
        self.instances.values_mut().for_each(|one| one.unlisted = one.unlisted.or(Some(now)));
        self.others.clear();
        for node in nodes {
            let address = node.address();
            if node.name == GATE {
                self.gateways.entry(address).or_default().unlisted = None;
            } else if node.urls.is_empty() {
                self.others.push(OtherView { name: node.name, address });
            } else {
                self.instances.insert(address, Instance { unlisted: None, node });
            }
        }
        forget(&mut self.gateways, |one| one.unlisted, now);
        forget(&mut self.instances, |one| one.unlisted, now);
    }

    /// The addresses of the gateways on the list.
    pub fn listed_gateways(&self) -> Vec<String> {
        let listed = self.gateways.iter().filter(|(_, one)| one.unlisted.is_none());
        listed.map(|(address, _)| address.clone()).collect()
    }

    /// Whether every listed gateway has sent its status, or is known to send none.
    pub fn is_complete(&self) -> bool {
        let mut listed = self.gateways.values().filter(|one| one.unlisted.is_none()).peekable();
        listed.peek().is_some() && listed.all(|one| one.heard.is_some() || !one.why.is_empty())
    }

    /// Applies the status that a gateway has sent.
    pub fn update(&mut self, address: &str, status: Status, now: Instant) {
        let Some(gateway) = self.gateways.get_mut(address) else { return };
        gateway.heard = Some(now);
        gateway.why.clear();
        gateway.window.push(now, status.counts.clone());
        gateway.status = status;
    }

    /// A gateway sends no status: it cannot be reached, or nobody asks it.
    pub fn lose(&mut self, address: &str, why: &str) {
        let Some(gateway) = self.gateways.get_mut(address) else { return };
        let Gateway { unlisted, .. } = *gateway;
        *gateway = Gateway { unlisted, why: why.to_owned(), ..Gateway::default() };
    }

    /// The system at this moment.
    pub fn view(&self, now: Instant) -> SystemView<'_> {
        let mut total = Difference::default();
        let mut gateways = Vec::with_capacity(self.gateways.len());
        for (address, gateway) in &self.gateways {
            let difference = gateway.window.difference();
            total.add(&difference);
            gateways.push(gateway.view(address, difference.rates(), now));
        }
        let instances = self.instances.iter();
        let mut instances: Vec<InstanceView<'_>> =
            instances.map(|(address, instance)| self.view_instance(address, instance)).collect();
        instances.sort_by(|a, b| (a.service, a.address).cmp(&(b.service, b.address)));
        SystemView {
            distributors: &self.distributors,
            gateways,
            instances,
            others: &self.others,
            totals: total.rates(),
        }
    }

    fn view_instance<'a>(&'a self, address: &'a str, instance: &'a Instance) -> InstanceView<'a> {
        let node = &instance.node;
        InstanceView {
            service: &node.name,
            address,
            state: self.state_of(address, instance),
            routes: &node.urls,
            dialect: node.dialect().name(),
        }
    }

    /// The list says which instances live, but it may be old or nearly empty while a distributor is away. Then a link
    /// that is up is the better witness.
    fn state_of(&self, address: &str, instance: &Instance) -> &'static str {
        let links = self.gateways.values().flat_map(|gateway| &gateway.status.links);
        let mut links = links.filter(|link| link.address == address).peekable();
        let is_known = links.peek().is_some();
        let has_link = links.any(|link| link.state != "down");
        let has_distributor = self.distributors.iter().any(|one| one.state == "up");
        match instance.unlisted {
            None if instance.node.is_leaving() => "leaving",
            None if has_distributor || has_link || !is_known => "up",
            Some(_) if has_link => "up",
            _ => "down",
        }
    }
}

impl Gateway {
    fn view<'a>(&'a self, address: &'a str, rates: Rates, now: Instant) -> GatewayView<'a> {
        let state = match self.heard {
            Some(heard) if now.duration_since(heard) > SILENT_AFTER => "silent",
            Some(_) => "up",
            None => "down",
        };
        let Status { journeys, in_flight, streams, links, .. } = &self.status;
        let journeys = if journeys.is_empty() { "off" } else { journeys };
        GatewayView {
            address,
            state,
            why: &self.why,
            journeys,
            rates,
            in_flight: *in_flight,
            streams: *streams,
            links,
        }
    }
}

/// Forgets the processes that have ended a while ago, and the first of them if there are too many.
fn forget<T>(all: &mut BTreeMap<String, T>, unlisted: impl Fn(&T) -> Option<Instant>, now: Instant) {
    all.retain(|_, one| unlisted(one).is_none_or(|since| now.duration_since(since) < SHOWN_AFTER_END));
    while all.values().filter(|one| unlisted(one).is_some()).count() > MAX_ENDED {
        let ended = all.iter().filter_map(|(address, one)| Some((unlisted(one)?, address.clone())));
        let Some((_, first)) = ended.min() else { return };
        all.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const GATEWAY: &str = "127.0.0.1:8000";
    const DISTRIBUTOR: &str = "127.0.0.1:9000";

    fn node(name: &str, port: u16, urls: &[&str]) -> Node {
        let node =
            json!({ "name": name, "port": port, "urls": urls, "host": "127.0.0.1", "proto": "pilcrow/1" });
        Node::from_json(&node).unwrap()
    }

    fn list() -> Vec<Node> {
        vec![node(GATE, 8000, &[]), node("users", 9020, &["GET/users"]), node("look", 8080, &[])]
    }

    fn status(link_state: &str) -> Status {
        let link = json!({ "address": "127.0.0.1:9020", "service": "users", "state": link_state, "in_flight": 0,
            "failures": 0, "retry_in_ms": 0, "dialect": "pilcrow" });
        let status = json!({ "journeys": "on", "requests": 0, "failed": 0, "seconds": [], "in_flight": 0,
            "streams": 0, "links": [link] });
        serde_json::from_value(status).unwrap()
    }

    fn follow(system: &mut System, nodes: Vec<Node>, is_connected: bool, now: Instant) {
        let distributors = [DISTRIBUTOR.to_owned()];
        system.follow(nodes, &distributors, if is_connected { &distributors } else { &[] }, now);
    }

    fn view(system: &System, now: Instant) -> Value {
        serde_json::to_value(system.view(now)).unwrap()
    }

    #[test]
    fn an_instance_that_ends_stays_for_five_minutes() {
        let (mut system, began) = (System::default(), Instant::now());
        follow(&mut system, list(), true, began);
        let instance = |system: &System| view(system, began)["instances"][0]["state"].clone();
        assert_eq!(instance(&system), "up");
        follow(&mut system, vec![list().remove(0)], true, began);
        assert_eq!(instance(&system), "down");
        follow(&mut system, list(), true, began);
        assert_eq!(instance(&system), "up", "it has come back");
        follow(&mut system, Vec::new(), true, began);
        follow(&mut system, Vec::new(), true, began + SHOWN_AFTER_END);
        assert!(instance(&system).is_null());
    }

    #[test]
    fn a_link_is_the_better_witness_while_the_distributor_is_away() {
        let (mut system, now) = (System::default(), Instant::now());
        for (link, nodes, is_connected, expected) in [
            ("up", list(), true, "up"),
            ("up", list(), false, "up"),
            ("down", list(), false, "down"),
            ("down", list(), true, "up"),
            // A distributor that has started again knows nobody yet.
            ("up", vec![list().remove(0)], true, "up"),
            ("set_aside", vec![list().remove(0)], true, "up"),
            ("down", vec![list().remove(0)], true, "down"),
        ] {
            follow(&mut system, nodes, is_connected, now);
            system.update(GATEWAY, status(link), now);
            assert_eq!(view(&system, now)["instances"][0]["state"], expected, "{link}, {is_connected}");
        }
    }

    #[test]
    fn a_gateway_without_news_is_silent_and_one_without_connection_is_down() {
        let (mut system, now) = (System::default(), Instant::now());
        follow(&mut system, list(), true, now);
        let state = |system: &System, now| view(system, now)["gateways"][0]["state"].clone();
        assert_eq!(state(&system, now), "down");
        assert!(!system.is_complete());
        system.update(GATEWAY, status("up"), now);
        assert_eq!(state(&system, now), "up");
        assert!(system.is_complete());
        assert_eq!(state(&system, now + SILENT_AFTER * 2), "silent");
        system.lose(GATEWAY, "connection refused");
        assert_eq!(state(&system, now), "down");
        assert_eq!(view(&system, now)["gateways"][0]["links"], json!([]));
    }

    #[test]
    fn processes_that_have_ended_are_limited_in_number() {
        let (mut system, now) = (System::default(), Instant::now());
        for port in 1..500 {
            follow(&mut system, vec![node("users", port, &["GET/users"])], true, now);
        }
        assert!(view(&system, now)["instances"].as_array().unwrap().len() <= MAX_ENDED + 1);
    }
}
