//! Resuming after a number: no change is missing or duplicated at the seam.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use super::{all_changes, create, create_at, create_many, follow, next_change, seqs, subscribe};
use crate::harness::{Http, Process, Random, System};

#[test]
fn after_a_seq_come_all_later_changes_and_then_new_ones() {
    let system = System::start();
    let http = system.http();
    create_many(&mut system.users[0].packets(), 450);
    for after in [0, 1, 50, 249, 250, 251, 449, 450] {
        let mut events = follow(&http, &format!("?after={after}"));
        assert_eq!(seqs(&events.changes(450 - after)), (after as u64 + 1..=450).collect::<Vec<_>>());
        let mut packets = system.users[0].packets();
        subscribe(&mut packets, &json!(1), Some(after as u64));
        let replayed: Vec<Value> = (after..450).map(|_| next_change(&mut packets, 1)).collect();
        assert_eq!(replayed, all_changes(&http)[after..]);
    }
    let mut all: Vec<_> =
        [0, 449, 450, 451, 452].map(|after| follow(&http, &format!("?after={after}"))).into();
    let (first, second) = (create(&http, "first"), create(&http, "second"));
    create(&http, "third");
    assert_eq!((first, second), (451, 452));
    let expected = [1, 450, 451, 452, 453];
    for (events, from) in all.iter_mut().zip(expected) {
        let received = seqs(&events.changes(454 - from));
        assert_eq!(received, (from as u64..=453).collect::<Vec<_>>());
    }
}

#[test]
fn last_event_id_resumes_after_that_event_and_wins_over_after() {
    let system = System::start();
    let http = system.http();
    create_many(&mut system.users[0].packets(), 9);
    for (path, id, first) in
        [("/users/changes", "4", 5), ("/users/changes?after=2", "7", 8), ("/users/changes?after=7", "2", 3)]
    {
        let mut events = http.events(path, &[("Last-Event-ID", id)]).ok().unwrap();
        assert_eq!(seqs(&events.changes(10 - first)), (first as u64..=9).collect::<Vec<_>>());
    }
}

#[test]
fn a_subscriber_that_joins_during_writes_gets_each_change_once() {
    const WRITERS: u64 = 3;
    const WRITES: u64 = 120;
    const SUBSCRIBERS: u64 = 24;
    let system = System::builder().users(2).start();
    let mut random = Random::from_env();
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| write(&system.users[usize::from(writer == 0)], writer, WRITES, written.clone()))
        .collect();
    let total = WRITERS * WRITES;
    let subscribers: Vec<JoinHandle<(u64, Vec<Value>)>> = (0..SUBSCRIBERS)
        .map(|number| {
            // The readers start one after the other while the writers run.
            let last = await_written(&written, number * total / SUBSCRIBERS);
            let after = random.below(last + 1);
            let users = &system.users[random.index(2)];
            if random.below(2) == 0 {
                follow_by_events(system.http(), after, total)
            } else {
                follow_by_packets(users, after, total)
            }
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let all = all_changes(&system.http());
    assert_eq!(seqs(&all), (1..=total).collect::<Vec<_>>());
    for subscriber in subscribers {
        let (after, received) = subscriber.join().unwrap();
        let rest = &all[usize::try_from(after).unwrap()..];
        assert_eq!(seqs(&received), seqs(rest), "after {after}");
        assert_eq!(received, rest, "after {after}");
    }
}

fn write(users: &Process, writer: u64, count: u64, written: Arc<AtomicU64>) -> JoinHandle<()> {
    let mut packets = users.packets();
    thread::spawn(move || {
        for number in 0..count {
            let seq = create_at(&mut packets, &format!("{writer}-{number}"));
            written.fetch_max(seq, Ordering::SeqCst);
        }
    })
}

/// Waits until this many changes have happened; returns their number.
fn await_written(written: &AtomicU64, count: u64) -> u64 {
    crate::harness::eventually(&format!("{count} changes have happened"), || {
        Some(written.load(Ordering::SeqCst)).filter(|last| *last >= count)
    })
}

fn follow_by_events(http: Http, after: u64, last: u64) -> JoinHandle<(u64, Vec<Value>)> {
    thread::spawn(move || {
        let mut events = follow(&http, &format!("?after={after}"));
        (after, (after..last).map(|_| events.change()).collect())
    })
}

fn follow_by_packets(users: &Process, after: u64, last: u64) -> JoinHandle<(u64, Vec<Value>)> {
    let mut packets = users.packets();
    thread::spawn(move || {
        subscribe(&mut packets, &json!(5), Some(after));
        (after, (after..last).map(|_| next_change(&mut packets, 5)).collect())
    })
}
