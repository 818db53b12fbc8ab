//! The head of an answer, as tiny_http's response writer writes it.
//!
//! The writer knows the rules, but it builds every header anew, each with memory of its own, and formats the time. Of all
//! that, nothing differs between two answers of one status within one second. So it writes one head of each kind a
//! second; that is kept, and what belongs to a single answer (its length, its own headers) is put in behind it.
//!
//! With many connections this is worth more than it looks: each of them has a thread, and a thread that has not run for
//! a while finds none of its memory in the processor's caches. What is kept here is shared, and always there.

use std::io::{self, Write};
use std::sync::RwLock;

use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use crate::clock::since_epoch;
use crate::sync::{read, write};

/// How many kinds of heads are kept. There are not more statuses in use than this; if there are, all begin anew.
const MAX_KINDS: usize = 64;

/// What all answers of one kind have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The status.
    pub status: u16,
    /// Of HTTP/1: 0 or 1.
    pub minor_version: u8,
    /// What the body is.
    pub content_type: &'static str,
}

/// A head as the writer wrote it, up to the length of the body.
struct Printed {
    kind: Kind,
    /// Since 1970: the `Date` in it.
    second: u64,
    bytes: Vec<u8>,
}

static PRINTED: RwLock<Vec<Printed>> = RwLock::new(Vec::new());

/// Appends the head of an answer whose body has `length` bytes. `headers` are those of its own; one that is not plain
/// ASCII cannot be sent and is left out.
///
/// # Errors
/// Those of the response writer.
pub fn append<'a>(
    bytes: &mut Vec<u8>,
    kind: Kind,
    length: usize,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> io::Result<()> {
    let second = since_epoch().as_secs();
    if !append_printed(bytes, kind, second) {
        bytes.extend_from_slice(&print(kind, second)?);
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

fn append_printed(bytes: &mut Vec<u8>, kind: Kind, second: u64) -> bool {
    let printed = read(&PRINTED);
    let found = printed.iter().find(|one| one.kind == kind && one.second == second);
    found.map(|one| bytes.extend_from_slice(&one.bytes)).is_some()
}

fn is_plain(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// Has the response writer write a head of this kind, and keeps it.
#[cold]
fn print(kind: Kind, second: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(256);
    let content_type = Header::from_bytes("Content-Type", kind.content_type);
    let headers = content_type.into_iter().collect();
    let version = HTTPVersion(1, kind.minor_version);
    let empty = Response::new(StatusCode(kind.status), headers, io::empty(), Some(0), None);
    empty.raw_print(&mut bytes, version, &[], true, None)?;
    // The writer writes the length last.
    let Some(without_length) = bytes.strip_suffix(b"0\r\n\r\n").map(<[u8]>::len) else {
        return Err(io::Error::other("the response writer does not write the length last"));
    };
    bytes.truncate(without_length);
    let mut printed = write(&PRINTED);
    printed.retain(|one| one.kind != kind);
    if printed.len() >= MAX_KINDS {
        printed.clear();
    }
    printed.push(Printed { kind, second, bytes: bytes.clone() });
    Ok(bytes)
}

#[cfg(test)]
mod tests;
