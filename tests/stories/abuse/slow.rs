//! Clients that write a request, or read an answer, one byte at a time. `cargo test` runs hundreds of them, the slow
//! half thousands. Other clients are answered meanwhile, and clients that are too slow are cut off.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{PATIENCE, Scratch, System, connect_with_small_buffer, eventually};

/// This many users have names of the maximum length. Their list is an answer of some 300 KB. The list of 120 users
/// already exceeds the buffers to a client that does not read.
const USERS: usize = 500;

fn system_with_long_lists() -> System {
    let system = System::builder().scratch(Scratch::in_memory()).start();
    let create = |number| {
        let user = json!({ "email": format!("user{number}@example.com"), "name": "🦀".repeat(100) });
        ("POST", "/users", user)
    };
    let replies = system.users[0].packets().call_all(&(0..USERS).map(create).collect::<Vec<_>>());
    assert!(replies.iter().all(|reply| reply["errorcode"] == 0));
    assert!(system.http().get("/users?limit=500").body.len() > 250_000);
    system
}

/// Normal clients that check every answer.
struct Normal {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Normal {
    fn start(system: &System) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..4_usize).map(|number| {
            let (over, answered, http) = (over.clone(), answered.clone(), system.http());
            thread::spawn(move || {
                let mut connection = http.connect();
                let path = format!("/users/{}", number + 1);
                for turn in 0.. {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let name = format!("Kim {turn}");
                    let body = json!({ "name": name }).to_string();
                    connection.send_request("PATCH", &path, &[], body.as_bytes());
                    assert_eq!(connection.receive().expect("an answer").status, 200);
                    connection.send_request("GET", &path, &[], b"");
                    assert_eq!(connection.receive().expect("an answer").results()["name"], name);
                    answered.fetch_add(2, Ordering::SeqCst);
                }
            })
        });
        let clients = clients.collect();
        Self { over, answered, clients }
    }

    /// Waits until this many more requests have been answered.
    fn await_more(&self, more: usize) {
        let wanted = self.answered.load(Ordering::SeqCst) + more;
        eventually(&format!("{more} more are answered"), || {
            let hopeless = self.clients.iter().any(JoinHandle::is_finished);
            (hopeless || self.answered.load(Ordering::SeqCst) >= wanted).then_some(())
        });
    }

    fn end(self) -> usize {
        self.over.store(true, Ordering::SeqCst);
        self.clients.into_iter().for_each(|client| client.join().expect("every answer was right"));
        self.answered.load(Ordering::SeqCst)
    }
}

/// The action that a slow client repeats.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slow {
    /// Sends one byte of a head.
    Writes,
    /// Reads one byte of an answer.
    Reads,
}

/// Slow clients of one kind, all in one thread.
struct Crowd {
    kind: Slow,
    open: Vec<TcpStream>,
    /// The number of clients that got a reason before they were cut off.
    timed_out: usize,
}

impl Crowd {
    /// Clients connect in batches of a hundred. The next batch starts when the previous one is being answered. The test
    /// measures their slowness, not the cost of their answers.
    fn connect(gateway: SocketAddr, kind: Slow, count: usize) -> Self {
        let mut open: Vec<TcpStream> = Vec::with_capacity(count);
        while open.len() < count {
            let batch = (open.len()..count.min(open.len() + 100)).map(|_| kind.begin(gateway));
            let batch: Vec<TcpStream> = batch.collect();
            for stream in &batch {
                if kind == Slow::Reads {
                    assert_eq!(stream.peek(&mut [0]).expect("the beginning of an answer"), 1);
                }
                stream.set_nonblocking(true).unwrap();
            }
            open.extend(batch);
        }
        Self { kind, open, timed_out: 0 }
    }

    /// Writes or reads one byte per client. Clients that were cut off are removed.
    fn step(&mut self) {
        let (kind, timed_out) = (self.kind, &mut self.timed_out);
        self.open.retain_mut(|stream| {
            if kind == Slow::Reads {
                return is_alive(stream.read(&mut [0]));
            }
            let mut answer = [0; 64];
            match stream.read(&mut answer) {
                Ok(count @ 1..) => {
                    *timed_out += usize::from(answer[..count].starts_with(b"HTTP/1.1 408 "));
                    false
                }
                read => is_alive(read) && is_alive(stream.write(b"x")),
            }
        });
    }

    /// Continues with one byte per second until the gateway has closed all of them. Returns the time that this took.
    fn drip_until_closed(&mut self, system: &System, threads_before: usize) -> Duration {
        let began = Instant::now();
        while threads(system) > threads_before + 4 {
            let held = threads(system) - threads_before;
            assert!(began.elapsed() < Duration::from_secs(120), "{held} threads are still busy");
            self.step();
            thread::sleep(Duration::from_secs(1)); // clients are slow by sleeping
        }
        began.elapsed()
    }
}

impl Slow {
    fn begin(self, gateway: SocketAddr) -> TcpStream {
        let mut stream = if self == Self::Reads {
            connect_with_small_buffer(gateway)
        } else {
            TcpStream::connect(gateway).unwrap()
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let bytes: &[u8] = match self {
            Self::Writes => b"GET /users/1 HTTP/1.1\r\nX-Slow: ",
            Self::Reads => b"GET /users?limit=120 HTTP/1.1\r\nHost: slow\r\n\r\n",
        };
        stream.write_all(bytes).unwrap();
        stream
    }
}

fn is_alive(done: std::io::Result<usize>) -> bool {
    done.map_or_else(|error| error.kind() == ErrorKind::WouldBlock, |count| count > 0)
}

fn threads(system: &System) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", system.gateway.id())).unwrap().count()
}

/// Panics unless the gateway is in its initial state and gives correct small and large answers.
fn assert_whole(system: &mut System, threads_before: usize) {
    eventually("the gateway has its threads back", || (threads(system) <= threads_before + 4).then_some(()));
    assert!(system.gateway.is_alive() && system.users[0].is_alive());
    let list = system.http().get("/users?limit=500");
    assert_eq!((list.status, list.results().as_array().unwrap().len()), (200, USERS));
}

#[test]
fn hundreds_of_clients_that_write_or_read_a_byte_at_a_time_delay_no_other() {
    let mut system = system_with_long_lists();
    let before = threads(&system);
    let normal = Normal::start(&system);
    normal.await_more(20);
    let gateway = system.gateway.address();
    let mut crowds = [Slow::Writes, Slow::Reads].map(|kind| Crowd::connect(gateway, kind, 150));
    for _ in 0..10 {
        crowds.iter_mut().for_each(Crowd::step);
        normal.await_more(20);
    }
    assert_eq!(crowds[0].open.len(), 150, "a head has 10 s");
    drop(crowds);
    normal.await_more(20);
    normal.end();
    assert_whole(&mut system, before);
}

#[test]
#[ignore = "slow: 3,000 heads a byte per second, until the last of them is given up after 10 s"]
fn three_thousand_clients_that_write_a_byte_at_a_time_are_closed_and_delay_no_other() {
    let mut system = system_with_long_lists();
    let before = threads(&system);
    let normal = Normal::start(&system);
    normal.await_more(50);
    let with_normal = threads(&system);
    let mut crowd = Crowd::connect(system.gateway.address(), Slow::Writes, 3000);
    normal.await_more(100);
    let took = crowd.drip_until_closed(&system, with_normal);
    report("heads", took, &system, normal);
    crowd.step();
    assert_eq!((crowd.timed_out, crowd.open.len()), (3000, 0), "each got 408");
    assert_whole(&mut system, before);
}

#[test]
#[ignore = "slow: 3,000 answers read a byte per second, until the last of them is given up"]
fn three_thousand_clients_that_read_a_byte_at_a_time_are_closed_and_delay_no_other() {
    let mut system = system_with_long_lists();
    let before = threads(&system);
    let normal = Normal::start(&system);
    normal.await_more(50);
    let with_normal = threads(&system);
    let mut crowd = Crowd::connect(system.gateway.address(), Slow::Reads, 3000);
    normal.await_more(100);
    let took = crowd.drip_until_closed(&system, with_normal);
    report("answers", took, &system, normal);
    assert_whole(&mut system, before);
}

fn report(what: &str, took: Duration, system: &System, normal: Normal) {
    let answered = normal.end();
    println!("3,000 slow {what}: the last was cut off after {took:?}; {answered} right answers to others");
    for process in [&system.gateway, &system.users[0]] {
        println!("{}: peak {} KiB", process.ready_line(), process.peak_kib());
        assert!(process.peak_kib() < 512 * 1024, "{} KiB", process.peak_kib());
    }
}

#[test]
fn many_long_answers_to_requests_that_came_together_are_all_sent() {
    let system = system_with_long_lists();
    let mut packets = system.users[0].packets();
    // Their sum exceeds the limit for a peer that does not read. This peer reads.
    let request =
        |key| format!(r#"{{"uri":"/users","method":"GET","key":{key},"params":{{"limit":"500"}}}}¶"#);
    packets.send_raw((1..=60).map(request).collect::<Vec<_>>().concat().as_bytes());
    for key in 1..=60 {
        let reply = packets.receive().expect("an answer before the connection ends");
        assert_eq!((&reply["key"], reply["results"].as_array().map(Vec::len)), (&json!(key), Some(USERS)));
    }
}
