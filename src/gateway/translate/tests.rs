//! Tests of the parent module, on values only.

use std::net::Ipv4Addr;
use std::time::Instant;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use tiny_http::Header;

use super::*;
use crate::net::link::Refusal;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

fn request(method: Method, content_type: Option<&str>, body: &[u8]) -> HttpRequest {
    let header = |value: &str| Header::from_bytes("Content-Type", value).unwrap();
    let headers = content_type.map(header).into_iter().collect();
    HttpRequest {
        method,
        target: String::new(),
        headers,
        body: body.to_vec(),
        peer: Ipv4Addr::LOCALHOST.into(),
        began: Instant::now(),
    }
}

/// The `params` of a POST.
fn post(content_type: Option<&str>, query: &str, body: &[u8]) -> Result<Value, u16> {
    let params = params(&request(Method::Post, content_type, body), query, None);
    params.map(|params| serde_json::from_str(params.get()).unwrap()).map_err(|refused| refused.status)
}

#[test]
fn the_body_wins_over_the_query_and_the_path_over_both() {
    let both = request(Method::Post, Some(JSON), br#"{"b":2,"params":2}"#);
    let whole = params(&both, "a=1&b=1&params=1", Some("3".into())).unwrap();
    assert_eq!(whole.get(), r#"{"a":"1","b":2,"params":"3"}"#);
    for method in [Method::Get, Method::Head] {
        let ignored = request(method, Some("text/plain"), b"anything");
        assert_eq!(params(&ignored, "a=1", None).unwrap().get(), r#"{"a":"1"}"#);
    }
    for method in [Method::Delete, Method::Put, Method::Patch, Method::Options, "BREW".parse().unwrap()] {
        let read = request(method, Some(JSON), br#"{"a":2}"#);
        assert_eq!(params(&read, "a=1", None).unwrap().get(), r#"{"a":2}"#);
    }
}

#[test]
fn the_type_of_a_body_decides_how_it_is_read() {
    let object = br#" {"a":1}"#;
    for understood in [None, Some(""), Some(JSON), Some(FORM), Some("APPLICATION/json ;x=y"), Some(";x=y")] {
        assert_eq!(post(understood, "", object), Ok(json!({ "a": 1 })), "{understood:?}");
    }
    for other in ["text/plain", "application/jsonp", "application", "json", "application/json,text/plain"] {
        assert_eq!(post(Some(other), "", object), Err(415), "{other}");
        assert_eq!(post(Some(other), "", b""), Ok(json!({})), "{other}, but no body");
    }
    assert_eq!(post(None, "", b"a=1"), Err(415));
    assert_eq!(post(None, "", b"{a=1"), Err(400));
    assert_eq!(post(Some(FORM), "", b"a=1&a=2&b"), Ok(json!({ "a": ["1", "2"], "b": "" })));
    assert_eq!(post(Some(FORM), "", br#"{"a":"#), Ok(json!({ r#"{"a":"#: "" })));
    assert_eq!(post(Some(FORM), "", b"a=%"), Err(400));
    assert_eq!(post(Some(FORM), "", b"a=\xff"), Err(400));
    assert_eq!(post(Some(JSON), "", b"[1]"), Err(400));
    assert_eq!(post(Some(JSON), "", b"{\"a\":\"\xff\"}"), Err(400));
}

#[test]
fn depth_counts_arrays_and_objects_and_nothing_in_strings() {
    for (json, levels) in [
        ("", 0),
        ("1", 0),
        ("{}", 1),
        ("[[],[[]],[]]", 3),
        (r#"{"a":[{"b":{}}]}"#, 4),
        (r#""[[[[""#, 0),
        (r#"["\"[[[", "\\", "[["]"#, 1),
        (r#"{"[":"{","\\":["]"]}"#, 2),
        ("]]]}}}[", 1),
    ] {
        assert_eq!(depth(json), levels, "{json}");
    }
    let nested = |levels| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    assert!(post(Some(JSON), "", nested(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(post(Some(JSON), "", nested(MAX_DEPTH + 1).as_bytes()), Err(400));
    assert_eq!(post(None, "", nested(500_000).as_bytes()), Err(400));
}

#[test]
fn every_outcome_has_its_status() {
    for (outcome, status, again) in [
        (Outcome::Timeout, 504, false),
        (Outcome::LinkLost, 502, false),
        (Outcome::Refused(Refusal::Down), 503, true),
        (Outcome::Refused(Refusal::Busy), 503, true),
        (Outcome::Refused(Refusal::NoTurn), 503, true),
        (Outcome::Refused(Refusal::TooLarge { bytes: 3, limit: 2 }), 413, false),
        (Outcome::Refused(Refusal::TooLargeForCourse { bytes: 70_000 }), 413, false),
        (Outcome::Refused(Refusal::Ring), 508, false),
    ] {
        let answer = outcome_answer(outcome, "/users");
        assert_eq!(answer.status, status, "{outcome:?}");
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["errorcode"], status);
        assert!(body["errormessage"].as_str().unwrap().starts_with("/users: "), "{body}");
        assert_eq!(answer.headers().any(|(name, _)| name == "Retry-After"), again, "{outcome:?}");
    }
}

#[test]
fn a_reply_has_its_status_else_its_errorcode_else_200() {
    for (errorcode, said, status) in [
        (None, None, 200),
        (Some(0), None, 200),
        (Some(0), Some(201), 201),
        (Some(404), None, 404),
        (Some(404), Some(410), 410),
        (Some(1), None, 200),
        (Some(-404), None, 200),
        (Some(399), None, 200),
        (Some(599), None, 599),
        (Some(600), None, 200),
        (Some(65_536 + 404), None, 200),
        (Some(404), Some(100), 404),
        (Some(404), Some(600), 404),
        (Some(0), Some(65_535), 200),
    ] {
        let packet = json!({ "errorcode": errorcode, "status": said });
        let answer = reply_answer(ReplyFrame::parse(&packet.to_string()).unwrap());
        assert_eq!(answer.status, status, "{errorcode:?} {said:?}");
    }
}

/// Text in valid and in invalid forms, as clients may send it.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z&=%+;?/{}\"\\[\\]:, 0-9¶한\\\\]{0,40}"]
}

fn content_type() -> impl Strategy<Value = Option<String>> {
    let known =
        [JSON, FORM, "application/json; charset=utf-8", "text/plain", "", ";", " "].map(str::to_owned);
    prop_oneof![Just(None), select(known.to_vec()).prop_map(Some), "[ -~]{0,20}".prop_map(Some)]
}

/// Any JSON with shallow nesting.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 64, 5, |inner| {
        let members = btree_map(text(), inner.clone(), 0..5);
        prop_oneof![
            vec(inner, 0..5).prop_map(Value::from),
            members.prop_map(|members| Value::from(Map::from_iter(members)))
        ]
    })
}

fn levels(json: &Value) -> usize {
    match json {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

proptest! {
    #[test]
    fn whatever_comes_params_are_one_json_object_or_a_refusal(
        query in text(),
        body in prop_oneof![vec(any::<u8>(), 0..60), text().prop_map(String::into_bytes)],
        content_type in content_type(),
        segment in proptest::option::of(text()),
    ) {
        let request = request(Method::Post, content_type.as_deref(), &body);
        match params(&request, &query, segment.as_deref().map(Cow::Borrowed)) {
            Ok(params) => {
                let read: Value = serde_json::from_str(params.get()).unwrap();
                prop_assert!(read.is_object());
                if let Some(segment) = segment {
                    prop_assert_eq!(&read["params"], &Value::from(segment));
                }
            }
            Err(refused) => prop_assert!([400, 415].contains(&refused.status)),
        }
    }

    #[test]
    fn a_query_and_a_form_give_back_what_was_put_in(pairs in vec((text(), text()), 0..8)) {
        let encoded = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
        let mut expected = Map::new();
        for (name, _) in &pairs {
            let mut values: Vec<Value> =
                pairs.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str().into()).collect();
            let value = if values.len() == 1 { values.remove(0) } else { values.into() };
            expected.insert(name.clone(), value);
        }
        let expected = Value::from(expected);
        prop_assert_eq!(post(None, &encoded, b""), Ok(expected.clone()));
        prop_assert_eq!(post(Some(FORM), "", encoded.as_bytes()), Ok(expected));
    }

    #[test]
    fn a_json_body_gives_back_what_was_put_in(members in btree_map(text(), any_json(), 0..6)) {
        let body = Value::from(Map::from_iter(members));
        for content_type in [Some(JSON), Some(FORM), None] {
            prop_assert_eq!(post(content_type, "", body.to_string().as_bytes()), Ok(body.clone()));
            let spread = serde_json::to_string_pretty(&body).unwrap();
            prop_assert_eq!(post(content_type, "", spread.as_bytes()), Ok(body.clone()));
        }
    }

    #[test]
    fn depth_is_that_of_the_value(json in any_json()) {
        prop_assert_eq!(depth(&json.to_string()), levels(&json));
    }

    #[test]
    fn any_reply_has_a_status_that_http_has(errorcode in any::<Option<i64>>(), said in any::<Option<u16>>()) {
        let packet = json!({ "errorcode": errorcode, "status": said });
        let answer = reply_answer(ReplyFrame::parse(&packet.to_string()).unwrap());
        prop_assert!((200..600).contains(&answer.status));
    }
}
