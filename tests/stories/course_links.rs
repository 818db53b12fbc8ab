//! Links to course services: the window, the key, long packets, and the handling of a lost link.
//!
//! The services are played by raw sockets. A course service crashes if one read returns more than 64 KiB. The bytes
//! that a played service received before its answer show whether a real one would have crashed.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Echo, Process, ReceivedRequest, Response, await_instances, eventually};

/// The limit of a course service for one packet and for one read.
const COURSE_MAX_BYTES: usize = 64 * 1024;

/// This many requests of [`text`] fit into 64 KiB.
const FITTING: usize = 7;

/// 8 KiB of a request.
fn text() -> String {
    "x".repeat(8 * 1024)
}

/// The size of a request on the wire.
fn size(request: &ReceivedRequest) -> usize {
    request.text.len() + "¶".len()
}

/// A course service that holds its requests until the story answers.
fn keeper(distributor: &Process) -> Echo {
    Echo::course(distributor, "goods", &["GET/goods", "POST/goods"], |_| {})
}

/// A course service that answers late, and the maximum of unanswered bytes it had.
fn late_answerer(distributor: &Process) -> (Echo, Arc<AtomicUsize>) {
    let most = Arc::new(AtomicUsize::new(0));
    let (seen, unanswered) = (most.clone(), Arc::new(Mutex::new(0)));
    let answer = move |request: &ReceivedRequest| {
        *unanswered.lock().unwrap() += size(request);
        seen.fetch_max(*unanswered.lock().unwrap(), Ordering::SeqCst);
        let (request, unanswered) = (request.clone(), unanswered.clone());
        thread::spawn(move || {
            *unanswered.lock().unwrap() -= size(&request);
            request.echo();
        });
    };
    (Echo::course(distributor, "goods", &["GET/goods", "POST/goods"], answer), most)
}

/// Sends the request on a new thread.
fn ask(gateway: &Process, method: &'static str, number: usize) -> JoinHandle<Response> {
    let http = gateway.http();
    thread::spawn(move || match method {
        "GET" => http.get(&format!("/goods/{number}?text={}", text())),
        _ => http.post(&format!("/goods/{number}"), &json!({ "text": text() })),
    })
}

/// Ten requests, one after the other, over one new link. Each is sent or waits in the queue.
fn ask_ten(gateway: &Process, method: &'static str) -> Vec<JoinHandle<Response>> {
    (0..10)
        .map(|number| {
            let asking = ask(gateway, method, number);
            gateway.await_log(&[&format!("request {method} /goods, key {},", 2 * number + 1)]);
            asking
        })
        .collect()
}

/// The numbers of the requests, in the order in which the service has read them.
fn numbers(service: &Echo) -> Vec<String> {
    service.requests().iter().map(|request| request.params()["params"].as_str().unwrap().to_owned()).collect()
}

/// The number of answers with this status.
fn count(answers: &[Response], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

fn join(asking: Vec<JoinHandle<Response>>) -> Vec<Response> {
    asking.into_iter().map(|asking| asking.join().unwrap()).collect()
}

// ---- the window

#[test]
fn ten_requests_of_8_kib_never_have_more_than_64_kib_unanswered_and_keep_their_order() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "30"]);
    let goods = keeper(&distributor);
    await_instances(&gateway, "POST", "/goods", 1);
    let asking = ask_ten(&gateway, "POST");
    for answered in 0..10 {
        let expected = (FITTING + answered).min(10);
        let requests = goods.await_requests(expected);
        assert_eq!(requests.len(), expected, "one answer frees the place for one request");
        let unanswered: usize = requests[answered..].iter().map(size).sum();
        assert!(unanswered <= COURSE_MAX_BYTES, "{unanswered} bytes");
        requests[answered].echo();
    }
    for (number, answer) in join(asking).into_iter().enumerate() {
        assert_eq!((answer.status, &answer.results()["params"]["params"]), (200, &json!(number.to_string())));
    }
    assert_eq!(numbers(&goods), (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_request_without_a_turn_before_its_deadline_is_never_sent_and_gets_503() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "2"]);
    let goods = keeper(&distributor);
    await_instances(&gateway, "POST", "/goods", 1);
    let answers = join(ask_ten(&gateway, "POST"));
    for (number, answer) in answers.iter().enumerate() {
        let (status, words) = if number < FITTING { (504, "may or may not") } else { (503, "was not sent") };
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.message().contains(words), "{}", answer.text());
        assert_eq!(answer.header("Retry-After").is_some(), status == 503);
    }
    assert_eq!(goods.requests().len(), FITTING);
}

#[test]
fn a_link_with_a_window_full_of_abandoned_requests_is_replaced() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "1"]);
    let goods = Echo::course(&distributor, "goods", &["GET/goods", "POST/goods"], |request| {
        if request.packet["method"] == "GET" {
            request.echo();
        }
    });
    await_instances(&gateway, "POST", "/goods", 1);
    let answers = join((0..FITTING).map(|number| ask(&gateway, "POST", number)).collect());
    assert_eq!(count(&answers, 504), FITTING);
    // The service has read all of it but answers nothing, so no reply can free the window.
    let status = || gateway.http().post("/goods", &json!({ "text": text() })).status;
    assert_eq!(status(), 503, "it was not sent");
    eventually("there is a new link", || (gateway.http().get("/goods").status == 200).then_some(()));
    gateway.await_log(&["stay without a reply"]);
    assert_eq!(goods.requests().len(), FITTING + 1);
}

#[test]
fn a_read_that_waits_for_its_turn_is_not_moved_to_another_instance() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "6"]);
    let silent = keeper(&distributor);
    await_instances(&gateway, "GET", "/goods", 1);
    let asking = ask_ten(&gateway, "GET");
    let (other, most) = late_answerer(&distributor);
    await_instances(&gateway, "GET", "/goods", 2);
    let answers = join(asking);
    // After half of the timeout, the gateway retries the sent requests at the other instance. It retries no others.
    assert_eq!((count(&answers, 200), count(&answers, 503)), (FITTING, 10 - FITTING));
    assert_eq!((silent.requests().len(), other.requests().len()), (FITTING, FITTING));
    assert!(most.load(Ordering::SeqCst) <= COURSE_MAX_BYTES);
}

#[test]
fn when_a_link_is_lost_with_a_burst_on_it_the_next_instance_gets_it_through_its_own_window() {
    for (method, lost) in [("GET", 0), ("POST", FITTING)] {
        let distributor = Process::distributor(&[]);
        let gateway = Process::gateway(&distributor, &["--timeout", "30"]);
        let first = keeper(&distributor);
        await_instances(&gateway, method, "/goods", 1);
        let asking = ask_ten(&gateway, method);
        first.await_requests(FITTING);
        let (other, most) = late_answerer(&distributor);
        await_instances(&gateway, method, "/goods", 2);
        first.hang_up();
        let answers = join(asking);
        // A sent write may have been executed. A queued write was not.
        assert_eq!((count(&answers, 502), count(&answers, 200)), (lost, 10 - lost), "{method}");
        assert_eq!(other.requests().len(), 10 - lost);
        assert!(most.load(Ordering::SeqCst) <= COURSE_MAX_BYTES, "{most:?}");
    }
}

#[test]
fn notices_leave_the_window_free() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let logs = Echo::course(&distributor, "logs", &["POST/logs", "GET/logs"], |request| {
        if request.packet["method"] == "GET" {
            request.echo();
        }
    });
    await_instances(&gateway, "POST", "/logs", 1);
    for number in 1..=20 {
        assert_eq!(gateway.http().request("POST", "/logs", &[], text().as_bytes()).status, 202);
        assert_eq!(logs.await_requests(number).len(), number);
    }
    assert_eq!(gateway.http().get("/logs").status, 200);
}

// ---- one packet

#[test]
fn a_packet_over_64_kib_is_never_sent_to_a_course_service_and_the_413_names_both_sizes() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let goods = Echo::course(&distributor, "goods", &["POST/goods"], ReceivedRequest::echo);
    await_instances(&gateway, "POST", "/goods", 1);
    let post = |length: usize| gateway.http().post("/goods", &json!({ "text": "x".repeat(length) }));
    assert_eq!(post(1).status, 200);
    let rest = size(&goods.requests()[0]) - 1;
    assert_eq!(post(1).status, 200, "the gateway now knows where the service reads the key");
    let known = size(&goods.requests()[1]) - 1;
    assert!(known < rest);

    let longest = COURSE_MAX_BYTES - known;
    assert_eq!(post(longest).status, 200);
    assert_eq!(size(&goods.requests()[2]), COURSE_MAX_BYTES);
    for length in [longest + 1, 300_000] {
        let answer = post(length);
        assert_eq!(answer.status, 413, "{}", answer.text());
        let expected = format!(
            "the request has {} bytes; a course service accepts at most 65536 in one packet; send less",
            known + length
        );
        assert!(answer.message().ends_with(&expected), "{}", answer.text());
    }
    assert_eq!((goods.requests().len(), goods.connections()), (3, 1));
}

// ---- the key

#[test]
fn a_service_that_answers_with_the_key_of_the_packet_gets_no_other_and_the_clients_own_key_reaches_it() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let goods = Echo::course(&distributor, "goods", &["GET/goods"], ReceivedRequest::echo);
    await_instances(&gateway, "GET", "/goods", 1);
    assert_eq!(gateway.http().get("/goods").status, 200);
    assert_eq!(gateway.http().get("/goods?key=5").results()["params"], json!({ "key": "5" }));
    let requests = goods.requests();
    assert_eq!(requests[0].text, r#"{"uri":"/goods","method":"GET","key":1,"params":{"key":2}}"#);
    assert_eq!(requests[1].text, r#"{"uri":"/goods","method":"GET","key":3,"params":{"key":"5"}}"#);
    // Another service may listen on this port later.
    goods.hang_up();
    eventually("it gets another request", || (gateway.http().get("/goods").status == 200).then_some(()));
    assert_eq!(goods.requests().last().unwrap().text, requests[0].text);
}

#[test]
fn a_service_that_answers_with_the_key_of_the_params_gets_no_other() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    // Replies in the style of the book's services, and of those that send the params back.
    let shapes =
        [r#"{"key":KEY,"errorCode":0,"data":1}"#, r#"{"errorCode":0,"data":1,"params":{"key":KEY}}"#];
    for (name, shape) in ["one", "two"].into_iter().zip(shapes) {
        let answer = move |request: &ReceivedRequest| {
            let reply = shape.replace("KEY", &request.params()["key"].to_string());
            request.raw(format!("{reply}¶").as_bytes());
        };
        let service = Echo::course(&distributor, name, &[&format!("GET/{name}")], answer);
        await_instances(&gateway, "GET", &format!("/{name}"), 1);
        for _ in 0..3 {
            assert_eq!(gateway.http().get(&format!("/{name}?a=1")).reply()["data"], 1);
        }
        let texts: Vec<String> = service.requests().into_iter().map(|request| request.text).collect();
        let expected = [r#""key":1,"params":{"a":"1","key":2}}"#, r#""params":{"a":"1","key":4}}"#];
        for (text, end) in texts.iter().zip([expected[0], expected[1], r#""params":{"a":"1","key":6}}"#]) {
            assert_eq!(*text, format!(r#"{{"uri":"/{name}","method":"GET",{end}"#));
        }
    }
}

#[test]
fn a_course_service_may_answer_with_its_key_as_text() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let goods = keeper(&distributor);
    await_instances(&gateway, "GET", "/goods", 1);
    let asking = ["one", "two"].map(|name| {
        let http = gateway.http();
        thread::spawn(move || http.get(&format!("/goods/{name}")))
    });
    for request in goods.await_requests(2) {
        let (key, name) = (request.key(), &request.params()["params"]);
        request.raw(format!("{{\"key\":\"{key}\",\"errorcode\":0,\"results\":{name}}}¶").as_bytes());
    }
    for (name, asking) in ["one", "two"].into_iter().zip(asking) {
        assert_eq!(asking.join().unwrap().results(), name);
    }
}

// ---- a lost link

#[test]
fn a_link_that_was_in_use_and_is_lost_is_dialled_again_at_once() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let goods = Echo::course(&distributor, "goods", &["GET/goods"], ReceivedRequest::echo);
    await_instances(&gateway, "GET", "/goods", 1);
    let up = format!("link 127.0.0.1:{}: up", goods.port());
    let times_up = || gateway.log().iter().filter(|line| line.contains(&up)).count();
    let mut waits = Vec::new();
    for round in 1..=3 {
        assert_eq!(gateway.http().get("/goods").status, 200);
        let lost = Instant::now();
        goods.hang_up();
        eventually("there is a new link", || (times_up() > round).then_some(()));
        waits.push(lost.elapsed());
    }
    // On a busy machine one of them may be slow. A pause of 3 s would show in all of them.
    assert!(waits.iter().min().unwrap() < &Duration::from_secs(2), "{waits:?}");
}

#[test]
fn an_instance_that_accepts_and_closes_at_once_is_dialled_every_three_seconds() {
    let distributor = Process::distributor(&[]);
    let _gateway = Process::gateway(&distributor, &[]);
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut membership = distributor.packets();
    membership.register("goods", socket.local_addr().unwrap().port(), &["GET/goods"], &json!({}));
    let first = Instant::now();
    for _ in 0..3 {
        drop(socket.accept().unwrap());
    }
    let waited = first.elapsed();
    assert!(waited > Duration::from_secs(5), "three connections within {waited:?}");
}
