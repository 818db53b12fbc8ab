//! The writer of Server-Sent Events: for every input from a service, a browser receives exactly that input.
//!
//! Input: the text of a reply.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pilcrow::gateway::events::{append_end, append_reply};
use pilcrow::net::link::ReplyFrame;
use pilcrow::packet::Failure;
use serde_json::Value;

/// An event as a browser passes it to its page.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    id: Option<String>,
    name: String,
    data: String,
}

fuzz_target!(|text: &str| {
    // Three times, as in a batch: no event may swallow a part of the next one.
    let mut out = Vec::new();
    let reply = ReplyFrame::parse(text);
    if let Ok(reply) = &reply {
        append_reply(&mut out, reply);
        append_reply(&mut out, reply);
    }
    append_end(&mut out, &Failure::new(410, text));
    let mut events = understood(std::str::from_utf8(&out).expect("an event stream is UTF-8"));

    let last = events.pop().expect("an end is an event");
    let told: Value = serde_json::from_str(&last.data).expect("what it tells is JSON");
    assert_eq!(told, serde_json::json!({ "errorcode": 410, "errormessage": text }));
    assert_eq!((last.name.as_str(), last.id), ("error", None));

    let Ok(reply) = reply else { return assert!(events.is_empty()) };
    let Some(results) = reply.results() else { return assert!(events.is_empty(), "a comment is no event") };
    assert_eq!(events.len(), 2);
    for event in events {
        assert_eq!(event.name, "");
        assert_eq!(event.id, reply.seq.map(|seq| seq.to_string()));
        // Line ends are only between tokens, and their number has no meaning.
        let lines: Vec<&str> = results.split(['\r', '\n']).filter(|line| !line.is_empty()).collect();
        assert_eq!(event.data, lines.join("\n"));
        let (sent, got) = (serde_json::from_str::<Value>(results), serde_json::from_str(&event.data));
        assert_eq!(sent.ok(), got.ok());
    }
});

/// Reads an event stream as the HTML standard defines (9.2.6), and accepts no field that we do not send.
fn understood(stream: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let mut event = Event::default();
    let ends = stream.replace("\r\n", "\n").replace('\r', "\n");
    let lines = ends.strip_suffix('\n').expect("an event stream ends with a line end");
    for line in lines.split('\n') {
        if line.is_empty() {
            let whole = std::mem::take(&mut event);
            // An event needs data.
            if let Some(data) = whole.data.strip_suffix('\n') {
                events.push(Event { data: data.to_owned(), ..whole });
            }
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => {}
            "data" => {
                event.data.push_str(value);
                event.data.push('\n');
            }
            "event" => value.clone_into(&mut event.name),
            "id" => event.id = Some(value.to_owned()),
            other => panic!("a field that nobody sends: {other}"),
        }
    }
    assert_eq!(event, Event::default(), "the last event is whole");
    events
}
