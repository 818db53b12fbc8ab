//! What is known about the system, for all threads. Every lock is held briefly, and never during I/O.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use pilcrow::clock::since_epoch;
use pilcrow::http::{Broadcast, Watcher};
use pilcrow::node::Node;
use pilcrow::packet::explain::{Direction, Step};
use pilcrow::sync::lock;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::kept::{Filter, Kept, Summary};
use crate::load::LoadView;
use crate::system::{System, SystemView};

/// How many browsers may watch.
const MAX_BROWSERS: usize = 200;

/// A request for JSON keeps the gateways asked for this long.
const ASKED_FOR: Duration = Duration::from_secs(10);

/// How long the first request for JSON waits for the gateways.
const FIRST_STATUS_WITHIN: Duration = Duration::from_secs(1);

/// What is known, and those who watch it.
pub struct Board {
    /// Whether the cluster has a secret. Then the page only reads.
    pub is_secured: bool,
    /// Whether `cargo up` carries out switches.
    pub has_switches: bool,
    live: Broadcast,
    known: Mutex<Known>,
    /// Wakes the thread that sends the system to the browsers.
    news: (Sender<()>, Receiver<()>),
    /// Dropping the sender ends all threads.
    open: Mutex<Option<Sender<Infallible>>>,
    closed: Receiver<Infallible>,
}

#[derive(Default)]
struct Known {
    system: System,
    kept: Kept,
    latest: Option<LatestPacket>,
    follows_changes: bool,
    processes: Vec<Value>,
    said: String,
    load: LoadView,
    asked: Option<Instant>,
}

/// The packet that the page shows in full.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct LatestPacket {
    number: u64,
    from: String,
    to: String,
    bytes: usize,
    packet: String,
}

/// The event `system`.
#[derive(Serialize)]
struct BoardView<'a> {
    at_ms: u64,
    mode: &'static str,
    switches: bool,
    said: &'a str,
    browsers: usize,
    #[serde(flatten)]
    system: SystemView<'a>,
    latest: &'a Option<LatestPacket>,
    changes: &'static str,
    processes: &'a [Value],
    load: &'a LoadView,
}

/// A journey as the page gets it when a person opens it.
#[derive(Serialize)]
struct JourneyView<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    explain: &'a RawValue,
}

impl Board {
    pub fn new(is_secured: bool, has_switches: bool) -> Self {
        let (open, closed) = bounded(0);
        Self {
            is_secured,
            has_switches,
            live: Broadcast::default(),
            known: Mutex::default(),
            news: bounded(1),
            open: Mutex::new(Some(open)),
            closed,
        }
    }

    /// Ends all threads and all streams.
    pub fn close(&self) {
        lock(&self.open).take();
    }

    /// Waits. False if this process is about to end.
    pub fn pause(&self, time: Duration) -> bool {
        self.closed.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }

    /// A new browser.
    pub fn watch(&self) -> Option<Watcher> {
        let watcher = self.live.watch(MAX_BROWSERS);
        self.wake();
        watcher
    }

    /// How many browsers watch.
    pub fn browsers(&self) -> usize {
        self.live.watchers()
    }

    /// Whether anyone watches, so that the gateways are asked.
    pub fn is_watched(&self) -> bool {
        self.browsers() > 0 || lock(&self.known).asked.is_some_and(|asked| asked.elapsed() < ASKED_FOR)
    }

    /// Notes that someone asks for JSON. The first one waits until the gateways have sent their status.
    pub fn ask(&self) {
        lock(&self.known).asked = Some(Instant::now());
        self.wake();
        let deadline = Instant::now() + FIRST_STATUS_WITHIN;
        let is_complete = || lock(&self.known).system.is_complete();
        while !is_complete() && Instant::now() < deadline && self.pause(Duration::from_millis(10)) {}
    }

    /// Waits until there is news, or for this long.
    pub fn await_news(&self, time: Duration) {
        let _ = self.news.1.recv_timeout(time);
    }

    fn wake(&self) {
        // One message is enough.
        let _ = self.news.0.try_send(());
    }

    /// Applies the newest lists of the distributors. `connected` are those with a connection.
    pub fn follow(&self, nodes: Vec<Node>, distributors: &[String], connected: &[String]) {
        lock(&self.known).system.follow(nodes, distributors, connected, Instant::now());
    }

    /// Changes the known processes.
    pub fn update_system<T>(&self, update: impl FnOnce(&mut System) -> T) -> T {
        let done = update(&mut lock(&self.known).system);
        self.wake();
        done
    }

    /// The addresses of the gateways on the list.
    pub fn gateways(&self) -> Vec<String> {
        lock(&self.known).system.listed_gateways()
    }

    /// Keeps and sends a journey that a gateway has reported. `explain` is the JSON of its steps.
    pub fn add_journey(&self, mut summary: Summary, explain: Box<RawValue>) {
        summary.at_ms = u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX);
        let packet = latest_packet(&summary, &explain);
        let summary = {
            let mut known = lock(&self.known);
            let summary = known.kept.push_journey(summary, explain);
            if let Some(packet) = packet {
                known.latest = Some(LatestPacket { number: summary.number, ..packet });
            }
            summary
        };
        self.send("journey", &summary);
    }

    /// A gateway or the change feed has lost events.
    pub fn add_gap(&self, json: &str) {
        self.live.send(None, "gap", json);
    }

    /// Keeps and sends a change of a user.
    pub fn add_change(&self, change: Box<RawValue>) {
        self.live.send(None, "change", change.get());
        lock(&self.known).kept.push_change(change);
    }

    /// Whether the change feed is being read.
    pub fn set_follows_changes(&self, follows: bool) {
        lock(&self.known).follows_changes = follows;
    }

    /// The processes of `cargo up`.
    pub fn set_processes(&self, processes: Vec<Value>) {
        lock(&self.known).processes = processes;
        self.wake();
    }

    /// What `cargo up` said about the last switch.
    pub fn set_said(&self, said: String) {
        lock(&self.known).said = said;
        self.wake();
    }

    /// The load and its results so far.
    pub fn update_load(&self, update: impl FnOnce(&mut LoadView)) {
        update(&mut lock(&self.known).load);
    }

    /// How many requests per second the load sends.
    pub fn load_per_second(&self) -> u32 {
        lock(&self.known).load.per_second
    }

    /// Sends the system to all browsers.
    pub fn send_system(&self) {
        let json = self.system();
        self.live.send(None, "system", &json);
    }

    fn send<T: Serialize>(&self, name: &str, event: &T) {
        if let Ok(json) = serde_json::to_string(event) {
            self.live.send(None, name, &json);
        }
    }

    /// The event `system`, as JSON.
    pub fn system(&self) -> String {
        let browsers = self.browsers();
        let known = lock(&self.known);
        let view = BoardView {
            at_ms: u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX),
            mode: if self.is_secured { "secured" } else { "development" },
            switches: self.has_switches,
            said: &known.said,
            browsers,
            system: known.system.view(Instant::now()),
            latest: &known.latest,
            changes: if known.follows_changes { "on" } else { "off" },
            processes: &known.processes,
            load: &known.load,
        };
        serde_json::to_string(&view).unwrap_or_default()
    }

    /// The wanted journeys, as JSON.
    pub fn journeys(&self, filter: &Filter) -> String {
        let known = lock(&self.known);
        serde_json::json!({ "journeys": known.kept.journeys(filter) }).to_string()
    }

    /// One journey with its steps, as JSON.
    pub fn journey(&self, number: u64) -> Option<String> {
        let known = lock(&self.known);
        let (summary, explain) = known.kept.journey(number)?;
        serde_json::to_string(&JourneyView { summary, explain }).ok()
    }

    /// The newest changes, as JSON.
    pub fn changes(&self) -> String {
        #[derive(Serialize)]
        struct Changes<'a> {
            changes: Vec<&'a RawValue>,
        }
        let known = lock(&self.known);
        serde_json::to_string(&Changes { changes: known.kept.changes() }).unwrap_or_default()
    }
}

/// The last packet that the gateway sent or received for this request.
fn latest_packet(summary: &Summary, explain: &RawValue) -> Option<LatestPacket> {
    let steps: Vec<Step> = serde_json::from_str(explain.get()).ok()?;
    let packet = steps.into_iter().rev().find_map(|step| step.packet)?;
    let gateway = summary.gateway.clone();
    let (from, to) = match packet.direction {
        Direction::To(peer) => (gateway, peer),
        Direction::From(peer) => (peer, gateway),
    };
    Some(LatestPacket { number: summary.number, from, to, bytes: packet.bytes, packet: packet.packet })
}
