//! Tests of the module above, as a value.

use serde_json::{Value, json};

use super::*;

const HERE: &str = "127.0.0.1";

fn node(entry: &Value) -> Node {
    Node::from_json(entry).unwrap()
}

fn named(name: &str, port: u16) -> Node {
    node(&json!({ "port": port, "name": name, "urls": [format!("GET/{name}")] }))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The list as it is sent.
fn list(registry: &Registry) -> Value {
    serde_json::to_value(registry.list()).unwrap()
}

fn names(registry: &Registry) -> Vec<&str> {
    registry.list().into_iter().map(|node| node.name.as_str()).collect()
}

#[test]
fn an_empty_registry_has_an_empty_list() {
    assert_eq!(list(&Registry::default()), json!([]));
}

#[test]
fn an_entry_has_the_host_it_came_from_and_all_that_it_said() {
    let mut registry = Registry::default();
    let said = json!({
        "port": "9020", "name": "users", "urls": ["GET/users"], "host": "nowhere.example",
        "proto": "pilcrow/1", "id": "5eed", "weight": { "now": [1, 2] }, "von später": "¶",
    });
    let entry = registry.register(1, node(&said), ip(HERE));
    assert_eq!(entry.address(), "127.0.0.1:9020");
    let expected = json!([{
        "port": 9020, "name": "users", "urls": ["GET/users"], "host": HERE,
        "proto": "pilcrow/1", "id": "5eed", "weight": { "now": [1, 2] }, "von später": "¶",
    }]);
    assert_eq!(list(&registry), expected);
}

#[test]
fn one_address_has_one_spelling() {
    let cases = [
        ("::ffff:127.0.0.1", HERE, "127.0.0.1:9020"),
        ("::ffff:7f00:1", HERE, "127.0.0.1:9020"),
        ("::1", "::1", "[::1]:9020"),
        ("2001:DB8:0:0::7", "2001:db8::7", "[2001:db8::7]:9020"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.7:9020"),
    ];
    for (from, host, address) in cases {
        let mut registry = Registry::default();
        let entry = registry.register(1, named("users", 9020), ip(from));
        assert_eq!((entry.host.as_str(), entry.address().as_str()), (host, address));
    }
}

#[test]
fn a_node_that_advertises_a_host_is_listed_under_it() {
    let mut registry = Registry::default();
    let said = json!({ "port": 9020, "name": "users", "urls": [], "advertise": "users.example" });
    assert_eq!(registry.register(1, node(&said), ip(HERE)).address(), "users.example:9020");
    let said = json!({ "port": 9021, "name": "users", "urls": [], "advertise": "" });
    assert_eq!(registry.register(2, node(&said), ip(HERE)).address(), "127.0.0.1:9021");
}

#[test]
fn registering_again_replaces_the_entry_of_that_connection() {
    let mut registry = Registry::default();
    registry.register(1, named("users", 9020), ip(HERE));
    registry.register(2, named("goods", 9030), ip(HERE));
    registry.register(1, named("people", 9021).as_leaving(), ip(HERE));
    let expected = json!([
        { "port": 9021, "name": "people", "urls": ["GET/people"], "host": HERE, "leaving": true },
        { "port": 9030, "name": "goods", "urls": ["GET/goods"], "host": HERE },
    ]);
    assert_eq!(list(&registry), expected);
}

#[test]
fn the_list_is_in_the_order_in_which_the_connections_came() {
    let mut registry = Registry::default();
    for connection in [3, 1, 10, 2] {
        let port = 9000 + u16::try_from(connection).unwrap();
        registry.register(connection, named(&format!("n{connection}"), port), ip(HERE));
    }
    assert_eq!(names(&registry), ["n1", "n2", "n3", "n10"]);
    registry.remove(2);
    assert_eq!(names(&registry), ["n1", "n3", "n10"]);
}

#[test]
fn registrations_of_one_host_and_port_are_one_instance_until_the_last_is_gone() {
    let mut registry = Registry::default();
    registry.register(1, named("old", 9020), ip(HERE));
    registry.register(2, named("between", 9021), ip(HERE));
    registry.register(3, named("new", 9020), ip("::ffff:127.0.0.1"));
    assert_eq!(names(&registry), ["between", "new"], "the newest describes it");
    assert_eq!(registry.remove(3).map(|node| node.name), Some("new".to_owned()));
    assert_eq!(names(&registry), ["old", "between"]);
    registry.register(4, named("newer", 9020), ip(HERE));
    registry.remove(1);
    assert_eq!(names(&registry), ["between", "newer"]);
    registry.remove(4);
    assert_eq!(names(&registry), ["between"]);
}

#[test]
fn the_same_port_on_another_host_is_another_instance() {
    let mut registry = Registry::default();
    registry.register(1, named("users", 9020), ip(HERE));
    registry.register(2, named("users", 9020), ip("192.0.2.7"));
    registry.register(3, named("users", 9020), ip("::1"));
    assert_eq!(registry.list().len(), 3);
}

#[test]
fn who_never_registered_leaves_without_a_trace() {
    let mut registry = Registry::default();
    registry.register(1, named("users", 9020), ip(HERE));
    let before = list(&registry);
    assert_eq!(registry.remove(2), None);
    assert_eq!(list(&registry), before);
    assert!(registry.remove(1).is_some());
    assert_eq!(registry.remove(1), None, "nobody leaves twice");
}
