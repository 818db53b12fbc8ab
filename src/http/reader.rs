//! The bytes of one connection, and the deadline of the request that they belong to.

use std::io::{self, Read};
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

use tiny_http::Header;

use super::backlog::HeldBytes;
use super::request::RequestError;
use super::request_head::{MAX_HEAD_BYTES, RequestHead, find_head_end};
use crate::net::is_timeout;

/// How long a connection may be silent between requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a request may take from its first byte to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The buffer for the first read of a request, in bytes. A silent connection keeps it. Most heads need less.
pub const FIRST_READ_BYTES: usize = 256;

/// The smallest buffer for each further read, in bytes.
pub const READ_BYTES: usize = 2 * 1024;

/// The reason why a connection yields no request.
#[derive(Debug)]
pub enum ReadError {
    /// The request is rejected and the connection closed.
    Rejected(RequestError),
    /// The client has disconnected.
    Lost(io::Error),
}

impl From<RequestError> for ReadError {
    fn from(error: RequestError) -> Self {
        Self::Rejected(error)
    }
}

/// Reads requests from one connection.
pub struct RequestReader<'a> {
    stream: &'a TcpStream,
    buffer: Vec<u8>,
    /// The part of the buffer that has been received but not used.
    unread: Range<usize>,
    /// The names of the headers that the handler reads.
    names: &'static [&'static str],
    /// The headers of the current request, after its head was parsed.
    headers: Vec<Header>,
    /// The current read timeout of the socket.
    timeout: Option<Duration>,
    /// The deadline by which the request must be complete. Not set for a request that arrived in one piece.
    deadline: Option<Instant>,
    timed_out: bool,
    /// When the first bytes of the current request had been read.
    began: Instant,
}

impl<'a> RequestReader<'a> {
    pub fn new(stream: &'a TcpStream, names: &'static [&'static str]) -> Self {
        let (buffer, headers) = (Vec::new(), Vec::new());
        Self {
            stream,
            buffer,
            unread: 0..0,
            names,
            headers,
            timeout: None,
            deadline: None,
            timed_out: false,
            began: Instant::now(),
        }
    }

    pub fn stream(&self) -> &'a TcpStream {
        self.stream
    }

    /// The bytes that have been received but not used.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.unread.clone()]
    }

    pub fn has_bytes(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Marks the next `count` bytes as used.
    pub fn consume(&mut self, count: usize) {
        self.unread.start += count;
    }

    /// When the first bytes of the current request had been read.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Whether the deadline of the request has passed.
    pub fn has_timed_out(&self) -> bool {
        self.timed_out
    }

    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    pub fn take_headers(&mut self) -> Vec<Header> {
        std::mem::take(&mut self.headers)
    }

    /// Waits for the first byte of the next request. Returns false at the end of the connection.
    pub fn await_request(&mut self) -> io::Result<bool> {
        while !self.has_bytes() {
            match self.fill(IDLE_TIMEOUT) {
                Ok(0) => return Ok(false),
                Err(error) if is_timeout(&error) => return Ok(false),
                filled => filled?,
            };
            // An empty line before a request is allowed, and one byte of a line end may arrive alone.
            self.skip_line_ends();
        }
        self.deadline = None;
        self.began = Instant::now();
        Ok(true)
    }

    fn skip_line_ends(&mut self) {
        self.unread.start += self.bytes().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    }

    /// Prepares for the next request after an answer. Drops the used bytes and a large buffer. Keeps the bytes of a
    /// request that the client sent without waiting for the answer.
    pub fn finish_request(&mut self) {
        self.skip_line_ends();
        if self.buffer.len() > 2 * READ_BYTES {
            self.buffer = self.bytes().to_vec();
        } else {
            self.buffer.copy_within(self.unread.clone(), 0);
        }
        self.unread = 0..self.unread.len();
    }

    /// Reads a head and checks it.
    pub fn read_head(&mut self) -> Result<RequestHead, ReadError> {
        let mut checked = 0;
        loop {
            let bytes = self.bytes();
            let end = find_head_end(bytes, &mut checked)?;
            if end.unwrap_or(bytes.len()) > MAX_HEAD_BYTES {
                let message = format!("the head is longer than {MAX_HEAD_BYTES} bytes; send fewer headers");
                return Err(RequestError::new(431, message).into());
            }
            if let Some(end) = end {
                let begin = self.unread.start;
                let head =
                    RequestHead::parse(&self.buffer[begin..begin + end], self.names, &mut self.headers)?;
                self.consume(end);
                return Ok(head);
            }
            self.read_more("the head")?;
        }
    }

    /// Reads a body of this length. Counts the received bytes in `held`.
    pub fn read_body(&mut self, length: usize, held: &mut HeldBytes<'_>) -> Result<Vec<u8>, ReadError> {
        while self.bytes().len() < length {
            self.read_more("the body")?;
            held.grow_to(self.unread.len());
        }
        let body = self.bytes()[..length].to_vec();
        self.consume(length);
        Ok(body)
    }

    /// Reads once, before the deadline of the request. `part` names the missing part of the request.
    pub fn read_more(&mut self, part: &str) -> Result<(), ReadError> {
        let now = Instant::now();
        let left = self.deadline.get_or_insert(now + REQUEST_TIMEOUT).saturating_duration_since(now);
        let read = if left.is_zero() { None } else { Some(self.fill(left)) };
        match read {
            Some(Ok(0)) => Err(ReadError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) if !is_timeout(&error) => Err(ReadError::Lost(error)),
            _ => {
                self.timed_out = true;
                Err(too_slow(part).into())
            }
        }
    }

    fn fill(&mut self, timeout: Duration) -> io::Result<usize> {
        if self.timeout != Some(timeout) {
            self.stream.set_read_timeout(Some(timeout))?;
            self.timeout = Some(timeout);
        }
        self.make_room();
        loop {
            match (&*self.stream).read(&mut self.buffer[self.unread.end..]) {
                Ok(count) => {
                    self.unread.end += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The buffer grows with the received bytes. So a long body needs few reads, and a declared length takes no memory
    /// until its bytes arrive.
    fn make_room(&mut self) {
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
        let end = self.unread.end;
        let wanted = if end == 0 { FIRST_READ_BYTES } else { end.clamp(READ_BYTES, 32 * READ_BYTES) };
        if self.buffer.len() < end + wanted.min(FIRST_READ_BYTES) {
            self.buffer.resize(end + wanted, 0);
        }
    }
}

/// 408: a part of the request did not arrive before the deadline.
pub fn too_slow(part: &str) -> RequestError {
    let seconds = REQUEST_TIMEOUT.as_secs();
    RequestError::new(
        408,
        format!("{part} did not arrive within {seconds} s; send the request again, faster"),
    )
}
