//! Frames of course nodes against a plain reference, over all segmentations.

use std::io::{self, Read};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::super::frame::{FrameError, FrameReader};
use super::super::{DEFAULT_MAX_FRAME_BYTES, Dialect, Head};
use super::*;

/// The end of a stream of frames.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Between,
    Inside,
    TooLong,
    NotUtf8,
}

/// A connection that delivers `bytes` in pieces of these lengths, then the rest at once.
struct Pieces<'a> {
    bytes: &'a [u8],
    lengths: Vec<usize>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.lengths.pop().unwrap_or(usize::MAX);
        let (now, later) = self.bytes.split_at(wanted.min(buffer.len()).min(self.bytes.len()));
        buffer[..now.len()].copy_from_slice(now);
        self.bytes = later;
        Ok(now.len())
    }
}

fn cut<'a>(bytes: &'a [u8], places: &[usize]) -> Pieces<'a> {
    let mut places = [places, &[0]].concat();
    places.sort_unstable();
    places.dedup();
    let lengths = places.windows(2).rev().map(|ends| ends[1] - ends[0]).collect();
    Pieces { bytes, lengths }
}

fn byte_by_byte(bytes: &[u8]) -> Pieces<'_> {
    Pieces { bytes, lengths: vec![1; bytes.len()] }
}

/// The frames that a reader finds in the stream, and how it ends. A call of `has_frame` must not change the result.
fn read(from: impl Read, limit: usize) -> (Vec<String>, End) {
    let mut reader = FrameReader::new(from, limit, Dialect::Course);
    let mut frames = Vec::new();
    let end = loop {
        let is_here = reader.has_frame();
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push(frame.to_owned()),
            Ok(None) => break End::Between,
            Err(FrameError::TooLong(_)) => break End::TooLong,
            Err(FrameError::NotUtf8(_)) => break End::NotUtf8,
            Err(FrameError::Truncated(_)) if !is_here => break End::Inside,
            Err(other) => panic!("{other}"),
        }
    };
    (frames, end)
}

/// The same for a complete stream: a frame ends at the first `¶` outside of its strings.
fn read_plainly(mut rest: &[u8], limit: usize) -> (Vec<String>, End) {
    let mut frames = Vec::new();
    loop {
        while let Some(after) = [&b" "[..], b"\t", b"\r", b"\n", &DELIMITER]
            .into_iter()
            .find_map(|nothing| rest.strip_prefix(nothing))
        {
            rest = after;
        }
        let ends = |at: &usize| rest[*at..].starts_with(&DELIMITER) && !is_in_string(&rest[..*at]);
        let Some(end) = (0..rest.len()).find(ends) else {
            let half = usize::from(rest.last() == Some(&DELIMITER[0]));
            let end = match rest.len() {
                0 => End::Between,
                length if length - half > limit => End::TooLong,
                _ => End::Inside,
            };
            return (frames, end);
        };
        if end > limit {
            return (frames, End::TooLong);
        }
        let Ok(frame) = std::str::from_utf8(&rest[..end]) else { return (frames, End::NotUtf8) };
        frames.push(frame.to_owned());
        rest = &rest[end + DELIMITER.len()..];
    }
}

/// True if the text of an object stops inside a string. Anything other than an object has no strings.
fn is_in_string(text: &[u8]) -> bool {
    let (mut inside, mut is_escaped) = (false, false);
    for byte in text {
        let was_escaped = std::mem::take(&mut is_escaped);
        match byte {
            b'"' if !was_escaped => inside = !inside,
            b'\\' if inside && !was_escaped => is_escaped = true,
            _ => {}
        }
    }
    inside && text.starts_with(b"{")
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"{",
        b"}",
        b"\"",
        b"\\",
        b"\\\"",
        b"\\\\",
        b"\xc2\xb6",
        b"\xc2",
        b"\xb6",
        b"\xc3\xb6",
        b"\xc2\xa2",
        b"a",
        b" ",
        b"\n",
        b"null\xc2\xb6",
        b"{\"a\":\"\xc2\xb6\"}\xc2\xb6",
        b"{\"\xc3\xb6\":\"\\\\\"}\xc2\xb6",
    ];
    prop::collection::vec(select(pieces), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_stream_is_read_as_the_reference_reads_it_wherever_it_is_cut(
        bytes in stream(),
        places in prop::collection::vec(any::<Index>(), 0..12),
        limit in select(vec![0, 1, 5, 30, 1000]),
    ) {
        let expected = read_plainly(&bytes, limit);
        let places: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
        prop_assert_eq!(&read(bytes.as_slice(), limit), &expected);
        prop_assert_eq!(&read(cut(&bytes, &places), limit), &expected);
        prop_assert_eq!(&read(byte_by_byte(&bytes), limit), &expected);
    }

    #[test]
    fn what_json_stringify_writes_comes_back_equal(
        texts in prop::collection::vec("[a¶ö¢\"\\\\\u{0}한🦀]{0,6}", 1..8),
        places in prop::collection::vec(any::<Index>(), 0..8),
    ) {
        let packets: Vec<Value> = texts.iter().map(|text| json!({ text: [text, { "name": text }] })).collect();
        let bytes = packets.iter().flat_map(|packet| format!("{packet}¶").into_bytes()).collect::<Vec<u8>>();
        let places: Vec<usize> = places.iter().map(|place| place.index(bytes.len())).collect();
        let (frames, end) = read(cut(&bytes, &places), DEFAULT_MAX_FRAME_BYTES);
        prop_assert_eq!(end, End::Between);
        let came: Vec<Value> = frames.iter().map(|frame| serde_json::from_str(frame).unwrap()).collect();
        prop_assert_eq!(came, packets);
    }

    #[test]
    fn the_search_looks_at_each_byte_once(bytes in stream()) {
        let bytes = [b"{".as_slice(), &bytes].concat();
        let mut search = CourseSearch::default();
        for length in 1..=bytes.len() {
            if search.find_end(&bytes[..length]).is_some() {
                break;
            }
            // The search rescans only a `C2` that may begin a delimiter.
            prop_assert!(search.searched() + 1 >= length);
        }
    }
}

#[test]
fn raw_delimiters_in_strings_are_read_cut_at_every_two_places() {
    let text = r#"{"¶":"a¶b","ö":"\"¶\\"}¶{"\\":"¢¶"} ¶ null¶{"a":"¶¶\\\"¶"}¶"#.as_bytes();
    let expected = [r#"{"¶":"a¶b","ö":"\"¶\\"}"#, r#"{"\\":"¢¶"} "#, "null", r#"{"a":"¶¶\\\"¶"}"#];
    for first in 0..=text.len() {
        for second in first..=text.len() {
            let (frames, end) = read(cut(text, &[first, second]), 1000);
            assert_eq!((frames.as_slice(), end), (expected.map(str::to_owned).as_slice(), End::Between));
        }
    }
}

#[test]
fn a_long_string_of_delimiters_costs_no_more_than_its_length() {
    let text = "¶".repeat(DEFAULT_MAX_FRAME_BYTES / 2 - 100);
    let frame = format!("{{\"a\":\"{text}\"}}¶").into_bytes();
    let mut reader = FrameReader::new(byte_by_byte(&frame), DEFAULT_MAX_FRAME_BYTES, Dialect::Course);
    // A search that restarted with each read would look at 500 GB.
    while !reader.has_frame() {
        assert_eq!(reader.fill().unwrap(), 1);
    }
    assert_eq!(reader.next_frame().unwrap().map(str::len), Some(frame.len() - 2));
}

#[test]
fn text_that_is_not_an_object_ends_at_its_first_delimiter() {
    for garbage in ["null", "\"a", "[\"a", "a{\"", "\\\"", "ö\""] {
        let bytes = format!(" {garbage}¶{{}}¶");
        let (frames, end) = read(bytes.as_bytes(), 1000);
        assert_eq!((frames, end), (vec![garbage.to_owned(), "{}".to_owned()], End::Between));
    }
}

#[test]
fn a_reader_changes_its_dialect_between_two_frames() {
    let bytes = "{\"a\":\"¶\"}¶{\"b\":\"¶\"}¶".as_bytes();
    let mut reader = FrameReader::new(bytes, 1000, Dialect::Course);
    assert_eq!(reader.next_frame().unwrap(), Some("{\"a\":\"¶\"}"));
    assert!(reader.has_frame());
    reader.set_dialect(Dialect::Pilcrow);
    assert_eq!(reader.next_frame().unwrap(), Some("{\"b\":\""));
    reader.set_dialect(Dialect::Course);
    assert_eq!(reader.next_frame().unwrap(), Some("\"}"));
}

#[test]
fn a_deadline_and_a_registration_with_proto_show_a_node_of_ours_and_nothing_else_does() {
    let is_ours = |packet: Value| is_from_pilcrow(&Head::parse(&packet.to_string()).unwrap());
    let request =
        |uri: &str, method: &str, params: Value| json!({ "uri": uri, "method": method, "params": params });
    let proto = json!({ "port": 1, "name": "a", "urls": [], "proto": "pilcrow/1" });
    assert!(is_ours(json!({ "uri": "/a", "method": "GET", "key": 1, "params": {}, "deadline_ms": 5 })));
    assert!(is_ours(request("/distributes", "POST", proto.clone())));
    assert!(!is_ours(request("/distributes", "GET", proto.clone())));
    assert!(!is_ours(request("/users", "POST", proto)));
    for params in [json!({}), json!([]), json!({ "proto": 1 }), json!({ "proto": "other/1" })] {
        assert!(!is_ours(request("/distributes", "POST", params)));
    }
    assert!(!is_ours(request("/users", "GET", json!({ "deadline_ms": 5 }))));
}

#[test]
fn a_node_of_ours_would_have_read_up_to_the_first_raw_delimiter() {
    assert_eq!(before_raw_delimiter(r#"{"a":"b\u00b6"}"#), None);
    assert_eq!(before_raw_delimiter(r#"{"a":"b¶c¶"}"#), Some(r#"{"a":"b"#));
}
