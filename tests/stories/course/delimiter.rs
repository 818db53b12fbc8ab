//! A raw `¶` inside the packets of course nodes, where it is not a delimiter, and a frame that is really bad.

use serde_json::json;

use super::{DIALECTS, assert_alive, await_success, course_js, links, port_of};
use crate::harness::{Process, Scratch, System, await_instances, eventually};

/// Goods whose names have a `¶` at the beginning, in the middle and at the end, beside quotation marks and backslashes.
const NAMES: [&str; 6] = ["사과 ¶ 배", "¶", "¶¶¶", "ö¶", "\"¶\\", "\\\"},¶{\""];

#[test]
fn goods_with_a_raw_delimiter_in_their_name_break_no_list_of_a_course_service() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let http = gateway.http();
    for (dialect, payload, _) in DIALECTS {
        let (path, urls) = (format!("/{dialect}"), format!("GET/{dialect},POST/{dialect},DELETE/{dialect}"));
        let flags = ["--dialect", dialect, "--name", dialect, "--urls", &urls, "--store"];
        let Some(mut service) = course_js(&[&["service", &port_of(&distributor)], &flags[..]].concat())
        else {
            return;
        };
        await_instances(&gateway, "GET", &path, 1);
        for name in NAMES {
            assert_eq!(http.post(&path, &json!({ "name": name, name: "¶" })).status, 200);
        }
        for _ in 0..3 {
            let listed = http.get(&path);
            assert_eq!(listed.status, 200, "{}", listed.text());
            let listed = listed.reply()[payload].clone();
            for (goods, name) in listed.as_array().unwrap().iter().zip(NAMES) {
                assert_eq!((&goods["name"], &goods[name]), (&json!(name), &json!("¶")));
            }
            assert_eq!(listed.as_array().unwrap().len(), NAMES.len());
        }
        // Many lists at once: several frames with a raw ¶ in one read.
        let mut clients: Vec<_> = (0..20).map(|_| http.connect()).collect();
        for client in &mut clients {
            client.send_request("GET", &path, &[], b"");
        }
        for client in &mut clients {
            let answer = client.receive().unwrap();
            assert_eq!(answer.reply()[payload].as_array().unwrap().len(), NAMES.len(), "{}", answer.text());
        }
        assert_eq!(links(&gateway, service.port()), 1, "the link was never lost");
        assert_alive(&mut service);
    }
}

#[test]
fn a_raw_delimiter_from_a_course_gate_reaches_our_users() {
    let system = System::start();
    for (dialect, ..) in DIALECTS {
        let Some(mut gate) = course_js(&["gate", &port_of(&system.distributor), "--dialect", dialect]) else {
            return;
        };
        await_success(&gate, "/users?limit=1");
        for (number, name) in NAMES.into_iter().enumerate() {
            let user = json!({ "email": format!("{dialect}{number}@example.com"), "name": name });
            let created = gate.http().post("/users", &user);
            assert_eq!(
                (created.status, &created.reply()["errorcode"]),
                (200, &json!(0)),
                "{}",
                created.text()
            );
            assert_eq!(created.results()["name"], name);
            let id = created.results()["id"].clone();
            assert_eq!(gate.http().get(&format!("/users?id={id}")).results()["name"], name);
            assert_eq!(system.http().get(&format!("/users/{id}")).results()["name"], name);
        }
        // Its list has all of them. A raw ¶ in the list would kill it.
        let listed = gate.http().get("/users?limit=100").results();
        assert!(listed.as_array().unwrap().len() >= NAMES.len());
        assert_alive(&mut gate);
    }
}

/// Makes the gate send `users` a frame over its limit. The gate never answers the client, which does not wait.
fn send_too_long(gate: &Process, users: &Process) {
    let rejected = || users.metrics().find("pilcrow_frames_rejected_total", &[]).unwrap_or(0.0);
    let before = rejected();
    let body = json!({ "email": "long@example.com", "name": "x".repeat(1_100_000) }).to_string();
    let mut client = gate.http().connect();
    client.send_request("POST", "/users", &[("Content-Type", "application/json")], body.as_bytes());
    eventually("users has rejected the frame", || (rejected() > before).then_some(()));
}

#[test]
fn a_course_gate_whose_frame_was_bad_finds_our_users_again() {
    for ours in [true, false] {
        let distributor = if ours { Some(Process::distributor(&[])) } else { course_js(&["distributor"]) };
        let Some(distributor) = distributor else { return };
        let system = System::builder().scratch(Scratch::in_memory()).distributor(distributor).start();
        for (dialect, ..) in DIALECTS {
            let arguments = ["gate", &port_of(&system.distributor), "--dialect", dialect];
            let Some(mut gate) = course_js(&arguments) else { return };
            await_success(&gate, "/users?limit=1");
            for _ in 0..3 {
                send_too_long(&gate, &system.users[0]);
                await_success(&gate, "/users?limit=1");
            }
            assert_alive(&mut gate);
        }
    }
}
