//! The outbox over a separate connection.

use std::io::Read;
use std::net::TcpListener;

use super::*;

/// An outbox without a writer thread, and the other end of its connection.
fn unwritten(batching: Batching) -> (Outbox, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let peer = listener.accept().unwrap().0;
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (Outbox::new(Arc::new(stream), batching), peer)
}

/// Like [`unwritten`], with a writer thread.
fn outbox(batching: Batching) -> (Outbox, TcpStream) {
    let (outbox, peer) = unwritten(batching);
    start_writer(&outbox);
    (outbox, peer)
}

fn start_writer(outbox: &Outbox) {
    let writing = outbox.clone();
    spawn("write", move || writing.run()).unwrap();
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
fn posted_frames_wake_the_writer_thread_once_and_leave_in_one_write() {
    let (outbox, mut peer) = unwritten(Batching::Together);
    let has_news = || lock(&outbox.0.state).has_news;
    let [first, second, third] = ["1¶", "2¶", "3¶"].map(|frame| outbox.post(frame.as_bytes()).unwrap());
    assert!(has_news());
    drop(second);
    assert!(!has_news(), "the others have nothing to report");
    drop((first, third));
    start_writer(&outbox);
    let mut bytes = [0; 20];
    assert_eq!(peer.read(&mut bytes).unwrap(), 9, "one write");
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
