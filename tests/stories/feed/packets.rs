//! Streams by raw packets, as `docs/protocol.md` describes them.

use serde_json::{Value, json};

use super::{create, create_at, create_many, next_change, subscribe, subscribe_from_now_on};
use crate::harness::{Packets, System};

fn cancel(packets: &mut Packets, key: &Value) {
    packets.send(&json!({ "uri": "/users/changes", "method": "CANCEL", "key": key }));
}

/// Panics unless the next packet is the reply to a request sent now.
fn expect_silence(packets: &mut Packets) {
    packets.send(&json!({ "uri": "/users", "method": "GET", "key": 1000, "params": {} }));
    let reply = packets.receive().unwrap();
    assert_eq!((&reply["key"], reply.get("more")), (&json!(1000), None), "{reply}");
}

#[test]
fn every_reply_of_a_stream_has_the_key_of_its_request_and_more() {
    let system = System::start();
    let mut packets = system.users[0].packets();
    subscribe(&mut packets, &json!(7), None);
    let standing = json!({ "key": 7, "errorcode": 0, "errormessage": "success", "seq": 0, "more": true });
    assert_eq!(packets.receive().unwrap(), standing, "it confirms the stream at once");
    for seq in 1..=3 {
        create(&system.http(), &seq.to_string());
        let reply = packets.receive().unwrap();
        let change = &reply["results"];
        let expected = json!({
            "key": 7, "errorcode": 0, "errormessage": "success", "seq": seq, "more": true, "results": change,
        });
        assert_eq!(reply, expected);
        assert_eq!((&change["seq"], &change["kind"]), (&json!(seq), &json!("created")));
    }
}

#[test]
fn after_cancel_the_stream_stops_and_the_connection_stays() {
    let system = System::start();
    let mut packets = system.users[0].packets();
    // The witness subscribes after the cancelled stream, so the process notifies it later.
    for round in 0..5 {
        let key = 10 + round;
        subscribe_from_now_on(&mut packets, key);
        let mut witness = system.users[0].packets();
        subscribe_from_now_on(&mut witness, 1);
        create(&system.http(), &format!("before-{round}"));
        assert_eq!(next_change(&mut packets, key), next_change(&mut witness, 1));
        cancel(&mut packets, &json!(key));
        expect_silence(&mut packets);
        create(&system.http(), &format!("after-{round}"));
        next_change(&mut witness, 1);
        expect_silence(&mut packets);
    }
    // A cancel for an unknown stream has no effect on other streams.
    for key in [json!(10), json!(99), json!(0), json!("x"), json!({}), Value::Null] {
        cancel(&mut packets, &key);
    }
    packets.send(&json!({ "uri": "/users/changes", "method": "CANCEL" }));
    expect_silence(&mut packets);
}

#[test]
fn one_connection_carries_several_streams_and_any_json_is_a_key() {
    let system = System::start();
    let http = system.http();
    create_many(&mut system.users[0].packets(), 3);
    let mut packets = system.users[0].packets();
    let keys = [json!(1), json!("two"), json!([3, "¶"])];
    for (after, key) in (0..).zip(&keys) {
        subscribe(&mut packets, key, Some(after));
    }
    create(&http, "three");
    let mut replies: Vec<(Value, Value)> = (0..4 + 3 + 2).map(|_| numbered(&mut packets)).collect();
    for (after, key) in (0_u64..).zip(&keys) {
        let own: Vec<&Value> = replies.iter().filter(|(one, _)| one == key).map(|(_, seq)| seq).collect();
        assert_eq!(own, (after + 1..=4).map(Value::from).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }
    cancel(&mut packets, &keys[1]);
    expect_silence(&mut packets);
    create(&http, "four");
    replies = (0..2).map(|_| numbered(&mut packets)).collect();
    replies.sort_by_key(|(key, _)| key.to_string());
    assert_eq!(replies, [(keys[0].clone(), json!(5)), (keys[2].clone(), json!(5))]);
    // A key is free again once its stream has ended.
    subscribe(&mut packets, &keys[1], Some(4));
    assert_eq!(numbered(&mut packets), (keys[1].clone(), json!(5)));
}

/// The key and the number of the next change on any stream.
fn numbered(packets: &mut Packets) -> (Value, Value) {
    loop {
        let reply = packets.receive().unwrap();
        assert_eq!((&reply["errorcode"], &reply["more"]), (&json!(0), &json!(true)), "{reply}");
        if let Some(change) = reply.get("results") {
            assert_eq!(reply["seq"], change["seq"], "{reply}");
            return (reply["key"].clone(), reply["seq"].clone());
        }
    }
}

#[test]
fn a_second_stream_under_one_key_is_rejected_and_the_first_continues() {
    let system = System::start();
    let mut packets = system.users[0].packets();
    subscribe_from_now_on(&mut packets, 1);
    subscribe(&mut packets, &json!(1), None);
    let refused = packets.receive().unwrap();
    assert_eq!((&refused["key"], refused.get("more")), (&json!(1), None));
    assert_ne!(refused["errorcode"], 0, "{refused}");
    create(&system.http(), "kim");
    assert_eq!(next_change(&mut packets, 1)["seq"], 1);
}

#[test]
fn key_0_opens_a_stream_like_any_other_key() {
    let system = System::start();
    let mut packets = system.users[0].packets();
    subscribe_from_now_on(&mut packets, 0);
    create(&system.http(), "kim");
    assert_eq!(next_change(&mut packets, 0)["seq"], 1);
    cancel(&mut packets, &json!(0));
    create(&system.http(), "lee");
    expect_silence(&mut packets);
}

#[test]
fn subscribers_that_disconnect_disturb_no_other() {
    let mut system = System::start();
    let mut writer = system.users[0].packets();
    let mut staying = system.users[0].packets();
    subscribe_from_now_on(&mut staying, 1);
    for round in 0..20 {
        let mut leaving: Vec<Packets> = (0..5).map(|_| system.users[0].packets()).collect();
        for packets in &mut leaving {
            subscribe(packets, &json!(1), Some(0));
        }
        let seq = create_at(&mut writer, &round.to_string());
        drop(leaving);
        assert_eq!(next_change(&mut staying, 1)["seq"], seq);
    }
    assert!(system.users[0].is_alive());
}
