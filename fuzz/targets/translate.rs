//! HTTP to packet and back: any URL, headers and body from a client, and any reply from a service.
//!
//! Input: the method, the headers, then lines: the target, a header's value, and then the body (or the reply).

#![no_main]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use pilcrow::gateway::translate::{params, reply_answer, wants_events};
use pilcrow::http::{HttpAnswer, HttpRequest, RequestError, Target};
use pilcrow::net::link::ReplyFrame;
use pilcrow::packet::{DELIMITER, Dialect, Head, Outgoing, Timing, course};
use serde_json::Value;
use serde_json::value::RawValue;
use tiny_http::{HTTPVersion, Header, Method};

const METHODS: [&str; 6] = ["GET", "POST", "PATCH", "DELETE", "HEAD", "X-OTHER"];
const TYPES: [Option<&str>; 6] = [
    None,
    Some("application/json"),
    Some("Application/JSON; charset=utf-8"),
    Some("application/x-www-form-urlencoded"),
    Some("text/plain"),
    Some(""),
];
const HEADERS: [&str; 5] = ["If-Match", "If-None-Match", "Last-Event-ID", "Accept", "Content-Type"];

fuzz_target!(|input: &[u8]| {
    let [method, headers, text @ ..] = input else { return };
    let mut lines = text.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (target, value, body) = (line(), line(), line().to_vec());
    // A parsed head guarantees this: a target is text, and a header's value has no control characters.
    let Ok(target) = std::str::from_utf8(target) else { return };
    let value: Vec<u8> = value.iter().copied().filter(|byte| matches!(byte, b' '..=b'~')).collect();

    let mut kept = Vec::new();
    if let Some(kind) = TYPES[usize::from(*headers) % TYPES.len()] {
        kept.extend(Header::from_bytes("Content-Type", kind));
    }
    kept.extend(Header::from_bytes(HEADERS[usize::from(headers >> 4) % HEADERS.len()], value));
    let method = METHODS[usize::from(*method) % METHODS.len()];
    let method = Method::from_str(method).expect("a method");
    let request = HttpRequest {
        method,
        target: target.to_owned(),
        headers: kept,
        body,
        peer: Ipv4Addr::LOCALHOST.into(),
        began: Instant::now(),
    };

    match packet(&request) {
        Ok(()) => {}
        Err(error) => {
            assert!([400, 415].contains(&error.status));
            let answer = HttpAnswer::from(error);
            let body = answer.body.clone();
            sent_as_it_is(answer, &body);
        }
    }
    if wants_events(&request) {
        assert_eq!(request.method, Method::Get);
    }
    reply(&request);
});

/// From the request to the packet.
fn packet(request: &HttpRequest) -> Result<(), RequestError> {
    let target = Target::parse(&request.target)?;
    let segment = target.last_segment()?;
    assert!(target.path.starts_with('/'));
    assert_eq!(target.path.rsplit('/').next(), Some(segment.replace('/', "%2F").as_str()));
    // A path stays the same path in every spelling of its characters.
    let codes: String = target
        .path
        .bytes()
        .map(|byte| if byte == b'/' { "/".to_owned() } else { format!("%{byte:02x}") })
        .collect();
    assert_eq!(Target::parse(&codes)?.path, target.path);

    let params = params(request, target.query, Some(segment.clone()))?;
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_str(params.get()).expect("params are an object");
    assert_eq!(value(members["params"]), Some(Value::from(&*segment)), "the path wins");
    let body: BTreeMap<String, &RawValue> = match request.method {
        Method::Get | Method::Head => BTreeMap::new(),
        _ => serde_json::from_slice(&request.body).unwrap_or_default(),
    };
    let is_json = request.header("Content-Type").is_some_and(|kind| kind.starts_with("application/json"));
    let ours = ["params", "after", "if_match"];
    for (name, written) in body.iter().filter(|(name, _)| is_json && !ours.contains(&name.as_str())) {
        assert_eq!(members[name].get(), written.get(), "the body wins over the query");
    }
    if matches!(request.method, Method::Get | Method::Head) || request.body.is_empty() {
        query_is_in(&members, target.query, &ours);
    }
    packet_is_sound(&target.path, request.method.as_str(), &params);
    Ok(())
}

fn query_is_in(members: &BTreeMap<String, &RawValue>, query: &str, ours: &[&str]) {
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        said.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    assert!(members.keys().all(|name| said.contains_key(name) || ours.contains(&name.as_str())));
    for (name, mut values) in said.into_iter().filter(|(name, _)| !ours.contains(&name.as_str())) {
        let expected = if values.len() == 1 { values.remove(0).into() } else { Value::from(values) };
        assert_eq!(value(members[&name]), Some(expected), "{name}");
    }
}

/// Numbers out of range and half surrogates have no value here. JSON that is nested too deep has been rejected.
fn value(json: &RawValue) -> Option<Value> {
    let value = serde_json::from_str(json.get());
    assert!(!value.as_ref().is_err_and(|error: &serde_json::Error| error.to_string().contains("recursion")));
    value.ok()
}

fn packet_is_sound(uri: &str, method: &str, params: &RawValue) {
    for dialect in [Dialect::Pilcrow, Dialect::Course] {
        let mut frame = Vec::new();
        let timing = Timing { deadline_ms: 5000, sent_ms: 0 };
        let request = Outgoing { uri, method, params, hops: 0, origin: None, explanation: None };
        let written = match dialect {
            Dialect::Pilcrow => request.write(&mut frame, 17, timing),
            Dialect::Course => course::write_request(&mut frame, &request, 9, None),
        };
        written.expect("a packet has a JSON form");
        let text = frame.strip_suffix(&DELIMITER).expect("and its delimiter");
        assert!(!text.windows(2).any(|two| two == DELIMITER), "at its end alone");
        let text = std::str::from_utf8(text).expect("it is text");
        let head = Head::parse(text).expect("no packet of ours costs us a connection");
        assert_eq!((head.uri.as_deref(), head.method.as_deref()), (Some(uri), Some(method)));
        assert_eq!(head.number(), Some(17));
        value(serde_json::from_str(text).expect("it is JSON"));
    }
}

/// From the reply to the answer. The body of the request serves as the reply.
fn reply(request: &HttpRequest) {
    let Ok(text) = std::str::from_utf8(&request.body) else { return };
    let Ok(reply) = ReplyFrame::parse(text) else { return };
    let etag = reply.etag.clone();
    let answer = reply_answer(reply);
    let said = answer.status;
    let answer = answer.conditional(request);
    assert!((200..600).contains(&answer.status));
    if answer.status != said {
        assert_eq!(answer.status, 304);
        let known = request.header("If-None-Match").expect("nothing else makes an answer a 304");
        assert!(known.contains('*') || known.contains(&etag.expect("without a tag there is none")));
        assert!(matches!(request.method, Method::Get | Method::Head));
    }
    let line = if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
    assert_eq!(answer.body, line.as_bytes());
    sent_as_it_is(answer, line.as_bytes());
}

/// The client receives exactly the intended answer: no additional header, and the same body, byte for byte.
fn sent_as_it_is(answer: HttpAnswer, body: &[u8]) {
    let status = answer.status;
    let mut bytes = Vec::new();
    let written = answer.into_response().raw_print(&mut bytes, HTTPVersion(1, 1), &[], false, None);
    written.expect("a buffer takes all");
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = parsed.parse(&bytes) else {
        panic!("an answer has a whole head")
    };
    assert_eq!(parsed.code, Some(status));
    let known = ["Server", "Date", "Content-Type", "Content-Length", "ETag", "Retry-After"];
    assert!(parsed.headers.iter().all(|header| known.contains(&header.name)), "{:?}", parsed.headers);
    let when = parsed.headers.iter().filter(|header| header.name == "Retry-After");
    assert!(when.into_iter().all(|header| status >= 400 && header.value.iter().all(u8::is_ascii_digit)));
    let expected = if [204, 304].contains(&status) { &[][..] } else { body };
    assert_eq!(&bytes[head..], expected);
}
