//! The status table, and the common parts of all answers.

use serde_json::json;

use super::{Stage, assert_complete, assert_failure};
use crate::harness::{Connection, Echo, Process, ReceivedRequest, await_instances, eventually};

#[test]
fn the_status_is_status_else_a_fitting_errorcode_else_200() {
    let stage = Stage::start();
    let table = [
        (json!({ "errorcode": 0 }), 200),
        (json!({}), 200),
        (json!({ "errorcode": 0, "status": 201 }), 201),
        (json!({ "errorcode": 0, "status": 202 }), 202),
        (json!({ "errorcode": 0, "status": 299 }), 299),
        (json!({ "errorcode": 409, "status": 422 }), 422),
        (json!({ "errorcode": 400 }), 400),
        (json!({ "errorcode": 401 }), 401),
        (json!({ "errorcode": 418 }), 418),
        (json!({ "errorcode": 429 }), 429),
        (json!({ "errorcode": 500 }), 500),
        (json!({ "errorcode": 503 }), 503),
        (json!({ "errorcode": 599 }), 599),
        // The course's own error codes.
        (json!({ "errorcode": 1 }), 200),
        (json!({ "errorcode": -1 }), 200),
        (json!({ "errorcode": 399 }), 200),
        (json!({ "errorcode": 600 }), 200),
        (json!({ "errorcode": 65_936 }), 200),
        (json!({ "errorcode": "404" }), 200),
        (json!({ "errorcode": null }), 200),
        (json!({ "errorcode": [404] }), 200),
        (json!({ "errorCode": 404 }), 404),
        (json!({ "errorCode": 7 }), 200),
        // An invalid status does not count.
        (json!({ "errorcode": 404, "status": 0 }), 404),
        (json!({ "errorcode": 404, "status": 100 }), 404),
        (json!({ "errorcode": 404, "status": 600 }), 404),
        (json!({ "errorcode": 404, "status": -201 }), 404),
        (json!({ "errorcode": 404, "status": 65_737 }), 404),
        (json!({ "errorcode": 404, "status": "201" }), 404),
        (json!({ "errorcode": 0, "status": null }), 200),
    ];
    let mut connection = stage.http().connect();
    for (mut reply, status) in table {
        reply["errormessage"] = json!("as the service says");
        reply["results"] = json!([{ "¶": "한글" }]);
        reply["next"] = json!(7);
        let body = json!({ "reply": reply }).to_string();
        connection.send_request("POST", "/say", &[("Content-Type", "application/json")], body.as_bytes());
        let answer = connection.receive().unwrap();
        assert_eq!(answer.status, status, "{reply}");
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        assert_complete(&answer, &reply.to_string());
        let mut whole = answer.reply();
        whole.as_object_mut().unwrap().remove("key");
        assert_eq!(whole, reply, "the whole reply packet is the body");
    }
}

#[test]
fn every_body_ends_with_one_newline_which_content_length_counts() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    let targets = ["/echo/1", "/healthz", "/readyz", "/routes", "/metrics", "/nowhere", "/say", "/echo?a=%"];
    for target in targets {
        connection.send_request("GET", target, &[], b"");
        let get = connection.receive().unwrap();
        assert_complete(&get, target);
        connection.send_request("HEAD", target, &[], b"");
        let head = connection.receive_for("HEAD").unwrap();
        let stable = !["/metrics", "/nowhere"].contains(&target);
        assert!(!stable || head.header("Content-Length") == get.header("Content-Length"), "{target}");
    }
    let refused = stage.http().raw(b"GET / HTTP/1.1\n\n").unwrap();
    assert_failure(&refused, 400, "a line end without CR");
    // If a service's packet already ends with a newline, the gateway adds none.
    let _service = Echo::answering(&stage.distributor, "lines", &["GET/lines"], |request| {
        request.raw(format!("{{\"key\":{},\"errorcode\":0}}\n¶", request.key()).as_bytes());
    });
    await_instances(&stage.gateway, "GET", "/lines", 1);
    assert_complete(&stage.http().get("/lines"), "a packet with a newline");
}

#[test]
fn the_error_codes_of_a_course_service_mean_nothing_to_http() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let _course = Echo::course(&distributor, "course", &["GET/course"], |request| {
        let code: i64 = request.params()["code"].as_str().unwrap().parse().unwrap();
        request.reply(&json!({ "errorcode": code, "errormessage": { "code": code }, "data": [code] }));
    });
    await_instances(&gateway, "GET", "/course", 1);
    for (code, status) in [(0, 200), (1, 200), (-1, 200), (1062, 200), (404, 404)] {
        let answer = gateway.http().get(&format!("/course?code={code}"));
        assert_eq!(answer.status, status, "{code}");
        assert_eq!(answer.reply()["errormessage"], json!({ "code": code }));
        assert_eq!(answer.reply()["data"], json!([code]));
    }
}

#[test]
fn a_client_that_accepts_events_gets_the_plain_answer_when_there_is_no_stream() {
    let stage = Stage::start();
    let _service = Echo::answering(&stage.distributor, "codes", &["GET/codes"], |request| {
        let code: i64 = request.params()["code"].as_str().unwrap().parse().unwrap();
        request.reply(&json!({ "errorcode": code, "errormessage": "as the service says" }));
    });
    let other = Echo::start(&stage.distributor, "other", &["GET/other"]);
    await_instances(&stage.gateway, "GET", "/codes", 1);
    await_instances(&stage.gateway, "GET", "/other", 1);
    drop(other);
    await_instances(&stage.gateway, "GET", "/other", 0);
    let events = [("Accept", "text/event-stream")];
    for (code, status) in [(0, 200), (1, 200), (399, 200), (404, 404), (503, 503), (600, 200)] {
        let target = format!("/codes?code={code}");
        let answer = stage.http().request("GET", &target, &events, b"");
        assert_eq!(answer.status, status, "{code}: {}", answer.text());
        assert_eq!(answer.reply()["errorcode"], code);
        assert_eq!(answer.message(), "as the service says");
        assert_complete(&answer, &target);
    }
    let answer = stage.http().request("GET", "/other", &events, b"");
    assert_failure(&answer, 503, "no service has it");
    assert!(answer.header("Retry-After").is_some());
    assert_failure(&stage.http().request("GET", "/nowhere", &events, b""), 404, "no such route");
    assert_failure(&stage.http().request("GET", "/say", &events, b""), 405, "no such method");
    let answer = stage.http().request("HEAD", "/echo", &events, b"");
    assert_eq!((answer.status, answer.body.len()), (200, 0), "HEAD streams nothing");
}

#[test]
fn a_status_without_a_body_keeps_the_connection_in_sync() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    for status in [204, 304, 205] {
        let body = json!({ "reply": { "errorcode": 0, "status": status } }).to_string();
        connection.send_request("POST", "/say", &[("Content-Type", "application/json")], body.as_bytes());
        let answer = connection.receive().unwrap();
        assert_eq!(answer.status, status);
        connection.send_request("GET", "/echo/next", &[], b"");
        assert_eq!(connection.receive().unwrap().results()["params"]["params"], "next");
    }
}

#[test]
fn an_unknown_path_gets_404_and_an_unknown_method_405_with_allow() {
    let stage = Stage::start();
    for (method, target) in
        [("GET", "/nowhere"), ("DELETE", "/nowhere/1"), ("BREW", "/nowhere"), ("HEAD", "/healthz/x")]
    {
        let mut connection = stage.http().connect();
        connection.send_request(method, target, &[], b"");
        let answer = connection.receive_for(method).unwrap();
        assert_eq!((answer.status, answer.header("Allow")), (404, None), "{method} {target}");
        if method != "HEAD" {
            assert_failure(&answer, 404, target);
        }
    }
    let echo = "DELETE, GET, PATCH, POST, PUT, HEAD";
    for (method, target, allowed) in [
        ("OPTIONS", "/echo", echo),
        ("TRACE", "/echo/1", echo),
        ("BREW", "/echo", echo),
        ("GET", "/say", "POST"),
        ("HEAD", "/length", "POST"),
        ("PATCH", "/say/1", "POST"),
        ("POST", "/silence", "GET, HEAD"),
    ] {
        let mut connection = stage.http().connect();
        connection.send_request(method, target, &[], b"");
        let answer = connection.receive_for(method).unwrap();
        assert_eq!((answer.status, answer.header("Allow")), (405, Some(allowed)), "{method} {target}");
        if method != "HEAD" {
            assert_failure(&answer, 405, target);
        }
    }
    assert!(stage.echo.requests().is_empty());
}

#[test]
fn a_registered_method_cannot_inject_headers() {
    let stage = Stage::start();
    let urls = ["EVIL\r\nX-Injected: yes/trap", "GET/trap"];
    let _evil = Echo::start(&stage.distributor, "evil", &urls);
    await_instances(&stage.gateway, "GET", "/trap", 1);
    let answer = stage.http().request("PATCH", "/trap", &[], b"");
    assert_eq!(answer.status, 405);
    assert_eq!(answer.header("X-Injected"), None);
}

#[test]
fn a_route_without_an_instance_is_503_until_there_is_one_again() {
    let mut stage = Stage::start();
    let other = Echo::start(&stage.distributor, "other", &["GET/other"]);
    await_instances(&stage.gateway, "GET", "/other", 1);
    drop(other);
    await_instances(&stage.gateway, "GET", "/other", 0);
    for target in ["/other", "/other/1"] {
        let answer = stage.http().get(target);
        assert_failure(&answer, 503, target);
        assert!(answer.header("Retry-After").unwrap().parse::<u32>().unwrap() > 0);
    }
    let answer = stage.http().request("POST", "/other", &[], b"");
    assert_failure(&answer, 405, "the route is still known, and so are its methods");
    let _other = Echo::start(&stage.distributor, "other", &["GET/other"]);
    await_instances(&stage.gateway, "GET", "/other", 1);
    assert_eq!(stage.http().get("/other").status, 200);
    stage.assert_unharmed();
}

#[test]
fn a_link_lost_before_the_reply_is_502_and_comes_back() {
    let mut stage = Stage::start();
    let answer = stage.http().request("POST", "/hang-up", &[], b"");
    assert_failure(&answer, 502, "the service closed the link");
    assert!(answer.message().contains("may or may not"), "{}", answer.message());
    // All requests on the same link lose it at once.
    await_instances(&stage.gateway, "GET", "/echo", 1);
    let mut waiting: Vec<Connection> = (0..5).map(|_| stage.http().connect()).collect();
    for connection in &mut waiting {
        connection.send_request("GET", "/silence", &[], b"");
    }
    stage.echo.await_requests(6);
    stage.echo.hang_up();
    for connection in &mut waiting {
        assert_failure(&connection.receive().unwrap(), 502, "waiting when the link was lost");
    }
    await_instances(&stage.gateway, "GET", "/echo", 1);
    stage.assert_unharmed();
}

#[test]
fn a_request_without_a_reply_gets_504_and_a_late_reply_is_dropped() {
    let mut stage = Stage::with(&["--timeout", "0.3"]);
    let mut connection = stage.http().connect();
    connection.send_request("GET", "/silence/1", &[], b"");
    let answer = connection.receive().unwrap();
    assert_failure(&answer, 504, "a service that never answers");
    // The second request waits while the first reply comes too late. It must not get the first one's reply.
    connection.send_request("GET", "/silence/2", &[], b"");
    let requests = stage.echo.await_requests(2);
    requests[0].echo();
    stage.gateway.await_log(&["orphan reply", &format!("key {}", requests[0].key())]);
    assert_failure(&connection.receive().unwrap(), 504, "the second");
    requests[1].echo();
    stage.gateway.await_log(&["orphan reply", &format!("key {}", requests[1].key())]);
    eventually("a reply arrives in time", || {
        connection.send_request("GET", "/echo/3", &[], b"");
        let answer = connection.receive().unwrap();
        assert!(matches!(answer.status, 200 | 504), "{}", answer.text());
        (answer.status == 200).then(|| assert_eq!(answer.results()["params"]["params"], "3"))
    });
    assert_eq!(stage.echo.connections(), 1, "the link is still up");
    assert!(stage.gateway.is_alive());
}

#[test]
fn replies_in_any_order_reach_their_callers() {
    let stage = Stage::with(&["--timeout", "15"]);
    let mut connections: Vec<Connection> = (0..20).map(|_| stage.http().connect()).collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.send_request("GET", &format!("/silence/{number}"), &[], b"");
    }
    let requests = stage.echo.await_requests(20);
    // Twice each; the second reply is an orphan.
    requests.iter().rev().chain(&requests).for_each(ReceivedRequest::echo);
    for (number, connection) in connections.iter_mut().enumerate() {
        assert_eq!(connection.receive().unwrap().results()["params"]["params"], number.to_string());
    }
}

#[test]
fn requests_above_the_in_flight_limit_get_503() {
    let mut stage = Stage::with(&["--max-in-flight", "1", "--timeout", "15"]);
    let mut first = stage.http().connect();
    first.send_request("GET", "/silence", &[], b"");
    let requests = stage.echo.await_requests(1);
    for _ in 0..3 {
        let answer = stage.http().get("/echo/1");
        assert_failure(&answer, 503, "one too many");
        assert!(answer.header("Retry-After").unwrap().parse::<u32>().unwrap() > 0);
    }
    assert_eq!(stage.http().get("/healthz").status, 200, "the gateway's own answers need no place");
    assert_eq!(stage.http().get("/readyz").status, 200);
    requests[0].echo();
    assert_eq!(first.receive().unwrap().status, 200);
    stage.assert_unharmed();
    assert_eq!(stage.echo.requests().len(), 2, "rejected requests were not sent");
}

#[test]
fn a_reply_that_is_not_a_packet_closes_only_its_link() {
    let distributor = Process::distributor(&[]);
    let mut gateway = Process::gateway(&distributor, &[]);
    let too_long = [b"{\"key\":1,\"a\":\"".to_vec(), vec![b'x'; 1024 * 1024], "\"}¶".into()].concat();
    let bad: [Vec<u8>; 5] = [
        "no json¶".into(),
        "[1]¶".into(),
        b"{\"key\":1,\"a\":\"\xff\"}\xc2\xb6".to_vec(),
        too_long,
        "{\"key\":1".into(),
    ];
    let services: Vec<Echo> = bad
        .into_iter()
        .enumerate()
        .map(|(number, bytes)| {
            let url = format!("GET/bad{number}");
            Echo::answering(&distributor, "bad", &[&url], move |request| {
                request.raw(&bytes);
                if bytes.ends_with(b"1") {
                    request.hang_up();
                }
            })
        })
        .collect();
    let _good = Echo::start(&distributor, "good", &["GET/good"]);
    await_instances(&gateway, "GET", "/good", 1);
    for number in 0..services.len() {
        let path = format!("/bad{number}");
        await_instances(&gateway, "GET", &path, 1);
        assert_failure(&gateway.http().get(&path), 502, &path);
        assert_eq!(gateway.http().get("/good").status, 200);
    }
    assert!(gateway.is_alive());
}

#[test]
fn every_answer_carries_a_request_id_and_a_sane_one_is_the_clients() {
    let stage = Stage::with(&["--timeout", "0.2"]);
    let long = "x".repeat(64);
    for id in ["1", "abc-DEF_1.2", &long, "7b1d7a4e-6d0c-4c5e-9d5f-0b5d2a1f3c11"] {
        for (method, target) in
            [("GET", "/echo"), ("GET", "/nowhere"), ("PUT", "/say"), ("GET", "/healthz"), ("GET", "/%")]
        {
            let answer = stage.http().request(method, target, &[("x-request-id", id)], b"");
            assert_eq!(answer.header("X-Request-Id"), Some(id), "{method} {target}");
        }
    }
    let too_long = "x".repeat(65);
    let mut ours = Vec::new();
    for id in ["", " ", "a b", "a\tb", "a;b", "<script>", "é", "a/b", "a\"b", &too_long] {
        let answer = stage.http().request("GET", "/echo", &[("X-Request-Id", id)], b"");
        let given = answer.header("X-Request-Id").unwrap().to_owned();
        assert_ne!(given, id);
        assert!(!given.is_empty());
        ours.push(given);
    }
    ours.push(stage.http().get("/echo").header("X-Request-Id").unwrap().to_owned());
    let count = ours.len();
    ours.sort();
    ours.dedup();
    assert_eq!(ours.len(), count, "generated ids are unique");
}

#[test]
fn refused_requests_carry_the_clients_request_id_too() {
    let stage = Stage::with(&["--timeout", "0.2"]);
    let long_header = format!("X: {}", "x".repeat(17 * 1024));
    let refused: [(&str, &str, &str, u16); 11] = [
        ("POST /echo", "Content-Type: text/plain\r\nContent-Length: 1", "x", 415),
        ("POST /echo", "Content-Type: application/json\r\nContent-Length: 1", "x", 400),
        ("GET /silence", "X: y", "", 504),
        ("POST /echo", "Content-Length: 1048577", "", 413),
        ("POST /echo", "Content-Length: +1", "x", 400),
        ("POST /echo", "Content-Length: 1\r\nTransfer-Encoding: chunked", "x", 400),
        ("POST /echo", "Transfer-Encoding: gzip", "", 501),
        ("POST /echo", "Transfer-Encoding: chunked", "x\r\n", 400),
        ("POST /echo", "Expect: rain", "", 417),
        ("GET /echo", "Host: a\r\nHost: b", "", 400),
        ("PUT /say", "X: y", "", 405),
    ];
    for (request, header, body, status) in refused {
        let bytes = format!("{request} HTTP/1.1\r\nX-Request-Id: mine-1\r\n{header}\r\n\r\n{body}");
        let answer = stage.http().raw(bytes.as_bytes()).unwrap();
        assert_failure(&answer, status, header);
        assert_eq!(answer.header("X-Request-Id"), Some("mine-1"), "{header}");
    }
    // If the head is invalid, none of its headers can be trusted.
    for (bytes, status) in [
        (format!("GET /echo HTTP/1.1\r\nX-Request-Id: mine-1\r\n{long_header}\r\n\r\n"), 431),
        ("GET /echo HTTP/1.1\r\nX-Request-Id: mine-1\r\nX : y\r\n\r\n".to_owned(), 400),
    ] {
        let answer = stage.http().raw(bytes.as_bytes()).unwrap();
        assert_failure(&answer, status, &bytes[..40]);
        assert_ne!(answer.header("X-Request-Id"), Some("mine-1"));
    }
}

#[test]
fn the_reply_is_passed_on_byte_for_byte_and_a_newline_follows() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let text = "{ \"results\" : [1.10, 1e2 ,\"\\u00b6\\/\" ],\"errorcode\":0 , \"key\":1,\"a\":1,\"a\":2}";
    let _service = Echo::answering(&distributor, "raw", &["GET/raw"], move |request| {
        request.raw(format!("{text}¶").as_bytes());
    });
    await_instances(&gateway, "GET", "/raw", 1);
    assert_eq!(gateway.http().get("/raw").text(), format!("{text}\n"));
}

#[test]
fn a_slow_service_delays_only_its_own_callers() {
    let stage = Stage::with(&["--timeout", "15"]);
    let mut waiting: Vec<Connection> = (0..50).map(|_| stage.http().connect()).collect();
    for connection in &mut waiting {
        connection.send_request("GET", "/silence", &[], b"");
    }
    let requests = stage.echo.await_requests(50);
    for number in 0..50 {
        assert_eq!(stage.http().get(&format!("/echo/{number}")).status, 200);
    }
    for request in &requests {
        request.reply(&json!({ "errorcode": 0 }));
    }
    for connection in &mut waiting {
        assert_eq!(connection.receive().unwrap().reply()["errorcode"], 0);
    }
}
