//! No read returns old data, and no acknowledged write is lost.

use std::thread;

use serde_json::{Value, json};

use super::{create, list_all};
use crate::harness::{Packets, Process, System, eventually};

#[test]
fn a_read_after_an_answered_write_sees_it_through_any_instance() {
    let system = System::builder().users(2).start();
    create(&system.http(), "kim@example.com", "0", None);
    // The gateway uses round-robin over the instances, separately for each route. One extra read shifts the order. From
    // then on every write is read back through the other instance.
    let mut connection = system.http().connect();
    let mut ask = |method: &str, body: &[u8]| {
        connection.send_request(method, "/users/1", &[("Content-Type", "application/json")], body);
        let answer = connection.receive().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.results()["name"].clone()
    };
    ask("GET", b"");
    let mut direct: Vec<Packets> = system.users.iter().map(Process::packets).collect();
    let mut stale = Vec::new();
    for round in 1..=1000 {
        let written = json!(round.to_string());
        assert_eq!(ask("PATCH", json!({ "name": written }).to_string().as_bytes()), written);
        let read = ask("GET", b"");
        if read != written {
            stale.push((round, read));
        }
        for (instance, packets) in direct.iter_mut().enumerate() {
            let reply = packets.call("GET", "/users", &json!({ "params": "1" }), round);
            if reply["results"]["name"] != written {
                stale.push((round, json!({ "instance": instance, "reply": reply })));
            }
        }
    }
    assert!(stale.is_empty(), "{} stale reads: {stale:?}", stale.len());
}

/// Many parallel requests reach an instance in batches, and the reads of a batch share one state.
#[test]
fn a_read_after_an_answered_write_sees_it_among_many_clients() {
    let system = System::builder().users(2).start();
    let http = system.http();
    let ids: Vec<Value> =
        (0..32).map(|one| system.create_user(&format!("{one}@example.com"), "0")["id"].clone()).collect();
    let stale: usize = thread::scope(|scope| {
        let askers: Vec<_> = ids
            .iter()
            .map(|id| {
                let (path, mut connection) = (format!("/users/{id}"), http.connect());
                scope.spawn(move || {
                    let mut ask = |method: &str, body: &[u8]| {
                        connection.send_request(method, &path, &[("Content-Type", "application/json")], body);
                        let answer = connection.receive().unwrap();
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        answer.results()["name"].clone()
                    };
                    let mut stale = 0;
                    for round in 1..=60 {
                        let written = json!(round.to_string());
                        assert_eq!(ask("PATCH", json!({ "name": written }).to_string().as_bytes()), written);
                        // Several connections: the gateway spreads them over both instances.
                        stale += (0..4).filter(|_| ask("GET", b"") != written).count();
                    }
                    stale
                })
            })
            .collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).sum()
    });
    assert_eq!(stale, 0, "stale reads");
}

#[test]
fn an_answered_write_survives_kill_9() {
    let mut system = System::start();
    let mut known: Vec<Value> = Vec::new();
    for round in 0..3 {
        let writers: Vec<_> = (0..4).map(|writer| write_until_refused(&system, round, writer)).collect();
        eventually("some writes are answered", || {
            let mut packets = system.users[0].packets();
            let count = list_all(&mut packets).len();
            (count >= known.len() + 40).then_some(())
        });
        system.users.remove(0).kill();
        known.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));

        system.users.push(Process::users(&system.distributor, &system.scratch, &[]));
        let mut packets = system.users[0].packets();
        let listed = list_all(&mut packets);
        for user in &known {
            assert!(listed.contains(user), "answered and lost in round {round}: {user}");
        }
        let address = system.users[0].address().to_string();
        eventually("the gateway uses the new instance", || {
            system.http().get("/routes").text().contains(&format!("[\"{address}\"]")).then_some(())
        });
    }
    assert!(known.len() >= 90, "{} writes were answered", known.len());
}

/// Creates users, one after the other, until one creation fails. Returns all acknowledged ones.
fn write_until_refused(system: &System, round: u32, writer: u32) -> thread::JoinHandle<Vec<Value>> {
    let http = system.http();
    thread::spawn(move || {
        let mut answered = Vec::new();
        for number in 0.. {
            let email = format!("{round}-{writer}-{number}@example.com");
            let answer = http.post("/users", &json!({ "email": email, "name": "Kim" }));
            if answer.status != 201 {
                assert!(matches!(answer.status, 502..=504), "{}", answer.text());
                break;
            }
            answered.push(answer.results());
        }
        answered
    })
}

#[test]
fn many_clients_create_at_once_through_two_instances_and_nothing_is_lost() {
    let system = System::builder().users(2).start();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let http = system.http();
            thread::spawn(move || {
                let mut connection = http.connect();
                let mut create = |number| {
                    let email = format!("{client}-{number}@example.com");
                    let body = json!({ "email": email, "name": email }).to_string();
                    let json = [("Content-Type", "application/json")];
                    connection.send_request("POST", "/users", &json, body.as_bytes());
                    let answer = connection.receive().unwrap();
                    assert_eq!(answer.status, 201, "{}", answer.text());
                    answer.results()
                };
                (0..50).map(&mut create).collect::<Vec<Value>>()
            })
        })
        .collect();
    let mut created: Vec<Value> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    created.sort_by_key(|user| user["id"].as_u64());
    let ids: Vec<u64> = created.iter().map(|user| user["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=400).collect::<Vec<_>>());
    for users in &system.users {
        assert_eq!(list_all(&mut users.packets()), created);
    }
}
