//! Tests of the parent module as a value.

use std::collections::HashMap;

use proptest::prelude::*;
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

/// The list as the distributor sends it.
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
fn an_entry_has_the_host_of_its_connection_and_all_registered_fields() {
    let mut registry = Registry::default();
    let said = json!({
        "port": "9020", "name": "users", "urls": ["GET/users"], "host": "nowhere.example",
        "proto": "pilcrow/1", "id": "5eed", "weight": { "now": [1, 2] }, "von später": "¶",
    });
    let entry = registry.register(1, node(&said), ip(HERE)).unwrap();
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
        let entry = registry.register(1, named("users", 9020), ip(from)).unwrap();
        assert_eq!((entry.host.as_str(), entry.address().as_str()), (host, address));
    }
}

#[test]
fn a_node_that_advertises_a_host_is_listed_under_it() {
    let mut registry = Registry::default();
    let said = json!({ "port": 9020, "name": "users", "urls": [], "advertise": "users.example" });
    assert_eq!(registry.register(1, node(&said), ip(HERE)).unwrap().address(), "users.example:9020");
    let said = json!({ "port": 9021, "name": "users", "urls": [], "advertise": "" });
    assert_eq!(registry.register(2, node(&said), ip(HERE)).unwrap().address(), "127.0.0.1:9021");
}

#[test]
fn registering_again_replaces_the_entry_of_that_connection() {
    let mut registry = Registry::default();
    registry.register(1, named("users", 9020), ip(HERE)).unwrap();
    registry.register(2, named("goods", 9030), ip(HERE)).unwrap();
    registry.register(1, named("people", 9021).as_leaving(), ip(HERE)).unwrap();
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
        registry.register(connection, named(&format!("n{connection}"), port), ip(HERE)).unwrap();
    }
    assert_eq!(names(&registry), ["n1", "n2", "n3", "n10"]);
    registry.remove(2);
    assert_eq!(names(&registry), ["n1", "n3", "n10"]);
}

#[test]
fn registrations_of_one_host_and_port_are_one_instance_until_the_last_is_gone() {
    let run = |id: &str, port: u16| {
        node(&json!({ "port": port, "name": "users", "urls": ["GET/users"], "id": id }))
    };
    let ids = |registry: &Registry| -> Vec<String> {
        registry.list().iter().filter_map(|node| node.id().map(str::to_owned)).collect()
    };
    let mut registry = Registry::default();
    registry.register(1, run("old", 9020), ip(HERE)).unwrap();
    registry.register(2, run("between", 9021), ip(HERE)).unwrap();
    registry.register(3, run("new", 9020), ip("::ffff:127.0.0.1")).unwrap();
    assert_eq!(ids(&registry), ["between", "new"], "the newest entry describes it");
    assert_eq!(registry.remove(3).as_ref().and_then(Node::id), Some("new"));
    assert_eq!(ids(&registry), ["old", "between"]);
    registry.register(4, run("newer", 9020), ip(HERE)).unwrap();
    registry.remove(1);
    assert_eq!(ids(&registry), ["between", "newer"]);
    registry.remove(4);
    assert_eq!(ids(&registry), ["between"]);
}

#[test]
fn the_same_port_on_another_host_is_another_instance() {
    let mut registry = Registry::default();
    registry.register(1, named("users", 9020), ip(HERE)).unwrap();
    registry.register(2, named("users", 9020), ip("192.0.2.7")).unwrap();
    registry.register(3, named("users", 9020), ip("::1")).unwrap();
    assert_eq!(registry.list().len(), 3);
}

#[test]
fn a_connection_that_never_registered_changes_nothing_when_it_ends() {
    let mut registry = Registry::default();
    registry.register(1, named("users", 9020), ip(HERE)).unwrap();
    let before = list(&registry);
    assert_eq!(registry.remove(2), None);
    assert_eq!(list(&registry), before);
    assert!(registry.remove(1).is_some());
    assert_eq!(registry.remove(1), None, "no node leaves twice");
}

// ---- the owner of a route

/// A node with these routes.
fn with_routes(name: &str, port: u16, urls: &[&str]) -> Node {
    node(&json!({ "port": port, "name": name, "urls": urls, "proto": "pilcrow/1" }))
}

/// Registers with a different port for each connection.
fn register_with_routes(
    registry: &mut Registry,
    connection: u64,
    name: &str,
    urls: &[&str],
) -> Result<(), Rejection> {
    let port = 9000 + u16::try_from(connection).unwrap();
    registry.register(connection, with_routes(name, port, urls), ip(HERE)).map(|_| ())
}

fn taken(what: &str, owner: &str, at: &str) -> Rejection {
    Rejection::Taken { what: what.to_owned(), owner: owner.to_owned(), at: at.to_owned() }
}

#[test]
fn a_route_belongs_to_one_name_while_one_of_its_instances_lives() {
    let mut registry = Registry::default();
    register_with_routes(&mut registry, 1, "users", &["GET/users"]).unwrap();
    register_with_routes(&mut registry, 2, "users", &["GET/users", "POST/users"]).unwrap();
    let thief =
        |registry: &mut Registry| register_with_routes(registry, 3, "thief", &["GET/own", "GET/users"]);
    assert_eq!(thief(&mut registry), Err(taken("the route GET/users", "users", "127.0.0.1:9001")));
    assert_eq!(names(&registry), ["users", "users"], "the free route is not listed either");
    register_with_routes(&mut registry, 4, "other", &["PUT/users", "GET/users/", "get/users", "GET/users/1"])
        .unwrap();
    registry.remove(1);
    assert!(thief(&mut registry).is_err(), "one instance is enough to own the route");
    registry.remove(2);
    thief(&mut registry).unwrap();
    assert_eq!(names(&registry), ["thief", "other"]);
    let refused = register_with_routes(&mut registry, 5, "users", &["GET/users"]);
    assert_eq!(refused, Err(taken("the route GET/users", "thief", "127.0.0.1:9003")));
}

#[test]
fn an_address_belongs_to_one_name_too() {
    let mut registry = Registry::default();
    registry.register(1, named("users", 9020), ip(HERE)).unwrap();
    let evil = with_routes("evil", 9020, &["GET/evil"]);
    let refused = registry.register(2, evil.clone(), ip(HERE)).map(|_| ());
    assert_eq!(refused, Err(taken("the address 127.0.0.1:9020", "users", "127.0.0.1:9020")));
    let advertised = json!({ "port": 9020, "name": "evil", "urls": [], "advertise": HERE });
    assert!(registry.register(3, node(&advertised), ip("192.0.2.7")).is_err());
    registry.register(4, evil, ip("192.0.2.7")).unwrap();
    let empty = node(&json!({ "port": 9020, "name": "evil", "urls": [] }));
    assert!(registry.register(6, empty.clone(), ip(HERE)).is_err(), "it would take all routes away");
    // A host cannot match a route, and a route cannot match an address.
    let odd = json!({ "port": 9, "name": "odd", "urls": ["GET/odd:9"], "advertise": "GET/odd" });
    registry.register(5, node(&odd), ip(HERE)).unwrap();
    assert_eq!(names(&registry), ["users", "evil", "odd"]);
    // A node without routes owns nothing, and an earlier node without routes blocks nothing either.
    let mut registry = Registry::default();
    registry.register(1, empty.clone(), ip(HERE)).unwrap();
    registry.register(2, named("users", 9020), ip(HERE)).unwrap();
    assert_eq!(names(&registry), ["users"]);
    assert!(registry.register(1, empty, ip(HERE)).is_err());
    assert_eq!(names(&registry), ["users"]);
}

#[test]
fn text_that_is_not_a_route_has_no_owner_and_a_repeated_route_counts_once() {
    let mut registry = Registry::default();
    register_with_routes(&mut registry, 1, "a", &["users", "", "GET/a", "GET/a"]).unwrap();
    register_with_routes(&mut registry, 2, "b", &["users", "", "GET/b"]).unwrap();
    registry.remove(1);
    register_with_routes(&mut registry, 3, "c", &["GET/a"]).unwrap();
    assert_eq!(names(&registry), ["b", "c"]);
}

#[test]
fn a_rejected_replacement_keeps_the_earlier_registration() {
    let mut registry = Registry::default();
    register_with_routes(&mut registry, 1, "users", &["GET/users"]).unwrap();
    register_with_routes(&mut registry, 2, "goods", &["GET/goods"]).unwrap();
    assert!(register_with_routes(&mut registry, 2, "goods", &["GET/users", "GET/more"]).is_err());
    assert_eq!(list(&registry)[1]["urls"], json!(["GET/goods"]));
    register_with_routes(&mut registry, 3, "more", &["GET/more"]).unwrap();
    registry.remove(1);
    register_with_routes(&mut registry, 2, "goods", &["GET/users"]).unwrap();
    register_with_routes(&mut registry, 4, "wares", &["GET/goods"]).unwrap();
    assert_eq!(names(&registry), ["goods", "more", "wares"]);
}

#[test]
fn a_leaving_node_keeps_its_routes_until_it_is_gone_and_is_marked_even_if_it_is_rejected() {
    let mut registry = Registry::default();
    register_with_routes(&mut registry, 1, "users", &["GET/users"]).unwrap();
    register_with_routes(&mut registry, 2, "goods", &["GET/goods"]).unwrap();
    registry.register(1, with_routes("users", 9001, &["GET/users"]).as_leaving(), ip(HERE)).unwrap();
    assert!(register_with_routes(&mut registry, 3, "people", &["GET/users"]).is_err());
    let greedy = with_routes("goods", 9002, &["GET/goods", "GET/users"]).as_leaving();
    assert!(registry.register(2, greedy, ip(HERE)).is_err());
    assert_eq!(list(&registry)[1]["leaving"], true);
}

#[test]
fn a_connection_that_changes_its_name_gives_up_the_routes_of_the_old_one() {
    let mut registry = Registry::default();
    register_with_routes(&mut registry, 1, "old", &["GET/a"]).unwrap();
    assert!(register_with_routes(&mut registry, 2, "new", &["GET/a"]).is_err());
    register_with_routes(&mut registry, 1, "new", &["GET/a"]).unwrap();
    register_with_routes(&mut registry, 2, "new", &["GET/a"]).unwrap();
    assert!(
        register_with_routes(&mut registry, 2, "newer", &["GET/a"]).is_err(),
        "the other node still has it"
    );
    registry.remove(1);
    register_with_routes(&mut registry, 2, "newer", &["GET/a"]).unwrap();
}

#[test]
fn the_list_never_becomes_longer_than_a_frame() {
    let mut registry = Registry::new(1000);
    let long = |name: &str, port: u16, bytes: usize| {
        node(
            &json!({ "port": port, "name": name, "urls": [format!("GET/{name}")], "ballast": "¶".repeat(bytes / 6) }),
        )
    };
    let sent = |registry: &Registry| encode(&registry.list()).unwrap().len();
    registry.register(1, long("a", 9001, 300), ip(HERE)).unwrap();
    assert_eq!(
        registry.register(2, long("b", 9002, 600), ip(HERE)).map(|_| ()),
        Err(Rejection::TooLong { bytes: 1146, limit: 1000, readers: Dialect::Course })
    );
    assert!(registry.register(2, long("a", 9001, 300), ip(HERE)).is_ok());
    assert!(sent(&registry) < 1000 - 60);
    // A replaced, removed or rejected entry does not count.
    registry.register(1, long("a", 9001, 240), ip(HERE)).unwrap();
    registry.remove(2);
    assert!(matches!(registry.register(2, long("b", 9001, 300), ip(HERE)), Err(Rejection::Taken { .. })));
    registry.register(3, long("c", 9003, 300), ip(HERE)).unwrap();
    for connection in [1, 3] {
        registry.remove(connection);
    }
    registry.register(4, long("d", 9004, 700), ip(HERE)).unwrap();
}

/// One of our own nodes, with routes of this many bytes.
fn ours_with(name: &str, port: u16, bytes: usize) -> Node {
    Node::ours(
        name,
        port,
        (0..bytes / 100).map(|number| format!("GET/{name}/{number:089}")).collect(),
        "5eed",
    )
}

#[test]
fn a_list_for_course_nodes_has_at_most_64_kib() {
    let mut registry = Registry::default();
    registry.register(1, named("course", 9001), ip(HERE)).unwrap();
    registry.register(2, ours_with("a", 9002, 40_000), ip(HERE)).unwrap();
    let refused = registry.register(3, ours_with("b", 9003, 30_000), ip(HERE)).unwrap_err();
    let Rejection::TooLong { bytes, limit, readers } = refused.clone() else { panic!("{refused}") };
    assert_eq!((limit, readers), (65_536, Dialect::Course));
    assert!(bytes > 68_000 && refused.to_string().contains(&bytes.to_string()), "{refused}");
    registry.register(3, ours_with("b", 9003, 20_000), ip(HERE)).unwrap();
    assert!(registry.register(2, ours_with("a", 9002, 60_000), ip(HERE)).is_err(), "a node that grows");
    registry.remove(1);
    registry.register(2, ours_with("a", 9002, 60_000), ip(HERE)).unwrap();
    let late = registry.register(1, named("course", 9001), ip(HERE)).unwrap_err();
    assert!(late.to_string().contains("at most 65536"), "{late}");
    registry.register(4, ours_with("c", 9004, 80_000), ip(HERE)).unwrap();
    registry.remove(4);
    registry.remove(2);
    registry.register(1, named("course", 9001), ip(HERE)).unwrap();
}

#[test]
fn instances_of_one_name_with_different_routes_are_in_conflict() {
    let mut registry = Registry::default();
    let routes = ["GET/users", "GET/extra"];
    register_with_routes(&mut registry, 1, "users", &routes).unwrap();
    register_with_routes(&mut registry, 2, "users", &["GET/extra", "GET/users", "GET/users"]).unwrap();
    assert_eq!(registry.conflicts(2), [], "the order of routes has no meaning");
    register_with_routes(&mut registry, 3, "users", &["GET/users", "POST/users"]).unwrap();
    let told: Vec<String> = registry.conflicts(3).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2);
    assert_eq!(
        told[0],
        "users at 127.0.0.1:9003 and users at 127.0.0.1:9001 have different routes: only 127.0.0.1:9003 has \
         POST/users; only 127.0.0.1:9001 has GET/extra; this is normal during an upgrade; two different programs \
         need two names"
    );
    register_with_routes(&mut registry, 4, "users", &[]).unwrap();
    assert_eq!(registry.conflicts(4), [], "a node without routes gets no requests");
    registry.register(3, with_routes("users", 9003, &["POST/users"]).as_leaving(), ip(HERE)).unwrap();
    assert_eq!((registry.conflicts(3), registry.conflicts(1)), (vec![], vec![]), "a node that leaves");
    let many: Vec<String> = (0..30).map(|number| format!("GET/{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    register_with_routes(&mut registry, 5, "users", &many).unwrap();
    let told = registry.conflicts(5)[0].to_string();
    assert!(
        told.contains("GET/9 and 20 more;") && told.contains("only 127.0.0.1:9001 has GET/users GET/extra;"),
        "{told}"
    );
}

#[test]
fn a_full_list_has_room_for_the_marks_of_leaving_nodes() {
    let limit = 1000;
    let mut registry = Registry::new(limit);
    let admitted =
        (1..).take_while(|one| registry.register(u64::from(*one), named("a", *one), ip(HERE)).is_ok());
    let count = admitted.count();
    for one in 1..=u16::try_from(count).unwrap() {
        let said =
            json!({ "port": one, "name": "a", "urls": [], "leaving": true, "ballast": "x".repeat(limit) });
        let refused = registry.register(u64::from(one), node(&said), ip(HERE)).map(|_| ());
        assert!(matches!(refused, Err(Rejection::TooLong { .. })));
    }
    assert!(registry.list().iter().all(|node| node.is_leaving()));
    let packet = json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": registry.list() });
    let bytes = encode(&packet).unwrap().len();
    assert!(bytes <= limit, "{count} nodes, {bytes} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_and_goes_no_route_and_no_address_has_two_names(
        steps in proptest::collection::vec((0_u64..8, 0_u16..5, 0_u16..4, any::<u8>(), any::<bool>()), 1..80)
    ) {
        let mut registry = Registry::new(1600);
        for (connection, name, port, routes, stays) in steps {
            if stays {
                let urls: Vec<String> =
                    (0..6).filter(|bit| routes & (1 << bit) != 0).map(|bit| format!("GET/{bit}")).collect();
                let fields = json!({
                    "port": 9000 + port, "name": format!("n{name}"), "urls": urls, "leaving": routes > 200,
                });
                let _ = registry.register(connection, node(&fields), ip(HERE));
            } else {
                registry.remove(connection);
            }
            check(&registry)?;
        }
        for connection in 0..8 {
            registry.remove(connection);
            check(&registry)?;
        }
        prop_assert!(registry.listed.is_empty());
    }
}

fn check(registry: &Registry) -> Result<(), TestCaseError> {
    let mut names: HashMap<String, &str> = HashMap::new();
    for node in registry.listed.values().map(|one| &one.node) {
        if node.urls.is_empty() {
            continue;
        }
        for one in node.urls.iter().cloned().chain([node.address()]) {
            let name = *names.entry(one.clone()).or_insert(&node.name);
            prop_assert_eq!(name, &node.name, "{} under two names", one);
        }
    }
    prop_assert!(registry.listed.values().all(|one| encode(&one.node).unwrap().len() < one.bytes));
    prop_assert!(encode(&registry.list()).unwrap().len() + ENVELOPE_BYTES <= registry.max_frame_bytes + 30);
    Ok(())
}
