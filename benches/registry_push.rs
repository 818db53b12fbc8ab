//! The cost of pushing the list: `N` nodes connect to one distributor within a second. Each receives lists until it has
//! the complete one.
//!
//! The bench counts the bytes that all nodes together receive, including the list that each gets when it connects. The
//! column `one by one` is the cost of a separate push for every change. The `k`-th node gets a list when it connects,
//! and its registration sends a list of `k` entries to `k` nodes. The sum grows with the cube of the nodes. Changes
//! that are pushed together cost bytes in proportion to the nodes. The column `lists' worth` is the number of complete
//! lists whose bytes each node received. It stays small.
//!
//! `cargo bench --bench registry_push`

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pilcrow::distributor::Distributor;
use pilcrow::net::listener::Listener;
use pilcrow::node::Node;
use pilcrow::packet::{DEFAULT_MAX_FRAME_BYTES, encode};
use serde_json::json;

/// All nodes connect within this time.
const ARRIVAL: Duration = Duration::from_secs(1);

/// How long a node may wait for its complete list before the bench fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The stack size of a thread that simulates a node, in bytes.
const NODE_STACK_BYTES: usize = 128 * 1024;

/// The bytes and lists that one node has received.
#[derive(Default, Clone, Copy)]
struct Received {
    bytes: u64,
    lists: u64,
    /// The size of its last list, the complete one, in bytes.
    complete_list: u64,
}

/// The sum over all nodes, and the time from the first connection to the last complete list.
struct Measured {
    nodes: u64,
    all: Received,
    took: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // `cargo test --benches` runs this too, only to check that it works.
    let counts: &[u16] = if has("--bench") && !has("--test") { &[10, 100, 1000] } else { &[10] };
    raise_descriptor_limit()?;
    println!("All nodes register within {ARRIVAL:?}. Sizes are in bytes, counted where they arrive.\n");
    println!(
        "{:>6} {:>6} {:>11} {:>13} {:>12} {:>12} {:>13} {:>9} {:>7}",
        "nodes",
        "entry",
        "lists/node",
        "lists' worth",
        "all bytes",
        "per change",
        "one by one",
        "that is",
        "took"
    );
    for count in counts {
        println!("{}", row(&measure(*count)?));
    }
    Ok(())
}

fn row(measured: &Measured) -> String {
    let Measured { nodes, all, took } = measured;
    let entry = all.complete_list / nodes;
    // The k-th node receives k - 1 entries when it connects, and then k entries go to k nodes.
    let one_by_one = (nodes * (nodes - 1) / 2 + nodes * (nodes + 1) * (2 * nodes + 1) / 6) * entry;
    let lists_per_node = ratio(all.lists, *nodes);
    let worth = ratio(all.bytes, nodes * all.complete_list);
    let (per_change, times) = (all.bytes / nodes, ratio(one_by_one, all.bytes));
    let took = ratio(u64::try_from(took.as_millis()).unwrap_or(u64::MAX), 1000);
    format!(
        "{nodes:>6} {entry:>6} {lists_per_node:>11} {worth:>13} {:>12} {per_change:>12} {one_by_one:>13} {times:>7} x {took:>5} s",
        all.bytes
    )
}

/// Divides one number by another, to one decimal place.
fn ratio(of: u64, to: u64) -> String {
    let tenths = (10 * of + to / 2) / to;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Connects this many nodes to a new distributor.
fn measure(count: u16) -> Result<Measured, Box<dyn Error>> {
    let distributor = Distributor::start(
        Listener::bind("127.0.0.1:0")?,
        usize::from(count),
        DEFAULT_MAX_FRAME_BYTES,
        None,
    )?;
    let (report, reports) = channel();
    // All stay until the last has the complete list: a node that leaves would cause another change.
    let (stay, leave) = channel::<()>();
    let leave = Arc::new(Mutex::new(leave));
    let began = Instant::now();
    let nodes = (0..count)
        .map(|number| {
            let comes = began + ARRIVAL * u32::from(number) / u32::from(count);
            let (address, report, leave) = (distributor.address(), report.clone(), leave.clone());
            let life = move || live(address, number, count, comes, &report, &leave);
            thread::Builder::new().stack_size(NODE_STACK_BYTES).spawn(life)
        })
        .collect::<io::Result<Vec<JoinHandle<()>>>>()?;
    drop(report);
    let received = (0..count)
        .map(|_| reports.recv_timeout(PATIENCE)?.map_err(Into::into))
        .collect::<Result<Vec<_>, Box<dyn Error>>>();
    let took = began.elapsed();
    drop(stay);
    for node in nodes {
        node.join().map_err(|_| "a node panicked")?;
    }
    distributor.stop(Duration::from_secs(10));
    let all = received?.into_iter().fold(Received::default(), |all, one| Received {
        bytes: all.bytes + one.bytes,
        lists: all.lists + one.lists,
        complete_list: one.complete_list,
    });
    Ok(Measured { nodes: u64::from(count), all, took })
}

/// One node: connects, registers, reads lists until one is complete, and stays until all may leave.
fn live(
    distributor: SocketAddr,
    number: u16,
    count: u16,
    comes: Instant,
    report: &Sender<io::Result<Received>>,
    leave: &Mutex<Receiver<()>>,
) {
    thread::sleep(comes.saturating_duration_since(Instant::now()));
    let joined = join(distributor, number).and_then(|mut stream| {
        let received = await_complete_list(&mut stream, u64::from(count))?;
        Ok((stream, received))
    });
    let (stream, received) = match joined {
        Ok((stream, received)) => (Some(stream), Ok(received)),
        Err(error) => (None, Err(error)),
    };
    let _ = report.send(received);
    // Nothing is ever sent on this channel. This waits until the sender is dropped.
    if let Ok(leave) = leave.lock() {
        let _ = leave.recv();
    }
    drop(stream);
}

/// Connects and registers like a node of ours.
fn join(distributor: SocketAddr, number: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&distributor, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let urls = ["GET/users", "POST/users", "PATCH/users", "DELETE/users", "POST/users/login"];
    let urls = urls.map(str::to_owned).to_vec();
    let node = Node::ours("users", 10_000 + number, urls, &format!("{number:016x}"));
    let packet = json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": node });
    stream.write_all(&encode(&packet)?)?;
    Ok(stream)
}

/// Counts bytes until a list has this number of entries. Each entry is one JSON object inside that of the packet. The
/// second byte of the delimiter occurs nowhere else, so nothing needs to be kept or parsed.
fn await_complete_list(stream: &mut TcpStream, entries: u64) -> io::Result<Received> {
    let mut received = Received::default();
    let (mut objects, mut began_at) = (0, 0);
    let mut piece = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for at in memchr::memchr2_iter(b'{', 0xB6, &piece[..count]) {
            if piece[at] == b'{' {
                objects += 1;
                continue;
            }
            received.lists += 1;
            if objects == entries + 1 {
                let ends_at = received.bytes + at as u64 + 1;
                received.bytes = ends_at;
                received.complete_list = ends_at - began_at;
                return Ok(received);
            }
            (objects, began_at) = (0, received.bytes + at as u64 + 1);
        }
        received.bytes += count as u64;
    }
}

/// Each node needs two descriptors here, one at each end.
#[cfg(unix)]
fn raise_descriptor_limit() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.min(8192);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn raise_descriptor_limit() -> io::Result<()> {
    Ok(())
}
