//! Consistent reads: a state names its last change, a client can reject older states, and two editors cannot silently
//! overwrite each other.

use std::sync::{Arc, Barrier};
use std::thread;

use serde_json::{Value, json};

use super::{create, create_at};
use crate::harness::{Http, Packets, Response, System, eventually};

/// The version of a user in its `ETag`.
fn etag(answer: &Response) -> String {
    answer.header("ETag").unwrap_or_else(|| panic!("no ETag: {:?}", answer.headers)).to_owned()
}

fn patch(http: &Http, headers: &[(&str, &str)], name: &str) -> Response {
    let headers = [&[("Content-Type", "application/json")], headers].concat();
    http.request("PATCH", "/users/1", &headers, json!({ "name": name }).to_string().as_bytes())
}

// ---- seq

#[test]
fn every_answer_has_the_seq_of_its_change() {
    let system = System::start();
    let http = system.http();
    assert_eq!(http.get("/users").reply()["seq"], 0, "no change happened yet");
    assert_eq!((create(&http, "kim"), create(&http, "lee")), (1, 2));
    assert_eq!(http.patch("/users/1", &json!({ "name": "Max" })).reply()["seq"], 3);
    for path in ["/users/1", "/users/2", "/users", "/users?limit=1", "/users?email=kim@example.com"] {
        assert_eq!(http.get(path).reply()["seq"], 3, "{path}");
    }
    assert_eq!(http.delete("/users/1").reply()["seq"], 4);
    assert_eq!(http.get("/users/2").reply()["seq"], 4);
    assert_eq!(http.get("/users").reply()["seq"], 4);
}

#[test]
fn a_list_and_its_seq_are_from_one_moment() {
    const WRITES: u64 = 300;
    let system = System::start();
    let mut packets = system.users[0].packets();
    let writer = thread::spawn(move || {
        for number in 1..=WRITES {
            create_at(&mut packets, &number.to_string());
        }
    });
    let mut reading = system.users[0].packets();
    let mut seq = 0;
    while seq < WRITES {
        let page = reading.call("GET", "/users", &json!({ "limit": 500 }), 1);
        seq = page["seq"].as_u64().unwrap();
        // Every change so far has created one user.
        assert_eq!(page["results"].as_array().unwrap().len() as u64, seq);
    }
    writer.join().unwrap();
}

// ---- at_least

fn at_least(packets: &mut Packets, params: &Value, key: u64, deadline_ms: u64) {
    let request = json!({
        "uri": "/users", "method": "GET", "key": key, "params": params, "deadline_ms": deadline_ms,
    });
    packets.send(&request);
}

#[test]
fn a_state_that_is_reached_already_is_read_at_once() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim");
    create(&http, "lee");
    for (path, seq) in
        [("/users/1?at_least=0", 2), ("/users/1?at_least=2", 2), ("/users?at_least=1&limit=1", 2)]
    {
        let answer = http.get(path);
        assert_eq!((answer.status, &answer.reply()["seq"]), (200, &json!(seq)), "{path}: {}", answer.text());
    }
    for wrong in ["-1", "x", "", "1.5"] {
        let answer = http.get(&format!("/users/1?at_least={wrong}"));
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text());
        assert!(answer.message().contains("at_least"), "{}", answer.message());
    }
    assert_eq!(http.get("/users/99?at_least=1").status, 404);
    // The next read may require the number that a write returned.
    for round in 0..20 {
        let seq = http.patch("/users/1", &json!({ "name": round.to_string() })).reply()["seq"].clone();
        let read = http.get(&format!("/users/1?at_least={seq}"));
        assert_eq!((read.status, &read.results()["name"]), (200, &json!(round.to_string())));
    }
}

#[test]
fn a_read_waits_for_the_change_that_it_must_contain() {
    let system = System::builder().users(2).start();
    create(&system.http(), "kim");
    let mut packets = system.users[0].packets();
    at_least(&mut packets, &json!({ "id": 1, "at_least": 3 }), 1, 60_000);
    at_least(&mut packets, &json!({ "limit": 9, "at_least": 2 }), 2, 60_000);
    at_least(&mut packets, &json!({ "id": 2, "at_least": 2 }), 3, 60_000);
    // Waiting requests delay no other request.
    assert_eq!(packets.call("GET", "/users", &json!({ "id": 1 }), 4)["seq"], 1);
    // The other process makes the change.
    create_at(&mut system.users[1].packets(), "lee");
    let mut two: Vec<Value> = (0..2).map(|_| packets.receive().unwrap()).collect();
    two.sort_by_key(|reply| reply["key"].as_u64());
    assert_eq!(
        (&two[0]["key"], &two[0]["seq"], two[0]["results"].as_array().unwrap().len()),
        (&json!(2), &json!(2), 2)
    );
    assert_eq!(
        (&two[1]["key"], &two[1]["seq"], &two[1]["results"]["name"]),
        (&json!(3), &json!(2), &json!("lee"))
    );
    assert_eq!(packets.call("GET", "/users", &json!({ "id": 1 }), 5)["seq"], 2);
    let renamed = system.users[1].packets().call("PATCH", "/users", &json!({ "id": 1, "name": "Max" }), 1);
    let one = packets.receive().unwrap();
    assert_eq!((&one["key"], &one["seq"], &one["results"]), (&json!(1), &json!(3), &renamed["results"]));
}

#[test]
fn a_read_that_waits_for_a_change_is_rejected_before_its_deadline() {
    let system = System::builder().gateway_flags(&["--timeout", "0.5"]).start();
    let http = system.http();
    create(&http, "kim");
    for path in ["/users/1?at_least=2", "/users?at_least=99"] {
        // On an overloaded machine, the answer may still be late.
        let answer = eventually("the service answers without a timeout", || {
            Some(http.get(path)).filter(|answer| answer.status != 504)
        });
        assert_eq!(answer.status, 503, "{path}: {}", answer.text());
        assert!(answer.message().contains("has not happened yet"), "{}", answer.message());
    }
}

#[test]
fn many_readers_can_wait_for_different_changes() {
    const READERS: u64 = 100;
    let system = System::start();
    let mut packets = system.users[0].packets();
    for key in 1..=READERS {
        at_least(&mut packets, &json!({ "limit": 1, "at_least": key }), key, 60_000);
    }
    let mut writer = system.users[0].packets();
    for seq in 1..=READERS {
        assert_eq!(create_at(&mut writer, &seq.to_string()), seq);
        let reply = packets.receive().unwrap();
        assert_eq!((&reply["key"], &reply["seq"]), (&json!(seq), &json!(seq)), "each as soon as possible");
    }
}

// ---- ETag, If-None-Match, If-Match

#[test]
fn reads_and_writes_of_a_user_have_an_entity_tag_that_changes_with_the_user() {
    let system = System::start();
    let http = system.http();
    let created = http.post("/users", &json!({ "email": "kim@example.com", "name": "Kim" }));
    let first = etag(&created);
    assert!(first.starts_with('"') && first.ends_with('"') && first.len() > 2, "{first}");
    assert_eq!(etag(&http.get("/users/1")), first);
    assert_eq!(etag(&http.request("HEAD", "/users/1", &[], b"")), first);
    create(&http, "lee");
    assert_eq!(etag(&http.get("/users/1")), first, "another user's change does not affect this tag");
    let second = etag(&http.patch("/users/1", &json!({ "name": "Max" })));
    assert_ne!(second, first);
    assert_eq!(etag(&http.get("/users/1")), second);
    let third = etag(&http.patch("/users/1", &json!({ "password": "correct horse battery" })));
    assert_ne!(third, second, "a new password is a new version, though no reader sees it");
    for without in [http.get("/users"), http.get("/users/99"), http.get("/users/changes?limit=5")] {
        assert_eq!(without.header("ETag"), None, "{}", without.text());
    }
}

#[test]
fn a_client_that_has_this_version_gets_304_without_a_body() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim");
    let tag = etag(&http.get("/users/1"));
    let fits = [
        tag.clone(),
        "*".to_owned(),
        format!("\"x\", {tag}"),
        format!("{tag},\"x\""),
        format!("W/{tag}"),
        format!("\"a,b\" , W/{tag} "),
    ];
    for known in &fits {
        for method in ["GET", "HEAD"] {
            let mut connection = http.connect();
            connection.send_request(method, "/users/1", &[("If-None-Match", known)], b"");
            let answer = connection.receive_for(method).unwrap();
            assert_eq!((answer.status, answer.body.len()), (304, 0), "{method} {known}: {}", answer.text());
            assert_eq!(etag(&answer), tag);
            // If there is a length, it is the length of the omitted body.
            assert_ne!(answer.header("Content-Length"), Some("0"));
            assert!(answer.header("X-Request-Id").is_some());
            // The connection stays usable, so the client did not take anything for a body.
            connection.send_request("GET", "/users/1", &[], b"");
            assert_eq!(connection.receive().unwrap().status, 200, "{method} {known}");
        }
    }
    let number = tag.trim_matches('"');
    for other in ["\"x\"", "", number, &format!("\"{number}0\""), "\"*\"", "W/\"x\""] {
        let answer = http.request("GET", "/users/1", &[("If-None-Match", other)], b"");
        assert_eq!((answer.status, &answer.results()["id"]), (200, &json!(1)), "{other}");
    }
    patch(&http, &[], "Lee");
    let answer = http.request("GET", "/users/1", &[("If-None-Match", &tag)], b"");
    assert_eq!((answer.status, &answer.results()["name"]), (200, &json!("Lee")));
    // A user that does not exist has no version.
    assert_eq!(http.request("GET", "/users/99", &[("If-None-Match", "*")], b"").status, 404);
    assert_eq!(http.request("GET", "/users", &[("If-None-Match", "*")], b"").status, 200);
}

#[test]
fn an_edit_of_a_changed_version_gets_412_and_changes_nothing() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim");
    let old = etag(&http.get("/users/1"));
    let new = etag(&patch(&http, &[("If-Match", &old)], "Lee"));
    let stale = [
        old.clone(),
        "\"x\"".to_owned(),
        format!("W/{new}"),
        format!("{old}, \"x\""),
        "\"\"".to_owned(),
        String::new(),
    ];
    for tag in &stale {
        for answer in [
            patch(&http, &[("If-Match", tag)], "Max"),
            http.request("DELETE", "/users/1", &[("If-Match", tag)], b""),
        ] {
            assert_eq!(answer.status, 412, "If-Match: {tag}: {}", answer.text());
            assert!(answer.message().contains("read it again"), "{}", answer.message());
        }
    }
    let now = http.get("/users/1");
    assert_eq!(
        (etag(&now), &now.results()["name"], &now.reply()["seq"]),
        (new.clone(), &json!("Lee"), &json!(2))
    );

    let third = etag(&patch(&http, &[("If-Match", &format!("\"x\", {new}"))], "Max"));
    assert_eq!(patch(&http, &[("If-Match", "*")], "Ada").status, 200);
    assert_eq!(patch(&http, &[("If-Match", &third)], "Bea").status, 412);
    let last = etag(&patch(&http, &[], "Cleo"));
    assert_eq!(http.request("DELETE", "/users/1", &[("If-Match", &last)], b"").status, 200);
    assert_eq!(http.request("DELETE", "/users/1", &[("If-Match", "*")], b"").status, 404);
    assert_eq!(patch(&http, &[("If-Match", &last)], "Dora").status, 404);
}

#[test]
fn exactly_one_of_two_editors_of_the_same_version_succeeds() {
    let system = System::builder().users(2).start();
    let http = system.http();
    create(&http, "kim");
    for round in 0..50 {
        let tag = etag(&http.get("/users/1"));
        let ready = Arc::new(Barrier::new(2));
        let editors: Vec<_> = ["left", "right"]
            .map(|editor| {
                let (tag, ready) = (tag.clone(), ready.clone());
                let name = format!("{editor}-{round}");
                thread::spawn(move || {
                    ready.wait();
                    (patch(&http, &[("If-Match", &tag)], &name), name)
                })
            })
            .into();
        let (done, refused): (Vec<_>, Vec<_>) = editors
            .into_iter()
            .map(|editor| editor.join().unwrap())
            .partition(|(answer, _)| answer.status == 200);
        assert_eq!((done.len(), refused.len()), (1, 1), "round {round}");
        assert_eq!(refused[0].0.status, 412, "{}", refused[0].0.text());
        assert_eq!(http.get("/users/1").results()["name"], json!(done[0].1), "round {round}");
    }
    assert_eq!(http.get("/users").reply()["seq"], 51, "a rejected write is not a change");
}
