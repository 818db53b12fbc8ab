//! Registrations that ask for what belongs to others.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::harness::{Echo, Packets, Process, System, await_instances, eventually};

/// Registers with a key, so that there is an answer: its code and its words.
fn claim(packets: &mut Packets, name: &str, port: u16, urls: &Value, key: u64) -> (u64, String) {
    let params = json!({ "port": port, "name": name, "urls": urls, "proto": "pilcrow/1" });
    let reply = packets.call("POST", "/distributes", &params, key);
    let words = reply["errormessage"].as_str().unwrap_or_default().to_owned();
    (reply["errorcode"].as_u64().unwrap(), words)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().filter_map(|entry| entry["name"].as_str()).collect()
}

/// The names of those who are listed.
fn listed(distributor: &Process) -> Vec<String> {
    let reply = distributor.packets().call("GET", "/distributes", &json!({}), 1);
    names(&reply["results"]).into_iter().map(str::to_owned).collect()
}

#[test]
fn a_route_of_another_service_is_refused_while_its_owner_lives_and_admitted_by_itself_afterwards() {
    let mut system = System::with(2, &[]);
    let user = system.create_user("kim@example.com", "Kim");
    let ports = [system.users[0].port(), system.users[1].port()];
    let thief = Echo::start(&system.distributor, "thief", &["GET/thief", "GET/users"]);
    let line = system.distributor.await_log(&["WARN", "registration refused", "thief", "GET/users"]);
    let me = thief.membership.stream().local_addr().unwrap().to_string();
    let owner = ports.iter().any(|port| line.contains(&format!("belongs to users at 127.0.0.1:{port}")));
    assert!(owner && line.contains(&me), "{line}");
    // Nor do those who answer to a key get more than words.
    let mut asking = system.distributor.packets();
    let (code, words) = claim(&mut asking, "second thief", 9, &json!(["DELETE/users"]), 1);
    assert_eq!(code, 409, "{words}");
    assert!(words.contains("the route DELETE/users belongs to users at 127.0.0.1:"), "{words}");
    drop(asking);

    let whole = || system.http().get("/users/1").results() == user;
    assert!((0..20).all(|_| whole()));
    system.users.remove(0).kill();
    system.await_instances("GET", "/users", 1);
    assert!((0..20).all(|_| system.http().get("/users/1").results() == user), "one instance is owner enough");
    assert_eq!(system.http().get("/thief").status, 404);
    assert!(thief.asked().is_empty());

    // It has waited all the time and needs no restart: the last owner goes, and it is there.
    system.users.remove(0).kill();
    system.distributor.await_log(&["registered, after it had waited: thief at", "GET/thief GET/users"]);
    await_instances(&system.gateway, "GET", "/thief", 1);
    eventually("the routes are its own", || (system.http().get("/users").status == 200).then_some(()));
    assert_eq!(thief.asked()[0].packet["uri"], "/users");
}

#[test]
fn who_waits_is_told_who_there_is_and_who_leaves_does_not_wait_any_more() {
    let distributor = Process::distributor(&[]);
    let mut owner = Echo::start(&distributor, "goods", &["GET/goods"]);
    owner.membership.await_list(|list| !list.is_empty());
    let mut waiting = distributor.packets();
    assert_eq!(claim(&mut waiting, "wares", 9001, &json!(["GET/goods"]), 1).0, 409);
    // It reads the lists like everybody else, for it may have calls to make.
    let other = Echo::start(&distributor, "other", &["GET/other"]);
    let names_in = |list: &[Value]| names(&Value::from(list)).join(" ");
    waiting.await_list(|list| names_in(list) == "goods other");
    drop(waiting);
    distributor.await_log(&["gone; it was in no list"]);
    drop(owner);
    eventually("the owner is gone", || (listed(&distributor) == ["other"]).then_some(()));
    drop(other);
    assert!(!distributor.log().iter().any(|line| line.contains("after it had waited")));
}

#[test]
fn an_address_is_not_listed_under_a_name_that_is_not_its_owners() {
    let system = System::start();
    let mut evil = system.distributor.packets();
    let port = system.users[0].port();
    for (key, urls) in (1..).zip([json!(["GET/evil"]), json!([])]) {
        let (code, words) = claim(&mut evil, "evil", port, &urls, key);
        assert_eq!(code, 409, "{words}");
        assert!(words.contains(&format!("the address 127.0.0.1:{port} belongs to users")), "{words}");
    }
    let params = json!({ "port": port, "name": "evil", "urls": [], "advertise": "127.0.0.1" });
    assert_eq!(evil.call("POST", "/distributes", &params, 3)["errorcode"], 409);
    assert_eq!(system.http().get("/users").status, 200);
    assert_eq!(listed(&system.distributor).iter().filter(|name| *name == "evil").count(), 0);
}

#[test]
fn a_refused_registration_leaves_the_one_before_it_as_it_was() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let _goods = Echo::start(&distributor, "goods", &["GET/goods"]);
    let mut echo = Echo::start(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "GET", "/goods", 1);
    await_instances(&gateway, "GET", "/echo", 1);
    let port = echo.port();
    let attempts = [
        (json!(["GET/goods"]), 409),
        (json!(["GET/healthz"]), 403),
        (json!((0..10_000).map(|number| format!("GET/{number}")).collect::<Vec<_>>()), 400),
    ];
    for (key, (urls, code)) in (1..).zip(attempts) {
        assert_eq!(claim(&mut echo.membership, "echo", port, &urls, key).0, code);
        assert_eq!(gateway.http().get("/echo/1").results()["params"]["params"], "1");
    }
    assert_eq!(listed(&distributor), ["gate", "goods", "echo"]);
}

#[test]
fn nobody_can_take_the_gateways_own_names_nor_have_routes_under_its_name() {
    let distributor = Process::distributor(&[]);
    let mut thief = distributor.packets();
    let paths = ["/healthz", "/readyz", "/routes", "/metrics"];
    let methods = ["GET", "HEAD", "POST", "DELETE", "X-ANY"];
    let stolen = paths.iter().flat_map(|path| methods.map(|method| format!("{method}{path}")));
    for (key, url) in (1..).zip(stolen) {
        let (code, words) = claim(&mut thief, "thief", 9001, &json!(["GET/own", url]), key);
        assert_eq!(code, 403, "{url}: {words}");
        assert!(words.contains(&format!("{url} is the gateway's own")), "{words}");
    }
    let (code, words) = claim(&mut thief, "gate", 9001, &json!(["GET/own"]), 99);
    assert!(code == 403 && words.contains("nothing called gate may register GET/own"), "{code}: {words}");
    distributor.await_log(&["WARN", "thief: GET/healthz is the gateway's own"]);
    assert_eq!(listed(&distributor), [""; 0]);
}

#[test]
fn a_distributor_that_permits_it_gives_nobody_the_gateways_own_names_either() {
    let ours = Process::distributor(&[]);
    let thief = Echo::start(&ours, "thief", &["GET/thief"]);
    let played = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Process::gateway_at(&played.local_addr().unwrap().to_string(), &[]);
    let mut joined = Packets::on(played.accept().unwrap().0);
    let urls = ["GET/healthz", "POST/healthz", "GET/readyz", "GET/routes", "GET/thief"];
    let entry = json!({ "port": thief.port(), "host": "127.0.0.1", "name": "thief", "urls": urls });
    joined.send(&json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": [entry] }));
    await_instances(&gateway, "GET", "/thief", 1);
    assert_eq!(gateway.http().get("/healthz").results(), "serving");
    assert_eq!(gateway.http().get("/readyz").results(), "ready");
    assert!(gateway.http().get("/routes").results().is_array());
    assert_eq!(gateway.http().request("POST", "/healthz", &[], b"").status, 405);
    assert!(thief.asked().is_empty());
}

#[test]
fn ten_thousand_routes_of_one_node_are_refused_and_a_thousand_are_taken() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let routes = |count: usize| json!((0..count).map(|number| format!("GET/r{number}")).collect::<Vec<_>>());
    let mut greedy = distributor.packets();
    for (key, count) in [(1, 10_000), (2, 1001)] {
        let (code, words) = claim(&mut greedy, "greedy", 9001, &routes(count), key);
        assert_eq!(code, 400);
        assert!(words.contains(&format!("urls must have at most 1000 entries, not {count}")), "{words}");
    }
    distributor.await_log(&["WARN", "at most 1000 entries, not 10000"]);
    assert_eq!(claim(&mut greedy, "greedy", 9001, &routes(1000), 3).0, 0);
    eventually("the gateway knows all of them", || {
        (gateway.http().get("/routes").results().as_array().unwrap().len() == 1000).then_some(())
    });
}

#[test]
fn no_registration_makes_the_list_longer_than_those_who_read_it_can_take() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let mut hoarders: Vec<Packets> = (0..4).map(|_| distributor.packets()).collect();
    let mut refused = 0;
    for (hoarder, port) in hoarders.iter_mut().zip(9001..) {
        let ballast = "x".repeat(400_000);
        let params =
            json!({ "port": port, "name": "hoarder", "urls": [], "ballast": ballast, "proto": "pilcrow/1" });
        let reply = hoarder.call("POST", "/distributes", &params, 1);
        refused += usize::from(reply["errorcode"] == 413);
    }
    assert_eq!(refused, 2);
    distributor.await_log(&["WARN", "hoarder: with it the list could have"]);
    // Everybody still follows the list.
    let _late = Echo::start(&distributor, "late", &["GET/late"]);
    await_instances(&gateway, "GET", "/late", 1);
    assert!(!gateway.log().iter().any(|line| line.contains("too long")), "{:#?}", gateway.log());
}

#[test]
fn what_stands_in_names_and_routes_can_forge_no_line_and_no_header() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let _owner = Echo::start(&distributor, "own\r\n2026 WARN er", &["GET/echo", "GET/nul"]);
    await_instances(&gateway, "GET", "/echo", 1);
    let mut forger = distributor.packets();
    let name = "f\r\n2026-11-22 WARN forged\u{1b}[2J\0\u{85}";
    let urls =
        json!(["GET/echo", "G\r\nX: y/echo", "GET/a\r\nb", "GET/nul\0", "\u{1b}/esc", "G,T/echo", "", "/"]);
    let (code, words) = claim(&mut forger, name, 9001, &urls, 1);
    assert!(code == 409 && words.contains("GET/echo belongs to own\r\n2026"), "{words}");
    let free: Vec<&Value> = urls.as_array().unwrap().iter().skip(1).collect();
    assert_eq!(claim(&mut forger, name, 9001, &json!(free), 2).0, 0);
    // None of that can be asked for; the list has been taken in once the node is dialled.
    gateway.await_log(&["127.0.0.1:9001"]);
    let answer = gateway.http().request("POST", "/echo", &[], b"");
    assert_eq!((answer.status, answer.header("Allow"), answer.header("X")), (405, Some("GET, HEAD"), None));
    drop(forger);
    distributor.await_log(&["gone", "forged"]);
    for process in [&distributor, &gateway] {
        for line in process.log() {
            assert!(
                !line.contains(char::is_control) && !line.starts_with("2026-11-22 WARN forged"),
                "{line:?}"
            );
        }
    }
}
