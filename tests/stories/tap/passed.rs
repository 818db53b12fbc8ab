//! What passes through a tap, and that the nodes do not notice the tap.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{Tap, Tapped, mirror, program};
use crate::course::{course_js, port_of};
use crate::harness::{
    PATIENCE, Packets, Process, Program, Random, SECRET, Scratch, await_instances, eventually,
};

/// Packets, and bytes that are no packets.
fn odd_bytes() -> Vec<u8> {
    let mut random = Random::from_env();
    let noise: Vec<u8> = (0..3000).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
    let packets = "{\"key\":1}¶\n{\"name\":\"a¶b\"}¶¶ ¶hello¶{\"key\":\"ö\u{b6}";
    [packets.as_bytes(), &noise, b"\xc2\xb6", &noise, b"\xc2"].concat()
}

#[test]
fn all_bytes_pass_unchanged_in_both_directions() {
    for flags in [&[][..], &["--split"], &["--delay", "20"]] {
        let tap = Tap::start(mirror(), flags);
        let mut stream = TcpStream::connect(tap.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let bytes = odd_bytes();
        // What follows a frame that is not UTF-8 passes as well.
        let not_utf8 = b"\xff\xfe\xc2\xb6";
        stream.write_all(not_utf8).unwrap();
        let mut first = [0; 4];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, not_utf8);
        stream.write_all(&bytes).unwrap();
        // The end of one direction passes too, and the other one goes on.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert_eq!(back, bytes, "{flags:?}");
    }
}

/// A course node reads each piece as whole packets.
#[test]
fn a_packet_that_comes_in_one_piece_leaves_in_one_piece() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tap = Tap::start(listener.local_addr().unwrap(), &[]);
    let packet = format!("{{\"name\":\"{}\"}}¶", "x".repeat(8_000));
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..20 {
        let mut sender = TcpStream::connect(tap.address()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        sender.write_all(packet.as_bytes()).unwrap();
        assert_eq!(receiver.read(&mut buffer).unwrap(), packet.len());
    }
}

#[test]
fn more_bytes_than_a_frame_may_have_pass_unchanged() {
    let tap = Tap::start(mirror(), &[]);
    let stream = Arc::new(TcpStream::connect(tap.address()).unwrap());
    let bytes = vec![b'x'; 3 * 1024 * 1024];
    let (writer, sent) = (stream.clone(), bytes.clone());
    let writing = thread::spawn(move || {
        (&*writer).write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    (&*stream).read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == bytes, "{} bytes came back", back.len());
    eventually("the tap says that it shows no more", || {
        tap.lines().iter().any(|line| line["note"] == "further bytes pass without being shown").then_some(())
    });
}

#[test]
fn a_receiver_that_does_not_read_stops_the_sender() {
    const LIMIT: usize = 200 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tap = Tap::start(listener.local_addr().unwrap(), &[]);
    let mut sender = TcpStream::connect(tap.address()).unwrap();
    let (receiver, _) = listener.accept().unwrap();
    sender.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let packet = format!("{{\"name\":\"{}\"}}¶", "x".repeat(60_000));
    let mut sent = 0;
    while let Ok(count) = sender.write(packet.as_bytes()) {
        sent += count;
        assert!(sent < LIMIT, "the tap has taken {sent} bytes that nobody reads");
    }
    assert!(tap.process.peak_kib() < 128 * 1024, "the tap uses {} KiB", tap.process.peak_kib());
    sender.shutdown(Shutdown::Write).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let read = std::io::copy(&mut &receiver, &mut std::io::sink()).unwrap();
    assert_eq!(usize::try_from(read).unwrap(), sent);
}

#[test]
fn packets_do_not_wait_for_a_reader_of_the_output() {
    let scratch = Scratch::new();
    let fifo: PathBuf = scratch.file("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().is_ok_and(|status| status.success()));
    let path = fifo.clone();
    // The shell that starts the tap waits until both ends are open.
    let opening = thread::spawn(move || File::open(path).unwrap());
    let tap = Tap::start_writing(fifo, scratch, mirror(), &[]);
    let unread = opening.join().unwrap();
    let mut packets = Packets::to(tap.address());
    let packet = json!({ "name": "x".repeat(1000) });
    for _ in 0..5_000 {
        packets.send(&packet);
        assert_eq!(packets.receive().as_ref(), Some(&packet));
    }
    // Once it is read again, the output says what it lacks.
    let reading = thread::spawn(move || {
        let mut lines = BufReader::new(unread).lines().map_while(Result::ok);
        lines.any(|line| line.contains("lines skipped"))
    });
    eventually("the output is read", || reading.is_finished().then_some(()));
    assert!(reading.join().unwrap());
}

#[test]
fn output_that_cannot_be_written_does_not_stop_the_packets() {
    let tap = Tap::start_writing("/dev/full".into(), Scratch::new(), mirror(), &[]);
    let mut packets = Packets::to(tap.address());
    for key in 1..=100 {
        packets.send(&json!({ "key": key }));
        assert_eq!(packets.receive(), Some(json!({ "key": key })));
    }
}

#[test]
fn a_service_that_advertises_a_tap_is_reached_through_it() {
    let tapped = Tapped::start(&[]);
    tapped.create_user("Kim");
    assert_eq!(tapped.http().get("/users/1").results()["name"], "Kim");
    let rows = tapped.http().get("/routes").results();
    let row = rows.as_array().unwrap().iter().find(|row| row["path"] == "/users").unwrap();
    assert!(row["instances"].to_string().contains(&tapped.tap.address().to_string()), "{row}");
    let asked = tapped.tap.await_packets("to", 1);
    assert_eq!((&asked[0]["packet"]["uri"], asked.len()), (&json!("/users"), 1));
    assert_eq!(tapped.tap.await_packets("from", 1)[0]["packet"]["results"]["name"], "Kim");
}

#[test]
fn an_advertised_address_without_a_port_is_rejected() {
    for address in ["127.0.0.1:0", "127.0.0.1", "9020"] {
        let output = Program::at(env!("CARGO_BIN_EXE_users")).flags(["--advertise", address]).run();
        assert_eq!(output.status, Some(2), "{}", output.stderr);
        assert!(output.stderr.contains("--advertise"), "{}", output.stderr);
    }
}

#[test]
fn a_course_distributor_that_ignores_an_advertised_host_is_reported() {
    let Some(distributor) = course_js(&["distributor"]) else { return };
    let scratch = Scratch::new();
    let users = Process::users(&distributor, &scratch, &["--advertise", "tap.example:9020"]);
    users.await_log(&["lists this node at", ":9020 and not at tap.example"]);
}

#[test]
fn nodes_with_a_cluster_secret_prove_it_through_a_tap() {
    let variables = [("PILCROW_SECRET", SECRET)];
    let distributor = Program::distributor().variables(&variables).start();
    let tap = Tap::start(distributor.address(), &[]);
    let joined = tap.address().to_string();
    let scratch = Scratch::new();
    let users = Program::users(tap.address(), &scratch).variables(&variables).start();
    users.await_log(&["registered as users with distributor", &joined]);
    // Without the secret, a tap opens no port to the network.
    let output = Program::at(&program()).flags([&joined, "--listen", "0.0.0.0:0"]).run();
    assert!(output.status == Some(1) && output.stderr.contains("development mode"), "{}", output.stderr);
}

#[test]
fn course_nodes_work_through_a_tap() {
    let (theirs, ours) = (Process::distributor(&[]), Process::distributor(&[]));
    let Some(mut goods) = course_js(&["service", &port_of(&theirs)]) else { return };
    // The service registers at one distributor by itself, and at the other one under the address of its tap.
    let tap = Tap::start(goods.address(), &[]);
    let mut registration = ours.packets();
    registration.register("goods", tap.address().port(), &["GET/goods", "POST/goods"], &json!({}));
    let gateway = Process::gateway(&ours, &[]);
    await_instances(&gateway, "GET", "/goods", 1);
    // A longer packet may reach the tap in two pieces on a busy machine, and a course service dies of that.
    let long = "x".repeat(12_000);
    for number in 0..50 {
        let posted = gateway.http().post("/goods", &json!({ "number": number, "text": long }));
        assert_eq!(posted.results()["params"]["number"], json!(number), "{}", posted.text());
    }
    assert_eq!(tap.await_packets("to", 50).len(), 50);
    assert!(goods.is_alive(), "{:#?}", goods.log());

    // A course gate joins through another tap.
    let entry = Tap::start(ours.address(), &[]);
    let Some(gate) = course_js(&["gate", &entry.address().port().to_string()]) else { return };
    eventually("the course gate knows the service", || {
        (gate.http().get("/goods").status == 200).then_some(())
    });
    assert_eq!(entry.await_packets("to", 1)[0]["packet"]["params"]["name"], "gate");
}
