//! Stored texts come back unchanged.

use serde_json::json;

use super::{create, encoded};
use crate::harness::System;

/// Texts that a careless program would change, cut, or interpret.
const ODD_TEXTS: [&str; 26] = [
    "a¶b",
    "¶",
    "¶¶{\"uri\":\"/users\",\"method\":\"DELETE\",\"key\":1,\"params\":{\"params\":\"1\"}}¶",
    "\\u00b6",
    "ö Ã¶ Â¶ \u{b6}",
    "👩‍👩‍👧‍👦 👍🏽",
    "홍길동",
    "e\u{301} is not \u{e9}",
    "\u{202e}right to left\u{200f}",
    "\u{feff}\u{2028}\u{2029}\u{200b}",
    "\u{10ffff}\u{e000}\u{fffd}",
    "\"double\" 'single' `back`",
    "back\\slash \\\\ \\\" \\n \\u0041",
    "nul\0inside\0",
    "\0",
    "line\nbreak\ttab\r\nfeed",
    "\u{1}\u{1b}[31m\u{7f}\u{80}",
    "  spaces at both ends  ",
    "Robert'); DROP TABLE users;--",
    "' OR '1'='1",
    "?1 :name $1 @x %s {} %00",
    "{\"errorcode\":500,\"results\":null}",
    "[1,2",
    "null",
    "1e999",
    "<script>alert(1)</script>&amp;",
];

#[test]
fn any_text_in_a_name_comes_back_exactly() {
    let system = System::start();
    let http = system.http();
    let mut packets = system.users[0].packets();
    create(&http, "changing@example.com", "to be changed", None);
    for (id, text) in (2..).zip(ODD_TEXTS) {
        let created = create(&http, &format!("{id}@example.com"), text, None);
        assert_eq!((&created["id"], &created["name"]), (&json!(id), &json!(text)));
        assert_eq!(http.get(&format!("/users/{id}")).results()["name"], text);
        assert_eq!(http.patch("/users/1", &json!({ "name": text })).results()["name"], text);
        assert_eq!(http.get("/users?id=1").results()["name"], text);
        let reply = packets.call("GET", "/users", &json!({ "params": "1" }), id);
        assert_eq!(reply["results"]["name"], text);
        let reply = packets.call("PATCH", "/users", &json!({ "params": "1", "name": text }), id);
        assert_eq!(reply["results"]["name"], text);
    }
    let listed = http.get("/users?limit=500&after=1").results();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap()).collect();
    assert_eq!(names, ODD_TEXTS);
}

#[test]
fn any_email_comes_back_exactly_and_finds_its_user() {
    let system = System::start();
    let http = system.http();
    let emails = [
        "홍길동@example.com",
        "ñandú@example.com",
        "o'neil+tag@example.com",
        "x'or'1'='1@example.com",
        "{json}@example.com",
        "a&b=c?d#e%41/f@example.com",
        "\"quoted local part\"@example.com",
        "\"a\\\"; DROP TABLE users;--\"@example.com",
        "kim@홍길동.example",
    ];
    for (id, email) in (1..).zip(emails) {
        let user = create(&http, email, "Kim", None);
        assert_eq!((&user["id"], &user["email"]), (&json!(id), &json!(email)));
        let found = http.get(&format!("/users?email={}", encoded(email)));
        assert_eq!(found.results(), json!([user]), "{email}");
    }
}
