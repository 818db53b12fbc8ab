//! The access log: one line a request, on stderr among the other lines, for people and for `awk` (`docs/seeing.md`).
//!
//! ```text
//! 2026-11-22T19:43:22.123Z ACCESS id=5c1e-7 client=127.0.0.1 method=GET path=/users/1 route=/users instance=127.0.0.1:9020 status=200 bytes=153 ms=0.412
//! 2026-11-22T19:43:22.122Z ACCESS id=5c1e-7 peer=127.0.0.1:40212 method=GET uri=/users errorcode=0 bytes=155 ms=0.093
//! ```
//!
//! The first is the gateway's, the second a service's. No field has a space in it, `-` stands for what is not
//! there, and a query is never written down: it may hold a secret.

use std::fmt::{self, Display, Write};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::stderr;

/// The longest line, in bytes; what would be longer is cut.
const MAX_LINE_BYTES: usize = 1536;

/// Room for a line as they nearly all are, in bytes.
const USUAL_LINE_BYTES: usize = 320;

/// The longest path, route, or name of a method or of an instance that is written, in bytes.
const MAX_TEXT_BYTES: usize = 160;

static ON: AtomicBool = AtomicBool::new(false);

/// Switches the access log on or off.
pub fn set(on: bool) {
    ON.store(on, Ordering::Relaxed);
}

/// Whether lines are written.
#[must_use]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// An HTTP request that was answered.
#[derive(Debug)]
pub struct HttpLine<'a> {
    /// Its id, which stands in the logs of the services as well.
    pub id: &'a str,
    /// The client.
    pub client: IpAddr,
    /// The method; nothing if the request could not be read.
    pub method: Option<&'a str>,
    /// Its target as it came, query and all: what is written down is the path.
    pub target: Option<&'a str>,
    /// The route that it reached.
    pub route: Option<&'a str>,
    /// Who answered, or was asked last; nothing if the gateway did by itself.
    pub instance: Option<&'a str>,
    /// The status of the answer.
    pub status: u16,
    /// How long its body was, in bytes.
    pub bytes: usize,
    /// How long it took.
    pub took: Duration,
}

/// A request that a service answered.
#[derive(Debug)]
pub struct ServiceLine<'a> {
    /// The id that the gateway gave it.
    pub id: Option<&'a str>,
    /// Over whose connection it came.
    pub peer: SocketAddr,
    /// Its method.
    pub method: &'a str,
    /// Its URI.
    pub uri: &'a str,
    /// 0 for success.
    pub errorcode: u16,
    /// How long the packet of the answer was, in bytes; 0 if nobody wanted one.
    pub bytes: usize,
    /// How long it took.
    pub took: Duration,
}

impl HttpLine<'_> {
    /// Writes the line, if lines are written.
    pub fn write(&self) {
        write_line(self);
    }
}

impl ServiceLine<'_> {
    /// Writes the line, if lines are written.
    pub fn write(&self) {
        write_line(self);
    }
}

impl Display for HttpLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.and_then(path);
        let [method, path, route, instance] = [self.method, path, self.route, self.instance].map(Field);
        write!(f, "ACCESS id={} client={} method={method} path={path}", Field(Some(self.id)), self.client)?;
        write!(f, " route={route} instance={instance} status={} bytes={}", self.status, self.bytes)?;
        write!(f, " ms={}", Millis(self.took))
    }
}

impl Display for ServiceLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [id, method, uri] = [self.id, Some(self.method), path(self.uri)].map(Field);
        write!(f, "ACCESS id={id} peer={} method={method} uri={uri}", self.peer)?;
        write!(f, " errorcode={} bytes={} ms={}", self.errorcode, self.bytes, Millis(self.took))
    }
}

fn write_line(line: &impl Display) {
    if !is_on() {
        return;
    }
    if !write_within::<USUAL_LINE_BYTES>(line) {
        write_long(line);
    }
}

/// Never inlined: what its buffer takes of the stack would be taken for every line, and clearing it costs more than most
/// lines do.
#[inline(never)]
fn write_long(line: &impl Display) {
    write_within::<MAX_LINE_BYTES>(line);
}

/// Writes a line that has no more than so many bytes, or says that it has more. On the stack: a line costs no
/// allocation.
fn write_within<const BYTES: usize>(line: &impl Display) -> bool {
    let mut buffer = [0; BYTES];
    let mut rest = &mut buffer[..];
    let fits = io::Write::write_fmt(&mut rest, format_args!("{line}")).is_ok();
    let left = rest.len();
    // What does not fit is cut; the fields are limited, so that all of ours fit.
    if fits || BYTES == MAX_LINE_BYTES {
        stderr::access_line(&buffer[..BYTES - left]);
    }
    fits
}

/// The path of a target: without the query, and without the name and password that may stand before a host.
fn path(target: &str) -> Option<&str> {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    let after_scheme = target.split_once("://").map(|(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    Some(after_scheme.unwrap_or(target)).filter(|path| path.starts_with('/'))
}

/// A field's value, without anything that could end it or begin another: such bytes are written as in an URL.
struct Field<'a>(Option<&'a str>);

impl Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(text) = self.0.filter(|text| !text.is_empty()) else { return f.write_char('-') };
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
        if text.len() <= MAX_TEXT_BYTES && text.bytes().all(plain) {
            return f.write_str(text);
        }
        let mut written = 0;
        for byte in text.bytes() {
            written += if plain(byte) { 1 } else { 3 };
            if written > MAX_TEXT_BYTES {
                return f.write_str("...");
            }
            if plain(byte) { f.write_char(char::from(byte))? } else { write!(f, "%{byte:02X}")? }
        }
        Ok(())
    }
}

/// Milliseconds, with three decimals.
struct Millis(Duration);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn line<'a>(target: &'a str, route: Option<&'a str>) -> HttpLine<'a> {
        HttpLine {
            id: "a-1",
            client: Ipv4Addr::LOCALHOST.into(),
            method: Some("GET"),
            target: Some(target),
            route,
            instance: Some("127.0.0.1:9020"),
            status: 200,
            bytes: 12,
            took: Duration::from_nanos(1_234_567),
        }
    }

    #[test]
    fn a_line_has_all_fields() {
        assert_eq!(
            line("/users/1?token=secret", Some("/users")).to_string(),
            "ACCESS id=a-1 client=127.0.0.1 method=GET path=/users/1 route=/users instance=127.0.0.1:9020 status=200 \
             bytes=12 ms=1.234"
        );
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 4711));
        let took = Duration::from_secs(5);
        let told = ServiceLine { id: None, peer, method: "GET", uri: "/a", errorcode: 0, bytes: 3, took }
            .to_string();
        assert_eq!(told, "ACCESS id=- peer=127.0.0.1:4711 method=GET uri=/a errorcode=0 bytes=3 ms=5000.000");
    }

    #[test]
    fn what_a_client_sends_can_neither_end_a_field_nor_begin_one() {
        let told = line("/a b\tstatus=500\n\"c\"\\ü", None).to_string();
        assert!(told.contains(" path=/a%20b%09status%3D500%0A%22c%22%5C%C3%BC route=- "), "{told}");
        assert_eq!(told.split(' ').count(), 10);
    }

    #[test]
    fn secrets_before_and_after_the_path_stay_out() {
        for target in ["http://kim:secret@host/a", "https://kim:secret@host/a?b", "/a?secret", "/a#secret"] {
            let told = line(target, None).to_string();
            assert!(told.contains(" path=/a ") && !told.contains("secret"), "{told}");
        }
        for target in ["kim:secret@host:443", "*", "", "secret"] {
            let told = line(target, None).to_string();
            assert!(told.contains(" path=- ") && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn a_line_is_never_too_long_for_its_buffer() {
        let long = format!("/{}", "ü".repeat(10_000));
        let mut longest = line(&long, Some(&long));
        (longest.method, longest.instance) = (Some(long.as_str()), Some(long.as_str()));
        longest.id = &long;
        (longest.bytes, longest.took) = (usize::MAX, Duration::from_secs(u64::MAX / 1000));
        let told = longest.to_string();
        assert!(told.len() <= MAX_LINE_BYTES, "{} bytes: {told}", told.len());
        assert!(told.contains("...") && told.contains(" ms="), "{told}");
    }
}
