//! Idle connections use up all descriptors of a process.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{count_lines, create};
use crate::harness::{Echo, PATIENCE, Packets, Process, Program, Scratch, await_instances, eventually};

/// The time a process has to recover after the idle connections have ended.
const WHOLE_AGAIN: Duration = Duration::from_secs(3);

/// Silent connections, more than the number of descriptors.
fn open_idle_connections(process: &Process) -> Vec<TcpStream> {
    let idle = (0..100).map(|_| TcpStream::connect_timeout(&process.address(), PATIENCE).unwrap()).collect();
    process.await_log(&["WARN", "cannot accept connections now", "Too many open files"]);
    idle
}

/// Closes the idle connections, and waits until this newcomer is served again.
fn close_idle_connections<T>(idle: Vec<TcpStream>, what: &str, newcomer: impl FnMut() -> Option<T>) -> T {
    drop(idle);
    let began = Instant::now();
    let served = eventually(what, newcomer);
    let took = began.elapsed();
    println!("whole again {took:?} after they had closed");
    assert!(took < WHOLE_AGAIN, "{took:?}");
    served
}

fn assert_logged_once(process: &Process) {
    assert_eq!(count_lines(&process.log(), "cannot accept connections now"), 1, "{:#?}", process.log());
}

#[test]
fn a_distributor_without_a_free_descriptor_still_pushes_lists() {
    let distributor = Program::distributor().max_descriptors(40).start();
    let gateway = Process::gateway(&distributor, &[]);
    let mut echo = Echo::start(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "GET", "/echo", 1);
    let idle = open_idle_connections(&distributor);
    // Existing connections work as before.
    echo.membership.register(
        "echo",
        echo.port(),
        &["GET/echo", "GET/more"],
        &json!({ "proto": "pilcrow/1" }),
    );
    await_instances(&gateway, "GET", "/more", 1);
    assert_eq!(gateway.http().get("/more").status, 200);
    assert_logged_once(&distributor);
    let mut newcomer = close_idle_connections(idle, "a new process gets the list", || {
        let packets = Packets::try_to(distributor.address())?;
        packets.stream().set_read_timeout(Some(WHOLE_AGAIN)).unwrap();
        let mut packets = packets;
        packets.receive().map(|_| packets)
    });
    newcomer.register("newcomer", 9001, &[], &json!({}));
    newcomer.await_list(|list| list.iter().any(|node| node["name"] == "newcomer"));
    assert_logged_once(&distributor);
    assert_eq!(distributor.stop().code(), Some(0));
}

#[test]
fn users_without_a_free_descriptor_still_reads_writes_and_streams() {
    let scratch = Scratch::in_memory();
    let distributor = Process::distributor(&[]);
    let users = Program::users(distributor.address(), &scratch).max_descriptors(40).start();
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/users", 1);
    let mut events = gateway.http().events("/users/changes?after=0", &[]).unwrap();
    let mut inside: Vec<Packets> = (0..8).map(|_| users.packets()).collect();
    for packets in &mut inside {
        assert_eq!(packets.call("POST", "/users", &json!({}), 1)["errorcode"], 400, "it has been accepted");
    }
    let idle = open_idle_connections(&users);
    for round in 0..3 {
        assert_eq!(create(&gateway.http(), &format!("{round}@example.com")).status, 201);
        assert_eq!(events.event().unwrap().id, Some(round + 1));
    }
    // Several at a time, because each needs a connection to the database.
    std::thread::scope(|scope| {
        for packets in &mut inside {
            scope.spawn(|| read_often(packets));
        }
    });
    assert_logged_once(&users);
    close_idle_connections(idle, "a newcomer is answered", || {
        let mut packets = Packets::try_to(users.address())?;
        packets.stream().set_read_timeout(Some(WHOLE_AGAIN)).unwrap();
        packets.send(&json!({ "uri": "/users", "method": "GET", "key": 1, "params": { "params": "1" } }));
        packets.receive().filter(|reply| reply["errorcode"] == 0)
    });
    assert_logged_once(&users);
    assert_eq!(users.stop().code(), Some(0));
}

/// Reads many times over one connection; every read must succeed.
fn read_often(packets: &mut Packets) {
    let list = ("GET", "/users", json!({ "limit": 500 }));
    for reply in packets.call_all(&vec![list; 300]) {
        assert_eq!(reply["errorcode"], 0, "{reply}");
    }
}

#[test]
fn a_gateway_without_a_free_descriptor_keeps_its_links_and_makes_new_ones_when_others_close() {
    let distributor = Process::distributor(&[]);
    let gateway = Program::gateway(distributor.address()).max_descriptors(40).start();
    let _echo = Echo::start(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "GET", "/echo", 1);
    let mut inside = gateway.http().connect();
    let mut ask = |path: &str| {
        inside.send_request("GET", path, &[], b"");
        inside.receive().expect("an existing connection is served").status
    };
    assert_eq!(ask("/echo"), 200);
    let idle = open_idle_connections(&gateway);
    let newcomer = Echo::start(&distributor, "newcomer", &["GET/new"]);
    gateway.await_log(&["cannot reach", &newcomer.port().to_string(), "Too many open files"]);
    assert_eq!((ask("/echo"), ask("/new")), (200, 503));
    let http = gateway.http();
    close_idle_connections(idle, "a newcomer is served", || {
        http.try_request("GET", "/echo", &[], b"").filter(|answer| answer.status == 200)
    });
    // Links are retried every three seconds.
    await_instances(&gateway, "GET", "/new", 1);
    assert_eq!(http.get("/new").status, 200);
    assert_logged_once(&gateway);
    // It needs no descriptor to shut down either.
    let _idle = open_idle_connections(&gateway);
    assert_eq!(gateway.stop().code(), Some(0));
}
