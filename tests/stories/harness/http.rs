//! An HTTP client that sends exactly the given bytes, including invalid requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::{PATIENCE, secrets};

/// A client. Each request uses a new connection, unless [`Http::connect`] holds one open.
#[derive(Clone, Copy)]
pub struct Http {
    address: SocketAddr,
    /// Whether `Host` is the address. Otherwise it is `test`.
    names_address: bool,
}

/// One open connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    host: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub version: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Http {
    pub fn to(address: SocketAddr) -> Self {
        Self { address, names_address: false }
    }

    /// A client whose requests name the address as their host.
    pub fn by_address(address: SocketAddr) -> Self {
        Self { address, names_address: true }
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    pub fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.json("POST", path, body)
    }

    pub fn patch(&self, path: &str, body: &Value) -> Response {
        self.json("PATCH", path, body)
    }

    pub fn json(&self, method: &str, path: &str, body: &Value) -> Response {
        self.request(method, path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut connection = self.connect();
        connection.send_request(method, path, headers, body);
        connection.receive_for(method).unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }

    /// Like `request`, but returns `None` if the connection ends without an answer.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Response> {
        let mut connection = self.try_connect()?;
        connection.send_request(method, path, headers, body);
        connection.receive_for(method)
    }

    /// Sends these bytes unchanged and reads one answer. `None` if the connection ends without one.
    pub fn raw(&self, bytes: &[u8]) -> Option<Response> {
        let mut connection = self.connect();
        connection.send(bytes);
        connection.receive()
    }

    pub fn connect(&self) -> Connection {
        self.try_connect().expect("the gateway accepts connections")
    }

    /// Like `connect`; `None` if no process accepts.
    pub fn try_connect(&self) -> Option<Connection> {
        let connection = Connection::open(self.address)?;
        let host = if self.names_address { self.address.to_string() } else { connection.host };
        Some(Connection { host, ..connection })
    }
}

impl Connection {
    fn open(address: SocketAddr) -> Option<Self> {
        TcpStream::connect_timeout(&address, PATIENCE).ok().map(Self::on)
    }

    pub fn on(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new(), host: "test".to_owned() }
    }

    /// Sends bytes. If the peer has closed already, the read of the answer shows it.
    pub fn send(&mut self, bytes: &[u8]) {
        secrets::learn_from_request(bytes);
        let _ = self.stream.write_all(bytes);
    }

    pub fn send_request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head.extend(["Host: ", &self.host, "\r\n"]);
        }
        for (name, value) in headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if !body.is_empty() {
            head.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
        }
        head.push_str("\r\n");
        self.send(&[head.as_bytes(), body].concat());
    }

    /// The next answer; `None` if the connection ends first.
    pub fn receive(&mut self) -> Option<Response> {
        self.receive_for("GET")
    }

    /// The next answer to a request with this method: the answer to HEAD has no body.
    pub fn receive_for(&mut self, method: &str) -> Option<Response> {
        let head_end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more()?;
        };
        let head: Vec<u8> = self.buffer.drain(..head_end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let mut status_line = lines.next().unwrap().splitn(3, ' ');
        let version = status_line.next().unwrap().to_owned();
        let status = status_line.next().unwrap().parse().unwrap();
        let headers =
            lines.map(|line| line.split_once(':').unwrap()).map(|(n, v)| (n.to_owned(), v.trim().to_owned()));
        let mut response = Response { status, version, headers: headers.collect(), body: Vec::new() };
        let length = response.header("Content-Length").map_or(0, |length| length.parse().unwrap());
        if method != "HEAD" && status >= 200 && status != 204 && status != 304 {
            while self.buffer.len() < length {
                self.read_more()?;
            }
            response.body = self.buffer.drain(..length).collect();
            secrets::learn_from_reply(&response.body);
        }
        Some(response)
    }

    /// The next line, without its end, of an answer that continues after its head. `None` at the end of the connection.
    pub fn receive_line(&mut self) -> Option<String> {
        let mut searched = 0;
        let end = loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                break searched + at;
            }
            searched = self.buffer.len();
            self.read_more()?;
        };
        let line = self.buffer.drain(..=end).take(end).collect();
        Some(String::from_utf8(line).unwrap())
    }

    /// Whether the peer closes within this time without sending any more bytes.
    pub fn is_closed_within(&self, time: Duration) -> bool {
        super::is_closed_within(&self.stream, time)
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn read_more(&mut self) -> Option<()> {
        let mut piece = vec![0; 64 * 1024];
        let count = self.stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        self.buffer.extend_from_slice(&piece[..count]);
        Some(())
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The reply packet in the body.
    pub fn reply(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn results(&self) -> Value {
        self.reply()["results"].clone()
    }

    pub fn message(&self) -> String {
        self.reply()["errormessage"].as_str().unwrap_or_default().to_owned()
    }
}
