//! The differences in packets from course nodes.
//!
//! `JSON.stringify` does not escape `¶`, so a course node sends it raw inside a string. In such a frame, a `¶` inside
//! a string is text and the frame continues. Between our own nodes a raw `¶` is always an error.
//!
//! The template's services read `key`, the book's services read `params.key`. Both reply with a `key`.
//! The two keys of a request carry different numbers, so that the reply shows which one the service has read.
//! A request has an odd number as its `key` and the next even number as its `params.key`. So the number in a reply
//! identifies the request and the place where the service reads keys.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::delimiter::find_delimiter;
use super::{DELIMITER, Dialect, Head, Outgoing, PROTO, encode_into};

impl Dialect {
    /// The dialect as a word, for people who watch.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pilcrow => "pilcrow",
            Self::Course => "course",
        }
    }
}

/// How far we have searched one frame of a course node for its end. The search looks at each byte once.
#[derive(Debug, Default)]
pub(super) struct CourseSearch {
    searched: usize,
    in_string: bool,
}

impl CourseSearch {
    /// The position of the delimiter. `frame` is the received part of the frame, and only grows between two calls.
    pub(super) fn find_end(&mut self, frame: &[u8]) -> Option<usize> {
        // Anything other than an object is rejected at its first delimiter.
        if frame.first() != Some(&b'{') {
            return find_delimiter(frame, &mut self.searched);
        }
        loop {
            // The byte after a backslash may not have arrived yet, so the search may continue past the end.
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

    /// How many bytes are searched. The next call continues there.
    #[cfg(test)]
    pub(super) fn searched(&self) -> usize {
        self.searched
    }
}

/// True if this packet shows that its sender is not a course node: it states a deadline, or it registers as one of
/// our nodes.
#[must_use]
pub fn is_from_pilcrow(head: &Head<'_>) -> bool {
    #[derive(Deserialize)]
    struct RegisteredNode {
        proto: String,
    }
    if head.deadline_ms.is_some() {
        return true;
    }
    let Some(params) = head.params.filter(|_| head.is_registration()) else { return false };
    serde_json::from_str::<RegisteredNode>(params.get()).is_ok_and(|node| node.proto == PROTO)
}

/// The part before the first raw `¶` of a frame, as one of our nodes would read it. `None` if it has none.
#[must_use]
pub fn before_raw_delimiter(frame: &str) -> Option<&str> {
    memchr::memmem::find(frame.as_bytes(), &DELIMITER).map(|at| &frame[..at])
}

/// The place where a course service reads the key of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPlace {
    /// At the top level, like the template.
    Top,
    /// In `params`, like the book.
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

/// Appends a request to `buffer` as a frame for a course node, with only the fields that the course's own code sends.
/// Until we know where the node reads the key, the request has it in both places. Key 0 makes it a notice.
///
/// # Errors
/// Same as [`encode`](super::encode). Valid JSON in `params` never causes one.
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

/// The key that a reply belongs to, and the place where its service reads keys. `None` if the reply has no key of
/// ours. A course node may send the key as text, or only in `params`.
#[must_use]
pub fn key_of_reply(head: &Head<'_>) -> Option<(u64, KeyPlace)> {
    let number: u64 = head.answer_key()?.json().trim_matches('"').parse().ok()?;
    let place = if number % 2 == 1 { KeyPlace::Top } else { KeyPlace::Params };
    Some((number.div_ceil(2), place))
}

/// The number that the top-level key carries. A notice has 0.
#[must_use]
pub fn top_number(key: u64) -> u64 {
    (2 * key).saturating_sub(1)
}

fn params_number(key: u64) -> u64 {
    2 * key
}

/// `params` with `"key":N` as its last member. `None` if `params` is not an object.
fn add_key(params: &RawValue, number: u64) -> serde_json::Result<Option<Box<RawValue>>> {
    let Some(inside) = params.get().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return Ok(None);
    };
    let comma = if inside.trim().is_empty() { "" } else { "," };
    RawValue::from_string(format!("{{{inside}{comma}\"key\":{number}}}")).map(Some)
}

#[cfg(test)]
mod tests;
