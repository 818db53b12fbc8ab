//! `GET /journeys`: what someone who watches a gateway sees, and `GET /` for a browser.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Event, Events, Process, System, eventually};

/// A reader that has got its first status.
struct Watching {
    events: Events,
    first: Value,
}

impl Watching {
    fn of(gateway: &Process) -> Self {
        let Ok(mut events) = gateway.http().events("/journeys", &[]) else { panic!("no stream") };
        let first = next(&mut events, "status");
        Self { events, first }
    }

    fn journey(&mut self) -> Value {
        next(&mut self.events, "journey")
    }

    /// Waits until the status of a link is as wanted.
    fn await_link(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("a link in this state", || {
            let status = next(&mut self.events, "status");
            status["links"].as_array().unwrap().iter().find(|link| wanted(link)).cloned()
        })
    }
}

/// The data of the next event with this name.
fn next(events: &mut Events, name: &str) -> Value {
    let (id, data) = events.named(name);
    assert_eq!(id, data["number"].as_u64(), "the id of a journey is its number");
    data
}

#[test]
fn a_reader_sees_a_request_with_its_steps_and_the_client_sees_no_difference() {
    let system = System::start();
    system.create_user("kim@example.com", "Kim ¶");
    let unwatched = system.http().get("/users/1");
    let mut watching = Watching::of(&system.gateway);
    let answer = system.http().request("GET", "/users/1?at_least=1", &[("X-Request-Id", "find-me")], b"");
    let with_key = |text: &str| text.replacen(r#""key":3"#, r#""key":2"#, 1);
    assert_eq!(with_key(&answer.text()), unwatched.text());
    let journey = watching.journey();
    let instance = system.users[0].address().to_string();
    let facts = ["id", "method", "path", "route", "status", "instance"].map(|name| journey[name].clone());
    let expected =
        [json!("find-me"), json!("GET"), json!("/users/1"), json!("/users"), json!(200), json!(instance)];
    assert_eq!(facts, expected, "{journey}");
    let steps = journey["explain"].as_array().unwrap();
    let sent = steps.iter().find(|step| step["to"] == instance.as_str()).unwrap();
    assert!(sent["packet"].as_str().unwrap().contains(r#""uri":"/users""#), "{sent}");
    let received = steps.iter().find(|step| step["from"] == instance.as_str()).unwrap();
    assert_eq!(received["explain"][0]["place"], "users");
    let log_line = system.gateway.await_log(&["ACCESS id=find-me"]);
    assert!(log_line.contains(&format!("bytes={}", answer.body.len())), "{log_line}");
}

#[test]
fn refusals_are_journeys_too() {
    let system = System::start();
    let mut watching = Watching::of(&system.gateway);
    for (path, status) in [("/nothing", 404), ("/users/99", 404), ("/users/%zz", 400)] {
        assert_eq!(system.http().get(path).status, status);
        let journey = watching.journey();
        assert_eq!((&journey["path"], &journey["status"]), (&json!(path), &json!(status)));
    }
}

#[test]
fn no_request_is_explained_while_nobody_watches() {
    let system = System::start();
    let is_explained = |id: &str| {
        system.http().request("GET", "/users", &[("X-Request-Id", id)], b"");
        system.users[0].await_log(&["request GET /users", id]).contains(r#""explain":true"#)
    };
    assert!(!is_explained("before"));
    let watching = Watching::of(&system.gateway);
    assert!(is_explained("during"));
    drop(watching);
    // The gateway notices with the next status that the reader has left.
    let mut ids = (0..).map(|number| format!("after-{number}."));
    eventually("no request is explained", || (!is_explained(&ids.next()?)).then_some(()));
}

#[test]
fn a_reader_gets_at_most_twenty_journeys_per_second_with_their_numbers() {
    let system = System::start();
    let mut watching = Watching::of(&system.gateway);
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        system.http().get("/users");
        sent += 1;
    }
    let took = began.elapsed();
    let mut numbers = Vec::new();
    loop {
        let Event { data, .. } = watching.events.event().unwrap();
        let data: Value = serde_json::from_str(&data).unwrap();
        match data["number"].as_u64() {
            Some(number) => numbers.push(number),
            None if data["requests"].as_u64().unwrap() >= sent => break,
            None => {}
        }
    }
    assert!(sent > 100, "the load was too small to reach the limit: {sent} in {took:?}");
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let limit = 20 * (took.as_secs() + 1);
    assert!((20..=limit).contains(&(numbers.len() as u64)), "{} journeys in {took:?}", numbers.len());
}

#[test]
fn the_status_shows_each_link_and_what_is_wrong_with_it() {
    let system = System::builder().users(2).start();
    system.await_instances("GET", "/users", 2);
    let mut watching = Watching::of(&system.gateway);
    assert_eq!(watching.first["journeys"], "on");
    let links = watching.first["links"].as_array().unwrap();
    assert_eq!(links.len(), 2, "{links:?}");
    assert!(links.iter().all(|link| link["state"] == "up" && link["service"] == "users"), "{links:?}");
    let System { users, .. } = system;
    let mut users = users.into_iter();
    let address = users.next().map(|first| {
        let address = first.address().to_string();
        first.kill();
        address
    });
    eventually("one link is left", || {
        let status = next(&mut watching.events, "status");
        let links = status["links"].as_array().unwrap();
        links.iter().all(|link| link["state"] == "up" && link["address"] != json!(address)).then_some(())
    });
}

#[cfg(unix)]
#[test]
fn the_status_shows_that_a_silent_instance_is_set_aside_and_when_it_is_tried_again() {
    use nix::sys::signal::Signal;
    let system = System::builder().gateway_flags(&["--timeout", "0.2"]).start();
    let mut watching = Watching::of(&system.gateway);
    system.users[0].signal(Signal::SIGSTOP);
    for _ in 0..3 {
        assert_eq!(system.http().get("/users").status, 504);
    }
    let link = watching.await_link(|link| link["state"] == "set_aside");
    assert_eq!(link["failures"], 3, "{link}");
    assert!(link["retry_in_ms"].as_u64().unwrap() <= 3000, "{link}");
    system.users[0].signal(Signal::SIGCONT);
    eventually("it answers again", || (system.http().get("/users").status == 200).then_some(()));
    watching.await_link(|link| link["state"] == "up" && link["failures"] == 0);
}

#[cfg(unix)]
#[test]
fn a_gateway_that_drains_ends_the_stream() {
    let system = System::start();
    let mut watching = Watching::of(&system.gateway);
    let ended = system.gateway.stop();
    assert!(ended.success());
    while watching.events.event().is_some() {}
}

#[test]
fn the_head_of_the_stream_comes_without_the_stream() {
    let system = System::start();
    let answer = system.http().request("HEAD", "/journeys", &[], b"");
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("text/event-stream")));
    assert_eq!(system.http().request("POST", "/journeys", &[], b"").status, 405);
}

#[test]
fn a_browser_at_the_root_gets_a_link_to_the_live_page_and_others_get_json() {
    let system = System::start();
    let browser = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let root = || system.http().request("GET", "/", &browser, b"");
    assert_eq!(root().header("Content-Type"), Some("application/json"), "no page is registered");
    let mut page = system.distributor.packets();
    let node = json!({ "name": "look", "port": 8080, "urls": [], "proto": "pilcrow/1", "id": "a" });
    page.call("POST", "/distributes", &node, 1);
    let link = eventually("the link is there", || {
        Some(root()).filter(|answer| answer.header("Content-Type") == Some("text/html; charset=utf-8"))
    });
    assert!(link.text().contains(r#"<a href="http://127.0.0.1:8080/">"#), "{}", link.text());
    assert_eq!(system.http().get("/").header("Content-Type"), Some("application/json"));
    let hostile = json!({ "name": "look", "port": 8080, "urls": [], "proto": "pilcrow/1", "id": "a",
        "advertise": "x\"><script>alert(1)</script>" });
    page.call("POST", "/distributes", &hostile, 2);
    eventually("the new address is there", || root().text().contains("&quot;").then_some(()));
    assert!(!root().text().contains("<script"), "{}", root().text());
}
