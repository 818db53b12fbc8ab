//! Tests of the parent module: events as text, and places as numbers.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn event(packet: &str) -> String {
    let mut out = Vec::new();
    append_reply(&mut out, &ReplyFrame::parse(packet).unwrap());
    String::from_utf8(out).unwrap()
}

/// Reads the text of an event as a client does: returns the id, and the lines of the data joined by line ends.
fn understood(text: &str) -> (Option<String>, String) {
    let block = text.strip_suffix("\n\n").expect("an event ends with an empty line");
    let fields: Vec<(&str, &str)> = block.split('\n').map(|line| line.split_once(": ").unwrap()).collect();
    let all = |name| fields.iter().filter(move |(known, _)| *known == name).map(|(_, value)| *value);
    assert!(fields.iter().all(|(name, _)| ["id", "data"].contains(name)), "{text:?}");
    (all("id").next().map(str::to_owned), all("data").collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_reply_is_an_event_with_its_number_and_its_results() {
    for (packet, expected) in [
        (r#"{"key":1,"seq":7,"results":{"a":1},"more":true}"#, "id: 7\ndata: {\"a\":1}\n\n"),
        (r#"{"key":1,"results":"a: b","more":true}"#, "data: \"a: b\"\n\n"),
        (r#"{"key":1,"seq":0,"results":null}"#, "id: 0\ndata: null\n\n"),
        (r#"{"key":1,"seq":7,"more":true}"#, ": following from 7 on\n\n"),
        (r#"{"key":1,"more":true}"#, ": following\n\n"),
    ] {
        assert_eq!(event(packet), expected, "{packet}");
    }
}

#[test]
fn results_on_several_lines_are_several_lines_of_data() {
    for ends in ["\n", "\r", "\r\n", "\n\n", "\r\r\n\n"] {
        let packet = format!("{{\"key\":1,\"seq\":3,\"results\":{{{ends}\"a\":{ends} [1,{ends}2]}}}}");
        let text = event(&packet);
        assert!(!text.contains('\r'), "{text:?}");
        let (id, data) = understood(&text);
        assert_eq!(id.as_deref(), Some("3"));
        assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), json!({ "a": [1, 2] }), "{text:?}");
    }
}

#[test]
fn the_end_says_why() {
    let mut out = Vec::new();
    append_end(&mut out, &Failure::new(410, "all is\ngone ¶"));
    let text = String::from_utf8(out).unwrap();
    let data = text.strip_prefix("event: error\ndata: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap();
    let told: Value = serde_json::from_str(data).unwrap();
    assert_eq!(told, json!({ "errorcode": 410, "errormessage": "all is\ngone ¶" }));
}

proptest! {
    #[test]
    fn whatever_the_results_are_a_client_reads_them_and_nothing_else(text in any::<String>(), pretty in any::<bool>()) {
        let results = json!({ &text: [&text, { "event": "x\n\nid: 9" }] });
        let json = if pretty { serde_json::to_string_pretty(&results) } else { serde_json::to_string(&results) };
        let (id, data) = understood(&event(&format!("{{\"seq\":5,\"results\":{}}}", json.unwrap())));
        prop_assert_eq!(id.as_deref(), Some("5"));
        prop_assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), results);
    }
}

#[test]
fn every_permit_is_returned_even_after_a_rejection() {
    let open = Arc::new(AtomicUsize::new(0));
    let places: Vec<StreamPlace> = (0..2).map(|_| StreamPlace::take(open.clone(), 2).unwrap()).collect();
    for _ in 0..3 {
        assert!(StreamPlace::take(open.clone(), 2).is_none());
    }
    assert_eq!(open.load(Ordering::SeqCst), 2);
    drop(places);
    assert!(StreamPlace::take(open.clone(), 2).is_some());
    assert_eq!(open.load(Ordering::SeqCst), 0);
    assert!(StreamPlace::take(open.clone(), 0).is_none());
}
