//! The nodes of the Node.js course, in both dialects, among ours: played by raw sockets, and by `node/course.js`,
//! which dies of what kills them. Without `node` those stories are skipped.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use crate::harness::{Asked, Echo, Packets, Process, Response, Scratch, System, await_instances, eventually};

/// What a course node takes in one packet.
const COURSE_MAX_BYTES: usize = 64 * 1024;

/// Asks on a thread of its own.
fn ask(gateway: &Process, method: &'static str, path: &str, body: &[u8]) -> JoinHandle<Response> {
    let (http, path, body) = (gateway.http(), path.to_owned(), body.to_vec());
    thread::spawn(move || http.request(method, &path, &[("Content-Type", "application/json")], &body))
}

/// How often the link to this service has come up.
fn links(gateway: &Process, port: u16) -> usize {
    let up = format!("link 127.0.0.1:{port}: up");
    gateway.log().iter().filter(|line| line.contains(&up)).count()
}

// ---- course services, played by raw sockets

/// A service of the course that keeps what it is asked until the story answers.
fn course_keeper(distributor: &Process, urls: &[&str]) -> Echo {
    Echo::course(distributor, "goods", urls, |_| {})
}

#[test]
fn a_course_service_is_sent_what_the_course_sends_and_nothing_else() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let goods = Echo::course(&distributor, "goods", &["GET/goods", "POST/goods"], Asked::echo);
    await_instances(&gateway, "GET", "/goods", 1);
    let http = gateway.http();
    assert_eq!(http.get("/goods").status, 200);
    assert_eq!(http.get("/goods/7?name=a%C2%B6b").status, 200);
    assert_eq!(http.post("/goods", &json!({ "name": "a¶b", "key": "mine" })).status, 200);
    let stream = http.request("GET", "/goods", &[("Accept", "text/event-stream")], b"");
    assert_eq!(stream.status, 200);
    let asked: Vec<String> = goods.asked().into_iter().map(|asked| asked.text).collect();
    let expected = [
        r#"{"uri":"/goods","method":"GET","key":1,"params":{"key":1}}"#,
        r#"{"uri":"/goods","method":"GET","key":2,"params":{"name":"a\u00b6b","params":"7","key":2}}"#,
        r#"{"uri":"/goods","method":"POST","key":3,"params":{"key":"mine","name":"a\u00b6b","key":3}}"#,
        r#"{"uri":"/goods","method":"GET","key":4,"params":{"key":4}}"#,
    ];
    assert_eq!(asked, expected);
}

#[test]
fn the_replies_of_course_services_pass_through_as_they_are() {
    let replies = [
        // The template, the book, and what other copies make of it.
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
    let answer = move |asked: &Asked| {
        let reply = next.lock().unwrap().next().unwrap().replace("KEY", &asked.key().to_string());
        asked.raw(format!("{reply}¶").as_bytes());
    };
    let _goods = Echo::course(&distributor, "goods", &["GET/goods"], answer);
    await_instances(&gateway, "GET", "/goods", 1);
    for (key, reply) in (1..).zip(replies) {
        let answer = gateway.http().get("/goods");
        assert_eq!((answer.status, answer.text()), (200, reply.replace("KEY", &key.to_string())));
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
    goods.await_asked(1)[0].raw(keyless);
    assert_eq!(only.join().unwrap().results(), "keyless");
    // What a course service says of a method that it does not handle.
    let only = ask(&gateway, "PATCH", "/goods/1", b"{}");
    goods.await_asked(2)[1].raw("null¶".as_bytes());
    let answer = only.join().unwrap();
    assert_eq!((answer.status, &answer.reply()["errorcode"]), (501, &json!(501)), "{}", answer.text());

    let two = ["/goods/one", "/goods/two"].map(|path| ask(&gateway, "GET", path, b""));
    let asked = goods.await_asked(4);
    asked[2].raw(keyless);
    asked[2].raw("null¶".as_bytes());
    asked[2..].iter().for_each(Asked::echo);
    for (name, waiting) in ["one", "two"].into_iter().zip(two) {
        assert_eq!(waiting.join().unwrap().results()["params"]["params"], name);
    }
    // And where nobody waits at all.
    asked[3].raw(keyless);
    asked[3].raw("null¶".as_bytes());
    let orphans = || gateway.log().iter().filter(|line| line.contains("orphan reply")).count();
    eventually("all four are dropped", || (orphans() == 4).then_some(()));
    let last = ask(&gateway, "GET", "/goods/last", b"");
    goods.await_asked(5)[4].echo();
    assert_eq!(last.join().unwrap().results()["params"]["params"], "last");
    assert_eq!(links(&gateway, goods.port()), 1);
}

#[test]
fn after_a_packet_over_64_kib_a_course_service_gets_a_new_link_as_soon_as_the_old_one_is_idle() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let goods = course_keeper(&distributor, &["POST/goods"]);
    let ours = Echo::start(&distributor, "ours", &["POST/ours"]);
    await_instances(&gateway, "POST", "/goods", 1);
    await_instances(&gateway, "POST", "/ours", 1);
    let body = |length| json!({ "text": "x".repeat(length) }).to_string().into_bytes();

    let small = ask(&gateway, "POST", "/goods", &body(COURSE_MAX_BYTES - 1000));
    goods.await_asked(1)[0].echo();
    assert_eq!(small.join().unwrap().status, 200);
    assert_eq!(links(&gateway, goods.port()), 1);

    let pending = ask(&gateway, "POST", "/goods/pending", b"{}");
    goods.await_asked(2);
    let long = ask(&gateway, "POST", "/goods/long", &body(COURSE_MAX_BYTES));
    goods.await_asked(3)[2].echo();
    assert_eq!(long.join().unwrap().results()["params"]["params"], "long");
    assert_eq!(goods.connections(), 1, "one still waits");
    goods.asked()[1].echo();
    assert_eq!(pending.join().unwrap().results()["params"]["params"], "pending");
    eventually("it has a new link", || (links(&gateway, goods.port()) == 2).then_some(()));
    let next = ask(&gateway, "POST", "/goods/next", b"{}");
    goods.await_asked(4)[3].echo();
    assert_eq!(next.join().unwrap().results()["params"]["params"], "next");

    // Ours can do without.
    for _ in 0..3 {
        assert_eq!(
            gateway
                .http()
                .request("POST", "/ours", &[("Content-Type", "application/json")], &body(500_000))
                .status,
            200
        );
    }
    assert_eq!(links(&gateway, ours.port()), 1);
}

#[test]
fn the_course_log_service_is_sent_text_and_its_client_an_answer_at_once() {
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
    for (asked, body) in logs.await_asked(4).iter().zip(bodies) {
        let expected = json!({ "uri": "/logs", "method": "POST", "key": 0, "params": body });
        assert_eq!(asked.packet, expected);
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
    // The book's gateway has its key among the arguments, where it is no argument.
    let book = answer(r#"{"uri":"/users","method":"GET","params":{"id":"1","key":8}}"#);
    assert_eq!((&book["key"], &book["results"]["name"]), (&json!(8), &json!("Kim")));
    let both = answer(r#"{"uri":"/users","method":"GET","key":9,"params":{"id":"1","key":9}}"#);
    assert_eq!((&both["key"], &both["results"]["name"]), (&json!(9), &json!("Kim")));
    // But an argument called `key` is one if it is not the key.
    let other = answer(r#"{"uri":"/users","method":"GET","key":10,"params":{"id":"1","key":"mine"}}"#);
    assert_eq!((&other["key"], &other["errorcode"]), (&json!(10), &json!(400)), "{other}");
    let unknown = answer(r#"{"uri":"/users","method":"PUT","key":11,"params":{}}"#);
    assert_eq!((&unknown["key"], &unknown["errorcode"]), (&json!(11), &json!(405)), "{unknown}");
    // A request without a key is answered without one.
    assert_eq!(answer(r#"{"uri":"/users","method":"GET","params":{"id":"1"}}"#).get("key"), None);
    // Key 0 is a key like any other.
    let first = answer(r#"{"uri":"/users","method":"GET","key":0,"params":{"id":"1"}}"#);
    assert_eq!((&first["key"], &first["results"]["name"]), (&json!(0), &json!("Kim")));
    let first = answer(r#"{"uri":"/users","method":"GET","params":{"id":"1","key":0}}"#);
    assert_eq!((&first["key"], &first["results"]["name"]), (&json!(0), &json!("Kim")));
}

#[test]
fn a_course_gate_is_pushed_lists_and_nothing_else() {
    let mut system = System::start();
    let mut gate = course_gate(&system.distributor);
    // Everything that could make our own nodes talk: another gateway, a service that leaves, one that changes.
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

/// So many users that all of them make a reply far over 64 KiB.
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
    let system = System::on(Scratch::in_memory(), Process::distributor(&[]), 1, &[]);
    create_many_users(&system.users[0]);
    let all = |packets: &mut Packets, key| packets.call("GET", "/users", &json!({ "limit": "500" }), key);
    let mut packets = system.users[0].packets();
    // Somebody with a terminal, while there is no course gate that it could be.
    assert_eq!(all(&mut packets, 1)["results"].as_array().unwrap().len(), 500);

    let gate = course_gate(&system.distributor);
    let refused = eventually("users has heard of the course gate", || {
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
    eventually("users has heard that the course gate is gone", || {
        (all(&mut packets, 4)["errorcode"] == 0).then_some(())
    });
}

// ---- a course distributor, played by a raw socket

/// A distributor that says what the story wants. It takes one connection.
struct PlayedDistributor(TcpListener);

impl PlayedDistributor {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    /// The connection of the next who joins, and what it says first.
    fn await_joined(&self) -> (Packets, Value) {
        let mut packets = Packets::on(self.0.accept().unwrap().0);
        let first = packets.receive().unwrap();
        (packets, first)
    }
}

#[test]
fn a_list_is_told_by_its_shape() {
    let ours = Process::distributor(&[]);
    let services = ["one", "two", "three"].map(|name| Echo::start(&ours, name, &[&format!("GET/{name}")]));
    let ports = services.each_ref().map(Echo::port);
    let played = PlayedDistributor::new();
    let gateway = Process::gateway_at(&played.address(), &[]);
    // Registered first of all: there is a copy that dies of whoever connects and leaves without a word.
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
    // What is no list is none of our business.
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

// ---- played by Node.js

/// Starts `node/course.js` in this role; nothing, with the reason printed, where there is no `node`.
pub fn course_js(arguments: &[&str]) -> Option<Process> {
    let silent = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !silent(Command::new("node").arg("--version")).is_ok_and(|status| status.success()) {
        println!("skipped: there is no `node` on the PATH");
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stories/node/course.js");
    let arguments: Vec<String> = std::iter::once(&script).chain(arguments).map(ToString::to_string).collect();
    Some(Process::start("node", &arguments, &[]))
}

pub fn port_of(distributor: &Process) -> String {
    distributor.port().to_string()
}

/// Asserts that nothing has killed it.
fn assert_alive(course: &mut Process) {
    assert!(course.is_alive(), "{} died: {:#?}", course.ready_line(), course.log());
}

/// Where each dialect has its payload and its error code.
pub const DIALECTS: [(&str, &str, &str); 2] =
    [("template", "results", "errorcode"), ("book", "data", "errorCode")];

#[test]
fn course_services_live_behind_our_distributor_and_our_gateway() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let http = gateway.http();
    for (dialect, payload, errorcode) in DIALECTS {
        let urls = format!("GET/{dialect},POST/{dialect},DELETE/{dialect},PATCH/{dialect}");
        let arguments =
            ["service", &port_of(&distributor), "--dialect", dialect, "--name", dialect, "--urls", &urls];
        let Some(mut service) = course_js(&arguments) else { return };
        let path = format!("/{dialect}");
        await_instances(&gateway, "GET", &path, 1);

        let answer = http.get(&format!("{path}/5?name=%C3%B6%ED%95%9C%F0%9F%A6%80"));
        let reply = answer.reply();
        assert_eq!(
            (answer.status, &reply[errorcode], &reply["errormessage"]),
            (200, &json!(0), &json!("success"))
        );
        let echo = &reply[payload];
        assert_eq!(
            (&echo["dialect"], &echo["method"], &echo["uri"]),
            (&json!(dialect), &json!("GET"), &json!(path))
        );
        assert_eq!((&echo["params"]["params"], &echo["params"]["name"]), (&json!("5"), &json!("ö한🦀")));
        let posted = http.post(&path, &json!({ "deep": { "ö": [1, null, "글"] } })).reply();
        assert_eq!(posted[payload]["params"]["deep"], json!({ "ö": [1, null, "글"] }));
        // The course's own gateway loses forms.
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let posted = http.request("POST", &path, &form, b"name=Kim&colour=red").reply();
        assert_eq!(
            (&posted[payload]["params"]["name"], &posted[payload]["params"]["colour"]),
            (&json!("Kim"), &json!("red"))
        );

        // It bears a ¶ that is not raw. (It could not echo it: its own are.)
        let failed = http.get(&format!("{path}?fail=1&%C2%B6=a%C2%B6b"));
        assert_eq!((failed.status, &failed.reply()[errorcode]), (200, &json!(1)));
        assert_eq!(failed.reply()["errormessage"], json!({ "message": "failed" }));
        assert_eq!(http.get(&format!("{path}?nokey=1")).reply()[payload]["params"]["nokey"], "1");
        let unhandled = http.patch(&format!("{path}/1"), &json!({ "name": "Kim" }));
        assert_eq!((unhandled.status, &unhandled.reply()["errorcode"]), (501, &json!(501)));
        assert_alive(&mut service);
    }
}

#[test]
fn a_course_service_lives_through_two_hundred_requests_at_once() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let services = DIALECTS.map(|(dialect, ..)| {
        let urls = format!("GET/{dialect}");
        course_js(&[
            "service",
            &port_of(&distributor),
            "--dialect",
            dialect,
            "--name",
            dialect,
            "--urls",
            &urls,
        ])
    });
    let [Some(template), Some(book)] = services else { return };
    for ((dialect, payload, _), mut service) in DIALECTS.into_iter().zip([template, book]) {
        await_instances(&gateway, "GET", &format!("/{dialect}"), 1);
        // Each client has sent its request before the first reads its answer.
        let mut clients: Vec<_> = (0..200).map(|_| gateway.http().connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send_request("GET", &format!("/{dialect}/{number}"), &[], b"");
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.receive().unwrap();
            assert_eq!(answer.reply()[payload]["params"]["params"], number.to_string(), "{}", answer.text());
        }
        assert_alive(&mut service);
        assert_eq!(links(&gateway, service.port()), 1);
    }
}

#[test]
fn a_course_service_lives_through_packets_over_64_kib() {
    let distributor = Process::distributor(&[]);
    // It bears a packet that comes in pieces, but not one after it.
    let Some(mut service) = course_js(&["service", &port_of(&distributor), "--merge"]) else { return };
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "POST", "/goods", 1);
    let text = "x".repeat(300_000);
    for round in 1..=3 {
        let answer = gateway.http().post("/goods", &json!({ "text": text, "round": round }));
        assert_eq!((answer.status, &answer.results()["params"]["round"]), (200, &json!(round)));
        assert_eq!(answer.results()["params"]["text"], text);
        eventually("it has a new link", || (links(&gateway, service.port()) == round + 1).then_some(()));
        assert_eq!(gateway.http().get("/goods?name=Kim").results()["params"]["name"], "Kim");
    }
    assert_alive(&mut service);
}

#[test]
fn a_course_service_lives_through_long_packets_among_many_short_ones() {
    let distributor = Process::distributor(&[]);
    let Some(mut service) = course_js(&["service", &port_of(&distributor), "--merge"]) else { return };
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "POST", "/goods", 1);
    let long = json!({ "text": "x".repeat(300_000) }).to_string().into_bytes();
    for _ in 0..20 {
        let long = ask(&gateway, "POST", "/goods", &long);
        let short: Vec<_> = (0..8).map(|_| ask(&gateway, "GET", "/goods?name=Kim", b"")).collect();
        for answer in std::iter::once(long).chain(short) {
            let answer = answer.join().unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    assert_alive(&mut service);
}

#[test]
fn course_gates_work_in_front_of_our_users() {
    let system = System::on(Scratch::in_memory(), Process::distributor(&[]), 1, &[]);
    let first = system.create_user("kim@example.com", "Kim ¶");
    create_many_users(&system.users[0]);
    let heard = || system.users[0].log().iter().filter(|line| line.contains("list of 3 nodes")).count();
    for (dialect, ..) in DIALECTS {
        let before = heard();
        let arguments = ["gate", &port_of(&system.distributor), "--dialect", dialect];
        let Some(mut gate) = course_js(&arguments) else { return };
        let http = gate.http();
        let reply = eventually("the course gate knows users", || {
            Some(http.get("/users?id=1")).filter(|answer| answer.status == 200).map(|answer| answer.reply())
        });
        assert_eq!((&reply["errorcode"], &reply["results"]), (&json!(0), &first));
        let email = format!("{dialect}@example.com");
        let created = http.post("/users", &json!({ "email": email, "name": "ö한🦀" }));
        assert_eq!((created.status, &created.reply()["errorcode"]), (200, &json!(0)), "{}", created.text());
        assert_eq!(
            (&created.results()["email"], &created.results()["name"]),
            (&json!(email), &json!("ö한🦀"))
        );
        assert_eq!(http.post("/users", &json!({ "email": email, "name": "x" })).reply()["errorcode"], 409);
        assert_eq!(http.post("/users", &json!({ "name": "x" })).reply()["errorcode"], 400);
        let id = created.results()["id"].to_string();
        assert_eq!(http.delete(&format!("/users?id={id}")).reply()["errorcode"], 0);
        assert_eq!(http.get(&format!("/users?id={id}")).reply()["errorcode"], 404);

        // It would die of a reply that comes in pieces. Until users has heard of it, it would be sent one.
        eventually("users has heard of this course gate", || (heard() > before).then_some(()));
        let refused = http.get("/users?limit=500").reply();
        assert!(refused["errormessage"].as_str().unwrap().contains("ask for less"), "{refused}");
        assert_eq!(http.get("/users?limit=100").results().as_array().unwrap().len(), 100);
        assert_eq!(system.http().get("/users?limit=500").results().as_array().unwrap().len(), 500);
        let mut clients: Vec<_> = (0..50).map(|_| http.connect()).collect();
        for client in &mut clients {
            client.send_request("GET", "/users?id=1", &[], b"");
        }
        for client in &mut clients {
            assert_eq!(client.receive().unwrap().results(), first);
        }
        assert_alive(&mut gate);
    }
}

#[test]
fn our_gateway_and_users_work_with_a_course_distributor() {
    for flags in [["distributor"].as_slice(), &["distributor", "--fragile"]] {
        let Some(distributor) = course_js(flags) else { return };
        let mut system = System::on(Scratch::in_memory(), distributor, 2, &[]);
        let user = system.create_user("kim@example.com", "Kim ¶");
        let http = system.http();
        assert_eq!(http.get("/users/1").results(), user);
        assert_eq!(http.patch("/users/1", &json!({ "name": "Lee", "password": "hunter22" })).status, 200);
        assert_eq!(http.get("/users?email=kim@example.com").results()[0]["name"], "Lee");
        let login = http.post("/users/login", &json!({ "email": "kim@example.com", "password": "hunter22" }));
        assert_eq!(login.status, 200, "{}", login.text());
        assert_eq!(http.post("/users", &json!({ "email": "x" })).status, 400);
        assert_eq!(http.get("/users/99").status, 404);

        let _late = Echo::course(&system.distributor, "late", &["GET/late"], Asked::echo);
        await_instances(&system.gateway, "GET", "/late", 1);
        assert!(system.users.remove(0).stop().success());
        system.await_instances("GET", "/users", 1);
        assert_eq!(system.http().delete("/users/1").status, 200);
        assert_alive(&mut system.distributor);
        // Without it, everything goes on.
        let System { gateway, users: _users, distributor, scratch: _scratch } = system;
        distributor.kill();
        gateway.await_log(&["distributor", "trying again"]);
        assert_eq!(gateway.http().get("/users").status, 200);
    }
}

/// The stories above mean something only if the one who plays dies of what it should die of.
#[test]
fn what_kills_a_course_node_is_known() {
    let Some(mut fragile) = course_js(&["distributor", "--fragile"]) else { return };
    drop(fragile.packets());
    eventually("a visitor without a word has killed it", || (!fragile.is_alive()).then_some(()));

    let ours = Process::distributor(&[]);
    let port = port_of(&ours);
    let sent = |pieces: &[&[u8]], flags: &[&str]| {
        let service = course_js(&[&["service", &port], flags].concat()).unwrap();
        let mut packets = service.packets();
        for (at, piece) in pieces.iter().enumerate() {
            assert!(at == 0 || packets.receive().is_some(), "it answers what came before");
            packets.send_raw(piece);
        }
        (service, packets)
    };
    let good = "{\"uri\":\"/goods\",\"method\":\"GET\",\"key\":1,\"params\":{}}¶".as_bytes();
    let long = format!(
        "{{\"uri\":\"/goods\",\"method\":\"GET\",\"key\":1,\"params\":{{\"a\":\"{}\"}}}}¶",
        "x".repeat(300_000)
    );
    let deadly: [(&[&[u8]], &[&str]); 6] = [
        (&[b"{\"uri\":\"/goods\","], &[]),
        (&["¶".as_bytes()], &[]),
        (&["{\"uri\":\"a¶b\"}¶".as_bytes()], &[]),
        (&["{\"uri\":\"/goods\",\"method\":\"GET\",\"params\":{}}¶".as_bytes()], &[]),
        (&[long.as_bytes()], &[]),
        (&[long.as_bytes(), good], &["--merge"]),
    ];
    for (pieces, flags) in deadly {
        let (mut service, _packets) = sent(pieces, flags);
        eventually("it has died", || (!service.is_alive()).then_some(()));
    }
    let (mut service, mut packets) = sent(&[good, &[good, good].concat()], &[]);
    assert!(packets.receive().is_some() && packets.receive().is_some());
    assert_alive(&mut service);
}
