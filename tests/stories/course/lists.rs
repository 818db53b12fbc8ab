//! Course nodes and the list: a list that would be too long for them, and two programs with one name.

use serde_json::{Value, json};

use super::{COURSE_MAX_BYTES, assert_alive, await_success, course_js, port_of};
use crate::harness::{Packets, Process, System, await_instances};

/// Registers like a program of ours with far too many routes.
fn register_long(packets: &mut Packets) -> Value {
    let urls: Vec<String> = (0..700).map(|number| format!("GET/{number:091}")).collect();
    let params = json!({ "port": 9016, "name": "long", "urls": urls, "proto": "pilcrow/1" });
    packets.call("POST", "/distributes", &params, 1)
}

/// A service of this dialect at `/<name>`.
fn start_service(distributor: &Process, dialect: &str, name: &str) -> Option<Process> {
    let urls = format!("GET/{name}");
    let flags = ["--dialect", dialect, "--name", name, "--urls", &urls];
    course_js(&[&["service", &port_of(distributor)], &flags[..]].concat())
}

/// A service and a gateway of each dialect: two services, then two gateways.
fn start_nodes(distributor: &Process) -> Option<[Process; 4]> {
    let gate = |dialect| course_js(&["gate", &port_of(distributor), "--dialect", dialect]);
    let [template, book] = ["template", "book"].map(|dialect| start_service(distributor, dialect, dialect));
    Some([template?, book?, gate("template")?, gate("book")?])
}

#[test]
fn a_registration_that_would_kill_all_course_nodes_is_413() {
    let distributor = Process::distributor(&[]);
    let Some(mut nodes) = start_nodes(&distributor) else { return };
    // A course gateway can ask only services of the same dialect.
    await_success(&nodes[2], "/template");
    await_success(&nodes[3], "/book");
    let reply = register_long(&mut distributor.packets());
    let words = reply["errormessage"].as_str().unwrap().to_owned();
    assert_eq!(reply["errorcode"], 413, "{words}");
    let numbers = words.split(|other: char| !other.is_ascii_digit());
    let numbers: Vec<usize> = numbers.filter_map(|number| number.parse().ok()).collect();
    assert!(numbers.contains(&COURSE_MAX_BYTES), "{words}");
    assert!(numbers.iter().any(|number| (700 * 95..2 * 700 * 95).contains(number)), "{words}");
    // Every node gets the next list.
    let _late =
        ["template", "book"].map(|dialect| start_service(&distributor, dialect, &format!("late-{dialect}")));
    await_success(&nodes[2], "/late-template");
    await_success(&nodes[3], "/late-book");
    nodes.iter_mut().for_each(assert_alive);
}

#[test]
fn a_course_node_that_comes_while_the_list_is_too_long_lives_and_is_refused_with_a_warning() {
    let distributor = Process::distributor(&[]);
    let mut long = distributor.packets();
    assert_eq!(register_long(&mut long)["errorcode"], 0);
    let Some(mut nodes) = start_nodes(&distributor) else { return };
    for name in ["template", "book", "gate"] {
        distributor.await_log(&["WARN", name, "65536"]);
    }
    let listed = long.call("GET", "/distributes", &json!({}), 2)["results"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 1, "only the long list");
    nodes.iter_mut().for_each(assert_alive);
}

#[test]
fn a_course_service_that_has_the_name_of_ours_and_other_routes_is_reported() {
    let system = System::start();
    let flags = ["--name", "users", "--urls", "GET/users,PUT/users"];
    let port = port_of(&system.distributor);
    let Some(mut stranger) = course_js(&[&["service", &port], &flags[..]].concat()) else { return };
    let addresses = [system.users[0].port(), stranger.port()].map(|port| format!("127.0.0.1:{port}"));
    let warning = system.distributor.await_log(&["WARN", &addresses[0], &addresses[1]]);
    assert!(warning.contains("PUT/users") && warning.contains("DELETE/users"), "{warning}");
    await_instances(&system.gateway, "GET", "/users", 2);
    let rows = system.http().get("/routes").results();
    let row = rows.as_array().unwrap().iter().find(|row| row["path"] == "/users" && row["method"] == "GET");
    let conflict = row.unwrap()["conflict"].to_string();
    assert!(addresses.iter().all(|address| conflict.contains(address)), "{conflict}");
    assert_alive(&mut stranger);
}
