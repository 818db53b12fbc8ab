//! The end of tokens.

use std::thread;

use serde_json::json;

use super::{PASSWORD, Person, assert_log_in_first};
use crate::harness::{System, eventually};

#[test]
fn a_logout_ends_only_the_token_of_its_request() {
    for system in [System::start(), System::builder().secured().users(2).start()] {
        let kim = Person::new(&system, "kim");
        let other = Person::log_in(&system, &kim.email, PASSWORD);
        assert_log_in_first(&system.http().post("/users/logout", &json!({})));
        let answer = kim.log_out();
        assert_eq!((answer.status, &answer.reply()["errorcode"]), (200, &json!(0)), "{}", answer.text());
        assert_log_in_first(&kim.log_out());
        assert_eq!(other.log_out().status, 200);
    }
}

#[test]
fn an_ended_token_is_rejected_by_every_instance() {
    let system = System::builder().secured().users(2).start();
    let kim = Person::new(&system, "kim");
    let other = Person::log_in(&system, &kim.email, PASSWORD);
    assert_eq!(kim.log_out().status, 200);
    for _ in 0..4 {
        assert_log_in_first(&kim.patch(&kim.path(), &json!({ "name": "Mallory" })));
        assert_log_in_first(&kim.get(&kim.path()));
        assert_eq!(other.get(&kim.path()).results()["name"], "kim");
    }
}

#[test]
fn a_changed_password_ends_every_token_of_its_user_only() {
    let system = System::builder().secured().users(2).start();
    let (kim, lee) = (Person::new(&system, "kim"), Person::new(&system, "lee"));
    let other = Person::log_in(&system, &kim.email, PASSWORD);
    assert_eq!(kim.patch(&kim.path(), &json!({ "password": "a new password" })).status, 200);
    for token in [&kim, &other] {
        assert_log_in_first(&token.get(&kim.path()));
        assert_log_in_first(&token.patch(&kim.path(), &json!({ "name": "Mallory" })));
    }
    assert_eq!(lee.get(&lee.path()).results()["email"], lee.email);
    let again = Person::log_in(&system, &kim.email, "a new password");
    assert_eq!(again.get(&kim.path()).results()["email"], kim.email);
}

#[test]
fn a_token_expires() {
    let system = System::builder().secured().users_flags(&["--token-ttl", "2"]).start();
    let kim = Person::new(&system, "kim");
    assert_eq!(kim.get(&kim.path()).results()["email"], kim.email);
    let refused = eventually("the token has expired", || {
        let answer = kim.get(&kim.path());
        (answer.status != 200).then_some(answer)
    });
    assert_log_in_first(&refused);
    assert_log_in_first(&kim.patch(&kim.path(), &json!({ "name": "Mallory" })));
    assert_log_in_first(&kim.log_out());
    assert_eq!(system.http().get(&kim.path()).results()["name"], "kim");
}

#[test]
fn a_token_that_ends_while_its_write_waits_writes_nothing() {
    let system = System::builder().secured().start();
    let kim = Person::new(&system, "kim");
    // A password change waits for the hashing threads, which these logins keep busy. The token expires meanwhile.
    let crowd: Vec<_> = (0..40)
        .map(|_| {
            let mut connection = system.http().connect();
            let body = json!({ "email": kim.email, "password": PASSWORD }).to_string();
            let headers = [("Content-Type", "application/json")];
            connection.send_request("POST", "/users/login", &headers, body.as_bytes());
            connection
        })
        .collect();
    eventually("the logins keep the threads busy", || (logins_so_far(&system) >= 2).then_some(()));
    let mut waiting = system.http().connect();
    let headers = [("Content-Type", "application/json"), ("Authorization", kim.authorization.as_str())];
    let body = json!({ "password": "mallory's own" }).to_string();
    waiting.send_request("PATCH", &kim.path(), &headers, body.as_bytes());
    let answered = thread::spawn(move || waiting.receive().unwrap());
    system.users[0].await_log(&["PATCH"]);
    assert_eq!(kim.log_out().status, 200);
    assert_log_in_first(&answered.join().unwrap());
    drop(crowd);
    Person::log_in(&system, &kim.email, PASSWORD);
}

/// The number of tokens that were issued.
fn logins_so_far(system: &System) -> u32 {
    let database = rusqlite::Connection::open(system.scratch.file("users.db")).unwrap();
    database.query_row("SELECT count(*) FROM tokens", [], |row| row.get(0)).unwrap()
}
