//! Lesson 2: a service with a thread for each connection. It joins the cluster, and joins again after each loss.
//# step 6
//# before
// // The steps will use what is unused now.
// #![allow(unused)]
//# end

use std::env;
use std::io::ErrorKind::{Interrupted, InvalidData, TimedOut, WouldBlock};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
const END: &[u8] = "¶".as_bytes();
/// A longer packet is an error. Without a limit, one peer could fill our memory.
const MAX_PACKET: usize = 1024 * 1024;
/// A packet that has begun must soon be complete. Between packets, silence is fine.
const PACKET_TIME: Duration = Duration::from_secs(10);
/// A peer that reads nothing for this time is given up.
const WRITE_TIME: Duration = Duration::from_secs(5);
/// A lost connection is opened again after this time, as often as necessary.
const RETRY: Duration = Duration::from_secs(3);
/// Each connection costs a thread, so their number has a limit.
const MAX_CONNECTIONS: usize = 256;

fn main() -> io::Result<()> {
    let address = argument(1, "127.0.0.1:9020");
    let listener = TcpListener::bind(&address)?;
    println!("hello listening on {address}");
    //# step 4
    join("hello", listener.local_addr()?.port(), &["GET/hello"]);
    //# before
    // // Step 4: tell the distributor that there is a service `hello` on this port.
    //# end
    accept_all(&listener)
}

/// An argument by its position, or else what is usual.
fn argument(position: usize, usual: &str) -> String {
    env::args().nth(position).unwrap_or(usual.to_owned())
}

/// Accepts connections for ever. The `!` says that it never returns.
fn accept_all(listener: &TcpListener) -> ! {
    //# step 2
    // Every open connection has a clone of this `Arc`, so the `Arc` counts them.
    let places = Arc::new(());
    //# end
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            // The caller has left already, or too many files are open.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        //# step 2
        if Arc::strong_count(&places) > MAX_CONNECTIONS {
            println!("{peer}: rejected: too many connections are open");
            continue;
        }
        let place = places.clone();
        //# end
        //# step 1
        spawn("peer", move || {
            // A peer that breaks the rules loses its connection. The others do not notice.
            if let Err(error) = serve(&stream) {
                println!("{peer}: closed: {error}");
            }
            //# step 2
            drop(place);
            //# end
        });
        //# before
        // // Step 1: while this connection lives, no other one is served. Give each a thread.
        // if let Err(error) = serve(&stream) {
        //     println!("{peer}: closed: {error}");
        // }
        //# end
    }
}
//# step 1

/// Starts a thread with a name. If the system has no thread left, `work` is dropped, and with it its connection.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        println!("cannot start a thread `{name}`: {error}");
    }
}
//# end

/// The life of one connection. Its requests are answered one after the other.
fn serve(stream: &TcpStream) -> io::Result<()> {
    prepare(stream)?;
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
//# step 4

/// Registers at the distributor, and again whenever that connection is lost.
fn join(name: &str, port: u16, urls: &[&str]) {
    let distributor = argument(2, "127.0.0.1:9000");
    let params = json!({ "port": port, "name": name, "urls": urls, "proto": "pilcrow/1" });
    let registration = json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params });
    spawn("membership", move || {
        //# step 6
        // A distributor may start after us, and it may start again. So we try for ever.
        loop {
            if let Err(error) = stay_joined(&distributor, &registration) {
                println!("the distributor {distributor}: {error}; trying again in 3 s");
            }
            thread::sleep(RETRY);
        }
        //# before
        // // Step 6: try again if there is no distributor now, and when it starts again.
        // if let Err(error) = stay_joined(&distributor, &registration) {
        //     println!("the distributor {distributor}: {error}");
        // }
        //# end
    });
}
//# end
//# step 4

/// A registration lives as long as its connection. So we keep it open and read what comes.
fn stay_joined(distributor: &str, registration: &Value) -> io::Result<()> {
    let stream = TcpStream::connect(distributor)?;
    prepare(&stream)?;
    send(&stream, registration)?;
    //# step 5
    let mut packets = PacketReader::new(&stream)?;
    while let Some(packet) = packets.read()? {
        match packet["params"].as_array() {
            Some(list) => println!("{} nodes are registered", list.len()),
            None => println!("the distributor {distributor} says: {packet}"),
        }
    }
    //# before
    // // Step 5: here the connection ends, and with it the registration.
    //# end
    Err(bad("the connection is closed"))
}
//# end

/// Small packets leave at once (`nodelay`), and no read or write waits for ever.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    //# step 3
    stream.set_read_timeout(Some(PACKET_TIME))?;
    stream.set_write_timeout(Some(WRITE_TIME))
    //# before
    // // Step 3: `PACKET_TIME` is how long a read may wait, `WRITE_TIME` is how long a write may wait.
    // Ok(())
    //# end
}

/// Cuts the bytes of a connection into packets.
struct PacketReader {
    from: TcpStream,
    /// The bytes that are not yet a whole packet, and when this packet began.
    bytes: Vec<u8>,
    began: Instant,
}

impl PacketReader {
    fn new(from: &TcpStream) -> io::Result<Self> {
        Ok(Self { from: from.try_clone()?, bytes: Vec::new(), began: Instant::now() })
    }

    /// Waits for the next packet. `None`: the peer has closed the connection.
    fn read(&mut self) -> io::Result<Option<Value>> {
        loop {
            if let Some(packet) = self.cut() {
                // White space between packets does no harm: people who type packets press Enter.
                if packet.trim_ascii().is_empty() {
                    continue;
                }
                return parse(&packet).map(Some);
            }
            if self.bytes.len() > MAX_PACKET {
                return Err(bad("a packet is longer than 1 MiB"));
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    /// Waits for more bytes and keeps them. `false`: the peer has closed the connection.
    fn receive(&mut self) -> io::Result<bool> {
        let mut piece = [0; 8192];
        //# step 3
        let is_between = self.bytes.trim_ascii().is_empty();
        if !is_between && self.began.elapsed() > PACKET_TIME {
            return Err(bad("a packet was not complete after 10 s"));
        }
        let count = match self.from.read(&mut piece) {
            Ok(count) => count,
            // The read timeout: nothing has arrived.
            Err(error) if matches!(error.kind(), Interrupted | TimedOut | WouldBlock) => return Ok(true),
            Err(error) => return Err(error),
        };
        if is_between {
            self.began = Instant::now();
        }
        //# before
        // // Step 3: a peer that sends half a packet and then nothing keeps its thread for ever.
        // let count = self.from.read(&mut piece)?;
        //# end
        self.bytes.extend_from_slice(&piece[..count]);
        Ok(count > 0)
    }

    /// Takes the first whole packet out of the bytes, if there is one. The rest stays for the next time.
    fn cut(&mut self) -> Option<Vec<u8>> {
        // Two bytes are compared, because the second byte alone also ends other characters, such as `ö`.
        let end = self.bytes.windows(2).position(|two| two == END)?;
        let rest = self.bytes.split_off(end + END.len());
        let mut packet = std::mem::replace(&mut self.bytes, rest);
        packet.truncate(end);
        self.began = Instant::now();
        Some(packet)
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
    // A `¶` inside a text would end the packet too early. JSON has a second spelling for it.
    let text = packet.to_string().replace('¶', "\\u00b6") + "¶";
    stream.write_all(text.as_bytes())
}

/// An error of a peer that breaks the rules.
fn bad(message: &str) -> io::Error {
    io::Error::new(InvalidData, message)
}
