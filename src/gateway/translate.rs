//! HTTP to packet and back: no sockets, no waiting, only rules (`docs/protocol.md`, section 5).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Cursor;

use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tiny_http::{Header, Method, Response, StatusCode};

use super::HttpRequest;
use super::head::Kind;
use crate::mesh;
use crate::net::link::{Outcome, ReplyFrame};
use crate::packet::Failure;

/// How deep the JSON of a body may be nested. Readers behind us stop at 128.
const MAX_DEPTH: usize = 100;

/// When to try again what cannot be done just now, in seconds: by then a lost link has been dialled again.
const RETRY_AFTER_SECONDS: &str = "3";

/// What bodies nearly always are.
const JSON: &str = "application/json";

/// What was asked for, taken apart.
#[derive(Debug)]
pub struct Target<'a> {
    /// The path, percent-decoded, but for a `/` inside a segment, which stays `%2F`: a route cannot have one.
    pub path: Cow<'a, str>,
    /// The query as it was sent.
    pub query: &'a str,
    raw_path: &'a str,
}

/// An answer as the gateway makes it, before a front writes it.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// The HTTP status.
    pub status: u16,
    /// JSON, unless `content_type` says otherwise.
    pub body: Vec<u8>,
    content_type: &'static str,
    /// What tells this state of the thing from every other.
    etag: Option<String>,
    headers: Vec<(&'static str, Cow<'static, str>)>,
}

impl<'a> Target<'a> {
    /// Takes the target of a request apart.
    ///
    /// # Errors
    /// 400 for a target that is no path, and for percent codes that are none or decode to no text.
    pub fn parse(target: &'a str) -> Result<Self, HttpAnswer> {
        let (raw_path, query) = target.split_once('?').unwrap_or((target, ""));
        let raw_path = without_authority(raw_path);
        if !raw_path.starts_with('/') {
            return Err(bad_request("the path must begin with /"));
        }
        decode(query)?;
        if !raw_path.contains('%') {
            return Ok(Self { path: Cow::Borrowed(raw_path), query, raw_path });
        }
        let segments: Result<Vec<String>, HttpAnswer> =
            raw_path.split('/').map(|segment| Ok(decode(segment)?.replace('/', "%2F"))).collect();
        Ok(Self { path: Cow::Owned(segments?.join("/")), query, raw_path })
    }

    /// The last segment of the path, percent-decoded: the path parameter.
    ///
    /// # Errors
    /// As [`Target::parse`].
    pub fn last_segment(&self) -> Result<Cow<'a, str>, HttpAnswer> {
        decode(self.raw_path.rsplit('/').next().unwrap_or_default())
    }
}

/// A client that takes us for a proxy writes the whole URL; what counts is its path.
fn without_authority(target: &str) -> &str {
    match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, HttpAnswer> {
    let mut codes = text.split('%');
    codes.next();
    let is_code = |code: &str| code.len() >= 2 && code.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if !codes.all(is_code) {
        return Err(bad_request("a % in the URL must be followed by two hexadecimal digits"));
    }
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| bad_request("the percent codes in the URL are not UTF-8"))
}

/// One argument of a request.
#[derive(Serialize)]
#[serde(untagged)]
enum Argument<'a> {
    Text(Cow<'a, str>),
    Several(Vec<Cow<'a, str>>),
    Json(&'a RawValue),
}

/// The path parameter alone.
#[derive(Serialize)]
struct Only<'a> {
    params: Cow<'a, str>,
}

type Arguments<'a> = BTreeMap<Cow<'a, str>, Argument<'a>>;

/// The `params` of the packet: the query, over it the body, over both the path parameter.
///
/// # Errors
/// 400 for a body that breaks the rules, 415 for one of a type that we do not read.
pub fn params(
    request: &HttpRequest,
    query: &str,
    segment: Option<Cow<'_, str>>,
) -> Result<Box<RawValue>, HttpAnswer> {
    let mut arguments = text_arguments(query.as_bytes());
    if !matches!(request.method, Method::Get | Method::Head) && !request.body.is_empty() {
        arguments.extend(body_arguments(request)?);
    }
    for (header, name) in [("Last-Event-ID", "after"), ("If-Match", "if_match")] {
        if let Some(value) = request.header(header).filter(|_| passes_on(&request.method, header)) {
            arguments.insert(Cow::Borrowed(name), Argument::Text(Cow::Borrowed(value)));
        }
    }
    let raw = match segment {
        // Of all requests these are the most, and need no table of arguments.
        Some(params) if arguments.is_empty() => to_raw_value(&Only { params }),
        Some(params) => {
            arguments.insert(Cow::Borrowed("params"), Argument::Text(params));
            to_raw_value(&arguments)
        }
        None => to_raw_value(&arguments),
    };
    raw.map_err(|error| bad_request(&format!("the arguments cannot be passed on: {error}")))
}

/// Which of the headers that become arguments mean something to this method.
fn passes_on(method: &Method, header: &str) -> bool {
    match header {
        "Last-Event-ID" => *method == Method::Get,
        _ => !matches!(method, Method::Get | Method::Head | Method::Post),
    }
}

/// Whether the client takes Server-Sent Events.
#[must_use]
pub fn wants_events(request: &HttpRequest) -> bool {
    let accepts = request.header("Accept").unwrap_or_default();
    let types = accepts.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
    request.method == Method::Get
        && types.into_iter().any(|kind| kind.eq_ignore_ascii_case("text/event-stream"))
}

/// The answer, or 304 if the client has this state already.
#[must_use]
pub fn conditional(request: &HttpRequest, mut answer: HttpAnswer) -> HttpAnswer {
    let Some(etag) = answer.etag.take().filter(|_| answer.status < 300) else { return answer };
    let known = request.header("If-None-Match").is_some_and(|known| {
        known.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == etag)
    });
    let reads = matches!(request.method, Method::Get | Method::Head);
    if reads && known {
        // The body stays behind: the writer sends none with a 304, and says how long that of a 200 would be.
        HttpAnswer { status: 304, ..answer }.with_header("ETag", etag)
    } else {
        answer.with_header("ETag", etag)
    }
}

/// `params` that are one text, as the course's log service takes them.
///
/// # Errors
/// Never: text always has a JSON form.
pub fn text_param(text: &str) -> Result<Box<RawValue>, HttpAnswer> {
    to_raw_value(text).map_err(|error| bad_request(&error.to_string()))
}

/// Names and values of a query or a form. A repeated name becomes an array.
fn text_arguments(encoded: &[u8]) -> Arguments<'_> {
    let mut arguments = Arguments::new();
    for (name, value) in form_urlencoded::parse(encoded) {
        let argument = match arguments.remove(&name) {
            None | Some(Argument::Json(_)) => Argument::Text(value),
            Some(Argument::Text(first)) => Argument::Several(vec![first, value]),
            Some(Argument::Several(mut values)) => {
                values.push(value);
                Argument::Several(values)
            }
        };
        arguments.insert(name, argument);
    }
    arguments
}

fn body_arguments(request: &HttpRequest) -> Result<Arguments<'_>, HttpAnswer> {
    let body = &request.body;
    let media_type =
        request.header("Content-Type").map(|value| value.split(';').next().unwrap_or_default().trim());
    match media_type {
        Some(json) if json.eq_ignore_ascii_case("application/json") => json_arguments(body),
        // What `curl -d` says of every body, JSON as well.
        Some(form) if form.eq_ignore_ascii_case("application/x-www-form-urlencoded") => {
            if looks_like_object(body)
                && let Ok(arguments) = json_arguments(body)
            {
                return Ok(arguments);
            }
            let text = std::str::from_utf8(body).map_err(|_| bad_request("the body is not UTF-8"))?;
            decode(text)?;
            Ok(text_arguments(body))
        }
        None | Some("") if looks_like_object(body) => json_arguments(body),
        other => Err(HttpAnswer::failure(&Failure::new(
            415,
            format!(
                "the body must be application/json or application/x-www-form-urlencoded, not {}",
                other.filter(|name| !name.is_empty()).unwrap_or("of no type")
            ),
        ))),
    }
}

fn looks_like_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
}

/// The members of a JSON object, their values as they were written.
fn json_arguments(body: &[u8]) -> Result<Arguments<'_>, HttpAnswer> {
    let text = std::str::from_utf8(body).map_err(|_| bad_request("the body is not UTF-8"))?;
    if !looks_like_object(body) {
        return Err(bad_request("the body must be a JSON object, such as {\"name\":\"Kim\"}"));
    }
    if depth(text) > MAX_DEPTH {
        return Err(bad_request(&format!("the body is nested deeper than {MAX_DEPTH} levels")));
    }
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|error| bad_request(&format!("the body is not JSON: {error}")))?;
    Ok(members.into_iter().map(|(name, value)| (Cow::Owned(name), Argument::Json(value))).collect())
}

/// How deep arrays and objects are nested in a JSON text.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn bad_request(message: &str) -> HttpAnswer {
    HttpAnswer::failure(&Failure::bad_request(message))
}

/// What a client is told when a call had no reply; the table is [`mesh::failure_of`].
#[must_use]
pub fn failure_of(outcome: Outcome, uri: &str) -> HttpAnswer {
    refusal(&mesh::failure_of(outcome, uri))
}

/// A failure as an answer; one that passes says when to try again.
#[must_use]
pub fn refusal(failure: &Failure) -> HttpAnswer {
    let said = failure.details.iter().find(|(name, _)| name == "retry_after");
    HttpAnswer::failure(failure).saying_when(said.and_then(|(_, seconds)| seconds.as_u64()))
}

impl From<ReplyFrame> for HttpAnswer {
    /// The reply packet is the body. Its `status` is the status, else its `errorcode` if that is one, else 200:
    /// course nodes have error codes of their own, which mean nothing to HTTP.
    fn from(reply: ReplyFrame) -> Self {
        let as_status = |code: i64| u16::try_from(code).ok().filter(|code| (400..600).contains(code));
        let said = reply.status.filter(|status| (200..600).contains(status));
        let status = said.or_else(|| reply.errorcode.and_then(as_status)).unwrap_or(200);
        // A quotation mark or a control character would end the header's value early.
        let plain = |etag: &String| etag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        let etag = reply.etag.filter(plain).map(|etag| format!("\"{etag}\""));
        Self { body: reply.json.into_bytes(), etag, ..Self::empty(status) }.saying_when(reply.retry_after)
    }
}

impl HttpAnswer {
    /// An answer with a body of our own.
    #[must_use]
    pub fn json<T: Serialize>(status: u16, body: &T) -> Self {
        Self { body: serde_json::to_vec(body).unwrap_or_default(), ..Self::empty(status) }
    }

    /// An answer without a body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self { status, body: Vec::new(), content_type: JSON, etag: None, headers: Vec::new() }
    }

    /// An answer that is text of this type.
    #[must_use]
    pub fn text(content_type: &'static str, text: String) -> Self {
        Self { body: text.into_bytes(), content_type, ..Self::empty(200) }
    }

    /// A failure in the shape of a reply packet: the gateway's own, or that of a stream which did not begin, whose
    /// error code may be one that means nothing to HTTP.
    #[must_use]
    pub fn failure(failure: &Failure) -> Self {
        let mut body = serde_json::Map::new();
        body.insert("errorcode".to_owned(), failure.errorcode.into());
        body.insert("errormessage".to_owned(), failure.errormessage.as_str().into());
        body.extend(failure.details.iter().cloned());
        let fits = (400..600).contains(&failure.errorcode);
        Self::json(if fits { failure.errorcode } else { 200 }, &body)
    }

    /// The same answer with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same answer, if it refuses, saying when to try again: in so many seconds, or for a 503 in a moment.
    fn saying_when(self, seconds: Option<u64>) -> Self {
        match seconds {
            Some(seconds) if self.status >= 400 => self.with_header("Retry-After", seconds.to_string()),
            _ if self.status == 503 => self.with_retry_after(),
            _ => self,
        }
    }

    /// The same answer, saying to try again in a moment.
    #[must_use]
    pub fn with_retry_after(self) -> Self {
        self.with_header("Retry-After", RETRY_AFTER_SECONDS)
    }

    /// How many bytes of the body are sent in answer to this method.
    #[must_use]
    pub fn sent_bytes(&self, method: &Method) -> usize {
        if *method == Method::Head || !self.may_have_body() { 0 } else { self.body.len() }
    }

    /// Whether this status allows for a body at all.
    #[must_use]
    pub fn may_have_body(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }

    /// The headers of its own.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (*name, value.as_ref()))
    }

    /// What it has in common with many others.
    #[must_use]
    pub fn kind(&self, minor_version: u8) -> Kind {
        Kind { status: self.status, minor_version, content_type: self.content_type }
    }

    /// As tiny_http's response, whose writer knows the rules of HTTP.
    #[must_use]
    pub fn into_response(self) -> Response<Cursor<Vec<u8>>> {
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        let content_type = ("Content-Type", Cow::Borrowed(self.content_type));
        for (name, value) in std::iter::once(content_type).chain(self.headers) {
            // A header that is not ASCII cannot be sent; none of ours is.
            headers.extend(Header::from_bytes(name, value.as_bytes()).ok());
        }
        let length = self.body.len();
        Response::new(StatusCode(self.status), headers, Cursor::new(self.body), Some(length), None)
            .with_chunked_threshold(usize::MAX)
    }
}

#[cfg(test)]
mod tests;
