//! The model: clients create, change and delete users at random, through the gateway and directly through two users
//! processes. Subscribers join and leave at random. In the end, every subscriber has received the database's history,
//! change by change, also if processes are killed meanwhile.
//!
//! Everything follows from a seed, which is printed; `PILCROW_SEED=…` repeats it, as far as the operating system
//! takes turns in the same way. `cargo test -- --ignored model` runs the long versions.

mod clients;
mod world;

use std::collections::HashMap;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::Random;
use clients::{Written, follow_through_gateway, follow_users, write};
use world::{Part, World};

/// The size of a run.
struct Plan<'a> {
    /// The number of writers, and the number of acknowledged writes that each must reach.
    writers: usize,
    writes: usize,
    /// The number of subscribers at the gateway, and at each of the two users processes.
    through_gateway: usize,
    at_each_users: usize,
    /// The parts to kill, picked at random, and the number of kills.
    killed: &'a [Part],
    kills: usize,
}

const QUICK: Plan<'static> =
    Plan { writers: 4, writes: 250, through_gateway: 3, at_each_users: 2, killed: &[], kills: 0 };

const LONG: Plan<'static> =
    Plan { writers: 8, writes: 1000, through_gateway: 12, at_each_users: 6, killed: &[], kills: 0 };

const USERS: [Part; 2] = [Part::Users(0), Part::Users(1)];
const USERS_AND_GATEWAY: [Part; 3] = [Part::Users(0), Part::Users(1), Part::Gateway];
const ALL: [Part; 4] = [Part::Users(0), Part::Users(1), Part::Gateway, Part::Distributor];

#[test]
fn every_subscriber_sees_the_state_of_the_database() {
    run(&QUICK);
}

#[test]
fn every_subscriber_sees_the_state_of_the_database_although_users_is_killed_repeatedly() {
    run(&Plan { killed: &USERS, kills: 10, ..QUICK });
}

#[test]
fn every_subscriber_sees_the_state_of_the_database_although_users_and_the_gateway_are_killed() {
    run(&Plan { killed: &USERS_AND_GATEWAY, kills: 10, ..QUICK });
}

#[test]
fn every_subscriber_sees_the_state_of_the_database_although_any_process_is_killed() {
    run(&Plan { killed: &ALL, kills: 10, ..QUICK });
}

#[test]
#[ignore = "takes a minute"]
fn the_long_version() {
    run(&LONG);
}

#[test]
#[ignore = "takes minutes"]
fn the_model_holds_for_a_long_run_with_kills() {
    run(&Plan { killed: &USERS, kills: 60, ..LONG });
    run(&Plan { killed: &USERS_AND_GATEWAY, kills: 60, ..LONG });
    run(&Plan { killed: &ALL, kills: 60, ..LONG });
}

fn run(plan: &Plan<'_>) {
    let began = Instant::now();
    let mut random = Random::from_env();
    let mut world = World::start(plan.kills > 0);
    let shared = world.shared();
    let mut followers = Vec::new();
    for _ in 0..plan.through_gateway {
        let (shared, random) = (shared.clone(), random.split());
        followers.push(thread::spawn(move || follow_through_gateway(&shared, random)));
    }
    for place in [0, 1].repeat(plan.at_each_users) {
        let (shared, random) = (shared.clone(), random.split());
        followers.push(thread::spawn(move || follow_users(&shared, place, random)));
    }
    let writers: Vec<_> = (0..plan.writers)
        .map(|number| {
            let (shared, random, writes) = (shared.clone(), random.split(), plan.writes);
            thread::spawn(move || write(&shared, number, writes, random))
        })
        .collect();
    world.kill_at_random(plan.killed, plan.kills, plan.writers * plan.writes, random);
    let written: Vec<Written> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    let last = shared.write_the_last();
    let received: Vec<_> = followers.into_iter().map(|follower| follower.join().unwrap()).collect();

    let truth = world.all_changes();
    let seqs: Vec<u64> = truth.iter().map(|change| change["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=last).collect::<Vec<_>>(), "numbers have no gaps");
    for follower in &received {
        assert_eq!(follower.changes.len(), truth.len());
        for (change, expected) in follower.changes.iter().zip(&truth) {
            assert_eq!(change, expected);
        }
        assert_eq!(replay(&follower.changes), world.all_users());
    }
    check_written(&written, &truth);
    println!(
        "{} changes, {} acknowledged to the writers; {} subscribers joined {} times; {} kills; {:?}",
        truth.len(),
        written.len(),
        received.len(),
        received.iter().map(|follower| follower.joined).sum::<usize>(),
        plan.kills,
        began.elapsed()
    );
}

/// Every acknowledged write is in the feed, with the number and the content that its writer got. If the writer named a
/// version, the write follows that version.
fn check_written(written: &[Written], truth: &[Value]) {
    let mut numbers: Vec<u64> = written.iter().map(|one| one.seq).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), written.len(), "two writes have one number");
    for one in written {
        let at = usize::try_from(one.seq).unwrap() - 1;
        let change = &truth[at];
        assert_eq!((&change["kind"], &change["user_id"]), (&json!(one.kind), &one.user["id"]), "{change}");
        let user = if one.kind == "deleted" { &Value::Null } else { &one.user };
        assert_eq!(&change["user"], user, "{change}");
        if let Some(version) = one.after_version {
            let before = truth[..at].iter().rev().find(|earlier| earlier["user_id"] == change["user_id"]);
            assert_eq!(
                before.map(|before| &before["seq"]),
                Some(&json!(version)),
                "silently overwritten: {change}"
            );
        }
    }
}

/// The state after these changes.
fn replay(changes: &[Value]) -> HashMap<u64, Value> {
    let mut users = HashMap::new();
    for change in changes {
        let id = change["user_id"].as_u64().unwrap();
        let before = match change["kind"].as_str().unwrap() {
            "deleted" => users.remove(&id),
            _ => users.insert(id, change["user"].clone()),
        };
        assert_eq!(before.is_some(), change["kind"] != "created", "{change}");
    }
    users
}
