//! The access log: one line a request, on stderr among the other lines, for people and for `awk` (`docs/seeing.md`).
//!
//! ```text
//! 2026-11-22T19:43:22.123Z ACCESS id=5c1e-7 client=127.0.0.1 method=GET path=/users/1 route=/users instance=127.0.0.1:9020 status=200 bytes=153 ms=0.412
//! 2026-11-22T19:43:22.122Z ACCESS id=5c1e-7 peer=127.0.0.1:40212 method=GET uri=/users errorcode=0 bytes=155 ms=0.093
//! ```
//!
//! The first is the gateway's, the second a service's. No field has a space in it, `-` stands for what is not
//! there, and a query is never written down: it may hold a secret.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::three_digits;
use crate::observe::log_writer;

/// The longest line, in bytes: its fields are limited.
const MAX_LINE_BYTES: usize = 1536;

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
        push_number(line, " status=", self.status.into());
        push_number(line, " bytes=", self.bytes as u64);
        push_millis(line, " ms=", self.took);
    }
}

impl ServiceLine<'_> {
    /// Writes the line, if lines are written.
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
        push_number(line, " errorcode=", self.errorcode.into());
        push_number(line, " bytes=", self.bytes as u64);
        push_millis(line, " ms=", self.took);
    }
}

/// The path of a target: without the query, and without the name and password that may stand before a host.
fn path(target: &str) -> Option<&str> {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    let after_scheme = target.split_once("://").map(|(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    Some(after_scheme.unwrap_or(target)).filter(|path| path.starts_with('/'))
}

// What follows is written by hand, without the formatting of the standard library: it is done for every request in every
// process, and would be the most of what a line costs.

/// A field's value, without anything that could end it or begin another: such bytes are written as in an URL.
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

fn push_number(line: &mut Vec<u8>, name: &str, mut number: u64) {
    line.extend_from_slice(name.as_bytes());
    let mut digits = [0; 20];
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return line.extend_from_slice(&digits[begin..]);
        }
    }
}

fn push_ip(line: &mut Vec<u8>, name: &str, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            let [first, rest @ ..] = v4.octets();
            push_number(line, name, first.into());
            for octet in rest {
                push_number(line, ".", octet.into());
            }
        }
        IpAddr::V6(v6) => line.extend_from_slice(format!("{name}{v6}").as_bytes()),
    }
}

fn push_address(line: &mut Vec<u8>, name: &str, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            push_ip(line, name, IpAddr::V4(*v4.ip()));
            push_number(line, ":", v4.port().into());
        }
        SocketAddr::V6(v6) => line.extend_from_slice(format!("{name}{v6}").as_bytes()),
    }
}

/// Milliseconds, with three decimals.
fn push_millis(line: &mut Vec<u8>, name: &str, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    push_number(line, name, micros / 1000);
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

    fn told(target: &str, route: Option<&str>) -> String {
        text(|out| line(target, route).append(out))
    }

    #[test]
    fn a_line_has_all_fields() {
        assert_eq!(
            told("/users/1?token=secret", Some("/users")),
            "ACCESS id=a-1 client=127.0.0.1 method=GET path=/users/1 route=/users instance=127.0.0.1:9020 status=200 \
             bytes=12 ms=1.234"
        );
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 4711));
        let took = Duration::from_secs(5);
        let service = ServiceLine { id: None, peer, method: "GET", uri: "/a", errorcode: 0, bytes: 3, took };
        let told = text(|out| service.append(out));
        assert_eq!(told, "ACCESS id=- peer=127.0.0.1:4711 method=GET uri=/a errorcode=0 bytes=3 ms=5000.000");
    }

    #[test]
    fn numbers_and_addresses_are_written_as_the_standard_library_writes_them() {
        for number in [0, 9, 10, 4711, u64::MAX] {
            assert_eq!(text(|out| push_number(out, "n=", number)), format!("n={number}"));
        }
        for address in ["10.0.200.3:1", "255.255.255.255:65535", "[::1]:80", "[2001:db8::7]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(text(|out| push_address(out, "a=", address)), format!("a={address}"));
            assert_eq!(text(|out| push_ip(out, "a=", address.ip())), format!("a={}", address.ip()));
        }
        for (micros, told) in [(0, "0.000"), (7, "0.007"), (1_234, "1.234"), (60_000_010, "60000.010")] {
            assert_eq!(text(|out| push_millis(out, "", Duration::from_micros(micros))), told);
        }
    }

    #[test]
    fn what_a_client_sends_can_neither_end_a_field_nor_begin_one() {
        let told = told("/a b\tstatus=500\n\"c\"\\ü", None);
        assert!(told.contains(" path=/a%20b%09status%3D500%0A%22c%22%5C%C3%BC route=- "), "{told}");
        assert_eq!(told.split(' ').count(), 10);
    }

    #[test]
    fn secrets_before_and_after_the_path_stay_out() {
        for target in ["http://kim:secret@host/a", "https://kim:secret@host/a?b", "/a?secret", "/a#secret"] {
            let told = told(target, None);
            assert!(told.contains(" path=/a ") && !told.contains("secret"), "{told}");
        }
        for target in ["kim:secret@host:443", "*", "", "secret"] {
            let told = told(target, None);
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
        let told = text(|out| longest.append(out));
        assert!(told.len() <= MAX_LINE_BYTES, "{} bytes: {told}", told.len());
        assert!(told.contains("...") && told.contains(" ms="), "{told}");
    }
}
