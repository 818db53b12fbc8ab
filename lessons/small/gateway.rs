//! The small gateway: it turns HTTP requests into packets, and replies into HTTP answers.
//!
//! It knows no service by name: the list says which instance serves which route, such as `GET/users`. It keeps one
//! connection, a link, to each instance. All workers share it, so the key of each request says whose reply it is.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tiny_http::{Header, Request, Response, Server};
use wire::{MAX_PACKET, PacketReader, PacketWriter, RETRY, failure, lock};

/// How many HTTP requests are worked on at a time.
const WORKERS: usize = 64;
/// How many calls, and how many streams, one instance may have. So a silent instance cannot keep all workers.
const MAX_CALLS: usize = 32;
/// How many replies of a stream may wait for a slow client.
const MAX_BEHIND: usize = 256;
/// How long a client waits for the reply.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Gateway {
    /// The instances by their host and port.
    instances: Mutex<HashMap<(String, u16), Instance>>,
    /// Every route that was ever in a list. A known route without an instance gets 503 and not 404.
    routes: Mutex<BTreeSet<String>>,
    last_key: AtomicUsize,
}

struct Instance {
    link: Arc<Link>,
    /// Its newest entry in a list.
    entry: Entry,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    host: String,
    port: u16,
    urls: Vec<String>,
    proto: String,
    leaving: bool,
}

/// The connection to one instance, with its callers.
#[derive(Default)]
struct Link {
    address: (String, u16),
    /// `None` while the link is down.
    writer: Mutex<Option<PacketWriter>>,
    /// Who waits for the reply with this key.
    pending: Mutex<HashMap<usize, Sender<Value>>>,
}

/// A request that has been sent. When it is dropped, nobody waits for its replies any more.
struct Call {
    link: Arc<Link>,
    key: usize,
    replies: Receiver<Value>,
    /// Ends a stream.
    cancel: Option<Value>,
}

fn main() {
    wire::run(|| {
        let (listener, port) = wire::listen("gateway", "GATEWAY_LISTEN", "127.0.0.1:8000")?;
        let server = Server::from_listener(listener, None).map_err(|error| format!("tiny_http: {error}"))?;
        let (gateway, server) = (Arc::new(Gateway::default()), Arc::new(server));
        let listening = gateway.clone();
        wire::join("gate", port, &[], move |list| listening.read_list(list));
        for _ in 1..WORKERS {
            let (gateway, server) = (gateway.clone(), server.clone());
            wire::spawn("worker", move || gateway.work(&server));
        }
        gateway.work(&server);
        Err("tiny_http has stopped accepting connections".to_owned())
    });
}

impl Gateway {
    fn work(self: &Arc<Self>, server: &Server) {
        for request in server.incoming_requests() {
            let is_chunked = !header(&request, "Transfer-Encoding").is_empty();
            match request.body_length() {
                // tiny_http would allocate this much when the request is dropped. So it never is.
                Some(length) if length > 64 * MAX_PACKET => std::mem::forget(request),
                // tiny_http has read shorter bodies. This one arrives as slowly as its client likes: no worker waits.
                length if is_chunked || length > Some(1024) => {
                    let gateway = self.clone();
                    wire::spawn("body", move || gateway.answer(request));
                }
                _ => self.answer(request),
            }
        }
    }

    fn answer(&self, mut request: Request) {
        let wants_stream = header(&request, "Accept").contains("text/event-stream");
        let call = self.translate(&mut request).and_then(|asked| self.call(asked, wants_stream));
        // Every wait has a deadline, and a lost link ends it early.
        let reply = call.and_then(|call| match call.replies.recv_timeout(TIMEOUT) {
            Ok(reply) => Ok((reply, call)),
            Err(RecvTimeoutError::Timeout) => Err(failure(504, "no reply in 5 s; perhaps it was done")),
            Err(_) => Err(failure(502, "the link was lost; perhaps it was done")),
        });
        match reply {
            Ok((first, call)) if first["more"] == true && wants_stream => {
                // An error only says that the client has gone.
                wire::spawn("events", move || drop(send_events(request, first, &call)));
            }
            Ok((reply, _)) if reply["more"] == true => {
                respond(request, &failure(406, "this is a stream: send Accept: text/event-stream"));
            }
            Ok((reply, _)) | Err(reply) => respond(request, &reply),
        }
    }

    /// Makes a packet of an HTTP request. Its route is the whole path, or else the parent, and then the last segment is
    /// a parameter: `GET /users/1` becomes `GET/users` with `"params":"1"`.
    fn translate(&self, request: &mut Request) -> Result<(String, Value), Value> {
        let method = request.method().to_string().replace("HEAD", "GET");
        let url = request.url().to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let mut params = Map::new();
        read_form(query, &mut params)?;
        if method != "GET" {
            read_body(request, &mut params)?;
        } else if let Ok(last_id) = header(request, "Last-Event-ID").parse::<u64>() {
            params.insert("after".to_owned(), json!(last_id));
        }
        let routes = lock(&self.routes);
        let is_route = |uri: &str| routes.contains(&format!("{method}{uri}"));
        let (parent, last) = path.rsplit_once('/').unwrap_or_default();
        let mut uri = path;
        if !is_route(path) && !last.is_empty() {
            params.insert("params".to_owned(), json!(decode(last)?));
            uri = parent;
        }
        if is_route(uri) {
            return Ok((format!("{method}{uri}"), json!({ "uri": uri, "method": method, "params": params })));
        }
        if routes.iter().any(|route| [path, parent].contains(&route.trim_start_matches(|c| c != '/'))) {
            return Err(failure(405, &format!("{path} does not accept {method}")));
        }
        Err(failure(404, &format!("no service has registered {path}")))
    }

    /// Keeps a link to every instance in the list.
    fn read_list(&self, list: &[Value]) {
        let mut instances = lock(&self.instances);
        let mut missing = std::mem::take(&mut *instances);
        // Gateways have no routes, and nobody calls them.
        let entries = list.iter().filter_map(|entry| Entry::deserialize(entry).ok());
        for entry in entries.filter(|entry| !entry.urls.is_empty()) {
            lock(&self.routes).extend(entry.urls.iter().cloned());
            let address = (entry.host.clone(), entry.port);
            let known = missing.remove(&address).map(|instance| instance.link);
            let link = known.unwrap_or_else(|| Link::open(&address));
            instances.insert(address, Instance { link, entry });
        }
        // An instance stays as long as its link lives. A distributor that has just started does not know it yet.
        missing.retain(|_, instance| lock(&instance.link.writer).is_some());
        instances.extend(missing);
    }

    /// Sends a request to one of the instances that serve its route. They take turns.
    fn call(&self, (route, mut packet): (String, Value), wants_stream: bool) -> Result<Call, Value> {
        let key = self.last_key.fetch_add(1, Ordering::Relaxed) + 1;
        let instances = lock(&self.instances);
        let mut able: Vec<&Instance> = instances.values().collect();
        able.retain(|one| one.entry.urls.contains(&route) && !one.entry.leaving);
        able.retain(|one| lock(&one.link.writer).is_some());
        let Some(instance) = able.get(key % able.len().max(1)) else {
            return Err(failure(503, &format!("no instance of {route} lives; try again in 3 s")));
        };
        let (link, is_ours) = (instance.link.clone(), instance.entry.proto == "pilcrow/1");
        drop(instances);
        packet["key"] = json!(key);
        if is_ours {
            packet["deadline_ms"] = json!(TIMEOUT.as_millis());
        }
        let is_stream = wants_stream && is_ours;
        let (sender, replies) = bounded(if is_stream { MAX_BEHIND } else { 1 });
        let cancel = is_stream.then(|| json!({ "uri": packet["uri"], "method": "CANCEL", "key": key }));
        // First the entry, then the request: the reply may be fast.
        let mut pending = lock(&link.pending);
        if pending.values().filter(|other| other.capacity() == sender.capacity()).count() >= MAX_CALLS {
            return Err(failure(503, "too many requests wait for this service; try again in 3 s"));
        }
        pending.insert(key, sender);
        drop(pending);
        let call = Call { link, key, replies, cancel };
        call.link.send(&packet).map_err(|error| failure(502, &format!("not sent: {error}")))?;
        Ok(call)
    }
}

impl Link {
    /// Starts the thread that connects, reads replies until the connection is lost, and connects again.
    fn open(address: &(String, u16)) -> Arc<Self> {
        let link = Arc::new(Self { address: address.clone(), ..Self::default() });
        let kept = link.clone();
        wire::spawn("link", move || {
            // When nobody else has a clone, the instance has left.
            while Arc::strong_count(&kept) > 1 {
                if let Err(error) = kept.live() {
                    log::warn!("link {}:{}: {error}", kept.address.0, kept.address.1);
                }
                thread::sleep(RETRY);
            }
        });
        link
    }

    fn send(&self, packet: &Value) -> io::Result<()> {
        let writer = lock(&self.writer).clone();
        writer.ok_or_else(|| wire::bad("it is down"))?.send(packet)
    }

    /// One life of the link.
    fn live(&self) -> io::Result<()> {
        let (host, port) = &self.address;
        let stream = wire::connect((host.as_str(), *port))?;
        *lock(&self.writer) = Some(PacketWriter::new(&stream)?);
        log::info!("link {host}:{port}: up");
        let result = self.route_replies(&stream);
        *lock(&self.writer) = None;
        // Dropping the senders wakes all who wait: their channel is disconnected.
        lock(&self.pending).clear();
        result
    }

    /// Gives each reply to the caller that waits for its key.
    fn route_replies(&self, stream: &TcpStream) -> io::Result<()> {
        let mut packets = PacketReader::new(stream);
        while let Some(packet) = packets.read()? {
            let Some(Ok(key)) = packet["key"].as_u64().map(usize::try_from) else { continue };
            let mut pending = lock(&self.pending);
            let Some(caller) = pending.get(&key) else { continue };
            // `more`: another reply with this key follows. A caller that is too far behind is given up, because this
            // thread must not wait for one caller while others wait for it.
            let is_last = packet["more"] != true;
            if caller.try_send(packet).is_err() || is_last {
                pending.remove(&key);
            }
        }
        Err(wire::bad("the instance has closed the connection"))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        lock(&self.link.pending).remove(&self.key);
        // If the link is lost, the service knows already that nobody follows.
        let _ = self.cancel.as_ref().map(|cancel| self.link.send(cancel));
    }
}

fn header<'a>(request: &'a Request, name: &'static str) -> &'a str {
    request.headers().iter().find(|one| one.field.equiv(name)).map_or("", |one| one.value.as_str())
}

/// A body is a JSON object or a form. `curl -d` calls both a form, so a `{` at the start decides.
fn read_body(request: &mut Request, params: &mut Map<String, Value>) -> Result<(), Value> {
    let is_form = header(request, "Content-Type").contains("x-www-form-urlencoded");
    let mut body = String::new();
    let read = request.as_reader().take(MAX_PACKET as u64 + 1).read_to_string(&mut body);
    if read.is_err() || body.len() > MAX_PACKET {
        return Err(failure(413, "the body is not text in UTF-8 of at most 1 MiB"));
    }
    match serde_json::from_str(&body) {
        Ok(Value::Object(fields)) => params.extend(fields),
        _ if is_form || body.is_empty() => read_form(&body, params)?,
        _ => return Err(failure(400, "the body is neither a JSON object nor a form")),
    }
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

/// The body of the answer is the whole reply packet. A client that has gone needs none.
fn respond(request: Request, reply: &Value) {
    let errorcode = reply["errorcode"].as_u64().filter(|code| (400..600).contains(code));
    let status = reply["status"].as_u64().or(errorcode).and_then(|status| u16::try_from(status).ok());
    let response = Response::from_string(format!("{reply}\n")).with_status_code(status.unwrap_or(200));
    let json = Header::from_bytes("Content-Type", "application/json").ok();
    let _ = request.respond(json.into_iter().fold(response, Response::with_header));
}

/// Server-Sent Events: an answer that does not end. Each reply becomes an event.
fn send_events(request: Request, mut reply: Value, call: &Call) -> io::Result<()> {
    let mut client = request.into_writer();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes())?;
    // Nobody knows the whole length, so each piece begins with its own, in hexadecimal. Length 0 is the end.
    loop {
        let event = reply.get("results").map(|results| format!("id: {}\ndata: {results}\n\n", reply["seq"]));
        let event = event.unwrap_or_else(|| ": nothing new\n\n".to_owned());
        write!(client, "{:x}\r\n{event}\r\n", event.len())?;
        client.flush()?;
        reply = match call.replies.recv_timeout(3 * TIMEOUT) {
            Ok(next) if next["more"] == true => next,
            // Nothing happens. A comment shows whether the client is still there.
            Err(RecvTimeoutError::Timeout) => json!({}),
            // The end of the stream. A browser comes back with `Last-Event-ID` and misses nothing.
            Ok(_) | Err(_) => return client.write_all(b"0\r\n\r\n").and_then(|()| client.flush()),
        };
    }
}
