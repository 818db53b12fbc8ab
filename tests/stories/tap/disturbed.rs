//! The faults of the tap, and what the gateway makes of them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{Tap, Tapped};
use crate::harness::{PATIENCE, eventually};

#[test]
fn a_split_packet_arrives_in_many_pieces_and_the_system_still_works() {
    let tapped = Tapped::start(&["--split"]);
    tapped.create_user("Kim");
    for _ in 0..20 {
        assert_eq!(tapped.http().get("/users/1").results()["name"], "Kim");
    }
    assert_eq!(tapped.links(), 1);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tap = Tap::start(listener.local_addr().unwrap(), &["--split"]);
    let mut sender = TcpStream::connect(tap.address()).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent = "{\"key\":1}¶".repeat(500);
    sender.write_all(sent.as_bytes()).unwrap();
    let (mut read, mut pieces, mut buffer) = (0, 0, vec![0; 64 * 1024]);
    while read < sent.len() {
        read += receiver.read(&mut buffer).unwrap();
        pieces += 1;
    }
    assert!(pieces > 10, "5,500 bytes came in {pieces} pieces");
}

#[test]
fn a_delay_above_the_timeout_is_a_504_and_one_below_it_loses_nothing() {
    let tapped = Tapped::start(&["--delay", "4000", "--direction", "from"]);
    assert_eq!(tapped.http().get("/users").status, 504);
    let tapped = Tapped::start(&["--delay", "100"]);
    let began = Instant::now();
    assert_eq!(tapped.http().get("/users").status, 200);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
}

#[test]
fn a_dropped_request_ends_in_a_504_and_not_in_a_hang() {
    let tapped = Tapped::start(&["--drop", "2", "--direction", "to"]);
    let statuses = [1, 2, 3, 4].map(|_| tapped.http().get("/users").status);
    assert_eq!(statuses, [200, 504, 200, 504]);
    let dropped = tapped.tap.await_packets("to", 4).into_iter().filter(|line| line["fault"] == "dropped");
    assert_eq!(dropped.count(), 2);
    assert_eq!(tapped.tap.packets("from").len(), 2);
}

#[test]
fn a_duplicated_reply_is_ignored() {
    let tapped = Tapped::start(&["--duplicate", "1", "--direction", "from"]);
    for name in ["Kim", "Lee", "Park"] {
        tapped.create_user(name);
    }
    for (id, name) in [(1, "Kim"), (2, "Lee"), (3, "Park")] {
        assert_eq!(tapped.http().get(&format!("/users/{id}")).results()["name"], name);
    }
    eventually("each second reply is an orphan", || {
        let orphans = tapped.gateway.log().iter().filter(|line| line.contains("orphan reply")).count();
        (orphans == 3).then_some(())
    });
    assert_eq!(tapped.links(), 1);
}

#[test]
fn a_truncated_reply_closes_the_link_and_the_gateway_recovers() {
    let tapped = Tapped::start(&["--truncate", "2", "--direction", "from"]);
    assert_eq!(tapped.http().get("/users").status, 200);
    assert_eq!(tapped.http().get("/users").status, 504);
    // The next reply follows the half one, and both together are a bad frame.
    eventually("a new link answers", || {
        (tapped.http().get("/users").status == 200 && tapped.links() == 2).then_some(())
    });
}

#[test]
fn a_closed_connection_is_dialled_again() {
    let tapped = Tapped::start(&["--close-after", "3", "--direction", "from"]);
    let answered = (0..3).filter(|_| tapped.http().get("/users").status == 200).count();
    assert_eq!(answered, 3);
    eventually("a new link answers", || {
        (tapped.http().get("/users").status == 200 && tapped.links() == 2).then_some(())
    });
    let lines = tapped.tap.lines();
    assert!(lines.iter().any(|line| line["note"] == "closed by the tap after packet 3"), "{lines:#?}");
}
