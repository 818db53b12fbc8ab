//! Nodes of ours with another secret, without one, or with a false distributor.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use pilcrow::context::Context;
use pilcrow::mesh::Mesh;
use pilcrow::net::link::LinkLimits;
use pilcrow::net::secret::{Secret, new_challenge};
use pilcrow::node::Node;
use serde_json::{Value, json};

use crate::harness::{Packets, Process, Program, SECRET, Scratch, System, eventually};

const OTHER: &str = "another secret, of some 34 bytes..";

fn secured_distributor() -> Process {
    Program::distributor().variables(&[("PILCROW_SECRET", SECRET)]).start()
}

fn users_with_secret(distributor: &SocketAddr, scratch: &Scratch, secret: &str) -> Process {
    Program::users(distributor, scratch).variables(&[("PILCROW_SECRET", secret)]).start()
}

/// The registered services, as an authorised node sees them.
fn registered(distributor: &Process) -> Vec<Value> {
    let mut asking = Packets::proven(distributor.address(), SECRET);
    let list = asking.receive().expect("the list");
    list["params"].as_array().expect("an array").clone()
}

fn count(process: &Process, words: &[&str]) -> usize {
    process.log().iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

#[test]
fn a_node_without_the_secret_is_rejected_and_logs_once_what_to_set() {
    let (distributor, scratch) = (secured_distributor(), Scratch::new());
    let users = Process::users(&distributor, &scratch, &[]);
    let address = distributor.address().to_string();
    let words = [&*address, "asks for the cluster secret: set PILCROW_SECRET"];
    assert!(users.await_log(&words).contains("WARN"));
    distributor.await_log(&["WARN", "does not prove the cluster secret", "what came is no proof"]);
    // It retries without another log line.
    eventually("it has retried", || (count(&users, &["still rejects this node"]) >= 2).then_some(()));
    assert_eq!(
        (count(&users, &words), count(&users, &["INFO", "registered as"])),
        (1, 0),
        "{:#?}",
        users.log()
    );
    assert_eq!(registered(&distributor), [json!(null); 0]);
}

#[test]
fn a_node_with_another_secret_is_rejected_and_both_sides_log_it() {
    let (distributor, scratch) = (secured_distributor(), Scratch::new());
    let users = users_with_secret(&distributor.address(), &scratch, OTHER);
    let address = distributor.address().to_string();
    let words = [&*address, "does not prove the cluster secret", "is PILCROW_SECRET the same there?"];
    assert!(users.await_log(&words).contains("WARN"));
    distributor.await_log(&["WARN", "does not prove the cluster secret", "another secret"]);
    eventually("it has retried", || (count(&users, &words) >= 2).then_some(()));
    assert_eq!(
        count(&users, &["WARN", "cluster secret"]),
        1,
        "logged once, then at debug: {:#?}",
        users.log()
    );
    assert_eq!(count(&users, &["registered as"]), 0);
    assert_eq!(registered(&distributor), [json!(null); 0]);
}

#[test]
fn a_node_with_a_secret_does_not_join_a_distributor_without_one() {
    let (distributor, scratch) = (Process::distributor(&[]), Scratch::new());
    let users = users_with_secret(&distributor.address(), &scratch, SECRET);
    users.await_log(&["WARN", "does not prove the cluster secret", "it asks for no proof: it has no secret"]);
    eventually("it has left", || (count(&distributor, &["gone; it was not registered"]) > 0).then_some(()));
    assert_eq!(count(&distributor, &["registered: users"]), 0);
}

/// A false distributor: its action on the first connection, and all bytes that it receives there.
fn false_distributor(act: impl FnOnce(&mut TcpStream)) -> (String, Process) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let scratch = Scratch::new();
    let users = users_with_secret(&address, &scratch, SECRET);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    act(&mut stream);
    let mut sent = Vec::new();
    let _ = stream.read_to_end(&mut sent);
    users.await_log(&["WARN", &address.to_string(), "does not prove the cluster secret"]);
    assert_eq!(count(&users, &["registered as"]), 0);
    (String::from_utf8(sent).unwrap(), users)
}

#[test]
fn a_fake_distributor_that_sends_a_list_learns_nothing() {
    let list = json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": [] });
    let (sent, _users) = false_distributor(|stream| stream.write_all(format!("{list}¶").as_bytes()).unwrap());
    assert_eq!(sent, "");
}

#[test]
fn a_silent_fake_distributor_learns_nothing() {
    let (sent, users) = false_distributor(|_| {});
    assert_eq!(sent, "");
    users.await_log(&["no proof came within 1.5s"]);
}

#[test]
fn a_fake_distributor_with_a_guessed_or_reflected_proof_is_rejected() {
    for reflects in [true, false] {
        let (sent, users) = false_distributor(|stream| {
            let mut packets = Packets::on(stream.try_clone().unwrap());
            packets.send(&json!({ "proto": "pilcrow/1", "challenge": new_challenge().unwrap() }));
            let answer = packets.receive().expect("its proof");
            let guess = json!(new_challenge().unwrap());
            packets.send(&json!({ "proof": if reflects { &answer["proof"] } else { &guess } }));
        });
        assert_eq!(sent, "", "no bytes after its proof");
        users.await_log(&["WARN", "another secret"]);
    }
}

#[test]
fn a_program_that_embeds_the_library_joins_with_the_secret() {
    let system = System::builder().secured().start();
    let secret = Secret::new(SECRET.as_bytes()).unwrap();
    let distributors = [system.distributor.address().to_string()];
    let node = Node::ours("story", 9, Vec::new(), "story");
    let (mesh, _membership): (Arc<Mesh>, _) =
        Mesh::join(&distributors, node, LinkLimits::default(), Some(&secret)).unwrap();
    eventually("its mesh is linked to users", || {
        mesh.call(&Context::default(), "GET", "/users", &json!({}))
            .ok()
            .filter(|reply| reply["results"] == json!([]))
    });
}
