//! The form of a change, and the replies to requests for changes that do not exist.

use serde_json::{Value, json};

use super::{all_changes, create, create_many, follow, next_change, seqs, subscribe, subscribe_from_now_on};
use crate::harness::{Piece, System};

#[test]
fn each_create_update_and_delete_is_an_event_with_its_seq() {
    let system = System::start();
    let http = system.http();
    let mut events = follow(&http, "?after=0");
    let created = http.post("/users", &json!({ "email": "kim@example.com", "name": "Kim ¶ 한글 🦀\nö" }));
    let updated = http.patch("/users/1", &json!({ "name": "Lee" }));
    let deleted = http.delete("/users/1");
    let expected = [
        (1, "created", created.results(), created),
        (2, "updated", updated.results(), updated),
        (3, "deleted", Value::Null, deleted),
    ];
    for (seq, kind, user, answer) in expected {
        assert_eq!(answer.reply()["seq"], seq, "the answer to a write has its number");
        let event = events.event().unwrap();
        let change: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!((event.name, event.id), (None, Some(seq)));
        let fields: Vec<&String> = change.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["at", "kind", "seq", "user", "user_id"]);
        assert_eq!(
            (&change["seq"], &change["kind"], &change["user_id"], &change["user"]),
            (&json!(seq), &json!(kind), &json!(1), &user)
        );
        assert!(change["at"].as_str().unwrap().ends_with('Z'), "{change}");
    }
}

#[test]
fn a_rejected_write_is_not_a_change() {
    let system = System::start();
    let http = system.http();
    let mut events = follow(&http, "?after=0");
    create(&http, "kim");
    let refused = [
        http.post("/users", &json!({ "email": "KIM@example.com", "name": "Kim" })),
        http.post("/users", &json!({ "email": "no address", "name": "Kim" })),
        http.patch("/users/2", &json!({ "name": "Kim" })),
        http.delete("/users/2"),
    ];
    assert_eq!(refused.map(|answer| answer.status), [409, 400, 404, 404]);
    create(&http, "lee");
    assert_eq!(seqs(&events.changes(2)), [1, 2], "numbers have no gaps");
}

#[test]
fn no_change_shows_a_password_or_its_hash() {
    let system = System::start();
    let http = system.http();
    let mut packets = system.users[0].packets();
    subscribe_from_now_on(&mut packets, 1);
    let mut events = follow(&http, "?after=0");
    let secret = "correct horse battery staple";
    http.post("/users", &json!({ "email": "kim@example.com", "name": "Kim", "password": secret }));
    let answer = http.patch("/users/1", &json!({ "password": "another secret of mine" }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let histories =
        [events.changes(2), all_changes(&http), (0..2).map(|_| next_change(&mut packets, 1)).collect()];
    for changes in histories {
        assert_eq!(changes[1]["kind"], "updated", "a new password is a change");
        let fields: Vec<&String> = changes[1]["user"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["created_at", "email", "id", "name", "updated_at"]);
        let text = Value::from(changes).to_string();
        for never in ["password", "secret", "argon2", "staple"] {
            assert!(!text.contains(never), "{never}: {text}");
        }
    }
}

#[test]
fn without_after_only_new_changes_come_after_a_first_comment() {
    let system = System::start();
    let http = system.http();
    let mut old = follow(&http, "?after=0");
    assert!(
        matches!(old.piece(), Some(Piece::Comment(_))),
        "a stream without changes confirms that it is open"
    );
    create(&http, "kim");
    create(&http, "lee");
    assert_eq!(seqs(&old.changes(2)), [1, 2]);
    let mut new = follow(&http, "");
    let Some(Piece::Comment(comment)) = new.piece() else { panic!("no comment") };
    assert!(comment.contains('2'), "the comment names the change after which it continues: {comment}");
    create(&http, "max");
    assert_eq!(seqs(&new.changes(1)), [3]);
}

#[test]
fn the_head_of_a_stream_forbids_caching() {
    let system = System::start();
    let events = system.http().events("/users/changes", &[("X-Request-Id", "mine")]).ok().unwrap();
    for (name, value) in [("Cache-Control", "no-store"), ("Connection", "close"), ("X-Request-Id", "mine")] {
        assert_eq!(events.head.header(name), Some(value));
    }
    assert_eq!(events.head.header("Content-Length"), None);
}

#[test]
fn with_a_limit_the_changes_are_a_plain_list() {
    let system = System::start();
    let http = system.http();
    create_many(&mut system.users[0].packets(), 5);
    let pages = [
        ("?limit=2", vec![1, 2], json!(2)),
        ("?after=2&limit=2", vec![3, 4], json!(4)),
        ("?after=4&limit=2", vec![5], Value::Null),
        ("?after=0&limit=5", (1..=5).collect(), Value::Null),
        ("?after=5&limit=2", vec![], Value::Null),
        ("?after=99&limit=2", vec![], Value::Null),
    ];
    for (query, expected, next) in pages {
        // A client that accepts events still gets a list if it asks for one.
        for accept in ["application/json", "text/event-stream", "*/*"] {
            let answer = http.request("GET", &format!("/users/changes{query}"), &[("Accept", accept)], b"");
            assert_eq!(answer.status, 200, "{query}, {accept}: {}", answer.text());
            assert_eq!(answer.header("Content-Type"), Some("application/json"), "{query}, {accept}");
            let page = answer.reply();
            assert_eq!(seqs(page["results"].as_array().unwrap()), expected, "{query}, {accept}");
            assert_eq!((&page["next"], &page["seq"]), (&next, &json!(5)), "{query}, {accept}: {page}");
            assert_eq!(page.get("more"), None, "{query}, {accept}");
        }
    }
    for limit in ["0", "501", "-1", "many", ""] {
        assert_eq!(http.get(&format!("/users/changes?limit={limit}")).status, 400, "limit={limit}");
    }
}

#[test]
fn a_client_that_accepts_events_still_gets_plain_answers() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim");
    for path in ["/users", "/users/1", "/users?after=7", "/users?after=1&limit=3", "/routes", "/healthz"] {
        let plain = http.get(path);
        let answer = http.events(path, &[]).err().expect("no stream");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.results(), plain.results(), "{path}");
    }
    assert_eq!(http.events("/users/99", &[]).err().unwrap().status, 404);
    assert_eq!(http.events("/nowhere", &[]).err().unwrap().status, 404);
}

#[test]
fn a_read_of_the_feed_without_events_or_limit_gets_a_reason() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim");
    for query in ["", "?after=0", "?after=1"] {
        for accept in ["*/*", "application/json", ""] {
            let answer = http.request("GET", &format!("/users/changes{query}"), &[("Accept", accept)], b"");
            assert_eq!(answer.status, 406, "{query}, {accept}: {}", answer.text());
            let message = answer.message();
            assert!(message.contains("text/event-stream") && message.contains("limit"), "{message}");
        }
    }
    let head = http.request("HEAD", "/users/changes", &[("Accept", "text/event-stream")], b"");
    assert_eq!((head.status, head.body.len()), (406, 0), "the answer to HEAD has no body to stream");
    // A stream without a requester is closed at its source.
    system.users[0].await_log(&["CANCEL /users/changes"]);
}

#[test]
fn the_tiny_http_front_says_that_it_cannot_stream() {
    let system = System::builder().gateway_flags(&["--front", "tiny-http"]).start();
    let http = system.http();
    create(&http, "kim");
    for query in ["", "?after=0"] {
        let answer = http.events(&format!("/users/changes{query}"), &[]).err().expect("no stream");
        assert_eq!(answer.status, 501, "{}", answer.text());
        assert!(answer.message().contains("--front"), "{}", answer.message());
        system.users[0].await_log(&["CANCEL /users/changes"]);
    }
    assert_eq!(seqs(http.get("/users/changes?limit=5").results().as_array().unwrap()), [1]);
    let tag = http.get("/users/1").header("ETag").unwrap().to_owned();
    assert_eq!(http.request("GET", "/users/1", &[("If-None-Match", &tag)], b"").status, 304);
    assert_eq!(http.request("DELETE", "/users/1", &[("If-Match", "\"x\"")], b"").status, 412);
}

#[test]
fn expired_changes_get_410_with_the_oldest_seq() {
    let system = System::builder().users_flags(&["--keep-changes", "10"]).start();
    let http = system.http();
    create_many(&mut system.users[0].packets(), 25);
    for after in [0, 3, 14] {
        let page = http.get(&format!("/users/changes?limit=5&after={after}"));
        let events = http.events(&format!("/users/changes?after={after}"), &[]).err().expect("no stream");
        for answer in [page, events] {
            assert_eq!((answer.status, &answer.reply()["oldest"]), (410, &json!(16)), "{}", answer.text());
            assert!(answer.message().contains("16"), "{}", answer.message());
        }
        let mut packets = system.users[0].packets();
        subscribe(&mut packets, &json!(1), Some(after));
        let reply = packets.receive().unwrap();
        assert_eq!((&reply["errorcode"], &reply["oldest"]), (&json!(410), &json!(16)), "{reply}");
        assert_eq!(reply.get("more"), None, "a rejection ends the stream: {reply}");
    }
    assert_eq!(seqs(&follow(&http, "?after=15").changes(10)), (16..=25).collect::<Vec<_>>());
    let last = http.get("/users/changes?limit=5&after=20");
    assert_eq!(seqs(last.results().as_array().unwrap()), [21, 22, 23, 24, 25]);
}

#[test]
fn a_subscriber_is_notified_when_changes_expire_before_it_reads_them() {
    let system = System::builder().users_flags(&["--keep-changes", "10"]).start();
    let mut subscriber = system.users[0].packets();
    let after = subscribe_from_now_on(&mut subscriber, 1);
    let mut writer = system.users[0].packets();
    // All are sent in one write, so they share a transaction. The same transaction removes the older changes.
    let write = |key: u64| {
        let params = json!({ "email": format!("{key}@example.com"), "name": "Kim" });
        format!("{}¶", json!({ "uri": "/users", "method": "POST", "key": key, "params": params }))
    };
    writer.send_raw((1..=500).map(write).collect::<String>().as_bytes());
    for _ in 1..=500 {
        assert_eq!(writer.receive().unwrap()["errorcode"], 0);
    }
    let mut last = after;
    while last < 500 {
        let reply = subscriber.receive().unwrap();
        if reply["errorcode"] == 410 {
            assert!(reply["oldest"].as_u64().unwrap() > last + 1, "after {last}: {reply}");
            return;
        }
        assert_eq!(reply["seq"], last + 1, "a change is missing without a notice");
        last += 1;
    }
}

#[test]
fn an_after_that_is_not_a_number_gets_400() {
    let system = System::start();
    let http = system.http();
    for after in ["abc", "-1", "1.5", "", "1e3", "99999999999999999999", "1&after=2"] {
        let path = format!("/users/changes?after={after}");
        let answers =
            [http.get(&path), http.get(&format!("{path}&limit=5")), http.events(&path, &[]).err().unwrap()];
        for answer in answers {
            assert_eq!(answer.status, 400, "{path}: {}", answer.text());
            assert!(answer.message().contains("after"), "{path}: {}", answer.message());
        }
    }
    for id in ["abc", "-1", ""] {
        let answer = http.events("/users/changes", &[("Last-Event-ID", id)]).err().unwrap();
        assert_eq!(answer.status, 400, "{id}: {}", answer.text());
    }
    for after in [json!("abc"), json!(-1), json!(1.5), json!(null), json!([1]), json!(true)] {
        let reply = system.users[0].packets().call("GET", "/users/changes", &json!({ "after": after }), 1);
        assert_eq!(reply["errorcode"], 400, "{after}: {reply}");
        assert_eq!(reply.get("more"), None, "{after}: {reply}");
    }
}
