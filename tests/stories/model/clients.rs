//! The writers and the subscribers.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::world::{Shared, THE_LAST};
use crate::harness::{Events, Http, Packets, Random};

/// The time without any success after which a client fails the story.
const PATIENCE: Duration = Duration::from_secs(60);

/// An acknowledged write.
pub struct Written {
    pub seq: u64,
    pub kind: &'static str,
    /// The user's current state; the last state of a deleted one.
    pub user: Value,
    /// The version that the writer named as its last read.
    pub after_version: Option<u64>,
}

/// The changes that a subscriber received.
#[derive(Default)]
pub struct ReceivedChanges {
    pub changes: Vec<Value>,
    /// The number of times it joined.
    pub joined: usize,
}

/// A requested write.
struct PlannedWrite {
    kind: &'static str,
    id: u64,
    fields: Value,
    version: Option<u64>,
}

/// Writes until this many writes have been acknowledged.
pub fn write(shared: &Shared, writer: usize, count: usize, mut random: Random) -> Vec<Written> {
    let mut written = Vec::new();
    let mut direct: [Option<Packets>; 2] = [None, None];
    let mut success = Instant::now();
    for number in 0.. {
        if written.len() == count {
            break;
        }
        assert!(success.elapsed() < PATIENCE, "writer {writer} makes no progress");
        let planned = PlannedWrite::random(shared, &format!("{writer}-{number}"), &mut random);
        let reply = match random.index(4) {
            place @ (0 | 1) => planned.ask_users(shared.users[place], &mut direct[place]),
            _ => planned.ask_gateway(shared.gateway),
        };
        let Some(reply) = reply else {
            assert!(shared.unsafe_world, "no reply, though nothing was killed");
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        match reply["errorcode"].as_u64() {
            Some(0) => {
                success = Instant::now();
                shared.acknowledged.fetch_add(1, Ordering::SeqCst);
                let seq = reply["seq"].as_u64().unwrap();
                let user = reply["results"].clone();
                shared.learn(&planned, user["id"].as_u64().unwrap(), seq);
                written.push(Written { seq, kind: planned.kind, user, after_version: planned.version });
            }
            // Another writer was faster.
            Some(404) if planned.kind != "created" => shared.forget(planned.id),
            Some(412) if planned.version.is_some() => {}
            Some(404 | 502 | 503 | 504) if shared.unsafe_world => thread::sleep(Duration::from_millis(5)),
            _ => panic!("{} {}: {reply}", planned.kind, planned.fields),
        }
    }
    written
}

impl PlannedWrite {
    fn random(shared: &Shared, tag: &str, random: &mut Random) -> Self {
        let known = shared.known.lock().unwrap();
        let (id, version) = if known.is_empty() { (0, 0) } else { known[random.index(known.len())] };
        let kind = match random.below(10) {
            0..=3 => "created",
            _ if known.len() < 5 => "created",
            4..=7 => "updated",
            _ => "deleted",
        };
        let mut fields = match (kind, random.below(4)) {
            ("deleted", _) => json!({}),
            ("updated", 0) => json!({ "email": format!("{tag}@example.com") }),
            ("updated", _) => json!({ "name": format!("{tag} ¶ 한글") }),
            _ => json!({ "email": format!("{tag}@example.com"), "name": tag }),
        };
        let version = (kind != "created" && random.below(2) == 0).then_some(version);
        if kind != "created" {
            fields["id"] = json!(id);
        }
        Self { kind, id, fields, version }
    }

    fn method(&self) -> &'static str {
        match self.kind {
            "created" => "POST",
            "updated" => "PATCH",
            _ => "DELETE",
        }
    }

    /// The reply packet; `None` without one.
    fn ask_gateway(&self, gateway: SocketAddr) -> Option<Value> {
        let tag = self.version.map(|version| format!("\"{version}\""));
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(tag.as_deref().map(|tag| ("If-Match", tag)));
        let mut connection = Http::to(gateway).try_connect()?;
        connection.send_request(self.method(), "/users", &headers, self.fields.to_string().as_bytes());
        Some(connection.receive()?.reply())
    }

    fn ask_users(&self, users: SocketAddr, held: &mut Option<Packets>) -> Option<Value> {
        let mut packets = held.take().or_else(|| Packets::try_to(users))?;
        let mut params = self.fields.clone();
        if let Some(version) = self.version {
            params["if_match"] = json!(format!("\"{version}\""));
        }
        packets.send(&json!({ "uri": "/users", "method": self.method(), "key": 1, "params": params }));
        let reply = packets.receive()?;
        *held = Some(packets);
        Some(reply)
    }
}

impl Shared {
    fn learn(&self, planned: &PlannedWrite, id: u64, seq: u64) {
        let mut known = self.known.lock().unwrap();
        known.retain(|(one, _)| *one != id);
        if planned.kind != "deleted" {
            known.push((id, seq));
        }
    }

    fn forget(&self, id: u64) {
        self.known.lock().unwrap().retain(|(one, _)| *one != id);
    }
}

impl ReceivedChanges {
    fn last(&self) -> u64 {
        self.changes.len() as u64
    }

    fn is_complete(&self) -> bool {
        self.changes.last().is_some_and(|change| change["user"]["name"] == THE_LAST)
    }

    /// Records a change, which must be the next one.
    fn add(&mut self, change: Value) {
        assert_eq!(change["seq"], self.last() + 1, "not the next one: {change}");
        self.changes.push(change);
    }
}

/// Reads events until the last change, and disconnects and reconnects at random.
pub fn follow_through_gateway(shared: &Shared, mut random: Random) -> ReceivedChanges {
    let mut received = ReceivedChanges::default();
    let mut success = Instant::now();
    while !received.is_complete() {
        assert!(success.elapsed() < PATIENCE, "a client of the gateway gets no more answers");
        let Some(mut events) = join_events(shared, received.last(), &mut random) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        received.joined += 1;
        for _ in 0..=random.below(100) {
            let Some(event) = events.event().filter(|event| event.name.is_none()) else { break };
            let change: Value = serde_json::from_str(&event.data).unwrap();
            assert_eq!(event.id, change["seq"].as_u64());
            received.add(change);
            success = Instant::now();
            if received.is_complete() {
                break;
            }
        }
    }
    received
}

fn join_events(shared: &Shared, last: u64, random: &mut Random) -> Option<Events> {
    let connection = Http::to(shared.gateway).try_connect()?;
    let id = last.to_string();
    let by_header = random.below(2) == 0;
    let (path, headers) = if by_header {
        ("/users/changes?after=0".to_owned(), vec![("Last-Event-ID", id.as_str())])
    } else {
        (format!("/users/changes?after={last}"), vec![])
    };
    match Events::on(connection, &path, &headers) {
        Some(Ok(events)) => Some(events),
        Some(Err(refused)) => {
            let passing = shared.unsafe_world && matches!(refused.status, 404 | 502 | 503 | 504);
            assert!(passing, "{}: {}", refused.status, refused.text());
            None
        }
        None => {
            assert!(shared.unsafe_world, "no answer, though nothing was killed");
            None
        }
    }
}

/// Follows one users process by packets until the last change. It leaves at random, with or without a cancel. It
/// returns on the same connection or a new one.
pub fn follow_users(shared: &Shared, place: usize, mut random: Random) -> ReceivedChanges {
    let mut received = ReceivedChanges::default();
    let mut success = Instant::now();
    let mut held: Option<Packets> = None;
    let mut key = 0;
    while !received.is_complete() {
        assert!(success.elapsed() < PATIENCE, "a subscriber gets no more changes");
        let Some(mut packets) = held.take().or_else(|| Packets::try_to(shared.users[place])) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        key += 1;
        let about = |method: &str| json!({ "uri": "/users/changes", "method": method, "key": key });
        let mut request = about("GET");
        request["params"] = json!({ "after": received.last() });
        packets.send(&request);
        received.joined += 1;
        let mut left = random.below(100) + 1;
        let stands = loop {
            // Late replies of a cancelled stream are ignored.
            let Some(reply) = packets.receive() else { break false };
            if reply["key"] != key {
                continue;
            }
            if reply["errorcode"] != 0 {
                assert!(shared.unsafe_world && reply["errorcode"] == 503, "{reply}");
                break false;
            }
            assert_eq!(reply["more"], true, "{reply}");
            let Some(change) = reply.get("results") else { continue };
            assert_eq!(reply["seq"], change["seq"]);
            received.add(change.clone());
            success = Instant::now();
            left -= 1;
            if left == 0 || received.is_complete() {
                break true;
            }
        };
        if stands && random.below(2) == 0 {
            packets.send(&about("CANCEL"));
            held = Some(packets);
        }
    }
    received
}
