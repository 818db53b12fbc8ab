//! Everything that crosses a TCP connection between Pilcrow's processes: packets, and how they are written.
//!
//! - A *packet* is one JSON object. On the wire it is a *frame*: the object's UTF-8 text and then `¶`.
//! - A *request* names a `uri` and a `method` and carries `params`; a *reply* carries an `errorcode`.
//!   Both carry a `key`, the correlation id: the answerer echoes it, the asker finds its caller by it.
//! - A *notice* is a request that nobody waits for. The route decides, not the key: see [`Head::is_notice`].
//!
//! This module writes requests and looks into packets, `reply` writes replies, and [`frame`] cuts incoming bytes into
//! frames again. No sockets here: reading works over any [`std::io::Read`], so that tests need none. The binding description of
//! the wire is `docs/protocol.md`.

mod bad_frame;
pub mod course;
mod delimiter;
pub mod frame;
pub mod masked;
mod reply;

use core::net::IpAddr;
use std::borrow::Cow;
use std::fmt;
use std::io;

use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use reply::{Answer, Failure, Reply};

/// The bytes of `¶` (U+00B6), which end every frame and stand nowhere else on the wire.
pub const DELIMITER: [u8; 2] = [0xC2, 0xB6];

/// The longest frame taken by default, in bytes without the delimiter (`--max-frame`).
pub const DEFAULT_MAX_FRAME_BYTES: usize = 1024 * 1024;

/// What a node announces as `proto` when it speaks all of the protocol. Nodes without it are *course nodes*.
pub const PROTO: &str = "pilcrow/1";

/// The most that a course node takes in one packet: it handles each read of its socket as whole packets, and
/// one read ends at 64 KiB.
pub const COURSE_MAX_BYTES: usize = 64 * 1024;

/// Writes any value as a whole frame, delimiter included.
///
/// # Errors
/// Those of the value's own `Serialize`, such as a map whose keys are no strings.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(256);
    encode_into(&mut frame, value)?;
    Ok(frame)
}

/// Appends any value to `buffer` as a whole frame, delimiter included.
///
/// # Errors
/// As [`encode`]; the buffer then ends as it began.
pub fn encode_into<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) -> serde_json::Result<()> {
    let before = buffer.len();
    let written = write_json(buffer, value);
    match written {
        Ok(()) => buffer.extend_from_slice(&DELIMITER),
        Err(_) => buffer.truncate(before),
    }
    written
}

/// Appends the JSON text of any value to `buffer`, as it may stand in a frame.
fn write_json<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) -> serde_json::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(buffer, NoRawPilcrow))
}

/// JSON in its short form in which no `¶` stands raw, so that `¶` on the wire is always a delimiter and a user
/// may still be called `a¶b`.
struct NoRawPilcrow;

impl serde_json::ser::Formatter for NoRawPilcrow {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        write_without_raw_pilcrow(writer, text)
    }

    // Valid JSON holds non-ASCII characters inside strings only, so the same replacement is right for JSON text
    // that is passed on as it came.
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

/// A correlation id, kept as the JSON text that came, since the answerer echoes it untouched.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Key(Box<RawValue>);

impl Key {
    /// The key as the JSON text that came.
    #[must_use]
    pub fn json(&self) -> &str {
        self.0.get()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.get();
        // A peer may send any JSON as its key; a log line shows no more of it than helps.
        f.write_str(text.char_indices().nth(40).map_or(text, |(at, _)| &text[..at]))
    }
}

/// What can be known of a packet without unpacking its `params` or `results`: borrowed from the frame.
///
/// One pass over the text finds it, and proves at the same time that the text is one JSON object. Of a name that
/// stands twice the last counts, as in JavaScript.
#[derive(Debug, Default)]
pub struct Head<'a> {
    /// Which resource is asked for; absent in replies.
    pub uri: Option<Cow<'a, str>>,
    /// What to do with it; absent in replies.
    pub method: Option<Cow<'a, str>>,
    /// The correlation id as it came.
    pub key: Option<&'a RawValue>,
    /// The arguments of a request, or the list of a distributor.
    pub params: Option<&'a RawValue>,
    /// 0 for success; course nodes may leave it out or spell it `errorCode`.
    pub errorcode: Option<i64>,
    /// The HTTP status of a success other than 200.
    pub status: Option<u16>,
    /// What a success brings, in the frame's own text.
    pub results: Option<&'a RawValue>,
    /// Whether more replies with this key follow: this one is part of a stream.
    pub more: bool,
    /// The number of the change that the reply tells of, or up to which it is complete.
    pub seq: Option<u64>,
    /// What tells this state of a thing from every other, for `ETag`.
    pub etag: Option<Cow<'a, str>>,
    /// In how many seconds it is worth while to ask again, for `Retry-After`.
    pub retry_after: Option<u64>,
    /// How many milliseconds the asker still waits (sent to `pilcrow/1` nodes only).
    pub deadline_ms: Option<u64>,
    /// When it was written, in milliseconds since its connection began (sent to `pilcrow/1` nodes only).
    pub sent_ms: Option<u64>,
    /// Through how many services the request has come (sent to `pilcrow/1` nodes only).
    pub hops: Option<u32>,
    /// Under which id the logs of all processes tell of the request (sent to `pilcrow/1` nodes only).
    pub request_id: Option<Cow<'a, str>>,
    /// The address of the HTTP client at whose wish the request is sent (sent to `pilcrow/1` nodes only).
    pub client: Option<Cow<'a, str>>,
    /// What the HTTP client showed to prove who it is (sent to `pilcrow/1` nodes only).
    pub authorization: Option<Cow<'a, str>>,
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
    #[serde(other)]
    Other,
}

impl<'a> Head<'a> {
    /// Looks into the text of one frame.
    ///
    /// # Errors
    /// If the text is not one JSON object.
    pub fn parse(frame: &'a str) -> serde_json::Result<Self> {
        // Of a text or a number the parser would say what it is, whole, and that may be a secret.
        if !frame.trim_ascii_start().starts_with('{') {
            return Err(de::Error::custom("it does not begin with {"));
        }
        serde_json::from_str(frame)
    }

    /// The key as a number, if it is one that our own links give out. Where the reply has none at its top
    /// level, `params.key` counts: some course nodes send the request's own `params` back.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self.key {
            Some(key) => key.get().parse().ok(),
            None => self.key_in_params().and_then(|key| key.0.get().parse().ok()),
        }
    }

    /// Whether a key stands here, of whatever kind. Course nodes may leave it out or say `null`.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.answer_key().is_some_and(|key| key.0.get() != "null")
    }

    /// The key to answer to: `key`, or the `params.key` of the book's gateway.
    #[must_use]
    pub fn answer_key(&self) -> Option<Key> {
        match self.key {
            Some(key) => Some(Key(key.to_owned())),
            None => self.key_in_params(),
        }
    }

    /// Whether nobody waits for a reply, so that none may be sent: a packet for `/distributes` or `POST /logs` that has
    /// no key, or key 0. On every other route key 0 is a key like any other: course gateways give it to their first request.
    #[must_use]
    pub fn is_notice(&self) -> bool {
        let is_notice_route = match self.uri.as_deref().map(|uri| uri.trim_start_matches('/')) {
            Some("distributes") => true,
            Some("logs") => self.method.as_deref() == Some("POST"),
            _ => false,
        };
        is_notice_route && self.answer_key().is_none_or(|key| matches!(key.json(), "0" | "null"))
    }

    fn key_in_params(&self) -> Option<Key> {
        #[derive(Deserialize)]
        struct Book {
            key: Box<RawValue>,
        }
        let params = self.params?.get();
        // Only an object can have it; asking first spares large lists a second pass.
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
                Field::Other => {}
            }
        }
        Ok(head)
    }
}

/// The text of a JSON string; nothing for any other JSON, since course nodes put there what they like.
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

/// A request about to be sent, in the dialect of whoever receives it.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The registered path, such as `/users`.
    pub uri: &'a str,
    /// The HTTP method, such as `GET`.
    pub method: &'a str,
    /// The arguments: an object, for nearly every route.
    pub params: &'a RawValue,
    /// Through how many services the request has come (sent to `pilcrow/1` nodes only).
    pub hops: u32,
    /// Where the request began, if that is known (sent to `pilcrow/1` nodes only).
    pub origin: Option<&'a Origin>,
}

/// Who a packet is for, as announced in its registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// A node that announced [`PROTO`].
    Pilcrow,
    /// A node of the course: it gets nothing but what the course's own code sends.
    Course,
}

/// The times that are sent with a request, to `pilcrow/1` nodes only.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Timing {
    /// How long the answer is waited for.
    pub deadline_ms: u64,
    /// When this is written, in milliseconds since the connection began: with it, the other side knows how much of
    /// `deadline_ms` has passed on the way.
    pub sent_ms: u64,
}

/// Where a request began: what the gateway knows of the HTTP client, for every service on the request's way.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Under which id the logs of all processes tell of the request.
    pub request_id: String,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// The client's `Authorization` header as it came. A secret: it is not printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<String>,
}

impl Origin {
    /// Where the sender of this packet says that the request began; nothing if it does not say.
    #[must_use]
    pub fn of(head: &Head<'_>) -> Option<Self> {
        let request_id = head.request_id.as_deref()?.to_owned();
        let client = head.client.as_deref().and_then(|client| client.parse().ok());
        let authorization = head.authorization.as_deref().map(str::to_owned);
        Some(Self { request_id, client, authorization })
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("request_id", &self.request_id)
            .field("client", &self.client)
            .field("authorized", &self.authorization.is_some())
            .finish()
    }
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
}

/// Ends the stream that was asked for under `key`.
#[derive(Debug, Serialize)]
pub struct Cancel<'a> {
    uri: &'a str,
    method: &'static str,
    key: u64,
}

/// The method of a packet that ends a stream.
pub const CANCEL: &str = "CANCEL";

impl<'a> Cancel<'a> {
    /// Ends the stream that was asked for at `uri` under `key`.
    #[must_use]
    pub fn of(uri: &'a str, key: u64) -> Self {
        Self { uri, method: CANCEL, key }
    }
}

impl Outgoing<'_> {
    /// Appends this request to `buffer` as a frame for a `pilcrow/1` node.
    ///
    /// # Errors
    /// As [`encode`], which `params` of valid JSON never meets.
    pub fn write(&self, buffer: &mut Vec<u8>, key: u64, timing: Timing) -> serde_json::Result<()> {
        let Self { uri, method, params, origin, .. } = *self;
        let hops = (self.hops > 0).then_some(self.hops);
        encode_into(buffer, &WireRequest { uri, method, key, params, timing, hops, origin })
    }
}

#[cfg(test)]
mod tests;
