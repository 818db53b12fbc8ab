//! Which request gets which answer.
//!
//! Another page in the same browser must not use this one. So each request must name this host, which also stops a
//! name that an attacker points at this machine. A request that changes something must come from this page, and be JSON,
//! which no other page may send unasked.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pilcrow::http::event_stream::{append_comment, append_event};
use pilcrow::http::{
    EventSource, HttpAnswer, HttpHandler, HttpOutcome, HttpRequest, RequestError, Target, Watcher,
};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::board::Board;
use crate::gateway::Request;
use crate::kept::Filter;
use crate::{page, switches};

/// How long a gateway may take to answer a request of the page.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a stream waits for an event. A comment follows, so that a browser that has gone is noticed.
const COMMENT_EVERY: Duration = Duration::from_secs(5);

/// The workspace, whose source files the page shows.
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The page and its data.
pub struct Site {
    board: Arc<Board>,
    /// The values of `Host` that name this page.
    hosts: Vec<String>,
}

/// A request that the page sends to a gateway.
#[derive(Deserialize)]
struct Sent {
    method: String,
    path: String,
    body: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Switch {
    command: String,
}

impl Site {
    pub fn new(board: Arc<Board>, address: SocketAddr) -> Self {
        let port = address.port();
        let names =
            [address.ip().to_string(), "127.0.0.1".to_owned(), "localhost".to_owned(), "[::1]".to_owned()];
        let mut hosts: Vec<String> = names.iter().map(|name| format!("{name}:{port}")).collect();
        hosts.push(address.to_string());
        Self { board, hosts }
    }

    fn route(&self, request: &HttpRequest) -> Result<HttpOutcome<Live>, RequestError> {
        self.check_host(request)?;
        let target = Target::parse(&request.target)?;
        let path = &*target.path;
        if !request.is_read() {
            self.check_change(request)?;
            return self.change(path, request).map(HttpOutcome::Answer);
        }
        if path == "/live" {
            return self.follow();
        }
        let json = match path {
            "/system.json" => {
                self.board.ask();
                Some(self.board.system())
            }
            "/journeys.json" => {
                self.board.ask();
                Some(self.board.journeys(&Filter::parse(target.query)))
            }
            "/changes.json" => Some(self.board.changes()),
            _ => self.journey(path),
        };
        let answer = match json {
            Some(json) => HttpAnswer::from_json(200, json.into_bytes()),
            None => page::file(path)
                .or_else(|| self.source(path))
                .ok_or_else(|| RequestError::new(404, format!("the page has no {path}")))?,
        };
        Ok(HttpOutcome::Answer(answer))
    }

    fn check_host(&self, request: &HttpRequest) -> Result<(), RequestError> {
        match request.header("Host") {
            Some(host) if self.hosts.iter().any(|known| known == host) => Ok(()),
            _ => Err(RequestError::new(421, format!("this page is at http://{}/", self.hosts[0]))),
        }
    }

    fn check_change(&self, request: &HttpRequest) -> Result<(), RequestError> {
        let is_ours = |origin: &str| {
            origin.strip_prefix("http://").is_some_and(|host| self.hosts.iter().any(|known| known == host))
        };
        if request.header("Origin").is_some_and(|origin| !is_ours(origin)) {
            return Err(RequestError::new(403, "only this page may change something here"));
        }
        if request.header("Content-Type") != Some("application/json") {
            return Err(RequestError::new(415, "send Content-Type: application/json"));
        }
        if self.board.is_secured {
            return Err(RequestError::new(403, "the cluster has a secret, so this page only reads"));
        }
        Ok(())
    }

    fn change(&self, path: &str, request: &HttpRequest) -> Result<HttpAnswer, RequestError> {
        match (request.method.as_str(), path) {
            ("POST", "/send") => self.send(&parse(&request.body)?),
            ("POST", "/switch") if !self.board.has_switches => {
                Err(RequestError::new(403, "only a page that cargo up has started has switches"))
            }
            ("POST", "/switch") => {
                let Switch { command } = parse(&request.body)?;
                switches::send(&command).map_err(RequestError::bad_request)?;
                Ok(HttpAnswer::json(202, &json!({})))
            }
            (method, _) => Err(RequestError::new(404, format!("the page has no {method} {path}"))),
        }
    }

    /// Sends a request to the first gateway that accepts it.
    fn send(&self, sent: &Sent) -> Result<HttpAnswer, RequestError> {
        let is_method = ["GET", "POST", "PATCH", "PUT", "DELETE"].contains(&&*sent.method);
        let is_path = sent.path.starts_with('/') && sent.path.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_method || !is_path {
            return Err(RequestError::bad_request("send a method and a path, such as GET and /users/1"));
        }
        let body = sent.body.as_ref().map_or("", |body| body.get());
        let headers = "Content-Type: application/json\r\n".to_owned();
        let request = Request { method: &sent.method, path: &sent.path, headers, body };
        let mut why = "no gateway has registered; start one, or wait until it has registered".to_owned();
        for gateway in self.board.gateways() {
            let answered = request.send(&gateway, PATIENCE).and_then(|answer| {
                let (status, id) = (answer.status, answer.request_id.clone());
                Ok(json!({ "status": status, "id": id, "body": answer.text()? }))
            });
            match answered {
                Ok(answer) => return Ok(HttpAnswer::json(200, &answer)),
                Err(error) => why = format!("the gateway at {gateway} does not answer: {error}"),
            }
        }
        Err(RequestError::new(503, why))
    }

    fn follow(&self) -> Result<HttpOutcome<Live>, RequestError> {
        let busy = || RequestError::new(503, "too many browsers watch; close one");
        let watcher = self.board.watch().ok_or_else(busy)?;
        Ok(HttpOutcome::Events(Box::new(Live { board: self.board.clone(), watcher, has_begun: false })))
    }

    /// A journey with its steps, at `/journeys/17.json`.
    fn journey(&self, path: &str) -> Option<String> {
        let number = path.strip_prefix("/journeys/")?.strip_suffix(".json")?;
        self.board.journey(number.parse().ok()?)
    }

    /// A source file of Pilcrow. Its path has only letters, `_` and `/`, so it cannot leave the folder.
    fn source(&self, path: &str) -> Option<HttpAnswer> {
        let path = path.strip_prefix("/source/").filter(|_| !self.board.is_secured)?;
        let name = path.strip_prefix("src/")?.strip_suffix(".rs")?;
        if !name.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'/')) {
            return None;
        }
        let text = std::fs::read_to_string(Path::new(WORKSPACE).join(path)).ok()?;
        Some(page::with_policy(HttpAnswer::text("text/plain; charset=utf-8", text)))
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, RequestError> {
    serde_json::from_slice(body)
        .map_err(|error| RequestError::bad_request(format!("the body cannot be read: {error}")))
}

impl HttpHandler for Site {
    type Events = Live;

    const HEADERS: &'static [&'static str] = &["Host", "Origin", "Content-Type"];

    fn answer(&self, request: &HttpRequest) -> HttpOutcome<Live> {
        self.route(request).unwrap_or_else(|error| HttpOutcome::Answer(error.into()))
    }
}

/// The stream of one browser.
pub struct Live {
    board: Arc<Board>,
    watcher: Watcher,
    has_begun: bool,
}

impl EventSource for Live {
    fn headers(&self) -> Vec<(&'static str, &str)> {
        vec![("X-Content-Type-Options", "nosniff")]
    }

    fn append_events(&mut self, out: &mut Vec<u8>) -> ControlFlow<()> {
        if !std::mem::replace(&mut self.has_begun, true) {
            append_event(out, None, Some("system"), &self.board.system());
        } else if !self.watcher.append_events(out, Instant::now() + COMMENT_EVERY) {
            append_comment(out, "nothing new");
        }
        if self.board.pause(Duration::ZERO) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn finish(&mut self, _sent_bytes: usize) {}
}
