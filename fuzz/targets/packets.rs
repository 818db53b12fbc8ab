//! Packets and replies: any text of a frame. The decoded packet matches the text. The encoded packet matches it too,
//! with one `¶`, at its end.
//!
//! Input: the text of a frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pilcrow::net::link::ReplyFrame;
use pilcrow::packet::frame::FrameReader;
use pilcrow::packet::{
    Answer, DELIMITER, Dialect, Failure, Head, Key, Origin, Outgoing, Reply, Timing, course, encode,
};
use serde_json::Value;
use serde_json::value::RawValue;

fuzz_target!(|text: &str| {
    let packet: Option<Value> = serde_json::from_str(text).ok().filter(Value::is_object);
    let Ok(head) = Head::parse(text) else {
        assert!(packet.is_none(), "an object is understood");
        assert!(ReplyFrame::parse(text).is_err());
        return;
    };
    let raw: &RawValue = serde_json::from_str(text).expect("what is understood is JSON");
    assert!(raw.get().starts_with('{'), "and an object");
    if let Some(packet) = &packet {
        head_says_what_the_packet_says(&head, packet);
    }
    reply_is_passed_on_untouched(text, &head);
    let sent = sent(&encode(raw).expect("JSON has a JSON form"));
    assert_eq!(value(&sent), packet, "passed on as it came");
    request_arrives(&head);
    answer_arrives(&head);
});

/// The value of a JSON text. `None` for text that a peer may send but that has no value here (numbers out of range,
/// half a surrogate).
fn value(json: &str) -> Option<Value> {
    serde_json::from_str(json).ok()
}

/// The text of the single frame in `bytes`.
fn sent(bytes: &[u8]) -> String {
    let text = bytes.strip_suffix(&DELIMITER).expect("a frame ends with its delimiter");
    assert!(!text.windows(2).any(|two| two == DELIMITER), "and has no other");
    let mut reader = FrameReader::new(bytes, bytes.len(), Dialect::Pilcrow);
    let frame = reader.next_frame().expect("a frame that we send can be read").map(str::to_owned);
    assert!(matches!(reader.next_frame(), Ok(None)), "and is one");
    frame.expect("and is not empty")
}

fn head_says_what_the_packet_says(head: &Head<'_>, packet: &Value) {
    assert_eq!(head.uri.as_deref(), packet["uri"].as_str());
    assert_eq!(head.method.as_deref(), packet["method"].as_str());
    assert_eq!(head.etag.as_deref(), packet["etag"].as_str());
    assert_eq!(head.more, packet["more"] == Value::Bool(true));
    for (known, field) in
        [(&head.request_id, "request_id"), (&head.client, "client"), (&head.authorization, "authorization")]
    {
        assert_eq!(known.as_deref(), packet[field].as_str());
    }
    assert_eq!(head.sent_ms, packet["sent_ms"].as_u64());
    assert_eq!(head.seq, packet["seq"].as_u64());
    assert_eq!(head.retry_after, packet["retry_after"].as_u64());
    assert_eq!(head.deadline_ms, packet["deadline_ms"].as_u64());
    let small = |field: &str| packet[field].as_u64();
    assert_eq!(head.status, small("status").and_then(|status| u16::try_from(status).ok()));
    assert_eq!(head.hops, small("hops").and_then(|hops| u32::try_from(hops).ok()));
    for (raw, field) in [(head.params, "params"), (head.results, "results"), (head.key, "key")] {
        assert_eq!(raw.and_then(|raw| value(raw.get())).as_ref(), packet.get(field), "{field}");
    }
    // The error code has two names. The value does not show which of them came last, and only one of the two reads `-0`
    // as 0.
    let one_name = packet.get("errorcode").xor(packet.get("errorCode"));
    if let Some(code) = one_name.filter(|code| code.as_f64() != Some(0.0)) {
        assert_eq!(head.errorcode, code.as_i64());
    }
}

fn reply_is_passed_on_untouched(text: &str, head: &Head<'_>) {
    let reply = ReplyFrame::parse(text).expect("what is a packet may be a reply");
    assert_eq!(reply.json, text);
    assert_eq!(reply.results(), head.results.map(RawValue::get));
    assert_eq!((reply.errorcode, reply.status), (head.errorcode, head.status));
    assert_eq!((reply.more, reply.seq), (head.more, head.seq));
    assert_eq!(reply.etag.as_deref(), head.etag.as_deref());
}

/// The fields of the head survive as a request of ours, in both dialects.
fn request_arrives(head: &Head<'_>) {
    let Some(params) = head.params else { return };
    let (uri, method) = (head.uri.as_deref().unwrap_or("/"), head.method.as_deref().unwrap_or("GET"));
    let key = head.number().filter(|key| (1..1 << 52).contains(key)).unwrap_or(17);
    let origin = Origin::of(head);
    let request = Outgoing { uri, method, params, hops: 2, origin: origin.as_ref(), explanation: None };
    let timing = Timing { deadline_ms: 5, sent_ms: 1 };
    for dialect in [Dialect::Pilcrow, Dialect::Course] {
        let mut bytes = Vec::new();
        let written = match dialect {
            Dialect::Pilcrow => request.write(&mut bytes, key, timing),
            Dialect::Course => course::write_request(&mut bytes, &request, key, None),
        };
        written.expect("it has a JSON form");
        let arrived = sent(&bytes);
        let arrived = Head::parse(&arrived).expect("a request of ours is understood");
        assert_eq!(arrived.uri.as_deref(), Some(uri));
        assert_eq!(arrived.method.as_deref(), Some(method));
        match dialect {
            Dialect::Pilcrow => assert_eq!(arrived.number(), Some(key)),
            Dialect::Course => assert_eq!(course::key_of_reply(&arrived).map(|(key, _)| key), Some(key)),
        }
        let ours = dialect == Dialect::Pilcrow;
        let travelled = (arrived.deadline_ms, arrived.sent_ms, arrived.hops);
        assert_eq!(travelled, if ours { (Some(5), Some(1), Some(2)) } else { (None, None, None) });
        assert_eq!(Origin::of(&arrived), if ours { origin.clone() } else { None });
        let mut expected = value(params.get());
        if let Some(Value::Object(members)) = expected.as_mut().filter(|_| !ours) {
            members.insert("key".to_owned(), (2 * key).into());
        }
        assert_eq!(arrived.params.and_then(|params| value(params.get())), expected);
    }
}

/// Answers this packet: as a success, as one of several replies, and as a failure.
fn answer_arrives(head: &Head<'_>) {
    let key = head.answer_key();
    assert!(key.as_ref().is_none_or(|key| key.to_string().chars().count() <= 40));
    let text = head.uri.as_deref().unwrap_or_default();
    let failure = Failure::new(404, text).with("about", text);
    let mut outcomes = vec![Err(failure)];
    if let Some(results) = head.results {
        let reply = Reply::ok(results).and_then(|reply| reply.with_status(201).with("next", text));
        outcomes.push(Ok(reply.expect("JSON has a JSON form")));
    }
    for (outcome, more) in outcomes.iter().zip([false, true]) {
        let answer = Answer { key: key.as_ref(), outcome, more };
        let arrived = sent(&answer.encode().expect("an answer has a JSON form"));
        let arrived = Head::parse(&arrived).expect("an answer of ours is understood");
        let text_of = |key: Option<Key>| key.and_then(|key| value(key.json()));
        assert_eq!(text_of(arrived.answer_key()), text_of(key.clone()));
        assert_eq!(arrived.errorcode, Some(if more { 0 } else { 404 }));
        assert_eq!(arrived.more, more);
        if more {
            let json = |raw: Option<&RawValue>| raw.and_then(|raw| value(raw.get()));
            assert_eq!(json(arrived.results), json(head.results));
        }
    }
}
