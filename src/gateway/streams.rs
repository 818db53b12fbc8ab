//! Streams for browsers and `curl -N`: Server-Sent Events.
//!
//! The client's connection thread reads the subscription and writes events; nobody else waits for it. A client
//! that does not read is ended by the time-out of its write. One that is gone is noticed at the next event or
//! comment, and its stream is then cancelled at the source.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use crate::net::link::ReplyFrame;
use crate::net::outbox::{not_read, write_by};
use crate::observe::access_log::HttpLine;
use crate::packet::Failure;
use crate::subscription::Subscription;
use crate::sync::Permit;

/// A silent stream is kept alive by a comment this often.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// How long a client may take to read what it is sent.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Events that wait together are written together, up to this many bytes.
const BATCH_BYTES: usize = 64 * 1024;

/// A stream on its way to a client.
pub struct EventStream {
    subscription: Subscription,
    first: ReplyFrame,
    account: Account,
    _place: StreamPlace,
}

/// A place among the streams of a gateway (`--max-streams`), given back when it is dropped.
pub type StreamPlace = Permit<Arc<AtomicUsize>>;

/// What the access log is told of a stream, once it has ended.
#[derive(Debug)]
pub struct Account {
    /// The request's id.
    pub request_id: String,
    /// The client.
    pub client: IpAddr,
    /// The target of the request, as it came.
    pub target: String,
    /// The route that it reached.
    pub route: String,
    /// Who answered first.
    pub instance: Option<Arc<str>>,
    /// When the request came.
    pub began: Instant,
}

impl Account {
    fn close(&self, bytes: usize) {
        HttpLine {
            id: &self.request_id,
            client: self.client,
            method: Some("GET"),
            target: Some(&self.target),
            route: Some(&self.route),
            instance: self.instance.as_deref(),
            status: 200,
            bytes,
            took: self.began.elapsed(),
        }
        .write();
    }
}

impl EventStream {
    /// A stream whose first reply has come.
    #[must_use]
    pub fn new(subscription: Subscription, first: ReplyFrame, account: Account, place: StreamPlace) -> Self {
        Self { subscription, first, account, _place: place }
    }

    /// Sends events until the stream ends or the client is gone. The connection is closed afterwards: its end is
    /// the end of the answer.
    ///
    /// # Errors
    /// That the client is gone or does not read.
    pub fn send(mut self, client: &TcpStream) -> io::Result<()> {
        let mut bytes = 0;
        let ended = self.send_events(client, &mut bytes);
        self.account.close(bytes);
        ended
    }

    fn send_events(&mut self, client: &TcpStream, bytes: &mut usize) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
             X-Request-Id: {}\r\nConnection: close\r\n\r\n",
            self.account.request_id
        );
        let mut out = head.into_bytes();
        let head_bytes = out.len();
        write_event(&mut out, &self.first);
        *bytes += out.len() - head_bytes;
        loop {
            write_by(client, &out, Instant::now() + CLIENT_TIMEOUT)?;
            out.clear();
            let ended = self.collect(&mut out);
            if is_gone(client)? {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if let Err(failure) = &ended {
                write_end(&mut out, failure);
            }
            *bytes += out.len();
            if ended.is_err() {
                return write_by(client, &out, Instant::now() + CLIENT_TIMEOUT);
            }
        }
    }

    /// Waits for events and takes those that are here; a comment if none comes.
    fn collect(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        match self.subscription.next(Instant::now() + COMMENT_EVERY)? {
            Some(reply) => write_event(out, &reply),
            None => out.extend_from_slice(b": nothing new\n\n"),
        }
        while self.subscription.has_next() && out.len() < BATCH_BYTES {
            match self.subscription.next(Instant::now())? {
                Some(reply) => write_event(out, &reply),
                None => break,
            }
        }
        Ok(())
    }
}

/// Writes a reply as an event: `id` from its `seq`, `data` from its results. One without results is a comment.
pub fn write_event(out: &mut Vec<u8>, reply: &ReplyFrame) {
    let Some(results) = reply.results() else {
        let seq = reply.seq.map_or_else(String::new, |seq| format!(" from {seq} on"));
        out.extend_from_slice(format!(": following{seq}\n\n").as_bytes());
        return;
    };
    if let Some(seq) = reply.seq {
        out.extend_from_slice(format!("id: {seq}\n").as_bytes());
    }
    write_data(out, results);
}

/// Writes why a stream ends.
pub fn write_end(out: &mut Vec<u8>, failure: &Failure) {
    let told = serde_json::json!({ "errorcode": failure.errorcode, "errormessage": failure.errormessage });
    out.extend_from_slice(b"event: error\n");
    write_data(out, &told.to_string());
}

/// JSON may be spread over lines; each line of an event's data begins anew, and a line ends at CR as well.
fn write_data(out: &mut Vec<u8>, json: &str) {
    for line in json.split(['\r', '\n']).filter(|line| !line.is_empty()) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Whether the client has closed its connection. Looks without waiting.
fn is_gone(client: &TcpStream) -> io::Result<bool> {
    client.set_nonblocking(true)?;
    let seen = client.peek(&mut [0]);
    client.set_nonblocking(false)?;
    match seen {
        Ok(count) => Ok(count == 0),
        // Given up by the kernel, since it takes nothing.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(not_read()),
        Err(error) => Ok(error.kind() != io::ErrorKind::WouldBlock),
    }
}

#[cfg(test)]
mod tests;
