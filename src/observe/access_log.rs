//! The access log: one line per request, on stderr with the other lines (`docs/seeing.md`).
//!
//! ```text
//! 2026-11-22T19:43:22.123Z ACCESS id=5c1e-7 client=127.0.0.1 method=GET path=/users/1 route=/users instance=127.0.0.1:9020 status=200 bytes=153 ms=0.412
//! 2026-11-22T19:43:22.122Z ACCESS id=5c1e-7 peer=127.0.0.1:40212 method=GET uri=/users errorcode=0 bytes=155 ms=0.093
//! ```
//!
//! The gateway writes the first line, a service the second. No field contains a space, and `-` is an empty field.
//! Queries are not logged, because they may contain secrets.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::three_digits;
use crate::observe::log_writer;

/// The maximum length of a line, in bytes. The limits of its fields keep it shorter.
const MAX_LINE_BYTES: usize = 1536;

/// The maximum length of the text of one field, in bytes. A longer text is cut.
const MAX_TEXT_BYTES: usize = 160;

static ON: AtomicBool = AtomicBool::new(false);

/// Switches the access log on or off.
pub fn set(on: bool) {
    ON.store(on, Ordering::Relaxed);
}

/// True if the access log is on.
#[must_use]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// An HTTP request that was answered.
#[derive(Debug)]
pub struct HttpLine<'a> {
    /// Its id. The services log it too.
    pub id: &'a str,
    /// The client.
    pub client: IpAddr,
    /// The method. `None` if the request could not be parsed.
    pub method: Option<&'a str>,
    /// Its target as received. The log shows only the path.
    pub target: Option<&'a str>,
    /// The route that it reached.
    pub route: Option<&'a str>,
    /// The instance that was asked last. `None` if the gateway answered without one.
    pub instance: Option<&'a str>,
    /// The status of the answer.
    pub status: u16,
    /// The length of the body, in bytes.
    pub bytes: usize,
    /// How long it took.
    pub took: Duration,
}

/// A request that a service answered.
#[derive(Debug)]
pub struct ServiceLine<'a> {
    /// The id that the gateway assigned.
    pub id: Option<&'a str>,
    /// The other end of its connection.
    pub peer: SocketAddr,
    /// Its method.
    pub method: &'a str,
    /// Its URI.
    pub uri: &'a str,
    /// 0 for success.
    pub errorcode: u16,
    /// The length of the reply packet, in bytes. 0 if there was none.
    pub bytes: usize,
    /// How long it took.
    pub took: Duration,
}

impl HttpLine<'_> {
    /// Writes the line, unless the access log is off.
    pub fn write(&self) {
        if is_on() {
            log_writer::access_line(MAX_LINE_BYTES, |line| self.append(line));
        }
    }

    fn append(&self, line: &mut Vec<u8>) {
        push_text(line, "ACCESS id=", Some(self.id));
        push_ip(line, " client=", self.client);
        push_text(line, " method=", self.method);
        push_text(line, " path=", self.target.and_then(path));
        push_text(line, " route=", self.route);
        push_text(line, " instance=", self.instance);
        push_number(line, " status=", self.status);
        push_number(line, " bytes=", self.bytes);
        push_millis(line, " ms=", self.took);
    }
}

impl ServiceLine<'_> {
    /// Writes the line, unless the access log is off.
    pub fn write(&self) {
        if is_on() {
            log_writer::access_line(MAX_LINE_BYTES, |line| self.append(line));
        }
    }

    fn append(&self, line: &mut Vec<u8>) {
        push_text(line, "ACCESS id=", self.id);
        push_address(line, " peer=", self.peer);
        push_text(line, " method=", Some(self.method));
        push_text(line, " uri=", path(self.uri));
        push_number(line, " errorcode=", self.errorcode);
        push_number(line, " bytes=", self.bytes);
        push_millis(line, " ms=", self.took);
    }
}

/// The path of a target, without the query and without the name and password before a host.
fn path(target: &str) -> Option<&str> {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    let after_scheme = target.split_once("://").map(|(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    Some(after_scheme.unwrap_or(target)).filter(|path| path.starts_with('/'))
}

// The following functions avoid the formatting of the standard library. Every request in every process needs them, and
// formatting would be most of the cost of a line.

/// Writes a field. Percent-encodes bytes that could end it or begin another one.
fn push_text(line: &mut Vec<u8>, name: &str, text: Option<&str>) {
    line.extend_from_slice(name.as_bytes());
    let Some(text) = text.filter(|text| !text.is_empty()) else { return line.push(b'-') };
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
    if text.len() <= MAX_TEXT_BYTES && text.bytes().all(plain) {
        return line.extend_from_slice(text.as_bytes());
    }
    let mut written = 0;
    for byte in text.bytes() {
        written += if plain(byte) { 1 } else { 3 };
        if written > MAX_TEXT_BYTES {
            return line.extend_from_slice(b"...");
        }
        if plain(byte) {
            line.push(byte);
        } else {
            let hex = |digit: u8| b"0123456789ABCDEF"[usize::from(digit)];
            line.extend_from_slice(&[b'%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
}

fn push_number(line: &mut Vec<u8>, name: &str, number: impl itoa::Integer) {
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn push_ip(line: &mut Vec<u8>, name: &str, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            let [first, rest @ ..] = v4.octets();
            push_number(line, name, first);
            for octet in rest {
                push_number(line, ".", octet);
            }
        }
        IpAddr::V6(v6) => line.extend_from_slice(format!("{name}{v6}").as_bytes()),
    }
}

fn push_address(line: &mut Vec<u8>, name: &str, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            push_ip(line, name, IpAddr::V4(*v4.ip()));
            push_number(line, ":", v4.port());
        }
        SocketAddr::V6(v6) => line.extend_from_slice(format!("{name}{v6}").as_bytes()),
    }
}

/// Writes milliseconds with three decimals.
fn push_millis(line: &mut Vec<u8>, name: &str, took: Duration) {
    push_number(line, name, took.as_millis());
    line.push(b'.');
    line.extend_from_slice(&three_digits(took.subsec_micros()));
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

    fn text(append: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        append(&mut line);
        String::from_utf8(line).unwrap()
    }

    fn http_line(target: &str, route: Option<&str>) -> String {
        text(|out| line(target, route).append(out))
    }

    #[test]
    fn a_line_has_all_fields() {
        assert_eq!(
            http_line("/users/1?token=secret", Some("/users")),
            "ACCESS id=a-1 client=127.0.0.1 method=GET path=/users/1 route=/users instance=127.0.0.1:9020 status=200 \
             bytes=12 ms=1.234"
        );
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 4711));
        let took = Duration::from_secs(5);
        let service = ServiceLine { id: None, peer, method: "GET", uri: "/a", errorcode: 0, bytes: 3, took };
        let shown = text(|out| service.append(out));
        assert_eq!(
            shown,
            "ACCESS id=- peer=127.0.0.1:4711 method=GET uri=/a errorcode=0 bytes=3 ms=5000.000"
        );
    }

    #[test]
    fn addresses_and_times_are_written_in_their_usual_form() {
        for address in ["10.0.200.3:1", "255.255.255.255:65535", "[::1]:80", "[2001:db8::7]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(text(|out| push_address(out, "a=", address)), format!("a={address}"));
            assert_eq!(text(|out| push_ip(out, "a=", address.ip())), format!("a={}", address.ip()));
        }
        for (micros, shown) in [(0, "0.000"), (7, "0.007"), (1_234, "1.234"), (60_000_010, "60000.010")] {
            assert_eq!(text(|out| push_millis(out, "", Duration::from_micros(micros))), shown);
        }
    }

    #[test]
    fn text_from_a_client_can_neither_end_a_field_nor_begin_one() {
        let shown = http_line("/a b\tstatus=500\n\"c\"\\ü", None);
        assert!(shown.contains(" path=/a%20b%09status%3D500%0A%22c%22%5C%C3%BC route=- "), "{shown}");
        assert_eq!(shown.split(' ').count(), 10);
    }

    #[test]
    fn the_log_shows_no_secret_before_or_after_the_path() {
        for target in ["http://kim:secret@host/a", "https://kim:secret@host/a?b", "/a?secret", "/a#secret"] {
            let shown = http_line(target, None);
            assert!(shown.contains(" path=/a ") && !shown.contains("secret"), "{shown}");
        }
        for target in ["kim:secret@host:443", "*", "", "secret"] {
            let shown = http_line(target, None);
            assert!(shown.contains(" path=- ") && !shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn a_line_is_never_longer_than_its_limit() {
        let long = format!("/{}", "ü".repeat(10_000));
        let mut longest = line(&long, Some(&long));
        (longest.method, longest.instance) = (Some(long.as_str()), Some(long.as_str()));
        longest.id = &long;
        (longest.bytes, longest.took) = (usize::MAX, Duration::from_secs(u64::MAX / 1000));
        let shown = text(|out| longest.append(out));
        assert!(shown.len() <= MAX_LINE_BYTES, "{} bytes: {shown}", shown.len());
        assert!(shown.contains("...") && shown.contains(" ms="), "{shown}");
    }
}
