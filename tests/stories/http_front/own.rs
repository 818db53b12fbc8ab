//! The gateway's own routes, and its limit of connections.

use serde_json::json;

use super::{Stage, assert_complete, assert_ends, assert_failure};
use crate::harness::{Connection, Echo, Process, Response, await_instances, eventually};

#[test]
fn healthz_readyz_and_routes_show_the_state() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let http = gateway.http();
    assert_eq!(http.get("/healthz").status, 200, "the gateway is healthy without any service");
    let answer = http.get("/readyz");
    assert_failure(&answer, 503, "no route yet");
    assert!(answer.header("Retry-After").unwrap().parse::<u32>().unwrap() > 0);
    assert_eq!(http.get("/routes").results(), json!([]));

    let first = Echo::start(&distributor, "words", &["GET/words", "POST/words"]);
    let second = Echo::start(&distributor, "words", &["GET/words", "POST/words/own"]);
    await_instances(&gateway, "GET", "/words", 2);
    await_instances(&gateway, "POST", "/words/own", 1);
    assert_eq!(http.get("/readyz").status, 200);
    let (one, two) = (format!("127.0.0.1:{}", first.port()), format!("127.0.0.1:{}", second.port()));
    let mut rows = http.get("/routes").results();
    for row in rows.as_array_mut().unwrap() {
        let instances = row["instances"].as_array_mut().unwrap();
        instances.sort_by_key(ToString::to_string);
        let conflict = row.as_object_mut().unwrap().remove("conflict");
        assert!(conflict.is_some(), "the two serve different routes: {row}");
    }
    let mut both = [one.clone(), two.clone()];
    both.sort();
    let row = |method: &str, path: &str, instances: &[String]| json!({ "method": method, "path": path, "service": "words", "instances": instances });
    let expected =
        [row("GET", "/words", &both), row("POST", "/words", &[one]), row("POST", "/words/own", &[two])];
    assert_eq!(rows, json!(expected), "sorted by path and method");

    drop((first, second));
    eventually("the gateway is not ready", || (http.get("/readyz").status == 503).then_some(()));
    await_instances(&gateway, "GET", "/words", 0);
    assert_eq!(http.get("/healthz").status, 200);
}

#[test]
fn routes_follow_a_service_that_registers_again() {
    let mut stage = Stage::start();
    let port = stage.echo.port();
    let extra = json!({ "proto": "pilcrow/1" });
    stage.echo.membership.register("stage", port, &["GET/echo", "GET/new"], &extra);
    await_instances(&stage.gateway, "GET", "/new", 1);
    await_instances(&stage.gateway, "POST", "/echo", 0);
    assert_failure(&stage.http().request("POST", "/echo", &[], b""), 503, "given up");
    assert_eq!(stage.echo.connections(), 1, "over the same link");
    stage.assert_unharmed();
}

#[test]
fn the_gateways_own_paths_accept_get_and_head_only() {
    let stage = Stage::start();
    for path in ["/healthz", "/readyz", "/routes", "/health%7A", "/healthz?x=1"] {
        let answer = stage.http().get(path);
        assert_eq!((answer.status, answer.reply()["errorcode"].clone()), (200, json!(0)), "{path}");
        assert_complete(&answer, path);
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let answer = stage.http().request(method, path, &[], b"");
            assert_failure(&answer, 405, path);
            assert_eq!(answer.header("Allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
    for path in ["/healthz/1", "/healthz/", "/Healthz", "/readyz/x", "/routes/echo"] {
        assert_failure(&stage.http().get(path), 404, path);
    }
}

#[test]
fn the_root_shows_routes_and_own_paths_until_a_service_registers_it() {
    let stage = Stage::start();
    let http = stage.http();
    let answer = http.get("/");
    assert_eq!((answer.status, answer.reply()["errorcode"].clone()), (200, json!(0)), "{}", answer.text());
    assert_complete(&answer, "/");
    assert_eq!(answer.results()["routes"], http.get("/routes").results());
    let own = answer.results()["gateway"].clone();
    for path in own.as_array().unwrap() {
        assert_eq!(http.get(path.as_str().unwrap()).status, 200, "{path}");
    }
    assert_eq!(own.as_array().unwrap().len(), 5, "{own}");
    assert_eq!(http.request("HEAD", "/", &[], b"").status, 200);
    let refused = http.request("POST", "/", &[], b"");
    assert_failure(&refused, 405, "no service accepts POST /");
    assert_eq!(refused.header("Allow"), Some("GET, HEAD"));

    // A service with another method on the same path leaves GET to the gateway.
    let _posts = Echo::start(&stage.distributor, "posts", &["POST/"]);
    await_instances(&stage.gateway, "POST", "/", 1);
    assert_eq!(http.request("POST", "/", &[], b"").results()["uri"], "/");
    assert_eq!(http.get("/").results()["routes"], http.get("/routes").results());
    assert_eq!(http.request("PUT", "/", &[], b"").header("Allow"), Some("GET, POST, HEAD"));

    let _home = Echo::start(&stage.distributor, "home", &["GET/"]);
    await_instances(&stage.gateway, "GET", "/", 1);
    assert_eq!(http.get("/").results()["uri"], "/", "the service answers");
}

#[test]
fn connections_above_the_limit_get_503_and_are_closed() {
    let mut stage = Stage::with(&["--max-connections", "4"]);
    // The harness's connections may count until the gateway has seen their end.
    let mut open: Vec<Connection> = (0..4).map(|_| connect_when_free(&stage)).collect();
    for what in ["one that asks", "another that asks"] {
        let mut beyond = stage.http().connect();
        beyond.send_request("GET", "/echo/1", &[], b"");
        assert_rejected(&mut beyond, what);
    }
    assert_rejected(&mut stage.http().connect(), "one that says nothing");
    let line = stage.gateway.await_log(&["WARN", "turned away", "4 connections are open"]);
    assert!(line.contains("127.0.0.1:"), "{line}");
    for connection in &mut open {
        connection.send_request("GET", "/echo/1", &[], b"");
        assert_eq!(connection.receive().expect("existing connections stay").status, 200);
    }
    open.pop();
    open.push(connect_when_free(&stage));
    let mut beyond = stage.http().connect();
    beyond.send_request("GET", "/echo/1", &[], b"");
    assert_rejected(&mut beyond, "there is room for one, not for two");
    drop(open);
    eventually("there is room again", || (try_get(&stage).status == 200).then_some(()));
    assert!(stage.gateway.is_alive());
}

/// A connection with one answered request, once a place is free.
fn connect_when_free(stage: &Stage) -> Connection {
    eventually("there is room for one more connection", || {
        let mut connection = stage.http().connect();
        connection.send_request("GET", "/echo/1", &[], b"");
        let answer = connection.receive()?;
        assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
        (answer.status == 200).then_some(connection)
    })
}

fn try_get(stage: &Stage) -> Response {
    eventually("an answer", || stage.http().try_request("GET", "/echo/1", &[], b""))
}

fn assert_rejected(connection: &mut Connection, what: &str) {
    let answer = connection.receive().unwrap_or_else(|| panic!("{what}: closed without a word"));
    assert_failure(&answer, 503, what);
    assert_eq!(answer.header("Connection"), Some("close"), "{what}");
    assert!(answer.header("Retry-After").unwrap().parse::<u32>().unwrap() > 0, "{what}");
    assert_ends(connection, what);
}

#[test]
fn a_hundred_connections_above_the_limit_are_closed_and_disturb_no_other() {
    let mut stage = Stage::with(&["--max-connections", "4"]);
    let mut open: Vec<Connection> = (0..4).map(|_| connect_when_free(&stage)).collect();
    let mut beyond: Vec<Connection> = (0..100).map(|_| stage.http().connect()).collect();
    for connection in &mut open {
        connection.send_request("GET", "/echo/1", &[], b"");
        assert_eq!(connection.receive().unwrap().status, 200);
    }
    for connection in &mut beyond {
        // Some clients get a reason. If too many wait for one, the gateway closes some without.
        if let Some(answer) = connection.receive() {
            assert_failure(&answer, 503, "beyond the limit");
        }
        assert_ends(connection, "beyond the limit");
    }
    assert!(stage.gateway.is_alive());
}
