//! Faults of the surroundings: what becomes of requests when the disk, the database, descriptors, the network or a
//! distributor fail, and when a process is asked to end at the worst moment.

mod database;
mod deaf;
mod descriptors;
mod distributors;
mod ending;
#[cfg(target_os = "linux")]
mod network;

use serde_json::{Value, json};

use crate::harness::{Http, Response};

/// Asks for a user to be created, whatever comes of it.
fn create(http: &Http, email: &str) -> Response {
    http.post("/users", &json!({ "email": email, "name": "Kim" }))
}

/// The e-mails of all users, by their ids.
fn emails(http: &Http) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), json!(0));
    while after != Value::Null {
        let page = http.get(&format!("/users?limit=500&after={after}"));
        assert_eq!(page.status, 200, "{}", page.text());
        let users = page.results().as_array().unwrap().clone();
        all.extend(users.iter().map(|user| user["email"].as_str().unwrap().to_owned()));
        after = page.reply()["next"].clone();
    }
    all
}

/// How often a process has said this.
fn times_said(log: &[String], words: &str) -> usize {
    log.iter().filter(|line| line.contains(words)).count()
}
