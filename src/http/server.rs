//! The life of one HTTP connection: read a request, let the handler answer it, write the answer, repeat.

use std::io::{self, Read};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tiny_http::Header;

use super::answer::HttpAnswer;
use super::answer_writer::{SendOptions, print_answer};
use super::backlog::{Backlog, HeldBytes};
use super::chunks::read_chunked_body;
use super::event_stream::{EventSource, send_events};
use super::reader::{READ_BYTES, ReadError, RequestReader};
use super::request::{HttpRequest, RequestError};
use super::request_head::BodyLength;
use crate::net::linger;
use crate::net::listener::{Connection, Serve};
use crate::net::socket_write::write_by;

/// How long a client may take to read an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection beyond the limit has to send its request before the server rejects it.
const REFUSE_TIMEOUT: Duration = Duration::from_millis(100);

/// Answers the requests of a server.
pub trait HttpHandler: Send + Sync + 'static {
    /// The type of its event streams; [`NoEvents`](super::NoEvents) if it has none.
    type Events: EventSource + ?Sized;

    /// The headers that it reads. All others are dropped.
    const HEADERS: &'static [&'static str];

    /// Answers one request. Never fails: a failure is an answer.
    fn answer(&self, request: &HttpRequest) -> HttpOutcome<Self::Events>;

    /// Makes the answer to a request that could not be read. `headers` are those that could be parsed.
    fn reject(&self, error: RequestError, headers: &[Header], peer: IpAddr) -> HttpAnswer {
        let _ = (headers, peer);
        error.into()
    }
}

/// The result of a handler.
pub enum HttpOutcome<E: ?Sized> {
    /// A whole answer.
    Answer(HttpAnswer),
    /// A stream of events. The connection closes at its end.
    Events(Box<E>),
}

impl<E: ?Sized> HttpOutcome<E> {
    /// The HTTP status. That of a stream is 200.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Answer(answer) => answer.status,
            Self::Events(_) => 200,
        }
    }
}

/// Serves HTTP on a listener.
pub struct HttpServer<H> {
    handler: Arc<H>,
    backlog: Backlog,
}

impl<H: HttpHandler> HttpServer<H> {
    /// A server for this handler.
    #[must_use]
    pub fn new(handler: Arc<H>) -> Self {
        Self { handler, backlog: Backlog::default() }
    }

    /// Answers the requests of one connection in the order of their arrival, until it closes.
    fn answer_requests(&self, connection: &Connection) -> io::Result<()> {
        let stream = connection.stream.as_ref();
        let mut reader = RequestReader::new(stream, H::HEADERS);
        while reader.await_request()? {
            let _work = connection.work();
            let held_bytes = self.backlog.hold(&connection.stream);
            let (answer, options) = match read_request(&mut reader, held_bytes, connection.peer.ip()) {
                Ok((request, mut options)) => match self.handler.answer(&request) {
                    HttpOutcome::Answer(answer) => {
                        options.keep_alive &= !connection.draining();
                        (answer, options)
                    }
                    HttpOutcome::Events(mut source) => return send_events(stream, &mut *source),
                },
                Err(ReadError::Rejected(error)) => {
                    let answer = self.handler.reject(error, reader.headers(), connection.peer.ip());
                    (answer, SendOptions::CLOSING)
                }
                Err(ReadError::Lost(error)) => return Err(error),
            };
            let bytes = print_answer(&answer, options)?;
            let mut held_bytes = self.backlog.hold(&connection.stream);
            held_bytes.grow_to(bytes.len());
            write_by(stream, &bytes, Instant::now() + ANSWER_TIMEOUT)?;
            if !options.keep_alive {
                linger(stream);
                return Ok(());
            }
            reader.finish_request();
        }
        Ok(())
    }
}

/// Reads one request, and determines how its answer is sent. `held_bytes` counts its body until it is complete.
fn read_request(
    reader: &mut RequestReader<'_>,
    mut held_bytes: HeldBytes<'_>,
    peer: IpAddr,
) -> Result<(HttpRequest, SendOptions), ReadError> {
    let head = reader.read_head()?;
    if head.wants_continue && !reader.has_bytes() {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        write_by(reader.stream(), b"HTTP/1.1 100 Continue\r\n\r\n", deadline).map_err(ReadError::Lost)?;
    }
    let body = match head.body {
        BodyLength::Known(length) => reader.read_body(length, &mut held_bytes)?,
        BodyLength::Chunked => read_chunked_body(reader, &mut held_bytes)?,
    };
    let headers = reader.take_headers();
    let request =
        HttpRequest { method: head.method, target: head.target, headers, body, peer, began: reader.began() };
    Ok((request, head.options))
}

impl<H: HttpHandler> Serve for HttpServer<H> {
    fn serve(&self, connection: Connection) {
        if let Err(error) = self.answer_requests(&connection) {
            log::debug!("{}: connection lost: {error}", connection.peer);
        }
    }

    fn refuse(&self, stream: &TcpStream, peer: SocketAddr) {
        // Read first: the kernel resets a connection that is closed with unread bytes, and the answer is lost.
        let _ = stream.set_read_timeout(Some(REFUSE_TIMEOUT));
        let _ = (&*stream).read(&mut [0; READ_BYTES]);
        let busy = RequestError::new(503, "too many connections are open; try again in a moment");
        let answer = self.handler.reject(busy, &[], peer.ip());
        if let Ok(bytes) = print_answer(&answer, SendOptions::CLOSING) {
            let _ = write_by(stream, &bytes, Instant::now() + ANSWER_TIMEOUT);
        }
        let _ = stream.shutdown(Shutdown::Write);
    }
}

/// An entry point for the fuzz target `http`, which has no listener. It exists only in a build for fuzzing.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz_doors {
    use super::super::reader::FIRST_READ_BYTES;
    use super::{
        Arc, Backlog, HttpHandler, HttpRequest, IpAddr, ReadError, RequestReader, TcpStream, read_request,
    };

    /// The smallest buffer for a read, in bytes.
    pub const LEAST_ROOM_BYTES: usize = FIRST_READ_BYTES;

    /// Reads the requests of one connection to a handler until it closes. Also returns the status of the last one, if
    /// it was rejected.
    pub fn requests<H: HttpHandler>(
        stream: &Arc<TcpStream>,
        peer: IpAddr,
    ) -> (Vec<HttpRequest>, Option<u16>) {
        let backlog = Backlog::default();
        let mut reader = RequestReader::new(stream, H::HEADERS);
        let mut requests = Vec::new();
        while let Ok(true) = reader.await_request() {
            match read_request(&mut reader, backlog.hold(stream), peer) {
                Ok((request, options)) => {
                    requests.push(request);
                    if !options.keep_alive {
                        break;
                    }
                }
                Err(ReadError::Rejected(error)) => return (requests, Some(error.status)),
                Err(ReadError::Lost(_)) => break,
            }
            reader.finish_request();
        }
        (requests, None)
    }
}
