//! The outbox over a connection of its own.

use std::io::Read;
use std::net::TcpListener;

use super::*;

/// An outbox with its writer thread, and the other end of the connection.
fn outbox(batching: Batching) -> (Outbox, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let peer = listener.accept().unwrap().0;
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let outbox = Outbox::new(Arc::new(stream), batching);
    let writing = outbox.clone();
    spawn("write", move || writing.run()).unwrap();
    (outbox, peer)
}

fn read(peer: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    peer.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn frames_of_all_methods_arrive_in_their_order() {
    for batching in [Batching::Together, Batching::OneByOne] {
        let (outbox, mut peer) = outbox(batching);
        outbox.hold("1¶".as_bytes()).unwrap();
        let posted = outbox.post("2¶".as_bytes()).unwrap();
        outbox.send("3¶".as_bytes()).unwrap();
        assert_eq!(read(&mut peer, 9), "1¶2¶3¶");
        outbox.hold("4¶".as_bytes()).unwrap();
        outbox.flush();
        drop(posted);
        drop(outbox.post("5¶".as_bytes()).unwrap());
        assert_eq!(read(&mut peer, 6), "4¶5¶");
        outbox.post_latest(Arc::from("6¶".as_bytes()));
        assert_eq!(read(&mut peer, 3), "6¶");
        outbox.finish();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        assert_eq!(outbox.send("7¶".as_bytes()), Err(SendError::Closed));
        assert!(!outbox.await_room(0, Instant::now()));
    }
}

#[test]
fn posted_frames_wait_for_the_last_of_them_and_leave_in_one_write() {
    let (outbox, mut peer) = outbox(Batching::Together);
    let posted: Vec<Posted> =
        ["1¶", "2¶", "3¶"].map(|frame| outbox.post(frame.as_bytes()).unwrap()).into_iter().collect();
    assert!(lock(&outbox.0.state).has_news, "the writer thread sleeps");
    drop(posted);
    let mut bytes = [0; 20];
    assert_eq!(peer.read(&mut bytes).unwrap(), 9, "one write");
    assert!(!lock(&outbox.0.state).has_news);
    outbox.close();
}

#[test]
fn a_caller_that_waits_for_room_takes_no_wake_from_the_writer_thread() {
    let (outbox, mut peer) = outbox(Batching::Together);
    let frame = format!("{}¶", "x".repeat(100_000)).into_bytes();
    let waiting = outbox.clone();
    let over = Arc::new(AtomicBool::new(false));
    let ended = over.clone();
    let waiter = thread::spawn(move || {
        while !ended.load(Ordering::SeqCst) {
            let _ = waiting.await_room(10, Instant::now() + Duration::from_millis(50));
        }
    });
    let mut read = vec![0; frame.len()];
    for _ in 0..500 {
        drop(outbox.post(&frame).unwrap());
        peer.read_exact(&mut read).expect("the frame leaves");
    }
    over.store(true, Ordering::SeqCst);
    waiter.join().unwrap();
    outbox.close();
}
