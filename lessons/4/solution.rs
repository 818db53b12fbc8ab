//! Lesson 4: the gateway. It turns HTTP requests into packets, and replies into HTTP answers.
//!
//! Start it with two addresses: where it listens, and where the distributor is.
//! For example: `127.0.0.1:8000 127.0.0.1:9000`.
//# step 7
//# before
// // The steps will use what is unused now.
// #![allow(unused)]
//# end

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tiny_http::{Header, Request, Response, Server};

/// The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
const END: &[u8] = "¶".as_bytes();
/// A longer packet or body is an error. Without a limit, one peer could fill our memory.
const MAX_PACKET: usize = 1024 * 1024;
/// A lost connection is opened again after this time.
const RETRY: Duration = Duration::from_secs(3);
/// How long a client waits for the reply.
const DEADLINE: Duration = Duration::from_secs(2);
/// How many requests are worked on at a time.
const WORKERS: usize = 64;

#[derive(Default)]
struct Gateway {
    /// The instances by their host and port.
    instances: Mutex<HashMap<(String, u16), Instance>>,
    /// Every route that was ever in a list. A known route without an instance gets 503 and not 404.
    routes: Mutex<BTreeSet<String>>,
    /// Counts the requests, so that instances take turns.
    turn: AtomicUsize,
}

struct Instance {
    link: Arc<Link>,
    /// Its newest entry in a list.
    entry: Entry,
}

/// A node in the list of the distributor. What is missing there gets a default: no text, 0, no routes, `false`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    host: String,
    port: u16,
    urls: Vec<String>,
    leaving: bool,
}

/// The connection to one instance, from lesson 3.
#[derive(Default)]
struct Link {
    address: (String, u16),
    /// `None` while the link is down.
    writer: Mutex<Option<PacketWriter>>,
    /// Each request gets the next number as its key.
    last_key: AtomicU64,
    /// Who waits for the reply with this key.
    pending: Mutex<HashMap<u64, Sender<Value>>>,
}

fn main() -> io::Result<()> {
    let listen = argument(1, "127.0.0.1:8000");
    let listener = TcpListener::bind(&listen)?;
    println!("gateway listening on {listen}");
    let gateway = Arc::new(Gateway::default());
    join(gateway.clone(), listener.local_addr()?.port());
    let server = Arc::new(Server::from_listener(listener, None).map_err(io::Error::other)?);
    //# step 6
    // A worker that waits for a service can do nothing else. So there are many.
    for _ in 1..WORKERS {
        let (gateway, server) = (gateway.clone(), server.clone());
        spawn("worker", move || gateway.work(&server));
    }
    //# before
    // // Step 6: there is only this one thread. While it waits for a service, nobody else is answered.
    //# end
    gateway.work(&server);
    Ok(())
}

impl Gateway {
    fn work(&self, server: &Server) {
        for mut request in server.incoming_requests() {
            // A failure is a packet too, so both become an HTTP answer in the same way.
            let reply = self.answer(&mut request).unwrap_or_else(|failure| failure);
            respond(request, &reply);
        }
    }

    /// Makes a packet of an HTTP request, and waits for the reply.
    fn answer(&self, request: &mut Request) -> Result<Value, Value> {
        //# step 3
        let method = request.method().to_string();
        let url = request.url().to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let mut params = Map::new();
        //# before
        // // Step 3: take method and path apart, and find the route.
        //# end
        //# step 4
        // What comes later replaces what has the same name: first the query, then the body, then the path.
        read_form(query, &mut params)?;
        read_body(request, &mut params)?;
        //# before
        // // Step 4: read the query and the body.
        //# end
        //# step 3
        let uri = self.find_uri(&method, path, &mut params)?;
        //# end
        //# step 5
        let link = self.choose_link(&format!("{method}{uri}"))?;
        Ok(link.call(json!({ "uri": uri, "method": method, "params": params })))
        //# before
        // // Step 5: choose an instance, and call it.
        // Err(failure(501, "this gateway calls no service yet"))
        //# end
    }

    //# step 3
    /// Finds the route: it has the whole path, or else the parent. Then the last part of the path is a parameter.
    /// So `GET /users/1` becomes `GET/users` with `"params":"1"`.
    fn find_uri(&self, method: &str, path: &str, params: &mut Map<String, Value>) -> Result<String, Value> {
        let routes = lock(&self.routes);
        if routes.contains(&format!("{method}{path}")) {
            return Ok(path.to_owned());
        }
        let (parent, last) = path.rsplit_once('/').unwrap_or_default();
        if !last.is_empty() && routes.contains(&format!("{method}{parent}")) {
            params.insert("params".to_owned(), json!(decode(last)?));
            return Ok(parent.to_owned());
        }
        Err(failure(404, &format!("no service has registered {method} {path}")))
    }

    //# end
    /// Keeps a link to every instance in the list.
    fn read_list(&self, list: &[Value]) {
        //# step 2
        let mut instances = lock(&self.instances);
        let mut missing = std::mem::take(&mut *instances);
        let entries = list.iter().filter_map(|entry| Entry::deserialize(entry).ok());
        // Gateways have no routes, and nobody calls them.
        for entry in entries.filter(|entry| !entry.urls.is_empty()) {
            lock(&self.routes).extend(entry.urls.iter().cloned());
            let address = (entry.host.clone(), entry.port);
            let known = missing.remove(&address).map(|instance| instance.link);
            let link = known.unwrap_or_else(|| Link::open(&address));
            instances.insert(address, Instance { link, entry });
        }
        //# before
        // // Step 2: open a link to every instance, and keep those that are open.
        // println!("{} nodes are registered", list.len());
        //# end
        //# step 7
        // An instance stays as long as its link lives. A distributor that has just started does not know it yet.
        missing.retain(|_, instance| instance.link.is_up());
        instances.extend(missing);
        //# before
        // // Step 7: what about instances that are missing in this list?
        //# end
    }
    //# step 5

    /// Chooses one of the instances that serve a route. They take turns.
    fn choose_link(&self, route: &str) -> Result<Arc<Link>, Value> {
        let instances = lock(&self.instances);
        let mut able: Vec<&Instance> = instances.values().collect();
        able.retain(|one| one.entry.urls.iter().any(|url| url == route));
        able.retain(|one| one.link.is_up() && !one.entry.leaving);
        if able.is_empty() {
            return Err(failure(503, &format!("no instance of {route} lives; try again in 3 s")));
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % able.len();
        Ok(able[turn].link.clone())
    }
    //# end
}

impl Link {
    /// Starts the thread that keeps this link.
    fn open(address: &(String, u16)) -> Arc<Self> {
        let link = Arc::new(Self { address: address.clone(), ..Self::default() });
        let kept = link.clone();
        spawn("link", move || {
            loop {
                if let Err(error) = kept.live() {
                    println!("link {}:{}: {error}", kept.address.0, kept.address.1);
                }
                //# step 7
                thread::sleep(RETRY);
                // The gateway has dropped this instance, so this thread has the last clone of the `Arc`.
                if Arc::strong_count(&kept) == 1 {
                    return;
                }
                //# before
                // // Step 7: the link is down, and stays down.
                // return;
                //# end
            }
        });
        link
    }

    /// One life of the link.
    fn live(&self) -> io::Result<()> {
        let (host, port) = &self.address;
        let stream = TcpStream::connect((host.as_str(), *port))?;
        *lock(&self.writer) = Some(PacketWriter::new(&stream)?);
        println!("link {host}:{port}: up");
        let result = self.route_replies(&stream);
        // From now on, `send` fails at once.
        *lock(&self.writer) = None;
        // The senders in the table are dropped. This wakes everybody who waits: `Disconnected`.
        lock(&self.pending).clear();
        result
    }

    /// Gives each reply to the caller that waits for it.
    fn route_replies(&self, stream: &TcpStream) -> io::Result<()> {
        let mut packets = PacketReader::new(stream);
        while let Some(reply) = packets.read()? {
            // A reply without a key is nobody's.
            let Some(key) = reply["key"].as_u64() else { continue };
            // Nobody waits for this key: the reply came too late, or was sent twice.
            let Some(caller) = lock(&self.pending).remove(&key) else { continue };
            // If this fails, the caller has just given up.
            let _ = caller.send(reply);
        }
        Err(bad("it has closed the connection"))
    }

    fn is_up(&self) -> bool {
        lock(&self.writer).is_some()
    }

    /// Sends a request, and returns the reply.
    fn call(&self, mut request: Value) -> Value {
        let key = self.last_key.fetch_add(1, Ordering::Relaxed) + 1;
        request["key"] = json!(key);
        let (sender, replies) = bounded(1);
        // First the entry, then the request: the reply may be fast.
        lock(&self.pending).insert(key, sender);
        let reply = self.send_and_wait(&request, &replies);
        lock(&self.pending).remove(&key);
        reply
    }

    fn send_and_wait(&self, request: &Value, replies: &Receiver<Value>) -> Value {
        if let Err(error) = self.send(request) {
            return failure(502, &format!("the request was not sent: {error}"));
        }
        match replies.recv_timeout(DEADLINE) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => failure(504, "no reply in time; perhaps it was done"),
            Err(RecvTimeoutError::Disconnected) => failure(502, "the link was lost; perhaps it was done"),
        }
    }

    fn send(&self, packet: &Value) -> io::Result<()> {
        let writer = lock(&self.writer).clone();
        writer.ok_or_else(|| bad("the link is down"))?.send(packet)
    }
}

/// Registers at the distributor, and again whenever that connection is lost, as in lesson 2.
fn join(gateway: Arc<Gateway>, port: u16) {
    let distributor = argument(2, "127.0.0.1:9000");
    spawn("membership", move || {
        loop {
            if let Err(error) = stay_joined(&gateway, &distributor, port) {
                println!("the distributor {distributor}: {error}; trying again in 3 s");
            }
            thread::sleep(RETRY);
        }
    });
}

/// A registration lives as long as its connection. So we keep it open and read the lists that come.
fn stay_joined(gateway: &Gateway, distributor: &str, port: u16) -> io::Result<()> {
    let stream = TcpStream::connect(distributor)?;
    let params = json!({ "port": port, "name": "gate", "urls": [], "proto": "pilcrow/1" });
    let registration = json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params });
    PacketWriter::new(&stream)?.send(&registration)?;
    let mut packets = PacketReader::new(&stream);
    while let Some(packet) = packets.read()? {
        match packet["params"].as_array() {
            Some(list) => gateway.read_list(list),
            None => println!("the distributor {distributor} says: {packet}"),
        }
    }
    Err(bad("it has closed the connection"))
}

/// Sends the HTTP answer. Its body is the whole reply packet.
fn respond(request: Request, reply: &Value) {
    //# step 1
    // An `errorcode` such as 404 is the status too. A success may have one of its own, such as 201.
    let errorcode = reply["errorcode"].as_u64().filter(|code| (400..600).contains(code));
    let status = reply["status"].as_u64().or(errorcode).and_then(|status| u16::try_from(status).ok());
    //# before
    // // Step 1: this says 501, whatever the reply is.
    // let status = Some(501);
    //# end
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
