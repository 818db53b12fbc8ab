//! A user-written service that streams.

use std::sync::{Arc, Mutex};

use pilcrow::service::{Failure, Reply, Running, Service, SharedReply, StreamSender};
use serde_json::{Value, json};

use super::serve;
use crate::harness::{Events, Packets, Piece, Process, await_instances, eventually};

/// A service whose streams the story controls, and its port.
struct Stage {
    streams: Arc<Mutex<Vec<StreamSender>>>,
    gateway: Process,
    service: Option<Running>,
    distributor: Process,
}

impl Stage {
    fn start() -> Self {
        let distributor = Process::distributor(&[]);
        let streams: Arc<Mutex<Vec<StreamSender>>> = Arc::default();
        let opened = streams.clone();
        let service =
            Service::new("ticks", 0).route_later("GET", "/ticks", move |request, responder| match responder
                .into_stream()
            {
                Ok(stream) => {
                    if request.text("quiet").is_err() {
                        assert!(stream.send(&tick(&json!("first"))));
                    }
                    opened.lock().unwrap().push(stream);
                }
                Err(responder) => responder.answer(&Reply::ok("no stream")),
            });
        let service = Some(serve(service, &distributor));
        let gateway = Process::gateway(&distributor, &[]);
        await_instances(&gateway, "GET", "/ticks", 1);
        Self { streams, gateway, service, distributor }
    }

    /// A raw connection to the service.
    fn packets(&self) -> Packets {
        let rows = self.gateway.http().get("/routes").results();
        Packets::to(rows[0]["instances"][0].as_str().unwrap().parse().unwrap())
    }

    fn events(&self) -> Events {
        self.gateway.http().events("/ticks", &[]).ok().unwrap()
    }

    /// The last opened stream, once this many are open.
    fn stream(&self, count: usize) -> StreamSender {
        eventually(&format!("{count} streams are open"), || {
            let mut streams = self.streams.lock().unwrap();
            if streams.len() == count { streams.pop() } else { None }
        })
    }
}

fn tick(results: &Value) -> SharedReply {
    SharedReply::new(Reply::ok(results).unwrap()).unwrap()
}

fn subscribe(packets: &mut Packets) {
    packets.send(&json!({ "uri": "/ticks", "method": "GET", "key": 1, "params": {} }));
    assert_eq!(packets.receive().unwrap()["results"], "first");
}

#[test]
fn a_service_notices_that_its_subscriber_cancelled_or_disconnected() {
    let stage = Stage::start();
    let mut packets = stage.packets();
    subscribe(&mut packets);
    let stream = stage.stream(1);
    assert!(stream.is_open() && stream.send(&tick(&json!(1))));
    assert_eq!(packets.receive().unwrap()["results"], 1);
    packets.send(&json!({ "uri": "/ticks", "method": "CANCEL", "key": 1 }));
    eventually("the stream has ended", || (!stream.is_open()).then_some(()));
    assert!(!stream.send(&tick(&json!(2))));

    subscribe(&mut packets);
    let stream = stage.stream(1);
    drop(packets);
    eventually("the stream has ended", || (!stream.is_open()).then_some(()));
    assert!(!stream.send(&tick(&json!(3))));
}

#[test]
fn a_service_that_ends_a_stream_or_loses_it_says_so() {
    let stage = Stage::start();
    let mut packets = stage.packets();
    subscribe(&mut packets);
    stage.stream(1).end(&Failure::new(409, "no more ticks today"));
    let last = json!({ "key": 1, "errorcode": 409, "errormessage": "no more ticks today" });
    assert_eq!(packets.receive().unwrap(), last);
    subscribe(&mut packets);
    drop(stage.stream(1));
    let last = packets.receive().unwrap();
    assert_eq!((&last["errorcode"], last.get("more")), (&json!(503), None), "{last}");
    // The key is free again, and the connection continues.
    subscribe(&mut packets);
}

#[test]
fn any_stream_becomes_events_at_the_gateway_and_its_end_an_event_that_says_why() {
    let stage = Stage::start();
    let mut events = stage.events();
    let stream = stage.stream(1);
    assert_eq!(events.event().unwrap().data, "\"first\"");
    for results in [json!("a\nb\r\nc ¶"), json!({ "한글": [1, null] }), Value::Null] {
        assert!(stream.send(&tick(&results)));
        let event = events.event().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&event.data).unwrap(), results);
        assert_eq!((event.id, event.name), (None, None), "a reply without a number has no id");
    }
    stream.end(&Failure::new(409, "no more ticks today"));
    let end = events.event().unwrap();
    assert_eq!(end.name.as_deref(), Some("error"));
    let error: Value = serde_json::from_str(&end.data).unwrap();
    assert_eq!(error, json!({ "errorcode": 409, "errormessage": "no more ticks today" }));
    assert_eq!(events.piece(), None);
}

#[test]
fn a_stream_without_numbers_cannot_be_resumed_and_says_so_when_it_is_lost() {
    let mut stage = Stage::start();
    let mut events = stage.events();
    assert_eq!(events.event().unwrap().data, "\"first\"");
    stage.service.take().unwrap().stop(std::time::Duration::from_secs(10));
    let end = events.event().unwrap();
    assert_eq!(end.name.as_deref(), Some("error"));
    assert!(end.data.contains("\"errorcode\":50"), "{}", end.data);
    assert_eq!(events.piece(), None);
    assert_eq!(stage.distributor.packets().receive().unwrap()["uri"], "/distributes");
}

#[test]
fn a_client_is_answered_in_time_by_a_stream_that_does_not_begin() {
    let stage = Stage::start();
    let hurried = Process::gateway(&stage.distributor, &["--timeout", "0.3"]);
    await_instances(&hurried, "GET", "/ticks", 1);
    let answer = hurried.http().events("/ticks?quiet=1", &[]).err().expect("no stream");
    assert_eq!(answer.status, 504, "{}", answer.text());
    let stream = stage.stream(1);
    eventually("the stream is cancelled", || (!stream.is_open()).then_some(()));
}

#[test]
fn a_slow_reader_of_a_stream_without_seq_gets_an_error_that_says_so() {
    let stage = Stage::start();
    let mut events = stage.events();
    assert!(matches!(events.piece(), Some(Piece::Event(_))));
    let stream = stage.stream(1);
    // Neither this story nor the gateway's client reads while the service sends.
    let long = tick(&json!("x".repeat(100_000)));
    let mut sent = 0;
    while stream.send(&long) {
        sent += 1;
        assert!(sent < 5_000, "an unread stream must be closed");
    }
    println!("ended after {sent} replies of 100 kB without a reader");
    let end = std::iter::from_fn(|| events.event()).last().unwrap();
    assert_eq!(end.name.as_deref(), Some("error"));
    assert!(end.data.contains("keep up"), "{}", end.data);
}
