//! The eight traps of tiny_http's server (`docs/decisions.md`), each tested on the default front.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Stage, assert_complete, assert_ends, assert_failure, assert_refused};
use crate::harness::{Connection, Http, PATIENCE, Process, eventually};

#[test]
fn trap_1_many_kept_connections_opened_at_once_are_all_served_again_and_again() {
    let stage = Stage::start();
    let mut connections: Vec<Connection> = (0..64).map(|_| stage.http().connect()).collect();
    for round in 0..4 {
        for (number, connection) in connections.iter_mut().enumerate() {
            connection.send_request("GET", &format!("/echo/{round}-{number}"), &[], b"");
        }
        for (number, connection) in connections.iter_mut().enumerate() {
            let answer = connection.receive().expect("an answer on every connection");
            assert_eq!(answer.results()["params"]["params"], format!("{round}-{number}"));
        }
    }
}

#[cfg(unix)]
#[test]
fn trap_2_at_the_descriptor_limit_connections_wait_and_are_served_once_others_close() {
    let distributor = Process::distributor(&[]);
    let gateway = crate::harness::Program::gateway(distributor.address()).max_descriptors(64).start();
    let mut stage = Stage::around(gateway, distributor);
    let mut connections: Vec<Connection> = (0..100).map(|_| stage.http().connect()).collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.send_request("GET", &format!("/echo/{number}"), &[], b"");
    }
    stage.gateway.await_log(&["WARN", "cannot accept connections now"]);
    let mut waiting = connections.split_off(40);
    for (number, connection) in connections.iter_mut().enumerate() {
        assert_eq!(connection.receive().unwrap().results()["params"]["params"], number.to_string());
    }
    // At the limit, existing connections are served as before.
    for connection in &mut connections {
        connection.send_request("GET", "/echo/again", &[], b"");
        assert_eq!(connection.receive().unwrap().status, 200);
    }
    assert_eq!(count_warnings(&stage), 1, "the line is logged once");
    drop(connections);
    for (number, mut connection) in waiting.drain(..).enumerate() {
        let answer = connection.receive().expect("a waiting client is served");
        assert_eq!(answer.results()["params"]["params"], (number + 40).to_string());
    }
    eventually("the gateway logs that it accepts again", || {
        assert_eq!(stage.http().get("/echo/1").status, 200);
        stage.gateway.log().iter().any(|line| line.contains("accepting connections again")).then_some(())
    });
    // The line is not repeated for each of the sixty clients that got a place only when another left.
    assert!(count_warnings(&stage) <= 3, "the line was logged {} times", count_warnings(&stage));
    stage.assert_unharmed();
}

fn count_warnings(stage: &Stage) -> usize {
    stage.gateway.log().iter().filter(|line| line.contains("cannot accept connections now")).count()
}

#[test]
fn trap_3_a_huge_declared_length_is_refused_and_costs_no_memory() {
    let mut stage = Stage::start();
    for length in ["100000000000000", "18446744073709551615", "18446744073709551616", &"9".repeat(1000)] {
        for method in ["GET", "POST"] {
            let head =
                format!("{method} /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{{}}");
            assert_refused(stage.http(), head.as_bytes(), 413, &head);
        }
    }
    stage.assert_unharmed();
    #[cfg(target_os = "linux")]
    assert!(stage.gateway.peak_kib() < 64 * 1024, "{} KiB", stage.gateway.peak_kib());
}

#[test]
fn trap_4_clients_that_declare_more_than_they_send_delay_no_other() {
    let stage = Stage::start();
    let mut stalled: Vec<Connection> = (0..64)
        .map(|_| {
            let mut connection = stage.http().connect();
            connection.send(b"POST /length HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n\r\n{\"t");
            connection
        })
        .collect();
    let mut others: Vec<Connection> = (0..64).map(|_| stage.http().connect()).collect();
    for connection in &mut others {
        connection.send_request("GET", "/echo/1", &[], b"");
    }
    for connection in &mut others {
        assert_eq!(connection.receive().expect("no other client waits").status, 200);
    }
    // Clients that continue later lose nothing either.
    let text = "x".repeat(5000 - r#"{"text":""}"#.len());
    for connection in &mut stalled {
        connection.send(format!("ext\":\"{text}\"}}").as_bytes());
        assert_eq!(connection.receive().unwrap().results(), text.len());
    }
}

#[test]
fn trap_5_an_answer_is_one_write_and_leaves_at_once() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    let word = "w".repeat(3000);
    let mut piece = vec![0; 64 * 1024];
    for _ in 0..100 {
        connection.send_request("GET", &format!("/echo?word={word}"), &[], b"");
        let count = connection.stream().read(&mut piece).unwrap();
        let answer = String::from_utf8_lossy(&piece[..count]);
        let (head, body) = answer.split_once("\r\n\r\n").expect("the whole head came in the first read");
        let length: usize =
            head.split("Content-Length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        assert!(length > word.len());
        assert_eq!(body.len(), length, "the whole body came in the first read");
    }
}

#[test]
fn trap_5_every_accepted_connection_has_its_delay_switched_off() {
    use pilcrow::net::listener::{Connection, Listener, Serve};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};

    struct Look(Sender<bool>);
    impl Serve for Look {
        fn serve(&self, connection: Connection) {
            self.0.send(connection.stream.nodelay().unwrap()).unwrap();
        }
        fn refuse(&self, _: &TcpStream, _: SocketAddr) {}
    }

    let (seen, see) = channel();
    let serving = Listener::bind("127.0.0.1:0").unwrap().serve("look", 1, Arc::new(Look(seen))).unwrap();
    let _client = TcpStream::connect(serving.address()).unwrap();
    assert!(see.recv_timeout(PATIENCE).unwrap(), "TCP_NODELAY is set");
}

#[test]
fn trap_6_a_request_that_is_incomplete_after_ten_seconds_gets_408() {
    let mut stage = Stage::start();
    let slow: [(&str, &[u8]); 6] = [
        ("a request line that stops", b"GET /ec"),
        ("a head that stops", b"GET /echo HTTP/1.1\r\nHost: te"),
        ("a head without its last line", b"GET /echo HTTP/1.1\r\nHost: test\r\n"),
        ("a body that stops", b"POST /echo HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{}"),
        ("a chunk that stops", b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}"),
        ("chunks without an end", b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
    ];
    let http = stage.http();
    thread::scope(|scope| {
        for (what, bytes) in slow {
            scope.spawn(move || {
                let began = Instant::now();
                assert_refused(http, bytes, 408, what);
                assert!(began.elapsed() > Duration::from_secs(9), "{what} was closed too early");
            });
        }
        // Occasional bytes do not extend the deadline, and neither do steady ones.
        for (start, every_ms) in [
            ("GET /", 200),
            ("POST /echo HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{}", 200),
            ("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n", 200),
            ("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n", 1),
        ] {
            scope.spawn(move || drip_until_408(http, start, Duration::from_millis(every_ms)));
        }
        // No other client notices.
        scope.spawn(move || assert_eq!(http.get("/echo/1").status, 200));
    });
    stage.assert_unharmed();
}

fn drip_until_408(http: Http, start: &str, every: Duration) {
    let mut connection = http.connect();
    connection.send(start.as_bytes());
    let began = Instant::now();
    let nothing_yet = |connection: &Connection| {
        connection.stream().set_read_timeout(Some(every)).unwrap();
        connection.stream().peek(&mut [0]).is_err()
    };
    while nothing_yet(&connection) {
        assert!(began.elapsed() < PATIENCE, "a slow sender holds its connection for ever");
        connection.send(b"x");
    }
    connection.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    let answer = connection.receive().expect("an answer before the end");
    assert_failure(&answer, 408, start);
}

#[test]
fn trap_6_a_head_has_at_most_16_kib_and_100_headers() {
    let mut stage = Stage::start();
    let padded = |bytes: usize| {
        let (start, end) = ("GET /echo HTTP/1.1\r\nHost: test\r\nX-Padding: ", "\r\n\r\n");
        format!("{start}{}{end}", "x".repeat(bytes - start.len() - end.len()))
    };
    let crowded = |count: usize| {
        let headers: Vec<String> = (0..count).map(|number| format!("X-{number}: x\r\n")).collect();
        format!("GET /echo HTTP/1.1\r\n{}\r\n", headers.concat())
    };
    assert_eq!(stage.http().raw(padded(16 * 1024).as_bytes()).unwrap().status, 200);
    assert_eq!(stage.http().raw(crowded(100).as_bytes()).unwrap().status, 200);
    assert_refused(stage.http(), padded(16 * 1024 + 1).as_bytes(), 431, "one byte too many");
    assert_refused(stage.http(), crowded(101).as_bytes(), 431, "one header too many");
    let endless = format!("GET /echo?{}", "x".repeat(100 * 1024));
    assert_refused(stage.http(), endless.as_bytes(), 431, "a target without an end");
    let endless = format!("GET /echo HTTP/1.1\r\n{}", "X: x\r\n".repeat(10_000));
    assert_refused(stage.http(), endless.as_bytes(), 431, "headers without an end");
    stage.assert_unharmed();
}

#[test]
fn trap_7_a_length_that_can_be_read_in_two_ways_is_refused() {
    let mut stage = Stage::start();
    // If the gateway accepted one of them, the bytes behind it would be a separate request.
    let smuggled = "{}GET /echo/smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
    let headers = [
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: 20",
        "Content-Length: 2, 2",
        "Content-Length: +2",
        "Content-Length: -2",
        "Content-Length: 0x2",
        "Content-Length: 2.0",
        "Content-Length: 2 2",
        "Content-Length: two",
        "Content-Length:",
        "Content-Length: \u{662}",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Transfer-Encoding: identity\r\nContent-Length: 2",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Content-Length : 2",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "X: y\r\n Content-Length: 2",
        "Content-Length:\r\n 2",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chu\0nked",
        "Transfer-Encoding: \u{b}chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "Content-Length: 2\n",
    ];
    for header in headers {
        for method in ["POST", "GET"] {
            let request = format!("{method} /echo HTTP/1.1\r\nHost: test\r\n{header}\r\n\r\n{smuggled}");
            assert_refused(stage.http(), request.as_bytes(), 400, header);
        }
    }
    let codings = [
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        "",
    ];
    for coding in codings {
        let head =
            format!("POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: {coding}\r\n\r\n{smuggled}");
        assert_refused(stage.http(), head.as_bytes(), 501, coding);
    }
    let old = format!("POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{smuggled}");
    assert_refused(stage.http(), old.as_bytes(), 400, "chunks in HTTP/1.0");
    assert!(stage.echo.requests().is_empty(), "none of these requests reached the service");
    stage.assert_unharmed();
}

#[test]
fn trap_7_unread_bodies_keep_the_connection_in_sync() {
    let stage = Stage::start();
    let smuggled = "GET /echo/smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
    let size = smuggled.len();
    let length = format!("Content-Length: {size}\r\n\r\n{smuggled}");
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{smuggled}\r\n0\r\n\r\n");
    let unread = ["GET /echo", "GET /healthz", "POST /nowhere", "PUT /healthz", "POST /echo", "DELETE /say"];
    for (request, body) in unread.iter().flat_map(|request| [(request, &length), (request, &chunked)]) {
        let mut connection = stage.http().connect();
        let next = "GET /echo/next HTTP/1.1\r\nHost: test\r\n\r\n";
        connection.send(format!("{request} HTTP/1.1\r\nHost: test\r\n{body}{next}").as_bytes());
        let first = connection.receive().expect("an answer");
        let second = connection.receive().expect("an answer to the next request");
        assert_eq!(second.results()["params"]["params"], "next", "{request} was {}: {body}", first.status);
    }
}

#[test]
fn trap_7_connection_close_is_honoured_and_sent() {
    let stage = Stage::start();
    for value in ["close", "Close", "keep-alive, close", "close, keep-alive", "x,close ,y"] {
        let mut connection = stage.http().connect();
        connection.send_request("GET", "/echo/1", &[("Connection", value)], b"");
        connection.send_request("GET", "/echo/2", &[], b"");
        let answer = connection.receive().unwrap();
        assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")), "{value}");
        assert_complete(&answer, value);
        assert_ends(&mut connection, value);
    }
}

#[test]
fn trap_8_a_stream_is_sent_as_it_comes() {
    let stage = Stage::start();
    let mut connection = stage.http().connect();
    connection.send_request("GET", "/silence", &[("Accept", "text/event-stream")], b"");
    let request = stage.echo.await_requests(1).remove(0);
    let mut seen = String::new();
    for seq in 1..=20 {
        request.reply(&json!({ "errorcode": 0, "more": true, "seq": seq, "results": { "number": seq } }));
        // The next event is sent only after this one has reached the client.
        let event = format!("id: {seq}\ndata: {{\"number\":{seq}}}\n\n");
        while !seen.ends_with(&event) {
            let mut piece = [0; 4096];
            let count = connection.stream().read(&mut piece).expect("the event arrives");
            assert!(count > 0, "the stream ended after {seen}");
            seen.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
    }
    assert!(seen.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"), "{seen}");
    // A stream uses no place that others need, and its end closes its connection.
    assert_eq!(stage.http().get("/echo/1").status, 200);
    request.reply(&json!({ "errorcode": 0 }));
    connection.stream().read_to_string(&mut seen).expect("the end arrives");
}

#[test]
fn trap_8_every_other_answer_says_how_long_it_is() {
    let stage = Stage::start();
    let word = "w".repeat(12 * 1024);
    for target in ["/echo", "/echo?word=", "/healthz", "/routes", "/nowhere", "/say"] {
        for version in ["1.0", "1.1"] {
            let head = format!(
                "GET {target}{} HTTP/{version}\r\nTE: chunked\r\n\r\n",
                if target.ends_with('=') { &word } else { "" }
            );
            let answer = stage.http().raw(head.as_bytes()).unwrap();
            assert_complete(&answer, target);
            assert!(!answer.body.is_empty());
        }
    }
}
