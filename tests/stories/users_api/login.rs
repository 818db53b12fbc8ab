//! Logins that succeed and logins that fail. Neither reveals anything else.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PASSWORD, create, log_in, moment, now};
use crate::harness::System;

#[test]
fn a_login_gives_the_user_and_a_new_opaque_token_that_expires() {
    let system = System::start();
    let http = system.http();
    let user = create(&http, "Müller@example.com", "Müller", Some(PASSWORD));
    let mut tokens = HashSet::new();
    for email in ["Müller@example.com", "Müller@example.com", "MÜLLER@EXAMPLE.COM"] {
        let answer = log_in(&http, email, PASSWORD);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let results = answer.results();
        assert_eq!(results["user"], user);
        assert!(moment(&results["expires_at"]) > now() + 60, "{results}");
        let token = results["token"].as_str().unwrap().to_owned();
        assert!(
            token.len() >= 43 && token.bytes().all(|byte| byte.is_ascii_graphic()),
            "a token has 256 bits: {token}"
        );
        assert!(tokens.insert(token), "each login has its own token");
    }
}

#[test]
fn every_failed_login_has_the_same_message_and_cost() {
    let system = System::start();
    let http = system.http();
    for name in ["kim", "sam", "pat"] {
        create(&http, &format!("{name}@example.com"), name, Some(PASSWORD));
    }
    create(&http, "lee@example.com", "Lee without a password", None);
    let wrong = [
        ("kim@example.com", "a wrong password"),
        ("nobody@example.com", PASSWORD),
        ("lee@example.com", PASSWORD),
        ("sam@example.com", "short"),
        ("pat@example.com", ""),
        ("no e-mail at all", PASSWORD),
    ];
    let mut quickest = vec![Duration::MAX; wrong.len()];
    let mut answers = HashSet::new();
    // Direct packets, which have no client address that the limit could count.
    let mut packets = system.users[0].packets();
    for round in 1..=5 {
        for ((email, password), quickest) in wrong.iter().zip(&mut quickest) {
            let began = Instant::now();
            let login = json!({ "email": email, "password": password });
            let mut reply = packets.call("POST", "/users/login", &login, round);
            *quickest = began.elapsed().min(*quickest);
            reply.as_object_mut().unwrap().remove("key");
            answers.insert(reply.to_string());
        }
    }
    let refused = json!({ "errorcode": 401, "errormessage": "the e-mail or the password is wrong" });
    assert_eq!(answers, HashSet::from([refused.to_string()]));
    // Without hashing, an unknown e-mail would be rejected some fifty times faster. The test compares the fastest of
    // several, which a busy machine hardly affects.
    println!("the quickest refusals took {quickest:?}");
    let (least, most) = (quickest.iter().min().unwrap(), quickest.iter().max().unwrap());
    assert!(*most < *least * 10, "the time reveals accounts: {quickest:?}");
}

#[test]
fn after_a_password_change_only_the_new_password_works() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim@example.com", "Kim", None);
    for (number, password) in
        ["the first password", "비밀번호는 여덟 글자¶", "\"\\'; --\0 odd one"].iter().enumerate()
    {
        assert_eq!(log_in(&http, "kim@example.com", password).status, 401);
        assert_eq!(http.patch("/users/1", &json!({ "password": password })).status, 200);
        assert_eq!(log_in(&http, "kim@example.com", password).status, 200, "password {number}");
    }
    assert_eq!(log_in(&http, "kim@example.com", "the first password").status, 401);
}

#[test]
fn a_login_delays_no_other_packet() {
    const LOGINS: u64 = 24;
    let system = System::start();
    create(&system.http(), "kim@example.com", "Kim", Some(PASSWORD));
    let mut packets = system.users[0].packets();
    let login = json!({ "email": "kim@example.com", "password": PASSWORD });
    for key in 1..=LOGINS {
        packets.send(&json!({ "uri": "/users/login", "method": "POST", "key": key, "params": login }));
    }
    let read = LOGINS + 1;
    packets.send(&json!({ "uri": "/users", "method": "GET", "key": read, "params": { "params": "1" } }));
    let replies: Vec<Value> = (0..read).map(|_| packets.receive().unwrap()).collect();
    assert!(replies.iter().all(|reply| reply["errorcode"] == 0), "{replies:?}");
    let place = replies.iter().position(|reply| reply["key"] == read).unwrap();
    // In order, the read would be the last answer. It is the first, unless the machine is very busy.
    println!("the read that was sent after {LOGINS} logins was answered as number {}", place + 1);
    assert!(place < 12, "the read waited for {place} logins");
}
