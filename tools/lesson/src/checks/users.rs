//! A client of a service `users`, over packets.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::check::{Failure, Verdict, ensure};
use crate::connection::{Connection, PATIENCE};
use crate::language::{Text, text};
use crate::packet;
use crate::setup::Running;

/// How long the reading of all changes may take.
const READ_TIME: Duration = Duration::from_secs(60);

/// A user to create.
pub struct User {
    name: String,
}

/// A connection to the service, which counts its keys.
pub struct Users {
    connection: Connection,
    last_key: u64,
}

/// A connection that follows the changes.
pub struct Follower {
    connection: Connection,
    /// The number of the last change that it has seen.
    last: u64,
}

impl User {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    pub fn fields(&self) -> Value {
        json!({ "email": format!("{}@example.com", self.name), "name": self.name })
    }

    /// The packet that creates it.
    pub fn creation(&self, key: u64) -> Value {
        json!({ "uri": "/users", "method": "POST", "key": key, "params": self.fields() })
    }
}

impl Users {
    pub fn connect(program: &Running) -> Result<Self, Failure> {
        Ok(Self { connection: program.connect(["caller", "호출자"])?, last_key: 0 })
    }

    /// Sends a request. The reply must have these fields.
    pub fn expect(&mut self, method: &str, params: &Value, mut fields: Value) -> Verdict {
        let key = self.send(method, params)?;
        fields["key"] = json!(key);
        self.connection.expect(&fields)
    }

    /// Creates a user, and returns its id.
    pub fn create(&mut self, user: &User) -> Result<u64, Failure> {
        let key = self.send("POST", &user.fields())?;
        let expected = json!({ "key": key, "errorcode": 0, "errormessage": "success", "status": 201, "results": user.fields() });
        let wanted = Text::same(packet::text(&expected));
        let reply = self.connection.receive(&wanted)?;
        match reply["results"]["id"].as_u64() {
            Some(id) if packet::has(&reply, &expected) => Ok(id),
            _ => Err(Failure::new(wanted, Text::same(packet::text(&reply)))),
        }
    }

    /// All users.
    pub fn list(&mut self) -> Result<Vec<Value>, Failure> {
        let key = self.send("GET", &json!({}))?;
        let wanted = text!(
            "{{\"key\":{key},\"errorcode\":0,\"results\":[…]}}¶",
            "{{\"key\":{key},\"errorcode\":0,\"results\":[…]}}¶"
        );
        let reply = self.connection.receive(&wanted)?;
        match reply["results"].as_array() {
            Some(users) if reply["key"] == key => Ok(users.clone()),
            _ => Err(Failure::new(wanted, Text::same(packet::text(&reply)))),
        }
    }

    fn send(&mut self, method: &str, params: &Value) -> Result<u64, Failure> {
        self.last_key += 1;
        let key = self.last_key;
        self.connection.send(&json!({ "uri": "/users", "method": method, "key": key, "params": params }))?;
        Ok(key)
    }
}

impl Follower {
    /// Follows the changes after this number.
    pub fn start(program: &Running, who: [&'static str; 2], after: u64) -> Result<Self, Failure> {
        let mut connection = program.connect(who)?;
        let params = json!({ "after": after });
        connection.send(&json!({ "uri": "/users/changes", "method": "GET", "key": 1, "params": params }))?;
        Ok(Self { connection, last: after })
    }

    /// The next change must have the next number, and this kind. Returns the id of its user.
    pub fn expect(&mut self, kind: &str) -> Result<u64, Failure> {
        self.expect_within(PATIENCE, kind)
    }

    pub fn expect_within(&mut self, within: Duration, kind: &str) -> Result<u64, Failure> {
        let seq = self.last + 1;
        let wanted = text!(
            "{{\"key\":1,\"errorcode\":0,\"more\":true,\"seq\":{seq},\"results\":{{\"seq\":{seq},\"kind\":\"{kind}\",\"user_id\":…,\"user\":…}}}}¶",
            "{{\"key\":1,\"errorcode\":0,\"more\":true,\"seq\":{seq},\"results\":{{\"seq\":{seq},\"kind\":\"{kind}\",\"user_id\":…,\"user\":…}}}}¶"
        );
        let reply = self.next(within, &wanted)?;
        let results = json!({ "seq": seq, "kind": kind });
        let fields = json!({ "key": 1, "errorcode": 0, "more": true, "results": results });
        match reply["results"]["user_id"].as_u64() {
            Some(id) if packet::has(&reply, &fields) => {
                self.last = seq;
                Ok(id)
            }
            _ => Err(Failure::new(wanted, Text::same(packet::text(&reply)))),
        }
    }

    /// Reads the changes that are there, until none comes for this time. Each must have the next number.
    pub fn read_all(&mut self, pause: Duration) -> Result<Vec<Value>, Failure> {
        let mut changes = Vec::new();
        let wanted = text!("changes without a gap", "빠진 번호가 없는 변경");
        let deadline = Instant::now() + READ_TIME;
        while let Ok(reply) = self.next(pause, &wanted)
            && Instant::now() < deadline
        {
            let seq = self.last + 1;
            ensure(reply["results"]["seq"] == seq, || {
                Failure::new(text!("seq {seq}", "seq {seq}"), Text::same(packet::text(&reply)))
            })?;
            self.last = seq;
            changes.push(reply["results"].clone());
        }
        Ok(changes)
    }

    /// No further change may come.
    pub fn expect_silence(&mut self, time: Duration) -> Verdict {
        self.connection.expect_silence(time)
    }

    /// The next packet with a change. The first packet of a stream may only say that it is open.
    fn next(&mut self, within: Duration, expected: &Text) -> Result<Value, Failure> {
        let deadline = Instant::now() + within;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let reply = self.connection.receive_within(rest, expected)?;
            let is_opening = reply["errorcode"] == 0 && reply["more"] == true && reply["results"].is_null();
            if !is_opening {
                return Ok(reply);
            }
        }
    }
}
