//! An answer as a value, before a server writes it.

use std::borrow::Cow;
use std::io::Cursor;

use serde::Serialize;
use serde_json::json;
use tiny_http::{Header, Method, Response, StatusCode};

use super::request::{HttpRequest, RequestError};

/// When a client should retry after a 503, in seconds. By then, a lost link has been reconnected.
const RETRY_AFTER_SECONDS: u64 = 3;

/// The type of most bodies.
const JSON: &str = "application/json";

/// A whole answer.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// The HTTP status.
    pub status: u16,
    /// JSON, unless `content_type` differs. A body ends with a newline, so that a terminal shows it well.
    pub body: Vec<u8>,
    content_type: &'static str,
    /// Identifies this version of the resource.
    etag: Option<String>,
    headers: Vec<(&'static str, Cow<'static, str>)>,
}

impl HttpAnswer {
    /// An answer whose body is this JSON text.
    #[must_use]
    pub fn from_json(status: u16, json: Vec<u8>) -> Self {
        let body = end_line(json);
        Self { status, body, content_type: JSON, etag: None, headers: Vec::new() }
    }

    /// An answer whose body is this value as JSON.
    #[must_use]
    pub fn json<T: Serialize>(status: u16, body: &T) -> Self {
        Self::from_json(status, serde_json::to_vec(body).unwrap_or_default())
    }

    /// An answer with status 200 whose body is text of this type.
    #[must_use]
    pub fn text(content_type: &'static str, text: String) -> Self {
        Self { content_type, ..Self::from_json(200, text.into_bytes()) }
    }

    /// This body in place of that of `answer`, with its status and its headers. The tag of the other body is dropped. A
    /// status that allows no body becomes 200.
    #[must_use]
    pub fn in_place_of(self, answer: Self) -> Self {
        let status = if answer.may_have_body() { answer.status } else { 200 };
        let headers = answer.headers.into_iter().filter(|(name, _)| *name != "ETag").collect();
        Self { status, headers, ..self }
    }

    /// The same answer with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same answer with the entity tag of this version of the resource. [`HttpAnswer::conditional`] sends it.
    #[must_use]
    pub fn with_etag(mut self, etag: Option<String>) -> Self {
        self.etag = etag;
        self
    }

    /// The same answer. An error also states when to retry: after `seconds`, or after the default for a 503.
    #[must_use]
    pub fn with_retry_after(self, seconds: Option<u64>) -> Self {
        match seconds {
            Some(seconds) if self.status >= 400 => self.with_header("Retry-After", seconds.to_string()),
            _ if self.status == 503 => self.with_header("Retry-After", RETRY_AFTER_SECONDS.to_string()),
            _ => self,
        }
    }

    /// The same answer, or 304 if the client already has this version of the resource.
    #[must_use]
    pub fn conditional(mut self, request: &HttpRequest) -> Self {
        let Some(etag) = self.etag.take().filter(|_| self.status < 300) else { return self };
        let is_known = request.header("If-None-Match").is_some_and(|known| {
            known.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == etag)
        });
        if request.is_read() && is_known {
            // The writer sends no body with a 304. Its `Content-Length` is that of the 200.
            Self { status: 304, ..self }.with_header("ETag", etag)
        } else {
            self.with_header("ETag", etag)
        }
    }

    /// How many bytes of the body are sent in answer to this method.
    #[must_use]
    pub fn sent_bytes(&self, method: &Method) -> usize {
        if *method == Method::Head || !self.may_have_body() { 0 } else { self.body.len() }
    }

    /// Whether this status allows a body.
    #[must_use]
    pub fn may_have_body(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }

    /// The media type of the body.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        self.content_type
    }

    /// The headers beyond those that every answer has.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (*name, value.as_ref()))
    }

    /// Converts it to tiny_http's response, whose writer knows the rules of HTTP.
    #[must_use]
    pub fn into_response(self) -> Response<Cursor<Vec<u8>>> {
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        let content_type = ("Content-Type", Cow::Borrowed(self.content_type));
        for (name, value) in std::iter::once(content_type).chain(self.headers) {
            // A header that is not ASCII cannot be sent. All our headers are ASCII.
            headers.extend(Header::from_bytes(name, value.as_bytes()).ok());
        }
        let length = self.body.len();
        Response::new(StatusCode(self.status), headers, Cursor::new(self.body), Some(length), None)
            .with_chunked_threshold(usize::MAX)
    }
}

impl From<RequestError> for HttpAnswer {
    /// An error has the same shape wherever it comes from (`docs/protocol.md`, section 5).
    fn from(error: RequestError) -> Self {
        let body = json!({ "errorcode": error.status, "errormessage": error.message });
        Self::json(error.status, &body).with_retry_after(None)
    }
}

/// Ends a body with a newline. Only one byte is reserved: an allocator usually has it, so the body is not copied.
fn end_line(mut body: Vec<u8>) -> Vec<u8> {
    if !body.ends_with(b"\n") {
        body.reserve_exact(1);
        body.push(b'\n');
    }
    body
}

#[cfg(test)]
mod tests;
