//! Lesson 5: the distributor. It knows which nodes are registered, and tells everybody whenever that changes.
//!
//! Start it with the address where it listens. For example: `127.0.0.1:9000`.
// The steps will use what is unused now.
#![allow(unused)]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};

/// The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
const END: &[u8] = "¶".as_bytes();
/// A longer packet is an error. Without a limit, one peer could fill our memory.
const MAX_PACKET: usize = 1024 * 1024;

struct Distributor {
    // Step 1: a table of all connections.
}

fn main() -> io::Result<()> {
    let listen = argument(1, "127.0.0.1:9000");
    let distributor = Arc::new(Distributor {
        // Step 1: and here its first value.
    });
    let listener = TcpListener::bind(&listen)?;
    println!("distributor listening on {listen}");
    for stream in listener.incoming() {
        let distributor = distributor.clone();
        spawn("peer", move || {
            // A peer that breaks the rules loses its connection, and nobody else notices.
            if let Err(error) = stream.and_then(|stream| distributor.serve(&stream)) {
                println!("a connection is closed: {error}");
            }
        });
    }
    Ok(())
}

impl Distributor {
    /// The life of one connection.
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let address = stream.peer_addr()?;
        let writer = PacketWriter::new(stream)?;
        // Step 1: keep the connection in the table, and send the list.
        let result = self.read_packets(stream, address, &writer);
        // Step 3: here the connection has ended.
        result
    }

    fn read_packets(&self, stream: &TcpStream, address: SocketAddr, writer: &PacketWriter) -> io::Result<()> {
        let mut packets = PacketReader::new(stream);
        while let Some(packet) = packets.read()? {
            // Step 2: if it is a registration, keep its entry in the table. Step 6: answer the others.
            println!("{address}: {packet}");
        }
        Ok(())
    }
}

/// Cuts the bytes of a connection into packets, as in lesson 1.
struct PacketReader<'a> {
    from: &'a TcpStream,
    /// What has arrived and is not yet a whole packet.
    bytes: Vec<u8>,
}

impl<'a> PacketReader<'a> {
    fn new(from: &'a TcpStream) -> Self {
        Self { from, bytes: Vec::new() }
    }

    /// Waits for the next packet. `None`: the peer has closed the connection.
    fn read(&mut self) -> io::Result<Option<Value>> {
        loop {
            if let Some(end) = self.bytes.windows(END.len()).position(|two| two == END) {
                let rest = self.bytes.split_off(end + END.len());
                let packet = std::mem::replace(&mut self.bytes, rest);
                let text = packet[..end].trim_ascii();
                // People who type packets press Enter between them.
                if text.is_empty() {
                    continue;
                }
                let packet: Value = serde_json::from_slice(text)?;
                if !packet.is_object() {
                    return Err(bad("a packet is not a JSON object"));
                }
                return Ok(Some(packet));
            }
            if self.bytes.len() > MAX_PACKET {
                return Err(bad("a packet is longer than 1 MiB"));
            }
            let mut piece = [0; 8192];
            let count = self.from.read(&mut piece)?;
            if count == 0 {
                return Ok(None);
            }
            self.bytes.extend_from_slice(&piece[..count]);
        }
    }
}

/// Sends packets. Each thread that sends has a clone.
#[derive(Clone)]
struct PacketWriter(Arc<Mutex<TcpStream>>);

impl PacketWriter {
    fn new(stream: &TcpStream) -> io::Result<Self> {
        // Small packets leave at once, and a peer that reads nothing does not stop us for ever.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self(Arc::new(Mutex::new(stream.try_clone()?))))
    }

    /// Sends one packet in one write. The lock keeps the packets of other threads out of it.
    fn send(&self, packet: &Value) -> io::Result<()> {
        // A `¶` inside a text would end the packet too early. JSON has a second spelling for it.
        let text = packet.to_string().replace('¶', "\\u00b6") + "¶";
        let mut stream = lock(&self.0);
        let sent = stream.write_all(text.as_bytes());
        if sent.is_err() {
            // Half of the packet may have left, so the peer could read nothing that follows.
            let _ = stream.shutdown(Shutdown::Both);
        }
        sent
    }
}

/// A reply of success. The caller adds the key of the request.
fn success(results: &Value) -> Value {
    json!({ "errorcode": 0, "errormessage": "success", "results": results })
}

/// A reply that says what went wrong.
fn failure(code: u16, message: &str) -> Value {
    json!({ "errorcode": code, "errormessage": message })
}

/// An error of a peer that breaks the rules.
fn bad(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Starts a thread with a name. If the system has no thread left, `work` is dropped, and with it its connection.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        println!("cannot start a thread `{name}`: {error}");
    }
}

/// Locks, also after another thread has panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An argument by its position, or else what is usual.
fn argument(position: usize, usual: &str) -> String {
    std::env::args().nth(position).unwrap_or(usual.to_owned())
}
