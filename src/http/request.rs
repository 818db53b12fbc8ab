//! A request as a value, and the error of a rejected request. The types are tiny_http's.

use std::net::IpAddr;
use std::time::Instant;

use tiny_http::{Header, Method};

/// The longest body of a request, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// An HTTP request, from any server.
#[derive(Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// The path and the query as the client sent them.
    pub target: String,
    /// The headers that a handler may read.
    pub headers: Vec<Header>,
    /// The whole body.
    pub body: Vec<u8>,
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// When its first bytes had been read.
    pub began: Instant,
}

/// Why a request is rejected: the status of the answer, and a sentence that states what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    /// The HTTP status, from 400 to 599.
    pub status: u16,
    /// The reason, for the client.
    pub message: String,
}

impl HttpRequest {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &'static str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    /// Whether the method only reads: GET or HEAD.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self.method, Method::Get | Method::Head)
    }
}

impl RequestError {
    /// An error with this status.
    #[must_use]
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400: the request breaks a rule.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }
}

/// The value of the first header with this name.
#[must_use]
pub fn find_header<'a>(headers: &'a [Header], name: &'static str) -> Option<&'a str> {
    headers.iter().find(|header| header.field.equiv(name)).map(|header| header.value.as_str())
}
