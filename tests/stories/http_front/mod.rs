//! The gateway's HTTP side through real processes.
//!
//! | file | tests |
//! | --- | --- |
//! | [`traps`] | the eight traps of tiny_http's server, which the default front avoids |
//! | [`rules`] | HTTP itself: the end of a request, invalid requests, keep-alive, pipelining |
//! | [`translation`] | the `params` that a service gets |
//! | [`status`] | the status that a client gets, and the common parts of all answers |
//! | [`own`] | the gateway's own routes and its limit of connections |
//! | [`fronts`] | both fronts side by side |

mod fronts;
mod own;
mod rules;
mod status;
mod translation;
mod traps;

use serde_json::Value;

use crate::harness::{Connection, Echo, Http, PATIENCE, Process, ReceivedRequest, Response, await_instances};

/// The routes of the played service behind the gateway.
const ROUTES: [&str; 9] = [
    "GET/echo",
    "POST/echo",
    "PUT/echo",
    "PATCH/echo",
    "DELETE/echo",
    "POST/say",
    "POST/length",
    "GET/silence",
    "POST/hang-up",
];

/// A gateway, and behind it a played service:
///
/// - `/echo` answers with the request's method and arguments,
/// - `/say` answers with the fields in its argument `reply`,
/// - `/length` answers with the length of its argument `text`,
/// - `/silence` does not answer,
/// - `/hang-up` closes the link instead.
pub struct Stage {
    pub gateway: Process,
    pub echo: Echo,
    distributor: Process,
}

impl Stage {
    pub fn start() -> Self {
        Self::with(&[])
    }

    pub fn with(flags: &[&str]) -> Self {
        let distributor = Process::distributor(&[]);
        let gateway = Process::gateway(&distributor, flags);
        Self::around(gateway, distributor)
    }

    fn around(gateway: Process, distributor: Process) -> Self {
        let echo = Echo::answering(&distributor, "stage", &ROUTES, play);
        await_instances(&gateway, "GET", "/echo", 1);
        Self { gateway, echo, distributor }
    }

    pub fn http(&self) -> Http {
        self.gateway.http()
    }

    /// The `params` at the service for a request with this target and body.
    fn params(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Value {
        let answer = self.http().request(method, target, headers, body);
        assert_eq!(answer.status, 200, "{method} {target}: {}", answer.text());
        answer.results()["params"].clone()
    }

    /// Panics unless the gateway still runs and answers through its service.
    pub fn assert_unharmed(&mut self) {
        assert!(self.gateway.is_alive());
        assert_eq!(self.http().get("/echo/unharmed").results()["params"]["params"], "unharmed");
    }
}

fn play(request: &ReceivedRequest) {
    match request.packet["uri"].as_str().unwrap() {
        "/echo" => request.echo(),
        "/say" => request.reply(&request.params()["reply"]),
        "/length" => {
            let length = request.params()["text"].as_str().unwrap().len();
            request.reply(&serde_json::json!({ "errorcode": 0, "results": length }));
        }
        "/hang-up" => request.hang_up(),
        _ => {}
    }
}

/// Panics unless this is a failure of the gateway itself, in its documented form.
pub fn assert_failure(answer: &Response, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    assert_eq!(answer.header("Content-Type"), Some("application/json"), "{what}");
    let body = answer.reply();
    assert_eq!(body["errorcode"], status, "{what}");
    assert!(!answer.message().is_empty(), "{what}: a failure says what to do");
    assert_eq!(body.as_object().unwrap().len(), 2, "{what}: {body}");
    assert_complete(answer, what);
}

/// Panics unless this answer has the common parts of all answers.
pub fn assert_complete(answer: &Response, what: &str) {
    assert!(answer.header("X-Request-Id").is_some_and(|id| !id.is_empty()), "{what}: no X-Request-Id");
    assert_eq!(answer.header("Content-Length"), Some(answer.body.len().to_string().as_str()), "{what}");
    assert_eq!(answer.header("Transfer-Encoding"), None, "{what}");
    assert!(answer.body.ends_with(b"\n") && !answer.body.ends_with(b"\n\n"), "{what}: {}", answer.text());
}

/// Panics unless the connection ends without any more bytes.
pub fn assert_ends(connection: &mut Connection, what: &str) {
    if let Some(more) = connection.receive() {
        panic!("{what}: {} was answered after the end: {}", more.status, more.text());
    }
    assert!(connection.is_closed_within(PATIENCE), "{what}: the connection was not closed");
}

/// Sends these bytes on a new connection. Panics unless the answer is this failure and the connection then ends.
pub fn assert_refused(http: Http, bytes: &[u8], status: u16, what: &str) {
    let mut connection = http.connect();
    connection.send(bytes);
    let answer = connection.receive().unwrap_or_else(|| panic!("{what}: no answer"));
    assert_failure(&answer, status, what);
    assert_eq!(answer.header("Connection"), Some("close"), "{what}");
    assert_ends(&mut connection, what);
}
