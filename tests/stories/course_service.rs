//! A service of ours with clients from the course, which number their requests from 0.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pilcrow::service::{Reply, Request, Running, Service};
use serde_json::{Value, json};

use crate::course::{DIALECTS, course_js, port_of};
use crate::harness::{Echo, Packets, Process, ReceivedRequest, System, eventually};
use crate::mesh::serve;

/// The four forms in which course programs write key 0.
const KEY_0: [&str; 4] = [
    r#"{"uri":"/users","method":"METHOD","key":0,"params":PARAMS}"#,
    r#"{"uri":"/users","method":"METHOD","params":{"key":0,PARAMS}}"#,
    r#"{"uri":"/users","method":"METHOD","key":0,"params":{"key":0,PARAMS}}"#,
    r#"{"key":0,"uri":"/users","method":"METHOD","params":PARAMS}"#,
];

/// A request in one of the forms of [`KEY_0`].
fn request(form: &str, method: &str, params: &Value) -> String {
    let params = params.to_string();
    let members = params.trim_start_matches('{').trim_end_matches('}');
    let filled =
        form.replace("METHOD", method).replace("{\"key\":0,PARAMS}", &format!("{{\"key\":0,{members}}}"));
    filled.replace("PARAMS", &params)
}

fn send(packets: &mut Packets, text: &str) {
    packets.send_raw(format!("{text}¶").as_bytes());
}

/// Asserts that no packet is pending: the next one is the reply to a request sent now.
fn expect_nothing_more(packets: &mut Packets) {
    send(packets, r#"{"uri":"/none","method":"GET","key":1000}"#);
    assert_eq!(packets.receive().unwrap()["key"], 1000);
}

#[test]
fn a_request_with_key_0_is_answered_exactly_once() {
    let system = System::start();
    system.create_user("kim@example.com", "Kim");
    let mut packets = system.users[0].packets();
    for form in KEY_0 {
        send(&mut packets, &request(form, "GET", &json!({ "id": "1" })));
        let reply = packets.receive().unwrap();
        assert_eq!((&reply["key"], &reply["errorcode"]), (&json!(0), &json!(0)), "{form}: {reply}");
        assert_eq!(reply["results"]["name"], "Kim", "{form}");
        expect_nothing_more(&mut packets);
    }
    // A packet that a service of the largest course application sends to another.
    send(
        &mut packets,
        r#"{"uri":"/users","method":"GET","key":0,"params":{"port":"3003","name":"connection"}}"#,
    );
    let reply = packets.receive().unwrap();
    assert_eq!((&reply["key"], &reply["errorcode"]), (&json!(0), &json!(400)), "{reply}");
    // A route that does not exist.
    send(&mut packets, r#"{"uri":"/nothing","method":"GET","key":0,"params":{}}"#);
    let reply = packets.receive().unwrap();
    assert_eq!((&reply["key"], &reply["errorcode"]), (&json!(0), &json!(404)), "{reply}");
    expect_nothing_more(&mut packets);
}

#[test]
fn a_write_with_key_0_is_carried_out_once_and_answered_once() {
    let system = System::start();
    let mut packets = system.users[0].packets();
    for (id, form) in (1..).zip(KEY_0) {
        let user = json!({ "email": format!("u{id}@example.com"), "name": "Kim" });
        send(&mut packets, &request(form, "POST", &user));
        let reply = packets.receive().unwrap();
        assert_eq!((&reply["key"], &reply["status"]), (&json!(0), &json!(201)), "{form}: {reply}");
        assert_eq!(reply["results"]["id"], id);
        expect_nothing_more(&mut packets);
        // A client without an answer would retry.
        send(&mut packets, &request(form, "POST", &user));
        let reply = packets.receive().unwrap();
        assert_eq!((&reply["key"], &reply["errorcode"]), (&json!(0), &json!(409)), "{form}: {reply}");
    }
    assert_eq!(system.http().get("/users").results().as_array().unwrap().len(), KEY_0.len());
}

#[test]
fn two_requests_with_key_0_in_one_piece_get_two_replies() {
    let system = System::start();
    let mut packets = system.users[0].packets();
    let one = request(KEY_0[0], "GET", &json!({ "id": "1" }));
    packets.send_raw(format!("{one}¶{one}¶").as_bytes());
    for _ in 0..2 {
        let reply = packets.receive().unwrap();
        assert_eq!((&reply["key"], &reply["errorcode"]), (&json!(0), &json!(404)), "{reply}");
    }
    expect_nothing_more(&mut packets);
}

#[test]
fn requests_with_key_0_stand_in_the_access_log_and_in_the_metrics() {
    let system = System::start();
    let users = &system.users[0];
    let mut packets = users.packets();
    let mut bytes = Vec::new();
    for form in KEY_0 {
        send(&mut packets, &request(form, "GET", &json!({ "id": "99" })));
        bytes.push(packets.receive_text().unwrap().len() + "¶".len());
    }
    let counted = |errorcode: &str| {
        let labels = [("method", "GET"), ("route", "/users"), ("errorcode", errorcode)];
        users.metrics().find("pilcrow_service_requests_total", &labels)
    };
    eventually("all of them are counted", || (counted("404") == Some(4.0)).then_some(()));
    let lines = eventually("all of them are in the log", || {
        let lines = users
            .log()
            .into_iter()
            .filter(|line| line.contains(" ACCESS ") && line.contains("errorcode=404"));
        Some(lines.collect::<Vec<_>>()).filter(|lines| lines.len() == KEY_0.len())
    });
    for (line, bytes) in lines.iter().zip(bytes) {
        assert!(line.contains(&format!(" bytes={bytes} ")), "{bytes}: {line}");
    }
}

/// A service that answers both methods of `/logs`, and counts how often it ran.
fn log_service(distributor: &Process) -> (Running, Arc<AtomicUsize>) {
    let ran = Arc::new(AtomicUsize::new(0));
    let count = {
        let ran = ran.clone();
        move |_: &Request| Reply::ok(ran.fetch_add(1, Ordering::SeqCst) + 1)
    };
    let service = Service::new("logs", 0).route("POST", "/logs", count.clone()).route("GET", "/logs", count);
    (serve(service, distributor), ran)
}

#[test]
fn a_log_line_is_a_notice_by_its_route_and_gets_no_reply_unless_somebody_waits_under_a_key() {
    let distributor = Process::distributor(&[]);
    let (logs, ran) = log_service(&distributor);
    let mut packets = Packets::to(logs.address());
    for notice in [
        r#"{"uri":"/logs","method":"POST","key":0,"params":"a line"}"#,
        r#"{"uri":"/logs","method":"POST","params":"a line"}"#,
        r#"{"uri":"/logs","method":"POST","params":{"key":0}}"#,
        r#"{"uri":"/distributes","method":"POST","key":0,"params":{}}"#,
        r#"{"uri":"/distributes","method":"GET","key":0,"params":[]}"#,
    ] {
        send(&mut packets, notice);
        expect_nothing_more(&mut packets);
    }
    assert_eq!(ran.load(Ordering::SeqCst), 3, "each log line was handled");
    for (request, key) in [
        (r#"{"uri":"/logs","method":"POST","key":7,"params":"a line"}"#, 7),
        (r#"{"uri":"/logs","method":"GET","key":0,"params":{}}"#, 0),
    ] {
        send(&mut packets, request);
        let reply = packets.receive().unwrap();
        assert_eq!((&reply["key"], &reply["errorcode"]), (&json!(key), &json!(0)), "{reply}");
    }
}

#[test]
fn a_course_gateway_that_counts_from_0_gets_its_first_request_answered() {
    for (dialect, ..) in DIALECTS {
        let system = System::start();
        let arguments = ["gate", &port_of(&system.distributor), "--dialect", dialect];
        let Some(mut gate) = course_js(&arguments) else { return };
        // It answers 404 itself, and assigns no key, until it has linked users.
        let http = gate.http();
        let created = eventually("the course gateway knows users", || {
            let user = json!({ "email": "kim@example.com", "name": "Kim" });
            Some(http.post("/users", &user)).filter(|answer| answer.status == 200)
        });
        let reply = created.reply();
        assert_eq!((&reply["key"], &reply["status"]), (&json!(0), &json!(201)), "{dialect}: {reply}");
        let second = http.get("/users?id=1").reply();
        assert_eq!((&second["key"], &second["results"]["name"]), (&json!(1), &json!("Kim")), "{dialect}");
        assert_eq!(system.http().get("/users").results().as_array().unwrap().len(), 1);
        assert!(gate.is_alive());
    }
}

#[test]
fn a_course_service_that_calls_ours_gets_no_reply_over_64_kib() {
    let distributor = Process::distributor(&[]);
    let long = |_: &Request| Reply::ok("x".repeat(100_000));
    let ours = serve(Service::new("ours", 0).route("GET", "/long", long), &distributor);
    let mut packets = Packets::to(ours.address());
    let mut ask = || {
        send(&mut packets, r#"{"uri":"/long","method":"GET","key":0,"params":{}}"#);
        packets.receive().unwrap()
    };
    assert_eq!(ask()["errorcode"], 0, "no course node is registered");
    let _course = Echo::course(&distributor, "goods", &["GET/goods"], ReceivedRequest::echo);
    let refused = eventually("our gateway knows the course service", || {
        Some(ask()).filter(|reply| reply["errorcode"] != 0)
    });
    assert!(refused["errormessage"].as_str().unwrap().contains("ask for less"), "{refused}");
}
