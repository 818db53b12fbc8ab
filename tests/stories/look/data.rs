//! The data of the page over HTTP, and who may use it.

use serde_json::{Value, json};

use super::{by_address, look};
use crate::harness::{Events, Process, System, eventually};

/// The data of the next event with this name.
fn next(events: &mut Events, name: &str) -> Value {
    events.named(name).1
}

fn follow(look: &Process) -> Events {
    let Ok(events) = by_address(look).events("/live", &[]) else { panic!("no stream") };
    events
}

#[test]
fn json_shows_every_process_and_link_even_without_a_browser() {
    let system = System::builder().users(2).start();
    system.await_instances("GET", "/users", 2);
    let look = look(&system);
    let shown = eventually("the gateway is read", || {
        Some(by_address(&look).get("/system.json").reply())
            .filter(|shown| shown["gateways"][0]["state"] == "up")
    });
    assert_eq!(shown["mode"], "development");
    assert_eq!((&shown["switches"], &shown["processes"]), (&json!(false), &json!([])));
    assert_eq!(shown["distributors"][0]["address"], system.distributor.address().to_string());
    let links = shown["gateways"][0]["links"].as_array().unwrap();
    assert_eq!(links.len(), 2, "{shown}");
    let mut addresses: Vec<String> = system.users.iter().map(|users| users.address().to_string()).collect();
    addresses.sort();
    let instances = shown["instances"].as_array().unwrap();
    let mut found: Vec<&str> = instances.iter().map(|one| one["address"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, addresses);
    assert!(instances.iter().all(|one| one["state"] == "up" && one["service"] == "users"), "{shown}");
}

#[test]
fn a_request_is_found_by_its_id_and_shown_with_its_steps() {
    let system = System::start();
    let look = look(&system);
    let mut live = follow(&look);
    eventually("the gateway is read", || {
        (next(&mut live, "system")["gateways"][0]["state"] == "up").then_some(())
    });
    for (id, path) in [("one", "/users/99"), ("two", "/nothing"), ("three", "/users")] {
        system.http().request("GET", path, &[("X-Request-Id", id)], b"");
        assert_eq!(next(&mut live, "journey")["id"], id);
    }
    let find = |query: &str| {
        let found = by_address(&look).get(&format!("/journeys.json?{query}")).reply();
        found["journeys"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(find("id=two"), [json!("two")]);
    assert_eq!(find("status=4xx"), [json!("two"), json!("one")]);
    assert_eq!(find("route=/users&status=200"), [json!("three")]);
    assert_eq!(find(&format!("instance={}", system.users[0].address())), [json!("three"), json!("one")]);
    let journey = by_address(&look).get("/journeys.json?id=one").reply()["journeys"][0].clone();
    let whole = by_address(&look).get(&format!("/journeys/{}.json", journey["number"])).reply();
    assert!(whole["explain"].as_array().unwrap().len() > 5, "{whole}");
    let slowest = find("sort=slowest");
    assert_eq!(slowest.len(), 3);
    assert_eq!(by_address(&look).get("/journeys/999.json").status, 404);
}

#[test]
fn a_change_reaches_every_reader_at_once() {
    let system = System::start();
    let look = look(&system);
    let mut readers = [follow(&look), follow(&look)];
    eventually("the feed is read", || (next(&mut readers[0], "system")["changes"] == "on").then_some(()));
    let kim = system.create_user("kim@example.com", "Kim ¶ 김");
    for live in &mut readers {
        let change = next(live, "change");
        assert_eq!((&change["user_id"], &change["user"]["name"]), (&kim["id"], &json!("Kim ¶ 김")));
    }
    assert_eq!(by_address(&look).get("/changes.json").reply()["changes"][0]["user_id"], kim["id"]);
}

#[test]
fn an_instance_that_is_killed_is_shown_as_down_and_comes_back() {
    let mut system = System::builder().users(2).start();
    let look = look(&system);
    let mut live = follow(&look);
    let address = system.users[1].address();
    let state = |live: &mut Events| {
        let shown = next(live, "system");
        let instances = shown["instances"].as_array().unwrap().clone();
        instances
            .into_iter()
            .find(|one| one["address"] == address.to_string())
            .map(|one| one["state"].clone())
    };
    eventually("it is up", || (state(&mut live)? == "up").then_some(()));
    system.users.remove(1).kill();
    eventually("it is down", || (state(&mut live)? == "down").then_some(()));
    let flags = ["--listen", &address.to_string()];
    system.users.push(Process::users(&system.distributor, &system.scratch, &flags));
    eventually("it is up again", || (state(&mut live)? == "up").then_some(()));
}

#[cfg(unix)]
#[test]
fn a_gateway_that_hangs_is_silent_and_a_distributor_that_has_ended_is_down() {
    use nix::sys::signal::Signal;
    let system = System::start();
    let look = look(&system);
    let mut live = follow(&look);
    eventually("it is up", || (next(&mut live, "system")["gateways"][0]["state"] == "up").then_some(()));
    system.gateway.signal(Signal::SIGSTOP);
    eventually("it is silent", || {
        (next(&mut live, "system")["gateways"][0]["state"] == "silent").then_some(())
    });
    system.gateway.signal(Signal::SIGCONT);
    eventually("it is up", || (next(&mut live, "system")["gateways"][0]["state"] == "up").then_some(()));
    let System { gateway, users, distributor, scratch } = system;
    distributor.kill();
    eventually("it is down", || {
        let shown = next(&mut live, "system");
        assert_eq!(shown["instances"][0]["state"], "up", "a link shows that the instance lives: {shown}");
        (shown["distributors"][0]["state"] == "down").then_some(())
    });
    drop((gateway, users, scratch));
}

#[test]
fn only_this_page_can_change_something_and_only_by_its_own_name() {
    let system = System::start();
    let look = look(&system);
    let http = by_address(&look);
    let own = format!("http://{}", look.address());
    let json = ("Content-Type", "application/json");
    let body = br#"{"method":"POST","path":"/users","body":{"name":"Kim","email":"kim@example.com"}}"#;
    let foreign_host = ("Host", "evil.example:8080");
    for (headers, status) in [
        (vec![json, ("Origin", "http://evil.example")], 403),
        (vec![json, ("Origin", "null")], 403),
        (vec![json, ("Origin", "http://127.0.0.1:1")], 403),
        (vec![("Content-Type", "text/plain"), ("Origin", own.as_str())], 415),
        (vec![json, foreign_host], 421),
    ] {
        for path in ["/send", "/switch"] {
            assert_eq!(http.request("POST", path, &headers, body).status, status, "{path} {headers:?}");
        }
    }
    for path in ["/", "/live", "/system.json", "/journeys.json", "/main.js"] {
        assert_eq!(http.request("GET", path, &[foreign_host], b"").status, 421, "{path}");
    }
    let localhost = format!("localhost:{}", look.port());
    assert_eq!(http.request("GET", "/", &[("Host", &localhost)], b"").status, 200);
    assert_eq!(system.http().get("/users").results(), json!([]), "nothing was sent");
    let sent = http.request("POST", "/send", &[json, ("Origin", &own)], body).reply();
    assert_eq!(sent["status"], 201, "{sent}");
    assert_eq!(system.http().get("/users").results()[0]["name"], "Kim");
    // Without `cargo up` there are no switches.
    let refused = http.request("POST", "/switch", &[json], br#"{"command":"kill users"}"#);
    assert_eq!(refused.status, 403, "{}", refused.text());
}

#[test]
fn a_request_that_would_break_out_of_its_line_is_rejected() {
    let system = System::start();
    let look = look(&system);
    for sent in [
        json!({ "method": "GET", "path": "/users HTTP/1.1\r\nX: y" }),
        json!({ "method": "GET\r\n", "path": "/users" }),
        json!({ "method": "CONNECT", "path": "/users" }),
        json!({ "method": "GET", "path": "users" }),
        json!({ "method": "GET" }),
        json!([]),
    ] {
        assert_eq!(by_address(&look).post("/send", &sent).status, 400, "{sent}");
    }
}

#[test]
fn a_browser_may_load_nothing_but_the_files_of_the_page() {
    let system = System::start();
    let look = look(&system);
    let page = by_address(&look).get("/");
    assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    assert_eq!(by_address(&look).get("/nothing.js").status, 404);
    assert_eq!(by_address(&look).request("HEAD", "/main.js", &[], b"").status, 200);
}

#[test]
fn source_files_are_shown_and_no_other_file() {
    let system = System::start();
    let look = look(&system);
    let source = by_address(&look).get("/source/src/net/link.rs");
    assert!(source.text().contains("pub struct Link "), "{}", source.text());
    for path in [
        "/source/Cargo.toml",
        "/source/src/../Cargo.toml",
        "/source/src/%2e%2e/build.rs",
        "/source/src//etc/passwd.rs",
        "/source/../../etc/passwd",
        "/source/tests/stories/main.rs",
    ] {
        assert_eq!(by_address(&look).get(path).status, 404, "{path}");
    }
}

#[cfg(unix)]
#[test]
fn the_page_ends_with_its_streams() {
    let system = System::start();
    let look = look(&system);
    let mut live = follow(&look);
    next(&mut live, "system");
    assert!(look.stop().success());
    while live.event().is_some() {}
}
