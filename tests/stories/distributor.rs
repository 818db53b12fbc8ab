//! The distributor, by raw packets: the list, its pushes, and peers that break the wire rules. The rules are tested at
//! its port and at every other port that accepts packets.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::{Echo, PATIENCE, Packets, Process, Program, SECRET, Scratch, eventually};

// ---- the list

fn list(entries: &Value) -> Value {
    json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": entries })
}

/// A registered raw node that has received a list that contains it.
fn node(distributor: &Process, name: &str, port: u16) -> Packets {
    let mut node = distributor.packets();
    node.register(name, port, &[], &json!({ "proto": "pilcrow/1" }));
    node.await_list(|list| list.iter().any(|entry| entry["name"] == name));
    node
}

fn names(list: &[Value]) -> Vec<&str> {
    list.iter().filter_map(|entry| entry["name"].as_str()).collect()
}

/// Requests the list.
fn request_list(packets: &mut Packets, key: u64) -> Value {
    packets.send(&json!({ "uri": "/distributes", "method": "GET", "key": key, "params": {} }));
    let reply = packets.receive().expect("a reply");
    assert_eq!((&reply["key"], &reply["errorcode"]), (&json!(key), &json!(0)), "not the reply: {reply}");
    reply["results"].clone()
}

/// Requests the list. The reply must be the next packet, so no push came before it.
fn expect_nothing_pushed(packets: &mut Packets, key: u64) {
    request_list(packets, key);
}

#[test]
fn a_peer_gets_the_list_as_soon_as_it_connects() {
    let distributor = Process::distributor(&[]);
    assert_eq!(distributor.packets().receive().unwrap(), list(&json!([])));
    let mut goods = distributor.packets();
    goods.register("goods", 9030, &["GET/goods", "POST/goods"], &json!({}));
    let entry =
        json!({ "port": 9030, "name": "goods", "urls": ["GET/goods", "POST/goods"], "host": "127.0.0.1" });
    goods.await_list(|list| !list.is_empty());
    assert_eq!(distributor.packets().receive().unwrap(), list(&json!([entry])));
}

#[test]
fn every_change_is_pushed_to_all_registered_nodes_and_to_no_other_connection() {
    let distributor = Process::distributor(&[]);
    let mut onlooker = distributor.packets();
    assert_eq!(onlooker.receive().unwrap(), list(&json!([])));
    let mut first = node(&distributor, "first", 9001);
    let mut second = node(&distributor, "second", 9002);
    assert_eq!(names(&first.await_list(|list| list.len() == 2)), ["first", "second"]);
    let third = node(&distributor, "third", 9003);
    first.await_list(|list| list.len() == 3);
    second.await_list(|list| list.len() == 3);
    drop(third);
    assert_eq!(names(&first.await_list(|list| list.len() == 2)), ["first", "second"]);
    assert_eq!(names(&second.await_list(|list| list.len() == 2)), ["first", "second"]);
    assert_eq!(request_list(&mut onlooker, 1).as_array().unwrap().len(), 2);
}

#[test]
fn the_list_has_all_fields_of_a_registration_its_port_as_a_number_and_the_host_that_the_distributor_sees() {
    let distributor = Process::distributor(&[]);
    let mut packets = distributor.packets();
    let extra = json!({
        "port": "9020", "host": "nowhere.example", "proto": "pilcrow/1", "id": "5eed",
        "später": { "¶": [1, null, "한글 🦀 ö"] }, "leaving": false,
    });
    packets.register("users", 1, &["GET/users"], &extra);
    let expected = json!([{
        "port": 9020, "name": "users", "urls": ["GET/users"], "host": "127.0.0.1", "proto": "pilcrow/1", "id": "5eed",
        "später": { "¶": [1, null, "한글 🦀 ö"] }, "leaving": false,
    }]);
    assert_eq!(Value::from(packets.await_list(|list| !list.is_empty())), expected);
    assert_eq!(request_list(&mut packets, 1), expected);
}

#[test]
fn an_advertised_host_replaces_the_host_that_the_distributor_sees() {
    let distributor = Process::distributor(&[]);
    let mut packets = distributor.packets();
    packets.register("users", 9020, &[], &json!({ "advertise": "users.example" }));
    assert_eq!(packets.await_list(|list| !list.is_empty())[0]["host"], "users.example");
}

#[test]
fn an_ipv4_address_has_one_spelling_also_when_it_arrives_as_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        return crate::harness::skip("IPv6", "this machine has no IPv6");
    }
    let distributor = Program::distributor().flags(["--listen", "[::]:0"]);
    let distributor = distributor.variables(&[("PILCROW_SECRET", SECRET)]).start();
    let mut local = Packets::proven(SocketAddr::from(([127, 0, 0, 1], distributor.port())), SECRET);
    local.register("four", 9004, &[], &json!({}));
    let mut six = Packets::proven(format!("[::1]:{}", distributor.port()).parse().unwrap(), SECRET);
    six.register("six", 9006, &[], &json!({}));
    let list = six.await_list(|list| list.len() == 2);
    let hosts: Vec<(&Value, &Value)> = list.iter().map(|entry| (&entry["name"], &entry["host"])).collect();
    assert_eq!(hosts, [(&json!("four"), &json!("127.0.0.1")), (&json!("six"), &json!("::1"))]);
}

#[test]
fn a_service_on_ipv6_is_found_and_reached() {
    if TcpListener::bind("[::1]:0").is_err() {
        return crate::harness::skip("IPv6", "this machine has no IPv6");
    }
    let scratch = Scratch::new();
    let distributor = Process::distributor(&["--listen", "[::1]:0"]);
    let _users = Process::users(&distributor, &scratch, &["--listen", "[::1]:0"]);
    let gateway = Process::gateway(&distributor, &["--listen", "[::1]:0"]);
    crate::harness::await_instances(&gateway, "GET", "/users", 1);
    assert_eq!(gateway.http().get("/users").status, 200);
}

#[test]
fn our_own_nodes_register_with_name_routes_proto_and_id() {
    let scratch = Scratch::new();
    let distributor = Process::distributor(&[]);
    let users = Process::users(&distributor, &scratch, &[]);
    let gateway = Process::gateway(&distributor, &[]);
    let list = distributor.packets();
    let mut onlooker = list;
    onlooker.register("onlooker", 9, &[], &json!({}));
    let list = onlooker.await_list(|list| list.len() == 3);
    let entry = |name: &str| list.iter().find(|entry| entry["name"] == name).unwrap();
    let urls = json!([
        "DELETE/users",
        "GET/users",
        "GET/users/changes",
        "GET/users/me",
        "PATCH/users",
        "POST/users",
        "POST/users/login",
        "POST/users/logout"
    ]);
    let (gate, service) = (entry("gate"), entry("users"));
    assert_eq!((&service["urls"], &service["port"]), (&urls, &json!(users.port())));
    assert_eq!((&gate["urls"], &gate["port"]), (&json!([]), &json!(gateway.port())));
    for ours in [gate, service] {
        assert_eq!((&ours["proto"], &ours["host"]), (&json!("pilcrow/1"), &json!("127.0.0.1")));
        assert!(ours["id"].as_str().is_some_and(|id| !id.is_empty()), "{ours}");
    }
}

#[test]
fn a_request_for_the_list_is_answered_under_its_key() {
    let distributor = Process::distributor(&[]);
    let mut packets = node(&distributor, "node", 9001);
    for (uri, key) in
        [("/distributes", json!(7)), ("distributes", json!("seven")), ("/distributes", json!({ "a": [7.5] }))]
    {
        packets.send(&json!({ "uri": uri, "method": "GET", "key": key, "params": {} }));
        let reply = packets.receive().unwrap();
        assert_eq!((&reply["key"], &reply["errorcode"]), (&key, &json!(0)));
        assert_eq!(reply["results"][0]["name"], "node");
    }
    // The book's gateways have the key in their params. A notice gets no reply.
    packets.send(&json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": {} }));
    packets.send(&json!({ "uri": "/distributes", "method": "GET", "params": { "key": 8 } }));
    assert_eq!(packets.receive().unwrap()["key"], 8);
}

#[test]
fn registering_again_replaces_the_entry_and_is_pushed_also_when_nothing_changed() {
    let distributor = Process::distributor(&[]);
    let mut onlooker = node(&distributor, "onlooker", 9001);
    let mut changing = node(&distributor, "changing", 9002);
    onlooker.await_list(|list| list.len() == 2);
    let mut again = |port: u16, extra: &Value, key: u64| {
        let mut params = json!({ "port": port, "name": "changing", "urls": ["GET/a"] });
        params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let reply = changing.call("POST", "/distributes", &params, key);
        assert_eq!(reply["errorcode"], 0, "{reply}");
    };
    again(9003, &json!({}), 1);
    let list = onlooker.await_list(|list| list.iter().any(|entry| entry["port"] == 9003));
    assert_eq!(names(&list), ["onlooker", "changing"]);
    again(9003, &json!({}), 2);
    assert_eq!(
        onlooker.receive().unwrap()["params"],
        Value::from(list),
        "course gateways dial when a list comes"
    );
    expect_nothing_pushed(&mut onlooker, 1);
    again(9003, &json!({ "leaving": true }), 3);
    let packet = onlooker.receive().unwrap();
    assert_eq!(
        (&packet["params"][1]["leaving"], packet["params"].as_array().unwrap().len()),
        (&json!(true), 2)
    );
}

#[test]
fn registrations_of_one_host_and_port_are_one_instance_until_the_last_is_gone() {
    let distributor = Process::distributor(&[]);
    let mut onlooker = node(&distributor, "onlooker", 9001);
    let first = node(&distributor, "first", 9002);
    let second = node(&distributor, "second", 9002);
    assert_eq!(
        names(&onlooker.await_list(|list| list.len() == 2 && list[1]["name"] == "second")),
        ["onlooker", "second"]
    );
    drop(second);
    onlooker.await_list(|list| list.len() == 2 && list[1]["name"] == "first");
    drop(first);
    onlooker.await_list(|list| list.len() == 1);
}

#[test]
fn a_connection_that_ends_without_a_registration_changes_nothing() {
    let distributor = Process::distributor(&[]);
    let mut onlooker = node(&distributor, "onlooker", 9001);
    for round in 0..20 {
        let mut visitor = distributor.packets();
        if round % 2 == 0 {
            visitor.receive();
        }
    }
    let left = || distributor.log().iter().filter(|line| line.contains("it was not registered")).count();
    eventually("all visitors have left", || (left() == 20).then_some(()));
    expect_nothing_pushed(&mut onlooker, 1);
}

#[test]
fn changes_that_come_together_are_pushed_together() {
    const NODES: u16 = 50;
    let distributor = Process::distributor(&[]);
    let mut onlooker = node(&distributor, "onlooker", 9000);
    let mut nodes: Vec<Packets> = (0..NODES).map(|_| distributor.packets()).collect();
    for node in &mut nodes {
        assert!(node.receive().is_some());
    }
    for (node, port) in nodes.iter_mut().zip(9001..) {
        node.register(&format!("node {port}"), port, &[], &json!({}));
    }
    let mut pushes = 0;
    let everybody = usize::from(NODES) + 1;
    let list = loop {
        pushes += 1;
        let packet = onlooker.receive().unwrap();
        let list = packet["params"].as_array().unwrap().clone();
        if list.len() == everybody {
            break list;
        }
    };
    assert!(pushes < NODES, "{pushes} pushes for {NODES} changes");
    let mut ports: Vec<u64> = list.iter().filter_map(|entry| entry["port"].as_u64()).collect();
    ports.sort_unstable();
    assert!(ports.into_iter().eq(9000..=9000 + u64::from(NODES)));
    for node in &mut nodes {
        node.await_list(|list| list.len() == everybody);
    }
    expect_nothing_pushed(&mut onlooker, 1);
}

#[test]
fn a_node_that_does_not_read_delays_no_other_node() {
    let distributor = Process::distributor(&[]);
    let mut node = node(&distributor, "node", 9001);
    // Its receive buffer is small, and the list is long.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&distributor.address().into()).unwrap();
    let mut deaf = Packets::on(socket.into());
    deaf.register("deaf", 9002, &[], &json!({ "ballast": "x".repeat(400_000), "proto": "pilcrow/1" }));
    node.await_list(|list| list.len() == 2);
    for port in 9100..9120 {
        let changed = Instant::now();
        node.register("node", port, &[], &json!({ "proto": "pilcrow/1" }));
        node.await_list(|list| list[0]["port"] == port);
        // A push takes milliseconds. The rest of the limit is for a busy machine.
        let took = changed.elapsed();
        assert!(took < Duration::from_secs(4), "the push took {took:?}");
    }
}

// ---- rejections with a reason

#[test]
fn a_bad_registration_is_rejected_with_a_reason_and_the_earlier_one_stays() {
    let distributor = Process::distributor(&[]);
    let mut onlooker = node(&distributor, "onlooker", 9001);
    let mut packets = node(&distributor, "node", 9002);
    onlooker.await_list(|list| list.len() == 2);
    let many: Vec<String> = (0..1001).map(|number| format!("GET/{number}")).collect();
    let long = [format!("GET/{}", "x".repeat(1024))];
    let bad = [
        (json!({ "name": "node", "urls": [] }), "port"),
        (json!({ "port": 0, "urls": [] }), "port"),
        (json!({ "port": 65536, "urls": [] }), "port"),
        (json!({ "port": -1, "urls": [] }), "port"),
        (json!({ "port": 80.5, "urls": [] }), "port"),
        (json!({ "port": "http", "urls": [] }), "port"),
        (json!({ "port": "", "urls": [] }), "port"),
        (json!({ "port": [9002], "urls": [] }), "port"),
        (json!({ "port": 9002, "name": "node" }), "urls"),
        (json!({ "port": 9002, "urls": "GET/users" }), "urls"),
        (json!({ "port": 9002, "urls": { "GET": "/users" } }), "urls"),
        (json!({ "port": 9002, "urls": ["GET/users", 5] }), "urls"),
        (json!({ "port": 9002, "urls": many }), "urls"),
        (json!({ "port": 9002, "urls": long }), "urls"),
        (json!({ "port": 9002, "urls": [], "name": "x".repeat(101) }), "name"),
        (json!(null), "object"),
        (json!([]), "object"),
        (json!("port"), "object"),
    ];
    for (key, (params, named)) in (1..).zip(&bad) {
        let reply = packets.call("POST", "/distributes", params, key);
        let words = reply["errormessage"].as_str().unwrap();
        assert_eq!(reply["errorcode"], 400, "{reply}");
        assert!(words.contains("registration rejected") && words.contains(named), "{named}: {words}");
    }
    // The earlier registration stays, no push follows, and a valid registration is still accepted.
    expect_nothing_pushed(&mut onlooker, 1);
    packets.register("better", 9003, &[], &json!({}));
    assert_eq!(names(&onlooker.await_list(|_| true)), ["onlooker", "better"]);
}

#[test]
fn an_unknown_request_is_rejected_with_a_reason_and_the_connection_stays_open() {
    let distributor = Process::distributor(&[]);
    let mut packets = node(&distributor, "node", 9001);
    for (key, (method, uri)) in
        (1..).zip([("PUT", "/distributes"), ("GET", "/users"), ("GET", ""), ("", "/distributes")])
    {
        let reply = packets.call(method, uri, &json!({}), key);
        assert_eq!(reply["errorcode"], 404, "{reply}");
        assert!(reply["errormessage"].as_str().unwrap().contains("POST and GET /distributes"), "{reply}");
    }
    for nothing in [
        json!({}),
        json!({ "key": 5 }),
        json!({ "key": 5, "errorcode": 0 }),
        json!({ "uri": 5, "method": [] }),
    ] {
        packets.send(&nothing);
    }
    expect_nothing_pushed(&mut packets, 9);
}

#[test]
fn the_text_of_a_peer_stays_within_one_line_of_the_log() {
    let distributor = Process::distributor(&[]);
    let mut packets = distributor.packets();
    let broken = "a\r\n2026-11-22 WARN forged\u{1b}[31m";
    packets.register(broken, 9001, &[&format!("GET/{broken}")], &json!({}));
    packets.await_list(|list| !list.is_empty());
    assert_eq!(packets.call("GET", broken, &json!({}), 1)["errorcode"], 404);
    assert_eq!(packets.call(broken, "/distributes", &json!({}), 2)["errorcode"], 404);
    drop(packets);
    distributor.await_log(&["gone", "forged"]);
    let log = distributor.log();
    assert!(!log.iter().any(|line| line.starts_with("2026-11-22 WARN forged")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("forged\u{1b}")), "{log:#?}");
}

// ---- violations that close a connection

const LIMIT: usize = 1000;

/// A violation of the wire rules.
struct Violation {
    bytes: Vec<u8>,
    /// Whether the sender then shuts down its half of the connection.
    ends: bool,
    /// The words that the log uses for it, and the excerpt of the frame's beginning.
    reason: &'static str,
    excerpt: &'static str,
    /// The frame length in the log line; a lower bound if the frame is too long.
    size: usize,
}

fn violations() -> Vec<Violation> {
    let of = |bytes: &[u8], reason, excerpt, size| Violation {
        bytes: bytes.to_vec(),
        ends: false,
        reason,
        excerpt,
        size,
    };
    let ending =
        |bytes: &[u8], reason, excerpt, size| Violation { ends: true, ..of(bytes, reason, excerpt, size) };
    let long = format!(r#"{{"uri":"/users","a":"{}"#, "x".repeat(LIMIT));
    let no_object = "not one JSON object";
    vec![
        of(long.as_bytes(), "too long", r#"{\"uri\":\"/users\",\"a\":\"xxx"#, LIMIT + 1),
        of(
            format!("{long}\"}}¶{{}}¶").as_bytes(),
            "too long",
            r#"{\"uri\":\"/users\",\"a\":\"xxx"#,
            LIMIT + 1,
        ),
        of(b"{\"name\":\"\xff\xfe\"}\xc2\xb6", "not UTF-8", r#"{\"name\":\"\u{fffd}\u{fffd}\"}"#, 13),
        of("hello\nworld¶".as_bytes(), no_object, r"hello\nworld", 11),
        of("[{\"key\":1}]¶".as_bytes(), no_object, r#"[{\"key\":1}]"#, 11),
        of("null¶".as_bytes(), no_object, "null", 4),
        of("\"text\"¶".as_bytes(), no_object, r#"\"text\""#, 6),
        // A node that registers as one of ours must not send a raw `¶`.
        of(
            r#"{"params":{"proto":"pilcrow/1","name":"a¶b"},"uri":"/distributes","method":"POST"}¶"#
                .as_bytes(),
            no_object,
            r#"{\"params\":{\"proto\":\"pilcrow/1\",\"name\":\"a"#,
            40,
        ),
        of("{\"uri\":\"/users\"}}¶".as_bytes(), no_object, r#"{\"uri\":\"/users\"}}"#, 17),
        ending(b"{\"uri\":\"/us", "ended inside a frame", r#"{\"uri\":\"/us"#, 11),
        // A web browser.
        ending(
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "ended inside a frame",
            r"GET / HTTP/1.1\r\nHost: a",
            27,
        ),
    ]
}

/// A registered node that has received the newest list.
fn bystander_beside_users(distributor: &Process) -> Packets {
    let mut bystander = distributor.packets();
    bystander.register("bystander", 9001, &[], &json!({}));
    bystander.await_list(|list| list.len() == 2);
    bystander
}

/// Commits this violation against a process. It must cause one closed connection and one log line.
fn commit(process: &Process, violation: &Violation) {
    let stream = TcpStream::connect(process.address()).unwrap();
    let me = stream.local_addr().unwrap();
    let mut packets = Packets::on(stream);
    packets.send_raw(&violation.bytes);
    if violation.ends {
        packets.stream().shutdown(Shutdown::Write).unwrap();
    }
    while let Some(frame) = packets.receive_text() {
        assert!(frame.contains("/distributes"), "{frame}"); // the list, unasked
    }
    let line = process.await_log(&[&format!("{me} closed")]);
    for words in ["WARN", violation.reason, &format!("limit {LIMIT}, begins: {}", violation.excerpt)] {
        assert!(line.contains(words), "no {words:?} in {line}");
    }
    let size =
        line.split(" bytes, limit").next().unwrap().rsplit('(').next().unwrap().parse::<usize>().unwrap();
    let too_long = violation.reason == "too long";
    assert!(if too_long { size >= violation.size } else { size == violation.size }, "{line}");
    let begins = line.split("begins: ").nth(1).unwrap().split(", ends: ").next().unwrap();
    assert!(begins.trim_end_matches(')').chars().count() <= 80, "{line}");
    let lines = process.log().into_iter().filter(|line| line.contains(&format!("{me} closed"))).count();
    assert_eq!(lines, 1);
}

#[test]
fn a_bad_packet_closes_its_connection_with_one_log_line_and_disturbs_no_other() {
    let scratch = Scratch::new();
    let limit = LIMIT.to_string();
    let distributor = Process::distributor(&["--max-frame", &limit]);
    let users = Process::users(&distributor, &scratch, &["--max-frame", &limit]);
    let mut bystander = bystander_beside_users(&distributor);
    let mut asker = users.packets();
    for (key, violation) in (1..).zip(&violations()) {
        commit(&distributor, violation);
        commit(&users, violation);
        assert_eq!(asker.call("GET", "/users", &json!({ "params": "1" }), key)["errorcode"], 404);
        assert_eq!(bystander.call("GET", "/distributes", &json!({}), key)["errorcode"], 0);
    }
    // An earlier request on the same connection is answered.
    let mut packets = users.packets();
    packets.send_raw("{\"uri\":\"/users\",\"method\":\"GET\",\"key\":1,\"params\":{}}¶[]¶".as_bytes());
    assert_eq!(packets.receive().unwrap()["results"], json!([]));
    assert_eq!(packets.receive_text(), None);
    let list = request_list(&mut bystander, 99);
    assert_eq!(list.as_array().unwrap().len(), 2, "only users and the bystander are registered");
}

#[test]
fn the_log_has_the_reason_before_it_says_that_a_node_is_gone() {
    let distributor = Process::distributor(&[]);
    let mut node = node(&distributor, "node", 9001);
    let me = node.stream().local_addr().unwrap();
    node.send_raw("[]¶".as_bytes());
    distributor.await_log(&[&format!("{me} gone: node")]);
    let log = distributor.log();
    let line = |words: &str| log.iter().position(|line| line.contains(&format!("{me} {words}")));
    assert!(line("closed: ").is_some() && line("closed: ") < line("gone: "), "{log:#?}");
}

#[test]
fn a_password_in_a_bad_packet_never_reaches_the_log() {
    let scratch = Scratch::new();
    let distributor = Process::distributor(&["--max-frame", "1000"]);
    let users = Process::users(&distributor, &scratch, &["--max-frame", "1000"]);
    let login = r#"{"uri":"/users/login","method":"POST","key":1,"params":{"password":"hunter22""#;
    let short = r#"{"password":"hunter22","#;
    let frames = [
        format!("{login}¶"),
        format!("{short}¶"),
        format!("{login}{}", " ".repeat(1000)),
        format!("{short}\"a\":[\"hunter22\"{}", "x".repeat(1000)),
        format!("[{short}¶"),
        format!(
            "\"no excerpt shows the end of a long text, and no reason repeats it {} hunter22\"¶",
            "x".repeat(80)
        ),
    ];
    for frame in &frames {
        for process in [&distributor, &users] {
            let stream = TcpStream::connect(process.address()).unwrap();
            let me = stream.local_addr().unwrap();
            let mut packets = Packets::on(stream);
            packets.send_raw(frame.as_bytes());
            while packets.receive_text().is_some() {}
            process.await_log(&[&format!("{me} closed")]);
        }
    }
    for process in [&distributor, &users] {
        let log = process.log().join("\n");
        assert!(!log.contains("hunter22"), "{log}");
    }
}

#[test]
fn empty_frames_and_white_space_are_skipped_and_packets_may_arrive_in_any_pieces() {
    let scratch = Scratch::new();
    let distributor = Process::distributor(&[]);
    let users = Process::users(&distributor, &scratch, &[]);
    let mut packets = users.packets();
    packets.send_raw("¶¶ \r\n\t¶ ".as_bytes());
    let request = "{\"uri\":\"/users\",\"method\":\"GET\",\"key\":1,\"params\":{\"email\":\"ö¶\"}}¶\n ¶";
    let request = request.replacen('¶', "\\u00b6", 1);
    for byte in request.as_bytes() {
        packets.send_raw(&[*byte]);
    }
    assert_eq!(packets.receive().unwrap()["key"], 1);
    // Many requests in one write get as many replies, each with its key.
    let many: Vec<String> =
        (1..=200).map(|key| format!("{{\"uri\":\"/users\",\"method\":\"GET\",\"key\":{key}}}¶")).collect();
    packets.send_raw(many.concat().as_bytes());
    let mut keys: Vec<u64> = (0..200).map(|_| packets.receive().unwrap()["key"].as_u64().unwrap()).collect();
    keys.sort_unstable();
    assert!(keys.into_iter().eq(1..=200));
}

/// The only story that waits the real 10 s. All stalling peers stall in it, in parallel.
#[test]
fn a_connection_that_stops_within_a_frame_is_closed_and_an_idle_one_is_not() {
    let scratch = Scratch::new();
    let distributor = Process::distributor(&[]);
    let users = Process::users(&distributor, &scratch, &[]);
    let half_a_reply = |request: &crate::harness::ReceivedRequest| request.raw(b"{\"key\":");
    let staller = Echo::answering(&distributor, "staller", &["GET/stalled"], half_a_reply);
    let gateway = Process::gateway(&distributor, &["--timeout", "0.2"]);
    crate::harness::await_instances(&gateway, "GET", "/stalled", 1);
    assert_eq!(gateway.http().get("/stalled").status, 504);

    let connect = |process: &Process, bytes: &[u8]| {
        let mut packets = process.packets();
        packets.send_raw(bytes);
        packets
    };
    let half = b"{\"uri\":\"/distributes\",";
    let silent = [&distributor, &users].map(|process| connect(process, half));
    let idle = [&distributor, &users].map(|process| connect(process, " ¶ ".as_bytes()));
    // One byte now and then does not extend the deadline either.
    let mut trickling = connect(&users, b"{");
    while !trickling.is_closed_within(Duration::from_millis(500)) {
        trickling.send_raw(b" ");
    }
    for (process, mut packets) in [&distributor, &users].into_iter().zip(silent) {
        let me = packets.stream().local_addr().unwrap();
        while packets.receive_text().is_some() {}
        let line = process.await_log(&[&format!("{me} closed"), "did not end in time"]);
        assert!(line.contains(r#"(22 bytes, limit 1048576, begins: {\"uri\":\"/distributes\","#), "{line}");
    }
    let line = gateway.await_log(&[&format!("link 127.0.0.1:{}: closed", staller.port())]);
    assert!(line.contains("did not end in time"), "{line}");
    for mut packets in idle {
        assert_eq!(packets.call("GET", "/users", &json!({ "params": "1" }), 1)["errorcode"], 404);
    }
}

// ---- limits

/// The number of threads of a process.
#[cfg(target_os = "linux")]
fn threads(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap().count()
}

#[cfg(target_os = "linux")]
fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count()
}

#[cfg(target_os = "linux")]
#[test]
fn two_hundred_rounds_of_bad_packets_leave_nothing_behind() {
    let scratch = Scratch::new();
    let distributor = Process::distributor(&[]);
    let users = Process::users(&distributor, &scratch, &[]);
    let mut bystander = bystander_beside_users(&distributor);
    let mut asker = users.packets();
    assert_eq!(asker.call("GET", "/users", &json!({}), 1)["errorcode"], 0);
    let both = [&distributor, &users];
    let before = both.map(|process| (threads(process), descriptors(process)));

    let endless = [b"{\"a\":\"".as_slice(), &vec![b'x'; 1_100_000]].concat();
    let mut kinds: Vec<Vec<u8>> = violations().into_iter().map(|violation| violation.bytes).collect();
    kinds.push(endless);
    for (round, bytes) in kinds.iter().cycle().take(200).enumerate() {
        for process in both {
            let mut packets = process.packets();
            packets.send_raw(bytes);
            // Some wait for the end, some close before it.
            if round % 3 == 0 {
                let _ = packets.stream().shutdown(Shutdown::Write);
                while packets.receive_text().is_some() {}
            }
        }
    }
    for (process, before) in both.into_iter().zip(before) {
        eventually(&format!("{} is as it was before", process.ready_line()), || {
            ((threads(process), descriptors(process)) == before).then_some(())
        });
        assert!(process.peak_kib() < 64 * 1024, "{}: {} KiB", process.ready_line(), process.peak_kib());
    }
    assert_eq!(asker.call("GET", "/users", &json!({}), 2)["errorcode"], 0);
    // `users` registers again after a bad frame, so lists may come first.
    assert_eq!(bystander.call("GET", "/distributes", &json!({}), 2)["errorcode"], 0);
}

#[test]
fn a_connection_over_the_limit_is_closed_with_a_line_in_the_log() {
    let scratch = Scratch::new();
    let distributor = Process::distributor(&["--max-connections", "3"]);
    let users = Process::users(&distributor, &scratch, &["--max-connections", "3"]);
    distributor.await_log(&["registered: users"]);
    for (process, uri) in [(&distributor, "/distributes"), (&users, "/users")] {
        let is_answered = |packets: &mut Packets| {
            packets.send(&json!({ "uri": uri, "method": "GET", "key": 1, "params": {} }));
            std::iter::from_fn(|| packets.receive()).any(|packet| packet["key"] == 1)
        };
        let answered = |mut packets: Packets| is_answered(&mut packets).then_some(packets);
        // The users process has one of the connections at the distributor.
        let room = if uri == "/distributes" { 2 } else { 3 };
        let mut inside: Vec<Packets> =
            (0..room).map(|_| answered(process.packets()).expect("a connection is accepted")).collect();
        for _ in 0..2 {
            let one_too_many = process.packets();
            let me = one_too_many.stream().local_addr().unwrap();
            assert!(one_too_many.is_closed_within(PATIENCE));
            let line = process.await_log(&[&me.to_string(), "turned away"]);
            assert!(line.contains("WARN") && line.contains("3 connections are open"), "{line}");
        }
        // The open connections remain, and a new connection may replace a closed one.
        assert!(inside.iter_mut().all(is_answered));
        inside.pop();
        inside.push(eventually("the free place is reused", || answered(process.packets())));
        assert!(process.packets().is_closed_within(PATIENCE));
    }
}
