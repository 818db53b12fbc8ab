//! Faults of the environment: failures of the disk, the database, descriptors, the network or a distributor, and
//! signals to end at the worst moment. The stories check the requests in flight.

mod database;
mod deaf;
mod descriptors;
mod distributors;
mod ending;
#[cfg(target_os = "linux")]
mod network;

use serde_json::{Value, json};

use crate::harness::{Http, Response};

/// Requests the creation of a user and ignores the result.
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

/// The number of times that a process has logged this.
fn count_lines(log: &[String], words: &str) -> usize {
    log.iter().filter(|line| line.contains(words)).count()
}
