//! The small system under faults: restarts, kills, silence and garbage.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use serde_json::json;

use super::{ALL_SMALL, Kinds, Real, Small, Trio, await_link, small};
use crate::harness::{Packets, Process, eventually};

/// The process again, on the port that it had.
fn restart(old: Process, program: crate::harness::Program) -> Process {
    let address = old.address().to_string();
    old.kill();
    program.flags(["--listen", &address]).start()
}

#[test]
fn a_restart_of_the_small_distributor_takes_nothing_down_and_all_register_again() {
    let mut system = Trio::start(ALL_SMALL, &[Small]);
    system.create("kim@example.com");
    system.distributor = restart(system.distributor, small("small-distributor", &[]));
    assert_eq!(system.http().get("/users/1").status, 200, "the link still lives");
    let list = system.distributor.packets().await_list(|_| true);
    assert!(list.len() <= 2);
    eventually("both have registered again", || {
        let list = system.distributor.packets().await_list(|_| true);
        (list.len() == 2).then_some(())
    });
    assert_eq!(system.http().get("/users/1").status, 200);
}

#[test]
fn a_kill_of_small_users_loses_no_acknowledged_user_and_the_link_comes_back() {
    let mut system = Trio::start(ALL_SMALL, &[Small]);
    let http = system.http();
    let writer = std::thread::spawn(move || {
        let mut acknowledged = Vec::new();
        for number in 0.. {
            let body = json!({ "email": format!("{number}@example.com"), "name": "Kim" });
            match http.post("/users", &body).status {
                201 => acknowledged.push(number),
                502 | 503 => return acknowledged,
                other => panic!("{other}"),
            }
        }
        acknowledged
    });
    eventually("some users are created", || {
        (system.http().get("/users?limit=20").results().as_array()?.len() == 20).then_some(())
    });
    let users = system.users.remove(0);
    let (port, distributor) = (users.port(), system.distributor.address().to_string());
    users.kill();
    let acknowledged = writer.join().unwrap();
    let answer = system.http().get("/users/1");
    assert_eq!(
        (answer.status, answer.reply()["errorcode"].clone()),
        (503, json!(503)),
        "the route stays known"
    );

    let again = Small.users(&distributor, &system.scratch).flags(["--listen", &format!("127.0.0.1:{port}")]);
    let began = Instant::now();
    system.users.push(again.start());
    await_link(&system.gateway, port, 2);
    assert!(began.elapsed() < Duration::from_secs(8), "the link came back after {:?}", began.elapsed());
    let list = system.http().get("/users?limit=500").results();
    for number in acknowledged {
        let email = json!(format!("{number}@example.com"));
        assert!(list.as_array().unwrap().iter().any(|user| user["email"] == email), "{email} is lost");
    }
}

#[test]
fn two_small_instances_share_the_requests_and_one_is_enough() {
    let mut system = Trio::start(ALL_SMALL, &[Small, Small]);
    system.create("kim@example.com");
    for _ in 0..10 {
        assert_eq!(system.http().get("/users/1").status, 200);
    }
    system.users.remove(0).kill();
    eventually("every read is answered by the other instance", || {
        (0..4).all(|_| system.http().get("/users/1").status == 200).then_some(())
    });
}

#[test]
fn a_silent_small_users_gets_504_and_answers_when_it_continues() {
    let system = Trio::start(ALL_SMALL, &[Small]);
    system.create("kim@example.com");
    system.users[0].signal(SIGSTOP);
    let began = Instant::now();
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let http = system.http();
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(move || http.get("/users/1").status)).collect();
        let unknown = http.get("/nothing");
        assert_eq!(unknown.status, 404, "other requests do not wait");
        assert!(began.elapsed() < Duration::from_secs(4));
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    system.users[0].signal(SIGCONT);
    assert_eq!(answers, [504; 3]);
    assert!(began.elapsed() < Duration::from_secs(10));
    eventually("it answers again", || (system.http().get("/users/1").status == 200).then_some(()));
}

#[test]
fn a_client_that_sends_its_body_slowly_keeps_no_small_worker() {
    let system = Trio::start(ALL_SMALL, &[Small]);
    // Connections that arrive together may wait in tiny_http. So this client has its own before the others come.
    let mut client = system.http().connect();
    let mut is_answered = || {
        client.send_request("GET", "/users", &[], b"");
        client.receive().is_some_and(|answer| answer.status == 200)
    };
    assert!(is_answered());
    let mut slow = Vec::new();
    for length in [[5000_u64; 100].as_slice(), &[100_000_000_000_000; 10]].concat() {
        let mut one = system.http().connect();
        one.send(format!("POST /users HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{{").as_bytes());
        slow.push(one);
        assert!(is_answered());
    }
    assert!(is_answered());
}

#[test]
fn garbage_closes_only_its_own_connection() {
    let mut system = Trio::start(ALL_SMALL, &[Small]);
    for address in [system.users[0].address(), system.distributor.address()] {
        let deep = "[".repeat(200_000) + "¶";
        let long = "a".repeat(1_100_000);
        let wrong: [&[u8]; 6] = [
            b"hello\xc2\xb6",
            b"[1]\xc2\xb6",
            b"{\"a\":\"\xff\"}\xc2\xb6",
            b"7\xc2\xb6",
            deep.as_bytes(),
            long.as_bytes(),
        ];
        for bytes in wrong {
            let mut peer = Packets::to(address);
            peer.send_raw(bytes);
            while peer.receive_text().is_some() {}
        }
    }
    // Each of these packets is an object, and none makes sense.
    for packet in [json!({}), json!({ "uri": 7, "method": [], "params": 3, "key": {} }), json!({ "key": 1 })]
    {
        system.users[0].packets().send(&packet);
        system.distributor.packets().send(&packet);
    }
    // A `¶` needs more space in a packet than in a body, so the packet of this request is too long to be sent.
    let long =
        system.http().post("/users", &json!({ "email": "l@example.com", "name": "¶".repeat(400_000) }));
    assert!(long.status >= 400, "{}", long.status);
    let long = system.http().post("/users", &json!({ "x".repeat(900_000): 1 }));
    assert_eq!(long.status, 400);
    let mut bad_registration = system.distributor.packets();
    bad_registration.register("bad", 0, &["GET/bad"], &json!({}));
    assert!(system.http().raw(b"\x00\xff nonsense\r\n\r\n").is_none_or(|answer| answer.status == 400));
    system.create("kim@example.com");
    assert_eq!(system.http().get("/users/1").status, 200);
    assert!(system.users[0].is_alive() && system.distributor.is_alive() && system.gateway.is_alive());
    for process in [&system.users[0], &system.distributor, &system.gateway] {
        assert!(!process.log().iter().any(|line| line.contains("panicked")), "{:#?}", process.log());
    }
}

#[test]
fn a_packet_that_is_cut_inside_a_character_arrives_whole() {
    let system = Trio::start(ALL_SMALL, &[Small]);
    let mut users = system.users[0].packets();
    let packet = "{\"uri\":\"/users\",\"method\":\"POST\",\"key\":1,\"params\":{\"email\":\"k@example.com\",\"name\":\"김\"}}¶";
    // Each piece has its own reader at the other end: the pause lets the bytes before it arrive alone.
    for byte in packet.as_bytes() {
        users.send_raw(&[*byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(users.receive().unwrap()["results"]["name"], "김");
}

#[test]
fn when_a_real_instance_leaves_a_small_gateway_uses_the_other_one() {
    let kinds = Kinds { distributor: Real, gateway: Small };
    let mut system = Trio::start(kinds, &[Real, Real]);
    system.create("kim@example.com");
    let status = system.users.remove(0).stop();
    assert!(status.success());
    eventually("every read is answered by the other instance", || {
        (0..4).all(|_| system.http().get("/users/1").status == 200).then_some(())
    });
}
