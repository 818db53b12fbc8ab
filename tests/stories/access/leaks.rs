//! The search of every log for all secrets ([`crate::harness`]) works.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::json;

use crate::harness::{Process, Program, System};

/// A program that reports ready and writes this line to its log.
fn program_that_logs(line: &str) -> Process {
    let script = "echo 'leaky listening on 127.0.0.1:1'; echo \"$0\" >&2; exec sleep 600";
    Program::at("/bin/sh").flags(["-c", script, line]).start()
}

fn ends_badly(process: Process) -> Option<String> {
    let ended = catch_unwind(AssertUnwindSafe(|| drop(process)));
    ended.err().map(|panic| *panic.downcast::<String>().unwrap())
}

#[test]
fn a_log_with_a_password_a_token_or_the_cluster_secret_fails_its_test() {
    let system = System::builder().secured().start();
    let password = "a password that the log tells";
    let (form, json) = ("a-form's-password-in-the-log", "a \"quoted\" password in the log");
    let http = system.http();
    let new = |email: &str, password: &str| json!({ "email": email, "name": "Kim", "password": password });
    assert_eq!(http.post("/users", &new("kim@example.com", password)).status, 201);
    assert_eq!(http.post("/users", &new("lee@example.com", json)).status, 201);
    let login = http.post("/users/login", &json!({ "email": "kim@example.com", "password": password }));
    let token = login.results()["token"].as_str().unwrap().to_owned();
    let body = form_urlencoded::Serializer::new(String::new()).append_pair("password", form).finish();
    http.request("POST", "/users", &[("Content-Type", "application/x-www-form-urlencoded")], body.as_bytes());
    http.request("GET", "/users", &[("Authorization", "Bearer a-token-that-never-was")], b"");
    let quoted = serde_json::Value::from(json).to_string();
    for secret in [password, form, &quoted, &token, "a-token-that-never-was", crate::harness::SECRET] {
        let process = program_that_logs(&format!("somebody has said {secret} to me"));
        process.await_log(&["somebody has said"]);
        let failure =
            ends_badly(process).unwrap_or_else(|| panic!("no check noticed that a log contains {secret}"));
        assert!(failure.contains("somebody has said"), "{failure}");
    }
    let harmless = program_that_logs("somebody has said nothing");
    harmless.await_log(&["somebody has said"]);
    assert_eq!(ends_badly(harmless), None);
}
