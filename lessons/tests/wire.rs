//! The packets of the small system, cut and sent over real connections.

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use serde_json::{Value, json};
use wire::{MAX_PACKET, PacketReader, PacketWriter};

/// A connection that delivers its bytes in pieces of this size.
struct Pieces {
    bytes: io::Cursor<Vec<u8>>,
    size: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.size.min(buffer.len());
        self.bytes.read(&mut buffer[..size])
    }
}

/// All packets in these bytes, and how the connection ended.
fn read_all(bytes: impl AsRef<[u8]>, size: usize) -> (Vec<Value>, io::Result<()>) {
    let mut reader = PacketReader::new(Pieces { bytes: io::Cursor::new(bytes.as_ref().to_vec()), size });
    let mut packets = Vec::new();
    loop {
        match reader.read() {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => return (packets, Ok(())),
            Err(error) => return (packets, Err(error)),
        }
    }
}

fn error_of(bytes: impl AsRef<[u8]>) -> String {
    read_all(bytes, 4096).1.unwrap_err().to_string()
}

#[test]
fn packets_arrive_whole_however_they_are_cut() {
    let bytes = "{\"name\":\"김\"}¶{\"name\":\"ö\"}¶{\"name\":\"a\\u00b6b\"}¶";
    for size in 1..=bytes.len() {
        let (packets, end) = read_all(bytes, size);
        end.unwrap();
        assert_eq!(packets, [json!({ "name": "김" }), json!({ "name": "ö" }), json!({ "name": "a¶b" })]);
    }
}

#[test]
fn blank_space_and_empty_frames_between_packets_are_skipped() {
    let (packets, end) = read_all("\n¶ {\"a\":1}¶\r\n¶¶{\"a\":2}¶\n", 1);
    end.unwrap();
    assert_eq!(packets, [json!({ "a": 1 }), json!({ "a": 2 })]);
}

#[test]
fn what_is_no_object_is_an_error() {
    for bytes in ["hello¶", "[1]¶", "7¶", "{\"a\":1}{}¶"] {
        assert!(error_of(bytes).contains("a packet is not"), "{bytes}");
    }
    assert!(error_of(b"{\"a\":\"\xff\"}\xc2\xb6").contains("not JSON"));
    assert!(error_of("[".repeat(100_000) + "¶").contains("not JSON"), "deep JSON ends no process");
    assert!(error_of("{\"a\":1}").contains("in the middle"));
}

#[test]
fn a_packet_that_never_ends_is_an_error_before_it_fills_the_memory() {
    assert!(error_of("a".repeat(MAX_PACKET + 10_000)).contains("1 MiB"));
    let fits = json!({ "a": "x".repeat(MAX_PACKET - 100) }).to_string() + "¶";
    assert_eq!(read_all(fits, 8192).0.len(), 1);
}

#[test]
fn a_text_with_the_delimiter_comes_back_unchanged() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    let packet = json!({ "na¶me": "Kim ¶ 김", "key": 1 });
    PacketWriter::new(&near).unwrap().send(&packet).unwrap();
    (&near).write_all("{\"key\":2}¶".as_bytes()).unwrap();
    let mut reader = PacketReader::new(&far);
    assert_eq!(reader.read().unwrap(), Some(packet));
    assert_eq!(reader.read().unwrap(), Some(json!({ "key": 2 })));
}
