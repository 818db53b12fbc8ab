//! The nodes of the Node.js course, in both dialects, among ours. Raw sockets play them here.
//!
//! `node/course.js` plays them too, and crashes on the same inputs as the real ones. Without `node`, these stories are
//! skipped:
//!
//! | file | tests |
//! | --- | --- |
//! | [`deaths`] | inputs that kill the played nodes, and the 404 answers of their gateway |
//! | [`beside`] | services, gateways and a distributor of the course beside ours |
//! | [`keys`] | key 0, keys as text, and a client's own `key` |
//! | [`delimiter`] | a raw `¶` in both directions, and a frame that is really bad |
//! | [`bursts`] | overload of a course service: many packets at once, and a long one |
//! | [`lists`] | long lists, and two programs with one name |
//! | [`constellation`] | all of it at once, for a minute |

mod beside;
#[cfg(unix)]
mod bursts;
#[cfg(unix)]
mod constellation;
mod deaths;
mod delimiter;
mod keys;
mod lists;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Echo, Packets, Process, Program, ReceivedRequest, Response, Scratch, System, await_instances, eventually,
};

/// The packet size limit of a course node.
const COURSE_MAX_BYTES: usize = 64 * 1024;

/// Sends the request on a new thread.
fn ask(gateway: &Process, method: &'static str, path: &str, body: &[u8]) -> JoinHandle<Response> {
    let (http, path, body) = (gateway.http(), path.to_owned(), body.to_vec());
    thread::spawn(move || http.request(method, &path, &[("Content-Type", "application/json")], &body))
}

/// The number of times that the link to this service has come up.
fn links(gateway: &Process, port: u16) -> usize {
    let up = format!("link 127.0.0.1:{port}: up");
    gateway.log().iter().filter(|line| line.contains(&up)).count()
}

/// Starts `node/course.js` in this role. Without `node`, prints the reason and returns `None`.
pub fn course_js(arguments: &[&str]) -> Option<Process> {
    let silent = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !silent(Command::new("node").arg("--version")).is_ok_and(|status| status.success()) {
        crate::harness::skip("node", "not found on the PATH");
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stories/node/course.js");
    Some(Program::at("node").flags([script]).flags(arguments).start())
}

pub fn port_of(distributor: &Process) -> String {
    distributor.port().to_string()
}

/// Panics if the process is dead.
fn assert_alive(course: &mut Process) {
    assert!(course.is_alive(), "{} died: {:#?}", course.ready_line(), course.log());
}

/// The fields for the payload and the error code in each dialect.
pub const DIALECTS: [(&str, &str, &str); 2] =
    [("template", "results", "errorcode"), ("book", "data", "errorCode")];

/// The answer to a GET, if it arrives within this time. A course gate whose link is lost never answers its clients.
fn get_within(limit: Duration, gateway: &Process, path: &str) -> Option<Response> {
    let mut client = gateway.http().try_connect()?;
    client.stream().set_read_timeout(Some(limit)).unwrap();
    client.send_request("GET", path, &[], b"");
    client.receive()
}

/// The results for this path, once a gateway of either kind answers 200 there.
fn await_success(gateway: &Process, path: &str) -> Response {
    eventually(&format!("{path} answers 200"), || {
        get_within(Duration::from_secs(3), gateway, path).filter(|answer| answer.status == 200)
    })
}

// ---- course services, played by raw sockets

/// A service of the course that holds its requests until the story answers.
fn course_keeper(distributor: &Process, urls: &[&str]) -> Echo {
    Echo::course(distributor, "goods", urls, |_| {})
}

#[test]
fn a_course_service_gets_only_what_the_course_sends() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let goods = Echo::course(&distributor, "goods", &["GET/goods", "POST/goods"], ReceivedRequest::echo);
    await_instances(&gateway, "GET", "/goods", 1);
    let http = gateway.http();
    assert_eq!(http.get("/goods").status, 200);
    assert_eq!(http.get("/goods/7?name=a%C2%B6b").status, 200);
    assert_eq!(http.post("/goods", &json!({ "name": "a¶b", "key": "mine" })).status, 200);
    let stream = http.request("GET", "/goods", &[("Accept", "text/event-stream")], b"");
    assert_eq!(stream.status, 200);
    let texts: Vec<String> = goods.requests().into_iter().map(|request| request.text).collect();
    let expected = [
        r#"{"uri":"/goods","method":"GET","key":1,"params":{"key":2}}"#,
        r#"{"uri":"/goods","method":"GET","key":3,"params":{"name":"a\u00b6b","params":"7"}}"#,
        r#"{"uri":"/goods","method":"POST","key":5,"params":{"key":"mine","name":"a\u00b6b"}}"#,
        r#"{"uri":"/goods","method":"GET","key":7,"params":{}}"#,
    ];
    assert_eq!(texts, expected);
}

#[test]
fn the_replies_of_course_services_pass_through_as_they_are() {
    let replies = [
        // The forms of the template, the book, and other copies.
        r#"{"key":KEY,"errorcode":0,"errormessage":"success","results":[1, 2]}"#,
        r#"{"key":KEY,"errorCode":0,"errormessage":"success","data":{"a":1.50}}"#,
        r#"{"key":KEY,"responseData":"a\u00b6b"}"#,
        r#"{"key":KEY,"errorcode":1,"errormessage":{"code":"ER_DUP_ENTRY","errno":1062}}"#,
        r#"{"errorCode":7,"errormessage":null,"params":{"id":"1","key":KEY}}"#,
        r#"{"key":KEY,"errorcode":"1"}"#,
        r#"{ "key" : KEY , "errorcode" : -1 }"#,
    ];
    let next = Mutex::new(replies.into_iter().cycle());
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let answer = move |request: &ReceivedRequest| {
        let reply = next.lock().unwrap().next().unwrap().replace("KEY", &request.key().to_string());
        request.raw(format!("{reply}¶").as_bytes());
    };
    let _goods = Echo::course(&distributor, "goods", &["GET/goods"], answer);
    await_instances(&gateway, "GET", "/goods", 1);
    for (key, reply) in (1..).step_by(2).zip(replies) {
        let answer = gateway.http().get("/goods");
        assert_eq!((answer.status, answer.text()), (200, reply.replace("KEY", &key.to_string()) + "\n"));
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
    }
}

#[test]
fn a_reply_without_a_key_belongs_to_the_only_request_that_waits_and_else_to_none() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let goods = course_keeper(&distributor, &["GET/goods", "PATCH/goods"]);
    await_instances(&gateway, "GET", "/goods", 1);
    let keyless = "{\"errorcode\":0,\"results\":\"keyless\"}¶".as_bytes();

    let only = ask(&gateway, "GET", "/goods", b"");
    goods.await_requests(1)[0].raw(keyless);
    assert_eq!(only.join().unwrap().results(), "keyless");
    // The reply of a course service to a method that it does not handle.
    let only = ask(&gateway, "PATCH", "/goods/1", b"{}");
    goods.await_requests(2)[1].raw("null¶".as_bytes());
    let answer = only.join().unwrap();
    assert_eq!((answer.status, &answer.reply()["errorcode"]), (501, &json!(501)), "{}", answer.text());

    let two = ["/goods/one", "/goods/two"].map(|path| ask(&gateway, "GET", path, b""));
    let requests = goods.await_requests(4);
    requests[2].raw(keyless);
    requests[2].raw("null¶".as_bytes());
    requests[2..].iter().for_each(ReceivedRequest::echo);
    for (name, waiting) in ["one", "two"].into_iter().zip(two) {
        assert_eq!(waiting.join().unwrap().results()["params"]["params"], name);
    }
    // A reply without any pending request.
    requests[3].raw(keyless);
    requests[3].raw("null¶".as_bytes());
    let orphans = || gateway.log().iter().filter(|line| line.contains("orphan reply")).count();
    eventually("all four are dropped", || (orphans() == 4).then_some(()));
    let last = ask(&gateway, "GET", "/goods/last", b"");
    goods.await_requests(5)[4].echo();
    assert_eq!(last.join().unwrap().results()["params"]["params"], "last");
    assert_eq!(links(&gateway, goods.port()), 1);
}

#[test]
fn the_course_log_service_gets_text_and_the_client_an_immediate_answer() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let logs = Echo::course(&distributor, "logs", &["POST/logs"], |_| {});
    await_instances(&gateway, "POST", "/logs", 1);
    let bodies = ["a line ¶ of text", r#"{"level":"info"}"#, "", "a=1&b=2"];
    for (body, content_type) in bodies.into_iter().zip([
        "text/plain",
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
    ]) {
        let answer =
            gateway.http().request("POST", "/logs", &[("Content-Type", content_type)], body.as_bytes());
        assert_eq!((answer.status, &answer.reply()["errorcode"]), (202, &json!(0)), "{}", answer.text());
    }
    for (request, body) in logs.await_requests(4).iter().zip(bodies) {
        let expected = json!({ "uri": "/logs", "method": "POST", "key": 0, "params": body });
        assert_eq!(request.packet, expected);
    }
    drop(logs);
    await_instances(&gateway, "POST", "/logs", 0);
    for content_type in ["text/plain", "application/json"] {
        let answer = gateway.http().request("POST", "/logs", &[("Content-Type", content_type)], b"{}");
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    // A log service of ours is a service like any other.
    let _ours = Echo::start(&distributor, "logs", &["POST/logs"]);
    await_instances(&gateway, "POST", "/logs", 1);
    assert_eq!(gateway.http().post("/logs", &json!({ "a": 1 })).results()["params"], json!({ "a": 1 }));
    let text = gateway.http().request("POST", "/logs", &[("Content-Type", "text/plain")], b"text");
    assert_eq!(text.status, 415);
}

// ---- course gates, played by raw sockets

/// A gateway of the course, as the distributor sees one.
fn course_gate(distributor: &Process) -> Packets {
    let mut gate = distributor.packets();
    gate.register("gate", 9, &[], &json!({ "port": "9" }));
    gate.await_list(|list| list.iter().any(|entry| entry["port"] == 9));
    gate
}

#[test]
fn a_course_gate_is_answered_in_its_own_dialect() {
    let system = System::start();
    system.create_user("kim@example.com", "Kim");
    let _gate = course_gate(&system.distributor);
    let mut packets = system.users[0].packets();
    let mut answer = |request: &str| {
        packets.send_raw(format!("{request}¶").as_bytes());
        packets.receive().unwrap()
    };
    let template = answer(r#"{"uri":"/users","method":"GET","key":7,"params":{"id":"1"}}"#);
    assert_eq!((&template["key"], &template["results"]["name"]), (&json!(7), &json!("Kim")));
    // The book's gateway puts its key among the arguments, where it does not belong.
    let book = answer(r#"{"uri":"/users","method":"GET","params":{"id":"1","key":8}}"#);
    assert_eq!((&book["key"], &book["results"]["name"]), (&json!(8), &json!("Kim")));
    let both = answer(r#"{"uri":"/users","method":"GET","key":9,"params":{"id":"1","key":9}}"#);
    assert_eq!((&both["key"], &both["results"]["name"]), (&json!(9), &json!("Kim")));
    // An argument called `key` is an argument unless it is the key.
    let other = answer(r#"{"uri":"/users","method":"GET","key":10,"params":{"id":"1","key":"mine"}}"#);
    assert_eq!((&other["key"], &other["errorcode"]), (&json!(10), &json!(400)), "{other}");
    let unknown = answer(r#"{"uri":"/users","method":"PUT","key":11,"params":{}}"#);
    assert_eq!((&unknown["key"], &unknown["errorcode"]), (&json!(11), &json!(405)), "{unknown}");
    // A request without a key gets a reply without one.
    assert_eq!(answer(r#"{"uri":"/users","method":"GET","params":{"id":"1"}}"#).get("key"), None);
    // Key 0 is a key like any other.
    let first = answer(r#"{"uri":"/users","method":"GET","key":0,"params":{"id":"1"}}"#);
    assert_eq!((&first["key"], &first["results"]["name"]), (&json!(0), &json!("Kim")));
    let first = answer(r#"{"uri":"/users","method":"GET","params":{"id":"1","key":0}}"#);
    assert_eq!((&first["key"], &first["results"]["name"]), (&json!(0), &json!("Kim")));
}

#[test]
fn a_course_gate_gets_lists_and_nothing_else() {
    let mut system = System::start();
    let mut gate = course_gate(&system.distributor);
    // All events that make our own nodes send: another gateway, a service that leaves, one that changes.
    let _gateway = Process::gateway(&system.distributor, &[]);
    let mut echo = Echo::start(&system.distributor, "echo", &["GET/echo"]);
    echo.membership.register(
        "echo",
        echo.port(),
        &["GET/other"],
        &json!({ "proto": "pilcrow/1", "leaving": true }),
    );
    assert!(system.users.remove(0).stop().success());
    drop(echo);
    loop {
        let packet = gate.receive().unwrap();
        assert_eq!(
            (&packet["uri"], &packet["method"], &packet["key"]),
            (&json!("/distributes"), &json!("GET"), &json!(0))
        );
        let list = packet["params"].as_array().unwrap();
        assert!(
            list.iter()
                .all(|entry| entry["port"].is_u64() && entry["urls"].is_array() && entry["host"].is_string())
        );
        if list.iter().all(|entry| entry["name"] == "gate") && list.len() == 3 {
            break;
        }
    }
}

/// This many users make a reply far over 64 KiB.
fn create_many_users(users: &Process) {
    let mut packets = users.packets();
    for number in 1..=500_u64 {
        let params = json!({ "email": format!("u{number}@example.com"), "name": "한".repeat(100) });
        packets.send(&json!({ "uri": "/users", "method": "POST", "key": number, "params": params }));
    }
    for _ in 1..=500 {
        assert_eq!(packets.receive().unwrap()["errorcode"], 0);
    }
}

#[test]
fn a_reply_over_64_kib_is_refused_to_a_course_gate_and_reaches_ours_whole() {
    let system = System::builder().scratch(Scratch::in_memory()).start();
    create_many_users(&system.users[0]);
    let all = |packets: &mut Packets, key| packets.call("GET", "/users", &json!({ "limit": "500" }), key);
    let mut packets = system.users[0].packets();
    // A person at a terminal, while no course gate is registered that this connection could be.
    assert_eq!(all(&mut packets, 1)["results"].as_array().unwrap().len(), 500);

    let gate = course_gate(&system.distributor);
    let refused = eventually("users knows the course gate", || {
        Some(all(&mut packets, 2)).filter(|reply| reply["errorcode"] != 0)
    });
    assert!(refused["errorcode"].as_u64().is_some_and(|code| code >= 400), "{refused}");
    assert!(refused["errormessage"].as_str().unwrap().contains("ask for less"), "{refused}");
    assert!(refused.to_string().len() < 1000);
    let fewer = packets.call("GET", "/users", &json!({ "limit": "50" }), 3);
    assert_eq!(fewer["results"].as_array().unwrap().len(), 50);
    let whole = system.http().get("/users?limit=500");
    assert_eq!((whole.status, whole.results().as_array().unwrap().len()), (200, 500));
    assert!(whole.body.len() > 2 * COURSE_MAX_BYTES);

    drop(gate);
    eventually("users knows that the course gate left", || {
        (all(&mut packets, 4)["errorcode"] == 0).then_some(())
    });
}

// ---- a course distributor, played by a raw socket

/// A distributor that sends the packets that the story wants. It accepts one connection.
struct PlayedDistributor(TcpListener);

impl PlayedDistributor {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    /// The connection of the next node that joins, and its first packet.
    fn await_joined(&self) -> (Packets, Value) {
        let mut packets = Packets::on(self.0.accept().unwrap().0);
        let first = packets.receive().unwrap();
        (packets, first)
    }
}

#[test]
fn a_list_is_recognised_by_its_shape() {
    let ours = Process::distributor(&[]);
    let services = ["one", "two", "three"].map(|name| Echo::start(&ours, name, &[&format!("GET/{name}")]));
    let ports = services.each_ref().map(Echo::port);
    let played = PlayedDistributor::new();
    let gateway = Program::gateway(played.address()).start();
    // The gateway registers first. Some course distributors crash when a peer connects and disconnects without a
    // packet.
    let (mut packets, first) = played.await_joined();
    assert_eq!(
        (&first["uri"], &first["method"], &first["key"]),
        (&json!("/distributes"), &json!("POST"), &json!(0))
    );
    assert_eq!(
        (&first["params"]["name"], &first["params"]["port"]),
        (&json!("gate"), &json!(gateway.port()))
    );

    let entry = |at: usize, port: Value, host: &str| {
        let name = ["one", "two", "three"][at];
        json!({ "port": port, "name": name, "urls": [format!("GET/{name}")], "host": host })
    };
    packets.send(&json!({ "uri": "distributes", "method": "GET", "key": 0, "params": [entry(0, json!(ports[0]), "127.0.0.1")] }));
    await_instances(&gateway, "GET", "/one", 1);
    // Packets that are not lists are ignored.
    for nothing in [
        "{}",
        r#"{"params":[1]}"#,
        r#"{"params":[{"port":1}]}"#,
        r#"{"params":"text"}"#,
        r#"{"uri":"/distributes"}"#,
    ] {
        packets.send_raw(format!("{nothing}¶").as_bytes());
    }
    let all = json!([
        entry(0, json!(ports[0]), "127.0.0.1"),
        entry(1, json!(ports[1].to_string()), "::ffff:127.0.0.1"),
        entry(2, json!(ports[2].to_string()), "localhost"),
        { "port": "none", "name": "broken", "urls": ["GET/broken"], "host": "127.0.0.1" },
        { "port": "8000", "name": "gate", "urls": [], "host": "::1" },
    ]);
    packets.send(&json!({ "params": all }));
    for (name, host) in [("one", "127.0.0.1"), ("two", "127.0.0.1"), ("three", "localhost")] {
        await_instances(&gateway, "GET", &format!("/{name}"), 1);
        assert_eq!(gateway.http().get(&format!("/{name}")).status, 200);
        gateway.await_log(&[&format!("link {host}:")]);
    }
    assert_eq!(gateway.http().get("/broken").status, 404);
    assert_eq!(links(&gateway, ports[0]), 1, "it kept the link that it had");
}
