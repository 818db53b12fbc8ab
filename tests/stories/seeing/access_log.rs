//! The access log.

use std::collections::HashMap;
use std::io::Read;
use std::process::ChildStderr;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::harness::{Echo, Metrics, Output, Process, Program, System, await_instances, eventually};

/// The fields of an access line, in their order.
fn fields(line: &str) -> Vec<(String, String)> {
    let (_, fields) = line.split_once(" ACCESS ").unwrap_or_else(|| panic!("no access line: {line}"));
    let fields = fields.split(' ').map(|field| field.split_once('=').expect(line));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The fields of the access line of the request with this id.
fn line_of(process: &Process, id: &str) -> HashMap<String, String> {
    let line = process.await_log(&[" ACCESS ", &format!("id={id} ")]);
    fields(&line).into_iter().collect()
}

#[test]
fn gateway_and_service_write_one_access_line_per_request_under_the_same_id() {
    let system = System::start();
    system.create_user("kim@example.com", "Kim");
    let answer = system.http().request("GET", "/users/1?at_least=1", &[("X-Request-Id", "walk-1")], b"");
    let line = system.gateway.await_log(&[" ACCESS ", "id=walk-1 "]);
    let names: Vec<String> = fields(&line).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["id", "client", "method", "path", "route", "instance", "status", "bytes", "ms"],
        "in this order: {line}"
    );
    let gateway = line_of(&system.gateway, "walk-1");
    assert_eq!((&*gateway["client"], &*gateway["method"]), ("127.0.0.1", "GET"));
    assert_eq!((&*gateway["path"], &*gateway["route"]), ("/users/1", "/users"));
    assert_eq!(gateway["instance"], system.users[0].address().to_string());
    assert_eq!((&*gateway["status"], &*gateway["bytes"]), ("200", &*answer.body.len().to_string()));
    assert!(gateway["ms"].parse::<f64>().unwrap() > 0.0);

    let line = system.users[0].await_log(&[" ACCESS ", "id=walk-1 "]);
    let names: Vec<String> = fields(&line).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["id", "peer", "method", "uri", "errorcode", "bytes", "ms"], "in this order: {line}");
    let users = line_of(&system.users[0], "walk-1");
    assert_eq!((&*users["method"], &*users["uri"], &*users["errorcode"]), ("GET", "/users", "0"));
    // `¶` ends the packet with two bytes, a newline ends the body with one.
    assert_eq!(users["bytes"], (answer.body.len() + 1).to_string());
    assert!(users["ms"].parse::<f64>().unwrap() <= gateway["ms"].parse::<f64>().unwrap());
}

#[test]
fn a_request_that_reaches_no_service_has_an_access_line_too() {
    let system = System::start();
    let http = system.http();
    let ask = |id: &str, method: &str, path: &str| {
        http.request(method, path, &[("X-Request-Id", id)], b"");
        line_of(&system.gateway, id)
    };
    let own = ask("own", "GET", "/healthz");
    assert_eq!((&*own["route"], &*own["instance"], &*own["status"]), ("/healthz", "-", "200"));
    let nowhere = ask("nowhere", "GET", "/no/where");
    assert_eq!((&*nowhere["path"], &*nowhere["route"], &*nowhere["status"]), ("/no/where", "-", "404"));
    let head = ask("head", "HEAD", "/users");
    assert_eq!((&*head["status"], &*head["bytes"]), ("200", "0"));
    let refused =
        http.raw(b"GET /users HTTP/1.1\r\nX-Request-Id: bad\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
    assert_eq!(refused.status, 400);
    let bad = line_of(&system.gateway, refused.header("X-Request-Id").unwrap());
    assert_eq!((&*bad["method"], &*bad["path"], &*bad["status"]), ("-", "-", "400"));
}

#[test]
fn the_gateway_writes_the_access_line_of_a_stream_when_it_ends() {
    let system = System::start();
    let events = system.http().events("/users/changes", &[("X-Request-Id", "stream-1")]);
    let mut events = events.unwrap_or_else(|answer| panic!("{answer:?}"));
    let users = line_of(&system.users[0], "stream-1");
    assert_eq!((&*users["uri"], &*users["errorcode"]), ("/users/changes", "0"));
    system.create_user("kim@example.com", "Kim");
    events.change();
    assert!(!system.gateway.log().iter().any(|line| line.contains("ACCESS id=stream-1")));
    drop(events);
    system.create_user("lee@example.com", "Lee");
    let gateway = line_of(&system.gateway, "stream-1");
    assert_eq!((&*gateway["route"], &*gateway["status"]), ("/users/changes", "200"));
    assert_eq!(gateway["instance"], system.users[0].address().to_string());
    assert!(gateway["bytes"].parse::<usize>().unwrap() > 100, "{gateway:?}");
}

#[test]
fn no_access_line_contains_a_secret_or_a_character_that_breaks_the_line() {
    let system = System::start();
    let login = json!({ "email": "kim@example.com", "password": "secret-password" });
    let user = json!({ "email": "kim@example.com", "name": "Kim", "password": "secret-password" });
    let http = system.http();
    assert_eq!(http.post("/users", &user).status, 201);
    assert_eq!(http.post("/users/login", &login).status, 200);
    let shown = [("Authorization", "Bearer secret-token"), ("X-Request-Id", "last")];
    http.request("GET", "/users?password=secret-query", &shown, b"");
    http.request("GET", "http://kim:secret-host@host/users?secret-query", &shown, b"");
    http.request("GET", "/a\"status=500%0A?secret-query", &shown, b"");
    http.request("GET", &format!("/{}", "x".repeat(5000)), &[("X-Request-Id", "long")], b"");
    let long = line_of(&system.gateway, "long");
    assert!(long["path"].len() < 200 && long["path"].ends_with("..."), "{long:?}");
    line_of(&system.users[0], "last");
    let lines = [system.gateway.log(), system.users[0].log()].concat();
    let lines: Vec<&String> = lines.iter().filter(|line| line.contains(" ACCESS ")).collect();
    assert!(lines.len() > 8, "{lines:#?}");
    for line in lines {
        assert!(!line.contains("secret") && !line.contains('"'), "{line}");
        assert!([7, 9].contains(&fields(line).len()), "{line}");
    }
}

#[test]
fn the_access_log_can_be_switched_off() {
    let system = System::builder()
        .users_flags(&["--access-log", "off"])
        .gateway_flags(&["--access-log", "off"])
        .start();
    assert_eq!(system.http().request("GET", "/users", &[("X-Request-Id", "off-1")], b"").status, 200);
    // The debug line comes after the position of the access line.
    system.users[0].await_log(&["reply success"]);
    for process in [&system.gateway, &system.users[0]] {
        assert!(!process.log().iter().any(|line| line.contains("ACCESS")), "{:#?}", process.log());
    }
}

/// A gateway whose log has no reader.
fn start_unread(distributor: &Process) -> Process {
    let gateway = Program::gateway(distributor.address()).variables(&[("RUST_LOG", "info")]);
    gateway.unread_stderr().start()
}

/// Sends requests with long access lines until the gateway drops some of them.
fn fill_the_log(gateway: &Process) -> usize {
    let (long_id, long_path) = ("i".repeat(64), format!("/{}", "p".repeat(200)));
    let mut connection = gateway.http().connect();
    for round in 1..200 {
        for _ in 0..100 {
            connection.send_request("GET", &long_path, &[("X-Request-Id", &long_id)], b"");
            assert_eq!(
                connection.receive().expect("an answer, even without a reader of the log").status,
                404
            );
        }
        connection.send_request("GET", "/metrics", &[], b"");
        let metrics = Metrics::parse(&connection.receive().unwrap().text());
        if metrics.value("pilcrow_access_log_dropped_total", &[]) > 0.0 {
            return round * 100;
        }
    }
    panic!("nothing was dropped, so the log was read or has no limit");
}

fn read_on(mut stderr: ChildStderr) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let collected = text.clone();
    thread::spawn(move || {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = stderr.read(&mut piece) {
            collected.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    });
    text
}

#[test]
fn a_reader_of_stderr_that_hangs_delays_no_request_and_the_log_reports_the_lost_lines() {
    let distributor = Process::distributor(&[]);
    let mut gateway = start_unread(&distributor);
    let requests = fill_the_log(&gateway);
    println!("{requests} requests were answered while the log had no reader");
    // All other code that writes log lines continues as well.
    let service = Echo::start(&distributor, "late", &["GET/late"]);
    await_instances(&gateway, "GET", "/late", 1);
    assert_eq!(gateway.http().get("/late").status, 200);
    drop(service);
    await_instances(&gateway, "GET", "/late", 0);

    let text = read_on(gateway.take_stderr());
    eventually("the log reports the loss", || {
        text.lock().unwrap().contains(" access lines and 0 other log lines were dropped").then_some(())
    });
    eventually("the line that did not fit is logged", || {
        text.lock().unwrap().contains("- GET /late").then_some(())
    });
    gateway.http().request("GET", "/healthz", &[("X-Request-Id", "after")], b"");
    eventually("logging continues", || text.lock().unwrap().contains("ACCESS id=after ").then_some(()));
    let text = text.lock().unwrap();
    let whole = |line: &str| line.starts_with("20") && (line.contains(" ms=") || !line.contains("ACCESS"));
    assert!(text.lines().all(whole), "only whole lines");
}

#[cfg(unix)]
#[test]
fn a_process_stops_on_request_although_its_log_is_not_read() {
    let distributor = Process::distributor(&[]);
    let gateway = start_unread(&distributor);
    fill_the_log(&gateway);
    assert!(gateway.stop().success());
}

#[test]
fn earlier_log_lines_are_written_before_the_error_of_a_bad_start() {
    let distributor = Process::distributor(&[]);
    let taken = distributor.address().to_string();
    for _ in 0..20 {
        let gateway = Program::at(env!("CARGO_BIN_EXE_gateway"));
        let flags = ["--listen", "127.0.0.1:0", "--metrics-listen", &taken];
        let Output { status, stderr, .. } = gateway.flags(flags).run();
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!((status, lines.len()), (Some(1), 2), "{stderr}");
        assert!(lines[0].contains("development mode") && lines[1].contains("--metrics-listen"), "{stderr}");
    }
}
