//! Overload of a course service: many packets at once, and a packet that is too long.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{COURSE_MAX_BYTES, DIALECTS, ask, assert_alive, course_js, links, port_of};
use crate::harness::{Process, await_instances, eventually};

/// The text length that makes a packet of 8 KB.
const LONG: usize = 8000;

fn start_service(distributor: &Process, dialect: &str, more: &[&str]) -> Option<Process> {
    let urls = format!("GET/{dialect},POST/{dialect}");
    let flags = ["--dialect", dialect, "--name", dialect, "--urls", &urls];
    course_js(&[&["service", &port_of(distributor)], &flags[..], more].concat())
}

fn await_in_flight(gateway: &Process, count: f64) {
    let in_flight = || gateway.http().metrics().value("pilcrow_http_requests_in_flight", &[]);
    eventually(&format!("{count} requests wait at the gateway"), || (in_flight() >= count).then_some(()));
}

/// A suspended process that resumes on drop. It then reads all pending input at once.
struct Stopped<'a>(&'a Process);

impl<'a> Stopped<'a> {
    fn new(process: &'a Process) -> Self {
        process.signal(Signal::SIGSTOP);
        Self(process)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::SIGCONT);
    }
}

#[test]
fn a_course_service_lives_through_a_burst_that_it_reads_all_at_once() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "15"]);
    for (dialect, payload, _) in DIALECTS {
        let Some(mut service) = start_service(&distributor, dialect, &[]) else { return };
        let path = format!("/{dialect}");
        await_instances(&gateway, "POST", &path, 1);
        for _ in 0..2 {
            let stopped = Stopped::new(&service);
            let pending: Vec<_> = (0..30)
                .map(|number| {
                    let body = json!({ "number": number, "text": "x".repeat(LONG) }).to_string();
                    ask(&gateway, "POST", &path, body.as_bytes())
                })
                .collect();
            await_in_flight(&gateway, 30.0);
            drop(stopped);
            for (number, answer) in pending.into_iter().enumerate() {
                let answer = answer.join().unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.reply()[payload]["params"]["number"], number);
            }
        }
        assert_alive(&mut service);
        assert_eq!(links(&gateway, service.port()), 1);
    }
}

#[test]
fn sixty_four_clients_with_long_requests_kill_no_course_service() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "15"]);
    for (dialect, ..) in DIALECTS {
        let Some(mut service) = start_service(&distributor, dialect, &[]) else { return };
        let path = format!("/{dialect}");
        await_instances(&gateway, "POST", &path, 1);
        for length in [1000, LONG, 20_000, 40_000] {
            let body = json!({ "text": "x".repeat(length) }).to_string();
            let pending: Vec<_> = (0..64).map(|_| ask(&gateway, "POST", &path, body.as_bytes())).collect();
            for answer in pending {
                let answer = answer.join().unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        }
        assert_alive(&mut service);
        assert_eq!(links(&gateway, service.port()), 1);
    }
}

#[test]
fn reads_that_are_tried_again_are_no_burst_for_the_other_course_service() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "15"]);
    let Some(lost) = start_service(&distributor, "template", &[]) else { return };
    let mut other = start_service(&distributor, "template", &[]).unwrap();
    await_instances(&gateway, "GET", "/template", 2);
    lost.signal(Signal::SIGSTOP);
    let kept = Stopped::new(&other);
    let path = format!("/template?text={}", "x".repeat(LONG));
    let pending: Vec<_> = (0..16).map(|_| ask(&gateway, "GET", &path, b"")).collect();
    await_in_flight(&gateway, 16.0);
    lost.kill();
    await_instances(&gateway, "GET", "/template", 1);
    drop(kept);
    for answer in pending {
        let answer = answer.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_alive(&mut other);
    assert_eq!(links(&gateway, other.port()), 1);
}

#[test]
fn requests_past_their_deadline_make_no_burst() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "1"]);
    let Some(mut service) = start_service(&distributor, "template", &[]) else { return };
    await_instances(&gateway, "POST", "/template", 1);
    let body = json!({ "text": "x".repeat(LONG) }).to_string();
    let stopped = Stopped::new(&service);
    for _ in 0..2 {
        let pending: Vec<_> = (0..20).map(|_| ask(&gateway, "POST", "/template", body.as_bytes())).collect();
        for answer in pending {
            let answer = answer.join().unwrap();
            // Some of the requests were never sent.
            assert!([503, 504].contains(&answer.status), "{}", answer.text());
        }
    }
    drop(stopped);
    super::await_success(&gateway, "/template");
    assert_eq!(gateway.http().post("/template", &json!({ "text": "x".repeat(LONG) })).status, 200);
    assert_alive(&mut service);
}

#[test]
fn a_packet_over_64_kib_is_413_and_never_reaches_a_course_service() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let http = gateway.http();
    for (dialect, payload, _) in DIALECTS {
        // A service that handles a packet in pieces would store it.
        for merge in [&["--store"][..], &["--store", "--merge"]] {
            let Some(mut service) = start_service(&distributor, dialect, merge) else { return };
            let path = format!("/{dialect}");
            await_instances(&gateway, "POST", &path, 1);
            for length in [COURSE_MAX_BYTES, 300_000, 1_000_000] {
                let refused = http.post(&path, &json!({ "text": "x".repeat(length) }));
                assert_eq!((refused.status, &refused.reply()["errorcode"]), (413, &json!(413)));
                assert!(refused.message().contains("65536"), "{}", refused.text());
                assert_eq!(http.post(&path, &json!({ "text": "short" })).status, 200);
            }
            // ¶ is two bytes in UTF-8. The packet carries it as `\u00b6`, which is six.
            let escaped = http.post(&path, &json!({ "text": "¶".repeat(COURSE_MAX_BYTES / 6) }));
            assert_eq!(escaped.status, 413, "{}", escaped.text());
            let stored = http.get(&path).reply()[payload].clone();
            assert_eq!(stored, json!([{ "text": "short" }, { "text": "short" }, { "text": "short" }]));
            assert_alive(&mut service);
            assert_eq!(links(&gateway, service.port()), 1);
            drop(service);
            await_instances(&gateway, "POST", &path, 0);
        }
    }
}
