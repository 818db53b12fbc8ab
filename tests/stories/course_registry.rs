//! Course nodes at our distributor: no list is too long for them, and the log shows their wrong registrations.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::harness::{Echo, Packets, Process, Program, await_instances, eventually};

/// The longest packet that a course node survives, in bytes.
const COURSE_LIMIT: usize = 64 * 1024;

/// This many routes of 95 bytes each.
fn routes(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("GET/{number:091}")).collect()
}

/// Registers one of our own nodes and returns the reply.
fn register_ours(packets: &mut Packets, name: &str, urls: &[String], key: u64) -> Value {
    let params = json!({ "port": 9100 + key, "name": name, "urls": urls, "proto": "pilcrow/1" });
    packets.call("POST", "/distributes", &params, key)
}

/// The next list, of a length that a course node survives.
fn short_list(course_node: &mut Packets) -> Vec<Value> {
    let text = course_node.receive_text().expect("a list");
    assert!(text.len() + "¶".len() <= COURSE_LIMIT, "a list of {} bytes kills a course node", text.len());
    serde_json::from_str::<Value>(&text).unwrap()["params"].as_array().unwrap().clone()
}

#[test]
fn a_registration_that_makes_the_list_too_long_for_a_course_node_is_rejected_with_both_sizes() {
    let distributor = Process::distributor(&[]);
    let mut course_node = distributor.packets();
    course_node.register("gate", 8000, &[], &json!({}));
    while short_list(&mut course_node).is_empty() {}

    let reply = register_ours(&mut distributor.packets(), "long", &routes(700), 1);
    assert_eq!(reply["errorcode"], 413, "{reply}");
    let words = reply["errormessage"].as_str().unwrap();
    let size =
        words.split("could have ").nth(1).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap();
    assert!(size > 700 * 95 && words.contains("at most 65536"), "{words}");
    distributor.await_log(&["WARN", "long", &size.to_string(), "65536"]);

    // It lives, and the next list reaches it.
    let mut short = distributor.packets();
    assert_eq!(register_ours(&mut short, "short", &routes(500), 2)["errorcode"], 0);
    while short_list(&mut course_node).len() < 2 {}
}

#[test]
fn without_a_course_node_a_long_list_is_accepted_and_a_course_node_that_comes_later_is_rejected() {
    let distributor = Process::distributor(&[]);
    let mut long = distributor.packets();
    assert_eq!(register_ours(&mut long, "long", &routes(700), 1)["errorcode"], 0);

    let mut late = distributor.packets();
    let reply = late.call("POST", "/distributes", &json!({ "port": 9001, "name": "members", "urls": [] }), 1);
    assert_eq!(reply["errorcode"], 413, "{reply}");
    distributor.await_log(&["WARN", "members", "course nodes take at most 65536"]);

    // Our own nodes still join and leave.
    let mut other = distributor.packets();
    assert_eq!(register_ours(&mut other, "other", &[], 2)["errorcode"], 0);
    drop(long);
    other.await_list(|list| list.len() == 1);
    let mut again = distributor.packets();
    again.register("members", 9001, &[], &json!({}));
    while short_list(&mut again).len() < 2 {}
}

#[test]
fn two_programs_with_one_name_are_reported_once_and_marked_among_the_routes() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let mut one = Echo::start(&distributor, "users", &["GET/users", "GET/users/photos"]);
    let other = Echo::start(&distributor, "users", &["GET/users"]);
    let (first, second) = (format!("127.0.0.1:{}", one.port()), format!("127.0.0.1:{}", other.port()));
    let warning = distributor.await_log(&["WARN", &first, &second, "different routes"]);
    assert!(warning.contains(&format!("only {first} has GET/users/photos")), "{warning}");

    await_instances(&gateway, "GET", "/users", 2);
    let rows = gateway.http().get("/routes").results();
    let rows = rows.as_array().unwrap();
    let has_conflict = |row: &Value| {
        row["conflict"]
            .as_str()
            .is_some_and(|conflict| conflict.contains(&first) && conflict.contains(&second))
    };
    assert!(rows.len() == 2 && rows.iter().all(has_conflict), "{rows:#?}");

    // A repeated registration is not logged again.
    let port = one.port();
    one.membership.register("users", port, &["GET/users", "GET/users/photos"], &json!({}));
    drop(other);
    await_instances(&gateway, "GET", "/users", 1);
    let rows = gateway.http().get("/routes").results();
    assert!(rows.as_array().unwrap().iter().all(|row| row.get("conflict").is_none()), "{rows:#?}");
    assert_eq!(distributor.log().iter().filter(|line| line.contains("different routes")).count(), 1);
}

#[test]
fn an_entry_without_a_host_is_skipped_with_one_warning() {
    let echo = Echo::start(&Process::distributor(&[]), "users", &["GET/users"]);
    let played = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Program::gateway(played.local_addr().unwrap()).start();
    let mut joined = Packets::on(played.accept().unwrap().0);
    let hostless = json!({ "port": 9016, "name": "members", "urls": ["GET/members"] });
    for urls in [json!(["GET/goods"]), json!(["GET/users"])] {
        let whole = json!({ "port": echo.port(), "host": "127.0.0.1", "name": "users", "urls": urls });
        joined
            .send(&json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": [hostless, whole] }));
    }
    await_instances(&gateway, "GET", "/users", 1);
    let log = gateway.log();
    let warnings = log.iter().filter(|line| line.contains("WARN") && line.contains("members with port 9016"));
    assert_eq!(warnings.count(), 1, "{log:#?}");
    assert!(!log.iter().any(|line| line.contains(" :9016")), "{log:#?}");
    eventually("the rest of the list is used", || (gateway.http().get("/users").status == 200).then_some(()));
}

#[test]
fn a_registration_that_is_repeated_pushes_the_list_to_everybody() {
    let distributor = Process::distributor(&[]);
    let mut gate = distributor.packets();
    gate.register("gate", 8000, &[], &json!({}));
    let mut service = distributor.packets();
    service.register("goods", 9030, &["GET/goods"], &json!({}));
    let before = gate.await_list(|list| list.len() == 2);
    service.register("goods", 9030, &["GET/goods"], &json!({}));
    assert_eq!(gate.receive().unwrap()["params"], Value::from(before));
}
