//! The change feed of the small system.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{ALL_SMALL, Kinds, Real, Small, Trio};
use crate::harness::{Connection, Packets, eventually};

/// Asks for all changes after this number.
fn follow(packets: &mut Packets, after: u64) {
    packets.send(&json!({ "uri": "/users/changes", "method": "GET", "key": 5, "deadline_ms": 5000,
                          "params": { "after": after } }));
}

/// The next change of a stream, without its empty replies.
fn next_change(packets: &mut Packets) -> Value {
    loop {
        let reply = packets.receive().expect("a change before the connection ends");
        assert_eq!((&reply["key"], &reply["more"]), (&json!(5), &json!(true)), "{reply}");
        if let Some(change) = reply.get("results") {
            assert_eq!(reply["seq"], change["seq"]);
            return change.clone();
        }
    }
}

#[test]
fn a_change_through_one_instance_reaches_a_follower_at_the_other_whichever_is_small() {
    for (first, second) in [(Small, Small), (Small, Real), (Real, Small)] {
        let system = Trio::start(ALL_SMALL, &[first, second]);
        let mut follower = system.users[1].packets();
        follow(&mut follower, 0);
        let mut writer = system.users[0].packets();
        for number in 1..=300_u64 {
            let params = json!({ "email": format!("{number}@example.com"), "name": "Kim" });
            assert_eq!(writer.call("POST", "/users", &params, number)["errorcode"], 0);
        }
        assert_eq!(writer.call("DELETE", "/users", &json!({ "id": 7 }), 301)["errorcode"], 0);
        let changes: Vec<Value> = (0..301).map(|_| next_change(&mut follower)).collect();
        let seqs: Vec<u64> = changes.iter().map(|change| change["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=301).collect::<Vec<_>>(), "{first:?} writes, {second:?} is followed");
        assert_eq!(changes[0]["user"]["email"], "1@example.com");
        assert_eq!((&changes[300]["kind"], &changes[300]["user"]), (&json!("deleted"), &Value::Null));

        // A late follower gets the old changes, and then the new ones.
        let mut late = system.users[1].packets();
        follow(&mut late, 299);
        assert_eq!(next_change(&mut late)["seq"], 300);
        assert_eq!(next_change(&mut late)["seq"], 301);
        assert_eq!(writer.call("DELETE", "/users", &json!({ "id": 8 }), 302)["errorcode"], 0);
        assert_eq!(
            (next_change(&mut late)["seq"].clone(), next_change(&mut follower)["seq"].clone()),
            (json!(302), json!(302))
        );
    }
}

#[test]
fn two_writers_on_one_file_leave_no_gap_in_the_feed() {
    let system = Trio::start(ALL_SMALL, &[Small, Real]);
    let mut follower = system.users[0].packets();
    follow(&mut follower, 0);
    std::thread::scope(|scope| {
        for (name, users) in [("a", &system.users[0]), ("b", &system.users[1])] {
            let mut packets = users.packets();
            scope.spawn(move || {
                for number in 1..=100_u64 {
                    let params = json!({ "email": format!("{name}{number}@example.com"), "name": "Kim" });
                    let reply = packets.call("POST", "/users", &params, number);
                    assert_eq!(reply["errorcode"], 0, "{reply}");
                }
            });
        }
        let changes: Vec<Value> = (0..200).map(|_| next_change(&mut follower)).collect();
        assert!(changes.iter().zip(1..).all(|(change, seq)| change["seq"] == seq));
        let emails: BTreeSet<&str> =
            changes.iter().map(|change| change["user"]["email"].as_str().unwrap()).collect();
        assert_eq!(emails.len(), 200);
    });
}

#[test]
fn a_cancelled_stream_sends_no_more() {
    let system = Trio::start(ALL_SMALL, &[Small]);
    let mut packets = system.users[0].packets();
    follow(&mut packets, 0);
    system.create("kim@example.com");
    assert_eq!(next_change(&mut packets)["seq"], 1);
    packets.send(&json!({ "uri": "/users/changes", "method": "CANCEL", "key": 5 }));
    // Its own reply comes after everything that the stream has sent.
    packets.call("GET", "/users", &json!({}), 6);
    system.create("lee@example.com");
    let reply = packets.call("GET", "/users", &json!({ "id": 2 }), 7);
    assert_eq!(reply["results"]["email"], "lee@example.com");
    packets.send(&json!({ "uri": "/users", "method": "GET", "key": 8, "params": {} }));
    assert_eq!(packets.receive().unwrap()["key"], 8, "nothing of the stream in between");
}

/// The `data` of the next event of a stream, which may be sent in chunks.
fn next_event(client: &mut Connection) -> Value {
    loop {
        let line = client.receive_line().expect("an event before the connection ends");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[test]
fn a_browser_follows_the_changes_through_each_combination_of_gateway_and_users() {
    for (users, gateway) in [(Small, Small), (Small, Real), (Real, Small)] {
        let system = Trio::start(Kinds { distributor: Small, gateway }, &[users]);
        system.create("1@example.com");
        let mut client = system.http().connect();
        client.send_request("GET", "/users/changes?after=0", &[("Accept", "text/event-stream")], b"");
        let head = client.receive().unwrap();
        assert_eq!((head.status, head.header("Content-Type")), (200, Some("text/event-stream")));
        assert_eq!(next_event(&mut client)["seq"], 1);
        system.create("2@example.com");
        assert_eq!(next_event(&mut client)["user"]["email"], "2@example.com");

        let mut again = system.http().connect();
        let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", "1")];
        again.send_request("GET", "/users/changes", &headers, b"");
        again.receive().unwrap();
        assert_eq!(next_event(&mut again)["seq"], 2, "it continues after the last event");
    }
}

#[test]
fn a_stream_of_the_small_gateway_ends_with_its_service() {
    let mut system = Trio::start(ALL_SMALL, &[Small]);
    let mut client = system.http().connect();
    client.send_request("GET", "/users/changes", &[("Accept", "text/event-stream")], b"");
    assert_eq!(client.receive().unwrap().status, 200);
    system.users.remove(0).kill();
    let mut last = String::new();
    eventually("the end of the answer", || {
        let line = client.receive_line().expect("the last chunk before the connection ends");
        last = line.trim().to_owned();
        (last == "0").then_some(())
    });
}
