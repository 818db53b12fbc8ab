//! The frame decoder: any bytes, any cuts, any limit and any dialect.
//!
//! Input: the limit and the dialect, how often the stream is repeated, the cuts, the pauses, and then the stream.

#![no_main]

use std::io::ErrorKind;

use libfuzzer_sys::fuzz_target;
use pilcrow::packet::frame::{FrameError, FrameReader};
use pilcrow::packet::{DELIMITER, Dialect};
use pilcrow_fuzz::{Pieces, cut};

/// How many bytes a reader may hold beyond one frame of the permitted length.
const BESIDE_BYTES: usize = 16 * 1024;

const LIMITS: [usize; 8] = [0, 1, 2, 7, 60, 1000, 40_000, 1024 * 1024];

/// How a stream of frames ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Between,
    Inside,
    TooLong,
    NotUtf8,
}

type Read = (Vec<String>, End);

fuzz_target!(|input: &[u8]| {
    let [limit, times, seed, pauses, stream @ ..] = input else { return };
    let dialect = if *limit & 0x80 == 0 { Dialect::Pilcrow } else { Dialect::Course };
    let limit = LIMITS[usize::from(*limit) % LIMITS.len()];
    // Long frames are rare, as they are slow to test.
    let stream = stream.repeat(if *times > 250 { 50 } else { 1 });
    let expected = as_one_piece(&stream, limit, dialect);
    let pauses = u32::from_le_bytes([*pauses, *times, *seed, *pauses]);
    assert_eq!(read(Pieces::new(vec![&stream], 0), limit, dialect), expected, "in one piece");
    assert_eq!(read(Pieces::new(cut(&stream, *seed), pauses), limit, dialect), expected, "in pieces");
    if *times <= 250 {
        assert_eq!(read(Pieces::new(stream.chunks(1).collect(), 0), limit, dialect), expected, "byte by byte");
    }
});

/// Reads like a connection: takes the bytes that have arrived, ignores timeouts, and returns its buffer when it is
/// idle.
fn read(pieces: Pieces<'_>, limit: usize, dialect: Dialect) -> Read {
    let mut reader = FrameReader::new(pieces, limit, dialect);
    let mut frames = Vec::new();
    loop {
        let promised = reader.has_frame();
        let end = match reader.next_frame() {
            Ok(Some(frame)) => {
                frames.push(frame.to_owned());
                None
            }
            Ok(None) => Some(End::Between),
            Err(FrameError::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                let inside = reader.mid_frame();
                reader.release();
                assert_eq!(reader.mid_frame(), inside, "a pause loses nothing");
                assert_eq!(reader.holds_buffer(), inside, "an idle reader holds no buffer");
                assert!(!promised, "a frame that is here needs no read");
                None
            }
            Err(FrameError::TooLong(bad)) => {
                assert!(bad.size > limit && bad.limit == limit);
                assert!(bad.begins.chars().count() <= 80);
                Some(End::TooLong)
            }
            Err(FrameError::NotUtf8(_)) => Some(End::NotUtf8),
            Err(FrameError::Truncated(_)) => Some(End::Inside),
            Err(other) => panic!("{other}"),
        };
        assert!(reader.held_bytes() <= limit + BESIDE_BYTES, "{} bytes held", reader.held_bytes());
        if let Some(end) = end {
            return (frames, end);
        }
    }
}

/// The same reader in a second, simpler form: all bytes have arrived.
fn as_one_piece(mut rest: &[u8], limit: usize, dialect: Dialect) -> Read {
    let mut frames = Vec::new();
    loop {
        while let Some(first) = rest.first().filter(|first| b" \t\r\n\xC2".contains(first)) {
            let length = if *first == DELIMITER[0] { DELIMITER.len() } else { 1 };
            if length == DELIMITER.len() && !rest.starts_with(&DELIMITER) {
                break;
            }
            rest = &rest[length..];
        }
        let Some(end) = end_of_frame(rest, dialect) else {
            let half = usize::from(rest.ends_with(&DELIMITER[..1]));
            return match rest.len() {
                0 => (frames, End::Between),
                length if length - half > limit => (frames, End::TooLong),
                _ => (frames, End::Inside),
            };
        };
        if end > limit {
            return (frames, End::TooLong);
        }
        match std::str::from_utf8(&rest[..end]) {
            Ok(frame) => frames.push(frame.to_owned()),
            Err(_) => return (frames, End::NotUtf8),
        }
        rest = &rest[end + DELIMITER.len()..];
    }
}

/// The position of the first `¶`. In an object of a course node, the first one outside its strings.
fn end_of_frame(frame: &[u8], dialect: Dialect) -> Option<usize> {
    let has_strings = dialect == Dialect::Course && frame.starts_with(b"{");
    let (mut in_string, mut is_escaped) = (false, false);
    for (at, byte) in frame.iter().enumerate() {
        if !in_string && frame[at..].starts_with(&DELIMITER) {
            return Some(at);
        }
        let was_escaped = std::mem::take(&mut is_escaped);
        match byte {
            b'"' if has_strings && !was_escaped => in_string = !in_string,
            b'\\' if in_string && !was_escaped => is_escaped = true,
            _ => {}
        }
    }
    None
}
