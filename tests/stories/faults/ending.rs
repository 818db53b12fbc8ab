//! A process is asked to end while somebody is just connecting, or just asking.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Connection, Echo, PATIENCE, Packets, Process, Scratch, await_instances, eventually};

/// A gateway in front of a played service.
fn gateway_and_echo() -> (Process, Echo, Process) {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let echo = Echo::start(&distributor, "echo", &["GET/echo", "POST/echo"]);
    await_instances(&gateway, "GET", "/echo", 1);
    (gateway, echo, distributor)
}

/// Stops the process, lets `meanwhile` do what it cannot see yet, asks the process to end, and lets it go on.
fn at_the_moment_of_the_end<T>(process: &Process, meanwhile: impl FnOnce() -> T) -> T {
    process.signal(Signal::SIGSTOP);
    let done = meanwhile();
    process.signal(Signal::SIGTERM);
    process.signal(Signal::SIGCONT);
    done
}

#[test]
fn who_is_connected_and_has_asked_when_a_gateway_is_asked_to_end_is_answered() {
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
    assert_eq!(echo.asked().len(), 200, "each was asked once");
    assert!(http.try_connect().is_none(), "the port has been given back");
    assert_eq!(gateway.stop().code(), Some(0));
}

#[test]
fn a_request_on_a_kept_connection_that_crosses_the_end_of_its_gateway_is_answered() {
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
    assert_eq!(echo.asked().len(), 100);
    assert_eq!(gateway.stop().code(), Some(0));
}

/// One who connects and asks, again and again, until nobody accepts any more. How many were answered.
fn ask_until_refused(gateway: &Process, asked: &Arc<AtomicUsize>) -> thread::JoinHandle<usize> {
    let (http, asked) = (gateway.http(), asked.clone());
    thread::spawn(move || {
        let mut answered = 0;
        let mut waiting: Vec<(Connection, bool)> = Vec::new();
        while let Some(mut connection) = http.try_connect() {
            let connected = Instant::now();
            connection.send_request("GET", "/echo/one", &[], b"");
            // A client that a busy machine holds up between the two is one that has not asked.
            waiting.push((connection, connected.elapsed() < Duration::from_millis(100)));
            asked.fetch_add(1, Ordering::SeqCst);
            if waiting.len() == 100 {
                answered += count_answers(waiting.drain(..));
            }
        }
        answered + count_answers(waiting)
    })
}

fn count_answers(connections: impl IntoIterator<Item = (Connection, bool)>) -> usize {
    let mut count = 0;
    for (mut connection, in_time) in connections {
        match connection.receive() {
            Some(answer) => assert_eq!(answer.status, 200, "{}", answer.text()),
            None => assert!(!in_time, "a connection that was accepted got no answer"),
        }
        count += 1;
    }
    count
}

#[test]
fn of_a_storm_of_connections_a_gateway_that_is_asked_to_end_answers_every_one_that_it_accepts() {
    let (gateway, _echo, _distributor) = gateway_and_echo();
    let asked = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..16).map(|_| ask_until_refused(&gateway, &asked)).collect();
    eventually("the storm blows", || (asked.load(Ordering::SeqCst) >= 500).then_some(()));
    let status = gateway.stop();
    let answered: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    println!("{answered} connections were answered, none was lost");
    assert_eq!(answered, asked.load(Ordering::SeqCst));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn who_is_connected_and_has_asked_when_users_or_a_distributor_are_asked_to_end_is_answered() {
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
        assert!(Packets::try_to(process.address()).is_none(), "{uri}: the port has been given back");
        assert_eq!(process.stop().code(), Some(0));
    }
}
