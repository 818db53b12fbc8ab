//! Server-Sent Events: an answer that continues until its source ends or the client disconnects.
//!
//! The thread of the connection asks an [`EventSource`] for events and writes them. A client that does not read hits a
//! write deadline. A disconnected client is detected at the next event or comment; its source is then dropped and ends.

use std::io::{self, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::net::socket_write::{not_read, write_by};

/// How long a client may take to read the bytes that it was sent.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Events that wait together are written together, up to this number of bytes.
pub const BATCH_BYTES: usize = 64 * 1024;

/// The source of the events of one answer.
pub trait EventSource {
    /// Headers for the head of the answer, beyond those that every event stream has.
    fn headers(&self) -> Vec<(&'static str, &str)>;

    /// Appends the next events to `out`, as [`append_event`] and [`append_comment`] write them. Waits at most a few
    /// seconds: a source without events appends a comment. Returns `Break` after the last event.
    fn append_events(&mut self, out: &mut Vec<u8>) -> ControlFlow<()>;

    /// Called once, when the answer has ended. `sent_bytes` is the length of its body.
    fn finish(&mut self, sent_bytes: usize);
}

/// The event source of a handler without streams.
#[derive(Debug, Clone, Copy)]
pub enum NoEvents {}

impl EventSource for NoEvents {
    fn headers(&self) -> Vec<(&'static str, &str)> {
        match *self {}
    }

    fn append_events(&mut self, _: &mut Vec<u8>) -> ControlFlow<()> {
        match *self {}
    }

    fn finish(&mut self, _: usize) {
        match *self {}
    }
}

/// Sends events until the source ends or the client disconnects. The caller closes the connection afterwards, which
/// marks the end of the answer. The error means that the client has disconnected or does not read.
pub fn send_events(client: &TcpStream, source: &mut (impl EventSource + ?Sized)) -> io::Result<()> {
    let mut sent_bytes = 0;
    let result = send_all(client, source, &mut sent_bytes);
    source.finish(sent_bytes);
    result
}

fn send_all(
    client: &TcpStream,
    source: &mut (impl EventSource + ?Sized),
    sent_bytes: &mut usize,
) -> io::Result<()> {
    let mut out =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n".to_vec();
    for (name, value) in source.headers() {
        write!(out, "{name}: {value}\r\n")?;
    }
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    let head_bytes = out.len();
    let mut flow = source.append_events(&mut out);
    *sent_bytes += out.len() - head_bytes;
    loop {
        write_by(client, &out, Instant::now() + CLIENT_TIMEOUT)?;
        if flow.is_break() {
            return Ok(());
        }
        out.clear();
        flow = source.append_events(&mut out);
        if is_gone(client)? {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        *sent_bytes += out.len();
    }
}

/// Appends one event with this JSON as its data.
pub fn append_event(out: &mut Vec<u8>, id: Option<u64>, name: Option<&str>, json: &str) {
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    if let Some(name) = name {
        out.extend_from_slice(format!("event: {name}\n").as_bytes());
    }
    // JSON may span several lines. Each line of the data needs its own field, and CR ends a line too.
    for line in json.split(['\r', '\n']).filter(|line| !line.is_empty()) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Appends a comment, which clients ignore. The text must be one line.
pub fn append_comment(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(format!(": {text}\n\n").as_bytes());
}

/// Whether the client has closed its connection. Does not wait.
fn is_gone(client: &TcpStream) -> io::Result<bool> {
    client.set_nonblocking(true)?;
    let seen = client.peek(&mut [0]);
    client.set_nonblocking(false)?;
    match seen {
        Ok(count) => Ok(count == 0),
        // The kernel has disconnected a client that reads nothing.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(not_read()),
        Err(error) => Ok(error.kind() != io::ErrorKind::WouldBlock),
    }
}

#[cfg(test)]
mod tests;
