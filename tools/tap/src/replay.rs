//! Sends the requests of a recording to a node again, one after the other, and compares the replies.
//!
//! Each recorded connection gets a connection of its own. A request waits for as many replies as were recorded for it.
//! Packets that a node sends by itself, such as lists, are not compared.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use pilcrow::net::proof::prove;
use pilcrow::net::secret::Secret;
use pilcrow::packet::frame::{FrameError, FrameReader};
use pilcrow::packet::masked::masked_whole;
use pilcrow::packet::{DEFAULT_MAX_FRAME_BYTES, DELIMITER, Dialect, encode};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::compare::find_differences;
use crate::line::{Direction, Line};
use crate::relay::connect;

/// How long the replies to one request may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// A masked value, as it is in a recording.
const MASK: &str = "\"***\"";

/// The settings of a replay.
pub struct Replay<'a> {
    pub node: &'a str,
    pub secret: Option<&'a Secret>,
    /// The names of the fields that are not compared.
    pub ignored: &'a [String],
}

/// A recorded request and its replies.
struct Exchange {
    connection: u64,
    request: Box<RawValue>,
    packet: Value,
    replies: Vec<Value>,
}

/// A connection to the node.
struct ReplayConnection {
    began: Instant,
    stream: TcpStream,
    frames: FrameReader<TcpStream>,
}

impl Replay<'_> {
    /// Replays this recording and prints each difference. It is an error if a reply differs.
    pub fn run(&self, recording: &Path) -> Result<(), String> {
        let shown = recording.display();
        let file = File::open(recording).map_err(|error| format!("cannot read {shown}: {error}"))?;
        let exchanges = read(BufReader::new(file)).map_err(|why| format!("{shown}, {why}"))?;
        let (masked, sent): (Vec<_>, Vec<_>) =
            exchanges.iter().partition(|exchange| exchange.request.get().contains(MASK));
        let mut connections = HashMap::new();
        let mut differ = 0;
        for exchange in &sent {
            let found = self.repeat(exchange, &mut connections)?;
            differ += usize::from(!found.is_empty());
            for difference in found {
                print(&format!("#{} {}: {difference}", exchange.connection, exchange.name()));
            }
        }
        if !masked.is_empty() {
            let (count, all) = (masked.len(), exchanges.len());
            print(&format!("skipped {count} of {all} requests, because a secret in them is masked"));
        }
        match (sent.len(), differ) {
            (0, _) => Err(format!("{shown} has no request to send")),
            (count, 0) => {
                print(&format!("sent {count} requests: all replies are as recorded"));
                Ok(())
            }
            (count, _) => Err(format!("sent {count} requests: the replies to {differ} of them differ")),
        }
    }

    /// Sends one request. Returns how its replies differ from the recorded ones.
    fn repeat(
        &self,
        exchange: &Exchange,
        connections: &mut HashMap<u64, ReplayConnection>,
    ) -> Result<Vec<String>, String> {
        let unreachable = |why: String| format!("cannot connect to {}: {why}", self.node);
        let mut connection = match connections.remove(&exchange.connection) {
            Some(connection) => connection,
            None => ReplayConnection::open(self.node, self.secret).map_err(unreachable)?,
        };
        let mut found = Vec::new();
        match connection.ask(exchange) {
            Ok(replies) => {
                for (recorded, now) in exchange.replies.iter().zip(&replies) {
                    find_differences("", recorded, now, self.ignored, &mut found);
                }
                connections.insert(exchange.connection, connection);
            }
            // The next request gets a new connection.
            Err(why) => found.push(format!("no reply as recorded: {why}")),
        }
        Ok(found)
    }
}

impl Exchange {
    /// Method, uri and key.
    fn name(&self) -> String {
        let text = |field: &str| self.packet[field].as_str().unwrap_or("?");
        let key = keys(&self.packet).into_iter().flatten().next();
        format!("{} {} key {}", text("method"), text("uri"), key.unwrap_or_default())
    }

    /// True if this packet has a key of the request. A reply of a course node may have none.
    fn is_answered_by(&self, reply: &Value) -> bool {
        let ours = keys(&self.packet);
        match keys(reply).into_iter().flatten().next() {
            Some(key) => ours.contains(&Some(key)),
            None => true,
        }
    }
}

impl ReplayConnection {
    fn open(node: &str, secret: Option<&Secret>) -> Result<Self, String> {
        let opened = connect(node).and_then(|stream| {
            stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
            Ok((stream.try_clone()?, stream))
        });
        let (reader, stream) = opened.map_err(|error| error.to_string())?;
        if let Some(secret) = secret {
            prove(secret, &stream).map_err(|why| why.to_string())?;
        }
        let frames = FrameReader::new(reader, DEFAULT_MAX_FRAME_BYTES, Dialect::Course);
        Ok(Self { began: Instant::now(), stream, frames })
    }

    /// Sends the request, and waits for as many replies as were recorded.
    fn ask(&mut self, exchange: &Exchange) -> Result<Vec<Value>, String> {
        let sent = self.frame(exchange).and_then(|frame| self.stream.write_all(&frame));
        sent.map_err(|error| error.to_string())?;
        let deadline = Instant::now() + REPLY_TIMEOUT;
        let mut replies = Vec::new();
        while replies.len() < exchange.replies.len() {
            let packet = self.receive(deadline)?;
            if !packet["uri"].is_string() && exchange.is_answered_by(&packet) {
                replies.push(packet);
            }
        }
        Ok(replies)
    }

    /// The request as a frame. Only its times are new: how long we wait, and when it is sent.
    fn frame(&self, exchange: &Exchange) -> io::Result<Vec<u8>> {
        let mut packet = exchange.packet.clone();
        if packet.get("deadline_ms").is_none() {
            return Ok([exchange.request.get().as_bytes(), &DELIMITER].concat());
        }
        let millis = |time: Duration| Value::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        packet["deadline_ms"] = millis(REPLY_TIMEOUT);
        packet["sent_ms"] = millis(self.began.elapsed());
        Ok(encode(&packet)?)
    }

    fn receive(&mut self, deadline: Instant) -> Result<Value, String> {
        let stream = &self.stream;
        let frame = self.frames.next_frame_with(|frames| {
            // A timeout of zero is an error.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left)).and_then(|()| frames.fill()).map_err(FrameError::Io)
        });
        match frame {
            // The recorded reply is masked as well.
            Ok(Some(frame)) => {
                serde_json::from_str(&masked_whole(frame)).map_err(|error| format!("it is no JSON: {error}"))
            }
            Ok(None) => Err("the node closed the connection".to_owned()),
            Err(FrameError::Io(error)) if is_timeout(&error) => {
                Err(format!("none came in {REPLY_TIMEOUT:?}"))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// True if a read took too long.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Reads a recording: its requests in order, each with its replies. The error names the line.
fn read(lines: impl BufRead) -> Result<Vec<Exchange>, String> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    // The requests of each connection that wait for a reply, oldest first.
    let mut waiting: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (number, line) in (1..).zip(lines.lines()) {
        let wrong = |why: String| format!("line {number}: this is no line of a recording: {why}");
        let line = line.map_err(|error| wrong(error.to_string()))?;
        let line: Line = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        let (Some(direction), Some(request)) = (line.direction, line.packet) else { continue };
        let packet: Value = serde_json::from_str(request.get()).map_err(|error| wrong(error.to_string()))?;
        let open = waiting.entry(line.connection).or_default();
        match (direction, packet["uri"].is_string()) {
            (Direction::To, true) => {
                open.push(exchanges.len());
                let connection = line.connection;
                exchanges.push(Exchange { connection, request, packet, replies: Vec::new() });
            }
            (Direction::From, false) => {
                let Some(at) = open.iter().position(|at| exchanges[*at].is_answered_by(&packet)) else {
                    continue;
                };
                // More replies follow in a stream.
                let at = if packet["more"] == true { open[at] } else { open.remove(at) };
                exchanges[at].replies.push(packet);
            }
            // A proof of the cluster secret, or a list.
            (Direction::To, false) | (Direction::From, true) => {}
        }
    }
    Ok(exchanges)
}

/// The keys of a packet, as text without quotes: its own, and the one in its `params`, where some course nodes have it.
fn keys(packet: &Value) -> [Option<String>; 2] {
    [&packet["key"], &packet["params"]["key"]].map(|key| match key {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    })
}

/// A closed stdout does not change the exit status.
fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchanges(lines: &[(u64, &str, &str)]) -> Vec<Exchange> {
        let line = |(connection, direction, packet): &(u64, &str, &str)| {
            format!(
                r#"{{"ms":1,"connection":{connection},"direction":"{direction}","bytes":9,"packet":{packet}}}"#
            )
        };
        let text: Vec<String> = lines.iter().map(line).collect();
        read(text.join("\n").as_bytes()).unwrap_or_else(|why| panic!("{why}"))
    }

    #[test]
    fn replies_belong_to_the_request_of_their_connection_and_key() {
        let read = exchanges(&[
            (1, "to", r#"{"uri":"/a","method":"GET","key":1}"#),
            (2, "to", r#"{"uri":"/b","method":"GET","key":1}"#),
            (1, "to", r#"{"uri":"/c","method":"GET","key":2,"params":{"key":3}}"#),
            (2, "from", r#"{"key":1,"results":"b"}"#),
            (1, "from", r#"{"key":"3","results":"c"}"#),
            (1, "from", r#"{"key":1,"more":true,"results":"a"}"#),
            (1, "from", r#"{"uri":"/distributes","method":"GET","key":1,"params":[]}"#),
            (1, "from", r#"{"results":"a too"}"#),
        ]);
        let results: Vec<Vec<&Value>> =
            read.iter().map(|one| one.replies.iter().map(|reply| &reply["results"]).collect()).collect();
        assert_eq!(results, [vec!["a", "a too"], vec!["b"], vec!["c"]]);
    }

    #[test]
    fn key_0_serves_one_request_after_the_other() {
        let request = (1, "to", r#"{"uri":"/a","method":"GET","key":0}"#);
        let read = exchanges(&[
            request,
            (1, "from", r#"{"key":0,"n":1}"#),
            request,
            (1, "from", r#"{"key":0,"n":2}"#),
        ]);
        assert_eq!((&read[0].replies[0]["n"], &read[1].replies[0]["n"]), (&Value::from(1), &Value::from(2)));
    }

    #[test]
    fn a_file_that_is_no_recording_is_an_error_with_its_line() {
        let error = read("{\"ms\":1,\"connection\":1,\"note\":\"closed\"}\nhello".as_bytes());
        assert!(error.err().is_some_and(|why| why.starts_with("line 2: ")));
    }
}
