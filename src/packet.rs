//! Packets: what crosses a TCP connection between Pilcrow's processes, and how a process writes it.
//!
//! - A *packet* is one JSON object. On the wire it is a *frame*: the object's UTF-8 text and then `¶`.
//! - A *request* names a `uri` and a `method` and carries `params`; a *reply* carries an `errorcode`.
//!   Both carry a `key`, the correlation id: the receiver echoes it, and the sender finds its caller by it.
//! - A *notice* is a request that gets no reply. The route decides this, not the key: see [`Head::is_notice`].
//!
//! This module writes requests and parses packets, `reply` writes replies, [`frame`] cuts incoming bytes into frames,
//! and [`explain`] lists the steps of a request. It uses no sockets: it reads from any [`std::io::Read`], so tests need no connection.
//! `docs/protocol.md` is the binding description of the wire.

mod bad_frame;
pub mod course;
mod delimiter;
pub mod explain;
pub mod frame;
pub mod masked;
mod origin;
mod reply;

use std::borrow::Cow;
use std::fmt;
use std::io;

use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use delimiter::DELIMITER;
use explain::Explanation;
pub use origin::Origin;
pub use reply::{Answer, Failure, Reply};

/// The default limit of a frame, in bytes without the delimiter (`--max-frame`).
pub const DEFAULT_MAX_FRAME_BYTES: usize = 1024 * 1024;

/// A node announces this as `proto` if it speaks the whole protocol. Nodes without it are *course nodes*.
pub const PROTO: &str = "pilcrow/1";

/// The limit of one packet to a course node. It handles each read of its socket as whole packets, and one read
/// returns at most 64 KiB.
pub const COURSE_MAX_BYTES: usize = 64 * 1024;

/// Writes any value as a whole frame, delimiter included.
///
/// # Errors
/// The errors of the value's `Serialize`, for example a map with keys that are not strings.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(256);
    encode_into(&mut frame, value)?;
    Ok(frame)
}

/// Appends any value to `buffer` as a whole frame, delimiter included.
///
/// # Errors
/// Same as [`encode`]. The buffer then keeps its old content.
pub fn encode_into<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) -> serde_json::Result<()> {
    let before = buffer.len();
    let written = write_json(buffer, value);
    match written {
        Ok(()) => buffer.extend_from_slice(&DELIMITER),
        Err(_) => buffer.truncate(before),
    }
    written
}

/// Appends the JSON text of any value to `buffer`, without a raw `¶`.
fn write_json<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) -> serde_json::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(buffer, NoRawPilcrow))
}

/// Compact JSON that escapes each `¶`. So `¶` on the wire is always a delimiter, and a user may still have the
/// name `a¶b`.
struct NoRawPilcrow;

impl serde_json::ser::Formatter for NoRawPilcrow {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        write_without_raw_pilcrow(writer, text)
    }

    // Valid JSON has non-ASCII characters only inside strings. So the same replacement is correct for JSON text that we
    // pass on.
    fn write_raw_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, json: &str) -> io::Result<()> {
        write_without_raw_pilcrow(writer, json)
    }
}

fn write_without_raw_pilcrow<W: ?Sized + io::Write>(writer: &mut W, text: &str) -> io::Result<()> {
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memmem::find(rest, &DELIMITER) {
        writer.write_all(&rest[..at])?;
        writer.write_all(br"\u00b6")?;
        rest = &rest[at + DELIMITER.len()..];
    }
    writer.write_all(rest)
}

/// A correlation id. It keeps the JSON text as received, because the receiver echoes it unchanged.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Key(Box<RawValue>);

impl Key {
    /// The key as the JSON text that was received.
    #[must_use]
    pub fn json(&self) -> &str {
        self.0.get()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.get();
        // A peer may send any JSON as its key, so a log line shows only the beginning.
        f.write_str(text.char_indices().nth(40).map_or(text, |(at, _)| &text[..at]))
    }
}

/// The fields of a packet that can be read without parsing its `params` or `results`. They borrow from the frame.
///
/// One pass over the text finds them and also checks that the text is one JSON object. If a name appears twice, the
/// last one counts, as in JavaScript.
#[derive(Debug, Default)]
pub struct Head<'a> {
    /// The resource that the request asks for; absent in replies.
    pub uri: Option<Cow<'a, str>>,
    /// The method of the request; absent in replies.
    pub method: Option<Cow<'a, str>>,
    /// The correlation id as received.
    pub key: Option<&'a RawValue>,
    /// The arguments of a request, or the list from a distributor.
    pub params: Option<&'a RawValue>,
    /// 0 for success. Course nodes may omit it or spell it `errorCode`.
    pub errorcode: Option<i64>,
    /// The HTTP status of a success, if it is not 200.
    pub status: Option<u16>,
    /// The results of a success, as text of the frame.
    pub results: Option<&'a RawValue>,
    /// True if more replies with this key follow, because this one is part of a stream.
    pub more: bool,
    /// The number of the change that the reply reports, or the last change that it includes.
    pub seq: Option<u64>,
    /// A tag that identifies this state of a resource, for `ETag`.
    pub etag: Option<Cow<'a, str>>,
    /// After how many seconds a retry makes sense, for `Retry-After`.
    pub retry_after: Option<u64>,
    /// For how many milliseconds the sender still waits (only to `pilcrow/1` nodes).
    pub deadline_ms: Option<u64>,
    /// When the sender wrote it, in milliseconds since the connection began (only to `pilcrow/1` nodes).
    pub sent_ms: Option<u64>,
    /// The number of services that the request has passed through (only to `pilcrow/1` nodes).
    pub hops: Option<u32>,
    /// The id of the request in the logs of all processes (only to `pilcrow/1` nodes).
    pub request_id: Option<Cow<'a, str>>,
    /// The address of the HTTP client that caused the request (only to `pilcrow/1` nodes).
    pub client: Option<Cow<'a, str>>,
    /// The `Authorization` header of the HTTP client (only to `pilcrow/1` nodes).
    pub authorization: Option<Cow<'a, str>>,
    /// `true` in a request that is explained, and the steps in its reply (only `pilcrow/1` nodes).
    pub explain: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Uri,
    Method,
    Key,
    Params,
    #[serde(alias = "errorCode")]
    Errorcode,
    Status,
    Results,
    More,
    Seq,
    Etag,
    RetryAfter,
    DeadlineMs,
    SentMs,
    Hops,
    RequestId,
    Client,
    Authorization,
    Explain,
    #[serde(other)]
    Other,
}

impl<'a> Head<'a> {
    /// Parses the text of one frame.
    ///
    /// # Errors
    /// The text is not one JSON object.
    pub fn parse(frame: &'a str) -> serde_json::Result<Self> {
        // For a text or a number, the parser's error would contain the whole value, which may be a secret.
        if !frame.trim_ascii_start().starts_with('{') {
            return Err(de::Error::custom("it does not begin with {"));
        }
        serde_json::from_str(frame)
    }

    /// The key as a number, if our own links can have created it. If a reply has no key at its top level, `params.key`
    /// counts: some course nodes send the `params` of the request back.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self.key {
            Some(key) => key.get().parse().ok(),
            None => self.key_in_params().and_then(|key| key.0.get().parse().ok()),
        }
    }

    /// True if the packet has a key of any type. Course nodes may omit it or send `null`.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.answer_key().is_some_and(|key| key.0.get() != "null")
    }

    /// The key for the reply: `key`, or the `params.key` that the book's gateway sends.
    #[must_use]
    pub fn answer_key(&self) -> Option<Key> {
        match self.key {
            Some(key) => Some(Key(key.to_owned())),
            None => self.key_in_params(),
        }
    }

    /// True if the sender expects no reply, so none may be sent: `/distributes` or `POST /logs` with no key or key 0.
    /// On all other routes, key 0 is an ordinary key: course gateways use it for their first request.
    #[must_use]
    pub fn is_notice(&self) -> bool {
        let is_notice_route = match self.uri.as_deref().map(|uri| uri.trim_start_matches('/')) {
            Some("distributes") => true,
            Some("logs") => self.method.as_deref() == Some("POST"),
            _ => false,
        };
        is_notice_route && self.answer_key().is_none_or(|key| matches!(key.json(), "0" | "null"))
    }

    /// True for a registration. A service sends one to its callers too, when it leaves.
    #[must_use]
    pub fn is_registration(&self) -> bool {
        (self.method.as_deref(), self.uri.as_deref()) == (Some("POST"), Some("/distributes"))
    }

    fn key_in_params(&self) -> Option<Key> {
        #[derive(Deserialize)]
        struct Book {
            key: Box<RawValue>,
        }
        let params = self.params?.get();
        // Only an object can have it. This check saves a second pass over large lists.
        params.starts_with('{').then(|| serde_json::from_str::<Book>(params).ok())?.map(|book| Key(book.key))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Head<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadVisitor)
    }
}

struct HeadVisitor;

impl<'de> Visitor<'de> for HeadVisitor {
    type Value = Head<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head<'de>, A::Error> {
        let mut head = Head::default();
        while let Some(field) = map.next_key::<Field>()? {
            if let Field::Other = field {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw: &'de RawValue = map.next_value()?;
            match field {
                Field::Uri => head.uri = text(raw)?,
                Field::Method => head.method = text(raw)?,
                Field::Key => head.key = Some(raw),
                Field::Params => head.params = Some(raw),
                Field::Errorcode => head.errorcode = raw.get().parse().ok(),
                Field::Status => head.status = raw.get().parse().ok(),
                Field::Results => head.results = Some(raw),
                Field::More => head.more = raw.get() == "true",
                Field::Seq => head.seq = raw.get().parse().ok(),
                Field::Etag => head.etag = text(raw)?,
                Field::RetryAfter => head.retry_after = raw.get().parse().ok(),
                Field::Hops => head.hops = raw.get().parse().ok(),
                Field::DeadlineMs => head.deadline_ms = raw.get().parse().ok(),
                Field::SentMs => head.sent_ms = raw.get().parse().ok(),
                Field::RequestId => head.request_id = text(raw)?,
                Field::Client => head.client = text(raw)?,
                Field::Authorization => head.authorization = text(raw)?,
                Field::Explain => head.explain = Some(raw),
                Field::Other => {}
            }
        }
        Ok(head)
    }
}

/// The text of a JSON string. Any other JSON gives `None`, because course nodes send arbitrary values here.
fn text<E: de::Error>(raw: &RawValue) -> Result<Option<Cow<'_, str>>, E> {
    let json = raw.get();
    if !json.starts_with('"') {
        return Ok(None);
    }
    if !json.contains('\\') {
        return Ok(json.get(1..json.len() - 1).map(Cow::Borrowed));
    }
    serde_json::from_str::<String>(json).map(|text| Some(Cow::Owned(text))).map_err(E::custom)
}

/// A request before it is sent, in the dialect of its receiver.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The registered path, such as `/users`.
    pub uri: &'a str,
    /// The HTTP method, such as `GET`.
    pub method: &'a str,
    /// The arguments. Almost every route has an object here.
    pub params: &'a RawValue,
    /// The number of services that the request has passed through (only to `pilcrow/1` nodes).
    pub hops: u32,
    /// The origin of the request, if known (only to `pilcrow/1` nodes).
    pub origin: Option<&'a Origin>,
    /// The explanation of the request, if it is explained (only to `pilcrow/1` nodes).
    pub explanation: Option<&'a Explanation>,
}

/// The dialect that a node announced in its registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The node announced [`PROTO`].
    Pilcrow,
    /// A course node. It receives only fields that the course's own code sends.
    Course,
}

/// The times that we send with a request, only to `pilcrow/1` nodes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Timing {
    /// How long the sender waits for the reply.
    pub deadline_ms: u64,
    /// When the sender writes the packet, in milliseconds since the connection began. So the receiver can compute how
    /// much of `deadline_ms` has passed in transit.
    pub sent_ms: u64,
}

#[derive(Serialize)]
struct WireRequest<'a> {
    uri: &'a str,
    method: &'a str,
    key: u64,
    params: &'a RawValue,
    #[serde(flatten)]
    timing: Timing,
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<u32>,
    #[serde(flatten)]
    origin: Option<&'a Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<bool>,
}

/// The end of the stream that was requested under `key`.
#[derive(Debug, Serialize)]
pub struct Cancel<'a> {
    uri: &'a str,
    method: &'static str,
    key: u64,
}

/// The method of a packet that ends a stream.
pub const CANCEL: &str = "CANCEL";

impl<'a> Cancel<'a> {
    /// Ends the stream that was requested at `uri` under `key`.
    #[must_use]
    pub fn of(uri: &'a str, key: u64) -> Self {
        Self { uri, method: CANCEL, key }
    }
}

impl Outgoing<'_> {
    /// Adds a step to the explanation of the request, if it is explained. `file` does the step.
    pub fn explain(&self, file: &'static str, step: impl FnOnce() -> String) {
        if let Some(explanation) = self.explanation {
            explanation.add(file, step());
        }
    }

    /// Appends this request to `buffer` as a frame for a `pilcrow/1` node.
    ///
    /// # Errors
    /// Same as [`encode`]. Valid JSON in `params` never causes one.
    pub fn write(&self, buffer: &mut Vec<u8>, key: u64, timing: Timing) -> serde_json::Result<()> {
        let Self { uri, method, params, origin, .. } = *self;
        let hops = (self.hops > 0).then_some(self.hops);
        let explain = self.explanation.map(|_| true);
        encode_into(buffer, &WireRequest { uri, method, key, params, timing, hops, origin, explain })
    }
}

#[cfg(test)]
mod tests;
