//! Tests of the module above, as a value.

use serde_json::{Value, json, to_value};

use super::*;

fn node(fields: &Value) -> Node {
    Node::from_json(fields).unwrap()
}

/// A registration that is valid except for these fields.
fn with(fields: &Value) -> Value {
    let mut all = json!({ "port": 9020, "name": "users", "urls": ["GET/users"] });
    all.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap());
    all
}

fn rejection(registration: &Value) -> String {
    Node::from_json(registration).expect_err(&registration.to_string())
}

#[test]
fn our_own_registration_has_proto_and_id_and_no_host() {
    let ours = Node::ours("users", 9020, vec!["GET/users".to_owned()], "00ff");
    let sent =
        json!({ "port": 9020, "name": "users", "urls": ["GET/users"], "proto": "pilcrow/1", "id": "00ff" });
    assert_eq!(to_value(&ours).unwrap(), sent);
    assert_eq!(node(&sent), ours);
    assert_eq!((ours.dialect(), ours.id(), ours.is_leaving()), (Dialect::Pilcrow, Some("00ff"), false));
}

#[test]
fn a_registration_of_a_course_node_is_accepted() {
    let course = node(&json!({ "port": "9010", "name": "members", "urls": ["POST/members", "GET/members"] }));
    assert_eq!((course.port, course.name.as_str(), course.urls.len()), (9010, "members", 2));
    assert_eq!((course.dialect(), course.id(), course.advertise()), (Dialect::Course, None, None));
    assert_eq!(to_value(&course).unwrap()["port"], 9010, "a port is forwarded as a number");
    let nameless = node(&json!({ "port": 9010, "urls": [] }));
    assert_eq!((nameless.name.as_str(), nameless.urls.len()), ("", 0));
}

#[test]
fn a_port_is_a_number_or_its_digits_from_1_to_65535() {
    for (given, port) in
        [(json!(1), 1), (json!(65535), 65535), (json!("8000"), 8000), (json!("65535"), 65535)]
    {
        assert_eq!(node(&with(&json!({ "port": given }))).port, port);
    }
    let none = [
        json!(0),
        json!(65536),
        json!(-1),
        json!(80.5),
        json!("0"),
        json!("65536"),
        json!("-1"),
        json!(""),
        json!("http"),
        json!(" 8000"),
        json!("8000\n"),
        json!(null),
        json!(true),
        json!([8000]),
        json!({ "port": 8000 }),
    ];
    for port in none {
        assert!(rejection(&with(&json!({ "port": port }))).starts_with("port must be"), "{port}");
    }
    assert!(rejection(&json!({ "name": "users", "urls": [] })).starts_with("port must be"));
}

#[test]
fn an_invalid_registration_is_rejected_with_the_name_of_the_field() {
    let too_many = vec!["GET/users"; MAX_ROUTES_PER_NODE + 1];
    let too_long = format!("GET/{}", "x".repeat(MAX_ROUTE_BYTES - 3));
    let breaches = [
        ("name", json!({ "name": "x".repeat(MAX_NAME_CHARS + 1) })),
        ("name", json!({ "name": "홍".repeat(MAX_NAME_CHARS + 1) })),
        ("urls", json!({ "urls": null })),
        ("urls", json!({ "urls": "GET/users" })),
        ("urls", json!({ "urls": { "0": "GET/users" } })),
        ("urls", json!({ "urls": ["GET/users", 5] })),
        ("urls", json!({ "urls": [["GET/users"]] })),
        ("urls", json!({ "urls": too_many })),
        ("urls", json!({ "urls": [too_long] })),
    ];
    for (field, breach) in breaches {
        let told = rejection(&with(&breach));
        assert!(told.contains(field) && told.contains("must"), "{told}");
    }
    assert!(rejection(&json!({ "port": 9020, "name": "users" })).contains("urls"));
    for not_an_object in [json!(null), json!("users"), json!(9020), json!([]), json!([{ "port": 9020 }])] {
        assert!(rejection(&not_an_object).contains("object"));
    }
}

#[test]
fn a_registration_at_the_limits_is_accepted() {
    let longest = format!("GET/{}", "x".repeat(MAX_ROUTE_BYTES - 4));
    let largest = node(&with(&json!({
        "name": "홍".repeat(MAX_NAME_CHARS),
        "urls": vec![longest; MAX_ROUTES_PER_NODE],
    })));
    assert_eq!((largest.name.chars().count(), largest.urls.len()), (MAX_NAME_CHARS, MAX_ROUTES_PER_NODE));
}

#[test]
fn an_address_has_one_spelling() {
    let spellings = [
        ("127.0.0.1", "127.0.0.1:9020"),
        ("::ffff:127.0.0.1", "127.0.0.1:9020"),
        ("::FFFF:7f00:1", "127.0.0.1:9020"),
        ("[::ffff:127.0.0.1]", "127.0.0.1:9020"),
        ("::1", "[::1]:9020"),
        ("[::1]", "[::1]:9020"),
        ("0:0:0:0:0:0:0:1", "[::1]:9020"),
        ("FE80::A", "[fe80::a]:9020"),
        ("localhost", "localhost:9020"),
        ("users.example.com", "users.example.com:9020"),
    ];
    for (host, address) in spellings {
        assert_eq!(node(&with(&json!({ "host": host }))).address(), address, "{host}");
    }
}

#[test]
fn unknown_fields_are_kept_and_passed_on() {
    let extra = json!({
        "host": "127.0.0.1",
        "proto": "pilcrow/1",
        "advertise": "users.example.com",
        "leaving": false,
        "weight": 0.5,
        "tags": ["¶", { "nested": null }],
        "urlsOfTomorrow": "GET/users/{id}",
    });
    let registration = with(&extra);
    let read = node(&registration);
    assert_eq!(to_value(&read).unwrap(), registration);
    assert!(!read.extra.contains_key("host") && read.extra["tags"][0] == "¶");
    let as_text = node(&with(&json!({ "port": "9020", "key": 7 })));
    assert_eq!(to_value(&as_text).unwrap(), with(&json!({ "key": 7 })));
}

#[test]
fn only_our_own_proto_makes_a_node_one_of_ours() {
    for other in [json!({}), json!({ "proto": "pilcrow/2" }), json!({ "proto": "" }), json!({ "proto": 1 })] {
        assert_eq!(node(&with(&other)).dialect(), Dialect::Course);
    }
    assert_eq!(node(&with(&json!({ "proto": "pilcrow/1" }))).dialect(), Dialect::Pilcrow);
}

#[test]
fn a_node_leaves_only_if_leaving_is_true() {
    for staying in
        [json!({}), json!({ "leaving": false }), json!({ "leaving": "true" }), json!({ "leaving": 1 })]
    {
        assert!(!node(&with(&staying)).is_leaving());
    }
    let staying = Node::ours("users", 9020, Vec::new(), "00ff");
    let leaving = staying.clone().as_leaving();
    assert!(leaving.is_leaving() && node(&to_value(&leaving).unwrap()) == leaving);
    assert_eq!((leaving.address(), leaving.id()), (staying.address(), staying.id()));
}

#[test]
fn an_invalid_advertised_host_is_ignored() {
    for nothing in
        [json!({}), json!({ "advertise": "" }), json!({ "advertise": 5 }), json!({ "advertise": null })]
    {
        assert_eq!(node(&with(&nothing)).advertise(), None);
    }
    assert_eq!(node(&with(&json!({ "advertise": "::1" }))).advertise(), Some("::1"));
}

#[test]
fn a_list_is_known_by_its_shape() {
    assert_eq!(Node::list_from_json(&json!([])), Some(NodeList::default()));
    let entry = with(&json!({ "host": "127.0.0.1" }));
    let list =
        Node::list_from_json(&json!([entry, with(&json!({ "port": "9021", "host": "::1" }))])).unwrap().nodes;
    assert_eq!(list.iter().map(|node| node.port).collect::<Vec<_>>(), [9020, 9021]);
    let no_lists = [
        json!(null),
        json!({}),
        json!("users"),
        json!({ "0": entry }),
        json!([1]),
        json!(["port", "urls"]),
        json!([entry, null]),
        json!([entry, { "port": 9020 }]),
        json!([entry, { "urls": [] }]),
    ];
    for other in no_lists {
        assert_eq!(Node::list_from_json(&other), None, "{other}");
    }
}

#[test]
fn an_entry_that_makes_no_sense_or_has_no_host_is_skipped_with_its_reason() {
    let list = json!([
        with(&json!({ "port": 0, "host": "127.0.0.1" })),
        with(&json!({ "port": 9021, "host": "127.0.0.1" })),
        with(&json!({ "urls": "GET/users", "host": "127.0.0.1" })),
        with(&json!({ "port": 9022, "host": "127.0.0.1" })),
        with(&json!({ "port": 9016 })),
        with(&json!({ "port": 9017, "host": "" })),
    ]);
    let list = Node::list_from_json(&list).unwrap();
    assert_eq!(list.nodes.iter().map(|node| node.port).collect::<Vec<_>>(), [9021, 9022]);
    let reasons = [
        "port must be a number from 1 to 65535",
        "urls must be an array of METHOD/path",
        "users with port 9016 has no host",
        "users with port 9017 has no host",
    ];
    assert_eq!(list.skipped, reasons);
}

#[test]
fn no_node_may_register_the_gateways_own_paths_or_routes_under_its_name() {
    let asks = |name: &str, urls: Value| node(&with(&json!({ "name": name, "urls": urls }))).check_routes();
    for path in GATEWAY_PATHS {
        for method in ["GET", "POST", "HEAD", "X", ""] {
            let url = format!("{method}{path}");
            let why = asks("thief", json!(["GET/own", url])).expect_err(&url);
            assert!(why.contains(&url) && why.contains("the gateway's own"), "{why}");
        }
    }
    assert!(asks("gate", json!(["GET/users"])).is_err_and(|why| why.contains("GET/users")));
    asks("gate", json!([])).unwrap();
    asks("Gate", json!(["GET/gate"])).unwrap();
    asks("users", json!(["GET/healthz/users", "GET/users/healthz", "GET/healthzz", "healthz"])).unwrap();
}
