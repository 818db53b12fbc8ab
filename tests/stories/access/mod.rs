//! Access control: logins, tokens, roles, visible fields, and the limit on password guesses.

mod admins;
mod explain;
mod feed;
mod guessing;
mod journeys;
mod leaks;
mod rights;
mod tokens;
mod upgrade;

use serde_json::{Value, json};

use crate::harness::{Events, Http, Output, Program, Response, Scratch, System};

const PASSWORD: &str = "correct horse battery staple";

/// A logged-in user.
struct Person {
    http: Http,
    id: u64,
    email: String,
    authorization: String,
}

impl Person {
    /// Signs up and logs in.
    fn new(system: &System, name: &str) -> Self {
        let email = format!("{name}@example.com");
        let new = json!({ "email": email, "name": name, "password": PASSWORD });
        let answer = system.http().post("/users", &new);
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.results()["email"], email, "the owner sees the address");
        Self::log_in(system, &email, PASSWORD)
    }

    /// An admin, created by the command.
    fn admin(system: &System, name: &str) -> Self {
        let email = format!("{name}@example.com");
        let Output { status, stderr, .. } = make_admin(&system.scratch, &email, &format!("{PASSWORD}\n"));
        assert_eq!(status, Some(0), "{stderr}");
        Self::log_in(system, &email, PASSWORD)
    }

    fn log_in(system: &System, email: &str, password: &str) -> Self {
        let http = system.http();
        let answer = http.post("/users/login", &json!({ "email": email, "password": password }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let results = answer.results();
        assert_eq!(results["user"]["email"], email);
        let authorization = format!("Bearer {}", results["token"].as_str().unwrap());
        Self { http, id: results["user"]["id"].as_u64().unwrap(), email: email.to_owned(), authorization }
    }

    fn path(&self) -> String {
        format!("/users/{}", self.id)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Response {
        ask(self.http, &self.authorization, method, path, body)
    }

    fn get(&self, path: &str) -> Response {
        self.http.request("GET", path, &[("Authorization", &self.authorization)], b"")
    }

    fn patch(&self, path: &str, body: &Value) -> Response {
        self.ask("PATCH", path, body)
    }

    fn delete(&self, path: &str) -> Response {
        self.http.request("DELETE", path, &[("Authorization", &self.authorization)], b"")
    }

    fn log_out(&self) -> Response {
        self.http.request("POST", "/users/logout", &[("Authorization", &self.authorization)], b"")
    }

    fn follow(&self, path: &str) -> Result<Events, Response> {
        self.http.events(path, &[("Authorization", &self.authorization)])
    }
}

fn ask(http: Http, authorization: &str, method: &str, path: &str, body: &Value) -> Response {
    let headers = [("Authorization", authorization), ("Content-Type", "application/json")];
    http.request(method, path, &headers, body.to_string().as_bytes())
}

/// Runs `users --admin` on this story's database with this stdin.
fn make_admin(scratch: &Scratch, email: &str, stdin: &str) -> Output {
    let database = scratch.file("users.db");
    let flags = ["--admin", email, "--database", database.to_str().unwrap()];
    Program::at(env!("CARGO_BIN_EXE_users")).flags(flags).stdin(stdin).run()
}

/// Panics unless the answer rejects a client that is not logged in and says what to do.
#[track_caller]
fn assert_log_in_first(answer: &Response) {
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert!(answer.message().contains("POST /users/login"), "{}", answer.message());
    assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"));
}
