//! More requests than the limits allow. Requests beyond the limit are rejected at once; the rest are answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pilcrow::context::Context;
use pilcrow::mesh::Mesh;
use pilcrow::net::link::LinkLimits;
use pilcrow::node::Node;
use serde_json::json;

use crate::harness::{Echo, Http, Process, ReceivedRequest, Response, await_instances, eventually};

/// A service that holds its requests until the story answers.
fn keeper(distributor: &Process) -> Echo {
    Echo::answering(distributor, "keeper", &["GET/kept"], |_| {})
}

fn assert_busy(answer: &Response) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    let seconds: u32 = answer.header("Retry-After").expect("a `Retry-After`").parse().unwrap();
    assert!(seconds > 0 && answer.message().contains("too many requests are in flight"), "{}", answer.text());
}

fn assert_healthy(http: Http) {
    for path in ["/healthz", "/readyz", "/routes"] {
        assert_eq!(http.get(path).status, 200, "{path}");
    }
}

#[test]
fn requests_above_the_limit_get_503_at_once_and_the_others_are_answered() {
    const ROOM: usize = 8;
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--max-in-flight", "8", "--timeout", "60"]);
    let service = keeper(&distributor);
    await_instances(&gateway, "GET", "/kept", 1);
    let http = gateway.http();
    let begin = Arc::new(Barrier::new(5 * ROOM));
    let clients: Vec<JoinHandle<Response>> = (0..5 * ROOM)
        .map(|number| {
            let begin = begin.clone();
            thread::spawn(move || {
                let mut connection = http.connect();
                begin.wait();
                connection.send_request("GET", &format!("/kept/{number}"), &[], b"");
                connection.receive().expect("an answer")
            })
        })
        .collect();
    // Only the surplus gets answers now, so it did not wait for anything.
    let (inside, beyond) = eventually("the surplus is answered", || {
        let ended = clients.iter().filter(|client| client.is_finished()).count();
        (ended >= 4 * ROOM).then_some((5 * ROOM - ended, ended))
    });
    assert_eq!((inside, beyond, service.await_requests(ROOM).len()), (ROOM, 4 * ROOM, ROOM));
    assert_healthy(http);
    assert_busy(&http.get("/kept/late"));
    // A free place is given to the next request.
    service.requests()[0].echo();
    eventually("one more is answered", || {
        (clients.iter().filter(|client| client.is_finished()).count() > beyond).then_some(())
    });
    let next = thread::spawn(move || http.get("/kept/next"));
    service.await_requests(ROOM + 1)[1..].iter().for_each(ReceivedRequest::echo);
    assert_eq!(next.join().unwrap().results()["params"]["params"], "next");
    let answers: Vec<Response> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let (good, rejected): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(good.len(), ROOM);
    rejected.into_iter().for_each(assert_busy);
    assert_eq!(service.requests().len(), ROOM + 1, "a rejected request is never sent");
}

#[test]
fn each_instance_has_its_own_limit_beside_that_of_the_gateway() {
    let distributor = Process::distributor(&[]);
    let services = [keeper(&distributor), keeper(&distributor)];
    let limits = LinkLimits { max_pending: 2, ..LinkLimits::default() };
    let node = Node::ours("asker", 9, Vec::new(), "asker");
    let (mesh, _membership) = Mesh::join(&[distributor.address().to_string()], node, limits, None).unwrap();
    let instances = || mesh.routes().first().map_or(0, |row| row.instances.len());
    eventually("both are linked", || (instances() == 2).then_some(()));
    let calls: Vec<_> = (0..7)
        .map(|number| {
            let mesh = mesh.clone();
            thread::spawn(move || {
                mesh.call(&Context::default(), "GET", &format!("/kept/{number}"), &json!({}))
            })
        })
        .collect();
    let refused = || calls.iter().filter(|call| call.is_finished()).count();
    eventually("three are rejected", || (refused() == 3).then_some(()));
    for service in &services {
        assert_eq!(service.await_requests(2).len(), 2);
        service.requests().iter().for_each(ReceivedRequest::echo);
    }
    let outcomes: Vec<_> = calls.into_iter().map(|call| call.join().unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 4);
    for failure in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(failure.errorcode, 503, "{failure}");
    }
}

#[test]
fn under_overload_every_request_and_every_health_check_is_answered() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--max-in-flight", "4"]);
    // It answers one request after the other, slowly.
    let slow = |request: &ReceivedRequest| {
        thread::sleep(Duration::from_millis(2)); // work is played by sleeping
        request.echo();
    };
    let _service = Echo::answering(&distributor, "slow", &["GET/slow"], slow);
    await_instances(&gateway, "GET", "/slow", 1);
    let (http, over) = (gateway.http(), Arc::new(AtomicBool::new(false)));
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let clients: Vec<_> = (0..32)
        .map(|number| {
            let (over, counts) = (over.clone(), counts.clone());
            thread::spawn(move || {
                let mut connection = http.connect();
                while !over.load(Ordering::SeqCst) {
                    connection.send_request("GET", &format!("/slow/{number}"), &[], b"");
                    let answer = connection.receive().expect("every request is answered");
                    let refused = answer.status != 200;
                    if refused {
                        assert_busy(&answer);
                    } else {
                        assert_eq!(answer.results()["params"]["params"], number.to_string());
                    }
                    counts[usize::from(refused)].fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let count = |at: usize| counts[at].load(Ordering::SeqCst);
    eventually("many are answered and many rejected", || {
        assert_healthy(http);
        let hopeless = clients.iter().any(JoinHandle::is_finished);
        (hopeless || (count(0) >= 300 && count(1) >= 1000)).then_some(())
    });
    over.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("every answer was right");
    }
    assert_eq!(http.get("/slow/after").results()["params"]["params"], "after");
    #[cfg(target_os = "linux")]
    assert!(gateway.peak_kib() < 64 * 1024, "{} KiB", gateway.peak_kib());
}
