//! Lesson 5, what most people write first: a distributor that forgets a node by its name.
//!
//! It works as long as each service has one instance. When one of two instances leaves, the other one loses its routes
//! too.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};

const END: &[u8] = "¶".as_bytes();
const MAX_PACKET: usize = 1024 * 1024;

#[derive(Default)]
struct Distributor {
    /// All nodes that are registered.
    nodes: Mutex<Vec<Node>>,
}

struct Node {
    entry: Value,
    stream: TcpStream,
}

fn main() -> io::Result<()> {
    let listen = argument(1, "127.0.0.1:9000");
    let listener = TcpListener::bind(&listen)?;
    println!("distributor listening on {listen}");
    let distributor = Arc::new(Distributor::default());
    for stream in listener.incoming() {
        let distributor = distributor.clone();
        thread::spawn(move || {
            if let Err(error) = stream.and_then(|stream| distributor.serve(&stream)) {
                println!("a connection: {error}");
            }
        });
    }
    Ok(())
}

impl Distributor {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        send_packet(stream, &list(&lock(&self.nodes)))?;
        let mut name = Value::Null;
        let result = self.read_packets(stream, &mut name);
        // The node has left.
        let mut nodes = lock(&self.nodes);
        nodes.retain(|node| node.entry["name"] != name);
        push(&nodes);
        result
    }

    fn read_packets(&self, stream: &TcpStream, name: &mut Value) -> io::Result<()> {
        let mut bytes = Vec::new();
        while let Some(packet) = read_packet(stream, &mut bytes)? {
            if packet["method"] == "POST" && packet["uri"] == "/distributes" && packet["params"].is_object() {
                let mut entry = packet["params"].clone();
                entry["host"] = json!(stream.peer_addr()?.ip().to_string());
                *name = entry["name"].clone();
                let mut nodes = lock(&self.nodes);
                nodes.push(Node { entry, stream: stream.try_clone()? });
                push(&nodes);
            }
        }
        Ok(())
    }
}

fn push(nodes: &[Node]) {
    for node in nodes {
        let _ = send_packet(&node.stream, &list(nodes));
    }
}

fn list(nodes: &[Node]) -> Value {
    let entries: Vec<&Value> = nodes.iter().map(|node| &node.entry).collect();
    json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": entries })
}

/// Cuts the bytes of a connection into packets, as in lesson 1. `None`: the peer has closed the connection.
fn read_packet(mut stream: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<Option<Value>> {
    loop {
        if let Some(end) = bytes.windows(END.len()).position(|two| two == END) {
            let rest = bytes.split_off(end + END.len());
            let packet = std::mem::replace(bytes, rest);
            return Ok(Some(serde_json::from_slice(&packet[..end])?));
        }
        if bytes.len() > MAX_PACKET {
            return Err(io::Error::other("a packet is longer than 1 MiB"));
        }
        let mut piece = [0; 8192];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece[..count]);
    }
}

fn send_packet(mut stream: &TcpStream, packet: &Value) -> io::Result<()> {
    let text = packet.to_string().replace('¶', "\\u00b6") + "¶";
    stream.write_all(text.as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn argument(position: usize, usual: &str) -> String {
    std::env::args().nth(position).unwrap_or(usual.to_owned())
}
