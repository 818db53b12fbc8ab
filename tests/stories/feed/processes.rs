//! Several users processes on one database, and the end of any process. A reader of the feed notices nothing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{create, create_at, follow, next_change, seqs, subscribe, subscribe_from_now_on};
use crate::harness::{Events, Packets, Process, System, await_instances, eventually, free_port};
use nix::sys::signal::Signal::SIGTERM;

#[test]
fn a_write_through_another_process_reaches_the_subscribers_of_the_first() {
    let mut system = System::builder().users(2).start();
    let mut first = system.users[0].packets();
    subscribe_from_now_on(&mut first, 1);
    let mut second = system.users[1].packets();
    subscribe_from_now_on(&mut second, 1);
    let began = Instant::now();
    let mut written = 0;
    for round in 0..20 {
        written = create_at(&mut system.users[round % 2].packets(), &round.to_string());
        assert_eq!(next_change(&mut first, 1), next_change(&mut second, 1));
    }
    assert_eq!(written, 20);

    system.users.remove(1).kill();
    let third = Process::users(&system.distributor, &system.scratch, &[]);
    let mut at_third = third.packets();
    subscribe(&mut at_third, &json!(1), Some(written));
    at_third.receive().unwrap();
    for round in 20..40 {
        let users = if round % 2 == 0 { &third } else { &system.users[0] };
        let seq = create_at(&mut users.packets(), &round.to_string());
        let change = next_change(&mut first, 1);
        assert_eq!((&change["seq"], &change), (&json!(seq), &next_change(&mut at_third, 1)));
    }
    // A process without notification polls every 5 s. No process had to poll.
    assert!(began.elapsed() < Duration::from_secs(30), "40 changes took {:?}", began.elapsed());
    // The next writes remove the records of processes that have ended.
    let mut further = 0;
    let mut bells = || {
        further += 1;
        create_at(&mut third.packets(), &format!("further-{further}"));
        let database = rusqlite::Connection::open(system.scratch.file("users.db")).unwrap();
        database.query_row("SELECT count(*) FROM bells", [], |row| row.get::<_, u32>(0)).unwrap()
    };
    eventually("two processes get notified of changes", || (bells() == 2).then_some(()));
}

/// A users process on this port and the database of the system.
fn users_at(system: &System, port: u16) -> Process {
    Process::users(&system.distributor, &system.scratch, &["--listen", &format!("127.0.0.1:{port}")])
}

#[test]
fn users_may_be_killed_and_restarted_and_a_client_sees_every_change_once_over_one_connection() {
    let port = free_port();
    let mut system = System::builder().users_flags(&["--listen", &format!("127.0.0.1:{port}")]).start();
    let mut events = follow(&system.http(), "");
    let mut last = 0;
    for round in 0..3 {
        for number in 0..10 {
            last = create_at(&mut system.users[0].packets(), &format!("{round}-{number}"));
        }
        // When the process ends, the client has read some of these; others are in flight.
        assert_eq!(seqs(&events.changes(5)), (last - 9..last - 4).collect::<Vec<_>>());
        system.users.remove(0).kill();
        system.users.push(users_at(&system, port));
        assert_eq!(seqs(&events.changes(5)), (last - 4..=last).collect::<Vec<_>>());
    }
    create_at(&mut system.users[0].packets(), "last");
    assert_eq!(seqs(&events.changes(1)), [last + 1]);
}

/// The users process from which the gateway has its stream.
fn streaming(system: &System) -> usize {
    let streams = |users: &Process| {
        let count = |words: &str| users.log().iter().filter(|line| line.contains(words)).count();
        count("request GET /users/changes") > count("request CANCEL /users/changes")
    };
    eventually("an instance streams", || system.users.iter().position(streams))
}

/// Two instances. `end` repeatedly ends the one that streams, and a new one replaces it.
fn move_the_stream(end: impl Fn(Process)) {
    let mut system = System::builder().users(2).start();
    let mut events = follow(&system.http(), "");
    let mut expected = 0;
    for round in 0..3 {
        let doomed = system.users.remove(streaming(&system));
        create_at(&mut doomed.packets(), &format!("before-{round}"));
        create_at(&mut system.users[0].packets(), &format!("meanwhile-{round}"));
        end(doomed);
        create_at(&mut system.users[0].packets(), &format!("after-{round}"));
        assert_eq!(seqs(&events.changes(3)), (expected + 1..=expected + 3).collect::<Vec<_>>());
        expected += 3;
        system.users.push(Process::users(&system.distributor, &system.scratch, &[]));
        system.await_instances("GET", "/users/changes", 2);
    }
}

#[test]
fn when_the_streaming_instance_is_killed_another_continues() {
    move_the_stream(Process::kill);
}

#[test]
fn when_the_streaming_instance_shuts_down_another_continues() {
    move_the_stream(|users| {
        let ended = users.end_by(SIGTERM);
        assert!(ended.status.success());
    });
}

#[test]
fn an_instance_that_shuts_down_notifies_its_subscribers_without_waiting() {
    let mut system = System::builder().users_flags(&["--drain", "3600"]).start();
    let mut subscribers: Vec<Packets> = (0..3).map(|_| system.users[0].packets()).collect();
    for packets in &mut subscribers {
        subscribe_from_now_on(packets, 1);
    }
    let seq = create(&system.http(), "kim");
    for packets in &mut subscribers {
        assert_eq!(next_change(packets, 1)["seq"], seq);
    }
    let ended = system.users.remove(0).end_by(SIGTERM);
    assert!(ended.status.success());
    for packets in &mut subscribers {
        let last = packets.receive().unwrap();
        assert_eq!((&last["key"], &last["errorcode"], last.get("more")), (&json!(1), &json!(503), None));
        assert!(last["errormessage"].as_str().unwrap().contains("ending"), "{last}");
        assert_eq!(packets.receive(), None);
    }
}

#[test]
fn a_gateway_that_shuts_down_ends_its_streams_without_waiting() {
    let system = System::builder().gateway_flags(&["--drain", "3600"]).start();
    let mut all: Vec<Events> = (0..3).map(|_| follow(&system.http(), "")).collect();
    let seq = create(&system.http(), "kim");
    for events in &mut all {
        assert_eq!(seqs(&events.changes(1)), [seq]);
    }
    let System { gateway, users, .. } = system;
    let ended = gateway.end_by(SIGTERM);
    assert!(ended.status.success());
    println!("with 3 streams open the gateway ended {:?} after SIGTERM", ended.took);
    for events in &mut all {
        let end = events.event().expect("an event with the error");
        let error: Value = serde_json::from_str(&end.data).unwrap();
        assert_eq!((end.name.as_deref(), end.id), (Some("error"), None));
        assert_eq!(error["errorcode"], 503, "{error}");
        assert_eq!(events.piece(), None);
    }
    let cancelled = |line: &&String| line.contains("CANCEL /users/changes");
    eventually("the streams are closed at their source", || {
        (users[0].log().iter().filter(cancelled).count() == 3).then_some(())
    });
}

#[test]
fn an_open_stream_needs_no_distributor() {
    let System { gateway, users, distributor, scratch } = System::start();
    let mut events = follow(&gateway.http(), "");
    distributor.kill();
    gateway.await_log(&["distributor", "trying again"]);
    for number in 1..=5 {
        assert_eq!(create(&gateway.http(), &number.to_string()), number);
        assert_eq!(seqs(&events.changes(1)), [number]);
        assert_eq!(seqs(&follow(&gateway.http(), &format!("?after={}", number - 1)).changes(1)), [number]);
    }
    drop((users, scratch));
}

#[test]
fn a_request_for_events_without_an_instance_gets_a_reason() {
    let mut system = System::start();
    let unknown = system.http().events("/nowhere/changes", &[]).err().unwrap();
    assert_eq!(unknown.status, 404);
    system.users.remove(0).kill();
    await_instances(&system.gateway, "GET", "/users/changes", 0);
    for path in ["/users/changes", "/users/changes?after=0", "/users/1"] {
        let answer = system.http().events(path, &[]).err().unwrap();
        assert_eq!(answer.status, 503, "{path}: {}", answer.text());
        assert!(answer.header("Retry-After").is_some(), "{path}: no `Retry-After`");
        assert!(answer.message().contains("no connection"), "{path}: {}", answer.text());
    }
}
