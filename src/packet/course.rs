//! What is different in packets from course nodes.
//!
//! `JSON.stringify` does not escape `¶`, so a course node sends it raw inside a string. A `¶` inside a string of such a
//! frame is text, and the frame goes on. Between nodes of ours a raw `¶` stays an error.
//!
//! The template's services read `key`, the book's read `params.key`, and both answer with a `key` of their reply.
//! To show which one a service has read, the two carry different numbers: a request gets an odd number as its `key`
//! and the next even number as its `params.key`. So the number in a reply names the request, and where the service has
//! read its key.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::delimiter::find_delimiter;
use super::{DELIMITER, Head, Outgoing, PROTO, encode_into};

/// How far one frame of a course node has been searched for its end. Each byte is looked at once.
#[derive(Debug, Default)]
pub(super) struct CourseSearch {
    searched: usize,
    in_string: bool,
}

impl CourseSearch {
    /// Where the delimiter of this frame stands. `frame` is what has come of it, and only grows between two calls.
    pub(super) fn find_end(&mut self, frame: &[u8]) -> Option<usize> {
        // What is no object is rejected at its first delimiter.
        if frame.first() != Some(&b'{') {
            return find_delimiter(frame, &mut self.searched);
        }
        loop {
            // After a backslash, the byte where the search goes on may not be here yet.
            let rest = frame.get(self.searched..)?;
            let special = if self.in_string { b'\\' } else { DELIMITER[0] };
            let Some(at) = memchr::memchr2(b'"', special, rest) else {
                self.searched = frame.len();
                return None;
            };
            self.searched += at;
            if rest[at] == b'"' {
                self.in_string = !self.in_string;
                self.searched += 1;
            } else if self.in_string {
                self.searched += 2;
            } else if *frame.get(self.searched + 1)? == DELIMITER[1] {
                return Some(self.searched);
            } else {
                self.searched += 1;
            }
        }
    }

    /// How many bytes have been looked at: the next call goes on there.
    #[cfg(test)]
    pub(super) fn searched(&self) -> usize {
        self.searched
    }
}

/// Whether the sender of this packet has shown with it that it is no course node: it says how long it waits, or it
/// registers as one of ours.
#[must_use]
pub fn is_from_pilcrow(head: &Head<'_>) -> bool {
    #[derive(Deserialize)]
    struct RegisteredNode {
        proto: String,
    }
    let registers = || (head.method.as_deref(), head.uri.as_deref()) == (Some("POST"), Some("/distributes"));
    let announces = || {
        let params = head.params.filter(|_| registers())?;
        serde_json::from_str::<RegisteredNode>(params.get()).ok()
    };
    head.deadline_ms.is_some() || announces().is_some_and(|registration| registration.proto == PROTO)
}

/// What a node of ours would have understood of a frame with a raw `¶` in it: the part before. Nothing if there is none.
#[must_use]
pub fn before_raw_delimiter(frame: &str) -> Option<&str> {
    memchr::memmem::find(frame.as_bytes(), &DELIMITER).map(|at| &frame[..at])
}

/// Where a course service reads the key of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPlace {
    /// At the top level, as the template does.
    Top,
    /// In `params`, as the book does.
    Params,
}

#[derive(Serialize)]
struct CourseRequest<'a> {
    uri: &'a str,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<u64>,
    params: &'a RawValue,
}

/// Appends a request to `buffer` as a frame for a course node: nothing but what the course's own code sends. While it
/// is not known where the node reads the key, it stands in both places. Key 0 makes it a notice.
///
/// # Errors
/// As [`encode`](super::encode), which `params` of valid JSON never meets.
pub fn write_request(
    buffer: &mut Vec<u8>,
    request: &Outgoing<'_>,
    key: u64,
    place: Option<KeyPlace>,
) -> serde_json::Result<()> {
    let mut params = Cow::Borrowed(request.params);
    let mut top = Some(top_number(key));
    if key != 0
        && place != Some(KeyPlace::Top)
        && let Some(with_key) = add_key(request.params, params_number(key))?
    {
        params = Cow::Owned(with_key);
        top = top.filter(|_| place.is_none());
    }
    let (uri, method) = (request.uri, request.method);
    encode_into(buffer, &CourseRequest { uri, method, key: top, params: &params })
}

/// To which key a reply belongs, and where its service has read that; nothing if it has no key that is ours. A course
/// node may send it as text, or only in `params`.
#[must_use]
pub fn key_of_reply(head: &Head<'_>) -> Option<(u64, KeyPlace)> {
    let number: u64 = head.answer_key()?.json().trim_matches('"').parse().ok()?;
    let place = if number % 2 == 1 { KeyPlace::Top } else { KeyPlace::Params };
    Some((number.div_ceil(2), place))
}

/// The number of a key at the top level. A notice has 0.
#[must_use]
pub fn top_number(key: u64) -> u64 {
    (2 * key).saturating_sub(1)
}

fn params_number(key: u64) -> u64 {
    2 * key
}

/// `params` with `"key":N` as its last member; nothing if it is no object.
fn add_key(params: &RawValue, number: u64) -> serde_json::Result<Option<Box<RawValue>>> {
    let Some(inside) = params.get().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return Ok(None);
    };
    let comma = if inside.trim().is_empty() { "" } else { "," };
    RawValue::from_string(format!("{{{inside}{comma}\"key\":{number}}}")).map(Some)
}

#[cfg(test)]
mod tests;
