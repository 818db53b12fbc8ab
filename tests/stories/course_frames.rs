//! Frames of course nodes. A raw `¶` inside a string is text; from a node of ours it is an error. The log describes a
//! frame that never ends.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{
    Echo, Packets, Process, Program, ReceivedRequest, SECRET, Scratch, System, await_instances, eventually,
};

/// A text that a course client stores.
const APPLE: &str = "사과 ¶ 배";

/// The log lines of a process about the end of this connection.
fn closed_lines(process: &Process, packets: &Packets) -> Vec<String> {
    let closed = format!("{} closed", packets.stream().local_addr().unwrap());
    process.log().into_iter().filter(|line| line.contains(&closed)).collect()
}

/// Reads to the end of the connection. Returns the one log line about its end.
fn await_closed(process: &Process, packets: &mut Packets) -> String {
    while packets.receive_text().is_some() {}
    let lines = eventually("the end is logged", || {
        Some(closed_lines(process, packets)).filter(|lines| !lines.is_empty())
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("WARN"), "{}", lines[0]);
    lines[0].clone()
}

#[test]
fn a_stored_delimiter_of_a_course_service_reaches_the_client() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let goods = json!([{ "id": 1, "name": APPLE }, { "id": 2, "name": "\\\"¶\"" }, { "¶": "" }]);
    let answered = goods.clone();
    let answer = move |request: &ReceivedRequest| {
        let reply = json!({ "key": request.key(), "errorcode": 0, "results": answered });
        let bytes = format!("{reply}¶").into_bytes();
        // The stream is cut inside of each delimiter.
        bytes.split_inclusive(|byte| *byte == 0xC2).for_each(|piece| request.raw(piece));
    };
    let service = Echo::course(&distributor, "goods", &["GET/goods", "POST/goods"], answer);
    await_instances(&gateway, "GET", "/goods", 1);
    for _ in 0..3 {
        assert_eq!(gateway.http().post("/goods", &json!({ "name": APPLE })).status, 200);
        let list = gateway.http().get("/goods");
        assert_eq!((list.status, list.results()), (200, goods.clone()));
    }
    assert_eq!(service.connections(), 1, "the link is up");
}

#[test]
fn many_replies_with_delimiters_in_one_segment_are_as_many_replies() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let service = Echo::course(&distributor, "goods", &["GET/goods"], |_| {});
    await_instances(&gateway, "GET", "/goods", 1);
    let asking: Vec<_> = (0..8)
        .map(|number| {
            let http = gateway.http();
            thread::spawn(move || http.get(&format!("/goods/{number}")).results())
        })
        .collect();
    let requests = service.await_requests(8);
    let reply = |request: &ReceivedRequest| {
        let name = format!("¶{}", request.params()["params"].as_str().unwrap());
        format!("{}¶", json!({ "key": request.key(), "errorcode": 0, "results": name }))
    };
    requests[0].raw(requests.iter().map(reply).collect::<Vec<_>>().concat().as_bytes());
    for (number, asking) in asking.into_iter().enumerate() {
        assert_eq!(asking.join().unwrap(), format!("¶{number}"));
    }
}

#[test]
fn a_list_of_a_course_distributor_may_hold_a_delimiter() {
    let ours = Process::distributor(&[]);
    let service = Echo::start(&ours, "goods", &["GET/goods"]);
    let played = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Program::gateway(played.local_addr().unwrap()).start();
    let mut packets = Packets::on(played.accept().unwrap().0);
    packets.receive().unwrap();
    let list = json!([
        { "port": 1, "name": APPLE, "urls": [], "host": "127.0.0.1" },
        { "port": service.port(), "name": "goods", "urls": ["GET/goods"], "host": "127.0.0.1" },
    ]);
    let list = json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": list });
    packets.send_raw(format!("{list}¶").as_bytes());
    await_instances(&gateway, "GET", "/goods", 1);
}

#[test]
fn a_course_gateway_may_send_a_delimiter_in_a_body() {
    let system = System::start();
    let mut gate = system.users[0].packets();
    let new = json!({ "email": "kim@example.com", "name": APPLE });
    let create = json!({ "uri": "/users", "method": "POST", "key": 1, "params": new });
    gate.send_raw(format!("{create}¶").as_bytes());
    let created = gate.receive().unwrap();
    assert_eq!((&created["key"], &created["results"]["name"]), (&json!(1), &json!(APPLE)));
    let list = gate.call("GET", "/users", &json!({}), 2);
    assert_eq!(list["results"][0]["name"], APPLE);
    assert_eq!(system.http().get("/users/1").results()["name"], APPLE);
    // A value that is not an object is still rejected, at once.
    gate.send_raw("null¶".as_bytes());
    assert!(await_closed(&system.users[0], &mut gate).contains("it does not begin with {"));
}

#[test]
fn a_node_of_ours_that_sends_a_raw_delimiter_is_closed_with_one_line_in_the_log() {
    let system = System::start();
    let raw = json!({ "uri": "/users", "method": "GET", "key": 2, "params": { "name": APPLE } });
    let with_deadline = |mut packet: Value| {
        packet["deadline_ms"] = json!(5000);
        format!("{packet}¶")
    };
    // Its first packet shows that it is ours, this time or on an earlier connection.
    let mut first = system.users[0].packets();
    first.send_raw(with_deadline(raw.clone()).as_bytes());
    let mut second = system.users[0].packets();
    let good = json!({ "uri": "/users", "method": "GET", "key": 1, "params": {} });
    second.send_raw(with_deadline(good).as_bytes());
    assert_eq!(second.receive().unwrap()["key"], 1);
    second.send_raw(format!("{raw}¶").as_bytes());
    for packets in [&mut first, &mut second] {
        let line = await_closed(&system.users[0], packets);
        assert!(line.contains("not one JSON object: EOF while parsing a string"), "{line}");
        assert!(line.contains("사과"), "{line}");
    }
    // A registration also shows it.
    let mut node = system.distributor.packets();
    node.register("ours", 9, &[], &json!({ "proto": "pilcrow/1" }));
    node.await_list(|list| list.iter().any(|entry| entry["name"] == "ours"));
    node.send_raw(format!("{raw}¶").as_bytes());
    await_closed(&system.distributor, &mut node);
}

#[test]
fn a_peer_that_proved_the_secret_may_send_no_raw_delimiter() {
    let system = System::builder().secured().start();
    let mut packets = Packets::proven(system.users[0].address(), SECRET);
    packets.send_raw(
        "{\"uri\":\"/users\",\"method\":\"GET\",\"key\":1,\"params\":{\"name\":\"¶\"}}¶".as_bytes(),
    );
    assert!(await_closed(&system.users[0], &mut packets).contains("not one JSON object"));
}

#[test]
fn a_bad_frame_of_a_course_node_makes_the_service_register_again_once_a_second_at_most() {
    let scratch = Scratch::new();
    let played = TcpListener::bind("127.0.0.1:0").unwrap();
    let users = Program::users(played.local_addr().unwrap(), &scratch).start();
    let mut distributor = Packets::on(played.accept().unwrap().0);
    let first = distributor.receive().unwrap();
    let break_rules = |bytes: &str| {
        let mut gate = users.packets();
        gate.send_raw(bytes.as_bytes());
        await_closed(&users, &mut gate);
    };
    // Bad packets from a node of ours do not trigger a new registration, because that node reconnects automatically.
    break_rules("{\"uri\":\"/users\",\"method\":\"GET\",\"key\":1,\"params\":{},\"deadline_ms\":5000}¶null¶");
    break_rules("{\"uri\":\"/users\"}}¶");
    assert_eq!(distributor.receive().unwrap(), first, "the same registration, over the same connection");
    let registered = Arc::new(Mutex::new(Vec::new()));
    let seen = registered.clone();
    thread::spawn(move || {
        while let Some(packet) = distributor.receive() {
            assert_eq!(packet, first);
            seen.lock().unwrap().push(Instant::now());
        }
    });
    let began = Instant::now();
    (0..20).for_each(|_| break_rules("nonsense¶"));
    let before_the_last = Instant::now();
    break_rules("nonsense¶");
    eventually("the last bad frame is followed by a registration", || {
        registered.lock().unwrap().iter().any(|seen| *seen > before_the_last).then_some(())
    });
    let (count, most) = (registered.lock().unwrap().len(), 1 + began.elapsed().as_secs() + 1);
    assert!(count as u64 <= most, "{count} registrations, at most {most}");
    drop(users);
}

#[test]
fn a_course_gateway_gets_a_list_after_it_has_noticed_that_a_service_closed_its_connection() {
    let system = System::start();
    let users = &system.users[0];
    let registered_again = || users.log().iter().filter(|line| line.contains("registering again")).count();
    let mut gate = system.distributor.packets();
    gate.register("gate", 9, &[], &json!({}));
    gate.await_list(|list| list.iter().any(|entry| entry["port"] == 9));
    for round in 0..3 {
        let mut link = users.packets();
        link.send_raw("{\"uri\":\"/users\",\"method\":}¶".as_bytes());
        await_closed(users, &mut link);
        // A list that arrives now is of no use: the gateway believes that it is still connected.
        assert_eq!(users.packets().call("GET", "/users", &json!({}), 1)["errorcode"], 0);
        assert_eq!(registered_again(), round);
        drop(link);
        gate.await_list(|list| list.iter().any(|entry| entry["port"] == users.port()));
    }
}

#[test]
fn a_frame_without_an_end_is_closed_at_the_limits_with_words_that_help() {
    let distributor = Process::distributor(&[]);
    let scratch = Scratch::new();
    let users = Process::users(&distributor, &scratch, &["--max-frame", "2000"]);
    let connect = |bytes: &str| {
        let mut packets = users.packets();
        packets.send_raw(bytes.as_bytes());
        packets
    };
    let request = r#"{"uri":"/users","method":"GET","key":1,"params":{}}"#;
    let mut dollar = connect(&format!("{request}$"));
    let mut open = connect("{\"uri\":\"/users¶{\"a\":1}¶");
    let mut began = connect("{\"uri\":");

    // The limit of the size.
    let mut long = connect(&format!("{{\"uri\":\"/users¶{}", "x¶".repeat(700)));
    let line = await_closed(&users, &mut long);
    assert!(line.contains("too long") && line.contains("a string in it is not closed"), "{line}");
    assert!(line.contains("limit 2000, begins: ") && line.contains("ends: "), "{line}");
    // The end of the connection.
    let mut line_break = connect(&format!("{request}\n"));
    line_break.stream().shutdown(std::net::Shutdown::Write).unwrap();
    let line = await_closed(&users, &mut line_break);
    assert!(line.contains("ended inside a frame: it ends with `\\n` instead of `¶`"), "{line}");
    // The limit of the time.
    let line = await_closed(&users, &mut dollar);
    assert!(line.contains("did not end in time: it ends with `$` instead of `¶`"), "{line}");
    let line = await_closed(&users, &mut open);
    assert!(line.contains("did not end in time: a string in it is not closed"), "{line}");
    let line = await_closed(&users, &mut began);
    assert!(line.contains("did not end in time (7 bytes"), "{line}");
}
