//! Checks a request head. `httparse` reads it; this module adds the rules that reject a head.
//!
//! A head that two servers could read differently is rejected, and its connection is closed. Otherwise an attacker
//! could use their disagreement about the end of a request ("request smuggling").

use std::mem::MaybeUninit;
use std::str::FromStr;

use tiny_http::{Header, Method};

use super::answer_writer::SendOptions;
use super::request::{MAX_BODY_BYTES, RequestError};

/// The longest head, in bytes.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The limit for the number of headers in one head.
const MAX_HEADERS: usize = 100;

/// Nearly every head has at most this many headers.
const USUAL_HEADERS: usize = 24;

/// A valid head.
#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    pub target: String,
    pub body: BodyLength,
    pub wants_continue: bool,
    pub options: SendOptions,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    Known(usize),
    Chunked,
}

impl RequestHead {
    /// Checks a whole head. Stores the headers called `names` in `kept`, even if it then rejects the head.
    pub fn parse(
        bytes: &[u8],
        names: &'static [&'static str],
        kept: &mut Vec<Header>,
    ) -> Result<Self, RequestError> {
        match Self::parse_within::<USUAL_HEADERS>(bytes, names, kept)? {
            Some(head) => Ok(head),
            None => Self::parse_within::<MAX_HEADERS>(bytes, names, kept)?.ok_or_else(|| {
                RequestError::new(431, format!("the request has more than {MAX_HEADERS} headers; send fewer"))
            }),
        }
    }

    /// The head, if it has at most `HEADERS` headers.
    ///
    /// Never inlined: its array of headers would stay on the caller's stack and cost each connection a page of memory.
    #[inline(never)]
    fn parse_within<const HEADERS: usize>(
        bytes: &[u8],
        names: &'static [&'static str],
        kept: &mut Vec<Header>,
    ) -> Result<Option<Self>, RequestError> {
        // Not initialised: clearing the array costs more than reading the usual three headers.
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => {
                let message = "the request head is not complete; end it with an empty line";
                return Err(RequestError::bad_request(message));
            }
            Err(httparse::Error::TooManyHeaders) => return Ok(None),
            Err(error) => {
                return Err(RequestError::bad_request(format!(
                    "this is not an HTTP/1.1 request: {error}; check the request line and the headers"
                )));
            }
        }
        let (method, minor) = (parsed.method.unwrap_or_default(), parsed.version.unwrap_or_default());
        let method = Method::from_str(method)
            .map_err(|()| RequestError::bad_request("unknown method; use one such as GET or POST"))?;
        let headers = Headers(parsed.headers);
        *kept = headers.kept(names);
        if headers.all("Host").count() > 1 {
            return Err(RequestError::bad_request("the request has several Host headers; send one"));
        }
        let options = SendOptions {
            minor_version: minor,
            without_body: method == Method::Head,
            keep_alive: headers.keep_alive(minor),
        };
        Ok(Some(Self {
            method,
            target: parsed.path.unwrap_or_default().to_owned(),
            body: headers.body_length(minor)?,
            wants_continue: headers.wants_continue(minor)?,
            options,
        }))
    }
}

/// The headers of one head, as they arrived.
struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    fn kept(&self, names: &'static [&'static str]) -> Vec<Header> {
        // A proxy appends its header after those of the client. So the last one is the proxy's.
        let find = |name: &&'static str| {
            let mut all = self.all(name);
            let value = if *name == "X-Forwarded-For" { all.last() } else { all.next() };
            value.map(|value| (*name, value))
        };
        names
            .iter()
            .filter_map(find)
            .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
            .collect()
    }

    fn keep_alive(&self, minor: u8) -> bool {
        let has = |token: &str| {
            let values = self.all("Connection").flat_map(|value| value.split(|byte| *byte == b','));
            values.map(<[u8]>::trim_ascii).any(|value| value.eq_ignore_ascii_case(token.as_bytes()))
        };
        !has("close") && (minor == 1 || has("keep-alive"))
    }

    /// The length of the body. Rejects headers that two servers could read differently.
    fn body_length(&self, minor: u8) -> Result<BodyLength, RequestError> {
        let mut codings = self.all("Transfer-Encoding");
        let mut lengths = self.all("Content-Length");
        let bad_request = |message| Err(RequestError::bad_request(message));
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(BodyLength::Known(0)),
            (Some(_), Some(_)) => {
                bad_request("the request has Content-Length and Transfer-Encoding; send only one of them")
            }
            (Some(_), None) if minor == 0 => {
                bad_request("HTTP/1.0 has no Transfer-Encoding; send Content-Length, or HTTP/1.1")
            }
            (Some(_), None) if codings.next().is_some() => {
                bad_request("the request has several Transfer-Encoding headers; send one")
            }
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(BodyLength::Chunked),
            (Some(_), None) => {
                Err(RequestError::new(501, "unknown transfer coding; the only supported one is chunked"))
            }
            (None, Some(_)) if lengths.next().is_some() => {
                bad_request("the request has several Content-Length headers; send one")
            }
            (None, Some(length)) => content_length(length),
        }
    }

    fn wants_continue(&self, minor: u8) -> Result<bool, RequestError> {
        match self.all("Expect").next() {
            None => Ok(false),
            Some(expected) if expected.eq_ignore_ascii_case(b"100-continue") => Ok(minor == 1),
            Some(_) => Err(RequestError::new(417, "unknown Expect; the only supported one is 100-continue")),
        }
    }
}

fn content_length(value: &[u8]) -> Result<BodyLength, RequestError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(RequestError::bad_request("Content-Length must be a decimal number of bytes"));
    }
    let length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
    match length {
        Some(length) if length <= MAX_BODY_BYTES => Ok(BodyLength::Known(length)),
        _ => Err(body_too_long()),
    }
}

/// 413: the body is longer than [`MAX_BODY_BYTES`].
pub fn body_too_long() -> RequestError {
    RequestError::new(413, format!("the body is longer than {MAX_BODY_BYTES} bytes; send less"))
}

/// The position of the end of the head, if it has arrived. `checked` is the number of bytes that an earlier call has
/// checked.
///
/// Rejects bytes that no valid head contains. A line end without CR is one case: some servers accept it as a line end,
/// others do not. Control characters are another case, as in a TLS hello.
pub fn find_head_end(bytes: &[u8], checked: &mut usize) -> Result<Option<usize>, RequestError> {
    for at in *checked..bytes.len() {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        match bytes[at] {
            b'\n' if before != Some(b'\r') => {
                return Err(RequestError::bad_request(
                    "a line ends in LF alone; end each line with CR and LF",
                ));
            }
            b'\n' if bytes[..at].ends_with(b"\r\n\r") => return Ok(Some(at + 1)),
            b'\n' | b'\r' | b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => {
                return Err(RequestError::bad_request(
                    "the head has control characters; send plain HTTP/1.1, without TLS",
                ));
            }
        }
    }
    *checked = bytes.len();
    Ok(None)
}
