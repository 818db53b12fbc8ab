//! HTTP to a gateway: a stream of events, or one request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The timeout of one attempt to connect, and of one write.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest line of a head or an event, in bytes.
const MAX_LINE_BYTES: u64 = 4 * 1024 * 1024;

/// The longest body of an answer that is read, in bytes.
const MAX_BODY_BYTES: u64 = 1024 * 1024;

/// How many headers an answer may have.
const MAX_HEADERS: usize = 100;

/// A request, without its `Host`.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Further lines of the head, each with its line end.
    pub headers: String,
    pub body: &'a str,
}

/// An answer whose head has been read.
pub struct Answer {
    pub status: u16,
    /// The value of `X-Request-Id`.
    pub request_id: String,
    body: BufReader<TcpStream>,
}

/// One event of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// The events of an answer, read line by line.
pub struct Events {
    body: BufReader<TcpStream>,
    line: Vec<u8>,
    event: Event,
}

impl Request<'_> {
    /// Sends the request on a connection of its own, and reads the head of the answer. `patience` limits each wait.
    pub fn send(&self, gateway: &str, patience: Duration) -> io::Result<Answer> {
        let address = gateway.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
        stream.set_read_timeout(Some(patience))?;
        let Self { method, path, headers, body } = self;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {gateway}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        Answer::read(BufReader::new(stream))
    }
}

impl Answer {
    fn read(mut body: BufReader<TcpStream>) -> io::Result<Self> {
        let status = read_line(&mut body)?;
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| invalid("the answer is not HTTP"))?;
        let mut request_id = String::new();
        for _ in 0..MAX_HEADERS {
            let line = read_line(&mut body)?;
            match line.split_once(": ") {
                _ if line.is_empty() => return Ok(Self { status, request_id, body }),
                Some((name, value)) if name.eq_ignore_ascii_case("X-Request-Id") => {
                    value.clone_into(&mut request_id);
                }
                _ => {}
            }
        }
        Err(invalid("the answer has too many headers"))
    }

    /// The whole body as text.
    pub fn text(self) -> io::Result<String> {
        let mut text = Vec::new();
        self.body.take(MAX_BODY_BYTES).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The body as events.
    pub fn events(self) -> Events {
        Events { body: self.body, line: Vec::new(), event: Event::default() }
    }
}

impl Events {
    /// The next event. `None` if none came before `deadline`. The error is the end of the stream, too.
    pub fn next(&mut self, deadline: Instant) -> io::Result<Option<Event>> {
        while Instant::now() < deadline {
            match self.body.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut self.line) {
                Ok(_) if self.line.ends_with(b"\n") => {}
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Err(invalid("the gateway sends a line that is too long")),
                // The bytes that have arrived stay in `line`.
                Err(error) if is_timeout(&error) => continue,
                Err(error) => return Err(error),
            }
            let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
            self.line.clear();
            match line.split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut self.event.name),
                Some(("data", data)) => self.event.data.push_str(data),
                None if line.is_empty() && !self.event.data.is_empty() => {
                    return Ok(Some(std::mem::take(&mut self.event)));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

fn read_line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.by_ref().take(MAX_LINE_BYTES).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
