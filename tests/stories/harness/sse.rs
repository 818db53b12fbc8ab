//! A client of Server-Sent Events.

use std::time::Instant;

use serde_json::Value;

use super::{Connection, Http, PATIENCE, Response};

/// A stream of events that has begun. Dropping it closes its connection.
pub struct Events {
    /// The head of the answer.
    pub head: Response,
    connection: Connection,
}

/// One item of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Comment(String),
    Event(Event),
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The event's name; `None` without one.
    pub name: Option<String>,
    pub id: Option<u64>,
    pub data: String,
}

impl Http {
    /// Requests events. Returns the whole answer if it is not a stream.
    pub fn events(&self, path: &str, headers: &[(&str, &str)]) -> Result<Events, Response> {
        Events::on(self.connect(), path, headers).expect("an answer before the connection ends")
    }
}

impl Events {
    /// Requests events on this connection; `None` if it ends without an answer.
    pub fn on(
        mut connection: Connection,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<Result<Self, Response>> {
        let headers = [&[("Accept", "text/event-stream")], headers].concat();
        connection.send_request("GET", path, &headers, b"");
        let head = connection.receive()?;
        let streams = head.status == 200 && head.header("Content-Type") == Some("text/event-stream");
        Some(if streams { Ok(Self { head, connection }) } else { Err(head) })
    }

    /// The next comment or event; `None` at the end of the connection. An incomplete event does not count.
    pub fn piece(&mut self) -> Option<Piece> {
        let (mut event, mut comment, mut data) = (Event::default(), None, Vec::new());
        loop {
            let line = self.connection.receive_line()?;
            match line.split_once(": ").unwrap_or((&line, "")) {
                ("", "") if data.is_empty() && comment.is_none() => {}
                ("", "") if data.is_empty() => return comment.map(Piece::Comment),
                ("", "") => {
                    event.data = data.join("\n");
                    return Some(Piece::Event(event));
                }
                ("", words) => comment = Some(words.to_owned()),
                ("event", name) => event.name = Some(name.to_owned()),
                ("id", id) => event.id = Some(id.parse().expect("an id is a number")),
                ("data", line) => data.push(line.to_owned()),
                _ => panic!("no line of an event: {line:?}"),
            }
        }
    }

    /// The next event, skipping comments; `None` at the end of the connection.
    ///
    /// # Panics
    /// If neither comes within about [`PATIENCE`]. A comment may extend the wait.
    pub fn event(&mut self) -> Option<Event> {
        let began = Instant::now();
        loop {
            match self.piece() {
                Some(Piece::Event(event)) => return Some(event),
                Some(Piece::Comment(_)) | None if began.elapsed() >= PATIENCE => {
                    panic!("no event within {PATIENCE:?}")
                }
                Some(Piece::Comment(_)) => {}
                None => return None,
            }
        }
    }

    /// The id and the data of the next event with this name. Other events are skipped.
    pub fn named(&mut self, name: &str) -> (Option<u64>, Value) {
        loop {
            let event = self.event().expect("an event before the connection ends");
            if event.name.as_deref() == Some(name) {
                return (event.id, serde_json::from_str(&event.data).unwrap());
            }
        }
    }

    /// The data of the next event. The event has no name other than the default `message`, and its id is its `seq`.
    pub fn change(&mut self) -> Value {
        let event = self.event().expect("an event before the connection ends");
        let change: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!((event.name, event.id), (None, change["seq"].as_u64()), "{change}");
        change
    }

    /// The next changes, this many.
    pub fn changes(&mut self, count: usize) -> Vec<Value> {
        (0..count).map(|_| self.change()).collect()
    }

    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
