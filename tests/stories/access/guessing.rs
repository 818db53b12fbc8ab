//! Guessing passwords: a few tries per minute, from any source.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::PASSWORD;
use crate::harness::{Connection, Http, Response, System, eventually};

fn create(http: &Http, email: &str) {
    let new = json!({ "email": email, "name": "Kim", "password": PASSWORD });
    assert_eq!(http.post("/users", &new).status, 201);
}

fn log_in(http: &Http, email: &str, password: &str) -> Response {
    http.post("/users/login", &json!({ "email": email, "password": password }))
}

/// A rejection that gives the time of the next try: in the text, in a field, and in the header.
#[track_caller]
fn assert_too_many(answer: &Response) {
    assert_eq!(answer.status, 429, "{}", answer.text());
    let seconds = answer.reply()["retry_after"].as_u64().unwrap();
    assert!((1..=60).contains(&seconds), "{}", answer.text());
    assert_eq!(answer.header("Retry-After"), Some(seconds.to_string().as_str()));
    assert!(answer.message().contains(&format!("in {seconds} s")), "{}", answer.message());
}

/// Makes all failures so far older by this time.
fn age_failures(system: &System, seconds: u32) {
    let database = rusqlite::Connection::open(system.scratch.file("users.db")).unwrap();
    database.busy_timeout(crate::harness::PATIENCE).unwrap();
    database.execute("UPDATE failed_logins SET at_ms = at_ms - 1000 * ?1", [seconds]).unwrap();
}

fn count_failures(system: &System) -> u32 {
    let database = rusqlite::Connection::open(system.scratch.file("users.db")).unwrap();
    database.query_row("SELECT count(*) FROM failed_logins", [], |row| row.get(0)).unwrap()
}

#[test]
fn after_five_failures_for_one_email_even_the_right_password_is_rejected_for_a_minute() {
    let system = System::builder().users(2).start();
    let http = system.http();
    create(&http, "kim@example.com");
    create(&http, "lee@example.com");
    for email in ["kim@example.com", "KIM@example.com", "nobody@example.com"] {
        let tries = if email == "KIM@example.com" { 2 } else { 3 };
        for number in 0..tries {
            assert_eq!(
                log_in(&http, email, &format!("wrong number {number}")).status,
                401,
                "{email} {number}"
            );
        }
    }
    for number in 3..5 {
        assert_eq!(log_in(&http, "nobody@example.com", &format!("wrong number {number}")).status, 401);
    }
    for (email, password) in
        [("kim@example.com", PASSWORD), ("kim@example.com", "wrong again"), ("Kim@Example.com", PASSWORD)]
    {
        assert_too_many(&log_in(&http, email, password));
    }
    assert_too_many(&log_in(&http, "nobody@example.com", PASSWORD));
    assert_eq!(log_in(&http, "lee@example.com", PASSWORD).status, 200, "another user is not affected");

    age_failures(&system, 30);
    let answer = log_in(&http, "kim@example.com", PASSWORD);
    assert_too_many(&answer);
    assert!(answer.reply()["retry_after"].as_u64().unwrap() <= 30, "{}", answer.text());
    age_failures(&system, 31);
    assert_eq!(log_in(&http, "kim@example.com", PASSWORD).status, 200);
    assert_eq!(log_in(&http, "kim@example.com", "wrong once more").status, 401);
    assert_eq!(count_failures(&system), 2, "failures older than a minute are forgotten");
}

#[test]
fn a_client_that_fails_twenty_times_is_refused_whatever_email_it_tries_and_others_are_not() {
    let system = System::builder().users(2).gateway_flags(&["--trusted-proxy", "127.0.0.1"]).start();
    let from = |client: &str, email: &str, password: &str| {
        let headers = [("Content-Type", "application/json"), ("X-Forwarded-For", client)];
        let body = json!({ "email": email, "password": password }).to_string();
        system.http().request("POST", "/users/login", &headers, body.as_bytes())
    };
    create(&system.http(), "kim@example.com");
    for (network, other) in [("192.0.2.", "198.51.100.7"), ("2001:db8:1:2::", "2001:db8:1:3::1")] {
        let client = |number: u32| match network {
            "192.0.2." => "192.0.2.7".to_owned(),
            // The owner of an IPv6 network may choose among 2^64 addresses.
            network => format!("{network}{number:x}"),
        };
        for number in 1..=20 {
            if number == 10 {
                assert_eq!(from(&client(number), "kim@example.com", PASSWORD).status, 200);
            }
            let email = format!("{number}@{}.example.com", network.len());
            assert_eq!(from(&client(number), &email, "a wrong one").status, 401, "{number}");
        }
        assert_too_many(&from(&client(21), "kim@example.com", PASSWORD));
        assert_too_many(&from(&client(22), "nobody@example.com", "a wrong one"));
        assert_eq!(from(other, "kim@example.com", PASSWORD).status, 200);
    }
}

#[test]
fn many_guesses_at_once_get_no_more_answers_than_in_sequence() {
    const GUESSES: usize = 64;
    let system = System::builder().users(2).gateway_flags(&["--timeout", "60"]).start();
    create(&system.http(), "kim@example.com");
    let mut connections: Vec<Connection> = (0..GUESSES).map(|_| system.http().connect()).collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        // The right password comes late. A client over the limit must not learn that it is right.
        let password = if number == 50 { PASSWORD.to_owned() } else { format!("wrong number {number}") };
        let body = json!({ "email": "kim@example.com", "password": password }).to_string();
        connection.send_request(
            "POST",
            "/users/login",
            &[("Content-Type", "application/json")],
            body.as_bytes(),
        );
    }
    let mut statuses: HashMap<u16, usize> = HashMap::new();
    for connection in &mut connections {
        *statuses.entry(connection.receive().unwrap().status).or_default() += 1;
    }
    println!("{GUESSES} guesses at once: {statuses:?}");
    assert!((1..=5).contains(&statuses[&401]) && statuses[&429] > 0, "{statuses:?}");
    // Other statuses on a busy machine reveal nothing about the password. A login reveals that the password is right
    // only before the fifth failure.
    assert!(statuses.keys().all(|status| [200, 401, 429, 503, 504].contains(status)), "{statuses:?}");
}

#[test]
fn guesses_straight_over_packets_are_counted_for_each_email() {
    let system = System::builder().users(2).start();
    create(&system.http(), "kim@example.com");
    let mut packets: Vec<_> = system.users.iter().map(crate::harness::Process::packets).collect();
    let mut guess = |instance: usize, email: &str, password: &str| {
        let login = json!({ "email": email, "password": password });
        packets[instance].call("POST", "/users/login", &login, 7)["errorcode"].clone()
    };
    for number in 0..25 {
        assert_eq!(guess(number % 2, &format!("{number}@example.com"), "a wrong one"), json!(401));
    }
    let codes: Vec<Value> =
        (0..6).map(|number| guess(number % 2, "kim@example.com", "a wrong one")).collect();
    assert_eq!(codes, [401, 401, 401, 401, 401, 429], "all instances on the database share the count");
    assert_eq!(guess(0, "kim@example.com", PASSWORD), json!(429));
}

#[test]
fn a_successful_login_resets_no_failure_count() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim@example.com");
    for _ in 0..4 {
        assert_eq!(log_in(&http, "kim@example.com", "a wrong one").status, 401);
    }
    assert_eq!(log_in(&http, "kim@example.com", PASSWORD).status, 200);
    assert_eq!(log_in(&http, "kim@example.com", "a wrong one").status, 401);
    assert_too_many(&log_in(&http, "kim@example.com", PASSWORD));
}

#[test]
fn the_email_of_a_failed_login_is_not_stored() {
    let system = System::start();
    let typed = "my-password-in-the-wrong-field";
    assert_eq!(log_in(&system.http(), typed, "a wrong one").status, 401);
    eventually("it is counted", || (count_failures(&system) == 2).then_some(()));
    for file in ["users.db", "users.db-wal"] {
        let stored = std::fs::read(system.scratch.file(file)).unwrap();
        assert!(!stored.windows(typed.len()).any(|bytes| bytes == typed.as_bytes()), "{file}");
    }
}

#[test]
fn a_flood_of_sign_ups_is_bounded_and_delays_no_read() {
    const SIGN_UPS: usize = 300;
    let system = System::start();
    create(&system.http(), "kim@example.com");
    let mut connections: Vec<Connection> = (0..SIGN_UPS).map(|_| system.http().connect()).collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        let new = json!({ "email": format!("{number}@example.com"), "name": "Kim", "password": PASSWORD })
            .to_string();
        connection.send_request("POST", "/users", &[("Content-Type", "application/json")], new.as_bytes());
    }
    assert_eq!(system.http().get("/users/1").status, 200);
    let answers: Vec<Response> = connections.iter_mut().map(|one| one.receive().unwrap()).collect();
    let with = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    println!("{SIGN_UPS} sign-ups at once: {} created, {} refused", with(201), with(503));
    assert!(with(201) > 0 && with(503) > 0);
    // A client that waits longer than the gateway does gets 504; the machine may be slow.
    assert_eq!(with(201) + with(503) + with(504), SIGN_UPS);
    let refused = answers.iter().find(|answer| answer.status == 503).unwrap();
    assert_eq!(refused.header("Retry-After"), Some("3"), "{}", refused.text());
}
