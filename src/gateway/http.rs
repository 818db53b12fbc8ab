//! The default HTTP front: HTTP/1.1 and 1.0 over the same listener that serves packets, one thread per
//! connection. `httparse` reads heads, `chunked_transfer` reads chunked bodies, tiny_http's response writer writes
//! every answer; what is here are the rules between them: limits, deadlines, and what a request may not be.
//!
//! A request that could be understood in two ways is refused and its connection closed: two servers that
//! disagree about where a request ends can be played against each other ("request smuggling").
//!
//! - [`Site`] is what answers the requests: the gateway, or a page of metrics.
//! - [`Front`] is what the listener calls, its `converse` the life of one connection.
//! - `Head` is a head that was found good.
//! - `Reader` owns the bytes that have come and the deadline for those that have not.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chunked_transfer::Decoder;
use tiny_http::{Header, Method};

use super::backlog::{Backlog, Holding};
use super::translate::{HttpAnswer, refusal};
use super::{Answer, HttpRequest, MAX_BODY_BYTES, head};
use crate::net::is_timeout;
use crate::net::listener::{Connection, Serve};
use crate::net::outbox::write_by;
use crate::packet::Failure;

/// The longest head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The most headers in one head.
const MAX_HEADERS: usize = 100;

/// As many headers as a head nearly always has no more than.
const USUAL_HEADERS: usize = 24;

/// How long a connection may be silent between requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a request may take from its first byte to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take to be read by its client.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long, and for how many bytes, a connection that is being closed is still read, so that the client reads
/// its answer before it learns of the end.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// How long a connection beyond the limit has to show its request before it is turned away.
const REFUSE_TIMEOUT: Duration = Duration::from_millis(100);

/// Room made for the first read of a request, in bytes: what a silent connection keeps. Most heads need less.
const FIRST_READ_BYTES: usize = 256;

/// Room made for each of the next ones, at least.
const READ_BYTES: usize = 2 * 1024;

/// Room for the head of an answer as they nearly all are, in bytes.
const USUAL_HEAD_BYTES: usize = 224;

/// The most bytes on the wire for a chunked body: chunk sizes count too, and may not go on for ever.
const MAX_CHUNKED_BYTES: usize = 4 * MAX_BODY_BYTES;

/// The longest line with the size of a chunk, in bytes.
const MAX_CHUNK_LINE_BYTES: usize = 256;

/// The headers that the gateway or this front looks at; all others are read and passed over.
const KEPT_HEADERS: [&str; 8] = [
    "Content-Type",
    "X-Request-Id",
    "Accept",
    "Authorization",
    "Last-Event-ID",
    "If-Match",
    "If-None-Match",
    "X-Forwarded-For",
];

/// What answers HTTP requests.
pub trait Site: Send + Sync + 'static {
    /// Answers one request. Never fails: a failure is an answer.
    fn answer(&self, request: &HttpRequest) -> Answer;

    /// Completes the answer to a request that could not be read. `headers` are those that were understood, `peer` is
    /// the other end of the connection.
    fn refuse(&self, answer: HttpAnswer, headers: &[Header], peer: IpAddr) -> HttpAnswer;
}

/// The HTTP front of a site.
pub struct Front {
    site: Arc<dyn Site>,
    backlog: Backlog,
}

impl Front {
    /// Serves HTTP for this site.
    #[must_use]
    pub fn new(site: Arc<dyn Site>) -> Self {
        Self { site, backlog: Backlog::default() }
    }

    /// Answers the requests of one connection in the order in which they come, until it ends.
    fn converse(&self, connection: &Connection) -> io::Result<()> {
        let stream = connection.stream.as_ref();
        let mut reader = Reader::new(stream);
        while reader.await_request()? {
            let _work = connection.work();
            let holding = self.backlog.hold(&connection.stream);
            let (answer, how) = match Self::read(&mut reader, holding, connection.peer.ip()) {
                Ok((request, mut how)) => match self.site.answer(&request) {
                    Answer::Whole(answer) => {
                        how.keep_alive &= !connection.draining();
                        (answer, how)
                    }
                    Answer::Stream(events) => return events.send(stream),
                },
                Err(Broken::Refused(answer)) => {
                    (self.site.refuse(*answer, &reader.headers, connection.peer.ip()), Manner::CLOSING)
                }
                Err(Broken::Lost(error)) => return Err(error),
            };
            let bytes = print_answer(&answer, how)?;
            let mut holding = self.backlog.hold(&connection.stream);
            holding.grow_to(bytes.len());
            write_by(stream, &bytes, Instant::now() + ANSWER_TIMEOUT)?;
            if !how.keep_alive {
                linger(&mut reader, stream);
                return Ok(());
            }
            reader.settle();
        }
        Ok(())
    }

    /// What of the body has come so far is held for the client until all of it is here.
    fn read(
        reader: &mut Reader<'_>,
        mut holding: Holding<'_>,
        peer: IpAddr,
    ) -> Result<(HttpRequest, Manner), Broken> {
        let head = reader.head()?;
        if head.wants_continue && !reader.has_bytes() {
            let soon = Instant::now() + ANSWER_TIMEOUT;
            write_by(reader.stream, b"HTTP/1.1 100 Continue\r\n\r\n", soon).map_err(Broken::Lost)?;
        }
        let body = match head.body {
            BodyLength::Known(length) => reader.body(length, &mut holding)?,
            BodyLength::Chunked => reader.chunked_body(&mut holding)?,
        };
        let headers = std::mem::take(&mut reader.headers);
        let request = HttpRequest { method: head.method, target: head.target, headers, body, peer };
        Ok((request, head.manner))
    }
}

impl Serve for Front {
    fn serve(&self, connection: Connection) {
        if let Err(error) = self.converse(&connection) {
            log::debug!("{}: connection lost: {error}", connection.peer);
        }
    }

    fn refuse(&self, stream: &TcpStream, peer: SocketAddr) {
        // Reading first: a connection that is closed with bytes unread is reset, and the answer with it.
        let _ = stream.set_read_timeout(Some(REFUSE_TIMEOUT));
        let _ = (&*stream).read(&mut [0; READ_BYTES]);
        let busy = Failure::new(503, "too many connections are open; try again in a moment");
        let answer = self.site.refuse(refusal(&busy), &[], peer.ip());
        if let Ok(bytes) = print_answer(&answer, Manner::CLOSING) {
            let _ = write_by(stream, &bytes, Instant::now() + ANSWER_TIMEOUT);
        }
        let _ = stream.shutdown(Shutdown::Write);
    }
}

/// How an answer is to be sent.
#[derive(Debug, Clone, Copy)]
struct Manner {
    minor_version: u8,
    without_body: bool,
    keep_alive: bool,
}

impl Manner {
    const CLOSING: Self = Self { minor_version: 1, without_body: false, keep_alive: false };
}

/// A head that was found good.
#[derive(Debug)]
struct Head {
    method: Method,
    target: String,
    body: BodyLength,
    wants_continue: bool,
    manner: Manner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyLength {
    Known(usize),
    Chunked,
}

/// Why there is no request to answer.
#[derive(Debug)]
enum Broken {
    /// It is refused with this answer, and the connection closed.
    Refused(Box<HttpAnswer>),
    /// The client is gone.
    Lost(io::Error),
}

fn refused(status: u16, message: impl Into<String>) -> Broken {
    Broken::Refused(Box::new(HttpAnswer::failure(&Failure::new(status, message))))
}

impl Head {
    /// Checks a head. Those of its headers that are kept are left in `kept`, also if it is refused for what they
    /// say.
    fn parse(bytes: &[u8], kept: &mut Vec<Header>) -> Result<Self, Broken> {
        match Self::parse_within::<USUAL_HEADERS>(bytes, kept)? {
            Some(head) => Ok(head),
            None => Self::parse_within::<MAX_HEADERS>(bytes, kept)?
                .ok_or_else(|| refused(431, format!("a request may have {MAX_HEADERS} headers"))),
        }
    }

    /// The head, if it has no more than so many headers.
    ///
    /// Never inlined: its room for headers would stay on the stack of its caller, and with it a page of memory for
    /// each connection.
    #[inline(never)]
    fn parse_within<const HEADERS: usize>(
        bytes: &[u8],
        kept: &mut Vec<Header>,
    ) -> Result<Option<Self>, Broken> {
        // Not filled before: clearing the room costs more than reading the usual three headers.
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(refused(400, "the head is not complete")),
            Err(httparse::Error::TooManyHeaders) => return Ok(None),
            Err(error) => return Err(refused(400, format!("this is no HTTP/1.1 request: {error}"))),
        }
        let (method, minor) = (parsed.method.unwrap_or_default(), parsed.version.unwrap_or_default());
        let method = Method::from_str(method).map_err(|()| refused(400, "the method is no method"))?;
        let headers = Headers(parsed.headers);
        *kept = headers.kept();
        if headers.all("Host").count() > 1 {
            return Err(refused(400, "Host may stand only once"));
        }
        let manner = Manner {
            minor_version: minor,
            without_body: method == Method::Head,
            keep_alive: headers.keep_alive(minor),
        };
        Ok(Some(Self {
            method,
            target: parsed.path.unwrap_or_default().to_owned(),
            body: headers.body_length(minor)?,
            wants_continue: headers.wants_continue(minor)?,
            manner,
        }))
    }
}

/// The headers of one head, as they came.
struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    fn kept(&self) -> Vec<Header> {
        // A proxy that adds a header adds it behind those that the client sent: of what proxies say the last counts.
        let named = |name: &'static str| {
            let mut all = self.all(name);
            let value = if name == "X-Forwarded-For" { all.last() } else { all.next() };
            value.map(|value| (name, value))
        };
        KEPT_HEADERS
            .into_iter()
            .filter_map(named)
            .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
            .collect()
    }

    fn keep_alive(&self, minor: u8) -> bool {
        let said = |token: &str| {
            let values = self.all("Connection").flat_map(|value| value.split(|byte| *byte == b','));
            values.map(<[u8]>::trim_ascii).any(|value| value.eq_ignore_ascii_case(token.as_bytes()))
        };
        !said("close") && (minor == 1 || said("keep-alive"))
    }

    /// How long the body is. What could be read in two ways is refused.
    fn body_length(&self, minor: u8) -> Result<BodyLength, Broken> {
        let mut codings = self.all("Transfer-Encoding");
        let mut lengths = self.all("Content-Length");
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(BodyLength::Known(0)),
            (Some(_), Some(_)) => {
                Err(refused(400, "Content-Length and Transfer-Encoding must not stand together"))
            }
            (Some(_), None) if minor == 0 || codings.next().is_some() => {
                Err(refused(400, "Transfer-Encoding may stand only once, and not in HTTP/1.0"))
            }
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(BodyLength::Chunked),
            (Some(_), None) => Err(refused(501, "of the transfer codings only chunked is known here")),
            (None, Some(_)) if lengths.next().is_some() => {
                Err(refused(400, "Content-Length may stand only once"))
            }
            (None, Some(length)) => content_length(length),
        }
    }

    fn wants_continue(&self, minor: u8) -> Result<bool, Broken> {
        match self.all("Expect").next() {
            None => Ok(false),
            Some(expected) if expected.eq_ignore_ascii_case(b"100-continue") => Ok(minor == 1),
            Some(_) => Err(refused(417, "of the expectations only 100-continue can be met here")),
        }
    }
}

fn content_length(value: &[u8]) -> Result<BodyLength, Broken> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(refused(400, "Content-Length must be a number of bytes in digits"));
    }
    let length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
    match length {
        Some(length) if length <= MAX_BODY_BYTES => Ok(BodyLength::Known(length)),
        _ => Err(body_too_long()),
    }
}

fn body_too_long() -> Broken {
    refused(413, format!("a body may have {MAX_BODY_BYTES} bytes"))
}

/// The bytes of a connection, and the deadline of those that belong to a request.
struct Reader<'a> {
    stream: &'a TcpStream,
    buffer: Vec<u8>,
    /// Where in the buffer the bytes are that have come and have not been used.
    unread: Range<usize>,
    /// Of the request that is being read, once its head was understood.
    headers: Vec<Header>,
    /// What the socket's read time-out is set to.
    timeout: Option<Duration>,
    /// When the request that is being read must be complete; nothing while it came in one piece.
    deadline: Option<Instant>,
    timed_out: bool,
}

impl<'a> Reader<'a> {
    fn new(stream: &'a TcpStream) -> Self {
        let (buffer, headers) = (Vec::new(), Vec::new());
        Self { stream, buffer, unread: 0..0, headers, timeout: None, deadline: None, timed_out: false }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.unread.clone()]
    }

    fn has_bytes(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Waits for the first byte of the next request; false at the end of the connection.
    fn await_request(&mut self) -> io::Result<bool> {
        while !self.has_bytes() {
            match self.fill(IDLE_TIMEOUT) {
                Ok(0) => return Ok(false),
                Err(error) if is_timeout(&error) => return Ok(false),
                filled => filled?,
            };
            // An empty line before a request is allowed, and one byte of a line end may come alone.
            self.skip_line_ends();
        }
        self.deadline = None;
        Ok(true)
    }

    fn skip_line_ends(&mut self) {
        self.unread.start += self.bytes().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    }

    /// After an answer: what was used is forgotten, and a large buffer given back. Bytes of the next request,
    /// sent without waiting for the answer, stay.
    fn settle(&mut self) {
        self.skip_line_ends();
        if self.buffer.len() > 2 * READ_BYTES {
            self.buffer = self.bytes().to_vec();
        } else {
            self.buffer.copy_within(self.unread.clone(), 0);
        }
        self.unread = 0..self.unread.len();
    }

    fn head(&mut self) -> Result<Head, Broken> {
        let mut checked = 0;
        loop {
            let bytes = self.bytes();
            let end = head_end(bytes, &mut checked)?;
            if end.unwrap_or(bytes.len()) > MAX_HEAD_BYTES {
                return Err(refused(431, format!("a head may have {MAX_HEAD_BYTES} bytes")));
            }
            if let Some(end) = end {
                let begin = self.unread.start;
                let head = Head::parse(&self.buffer[begin..begin + end], &mut self.headers)?;
                self.unread.start += end;
                return Ok(head);
            }
            self.read_more("the head")?;
        }
    }

    fn body(&mut self, length: usize, held: &mut Holding<'_>) -> Result<Vec<u8>, Broken> {
        while self.bytes().len() < length {
            self.read_more("the body")?;
            held.grow_to(self.unread.len());
        }
        let body = self.bytes()[..length].to_vec();
        self.unread.start += length;
        Ok(body)
    }

    /// Never inlined, as [`Head::parse_within`].
    #[inline(never)]
    fn chunked_body(&mut self, held: &mut Holding<'_>) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        let mut wire = Wire { reader: self, taken: 0 };
        let mut decoder = Decoder::new(&mut wire);
        let mut piece = [0; READ_BYTES];
        loop {
            if decoder.remaining_chunks_size().is_none() {
                decoder.get_mut().check_chunk_line()?;
            }
            let count = match decoder.read(&mut piece) {
                Ok(count) => count,
                Err(_) if decoder.get_ref().taken > MAX_CHUNKED_BYTES => return Err(body_too_long()),
                Err(_) if decoder.get_ref().reader.timed_out => return Err(too_slow("the body")),
                Err(_) => return Err(refused(400, "the chunks of the body are not in order")),
            };
            if count == 0 {
                // An end in the middle of a chunk looks like the end of the body to the decoder.
                return match decoder.remaining_chunks_size() {
                    None => Ok(body),
                    Some(_) => Err(refused(400, "the body ended within a chunk")),
                };
            }
            body.extend_from_slice(&piece[..count]);
            held.grow_to(body.len());
            if body.len() > MAX_BODY_BYTES {
                return Err(body_too_long());
            }
        }
    }

    /// Reads once, before the request's deadline.
    fn read_more(&mut self, what: &str) -> Result<(), Broken> {
        let now = Instant::now();
        let left = self.deadline.get_or_insert(now + REQUEST_TIMEOUT).saturating_duration_since(now);
        if left.is_zero() {
            self.timed_out = true;
            return Err(too_slow(what));
        }
        match self.fill(left) {
            Ok(0) => Err(Broken::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) if is_timeout(&error) => {
                self.timed_out = true;
                Err(too_slow(what))
            }
            Err(error) => Err(Broken::Lost(error)),
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

    /// What is read next grows with what has been read: a long body costs few reads, and a declared length costs
    /// nothing until its bytes come.
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

fn too_slow(what: &str) -> Broken {
    refused(408, format!("{what} did not arrive within {} s", REQUEST_TIMEOUT.as_secs()))
}

/// Where the head ends. Refused are bytes that no head has: a line end without its carriage return, which some
/// servers take for a line end and others do not, and control characters, as in a TLS hello.
fn head_end(bytes: &[u8], checked: &mut usize) -> Result<Option<usize>, Broken> {
    for at in *checked..bytes.len() {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        match bytes[at] {
            b'\n' if before != Some(b'\r') => return Err(refused(400, "a line must end in CR and LF")),
            b'\n' if bytes[..at].ends_with(b"\r\n\r") => return Ok(Some(at + 1)),
            b'\n' | b'\r' | b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(refused(400, "this is no HTTP/1.1 request: control characters in the head")),
        }
    }
    *checked = bytes.len();
    Ok(None)
}

/// A [`Reader`] as the chunk decoder reads it.
struct Wire<'a, 'b> {
    reader: &'a mut Reader<'b>,
    taken: usize,
}

impl Wire<'_, '_> {
    /// The decoder would take `+5` or white space for a size; this lets pass only what every server reads alike.
    fn check_chunk_line(&mut self) -> Result<(), Broken> {
        loop {
            let bytes = self.reader.bytes();
            if let Some(end) = memchr::memmem::find(bytes, b"\r\n") {
                let size = bytes[..end].split(|byte| *byte == b';').next().unwrap_or_default();
                let plain = end <= MAX_CHUNK_LINE_BYTES && !bytes[..end].iter().any(u8::is_ascii_control);
                let sane = (1..=16).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
                return if plain && sane {
                    Ok(())
                } else {
                    Err(refused(400, "the size of a chunk is no number"))
                };
            }
            // The line's end may be here in half.
            if bytes.len() > MAX_CHUNK_LINE_BYTES + 1 {
                return Err(refused(400, "the line with the size of a chunk is too long"));
            }
            self.reader.read_more("the body")?;
        }
    }
}

impl Read for &mut Wire<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken > MAX_CHUNKED_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !self.reader.has_bytes() {
            match self.reader.read_more("the body") {
                Ok(()) => {}
                Err(Broken::Lost(error)) => return Err(error),
                Err(Broken::Refused(_)) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        let count = self.reader.bytes().len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.reader.bytes()[..count]);
        self.reader.unread.start += count;
        self.taken += count;
        Ok(count)
    }
}

/// An answer as it goes out, in one write.
fn print_answer(answer: &HttpAnswer, how: Manner) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(answer.body.len() + USUAL_HEAD_BYTES);
    let connection = match (how.keep_alive, how.minor_version) {
        (false, _) => Some(("Connection", "close")),
        (true, 0) => Some(("Connection", "keep-alive")),
        (true, _) => None,
    };
    head::append(
        &mut bytes,
        answer.kind(how.minor_version),
        answer.body.len(),
        answer.headers().chain(connection),
    )?;
    if !how.without_body && answer.may_have_body() {
        bytes.extend_from_slice(&answer.body);
    }
    Ok(bytes)
}

/// Reads on for a moment after the last answer. A connection that is closed with bytes unread is reset, and the
/// client may lose the answer with it.
fn linger(reader: &mut Reader<'_>, stream: &TcpStream) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let deadline = Instant::now() + LINGER;
    reader.buffer.resize(READ_BYTES, 0);
    let mut read = 0;
    while read < LINGER_BYTES {
        reader.unread = 0..0;
        let left = deadline.saturating_duration_since(Instant::now());
        match reader.fill(left.max(Duration::from_millis(1))) {
            Ok(count) if count > 0 && !left.is_zero() => read += count,
            _ => return,
        }
    }
}

/// A way in for the fuzz target `http`, which has no listener. Only a build for fuzzing has it.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz_doors {
    use super::{Arc, Backlog, Broken, FIRST_READ_BYTES, Front, HttpRequest, IpAddr, Reader, TcpStream};

    /// The least room that is made for a read, in bytes.
    pub const LEAST_ROOM_BYTES: usize = FIRST_READ_BYTES;

    /// Reads the requests of one connection until it ends; the status that the last one was refused with, if it was.
    pub fn requests(stream: &Arc<TcpStream>, peer: IpAddr) -> (Vec<HttpRequest>, Option<u16>) {
        let backlog = Backlog::default();
        let mut reader = Reader::new(stream);
        let mut requests = Vec::new();
        while let Ok(true) = reader.await_request() {
            match Front::read(&mut reader, backlog.hold(stream), peer) {
                Ok((request, how)) => {
                    requests.push(request);
                    if !how.keep_alive {
                        break;
                    }
                }
                Err(Broken::Refused(answer)) => return (requests, Some(answer.status)),
                Err(Broken::Lost(_)) => break,
            }
            reader.settle();
        }
        (requests, None)
    }
}
