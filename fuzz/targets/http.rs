//! The reader of HTTP requests: any bytes from a client, with any cuts. Every server must see the same request, from
//! its first byte to its last. Otherwise an attacker could use two servers that disagree.
//!
//! Input: the cuts, then the bytes of a connection.

#![no_main]

use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pilcrow::gateway::Gateway;
use pilcrow::http::HttpRequest;
use pilcrow::http::server::fuzz_doors::{LEAST_ROOM_BYTES, requests};
use pilcrow_fuzz::cut;
use tiny_http::Header;

/// A socket without a reader may not have room for more pieces.
const MAX_PIECES: usize = 100;

fuzz_target!(|input: &[u8]| {
    let [seed, bytes @ ..] = input else { return };
    // A datagram that is longer than the buffer would lose its rest.
    let whole = read(&bytes.chunks(LEAST_ROOM_BYTES).collect::<Vec<_>>());
    let mut pieces: Vec<&[u8]> =
        cut(bytes, *seed).into_iter().flat_map(|piece| piece.chunks(LEAST_ROOM_BYTES)).collect();
    if pieces.len() > MAX_PIECES {
        pieces = bytes.chunks(bytes.len() / MAX_PIECES + 1).collect();
    }
    let (requests, refused) = read(&pieces);
    assert_eq!((requests.len(), refused), (whole.0.len(), whole.1), "however it is cut");

    let mut rest = bytes;
    for (request, same) in whole.0.iter().zip(requests) {
        assert_eq!((&request.method, &request.target), (&same.method, &same.target));
        assert_eq!(request.body, same.body);
        assert!(request.headers.iter().map(Header::to_string).eq(same.headers.iter().map(Header::to_string)));
        rest = plainly_read(rest, request);
    }
    if let Some(status) = refused {
        assert!([400, 413, 417, 431, 501].contains(&status), "{status}");
    }
});

/// Reads a connection that delivers these pieces, one with each read. Datagrams keep them separate. An empty datagram
/// is the end. There are two of them, so that a reader that reads again does not block.
fn read(pieces: &[&[u8]]) -> (Vec<HttpRequest>, Option<u16>) {
    let (client, server) = UnixDatagram::pair().expect("a pair of sockets");
    for piece in pieces.iter().chain([&&[][..]; 2]) {
        client.send(piece).expect("it fits");
    }
    requests::<Gateway>(&Arc::new(TcpStream::from(OwnedFd::from(server))), Ipv4Addr::LOCALHOST.into())
}

/// Takes from `bytes` the bytes that the strictest reader of RFC 9112 would accept as this request. Returns the rest.
fn plainly_read<'a>(bytes: &'a [u8], request: &HttpRequest) -> &'a [u8] {
    let blank = bytes.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    let bytes = &bytes[blank..];
    let (head, body) = split_at(bytes, b"\r\n\r\n");
    let mut lines = Vec::new();
    let mut left = head;
    while let Some(end) = find(left, b"\r\n") {
        lines.push(&left[..end]);
        left = &left[end + 2..];
    }
    lines.push(left);
    for line in &lines {
        assert!(!line.iter().any(|byte| *byte != b'\t' && byte.is_ascii_control()), "no control characters");
    }
    let start: Vec<&[u8]> = lines[0].split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.0" | b"HTTP/1.1"] = start[..] else {
        panic!("a request line has three parts")
    };
    assert_eq!((method, target), (request.method.as_str().as_bytes(), request.target.as_bytes()));
    assert!(lines.len() - 1 <= 100, "no more headers than allowed");

    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in &lines[1..] {
        let colon = line.iter().position(|byte| *byte == b':').expect("a header has a colon");
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic), "a name is one word");
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => codings.push(value),
            b"host" => hosts += 1,
            _ => {}
        }
    }
    assert!(hosts <= 1);
    match (&lengths[..], &codings[..]) {
        ([], []) => {
            assert!(request.body.is_empty());
            body
        }
        ([length], []) => {
            assert!(length.iter().all(u8::is_ascii_digit));
            let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap();
            assert_eq!(body[..length], request.body);
            &body[length..]
        }
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked") && start[2] == b"HTTP/1.1");
            chunks(body, &request.body)
        }
        _ => panic!("a body has one length"),
    }
}

/// Takes the chunks of `body` from `bytes`. Returns the rest.
fn chunks<'a>(mut bytes: &'a [u8], body: &[u8]) -> &'a [u8] {
    let mut together = Vec::new();
    loop {
        let (line, behind) = split_at(bytes, b"\r\n");
        let digits = line.split(|byte| *byte == b';').next().unwrap();
        assert!(!digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit));
        let size = usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        together.extend_from_slice(&behind[..size]);
        assert!(behind[size..].starts_with(b"\r\n"), "a chunk has a line end behind it");
        bytes = &behind[size + 2..];
        if size == 0 {
            assert_eq!(together, body);
            return bytes;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn split_at<'a>(bytes: &'a [u8], end: &[u8]) -> (&'a [u8], &'a [u8]) {
    let at = find(bytes, end).expect("it has an end");
    (&bytes[..at], &bytes[at + end.len()..])
}
