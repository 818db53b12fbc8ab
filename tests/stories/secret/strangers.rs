//! Peers that connect to a port of a secured cluster and do not know the secret.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Packets, Program, SECRET, Scratch, System, eventually};

const WITH_SECRET: [(&str, &str); 1] = [("PILCROW_SECRET", SECRET)];

/// Relays bytes between its clients and `to`, and keeps them.
struct Relay {
    address: SocketAddr,
    passed: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, passed) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let relay = Self { address, passed: passed.clone() };
        // The thread ends with the test's process. No peer connects any more.
        thread::spawn(move || {
            for dialer in listener.incoming().map_while(Result::ok) {
                let acceptor = TcpStream::connect(to).unwrap();
                for (from, to) in [(&dialer, &acceptor), (&acceptor, &dialer)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let passed = passed.clone();
                    thread::spawn(move || pass(from, to, &passed));
                }
            }
        });
        relay
    }

    fn passed(&self) -> String {
        String::from_utf8_lossy(&self.passed.lock().unwrap()).into_owned()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, passed: &Mutex<Vec<u8>>) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        passed.lock().unwrap().extend_from_slice(&piece[..count]);
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Expects only the challenge, the rejection and the end, and no list. Returns the rejection.
fn await_rejection(stranger: &mut Packets) -> String {
    let refusal = stranger.receive().expect("a rejection");
    assert_eq!(refusal["errorcode"], 401, "{refusal}");
    assert_eq!(stranger.receive(), None);
    refusal["errormessage"].as_str().unwrap().to_owned()
}

fn challenged(address: SocketAddr) -> (Packets, Value) {
    let mut stranger = Packets::to(address);
    let challenge = stranger.receive().expect("a challenge");
    assert_eq!((&challenge["proto"], challenge.as_object().unwrap().len()), (&json!("pilcrow/1"), 2));
    (stranger, challenge["challenge"].clone())
}

#[test]
fn a_course_node_without_the_secret_is_closed_and_sees_no_list() {
    let system = System::builder().secured().start();
    let params = json!({ "port": 9040, "name": "goods", "urls": ["GET/goods"] });
    let register = json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params });
    let request = json!({ "uri": "/users", "method": "GET", "key": 1, "params": {} });
    for (process, packet) in [(&system.distributor, &register), (&system.users[0], &request)] {
        let (mut stranger, _) = challenged(process.address());
        stranger.send(packet);
        let message = await_rejection(&mut stranger);
        assert!(message.contains("this cluster has a secret"), "{message}");
        let port = stranger.stream().local_addr().unwrap().port().to_string();
        process.await_log(&["WARN", &port, "does not prove the cluster secret", "what came is no proof"]);
    }
    assert_eq!(system.http().get("/goods").status, 404);
}

#[test]
fn a_peer_that_sends_little_or_nothing_is_closed() {
    let system = System::builder().secured().start();
    let ports = [system.distributor.address(), system.users[0].address()];
    thread::scope(|scope| {
        for (address, drips) in ports.into_iter().flat_map(|address| [(address, false), (address, true)]) {
            scope.spawn(move || {
                let began = Instant::now();
                let (mut stranger, _) = challenged(address);
                let mut dripping = stranger.stream().try_clone().unwrap();
                thread::spawn(move || {
                    while drips && dripping.write_all(b" ").is_ok() && began.elapsed() < PATIENCE {
                        thread::sleep(Duration::from_millis(100));
                    }
                });
                let refusal = stranger.receive().expect("a rejection");
                println!("drips: {drips}, refused after {:?}", began.elapsed());
                assert!(
                    refusal["errormessage"].as_str().unwrap().contains("no proof came within"),
                    "{refusal}"
                );
                assert_eq!(stranger.receive(), None);
            });
        }
    });
}

#[test]
fn a_recorded_proof_is_rejected() {
    let distributor = Program::distributor().variables(&WITH_SECRET).start();
    let relay = Relay::before(distributor.address());
    let mut node = Packets::proven(relay.address, SECRET);
    node.receive().expect("the list");
    let passed = relay.passed();
    let frames: Vec<Value> =
        passed.split_terminator('¶').map(|one| serde_json::from_str(one).unwrap()).collect();
    let answer = frames.iter().find(|one| one["proof"].is_string() && one["challenge"].is_string()).unwrap();
    let (mut stranger, challenge) = challenged(distributor.address());
    assert_ne!(challenge, frames[0]["challenge"], "a new one for each connection");
    stranger.send(answer);
    assert!(await_rejection(&mut stranger).contains("another secret, or for another connection"));
    // A proof of the distributor itself is useless too.
    let proof = frames.iter().find(|one| one["proof"].is_string() && one["challenge"].is_null()).unwrap();
    let (mut stranger, challenge) = challenged(distributor.address());
    stranger.send(&json!({ "challenge": challenge, "proof": proof["proof"] }));
    await_rejection(&mut stranger);
}

#[test]
fn hundreds_of_unknown_peers_disturb_no_member_and_do_not_fill_the_log() {
    let system = System::builder().secured().start();
    system.create_user("kim@example.com", "Kim");
    let ports = [(system.distributor.address(), 150), (system.users[0].address(), 50)];
    let places = ports.iter().flat_map(|(address, count)| (0..*count).map(move |_| *address));
    let mut strangers: Vec<Packets> = places.map(|address| challenged(address).0).collect();
    assert_eq!(system.http().get("/users/1").status, 200);
    let late = Program::users(system.distributor.address(), &system.scratch).variables(&WITH_SECRET).start();
    system.await_instances("GET", "/users", 2);
    for stranger in &mut strangers {
        await_rejection(stranger);
    }
    assert_eq!(system.http().get("/users/1").status, 200);
    system.distributor.await_log(&["does not prove the cluster secret", "only counted"]);
    let log = system.distributor.log();
    let lines = log.iter().filter(|line| line.contains("does not prove")).count();
    assert!((100..150).contains(&lines), "{lines} lines");
    drop(late);
}

#[test]
fn unknown_peers_count_as_connections() {
    let distributor =
        Program::distributor().flags(["--max-connections", "2"]).variables(&WITH_SECRET).start();
    eventually("the limit is reached and a third is rejected", || {
        let mut three = [(); 3].map(|()| Packets::to(distributor.address()));
        three[2].receive().is_none().then_some(())
    });
    distributor.await_log(&["turned away", "2 connections are open"]);
    eventually("there is room again", || Packets::to(distributor.address()).receive());
}

#[test]
fn no_log_contains_the_secret_and_it_never_crosses_the_wire() {
    let scratch = Scratch::new();
    let variables = [("PILCROW_SECRET", SECRET), ("RUST_LOG", "trace")];
    let distributor = Program::distributor().variables(&variables).start();
    let relay = Relay::before(distributor.address());
    let users = Program::users(relay.address, &scratch).variables(&variables).start();
    let gateway = Program::gateway(relay.address).variables(&variables).start();
    // Failed attempts are logged as well.
    let mut stranger = challenged(users.address()).0;
    stranger.send(&json!({ "challenge": "0".repeat(64), "proof": "1".repeat(64) }));
    await_rejection(&mut stranger);
    crate::harness::await_instances(&gateway, "GET", "/users", 1);
    assert_eq!(gateway.http().get("/users").status, 200);
    let passed = relay.passed();
    assert!(passed.contains("\"challenge\"") && passed.contains("GET/users"), "{passed}");
    assert!(!passed.contains(SECRET));
    for process in [&distributor, &users, &gateway] {
        let log = process.log().join("\n");
        assert!(log.contains("secured") && !log.contains(SECRET), "{log}");
    }
    users.await_log(&["WARN", "does not prove the cluster secret"]);
}
