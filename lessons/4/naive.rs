//! Lesson 4, what most people write first: a gateway that answers one request after the other.
//!
//! It works as long as every service replies. A service that is frozen hangs every client, because the only thread waits
//! for it. And a service that was started again stays 503, because the gateway keeps the dead connection.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tiny_http::{Header, Request, Response, Server};

const END: &[u8] = "¶".as_bytes();
const MAX_PACKET: usize = 1024 * 1024;
const RETRY: Duration = Duration::from_secs(3);

struct Instance {
    /// Its entry in the list.
    entry: Value,
    stream: TcpStream,
}

type Instances = Arc<Mutex<Vec<Instance>>>;

fn main() -> io::Result<()> {
    let listen = argument(1, "127.0.0.1:8000");
    let listener = TcpListener::bind(&listen)?;
    println!("gateway listening on {listen}");
    let instances = Instances::default();
    join(instances.clone(), listener.local_addr()?.port());
    let server = Server::from_listener(listener, None).map_err(io::Error::other)?;
    for mut request in server.incoming_requests() {
        let reply = answer(&mut request, &instances).unwrap_or_else(|failure| failure);
        respond(request, &reply);
    }
    Ok(())
}

fn answer(request: &mut Request, instances: &Instances) -> Result<Value, Value> {
    let method = request.method().to_string();
    let url = request.url().to_owned();
    let (path, query) = url.split_once('?').unwrap_or((&url, ""));
    let (parent, last) = path.rsplit_once('/').unwrap_or_default();
    let mut params = Map::new();
    read_form(query, &mut params)?;
    read_body(request, &mut params)?;
    let instances = lock(instances);
    // The whole path is a route, or else its parent, and then the last part of the path is a parameter.
    let (mut uri, mut found) = (path, find(&instances, &format!("{method}{path}")));
    if found.is_none() {
        params.insert("params".to_owned(), json!(decode(last)?));
        (uri, found) = (parent, find(&instances, &format!("{method}{parent}")));
    }
    let instance =
        found.ok_or_else(|| failure(404, &format!("no service has registered {method} {path}")))?;
    let packet = json!({ "uri": uri, "method": method, "key": 1, "params": params });
    call(&instance.stream, &packet).map_err(|error| failure(503, &format!("no instance lives: {error}")))
}

fn find<'a>(instances: &'a [Instance], route: &str) -> Option<&'a Instance> {
    let has_route =
        |one: &&Instance| one.entry["urls"].as_array().is_some_and(|urls| urls.contains(&json!(route)));
    instances.iter().find(has_route)
}

/// Sends a request, and reads the reply.
fn call(stream: &TcpStream, packet: &Value) -> io::Result<Value> {
    send_packet(stream, packet)?;
    read_packet(stream, &mut Vec::new())?.ok_or_else(|| io::Error::other("it has closed the connection"))
}

/// Registers at the distributor, as in lesson 2.
fn join(instances: Instances, port: u16) {
    let distributor = argument(2, "127.0.0.1:9000");
    thread::spawn(move || {
        loop {
            if let Err(error) = stay_joined(&distributor, port, &instances) {
                println!("the distributor {distributor}: {error}; trying again in 3 s");
            }
            thread::sleep(RETRY);
        }
    });
}

fn stay_joined(distributor: &str, port: u16, instances: &Instances) -> io::Result<()> {
    let stream = TcpStream::connect(distributor)?;
    let params = json!({ "port": port, "name": "gate", "urls": [] });
    send_packet(&stream, &json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params }))?;
    let mut bytes = Vec::new();
    while let Some(packet) = read_packet(&stream, &mut bytes)? {
        for entry in packet["params"].as_array().into_iter().flatten() {
            add_instance(&mut lock(instances), entry);
        }
    }
    Ok(())
}

/// Connects to an instance that is new in the list.
fn add_instance(instances: &mut Vec<Instance>, entry: &Value) {
    let is_same = |one: &Instance| one.entry["host"] == entry["host"] && one.entry["port"] == entry["port"];
    let is_gateway = entry["name"] == "gate";
    if is_gateway || instances.iter().any(is_same) {
        return;
    }
    let host = entry["host"].as_str().unwrap_or_default();
    let port = entry["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
    match TcpStream::connect((host, port)) {
        Ok(stream) => instances.push(Instance { entry: entry.clone(), stream }),
        Err(error) => println!("{host}:{port}: {error}"),
    }
}

/// Sends the HTTP answer. Its body is the whole reply packet.
fn respond(request: Request, reply: &Value) {
    // An `errorcode` such as 404 is the status too. A success may have one of its own, such as 201.
    let errorcode = reply["errorcode"].as_u64().filter(|code| (400..600).contains(code));
    let status = reply["status"].as_u64().or(errorcode).and_then(|status| u16::try_from(status).ok());
    let response = Response::from_string(format!("{reply}\n")).with_status_code(status.unwrap_or(200));
    let json = Header::from_bytes("Content-Type", "application/json").ok();
    // A client that has gone needs no answer.
    let _ = request.respond(json.into_iter().fold(response, Response::with_header));
}

/// A body is a JSON object or a form. `curl -d` calls both a form, so a `{` at the start decides.
fn read_body(request: &mut Request, params: &mut Map<String, Value>) -> Result<(), Value> {
    let mut body = String::new();
    let read = request.as_reader().take(MAX_PACKET as u64 + 1).read_to_string(&mut body);
    if read.is_err() || body.len() > MAX_PACKET {
        return Err(failure(413, "the body is not text in UTF-8 of at most 1 MiB"));
    }
    if !body.trim_start().starts_with('{') {
        return read_form(&body, params);
    }
    let fields: Result<Map<String, Value>, _> = serde_json::from_str(&body);
    params.extend(fields.map_err(|error| failure(400, &format!("the body is not JSON: {error}")))?);
    Ok(())
}

/// Reads `name=Kim&email=kim%40example.com`, the text of a query or a form.
fn read_form(form: &str, params: &mut Map<String, Value>) -> Result<(), Value> {
    for pair in form.replace('+', " ").split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        params.insert(decode(name)?, json!(decode(value)?));
    }
    Ok(())
}

/// `%EA%B9%80` is `김`: each `%` stands before one byte in hexadecimal digits.
fn decode(text: &str) -> Result<String, Value> {
    let wrong = || failure(400, "each % must stand before two hexadecimal digits of a byte in UTF-8");
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).ok_or_else(wrong)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| wrong())
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

fn failure(code: u16, message: &str) -> Value {
    json!({ "errorcode": code, "errormessage": message })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn argument(position: usize, usual: &str) -> String {
    std::env::args().nth(position).unwrap_or(usual.to_owned())
}
