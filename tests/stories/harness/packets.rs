//! A raw packet connection with its own frame parser, independent of the library's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use pilcrow::net::secret::{Challenges, ProofRole, Secret, new_challenge};
use serde_json::{Value, json};

use super::{PATIENCE, secrets};

const END: &[u8] = "¶".as_bytes();

/// One packet connection.
pub struct Packets {
    stream: TcpStream,
    frames: Frames,
}

/// Received bytes, split into frames.
#[derive(Default)]
pub struct Frames(Vec<u8>);

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn pop(&mut self) -> Option<String> {
        let at = self.0.windows(END.len()).position(|two| two == END)?;
        let frame = self.0.drain(..at + END.len()).take(at).collect();
        Some(String::from_utf8(frame).unwrap())
    }
}

impl Packets {
    pub fn to(address: SocketAddr) -> Self {
        Self::try_to(address).expect("the process accepts connections")
    }

    /// Like `to`; `None` if no process accepts.
    pub fn try_to(address: SocketAddr) -> Option<Self> {
        TcpStream::connect_timeout(&address, PATIENCE).ok().map(Self::on)
    }

    /// A connection on which both sides have proven this secret.
    pub fn proven(address: SocketAddr, secret: &str) -> Self {
        let secret = Secret::new(secret.as_bytes()).unwrap();
        let mut packets = Self::to(address);
        let acceptor = packets.receive().expect("a challenge")["challenge"].as_str().unwrap().to_owned();
        let dialer = new_challenge().unwrap();
        let both = Challenges { acceptor: &acceptor, dialer: &dialer };
        packets.send(&json!({ "challenge": dialer, "proof": secret.proof(ProofRole::Dialer, both) }));
        let proof = packets.receive().expect("a proof")["proof"].as_str().unwrap().to_owned();
        assert!(secret.is_proven(ProofRole::Acceptor, both, &proof));
        packets
    }

    pub fn on(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, frames: Frames::default() }
    }

    pub fn send(&mut self, packet: &Value) {
        secrets::learn_from_packet(packet);
        self.send_raw(&[packet.to_string().replace('¶', "\\u00b6").as_bytes(), END].concat());
    }

    /// Sends bytes. If the peer has closed already, the next read shows it.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame as text; `None` at the end of the connection.
    pub fn receive_text(&mut self) -> Option<String> {
        loop {
            if let Some(frame) = self.frames.pop() {
                secrets::learn_from_reply(frame.as_bytes());
                return Some(frame);
            }
            let mut piece = vec![0; 64 * 1024];
            let count = self.stream.read(&mut piece).ok().filter(|count| *count > 0)?;
            self.frames.push(&piece[..count]);
        }
    }

    /// The next packet; `None` at the end of the connection.
    pub fn receive(&mut self) -> Option<Value> {
        self.receive_text()
            .map(|frame| serde_json::from_str(&frame).unwrap_or_else(|e| panic!("{e}: {frame}")))
    }

    /// Sends a request and waits for the packet with its key.
    pub fn call(&mut self, method: &str, uri: &str, params: &Value, key: u64) -> Value {
        self.send(&json!({ "uri": uri, "method": method, "key": key, "params": params }));
        loop {
            let packet = self.receive().expect("a reply before the connection ends");
            if packet["key"] == key && packet.get("errorcode").is_some() {
                return packet;
            }
        }
    }

    /// Sends all these requests (method, uri, params) with keys from 1 up, many at a time. Returns the replies in the
    /// order of the requests.
    pub fn call_all(&mut self, requests: &[(&str, &str, Value)]) -> Vec<Value> {
        const AT_A_TIME: usize = 256;
        let mut replies = vec![Value::Null; requests.len()];
        let mut to_send = requests.iter().zip(1_usize..);
        for step in 0..requests.len() + AT_A_TIME {
            if let Some(((method, uri, params), key)) = to_send.next() {
                self.send(&json!({ "uri": uri, "method": method, "key": key, "params": params }));
            }
            if step >= AT_A_TIME {
                let reply = self.receive().expect("a reply before the connection ends");
                let key = usize::try_from(reply["key"].as_u64().unwrap()).unwrap();
                replies[key - 1] = reply;
            }
        }
        replies
    }

    /// Registers at a distributor, as a node that listens on this port.
    pub fn register(&mut self, name: &str, port: u16, urls: &[&str], extra: &Value) {
        let mut params = json!({ "port": port, "name": name, "urls": urls });
        params.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap_or_default());
        self.send(&json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params }));
    }

    /// Waits for a list that satisfies `wanted`, and returns its entries.
    pub fn await_list(&mut self, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        loop {
            let packet = self.receive().expect("a list before the connection ends");
            let list = packet["params"].as_array().expect("a list").clone();
            if wanted(&list) {
                return list;
            }
        }
    }

    /// Whether the peer closes within this time without sending any more bytes.
    pub fn is_closed_within(&self, time: Duration) -> bool {
        super::is_closed_within(&self.stream, time)
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
