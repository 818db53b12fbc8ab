//! The data about the HTTP client that a service gets with a request.

use serde_json::{Value, json};

use crate::harness::{Echo, Process, await_instances};

#[test]
fn a_service_gets_the_request_id_the_client_address_and_the_authorization() {
    let distributor = Process::distributor(&[]);
    let service = Echo::start(&distributor, "origin", &["GET/origin"]);
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/origin", 1);
    let headers =
        [("X-Request-Id", "found-again"), ("Authorization", "Bearer abc"), ("X-Forwarded-For", "10.0.0.9")];
    let answer = gateway.http().request("GET", "/origin", &headers, b"");
    assert_eq!(answer.header("X-Request-Id"), Some("found-again"));
    let packet = service.await_requests(1)[0].packet.clone();
    assert_eq!(packet["request_id"], "found-again");
    assert_eq!(packet["authorization"], "Bearer abc");
    assert_eq!(packet["client"], "127.0.0.1", "this client is not configured as a trusted proxy");
    assert!(!gateway.log().join("\n").contains("abc"), "{:#?}", gateway.log());
}

#[test]
fn the_last_address_of_a_trusted_proxy_counts() {
    let distributor = Process::distributor(&[]);
    let service = Echo::start(&distributor, "origin", &["GET/origin"]);
    let gateway = Process::gateway(&distributor, &["--trusted-proxy", "10.1.1.1,127.0.0.1"]);
    await_instances(&gateway, "GET", "/origin", 1);
    let forwarded = |values: &[&str]| {
        let headers: Vec<_> = values.iter().map(|value| ("X-Forwarded-For", *value)).collect();
        gateway.http().request("GET", "/origin", &headers, b"");
    };
    forwarded(&["10.0.0.8, ::ffff:10.0.0.9"]);
    forwarded(&["10.0.0.7", "10.0.0.6"]);
    forwarded(&["nonsense"]);
    forwarded(&[]);
    let clients: Vec<Value> =
        service.await_requests(4).iter().map(|request| request.packet["client"].clone()).collect();
    assert_eq!(clients, [json!("10.0.0.9"), json!("10.0.0.6"), json!("127.0.0.1"), json!("127.0.0.1")]);
}

#[test]
fn a_course_service_gets_no_origin_fields() {
    let distributor = Process::distributor(&[]);
    let service =
        Echo::course(&distributor, "origin", &["GET/origin"], crate::harness::ReceivedRequest::echo);
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/origin", 1);
    gateway.http().request("GET", "/origin", &[("Authorization", "Bearer abc")], b"");
    let packet = service.await_requests(1)[0].packet.clone();
    let names: Vec<&String> = packet.as_object().unwrap().keys().collect();
    assert_eq!(names, ["key", "method", "params", "uri"]);
}

#[test]
fn a_401_carries_www_authenticate() {
    let distributor = Process::distributor(&[]);
    let refuse = |request: &crate::harness::ReceivedRequest| {
        request.reply(&json!({ "errorcode": 401, "errormessage": "log in first" }));
    };
    let _service = Echo::answering(&distributor, "origin", &["GET/origin"], refuse);
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/origin", 1);
    let answer = gateway.http().get("/origin");
    assert_eq!((answer.status, answer.header("WWW-Authenticate")), (401, Some("Bearer")));
}
