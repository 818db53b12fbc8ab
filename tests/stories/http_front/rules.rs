//! HTTP itself on the default front.

use serde_json::json;

use super::{Stage, assert_complete, assert_ends, assert_failure, assert_refused};
use crate::harness::PATIENCE;

const MIB: usize = 1024 * 1024;

#[test]
fn http_1_1_keeps_its_connection() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    for number in 0..10 {
        connection.send_request("GET", &format!("/echo/{number}"), &[], b"");
        let answer = connection.receive().unwrap();
        assert_eq!((answer.version.as_str(), answer.header("Connection")), ("HTTP/1.1", None));
        assert_eq!(answer.results()["params"]["params"], number.to_string());
    }
    // A failure that leaves no doubt about the request's end does not close the connection.
    for (target, status) in [("/nowhere", 404), ("/echo?%", 400), ("/healthz/1", 404)] {
        connection.send_request("GET", target, &[], b"");
        assert_failure(&connection.receive().unwrap(), status, target);
    }
}

#[test]
fn http_1_0_closes_unless_it_is_asked_to_keep_the_connection() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    connection.send(b"GET /echo/1 HTTP/1.0\r\n\r\n");
    let answer = connection.receive().unwrap();
    assert_eq!((answer.version.as_str(), answer.status), ("HTTP/1.0", 200));
    assert_eq!(answer.header("Connection"), Some("close"));
    assert_ends(&mut connection, "HTTP/1.0");

    let mut connection = stage.http().connect();
    for number in 0..3 {
        connection.send(format!("GET /echo/{number} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").as_bytes());
        let answer = connection.receive().unwrap();
        assert_eq!(answer.header("Connection"), Some("keep-alive"));
        assert_eq!(answer.results()["params"]["params"], number.to_string());
    }
    connection.send(b"GET /echo/3 HTTP/1.0\r\n\r\n");
    assert_eq!(connection.receive().unwrap().header("Connection"), Some("close"));
    assert_ends(&mut connection, "HTTP/1.0, the last of several");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    let request = |number: usize| match (number % 4, format!("{{\"n\":{number}}}")) {
        (0, _) => format!("GET /echo/{number} HTTP/1.1\r\n\r\n"),
        (1, _) => format!("HEAD /echo/{number} HTTP/1.1\r\n\r\n"),
        (2, body) => {
            format!("POST /echo/{number} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        (_, body) => {
            let chunks = format!("{:x}\r\n{body}\r\n2\r\n\r\n\r\n0\r\n\r\n", body.len());
            format!("PUT /echo/{number} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
        }
    };
    let requests: String = (0..40).map(request).collect();
    connection.send(requests.as_bytes());
    for number in 0..40 {
        let method = if number % 4 == 1 { "HEAD" } else { "GET" };
        let answer = connection.receive_for(method).unwrap_or_else(|| panic!("{number} is not answered"));
        assert_eq!(answer.status, 200, "{number}: {}", answer.text());
        if method == "GET" {
            assert_eq!(answer.results()["params"]["params"], number.to_string());
        }
    }
}

#[test]
fn head_is_answered_like_get_but_without_the_body() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    for target in ["/echo/1", "/healthz", "/nowhere", "/say"] {
        connection.send_request("GET", target, &[], b"");
        let get = connection.receive().unwrap();
        connection.send_request("HEAD", target, &[], b"");
        let head = connection.receive_for("HEAD").unwrap();
        assert_eq!(head.status, get.status, "{target}");
        assert!(head.body.is_empty());
        if target != "/nowhere" {
            // This failure names the method in its text.
            assert_eq!(head.header("Content-Length"), get.header("Content-Length"), "{target}");
        }
    }
    let of_service: Vec<_> =
        stage.echo.requests().iter().map(|request| request.packet["method"].clone()).collect();
    assert_eq!(of_service, [json!("GET"), json!("GET")], "a service has only GET");
}

#[test]
fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    for expectation in ["100-continue", "100-Continue"] {
        let head = format!("POST /echo HTTP/1.1\r\nExpect: {expectation}\r\nContent-Length: 7\r\n\r\n");
        connection.send(head.as_bytes());
        let interim = connection.receive().unwrap();
        assert_eq!((interim.status, interim.headers.len()), (100, 0));
        connection.send(b"{\"n\":1}");
        assert_eq!(connection.receive().unwrap().results()["params"], json!({ "n": 1 }));
    }
    // A client need not wait. A body that has already arrived needs no permission.
    let whole = "POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\n{\"n\":2}";
    connection.send(whole.as_bytes());
    assert_eq!(connection.receive().unwrap().results()["params"], json!({ "n": 2 }));
    // HTTP/1.0 has no interim answers.
    connection.send(b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\n");
    connection.send(b"{\"n\":3}");
    assert_eq!(connection.receive().unwrap().results()["params"], json!({ "n": 3 }));
}

#[test]
fn expectations_that_cannot_be_met_are_refused_without_reading_the_body() {
    let stage = Stage::start();
    for expectation in ["200-ok", "100-continue, x", ""] {
        let head = format!("POST /echo HTTP/1.1\r\nExpect: {expectation}\r\nContent-Length: 7\r\n\r\n");
        assert_refused(stage.http(), head.as_bytes(), 417, &head);
    }
    let head = "POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1048577\r\n\r\n";
    assert_refused(stage.http(), head.as_bytes(), 413, "no 100 for a rejected body");
}

#[test]
fn chunked_bodies_are_read_however_they_are_cut() {
    let stage = Stage::start();
    let longest_line = chunk_with_line(256);
    let bodies = [
        &longest_line,
        "7\r\n{\"n\":1}\r\n0\r\n\r\n",
        "1\r\n{\r\n3\r\n\"n\"\r\n2\r\n:1\r\n1\r\n}\r\n0\r\n\r\n",
        "7;name=value\r\n{\"n\":1}\r\n0;last\r\n\r\n",
        "7;name=\"a;b\";x\r\n{\"n\":1}\r\n0\r\n\r\n",
        "0000000000000007\r\n{\"n\":1}\r\n000\r\n\r\n",
        "9\r\n{\"n\":    \r\nA\r\n        1}\r\n0\r\n\r\n",
    ];
    let mut connection = stage.http().connect();
    for body in bodies {
        let request = format!("POST /echo HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n{body}");
        connection.send(request.as_bytes());
        let answer = connection.receive().unwrap();
        assert_eq!(answer.results()["params"], json!({ "n": 1 }), "{body}");
        for byte in request.as_bytes() {
            connection.send(&[*byte]);
        }
        let answer = connection.receive().unwrap();
        assert_eq!(answer.results()["params"], json!({ "n": 1 }), "one byte at a time: {body}");
    }
}

/// One chunk whose line has this many bytes, and the end.
fn chunk_with_line(bytes: usize) -> String {
    format!("7;{}\r\n{{\"n\":1}}\r\n0\r\n\r\n", "x".repeat(bytes - 2))
}

#[test]
fn chunks_that_are_not_in_order_are_refused() {
    let mut stage = Stage::start();
    let one_too_many = chunk_with_line(257);
    let bad = [
        "+7\r\n{\"n\":1}\r\n0\r\n\r\n",
        "-7\r\n{\"n\":1}\r\n0\r\n\r\n",
        " 7\r\n{\"n\":1}\r\n0\r\n\r\n",
        "7 \r\n{\"n\":1}\r\n0\r\n\r\n",
        "7\t;x\r\n{\"n\":1}\r\n0\r\n\r\n",
        "0x7\r\n{\"n\":1}\r\n0\r\n\r\n",
        "7_\r\n{\"n\":1}\r\n0\r\n\r\n",
        "7g\r\n{\"n\":1}\r\n0\r\n\r\n",
        "\u{667}\r\n{\"n\":1}\r\n0\r\n\r\n",
        "\r\n{\"n\":1}\r\n0\r\n\r\n",
        ";x\r\n{\"n\":1}\r\n0\r\n\r\n",
        "00000000000000007\r\n{\"n\":1}\r\n0\r\n\r\n",
        "10000000000000007\r\n{\"n\":1}\r\n0\r\n\r\n",
        "7\n{\"n\":1}\r\n0\r\n\r\n",
        "7\r{\"n\":1}\r\n0\r\n\r\n",
        "7;\0\r\n{\"n\":1}\r\n0\r\n\r\n",
        "7;x\n\r\n{\"n\":1}\r\n0\r\n\r\n",
        "7\r\n{\"n\":1}0\r\n\r\n",
        "7\r\n{\"n\":1}\n0\r\n\r\n",
        "7\r\n{\"n\":1}XX0\r\n\r\n",
        "7\r\n{\"n\":1}\r\n0\r\nXX",
        // Trailers, which no code here reads.
        "7\r\n{\"n\":1}\r\n0\r\nX: y\r\n\r\n",
        "6\r\n{\"n\":1}\r\n0\r\n\r\n",
        "{\"n\":1}\r\n",
        &one_too_many,
        &"7".repeat(300),
    ];
    for body in bad {
        let request = format!("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_refused(stage.http(), request.as_bytes(), 400, body);
        // The result must not depend on the position or the arrival time of a byte.
        let mut connection = stage.http().connect();
        for byte in request.as_bytes() {
            connection.send(&[*byte]);
        }
        let answer = connection.receive().unwrap_or_else(|| panic!("no answer, one byte at a time: {body}"));
        assert_failure(&answer, 400, body);
    }
    assert!(stage.echo.requests().is_empty());
    stage.assert_unharmed();
}

#[test]
fn a_body_over_one_mebibyte_is_refused_before_it_is_read() {
    let mut stage = Stage::start();
    let head = format!("POST /echo HTTP/1.1\r\nContent-Length: {}\r\n\r\n", MIB + 1);
    // The client sends none of the body and gets the answer.
    assert_refused(stage.http(), head.as_bytes(), 413, "the head alone");
    let whole = [head.as_bytes(), &vec![b'x'; MIB + 1]].concat();
    let mut connection = stage.http().connect();
    connection.send(&whole);
    assert_failure(&connection.receive().expect("an answer, not a reset"), 413, "the whole");
    // Chunks do not announce their sum, so the gateway reads them up to the limit.
    let chunks = format!("{:x}\r\n{}\r\n", 64 * 1024, "x".repeat(64 * 1024)).repeat(17);
    let request = format!("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    assert_refused(stage.http(), request.as_bytes(), 413, "chunks");
    let huge = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
    assert_refused(stage.http(), [huge.as_bytes(), &vec![b'x'; MIB + 1]].concat().as_slice(), 413, huge);
    stage.assert_unharmed();
}

#[test]
fn a_body_of_one_mebibyte_is_read_and_rejected_if_no_packet_can_hold_it() {
    let mut stage = Stage::start();
    let mut connection = stage.http().connect();
    let body = |bytes: usize| {
        let (start, end) = ("{\"text\":\"", "\"}");
        format!("{start}{}{end}", "x".repeat(bytes - start.len() - end.len()))
    };
    connection.send_request("POST", "/length", &[], body(MIB - 1024).as_bytes());
    assert_eq!(connection.receive().unwrap().results(), MIB - 1024 - 11);
    // The gateway reads the body to its end, so the connection continues. As a packet it would exceed the frame limit.
    connection.send_request("POST", "/length", &[], body(MIB).as_bytes());
    let answer = connection.receive().unwrap();
    assert_failure(&answer, 413, "exactly 1 MiB");
    assert_eq!(answer.header("Connection"), None);
    // A short body may be a long packet: `¶` is six bytes there.
    let pilcrows = json!({ "text": "¶".repeat(400_000) }).to_string();
    connection.send_request("POST", "/length", &[], pilcrows.as_bytes());
    assert_failure(&connection.receive().unwrap(), 413, "400,000 ¶");
    connection.send_request("GET", "/echo/after", &[], b"");
    assert_eq!(connection.receive().unwrap().results()["params"]["params"], "after");
    assert_eq!(stage.echo.connections(), 1, "the link is still up");
    stage.assert_unharmed();
}

#[test]
fn a_malformed_request_is_rejected_and_its_connection_closed() {
    let mut stage = Stage::start();
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x5a\x0a\x0d\x0a\x0d\x0a";
    let bad: [&[u8]; 40] = [
        b"GET /echo HTTP/1.1\nHost: test\n\n",
        b"GET /echo HTTP/1.1\r\nHost: test\n\r\n",
        b"GET /echo HTTP/1.1\nHost: test\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: test\r\n\n",
        b"GET /echo HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX: a\r\n\tb\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n X: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n\tX: a\r\n\r\n",
        b"GET /ec\0ho HTTP/1.1\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX\0: a\r\n\r\n",
        b"G\0T /echo HTTP/1.1\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX : a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX\t: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX Y: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX: a\rb\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX: a\x7fb\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX: a\x1b[2Jb\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n\xc3\xa9: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: one\r\nHost: two\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: same\r\nhost: same\r\n\r\n",
        b"GET  /echo HTTP/1.1\r\n\r\n",
        b"GET /echo  HTTP/1.1\r\n\r\n",
        b"GET\t/echo\tHTTP/1.1\r\n\r\n",
        b" GET /echo HTTP/1.1\r\n\r\n",
        b"GET /ec ho HTTP/1.1\r\n\r\n",
        b"GET /ec\xffho HTTP/1.1\r\n\r\n",
        b"GET /echo\r\n\r\n",
        b"GET /echo HTTP/0.9\r\n\r\n",
        b"GET /echo HTTP/1.2\r\n\r\n",
        b"GET /echo HTTP/2.0\r\n\r\n",
        b"GET /echo http/1.1\r\n\r\n",
        b"GET /echo HTTP/1.1 \r\n\r\n",
        b"GET HTTP/1.1\r\n\r\n",
        b"G(T /echo HTTP/1.1\r\n\r\n",
        b"/echo\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0",
        tls_hello,
    ];
    for bytes in bad {
        let what = bytes.escape_ascii().to_string();
        // A good request follows. The gateway must not take it for a separate request.
        let smuggled = [bytes, b"GET /echo/smuggled HTTP/1.1\r\nHost: test\r\n\r\n"].concat();
        assert_refused(stage.http(), &smuggled, 400, &what);
    }
    assert!(stage.echo.requests().is_empty(), "{:?}", stage.echo.requests()[0].text);
    stage.assert_unharmed();
}

#[test]
fn a_request_after_empty_lines_is_answered() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    let clear = [
        "\r\n\r\nGET /echo/1 HTTP/1.1\r\n\r\n",
        "GET /echo/1 HTTP/1.1\r\nHost:test\r\nX:\r\nX:  y \t\r\n\r\n\r\n\r\n",
        "GET http://example.com/echo/1 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "GET http://example.com:8000/echo/1? HTTP/1.1\r\nHost: other\r\n\r\n",
        "GET /echo/1 HTTP/1.1\r\nX: \u{d55c}\u{ae00}\r\nX-\u{7e}!#$%&'*+-.^_`|: y\r\n\r\n",
    ];
    for request in clear {
        connection.send(request.as_bytes());
        let answer = connection.receive().unwrap_or_else(|| panic!("no answer to {request}"));
        assert_eq!(answer.results()["params"], json!({ "params": "1" }), "{request}");
        assert_complete(&answer, request);
    }
    for byte in clear.concat().as_bytes() {
        connection.send(&[*byte]);
    }
    for request in clear {
        let answer = connection.receive().unwrap();
        assert_eq!(answer.results()["params"], json!({ "params": "1" }), "byte by byte: {request}");
    }
}

#[test]
fn targets_that_are_not_paths_are_bad_requests() {
    let stage = Stage::start();
    for request in ["OPTIONS *", "CONNECT example.com:443", "GET echo", "GET ftp://example.com/echo", "GET ?"]
    {
        let answer = stage.http().raw(format!("{request} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        assert_failure(&answer, 400, request);
    }
    let answer = stage.http().raw(b"GET http://example.com HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(answer.results()["routes"], stage.http().get("/routes").results(), "an empty path means /");
}

#[test]
fn a_client_that_leaves_in_the_middle_disturbs_no_other() {
    let mut stage = Stage::start();
    let parts = [
        "",
        "G",
        "GET /echo HTTP/1.1\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: 7\r\n\r\n{",
        "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7",
        "GET /silence HTTP/1.1\r\n\r\n",
    ];
    for part in parts {
        let mut connection = stage.http().connect();
        connection.send(part.as_bytes());
        let _ = connection.stream().shutdown(std::net::Shutdown::Both);
    }
    stage.assert_unharmed();
}

#[test]
fn a_client_that_only_stops_sending_is_still_answered() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    connection.send(b"GET /echo/1 HTTP/1.1\r\n\r\nGET /echo/2 HTTP/1.1\r\n\r\n");
    connection.stream().shutdown(std::net::Shutdown::Write).unwrap();
    for number in ["1", "2"] {
        assert_eq!(connection.receive().unwrap().results()["params"]["params"], number);
    }
    assert!(connection.is_closed_within(PATIENCE));
}
