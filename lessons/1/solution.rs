//! Lesson 1: a server that answers packets, however TCP cuts them into pieces.
//# step 5
//# before
// // The steps will use what is unused now.
// #![allow(unused)]
//# end

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
    //# step 1
    /// The bytes that are not yet a whole packet.
    bytes: Vec<u8>,
    //# end
}

impl PacketReader {
    fn new(from: &TcpStream) -> io::Result<Self> {
        //# step 1
        Ok(Self { from: from.try_clone()?, bytes: Vec::new() })
        //# before
        // // Step 1: this reader gets a memory for the bytes that have arrived.
        // Ok(Self { from: from.try_clone()? })
        //# end
    }

    /// Waits for the next packet. `None`: the peer has closed the connection.
    fn read(&mut self) -> io::Result<Option<Value>> {
        //# step 3
        loop {
            if let Some(packet) = self.cut() {
                //# step 4
                // White space between packets does no harm: people who type packets press Enter.
                if packet.trim_ascii().is_empty() {
                    continue;
                }
                //# end
                return parse(&packet).map(Some);
            }
            //# step 4
            if self.bytes.len() > MAX_PACKET {
                return Err(bad("a packet is longer than 1 MiB"));
            }
            //# end
            if !self.receive()? {
                return Ok(None);
            }
        }
        //# before
        // // Step 3: this takes one read for one packet. Collect and cut instead.
        // let mut piece = [0; 8192];
        // let count = self.from.read(&mut piece)?;
        // if count == 0 {
        //     return Ok(None);
        // }
        // let text = piece[..count].strip_suffix(END).unwrap_or(&piece[..count]);
        // parse(text).map(Some)
        //# end
    }
    //# step 1

    /// Waits for more bytes and keeps them. `false`: the peer has closed the connection.
    fn receive(&mut self) -> io::Result<bool> {
        let mut piece = [0; 8192];
        let count = self.from.read(&mut piece)?;
        self.bytes.extend_from_slice(&piece[..count]);
        Ok(count > 0)
    }
    //# end
    //# step 2

    /// Takes the first whole packet out of the bytes, if there is one. The rest stays for the next time.
    fn cut(&mut self) -> Option<Vec<u8>> {
        // Two bytes are compared, because the second byte alone also ends other characters, such as `ö`.
        let end = self.bytes.windows(2).position(|two| two == END)?;
        let rest = self.bytes.split_off(end + END.len());
        let mut packet = std::mem::replace(&mut self.bytes, rest);
        packet.truncate(end);
        Some(packet)
    }
    //# end
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
    //# step 5
    // A `¶` inside a text would end the packet too early. JSON has a second spelling for it.
    let text = packet.to_string().replace('¶', "\\u00b6") + "¶";
    //# before
    // // Step 5: what happens to a name with a `¶`?
    // let text = packet.to_string() + "¶";
    //# end
    stream.write_all(text.as_bytes())
}

/// An error of a peer that breaks the rules.
fn bad(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
