//! The measurements: slow clients, and twice the load that the gateway can handle.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pilcrow::service::{Reply, Service};
use serde_json::json;

use crate::PLAYS;
use crate::client::{Measured, Pace, drive, percentile};
use crate::harness::{Http, Process, Program, Scratch, await_instances, connect_with_small_buffer};

/// This number of users, with long names: a list of 120 is an answer of about 70 KB.
const USERS: usize = 500;

/// The size of the measurement.
#[derive(Clone, Copy)]
struct Size {
    slow_clients: usize,
    /// The connections of the open loop; below `--max-connections`.
    connections: usize,
    time: Duration,
}

struct Stage {
    gateway: Process,
    _service: Process,
    users: Process,
    _distributor: Process,
    _scratch: Scratch,
}

pub fn all() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    // `cargo test --benches` runs this too, only to check that it works.
    let size = if has("--bench") && !has("--test") {
        Size { slow_clients: 3000, connections: 3500, time: Duration::from_secs(10) }
    } else {
        Size { slow_clients: 50, connections: 100, time: Duration::from_millis(300) }
    };
    raise_descriptor_limit();
    let both = has("slow") == has("overload");
    if both || has("slow") {
        let stage = Stage::start();
        slow(&stage, size, "heads sent a byte per second", slow_head);
        let stage = Stage::start();
        slow(
            &stage,
            size,
            "answers of 70 KB read a byte per second (each is cut off after 5 s without progress)",
            slow_answer,
        );
    }
    if both || has("overload") {
        overload(&Stage::start(), size, "/users/1", "a read of one user; the processors are the limit");
        overload(
            &Stage::start(),
            size,
            "/work",
            "a service that takes 5 ms in a pool of 16; its threads are the limit",
        );
    }
}

impl Stage {
    fn start() -> Self {
        let scratch = Scratch::in_memory();
        let start = |program: Program| program.variables(&[("RUST_LOG", "warn")]).start();
        let distributor = start(Program::distributor());
        let address = distributor.address();
        let users = start(Program::users(address, &scratch));
        let this = std::env::current_exe().unwrap();
        let service = Program::at(this.to_str().unwrap()).flags(["--listen", "127.0.0.1:0"]);
        let service = service.flags(["--distributor", &address.to_string()]).variables(&[(PLAYS, "yes")]);
        let service = start(service);
        let gateway = start(Program::gateway(address));
        await_instances(&gateway, "GET", "/users", 1);
        await_instances(&gateway, "GET", "/work", 1);
        let create = |number| {
            let user = json!({ "email": format!("user{number}@example.com"), "name": "🦀".repeat(100) });
            ("POST", "/users", user)
        };
        users.packets().call_all(&(0..USERS).map(create).collect::<Vec<_>>());
        Self { gateway, _service: service, users, _distributor: distributor, _scratch: scratch }
    }

    fn drive(&self, path: &str, connections: usize, pace: Pace, time: Duration) -> Measured {
        drive(self.gateway.address(), path, connections, pace, time)
    }

    fn memory(&self) -> String {
        let mib = |process: &Process, field| status_kib(process, field) as f64 / 1024.0;
        format!(
            "gateway {:.0} MiB now, {:.0} MiB at most; users {:.0} MiB at most",
            mib(&self.gateway, "VmRSS:"),
            mib(&self.gateway, "VmHWM:"),
            mib(&self.users, "VmHWM:")
        )
    }
}

/// A service that waits 5 ms per request, on a pool.
pub fn play_a_service() -> ExitCode {
    let work = |_: &_| {
        thread::sleep(Duration::from_millis(5)); // work is played by sleeping
        Reply::ok("done")
    };
    Service::new("work", 0).route_slow("GET", "/work", work).run()
}

// ---- slow clients

fn slow(stage: &Stage, size: Size, what: &str, kind: fn(SocketAddr) -> SlowClient) {
    println!("\n{} connections: {what}", size.slow_clients);
    let normal = || stage.drive("/users/1", 64, Pace::Closed, size.time);
    normal(); // warm
    let mut before = normal();
    let (over, cut) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let crowd = attack(stage.gateway.address(), size, kind, &over, &cut);
    // Shorter than the deadlines after which the gateway disconnects them.
    let mut during = stage.drive("/users/1", 64, Pace::Closed, size.time / 2);
    over.store(true, Ordering::SeqCst);
    crowd.join().unwrap();
    print_normal("  64 normal clients before", &mut before);
    print_normal("  the same meanwhile", &mut during);
    println!(
        "  ratio {:.2} (goal 0.8); {} slow clients were cut off and came again; {}",
        during.rate() / before.rate(),
        cut.load(Ordering::SeqCst),
        stage.memory()
    );
}

fn print_normal(what: &str, measured: &mut Measured) {
    println!(
        "{what}: {:.0} good answers/s, p99 {:.1} ms; not good: {}",
        measured.rate(),
        percentile(&mut measured.good, 0.99),
        measured.refused.len() as u64 + measured.others + measured.lost
    );
}

/// A slow client, and whether it sends or reads.
struct SlowClient {
    stream: TcpStream,
    sends: bool,
}

fn slow_head(gateway: SocketAddr) -> SlowClient {
    let mut stream = TcpStream::connect(gateway).unwrap();
    let _ = stream.write_all(b"GET /users/1 HTTP/1.1\r\nX-Slow: ");
    stream.set_nonblocking(true).unwrap();
    SlowClient { stream, sends: true }
}

fn slow_answer(gateway: SocketAddr) -> SlowClient {
    let mut stream = connect_with_small_buffer(gateway);
    let _ = stream.write_all(b"GET /users?limit=120 HTTP/1.1\r\nHost: slow\r\n\r\n");
    stream.set_nonblocking(true).unwrap();
    SlowClient { stream, sends: false }
}

impl SlowClient {
    /// Sends or reads one byte. Returns false if the client was disconnected.
    fn step(&mut self) -> bool {
        let alive = |done: std::io::Result<usize>| match done {
            Ok(count) => count > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        let mut byte = [0];
        if !self.sends {
            return alive(self.stream.read(&mut byte));
        }
        let told = self.stream.read(&mut byte).is_ok();
        !told && alive(self.stream.write(b"x"))
    }
}

/// Runs all slow clients in one thread. Each has its turn once a second, and disconnected clients connect again.
/// Returns when all are connected.
fn attack(
    gateway: SocketAddr,
    size: Size,
    kind: fn(SocketAddr) -> SlowClient,
    over: &Arc<AtomicBool>,
    cut: &Arc<AtomicUsize>,
) -> JoinHandle<()> {
    const TURNS: usize = 50;
    let mut clients: Vec<SlowClient> = Vec::with_capacity(size.slow_clients);
    while clients.len() < size.slow_clients {
        // Connect a hundred at a time, and the next hundred when these are being answered.
        let come = size.slow_clients.min(clients.len() + 100) - clients.len();
        let come: Vec<SlowClient> = (0..come).map(|_| kind(gateway)).collect();
        for reader in come.iter().filter(|client| !client.sends) {
            reader.stream.set_nonblocking(false).unwrap();
            reader.stream.peek(&mut [0]).unwrap();
            reader.stream.set_nonblocking(true).unwrap();
        }
        clients.extend(come);
    }
    let (over, cut) = (over.clone(), cut.clone());
    thread::spawn(move || {
        for turn in 0.. {
            let began = Instant::now();
            for client in clients.iter_mut().skip(turn % TURNS).step_by(TURNS) {
                if !client.step() {
                    cut.fetch_add(1, Ordering::SeqCst);
                    *client = kind(gateway);
                }
            }
            if over.load(Ordering::SeqCst) {
                return;
            }
            thread::sleep((Duration::from_secs(1) / TURNS as u32).saturating_sub(began.elapsed()));
        }
    })
}

// ---- overload

fn overload(stage: &Stage, size: Size, path: &str, what: &str) {
    println!("\noverload: {path}, {what}");
    stage.drive(path, 64, Pace::Closed, size.time / 2); // warm
    let mut best = stage.drive(path, 64, Pace::Closed, size.time);
    println!(
        "  closed loop, 64 connections: {:.0}/s, p99 {:.1} ms; {}",
        best.rate(),
        percentile(&mut best.good, 0.99),
        stage.memory()
    );
    for times in [1.0, 2.0, 3.0] {
        let offered = best.rate() * times;
        let over = Arc::new(AtomicBool::new(false));
        let health = watch_health(stage.gateway.http(), &over);
        let mut got = stage.drive(path, size.connections, Pace::PerSecond(offered), size.time);
        over.store(true, Ordering::SeqCst);
        let (asked, slowest) = health.join().unwrap();
        println!(
            "  offered {times:.0} x = {offered:.0}/s over {} connections: {:.0}/s good, ratio {:.2} (goal 0.9 at 2 x), \
             p50 {:.0} ms, p99 {:.0} ms",
            size.connections,
            got.rate(),
            got.rate() / best.rate(),
            percentile(&mut got.good, 0.5),
            percentile(&mut got.good, 0.99),
        );
        println!(
            "      503: {:.0}/s, p50 {:.1} ms, p99 {:.1} ms (goal < 100 ms); others {}, lost {}; no connection free \
             for {:.0}/s; client late by {:.0} ms at most",
            got.refused.len() as f64 / got.seconds,
            percentile(&mut got.refused, 0.5),
            percentile(&mut got.refused, 0.99),
            got.others,
            got.lost,
            got.unsent as f64 / got.seconds,
            got.lag.as_secs_f64() * 1000.0,
        );
        println!(
            "      health: {asked} answers, all good, the slowest after {:.0} ms; {}",
            slowest.as_secs_f64() * 1000.0,
            stage.memory()
        );
    }
}

/// Requests the health endpoints over separate connections, ten times a second.
fn watch_health(http: Http, over: &Arc<AtomicBool>) -> JoinHandle<(usize, Duration)> {
    let over = over.clone();
    thread::spawn(move || {
        let (mut asked, mut slowest) = (0, Duration::ZERO);
        while !over.load(Ordering::SeqCst) {
            for path in ["/healthz", "/readyz"] {
                let began = Instant::now();
                assert_eq!(http.get(path).status, 200, "{path}");
                slowest = slowest.max(began.elapsed());
                asked += 1;
            }
            thread::sleep(Duration::from_millis(100));
        }
        (asked, slowest)
    })
}

// ---- the machine

fn status_kib(process: &Process, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Each connection needs a descriptor here and one in the gateway, which inherits the limit.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = hard.min(16_384);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    }
}
