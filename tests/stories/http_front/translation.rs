//! The `params` that reach a service, through a service that shows them.

use serde_json::{Value, json};

use super::{Stage, assert_failure};
use crate::harness::System;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

#[test]
fn query_values_are_text_and_repeated_names_are_arrays() {
    let stage = Stage::start();
    let table = [
        ("/echo", json!({})),
        ("/echo?", json!({})),
        ("/echo?a=1", json!({ "a": "1" })),
        ("/echo?a=true&b=null&c=%7B%7D", json!({ "a": "true", "b": "null", "c": "{}" })),
        ("/echo?a=1&a=2&b=3&a=1", json!({ "a": ["1", "2", "1"], "b": "3" })),
        ("/echo?a", json!({ "a": "" })),
        ("/echo?a=", json!({ "a": "" })),
        ("/echo?=a", json!({ "": "a" })),
        ("/echo?&&a=1&", json!({ "a": "1" })),
        ("/echo?a=b=c", json!({ "a": "b=c" })),
        ("/echo?a=b?c/d", json!({ "a": "b?c/d" })),
        ("/echo?a=b+c%2Bd%26e", json!({ "a": "b c+d&e" })),
        ("/echo?%EC%9D%B4%EB%A6%84=%ED%95%9C%EA%B8%80", json!({ "이름": "한글" })),
        (
            "/echo?a=%00&b=%22%5C&c=%C2%B6&d=%F0%9F%A6%80",
            json!({ "a": "\0", "b": "\"\\", "c": "¶", "d": "🦀" }),
        ),
        ("/echo?a[]=1&a[]=2&b.c=3", json!({ "a[]": ["1", "2"], "b.c": "3" })),
        ("/echo?params=1", json!({ "params": "1" })),
        ("/echo?key=5&method=DELETE&uri=/say", json!({ "key": "5", "method": "DELETE", "uri": "/say" })),
        ("/echo?a=..%2F..%2Fetc%2Fpasswd", json!({ "a": "../../etc/passwd" })),
        ("/echo?a=1#b", json!({ "a": "1#b" })),
    ];
    for (target, params) in table {
        assert_eq!(stage.params("GET", target, &[], b""), params, "{target}");
    }
}

#[test]
fn the_last_segment_reaches_a_service_decoded() {
    let stage = Stage::start();
    let table = [
        ("/echo/1", "1"),
        ("/echo/a%20b+c", "a b+c"),
        ("/echo/a%2Fb", "a/b"),
        ("/echo/a%2fb%2F", "a/b/"),
        ("/echo/%2F", "/"),
        ("/echo/%00", "\0"),
        ("/echo/%C2%B6", "¶"),
        ("/echo/%ED%95%9C%EA%B8%80", "한글"),
        ("/echo/한글", "한글"),
        ("/echo/%25", "%"),
        ("/echo/%252F", "%2F"),
        ("/echo/..", ".."),
        ("/echo/%2e%2e", ".."),
        ("/echo/a;b=c", "a;b=c"),
        ("/echo/%3F%23", "?#"),
        ("/%65cho/1", "1"),
        ("http://example.com/echo/1", "1"),
    ];
    for (target, segment) in table {
        assert_eq!(stage.params("GET", target, &[], b""), json!({ "params": segment }), "{target}");
    }
    // Exactly one segment; an empty one does not count.
    for target in ["/echo/1/2", "/echo/", "/echo//1", "//echo", "/echo/1/", "/ech", "/Echo", "/echo%2F1"] {
        assert_failure(&stage.http().get(target), 404, target);
    }
}

#[test]
fn invalid_percent_codes_are_bad_requests() {
    let stage = Stage::start();
    let bad = [
        "%",
        "%2",
        "%zz",
        "%+1",
        "%2G",
        "a%",
        "%%41",
        "%u0041",
        "%C3",
        "%ED%A0%80",
        "%FF",
        "%C0%AF",
        "%F4%90%80%80",
    ];
    for code in bad {
        for target in [
            format!("/echo/{code}"),
            format!("/{code}/echo"),
            format!("/echo?a={code}"),
            format!("/echo?{code}=a"),
        ] {
            assert_failure(&stage.http().get(&target), 400, &target);
        }
        let answer = stage.http().request("POST", "/echo", &[FORM], format!("a={code}").as_bytes());
        assert_failure(&answer, 400, code);
    }
    assert!(stage.echo.requests().is_empty());
}

#[test]
fn a_json_body_keeps_its_types_and_wins_over_the_query() {
    let stage = Stage::start();
    let body = json!({ "text": "¶한글🦀\0\"\\", "number": 1.5, "big": 9_007_199_254_740_993_i64, "none": null,
        "yes": true, "list": [1, [2, {}]], "object": { "¶": { "": [] } } });
    for content_type in [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        "application/json ; a=b; c=\"d;e\"",
    ] {
        let headers = [("Content-Type", content_type)];
        let params = stage.params("POST", "/echo", &headers, body.to_string().as_bytes());
        assert_eq!(params, body, "{content_type}");
    }
    let params = stage.params("POST", "/echo?a=1&a=2&b=3&params=4", &[JSON], br#"{"a":{"c":5},"params":6}"#);
    assert_eq!(params, json!({ "a": { "c": 5 }, "b": "3", "params": 6 }));
    let params = stage.params("PATCH", "/echo/7?params=4", &[JSON], br#" { "params" : 6 , "a" : 1 } "#);
    assert_eq!(params, json!({ "params": "7", "a": 1 }), "the path wins over both");
    assert_eq!(stage.params("PUT", "/echo", &[JSON], b"{}"), json!({}));
    assert_eq!(stage.params("DELETE", "/echo/1", &[JSON], br#"{"a":1}"#), json!({ "params": "1", "a": 1 }));
    assert_eq!(
        stage.params("POST", "/echo?a=1", &[JSON], b""),
        json!({ "a": "1" }),
        "an empty body counts as none"
    );
}

#[test]
fn the_last_of_two_members_with_one_name_counts() {
    let stage = Stage::start();
    let table: [(&[u8], Value); 4] = [
        (br#"{"a":1,"a":2}"#, json!({ "a": 2 })),
        (br#"{"a":1,"b":3,"\u0061":2}"#, json!({ "a": 2, "b": 3 })),
        (br#"{"a":{"x":1},"a":null}"#, json!({ "a": null })),
        (br#"{"a":{"x":1,"x":2}}"#, json!({ "a": { "x": 2 } })),
    ];
    for (body, params) in table {
        assert_eq!(stage.params("POST", "/echo", &[JSON], body), params, "{}", body.escape_ascii());
    }
}

#[test]
fn numbers_reach_a_service_as_they_were_written() {
    let stage = Stage::start();
    let body = r#"{"a":1.10,"b":-0.0,"c":123456789012345678901234567890,"d":1E2}"#;
    stage.params("POST", "/echo", &[JSON], body.as_bytes());
    let request = stage.echo.requests()[0].text.clone();
    assert!(request.contains(&format!("\"params\":{body}")), "{request}");
}

#[test]
fn params_that_a_service_cannot_read_get_400() {
    let system = System::start();
    for name in [r#""\ud800""#, r#""\udc00\ud800""#, "1e400", "-1e999", r#"{"\ud800":1}"#] {
        let body = format!("{{\"email\":\"kim@example.com\",\"name\":{name}}}");
        let answer = system.http().request("POST", "/users", &[JSON], body.as_bytes());
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
    }
    assert_eq!(system.create_user("kim@example.com", "Kim")["id"], 1);
}

#[test]
fn form_bodies_become_text_like_a_query() {
    let stage = Stage::start();
    let table: [(&str, Value); 7] = [
        ("a=1", json!({ "a": "1" })),
        ("a=1&a=2&b=+%2B", json!({ "a": ["1", "2"], "b": " +" })),
        ("name=%ED%95%9C%EA%B8%80&b", json!({ "name": "한글", "b": "" })),
        ("name=한글", json!({ "name": "한글" })),
        ("{a=1", json!({ "{a": "1" })),
        ("{\"a\":1", json!({ "{\"a\":1": "" })),
        ("[1]", json!({ "[1]": "" })),
    ];
    for (body, params) in table {
        for content_type in
            ["application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded; charset=utf-8"]
        {
            let headers = [("Content-Type", content_type)];
            assert_eq!(stage.params("POST", "/echo", &headers, body.as_bytes()), params, "{body}");
        }
    }
    let params = stage.params("PATCH", "/echo/7?a=0&c=3&params=4", &[FORM], b"a=1&params=6");
    assert_eq!(params, json!({ "a": "1", "c": "3", "params": "7" }));
}

#[test]
fn json_is_understood_without_a_type_and_with_the_one_that_curl_gives() {
    let stage = Stage::start();
    let body = r#"{"name":"Kim & Lee = 100%","age":7}"#;
    let untyped: [&[(&str, &str)]; 3] = [&[], &[("Content-Type", "")], &[FORM]];
    for headers in untyped {
        for body in [body.to_owned(), format!(" \r\n\t{body}\n")] {
            let params = stage.params("POST", "/echo", headers, body.as_bytes());
            assert_eq!(params, json!({ "name": "Kim & Lee = 100%", "age": 7 }), "{headers:?}");
        }
    }
}

#[test]
fn bodies_of_other_types_are_refused() {
    let stage = Stage::start();
    let types = [
        "text/plain",
        "text/json",
        "application/xml",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application/json, text/plain",
        "application/problem+json",
        "json",
        "*/*",
        "\u{e9}",
        ";application/json",
    ];
    for content_type in types {
        let answer = stage.http().request("POST", "/echo", &[("Content-Type", content_type)], b"{\"a\":1}");
        // A content type with only parameters is not a type.
        if content_type.starts_with(';') || !content_type.is_ascii() {
            assert_eq!(answer.results()["params"], json!({ "a": 1 }), "{content_type}");
        } else {
            assert_failure(&answer, 415, content_type);
        }
    }
    for body in ["a=1", "hello", "[1]", "1", "\"text\"", "null", "\u{feff}{}"] {
        let answer = stage.http().request("POST", "/echo", &[], body.as_bytes());
        assert_failure(&answer, 415, body);
    }
    // A request without a body needs no type.
    let params = stage.params("POST", "/echo?a=1", &[("Content-Type", "text/plain")], b"");
    assert_eq!(params, json!({ "a": "1" }));
}

#[test]
fn a_json_body_that_is_not_an_object_is_a_bad_request() {
    let stage = Stage::start();
    let bad: [&[u8]; 26] = [
        b"[]",
        b"[{}]",
        b"1",
        b"\"text\"",
        b"null",
        b"true",
        b" ",
        b"{",
        b"}",
        b"{]",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{a:1}",
        b"{'a':1}",
        b"{\"a\":1,}",
        b"{\"a\":1}{\"b\":2}",
        b"{\"a\":1} x",
        b"{\"a\":01}",
        b"{\"a\":NaN}",
        b"{\"a\":\"\x01\"}",
        b"{\"a\":\"\n\"}",
        b"{\"a\":\"\xff\"}",
        b"{\"\\ud800\":1}",
        b"{\"a\":\"\\x\"}",
        b"\xef\xbb\xbf{}",
        b"{\"a\":tru}",
    ];
    for body in bad {
        let answer = stage.http().request("POST", "/echo", &[JSON], body);
        assert_failure(&answer, 400, &body.escape_ascii().to_string());
    }
    let answer = stage.http().request("POST", "/echo", &[], b"{\"a\":");
    assert_failure(&answer, 400, "an object without a type that is none");
    assert!(stage.echo.requests().is_empty());
}

#[test]
fn json_with_ten_thousand_levels_is_rejected_and_disturbs_no_other() {
    let mut stage = Stage::start();
    let nested = |open: &str, close: &str, levels: usize| {
        format!("{{\"a\":{}1{}}}", open.repeat(levels), close.repeat(levels))
    };
    let mut connection = stage.http().connect();
    for (body, status) in [
        (nested("[", "]", 99), 200),
        (nested("{\"a\":", "}", 99), 200),
        (nested("[", "]", 100), 400),
        (nested("[", "]", 10_000), 400),
        (nested("{\"a\":", "}", 10_000), 400),
        (format!("{{\"a\":{}", "[".repeat(500_000)), 400),
        (format!("{}1", "{\"a\":".repeat(200_000)), 400),
        // Brackets inside a string do not count as nesting.
        (format!("{{\"a\":\"{}\\\"{}\"}}", "[".repeat(10_000), "{".repeat(10_000)), 200),
    ] {
        for headers in [&[JSON][..], &[]] {
            connection.send_request("POST", "/echo", headers, body.as_bytes());
            let answer = connection.receive().expect("the connection lives");
            assert_eq!(answer.status, status, "{}", &answer.text()[..100]);
        }
    }
    stage.assert_unharmed();
}

#[test]
fn a_body_on_get_is_ignored() {
    let stage = Stage::start();
    for headers in [&[JSON][..], &[FORM], &[("Content-Type", "text/plain")], &[]] {
        for body in ["{\"a\":1}", "a=1", "{", "\u{b6}"] {
            let params = stage.params("GET", "/echo/1?b=2", headers, body.as_bytes());
            assert_eq!(params, json!({ "params": "1", "b": "2" }), "{headers:?} {body}");
        }
    }
}

/// A client's text must not be mistaken for the gateway's.
#[test]
fn arguments_cannot_pass_for_parts_of_the_packet() {
    let stage = Stage::start();
    let body =
        json!({ "key": 1, "uri": "/say", "method": "GET", "errorcode": 0, "more": true, "results": "x" });
    assert_eq!(stage.params("POST", "/echo", &[JSON], body.to_string().as_bytes()), body);
    // A raw `¶`, in a value or in a name, does not end a packet.
    let pilcrow = "{\"a¶\":\"¶{\\\"key\\\":1}¶\"}";
    assert_eq!(stage.params("POST", "/echo", &[JSON], pilcrow.as_bytes()), json!({ "a¶": "¶{\"key\":1}¶" }));
    let requests = stage.echo.requests();
    assert_eq!(requests.len(), 2, "one packet for each request");
    assert!(requests[1].text.contains(r"\u00b6"), "{}", requests[1].text);
}
