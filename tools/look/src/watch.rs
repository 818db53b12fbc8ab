//! The threads that learn what happens: one follows the list, one reads the change feed, and one for each gateway reads
//! its journeys. The gateways and the feed are asked only while someone watches.

use std::collections::HashMap;
use std::env;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pilcrow::context::Context;
use pilcrow::mesh::Mesh;
use pilcrow::net::membership::Membership;
use pilcrow::subscription::Subscription;
use pilcrow::thread::spawn;
use serde::Deserialize;
use serde_json::Map;
use serde_json::value::RawValue;

use crate::board::Board;
use crate::gateway::{Event, Request};
use crate::kept::Summary;

/// The pause between two events `system`. It is longer if nothing happens, but not by more than [`SYSTEM_IDLE`].
const SYSTEM_PAUSE: Duration = Duration::from_millis(100);
const SYSTEM_IDLE: Duration = Duration::from_millis(400);

/// The pause before a gateway or the feed is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long one wait of a reader takes, so that it notices that it is to stop.
const PATIENCE: Duration = Duration::from_millis(500);

/// The route of the change feed.
const FEED: &str = "/users/changes";

/// Starts the threads. They end when the board is closed.
pub fn start(
    board: &Arc<Board>,
    mesh: Arc<Mesh>,
    membership: Membership,
    distributors: &[String],
) -> io::Result<()> {
    let (following, feed, distributors) = (board.clone(), mesh.clone(), distributors.to_vec());
    spawn("follow list", move || follow_list(&following, &mesh, &membership, &distributors))?;
    let board = board.clone();
    spawn("read feed", move || {
        while board.pause(PATIENCE) {
            if board.is_watched() {
                read_feed(&board, &feed);
                board.set_follows_changes(false);
                board.pause(RETRY_AFTER);
            }
        }
    })?;
    Ok(())
}

/// Follows the list, owns the readers of the gateways, and sends the system to the browsers.
fn follow_list(board: &Arc<Board>, mesh: &Mesh, membership: &Membership, distributors: &[String]) {
    let mut readers = Readers::default();
    while board.pause(SYSTEM_PAUSE) {
        board.await_news(SYSTEM_IDLE);
        let (nodes, connected) = (mesh.nodes(), membership.connected());
        board.follow(nodes, distributors, &connected);
        readers.keep(board, if board.is_watched() { board.gateways() } else { Vec::new() });
        if board.browsers() > 0 {
            board.send_system();
        }
    }
}

/// The running readers by the address of their gateway, each with the flag that stops it.
#[derive(Default)]
struct Readers(HashMap<String, Arc<AtomicBool>>);

impl Readers {
    /// Starts and stops readers, so that exactly these gateways are read.
    fn keep(&mut self, board: &Arc<Board>, wanted: Vec<String>) {
        self.0.retain(|address, stopped| {
            let stays = wanted.contains(address);
            stopped.store(!stays, Ordering::Relaxed);
            stays
        });
        for address in wanted {
            if self.0.contains_key(&address) {
                continue;
            }
            let stopped = Arc::new(AtomicBool::new(false));
            let reader = Reader { board: board.clone(), address: address.clone(), stopped: stopped.clone() };
            match spawn(&format!("read {address}"), move || reader.run()) {
                Ok(_) => drop(self.0.insert(address, stopped)),
                Err(error) => log::warn!("the gateway {address} is not read: no further thread ({error})"),
            }
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.values().for_each(|stopped| stopped.store(true, Ordering::Relaxed));
    }
}

/// Reads the journeys of one gateway.
struct Reader {
    board: Arc<Board>,
    address: String,
    stopped: Arc<AtomicBool>,
}

/// The steps of a journey.
#[derive(Deserialize)]
struct Steps<'a> {
    #[serde(borrow)]
    explain: &'a RawValue,
}

impl Reader {
    fn run(&self) {
        while self.runs() {
            let why = match self.read() {
                Ok(()) => "nobody watches".to_owned(),
                Err(error) => error.to_string(),
            };
            if self.runs() {
                log::debug!("gateway {}: {why}", self.address);
            }
            self.board.update_system(|system| system.lose(&self.address, &why));
            if !self.runs() || !self.board.pause(RETRY_AFTER) {
                return;
            }
        }
    }

    fn runs(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// Reads until this reader is stopped. The error says why the gateway cannot be read.
    fn read(&self) -> io::Result<()> {
        // With a secret, only an admin gets journeys.
        let token = env::var("LOOK_TOKEN").unwrap_or_default();
        let headers = match token.trim() {
            "" => String::new(),
            token if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                format!("Authorization: Bearer {token}\r\n")
            }
            _ => return Err(io::Error::other("LOOK_TOKEN is not a token")),
        };
        let request = Request { method: "GET", path: "/journeys", headers, body: "" };
        let answer = request.send(&self.address, PATIENCE)?;
        if answer.status != 200 {
            return Err(io::Error::other(format!("GET /journeys answers {}", answer.status)));
        }
        let mut events = answer.events();
        while self.runs() {
            if let Some(event) = events.next(Instant::now() + PATIENCE)? {
                self.take(&event)
                    .map_err(|error| io::Error::other(format!("an event cannot be read: {error}")))?;
            }
        }
        Ok(())
    }

    fn take(&self, event: &Event) -> serde_json::Result<()> {
        match &*event.name {
            "status" => {
                let status = serde_json::from_str(&event.data)?;
                self.board.update_system(|system| system.update(&self.address, status, Instant::now()));
            }
            "journey" => {
                let mut summary: Summary = serde_json::from_str(&event.data)?;
                summary.gateway.clone_from(&self.address);
                let Steps { explain } = serde_json::from_str(&event.data)?;
                self.board.add_journey(summary, explain.to_owned());
            }
            "gap" => self.board.add_gap(&event.data),
            _ => {}
        }
        Ok(())
    }
}

/// Reads the change feed while someone watches.
fn read_feed(board: &Board, mesh: &Arc<Mesh>) {
    let mut feed = Subscription::new(mesh, &Context::default(), FEED, Map::new());
    while board.is_watched() && board.pause(Duration::ZERO) {
        match feed.next(Instant::now() + PATIENCE) {
            Ok(reply) => {
                board.set_follows_changes(true);
                let change = reply.as_ref().and_then(|reply| reply.results());
                if let Some(change) =
                    change.and_then(|change| serde_json::from_str::<Box<RawValue>>(change).ok())
                {
                    board.add_change(change);
                }
            }
            Err(failure) => return log::debug!("{FEED}: {failure}"),
        }
    }
}
