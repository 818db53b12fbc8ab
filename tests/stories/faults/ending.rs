//! A process gets the signal to end while a client is connecting, or sending a request.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{
    Connection, Echo, Http, PATIENCE, Packets, Process, Program, Scratch, await_instances, eventually,
};

/// A gateway in front of a played service.
fn gateway_and_echo() -> (Process, Echo, Process) {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let echo = Echo::start(&distributor, "echo", &["GET/echo", "POST/echo"]);
    await_instances(&gateway, "GET", "/echo", 1);
    (gateway, echo, distributor)
}

/// Suspends the process and lets `meanwhile` act unseen. Then sends the signal to end and resumes the process.
fn at_the_moment_of_the_end<T>(process: &Process, meanwhile: impl FnOnce() -> T) -> T {
    process.signal(Signal::SIGSTOP);
    let done = meanwhile();
    process.signal(Signal::SIGTERM);
    process.signal(Signal::SIGCONT);
    done
}

#[test]
fn a_request_on_an_open_connection_is_answered_when_a_gateway_shuts_down() {
    let (gateway, echo, _distributor) = gateway_and_echo();
    let http = gateway.http();
    let mut connections: Vec<Connection> = at_the_moment_of_the_end(&gateway, || {
        let ask = |number: usize| {
            let mut connection = http.connect();
            connection.send_request("GET", &format!("/echo/{number}"), &[], b"");
            connection
        };
        (0..200).map(ask).collect()
    });
    for (number, connection) in connections.iter_mut().enumerate() {
        let answer = connection.receive().unwrap_or_else(|| panic!("connection {number} got no answer"));
        assert_eq!(answer.results()["params"]["params"], number.to_string());
        assert!(connection.is_closed_within(PATIENCE));
    }
    assert_eq!(echo.requests().len(), 200, "each request was sent once");
    eventually("the port is closed", || http.try_connect().is_none().then_some(()));
    assert_eq!(gateway.stop().code(), Some(0));
}

#[test]
fn a_request_that_crosses_the_shutdown_of_its_gateway_is_answered() {
    let (gateway, echo, _distributor) = gateway_and_echo();
    let mut connections: Vec<Connection> = (0..50).map(|_| gateway.http().connect()).collect();
    for connection in &mut connections {
        connection.send_request("GET", "/echo/first", &[], b"");
        assert_eq!(connection.receive().unwrap().header("Connection"), None);
    }
    at_the_moment_of_the_end(&gateway, || {
        for connection in &mut connections {
            connection.send_request("POST", "/echo", &[], br#"{"text":"second"}"#);
        }
    });
    for (number, connection) in connections.iter_mut().enumerate() {
        let answer = connection.receive().unwrap_or_else(|| panic!("connection {number} got no answer"));
        assert_eq!((answer.status, &answer.results()["method"]), (200, &json!("POST")), "{}", answer.text());
        assert!(connection.is_closed_within(PATIENCE));
    }
    assert_eq!(echo.requests().len(), 100);
    assert_eq!(gateway.stop().code(), Some(0));
}

/// A client that opens a connection for each request until the flag is set. Returns the number of requests it sent.
fn ask_until(done: &Arc<AtomicBool>, http: Http) -> thread::JoinHandle<usize> {
    let done = done.clone();
    thread::spawn(move || {
        let mut count = 0;
        while !done.load(Ordering::SeqCst) {
            let mut connection = http.try_connect().expect("the connection was refused");
            connection.send_request("GET", "/echo/one", &[], b"");
            let answer = connection.receive().expect("an accepted connection got no answer");
            // A gateway that has just started does not know the routes yet.
            assert!([200, 404, 503].contains(&answer.status), "{}", answer.text());
            count += 1;
        }
        count
    })
}

#[test]
fn a_gateway_that_restarts_on_an_inherited_socket_refuses_and_resets_no_connection() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let distributor = Process::distributor(&[]);
    let start = || Program::gateway(distributor.address()).socket(&socket).start();
    let mut gateway = start();
    let _echo = Echo::start(&distributor, "echo", &["GET/echo"]);
    assert_eq!(gateway.address(), socket.local_addr().unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8).map(|_| ask_until(&done, gateway.http())).collect();
    for _ in 0..3 {
        await_instances(&gateway, "GET", "/echo", 1);
        assert_eq!(gateway.stop().code(), Some(0));
        gateway = start();
    }
    await_instances(&gateway, "GET", "/echo", 1);
    done.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.join().unwrap() > 0);
    }
    assert_eq!(gateway.stop().code(), Some(0));
}

#[test]
fn a_request_on_an_open_connection_is_answered_when_users_or_a_distributor_shut_down() {
    let scratch = Scratch::new();
    let distributor = Process::distributor(&[]);
    let users = Process::users(&distributor, &scratch, &[]);
    for (process, uri) in [(users, "/users"), (distributor, "/distributes")] {
        let mut connections: Vec<Packets> = at_the_moment_of_the_end(&process, || {
            let ask = |key: usize| {
                let mut packets = process.packets();
                packets.send(&json!({ "uri": uri, "method": "GET", "key": key, "params": {} }));
                packets
            };
            (1..=100).map(ask).collect()
        });
        for (key, packets) in (1..).zip(&mut connections) {
            let reply = loop {
                let packet =
                    packets.receive().unwrap_or_else(|| panic!("{uri}: connection {key} got nothing"));
                if packet["key"] == key {
                    break packet;
                }
            };
            assert_eq!(reply["errorcode"], 0, "{reply}");
        }
        // The accept thread may still empty the backlog after the last reply.
        eventually("the port is closed", || Packets::try_to(process.address()).is_none().then_some(()));
        assert_eq!(process.stop().code(), Some(0));
    }
}
