//! A service that stops reading.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Echo, Packets, Process, await_instances};

/// A service that accepts connections and never reads from them.
struct Deaf {
    _membership: Packets,
    _open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Deaf {
    fn start(distributor: &Process, urls: &[&str]) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(16).unwrap();
        let socket = TcpListener::from(socket);
        let port = socket.local_addr().unwrap().port();
        let open = Arc::new(Mutex::new(Vec::new()));
        let taken = open.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = socket.accept() {
                taken.lock().unwrap().push(stream);
            }
        });
        let mut membership = distributor.packets();
        membership.register("deaf", port, urls, &json!({ "proto": "pilcrow/1" }));
        Self { _membership: membership, _open: open }
    }
}

#[test]
fn a_service_that_stops_reading_delays_no_caller_beyond_its_timeout() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "1"]);
    let _deaf = Deaf::start(&distributor, &["POST/deaf"]);
    let _echo = Echo::start(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "POST", "/deaf", 1);
    await_instances(&gateway, "GET", "/echo", 1);
    let body = format!(r#"{{"text":"{}"}}"#, "x".repeat(600_000)).into_bytes();
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let (http, body) = (gateway.http(), body.clone());
            thread::spawn(move || {
                let began = Instant::now();
                let answer = http.request("POST", "/deaf", &[("Content-Type", "application/json")], &body);
                (answer.status, began.elapsed())
            })
        })
        .collect();
    assert_eq!(gateway.http().get("/echo/1").status, 200, "no other client is affected");
    let ends: Vec<(u16, Duration)> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    let longest = ends.iter().map(|(_, took)| *took).max().unwrap();
    println!("the longest wait took {longest:?}");
    assert!(ends.iter().all(|(status, _)| [502, 503, 504].contains(status)), "{ends:?}");
    assert!(ends.iter().any(|(status, _)| *status == 504), "{ends:?}");
    // A write waits five seconds for its peer. A request that waits behind such a write would exceed this limit.
    assert!(longest < Duration::from_secs(4), "{ends:?}");
}
