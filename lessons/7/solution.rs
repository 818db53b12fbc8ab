//! Lesson 7: a users service with a change feed. Every change reaches every follower, once and in order.
//# step 6
//# before
// // The steps will use what is unused now.
// #![allow(unused)]
//# end

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::io::ErrorKind::{Interrupted, InvalidData, TimedOut, WouldBlock};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use rusqlite::TransactionBehavior::Immediate;
use rusqlite::{Connection, ErrorCode, params};
use serde_json::{Value, json};

const ROUTES: [&str; 5] = ["DELETE/users", "GET/users", "GET/users/changes", "PATCH/users", "POST/users"];
/// An id that was deleted is never given out again (AUTOINCREMENT). SQLite itself sees to it that no two users have the
/// same e-mail address, however it is written (NOCASE).
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS users (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    email TEXT NOT NULL UNIQUE COLLATE NOCASE,
    name  TEXT NOT NULL
) STRICT;";
//# step 1
/// Every change, under its number. A user who has been deleted is NULL.
const CHANGES_SCHEMA: &str = "CREATE TABLE IF NOT EXISTS changes (
    seq     INTEGER PRIMARY KEY,
    kind    TEXT NOT NULL,
    user_id INTEGER NOT NULL,
    user    TEXT
) STRICT;";
//# end
/// A user as it is shown. SQLite writes the JSON.
const USER: &str = "json_object('id', id, 'email', email, 'name', name)";
/// Stands for a missing id. Ids begin with 1.
const NO_ID: i64 = -1;
/// How long a write waits for another one.
const BUSY_TIME: Duration = Duration::from_secs(3);
/// How often a follower that has every change looks for new ones.
const LOOK_TIME: Duration = Duration::from_millis(50);
/// How many streams one connection may have. Each costs a thread.
const MAX_STREAMS: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let file = argument(3, "data/lesson.db");
    let created = open(&file).and_then(|database| create_tables(&database));
    created.map_err(|error| format!("cannot open {file}: {error}"))?;
    let address = argument(1, "127.0.0.1:9020");
    let listener = TcpListener::bind(&address)?;
    println!("users listening on {address}");
    join("users", listener.local_addr()?.port(), &ROUTES);
    accept_all(&listener, &file)
}

fn create_tables(database: &Connection) -> rusqlite::Result<()> {
    //# step 1
    database.execute_batch(CHANGES_SCHEMA)?;
    //# before
    // // Step 1: a table for the changes.
    //# end
    database.execute_batch(SCHEMA)
}

/// The life of one connection. Its requests are answered one after the other.
fn serve(file: &str, stream: &TcpStream) -> io::Result<()> {
    prepare(stream)?;
    // SQLite lets many connections read while one writes, so each thread has its own.
    let mut database = open(file).map_err(io::Error::other)?;
    let mut packets = PacketReader::new(stream)?;
    //# step 2
    let writer = PacketWriter::new(stream)?;
    //# end
    //# step 4
    // The streams by their key. A message makes one look for changes; dropping the sender ends it.
    let mut streams: HashMap<String, Sender<()>> = HashMap::new();
    //# end
    while let Some(request) = packets.read()? {
        //# step 6
        if request["method"] == "CANCEL" {
            streams.remove(&request["key"].to_string());
            continue;
        }
        //# end
        //# step 4
        if request["method"] == "GET" && request["uri"] == "/users/changes" && streams.len() < MAX_STREAMS {
            let (sender, wake) = bounded(1);
            streams.insert(request["key"].to_string(), sender);
            start_stream(file, request, writer.clone(), wake);
            continue;
        }
        //# end
        let answer = answer(&mut database, &request).unwrap_or_else(|Failure(failed)| failed);
        //# step 2
        reply(&writer, answer, &request["key"])?;
        //# before
        // reply(stream, answer, &request["key"])?;
        //# end
        //# step 6
        // Perhaps that was a change. A stream that has ended is forgotten.
        streams.retain(|_, stream| !matches!(stream.try_send(()), Err(TrySendError::Disconnected(()))));
        //# end
    }
    Ok(())
}

/// The key says to which request a reply belongs, so it comes back as it was.
//# step 2
fn reply(writer: &PacketWriter, mut reply: Value, key: &Value) -> io::Result<()> {
    reply["key"] = key.clone();
    writer.send(&reply)
}
//# before
// fn reply(stream: &TcpStream, mut reply: Value, key: &Value) -> io::Result<()> {
//     reply["key"] = key.clone();
//     send(stream, &reply)
// }
//# end

/// The reply of a success, or why there is none.
type Answer = Result<Value, Failure>;

type Done = Result<(), Failure>;

/// A reply that says what went wrong.
struct Failure(Value);

fn answer(database: &mut Connection, request: &Value) -> Answer {
    let method = request["method"].as_str().unwrap_or_default();
    let uri = request["uri"].as_str().unwrap_or_default();
    let params = read_params(&request["params"])?;
    match (method, uri) {
        ("GET", "/users") if params.id != NO_ID => Ok(success(&find_user(database, params.id)?)),
        ("GET", "/users") => list_users(database, &params),
        ("POST", "/users") => write(database, |database| create_user(database, &params)),
        ("PATCH", "/users") => write(database, |database| change_user(database, &params)),
        ("DELETE", "/users") => write(database, |database| delete_user(database, &params)),
        //# step 4
        ("GET", "/users/changes") => refuse(503, "too many streams are open; try again in a moment"),
        //# before
        // ("GET", "/users/changes") => refuse(501, "step 4: start a stream"),
        //# end
        (_, "/users") => refuse(405, &format!("{uri} does not accept {method}")),
        _ => refuse(404, &format!("this service has no route {method} {uri}")),
    }
}

/// Opens the file for one thread.
fn open(file: &str) -> rusqlite::Result<Connection> {
    let database = Connection::open(file)?;
    database.busy_timeout(BUSY_TIME)?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    // Every commit waits until the disk has the data.
    database.pragma_update(None, "synchronous", "FULL")?;
    Ok(database)
}

/// Runs a write as one transaction: all its statements are saved together, or none of them.
fn write(database: &mut Connection, change: impl FnOnce(&Connection) -> Answer) -> Answer {
    // `Immediate` waits here for its turn. Then nobody else writes until this is done.
    let transaction = database.transaction_with_behavior(Immediate)?;
    // After a failure, `?` leaves without a commit, and SQLite takes back what has been written.
    let answer = change(&transaction)?;
    // `commit` returns when the disk has it. Only then do we answer: answered means saved.
    transaction.commit()?;
    Ok(answer)
}

fn create_user(database: &Connection, params: &Params) -> Answer {
    let (Some(email), Some(name)) = (&params.email, &params.name) else {
        return refuse(400, "a user needs email and name");
    };
    database.execute("INSERT INTO users (email, name) VALUES (?1, ?2)", params![email, name])?;
    let id = database.last_insert_rowid();
    let user = json!({ "id": id, "email": email, "name": name });
    //# step 1
    let mut answer = add_change(database, "created", &user)?;
    //# before
    // let mut answer = success(&user);
    //# end
    answer["status"] = json!(201);
    Ok(answer)
}

fn change_user(database: &Connection, params: &Params) -> Answer {
    if params.email.is_none() && params.name.is_none() {
        return refuse(400, "nothing to change: send email or name");
    }
    // NULL, the missing field, keeps the old value.
    let sql = "UPDATE users SET email = coalesce(?1, email), name = coalesce(?2, name) WHERE id = ?3";
    database.execute(sql, params![params.email, params.name, params.id])?;
    let user = find_user(database, params.id)?;
    //# step 1
    add_change(database, "updated", &user)
    //# before
    // Ok(success(&user))
    //# end
}

fn delete_user(database: &Connection, params: &Params) -> Answer {
    let user = find_user(database, params.id)?;
    database.execute("DELETE FROM users WHERE id = ?1", [params.id])?;
    //# step 1
    add_change(database, "deleted", &user)
    //# before
    // Ok(success(&user))
    //# end
}
//# step 1

/// Writes a change into the feed, in the transaction of the change itself. Returns the reply to the one who asked.
fn add_change(database: &Connection, kind: &str, user: &Value) -> Answer {
    // Only one transaction writes at a time, so each takes the next number.
    let seq = last_seq(database)? + 1;
    let json = (kind != "deleted").then(|| user.to_string());
    let sql = "INSERT INTO changes (seq, kind, user_id, user) VALUES (?1, ?2, ?3, ?4)";
    database.execute(sql, params![seq, kind, user["id"].as_i64(), json])?;
    let mut answer = success(user);
    answer["seq"] = json!(seq);
    Ok(answer)
}

/// The number of the last change.
fn last_seq(database: &Connection) -> rusqlite::Result<i64> {
    database.query_row("SELECT coalesce(max(seq), 0) FROM changes", [], |row| row.get(0))
}
//# end
//# step 4

/// Answers with a stream: a thread of its own sends all changes, first the old ones, then each new one.
fn start_stream(file: &str, request: Value, writer: PacketWriter, wake: Receiver<()>) {
    let file = file.to_owned();
    spawn("stream", move || {
        let send = |packet| Ok(reply(&writer, packet, &request["key"])?);
        if let Err(Failure(failed)) = send_changes(&file, &request["params"], &wake, send) {
            // If the connection is lost, this fails too.
            let _ = send(failed);
        }
    });
}
//# end
//# step 3

/// Old and new changes come from one place, the table. So there is no moment between the old and the new in which a
/// change could be lost or sent twice, and it does not matter which process has written it.
fn send_changes(file: &str, params: &Value, wake: &Receiver<()>, send: impl Fn(Value) -> Done) -> Done {
    let database = open(file)?;
    let mut after = number("after", &params["after"], last_seq(&database)?)?;
    // Without results: the stream is open.
    send(json!({ "errorcode": 0, "errormessage": "success", "seq": after, "more": true }))?;
    loop {
        let found = read_changes(&database, after)?;
        for change in &found {
            after += 1;
            let mut packet = success(change);
            (packet["seq"], packet["more"]) = (json!(after), json!(true));
            send(packet)?;
        }
        //# step 5
        // A follower that has everything waits a moment, or until it is woken.
        let pause = if found.is_empty() { LOOK_TIME } else { Duration::ZERO };
        if wake.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return Ok(());
        }
        //# before
        // // Step 5: and the changes that come later?
        // return Ok(());
        //# end
    }
}

//# end
//# step 3
/// The next changes after this number.
fn read_changes(database: &Connection, after: i64) -> rusqlite::Result<Vec<Value>> {
    let sql = "SELECT json_object('seq', seq, 'kind', kind, 'user_id', user_id, 'user', json(user))
               FROM changes WHERE seq > ?1 ORDER BY seq LIMIT 200";
    read(database, sql, [after])
}
//# end

fn find_user(database: &Connection, id: i64) -> Answer {
    let found = read(database, &format!("SELECT {USER} FROM users WHERE id = ?1"), [id])?.pop();
    found.map_or_else(|| refuse(404, &format!("no user has id {id}")), Ok)
}

/// One page of users. `next` is the `after` of the next page.
fn list_users(database: &Connection, params: &Params) -> Answer {
    let sql = format!("SELECT {USER} FROM users WHERE id > ?1 ORDER BY id LIMIT ?2");
    let users = read(database, &sql, [params.after, params.limit])?;
    let mut answer = success(&json!(users));
    answer["next"] = json!(users.last().map(|user| &user["id"]));
    Ok(answer)
}

/// Reads rows whose one column is JSON.
fn read(database: &Connection, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<Vec<Value>> {
    let mut statement = database.prepare_cached(sql)?;
    let texts = statement.query_map(values, |row| row.get::<_, String>(0))?;
    // SQLite has written it, so it is JSON.
    texts.map(|text| Ok(serde_json::from_str(&text?).unwrap_or_default())).collect()
}

/// So `?` turns an error of the database into a failure.
impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => Self(failure(409, "this email is taken")),
            Some(ErrorCode::DatabaseBusy) => Self(failure(503, "the database is busy; try again")),
            _ => Self(failure(500, &format!("the database failed: {error}"))),
        }
    }
}

/// A stream whose connection is lost ends.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(failure(503, &error.to_string()))
    }
}

/// The arguments of a request.
struct Params {
    id: i64,
    email: Option<String>,
    name: Option<String>,
    after: i64,
    limit: i64,
}

fn read_params(params: &Value) -> Result<Params, Failure> {
    // The last part of a path, such as the 1 of `/users/1`, is called `params`.
    let id = if params["params"].is_null() { &params["id"] } else { &params["params"] };
    let params = Params {
        id: number("id", id, NO_ID)?,
        email: text("email", &params["email"])?,
        name: text("name", &params["name"])?,
        after: number("after", &params["after"], 0)?,
        limit: number("limit", &params["limit"], 50)?.clamp(1, 500),
    };
    let is_email = |email: &String| email.len() <= 254 && email.trim_matches('@').contains('@');
    if !params.email.iter().all(is_email) {
        return refuse(400, "email must be an e-mail address, such as kim@example.com");
    }
    if !params.name.iter().all(|name| !name.trim().is_empty() && name.chars().count() <= 100) {
        return refuse(400, "name must have 1 to 100 characters, not all of them blank");
    }
    Ok(params)
}

/// A number from 0 up. In JSON it may be a number, in a path or a query it is text.
fn number(name: &str, value: &Value, missing: i64) -> Result<i64, Failure> {
    if value.is_null() {
        return Ok(missing);
    }
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok()).filter(|number| *number >= 0);
    number.map_or_else(|| refuse(400, &format!("{name} must be an integer from 0 up")), Ok)
}

fn text(name: &str, value: &Value) -> Result<Option<String>, Failure> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => refuse(400, &format!("{name} must be text")),
    }
}

/// A reply of success. The caller adds the key of the request.
fn success(results: &Value) -> Value {
    json!({ "errorcode": 0, "errormessage": "success", "results": results })
}

/// A reply that says what went wrong. The code is the HTTP status that fits.
fn failure(code: u16, message: &str) -> Value {
    json!({ "errorcode": code, "errormessage": message })
}

fn refuse<T>(code: u16, message: &str) -> Result<T, Failure> {
    Err(Failure(failure(code, message)))
}

// From here on everything is as in lessons 1 and 2, except for `PacketWriter`.

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
fn accept_all(listener: &TcpListener, file: &str) -> ! {
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
        let (place, file) = (places.clone(), file.to_owned());
        spawn("peer", move || {
            // A peer that breaks the rules loses its connection. The others do not notice.
            if let Err(error) = serve(&file, &stream) {
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
    //# step 2
    PacketWriter::new(&stream)?.send(registration)?;
    //# before
    // send(&stream, registration)?;
    //# end
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

//# step 2
/// Sends packets. Each thread that sends has a clone.
#[derive(Clone)]
struct PacketWriter(Arc<Mutex<TcpStream>>);

impl PacketWriter {
    fn new(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(stream.try_clone()?))))
    }

    /// Sends one packet in one write. The lock keeps the packets of other threads out of it.
    fn send(&self, packet: &Value) -> io::Result<()> {
        let text = packet.to_string().replace('¶', "\\u00b6") + "¶";
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Half of the packet may have left, so after an error the peer could read nothing that follows.
        stream.write_all(text.as_bytes()).inspect_err(|_| drop(stream.shutdown(Shutdown::Both)))
    }
}
//# before
// /// Sends one packet in one write.
// // Step 2: from step 4 on several threads send to one connection. Their packets must not mix.
// fn send(mut stream: &TcpStream, packet: &Value) -> io::Result<()> {
//     // A `¶` inside a text would end the packet too early. JSON has a second spelling for it.
//     let text = packet.to_string().replace('¶', "\\u00b6") + "¶";
//     stream.write_all(text.as_bytes())
// }
//# end

/// An error of a peer that breaks the rules.
fn bad(message: &str) -> io::Error {
    io::Error::new(InvalidData, message)
}
