//! The time from a commit to its subscribers: real processes, 500 changes a second, 50 subscribers.
//!
//! Two users processes share one database. The gateway gives half of the subscribers to each, while all writes go to
//! one of them. So half of the events cross from process to process. Every event at every subscriber gives two times.
//! One starts when the write was sent, and includes the commit. The other starts when the writer received its answer.
//!
//! `cargo bench --bench feed_latency`

#![allow(missing_docs, dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, clippy::pedantic)]

#[path = "../tests/stories/harness/mod.rs"]
mod harness;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Process, Program, Scratch, await_instances};
use serde_json::{Value, json};

const SUBSCRIBERS: usize = 50;
const CHANGES_PER_SECOND: u32 = 500;

fn main() {
    // `cargo test --benches` runs this too, only to check that it works.
    let quick = std::env::args().any(|argument| argument == "--test");
    let (subscribers, changes) =
        if quick { (4, 50) } else { (SUBSCRIBERS, 10 * CHANGES_PER_SECOND as usize) };
    let scratch = Scratch::new();
    let start = |program: Program| program.variables(&[("RUST_LOG", "warn")]).start();
    let distributor = start(Program::distributor());
    let users: Vec<Process> =
        (0..2).map(|_| start(Program::users(distributor.address(), &scratch))).collect();
    let gateway = start(Program::gateway(distributor.address()));
    await_instances(&gateway, "GET", "/users/changes", 2);

    let events: Vec<Receiver<(u64, Instant)>> =
        (0..subscribers).map(|_| subscribe(gateway.address())).collect();
    let (cpu_before, idle) = (cpu_ms(&users), Duration::from_secs(if quick { 0 } else { 5 }));
    thread::sleep(idle); // an idle feed is measured by waiting
    let idle_cpu = cpu_ms(&users) - cpu_before;

    let writes = write_changes(&users[0], changes);
    let (mut since_sent, mut since_answered) = (Vec::new(), Vec::new());
    for subscriber in &events {
        for (sent, answered, seq) in &writes {
            let (got, at) =
                subscriber.recv_timeout(Duration::from_secs(30)).expect("every change reaches everybody");
            assert_eq!(got, *seq, "in order, nothing missing, nothing twice");
            since_sent.push(at.saturating_duration_since(*sent));
            since_answered.push(at.saturating_duration_since(*answered));
        }
    }
    println!(
        "{changes} changes at {CHANGES_PER_SECOND}/s, {subscribers} subscribers through the gateway, 2 users processes"
    );
    print_percentiles("from the write being sent", &mut since_sent);
    print_percentiles("from the writer's answer", &mut since_answered);
    println!(
        "idle feed, {subscribers} subscribers, {idle:?}: {idle_cpu} ms of processor time in both users processes"
    );
}

/// Subscribes by Server-Sent Events. Reports the number of each event and the time of its arrival.
fn subscribe(gateway: SocketAddr) -> Receiver<(u64, Instant)> {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
        .write_all(b"GET /users/changes HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n")
        .unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with(": following")), "the stream stands");
    let (event, events) = channel();
    thread::spawn(move || {
        let numbers = lines.filter_map(|line| line.strip_prefix("id: ").and_then(|id| id.parse().ok()));
        numbers.map(|id| (id, Instant::now())).try_for_each(|seen| event.send(seen))
    });
    events
}

/// Writes at an even pace over one packet connection, without waiting for answers. Returns for each write when it was
/// sent, when it was answered, and its number.
fn write_changes(users: &Process, count: usize) -> Vec<(Instant, Instant, u64)> {
    let mut packets = users.packets();
    let created = packets.call("POST", "/users", &json!({ "email": "kim@example.com", "name": "Kim" }), 1);
    let first = (Instant::now(), Instant::now(), created["seq"].as_u64().unwrap());
    let mut writer = packets.stream().try_clone().unwrap();
    let (sent, times) = channel();
    let pace = Duration::from_secs(1) / CHANGES_PER_SECOND;
    let sending = thread::spawn(move || {
        let began = Instant::now();
        for number in 1..count {
            let due = began + pace * number as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let params = json!({ "id": 1, "name": format!("Kim {number}") });
            let packet = json!({ "uri": "/users", "method": "PATCH", "key": number + 1, "params": params });
            sent.send(Instant::now()).unwrap();
            writer.write_all(format!("{packet}¶").as_bytes()).unwrap();
        }
    });
    let mut writes = vec![first];
    for _ in 1..count {
        let reply: Value = packets.receive().unwrap();
        assert_eq!(reply["errorcode"], 0, "{reply}");
        writes.push((times.recv().unwrap(), Instant::now(), reply["seq"].as_u64().unwrap()));
    }
    sending.join().unwrap();
    writes
}

fn print_percentiles(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "{what:28} p50 {:6.2} ms  p90 {:6.2} ms  p99 {:6.2} ms  max {:6.2} ms  ({} events)",
        at(0.50),
        at(0.90),
        at(0.99),
        at(1.0),
        times.len()
    );
}

/// Processor time used so far, in milliseconds (only on Linux; elsewhere 0).
fn cpu_ms(processes: &[Process]) -> u64 {
    let ticks = |process: &Process| -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    processes.iter().filter_map(ticks).sum::<u64>() * 10
}
