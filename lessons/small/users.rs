//! The small users service: it creates, reads, changes and deletes users in an SQLite file, and sends every change to
//! those who follow.
//!
//! Two promises: what has been answered is on the disk, and a follower gets each change once and in order.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use rusqlite::TransactionBehavior::Immediate;
use rusqlite::{Connection, ErrorCode, Transaction, params};
use serde::Deserialize;
use serde_json::{Value, json};
use wire::{PacketReader, PacketWriter, failure, setting, success};

const ROUTES: [&str; 5] = ["DELETE/users", "GET/users", "GET/users/changes", "PATCH/users", "POST/users"];
/// How long a write waits for another one. Then it gets 503, before its asker gives up.
const BUSY_TIME: Duration = Duration::from_secs(3);
/// How often a follower that has every change looks for new ones.
const LOOK_TIME: Duration = Duration::from_millis(50);
/// Stands for a missing id. Ids begin with 1.
const NO_ID: i64 = -1;
/// How many streams one connection may have. Each costs a thread.
const MAX_STREAMS: usize = 32;
/// The tables of the real `users`, so both can use one file. SQLite stores the version for us.
const SCHEMA: &str = concat!(
    include_str!("../../data/schema.sql"),
    include_str!("../../data/schema-2.sql"),
    include_str!("../../data/schema-3.sql"),
    "PRAGMA user_version = 3;"
);

/// A user as it is shown. SQLite writes the JSON.
const USER: &str = "json_object('id', id, 'email', email, 'name', name,
                                'created_at', created_at, 'updated_at', updated_at)";

/// The arguments of a request. Numbers in a path or a query are text.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Params {
    /// The last part of the path, such as the 1 of `/users/1`.
    #[serde(rename = "params")]
    path: Option<Value>,
    id: Option<Value>,
    email: Option<String>,
    name: Option<String>,
    limit: Option<Value>,
    after: Option<Value>,
}
/// The reply of a success, or why there is none.
type Answer = Result<Value, Failure>;

type Done = Result<(), Failure>;

/// A reply that says what went wrong.
struct Failure(Value);

fn main() {
    wire::run(|| {
        let file = PathBuf::from(setting("--database", "USERS_DATABASE", "data/users.db"));
        create_tables(&file).map_err(|error| format!("cannot open {}: {error}", file.display()))?;
        let (listener, port) = wire::listen("users", "USERS_LISTEN", "127.0.0.1:9020")?;
        wire::join("users", port, &ROUTES, |_list| {});
        wire::serve(&listener, move |stream| serve(&file, stream))
    });
}

/// The life of one connection. Its requests are answered one after the other.
fn serve(file: &Path, stream: &TcpStream) -> io::Result<()> {
    // SQLite lets many connections read while one writes, so each thread has its own.
    let mut database = open(file).map_err(io::Error::other)?;
    let (writer, mut packets) = (PacketWriter::new(stream)?, PacketReader::new(stream));
    // The streams by their key. A message makes one look for changes; dropping the sender ends it.
    let mut streams: HashMap<String, Sender<()>> = HashMap::new();
    while let Some(mut packet) = packets.read()? {
        let (key, params) = (packet["key"].clone(), packet["params"].take());
        match (packet["method"].as_str().unwrap_or_default(), packet["uri"].as_str().unwrap_or_default()) {
            ("CANCEL", _) => drop(streams.remove(&key.to_string())),
            ("GET", "/users/changes") if streams.len() < MAX_STREAMS => {
                let (sender, wake) = bounded(1);
                streams.insert(key.to_string(), sender);
                start_stream(file.to_owned(), params, wake, writer.clone(), key);
            }
            (method, uri) => {
                let answer = answer(&mut database, method, uri, params);
                reply(&writer, answer.unwrap_or_else(|Failure(failed)| failed), &key)?;
            }
        }
        // Perhaps that was a change. A stream that has ended is forgotten.
        streams.retain(|_, stream| !matches!(stream.try_send(()), Err(TrySendError::Disconnected(()))));
    }
    Ok(())
}

/// The key says to which request a reply belongs, so it comes back as it was.
fn reply(writer: &PacketWriter, mut reply: Value, key: &Value) -> io::Result<()> {
    if !key.is_null() {
        reply["key"] = key.clone();
    }
    writer.send(&reply)
}

fn answer(database: &mut Connection, method: &str, uri: &str, params: Value) -> Answer {
    let params = read_params(params)?;
    let id = number("id", params.path.as_ref().or(params.id.as_ref()), NO_ID)?;
    match (method, uri) {
        ("GET", "/users") if id != NO_ID => Ok(success(&find_user(database, id)?)),
        ("GET", "/users") => list_users(database, &params),
        ("PATCH" | "DELETE", "/users") if id == NO_ID => refuse(400, "name the user, as in /users/1"),
        ("POST", "/users") => write(database, |transaction| create_user(transaction, &params)),
        ("PATCH", "/users") => write(database, |transaction| change_user(transaction, id, &params)),
        ("DELETE", "/users") => write(database, |transaction| delete_user(transaction, id)),
        ("GET", "/users/changes") => refuse(503, "too many streams are open; try again in a moment"),
        (_, "/users" | "/users/changes") => refuse(405, &format!("{uri} does not accept {method}")),
        _ => refuse(404, &format!("this service has no route {method} {uri}")),
    }
}

/// Opens the file for one thread.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    database.busy_timeout(BUSY_TIME)?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    // Every commit waits until the disk has the data.
    database.pragma_update(None, "synchronous", "FULL")?;
    database.pragma_update(None, "foreign_keys", true)?;
    Ok(database)
}

fn create_tables(path: &Path) -> rusqlite::Result<()> {
    let mut database = open(path)?;
    let transaction = database.transaction_with_behavior(Immediate)?;
    if transaction.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? == 0 {
        transaction.execute_batch(SCHEMA)?;
    }
    transaction.commit()
}

/// Runs a write as one transaction: the user and the entry in the feed change together, or not at all. `commit` returns
/// when the disk has both. Only then do we answer: answered means saved.
fn write(database: &mut Connection, change: impl FnOnce(&Transaction) -> Answer) -> Answer {
    let transaction = database.transaction_with_behavior(Immediate)?;
    let answer = change(&transaction)?;
    transaction.commit()?;
    Ok(answer)
}

fn create_user(database: &Transaction, params: &Params) -> Answer {
    let (Some(email), Some(name)) = (&params.email, &params.name) else {
        return refuse(400, "a user needs email and name");
    };
    let sql = "INSERT INTO users (email, email_key, name, created_at, updated_at)
               SELECT ?1, ?2, ?3, now, now FROM (SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AS now)";
    database.execute(sql, params![email, email.to_lowercase(), name])?;
    let mut answer = add_change(database, "created", &find_user(database, database.last_insert_rowid())?)?;
    answer["status"] = json!(201);
    Ok(answer)
}

fn change_user(database: &Transaction, id: i64, params: &Params) -> Answer {
    if params.email.is_none() && params.name.is_none() {
        return refuse(400, "nothing to change: send email or name");
    }
    // NULL, the missing field, keeps the old value.
    let sql = "UPDATE users SET email = coalesce(?1, email), email_key = coalesce(?2, email_key),
               name = coalesce(?3, name), updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = ?4";
    let email_key = params.email.as_ref().map(|email| email.to_lowercase());
    database.execute(sql, params![params.email, email_key, params.name, id])?;
    add_change(database, "updated", &find_user(database, id)?)
}

fn delete_user(database: &Transaction, id: i64) -> Answer {
    let user = find_user(database, id)?;
    database.execute("DELETE FROM users WHERE id = ?1", [id])?;
    add_change(database, "deleted", &user)
}

fn find_user(database: &Connection, id: i64) -> Answer {
    let found = read(database, &format!("SELECT {USER} FROM users WHERE id = ?1"), [id])?.pop();
    found.map_or_else(|| refuse(404, &format!("no user has id {id}")), Ok)
}

/// One page of users. `next` is the `after` of the next page.
fn list_users(database: &Connection, params: &Params) -> Answer {
    let limit = number("limit", params.limit.as_ref(), 50)?.clamp(1, 500);
    let after = number("after", params.after.as_ref(), 0)?;
    let sql = format!("SELECT {USER} FROM users WHERE id > ?1 ORDER BY id LIMIT ?2");
    let users = read(database, &sql, [after, limit])?;
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

fn refuse<T>(code: u16, message: &str) -> Result<T, Failure> {
    Err(Failure(failure(code, message)))
}

fn read_params(params: Value) -> Result<Params, Failure> {
    let params = if params.is_null() { json!({}) } else { params };
    let shorten = |error: serde_json::Error| error.to_string().chars().take(200).collect::<String>();
    let params: Params = serde_json::from_value(params).or_else(|error| refuse(400, &shorten(error)))?;
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
fn number(name: &str, value: Option<&Value>, missing: i64) -> Result<i64, Failure> {
    let Some(value) = value else { return Ok(missing) };
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok()).filter(|number| *number >= 0);
    number.map_or_else(|| refuse(400, &format!("{name} must be an integer from 0 up")), Ok)
}

/// Answers with a stream: a thread of its own sends all changes, first the old ones, then each new one.
fn start_stream(file: PathBuf, params: Value, wake: Receiver<()>, writer: PacketWriter, key: Value) {
    wire::spawn("stream", move || {
        let send = |packet| reply(&writer, packet, &key).or_else(|error| refuse(503, &error.to_string()));
        if let Err(Failure(failed)) = send_changes(&file, params, &wake, send) {
            // If the connection is lost, this fails too.
            let _ = reply(&writer, failed, &key);
        }
    });
}

/// Old and new changes come from one place, the table `changes`. So there is no moment between the old and the new in
/// which a change could be lost or sent twice, and it does not matter which process has written it.
fn send_changes(file: &Path, params: Value, wake: &Receiver<()>, send: impl Fn(Value) -> Done) -> Done {
    let database = open(file)?;
    let mut after = number("after", read_params(params)?.after.as_ref(), last_seq(&database)?)?;
    let changes =
        "SELECT json_object('seq', seq, 'kind', kind, 'user_id', user_id, 'user', json(user), 'at', at)
                   FROM changes WHERE seq > ?1 ORDER BY seq LIMIT 200";
    // Without results: the stream is open.
    send(json!({ "errorcode": 0, "errormessage": "success", "seq": after, "more": true }))?;
    loop {
        let found = read(&database, changes, [after])?;
        for change in &found {
            // Numbers have no gaps. The real `users` deletes old changes, and a follower must hear of that.
            if change["seq"] != after + 1 {
                return refuse(410, "these changes have expired: read the users again");
            }
            after += 1;
            let mut packet = success(change);
            (packet["seq"], packet["more"]) = (json!(after), json!(true));
            send(packet)?;
        }
        let pause = if found.is_empty() { LOOK_TIME } else { Duration::ZERO };
        if wake.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return Ok(());
        }
    }
}

/// The number of the last change. Only one write runs at a time, so each takes the next number.
fn last_seq(database: &Connection) -> rusqlite::Result<i64> {
    database.query_row("SELECT coalesce(max(seq), 0) FROM changes", [], |row| row.get(0))
}

/// Writes a change into the feed, and returns the reply to the one who asked for it.
fn add_change(database: &Connection, kind: &str, user: &Value) -> Answer {
    let (id, seq) = (user["id"].as_i64(), last_seq(database)? + 1);
    let json = (kind != "deleted").then(|| user.to_string());
    let sql = "INSERT INTO changes (seq, kind, user_id, user, at)
               VALUES (?1, ?2, ?3, ?4, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))";
    database.execute(sql, params![seq, kind, id, json])?;
    // The version of the user, for the real `users`.
    database.execute("UPDATE users SET changed_seq = ?1 WHERE id = ?2", params![seq, id])?;
    let mut answer = success(user);
    answer["seq"] = json!(seq);
    Ok(answer)
}
