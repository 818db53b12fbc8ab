//! Inputs that kill the nodes that `course.js` plays. The other stories are only meaningful if the played nodes die of
//! the same inputs as the real ones.

use serde_json::json;

use super::{assert_alive, await_success, course_js, port_of};
use crate::harness::{Echo, Process, ReceivedRequest, eventually};

/// More bytes than a course node can handle in one read.
fn long_text() -> String {
    "x".repeat(300_000)
}

fn await_death(node: &mut Process) {
    eventually("it has died", || (!node.is_alive()).then_some(()));
}

#[test]
fn the_played_course_nodes_die_of_what_kills_real_ones() {
    let Some(mut fragile) = course_js(&["distributor", "--fragile"]) else { return };
    drop(fragile.packets());
    eventually("a silent visitor has killed it", || (!fragile.is_alive()).then_some(()));

    let ours = Process::distributor(&[]);
    let port = port_of(&ours);
    let sent = |pieces: &[&[u8]], flags: &[&str]| {
        let service = course_js(&[&["service", &port], flags].concat()).unwrap();
        let mut packets = service.packets();
        for (at, piece) in pieces.iter().enumerate() {
            assert!(at == 0 || packets.receive().is_some(), "it answers the earlier requests");
            packets.send_raw(piece);
        }
        (service, packets)
    };
    let good = "{\"uri\":\"/goods\",\"method\":\"GET\",\"key\":1,\"params\":{}}¶".as_bytes();
    let long = format!(
        "{{\"uri\":\"/goods\",\"method\":\"GET\",\"key\":1,\"params\":{{\"a\":\"{}\"}}}}¶",
        "x".repeat(300_000)
    );
    let deadly: [(&[&[u8]], &[&str]); 6] = [
        (&[b"{\"uri\":\"/goods\","], &[]),
        (&["¶".as_bytes()], &[]),
        (&["{\"uri\":\"a¶b\"}¶".as_bytes()], &[]),
        (&["{\"uri\":\"/goods\",\"method\":\"GET\",\"params\":{}}¶".as_bytes()], &[]),
        (&[long.as_bytes()], &[]),
        (&[long.as_bytes(), good], &["--merge"]),
    ];
    for (pieces, flags) in deadly {
        let (mut service, _packets) = sent(pieces, flags);
        eventually("it has died", || (!service.is_alive()).then_some(()));
    }
    let (mut service, mut packets) = sent(&[good, &[good, good].concat()], &[]);
    assert!(packets.receive().is_some() && packets.receive().is_some());
    assert_alive(&mut service);
}

#[test]
fn the_played_course_gateways_die_of_what_kills_real_ones() {
    let long = format!("{{\"key\":0,\"results\":\"{}\"}}¶", long_text());
    let deadly = [
        "{\"key\":0,\"results\":\"a¶b\"}¶", // A raw ¶ in a string.
        "null¶",
        "¶",
        "{\"key\":0,",
        "{\"key\":7,\"errorcode\":0}¶", // Nobody waits for it.
        "{\"uri\":\"/goods\",\"method\":\"GET\"}¶",
        &long,
    ];
    for bytes in deadly {
        let distributor = Process::distributor(&[]);
        let reply = bytes.to_owned();
        let _goods =
            Echo::course(&distributor, "goods", &["GET/goods"], move |request| request.raw(reply.as_bytes()));
        let Some(mut gate) = course_js(&["gate", &port_of(&distributor)]) else { return };
        let http = gate.http();
        eventually("it has died", || {
            http.try_request("GET", "/goods", &[], b"");
            (!gate.is_alive()).then_some(())
        });
    }
}

#[test]
fn a_list_over_64_kib_kills_every_course_node_that_hears_it() {
    let Some(distributor) = course_js(&["distributor"]) else { return };
    let port = port_of(&distributor);
    let nodes = ["service", "gate"].map(|role| course_js(&[role, &port]).unwrap());
    let mut onlookers = [distributor.packets(), distributor.packets()];
    for (number, onlooker) in (1..).zip(&mut onlookers) {
        onlooker.register(&long_text()[..40_000], 9, &[], &json!({}));
        onlooker.await_list(|list| list.len() == 2 + number);
    }
    for mut node in nodes {
        await_death(&mut node);
    }
}

#[test]
fn a_course_gate_drops_a_url_with_its_first_instance_and_dials_it_again_only_after_a_list() {
    let distributor = Process::distributor(&[]);
    let goods =
        ["one", "two"].map(|_| Echo::course(&distributor, "goods", &["GET/goods"], ReceivedRequest::echo));
    let Some(mut gate) = course_js(&["gate", &port_of(&distributor)]) else { return };
    await_success(&gate, "/goods");
    eventually("it is connected to both", || goods.iter().all(|one| one.connections() == 1).then_some(()));
    let status = || gate.http().get("/goods").status;
    goods[0].hang_up();
    eventually("it answers 404", || (status() == 404).then_some(()));
    for _ in 0..20 {
        assert_eq!(status(), 404);
    }
    assert_eq!(
        [goods[0].connections(), goods[1].connections()],
        [0, 1],
        "it has another instance, which it does not use"
    );
    let _other = Echo::course(&distributor, "other", &["GET/other"], ReceivedRequest::echo);
    await_success(&gate, "/goods");
    assert_eq!(goods[0].connections(), 1);
    assert_alive(&mut gate);
}
