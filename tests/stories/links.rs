//! Links: the fate of requests when instances and distributors start, stop, crash, or send wrong packets.

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Echo, Load, Process, Program, ReceivedRequest, Response, Scratch, System, await_instances, eventually,
    free_port,
};

// ---- under load

/// The default of the gateway's `--timeout`.
const TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn a_killed_instance_loses_no_read_and_no_route() {
    let mut system = System::builder().scratch(Scratch::in_memory()).users(2).start();
    system.create_user("kim@example.com", "Kim");
    let load = Load::start(system.http(), 4, TIMEOUT);
    load.await_more(50);
    system.users.remove(0).kill();
    load.await_more(200);
    system.await_instances("GET", "/users", 1);
    load.await_more(50);
    let seen = load.end(system.http());
    // The service may have executed the requests in flight. Only reads can be retried without an error to the client.
    assert!(seen.failed_reads.is_empty(), "{:#?}", seen.failed_reads);
    assert!(seen.failed_writes.iter().all(|failed| failed.starts_with("502")), "{:#?}", seen.failed_writes);
    assert_eq!(system.http().get("/users/1").status, 200);
    assert_eq!(system.http().patch("/users/1", &json!({ "name": "Lee" })).status, 200);
}

#[test]
fn one_instance_after_the_other_is_replaced_under_load_without_one_failed_request() {
    let mut system = System::builder().scratch(Scratch::in_memory()).users(2).start();
    system.create_user("kim@example.com", "Kim");
    let load = Load::start(system.http(), 4, TIMEOUT);
    load.await_more(50);
    for _ in 0..2 {
        assert!(system.users.remove(0).stop().success());
        system.await_instances("GET", "/users", 1);
        system.users.push(Process::users(&system.distributor, &system.scratch, &[]));
        system.await_instances("GET", "/users", 2);
        load.await_more(50);
    }
    load.end(system.http()).assert_all_succeeded();
}

#[test]
fn a_distributor_restart_under_load_loses_no_request() {
    let address = format!("127.0.0.1:{}", free_port());
    let distributor = Process::distributor(&["--listen", &address]);
    let system = System::builder().scratch(Scratch::in_memory()).distributor(distributor).users(2).start();
    system.create_user("kim@example.com", "Kim");
    let load = Load::start(system.http(), 4, TIMEOUT);
    load.await_more(50);
    system.distributor.kill();
    system.gateway.await_log(&["distributor", "trying again"]);
    load.await_more(100);
    let distributor = Process::distributor(&["--listen", &address]);
    // Its first lists lack the services that have not returned yet. They keep their routes.
    let mut newcomer = Echo::start(&distributor, "newcomer", &["GET/new"]);
    newcomer.membership.await_list(|list| list.len() == 4);
    await_instances(&system.gateway, "GET", "/new", 1);
    assert_eq!(system.gateway.http().get("/new").status, 200);
    await_instances(&system.gateway, "GET", "/users", 2);
    load.await_more(100);
    load.end(system.gateway.http()).assert_all_succeeded();
}

// ---- joining and leaving

#[test]
fn the_three_may_start_in_any_order() {
    let scratch = Scratch::new();
    let address = format!("127.0.0.1:{}", free_port());
    let gateway = Program::gateway(&address).start();
    assert_eq!(gateway.http().get("/users").status, 404);
    assert_eq!(gateway.http().get("/readyz").status, 503);
    let _users = Program::users(&address, &scratch).start();
    let _distributor = Process::distributor(&["--listen", &address]);
    await_instances(&gateway, "GET", "/users", 1);
    assert_eq!(gateway.http().get("/users").status, 200);
    assert_eq!(gateway.http().get("/readyz").status, 200);
}

#[test]
fn a_route_without_an_instance_is_503_until_one_is_back_on_the_same_port_or_another() {
    let scratch = Scratch::new();
    let distributor = Process::distributor(&[]);
    let same = format!("127.0.0.1:{}", free_port());
    let users = Process::users(&distributor, &scratch, &["--listen", &same]);
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/users", 1);
    let gone = |users: Process| {
        users.kill();
        await_instances(&gateway, "GET", "/users", 0);
        for path in ["/users", "/users/1", "/readyz"] {
            let answer = gateway.http().get(path);
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert!(answer.header("Retry-After").is_some());
        }
        assert_eq!(gateway.http().delete("/users/1").status, 503);
        assert_eq!(gateway.http().get("/goods").status, 404);
    };
    gone(users);
    let users = Process::users(&distributor, &scratch, &["--listen", &same]);
    await_instances(&gateway, "GET", "/users", 1);
    assert_eq!(gateway.http().get("/users").status, 200);
    gone(users);
    let _users = Process::users(&distributor, &scratch, &[]);
    await_instances(&gateway, "GET", "/users", 1);
    assert_eq!(gateway.http().get("/users").status, 200);
}

#[test]
fn any_one_of_several_distributors_is_enough() {
    let nobody_yet = format!("127.0.0.1:{}", free_port());
    let first = Process::distributor(&[]);
    let gateway = Program::gateway(format!("{nobody_yet},{}", first.address())).start();
    let early = Echo::start(&first, "early", &["GET/early"]);
    await_instances(&gateway, "GET", "/early", 1);
    let second = Process::distributor(&["--listen", &nobody_yet]);
    let _late = Echo::start(&second, "late", &["GET/late"]);
    await_instances(&gateway, "GET", "/late", 1);
    first.kill();
    gateway.await_log(&["distributor", "trying again"]);
    assert_eq!(gateway.http().get("/early").status, 200);
    assert_eq!(gateway.http().get("/late").status, 200);
    let _later = Echo::start(&second, "later", &["GET/later"]);
    await_instances(&gateway, "GET", "/later", 1);
    // No list contains this instance any more, so only its link keeps its route.
    drop(early);
    await_instances(&gateway, "GET", "/early", 0);
    assert_eq!(gateway.http().get("/early").status, 503);
}

#[test]
fn an_instance_that_both_of_two_distributors_list_is_one_instance() {
    let (first, second) = (Process::distributor(&[]), Process::distributor(&[]));
    let gateway = Program::gateway(format!("{},{}", first.address(), second.address())).start();
    let echo = Echo::start(&first, "echo", &["GET/echo"]);
    let mut membership = second.packets();
    membership.register("echo", echo.port(), &["GET/echo"], &json!({ "proto": "pilcrow/1" }));
    let _other = Echo::start(&second, "other", &["GET/other"]);
    await_instances(&gateway, "GET", "/other", 1);
    await_instances(&gateway, "GET", "/echo", 1);
    assert_eq!(gateway.http().get("/echo").status, 200);
    assert_eq!(echo.connections(), 1);
}

#[test]
fn an_unlisted_instance_stays_in_use_while_its_link_is_up() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let echo = Echo::start(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "GET", "/echo", 1);
    echo.membership.stream().shutdown(std::net::Shutdown::Both).unwrap();
    // Once the gateway has processed the next list, it has also processed the list without the instance.
    let _next = Echo::start(&distributor, "next", &["GET/next"]);
    await_instances(&gateway, "GET", "/next", 1);
    assert_eq!(distributor.packets().await_list(|_| true).len(), 2);
    assert_eq!(gateway.http().get("/echo").status, 200);
    echo.hang_up();
    await_instances(&gateway, "GET", "/echo", 0);
    assert_eq!(gateway.http().get("/echo").status, 503);
}

#[test]
fn a_second_registration_replaces_the_routes() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let mut echo = Echo::start(&distributor, "echo", &["GET/old", "GET/kept"]);
    await_instances(&gateway, "GET", "/old", 1);
    echo.membership.register("echo", echo.port(), &["GET/kept", "GET/new"], &json!({ "proto": "pilcrow/1" }));
    await_instances(&gateway, "GET", "/new", 1);
    let statuses = ["/old", "/kept", "/new"].map(|path| gateway.http().get(path).status);
    assert_eq!(statuses, [503, 200, 200]);
    assert_eq!(echo.connections(), 1, "over the existing link");
}

// ---- assignment of requests

/// A service that holds its requests until the story answers.
fn keeper(distributor: &Process, name: &str, urls: &[&str]) -> Echo {
    Echo::answering(distributor, name, urls, |_| {})
}

/// Sends the request on a new thread.
fn ask(gateway: &Process, path: &str) -> JoinHandle<Response> {
    let (http, path) = (gateway.http(), path.to_owned());
    thread::spawn(move || http.get(&path))
}

#[test]
fn sequential_requests_are_spread_round_robin() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let order = Arc::new(Mutex::new(Vec::new()));
    let noting = |name: &'static str| {
        let order = order.clone();
        Echo::answering(&distributor, "echo", &["GET/echo"], move |request: &ReceivedRequest| {
            order.lock().unwrap().push(name);
            request.echo();
        })
    };
    let _both = [noting("one"), noting("two")];
    await_instances(&gateway, "GET", "/echo", 2);
    (0..10).for_each(|_| assert_eq!(gateway.http().get("/echo").status, 200));
    let order = order.lock().unwrap();
    assert_eq!(order.len(), 10);
    assert!(order.windows(2).all(|two| two[0] != two[1]), "{order:?}");
}

#[test]
fn the_instance_with_the_fewest_requests_in_flight_gets_the_next() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let keepers =
        [keeper(&distributor, "keeper", &["GET/kept"]), keeper(&distributor, "keeper", &["GET/kept"])];
    await_instances(&gateway, "GET", "/kept", 2);
    let counts = || [keepers[0].requests().len(), keepers[1].requests().len()];
    let waiting: Vec<_> = (1..=6)
        .map(|number| {
            let waiting = ask(&gateway, "/kept");
            eventually("it has arrived", || (counts().iter().sum::<usize>() == number).then_some(()));
            waiting
        })
        .collect();
    assert_eq!(counts(), [3, 3]);
    // One of them answers all its requests, so it gets the next three.
    keepers[0].requests().iter().for_each(ReceivedRequest::echo);
    eventually("three are answered", || {
        (waiting.iter().filter(|one| one.is_finished()).count() == 3).then_some(())
    });
    let more: Vec<_> = (7..=9)
        .map(|number| {
            let waiting = ask(&gateway, "/kept");
            eventually("it has arrived", || (counts().iter().sum::<usize>() == number).then_some(()));
            waiting
        })
        .collect();
    assert_eq!(counts(), [6, 3]);
    keepers[0].requests()[3..].iter().for_each(ReceivedRequest::echo);
    keepers[1].requests().iter().for_each(ReceivedRequest::echo);
    for one in waiting.into_iter().chain(more) {
        assert_eq!(one.join().unwrap().status, 200);
    }
}

#[test]
fn an_instance_that_leaves_gets_no_new_request_and_its_pending_one_is_answered() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let mut leaver = keeper(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "GET", "/echo", 1);
    let pending = ask(&gateway, "/echo/pending");
    leaver.await_requests(1);
    let stayer = Echo::start(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "GET", "/echo", 2);
    let leaving = json!({ "proto": "pilcrow/1", "leaving": true });
    leaver.membership.register("echo", leaver.port(), &["GET/echo"], &leaving);
    await_instances(&gateway, "GET", "/echo", 1);
    (0..6).for_each(|_| assert_eq!(gateway.http().get("/echo").status, 200));
    assert_eq!((leaver.requests().len(), stayer.requests().len()), (1, 6));
    assert_eq!(leaver.connections(), 1, "its link stays up while a request is pending");
    leaver.requests()[0].echo();
    let answer = pending.join().unwrap();
    assert_eq!((answer.status, &answer.results()["params"]["params"]), (200, &json!("pending")));
    eventually("its link is closed", || (leaver.connections() == 0).then_some(()));
    // The instance may rejoin.
    leaver.membership.register(
        "echo",
        leaver.port(),
        &["GET/echo"],
        &json!({ "proto": "pilcrow/1", "id": "again" }),
    );
    await_instances(&gateway, "GET", "/echo", 2);
}

// ---- replies

#[test]
fn replies_may_come_in_any_order() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let keeper = keeper(&distributor, "keeper", &["GET/kept"]);
    await_instances(&gateway, "GET", "/kept", 1);
    let waiting: Vec<_> = (0..20).map(|number| (number, ask(&gateway, &format!("/kept/{number}")))).collect();
    let requests = keeper.await_requests(20);
    let keys: std::collections::BTreeSet<u64> =
        requests.iter().filter_map(|request| request.key().as_u64()).collect();
    assert_eq!((keys.len(), keys.contains(&0)), (20, false), "each request has its own key, and none is 0");
    requests.iter().rev().for_each(ReceivedRequest::echo);
    for (number, waiting) in waiting {
        let answer = waiting.join().unwrap();
        assert_eq!((answer.status, &answer.results()["params"]["params"]), (200, &json!(number.to_string())));
    }
}

#[test]
fn orphan_replies_disturb_no_caller() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let keeper = keeper(&distributor, "keeper", &["GET/kept"]);
    await_instances(&gateway, "GET", "/kept", 1);
    let orphans = |pending: &[ReceivedRequest]| {
        for key in ["999999", "0", "-1", "1.5", "9007199254740993", "\"x\"", "{\"a\":1}", "[]", "true"] {
            pending[0].raw(format!("{{\"key\":{key},\"errorcode\":0,\"results\":\"wrong\"}}¶").as_bytes());
        }
        // A key as text is a different key. A service must echo it unchanged or omit it.
        pending[0].raw(
            format!("{{\"key\":\"{}\",\"errorcode\":0,\"results\":\"wrong\"}}¶", pending[0].key()).as_bytes(),
        );
        // A reply without a key is matched by guess only for a course node.
        pending[0].raw("{\"errorcode\":0,\"results\":\"wrong\"}¶".as_bytes());
    };
    let first = ask(&gateway, "/kept/first");
    orphans(&keeper.await_requests(1));
    let dropped = || gateway.log().iter().filter(|line| line.contains("orphan reply")).count();
    eventually("all are dropped while one request waits", || (dropped() == 11).then_some(()));
    let second = ask(&gateway, "/kept/second");
    let requests = keeper.await_requests(2);
    orphans(&requests);
    for request in &requests {
        request.echo();
        request.echo(); // twice is once too often
    }
    for (name, waiting) in [("first", first), ("second", second)] {
        let answer = waiting.join().unwrap();
        assert_eq!(answer.results()["params"]["params"], name, "{}", answer.text());
    }
    gateway.await_log(&["orphan reply, key 999999"]);
    assert_eq!(keeper.connections(), 1, "over the one link");
}

#[test]
fn nothing_is_delivered_after_its_deadline() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "0.3"]);
    let keeper =
        Echo::answering(&distributor, "keeper", &["GET/kept", "GET/echo"], |request: &ReceivedRequest| {
            if request.packet["uri"] == "/echo" {
                request.echo();
            }
        });
    await_instances(&gateway, "GET", "/kept", 1);
    let mut client = gateway.http().connect();
    client.send_request("GET", "/kept/late", &[], b"");
    assert_eq!(client.receive().unwrap().status, 504);
    let late = keeper.await_requests(1).remove(0);
    let left = late.packet["deadline_ms"].as_u64().unwrap();
    assert!(left <= 300, "the deadline must be the gateway's remaining wait, not {left}");
    late.echo();
    gateway.await_log(&[&format!("orphan reply, key {}", late.key())]);
    client.send_request("GET", "/echo/next", &[], b"");
    assert_eq!(client.receive().unwrap().results()["params"]["params"], "next");
}

#[test]
fn a_write_past_its_deadline_is_not_started() {
    let system = System::start();
    let mut packets = system.users[0].packets();
    let params = json!({ "email": "kim@example.com", "name": "Kim" });
    packets.send(&json!({ "uri": "/users", "method": "POST", "key": 1, "deadline_ms": 0, "params": params }));
    let reply = packets.receive().unwrap();
    assert!(reply["errorcode"].as_u64().is_some_and(|code| code >= 500), "{reply}");
    assert_eq!(packets.call("GET", "/users", &json!({}), 2)["results"], json!([]));
}

#[test]
fn a_read_whose_link_is_lost_is_retried_and_a_write_is_not() {
    let urls = ["GET/echo", "POST/echo"];
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let fickle = Echo::answering(&distributor, "echo", &urls, ReceivedRequest::hang_up);
    await_instances(&gateway, "GET", "/echo", 1);
    // No other instance exists.
    assert_eq!(gateway.http().get("/echo").status, 502);
    let steady = Echo::start(&distributor, "echo", &urls);
    await_instances(&gateway, "GET", "/echo", 2);
    let ask = |method| gateway.http().request(method, "/echo", &[], b"").status;
    let mut reads = (0..2).map(|_| ask("GET"));
    assert!(reads.all(|status| status == 200), "either of the two may be first");
    assert_eq!((fickle.requests().len(), steady.requests().len()), (2, 2));
    await_instances(&gateway, "POST", "/echo", 2);
    let mut writes: Vec<u16> = (0..2).map(|_| ask("POST")).collect();
    writes.sort_unstable();
    assert_eq!(writes, [200, 502]);
    assert_eq!((fickle.requests().len(), steady.requests().len()), (3, 3), "each write was sent once");
}

#[test]
fn a_read_that_is_silent_for_half_of_its_time_is_given_up_and_asked_of_another_instance() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "4"]);
    let silent = keeper(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "GET", "/echo", 1);
    let slow = ask(&gateway, "/echo/first");
    let first = silent.await_requests(1).remove(0);
    let other = Echo::start(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "GET", "/echo", 2);
    let answer = slow.join().unwrap();
    assert_eq!((answer.status, &answer.results()["params"]["params"]), (200, &json!("first")));
    assert_eq!((silent.requests().len(), other.requests().len()), (1, 1));
    gateway.await_log(&["no reply yet", "trying"]);
    // No request waits for the first instance any more.
    first.echo();
    gateway.await_log(&["orphan reply"]);
}

#[test]
fn a_service_that_breaks_the_protocol_loses_its_link_and_gets_a_new_one() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--max-frame", "1000"]);
    let long = format!("{{\"a\":\"{}", "x".repeat(1000));
    let breaches: [(&str, Vec<u8>, &str); 7] = [
        ("long", long.into_bytes(), "too long"),
        ("latin1", b"{\"key\":1,\"name\":\"\xf6\"}\xc2\xb6".to_vec(), "not UTF-8"),
        ("garbage", "garbage¶".as_bytes().to_vec(), "not one JSON object"),
        ("array", "[{\"key\":1}]¶".as_bytes().to_vec(), "not one JSON object"),
        ("null", "null¶".as_bytes().to_vec(), "not one JSON object"),
        (
            "raw",
            "{\"key\":1,\"errorcode\":0,\"results\":\"a¶b\"}¶".as_bytes().to_vec(),
            "not one JSON object",
        ),
        ("half", "{\"key\":1,\"errorcode\":0}".as_bytes().to_vec(), "ended inside a frame"),
    ];
    let bystander = keeper(&distributor, "bystander", &["GET/bystander"]);
    await_instances(&gateway, "GET", "/bystander", 1);
    let pending = ask(&gateway, "/bystander");
    bystander.await_requests(1);
    let services: Vec<(String, Echo, &str)> = breaches
        .into_iter()
        .map(|(name, bytes, reason)| {
            let answer = move |request: &ReceivedRequest| match request.params()["params"].as_str() {
                Some("break") => {
                    request.raw(&bytes);
                    if !bytes.ends_with("¶".as_bytes()) && bytes.len() < 1000 {
                        request.hang_up();
                    }
                }
                _ => request.echo(),
            };
            let service = Echo::answering(&distributor, name, &[&format!("GET/{name}")], answer);
            await_instances(&gateway, "GET", &format!("/{name}"), 1);
            (format!("/{name}"), service, reason)
        })
        .collect();
    for (path, service, reason) in &services {
        assert_eq!(gateway.http().get(&format!("{path}/break")).status, 502, "{path}");
        let line = gateway.await_log(&[&format!("link 127.0.0.1:{}: closed", service.port())]);
        assert!(
            line.contains("WARN") && line.contains(reason) && line.contains("limit 1000, begins: "),
            "{line}"
        );
    }
    for (path, service, _) in &services {
        await_instances(&gateway, "GET", path, 1);
        assert_eq!(gateway.http().get(&format!("{path}/well")).status, 200, "{path}");
        assert_eq!(service.requests().len(), 2);
    }
    assert_eq!(bystander.connections(), 1);
    bystander.requests()[0].echo();
    assert_eq!(pending.join().unwrap().status, 200);
}

// ---- shutdown

#[test]
fn a_gateway_that_shuts_down_answers_requests_that_have_begun() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let keeper = keeper(&distributor, "keeper", &["GET/kept", "POST/kept"]);
    await_instances(&gateway, "GET", "/kept", 1);
    let address = gateway.address();
    let pending: Vec<_> = (0..3).map(|_| ask(&gateway, "/kept")).collect();
    let requests = keeper.await_requests(3);
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("it accepts no further connection", || std::net::TcpStream::connect(address).err());
    requests.iter().for_each(ReceivedRequest::echo);
    for pending in pending {
        assert_eq!(pending.join().unwrap().status, 200);
    }
    assert_eq!(gateway.stop().code(), Some(0));
}

#[test]
fn a_service_that_shuts_down_answers_requests_that_have_begun() {
    let system = System::start();
    let mut packets = system.users[0].packets();
    assert_eq!(packets.call("GET", "/users", &json!({}), 9)["errorcode"], 0);
    // Hashing a password takes time, and the shutdown must not interrupt it.
    let logins = 1..=4_u64;
    for key in logins.clone() {
        let params =
            json!({ "email": format!("kim{key}@example.com"), "name": "Kim", "password": "hunter22" });
        packets.send(&json!({ "uri": "/users", "method": "POST", "key": key, "params": params }));
    }
    let System { mut users, gateway: _gateway, distributor: _distributor, scratch: _scratch } = system;
    let ending = thread::spawn(move || users.remove(0).stop());
    let mut keys: Vec<Value> = std::iter::from_fn(|| packets.receive())
        .map(|reply| {
            assert_eq!(reply["errorcode"], 0, "{reply}");
            reply["key"].clone()
        })
        .collect();
    keys.sort_by_key(Value::as_u64);
    assert_eq!(keys, logins.map(Value::from).collect::<Vec<_>>());
    assert_eq!(ending.join().unwrap().code(), Some(0));
}
