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
    assert_eq!(body, r#"{"a":"¶"}"#);
    for line in ["Content-Length: 10", "Content-Type: application/json", "X-Good: yes"] {
        assert!(head.lines().any(|written| written == line), "{line} is not in {head}");
    }
    assert!(!head.contains("X-Bad") && !head.contains("Transfer-Encoding"), "{head}");
}
