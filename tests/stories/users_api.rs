//! The users service: every row of its table, and its guarantees beyond the table.

mod database;
mod input;
mod login;
mod promises;
#[cfg(unix)]
mod secrets;
mod table;
mod texts;

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{Http, Packets, Response};

const PASSWORD: &str = "correct horse battery staple";

fn create(http: &Http, email: &str, name: &str, password: Option<&str>) -> Value {
    let mut body = json!({ "email": email, "name": name });
    if let Some(password) = password {
        body["password"] = json!(password);
    }
    let answer = http.post("/users", &body);
    assert_eq!(answer.status, 201, "{body}: {}", answer.text());
    answer.results()
}

fn log_in(http: &Http, email: &str, password: &str) -> Response {
    http.post("/users/login", &json!({ "email": email, "password": password }))
}

/// Creates users 1 to `count`, all in parallel.
fn create_many(packets: &mut Packets, count: u64) {
    for key in 1..=count {
        let params = json!({ "email": format!("{key}@example.com"), "name": "Kim" });
        packets.send(&json!({ "uri": "/users", "method": "POST", "key": key, "params": params }));
    }
    for _ in 1..=count {
        let reply = packets.receive().unwrap();
        assert_eq!(reply["errorcode"], 0, "{reply}");
    }
}

/// The ids on one page of the list, and its `next`.
fn page(http: &Http, path: &str) -> (Vec<u64>, Value) {
    let answer = http.get(path);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ids = answer.results().as_array().unwrap().iter().map(|user| user["id"].as_u64().unwrap()).collect();
    (ids, answer.reply()["next"].clone())
}

/// All users, read page by page from one instance.
fn list_all(packets: &mut Packets) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), json!(0));
    while after != Value::Null {
        let reply = packets.call("GET", "/users", &json!({ "limit": 500, "after": after }), 1);
        all.extend(reply["results"].as_array().unwrap().iter().cloned());
        after = reply["next"].clone();
    }
    all
}

/// Every byte in percent-encoding.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |codes, byte| codes + &format!("%{byte:02X}"))
}

/// Seconds since 1970 of an RFC 3339 date in UTC. Panics if it is another text.
fn moment(date: &Value) -> i64 {
    let text = date.as_str().unwrap();
    assert!(text.len() >= 20 && text.ends_with('Z') && &text[10..11] == "T", "{text}");
    let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    // Days since 1 March of the year 0, whose leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    ((days * 24 + number(11..13)) * 60 + number(14..16)) * 60 + number(17..19)
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}
