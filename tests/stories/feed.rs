//! The change feed of `users`: its content, its readers, and the guarantee that each reader gets all changes once and
//! in order.
//!
//! | file | tests |
//! | --- | --- |
//! | [`changes`] | the form of a change as an event, in a page and in a packet; rejected requests |
//! | [`resume`] | resuming after a number, without gaps or duplicates |
//! | [`packets`] | streams by raw packets |
//! | [`processes`] | several users processes on one database, and the end of any process |
//! | [`limits`] | clients that disconnect, that do not read, and one too many |
//! | [`reading`] | reads that know which change they reflect; entity tags |

mod changes;
mod limits;
mod packets;
mod processes;
mod reading;
mod resume;

use serde_json::{Value, json};

use crate::harness::{Events, Http, Packets};

/// Subscribes to the changes through the gateway.
fn follow(http: &Http, query: &str) -> Events {
    let path = format!("/users/changes{query}");
    http.events(&path, &[]).unwrap_or_else(|refused| panic!("{path}: {} {}", refused.status, refused.text()))
}

/// Requests the changes as a stream with this key.
fn subscribe(packets: &mut Packets, key: &Value, after: Option<u64>) {
    let params = after.map_or_else(|| json!({}), |after| json!({ "after": after }));
    packets.send(&json!({ "uri": "/users/changes", "method": "GET", "key": key, "params": params }));
}

/// Subscribes to the changes from now on, and waits until the stream is confirmed. Returns the number after which it
/// continues.
fn subscribe_from_now_on(packets: &mut Packets, key: u64) -> u64 {
    subscribe(packets, &json!(key), None);
    let standing = packets.receive().unwrap();
    assert_eq!((&standing["key"], &standing["more"]), (&json!(key), &json!(true)), "{standing}");
    standing["seq"].as_u64().unwrap()
}

/// The next change of a stream. Its reply must belong to the stream with this key.
fn next_change(packets: &mut Packets, key: u64) -> Value {
    loop {
        let reply = packets.receive().expect("a reply before the connection ends");
        let expected = (&json!(key), &json!(0), &json!(true));
        assert_eq!((&reply["key"], &reply["errorcode"], &reply["more"]), expected, "{reply}");
        if let Some(change) = reply.get("results") {
            assert_eq!(reply["seq"], change["seq"], "{reply}");
            return change.clone();
        }
    }
}

/// Creates a user through the gateway. Returns the number of the change.
fn create(http: &Http, name: &str) -> u64 {
    let answer = http.post("/users", &json!({ "email": format!("{name}@example.com"), "name": name }));
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.reply()["seq"].as_u64().unwrap()
}

/// Creates a user at exactly this instance. Returns the number of the change.
fn create_at(packets: &mut Packets, name: &str) -> u64 {
    let params = json!({ "email": format!("{name}@example.com"), "name": name });
    let reply = packets.call("POST", "/users", &params, 1);
    assert_eq!(reply["errorcode"], 0, "{reply}");
    reply["seq"].as_u64().unwrap()
}

/// Creates users 1 to `count` at exactly this instance.
fn create_many(packets: &mut Packets, count: u64) {
    let user = |id: u64| json!({ "email": format!("{id}@example.com"), "name": id.to_string() });
    let requests: Vec<_> = (1..=count).map(|id| ("POST", "/users", user(id))).collect();
    all_succeed(&packets.call_all(&requests));
}

/// This many changes of one user, as fast as the instance accepts them, each of maximum length.
fn rename_often(packets: &mut Packets, count: u64) {
    let email = format!("{}@{}.{}", "e".repeat(40), "f".repeat(60), "g".repeat(60));
    let user = packets.call("GET", "/users", &json!({ "email": email }), 1)["results"][0].clone();
    let (id, count) = if let Some(id) = user["id"].as_u64() {
        (id, count)
    } else {
        let created = packets.call("POST", "/users", &json!({ "email": email, "name": "Kim" }), 1);
        (created["results"]["id"].as_u64().unwrap(), count - 1)
    };
    let name = |number: u64| format!("{number:06}{}", "🦀".repeat(94));
    let requests: Vec<_> =
        (1..=count).map(|number| ("PATCH", "/users", json!({ "id": id, "name": name(number) }))).collect();
    all_succeed(&packets.call_all(&requests));
}

fn all_succeed(replies: &[Value]) {
    for reply in replies {
        assert_eq!(reply["errorcode"], 0, "{reply}");
    }
}

/// All changes, read page by page.
fn all_changes(http: &Http) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), json!(0));
    while !after.is_null() {
        let page = http.get(&format!("/users/changes?limit=500&after={after}"));
        assert_eq!(page.status, 200, "{}", page.text());
        all.extend(page.results().as_array().unwrap().iter().cloned());
        after = page.reply()["next"].clone();
    }
    all
}

fn seqs(changes: &[Value]) -> Vec<u64> {
    changes.iter().map(|change| change["seq"].as_u64().unwrap()).collect()
}
