//! Calls from service to service.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pilcrow::context::Context;
use pilcrow::mesh::Mesh;
use pilcrow::net::link::LinkLimits;
use pilcrow::service::{Failure, Reply, Request, Service};
use serde_json::{Value, json};

use super::{await_route, join, serve};
use crate::harness::{Echo, Process, ReceivedRequest, await_instances, eventually};

/// A service that forwards each `GET path` to `GET next`, after this long a time of its work.
pub fn relay(
    distributor: &Process,
    name: &'static str,
    path: &str,
    next: &'static str,
    work: Duration,
) -> pilcrow::service::Running {
    let mesh = Mesh::new(LinkLimits::default());
    let calling = mesh.clone();
    let pass_on = move |request: &Request| {
        thread::sleep(work);
        let reply = calling.call(request.context(), "GET", next, &json!({}))?;
        Reply::ok(&reply["results"])
    };
    serve(Service::new(name, 0).mesh(&mesh).route_slow("GET", path, pass_on), distributor)
}

#[test]
fn a_call_resolves_paths_as_the_gateway_does() {
    let distributor = Process::distributor(&[]);
    let echo = Echo::start(&distributor, "echo", &["GET/echo", "POST/echo", "GET/echo/all"]);
    let (mesh, _membership) = join(&distributor);
    await_route(&mesh, "GET", "/echo", 1);
    let cases = [
        ("GET", "/echo", json!({ "a": 1 }), json!({ "a": 1 }), "/echo"),
        ("GET", "/echo/7", json!({ "a": [1, "¶"] }), json!({ "a": [1, "¶"], "params": "7" }), "/echo"),
        ("POST", "/echo/x", json!({ "params": "mine" }), json!({ "params": "x" }), "/echo"),
        ("GET", "/echo/all", json!({}), json!({}), "/echo/all"),
        ("GET", "/echo/all/1", json!({}), json!({ "params": "1" }), "/echo/all"),
    ];
    for (method, path, params, expected, uri) in cases {
        let reply = mesh.call(&Context::default(), method, path, &params).unwrap();
        assert_eq!(reply["errorcode"], 0, "the whole packet is returned: {reply}");
        assert_eq!(
            reply["results"],
            json!({ "uri": uri, "method": method, "params": expected }),
            "{method} {path}"
        );
    }
    assert_eq!(echo.requests().len(), 5);
}

#[test]
fn a_failed_call_says_why() {
    let distributor = Process::distributor(&[]);
    let play = |request: &ReceivedRequest| match request.params()["do"].as_str() {
        Some("refuse") => {
            request.reply(&json!({ "errorcode": 418, "errormessage": "no tea", "pot": { "tea": 0 } }));
        }
        Some("stream") => request.reply(&json!({ "errorcode": 0, "results": 1, "more": true })),
        Some("hang up") => request.hang_up(),
        _ => {}
    };
    let echo = Echo::answering(&distributor, "echo", &["POST/echo", "PUT/echo"], play);
    let (mesh, _membership) = join(&distributor);
    await_route(&mesh, "POST", "/echo", 1);
    let fail = |method: &str, path: &str, what: &str| {
        let soon =
            Context { deadline: Some(Instant::now() + Duration::from_millis(500)), ..Context::default() };
        let failure: Failure = mesh.call(&soon, method, path, &json!({ "do": what })).unwrap_err();
        println!("{method} {path} {what}: {failure}");
        failure
    };
    let unknown = fail("GET", "/nowhere/1", "");
    assert_eq!(unknown.errorcode, 404);
    assert!(unknown.errormessage.contains("GET /nowhere/1"), "{unknown}");
    let other_method = fail("DELETE", "/echo", "");
    assert_eq!(other_method.errorcode, 405);
    assert!(other_method.errormessage.contains("POST, PUT"), "{other_method}");
    let refused = fail("POST", "/echo", "refuse");
    assert_eq!((refused.errorcode, refused.errormessage.as_str()), (418, "no tea"));
    assert_eq!(refused.details.len(), 1, "further fields stay: {refused:?}");
    assert_eq!((&*refused.details[0].0, &refused.details[0].1), ("pot", &json!({ "tea": 0 })));
    let silent = fail("POST", "/echo", "nothing");
    assert_eq!(silent.errorcode, 504);
    assert!(silent.errormessage.contains("/echo") && silent.errormessage.contains("in time"), "{silent}");
    let stream = fail("POST", "/echo", "stream");
    assert_eq!(stream.errorcode, 406);
    assert!(stream.errormessage.contains("subscribe"), "{stream}");
    let key = |request: &ReceivedRequest| request.key().as_u64().unwrap();
    let requests = echo.await_requests(4);
    assert_eq!(
        (&requests[3].packet["method"], key(&requests[3])),
        (&json!("CANCEL"), key(&requests[2])),
        "an unused stream is cancelled"
    );
    let lost = fail("POST", "/echo", "hang up");
    assert_eq!(lost.errorcode, 502);
    assert!(lost.errormessage.contains("may or may not"), "{lost}");
    drop(echo);
    await_route(&mesh, "POST", "/echo", 0);
    // A link that was up is dialled again at once, so it may find the old listener for a moment.
    let is_down = |failure: &Failure| failure.errorcode == 503;
    let down = eventually("there is no link any more", || Some(fail("POST", "/echo", "")).filter(is_down));
    assert!(down.errormessage.contains("start an instance"), "{down}");
}

#[test]
fn the_remaining_time_and_the_hops_travel_with_a_call() {
    const WORK: Duration = Duration::from_millis(50);
    let distributor = Process::distributor(&[]);
    let echo = Echo::start(&distributor, "echo", &["GET/echo"]);
    let near = relay(&distributor, "near", "/near", "/far", WORK);
    let far = relay(&distributor, "far", "/far", "/echo", WORK);
    let gateway = Process::gateway(&distributor, &["--timeout", "60"]);
    await_instances(&gateway, "GET", "/near", 1);
    // The relays discover each other automatically.
    let answer = eventually("the whole route is known", || {
        Some(gateway.http().get("/near")).filter(|answer| answer.status == 200)
    });
    assert_eq!(answer.results()["uri"], "/echo");
    gateway.http().get("/echo");
    let requests = echo.await_requests(2);
    let (through, direct) = (&requests[requests.len() - 2].packet, &requests[requests.len() - 1].packet);
    let deadline = |packet: &Value| packet["deadline_ms"].as_u64().unwrap();
    // A mesh waits at most 5 s for a reply, even if its caller waits longer.
    assert!(deadline(direct) <= 60_000 && deadline(direct) > 5_000, "{direct}");
    assert!(deadline(through) <= 5_000, "{through}");
    assert_eq!((direct.get("hops"), &through["hops"]), (None, &json!(2)));
    drop((near, far));

    let near = relay(&distributor, "soon", "/soon", "/echo", WORK);
    let hurried = Process::gateway(&distributor, &["--timeout", "3"]);
    await_instances(&hurried, "GET", "/soon", 1);
    let before = echo.requests().len();
    crate::harness::eventually("the route is known", || {
        (hurried.http().get("/soon").status == 200).then_some(())
    });
    let through = echo.await_requests(before + 1).last().unwrap().packet.clone();
    let left = deadline(&through);
    assert!(left <= 2_950, "the service's 50 ms are subtracted: {through}");
    assert_eq!(through["hops"], 1);
    drop(near);
}

#[test]
fn a_call_past_its_deadline_is_given_up() {
    let distributor = Process::distributor(&[]);
    let echo = Echo::answering(&distributor, "echo", &["GET/echo"], |_| {});
    let _relay = relay(&distributor, "relay", "/relay", "/echo", Duration::ZERO);
    let gateway = Process::gateway(&distributor, &["--timeout", "0.4"]);
    await_instances(&gateway, "GET", "/relay", 1);
    let (mesh, _membership) = join(&distributor);
    await_route(&mesh, "GET", "/echo", 1);
    crate::harness::eventually("the call gets through", || {
        let answer = gateway.http().get("/relay");
        assert!(matches!(answer.status, 404 | 503 | 504), "{}", answer.text());
        (!echo.requests().is_empty()).then_some(())
    });
    assert!(echo.requests()[0].packet["deadline_ms"].as_u64().unwrap() < 400);
}

#[test]
fn services_that_call_each_other_in_a_ring_end_with_508_and_no_storm() {
    let distributor = Process::distributor(&[]);
    let calls = Arc::new(AtomicUsize::new(0));
    let half = |name: &'static str, path: &str, next: &'static str| {
        let mesh = Mesh::new(LinkLimits::default());
        let (calling, calls) = (mesh.clone(), calls.clone());
        let service = Service::new(name, 0).mesh(&mesh).route_slow("GET", path, move |request| {
            calls.fetch_add(1, Ordering::SeqCst);
            calling.call(request.context(), "GET", next, &json!({})).and_then(Reply::ok)
        });
        serve(service, &distributor)
    };
    let _ring = [half("chicken", "/chicken", "/egg"), half("egg", "/egg", "/chicken")];
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/chicken", 1);
    await_instances(&gateway, "GET", "/egg", 1);
    let answer = crate::harness::eventually("each knows the other", || {
        calls.store(0, Ordering::SeqCst);
        Some(gateway.http().get("/chicken")).filter(|answer| !matches!(answer.status, 404 | 503))
    });
    assert_eq!(answer.status, 508, "{}", answer.text());
    assert!(answer.message().contains("ring"), "{}", answer.message());
    let calls = calls.load(Ordering::SeqCst);
    assert!((2..=10).contains(&calls), "{calls} calls");
    println!("the ring ended after {calls} calls");
}

#[test]
fn a_request_with_too_many_hops_is_rejected() {
    let distributor = Process::distributor(&[]);
    let system = serve(Service::new("door", 0).route("GET", "/door", |_| Reply::ok("in")), &distributor);
    let (mesh, _membership) = join(&distributor);
    await_route(&mesh, "GET", "/door", 1);
    let mut packets = crate::harness::Packets::to(mesh.routes()[0].instances[0].parse().unwrap());
    for (hops, errorcode) in [(0_u64, 0), (1, 0), (8, 0), (9, 508), (4_294_967_295, 508)] {
        packets.send(&json!({ "uri": "/door", "method": "GET", "key": 1, "params": {}, "hops": hops }));
        assert_eq!(packets.receive().unwrap()["errorcode"], errorcode, "hops {hops}");
    }
    drop(system);
}

#[test]
fn a_course_service_gets_no_unknown_fields() {
    let distributor = Process::distributor(&[]);
    let course = Echo::course(&distributor, "course", &["GET/course"], |request| {
        request.reply(&json!({ "errorcode": 0, "errormessage": "success", "results": "hello" }));
    });
    let _relay = relay(&distributor, "relay", "/relay", "/course", Duration::ZERO);
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/relay", 1);
    crate::harness::eventually("the route is known", || {
        (gateway.http().get("/relay").text().contains("hello")).then_some(())
    });
    let request = course.await_requests(1)[0].packet.clone();
    let fields: Vec<&String> = request.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["key", "method", "params", "uri"], "neither deadline nor hops: {request}");
    let key = request["key"].as_u64().unwrap();
    assert_eq!(request["params"]["key"], key + 1, "the service may read either key");
}

#[test]
fn more_in_the_reply_of_a_course_service_starts_no_stream() {
    let distributor = Process::distributor(&[]);
    let page =
        json!({ "errorcode": 0, "errormessage": "success", "results": [1, 2], "more": true, "seq": 3 });
    let reply = page.clone();
    let course = Echo::course(&distributor, "course", &["GET/course"], move |request| request.reply(&reply));
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/course", 1);
    for accept in ["*/*", "text/event-stream"] {
        let answer = gateway.http().request("GET", "/course", &[("Accept", accept)], b"");
        assert_eq!(answer.status, 200, "{accept}: {}", answer.text());
        for (field, value) in page.as_object().unwrap() {
            assert_eq!(&answer.reply()[field], value, "{accept}");
        }
    }
    // It receives only requests.
    assert!(course.await_requests(2).iter().all(|request| request.packet["method"] == "GET"));
}
