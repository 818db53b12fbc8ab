//! Tests of the module above against played instances. Each one follows its script.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use serde_json::json;

use super::*;
use crate::net::link::LinkLimits;
use crate::node::Node;
use crate::packet::frame::FrameReader;
use crate::packet::{DEFAULT_MAX_FRAME_BYTES, Dialect};

/// Far longer than any step here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The instance's end of the asker's connection.
struct Asker {
    stream: TcpStream,
    frames: FrameReader<TcpStream>,
}

impl Asker {
    /// The next packet: its method, its key, and its `after`. `None` at the end of the connection.
    fn next(&mut self) -> Option<(String, Value, Option<u64>)> {
        let frame = self.frames.next_frame().ok().flatten()?;
        let packet: Value = serde_json::from_str(frame).unwrap();
        let method = packet["method"].as_str().unwrap().to_owned();
        Some((method, packet["key"].clone(), packet["params"]["after"].as_u64()))
    }

    /// The next request for a stream: its key and its `after`.
    fn request(&mut self) -> Option<(Value, Option<u64>)> {
        loop {
            let (method, key, after) = self.next()?;
            if method == "GET" {
                return Some((key, after));
            }
        }
    }

    fn say(&mut self, packet: &Value) {
        let _ = self.stream.write_all(format!("{packet}¶").as_bytes());
    }

    fn standing(&mut self, key: &Value, seq: u64) {
        self.say(&json!({ "key": key, "errorcode": 0, "seq": seq, "more": true }));
    }

    fn change(&mut self, key: &Value, seq: u64) {
        self.say(&json!({ "key": key, "errorcode": 0, "seq": seq, "results": seq, "more": true }));
    }

    fn refuse(&mut self, key: &Value, errorcode: u16) {
        self.say(&json!({ "key": key, "errorcode": errorcode, "errormessage": "because" }));
    }
}

/// A mesh with a link to one instance per script. The receiver gets a message when a script ends.
fn play<F: FnOnce(Asker) + Send + 'static>(scripts: Vec<F>) -> (Arc<Mesh>, Receiver<()>) {
    let mesh = Mesh::new(LinkLimits::default());
    let (ended, ends) = channel();
    let node = |script: F| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ended = ended.clone();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let frames =
                FrameReader::new(stream.try_clone().unwrap(), DEFAULT_MAX_FRAME_BYTES, Dialect::Pilcrow);
            script(Asker { stream, frames });
            let _ = ended.send(());
        });
        let host = "127.0.0.1".to_owned();
        Node { host, ..Node::ours("played", port, vec!["GET/feed".to_owned()], &port.to_string()) }
    };
    let nodes: Vec<Node> = scripts.into_iter().map(node).collect();
    let count = nodes.len();
    mesh.on_list(None)(0, nodes);
    while mesh.routes()[0].instances.len() < count {
        thread::sleep(Duration::from_millis(1));
    }
    (mesh, ends)
}

fn follow(mesh: &Arc<Mesh>, params: &Value) -> Subscription {
    Subscription::new(mesh, &Context::default(), "/feed", params.as_object().cloned().unwrap_or_default())
}

/// The number of the next change. A packet that only confirms the stream is skipped.
fn next(feed: &mut Subscription) -> Result<u64, u16> {
    loop {
        match feed.next(Instant::now() + PATIENCE) {
            Ok(Some(reply)) => {
                if let Some(results) = reply.results() {
                    assert_eq!(reply.seq.map(|seq| seq.to_string()).as_deref(), Some(results));
                    return Ok(reply.seq.unwrap());
                }
            }
            Ok(None) => panic!("no reply within {PATIENCE:?}"),
            Err(failure) => return Err(failure.errorcode),
        }
    }
}

/// Sends the changes after `after`, up to `last`.
fn send_rest(asker: &mut Asker, key: &Value, after: Option<u64>, last: u64) {
    (after.unwrap() + 1..=last).for_each(|seq| asker.change(key, seq));
}

#[test]
fn a_subscription_resumes_on_another_instance_when_its_link_is_lost() {
    let script = |mut asker: Asker| {
        let Some((key, after)) = asker.request() else { return };
        let after = after.unwrap();
        asker.standing(&key, after);
        (after + 1..=after + 3).for_each(|seq| asker.change(&key, seq));
    };
    let (mesh, _ends) = play(vec![script; 3]);
    let mut feed = follow(&mesh, &json!({ "after": 10, "kind": "any" }));
    for seq in 11..=19 {
        assert_eq!(next(&mut feed), Ok(seq));
        assert_eq!(feed.after(), Some(seq));
    }
}

#[test]
fn without_after_the_first_reply_has_the_position() {
    let (asked, all_asked) = channel();
    let script = move |mut asker: Asker| {
        let Some((key, after)) = asker.request() else { return };
        asked.send(after).unwrap();
        asker.standing(&key, after.unwrap_or(7));
        if after.is_some() {
            asker.change(&key, 8);
            asker.request();
        }
    };
    let (mesh, _ends) = play(vec![script.clone(), script]);
    let mut feed = follow(&mesh, &json!({}));
    assert_eq!(next(&mut feed), Ok(8));
    assert_eq!(all_asked.try_iter().collect::<Vec<_>>(), [None, Some(7)]);
}

#[test]
fn a_subscription_leaves_an_instance_that_ends_and_resumes() {
    let script = |mut asker: Asker| {
        let mut last = 0;
        while let Some((key, after)) = asker.request() {
            assert_eq!(after, Some(last));
            send_rest(&mut asker, &key, after, last + 2);
            last += 2;
            asker.refuse(&key, 503);
        }
    };
    let (mesh, _ends) = play(vec![script]);
    let mut feed = follow(&mesh, &json!({ "after": 0 }));
    assert_eq!((1..=8).map(|_| next(&mut feed)).collect::<Vec<_>>(), (1..=8).map(Ok).collect::<Vec<_>>());
}

#[test]
fn expired_changes_end_a_subscription() {
    for (before, errorcode) in [(0, 410), (3, 410), (3, 400), (3, 500), (0, 503), (0, 403)] {
        let script = move |mut asker: Asker| {
            let (key, after) = asker.request().unwrap();
            send_rest(&mut asker, &key, after, before);
            let told = json!({ "key": key, "errorcode": errorcode, "errormessage": "because", "oldest": 9 });
            asker.say(&told);
            assert_eq!(asker.next(), None, "nothing is asked again");
        };
        let (mesh, ends) = play(vec![script]);
        let mut feed = follow(&mesh, &json!({ "after": 0 }));
        (1..=before).for_each(|seq| assert_eq!(next(&mut feed), Ok(seq)));
        let failure = feed.next(Instant::now() + PATIENCE).unwrap_err();
        assert_eq!((failure.errorcode, failure.errormessage.as_str()), (errorcode, "because"));
        assert_eq!(failure.details, [("oldest".into(), json!(9))]);
        drop((feed, mesh));
        ends.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn the_search_does_not_read_a_byte_twice() {
    let script = |mut asker: Asker| {
        let (key, _) = asker.request().unwrap();
        asker.standing(&key, 5);
        for seq in [3, 4, 5, 6, 6, 5, 7, 7, 8] {
            asker.change(&key, seq);
        }
        asker.request();
    };
    let (mesh, _ends) = play(vec![script]);
    let mut feed = follow(&mesh, &json!({ "after": "5" }));
    assert_eq!([next(&mut feed), next(&mut feed), next(&mut feed)], [Ok(6), Ok(7), Ok(8)]);
}

#[test]
fn a_whole_answer_is_read_whatever_number_it_has() {
    let script = |mut asker: Asker| {
        while let Some((key, _)) = asker.request() {
            asker.say(&json!({ "key": key, "errorcode": 0, "seq": 3, "results": 3 }));
        }
    };
    let (mesh, _ends) = play(vec![script]);
    for params in [json!({}), json!({ "after": 3 }), json!({ "after": 99 }), json!({ "after": "x" })] {
        let mut feed = follow(&mesh, &params);
        assert_eq!(next(&mut feed), Ok(3));
        assert_eq!(next(&mut feed), Err(410), "no further change follows");
    }
}

#[test]
fn a_reader_that_is_too_slow_loses_its_stream_and_misses_nothing() {
    const LAST: u64 = 30_000;
    let (sent, all_sent) = channel();
    let script = move |mut asker: Asker| {
        let mut asked = 0;
        let mut cancelled = 0;
        while let Some((method, key, after)) = asker.next() {
            if method == "CANCEL" {
                cancelled += 1;
                continue;
            }
            asked += 1;
            send_rest(&mut asker, &key, after, LAST);
            let _ = sent.send(());
        }
        assert_eq!(asked, cancelled, "each stream was cancelled, the last one too");
        assert!(asked > 1, "it was never too slow");
    };
    let (mesh, ends) = play(vec![script]);
    let mut feed = follow(&mesh, &json!({ "after": 0 }));
    assert_eq!(next(&mut feed), Ok(1));
    // The reader starts only after all changes have been sent. They exceed a stream's buffer.
    all_sent.recv_timeout(PATIENCE).unwrap();
    (2..=LAST).for_each(|seq| assert_eq!(next(&mut feed), Ok(seq)));
    drop(feed);
    drop(mesh);
    ends.recv_timeout(PATIENCE).expect("the script came to its end without a panic");
}

#[test]
fn a_subscription_reports_at_the_deadline_that_nothing_came() {
    let script = |mut asker: Asker| {
        let (key, _) = asker.request().unwrap();
        asker.standing(&key, 1);
        asker.refuse(&key, 503);
        // It is busy from now on.
        while let Some((key, _)) = asker.request() {
            asker.refuse(&key, 503);
        }
    };
    let (mesh, _ends) = play(vec![script]);
    let mut feed = follow(&mesh, &json!({}));
    assert!(feed.next(Instant::now() + PATIENCE).unwrap().is_some());
    let (told, answer) = channel();
    let soon = Duration::from_millis(200);
    thread::spawn(move || told.send(feed.next(Instant::now() + soon).map(|reply| reply.is_none())));
    let outcome = answer.recv_timeout(PATIENCE).expect("it goes on asking for ever");
    assert_eq!(outcome, Ok(true));
}

#[test]
fn a_route_without_an_instance_is_refused_at_first_and_awaited_later() {
    let mesh = Mesh::new(LinkLimits::default());
    assert_eq!(next(&mut follow(&mesh, &json!({ "after": 0 }))), Err(503));

    let script = |mut asker: Asker| {
        let (key, _) = asker.request().unwrap();
        asker.change(&key, 1);
    };
    let (mesh, ends) = play(vec![script]);
    let mut feed = follow(&mesh, &json!({ "after": 0 }));
    assert_eq!(next(&mut feed), Ok(1));
    ends.recv_timeout(PATIENCE).unwrap();
    assert_eq!(feed.next(Instant::now() + Duration::from_millis(100)), Ok(None));
    assert_eq!(feed.next(Instant::now()), Ok(None));
    mesh.close_streams();
    assert_eq!(next(&mut feed), Err(503), "a process that shuts down does not wait for a reader");
}

#[test]
fn a_stream_without_numbers_ends_with_its_link() {
    let script = |mut asker: Asker| {
        let (key, _) = asker.request().unwrap();
        asker.say(&json!({ "key": key, "errorcode": 0, "results": 1, "more": true }));
    };
    let (mesh, _ends) = play(vec![script, script]);
    let mut feed = follow(&mesh, &json!({}));
    assert!(feed.next(Instant::now() + PATIENCE).unwrap().is_some());
    assert_eq!(next(&mut feed), Err(502));
}

#[test]
fn a_subscription_that_is_dropped_is_cancelled_at_its_source() {
    let script = |mut asker: Asker| {
        let (key, _) = asker.request().unwrap();
        asker.standing(&key, 0);
        assert_eq!(asker.next(), Some(("CANCEL".to_owned(), key, None)));
    };
    let (mesh, ends) = play(vec![script]);
    let mut feed = follow(&mesh, &json!({}));
    assert!(feed.next(Instant::now() + PATIENCE).unwrap().is_some());
    drop(feed);
    ends.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_process_that_ends_ends_its_subscriptions_here_and_at_their_source() {
    let script = |mut asker: Asker| {
        let (key, _) = asker.request().unwrap();
        asker.standing(&key, 0);
        assert_eq!(asker.next(), Some(("CANCEL".to_owned(), key, None)));
        assert_eq!(asker.next(), None, "nothing is asked again");
    };
    let (mesh, ends) = play(vec![script]);
    let mut feed = follow(&mesh, &json!({}));
    assert!(feed.next(Instant::now() + PATIENCE).unwrap().is_some());
    let waiting = thread::spawn(move || next(&mut feed));
    mesh.close_streams();
    assert_eq!(waiting.join().unwrap(), Err(503));
    assert_eq!(next(&mut follow(&mesh, &json!({ "after": 0 }))), Err(503));
    drop(mesh);
    ends.recv_timeout(PATIENCE).unwrap();
}
