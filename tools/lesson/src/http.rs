//! A client of the gateway: one connection for each request.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::check::{Failure, ensure};
use crate::connection::{Connection, End, PATIENCE, seconds};
use crate::language::{Text, text};
use crate::packet;
use crate::setup::Running;
use crate::transcript::{Transcript, show};

const ASK_EVERY: Duration = Duration::from_millis(100);

/// A request that has been sent.
pub struct Asked(Connection);

/// A client that keeps its connection, for a load.
pub struct Client {
    gateway: SocketAddr,
    connection: Option<Connection>,
}

impl Client {
    pub fn new(gateway: SocketAddr) -> Self {
        Self { gateway, connection: None }
    }

    /// The status of the answer; `None` if none came. The next request then uses a new connection.
    pub fn request(&mut self, method: &str, target: &str, body: &Value, within: Duration) -> Option<u16> {
        let who = client();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.gateway, who, &Transcript::default()).ok()?,
        };
        connection.write_quietly(request_text(self.gateway, (method, target, body), "").as_bytes()).ok()?;
        let answer = connection.read_until(within, |buffer| {
            let (answer, length) = read_answer(buffer, false)?;
            buffer.drain(..length);
            Some(answer)
        });
        let status = answer.ok()?.status;
        self.connection = Some(connection);
        Some(status)
    }
}

/// An answer of a gateway.
struct Answer {
    status: u16,
    /// The packet in the body, or null.
    body: Value,
    text: String,
}

/// Sends a request with a JSON body, or without a body if it is null.
pub fn ask(
    gateway: &Running,
    who: &Text,
    method: &str,
    target: &str,
    body: &Value,
) -> Result<Asked, Failure> {
    let mut connection = gateway.connect_as(who.clone())?;
    let request = request_text(gateway.address, (method, target, body), "Connection: close\r\n");
    let shown =
        if body.is_null() { format!("{method} {target}") } else { format!("{method} {target} {body}") };
    connection.transcript().sent(who, &shown);
    connection.write_quietly(request.as_bytes())?;
    Ok(Asked(connection))
}

fn request_text(host: SocketAddr, (method, target, body): (&str, &str, &Value), fields: &str) -> String {
    let json = if body.is_null() { String::new() } else { body.to_string() };
    let type_and_length = match body {
        Value::Null => String::new(),
        _ => format!("Content-Type: application/json\r\nContent-Length: {}\r\n", json.len()),
    };
    format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}{type_and_length}\r\n{json}")
}

/// Sends a request. The answer must have this status, and a body with these fields.
pub fn expect(
    gateway: &Running,
    (method, target, body): (&str, &str, &Value),
    status: u16,
    fields: &Value,
) -> Result<Value, Failure> {
    ask(gateway, &client(), method, target, body)?.expect(PATIENCE, status, fields)
}

/// Asks again and again, until the answer is as expected. The transcript keeps the last attempt only.
pub fn expect_soon(
    gateway: &Running,
    request: (&str, &str, &Value),
    status: u16,
    fields: &Value,
    within: Duration,
) -> Result<Value, Failure> {
    let deadline = Instant::now() + within;
    let transcript = gateway.transcript();
    let before = transcript.lines().len();
    loop {
        match expect(gateway, request, status, fields) {
            Err(_) if Instant::now() < deadline => {
                transcript.truncate(before);
                thread::sleep(ASK_EVERY);
            }
            Err(failure) => {
                let (en, ko) = seconds(within);
                let Text { en: expected_en, ko: expected_ko } = &failure.expected;
                let expected = text!("{expected_en} within {en}", "{ko} 안에 {expected_ko}");
                return Err(Failure { expected, ..failure });
            }
            answer => return answer,
        }
    }
}

fn client() -> Text {
    text!("client", "클라이언트")
}

impl Asked {
    pub fn expect(self, within: Duration, status: u16, fields: &Value) -> Result<Value, Failure> {
        let expected = match fields {
            Value::Null => Text::same(format!("HTTP {status}")),
            fields => Text::same(format!("HTTP {status} {}", packet::json(fields))),
        };
        let (transcript, who) = (self.0.transcript().clone(), self.0.who.clone());
        let answer = self.answer(within, &expected)?;
        let is_expected = answer.status == status && (fields.is_null() || packet::has(&answer.body, fields));
        ensure(is_expected, || Failure::new(expected, answer.shown()))?;
        transcript.received(&who, &answer.shown().en);
        Ok(answer.body)
    }

    /// Waits for the answer, whatever it says.
    fn answer(mut self, within: Duration, expected: &Text) -> Result<Answer, Failure> {
        let answer = self.0.read_until(within, |buffer| read_answer(buffer, false).map(|(answer, _)| answer));
        match answer {
            // Without a length, the end of the connection is the end of the body.
            Err(End::Closed) => read_answer(self.0.unread(), true)
                .map(|(answer, _)| answer)
                .ok_or_else(|| self.0.failure(expected, End::Closed)),
            other => other.map_err(|end| self.0.failure(expected, end)),
        }
    }
}

impl Answer {
    fn shown(&self) -> Text {
        Text::same(format!("HTTP {} {}", self.status, self.text))
    }
}

/// The answer and its length; `None` if it is not complete.
fn read_answer(bytes: &[u8], is_closed: bool) -> Option<(Answer, usize)> {
    let head_length = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_length]).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let rest = &bytes[head_length..];
    let (body, length) = if field("transfer-encoding:").is_some_and(|coding| coding.contains("chunked")) {
        join_chunks(rest)?
    } else if let Some(length) = field("content-length:").and_then(|length| length.parse().ok()) {
        (rest.get(..length)?.to_vec(), length)
    } else if is_closed {
        (rest.to_vec(), rest.len())
    } else {
        return None;
    };
    let text = show(body.trim_ascii());
    let answer = Answer { status, body: serde_json::from_slice(&body).unwrap_or_default(), text };
    Some((answer, head_length + length))
}

/// The body, and the length of its chunks; `None` if the last one is missing.
fn join_chunks(all: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut bytes = all;
    let mut body = Vec::new();
    loop {
        let line_length = bytes.windows(2).position(|two| two == b"\r\n")?;
        let line = str::from_utf8(&bytes[..line_length]).ok()?;
        let length = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        let begin = line_length + 2;
        if length == 0 {
            // An empty line follows; nobody here sends trailers.
            let rest = bytes.get(begin + 2..)?;
            return Some((body, all.len() - rest.len()));
        }
        body.extend_from_slice(bytes.get(begin..begin + length)?);
        bytes = bytes.get(begin + length + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_a_length_or_chunks_or_an_end() {
        let body = |bytes: &[u8], is_closed| read_answer(bytes, is_closed).map(|(answer, _)| answer.text);
        let sized = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(body(sized, false).as_deref(), Some("{}"));
        assert_eq!(body(&sized[..sized.len() - 1], false), None);
        let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
        assert_eq!(body(chunks, false).as_deref(), Some("{}"));
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\n{}", false), None);
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\n{}", true).as_deref(), Some("{}"));
    }
}
