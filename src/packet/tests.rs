//! Tests of the parent module as a value.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::course::KeyPlace;
use super::frame::{BadFrame, FrameError, FrameReader};
use super::*;

const LIMIT: usize = 100_000;

/// A connection that delivers one of these pieces per read.
struct Pieces(VecDeque<Vec<u8>>);

impl Pieces {
    fn of(pieces: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self(pieces.into_iter().collect())
    }

    /// Cuts `bytes` at these places.
    fn cut(bytes: &[u8], places: impl IntoIterator<Item = usize>) -> Self {
        let mut places: Vec<usize> = places.into_iter().chain([0, bytes.len()]).collect();
        places.sort_unstable();
        places.dedup();
        Self::of(places.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec()))
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut piece) = self.0.pop_front() else { return Ok(0) };
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        if count < piece.len() {
            self.0.push_front(piece.split_off(count));
        }
        Ok(count)
    }
}

/// All frames of a stream, and the error that ended it.
fn read_all(from: impl Read, limit: usize) -> (Vec<String>, Option<FrameError>) {
    let mut reader = FrameReader::new(from, limit, Dialect::Pilcrow);
    let mut frames = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push(frame.to_owned()),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

fn bad_frame_of(error: &FrameError) -> &BadFrame {
    match error {
        FrameError::TooLong(bad)
        | FrameError::NotUtf8(bad)
        | FrameError::NotAnObject(bad, _)
        | FrameError::Truncated(bad)
        | FrameError::Stalled(bad) => bad,
        FrameError::Io(error) => panic!("no fault of a frame: {error}"),
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// Text with characters that a codec may handle badly: `¶`, others that share one of its bytes, quotes, control
/// characters, and any other character.
fn text() -> impl Strategy<Value = String> {
    let special =
        select(vec!["¶", "¶¶", "ö", "¢", "\u{b6}\u{f6}", "한글", "🦀", "\"", "\\", "\u{0}", "\n", "\\u00b6"]);
    let piece = prop_oneof![special.prop_map(str::to_owned), any::<char>().prop_map(String::from)];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 4.0)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map(text(), value(), 0..6).prop_map(|fields| fields.into_iter().collect())
}

/// Bytes that may appear between two frames and have no meaning.
fn gap() -> impl Strategy<Value = String> {
    prop::collection::vec(select(vec![" ", "\n", "\r\n", "\t", "¶", " ¶"]), 0..4).prop_map(|gap| gap.concat())
}

proptest! {
    #[test]
    fn any_object_is_one_frame_and_comes_back_equal(fields in object()) {
        let object = Value::Object(fields);
        let frame = encode(&object).unwrap();
        let ends: Vec<usize> = memchr::memmem::find_iter(&frame, &DELIMITER).collect();
        prop_assert_eq!(ends, vec![frame.len() - DELIMITER.len()]);
        let (frames, error) = read_all(frame.as_slice(), LIMIT);
        prop_assert!(error.is_none());
        prop_assert_eq!(frames.len(), 1);
        prop_assert!(Head::parse(&frames[0]).is_ok());
        prop_assert_eq!(serde_json::from_str::<Value>(&frames[0]).unwrap(), object);
    }

    #[test]
    fn text_passed_on_as_it_came_is_one_frame_too(value in value()) {
        // This sender does not escape ¶, like every course node.
        let written = RawValue::from_string(value.to_string()).unwrap();
        let both = [encode(&json!({ "results": 1 })).unwrap(), encode(&written).unwrap()].concat();
        let (frames, error) = read_all(both.as_slice(), LIMIT);
        prop_assert!(error.is_none());
        prop_assert_eq!(frames.len(), 2);
        prop_assert_eq!(serde_json::from_str::<Value>(&frames[1]).unwrap(), value);
    }

    #[test]
    fn frames_come_out_the_same_wherever_the_stream_is_cut(
        packets in prop::collection::vec((gap(), object()), 1..6),
        last_gap in gap(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        for (gap, packet) in &packets {
            bytes.extend_from_slice(gap.as_bytes());
            encode_into(&mut bytes, packet).unwrap();
        }
        bytes.extend_from_slice(last_gap.as_bytes());
        let pieces = Pieces::cut(&bytes, places.iter().map(|place| place.index(bytes.len())));
        let (frames, error) = read_all(pieces, LIMIT);
        prop_assert!(error.is_none(), "{:?}", error);
        let came: Vec<Map<String, Value>> =
            frames.iter().map(|frame| serde_json::from_str(frame).unwrap()).collect();
        let sent: Vec<Map<String, Value>> = packets.into_iter().map(|(_, packet)| packet).collect();
        prop_assert_eq!(came, sent);
    }

    #[test]
    fn whatever_comes_the_reader_ends_and_says_no_more_than_80_characters(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        limit in 1..300_usize,
    ) {
        let (frames, error) = read_all(bytes.as_slice(), limit);
        prop_assert!(frames.iter().all(|frame| !frame.is_empty() && frame.len() <= limit));
        if let Some(error) = error {
            let bad = bad_frame_of(&error);
            prop_assert!(bad.begins.chars().count() <= 80);
            prop_assert!(bad.begins.chars().all(|c| c.is_alphanumeric() || c == '…' || (' '..='~').contains(&c)));
            prop_assert_eq!(bad.limit, limit);
            prop_assert!(bad.size <= bytes.len());
        }
    }

    #[test]
    fn an_excerpt_never_shows_what_follows_a_secrets_name(
        before in prop::collection::vec(any::<u8>(), 0..120),
        name in select(vec!["password", "Password", "PASSWORD", "new_password", "token", "Authorization", "secret"]),
        between in select(vec!["\":\"", "=", "", "\":", "\": \""]),
    ) {
        let frame = [&before, name.as_bytes(), between.as_bytes(), b"HUNTER22"].concat();
        let bad = BadFrame::of(&frame, 10);
        prop_assert!(!bad.begins.contains("HUNTER22"), "{}", bad.begins);
        prop_assert!(bad.begins.chars().count() <= 80);
    }

    #[test]
    fn a_head_is_found_in_any_order_of_its_fields(
        fields in Just(vec![
            r#""uri":"/users""#,
            r#""method":"GET""#,
            r#""key": 17"#,
            r#""params":{"key":5,"errorcode":1}"#,
            r#""errorcode":404"#,
            r#""status" : 201"#,
            r#""deadline_ms":5000"#,
            r#""results":{"key":1,"status":9,"uri":"/no"}"#,
            r#""more":true"#,
            r#""seq":12"#,
            r#""etag":"a\u00b6""#,
            r#""hops":2"#,
            r#""further":[{"key":2,"more":false}]"#,
        ]).prop_shuffle(),
    ) {
        let frame = format!("{{{}}}", fields.join(" , "));
        let head = Head::parse(&frame).unwrap();
        prop_assert_eq!(head.uri.as_deref(), Some("/users"));
        prop_assert_eq!(head.method.as_deref(), Some("GET"));
        prop_assert_eq!(head.number(), Some(17));
        prop_assert_eq!(head.params.map(RawValue::get), Some(r#"{"key":5,"errorcode":1}"#));
        prop_assert_eq!((head.errorcode, head.status, head.deadline_ms), (Some(404), Some(201), Some(5000)));
        prop_assert_eq!(head.results.map(RawValue::get), Some(r#"{"key":1,"status":9,"uri":"/no"}"#));
        prop_assert_eq!((head.more, head.seq, head.etag.as_deref()), (true, Some(12), Some("a¶")));
        prop_assert_eq!(head.hops, Some(2));
    }

    #[test]
    fn any_key_is_echoed_as_the_text_that_came(key in value()) {
        let key = key.to_string();
        let frame = format!(r#"{{"uri":"/users","method":"GET","key":{key}}}"#);
        let key_of_answer = Head::parse(&frame).unwrap().answer_key().unwrap();
        let answer = Answer { key: Some(&key_of_answer), outcome: &Reply::ok(1), more: false }.encode().unwrap();
        let expected = format!(r#"{{"key":{key},"errorcode":0,"errormessage":"success","results":1}}"#);
        prop_assert_eq!(answer, [expected.replace('¶', "\\u00b6").as_bytes(), &DELIMITER].concat());
    }

    #[test]
    fn a_course_node_gets_the_key_in_any_params_that_are_an_object(fields in object(), key in 1..1_u64 << 52) {
        let params = raw(&Value::Object(fields.clone()).to_string());
        let request = Outgoing { uri: "/goods", method: "POST", params: &params, hops: 0, origin: None, explanation: None };
        let mut frame = Vec::new();
        course::write_request(&mut frame, &request, key, None).unwrap();
        let mut expected = fields;
        expected.insert("key".to_owned(), (2 * key).into());
        let expected = json!({ "uri": "/goods", "method": "POST", "key": 2 * key - 1, "params": expected });
        prop_assert_eq!(only_packet(&frame), expected);
    }
}

/// Parses these bytes as exactly one packet.
fn only_packet(frame: &[u8]) -> Value {
    let (frames, error) = read_all(frame, LIMIT);
    assert!(error.is_none() && frames.len() == 1, "{frames:?}");
    serde_json::from_str(&frames[0]).unwrap()
}

#[test]
fn frames_come_out_the_same_cut_at_every_byte() {
    let packets = [
        "{\"a\":\"¶ö한글🦀\"}",
        "{\"¶\":\"\u{b6}\"}",
        "{}",
        "{\"ö\":[\"ö\",\"Â\"]}",
        "{\"🦀\":{\"한\":\"글\"}}",
    ];
    let values: Vec<Value> = packets.iter().map(|json| serde_json::from_str(json).unwrap()).collect();
    let mut bytes = " ¶\r\n".as_bytes().to_vec();
    for value in &values {
        encode_into(&mut bytes, value).unwrap();
        bytes.extend_from_slice("¶ ¶\n".as_bytes());
    }
    let came = |pieces: Pieces| -> Vec<Value> {
        let (frames, error) = read_all(pieces, LIMIT);
        assert!(error.is_none(), "{error:?}");
        frames.iter().map(|frame| serde_json::from_str(frame).unwrap()).collect()
    };
    for first in 0..=bytes.len() {
        assert_eq!(came(Pieces::cut(&bytes, [first])), values, "cut at {first}");
        assert_eq!(
            came(Pieces::cut(&bytes, [first, bytes.len().min(first + 1)])),
            values,
            "cut around byte {first}"
        );
    }
    assert_eq!(came(Pieces::cut(&bytes, 0..bytes.len())), values, "one byte at a time");
}

#[test]
fn a_frame_far_longer_than_one_read_comes_out_whole() {
    let long = "ö¶🦀".repeat(40_000);
    let mut bytes = encode(&json!({ "before": 1 })).unwrap();
    encode_into(&mut bytes, &json!({ "name": long })).unwrap();
    encode_into(&mut bytes, &json!({ "after": 1 })).unwrap();
    let (frames, error) = read_all(bytes.as_slice(), bytes.len());
    assert!(error.is_none());
    let middle: Value = serde_json::from_str(&frames[1]).unwrap();
    assert_eq!((frames.len(), middle["name"].as_str()), (3, Some(long.as_str())));
}

#[test]
fn a_frame_has_the_limit_and_not_a_byte_more() {
    let frame = format!("{{\"a\":\"{}\"}}", "x".repeat(92));
    assert_eq!(frame.len(), 100);
    let bytes = [frame.as_bytes(), &DELIMITER].concat();
    for cut in 0..=bytes.len() {
        let (frames, error) = read_all(Pieces::cut(&bytes, [cut]), 100);
        assert!(error.is_none() && frames == [frame.clone()], "cut at {cut}: {error:?}");
        let (frames, error) = read_all(Pieces::cut(&bytes, [cut]), 99);
        assert!(frames.is_empty());
        assert!(matches!(error, Some(FrameError::TooLong(_))), "cut at {cut}: {error:?}");
    }
}

#[test]
fn a_reader_holds_one_frame_of_the_permitted_length_and_little_more() {
    for limit in [100, 40_000, 100_000, 1024 * 1024] {
        let stream = [&vec![b'x'; limit][..], &DELIMITER].concat();
        let mut reader = FrameReader::new(stream.as_slice(), limit, Dialect::Pilcrow);
        assert_eq!(reader.next_frame().unwrap().map(str::len), Some(limit));
        assert!(reader.held_bytes() <= limit + 16 * 1024, "{} bytes for {limit}", reader.held_bytes());
    }
}

#[test]
fn a_frame_is_too_long_before_its_end_has_come() {
    // No end follows. A reader that waited for it would wait forever and keep everything that arrives.
    let good = encode(&json!({ "good": 1 })).unwrap();
    let (frames, error) = read_all(good.as_slice().chain(io::repeat(b'x')), 1000);
    assert_eq!(frames, [r#"{"good":1}"#]);
    let Some(FrameError::TooLong(bad)) = error else { panic!("{error:?}") };
    assert!(bad.size > 1000 && bad.size < 1000 + 64 * 1024, "{}", bad.size);
    assert_eq!((bad.limit, bad.begins), (1000, format!("{}…", "x".repeat(79))));
}

#[test]
fn frames_before_a_bad_frame_are_still_delivered() {
    let good = encode(&json!({ "good": 1 })).unwrap();
    let bad: [(&[u8], &str); 5] = [
        (b"{\"a\":\"\xff\"}\xc2\xb6", "not UTF-8"),
        (b"{\"a\":\"\xb6\"}\xc2\xb6", "not UTF-8"),
        // A C2 before the delimiter belongs to the frame.
        (b"{\"a\":1}\xc2\xc2\xb6", "not UTF-8"),
        (b"{\"a\":1}", "ended inside a frame"),
        (b"{\"a\":1}\xc2", "ended inside a frame"),
    ];
    for (bytes, told) in bad {
        let stream = [&good, bytes].concat();
        for cut in 0..=stream.len() {
            let (frames, error) = read_all(Pieces::cut(&stream, [cut]), LIMIT);
            assert_eq!(frames, [r#"{"good":1}"#], "{bytes:?} cut at {cut}");
            let error = error.unwrap_or_else(|| panic!("{bytes:?} was taken"));
            assert!(error.to_string().contains(told), "{bytes:?} cut at {cut}: {error}");
        }
    }
}

#[test]
fn a_stream_that_ends_between_frames_has_ended_well() {
    for end in ["", " ", "\r\n", "¶", "¶ \n"] {
        let bytes = ["{\"a\":1}¶", end].concat();
        let (frames, error) = read_all(bytes.as_bytes(), LIMIT);
        assert!(error.is_none() && frames.len() == 1, "{end:?}");
    }
}

#[test]
fn a_reader_knows_whether_it_is_within_a_frame_and_whether_another_is_here() {
    let pieces = ["{\"a\":1}¶{\"b\":2}¶ ¶{\"c\"", ":3}", "¶ "].map(|piece| piece.as_bytes().to_vec());
    let mut reader = FrameReader::new(Pieces::of(pieces), LIMIT, Dialect::Pilcrow);
    assert!(!reader.mid_frame() && !reader.has_frame());
    assert_eq!(reader.next_frame().unwrap(), Some("{\"a\":1}"));
    assert!(reader.has_frame());
    assert_eq!(reader.next_frame().unwrap(), Some("{\"b\":2}"));
    assert!(!reader.has_frame() && reader.mid_frame());
    assert_eq!(reader.unfinished().size, 4);
    reader.release(); // within a frame, it keeps what it has
    assert_eq!(reader.next_frame().unwrap(), Some("{\"c\":3}"));
    assert!(!reader.has_frame() && !reader.mid_frame());
    assert_eq!(reader.next_frame().unwrap(), None);
}

#[test]
fn the_log_line_of_a_bad_frame_names_size_limit_and_a_harmless_excerpt() {
    let bad = BadFrame::of("{\"name\":\"a\nb\u{1b}[31m한글\"".as_bytes(), 1000);
    let told = FrameError::TooLong(bad).to_string();
    assert!(told.contains("24 bytes, limit 1000"), "{told}");
    assert!(told.contains(r#"{\"name\":\"a\nb\u{1b}[31m한글\""#), "{told}");
    let login = br#"{"uri":"/users/login","params":{"email":"kim@example.com","password":"hunter22"}}"#;
    let excerpt = BadFrame::of(login, 10).begins;
    assert!(
        excerpt.contains("login") && !excerpt.contains("hunter") && !excerpt.contains("password"),
        "{excerpt}"
    );
}

#[test]
fn a_packet_is_one_json_object_and_nothing_else() {
    let no_packets = [
        "[]",
        "[{\"key\":1}]",
        "null",
        "true",
        "17",
        "\"text\"",
        "",
        "{",
        "{}}",
        "{} {}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "{\"key\":1",
        "{\"key\":01}",
        "{\"uri\":\"\\ud800\"}",
        "{\"a\":\"\n\"}",
        "NaN",
        "\u{feff}{}",
    ];
    for text in no_packets {
        assert!(Head::parse(text).is_err(), "{text} was accepted");
    }
    let deep = format!("{{\"params\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    for text in ["{}", " { } ", "{\"key\":null}", "{\"uri\":5,\"method\":null,\"errorcode\":{}}", &deep] {
        assert!(Head::parse(text).is_ok(), "{text} was rejected");
    }
}

#[test]
fn the_reason_for_a_bad_frame_does_not_repeat_it() {
    let hunter = "hunter22".repeat(1000);
    for frame in [
        format!("\"{hunter}\""),
        format!("[\"{hunter}\"]"),
        format!("{{\"uri\":\"{hunter}\\x\"}}"),
        hunter.clone(),
    ] {
        let why = Head::parse(&frame).unwrap_err().to_string();
        assert!(!why.contains("hunter22") && why.len() < 200, "{why}");
    }
}

#[test]
fn the_last_of_two_members_counts() {
    let frame =
        r#"{"key":1,"uri":"/a","errorcode":404,"key":2,"uri":"/b","errorCode":0,"params":1,"params":{}}"#;
    let head = Head::parse(frame).unwrap();
    assert_eq!((head.number(), head.uri.as_deref(), head.errorcode), (Some(2), Some("/b"), Some(0)));
    assert_eq!(head.params.map(RawValue::get), Some("{}"));
    let head = Head::parse(r#"{"uri":"/a","method":"GET","uri":5}"#).unwrap();
    assert_eq!((head.uri, head.method.as_deref()), (None, Some("GET")));
}

#[test]
fn names_and_texts_may_be_written_with_escapes() {
    let frame =
        r#"{"\u006bey":5,"ur\u0069":"\/users\/\u00f6\ud83e\udd80","method":"\u0047ET","error\u0063ode":7}"#;
    let head = Head::parse(frame).unwrap();
    assert_eq!((head.number(), head.errorcode), (Some(5), Some(7)));
    assert_eq!((head.uri.as_deref(), head.method.as_deref()), (Some("/users/ö🦀"), Some("GET")));
}

#[test]
fn numbers_that_mean_nothing_are_passed_over() {
    let head = Head::parse(r#"{"errorcode":"404","status":70000,"deadline_ms":-5,"key":1.5}"#).unwrap();
    assert_eq!((head.errorcode, head.status, head.deadline_ms, head.number()), (None, None, None, None));
    // The course's book writes errorCode.
    assert_eq!(Head::parse(r#"{"errorCode":1,"data":{}}"#).unwrap().errorcode, Some(1));
}

#[test]
fn a_key_that_is_not_a_number_is_echoed_unchanged() {
    for key in [
        r#""17""#,
        "1.50",
        "1e3",
        r#"{"a": [1,  "¶"]}"#,
        "[ ]",
        "null",
        "true",
        "123456789012345678901234567890",
    ] {
        let frame = format!(r#"{{"key": {key} ,"uri":"/users","method":"GET"}}"#);
        let head = Head::parse(&frame).unwrap();
        assert_eq!(head.number(), None, "{key}");
        let answer =
            Answer { key: head.answer_key().as_ref(), outcome: &Err(Failure::not_found("no")), more: false }
                .encode();
        let expected =
            format!(r#"{{"key":{key},"errorcode":404,"errormessage":"no"}}"#).replace('¶', "\\u00b6");
        assert_eq!(String::from_utf8(answer.unwrap()).unwrap(), format!("{expected}¶"));
    }
}

#[test]
fn only_packets_for_two_routes_are_notices_and_only_without_a_key_to_answer_to() {
    let is_notice = |text: &str| Head::parse(text).unwrap().is_notice();
    for route in [
        r#""uri":"/distributes","method":"POST""#,
        r#""uri":"distributes","method":"GET""#,
        r#""uri":"/logs","method":"POST""#,
    ] {
        for key in ["", r#","key":0"#, r#","key":null"#, r#","params":{"key":0}"#] {
            assert!(is_notice(&format!("{{{route}{key}}}")), "{route}{key}");
        }
        for key in [r#","key":1"#, r#","key":"0""#, r#","params":{"key":7}"#] {
            assert!(!is_notice(&format!("{{{route}{key}}}")), "{route}{key}");
        }
    }
    for request in [
        r#"{"uri":"/users","method":"GET","key":0}"#,
        r#"{"uri":"/users","method":"POST","params":{"key":0}}"#,
        r#"{"uri":"/logs","method":"GET","key":0}"#,
        r#"{"uri":"/users","method":"GET"}"#,
        r#"{"key":0,"errorcode":0}"#,
    ] {
        assert!(!is_notice(request), "{request}");
    }
}

#[test]
fn the_key_in_params_counts_if_there_is_no_other() {
    let key_of = |frame: &str| {
        let head = Head::parse(frame).unwrap();
        (head.number(), head.answer_key().map(|key| key.to_string()))
    };
    let some = |number, text: &str| (number, Some(text.to_owned()));
    assert_eq!(key_of(r#"{"params":{"id":"1","key":7}}"#), some(Some(7), "7"));
    assert_eq!(key_of(r#"{"params":{"key":"seven"}}"#), some(None, "\"seven\""));
    assert_eq!(key_of(r#"{"key":3,"params":{"key":7}}"#), some(Some(3), "3"));
    for without in [
        r#"{"params":{}}"#,
        r#"{"params":"{\"key\":7}"}"#,
        r#"{"params":[{"key":7}]}"#,
        r#"{"results":{"key":7}}"#,
    ] {
        assert_eq!(key_of(without), (None, None), "{without}");
    }
}

#[test]
fn a_key_of_any_kind_is_a_key_but_null_is_none() {
    let has_key = |frame: &str| Head::parse(frame).unwrap().has_key();
    for with in [r#"{"key":0}"#, r#"{"key":"x"}"#, r#"{"key":{}}"#, r#"{"params":{"key":1.5}}"#] {
        assert!(has_key(with), "{with}");
    }
    for without in ["{}", r#"{"key":null}"#, r#"{"params":{"key":null}}"#, r#"{"results":{"key":1}}"#] {
        assert!(!has_key(without), "{without}");
    }
}

/// A request to `/goods` with these `params` that has passed through `hops` services. Returns its text after the common
/// beginning.
fn sent(
    params: &str,
    hops: u32,
    write: impl FnOnce(&mut Vec<u8>, &Outgoing<'_>) -> serde_json::Result<()>,
) -> String {
    let params = raw(params);
    let origin = Origin { request_id: "r-1".to_owned(), ..Origin::default() };
    let origin = Some(&origin).filter(|_| hops > 0);
    let mut frame = b"before".to_vec();
    write(
        &mut frame,
        &Outgoing { uri: "/goods", method: "GET", params: &params, hops, origin, explanation: None },
    )
    .unwrap();
    let text = String::from_utf8(frame).unwrap();
    text.strip_prefix(r#"before{"uri":"/goods","method":"GET","#).unwrap().to_owned()
}

/// Like [`sent`], to one of our nodes, with key 17.
fn sent_to_ours(params: &str, hops: u32) -> String {
    let timing = Timing { deadline_ms: 5000, sent_ms: 7 };
    sent(params, hops, |frame, request| request.write(frame, 17, timing))
}

/// Like [`sent`], to a course node, with key 9.
fn sent_to_course(params: &str, place: Option<KeyPlace>) -> String {
    sent(params, 3, |frame, request| course::write_request(frame, request, 9, place))
}

#[test]
fn a_pilcrow_node_gets_deadline_hops_and_origin_with_a_request() {
    let told = r#","deadline_ms":5000,"sent_ms":7"#;
    for params in [r#"{"id":"1"}"#, r#"{"key":"mine"}"#, "[1,{}]", "null"] {
        assert_eq!(sent_to_ours(params, 0), format!(r#""key":17,"params":{params}{told}}}¶"#));
    }
    assert_eq!(
        sent_to_ours(r#"{"a¶":"¶"}"#, 0),
        format!(r#""key":17,"params":{{"a\u00b6":"\u00b6"}}{told}}}¶"#)
    );
    assert_eq!(
        sent_to_ours("{}", 3),
        format!(r#""key":17,"params":{{}}{told},"hops":3,"request_id":"r-1"}}¶"#)
    );
}

#[test]
fn a_course_node_gets_both_keys_until_it_is_known_which_one_it_reads() {
    let both = |params| sent_to_course(params, None);
    assert_eq!(both(r#"{"id":"1"}"#), r#""key":17,"params":{"id":"1","key":18}}¶"#);
    assert_eq!(both("{}"), r#""key":17,"params":{"key":18}}¶"#);
    assert_eq!(both("{ }"), r#""key":17,"params":{ "key":18}}¶"#);
    // A client's own `key` stays but loses: if a name appears twice, the last one counts.
    assert_eq!(both(r#"{"key":"mine"}"#), r#""key":17,"params":{"key":"mine","key":18}}¶"#);
    assert_eq!(both(r#"{"a¶":"¶"}"#), r#""key":17,"params":{"a\u00b6":"\u00b6","key":18}}¶"#);

    let template = |params| sent_to_course(params, Some(KeyPlace::Top));
    assert_eq!(template(r#"{"key":"mine"}"#), r#""key":17,"params":{"key":"mine"}}¶"#);
    let book = |params| sent_to_course(params, Some(KeyPlace::Params));
    assert_eq!(book(r#"{"id":"1"}"#), r#""params":{"id":"1","key":18}}¶"#);
    // Without an object, the key can only be at the top level.
    for (place, params) in [None, Some(KeyPlace::Params)].into_iter().zip(["\"a {text}\"", "[1,{}]"]) {
        assert_eq!(sent_to_course(params, place), format!(r#""key":17,"params":{params}}}¶"#));
    }
    let notice = sent("{}", 3, |frame, request| course::write_request(frame, request, 0, None));
    assert_eq!(notice, r#""key":0,"params":{}}¶"#);
}

#[test]
fn the_reply_of_a_course_node_shows_which_key_it_has_read() {
    let read = |reply: &str| course::key_of_reply(&Head::parse(reply).unwrap());
    for reply in [r#"{"key":17}"#, r#"{"key":"17"}"#, r#"{"params":{"key":17}}"#] {
        assert_eq!(read(reply), Some((9, KeyPlace::Top)), "{reply}");
    }
    for reply in [r#"{"key":18}"#, r#"{"key":"18","params":{"key":17}}"#, r#"{"params":{"key":"18"}}"#] {
        assert_eq!(read(reply), Some((9, KeyPlace::Params)), "{reply}");
    }
    for reply in
        ["{}", r#"{"key":null}"#, r#"{"key":-1}"#, r#"{"key":1.5}"#, r#"{"key":"x"}"#, r#"{"key":[1]}"#]
    {
        assert_eq!(read(reply), None, "{reply}");
    }
    assert_eq!(read(r#"{"key":0}"#).map(|(key, _)| key), Some(0), "a key without a pending request");
}

#[test]
fn a_reply_has_the_form_of_the_protocol() {
    let answer = |key: &str, outcome: &Result<Reply, Failure>| {
        let frame = format!(r#"{{"key":{key}}}"#);
        let key = Head::parse(&frame).unwrap().answer_key();
        String::from_utf8(Answer { key: key.as_ref(), outcome, more: false }.encode().unwrap()).unwrap()
    };
    let created =
        Reply::ok("a¶b").map(|reply| reply.with_status(201)).and_then(|reply| reply.with("next", Some(5)));
    assert_eq!(
        answer("17", &created),
        r#"{"key":17,"errorcode":0,"errormessage":"success","status":201,"results":"a\u00b6b","next":5}¶"#
    );
    let refused = Err(Failure::not_found("no user has id 99"));
    assert_eq!(answer("18", &refused), r#"{"key":18,"errorcode":404,"errormessage":"no user has id 99"}¶"#);
    let without = Answer { key: None, outcome: &refused, more: false }.encode().unwrap();
    assert_eq!(without, r#"{"errorcode":404,"errormessage":"no user has id 99"}¶"#.as_bytes());
}

#[test]
fn a_value_without_a_json_form_leaves_no_half_frame() {
    let no_json = BTreeMap::from([((1, 2), 3)]);
    let mut buffer = encode(&json!({ "before": 1 })).unwrap();
    let before = buffer.clone();
    assert!(encode_into(&mut buffer, &json!({ "a": 1 })).is_ok());
    buffer.truncate(before.len());
    assert!(encode_into(&mut buffer, &("begun", no_json.clone())).is_err());
    assert_eq!(buffer, before);
    assert_eq!(Reply::ok(no_json).unwrap_err().errorcode, 500);
}
