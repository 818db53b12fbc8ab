//! An answer as bytes, with the head that tiny_http's response writer writes.
//!
//! The writer builds every header again, each with an allocation, and formats the date. Two answers of one status
//! within one second share all of that. So the writer writes one head per kind and second, for a body of length 0. That
//! head is kept up to the length, which the writer writes last. Each answer appends its length and its headers.
//!
//! This gains 7 % with many connections. Each connection has a thread, and a thread that has not run for a while finds
//! none of its memory in the processor's caches. The kept heads are shared and stay in the caches.

use std::io::{self, Write};
use std::sync::RwLock;

use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use super::answer::HttpAnswer;
use crate::clock::since_epoch;
use crate::sync::{read, write};

/// How many kinds of heads are kept. Fewer statuses are in use. With more kinds, every head is written again.
const MAX_KINDS: usize = 64;

/// Room for the head of nearly every answer, in bytes.
const USUAL_HEAD_BYTES: usize = 224;

/// How an answer is sent. The request determines it.
#[derive(Debug, Clone, Copy)]
pub struct SendOptions {
    /// The minor version of HTTP/1: 0 or 1.
    pub minor_version: u8,
    /// Whether the request was a HEAD.
    pub without_body: bool,
    /// Whether the connection stays open.
    pub keep_alive: bool,
}

impl SendOptions {
    /// For an answer after which the connection is closed.
    pub const CLOSING: Self = Self { minor_version: 1, without_body: false, keep_alive: false };
}

/// What all answers with the same kept head have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeadKind {
    status: u16,
    minor_version: u8,
    content_type: &'static str,
}

/// A head as the writer wrote it, up to the length of the body.
struct KeptHead {
    kind: HeadKind,
    /// The second since 1970 that its `Date` shows.
    second: u64,
    bytes: Vec<u8>,
}

static KEPT_HEADS: RwLock<Vec<KeptHead>> = RwLock::new(Vec::new());

/// The bytes of an answer, for one write. The errors are those of tiny_http's response writer.
pub fn print_answer(answer: &HttpAnswer, options: SendOptions) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(answer.body.len() + USUAL_HEAD_BYTES);
    let connection = match (options.keep_alive, options.minor_version) {
        (false, _) => Some(("Connection", "close")),
        (true, 0) => Some(("Connection", "keep-alive")),
        (true, _) => None,
    };
    let kind = HeadKind {
        status: answer.status,
        minor_version: options.minor_version,
        content_type: answer.content_type(),
    };
    append_head(&mut bytes, kind, answer.body.len(), answer.headers().chain(connection))?;
    if !options.without_body && answer.may_have_body() {
        bytes.extend_from_slice(&answer.body);
    }
    Ok(bytes)
}

/// Appends the head of an answer whose body has `length` bytes. A header that is not plain ASCII cannot be sent and is
/// left out.
fn append_head<'a>(
    bytes: &mut Vec<u8>,
    kind: HeadKind,
    length: usize,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> io::Result<()> {
    let second = since_epoch().as_secs();
    if !append_kept(bytes, kind, second) {
        bytes.extend_from_slice(&write_head(kind, second)?);
    }
    write!(bytes, "{length}\r\n")?;
    for (name, value) in headers.filter(|(_, value)| is_plain(value)) {
        for part in [name, ": ", value, "\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    bytes.extend_from_slice(b"\r\n");
    Ok(())
}

fn append_kept(bytes: &mut Vec<u8>, kind: HeadKind, second: u64) -> bool {
    let kept = read(&KEPT_HEADS);
    let found = kept.iter().find(|head| head.kind == kind && head.second == second);
    found.map(|head| bytes.extend_from_slice(&head.bytes)).is_some()
}

fn is_plain(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// Lets tiny_http write a head of this kind up to the length of the body, and keeps it.
#[cold]
fn write_head(kind: HeadKind, second: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(256);
    let content_type = Header::from_bytes("Content-Type", kind.content_type);
    let headers = content_type.into_iter().collect();
    let version = HTTPVersion(1, kind.minor_version);
    let empty = Response::new(StatusCode(kind.status), headers, io::empty(), Some(0), None);
    empty.raw_print(&mut bytes, version, &[], true, None)?;
    let Some(up_to_length) = bytes.strip_suffix(b"0\r\n\r\n").map(<[u8]>::len) else {
        return Err(io::Error::other("tiny_http did not write the length of the body last"));
    };
    bytes.truncate(up_to_length);
    let mut kept = write(&KEPT_HEADS);
    kept.retain(|head| head.kind != kind);
    if kept.len() >= MAX_KINDS {
        kept.clear();
    }
    kept.push(KeptHead { kind, second, bytes: bytes.clone() });
    Ok(bytes)
}

#[cfg(test)]
mod tests;
