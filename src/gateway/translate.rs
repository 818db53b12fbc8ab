//! HTTP to packet and back: rules without sockets and without blocking (`docs/protocol.md`, section 5).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tiny_http::Method;

use crate::http::target::percent_decode;
use crate::http::{HttpAnswer, HttpRequest, RequestError};
use crate::mesh;
use crate::net::link::{Outcome, ReplyFrame};
use crate::packet::Failure;

/// The nesting limit for the JSON of a body. The JSON readers of services stop at 128.
const MAX_DEPTH: usize = 100;

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

/// The `params` of the packet. The body overrides the query, and the path parameter overrides both. The error is 400
/// for a malformed body, and 415 for a body of an unknown type.
pub fn params(
    request: &HttpRequest,
    query: &str,
    segment: Option<Cow<'_, str>>,
) -> Result<Box<RawValue>, RequestError> {
    let mut arguments = text_arguments(query.as_bytes());
    if !request.is_read() && !request.body.is_empty() {
        arguments.extend(body_arguments(request)?);
    }
    for (header, name) in [("Last-Event-ID", "after"), ("If-Match", "if_match")] {
        if let Some(value) = request.header(header).filter(|_| passes_on(&request.method, header)) {
            arguments.insert(Cow::Borrowed(name), Argument::Text(Cow::Borrowed(value)));
        }
    }
    let raw = match segment {
        // Most requests have only a path parameter, and need no table of arguments.
        Some(params) if arguments.is_empty() => to_raw_value(&Only { params }),
        Some(params) => {
            arguments.insert(Cow::Borrowed("params"), Argument::Text(params));
            to_raw_value(&arguments)
        }
        None => to_raw_value(&arguments),
    };
    raw.map_err(|error| bad_request(format!("the arguments are not valid JSON: {error}")))
}

/// Whether this header becomes an argument of a request with this method.
fn passes_on(method: &Method, header: &str) -> bool {
    match header {
        "Last-Event-ID" => *method == Method::Get,
        _ => !matches!(method, Method::Get | Method::Head | Method::Post),
    }
}

/// Whether the client accepts Server-Sent Events.
#[must_use]
pub fn wants_events(request: &HttpRequest) -> bool {
    let accepts = request.header("Accept").unwrap_or_default();
    let types = accepts.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
    request.method == Method::Get
        && types.into_iter().any(|kind| kind.eq_ignore_ascii_case("text/event-stream"))
}

/// `params` that are one text, as the course's log service expects. Never fails: every text has a JSON form.
pub fn text_param(text: &str) -> Result<Box<RawValue>, RequestError> {
    to_raw_value(text).map_err(|error| bad_request(error.to_string()))
}

/// The names and values of a query or a form. A repeated name becomes an array.
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

fn body_arguments(request: &HttpRequest) -> Result<Arguments<'_>, RequestError> {
    let body = &request.body;
    let media_type =
        request.header("Content-Type").map(|value| value.split(';').next().unwrap_or_default().trim());
    match media_type {
        Some(json) if json.eq_ignore_ascii_case("application/json") => json_arguments(body),
        // `curl -d` sends this type with every body, even with JSON.
        Some(form) if form.eq_ignore_ascii_case("application/x-www-form-urlencoded") => {
            if looks_like_object(body)
                && let Ok(arguments) = json_arguments(body)
            {
                return Ok(arguments);
            }
            let text = std::str::from_utf8(body)
                .map_err(|_| bad_request("the body is not UTF-8; encode text as UTF-8"))?;
            percent_decode(text)?;
            Ok(text_arguments(body))
        }
        None | Some("") if looks_like_object(body) => json_arguments(body),
        other => {
            let kind = other.filter(|name| !name.is_empty()).unwrap_or("missing");
            Err(RequestError::new(
                415,
                format!(
                    "unsupported Content-Type: {kind}; use application/json or application/x-www-form-urlencoded"
                ),
            ))
        }
    }
}

fn looks_like_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
}

/// The members of a JSON object, with their values unchanged.
fn json_arguments(body: &[u8]) -> Result<Arguments<'_>, RequestError> {
    let text =
        std::str::from_utf8(body).map_err(|_| bad_request("the body is not UTF-8; encode text as UTF-8"))?;
    if !looks_like_object(body) {
        return Err(bad_request("the body must be a JSON object, such as {\"name\":\"Kim\"}"));
    }
    if depth(text) > MAX_DEPTH {
        return Err(bad_request(format!(
            "the body is nested deeper than {MAX_DEPTH} levels; send a flatter object"
        )));
    }
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text)
        .map_err(|error| bad_request(format!("the body is not valid JSON: {error}")))?;
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

fn bad_request(message: impl Into<String>) -> RequestError {
    RequestError::bad_request(message)
}

/// The answer to a request that got no reply. [`mesh::failure_of`] has the table.
#[must_use]
pub fn outcome_answer(outcome: Outcome, uri: &str) -> HttpAnswer {
    failure_answer(&mesh::failure_of(outcome, uri))
}

/// A failure as an answer, in the shape of a reply packet. HTTP may not know the error code of a service; the status is
/// then 200.
#[must_use]
pub fn failure_answer(failure: &Failure) -> HttpAnswer {
    let mut body = serde_json::Map::new();
    body.insert("errorcode".to_owned(), failure.errorcode.into());
    body.insert("errormessage".to_owned(), failure.errormessage.as_str().into());
    body.extend(failure.details.iter().cloned());
    let is_status = (400..600).contains(&failure.errorcode);
    let seconds = failure.details.iter().find(|(name, _)| name == "retry_after");
    HttpAnswer::json(if is_status { failure.errorcode } else { 200 }, &body)
        .with_retry_after(seconds.and_then(|(_, seconds)| seconds.as_u64()))
}

/// 404: no service has registered this path.
#[must_use]
pub fn not_found_answer(method: &str, path: &str) -> HttpAnswer {
    let message = format!("no service has registered {method} {path}; GET /routes shows what there is");
    RequestError::new(404, message).into()
}

/// 405: the path accepts these methods.
#[must_use]
pub fn method_not_allowed_answer(method: &str, path: &str, allowed: &[String]) -> HttpAnswer {
    // A node may register any text as a method. The header lists only valid method names.
    let is_method = |known: &&String| known.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    let mut allowed: Vec<String> = allowed.iter().filter(is_method).cloned().collect();
    if allowed.iter().any(|known| known == "GET") {
        allowed.push("HEAD".to_owned());
    }
    let allowed = allowed.join(", ");
    let error = RequestError::new(405, format!("{path} does not accept {method}; it accepts {allowed}"));
    HttpAnswer::from(error).with_header("Allow", allowed)
}

/// A reply as an answer. The reply packet is the body. The HTTP status is its `status`, or else its `errorcode` if that
/// is an HTTP status, or else 200. Course nodes use error codes that are unknown in HTTP.
#[must_use]
pub fn reply_answer(reply: ReplyFrame) -> HttpAnswer {
    let as_status = |code: i64| u16::try_from(code).ok().filter(|code| (400..600).contains(code));
    let status = reply.status.filter(|status| (200..600).contains(status));
    let status = status.or_else(|| reply.errorcode.and_then(as_status)).unwrap_or(200);
    // A quotation mark or a control character would end the header's value early.
    let is_plain = |etag: &String| etag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    let etag = reply.etag.filter(is_plain).map(|etag| format!("\"{etag}\""));
    HttpAnswer::from_json(status, reply.json.into_bytes()).with_etag(etag).with_retry_after(reply.retry_after)
}

#[cfg(test)]
mod tests;
