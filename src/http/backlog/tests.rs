//! Tests of the parent module, on loopback connections.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use super::*;

/// Both ends of a connection.
fn connection() -> (Arc<TcpStream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (Arc::new(listener.accept().unwrap().0), client)
}

fn is_open(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    (&*client).read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn beyond_the_limit_only_the_oldest_client_is_cut_off() {
    let backlog = Backlog::default();
    let third = MAX_HELD_BYTES / 3;
    let ends: Vec<_> = (0..4).map(|_| connection()).collect();
    let mut held: Vec<_> = ends.iter().map(|(stream, _)| backlog.hold(stream)).collect();
    held.iter_mut().take(3).for_each(|one| one.grow_to(third));
    assert_eq!(backlog.held_bytes(), 3 * third);
    held[3].grow_to(third);
    let (mut first, others) = (&ends[0].1, &ends[1..]);
    assert_eq!(first.read(&mut [0]).unwrap(), 0, "the first is cut off");
    assert!(others.iter().all(|(_, client)| is_open(client)));
    // It may not have noticed this yet, but its bytes no longer count.
    held[0].grow_to(2 * third);
    assert_eq!(backlog.held_bytes(), 3 * third);
    drop(held);
    assert_eq!(backlog.held_bytes(), 0);
}

#[test]
fn short_bodies_are_not_counted_and_growing_ones_count_once() {
    let backlog = Backlog::default();
    let (stream, client) = connection();
    let mut held = backlog.hold(&stream);
    held.grow_to(SHORT_BYTES);
    assert_eq!(backlog.held_bytes(), 0);
    held.grow_to(SHORT_BYTES + 1);
    held.grow_to(3 * SHORT_BYTES);
    assert_eq!(backlog.held_bytes(), 3 * SHORT_BYTES);
    assert!(is_open(&client));
}
