use tiny_http::HTTPVersion;

use super::*;

#[test]
fn an_answer_is_written_with_its_length_and_with_no_header_that_cannot_be_sent() {
    let answer =
        HttpAnswer::json(201, &json!({ "a": "¶" })).with_header("X-Good", "yes").with_header("X-Bad", "é");
    let mut bytes = Vec::new();
    answer.into_response().raw_print(&mut bytes, HTTPVersion(1, 1), &[], false, None).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 201 Created\r\n"), "{head}");
    assert_eq!(body, "{\"a\":\"¶\"}\n");
    for line in ["Content-Length: 11", "Content-Type: application/json", "X-Good: yes"] {
        assert!(head.lines().any(|written| written == line), "{line} is not in {head}");
    }
    assert!(!head.contains("X-Bad") && !head.contains("Transfer-Encoding"), "{head}");
}

#[test]
fn every_body_ends_with_one_newline() {
    for (json, body) in [("{}", "{}\n"), ("{}\n", "{}\n"), ("", "\n")] {
        assert_eq!(HttpAnswer::from_json(200, json.as_bytes().to_vec()).body, body.as_bytes());
    }
    assert_eq!(HttpAnswer::text("text/plain", "a\nb".to_owned()).body, b"a\nb\n");
    let error = HttpAnswer::from(RequestError::new(503, "busy"));
    assert_eq!(error.body, b"{\"errorcode\":503,\"errormessage\":\"busy\"}\n");
    assert!(error.headers().eq([("Retry-After", "3")]));
}
