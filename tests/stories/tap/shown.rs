//! The output of the tap.

use std::fs;

use serde_json::json;

use super::{Tap, Tapped, lines_of, mirror, program};
use crate::harness::{Packets, Process, Program, Scratch, eventually};

#[test]
fn every_packet_is_printed_once_with_its_direction_and_size() {
    let (distributor, scratch) = (Process::distributor(&[]), Scratch::new());
    let users = Process::users(&distributor, &scratch, &[]);
    let tap = Tap::start(users.address(), &[]);
    let mut packets = Packets::to(tap.address());
    let requests: Vec<String> = (1..=100)
        .map(|key| {
            format!(r#"{{"uri":"/users","method":"GET","key":{key},"params":{{"name":"김 {key}"}}}}¶"#)
        })
        .collect();
    // Many packets in one piece, and one packet in two pieces.
    packets.send_raw(requests[..99].concat().as_bytes());
    let (begin, end) = requests[99].as_bytes().split_at(20);
    packets.send_raw(begin);
    packets.send_raw(end);
    let replies: Vec<String> = (1..=100).map(|_| packets.receive_text().unwrap()).collect();

    for (direction, sent) in
        [("to", requests), ("from", replies.iter().map(|one| format!("{one}¶")).collect())]
    {
        let printed = tap.await_packets(direction, 100);
        assert_eq!(printed.len(), 100);
        for (line, sent) in printed.iter().zip(sent) {
            assert_eq!((&line["connection"], &line["bytes"]), (&json!(1), &json!(sent.len())));
            assert_eq!(format!("{}¶", line["packet"]).len(), sent.len(), "{line}");
            let packet: serde_json::Value = serde_json::from_str(sent.trim_end_matches('¶')).unwrap();
            assert_eq!(line["packet"], packet);
        }
    }
}

#[test]
fn a_request_is_printed_before_its_reply() {
    let tap = Tap::start(mirror(), &[]);
    let mut packets = Packets::to(tap.address());
    for key in 1..=500 {
        packets.send(&json!({ "key": key }));
        assert_eq!(packets.receive(), Some(json!({ "key": key })));
    }
    tap.await_packets("from", 500);
    let lines = tap.lines().into_iter().filter(|line| line["packet"].is_object());
    let printed: Vec<_> =
        lines.map(|line| (line["packet"]["key"].clone(), line["direction"].clone())).collect();
    let expected: Vec<_> =
        (1..=500).flat_map(|key| ["to", "from"].map(|direction| (json!(key), json!(direction)))).collect();
    assert_eq!(printed, expected);
}

#[test]
fn each_connection_has_a_number_and_its_beginning_and_end_are_printed() {
    let distributor = Process::distributor(&[]);
    let tap = Tap::start(distributor.address(), &[]);
    for number in 1..=2 {
        let mut packets = Packets::to(tap.address());
        packets.await_list(|_| true);
        assert_eq!(tap.await_packets("from", number)[number - 1]["connection"], json!(number));
    }
    let notes = eventually("both connections have ended", || {
        let notes: Vec<_> = tap.lines().into_iter().filter(|line| line["note"].is_string()).collect();
        (notes.iter().filter(|line| line["note"] == "closed").count() == 2).then_some(notes)
    });
    let node = format!("connected to {}", distributor.address());
    assert_eq!(notes.iter().filter(|line| line["note"].as_str().unwrap().ends_with(&node)).count(), 2);
}

#[test]
fn a_frame_that_is_no_packet_is_printed_as_its_beginning() {
    let tap = Tap::start(mirror(), &[]);
    Packets::to(tap.address()).send_raw("null¶{\"key\":1¶".as_bytes());
    let printed = tap.await_packets("to", 2);
    assert_eq!((&printed[0]["text"], &printed[0]["bytes"]), (&json!("null"), &json!(6)));
    assert!(printed[0]["packet"].is_null() && printed[0]["note"].as_str().unwrap().contains("not a JSON"));
    assert_eq!(printed[1]["bytes"], json!(10));
}

#[test]
fn a_terminal_gets_text_with_colour_unless_that_is_unwanted() {
    if std::process::Command::new("script").arg("--version").output().is_err() {
        return crate::harness::skip("script", "not installed on this machine");
    }
    let distributor = Process::distributor(&[]);
    for (variable, has_colour) in [("", true), ("NO_COLOR=1", false)] {
        let command = format!("exec env {variable} {} {}", program(), distributor.address());
        let mut terminal = Program::at("script").flags(["-qec", &command, "/dev/null"]).watch();
        let ready = terminal.line().unwrap();
        let address = ready.rsplit(' ').next().unwrap().parse().unwrap();
        let _packets = Packets::to(address);
        let list = loop {
            let line = terminal.line().expect("the list");
            if line.contains("distributes") {
                break line;
            }
        };
        assert_eq!(list.contains("\x1b["), has_colour, "{list:?}");
        let without_colour = list.replace("\x1b[1;32m", "").replace("\x1b[2m", "").replace("\x1b[0m", "");
        assert!(without_colour.contains(" #1  ← "), "{without_colour:?}");
        assert!(list.contains(" bytes") && list.contains('¶'), "{list:?}");
    }
}

#[test]
fn no_password_and_no_token_is_in_the_output_or_in_the_recording() {
    let scratch = Scratch::new();
    let recording = scratch.file("recording");
    let tapped = Tapped::start(&["--record", recording.to_str().unwrap()]);
    let secret = "hush-hush-correct-horse";
    let http = tapped.http();
    let kim = json!({ "email": "kim@example.com", "name": "Kim", "password": secret });
    assert_eq!(http.post("/users", &kim).status, 201);
    let login = http.post("/users/login", &json!({ "email": "kim@example.com", "password": secret }));
    let token = login.results()["token"].as_str().unwrap().to_owned();
    let authorization = format!("Bearer {token}");
    assert_eq!(http.request("GET", "/users/1", &[("Authorization", &authorization)], b"").status, 200);
    Packets::to(tapped.tap.address())
        .send_raw(format!("{{\"password\":\"{secret}\"¶password={secret}¶").as_bytes());

    eventually("the recording has all packets", || {
        let recorded = lines_of(&recording).into_iter().filter(|line| line["direction"] == "to").count();
        (recorded == 5 && tapped.tap.packets("to").len() == 5).then_some(())
    });
    for file in [&recording, &tapped.tap.lines] {
        let text = fs::read_to_string(file).unwrap();
        assert!(!text.contains(secret) && !text.contains(&token), "{text}");
        for masked in [r#""password":"***""#, r#""token":"***""#, r#""authorization":"***""#] {
            assert!(text.contains(masked), "{masked} is not in {text}");
        }
    }
}
