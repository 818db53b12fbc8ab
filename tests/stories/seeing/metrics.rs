//! Metrics: the gateway serves them over HTTP, the others by packet.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::json;

use crate::harness::{Echo, Metrics, Process, ReceivedRequest, System, await_instances, eventually};

const HTTP: &str = "pilcrow_http_requests_total";
const SERVICE: &str = "pilcrow_service_requests_total";

#[test]
fn the_metrics_of_all_three_processes_count_the_same_requests() {
    let system = System::start();
    let http = system.http();
    system.create_user("kim@example.com", "Kim");
    for path in ["/users", "/users?limit=1", "/users/1", "/users/1"] {
        assert_eq!(http.get(path).status, 200);
    }
    assert_eq!(http.get("/users/99").status, 404);
    assert_eq!(http.get("/nowhere/kim").status, 404);
    assert_eq!(http.request("HEAD", "/users/1", &[], b"").status, 200);

    let gateway = http.metrics();
    let requests = |method: &str, route: &str, status: &str| {
        gateway.value(HTTP, &[("method", method), ("route", route), ("status", status)])
    };
    assert_eq!(requests("GET", "/users", "200"), 4.0);
    assert_eq!(requests("GET", "/users", "404"), 1.0);
    assert_eq!(requests("HEAD", "/users", "200"), 1.0);
    assert_eq!(requests("POST", "/users", "201"), 1.0);
    assert_eq!(requests("GET", "none", "404"), 1.0);
    let seconds = |part: &str, labels: &[(&str, &str)]| {
        let all = [&[("method", "GET"), ("route", "/users")], labels].concat();
        gateway.value(&format!("pilcrow_http_request_duration_seconds_{part}"), &all)
    };
    assert_eq!((seconds("count", &[]), seconds("bucket", &[("le", "10")])), (5.0, 5.0));
    assert!(seconds("sum", &[]) > 0.0 && seconds("bucket", &[("le", "0.00025")]) <= 5.0);
    assert_eq!(gateway.value("pilcrow_links", &[("state", "up")]), 1.0);
    assert_eq!(gateway.value("pilcrow_links", &[("state", "down")]), 0.0);
    assert_eq!(gateway.value("pilcrow_http_requests_in_flight", &[]), 0.0);
    // A connection counts as open for a moment after its client has closed it.
    eventually("the connection that asks is the only one", || {
        (http.metrics().value("pilcrow_connections_open", &[("port", "http")]) == 1.0).then_some(())
    });

    // A service counts a request shortly after its answer.
    let users = eventually("users has counted all requests", || {
        let users = system.users[0].metrics();
        (users.find(SERVICE, &[("route", "/users")]) == Some(7.0)).then_some(users)
    });
    let answered = |method: &str, code: &str| {
        users.value(SERVICE, &[("method", method), ("route", "/users"), ("errorcode", code)])
    };
    assert_eq!((answered("GET", "0"), answered("GET", "404"), answered("POST", "0")), (5.0, 1.0, 1.0));
    assert_eq!(users.value("pilcrow_changes_committed_total", &[]), 1.0);
    assert!(users.value("pilcrow_commit_writes_count", &[]) >= 1.0);
    assert_eq!(users.value("pilcrow_pool_jobs_waiting", &[("pool", "hash")]), 0.0);
    assert_eq!(users.value("pilcrow_writes_waiting", &[]), 0.0);
    eventually("the feed has sent it", || {
        (system.users[0].metrics().value("pilcrow_feed_lag_changes", &[]) == 0.0).then_some(())
    });

    let distributor = system.distributor.metrics();
    assert_eq!(distributor.value("pilcrow_registered_nodes", &[]), 2.0);
    assert!(distributor.value("pilcrow_lists_pushed_total", &[]) >= 2.0);
    eventually("both nodes are connected, and the one that asks", || {
        let open = system.distributor.metrics().value("pilcrow_connections_open", &[("port", "node")]);
        (open == 3.0).then_some(())
    });
    for (metrics, name) in [(&gateway, "gateway"), (&users, "users"), (&distributor, "distributor")] {
        assert_eq!(metrics.value("pilcrow_build_info", &[("process", name)]), 1.0);
        assert!(metrics.value("process_start_time_seconds", &[]) > 1_700_000_000.0);
        if cfg!(target_os = "linux") {
            assert!(metrics.value("process_resident_memory_bytes", &[]) > 1_000_000.0);
            assert!(metrics.value("process_open_fds", &[]) > 3.0);
            assert!(metrics.value("process_threads", &[]) > 1.0);
        }
    }
}

#[test]
fn promtool_accepts_the_metrics() {
    let system = System::start();
    system.create_user("kim@example.com", "Kim");
    assert_eq!(system.http().get("/nowhere").status, 404);
    let all = [system.http().metrics(), system.users[0].metrics(), system.distributor.metrics()];
    for Metrics { text, .. } in all {
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut promtool) = promtool else {
            crate::harness::skip("promtool", "not installed; Debian's package prometheus has it");
            return;
        };
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && words.is_empty(), "{words}\n{text}");
    }
}

#[test]
fn nothing_that_a_client_invents_becomes_a_label() {
    let system = System::start();
    let http = system.http();
    let ask = |round: usize| {
        for path in
            [format!("/invented/{round}"), format!("/users/invented-{round}/x"), "/users/invented".to_owned()]
        {
            http.get(&path);
        }
        http.request(&format!("INVENTED{round}"), "/users", &[], b"");
        http.request(&format!("INVENTED{round}"), "/metrics", &[], b"");
        http.request(&format!("INVENTED{round}"), "/invented", &[], b"");
        http.raw(b"GET /invented HTTP/1.1\r\ninvented: \x00\r\n\r\n");
        let mut packets = system.users[0].packets();
        for (method, uri) in [("INVENTED", "/users"), ("GET", "/invented"), ("GET", "/users/invented")] {
            packets.call(method, &format!("{uri}{round}"), &json!({}), 1);
        }
    };
    ask(0);
    // The first request for metrics is counted as well.
    http.metrics();
    system.users[0].metrics();
    let before = (http.metrics().len(), system.users[0].metrics().len());
    (1..20).for_each(ask);
    let (gateway, users) = (http.metrics(), system.users[0].metrics());
    assert_eq!((gateway.len(), users.len()), before);
    for metrics in [&gateway, &users] {
        assert!(!metrics.text.to_lowercase().contains("invented"), "{}", metrics.text);
    }
    assert_eq!(gateway.value(HTTP, &[("method", "GET"), ("route", "none")]), 40.0);
    assert_eq!(
        gateway.value(HTTP, &[("method", "other"), ("route", "none")]),
        80.0,
        "unreadable requests too"
    );
}

#[test]
fn the_gateway_has_no_route_to_the_metrics_of_a_service() {
    let system = System::start();
    let rows = system.http().get("/routes").text();
    assert!(!rows.contains("metrics"), "{rows}");
    let of_gateway = system.http().metrics();
    assert_eq!(of_gateway.find("pilcrow_build_info", &[("process", "gateway")]), Some(1.0));
    for (process, name) in [(&system.users[0], "users"), (&system.distributor, "distributor")] {
        let reply = process.packets().call("GET", "/metrics", &json!({}), 7);
        assert_eq!((&reply["key"], &reply["errorcode"]), (&json!(7), &json!(0)));
        let metrics = Metrics::parse(reply["results"].as_str().unwrap());
        assert_eq!(metrics.find("pilcrow_build_info", &[("process", name)]), Some(1.0));
    }
    let refused = system.http().request("POST", "/metrics", &[], b"");
    assert_eq!((refused.status, refused.header("Allow")), (405, Some("GET, HEAD")));
}

#[test]
fn bad_frames_and_orphans_and_retries_are_counted() {
    let system = System::start();
    let mut nonsense = system.distributor.packets();
    nonsense.send_raw("nonsense¶".as_bytes());
    assert_eq!(nonsense.await_list(|_| true).len(), 2);
    let counted = |reason: &str| {
        system.distributor.metrics().value("pilcrow_frames_rejected_total", &[("reason", reason)])
    };
    eventually("the bad frame is counted", || (counted("not_an_object") == 1.0).then_some(()));
    assert_eq!(counted("too_long"), 0.0);

    let twice = |request: &ReceivedRequest| {
        request.echo();
        request.echo();
    };
    let _twice = Echo::answering(&system.distributor, "twice", &["GET/twice"], twice);
    system.await_instances("GET", "/twice", 1);
    assert_eq!(system.http().get("/twice").status, 200);
    let count = |name: &str| system.http().metrics().value(name, &[]);
    eventually("the second answer is an orphan", || {
        (count("pilcrow_orphan_replies_total") == 1.0).then_some(())
    });

    let before = count("pilcrow_retries_total");
    let lost = Echo::answering(&system.distributor, "shaky", &["GET/shaky"], ReceivedRequest::hang_up);
    let _good = Echo::start(&system.distributor, "shaky", &["GET/shaky"]);
    system.await_instances("GET", "/shaky", 2);
    assert!((0..2).all(|_| system.http().get("/shaky").status == 200));
    assert_eq!(lost.requests().len(), 1, "once, and then its link is down");
    assert_eq!(count("pilcrow_retries_total"), before + 1.0);
    let links = |state| system.http().metrics().value("pilcrow_links", &[("state", state)]);
    assert_eq!((links("up"), links("down")), (3.0, 1.0));
}

#[test]
fn the_metrics_show_that_a_silent_instance_is_set_aside() {
    let distributor = Process::distributor(&[]);
    let silent = |_: &ReceivedRequest| {};
    let _one = Echo::answering(&distributor, "mute", &["POST/mute"], silent);
    let gateway = Process::gateway(&distributor, &["--timeout", "1"]);
    await_instances(&gateway, "POST", "/mute", 1);
    let ask = || {
        thread::spawn({
            let http = gateway.http();
            move || http.request("POST", "/mute", &[], b"").status
        })
    };
    let pending: Vec<_> = (0..3).map(|_| ask()).collect();
    assert!(pending.into_iter().all(|status| status.join().unwrap() == 504));
    let metrics = gateway.http().metrics();
    assert_eq!(metrics.value("pilcrow_ejections_total", &[]), 1.0);
    assert_eq!(metrics.value("pilcrow_links", &[("state", "set_aside")]), 1.0);
    assert_eq!(metrics.value("pilcrow_links", &[("state", "up")]), 0.0);
}

#[test]
fn streams_are_counted_while_they_are_open() {
    let system = System::start();
    let open = || {
        let at_users = system.users[0].metrics().value("pilcrow_streams_open", &[]);
        (system.http().metrics().value("pilcrow_streams_open", &[]), at_users)
    };
    let events = system.http().events("/users/changes", &[]).unwrap_or_else(|answer| panic!("{answer:?}"));
    assert_eq!(open(), (1.0, 1.0));
    drop(events);
    // The gateway notices a closed client when it has an event for it.
    system.create_user("kim@example.com", "Kim");
    eventually("the stream is over", || (open() == (0.0, 0.0)).then_some(()));
    let streams = [("route", "/users/changes"), ("status", "200")];
    assert_eq!(system.http().metrics().value(HTTP, &streams), 1.0);
}
