//! `cargo tap`: a proxy that shows, records, replays and disturbs the packets between two nodes.
//!
//! | file | tests |
//! | --- | --- |
//! | [`shown`] | the output on a terminal, in a pipe and in a recording; no secret in it |
//! | [`passed`] | bytes that pass unchanged, backpressure, course nodes |
//! | [`disturbed`] | the faults, and how the gateway recovers from them |
//! | [`replayed`] | a recording that is sent again |

mod disturbed;
mod passed;
mod replayed;
mod shown;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::Value;

use crate::harness::{Http, Process, Program, Scratch, await_instances, eventually, free_port, tool};

/// The path of the tap.
fn program() -> String {
    tool("pilcrow-tap").display().to_string()
}

/// A tap whose stdout is a file.
struct Tap {
    process: Process,
    lines: PathBuf,
    _scratch: Scratch,
}

impl Tap {
    /// A tap for the node at `node`, which need not run yet.
    fn start(node: SocketAddr, flags: &[&str]) -> Self {
        let scratch = Scratch::new();
        let lines = scratch.file("lines");
        Self::start_writing(lines, scratch, node, flags)
    }

    /// Like `start`, with this file as its stdout.
    fn start_writing(lines: PathBuf, scratch: Scratch, node: SocketAddr, flags: &[&str]) -> Self {
        // The ready line is on stderr, and the harness waits for it on stdout.
        let script = "exec \"$@\" 2>&1 >\"$LINES_FILE\"";
        let tap = Program::at(&program()).flags([node.to_string()]).flags(flags);
        let tap = tap.started_by(&["/bin/sh", "-c", script, "sh"]);
        let process = tap.variables(&[("LINES_FILE", lines.to_str().unwrap())]).start();
        Self { process, lines, _scratch: scratch }
    }

    fn address(&self) -> SocketAddr {
        self.process.address()
    }

    /// The lines on stdout so far.
    fn lines(&self) -> Vec<Value> {
        lines_of(&self.lines)
    }

    /// The lines about packets in this direction.
    fn packets(&self, direction: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["direction"] == direction).collect()
    }

    /// Waits for this many packets in this direction, and returns them.
    fn await_packets(&self, direction: &str, count: usize) -> Vec<Value> {
        eventually(&format!("the tap shows {count} packets {direction} the node"), || {
            Some(self.packets(direction)).filter(|packets| packets.len() >= count)
        })
    }
}

/// A node that sends back what it reads, and ends when its peer does.
fn mirror() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

/// The whole lines of a file.
fn lines_of(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// A gateway that reaches a users instance through a tap, because the instance registers the address of the tap.
struct Tapped {
    gateway: Process,
    users: Process,
    tap: Tap,
    _distributor: Process,
    _scratch: Scratch,
}

impl Tapped {
    fn start(tap_flags: &[&str]) -> Self {
        let (distributor, scratch) = (Process::distributor(&[]), Scratch::new());
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let tap = Tap::start(address, tap_flags);
        let (listen, advertise) = (address.to_string(), tap.address().to_string());
        let flags = ["--listen", &listen, "--advertise", &advertise];
        let users = Process::users(&distributor, &scratch, &flags);
        let gateway = Process::gateway(&distributor, &["--timeout", "2"]);
        await_instances(&gateway, "GET", "/users", 1);
        Self { gateway, users, tap, _distributor: distributor, _scratch: scratch }
    }

    fn http(&self) -> Http {
        self.gateway.http()
    }

    /// Creates a user without the tap.
    fn create_user(&self, name: &str) {
        let params = serde_json::json!({ "email": format!("{name}@example.com"), "name": name });
        let reply = self.users.packets().call("POST", "/users", &params, 1);
        assert_eq!(reply["errorcode"], 0, "{reply}");
    }

    /// The number of times that the link through the tap has come up.
    fn links(&self) -> usize {
        let up = format!("link {}: up", self.tap.address());
        self.gateway.log().iter().filter(|line| line.contains(&up)).count()
    }
}
