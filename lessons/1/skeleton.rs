//! Lesson 1: a server that answers packets, however TCP cuts them into pieces.
// The steps will use what is unused now.
#![allow(unused)]

use std::env;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

/// The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
const END: &[u8] = "¶".as_bytes();
/// A longer packet is an error. Without a limit, one peer could fill our memory.
const MAX_PACKET: usize = 1024 * 1024;

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9020".to_owned());
    let listener = TcpListener::bind(&address)?;
    println!("hello listening on {address}");
    loop {
        let (stream, peer) = listener.accept()?;
        // A peer that breaks the rules loses its connection. The others do not notice.
        if let Err(error) = serve(&stream) {
            println!("{peer}: closed: {error}");
        }
    }
}

/// The life of one connection. Its requests are answered one after the other.
fn serve(stream: &TcpStream) -> io::Result<()> {
    let mut packets = PacketReader::new(stream)?;
    while let Some(request) = packets.read()? {
        send(stream, &answer(&request))?;
    }
    Ok(())
}

/// The reply to one request. It has the key of the request, so that the asker knows which one it answers.
fn answer(request: &Value) -> Value {
    let key = &request["key"];
    if request["method"] == "GET" && request["uri"] == "/hello" {
        let name = request["params"]["name"].as_str().unwrap_or("you");
        json!({ "key": key, "errorcode": 0, "errormessage": "success", "results": format!("hello {name}") })
    } else {
        json!({ "key": key, "errorcode": 404, "errormessage": "this service has only GET /hello" })
    }
}

/// Cuts the bytes of a connection into packets.
struct PacketReader {
    from: TcpStream,
}

impl PacketReader {
    fn new(from: &TcpStream) -> io::Result<Self> {
        // Step 1: this reader gets a memory for the bytes that have arrived.
        Ok(Self { from: from.try_clone()? })
    }

    /// Waits for the next packet. `None`: the peer has closed the connection.
    fn read(&mut self) -> io::Result<Option<Value>> {
        // Step 3: this takes one read for one packet. Collect and cut instead.
        let mut piece = [0; 8192];
        let count = self.from.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        let text = piece[..count].strip_suffix(END).unwrap_or(&piece[..count]);
        parse(text).map(Some)
    }
}

fn parse(text: &[u8]) -> io::Result<Value> {
    match serde_json::from_slice(text) {
        Ok(packet @ Value::Object(_)) => Ok(packet),
        Ok(_) => Err(bad("a packet is not a JSON object")),
        Err(error) => Err(bad(&format!("a packet is not JSON: {error}"))),
    }
}

/// Sends one packet in one write.
fn send(mut stream: &TcpStream, packet: &Value) -> io::Result<()> {
    // Step 5: what happens to a name with a `¶`?
    let text = packet.to_string() + "¶";
    stream.write_all(text.as_bytes())
}

/// An error of a peer that breaks the rules.
fn bad(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
