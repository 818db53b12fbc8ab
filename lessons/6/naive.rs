//! Lesson 6, the naive version: users live in memory, and a thread saves them every second.

use std::env;
use std::fs;
use std::io::ErrorKind::{Interrupted, InvalidData, TimedOut, WouldBlock};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

const ROUTES: [&str; 4] = ["DELETE/users", "GET/users", "PATCH/users", "POST/users"];
/// To write the file for every request would be slow, so we do it every second.
const SAVE_TIME: Duration = Duration::from_secs(1);

/// All users by their id, and the last id.
#[derive(Default)]
struct Users {
    by_id: Map<String, Value>,
    last_id: u64,
}

type SharedUsers = Arc<Mutex<Users>>;

fn main() -> io::Result<()> {
    let file = argument(3, "data/lesson.json");
    let users: SharedUsers = Arc::new(Mutex::new(load(&file)));
    let saved = users.clone();
    spawn("save", move || save_for_ever(&saved, &file));
    let address = argument(1, "127.0.0.1:9020");
    let listener = TcpListener::bind(&address)?;
    println!("users listening on {address}");
    join("users", listener.local_addr()?.port(), &ROUTES);
    accept_all(&listener, &users)
}

/// The users of the file. There are none if it does not exist.
fn load(file: &str) -> Users {
    let text = fs::read_to_string(file).unwrap_or_default();
    let by_id: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
    let last_id = by_id.values().filter_map(|user| user["id"].as_u64()).max().unwrap_or_default();
    Users { by_id, last_id }
}

fn save_for_ever(users: &SharedUsers, file: &str) {
    loop {
        thread::sleep(SAVE_TIME);
        let text = json!(users.lock().unwrap_or_else(PoisonError::into_inner).by_id).to_string();
        if let Err(error) = fs::write(file, text) {
            println!("cannot write {file}: {error}");
        }
    }
}

/// The life of one connection. Its requests are answered one after the other.
fn serve(users: &SharedUsers, stream: &TcpStream) -> io::Result<()> {
    prepare(stream)?;
    let mut packets = PacketReader::new(stream)?;
    while let Some(request) = packets.read()? {
        let mut reply = answer(&mut users.lock().unwrap_or_else(PoisonError::into_inner), &request);
        reply["key"] = request["key"].clone();
        send(stream, &reply)?;
    }
    Ok(())
}

fn answer(users: &mut Users, request: &Value) -> Value {
    let params = &request["params"];
    // The last part of a path, such as the 1 of `/users/1`, is called `params`. It is text.
    let id = params["params"].as_str().unwrap_or_default();
    match (request["method"].as_str().unwrap_or_default(), request["uri"].as_str().unwrap_or_default()) {
        ("GET", "/users") if id.is_empty() => success(&json!(users.by_id.values().collect::<Vec<_>>())),
        ("GET", "/users") => users.by_id.get(id).map_or_else(|| not_found(id), success),
        ("POST", "/users") => create_user(users, params),
        ("PATCH", "/users") => change_user(users, id, params),
        ("DELETE", "/users") => users.by_id.remove(id).map_or_else(|| not_found(id), |user| success(&user)),
        (method, uri) => failure(404, &format!("this service has no route {method} {uri}")),
    }
}

fn create_user(users: &mut Users, params: &Value) -> Value {
    if !params["email"].is_string() || !params["name"].is_string() {
        return failure(400, "a user needs email and name");
    }
    users.last_id += 1;
    let user = json!({ "id": users.last_id, "email": params["email"], "name": params["name"] });
    users.by_id.insert(users.last_id.to_string(), user.clone());
    let mut answer = success(&user);
    answer["status"] = json!(201);
    answer
}

fn change_user(users: &mut Users, id: &str, params: &Value) -> Value {
    let Some(user) = users.by_id.get_mut(id) else { return not_found(id) };
    for field in ["email", "name"] {
        if params[field].is_string() {
            user[field] = params[field].clone();
        }
    }
    success(user)
}

fn not_found(id: &str) -> Value {
    failure(404, &format!("no user has id {id}"))
}

/// A reply of success. The caller adds the key of the request.
fn success(results: &Value) -> Value {
    json!({ "errorcode": 0, "errormessage": "success", "results": results })
}

/// A reply that says what went wrong. The code is the HTTP status that fits.
fn failure(code: u16, message: &str) -> Value {
    json!({ "errorcode": code, "errormessage": message })
}

// From here on everything is as in lessons 1 and 2.

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

/// An argument by its position, or else what is usual.
fn argument(position: usize, usual: &str) -> String {
    env::args().nth(position).unwrap_or(usual.to_owned())
}

/// Accepts connections for ever. The `!` says that it never returns.
fn accept_all(listener: &TcpListener, users: &SharedUsers) -> ! {
    // Every open connection has a clone of this `Arc`, so the `Arc` counts them.
    let places = Arc::new(());
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            // The caller has left already, or too many files are open.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if Arc::strong_count(&places) > MAX_CONNECTIONS {
            println!("{peer}: rejected: too many connections are open");
            continue;
        }
        let (place, users) = (places.clone(), users.clone());
        spawn("peer", move || {
            // A peer that breaks the rules loses its connection. The others do not notice.
            if let Err(error) = serve(&users, &stream) {
                println!("{peer}: closed: {error}");
            }
            drop(place);
        });
    }
}

/// Starts a thread with a name. If the system has no thread left, `work` is dropped, and with it its connection.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        println!("cannot start a thread `{name}`: {error}");
    }
}

/// Registers at the distributor, and again whenever that connection is lost.
fn join(name: &str, port: u16, urls: &[&str]) {
    let distributor = argument(2, "127.0.0.1:9000");
    let params = json!({ "port": port, "name": name, "urls": urls, "proto": "pilcrow/1" });
    let registration = json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params });
    spawn("membership", move || {
        // A distributor may start after us, and it may start again. So we try for ever.
        loop {
            if let Err(error) = stay_joined(&distributor, &registration) {
                println!("the distributor {distributor}: {error}; trying again in 3 s");
            }
            thread::sleep(RETRY);
        }
    });
}

/// A registration lives as long as its connection. So we keep it open and read what comes.
fn stay_joined(distributor: &str, registration: &Value) -> io::Result<()> {
    let stream = TcpStream::connect(distributor)?;
    prepare(&stream)?;
    send(&stream, registration)?;
    let mut packets = PacketReader::new(&stream)?;
    while let Some(packet) = packets.read()? {
        match packet["params"].as_array() {
            Some(list) => println!("{} nodes are registered", list.len()),
            None => println!("the distributor {distributor} says: {packet}"),
        }
    }
    Err(bad("the connection is closed"))
}

/// Small packets leave at once (`nodelay`), and no read or write waits for ever.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PACKET_TIME))?;
    stream.set_write_timeout(Some(WRITE_TIME))
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
