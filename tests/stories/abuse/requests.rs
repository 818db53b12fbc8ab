//! Requests whose end could be read in two ways, and paths that could mean two things. [`http_front`] tests each rule
//! alone. This file tests all pairs. After each pair follows a request that must never be answered.
//!
//! [`http_front`]: crate::http_front

use std::net::Shutdown;

use serde_json::{Value, json};

use crate::harness::{Http, PATIENCE};
use crate::http_front::{Stage, assert_ends, assert_failure, assert_refused};

const SMUGGLED: &str = "GET /echo/smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

/// Lengths that every parser reads as five bytes. White space around a value misleads no parser.
const LENGTHS: [&str; 5] = ["5", "00005", " 5", "5 ", "\t5\t"];

/// Values that only some servers accept as a length.
const NO_LENGTHS: [&str; 20] = [
    "5, 5", "5,5", "5,", ",5", "5;5", "+5", "-0", "-5", "0x5", "", "5 5", "5.", "5e0", "5_0", "\"5\"", "'5'",
    "५", "5\u{a0}", "five", "0b101",
];

/// Transfer codings that every parser reads as chunked.
const CODINGS: [&str; 4] = ["chunked", "CHUNKED", "\tchunked", " \t chunked \t"];

/// Values that only some servers accept as chunked.
const NO_CODINGS: [&str; 17] = [
    "chunked, chunked",
    "chunked,chunked",
    "chunked,",
    ",chunked",
    "identity",
    "identity, chunked",
    "chunked, identity",
    "xchunked",
    "chunkedx",
    "chunked;q",
    "chunked;q=0.5",
    "\"chunked\"",
    "chunked chunked",
    "gzip, chunked",
    "",
    "chun\u{212a}ed",
    "chunked\u{a0}",
];

fn all(headers: &[(&str, &str)]) -> String {
    headers.iter().flat_map(|(name, value)| [*name, ": ", *value, "\r\n"]).collect()
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: test\r\n{headers}\r\n{body}")
}

/// Panics unless the request is rejected with one of these statuses and the bytes after it get no answer.
fn assert_refused_with(http: Http, request: &str, statuses: &[u16]) {
    let mut connection = http.connect();
    connection.send(format!("{request}{SMUGGLED}").as_bytes());
    let answer = connection.receive().unwrap_or_else(|| panic!("no answer: {request}"));
    assert!(statuses.contains(&answer.status), "{request:?}: {} {}", answer.status, answer.text());
    assert_failure(&answer, answer.status, request);
    assert_eq!(answer.header("Connection"), Some("close"), "{request:?}");
    assert_ends(&mut connection, request);
}

#[test]
fn a_content_length_beside_a_transfer_encoding_is_rejected_in_any_form_and_order() {
    let mut stage = Stage::start();
    let lengths = || LENGTHS.iter().chain(&NO_LENGTHS);
    let codings = || CODINGS.iter().chain(&NO_CODINGS);
    // A body that is complete by its length as well as by its chunks.
    let body = "0\r\n\r\n";
    for (length, coding) in lengths().flat_map(|length| codings().map(move |coding| (*length, *coding))) {
        let (length, coding) = (("Content-Length", length), ("Transfer-Encoding", coding));
        for headers in [[length, coding], [coding, length]] {
            assert_refused_with(stage.http(), &post(&all(&headers), body), &[400]);
        }
    }
    assert!(stage.echo.requests().is_empty(), "{}", stage.echo.requests()[0].text);
    stage.assert_unharmed();
}

#[test]
fn a_content_length_or_transfer_encoding_is_accepted_once_and_in_one_spelling() {
    let mut stage = Stage::start();
    for length in NO_LENGTHS {
        assert_refused_with(stage.http(), &post(&all(&[("Content-Length", length)]), "{}   "), &[400]);
    }
    for coding in NO_CODINGS {
        let headers = all(&[("Transfer-Encoding", coding)]);
        assert_refused_with(stage.http(), &post(&headers, "0\r\n\r\n"), &[400, 501]);
    }
    for (name, values) in [("Content-Length", &LENGTHS[..]), ("Transfer-Encoding", &CODINGS[..])] {
        for (first, second) in
            values.iter().flat_map(|first| values.iter().map(move |second| (*first, *second)))
        {
            for other in [name.to_lowercase(), name.to_uppercase()] {
                let headers = all(&[(name, first), ("X-Between", "y"), (&other, second)]);
                assert_refused_with(stage.http(), &post(&headers, "0\r\n\r\n"), &[400]);
            }
        }
    }
    let huge = ["18446744073709551616", "18446744073709551621", "99999999999999999999999", "1048577"];
    for length in huge {
        assert_refused_with(stage.http(), &post(&all(&[("Content-Length", length)]), "{}   "), &[413]);
    }
    for coding in CODINGS {
        let old = post(&all(&[("Transfer-Encoding", coding), ("Connection", "keep-alive")]), "0\r\n\r\n");
        assert_refused_with(stage.http(), &old.replace("HTTP/1.1", "HTTP/1.0"), &[400]);
    }
    assert!(stage.echo.requests().is_empty(), "{}", stage.echo.requests()[0].text);
    stage.assert_unharmed();
}

#[test]
fn an_unambiguous_request_is_answered_and_the_connection_stays_in_sync() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    let lengths = LENGTHS.map(|length| post(&all(&[("Content-Length", length)]), "{}   "));
    let chunks = ["2\r\n{}\r\n0\r\n\r\n", "2;x=\"\u{e9}\"\r\n{}\r\n0;y\r\n\r\n", "02\r\n{}\r\n00\r\n\r\n"];
    let codings = CODINGS
        .iter()
        .flat_map(|coding| chunks.map(|body| post(&all(&[("Transfer-Encoding", coding)]), body)));
    for request in lengths.into_iter().chain(codings) {
        connection.send(format!("{request}GET /echo/next HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
        for params in [json!({}), json!({ "params": "next" })] {
            let answer = connection.receive().unwrap_or_else(|| panic!("no answer: {request:?}"));
            assert_eq!(answer.results()["params"], params, "{request:?}");
        }
    }
}

#[test]
fn a_line_without_cr_lf_hides_no_request() {
    let mut stage = Stage::start();
    let coding = "Transfer-Encoding: chunked\r\n";
    let bad = [
        // Line ends in the head.
        post("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Content-Length: 5\nX: y\r\n", "{}   "),
        post("Content-Length: 5\r\r\n", "{}   "),
        post("Content-Length: 5\r\n\n", "{}   "),
        post("X: y\r\n\tContent-Length: 5\r\n", "{}   "),
        post("Content-Length:\r\n\t5\r\n", "{}   "),
        post("Transfer-Encoding: chunked,\r\n chunked\r\n", "0\r\n\r\n"),
        post("Content-Length: 5\0\r\n", "{}   "),
        post("Content-Length\0: 5\r\n", "{}   "),
        post("Content-Length: \u{c}5\r\n", "{}   "),
        post("Content Length: 5\r\n", "{}   "),
        post("Content-Length : 5\r\n", "{}   "),
        post("Content-Length\t: 5\r\n", "{}   "),
        post(" Content-Length: 5\r\n", "{}   "),
        post("Content-Length\r\n", "{}   "),
        post("Content-Length: 5\r\nHost: other\r\n", "{}   "),
        post("Content-Length: 5\r\nHost : test\r\n", "{}   "),
        // Line ends in chunks.
        post(coding, "2\n{}\r\n0\r\n\r\n"),
        post(coding, "2\r{}\r\n0\r\n\r\n"),
        post(coding, "2\r\n{}\n0\r\n\r\n"),
        post(coding, "2\r\n{}\r0\r\n\r\n"),
        post(coding, "2\r\n{}\r\n0\n\r\n"),
        post(coding, "2\r\n{}\r\n0\r\n\n"),
        post(coding, "2\r\n{}\r\n0\r\n\r"),
        post(coding, "2;x\ny\r\n{}\r\n0\r\n\r\n"),
        post(coding, "2;x\ry\r\n{}\r\n0\r\n\r\n"),
        post(coding, "2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n"),
        post(coding, "ffffffffffffffff1\r\n{}\r\n0\r\n\r\n"),
        post(coding, "1_0\r\n{}\r\n0\r\n\r\n"),
        post(coding, &format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(16 * 1024))),
    ];
    for request in &bad {
        assert_refused_with(stage.http(), request, &[400]);
    }
    // A size that overflows must not bypass the body limit.
    for size in ["ffffffffffffffff", "fffffffffffffffe", "8000000000000000"] {
        let request = post(coding, &format!("{size}\r\n{}", "x".repeat(2 * 1024 * 1024)));
        assert_refused(stage.http(), request.as_bytes(), 413, size);
    }
    assert!(stage.echo.requests().is_empty(), "{}", stage.echo.requests()[0].text);
    stage.assert_unharmed();
}

#[test]
fn a_body_without_its_end_is_not_a_request() {
    let mut stage = Stage::start();
    let (coding, length) = ("Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\n");
    let unfinished = [
        post(coding, "2\r\n{}\r\n0\r\n"),
        post(coding, "2\r\n{}\r\n0"),
        post(coding, "2\r\n{}\r\n"),
        post(coding, "2\r\n{}"),
        post(coding, "2\r\n"),
        post(length, "{}  "),
        post(length, ""),
        "GET /echo/1 HTTP/1.1\r\nHost: test\r\n".to_owned(),
    ];
    for request in unfinished {
        let mut connection = stage.http().connect();
        connection.send(request.as_bytes());
        connection.stream().shutdown(Shutdown::Write).unwrap();
        if let Some(answer) = connection.receive() {
            assert_failure(&answer, 400, &request);
        }
        assert!(connection.is_closed_within(PATIENCE), "{request:?}");
    }
    assert!(stage.echo.requests().is_empty(), "{}", stage.echo.requests()[0].text);
    stage.assert_unharmed();
}

#[test]
fn a_path_means_what_it_says_and_nothing_else() {
    let mut stage = Stage::start();
    let param = |text: &str| json!({ "params": text });
    let reaches_echo = [
        ("/echo/%00", param("\0")),
        ("/echo/..", param("..")),
        ("/echo/.", param(".")),
        ("/echo/%2e%2e", param("..")),
        ("/echo/%2F..%2Fhealthz", param("/../healthz")),
        ("/echo/%5c", param("\\")),
        ("/echo/%0d%0aX:%20y", param("\r\nX: y")),
        ("/echo/%25%32%65", param("%2e")),
        ("/%65cho/1", param("1")),
        ("/echo?a=%00&a=..", json!({ "a": ["\0", ".."] })),
        ("/echo?%00=1", json!({ "\0": "1" })),
        ("/echo??x", json!({ "?x": "" })),
    ];
    for (target, params) in reaches_echo {
        let answer = stage.http().get(target);
        assert_eq!(
            (answer.status, &answer.results()["params"]),
            (200, &params),
            "{target}: {}",
            answer.text()
        );
        assert_eq!(answer.header("X"), None);
    }
    let nowhere = [
        "//echo",
        "/echo//",
        "//echo/1",
        "/echo/1/..",
        "/echo/../healthz",
        "/echo/%2e%2e/healthz",
        "//healthz",
        "/./healthz",
        "/healthz/",
        "/healthz%00",
        "/healthz%20",
        "/healthz;x",
        "/healthz%3Fx",
        "/HEALTHZ",
        "/echo;x",
        "/echo%00",
        "/echo/1/2",
        "/%2Fecho",
        "/%2e/echo",
        "/..",
        "/echo#x",
        "/\\echo",
    ];
    for target in nowhere {
        assert_failure(&stage.http().get(target), 404, target);
    }
    let codes = [
        "%",
        "%0",
        "%zz",
        "%2",
        "%-1",
        "%+1",
        "% 1",
        "%c0%ae",
        "%c0%80",
        "%ff",
        "%ed%a0%80",
        "%u0000",
        "%0x",
    ];
    for code in codes.iter().filter(|code| !code.contains(' ')) {
        for target in
            [format!("/echo/{code}"), format!("/echo{code}"), format!("/echo?a={code}"), format!("/{code}")]
        {
            assert_failure(&stage.http().get(&target), 400, &target);
        }
    }
    let long = "a".repeat(100 * 1024);
    assert_refused(
        stage.http(),
        format!("GET /echo?{long} HTTP/1.1\r\n\r\n").as_bytes(),
        431,
        "100 KB of query",
    );
    stage.assert_unharmed();
}

#[test]
fn a_long_or_strange_method_is_answered_like_any_unknown_method() {
    let mut stage = Stage::start();
    let methods = ["X".repeat(12 * 1024), "get".to_owned(), "G-E-T".to_owned(), "!#$%&'*+.^_`|~".to_owned()];
    for method in methods {
        let answer = stage.http().request(&method, "/echo", &[], b"");
        assert_failure(&answer, 405, &method);
        assert_eq!(answer.header("Allow"), Some("DELETE, GET, PATCH, POST, PUT, HEAD"));
    }
    let endless = format!("{} /echo HTTP/1.1\r\n\r\n", "X".repeat(17 * 1024));
    assert_refused(stage.http(), endless.as_bytes(), 431, "17 KiB of method");
    stage.assert_unharmed();
}

#[test]
fn the_last_of_duplicate_members_counts_at_every_depth() {
    let mut stage = Stage::start();
    let json_type = [("Content-Type", "application/json")];
    let twice = br#"{"a":1,"a":{"b":1,"b":2},"\u0061":{"b":3,"b":4},"params":"mine"}"#;
    let params: Value =
        stage.http().request("POST", "/echo/path", &json_type, twice).results()["params"].clone();
    assert_eq!(params, json!({ "a": { "b": 4 }, "params": "path" }));
    let many = "\"k\":[1,2],".repeat(50_000);
    let body = format!("{{{many}\"k\":\"last\"}}");
    let answer = stage.http().request("POST", "/echo", &json_type, body.as_bytes());
    assert_eq!(answer.results()["params"], json!({ "k": "last" }));
    stage.assert_unharmed();
}
