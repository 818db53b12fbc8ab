//! The walk of the README, from outside.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::outsider::{Curl, Tunnel, VERSIONS};
use super::proxy::Proxy;
use crate::harness::{Echo, Piece, Process, Program, System, await_instances, eventually};

#[test]
fn the_walk_goes_over_tls_by_http_1_and_by_http_2() {
    let system = System::start();
    let Some(proxy) = Proxy::before(&[system.gateway.address()]) else { return };
    for (version, reported) in VERSIONS.into_iter().zip(["HTTP/1.1", "HTTP/2"]) {
        let curl = Curl { proxy: &proxy, version };
        let email = format!("email={}@example.com", version.trim_start_matches('-'));
        let created = curl.ask("/users", &["-d", "name=Kim", "-d", &email, "-d", "password=correct-horse"]);
        assert_eq!((created.status, created.version.as_str()), (201, reported), "{}", created.text());
        assert_eq!(created.header("Strict-Transport-Security"), Some("max-age=31536000"));
        assert_eq!(created.header("Server"), None);
        let path = format!("/users/{}", created.results()["id"]);
        assert!(curl.ask("/users", &[]).results().as_array().is_some_and(|all| !all.is_empty()));
        assert_eq!(curl.ask(&path, &[]).results()["name"], "Kim");
        let json_type = "Content-Type: application/json";
        let changed = curl.ask(&path, &["-X", "PATCH", "-H", json_type, "-d", r#"{"name":"Kim ¶ 김"}"#]);
        assert_eq!((changed.status, &changed.results()["name"]), (200, &json!("Kim ¶ 김")));
        let right = curl.ask("/users/login", &["-d", &email, "-d", "password=correct-horse"]);
        assert_eq!(right.status, 200, "{}", right.text());
        let wrong = curl.ask("/users/login", &["-d", &email, "-d", "password=wrong-horse"]);
        assert_eq!(wrong.status, 401, "{}", wrong.text());
        assert_eq!(curl.ask(&path, &["-X", "DELETE"]).status, 200);
        assert_eq!(curl.ask(&path, &[]).status, 404);
        assert_eq!(curl.ask(&path, &["-I"]).status, 404);
    }
}

#[test]
fn a_body_of_nearly_a_mebibyte_passes_and_a_longer_one_gets_a_reason() {
    let system = System::start();
    let Some(proxy) = Proxy::before(&[system.gateway.address()]) else { return };
    let file = system.scratch.file("body.json");
    let body = format!("@{}", file.to_str().unwrap());
    for version in VERSIONS {
        let send = |length: usize, header: &str| {
            let name = format!(r#"{{"email":"kim@example.com","name":"{}"}}"#, "x".repeat(length));
            std::fs::write(&file, name).unwrap();
            let json_type = ["-H", "Content-Type: application/json", "-H", header, "--data-binary", &body];
            Curl { proxy: &proxy, version }.ask("/users", &json_type)
        };
        for header in ["Expect:", "Expect: 100-continue"] {
            let long = send(1_000_000, header);
            assert!(long.status == 400 && long.message().contains("name"), "{}", long.text());
            let longer = send(1_100_000, header);
            assert_eq!(longer.status, 413, "{}", longer.text());
        }
    }
}

#[test]
fn one_id_names_a_request_in_the_log_of_the_proxy_and_in_the_answer() {
    let system = System::start();
    let Some(proxy) = Proxy::before(&[system.gateway.address()]) else { return };
    let answers = [("/users", 200), ("/metrics", 403), ("/nowhere", 404)].map(|(path, status)| {
        let answer = Curl { proxy: &proxy, version: "--http2" }.ask(path, &["-H", "X-Request-Id: mine"]);
        assert_eq!(answer.status, status);
        answer.header("X-Request-Id").unwrap().to_owned()
    });
    for id in answers {
        assert_eq!(id.len(), 36, "a random one: {id}");
        let logged = format!("id={id}");
        eventually("the proxy has logged it", || {
            proxy.log().iter().any(|line| line.ends_with(&logged)).then_some(())
        });
    }
}

#[test]
fn events_pass_one_by_one_as_they_happen() {
    let system = System::start();
    let Some(proxy) = Proxy::before(&[system.gateway.address()]) else { return };
    for version in VERSIONS {
        let curl = Curl { proxy: &proxy, version };
        let follow = curl.arguments("/users/changes", &["-N", "-H", "Accept: text/event-stream"]);
        let mut events = Program::at("curl").flags(follow).watch();
        let standing = events.line().unwrap();
        assert!(standing.starts_with(": following"), "{standing}");
        for number in 1..=5 {
            // The next change is made only after this event has arrived.
            let user = system.create_user(&format!("{number}{version}@example.com"), "Kim");
            eventually("its event arrives", || {
                let line = events.line().expect("the stream continues");
                let change: Value = serde_json::from_str(line.strip_prefix("data: ")?).unwrap();
                (change["kind"] == "created" && change["user_id"] == user["id"]).then_some(())
            });
        }
    }
}

#[test]
#[ignore = "slow: a stream that says nothing for longer than any other answer may take"]
fn a_silent_stream_outlives_every_time_limit_of_the_proxy() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let echo = Echo::answering(&distributor, "quiet", &["GET/quiet"], |request| {
        request.reply(&json!({ "errorcode": 0, "more": true, "seq": 1, "results": {} }));
    });
    await_instances(&gateway, "GET", "/quiet", 1);
    let Some(proxy) = Proxy::before(&[gateway.address()]) else { return };
    let curl = Curl { proxy: &proxy, version: "--http2" };
    let quiet = curl.arguments("/quiet", &["-N", "-H", "Accept: text/event-stream"]);
    let mut by_curl = Program::at("curl").flags(quiet).watch();
    let tunnel = Tunnel::to(&proxy);
    let mut events = tunnel.http().events("/quiet", &[]).unwrap();
    assert_eq!(events.event().unwrap().id, Some(1));
    // Two comments, 15 s apart, exceed every limit except the one for streams.
    for _ in 0..2 {
        let comment = eventually("a comment comes", || events.piece());
        assert!(matches!(comment, Piece::Comment(_)), "{comment:?}");
    }
    for request in echo.await_requests(2) {
        request.reply(&json!({ "errorcode": 0, "more": true, "seq": 2, "results": {} }));
    }
    assert_eq!(events.event().unwrap().id, Some(2));
    eventually("curl has it as well", || by_curl.line().filter(|line| line == "id: 2"));
}

#[test]
fn one_of_two_gateways_can_stop_without_a_failed_request() {
    let system = System::start();
    let other = Process::gateway(&system.distributor, &[]);
    await_instances(&other, "GET", "/users", 1);
    let Some(proxy) = Proxy::before(&[system.gateway.address(), other.address()]) else { return };
    let curl = Curl { proxy: &proxy, version: "--http2" };
    let write = |number: usize| {
        let email = format!("email={number}@example.com");
        let answer = curl.ask("/users", &["-d", "name=Kim", "-d", &email]);
        assert_eq!(answer.status, 201, "write {number}: {}", answer.text());
    };
    (0..10).for_each(write);
    other.signal(Signal::SIGTERM);
    (10..60).for_each(write);
    assert!(other.stop().success());
    let log = proxy.log();
    for gateway in ["gateways/gateway1 ", "gateways/gateway2 "] {
        assert!(log.iter().any(|line| line.contains(gateway)), "both gateways got requests: {log:#?}");
    }
}

#[test]
fn a_gateway_without_a_service_gets_no_request_from_the_proxy() {
    let (system, nobody) = (System::start(), Process::distributor(&[]));
    let lost = Process::gateway(&nobody, &[]);
    let Some(proxy) = Proxy::before(&[lost.address(), system.gateway.address()]) else { return };
    eventually("the proxy knows that the gateway is down", || {
        proxy.log().iter().any(|line| line.contains("Server gateways/gateway1 is DOWN")).then_some(())
    });
    for number in 1..=10 {
        let answer = Curl { proxy: &proxy, version: "--http2" }.ask("/users", &[]);
        assert_eq!(answer.status, 200, "request {number}: {}", answer.text());
    }
}
